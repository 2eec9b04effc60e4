//! A pool of items: its content, the log that links read, and the items that wait for a verdict
//! (specification section 7).
//!
//! The way of an item: [`arrived`] → ticket → [`verdict`] → the log, which each link reads with a
//! cursor of its own. Everything about items is in this module, and an entry is in the log once,
//! whatever the number of peers.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;

use bytes::Bytes;
use siphasher::sip::SipHasher24;

use crate::channel::Context;
use crate::config::PoolSpec;
use crate::fetch::{Announced, Candidate, Fetcher};
use crate::id::{ConnectionId, ItemId, ItemKey, PoolIndex, Salt};
use crate::io::{Admission, Event, Fate, Invalid, Output, Subject, Verdict};
use crate::link::{Instance, Links};
use crate::permit::Spent;
use crate::rules::ItemFacts;
use crate::stats::Count;
use crate::store;
use crate::time::Time;
use crate::timers::Timer;
use crate::violation::Violation;
use crate::wire::Report;

pub(crate) mod budget;
mod channel;
pub(crate) mod content;
mod facts;
mod link;
mod link_set;
mod shelf;
mod tip;

use budget::Reserved;
pub(crate) use channel::Channel;
use content::{Content, Item};
use facts::Facts;
use link::PoolLink;
use link_set::{LinkSet, Ordinal};
use shelf::Shelf;
pub(crate) use tip::{peer_tip_changed, tip_changed};

/// A pool with everything that belongs to it.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) spec: PoolSpec,
    index: PoolIndex,
    salt: Salt,
    content: Content,
    /// Items that a re-org removed.
    shelf: Shelf,
    /// The append-only log. Positions of removed entries stay empty.
    log: BTreeMap<u64, Entry>,
    positions: BTreeMap<ItemId, u64>,
    /// Items in the pool or pending, by the alias that peers announce them with.
    aliases: BTreeMap<u64, ItemId>,
    next: u64,
    /// Items without a verdict.
    pending: BTreeMap<ItemId, Pending>,
    /// Pending items without a ticket, by their timeout.
    waiting: BTreeSet<(Time, ItemId)>,
    /// Announced aliases whose items are neither in the pool nor pending.
    fetcher: Fetcher<u64>,
    links: BTreeMap<ConnectionId, PoolLink>,
    /// Items added or removed during the current step; `true` if removed.
    moved: Vec<(ItemId, bool)>,
}

/// An entry of the log.
#[derive(Debug)]
struct Entry {
    id: ItemId,
    size: usize,
    facts: Facts,
    from: u64,
    added: Time,
    /// Links whose peers have the item.
    known_by: LinkSet,
    /// Published by this node.
    own: bool,
}

/// An item without a verdict.
#[derive(Debug)]
struct Pending {
    body: Bytes,
    facts: ItemFacts,
    sources: Vec<Source>,
    /// What the request for it is charged with, if it was fetched.
    reserved: Option<Reserved>,
    /// The verdict timed out: the permits went back as *ignored*.
    overdue: bool,
    /// While it has no ticket: the connection in whose queue it waits, and its timeout.
    turn: Option<(ConnectionId, Time)>,
}

impl Pending {
    /// Adds a source of the item; returns its report if that is due at once. Each link is a source
    /// only once, so that repeating an item does not make the list grow.
    fn another(&mut self, source: Source) -> Option<Report> {
        let same = |known: &&mut Source| known.link == source.link;
        if let Some(known) = self.sources.iter_mut().find(same) {
            // The same announcement, which this node requested before another peer was faster.
            if source.how != How::Announced {
                known.how = source.how;
            }
            let outcome = if self.overdue { Report::Ignored } else { Report::Duplicate };
            return (known.number != source.number).then_some(outcome);
        }
        if self.overdue {
            return Some(Report::Ignored);
        }
        self.sources.push(source);
        None
    }
}

/// A permit that needs a report about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    link: ConnectionId,
    number: u32,
    how: How,
}

/// How an item, or its announcement, arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Announced,
    Pushed,
    Fetched,
}

