//! Transports: what turns sockets into [`Input`]s.
//!
//! A transport proves identities, keeps frames in order per channel, and paces the core with
//! [`Input::Writable`]. Permits, retries and peer policy are above it. The trait is public, and
//! the transports in here use nothing else.
//!
//! # Not guaranteed
//!
//! That a frame that was taken for sending arrives: a connection may end, and then
//! [`Input::Closed`] tells so. What is sent on one channel is in no order to what is sent on another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use multiaddr::{Multiaddr, Protocol};
use tidegate_proto::id::{Address, ConnectionId, DialId, PeerId, SignalId};
use tidegate_proto::io::{Input, SignalError};
use tidegate_proto::wire::Frame;
use tidegate_proto::{Limits, MaybeSend};

use crate::identity::Identity;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod memory;
pub mod mux;
mod places;
#[cfg(feature = "quic")]
pub mod quic;
#[cfg(feature = "tls")]
pub mod secure;

pub use places::{Place, Places};

/// What a transport is made for: given to the factories of [`crate::Builder::transport`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Setup {
    /// Who the node is, with its key: to prove that to peers.
    pub identity: Identity,
    /// What peers may make the node cost.
    pub limits: Limits,
    /// Room for connections, which all transports of the node share.
    pub places: Places,
}

impl Setup {
    /// For a node of its own, as in tests.
    pub fn new(identity: Identity, limits: Limits) -> Self {
        let places = Places::new(&limits);
        Self { identity, limits, places }
    }
}

/// Why a transport cannot be made.
pub type TransportError = Box<dyn std::error::Error + Send + Sync>;

/// A connection to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dial {
    /// The number to answer with.
    pub id: DialId,
    /// Where to.
    pub address: Multiaddr,
    /// Who must answer; anyone if `None`.
    pub peer: Option<PeerId>,
    /// How long it may take. The core cancels it after that.
    pub patience: Duration,
    /// From a socket that nothing else has left by, where the transport has sockets: a router in front of the
    /// peer must not know it.
    pub fresh: bool,
}

impl Dial {
    /// A dial from any socket, of whoever is there, that may take 3 s.
    pub fn new(id: DialId, address: Multiaddr) -> Self {
        Self { id, address, peer: None, patience: Limits::default().dial_timeout, fresh: false }
    }

    /// Nobody else may answer.
    #[must_use]
    pub fn to(mut self, peer: Option<PeerId>) -> Self {
        self.peer = peer;
        self
    }

    /// From a socket that nothing else has left by.
    #[must_use]
    pub fn from_fresh_socket(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// With another time that it may take.
    #[must_use]
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// What another node's transport says to one of its kind here, before the two have a connection.
///
/// Who made it must be proven by the payload itself, which the peer that carried it could read and change; and
/// it may come twice. A payload should begin with something by which the transport knows its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signal {
    /// The peer that carried it. An answer may go by the same.
    pub via: PeerId,
    /// Whose it is, as that peer says.
    pub from: PeerId,
    /// What it says.
    pub payload: Bytes,
}

impl Signal {
    /// As it comes from the core.
    pub fn new(via: PeerId, from: PeerId, payload: Bytes) -> Self {
        Self { via, from, payload }
    }
}

/// What a transport has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// The network did something.
    Input(Input),
    /// [`Transport::addresses`] have changed.
    Addresses,
}

impl From<Input> for Happening {
    fn from(input: Input) -> Self {
        Self::Input(input)
    }
}

