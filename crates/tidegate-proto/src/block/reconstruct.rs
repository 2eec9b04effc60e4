//! Reconstruction of a block from the pools (specification section 9.2).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::time::Duration;

use bytes::Bytes;
use siphasher::sip::SipHasher24;

use super::link::Part;
use crate::id::{BlockId, ConnectionId, ItemId, PoolIndex, Salt};
use crate::io::BlockItem;
use crate::merkle::{self, Leaf};
use crate::pool::{self, Pool};
use crate::rules::{HeaderFacts, Rules};
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{
    BlockIds, Compact, Digest, Group, MAX_IDS, MAX_PREFILLED, MAX_PREFILLED_ITEM, Prefilled,
};

/// Bytes of a short id.
pub(super) const SHORT: usize = 6;
/// Bytes of prefilled items in a compact block, as in BIP 152: more would cost receivers that have
/// them more than it saves the others.
const PREFILL: usize = 10 << 10;

/// How long the sources of a block may be unaskable before the reserve is asked too. A working
/// connection takes the next frame sooner.
const PASS_ON: Duration = Duration::from_millis(50);
/// If one item in this many is missing, the list of full ids (32 bytes each) is about as large as
/// the items.
const MANY_MISSING: usize = 4;
/// How long a reconstruction is kept while no peer can be asked: longer than a connection rests.
const UNASKED: Duration = Duration::from_secs(2);

/// The key of a block's short ids: new for each block, so that nobody can prepare collisions.
pub(super) struct Shortener(SipHasher24);

impl Shortener {
    pub(super) fn new(salt: &Salt, block: &BlockId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tidegate 1 short ids");
        hasher.update(&salt.0);
        hasher.update(&block.0);
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        Self(SipHasher24::new_with_key(&key))
    }

    /// R9.2.3
    pub(super) fn shorten(&self, id: &ItemId) -> u64 {
        let mut hasher = self.0;
        hasher.write(&id.0);
        hasher.finish() >> 16
    }
}

/// A block as a compact block for a receiver with this salt. `lacked` are the indices of items that
/// this node lacked itself.
pub(crate) fn compact(
    facts: &HeaderFacts,
    header: &Bytes,
    items: &[BlockItem],
    lacked: &[u32],
    pools: &[Pool],
    salt: Salt,
) -> Compact {
    let short_ids = short_ids(items, &facts.block, &salt);
    let mut left = PREFILL;
    let mut prefilled = Vec::new();
    for index in lacked {
        let body = &items[*index as usize].body;
        if body.len() <= left.min(MAX_PREFILLED_ITEM) && prefilled.len() < MAX_PREFILLED {
            left -= body.len();
            prefilled.push(Prefilled { index: *index, body: body.clone() });
        }
    }
    let groups = groups(items, pools);
    Compact { header: header.clone(), salt, groups, short_ids: short_ids.into(), prefilled }
}

fn short_ids(items: &[BlockItem], block: &BlockId, salt: &Salt) -> Vec<u8> {
    let shortener = Shortener::new(salt, block);
    let mut short_ids = Vec::with_capacity(items.len() * SHORT);
    for item in items {
        short_ids.extend_from_slice(&shortener.shorten(&item.id).to_be_bytes()[2..]);
    }
    short_ids
}

/// The pools of items, in the block's order.
pub(super) fn groups(items: &[BlockItem], pools: &[Pool]) -> Vec<Group> {
    let runs = items.chunk_by(|a, b| a.pool == b.pool);
    let group = |run: &[BlockItem]| Group {
        pool: pool::name(pools, run[0].pool).to_owned(),
        count: run.len() as u32,
    };
    runs.map(group).collect()
}

/// The pool of each item, as groups claim.
enum Grouped {
    Pools(Vec<PoolIndex>),
    /// One is of a pool that this node does not have.
    Foreign,
}

/// Reads groups; `None` if they do not cover `count` items, or if one is empty.
fn grouped(groups: &[Group], count: usize, pools: &[Pool]) -> Option<Grouped> {
    let sum = groups.iter().map(|group| u64::from(group.count)).sum::<u64>();
    if sum != count as u64 || groups.iter().any(|group| group.count == 0) {
        return None;
    }
    let mut indices = Vec::with_capacity(count);
    for group in groups {
        let Some(pool) = pool::named(pools, &group.pool) else { return Some(Grouped::Foreign) };
        indices.extend(std::iter::repeat_n(pool, group.count as usize));
    }
    Some(Grouped::Pools(indices))
}

