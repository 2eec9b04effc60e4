//! Headers: which of them need a verdict, and how a chain of unknown headers is followed back to a
//! known block (specification section 9.1).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::orphans::Orphan;
use super::wanted::{self, Change};
use super::{Body, Known, compact_arrived, give_back_pushed, keep, may_have, sync, wake_block};
use crate::channel::Context;
use crate::id::{BlockId, ConnectionId};
use crate::io::{Subject, Verdict};
use crate::rules::HeaderFacts;
use crate::stats::Count;
use crate::tickets::Question;
use crate::tip;
use crate::violation::Violation;
use crate::wire::{BlockPart, Compact, Held, MAX_BLOCK_ITEMS, Report};

/// The shortest time between two runs of [`reconsider`].
const RECONSIDER: Duration = Duration::from_millis(500);

/// A header waiting for its verdict.
#[derive(Debug)]
pub(super) struct Checking {
    pub(super) facts: HeaderFacts,
    pub(super) header: Bytes,
    /// Its senders.
    sources: BTreeSet<ConnectionId>,
    /// Compact blocks that arrived before the verdict, at most one per connection as any of them
    /// may be false, with the numbers of their pushes.
    compacts: Vec<(ConnectionId, Option<u32>, Compact)>,
    overdue: bool,
    /// The sender whose share of orphans still pays for it.
    charged: Option<ConnectionId>,
}

impl Checking {
    /// Whether a peer sent it.
    pub(super) fn is_from(&self, connection: ConnectionId) -> bool {
        self.sources.contains(&connection)
    }
}

/// How a received header relates to the known ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Accepted, waiting for its verdict, or waiting for its parent.
    Known,
    /// Its parent is good: it needs a verdict.
    Ready,
    /// Its parent is unknown.
    Orphan,
    /// Fork choice would not take it, or its parent is bad.
    Useless,
}

/// Parses a header.
pub(super) fn parse(cx: &Context, header: &[u8]) -> Result<HeaderFacts, Violation> {
    // R8.6
    let facts = cx.rules.header(header).ok_or(Violation::MalformedHeader)?;
    // R9.1.1
    if facts.items as usize <= MAX_BLOCK_ITEMS {
        Ok(facts)
    } else {
        Err(Violation::MalformedHeader)
    }
}

/// A peer announced a header on the tip channel. Its permit is returned at the verdict.
pub(crate) fn header_announced(
    cx: &mut Context,
    connection: ConnectionId,
    header: Bytes,
) -> Result<(), Violation> {
    let facts = parse(cx, &header)?;
    take(cx, connection, facts, header, false);
    let waits = cx.blocks.checking.get(&facts.block);
    if waits.is_some_and(|checking| checking.sources.contains(&connection) && !checking.overdue) {
        tip::header_waits(cx, connection, facts.block);
    } else {
        tip::header_done(cx, connection, &facts.block);
    }
    Ok(())
}

/// A peer announced its executed tip.
pub(crate) fn peer_holds(cx: &mut Context, connection: ConnectionId, held: &Held) {
    // R16.10
    if !super::has_channel(cx, connection) {
        return;
    }
    let Some(own) = cx.tip.held().copied() else { return };
    if sync::is_far(cx, held.height) {
        return sync::drive_soon(cx);
    }
    if let Some(known) = cx.blocks.known.get_mut(&held.block) {
        let news = known.announced_by.insert(connection);
        may_have(cx, connection, &held.block);
        let change = if news { Change::Announced } else { Change::Executed(connection) };
        wanted::reconsider(cx, held.block, change);
    } else if let Some(checking) = cx.blocks.checking.get_mut(&held.block) {
        checking.sources.insert(connection);
    } else if cx.blocks.orphans.get(&held.block).is_some() {
        follow_back(cx, connection, held.block);
    } else if held.height >= own.height {
        // The peer did not send the header: it was superseded, or is older than the connection.
        wanted::offer_header(cx, held.block, connection);
    }
}

