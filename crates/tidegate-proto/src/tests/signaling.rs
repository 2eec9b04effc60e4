//! Section 18: what transports say to each other by way of a peer of both.

use std::time::Duration;

use bytes::Bytes;

use super::net::Net;
use super::script::{PEER, SIGNAL, SIGNAL_GRANT, Script};
use crate::Violation;
use crate::id::{ConnectionId, PeerId, SealingKey};
use crate::io::{Connected, Direction, Input, Path, SignalError};
use crate::wire::{Carry, Delivery, MAX_SIGNAL, Settled, SignalFate, SignalMessage};

/// The asker, the relay, and the receiver.
const ASKER: usize = 0;
const RELAY: usize = 1;
const RECEIVER: usize = 2;

/// A node that takes offers.
fn config(n: u8) -> crate::Config {
    let mut config = super::application::config(n);
    config.sealing = Some(SealingKey(config.peer.0));
    config
}

fn net(count: u8) -> Net {
    Net::with((1..=count).map(config).collect())
}

/// A chain of three.
fn chain() -> Net {
    let mut net = net(3);
    net.delay = Duration::from_millis(7);
    net.connect(ASKER, RELAY);
    net.connect(RELAY, RECEIVER);
    net.run(Duration::from_secs(1));
    net
}

fn signal(net: &mut Net, id: u64, [from, via, to]: [usize; 3], payload: &Bytes) {
    let (via, to) = (net.peer(via), net.peer(to));
    net.carry(from, id, (via, to), payload.clone());
}

fn payload(byte: u8) -> Bytes {
    vec![byte; 600].into()
}

fn open(net: &Net, n: usize) -> usize {
    net.hosts[n].node.signals_open()
}

#[test]
fn a_signal_and_its_answer_go_by_way_of_a_common_peer() {
    let mut net = chain();
    let [asker, relay, receiver] = [ASKER, RELAY, RECEIVER].map(|n| net.peer(n));
    signal(&mut net, 1, [ASKER, RELAY, RECEIVER], &payload(1));
    net.run(Duration::from_secs(1));
    assert_eq!(net.hosts[RECEIVER].signals, [(relay, asker, payload(1))]);
    assert_eq!(net.hosts[ASKER].signaled[&1], Ok(()));
    signal(&mut net, 2, [RECEIVER, RELAY, ASKER], &payload(2));
    net.run(Duration::from_secs(1));
    assert_eq!(net.hosts[ASKER].signals, [(relay, receiver, payload(2))]);
    assert_eq!(net.hosts[RECEIVER].signaled[&2], Ok(()));
    assert!((0..3).all(|n| open(&net, n) == 0));
}

/// R18.7
#[test]
fn a_signal_to_the_relay_itself_ends_there() {
    let mut net = chain();
    let asker = net.peer(ASKER);
    signal(&mut net, 1, [ASKER, RELAY, RELAY], &payload(1));
    net.run(Duration::from_secs(1));
    assert_eq!(net.hosts[RELAY].signals, [(asker, asker, payload(1))]);
    assert_eq!(net.hosts[ASKER].signaled[&1], Ok(()));
    assert_eq!(
        net.sent(RELAY, RECEIVER, |m| matches!(m, crate::Message::Signal(_)).then_some(())),
        []
    );
}

#[test]
fn a_signal_that_reaches_nobody_says_why() {
    let mut configs = vec![config(1), config(2), config(3), config(4)];
    configs[3].sealing = None;
    let mut net = Net::with(configs);
    net.connect(0, 1);
    net.connect(1, 3);
    net.run(Duration::from_secs(1));
    signal(&mut net, 1, [0, 1, 2], &payload(1));
    signal(&mut net, 2, [0, 2, 1], &payload(1));
    signal(&mut net, 3, [0, 1, 3], &payload(1));
    signal(&mut net, 4, [0, 1, 1], &vec![0; MAX_SIGNAL].into());
    // To itself.
    signal(&mut net, 6, [0, 1, 0], &payload(1));
    net.run(Duration::from_secs(1));
    let results = net.hosts[0].signaled.values().copied().collect::<Vec<_>>();
    let (not_connected, unwanted) = (Err(SignalError::NotConnected), Err(SignalError::Unwanted));
    let no_relay = Err(SignalError::NoRelay);
    assert_eq!(results, [not_connected, no_relay, unwanted, Ok(()), not_connected]);
}

