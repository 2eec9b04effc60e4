//! Large items to a slow peer: each is delivered, or its loss is reported.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::id::{PeerId, PoolIndex};
use tidegate::io::{Admission, Fate, Subject};
use tidegate::{Answer, Builder, Config, Limits, Node, PoolSpec, Validator, accept_all};

use crate::helper::{Helper, Priority, mib, peak, until_ended};
use crate::items::{Member, NETWORK, builder, item, met, until};

const POOL: PoolIndex = PoolIndex(0);
const NAME: &str = "items";
/// How long the peer takes for an item.
const VERDICT: Duration = Duration::from_millis(5);
/// Fates awaited at a time.
const AT_ONCE: usize = 8;

fn limits() -> Limits {
    let mut limits = Limits::default();
    (limits.max_inbound, limits.max_outbound) = (2, 2);
    limits
}

fn pool(size: usize, room: u64) -> PoolSpec {
    let mut pool = PoolSpec::new(NAME);
    pool.max_item = size as u32;
    pool.capacity_bytes = room;
    pool
}

fn node(pool: PoolSpec, validator: impl Validator) -> Builder {
    builder(validator).pool(pool).limits(limits())
}

/// A number for each item, in no order, so that some evict others, and some are evicted or refused.
fn priority(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The fates of everything that was published.
#[derive(Default)]
struct Account {
    accepted: u64,
    full: u64,
    other: u64,
}

async fn publish(node: &Node, count: u64, size: usize) -> Account {
    let mut account = Account::default();
    let mut settle = |fate| match fate {
        Fate::Accepted => account.accepted += 1,
        Fate::Full { .. } => account.full += 1,
        _ => account.other += 1,
    };
    let mut waiting = VecDeque::new();
    for number in 0..count {
        let body = item(priority(number), size);
        let publishing = node.publish(POOL, body, Admission::default());
        waiting.push_back(publishing.expect("a place"));
        if waiting.len() >= AT_ONCE
            && let Some(first) = waiting.pop_front()
        {
            settle(first.await.expect("a running node"));
        }
    }
    for publishing in waiting {
        settle(publishing.await.expect("a running node"));
    }
    account
}

/// Two nodes in this process: one publishes, the other is slow.
pub(crate) async fn in_process(with: &[String]) {
    let numbers: Vec<u64> = with.iter().map(|text| text.parse().expect("a number")).collect();
    let [count, size, room] = numbers[..] else { panic!("three numbers") };
    let slow = |_: Subject, answer: Answer| {
        std::thread::sleep(VERDICT);
        answer.accept(Admission::default());
    };
    let spec = pool(size as usize, room);
    let from = Member::start(node(spec.clone(), accept_all), &Arc::default());
    let to = Member::start(node(spec, slow), &Arc::default());
    from.node.dial(&to.node.addresses()[0]).expect("a running node");
    until("the two meet", || to.seen().connected == 1).await;
    let since = Instant::now();
    let account = publish(&from.node, count, size as usize).await;
    let published = since.elapsed().as_secs_f64();
    let (pools, equal) = settle(&from, &to).await;
    let took = since.elapsed().as_secs_f64();
    let (gone, delivered) = (from.removed(POOL), to.added(POOL));
    let lagged = from.seen().lagged + to.seen().lagged;
    let told = pools.0 + gone + account.full;
    println!(
        "published {count} in {published:.1} s: accepted {}, full {}, other fates {}; displaced {gone}, \
         in the pool {}; at the peer delivered {delivered}, displaced {}, in the pool {} after \
         {took:.1} s",
        account.accepted,
        account.full,
        account.other,
        pools.0,
        to.removed(POOL),
        pools.1,
    );
    let whole = told == count && equal && lagged == 0 && account.other == 0;
    println!(
        "{} not accounted for, pools equal: {equal}, events unread: {lagged}: {}",
        count.abs_diff(told),
        met(whole)
    );
    until_ended().await;
}

/// Waits until both pools are equal; returns their sizes.
async fn settle(from: &Member, to: &Member) -> ((u64, u64), bool) {
    let since = Instant::now();
    loop {
        let own = from.node.pool_ids(POOL).await.expect("a running node");
        let theirs = to.node.pool_ids(POOL).await.expect("a running node");
        let equal = own == theirs;
        if equal || since.elapsed() > Duration::from_secs(180) {
            return ((own.len() as u64, theirs.len() as u64), equal);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn worst_case(size: usize, room: u64) -> u64 {
    let mut config = Config::new(PeerId([0; 32]), NETWORK);
    config.limits = limits();
    config.pools.push(pool(size, room));
    config.worst_case_bytes()
}

pub(crate) fn run(quick: bool) {
    let count = if quick { 100 } else { 1000 };
    println!("bodies: to a peer that takes {VERDICT:?} for each");
    for size in [256 << 10, 1 << 20] {
        let all = count * size as u64;
        for (room, what) in [(all, "all"), (all / 16, "a sixteenth")] {
            println!("  {count} of {} KiB, room for {what}", size >> 10);
            let with = [count, size as u64, room].map(|number| number.to_string());
            let helper = Helper::start("bodies", &with, Priority::Same);
            println!("    {}", helper.hear());
            println!("    {}", helper.hear());
            let most = peak(helper.id());
            let (status, errors) = helper.end();
            assert!(status.success(), "{errors}");
            let worst = 2 * worst_case(size, room);
            println!(
                "    at most {:.0} MiB resident for both; twice the worst case is {:.0} MiB: {}",
                mib(most),
                mib(worst),
                met(most <= worst),
            );
        }
    }
}
