//! Per-connection state of the block channel: permits, and open requests of each side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::chunk::{Outgoing, Receiving, Sending};
use crate::config::Limits;
use crate::id::{BlockId, ItemId};
use crate::link::Instance;
use crate::permit::{Ledger, Terms};
use crate::rules::HeaderFacts;
use crate::time::Time;
use crate::wire::{BlockFetch, BlockPart};

/// Bodies remembered by producer and slot: a minute of slots with one producer each.
const SLOTS: usize = 64;

/// One connection.
#[derive(Debug)]
pub(super) struct BlockLink {
    pub(super) at: Instance,
    pub(super) ledger: Ledger<()>,
    /// This node's open requests.
    pub(super) requests: Vec<Request>,
    /// The peer's open requests.
    pub(super) asked: VecDeque<Asked>,
    /// An item being sent in chunks, and one being received.
    outgoing: Outgoing,
    pub(super) incoming: Option<Incoming>,
    /// Pushed bodies, received and sent.
    pub(super) from_peer: Pushed,
    pub(super) to_peer: Pushed,
    /// The best block when the connection came up: the peer probably has it.
    pub(super) old: Option<BlockId>,
}

/// A request to the peer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) block: BlockId,
    pub(super) part: Part,
    /// Upper bound of the answer's size in bytes.
    pub(super) bound: u32,
    /// The answer's deadlines; `None` if it is no longer awaited, or its deadline is tracked
    /// elsewhere.
    wait: Option<Wait>,
}

/// Deadlines of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// When other peers may be asked as well; `None` if they have been.
    pub(super) alone: Option<Time>,
    /// When it is no longer awaited.
    pub(super) until: Time,
}

/// An answer that is late, or will not come.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) block: BlockId,
    pub(super) part: Part,
    /// Other peers have been asked.
    pub(super) passed_on: bool,
    /// It is no longer awaited; otherwise other peers may be asked as well.
    pub(super) ended: bool,
}

impl Request {
    /// This request as a late one, if it is awaited.
    pub(super) fn late(&self, ended: bool) -> Option<Late> {
        let passed_on = self.wait?.alone.is_none();
        Some(Late { block: self.block, part: self.part.clone(), passed_on, ended })
    }
}

/// What was requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Header,
    Compact,
    Ids(u32),
    Items(BTreeSet<u32>),
}

impl Part {
    pub(super) fn kind(&self) -> BlockPart {
        match self {
            Self::Header => BlockPart::Header,
            Self::Compact => BlockPart::Compact,
            Self::Ids(_) => BlockPart::Ids,
            Self::Items(_) => BlockPart::Items,
        }
    }
}

/// A request of the peer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) fetch: BlockFetch,
    /// How long the answer may wait for the block to arrive; after that it is `NotHere`.
    pub(super) until: Option<Time>,
    /// Items already sent.
    pub(super) sent: usize,
}

/// An item being received in chunks.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) block: BlockId,
    pub(super) index: u32,
    /// Name of its pool.
    pub(super) pool: String,
    pub(super) id: ItemId,
    /// Its pool and id were proven against the header.
    pub(super) proven: bool,
    pub(super) body: Receiving,
}

/// The body that was pushed for each producer and slot.
#[derive(Debug, Default)]
pub(super) struct Pushed(BTreeMap<(u64, [u8; 32]), BlockId>);

/// How a pushed body relates to earlier pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    First,
    /// The same body was pushed before, or may have been: looking up its ids is expensive, and done
    /// once.
    Again,
    /// Another body was pushed for the same producer and slot.
    Another,
}

impl Pushed {
    /// Records a body pushed for its producer and slot.
    pub(super) fn note(&mut self, facts: &HeaderFacts) -> Noted {
        let place = (facts.slot, facts.producer);
        match self.0.get(&place) {
            Some(known) if *known == facts.block => return Noted::Again,
            Some(_) => return Noted::Another,
            None if self.is_forgotten(&place) => return Noted::Again,
            None => {}
        }
        self.0.insert(place, facts.block);
        if self.0.len() > SLOTS {
            self.0.pop_first();
        }
        Noted::First
    }

    /// Whether a body would be the first for its producer and slot.
    pub(super) fn is_first(&self, facts: &HeaderFacts) -> bool {
        let place = (facts.slot, facts.producer);
        !self.0.contains_key(&place) && !self.is_forgotten(&place)
    }

    /// Whether a producer and slot is older than all that are remembered, so that earlier pushes
    /// for it are unknown.
    fn is_forgotten(&self, place: &(u64, [u8; 32])) -> bool {
        self.0.len() >= SLOTS && self.0.first_key_value().is_some_and(|(first, _)| place < first)
    }
}

impl BlockLink {
    pub(super) fn new(at: Instance, terms: &Terms, best: Option<BlockId>) -> Self {
        Self {
            at,
            ledger: Ledger::new(terms),
            requests: Vec::new(),
            asked: VecDeque::new(),
            outgoing: Outgoing::default(),
            incoming: None,
            from_peer: Pushed::default(),
            to_peer: Pushed::default(),
            old: best,
        }
    }

    /// Records a request. Without `wait` its deadline is tracked elsewhere.
    pub(super) fn request(
        &mut self,
        block: BlockId,
        part: Part,
        bound: u32,
        wait: Option<Wait>,
        now: Time,
    ) {
        self.ledger.holder.request(0, now);
        self.requests.push(Request { block, part, bound, wait });
    }

