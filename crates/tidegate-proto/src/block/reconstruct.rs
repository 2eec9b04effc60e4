//! A block put together from what the pools hold (specification section 9.2).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;

use bytes::Bytes;
use siphasher::sip::SipHasher24;

use crate::id::{BlockId, ConnectionId, ItemId, PoolIndex, Salt};
use crate::io::BlockItem;
use crate::merkle;
use crate::pool::{self, Pool};
use crate::rules::{HeaderFacts, Rules};
use crate::violation::Violation;
use crate::wire::{Compact, Digest, Group, MAX_PREFILLED, MAX_PREFILLED_ITEM, Prefilled};

/// Bytes of a short id.
const SHORT: usize = 6;
/// Bytes of items that a compact block carries with it at most, as in BIP 152: more would cost
/// those who have them more than it saves those who do not.
const PREFILL: usize = 10 << 10;

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

/// A block as references, for a receiver with this salt. `lacked` are the indices of items that
/// this node did not have itself.
pub(crate) fn compact(
    facts: &HeaderFacts,
    header: &Bytes,
    items: &[BlockItem],
    lacked: &[u32],
    pools: &[Pool],
    salt: Salt,
) -> Compact {
    let shortener = Shortener::new(&salt, &facts.block);
    let mut groups: Vec<Group> = Vec::new();
    let mut short_ids = Vec::with_capacity(items.len() * SHORT);
    for item in items {
        let pool = &pools[item.pool.0 as usize].spec.name;
        match groups.last_mut() {
            Some(group) if group.pool == *pool => group.count += 1,
            _ => groups.push(Group { pool: pool.clone(), count: 1 }),
        }
        short_ids.extend_from_slice(&shortener.shorten(&item.id).to_be_bytes()[2..]);
    }
    let mut left = PREFILL;
    let mut prefilled = Vec::new();
    for index in lacked {
        let body = &items[*index as usize].body;
        if body.len() <= left.min(MAX_PREFILLED_ITEM) && prefilled.len() < MAX_PREFILLED {
            left -= body.len();
            prefilled.push(Prefilled { index: *index, body: body.clone() });
        }
    }
    Compact { header: header.clone(), salt, groups, short_ids: short_ids.into(), prefilled }
}

/// A block that is being put together.
#[derive(Debug)]
pub(crate) struct Reconstruction {
    pub(crate) facts: HeaderFacts,
    /// Which pool each item belongs to.
    pools: Vec<PoolIndex>,
    ids: Vec<Option<ItemId>>,
    items: Vec<Option<BlockItem>>,
    bytes: usize,
    /// Indices of items that are not here, and not asked for.
    missing: BTreeSet<u32>,
    /// Indices of items that were not in the pools.
    lacked: Vec<u32>,
    /// The ids are those of the header: they were all sent in full.
    ids_proven: bool,
    /// The first id of the next part of the full list, while that is asked for.
    pub(crate) ids_wanted: Option<u32>,
    /// Who is asked for it: the whole list comes from one, so that one answers for it.
    ids_source: Option<ConnectionId>,
    /// That part has been asked for.
    ids_asked: bool,
    /// Who has the block, as far as he has not failed to deliver.
    pub(crate) sources: Vec<ConnectionId>,
    /// Who may have it: they are asked when no source is left.
    pub(crate) reserve: Vec<ConnectionId>,
    /// Whose push this began with, and its number.
    pub(crate) pushed: Option<(ConnectionId, u32)>,
}

/// Where a reconstruction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Items or ids have to be asked for.
    Wanting,
    /// All items are here, and they are the header's.
    Complete,
    /// It is larger than any block may be.
    TooLarge,
}

impl Reconstruction {
    /// Begins with a compact block whose header's facts are given.
    pub(crate) fn new(
        facts: HeaderFacts,
        compact: &Compact,
        own_salt: &Salt,
        pools: &[Pool],
        rules: &dyn Rules,
    ) -> Result<Option<Self>, Violation> {
        let count = facts.items as usize;
        let groups: usize = compact.groups.iter().map(|group| group.count as usize).sum();
        // R9.2.1
        if compact.salt != *own_salt || groups != count || compact.short_ids.len() != count * SHORT
        {
            return Err(Violation::MalformedCompact);
        }
        let mut indices = Vec::with_capacity(count);
        for group in &compact.groups {
            let Some(pool) = pool::named(pools, &group.pool) else {
                // A pool this node does not have: it cannot take part in such a chain.
                return Ok(None);
            };
            indices.extend(std::iter::repeat_n(pool, group.count as usize));
        }
        let mut block = Self {
            facts,
            pools: indices,
            ids: vec![None; count],
            items: vec![None; count],
            bytes: 0,
            missing: (0..count as u32).collect(),
            lacked: Vec::new(),
            ids_proven: false,
            ids_wanted: None,
            ids_source: None,
            ids_asked: false,
            sources: Vec::new(),
            reserve: Vec::new(),
            pushed: None,
        };
        block.look_up(compact, pools);
        block.prefill(compact, pools, rules)?;
        block.lacked = block.missing.iter().copied().collect();
        Ok(Some(block))
    }

