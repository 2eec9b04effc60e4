//! Catching up with peers that are far ahead (specification section 16.2): headers first, then
//! bodies from several peers, while everything else goes on.
//!
//! Headers are requested from one peer at a time, up to a few hundred ahead of the executed tip;
//! each gets its verdict before the next is looked at. The bodies between the tip and the best
//! header are requested from all peers that claim to hold them, lowest height first. A peer that
//! fails to deliver is backed off ([`peers::BACKOFF`]); one that sends what was not requested has
//! broken the protocol.

mod peers;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::peers::{BACKOFF, Peers, What};
use super::body::{self, Parsed};
use super::keep::Unexecuted;
use super::{Body, Judged, ask_if_ready, headers, keep, mark_bad, wanted, whole};
use crate::channel::Context;
use crate::config::HEADER;
use crate::id::{BlockId, ConnectionId};
use crate::io::Event;
use crate::link::EXCLUSIVE;
use crate::rpc;
use crate::rules::HeaderFacts;
use crate::stats::Count;
use crate::time::{Pace, Time};
use crate::violation::Violation;
use crate::wire::{BlockBody, BlockHeader, MAX_LOCATOR, RpcWant, WantHeaders};

/// How long the next body may be missing before it is requested whole, instead of as a compact
/// block.
const STUCK: Duration = Duration::from_secs(3);
/// The least rate for the next body, in bytes per second, when another peer could deliver it.
const SLOW: u64 = 1 << 20;
/// Peers' claims trigger [`drive`] at most `DRIVES` times in a burst, and then once per
/// `DRIVE_EVERY`.
const DRIVES: u32 = 32;
const DRIVE_EVERY: Duration = Duration::from_millis(50);
/// Bodies requested from one peer at a time, so that the next is requested before the last has
/// arrived. A peer that has delivered none yet gets one as long as others have delivered:
/// reconnecting peers that never answer hold up little.
const OF_ONE: usize = 3;
/// Bodies requested at a time, from all peers.
const BODIES: usize = 16;

/// The state of catching up.
#[derive(Debug, Default)]
pub(crate) struct Sync {
    /// The height at which catching up began; `None` when this node is not catching up.
    active: Option<u64>,
    /// The height to catch up to: the highest claimed by peers, but not above the best known
    /// header.
    target: u64,
    headers: Headers,
    bodies: Bodies,
    peers: Peers,
    /// [`settle`] has something to look at.
    changed: bool,
    /// When to run [`drive`] again even if nothing happens.
    again: Option<Time>,
    /// Limits how often peers' claims trigger [`drive`].
    drives: Pace,
}

/// Headers in flight.
#[derive(Debug, Default)]
struct Headers {
    /// The peer that was last asked for headers, and when.
    asked: Option<(ConnectionId, Time)>,
    /// The sender of the last full answer: it probably has more headers.
    more: Option<ConnectionId>,
    batch: Batch,
}

/// Headers of one answer, each the child of the one before.
#[derive(Debug, Default)]
struct Batch {
    /// Headers waiting for the verdict on the one before. The first may be waiting for its own
    /// verdict.
    waiting: VecDeque<(HeaderFacts, Bytes)>,
    /// The sender.
    from: Option<ConnectionId>,
    /// The header that has been given to the application.
    checking: Option<BlockId>,
}

/// Bodies in flight.
#[derive(Debug, Default)]
struct Bodies {
    in_flight: BTreeMap<BlockId, InFlight>,
    /// The lowest missing body, and since when it has been the lowest.
    next: Option<(BlockId, Time)>,
    /// Missing bodies are not available as compact blocks: request them whole.
    stuck: bool,
}

/// A requested body.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    link: ConnectionId,
    asked: Time,
    /// 0 as long as it is unknown.
    size: usize,
    /// A second peer that was asked because the first is late, and the time before which no third
    /// is asked.
    backup: Option<(ConnectionId, Time)>,
    /// How many backups have been asked.
    backups: u32,
}

