//! The ledger's rules for the core: pure facts.

use std::cmp::{Ordering, Reverse};

use tidegate_proto::PoolSpec;
use tidegate_proto::id::{ItemId, ItemKey, PoolIndex};
use tidegate_proto::rules::{ChainLink, HeaderFacts, ItemFacts, Rules};

use crate::block::Header;
use crate::transfer::Transfer;
use crate::work::{MAX_WEIGHT, Work};

/// The pool of transfers.
pub const TRANSFERS: PoolIndex = PoolIndex(0);
/// The pool of work proofs.
pub const WORKS: PoolIndex = PoolIndex(1);

const TRANSFERS_NAME: &str = "transfers";
const WORKS_NAME: &str = "works";

/// The name of one of the ledger's pools.
pub(crate) fn pool_name(pool: PoolIndex) -> &'static str {
    if pool == TRANSFERS { TRANSFERS_NAME } else { WORKS_NAME }
}

/// The ledger's two pools. Transfers are pushed; proofs are announced first.
pub fn pools() -> Vec<PoolSpec> {
    let mut transfers = PoolSpec::new(TRANSFERS_NAME);
    transfers.max_item = 512;
    // 152 bytes each: about a minute at 200 a second when no block takes any.
    transfers.capacity = 16_384;
    transfers.capacity_bytes = 4 << 20;
    let mut works = PoolSpec::new(WORKS_NAME);
    works.max_item = 80 + MAX_WEIGHT;
    // As many as there can be open jobs, and their successors.
    works.capacity = 512;
    works.capacity_bytes = 12 << 20;
    vec![transfers, works]
}

/// The ledger's rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerRules;

impl Rules for LedgerRules {
    fn id(&self) -> &str {
        "tidegate-ledger 1"
    }

    fn item_id(&self, pool: &str, body: &[u8]) -> ItemId {
        match pool {
            TRANSFERS_NAME => Transfer::id(body),
            _ => Work::id(body),
        }
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        match pool {
            TRANSFERS_NAME => {
                let transfer = Transfer::from_bytes(body)?;
                let chain = ChainLink {
                    account: transfer.from,
                    nonce: transfer.nonce,
                    cost: transfer.cost()?,
                };
                let key = ItemKey(Transfer::id(body).0);
                Some(ItemFacts { key, priority: transfer.fee, chain: Some(chain) })
            }
            WORKS_NAME => {
                let (work, _) = Work::head(body)?;
                // The cheapest proof of each job.
                Some(ItemFacts {
                    key: ItemKey(work.job.0),
                    priority: u64::MAX - work.fee,
                    chain: None,
                })
            }
            _ => None,
        }
    }

    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        Header::from_bytes(header).map(|header| header.facts())
    }

    /// The higher block is better; then that of the earlier slot; then that of the smaller hash.
    fn compare(&self, a: &HeaderFacts, b: &HeaderFacts) -> Ordering {
        let key = |facts: &HeaderFacts| (facts.height, Reverse(facts.slot), Reverse(facts.block));
        key(a).cmp(&key(b))
    }
}
