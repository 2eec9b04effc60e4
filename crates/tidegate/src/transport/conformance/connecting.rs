//! Dialing and listening.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::PeerId;
use crate::io::{DialError, Direction};
use crate::transport::ListenError;

use super::Kind;
use super::harness::{End, Net, frame};

pub async fn both_sides_are_told_who_is_there<K: Kind>() {
    let mut net = Net::<K>::new(2).await;
    // Without an expected identity any will do.
    for expected in [Some(net.peers[1].id), None] {
        let dial = loop {
            let dial = net.dial(0, 1, expected);
            net.until("a dial", |net| net.peers[0].dials.contains_key(&dial)).await;
            match net.peers[0].dials[&dial] {
                Err(DialError::TimedOut) if K::LOSSY => {}
                _ => break dial,
            }
        };
        let outbound = net.peers[0].dials[&dial].clone().expect("a connection");
        net.until("inbound", |net| net.peers[1].links.len() == net.peers[0].links.len()).await;
        let (inbound, _) = net.peers[1].links.last_key_value().expect("it is there");
        let (out, back) = (net.link(End(0, outbound)), net.link(End(1, *inbound)));
        assert_eq!((out.peer, back.peer), (net.peers[1].id, net.peers[0].id));
        assert_eq!(
            (out.direction, back.direction),
            (Direction::Outbound(dial), Direction::Inbound)
        );
        if !K::LOSSY {
            assert_eq!(Some(&out.address), net.peers[1].address.as_ref());
        }
        // A signature over the binding of one end must verify at the other.
        assert_eq!(out.binding, back.binding);
    }
    let bindings = net.peers[0].links.values().map(|link| format!("{:?}", link.binding));
    assert_eq!(bindings.collect::<BTreeSet<_>>().len(), net.peers[0].links.len());
    net.settle().await;
    assert!(net.peers.iter().all(|peer| peer.links.values().all(|link| !link.closed)));
}

/// R4.2.3, R4.3.1
pub async fn another_peer_than_dialed_is_refused<K: Kind>() {
    let mut net = Net::<K>::new(2).await;
    for expected in [PeerId([7; 32]), net.peers[0].id] {
        loop {
            let dial = net.dial(0, 1, Some(expected));
            net.until("a dial", |net| net.peers[0].dials.contains_key(&dial)).await;
            match net.peers[0].dials[&dial].clone() {
                Err(DialError::TimedOut) if K::LOSSY => {}
                result => break assert_eq!(result, Err(DialError::WrongPeer)),
            }
        }
    }
    net.settle().await;
    assert!(net.peers[0].links.is_empty(), "the dialer has connected");
    assert!(net.peers[1].links.values().all(|link| link.closed), "the listener keeps it");
}

pub async fn dialing_where_nobody_listens_fails<K: Kind>() {
    let mut net = Net::<K>::new(0).await;
    net.add();
    let nobody = net.kind.nobody();
    let dial = net.peers[0].dial(&nobody, None);
    net.until("a dial", |net| net.peers[0].dials.contains_key(&dial)).await;
    assert!(net.peers[0].dials[&dial].is_err());
}

/// However long the core would wait.
pub async fn a_dial_ends_within_its_patience<K: Kind>() {
    let mut net = Net::<K>::new(0).await;
    net.add();
    let Some(silent) = net.kind.silent() else { return };
    let dial = net.peers[0].dial_within(&silent, Duration::from_millis(200));
    net.until("a dial", |net| net.peers[0].dials.contains_key(&dial)).await;
    assert_eq!(net.peers[0].dials[&dial], Err(DialError::TimedOut));
}

pub async fn foreign_addresses_are_refused<K: Kind>() {
    let mut net = Net::<K>::new(1).await;
    let foreign = net.kind.foreign();
    let transport = net.peers[0].transport.as_mut().unwrap();
    assert!(!transport.handles(&foreign));
    let error = transport.listen(&foreign).expect_err("it is none of its addresses");
    assert!(matches!(error, ListenError::Unsupported(_)), "{error}");
    assert!(error.to_string().starts_with(&foreign.to_string()), "{error}");
    // An address with `/p2p/…` at its end cannot be listened at.
    let own = net.peers[0].address.clone().unwrap();
    let transport = net.peers[0].transport.as_ref().unwrap();
    assert!(transport.handles(&own));
    assert!(!transport.handles(&crate::transport::with_peer(own, net.peers[0].id)));

    let dial = net.peers[0].dial(&foreign, None);
    net.until("a dial", |net| net.peers[0].dials.contains_key(&dial)).await;
    assert!(net.peers[0].dials[&dial].is_err());
}

pub async fn an_address_is_listened_at_once<K: Kind>() {
    let mut net = Net::<K>::new(1).await;
    let second = net.add();
    let taken = net.peers[0].address.clone().unwrap();
    let transport = net.peers[second].transport.as_mut().unwrap();
    let error = transport.listen(&taken).expect_err("somebody listens there");
    assert!(matches!(error, ListenError::Io { .. } | ListenError::Transport { .. }), "{error}");
    assert!(error.to_string().starts_with(&taken.to_string()), "{error}");
    // Once the first is gone, the port is free: a node that restarts finds it.
    net.drop_transport(0);
    let mut tries = 0;
    loop {
        // A dropped socket is closed in a task of its own.
        tokio::task::yield_now().await;
        let transport = net.peers[second].transport.as_mut().unwrap();
        match transport.listen(&taken) {
            Ok(()) => break,
            Err(error) => {
                tries += 1;
                assert!(tries < 10_000, "{error}");
            }
        }
    }
    net.until("its address", |net| net.peers[second].address.as_ref() == Some(&taken)).await;
}

