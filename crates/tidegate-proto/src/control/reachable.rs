//! Where this node can be reached: the one place that decides which of its addresses others are
//! told (specification section 5.4).
//!
//! Three sources: its listeners, at the addresses of the interfaces; the addresses that the
//! operator names; and those at which peers see connections that this node dialed from a listener's
//! socket. A single peer's claim is not passed on: three network groups must confirm it, or another
//! peer must have reached the node there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::id::{Address, ConnectionId};
use crate::peers::address::{Group, Scope, group, is_local, is_named, is_same_kind, reached_at};
use crate::time::Time;

/// Addresses in a record at most (`PeerRecord` in the schema).
const MOST: usize = 16;
/// Network groups that must see this node at an address before it is announced.
const ALIKE: usize = 3;
/// Observed addresses that are tracked: those of a few networks that a node moves through.
const MOST_SEEN: usize = 8;
/// Peers counted for one address: more than a node dials.
const MOST_BY: usize = 64;
/// How long an address is announced after the last peer that saw it is gone.
const UNSEEN: Duration = Duration::from_secs(3600);

/// An address of this node, and whether others are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OwnAddress {
    /// The address.
    #[serde(skip)]
    pub address: Address,
    /// Where this node knows it from.
    pub source: AddressSource,
    /// For how long it has been known.
    pub known_for: Duration,
    /// Who is told about it.
    pub told: Told,
}

/// How this node knows one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum AddressSource {
    /// Named by the operator.
    External,
    /// A listener is bound to it, or to all interfaces, one of which has it.
    Listener,
    /// Any peer in common leads there.
    Offers,
    /// Peers see this node at it.
    Seen {
        /// Network groups that see it at present.
        groups: usize,
        /// Whether a peer has reached this node there by dialing back.
        dialed_back: bool,
    },
}

/// Who is told about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Told {
    /// Every peer.
    All,
    /// Peers in the local network.
    Local,
    /// No peer: fewer than three groups see it, and none has reached it.
    Unproven,
    /// No peer: it is a loopback address, and there are others.
    Loopback,
    /// No peer: a record has room for 16.
    NoRoom,
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::External => f.write_str("named by the operator"),
            Self::Listener => f.write_str("of a listener"),
            Self::Offers => f.write_str("by offers that a common peer carries"),
            Self::Seen { groups, dialed_back } => {
                let end = if *dialed_back { ", reached by a peer" } else { "" };
                write!(f, "seen by peers of {groups} network groups{end}")
            }
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "told to all",
            Self::Local => "told to peers of the local network",
            Self::Unproven => "told to nobody: fewer than three network groups see it, and no other peer has reached it",
            Self::Loopback => "told to nobody: peers on this machine reach the others too",
            Self::NoRoom => "told to nobody: a record has room for 16",
        })
    }
}

/// Where this node listens, and where peers see it.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    /// Bound addresses, either specific ones or "all interfaces".
    listeners: Vec<Address>,
    interfaces: Vec<Address>,
    external: Vec<Address>,
    takes_offers: bool,
    /// When each of the node's own addresses was added.
    since: BTreeMap<Address, Time>,
    /// Observed addresses, the newest last.
    seen: Vec<Seen>,
}

/// An address at which peers see this node.
#[derive(Debug)]
struct Seen {
    address: Address,
    /// The listener whose socket the peers were dialed from.
    listener: Address,
    since: Time,
    /// Connections whose peers see it, and the groups of these peers.
    by: BTreeMap<ConnectionId, Group>,
    /// Connections whose peers were asked to dial it back, and when.
    asked: BTreeMap<ConnectionId, Time>,
    /// Since when no peer sees it.
    unseen: Option<Time>,
    dialed_back: bool,
    /// When three groups had confirmed it, or a peer had reached it.
    proven: Option<Time>,
}

impl Seen {
    fn groups(&self) -> usize {
        self.by.values().collect::<BTreeSet<_>>().len()
    }

    fn prove(&mut self, now: Time) {
        if self.dialed_back || self.groups() >= ALIKE {
            self.proven.get_or_insert(now);
        }
    }

