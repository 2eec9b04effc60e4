//! The configuration of a node, and every limit on what peers can make it cost.
//!
//! # Not guaranteed
//!
//! That the limits suit an application: the defaults are for small items and a hundred peers, and
//! [`Config::worst_case_bytes`] tells what other values cost. It counts the core and the
//! transports' windows, not what the application keeps.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{Address, Digest, NetworkId, PeerId, SealingKey};
pub use crate::peers::book::{BookEntry, PeerBook};
use crate::wire::{Grant, MAX_HEADER, MAX_NAME};

mod limits;
mod worst_case;

pub use limits::{Limits, PEERS_GRANT, POOL_GRANT};
pub(crate) use worst_case::{BLOCK_ITEM, HEADER};
pub use worst_case::{
    ENDING, FIRST_PACKETS, FORGOTTEN, STRANGER_WINDOW, TLS_HANDSHAKES, UNACKNOWLEDGED, streams_for,
};

/// The configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Config {
    /// This node's identity.
    pub peer: PeerId,
    /// Connections are only made with peers of the same network.
    pub network: NetworkId,
    /// Name and version of this software, at most 64 bytes, for the peers' operators to read.
    pub client: String,
    /// The header of the first block. Without one the node has pools, but no tip and no blocks.
    pub genesis: Option<Bytes>,
    /// The pools, in the order of their [`crate::id::PoolIndex`].
    pub pools: Vec<PoolSpec>,
    /// How many verdicts on one kind of thing the application works on at a time, at least one; the
    /// number of cores is a good guess. One of these workers is for this kind alone (items of one
    /// pool, or headers and blocks), the others are shared. Each has two tickets outstanding, so
    /// that it need not wait for the next one.
    pub workers: u32,
    /// If set, only these peers are allowed to connect.
    pub allow: Option<BTreeSet<PeerId>>,
    /// Peers to stay connected to, at most [`Limits::max_outbound`].
    pub static_peers: Vec<StaticPeer>,
    /// Nodes to learn of other peers from, when no known peer can be reached.
    pub bootstrap: Vec<StaticPeer>,
    /// How many outbound connections to keep to peers of the node's own choice. With 0 the network
    /// is closed: the node learns of no peers, and dials only those it is told to. 8 as in Bitcoin
    /// Core: the chance that one party controls all of them falls with each. At most
    /// [`Limits::max_outbound`] are dialed.
    pub outbound: u32,
    /// The address book, as saved.
    pub peer_book: PeerBook,
    /// Whether there is a store. Then reports wait until what they are about is durable, and old
    /// blocks are served from it.
    pub store: bool,
    /// Headers of the executed chain in the store, each the child of the one before; the last is
    /// the tip. [`Limits::blocks_kept`] of them are enough.
    pub chain: Vec<Bytes>,
    /// The key to which others seal offers for this node ([`Output::Unseal`](crate::io::Output::Unseal)), if
    /// a transport of the node takes offers.
    pub sealing: Option<SealingKey>,
    /// The sequence number of this node's last signed record: the next one must be higher.
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
            sealing: None,
            record_sequence: 0,
            limits: Limits::default(),
        }
    }

    /// Checks that a node can run with this configuration.
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
        for (name, is, most) in [
            ("workers", self.workers, MAX_WORKERS),
            ("outbound", self.outbound, limits::CONNECTIONS),
        ] {
            if is > most {
                return Err(ConfigError::too_much(name, is, most));
            }
        }
        for pool in &self.pools {
            for (name, is, most) in pool.numbers() {
                if is > most {
                    let name = format!("{name} of pool {:?}", pool.name);
                    return Err(ConfigError::too_much(name, is, most));
                }
            }
        }
        self.limits.check()
    }

    /// Digest of what two nodes must agree on to exchange blocks: everything that decides whether a
    /// block is admissible. R5.7.9
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
}

/// The largest size that any pool may allow for an item: byte permits must be able to count it.
pub const MAX_ITEM: u32 = 16 << 20;
/// The highest number of workers: more than a machine has processors.
pub const MAX_WORKERS: u32 = 1024;
/// The highest capacity of a pool in bytes: more than a machine has memory.
const POOL_BYTES: u64 = 1 << 40;
/// The highest number of pools: with the other channels they must fit into
/// [`crate::wire::MAX_OFFERS`].
pub const MAX_POOLS: usize = 32;
/// The highest number of bootstrap nodes: more would not make the start more reliable.
pub const MAX_BOOTSTRAP: usize = 64;

