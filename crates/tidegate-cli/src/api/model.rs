//! What the API answers. These forms are its own: the core may change beneath them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate::io::Path;
use tidegate::transport::from_core;
use tidegate::{Kind, PeerStatus};
use utoipa::{IntoParams, ToSchema};

/// A node at a glance.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Status {
    /// Who the node is: base58 of its public key with a prefix.
    pub(crate) peer_id: String,
    /// Name and version of the program.
    pub(crate) client: String,
    /// Name of the network.
    pub(crate) network: String,
    /// Its id, in hex: of two networks with one name, and of two genesis files that differ, it is another.
    pub(crate) network_id: String,
    /// Where it accepts connections.
    pub(crate) addresses: Vec<String>,
    /// Where others may reach it, those first that they should try first.
    pub(crate) own_addresses: Vec<OwnAddress>,
    /// Seconds since it started.
    pub(crate) uptime: f64,
    /// Height of the best executed block, once it is durable.
    pub(crate) height: u64,
    /// Its id.
    pub(crate) tip: Option<String>,
    /// Whether it is far behind its peers and fetches blocks.
    pub(crate) syncing: bool,
    /// Peers that are connected.
    pub(crate) peers: usize,
    /// Peers that it has heard of.
    pub(crate) known_peers: usize,
    /// Those of them that it has met.
    pub(crate) met_peers: usize,
    /// Peers that are refused because they broke the rules.
    pub(crate) banned_peers: usize,
    /// Questions to the ledger that are not answered.
    pub(crate) pending_verdicts: usize,
    /// Bytes that are not durable yet.
    pub(crate) store_backlog: usize,
    /// Bytes on the wire, headers of UDP and IP not counted.
    pub(crate) bytes_sent: u64,
    /// The same, received.
    pub(crate) bytes_received: u64,
    /// Bytes of what came from peers and was new here.
    pub(crate) useful_bytes: u64,
    /// The pools.
    pub(crate) pools: Vec<Pool>,
}

/// An address of the node, and who is told of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OwnAddress {
    /// The address.
    pub(crate) address: String,
    /// Who is told of it.
    pub(crate) told: Told,
    /// Where it is known from, and why others are told of it or not.
    pub(crate) why: String,
    /// Seconds since it became known.
    pub(crate) known_for: f64,
}

/// Who is told of an address.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// Every peer.
    All,
    /// Peers of the local network.
    Local,
    /// Nobody.
    Nobody,
}

impl OwnAddress {
    pub(crate) fn of(own: &tidegate::OwnAddress) -> Option<Self> {
        let told = match own.told {
            tidegate::Told::All => Told::All,
            tidegate::Told::Local => Told::Local,
            _ => Told::Nobody,
        };
        Some(Self {
            address: from_core(&own.address)?.to_string(),
            told,
            why: format!("{}, {}", own.source, own.told),
            known_for: own.known_for.as_secs_f64(),
        })
    }
}

/// A pool at a glance.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pool {
    /// Its name.
    pub(crate) name: String,
    /// Items it holds.
    pub(crate) items: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// Permits of this node that peers have spent and not got back.
    pub(crate) permits_given: usize,
    /// Permits of peers that this node has spent and not got back.
    pub(crate) permits_spent: usize,
}

/// An item of a pool.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Item {
    /// Its id, in hex.
    pub(crate) id: String,
    /// Whether it could be in the next block.
    pub(crate) executable: bool,
    /// Its bytes, in hex.
    pub(crate) body: String,
}

impl From<tidegate::PoolItem> for Item {
    fn from(item: tidegate::PoolItem) -> Self {
        Self { id: item.id.to_string(), executable: item.executable, body: hex::encode(&item.body) }
    }
}

/// An item of a pool, and who else has it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct HeldItem {
    /// The item.
    #[serde(flatten)]
    pub(crate) item: Item,
    /// Connected peers that have it, as far as they have said so.
    pub(crate) holders: Vec<String>,
}

/// Which items are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Most {
    /// How many at most, the best first.
    #[serde(default = "Most::usual")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(crate) limit: usize,
}

impl Most {
    /// One page of what a person reads.
    fn usual() -> usize {
        100
    }
}

/// Peers, and those that are refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Peers {
    /// Peers that are connected.
    pub(crate) connected: Vec<Peer>,
    /// Peers that are refused because they broke the rules.
    pub(crate) banned: Vec<Banned>,
}

/// A connected peer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Peer {
    /// Who.
    pub(crate) peer: String,
    /// What it calls itself.
    pub(crate) client: String,
    /// Whether it dialed.
    pub(crate) inbound: bool,
    /// What the connection is over: `quic`, `webrtc` or `tcp`.
    pub(crate) transport: String,
    /// Where the peer is, as this node sees it.
    pub(crate) address: String,
    /// Whether it leads there without another peer or server in between.
    pub(crate) direct: bool,
    /// Seconds since it is connected.
    pub(crate) connected_for: f64,
    /// Milliseconds of a round trip, if one was measured.
    pub(crate) round_trip_ms: Option<f64>,
    /// Height of its executed tip, as it says.
    pub(crate) height: u64,
    /// Channel instances of the connection.
    pub(crate) channels: Vec<Channel>,
    /// Permits by pool.
    pub(crate) permits: Vec<Permits>,
    /// What it does not exchange with this node.
    pub(crate) not_shared: Vec<Unshared>,
}

