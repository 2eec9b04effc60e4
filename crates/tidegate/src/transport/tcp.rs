//! TCP with TLS 1.3, for networks without UDP: [`mux`](super::mux) on one stream.
//!
//! Identities are proven as over QUIC ([`secure`]). A dialer's handshake is complete before the listener has checked
//! who dials, so the listener says in one byte that it has a place (specification section 4.3).
//!
//! # Not guaranteed
//!
//! That a lost packet delays one channel only: all of them are on one stream. Where UDP passes, QUIC is better.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use multiaddr::Multiaddr;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_proto::Limits;
use tidegate_proto::id::{ConnectionId, DialId, PeerId};
use tidegate_proto::io::{Connected, DialError, Direction, Input, Path};
use tidegate_proto::wire::{Binding, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub use super::dialing::Resolver;
use super::dialing::{Name, first_of, system_resolver};
use super::form::Form;
use super::incoming::{Incoming, Verdict, network_group};
use super::mux::Mux;
use super::outbox::Outbox;
use super::secure::{self, TlsError};
use super::{
    BoxFuture, Dial, Happening, ListenError, Place, Places, Setup, Traffic, Transport,
    new_connection_id, to_core,
};
use crate::rt::{self, Instant};

mod counted;
mod link;

use counted::Counted;
use link::{Link, Order};

/// Connections that the system has accepted, and the node has not looked at yet.
const BACKLOG: i32 = 128;
/// How many of them the node looks at before others have their turn.
const ACCEPTS: usize = 8;
/// What a listener says when it has checked who dials, and has a place. R4.3.2
const ACCEPTED: u8 = 1;

type Stream = TlsStream<Counted>;

/// TCP with TLS 1.3.
pub struct Tcp {
    server: Arc<rustls::ServerConfig>,
    client: rustls::ClientConfig,
    limits: Limits,
    places: Places,
    resolver: Resolver,
    outbox: Arc<Outbox>,
    listeners: Vec<(SocketAddr, TcpListener)>,
    incoming: Incoming,
    /// Dials in progress; dropping one cancels it.
    dials: BTreeMap<DialId, oneshot::Sender<()>>,
    connections: BTreeMap<ConnectionId, UnboundedSender<Order>>,
    work: FuturesUnordered<BoxFuture<Done>>,
    /// Each task has one: so that the end of all of them shows.
    alive: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
    /// Events of this transport itself.
    happened: VecDeque<Happening>,
}

/// A completed task.
enum Done {
    Accepted(u64, SocketAddr, Option<Stream>),
    Dialed(DialId, Result<(Stream, SocketAddr), DialError>),
}

impl Tcp {
    /// A transport for a node: `builder.transport(|setup| Ok(Tcp::new(setup)?))`. R4.3.1
    ///
    /// # Errors
    ///
    /// If TLS cannot be set up, which is caused by this build.
    pub fn new(setup: &Setup) -> Result<Self, TlsError> {
        let (alive, ended) = mpsc::channel(1);
        Ok(Self {
            server: Arc::new(secure::server(&setup.identity)?),
            client: secure::client(&setup.identity, None)?,
            limits: setup.limits.clone(),
            places: setup.places.clone(),
            resolver: system_resolver(),
            outbox: Arc::new(Outbox::default()),
            listeners: Vec::new(),
            // A closed connection is the system's.
            incoming: Incoming::new(Instant::now(), |_| std::time::Duration::ZERO),
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
            work: FuturesUnordered::new(),
            alive,
            ended,
            happened: VecDeque::new(),
        })
    }

    /// Sets another resolver than the system's.
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    fn on_incoming(&mut self, stream: TcpStream, from: SocketAddr) {
        let (now, group) = (Instant::now(), Some(network_group(from.ip())));
        if self.places.is_full()
            || self.incoming.verdict(now, 0, &[], group, false) != Verdict::Begin
        {
            return;
        }
        let (number, wait, given_up) = self.incoming.begin(now, group);
        let (patience, server) = (self.limits.handshake_timeout, self.server.clone());
        let stream = prepare(stream, &self.limits, &self.outbox);
        self.work.push(Box::pin(async move {
            if !wait.is_zero() {
                rt::sleep(wait).await;
            }
            let accepting =
                Box::pin(rt::within(patience, TlsAcceptor::from(server).accept(stream)));
            let accepted = match select(accepting, given_up).await {
                Either::Left((accepted, _)) => accepted.and_then(Result::ok),
                Either::Right(_) => None,
            };
            Done::Accepted(number, from, accepted.map(TlsStream::from))
        }));
    }

    fn on_accepted(&mut self, number: u64, from: SocketAddr, stream: Option<Stream>) {
        let began = self.incoming.end(number);
        let peer = stream.as_ref().and_then(peer_of);
        let place = peer.and_then(|_| self.places.take());
        match (stream, peer, place) {
            (Some(stream), Some(peer), Some(place)) => {
                let first = Bytes::from_static(&[ACCEPTED]);
                self.connected(stream, peer, Direction::Inbound, from, place, first);
            }
            _ => {
                let group = Some(network_group(from.ip()));
                self.incoming.has_come_to_nothing(Instant::now(), began, group);
            }
        }
    }

    fn connected(
        &mut self,
        stream: Stream,
        peer: PeerId,
        direction: Direction,
        from: SocketAddr,
        place: Place,
        first: Bytes,
    ) {
        let exported = match &stream {
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material([0; 32], secure::EXPORTER_LABEL, None)
            }
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material([0; 32], secure::EXPORTER_LABEL, None)
            }
        };
        let Ok(exporter) = exported else {
            if let Direction::Outbound(dial) = direction {
                let error = DialError::Unreachable;
                self.happened.push_back(Input::DialFailed { dial, error }.into());
            }
            return;
        };
        let (orders, inbox) = mpsc::unbounded_channel();
        let connection = new_connection_id();
        self.connections.insert(connection, orders);
        let address = to_core(&Form::Tls.address(from));
        let connected =
            Connected::new(connection, peer, direction, address, Binding::Exporter(exporter));
        self.outbox.give(Input::Connected(connected.by(Path::Adapted)));
        let link = Link {
            stream,
            connection,
            orders: inbox,
            outbox: self.outbox.clone(),
            mux: Mux::new(),
            writing: first,
            unflushed: false,
            closing: None,
        };
        let alive = self.alive.clone();
        rt::spawn(async move {
            link.run().await;
            drop((place, alive));
        });
    }

    fn on_dialed(&mut self, dial: DialId, result: Result<(Stream, SocketAddr), DialError>) {
        // Cancelled ones end with nothing.
        if self.dials.remove(&dial).is_none() {
            return;
        }
        let reached = result.and_then(|(stream, at)| {
            let peer = peer_of(&stream).ok_or(DialError::WrongPeer)?;
            Ok((stream, at, peer))
        });
        match reached {
            Ok((stream, at, peer)) => {
                let place = self.places.add();
                self.connected(stream, peer, Direction::Outbound(dial), at, place, Bytes::new());
            }
            Err(error) => self.happened.push_back(Input::DialFailed { dial, error }.into()),
        }
    }

    /// Accepts what has arrived, a few at a time.
    fn poll_accept(&mut self, cx: &mut Context<'_>) {
        for at in 0..self.listeners.len() {
            let mut left = ACCEPTS;
            while let Poll::Ready(accepted) = self.listeners[at].1.poll_accept(cx) {
                // An error is of one connection, or of the system's limits: the next poll goes on.
                if let Ok((stream, from)) = accepted {
                    self.on_incoming(stream, from);
                }
                left -= 1;
                if left == 0 {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
        }
    }
}

/// Errors would only make it slower.
fn prepare(stream: TcpStream, limits: &Limits, outbox: &Arc<Outbox>) -> Counted {
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(&stream);
    // What is sent late is fresh: no more than that waits in the system.
    let _ = socket.set_send_buffer_size(limits.send_window as usize);
    let _ = socket.set_recv_buffer_size(limits.receive_window as usize);
    Counted::new(stream, outbox.clone())
}

fn peer_of(stream: &Stream) -> Option<PeerId> {
    let certificates = match stream {
        TlsStream::Client(stream) => stream.get_ref().1.peer_certificates(),
        TlsStream::Server(stream) => stream.get_ref().1.peer_certificates(),
    };
    secure::peer(certificates?)
}

/// Listens, so that a node that restarts finds its port.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Elsewhere than on Unix it would let two nodes have one port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to one address, and waits until the listener has a place.
async fn reach(
    to: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    prepare: impl FnOnce(TcpStream) -> Counted,
) -> Result<(Stream, SocketAddr), DialError> {
    let stream = TcpStream::connect(to).await.map_err(|error| dial_error(&error))?;
    let name = ServerName::try_from("tidegate").expect("it is a name");
    let connecting = TlsConnector::from(client).connect(name, prepare(stream));
    let mut stream = connecting.await.map_err(|error| dial_error(&error))?;
    // A refusal shows at the first read (RFC 8446 section 4.4.2.4).
    let first = stream.read_u8().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => DialError::because("the peer has no place"),
        _ => dial_error(&error),
    })?;
    if first != ACCEPTED {
        let _ = stream.shutdown().await;
        return Err(DialError::because("the peer speaks another protocol over TCP"));
    }
    Ok((stream.into(), to))
}

