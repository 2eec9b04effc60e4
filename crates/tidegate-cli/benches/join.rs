//! A new node joins a network with a long history under load: how long it takes to reach the tip,
//! what that costs it in bytes and memory, and whether the others are affected.
//!
//! `cargo bench -p tidegate-cli --bench join`; `TIDEGATE_BENCH_BLOCKS` blocks of history, 10,000 by
//! default. Three processes on the loopback interface: two with the history, and one that joins.

#[allow(dead_code, reason = "it needs a part of it")]
#[path = "../tests/daemon/mod.rs"]
mod daemon;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use daemon::{Daemon, address, key, key_file, nonce, public, submit};
use tidegate::io::Fate;
use tidegate::{Answer, Builder, Identity, Store};
use tidegate_ledger::{Genesis, Ledger, LedgerRules, Saved, Transfer, WorkRules, account, pools};

/// Transfers in each block of the history.
const OLD: u64 = 20;
/// Transfers a second meanwhile, and the number of their senders.
const RATE: u64 = 100;
const SENDERS: u64 = 4;
const SLOT_MS: u64 = 500;
/// How long transfers are measured before the node joins.
const QUIET: Duration = Duration::from_secs(10);

fn sender(n: u64) -> String {
    format!("sender {n}")
}

/// A network that has been running for this number of slots.
fn genesis(blocks: u64) -> Genesis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64;
    let rich = (0..SENDERS).map(sender).chain(["past".to_owned()]);
    Genesis {
        name: "join".into(),
        start_ms: now - (blocks + 1) * SLOT_MS,
        slot_ms: SLOT_MS,
        producers: vec![public("producer")],
        accounts: rich.map(|name| (public(&name), 1_000_000_000)).collect(),
        work: WorkRules::default(),
    }
}

/// Writes the history into the store of a folder, as the node that made it would have.
async fn write_history(folder: &Path, genesis: &Genesis, blocks: u64) {
    let header = genesis.header().to_bytes();
    let names = pools().into_iter().map(|pool| pool.name);
    let store = Store::open(folder.join("store"), genesis.network(), &header, names);
    let mut ledger = Ledger::restore(genesis.clone(), Saved::default()).expect("a genesis");
    let mut limits = tidegate::Limits::default();
    // Exits without goodbyes.
    limits.store_backlog = 1 << 30;
    let validator = |_: tidegate::io::Subject, answer: Answer| answer.ignore();
    let builder = Builder::new(genesis.network(), LedgerRules, validator)
        .identity(Identity::generate().expect("randomness"))
        .genesis(header)
        .limits(limits)
        .outbound(0)
        .listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address"))
        .store(store.expect("a store"));
    let builder = pools().into_iter().fold(builder, Builder::pool);
    let (node, _events) = builder.start().expect("a node");
    let (producer, from, to) = (key("producer"), key("past"), account(&key("nobody")));
    for slot in 1..=blocks {
        let transfers = (0..OLD).map(|n| {
            let nonce = (slot - 1) * OLD + n;
            let body = Transfer::new(&genesis.network(), &from, to, 1, 1, nonce).to_bytes();
            (Transfer::id(&body), body)
        });
        let transfers = transfers.collect::<Vec<_>>();
        let (block, tip) = ledger.propose(slot, &producer, transfers, []).expect("its turn");
        assert_eq!(block.items.len() as u64, OLD);
        let fate = node.publish_block(block).expect("a running node");
        node.set_tip(tip).expect("a running node");
        assert_eq!(fate.await, Ok(Fate::Accepted));
    }
    node.shutdown().await;
}

/// Publishes transfers at a node at a pace, and counts those that were accepted.
fn load(genesis: &Genesis, at: &Path, n: u64, accepted: &AtomicU64, stop: &AtomicBool) {
    let (from, to) = (key(&sender(n)), account(&key("nobody")));
    let begin = Instant::now();
    for nonce in 0.. {
        let due = begin + Duration::from_micros(nonce * 1_000_000 * SENDERS / RATE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let transfer = Transfer::new(&genesis.network(), &from, to, 1, 1, nonce);
        submit(at, &transfer.to_bytes()).expect("it is accepted");
        accepted.fetch_add(1, Ordering::Relaxed);
    }
}

/// The peak memory of a process, in MB.
fn peak_memory(daemon: &Daemon) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux");
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number");
    kilobytes * 1024.0 / 1e6
}

fn bytes(daemon: &Daemon, what: &str) -> f64 {
    daemon.status()[what].as_f64().expect("a number")
}

fn main() {
    // `cargo test` runs benches too, to check that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let blocks = std::env::var("TIDEGATE_BENCH_BLOCKS").ok().and_then(|text| text.parse().ok());
    let blocks = blocks.unwrap_or(10_000);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let genesis = genesis(blocks);
    let file = folder.join("genesis.toml");
    std::fs::write(&file, genesis.to_toml()).expect("a file");
    let config = format!("producer_key = {:?}\n", key_file(folder, "producer"));
    let mut first = Daemon::new(folder.join("first"), &file, &config);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(write_history(&first.folder, &genesis, blocks));
    let mut second = Daemon::new(folder.join("second"), &file, "");
    std::fs::create_dir(second.folder.join("store")).expect("a folder");
    for name in ["store/store.redb", "store/store.note"] {
        std::fs::copy(first.folder.join(name), second.folder.join(name)).expect("a copy");
    }
    first.start(&[]);
    let bootstrap = address(first.port);
    second.start(&["--bootstrap", &bootstrap]);
    daemon::until("they meet", || first.peers() == 1 && first.height() > blocks);
    let size = std::fs::metadata(second.folder.join("store/store.redb")).expect("a file").len();
    println!("history: {blocks} blocks of {OLD} transfers; the store has {} MB", size / 1_000_000);

    let (accepted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (genesis, at, accepted, stop) = (&genesis, &first.folder, &accepted, &stop);
        for n in 0..SENDERS {
            scope.spawn(move || load(genesis, at, n, accepted, stop));
        }
        std::thread::sleep(QUIET);
        let rate = |count: u64, time: Duration| count as f64 / time.as_secs_f64();
        let before = accepted.load(Ordering::Relaxed);
        println!("before: {:.0} transfers/s", rate(before, QUIET));

        let mut late = Daemon::new(folder.join("late"), &file, "");
        let since = Instant::now();
        late.start(&["--bootstrap", &bootstrap]);
        daemon::until("it is at the tip", || late.height() + 1 >= first.height());
        let took = since.elapsed();
        let meanwhile = accepted.load(Ordering::Relaxed) - before;
        println!("joined within {:.1} s", took.as_secs_f64());
        println!("  {:.0} blocks/s", blocks as f64 / took.as_secs_f64());
        let received = bytes(&late, "bytes_received") / 1e6;
        let sent = bytes(&late, "bytes_sent") / 1e6;
        println!("  {received:.1} MB received, {sent:.1} MB sent");
        println!("  {:.1} MB of memory at most", peak_memory(&late));
        println!("  meanwhile: {:.0} transfers/s", rate(meanwhile, took));
        println!("  {:.1} MB of memory at most of one who served", peak_memory(&first));
        stop.store(true, Ordering::Relaxed);
    });
    let nonce = nonce(&first.folder, &public("past"));
    assert_eq!(nonce, Some(blocks * OLD), "all of the history is there");
}
