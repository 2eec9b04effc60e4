//! What a node is set up with, and every limit on what peers can make it cost.
//!
//! # Not guaranteed
//!
//! That limits suit an application: the defaults are for small items and a hundred peers, and
//! [`Config::worst_case_bytes`] tells what others cost. It counts the core and the transports' windows,
//! not what the application keeps.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{Address, Digest, NetworkId, PeerId};
pub use crate::peers::book::{BookEntry, PeerBook};
use crate::peers::book::{NEW_SLOTS, TRIED_SLOTS};
use crate::wire::{Grant, MAX_BLOCK_ITEMS, MAX_FRAME, MAX_HEADER, MAX_NAME, MAX_WHOLE};

/// What a node is set up with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Config {
    /// This node's identity.
    pub peer: PeerId,
    /// Only peers of the same network are talked to.
    pub network: NetworkId,
    /// Name and version of this software, at most 64 bytes, for the peers' operators to read.
    pub client: String,
    /// The header of the first block; without it there are pools, and no tip and no blocks.
    pub genesis: Option<Bytes>,
    /// The pools, in the order of their [`crate::id::PoolIndex`].
    pub pools: Vec<PoolSpec>,
    /// How many verdicts the application works on at a time. Twice as many tickets are out, so
    /// that none of its workers waits for the next. When others have taken all of these, each pool
    /// has one more, and so have headers and blocks. At least one; a guess is the number of cores.
    pub workers: u32,
    /// Only these peers are talked to, if any are named.
    pub allow: Option<BTreeSet<PeerId>>,
    /// Peers to stay connected to, at most as many as [`Limits::max_outbound`].
    pub static_peers: Vec<StaticPeer>,
    /// Where to learn of other peers when none that are known can be reached.
    pub bootstrap: Vec<StaticPeer>,
    /// How many peers this node wants to be connected to by its own choice, from those it has
    /// learnt of. With 0 it learns of none and dials only whom it is told to: a closed network.
    /// 8 as in Bitcoin Core: the chance that all are in one hand falls with each. No more than
    /// [`Limits::max_outbound`] are dialed.
    pub outbound: u32,
    /// What was known of peers before.
    pub peer_book: PeerBook,
    /// Whether there is a store: then what is reported waits until it is durable, and peers are
    /// given old blocks from it.
    pub store: bool,
    /// Headers of the executed chain that the store has, each the child of the one before, the
    /// last being the tip. As many as [`Limits::blocks_kept`] are enough.
    pub chain: Vec<Bytes>,
    /// Number of this node's last signed record: the next one must be newer.
    pub record_sequence: u64,
    /// The limits.
    pub limits: Limits,
}

impl Config {
    /// A node without pools and blocks, with default limits.
    pub fn new(peer: PeerId, network: NetworkId) -> Self {
        Self {
            peer,
            network,
            client: concat!("tidegate/", env!("CARGO_PKG_VERSION")).to_owned(),
            genesis: None,
            pools: Vec::new(),
            workers: 2,
            allow: None,
            static_peers: Vec::new(),
            bootstrap: Vec::new(),
            outbound: 8,
            peer_book: PeerBook::default(),
            store: false,
            chain: Vec::new(),
            record_sequence: 0,
            limits: Limits::default(),
        }
    }