/// A requested header arrived.
pub(super) fn header_answered(
    cx: &mut Context,
    connection: ConnectionId,
    header: Bytes,
) -> Result<(), Violation> {
    let facts = parse(cx, &header)?;
    let asked = cx.blocks.links.get_mut(&connection).ok_or(Violation::UnknownChannel)?;
    // R9.1.4
    if !asked.header_answered(&facts.block) {
        return Err(Violation::WrongHeader);
    }
    cx.blocks.fetcher.resolved((facts.block, BlockPart::Header));
    take(cx, connection, facts, header, true);
    Ok(())
}

/// A compact block arrived: processes its header, with these facts, first.
pub(super) fn compact_with_header(
    cx: &mut Context,
    connection: ConnectionId,
    facts: HeaderFacts,
    compact: Compact,
    pushed: Option<u32>,
) -> Result<(), Violation> {
    take(cx, connection, facts, compact.header.clone(), pushed.is_none());
    if let Some(checking) = cx.blocks.checking.get_mut(&facts.block) {
        let duplicate = checking.compacts.iter().any(|(sender, ..)| *sender == connection);
        if !duplicate {
            checking.compacts.push((connection, pushed, compact));
        } else {
            give_back_pushed(cx, connection, pushed, Report::Duplicate);
        }
        return Ok(());
    }
    compact_arrived(cx, connection, facts, &compact, pushed)
}

/// Processes a header. A requested one need not be better than the tip: it may be the ancestor of
/// one that is.
fn take(
    cx: &mut Context,
    connection: ConnectionId,
    facts: HeaderFacts,
    header: Bytes,
    asked: bool,
) {
    match standing(cx, &facts, asked) {
        Standing::Known => {
            let block = facts.block;
            if let Some(known) = cx.blocks.known.get_mut(&block) {
                if known.announced_by.insert(connection) {
                    may_have(cx, connection, &block);
                    wanted::reconsider(cx, block, Change::Announced);
                }
            } else if let Some(checking) = cx.blocks.checking.get_mut(&block) {
                checking.sources.insert(connection);
            } else {
                follow_back(cx, connection, block);
            }
        }
        Standing::Ready => check(cx, facts, header, connection, None),
        Standing::Orphan if sync::is_far(cx, facts.height) => {}
        Standing::Orphan => {
            adopt(cx, Orphan { facts, header, link: connection });
            follow_back(cx, connection, facts.block);
        }
        Standing::Useless => {}
    }
}

fn standing(cx: &Context, facts: &HeaderFacts, asked: bool) -> Standing {
    let blocks = &cx.blocks;
    let block = &facts.block;
    if blocks.known.contains_key(block)
        || blocks.checking.contains_key(block)
        || blocks.orphans.get(block).is_some()
    {
        return Standing::Known;
    }
    if !asked && !wanted::is_better(cx, facts) {
        return Standing::Useless;
    }
    match blocks.known.get(&facts.parent) {
        Some(Known { body: Body::Bad, .. }) => Standing::Useless,
        Some(parent) if parent.facts.height.checked_add(1) == Some(facts.height) => Standing::Ready,
        // It contradicts its parent.
        Some(_) => Standing::Useless,
        // R9.1.2
        None => Standing::Orphan,
    }
}

pub(super) fn check(
    cx: &mut Context,
    facts: HeaderFacts,
    header: Bytes,
    source: ConnectionId,
    charged: Option<ConnectionId>,
) {
    let sources = [source].into();
    let checking =
        Checking { facts, header, sources, compacts: Vec::new(), overdue: false, charged };
    cx.blocks.checking.insert(facts.block, checking);
    cx.tickets.ask(Question::Header(facts.block));
}

/// Ends a header's wait for its verdict.
fn take_checking(cx: &mut Context, block: &BlockId) -> Option<Checking> {
    let checking = cx.blocks.checking.remove(block)?;
    if let Some(connection) = checking.charged {
        cx.blocks.orphans.checked(connection, checking.header.len());
    }
    Some(checking)
}

/// Keeps a header until its parent is known, within its sender's share.
fn adopt(cx: &mut Context, orphan: Orphan) {
    let connection = orphan.link;
    let (count, bytes) = cx.blocks.orphans.insert(orphan);
    let limits = &cx.config.limits;
    if count <= limits.ancestors as usize && bytes <= limits.orphan_bytes as usize {
        return;
    }
    // Too many unknown ancestors to follow one by one.
    cx.blocks.orphans.forget(connection);
    sync::not_followed(cx, connection);
    // Other senders may have sent some of them, and can be asked.
    reconsider_soon(cx);
}

