//! The genesis of all worlds of a scenario: its producers, provers and balances.

use std::time::Duration;

use tidegate_ledger::{Genesis, Ledger, Saved};

use crate::host::{account_key, node_key};
use crate::scenario::Scenario;

/// A slot of the simulated ledger.
pub(crate) const SLOT: Duration = Duration::from_secs(1);

/// Whether `index` is chosen, when `some` of `all` are chosen at even distances.
pub(crate) fn spread(index: usize, some: usize, all: usize) -> bool {
    (index + 1) * some / all > index * some / all
}

/// The ledger of every node of a scenario at the start.
pub(crate) fn first_ledger(scenario: &Scenario) -> Ledger {
    let genesis = genesis(scenario);
    let ledger = match scenario.store {
        true => Ledger::restore(genesis, Saved::default()).ok(),
        false => Ledger::new(genesis).ok(),
    };
    ledger.expect("its keys are those of the nodes")
}

fn genesis(scenario: &Scenario) -> Genesis {
    let hex_of = |key: &tidegate_ledger::SigningKey| hex::encode(tidegate_ledger::account(key).0);
    let producers = (0..scenario.nodes).filter(|i| spread(*i, scenario.producers, scenario.nodes));
    let accounts = (0..scenario.nodes)
        .flat_map(|node| (0..scenario.load.accounts).map(move |n| account_key(node, n)));
    Genesis {
        name: "simulation".into(),
        start_ms: 0,
        slot_ms: SLOT.as_millis() as u64,
        producers: producers.map(|index| hex_of(&node_key(index))).collect(),
        accounts: accounts.map(|key| (hex_of(&key), 1_000_000)).collect(),
        work: scenario.work,
    }
}
