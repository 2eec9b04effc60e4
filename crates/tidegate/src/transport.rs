//! Transports: what turns sockets into [`Input`]s.
//!
//! A transport proves identities, keeps the frames of a channel in order, and paces the core with
//! [`Input::Writable`]. Permits, retries and peer policy are the core's. The trait is public, and
//! the transports in here use nothing else.
//!
//! # Not guaranteed
//!
//! That a frame taken for sending arrives: a connection may end, and [`Input::Closed`] says so
//! then. Frames of different channels are in no order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use multiaddr::{Multiaddr, Protocol};
use tidegate_proto::id::{Address, ConnectionId, DialId, PeerId};
use tidegate_proto::io::{Exchange, Input};
use tidegate_proto::wire::{Description, Frame};
use tidegate_proto::{Limits, MaybeSend};

use crate::identity::Identity;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(any(feature = "quic", feature = "tcp"))]
mod dialing;
#[cfg(feature = "ip")]
mod form;
#[cfg(any(feature = "quic", feature = "tcp"))]
mod incoming;
pub mod memory;
pub mod mux;
#[cfg(any(feature = "tcp", feature = "webrtc"))]
mod outbox;
mod places;
#[cfg(feature = "quic")]
pub mod quic;
#[cfg(feature = "tls")]
pub mod secure;
#[cfg(feature = "tcp")]
pub mod tcp;
#[cfg(feature = "udp")]
mod udp;
#[cfg(feature = "webrtc")]
pub mod webrtc;

pub use places::{Place, Places};

/// The setup of a transport: given to the factories of [`crate::Builder::transport`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Setup {
    /// The node's identity with its key, to prove it to peers.
    pub identity: Identity,
    /// The limits on what peers can make the node cost.
    pub limits: Limits,
    /// Places for connections, which all transports of the node share.
    pub places: Places,
}

impl Setup {
    /// For a node with one transport, as in tests.
    pub fn new(identity: Identity, limits: Limits) -> Self {
        let places = Places::new(&limits);
        Self { identity, limits, places }
    }
}

/// Why a transport cannot be made.
pub type TransportError = Box<dyn std::error::Error + Send + Sync>;

/// A dial.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dial {
    /// The number for the answer.
    pub id: DialId,
    /// The address.
    pub address: Multiaddr,
    /// The expected identity; any if `None`.
    pub peer: Option<PeerId>,
    /// The timeout. The core cancels the dial after that.
    pub patience: Duration,
    /// From a fresh socket, if the transport has sockets: to test whether strangers can dial the
    /// peer, a router in front of it must not have seen the port before.
    pub fresh: bool,
}

impl Dial {
    /// A dial from any socket, to any identity, with a timeout of 3 s.
    pub fn new(id: DialId, address: Multiaddr) -> Self {
        Self { id, address, peer: None, patience: Limits::default().dial_timeout, fresh: false }
    }

    /// Sets the expected identity.
    #[must_use]
    pub fn to(mut self, peer: Option<PeerId>) -> Self {
        self.peer = peer;
        self
    }

    /// Requires a fresh socket.
    #[must_use]
    pub fn from_fresh_socket(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Sets another timeout.
    #[must_use]
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// An event of a transport.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// An event for the core.
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
/// What a transport must do; the suite of the feature `conformance` checks most of it:
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
///
/// All channels of a new connection are writable. Calls for connections and dials that have ended do nothing. All
/// calls come from one task of a tokio runtime, which polls again after them.
pub trait Transport: MaybeSend + 'static {
    /// Whether this transport handles addresses of this form.
    fn handles(&self, address: &Multiaddr) -> bool;

    /// Listens at an address. The actual addresses are among [`Transport::addresses`], either at
    /// once or when [`Happening::Addresses`] says so.
    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError>;

    /// All current addresses of the listeners, as others could dial them or as they are bound: "any
    /// interface", those of relays that have a place for this node, or with certificate hashes.
    fn addresses(&self) -> Vec<Multiaddr>;

    /// Dials an address.
    fn dial(&mut self, dial: Dial);

    /// Cancels a dial that is in progress: it has no result any more.
    fn cancel(&mut self, dial: DialId);

    /// Sends a frame; [`Input::Writable`] follows.
    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame);

    /// Starts reading a channel. After the first such call the peer is no stranger any more: before
    /// it, a transport may keep the windows of an inbound connection small.
    fn open(&mut self, connection: ConnectionId, channel: u32);

