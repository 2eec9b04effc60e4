//! Section 15 and the rest of 14: nodes that find each other, and again after all kinds of loss.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};

use super::application::config;
use super::net::{Message, Net, address, listening};
use super::script::{PEERS, Script};
use crate::config::StaticPeer;
use crate::id::{Address, PeerId, Signature};
use crate::io::{Command, Event};
use crate::peers::record;
use crate::wire::{ControlMessage, PeerRecord, PeersMessage, Refusal};
use crate::{Config, Violation};

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn peer(n: u8) -> PeerId {
    PeerId(key(n).verifying_key().to_bytes())
}

fn record(n: u8, sequence: u64, addresses: Vec<Address>) -> PeerRecord {
    let network = config(0).network;
    let payload = record::payload(&network, peer(n), sequence, &addresses, None).unwrap();
    let signature = Signature(key(n).sign(&payload).to_bytes());
    PeerRecord { peer: peer(n), sequence, addresses, sealing: None, signature }
}

/// Nodes that only know the address of the first one.
fn strangers(count: u8, outbound: u32) -> Net {
    let with = |n| {
        let mut config: Config = config(n);
        config.peer = peer(n);
        config.outbound = outbound;
        if n > 0 {
            config.bootstrap = vec![StaticPeer { address: address(0), peer: None }];
        }
        config
    };
    let mut net = Net::with((0..count).map(with).collect());
    for n in 0..count as usize {
        net.hosts[n].key = Some(key(n as u8));
        net.command(n, listening(vec![address(n)]));
    }
    net
}

/// The nodes that can be reached from one over links.
fn reachable(net: &Net, from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(n) = open.pop() {
        for other in 0..net.hosts.len() {
            if is_linked(net, n, other) && found.insert(other) {
                open.push(other);
            }
        }
    }
    found
}

fn is_linked(net: &Net, a: usize, b: usize) -> bool {
    let name = net.peer(b).to_string();
    net.hosts[a].node.status().peers.iter().any(|other| other.peer == name)
}

/// The process of a node dies without a goodbye.
fn kill(net: &mut Net, n: usize) {
    net.down.insert(n);
    for other in 0..net.hosts.len() {
        net.reset(n, other);
    }
    net.restart(n);
}

fn outbound(net: &Net, n: usize) -> usize {
    net.hosts[n].node.status().peers.iter().filter(|peer| !peer.inbound).count()
}

#[test]
fn nodes_find_each_other_from_one_address() {
    let mut net = strangers(20, 4);
    net.run(Duration::from_secs(20));
    for n in 1..20 {
        assert!(outbound(&net, n) >= 4, "node {n} has {}", outbound(&net, n));
    }
    assert_eq!(reachable(&net, 0).len(), 20);
    // The bootstrap node is no longer needed.
    kill(&mut net, 0);
    net.run(Duration::from_secs(20));
    assert_eq!(reachable(&net, 1).len(), 19);
    for n in 1..20 {
        assert!(outbound(&net, n) >= 4, "node {n} has {}", outbound(&net, n));
    }
}

/// Whichever side ends a connection on purpose, and whichever dialed: it stays closed for a while,
/// but not for ever.
#[test]
fn disconnected_peers_are_not_redialed_for_a_while() {
    for by in [0, 1] {
        let mut net = strangers(2, 4);
        net.run(Duration::from_secs(10));
        assert_eq!(net.links(0), 1);
        let peer = net.peer(1 - by);
        net.command(by, Command::Disconnect { peer });
        net.run(Duration::from_secs(44));
        assert_eq!(net.links(0), 0);
        // Regression: it was back after 5 ms, although its own application had ended it.
        let (address, who) = (address(by), Some(net.peer(by)));
        net.command(1 - by, Command::Dial { address, peer: who });
        net.run(Duration::from_secs(1));
        assert_eq!(net.links(0), 0);
        net.run(Duration::from_secs(45));
        assert_eq!(net.links(0), 1);
    }
}

#[test]
fn known_peers_come_back_without_the_bootstrap_node() {
    let mut net = strangers(10, 4);
    net.run(Duration::from_secs(20));
    kill(&mut net, 0);
    net.run(Duration::from_secs(20));
    kill(&mut net, 5);
    net.run(Duration::from_secs(30));
    assert!(reachable(&net, 5).len() == 1 && net.links(5) == 0);
    net.down.remove(&5);
    net.run(Duration::from_secs(5));
    assert_eq!(reachable(&net, 5).len(), 9, "all but the one that is gone");
}

#[test]
fn a_cut_heals_within_a_hundredth_of_its_length_and_ten_seconds() {
    for minutes in [1, 10] {
        let mut net = strangers(8, 3);
        net.run(Duration::from_secs(20));
        for a in 0..4 {
            for b in 4..8 {
                net.cut.extend([(a, b), (b, a)]);
            }
        }
        net.run(Duration::from_secs(60 * minutes));
        let half = reachable(&net, 0);
        assert!(half.is_subset(&(0..4).collect()), "{half:?}");
        net.cut.clear();
        net.run(Duration::from_secs(10));
        assert_eq!(reachable(&net, 0).len(), 8, "after {minutes} minutes");
    }
}