/// R18.4: whichever of the three goes away, and whenever, nothing is stuck at the others.
#[test]
fn any_of_three_may_be_lost_at_every_step() {
    for gone in [ASKER, RELAY, RECEIVER] {
        for ms in 0..40 {
            for silent in [false, true] {
                let mut net = chain();
                for id in 0..6 {
                    signal(&mut net, id, [ASKER, RELAY, RECEIVER], &payload(id as u8));
                    signal(&mut net, 10 + id, [RECEIVER, RELAY, ASKER], &payload(id as u8));
                }
                net.run_ms(ms);
                for other in (0..3).filter(|n| *n != gone) {
                    match silent {
                        true => net.cut.extend([(gone, other), (other, gone)]),
                        false => net.reset(gone, other),
                    }
                }
                net.run(Duration::from_secs(60));
                for n in (0..3).filter(|n| *n != gone || !silent) {
                    let what = format!("{gone} {silent} after {ms} ms: {n}");
                    assert_eq!(open(&net, n), 0, "{what}");
                    let told = net.hosts[n].signaled.len();
                    assert_eq!(told, if n == RELAY { 0 } else { 6 }, "{what}");
                    assert_eq!(net.hosts[n].node.stats().violations().count(), 0, "{what}");
                }
            }
        }
    }
}

/// R18.10: the better connection takes what has not left, and what was not answered.
#[test]
fn signals_arrive_once_while_a_connection_is_replaced() {
    for [dialer, listener] in [[RECEIVER, RELAY], [RELAY, RECEIVER], [ASKER, RELAY], [RELAY, ASKER]]
    {
        for ms in 0..60 {
            let mut net = net(3);
            net.delay = Duration::from_millis(7);
            net.path = Path::Relayed;
            net.connect(ASKER, RELAY);
            net.connect(RELAY, RECEIVER);
            net.run(Duration::from_secs(1));
            net.path = Path::Direct;
            net.connect(dialer, listener);
            net.run_ms(ms);
            for id in 0..4 {
                signal(&mut net, id, [ASKER, RELAY, RECEIVER], &payload(id as u8));
            }
            net.run(Duration::from_secs(10));
            let what = format!("{dialer} to {listener}, after {ms} ms");
            let told = &net.hosts[ASKER].signaled;
            let arrived = net.hosts[RECEIVER].signals.iter().map(|(.., payload)| payload[0]);
            // What was not answered on the other connection may come after what has not left.
            let mut arrived = arrived.collect::<Vec<_>>();
            arrived.sort_unstable();
            assert_eq!(arrived, [0, 1, 2, 3], "{what}: {told:?}");
            assert!(told.values().all(Result::is_ok), "{what}: {told:?}");
            assert!((0..3).all(|n| open(&net, n) == 0), "{what}");
        }
    }
}

/// R18.4: a connection that is lost or ended by its peer is no longer waited for.
#[test]
fn a_signal_on_a_connection_that_ends_fails_at_once() {
    for (n, ms, goodbye, why) in [
        (RECEIVER, 10, false, SignalError::NotConnected),
        (RECEIVER, 10, true, SignalError::NotConnected),
        (ASKER, 3, false, SignalError::NoRelay),
    ] {
        let mut net = chain();
        net.stalled.insert((RECEIVER, SIGNAL));
        signal(&mut net, 1, [ASKER, RELAY, RECEIVER], &payload(1));
        net.run_ms(ms);
        let peer = net.peer(RELAY);
        if goodbye {
            net.run_ms(10);
            net.command(n, crate::io::Command::Disconnect { peer });
        } else {
            net.reset(n, RELAY);
        }
        net.run(Duration::from_secs(1));
        let told = net.hosts[ASKER].signaled.get(&1).copied();
        assert_eq!(told, Some(Err(why)), "{n}, goodbye: {goodbye}");
    }
}

/// A connection of [`PEER`], up, by some path.
fn connect_by(script: &mut Script, id: u64, path: Path) -> ConnectionId {
    let id = ConnectionId(id);
    script.connection = id;
    script.take();
    let address = crate::id::Address(Bytes::from_static(b"here"));
    let binding = super::script::binding(id);
    let connected = Connected::new(id, PEER, Direction::Inbound, address, binding);
    script.input(Input::Connected(connected.by(path)));
    script.shake_hands();
    id
}

