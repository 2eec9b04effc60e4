//! Measurements while the demo runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate::id::{BlockId, ItemId};

/// The measurements of all nodes.
#[derive(Default)]
pub(crate) struct Measures {
    /// When each item was published, its size, and by which node.
    published: Mutex<HashMap<ItemId, (Instant, u64, usize)>>,
    /// When each block was made.
    produced: Mutex<HashMap<BlockId, Instant>>,
    items: Mutex<Vec<Duration>>,
    blocks: Mutex<Vec<Duration>>,
    pub transfers: AtomicU64,
    pub works: AtomicU64,
    pub transfers_in_blocks: AtomicU64,
    pub blocks_made: AtomicU64,
    useful_bytes: AtomicU64,
    /// Items that could not be published, since the pool was full or they were not executable.
    pub refused: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Measures {
    /// A node is about to publish an item of `bytes` bytes.
    pub(crate) fn publishing(&self, id: ItemId, bytes: u64, node: usize) {
        lock(&self.published).insert(id, (Instant::now(), bytes, node));
    }

    /// A node has got an item. Its publisher has it at once, which is not measured.
    pub(crate) fn added(&self, id: ItemId, node: usize) {
        let Some((at, bytes, publisher)) = lock(&self.published).get(&id).copied() else { return };
        if publisher != node {
            lock(&self.items).push(at.elapsed());
            self.useful_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A block was made.
    pub(crate) fn made(&self, id: BlockId, transfers: usize, at: Instant) {
        lock(&self.produced).insert(id, at);
        self.blocks_made.fetch_add(1, Ordering::Relaxed);
        self.transfers_in_blocks.fetch_add(transfers as u64, Ordering::Relaxed);
    }

    /// A node's tip is now a block that was measured when it was made.
    pub(crate) fn tip(&self, id: BlockId, own: bool) {
        let Some(at) = lock(&self.produced).get(&id).copied() else { return };
        if !own {
            lock(&self.blocks).push(at.elapsed());
        }
    }

    /// How long items took to reach the other nodes.
    pub(crate) fn item_latencies(&self) -> Vec<Duration> {
        lock(&self.items).clone()
    }

    /// How long blocks took to become the tips of the other nodes.
    pub(crate) fn block_latencies(&self) -> Vec<Duration> {
        lock(&self.blocks).clone()
    }

    /// Bytes of items, counted for each node that got them from another.
    pub(crate) fn useful_bytes(&self) -> u64 {
        self.useful_bytes.load(Ordering::Relaxed)
    }
}

/// The peak resident memory of this process in bytes, and its CPU time. Zero if the operating
/// system does not tell.
pub(crate) fn process() -> (u64, Duration) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses; user and system time are fields 14 and 15 of proc(5).
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // A tick is a hundredth of a second on every Linux that this runs on (USER_HZ).
    (peak.unwrap_or(0) * 1024, Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_uses_memory() {
        let (peak, _) = process();
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
    }

    #[test]
    fn only_items_that_others_received_count() {
        let measures = Measures::default();
        let id = ItemId([1; 32]);
        measures.added(id, 1);
        measures.publishing(id, 100, 0);
        measures.added(id, 0);
        assert_eq!((measures.useful_bytes(), measures.item_latencies().len()), (0, 0));
        measures.added(id, 1);
        assert_eq!((measures.useful_bytes(), measures.item_latencies().len()), (100, 1));
    }
}