    /// Whether the peer may be asked for more: it has permits for requests, and few answers are
    /// outstanding.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.requests.len() < limits.block_grant.requests as usize
            && self.ledger.holder.allows_request(0)
    }

    /// Upper bound of outstanding answers in bytes.
    pub(super) fn requested_bytes(&self) -> u32 {
        self.requests.iter().fold(0, |sum, request| request.bound.saturating_add(sum))
    }

    /// An open request for such a part of any block.
    pub(super) fn find_any(&self, kind: BlockPart) -> Option<usize> {
        self.requests.iter().position(|request| request.part.kind() == kind)
    }

    /// Whether the peer owes an answer about a block under reconstruction: asking again is of no
    /// use.
    pub(super) fn owes(&self, block: &BlockId) -> bool {
        let parts = [BlockPart::Ids, BlockPart::Items];
        parts.into_iter().any(|part| self.find(block, part).is_some())
    }

    /// Whether the peer is late with a part of a block, so that other peers have been asked or none
    /// is awaited. It may owe the compact block while another peer's is being reconstructed.
    pub(super) fn is_late(&self, block: &BlockId) -> bool {
        let late = |request: &Request| request.wait.is_none_or(|wait| wait.alone.is_none());
        let parts = [BlockPart::Compact, BlockPart::Ids, BlockPart::Items].into_iter();
        parts.filter_map(|part| self.find(block, part)).any(|open| late(&self.requests[open]))
    }

    /// The open request for a part of a block.
    pub(super) fn find(&self, block: &BlockId, kind: BlockPart) -> Option<usize> {
        self.requests.iter().position(|r| r.block == *block && r.part.kind() == kind)
    }

    /// Takes a request whose answer arrived.
    pub(super) fn answered(&mut self, at: usize) -> Request {
        self.ledger.holder.answered(0);
        self.requests.remove(at)
    }

    /// Whether a request is for the item at an index, which has not arrived.
    pub(super) fn asks_item(&self, request: usize, index: u32) -> bool {
        let part = self.requests.get(request).map(|request| &request.part);
        matches!(part, Some(Part::Items(indices)) if indices.contains(&index))
    }

    /// An item is complete; with the last one the request is answered. Until then the request stays
    /// open, so that it times out and others are asked.
    pub(super) fn item_answered(&mut self, block: &BlockId, index: u32) {
        let Some(request) = self.find(block, BlockPart::Items) else { return };
        let Part::Items(indices) = &mut self.requests[request].part else { return };
        indices.remove(&index);
        if indices.is_empty() {
            self.answered(request);
        }
    }

    /// Whether an item of a block is arriving in chunks.
    pub(super) fn is_receiving(&self, block: &BlockId) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| incoming.block == *block)
    }

    /// Sends an item, the last of its answer or not; the rest of it follows in chunks.
    pub(super) fn sends(&mut self, rest: Option<Sending>, last: bool) {
        self.outgoing.begin(rest, last.then_some(0), &mut self.ledger.issuer);
    }

    /// The next chunk to send.
    pub(super) fn next_chunk(&mut self) -> Option<Bytes> {
        self.outgoing.next(&mut self.ledger.issuer)
    }

    /// A header arrived: whether it was requested.
    pub(super) fn header_answered(&mut self, block: &BlockId) -> bool {
        let found = self.find(block, BlockPart::Header);
        found.map(|at| self.answered(at)).is_some()
    }

    /// Takes the requests that are late. They stay open: the answer may still arrive.
    pub(super) fn time_out(&mut self, now: Time) -> Vec<Late> {
        let mut late = Vec::new();
        for request in &mut self.requests {
            let ended = match request.wait {
                Some(Wait { until, .. }) if until <= now => true,
                Some(Wait { alone: Some(alone), .. }) if alone <= now => false,
                _ => continue,
            };
            late.extend(request.late(ended));
            request.wait = request.wait.filter(|_| !ended);
        }
        late
    }

    /// Checks at that time whether other peers can be asked for the same; `None` if they have been.
    pub(super) fn look_again(&mut self, block: &BlockId, part: &Part, at: Option<Time>) {
        let open = self.find(block, part.kind()).map(|open| &mut self.requests[open]);
        if let Some(wait) = open.and_then(|request| request.wait.as_mut()) {
            wait.alone = at;
        }
    }

    /// Ends the wait of the peer's requests; whether any has waited long enough.
    pub(super) fn stop_waiting(&mut self, now: Time) -> bool {
        let mut stopped = false;
        for asked in self.asked.iter_mut().filter(|a| a.until.is_some_and(|until| until <= now)) {
            asked.until = None;
            stopped = true;
        }
        stopped
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let waits = self.requests.iter().filter_map(|request| request.wait);
        let requests = waits.map(|wait| wait.alone.map_or(wait.until, |at| at.min(wait.until)));
        requests.chain(self.asked.iter().filter_map(|asked| asked.until)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    #[test]
    fn each_producer_and_slot_gets_one_body() {
        let mut pushed = Pushed::default();
        let facts = |block: u8, slot: u64| HeaderFacts {
            block: BlockId([block; 32]),
            parent: BlockId([0; 32]),
            height: 1,
            slot,
            producer: [1; 32],
            item_root: Digest([0; 32]),
            items: 0,
        };
        assert_eq!(pushed.note(&facts(1, 5)), Noted::First);
        assert_eq!(pushed.note(&facts(1, 5)), Noted::Again);
        assert_eq!(pushed.note(&facts(2, 5)), Noted::Another);
        for slot in 6..=5 + SLOTS as u64 {
            assert_eq!(pushed.note(&facts(3, slot)), Noted::First);
        }
        // The oldest is forgotten, and pushes for slots as old are ignored.
        assert!(!pushed.is_first(&facts(1, 5)) && !pushed.is_first(&facts(3, 6)));
        assert_eq!([1, 2].map(|block| pushed.note(&facts(block, 5))), [Noted::Again; 2]);
        assert_eq!(pushed.note(&facts(4, 6)), Noted::Another);
        assert!(pushed.is_first(&facts(1, 1000)));
    }
}
