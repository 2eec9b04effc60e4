//! The cost of a node with eight idle links: the memory of its process, and the part of it that is
//! not mapped from files.
//!
//! `cargo bench -p tidegate-cli --bench idle`. Nine processes on the loopback interface, each
//! connected to all others; takes two minutes.

#[allow(dead_code, reason = "it needs a part of it")]
#[path = "../tests/daemon/mod.rs"]
mod daemon;

use std::time::Duration;

use daemon::{Daemon, address, string, succeeds};

const LINKS: u64 = 8;
/// How long the nodes are idle before: code that is used only at the start is released each half
/// minute.
const SETTLE: Duration = Duration::from_secs(75);
/// The interval of samples, and their number.
const INTERVAL: Duration = Duration::from_secs(7);
const LOOKS: usize = 5;
const TARGET_MB: f64 = 12.0;

/// A line of `/proc/PID/status`, in MB.
fn of_status(process: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of it");
    let kib = line.split_ascii_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    kib.expect("a number") * 1024.0 / 1e6
}

/// The median, the minimum and the maximum.
fn spread(mut sizes: Vec<f64>) -> (f64, f64, f64) {
    sizes.sort_by(f64::total_cmp);
    (sizes[sizes.len() / 2], sizes[0], sizes[sizes.len() - 1])
}

fn main() {
    // `cargo test` runs benches too, to check that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    succeeds(&["init", string(&folder.join("net"))]);
    let genesis = folder.join("net/genesis.toml");
    // The only producer is not running: there are no blocks.
    let node = |n| Daemon::new(folder.join(format!("{n}")), &genesis, "");
    let mut nodes = (0..=LINKS).map(node).collect::<Vec<_>>();
    let bootstrap = address(nodes[0].port);
    for (n, node) in nodes.iter_mut().enumerate() {
        let known = ["--bootstrap", &bootstrap];
        node.start(if n > 0 { &known } else { &[] });
    }
    daemon::until("all are connected", || nodes.iter().all(|node| node.peers() == LINKS));
    std::thread::sleep(SETTLE);
    let (mut resident, mut anonymous) = (Vec::new(), Vec::new());
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(INTERVAL);
        }
        resident.extend(nodes.iter().map(|node| of_status(node.id(), "VmRSS:")));
        anonymous.extend(nodes.iter().map(|node| of_status(node.id(), "RssAnon:")));
    }
    println!("a node with {LINKS} idle links, {} nodes looked at {LOOKS} times:", nodes.len());
    let (median, least, most) = spread(resident);
    let met = if median <= TARGET_MB { "met" } else { "missed" };
    println!("  resident  {median:.1} MB ({least:.1} to {most:.1}), target {TARGET_MB} MB: {met}");
    let (median, least, most) = spread(anonymous);
    println!("  anonymous {median:.1} MB ({least:.1} to {most:.1})");
}
