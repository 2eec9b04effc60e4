//! The address book: addresses of peers, where they were learnt, and which peers are known to be
//! real.
//!
//! As in Bitcoin Core's address manager there are two tables. *New* has peers known by hearsay,
//! *tried* those that this node has met at their address. The place of an entry is a keyed hash of
//! the network group of its address, and in *new* of the group that told of it. So a party with few
//! groups reaches few places, however many peers it invents (Heilman et al., "Eclipse Attacks on
//! Bitcoin's Peer-to-Peer Network", 2015). An entry that is known to be alive is not evicted by one
//! that is not better.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use super::address::{Group, Scope, group, has_route, is_local, is_named};
use crate::id::{Address, PeerId};
use crate::rng::Rng;
use crate::time::Time;
use crate::wire::{Encode as _, PeerRecord};

/// Entries of a bucket in *new*.
pub(crate) const NEW_SLOTS: u64 = 16;
pub(crate) const TRIED_SLOTS: u64 = 8;
/// The part of the buckets of *new* that records from one group reach: a sixteenth.
const SOURCE_SHARE: u64 = 16;
/// The part of the buckets of *tried* that peers of one group reach: a thirty-second.
const GROUP_SHARE: u64 = 32;
/// Places in *new* of a peer that several groups tell of.
const PLACES: usize = 4;
/// An entry with this many failures in a row can be evicted.
const HOPELESS: u32 = 4;
/// The size of a record that is kept: 16 addresses of 32 bytes.
pub(crate) const MAX_RECORD: usize = 720;
/// Entries of *tried* that are to be tested, since another peer wants their place.
const MAX_TESTS: usize = 10;
/// How many addresses of a peer are tried without a pause. The bound keeps an invented record from
/// having many others dialed in a row.
const QUICK: usize = 4;
/// How long a peer is avoided after its first failure; doubled with each.
const AVOID: Duration = Duration::from_secs(15);
/// The longest such time.
const AVOID_MOST: Duration = Duration::from_secs(600);

/// A peer in the book, as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BookEntry {
    /// Its id.
    pub peer: PeerId,
    /// Its signed record, if any.
    pub record: Option<PeerRecord>,
    /// Whether the local addresses in it are usable here.
    pub local: bool,
    /// The address at which this node met it, if it did.
    pub met_at: Option<Address>,
    /// The network group of its source, in the form that the book hashes.
    pub source: Vec<u8>,
    /// Whether it is in *tried*.
    pub tried: bool,
    /// Failed dials in a row.
    pub failures: u32,
    /// An anchor: one of the connections to make first after a restart.
    pub anchor: bool,
}

/// The address book, as it is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PeerBook {
    /// The key of the hashes. It must be saved: with a new one, an attacker that fills the book
    /// could choose its places again.
    pub key: Option<[u8; 16]>,
    /// The peers.
    pub entries: Vec<BookEntry>,
    /// Bans, with the time left.
    pub bans: Vec<(PeerId, Duration)>,
}

/// Which table, bucket and slot.
type Place = (bool, u16, u16);

#[derive(Debug)]
struct Entry {
    record: Option<PeerRecord>,
    /// The record was learnt from a peer in this node's local network.
    local: bool,
    met_at: Option<Address>,
    source: Vec<u8>,
    /// Addresses to dial: the one where it was met, then those of its record.
    addresses: Vec<Address>,
    places: Vec<Place>,
    tried: bool,
    failures: u32,
    /// The index of the address to dial next, among the usable ones.
    next: usize,
    last: Option<Time>,
}

impl Entry {
    /// An entry without a place.
    fn new(
        (record, local): (Option<&PeerRecord>, bool),
        met_at: Option<&Address>,
        source: &[u8],
        mut addresses: Vec<Address>,
        failures: u32,
    ) -> Self {
        dedup(&mut addresses);
        Self {
            record: record.cloned(),
            local,
            met_at: met_at.cloned(),
            source: source.to_vec(),
            addresses,
            places: Vec::new(),
            tried: false,
            failures,
            next: failures as usize,
            last: None,
        }
    }

    /// The usable address to dial next: each failure moves on to another.
    fn address(&self, interfaces: &[Address]) -> Option<&Address> {
        let count = self.possible(interfaces).count().max(1);
        self.possible(interfaces).nth(self.next % count)
    }

    fn possible(&self, interfaces: &[Address]) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(|address| has_route(address, interfaces))
    }

    /// How often all usable addresses have failed in a row: a peer with several addresses has only
    /// failed when all have.
    fn rounds(&self, interfaces: &[Address]) -> u32 {
        match self.failures {
            // The usual case, which saves looking for routes.
            0 => 0,
            failures => failures / self.round(interfaces),
        }
    }

    fn round(&self, interfaces: &[Address]) -> u32 {
        self.possible(interfaces).count().clamp(1, QUICK) as u32
    }

    /// Whether it may be evicted: it has failed too often, or no address is usable.
    fn is_hopeless(&self, interfaces: &[Address]) -> bool {
        self.rounds(interfaces) >= HOPELESS || self.possible(interfaces).next().is_none()
    }

    fn is_avoided(&self, interfaces: &[Address], now: Time) -> bool {
        let rounds = self.rounds(interfaces);
        let avoid = AVOID.saturating_mul(1 << rounds.saturating_sub(1).min(16)).min(AVOID_MOST);
        rounds > 0 && self.last.is_some_and(|last| now < last + avoid)
    }
}

