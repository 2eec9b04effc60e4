//! A node that stalls, one that is slow, one whose application does not read events: the others
//! must not be affected.

use std::time::Duration;

use tidegate_proto::Time;
use tidegate_sim::{Arrival, Entropy, Faults, Percentiles, Report, SCENARIOS, Scenario, World};

fn scenario() -> Scenario {
    let text = SCENARIOS.iter().find(|(name, _)| *name == "isolation").unwrap().1;
    Scenario::from_toml(text).unwrap()
}

fn run(faults: Faults, seed: u64) -> Report {
    let mut scenario = scenario();
    scenario.faults = faults;
    World::new(scenario, Entropy::seed(seed)).run()
}

/// The 94.5th percentile. Links are alike, so latencies come in steps of many milliseconds; if a
/// step were at 95 %, one item in a thousand would decide.
fn near_95(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() * 945 / 1000]
}

/// Compares latencies between the nodes without faults, while others have them and while they have
/// not.
fn check(name: &str, faults: Faults) {
    let faulty = [&faults.stalled_nodes, &faults.slow_validators, &faults.deaf_applications];
    let faulty = faulty.into_iter().flatten().copied().collect::<Vec<_>>();
    let begun = Time::ZERO + Duration::from_secs(5);
    let healed = Time::ZERO + scenario().healed_at();
    let healthy = |arrival: &&Arrival| {
        let between = !faulty.contains(&arrival.from) && !faulty.contains(&arrival.to);
        between && (begun..healed).contains(&arrival.at)
    };
    // Items and blocks of all seeds, with the faults and without.
    let mut after = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for seed in 1..=3 {
        for (side, faults) in [faults.clone(), Faults::default()].into_iter().enumerate() {
            let report = run(faults, seed);
            assert_eq!(report.broken, None, "{name}, seed {seed}");
            for (what, all) in [report.items_arrived(), report.blocks_arrived()].iter().enumerate()
            {
                after[what][side].extend(all.iter().filter(healthy).map(|arrival| arrival.after));
            }
        }
    }
    for (what, sides) in ["items", "blocks"].iter().zip(after) {
        let near_95 = near_95(&sides[0]);
        let [with, without] = sides.map(Percentiles::of);
        println!("{name}, {what}: {with} with, {without} without");
        assert!(with.count > 300, "{name}: {} {what} are too few", with.count);
        for (with, without) in [(with.p50, without.p50), (near_95, without.p95)] {
            let limit = without.mul_f64(1.2);
            assert!(with <= limit, "{name}, {what}: {with:?} against {without:?}");
        }
    }
}

#[test]
fn a_stalled_peer_stalls_itself() {
    check("stalled", Faults { stalled_nodes: vec![0], ..Faults::default() });
}

#[test]
fn a_slow_validator_slows_itself() {
    check("slow", Faults { slow_validators: vec![2], ..Faults::default() });
}

#[test]
fn an_application_that_reads_no_events_misses_them() {
    check("deaf", Faults { deaf_applications: vec![4], ..Faults::default() });
}

#[test]
fn stalls_of_all_three_kinds_at_once() {
    check("all", scenario().faults);
}
