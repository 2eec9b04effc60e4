//! Catching up with peers that are far ahead (specification section 16.2): headers first, then
//! bodies from several peers, while everything else goes on.
//!
//! Headers are asked of one peer, a few hundred ahead of the executed tip; each has its verdict
//! before the next is looked at. The bodies between the tip and the best header are asked of all
//! who claim to hold them, in the order of their heights. Whoever does not deliver is passed over for a
//! while, and who delivers what is not asked for is not asked again.

mod peers;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::peers::{PASSED_OVER, Peers, What};
use super::body::{self, Parsed};
use super::keep::Unexecuted;
use super::{Body, Judged, ask_if_ready, headers, keep, mark_bad, wanted, whole};
use crate::channel::Context;
use crate::config::HEADER;
use crate::id::{BlockId, ConnectionId};
use crate::io::Event;
use crate::link::ALONE;
use crate::rpc;
use crate::rules::HeaderFacts;
use crate::stats::Count;
use crate::time::{Pace, Time};
use crate::violation::Violation;
use crate::wire::{BlockBody, BlockHeader, MAX_LOCATOR, RpcWant, WantHeaders};

/// How long the next block may be missing before it is asked for in this way.
const STUCK: Duration = Duration::from_secs(3);
/// Bytes a second at which the next body must come if somebody else could give it.
const SLOW: u64 = 1 << 20;
/// How many looks peers may give reason for at once, by what they say they hold; and the time after
/// which they may for one more.
const LOOKS: u32 = 32;
const LOOK: Duration = Duration::from_millis(50);
/// Bodies asked of one peer at a time: the next is asked for before the last is here. Of one who has
/// delivered none, as others have, it is one: who leaves them unanswered and comes again holds up few.
const OF_ONE: usize = 3;
/// Bodies asked for at a time, of all peers.
const BODIES: usize = 16;

/// What is asked for to catch up.
#[derive(Debug, Default)]
pub(crate) struct Sync {
    /// The height at which it began, while it goes on.
    active: Option<u64>,
    /// The height that it goes on to: peers say that they hold it, and headers up to it were shown to be good.
    target: u64,
    headers: Headers,
    bodies: Bodies,
    peers: Peers,
    /// Something has changed that [`settle`] has to look at.
    changed: bool,
    /// When to look again, though nothing happens.
    again: Option<Time>,
    /// How often peers may give reason for a look.
    looks: Pace,
}

/// Headers on their way.
#[derive(Debug, Default)]
struct Headers {
    /// Who was asked for headers last, and when.
    asked: Option<(ConnectionId, Time)>,
    /// Who gave the last answer, if it had as many as were asked for: there are more, if that one says so.
    more: Option<ConnectionId>,
    batch: Batch,
}

/// Headers that came together, each the child of the one before.
#[derive(Debug, Default)]
struct Batch {
    /// Those that wait until the one before has its verdict. The first may be waiting for its own.
    waiting: VecDeque<(HeaderFacts, Bytes)>,
    /// Who sent them.
    from: Option<ConnectionId>,
    /// The one that was given to be checked.
    checking: Option<BlockId>,
}

/// Bodies on their way.
#[derive(Debug, Default)]
struct Bodies {
    coming: BTreeMap<BlockId, Coming>,
    /// The first that is missing, and since when it has been the first.
    next: Option<(BlockId, Time)>,
    /// Missing bodies cannot be had in parts, as those of new blocks are.
    stuck: bool,
}

/// A body that is on its way.
#[derive(Clone, Copy, Debug)]
struct Coming {
    link: ConnectionId,
    asked: Time,
    /// 0 if it is not known yet.
    size: usize,
    /// Who is asked as well, since it is late, and until when nobody else is.
    second: Option<(ConnectionId, Time)>,
    /// How often somebody was.
    seconds: u32,
}

impl Coming {
    fn new(link: ConnectionId, asked: Time) -> Self {
        Self { link, asked, size: 0, second: None, seconds: 0 }
    }

    fn is_second(&self, link: ConnectionId) -> bool {
        self.second.is_some_and(|(second, _)| second == link)
    }

    fn is_from(&self, link: ConnectionId) -> bool {
        self.link == link || self.is_second(link)
    }
}

impl Sync {
    /// When [`expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.again
    }

    /// Something has changed that decides what is asked for: looked at when the current step is done.
    pub(crate) fn changed(&mut self) {
        self.changed = true;
    }
}