    /// Closes a connection.
    fn close(&mut self, connection: ConnectionId);

    /// The machine's interfaces or their addresses have changed: sockets bound to them may have to
    /// be bound again.
    fn network_changed(&mut self) {}

    /// The next event.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening>;

    /// Whether this transport makes connections by offers, which a common peer carries: then dials to `/webrtc` come
    /// to it too. It needs the feature `offers` of this crate.
    fn takes_offers(&self) -> bool {
        false
    }

    /// A description of another node, whose identity and signature were checked: an offer, which the transport answers
    /// with [`Input::Described`] or [`Input::Declined`], or the answer to that of a dial, which began with
    /// [`Input::Described`].
    ///
    /// Who makes offers costs the transport something before it has shown that it can be reached: it bounds how many
    /// of them are in progress.
    fn describe(&mut self, exchange: Exchange, from: PeerId, description: Description) {
        let _ = (exchange, from, description);
    }

    /// Closes everything at once. When the future completes, the system resources are free: another
    /// process can listen at the same addresses. No calls follow.
    fn shut_down(&mut self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }

    /// The bytes sent and received so far, with all overhead.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// A boxed future, [`Send`] where there are threads.
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
pub type BoxFuture<T> = futures_util::future::BoxFuture<'static, T>;
/// A boxed future.
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
    /// From these counts of bytes.
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

/// Advice about an error of the system.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => ": another socket has this port, choose another",
        std::io::ErrorKind::AddrNotAvailable => ": no interface of this machine has this address",
        _ => "",
    }
}

/// Why listening at an address failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// No transport handles such addresses.
    #[error(
        "{0}: no transport of this node listens at such an address; QUIC does at one like /ip4/0.0.0.0/udp/4001/quic-v1, TCP at one like /ip4/0.0.0.0/tcp/4001/tls, by IP address"
    )]
    Unsupported(Multiaddr),
    /// The operating system reports an error.
    #[error("{address}: {source}{}", hint(source))]
    Io {
        /// The address.
        address: Multiaddr,
        /// The error.
        source: std::io::Error,
    },
    /// The transport reports an error of its own.
    #[error("{address}: {source}")]
    Transport {
        /// The address.
        address: Multiaddr,
        /// The error.
        source: TransportError,
    },
}

/// A number for a new connection, unique in this process.
pub fn new_connection_id() -> ConnectionId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The core's form of an address.
pub fn to_core(address: &Multiaddr) -> Address {
    Address(address.to_vec().into())
}

/// The address of its form in the core; `None` if it is not a multiaddr.
pub fn from_core(address: &Address) -> Option<Multiaddr> {
    Multiaddr::try_from(address.0.to_vec()).ok()
}

/// Whether an address is "any interface": a node can listen there, but not be dialed.
pub fn is_unspecified(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
        _ => false,
    }
}

/// Splits `/p2p/…` off the end of an address: returns the address and the identity.
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

    /// The core reads what the library writes: it took the code of the draft of QUIC for that of QUIC.
    #[test]
    fn the_core_reads_addresses_as_the_library_writes_them() {
        let peer = PeerId([3; 32]);
        for (text, transport) in [
            ("/ip4/192.0.2.1/udp/4001/quic-v1", "quic"),
            ("/ip6/2001:db8::1/udp/4001/quic-v1", "quic"),
            ("/dns4/example.org/udp/4001/quic-v1", "quic"),
            ("/ip4/192.0.2.1/udp/4001/quic", "other"),
            ("/ip4/192.0.2.1/tcp/4001/tls", "tcp"),
            ("/ip4/192.0.2.1/udp/4001/webrtc", "webrtc"),
            ("/webrtc", "webrtc"),
            ("/memory/7", "memory"),
            ("/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234", "other"),
        ] {
            let address = text.parse::<Multiaddr>().unwrap();
            assert_eq!(to_core(&address).transport(), transport, "{text}");
            assert_eq!(to_core(&with_peer(address, peer)).transport(), transport, "{text}/p2p");
        }
        let quic = to_core(&"/ip4/192.0.2.1/udp/4001/quic-v1".parse().unwrap());
        assert_eq!(format!("{quic:?}"), "/ip4/192.0.2.1/udp/4001/quic-v1");
        assert_eq!(from_core(&Address::by_offer()), "/webrtc".parse().ok());
    }

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
