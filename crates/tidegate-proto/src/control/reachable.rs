//! Where this node can be reached: the one place that decides which of its addresses others are told
//! (specification section 5.4).
//!
//! Three sources: its listeners, at the addresses of the interfaces; what the operator names; and where
//! peers that this node has dialed from a listener say that they see it. What one peer says is not told
//! on: three network groups must say it, or another peer must have reached it there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::id::{Address, ConnectionId};
use crate::peers::address::{Group, Scope, group, is_local, is_named, is_same_kind, reached_at};
use crate::time::Time;

/// Addresses in a record (`PeerRecord` in the schema).
const MOST: usize = 16;
/// Network groups that must see this node at an address before it says so itself.
const ALIKE: usize = 3;
/// Addresses that are counted: those of a few networks that a node moves through.
const MOST_SEEN: usize = 8;
/// Peers that are counted for one address: more than a node dials.
const MOST_BY: usize = 64;
/// How long an address is told of that nobody sees any more.
const UNSEEN: Duration = Duration::from_secs(3600);

/// An address of this node, and whether others are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OwnAddress {
    /// The address.
    #[serde(skip)]
    pub address: Address,
    /// Where it is known from.
    pub source: AddressSource,
    /// For how long it has been known.
    pub known_for: Duration,
    /// Who is told of it.
    pub told: Told,
}

/// Where an address of this node is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum AddressSource {
    /// The operator names it.
    External,
    /// A listener is at it, or at all addresses of an interface that has it.
    Listener,
    /// Peers see this node there.
    Seen {
        /// Network groups that do at present.
        groups: usize,
        /// Whether another peer has reached this node there.
        dialed_back: bool,
    },
}

/// Who is told of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Told {
    /// Everybody.
    All,
    /// Peers of the local network.
    Local,
    /// Nobody: fewer than three groups see it, and none has reached it.
    Unproven,
    /// Nobody: it is the machine's own, and there are others.
    Loopback,
    /// Nobody: a record has room for 16.
    NoRoom,
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::External => f.write_str("named by the operator"),
            Self::Listener => f.write_str("of a listener"),
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

/// Where this node listens, and where others see it.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    /// What is bound: an address, or that of any interface.
    listeners: Vec<Address>,
    interfaces: Vec<Address>,
    external: Vec<Address>,
    /// Since when each of the addresses of this node's own has been there.
    since: BTreeMap<Address, Time>,
    /// Where others see it, the latest at the end.
    seen: Vec<Seen>,
}

/// An address at which peers see this node.
#[derive(Debug)]
struct Seen {
    address: Address,
    /// The listener that it dialed them from.
    listener: Address,
    since: Time,
    /// Connections to those who see it there, and where they are.
    by: BTreeMap<ConnectionId, Group>,
    /// Connections whose peers were asked whether they reach it, and when.
    asked: BTreeMap<ConnectionId, Time>,
    /// Since when nobody sees it.
    unseen: Option<Time>,
    dialed_back: bool,
    /// When three groups had seen it, or another peer had reached it.
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

    /// Whether the node was here before it came to another address: nobody sees it here any more, or only those
    /// of one group who may not have noticed.
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
    /// The listeners, the addresses of the interfaces and what the operator names are these now.
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

