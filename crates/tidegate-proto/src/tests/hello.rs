//! Section 5: which peers are let in, which are refused and why, and which of two connections
//! stays.

use std::time::Duration;

use bytes::Bytes;

use super::application::{SMALL, config, item};
use super::net::{Message, Net, pick};
use super::script::{CONTROL, PEER, Script, binding, hello, setup};
use crate::Kind;
use crate::id::{Address, ConnectionId, Digest, NetworkId, PeerId, Signature};
use crate::io::{
    Admission, Command, Connected, DialError, Direction, Disconnect, Event, Input, NotShared,
    Output,
};
use crate::wire::{
    Binding, ControlMessage, Goodbye, Hello, PeerRecord, Refusal, RefusalKind, Setup,
};
use crate::{VERSION, Violation};

fn say(script: &mut Script, change: impl FnOnce(&mut Hello)) {
    let mut hello = hello(script.connection);
    change(&mut hello);
    script.send(CONTROL, &ControlMessage::Hello(hello));
}

/// A peer sends a `change`d hello to a new node; returns the answer.
fn refused(change: impl FnOnce(&mut Hello)) -> Option<Refusal> {
    let mut script = Script::alone();
    script.connect(PEER);
    say(&mut script, change);
    let sent = script.take();
    assert_eq!(sent.len(), 1, "a refusal and nothing else: {sent:?}");
    match sent[0].1.decode() {
        Ok(ControlMessage::Refuse(refusal)) => {
            assert!(script.closed.contains(&script.connection));
            assert_eq!(script.node.stats().refused(true, refusal.kind()), 1);
            Some(refusal)
        }
        other => panic!("{other:?}"),
    }
}

/// R5.1.3, R5.1.4, R5.2.1
#[test]
fn strangers_get_one_refusal_and_nothing_else() {
    assert_eq!(
        refused(|h| h.versions = vec![VERSION - 1, VERSION + 1]),
        Some(Refusal::NoCommonVersion)
    );
    assert_eq!(refused(|h| h.versions.clear()), Some(Refusal::NoCommonVersion));
    assert_eq!(refused(|h| h.network = NetworkId([8; 32])), Some(Refusal::WrongNetwork));
    // Version first: with another version everything after it may have another form.
    let both = refused(|h| (h.versions, h.network) = (vec![1], NetworkId([8; 32])));
    assert_eq!(both, Some(Refusal::NoCommonVersion));
    let other_session = Binding::Exporter([1; 32]);
    assert_eq!(refused(|h| h.binding = other_session), Some(Refusal::BadSignature));
}

#[test]
fn a_newer_peer_that_speaks_this_version_too_is_welcome() {
    let mut script = Script::alone();
    script.connect(PEER);
    say(&mut script, |hello| hello.versions = vec![VERSION, VERSION + 1]);
    assert_eq!(script.refusal(), None);
}

/// R5.2.2
#[test]
fn a_node_does_not_connect_to_itself() {
    let mut script = Script::alone();
    script.connect(config(1).peer);
    say(&mut script, |_| {});
    assert_eq!(script.refusal(), Some(Refusal::SelfDial));
}

/// Dials in progress count, failed ones do not.
#[test]
fn dials_end_at_the_outbound_limit() {
    let mut config = config(1);
    config.limits.max_outbound = 2;
    let mut script = Script::with(config);
    let dial = |script: &mut Script| {
        let address = Address(Bytes::from_static(b"there"));
        script.node.handle_command(script.now, Command::Dial { address, peer: None });
        let outputs = std::iter::from_fn(|| script.node.poll_output()).collect::<Vec<_>>();
        match &outputs[..] {
            [Output::Dial { dial, .. }] => Some(*dial),
            [Output::Event(Event::DialFailed { error: DialError::Full, .. })] => None,
            other => panic!("{other:?}"),
        }
    };
    let first = dial(&mut script).unwrap();
    assert!(dial(&mut script).is_some());
    assert_eq!(dial(&mut script), None);
    let error = DialError::Unreachable;
    script.input(Input::DialFailed { dial: first, error });
    let third = dial(&mut script).unwrap();
    script.input(Input::Connected(Connected::new(
        ConnectionId(1),
        PEER,
        Direction::Outbound(third),
        Address(Bytes::new()),
        binding(ConnectionId(1)),
    )));
    assert_eq!(dial(&mut script), None);
}

