//! Serves blocks to peers and the application (specification sections 9.2 and 16).

use super::{Body, Known, body, reconstruct};
use crate::channel::Context;
use crate::chunk;
use crate::id::BlockId;
use crate::io::{Block, BlockItem, Found};
use crate::link::Instance;
use crate::merkle;
use crate::pool::{self, Pool};
use crate::wire::{
    self, BlockIds, BlockMessage, BlockPart, BlockWant, MAX_HEADERS, MAX_IDS, NotHere,
};

/// Headers after the first block of the locator that is on the best chain; `None` if memory does
/// not have it.
pub(crate) fn headers_after(cx: &Context, locator: &[BlockId], most: u32) -> Option<Found> {
    let mut chain = Vec::new();
    let mut at = cx.tip.held().map(|held| held.block);
    while let Some(known) = at.and_then(|block| cx.blocks.known.get(&block)) {
        // From the best block down: the first match is the highest.
        if locator.contains(&known.facts.block) {
            let headers = chain.into_iter().rev().take(most.min(MAX_HEADERS as u32) as usize);
            return Some(Found::Headers(headers.collect()));
        }
        chain.push(known.header.clone());
        at = Some(known.facts.parent);
    }
    None
}

/// The items of a block, if in memory.
pub(crate) fn body_of(cx: &Context, block: &BlockId) -> Option<Found> {
    let known = cx.blocks.known.get(block).filter(|known| known.is_accepted())?;
    let (items, _) = served(known)?;
    body::encode(items, &cx.pools).map(Found::Block)
}

/// An executed block with its items, if in memory.
pub(crate) fn kept(cx: &Context, block: &BlockId) -> Option<Block> {
    let known = cx.blocks.known.get(block).filter(|known| known.is_accepted())?;
    let (items, _) = served(known)?;
    Some(Block { block: *block, header: known.header.clone(), items: items.to_vec() })
}

/// The block at a height of the best chain, if in memory.
pub(crate) fn at_height(cx: &Context, height: u64) -> Option<BlockId> {
    let mut at = cx.tip.held()?.block;
    while let Some(known) = cx.blocks.known.get(&at) {
        if known.facts.height <= height {
            return (known.facts.height == height).then_some(at);
        }
        at = known.facts.parent;
    }
    None
}

/// The items of a block, if it can be served. R9.2.6
pub(super) fn served(known: &Known) -> Option<(&[BlockItem], &[u32])> {
    match &known.body {
        Body::Whole { items, lacked, .. } if items.len() == known.facts.items as usize => {
            Some((items, lacked))
        }
        _ => None,
    }
}

/// Short ids, and items with proofs, that take as long as one received message.
const IDS_A_STEP: usize = 256;
const ITEMS_A_STEP: usize = 4;

/// Answers one request of the peer.
///
/// A request for a block that is still on its way here is put back until its time is up, so the
/// queue is walked once at most. A request for items stays at the front until the last has left.
/// One request may take many messages to answer: the peer is charged for each
/// ([`Context::caused`]), or requests would be a cheap way to cause work.
pub(super) fn poll_answer(cx: &mut Context, at: Instance) -> Option<BlockMessage> {
    let salt = cx.links.get(at.link)?.salt;
    let count = cx.blocks.links.get(&at.link)?.asked.len();
    for _ in 0..count {
        let side = cx.blocks.links.get_mut(&at.link)?;
        let mut asked = side.asked.pop_front()?;
        let block = asked.fetch.block;
        let known = cx.blocks.known.get(&block);
        let whole = known.and_then(|known| served(known).map(|body| (known, body)));
        let answer = match (&asked.fetch.want, whole) {
            // R9.1.3
            (BlockWant::Header, _) => {
                let checking = cx.blocks.checking.get(&block).map(|checking| &checking.header);
                let header = known.map(|known| &known.header).or(checking);
                header.map(|header| BlockMessage::Header(header.clone()))
            }
            (BlockWant::Compact, Some((known, (items, lacked)))) => {
                let (facts, header) = (&known.facts, &known.header);
                let compact = reconstruct::compact(facts, header, items, lacked, &cx.pools, salt);
                Some(BlockMessage::Compact(compact))
            }
            (BlockWant::Compact, None) => {
                let coming = known.is_some_and(|known| matches!(known.body, Body::Missing));
                let coming = coming || cx.blocks.checking.contains_key(&block);
                // R9.2.9
                if coming && asked.until.is_some() {
                    side.asked.push_back(asked);
                    continue;
                }
                None
            }
            (BlockWant::Ids(first), Some((_, (items, _)))) => {
                let first = *first;
                let part = items.get(first as usize..).unwrap_or_default();
                let part = &part[..part.len().min(MAX_IDS)];
                let ids = part.iter().map(|item| item.id).collect();
                let groups = reconstruct::groups(part, &cx.pools);
                let ids = BlockIds { block, first, groups, ids };
                (!part.is_empty()).then_some(BlockMessage::Ids(ids))
            }
            (BlockWant::Items(indices), Some(_)) => {
                let index = indices.get(asked.sent).copied();
                let last = asked.sent + 1 >= indices.len();
                let item = known.zip(index);
                let item = item.and_then(|(known, index)| block_item(known, index, &cx.pools));
                if let Some((item, rest)) = item {
                    let first = asked.sent.is_multiple_of(ITEMS_A_STEP);
                    asked.sent += 1;
                    side.sends(rest, last);
                    if !last {
                        side.asked.push_front(asked);
                    }
                    if first {
                        cx.caused(at.link, 1);
                    }
                    return Some(BlockMessage::Item(item));
                }
                None
            }
            (BlockWant::Ids(_) | BlockWant::Items(_), None) => None,
        };
        side.ledger.issuer.answered(0);
        let part = part(&asked.fetch.want);
        // A whole block's short ids are made for each request.
        let ids = match &answer {
            Some(BlockMessage::Compact(compact)) => compact.short_ids.len() / reconstruct::SHORT,
            _ => 0,
        };
        cx.caused(at.link, 1 + (ids / IDS_A_STEP) as u64);
        // R9.2.8
        return Some(answer.unwrap_or(BlockMessage::NotHere(NotHere { block, part })));
    }
    None
}

fn block_item(
    known: &Known,
    index: u32,
    pools: &[Pool],
) -> Option<(wire::BlockItem, Option<chunk::Sending>)> {
    let Body::Whole { items, tree, .. } = &known.body else { return None };
    let item = items.get(index as usize)?;
    let tree = tree.get_or_init(|| merkle::Tree::new(body::leaves(items, pools)));
    let proof = tree.prove(index as usize)?;
    let (block, id) = (known.facts.block, item.id);
    let pool = pool::name(pools, item.pool).to_owned();
    let (body, rest) = chunk::start(&item.body);
    Some((wire::BlockItem { block, index, pool, id, proof, body }, rest))
}

fn part(want: &BlockWant) -> BlockPart {
    match want {
        BlockWant::Header => BlockPart::Header,
        BlockWant::Compact => BlockPart::Compact,
        BlockWant::Ids(_) => BlockPart::Ids,
        BlockWant::Items(_) => BlockPart::Items,
    }
}
