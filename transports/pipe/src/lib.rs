//! Tidegate between processes of one machine, over Unix domain sockets: a transport in a crate of its own, written
//! against the public API of `tidegate` alone. Its address is `/unix/NAME`, a socket in a folder that both
//! processes know; with the name `0` a free one is taken.
//!
//! ```no_run
//! # fn with_pipe(builder: tidegate::Builder) -> tidegate::Builder {
//! builder.transport(|setup| Ok(tidegate_pipe::Pipe::new(setup, "/run/my-network")))
//! # }
//! ```
//!
//! # Not guaranteed
//!
//! Secrecy, or integrity against whoever owns the socket that is dialed: both ends prove who they are, and what
//! follows is theirs only if nobody in between reads and writes it. The folder must be one in which strangers have no
//! sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tidegate::id::{ConnectionId, DialId, PeerId};
use tidegate::io::{Connected, DialError, Direction, Input};
use tidegate::transport::{
    Dial, Happening, ListenError, Place, Setup, Traffic, new_connection_id, to_core,
};
use tidegate::wire::{Binding, Frame};
use tidegate::{Multiaddr, Transport};
use tokio::net::{UnixListener, UnixStream};

mod connection;
mod handshake;

use connection::{Connection, Event};
use handshake::Proven;

/// Tidegate's transport over Unix domain sockets.
pub struct Pipe {
    setup: Setup,
    folder: PathBuf,
    listeners: BTreeMap<String, UnixListener>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Handshakes of both directions.
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Inbound handshakes in progress.
    accepting: u32,
    dials: BTreeSet<DialId>,
    happened: VecDeque<Happening>,
    /// Traffic of closed connections.
    past: Traffic,
    /// The connection to poll first.
    turn: usize,
}

/// A completed handshake.
enum Done {
    Accepted(Option<Proven>),
    Dialed(DialId, Multiaddr, Result<Proven, DialError>),
}

impl Pipe {
    /// A transport for a node, with its sockets in a folder.
    pub fn new(setup: &Setup, folder: impl AsRef<Path>) -> Self {
        Self {
            setup: setup.clone(),
            folder: folder.as_ref().to_owned(),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            work: FuturesUnordered::new(),
            accepting: 0,
            dials: BTreeSet::new(),
            happened: VecDeque::new(),
            past: Traffic::default(),
            turn: 0,
        }
    }

    /// Binds a socket in the folder. A stale one, on which no process listens any more, is
    /// replaced.
    fn bind(&self, name: &str) -> io::Result<UnixListener> {
        let path = self.folder.join(name);
        let bound = UnixListener::bind(&path);
        if bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
            && std::os::unix::net::UnixStream::connect(&path).is_err()
        {
            std::fs::remove_file(&path)?;
            return UnixListener::bind(&path);
        }
        bound
    }

    fn accept(&mut self, stream: UnixStream) {
        // Connections without a proven identity take no place from others.
        if self.accepting >= self.setup.limits.handshakes || self.setup.places.is_full() {
            return;
        }
        self.accepting += 1;
        let (setup, patience) = (self.setup.clone(), self.setup.limits.handshake_timeout);
        self.work.push(Box::pin(async move {
            let proven = handshake::accept(stream, &setup.identity);
            let proven = tokio::time::timeout(patience, proven).await;
            Done::Accepted(proven.ok().and_then(Result::ok))
        }));
    }

    fn connected(
        &mut self,
        Proven { stream, peer, binding }: Proven,
        direction: Direction,
        address: &Multiaddr,
        place: Place,
    ) {
        let id = new_connection_id();
        self.connections.insert(id, Connection::new(stream, place));
        let binding = Binding::Exporter(binding);
        let connected = Connected::new(id, peer, direction, to_core(address), binding);
        self.happened.push_back(Input::Connected(connected).into());
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Accepted(proven) => {
                self.accepting -= 1;
                // Others may have taken the last places meanwhile.
                if let Some((proven, place)) = proven.zip(self.setup.places.take()) {
                    // A dialer has no address of its own.
                    let nowhere = address("dialer");
                    self.connected(proven, Direction::Inbound, &nowhere, place);
                }
            }
            // The dial was cancelled.
            Done::Dialed(dial, ..) if !self.dials.remove(&dial) => {}
            Done::Dialed(dial, at, Ok(proven)) => {
                let place = self.setup.places.add();
                self.connected(proven, Direction::Outbound(dial), &at, place);
            }
            Done::Dialed(dial, _, Err(error)) => {
                self.happened.push_back(Input::DialFailed { dial, error }.into());
            }
        }
    }

    fn poll_connections(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        let all = self.connections.keys().copied().collect::<Vec<_>>();
        for n in 0..all.len() {
            let id = all[(self.turn + n) % all.len()];
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let Poll::Ready(event) = connection.poll(cx) else { continue };
            self.turn = (self.turn + n + 1) % all.len();
            let input = match event {
                Event::Frame(channel, frame) => Input::Frame { connection: id, channel, frame },
                Event::Writable(channel) => Input::Writable { connection: id, channel },
                Event::Closed => {
                    self.past += connection.traffic();
                    self.connections.remove(&id);
                    Input::Closed { connection: id }
                }
            };
            return Poll::Ready(input.into());
        }
        Poll::Pending
    }
}

