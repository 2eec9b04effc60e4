//! A slow pool beside a fast one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::id::PoolIndex;
use tidegate::io::{Admission, Subject};
use tidegate::wire::Grant;
use tidegate::{Answer, PoolSpec, accept_all};

use crate::items::{GUARD, Member, Watch, builder, item, met, percentile, until, within};

const SLOW: PoolIndex = PoolIndex(0);
const FAST: PoolIndex = PoolIndex(1);
/// How long a verdict of the slow pool takes.
const VERDICT: Duration = Duration::from_secs(1);
/// Items for the slow pool: more than are validated during the measurement.
const BACKLOG: u64 = 4000;
/// The interval of items in the fast pool.
const PACE: Duration = Duration::from_millis(10);
const SIZE: usize = 200;
/// What the slow pool may add at p99, in milliseconds.
const TARGET: f64 = 2.0;

/// The grant of the slow pool, and the number of workers.
struct Setting {
    name: &'static str,
    grant: Grant,
    workers: u32,
}

impl Setting {
    /// A node's defaults: the slow pool takes all workers and tickets.
    fn default() -> Self {
        Self { name: "by default", grant: PoolSpec::new("any").grant, workers: 2 }
    }

    /// Everything that the permits allow is being validated, and there are workers left.
    fn roomy() -> Self {
        let grant = Grant {
            announcements: 8,
            bodies: 8,
            body_bytes: 128 << 10,
            requests: 8,
            fetch_bytes: 256 << 10,
        };
        Self { name: "with workers to spare", grant, workers: 24 }
    }

    /// Outstanding announcements and bodies of the slow pool.
    fn permits(&self) -> usize {
        (self.grant.announcements + self.grant.bodies) as usize
    }
}

struct Pair {
    sender: Member,
    receiver: Member,
    watch: Arc<Watch>,
}

impl Pair {
    async fn start(setting: &Setting) -> Self {
        let mut slow = PoolSpec::new("slow");
        slow.grant = setting.grant.clone();
        let pools = [slow, PoolSpec::new("fast")];
        let watch = Arc::new(Watch::default());
        let validator = |subject: Subject, answer: Answer| {
            if matches!(subject, Subject::Item { pool: SLOW, .. }) {
                std::thread::sleep(VERDICT);
            }
            answer.accept(Admission::default());
        };
        let [own, others] = [pools.clone(), pools];
        let sender = own.into_iter().fold(builder(accept_all), |b, pool| b.pool(pool));
        let receiver = others.into_iter().fold(builder(validator), |b, pool| b.pool(pool));
        let receiver = Member::start(receiver.workers(setting.workers), &watch);
        let sender = Member::start(sender, &Arc::default());
        sender.node.dial(&receiver.node.addresses()[0]).expect("a running node");
        until("the two meet", || receiver.seen().connected == 1).await;
        Self { sender, receiver, watch }
    }

    async fn given(&self) -> usize {
        let status = self.receiver.node.status().await.expect("a running node");
        status.peers[0].permits["slow"].given
    }

    /// The sender has more for the slow pool than it may send.
    async fn fill(&self, setting: &Setting) {
        for number in 0..BACKLOG {
            let body = item(number, SIZE);
            let publishing = self.sender.node.publish(SLOW, body, Admission::default());
            publishing.expect("a place").await.expect("a running node");
        }
        let since = Instant::now();
        while self.given().await < setting.permits() {
            assert!(since.elapsed() < GUARD, "the pool is never full");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How long items of the other pool take.
    async fn measure(&self, items: u64) -> (f64, f64) {
        let mut pace = tokio::time::interval(PACE);
        for number in 0..items {
            pace.tick().await;
            self.watch.publish(&self.sender.node, FAST, "fast", item(number, SIZE)).await;
        }
        within(GUARD, || self.watch.missing() == 0).await;
        assert_eq!(self.watch.missing(), 0, "items that never came");
        let mut delays = self.receiver.take_delays();
        (percentile(&mut delays, 50), percentile(&mut delays, 99))
    }

    async fn end(self) {
        self.sender.node.shutdown().await;
        self.receiver.node.shutdown().await;
    }
}

/// p50 and p99 without a slow pool and with one.
async fn compare(setting: &Setting, items: u64) -> [(f64, f64); 2] {
    let pair = Pair::start(setting).await;
    let alone = pair.measure(items).await;
    pair.end().await;
    let pair = Pair::start(setting).await;
    pair.fill(setting).await;
    let beside = pair.measure(items).await;
    let (out, all) = (pair.given().await, setting.permits());
    println!("    permits of the slow pool out at the end: {out} of {all}");
    pair.end().await;
    [alone, beside]
}

pub(crate) async fn run(quick: bool) {
    let (rounds, items) = if quick { (1, 300) } else { (3, 1000) };
    println!("turns: an item beside a pool whose verdicts take {VERDICT:?}");
    for setting in [Setting::default(), Setting::roomy()] {
        let (name, workers, permits) = (setting.name, setting.workers, setting.permits());
        println!("  {name}: {workers} workers, {permits} permits");
        let mut added = Vec::new();
        for _ in 0..rounds {
            let [alone, beside] = compare(&setting, items).await;
            let more = beside.1 - alone.1;
            println!(
                "    p50 {:.2} → {:.2} ms, p99 {:.2} → {:.2} ms ({more:+.2} ms)",
                alone.0, beside.0, alone.1, beside.1,
            );
            added.push(more);
        }
        added.sort_by(f64::total_cmp);
        let median = added[added.len() / 2];
        println!(
            "    median of {rounds}: {median:+.2} ms at p99, target < {TARGET} ms: {}",
            met(median < TARGET)
        );
    }
}
