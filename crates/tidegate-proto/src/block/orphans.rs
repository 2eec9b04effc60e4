//! Headers with unknown parents.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::id::{BlockId, ConnectionId};
use crate::rules::HeaderFacts;

/// A header with an unknown parent.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) facts: HeaderFacts,
    pub(super) header: Bytes,
    /// The sender, whose share pays for it.
    pub(super) link: ConnectionId,
}

/// All orphans, indexed by parent and by sender: there may be thousands, and each costs its sender
/// next to nothing, so a search would be too slow.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    all: BTreeMap<BlockId, Orphan>,
    /// (parent, orphan).
    by_parent: BTreeSet<(BlockId, BlockId)>,
    by_link: BTreeMap<ConnectionId, Share>,
}

/// The orphans of one sender.
#[derive(Debug, Default)]
struct Share {
    blocks: BTreeSet<BlockId>,
    /// Orphans whose parent turned out good, until their own verdict.
    checking: usize,
    /// Bytes of all of them.
    bytes: usize,
}

impl Share {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.checking == 0
    }
}

impl Orphans {
    pub(super) fn get(&self, block: &BlockId) -> Option<&Orphan> {
        self.all.get(block)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Orphan> {
        self.all.values()
    }

    /// Adds an orphan; returns how many its sender has now, and their bytes.
    pub(super) fn insert(&mut self, orphan: Orphan) -> (usize, usize) {
        let block = orphan.facts.block;
        self.remove(&block);
        self.by_parent.insert((orphan.facts.parent, block));
        let share = self.by_link.entry(orphan.link).or_default();
        share.blocks.insert(block);
        share.bytes += orphan.header.len();
        let used = (share.blocks.len() + share.checking, share.bytes);
        self.all.insert(block, orphan);
        used
    }

    pub(super) fn remove(&mut self, block: &BlockId) -> Option<Orphan> {
        let orphan = self.all.remove(block)?;
        self.by_parent.remove(&(orphan.facts.parent, *block));
        if let Some(share) = self.by_link.get_mut(&orphan.link) {
            share.blocks.remove(block);
            share.bytes -= orphan.header.len();
            if share.is_empty() {
                self.by_link.remove(&orphan.link);
            }
        }
        Some(orphan)
    }

    /// A removed orphan is being checked: it still counts against its sender.
    pub(super) fn is_checked(&mut self, orphan: &Orphan) {
        let share = self.by_link.entry(orphan.link).or_default();
        share.checking += 1;
        share.bytes += orphan.header.len();
    }

    /// A header of `bytes` bytes has its verdict, or is no longer checked.
    pub(super) fn checked(&mut self, connection: ConnectionId, bytes: usize) {
        let Some(share) = self.by_link.get_mut(&connection) else { return };
        share.checking = share.checking.saturating_sub(1);
        share.bytes = share.bytes.saturating_sub(bytes);
        if share.is_empty() {
            self.by_link.remove(&connection);
        }
    }

    /// Orphans with a parent.
    pub(super) fn children(&self, parent: &BlockId) -> Vec<BlockId> {
        let range = (*parent, BlockId([0; 32]))..=(*parent, BlockId([0xff; 32]));
        self.by_parent.range(range).map(|(_, block)| *block).collect()
    }

    /// Orphans of a sender.
    pub(super) fn of(&self, connection: ConnectionId) -> Vec<BlockId> {
        self.by_link.get(&connection).into_iter().flat_map(|share| &share.blocks).copied().collect()
    }

    /// Drops a sender's orphans; returns the height of the highest.
    pub(super) fn forget(&mut self, connection: ConnectionId) -> Option<u64> {
        let gone = self.of(connection).into_iter().filter_map(|block| self.remove(&block));
        // Consumes the whole iterator: all of them must be removed.
        gone.map(|orphan| orphan.facts.height)
            .fold(None, |highest, height| highest.max(Some(height)))
    }

    /// Drops orphans up to a height.
    pub(super) fn prune(&mut self, height: u64) {
        let low = self.all.values().filter(|orphan| orphan.facts.height <= height);
        for block in low.map(|orphan| orphan.facts.block).collect::<Vec<_>>() {
            self.remove(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    #[test]
    fn shares_and_children_follow_what_is_kept() {
        let block = |n| BlockId([n; 32]);
        let orphan = |n: u8, parent, link| Orphan {
            facts: HeaderFacts {
                block: block(n),
                parent: block(parent),
                height: u64::from(n),
                slot: 0,
                producer: [0; 32],
                item_root: Digest([0; 32]),
                items: 0,
            },
            header: Bytes::from(vec![0; 10]),
            link: ConnectionId(link),
        };
        let mut orphans = Orphans::default();
        assert_eq!(orphans.insert(orphan(2, 1, 1)), (1, 10));
        assert_eq!(orphans.insert(orphan(3, 1, 1)), (2, 20));
        assert_eq!(orphans.insert(orphan(4, 3, 2)), (1, 10));
        assert_eq!(orphans.insert(orphan(3, 1, 2)), (2, 20), "it changes its sender");
        assert_eq!(orphans.children(&block(1)), [block(2), block(3)]);
        assert_eq!(orphans.of(ConnectionId(1)), [block(2)]);
        assert_eq!(orphans.forget(ConnectionId(2)), Some(4));
        assert_eq!(orphans.children(&block(1)), [block(2)]);
        assert!(orphans.children(&block(3)).is_empty());
        // An orphan that is being checked counts until its verdict.
        let child = orphans.remove(&block(2)).unwrap();
        orphans.is_checked(&child);
        assert_eq!(orphans.insert(orphan(6, 5, 1)), (2, 20));
        orphans.checked(ConnectionId(1), 10);
        assert_eq!(orphans.insert(orphan(7, 5, 1)), (2, 20));
        orphans.forget(ConnectionId(1));
        orphans.checked(ConnectionId(1), 10);
        orphans.prune(2);
        assert_eq!(orphans.iter().count(), 0);
        assert!(orphans.by_link.is_empty() && orphans.by_parent.is_empty());
    }
}