#[test]
fn inbound_connections_end_at_the_limit() {
    let mut config = config(1);
    config.limits.max_inbound = 2;
    let mut script = Script::with(config);
    for n in [20, 21] {
        script.connect(PeerId([n; 32]));
        script.shake_hands();
    }
    assert_eq!(script.node.status().peers.len(), 2);
    script.connect(PeerId([22; 32]));
    say(&mut script, |_| {});
    assert_eq!(script.refusal(), Some(Refusal::Full(Vec::new())));
}

#[test]
fn only_allowed_peers_are_accepted() {
    let mut config = config(1);
    config.allow = Some([PEER].into());
    let mut script = Script::with(config);
    script.connect(PeerId([8; 32]));
    say(&mut script, |_| {});
    assert_eq!(script.refusal(), Some(Refusal::NotAllowed));
    script.connect(PEER);
    script.shake_hands();
    assert_eq!(script.node.status().peers.len(), 1);
}

#[test]
fn a_node_that_shuts_down_says_so_and_refuses() {
    let mut script = Script::up();
    script.command(Command::Shutdown);
    let said = script.received::<ControlMessage>(CONTROL);
    assert_eq!(said, [ControlMessage::Goodbye(Goodbye::ShuttingDown)]);
    script.connect(PEER);
    say(&mut script, |_| {});
    assert_eq!(script.refusal(), Some(Refusal::ShuttingDown));
}

#[test]
fn surplus_hellos_are_told_to_retry() {
    let mut config = config(1);
    config.limits.handshakes = 2;
    let mut script = Script::with(config);
    for n in [20, 21] {
        script.connect(PeerId([n; 32]));
        assert_eq!(script.refusal(), None);
    }
    script.connect(PeerId([22; 32]));
    assert_eq!(script.refusal(), Some(Refusal::Busy(1000)));
}

/// R5.4.2
#[test]
fn a_record_must_be_the_peers_own_and_signed() {
    let record = |peer, signature| PeerRecord {
        peer,
        sequence: 1,
        addresses: Vec::new(),
        sealing: None,
        signature: Signature(signature),
    };
    let with = |record: PeerRecord| {
        let mut script = Script::alone();
        script.connect(PEER);
        say(&mut script, |_| {});
        let setup = Setup { record: Some(record), ..setup(script.node.config()) };
        script.send(CONTROL, &ControlMessage::Setup(setup));
        script.refusal()
    };
    assert_eq!(with(record(PEER, [0; 64])), Some(Refusal::BadSignature));
    assert_eq!(with(record(PeerId([1; 32]), [0; 64])), Some(Refusal::BadSignature));
}

/// R5.4.1
#[test]
fn a_signed_record_is_accepted() {
    use ed25519_dalek::{Signer as _, SigningKey};
    let key = SigningKey::from_bytes(&[3; 32]);
    let peer = PeerId(key.verifying_key().to_bytes());
    let mut script = Script::alone();
    script.connect(peer);
    say(&mut script, |_| {});
    let mut record = PeerRecord {
        peer,
        sequence: 7,
        addresses: Vec::new(),
        sealing: None,
        signature: Signature([0; 64]),
    };
    let network = script.node.config().network;
    let payload = crate::peers::record::payload(&network, peer, 7, &[], None).unwrap();
    record.signature = Signature(key.sign(&payload).to_bytes());
    assert!(crate::peers::record::verify(&record, &network));
    assert!(!crate::peers::record::verify(&record, &NetworkId([0; 32])));
    let setup = Setup { record: Some(record), ..setup(script.node.config()) };
    script.send(CONTROL, &ControlMessage::Setup(setup));
    assert_eq!(script.refusal(), None);
    assert_eq!(script.node.status().peers.len(), 1);
}

#[test]
fn unfinished_hellos_time_out() {
    for steps in 0..2 {
        let mut script = Script::alone();
        script.connect(PEER);
        if steps == 1 {
            say(&mut script, |_| {});
        }
        script.take();
        script.wait(4999);
        assert!(script.closed.is_empty());
        script.wait(1);
        let said = script.received::<ControlMessage>(CONTROL);
        assert_eq!(said, [ControlMessage::Goodbye(Goodbye::Silent)]);
        assert!(script.closed.contains(&script.connection));
    }
}