/// A pool, or blocks, that a peer does not exchange with this node.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Unshared {
    /// The pool's name, or `blocks`.
    pub(crate) what: String,
    /// Why.
    pub(crate) why: String,
}

/// A channel instance of a connection.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Channel {
    /// Its number (specification section 5.7).
    pub(crate) instance: u32,
    /// The version that both ends agreed on.
    pub(crate) version: u32,
}

/// Permits between this node and a peer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Permits {
    /// The pool.
    pub(crate) pool: String,
    /// Those that the peer has spent here and not got back.
    pub(crate) given: usize,
    /// Those that this node has spent there and not got back.
    pub(crate) spent: usize,
}

impl Peer {
    /// What it is connected over, to be read.
    pub(crate) fn over(&self) -> String {
        let relayed = if self.direct { "" } else { ", relayed" };
        format!("{}{relayed}", self.transport)
    }

    /// The round trip, to be read.
    pub(crate) fn round_trip(&self) -> String {
        self.round_trip_ms.map_or_else(|| "-".to_owned(), |time| format!("{time:.1} ms"))
    }
}

/// What two nodes do not exchange: the name of a pool, or of what the other channels carry.
pub(crate) fn not_shared(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Block => "blocks".to_owned(),
        _ if name.is_empty() => kind.name().to_owned(),
        _ => name.to_owned(),
    }
}

impl From<&PeerStatus> for Peer {
    fn from(status: &PeerStatus) -> Self {
        let permits = status.permits.iter().map(|(pool, permits)| Permits {
            pool: pool.clone(),
            given: permits.given,
            spent: permits.spent,
        });
        let not_shared = status.not_shared.iter().map(|(kind, name, why)| Unshared {
            what: not_shared(*kind, name),
            why: why.to_string(),
        });
        let channels = status.channels.iter();
        let channels =
            channels.map(|(instance, version)| Channel { instance: *instance, version: *version });
        Self {
            peer: status.peer.clone(),
            client: status.client.clone(),
            inbound: status.inbound,
            transport: status.transport.to_owned(),
            address: from_core(&status.address).map_or_else(String::new, |at| at.to_string()),
            direct: status.path != Path::Relayed,
            connected_for: status.connected_for.as_secs_f64(),
            round_trip_ms: status.round_trip.map(|time| time.as_secs_f64() * 1e3),
            height: status.height,
            channels: channels.collect(),
            permits: permits.collect(),
            not_shared: not_shared.collect(),
        }
    }
}

/// A peer that is refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Banned {
    /// Who.
    pub(crate) peer: String,
    /// For how many seconds more.
    pub(crate) left: f64,
    /// What it did; not known any more after a restart.
    pub(crate) violation: Option<String>,
}

impl Banned {
    pub(crate) fn new(peer: String, left: Duration, violation: Option<String>) -> Self {
        Self { peer, left: left.as_secs_f64(), violation }
    }
}

/// The best executed block.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Tip {
    /// Its height.
    pub(crate) height: u64,
    /// Its id.
    pub(crate) block: String,
}

/// A block.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Block {
    /// Its id.
    pub(crate) block: String,
    /// The block before.
    pub(crate) parent: String,
    /// How many blocks there are before it.
    pub(crate) height: u64,
    /// The slot it was made in.
    pub(crate) slot: u64,
    /// Public key of its producer, in hex.
    pub(crate) producer: String,
    /// Its items in their order.
    pub(crate) items: Vec<BlockItem>,
}

/// An item of a block.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct BlockItem {
    /// The pool it belongs to.
    pub(crate) pool: String,
    /// Its id, in hex.
    pub(crate) id: String,
    /// Its bytes, in hex.
    pub(crate) body: String,
}

/// An account at the tip.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Account {
    /// Its public key, in hex.
    pub(crate) account: String,
    /// What it has.
    pub(crate) balance: u64,
    /// The number of its next transfer at the tip.
    pub(crate) nonce: u64,
    /// The first number that no transfer in the pool has either.
    pub(crate) next_nonce: u64,
}

/// A transfer to publish.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Submission {
    /// The signed transfer, in hex: two digits for each of its 152 bytes.
    #[schema(pattern = "^[0-9a-fA-F]{304}$", min_length = 304, max_length = 304)]
    pub(crate) transfer: String,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Submitted {
    /// Its id, in hex.
    pub(crate) id: String,
    /// Accepted now, or known before; it is durable in both cases.
    pub(crate) fate: Fate,
}

/// What becomes of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    Accepted,
    Known,
}

/// Whether the node is of use to others.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Ready {
    /// Whether it is.
    pub(crate) ready: bool,
    /// Why not.
    pub(crate) reasons: Vec<String>,
}
