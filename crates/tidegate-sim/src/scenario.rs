//! Scenarios: what to simulate, in TOML.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_ledger::WorkRules;

/// A network, its load, and its faults. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Scenario {
    /// What it shows, in words.
    pub about: String,
    /// The number of nodes.
    pub nodes: usize,
    /// How many others each node dials; with as many as there are, everyone dials everyone once.
    pub dials: usize,
    /// If set, the nodes find each other instead, starting at the first `bootstrap_nodes`, and each
    /// wants `dials` outbound connections.
    pub discovery: bool,
    /// Nodes that all others know from the start.
    pub bootstrap_nodes: usize,
    /// Whether nodes have a store.
    pub store: bool,
    /// Nodes that produce blocks, spread evenly.
    pub producers: usize,
    /// Nodes that prove jobs, spread evenly.
    pub provers: usize,
    /// How many questions each node's application works on at a time.
    pub workers: u32,
    /// Nodes have small limits, so that it shows when they exceed them.
    pub small: bool,
    /// The links.
    pub links: Links,
    /// The load.
    pub load: Load,
    /// The faults.
    pub faults: Faults,
    /// Jobs and their proofs.
    pub work: WorkRules,
    /// When all faults are healed.
    pub trouble_ms: u64,
    /// How long producers continue after that.
    pub produce_ms: u64,
    /// How long the load continues after that.
    pub load_ms: u64,
    /// How long after the healing all nodes must have converged.
    pub settle_ms: u64,
    /// Whether every node must know all others at the end.
    pub all_known: bool,
    /// How many transfers must be in the pools when they are compared.
    pub least_transfers: usize,
    /// The same for work proofs.
    pub least_works: usize,
}

/// The links: each draws its values from these ranges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Links {
    /// Shortest delay, one way.
    pub least_delay_ms: u64,
    /// Longest delay, one way.
    pub most_delay_ms: u64,
    /// Thousands of bits a second in each direction; 0 is unlimited.
    pub kbit: u64,
}

/// The load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// Transfers a second, on all nodes together.
    pub transfers: u64,
    /// Transfers a second once the producers have stopped: the pools must not be empty then.
    pub last_transfers: u64,
    /// Dials by way of a common peer a second, all nodes together.
    pub offers: u64,
    /// Accounts of each node.
    pub accounts: usize,
}

/// The faults until all is healed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Lost connections, per minute and link, in thousandths.
    pub resets: u64,
    /// Second connections between two that are connected, each minute and on each link, in thousandths: by a path
    /// drawn at random, dialed by either end or by both at once. Not together with discovery.
    pub second_dials: u64,
    /// Times when a link carries nothing for a while, per minute and link, in thousandths.
    pub stalls: u64,
    /// The longest such time.
    pub stall_ms: u64,
    /// The same in one direction only.
    pub one_way: u64,
    /// When a partition of the nodes begins.
    pub partition_at_ms: u64,
    /// How long it lasts; 0 for no partition.
    pub partition_ms: u64,
    /// How many of a hundred nodes are cut off.
    pub partition_percent: u64,
    /// Whether the first ones by number are cut off, so that producers and provers are split in
    /// proportion; otherwise random ones.
    pub partition_in_order: bool,
    /// How many of a hundred nodes are restarted, each once, and half of them without a goodbye.
    pub restart_percent: u64,
    /// Restarts per minute and node, in thousandths: they may be repeated.
    pub restarts: u64,
    /// The longest time that they are away.
    pub down_ms: u64,
    /// How many of a hundred of them lose their store.
    pub forget_percent: u64,
    /// When the bootstrap nodes go away, until everything is healed; 0 for never.
    pub bootstrap_dies_at_ms: u64,
    /// Nodes that stop reading from their peers at the start; healed like the rest.
    pub stalled_nodes: Vec<usize>,
    /// Nodes whose validator takes a hundred times as long.
    pub slow_validators: Vec<usize>,
    /// Nodes whose application never reads an event.
    pub deaf_applications: Vec<usize>,
    /// Nodes that violate the protocol in every way they can, under ever new identities, and are
    /// cut off when the rest is healed. They are not checked.
    pub hostile_nodes: Vec<usize>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            nodes: 8,
            dials: 4,
            discovery: false,
            bootstrap_nodes: 1,
            store: false,
            producers: 4,
            provers: 2,
            workers: 2,
            small: false,
            links: Links::default(),
            load: Load::default(),
            faults: Faults::default(),
            work: WorkRules { jobs_per_block: 2, max_jobs: 64, difficulty: 4, weight: 2048 },
            trouble_ms: 20_000,
            produce_ms: 3_000,
            load_ms: 3_000,
            settle_ms: 10_000,
            all_known: false,
            least_transfers: 1,
            least_works: 1,
        }
    }
}

