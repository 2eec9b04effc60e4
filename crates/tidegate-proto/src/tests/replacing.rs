//! Section 5.3: a connection with a better path replaces another, and what is in progress goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::application::{LARGE, config, id, item};
use super::net::{Message, Net};
use crate::id::ItemId;
use crate::io::{Event, Fate, Path};
use crate::wire::{Body, PoolMessage};

/// Items of both nodes: small ones are pushed, large ones are announced and fetched, some in chunks.
const SIZES: [usize; 3] = [100, 3_000, 80_000];
const ITEMS: u8 = 24;

fn items(n: usize) -> Vec<Bytes> {
    let number = |i: u8| n as u8 * 100 + i;
    (0..ITEMS).map(|i| item(number(i), SIZES[usize::from(i) % SIZES.len()])).collect()
}

fn pair() -> Net {
    let mut net = Net::with(vec![config(1), config(2)]);
    net.delay = Duration::from_millis(7);
    net
}

/// How often each item's body reached a node.
fn bodies(net: &Net, to: usize) -> BTreeMap<ItemId, usize> {
    let mut bodies = BTreeMap::new();
    for (_, _, at, message) in &net.log {
        let body = match message {
            Message::Pool(PoolMessage::Push(body)) => body,
            Message::Pool(PoolMessage::Answer(answer)) => &answer.body,
            _ => continue,
        };
        if *at != to {
            continue;
        }
        // Chunked bodies are told apart by their size: each node has one of that size.
        if let Body::Whole(body) = body {
            *bodies.entry(id(LARGE, body)).or_default() += 1;
        }
    }
    bodies
}

fn paths(net: &Net, n: usize) -> Vec<Path> {
    net.hosts[n].node.status().peers.iter().map(|peer| peer.path).collect()
}

fn disconnects(net: &Net, n: usize) -> usize {
    let events = net.hosts[n].events.iter();
    events.filter(|event| matches!(event, Event::PeerDisconnected { .. })).count()
}

/// Publishes an item of each node every other millisecond, and calls `act` at the `step`-th.
fn run(net: &mut Net, step: usize, mut act: impl FnMut(&mut Net)) {
    let items = [items(0), items(1)];
    for at in 0..usize::from(ITEMS) * 4 {
        if at == step {
            act(net);
        }
        if at % 2 == 0 && at / 2 < items[0].len() {
            for (n, items) in items.iter().enumerate() {
                assert_eq!(net.publish(n, LARGE, &items[at / 2]), Fate::Accepted);
            }
        }
        net.run_ms(1);
    }
    net.run(Duration::from_secs(8));
}

fn check(net: &Net, what: &str) {
    for n in [0, 1] {
        assert_eq!(paths(net, n), [Path::Direct], "{what}");
        assert_eq!(disconnects(net, n), 0, "{what}: the peer was there all the time");
    }
    check_items(net, what);
}

fn check_items(net: &Net, what: &str) {
    assert_eq!([net.links(0), net.links(1)], [1, 1], "{what}");
    for n in [0, 1] {
        assert_eq!(net.hosts[n].node.stats().violations().count(), 0, "{what}");
        for item in items(0).iter().chain(&items(1)) {
            assert!(net.holds(n, LARGE, item), "{what}: lost");
        }
        let status = net.hosts[n].node.status();
        assert_eq!(status.fetch_bytes, 0, "{what}");
        let permits = &status.peers[0].permits[&net.hosts[n].node.config().pools[0].name];
        assert_eq!((permits.given, permits.spent), (0, 0), "{what}: permits stay out");
    }
}

/// R5.3.8, R5.3.9
#[test]
fn items_survive_replacement_at_every_step() {
    for dialer in [0, 1] {
        for step in 0..usize::from(ITEMS) * 4 {
            let mut net = pair();
            net.path = Path::Relayed;
            net.connect(0, 1);
            net.path = Path::Direct;
            run(&mut net, step, |net| net.connect(dialer, 1 - dialer));
            let what = format!("{dialer} dials at step {step}");
            check(&net, &what);
            for n in [0, 1] {
                let twice = bodies(&net, n).into_iter().find(|(_, count)| *count > 1);
                assert_eq!(twice, None, "{what}");
            }
        }
    }
}

/// The old connection is lost in the middle of it: what was outstanding comes by the new one.
#[test]
fn the_old_connection_may_be_lost_at_every_step() {
    for step in 0..usize::from(ITEMS) * 4 {
        let mut net = pair();
        net.path = Path::Relayed;
        net.connect(0, 1);
        net.path = Path::Direct;
        run(&mut net, step, |net| {
            net.connect(1, 0);
            // Its hello takes six times the delay.
            net.run_ms(43);
            net.reset_by(Path::Relayed);
        });
        check(&net, &format!("at step {step}"));
    }
}

/// The new connection is lost in the middle of it: the old one goes on, if it still exists, with
/// what the new one had taken over. R5.3.11
#[test]
fn the_new_connection_may_be_lost_at_every_step() {
    for step in 0..usize::from(ITEMS) * 4 {
        // Before its hello is complete, when it has just come up, and while the old one drains.
        for after in [10, 22, 36, 43, 50] {
            let mut net = pair();
            net.path = Path::Relayed;
            net.connect(0, 1);
            run(&mut net, step, |net| {
                net.path = Path::Direct;
                net.connect(1, 0);
                net.run_ms(after);
                net.reset_by(Path::Direct);
                net.path = Path::Relayed;
            });
            if net.links(0) == 0 {
                // Nothing was owed on the old one any more.
                net.connect(0, 1);
                net.run(Duration::from_secs(8));
            }
            check_items(&net, &format!("at step {step}, {after} ms later"));
        }
    }
}

/// A better connection whose hello never completes takes nothing from the working one.
#[test]
fn a_better_path_that_leads_nowhere_ends_nothing() {
    let mut net = pair();
    net.path = Path::Relayed;
    net.connect(0, 1);
    net.run(Duration::from_secs(60));
    net.path = Path::Direct;
    // The listener's part of its hello does not arrive.
    net.connect(1, 0);
    net.run_ms(15);
    net.reset_by(Path::Direct);
    net.run(Duration::from_secs(30));
    for n in [0, 1] {
        assert_eq!((paths(&net, n), disconnects(&net, n)), (vec![Path::Relayed], 0));
    }
}

/// The better one exists already.
#[test]
fn a_worse_path_does_not_stay() {
    for dialer in [0, 1] {
        let mut net = pair();
        net.connect(0, 1);
        run(&mut net, 30, |net| {
            net.path = Path::Adapted;
            net.connect(dialer, 1 - dialer);
        });
        check(&net, "a worse one");
    }
}

/// One end has lost the better connection, and the other end has not noticed. R5.3.10
#[test]
fn a_worse_path_takes_the_place_of_a_better_one_that_is_dead() {
    for dialer in [0, 1] {
        let mut net = pair();
        net.connect(0, 1);
        net.run(Duration::from_secs(60));
        net.reset_one(dialer);
        net.path = Path::Relayed;
        net.connect(dialer, 1 - dialer);
        // The other one waits 2 s for the pong.
        net.run(Duration::from_secs(3));
        for n in [0, 1] {
            assert_eq!(paths(&net, n), [Path::Relayed]);
        }
    }
}
