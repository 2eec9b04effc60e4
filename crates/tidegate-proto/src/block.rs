//! Blocks: which headers are good, which bodies are here, and what the application says of them
//! (specification section 9).
//!
//! A block passes through: [`header_announced`] → ticket → [`header_verdict`] → compact block →
//! [`Reconstruction`] → relay and ticket → [`block_verdict`]. The header is relayed at its verdict
//! and the compact block when its items are known; both before it is executed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::channel::{Context, steps};
use crate::config::Limits;
use crate::fetch::Fetcher;
use crate::id::{BlockId, ConnectionId, Salt};
use crate::io::{Block, BlockItem, Event, Subject, Verdict};
use crate::merkle;
use crate::pool::Pool;
use crate::rules::HeaderFacts;
use crate::stats::Count;
use crate::store;
use crate::tickets::Question;
use crate::time::Time;
use crate::tip;
use crate::violation::Violation;
use crate::wire::{BlockPart, Compact, Report};

pub(crate) mod body;
mod channel;
mod headers;
mod keep;
mod link;
mod orphans;
mod publish;
mod reconstruct;
mod serve;
pub(crate) mod sync;
mod wanted;

pub(crate) use channel::Channel;
use headers::Checking;
pub(crate) use headers::{
    header_announced, header_overdue, header_subject, header_verdict, peer_holds,
};
use keep::Unexecuted;
use link::BlockLink;
use orphans::Orphans;
pub(crate) use publish::publish;
use reconstruct::{Claim, LookedUp, Progress, Pushed, Reconstruction};
pub(crate) use serve::{at_height, body_of, headers_after, kept};
use wanted::rivals;

/// All blocks that this node knows.
#[derive(Debug)]
pub(crate) struct Blocks {
    salt: Salt,
    /// Blocks whose header was accepted.
    known: BTreeMap<BlockId, Known>,
    /// Headers waiting for their verdict.
    checking: BTreeMap<BlockId, Checking>,
    /// Headers with unknown parents.
    orphans: Orphans,
    /// Fetches headers and compact blocks.
    fetcher: Fetcher<(BlockId, BlockPart)>,
    building: BTreeMap<BlockId, Reconstruction>,
    links: BTreeMap<ConnectionId, BlockLink>,
    /// Memory charged for headers of known blocks.
    header_bytes: usize,
    /// Memory charged for items of whole blocks.
    bytes: usize,
    /// When to retry wanted bodies ([`wanted::retry`]).
    retry_at: Option<Time>,
    /// When the tips of all peers were last reconsidered, and when that is due again.
    reconsidered: Option<Time>,
    reconsider_at: Option<Time>,
}

/// A block whose header is good.
#[derive(Debug)]
struct Known {
    facts: HeaderFacts,
    header: Bytes,
    body: Body,
    /// Connections whose peers announced the block or its header.
    announced_by: BTreeSet<ConnectionId>,
}

#[derive(Debug)]
enum Body {
    Missing,
    Whole {
        items: Vec<BlockItem>,
        /// Indices of items that this node's pools lacked: other nodes may lack them too.
        lacked: Vec<u32>,
        judged: Judged,
        /// For item proofs; built at the first request.
        tree: OnceCell<merkle::Tree>,
    },
    /// The application rejected it or an ancestor.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    /// Its parent has no verdict yet.
    Waiting,
    Asked,
    Accepted,
}

impl Body {
    fn whole(items: Vec<BlockItem>, lacked: Vec<u32>, judged: Judged) -> Self {
        Self::Whole { items, lacked, judged, tree: OnceCell::new() }
    }

    fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

impl Known {
    fn is_accepted(&self) -> bool {
        matches!(self.body, Body::Whole { judged: Judged::Accepted, .. })
    }

    fn is_whole(&self) -> bool {
        matches!(self.body, Body::Whole { .. })
    }
}

impl Blocks {
    /// Starts with executed blocks: the first block, and those in the store.
    pub(crate) fn new(
        chain: impl Iterator<Item = (HeaderFacts, Bytes)>,
        salt: Salt,
        limits: &Limits,
    ) -> Self {
        let mut blocks = Self {
            salt,
            known: BTreeMap::new(),
            checking: BTreeMap::new(),
            orphans: Orphans::default(),
            fetcher: Fetcher::bounded(limits.block_wants as usize),
            building: BTreeMap::new(),
            links: BTreeMap::new(),
            header_bytes: 0,
            bytes: 0,
            retry_at: None,
            reconsidered: None,
            reconsider_at: None,
        };
        for (facts, header) in chain {
            let body = Body::whole(Vec::new(), Vec::new(), Judged::Accepted);
            blocks.insert(Known { facts, header, body, announced_by: BTreeSet::new() });
        }
        blocks
    }

