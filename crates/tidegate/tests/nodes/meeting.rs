//! How nodes connect and disconnect.

use tidegate::id::NetworkId;
use tidegate::io::{DialError, Disconnect, Event};
use tidegate::transport::{split_peer, with_peer};
use tidegate::wire::{Goodbye, Refusal};
use tidegate::{Builder, Identity, NodeError, PoolSpec, StartError};

use super::application::{By, Notes, Running, accept_all, within};

fn gone(event: &Event) -> Option<&Disconnect> {
    match event {
        Event::PeerDisconnected { reason, .. } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn shutting_down_says_goodbye() {
    for by in By::all() {
        let (alice, mut bob) = by.pair(accept_all).await;
        within("the end", alice.node.shutdown()).await;
        let event = bob.until(|event| gone(event).is_some()).await;
        assert_eq!(gone(&event), Some(&Disconnect::Remote(Goodbye::ShuttingDown)));
        assert!(bob.node.status().await.unwrap().peers.is_empty());
        // The remaining handle says so.
        assert!(matches!(alice.node.status().await, Err(NodeError::Closed)));
        assert_eq!(alice.node.dial(&bob.node.addresses()[0]), Err(NodeError::Closed));
        within("another end", alice.node.shutdown()).await;
        let mut events = alice.events;
        let mut last = None;
        while let Some(event) = within("an event or none", events.next()).await {
            last = Some(event);
        }
        let last = last.expect("the disconnection");
        assert_eq!(gone(&last), Some(&Disconnect::Local(Goodbye::ShuttingDown)));
    }
}

#[tokio::test]
async fn a_node_without_handles_shuts_down() {
    for by in By::all() {
        let (alice, mut bob) = by.pair(accept_all).await;
        let Running { node, mut events } = alice;
        drop(node);
        let event = bob.until(|event| gone(event).is_some()).await;
        assert_eq!(gone(&event), Some(&Disconnect::Remote(Goodbye::ShuttingDown)));
        while within("an event or none", events.next()).await.is_some() {}
    }
}

#[tokio::test]
async fn a_peer_can_be_sent_away_and_come_back() {
    for by in By::all() {
        let (mut alice, mut bob) = by.pair(accept_all).await;
        alice.node.disconnect(bob.node.peer_id()).unwrap();
        let at_alice = alice.until(|event| gone(event).is_some()).await;
        let at_bob = bob.until(|event| gone(event).is_some()).await;
        assert_eq!(gone(&at_alice), Some(&Disconnect::Local(Goodbye::Requested)));
        assert_eq!(gone(&at_bob), Some(&Disconnect::Remote(Goodbye::Requested)));
        // It does not dial again: the node that disconnected it must want it back.
        bob.node.dial(&alice.node.addresses()[0]).unwrap();
        let refused = bob.until(|event| matches!(event, Event::Refused { .. })).await;
        let Event::Refused { by_us: false, refusal: Refusal::Busy(ms), .. } = refused else {
            panic!("{refused:?}")
        };
        assert!((30_000..=60_000).contains(&ms), "{ms}");
        alice.meet(&mut bob).await;
    }
}

#[tokio::test]
async fn dials_that_fail_say_why() {
    for by in By::all() {
        let (mut alice, bob) = (by.start(accept_all), by.start(accept_all));
        let (address, _) = split_peer(bob.node.addresses()[0].clone());
        let stranger = Identity::from_seed(&[9; 32]).peer_id();
        let elsewhere = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        for (address, expected) in [
            (with_peer(address, stranger), DialError::WrongPeer),
            (elsewhere, DialError::UnsupportedAddress),
        ] {
            alice.node.dial(&address).unwrap();
            let event = alice.until(|event| matches!(event, Event::DialFailed { .. })).await;
            assert!(matches!(event, Event::DialFailed { error, .. } if error == expected));
        }
        assert!(bob.node.status().await.unwrap().peers.is_empty());
    }
}

#[tokio::test]
async fn refusals_are_told_to_both() {
    for by in By::all() {
        let mut bob = by.start(accept_all);
        let stranger = Builder::new(NetworkId([8; 32]), Notes, accept_all);
        let stranger = by.connect(stranger, Identity::generate().unwrap());
        let mut stranger = Running::start(stranger.pool(PoolSpec::new("notes")));
        stranger.node.dial(&bob.node.addresses()[0]).unwrap();
        for (side, us) in [(&mut bob, true), (&mut stranger, false)] {
            let event = side.until(|event| matches!(event, Event::Refused { .. })).await;
            let Event::Refused { by_us, refusal, .. } = event else { unreachable!() };
            assert_eq!((by_us, refusal), (us, Refusal::WrongNetwork));
        }
        let mut own = by.start(accept_all);
        own.node.dial(&own.node.addresses()[0].clone()).unwrap();
        let event = own.until(|event| matches!(event, Event::Refused { .. })).await;
        assert!(matches!(event, Event::Refused { refusal: Refusal::SelfDial, .. }), "{event:?}");
    }
}

#[tokio::test]
async fn only_allowed_peers_are_accepted() {
    for by in By::all() {
        let friend = Identity::generate().unwrap();
        let mut bob = Running::start(by.builder(accept_all).allow([friend.peer_id()]));
        let mut stranger = by.start(accept_all);
        stranger.node.dial(&bob.node.addresses()[0]).unwrap();
        let event = stranger.until(|event| matches!(event, Event::Refused { .. })).await;
        assert!(matches!(event, Event::Refused { refusal: Refusal::NotAllowed, .. }), "{event:?}");
        let friend =
            by.connect(Builder::new(super::application::NETWORK, Notes, accept_all), friend);
        Running::start(friend).meet(&mut bob).await;
    }
}

#[tokio::test]
async fn listen_errors_name_the_address() {
    for by in By::all() {
        let tcp = "/ip4/127.0.0.1/tcp/4001";
        let error = by.builder(accept_all).listen(tcp.parse().unwrap()).start().unwrap_err();
        assert!(matches!(error, StartError::Listen(_)));
        let error = error.to_string();
        assert!(error.contains(tcp) && error.contains("/ip4/0.0.0.0/udp/4001/quic-v1"), "{error}");
        let bob = by.start(accept_all);
        let (taken, _) = split_peer(bob.node.addresses()[0].clone());
        let error = by.builder(accept_all).listen(taken.clone()).start().unwrap_err();
        assert!(error.to_string().starts_with(&format!("{taken}: ")), "{error}");
        // A printed address can be used again, even by the node itself.
        let identity = Identity::from_seed(&[3; 32]);
        let named = with_peer(by.anywhere(), identity.peer_id());
        let carol = by.connect_at(by.builder(accept_all), identity, named.clone());
        drop(Running::start(carol));
        let error = by.builder(accept_all).listen(named).start().unwrap_err();
        assert!(matches!(error, StartError::Listen(_)), "{error}");
    }
}