fn dial_error(error: &std::io::Error) -> DialError {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(error) if secure::is_wrong_peer(error) => DialError::WrongPeer,
        Some(error) => DialError::because(error.to_string()),
        None => DialError::Unreachable,
    }
}

impl Transport for Tcp {
    fn handles(&self, address: &Multiaddr) -> bool {
        Form::Tls.socket(address).is_some() || Name::of(Form::Tls, address).is_some()
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        let at = Form::Tls.socket(address);
        let at = at.ok_or_else(|| ListenError::Unsupported(address.clone()))?;
        let failed = |source| ListenError::Io { address: address.clone(), source };
        let listener = listen(at).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.listeners.push((bound, listener));
        self.happened.push_back(Happening::Addresses);
        Ok(())
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.listeners.iter().map(|(bound, _)| Form::Tls.address(*bound)).collect()
    }

    fn dial(&mut self, dial: Dial) {
        let Dial { id, address, peer, patience, .. } = dial;
        let client = match peer {
            Some(peer) => secure::expect(&self.client, peer),
            None => self.client.clone(),
        };
        let (given, client) = (Form::Tls.socket(&address), Arc::new(client));
        let (name, resolver) = (Name::of(Form::Tls, &address), self.resolver.clone());
        let (going, given_up) = oneshot::channel();
        self.dials.insert(id, going);
        let (outbox, limits) = (self.outbox.clone(), self.limits.clone());
        let prepare = move |stream| prepare(stream, &limits, &outbox);
        self.work.push(Box::pin(async move {
            let dialing = async {
                let sockets = match (given, name) {
                    (Some(socket), _) => vec![socket],
                    (None, Some(name)) => name.resolve(resolver).await,
                    (None, None) => Vec::new(),
                };
                let attempts = sockets.into_iter().map(|to| reach(to, client.clone(), &prepare));
                first_of(attempts, patience).await
            };
            let dialing = Box::pin(rt::within(patience, dialing));
            let result = match select(dialing, given_up).await {
                Either::Left((result, _)) => result.unwrap_or(Err(DialError::TimedOut)),
                Either::Right(_) => Err(DialError::TimedOut),
            };
            Done::Dialed(id, result)
        }));
    }

