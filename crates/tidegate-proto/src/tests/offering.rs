//! Section 20: offers and answers by way of a peer of both.

use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};

use super::net::{Net, OnOffer, SEALED, description_of};
use crate::id::{Address, NetworkId, PeerId, SealingKey, Signature};
use crate::io::{Command, DialError, Event, Exchange, Path};
use crate::wire::{
    Encode as _, Frame, PeerRecord, Refusal, Said, SignalFate, SignalMessage, SignedStatement,
    Statement,
};
use crate::{Config, Violation};

const DIALER: usize = 0;
const RELAY: usize = 1;
const LISTENER: usize = 2;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

/// A node with a key, that takes offers.
fn config(n: u8) -> Config {
    let mut config = super::application::config(n);
    config.peer = PeerId(key(n).verifying_key().to_bytes());
    config.sealing = Some(SealingKey([n; 32]));
    config
}

fn with(configs: Vec<Config>) -> Net {
    let count = configs.len();
    let mut net = Net::with(configs);
    net.delay = Duration::from_millis(7);
    for n in 0..count {
        net.hosts[n].key = Some(key(n as u8));
        net.command(n, super::net::listening(Vec::new()));
    }
    net
}

/// A chain of three: dialer and listener are peers of the relay.
fn chain_of(change: impl FnOnce(&mut Vec<Config>)) -> Net {
    let mut configs = (0..3).map(config).collect();
    change(&mut configs);
    let mut net = with(configs);
    net.connect(DIALER, RELAY);
    net.connect(LISTENER, RELAY);
    net.run(Duration::from_secs(1));
    net
}

fn chain() -> Net {
    chain_of(|_| ())
}

/// Why the dialer's dials failed.
fn failed(net: &Net) -> Vec<&DialError> {
    let events = net.hosts[DIALER].events.iter();
    let failed = events.filter_map(|event| match event {
        Event::DialFailed { error, address } if address.is_by_offer() => Some(error),
        _ => None,
    });
    failed.collect()
}

fn are_connected(net: &Net, a: usize, b: usize) -> bool {
    let peer = net.peer(b).to_string();
    net.hosts[a].node.status().peers.iter().any(|status| status.peer == peer)
}

fn nothing_is_open(net: &Net) {
    for (n, host) in net.hosts.iter().enumerate() {
        assert_eq!(host.node.signals_open(), 0, "at {n}");
        assert_eq!(host.node.stats().violations().count(), 0, "at {n}");
    }
}

/// R20.1: what leaves is sealed to the key of the other's record.
#[test]
fn two_nodes_meet_by_way_of_a_common_peer() {
    let mut net = chain();
    net.offer(DIALER, LISTENER);
    net.run(Duration::from_secs(1));
    assert!(are_connected(&net, DIALER, LISTENER) && are_connected(&net, LISTENER, DIALER));
    // Each was told the other's description, with the identity that goes with it.
    let told = &net.hosts[LISTENER].descriptions;
    assert!(matches!(told[..], [(Exchange::Offered(_), ..)]), "{told:?}");
    assert_eq!((told[0].1, &told[0].2), (net.peer(DIALER), &description_of(DIALER)));
    let told = &net.hosts[DIALER].descriptions;
    assert!(matches!(told[..], [(Exchange::Dialed(_), ..)]), "{told:?}");
    assert_eq!((told[0].1, &told[0].2), (net.peer(LISTENER), &description_of(LISTENER)));
    nothing_is_open(&net);
    for (from, to) in [(DIALER, LISTENER), (LISTENER, DIALER)] {
        let key = net.hosts[to].node.config().sealing.unwrap();
        assert!(net.hosts[from].sealed[0][SEALED.len()..].starts_with(&key.0));
    }
    // The relay is not needed any more.
    net.reset(DIALER, RELAY);
    net.reset(LISTENER, RELAY);
    net.run(Duration::from_secs(1));
    assert!(are_connected(&net, DIALER, LISTENER));
}

