//! The content of a pool: the deterministic top-k (specification section 7.1).
//!
//! The content is a function of the items that were offered and of the accounts at the tip, not of
//! the order of arrival. So nodes with the same tip that have seen the same items have the same
//! content.
//!
//! - Items are ordered by [`Rank`], then id. At most `capacity` are kept, and of bytes the prefix
//!   *including* the item that crosses `capacity_bytes`: if that one were dropped, a smaller, worse
//!   item could enter, and the content would depend on the order of arrival.
//! - One item per key: the one of the highest priority, then id.
//! - In an account's chain an item counts with the lowest priority of all before it, so that a cut
//!   never separates an item from its predecessors. If a predecessor is missing, if the chain
//!   exceeds the balance, or if a better item has the same nonce, an item ranks below all that are
//!   executable. At most [`ALTERNATIVES`] items with the same nonce are kept.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::id::{AccountId, ItemId, ItemKey};
use crate::rules::{Account, ChainLink, ItemFacts};

/// Items of one account with the same nonce. Ranking a chain looks at each of them, so without a
/// bound one account could slow the pool down.
pub(crate) const ALTERNATIVES: usize = 4;

/// An item's place in the order of the pool; the lowest is evicted first. R7.1.1
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    executable: bool,
    priority: u64,
    /// Among items of one priority, those with fewer predecessors first, so that chains stay whole.
    depth: Reverse<u64>,
}

/// An item with its facts.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: ItemId,
    pub(crate) body: Bytes,
    pub(crate) facts: ItemFacts,
}

/// The result of an insertion.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Whether the item is in the pool.
    pub(crate) kept: bool,
    /// Items that were evicted or replaced.
    pub(crate) removed: Vec<ItemId>,
}

/// The items of a pool.
#[derive(Debug)]
pub(crate) struct Content {
    capacity: usize,
    capacity_bytes: usize,
    items: BTreeMap<ItemId, (Rank, Item)>,
    order: BTreeSet<(Rank, ItemId)>,
    keys: BTreeMap<ItemKey, ItemId>,
    /// Accounts that have items.
    accounts: BTreeMap<AccountId, Account>,
    /// The cost of each item in a chain. One map for all accounts: a map for each would be several
    /// times as large as the one item that most accounts have.
    chains: BTreeMap<Place, u64>,
    bytes: usize,
}

/// An item's place in the chains: by account and nonce, and at one nonce the best first.
type Place = (AccountId, u64, Reverse<u64>, Reverse<ItemId>);

/// All places of an account within a range of nonces.
fn places(account: AccountId, from: u64, to: u64) -> RangeInclusive<Place> {
    let first = (account, from, Reverse(u64::MAX), Reverse(ItemId([0xff; 32])));
    first..=(account, to, Reverse(0), Reverse(ItemId([0; 32])))
}

