//! Places for connections, shared by all transports of a node: their total bounds what strangers
//! can make it hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_proto::Limits;

/// The number of connections of all transports of a node. A transport takes a place for each, which
/// is free again when the [`Place`] is dropped.
#[derive(Clone, Debug)]
pub struct Places(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    taken: AtomicUsize,
    most: usize,
}

/// A place for one connection, until it is dropped.
#[derive(Debug)]
pub struct Place(Places);

impl Places {
    /// As many as these limits allow: peers, and connections in the hello or being refused.
    pub fn new(limits: &Limits) -> Self {
        let most = limits.max_inbound + limits.max_outbound + limits.handshakes;
        Self(Arc::new(Counted { taken: AtomicUsize::new(0), most: most as usize }))
    }

    /// Whether there is no place left for an inbound connection.
    pub fn is_full(&self) -> bool {
        self.0.taken.load(Ordering::Relaxed) >= self.0.most
    }

    /// A place for an inbound connection, if there is one.
    pub fn take(&self) -> Option<Place> {
        let more = |taken| (taken < self.0.most).then_some(taken + 1);
        let taken = self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Place(self.clone()))
    }

    /// A place for an outbound connection. The core limits their number, and strangers must not
    /// keep it from finding peers.
    pub fn add(&self) -> Place {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_over_all_transports() {
        let mut limits = Limits::default();
        (limits.max_inbound, limits.max_outbound, limits.handshakes) = (1, 1, 1);
        let first = Places::new(&limits);
        // Another transport of the same node.
        let second = first.clone();
        let taken = [first.take(), second.take(), first.take()];
        assert!(taken.iter().all(Option::is_some) && second.take().is_none() && first.is_full());
        // Outbound connections find a place, and count.
        let dialed = second.add();
        drop(taken);
        assert!(!first.is_full());
        let taken = [first.take(), first.take()];
        assert!(taken.iter().all(Option::is_some) && first.take().is_none());
        drop(dialed);
        assert!(first.take().is_some());
    }
}