/// The listener itself is the relay: a connection over a worse path is replaced by a direct one.
#[test]
fn a_relayed_connection_is_replaced_by_one_that_was_offered_on_it() {
    let mut net = with((0..2).map(config).collect());
    net.path = Path::Relayed;
    net.connect(0, 1);
    net.run(Duration::from_secs(1));
    net.offer(0, 1);
    net.run(Duration::from_secs(2));
    let peers = net.hosts[0].node.status().peers;
    assert_eq!(peers.iter().map(|peer| peer.path).collect::<Vec<_>>(), [Path::Adapted]);
    nothing_is_open(&net);
}

/// The relays of a dial are tried one after the other.
#[test]
fn a_relay_that_is_not_connected_to_the_listener_is_passed_over() {
    let mut net = with((0..6).map(config).collect());
    // Of the dialer's three peers only the last one knows the listener.
    for relay in [1, 2, 3] {
        net.connect(0, relay);
    }
    net.connect(5, 3);
    net.run(Duration::from_secs(1));
    net.offer(0, 5);
    net.run(Duration::from_secs(2));
    assert!(are_connected(&net, 0, 5));
    nothing_is_open(&net);
}

#[test]
fn a_dial_that_cannot_be_says_why() {
    // Nobody who carries anything.
    let mut net = with((0..3).map(config).collect());
    net.offer(DIALER, LISTENER);
    net.run(Duration::from_secs(2));
    assert_eq!(failed(&net), [&DialError::NoCommonPeer]);
    // A relay that does not know the other.
    net.connect(DIALER, RELAY);
    net.run(Duration::from_secs(1));
    net.offer(DIALER, LISTENER);
    net.run(Duration::from_secs(2));
    assert_eq!(failed(&net), [&DialError::NoCommonPeer; 2]);
    // An address that names nobody.
    net.command(DIALER, Command::Dial { address: Address::by_offer(), peer: None });
    net.run(Duration::from_secs(1));
    assert_eq!(failed(&net)[2], &DialError::NoIdentity);
    nothing_is_open(&net);
    // A peer that takes none.
    let mut net = chain_of(|configs| configs[LISTENER].sealing = None);
    net.offer(DIALER, LISTENER);
    net.run(Duration::from_secs(2));
    assert_eq!(failed(&net), [&DialError::NoCommonPeer]);
    nothing_is_open(&net);
}

/// The other has just come, and its record is not there yet.
#[test]
fn a_dial_waits_for_one_that_has_just_come() {
    for late in (0..1_000).step_by(50) {
        let mut net = with((0..3).map(config).collect());
        net.connect(DIALER, RELAY);
        net.run(Duration::from_secs(1));
        net.offer(DIALER, LISTENER);
        net.run_ms(late);
        net.connect(LISTENER, RELAY);
        net.run(Duration::from_secs(3));
        assert!(are_connected(&net, DIALER, LISTENER), "{late} ms later: {:?}", failed(&net));
        nothing_is_open(&net);
    }
}

/// R20.6: typed, as in the hello.
#[test]
fn refusals_are_told_to_the_one_that_dials() {
    let refused = |change: fn(&mut Vec<Config>)| {
        let mut net = chain_of(change);
        net.offer(DIALER, LISTENER);
        net.run(Duration::from_secs(1));
        assert_eq!(net.hosts[LISTENER].descriptions, [], "no transport was told");
        nothing_is_open(&net);
        match failed(&net)[..] {
            [DialError::Refused(refusal)] => refusal.clone(),
            ref other => panic!("{other:?}"),
        }
    };
    let not_allowed = |configs: &mut Vec<Config>| {
        let relay = configs[RELAY].peer;
        configs[LISTENER].allow = Some([relay].into());
    };
    assert_eq!(refused(not_allowed), Refusal::NotAllowed);
    let full = |configs: &mut Vec<Config>| configs[LISTENER].limits.max_inbound = 0;
    assert_eq!(refused(full), Refusal::Full(Vec::new()));
    let banned = |configs: &mut Vec<Config>| {
        let dialer = configs[DIALER].peer;
        configs[LISTENER].peer_book.bans = vec![(dialer, Duration::from_secs(60))];
    };
    let Refusal::Banned(left) = refused(banned) else { panic!("it is banned") };
    assert!((58..=60).contains(&left), "{left}");
}