#[test]
fn both_sides_count_and_report_a_refusal() {
    let mut other = config(2);
    other.network = NetworkId([8; 32]);
    let mut net = Net::with(vec![config(1), other]);
    net.connect(0, 1);
    net.run_ms(1000);
    let kind = RefusalKind::WrongNetwork;
    assert_eq!(net.hosts[1].node.stats().refused(true, kind), 1);
    assert_eq!(net.hosts[0].node.stats().refused(false, kind), 1);
    let refused = |n: usize, by_us: bool| {
        let peer = net.peer(1 - n);
        net.hosts[n].events.contains(&Event::Refused {
            peer,
            by_us,
            refusal: Refusal::WrongNetwork,
        })
    };
    assert!(refused(1, true) && refused(0, false));
    assert_eq!((net.links(0), net.links(1)), (0, 0));
}

/// R5.1.8
#[test]
fn the_tip_goes_with_the_hello_to_known_identities() {
    let mut net = Net::new(2);
    net.connect(0, 1);
    net.run_ms(200);
    let first = |n: usize| {
        let times = net
            .log
            .iter()
            .filter(|(_, from, _, message)| *from == n && matches!(message, Message::Tip(_)));
        times.map(|(at, ..)| *at).min().unwrap()
    };
    let hello = net.log.iter().find(|(.., m)| matches!(m, Message::Control(_))).unwrap().0;
    assert_eq!(first(0), hello, "with the first message");
    assert_eq!(first(1).since(hello), net.delay, "and the answer after one more way");
}

// Two connections between the same two.

fn connected(net: &Net, n: usize) -> usize {
    let events = net.hosts[n].events.iter();
    events.filter(|event| matches!(event, Event::PeerConnected { .. })).count()
}

fn disconnected(net: &Net, n: usize) -> usize {
    let events = net.hosts[n].events.iter();
    events.filter(|event| matches!(event, Event::PeerDisconnected { .. })).count()
}

/// R5.3.2
#[test]
fn simultaneous_dials_leave_one_connection() {
    // The second dial comes at every moment of the first one's hello.
    for late in 0..60 {
        let mut net = Net::new(2);
        net.connect(0, 1);
        net.run_ms(late);
        net.connect(1, 0);
        net.run_ms(8000);
        assert_eq!((net.links(0), net.links(1)), (1, 1), "{late} ms");
        for n in [0, 1] {
            assert_eq!((connected(&net, n), disconnected(&net, n)), (1, 0), "{late} ms");
        }
        // And it works.
        let body = item(1, 100);
        net.publish(0, SMALL, &body);
        net.publish(1, SMALL, &item(2, 100));
        net.run_ms(100);
        assert!(net.holds(1, SMALL, &body) && net.holds(0, SMALL, &item(2, 100)), "{late} ms");
    }
}

/// R5.3.1
#[test]
fn the_connection_that_the_smaller_dialed_stays() {
    let mut net = Net::new(2);
    assert!(net.peer(0) < net.peer(1));
    net.connect(1, 0);
    net.connect(0, 1);
    net.run_ms(8000);
    let inbound = |n: usize| net.hosts[n].node.status().peers[0].inbound;
    assert!(!inbound(0) && inbound(1));
}

/// R5.3.3
#[test]
fn a_second_connection_is_refused_while_the_first_answers() {
    let mut net = Net::pair();
    net.connect(0, 1);
    net.run_ms(3000);
    assert_eq!((net.links(0), net.links(1)), (1, 1));
    assert_eq!(net.hosts[1].node.stats().refused(true, RefusalKind::Duplicate), 1);
    assert_eq!((disconnected(&net, 0), disconnected(&net, 1)), (0, 0));
}

/// The round trips that the two nodes have measured.
fn round_trips(net: &Net) -> [Option<Duration>; 2] {
    [0, 1].map(|host| net.hosts[host].node.status().peers[0].round_trip)
}

#[test]
fn both_ends_measure_a_round_trip_by_the_hello() {
    let net = Net::pair();
    let [dialer, listener] = round_trips(&net);
    assert!(dialer.is_some_and(|time| time < Duration::from_millis(500)), "{dialer:?}");
    assert_eq!(dialer, listener);
}

