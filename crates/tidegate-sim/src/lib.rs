//! A deterministic simulator of Tidegate networks.
//!
//! It is another driver of the very code that runs in a node, never a mock: the same core, the
//! same ledger, real frames. Everything that happens follows from a [`Scenario`] and an
//! [`Entropy`], which is a seed or a string of bytes.
//!
//! ```
//! use tidegate_sim::{Entropy, Scenario, World};
//!
//! let scenario = Scenario::from_toml("nodes = 4\ntrouble_ms = 4000\nsettle_ms = 8000")?;
//! let report = World::new(scenario, Entropy::seed(1)).run();
//! assert_eq!(report.broken, None);
//! # Ok::<_, tidegate_sim::ScenarioError>(())
//! ```

#![warn(missing_docs)]

use std::sync::LazyLock;

use tidegate_ledger::Ledger;

mod channels;
mod checkers;
mod disk;
mod entropy;
mod faults;
mod genesis;
mod host;
mod hostile;
mod inside;
mod network;
mod permits;
mod places;
mod report;
mod scenario;
mod world;

pub use checkers::Broken;
pub use entropy::Entropy;
pub use inside::inside;
pub use report::{Arrival, Percentiles, Report};
pub use scenario::{Faults, Links, Load, Scenario, ScenarioError};
pub use world::World;

/// The world of a byte string: three nodes and a hostile one, whose decisions are all read from the
/// bytes. `tidegate sim run fuzz --bytes FILE` runs the same.
pub fn fuzzed(bytes: &[u8]) -> Report {
    static BEGIN: LazyLock<(Scenario, Ledger)> = LazyLock::new(|| {
        let text = include_str!("../scenarios/fuzz.toml");
        let scenario = Scenario::from_toml(text).expect("a test reads every scenario");
        let ledger = genesis::first_ledger(&scenario);
        (scenario, ledger)
    });
    let (scenario, ledger) = &*BEGIN;
    let world = World::with_ledger(scenario.clone(), ledger, Entropy::bytes(bytes));
    world.without_trace().run()
}

/// The built-in scenarios: their names and their texts.
pub const SCENARIOS: &[(&str, &str)] = &[
    ("churn", include_str!("../scenarios/churn.toml")),
    ("crowded", include_str!("../scenarios/crowded.toml")),
    ("forks", include_str!("../scenarios/forks.toml")),
    ("fuzz", include_str!("../scenarios/fuzz.toml")),
    ("isolation", include_str!("../scenarios/isolation.toml")),
    ("minority", include_str!("../scenarios/minority.toml")),
    ("large", include_str!("../scenarios/large.toml")),
    ("long", include_str!("../scenarios/long.toml")),
    ("partition", include_str!("../scenarios/partition.toml")),
    ("paths", include_str!("../scenarios/paths.toml")),
    ("small", include_str!("../scenarios/small.toml")),
    ("strangers", include_str!("../scenarios/strangers.toml")),
];