/// R20.3, R20.6: the same for what no node of this version says.
#[test]
fn offers_of_other_networks_and_versions_and_for_others_are_refused() {
    let refused = |forge: fn(&mut Statement)| {
        let mut net = chain();
        net.hosts[DIALER].forges = Some(forge);
        net.offer(DIALER, LISTENER);
        net.run(Duration::from_secs(1));
        assert_eq!(net.hosts[LISTENER].descriptions, [], "no transport was told");
        let statement = statement(&net.hosts[LISTENER].sealed[0]);
        match Frame::from(statement.said).decode() {
            Ok(Said::Refusal(refusal)) => refusal.why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|said| said.network = NetworkId([77; 32])), Refusal::WrongNetwork);
    assert_eq!(refused(|said| said.protocol += 1), Refusal::NoCommonVersion);
    assert_eq!(refused(|said| said.to = PeerId([77; 32])), Refusal::WrongTarget);
    // A later version may say things that this one cannot read.
    let later = |said: &mut Statement| {
        said.protocol += 1;
        said.said = Bytes::from_static(&[0, 0, 0, 99]);
    };
    assert_eq!(refused(later), Refusal::NoCommonVersion);
}

/// What left a node for another, sealed.
fn statement(sealed: &Bytes) -> Statement {
    let signed = Bytes::copy_from_slice(&sealed[SEALED.len() + 32..]);
    let signed = Frame::from(signed).decode::<SignedStatement>().unwrap();
    Frame::from(signed.statement).decode().unwrap()
}

/// A transport without a place for it.
#[test]
fn an_offer_that_the_transport_declines_is_refused_as_busy() {
    let mut net = chain();
    net.hosts[LISTENER].on_offer = OnOffer::Decline;
    net.offer(DIALER, LISTENER);
    net.run(Duration::from_secs(1));
    let failed = failed(&net);
    assert!(matches!(failed[..], [DialError::Refused(Refusal::Busy(_))]), "{failed:?}");
    nothing_is_open(&net);
}

#[test]
fn a_transport_that_says_nothing_leaves_nothing() {
    let mut net = chain();
    net.hosts[LISTENER].on_offer = OnOffer::Nothing;
    net.offer(DIALER, LISTENER);
    // The only relay has a second and a half, and the answer three more.
    net.run(Duration::from_millis(4_400));
    assert_eq!(failed(&net), [] as [&DialError; 0]);
    net.run(Duration::from_millis(200));
    assert_eq!(failed(&net), [&DialError::TimedOut]);
    net.run(Duration::from_secs(5));
    nothing_is_open(&net);
}

/// R20.7: the offer of the smaller id counts, and one connection comes of the two.
#[test]
fn two_that_dial_each_other_at_once_get_one_connection() {
    for later in 0..60 {
        let mut net = chain();
        net.offer(DIALER, LISTENER);
        net.run_ms(later);
        net.offer(LISTENER, DIALER);
        net.run(Duration::from_secs(4));
        let up = |n: usize| net.links(n);
        assert_eq!((up(DIALER), up(LISTENER)), (2, 2), "after {later} ms");
        let asked = |n: usize| net.hosts[n].descriptions.len();
        assert_eq!((asked(DIALER), asked(LISTENER)), (1, 1), "after {later} ms");
        nothing_is_open(&net);
    }
}