    /// When [`expire`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let links = self.links.values().filter_map(BlockLink::deadline).min();
        let building = self.building.values().filter_map(Reconstruction::ask_by).min();
        let own = [self.fetcher.deadline(), links, building, self.retry_at, self.reconsider_at];
        own.into_iter().flatten().min()
    }

    /// How many blocks are kept, and the memory charged for their items.
    pub(crate) fn kept(&self) -> (usize, usize) {
        (self.known.len(), self.bytes)
    }
}

/// An item's short id in a block, for tests that play a peer.
#[cfg(test)]
pub(crate) fn short_id(salt: &Salt, block: &BlockId, id: &crate::id::ItemId) -> Bytes {
    let short = reconstruct::Shortener::new(salt, block).shorten(id);
    Bytes::copy_from_slice(&short.to_be_bytes()[2..])
}

/// Whether the peer of a connection announced a block or its header.
pub(crate) fn announced_by(blocks: &Blocks, block: &BlockId, connection: ConnectionId) -> bool {
    blocks.known.get(block).is_some_and(|known| known.announced_by.contains(&connection))
}

/// Whether a connection has a block channel. Without one its peer has other block rules, and what
/// it says of blocks is ignored. R16.10
pub(crate) fn has_channel(cx: &Context, connection: ConnectionId) -> bool {
    cx.blocks.links.contains_key(&connection)
}

/// A connection is gone that may have announced headers. With a block channel, that channel's own
/// teardown handles them.
pub(crate) fn announcer_down(cx: &mut Context, connection: ConnectionId) {
    if !has_channel(cx, connection) {
        headers::link_down(cx, connection);
    }
}

/// The subject of a block's ticket.
pub(crate) fn block_subject(cx: &Context, block: BlockId) -> Option<Subject> {
    let known = cx.blocks.known.get(&block)?;
    let Body::Whole { items, judged: Judged::Asked, .. } = &known.body else { return None };
    let (header, items) = (known.header.clone(), items.clone());
    Some(Subject::Block(Block { block, header, items }))
}

/// A compact block arrived, requested or not; its header has been processed.
///
/// If the block is already being reconstructed, the peer becomes a further source for it, and its
/// compact block is tried as an alternative ([`another_compact`]): the first one may be false.
/// Every path ends the push, or hands its permit to the reconstruction, which returns it at the
/// end.
fn compact_arrived(
    cx: &mut Context,
    connection: ConnectionId,
    facts: HeaderFacts,
    compact: &Compact,
    pushed: Option<u32>,
) -> Result<(), Violation> {
    let block = facts.block;
    let report = match cx.blocks.known.get(&block) {
        _ if pushed.is_some() && rivals(cx, &facts).next().is_some() => Some(Report::Ignored),
        Some(known) if known.is_whole() => Some(Report::Duplicate),
        Some(Known { body: Body::Missing, .. }) => {
            if let Some(building) = cx.blocks.building.get_mut(&block) {
                if building.looked_up.iter().any(|looked_up| looked_up.link == connection) {
                    Some(Report::Duplicate)
                } else {
                    let source = building.sources.contains(&connection);
                    if !source && can_be_asked(&cx.blocks.links, connection, &block) {
                        building.sources.push(connection);
                        wake_block(cx, connection);
                    }
                    return another_compact(cx, connection, facts, compact, pushed);
                }
            } else if Unexecuted::of(cx).may_start(cx, &facts) && keep::room_to_build(cx, &facts) {
                None
            } else {
                Some(Report::Ignored)
            }
        }
        _ => Some(Report::Ignored),
    };
    if let Some(report) = report {
        give_back_pushed(cx, connection, pushed, report);
        return Ok(());
    }
    let Some(mut started) = look_up(cx, connection, facts, compact, pushed)? else {
        give_back_pushed(cx, connection, pushed, Report::Ignored);
        return Ok(());
    };
    cx.blocks.fetcher.resolved((block, BlockPart::Compact));
    started.origin = Some(connection);
    started.sources.push(connection);
    let others = cx.blocks.known.get(&block).map(|known| known.announced_by.iter());
    let others = others.into_iter().flatten().filter(|other| **other != connection);
    let others = others.filter(|other| can_be_asked(&cx.blocks.links, **other, &block));
    started.reserve = others.copied().collect();
    // The sender may be gone by now.
    if !can_be_asked(&cx.blocks.links, connection, &block) {
        started.forget_source(connection);
    }
    cx.stats.count(Count::CompactBlocks);
    cx.blocks.building.insert(block, started);
    advance(cx, block);
    Ok(())
}