/// R5.3.4
#[test]
fn a_connection_that_is_dead_is_replaced() {
    let mut net = Net::pair();
    // Node 0 has lost its side and does not say so.
    net.restart(0);
    net.connect(0, 1);
    net.run_ms(1900);
    assert_eq!(net.links(0), 0, "the older one has two seconds to answer");
    net.run_ms(300);
    assert_eq!((net.links(0), net.links(1)), (1, 1));
    // Applications that count get both events: it was connected twice, and disconnected never.
    let told = net.hosts[1].events.iter().filter_map(|event| match event {
        Event::PeerConnected { .. } => Some(None),
        Event::PeerDisconnected { reason, .. } => Some(Some(reason.clone())),
        _ => None,
    });
    let gone = Disconnect::Local(Goodbye::Silent);
    assert_eq!(told.collect::<Vec<_>>(), [None, Some(gone), None]);
    // The two seconds do not count as a round trip.
    let shortly = |time: Option<Duration>| time.is_some_and(|t| t < Duration::from_millis(500));
    assert!(round_trips(&net).into_iter().all(shortly), "{:?}", round_trips(&net));
    let body = item(1, 100);
    net.publish(1, SMALL, &body);
    net.run_ms(100);
    assert!(net.holds(0, SMALL, &body));
}

/// R5.3.5
#[test]
fn a_dialer_that_still_holds_a_dead_connection_gets_a_new_one() {
    let mut net = Net::pair();
    // Node 1 restarts; node 0 does not know, and dials again in the same direction.
    net.restart(1);
    net.connect(0, 1);
    net.run_ms(3000);
    assert_eq!((net.links(0), net.links(1)), (1, 1));
    assert!(net.hosts[0].node.stats().violations().next().is_none());
    let body = item(1, 100);
    net.publish(0, SMALL, &body);
    net.run_ms(100);
    assert!(net.holds(1, SMALL, &body));
}

#[test]
fn events_of_a_replaced_connection_do_not_touch_its_successor() {
    let mut script = Script::up();
    let old = script.connection;
    script.connect(PEER);
    say(&mut script, |hello| hello.instance = 78);
    script.wait(2000);
    assert!(script.closed.contains(&old));
    script.send(CONTROL, &ControlMessage::Setup(setup(script.node.config())));
    assert_eq!(script.node.status().peers.len(), 1);
    script.input(Input::Closed { connection: old });
    script.input(Input::Closed { connection: ConnectionId(999) });
    assert_eq!(script.node.status().peers.len(), 1);
}

// Liveness.

/// R5.5.1
#[test]
fn an_idle_connection_is_pinged_by_its_dialer() {
    let mut net = Net::pair();
    net.run(Duration::from_secs(29));
    assert_eq!(net.log, []);
    net.run(Duration::from_secs(2));
    let pings = net.sent(0, 1, pick!(Message::Control(ControlMessage::Ping(n)) => *n));
    let pongs = net.sent(1, 0, pick!(Message::Control(ControlMessage::Pong(n)) => *n));
    assert_eq!(pings.len(), 1);
    assert_eq!(pings, pongs);
}

/// R5.5.4
#[test]
fn silent_peers_are_disconnected() {
    let mut net = Net::pair();
    net.cut.extend([(0, 1), (1, 0)]);
    net.run(Duration::from_secs(37));
    assert_eq!(net.links(0), 1);
    // The dialer pings after 30 s and waits for 8 more; the listener pings after 45.
    net.run(Duration::from_secs(2));
    assert_eq!(net.links(0), 0);
    let reason = Disconnect::Local(Goodbye::Silent);
    let peer = net.peer(1);
    assert!(net.hosts[0].events.contains(&Event::PeerDisconnected { peer, reason }));
}

// Channel instances and their versions.

#[test]
fn a_network_is_upgraded_node_by_node() {
    let newer = |n| {
        let mut config = config(n);
        config.pools[1].versions = vec![1, 2];
        config
    };
    let mut net = Net::with(vec![newer(1), config(2), newer(3)]);
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        net.connect(a, b);
    }
    net.run_ms(500);
    let version = |net: &Net, n: usize, of: usize| {
        let status = net.hosts[n].node.status();
        let peer = status.peers.iter().find(|p| p.peer == net.peer(of).to_string()).unwrap();
        peer.channels.iter().find(|(number, _)| *number == 18).unwrap().1
    };
    assert_eq!([version(&net, 0, 1), version(&net, 1, 2), version(&net, 0, 2)], [1, 1, 2]);
    for n in 0..3 {
        net.publish(n, SMALL, &item(n as u8 + 1, 100));
    }
    net.run_ms(500);
    assert!((0..3).all(|n| net.ids(n, SMALL).len() == 3));
}

/// R5.7.6
#[test]
fn other_rules_refuse_the_instance_and_not_the_connection() {
    let mut other = config(2);
    // Items of another size: the nodes would not agree on which are too large.
    other.pools[1].max_item += 1;
    let mut net = Net::with(vec![config(1), other]);
    net.connect(0, 1);
    net.run_ms(500);
    assert_eq!((net.links(0), net.links(1)), (1, 1));
    net.publish(0, SMALL, &item(1, 100));
    net.publish(0, super::application::LARGE, &item(2, 100));
    net.run_ms(1000);
    assert!(!net.holds(1, SMALL, &item(1, 100)));
    assert!(net.holds(1, super::application::LARGE, &item(2, 100)));
}

