//! `tidegate demo`: real nodes over real QUIC on this machine, under load, compared at the end.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tidegate::Node;
use tidegate::id::{BlockId, ItemId};
use tidegate_ledger::{TRANSFERS, WORKS};

mod measure;
mod network;
mod summary;
mod table;

use measure::Measures;
use network::Network;
use summary::Summary;
use table::Table;

use crate::print::{self, say};

/// How long the load continues after the producers have stopped, so that the pools are not empty
/// when they are compared.
const LAST_LOAD: Duration = Duration::from_secs(3);
/// How long the nodes may take to converge.
const SETTLE: Duration = Duration::from_secs(10);
/// How often they are compared.
const COMPARE_EVERY: Duration = Duration::from_millis(50);

/// The longest demo: a week.
const MAX_SECONDS: u64 = 7 * 86_400;
/// The most transfers a second: more than one machine makes.
const MAX_RATE: u64 = 100_000;

/// The network and its load.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Nodes, each of them a full one.
    #[arg(long, default_value_t = 8)]
    nodes: usize,
    /// How long blocks are made.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Transfers a second, on all nodes together.
    #[arg(long, default_value_t = 200, allow_negative_numbers = true)]
    tx_rate: u64,
    /// What the nodes are connected over. With webrtc only the first one listens, and the others meet by way of it.
    #[arg(long, value_enum, default_value_t = Over::Quic)]
    transport: Over,
    /// Only the first node listens, as if all others were behind routers: they meet by way of it, over WebRTC.
    #[arg(long)]
    nat: bool,
    /// Print the summary as JSON and nothing else.
    #[arg(long)]
    json: bool,
    /// Kill the node that the others learn of each other from, half way.
    #[arg(long)]
    kill_first: bool,
    /// Write each node's run to this folder, for `tidegate replay`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

/// What the nodes of the demo are connected over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Over {
    Quic,
    Webrtc,
    Tcp,
}

/// Runs the demo; `true` if all nodes came to the same end.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    ensure!((2..=128).contains(&arguments.nodes), "--nodes: between 2 and 128");
    ensure!(
        (1..=MAX_SECONDS).contains(&arguments.seconds),
        "--seconds: between 1 and {MAX_SECONDS}"
    );
    ensure!(arguments.tx_rate <= MAX_RATE, "--tx-rate: at most {MAX_RATE}");
    let least = if arguments.kill_first { 3 } else { 2 };
    ensure!(arguments.nodes >= least, "--kill-first: two nodes at least must be left");
    if let Some(folder) = &arguments.record {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    ensure!(
        !arguments.nat || arguments.transport != Over::Tcp,
        "--nat: the nodes meet over WebRTC, not over TCP"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(demo(arguments))?;
    if arguments.json {
        print::json(&summary)?;
    } else {
        say!("{summary}");
    }
    Ok(summary.converged)
}

async fn demo(arguments: &Arguments) -> anyhow::Result<Summary> {
    let measures = Arc::new(Measures::default());
    let over = if arguments.nat { Over::Webrtc } else { arguments.transport };
    let record = arguments.record.as_deref();
    let mut network = Network::start(arguments.nodes, over, record, &measures)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let mut interrupted = Box::pin(tokio::signal::ctrl_c());
    // Signals are handled from the first poll on, which must come before any output.
    let first = poll_fn(|cx| Poll::Ready(interrupted.as_mut().poll(cx))).await;
    if first.is_pending() {
        let stopped = stopped.clone();
        tokio::spawn(async move {
            stopped.store(interrupted.await.is_ok(), Ordering::Relaxed);
        });
    }
    let mut table = Table::new(arguments.json, network.len());
    let started = Instant::now();
    network.begin_load(arguments.tx_rate, &measures);
    network.begin_producing(&measures);
    let produce = Duration::from_secs(arguments.seconds);
    if arguments.kill_first {
        let half = produce / 2;
        watch(&network, &measures, &mut table, &stopped, started, half, "producing").await?;
        network.kill_first();
    }
    watch(&network, &measures, &mut table, &stopped, started, produce, "producing").await?;
    network.stop_producing();
    let end = started.elapsed() + LAST_LOAD;
    watch(&network, &measures, &mut table, &stopped, started, end, "load only").await?;
    network.stop_load();
    let (state, settled) = settle(&network).await?;
    table.finish();
    let summary = Summary::new(&network, &measures, &state, settled, started.elapsed()).await?;
    network.shutdown().await;
    Ok(summary)
}

/// Shows the progress, until a time or an interrupt.
async fn watch(
    network: &Network,
    measures: &Measures,
    table: &mut Table,
    stopped: &AtomicBool,
    started: Instant,
    until: Duration,
    phase: &str,
) -> anyhow::Result<()> {
    while started.elapsed() < until && !stopped.load(Ordering::Relaxed) {
        table.show(network, measures, started.elapsed(), phase).await?;
        let left = until.saturating_sub(started.elapsed());
        tokio::time::sleep(left.min(Duration::from_millis(250))).await;
    }
    Ok(())
}

/// The state of a node that is compared.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub tip: Option<String>,
    pub ledger_tip: BlockId,
    pub transfers: BTreeSet<ItemId>,
    pub works: BTreeSet<ItemId>,
}

async fn state(node: &Node, ledger_tip: BlockId) -> anyhow::Result<State> {
    Ok(State {
        tip: node.status().await?.tip,
        ledger_tip,
        transfers: node.pool_ids(TRANSFERS).await?.into_iter().collect(),
        works: node.pool_ids(WORKS).await?.into_iter().collect(),
    })
}

/// Waits until all nodes have the same state; returns the states, and how long it took.
async fn settle(network: &Network) -> anyhow::Result<(Vec<State>, Option<Duration>)> {
    let from = Instant::now();
    loop {
        let mut states = Vec::new();
        for (node, app) in network.nodes() {
            let ledger_tip = app.ledger().tip().0;
            states.push(state(node, ledger_tip).await?);
        }
        let equal = states.windows(2).all(|pair| pair[0] == pair[1]);
        if equal {
            return Ok((states, Some(from.elapsed())));
        }
        if from.elapsed() > SETTLE {
            return Ok((states, None));
        }
        tokio::time::sleep(COMPARE_EVERY).await;
    }
}