/// Requests the first unknown ancestor of `block` from `connection`, whose peer has it.
fn follow_back(cx: &mut Context, connection: ConnectionId, block: BlockId) {
    let mut at = block;
    // Longer chains are left to catching up: each step costs a round trip.
    let mut steps = cx.config.limits.ancestors;
    while let Some(orphan) = cx.blocks.orphans.get(&at)
        && let Some(left) = steps.checked_sub(1)
    {
        (steps, at) = (left, orphan.facts.parent);
    }
    cx.stats.worked(u64::from(cx.config.limits.ancestors - steps));
    if cx.blocks.orphans.get(&at).is_some() {
        return;
    }
    let there = cx.blocks.known.contains_key(&at) || cx.blocks.checking.contains_key(&at);
    if at != block && !there {
        wanted::offer_header(cx, at, connection);
    }
}

/// The subject of a header's ticket.
pub(crate) fn header_subject(cx: &Context, block: BlockId) -> Option<Subject> {
    let header = cx.blocks.checking.get(&block)?.header.clone();
    Some(Subject::Header { block, header })
}

/// The verdict on a header.
pub(crate) fn header_verdict(cx: &mut Context, block: BlockId, verdict: Verdict) {
    let Some(checking) = take_checking(cx, &block) else { return };
    settle(cx, block, checking, verdict);
    cx.sync.changed();
}

fn settle(cx: &mut Context, block: BlockId, checking: Checking, verdict: Verdict) {
    for connection in &checking.sources {
        // R8.4
        tip::header_done(cx, *connection, &block);
        // It may be asked for another header now.
        wake_block(cx, *connection);
    }
    let parent = cx.blocks.known.get(&checking.facts.parent);
    let of_bad = parent.is_some_and(|parent| matches!(parent.body, Body::Bad));
    let verdict = match verdict {
        // Its parent turned out bad meanwhile. R9.1.2
        Verdict::Accept(_) if of_bad => Verdict::Ignore,
        Verdict::Accept(_) if !keep::room_for_header(cx, &checking.facts, &checking.header) => {
            Verdict::Ignore
        }
        verdict => verdict,
    };
    let Verdict::Accept(_) = verdict else {
        for (connection, number, _) in checking.compacts {
            let report = match verdict {
                Verdict::Reject => Report::Rejected,
                _ => Report::Ignored,
            };
            give_back_pushed(cx, connection, number, report);
        }
        disown(cx, block);
        if verdict == Verdict::Reject {
            // Headers are relayed only after their verdict, so every sender of a bad one is to
            // blame. R8.7
            for connection in checking.sources {
                cx.links.end(connection, Violation::RejectedHeader);
            }
        }
        return;
    };
    let Checking { facts, header, sources, compacts, .. } = checking;
    if let Some(known) = cx.blocks.known.get_mut(&block) {
        // It was published here meanwhile.
        known.announced_by.extend(sources);
        for (connection, number, _) in compacts {
            give_back_pushed(cx, connection, number, Report::Duplicate);
        }
        return;
    }
    let known = Known { facts, header: header.clone(), body: Body::Missing, announced_by: sources };
    cx.blocks.insert(known);
    accepted(cx, facts, header);
    for (connection, pushed, compact) in compacts {
        let before = cx.stats.of(Count::Work);
        if let Err(violation) = compact_arrived(cx, connection, facts, &compact, pushed) {
            cx.links.end(connection, violation);
        }
        if pushed.is_some() {
            cx.charge(connection, before);
        }
    }
}

/// A header is good: relay it, fetch its body, check its children. R8.1
pub(super) fn accepted(cx: &mut Context, facts: HeaderFacts, header: Bytes) {
    if cx.tip.best().is_none_or(|best| cx.rules.compare(&facts, best).is_gt()) {
        tip::set_best(cx, facts, header);
    }
    wanted::reconsider(cx, facts.block, Change::Accepted);
    for child in cx.blocks.orphans.children(&facts.block) {
        let Some(orphan) = cx.blocks.orphans.remove(&child) else { continue };
        if Some(orphan.facts.height) == facts.height.checked_add(1) {
            cx.blocks.orphans.is_checked(&orphan);
            check(cx, orphan.facts, orphan.header, orphan.link, Some(orphan.link));
        } else {
            disown(cx, child);
        }
    }
}