    /// Whether a node can be started with this.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut names = BTreeSet::new();
        for pool in &self.pools {
            if pool.name.is_empty() || pool.name.len() > MAX_NAME {
                return Err(ConfigError::PoolName(pool.name.clone()));
            }
            if !names.insert(&pool.name) {
                return Err(ConfigError::SamePool(pool.name.clone()));
            }
            let ascending = pool.versions.windows(2).all(|pair| pair[0] < pair[1]);
            if pool.versions.is_empty() || pool.versions.len() > 8 || !ascending {
                return Err(ConfigError::PoolVersions(pool.name.clone()));
            }
            if pool.max_item == 0 || pool.max_item > MAX_ITEM {
                return Err(ConfigError::PoolItemSize(pool.name.clone()));
            }
        }
        if self.pools.len() > MAX_POOLS {
            return Err(ConfigError::TooManyPools(self.pools.len()));
        }
        if self.client.len() > 64 {
            return Err(ConfigError::ClientName);
        }
        if self.genesis.as_ref().is_some_and(|genesis| genesis.len() > MAX_HEADER) {
            return Err(ConfigError::Genesis);
        }
        if self.static_peers.len() > self.limits.max_outbound as usize {
            let (named, most) = (self.static_peers.len(), self.limits.max_outbound);
            return Err(ConfigError::TooManyStaticPeers { named, most });
        }
        if self.bootstrap.len() > MAX_BOOTSTRAP {
            return Err(ConfigError::TooManyBootstrap(self.bootstrap.len()));
        }
        if self.workers == 0 {
            return Err(ConfigError::NoWorkers);
        }
        Ok(())
    }

    /// Digest of what two nodes must agree on to exchange blocks: whatever decides whether one is
    /// admissible. R5.7.9
    pub fn block_rules_digest(&self, rules: &str) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("tidegate 2 block rules");
        hash_string(&mut hasher, rules);
        hasher.update(&self.limits.block_size.to_be_bytes());
        let pools = self.pools.iter().filter(|pool| pool.in_blocks);
        for (name, max_item) in pools.map(|p| (&p.name, p.max_item)).collect::<BTreeSet<_>>() {
            hash_string(&mut hasher, name);
            hasher.update(&max_item.to_be_bytes());
        }
        Digest(hasher.finalize().into())
    }

    /// What all peers together can make this node hold at most, in bytes.
    ///
    /// Counts every bound of [`Limits`], of the pools and of their permits, with what the transports
    /// hold. The application's own memory is not in it.
    pub fn worst_case_bytes(&self) -> u64 {
        let limits = &self.limits;
        let peers = u64::from(limits.max_inbound) + u64::from(limits.max_outbound);
        // Those whose hello is not finished, who are in TLS, and who are gone: nothing of what came on
        // their streams is kept of the last two.
        let unread = quic_unread(STRANGER_WINDOW, 1 + u64::from(UNOPENED), 1, STRANGER_WINDOW);
        let strangers = u64::from(limits.handshakes) * (unread + QUIC_STATE);
        let nobody = (u64::from(TLS_HANDSHAKES) + u64::from(FORGOTTEN)) * QUIC_STATE;
        (peers + u64::from(ENDING))
            .saturating_mul(self.transport_bytes())
            .saturating_add(strangers + nobody + u64::from(FIRST_PACKETS))
            .saturating_add(self.worst_case_core_bytes())
    }

    /// The share of the core in [`Config::worst_case_bytes`], for who has a transport of his own: bytes that
    /// a [`Node`](crate::Node) holds at most.
    pub fn worst_case_core_bytes(&self) -> u64 {
        let limits = &self.limits;
        let peers = u64::from(limits.max_inbound) + u64::from(limits.max_outbound);
        let pools = self.pools.iter().map(|pool| self.pool_bytes(pool, peers)).sum::<u64>();
        let of_links = self.pools.iter().map(|pool| self.pool_link_bytes(pool)).sum::<u64>();
        let per_peer = of_links + self.block_link_bytes() + LINK;
        peers
            .saturating_mul(per_peer)
            .saturating_add(pools)
            .saturating_add(self.blocks_bytes())
            .saturating_add(u64::from(limits.fetch_bytes_node))
            // What a stranger may say is one frame.
            .saturating_add(u64::from(limits.handshakes) * MAX_FRAME as u64)
            .saturating_add((u64::from(limits.bans) + crate::peers::UNPAID as u64) * BAN)
            .saturating_add(u64::from(limits.book_new_buckets) * NEW_SLOTS * BOOK_ENTRY)
            .saturating_add(u64::from(limits.book_tried_buckets) * TRIED_SLOTS * BOOK_ENTRY)
    }

    /// What a transport holds for one peer: its windows, frames that are half read, and those that wait
    /// to be written, one of each channel; items of pools among them are the pools' own.
    fn transport_bytes(&self) -> u64 {
        let limits = &self.limits;
        let opened = CHANNELS + self.pools.len() as u64;
        let window = limits.receive_window;
        let unread = quic_unread(window, opened + u64::from(UNOPENED), opened, window / 3 * 2);
        unread + u64::from(limits.send_window) + HALF_READ + UNSENT + QUIC_STATE
    }

    /// What one peer makes a pool hold besides its items.
    fn pool_link_bytes(&self, pool: &PoolSpec) -> u64 {
        let grant = &pool.grant;
        let permits = u64::from(grant.announcements) + u64::from(grant.bodies);
        u64::from(grant.body_bytes)
            + permits * ANNOUNCED
            + u64::from(self.limits.held_back) * HELD_BACK
            + under_way(pool.max_item)
            + POOL_LINK
    }

    /// What one peer makes a node hold of blocks.
    fn block_link_bytes(&self) -> u64 {
        let limits = &self.limits;
        // Two compact blocks; headers that are checked: one that was announced, one that was asked for.
        let pushed = u64::from(limits.block_grant.body_bytes) + 2 * MAX_HEADER as u64;
        let orphans = u64::from(limits.orphan_bytes) + u64::from(limits.ancestors) * ORPHAN;
        let largest = self.pools.iter().map(|pool| pool.max_item).max().unwrap_or(0);
        pushed + orphans + u64::from(limits.block_wants) * WANT + under_way(largest)
    }

    fn pool_bytes(&self, pool: &PoolSpec, peers: u64) -> u64 {
        let limits = &self.limits;
        // One item may cross the budget; all of them may have copies on their way out.
        pool.capacity_bytes
            .saturating_add(u64::from(pool.max_item))
            .saturating_add(pool.capacity.saturating_mul(ENTRY + peers.div_ceil(64) * 8))
            .saturating_add(u64::from(limits.shelved_bytes) + u64::from(limits.shelved) * ENTRY)
            // Bodies whose permit went back before their late verdict.
            .saturating_add(u64::from(self.workers) * 2 * u64::from(pool.max_item))
    }

    /// Blocks that are kept, put together, on their way in as answers, and given to peers.
    fn blocks_bytes(&self) -> u64 {
        let limits = &self.limits;
        let largest = u64::from(limits.block_size);
        let building = largest + MAX_BLOCK_ITEMS as u64 * BLOCK_ITEM;
        u64::from(limits.header_bytes)
            + u64::from(limits.block_bytes)
            + u64::from(limits.reconstructions) * building
            // What can be executed next always fits beside half of the room.
            + u64::from(limits.block_bytes) / 2
            + largest
            + u64::from(limits.serving) * crate::rpc::largest_body(self) as u64
    }
}