/// Frames of signals that left on another connection than the present one.
fn sent(script: &Script, to: ConnectionId) -> usize {
    script.elsewhere.iter().filter(|(at, c, _)| (*at, *c) == (to, SIGNAL)).count()
}

/// R18.10 where the better connection is lost and the other is there still (R5.3.11).
#[test]
fn a_signal_goes_on_by_the_older_connection_when_the_better_one_is_lost() {
    for [older, newer] in [[50, 51], [51, 50]] {
        let mut script = Script::with(config(1));
        let asker = script.another_peer();
        let older = connect_by(&mut script, older, Path::Relayed);
        // One is under way on it, so that it stays.
        script.send_on(asker, SIGNAL, &carry(PEER));
        let newer = connect_by(&mut script, newer, Path::Direct);
        script.send_on(asker, SIGNAL, &carry(PEER));
        assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 1, "by the better one");
        script.close(newer);
        script.wait(100);
        // The asker is not told that it is lost either.
        assert_eq!((sent(&script, older), sent(&script, asker)), (1, 0));
    }
}

/// R5.3.9: what waits does not go by a connection that is on its way out, though it has permits again.
#[test]
fn signals_go_by_the_better_connection_alone() {
    let mut script = Script::with(config(1));
    let asker = script.another_peer();
    script.connect(PeerId([7; 32]));
    script.shake_hands();
    let another = script.connection;
    let older = connect_by(&mut script, 50, Path::Relayed);
    let say = |script: &mut Script, id| {
        script.send_on(if id < 3 { asker } else { another }, SIGNAL, &carry(PEER));
        let (via, to) = (PEER, PeerId([id as u8; 32]));
        script.carry(id, (via, to), payload(0));
    };
    // The permits are spent on both, and some wait.
    (0..2).for_each(|id| say(&mut script, id));
    let newer = connect_by(&mut script, 51, Path::Direct);
    (2..5).for_each(|id| say(&mut script, id));
    assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 4);
    for answer in [SignalMessage::Delivered(settled(0)), SignalMessage::Carried(settled(0))] {
        script.send_on(older, SIGNAL, &answer);
        assert_eq!(script.received::<SignalMessage>(SIGNAL), []);
        script.send_on(newer, SIGNAL, &answer);
        assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 1);
    }
    assert_eq!(sent(&script, older), 0, "what left on it was before the newer one");
    assert!(script.closed.is_empty());
}

/// A chain whose relay and receiver have lost their connection, and dialed again `ms` before signal 1 leaves. It arrives
/// at the relay when that sends signal 2 itself.
fn coming_up([dialer, listener]: [usize; 2], ms: u64) -> Net {
    let mut net = chain();
    net.reset(RELAY, RECEIVER);
    net.run(Duration::from_secs(1));
    net.connect(dialer, listener);
    net.run_ms(ms);
    signal(&mut net, 1, [ASKER, RELAY, RECEIVER], &payload(1));
    net.run_ms(7);
    signal(&mut net, 2, [RELAY, RECEIVER, RECEIVER], &payload(2));
    net
}

/// R18.4: what waits for a connection that never comes up fails when that is known.
#[test]
fn a_signal_for_a_connection_that_never_comes_up_fails_at_once() {
    let mut waited = 0;
    for ms in 0..40 {
        let mut net = coming_up([RELAY, RECEIVER], ms);
        waited += usize::from(open(&net, RELAY) > 1);
        net.reset(RELAY, RECEIVER);
        net.run(Duration::from_secs(1));
        let fates = [(ASKER, 1), (RELAY, 2)];
        let fates = fates.map(|(n, id)| net.hosts[n].signaled.get(&id).copied());
        let [asked, own] = fates.map(|fate| fate.unwrap_or_else(|| panic!("{ms} ms: no answer")));
        assert_eq!(asked, Err(SignalError::NotConnected), "{ms} ms");
        assert_eq!(own, Err(SignalError::NoRelay), "{ms} ms");
    }
    assert!(waited > 5, "{waited}");
}

