//! Items that a re-org removed from a pool without putting them into a block: they may become
//! executable again as the chain grows, and no peer offers them a second time.

use std::collections::{BTreeMap, BTreeSet};

use super::content::Item;
use crate::id::{AccountId, ItemId, ItemKey};
use crate::rules::Account;

/// Removed items, within bounds; the worst are evicted.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    items: BTreeMap<ItemId, Shelved>,
    /// The worst first.
    order: BTreeSet<(u64, ItemId)>,
    bytes: usize,
}

#[derive(Debug)]
struct Shelved {
    item: Item,
    from: u64,
    /// The tip's height when it was shelved.
    height: u64,
}

impl Shelf {
    /// Shelves an item that was executable from a height on, at a tip of another height; `most`
    /// bounds the number of items and their bytes.
    pub(super) fn put(&mut self, item: Item, from: u64, height: u64, most: (u32, u32)) {
        self.remove(&item.id);
        self.order.insert((item.facts.priority, item.id));
        self.bytes += item.body.len();
        self.items.insert(item.id, Shelved { item, from, height });
        while self.items.len() > most.0 as usize || self.bytes > most.1 as usize {
            let Some(&(_, worst)) = self.order.first() else { return };
            self.remove(&worst);
        }
    }

    pub(super) fn remove(&mut self, id: &ItemId) -> Option<(Item, u64)> {
        let Shelved { item, from, .. } = self.items.remove(id)?;
        self.order.remove(&(item.facts.priority, *id));
        self.bytes -= item.body.len();
        Some((item, from))
    }

    /// Removes and returns the best item with a key; the others with that key are dropped.
    pub(super) fn take_key(&mut self, key: &ItemKey) -> Option<(Item, u64)> {
        let same = self.items.values().filter(|shelved| shelved.item.facts.key == *key);
        let same = same.map(|shelved| (shelved.item.facts.priority, shelved.item.id));
        let ids = same.collect::<BTreeSet<_>>();
        ids.into_iter().filter_map(|(_, id)| self.remove(&id)).last()
    }

    /// Removes and returns the items that an account admits. Items that can never be executable
    /// again are dropped.
    pub(super) fn take_account(&mut self, id: AccountId, account: &Account) -> Vec<(Item, u64)> {
        let own = self.items.values().filter_map(|shelved| {
            let link = shelved.item.facts.chain.filter(|link| link.account == id)?;
            Some((shelved.item.id, link))
        });
        let (mut admitted, mut stale) = (Vec::new(), Vec::new());
        for (item, link) in own {
            if account.admits(&link) {
                admitted.push(item);
            } else if link.nonce < account.next {
                stale.push(item);
            }
        }
        stale.iter().for_each(|item| drop(self.remove(item)));
        admitted.iter().filter_map(|item| self.remove(item)).collect()
    }

    /// Drops items shelved below a height: no re-org goes that deep.
    pub(super) fn prune(&mut self, lowest: u64) {
        let old = self.items.values().filter(|shelved| shelved.height < lowest);
        for id in old.map(|shelved| shelved.item.id).collect::<Vec<_>>() {
            self.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rules::{ChainLink, ItemFacts};

    fn item(n: u8, key: u8, priority: u64, nonce: u64) -> Item {
        let link = ChainLink { account: AccountId([1; 32]), nonce, cost: 1 };
        let facts = ItemFacts { key: ItemKey([key; 32]), priority, chain: Some(link) };
        Item { id: ItemId([n; 32]), body: Bytes::from(vec![0; 10]), facts }
    }

    fn ids(items: impl IntoIterator<Item = (Item, u64)>) -> Vec<u8> {
        items.into_iter().map(|(item, _)| item.id.0[0]).collect()
    }

    #[test]
    fn the_best_stay() {
        for most in [(2, 1000), (1000, 20), (1000, 29)] {
            let mut shelf = Shelf::default();
            for (n, priority) in [(1, 5), (2, 3), (3, 4)] {
                shelf.put(item(n, n, priority, 0), 7, 1, most);
            }
            assert!(shelf.remove(&ItemId([2; 32])).is_none());
            assert_eq!(shelf.remove(&ItemId([1; 32])).unwrap().1, 7);
            assert_eq!((shelf.bytes, shelf.order.len()), (10, 1));
        }
    }

    #[test]
    fn items_that_hold_again_are_taken_out() {
        let mut shelf = Shelf::default();
        for (n, key, priority, nonce) in [(1, 1, 5, 3), (2, 1, 6, 4), (3, 3, 1, 5), (4, 4, 1, 9)] {
            shelf.put(item(n, key, priority, nonce), 0, u64::from(n), (10, 1000));
        }
        assert_eq!(ids(shelf.take_key(&ItemKey([1; 32]))), [2], "the best of the key");
        assert!(shelf.take_key(&ItemKey([1; 32])).is_none());
        let account = Account { next: 5, until: 9, balance: 10 };
        assert_eq!(ids(shelf.take_account(AccountId([1; 32]), &account)), [3]);
        let later = Account { next: 10, until: 20, balance: 10 };
        assert!(shelf.take_account(AccountId([1; 32]), &later).is_empty());
        assert!(shelf.items.is_empty(), "it is stale for ever");
    }

    #[test]
    fn items_too_far_back_are_pruned() {
        let mut shelf = Shelf::default();
        shelf.put(item(1, 1, 1, 1), 0, 5, (10, 1000));
        shelf.prune(5);
        assert_eq!(shelf.items.len(), 1);
        shelf.prune(6);
        assert!(shelf.items.is_empty() && shelf.bytes == 0);
    }
}