/// Whether `proof` proves an item to be at an index of a block.
pub(super) fn proves(facts: &HeaderFacts, index: u32, item: Leaf<'_>, proof: &[Digest]) -> bool {
    let HeaderFacts { item_root, items, .. } = facts;
    merkle::verify(item_root, *items as usize, index as usize, item, proof)
}

/// A block under reconstruction.
#[derive(Debug)]
pub(crate) struct Reconstruction {
    pub(crate) facts: HeaderFacts,
    /// The pool of each item as the compact block claims. A false claim is held against its sender
    /// alone, and only when proven.
    claimed: Vec<PoolIndex>,
    /// The pool of each item as learnt since. Decides where to look an item up.
    pools: Vec<PoolIndex>,
    ids: Vec<Option<ItemId>>,
    /// The items that are here. Each matches the pool and id at its index: when one of these
    /// changes, the item is dropped.
    items: Vec<Option<Found>>,
    bytes: usize,
    /// Indices of items to request.
    missing: BTreeSet<u32>,
    /// Indices of items that the pools lacked.
    lacked: Vec<u32>,
    /// Pools and ids are proven: all were sent in full.
    ids_proven: bool,
    /// The current pools and ids do not match the header.
    disproved: bool,
    /// The first id of the next part of the full list, while the list is wanted.
    pub(crate) ids_wanted: Option<u32>,
    /// The peer asked for the list. The whole list comes from one peer, which answers for it.
    ids_source: Option<ConnectionId>,
    /// The next part has been requested.
    ids_asked: bool,
    /// Peers that have the block and have not failed to deliver.
    pub(crate) sources: Vec<ConnectionId>,
    /// Peers that may have it: asked when there is no source left, or none can be asked.
    pub(crate) reserve: Vec<ConnectionId>,
    /// How many peers have been late.
    pub(crate) late: u32,
    /// Dialed peers are asked first.
    dialed_first: bool,
    /// Since when there has been something to request without any peer asked for it.
    pub(crate) unasked_since: Option<Time>,
    /// The sender of the first compact block, until that proves false.
    pub(crate) origin: Option<ConnectionId>,
    /// The push that started this.
    pub(crate) pushed: Option<Pushed>,
    /// The compact blocks that were looked up.
    pub(crate) looked_up: Vec<LookedUp>,
}

/// A compact block that was looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookedUp {
    pub(crate) link: ConnectionId,
    /// What it claims the block to be made of.
    pub(crate) claim: Claim,
    /// The work of looking it up, if it was pushed: charged to its sender if the claim is false.
    pub(crate) work: u64,
}

/// What a compact block claims a block to be made of: a hash of groups and short ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim(blake3::Hash);

impl Claim {
    pub(crate) fn of(compact: &Compact) -> Self {
        Self::new(&compact.groups, &compact.short_ids)
    }

    /// The true claim, for a receiver with this salt.
    pub(crate) fn of_items(
        items: &[BlockItem],
        block: &BlockId,
        salt: &Salt,
        pools: &[Pool],
    ) -> Self {
        Self::new(&groups(items, pools), &short_ids(items, block, salt))
    }

    fn new(groups: &[Group], short_ids: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for group in groups {
            hasher.update(&group.count.to_be_bytes());
            hasher.update(&(group.pool.len() as u64).to_be_bytes());
            hasher.update(group.pool.as_bytes());
        }
        hasher.update(short_ids);
        Self(hasher.finalize())
    }
}

/// A pushed compact block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushed {
    pub(crate) link: ConnectionId,
    /// Its permit.
    pub(crate) number: u32,
}

/// An item, and whether a pool had it.
#[derive(Clone, Debug)]
struct Found {
    body: Bytes,
    known: bool,
}

/// The outcome of a part of the full list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It was taken, or is no longer wanted.
    Taken,
    /// It was taken, and proves that the given peer sent a compact block with false pools.
    Disproved(ConnectionId),
    /// It names a pool that this node does not have: other peers are asked.
    Foreign,
}

/// The state of a reconstruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Items or ids have to be requested.
    Wanting,
    /// All items are here and match the header.
    Complete,
    /// It is proven to be larger than any block may be.
    TooLarge,
}

