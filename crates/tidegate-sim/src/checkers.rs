//! Invariants of a network, checked from outside.

use std::collections::BTreeSet;
use std::fmt;

use tidegate_ledger::{TRANSFERS, WORKS};
use tidegate_proto::stats::Count;

use crate::host::Host;
use crate::scenario::Scenario;

/// An invariant that was violated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(String);

impl Broken {
    pub(crate) fn new(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much a node may have beyond its limit on its way to the store: what it may be validating at
/// a time.
const MOST_BACKLOG: usize = 16 << 20;

/// The most steps of work over things that peers can pile up that one message may cost. The maximum
/// is the look-up of a block in full pools, which takes a sixteenth of what they hold.
const MOST_STEPS: u64 = 2048;

/// One message has cost a node `steps` steps.
pub(crate) fn work(node: usize, steps: u64) -> Result<(), Broken> {
    check(steps <= MOST_STEPS, || format!("node {node}: {steps} steps for one message"))
}

fn check(ok: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if ok { Ok(()) } else { Err(Broken(what())) }
}

/// The nodes that are checked, with their numbers.
fn honest<'a>(scenario: &Scenario, hosts: &'a [Host]) -> Vec<(usize, &'a Host)> {
    let hostile = &scenario.faults.hostile_nodes;
    let up = hosts.iter().enumerate().filter(|(_, host)| host.up);
    up.filter(|(n, _)| !hostile.contains(n)).collect()
}

/// Invariants whatever goes wrong: memory is bounded, and no honest node is punished. Hostile nodes
/// have had `names` identities.
pub(crate) fn at_any_time(scenario: &Scenario, hosts: &[Host], names: u64) -> Result<(), Broken> {
    for (n, host) in honest(scenario, hosts) {
        let config = host.node.config();
        let status = host.node.status();
        for spec in &config.pools {
            let pool = &status.pools[&spec.name];
            check(pool.items as u64 <= spec.capacity, || {
                format!("node {n}: {} items in pool {}", pool.items, spec.name)
            })?;
            let most = spec.capacity_bytes + u64::from(spec.max_item);
            check(pool.bytes as u64 <= most, || {
                format!("node {n}: {} bytes in pool {}", pool.bytes, spec.name)
            })?;
            let grant = u64::from(spec.grant.announcements) + u64::from(spec.grant.bodies);
            let most = grant * status.peers.len() as u64;
            // A hostile node may grant any number; what a node remembers of its own spending has a
            // bound of its own.
            let granted =
                if names > 0 { u64::from(config.limits.held_back) + grant } else { grant };
            let most_spent = granted * status.peers.len() as u64;
            check(pool.given as u64 <= most && pool.spent as u64 <= most_spent, || {
                let (given, spent) = (pool.given, pool.spent);
                format!("node {n}: {given} and {spent} permits out in pool {}", spec.name)
            })?;
        }
        let limits = &config.limits;
        let most = limits.book_new_buckets * 16 + limits.book_tried_buckets * 8;
        check(status.known_peers <= most as usize, || {
            format!("node {n}: {} peers in the book", status.known_peers)
        })?;
        check(status.store_backlog <= MOST_BACKLOG, || {
            format!("node {n}: {} bytes on their way to the store", status.store_backlog)
        })?;
        // Two for each worker: one for each pool, one for the chain, and the shared ones.
        let places = (config.workers as usize + config.pools.len()) * 2;
        check(status.tickets <= places, || {
            format!("node {n}: {} tickets are out", status.tickets)
        })?;
        check(status.fetch_bytes <= config.limits.fetch_bytes_node, || {
            format!("node {n}: {} bytes asked for", status.fetch_bytes)
        })?;
        check(status.block_bytes <= config.limits.block_bytes as usize, || {
            format!("node {n}: {} bytes of blocks", status.block_bytes)
        })?;
        if let Some((violation, _)) = host.node.stats().violations().next() {
            check(names > 0, || format!("node {n} accuses an honest peer: {violation}"))?;
        }
        check(status.bans as u64 <= names, || format!("node {n} refuses an honest peer"))?;
        let internal = host.node.stats().of(Count::Internal);
        check(internal == 0, || format!("node {n}: {internal} messages that have no wire form"))?;
    }
    Ok(())
}

/// What must be true some time after all faults have been healed.
pub(crate) fn at_the_end(scenario: &Scenario, hosts: &[Host], names: u64) -> Result<(), Broken> {
    at_any_time(scenario, hosts, names)?;
    let honest = honest(scenario, hosts);
    let (first, one) = honest[0];
    let tip = |host: &Host| host.node.tip().map(|tip| (tip.height, tip.block));
    let expected = tip(one);
    for (n, host) in &honest {
        check(tip(host) == expected, || {
            format!("node {n} holds tip {:?}, node {first} {expected:?}", tip(host))
        })?;
        check(Some(host.ledger.tip().0) == host.node.tip().map(|tip| tip.block), || {
            format!("node {n}: core and ledger hold different tips")
        })?;
    }
    check(expected.is_some_and(|(height, _)| height > 0), || "no block was made".to_owned())?;
    for (pool, least) in [(TRANSFERS, scenario.least_transfers), (WORKS, scenario.least_works)] {
        let ids = |host: &Host| host.node.pool_ids(pool).copied().collect::<BTreeSet<_>>();
        let name = &one.node.config().pools[pool.0 as usize].name;
        let expected = ids(one);
        check(expected.len() >= least, || {
            format!("only {} items in pool {name}: they prove little", expected.len())
        })?;
        for (n, host) in &honest {
            let own = ids(host);
            check(own == expected, || {
                let missing = expected.difference(&own).count();
                let more = own.difference(&expected).count();
                format!("pool {name} of node {n}: {missing} missing, {more} more than node {first}")
            })?;
        }
    }
    if scenario.all_known {
        for (n, host) in &honest {
            let known = host.node.status().known_peers;
            check(known + 1 == honest.len(), || {
                format!("node {n} knows {known} of {} others", honest.len() - 1)
            })?;
        }
    }
    honest.iter().try_for_each(|(n, host)| quiet(*n, host))
}

/// Nothing is outstanding any more.
fn quiet(n: usize, host: &Host) -> Result<(), Broken> {
    let status = host.node.status();
    for (name, pool) in status.pools {
        check(pool.given == 0 && pool.spent == 0, || {
            let (given, spent) = (pool.given, pool.spent);
            format!(
                "node {n}: {given} permits of pool {name} are out and {spent} are spent though all is quiet"
            )
        })?;
    }
    check(status.tickets == 0, || format!("node {n}: tickets are out though all is quiet"))?;
    check(status.fetch_bytes == 0, || {
        format!("node {n}: {} bytes are asked for though all is quiet", status.fetch_bytes)
    })
}
