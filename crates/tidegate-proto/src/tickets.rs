//! Whose turn it is to have something checked (specification section 12).
//!
//! Only so many tickets are out at a time, so no queue builds up in the validator; what waits
//! here is bounded by the permits that paid for it. Peers take turns, and the pools of each peer, so
//! validation time is shared out like bytes are. One place is kept for headers and blocks.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{BlockId, ConnectionId, ItemId, PoolIndex, Ticket};

/// What a ticket is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Item(PoolIndex, ItemId),
    Header(BlockId),
    Block(BlockId),
}

/// Questions to the application.
#[derive(Debug)]
pub(crate) struct Tickets {
    limit: usize,
    next: u64,
    chain: VecDeque<Question>,
    items: BTreeMap<ConnectionId, Waiting>,
    turns: VecDeque<ConnectionId>,
    out: BTreeMap<Ticket, Question>,
    items_out: usize,
}

/// Items of one peer that wait.
#[derive(Debug, Default)]
struct Waiting {
    /// Those of which something waits, in turn: a pool whose verdicts take long has its permits'
    /// worth waiting, and the others must not wait for all of that.
    pools: VecDeque<(PoolIndex, OfPool)>,
}

/// Items of one peer and pool that wait.
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

    fn next(&mut self) -> Option<(PoolIndex, ItemId)> {
        let (pool, mut waiting) = self.pools.pop_front()?;
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

    /// What was pushed is new, and what was fetched may be a long backlog: they take turns.
    fn next(&mut self) -> Option<ItemId> {
        let (first, second) = match self.fetched_next {
            true => (&mut self.fetched, &mut self.pushed),
            false => (&mut self.pushed, &mut self.fetched),
        };
        self.fetched_next = !self.fetched_next;
        first.pop_front().or_else(|| second.pop_front())
    }
}

impl Tickets {
    /// At most two tickets for each worker are out: none waits while the next is picked.
    pub(crate) fn new(workers: u32) -> Self {
        Self {
            limit: workers as usize * 2,
            next: 0,
            chain: VecDeque::new(),
            items: BTreeMap::new(),
            turns: VecDeque::new(),
            out: BTreeMap::new(),
            items_out: 0,
        }
    }

    /// An item that `link` delivered is to be checked; whether it was pushed.
    pub(crate) fn ask_item(
        &mut self,
        link: ConnectionId,
        pool: PoolIndex,
        id: ItemId,
        pushed: bool,
    ) {
        let waiting = self.items.entry(link).or_default();
        if waiting.pools.is_empty() {
            self.turns.push_back(link);
        }
        waiting.push(pool, id, pushed);
    }

    /// A header or a block is to be checked.
    pub(crate) fn ask(&mut self, question: Question) {
        self.chain.push_back(question);
    }

    /// Items of a pool that wait for a link's turn: they are not asked about.
    pub(crate) fn withdraw_items(&mut self, link: ConnectionId, pool: PoolIndex) -> Vec<ItemId> {
        let Some(waiting) = self.items.get_mut(&link) else { return Vec::new() };
        let mut withdrawn = Vec::new();
        if let Some(at) = waiting.pools.iter().position(|(of, _)| *of == pool)
            && let Some((_, gone)) = waiting.pools.remove(at)
        {
            withdrawn.extend(gone.pushed.into_iter().chain(gone.fetched));
        }
        if waiting.pools.is_empty() {
            self.items.remove(&link);
            self.turns.retain(|turn| *turn != link);
        }
        withdrawn
    }

    /// Does not ask about a header or a block, if it still waits: whether it did.
    pub(crate) fn withdraw(&mut self, question: Question) -> bool {
        let waiting = self.chain.len();
        self.chain.retain(|waits| *waits != question);
        self.chain.len() < waiting
    }

    /// The next question, if there is room for it. Headers and blocks go first; one place is kept
    /// for them, and one for items while any wait. Without `blocks` they wait, as the store is behind.
    pub(crate) fn next(&mut self, blocks: bool) -> Option<(Ticket, Question)> {
        if self.out.len() >= self.limit {
            return None;
        }
        let kept =
            !self.turns.is_empty() && self.items_out == 0 && self.out.len() + 1 == self.limit;
        let question = match self.chain.pop_front_if(|_| blocks && !kept) {
            Some(question) => question,
            None if self.items_out + 1 >= self.limit => return None,
            None => {
                // R12.1
                let link = self.turns.pop_front()?;
                let waiting = self.items.get_mut(&link)?;
                let (pool, id) = waiting.next()?;
                if waiting.pools.is_empty() {
                    self.items.remove(&link);
                } else {
                    self.turns.push_back(link);
                }
                self.items_out += 1;
                Question::Item(pool, id)
            }
        };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.out.insert(ticket, question);
        Some((ticket, question))
    }

    /// The answer is there: what the question was.
    pub(crate) fn answered(&mut self, ticket: Ticket) -> Option<Question> {
        let question = self.out.remove(&ticket)?;
        if matches!(question, Question::Item(..)) {
            self.items_out -= 1;
        }
        Some(question)
    }

    /// What a ticket that is out is about.
    pub(crate) fn question(&self, ticket: Ticket) -> Option<Question> {
        self.out.get(&ticket).copied()
    }

    /// Tickets that are out.
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
        std::iter::from_fn(|| tickets.next(true).map(|(_, question)| question)).collect()
    }

    /// R12.1
    #[test]
    fn peers_take_turns_and_one_place_is_kept() {
        let mut tickets = Tickets::new(2);
        for n in 0..10 {
            tickets.ask_item(ConnectionId(1), POOL, item(n), true);
        }
        tickets.ask_item(ConnectionId(2), POOL, item(20), true);
        let expected = [0, 20, 1].map(|n| Question::Item(POOL, item(n)));
        assert_eq!(drain(&mut tickets), expected);
        // The fourth place is for the chain only.
        tickets.ask(Question::Header(BlockId([1; 32])));
        tickets.ask(Question::Block(BlockId([2; 32])));
        assert_eq!(drain(&mut tickets), [Question::Header(BlockId([1; 32]))]);
        assert_eq!(tickets.out(), 4);
        tickets.answered(Ticket(0)).unwrap();
        assert_eq!(drain(&mut tickets), [Question::Block(BlockId([2; 32]))]);
        assert_eq!(tickets.answered(Ticket(0)), None);
    }

    /// R12.1
    #[test]
    fn what_is_new_does_not_wait_for_a_backlog() {
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
        ];
        assert_eq!(drain(&mut tickets), expected);
    }

    #[test]
    fn what_is_withdrawn_is_not_asked() {
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
    fn one_place_is_kept_for_items() {
        let mut tickets = Tickets::new(2);
        let header = |n| Question::Header(BlockId([n; 32]));
        tickets.ask_item(ConnectionId(1), POOL, item(1), true);
        (1..=4).for_each(|n| tickets.ask(header(n)));
        let first = [header(1), header(2), header(3), Question::Item(POOL, item(1))];
        assert_eq!(drain(&mut tickets), first);
        // None waits now.
        tickets.answered(Ticket(3)).unwrap();
        assert_eq!(drain(&mut tickets), [header(4)]);
    }

    #[test]
    fn with_one_worker_items_still_move() {
        let mut tickets = Tickets::new(1);
        tickets.ask_item(ConnectionId(1), POOL, item(1), true);
        tickets.ask_item(ConnectionId(1), POOL, item(2), true);
        assert_eq!(drain(&mut tickets).len(), 1);
        tickets.answered(Ticket(0)).unwrap();
        assert_eq!(drain(&mut tickets).len(), 1);
    }
}