/// Looks up the items of a compact block in the pools.
fn look_up(
    cx: &mut Context,
    connection: ConnectionId,
    facts: HeaderFacts,
    compact: &Compact,
    pushed: Option<u32>,
) -> Result<Option<Reconstruction>, Violation> {
    let own = cx.blocks.salt;
    // Each id in the pools is hashed and compared with those of the block.
    let looked_at = cx.pools.iter().map(Pool::len).sum::<usize>() + facts.items as usize;
    let work = looked_at as u64 / 16;
    cx.stats.worked(work);
    let mut begun = Reconstruction::new(facts, compact, &own, &cx.pools, &*cx.rules)?;
    if let Some(begun) = &mut begun {
        begun.pushed = pushed.map(|number| Pushed { link: connection, number });
        // Charged later: whether the sender told the truth shows only at the end.
        let work = if pushed.is_some() { work } else { 0 };
        cx.charged_later += work;
        begun.looked_up.push(LookedUp { link: connection, claim: Claim::of(compact), work });
    }
    Ok(begun)
}

/// A compact block for a block that is already being reconstructed. The first one may have been
/// false: if this one is complete at once, it takes over. Otherwise nothing shows yet which of them
/// is right.
fn another_compact(
    cx: &mut Context,
    connection: ConnectionId,
    facts: HeaderFacts,
    compact: &Compact,
    pushed: Option<u32>,
) -> Result<(), Violation> {
    let (block, most) = (facts.block, cx.config.limits.block_size);
    let another = look_up(cx, connection, facts, compact, pushed)?;
    if let Some(mut another) = another
        && let Some(building) = cx.blocks.building.get_mut(&block)
    {
        building.looked_up.append(&mut another.looked_up);
        if another.progress(most, &cx.pools) == Progress::Complete {
            another.looked_up = std::mem::take(&mut building.looked_up);
            let before = std::mem::replace(building, another);
            end_push(cx, before.pushed, Report::Duplicate);
            complete(cx, block);
            return Ok(());
        }
    }
    give_back_pushed(cx, connection, pushed, Report::Duplicate);
    Ok(())
}

/// Whether a peer can be asked for what a block lacks: it has a block channel, and owes no answer
/// about this block.
fn can_be_asked(
    links: &BTreeMap<ConnectionId, BlockLink>,
    connection: ConnectionId,
    block: &BlockId,
) -> bool {
    links.get(&connection).is_some_and(|side| !side.owes(block))
}

/// The peer of `connection` may have a block: if the block is being reconstructed, the peer becomes a
/// reserve source.
fn may_have(cx: &mut Context, connection: ConnectionId, block: &BlockId) {
    if can_be_asked(&cx.blocks.links, connection, block)
        && let Some(building) = cx.blocks.building.get_mut(block)
        && !building.sources.contains(&connection)
        && !building.reserve.contains(&connection)
    {
        building.reserve.push(connection);
        building.may_ask(cx.now);
    }
}

/// Continues a reconstruction: the block may be complete, or more can be requested.
fn advance(cx: &mut Context, block: BlockId) {
    let most = cx.config.limits.block_size;
    let Some(building) = cx.blocks.building.get_mut(&block) else { return };
    match building.progress(most, &cx.pools) {
        Progress::Wanting => {
            if building.sources.is_empty() {
                return abandon(cx, block);
            }
            building.may_ask(cx.now);
            let sources = building.sources.clone();
            sources.into_iter().for_each(|connection| wake_block(cx, connection));
        }
        Progress::TooLarge => {
            abandon(cx, block);
            mark_bad(cx, block);
        }
        Progress::Complete => complete(cx, block),
    }
}

