//! The results of the demo.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tidegate::stats::Count;
use tidegate_sim::Percentiles;

use super::State;
use super::measure::{Measures, process};
use super::network::Network;

/// The whole summary, as `--json` prints it. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Whether all nodes have the same tip and the same pools.
    pub converged: bool,
    /// The time from the end of the load until then.
    pub converged_after_ms: Option<f64>,
    pub nodes: usize,
    /// Connections at the end, by what they are over.
    pub connections: BTreeMap<&'static str, usize>,
    pub seconds: f64,
    pub tips_equal: bool,
    pub pools_equal: bool,
    /// Height of the best block of the first node.
    pub height: u64,
    /// Transfers in the pool of each node.
    pub transfers_in_pools: Vec<usize>,
    /// Works in the pool of each node.
    pub works_in_pools: Vec<usize>,
    pub transfers_published: u64,
    /// Items that could not be published.
    pub refused: u64,
    pub works_published: u64,
    pub blocks_made: u64,
    pub transfers_in_blocks: u64,
    pub block_propagation_ms: Latency,
    pub item_propagation_ms: Latency,
    /// The share of items of received blocks that the pools lacked.
    pub block_items_fetched: f64,
    /// Bytes of UDP payload that all nodes sent.
    pub bytes_sent: u64,
    /// Bytes of items, counted for each node that got them from another.
    pub useful_bytes: u64,
    pub bytes_sent_per_useful_byte: f64,
    /// Outstanding permits once the network is idle.
    pub permits_in_use: usize,
    pub violations: u64,
    pub peak_memory_bytes: u64,
    pub cpu_seconds: f64,
}

/// Percentiles in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub count: usize,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl From<Percentiles> for Latency {
    fn from(of: Percentiles) -> Self {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        Self { count: of.count, p50: ms(of.p50), p95: ms(of.p95), p99: ms(of.p99), max: ms(of.max) }
    }
}

impl Summary {
    pub(crate) async fn new(
        network: &Network,
        measures: &Measures,
        states: &[State],
        settled: Option<Duration>,
        elapsed: Duration,
    ) -> anyhow::Result<Self> {
        let mut permits_in_use = 0;
        let (mut sent, mut violations, mut height) = (0, 0, 0);
        let (mut items, mut lacked) = (0, 0);
        let mut connections = BTreeMap::new();
        for (index, (node, _)) in network.nodes().enumerate() {
            let status = node.status().await?;
            permits_in_use += status.pools.values().map(|pool| pool.given).sum::<usize>();
            height = if index == 0 { status.height } else { height };
            sent += node.traffic().await?.sent;
            for peer in status.peers.iter().filter(|peer| !peer.inbound) {
                *connections.entry(peer.transport).or_default() += 1;
            }
            let stats = node.stats().await?;
            violations += stats.violations().map(|(_, count)| count).sum::<u64>();
            items += stats.of(Count::BlockItems);
            lacked += stats.of(Count::BlockItemsLacked);
        }
        let same = |equal: &dyn Fn(&State, &State) -> bool| {
            states.windows(2).all(|pair| equal(&pair[0], &pair[1]))
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (peak, cpu) = process();
        let useful = measures.useful_bytes();
        Ok(Self {
            converged: settled.is_some(),
            converged_after_ms: settled.map(|after| after.as_secs_f64() * 1000.0),
            nodes: network.len(),
            connections,
            seconds: elapsed.as_secs_f64(),
            tips_equal: same(&|a, b| a.tip == b.tip && a.ledger_tip == b.ledger_tip),
            pools_equal: same(&|a, b| a.transfers == b.transfers && a.works == b.works),
            height,
            transfers_in_pools: states.iter().map(|state| state.transfers.len()).collect(),
            works_in_pools: states.iter().map(|state| state.works.len()).collect(),
            transfers_published: count(&measures.transfers),
            refused: count(&measures.refused),
            works_published: count(&measures.works),
            blocks_made: count(&measures.blocks_made),
            transfers_in_blocks: count(&measures.transfers_in_blocks),
            block_propagation_ms: Percentiles::of(measures.block_latencies()).into(),
            item_propagation_ms: Percentiles::of(measures.item_latencies()).into(),
            block_items_fetched: lacked as f64 / (items as f64).max(1.0),
            bytes_sent: sent,
            useful_bytes: useful,
            bytes_sent_per_useful_byte: sent as f64 / (useful as f64).max(1.0),
            permits_in_use,
            violations,
            peak_memory_bytes: peak,
            cpu_seconds: cpu.as_secs_f64(),
        })
    }
}

fn range(of: &[usize]) -> String {
    match (of.iter().min(), of.iter().max()) {
        (Some(low), Some(high)) if low == high => format!("{low} in each"),
        (Some(low), Some(high)) => format!("{low} to {high}"),
        _ => "none".to_owned(),
    }
}

fn yes(equal: bool) -> &'static str {
    if equal { "equal" } else { "NOT equal" }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p95, max, .. } = self;
        write!(f, "p50 {p50:.1} ms, p95 {p95:.1} ms, max {max:.1} ms")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nodes               {}, {:.0} s", self.nodes, self.seconds)?;
        let connections =
            self.connections.iter().map(|(over, count)| format!("{count} over {over}"));
        writeln!(f, "connections         {}", connections.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "tips                {} at height {}", yes(self.tips_equal), self.height)?;
        writeln!(
            f,
            "pools               {}: transfers {}, works {}",
            yes(self.pools_equal),
            range(&self.transfers_in_pools),
            range(&self.works_in_pools)
        )?;
        writeln!(
            f,
            "transfers           {} published, {} in {} blocks",
            self.transfers_published, self.transfers_in_blocks, self.blocks_made
        )?;
        writeln!(f, "block propagation   {}", self.block_propagation_ms)?;
        writeln!(f, "item propagation    {}", self.item_propagation_ms)?;
        let fetched = self.block_items_fetched * 100.0;
        writeln!(f, "blocks from pools   {fetched:.2} % of their items had to be fetched")?;
        writeln!(
            f,
            "bytes               {:.2} sent for each useful one ({} MB in all)",
            self.bytes_sent_per_useful_byte,
            self.bytes_sent / 1_000_000
        )?;
        writeln!(f, "permits in use      {}", self.permits_in_use)?;
        writeln!(f, "violations          {}", self.violations)?;
        let peak = self.peak_memory_bytes >> 20;
        writeln!(f, "peak memory         {peak} MiB, {:.1} s of CPU time", self.cpu_seconds)?;
        match self.converged_after_ms {
            Some(after) => {
                write!(f, "result              all equal {after:.0} ms after the load ended")
            }
            None => write!(f, "result              NOT converged"),
        }
    }
}