    /// Finds the items of the short ids in the pools.
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
                    // Two items of the pool fit: fetch the one that is meant.
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
            self.put(index, BlockItem { pool, id, body: body.clone(), known: true });
        }
    }

    fn put(&mut self, index: usize, item: BlockItem) {
        self.bytes += item.body.len();
        self.ids[index] = Some(item.id);
        self.items[index] = Some(item);
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
                self.put(at, BlockItem { pool, id, body: body.clone(), known: false });
            }
        }
        Ok(())
    }

    /// The pool that the item at an index belongs to.
    pub(crate) fn pool(&self, index: u32) -> Option<PoolIndex> {
        self.pools.get(index as usize).copied()
    }

    /// The next indices to ask for, as long as each `fits`.
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

    /// `link` does not deliver. When nobody is left, those in reserve are asked.
    pub(crate) fn forget_source(&mut self, link: ConnectionId) {
        self.ids_failed(link);
        self.sources.retain(|source| *source != link);
        self.reserve.retain(|source| *source != link);
        if self.sources.is_empty() {
            self.sources = std::mem::take(&mut self.reserve);
        }
    }

    /// Whether there are items to ask for.
    pub(crate) fn has_missing(&self) -> bool {
        !self.missing.is_empty()
    }

    /// `link` is asked for the next ids, if there are any to ask for: the first of them.
    pub(crate) fn ask_for_ids(&mut self, link: ConnectionId) -> Option<u32> {
        let first = self.ids_wanted.filter(|_| !self.ids_asked)?;
        if *self.ids_source.get_or_insert(link) != link {
            return None;
        }
        self.ids_asked = true;
        Some(first)
    }

    /// Ids will not come from there: another is asked for the whole list.
    pub(crate) fn ids_failed(&mut self, link: ConnectionId) {
        if self.ids_source == Some(link) {
            self.want_all_ids();
        }
    }

    fn want_all_ids(&mut self) {
        self.ids_wanted = Some(0);
        self.ids_source = None;
        self.ids_asked = false;
    }

    /// What was asked for will not come from there.
    pub(crate) fn not_delivered(&mut self, indices: impl IntoIterator<Item = u32>) {
        let lost = indices.into_iter().filter(|index| self.items[*index as usize].is_none());
        self.missing.extend(lost);
    }

    /// Whether `id` and `proof` say what the item at an index is.
    pub(crate) fn proves(&self, index: u32, id: &ItemId, proof: &[Digest]) -> bool {
        let HeaderFacts { item_root, items, .. } = &self.facts;
        merkle::verify(item_root, *items as usize, index as usize, id, proof)
    }

    /// An item that was asked for, and is proven to be the one.
    pub(crate) fn deliver(&mut self, index: u32, id: ItemId, body: Bytes) {
        let at = index as usize;
        if self.items[at].is_none() {
            let pool = self.pools[at];
            self.put(at, BlockItem { pool, id, body, known: false });
        }
    }

    /// Full ids from `first` on, which `link` was asked for. `Err` if the whole list is not the
    /// header's.
    pub(crate) fn deliver_ids(
        &mut self,
        link: ConnectionId,
        first: u32,
        ids: &[ItemId],
        pools: &[Pool],
    ) -> Result<(), Violation> {
        // He was too slow, and another is asked.
        if self.ids_wanted != Some(first) || self.ids_source != Some(link) {
            return Ok(());
        }
        self.ids_asked = false;
        let end = first as usize + ids.len();
        // R9.2.11
        if ids.is_empty() || end > self.ids.len() {
            return Err(Violation::WrongIds);
        }
        for (at, id) in (first as usize..).zip(ids) {
            if self.ids[at] != Some(*id) {
                if self.items[at].is_some() {
                    self.drop_item(at);
                }
                self.ids[at] = Some(*id);
                self.take_known(at, *id, pools);
            }
        }
        self.ids_wanted = (end < self.ids.len()).then_some(end as u32);
        if self.ids_wanted.is_none() {
            self.ids_source = None;
            self.ids_proven = self.root() == Some(self.facts.item_root);
            // R9.2.11
            if !self.ids_proven {
                self.want_all_ids();
                return Err(Violation::WrongIds);
            }
        }
        Ok(())
    }

    fn root(&self) -> Option<Digest> {
        let ids = self.ids.iter().copied().collect::<Option<Vec<_>>>()?;
        Some(merkle::root(&ids))
    }

    /// Where it stands, with blocks of at most so many bytes.
    pub(crate) fn progress(&mut self, most: u32) -> Progress {
        // A short id may stand for another item than is meant, and one item may be large. No items
        // are asked for until the ids are proven.
        if self.bytes > most as usize {
            if self.ids_proven || self.root() == Some(self.facts.item_root) {
                return Progress::TooLarge;
            }
            self.ids_wanted.get_or_insert(0);
            return Progress::Wanting;
        }
        if self.items.iter().any(Option::is_none) || self.ids_wanted.is_some() {
            return Progress::Wanting;
        }
        if self.ids_proven || self.root() == Some(self.facts.item_root) {
            return Progress::Complete;
        }
        // Some short id met another item of the pool. That is nobody's fault: ask for all ids.
        // R9.2.7
        self.ids_wanted = Some(0);
        Progress::Wanting
    }

    /// The items of a complete block, and the indices of those that were not in the pools.
    pub(crate) fn finish(self) -> (Vec<BlockItem>, Vec<u32>) {
        (self.items.into_iter().flatten().collect(), self.lacked)
    }
}
