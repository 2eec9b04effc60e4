//! The rest of section 15: nodes that move, and nodes that ask whether they can be dialed.

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};

use super::application::config;
use super::script::{CONTROL, PEER, PEERS, Script, hello, setup};
use crate::Violation;
use crate::control::reachable::Told;
use crate::id::{Address, ConnectionId, PeerId, Signature};
use crate::io::{Command, Connected, DialError, Direction, Input};
use crate::peers::address::tests::ip4;
use crate::wire::{ControlMessage, PeerRecord, PeersMessage};

fn listener() -> Address {
    ip4([0; 4], 4001)
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

/// A node that listens on all interfaces of a machine at home, and looks for peers.
fn node() -> Script {
    let mut config = config(1);
    config.peer = PeerId(key().verifying_key().to_bytes());
    config.outbound = 4;
    config.limits.ping_idle = Duration::from_secs(86_400);
    let mut script = Script::with(config);
    script.listener = Some(listener());
    lies_at(&mut script, [192, 168, 1, 5]);
    script
}

/// The machine has this address now, and its records are signed.
fn lies_at(script: &mut Script, ip: [u8; 4]) {
    script.command(Command::Listening {
        listeners: vec![listener()],
        interfaces: vec![ip4(ip, 0)],
        external: Vec::new(),
    });
    sign(script);
}

fn sign(script: &mut Script) {
    for (request, payload) in std::mem::take(&mut script.signs) {
        let signature = Signature(key().sign(&payload).to_bytes());
        script.command(Command::Signature { request, signature });
    }
}

const OUTSIDE: [u8; 4] = [8, 8, 8, 8];

/// Dials a peer at an address, which sees the node outside; frames to `kept` are kept.
fn sees(script: &mut Script, at: [u8; 4], kept: Option<ConnectionId>) -> ConnectionId {
    sees_at(script, at, kept, &ip4(OUTSIDE, 777))
}

fn sees_at(
    script: &mut Script,
    at: [u8; 4],
    kept: Option<ConnectionId>,
    observed: &Address,
) -> ConnectionId {
    script.seen_at = ip4(at, 4001);
    script.dial(PeerId([at[3]; 32]));
    let link = script.connection;
    script.send(CONTROL, &ControlMessage::Hello(hello(link)));
    script.take();
    script.connection = kept.unwrap_or(link);
    let setup = crate::wire::Setup { observed: observed.clone(), ..setup(script.node.config()) };
    script.send_on(link, CONTROL, &ControlMessage::Setup(setup));
    link
}

/// What the node has sent on the peers channel, of one kind of message.
fn said<T>(script: &mut Script, kind: fn(PeersMessage) -> Option<T>) -> Vec<T> {
    script.received(PEERS).into_iter().filter_map(kind).collect()
}

fn questions(script: &mut Script) -> Vec<Address> {
    said(script, |message| match message {
        PeersMessage::Reach(address) => Some(address),
        _ => None,
    })
}

fn answers(script: &mut Script) -> Vec<bool> {
    said(script, |message| match message {
        PeersMessage::Reached(reached) => Some(reached),
        _ => None,
    })
}

fn moves(script: &mut Script) -> Vec<PeerRecord> {
    said(script, |message| match message {
        PeersMessage::Moved(record) => Some(record),
        _ => None,
    })
}

fn told(script: &Script) -> Vec<(Address, Told)> {
    let addresses = script.node.status().addresses.into_iter();
    addresses.map(|own| (own.address, own.told)).collect()
}

/// R5.4.3
#[test]
fn an_address_seen_by_two_is_advertised_once_reached() {
    let [outside, home] = [ip4(OUTSIDE, 777), ip4([192, 168, 1, 5], 4001)];
    for reached in [true, false] {
        let mut script = node();
        let first = sees(&mut script, [20, 1, 0, 1], None);
        assert_eq!(questions(&mut script), [], "nobody else sees it there");
        sees(&mut script, [20, 2, 0, 2], Some(first));
        assert_eq!(questions(&mut script), std::slice::from_ref(&outside));
        let unproven = [(home.clone(), Told::Local), (outside.clone(), Told::Unproven)];
        assert_eq!(told(&script), unproven);
        script.send(PEERS, &PeersMessage::Reached(reached));
        if reached {
            let proven = [(outside.clone(), Told::All), (home.clone(), Told::Local)];
            assert_eq!(told(&script), proven);
        } else {
            assert_eq!(told(&script), unproven);
            // The other is asked next, and then none for a while.
            script.wait(590_000);
            assert_eq!(questions(&mut script), []);
            script.wait(20_000);
            assert_eq!(questions(&mut script), std::slice::from_ref(&outside));
        }
        assert_eq!(script.accusation(), None);
    }
}

/// A peer that names an address and says that it has reached it counts as one, whatever addresses
/// it has.
#[test]
fn reports_of_one_group_prove_no_address() {
    let mut script = node();
    let first = sees(&mut script, [20, 1, 0, 1], None);
    sees(&mut script, [20, 1, 7, 7], Some(first));
    assert_eq!(questions(&mut script), []);
    // R15.9
    script.send(PEERS, &PeersMessage::Reached(true));
    assert_eq!(script.accusation(), Some(Violation::Unasked));
    assert_eq!(told(&script)[1].1, Told::Unproven);
}

/// A neighbour, or another process on this machine, has any number of local addresses, each a group
/// of its own.
#[test]
fn local_peers_name_no_public_address() {
    let mut script = node();
    for n in 1..=4 {
        sees(&mut script, [192, 168, 1, 100 + n], None);
    }
    assert_eq!(told(&script).len(), 1);
}

/// R15.9, R15.10
#[test]
fn dial_backs_go_only_to_the_host_that_asks() {
    let mut script = node();
    script.seen_at = ip4([20, 1, 0, 1], 5555);
    script.connect(PEER);
    script.shake_hands();
    let ask = |script: &mut Script, at| script.send(PEERS, &PeersMessage::Reach(at));
    // Another port of the same host.
    ask(&mut script, ip4([20, 1, 0, 1], 4001));
    assert_eq!(script.dialed_back, [ip4([20, 1, 0, 1], 4001)]);
    assert_eq!(answers(&mut script), [false; 0]);
    let (dial, back) = (script.dials.pop().unwrap(), ConnectionId(99));
    script.input(Input::Connected(Connected::new(
        back,
        PEER,
        Direction::Outbound(dial),
        ip4([20, 1, 0, 1], 4001),
        super::script::binding(back),
    )));
    assert_eq!(answers(&mut script), [true]);
    assert_eq!((script.closed.len(), script.closed.contains(&back)), (1, true));
    assert_eq!(script.node.status().peers.len(), 1);
    script.wait(61_000);
    ask(&mut script, ip4([20, 1, 0, 1], 4002));
    let dial = script.dials.pop().unwrap();
    script.input(Input::DialFailed { dial, error: DialError::TimedOut });
    assert_eq!(answers(&mut script), [false]);
    // One a minute for each, also for addresses that are not dialed.
    ask(&mut script, ip4([20, 1, 0, 2], 4001));
    script.wait(59_000);
    assert_eq!(answers(&mut script), [false; 0]);
    script.wait(2_000);
    assert_eq!(answers(&mut script), [false]);
    assert_eq!(script.dialed_back.len(), 2, "somebody else's host");
    assert_eq!(script.accusation(), None);
    ask(&mut script, ip4([20, 1, 0, 1], 1));
    ask(&mut script, ip4([20, 1, 0, 1], 1));
    assert_eq!(script.accusation(), Some(Violation::RequestPermit));
}

/// Peers at `at` that ask are dialed back, or wait.
fn asks(script: &mut Script, at: [u8; 4]) {
    script.seen_at = ip4(at, 5555);
    script.connect(PeerId(at.repeat(8).try_into().unwrap()));
    script.shake_hands();
    script.send(PEERS, &PeersMessage::Reach(ip4(at, 1)));
}

/// Regression: four are dialed back at a time, and the others were told that they could not be
/// reached.
#[test]
fn dial_backs_at_a_time_are_bounded() {
    let mut script = node();
    for n in 1..=5 {
        asks(&mut script, [20, n, 0, 1]);
        assert_eq!(answers(&mut script), [false; 0]);
    }
    assert_eq!(script.dialed_back.len(), 4);
    let dial = script.dials[0];
    script.input(Input::DialFailed { dial, error: DialError::TimedOut });
    assert_eq!(script.dialed_back[4], ip4([20, 5, 0, 1], 1));
    assert_eq!(answers(&mut script), [false; 0]);
    assert_eq!(script.accusation(), None);
}

/// Regression: a peer with many addresses took all places.
#[test]
fn dial_backs_go_to_one_of_a_group_at_a_time() {
    let mut script = node();
    (1..=4).for_each(|n| asks(&mut script, [20, 1, 0, n]));
    assert_eq!(script.dialed_back.len(), 1);
    asks(&mut script, [20, 2, 0, 1]);
    assert_eq!(script.dialed_back.len(), 2);
    let ends = |script: &mut Script| {
        let dial = script.dials.remove(0);
        script.input(Input::DialFailed { dial, error: DialError::TimedOut });
        script.dialed_back.len()
    };
    // A slow peer makes a transport keep something for a while.
    assert_eq!(ends(&mut script), 2);
    script.wait(29_000);
    assert_eq!(script.dialed_back.len(), 2);
    script.wait(2_000);
    assert_eq!(script.dialed_back.len(), 3);
    // No peer of the second group waits.
    assert_eq!(ends(&mut script), 3);
    script.wait(31_000);
    assert_eq!(ends(&mut script), 4);
}

/// Reconnecting does not reset the rate limit.
#[test]
fn a_group_is_answered_at_a_pace() {
    let mut script = node();
    for refused in [&[false][..], &[]] {
        script.seen_at = ip4([20, 1, 0, 1], 5555);
        script.connect(PEER);
        script.shake_hands();
        script.send(PEERS, &PeersMessage::Reach(ip4([20, 1, 0, 2], 1)));
        assert_eq!(answers(&mut script), refused);
        if !refused.is_empty() {
            script.close(script.connection);
        }
    }
    script.wait(29_000);
    assert_eq!(answers(&mut script), [false; 0]);
    script.wait(2_000);
    assert_eq!(answers(&mut script), [false]);
}

/// Regression: the peer that was connected first, and asked again and again, was always answered
/// first.
#[test]
fn peers_of_a_group_take_turns() {
    let mut script = node();
    asks(&mut script, [20, 1, 0, 1]);
    let greedy = script.connection;
    asks(&mut script, [20, 1, 0, 2]);
    for _ in 0..2 {
        let dial = script.dials.remove(0);
        script.input(Input::DialFailed { dial, error: DialError::TimedOut });
        script.send_on(greedy, PEERS, &PeersMessage::Reach(ip4([20, 1, 0, 1], 1)));
        script.wait(31_000);
        if script.dialed_back.len() > 1 {
            break;
        }
    }
    assert_eq!(script.dialed_back[1], ip4([20, 1, 0, 2], 1));
}

/// Regression: a node with all its outbound connections told all that asked that they could not be
/// reached.
#[test]
fn full_nodes_still_dial_back() {
    let mut script = node();
    let most = script.node.config().limits.max_outbound as u8;
    for n in 0..most {
        script.seen_at = ip4([20, n, 0, 1], 4001);
        script.dial(PeerId([n + 100; 32]));
        script.shake_hands();
    }
    assert_eq!(script.node.status().peers.len(), usize::from(most));
    asks(&mut script, [30, 1, 0, 1]);
    assert_eq!(script.dialed_back, [ip4([30, 1, 0, 1], 1)]);
}

/// This machine does not use its ports for anything else.
#[test]
fn loopback_addresses_are_not_dialed_back() {
    let mut script = node();
    asks(&mut script, [127, 0, 0, 1]);
    assert_eq!((answers(&mut script), script.dialed_back.len()), (vec![false], 0));
}

/// Peers that have been asked on other connections than the present one.
fn asked_elsewhere(script: &mut Script) -> Vec<ConnectionId> {
    let frames = std::mem::take(&mut script.elsewhere).into_iter();
    let asks =
        |frame: &crate::wire::Frame| matches!(frame.clone().decode(), Ok(PeersMessage::Reach(_)));
    let asked = frames.filter(|(_, channel, frame)| *channel == PEERS && asks(frame));
    asked.map(|(link, ..)| link).collect()
}

/// Regression: a peer that was asked and did not answer, or disconnected, blocked all others.
#[test]
fn peers_that_do_not_answer_are_passed_over() {
    for leaves in [true, false] {
        let mut script = node();
        let first = sees(&mut script, [20, 1, 0, 1], None);
        let second = sees(&mut script, [20, 2, 0, 2], Some(first));
        assert_eq!(questions(&mut script).len(), 1);
        assert_eq!(asked_elsewhere(&mut script), []);
        if leaves {
            // Another peer of its group sees it there too.
            sees(&mut script, [20, 1, 0, 3], Some(first));
            script.close(first);
            assert_eq!(asked_elsewhere(&mut script), [second]);
            continue;
        }
        script.wait(119_000);
        assert_eq!(asked_elsewhere(&mut script), []);
        script.wait(2_000);
        assert_eq!(asked_elsewhere(&mut script), [second]);
        // The answer may still come.
        script.send(PEERS, &PeersMessage::Reached(true));
        assert_eq!(script.accusation(), None);
        assert!(told(&script).contains(&(ip4(OUTSIDE, 777), Told::All)));
    }
}

/// The same with a peer that cannot even be asked, since it reads nothing on the channel.
#[test]
fn peers_that_cannot_be_asked_are_passed_over() {
    let mut script = node();
    script.stalled = true;
    let first = sees(&mut script, [20, 1, 0, 1], None);
    script.stalled = false;
    let second = sees(&mut script, [20, 2, 0, 2], Some(first));
    assert_eq!(questions(&mut script), []);
    script.wait(119_000);
    assert_eq!(asked_elsewhere(&mut script), []);
    script.wait(2_000);
    assert_eq!(asked_elsewhere(&mut script), [second]);
}

/// All peers that are asked say that they could not reach it; the present connection is that of
/// `kept`.
fn refuse(script: &mut Script, kept: ConnectionId, asked: &mut BTreeMap<ConnectionId, u32>) {
    let here = questions(script).into_iter().map(|_| kept).collect::<Vec<_>>();
    for link in here.into_iter().chain(asked_elsewhere(script)) {
        *asked.entry(link).or_default() += 1;
        script.send_on(link, PEERS, &PeersMessage::Reached(false));
    }
}

/// Regression: with a second address the oldest peer was asked about the two in turns, without an
/// end, and no other peer.
#[test]
fn peers_are_asked_once_about_each_address() {
    let mut script = node();
    let first = sees(&mut script, [20, 1, 0, 1], None);
    let mut asked = BTreeMap::new();
    let second = sees(&mut script, [20, 2, 0, 2], Some(first));
    refuse(&mut script, first, &mut asked);
    let third = sees_at(&mut script, [20, 3, 0, 3], Some(first), &ip4([9, 9, 9, 9], 1));
    for _ in 0..20 {
        refuse(&mut script, first, &mut asked);
    }
    // The second peer sees the one address, the third the other.
    assert_eq!(asked, [(first, 2), (second, 2), (third, 1)].into());
    assert_eq!(script.accusation(), None);
}

/// An answer may come after the peer whose claim it confirms has gone: then it is the claim of a
/// single group.
#[test]
fn a_late_answer_proves_nothing_alone() {
    let mut script = node();
    let first = sees_at(&mut script, [20, 1, 0, 1], None, &ip4([9, 9, 9, 9], 1));
    let second = sees(&mut script, [20, 2, 0, 2], Some(first));
    assert_eq!(questions(&mut script), [ip4(OUTSIDE, 777)]);
    script.close(second);
    sees(&mut script, [20, 1, 0, 7], Some(first));
    script.send(PEERS, &PeersMessage::Reached(true));
    assert!(told(&script).contains(&(ip4(OUTSIDE, 777), Told::Unproven)));
    assert_eq!(script.accusation(), None);
}

/// Regression: a lost address was announced until something else happened, and peers outside of
/// this network were never told that it was the last one.
#[test]
fn addresses_no_longer_seen_are_advertised_for_an_hour() {
    let mut script = node();
    let links = [1, 2, 3].map(|n| sees(&mut script, [20, n, 0, n], None));
    sign(&mut script);
    let outside = (ip4(OUTSIDE, 777), Told::All);
    assert!(told(&script).contains(&outside));
    for link in links {
        script.close(link);
    }
    script.seen_at = ip4([30, 1, 0, 1], 5555);
    script.connect(PEER);
    script.shake_hands();
    script.wait(3_599_000);
    assert!(told(&script).contains(&outside));
    assert_eq!(moves(&mut script), []);
    script.wait(2_000);
    assert!(!told(&script).contains(&outside));
    sign(&mut script);
    let moved = moves(&mut script);
    assert_eq!((moved.len(), moved[0].addresses.len()), (1, 0));
}

/// When the last peer that saw the node at its old address disconnects, the next record says so:
/// not an hour later, or never.
#[test]
fn an_old_address_goes_with_its_last_observer() {
    let mut script = node();
    let old = [1, 2, 3].map(|n| sees(&mut script, [20, n, 0, n], None));
    script.wait(1_000);
    for n in 4..=6 {
        sees_at(&mut script, [20, n, 0, n], None, &ip4([9, 9, 9, 9], 1));
    }
    sign(&mut script);
    assert_eq!(told(&script).iter().filter(|(_, told)| *told == Told::All).count(), 2);
    for link in old {
        script.close(link);
    }
    let now = told(&script).into_iter().filter(|(_, told)| *told == Told::All);
    assert_eq!(now.map(|(address, _)| address).collect::<Vec<_>>(), [ip4([9, 9, 9, 9], 1)]);
    assert!(!script.signs.is_empty());
}

/// A record spreads to all nodes: no new one is needed for public peers if only local addresses
/// change.
#[test]
fn a_record_that_says_the_same_stays() {
    let mut script = node();
    for n in 1..=3 {
        sees(&mut script, [20, n, 0, n], None);
    }
    let both = std::mem::take(&mut script.signs);
    assert_eq!(both.len(), 2, "one for all, one for the network");
    // The other comes first: signatures are matched by request.
    for (request, payload) in both.into_iter().rev() {
        let signature = Signature(key().sign(&payload).to_bytes());
        script.command(Command::Signature { request, signature });
    }
    let own = |script: &mut Script, from| {
        script.seen_at = ip4(from, 1);
        script.connect(PEER);
        let link = script.connection;
        script.send(CONTROL, &ControlMessage::Hello(hello(link)));
        let said = script.received(CONTROL).into_iter().find_map(|message| match message {
            ControlMessage::Setup(setup) => setup.record,
            _ => None,
        });
        script.close(link);
        said.unwrap()
    };
    let public = own(&mut script, [20, 9, 0, 1]);
    assert_eq!(public.addresses, [ip4(OUTSIDE, 777)]);
    assert_eq!(own(&mut script, [192, 168, 1, 9]).addresses.len(), 2);
    // Another interface: only local peers are told.
    lies_at(&mut script, [192, 168, 1, 6]);
    assert_eq!(own(&mut script, [20, 9, 0, 1]), public);
    let local = own(&mut script, [192, 168, 1, 9]);
    assert!(local.addresses.contains(&ip4([192, 168, 1, 6], 4001)));
    assert!(local.sequence > public.sequence);
}

/// Regression: connected peers went on telling others the old addresses.
#[test]
fn moved_nodes_tell_their_peers() {
    let mut script = node();
    script.seen_at = ip4([192, 168, 1, 9], 4001);
    script.connect(PEER);
    script.shake_hands();
    assert_eq!(moves(&mut script), [], "the setup has said it");
    for n in 1..=4 {
        lies_at(&mut script, [192, 168, 1, n]);
        let moved = moves(&mut script);
        assert_eq!(moved.len(), 1);
        assert_eq!(moved[0].addresses, [ip4([192, 168, 1, n], 4001)]);
    }
    // One a minute from then on, and only the newest.
    lies_at(&mut script, [192, 168, 1, 7]);
    lies_at(&mut script, [192, 168, 1, 8]);
    assert_eq!(moves(&mut script), []);
    script.wait(61_000);
    let moved = moves(&mut script);
    assert_eq!(moved[0].addresses, [ip4([192, 168, 1, 8], 4001)]);
    assert_eq!(moved.len(), 1);
}

/// R15.8
#[test]
fn records_sent_too_often_are_violations() {
    let record = |sequence| {
        let (key, network) = (SigningKey::from_bytes(&[2; 32]), config(1).network);
        let peer = PeerId(key.verifying_key().to_bytes());
        let addresses = vec![ip4([20, 1, 0, 1], sequence as u16)];
        let payload = crate::peers::record::payload(&network, peer, sequence, &addresses, None);
        let signature = Signature(key.sign(&payload.unwrap()).to_bytes());
        PeerRecord { peer, sequence, addresses, sealing: None, signature }
    };
    let connect = || {
        let mut script = node();
        script.seen_at = ip4([20, 1, 0, 1], 5555);
        script.connect(record(0).peer);
        script.shake_hands();
        script
    };
    let mut script = connect();
    for sequence in 1..=8 {
        script.send(PEERS, &PeersMessage::Moved(record(sequence)));
    }
    assert_eq!((script.accusation(), script.node.status().known_peers), (None, 1));
    script.send(PEERS, &PeersMessage::Moved(record(9)));
    assert_eq!(script.accusation(), Some(Violation::OutOfTurn));
    let mut script = connect();
    script.send(PEERS, &PeersMessage::Moved(PeerRecord { sequence: 7, ..record(1) }));
    assert_eq!(script.accusation(), Some(Violation::WrongRecord));
}
