//! Section 14: staying connected to the peers that the configuration names.

use bytes::Bytes;

use super::application::config;
use super::script::{CONTROL, PEER, Script, hello, setup};
use crate::Config;
use crate::config::{ConfigError, StaticPeer};
use crate::id::{Address, DialId, PeerId};
use crate::io::{Command, DialError, Direction, Event, Input};
use crate::wire::{ControlMessage, Goodbye, Refusal};

fn named(n: u8, peer: Option<PeerId>) -> StaticPeer {
    StaticPeer { address: Address(Bytes::from(vec![n])), peer }
}

fn with(peers: Vec<StaticPeer>) -> Script {
    let mut config: Config = config(1);
    config.static_peers = peers;
    let mut script = Script::with(config);
    script.wait(0);
    script
}

/// The dials so far, each once.
fn dials(script: &mut Script) -> Vec<DialId> {
    std::mem::take(&mut script.dials)
}

fn one(script: &mut Script) -> DialId {
    let dials = dials(script);
    assert_eq!(dials.len(), 1);
    dials[0]
}

fn fail(script: &mut Script, dial: DialId) {
    script.input(Input::DialFailed { dial, error: DialError::Unreachable });
}

/// Milliseconds until the next dial.
fn until_next(script: &mut Script) -> u64 {
    for ms in 0..100_000 {
        if !script.dials.is_empty() {
            return ms;
        }
        script.wait(1);
    }
    panic!("it is not dialed any more");
}

/// The dial reaches the peer, and the hello completes.
fn meet(script: &mut Script, dial: DialId) {
    script.connected(PEER, Direction::Outbound(dial));
    script.shake_hands();
}

/// Regression: a peer that was connected by another address was dialed again every two seconds, and
/// its operator was told that another process had its key.
#[test]
fn peers_connected_by_another_address_are_not_dialed() {
    let mut script = with(vec![named(1, None)]);
    let dial = one(&mut script);
    script.connect(PEER);
    script.shake_hands();
    let link = script.connection;
    script.connected(PEER, Direction::Outbound(dial));
    script.send(CONTROL, &ControlMessage::Refuse(Refusal::Duplicate));
    assert!(!script.events.iter().any(|event| matches!(event, Event::Refused { .. })));
    script.input(Input::Closed { connection: script.connection });
    script.wait(7_000);
    assert_eq!(dials(&mut script), []);
    script.close(link);
    assert!(until_next(&mut script) <= 1_000);
}

/// Regression: the other addresses of a peer were never dialed again after the connection by the
/// first had ended.
#[test]
fn all_addresses_of_a_lost_peer_are_dialed() {
    let mut script = with(vec![named(1, None), named(2, None)]);
    let dials = dials(&mut script);
    meet(&mut script, dials[0]);
    let link = script.connection;
    script.connected(PEER, Direction::Outbound(dials[1]));
    script.send(CONTROL, &ControlMessage::Refuse(Refusal::Duplicate));
    script.input(Input::Closed { connection: script.connection });
    assert_eq!(self::dials(&mut script), []);
    script.close(link);
    script.wait(2_000);
    assert!(self::dials(&mut script).len() >= 2);
}

/// The application is told the result of a dial that it requested.
#[test]
fn an_application_is_told_that_a_peer_is_there_already() {
    let mut script = Script::up();
    script.dial(PEER);
    script.send(CONTROL, &ControlMessage::Refuse(Refusal::Duplicate));
    assert!(script.events.iter().any(|event| matches!(event, Event::Refused { .. })));
}

/// Without an existing connection the refusal means what it says: another process has a connection
/// with this key.
#[test]
fn a_second_process_with_the_same_key_is_reported() {
    let mut script = with(vec![named(1, None)]);
    let dial = one(&mut script);
    script.connected(PEER, Direction::Outbound(dial));
    script.send(CONTROL, &ControlMessage::Refuse(Refusal::Duplicate));
    assert!(script.events.iter().any(|event| matches!(event, Event::Refused { .. })));
    assert!(until_next(&mut script) >= 1_000);
}

fn met() -> Script {
    let mut script = with(vec![named(1, Some(PEER))]);
    let dial = one(&mut script);
    meet(&mut script, dial);
    script
}

#[test]
fn unreachable_peers_are_dialed_with_backoff() {
    let mut script = with(vec![named(1, None)]);
    for expected in [500, 1000, 2000, 4000, 5000, 5000] {
        let dial = one(&mut script);
        fail(&mut script, dial);
        let waited = until_next(&mut script);
        assert!((expected * 3 / 4..=expected * 5 / 4).contains(&waited), "{waited} ms");
    }
    // A dial without an answer fails after 3 s.
    let mut script = with(vec![named(1, None)]);
    one(&mut script);
    let waited = until_next(&mut script);
    assert!((3000 + 375..=3000 + 625).contains(&waited), "{waited} ms");
}