/// R5.1.7
#[test]
fn a_kind_of_channel_that_is_unknown_is_passed_over() {
    let mut script = Script::alone();
    script.connect(PEER);
    say(&mut script, |_| {});
    let mut setup = setup(script.node.config());
    let mut unknown = setup.offers[2].clone();
    unknown.kind = 999;
    unknown.versions[0].rules = Digest([1; 32]);
    setup.offers.push(unknown);
    setup.roles = u32::MAX;
    script.send(CONTROL, &ControlMessage::Setup(setup));
    assert_eq!(script.accusation(), None);
    assert_eq!(script.node.status().peers[0].channels.len(), 8);
    let admission = Admission::default();
    let (request, pool, body) = (1, SMALL, item(1, 100));
    script.command(Command::Publish { request, pool, body, admission });
    assert_eq!(script.take().iter().filter(|(channel, _)| *channel == 18).count(), 1);
}

/// R5.1.5
#[test]
fn messages_before_the_hello_are_out_of_turn() {
    for message in
        [ControlMessage::Ping(1), ControlMessage::Pong(1), ControlMessage::Setup(setup(&config(1)))]
    {
        let mut script = Script::alone();
        script.connect(PEER);
        script.send(CONTROL, &message);
        assert_eq!(script.accusation(), Some(Violation::OutOfTurn), "{message:?}");
    }
}

