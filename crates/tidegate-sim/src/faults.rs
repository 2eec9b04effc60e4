//! The faults of a run: drawn from the scenario and the seed before the world starts.

use std::time::Duration;

use tidegate_proto::Time;

use crate::entropy::Entropy;
use crate::scenario::Scenario;

/// Stalled nodes stall after they have met their peers.
const STALL_FROM: Duration = Duration::from_secs(3);

/// A fault, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connections of a pair of nodes are lost.
    Reset(usize),
    /// These ends of a pair dial the other although they may be connected.
    SecondDial { pair: usize, by: [bool; 2] },
    /// Nothing passes between a pair for a while; with `one_way` in one direction only.
    Stall { pair: usize, until: Time, one_way: Option<bool> },
    /// Nothing passes between the two sides of the network.
    Partition { until: Time },
    /// A node stops reading.
    Deaf { node: usize, until: Time },
    /// The process of a node dies or shuts down, and is away for a while.
    Down { node: usize, keeps: bool, orderly: bool },
    /// It starts again.
    Up(usize),
    /// All faults end.
    Heal,
}

/// All faults of a run, in no particular order. Pairs are nodes that dial each other.
pub(crate) fn plan(scenario: &Scenario, pairs: usize, entropy: &mut Entropy) -> Vec<(Time, Fault)> {
    let healed = Time::ZERO + scenario.healed_at();
    let faults = &scenario.faults;
    let mut plan = vec![(healed, Fault::Heal)];
    let stall = Duration::from_millis(faults.stall_ms);
    for pair in 0..pairs {
        for at in moments(scenario, faults.resets, entropy) {
            plan.push((at, Fault::Reset(pair)));
        }
        // Without them nothing is drawn, so that the other scenarios stay the same for their seeds.
        if faults.second_dials > 0 {
            for at in moments(scenario, faults.second_dials, entropy) {
                let by = [[true, false], [false, true], [true, true]][entropy.below(3) as usize];
                plan.push((at, Fault::SecondDial { pair, by }));
            }
        }
        for at in moments(scenario, faults.stalls, entropy) {
            let until = at + entropy.between(stall / 10, stall);
            plan.push((at, Fault::Stall { pair, until, one_way: None }));
        }
        for at in moments(scenario, faults.one_way, entropy) {
            let until = at + entropy.between(stall / 10, stall);
            let one_way = Some(entropy.below(2) == 1);
            plan.push((at, Fault::Stall { pair, until, one_way }));
        }
    }
    if faults.partition_ms > 0 {
        let at = Time::from_micros(faults.partition_at_ms * 1000);
        let until = at + Duration::from_millis(faults.partition_ms);
        plan.push((at, Fault::Partition { until }));
    }
    for node in 0..scenario.nodes {
        plan.extend(restarts(scenario, node, entropy));
    }
    if faults.bootstrap_dies_at_ms > 0 {
        let at = Time::from_micros(faults.bootstrap_dies_at_ms * 1000);
        for node in 0..scenario.bootstrap_nodes {
            let fault = Fault::Down { node, keeps: true, orderly: false };
            plan.push((at, fault));
            plan.push((healed, Fault::Up(node)));
        }
    }
    for node in &faults.stalled_nodes {
        plan.push((Time::ZERO + STALL_FROM, Fault::Deaf { node: *node, until: healed }));
    }
    plan
}

/// When the process of a node ends, and when it starts again.
fn restarts(scenario: &Scenario, node: usize, entropy: &mut Entropy) -> Vec<(Time, Fault)> {
    let faults = &scenario.faults;
    let down = Duration::from_millis(faults.down_ms);
    let last = scenario.healed_at().saturating_sub(down);
    let mut moments = moments(scenario, faults.restarts, entropy);
    if entropy.below(100) < faults.restart_percent {
        moments.push(Time::ZERO + entropy.between(Duration::from_secs(3).min(last), last));
    }
    moments.sort();
    let (mut plan, mut busy_until) = (Vec::new(), Time::ZERO);
    for at in moments {
        let until = at + entropy.between(down / 10, down);
        let keeps = entropy.below(100) >= faults.forget_percent;
        let orderly = entropy.below(2) == 1;
        if at > busy_until && at <= Time::ZERO + last {
            plan.push((at, Fault::Down { node, keeps, orderly }));
            plan.push((until, Fault::Up(node)));
            busy_until = until;
        }
    }
    plan
}

/// Random times during the trouble, at this rate: thousandths per minute on average.
fn moments(scenario: &Scenario, thousandths: u64, entropy: &mut Entropy) -> Vec<Time> {
    let mut moments = Vec::new();
    let troubled = scenario.healed_at();
    // Second by second, so that each is a single decision.
    for second in 0..troubled.as_secs() {
        if entropy.happens(thousandths * 1000 / 60) {
            let within = Duration::from_micros(entropy.below(1_000_000));
            moments.push(Time::ZERO + Duration::from_secs(second) + within);
        }
    }
    moments
}