/// R18.4: nothing waits any longer for a peer that comes up and takes no signals.
#[test]
fn a_signal_fails_when_its_receiver_turns_out_to_take_none() {
    for carries in [0, 4] {
        let mut fates = Vec::new();
        for ms in 0..60 {
            let mut configs = vec![config(1), config(2), config(3)];
            configs[RECEIVER].sealing = None;
            configs[RECEIVER].limits.signals_carried = carries;
            let mut net = Net::with(configs);
            net.delay = Duration::from_millis(7);
            net.connect(ASKER, RELAY);
            net.run(Duration::from_secs(1));
            net.connect(RECEIVER, RELAY);
            net.run_ms(ms);
            signal(&mut net, 1, [ASKER, RELAY, RECEIVER], &payload(1));
            signal(&mut net, 2, [RELAY, RECEIVER, ASKER], &payload(1));
            net.run(Duration::from_secs(1));
            let fate = |n: usize, id| net.hosts[n].signaled.get(&id).copied();
            fates.push(fate(ASKER, 1).expect("an answer"));
            let own = fate(RELAY, 2).expect("an answer");
            assert!(carries > 0 || own == Err(SignalError::NoRelay), "{ms} ms: {own:?}");
        }
        let error = if carries == 0 { SignalError::NotConnected } else { SignalError::Unwanted };
        assert!(fates.iter().all(|fate| *fate == Err(error)), "{fates:?}");
    }
}

/// R18.4: the time of a signal does not begin again when its receiver comes back.
#[test]
fn a_receiver_that_comes_and_goes_keeps_nobody_waiting() {
    let mut script = Script::with(config(1));
    let asker = script.another_peer();
    let answers = |script: &Script| sent(script, asker);
    let mut older = connect_by(&mut script, 50, Path::Relayed);
    script.send_on(asker, SIGNAL, &carry(PEER));
    for (id, path) in [(51, Path::Adapted), (52, Path::Direct)] {
        script.wait(2_490);
        let newer = connect_by(&mut script, id, path);
        script.close(older);
        assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 1, "it is there again");
        older = newer;
    }
    assert_eq!(answers(&script), 0);
    script.wait(30);
    assert_eq!(answers(&script), 1);
}

/// R5.5.4: a relay that is not there is noticed by the answer that does not come.
#[test]
fn a_relay_that_is_silent_while_it_owes_an_answer_is_given_up() {
    for [waits, silent] in [[ASKER, RELAY], [RELAY, RECEIVER]] {
        let mut net = chain();
        net.cut.extend([(silent, waits), (waits, silent)]);
        signal(&mut net, 1, [ASKER, RELAY, RECEIVER], &payload(1));
        net.run(Duration::from_secs(15));
        let peers = net.hosts[waits].node.status().peers.len();
        assert_eq!(peers, waits, "one less than before");
    }
}

/// A receiver that has just come back is as good as there, and so is a relay.
#[test]
fn a_signal_waits_for_a_connection_that_is_coming_up() {
    for [dialer, listener] in [[RELAY, RECEIVER], [RECEIVER, RELAY]] {
        let (mut fates, mut early) = (Vec::new(), [0; 2]);
        for ms in 0..60 {
            let mut net = coming_up([dialer, listener], ms);
            let is_up = net.hosts[RELAY].node.status().peers.len() == 2;
            net.run(Duration::from_secs(5));
            let fate = [(ASKER, 1), (RELAY, 2)].map(|(n, id)| net.hosts[n].signaled[&id]);
            let taken = fate.iter().filter(|fate| fate.is_ok()).count();
            assert_eq!(net.hosts[RECEIVER].signals.len(), taken, "{dialer}: {ms} ms");
            early
                .iter_mut()
                .zip(fate)
                .for_each(|(n, fate)| *n += usize::from(fate.is_ok() && !is_up));
            fates.push(fate.map(|fate| fate.is_ok()));
        }
        assert!(fates.is_sorted(), "from the moment on at which it is coming: {fates:?}");
        assert!(early.iter().all(|n| *n > 1), "{dialer}: {early:?}");
    }
}

fn carry(to: PeerId) -> SignalMessage {
    SignalMessage::Carry(Carry { to, payload: payload(7) })
}

fn settled(number: u32) -> Settled {
    Settled { number, fate: SignalFate::Taken }
}

/// R18.1
#[test]
fn carries_are_taken_up_to_the_permits_and_not_beyond() {
    let mut script = Script::up_with(config(1));
    let other = script.connection;
    script.another_peer();
    let most = script.node.config().limits.signals_carried;
    for _ in 0..most {
        // Its peer has permits for two, and answers none.
        script.send(SIGNAL, &carry(PEER));
    }
    assert_eq!(script.accusation(), None);
    // R18.2
    assert_eq!(sent(&script, other) as u32, SIGNAL_GRANT.bodies);
    script.send(SIGNAL, &carry(PEER));
    assert_eq!(script.accusation(), Some(Violation::RequestPermit));
}