/// Bytes in the largest item any pool may allow: a permit for bytes must be able to count it.
pub const MAX_ITEM: u32 = 16 << 20;
/// Pools of one node: with the other channels they must fit into [`crate::wire::MAX_OFFERS`].
pub const MAX_POOLS: usize = 32;
/// Nodes where others can be learnt of: more would not make a start more certain.
pub const MAX_BOOTSTRAP: usize = 64;

/// Bytes a transport accepts of a connection to it before the core has opened a channel on it: a hello
/// has some 200. From then on it is [`Limits::receive_window`].
pub const STRANGER_WINDOW: u32 = 4 << 10;
/// Streams that a peer may have on a transport beside those of channels that the core has opened.
pub const UNOPENED: u32 = 2;
/// Handshakes of TLS that a transport has at a time.
pub const TLS_HANDSHAKES: u32 = 64;
/// Connections whose peers were let in, that are being closed, and whose places others have taken.
pub const ENDING: u32 = 4;
/// Connections that are closed and that a transport has not forgotten yet, at most: as many as come to
/// nothing in half a second when as many come as are let in.
pub const FORGOTTEN: u32 = 96;
/// Bytes a transport keeps of what comes with the first packets of all handshakes: 8 KiB for each of
/// 64, of which two packets are needed.
pub const FIRST_PACKETS: u32 = 512 << 10;