impl Pool {
    /// The items in the pool.
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    pub(crate) fn new(spec: PoolSpec, index: PoolIndex, salt: Salt) -> Self {
        Self {
            content: Content::new(spec.capacity, spec.capacity_bytes),
            shelf: Shelf::default(),
            spec,
            index,
            salt,
            log: BTreeMap::new(),
            positions: BTreeMap::new(),
            aliases: BTreeMap::new(),
            next: 0,
            pending: BTreeMap::new(),
            waiting: BTreeSet::new(),
            fetcher: Fetcher::new(),
            links: BTreeMap::new(),
            moved: Vec::new(),
        }
    }

    /// The number of items in the pool.
    pub(crate) fn len(&self) -> usize {
        self.content.len()
    }

    /// The bytes of the items in the pool.
    pub(crate) fn bytes(&self) -> usize {
        self.content.bytes()
    }

    /// Items, the best first, and whether each is executable.
    pub(crate) fn best_first(&self) -> impl Iterator<Item = (ItemId, &Bytes, bool)> {
        self.content.best_first().map(|(item, executable)| (item.id, &item.body, executable))
    }

    /// Ids of all items, ascending.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &ItemId> {
        self.content.ids()
    }

    /// The body of an item in the pool.
    pub(crate) fn body(&self, id: &ItemId) -> Option<&Bytes> {
        self.content.item(id).map(|item| &item.body)
    }

    /// Permits that peers have spent here, and that this node has spent at peers.
    pub(crate) fn permits(&self) -> (usize, usize) {
        let each = self.links.values().map(PoolLink::permits);
        each.fold((0, 0), |(given, spent), (g, s)| (given + g, spent + s))
    }

    /// The same for one connection; `None` if the pool is not open on it.
    pub(crate) fn permits_of(&self, connection: ConnectionId) -> Option<(usize, usize)> {
        self.links.get(&connection).map(PoolLink::permits)
    }

    /// When [`expire`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let waiting = self.waiting.first().map(|(until, _)| *until);
        self.fetcher.deadline().into_iter().chain(waiting).min()
    }

    /// Wakes connections: they may have items to request.
    fn wake(&self, who: impl IntoIterator<Item = ConnectionId>, links: &mut Links) {
        for side in who.into_iter().filter_map(|connection| self.links.get(&connection)) {
            links.wake(side.at.link, side.at.slot);
        }
    }

    /// The alias that peers announce an item to this node with.
    fn alias(&self, id: &ItemId) -> u64 {
        alias(&self.salt, id)
    }

    /// Puts an accepted item into the pool. `false` if better items leave no room for it.
    fn insert(
        &mut self,
        item: Item,
        admission: Admission,
        known_by: LinkSet,
        now: Time,
        links: &mut Links,
        outputs: &mut impl Extend<Output>,
    ) -> bool {
        let (id, size, priority) = (item.id, item.body.len(), item.facts.priority);
        let body = item.body.clone();
        self.shelf.remove(&id);
        let inserted = self.content.insert(item, admission.account);
        for gone in inserted.removed {
            outputs.extend([self.forget(gone)]);
        }
        if !inserted.kept {
            return false;
        }
        let position = self.next;
        self.next += 1;
        let facts = Facts::new(size, priority);
        let entry =
            Entry { id, size, facts, from: admission.from, added: now, known_by, own: false };
        self.log.insert(position, entry);
        self.positions.insert(id, position);
        self.aliases.insert(self.alias(&id), id);
        outputs.extend([Output::Event(Event::ItemAdded { pool: self.index, id, body })]);
        self.moved.push((id, false));
        for side in self.links.values() {
            links.wake(side.at.link, side.at.slot);
        }
        true
    }

    /// The log entry of an item.
    fn entry(&self, id: &ItemId) -> Option<&Entry> {
        self.log.get(self.positions.get(id)?)
    }

    fn entry_mut(&mut self, id: &ItemId) -> Option<&mut Entry> {
        self.log.get_mut(self.positions.get(id)?)
    }

    /// The height from which an item is executable.
    fn from(&self, id: &ItemId) -> u64 {
        self.entry(id).map_or(0, |entry| entry.from)
    }

    /// Removes the item with a key, if there is one; returns it with the height from which it was
    /// executable.
    fn take_out(&mut self, key: &ItemKey) -> Option<(Item, u64, Output)> {
        let id = self.content.by_key(key)?;
        let from = self.from(&id);
        let item = self.content.remove(&id)?;
        Some((item, from, self.forget(id)))
    }

    /// Removes an item's log entry once it has left the content; cursors skip the empty position.
    fn forget(&mut self, id: ItemId) -> Output {
        if let Some(position) = self.positions.remove(&id) {
            self.log.remove(&position);
        }
        self.forget_alias(&id);
        self.moved.push((id, true));
        Output::Event(Event::ItemRemoved { pool: self.index, id })
    }

    fn forget_alias(&mut self, id: &ItemId) {
        let alias = self.alias(id);
        // Two items may share an alias: SPEC 7.3 says what that costs.
        if self.aliases.get(&alias) == Some(id) {
            self.aliases.remove(&alias);
        }
    }

    /// Registers an announcement of an item that is neither in the pool nor pending.
    fn wanted(
        &mut self,
        alias: u64,
        connection: ConnectionId,
        number: u32,
        facts: Facts,
        now: Time,
    ) {
        let Some(announcer) = self.links.get_mut(&connection) else { return };
        // Already requested from this peer, which has not answered yet.
        if announcer.requested.contains_key(&number) {
            return;
        }
        announcer.offered.insert(number);
        let bound = facts.size_bound().min(self.spec.max_item);
        let priority = facts.priority_class();
        let dialed = announcer.dialed;
        let announced =
            Announced { key: alias, link: connection, tag: number, priority, size: bound, dialed };
        // Permits bound the number of announcements, so no other candidate has to be evicted.
        let _ = self.fetcher.announced(announced, None, now);
    }

    /// If an item is in the pool, notes that the peer has it too. Returns whether it is.
    fn is_known_by(&mut self, id: &ItemId, connection: ConnectionId) -> bool {
        let ordinals = self.ordinals(connection);
        let Some(entry) = self.entry_mut(id) else { return false };
        entry.known_by.extend(ordinals.into_iter().flatten());
        true
    }

    /// Marks an item as published by this node.
    pub(crate) fn mark_own(&mut self, id: &ItemId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.own = true;
        }
    }

    /// Links without a successor: one for each peer.
    fn last_links(&self) -> impl Iterator<Item = (ConnectionId, &PoolLink)> {
        let stays = |side: &PoolLink| side.successor.is_none_or(|id| !self.links.contains_key(&id));
        self.links.iter().filter(move |(_, side)| stays(side)).map(|(id, side)| (*id, side))
    }

    /// Connections whose peers have shown that they have an item; `None` if it is not in the pool.
    pub(crate) fn holders(&self, id: &ItemId) -> Option<impl Iterator<Item = ConnectionId>> {
        let entry = self.entry(id)?;
        Some(
            self.last_links()
                .filter(|(_, side)| entry.known_by.contains(side.ordinal))
                .map(|(id, _)| id),
        )
    }

    /// Items published here that fewer than `peers` peers have. If the pool has fewer peers than
    /// that, all of them should have the item; one is the least.
    pub(crate) fn unspread(&self, peers: usize) -> impl Iterator<Item = ItemId> {
        let enough = peers.min(self.last_links().count()).max(1);
        let own = self.log.values().filter(|entry| entry.own);
        let known = |entry: &Entry| {
            self.last_links().filter(|(_, side)| entry.known_by.contains(side.ordinal)).count()
        };
        own.filter(move |entry| known(entry) < enough).map(|entry| entry.id)
    }

    /// The set of those links that still exist.
    fn link_set(&self, links: impl Iterator<Item = ConnectionId>) -> LinkSet {
        links.flat_map(|connection| self.ordinals(connection)).flatten().collect()
    }

    /// The ordinals of a link and of its successor: what a peer has on one, it has on the other.
    fn ordinals(&self, connection: ConnectionId) -> [Option<Ordinal>; 2] {
        let side = self.links.get(&connection);
        let successor = side.and_then(|side| self.links.get(&side.successor?));
        [side, successor].map(|side| side.map(|side| side.ordinal))
    }

    /// Removes an item from the pending ones.
    fn take_pending(&mut self, id: &ItemId) -> Option<Pending> {
        let pending = self.pending.remove(id)?;
        if let Some((_, until)) = pending.turn {
            self.waiting.remove(&(until, *id));
        }
        Some(pending)
    }

    /// The lowest free ordinal.
    fn free_ordinal(&self) -> Ordinal {
        Ordinal::free(self.links.values().map(|side| side.ordinal))
    }
}