impl Content {
    pub(crate) fn new(capacity: u64, capacity_bytes: u64) -> Self {
        Self {
            capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
            capacity_bytes: usize::try_from(capacity_bytes).unwrap_or(usize::MAX),
            items: BTreeMap::new(),
            order: BTreeSet::new(),
            keys: BTreeMap::new(),
            accounts: BTreeMap::new(),
            chains: BTreeMap::new(),
            bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The bytes of all items.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn contains(&self, id: &ItemId) -> bool {
        self.items.contains_key(id)
    }

    pub(crate) fn item(&self, id: &ItemId) -> Option<&Item> {
        self.items.get(id).map(|(_, item)| item)
    }

    /// The item with this key.
    pub(crate) fn by_key(&self, key: &ItemKey) -> Option<ItemId> {
        self.keys.get(key).copied()
    }

    /// The priority of another item with the same key, if there is one.
    pub(crate) fn rival(&self, key: &ItemKey, id: &ItemId) -> Option<u64> {
        let other = self.by_key(key).filter(|other| other != id)?;
        self.items.get(&other).map(|(_, item)| item.facts.priority)
    }

    /// The body of an item, and whether it is executable.
    pub(crate) fn body(&self, id: &ItemId) -> Option<(&Bytes, bool)> {
        self.items.get(id).map(|(rank, item)| (&item.body, rank.executable))
    }

    /// All items, the best first, and whether each is executable.
    pub(crate) fn best_first(&self) -> impl Iterator<Item = (&Item, bool)> {
        self.order.iter().rev().map(|(rank, id)| (&self.items[id].1, rank.executable))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &ItemId> {
        self.items.keys()
    }

    /// If the pool is full, the priority that an item must exceed to get in.
    pub(crate) fn floor(&self) -> Option<u64> {
        let (rank, _) = self.order.first()?;
        let full = self.items.len() >= self.capacity || self.bytes >= self.capacity_bytes;
        full.then_some(rank.priority)
    }

    /// Inserts an item that is not in the pool yet.
    pub(crate) fn insert(&mut self, item: Item, account: Option<Account>) -> Inserted {
        let (id, facts) = (item.id, item.facts);
        debug_assert!(!self.contains(&id), "the caller has looked");
        let mut removed = Vec::new();
        if let Some(chain) = facts.chain {
            if let Some(account) = account {
                let dropped = self.set_account(chain.account, account);
                removed.extend(dropped.iter().map(|item| item.id));
            }
            let known = self.accounts.get(&chain.account).copied();
            // R7.1.5
            if known.or(account).is_some_and(|account| !account.admits(&chain)) {
                return Inserted { kept: false, removed };
            }
        }
        // R7.1.3
        if let Some(known) = self.by_key(&facts.key) {
            if (self.items[&known].1.facts.priority, known) > (facts.priority, id) {
                return Inserted { kept: false, removed };
            }
            self.remove(&known);
            removed.push(known);
        }
        self.keys.insert(facts.key, id);
        self.bytes += item.body.len();
        let rank = Rank { executable: true, priority: facts.priority, depth: Reverse(0) };
        self.items.insert(id, (rank, item));
        self.order.insert((rank, id));
        if let Some(chain) = facts.chain {
            self.link(id, facts.priority, chain, account);
            removed.extend(self.surplus_alternative(&chain));
        }
        while let Some(cut) = self.surplus() {
            self.remove(&cut);
            removed.push(cut);
        }
        let kept = self.contains(&id);
        removed.retain(|removed| *removed != id);
        Inserted { kept, removed }
    }

    /// Removes an item.
    pub(crate) fn remove(&mut self, id: &ItemId) -> Option<Item> {
        let (rank, item) = self.items.remove(id)?;
        self.order.remove(&(rank, *id));
        self.keys.remove(&item.facts.key);
        self.bytes -= item.body.len();
        if let Some(link) = item.facts.chain {
            let priority = Reverse(item.facts.priority);
            self.chains.remove(&(link.account, link.nonce, priority, Reverse(*id)));
            if self.chain(link.account).next().is_none() {
                self.accounts.remove(&link.account);
            } else {
                self.rank_chain(&link.account);
            }
        }
        Some(item)
    }

    /// Sets an account's state at a new tip; returns the items it no longer admits.
    pub(crate) fn set_account(&mut self, id: AccountId, account: Account) -> Vec<Item> {
        let Some(known) = self.accounts.get_mut(&id) else { return Vec::new() };
        *known = account;
        let ids = self.chain(id).map(|((_, _, _, Reverse(id)), _)| *id);
        // R7.1.5
        let holds = |id: &ItemId| {
            let link = self.items.get(id).and_then(|(_, item)| item.facts.chain);
            link.is_some_and(|link| account.admits(&link))
        };
        let dropped = ids.filter(|id| !holds(id)).collect::<Vec<_>>();
        let dropped = dropped.iter().filter_map(|id| self.remove(id)).collect();
        self.rank_chain(&id);
        dropped
    }

    /// Adds an item to its account's chain. The account is kept while it has items.
    fn link(&mut self, id: ItemId, priority: u64, link: ChainLink, account: Option<Account>) {
        let known = self.accounts.entry(link.account).or_default();
        *known = account.unwrap_or(*known);
        let place = (link.account, link.nonce, Reverse(priority), Reverse(id));
        self.chains.insert(place, link.cost);
        self.rank_chain(&link.account);
    }

    /// An account's items with their costs, in chain order.
    fn chain(&self, account: AccountId) -> impl Iterator<Item = (&Place, &u64)> {
        self.chains.range(places(account, 0, u64::MAX))
    }

    /// The worst item at a nonce that has too many alternatives. R7.1.6
    fn surplus_alternative(&mut self, link: &ChainLink) -> Option<ItemId> {
        let at_nonce = places(link.account, link.nonce, link.nonce);
        let (_, _, _, Reverse(worst)) = *self.chains.range(at_nonce).nth(ALTERNATIVES)?.0;
        self.remove(&worst);
        Some(worst)
    }

    /// The worst item, if those above it fill the pool. R7.1.2
    fn surplus(&self) -> Option<ItemId> {
        let (_, id) = self.order.first()?;
        let above = self.bytes - self.items[id].1.body.len();
        let full = self.items.len() > self.capacity || above >= self.capacity_bytes;
        full.then_some(*id)
    }

    /// Ranks an account's items again. R7.1.4
    fn rank_chain(&mut self, account: &AccountId) {
        let Some(known) = self.accounts.get(account) else { return };
        let first = known.next;
        let mut left = known.balance;
        let mut next = Some(first);
        let mut lowest = u64::MAX;
        let chain = self.chains.range(places(*account, 0, u64::MAX));
        for (&(_, nonce, Reverse(priority), Reverse(id)), &cost) in chain {
            let executable = next == Some(nonce) && cost <= left;
            let rank = if executable {
                left -= cost;
                next = nonce.checked_add(1);
                lowest = lowest.min(priority);
                Rank { executable, priority: lowest, depth: Reverse(nonce - first) }
            } else {
                Rank { executable, priority, depth: Reverse(0) }
            };
            let (known, _) = self.items.get_mut(&id).expect("chains hold items");
            if *known != rank {
                self.order.remove(&(*known, id));
                self.order.insert((rank, id));
                *known = rank;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(n: u8, size: usize, priority: u64) -> Item {
        let facts = ItemFacts { key: ItemKey([n; 32]), priority, chain: None };
        Item { id: ItemId([n; 32]), body: vec![n; size].into(), facts }
    }

    fn chained(n: u8, priority: u64, account: u8, nonce: u64, cost: u64) -> Item {
        let mut item = item(n, 10, priority);
        item.facts.chain = Some(ChainLink { account: AccountId([account; 32]), nonce, cost });
        item
    }

    fn order(content: &Content) -> Vec<(u8, bool)> {
        content.best_first().map(|(item, executable)| (item.id.0[0], executable)).collect()
    }

    fn filled(items: &[Item], capacity: u64, bytes: u64) -> Content {
        let mut content = Content::new(capacity, bytes);
        for item in items {
            content.insert(item.clone(), Some(Account { next: 1, until: 50, balance: 100 }));
            content.check();
        }
        content
    }

    impl Content {
        /// Checks the invariants.
        fn check(&self) {
            assert_eq!(self.items.len(), self.order.len());
            assert_eq!(self.items.len(), self.keys.len());
            assert_eq!(self.bytes, self.items.values().map(|(_, i)| i.body.len()).sum::<usize>());
            for (id, (rank, item)) in &self.items {
                assert!(self.order.contains(&(*rank, *id)));
                assert_eq!(self.keys[&item.facts.key], *id);
            }
            let chained = self.items.values().filter(|(_, i)| i.facts.chain.is_some()).count();
            assert_eq!(chained, self.chains.len());
            assert!(self.accounts.keys().all(|account| self.chain(*account).next().is_some()));
            assert!(self.surplus().is_none());
        }
    }

    /// R7.1.2
    #[test]
    fn the_crossing_item_is_kept_and_nothing_behind_it() {
        let mut content = filled(&[item(1, 60, 9), item(2, 60, 8), item(3, 1, 7)], 10, 100);
        assert_eq!(order(&content), [(1, true), (2, true)]);
        assert_eq!(content.floor(), Some(8));
        let inserted = content.insert(item(4, 40, 10), None);
        assert_eq!(inserted, Inserted { kept: true, removed: vec![ItemId([2; 32])] });
        assert_eq!(content.bytes(), 100);
        assert!(!content.insert(item(5, 1, 3), None).kept);
        // With one byte less above it, the crossing item stays.
        let content = filled(&[item(1, 59, 9), item(4, 40, 10), item(2, 60, 8)], 10, 100);
        assert_eq!(order(&content), [(4, true), (1, true), (2, true)]);
    }

    /// R7.1.3
    #[test]
    fn each_key_keeps_its_better_item() {
        let better = Item { id: ItemId([9; 32]), ..item(1, 10, 6) };
        let mut content = filled(&[item(1, 10, 5)], 10, 1000);
        let inserted = content.insert(better.clone(), None);
        assert_eq!(inserted, Inserted { kept: true, removed: vec![ItemId([1; 32])] });
        assert!(!content.insert(item(1, 10, 5), None).kept);
        assert_eq!(content.by_key(&better.facts.key), Some(better.id));
        content.check();
    }

    /// R7.1.4
    #[test]
    fn chains_rank_by_their_weakest_link() {
        // Nonces 1, 2 and 4 of account 7: the first lowers the second, the last has a gap.
        let items = [chained(1, 5, 7, 1, 1), chained(2, 50, 7, 2, 1), chained(4, 99, 7, 4, 1)];
        let mut content = filled(&items, 10, 1000);
        content.insert(item(8, 10, 6), None);
        assert_eq!(order(&content), [(8, true), (1, true), (2, true), (4, false)]);
        // The gap closes.
        content.insert(chained(3, 60, 7, 3, 1), None);
        assert_eq!(order(&content), [(8, true), (1, true), (2, true), (3, true), (4, true)]);
        // A better first item raises them all; the one it replaces is no longer executable.
        content.insert(chained(5, 70, 7, 1, 1), None);
        let expected = [(5, true), (3, true), (2, true), (4, true), (8, true), (1, false)];
        let mut sorted = order(&content);
        sorted[1..4].sort_by_key(|(n, _)| Reverse(*n));
        assert_eq!(sorted[0], expected[0]);
        assert_eq!(sorted[4..], expected[4..]);
        content.check();
    }

    /// R7.1.4
    #[test]
    fn items_beyond_the_balance_rank_last() {
        let items = [chained(1, 5, 7, 1, 60), chained(2, 5, 7, 2, 41), chained(3, 5, 7, 3, 1)];
        let mut content = filled(&items, 10, 1000);
        assert_eq!(order(&content), [(1, true), (3, false), (2, false)]);
        content.set_account(AccountId([7; 32]), Account { next: 1, until: 50, balance: 102 });
        assert_eq!(order(&content), [(1, true), (2, true), (3, true)]);
        // The account's nonce advances: items with lower nonces are dropped.
        let moved = Account { next: 3, until: 50, balance: 1 };
        let stale = content.set_account(AccountId([7; 32]), moved);
        let stale = stale.iter().map(|item| item.id).collect::<Vec<_>>();
        assert_eq!(stale, [ItemId([1; 32]), ItemId([2; 32])]);
        assert_eq!(order(&content), [(3, true)]);
        assert!(!content.insert(chained(9, 99, 7, 2, 0), None).kept);
        content.check();
    }

    /// R7.1.5
    #[test]
    fn items_that_a_new_tip_does_not_admit_are_dropped() {
        let items = [chained(1, 5, 7, 1, 60), chained(2, 5, 7, 2, 10), chained(3, 5, 7, 3, 10)];
        let mut content = filled(&items, 10, 1000);
        // On another fork the balance never covers the first item, and the last is too far ahead.
        let other = Account { next: 0, until: 3, balance: 59 };
        assert_eq!(content.set_account(AccountId([7; 32]), other).len(), 2);
        assert_eq!(order(&content), [(2, false)]);
        assert!(!content.insert(chained(4, 9, 7, 3, 1), None).kept);
        assert!(content.insert(chained(5, 9, 7, 0, 1), None).kept);
        content.check();
    }

    /// R7.1.6
    #[test]
    fn alternatives_at_one_nonce_are_bounded() {
        let items = (1..=6).map(|n| chained(n, u64::from(n), 7, 1, 1)).collect::<Vec<_>>();
        let content = filled(&items, 10, 1000);
        assert_eq!(order(&content), [(6, true), (5, false), (4, false), (3, false)]);
        let mut reversed = items;
        reversed.reverse();
        assert_eq!(order(&filled(&reversed, 10, 1000)), order(&content));
    }

    /// An unchained item, or one in one of two short chains.
    fn any_item(alternatives: bool) -> impl Strategy<Value = Item> {
        let plain = (0..40u8, 1..30usize, 0..6u64).prop_map(|(n, size, p)| item(n, size, p));
        let chain = (0..2u8, 1..5u64, 0..6u64).prop_map(move |(account, nonce, priority)| {
            let variant = if alternatives { priority as u8 } else { 0 };
            let n = 100 + account * 50 + nonce as u8 * 10 + variant;
            chained(n, priority, account, nonce, 1)
        });
        prop_oneof![2 => plain, 1 => chain]
    }

    fn distinct(alternatives: bool) -> impl Strategy<Value = Vec<Item>> {
        prop::collection::vec(any_item(alternatives), 1..24).prop_map(|mut items| {
            items.sort_by_key(|item| item.id);
            items.dedup_by_key(|item| item.id);
            items
        })
    }

    /// Shuffles, but keeps the items of an account in the order of their nonces: peers do not send
    /// an item before it is executable.
    fn shuffle(items: &mut [Item], seed: u64) {
        let mut state = seed;
        items.sort_by_cached_key(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        });
        let places = |account: u8| {
            let of = move |item: &Item| item.facts.chain.is_some_and(|c| c.account.0[0] == account);
            items.iter().enumerate().filter(|(_, i)| of(i)).map(|(at, _)| at).collect::<Vec<_>>()
        };
        for places in [places(0), places(1)] {
            let mut chain = places.iter().map(|at| items[*at].clone()).collect::<Vec<_>>();
            chain.sort_by_key(|item| item.facts.chain.map(|link| link.nonce));
            for (at, item) in places.into_iter().zip(chain) {
                items[at] = item;
            }
        }
    }

    /// Offers all items of `from` to `to`; returns whether `to` took any.
    fn offer(from: &Content, to: &mut Content) -> bool {
        let items = from.best_first().map(|(item, _)| item.clone()).collect::<Vec<_>>();
        let account = Some(Account { next: 1, until: 50, balance: 100 });
        let new = items.into_iter().filter(|item| !to.contains(&item.id)).collect::<Vec<_>>();
        let kept = new.into_iter().map(|item| to.insert(item, account).kept);
        kept.filter(|kept| *kept).count() > 0
    }

    proptest! {
        /// The order of arrival does not matter, whatever is evicted on the way. R7.1.1
        #[test]
        fn content_does_not_depend_on_the_order_of_arrival(
            items in distinct(false),
            seeds in any::<[u64; 2]>(),
            capacity in 1..12u64,
            bytes in 1..200u64,
        ) {
            let [mut first, mut second] = [items.clone(), items];
            shuffle(&mut first, seeds[0]);
            shuffle(&mut second, seeds[1]);
            let [first, second] = [first, second].map(|items| filled(&items, capacity, bytes));
            prop_assert_eq!(order(&first), order(&second));
        }

        /// In the cases where the order does matter (an item was evicted before a better
        /// predecessor came), nodes that offer each other their items soon agree.
        #[test]
        fn nodes_that_exchange_agree(
            items in distinct(true),
            split in any::<u32>(),
            capacity in 1..12u64,
            bytes in 1..200u64,
        ) {
            let side = |i: &usize| split >> (i % 32) & 1 == 1;
            let (left, right): (Vec<_>, Vec<_>) = (0..items.len()).partition(side);
            let pick = |of: Vec<usize>| of.into_iter().map(|i| items[i].clone()).collect::<Vec<_>>();
            let mut a = filled(&pick(left), capacity, bytes);
            let mut b = filled(&pick(right), capacity, bytes);
            let mut rounds = 0;
            while offer(&a, &mut b) | offer(&b, &mut a) {
                rounds += 1;
                prop_assert!(rounds < 8, "they never come to rest");
            }
            prop_assert_eq!(order(&a), order(&b));
        }
    }
}
