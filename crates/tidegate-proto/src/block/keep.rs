//! Which blocks are kept, and which make room (specification section 9.3).

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::reconstruct::Reconstruction;
use super::{Blocks, Body, Judged, Known, abandon, wanted};
use crate::channel::Context;
use crate::config::{BLOCK_ITEM, HEADER};
use crate::id::BlockId;
use crate::io::BlockItem;
use crate::rules::{HeaderFacts, Rules};
use crate::wire::BlockPart;

impl Blocks {
    pub(super) fn insert(&mut self, known: Known) {
        self.header_bytes += header_cost(&known.header);
        self.known.insert(known.facts.block, known);
    }
}

fn header_cost(header: &Bytes) -> usize {
    header.len() + HEADER as usize
}

/// Memory charged for the items of a block.
pub(super) fn cost(items: &[BlockItem]) -> usize {
    items.iter().map(|item| item.body.len() + BLOCK_ITEM as usize).sum()
}

/// Makes room for one more header. `false` if the new one is the least useful.
pub(super) fn room_for_header(cx: &mut Context, facts: &HeaderFacts, header: &Bytes) -> bool {
    let most = cx.config.limits.header_bytes as usize;
    while cx.blocks.header_bytes + header_cost(header) > most {
        let missed = least_missed(cx, facts).filter(|block| *block != facts.block);
        match missed.or_else(|| oldest_executed(cx, facts)) {
            Some(block) => forget(cx, block),
            None => return false,
        }
    }
    true
}

/// The least useful of the known headers and a new one: it has no children, its producer made the
/// most for its slot, and of those fork choice ranks it lowest. So a producer of many headers for
/// one slot displaces only its own.
fn least_missed(cx: &Context, new: &HeaderFacts) -> Option<BlockId> {
    let known = || cx.blocks.known.values().map(|known| &known.facts).chain([new]);
    let orphans = cx.blocks.orphans.iter().map(|orphan| &orphan.facts);
    let parents = known().chain(orphans).map(|facts| facts.parent).collect::<BTreeSet<_>>();
    let mut of_slot = BTreeMap::<_, usize>::new();
    for facts in known() {
        *of_slot.entry((facts.producer, facts.slot)).or_default() += 1;
    }
    let tips = [cx.tip.held(), cx.tip.best()];
    let is_tip = |block: &BlockId| tips.iter().flatten().any(|tip| tip.block == *block);
    let leaves = known().filter(|facts| !parents.contains(&facts.block) && !is_tip(&facts.block));
    let count = |facts: &HeaderFacts| Reverse(of_slot[&(facts.producer, facts.slot)]);
    let least = leaves.min_by(|a, b| count(a).cmp(&count(b)).then(cx.rules.compare(a, b)));
    least.map(|facts| facts.block)
}

/// Blocks this close below the tip are kept while it is the tip: a better chain may fork there.
const STAY: u64 = 2;

/// The oldest block below the tip, to make room for a header that is better than the tip and the
/// only one of its producer and slot. Not one with descendants that were not executed.
fn oldest_executed(cx: &Context, new: &HeaderFacts) -> Option<BlockId> {
    let held = cx.tip.held().filter(|held| cx.rules.compare(new, held).is_gt())?;
    let same = |known: &Known| (known.facts.producer, known.facts.slot) == (new.producer, new.slot);
    if cx.blocks.known.values().any(same) {
        return None;
    }
    let waiting = cx.blocks.known.values().filter(|known| !known.is_accepted());
    let needed = waiting.map(|known| known.facts.parent).chain([new.parent]);
    let needed = needed.collect::<BTreeSet<_>>();
    let executed = cx.blocks.known.values().filter(|known| known.is_accepted());
    let below = executed
        .map(|known| &known.facts)
        .filter(|facts| facts.height < held.height.saturating_sub(STAY));
    let free = below.filter(|facts| !needed.contains(&facts.block));
    free.min_by_key(|facts| (facts.height, facts.block)).map(|facts| facts.block)
}

fn forget(cx: &mut Context, block: BlockId) {
    drop_body(cx, block);
    abandon(cx, block);
    cx.blocks.fetcher.resolved((block, BlockPart::Compact));
    if let Some(known) = cx.blocks.known.remove(&block) {
        cx.blocks.header_bytes -= header_cost(&known.header);
    }
}

/// Forgets blocks that are too far below the tip.
pub(super) fn prune_below(cx: &mut Context, height: u64) {
    let lowest = height.saturating_sub(u64::from(cx.config.limits.blocks_kept));
    let old = cx.blocks.known.values().filter(|known| known.facts.height < lowest);
    for block in old.map(|known| known.facts.block).collect::<Vec<_>>() {
        forget(cx, block);
    }
}