/// A peer says that it is far ahead: this is looked at, at once or when it may be again.
pub(super) fn look_soon(cx: &mut Context) {
    let at = cx.sync.looks.next(LOOKS, LOOK);
    if at > cx.now {
        cx.sync.again = Some(cx.sync.again.map_or(at, |again| again.min(at)));
        return;
    }
    cx.sync.looks.take(LOOK, cx.now);
    cx.sync.changed();
}

/// There is no place for all headers between the tip and what a peer announced.
pub(super) fn not_followed(cx: &mut Context, link: ConnectionId) {
    cx.sync.peers.set_unfollowed(link, true);
    look_soon(cx);
}

/// Whether a height is too far ahead for what peers announce of it to be of use.
pub(super) fn is_far(cx: &Context, height: u64) -> bool {
    let gap = u64::from(cx.config.limits.sync_gap);
    cx.tip.held().is_some_and(|held| height > held.height.saturating_add(gap))
}

/// Whether a body is fetched to catch up, and not as those of new blocks are.
pub(super) fn is_asked(cx: &Context, facts: &HeaderFacts) -> bool {
    let gap = u64::from(cx.config.limits.sync_gap);
    let old = facts.height.saturating_add(gap) < cx.sync.target;
    cx.sync.active.is_some() && old || cx.sync.bodies.coming.contains_key(&facts.block)
}

/// A peer that has executed a block cannot give it in parts, as after a restart.
pub(super) fn not_in_parts(cx: &mut Context) {
    cx.sync.bodies.stuck = true;
    cx.sync.changed();
}

/// A body may be missing for too long, or somebody may have been passed over for long enough.
pub(crate) fn expire(cx: &mut Context) {
    if cx.sync.again.take_if(|at| *at <= cx.now).is_some() {
        cx.sync.changed();
    }
}

/// The current step is done: asks for what can be asked for after all that has changed in it.
pub(crate) fn settle(cx: &mut Context) {
    while std::mem::take(&mut cx.sync.changed) {
        next_header(cx);
        drive(cx);
    }
}

/// Begins or ends catching up, and asks for what can be asked for.
fn drive(cx: &mut Context) {
    let Some(held) = cx.tip.held().copied() else { return };
    let missing = missing(cx);
    cx.sync.peers.prune(&missing, cx.now);
    cx.stats.worked(missing.len() as u64);
    look_at_next(cx, missing.first());
    // One who has left everything without an answer holds nothing that can be had.
    let believed = cx
        .links
        .iter()
        .filter(|(id, link)| super::has_channel(cx, *id) && link.up && !cx.rpc.is_mute(*id));
    let highest = believed.clone().map(|(_, link)| link.height()).max().unwrap_or(0);
    // A peer that claimed more than it could show does not count for heights that nobody has shown yet.
    let honest = believed.filter(|(id, _)| cx.sync.peers.failures(*id, What::Headers) == 0);
    let claimed = honest.map(|(_, link)| link.height()).max().unwrap_or(0);
    // Anybody may say anything. R16.11
    let shown = cx.tip.best().map_or(held.height, |best| best.height);
    cx.sync.target = highest.min(shown);
    if cx.sync.active.is_none() && is_far(cx, cx.sync.target) {
        cx.sync.active = Some(held.height);
        cx.event(Event::SyncStarted { from: held.height, to: claimed.max(cx.sync.target) });
    }
    let height = |link: ConnectionId| cx.links.get(link).map_or(0, |link| link.height());
    let more =
        cx.sync.headers.more.filter(|link| cx.sync.peers.failures(*link, What::Headers) == 0);
    let more = more.is_some_and(|link| height(link) > shown);
    let waiting = !cx.sync.headers.batch.waiting.is_empty();
    let open = !cx.sync.bodies.coming.is_empty() || waiting || more;
    // The rest comes as blocks come every day.
    if cx.sync.target <= held.height.saturating_add(1) && !open {
        finish(cx, &held);
    }
    ask_headers(cx, &held);
    if cx.sync.active.is_some() || cx.sync.bodies.stuck {
        ask_bodies(cx, &missing);
    }
    cx.sync.again = again(cx);
}

/// When to look again, though nothing happens.
fn again(cx: &Context) -> Option<Time> {
    let working = cx.sync.active.is_some() || cx.sync.bodies.stuck;
    let passed = cx.sync.peers.first_again(cx.now);
    let next = cx.sync.bodies.next.map(|(block, since)| match cx.sync.bodies.coming.get(&block) {
        Some(Coming { second: Some((_, until)), .. }) => *until,
        Some(coming) => overdue(cx, coming, since),
        None => since + STUCK,
    });
    let soon = working.then(|| cx.now + PASSED_OVER);
    let headers = cx.sync.headers.asked.map(|(_, asked)| asked + ALONE);
    let times = [passed, next, soon, headers].into_iter().flatten();
    times.filter(|at| *at > cx.now).min()
}

