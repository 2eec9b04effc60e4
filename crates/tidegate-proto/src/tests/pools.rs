//! Section 7: how items get from pool to pool.

use super::app::{LARGE, SMALL, item};
use super::net::{Message, Net, pick};
use crate::io::Fate;
use crate::wire::{PoolMessage, Report};

#[test]
fn a_small_item_rides_along() {
    let mut net = Net::pair();
    let body = item(1, 100);
    assert_eq!(net.publish(0, SMALL, &body), Fate::Accepted);
    assert_eq!(net.publish(0, SMALL, &body), Fate::Known);
    net.run_ms(10);
    assert!(net.holds(1, SMALL, &body));
    net.run_ms(2000);
    // One push, and its permit back: it was the first.
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