/// R18.2
#[test]
fn deliveries_are_taken_up_to_the_permits_and_not_beyond() {
    let mut script = Script::up_with(config(1));
    let limits = script.node.config().limits.clone();
    let deliver = SignalMessage::Deliver(Delivery { from: PEER, payload: payload(3) });
    let burst = 16;
    // Those whose permits come back at once do not count.
    for _ in 0..burst + limits.signals_taken {
        script.send(SIGNAL, &deliver);
    }
    assert_eq!(script.accusation(), None);
    assert_eq!(script.signals.len() as u32, burst + limits.signals_taken);
    script.send(SIGNAL, &deliver);
    assert_eq!(script.accusation(), Some(Violation::BodyPermit));
}

/// R18.3
#[test]
fn answers_to_nothing_are_violations() {
    for answer in [SignalMessage::Carried(settled(0)), SignalMessage::Delivered(settled(0))] {
        let mut script = Script::up_with(config(1));
        script.send(SIGNAL, &answer);
        assert_eq!(script.accusation(), Some(Violation::Unasked));
    }
}

/// R18.4, R18.8: who asked is answered in time, and the receiver's permit stays out until it answers.
#[test]
fn a_receiver_that_does_not_answer_keeps_nobody_waiting_and_gets_no_more() {
    let mut script = Script::up_with(config(1));
    let receiver = script.connection;
    let asker = script.another_peer();
    let patience = script.node.config().limits.signal_patience.as_millis() as u64;
    let answers = |script: &mut Script| script.received::<SignalMessage>(SIGNAL);
    (0..3).for_each(|_| script.send(SIGNAL, &carry(PEER)));
    script.wait(patience - 10);
    assert_eq!(answers(&mut script), []);
    script.wait(20);
    let busy = |number| SignalMessage::Carried(Settled { number, fate: SignalFate::Busy });
    assert_eq!(answers(&mut script), [busy(0), busy(1), busy(2)]);
    script.send(SIGNAL, &carry(PEER));
    assert_eq!(sent(&script, receiver), 2);
    // It answers late: the next one goes, under the permit that is back.
    script.send_on(receiver, SIGNAL, &SignalMessage::Delivered(settled(1)));
    assert_eq!(sent(&script, receiver), 3);
    script.send_on(receiver, SIGNAL, &SignalMessage::Delivered(settled(2)));
    let taken = SignalMessage::Carried(Settled { number: 3, fate: SignalFate::Taken });
    assert_eq!(answers(&mut script), [taken]);
    assert!(!script.closed.contains(&receiver) && !script.closed.contains(&asker));
}

/// Whose signals were delivered to a peer. R18.5
fn from(script: &Script, receiver: ConnectionId) -> Vec<u8> {
    let to = script.elsewhere.iter().filter(|(at, c, _)| (*at, *c) == (receiver, SIGNAL));
    let deliveries = to.filter_map(|(_, _, frame)| match frame.decode().unwrap() {
        SignalMessage::Deliver(delivery) => Some(delivery.from.0[0]),
        _ => None,
    });
    deliveries.collect()
}

/// R18.6
#[test]
fn askers_are_served_in_turn() {
    let mut script = Script::up_with(config(1));
    let receiver = script.connection;
    let [greedy, other] = [20, 21].map(|peer| {
        script.connect(PeerId([peer; 32]));
        script.shake_hands();
        script.connection
    });
    (0..4).for_each(|_| script.send_on(greedy, SIGNAL, &carry(PEER)));
    script.send_on(other, SIGNAL, &carry(PEER));
    assert_eq!(from(&script, receiver), [20, 20]);
    (0..3).for_each(|number| {
        script.send_on(receiver, SIGNAL, &SignalMessage::Delivered(settled(number)));
    });
    assert_eq!(from(&script, receiver), [20, 20, 20, 21, 20]);
}

