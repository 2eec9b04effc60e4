//! Items of any size, nodes that take them, and the time that each took.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::id::{BlockId, ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Event};
use tidegate::rules::{HeaderFacts, ItemFacts, Rules};
use tidegate::{Builder, Events, Identity, Node, Validator};
use tidegate_proto::merkle;

pub(crate) const NETWORK: NetworkId = NetworkId([1; 32]);
/// The timeout of anything.
pub(crate) const GUARD: Duration = Duration::from_secs(300);

/// Items begin with their priority; the rest is padding.
pub(crate) struct Items;

impl Rules for Items {
    fn id(&self) -> &str {
        "items 1"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let priority = u64::from_be_bytes(*body.first_chunk()?);
        Some(ItemFacts { key: ItemKey(self.item_id(pool, body).0), priority, chain: None })
    }

    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        let height = u64::from_be_bytes(*header.get(32..)?.first_chunk()?);
        Some(HeaderFacts {
            block: BlockId(*blake3::hash(header).as_bytes()),
            parent: BlockId(*header.first_chunk()?),
            height,
            slot: height,
            producer: *header.get(40..)?.first_chunk()?,
            item_root: merkle::root(&[]),
            items: 0,
        })
    }
}

/// The header of a block without items.
pub(crate) fn header(parent: BlockId, height: u64, number: u64) -> Bytes {
    let salt = *blake3::hash(&number.to_be_bytes()).as_bytes();
    [&parent.0[..], &height.to_be_bytes(), &salt].concat().into()
}

/// An item of `size` bytes.
pub(crate) fn item(priority: u64, size: usize) -> Vec<u8> {
    let mut body = priority.to_be_bytes().to_vec();
    body.resize(size, 0);
    body
}

/// A node over QUIC on the loopback interface, without peers.
pub(crate) fn builder(validator: impl Validator) -> Builder {
    Builder::new(NETWORK, Items, validator)
        .identity(Identity::generate().expect("randomness"))
        .outbound(0)
        .listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address"))
}

/// When items were published.
#[derive(Default)]
pub(crate) struct Watch(Mutex<HashMap<ItemId, Instant>>);

impl Watch {
    /// Publishes, and waits until the item is on its way.
    pub(crate) async fn publish(&self, from: &Node, pool: PoolIndex, name: &str, body: Vec<u8>) {
        self.0.lock().expect("no panic").insert(Items.item_id(name, &body), Instant::now());
        let publishing = from.publish(pool, body, Admission::default());
        publishing.expect("a place").await.expect("a running node");
    }

    fn since(&self, id: &ItemId) -> Option<Duration> {
        self.0.lock().expect("no panic").remove(id).map(|since| since.elapsed())
    }

    /// Items that have not arrived yet.
    pub(crate) fn missing(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    pub(crate) fn forget(&self) {
        self.0.lock().expect("no panic").clear();
    }
}

/// One node, and its events.
pub(crate) struct Member {
    pub(crate) node: Node,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// By pool.
    pub(crate) added: HashMap<PoolIndex, u64>,
    pub(crate) removed: HashMap<PoolIndex, u64>,
    /// For the watched items.
    pub(crate) delays: Vec<Duration>,
    pub(crate) connected: u64,
    pub(crate) disconnected: u64,
    pub(crate) lagged: u64,
}

impl Member {
    pub(crate) fn start(builder: Builder, watch: &Arc<Watch>) -> Self {
        let (node, events) = builder.start().expect("a node");
        let seen = Arc::default();
        tokio::spawn(follow(events, Arc::clone(&seen), Arc::clone(watch)));
        Self { node, seen }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic")
    }

    pub(crate) fn added(&self, pool: PoolIndex) -> u64 {
        self.seen().added.get(&pool).copied().unwrap_or(0)
    }

    pub(crate) fn removed(&self, pool: PoolIndex) -> u64 {
        self.seen().removed.get(&pool).copied().unwrap_or(0)
    }

    /// The delays since the last call.
    pub(crate) fn take_delays(&self) -> Vec<Duration> {
        std::mem::take(&mut self.seen().delays)
    }
}

async fn follow(mut events: Events, seen: Arc<Mutex<Seen>>, watch: Arc<Watch>) {
    while let Some(event) = events.next().await {
        let mut seen = seen.lock().expect("no panic");
        match event {
            Event::ItemAdded { pool, id, .. } => {
                *seen.added.entry(pool).or_default() += 1;
                seen.delays.extend(watch.since(&id));
            }
            Event::ItemRemoved { pool, .. } => *seen.removed.entry(pool).or_default() += 1,
            Event::PeerConnected { .. } => seen.connected += 1,
            Event::PeerDisconnected { .. } => seen.disconnected += 1,
            Event::Lagged(events) => seen.lagged += events,
            _ => {}
        }
    }
}

pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    assert!(within(GUARD, is_so).await, "{what}: not within {GUARD:?}");
}

/// Whether a condition comes true in time.
pub(crate) async fn within(time: Duration, is_so: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    while !is_so() {
        if since.elapsed() > time {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// In milliseconds.
pub(crate) fn percentile(delays: &mut [Duration], percent: usize) -> f64 {
    delays.sort();
    let at = (delays.len() * percent / 100).min(delays.len().saturating_sub(1));
    delays.get(at).map_or(f64::NAN, Duration::as_secs_f64) * 1000.0
}

pub(crate) fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}
