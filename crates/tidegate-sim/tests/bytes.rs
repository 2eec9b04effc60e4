//! Measures what the cores of honest nodes hold while a hostile one takes part: bytes that were
//! allocated inside calls into them and are not freed, at any moment, compared with their share in
//! `Config::worst_case_bytes`. The limits are small, so that it shows. It must be the only test of
//! its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use tidegate_sim::{Entropy, Scenario, World, inside};

/// Nodes that are told apart.
const NODES: usize = 4;
/// The size of the owner's number before each allocation.
const PREFIX: usize = 16;

static HELD: [AtomicI64; NODES] = [const { AtomicI64::new(0) }; NODES];
static MOST: [AtomicI64; NODES] = [const { AtomicI64::new(0) }; NODES];

/// The system's allocator, with a note of the core that each allocation was made in.
struct Owned;

fn with_prefix(layout: Layout) -> (Layout, usize) {
    let prefix = layout.align().max(PREFIX);
    let size = layout.size().checked_add(prefix);
    let all = size.and_then(|size| Layout::from_size_align(size, prefix).ok());
    (all.unwrap_or_else(|| std::process::abort()), prefix)
}

// SAFETY: this is the system's allocator with room for an aligned word in front of each allocation,
// which is freed with the rest.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Owned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (all, prefix) = with_prefix(layout);
        // SAFETY: its size is not 0.
        let start = unsafe { System.alloc(all) };
        if start.is_null() {
            return start;
        }
        let owner = inside().filter(|node| *node < NODES);
        if let Some(node) = owner {
            let held = HELD[node].fetch_add(layout.size() as i64, Relaxed) + layout.size() as i64;
            MOST[node].fetch_max(held, Relaxed);
        }
        // SAFETY: the word and the address behind the prefix are inside the allocation.
        unsafe {
            let at = start.add(prefix);
            at.sub(PREFIX).cast::<usize>().write(owner.unwrap_or(NODES));
            at
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let (all, prefix) = with_prefix(layout);
        // SAFETY: it was allocated above, with this layout.
        let owner = unsafe { at.sub(PREFIX).cast::<usize>().read() };
        if let Some(held) = HELD.get(owner) {
            held.fetch_sub(layout.size() as i64, Relaxed);
        }
        // SAFETY: as above.
        unsafe { System.dealloc(at.sub(prefix), all) }
    }
}

#[global_allocator]
static OWNED: Owned = Owned;

const SCENARIO: &str = "
nodes = 4
dials = 3
producers = 4
provers = 2
small = true
trouble_ms = 20000
produce_ms = 1500
load_ms = 500
settle_ms = 14000

[links]
least_delay_ms = 1
most_delay_ms = 60

[load]
transfers = 40
last_transfers = 16
accounts = 1

[work]
jobs_per_block = 1
max_jobs = 8
difficulty = 0
weight = 62000

[faults]
resets = 2000
hostile_nodes = [3]
";

/// The most that an honest core holds at any moment of these worlds, beyond what it holds at the
/// start; and the bound.
fn most_held(scenario: &Scenario) -> (i64, i64) {
    let (mut most, mut promised) = (0, 0);
    for seed in 0..12 {
        // Memory of an earlier world has been freed by now.
        MOST.iter().zip(&HELD).for_each(|(most, held)| most.store(held.load(Relaxed), Relaxed));
        let before = HELD.each_ref().map(|held| held.load(Relaxed));
        let report = World::new(scenario.clone(), Entropy::seed(seed)).run();
        assert_eq!(report.broken, None, "seed {seed}");
        promised = report.worst_case_core_bytes as i64;
        for node in 0..NODES - 1 {
            let held = MOST[node].load(Relaxed) - before[node];
            most = most.max(held);
            assert!(held <= promised, "seed {seed}: node {node} held {held} of {promised} bytes");
        }
    }
    (most, promised)
}

#[test]
fn cores_hold_what_was_promised() {
    let scenario = Scenario::from_toml(SCENARIO).unwrap();
    let (most, promised) = most_held(&scenario);
    let mut honest = scenario;
    honest.faults.hostile_nodes.clear();
    let (usual, _) = most_held(&honest);
    println!(
        "{} KiB, {} KiB among honest, {} KiB promised",
        most >> 10,
        usual >> 10,
        promised >> 10
    );
    assert!(most > 256 << 10, "{most}: nothing was counted");
    assert!(most < usual * 2, "{most} bytes, and {usual} where nobody is hostile");
}
