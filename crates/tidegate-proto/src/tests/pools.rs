//! Section 7: propagation of items from pool to pool.

use bytes::Bytes;

use super::application::{LARGE, SMALL, config, facts, genesis, item, prioritised};
use super::net::{Message, Net, pick};
use super::script::{CONTROL, LARGE_POOL, PEER, SMALL_POOL, Script, hello, setup};
use crate::id::{AccountId, ItemKey};
use crate::io::{Admission, Command, Fate, Input, Subject, TipChange, Verdict};
use crate::rules::Account;
use crate::wire::{Answer, Body, ControlMessage, PoolMessage, Report, Return};

/// R7.2.1
#[test]
fn a_small_item_rides_along() {
    let mut net = Net::pair();
    let body = item(1, 100);
    assert_eq!(net.publish(0, SMALL, &body), Fate::Accepted);
    assert_eq!(net.publish(0, SMALL, &body), Fate::Known);
    net.run_ms(10);
    assert!(net.holds(1, SMALL, &body));
    net.run_ms(2000);
    // One push, and the return of its permit: it was the first.
    let pushed = net.sent(0, 1, pick!(Message::Pool(PoolMessage::Push(_)) => ()));
    assert_eq!(pushed.len(), 1);
    let returned = net.sent(1, 0, pick!(Message::Pool(PoolMessage::Return(r)) => r[0].report));
    assert_eq!(returned, [Report::First]);
    // Never echoed.
    assert_eq!(net.sent(1, 0, pick!(Message::Pool(m) => m.clone())).len(), 1);
}

#[test]
fn a_large_item_is_announced_and_fetched() {
    let mut net = Net::pair();
    let body = item(1, 20_000);
    net.publish(0, LARGE, &body);
    net.run_ms(3000);
    assert!(net.holds(1, LARGE, &body));
    let kinds = |from, to| {
        net.sent(from, to, |message| match message {
            Message::Pool(PoolMessage::Announce(_)) => Some("announce"),
            Message::Pool(PoolMessage::Fetch(_)) => Some("fetch"),
            Message::Pool(PoolMessage::Answer(_)) => Some("answer"),
            Message::Pool(PoolMessage::Return(r)) if r[0].report == Report::Late => Some("late"),
            Message::Pool(_) => Some("other"),
            _ => None,
        })
    };
    assert_eq!(kinds(0, 1), ["announce", "answer"]);
    assert_eq!(kinds(1, 0), ["fetch", "late"]);
}

/// R7.2.2
#[test]
fn items_older_than_the_link_are_announced() {
    let mut net = Net::new(2);
    net.publish(0, SMALL, &item(1, 100));
    net.connect(0, 1);
    net.run_ms(1000);
    net.publish(0, SMALL, &item(2, 100));
    net.run_ms(1000);
    assert_eq!(net.ids(1, SMALL).len(), 2);
    let kinds = net.sent(0, 1, |message| match message {
        Message::Pool(PoolMessage::Announce(list)) => Some(("announce", list.len())),
        Message::Pool(PoolMessage::Push(_)) => Some(("push", 1)),
        _ => None,
    });
    assert_eq!(kinds, [("announce", 1), ("push", 1)]);
}

/// R7.3.6 A node that was away gets new items while it catches up.
#[test]
fn new_items_do_not_wait_for_old_ones() {
    let mut config = config(1);
    let spec = &mut config.pools[SMALL.0 as usize];
    spec.grant.announcements = 700;
    config.limits.held_back = 4096;
    let mut script = Script::with(config);
    let publish = |script: &mut Script, priority| {
        let (request, pool, admission) = (0, SMALL, Admission::default());
        let body = prioritised(1, 100, priority);
        script.command(Command::Publish { request, pool, body, admission });
    };
    (0..1000).for_each(|n| publish(&mut script, n));
    // A frame leaves when the test says so.
    script.connect(PEER);
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    script.stalled = true;
    script.send(CONTROL, &ControlMessage::Setup(setup(script.node.config())));
    (1000..1004).for_each(|n| publish(&mut script, n));
    let mut frames = Vec::new();
    for _ in 0..10 {
        for message in script.received::<PoolMessage>(SMALL_POOL) {
            frames.push(match message {
                PoolMessage::Announce(list) => list.len(),
                PoolMessage::Push(_) => 1,
                _ => 0,
            });
        }
        let channel = SMALL_POOL;
        script.input(Input::Writable { connection: script.connection, channel });
    }
    // Now all announcement permits are outstanding, but body permits are not.
    assert_eq!(frames, [256, 1, 256, 1, 188, 1, 1]);
}

/// Permits that come back one by one are shared by old and new entries.
#[test]
fn old_items_do_not_wait_for_new_ones() {
    let mut config = config(1);
    config.pools[LARGE.0 as usize].grant.announcements = 2;
    let mut script = Script::with(config);
    let publish = |script: &mut Script, n, size| {
        let (request, pool, admission) = (0, LARGE, Admission::default());
        let body = item(n, size);
        script.command(Command::Publish { request, pool, body, admission });
    };
    (0..20).for_each(|n| publish(&mut script, n, 5000));
    script.connect(PEER);
    script.shake_hands();
    (20..40).for_each(|n| publish(&mut script, n, 100_000));
    let mut sizes = Vec::new();
    for number in 0..12 {
        let back = vec![Return { number, report: Report::First }];
        script.send(LARGE_POOL, &PoolMessage::Return(back));
        for message in script.received::<PoolMessage>(LARGE_POOL) {
            let PoolMessage::Announce(list) = message else { continue };
            sizes.extend(list.into_iter().map(|announcement| announcement.facts >> 24));
        }
    }
    let old = sizes[0];
    let count = sizes.iter().filter(|size| **size == old).count();
    assert!((5..=7).contains(&count), "{sizes:?}");
}