// What things cost beside the bytes they hold. A B-tree's leaf has eleven places and is six to eight
// tenths full; the test of the worst case drives a node there.

/// An item in a pool: its place by id, by rank, by key, in the log and in its account's chain.
const ENTRY: u64 = 1100;
/// An announcement or a body whose permit is out: what is wanted and of whom, or what waits for its
/// verdict, the turn it waits for, and what is owed.
const ANNOUNCED: u64 = 560;
/// A position that is held back, or one that was announced and is not given back.
const HELD_BACK: u64 = 88;
/// One link of a pool.
const POOL_LINK: u64 = 1200;
/// One connection: what it is asked and asks, slots that it pushed blocks for, its timers.
const LINK: u64 = 58 << 10;
/// A header whose parent is not known.
const ORPHAN: u64 = 680;
/// A header or a block that a peer may be asked for.
const WANT: u64 = 512;
/// A header whose verdict was *accept*, and who announced it.
pub(crate) const HEADER: u64 = 3 << 10;
/// An item of a block, with its hashes.
pub(crate) const BLOCK_ITEM: u64 = 288;
const BAN: u64 = 96;
/// Addresses are there twice: in the record, and as what can be dialed.
const BOOK_ENTRY: u64 = 3700;
/// Two frames of 64 KiB, one of control, and small ones of each channel, whose memory grows as they come.
const HALF_READ: u64 = 212 << 10;
/// A compact block, a chunk or headers, records, a tip: one of each, while nobody reads them.
const UNSENT: u64 = 132 << 10;
/// What quinn and TLS keep of a connection: 44 KiB, measured by `cargo bench -p tidegate --bench siege`,
/// and packets of TLS messages that wait for others, 16 KiB of each of two kinds before the handshake is
/// over and 38 KiB after it.
const QUIC_STATE: u64 = (44 + 2 * 16 + 38) << 10;
/// Channels with fixed numbers, of blocks and of peers.
const CHANNELS: u64 = 5;

/// What quinn holds of streams that a peer has begun, those that are read among them. It keeps packets whole
/// for what it waits for of them, and copies what it keeps when that is more than one and a half times what
/// is of use, and 32 KiB; of a copy nothing is free before all of it is read.
fn quic_unread(window: u32, streams: u64, read: u64, stream_window: u32) -> u64 {
    let copied = u64::from(window.min(stream_window));
    u64::from(window) * 5 / 2 + streams * (32 << 10) + read * copied
}

/// A peer that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticPeer {
    /// Where it listens.
    pub address: Address,
    /// Who is expected there; anyone if `None`, and from then on the one who answered first.
    pub peer: Option<PeerId>,
}

/// A pool of items: what the application wants kept and spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolSpec {
    /// Its name among all nodes, at most 32 bytes.
    pub name: String,
    /// Versions of its items that this node knows, ascending. Two nodes use the highest that both
    /// know, so a network is upgraded node by node.
    pub versions: Vec<u32>,
    /// Bytes of the largest item, at most [`MAX_ITEM`].
    pub max_item: u32,
    /// Items of up to so many bytes are sent at once where permits allow; larger ones are
    /// announced first. 512 is a guess: below it an announcement, a fetch and their packets cost
    /// about as much as the body.
    pub inline: u32,
    /// How many items are kept: the best ones. 4,096 is a guess at two busy blocks.
    pub capacity: u64,
    /// How many bytes of items are kept; the item that crosses this is kept too.
    pub capacity_bytes: u64,
    /// What each peer may have outstanding.
    pub grant: Grant,
    /// Whether blocks may have items of it. Nodes that exchange blocks must agree on the names and
    /// the largest items of all pools that they draw from.
    pub in_blocks: bool,
}

