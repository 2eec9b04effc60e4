//! Queues that take turns.

use std::collections::{BTreeMap, VecDeque};

/// What waits, by whose it is. The one that has waited longest has the next turn; after it, it is the last if it has
/// more. So no one that has many holds up the others, and newcomers do not go before those that were there. R18.6
#[derive(Debug)]
pub(super) struct Turns<K, V> {
    order: VecDeque<K>,
    queues: BTreeMap<K, VecDeque<V>>,
}

impl<K, V> Default for Turns<K, V> {
    fn default() -> Self {
        Self { order: VecDeque::new(), queues: BTreeMap::new() }
    }
}

impl<K: Copy + Ord, V> Turns<K, V> {
    pub(super) fn push(&mut self, key: K, value: V) {
        self.queue(key).push_back(value);
    }

    /// Before all others with this key.
    pub(super) fn push_front(&mut self, key: K, value: V) {
        self.queue(key).push_front(value);
    }

    fn queue(&mut self, key: K) -> &mut VecDeque<V> {
        if !self.queues.contains_key(&key) {
            self.order.push_back(key);
        }
        self.queues.entry(key).or_default()
    }

    /// The next, of those whose turn may come.
    pub(super) fn pop(&mut self, may: impl Fn(&K) -> bool) -> Option<(K, V)> {
        let at = self.order.iter().position(may)?;
        let key = self.order.remove(at)?;
        let queue = self.queues.get_mut(&key)?;
        let value = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&key);
        } else {
            self.order.push_back(key);
        }
        Some((key, value))
    }

    /// Removes one, at the cost of what waits with its key and of the number of keys.
    pub(super) fn remove(&mut self, key: &K, value: &V)
    where
        V: PartialEq,
    {
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.retain(|other| other != value);
        if queue.is_empty() {
            self.queues.remove(key);
            self.order.retain(|other| other != key);
        }
    }

    /// Keeps those for which it is true.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.queues.retain(|key, queue| {
            queue.retain(|value| keep(key, value));
            !queue.is_empty()
        });
        self.order.retain(|key| self.queues.contains_key(key));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// How many wait with this key.
    pub(super) fn of(&self, key: &K) -> usize {
        self.queues.get(key).map_or(0, VecDeque::len)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.queues.values().flatten()
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = (K, V)> {
        let queues = self.queues.into_iter();
        queues.flat_map(|(key, queue)| queue.into_iter().map(move |value| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(turns: &mut Turns<u8, u8>) -> Vec<(u8, u8)> {
        std::iter::from_fn(|| turns.pop(|_| true)).collect()
    }

    #[test]
    fn those_who_wait_take_turns() {
        let mut turns = Turns::default();
        for (key, value) in [(3, 0), (3, 1), (3, 2), (2, 0), (1, 0), (1, 1)] {
            turns.push(key, value);
        }
        turns.remove(&1, &0);
        turns.push(4, 0);
        turns.remove(&4, &0);
        turns.push(5, 0);
        turns.retain(|key, _| *key != 5);
        turns.push_front(2, 9);
        assert_eq!(turns.pop(|key| *key != 3), Some((2, 9)));
        assert_eq!(all(&mut turns), [(3, 0), (1, 1), (2, 0), (3, 1), (3, 2)]);
        assert!(turns.is_empty());
    }

    #[test]
    fn newcomers_do_not_go_before_those_that_were_there() {
        let mut turns = Turns::default();
        turns.push(200, 0);
        for newcomer in 0..20 {
            turns.push(2 * newcomer, 0);
            turns.push(2 * newcomer + 1, 0);
            let (key, _) = turns.pop(|_| true).unwrap();
            assert_eq!(key, if newcomer == 0 { 200 } else { newcomer - 1 });
        }
    }
}