/// The result of telling the book of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// The peer or the record is new.
    New,
    /// It was known, useless, or there was no room.
    Nothing,
}

/// The address book.
#[derive(Debug)]
pub(crate) struct Book {
    own: PeerId,
    key: [u8; 16],
    buckets: [u64; 2],
    entries: BTreeMap<PeerId, Entry>,
    places: BTreeMap<Place, PeerId>,
    /// Pending tests: the peer that wants a place in *tried*, and the peer that has it.
    tests: VecDeque<(PeerId, PeerId)>,
    /// The addresses of this machine, if known: they show what it can send to.
    interfaces: Vec<Address>,
    makes_offers: bool,
    rng: Rng,
    revision: u64,
}

impl Book {
    /// Restores a saved book, within the current bounds. `makes_offers`: whether this node can reach peers by offers.
    pub(crate) fn new(
        own: PeerId,
        saved: &PeerBook,
        buckets: [u32; 2],
        makes_offers: bool,
        rng: &Rng,
    ) -> Self {
        let mut rng = rng.fork("book");
        let drawn = rng.bytes();
        let mut book = Self {
            own,
            key: saved.key.unwrap_or(drawn),
            buckets: buckets.map(|buckets| u64::from(buckets).clamp(1, 1 << 15)),
            entries: BTreeMap::new(),
            places: BTreeMap::new(),
            tests: VecDeque::new(),
            interfaces: Vec::new(),
            makes_offers,
            rng,
            revision: 0,
        };
        let mut seen = BTreeSet::new();
        for entry in saved.entries.iter().filter(|entry| seen.insert(entry.peer)) {
            book.restore(entry);
        }
        book
    }

    /// Restores an entry. Its record was verified when it arrived.
    fn restore(&mut self, saved: &BookEntry) {
        let said = saved.record.iter().flat_map(|record| &record.addresses);
        let said = said.filter(|address| self.is_useful(address, saved.local));
        let met_at = saved.met_at.iter().filter(|at| self.makes_offers || !at.is_by_offer());
        let addresses = met_at.chain(said).cloned().collect::<Vec<_>>();
        if saved.peer == self.own || addresses.is_empty() {
            return;
        }
        let (record, met_at) = (saved.record.as_ref(), saved.met_at.as_ref());
        let entry =
            Entry::new((record, saved.local), met_at, &saved.source, addresses, saved.failures);
        self.entries.insert(saved.peer, entry);
        if saved.tried {
            self.promote(saved.peer);
        } else {
            self.place_new(saved.peer, &saved.source);
        }
        self.drop_homeless(saved.peer);
    }

    /// The book to be saved, with the `anchors` to dial first after the restart.
    pub(crate) fn saved(&self, anchors: &BTreeSet<PeerId>) -> PeerBook {
        let entry = |(peer, entry): (&PeerId, &Entry)| BookEntry {
            peer: *peer,
            record: entry.record.clone(),
            local: entry.local,
            met_at: entry.met_at.clone(),
            source: entry.source.clone(),
            tried: entry.tried,
            failures: entry.failures,
            anchor: anchors.contains(peer),
        };
        let entries = self.entries.iter().map(entry).collect();
        PeerBook { key: Some(self.key), entries, bans: Vec::new() }
    }

    /// Counts the changes that are worth saving.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries are in *tried*.
    pub(crate) fn tried(&self) -> usize {
        self.entries.values().filter(|entry| entry.tried).count()
    }

    /// Sets the addresses of this machine.
    pub(crate) fn set_interfaces(&mut self, interfaces: &[Address]) {
        self.interfaces = interfaces.to_vec();
    }

    /// The newest record of a peer.
    pub(crate) fn record(&self, peer: &PeerId) -> Option<&PeerRecord> {
        self.entries.get(peer)?.record.as_ref()
    }

    /// Whether the book has this very record.
    pub(crate) fn has(&self, record: &PeerRecord) -> bool {
        self.entries.get(&record.peer).is_some_and(|entry| entry.record.as_ref() == Some(record))
    }

    /// A peer at `source` sent a record with a valid signature.
    pub(crate) fn learn(&mut self, record: &PeerRecord, source: &Address) -> Learnt {
        let learnt =
            self.tell(record.peer, Some(record), None, &group(source).bytes(), is_local(source));
        self.revision += u64::from(learnt == Learnt::New);
        learnt
    }

