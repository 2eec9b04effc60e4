//! The live table.

use std::io::IsTerminal as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tidegate::Status;

use super::measure::Measures;
use super::network::Network;

/// How often a line is printed without a terminal.
const LINE_EVERY: u64 = 5;

/// A line for each node and one for all, rewritten in place; without a terminal a line now and
/// then.
pub(crate) struct Table {
    kind: Kind,
}

enum Kind {
    Silent,
    Lines { last: Option<u64> },
    Rows { all: MultiProgress, rows: Vec<ProgressBar> },
}

impl Table {
    pub(crate) fn new(silent: bool, nodes: usize) -> Self {
        let kind = if silent {
            Kind::Silent
        } else if std::io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{msg}").expect("a constant template");
            let row = |_| all.add(ProgressBar::new_spinner().with_style(style.clone()));
            let rows = (0..nodes + 2).map(row).collect();
            Kind::Rows { all, rows }
        } else {
            Kind::Lines { last: None }
        };
        Self { kind }
    }

    pub(crate) async fn show(
        &mut self,
        network: &Network,
        measures: &Measures,
        elapsed: Duration,
        phase: &str,
    ) -> anyhow::Result<()> {
        let due = match &self.kind {
            Kind::Silent => false,
            Kind::Lines { last } => *last != Some(elapsed.as_secs() / LINE_EVERY),
            Kind::Rows { .. } => true,
        };
        if !due {
            return Ok(());
        }
        let mut statuses = Vec::new();
        for (node, _) in network.nodes() {
            statuses.push((node.peer_id().to_string(), node.status().await?));
        }
        let total = total(measures, elapsed, phase);
        match &mut self.kind {
            Kind::Silent => {}
            Kind::Lines { last } => {
                *last = Some(elapsed.as_secs() / LINE_EVERY);
                let heights = statuses.iter().map(|(_, status)| status.height);
                let (low, high) = (heights.clone().min(), heights.max());
                let connections = network.connections().iter().sum::<usize>() / 2;
                crate::print::complain(format_args!(
                    "{total}, heights {} to {}, {connections} connections",
                    low.unwrap_or(0),
                    high.unwrap_or(0)
                ));
            }
            Kind::Rows { rows, .. } => {
                rows[0].set_message(total);
                rows[1].set_message(
                    "node          peers  height  tip        transfers  works  permits out"
                        .to_owned(),
                );
                for (row, (peer, status)) in rows[2..].iter().zip(&statuses) {
                    row.set_message(line(peer, status));
                }
            }
        }
        Ok(())
    }

    /// Leaves the last state on the screen.
    pub(crate) fn finish(&self) {
        if let Kind::Rows { all, rows } = &self.kind {
            rows.iter().for_each(ProgressBar::abandon);
            // Only for display: an error does no harm.
            let _ = all.println("");
        }
    }
}

fn total(measures: &Measures, elapsed: Duration, phase: &str) -> String {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    format!(
        "{:>3} s, {phase}: {} transfers published, {} in {} blocks, {} works",
        elapsed.as_secs(),
        count(&measures.transfers),
        count(&measures.transfers_in_blocks),
        count(&measures.blocks_made),
        count(&measures.works),
    )
}

fn line(peer: &str, status: &Status) -> String {
    let pool = |name: &str| status.pools.get(name).map_or(0, |pool| pool.items);
    let out: usize = status.pools.values().map(|pool| pool.given).sum();
    let tip = status.tip.as_deref().unwrap_or("-");
    format!(
        "…{:<12} {:>4}  {:>6}  {:<9}  {:>9}  {:>5}  {out:>11}",
        &peer[peer.len().saturating_sub(11)..],
        status.peers.len(),
        status.height,
        &tip[..tip.len().min(8)],
        pool("transfers"),
        pool("works"),
    )
}
