//! `tidegate sim`: simulated networks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tidegate_sim::{Arrival, Entropy, Percentiles, Report, SCENARIOS, Scenario, World};

use crate::print::{self, say};

/// What to simulate.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Run a scenario and look whether all is as it must be.
    Run(Arguments),
    /// List the built-in scenarios.
    List {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// One scenario, some seeds.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name of a built-in scenario, or a TOML file.
    scenario: String,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Take randomness from the bytes of a file instead, as a fuzzer does.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    bytes: Option<PathBuf>,
    /// Leave the trace hash out: for measuring speed.
    #[arg(long)]
    no_trace: bool,
    /// Print as JSON: an array with one object for each seed.
    #[arg(long)]
    json: bool,
}

/// The result of a seed, for programs.
#[derive(Serialize)]
struct Outcome {
    /// `null` if the randomness came from a file.
    seed: Option<u64>,
    broken: Option<String>,
    trace: Option<String>,
    virtual_seconds: f64,
    wall_seconds: f64,
    frames: u64,
    frame_bytes: u64,
    useful_bytes: u64,
    height: u64,
    pools: BTreeMap<String, usize>,
    /// Milliseconds until an item, and a block, was at another node.
    item_latency: Latency,
    block_latency: Latency,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Latency {
    fn of(arrivals: &[Arrival]) -> Self {
        let all = Percentiles::of(arrivals.iter().map(|arrival| arrival.after));
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self { p50: ms(all.p50), p95: ms(all.p95), p99: ms(all.p99), max: ms(all.max) }
    }
}

impl Outcome {
    fn new(seed: Option<u64>, report: &Report) -> Self {
        Self {
            seed,
            broken: report.broken.as_ref().map(ToString::to_string),
            trace: report.trace.map(hex::encode),
            virtual_seconds: report.virtual_time.as_secs_f64(),
            wall_seconds: report.wall.as_secs_f64(),
            frames: report.frames,
            frame_bytes: report.frame_bytes,
            useful_bytes: report.useful_bytes,
            height: report.height,
            pools: report.items.iter().cloned().collect(),
            item_latency: Latency::of(report.items_arrived()),
            block_latency: Latency::of(report.blocks_arrived()),
        }
    }
}

/// Runs the command; `true` if no check failed.
pub(crate) fn run(command: &Command) -> anyhow::Result<bool> {
    match command {
        Command::List { json } => {
            let about =
                |(name, text): &(&'static str, &str)| Ok((*name, Scenario::from_toml(text)?.about));
            let all = SCENARIOS.iter().map(about).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
            if *json {
                return print::json(&all);
            }
            for (name, about) in all {
                say!("{name:<12} {about}");
            }
            Ok(true)
        }
        Command::Run(arguments) => run_scenario(arguments),
    }
}

fn run_scenario(arguments: &Arguments) -> anyhow::Result<bool> {
    let scenario = load(&arguments.scenario)?;
    let run = |entropy: Entropy, name: String| {
        let world = World::new(scenario.clone(), entropy);
        let world = if arguments.no_trace { world.without_trace() } else { world };
        let spinner = print::spinner().with_message(format!("{}, {name}", arguments.scenario));
        let report = world.run();
        spinner.finish_and_clear();
        report
    };
    let mut outcomes = Vec::new();
    if let Some(path) = &arguments.bytes {
        let name = || path.display().to_string();
        let bytes = std::fs::read(path).with_context(name)?;
        let report = run(Entropy::bytes(&bytes), name());
        if !arguments.json {
            say!("{report}");
        }
        outcomes.push(Outcome::new(None, &report));
    } else {
        for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
            let report = run(Entropy::seed(seed), format!("seed {seed}"));
            if !arguments.json {
                say!("seed {seed}\n{report}\n");
            }
            if report.broken.is_some() {
                let again =
                    format_args!("again: tidegate sim run {} --seed {seed}", arguments.scenario);
                print::complain(again);
            }
            outcomes.push(Outcome::new(Some(seed), &report));
        }
    }
    if arguments.json {
        print::json(&outcomes)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.broken.is_none()))
}

fn load(scenario: &str) -> anyhow::Result<Scenario> {
    if let Some((_, text)) = SCENARIOS.iter().find(|(name, _)| *name == scenario) {
        return Ok(Scenario::from_toml(text)?);
    }
    let Ok(text) = std::fs::read_to_string(scenario) else {
        bail!("{scenario}: no such scenario and no such file; `tidegate sim list` lists them");
    };
    Scenario::from_toml(&text).with_context(|| scenario.to_owned())
}