/// Returns a permit to its source, at once or together with other returns. R6.3.2
fn report(cx: &mut Context, pool: usize, source: Source, report: Report) {
    let Some(side) = cx.pools[pool].links.get_mut(&source.link) else { return };
    side.give_back(source.number, report, cx.now);
    let due = side.ledger.returns_due();
    let slot = side.at.slot;
    if due.is_some_and(|due| due <= cx.now) {
        cx.links.wake(source.link, slot);
    } else {
        cx.timers.set_at_most(Timer::Channel { link: source.link, slot }, due);
    }
}

/// The alias of an item: SipHash-2-4 of its id (specification section 7.3). R7.3.1
///
/// Anyone who knows the salt can find two items with the same alias in minutes. An alias is only
/// good for finding things: no count of what is owed may rely on its being unique.
fn alias(salt: &Salt, id: &ItemId) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&salt.0);
    hasher.write(&id.0);
    let alias = hasher.finish();
    #[cfg(test)]
    let alias = alias & ALIAS_MASK.get();
    alias
}

#[cfg(test)]
thread_local! {
    /// The bits of an alias (an item's short hash) that are kept: tests clear some, so that aliases collide as a
    /// hostile peer could make them.
    pub(crate) static ALIAS_MASK: std::cell::Cell<u64> = const { std::cell::Cell::new(u64::MAX) };
}

