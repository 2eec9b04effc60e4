//! What the core must know of the application, as pure functions.
//!
//! All of them depend on their arguments alone, so that a run can be replayed without the
//! application. Questions that depend on state are asked by ticket and answered by verdict instead.
//!
//! # Not guaranteed
//!
//! That the rules of two nodes agree: nodes compare only [`Rules::id`], the pool's name, its
//! version and its largest item. Rules that are not pure break replays and the convergence of
//! pools, and nothing notices.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::MaybeSend;
use crate::id::{AccountId, BlockId, Digest, ItemId, ItemKey};

/// Pure facts about items and headers.
pub trait Rules: MaybeSend {
    /// Name and version of these rules. Peers that share a pool must agree on it, and a recording
    /// can only be replayed with the rules that it was made with.
    fn id(&self) -> &str;

    /// The id of an item of a pool: a hash of its bytes, BLAKE3 by default.
    fn item_id(&self, pool: &str, body: &[u8]) -> ItemId {
        let _ = pool;
        ItemId(*blake3::hash(body).as_bytes())
    }

    /// The facts of an item; `None` if the bytes are not an item.
    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts>;

    /// The facts of a header; `None` if the bytes are not a header. By default there are no blocks.
    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        let _ = header;
        None
    }

    /// Fork choice: compares two accepted headers. By default the higher one is better, then the
    /// one with the higher id.
    fn compare(&self, a: &HeaderFacts, b: &HeaderFacts) -> Ordering {
        (a.height, a.block).cmp(&(b.height, b.block))
    }
}

/// Rules for items that are just bytes: there are no blocks, and no item is better than another.
///
/// A full pool keeps those with the highest ids, so it is for pools that do not become full.
#[derive(Clone, Debug)]
pub struct Plain(String);

impl Plain {
    /// `id` is name and version of the application's own rules, like `"notes 1"`.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }
}

impl Rules for Plain {
    fn id(&self) -> &str {
        &self.0
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        Some(ItemFacts { key, priority: 0, chain: None })
    }
}

/// What a pool knows of an item besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemFacts {
    /// At most one item of the pool has this key: the one of the highest priority, then id.
    pub key: ItemKey,
    /// Items of higher priority are kept and sent first.
    pub priority: u64,
    /// The item's place among those of one account, if items depend on each other.
    pub chain: Option<ChainLink>,
}

/// An item's place in an account's chain of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainLink {
    /// The account.
    pub account: AccountId,
    /// Items of an account are executable in the order of their nonces, without a gap.
    pub nonce: u64,
    /// What executing the item takes from the account's balance.
    pub cost: u64,
}

/// The limits on an account's chain, at the tip. An item that does not fit is not in the pool:
/// nodes with the same tip must agree on that, whatever they had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The nonce of the next executable item. Lower ones are stale.
    pub next: u64,
    /// Nonces from this one on are too far ahead.
    pub until: u64,
    /// What one item may cost, and what all executable ones together may.
    pub balance: u64,
}

impl Account {
    /// Whether an item of the account is admissible, by itself.
    pub fn admits(&self, link: &ChainLink) -> bool {
        (self.next..self.until).contains(&link.nonce) && link.cost <= self.balance
    }
}

impl Default for Account {
    /// An account without limits: what the core assumes of one it was told nothing about.
    fn default() -> Self {
        Self { next: 0, until: u64::MAX, balance: u64::MAX }
    }
}

/// What the core knows of a header besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderFacts {
    /// The block's id: a hash of the header.
    pub block: BlockId,
    /// The block it builds on.
    pub parent: BlockId,
    /// One more than its parent's.
    pub height: u64,
    /// The time slot it was made for.
    pub slot: u64,
    /// Who made it. A producer's bodies travel unasked once a slot.
    pub producer: [u8; 32],
    /// Root over the ids of the block's items, as of [`crate::merkle::root`].
    pub item_root: Digest,
    /// How many items it has.
    pub items: u32,
}