#[test]
fn isolated_nodes_keep_dialing() {
    let mut net = strangers(4, 2);
    net.run(Duration::from_secs(20));
    for other in 0..3 {
        net.cut.extend([(3, other), (other, 3)]);
    }
    net.run(Duration::from_secs(3 * 3600));
    assert_eq!(net.links(3), 0);
    net.cut.clear();
    net.run(Duration::from_secs(10));
    assert!(net.links(3) > 0);
}

#[test]
fn a_closed_network_learns_nothing() {
    let mut net = strangers(4, 0);
    for n in 1..4 {
        net.connect(n, 0);
    }
    net.run(Duration::from_secs(60));
    let asked = net.log.iter().filter(|(.., message)| matches!(message, Message::Peers(_)));
    assert_eq!(asked.count(), 0);
    assert_eq!(net.hosts[1].node.status().known_peers, 0);
    assert_eq!(net.links(1), 1);
}

/// R5.5.5
#[test]
fn silent_peers_that_owe_permits_are_disconnected() {
    use crate::id::PoolIndex;
    use crate::io::Admission;
    for publishes in [false, true] {
        let mut script = Script::up();
        let body = super::application::item(1, 100);
        let (request, pool, admission) = (1, PoolIndex(1), Admission::default());
        if publishes {
            script.command(Command::Publish { request, pool, body, admission });
        }
        script.wait(7_999);
        assert_eq!(script.node.status().peers.len(), 1);
        script.wait(2);
        assert_eq!(script.node.status().peers.is_empty(), publishes);
    }
}

/// A node that looks for peers, and has had time to do so.
fn looking() -> Config {
    let mut config: Config = config(1);
    config.outbound = 4;
    config.limits.ping_idle = Duration::from_secs(86_400);
    config
}

/// Such a node, and a peer that it has dialed.
fn dialed() -> Script {
    let config = looking();
    let mut script = Script::with(config);
    script.dial(super::script::PEER);
    script.shake_hands();
    script
}

fn answers(script: &mut Script) -> Vec<Vec<PeerRecord>> {
    let messages = script.received(PEERS).into_iter();
    let answers = messages.filter_map(|message| match message {
        PeersMessage::Records(records) => Some(records),
        _ => None,
    });
    answers.collect()
}

fn records(records: Vec<PeerRecord>) -> PeersMessage {
    PeersMessage::Records(records)
}

/// R15.1, R15.2, R15.3, R15.5
#[test]
fn questions_for_records_have_a_bounded_rate() {
    let mut script = Script::up_with(looking());
    for n in 0..4 {
        script.send(PEERS, &PeersMessage::Ask);
        assert_eq!(answers(&mut script).len(), 1, "answer {n}");
    }
    script.send(PEERS, &PeersMessage::Ask);
    script.wait(59_999);
    assert_eq!(answers(&mut script).len(), 0);
    script.wait(1);
    assert_eq!(answers(&mut script).len(), 1);
    script.send(PEERS, &PeersMessage::Ask);
    assert_eq!(script.accusation(), None);
    script.send(PEERS, &PeersMessage::Ask);
    assert_eq!(script.accusation(), Some(Violation::RequestPermit));
}

#[test]
fn learnt_records_are_passed_on_and_dialed() {
    let mut script = dialed();
    let first = script.connection;
    let known = (20..60).map(|n| record(n, 1, vec![address(n as usize)])).collect::<Vec<_>>();
    script.send(PEERS, &records(known.clone()));
    assert_eq!(script.node.status().known_peers, 41, "and the one that told of them");
    script.wait(10_000);
    assert!(!script.dials.is_empty());
    let dialed = script.dialed.iter().flatten().skip(1);
    assert!(dialed.clone().all(|dialed| known.iter().any(|record| record.peer == *dialed)));
    // Another peer asks: it gets a part of the book, and the node's own record.
    script.connect(known[0].peer);
    script.shake_hands();
    script.send(PEERS, &PeersMessage::Ask);
    let told = answers(&mut script).remove(0);
    assert_eq!((told.len(), &told[0]), (17, &known[0]));
    assert!(told[1..].iter().all(|record| known[1..].contains(record)));
    // A newer record replaces the old one, an older one does not.
    script.connection = first;
    script.wait(3_600_000);
    assert_eq!(script.node.status().known_peers, 41);
}

