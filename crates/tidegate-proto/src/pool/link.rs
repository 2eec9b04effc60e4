//! What a pool keeps for each link: how far it has read the log, and what is outstanding.

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

/// New entries after which those held back are searched for what has left the log.
const LOOK_THROUGH: u64 = 256;

/// One link of a pool.
#[derive(Debug)]
pub(super) struct PoolLink {
    pub(super) at: Instance,
    /// This node dialed it.
    pub(super) dialed: bool,
    /// What the peer has outstanding here, what goes back to it, and what this node has outstanding there.
    pub(super) ledger: Ledger<Sent>,
    /// Numbers of the peer's announcements that may be asked for.
    pub(super) offered: BTreeSet<u32>,
    /// What this node asked the peer for, by the announcement's number.
    pub(super) requested: BTreeMap<u32, Requested>,
    /// A body that arrives in chunks.
    pub(super) incoming: Option<Incoming>,
    /// Bytes asked for on this link that have no verdict yet.
    pub(super) reserved: Budget,

    /// The next positions of the log to look at: of what is older than the link, which is
    /// announced only, and of what is newer, from `old_before` on.
    old: u64,
    old_before: u64,
    new: u64,
    /// Whose turn it is: what is new does not wait for all that is old, nor the other way round.
    old_next: bool,
    /// The place of this link in the sets of those who have an item.
    pub(super) ordinal: Ordinal,
    /// Positions that the peer's tip is too low for, behind the height from which they hold; those
    /// are due whose height the tip has reached. They are not moved when the tip goes up and down: a
    /// peer must not be able to ask for that work with each tip.
    held_back: BinaryHeap<Reverse<(u64, u64)>>,
    /// The same of those that the peer ignored at its tip of now: they wait for another.
    ignored: Vec<(u64, u64)>,
    /// Where the log ended when they were last looked through.
    looked_through: u64,
    /// How often the peer's tip has changed.
    tips: u32,
    /// What the peer asked for.
    pub(super) asked: VecDeque<Asked>,
    /// A body that leaves in chunks.
    outgoing: Outgoing,
    /// Answers and new entries take turns.
    pub(super) answer_next: bool,
    /// The link that has taken the place of this one, by a better path: nothing new leaves here.
    pub(super) successor: Option<ConnectionId>,
    /// What is out on the link whose place this one has taken: it may have to be held back here.
    inherited: usize,
}

/// Something that was announced to the peer, or pushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) position: u64,
    /// Upper bound of the size it was announced with.
    pub(super) bound: u32,
    /// The peer has asked for it.
    pub(super) asked: bool,
    /// [`PoolLink::tips`] when this was sent: shows whether the peer's tip has changed since.
    tips: u32,
}

/// A request to the peer.
#[derive(Debug)]
pub(super) struct Requested {
    pub(super) alias: u64,
    pub(super) bound: u32,
    pub(super) on_link: Charge,
    /// Nothing when it has timed out.
    pub(super) on_node: Charge,
    pub(super) sent: Time,
}

/// A request of the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) bound: u32,
}

/// A body that arrives in chunks, and what it answers.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) body: Receiving,
    pub(super) number: u32,
    /// It answers a request, which stays open until all of it is there; else it was pushed.
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

    /// Goes on where another link of the same two processes has come to: what that one was still to look at,
    /// and what it held back, is this one's. What is out on it stays there until it is settled.
    pub(super) fn succeeds(&mut self, older: &mut Self) {
        older.successor = Some(self.at.link);
        self.goes_on_from(older);
        self.inherited = older.ledger.holder.out() + older.inherited;
    }

    /// The link before this one is gone, with what was out on it.
    pub(super) fn inherits_no_more(&mut self) {
        self.inherited = 0;
    }

    /// The link that had taken the place of this one is gone.
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

    /// Announcements and bodies of the peer that are out, and of this node at the peer.
    pub(super) fn permits(&self) -> (usize, usize) {
        self.ledger.out()
    }

    pub(super) fn give_back(&mut self, number: u32, report: Report, now: Time) {
        self.offered.remove(&number);
        self.ledger.give_back(number, report, now);
    }

    /// A body leaves, and what is left of it follows in chunks. If it is an answer, `answers` is what
    /// the peer's request is charged with.
    pub(super) fn sends(&mut self, rest: Option<Sending>, answers: Option<u32>) {
        self.outgoing.begin(rest, answers, &mut self.ledger.issuer);
    }

    /// The next chunk of what is leaving.
    pub(super) fn next_chunk(&mut self) -> Option<Bytes> {
        self.outgoing.next(&mut self.ledger.issuer)
    }

    /// Whether the answer to this request is arriving.
    pub(super) fn is_receiving(&self, number: u32) -> bool {
        self.incoming.as_ref().is_some_and(|i| i.is_answer && i.number == number)
    }

    /// What is remembered of something that leaves now.
    pub(super) fn sent(&self, position: u64, bound: u32) -> Sent {
        Sent { position, bound, asked: false, tips: self.tips }
    }

    /// The peer's tip is too low for an entry.
    pub(super) fn hold_back(&mut self, position: u64, from: u64) {
        self.held_back.push(Reverse((from, position)));
    }

    /// The peer ignored an entry: it is offered again at another tip than the one it was sent to.
    /// That tip may be there already, since reports may wait for company. R7.4.3
    pub(super) fn ignored(&mut self, sent: &Sent, from: u64) {
        if sent.tips == self.tips {
            self.ignored.push((from, sent.position));
        } else {
            self.hold_back(sent.position, from);
        }
    }

    /// Positions that are held back.
    pub(super) fn held(&self) -> usize {
        self.held_back.len() + self.ignored.len()
    }

    /// The peer's tip is another: what it ignored before may be offered again.
    pub(super) fn tip_changed(&mut self, log: &BTreeMap<u64, Entry>, log_end: u64) {
        self.tips = self.tips.wrapping_add(1);
        // Each was ignored once for this, and that was paid for with a permit.
        for entry in std::mem::take(&mut self.ignored) {
            self.held_back.push(Reverse(entry));
        }
        // Entries that are gone take room until they are met, but looking for them takes time: a
        // peer must not be able to ask for that with each tip.
        if log_end - self.looked_through >= LOOK_THROUGH {
            self.looked_through = log_end;
            self.held_back.retain(|Reverse((_, position))| log.contains_key(position));
        }
    }

    /// The next position to look at: what was held back and is due at the peer's height first, then
    /// old and new in turns. The cursor goes on only while what it meets, and what is out and may
    /// come back as ignored, could be held back. With `only_new` nothing that can only be announced.
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

    /// The position is dealt with.
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

    /// Something old is announced: the next turn is that of what is new.
    pub(super) fn announced_old(&mut self) {
        self.old_next = false;
    }
}