/// R18.4, and all of section 20: whichever of the three goes away, and whenever, nothing is stuck at the others.
#[test]
fn any_of_three_may_be_lost_at_every_step_of_an_exchange() {
    for gone in [DIALER, RELAY, LISTENER] {
        for ms in 0..60 {
            for silent in [false, true] {
                let mut net = chain();
                net.offer(DIALER, LISTENER);
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
                    assert_eq!(net.hosts[n].node.signals_open(), 0, "{what}");
                    assert_eq!(net.hosts[n].node.stats().violations().count(), 0, "{what}");
                }
            }
        }
    }
}

/// What the relay passes on to one end, as the other had it sealed.
fn deliver_again(net: &mut Net, to: usize, from: usize, sealed: &Bytes) {
    let from = net.peer(from);
    net.deliver_as_relay(RELAY, to, from, sealed.clone());
    net.run(Duration::from_secs(1));
}

/// R20.5
#[test]
fn an_offer_counts_once() {
    let mut net = chain();
    net.offer(DIALER, LISTENER);
    net.run(Duration::from_secs(1));
    let offer = net.hosts[DIALER].sealed[0].clone();
    net.reset(DIALER, LISTENER);
    net.run(Duration::from_secs(1));
    deliver_again(&mut net, LISTENER, DIALER, &offer);
    assert_eq!(net.hosts[LISTENER].descriptions.len(), 1);
    assert_eq!(net.hosts[LISTENER].sealed.len(), 1, "nothing is said of it either");
}

/// R20.2: nobody but the one that it is from can have said it, and nobody but the one that it is for can use it.
#[test]
fn statements_of_others_are_unreadable_and_leave_nothing() {
    let met = || {
        let mut net = chain();
        net.offer(DIALER, LISTENER);
        net.run(Duration::from_secs(1));
        let said = [DIALER, LISTENER].map(|n| net.hosts[n].sealed[0].clone());
        net.reset(DIALER, LISTENER);
        net.run(Duration::from_secs(1));
        net.log.clear();
        (net, said)
    };
    let altered = |said: &Bytes| {
        let mut altered = said.to_vec();
        *altered.last_mut().unwrap() ^= 1;
        Bytes::from(altered)
    };
    type Pick = fn(&[Bytes; 2]) -> Bytes;
    let cases: [(&str, usize, usize, Pick); 4] = [
        ("in another's name", LISTENER, RELAY, |[offer, _]| offer.clone()),
        ("reflected", DIALER, LISTENER, |[offer, _]| offer.clone()),
        ("for another", LISTENER, DIALER, |[_, answer]| answer.clone()),
        ("an answer in another's name", DIALER, RELAY, |[_, answer]| answer.clone()),
    ];
    let refuse = |what, to: usize, from, (mut net, sealed): (Net, Bytes)| {
        let before = net.hosts[to].descriptions.len();
        deliver_again(&mut net, to, from, &sealed);
        assert_eq!(net.hosts[to].descriptions.len(), before, "{what}");
        assert_eq!(net.fates_of(RELAY), [SignalFate::Unreadable], "{what}");
        assert_eq!(net.hosts[to].node.signals_open(), 0, "{what}");
    };
    for (what, to, from, pick) in cases {
        let (net, said) = met();
        refuse(what, to, from, (net, pick(&said)));
    }
    let (net, [offer, answer]) = met();
    refuse("altered", LISTENER, DIALER, (net, altered(&offer)));
    let (net, _) = met();
    refuse("an altered answer", DIALER, LISTENER, (net, altered(&answer)));
    // A second answer to an offer that is answered is read, and means nothing.
    let (mut net, _) = met();
    let before = net.hosts[DIALER].descriptions.len();
    deliver_again(&mut net, DIALER, LISTENER, &answer);
    assert_eq!(net.fates_of(RELAY), [SignalFate::Taken]);
    assert_eq!(net.hosts[DIALER].descriptions.len(), before);
}

