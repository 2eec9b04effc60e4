//! Section 6: permits run out, and come back when what they paid for has been processed.

use std::collections::BTreeSet;

use super::application::{LARGE, SMALL, config, item, prioritised};
use super::net::{Message, Net, accept, pick, withhold};
use crate::io::{Admission, Command, Verdict};
use crate::wire::{Grant, PoolMessage, Report};

/// Two nodes; the second issues these permits on both pools.
fn stingy(grant: Grant) -> Net {
    let mut second = config(2);
    for pool in &mut second.pools {
        pool.grant = grant.clone();
    }
    let mut net = Net::with(vec![config(1), second]);
    net.connect(0, 1);
    net.run_ms(1000);
    net.log.clear();
    net
}

fn grant() -> Grant {
    Grant {
        announcements: 100,
        bodies: 100,
        body_bytes: 1 << 20,
        requests: 100,
        fetch_bytes: 1 << 20,
    }
}

fn pushes(net: &Net) -> usize {
    net.sent(0, 1, pick!(Message::Pool(PoolMessage::Push(_)) => ())).len()
}

fn announced(net: &Net) -> usize {
    let counts = net.sent(0, 1, pick!(Message::Pool(PoolMessage::Announce(list)) => list.len()));
    counts.into_iter().sum()
}

/// R7.4.2
#[test]
fn a_body_without_a_permit_becomes_an_announcement() {
    let mut net = stingy(Grant { bodies: 2, ..grant() });
    net.hosts[1].judge = withhold;
    for n in 1..=5 {
        net.publish(0, SMALL, &item(n, 100));
    }
    net.run_ms(2000);
    assert_eq!((pushes(&net), announced(&net)), (2, 3));
    // What was announced is fetched: body permits do not pay for fetches.
    let answers = net.sent(0, 1, pick!(Message::Pool(PoolMessage::Answer(_)) => ()));
    assert_eq!(answers.len(), 3);
}

#[test]
fn bytes_of_bodies_run_out_as_well() {
    let mut net = stingy(Grant { body_bytes: 250, ..grant() });
    net.hosts[1].judge = withhold;
    for n in 1..=4 {
        net.publish(0, SMALL, &item(n, 100));
    }
    net.run_ms(2000);
    assert_eq!((pushes(&net), announced(&net)), (2, 2));
}

/// R6.3.2, R7.4.2
#[test]
fn the_cursor_waits_without_permits_for_announcements() {
    let mut net = stingy(Grant { announcements: 2, bodies: 0, ..grant() });
    net.hosts[1].judge = withhold;
    for n in 1..=5 {
        net.publish(0, LARGE, &item(n, 5000));
    }
    net.run_ms(2000);
    assert_eq!(announced(&net), 2);
    assert_eq!(net.hosts[1].open.len(), 2);
    // One verdict, one permit, one more announcement: of the next item, without a repetition.
    let ticket = *net.hosts[1].open.first_key_value().unwrap().0;
    net.answer(1, ticket, Verdict::Accept(Admission::default()));
    net.run_ms(2000);
    assert_eq!(announced(&net), 3);
    net.hosts[1].judge = accept;
    while let Some((ticket, _)) = net.hosts[1].open.pop_first() {
        net.answer(1, ticket, Verdict::Accept(Admission::default()));
    }
    net.run_ms(3000);
    assert_eq!(announced(&net), 5);
    assert_eq!(net.ids(1, LARGE), net.ids(0, LARGE));
}

#[test]
fn requests_are_limited_by_who_answers_them() {
    let mut first = config(1);
    first.pools[0].grant.requests = 2;
    let mut net = Net::with(vec![first, config(2)]);
    net.connect(0, 1);
    net.run_ms(1000);
    net.log.clear();
    for n in 1..=6 {
        net.publish(0, LARGE, &item(n, 5000));
    }
    // The answers are in transit.
    net.run_ms(15);
    let asked = net.sent(1, 0, pick!(Message::Pool(PoolMessage::Fetch(list)) => list.len()));
    assert!(asked.is_empty());
    net.run_ms(10);
    let asked = net.sent(1, 0, pick!(Message::Pool(PoolMessage::Fetch(list)) => list.len()));
    assert_eq!(asked.iter().sum::<usize>(), 2);
    net.run_ms(2000);
    assert_eq!(net.ids(1, LARGE).len(), 6);
}