impl InFlight {
    fn new(connection: ConnectionId, asked: Time) -> Self {
        Self { link: connection, asked, size: 0, backup: None, backups: 0 }
    }

    fn is_backup(&self, connection: ConnectionId) -> bool {
        self.backup.is_some_and(|(backup, _)| backup == connection)
    }

    fn is_from(&self, connection: ConnectionId) -> bool {
        self.link == connection || self.is_backup(connection)
    }
}

impl Sync {
    /// When [`expire`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.again
    }

    /// Something has changed that decides what is requested: [`settle`] looks at it at the end of
    /// the step.
    pub(crate) fn changed(&mut self) {
        self.changed = true;
    }
}

/// A peer claims to be far ahead: [`drive`] runs at the end of the step, or later if peers have
/// triggered it too often.
pub(super) fn drive_soon(cx: &mut Context) {
    let at = cx.sync.drives.next(DRIVES, DRIVE_EVERY);
    if at > cx.now {
        cx.sync.again = Some(cx.sync.again.map_or(at, |again| again.min(at)));
        return;
    }
    cx.sync.drives.take(DRIVE_EVERY, cx.now);
    cx.sync.changed();
}

/// A chain announced by a peer has too many unknown ancestors to be followed header by header.
pub(super) fn not_followed(cx: &mut Context, connection: ConnectionId) {
    cx.sync.peers.set_unfollowed(connection, true);
    drive_soon(cx);
}

/// Whether a height is so far above the tip that blocks there are left to catching up.
pub(super) fn is_far(cx: &Context, height: u64) -> bool {
    let gap = u64::from(cx.config.limits.sync_gap);
    cx.tip.held().is_some_and(|held| height > held.height.saturating_add(gap))
}

/// Whether a body is fetched by catching up, rather than as a new compact block.
pub(super) fn is_asked(cx: &Context, facts: &HeaderFacts) -> bool {
    let gap = u64::from(cx.config.limits.sync_gap);
    let old = facts.height.saturating_add(gap) < cx.sync.target;
    cx.sync.active.is_some() && old || cx.sync.bodies.in_flight.contains_key(&facts.block)
}

/// A peer that has executed a block cannot serve it as a compact block, such as after a restart.
pub(super) fn not_in_parts(cx: &mut Context) {
    cx.sync.bodies.stuck = true;
    cx.sync.changed();
}

/// Runs [`drive`] again when a body is overdue or a peer's backoff has ended.
pub(crate) fn expire(cx: &mut Context) {
    if cx.sync.again.take_if(|at| *at <= cx.now).is_some() {
        cx.sync.changed();
    }
}

/// Runs at the end of each step: requests whatever the step has made possible.
pub(crate) fn settle(cx: &mut Context) {
    while std::mem::take(&mut cx.sync.changed) {
        next_header(cx);
        drive(cx);
    }
}

