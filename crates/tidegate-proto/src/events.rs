//! The bounded queue of events for the application.

use std::collections::VecDeque;

use crate::io::Event;

/// Unread events.
///
/// The state is in the pools, events only tell of changes. So the core never waits for a reader,
/// and surplus events are counted instead of kept.
#[derive(Debug)]
pub struct EventQueue {
    unread: VecDeque<Event>,
    limit: usize,
    /// Bytes of the items among them.
    bytes: usize,
    lagged: u64,
}

impl EventQueue {
    /// The default bound: a few seconds of a busy pool, about 100 KiB.
    pub const DEFAULT_LIMIT: usize = 1024;

    /// The bound on bytes of items in unread events. An item in its pool shares its memory with the
    /// event; one that has left the pool is kept by the event. The item that crosses the bound is
    /// kept too.
    pub const BYTES: usize = 1 << 20;

    /// A queue for at most `limit` events.
    pub fn new(limit: usize) -> Self {
        Self { unread: VecDeque::new(), limit, bytes: 0, lagged: 0 }
    }

    /// Appends an event, or counts it if the queue is full.
    pub fn push(&mut self, event: Event) {
        if self.lagged > 0 || self.unread.len() >= self.limit || self.bytes >= Self::BYTES {
            self.lagged += 1;
        } else {
            self.bytes += bytes(&event);
            self.unread.push_back(event);
        }
    }

    /// The next event; [`Event::Lagged`] stands where some were dropped.
    pub fn pop(&mut self) -> Option<Event> {
        if let Some(event) = self.unread.pop_front() {
            self.bytes -= bytes(&event);
            return Some(event);
        }
        match std::mem::take(&mut self.lagged) {
            0 => None,
            n => Some(Event::Lagged(n)),
        }
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty() && self.lagged == 0
    }
}

/// Bytes of the item that an event holds.
fn bytes(event: &Event) -> usize {
    match event {
        Event::ItemAdded { body, .. } => body.len(),
        _ => 0,
    }
}

impl Default for EventQueue {
    fn default() -> Self {
        Self::new(Self::DEFAULT_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;

    fn event(height: u64) -> Event {
        Event::TipChanged { block: BlockId([0; 32]), height }
    }

    /// Unread events must not make the node keep items that have left its pools.
    #[test]
    fn bytes_of_items_are_bounded() {
        let mut queue = EventQueue::default();
        let item = |size: usize| Event::ItemAdded {
            pool: crate::id::PoolIndex(0),
            id: crate::id::ItemId([0; 32]),
            body: vec![0; size].into(),
        };
        queue.push(item(EventQueue::BYTES - 1));
        queue.push(item(1 << 20));
        queue.push(item(1));
        assert_eq!(queue.pop(), Some(item(EventQueue::BYTES - 1)));
        assert_eq!((queue.pop(), queue.pop()), (Some(item(1 << 20)), Some(Event::Lagged(1))));
        queue.push(item(1));
        assert_eq!((queue.pop(), queue.bytes), (Some(item(1)), 0));
    }

    #[test]
    fn dropped_events_are_counted_at_the_gap() {
        let mut queue = EventQueue::new(3);
        for height in 0..3 {
            queue.push(event(height));
        }
        assert_eq!(queue.pop(), Some(event(0)));
        queue.push(event(3));
        queue.push(event(4));
        queue.push(event(5));
        // There is room, but newer events must not be read before the gap.
        assert_eq!(queue.pop(), Some(event(1)));
        queue.push(event(6));
        let rest = std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>();
        assert_eq!(rest, [event(2), event(3), Event::Lagged(3)]);
        queue.push(event(7));
        assert_eq!(queue.pop(), Some(event(7)));
        assert!(queue.is_empty());
    }
}