    /// A peer that this node has dialed from a listener says where it sees it. R5.4.3
    pub(crate) fn observed(
        &mut self,
        link: ConnectionId,
        (listener, by): (&Address, &Address),
        address: &Address,
        now: Time,
    ) {
        let own = self.listeners.contains(listener)
            && is_same_kind(listener, address)
            && address.scope() > Scope::Loopback
            // A machine in the same network may have any number of addresses there: what it says counts in
            // that network.
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
            seen.by.insert(link, group(by));
        }
        seen.prove(now);
        self.seen.push(seen);
        self.settle();
        if self.seen.len() > MOST_SEEN {
            let first = self.seen.iter().position(|seen| seen.proven.is_none()).unwrap_or(0);
            self.seen.remove(first);
        }
    }

    /// Forgets where the node was before. As long as it is nowhere else for sure that is told: one peer's word
    /// must not take it away.
    fn settle(&mut self) {
        let before = |seen: &Seen| {
            seen.proven.is_some() && self.seen.iter().any(|other| seen.is_before(other))
        };
        let gone = self.seen.iter().map(before).collect::<Vec<_>>();
        let mut gone = gone.into_iter();
        self.seen.retain(|_| !gone.next().unwrap_or(false));
    }

    /// Whether the peer of a connection, which is at a site, could prove an address: somebody else sees this
    /// node there.
    pub(crate) fn is_provable(&self, address: &Address, link: ConnectionId, at: &Address) -> bool {
        self.provable(link, at).any(|seen| seen.address == *address)
    }

    /// Those that are not proven, the latest first.
    fn provable(&self, link: ConnectionId, at: &Address) -> impl Iterator<Item = &Seen> {
        let own = group(at);
        let others =
            move |seen: &Seen| seen.by.iter().any(|(other, of)| *other != link && *of != own);
        self.seen.iter().rev().filter(move |seen| seen.proven.is_none() && others(seen))
    }

    /// Whether there is anything to prove.
    pub(crate) fn has_unproven(&self) -> bool {
        self.seen.iter().any(|seen| seen.proven.is_none())
    }

    /// What the peer of a connection could prove, and since when it may be asked: some time after it was last.
    pub(crate) fn to_ask(
        &self,
        link: ConnectionId,
        at: &Address,
        again: Duration,
    ) -> Option<(Time, &Address)> {
        let from = |seen: &Seen| seen.asked.get(&link).map_or(Time::ZERO, |last| *last + again);
        let room = move |seen: &&Seen| seen.asked.contains_key(&link) || seen.asked.len() < MOST_BY;
        let provable = self.provable(link, at).filter(room);
        provable.map(|seen| (from(seen), &seen.address)).min_by_key(|(from, _)| *from)
    }

    fn seen_at(&mut self, address: &Address) -> Option<&mut Seen> {
        self.seen.iter_mut().find(|seen| seen.address == *address)
    }

    /// The peer of a connection is asked.
    pub(crate) fn asked(&mut self, address: &Address, link: ConnectionId, now: Time) {
        if let Some(seen) = self.seen_at(address) {
            seen.asked.insert(link, now);
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

    /// When an address is no longer told of, for nobody has seen it for long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let unseen = self.seen.iter().filter_map(|seen| seen.unseen);
        unseen.min().map(|since| since + UNSEEN)
    }

    /// Forgets what nobody has seen for long.
    pub(crate) fn expire(&mut self, now: Time) {
        self.seen.retain(|seen| seen.unseen.is_none_or(|since| now < since + UNSEEN));
    }

    /// A connection is over: whether its peer has had any part in this.
    pub(crate) fn gone(&mut self, link: ConnectionId, now: Time) -> bool {
        let mut has_part = false;
        for seen in &mut self.seen {
            has_part |= seen.asked.remove(&link).is_some();
            if seen.by.remove(&link).is_some() {
                has_part = true;
                if seen.by.is_empty() {
                    seen.unseen = Some(now);
                }
            }
        }
        if !has_part {
            return false;
        }
        // One peer's word is worth nothing when it has gone.
        self.seen.retain(|seen| seen.proven.is_some() || seen.unseen.is_none());
        self.settle();
        true
    }

    /// Addresses of this node's own, and where from.
    fn own(&self) -> impl Iterator<Item = (Address, AddressSource)> {
        let external =
            self.external.iter().map(|address| (address.clone(), AddressSource::External));
        let at = |listener| reached_at(listener, &self.interfaces);
        let listeners = self.listeners.iter().flat_map(at);
        external.chain(listeners.map(|address| (address, AddressSource::Listener)))
    }

    /// All addresses that are known, in the order in which others should try them.
    pub(crate) fn all(&self, now: Time) -> Vec<OwnAddress> {
        let own = self.own().map(|(address, source)| {
            let since = self.since.get(&address).copied().unwrap_or(now);
            (address, source, since, true)
        });
        // What was seen last is where the node is now.
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
        // Stable: those of a kind stay in their order.
        all.sort_by_key(|own| own.told as u8);
        let is_told = |own: &OwnAddress| matches!(own.told, Told::All | Told::Local);
        if !all.iter().any(is_told) {
            // Peers on this machine are all that there can be.
            let loopback = all.iter_mut().filter(|own| own.told == Told::Loopback);
            loopback.for_each(|own| own.told = Told::Local);
        }
        all.iter_mut()
            .filter(|own| is_told(own))
            .skip(MOST)
            .for_each(|own| own.told = Told::NoRoom);
        all
    }

    /// What everybody is told, and what peers in the same network are.
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

    /// A node that listens at all interfaces, which have these addresses.
    fn behind(interfaces: &[[u8; 4]]) -> Reachable {
        let mut reachable = Reachable::default();
        let interfaces = interfaces.iter().map(|ip| at(*ip, 0)).collect();
        reachable.listen(vec![at([0; 4], 4001)], interfaces, Vec::new(), Time::ZERO);
        reachable
    }

    /// Peer `n`, in a group of its own, sees the node.
    fn seen(reachable: &mut Reachable, n: u8, address: &Address, now: Time) {
        let by = at([20, n, 0, 1], 4001);
        let listener = at([0; 4], 4001);
        reachable.observed(ConnectionId(n.into()), (&listener, &by), address, now);
    }

    /// The connection to peer `n` is over.
    fn gone(reachable: &mut Reachable, n: u64, now: Time) {
        reachable.gone(ConnectionId(n), now);
    }

    fn told(reachable: &Reachable) -> [Vec<Address>; 2] {
        reachable.told(seconds(100))
    }

    /// The default. A network of such nodes was a star around its bootstrap node.
    #[test]
    fn any_interface_stands_for_the_addresses_of_all() {
        let all = behind(&[LOOPBACK, HOME, PUBLIC]);
        let [home, public] = [HOME, PUBLIC].map(|ip| at(ip, 4001));
        assert_eq!(told(&all), [vec![public.clone()], vec![public, home]]);
        // What is left when there is no network, and on a machine that has none.
        assert_eq!(told(&behind(&[LOOPBACK])), [vec![], vec![at(LOOPBACK, 4001)]]);
        // One address, and one that nobody could dial.
        let mut one = Reachable::default();
        one.listen(vec![at(HOME, 1), at([224, 0, 0, 1], 1)], Vec::new(), Vec::new(), Time::ZERO);
        assert_eq!(told(&one), [vec![], vec![at(HOME, 1)]]);
    }

    /// R5.4.3
    #[test]
    fn an_address_is_told_when_three_groups_see_it() {
        let public = at(PUBLIC, 777);
        // Who does not listen has no address, whatever others see.
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
        // What does not fit is not even counted: another kind, no port, a group of hosts, another family.
        gone(&mut reachable, 1, Time::ZERO);
        let tcp = Address([&[4][..], &PUBLIC, &[0x06, 1, 1]].concat().into());
        let six = Address([&[41][..], &[0x20; 16], &[0x91, 2, 1, 1, 0xcc, 3]].concat().into());
        let cut = Address([&[4][..], &PUBLIC, &[0x91, 2, 1]].concat().into());
        for odd in [tcp, six, cut, at(PUBLIC, 0), at([224, 0, 0, 1], 1), at(LOOPBACK, 1)] {
            (0..4).for_each(|n| seen(&mut reachable, n, &odd, Time::ZERO));
        }
        // And what another socket is seen at says nothing about a listener.
        for n in 0..4 {
            let by = at([20, n, 0, 1], 4001);
            let other = at([0; 4], 9);
            reachable.observed(ConnectionId(n.into()), (&other, &by), &at(PUBLIC, 1), Time::ZERO);
        }
        assert!(reachable.seen.is_empty());
    }

    /// After two moves newcomers tried both old addresses first, and came to the node after a minute.
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
        // Two ways out at a time: both are told, the newer first.
        (7..=9).for_each(|n| seen(&mut reachable, n, &old, seconds(70)));
        assert_eq!(told(&reachable)[0], [old.clone(), new.clone()]);
        // Those who saw it at one of them leave one by one, and one does not.
        (4..=5).for_each(|n| gone(&mut reachable, n, seconds(75)));
        assert_eq!(told(&reachable)[0], [old]);
        // An interface comes and goes.
        reachable.listen(vec![at([0; 4], 4001)], vec![at([7; 4], 0)], Vec::new(), seconds(80));
        assert_eq!(told(&reachable)[0][0], at([7; 4], 4001));
        assert_eq!(reachable.all(seconds(90))[0].known_for, Duration::from_secs(10));
        reachable.listen(Vec::new(), Vec::new(), Vec::new(), seconds(80));
        assert_eq!(told(&reachable), [vec![], vec![]]);
    }

    /// After an hour nobody is told of it any more: nothing else had to happen, and nothing did.
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

    /// Whoever was dialed first after a cut took away, with one word, what three had said.
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
        // That another has reached the new one takes the old one away.
        seen(&mut reachable, 5, &bad, seconds(60));
        reachable.reached(&bad, seconds(60));
        assert_eq!(told(&reachable)[0], [bad]);
    }

    /// Quiet connections end later than busy ones, and one peer may keep its own for ever.
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

    /// Of two ways out one is without peers for a moment: nothing has moved.
    #[test]
    fn an_older_address_takes_no_newer_one_away() {
        let [first, second] = [at(PUBLIC, 4001), at([9, 9, 9, 9], 4001)];
        let mut reachable = behind(&[HOME]);
        (1..=4).for_each(|n| seen(&mut reachable, n, &first, seconds(1)));
        (5..=7).for_each(|n| seen(&mut reachable, n, &second, seconds(2)));
        (5..=7).for_each(|n| gone(&mut reachable, n, seconds(3)));
        assert_eq!(told(&reachable)[0].len(), 2);
    }

    /// The word of the local network took away what three groups of the world had said.
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