    fn cancel(&mut self, dial: DialId) {
        self.dials.remove(&dial);
    }

    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame) {
        self.order(connection, Order::Send(channel, frame));
    }

    fn open(&mut self, connection: ConnectionId, channel: u32) {
        self.order(connection, Order::Open(channel));
    }

    fn close(&mut self, connection: ConnectionId) {
        self.order(connection, Order::Close);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        loop {
            self.poll_accept(cx);
            if let Some(happening) = self.happened.pop_front() {
                return Poll::Ready(happening);
            }
            match self.work.poll_next_unpin(cx) {
                Poll::Ready(Some(Done::Accepted(number, from, stream))) => {
                    self.on_accepted(number, from, stream);
                    continue;
                }
                Poll::Ready(Some(Done::Dialed(dial, result))) => {
                    self.on_dialed(dial, result);
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            let happening = std::task::ready!(self.outbox.poll(cx));
            if let Happening::Input(Input::Closed { connection }) = &happening {
                self.connections.remove(connection);
            }
            return Poll::Ready(happening);
        }
    }

    fn shut_down(&mut self) -> BoxFuture<()> {
        self.listeners.clear();
        self.dials.clear();
        self.work.clear();
        self.connections.clear();
        // Only the tasks have others.
        let (alive, none) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.alive, alive));
        let mut ended = std::mem::replace(&mut self.ended, none);
        Box::pin(async move {
            ended.recv().await;
        })
    }

    fn traffic(&self) -> Traffic {
        self.outbox.traffic()
    }
}

impl Tcp {
    fn order(&self, connection: ConnectionId, order: Order) {
        if let Some(orders) = self.connections.get(&connection) {
            // A connection that has just ended takes no more.
            let _ = orders.send(order);
        }
    }
}
