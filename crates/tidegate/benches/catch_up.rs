//! A node that lacks 100,000 items joins while others keep publishing: how fast it catches up, and
//! how much it delays the items that are published meanwhile.
//!
//! `cargo bench -p tidegate --bench catch_up`; `TIDEGATE_BENCH_ROUNDS` rounds, 3 by default. All
//! nodes are in one process, over QUIC on the loopback interface; each item has a signature that is
//! checked. The first joins as fast as the machine can; the second has a slow application, which
//! leaves the processor free and shows the cost of waiting for permits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use tidegate::id::{ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Event, Subject};
use tidegate::rules::{ItemFacts, Rules};
use tidegate::{Answer, Builder, Events, Identity, Node, PoolSpec, Validator};

const MISSING: usize = 100_000;
/// Bytes of an item: a number, a signature, and padding.
const SIZE: usize = 200;
/// How long items are measured while no node catches up.
const QUIET: Duration = Duration::from_secs(10);
/// The interval of items that are published meanwhile.
const PACE: Duration = Duration::from_millis(20);
/// How long the slow application takes for an item.
const SLOW: Duration = Duration::from_micros(200);
const POOL: PoolIndex = PoolIndex(0);

/// Items of one size and priority.
struct Items;

impl Rules for Items {
    fn id(&self) -> &str {
        "items 1"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        (body.len() == SIZE).then_some(ItemFacts { key, priority: 1, chain: None })
    }
}

fn item(key: &SigningKey, number: u64) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.extend(key.sign(&body).to_bytes());
    body.resize(SIZE, 0);
    body
}

fn check(key: VerifyingKey, takes: Duration) -> impl Validator {
    move |subject: Subject, answer: Answer| {
        if !takes.is_zero() {
            std::thread::sleep(takes);
        }
        let Subject::Item { body, .. } = subject else { return answer.ignore() };
        let signature = Signature::from_bytes(body[8..72].try_into().expect("64 bytes"));
        match key.verify_strict(&body[..8], &signature) {
            Ok(()) => answer.accept(Admission::default()),
            Err(_) => answer.reject(),
        }
    }
}

/// When items were published, and how long each took to reach one node.
#[derive(Default)]
struct Watch {
    since: Mutex<HashMap<ItemId, Instant>>,
}

/// One node, and what has reached it.
struct Member {
    node: Node,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    items: usize,
    delays: Vec<Duration>,
}

impl Member {
    fn start(key: VerifyingKey, watch: &Arc<Watch>, takes: Duration) -> Self {
        let mut pool = PoolSpec::new("items");
        pool.capacity = 2 * MISSING as u64;
        pool.capacity_bytes = 2 * (MISSING * SIZE) as u64;
        let builder = Builder::new(NetworkId([1; 32]), Items, check(key, takes))
            .identity(Identity::generate().expect("randomness"))
            .pool(pool)
            .outbound(0)
            .listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address"));
        let (node, events) = builder.start().expect("a node");
        let seen = Arc::default();
        tokio::spawn(follow(events, Arc::clone(&seen), Arc::clone(watch)));
        Self { node, seen }
    }

    fn items(&self) -> usize {
        self.seen.lock().expect("no panic").items
    }

    /// The delays since the last call.
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.seen.lock().expect("no panic").delays)
    }
}

