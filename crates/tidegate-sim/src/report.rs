//! The results of a run.

use std::fmt;
use std::time::Duration;

use tidegate_proto::Time;
use tidegate_proto::stats::Count;
use tidegate_proto::wire;

use crate::checkers::Broken;
use crate::host::Host;

/// Counters while the world runs.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) wall: Duration,
    pub(crate) events: u64,
    pub(crate) frames: u64,
    pub(crate) offers: u64,
    pub(crate) frame_bytes: u64,
    pub(crate) useful_bytes: u64,
    items: Vec<Arrival>,
    blocks: Vec<Arrival>,
}

/// An item or block that has reached a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The node that published it.
    pub from: usize,
    /// The node that received and accepted it.
    pub to: usize,
    /// The time since it was published.
    pub after: Duration,
    /// When it was published.
    pub at: Time,
}

impl Measured {
    /// An item has reached a node. Its publisher has it at once.
    pub(crate) fn item(&mut self, arrival: Arrival, bytes: u64) {
        if arrival.from != arrival.to {
            self.items.push(arrival);
            self.useful_bytes += bytes;
        }
    }

    /// A block has become a node's tip.
    pub(crate) fn block(&mut self, arrival: Arrival) {
        if arrival.from != arrival.to {
            self.blocks.push(arrival);
        }
    }
}

/// The median, the 95th and 99th percentile, and the maximum of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// The number of values.
    pub count: usize,
    /// The median.
    pub p50: Duration,
    /// The 95th percentile.
    pub p95: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The maximum.
    pub max: Duration,
}

impl Percentiles {
    /// Of any values.
    pub fn of(values: impl IntoIterator<Item = Duration>) -> Self {
        let mut values = values.into_iter().collect::<Vec<_>>();
        values.sort_unstable();
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1) - 1;
            values.get(rank).copied().unwrap_or_default()
        };
        Self { count: values.len(), p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let Self { p50, p95, p99, max, .. } = *self;
        write!(f, "{:.0} / {:.0} / {:.0} / {:.0} ms", ms(p50), ms(p95), ms(p99), ms(max))
    }
}

/// The results of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The violated invariant, if any.
    pub broken: Option<Broken>,
    /// The hash over everything that every node did.
    pub trace: Option<[u8; 32]>,
    /// The virtual time at the end.
    pub virtual_time: Duration,
    /// The real time it took; zero where the platform has no clock, as on `wasm32-unknown-unknown`.
    pub wall: Duration,
    /// Events of the simulation.
    pub events: u64,
    /// Frames sent by nodes.
    pub frames: u64,
    /// Statements of offers and their answers that have reached their receivers.
    pub offers: u64,
    /// Bytes of those frames.
    pub frame_bytes: u64,
    /// Bytes of items, counted for each node that got them from another.
    pub useful_bytes: u64,
    /// Bytes that a node's core may hold at most, by its configuration.
    pub worst_case_core_bytes: u64,
    /// Height of the tip of node 0.
    pub height: u64,
    /// Items in its pools.
    pub items: Vec<(String, usize)>,
    /// Items of blocks that had to be fetched, in thousandths of all.
    pub lacked: u64,
    /// Reports sent by nodes: first, duplicate, late, surplus, ignored, rejected.
    pub reports: [u64; 6],
    items_arrived: Vec<Arrival>,
    blocks_arrived: Vec<Arrival>,
}

const REPORTS: [wire::Report; 6] = [
    wire::Report::First,
    wire::Report::Duplicate,
    wire::Report::Late,
    wire::Report::Surplus,
    wire::Report::Ignored,
    wire::Report::Rejected,
];

impl Report {
    pub(crate) fn new(
        hosts: &[Host],
        measured: Measured,
        trace: Option<[u8; 32]>,
        now: Time,
        broken: Option<Broken>,
    ) -> Self {
        let first = hosts[0].node.status();
        let sum = |count| hosts.iter().map(|host| host.node.stats().of(count)).sum::<u64>();
        Self {
            broken,
            trace,
            virtual_time: now.since(Time::ZERO),
            wall: measured.wall,
            events: measured.events,
            frames: measured.frames,
            offers: measured.offers,
            frame_bytes: measured.frame_bytes,
            useful_bytes: measured.useful_bytes,
            worst_case_core_bytes: hosts[0].node.config().worst_case_core_bytes(),
            height: first.height,
            items: first.pools.iter().map(|(name, pool)| (name.clone(), pool.items)).collect(),
            lacked: (sum(Count::BlockItemsLacked) * 1000)
                .checked_div(sum(Count::BlockItems))
                .unwrap_or(0),
            reports: REPORTS
                .map(|report| hosts.iter().map(|host| host.node.stats().reports(report)).sum()),
            items_arrived: measured.items,
            blocks_arrived: measured.blocks,
        }
    }

    /// Items that have reached a node and were accepted there.
    pub fn items_arrived(&self) -> &[Arrival] {
        &self.items_arrived
    }

    /// Blocks that have reached a node and become its tip.
    pub fn blocks_arrived(&self) -> &[Arrival] {
        &self.blocks_arrived
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.wall.as_secs_f64().max(1e-9);
        let speed = self.virtual_time.as_secs_f64() / seconds;
        writeln!(f, "virtual time      {:.1} s", self.virtual_time.as_secs_f64())?;
        writeln!(f, "wall time         {seconds:.1} s ({speed:.1} virtual seconds a second)")?;
        let rate = self.frames as f64 / seconds;
        writeln!(f, "frames            {} ({rate:.0} a second)", self.frames)?;
        writeln!(f, "offers            {}", self.offers)?;
        writeln!(f, "tip               height {}", self.height)?;
        for (name, items) in &self.items {
            writeln!(f, "pool {name:<12} {items} items")?;
        }
        let latency = |of: &[Arrival]| Percentiles::of(of.iter().map(|arrival| arrival.after));
        let items = latency(&self.items_arrived);
        writeln!(f, "items             {items} (p50 / p95 / p99 / max)")?;
        writeln!(f, "blocks            {}", latency(&self.blocks_arrived))?;
        let ratio = self.frame_bytes as f64 / self.useful_bytes.max(1) as f64;
        writeln!(f, "bytes             {ratio:.2} sent for each useful one")?;
        writeln!(f, "block items       {} of 1,000 had to be fetched", self.lacked)?;
        let [first, duplicate, late, surplus, ignored, rejected] = self.reports;
        writeln!(
            f,
            "reports           {first} first, {duplicate} duplicate, {late} late, \
             {surplus} surplus, {ignored} ignored, {rejected} rejected"
        )?;
        if let Some(trace) = &self.trace {
            writeln!(f, "trace             {}", hex::encode(trace))?;
        }
        match &self.broken {
            None => write!(f, "result            all equal, nothing broken"),
            Some(broken) => write!(f, "result            BROKEN: {broken}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occur() {
        let of = |values: std::ops::RangeInclusive<u64>| {
            Percentiles::of(values.map(Duration::from_millis))
        };
        let ms = Duration::from_millis;
        let hundred = of(1..=100);
        assert_eq!(
            (hundred.p50, hundred.p95, hundred.p99, hundred.max),
            (ms(50), ms(95), ms(99), ms(100))
        );
        assert_eq!(of(7..=7).p50, ms(7));
        assert_eq!(Percentiles::of([]), Percentiles::default());
    }
}
