//! What has left and has no answer yet, numbered in the order in which it left.

use std::collections::BTreeMap;

use crate::time::Time;

/// What the other end answers by number, in any order.
#[derive(Debug)]
pub(super) struct Numbered<T> {
    next: u32,
    out: BTreeMap<u32, (T, Time)>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { next: 0, out: BTreeMap::new() }
    }
}

impl<T> Numbered<T> {
    /// One more leaves: its number.
    pub(super) fn push(&mut self, value: T, now: Time) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.out.insert(number, (value, now));
        number
    }

    /// One is answered; `None` if no such one is out.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        self.out.remove(&number).map(|(value, _)| value)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.out.get_mut(&number).map(|(value, _)| value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.out.values().map(|(value, _)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.out.values_mut().map(|(value, _)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Since when the oldest is out.
    pub(super) fn since(&self) -> Option<Time> {
        self.out.values().map(|(_, since)| *since).min()
    }

    pub(super) fn into_values(self) -> impl DoubleEndedIterator<Item = T> {
        self.out.into_values().map(|(value, _)| value)
    }
}
