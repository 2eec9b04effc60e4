//! Decides which bodies are wanted, and how to get each: by compact block, as for new blocks, or
//! whole, to catch up (specification sections 9.3 and 16.2).
//!
//! Other modules only report what changed about a block ([`Change`]). A body is wanted if fork
//! choice ranks its header above the executed tip, and so are the bodies of its ancestors.

use std::time::Duration;

use super::keep::Unexecuted;
use super::{sync, wake_block};
use crate::channel::Context;
use crate::fetch::Announced;
use crate::id::{BlockId, ConnectionId};
use crate::rules::HeaderFacts;
use crate::time::Time;
use crate::wire::{BlockPart, MAX_FRAME, MAX_HEADER};

/// How often to retry a body that is wanted and missing: all peers may have failed to deliver it,
/// and none announces it twice.
const RETRY: Duration = Duration::from_secs(1);
/// Bodies fetched per producer and slot; a third is fetched as an ancestor only. R9.3.1
const RIVALS: usize = 2;

/// What changed about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Its header was accepted: the body may still be pushed.
    Accepted,
    /// A peer announced it or its header for the first time.
    Announced,
    /// A peer that had announced the header has executed the block.
    Executed(ConnectionId),
    /// Another peer can be asked now, or a better block turned out bad.
    Retry,
}

/// How to get a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is not wanted, or it is here.
    NotWanted,
    /// By compact block and the items that the pools lack; requested no earlier than the given
    /// time.
    InParts(Option<Time>),
    /// By compact block, from this peer too.
    From(ConnectionId),
    /// By an rpc request, since it is far ahead.
    Whole,
}

/// Something changed about a block with a good header: requests its body and those of its
/// ancestors, where wanted.
pub(super) fn reconsider(cx: &mut Context, block: BlockId, change: Change) {
    match way(cx, &block, change) {
        Way::NotWanted => {}
        Way::InParts(patience) => ask_in_parts(cx, block, patience),
        Way::From(connection) => offer(cx, block, BlockPart::Compact, connection, None),
        Way::Whole => cx.sync.changed(),
    }
}

/// Reconsiders the best header: its body may be available in another way now.
pub(super) fn reconsider_best(cx: &mut Context) {
    if let Some(best) = cx.tip.best().map(|best| best.block) {
        reconsider(cx, best, Change::Retry);
    }
}

/// Retries wanted bodies that no peer delivered, when due.
pub(super) fn retry(cx: &mut Context) {
    if cx.blocks.retry_at.take_if(|at| *at <= cx.now).is_some() {
        reconsider_best(cx);
    }
}

/// A body was dropped.
pub(super) fn dropped(cx: &mut Context) {
    cx.blocks.retry_at.get_or_insert(cx.now + RETRY);
}

fn way(cx: &Context, block: &BlockId, change: Change) -> Way {
    let Some(known) = cx.blocks.known.get(block) else { return Way::NotWanted };
    let (facts, missing) = (&known.facts, known.body.is_missing());
    if !is_better(cx, facts) {
        return Way::NotWanted;
    }
    match change {
        Change::Announced | Change::Executed(_) if !missing => return Way::NotWanted,
        Change::Executed(connection) => return Way::From(connection),
        // A second body for a producer and slot is worth fetching only if fork choice prefers it.
        Change::Accepted
            if rivals(cx, facts).any(|rival| cx.rules.compare(facts, rival).is_lt()) =>
        {
            return Way::NotWanted;
        }
        _ => {}
    }
    if sync::is_far(cx, facts.height) {
        return Way::Whole;
    }
    if missing && rivals(cx, facts).count() >= RIVALS {
        return Way::NotWanted;
    }
    let patience = cx.now + cx.config.limits.block_patience;
    Way::InParts((change == Change::Accepted).then_some(patience))
}

/// Requests the missing bodies of a block and its ancestors as compact blocks.
fn ask_in_parts(cx: &mut Context, block: BlockId, patience: Option<Time>) {
    let Some(tip) = cx.blocks.known.get(&block) else { return };
    let height = tip.facts.height;
    // A peer with a tip as high probably has it; if not, it answers so.
    let holders = cx.links.iter().filter(|(_, link)| link.height() >= height);
    let mut candidates = tip.announced_by.clone();
    candidates.extend(holders.map(|(id, _)| id));
    let unexecuted = Unexecuted::of(cx);
    let mut path = Vec::new();
    let mut at = block;
    while let Some(known) = cx.blocks.known.get(&at).filter(|known| !known.is_accepted()) {
        let elsewhere = sync::is_asked(cx, &known.facts);
        if known.body.is_missing() && !elsewhere && unexecuted.may_start(cx, &known.facts) {
            path.push(at);
        }
        at = known.facts.parent;
    }
    for missing in path.into_iter().rev() {
        // Only the newest may still be pushed.
        let patience = patience.filter(|_| missing == block);
        for connection in &candidates {
            offer(cx, missing, BlockPart::Compact, *connection, patience);
        }
    }
    cx.blocks.retry_at = Some(cx.now + RETRY);
}

/// Adds `connection` to the candidates for a block's header.
pub(super) fn offer_header(cx: &mut Context, block: BlockId, connection: ConnectionId) {
    offer(cx, block, BlockPart::Header, connection, None);
}

/// Adds `connection` to the candidates for a part of a block.
fn offer(
    cx: &mut Context,
    block: BlockId,
    part: BlockPart,
    connection: ConnectionId,
    patience: Option<Time>,
) {
    let building = part == BlockPart::Compact && cx.blocks.building.contains_key(&block);
    if building || cx.blocks.fetcher.is_candidate((block, part), connection) {
        return;
    }
    let Some(at) = cx.blocks.links.get(&connection).map(|side| side.at) else { return };
    // An upper bound of the answer's size. Headers go first: they decide what is wanted.
    let (priority, bound) = match part {
        BlockPart::Header => (1, MAX_HEADER),
        _ => (0, MAX_FRAME),
    };
    let (key, size, dialed) = ((block, part), bound as u32, cx.links.was_dialed(connection));
    let announced = Announced { key, link: connection, tag: 0, priority, size, dialed };
    let others = cx.blocks.fetcher.announced(announced, patience, cx.now);
    others.into_iter().for_each(|other| wake_block(cx, other));
    cx.links.wake(connection, at.slot);
}

/// Other blocks of the same producer and slot whose bodies are here or in flight.
pub(super) fn rivals<'a>(
    cx: &'a Context,
    facts: &HeaderFacts,
) -> impl Iterator<Item = &'a HeaderFacts> {
    let facts = *facts;
    let others = cx.blocks.known.values().filter(move |known| {
        let same = (known.facts.producer, known.facts.slot) == (facts.producer, facts.slot);
        same && known.facts.block != facts.block
    });
    let building = |block| cx.blocks.building.contains_key(block);
    let fetched = others.filter(move |o| !o.body.is_missing() || building(&o.facts.block));
    fetched.map(|known| &known.facts)
}

/// Whether fork choice ranks a header above the executed tip.
pub(super) fn is_better(cx: &Context, facts: &HeaderFacts) -> bool {
    cx.tip.held().is_some_and(|held| cx.rules.compare(facts, held).is_gt())
}