/// R18.6: of those that wait, newcomers are not served before the others.
#[test]
fn newcomers_are_served_after_those_that_wait() {
    let mut script = Script::up_with(config(1));
    let receiver = script.connection;
    let connect = |script: &mut Script, peer| {
        script.connect(PeerId([peer; 32]));
        script.shake_hands();
        script.connection
    };
    let [patient, greedy] = [20, 21].map(|peer| connect(&mut script, peer));
    (0..3).for_each(|_| script.send_on(greedy, SIGNAL, &carry(PEER)));
    script.send_on(patient, SIGNAL, &carry(PEER));
    for (number, peer) in (0..).zip(30..34) {
        let newcomer = connect(&mut script, peer);
        script.send_on(newcomer, SIGNAL, &carry(PEER));
        script.send_on(receiver, SIGNAL, &SignalMessage::Delivered(settled(number)));
    }
    assert_eq!(from(&script, receiver), [21, 21, 21, 20, 30, 31]);
}

/// R18.8, R18.1: whatever a peer grants, no more is out at it than a transport has to say at once.
#[test]
fn no_more_is_out_at_a_peer_than_is_answered_soon() {
    let mut script = Script::with(config(1));
    let askers = [20, 21, 22, 23, 24].map(|peer| {
        script.connect(PeerId([peer; 32]));
        script.shake_hands();
        script.connection
    });
    script.connect(PEER);
    script.shake_hands_with(|offer| {
        if offer.kind == crate::Kind::Signal.number() {
            (offer.grant.requests, offer.grant.bodies) = (1_000, 1_000);
        }
    });
    for asker in askers {
        (0..4).for_each(|_| script.send_on(asker, SIGNAL, &carry(PEER)));
    }
    let delivered = script.received::<SignalMessage>(SIGNAL);
    assert!(delivered.iter().all(|message| matches!(message, SignalMessage::Deliver(_))));
    assert_eq!(delivered.len() as u32, crate::signal::MOST_OUT);
    for id in 0..20 {
        let (via, to) = (PEER, PeerId([100 + id as u8; 32]));
        script.carry(id, (via, to), payload(0));
    }
    assert_eq!(script.received::<SignalMessage>(SIGNAL).len() as u32, crate::signal::OUT);
}

/// No relay gives this node's name to what another says.
#[test]
fn what_is_said_in_this_nodes_name_is_unwanted() {
    let friend = PeerId([30; 32]);
    let own = config(1).peer;
    let mut script = Script::up_with(config(1));
    for (number, (from, fate)) in
        (0..).zip([(friend, SignalFate::Taken), (own, SignalFate::Unwanted)])
    {
        let deliver = SignalMessage::Deliver(Delivery { from, payload: payload(3) });
        script.send(SIGNAL, &deliver);
        let answer = SignalMessage::Delivered(Settled { number, fate });
        assert_eq!(script.received::<SignalMessage>(SIGNAL), [answer]);
    }
    assert_eq!(script.signals, [(PEER, friend, payload(3))]);
}

/// A late signal is not delivered, although its asker, which does not read, was not told so yet.
#[test]
fn a_late_signal_is_not_delivered() {
    let mut script = Script::up_with(config(1));
    let receiver = script.connection;
    script.another_peer();
    script.stalled = true;
    script.send(SIGNAL, &carry(PeerId([99; 32])));
    (0..3).for_each(|_| script.send(SIGNAL, &carry(PEER)));
    assert_eq!(sent(&script, receiver), 1);
    script.wait(script.node.config().limits.signal_patience.as_millis() as u64 + 10);
    script.stalled = false;
    script.input(Input::Writable { connection: receiver, channel: SIGNAL });
    assert_eq!(sent(&script, receiver), 1);
}

/// R18.9
#[test]
fn permits_of_many_signals_go_back_slowly() {
    let mut script = Script::up_with(config(1));
    let interval = script.node.config().limits.signal_interval.as_millis() as u64;
    let nobody = PeerId([99; 32]);
    let mut answered = 0;
    for _ in 0..16 {
        script.send(SIGNAL, &carry(nobody));
        answered += script.received::<SignalMessage>(SIGNAL).len();
    }
    assert_eq!(answered, 16);
    script.send(SIGNAL, &carry(nobody));
    script.send(SIGNAL, &carry(nobody));
    assert_eq!(script.received::<SignalMessage>(SIGNAL), []);
    script.wait(interval + 1);
    assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 1);
    script.wait(interval + 1);
    assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 1);
}

