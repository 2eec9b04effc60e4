//! A pool's state for each link: how far it has read the log, and what is outstanding.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::budget::{Budget, Charge};
use super::{Entry, Ordinal};
use crate::chunk::{Outgoing, Receiving, Sending};
use crate::id::ConnectionId;
use crate::link::Instance;
use crate::permit::{Ledger, Terms};
use crate::time::Time;
use crate::wire::Report;

/// After this many new entries, held-back positions are searched for entries that have left the
/// log.
const LOOK_THROUGH: u64 = 256;

/// The state of one link in one pool.
#[derive(Debug)]
pub(super) struct PoolLink {
    pub(super) at: Instance,
    /// This node dialed the connection.
    pub(super) dialed: bool,
    /// The peer's outstanding permits here, the returns to it, and this node's outstanding permits
    /// there.
    pub(super) ledger: Ledger<Sent>,
    /// Numbers of the peer's announcements that may be requested.
    pub(super) offered: BTreeSet<u32>,
    /// This node's open requests, by the announcement's number.
    pub(super) requested: BTreeMap<u32, Requested>,
    /// A body arriving in chunks.
    pub(super) incoming: Option<Incoming>,
    /// Bytes requested on this link that have no verdict yet.
    pub(super) reserved: Budget,

    /// The next log positions to look at. Entries older than the link (before `old_before`) are
    /// only announced; newer ones may be pushed.
    old: u64,
    old_before: u64,
    new: u64,
    /// Old and new entries take turns, so that neither waits for all of the other.
    old_next: bool,
    /// This link's ordinal in the sets of links that have an item.
    pub(super) ordinal: Ordinal,
    /// Positions of entries that the peer's tip is too low for, ordered by the height they need;
    /// they are due once the peer's tip has reached it. They stay here when the tip goes up and
    /// down: otherwise a peer could cause the work of moving them with each tip.
    held_back: BinaryHeap<Reverse<(u64, u64)>>,
    /// The same for entries that the peer ignored at its current tip: they wait for its next one.
    ignored: Vec<(u64, u64)>,
    /// The end of the log when held-back positions were last searched.
    looked_through: u64,
    /// How often the peer's tip has changed.
    tips: u32,
    /// The peer's open requests.
    pub(super) asked: VecDeque<Asked>,
    /// A body leaving in chunks.
    outgoing: Outgoing,
    /// Answers and new entries take turns.
    pub(super) answer_next: bool,
    /// The link by a better path that has replaced this one: no new entries leave here any more.
    pub(super) successor: Option<ConnectionId>,
    /// How many entries are outstanding on the link that this one replaced: they may have to be
    /// held back here.
    inherited: usize,
}

/// An entry that was announced or pushed to the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) position: u64,
    /// The upper bound of the item's size, as announced.
    pub(super) bound: u32,
    /// The peer has requested it.
    pub(super) asked: bool,
    /// [`PoolLink::tips`] when this was sent: shows whether the peer's tip has changed since.
    tips: u32,
}

/// An open request to the peer.
#[derive(Debug)]
pub(super) struct Requested {
    pub(super) alias: u64,
    pub(super) bound: u32,
    pub(super) on_link: Charge,
    /// Empty once the request has timed out.
    pub(super) on_node: Charge,
    pub(super) sent: Time,
}

/// An open request of the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) bound: u32,
}

/// A body arriving in chunks.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) body: Receiving,
    pub(super) number: u32,
    /// Whether it answers a request, which stays open until the last chunk, or was pushed.
    pub(super) is_answer: bool,
}

impl PoolLink {
    pub(super) fn new(at: Instance, terms: &Terms, log_end: u64, ordinal: Ordinal) -> Self {
        Self {
            at,
            dialed: false,
            ledger: Ledger::new(terms),
            offered: BTreeSet::new(),
            requested: BTreeMap::new(),
            incoming: None,
            reserved: Budget::default(),
            old: 0,
            old_before: log_end,
            new: log_end,
            old_next: false,
            ordinal,
            held_back: BinaryHeap::new(),
            ignored: Vec::new(),
            looked_through: log_end,
            tips: 0,
            asked: VecDeque::new(),
            outgoing: Outgoing::default(),
            answer_next: false,
            successor: None,
            inherited: 0,
        }
    }

    /// Takes over the cursors and the held-back entries of an older link to the same process. Its
    /// outstanding entries stay there until they are returned.
    pub(super) fn succeeds(&mut self, older: &mut Self) {
        older.successor = Some(self.at.link);
        self.goes_on_from(older);
        self.inherited = older.ledger.holder.out() + older.inherited;
    }

    /// The replaced link is gone, with everything outstanding on it.
    pub(super) fn inherits_no_more(&mut self) {
        self.inherited = 0;
    }

    /// The link that replaced this one is gone: takes its cursors and held-back entries back.
    pub(super) fn resumes(&mut self, newer: &mut Self) {
        self.successor = None;
        self.goes_on_from(newer);
    }

