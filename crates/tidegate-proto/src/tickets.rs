//! Schedules questions to the application (specification section 12).
//!
//! The number of outstanding tickets is bounded, so no queue builds up in the validator; the queue
//! here is bounded by the permits that paid for it. Peers take turns, and so do the pools of each
//! peer, so validation time is shared like bytes are. Each pool has a lane of its own, and so have
//! headers and blocks: slow verdicts delay their own kind. The lane of a question is decided here
//! and nowhere else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::channel::Context;
use crate::id::{BlockId, ConnectionId, ItemId, PoolIndex, Ticket};
use crate::io::{Lane, Subject, Verdict};
use crate::{block, pool};

/// What a ticket is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    Item(PoolIndex, ItemId),
    Header(BlockId),
    Block(BlockId),
}

impl Question {
    /// The lane reserved for this kind of question.
    fn own_lane(self) -> Lane {
        match self {
            Self::Item(pool, _) => Lane::Pool(pool),
            Self::Header(_) | Self::Block(_) => Lane::Chain,
        }
    }

    /// What to ask the application, unless it was settled while the question waited.
    pub(crate) fn subject(self, cx: &mut Context) -> Option<Subject> {
        match self {
            Self::Item(pool, id) => pool::subject(cx, pool, id),
            Self::Header(block) => block::header_subject(cx, block),
            Self::Block(block) => block::block_subject(cx, block),
        }
    }

    /// The verdict arrived.
    pub(crate) fn verdict(self, cx: &mut Context, verdict: Verdict) {
        match self {
            Self::Item(pool, id) => pool::verdict(cx, pool, id, verdict),
            Self::Header(block) => block::header_verdict(cx, block, verdict),
            Self::Block(block) => block::block_verdict(cx, block, verdict),
        }
    }

    /// The verdict is late: the permits that wait for it are returned.
    pub(crate) fn overdue(self, cx: &mut Context) {
        match self {
            Self::Item(pool, id) => pool::overdue(cx, pool, id),
            Self::Header(block) => block::header_overdue(cx, block),
            // A block's permits were returned when it was complete.
            Self::Block(_) => {}
        }
    }
}

/// Questions to the application.
#[derive(Debug)]
pub(crate) struct Tickets {
    /// Tickets that may be out in the shared lane.
    shared: usize,
    next: u64,
    /// Waiting headers and blocks in order of arrival, and the place of each.
    chain: BTreeMap<u64, Question>,
    places: BTreeMap<Question, u64>,
    asked: u64,
    items: BTreeMap<ConnectionId, Waiting>,
    turns: VecDeque<ConnectionId>,
    /// Waiting items of each pool, where there are any.
    waiting: BTreeMap<PoolIndex, usize>,
    out: BTreeMap<Ticket, (Question, Lane)>,
    /// Outstanding tickets in each lane, where there are any.
    lanes: BTreeMap<Lane, usize>,
}

/// Outstanding tickets per worker, so that none idles while the next is chosen.
const FOR_EACH_WORKER: usize = 2;

/// Waiting items of one peer.
#[derive(Debug, Default)]
struct Waiting {
    /// Pools with waiting items, in turn: a pool with slow verdicts has a full set of permits
    /// waiting, and the others must not wait behind all of it.
    pools: VecDeque<(PoolIndex, OfPool)>,
}

/// Waiting items of one peer and pool.
#[derive(Debug, Default)]
struct OfPool {
    pushed: VecDeque<ItemId>,
    fetched: VecDeque<ItemId>,
    fetched_next: bool,
}

impl Waiting {
    fn push(&mut self, pool: PoolIndex, id: ItemId, pushed: bool) {
        let at = self.pools.iter().position(|(of, _)| *of == pool).unwrap_or_else(|| {
            self.pools.push_back((pool, OfPool::default()));
            self.pools.len() - 1
        });
        let waiting = &mut self.pools[at].1;
        let queue = if pushed { &mut waiting.pushed } else { &mut waiting.fetched };
        queue.push_back(id);
    }

    /// The next item of a pool that `may` have one.
    fn next(&mut self, may: impl Fn(PoolIndex) -> bool) -> Option<(PoolIndex, ItemId)> {
        let at = self.pools.iter().position(|(pool, _)| may(*pool))?;
        let (pool, mut waiting) = self.pools.remove(at)?;
        let id = waiting.next()?;
        if !waiting.is_empty() {
            self.pools.push_back((pool, waiting));
        }
        Some((pool, id))
    }
}

impl OfPool {
    fn is_empty(&self) -> bool {
        self.pushed.is_empty() && self.fetched.is_empty()
    }