impl Reconstruction {
    /// Starts from a compact block with the given header facts.
    pub(crate) fn new(
        facts: HeaderFacts,
        compact: &Compact,
        own_salt: &Salt,
        pools: &[Pool],
        rules: &dyn Rules,
    ) -> Result<Option<Self>, Violation> {
        let count = facts.items as usize;
        // R9.2.1
        if compact.salt != *own_salt || compact.short_ids.len() != count * SHORT {
            return Err(Violation::MalformedCompact);
        }
        let groups = grouped(&compact.groups, count, pools).ok_or(Violation::MalformedCompact)?;
        // A chain with a pool that this node does not have is of no use here.
        let Grouped::Pools(indices) = groups else { return Ok(None) };
        let mut block = Self {
            facts,
            claimed: indices.clone(),
            pools: indices,
            ids: vec![None; count],
            items: vec![None; count],
            bytes: 0,
            missing: (0..count as u32).collect(),
            lacked: Vec::new(),
            ids_proven: false,
            disproved: false,
            ids_wanted: None,
            ids_source: None,
            ids_asked: false,
            sources: Vec::new(),
            reserve: Vec::new(),
            late: 0,
            dialed_first: false,
            unasked_since: None,
            origin: None,
            pushed: None,
            looked_up: Vec::new(),
        };
        block.look_up(compact, pools);
        block.prefill(compact, pools, rules)?;
        block.lacked = block.missing.iter().copied().collect();
        Ok(Some(block))
    }

    /// Looks up the items of the short ids in the pools.
    fn look_up(&mut self, compact: &Compact, pools: &[Pool]) {
        let shortener = Shortener::new(&compact.salt, &self.facts.block);
        let mut wanted = BTreeMap::new();
        let mut ambiguous = BTreeSet::new();
        for (index, short) in compact.short_ids.chunks_exact(SHORT).enumerate() {
            let mut bytes = [0; 8];
            bytes[2..].copy_from_slice(short);
            let key = (self.pools[index], u64::from_be_bytes(bytes));
            if wanted.insert(key, index).is_some() {
                ambiguous.insert(key);
            }
        }
        for key in &ambiguous {
            wanted.remove(key);
        }
        let used = self.pools.iter().copied().collect::<BTreeSet<_>>();
        for pool in used {
            for id in pools[pool.0 as usize].ids() {
                let key = (pool, shortener.shorten(id));
                let Some(&index) = wanted.get(&key) else { continue };
                match self.ids[index] {
                    None => self.take_known(index, *id, pools),
                    // Two items of the pool match: fetch the right one.
                    Some(_) => {
                        self.drop_item(index);
                        wanted.remove(&key);
                    }
                }
            }
        }
    }

    fn take_known(&mut self, index: usize, id: ItemId, pools: &[Pool]) {
        let pool = self.pools[index];
        if let Some(body) = pools[pool.0 as usize].body(&id) {
            self.put(index, id, Found { body: body.clone(), known: true });
        }
    }

    fn put(&mut self, index: usize, id: ItemId, found: Found) {
        self.bytes += found.body.len();
        self.disproved &= self.ids[index] == Some(id);
        self.ids[index] = Some(id);
        self.items[index] = Some(found);
        self.missing.remove(&(index as u32));
    }

    fn drop_item(&mut self, index: usize) {
        self.bytes -= self.items[index].take().map_or(0, |item| item.body.len());
        self.ids[index] = None;
        self.missing.insert(index as u32);
    }

    fn prefill(
        &mut self,
        compact: &Compact,
        pools: &[Pool],
        rules: &dyn Rules,
    ) -> Result<(), Violation> {
        let mut next = 0;
        for Prefilled { index, body } in &compact.prefilled {
            let at = *index as usize;
            // R9.2.2
            if at < next || at >= self.items.len() {
                return Err(Violation::MalformedCompact);
            }
            next = at + 1;
            if self.items[at].is_none() {
                let pool = self.pools[at];
                let id = rules.item_id(&pools[pool.0 as usize].spec.name, body);
                self.put(at, id, Found { body: body.clone(), known: false });
            }
        }
        Ok(())
    }

    /// The next indices to request, as long as each `fits`.
    pub(crate) fn next_missing(
        &mut self,
        most: usize,
        mut fits: impl FnMut(PoolIndex) -> bool,
    ) -> Vec<u32> {
        let indices = self.missing.iter().copied();
        let batch = indices.take_while(|i| fits(self.pools[*i as usize])).take(most);
        let batch = batch.collect::<Vec<_>>();
        for index in &batch {
            self.missing.remove(index);
        }
        batch
    }

