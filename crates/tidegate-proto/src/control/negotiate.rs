//! Which channels a connection has: fixed ones, and those that both ends offer
//! (specification section 5.7).

use crate::channel::{Context, Kind};
use crate::config::Config;
use crate::id::{ConnectionId, PoolIndex};
use crate::io::{NotShared, Output};
use crate::link::{At, FIRST_AGREED, Slot};
use crate::permit::Terms;
use crate::pool;
use crate::rules::Rules;
use crate::violation::Violation;
use crate::wire::{Grant, Offer, Raise, Setup};

/// Channels with fixed numbers, which a node has if it has blocks.
const FIXED: [(u32, Kind); 2] = [(1, Kind::Tip), (2, Kind::Rpc)];

/// What this node offers, ascending by kind and name.
pub(super) fn offers(config: &Config, rules: &dyn Rules) -> Vec<Offer> {
    let mut offers =
        Kind::ALL.iter().flat_map(|kind| kind.offers(config, rules)).collect::<Vec<_>>();
    offers.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    offers
}

/// Whether a peer's offers are in order: both ends must number the instances alike.
pub(super) fn check(offers: &[Offer]) -> Result<(), Violation> {
    // R5.7.1
    let ascending = offers.windows(2).all(|w| (w[0].kind, &w[0].name) < (w[1].kind, &w[1].name));
    // R5.7.2
    let versions = offers.iter().all(|offer| {
        let ascending = offer.versions.windows(2).all(|pair| pair[0].number < pair[1].number);
        ascending && !offer.versions.is_empty()
    });
    match ascending && versions {
        true => Ok(()),
        false => Err(Violation::Offers),
    }
}

/// The channels with fixed numbers may be written to.
pub(super) fn add_fixed(cx: &mut Context, link: ConnectionId) {
    if cx.config.genesis.is_none() {
        return;
    }
    let none = Grant { announcements: 0, bodies: 0, body_bytes: 0, requests: 0, fetch_bytes: 0 };
    let terms = Terms { ours: none.clone(), theirs: none };
    for (number, kind) in FIXED {
        let Some(connection) = cx.links.get_mut(link) else { return };
        if connection.slot_of(number).is_none() {
            connection.slots.push(Slot::new(number, kind, 0, 1));
            let at = At { link, slot: connection.slots.len() - 1, index: 0 };
            kind.on_up(cx, at, &terms);
        }
    }
}

/// The peer's hello is good: what it sends on the channels with fixed numbers may be read.
pub(super) fn open_fixed(cx: &mut Context, link: ConnectionId) {
    add_fixed(cx, link);
    if cx.config.genesis.is_some() {
        let open = FIXED.map(|(channel, _)| Output::Open { connection: link, channel });
        cx.outputs.extend(open);
    }
}

/// What two nodes do not exchange: a pool, or blocks (`None`), and why.
pub(super) type Unshared = (Option<PoolIndex>, NotShared);

/// Both setups are there: opens what both offer. What this node offers in vain comes back.
pub(super) fn open_agreed(cx: &mut Context, link: ConnectionId, setup: &Setup) -> Vec<Unshared> {
    let own = offers(&cx.config, &*cx.rules);
    let mut unshared = Vec::new();
    let Some(connection) = cx.links.get_mut(link) else { return unshared };
    connection.up = true;
    connection.salt = setup.salt;
    let pools = &cx.config.pools;
    let mut opened = Vec::new();
    // R5.7.3
    let mut number = FIRST_AGREED;
    for offer in &own {
        let same = |theirs: &&Offer| theirs.kind == offer.kind && theirs.name == offer.name;
        let index = pools.iter().position(|pool| pool.name == offer.name).unwrap_or(0);
        let mut in_vain = |reason| match Kind::of(offer.kind) {
            Some(Kind::Pool) => unshared.push((Some(PoolIndex(index as u16)), reason)),
            Some(Kind::Block) => unshared.push((None, reason)),
            _ => {}
        };
        // R5.1.7
        let Some(theirs) = setup.offers.iter().find(same) else {
            in_vain(NotShared::NotOffered);
            continue;
        };
        // A number is taken even if the two do not agree on more than the name. R5.7.4
        let instance = number;
        number += 1;
        // R5.7.6
        let version = match common_version(offer, theirs) {
            Ok(version) => version,
            Err(reason) => {
                in_vain(reason);
                continue;
            }
        };
        let Some(kind) = Kind::of(offer.kind) else { continue };
        connection.slots.push(Slot::new(instance, kind, index, version));
        let slot = connection.slots.len() - 1;
        let terms = Terms { ours: offer.grant.clone(), theirs: theirs.grant.clone() };
        opened.push((kind, At { link, slot, index }, terms, instance));
    }
    for (kind, at, terms, channel) in opened {
        kind.on_up(cx, at, &terms);
        cx.links.wake(at.link, at.slot);
        cx.outputs.push_back(Output::Open { connection: link, channel });
    }
    unshared
}