    /// Pushed items are new and fetched ones may be a long backlog: they take turns.
    fn next(&mut self) -> Option<ItemId> {
        let (first, second) = if self.fetched_next {
            (&mut self.fetched, &mut self.pushed)
        } else {
            (&mut self.pushed, &mut self.fetched)
        };
        self.fetched_next = !self.fetched_next;
        first.pop_front().or_else(|| second.pop_front())
    }
}

impl Tickets {
    /// With this many workers per kind of question: one in its own lane, the others shared.
    pub(crate) fn new(workers: u32) -> Self {
        Self {
            shared: (workers as usize - 1) * FOR_EACH_WORKER,
            next: 0,
            chain: BTreeMap::new(),
            places: BTreeMap::new(),
            asked: 0,
            items: BTreeMap::new(),
            turns: VecDeque::new(),
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
            lanes: BTreeMap::new(),
        }
    }

    /// Queues an item from `connection`; `pushed` or fetched.
    pub(crate) fn ask_item(
        &mut self,
        connection: ConnectionId,
        pool: PoolIndex,
        id: ItemId,
        pushed: bool,
    ) {
        let waiting = self.items.entry(connection).or_default();
        if waiting.pools.is_empty() {
            self.turns.push_back(connection);
        }
        waiting.push(pool, id, pushed);
        *self.waiting.entry(pool).or_default() += 1;
    }

    fn waits_no_more(&mut self, pool: PoolIndex, count: usize) {
        if let Some(waiting) = self.waiting.get_mut(&pool) {
            *waiting -= count;
            if *waiting == 0 {
                self.waiting.remove(&pool);
            }
        }
    }

    /// Queues a header or a block.
    pub(crate) fn ask(&mut self, question: Question) {
        if !self.places.contains_key(&question) {
            self.chain.insert(self.asked, question);
            self.places.insert(question, self.asked);
            self.asked += 1;
        }
    }

    /// Withdraws the waiting items of a connection's pool.
    pub(crate) fn withdraw_items(
        &mut self,
        connection: ConnectionId,
        pool: PoolIndex,
    ) -> Vec<ItemId> {
        let Some(waiting) = self.items.get_mut(&connection) else { return Vec::new() };
        let mut withdrawn = Vec::new();
        if let Some(at) = waiting.pools.iter().position(|(of, _)| *of == pool)
            && let Some((_, gone)) = waiting.pools.remove(at)
        {
            withdrawn.extend(gone.pushed.into_iter().chain(gone.fetched));
        }
        if waiting.pools.is_empty() {
            self.items.remove(&connection);
            self.turns.retain(|turn| *turn != connection);
        }
        self.waits_no_more(pool, withdrawn.len());
        withdrawn
    }

    /// Withdraws one waiting item.
    pub(crate) fn withdraw_item(&mut self, connection: ConnectionId, pool: PoolIndex, id: ItemId) {
        let Some(waiting) = self.items.get_mut(&connection) else { return };
        let Some(at) = waiting.pools.iter().position(|(of, _)| *of == pool) else { return };
        let of = &mut waiting.pools[at].1;
        let before = of.pushed.len() + of.fetched.len();
        of.pushed.retain(|waits| *waits != id);
        of.fetched.retain(|waits| *waits != id);
        let gone = before - of.pushed.len() - of.fetched.len();
        if of.is_empty() {
            waiting.pools.remove(at);
        }
        if waiting.pools.is_empty() {
            self.items.remove(&connection);
            self.turns.retain(|turn| *turn != connection);
        }
        self.waits_no_more(pool, gone);
    }

    /// Withdraws a header or a block; whether it was still waiting.
    pub(crate) fn withdraw(&mut self, question: Question) -> bool {
        let place = self.places.remove(&question);
        place.and_then(|place| self.chain.remove(&place)).is_some()
    }

    /// The next header or block.
    fn next_of_chain(&mut self) -> Option<Question> {
        let (_, question) = self.chain.pop_first()?;
        self.places.remove(&question);
        Some(question)
    }

    /// The next question and its lane, if one has room. Headers and blocks go first; without
    /// `blocks` they wait, as the store is behind.
    pub(crate) fn next(&mut self, blocks: bool) -> Option<(Ticket, Question, Lane)> {
        // Without room in the shared lane: kinds without room in their own.
        let mut full = BTreeSet::new();
        if self.out_in(Lane::Shared) >= self.shared {
            let lanes = self.lanes.iter().filter(|(_, out)| **out >= FOR_EACH_WORKER);
            full.extend(lanes.map(|(lane, _)| *lane));
        }
        let may = |own: Lane| !full.contains(&own);
        let chain = (blocks && may(Lane::Chain)).then(|| self.next_of_chain()).flatten();
        let question = match chain {
            Some(question) => question,
            None => self.next_item(|pool| may(Lane::Pool(pool)))?,
        };
        let lane = self.lane_for(question.own_lane());
        let ticket = Ticket(self.next);
        self.next += 1;
        self.out.insert(ticket, (question, lane));
        *self.lanes.entry(lane).or_default() += 1;
        Some((ticket, question, lane))
    }