/// An announcement, for tests that play a peer.
#[cfg(test)]
pub(crate) fn announcement(salt: &Salt, id: &ItemId, size: usize) -> crate::wire::Announcement {
    crate::wire::Announcement { id: alias(salt, id), facts: Facts::new(size, 100).to_wire() }
}

/// A complete item arrived. `reserved` is freed at its verdict.
fn arrived(
    cx: &mut Context,
    at: Instance,
    number: u32,
    body: Bytes,
    how: How,
    reserved: Option<Reserved>,
) -> Result<(), Violation> {
    let pool = &mut cx.pools[at.index];
    // R7.3.9
    if body.len() > pool.spec.max_item as usize {
        release(cx, at.index, reserved);
        return Err(Violation::ItemTooLarge);
    }
    let source = Source { link: at.link, number, how };
    let id = cx.rules.item_id(&pool.spec.name, &body);
    if pool.is_known_by(&id, at.link) {
        release(cx, at.index, reserved);
        report(cx, at.index, source, Report::Duplicate);
        return Ok(());
    }
    if let Some(pending) = pool.pending.get_mut(&id) {
        let outcome = pending.another(source);
        release(cx, at.index, reserved);
        if let Some(outcome) = outcome {
            report(cx, at.index, source, outcome);
        }
        return Ok(());
    }
    let Some(facts) = cx.rules.item(&pool.spec.name, &body) else {
        release(cx, at.index, reserved);
        // R7.3.10
        return Err(Violation::MalformedItem);
    };
    let alias = pool.alias(&id);
    let index = pool.index;
    let announced = resolved(cx, at.index, alias).into_iter();
    let others = announced.map(|c| Source { link: c.link, number: c.tag, how: How::Announced });
    let sources = vec![source];
    let mut pending = Pending { body, facts, sources, reserved, overdue: false, turn: None };
    let mut settled = Vec::new();
    for other in others.filter(|other| (other.link, other.number) != (at.link, number)) {
        settled.extend(pending.another(other).map(|outcome| (other, outcome)));
    }
    let pool = &mut cx.pools[at.index];
    pool.aliases.insert(alias, id);
    pool.pending.insert(id, pending);
    ask(cx, source, index, id);
    for (other, outcome) in settled {
        report(cx, at.index, other, outcome);
    }
    Ok(())
}

/// Stops fetching an alias; returns its announcers. If one of them has been asked, the node's share
/// of the charge is freed for other requests; it is charged again if the answer still comes.
fn resolved(cx: &mut Context, index: usize, alias: u64) -> Vec<Candidate> {
    let pool = &mut cx.pools[index];
    let candidates = pool.fetcher.resolved(alias);
    for candidate in &candidates {
        let side = pool.links.get_mut(&candidate.link);
        if let Some(requested) = side.and_then(|side| side.requested.get_mut(&candidate.tag)) {
            cx.fetches.free(std::mem::take(&mut requested.on_node));
        }
    }
    candidates
}

