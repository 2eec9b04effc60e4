//! Every limit at its least: a node still does all that it is for, only slower.

use std::time::Duration;

use super::app::{SMALL, config, item};
use super::net::Net;
use super::syncing::chain;
use crate::config::HEADER;
use crate::wire::MAX_HEADER;
use crate::{Config, Limits};

fn limited(n: u8, change: fn(&mut Limits)) -> Config {
    let mut config = config(n);
    config.store = true;
    change(&mut config.limits);
    config
}

/// One that has a chain, and another that joins it; then blocks and items come to both.
fn works(change: fn(&mut Limits), length: u64) {
    let mut net = Net::with((1..=2).map(|n| limited(n, change)).collect());
    let chain = chain(length + 4, 100);
    let (old, new) = chain.split_at(length as usize);
    old.iter().for_each(|block| net.produce(0, block));
    assert_eq!(net.height(0), length, "its own chain");
    net.connect(1, 0);
    net.run(Duration::from_secs(30));
    assert_eq!(net.height(1), length, "what was there");
    for block in new {
        net.produce(0, block);
        net.run(Duration::from_secs(3));
    }
    assert_eq!(net.height(1), length + 4, "what comes");
    let body = item(9, 100);
    net.publish(1, SMALL, &body);
    net.run(Duration::from_secs(3));
    assert!(net.holds(0, SMALL, &body));
}

#[test]
fn headers_that_cannot_wait_are_asked_for_as_requests() {
    works(|limits| limits.orphan_bytes = 0, 8);
}

#[test]
fn a_tip_and_those_beside_it_are_enough_headers() {
    works(|limits| limits.header_bytes = 4 * (HEADER as u32 + MAX_HEADER as u32), 40);
}

/// As each of them says of itself, in `Limits::least`; one whose least follows from another, with that.
#[test]
fn each_number_may_be_the_least() {
    type Change = fn(&mut Limits);
    let changes: [(&str, Change); 16] = [
        ("handshakes", |limits| limits.handshakes = 1),
        ("book_new_buckets", |limits| limits.book_new_buckets = 1),
        ("book_tried_buckets", |limits| limits.book_tried_buckets = 1),
        ("records_burst", |limits| limits.records_burst = 1),
        ("held_back", |limits| limits.held_back = 1),
        ("sync_gap", |limits| limits.sync_gap = 1),
        ("ancestors", |limits| (limits.ancestors, limits.sync_gap) = (1, 1)),
        ("block_wants", |limits| limits.block_wants = 1),
        ("sync_headers", |limits| limits.sync_headers = 1),
        ("serving", |limits| limits.serving = 1),
        ("store_backlog", |limits| limits.store_backlog = 1),
        ("blocks_kept", |limits| limits.blocks_kept = 1),
        ("block_bytes", |limits| limits.block_bytes = 2),
        ("block_grant.requests", |limits| limits.block_grant.requests = 1),
        ("reconstructions", |limits| limits.reconstructions = 1),
        ("work_per_second", |limits| limits.work_per_second = 10),
    ];
    let fails = changes
        .iter()
        .filter(|(_, change)| std::panic::catch_unwind(|| works(*change, 40)).is_err());
    assert_eq!(fails.map(|(name, _)| *name).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn all_may_be_the_least_at_once() {
    let least: fn(&mut Limits) = |limits| {
        (limits.handshakes, limits.book_new_buckets, limits.book_tried_buckets) = (1, 1, 1);
        (limits.records_burst, limits.held_back, limits.sync_gap, limits.ancestors) = (1, 1, 1, 1);
        (limits.block_wants, limits.sync_headers, limits.serving) = (1, 1, 1);
        (limits.store_backlog, limits.blocks_kept, limits.block_bytes) = (1, 1, 2);
        (limits.reconstructions, limits.shelved, limits.orphan_bytes) = (1, 1, 0);
        limits.header_bytes = 4 * (HEADER as u32 + MAX_HEADER as u32);
    };
    works(least, 40);
}
