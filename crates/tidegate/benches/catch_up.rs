//! A node that lacks 100,000 items joins, while others go on publishing: how fast it catches up,
//! and what that costs the items that are published meanwhile.
//!
//! `cargo bench -p tidegate --bench catch_up`; `TIDEGATE_BENCH_ROUNDS` rounds, 3 by default. Three
//! nodes in one process, over QUIC on the loopback interface; each item has a signature that is
//! checked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use tidegate::id::{ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Event, Subject};
use tidegate::rules::{HeaderFacts, ItemFacts, Rules};
use tidegate::{Answer, Builder, Events, Identity, Node, PoolSpec, Validator};

const MISSING: usize = 100_000;
/// Bytes of an item: a number, a signature, and filling.
const SIZE: usize = 200;
/// How long items are counted while nobody catches up.
const QUIET: Duration = Duration::from_secs(10);
/// Between two items that are published meanwhile.
const PACE: Duration = Duration::from_millis(20);
const POOL: PoolIndex = PoolIndex(0);

/// Items of one size; all have one priority.
struct Items;

impl Rules for Items {
    fn id(&self) -> &str {
        "items 1"
    }

    fn item_id(&self, _pool: &str, body: &[u8]) -> ItemId {
        ItemId(*blake3::hash(body).as_bytes())
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        (body.len() == SIZE).then_some(ItemFacts { key, priority: 1, chain: None })
    }

    fn header(&self, _header: &[u8]) -> Option<HeaderFacts> {
        None
    }

    fn compare(&self, a: &HeaderFacts, b: &HeaderFacts) -> std::cmp::Ordering {
        a.height.cmp(&b.height)
    }
}

fn item(key: &SigningKey, number: u64) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.extend(key.sign(&body).to_bytes());
    body.resize(SIZE, 0);
    body
}

fn check(key: VerifyingKey) -> impl Validator {
    move |subject: Subject, answer: Answer| {
        let Subject::Item { body, .. } = subject else { return answer.ignore() };
        let signature = Signature::from_bytes(body[8..72].try_into().expect("64 bytes"));
        match key.verify_strict(&body[..8], &signature) {
            Ok(()) => answer.accept(Admission::default()),
            Err(_) => answer.reject(),
        }
    }
}

/// Since when items are out, and how long each took to one node.
#[derive(Default)]
struct Watch {
    since: Mutex<HashMap<ItemId, Instant>>,
}

/// One node, and what has come to it.
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
    fn start(key: VerifyingKey, watch: &Arc<Watch>) -> Self {
        let mut pool = PoolSpec::new("items");
        pool.capacity = 2 * MISSING as u64;
        pool.capacity_bytes = 2 * (MISSING * SIZE) as u64;
        let builder = Builder::new(NetworkId([1; 32]), Items, check(key))
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

/// Publishes at a pace while something goes on; how many.
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

async fn round(number: usize) {
    let key = SigningKey::from_bytes(&[3; 32]);
    let watch = Arc::new(Watch::default());
    let start = || Member::start(key.verifying_key(), &watch);
    let (source, other, late) = (start(), start(), start());
    let place = source.node.addresses()[0].clone();
    other.node.dial(&place).expect("a running node");
    let mut next = 1;
    for number in 0..MISSING as u64 {
        let body = item(&key, u64::MAX - number);
        let publishing = source.node.publish(POOL, body, Admission::default());
        publishing.expect("a place").await.expect("a running node");
    }
    until("the first has all", || other.items() == MISSING).await;
    println!("round {number}");

    let end = Instant::now() + QUIET;
    let mut count = publish(&source.node, &key, &mut next, &watch, || Instant::now() < end).await;
    until("all are there", || other.items() == MISSING + count).await;
    let quiet = line("quiet, to one who has all", &mut other.take());

    watch.since.lock().expect("no panic").clear();
    let since = Instant::now();
    late.node.dial(&place).expect("a running node");
    count += publish(&source.node, &key, &mut next, &watch, || late.items() < MISSING).await;
    let took = since.elapsed();
    until("all are there", || late.items() == MISSING + count && other.items() == MISSING + count)
        .await;
    let per_second = late.items() as f64 / took.as_secs_f64();
    println!("  caught up with {MISSING} in {:.1} s: {per_second:.0}/s", took.as_secs_f64());
    let busy = line("meanwhile, to one who has all", &mut other.take());
    println!("  {:.2} times the quiet p95", busy / quiet);
    let joining = line("meanwhile, to the one who joins", &mut late.take());
    println!("  {:.2} times the quiet p95", joining / quiet);
}

fn main() {
    // `cargo test` runs benches too, to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = std::env::var("TIDEGATE_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for number in 1..=rounds.unwrap_or(3) {
        runtime.block_on(round(number));
    }
}