impl Default for Links {
    fn default() -> Self {
        Self { least_delay_ms: 5, most_delay_ms: 80, kbit: 50_000 }
    }
}

impl Default for Load {
    fn default() -> Self {
        Self { transfers: 20, last_transfers: 200, offers: 10, accounts: 10 }
    }
}

/// Why a scenario is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// It is not TOML of this shape.
    #[error("{0}")]
    Parse(String),
    /// A number is out of range.
    #[error("{0}")]
    Range(&'static str),
}

impl Scenario {
    /// Parses a scenario.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self =
            toml::from_str(text).map_err(|error| ScenarioError::Parse(error.to_string()))?;
        scenario.validate()?;
        Ok(scenario)
    }

    /// Checks that it can be run.
    pub fn validate(&self) -> Result<(), ScenarioError> {
        let faults = &self.faults;
        let named = [
            &faults.stalled_nodes,
            &faults.slow_validators,
            &faults.deaf_applications,
            &faults.hostile_nodes,
        ];
        let range = |ok, what| if ok { Ok(()) } else { Err(ScenarioError::Range(what)) };
        range((2..=100_000).contains(&self.nodes), "nodes: between 2 and 100,000")?;
        range(self.dials > 0, "dials: at least 1, or nobody is connected")?;
        range((1..=self.nodes.min(128)).contains(&self.producers), "producers: 1 to 128 nodes")?;
        range(self.provers <= self.nodes, "provers: not more than nodes")?;
        range(self.workers > 0, "workers: at least 1")?;
        range(self.load.accounts > 0, "load.accounts: at least 1")?;
        range(
            !self.discovery || (1..self.nodes).contains(&self.bootstrap_nodes),
            "bootstrap_nodes: at least one, and not all",
        )?;
        range(
            self.discovery && self.store || faults.restart_percent + faults.restarts == 0,
            "faults: only nodes with discovery and a store come back from a restart",
        )?;
        range(
            !self.discovery || faults.hostile_nodes.is_empty(),
            "faults.hostile_nodes: not together with discovery",
        )?;
        range(
            !self.discovery && faults.hostile_nodes.is_empty() || faults.second_dials == 0,
            "faults.second_dials: not together with discovery or hostile nodes",
        )?;
        range(
            faults.restart_percent <= 100 && faults.forget_percent <= 100,
            "faults: a hundred of a hundred is all",
        )?;
        range(faults.partition_percent <= 100, "faults.partition_percent: at most 100")?;
        range(
            self.links.least_delay_ms <= self.links.most_delay_ms,
            "links: least_delay_ms is above most_delay_ms",
        )?;
        range(
            named.iter().all(|nodes| nodes.iter().all(|node| *node < self.nodes)),
            "faults: nodes are numbered from 0",
        )?;
        let honest = (0..self.nodes).filter(|node| !faults.hostile_nodes.contains(node));
        range(honest.count() >= 2, "faults.hostile_nodes: two nodes at least must be honest")
    }

    /// When everything is healed.
    pub fn healed_at(&self) -> Duration {
        Duration::from_millis(self.trouble_ms)
    }

    /// When producers stop.
    pub fn producers_stop_at(&self) -> Duration {
        Duration::from_millis(self.trouble_ms + self.produce_ms)
    }

    /// When the load ends.
    pub fn load_ends_at(&self) -> Duration {
        Duration::from_millis(self.trouble_ms + self.produce_ms + self.load_ms)
    }

    /// When all nodes must have converged.
    pub fn settled_at(&self) -> Duration {
        Duration::from_millis(self.trouble_ms + self.settle_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_in_the_folder_can_be_run() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut count = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let scenario = Scenario::from_toml(&text);
            let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(!scenario.about.is_empty(), "{}: say what it shows", path.display());
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn errors_name_the_faulty_field() {
        let error = |text: &str| Scenario::from_toml(text).unwrap_err().to_string();
        assert!(error("nodes = 1").contains("between 2 and 100,000"));
        assert!(error("nods = 3").contains("nods"));
        assert!(error("nodes = 3\nproducers = 4").contains("1 to 128"));
        assert!(
            error("nodes = 3\nproducers = 1\n[faults]\nstalled_nodes = [3]").contains("from 0")
        );
    }
}