/// Drops the items of a block, as if they had never arrived.
pub(super) fn drop_body(cx: &mut Context, block: BlockId) {
    let Some(known) = cx.blocks.known.get_mut(&block) else { return };
    if let Body::Whole { items, .. } = std::mem::replace(&mut known.body, Body::Missing) {
        cx.blocks.bytes -= cost(&items);
    }
}

/// Memory charged for items of blocks that were not executed yet. It may be half of the total, or
/// else executed blocks could not be served. The next block to execute never waits for later ones.
#[derive(Clone, Copy)]
pub(super) struct Unexecuted {
    asked: usize,
    waiting: usize,
    room: usize,
}

impl Unexecuted {
    pub(super) fn of(cx: &Context) -> Self {
        let room = cx.config.limits.block_bytes as usize / 2;
        let mut sum = Self { asked: 0, waiting: 0, room };
        for known in cx.blocks.known.values() {
            match &known.body {
                Body::Whole { items, judged: Judged::Asked, .. } => sum.asked += cost(items),
                Body::Whole { items, judged: Judged::Waiting, .. } => sum.waiting += cost(items),
                _ => {}
            }
        }
        sum
    }

    /// Whether a block may be fetched.
    pub(super) fn may_start(self, cx: &Context, facts: &HeaderFacts) -> bool {
        self.asked + if is_next(cx, facts) { 0 } else { self.waiting } < self.room
    }

    /// Whether `more` bytes fit.
    pub(super) fn fits(self, more: usize) -> bool {
        self.asked + self.waiting + more <= self.room
    }
}

/// Whether a block can be executed next.
pub(super) fn is_next(cx: &Context, facts: &HeaderFacts) -> bool {
    cx.blocks.known.get(&facts.parent).is_some_and(Known::is_accepted)
}

/// Makes room for one more reconstruction; `false` if there is none.
pub(super) fn room_to_build(cx: &mut Context, facts: &HeaderFacts) -> bool {
    let (known, building) = (&cx.blocks.known, &cx.blocks.building);
    let most = cx.config.limits.reconstructions;
    match weakest(known, building, &*cx.rules, most, facts) {
        Ok(None) => true,
        Ok(Some(block)) => {
            abandon(cx, block);
            true
        }
        Err(Full) => false,
    }
}

/// There is no room, and nothing weaker to evict.
pub(super) struct Full;

/// The reconstruction to evict for a new block, if there are too many: one that cannot be executed
/// next if the new block can, or one that fork choice ranks lower. So peers cannot occupy all
/// places with blocks whose items they withhold.
pub(super) fn weakest(
    known: &BTreeMap<BlockId, Known>,
    building: &BTreeMap<BlockId, Reconstruction>,
    rules: &dyn Rules,
    most: u32,
    new: &HeaderFacts,
) -> Result<Option<BlockId>, Full> {
    if building.len() < most as usize {
        return Ok(None);
    }
    let next = |facts: &HeaderFacts| known.get(&facts.parent).is_some_and(Known::is_accepted);
    let compare =
        |a: &HeaderFacts, b: &HeaderFacts| next(a).cmp(&next(b)).then_with(|| rules.compare(a, b));
    let weakest = building.values().map(|building| &building.facts).min_by(|a, b| compare(a, b));
    match weakest.filter(|weakest| compare(weakest, new).is_lt()) {
        Some(weakest) => Ok(Some(weakest.block)),
        None => Err(Full),
    }
}

/// Evicts bodies: the oldest executed ones, then the newest that cannot be executed yet.
pub(super) fn prune_bodies(cx: &mut Context) {
    while cx.blocks.bytes > cx.config.limits.block_bytes as usize {
        let tip = cx.tip.held().map(|held| held.block);
        let place = |known: &Known| (known.facts.height, known.facts.block);
        let whole = |judged| {
            cx.blocks.known.values().filter(move |known| match &known.body {
                Body::Whole { items, judged: is, .. } => !items.is_empty() && *is == judged,
                _ => false,
            })
        };
        let executed = whole(Judged::Accepted).filter(|known| Some(known.facts.block) != tip);
        if let Some((_, block)) = executed.map(place).min() {
            empty(cx, block);
        } else if let Some((_, block)) = whole(Judged::Waiting).map(place).max() {
            drop_body(cx, block);
            wanted::dropped(cx);
        } else {
            return;
        }
    }
}

/// Drops the items of an executed block: it stays accepted, and cannot be served any more.
fn empty(cx: &mut Context, block: BlockId) {
    let Some(known) = cx.blocks.known.get_mut(&block) else { return };
    if let Body::Whole { items, lacked, tree, .. } = &mut known.body {
        cx.blocks.bytes -= cost(&std::mem::take(items));
        (*lacked, *tree) = (Vec::new(), OnceCell::new());
    }
}
