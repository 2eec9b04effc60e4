//! The contract of [`Transport`], as a suite that any transport can run: also one of another crate.
//!
//! A transport under test implements [`Kind`], and one line of [`transport_conformance!`](crate::transport_conformance)
//! makes a test of each case:
//!
//! ```
//! use tidegate::transport::conformance::Kind;
//! use tidegate::transport::memory::MemoryNetwork;
//! use tidegate::transport::{Setup, Transport};
//! use tidegate::Multiaddr;
//!
//! /// A world in which such transports reach each other.
//! #[derive(Default)]
//! struct InMemory(MemoryNetwork);
//!
//! impl Kind for InMemory {
//!     fn transport(&self, setup: &Setup) -> Box<dyn Transport> {
//!         Box::new(self.0.transport(setup))
//!     }
//!     fn listen_address(&self) -> Multiaddr {
//!         "/memory/0".parse().unwrap()
//!     }
//!     fn nobody(&self) -> Multiaddr {
//!         "/memory/4000000000".parse().unwrap()
//!     }
//!     fn foreign(&self) -> Multiaddr {
//!         "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap()
//!     }
//! }
//!
//! tidegate::transport_conformance! {
//!     memory: super::InMemory;
//! }
//! ```
//!
//! # Not guaranteed
//!
//! That a transport is safe whose cases pass: what a hostile peer can do to it is the transport's own, as is what
//! it costs. And other cases may come with any version.
//!
//! A case panics when the transport does what it must not, and after 30 s in which it does not do what it must.

#![allow(missing_docs, reason = "the cases say what they show by their names")]

use multiaddr::Multiaddr;

use super::{Setup, Transport};

#[doc(hidden)]
pub mod closing;
#[doc(hidden)]
pub mod connecting;
#[doc(hidden)]
pub mod frames;
#[doc(hidden)]
pub mod harness;
#[doc(hidden)]
pub mod slow;

/// A kind of transport; a value is a world in which such transports can reach each other.
pub trait Kind: Default {
    /// Whether the network is so bad that cases should do less.
    const LOSSY: bool = false;
    /// The highest channel number that cases use. A node's highest is `FIRST_AGREED + MAX_OFFERS - 1`, 79; a carrier
    /// that has room for others should be tried with them.
    const LAST_CHANNEL: u32 = 4_000_000_000;

    /// A transport of a node.
    fn transport(&self, setup: &Setup) -> Box<dyn Transport>;
    /// An address at which a listener finds a free port.
    fn listen_address(&self) -> Multiaddr;
    /// An address at which no node listens.
    fn nobody(&self) -> Multiaddr;
    /// An address of another kind of transport.
    fn foreign(&self) -> Multiaddr;
    /// An address at which something takes what it is sent, and never answers; `None` if there can be no such.
    fn silent(&self) -> Option<Multiaddr> {
        None
    }
    /// The address to dial in order to reach a listener.
    fn way_to(&self, address: &Multiaddr) -> Multiaddr {
        address.clone()
    }
}

/// Runs one case.
#[doc(hidden)]
pub fn run(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(case);
}

/// Makes a test of each case of the suite for each kind of transport, in a module of its name. See
/// [`conformance`](crate::transport::conformance).
#[macro_export]
macro_rules! transport_conformance {
    ($($kind:ident: $type:ty;)+) => {
        $crate::transport_conformance!(@cases [$($kind: $type),+]
            connecting: both_sides_are_told_who_is_there, another_peer_than_dialed_is_refused,
                dialing_where_nobody_listens_fails, a_dial_ends_within_its_patience, foreign_addresses_are_refused,
                an_address_is_listened_at_once, a_cancelled_dial_ends_with_nothing,
                a_listener_without_a_place_lets_nobody_in, dialed_connections_hold_places,
                a_node_that_dials_itself_has_two_connections, many_connections_to_one_listener;
            frames: arrive_in_order_and_whole, head_and_body_arrive_as_one,
                the_largest_arrives, an_oversize_frame_ends_the_connection,
                one_writable_for_each_frame, traffic_is_counted;
            slow: nothing_is_read_before_open, a_stuck_channel_holds_up_no_other,
                a_node_that_takes_nothing_stops_its_peer,
                frames_of_a_channel_opened_early_arrive;
            closing: a_lost_transport_is_noticed, an_address_is_free_after_the_shutdown, last_words_on_control_arrive,
                last_words_arrive_at_a_late_reader, both_may_close_at_once,
                one_connection_closes_and_another_stays, what_is_closed_takes_nothing_more;
        );
    };
    (@cases $kinds:tt $($module:ident: $($case:ident),+;)+) => {
        $crate::transport_conformance!(@kinds $kinds [$($($module $case)+)+]);
    };
    (@kinds [$($kind:ident: $type:ty),+] $cases:tt) => {
        $($crate::transport_conformance!(@kind $kind $type, $cases);)+
    };
    (@kind $kind:ident $type:ty, [$($module:ident $case:ident)+]) => {
        mod $kind {
            $(#[test]
            fn $case() {
                use $crate::transport::conformance::{$module, run};
                run($module::$case::<$type>());
            })+
        }
    };
}
