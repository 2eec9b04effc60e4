//! Tidegate's QUIC behind its public trait: one task owns the transport and reacts to each input at
//! once, as a node's driver does.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tidegate::id::{ConnectionId, DialId, PeerId};
use tidegate::io::Input;
use tidegate::transport::quic::Quic;
use tidegate::transport::{Dial, Happening, Setup};
use tidegate::{Identity, Limits, Multiaddr, Transport as _};

use super::{Incoming, PIECE, ZEROS, opening, piece};
use crate::stack::{Carrier, Dialer, Doing, FIRST, Link, Stack, Target};

/// A channel that is read from the start.
const CHANNEL: u32 = 0;
/// A channel that is opened once the peer is connected, as a node does after the hello.
const OTHER: u32 = 1;

pub(crate) struct Transport;

pub(super) fn identity(seed: u64) -> Identity {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Identity::from_seed(&bytes)
}

/// More places than a node has by default: the full plan keeps 300 idle connections.
fn setup(seed: u64) -> Setup {
    let mut limits = Limits::default();
    limits.max_inbound = 400;
    Setup::new(identity(seed), limits)
}

pub(super) fn address(socket: SocketAddr) -> Result<Multiaddr> {
    Ok(format!("/ip4/{}/udp/{}/quic-v1", socket.ip(), socket.port()).parse()?)
}

/// The socket of an address that [`address`] could have made.
pub(super) fn socket(address: &Multiaddr) -> Result<SocketAddr> {
    let text = address.to_string();
    let port = text.split('/').nth(4).context("no port")?;
    Ok(([127, 0, 0, 1], port.parse()?).into())
}

impl Stack for Transport {
    fn name(&self) -> &'static str {
        "tidegate transport"
    }

    fn carrier(&self) -> Carrier {
        Carrier::Udp
    }

    fn note(&self) -> Option<&'static str> {
        Some("`Transport` with `Quic`, frames of up to 64 KiB on one channel")
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            let setup = setup(0);
            let key = setup.identity.peer_id().to_string();
            let mut quic = Quic::new(&setup)?;
            quic.listen(&address("127.0.0.1:0".parse()?)?)?;
            let at = quic.addresses().pop().context("no address")?;
            tokio::spawn(answer(quic));
            Ok(Target { socket: socket(&at)?, key })
        })
    }

    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async move {
            let mut quic = Quic::new(&setup(number + 1))?;
            // Dials use the listener's socket, which is bound before the measurement starts.
            quic.listen(&address("127.0.0.1:0".parse()?)?)?;
            let peer = target.key.parse().ok().context("no key")?;
            let address = address(target.socket)?;
            Ok(Box::new(TransportDialer { quic, address, peer }) as Box<dyn Dialer>)
        })
    }
}

/// One connection of the listener.
#[derive(Default)]
struct Peer {
    incoming: Incoming,
    /// Frames waiting until the previous one is written.
    waiting: VecDeque<Bytes>,
    busy: bool,
}

async fn answer(mut quic: Quic) {
    let mut peers = BTreeMap::<ConnectionId, Peer>::new();
    loop {
        match poll_fn(|cx| quic.poll(cx)).await {
            Happening::Input(Input::Connected(up)) => {
                peers.insert(up.connection, Peer::default());
                quic.open(up.connection, OTHER);
            }
            Happening::Input(Input::Frame { connection, frame, .. }) => {
                let Some(peer) = peers.get_mut(&connection) else { continue };
                let Some(answer) = peer.incoming.take(&frame.to_bytes()) else { continue };
                let mut left = u64::from(answer);
                peer.waiting.extend(std::iter::from_fn(|| piece(&mut left)));
                peer.next(&mut quic, connection);
            }
            Happening::Input(Input::Writable { connection, .. }) => {
                let Some(peer) = peers.get_mut(&connection) else { continue };
                peer.busy = false;
                peer.next(&mut quic, connection);
            }
            Happening::Input(Input::Closed { connection }) => {
                peers.remove(&connection);
            }
            _ => {}
        }
    }
}

impl Peer {
    fn next(&mut self, quic: &mut Quic, connection: ConnectionId) {
        if !self.busy
            && let Some(frame) = self.waiting.pop_front()
        {
            self.busy = true;
            quic.send(connection, CHANNEL, frame.into());
        }
    }
}

struct TransportDialer {
    quic: Quic,
    address: Multiaddr,
    peer: PeerId,
}

impl Dialer for TransportDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let Self { mut quic, address, peer } = *self;
            quic.dial(Dial::new(DialId(0), address).to(Some(peer)));
            let connection = loop {
                match poll_fn(|cx| quic.poll(cx)).await {
                    Happening::Input(Input::Connected(up)) => break up.connection,
                    Happening::Input(Input::DialFailed { error, .. }) => bail!("{error:?}"),
                    _ => {}
                }
            };
            let mut link = Connection { quic, connection, busy: false };
            link.ask(FIRST, 1).await?;
            Ok(Box::new(link) as Box<dyn Link>)
        })
    }
}

struct Connection {
    quic: Quic,
    connection: ConnectionId,
    busy: bool,
}

impl Link for Connection {
    fn ask(&mut self, body: u64, answer: u32) -> Doing<'_, ()> {
        Box::pin(async move {
            let (first, mut left) = opening(body, answer);
            let mut next = Some(first);
            let mut awaited = answer as usize;
            while awaited > 0 {
                if !self.busy
                    && let Some(frame) = next.take()
                {
                    self.busy = true;
                    self.quic.send(self.connection, CHANNEL, frame.into());
                    next = (left > 0).then(|| ZEROS.slice(..PIECE.min(left as usize)));
                    left = left.saturating_sub(PIECE as u64);
                }
                match poll_fn(|cx| self.quic.poll(cx)).await {
                    Happening::Input(Input::Writable { .. }) => self.busy = false,
                    Happening::Input(Input::Frame { frame, .. }) => {
                        awaited = awaited.saturating_sub(frame.len());
                    }
                    Happening::Input(Input::Closed { .. }) => bail!("the connection is over"),
                    _ => {}
                }
            }
            Ok(())
        })
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.quic.close(self.connection);
            while !matches!(
                poll_fn(|cx| self.quic.poll(cx)).await,
                Happening::Input(Input::Closed { .. })
            ) {}
        })
    }
}