/// The highest version that both know, if they agree on its rules. R5.7.5
fn common_version(ours: &Offer, theirs: &Offer) -> Result<u32, NotShared> {
    let common = ours.versions.iter().rev().find_map(|version| {
        let same = theirs.versions.iter().find(|other| other.number == version.number)?;
        Some((version.number, version.rules == same.rules))
    });
    match common {
        Some((number, true)) => Ok(number),
        Some((_, false)) => Err(NotShared::OtherRules),
        None => Err(NotShared::NoCommonVersion),
    }
}

/// The peer raised what this node may have outstanding on an instance.
pub(super) fn raised(cx: &mut Context, link: ConnectionId, raise: &Raise) -> Result<(), Violation> {
    let connection = cx.links.get(link).ok_or(Violation::UnknownChannel)?;
    let slot = connection.slot_of(raise.instance).ok_or(Violation::UnknownChannel)?;
    let Slot { kind, index, .. } = connection.slots[slot];
    match kind {
        Kind::Pool => pool::raised(cx, At { link, slot, index }, &raise.grant),
        // R6.1.5
        _ => Err(Violation::UnknownChannel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;
    use crate::wire::OfferedVersion;

    fn offer(kind: u32, name: &str, versions: &[(u32, u8)]) -> Offer {
        let version = |(number, rules): &(u32, u8)| OfferedVersion {
            number: *number,
            rules: Digest([*rules; 32]),
        };
        Offer {
            kind,
            name: name.to_owned(),
            versions: versions.iter().map(version).collect(),
            grant: crate::config::POOL_GRANT,
            capacity: 1,
        }
    }

    /// R5.7.5
    #[test]
    fn the_highest_common_version_counts() {
        let v = |versions: &[(u32, u8)]| offer(4, "a", versions);
        assert_eq!(common_version(&v(&[(1, 0), (2, 0)]), &v(&[(1, 0)])), Ok(1));
        assert_eq!(common_version(&v(&[(1, 0), (2, 0)]), &v(&[(2, 0), (3, 0)])), Ok(2));
        assert_eq!(common_version(&v(&[(1, 0)]), &v(&[(2, 0)])), Err(NotShared::NoCommonVersion));
        // The highest they share counts, even if they would agree on a lower one.
        assert_eq!(
            common_version(&v(&[(1, 0), (2, 0)]), &v(&[(1, 0), (2, 9)])),
            Err(NotShared::OtherRules)
        );
    }

    /// R5.7.1, R5.7.2
    #[test]
    fn offers_must_be_in_order() {
        let one = &[(1, 0)][..];
        assert_eq!(check(&[offer(3, "", one), offer(4, "a", one), offer(4, "b", one)]), Ok(()));
        for wrong in [
            vec![offer(4, "b", one), offer(4, "a", one)],
            vec![offer(4, "a", one), offer(4, "a", one)],
            vec![offer(4, "a", one), offer(3, "b", one)],
            vec![offer(4, "a", &[])],
            vec![offer(4, "a", &[(2, 0), (1, 0)])],
        ] {
            assert_eq!(check(&wrong), Err(Violation::Offers));
        }
    }
}