async fn follow(mut events: Events, seen: Arc<Mutex<Seen>>, watch: Arc<Watch>) {
    while let Some(event) = events.next().await {
        let added = match event {
            Event::ItemAdded { id, .. } => {
                let since = watch.since.lock().expect("no panic").get(&id).copied();
                if let Some(since) = since {
                    seen.lock().expect("no panic").delays.push(since.elapsed());
                }
                1
            }
            Event::Lagged(events) => panic!("{events} events were not read in time"),
            _ => 0,
        };
        seen.lock().expect("no panic").items += added;
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(300), "{what}: not within 300 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Publishes at a pace while a future runs; returns how many.
async fn publish(
    from: &Node,
    key: &SigningKey,
    next: &mut u64,
    watch: &Watch,
    goes_on: impl Fn() -> bool,
) -> usize {
    let mut pace = tokio::time::interval(PACE);
    let mut count = 0;
    while goes_on() {
        pace.tick().await;
        let body = item(key, *next);
        *next += 1;
        count += 1;
        watch.since.lock().expect("no panic").insert(Items.item_id("items", &body), Instant::now());
        let publishing = from.publish(POOL, body, Admission::default());
        publishing.expect("a place").await.expect("a running node");
    }
    count
}

fn percentile(delays: &mut [Duration], percent: usize) -> f64 {
    delays.sort();
    let at = (delays.len() * percent / 100).min(delays.len().saturating_sub(1));
    delays.get(at).map_or(f64::NAN, Duration::as_secs_f64) * 1000.0
}

fn line(what: &str, delays: &mut [Duration]) -> f64 {
    let (median, late) = (percentile(delays, 50), percentile(delays, 95));
    println!("  {what}: {} items, median {median:.2} ms, p95 {late:.2} ms", delays.len());
    late
}

/// Three nodes, and what was published.
struct Round {
    key: SigningKey,
    watch: Arc<Watch>,
    source: Member,
    other: Member,
    next: u64,
}

impl Round {
    fn member(&self, takes: Duration) -> Member {
        Member::start(self.key.verifying_key(), &self.watch, takes)
    }

    async fn start() -> Self {
        let key = SigningKey::from_bytes(&[3; 32]);
        let watch = Arc::new(Watch::default());
        let start = || Member::start(key.verifying_key(), &watch, Duration::ZERO);
        let (source, other) = (start(), start());
        other.node.dial(&source.node.addresses()[0]).expect("a running node");
        for number in 0..MISSING as u64 {
            let body = item(&key, u64::MAX - number);
            let publishing = source.node.publish(POOL, body, Admission::default());
            publishing.expect("a place").await.expect("a running node");
        }
        until("the first has all", || other.items() == MISSING).await;
        Self { key, watch, source, other, next: 1 }
    }

    /// Publishes while a future runs, until all nodes that have the rest have that too.
    async fn publish(&mut self, goes_on: impl Fn() -> bool) {
        let Self { key, watch, source, next, .. } = self;
        watch.since.lock().expect("no panic").clear();
        publish(&source.node, key, next, watch, goes_on).await;
        let all = MISSING + self.next as usize - 1;
        until("all are there", || self.other.items() == all).await;
    }

    async fn quiet(&mut self) -> f64 {
        let end = Instant::now() + QUIET;
        self.publish(|| Instant::now() < end).await;
        line("quiet", &mut self.other.take())
    }

    async fn join(&mut self, what: &str, takes: Duration, quiet: f64) {
        let late = self.member(takes);
        let missing = MISSING + self.next as usize - 1;
        let since = Instant::now();
        late.node.dial(&self.source.node.addresses()[0]).expect("a running node");
        self.publish(|| late.items() < missing).await;
        let took = since.elapsed().as_secs_f64();
        let all = MISSING + self.next as usize - 1;
        until("all are there", || late.items() == all).await;
        println!("  {what}: {missing} items in {took:.1} s, {:.0}/s", missing as f64 / took);
        let busy = line("  to one who has all", &mut self.other.take());
        println!("    p95 is {:.2} times the quiet one", busy / quiet);
        let joining = line("  to the one who joins", &mut late.take());
        println!("    p95 is {:.2} times the quiet one", joining / quiet);
        late.node.shutdown().await;
    }
}

async fn round(number: usize) {
    let mut round = Round::start().await;
    println!("round {number}");
    let quiet = round.quiet().await;
    round.join("at full speed", Duration::ZERO, quiet).await;
    round.join("with an application that takes its time", SLOW, quiet).await;
}

fn main() {
    // `cargo test` runs benches too, to check that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = std::env::var("TIDEGATE_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for number in 1..=rounds.unwrap_or(3) {
        runtime.block_on(round(number));
    }
}