    /// `local`: whether the local addresses in the record are usable here, given its source.
    fn tell(
        &mut self,
        peer: PeerId,
        record: Option<&PeerRecord>,
        met_at: Option<&Address>,
        source: &[u8],
        local: bool,
    ) -> Learnt {
        let size = record.map_or(0, |record| record.to_bytes().map_or(usize::MAX, |b| b.len()));
        if peer == self.own || size > MAX_RECORD {
            return Learnt::Nothing;
        }
        let known = self.entries.get(&peer);
        let newer = record.is_some_and(|record| {
            let known = known.and_then(|entry| entry.record.as_ref());
            known.is_none_or(|known| known.sequence < record.sequence)
        });
        let said = record.into_iter().flat_map(|record| &record.addresses);
        let said = said.filter(|address| self.is_useful(address, local));
        let mut addresses = met_at.into_iter().chain(said).cloned().collect::<Vec<_>>();
        match self.entries.get_mut(&peer) {
            Some(entry) if newer => {
                // The address where it was met comes first while the record still has it, and last
                // otherwise, since the peer may have moved.
                match entry.met_at.clone() {
                    Some(met_at) if addresses.contains(&met_at) => addresses.insert(0, met_at),
                    met_at => addresses.extend(met_at),
                }
                dedup(&mut addresses);
                if !addresses.is_empty() {
                    entry.addresses = addresses;
                }
                (entry.record, entry.local) = (record.cloned(), local);
                // The peer may have moved: its failures do not count any more.
                (entry.failures, entry.next) = (0, 0);
                Learnt::New
            }
            Some(entry) if !entry.tried && entry.places.len() < PLACES => {
                // Several groups tell of it: each further place is half as likely as the one
                // before.
                let likely = 1 << entry.places.len();
                if self.rng.next_u64().is_multiple_of(likely) {
                    self.place_new(peer, source);
                }
                Learnt::Nothing
            }
            Some(_) => Learnt::Nothing,
            None if addresses.is_empty() => Learnt::Nothing,
            None => {
                let entry = Entry::new((record, local), met_at, source, addresses, 0);
                self.entries.insert(peer, entry);
                self.place_new(peer, source);
                self.drop_homeless(peer);
                if self.entries.contains_key(&peer) { Learnt::New } else { Learnt::Nothing }
            }
        }
    }

    /// An outbound connection to `address` has met the peer.
    pub(crate) fn met(&mut self, peer: PeerId, address: &Address, now: Time) {
        if peer == self.own {
            return;
        }
        if !self.entries.contains_key(&peer) {
            self.tell(peer, None, Some(address), &group(address).bytes(), true);
        }
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        let news = !entry.tried || entry.failures > 0 || entry.met_at.as_ref() != Some(address);
        (entry.failures, entry.next) = (0, 0);
        entry.last = Some(now);
        entry.met_at = Some(address.clone());
        entry.addresses.retain(|known| known != address);
        entry.addresses.insert(0, address.clone());
        self.revision += u64::from(news);
        self.tests.retain(|(_, occupant)| *occupant != peer);
        self.promote(peer);
    }

    /// A dial to the peer failed.
    pub(crate) fn failed(&mut self, peer: &PeerId, now: Time) {
        let Some(entry) = self.entries.get_mut(peer) else { return };
        entry.failures = entry.failures.saturating_add(1);
        entry.next = entry.next.wrapping_add(1);
        entry.last = Some(now);
        self.revision += 1;
        // A peer that fails its test loses its place to the one that waits for it.
        if let Some(at) = self.tests.iter().position(|(_, occupant)| occupant == peer) {
            let (candidate, occupant) = self.tests.remove(at).expect("it has just been found");
            self.evict_tried(occupant);
            self.promote(candidate);
        }
    }

