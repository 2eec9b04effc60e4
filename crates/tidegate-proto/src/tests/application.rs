//! A minimal application whose items and headers a test can write by hand.

use std::cmp::{Ordering, Reverse};

use bytes::Bytes;

use crate::id::{AccountId, BlockId, Digest, ItemId, ItemKey, NetworkId, PeerId, PoolIndex};
use crate::io::{Block, BlockItem};
use crate::merkle::{self, Leaf};
use crate::rules::{ChainLink, HeaderFacts, ItemFacts, Rules};
use crate::wire::{self, BlockIds, Body, Group};
use crate::{Config, PoolSpec};

/// Two pools: small items that are pushed, and large ones that are fetched.
pub(super) const SMALL: PoolIndex = PoolIndex(1);
pub(super) const LARGE: PoolIndex = PoolIndex(0);
/// A pool that the node does not have.
pub(super) const FOREIGN: PoolIndex = PoolIndex(2);

pub(super) fn config(n: u8) -> Config {
    let mut config = Config::new(PeerId([n; 32]), NetworkId([7; 32]));
    config.genesis = Some(genesis());
    // Tests decide which nodes are connected.
    config.outbound = 0;
    let mut large = PoolSpec::new("large");
    large.max_item = 200_000;
    config.pools = vec![large, PoolSpec::new("small")];
    config
}

#[derive(Clone, Debug)]
pub(super) struct TestRules;

impl Rules for TestRules {
    fn id(&self) -> &str {
        "test 1"
    }

    fn item_id(&self, pool: &str, body: &[u8]) -> ItemId {
        ItemId(*blake3::Hasher::new_derive_key(pool).update(body).finalize().as_bytes())
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let (priority, rest) = body.split_first_chunk::<8>()?;
        let (&[key, account, nonce, cost], _) = rest.split_first_chunk::<4>()?;
        let id = self.item_id(pool, body);
        Some(ItemFacts {
            key: if key == 0 { ItemKey(id.0) } else { ItemKey([key; 32]) },
            priority: u64::from_be_bytes(*priority),
            chain: (account > 0).then_some(ChainLink {
                account: AccountId([account; 32]),
                nonce: u64::from(nonce),
                cost: u64::from(cost),
            }),
        })
    }

    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        let header: &[u8; 84] = header.try_into().ok()?;
        let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap());
        let hash = |at: usize| <[u8; 32]>::try_from(&header[at..at + 32]).unwrap();
        Some(HeaderFacts {
            block: BlockId(*blake3::hash(header).as_bytes()),
            parent: BlockId(hash(0)),
            height: number(32),
            slot: number(40),
            producer: [header[48]; 32],
            item_root: Digest(hash(52)),
            items: u32::from_be_bytes(header[49..53].try_into().unwrap()) >> 8,
        })
    }

    fn compare(&self, a: &HeaderFacts, b: &HeaderFacts) -> Ordering {
        let key = |f: &HeaderFacts| (f.height, Reverse(f.slot), Reverse(f.block));
        key(a).cmp(&key(b))
    }
}

/// A unique item of `size` bytes.
pub(super) fn item(n: u8, size: usize) -> Bytes {
    prioritised(n, size, 100)
}

pub(super) fn prioritised(n: u8, size: usize, priority: u64) -> Bytes {
    let mut body = priority.to_be_bytes().to_vec();
    body.extend([0, 0, 0, 0]);
    body.resize(size.max(13), n);
    body.into()
}

pub(super) fn id(pool: PoolIndex, body: &[u8]) -> ItemId {
    TestRules.item_id(&config(0).pools[pool.0 as usize].name, body)
}

fn header(
    parent: BlockId,
    height: u64,
    slot: u64,
    producer: u8,
    root: Digest,
    items: u32,
) -> Bytes {
    let mut header = parent.0.to_vec();
    header.extend(height.to_be_bytes());
    header.extend(slot.to_be_bytes());
    header.push(producer);
    header.extend(&items.to_be_bytes()[1..]);
    header.extend(root.0);
    header.into()
}

pub(super) fn genesis() -> Bytes {
    header(BlockId([0; 32]), 0, 0, 0, merkle::root(&[]), 0)
}

pub(super) fn facts(header: &[u8]) -> HeaderFacts {
    TestRules.header(header).unwrap()
}

/// The same rules, except that an item's id is a hash of its bytes alone, as by default.
#[derive(Clone, Debug)]
pub(super) struct SharedIds;

impl Rules for SharedIds {
    fn id(&self) -> &str {
        "test 1, shared ids"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        TestRules.item(pool, body)
    }

    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        TestRules.header(header)
    }

    fn compare(&self, a: &HeaderFacts, b: &HeaderFacts) -> Ordering {
        TestRules.compare(a, b)
    }
}

/// A block with these items and this parent.
pub(super) fn block(parent: &[u8], slot: u64, producer: u8, items: &[(PoolIndex, Bytes)]) -> Block {
    block_by(&TestRules, parent, slot, producer, items)
}

/// The same, by other rules.
pub(super) fn block_by(
    rules: &dyn Rules,
    parent: &[u8],
    slot: u64,
    producer: u8,
    items: &[(PoolIndex, Bytes)],
) -> Block {
    let parent = facts(parent);
    let item = |(pool, body): &(PoolIndex, Bytes)| BlockItem {
        pool: *pool,
        id: rules.item_id(pool_name(*pool), body),
        body: body.clone(),
        known: true,
    };
    let items = items.iter().map(item).collect::<Vec<_>>();
    let root = merkle::root(&items.iter().map(leaf).collect::<Vec<_>>());
    let header = header(parent.block, parent.height + 1, slot, producer, root, items.len() as u32);
    Block { block: facts(&header).block, header, items }
}

fn pool_name(pool: PoolIndex) -> &'static str {
    ["large", "small", "foreign"][pool.0 as usize]
}

fn leaf(item: &BlockItem) -> Leaf<'static> {
    (pool_name(item.pool), item.id)
}

/// The full ids of a range of a block's items, and their pools.
pub(super) fn ids_of(block: &Block, range: std::ops::Range<usize>) -> BlockIds {
    let items = &block.items[range.clone()];
    let group = |run: &[BlockItem]| Group {
        pool: pool_name(run[0].pool).to_owned(),
        count: run.len() as u32,
    };
    BlockIds {
        block: block.block,
        first: range.start as u32,
        groups: items.chunk_by(|a, b| a.pool == b.pool).map(group).collect(),
        ids: items.iter().map(|item| item.id).collect(),
    }
}

/// One item of a block with its proof.
pub(super) fn item_of(block: &Block, index: usize) -> wire::BlockItem {
    let leaves = block.items.iter().map(leaf).collect::<Vec<_>>();
    let (pool, id) = leaves[index];
    wire::BlockItem {
        block: block.block,
        index: index as u32,
        pool: pool.to_owned(),
        id,
        proof: merkle::prove(&leaves, index).unwrap(),
        body: Body::Whole(block.items[index].body.clone()),
    }
}
