//! Networks under load and faults must converge. Five seeds of the large ones here, a hundred in
//! `cargo xtask soak`.

use tidegate_sim::{Entropy, SCENARIOS, Scenario, World};

fn check(name: &str, seed: u64) {
    let text = SCENARIOS.iter().find(|(known, _)| *known == name).expect("a built-in scenario").1;
    let scenario = Scenario::from_toml(text).expect("it was checked");
    let report = World::new(scenario, Entropy::seed(seed)).run();
    if let Some(broken) = report.broken {
        panic!("{broken}\nagain: cargo run --release -- sim run {name} --seed {seed}");
    }
}

/// One test for each seed, so that they run in parallel.
macro_rules! seeds {
    ($($test:ident: $name:literal, $seeds:expr;)+) => {$(
        #[test]
        fn $test() {
            $seeds.into_iter().for_each(|seed| check($name, seed));
        }
    )+};
}

seeds! {
    small_networks_converge: "small", 1..=20;
    connections_that_take_the_place_of_others_lose_nothing: "paths", 1..=10;
    forks_converge: "forks", 1..=10;
    a_minority_of_producers_that_is_cut_off_and_healed_converges: "minority", 1..=10;
    bounded_pools_stay_within_their_bounds: "crowded", 1..=3;
    strangers_that_are_restarted_converge: "strangers", 1..=20;
    two_hundred_strangers_with_churn_converge_1: "churn", [1];
    two_hundred_strangers_with_churn_converge_2: "churn", [2];
    two_hundred_strangers_with_churn_converge_3: "churn", [3];
    two_hundred_strangers_with_churn_converge_4: "churn", [4];
    two_hundred_strangers_with_churn_converge_5: "churn", [5];
    two_hundred_nodes_converge_1: "partition", [1];
    two_hundred_nodes_converge_2: "partition", [2];
    two_hundred_nodes_converge_3: "partition", [3];
    two_hundred_nodes_converge_4: "partition", [4];
    two_hundred_nodes_converge_5: "partition", [5];
}

fn paths() -> Scenario {
    let text = SCENARIOS.iter().find(|(known, _)| *known == "paths").expect("a scenario").1;
    Scenario::from_toml(text).expect("it was checked")
}

/// R18.10, R5.3.2: where no connection is lost but all are replaced again and again, nothing is carried twice either.
#[test]
fn what_is_under_way_when_a_connection_is_replaced_arrives_once() {
    let mut scenario = paths();
    (scenario.faults.resets, scenario.faults.stalls) = (0, 0);
    for seed in 1..=3 {
        let report = World::new(scenario.clone(), Entropy::seed(seed)).run();
        assert_eq!(report.broken, None, "without resets and stalls, seed {seed}");
        assert!(report.offers > 500, "{}", report.offers);
    }
}

/// R5.3.11: between two nodes there is no way around what is lost with one of several connections. Only one of them
/// makes blocks, so an item of the other that does not come is missing for good.
#[test]
fn the_connection_that_is_left_carries_what_another_had_begun() {
    let mut scenario = paths();
    (scenario.nodes, scenario.dials, scenario.producers, scenario.provers) = (2, 1, 1, 1);
    scenario.least_transfers = 1;
    (scenario.faults.second_dials, scenario.faults.resets) = (60_000, 20_000);
    for seed in 1..=40 {
        let report = World::new(scenario.clone(), Entropy::seed(seed)).run();
        assert_eq!(report.broken, None, "two nodes, seed {seed}");
    }
}