/// Wakes the links that had no budget for a request, if some was freed.
fn use_freed(cx: &mut Context) {
    // Checked first: looking at all links takes time, and usually none of them waits.
    if !cx.fetches.has_room_again() {
        return;
    }
    for pool in &cx.pools {
        for side in pool.links.values().filter(|side| pool.fetcher.has_work(side.at.link)) {
            cx.links.wake(side.at.link, side.at.slot);
        }
    }
}

/// A link is gone: removes the items that it delivered and that have no ticket yet.
///
/// The permits that paid for them are gone too. If the items stayed, a peer could reconnect, get
/// new permits and fill the memory. An item stays if another source has paid for it: a push by its
/// own permit, or an answer that is charged to another link's budget. Otherwise the item is
/// dropped, and fetched from a peer that announced it. R12.3
fn withdraw(cx: &mut Context, at: Instance) {
    let index = cx.pools[at.index].index;
    for id in cx.tickets.withdraw_items(at.link, index) {
        let pool = &mut cx.pools[at.index];
        let Some(pending) = pool.pending.get_mut(&id) else { continue };
        pending.sources.retain(|source| pool.links.contains_key(&source.link));
        let reserved = pending.reserved.take();
        // A second push has its own permit. A second answer was not charged, since the first one
        // was: its link is charged now, if there is room.
        let pushed = pending.sources.iter().find(|source| source.how == How::Pushed).copied();
        let fetched = pending.sources.iter().find(|source| source.how == How::Fetched).copied();
        let bytes = pending.body.len() as u32;
        release(cx, at.index, reserved);
        let room = cx.fetches.fits(bytes, cx.config.limits.fetch_bytes_node);
        let pool = &mut cx.pools[at.index];
        let Some(pending) = pool.pending.get_mut(&id) else { continue };
        if let Some(other) = pushed.or_else(|| fetched.filter(|_| room)) {
            if pushed.is_none()
                && let Some(side) = pool.links.get_mut(&other.link)
            {
                let (on_link, on_node) = (side.reserved.charge(bytes), cx.fetches.charge(bytes));
                pending.reserved = Some(Reserved { link: other.link, on_link, on_node });
            }
            ask(cx, other, index, id);
            continue;
        }
        let Some(pending) = pool.take_pending(&id) else { continue };
        let pool = &mut cx.pools[at.index];
        pool.forget_alias(&id);
        let alias = pool.alias(&id);
        let facts = Facts::new(pending.body.len(), pending.facts.priority);
        for source in pending.sources {
            if source.how == How::Fetched {
                report(cx, at.index, source, Report::Ignored);
                continue;
            }
            let pool = &mut cx.pools[at.index];
            if pool.fetcher.is_candidate(alias, source.link) {
                // The link already announces this alias by another number: aliases may collide.
                report(cx, at.index, source, Report::Duplicate);
                continue;
            }
            pool.wanted(alias, source.link, source.number, facts, cx.now);
            let slot = pool.links.get(&source.link).map(|side| side.at.slot);
            slot.into_iter().for_each(|slot| cx.links.wake(source.link, slot));
        }
    }
}

/// Frees what a request is charged with: it was abandoned, or its item has a verdict.
fn release(cx: &mut Context, pool: usize, reserved: Option<Reserved>) {
    let Some(Reserved { link: connection, on_link, on_node }) = reserved else { return };
    cx.fetches.free(on_node);
    // A link's budget is gone with the link.
    if let Some(side) = cx.pools[pool].links.get_mut(&connection) {
        side.reserved.free(on_link);
    }
}

/// The name of a pool.
pub(crate) fn name(pools: &[Pool], pool: PoolIndex) -> &str {
    pools.get(pool.0 as usize).map_or("", |pool| &pool.spec.name)
}

/// The index of the pool with a name, if this node has one.
pub(crate) fn named(pools: &[Pool], name: &str) -> Option<PoolIndex> {
    Some(pools.iter().find(|pool| pool.spec.name == name)?.index)
}

/// Queues an item for a ticket, until its timeout. R6.3.3
fn ask(cx: &mut Context, source: Source, index: PoolIndex, id: ItemId) {
    cx.tickets.ask_item(source.link, index, id, source.how == How::Pushed);
    let until = cx.now + cx.config.limits.verdict_timeout;
    let pool = &mut cx.pools[index.0 as usize];
    let Some(pending) = pool.pending.get_mut(&id) else { return };
    if let Some((_, before)) = pending.turn.replace((source.link, until)) {
        pool.waiting.remove(&(before, id));
    }
    pool.waiting.insert((until, id));
}

