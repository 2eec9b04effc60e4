//! Section 18: what transports say to each other by way of a peer of both.

use std::time::Duration;

use bytes::Bytes;

use super::application::config;
use super::net::Net;
use super::script::{PEER, SIGNAL, SIGNAL_GRANT, Script};
use crate::Violation;
use crate::id::{ConnectionId, PeerId, SignalId};
use crate::io::{Input, SignalError};
use crate::wire::{Carry, Delivery, MAX_SIGNAL, Settled, SignalFate, SignalMessage};

/// The asker, the relay, and the receiver.
const ASKER: usize = 0;
const RELAY: usize = 1;
const RECEIVER: usize = 2;

/// A chain of three.
fn chain() -> Net {
    let mut net = Net::new(3);
    net.delay = Duration::from_millis(7);
    net.connect(ASKER, RELAY);
    net.connect(RELAY, RECEIVER);
    net.run(Duration::from_secs(1));
    net
}

fn signal(net: &mut Net, id: u64, [from, via, to]: [usize; 3], payload: &Bytes) {
    let (via, to) = (net.peer(via), net.peer(to));
    let input = Input::Signal { id: SignalId(id), via, to, payload: payload.clone() };
    net.input(from, input);
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
    assert_eq!(net.hosts[ASKER].signaled[&SignalId(1)], Ok(()));
    signal(&mut net, 2, [RECEIVER, RELAY, ASKER], &payload(2));
    net.run(Duration::from_secs(1));
    assert_eq!(net.hosts[ASKER].signals, [(relay, receiver, payload(2))]);
    assert_eq!(net.hosts[RECEIVER].signaled[&SignalId(2)], Ok(()));
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
    assert_eq!(net.hosts[ASKER].signaled[&SignalId(1)], Ok(()));
    assert_eq!(
        net.sent(RELAY, RECEIVER, |m| matches!(m, crate::Message::Signal(_)).then_some(())),
        []
    );
}

#[test]
fn a_signal_that_reaches_nobody_says_why() {
    let mut configs = vec![config(1), config(2), config(3), config(4)];
    configs[3].takes_signals = false;
    let mut net = Net::with(configs);
    net.connect(0, 1);
    net.connect(1, 3);
    net.run(Duration::from_secs(1));
    signal(&mut net, 1, [0, 1, 2], &payload(1));
    signal(&mut net, 2, [0, 2, 1], &payload(1));
    signal(&mut net, 3, [0, 1, 3], &payload(1));
    signal(&mut net, 4, [0, 1, 1], &vec![0; MAX_SIGNAL].into());
    signal(&mut net, 5, [0, 1, 1], &vec![0; MAX_SIGNAL + 1].into());
    // To itself.
    signal(&mut net, 6, [0, 1, 0], &payload(1));
    net.run(Duration::from_secs(1));
    let results = net.hosts[0].signaled.values().copied().collect::<Vec<_>>();
    let (not_connected, unwanted) = (Err(SignalError::NotConnected), Err(SignalError::Unwanted));
    let (no_relay, too_long) = (Err(SignalError::NoRelay), Err(SignalError::TooLong));
    assert_eq!(results, [not_connected, no_relay, unwanted, Ok(()), too_long, not_connected]);
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
            let mut net = Net::new(3);
            net.delay = Duration::from_millis(7);
            net.path = crate::io::Path::Relayed;
            net.connect(ASKER, RELAY);
            net.connect(RELAY, RECEIVER);
            net.run(Duration::from_secs(1));
            net.path = crate::io::Path::Direct;
            net.connect(dialer, listener);
            net.run_ms(ms);
            for id in 0..4 {
                signal(&mut net, id, [ASKER, RELAY, RECEIVER], &payload(id as u8));
            }
            net.run(Duration::from_secs(10));
            let what = format!("{dialer} to {listener}, after {ms} ms");
            let told = &net.hosts[ASKER].signaled;
            let arrived = net.hosts[RECEIVER].signals.iter().map(|(.., payload)| payload[0]);
            assert_eq!(arrived.collect::<Vec<_>>(), [0, 1, 2, 3], "{what}: {told:?}");
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
        let told = net.hosts[ASKER].signaled.get(&SignalId(1)).copied();
        assert_eq!(told, Some(Err(why)), "{n}, goodbye: {goodbye}");
    }
}