/// R20.4: an answer counts for the offer whose digest it names, and for its maker alone.
#[test]
fn an_answer_to_another_offer_is_none() {
    let mut net = chain();
    net.hosts[LISTENER].forges = Some(|said| {
        let mut answer = Frame::from(said.said.clone()).decode::<Said>().unwrap();
        if let Said::Answer(answer) = &mut answer {
            answer.offer.0[0] ^= 1;
        }
        said.said = answer.to_bytes().unwrap();
    });
    net.offer(DIALER, LISTENER);
    net.run(Duration::from_secs(20));
    assert_eq!(failed(&net), [&DialError::TimedOut]);
    assert_eq!(net.hosts[DIALER].descriptions, []);
    nothing_is_open(&net);
}

/// R18.13: a relay tells who takes offers, and only of those that are its peers.
#[test]
fn a_node_in_want_of_peers_is_given_a_choice() {
    let mut configs = (0..5).map(config).collect::<Vec<_>>();
    configs.iter_mut().for_each(|config| config.outbound = 4);
    configs[4].sealing = None;
    let mut net = with(configs);
    for n in [0, 2, 3, 4] {
        net.connect(n, 1);
    }
    net.run(Duration::from_secs(20));
    for (a, b) in [(0, 2), (0, 3), (2, 3)] {
        assert!(are_connected(&net, a, b) && are_connected(&net, b, a), "{a} and {b}");
    }
    let relay = net.peer(1);
    let chosen = net.sent(1, 0, |message| match message {
        crate::Message::Signal(SignalMessage::Choice(records)) => Some(records.clone()),
        _ => None,
    });
    assert!(!chosen.is_empty());
    let takers = [net.peer(2), net.peer(3)];
    for record in chosen.iter().flatten() {
        assert!(takers.contains(&record.peer) && record.peer != relay, "{record:?}");
        assert!(record.sealing.is_some());
    }
    nothing_is_open(&net);
}

/// R18.12, R18.13
#[test]
fn questions_and_choices_out_of_turn_are_violations() {
    use super::script::{SIGNAL, Script};
    let ask = SignalMessage::Ask(crate::wire::ChoiceAsked { peer: None });
    let mut script = Script::up();
    script.stalled = true;
    script.send(SIGNAL, &ask);
    // The first is answered at once, and the transport takes no second frame.
    script.send(SIGNAL, &ask);
    script.send(SIGNAL, &ask);
    script.stalled = false;
    assert_eq!(script.accusation(), Some(Violation::RequestPermit));
    let mut script = Script::up();
    script.send(SIGNAL, &SignalMessage::Choice(Vec::new()));
    assert_eq!(script.accusation(), Some(Violation::Unasked));
}

/// R20.8: what strangers have opened is bounded, and what is awaited does not wait behind it.
#[test]
fn statements_are_opened_at_a_pace_and_awaited_ones_at_once() {
    use super::script::{SIGNAL, Script};
    let grants = u64::from(crate::Limits::default().signals_taken);
    let mut script = Script::with(config(1));
    let mut busy = 0;
    let mut opened = 0;
    // Relays with eight permits each.
    for relay in 0..12u8 {
        script.connect(PeerId([100 + relay; 32]));
        script.shake_hands();
        for from in 0..grants {
            let from = PeerId([from as u8 + 1; 32]);
            let payload = Bytes::from(vec![7; 100]);
            let deliver = SignalMessage::Deliver(crate::wire::Delivery { from, payload });
            script.send(SIGNAL, &deliver);
        }
        let fates = script.received::<SignalMessage>(SIGNAL).into_iter();
        let fates = fates.filter_map(|message| match message {
            SignalMessage::Delivered(settled) => Some(settled.fate),
            _ => None,
        });
        let fates = fates.collect::<Vec<_>>();
        busy += fates.iter().filter(|fate| **fate == SignalFate::Busy).count();
        opened += fates.iter().filter(|fate| **fate == SignalFate::Taken).count();
    }
    // Some time passes with each hello.
    assert!((64..70).contains(&opened), "{opened}");
    assert_eq!(opened + busy, 96);
}