/// The validator is so far behind that an item got no ticket in time. It counts as ignored: permits
/// paid for it, and they go back.
fn not_in_time(cx: &mut Context, index: usize) {
    let pool = &mut cx.pools[index];
    let Some((_, id)) = pool.waiting.pop_first() else { return };
    let turn = pool.pending.get_mut(&id).and_then(|pending| pending.turn.take());
    if let Some((connection, _)) = turn {
        cx.tickets.withdraw_item(connection, pool.index, id);
    }
    cx.stats.count(Count::LateVerdicts);
    let pool = pool.index;
    verdict(cx, pool, id, Verdict::Ignore);
}

/// The subject of an item's ticket, which is issued now.
pub(crate) fn subject(cx: &mut Context, pool: PoolIndex, id: ItemId) -> Option<Subject> {
    let of = &mut cx.pools[pool.0 as usize];
    let pending = of.pending.get_mut(&id)?;
    if let Some((_, until)) = pending.turn.take() {
        of.waiting.remove(&(until, id));
    }
    Some(Subject::Item { pool, id, body: pending.body.clone() })
}

/// The verdict on an item.
pub(crate) fn verdict(cx: &mut Context, pool: PoolIndex, id: ItemId, verdict: Verdict) {
    let index = pool.0 as usize;
    // Not pending any more if this node published it in the meantime.
    let Some(pending) = cx.pools[index].take_pending(&id) else { return };
    release(cx, index, pending.reserved);
    let pool = &mut cx.pools[index];
    pool.forget_alias(&id);
    let accepted = match verdict {
        Verdict::Accept(admission) => {
            let item = Item { id, body: pending.body, facts: pending.facts };
            cx.stats.add(Count::UsefulBytes, item.body.len() as u64);
            let known_by = pool.link_set(pending.sources.iter().map(|source| source.link));
            let (now, links) = (cx.now, &mut cx.links);
            Some(pool.insert(item, admission, known_by, now, links, &mut cx.outputs))
        }
        Verdict::Reject | Verdict::Ignore => None,
    };
    for (i, source) in pending.sources.iter().enumerate() {
        // R6.3.4
        let outcome = match (verdict, accepted, source.how) {
            (Verdict::Reject, ..) => Report::Rejected,
            (Verdict::Ignore, ..) => Report::Ignored,
            (_, Some(true), How::Pushed) if i == 0 => Report::First,
            (_, Some(true), How::Fetched) if i == 0 => Report::Late,
            (_, Some(true), _) => Report::Duplicate,
            _ => Report::Surplus,
        };
        cx.stats.report(outcome);
        // R12.2
        if !pending.overdue {
            report(cx, index, *source, outcome);
        }
        // A peer that only announced the item may not have it, and cannot know that it is bad.
        // R7.3.11
        if verdict == Verdict::Reject && source.how != How::Announced {
            cx.links.end(source.link, Violation::RejectedItem);
        }
    }
}

/// The verdict on an item timed out: its permits go back, the ticket stays outstanding.
pub(crate) fn overdue(cx: &mut Context, pool: PoolIndex, id: ItemId) {
    let index = pool.0 as usize;
    let Some(pending) = cx.pools[index].pending.get_mut(&id) else { return };
    // R6.3.3
    if std::mem::replace(&mut pending.overdue, true) {
        // The item was dropped and arrived again while its first ticket was outstanding.
        return;
    }
    let sources = pending.sources.clone();
    let reserved = pending.reserved.take();
    release(cx, index, reserved);
    for source in sources {
        report(cx, index, source, Report::Ignored);
    }
}

