//! `tidegate sim`: simulated networks.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use tidegate_sim::{Entropy, SCENARIOS, Scenario, World};

/// What to simulate.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Run a scenario and look whether all is as it must be.
    Run(Arguments),
    /// List the built-in scenarios.
    List,
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
}

/// Runs the command; `true` if nothing was broken.
pub(crate) fn run(command: &Command) -> anyhow::Result<bool> {
    match command {
        Command::List => {
            for (name, text) in SCENARIOS {
                println!("{name:<12} {}", Scenario::from_toml(text)?.about);
            }
            Ok(true)
        }
        Command::Run(arguments) => run_scenario(arguments),
    }
}

fn run_scenario(arguments: &Arguments) -> anyhow::Result<bool> {
    let scenario = load(&arguments.scenario)?;
    let run = |entropy: Entropy| {
        let world = World::new(scenario.clone(), entropy);
        let world = if arguments.no_trace { world.without_trace() } else { world };
        world.run()
    };
    if let Some(path) = &arguments.bytes {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let report = run(Entropy::bytes(&bytes));
        println!("{report}");
        return Ok(report.broken.is_none());
    }
    let mut good = true;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let report = run(Entropy::seed(seed));
        println!("seed {seed}\n{report}\n");
        if report.broken.is_some() {
            good = false;
            eprintln!("again: tidegate sim run {} --seed {seed}", arguments.scenario);
        }
    }
    Ok(good)
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
