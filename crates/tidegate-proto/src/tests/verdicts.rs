//! Sections 7 and 12: late and missing verdicts, and items that are not executable everywhere yet.

use std::time::Duration;

use super::application::{LARGE, SMALL, block, facts, genesis, item};
use super::net::{Message, Net, accept, pick, withhold};
use crate::io::{Admission, Command, Event, Subject, TipChange, Verdict};
use crate::wire::{PoolMessage, Report};

fn ignore(_: &Subject) -> Option<Verdict> {
    Some(Verdict::Ignore)
}

fn pushes(net: &Net, from: usize, to: usize) -> usize {
    net.sent(from, to, pick!(Message::Pool(PoolMessage::Push(_)) => ())).len()
}

/// R6.3.3, R12.2
#[test]
fn a_late_verdict_gives_the_permit_back_and_still_counts() {
    let mut net = Net::pair();
    net.hosts[1].judge = withhold;
    let body = item(1, 100);
    net.publish(0, SMALL, &body);
    net.run_ms(9900);
    let returned = |net: &Net| {
        net.sent(1, 0, pick!(Message::Pool(PoolMessage::Return(list)) => list[0].report))
    };
    assert_eq!(returned(&net), []);
    net.run_ms(2000);
    assert_eq!(returned(&net), [Report::Ignored]);
    // The ticket stays outstanding.
    assert_eq!(net.hosts[1].node.status().tickets, 1);
    let ticket = *net.hosts[1].open.first_key_value().unwrap().0;
    net.answer(1, ticket, Verdict::Accept(Admission::default()));
    assert!(net.holds(1, SMALL, &body));
    assert_eq!(net.hosts[1].node.status().tickets, 0);
    net.run_ms(5000);
    assert_eq!(returned(&net).len(), 1, "a permit goes back once");
}

#[test]
fn a_validator_that_hangs_is_asked_no_more_than_it_can_take() {
    let mut net = Net::pair();
    net.hosts[1].judge = withhold;
    for n in 0..100 {
        net.publish(0, SMALL, &item(n, 100));
    }
    net.run(Duration::from_secs(60));
    // Two for each worker.
    assert_eq!(net.hosts[1].open.len(), 4);
    let block = block(&genesis(), 1, 1, &[]);
    net.produce(0, &block);
    net.run_ms(1000);
    assert!(net.hosts[1].open.values().any(|subject| matches!(subject, Subject::Header { .. })));
    let large = item(100, 100);
    net.publish(0, LARGE, &large);
    net.run_ms(1000);
    let of_large = |subject: &Subject| matches!(subject, Subject::Item { pool: LARGE, .. });
    assert!(net.hosts[1].open.values().any(of_large));
    // When it wakes up, everything goes on.
    net.hosts[1].judge = accept;
    while let Some((ticket, subject)) = net.hosts[1].open.pop_first() {
        let verdict = accept(&subject).unwrap();
        net.answer(1, ticket, verdict);
        net.run_ms(100);
    }
    net.run(Duration::from_secs(5));
    assert_eq!(net.ids(1, SMALL).len(), 100);
    assert_eq!(net.height(1), 1);
}

/// R7.4.3
#[test]
fn ignored_items_are_offered_again_once_for_each_new_tip() {
    let mut net = Net::pair();
    net.hosts[1].judge = |subject| match subject {
        Subject::Item { .. } => Some(Verdict::Ignore),
        _ => accept(subject),
    };
    net.publish(0, SMALL, &item(1, 100));
    net.run_ms(3000);
    assert_eq!(pushes(&net, 0, 1), 1);
    let mut parent = genesis();
    for slot in 1..=3 {
        let block = block(&parent, slot, 1, &[]);
        parent = block.header.clone();
        net.produce(1, &block);
        net.run_ms(3000);
        assert_eq!(pushes(&net, 0, 1), 1 + slot as usize);
    }
    net.hosts[1].judge = accept;
    net.produce(1, &block(&parent, 4, 1, &[]));
    net.run_ms(3000);
    assert!(net.holds(1, SMALL, &item(1, 100)));
    net.produce(1, &block(&block(&parent, 4, 1, &[]).header, 5, 1, &[]));
    net.run_ms(3000);
    assert_eq!(pushes(&net, 0, 1), 5, "it is not offered any more");
}

/// R7.4.3
#[test]
fn a_report_that_waited_while_the_tip_moved_is_about_the_old_tip() {
    let mut net = Net::pair();
    net.hosts[1].judge = ignore;
    net.publish(0, SMALL, &item(1, 100));
    // It is ignored at 10 ms; the return is batched, and the tip changes meanwhile.
    net.run_ms(100);
    net.hosts[1].judge = accept;
    net.hosts[0].judge = withhold;
    net.produce(1, &block(&genesis(), 1, 1, &[]));
    net.run_ms(500);
    let heard = net.hosts[0].node.status().peers[0].height;
    assert_eq!((heard, net.ids(1, SMALL).len()), (1, 0));
    net.run_ms(1000);
    assert!(net.holds(1, SMALL, &item(1, 100)), "no other tip will come");
}

