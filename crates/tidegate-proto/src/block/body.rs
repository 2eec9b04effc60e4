//! What the items of a block must be like, whichever way they came (specification section 9.4).

use bytes::Bytes;

use crate::config::Config;
use crate::config::Limits;
use crate::id::PoolIndex;
use crate::io::{BlockItem, Invalid};
use crate::merkle::{self, Leaf};
use crate::pool::{self, Pool};
use crate::rules::{HeaderFacts, Rules};
use crate::wire::{BlockBody, BodyGroup, Encode as _, ItemBody, MAX_BLOCK_ITEMS, MAX_GROUPS};

/// What the header's root is over.
pub(super) fn leaves<'a>(
    items: &'a [BlockItem],
    pools: &'a [Pool],
) -> impl Iterator<Item = Leaf<'a>> {
    items.iter().map(|item| (pool::name(pools, item.pool), item.id))
}

/// Whether these are the items that a header is about.
pub(super) fn is_of(facts: &HeaderFacts, items: &[BlockItem], pools: &[Pool]) -> bool {
    items.len() == facts.items as usize
        && merkle::Tree::new(leaves(items, pools)).root() == facts.item_root
}

/// Whether items that a header is about may be in a block. The one place that says so, for blocks
/// that were put together, fetched as requests and published here: all nodes that share the channel
/// must agree on it, so it depends on nothing that the channel's digest does not cover. R9.4.1
pub(super) fn admissible(
    items: &[BlockItem],
    pools: &[Pool],
    limits: &Limits,
) -> Result<(), Invalid> {
    let mut bytes = 0;
    for item in items {
        let pool = pools.get(item.pool.0 as usize).ok_or(Invalid::NoSuchPool)?;
        if !pool.spec.in_blocks {
            return Err(Invalid::NotInBlocks);
        }
        if item.body.len() > pool.spec.max_item as usize {
            return Err(Invalid::TooLarge);
        }
        bytes += item.body.len();
    }
    if bytes > limits.block_size as usize {
        return Err(Invalid::BlockTooLarge);
    }
    match items.chunk_by(|a, b| a.pool == b.pool).count() {
        0..=MAX_GROUPS => Ok(()),
        _ => Err(Invalid::TooManyGroups),
    }
}

/// What the bytes of a body turn out to be.
pub(super) enum Parsed {
    /// The items that the header is about.
    Items(Vec<BlockItem>),
    /// Those too, but some are of a pool that this node does not have.
    Foreign,
    /// Others.
    Wrong,
}

/// The items of a body that came as the answer to a request.
pub(super) fn parse(
    body: &BlockBody,
    facts: &HeaderFacts,
    rules: &dyn Rules,
    pools: &[Pool],
) -> Parsed {
    let count = body.groups.iter().map(|group| group.items.len()).sum::<usize>();
    if count != facts.items as usize {
        return Parsed::Wrong;
    }
    let mut leaves = Vec::with_capacity(count);
    let mut items = Vec::with_capacity(count);
    for group in &body.groups {
        let pool = pool::named(pools, &group.pool);
        for ItemBody(body) in &group.items {
            let id = rules.item_id(&group.pool, body);
            leaves.push((&*group.pool, id));
            items.extend(pool.map(|pool| BlockItem { pool, id, body: body.clone(), known: false }));
        }
    }
    if merkle::root(&leaves) != facts.item_root {
        return Parsed::Wrong;
    }
    if items.len() == count { Parsed::Items(items) } else { Parsed::Foreign }
}

/// The form in which the items of a block travel and are kept. `None` if they are more than it can
/// carry, which those of a good block are not.
pub(crate) fn encode(items: &[BlockItem], pools: &[Pool]) -> Option<Bytes> {
    let runs = items.chunk_by(|a, b| a.pool == b.pool);
    let group = |run: &[BlockItem]| BodyGroup {
        pool: pool::name(pools, run[0].pool).to_owned(),
        items: run.iter().map(|item| ItemBody(item.body.clone())).collect(),
    };
    BlockBody { groups: runs.map(group).collect() }.to_bytes().ok()
}

/// Bytes of the largest block with what its encoding adds: names, and for each item its length.
pub(crate) fn largest(config: &Config) -> usize {
    config.limits.block_size as usize + MAX_BLOCK_ITEMS * 8 + 1024
}

impl BlockItem {
    /// The items of a body, each with its id; `None` if `pool` does not know the name of one's
    /// pool.
    pub fn all_of(
        body: BlockBody,
        rules: &dyn Rules,
        pool: impl Fn(&str) -> Option<PoolIndex>,
        known: bool,
    ) -> Option<Vec<Self>> {
        let mut items = Vec::new();
        for group in body.groups {
            let pool = pool(&group.pool)?;
            items.extend(group.items.into_iter().map(|body| Self {
                pool,
                id: rules.item_id(&group.pool, &body.0),
                body: body.0,
                known,
            }));
        }
        Some(items)
    }
}