/// Starts or ends catching up, and makes requests.
///
/// Everything is derived again from the tip, the headers and the peers' claims, so callers only
/// report a change ([`Sync::changed`]). A claim is cheap to make, so it counts in proportion to
/// what the peer has shown: an unresponsive peer's claim is ignored, that of a peer which failed to
/// show its headers does not raise the announced target, and the target never exceeds the best
/// header that is known to be good.
fn drive(cx: &mut Context) {
    let Some(held) = cx.tip.held().copied() else { return };
    let missing = missing(cx);
    cx.sync.peers.prune(&missing, cx.now);
    cx.stats.worked(missing.len() as u64);
    watch_next(cx, missing.first());
    // A peer that answers no request at all has nothing to offer.
    let believed = cx.links.iter().filter(|(id, link)| {
        super::has_channel(cx, *id) && link.up && !cx.rpc.is_unresponsive(*id)
    });
    let highest = believed.clone().map(|(_, link)| link.height()).max().unwrap_or(0);
    // A peer that failed to show headers for its claim does not raise the announced target.
    let honest = believed.filter(|(id, _)| cx.sync.peers.failures(*id, What::Headers) == 0);
    let claimed = honest.map(|(_, link)| link.height()).max().unwrap_or(0);
    // A claim alone does not start catching up: the headers must have been shown. R16.11
    let shown = cx.tip.best().map_or(held.height, |best| best.height);
    cx.sync.target = highest.min(shown);
    if cx.sync.active.is_none() && is_far(cx, cx.sync.target) {
        cx.sync.active = Some(held.height);
        cx.event(Event::SyncStarted { from: held.height, to: claimed.max(cx.sync.target) });
    }
    let height =
        |connection: ConnectionId| cx.links.get(connection).map_or(0, |link| link.height());
    let more = cx
        .sync
        .headers
        .more
        .filter(|connection| cx.sync.peers.failures(*connection, What::Headers) == 0);
    let more = more.is_some_and(|connection| height(connection) > shown);
    let waiting = !cx.sync.headers.batch.waiting.is_empty();
    let open = !cx.sync.bodies.in_flight.is_empty() || waiting || more;
    // The last block arrives like any new block.
    if cx.sync.target <= held.height.saturating_add(1) && !open {
        finish(cx, &held);
    }
    ask_headers(cx, &held);
    if cx.sync.active.is_some() || cx.sync.bodies.stuck {
        ask_bodies(cx, &missing);
    }
    cx.sync.again = again(cx);
}

/// When to run [`drive`] again even if nothing happens.
fn again(cx: &Context) -> Option<Time> {
    let working = cx.sync.active.is_some() || cx.sync.bodies.stuck;
    let retry = cx.sync.peers.next_retry(cx.now);
    let next =
        cx.sync.bodies.next.map(|(block, since)| match cx.sync.bodies.in_flight.get(&block) {
            Some(InFlight { backup: Some((_, until)), .. }) => *until,
            Some(in_flight) => overdue(cx, in_flight, since),
            None => since + STUCK,
        });
    let soon = working.then(|| cx.now + BACKOFF);
    let headers = cx.sync.headers.asked.map(|(_, asked)| asked + EXCLUSIVE);
    let times = [retry, next, soon, headers].into_iter().flatten();
    times.filter(|at| *at > cx.now).min()
}

/// Tracks since when the next body has been missing, and asks a backup peer for it if the first is
/// slow.
fn watch_next(cx: &mut Context, next: Option<&HeaderFacts>) {
    let Some(HeaderFacts { block, height, .. }) = next.copied() else {
        (cx.sync.bodies.next, cx.sync.bodies.stuck) = (None, false);
        return;
    };
    let since = match cx.sync.bodies.next {
        Some((known, since)) if known == block => since,
        _ => cx.now,
    };
    cx.sync.bodies.next = Some((block, since));
    cx.sync.bodies.stuck |= cx.now >= since + STUCK;
    let Some(in_flight) = cx.sync.bodies.in_flight.get(&block).copied() else { return };
    // A silent backup is replaced as well; but a busy peer may begin late, so each gets time.
    let waits = in_flight.backup.is_some_and(|(_, until)| cx.now < until);
    if waits || cx.now < overdue(cx, &in_flight, since) {
        return;
    }
    // The slow peer is not cancelled until the backup begins: it may be the only one that has the
    // body.
    let mut others = candidates(cx, height, What::Body(block)).into_iter();
    let backs_off = |other| cx.sync.peers.backs_off(other, What::Bodies, cx.now);
    let other = others.find(|other| !in_flight.is_from(*other) && !backs_off(*other));
    if let Some(other) = other
        && rpc::ask(cx, other, RpcWant::Block(block))
        && let Some(in_flight) = cx.sync.bodies.in_flight.get_mut(&block)
    {
        let wait = (EXCLUSIVE * (1 << in_flight.backups.min(3))).min(cx.config.limits.rpc_patience);
        in_flight.backups += 1;
        if let Some((silent, _)) = in_flight.backup.replace((other, cx.now + wait)) {
            rpc::cancel(cx, silent, &RpcWant::Block(block));
            cx.sync.peers.failed(silent);
        }
    }
}

