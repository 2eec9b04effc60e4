//! Same seed, same trace: under wasm, with its 32 bits, as natively.

use tidegate_sim::{Entropy, SCENARIOS, Scenario, World};
use wasm_bindgen_test::wasm_bindgen_test;

#[wasm_bindgen_test]
fn traces_are_those_that_are_checked_in() {
    let known = include_str!("../../crates/tidegate-sim/tests/traces.txt");
    assert!(!known.is_empty());
    for line in known.lines() {
        let words = line.split(' ').collect::<Vec<_>>();
        let [name, seed, hash] = words[..] else { panic!("{line}: not a name, a seed and a hash") };
        let text = SCENARIOS.iter().find(|(known, _)| *known == name).expect("a scenario").1;
        let scenario = Scenario::from_toml(text).expect("it was checked");
        let report = World::new(scenario, Entropy::seed(seed.parse().expect("a seed"))).run();
        assert_eq!(report.broken, None, "{line}");
        assert_eq!(hex::encode(report.trace.expect("traces are on")), hash, "{line}");
    }
}