/// R18.10 where the better connection is lost and the other is there still (R5.3.11).
#[test]
fn a_signal_goes_on_by_the_older_connection_when_the_better_one_is_lost() {
    use crate::io::{Connected, Direction, Path};
    let mut script = Script::alone();
    let asker = script.another_peer();
    let connect_by = |script: &mut Script, id, path| {
        let id = ConnectionId(id);
        script.connection = id;
        script.take();
        let address = crate::id::Address(Bytes::from_static(b"here"));
        let binding = super::script::binding(id);
        let connected = Connected::new(id, PEER, Direction::Inbound, address, binding);
        script.input(Input::Connected(connected.by(path)));
        script.shake_hands();
        id
    };
    let older = connect_by(&mut script, 50, Path::Relayed);
    // One is under way on it, so that it stays.
    script.send_on(asker, SIGNAL, &carry(PEER));
    let newer = connect_by(&mut script, 51, Path::Direct);
    script.send_on(asker, SIGNAL, &carry(PEER));
    assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 1, "by the better one");
    script.close(newer);
    script.wait(100);
    let sent = |to| {
        let to = script.elsewhere.iter().filter(move |(at, c, _)| (*at, *c) == (to, SIGNAL));
        to.count()
    };
    // The asker is not told that it is lost either.
    assert_eq!((sent(older), sent(asker)), (1, 0));
}