/// Node 0 at height 2, node 1 at `height` of a chain of its own, neither knowing the other's
/// blocks: the test connects them.
fn apart(height: u64) -> Net {
    let mut net = Net::new(2);
    for (node, blocks) in [(0, 2), (1, height)] {
        let mut parent = genesis();
        for slot in 1..=blocks {
            let block = block(&parent, slot, node as u8 + 1, &[]);
            parent = block.header.clone();
            net.produce(node, &block);
        }
    }
    // Headers get no verdict, so neither node follows the other.
    for host in &mut net.hosts {
        host.judge = |subject| match subject {
            Subject::Header { .. } => None,
            _ => accept(subject),
        };
    }
    net.connect(0, 1);
    net.run_ms(500);
    net
}

/// R7.4.1
#[test]
fn an_item_waits_for_a_tip_that_is_high_enough() {
    // Two ahead of the item, level with it, one and two behind it, and on another fork.
    for (height, at_once) in [(4, true), (2, true), (1, false), (0, false)] {
        let mut net = apart(height);
        let body = item(1, 100);
        net.publish_from(0, SMALL, &body, 2);
        net.publish_from(0, LARGE, &item(2, 5000), 2);
        net.publish_from(0, SMALL, &item(3, 100), 0);
        net.run_ms(2000);
        assert!(net.holds(1, SMALL, &item(3, 100)), "what holds everywhere is not held up");
        assert_eq!(net.holds(1, SMALL, &body), at_once, "at height {height}");
        // The peer's own chain grows: nothing stalls, whichever fork it is on.
        let mut parent = genesis();
        for slot in 1..=height + 3 {
            let block = block(&parent, slot, 2, &[]);
            parent = block.header.clone();
            net.produce(1, &block);
        }
        net.run_ms(2000);
        assert!(net.holds(1, SMALL, &body), "at height {height}");
        assert!(net.holds(1, LARGE, &item(2, 5000)), "at height {height}");
    }
}

#[test]
fn a_full_set_of_held_back_items_stops_the_cursor_until_the_tip_moves() {
    let mut first = super::application::config(1);
    // Two, and outstanding ones count too, since they could come back as ignored.
    first.limits.held_back = 2;
    let mut net = Net::with(vec![first, super::application::config(2)]);
    net.connect(0, 1);
    net.run_ms(500);
    for n in 1..=3 {
        net.publish_from(0, SMALL, &item(n, 100), 1);
    }
    net.publish_from(0, SMALL, &item(9, 100), 0);
    net.run_ms(1000);
    assert!(net.ids(1, SMALL).is_empty(), "the cursor stands before the third");
    let block = block(&genesis(), 1, 1, &[]);
    net.hosts[0].judge = withhold;
    net.produce(1, &block);
    net.run_ms(5000);
    assert_eq!(net.ids(1, SMALL).len(), 4);
}

#[test]
fn rejected_items_cost_their_sender() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(2, 1);
    net.run_ms(500);
    net.hosts[1].judge = |subject| match subject {
        Subject::Item { .. } => Some(Verdict::Reject),
        _ => accept(subject),
    };
    net.publish(0, SMALL, &item(1, 100));
    net.run_ms(500);
    assert_eq!((net.links(0), net.links(1)), (0, 1));
    assert_eq!(net.hosts[1].node.status().bans, 1);
    assert!(net.ids(2, SMALL).is_empty(), "it is not passed on");
}

#[test]
fn an_item_that_was_ignored_can_be_published_here() {
    let mut net = Net::pair();
    net.hosts[1].judge = ignore;
    net.publish(0, SMALL, &item(1, 100));
    net.run_ms(500);
    assert_eq!(net.publish(1, SMALL, &item(1, 100)), crate::io::Fate::Accepted);
    assert!(net.holds(1, SMALL, &item(1, 100)));
}

#[test]
fn publishing_settles_a_running_check_of_the_item() {
    let mut net = Net::pair();
    net.hosts[1].judge = withhold;
    net.publish(0, SMALL, &item(1, 100));
    net.run_ms(500);
    let ticket = *net.hosts[1].open.first_key_value().unwrap().0;
    assert_eq!(net.publish(1, SMALL, &item(1, 100)), crate::io::Fate::Accepted);
    net.run_ms(2000);
    // A later verdict changes nothing, whatever it is.
    net.answer(1, ticket, Verdict::Reject);
    net.run_ms(500);
    assert!(net.holds(1, SMALL, &item(1, 100)));
    assert_eq!((net.links(0), net.links(1)), (1, 1));
    let spent = net.hosts[0].node.status().pools["small"].spent;
    assert_eq!(spent, 0, "the permit is back");
}

#[test]
fn unknown_tips_are_not_taken() {
    let mut net = Net::pair();
    let unknown = block(&genesis(), 1, 1, &[]);
    let change = TipChange::new(unknown.block);
    net.command(0, Command::SetTip(change));
    assert_eq!(net.hosts[0].node.tip(), Some(&facts(&genesis())));
    assert_eq!(net.hosts[0].node.stats().of(crate::stats::Count::UnknownTips), 1);
    let told = Event::UnknownTip { block: unknown.block };
    assert!(net.hosts[0].events.contains(&told));
}