    /// The peer is there, but refuses this node for now.
    pub(crate) fn unwilling(&mut self, peer: &PeerId, now: Time) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.failures = entry.failures.max(entry.round(&self.interfaces));
            entry.last = Some(now);
        }
        self.tests.retain(|(_, occupant)| occupant != peer);
    }

    /// The network is back: failures without it do not count.
    pub(crate) fn forgive(&mut self) {
        for entry in self.entries.values_mut() {
            entry.last = None;
        }
    }

    /// Draws a peer to dial, with its address: from *new* and *tried* with equal probability. With
    /// `patient`, peers that failed lately are skipped.
    pub(crate) fn pick(
        &mut self,
        now: Time,
        patient: bool,
        wanted: impl Fn(&PeerId) -> bool,
    ) -> Option<(PeerId, Address)> {
        let tried_first = self.rng.next_u64().is_multiple_of(2);
        let fits = |book: &Self, peer: &PeerId| {
            let entry = book.entries.get(peer)?;
            let address = entry.address(&book.interfaces)?;
            let now_or_later = !patient || !entry.is_avoided(&book.interfaces, now);
            (now_or_later && wanted(peer)).then(|| (*peer, address.clone()))
        };
        let found = self.search(tried_first, fits).or_else(|| self.search(!tried_first, fits));
        let (peer, address) = found?;
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.last = Some(now);
        }
        Some((peer, address))
    }

    /// Draws a peer for a feeler: one whose place in *tried* is wanted by another, or one in *new*.
    pub(crate) fn pick_feeler(
        &mut self,
        now: Time,
        wanted: impl Fn(&PeerId) -> bool,
    ) -> Option<(PeerId, Address)> {
        let fits = |book: &Self, peer: &PeerId| {
            let address = book.entries.get(peer)?.address(&book.interfaces)?;
            wanted(peer).then(|| (*peer, address.clone()))
        };
        let tested = self.tests.iter().find_map(|(_, occupant)| fits(self, occupant));
        let new = |book: &Self, peer: &PeerId| {
            let entry = book.entries.get(peer)?;
            let avoided = entry.is_avoided(&book.interfaces, now);
            if avoided { None } else { fits(book, peer) }
        };
        tested.or_else(|| self.search(false, new))
    }

    /// The first match, from a random place on.
    fn search<T>(&mut self, tried: bool, fits: impl Fn(&Self, &PeerId) -> Option<T>) -> Option<T> {
        let drawn = self.rng.next_u64();
        let from = (tried, drawn as u16 % self.buckets[usize::from(tried)] as u16, 0);
        let (first, last) = ((tried, 0, 0), (tried, u16::MAX, u16::MAX));
        let after = self.places.range(from..=last);
        let before = self.places.range(first..from);
        after.chain(before).find_map(|(_, peer)| fits(self, peer))
    }

    /// A random sample of up to `most` records, for a peer that asks.
    pub(crate) fn sample(
        &mut self,
        most: usize,
        wanted: impl Fn(&PeerRecord) -> bool,
    ) -> Vec<PeerRecord> {
        let records =
            self.entries.values().filter(|entry| entry.rounds(&self.interfaces) < HOPELESS);
        let records = records.filter_map(|entry| entry.record.as_ref());
        let mut chosen = records.filter(|record| wanted(record)).collect::<Vec<_>>();
        // A partial Fisher–Yates shuffle.
        let count = chosen.len().min(most);
        for at in 0..count {
            let rest = (chosen.len() - at) as u64;
            chosen.swap(at, at + (self.rng.next_u64() % rest) as usize);
        }
        chosen.into_iter().take(count).cloned().collect()
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        for part in parts {
            hasher.write(&(part.len() as u64).to_be_bytes());
            hasher.write(part);
        }
        hasher.finish()
    }

    fn place(&self, tried: bool, peer: &PeerId, source: &[u8]) -> Place {
        let address = self.entries.get(peer).and_then(|entry| entry.addresses.first());
        let is_by_offer = address.is_some_and(Address::is_by_offer);
        let group = address.map_or(Group::Own(Address(peer.0.to_vec().into())), group);
        let is_host = matches!(group, Group::Local(_)) || is_by_offer;
        // An offer's address says nothing of where the peer is: then it counts for whoever told of it.
        let group = if is_by_offer && tried { source.to_vec() } else { group.bytes() };
        let buckets = self.buckets[usize::from(tried)];
        // The bucket, among those that the peer's group or its source can reach.
        let bucket = if tried {
            let share = self.hash(&[b"tried", &peer.0]) % (buckets / GROUP_SHARE).max(1);
            self.hash(&[b"tried group", &group, &share.to_be_bytes()]) % buckets
        } else {
            // Many nodes may run on one machine and tell of each other: they share all buckets that
            // the source reaches, instead of one.
            let spread: &[u8] = if is_host { &peer.0 } else { &[] };
            let parts: [&[u8]; 4] = [b"new", source, &group, spread];
            let share = self.hash(&parts) % (buckets / SOURCE_SHARE).max(1);
            self.hash(&[b"new source", source, &share.to_be_bytes()]) % buckets
        };
        let slots = if tried { TRIED_SLOTS } else { NEW_SLOTS };
        let slot = self.hash(&[b"slot", &[u8::from(tried)], &bucket.to_be_bytes(), &peer.0]);
        // The first free place from there on; if all are taken, the peer competes for the first.
        let place = |n| (tried, bucket as u16, ((slot.wrapping_add(n)) % slots) as u16);
        (0..slots).map(place).find(|at| !self.places.contains_key(at)).unwrap_or_else(|| place(0))
    }

    /// Gives a peer a place in *new*, if one is free or its occupant is of less use.
    fn place_new(&mut self, peer: PeerId, source: &[u8]) {
        let place = self.place(false, &peer, source);
        let Some(entry) = self.entries.get(&peer) else { return };
        if entry.places.iter().any(|(_, bucket, _)| *bucket == place.1) {
            return;
        }
        if let Some(occupant) = self.places.get(&place).copied() {
            let homeless = entry.places.is_empty();
            let yields = self.entries.get(&occupant).is_none_or(|entry| {
                entry.is_hopeless(&self.interfaces) || entry.places.len() > 1 && homeless
            });
            if !yields {
                return;
            }
            self.leave(occupant, place);
            self.drop_homeless(occupant);
        }
        self.places.insert(place, peer);
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.places.push(place);
        }
    }

    fn leave(&mut self, peer: PeerId, place: Place) {
        self.places.remove(&place);
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.places.retain(|other| *other != place);
        }
    }

    fn drop_homeless(&mut self, peer: PeerId) {
        if self.entries.get(&peer).is_some_and(|entry| entry.places.is_empty()) {
            self.entries.remove(&peer);
            self.tests.retain(|(candidate, occupant)| *candidate != peer && *occupant != peer);
        }
    }

    /// Moves a peer to *tried*, unless its place has an occupant that has to be tested first.
    fn promote(&mut self, peer: PeerId) {
        let Some(entry) = self.entries.get(&peer).filter(|entry| !entry.tried) else { return };
        let source = entry.source.clone();
        let place = self.place(true, &peer, &source);
        if let Some(occupant) = self.places.get(&place).copied() {
            let alive = |entry: &Entry| !entry.is_hopeless(&self.interfaces);
            if self.entries.get(&occupant).is_some_and(alive) {
                let waits = self.tests.iter().any(|(candidate, _)| *candidate == peer);
                if !waits && self.tests.len() < MAX_TESTS {
                    self.tests.push_back((peer, occupant));
                }
                return;
            }
            self.evict_tried(occupant);
        }
        // The evicted peer may have taken one of this peer's places in *new*. If that was the last
        // one and this peer could not be reached, it is gone.
        if !self.entries.contains_key(&peer) {
            return;
        }
        let old = self.entries.get(&peer).map(|entry| entry.places.clone());
        for place in old.into_iter().flatten() {
            self.leave(peer, place);
        }
        self.places.insert(place, peer);
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.places.push(place);
            entry.tried = true;
        }
        self.revision += 1;
    }

    /// Moves a peer from *tried* back to *new*, or out of the book if there is no room.
    fn evict_tried(&mut self, peer: PeerId) {
        let Some(entry) = self.entries.get_mut(&peer).filter(|entry| entry.tried) else { return };
        entry.tried = false;
        let (source, old) = (entry.source.clone(), std::mem::take(&mut entry.places));
        for place in old {
            self.places.remove(&place);
        }
        self.place_new(peer, &source);
        self.drop_homeless(peer);
    }
}