/// When to ask a backup peer for the next body: `rpc_patience` after it became the next, plus the
/// time its size takes at [`SLOW`].
fn overdue(cx: &Context, in_flight: &InFlight, since: Time) -> Time {
    let patience = match in_flight.size {
        // Requested in advance, but from a peer that has delivered nothing yet.
        0 if !cx.sync.peers.is_proven(in_flight.link) => return in_flight.asked + EXCLUSIVE,
        0 => EXCLUSIVE,
        size => {
            let sending = Duration::from_micros(size as u64 * 1_000_000 / SLOW);
            cx.config.limits.rpc_patience + sending
        }
    };
    since.max(in_flight.asked) + patience
}

fn finish(cx: &mut Context, held: &HeaderFacts) {
    let Some(from) = cx.sync.active.take() else { return };
    cx.sync.peers.prune(&[], cx.now);
    cx.event(Event::SyncEnded { from, at: held.height });
    headers::reconsider(cx);
    wanted::reconsider_best(cx);
}

/// Blocks between the executed tip and the best header whose bodies are missing, lowest first.
fn missing(cx: &Context) -> Vec<HeaderFacts> {
    let mut missing = Vec::new();
    let mut at = cx.tip.best().filter(|best| wanted::is_better(cx, best)).map(|best| best.block);
    while let Some(known) = at.and_then(|block| cx.blocks.known.get(&block)) {
        if known.is_accepted() {
            break;
        }
        if known.body.is_missing() {
            missing.push(known.facts);
        }
        at = Some(known.facts.parent);
    }
    missing.reverse();
    missing
}

/// Peers that can be asked for something at a height, best first: fewest failures, then proven
/// ones, then those with the fewest open requests.
fn candidates(cx: &Context, height: u64, what: What) -> Vec<ConnectionId> {
    let kind = what.kind();
    let (peers, now) = (&cx.sync.peers, cx.now);
    // Without a block channel the peer has other block rules: its blocks are of no use here, and it
    // is not blamed for them. R16.10
    let holders = cx.links.iter().filter(|(id, link)| {
        super::has_channel(cx, *id)
            && link.up
            && link.height() >= height
            && !peers.backs_off(*id, what, now)
    });
    let mut candidates = holders.map(|(id, _)| id).collect::<Vec<_>>();
    // A slow peer is better than none.
    if candidates.iter().any(|connection| !peers.backs_off(*connection, kind, now)) {
        candidates.retain(|connection| !peers.backs_off(*connection, kind, now));
    }
    candidates.retain(|connection| cx.rpc.has_room(*connection));
    candidates.sort_by_key(|connection| {
        (
            peers.failures(*connection, kind),
            !peers.is_proven(*connection),
            cx.rpc.open(*connection),
            *connection,
        )
    });
    candidates
}

/// Requests headers while catching up, and retries peers whose backoff has ended.
fn ask_headers(cx: &mut Context, held: &HeaderFacts) {
    let Some(best) = cx.tip.best().map(|best| best.height) else { return };
    let ahead = best.saturating_sub(held.height);
    let asked = cx.sync.headers.asked.is_some_and(|(_, asked)| cx.now < asked + EXCLUSIVE);
    let waiting = !cx.sync.headers.batch.waiting.is_empty() || asked;
    let most = headers_at_once(cx, held);
    if waiting || ahead > u64::from(most) / 2 {
        return;
    }
    let useful = |connection: &ConnectionId| {
        let height = cx.links.get(*connection).map_or(0, |link| link.height());
        let has_more =
            cx.sync.headers.more == Some(*connection) || cx.sync.peers.is_unfollowed(*connection);
        let far = is_far(cx, height) || has_more;
        (cx.sync.active.is_some() || far) && !cx.rpc.asks_headers(*connection)
    };
    let candidates =
        candidates(cx, best.saturating_add(1), What::Headers).into_iter().filter(useful);
    // In turns, so that a peer that answers late and with few headers gets no more requests than
    // others.
    let peers = &cx.sync.peers;
    let first = candidates.min_by_key(|connection| {
        (peers.failures(*connection, What::Headers), peers.turn(*connection))
    });
    let Some(connection) = first else { return };
    let want = WantHeaders { locator: locator(cx), most };
    if rpc::ask(cx, connection, RpcWant::Headers(want)) {
        cx.sync.headers.asked = Some((connection, cx.now));
        cx.sync.peers.takes_turn(connection);
    }
}

