//! What the items of a block must satisfy, however they arrived (specification section 9.4).

use bytes::Bytes;

use crate::config::Config;
use crate::config::Limits;
use crate::id::PoolIndex;
use crate::io::{BlockItem, Invalid};
use crate::merkle::{self, Leaf};
use crate::pool::{self, Pool};
use crate::rules::{HeaderFacts, Rules};
use crate::wire::{BlockBody, BodyGroup, Encode as _, ItemBody, MAX_BLOCK_ITEMS, MAX_GROUPS};

/// The leaves of the header's item root.
pub(super) fn leaves<'a>(
    items: &'a [BlockItem],
    pools: &'a [Pool],
) -> impl Iterator<Item = Leaf<'a>> {
    items.iter().map(|item| (pool::name(pools, item.pool), item.id))
}

/// Whether items match a header.
pub(super) fn is_of(facts: &HeaderFacts, items: &[BlockItem], pools: &[Pool]) -> bool {
    items.len() == facts.items as usize
        && merkle::Tree::new(leaves(items, pools)).root() == facts.item_root
}

/// Whether items that match a header may be in a block. The only check, for reconstructed,
/// requested and published blocks alike: all nodes that share the channel must agree, so it depends
/// only on what the channel's digest covers. R9.4.1
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

/// The result of parsing a body.
pub(super) enum Parsed {
    /// Items that match the header.
    Items(Vec<BlockItem>),
    /// They match, but some are of a pool that this node does not have.
    Foreign,
    /// They do not match.
    Wrong,
}

/// Parses the body of an rpc answer.
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

/// Encodes the items of a block, as sent and stored. `None` if they exceed the format, which those
/// of a good block do not.
pub(crate) fn encode(items: &[BlockItem], pools: &[Pool]) -> Option<Bytes> {
    let runs = items.chunk_by(|a, b| a.pool == b.pool);
    let group = |run: &[BlockItem]| BodyGroup {
        pool: pool::name(pools, run[0].pool).to_owned(),
        items: run.iter().map(|item| ItemBody(item.body.clone())).collect(),
    };
    BlockBody { groups: runs.map(group).collect() }.to_bytes().ok()
}

/// Bytes of the largest block as encoded: with pool names, and a length for each item.
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
