//! Every limit at its lowest value: a node still does everything, only slower.

use std::time::Duration;

use super::application::{SMALL, config, item};
use super::net::Net;
use super::syncing::chain;
use crate::config::tests::{LEAST, limits_in, limits_with};
use crate::{Config, Limits};

fn limited(n: u8, change: &dyn Fn(&mut Limits)) -> Config {
    let mut config = config(n);
    config.store = true;
    change(&mut config.limits);
    config
}

/// A node with a chain, and another that joins it; then blocks and items reach both.
fn works(change: &dyn Fn(&mut Limits), length: u64) {
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
    works(&|limits| limits.orphan_bytes = 0, 8);
}

#[test]
fn nodes_work_with_one_ancestor_and_generous_limits() {
    works(&|limits| (limits.ancestors, limits.sync_gap) = (1, 1), 40);
}

#[test]
fn every_limit_works_at_its_minimum() {
    let fails = LEAST.iter().filter(|(_, least, set)| {
        std::panic::catch_unwind(|| works(&|limits| set(limits, *least), 40)).is_err()
    });
    assert_eq!(fails.map(|(name, ..)| *name).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_limit_works_at_its_maximum() {
    let default = Limits::default();
    let fails = default.most().into_iter().filter(|(name, _, most)| {
        let most = limits_with(name, &(*most).into());
        std::panic::catch_unwind(|| works(&|limits| *limits = most.clone(), 40)).is_err()
    });
    assert_eq!(fails.map(|(name, ..)| name).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn all_limits_work_at_their_maximum_together() {
    let most = |limits: &mut Limits| {
        for (name, _, most) in Limits::default().most() {
            *limits = limits_in(limits, name, &most.into());
        }
    };
    works(&most, 40);
}

#[test]
fn all_limits_work_at_their_minimum_together() {
    let least = |limits: &mut Limits| {
        LEAST.iter().for_each(|(_, least, set)| set(limits, *least));
        (limits.ancestors, limits.orphan_bytes) = (1, 0);
        // With that one too it takes a little longer than the test allows.
        limits.work_per_second = Limits::default().work_per_second;
    };
    works(&least, 40);
}