    /// The lane that is free first: an idle worker of its own, a shared one, or the queue of its
    /// own.
    fn lane_for(&self, own: Lane) -> Lane {
        let shared = self.out_in(Lane::Shared) < self.shared;
        if shared && self.out_in(own) > 0 { Lane::Shared } else { own }
    }

    fn out_in(&self, lane: Lane) -> usize {
        self.lanes.get(&lane).copied().unwrap_or(0)
    }

    /// The next item of a pool that `may` have one.
    fn next_item(&mut self, may: impl Fn(PoolIndex) -> bool) -> Option<Question> {
        // Usually none may, which saves the search of the queue.
        if !self.waiting.keys().any(|pool| may(*pool)) {
            return None;
        }
        // R12.1
        for at in 0..self.turns.len() {
            let connection = self.turns[at];
            let waiting = self.items.get_mut(&connection)?;
            let Some((pool, id)) = waiting.next(&may) else { continue };
            self.turns.remove(at);
            if waiting.pools.is_empty() {
                self.items.remove(&connection);
            } else {
                self.turns.push_back(connection);
            }
            self.waits_no_more(pool, 1);
            return Some(Question::Item(pool, id));
        }
        None
    }

    /// The question of an answered ticket.
    pub(crate) fn answered(&mut self, ticket: Ticket) -> Option<Question> {
        let (question, lane) = self.out.remove(&ticket)?;
        if let Some(out) = self.lanes.get_mut(&lane) {
            *out -= 1;
        }
        self.lanes.retain(|_, out| *out > 0);
        Some(question)
    }

    /// The question of an outstanding ticket.
    pub(crate) fn question(&self, ticket: Ticket) -> Option<Question> {
        self.out.get(&ticket).map(|(question, _)| *question)
    }

