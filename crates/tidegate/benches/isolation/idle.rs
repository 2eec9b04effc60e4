//! The cost of unused permits.

use std::time::Duration;

use tidegate::wire::Grant;
use tidegate::{Builder, PoolSpec, accept_all};

use crate::helper::{Helper, Priority, mib, resident, until_ended};
use crate::items::{Member, builder, met, until};

const LINKS: u64 = 4;
/// How long a node is idle before it is measured.
const SETTLE: Duration = Duration::from_secs(1);
const TARGET: f64 = 1.0;

fn with_permits(permits: u32) -> Builder {
    let mut pool = PoolSpec::new("items");
    pool.grant = Grant {
        announcements: permits,
        bodies: permits,
        body_bytes: permits << 10,
        requests: permits,
        fetch_bytes: permits << 10,
    };
    builder(accept_all).pool(pool)
}

/// A node that runs until its input is closed; it prints its address, and when its links are up.
pub(crate) async fn in_process(with: &[String]) {
    let permits = with[0].parse().expect("a number");
    let member = Member::start(with_permits(permits), &std::sync::Arc::default());
    println!("{}", member.node.addresses()[0]);
    until("all are connected", || member.seen().connected == LINKS).await;
    println!("connected");
    until_ended().await;
}

async fn measure(permits: u32) -> u64 {
    let helper = Helper::start("idle", &[permits.to_string()], Priority::Same);
    let address = helper.hear().parse().expect("an address");
    let mut peers = Vec::new();
    for _ in 0..LINKS {
        let (node, events) = with_permits(permits).start().expect("a node");
        node.dial(&address).expect("a running node");
        peers.push((node, events));
    }
    assert_eq!(helper.hear(), "connected");
    tokio::time::sleep(SETTLE).await;
    let bytes = resident(helper.id());
    let (status, errors) = helper.end();
    assert!(status.success(), "{errors}");
    bytes
}

pub(crate) async fn run(quick: bool) {
    println!("idle: a node with {LINKS} idle links");
    let mut medians = [0.0; 2];
    for (permits, median) in [8, 100_000].into_iter().zip(&mut medians) {
        let mut sizes = Vec::new();
        for _ in 0..if quick { 3 } else { 9 } {
            sizes.push(measure(permits).await);
        }
        sizes.sort_unstable();
        let (least, most) = (mib(sizes[0]), mib(sizes[sizes.len() - 1]));
        *median = mib(sizes[sizes.len() / 2]);
        println!("  {permits} permits: {median:.2} MiB resident ({least:.2} to {most:.2})");
    }
    let apart = medians[1] - medians[0];
    println!("  {apart:+.2} MiB, target at most {TARGET} MiB: {}", met(apart <= TARGET));
}