/// Carries frames between nodes.
///
/// What a transport must do, which the suite of the feature `conformance` checks of each:
///
/// - [`Input::Connected`] comes once for a connection, with an identity that the peer has proven;
///   where one was asked for in [`Dial::peer`], no other is accepted. It holds a place of [`Setup::places`] as
///   long as it is there, and none before: what a stranger begins is bounded by the transport itself.
/// - A dial ends once, with [`Input::Connected`] or [`Input::DialFailed`], after [`Dial::patience`] at the latest;
///   one that is cancelled ends with nothing.
/// - Frames of one channel and direction arrive in order, once, and whole. A frame of more than
///   [`tidegate_proto::wire::MAX_FRAME`] bytes ends the connection before it is read.
/// - It is given one frame for a channel at a time. When it says [`Input::Writable`], no more than
///   the path takes is waiting in front of the next one. A channel that is stuck holds up no other: where the
///   carrier has no flow control for each channel, [`mux`] has.
/// - Channel 0 is read from the start, any other from [`Transport::open`] on; until then what
///   comes on it stays where the peer's flow control bounds it.
/// - After [`Transport::close`], frames that were given for channel 0 still leave, within a second
///   or so. [`Input::Closed`] comes once, last, for every connection.
pub trait Transport: MaybeSend + 'static {
    /// Whether addresses of this form are this transport's.
    fn handles(&self, address: &Multiaddr) -> bool;

    /// Accepts connections at an address. Where that really is, is among [`Transport::addresses`] at once, or
    /// when [`Happening::Addresses`] says so.
    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError>;

    /// All addresses at which it accepts connections now, as others could dial them or as they are bound: of any
    /// interface, of a relay that has given this node a place, or with hashes of certificates.
    fn addresses(&self) -> Vec<Multiaddr>;

    /// Connects to an address.
    fn dial(&mut self, dial: Dial);

    /// Gives a dial up, if it is under way: nothing more comes of it.
    fn cancel(&mut self, dial: DialId);

    /// Sends a frame; [`Input::Writable`] follows.
    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame);

    /// Reads a channel from now on. With the first of them the peer is no stranger any more: until then
    /// a transport may take little of a connection that it accepted.
    fn open(&mut self, connection: ConnectionId, channel: u32);

    /// Ends a connection.
    fn close(&mut self, connection: ConnectionId);

    /// The machine's interfaces or their addresses have changed: sockets that were bound to them may have to be
    /// bound again.
    fn network_changed(&mut self) {}

    /// The next thing that happened.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening>;

    /// Whether other nodes' transports of this kind may send it signals. While no transport of a node wants any,
    /// its peers carry none to it.
    fn takes_signals(&self) -> bool {
        false
    }

    /// A signal of another node's transport has arrived; `true` if it was meant for this transport, otherwise
    /// the next one is asked. Any node that has a peer in common with this one can send it, so what is kept for
    /// it must be bounded.
    ///
    /// To say something itself a transport gives [`Input::Signal`], with a number from [`new_signal_id`].
    fn signal(&mut self, signal: &Signal) -> bool {
        let _ = signal;
        false
    }

    /// What became of a signal of this transport. `Ok` says that the other node has it, not that it will
    /// answer.
    fn signaled(&mut self, id: SignalId, result: Result<(), SignalError>) {
        let _ = (id, result);
    }

    /// Ends everything at once. When the future is ready, all sockets are closed, and the next transport may
    /// listen at the same address. Nothing is called after this.
    fn shut_down(&mut self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }

    /// Bytes that were sent and received so far, with everything that travels with the frames.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// A future in a box, which can go to another thread where there are threads.
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
pub type BoxFuture<T> = futures_util::future::BoxFuture<'static, T>;
/// A future in a box.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
pub type BoxFuture<T> = futures_util::future::LocalBoxFuture<'static, T>;

/// Bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

impl Traffic {
    /// With these counts of bytes.
    pub fn new(sent: u64, received: u64) -> Self {
        Self { sent, received }
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// What to do about an error of the system.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => ": another socket has this port, choose another",
        std::io::ErrorKind::AddrNotAvailable => ": no interface of this machine has this address",
        _ => "",
    }
}

/// Why connections cannot be accepted at an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// No transport knows such addresses.
    #[error(
        "{0}: no transport of this node listens at such an address; QUIC does at one like /ip4/0.0.0.0/udp/4001/quic-v1, by IP address, with UDP"
    )]
    Unsupported(Multiaddr),
    /// The operating system refuses.
    #[error("{address}: {source}{}", hint(source))]
    Io {
        /// Where.
        address: Multiaddr,
        /// Why.
        source: std::io::Error,
    },
    /// The transport refuses, for a reason of its own.
    #[error("{address}: {source}")]
    Transport {
        /// Where.
        address: Multiaddr,
        /// Why.
        source: TransportError,
    },
}

/// A number for a new connection, which no other connection of this process has.
pub fn new_connection_id() -> ConnectionId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A number for a new signal, which no other signal of this process has.
pub fn new_signal_id() -> SignalId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    SignalId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The core's form of an address.
pub fn to_core(address: &Multiaddr) -> Address {
    Address(address.to_vec().into())
}

/// The address of the core's form; `None` if it is not a multiaddr.
pub fn from_core(address: &Address) -> Option<Multiaddr> {
    Multiaddr::try_from(address.0.to_vec()).ok()
}

/// Whether an address means every address of the machine that listens there: nobody can dial it.
pub fn is_unspecified(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
        _ => false,
    }
}

/// Takes `/p2p/…` off the end of an address: where, and who.
pub fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (address, peer.to_base58().parse().ok())
        }
        _ => (address, None),
    }
}

/// An address with `/p2p/…` at its end.
pub fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    let suffix = format!("/p2p/{peer}").parse::<Multiaddr>();
    let suffix = suffix.expect("a PeerId has a multiaddr form");
    suffix.iter().fold(address, |address, protocol| address.with(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_goes_with_its_address() {
        let peer = PeerId([3; 32]);
        let address: Multiaddr = "/ip4/127.0.0.1/udp/4001/quic-v1".parse().unwrap();
        let with = with_peer(address.clone(), peer);
        assert!(with.to_string().ends_with(&format!("/p2p/{peer}")), "{with}");
        assert_eq!(split_peer(with), (address.clone(), Some(peer)));
        assert_eq!(split_peer(address.clone()), (address.clone(), None));
        assert_eq!(from_core(&to_core(&address)), Some(address));
        assert_eq!(from_core(&Address(vec![0xff].into())), None);
    }
}