/// Whether a received address can be dialed. `local`: whether local addresses are usable here,
/// given their source. Names are refused: they come only from the configuration.
fn is_useful(address: &Address, local: bool) -> bool {
    let reaches = match address.scope() {
        // R5.4.4
        Scope::None => false,
        Scope::Loopback | Scope::Local => local,
        Scope::Public => true,
    };
    reaches && !is_named(address)
}

impl Book {
    /// Whether this node can dial an address.
    fn is_useful(&self, address: &Address, local: bool) -> bool {
        is_useful(address, local) && (self.makes_offers || !address.is_by_offer())
    }
}

/// Removes duplicates.
fn dedup(addresses: &mut Vec<Address>) {
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::id::Signature;
    use crate::rng::Rng;

    const NOW: Time = Time::ZERO;

    fn peer(n: u32) -> PeerId {
        PeerId(blake3::derive_key("tidegate test peer", &n.to_be_bytes()))
    }

    /// An address in the group `a.b`.
    fn address(a: u8, b: u8, n: u32) -> Address {
        let [_, c, d, e] = n.to_be_bytes();
        Address(Bytes::from(vec![4, a, b, d, e, 0x91, 2, c, 1]))
    }

    fn record(n: u32, address: Address) -> PeerRecord {
        let signature = Signature([0; 64]);
        let (addresses, sealing) = (vec![address], None);
        PeerRecord { peer: peer(n), sequence: 1, addresses, sealing, signature }
    }

    fn book() -> Book {
        Book::new(peer(0), &PeerBook::default(), [128, 64], true, &Rng::new([1; 32]))
    }

    fn places(book: &Book, tried: bool) -> usize {
        book.places.range((tried, 0, 0)..=(tried, u16::MAX, u16::MAX)).count()
    }

    fn check(book: &Book) {
        for (place, peer) in &book.places {
            assert!(book.entries[peer].places.contains(place));
        }
        for entry in book.entries.values() {
            assert!((1..=PLACES).contains(&entry.places.len()));
            assert!(entry.places.iter().all(|(tried, ..)| *tried == entry.tried));
        }
    }

    #[test]
    fn one_group_fills_at_most_a_sixteenth_of_new() {
        let mut book = book();
        for n in 1..20_000 {
            book.learn(&record(n, address((n >> 8) as u8, n as u8, n)), &address(8, 8, 1));
        }
        assert_eq!(book.len(), 128 / 16 * 16);
        check(&book);
        // Other groups still find room.
        for n in 20_000..20_100 {
            book.learn(&record(n, address(9, n as u8, n)), &address(7, n as u8, 1));
        }
        assert!(book.len() > 128 + 90, "{}", book.len());
        check(&book);
    }

    /// Regression: packets went to 224.0.0.1 because of one signed record. R5.4.4
    #[test]
    fn unreachable_addresses_are_not_learnt() {
        let mut book = book();
        let mut both = record(1, address(224, 0, 1));
        book.learn(&both, &address(7, 7, 1));
        assert_eq!(book.len(), 0);
        both.addresses.push(address(8, 8, 1));
        book.learn(&both, &address(7, 7, 1));
        assert_eq!(book.entries[&peer(1)].addresses, [address(8, 8, 1)]);
    }

    /// The owner of a name decides what it resolves to: a wildcard name filled both tables.
    #[test]
    fn names_are_not_learnt() {
        let name = |n: u32| {
            let name = format!("n{n}.example.org");
            let head = [55, name.len() as u8];
            Address([&head[..], name.as_bytes(), &[0x91, 2, 0, 1]].concat().into())
        };
        let mut book = book();
        for n in 1..5_000 {
            book.learn(&record(n, name(n)), &address(8, 8, 1));
        }
        assert_eq!(book.len(), 0);
        // The other addresses of the record count, and names in a saved book are dropped.
        let mut both = record(1, name(1));
        both.addresses.push(address(9, 9, 1));
        book.learn(&both, &address(8, 8, 1));
        assert_eq!(book.entries[&peer(1)].addresses, [address(9, 9, 1)]);
        let mut saved = book.saved(&BTreeSet::new());
        saved.entries[0].record = Some(record(1, name(1)));
        assert_eq!(Book::new(peer(0), &saved, [128, 64], true, &Rng::new([2; 32])).len(), 0);
        for n in 5_000..5_100 {
            book.learn(&record(n, address(9, n as u8, n)), &address(7, n as u8, 1));
        }
        assert!(book.len() > 90, "{}", book.len());
    }

    /// A machine can use any number of ports: all are one group with its bound, which leaves room
    /// for thirty nodes that really run there.
    #[test]
    fn a_local_host_has_a_bounded_number_of_places() {
        let at =
            |n: u32| Address(Bytes::from(vec![4, 127, 0, 0, 1, 0x91, 2, (n >> 8) as u8, n as u8]));
        let mut book = book();
        for n in 1..=30 {
            book.learn(&record(n, at(n)), &at(0));
        }
        assert!(book.len() >= 29, "{}", book.len());
        for n in 31..20_000 {
            book.learn(&record(n, at(n)), &at(n));
        }
        assert_eq!(book.len(), 128 / 16 * 16);
        for n in 1..20_000 {
            book.met(peer(n), &at(n), NOW);
        }
        assert!(book.tried() <= 2 * 8, "{}", book.tried());
        check(&book);
    }

    #[test]
    fn the_book_has_its_bounds() {
        let mut book = book();
        for n in 256..40_000u32 {
            let [_, _, a, b] = n.to_be_bytes();
            book.learn(&record(n, address(a, b, n)), &address(b, a, n));
            if n % 5 == 0 {
                book.met(peer(n), &address(a, b, n), NOW);
            }
        }
        assert!(places(&book, false) <= 128 * 16 && places(&book, true) <= 64 * 8);
        assert!(book.tried() > 400, "{}", book.tried());
        assert!(book.tests.len() <= MAX_TESTS);
        check(&book);
        // It is the same after a restart.
        let saved = book.saved(&BTreeSet::new());
        let again = Book::new(peer(0), &saved, [128, 64], true, &Rng::new([2; 32]));
        check(&again);
        assert!(again.len() * 10 >= book.len() * 9, "{} of {}", again.len(), book.len());
        assert_eq!(again.tried(), book.tried());
    }

    #[test]
    fn answering_peers_keep_their_place_and_others_lose_it() {
        let mut book = book();
        // One group has two buckets of *tried*: sixteen places.
        let met = |book: &mut Book, n| {
            book.learn(&record(n, address(8, 8, n)), &address(5, n as u8, 1));
            book.met(peer(n), &address(8, 8, n), NOW);
        };
        (1..=200).for_each(|n| met(&mut book, n));
        assert_eq!(book.tried(), 16);
        assert_eq!(book.tests.len(), MAX_TESTS);
        let (candidate, occupant) = book.tests[0];
        let (asked, _) = book.pick_feeler(NOW, |_| true).unwrap();
        assert_eq!(asked, occupant, "he is tested first");
        book.met(occupant, &address(8, 8, 1), NOW);
        assert!(book.entries[&occupant].tried && !book.entries[&candidate].tried);
        let (candidate, occupant) = book.tests[0];
        book.failed(&occupant, NOW);
        assert!(!book.entries.get(&occupant).is_some_and(|entry| entry.tried));
        assert!(book.entries[&candidate].tried);
        check(&book);
    }

    proptest! {
        /// Regression: a place named a peer that was gone, which ended the process. Whatever is
        /// learnt, met and lost in whatever order, each place must name its occupant. Few buckets
        /// make collisions frequent.
        #[test]
        fn places_and_entries_name_each_other(steps in prop::collection::vec((0..3u8, 0..40u32), 0..400)) {
            let mut book = Book::new(peer(0), &PeerBook::default(), [1, 1], true, &Rng::new([1; 32]));
            for (what, n) in steps {
                let n = n + 1;
                match what {
                    0 => {
                        book.learn(&record(n, address(8, 8, n)), &address(7, n as u8, 1));
                    }
                    1 => book.met(peer(n), &address(8, 8, n), NOW),
                    _ => (0..HOPELESS).for_each(|_| book.failed(&peer(n), NOW)),
                }
                check(&book);
            }
        }
    }

    #[test]
    fn hopeless_entries_are_evicted_first() {
        let mut book = book();
        let source = address(8, 8, 1);
        let learn = |book: &mut Book, n| {
            book.learn(&record(n, address(1, n as u8, n)), &source);
        };
        (1..400).for_each(|n| learn(&mut book, n));
        let before = book.entries.keys().copied().collect::<BTreeSet<_>>();
        let gone = *before.first().unwrap();
        (0..HOPELESS).for_each(|_| book.failed(&gone, NOW));
        (400..3000).for_each(|n| learn(&mut book, n));
        let after = book.entries.keys().copied().collect::<BTreeSet<_>>();
        assert_eq!(before.difference(&after).collect::<Vec<_>>(), [&gone]);
    }

    #[test]
    fn each_failure_is_avoided_for_longer_and_tries_another_address() {
        let mut book = book();
        let (a, b) = (address(8, 8, 1), address(9, 9, 1));
        let mut two = record(1, a.clone());
        two.addresses.push(b.clone());
        book.learn(&two, &address(7, 7, 1));
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let pick = |book: &mut Book, seconds| book.pick(at(seconds), true, |_| true);
        assert_eq!(pick(&mut book, 0), Some((peer(1), a.clone())));
        book.failed(&peer(1), at(0));
        assert_eq!(pick(&mut book, 0), Some((peer(1), b.clone())), "it may be at the other one");
        book.failed(&peer(1), at(0));
        assert_eq!(pick(&mut book, 14), None);
        assert_eq!(pick(&mut book, 15), Some((peer(1), a.clone())));
        book.failed(&peer(1), at(15));
        book.failed(&peer(1), at(15));
        assert_eq!(pick(&mut book, 44), None);
        assert_eq!(pick(&mut book, 45), Some((peer(1), a.clone())));
        book.forgive();
        assert_eq!(pick(&mut book, 44), Some((peer(1), a)));
        // A peer that refuses is there: its other addresses are not tried.
        let mut book = self::book();
        book.learn(&two, &address(7, 7, 1));
        book.unwilling(&peer(1), at(0));
        assert_eq!(pick(&mut book, 14), None);
        let mut five = two.clone();
        five.addresses.extend((10..13).map(|n| address(n, n, 1)));
        let mut of_five = self::book();
        of_five.learn(&five, &address(7, 7, 1));
        of_five.unwilling(&peer(1), at(0));
        assert_eq!(pick(&mut of_five, 15), Some((peer(1), five.addresses[0].clone())));
        // Four addresses are tried in a row, however many a record has.
        let many = (0..9).map(|n| address(8, n, 1)).collect::<Vec<_>>();
        book.learn(&PeerRecord { addresses: many.clone(), ..record(2, b) }, &address(7, 7, 1));
        for address in &many[..QUICK] {
            assert_eq!(pick(&mut book, 1), Some((peer(2), address.clone())));
            book.failed(&peer(2), at(1));
        }
        assert_eq!(pick(&mut book, 15), Some((peer(1), two.addresses[0].clone())));
        book.failed(&peer(1), at(15));
        book.failed(&peer(1), at(15));
        assert_eq!(pick(&mut book, 16), Some((peer(2), many[4].clone())));
    }

    /// Regression: peers with IPv4 and IPv6 cost a node without IPv6 three seconds each.
    #[test]
    fn only_addresses_of_usable_families_are_dialed() {
        let six = Address([&[41, 0x26][..], &[0; 15], &[0x91, 2, 0, 1]].concat().into());
        let four = address(8, 8, 1);
        let mut book = book();
        let both =
            PeerRecord { addresses: vec![six.clone(), four.clone()], ..record(1, four.clone()) };
        book.learn(&both, &address(7, 7, 1));
        book.learn(&record(2, six.clone()), &address(7, 7, 1));
        book.set_interfaces(&[address(127, 0, 1), address(192, 168, 1)]);
        for _ in 0..99 {
            assert_eq!(book.pick(NOW, true, |_| true), Some((peer(1), four.clone())));
        }
        book.set_interfaces(std::slice::from_ref(&six));
        let picked = (0..99).filter_map(|_| book.pick(NOW, true, |_| true));
        assert!(picked.map(|(_, address)| address).all(|address| address == six));
    }

    /// Regression: a record with one usable address and three others had the one dialed four times
    /// in a row.
    #[test]
    fn addresses_that_cannot_be_dialed_are_no_retries() {
        let six = |n: u8| Address([&[41, 0x26][..], &[n; 15], &[0x91, 2, 0, 1]].concat().into());
        let mut book = book();
        book.set_interfaces(&[address(192, 168, 1)]);
        let mut told = record(1, address(8, 8, 1));
        told.addresses.extend((1..4).map(six));
        book.learn(&told, &address(7, 7, 1));
        assert!(book.pick(NOW, true, |_| true).is_some());
        book.failed(&peer(1), NOW);
        assert_eq!(book.pick(NOW, true, |_| true), None);
    }

    /// Regression: a peer without usable addresses kept its place for ever, since it was never
    /// tested.
    #[test]
    fn peers_without_a_usable_address_are_evicted() {
        let six = Address([&[41, 0x26][..], &[0; 15], &[0x91, 2, 0, 1]].concat().into());
        let fill = |interfaces: &[Address]| {
            let mut book =
                Book::new(peer(0), &PeerBook::default(), [1, 1], true, &Rng::new([1; 32]));
            book.set_interfaces(interfaces);
            for n in 1..=40 {
                book.learn(&record(n, six.clone()), &six);
                book.met(peer(n), &six, NOW);
            }
            for n in 41..=80 {
                book.learn(&record(n, address(8, 8, n)), &address(8, 8, 1));
                book.met(peer(n), &address(8, 8, n), NOW);
            }
            check(&book);
            let four = |entry: &&Entry| entry.addresses[0] != six && entry.tried;
            book.entries.values().filter(four).count()
        };
        // Which of the free places is taken is random.
        assert!(fill(&[address(192, 168, 1)]) > TRIED_SLOTS as usize / 2);
        assert_eq!(fill(&[address(192, 168, 1), six.clone()]), 0);
    }

    /// A distant peer must not make this node dial addresses in its own network, not after a
    /// restart either.
    #[test]
    fn local_addresses_are_believed_of_local_peers() {
        let mut two = record(1, address(8, 8, 1));
        two.addresses.push(address(127, 0, 1));
        for (source, known) in [(address(7, 7, 1), 1), (address(10, 0, 1), 2)] {
            let mut book = book();
            book.learn(&two, &source);
            assert_eq!(book.entries[&peer(1)].addresses, two.addresses[..known]);
            let saved = book.saved(&BTreeSet::new());
            let again = Book::new(peer(0), &saved, [128, 64], true, &Rng::new([2; 32]));
            assert_eq!(again.entries[&peer(1)].addresses, two.addresses[..known]);
        }
        // The latest source decides.
        let mut book = book();
        book.learn(&two, &address(10, 0, 1));
        book.learn(&PeerRecord { sequence: 2, ..two.clone() }, &address(7, 7, 1));
        let saved = book.saved(&BTreeSet::new());
        let again = Book::new(peer(0), &saved, [128, 64], true, &Rng::new([2; 32]));
        assert_eq!(again.entries[&peer(1)].addresses, two.addresses[..1]);
        // The address where it was met stays usable.
        let mut book =
            Book::new(peer(0), &PeerBook::default(), [128, 64], true, &Rng::new([1; 32]));
        book.met(peer(1), &address(127, 0, 1), NOW);
        let saved = book.saved(&BTreeSet::new());
        let again = Book::new(peer(0), &saved, [128, 64], true, &Rng::new([2; 32]));
        assert_eq!(again.entries[&peer(1)].addresses, [address(127, 0, 1)]);
    }

    #[test]
    fn the_newest_record_counts() {
        let mut book = book();
        let source = address(7, 7, 1);
        let at = |sequence, n| PeerRecord { sequence, ..record(1, address(8, 8, n)) };
        assert_eq!(book.learn(&at(5, 1), &source), Learnt::New);
        assert_eq!(book.learn(&at(4, 2), &source), Learnt::Nothing);
        assert_eq!(book.learn(&at(5, 2), &source), Learnt::Nothing);
        assert_eq!(book.learn(&at(6, 3), &source), Learnt::New);
        assert_eq!(book.entries[&peer(1)].addresses, [address(8, 8, 3)]);
        // The address where it was met comes first while the record has it; otherwise the peer may
        // have moved.
        book.met(peer(1), &address(8, 8, 9), NOW);
        assert_eq!(book.learn(&at(7, 4), &source), Learnt::New);
        assert_eq!(book.entries[&peer(1)].addresses, [address(8, 8, 4), address(8, 8, 9)]);
        let mut both = at(8, 5);
        both.addresses.push(address(8, 8, 9));
        assert_eq!(book.learn(&both, &source), Learnt::New);
        assert_eq!(book.entries[&peer(1)].addresses, [address(8, 8, 9), address(8, 8, 5)]);
        // One at the size limit is kept, one past it is not.
        let sized = |n: u32, size: usize| {
            let long = |length: usize| Address(vec![4; length].into());
            let addresses = |length| (0..4).map(|_| long(length)).collect();
            let empty = PeerRecord {
                peer: peer(n),
                addresses: addresses(4),
                ..record(1, address(8, 8, 1))
            };
            let rest = size - empty.to_bytes().unwrap().len();
            PeerRecord { addresses: addresses(4 + rest / 4), ..empty }
        };
        assert_eq!(sized(2, MAX_RECORD).to_bytes().unwrap().len(), MAX_RECORD);
        assert_eq!(book.learn(&sized(2, MAX_RECORD), &source), Learnt::New);
        assert_eq!(book.learn(&sized(3, MAX_RECORD + 16), &source), Learnt::Nothing);
    }
}
