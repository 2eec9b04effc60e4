//! What every transport must do: the contract of [`tidegate::Transport`], as tests.
//!
//! A new transport implements [`transports::harness::Kind`] and adds one line of
//! `every_transport!`. What only QUIC promises is in `transports/quic.rs`.

use tidegate::transport::memory::MemoryNetwork;
use tidegate::{Identity, Multiaddr, Transport};

use transports::harness::Kind;

mod transports {
    pub(crate) mod closing;
    pub(crate) mod connecting;
    pub(crate) mod frames;
    pub(crate) mod harness;
    #[cfg(feature = "quic")]
    mod quic;
    #[cfg(feature = "quic")]
    mod quic_limits;
    #[cfg(feature = "quic")]
    pub(crate) mod raw;
    #[cfg(feature = "quic")]
    pub(crate) mod relay;
    pub(crate) mod slow;
}

/// All cases for one kind of transport, in a module of its name.
macro_rules! every_transport {
    ($($kind:ident: $type:ty;)+) => {
        every_transport!(@cases [$($kind: $type),+]
            connecting: both_sides_are_told_who_is_there, another_peer_than_dialed_is_refused,
                dialing_where_nobody_listens_fails, foreign_addresses_are_refused,
                an_address_is_listened_at_once, a_node_that_dials_itself_has_two_connections,
                many_connections_to_one_listener;
            frames: arrive_in_order_and_whole, head_and_body_arrive_as_one,
                the_largest_arrives, an_oversize_frame_ends_the_connection,
                one_writable_for_each_frame, traffic_is_counted;
            slow: nothing_is_read_before_open, a_stuck_channel_holds_up_no_other,
                frames_of_a_channel_opened_early_arrive;
            closing: a_lost_transport_is_noticed, last_words_on_control_arrive,
                last_words_arrive_at_a_late_reader, both_may_close_at_once,
                one_connection_closes_and_another_stays, what_is_closed_takes_nothing_more;
        );
    };
    (@cases $kinds:tt $($module:ident: $($case:ident),+;)+) => {
        every_transport!(@kinds $kinds [$($($module $case)+)+]);
    };
    (@kinds [$($kind:ident: $type:ty),+] $cases:tt) => {
        $(every_transport!(@kind $kind $type, $cases);)+
    };
    (@kind $kind:ident $type:ty, [$($module:ident $case:ident)+]) => {
        mod $kind {
            use super::transports::*;
            $(#[tokio::test]
            async fn $case() {
                $module::$case::<$type>().await;
            })+
        }
    };
}

every_transport! {
    memory: super::InMemory;
}

#[cfg(feature = "quic")]
every_transport! {
    quic: super::OverQuic;
    quic_with_losses: super::OverLossyQuic;
}

/// Transports of one network in memory.
#[derive(Default)]
pub(crate) struct InMemory(MemoryNetwork);

impl Kind for InMemory {
    fn transport(&self, identity: &Identity) -> Box<dyn Transport> {
        Box::new(self.0.transport(identity))
    }

    fn listen_address(&self) -> Multiaddr {
        address("/memory/0")
    }

    fn nobody(&self) -> Multiaddr {
        address("/memory/4000000000")
    }

    fn foreign(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/1/quic-v1")
    }
}

/// QUIC on the loopback interface.
#[cfg(feature = "quic")]
#[derive(Default)]
pub(crate) struct OverQuic;

#[cfg(feature = "quic")]
impl Kind for OverQuic {
    fn transport(&self, identity: &Identity) -> Box<dyn Transport> {
        Box::new(transports::raw::quic(identity))
    }

    fn listen_address(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/0/quic-v1")
    }

    fn nobody(&self) -> Multiaddr {
        // The discard port: no listener that a test makes is there.
        address("/ip4/127.0.0.1/udp/9/quic-v1")
    }

    fn foreign(&self) -> Multiaddr {
        address("/memory/1")
    }
}

/// QUIC where datagrams are lost, doubled and overtaken on their way.
#[cfg(feature = "quic")]
#[derive(Default)]
pub(crate) struct OverLossyQuic;

#[cfg(feature = "quic")]
impl Kind for OverLossyQuic {
    const LOSSY: bool = true;

    fn transport(&self, identity: &Identity) -> Box<dyn Transport> {
        OverQuic.transport(identity)
    }

    fn listen_address(&self) -> Multiaddr {
        OverQuic.listen_address()
    }

    fn nobody(&self) -> Multiaddr {
        OverQuic.nobody()
    }

    fn foreign(&self) -> Multiaddr {
        OverQuic.foreign()
    }

    fn way_to(&self, address: &Multiaddr) -> Multiaddr {
        transports::relay::lossy_way_to(address)
    }
}

fn address(text: &str) -> Multiaddr {
    text.parse().expect("a multiaddr")
}