    /// How many tickets are outstanding.
    pub(crate) fn out(&self) -> usize {
        self.out.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolIndex = PoolIndex(0);

    fn item(n: u8) -> ItemId {
        ItemId([n; 32])
    }

    fn drain(tickets: &mut Tickets) -> Vec<Question> {
        std::iter::from_fn(|| tickets.next(true).map(|(_, question, _)| question)).collect()
    }

    /// R12.1
    #[test]
    fn peers_take_turns_and_the_chain_has_a_place() {
        let mut tickets = Tickets::new(2);
        for n in 0..10 {
            tickets.ask_item(ConnectionId(1), POOL, item(n), true);
        }
        tickets.ask_item(ConnectionId(2), POOL, item(20), true);
        let expected = [0, 20, 1, 2].map(|n| Question::Item(POOL, item(n)));
        assert_eq!(drain(&mut tickets), expected);
        // The chain has a lane of its own.
        let [first, second, third] = [1, 2, 3].map(|n| Question::Header(BlockId([n; 32])));
        [first, second, third].into_iter().for_each(|header| tickets.ask(header));
        assert_eq!(drain(&mut tickets), [first, second]);
        assert_eq!(tickets.out(), 6);
        tickets.answered(Ticket(4)).unwrap();
        assert_eq!(drain(&mut tickets), [third]);
        assert_eq!(tickets.answered(Ticket(4)), None);
    }

    /// R12.1
    #[test]
    fn new_items_do_not_wait_for_a_backlog() {
        let mut tickets = Tickets::new(4);
        for n in 0..4 {
            tickets.ask_item(ConnectionId(1), POOL, item(n), false);
        }
        for n in 10..13 {
            tickets.ask_item(ConnectionId(1), POOL, item(n), true);
        }
        let expected = [10, 0, 11, 1, 12, 2, 3].map(|n| Question::Item(POOL, item(n)));
        assert_eq!(drain(&mut tickets), expected);
    }

    /// R12.1
    #[test]
    fn a_pool_does_not_wait_for_all_of_another() {
        let mut tickets = Tickets::new(4);
        let other = PoolIndex(1);
        for n in 0..100 {
            tickets.ask_item(ConnectionId(1), POOL, item(n), n % 2 == 0);
        }
        for n in 100..102 {
            tickets.ask_item(ConnectionId(1), other, item(n), true);
        }
        let of = |pool, n| Question::Item(pool, item(n));
        let expected = [
            of(POOL, 0),
            of(other, 100),
            of(POOL, 1),
            of(other, 101),
            of(POOL, 2),
            of(POOL, 3),
            of(POOL, 4),
            of(POOL, 5),
            of(POOL, 6),
        ];
        assert_eq!(drain(&mut tickets), expected);
    }

    /// R12.1
    #[test]
    fn a_pool_that_takes_all_places_delays_no_other() {
        let mut tickets = Tickets::new(2);
        let [second, third] = [1, 2].map(PoolIndex);
        for connection in [1, 2] {
            for n in 0..100 {
                tickets.ask_item(ConnectionId(connection), POOL, item(n), true);
            }
        }
        assert_eq!(drain(&mut tickets).len(), 4);
        // The connections whose turn it is have no items of other pools.
        for (n, pool) in [(100, second), (101, second), (102, third)] {
            tickets.ask_item(ConnectionId(2), pool, item(n), true);
        }
        let of = |pool, n| Question::Item(pool, item(n));
        assert_eq!(drain(&mut tickets), [of(second, 100), of(third, 102), of(second, 101)]);
        // Room in a pool's lane is for that pool; room in the shared lane is for whose turn it is.
        tickets.ask_item(ConnectionId(2), second, item(103), true);
        tickets.answered(Ticket(5)).unwrap();
        assert_eq!(drain(&mut tickets), []);
        tickets.answered(Ticket(1)).unwrap();
        assert_eq!(drain(&mut tickets), [of(POOL, 2)]);
        tickets.answered(Ticket(4)).unwrap();
        assert_eq!(drain(&mut tickets), [of(second, 103)]);
    }

    /// Questions go where a worker is free: a slow pool fills its own lane and the shared one.
    #[test]
    fn a_question_takes_the_lane_that_is_free_first() {
        let mut tickets = Tickets::new(2);
        let other = PoolIndex(1);
        let mut ask = |pool, n| {
            tickets.ask_item(ConnectionId(1), pool, item(n), true);
            tickets.next(true).map(|(_, _, lane)| lane)
        };
        let lanes = [1, 2, 3, 4].map(|n| ask(POOL, n));
        let (own, shared) = (Some(Lane::Pool(POOL)), Some(Lane::Shared));
        assert_eq!(lanes, [own, shared, shared, own]);
        assert_eq!(ask(POOL, 5), None);
        assert_eq!(ask(other, 6), Some(Lane::Pool(other)));
        tickets.answered(Ticket(1)).unwrap();
        assert_eq!(tickets.next(true).map(|(_, _, lane)| lane), shared);
    }

    #[test]
    fn withdrawn_items_are_not_validated() {
        let mut tickets = Tickets::new(2);
        let other = PoolIndex(1);
        tickets.ask_item(ConnectionId(1), POOL, item(1), true);
        tickets.ask_item(ConnectionId(1), other, item(2), true);
        tickets.ask_item(ConnectionId(1), POOL, item(3), true);
        tickets.ask_item(ConnectionId(2), POOL, item(4), true);
        let header = Question::Header(BlockId([1; 32]));
        tickets.ask(header);
        assert_eq!(tickets.withdraw_items(ConnectionId(1), POOL), [item(1), item(3)]);
        assert!(tickets.withdraw(header) && !tickets.withdraw(header));
        assert_eq!(tickets.withdraw_items(ConnectionId(1), other), [item(2)]);
        assert_eq!(tickets.withdraw_items(ConnectionId(1), other), []);
        assert_eq!(drain(&mut tickets), [Question::Item(POOL, item(4))]);
    }

    #[test]
    fn the_chain_does_not_take_the_place_of_items() {
        let mut tickets = Tickets::new(2);
        let header = |n| Question::Header(BlockId([n; 32]));
        tickets.ask_item(ConnectionId(1), POOL, item(1), true);
        (1..=5).for_each(|n| tickets.ask(header(n)));
        let mut first: Vec<_> = (1..=4).map(header).collect();
        first.push(Question::Item(POOL, item(1)));
        assert_eq!(drain(&mut tickets), first);
        tickets.answered(Ticket(4)).unwrap();
        assert_eq!(drain(&mut tickets), []);
        tickets.answered(Ticket(0)).unwrap();
        assert_eq!(drain(&mut tickets), [header(5)]);
    }

    #[test]
    fn items_still_move_with_one_worker() {
        let mut tickets = Tickets::new(1);
        for n in 1..=3 {
            tickets.ask_item(ConnectionId(1), POOL, item(n), true);
        }
        assert_eq!(drain(&mut tickets).len(), 2);
        tickets.answered(Ticket(0)).unwrap();
        assert_eq!(drain(&mut tickets).len(), 1);
    }

    #[test]
    fn items_go_on_without_blocks() {
        let mut tickets = Tickets::new(1);
        tickets.ask(Question::Header(BlockId([1; 32])));
        tickets.ask_item(ConnectionId(1), POOL, item(1), true);
        let first = (Ticket(0), Question::Item(POOL, item(1)), Lane::Pool(POOL));
        assert_eq!(tickets.next(false), Some(first));
        assert_eq!(tickets.next(false), None);
    }
}