/// Gives a reconstruction up. The block is fetched again when a peer announces it again.
fn abandon(cx: &mut Context, block: BlockId) {
    let Some(building) = cx.blocks.building.remove(&block) else { return };
    end_push(cx, building.pushed, Report::Ignored);
    charge_look_ups(cx, &building.looked_up, None);
    wake_all(cx);
}

fn complete(cx: &mut Context, block: BlockId) {
    let Some(building) = cx.blocks.building.remove(&block) else { return };
    let (pushed, looked_up) = (building.pushed, building.looked_up.clone());
    let (items, lacked) = building.finish();
    let truth = Claim::of_items(&items, &block, &cx.blocks.salt, &cx.pools);
    charge_look_ups(cx, &looked_up, Some(truth));
    if body::admissible(&items, &cx.pools, &cx.config.limits).is_err() {
        // R9.4.2
        end_push(cx, pushed, Report::Ignored);
        return mark_bad(cx, block);
    }
    cx.stats.add(Count::BlockItems, items.len() as u64);
    cx.stats.add(Count::BlockItemsLacked, lacked.len() as u64);
    useful(cx, block, lacked.iter().filter_map(|n| items.get(*n as usize)));
    end_push(cx, pushed, Report::First);
    whole(cx, block, items, lacked, Judged::Waiting);
    ask_if_ready(cx, block);
    keep::prune_bodies(cx);
}

/// A block's items are here: it can be relayed and served.
fn whole(
    cx: &mut Context,
    block: BlockId,
    items: Vec<BlockItem>,
    lacked: Vec<u32>,
    judged: Judged,
) {
    let Some(known) = cx.blocks.known.get_mut(&block) else { return };
    cx.blocks.bytes += keep::cost(&items);
    known.body = Body::whole(items, lacked, judged);
    cx.blocks.fetcher.resolved((block, BlockPart::Compact));
    wake_all(cx);
}

/// Counts the bytes that this node had to receive for a block.
fn useful<'a>(cx: &mut Context, block: BlockId, items: impl Iterator<Item = &'a BlockItem>) {
    let header = cx.blocks.known.get(&block).map_or(0, |known| known.header.len());
    let items = items.map(|item| item.body.len()).sum::<usize>();
    cx.stats.add(Count::UsefulBytes, (header + items) as u64);
}

/// Asks the application about a block once its parent has been accepted.
fn ask_if_ready(cx: &mut Context, block: BlockId) {
    let blocks = &mut cx.blocks;
    let Some(known) = blocks.known.get(&block) else { return };
    let parent = blocks.known.get(&known.facts.parent);
    // R9.1.2
    if !parent.is_some_and(Known::is_accepted) {
        return;
    }
    let Some(known) = blocks.known.get_mut(&block) else { return };
    if let Body::Whole { judged, .. } = &mut known.body
        && *judged == Judged::Waiting
    {
        *judged = Judged::Asked;
        cx.tickets.ask(Question::Block(block));
    }
}

/// The verdict on a block.
pub(crate) fn block_verdict(cx: &mut Context, block: BlockId, verdict: Verdict) {
    let Some(known) = cx.blocks.known.get_mut(&block) else { return };
    let Body::Whole { judged, items, .. } = &mut known.body else { return };
    // A block that was dropped and fetched again may have two tickets out.
    if *judged != Judged::Asked {
        return;
    }
    match verdict {
        Verdict::Accept(_) => {
            *judged = Judged::Accepted;
            let (facts, header, items) = (known.facts, known.header.clone(), items.clone());
            store::block(cx, &facts, &Block { block, header, items });
            let children = children(&cx.blocks, &block);
            children.into_iter().for_each(|child| ask_if_ready(cx, child));
        }
        // Relays do not execute blocks first, so only the producer is to blame.
        Verdict::Reject => mark_bad(cx, block),
        // It is fetched again when a peer announces it again.
        Verdict::Ignore => keep::drop_body(cx, block),
    }
    cx.sync.changed();
}

fn children(blocks: &Blocks, parent: &BlockId) -> Vec<BlockId> {
    let children = blocks.known.values().filter(|known| known.facts.parent == *parent);
    children.map(|known| known.facts.block).collect()
}

