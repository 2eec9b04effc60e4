//! The results, and how they compare.

use anyhow::Result;
use serde::Serialize;

use crate::measure::{Plan, Sample};
use crate::stack::{REFERENCE, Stack};
use crate::stats::Summary;

/// A column of the table.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) of: fn(&Sample) -> Option<f64>,
    /// Decimal places.
    pub(crate) digits: usize,
    /// The target for Tidegate: at most or at least this many times the reference.
    pub(crate) target: Option<Target>,
}

#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(crate) fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

const CLOSE: Option<Target> = Some(Target::AtMost(1.3));

pub(crate) const METRICS: [Metric; 9] = [
    Metric {
        name: "dial to first message",
        unit: "ms",
        of: |s| s.dial_ms,
        digits: 2,
        target: CLOSE,
    },
    Metric { name: "its p95", unit: "ms", of: |s| s.dial_p95_ms, digits: 2, target: None },
    Metric {
        name: "at 25 ms one way",
        unit: "ms",
        of: |s| s.far_dial_ms,
        digits: 0,
        target: CLOSE,
    },
    Metric { name: "CPU per set-up", unit: "ms", of: |s| s.dial_cpu_ms, digits: 2, target: None },
    Metric { name: "1 KiB and answer", unit: "µs", of: |s| s.ask_us, digits: 0, target: CLOSE },
    Metric { name: "its p99", unit: "µs", of: |s| s.ask_p99_us, digits: 0, target: None },
    Metric {
        name: "bulk",
        unit: "MB/s",
        of: |s| s.bulk_mb_s,
        digits: 0,
        target: Some(Target::AtLeast(0.8)),
    },
    Metric { name: "CPU per GiB", unit: "s", of: |s| s.bulk_cpu_s_gib, digits: 2, target: None },
    Metric { name: "idle connection", unit: "KiB", of: |s| s.idle_kib, digits: 0, target: CLOSE },
];

/// One stack over all rounds.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) note: Option<&'static str>,
    /// One for each round; `None` if it failed.
    pub(crate) samples: Vec<Option<Sample>>,
    pub(crate) failures: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(stack: &dyn Stack) -> Self {
        let (name, note) = (stack.name(), stack.note());
        Self { name, note, samples: Vec::new(), failures: Vec::new() }
    }

    pub(crate) fn add(&mut self, sample: Result<Sample>) {
        match sample {
            Ok(sample) => self.samples.push(Some(sample)),
            Err(error) => {
                self.samples.push(None);
                self.failures.push(format!("{error:#}"));
            }
        }
    }

    fn values(&self, metric: &Metric) -> impl Iterator<Item = Option<f64>> {
        self.samples.iter().map(|sample| sample.as_ref().and_then(metric.of))
    }

    pub(crate) fn summary(&self, metric: &Metric) -> Option<Summary> {
        Summary::of(self.values(metric).flatten())
    }
}

/// A cell of the table.
#[derive(Serialize)]
pub(crate) struct Cell {
    stack: &'static str,
    metric: &'static str,
    unit: &'static str,
    #[serde(flatten)]
    summary: Summary,
    /// The ratio to the reference within a round; the median over rounds.
    ratio: Option<f64>,
}

#[derive(Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) versions: Vec<String>,
    pub(crate) plan: Plan,
    pub(crate) rounds: u32,
    pub(crate) reference: &'static str,
    cells: Vec<Cell>,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Results {
    pub(crate) fn new(plan: Plan, rounds: u32, outcomes: Vec<Outcome>) -> Self {
        let mut results = Self {
            machine: Machine::here(),
            versions: versions(),
            plan,
            rounds,
            reference: REFERENCE,
            cells: Vec::new(),
            outcomes,
        };
        let cells = results
            .outcomes
            .iter()
            .flat_map(|outcome| METRICS.iter().filter_map(|metric| results.cell(outcome, metric)));
        results.cells = cells.collect();
        results
    }

    fn cell(&self, outcome: &Outcome, metric: &Metric) -> Option<Cell> {
        Some(Cell {
            stack: outcome.name,
            metric: metric.name,
            unit: metric.unit,
            summary: outcome.summary(metric)?,
            ratio: self.ratio(outcome, metric),
        })
    }

    /// The ratio of a stack to the reference: the median of the rounds' ratios.
    pub(crate) fn ratio(&self, outcome: &Outcome, metric: &Metric) -> Option<f64> {
        let reference = self.outcomes.iter().find(|other| other.name == REFERENCE)?;
        let pairs = outcome.values(metric).zip(reference.values(metric));
        let ratios = pairs.filter_map(|(own, other)| Some(own? / other?));
        Summary::of(ratios).map(|summary| summary.median)
    }
}

/// The machine.
#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find(|line| line.starts_with("model name"));
        let cpu = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let release = read("/proc/sys/kernel/osrelease");
        // Without the suffix of a build.
        let kernel = release.trim().split('-').next().unwrap_or_default().to_owned();
        Self { cpu: cpu.to_owned(), cores, kernel }
    }
}

/// The versions of the stacks, from the lock file of this build.
fn versions() -> Vec<String> {
    let lock = include_str!("../Cargo.lock");
    let names = ["quinn", "rustls", "libp2p", "iroh", "noq", "commonware-p2p", "tokio"];
    let version = |name: &&str| {
        let (_, after) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", after.split('"').next()?))
    };
    names.iter().filter_map(version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &'static str, dials: &[Option<f64>]) -> Outcome {
        let sample =
            |ms: &Option<f64>| ms.map(|ms| Sample { dial_ms: Some(ms), ..Sample::default() });
        Outcome { name, note: None, samples: dials.iter().map(sample).collect(), failures: vec![] }
    }

    #[test]
    fn ratios_are_of_one_round() {
        // The machine was twice as slow in the second round, and one failed in the third.
        let one = outcome("one", &[Some(3.0), Some(6.0), Some(3.0)]);
        let reference = outcome(REFERENCE, &[Some(2.0), Some(4.0), None]);
        let results = Results::new(Plan::QUICK, 3, vec![one, reference]);
        let ratio =
            |place: usize, metric| results.ratio(&results.outcomes[place], &METRICS[metric]);
        assert_eq!((ratio(0, 0), ratio(1, 0), ratio(0, 1)), (Some(1.5), Some(1.0), None));
    }

    #[test]
    fn the_lock_file_has_all_versions() {
        assert_eq!(versions().len(), 7);
    }
}