#[test]
fn removed_items_cannot_be_fetched() {
    let mut script = Script::up();
    for n in [1, 2] {
        let (request, pool, body) = (1, LARGE, item(n, 20_000));
        let admission = Admission::default();
        script.command(Command::Publish { request, pool, body, admission });
    }
    let key = ItemKey(super::application::id(LARGE, &item(1, 20_000)).0);
    let block = facts(&genesis()).block;
    let remove = vec![(LARGE, key)];
    let change = TipChange { remove, ..TipChange::new(block) };
    script.command(Command::SetTip(change));
    script.take();
    script.send(LARGE_POOL, &PoolMessage::Fetch(vec![0, 1]));
    let answers = script.received::<PoolMessage>(LARGE_POOL);
    let body = Body::Whole(item(2, 20_000));
    let expected = [PoolMessage::Gone(vec![0]), PoolMessage::Answer(Answer { number: 1, body })];
    assert_eq!(answers, expected);
}

/// R7.3.11
#[test]
fn announcers_of_bad_items_are_not_blamed() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(2, 1);
    net.run_ms(500);
    net.hosts[1].judge = |subject| match subject {
        Subject::Item { .. } => Some(Verdict::Reject),
        _ => super::net::accept(subject),
    };
    net.publish(0, LARGE, &item(1, 5000));
    net.publish(2, LARGE, &item(1, 5000));
    net.run_ms(3000);
    // One of the two was asked for it; the other has its permit back.
    assert_eq!(net.links(1), 1);
    assert_eq!(net.hosts[1].node.status().bans, 1);
    let innocent = if net.links(0) == 1 { 0 } else { 2 };
    assert_eq!(net.hosts[innocent].node.status().pools["large"].spent, 0);
}

/// A re-org removes an item, and the chain comes back: no peer offers the item again, since all
/// know that it was here.
#[test]
fn items_removed_by_a_reorg_come_back() {
    let genesis = facts(&genesis()).block;
    let ids = |script: &Script| script.node.pool_ids(LARGE).copied().collect::<Vec<_>>();
    let published = || {
        let mut script = Script::up();
        let (pool, body) = (LARGE, item(1, 20_000));
        let (request, admission) = (1, Admission::default());
        script.command(Command::Publish { request, pool, body, admission });
        script.take();
        script
    };
    let here = [super::application::id(LARGE, &item(1, 20_000))];
    let place = vec![(LARGE, ItemKey(here[0].0))];
    let shelve = TipChange { shelve: place.clone(), ..TipChange::new(genesis) };
    let restore = TipChange { restore: place.clone(), ..TipChange::new(genesis) };
    let remove = TipChange { remove: place, ..TipChange::new(genesis) };
    let mut script = published();
    assert_eq!(ids(&script), here);
    script.command(Command::SetTip(shelve.clone()));
    assert!(ids(&script).is_empty());
    script.command(Command::SetTip(restore.clone()));
    assert_eq!(ids(&script), here);
    let offered = script.received::<PoolMessage>(LARGE_POOL);
    assert!(matches!(&offered[..], [PoolMessage::Announce(_)]), "{offered:?}");
    // Items that went into a block do not come back.
    for change in [shelve, remove, restore] {
        script.command(Command::SetTip(change));
    }
    assert!(ids(&script).is_empty());
}

/// An account is restored with its undone blocks, and items that are too far ahead then become
/// executable again later.
#[test]
fn items_that_an_account_admits_again_come_back() {
    let genesis = facts(&genesis()).block;
    let own = |nonce| {
        let mut body = 100u64.to_be_bytes().to_vec();
        body.extend([0, 1, nonce, 0, 7]);
        Bytes::from(body)
    };
    let at = |next, until| {
        let account = Account { next, until, balance: 100 };
        TipChange { accounts: vec![(AccountId([1; 32]), account)], ..TipChange::new(genesis) }
    };
    let mut script = Script::up();
    for nonce in [5, 6] {
        let (request, pool, body) = (1, SMALL, own(nonce));
        let account = Some(Account { next: 5, until: 10, balance: 100 });
        let admission = Admission { from: 0, account };
        script.command(Command::Publish { request, pool, body, admission });
    }
    let count = |script: &Script| script.node.status().pools["small"].items;
    script.command(Command::SetTip(at(1, 6)));
    assert_eq!(count(&script), 1);
    script.command(Command::SetTip(at(1, 5)));
    assert_eq!(count(&script), 0);
    script.command(Command::SetTip(at(6, 10)));
    assert_eq!(count(&script), 1, "the other one is stale");
    script.command(Command::SetTip(at(5, 10)));
    assert_eq!(count(&script), 1);
}