    /// Whether this is an old address that the node has moved away from: no peer sees it here any
    /// more, or only one group does, which may not have noticed yet.
    fn is_before(&self, other: &Self) -> bool {
        let (here, there) = (self.groups(), other.groups());
        self.listener == other.listener
            && self.address.scope() == other.address.scope()
            && other.proven > self.proven
            && match here {
                0 => there > 0,
                1 => there > 1,
                _ => false,
            }
    }
}

impl Reachable {
    /// This node takes offers: any peer in common leads to it.
    pub(crate) fn take_offers(&mut self) {
        self.takes_offers = true;
    }

    /// Sets the listeners, the addresses of the interfaces, and those that the operator names.
    pub(crate) fn listen(
        &mut self,
        listeners: Vec<Address>,
        interfaces: Vec<Address>,
        external: Vec<Address>,
        now: Time,
    ) {
        (self.listeners, self.interfaces, self.external) = (listeners, interfaces, external);
        self.seen.retain(|seen| self.listeners.contains(&seen.listener));
        let own = self.own().map(|(address, _)| address).collect::<BTreeSet<_>>();
        self.since.retain(|address, _| own.contains(address));
        for address in own {
            self.since.entry(address).or_insert(now);
        }
    }

    /// A peer that this node dialed from a listener's socket says where it sees this node. R5.4.3
    pub(crate) fn observed(
        &mut self,
        connection: ConnectionId,
        (listener, by): (&Address, &Address),
        address: &Address,
        now: Time,
    ) {
        let own = self.listeners.contains(listener)
            && is_same_kind(listener, address)
            && address.scope() > Scope::Loopback
            // A machine in the local network may have any number of addresses there: its claims
            // only count for that network.
            && is_local(by) == (address.scope() == Scope::Local)
            && !self.own().any(|(own, _)| own == *address);
        if !own {
            return;
        }
        let known = self.seen.iter().position(|seen| seen.address == *address);
        let mut seen = known.map(|at| self.seen.remove(at)).unwrap_or_else(|| Seen {
            address: address.clone(),
            listener: listener.clone(),
            since: now,
            by: BTreeMap::new(),
            asked: BTreeMap::new(),
            unseen: None,
            dialed_back: false,
            proven: None,
        });
        seen.unseen = None;
        if seen.by.len() < MOST_BY {
            seen.by.insert(connection, group(by));
        }
        seen.prove(now);
        self.seen.push(seen);
        self.settle();
        if self.seen.len() > MOST_SEEN {
            let first = self.seen.iter().position(|seen| seen.proven.is_none()).unwrap_or(0);
            self.seen.remove(first);
        }
    }

    /// Drops old addresses that the node has moved away from. While no new address is certain the
    /// old one is kept: one peer's claim must not remove it.
    fn settle(&mut self) {
        let before = |seen: &Seen| {
            seen.proven.is_some() && self.seen.iter().any(|other| seen.is_before(other))
        };
        let gone = self.seen.iter().map(before).collect::<Vec<_>>();
        let mut gone = gone.into_iter();
        self.seen.retain(|_| !gone.next().unwrap_or(false));
    }

    /// Whether the peer of a connection, whose own address is `at`, could confirm an address by
    /// dialing it back: other peers see this node there.
    pub(crate) fn is_provable(
        &self,
        address: &Address,
        connection: ConnectionId,
        at: &Address,
    ) -> bool {
        self.provable(connection, at).any(|seen| seen.address == *address)
    }

    /// Unconfirmed addresses that this peer could confirm, the newest first.
    fn provable(&self, connection: ConnectionId, at: &Address) -> impl Iterator<Item = &Seen> {
        let own = group(at);
        let others =
            move |seen: &Seen| seen.by.iter().any(|(other, of)| *other != connection && *of != own);
        self.seen.iter().rev().filter(move |seen| seen.proven.is_none() && others(seen))
    }

    /// Whether any address is unconfirmed.
    pub(crate) fn has_unproven(&self) -> bool {
        self.seen.iter().any(|seen| seen.proven.is_none())
    }

    /// The address that the peer of a connection could confirm, and when it may be asked next: some
    /// time after it was last asked.
    pub(crate) fn to_ask(
        &self,
        connection: ConnectionId,
        at: &Address,
        again: Duration,
    ) -> Option<(Time, &Address)> {
        let from =
            |seen: &Seen| seen.asked.get(&connection).map_or(Time::ZERO, |last| *last + again);
        let room =
            move |seen: &&Seen| seen.asked.contains_key(&connection) || seen.asked.len() < MOST_BY;
        let provable = self.provable(connection, at).filter(room);
        provable.map(|seen| (from(seen), &seen.address)).min_by_key(|(from, _)| *from)
    }