impl PoolSpec {
    /// A pool with defaults: version 1, items up to 32 KiB, 4,096 of them, 8 MiB in all.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            versions: vec![1],
            max_item: 32 << 10,
            inline: 512,
            capacity: 4096,
            capacity_bytes: 8 << 20,
            grant: POOL_GRANT,
            in_blocks: true,
        }
    }

    /// Digest of what two nodes must agree on to share this pool at one version. R5.7.8
    pub fn rules_digest(&self, rules: &str, version: u32) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("tidegate 1 pool rules");
        hash_string(&mut hasher, &self.name);
        hash_string(&mut hasher, rules);
        hasher.update(&version.to_be_bytes());
        hasher.update(&self.max_item.to_be_bytes());
        Digest(hasher.finalize().into())
    }
}

/// What a link makes a node hold of a pool's items on their way: one that arrives in chunks, and one that
/// goes out although nothing else has it any longer.
fn under_way(max_item: u32) -> u64 {
    let ways = if max_item as usize > MAX_WHOLE { 2 } else { 1 };
    ways * u64::from(max_item)
}

fn hash_string(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
}

/// What a peer may have outstanding on a pool by default: 32 small bodies in a round trip and a
/// verdict, which is about 500 a second at 60 ms and from each peer; and a batch of announcements.
pub const POOL_GRANT: Grant = Grant {
    announcements: 96,
    bodies: 32,
    body_bytes: 64 << 10,
    requests: 64,
    fetch_bytes: 256 << 10,
};

/// What a peer may have outstanding on the channel of peers: one question.
pub const PEERS_GRANT: Grant =
    Grant { announcements: 0, bodies: 0, body_bytes: 0, requests: 1, fetch_bytes: 0 };