/// Notes for how long the next body has been missing although its header is good, and asks a
/// second peer for it if the first is slow.
fn look_at_next(cx: &mut Context, next: Option<&HeaderFacts>) {
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
    let Some(coming) = cx.sync.bodies.coming.get(&block).copied() else { return };
    // A second that is silent as well is not waited for either; but who is busy begins late.
    let waits = coming.second.is_some_and(|(_, until)| cx.now < until);
    if waits || cx.now < overdue(cx, &coming, since) {
        return;
    }
    // The slow peer goes on until another begins: it may be the only one that has the body.
    let mut others = able(cx, height, What::Body(block)).into_iter();
    let passed = |other| cx.sync.peers.is_passed(other, What::Bodies, cx.now);
    let other = others.find(|other| !coming.is_from(*other) && !passed(*other));
    if let Some(other) = other
        && rpc::ask(cx, other, RpcWant::Block(block))
        && let Some(coming) = cx.sync.bodies.coming.get_mut(&block)
    {
        let wait = (ALONE * (1 << coming.seconds.min(3))).min(cx.config.limits.rpc_patience);
        coming.seconds += 1;
        if let Some((silent, _)) = coming.second.replace((other, cx.now + wait)) {
            rpc::cancel(cx, silent, &RpcWant::Block(block));
            cx.sync.peers.disappointed(silent);
        }
    }
}

/// When the next body, which has been it for so long, is to be had from somebody else.
fn overdue(cx: &Context, coming: &Coming, since: Time) -> Time {
    let patience = match coming.size {
        // It was asked early enough, and has delivered nothing yet.
        0 if !cx.sync.peers.is_proven(coming.link) => return coming.asked + ALONE,
        0 => ALONE,
        size => {
            let sending = Duration::from_micros(size as u64 * 1_000_000 / SLOW);
            cx.config.limits.rpc_patience + sending
        }
    };
    since.max(coming.asked) + patience
}

fn finish(cx: &mut Context, held: &HeaderFacts) {
    let Some(from) = cx.sync.active.take() else { return };
    cx.sync.peers.prune(&[], cx.now);
    cx.event(Event::SyncEnded { from, at: held.height });
    headers::reconsider(cx);
    wanted::reconsider_best(cx);
}

/// The blocks between the executed tip and the best header whose bodies are not here, the lowest
/// first.
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

/// Peers that can be asked for something at a height, the best first: who disappointed least, and
/// then who has the least to do.
fn able(cx: &Context, height: u64, what: What) -> Vec<ConnectionId> {
    let kind = what.kind();
    let (peers, now) = (&cx.sync.peers, cx.now);
    // Without a channel of blocks the peer has other rules for blocks: what it has is of no use here, and is
    // not held against it. R16.10
    let holders = cx.links.iter().filter(|(id, link)| {
        super::has_channel(cx, *id)
            && link.up
            && link.height() >= height
            && !peers.is_passed(*id, what, now)
    });
    let mut able = holders.map(|(id, _)| id).collect::<Vec<_>>();
    // Who is slow is better than nobody.
    if able.iter().any(|link| !peers.is_passed(*link, kind, now)) {
        able.retain(|link| !peers.is_passed(*link, kind, now));
    }
    able.retain(|link| cx.rpc.has_room(*link));
    able.sort_by_key(|link| {
        (peers.failures(*link, kind), !peers.is_proven(*link), cx.rpc.open(*link), *link)
    });
    able
}

/// Asks for more headers while this node catches up; and now and then one who boasted before.
fn ask_headers(cx: &mut Context, held: &HeaderFacts) {
    let Some(best) = cx.tip.best().map(|best| best.height) else { return };
    let ahead = best.saturating_sub(held.height);
    let asked = cx.sync.headers.asked.is_some_and(|(_, asked)| cx.now < asked + ALONE);
    let waiting = !cx.sync.headers.batch.waiting.is_empty() || asked;
    let most = headers_at_once(cx, held);
    if waiting || ahead > u64::from(most) / 2 {
        return;
    }
    let useful = |link: &ConnectionId| {
        let height = cx.links.get(*link).map_or(0, |link| link.height());
        let has_more = cx.sync.headers.more == Some(*link) || cx.sync.peers.is_unfollowed(*link);
        let far = is_far(cx, height) || has_more;
        (cx.sync.active.is_some() || far) && !cx.rpc.asks_headers(*link)
    };
    let able = able(cx, best.saturating_add(1), What::Headers).into_iter().filter(useful);
    // A peer that shows few at a time, and late, has no more turns than others.
    let peers = &cx.sync.peers;
    let first = able.min_by_key(|link| (peers.failures(*link, What::Headers), peers.turn(*link)));
    let Some(link) = first else { return };
    let want = WantHeaders { locator: locator(cx), most };
    if rpc::ask(cx, link, RpcWant::Headers(want)) {
        cx.sync.headers.asked = Some((link, cx.now));
        cx.sync.peers.takes_turn(link);
    }
}