    fn seen_at(&mut self, address: &Address) -> Option<&mut Seen> {
        self.seen.iter_mut().find(|seen| seen.address == *address)
    }

    /// The peer of a connection was asked to dial an address back.
    pub(crate) fn asked(&mut self, address: &Address, connection: ConnectionId, now: Time) {
        if let Some(seen) = self.seen_at(address) {
            seen.asked.insert(connection, now);
        }
    }

    /// A peer has reached this node at an address.
    pub(crate) fn reached(&mut self, address: &Address, now: Time) {
        if let Some(seen) = self.seen_at(address) {
            seen.dialed_back = true;
            seen.prove(now);
            self.settle();
        }
    }

    /// When the next address expires that no peer sees any more.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let unseen = self.seen.iter().filter_map(|seen| seen.unseen);
        unseen.min().map(|since| since + UNSEEN)
    }

    /// Drops addresses that no peer has seen for long.
    pub(crate) fn expire(&mut self, now: Time) {
        self.seen.retain(|seen| seen.unseen.is_none_or(|since| now < since + UNSEEN));
    }

    /// A connection is gone: returns whether its peer was a witness or was asked.
    pub(crate) fn gone(&mut self, connection: ConnectionId, now: Time) -> bool {
        let mut has_part = false;
        for seen in &mut self.seen {
            has_part |= seen.asked.remove(&connection).is_some();
            if seen.by.remove(&connection).is_some() {
                has_part = true;
                if seen.by.is_empty() {
                    seen.unseen = Some(now);
                }
            }
        }
        if !has_part {
            return false;
        }
        // A single peer's claim is dropped with its connection.
        self.seen.retain(|seen| seen.proven.is_some() || seen.unseen.is_none());
        self.settle();
        true
    }

    /// The node's own addresses, with their sources.
    fn own(&self) -> impl Iterator<Item = (Address, AddressSource)> {
        let external =
            self.external.iter().map(|address| (address.clone(), AddressSource::External));
        let at = |listener| reached_at(listener, &self.interfaces);
        // Nobody dials the socket of such a listener: an offer leads there.
        let listeners = self.listeners.iter().filter(|at| !at.is_by_offer()).flat_map(at);
        let offers = self.takes_offers.then(|| (Address::by_offer(), AddressSource::Offers));
        external.chain(listeners.map(|address| (address, AddressSource::Listener))).chain(offers)
    }

    /// All known addresses, in the order in which others should try them.
    pub(crate) fn all(&self, now: Time) -> Vec<OwnAddress> {
        let own = self.own().map(|(address, source)| {
            let since = self.since.get(&address).copied().unwrap_or(now);
            (address, source, since, true)
        });
        // The newest observed address is where the node is now.
        let seen = self.seen.iter().rev().map(|seen| {
            let (groups, dialed_back) = (seen.groups(), seen.dialed_back);
            let source = AddressSource::Seen { groups, dialed_back };
            (seen.address.clone(), source, seen.since, seen.proven.is_some())
        });
        let mut all = Vec::<OwnAddress>::new();
        for (address, source, since, proven) in own.chain(seen) {
            if all.iter().any(|other| other.address == address) || is_named(&address) {
                continue;
            }
            let told = match address.scope() {
                // R5.4.4
                Scope::None => continue,
                _ if !proven => Told::Unproven,
                Scope::Public => Told::All,
                Scope::Local => Told::Local,
                Scope::Loopback => Told::Loopback,
            };
            let known_for = now.since(since);
            all.push(OwnAddress { address, source, known_for, told });
        }
        // The sort is stable: addresses of one kind keep their order.
        all.sort_by_key(|own| own.told as u8);
        let is_told = |own: &OwnAddress| matches!(own.told, Told::All | Told::Local);
        let is_dialed = |own: &OwnAddress| is_told(own) && own.source != AddressSource::Offers;
        if !all.iter().any(is_dialed) {
            // Without other addresses, all peers must be on this machine.
            let loopback = all.iter_mut().filter(|own| own.told == Told::Loopback);
            loopback.for_each(|own| own.told = Told::Local);
        }
        all.iter_mut()
            .filter(|own| is_told(own))
            .skip(MOST)
            .for_each(|own| own.told = Told::NoRoom);
        all
    }

    /// The addresses for everybody, and those for peers in the same network.
    pub(super) fn told(&self, now: Time) -> [Vec<Address>; 2] {
        let all = self.all(now);
        let those = |told: &[Told]| {
            let those = all.iter().filter(|own| told.contains(&own.told));
            those.map(|own| own.address.clone()).collect()
        };
        [those(&[Told::All]), those(&[Told::All, Told::Local])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::address::tests::ip4 as at;

    fn seconds(n: u64) -> Time {
        Time::ZERO + Duration::from_secs(n)
    }

    const PUBLIC: [u8; 4] = [8, 8, 8, 8];
    const HOME: [u8; 4] = [192, 168, 1, 5];
    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

    /// A node that listens on all interfaces, which have these addresses.
    fn behind(interfaces: &[[u8; 4]]) -> Reachable {
        let mut reachable = Reachable::default();
        let interfaces = interfaces.iter().map(|ip| at(*ip, 0)).collect();
        reachable.listen(vec![at([0; 4], 4001)], interfaces, Vec::new(), Time::ZERO);
        reachable
    }

    /// Peer `n`, in a group of its own, sees the node at an address.
    fn seen(reachable: &mut Reachable, n: u8, address: &Address, now: Time) {
        let by = at([20, n, 0, 1], 4001);
        let listener = at([0; 4], 4001);
        reachable.observed(ConnectionId(n.into()), (&listener, &by), address, now);
    }

    /// The connection to peer `n` is gone.
    fn gone(reachable: &mut Reachable, n: u64, now: Time) {
        reachable.gone(ConnectionId(n), now);
    }

    fn told(reachable: &Reachable) -> [Vec<Address>; 2] {
        reachable.told(seconds(100))
    }

    /// Regression, with default listeners: a network of such nodes was a star around its bootstrap
    /// node.
    #[test]
    fn any_interface_stands_for_the_addresses_of_all() {
        let all = behind(&[LOOPBACK, HOME, PUBLIC]);
        let [home, public] = [HOME, PUBLIC].map(|ip| at(ip, 4001));
        assert_eq!(told(&all), [vec![public.clone()], vec![public, home]]);
        // Loopback and nothing at all: a machine without a network.
        assert_eq!(told(&behind(&[LOOPBACK])), [vec![], vec![at(LOOPBACK, 4001)]]);
        // One usable address, and one that cannot be dialed.
        let mut one = Reachable::default();
        one.listen(vec![at(HOME, 1), at([224, 0, 0, 1], 1)], Vec::new(), Vec::new(), Time::ZERO);
        assert_eq!(told(&one), [vec![], vec![at(HOME, 1)]]);
    }

    /// R5.4.3
    #[test]
    fn an_address_is_told_when_three_groups_see_it() {
        let public = at(PUBLIC, 777);
        // A node that does not listen has no address, whatever peers see.
        let mut deaf = Reachable::default();
        (0..9).for_each(|n| seen(&mut deaf, n, &public, Time::ZERO));
        assert_eq!(told(&deaf), [vec![], vec![]]);
        let mut reachable = behind(&[HOME]);
        let home = at(HOME, 4001);
        seen(&mut reachable, 1, &public, Time::ZERO);
        seen(&mut reachable, 1, &public, Time::ZERO);
        seen(&mut reachable, 2, &public, Time::ZERO);
        assert_eq!(told(&reachable), [vec![], vec![home.clone()]], "two groups are two");
        let all = reachable.all(seconds(9));
        let last = all.last().unwrap();
        assert_eq!((last.told, last.known_for), (Told::Unproven, Duration::from_secs(9)));
        assert_eq!(last.source, AddressSource::Seen { groups: 2, dialed_back: false });
        seen(&mut reachable, 3, &public, Time::ZERO);
        assert_eq!(told(&reachable), [vec![public.clone()], vec![public, home]]);
    }

    #[test]
    fn addresses_claimed_by_one_liar_are_not_advertised() {
        let mut reachable = behind(&[HOME]);
        for n in 0..100 {
            let by = at([20, 1, n, 1], 4001);
            let listener = at([0; 4], 4001);
            let claims = at([9, 9, 9, n], 1);
            reachable.observed(ConnectionId(1), (&listener, &by), &claims, Time::ZERO);
            assert!(reachable.seen.len() <= MOST_SEEN);
        }
        assert_eq!(told(&reachable)[0], []);
        // What does not match the listener is not even counted: another kind, no port, a group of
        // hosts, another family.
        gone(&mut reachable, 1, Time::ZERO);
        let tcp = Address([&[4][..], &PUBLIC, &[0x06, 1, 1]].concat().into());
        let six = Address([&[41][..], &[0x20; 16], &[0x91, 2, 1, 1, 0xcc, 3]].concat().into());
        let cut = Address([&[4][..], &PUBLIC, &[0x91, 2, 1]].concat().into());
        for odd in [tcp, six, cut, at(PUBLIC, 0), at([224, 0, 0, 1], 1), at(LOOPBACK, 1)] {
            (0..4).for_each(|n| seen(&mut reachable, n, &odd, Time::ZERO));
        }
        // What another socket is seen at says nothing about the listener.
        for n in 0..4 {
            let by = at([20, n, 0, 1], 4001);
            let other = at([0; 4], 9);
            reachable.observed(ConnectionId(n.into()), (&other, &by), &at(PUBLIC, 1), Time::ZERO);
        }
        assert!(reachable.seen.is_empty());
    }

    /// Regression: after two moves newcomers tried both old addresses first, and reached the node
    /// after a minute.
    #[test]
    fn a_moved_node_advertises_where_it_was_seen_last() {
        let mut reachable = behind(&[HOME]);
        let [old, new] = [at(PUBLIC, 4001), at([9, 9, 9, 9], 4001)];
        (1..=3).for_each(|n| seen(&mut reachable, n, &old, seconds(1)));
        (1..=3).for_each(|n| gone(&mut reachable, n, seconds(50)));
        assert_eq!(told(&reachable)[0], std::slice::from_ref(&old), "it may be back at once");
        assert_eq!(reachable.deadline(), Some(seconds(50) + UNSEEN));
        seen(&mut reachable, 4, &new, seconds(60));
        assert_eq!(told(&reachable)[0], std::slice::from_ref(&old), "one may lie");
        (5..=6).for_each(|n| seen(&mut reachable, n, &new, seconds(60)));
        assert_eq!(told(&reachable)[0], std::slice::from_ref(&new));
        assert_eq!(reachable.deadline(), None);
        // Two uplinks at a time: both are announced, the newer first.
        (7..=9).for_each(|n| seen(&mut reachable, n, &old, seconds(70)));
        assert_eq!(told(&reachable)[0], [old.clone(), new.clone()]);
        // The peers that saw it at one of them leave one by one, and one stays.
        (4..=5).for_each(|n| gone(&mut reachable, n, seconds(75)));
        assert_eq!(told(&reachable)[0], [old]);
        // An interface appears and disappears.
        reachable.listen(vec![at([0; 4], 4001)], vec![at([7; 4], 0)], Vec::new(), seconds(80));
        assert_eq!(told(&reachable)[0][0], at([7; 4], 4001));
        assert_eq!(reachable.all(seconds(90))[0].known_for, Duration::from_secs(10));
        reachable.listen(Vec::new(), Vec::new(), Vec::new(), seconds(80));
        assert_eq!(told(&reachable), [vec![], vec![]]);
    }

    /// After an hour it is no longer announced, even though nothing else happens.
    #[test]
    fn unseen_addresses_are_advertised_for_an_hour() {
        let mut reachable = behind(&[HOME]);
        let public = at(PUBLIC, 4001);
        (1..=3).for_each(|n| seen(&mut reachable, n, &public, seconds(1)));
        (1..=3).for_each(|n| gone(&mut reachable, n, seconds(50)));
        let end = reachable.deadline().unwrap();
        reachable.expire(end - Duration::from_micros(1));
        assert_eq!(told(&reachable)[0], std::slice::from_ref(&public));
        reachable.expire(end);
        assert_eq!((told(&reachable)[0].len(), reachable.deadline()), (0, None));
    }

    /// Regression: the first peer dialed after an outage removed, with one claim, what three had
    /// confirmed.
    #[test]
    fn an_address_is_not_withdrawn_on_the_word_of_one_peer() {
        let mut reachable = behind(&[HOME]);
        let [good, bad] = [at(PUBLIC, 4001), at([9, 9, 9, 9], 4001)];
        (1..=3).for_each(|n| seen(&mut reachable, n, &good, seconds(1)));
        (1..=3).for_each(|n| gone(&mut reachable, n, seconds(50)));
        for n in 0..MOST_SEEN as u8 {
            seen(&mut reachable, 4, &at([9, 9, 9, n], 4001), seconds(60));
        }
        assert_eq!(told(&reachable)[0], std::slice::from_ref(&good));
        // Once another peer has reached the new address, the old one is dropped.
        seen(&mut reachable, 5, &bad, seconds(60));
        reachable.reached(&bad, seconds(60));
        assert_eq!(told(&reachable)[0], [bad]);
    }

    /// Quiet connections end later than busy ones, and one peer may keep its connection for ever.
    #[test]
    fn an_old_address_goes_with_those_who_saw_it_there() {
        let [old, new] = [at(PUBLIC, 4001), at([9, 9, 9, 9], 4001)];
        for end in [seconds(80), seconds(90)] {
            let mut reachable = behind(&[HOME]);
            (1..=4).for_each(|n| seen(&mut reachable, n, &old, seconds(1)));
            (5..=7).for_each(|n| seen(&mut reachable, n, &new, seconds(60)));
            assert_eq!(told(&reachable)[0], [new.clone(), old.clone()]);
            (1..=2).for_each(|n| gone(&mut reachable, n, end));
            assert_eq!(told(&reachable)[0].len(), 2);
            gone(&mut reachable, 3, end);
            assert_eq!(told(&reachable)[0], std::slice::from_ref(&new));
        }
    }

    /// One of two uplinks is without peers for a moment: the node has not moved.
    #[test]
    fn an_older_address_takes_no_newer_one_away() {
        let [first, second] = [at(PUBLIC, 4001), at([9, 9, 9, 9], 4001)];
        let mut reachable = behind(&[HOME]);
        (1..=4).for_each(|n| seen(&mut reachable, n, &first, seconds(1)));
        (5..=7).for_each(|n| seen(&mut reachable, n, &second, seconds(2)));
        (5..=7).for_each(|n| gone(&mut reachable, n, seconds(3)));
        assert_eq!(told(&reachable)[0].len(), 2);
    }

    /// Regression: a claim from the local network removed what three public groups had confirmed.
    #[test]
    fn local_peers_take_no_public_address_away() {
        let mut reachable = behind(&[HOME]);
        let [public, local] = [at(PUBLIC, 4001), at([192, 168, 1, 77], 4001)];
        (1..=3).for_each(|n| seen(&mut reachable, n, &public, seconds(1)));
        (1..=3).for_each(|n| gone(&mut reachable, n, seconds(50)));
        for n in 1..=3 {
            let by = at([192, 168, 1, 100 + n], 4001);
            let link = ConnectionId(u64::from(n) + 10);
            reachable.observed(link, (&at([0; 4], 4001), &by), &local, seconds(60));
        }
        assert_eq!(told(&reachable)[0], [public]);
        assert!(told(&reachable)[1].contains(&local));
    }

    #[test]
    fn a_record_has_room_for_sixteen() {
        let many = |count: u8| {
            let mut reachable = Reachable::default();
            let listeners = (0..count).map(|n| at([8, 8, 8, n], 1)).collect();
            let external = vec![at([9; 4], 1)];
            reachable.listen(listeners, Vec::new(), external, Time::ZERO);
            let told = reachable.told(Time::ZERO);
            assert_eq!(told[0], told[1]);
            assert_eq!(told[0][0], at([9; 4], 1), "what the operator names comes first");
            let no_room =
                reachable.all(Time::ZERO).iter().filter(|own| own.told == Told::NoRoom).count();
            (told[0].len(), no_room)
        };
        assert_eq!(many(15), (MOST, 0));
        assert_eq!(many(16), (MOST, 1));
    }
}
