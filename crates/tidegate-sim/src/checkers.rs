//! What must be true of a network, seen from outside.

use std::collections::BTreeSet;
use std::fmt;

use tidegate_ledger::{TRANSFERS, WORKS};

use crate::host::Host;
use crate::scenario::Scenario;

/// Something that must be true and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(ok: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if ok { Ok(()) } else { Err(Broken(what())) }
}

/// What must be true whatever goes wrong: memory is bounded, and nobody honest is punished.
pub(crate) fn at_any_time(hosts: &[Host]) -> Result<(), Broken> {
    for (n, host) in hosts.iter().enumerate() {
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
            check(pool.given as u64 <= most && pool.spent as u64 <= most, || {
                format!("node {n}: {} permits out in pool {}", pool.given, spec.name)
            })?;
        }
        check(status.tickets <= config.workers as usize * 2, || {
            format!("node {n}: {} tickets are out", status.tickets)
        })?;
        check(status.fetch_bytes <= config.limits.fetch_bytes_node, || {
            format!("node {n}: {} bytes asked for", status.fetch_bytes)
        })?;
        check(status.block_bytes <= config.limits.block_bytes as usize, || {
            format!("node {n}: {} bytes of blocks", status.block_bytes)
        })?;
        if let Some((violation, _)) = host.node.stats().violations().next() {
            check(false, || format!("node {n} accuses an honest peer: {violation}"))?;
        }
        check(status.bans == 0, || format!("node {n} refuses an honest peer"))?;
    }
    Ok(())
}

/// What must be true when all has been healed for a while.
pub(crate) fn at_the_end(scenario: &Scenario, hosts: &[Host]) -> Result<(), Broken> {
    at_any_time(hosts)?;
    let tip = |host: &Host| host.node.tip().map(|tip| (tip.height, tip.block));
    let expected = tip(&hosts[0]);
    for (n, host) in hosts.iter().enumerate() {
        check(tip(host) == expected, || {
            format!("node {n} holds tip {:?}, node 0 {expected:?}", tip(host))
        })?;
        check(Some(host.ledger.tip().0) == host.node.tip().map(|tip| tip.block), || {
            format!("node {n}: core and ledger hold different tips")
        })?;
    }
    check(expected.is_some_and(|(height, _)| height > 0), || "no block was made".to_owned())?;
    for (pool, least) in [(TRANSFERS, scenario.least_transfers), (WORKS, scenario.least_works)] {
        let ids = |host: &Host| host.node.pool_ids(pool).copied().collect::<BTreeSet<_>>();
        let name = &hosts[0].node.config().pools[pool.0 as usize].name;
        let expected = ids(&hosts[0]);
        check(expected.len() >= least, || {
            format!("only {} items in pool {name}: they prove little", expected.len())
        })?;
        for (n, host) in hosts.iter().enumerate() {
            let own = ids(host);
            check(own == expected, || {
                let missing = expected.difference(&own).count();
                let more = own.difference(&expected).count();
                format!("pool {name} of node {n}: {missing} missing and {more} more than node 0")
            })?;
        }
    }
    for (n, host) in hosts.iter().enumerate() {
        for (name, pool) in host.node.status().pools {
            check(pool.given == 0 && pool.spent == 0, || {
                format!("node {n}: permits of pool {name} are out though all is quiet")
            })?;
        }
    }
    Ok(())
}