/// Publishes an item; returns its fate, and its id if it is valid.
pub(crate) fn publish(
    cx: &mut Context,
    pool: PoolIndex,
    body: Bytes,
    admission: Admission,
) -> (Fate, Option<ItemId>) {
    let Some(pool) = cx.pools.get_mut(pool.0 as usize) else {
        return (Fate::Invalid(Invalid::NoSuchPool), None);
    };
    if body.len() > pool.spec.max_item as usize {
        return (Fate::Invalid(Invalid::TooLarge), None);
    }
    let id = cx.rules.item_id(&pool.spec.name, &body);
    let Some(facts) = cx.rules.item(&pool.spec.name, &body) else {
        return (Fate::Invalid(Invalid::Malformed), None);
    };
    if pool.content.contains(&id) {
        return (Fate::Known, Some(id));
    }
    let pool_index = pool.index;
    if pool.pending.contains_key(&id) {
        // Peers sent it too: this verdict returns their permits.
        verdict(cx, pool_index, id, Verdict::Accept(admission));
    } else {
        let item = Item { id, body, facts };
        let announcers = announcers(cx, pool_index, id);
        let pool = &mut cx.pools[pool_index.0 as usize];
        let known_by = pool.link_set(announcers.into_iter());
        pool.insert(item, admission, known_by, cx.now, &mut cx.links, &mut cx.outputs);
    }
    let content = &cx.pools[pool_index.0 as usize].content;
    let fate = if content.contains(&id) {
        Fate::Accepted
    } else {
        match (content.rival(&facts.key, &id), content.floor()) {
            (Some(priority), _) => Fate::Outranked { priority },
            (None, Some(floor)) => Fate::Full { floor },
            (None, None) => Fate::NotAdmitted,
        }
    };
    (fate, Some(id))
}

/// An announced item is now here: returns the permits of its announcements.
fn announcers(cx: &mut Context, pool: PoolIndex, id: ItemId) -> Vec<ConnectionId> {
    let index = pool.0 as usize;
    let alias = cx.pools[index].alias(&id);
    let candidates = resolved(cx, index, alias);
    for candidate in &candidates {
        let source = Source { link: candidate.link, number: candidate.tag, how: How::Announced };
        report(cx, index, source, Report::Duplicate);
    }
    candidates.into_iter().map(|candidate| candidate.link).collect()
}

/// Ends a step: tells the store which items were added and removed, and wakes links if some of the
/// fetch budget was freed.
pub(crate) fn settle(cx: &mut Context) {
    for pool in 0..cx.pools.len() {
        for (id, gone) in std::mem::take(&mut cx.pools[pool].moved) {
            store::moved(cx, PoolIndex(pool as u16), id, gone);
        }
    }
    use_freed(cx);
    #[cfg(test)]
    check_budgets(cx);
}

/// The budgets must equal the sum of all charges.
#[cfg(test)]
fn check_budgets(cx: &Context) {
    let mut on_node = 0;
    for pool in &cx.pools {
        let reserved = || pool.pending.values().filter_map(|pending| pending.reserved.as_ref());
        on_node += reserved().map(|reserved| reserved.on_node.bytes()).sum::<u32>();
        for (id, side) in &pool.links {
            on_node += side.requested.values().map(|asked| asked.on_node.bytes()).sum::<u32>();
            let waits = reserved().filter(|reserved| reserved.link == *id);
            let on_link = waits.map(|reserved| reserved.on_link.bytes()).sum::<u32>()
                + side.requested.values().map(|asked| asked.on_link.bytes()).sum::<u32>();
            assert_eq!(side.reserved.bytes(), on_link, "of {id:?}");
        }
    }
    assert_eq!(cx.fetches.bytes(), on_node);
}

/// Handles fetches and items that have timed out.
pub(crate) fn expire(cx: &mut Context, index: usize) {
    while cx.pools[index].waiting.first().is_some_and(|(until, _)| *until <= cx.now) {
        not_in_time(cx, index);
    }
    let pool = &mut cx.pools[index];
    let expired = pool.fetcher.expire(cx.now);
    for (connection, number) in expired.timed_out {
        let side = pool.links.get_mut(&connection);
        if let Some(requested) = side.and_then(|side| side.requested.get_mut(&number)) {
            // The node's share is freed for requests to other peers. The link stays charged, since
            // the answer may still come.
            cx.fetches.free(std::mem::take(&mut requested.on_node));
        }
    }
    pool.wake(expired.wake, &mut cx.links);
    for (_, candidates) in expired.given_up {
        for candidate in candidates {
            let source =
                Source { link: candidate.link, number: candidate.tag, how: How::Announced };
            report(cx, index, source, Report::Ignored);
        }
    }
}

/// The permit that sending an entry spends.
fn spend_for(entry: &Entry, body: bool) -> Spent {
    if body { Spent::Body(entry.size as u32) } else { Spent::Announcement }
}