/// Drops a bad header and the orphans that descend from it.
fn disown(cx: &mut Context, block: BlockId) {
    let mut gone = vec![block];
    while let Some(parent) = gone.pop() {
        let children = cx.blocks.orphans.children(&parent);
        for child in &children {
            cx.blocks.orphans.remove(child);
        }
        gone.extend(children);
    }
}

/// The verdict on a header is late: permits are returned, the ticket stays out.
pub(crate) fn header_overdue(cx: &mut Context, block: BlockId) {
    let Some(checking) = cx.blocks.checking.get_mut(&block) else { return };
    checking.overdue = true;
    let sources = checking.sources.clone();
    let pushes =
        checking.compacts.iter_mut().map(|(connection, pushed, _)| (*connection, pushed.take()));
    let pushes = pushes.collect::<Vec<_>>();
    sources.into_iter().for_each(|connection| tip::header_done(cx, connection, &block));
    for (connection, pushed) in pushes {
        // R6.3.3
        give_back_pushed(cx, connection, pushed, Report::Ignored);
    }
}

/// Forgets headers that the tip has left behind.
pub(super) fn prune(cx: &mut Context) {
    let Some(height) = cx.tip.held().map(|held| held.height) else { return };
    let lowest = height.saturating_sub(u64::from(cx.config.limits.blocks_kept));
    cx.blocks.orphans.prune(lowest);
}

/// The connection is up: processes tips that arrived before.
pub(super) fn link_up(cx: &mut Context, connection: ConnectionId) {
    if let Some(held) = cx.links.get(connection).and_then(|link| link.held.clone()) {
        peer_holds(cx, connection, &held);
    }
    for block in cx.blocks.orphans.of(connection) {
        follow_back(cx, connection, block);
    }
    let known = cx.blocks.known.values().filter(|known| known.announced_by.contains(&connection));
    for block in known.map(|known| known.facts.block).collect::<Vec<_>>() {
        wanted::reconsider(cx, block, Change::Retry);
    }
}

/// A connection is gone: forgets headers that only it sent.
pub(super) fn link_down(cx: &mut Context, connection: ConnectionId) {
    cx.blocks.orphans.forget(connection);
    for known in cx.blocks.known.values_mut() {
        known.announced_by.remove(&connection);
    }
    let mut unpaid = Vec::new();
    for (block, checking) in &mut cx.blocks.checking {
        checking.sources.remove(&connection);
        checking.compacts.retain(|(sender, ..)| *sender != connection);
        if checking.sources.is_empty() {
            unpaid.push(*block);
        }
    }
    // Their permits are gone, and a reconnecting peer has new ones: keeping them would make the
    // queue unbounded. R12.3
    for block in unpaid {
        if cx.tickets.withdraw(Question::Header(block)) {
            take_checking(cx, &block);
            for orphan in cx.blocks.orphans.children(&block) {
                if let Some(connection) = cx.blocks.orphans.get(&orphan).map(|orphan| orphan.link) {
                    follow_back(cx, connection, orphan);
                }
            }
        }
    }
    reconsider_soon(cx);
}

/// Runs [`reconsider`] now, or later if it ran recently: peers can trigger it as often as they
/// like.
fn reconsider_soon(cx: &mut Context) {
    match cx.blocks.reconsidered.map(|last| last + RECONSIDER).filter(|at| *at > cx.now) {
        Some(at) => drop(cx.blocks.reconsider_at.get_or_insert(at)),
        None => reconsider(cx),
    }
}

/// Reconsiders all peers' tips: they may be within reach now, or must be requested from other
/// peers.
pub(super) fn reconsider(cx: &mut Context) {
    (cx.blocks.reconsidered, cx.blocks.reconsider_at) = (Some(cx.now), None);
    let links = cx.links.iter().filter(|(_, link)| link.up);
    let held = links.filter_map(|(id, link)| link.held.clone().map(|held| (id, held)));
    let held = held.collect::<Vec<_>>();
    cx.stats.worked(held.len() as u64);
    for (connection, held) in held {
        peer_holds(cx, connection, &held);
    }
}
