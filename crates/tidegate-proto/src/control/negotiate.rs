//! Which channel instances a connection has: fixed ones, and those that both ends offer
//! (specification section 5.7).

use crate::channel::{self, Agreed, Context, Kind};
use crate::id::ConnectionId;
use crate::io::{NotShared, Output};
use crate::link::{Instance, Slot};
use crate::permit::Terms;
use crate::signal;
use crate::violation::Violation;
use crate::wire::{Grant, Offer, Raise, Setup};

/// Checks that a peer's offers are ordered, so that both ends number the instances alike.
pub(super) fn check(offers: &[Offer]) -> Result<(), Violation> {
    // R5.7.1
    let ascending = offers.windows(2).all(|w| (w[0].kind, &w[0].name) < (w[1].kind, &w[1].name));
    // R5.7.2
    let versions = offers.iter().all(|offer| {
        let ascending = offer.versions.windows(2).all(|pair| pair[0].number < pair[1].number);
        ascending && !offer.versions.is_empty()
    });
    if ascending && versions { Ok(()) } else { Err(Violation::Offers) }
}

/// The channels with fixed numbers besides control.
fn fixed() -> impl Iterator<Item = (u32, Kind)> {
    Kind::all_fixed().filter(|(_, kind)| *kind != Kind::Control)
}

/// Opens the channels with fixed numbers for sending.
pub(super) fn add_fixed(cx: &mut Context, connection: ConnectionId) {
    if cx.config.genesis.is_none() {
        return;
    }
    let none = Grant { announcements: 0, bodies: 0, body_bytes: 0, requests: 0, fetch_bytes: 0 };
    let terms = Terms { ours: none.clone(), theirs: none };
    for (number, kind) in fixed() {
        let Some(link) = cx.links.get_mut(connection) else { return };
        if link.slot_of(number).is_none() {
            link.slots.push(Slot::new(number, kind, 0, 1));
            let at = Instance { link: connection, slot: link.slots.len() - 1, index: 0 };
            kind.on_up(cx, at, &terms);
        }
    }
}

/// Opens the channels with fixed numbers for receiving: the peer's hello is valid.
pub(super) fn open_fixed(cx: &mut Context, connection: ConnectionId) {
    add_fixed(cx, connection);
    if cx.config.genesis.is_some() {
        cx.outputs.extend(fixed().map(|(channel, _)| Output::Open { connection, channel }));
    }
}

/// Something that two nodes do not share: the kind of channel, the name of its instance, and why.
pub(super) type Unshared = (Kind, String, NotShared);

/// Opens what both ends offer, once both setups are there. Returns what this node offers and the
/// peer does not share.
pub(super) fn open_agreed(
    cx: &mut Context,
    connection: ConnectionId,
    setup: &Setup,
) -> Vec<Unshared> {
    let own = channel::offers(&cx.config, &*cx.rules);
    let offers = own.iter().map(|(_, offer)| offer.clone()).collect::<Vec<_>>();
    let agreed = channel::agreed(&offers, &setup.offers);
    let mut unshared = Vec::new();
    let Some(link) = cx.links.get_mut(connection) else { return unshared };
    link.up = true;
    link.salt = setup.salt;
    let mut opened = Vec::new();
    for (index, offer) in own {
        let Some(kind) = Kind::of(offer.kind) else { continue };
        let same = |one: &&Agreed| one.kind == kind && one.name == offer.name;
        let one = agreed.iter().find(same);
        let version = one.map_or(Err(NotShared::NotOffered), |one| one.version);
        let (Some(one), Ok(version)) = (one, version) else {
            unshared.extend(version.err().map(|reason| (kind, offer.name, reason)));
            continue;
        };
        let same = |theirs: &&Offer| theirs.kind == offer.kind && theirs.name == offer.name;
        let Some(theirs) = setup.offers.iter().find(same) else { continue };
        link.slots.push(Slot::new(one.number, kind, index, version));
        let slot = link.slots.len() - 1;
        let terms = Terms { ours: offer.grant, theirs: theirs.grant.clone() };
        opened.push((kind, Instance { link: connection, slot, index }, terms, one.number));
    }
    for (kind, at, terms, channel) in opened {
        kind.on_up(cx, at, &terms);
        cx.links.wake(at.link, at.slot);
        cx.outputs.push_back(Output::Open { connection, channel });
    }
    signal::review(cx, connection);
    unshared
}

/// The peer raised this node's grant on an instance.
pub(super) fn raised(
    cx: &mut Context,
    connection: ConnectionId,
    raise: &Raise,
) -> Result<(), Violation> {
    let link = cx.links.get(connection).ok_or(Violation::UnknownChannel)?;
    let slot = link.slot_of(raise.instance).ok_or(Violation::UnknownChannel)?;
    let Slot { kind, index, .. } = link.slots[slot];
    kind.raised(cx, Instance { link: connection, slot, index }, &raise.grant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::common_version;
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
        // Only the highest common version counts, even if they would agree on the rules of a lower
        // one.
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
