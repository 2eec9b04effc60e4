//! Whose turn it is to have something checked (specification section 12).
//!
//! Only so many tickets are out at a time, so no queue builds up in the validator; what waits
//! here is bounded by the permits that paid for it. Peers take turns, so validation time is shared
//! out like bytes are. One place is kept for headers and blocks.

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
    items: BTreeMap<ConnectionId, VecDeque<Question>>,
    turns: VecDeque<ConnectionId>,
    out: BTreeMap<Ticket, Question>,
    items_out: usize,
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

    /// An item that `link` delivered is to be checked.
    pub(crate) fn ask_item(&mut self, link: ConnectionId, pool: PoolIndex, id: ItemId) {
        let queue = self.items.entry(link).or_default();
        if queue.is_empty() {
            self.turns.push_back(link);
        }
        queue.push_back(Question::Item(pool, id));
    }

    /// A header or a block is to be checked.
    pub(crate) fn ask(&mut self, question: Question) {
        self.chain.push_back(question);
    }

    /// Items of a pool that wait for a link's turn: they are not asked about.
    pub(crate) fn withdraw_items(&mut self, link: ConnectionId, pool: PoolIndex) -> Vec<ItemId> {
        let Some(queue) = self.items.get_mut(&link) else { return Vec::new() };
        let mut withdrawn = Vec::new();
        queue.retain(|question| match question {
            Question::Item(of, id) if *of == pool => {
                withdrawn.push(*id);
                false
            }
            _ => true,
        });
        if queue.is_empty() {
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
                let queue = self.items.get_mut(&link)?;
                let question = queue.pop_front()?;
                if queue.is_empty() {
                    self.items.remove(&link);
                } else {
                    self.turns.push_back(link);
                }
                self.items_out += 1;
                question
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
            tickets.ask_item(ConnectionId(1), POOL, item(n));
        }
        tickets.ask_item(ConnectionId(2), POOL, item(20));
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

    #[test]
    fn what_is_withdrawn_is_not_asked() {
        let mut tickets = Tickets::new(2);
        let other = PoolIndex(1);
        tickets.ask_item(ConnectionId(1), POOL, item(1));
        tickets.ask_item(ConnectionId(1), other, item(2));
        tickets.ask_item(ConnectionId(1), POOL, item(3));
        tickets.ask_item(ConnectionId(2), POOL, item(4));
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
        tickets.ask_item(ConnectionId(1), POOL, item(1));
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
        tickets.ask_item(ConnectionId(1), POOL, item(1));
        tickets.ask_item(ConnectionId(1), POOL, item(2));
        assert_eq!(drain(&mut tickets).len(), 1);
        tickets.answered(Ticket(0)).unwrap();
        assert_eq!(drain(&mut tickets).len(), 1);
    }
}
