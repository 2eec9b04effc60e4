//! Same seed, same trace: on every machine, in debug and in release, with every channel and both
//! pools of the ledger on. The hashes are in `traces.txt`; `cargo xtask traces` rewrites them.

use std::fmt::Write as _;

use tidegate_sim::{Entropy, SCENARIOS, Scenario, World};

/// Each takes seconds. Together they have resets, stalls, partitions, forks, full pools, nodes that
/// find each other, restarts with a store and without, and catching up.
const RUNS: &[(&str, u64)] =
    &[("small", 1), ("small", 2), ("forks", 1), ("minority", 1), ("strangers", 1), ("paths", 1)];

fn trace(name: &str, seed: u64) -> String {
    let text = SCENARIOS.iter().find(|(known, _)| *known == name).expect("a built-in scenario").1;
    let scenario = Scenario::from_toml(text).expect("it was checked");
    let report = World::new(scenario, Entropy::seed(seed)).run();
    assert_eq!(report.broken, None, "again: tidegate sim run {name} --seed {seed}");
    hex::encode(report.trace.expect("traces are on"))
}

#[test]
fn traces_are_those_that_are_checked_in() {
    let mut traces = String::new();
    for (name, seed) in RUNS {
        writeln!(traces, "{name} {seed} {}", trace(name, *seed)).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces.txt");
    if std::env::var_os("TIDEGATE_WRITE_TRACES").is_some() {
        std::fs::write(path, &traces).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(traces, known, "if the protocol was meant to change: cargo xtask traces");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let first = trace("forks", 3);
    assert_eq!(first, trace("forks", 3));
    assert_ne!(first, trace("forks", 4));
}