#[test]
fn bytes_that_are_asked_for_are_limited_until_the_verdict() {
    let mut second = config(2);
    second.limits.fetch_bytes_link = 50_000;
    second.workers = 8;
    let mut net = Net::with(vec![config(1), second]);
    net.connect(0, 1);
    net.run_ms(1000);
    net.log.clear();
    net.hosts[1].judge = withhold;
    for n in 1..=4 {
        net.publish(0, LARGE, &item(n, 20_000));
    }
    // Larger than the limit: it is requested once there is no other.
    net.publish(0, LARGE, &prioritised(5, 150_000, 1));
    net.run_ms(1000);
    assert_eq!(net.hosts[1].open.len(), 2, "two times 20 KiB and no more");
    for expected in [2, 2, 1, 1, 0] {
        let (ticket, _) = net.hosts[1].open.pop_first().unwrap();
        net.answer(1, ticket, Verdict::Accept(Admission::default()));
        net.run_ms(1000);
        assert_eq!(net.hosts[1].open.len(), expected);
    }
    assert_eq!(net.ids(1, LARGE).len(), 5);
    assert_eq!(net.hosts[1].node.status().fetch_bytes, 0);
}

#[test]
fn permits_that_are_raised_are_used() {
    let mut net = stingy(Grant { bodies: 1, announcements: 0, ..grant() });
    net.hosts[1].judge = withhold;
    for n in 1..=5 {
        net.publish(0, SMALL, &item(n, 100));
    }
    net.run_ms(1000);
    assert_eq!(pushes(&net), 1);
    let peer = net.peer(0);
    let raised = Grant { bodies: 4, ..grant() };
    net.command(1, Command::Raise { peer, pool: SMALL, grant: raised });
    net.run_ms(1000);
    assert_eq!(pushes(&net), 4);
}

#[test]
fn all_permits_return_when_traffic_ends() {
    let mut net = Net::new(3);
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        net.connect(a, b);
    }
    net.run_ms(500);
    for n in 0..60u8 {
        net.publish(usize::from(n) % 3, SMALL, &item(n, 100));
        net.publish(usize::from(n) % 3, LARGE, &item(n, 3000));
    }
    net.run_ms(5000);
    for n in 0..3 {
        assert_eq!((net.ids(n, SMALL).len(), net.ids(n, LARGE).len()), (60, 60));
        for pool in net.hosts[n].node.status().pools.values() {
            assert_eq!((pool.given, pool.spent), (0, 0));
        }
    }
}

/// R6.3.4
#[test]
fn reports_say_what_became_of_a_body() {
    let reports = |net: &Net| -> BTreeSet<Report> {
        let lists = net.sent(1, 0, pick!(Message::Pool(PoolMessage::Return(list)) => list.clone()));
        lists.concat().into_iter().map(|back| back.report).collect()
    };
    let one = |judge, body| {
        let mut net = Net::pair();
        net.hosts[1].judge = judge;
        net.publish(0, SMALL, &body);
        net.run_ms(2000);
        reports(&net)
    };
    assert_eq!(one(accept, item(1, 100)), [Report::First].into());
    assert_eq!(one(|_| Some(Verdict::Ignore), item(1, 100)), [Report::Ignored].into());
    assert_eq!(one(accept, item(1, 5000)), [Report::Late].into(), "should have been pushed");
    // Evicted by better ones.
    let mut second = config(2);
    second.pools[1].capacity = 1;
    let mut net = Net::with(vec![config(1), second]);
    net.connect(0, 1);
    net.run_ms(1000);
    net.publish(1, SMALL, &prioritised(1, 100, 1000));
    net.log.clear();
    net.cut.insert((1, 0));
    net.publish(0, SMALL, &prioritised(2, 100, 1));
    net.run_ms(50);
    net.cut.clear();
    net.run_ms(3000);
    assert!(reports(&net).contains(&Report::Surplus), "{:?}", reports(&net));
    // Both publish the same.
    let mut net = Net::pair();
    net.publish(0, SMALL, &item(1, 100));
    net.publish(1, SMALL, &item(1, 100));
    net.run_ms(1000);
    assert_eq!(reports(&net), [Report::Duplicate].into());
}