/// As many headers as half of the room for them holds, if they are as large as the tip's.
fn headers_at_once(cx: &Context, held: &HeaderFacts) -> u32 {
    let limits = &cx.config.limits;
    let tip = cx.blocks.known.get(&held.block).map_or(0, |known| known.header.len());
    let room = limits.header_bytes / (HEADER as u32 + tip as u32) / 2;
    limits.sync_headers.min(room.max(1))
}

/// Blocks of this node's best chain, the best first, ever further apart.
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

/// Headers are there.
pub(crate) fn headers(
    cx: &mut Context,
    link: ConnectionId,
    want: &WantHeaders,
    headers: Vec<BlockHeader>,
) -> Result<(), Violation> {
    cx.sync.headers.asked.take_if(|(asked, _)| *asked == link);
    cx.sync.peers.set_unfollowed(link, false);
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
    // It was late, and another was asked: one after the other.
    if !cx.sync.headers.batch.waiting.is_empty() {
        return Ok(());
    }
    // What follows the best block of that time was news then, whoever has shown it meanwhile.
    let first = parsed.front().map(|(facts, _)| facts.parent);
    let follows = first.is_some() && first == want.locator.first().copied();
    let is_known = |(facts, _): &(HeaderFacts, Bytes)| cx.blocks.known.contains_key(&facts.block);
    let news = !parsed.iter().all(is_known);
    if !follows && !news {
        // It says that it holds more, and has nothing to show for it.
        pass_over(cx, link, What::Headers);
    } else {
        let full = parsed.len() >= want.most as usize;
        if news || full {
            cx.sync.headers.more = full.then_some(link);
        }
        cx.sync.peers.forgive(link, What::Headers);
    }
    cx.sync.headers.batch = Batch { waiting: parsed, from: Some(link), checking: None };
    cx.sync.changed();
    Ok(())
}

/// Looks at the next header, if the one before has its verdict.
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
            .filter(|link| cx.links.get(*link).is_some_and(|link| link.up));
        let good = cx.blocks.known.get(&facts.parent).is_some_and(|parent| {
            let next = parent.facts.height.checked_add(1) == Some(facts.height);
            next && !matches!(parent.body, Body::Bad)
        });
        let judged = cx.sync.headers.batch.checking == Some(facts.block);
        let (Some(link), true, false) = (from, good, judged) else {
            // The rest of the batch is unusable: a header was rejected, or the sender is gone. Another peer is
            // asked, perhaps for the same.
            cx.sync.headers.batch = Batch { from, ..Batch::default() };
            if let Some(link) = from {
                pass_over(cx, link, What::Headers);
            }
            return;
        };
        cx.sync.headers.batch.checking = Some(facts.block);
        return headers::check(cx, facts, header, link, None);
    }
    cx.sync.headers.batch.checking = None;
}

fn ask_bodies(cx: &mut Context, missing: &[HeaderFacts]) {
    let unexecuted = Unexecuted::of(cx);
    let mut misses = 0;
    for facts in missing {
        let block = facts.block;
        if cx.sync.bodies.coming.contains_key(&block) {
            continue;
        }
        // What is further ahead cannot be had either.
        if cx.sync.bodies.coming.len() >= BODIES
            || misses > BODIES
            || !unexecuted.may_start(cx, facts)
        {
            return;
        }
        misses += 1;
        let able = able(cx, facts.height, What::Body(block));
        let asked = |link: &&ConnectionId| {
            let peers = &cx.sync.peers;
            let size = peers.large(**link, &block);
            let fits = size.is_none_or(|size| fits(cx, unexecuted, facts, size));
            let coming = cx.sync.bodies.coming.values().filter(|coming| coming.is_from(**link));
            let proven = !peers.is_any_proven() || peers.is_proven(**link);
            let most = if proven { OF_ONE } else { 1 };
            fits && coming.count() < most
        };
        let Some(link) = able.iter().find(asked).copied() else { continue };
        if rpc::ask(cx, link, RpcWant::Block(block)) {
            misses = 0;
            cx.sync.bodies.coming.insert(block, Coming::new(link, cx.now));
        }
    }
}