/// Every limit on what peers can make a node cost. [`Config::worst_case_bytes`] adds them up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Connections that peers dialed. 80 of 100 in all: most nodes of a network cannot be dialed.
    pub max_inbound: u32,
    /// Connections that this node dialed.
    pub max_outbound: u32,
    /// Connections whose hello is not finished; the next is told to come back. 64 frames of
    /// 64 KiB are 4 MiB.
    pub handshakes: u32,
    /// How long a dial may take before it counts as failed: a lost packet or two at any distance.
    pub dial_timeout: Duration,
    /// The time between a failed dial and the next; it doubles with each failure.
    pub redial_first: Duration,
    /// The longest such time: with a dial's time-out a peer that is back is found within ten
    /// seconds.
    pub redial_most: Duration,
    /// The time between two dials over the book while peers are missing.
    pub dial_interval: Duration,
    /// How often somebody of the book is looked for, to know whether he is there. Bitcoin Core's
    /// two minutes: it is what makes filling a book with inventions slow.
    pub feeler_interval: Duration,
    /// Buckets of 16 peers that others told of.
    pub book_new_buckets: u32,
    /// Buckets of 8 peers that this node has met.
    pub book_tried_buckets: u32,
    /// How many times a peer that asks is told of others at once.
    pub records_burst: u32,
    /// How long it then waits for each further time.
    pub records_interval: Duration,
    /// How long a hello may take.
    pub handshake_timeout: Duration,
    /// How long the older of two connections has to answer before the newer replaces it.
    pub duplicate_timeout: Duration,
    /// How long an idle connection waits before its dialer pings; the other side half as long
    /// again.
    pub ping_idle: Duration,
    /// How often a connection is pinged while an answer is awaited on it.
    pub ping_busy: Duration,
    /// After so much silence while an answer is awaited, a connection is taken for dead.
    pub silence: Duration,
    /// Peers that are refused for a violation; the one whose time is up first makes room.
    pub bans: u32,
    /// Log positions held back for one peer and pool, and announced and not given back: 512 are 44 KiB.
    pub held_back: u32,
    /// Bytes that may be asked for on one link until their verdicts. One item always fits.
    pub fetch_bytes_link: u32,
    /// Bytes that may be asked for on all links until their verdicts.
    pub fetch_bytes_node: u32,
    /// After so long without a verdict a permit goes back as *ignored*.
    pub verdict_timeout: Duration,
    /// The shortest time between two headers, or two held tips, of one peer: blocks are rarer.
    pub tip_interval: Duration,
    /// Ancestors of a header that are asked for; what is further behind is a matter of sync.
    pub ancestors: u32,
    /// Bytes of headers of one peer that wait for their parents, or for their verdicts after that.
    pub orphan_bytes: u32,
    /// Headers and compact blocks that one peer may be asked for in all: a new one displaces its own
    /// oldest. As many as its orphans, each of which has one parent.
    pub block_wants: u32,
    /// What a peer may have outstanding on the block channel: two compact blocks of the largest kind, 51
    /// KiB each.
    pub block_grant: Grant,
    /// Items of each pool that a re-org took out and that are kept aside.
    pub shelved: u32,
    /// Bytes of them in each pool; the best stay. Both are guesses at a few blocks.
    pub shelved_bytes: u32,
    /// How far a peer must be ahead before its blocks are asked for as requests, not one by one
    /// as they are announced.
    pub sync_gap: u32,
    /// Headers that are asked for at a time, and looked at ahead of the tip.
    pub sync_headers: u32,
    /// How long nothing may come of a request before somebody else is asked.
    pub rpc_patience: Duration,
    /// Blocks that are given to peers at a time, of all that they ask for.
    pub serving: u32,
    /// Bytes on their way to the store from which on blocks wait.
    pub store_backlog: u32,
    /// Blocks below the tip that are kept and served: as deep as a re-org may go.
    pub blocks_kept: u32,
    /// Bytes of headers whose verdict was *accept*, with 3 KiB for each: about 650 of 100 bytes.
    /// Only a producer who makes many for one slot needs more, and displaces his own.
    pub header_bytes: u32,
    /// Bytes of items of those blocks, with 288 for each: the oldest make room.
    pub block_bytes: u32,
    /// Bytes of the items of the largest block.
    pub block_size: u32,
    /// Blocks that are put together at a time.
    pub reconstructions: u32,
    /// How long a compact block is waited for before it is asked for.
    pub block_patience: Duration,
    /// How long one who has only the header may be asked for the block before he says that it is
    /// not here.
    pub not_here_after: Duration,
    /// Messages of peers, but for what was asked of them, that are worked on in a second before those
    /// that send more than their share have to wait for what they are owed. With its way through the
    /// transport a message costs about 25 µs, and a body that was of no use counts nine times, for its
    /// verdict; one that was of use does not count. So 8,000 are a quarter of a
    /// processor to all of it, as `--bench siege` shows.
    pub work_per_second: u32,
    /// Bytes a transport accepts of one connection before the core takes them.
    pub receive_window: u32,
    /// Bytes a transport keeps of one connection until they are acknowledged.
    pub send_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_inbound: 80,
            max_outbound: 20,
            handshakes: 64,
            dial_timeout: Duration::from_secs(3),
            redial_first: Duration::from_millis(500),
            redial_most: Duration::from_secs(5),
            dial_interval: Duration::from_secs(2),
            feeler_interval: Duration::from_secs(120),
            book_new_buckets: 128,
            book_tried_buckets: 64,
            records_burst: 4,
            records_interval: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(5),
            duplicate_timeout: Duration::from_secs(2),
            ping_idle: Duration::from_secs(30),
            ping_busy: Duration::from_secs(2),
            silence: Duration::from_secs(8),
            bans: 4096,
            held_back: 512,
            fetch_bytes_link: 256 << 10,
            fetch_bytes_node: 8 << 20,
            verdict_timeout: Duration::from_secs(10),
            tip_interval: Duration::from_millis(20),
            ancestors: 64,
            orphan_bytes: 32 << 10,
            block_wants: 64,
            block_grant: Grant {
                announcements: 0,
                bodies: 2,
                body_bytes: 104 << 10,
                requests: 8,
                fetch_bytes: 256 << 10,
            },
            shelved: 256,
            shelved_bytes: 256 << 10,
            sync_gap: 16,
            sync_headers: 256,
            rpc_patience: Duration::from_secs(5),
            serving: 2,
            store_backlog: 4 << 20,
            blocks_kept: 64,
            header_bytes: 2 << 20,
            block_bytes: 9 << 20,
            block_size: 4 << 20,
            reconstructions: 2,
            block_patience: Duration::from_millis(50),
            not_here_after: Duration::from_secs(2),
            work_per_second: 8_000,
            receive_window: 80 << 10,
            send_window: 128 << 10,
        }
    }
}