/// R5.1.1, R5.1.2
#[test]
fn the_dialer_speaks_first_and_setups_follow_hellos() {
    let mut script = Script::alone();
    script.connect(PEER);
    assert_eq!(script.take(), [], "the listener waits");
    let mut net = Net::new(2);
    net.connect(0, 1);
    net.run_ms(200);
    let steps = |n: usize| {
        let said = net.log.iter().filter(|(_, from, ..)| *from == n);
        let said = said.filter_map(|(at, _, _, message)| match message {
            Message::Control(ControlMessage::Hello(_)) => Some(("hello", *at)),
            Message::Control(ControlMessage::Setup(_)) => Some(("setup", *at)),
            Message::Control(_) => Some(("other", *at)),
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    let [dialer, listener] = [steps(0), steps(1)];
    let names = |steps: &[(&'static str, _)]| steps.iter().map(|(n, _)| *n).collect::<Vec<_>>();
    assert_eq!(
        (names(&dialer), names(&listener)),
        (vec!["hello", "setup"], vec!["hello", "setup"])
    );
    // Each answer takes one trip: nothing was sent before it was due.
    assert_eq!(listener[0].1.since(dialer[0].1), net.delay);
    assert_eq!(dialer[1].1.since(listener[0].1), net.delay);
}

/// R5.1.8
#[test]
fn tips_are_not_sent_to_unknown_identities() {
    let mut net = Net::new(2);
    let address = super::net::address(1);
    net.command(0, Command::Dial { address, peer: None });
    net.run_ms(200);
    let first = |wanted: fn(&Message) -> bool, n: usize| {
        let said = net.log.iter().filter(|(_, from, _, message)| *from == n && wanted(message));
        said.map(|(at, ..)| *at).next().unwrap()
    };
    let hello = first(|message| matches!(message, Message::Control(_)), 1);
    let tip = first(|message| matches!(message, Message::Tip(_)), 0);
    assert_eq!(tip.since(hello), net.delay, "after the other's hello");
}

/// Regression: one identity took dozens of places, each of them waiting for the older one. R5.3.6
#[test]
fn one_identity_has_two_connections_at_most() {
    let mut script = Script::up();
    let first = script.connection;
    script.connect(PEER);
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    assert_eq!(script.refusal(), None, "it may replace the first");
    for _ in 0..30 {
        script.connect(PEER);
        assert_eq!(script.refusal(), Some(Refusal::Duplicate), "at once, without a hello");
    }
    assert!(!script.closed.contains(&first));
    assert_eq!(script.node.status().peers.len(), 1);
}

/// Regression: silent connections of one network group kept all others out.
#[test]
fn a_group_that_fills_the_hellos_makes_room() {
    let mut config = config(1);
    config.limits.handshakes = 4;
    let mut script = Script::with(config);
    let at = |script: &mut Script, group: u8, n: u8| {
        script.seen_at = Address(Bytes::from(vec![4, 8, group, 0, n, 0x91, 2, 0, 1]));
        script.connect(PeerId([100 + n; 32]));
        script.connection
    };
    let silent = (0..4).map(|n| at(&mut script, 1, n)).collect::<Vec<_>>();
    // As many are let in as before, then the first of the largest group is evicted.
    at(&mut script, 1, 4);
    assert!(matches!(script.refusal(), Some(Refusal::Busy(_))), "the same group waits");
    let other = at(&mut script, 2, 5);
    assert_eq!(script.refusal(), None);
    assert!(script.closed.contains(&silent[0]) && !script.closed.contains(&silent[1]));
    script.shake_hands();
    assert!(!script.closed.contains(&other));
    assert_eq!(script.node.status().peers.len(), 1);
}

/// It is shown in terminals: escape sequences are filtered.
#[test]
fn a_client_says_who_it_is_in_plain_text() {
    let mut script = Script::alone();
    script.connect(PEER);
    say(&mut script, |hello| hello.client = "evil\u{1b}[2J\u{202e}\n1.0".to_owned());
    script.send(CONTROL, &ControlMessage::Setup(setup(script.node.config())));
    assert_eq!(script.node.status().peers[0].client, "evil?[2J??1.0");
}

/// Who is told about a node's local addresses. R15.6
#[test]
fn addresses_of_a_local_network_stay_there() {
    let local = Address(Bytes::from_static(&[4, 10, 0, 0, 1, 0x91, 2, 0, 1]));
    let public = Address(Bytes::from_static(&[4, 8, 8, 8, 8, 0x91, 2, 0, 1]));
    let far = Address(Bytes::from_static(&[4, 9, 9, 9, 9, 0x91, 2, 0, 1]));
    let near = Address(Bytes::from_static(&[4, 10, 0, 0, 2, 0x91, 2, 0, 1]));
    let told = |listening: Vec<Address>, seen_at: &Address| {
        let mut script = Script::alone();
        script.node.handle_command(script.now, super::net::listening(listening));
        while let Some(output) = script.node.poll_output() {
            if let Output::Sign { request, .. } = output {
                let signature = Signature([1; 64]);
                let signed = Command::Signature { request, signature };
                script.node.handle_command(script.now, signed);
            }
        }
        script.seen_at = seen_at.clone();
        script.connect(PEER);
        script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
        let said = script.received::<ControlMessage>(CONTROL).into_iter();
        let record = said.filter_map(|message| match message {
            ControlMessage::Setup(setup) => Some(setup.record.map(|record| record.addresses)),
            _ => None,
        });
        record.last().unwrap()
    };
    assert_eq!(told(vec![local.clone()], &near), Some(vec![local.clone()]));
    assert_eq!(told(vec![local.clone()], &far), None);
    let both = vec![local.clone(), public.clone()];
    assert_eq!(told(both.clone(), &far), Some(vec![public.clone()]));
    assert_eq!(told(both, &near), Some(vec![public, local]));
}

/// R5.7.4
#[test]
fn an_instance_that_is_refused_keeps_its_number() {
    let [mut one, mut other] = [config(1), config(2)];
    // Blocks do not contain items of it: nodes may differ about it and still exchange blocks.
    for config in [&mut one, &mut other] {
        config.pools[0].in_blocks = false;
    }
    other.pools[0].max_item += 1;
    let mut net = Net::with(vec![one, other]);
    net.connect(0, 1);
    net.run_ms(500);
    let channels = &net.hosts[0].node.status().peers[0].channels;
    let numbers = channels.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!(numbers, [0, 1, 2, 16, 18, 19, 20]);
    // It is reported, or whoever publishes there would think that the other has it.
    let status = net.hosts[0].node.status();
    let large = net.hosts[0].node.config().pools[0].name.clone();
    assert_eq!(status.peers[0].not_shared, [(Kind::Pool, large.clone(), NotShared::OtherRules)]);
    let told = |event: &&Event| matches!(event, Event::NotShared { .. });
    let reason = NotShared::OtherRules;
    let expected = Event::NotShared { peer: net.peer(1), kind: Kind::Pool, name: large, reason };
    assert_eq!(net.hosts[0].events.iter().filter(told).collect::<Vec<_>>(), [&expected]);
    net.publish(0, SMALL, &item(1, 100));
    net.run_ms(500);
    assert!(net.holds(1, SMALL, &item(1, 100)));
}