/// Regression: a node that lost its store numbered its records from zero, so peers ignored its
/// addresses for as many starts as there had been. R15.7
#[test]
fn record_sequences_continue_after_a_lost_store() {
    let mut config = looking();
    config.peer = peer(1);
    let mut script = Script::with(config);
    script.command(listening(vec![address(1)]));
    assert_eq!(std::mem::take(&mut script.signs).len(), 1);
    script.dial(super::script::PEER);
    script.shake_hands();
    let say = |script: &mut Script, sequence| -> Vec<u64> {
        script.wait(600_000);
        script.received::<PeersMessage>(PEERS);
        script.send(PEERS, &records(vec![record(1, sequence, vec![address(9)])]));
        std::mem::take(&mut script.signs).into_iter().map(|(number, _)| number).collect()
    };
    assert_eq!(say(&mut script, 1), vec![0; 0], "its own");
    assert_eq!(say(&mut script, 500), [501]);
    assert_eq!(say(&mut script, 501), vec![0; 0]);
    // Another node with the same key does the same: once a minute is enough.
    let twice = [record(1, 600, vec![address(9)]), record(1, 700, vec![address(9)])];
    script.wait(1_800_000);
    script.send(PEERS, &records(twice.to_vec()));
    assert_eq!(
        std::mem::take(&mut script.signs).into_iter().map(|s| s.0).collect::<Vec<_>>(),
        [601]
    );
    // There is no number above the highest: nothing happens.
    assert_eq!(say(&mut script, u64::MAX), vec![0; 0]);
    script.wait(1_800_000);
    let forged = PeerRecord { sequence: 900, ..record(1, 800, vec![address(9)]) };
    script.send(PEERS, &records(vec![forged]));
    assert_eq!(script.accusation(), Some(Violation::WrongRecord));
}

/// R15.4
#[test]
fn unasked_records_are_violations() {
    let mut script = Script::up();
    script.send(PEERS, &records(Vec::new()));
    assert_eq!(script.accusation(), Some(Violation::Unasked));
    // One answer for one question.
    let mut script = dialed();
    script.send(PEERS, &records(Vec::new()));
    assert_eq!(script.accusation(), None);
    script.send(PEERS, &records(Vec::new()));
    assert_eq!(script.accusation(), Some(Violation::Unasked));
}

#[test]
fn addresses_at_home_mean_nothing_to_the_world() {
    let ip = |ip: [u8; 4]| Address(Bytes::from([&[4][..], &ip, &[0x91, 2, 0, 9]].concat()));
    let (home, world) = (ip([192, 168, 1, 1]), ip([8, 8, 8, 8]));
    let mut script = Script::with(looking());
    script.seen_at = ip([9, 9, 9, 9]);
    script.dial(super::script::PEER);
    script.shake_hands();
    script.send(PEERS, &records(vec![record(20, 1, vec![home.clone()])]));
    assert_eq!(script.node.status().known_peers, 1, "but the one that was dialed");
    script.wait(3_600_000);
    script.received::<PeersMessage>(PEERS);
    script.send(PEERS, &records(vec![record(21, 1, vec![home, world])]));
    assert_eq!(script.accusation(), None);
    assert_eq!(script.node.status().known_peers, 2);
}

/// R5.2.4
#[test]
fn full_nodes_refer_to_others() {
    // Two may dial the first; the others must find each other by the records of the first.
    let mut net = strangers(12, 3);
    let mut config = net.hosts[0].node.config().clone();
    config.limits.max_inbound = 2;
    net.hosts[0].node =
        crate::Node::new(config, Box::new(super::application::TestRules), [0; 32], net.now)
            .unwrap();
    net.command(0, listening(vec![address(0)]));
    net.run(Duration::from_secs(30));
    assert_eq!(net.links(0) - outbound(&net, 0), 2);
    assert_eq!(reachable(&net, 0).len(), 12);
    // Records sent in this way are checked like any others.
    let mut script = Script::with(looking());
    script.dial(super::script::PEER);
    let mut forged = record(21, 1, vec![address(21)]);
    forged.sequence = 2;
    let others = vec![record(20, 1, vec![address(20)]), forged];
    script.send(super::script::CONTROL, &ControlMessage::Refuse(Refusal::Full(others)));
    assert_eq!(script.node.status().known_peers, 1);
}

#[test]
fn bans_and_the_book_survive_a_restart() {
    let mut script = dialed();
    script.send(PEERS, &records((20..25).map(|n| record(n, 1, vec![address(9)])).collect()));
    let banned = super::script::PEER;
    script.send(PEERS, &records(Vec::new()));
    assert_eq!(script.accusation(), Some(Violation::Unasked));
    let saved = script.node.peer_book();
    let mut config: Config = config(1);
    config.peer_book = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
    let mut script = Script::with(config);
    assert_eq!(script.node.status().known_peers, 6);
    assert_eq!(script.node.status().met_peers, 1);
    assert_eq!(script.node.peer_book().entries, saved.entries);
    script.connect(banned);
    script.shake_hands();
    let refused = |event: &Event| matches!(event, Event::Refused { by_us: true, .. });
    assert!(script.events.iter().any(refused));
}

/// A process that is killed again and again, at random moments, is reconnected as soon as its peers
/// have noticed.
#[test]
fn repeatedly_killed_nodes_reconnect_each_time() {
    let mut rng = crate::rng::Rng::new([9; 32]);
    let mut net = strangers(3, 8);
    net.delay = Duration::from_millis(1);
    net.run(Duration::from_secs(10));
    for round in 0..500 {
        net.run(Duration::from_millis(200 + rng.next_u64() % 800));
        net.restart(2);
        net.command(2, listening(vec![address(2)]));
        let since = net.now;
        while net.links(2) < 2 {
            net.run_ms(10);
            let waited = net.now.since(since);
            assert!(waited < Duration::from_secs(3), "round {round}");
        }
    }
}