/// Whether a body of this size can be taken now; the next block always can.
fn fits(cx: &Context, unexecuted: Unexecuted, facts: &HeaderFacts, size: usize) -> bool {
    let coming = cx.sync.bodies.coming.values().map(|coming| coming.size).sum::<usize>();
    keep::is_next(cx, facts) || unexecuted.fits(coming + size)
}

/// A body of this size begins to come: `false` if there is no room for it yet, or if it is not
/// wanted any more.
pub(crate) fn body_begins(
    cx: &mut Context,
    link: ConnectionId,
    block: &BlockId,
    size: usize,
) -> bool {
    let Some(facts) = cx.blocks.known.get(block).map(|known| known.facts) else {
        cx.sync.bodies.coming.remove(block);
        return false;
    };
    let unexecuted = Unexecuted::of(cx);
    if !fits(cx, unexecuted, &facts, size) {
        cx.sync.bodies.coming.remove(block);
        cx.sync.peers.set_large(link, *block, size);
        return false;
    }
    outdo(cx, link, block);
    let Some(coming) = cx.sync.bodies.coming.get_mut(block).filter(|coming| coming.link == link)
    else {
        return false;
    };
    coming.size = size;
    // Whoever begins first goes on, as long as it is in time.
    if let Some((second, _)) = coming.second.take() {
        rpc::cancel(cx, second, &RpcWant::Block(*block));
    }
    true
}

/// Who was asked because another was late is there first: that one need not go on.
fn outdo(cx: &mut Context, link: ConnectionId, block: &BlockId) {
    let Some(coming) = cx.sync.bodies.coming.get_mut(block).filter(|c| c.is_second(link)) else {
        return;
    };
    let slow = std::mem::replace(&mut coming.link, link);
    (coming.second, coming.asked, coming.size) = (None, cx.now, 0);
    rpc::cancel(cx, slow, &RpcWant::Block(*block));
    pass_over(cx, slow, What::Bodies);
}

/// The items of a block are there.
pub(crate) fn body(
    cx: &mut Context,
    link: ConnectionId,
    block: BlockId,
    body: BlockBody,
) -> Result<(), Violation> {
    outdo(cx, link, &block);
    if let Some((second, _)) = cx.sync.bodies.coming.remove(&block).and_then(|coming| coming.second)
    {
        rpc::cancel(cx, second, &RpcWant::Block(block));
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
    cx.sync.peers.delivered(link, block);
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

/// Nothing came of a request: it was refused, or took too long.
pub(crate) fn failed(cx: &mut Context, link: ConnectionId, want: &RpcWant, late: bool) {
    match want {
        RpcWant::Headers(_) => {
            cx.sync.headers.asked.take_if(|(asked, _)| *asked == link);
            pass_over(cx, link, What::Headers);
        }
        RpcWant::Block(block) => {
            not_from(cx, link, Some(block));
            pass_over(cx, link, What::Body(*block));
            if late { pass_over(cx, link, What::Bodies) } else { cx.sync.peers.disappointed(link) }
        }
    }
    cx.sync.changed();
}

/// A body, or none, comes from a link any more.
fn not_from(cx: &mut Context, link: ConnectionId, block: Option<&BlockId>) {
    let now = cx.now;
    cx.sync.bodies.coming.retain(|at, coming| {
        if block.is_some_and(|block| block != at) || !coming.is_from(link) {
            return true;
        }
        match coming.second.take() {
            Some((second, _)) if second != link => {
                *coming = Coming::new(second, now);
                true
            }
            second => second.is_some(),
        }
    });
}

/// A peer is not asked for something again for a while.
fn pass_over(cx: &mut Context, link: ConnectionId, what: What) {
    cx.sync.peers.pass_over(link, what, cx.now);
    // A look may be due before.
    cx.sync.again = cx.sync.again.into_iter().chain(again(cx)).min();
}

/// A link is gone, and what was asked for on it.
pub(crate) fn link_down(cx: &mut Context, link: ConnectionId) {
    cx.sync.headers.asked.take_if(|(asked, _)| *asked == link);
    not_from(cx, link, None);
    cx.sync.peers.link_down(link);
    cx.sync.changed();
}