/// How many headers to request: half of the free room, assuming they are as large as the tip's.
fn headers_at_once(cx: &Context, held: &HeaderFacts) -> u32 {
    let limits = &cx.config.limits;
    let tip = cx.blocks.known.get(&held.block).map_or(0, |known| known.header.len());
    let room = limits.header_bytes / (HEADER as u32 + tip as u32) / 2;
    limits.sync_headers.min(room.max(1))
}

/// Ids of blocks on this node's best chain, best first, at growing distances.
fn locator(cx: &Context) -> Vec<BlockId> {
    let mut locator = Vec::new();
    let mut at = cx.tip.best().map(|best| best.block);
    let (mut step, mut left) = (1, 0);
    while let Some(known) = at.and_then(|block| cx.blocks.known.get(&block)) {
        let oldest = !cx.blocks.known.contains_key(&known.facts.parent);
        if left == 0 && locator.len() < MAX_LOCATOR - 1 || oldest {
            locator.push(known.facts.block);
            step = if locator.len() < 8 { 1 } else { step * 2 };
            left = step;
        }
        left -= 1;
        at = Some(known.facts.parent);
    }
    locator
}

/// An answer with headers arrived.
pub(crate) fn headers(
    cx: &mut Context,
    connection: ConnectionId,
    want: &WantHeaders,
    headers: Vec<BlockHeader>,
) -> Result<(), Violation> {
    cx.sync.headers.asked.take_if(|(asked, _)| *asked == connection);
    cx.sync.peers.set_unfollowed(connection, false);
    let mut parsed = VecDeque::new();
    let mut parent = None;
    for BlockHeader(header) in headers {
        let facts = headers::parse(cx, &header)?;
        let fits = match parent {
            Some(parent) => facts.parent == parent,
            None => want.locator.contains(&facts.parent),
        };
        if !fits {
            // R16.7
            return Err(Violation::WrongHeader);
        }
        parent = Some(facts.block);
        parsed.push_back((facts, header));
    }
    // A late answer, after another peer was asked: batches are processed one at a time.
    if !cx.sync.headers.batch.waiting.is_empty() {
        return Ok(());
    }
    // Judged against the best block at the time of the request: another peer may have shown the
    // same headers meanwhile.
    let first = parsed.front().map(|(facts, _)| facts.parent);
    let follows = first.is_some() && first == want.locator.first().copied();
    let is_known = |(facts, _): &(HeaderFacts, Bytes)| cx.blocks.known.contains_key(&facts.block);
    let news = !parsed.iter().all(is_known);
    if !follows && !news {
        // The peer claims more than it can show.
        back_off(cx, connection, What::Headers);
    } else {
        let full = parsed.len() >= want.most as usize;
        if news || full {
            cx.sync.headers.more = full.then_some(connection);
        }
        cx.sync.peers.forgive(connection, What::Headers);
    }
    cx.sync.headers.batch = Batch { waiting: parsed, from: Some(connection), checking: None };
    cx.sync.changed();
    Ok(())
}

