//! What waits for the permits of one receiver.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::id::ConnectionId;

/// A signal of a peer: the connection it came on, and its number there.
pub(super) type Of = (ConnectionId, u32);

/// Signals for one receiver, by the connection they came on.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: BTreeMap<ConnectionId, VecDeque<u32>>,
}

impl Waiting {
    pub(super) fn push(&mut self, of: Of) {
        self.queues.entry(of.0).or_default().push_back(of.1);
    }

    /// The next: of those that came on the connection after `turn`, whose turn was last. So nobody who has many
    /// holds up the others. R18.6
    pub(super) fn pop(&mut self, turn: Option<ConnectionId>) -> Option<Of> {
        let after = turn.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.queues.range((after, Bound::Unbounded));
        let next = rest.next().or_else(|| self.queues.iter().next());
        let asker = *next?.0;
        let number = self.queues.get_mut(&asker)?.pop_front()?;
        self.clean(asker);
        Some((asker, number))
    }

    pub(super) fn remove(&mut self, of: Of) {
        if let Some(queue) = self.queues.get_mut(&of.0) {
            queue.retain(|number| *number != of.1);
        }
        self.clean(of.0);
    }

    fn clean(&mut self, asker: ConnectionId) {
        if self.queues.get(&asker).is_some_and(VecDeque::is_empty) {
            self.queues.remove(&asker);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = Of> {
        let queues = self.queues.into_iter();
        queues.flat_map(|(asker, queue)| queue.into_iter().map(move |number| (asker, number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn askers_take_turns() {
        let mut waiting = Waiting::default();
        let [a, b, c] = [1, 2, 3].map(ConnectionId);
        for of in [(a, 0), (a, 1), (a, 2), (b, 0), (c, 0), (c, 1)] {
            waiting.push(of);
        }
        waiting.remove((c, 0));
        let mut turn = None;
        let order = std::iter::from_fn(|| {
            let of = waiting.pop(turn)?;
            turn = Some(of.0);
            Some(of)
        });
        let order = order.collect::<Vec<_>>();
        assert_eq!(order, [(a, 0), (b, 0), (c, 1), (a, 1), (a, 2)]);
        assert!(waiting.is_empty());
    }
}