/// A cancelled dial has no result, whatever is at the address.
pub async fn a_cancelled_dial_ends_with_nothing<K: Kind>() {
    let mut net = Net::<K>::new(1).await;
    let from = net.add();
    for address in [net.way_to(0), net.kind.nobody()] {
        let dial = net.peers[from].dial(&address, None);
        net.peers[from].transport.as_mut().expect("a transport").cancel(dial);
        net.settle().await;
        assert!(net.peers[from].dials.is_empty() && net.peers[from].links.is_empty());
    }
    // The listener's side of it ends as well, and other dials succeed.
    net.until("the end", |net| net.peers[0].links.values().all(|link| link.closed)).await;
    net.connect(from, 0).await;
}

/// All transports of a node share its places. R4.3.2
pub async fn a_listener_without_a_place_lets_nobody_in<K: Kind>() {
    let mut net = Net::<K>::new(0).await;
    let full = net.add_with_two_places().await;
    let others = [net.add(), net.add(), net.add()];
    let (first, _) = net.connect(others[0], full).await;
    net.connect(others[1], full).await;
    let dial = net.dial(others[2], full, None);
    net.until("a dial", |net| net.peers[others[2]].dials.contains_key(&dial)).await;
    // With some carriers the dialer sees it at once, with others when the listener has ended it.
    net.settle().await;
    assert_eq!(net.peers[full].links.len(), 2);
    net.close(first);
    net.until("a place", |net| net.peers[full].links.values().any(|link| link.closed)).await;
    net.connect(others[2], full).await;
}

/// What a node has dialed counts as well.
pub async fn dialed_connections_hold_places<K: Kind>() {
    let mut net = Net::<K>::new(2).await;
    let full = net.add_with_two_places().await;
    let (first, _) = net.connect(full, 0).await;
    net.connect(full, 1).await;
    net.dial(0, full, None);
    net.settle().await;
    assert_eq!(net.peers[full].links.len(), 2);
    net.close(first);
    net.until("a place", |net| net.link(first).closed).await;
    net.connect(0, full).await;
}

/// R19.1.4
pub async fn a_node_that_dials_itself_has_two_connections<K: Kind>() {
    let mut net = Net::<K>::new(1).await;
    let (a, b) = loop {
        let dial = net.dial(0, 0, None);
        net.until("a dial", |net| net.peers[0].dials.contains_key(&dial)).await;
        let Ok(outbound) = net.peers[0].dials[&dial] else { continue };
        net.until("the other end", |net| net.peers[0].links.len() >= 2).await;
        let inbound = |net: &Net<K>| {
            let links = net.peers[0].links.iter();
            links.filter(|(_, link)| link.direction == Direction::Inbound).map(|(id, _)| *id).last()
        };
        break (End(0, outbound), End(0, inbound(&net).expect("the other end")));
    };
    assert_eq!((net.link(a).peer, net.link(b).peer), (net.peers[0].id, net.peers[0].id));
    net.round_trip(a, b).await;
    net.close(a);
    net.until("both ends", |net| net.link(a).closed && net.link(b).closed).await;
}

pub async fn many_connections_to_one_listener<K: Kind>() {
    let mut net = Net::<K>::new(1).await;
    let dialers = 4;
    // Nearly as many as a listener accepts by default.
    let each = if K::LOSSY { 5 } else { 40 };
    let mut ends = Vec::new();
    for _ in 0..dialers {
        net.add();
    }
    // Enough at once to make the listener ask some of them to retry.
    for _ in 0..each / 5 {
        let at_once =
            (0..dialers * 5).map(|n| (1 + n % dialers, net.dial(1 + n % dialers, 0, None)));
        for (from, dial) in at_once.collect::<Vec<_>>() {
            net.until("a dial", |net| net.peers[from].dials.contains_key(&dial)).await;
            match net.peers[from].dials[&dial].clone() {
                Ok(connection) => ends.push(End(from, connection)),
                Err(DialError::TimedOut) if K::LOSSY => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(K::LOSSY || ends.len() == 160);
    net.until("the listener's ends", |net| net.peers[0].links.len() >= ends.len()).await;
    for (number, end) in ends.iter().enumerate() {
        net.send(*end, 0, frame(&(number as u32).to_be_bytes()));
    }
    let heard = |net: &Net<K>| net.peers[0].links.values().filter(|l| l.count(0) == 1).count();
    net.until("a frame of each", |net| heard(net) == ends.len()).await;
    // Each must get its own number back.
    for connection in net.peers[0].links.keys().copied().collect::<Vec<_>>() {
        let end = End(0, connection);
        if let Some(echo) = net.link(end).bytes(0).first() {
            net.send(end, 0, echo.clone().into());
        }
    }
    net.until("all answers", |net| ends.iter().all(|end| net.link(*end).count(0) == 1)).await;
    for (number, end) in ends.iter().enumerate() {
        assert_eq!(net.link(*end).bytes(0)[0], (number as u32).to_be_bytes()[..]);
    }
}