/// The name in an address of this transport.
fn name_of(address: &Multiaddr) -> Option<String> {
    let text = address.to_string();
    let name = text.strip_prefix("/unix/")?;
    let is_one = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    is_one.then(|| name.to_owned())
}

fn address(name: &str) -> Multiaddr {
    format!("/unix/{name}").parse().expect("a name without a slash is one part")
}

impl Transport for Pipe {
    fn handles(&self, address: &Multiaddr) -> bool {
        name_of(address).is_some()
    }

    fn listen(&mut self, at: &Multiaddr) -> Result<(), ListenError> {
        let name = name_of(at).ok_or_else(|| ListenError::Unsupported(at.clone()))?;
        let free = || (1..).map(|n| format!("{}-{n}", std::process::id()));
        let name = match &*name {
            "0" => free().find(|name| !self.folder.join(name).exists()).unwrap_or(name),
            _ => name,
        };
        let bound = self.bind(&name);
        let bound = bound.map_err(|source| ListenError::Io { address: at.clone(), source })?;
        self.listeners.insert(name, bound);
        self.happened.push_back(Happening::Addresses);
        Ok(())
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.listeners.keys().map(|name| address(name)).collect()
    }

    fn dial(&mut self, dial: Dial) {
        let Dial { id, address, peer, patience, .. } = dial;
        self.dials.insert(id);
        let path = name_of(&address).map(|name| self.folder.join(name));
        let identity = self.setup.identity.clone();
        self.work.push(Box::pin(async move {
            let result = match path {
                None => Err(DialError::UnsupportedAddress),
                Some(path) => connect(&path, &identity, peer, patience).await,
            };
            Done::Dialed(id, address, result)
        }));
    }

    fn cancel(&mut self, dial: DialId) {
        self.dials.remove(&dial);
    }

    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.send(channel, frame);
        }
    }

    fn open(&mut self, connection: ConnectionId, channel: u32) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.open(channel);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.close();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        // One at a time: a client that connects in a loop must not delay the others.
        let mut may_accept = true;
        loop {
            if let Some(happening) = self.happened.pop_front() {
                return Poll::Ready(happening);
            }
            if let Poll::Ready(Some(done)) = self.work.poll_next_unpin(cx) {
                self.on_done(done);
                continue;
            }
            if let Poll::Ready(happening) = self.poll_connections(cx) {
                return Poll::Ready(happening);
            }
            if !may_accept {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let accepted =
                self.listeners.values().find_map(|listener| match listener.poll_accept(cx) {
                    Poll::Ready(Ok((stream, _))) => Some(stream),
                    Poll::Ready(Err(_)) | Poll::Pending => None,
                });
            let Some(stream) = accepted else { return Poll::Pending };
            self.accept(stream);
            may_accept = false;
        }
    }

    fn traffic(&self) -> Traffic {
        self.connections.values().fold(self.past, |mut sum, connection| {
            sum += connection.traffic();
            sum
        })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for name in self.listeners.keys() {
            // Without the file others cannot connect either way, since no process listens.
            let _ = std::fs::remove_file(self.folder.join(name));
        }
    }
}

async fn connect(
    path: &Path,
    identity: &tidegate::Identity,
    peer: Option<PeerId>,
    patience: Duration,
) -> Result<Proven, DialError> {
    let connecting = async {
        let stream = UnixStream::connect(path).await.map_err(DialError::because)?;
        let proven = handshake::dial(stream, identity).await.map_err(DialError::because)?;
        if peer.is_none_or(|peer| peer == proven.peer) {
            Ok(proven)
        } else {
            Err(DialError::WrongPeer)
        }
    };
    tokio::time::timeout(patience, connecting).await.unwrap_or(Err(DialError::TimedOut))
}
