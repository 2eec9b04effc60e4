//! Section 5.3: two connections between the same two nodes, however they came about. Soon there
//! must be exactly one, on both sides, and it stays.

use std::time::Duration;

use super::application::config;
use super::net::{Net, address};
use super::script::{CONTROL, PEER, Script, hello, setup};
use crate::config::StaticPeer;
use crate::io::Event;
use crate::rng::Rng;
use crate::wire::{ControlMessage, Refusal};

/// How long a peer may be locked out at most: two seconds for the old connection to answer, and a
/// second for what follows.
const LOCKED_OUT: Duration = Duration::from_secs(3);

/// Two nodes, each told to stay connected to some peers.
fn named(dials: [bool; 2]) -> Net {
    let with = |n: usize| {
        let mut config = config(n as u8 + 1);
        let other = 1 - n;
        if dials[n] {
            let at = StaticPeer { address: address(other), peer: None };
            config.static_peers = vec![at];
        }
        config
    };
    Net::with(vec![with(0), with(1)])
}

fn disconnects(net: &Net, n: usize) -> usize {
    let events = net.hosts[n].events.iter();
    events.filter(|event| matches!(event, Event::PeerDisconnected { .. })).count()
}

/// Each is connected to the other exactly once, and stays so.
fn is_settled(net: &mut Net, what: &str) {
    assert_eq!([net.links(0), net.links(1)], [1, 1], "{what}");
    let before = [disconnects(net, 0), disconnects(net, 1)];
    net.run(Duration::from_secs(60));
    assert_eq!([net.links(0), net.links(1)], [1, 1], "{what}, a minute later");
    assert_eq!([disconnects(net, 0), disconnects(net, 1)], before, "{what}: it flaps");
}

/// R5.3.1, R5.3.2
#[test]
fn a_thousand_pairs_that_dial_at_once() {
    let mut rng = Rng::new([3; 32]);
    for round in 0..1000 {
        let mut net = named([false, false]);
        let mut below = |most: u64| Duration::from_micros(rng.next_u64() % most);
        net.delay = below(80_000);
        // The second dial comes while the first is in progress, or a little later.
        let offset = below(100_000);
        let first = usize::from(below(2) > Duration::ZERO);
        net.connect(first, 1 - first);
        net.run(offset);
        net.connect(1 - first, first);
        net.run(LOCKED_OUT);
        let what = format!("pair {round}, {:?} apart, {offset:?} later", net.delay);
        is_settled(&mut net, &what);
    }
}

/// R5.3.3, R5.3.4
#[test]
fn one_side_restarts_at_every_step_of_the_hello() {
    for dials in [[true, false], [false, true], [true, true]] {
        for restarts in [0, 1] {
            for ms in 0..80 {
                let mut net = named(dials);
                net.run_ms(ms);
                net.restart(restarts);
                net.run_ms(1);
                let since = net.now;
                while [net.links(0), net.links(1)] != [1, 1] {
                    net.run_ms(10);
                    let waited = net.now.since(since);
                    // A node that does not dial itself is found once the other has noticed.
                    let most = if dials[restarts] { LOCKED_OUT * 2 } else { LOCKED_OUT * 16 };
                    assert!(waited < most, "{dials:?}, {restarts} after {ms} ms: {waited:?}");
                }
                is_settled(&mut net, &format!("{dials:?}, {restarts} after {ms} ms"));
            }
        }
    }
}

#[test]
fn a_dialer_that_lost_its_side_is_not_locked_out() {
    let mut net = named([true, false]);
    net.run(Duration::from_secs(10));
    for round in 0..20 {
        net.restart(0);
        net.connect(0, 1);
        net.run(LOCKED_OUT);
        assert_eq!([net.links(0), net.links(1)], [1, 1], "round {round}");
        net.run(Duration::from_secs(5));
        assert_eq!([net.links(0), net.links(1)], [1, 1], "round {round}");
    }
}

#[test]
fn the_first_of_two_processes_with_one_key_stays() {
    let mut configs = vec![config(1), config(2), config(2)];
    for config in &mut configs[1..] {
        config.static_peers = vec![StaticPeer { address: address(0), peer: None }];
    }
    let mut net = Net::with(configs);
    net.down.insert(2);
    net.run(Duration::from_secs(5));
    assert_eq!([net.links(0), net.links(1)], [1, 1]);
    net.down.clear();
    net.hosts[0].events.clear();
    net.run(Duration::from_secs(300));
    assert_eq!([net.links(0), net.links(1), net.links(2)], [1, 1, 0]);
    assert_eq!([disconnects(&net, 0), disconnects(&net, 1)], [0, 0], "it does not flap");
    // The second is told why, and retries now and then.
    let refused = net.hosts[2].events.iter().filter(|e| matches!(e, Event::Refused { .. })).count();
    assert!((10..=130).contains(&refused), "{refused}");
    // Once the first one is gone the second takes its place.
    net.reset(0, 1);
    net.down.insert(1);
    net.run(Duration::from_secs(10));
    assert_eq!([net.links(0), net.links(2)], [1, 1]);
}

/// A process that dies during a simultaneous dial leaves two connections behind: they are pinged at
/// once, not one after the other.
#[test]
fn several_dead_connections_take_no_longer_than_one() {
    for offset in 0..60 {
        let mut net = named([false, false]);
        net.connect(0, 1);
        net.run_ms(offset);
        net.connect(1, 0);
        net.run_ms(100);
        net.restart(1);
        net.connect(1, 0);
        net.run(LOCKED_OUT);
        assert_eq!([net.links(0), net.links(1)], [1, 1], "{offset} ms apart");
    }
}

/// Regression: a node that dialed twice at the same moment was cut off after two seconds. The older
/// connection was not up yet when it was to be pinged, and the ping was forgotten.
#[test]
fn an_older_connection_is_pinged_when_it_is_up() {
    let mut script = Script::alone();
    script.connect(PEER);
    let older = script.connection;
    script.send(CONTROL, &ControlMessage::Hello(hello(older)));
    script.connect(PEER);
    let newer = script.connection;
    script.send(CONTROL, &ControlMessage::Hello(hello(newer)));
    script.elsewhere.clear();
    let setup = setup(script.node.config());
    script.send_on(older, CONTROL, &ControlMessage::Setup(setup));
    let sent = std::mem::take(&mut script.elsewhere).into_iter();
    let pings = sent.filter_map(|(link, _, frame)| match frame.decode() {
        Ok(ControlMessage::Ping(number)) => Some((link, number)),
        _ => None,
    });
    let [(link, number)] = pings.collect::<Vec<_>>()[..] else { panic!("it is asked") };
    assert_eq!(link, older);
    script.send_on(older, CONTROL, &ControlMessage::Pong(number));
    assert_eq!(script.refusal(), Some(Refusal::Duplicate));
    script.wait(3_000);
    assert_eq!(script.node.status().peers.len(), 1);
    assert!(!script.closed.contains(&older));
}