/// What this node wants to say waits for the relay's permits, in a queue that has an end, and for a time that has.
#[test]
fn own_signals_wait_for_permits_and_not_for_ever() {
    let mut script = Script::up_with(config(1));
    let say = |script: &mut Script, id, to| {
        let (via, to) = (PEER, PeerId([to; 32]));
        script.carry(id, (via, to), payload(0));
    };
    let carried = |script: &mut Script| {
        let carried = script.received::<SignalMessage>(SIGNAL).into_iter();
        let to = carried.map(|message| match message {
            SignalMessage::Carry(carry) => carry.to.0[0],
            other => panic!("{other:?}"),
        });
        to.collect::<Vec<_>>()
    };
    // One leaves and four wait for a receiver, so that there is room for others.
    (0..5).for_each(|id| say(&mut script, id, 90));
    assert_eq!((script.signaled.len(), carried(&mut script)), (0, vec![90]));
    say(&mut script, 5, 90);
    assert_eq!(script.signaled, [(5, Err(SignalError::Busy))]);
    (6..9).for_each(|id| say(&mut script, id, 91));
    assert_eq!((script.signaled.len(), carried(&mut script)), (1, vec![91]));
    (9..35).for_each(|id| say(&mut script, id, 92 + (id as u8 - 9) / 4));
    assert_eq!(script.signaled.len(), 1);
    say(&mut script, 35, 110);
    assert_eq!(script.signaled[1], (35, Err(SignalError::Busy)));
    let answer = |script: &mut Script, number| {
        script.send(SIGNAL, &SignalMessage::Carried(settled(number)));
        (script.signaled.last().copied().unwrap(), carried(script))
    };
    // A receiver of which one is out has no turn before that one is answered.
    assert_eq!(answer(&mut script, 1), ((6, Ok(())), vec![91]));
    assert_eq!(answer(&mut script, 0), ((0, Ok(())), vec![90]));
    assert_eq!(answer(&mut script, 2), ((7, Ok(())), vec![92]));
    // The relay is there all the time, but does not answer, and reads nothing more.
    script.stalled = true;
    script.wait(5_000);
    script.send(SIGNAL, &carry(PeerId([99; 32])));
    script.take();
    script.wait(4_990);
    assert_eq!(script.signaled.len(), 5);
    script.wait(20);
    // All others, whether they have left or not.
    assert_eq!(script.signaled.len(), 36);
    assert!(script.signaled[5..].iter().all(|(_, result)| *result == Err(SignalError::Busy)));
    // The relay answers late: that breaks no rule, its permit is back, and nobody is told again.
    script.stalled = false;
    for channel in [super::script::CONTROL, SIGNAL] {
        script.input(Input::Writable { connection: script.connection, channel });
    }
    say(&mut script, 36, 111);
    assert_eq!(script.received::<SignalMessage>(SIGNAL), []);
    let (last, carried) = answer(&mut script, 3);
    assert_eq!((script.signaled.len(), last.1, carried), (36, Err(SignalError::Busy), vec![111]));
    script.send(SIGNAL, &SignalMessage::Carried(settled(3)));
    assert_eq!(script.accusation(), Some(Violation::Unasked));
}

/// A node that carries nothing and takes nothing does not offer the channel.
#[test]
fn what_is_not_allowed_is_not_offered() {
    let offers = |carried, takes| {
        let mut config = config(1);
        config.limits.signals_carried = carried;
        config.sealing = config.sealing.filter(|_| takes);
        let offers = config.offers(&super::application::TestRules).into_iter();
        let mut offers = offers.filter(|offer| offer.kind == crate::Kind::Signal.number());
        offers.next().map(|offer| (offer.grant.requests, offer.grant.bodies))
    };
    assert_eq!(offers(0, false), None);
    assert_eq!(offers(3, false), Some((3, 0)));
    assert_eq!(offers(0, true), Some((0, 8)));
}

/// R18.11
#[test]
fn the_digest_of_version_2_is_that_of_the_specification() {
    let offers = config(1).offers(&super::application::TestRules);
    let offer = offers.iter().find(|offer| offer.kind == crate::Kind::Signal.number()).unwrap();
    let [version] = &*offer.versions else { panic!("one version: {:?}", offer.versions) };
    let rules = blake3::Hash::from_bytes(version.rules.0).to_hex();
    assert_eq!(
        (version.number, rules.as_str()),
        (2, "ad1f7af52473da7623ba87f647844aaa79be7ccac1ba2b83157384b5c108069d")
    );
}