/// A peer named in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticPeer {
    /// Where it listens.
    pub address: Address,
    /// The expected identity. If `None`, any peer may answer; its identity is expected from then
    /// on.
    pub peer: Option<PeerId>,
}

/// A pool of items that the application wants kept and spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolSpec {
    /// Its name in the network, at most 32 bytes.
    pub name: String,
    /// Versions of its items that this node knows, ascending. Two nodes use the highest common one,
    /// so a network can be upgraded node by node.
    pub versions: Vec<u32>,
    /// The size of the largest item, at most [`MAX_ITEM`] bytes.
    pub max_item: u32,
    /// Items up to this size are pushed if permits allow; larger ones are announced first. 512 is a
    /// guess: below it an announcement, a fetch and their packets cost about as much as the body.
    pub inline: u32,
    /// How many items are kept; the worst are evicted. 4,096 is a guess at two busy blocks.
    pub capacity: u64,
    /// How many bytes of items are kept; the item that crosses this limit is kept too.
    pub capacity_bytes: u64,
    /// What each peer may have outstanding.
    pub grant: Grant,
    /// Whether blocks may contain items of it. Nodes that exchange blocks must agree on the names
    /// and the largest items of all these pools.
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

    /// Its numbers with their upper bounds.
    fn numbers(&self) -> [(&'static str, u64, u64); 8] {
        let (grant, most) = (&self.grant, u64::from(limits::MOST));
        [
            ("inline", self.inline.into(), most),
            ("capacity", self.capacity, most),
            ("capacity_bytes", self.capacity_bytes, POOL_BYTES),
            ("grant.announcements", grant.announcements.into(), most),
            ("grant.bodies", grant.bodies.into(), most),
            ("grant.body_bytes", grant.body_bytes.into(), most),
            ("grant.requests", grant.requests.into(), most),
            ("grant.fetch_bytes", grant.fetch_bytes.into(), most),
        ]
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

fn hash_string(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
}

/// Why a configuration is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A pool's name is missing or too long.
    #[error("pool name {0:?}: it must have 1 to 32 bytes")]
    PoolName(String),
    /// Two pools share a name.
    #[error("two pools are named {0:?}: give each a name of its own")]
    SamePool(String),
    /// A pool's versions are not a list of one to eight in ascending order.
    #[error("versions of pool {0:?}: give one to eight, ascending")]
    PoolVersions(String),
    /// A pool's largest item is zero, or over [`MAX_ITEM`].
    #[error("max_item of pool {0:?}: it must be between 1 and {MAX_ITEM} bytes")]
    PoolItemSize(String),
    /// Too many pools.
    #[error("{0} pools: at most {MAX_POOLS} are possible")]
    TooManyPools(usize),
    /// The client name is too long.
    #[error("client name: it must have at most 64 bytes")]
    ClientName,
    /// The rules cannot parse the genesis header.
    #[error("genesis: these bytes are no header by the application's rules")]
    Genesis,
    /// The headers in the store do not form a chain.
    #[error("chain: its headers are none by the application's rules, or not each other's children")]
    Chain,
    /// More static peers are named than may be dialed.
    #[error("{named} static peers, but `max_outbound` is {most}: raise it or name fewer")]
    TooManyStaticPeers {
        /// How many are named.
        named: usize,
        /// The limit.
        most: u32,
    },
    /// Too many bootstrap nodes.
    #[error("{0} bootstrap addresses: at most {MAX_BOOTSTRAP} are possible")]
    TooManyBootstrap(usize),
    /// A limit is too low for a node to work.
    #[error("limit {name} is {is}: it must be at least {least}, or {otherwise}")]
    Limit {
        /// Its name in [`Limits`].
        name: &'static str,
        /// Its value.
        is: String,
        /// The lowest value that works.
        least: String,
        /// What would happen below that.
        otherwise: &'static str,
    },
    /// A number is so high that sums would overflow, or that no machine has as much.
    #[error("{name} is {is}: it must be at most {most}")]
    TooMuch {
        /// Its name.
        name: String,
        /// Its value.
        is: String,
        /// The highest value.
        most: String,
    },
    /// No worker to give verdicts.
    #[error("workers: at least one is needed")]
    NoWorkers,
}

impl ConfigError {
    fn too_much(name: impl Into<String>, is: impl ToString, most: impl ToString) -> Self {
        Self::TooMuch { name: name.into(), is: is.to_string(), most: most.to_string() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    pub(super) fn config(pools: usize) -> Config {
        let mut config = Config::new(PeerId([1; 32]), NetworkId([2; 32]));
        config.pools = (0..pools).map(|i| PoolSpec::new(format!("pool {i}"))).collect();
        config
    }

    #[test]
    fn errors_name_the_faulty_setting() {
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

    type SetNumber = fn(&mut Limits, u32);

    /// Limits with the lowest value that works, the others at their defaults.
    pub(crate) const LEAST: [(&str, u32, SetNumber); 20] = [
        ("handshakes", 1, |limits, n| limits.handshakes = n),
        ("book_new_buckets", 1, |limits, n| limits.book_new_buckets = n),
        ("book_tried_buckets", 1, |limits, n| limits.book_tried_buckets = n),
        ("records_burst", 1, |limits, n| limits.records_burst = n),
        ("held_back", 1, |limits, n| limits.held_back = n),
        ("sync_gap", 1, |limits, n| limits.sync_gap = n),
        ("ancestors", 16, |limits, n| limits.ancestors = n),
        ("block_wants", 1, |limits, n| limits.block_wants = n),
        ("sync_headers", 1, |limits, n| limits.sync_headers = n),
        ("serving", 1, |limits, n| limits.serving = n),
        ("store_backlog", 1, |limits, n| limits.store_backlog = n),
        ("blocks_kept", 1, |limits, n| limits.blocks_kept = n),
        ("header_bytes", 76 << 10, |limits, n| limits.header_bytes = n),
        ("block_bytes", 2, |limits, n| limits.block_bytes = n),
        ("block_grant.requests", 1, |limits, n| limits.block_grant.requests = n),
        ("reconstructions", 1, |limits, n| limits.reconstructions = n),
        ("shelved", 1, |limits, n| limits.shelved = n),
        ("work_per_second", 10, |limits, n| limits.work_per_second = n),
        ("receive_window", 4 << 10, |limits, n| limits.receive_window = n),
        ("send_window", 4 << 10, |limits, n| limits.send_window = n),
    ];

    /// Checks that a limit works at its lowest value and not below; returns the error.
    fn refused(
        name: &str,
        least: impl FnOnce(&mut Limits),
        below: impl FnOnce(&mut Limits),
    ) -> String {
        let mut config = config(1);
        least(&mut config.limits);
        assert_eq!(config.validate(), Ok(()), "{name}");
        below(&mut config.limits);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn limits_with_which_no_node_works_are_refused() {
        for (name, least, set) in LEAST {
            let error = refused(name, |limits| set(limits, least), |limits| set(limits, least - 1));
            let says = format!("limit {name} is {}: it must be at least {least}, or ", least - 1);
            assert!(error.starts_with(&says), "{error}");
        }
    }

    #[test]
    fn times_in_which_nothing_can_happen_are_refused() {
        type Set = fn(&mut Limits, Duration);
        let (ms, us) = (Duration::from_millis(1), Duration::from_micros(1));
        let times: [(&str, Duration, Set); 19] = [
            ("dial_timeout", ms, |limits, time| limits.dial_timeout = time),
            ("dial_timeout_ice", ms, |limits, time| limits.dial_timeout_ice = time),
            ("dial_timeout_slow", ms, |limits, time| limits.dial_timeout_slow = time),
            ("redial_first", ms, |limits, time| limits.redial_first = time),
            ("redial_most", 500 * ms, |limits, time| limits.redial_most = time),
            ("dial_interval", ms, |limits, time| limits.dial_interval = time),
            ("feeler_interval", ms, |limits, time| limits.feeler_interval = time),
            ("records_interval", ms, |limits, time| limits.records_interval = time),
            ("signal_patience", ms, |limits, time| limits.signal_patience = time),
            ("signal_interval", ms, |limits, time| limits.signal_interval = time),
            ("handshake_timeout", ms, |limits, time| limits.handshake_timeout = time),
            ("duplicate_timeout", ms, |limits, time| limits.duplicate_timeout = time),
            ("ping_idle", ms, |limits, time| limits.ping_idle = time),
            ("ping_busy", ms, |limits, time| limits.ping_busy = time),
            ("silence", 2000 * ms, |limits, time| limits.silence = time),
            ("verdict_timeout", ms, |limits, time| limits.verdict_timeout = time),
            ("rpc_patience", ms, |limits, time| limits.rpc_patience = time),
            ("block_patience", ms, |limits, time| limits.block_patience = time),
            ("not_here_after", ms, |limits, time| limits.not_here_after = time),
        ];
        for (name, least, set) in times {
            let error =
                refused(name, |limits| set(limits, least), |limits| set(limits, least - us));
            assert!(error.contains(name) && error.contains("at least"), "{error}");
        }
    }

    /// Limits with one of them changed, by name.
    pub(crate) fn limits_with(name: &str, to: &serde_json::Value) -> Limits {
        let mut default = Limits::default();
        // Raises whatever must not be lower than it.
        match name {
            "sync_gap" => default.ancestors = 1 << 30,
            "redial_first" => default.redial_most = limits::LONGEST,
            "ping_busy" => default.silence = limits::LONGEST,
            _ => {}
        }
        limits_in(&default, name, to)
    }

    pub(crate) fn limits_in(limits: &Limits, name: &str, to: &serde_json::Value) -> Limits {
        let mut limits = serde_json::to_value(limits).unwrap();
        let pointer = format!("/{}", name.replace('.', "/"));
        *limits.pointer_mut(&pointer).unwrap_or_else(|| panic!("{name}")) = to.clone();
        serde_json::from_value(limits).unwrap()
    }

    /// Regression: `--max-inbound 4294967212` refused every peer, since a sum had wrapped around.
    #[test]
    fn every_number_and_duration_is_bounded() {
        let check = |limits| Config { limits, ..config(1) }.validate();
        let default = Limits::default();
        for (name, _, most) in default.most() {
            assert_eq!(check(limits_with(name, &most.into())), Ok(()), "{name}");
            let error = check(limits_with(name, &(most + 1).into())).unwrap_err().to_string();
            assert_eq!(error, format!("limit {name} is {}: it must be at most {most}", most + 1));
        }
        let year = limits::LONGEST;
        for (name, ..) in default.shortest() {
            let time = |time: Duration| limits_with(name, &serde_json::to_value(time).unwrap());
            assert_eq!(check(time(year)), Ok(()), "{name}");
            let error = check(time(year + Duration::from_nanos(1))).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("at most"), "{error}");
        }
        // Every limit is covered.
        let all = serde_json::to_value(&default).unwrap();
        let grant = all["block_grant"].as_object().unwrap().len();
        let count = all.as_object().unwrap().len() - 1 + grant;
        assert_eq!(default.most().len() + default.shortest().len(), count);
    }

    #[test]
    fn numbers_of_peers_and_pools_are_bounded() {
        type Set = fn(&mut Config, u64);
        let numbers: [(&str, u64, Set); 10] = [
            ("workers", 1024, |config, n| config.workers = n as u32),
            ("outbound", 65_536, |config, n| config.outbound = n as u32),
            ("inline of pool", 1 << 30, |config, n| config.pools[0].inline = n as u32),
            ("capacity of pool", 1 << 30, |config, n| config.pools[0].capacity = n),
            ("capacity_bytes of pool", 1 << 40, |config, n| config.pools[0].capacity_bytes = n),
            ("grant.announcements of pool", 1 << 30, |config, n| {
                config.pools[0].grant.announcements = n as u32;
            }),
            ("grant.bodies of pool", 1 << 30, |config, n| config.pools[0].grant.bodies = n as u32),
            ("grant.body_bytes of pool", 1 << 30, |config, n| {
                config.pools[0].grant.body_bytes = n as u32;
            }),
            ("grant.requests of pool", 1 << 30, |config, n| {
                config.pools[0].grant.requests = n as u32;
            }),
            ("grant.fetch_bytes of pool", 1 << 30, |config, n| {
                config.pools[0].grant.fetch_bytes = n as u32;
            }),
        ];
        for (name, most, set) in numbers {
            let mut config = config(1);
            set(&mut config, most);
            assert_eq!(config.validate(), Ok(()), "{name}");
            set(&mut config, most + 1);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(&most.to_string()), "{error}");
        }
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