/// A receiver that has just come back is as good as there, and so is a relay.
#[test]
fn a_signal_waits_for_a_connection_that_is_coming_up() {
    for [dialer, listener] in [[RELAY, RECEIVER], [RECEIVER, RELAY]] {
        let (mut fates, mut early) = (Vec::new(), [0; 2]);
        for ms in 0..60 {
            let mut net = chain();
            net.reset(RELAY, RECEIVER);
            net.run(Duration::from_secs(1));
            net.connect(dialer, listener);
            net.run_ms(ms);
            // One arrives at the relay when it says another itself.
            signal(&mut net, 1, [ASKER, RELAY, RECEIVER], &payload(1));
            net.run_ms(7);
            signal(&mut net, 2, [RELAY, RECEIVER, RECEIVER], &payload(2));
            let is_up = net.hosts[RELAY].node.status().peers.len() == 2;
            net.run(Duration::from_secs(5));
            let fate = [(ASKER, 1), (RELAY, 2)].map(|(n, id)| net.hosts[n].signaled[&SignalId(id)]);
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
    let mut script = Script::up();
    let other = script.connection;
    script.another_peer();
    let most = script.node.config().limits.signals_carried;
    for _ in 0..most {
        // Its peer has permits for two, and answers none.
        script.send(SIGNAL, &carry(PEER));
    }
    assert_eq!(script.accusation(), None);
    let delivered =
        script.elsewhere.iter().filter(|(at, channel, _)| (*at, *channel) == (other, SIGNAL));
    // R18.2
    assert_eq!(delivered.count() as u32, SIGNAL_GRANT.bodies);
    script.send(SIGNAL, &carry(PEER));
    assert_eq!(script.accusation(), Some(Violation::RequestPermit));
}

/// R18.2
#[test]
fn deliveries_are_taken_up_to_the_permits_and_not_beyond() {
    let mut script = Script::up();
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
        let mut script = Script::up();
        script.send(SIGNAL, &answer);
        assert_eq!(script.accusation(), Some(Violation::Unasked));
    }
}

/// R18.4, R18.8: who asked is answered in time, and the receiver's permit stays out until it answers.
#[test]
fn a_receiver_that_does_not_answer_keeps_nobody_waiting_and_gets_no_more() {
    let mut script = Script::up();
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
    let delivered = |script: &Script| {
        let to = |(at, channel, _): &&(ConnectionId, u32, _)| (*at, *channel) == (receiver, SIGNAL);
        script.elsewhere.iter().filter(to).count()
    };
    script.send(SIGNAL, &carry(PEER));
    assert_eq!(delivered(&script), 2);
    // It answers late: the next one goes, under the permit that is back.
    script.send_on(receiver, SIGNAL, &SignalMessage::Delivered(settled(1)));
    assert_eq!(delivered(&script), 3);
    script.send_on(receiver, SIGNAL, &SignalMessage::Delivered(settled(2)));
    let taken = SignalMessage::Carried(Settled { number: 3, fate: SignalFate::Taken });
    assert_eq!(answers(&mut script), [taken]);
    assert!(!script.closed.contains(&receiver) && !script.closed.contains(&asker));
}

/// R18.6
#[test]
fn askers_are_served_in_turn() {
    let mut script = Script::up();
    let receiver = script.connection;
    let [greedy, other] = [20, 21].map(|peer| {
        script.connect(PeerId([peer; 32]));
        script.shake_hands();
        script.connection
    });
    (0..4).for_each(|_| script.send_on(greedy, SIGNAL, &carry(PEER)));
    script.send_on(other, SIGNAL, &carry(PEER));
    let from = |script: &Script| {
        let to = script
            .elsewhere
            .iter()
            .filter(|(at, channel, _)| (*at, *channel) == (receiver, SIGNAL));
        let deliveries = to.filter_map(|(_, _, frame)| match frame.decode().unwrap() {
            // R18.5
            SignalMessage::Deliver(delivery) => Some(delivery.from.0[0]),
            _ => None,
        });
        deliveries.collect::<Vec<_>>()
    };
    assert_eq!(from(&script), [20, 20]);
    script.send_on(receiver, SIGNAL, &SignalMessage::Delivered(settled(0)));
    assert_eq!(from(&script), [20, 20, 21]);
}

/// R18.9
#[test]
fn permits_of_many_signals_go_back_slowly() {
    let mut script = Script::up();
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

/// What this node wants to say waits for the relay's permits, in a queue that has an end.
#[test]
fn own_signals_wait_for_permits_and_not_for_ever() {
    let mut script = Script::up();
    let say = |script: &mut Script, id| {
        let (via, to) = (PEER, PeerId([99; 32]));
        script.input(Input::Signal { id: SignalId(id), via, to, payload: payload(0) });
    };
    // Two leave, sixteen wait.
    (0..18).for_each(|id| say(&mut script, id));
    assert_eq!(script.signaled, []);
    assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 2);
    say(&mut script, 18);
    assert_eq!(script.signaled, [(SignalId(18), Err(SignalError::Busy))]);
    script.send(SIGNAL, &SignalMessage::Carried(settled(1)));
    assert_eq!(script.signaled[1], (SignalId(1), Ok(())));
    assert_eq!(script.received::<SignalMessage>(SIGNAL).len(), 1);
    script.wait(5_010);
    // All that waited, and none of those whose answer is awaited.
    assert_eq!(script.signaled.len(), 2 + 15);
    assert!(script.signaled[2..].iter().all(|(_, result)| *result == Err(SignalError::Busy)));
}

/// A node that carries nothing and takes nothing does not offer the channel.
#[test]
fn what_is_not_allowed_is_not_offered() {
    let offers = |carried, takes| {
        let mut config = config(1);
        (config.limits.signals_carried, config.takes_signals) = (carried, takes);
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
fn the_digest_of_version_1_is_that_of_the_specification() {
    let offers = config(1).offers(&super::application::TestRules);
    let offer = offers.iter().find(|offer| offer.kind == crate::Kind::Signal.number()).unwrap();
    let [version] = &*offer.versions else { panic!("one version: {:?}", offer.versions) };
    let rules = blake3::Hash::from_bytes(version.rules.0).to_hex();
    assert_eq!(
        (version.number, rules.as_str()),
        (1, "07d4e31b4b5ebde885f393ea7ade6464a9fd7dac6f9fddc9e2fd8dba10145203")
    );
}