    fn goes_on_from(&mut self, older: &mut Self) {
        (self.old, self.old_before, self.new) = (older.old, older.old_before, older.new);
        (self.old_next, self.looked_through) = (older.old_next, older.looked_through);
        self.held_back.append(&mut older.held_back);
        self.ignored.append(&mut older.ignored);
    }

    /// Permits that the peer has spent here, and that this node has spent at the peer.
    pub(super) fn permits(&self) -> (usize, usize) {
        self.ledger.out()
    }

    pub(super) fn give_back(&mut self, number: u32, report: Report, now: Time) {
        self.offered.remove(&number);
        self.ledger.give_back(number, report, now);
    }

    /// A body leaves; the rest of it follows in chunks. For an answer, `answers` is what the peer's
    /// request is charged with.
    pub(super) fn sends(&mut self, rest: Option<Sending>, answers: Option<u32>) {
        self.outgoing.begin(rest, answers, &mut self.ledger.issuer);
    }

    /// The next chunk of the leaving body.
    pub(super) fn next_chunk(&mut self) -> Option<Bytes> {
        self.outgoing.next(&mut self.ledger.issuer)
    }

    /// Whether the answer to this request is arriving in chunks.
    pub(super) fn is_receiving(&self, number: u32) -> bool {
        self.incoming.as_ref().is_some_and(|i| i.is_answer && i.number == number)
    }

    /// The note about an entry that leaves now.
    pub(super) fn sent(&self, position: u64, bound: u32) -> Sent {
        Sent { position, bound, asked: false, tips: self.tips }
    }

    /// The peer's tip is too low for an entry: keeps it for later.
    pub(super) fn hold_back(&mut self, position: u64, from: u64) {
        self.held_back.push(Reverse((from, position)));
    }

    /// The peer ignored an entry: it is offered again at a tip other than the one it was sent at.
    /// The tip may already have changed, since returns are batched. R7.4.3
    pub(super) fn ignored(&mut self, sent: &Sent, from: u64) {
        if sent.tips == self.tips {
            self.ignored.push((from, sent.position));
        } else {
            self.hold_back(sent.position, from);
        }
    }

    /// How many positions are held back.
    pub(super) fn held(&self) -> usize {
        self.held_back.len() + self.ignored.len()
    }

    /// The peer's tip has changed: entries that it ignored before may be offered again.
    pub(super) fn tip_changed(&mut self, log: &BTreeMap<u64, Entry>, log_end: u64) {
        self.tips = self.tips.wrapping_add(1);
        // Bounded: each of these was ignored once, and a permit paid for that.
        for entry in std::mem::take(&mut self.ignored) {
            self.held_back.push(Reverse(entry));
        }
        // Entries that left the log occupy memory until their positions are reached. Searching for
        // them takes time, which a peer must not be able to cause with each tip.
        if log_end - self.looked_through >= LOOK_THROUGH {
            self.looked_through = log_end;
            self.held_back.retain(|Reverse((_, position))| log.contains_key(position));
        }
    }

    /// The next position to look at: a held-back entry that is due at the peer's height first, then
    /// old and new ones in turns. A cursor only advances while there is room to hold back both what
    /// it finds and what is outstanding, since that may come back as ignored. With `only_new`,
    /// entries that can only be announced are skipped.
    pub(super) fn next_position(
        &self,
        log: &BTreeMap<u64, Entry>,
        height: u64,
        limit: u32,
        only_new: bool,
    ) -> Option<u64> {
        let due = self.held_back.peek().filter(|Reverse((from, _))| *from <= height);
        let due = due.map(|Reverse((_, position))| *position);
        if due.is_some_and(|due| !only_new || !self.is_old(due)) {
            return due;
        }
        if self.held() + self.ledger.holder.out() + self.inherited >= limit as usize {
            return None;
        }
        let first =
            |positions| log.range::<u64, _>(positions).next().map(|(position, _)| *position);
        let new = first((Bound::Included(self.new), Bound::Unbounded));
        let old = || first((Bound::Included(self.old), Bound::Excluded(self.old_before)));
        match (only_new, self.old_next) {
            (true, _) => new,
            (false, true) => old().or(new),
            (false, false) => new.or_else(old),
        }
    }

    /// Whether an entry is older than the link.
    pub(super) fn is_old(&self, position: u64) -> bool {
        position < self.old_before
    }

    /// The position has been handled: removes it from the held-back ones, or advances its cursor.
    pub(super) fn pass(&mut self, position: u64) {
        if self.held_back.peek().is_some_and(|Reverse((_, first))| *first == position) {
            self.held_back.pop();
            return;
        }
        if self.is_old(position) {
            self.old = position + 1;
        } else {
            self.new = position + 1;
            self.old_next = true;
        }
    }

    /// An old entry was announced: new ones are next.
    pub(super) fn announced_old(&mut self) {
        self.old_next = false;
    }
}