    /// Removes a failed source. The reserve takes over when no source is left.
    pub(crate) fn forget_source(&mut self, connection: ConnectionId) {
        self.ids_failed(connection);
        self.sources.retain(|source| *source != connection);
        self.reserve.retain(|source| *source != connection);
        if self.sources.is_empty() {
            self.sources = std::mem::take(&mut self.reserve);
        }
    }

    /// Whether there are items to request.
    pub(crate) fn has_missing(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Asks `link` for the next part of the list, if wanted: the index of its first id.
    pub(crate) fn ask_for_ids(&mut self, connection: ConnectionId) -> Option<u32> {
        let first = self.ids_wanted.filter(|_| !self.ids_asked)?;
        if *self.ids_source.get_or_insert(connection) != connection {
            return None;
        }
        self.ids_asked = true;
        Some(first)
    }

    /// Whether something is to be requested.
    pub(crate) fn has_to_ask(&self) -> bool {
        match self.ids_wanted {
            Some(_) => !self.ids_asked,
            None => self.has_missing(),
        }
    }

    /// Something was requested: the wait for the rest restarts.
    pub(crate) fn has_asked(&mut self, now: Time) {
        self.unasked_since = self.has_to_ask().then_some(now);
    }

    /// Starts or stops the wait, depending on whether something is to be requested.
    pub(crate) fn may_ask(&mut self, now: Time) {
        let since = self.unasked_since.unwrap_or(now);
        self.unasked_since = self.has_to_ask().then_some(since);
    }

    /// Whether the reserve could be asked.
    pub(crate) fn has_others(&self) -> bool {
        !self.reserve.is_empty() || self.ids_source.is_some() || self.dialed_first
    }

    /// When the wait ends.
    pub(crate) fn ask_by(&self) -> Option<Time> {
        let patience = if self.has_others() { PASS_ON } else { UNASKED };
        self.unasked_since.map(|since| since + patience)
    }

    /// No source could be asked: the reserve takes over, and the source of the list comes last.
    pub(crate) fn pass_on(&mut self) {
        self.dialed_first = false;
        self.sources.append(&mut self.reserve);
        if let Some(slow) = self.ids_source {
            self.ids_failed(slow);
            self.sources.retain(|source| *source != slow);
            self.sources.push(slow);
        }
    }

    /// A peer will not deliver the list: the whole list is requested from another.
    pub(crate) fn ids_failed(&mut self, connection: ConnectionId) {
        if self.ids_source == Some(connection) {
            self.want_all_ids();
        }
    }

    fn want_all_ids(&mut self) {
        self.ids_wanted = Some(0);
        self.ids_source = None;
        self.ids_asked = false;
    }

    /// A peer will not deliver a part, or not in time: others may be asked for it.
    pub(super) fn not_delivered(&mut self, connection: ConnectionId, part: &Part) {
        match part {
            Part::Header | Part::Compact => {}
            Part::Ids(_) => self.ids_failed(connection),
            Part::Items(indices) => {
                let lost = indices.iter().filter(|index| self.items[**index as usize].is_none());
                self.missing.extend(lost);
            }
        }
    }

    /// Other peers that have the block, or may have it.
    pub(crate) fn others(&self, connection: ConnectionId) -> impl Iterator<Item = ConnectionId> {
        let all = self.sources.iter().chain(&self.reserve).copied();
        all.filter(move |other| *other != connection)
    }

    /// A peer is late with an answer: others are asked for the same, dialed ones first if given.
    pub(super) fn is_late(&mut self, connection: ConnectionId, part: &Part, dialed_first: bool) {
        self.not_delivered(connection, part);
        self.sources.append(&mut self.reserve);
        self.late = self.late.saturating_add(1);
        self.dialed_first = dialed_first;
        // Most likely the ids are wrong and the pools have the items: ids are smaller than items.
        let many = self.missing.len() * MANY_MISSING > self.items.len();
        if many && !self.ids_proven && self.ids_wanted.is_none() {
            self.want_all_ids();
        }
    }

    /// Whether a peer is to be asked for what the block lacks.
    pub(crate) fn may_be_asked(&self, connection: ConnectionId, inbound: bool) -> bool {
        self.sources.contains(&connection) && !(self.dialed_first && inbound)
    }

    /// A proven item replaces an unproven claim. Returns the sender of the compact block if that
    /// claimed another pool: honest peers check the root before they send one (R9.2.6).
    pub(crate) fn deliver(
        &mut self,
        index: u32,
        pool: PoolIndex,
        id: ItemId,
        body: Bytes,
    ) -> Option<ConnectionId> {
        let at = index as usize;
        let before = *self.pools.get(at)?;
        if (before, self.ids[at]) != (pool, Some(id)) {
            self.drop_item(at);
            self.pools[at] = pool;
            self.disproved = false;
        }
        if self.items[at].is_none() {
            self.put(at, id, Found { body, known: false });
        }
        // The other pools are most likely wrong too, and the right ones may have the items.
        if before != pool && !self.ids_proven && self.ids_wanted.is_none() {
            self.want_all_ids();
        }
        self.origin.take_if(|_| self.claimed[at] != pool)
    }

    /// A part of the full list from `link`. `Err` if the complete list does not match the header.
    pub(crate) fn deliver_ids(
        &mut self,
        connection: ConnectionId,
        part: &BlockIds,
        pools: &[Pool],
    ) -> Result<Delivered, Violation> {
        let awaited = self.ids_wanted == Some(part.first) && self.ids_source == Some(connection);
        // From a peer that was late, while another was asked: it may still start the list, and
        // continue it.
        let begins = (self.ids_wanted, part.first) == (Some(0), 0)
            && part.ids.len() == self.ids.len().min(MAX_IDS);
        if !awaited && !begins {
            return Ok(Delivered::Taken);
        }
        (self.ids_source, self.ids_asked) = (Some(connection), false);
        if !self.sources.contains(&connection) {
            self.sources.push(connection);
        }
        let first = part.first as usize;
        let end = first + part.ids.len();
        // With short parts, a peer could go on for as long as it likes. R9.2.11
        if end != self.ids.len().min(first + MAX_IDS) {
            return Err(Violation::WrongIds);
        }
        let of = grouped(&part.groups, part.ids.len(), pools).ok_or(Violation::WrongIds)?;
        let Grouped::Pools(of) = of else { return Ok(Delivered::Foreign) };
        for (at, (id, pool)) in (first..).zip(part.ids.iter().zip(of)) {
            if (self.ids[at], self.pools[at]) != (Some(*id), pool) {
                if self.items[at].is_some() {
                    self.drop_item(at);
                }
                self.ids[at] = Some(*id);
                self.pools[at] = pool;
                self.disproved = false;
                self.take_known(at, *id, pools);
            }
        }
        self.ids_wanted = (end < self.ids.len()).then_some(end as u32);
        if self.ids_wanted.is_none() {
            self.ids_source = None;
            self.ids_proven = self.is_proven(pools);
            // R9.2.11
            if !self.ids_proven {
                self.want_all_ids();
                return Err(Violation::WrongIds);
            }
            let liar = self.origin.take_if(|_| self.claimed != self.pools);
            return Ok(liar.map_or(Delivered::Taken, Delivered::Disproved));
        }
        Ok(Delivered::Taken)
    }

    /// Whether pools and ids are complete and match the header's root.
    fn is_proven(&self, pools: &[Pool]) -> bool {
        let named = self.pools.iter().map(|pool| pool::name(pools, *pool));
        let leaves = named.zip(&self.ids).map(|(pool, id)| Some((pool, (*id)?)));
        let leaves = leaves.collect::<Option<Vec<_>>>();
        leaves.is_some_and(|leaves| merkle::root(&leaves) == self.facts.item_root)
    }

    /// The current state; `most` is the bytes that a block may have.
    pub(crate) fn progress(&mut self, most: u32, pools: &[Pool]) -> Progress {
        // A short id may have matched a wrong, large item. No items are requested until the ids are
        // proven.
        if self.bytes > most as usize {
            if self.ids_proven || self.is_proven(pools) {
                return Progress::TooLarge;
            }
            self.ids_wanted.get_or_insert(0);
            return Progress::Wanting;
        }
        if self.items.iter().any(Option::is_none) {
            return Progress::Wanting;
        }
        if self.ids_proven || !self.disproved && self.is_proven(pools) {
            return Progress::Complete;
        }
        self.disproved = true;
        // A short id matched a wrong item, or the groups are false: request all ids. R9.2.7
        self.ids_wanted.get_or_insert(0);
        Progress::Wanting
    }

    /// The items of a complete block, and the indices of those that the pools lacked.
    pub(crate) fn finish(self) -> (Vec<BlockItem>, Vec<u32>) {
        let named = self.pools.into_iter().zip(self.ids);
        let items = named.zip(self.items).filter_map(|((pool, id), found)| {
            let (id, Found { body, known }) = id.zip(found)?;
            Some(BlockItem { pool, id, body, known })
        });
        (items.collect(), self.lacked)
    }
}