#[test]
fn lost_peers_are_redialed_at_once() {
    for (up_for, expected) in [(5_000, 0..=100), (4_998, 375..=625)] {
        let mut script = met();
        // The hello took 1 ms.
        script.wait(up_for - 1);
        assert!(script.dials.is_empty());
        script.close(script.connection);
        let waited = until_next(&mut script);
        assert!(expected.contains(&waited), "{waited} ms");
    }
    // A peer that fails the hello is treated differently.
    let mut script = with(vec![named(1, Some(PEER))]);
    let dial = one(&mut script);
    script.connected(PEER, Direction::Outbound(dial));
    script.close(script.connection);
    assert!((375..=625).contains(&until_next(&mut script)));
}

#[test]
fn a_reason_says_when_to_come_back() {
    let cases = [
        (Refusal::Busy(2000), 1500..=2500),
        (Refusal::Banned(20), 15_000..=25_000),
        (Refusal::Duplicate, 1500..=2500),
        (Refusal::Full(Vec::new()), 375..=625),
        (Refusal::WrongNetwork, 45_000..=75_000),
        (Refusal::NotAllowed, 45_000..=75_000),
    ];
    for (refusal, expected) in cases {
        let mut script = with(vec![named(1, Some(PEER))]);
        let dial = one(&mut script);
        script.connected(PEER, Direction::Outbound(dial));
        script.send(CONTROL, &ControlMessage::Refuse(refusal.clone()));
        let waited = until_next(&mut script);
        assert!(expected.contains(&waited), "{refusal:?}: {waited} ms");
    }
    for (goodbye, expected) in [
        (Goodbye::ShuttingDown, 375..=625),
        (Goodbye::Silent, 0..=100),
        (Goodbye::Requested, 45_000..=75_000),
    ] {
        let mut script = met();
        script.wait(10_000);
        script.send(CONTROL, &ControlMessage::Goodbye(goodbye.clone()));
        let waited = until_next(&mut script);
        assert!(expected.contains(&waited), "{goodbye:?}: {waited} ms");
    }
    // A peer that the application disconnects is not dialed back.
    let mut script = met();
    script.command(Command::Disconnect { peer: PEER });
    assert!((45_000..=75_000).contains(&until_next(&mut script)));
}

#[test]
fn the_first_success_resets_the_backoff_of_others() {
    let mut script = with(vec![named(1, None), named(2, Some(PEER))]);
    let [first, second] = dials(&mut script)[..] else { panic!() };
    let mut failing = first;
    for _ in 0..6 {
        fail(&mut script, failing);
        until_next(&mut script);
        failing = one(&mut script);
    }
    fail(&mut script, failing);
    meet(&mut script, second);
    assert!(until_next(&mut script) <= 625);
    // The next wait is as short as the first.
    let dial = one(&mut script);
    fail(&mut script, dial);
    assert!((375..=625).contains(&until_next(&mut script)));
}

#[test]
fn peers_that_dialed_in_are_not_dialed() {
    let mut script = with(vec![named(1, Some(PEER))]);
    let dial = one(&mut script);
    script.connect(PEER);
    script.shake_hands();
    fail(&mut script, dial);
    script.wait(60_000 / 2);
    assert!(script.dials.is_empty());
    // When that connection is lost, it is dialed.
    script.close(script.connection);
    assert!(until_next(&mut script) <= 100);
}

#[test]
fn the_first_identity_at_an_address_is_expected_afterwards() {
    let mut script = with(vec![named(1, None)]);
    let dial = one(&mut script);
    meet(&mut script, dial);
    script.close(script.connection);
    until_next(&mut script);
    assert_eq!(script.dialed.last(), Some(&Some(PEER)));
}

#[test]
fn no_dials_during_shutdown() {
    let mut script = met();
    script.command(Command::Shutdown);
    script.wait(10_000);
    assert!(script.dials.is_empty());
}

#[test]
fn static_peers_are_bounded_by_outbound_connections() {
    let mut config = config(1);
    config.limits.max_outbound = 2;
    config.static_peers = vec![named(1, None), named(2, None)];
    assert_eq!(config.validate(), Ok(()));
    config.static_peers.push(named(3, None));
    let error = config.validate().unwrap_err();
    assert_eq!(error, ConfigError::TooManyStaticPeers { named: 3, most: 2 });
    assert!(error.to_string().contains("raise it or name fewer"));
    // One that was dialed for another reason takes a place: then it is waited for.
    config.static_peers.truncate(2);
    let mut script = Script::with(config);
    let address = Address(Bytes::from_static(b"other"));
    script.command(Command::Dial { address, peer: None });
    let other = one(&mut script);
    script.wait(0);
    one(&mut script);
    script.wait(5_000 / 2);
    assert!(script.dials.is_empty(), "there is no room");
    fail(&mut script, other);
    assert!(until_next(&mut script) <= 1000);
}

#[test]
fn the_hello_goes_first_to_one_who_was_named() {
    let mut script = with(vec![named(1, Some(PEER))]);
    let dial = one(&mut script);
    script.connected(PEER, Direction::Outbound(dial));
    let said = script.received::<ControlMessage>(CONTROL);
    assert!(matches!(said[..], [ControlMessage::Hello(_)]), "{said:?}");
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    script.send(CONTROL, &ControlMessage::Setup(setup(script.node.config())));
    assert_eq!(script.node.status().peers.len(), 1);
}