/// R20.8: one relay that keeps an answer to itself holds nobody up, since the other repeats it by way of another.
#[test]
fn an_answer_that_a_relay_drops_comes_by_another() {
    let mut net = with((0..4).map(config).collect());
    let listener = 3;
    for relay in [1, 2] {
        net.connect(0, relay);
        net.connect(listener, relay);
    }
    net.run(Duration::from_secs(1));
    let other = net.peer(listener);
    net.command(0, Command::Dial { address: Address::by_offer(), peer: Some(other) });
    // The one that has the offer first passes nothing on to the dialer from then on.
    net.run_ms(25);
    let first = net.log.iter().find_map(|(_, from, to, message)| match message {
        crate::Message::Signal(SignalMessage::Carry(_)) if *from == 0 => Some(*to),
        _ => None,
    });
    let first = first.expect("the offer has left");
    net.cut.insert((first, 0));
    net.run(Duration::from_secs(3));
    assert!(are_connected(&net, 0, listener), "{:?}", failed(&net));
    assert_eq!(net.hosts[listener].descriptions.len(), 1, "it has answered once");
}

/// R20.8: who offers again and again without coming gets no more places.
#[test]
fn one_peer_has_few_connections_that_are_not_up() {
    let mut net = chain();
    for round in 0..4 {
        net.offer(DIALER, LISTENER);
        net.run_ms(100);
        // It never comes: as if its packets were lost.
        net.reset(DIALER, LISTENER);
        net.hosts[DIALER].on_answer = false;
        net.run_ms(100);
        let told = net.hosts[LISTENER].descriptions.len();
        assert_eq!(told, [1, 2, 3, 3][round], "{round}");
    }
}

/// An offer that waits for a relay's permits does not leave when its dial is over.
#[test]
fn what_a_dial_had_to_say_does_not_leave_after_its_end() {
    use super::script::{PEER, SIGNAL, Script};
    let mut script = Script::up_with(config(1));
    let (peer, network) = (config(7).peer, script.node.config().network);
    let (addresses, sealing) = (vec![Address::by_offer()], config(7).sealing);
    let payload = crate::peers::record::payload(&network, peer, 1, &addresses, sealing).unwrap();
    let signature = Signature(key(7).sign(&payload).to_bytes());
    let record = PeerRecord { peer, sequence: 1, addresses, sealing, signature };
    // Both of the relay's permits are out.
    for other in [100, 101] {
        let by = (PEER, PeerId([other; 32]));
        script.carry(1000 + u64::from(other), by, vec![9; 100].into());
    }
    script.command(Command::Dial { address: Address::by_offer(), peer: Some(peer) });
    let dial = script.dials.pop().unwrap();
    let (exchange, description) = (Exchange::Dialed(dial), description_of(0));
    script.input(crate::io::Input::Described { exchange, description });
    script.send(SIGNAL, &SignalMessage::Choice(vec![record]));
    let (request, receiver, _) = script.seals.pop().expect("the offer");
    assert_eq!(Some(receiver), sealing);
    script.command(Command::Sealed { request, sealed: Some(vec![1; 300].into()) });
    // For the relay's turn and the last wait.
    script.wait(4_600);
    assert_eq!(script.cancelled, [dial]);
    script.take();
    let settled = crate::wire::Settled { number: 0, fate: SignalFate::Busy };
    script.send(SIGNAL, &SignalMessage::Carried(settled));
    assert_eq!(script.received::<SignalMessage>(SIGNAL), []);
    // The other permit is still out, and nothing else.
    script.wait(10_000);
    assert_eq!(script.node.signals_open(), 0);
}