/// Why a node cannot be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A pool's name is missing or too long.
    #[error("pool name {0:?}: it must have 1 to 32 bytes")]
    PoolName(String),
    /// Two pools share a name.
    #[error("two pools are named {0:?}: give each a name of its own")]
    SamePool(String),
    /// A pool's versions are not a list of one to eight, ascending.
    #[error("versions of pool {0:?}: give one to eight, ascending")]
    PoolVersions(String),
    /// A pool's items are too large, or nothing.
    #[error("max_item of pool {0:?}: it must be between 1 and {MAX_ITEM} bytes")]
    PoolItemSize(String),
    /// Too many pools.
    #[error("{0} pools: at most {MAX_POOLS} are possible")]
    TooManyPools(usize),
    /// The client's name is too long.
    #[error("client name: it must have at most 64 bytes")]
    ClientName,
    /// The genesis header is none.
    #[error("genesis: these bytes are no header by the application's rules")]
    Genesis,
    /// The chain of the store does not hold together.
    #[error("chain: its headers are none by the application's rules, or not each other's children")]
    Chain,
    /// More peers are named than may be dialed.
    #[error("{named} static peers, but `max_outbound` is {most}: raise it or name fewer")]
    TooManyStaticPeers {
        /// How many are named.
        named: usize,
        /// How many may be dialed.
        most: u32,
    },
    /// Too many nodes to learn of others from.
    #[error("{0} bootstrap addresses: at most {MAX_BOOTSTRAP} are possible")]
    TooManyBootstrap(usize),
    /// There is nobody to give verdicts.
    #[error("workers: at least one is needed")]
    NoWorkers,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pools: usize) -> Config {
        let mut config = Config::new(PeerId([1; 32]), NetworkId([2; 32]));
        config.pools = (0..pools).map(|i| PoolSpec::new(format!("pool {i}"))).collect();
        config
    }

    /// With 100 peers the defaults cost at most 384 MiB. PROTOCOL §4 has 256, without what quinn keeps of packets.
    #[test]
    fn defaults_with_three_pools_stay_below_384_mib() {
        let worst = config(3).worst_case_bytes();
        assert!(worst <= 384 << 20, "{} MiB", worst >> 20);
        assert!(worst >= 320 << 20, "{} MiB: the limits could be wider", worst >> 20);
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(config(MAX_POOLS).validate(), Ok(()));
        assert_eq!(config(33).validate(), Err(ConfigError::TooManyPools(33)));
        let with = |change: fn(&mut Config)| {
            let mut config = config(2);
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(with(|c| c.pools[1].name = "pool 0".into()).contains("a name of its own"));
        assert!(with(|c| c.pools[0].name = "x".repeat(33)).contains("1 to 32 bytes"));
        assert!(with(|c| c.pools[0].versions = vec![2, 1]).contains("ascending"));
        assert!(with(|c| c.pools[0].max_item = MAX_ITEM + 1).contains("16777216"));
        assert!(with(|c| c.workers = 0).contains("at least one"));
        assert!(with(|c| c.client = "x".repeat(65)).contains("64"));
    }

    #[test]
    fn a_digest_depends_on_everything_in_it() {
        let spec = PoolSpec::new("a");
        let digest = spec.rules_digest("r", 1);
        let larger = PoolSpec { max_item: 1, ..spec.clone() };
        let others = [
            PoolSpec::new("ar").rules_digest("", 1),
            spec.rules_digest("s", 1),
            spec.rules_digest("r", 2),
            larger.rules_digest("r", 1),
        ];
        assert!(others.iter().all(|other| *other != digest));
    }
}