/// Gives the next header to the application, if the one before has its verdict.
fn next_header(cx: &mut Context) {
    while let Some((facts, header)) = cx.sync.headers.batch.waiting.front() {
        let (facts, header) = (*facts, header.clone());
        if cx.blocks.known.contains_key(&facts.block) {
            cx.sync.headers.batch.waiting.pop_front();
            continue;
        }
        if cx.blocks.checking.contains_key(&facts.block) {
            return;
        }
        let from = cx
            .sync
            .headers
            .batch
            .from
            .filter(|from| cx.links.get(*from).is_some_and(|link| link.up));
        let good = cx.blocks.known.get(&facts.parent).is_some_and(|parent| {
            let next = parent.facts.height.checked_add(1) == Some(facts.height);
            next && !matches!(parent.body, Body::Bad)
        });
        let judged = cx.sync.headers.batch.checking == Some(facts.block);
        let (Some(connection), true, false) = (from, good, judged) else {
            // The rest of the batch is unusable: a header was rejected, or its sender is gone. Drop
            // it and ask another peer.
            cx.sync.headers.batch = Batch { from, ..Batch::default() };
            if let Some(connection) = from {
                back_off(cx, connection, What::Headers);
            }
            return;
        };
        cx.sync.headers.batch.checking = Some(facts.block);
        return headers::check(cx, facts, header, connection, None);
    }
    cx.sync.headers.batch.checking = None;
}

fn ask_bodies(cx: &mut Context, missing: &[HeaderFacts]) {
    let unexecuted = Unexecuted::of(cx);
    let mut misses = 0;
    for facts in missing {
        let block = facts.block;
        if cx.sync.bodies.in_flight.contains_key(&block) {
            continue;
        }
        // If none of this many bodies can be requested, later ones cannot either.
        if cx.sync.bodies.in_flight.len() >= BODIES
            || misses > BODIES
            || !unexecuted.may_start(cx, facts)
        {
            return;
        }
        misses += 1;
        let candidates = candidates(cx, facts.height, What::Body(block));
        let asked = |connection: &&ConnectionId| {
            let peers = &cx.sync.peers;
            let size = peers.large(**connection, &block);
            let fits = size.is_none_or(|size| fits(cx, unexecuted, facts, size));
            let in_flight = cx
                .sync
                .bodies
                .in_flight
                .values()
                .filter(|in_flight| in_flight.is_from(**connection));
            let proven = !peers.is_any_proven() || peers.is_proven(**connection);
            let most = if proven { OF_ONE } else { 1 };
            fits && in_flight.count() < most
        };
        let Some(connection) = candidates.iter().find(asked).copied() else { continue };
        if rpc::ask(cx, connection, RpcWant::Block(block)) {
            misses = 0;
            cx.sync.bodies.in_flight.insert(block, InFlight::new(connection, cx.now));
        }
    }
}

/// Whether a body of this size fits now; the next block to execute always does.
fn fits(cx: &Context, unexecuted: Unexecuted, facts: &HeaderFacts, size: usize) -> bool {
    let in_flight =
        cx.sync.bodies.in_flight.values().map(|in_flight| in_flight.size).sum::<usize>();
    keep::is_next(cx, facts) || unexecuted.fits(in_flight + size)
}

/// The first part of a body arrived. Returns `false` if there is no room for it yet, or if it is no
/// longer wanted.
pub(crate) fn body_begins(
    cx: &mut Context,
    connection: ConnectionId,
    block: &BlockId,
    size: usize,
) -> bool {
    let Some(facts) = cx.blocks.known.get(block).map(|known| known.facts) else {
        cx.sync.bodies.in_flight.remove(block);
        return false;
    };
    let unexecuted = Unexecuted::of(cx);
    if !fits(cx, unexecuted, &facts, size) {
        cx.sync.bodies.in_flight.remove(block);
        cx.sync.peers.set_large(connection, *block, size);
        return false;
    }
    promote_backup(cx, connection, block);
    let Some(in_flight) =
        cx.sync.bodies.in_flight.get_mut(block).filter(|in_flight| in_flight.link == connection)
    else {
        return false;
    };
    in_flight.size = size;
    // The first peer to begin continues; the backup is cancelled.
    if let Some((backup, _)) = in_flight.backup.take() {
        rpc::cancel(cx, backup, &RpcWant::Block(*block));
    }
    true
}