/// Marks a block and its descendants as bad, and chooses the best of the other headers.
fn mark_bad(cx: &mut Context, block: BlockId) {
    let mut bad = VecDeque::from([block]);
    while let Some(block) = bad.pop_front() {
        keep::drop_body(cx, block);
        abandon(cx, block);
        cx.blocks.fetcher.resolved((block, BlockPart::Compact));
        let Some(known) = cx.blocks.known.get_mut(&block) else { continue };
        known.body = Body::Bad;
        bad.extend(children(&cx.blocks, &block));
    }
    let rules = &cx.rules;
    let good = cx.blocks.known.values().filter(|known| !matches!(known.body, Body::Bad));
    let best = good.max_by(|a, b| rules.compare(&a.facts, &b.facts));
    if let Some((facts, header)) = best.map(|best| (best.facts, best.header.clone())) {
        tip::set_best(cx, facts, header);
        wanted::reconsider_best(cx);
    }
}

/// The application moved its tip. Blocks too far below it are forgotten.
pub(crate) fn set_tip(cx: &mut Context, block: BlockId, state: Vec<(Bytes, Option<Bytes>)>) {
    let Some(known) = cx.blocks.known.get(&block).filter(|known| known.is_accepted()) else {
        cx.stats.count(Count::UnknownTips);
        return cx.event(Event::UnknownTip { block });
    };
    let (facts, header) = (known.facts, known.header.clone());
    tip::set_held(cx, facts);
    if cx.tip.best().is_none_or(|best| cx.rules.compare(&facts, best).is_gt()) {
        tip::set_best(cx, facts, header);
    }
    store::tip(cx, facts, state);
    keep::prune_below(cx, facts.height);
    keep::prune_bodies(cx);
    headers::prune(cx);
    cx.sync.changed();
}

/// Handles everything that has timed out.
pub(crate) fn expire(cx: &mut Context) {
    let expired = cx.blocks.fetcher.expire(cx.now);
    expired.wake.into_iter().for_each(|connection| wake_block(cx, connection));
    let now = cx.now;
    let mut late = Vec::new();
    for (id, side) in &mut cx.blocks.links {
        late.extend(side.time_out(now).into_iter().map(|late| (*id, late)));
        if side.stop_waiting(now) {
            cx.links.wake(side.at.link, side.at.slot);
        }
    }
    for (connection, late) in late {
        channel::late(cx, connection, late);
    }
    channel::pass_on(cx);
    wanted::retry(cx);
    if cx.blocks.reconsider_at.is_some_and(|at| at <= cx.now) {
        headers::reconsider(cx);
    }
    sync::expire(cx);
}

fn give_back(cx: &mut Context, connection: ConnectionId, number: u32, report: Report) {
    cx.stats.report(report);
    if let Some(side) = cx.blocks.links.get_mut(&connection) {
        side.ledger.give_back(number, report, cx.now);
        cx.links.wake(side.at.link, side.at.slot);
    }
}

/// Returns the permit of the push that started a reconstruction.
fn end_push(cx: &mut Context, pushed: Option<Pushed>, report: Report) {
    if let Some(Pushed { link: connection, number }) = pushed {
        give_back(cx, connection, number, report);
    }
}

/// Charges the senders of compact blocks for the look-ups they caused, except those whose claim
/// turned out true.
fn charge_look_ups(cx: &mut Context, looked_up: &[LookedUp], truth: Option<Claim>) {
    for LookedUp { link: connection, work, .. } in
        looked_up.iter().filter(|own| Some(own.claim) != truth)
    {
        cx.caused(*connection, steps(*work));
    }
}

fn give_back_pushed(
    cx: &mut Context,
    connection: ConnectionId,
    pushed: Option<u32>,
    report: Report,
) {
    if let Some(number) = pushed {
        give_back(cx, connection, number, report);
    }
}

fn wake_block(cx: &mut Context, connection: ConnectionId) {
    if let Some(side) = cx.blocks.links.get(&connection) {
        cx.links.wake(side.at.link, side.at.slot);
    }
}

fn wake_all(cx: &mut Context) {
    for side in cx.blocks.links.values() {
        cx.links.wake(side.at.link, side.at.slot);
    }
}