/// The backup delivered first: it takes over, and the slow peer is cancelled.
fn promote_backup(cx: &mut Context, connection: ConnectionId, block: &BlockId) {
    let Some(in_flight) =
        cx.sync.bodies.in_flight.get_mut(block).filter(|c| c.is_backup(connection))
    else {
        return;
    };
    let slow = std::mem::replace(&mut in_flight.link, connection);
    (in_flight.backup, in_flight.asked, in_flight.size) = (None, cx.now, 0);
    rpc::cancel(cx, slow, &RpcWant::Block(*block));
    back_off(cx, slow, What::Bodies);
}

/// All items of a block arrived.
pub(crate) fn body(
    cx: &mut Context,
    connection: ConnectionId,
    block: BlockId,
    body: BlockBody,
) -> Result<(), Violation> {
    promote_backup(cx, connection, &block);
    if let Some((backup, _)) =
        cx.sync.bodies.in_flight.remove(&block).and_then(|in_flight| in_flight.backup)
    {
        rpc::cancel(cx, backup, &RpcWant::Block(block));
    }
    let Some(known) = cx.blocks.known.get(&block) else { return Ok(()) };
    let facts = known.facts;
    cx.sync.changed();
    if !known.body.is_missing() {
        return Ok(());
    }
    let items = match body::parse(&body, &facts, &*cx.rules, &cx.pools) {
        Parsed::Items(items) => items,
        Parsed::Foreign => {
            // R9.4.1, R9.4.2
            mark_bad(cx, block);
            return Ok(());
        }
        // R16.8
        Parsed::Wrong => return Err(Violation::WrongIds),
    };
    cx.sync.peers.delivered(connection, block);
    if body::admissible(&items, &cx.pools, &cx.config.limits).is_err() {
        // R9.4.2
        mark_bad(cx, block);
        return Ok(());
    }
    super::abandon(cx, block);
    cx.stats.count(Count::FetchedBlocks);
    super::useful(cx, block, items.iter());
    whole(cx, block, items, Vec::new(), Judged::Waiting);
    ask_if_ready(cx, block);
    keep::prune_bodies(cx);
    Ok(())
}

/// A request failed: it was refused or timed out.
pub(crate) fn failed(cx: &mut Context, connection: ConnectionId, want: &RpcWant, late: bool) {
    match want {
        RpcWant::Headers(_) => {
            cx.sync.headers.asked.take_if(|(asked, _)| *asked == connection);
            back_off(cx, connection, What::Headers);
        }
        RpcWant::Block(block) => {
            not_from(cx, connection, Some(block));
            back_off(cx, connection, What::Body(*block));
            if late {
                back_off(cx, connection, What::Bodies);
            } else {
                cx.sync.peers.failed(connection);
            }
        }
    }
    cx.sync.changed();
}

/// A peer will not deliver a body, or any body: its backup takes over, if there is one.
fn not_from(cx: &mut Context, connection: ConnectionId, block: Option<&BlockId>) {
    let now = cx.now;
    cx.sync.bodies.in_flight.retain(|at, in_flight| {
        if block.is_some_and(|block| block != at) || !in_flight.is_from(connection) {
            return true;
        }
        match in_flight.backup.take() {
            Some((backup, _)) if backup != connection => {
                *in_flight = InFlight::new(backup, now);
                true
            }
            backup => backup.is_some(),
        }
    });
}

/// Does not ask a peer for something again for a while.
fn back_off(cx: &mut Context, connection: ConnectionId, what: What) {
    cx.sync.peers.back_off(connection, what, cx.now);
    // The backoff may end before the next run.
    cx.sync.again = cx.sync.again.into_iter().chain(again(cx)).min();
}

/// A connection is gone, with its open requests.
pub(crate) fn link_down(cx: &mut Context, connection: ConnectionId) {
    cx.sync.headers.asked.take_if(|(asked, _)| *asked == connection);
    not_from(cx, connection, None);
    cx.sync.peers.link_down(connection);
    cx.sync.changed();
}
