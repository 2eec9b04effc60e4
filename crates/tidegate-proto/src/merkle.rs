//! The root over a block's items, and proofs that an item is under it (specification section 10).
//!
//! The shape is that of RFC 6962 section 2.1, with BLAKE3: a leaf is hashed behind a zero byte, an
//! inner node behind a one, and the left subtree is the largest full one. A leaf contains the
//! item's pool as well as its id, so the root also proves which pool each item is of. The root
//! commits to the number of items too, so that a proof is about one index among a known number.
//!
//! # Not guaranteed
//!
//! That ids belong to items: the root is over ids, and a receiver of an item's bytes must hash them
//! itself. The proofs say that an item is in a block, never that it is in no block.

use crate::id::{Digest, ItemId};

/// One item as the root sees it: the name of its pool, and its id.
pub type Leaf<'a> = (&'a str, ItemId);

/// The root over all items, in the block's order. R10.1
pub fn root(items: &[Leaf<'_>]) -> Digest {
    Tree::new(items.iter().copied()).root()
}

/// The proof that the item at `index` is under [`root`]: siblings from the leaf upwards.
///
/// `None` if there is no such item.
pub fn prove(items: &[Leaf<'_>], index: usize) -> Option<Vec<Digest>> {
    Tree::new(items.iter().copied()).prove(index)
}

/// All hashes under a root, for more than one proof.
#[derive(Debug)]
pub(crate) struct Tree {
    /// From the leaves upwards; the last node of a level goes up alone if it has no sibling.
    levels: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    pub(crate) fn new<'a>(items: impl Iterator<Item = Leaf<'a>>) -> Self {
        let mut level = items.map(|item| leaf(&item)).collect::<Vec<_>>();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let next = level.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                alone => alone[0],
            });
            let next = next.collect();
            levels.push(std::mem::replace(&mut level, next));
        }
        levels.push(level);
        Self { levels }
    }

    /// The root. R10.1
    pub(crate) fn root(&self) -> Digest {
        let count = self.levels.first().map_or(0, Vec::len);
        let top = self.levels.last().and_then(|level| level.first());
        seal(count, top.copied().unwrap_or_default())
    }

    /// The proof that the item at `index` is under the root. R10.2
    pub(crate) fn prove(&self, index: usize) -> Option<Vec<Digest>> {
        if index >= self.levels.first()?.len() {
            return None;
        }
        let siblings = self.levels.iter().enumerate();
        let siblings = siblings.filter_map(|(up, level)| level.get((index >> up) ^ 1));
        Some(siblings.map(|sibling| Digest(*sibling)).collect())
    }
}

/// Whether `item` is the one at `index` of `count` under `root`.
pub fn verify(root: &Digest, count: usize, index: usize, item: Leaf<'_>, proof: &[Digest]) -> bool {
    index < count
        && climb(count, index, leaf(&item), proof).is_some_and(|top| seal(count, top) == *root)
}

/// The hash of a subtree of `count` items from the hash of one of its leaves. R10.2
fn climb(count: usize, index: usize, hash: [u8; 32], proof: &[Digest]) -> Option<[u8; 32]> {
    if count < 2 {
        return proof.is_empty().then_some(hash);
    }
    let (Digest(sibling), rest) = proof.split_last()?;
    let left = left_size(count);
    Some(match index.checked_sub(left) {
        None => node(&climb(left, index, hash, rest)?, sibling),
        Some(index) => node(sibling, &climb(count - left, index, hash, rest)?),
    })
}

/// The largest power of two below `count`, which is at least two.
fn left_size(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// An id has 32 bytes, so any name may follow it.
fn leaf((pool, id): &Leaf<'_>) -> [u8; 32] {
    hash(&[&[0], &id.0, pool.as_bytes()])
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    hash(&[&[1], left, right])
}

fn seal(count: usize, top: [u8; 32]) -> Digest {
    Digest(hash(&[&[2], &(count as u64).to_be_bytes(), &top]))
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{MAX_BLOCK_ITEMS, MAX_PROOF};

    fn items(count: usize) -> Vec<Leaf<'static>> {
        let id = |i: usize| ItemId(*blake3::hash(&i.to_be_bytes()).as_bytes());
        (0..count).map(|i| (["a", "bc", ""][i % 3], id(i))).collect()
    }

    /// The definition, written as in the specification, to compare the fast one with. R10.1
    fn defined(items: &[Leaf<'_>]) -> [u8; 32] {
        match items {
            [] => [0; 32],
            [item] => leaf(item),
            _ => {
                let (left, right) = items.split_at(left_size(items.len()));
                node(&defined(left), &defined(right))
            }
        }
    }

    /// R10.1, R10.2
    #[test]
    fn every_item_of_small_blocks_has_a_proof() {
        for count in 1..70 {
            let items = items(count);
            let root = root(&items);
            assert_eq!(root, seal(count, defined(&items)));
            for index in 0..count {
                let proof = prove(&items, index).unwrap();
                assert!(verify(&root, count, index, items[index], &proof));
                assert!(
                    !verify(&root, count, (index + 1) % count, items[index], &proof) || count == 1
                );
                assert!(!verify(&root, count + 1, index, items[index], &proof));
                let longer = [&[Digest([0; 32])], &proof[..]].concat();
                assert!(!verify(&root, count, index, items[index], &longer));
                // The same id in another pool.
                let (_, id) = items[index];
                assert!(!verify(&root, count, index, ("other", id), &proof));
            }
            assert_eq!(prove(&items, count), None);
        }
        assert_eq!(root(&[]), seal(0, defined(&[])));
    }

    #[test]
    fn the_largest_block_has_the_longest_proof() {
        let items = items(MAX_BLOCK_ITEMS);
        assert_eq!(prove(&items, 0).unwrap().len(), MAX_PROOF);
        let proof = prove(&items, MAX_BLOCK_ITEMS - 1).unwrap();
        assert!(verify(
            &root(&items),
            MAX_BLOCK_ITEMS,
            MAX_BLOCK_ITEMS - 1,
            *items.last().unwrap(),
            &proof
        ));
    }

    #[test]
    fn roots_of_different_lists_differ() {
        let [a, b] = [items(2)[0], items(2)[1]];
        let [other, longer] = [("b", a.1), ("aa", a.1)];
        let lists: [&[Leaf<'_>]; 8] =
            [&[], &[a], &[b], &[a, b], &[b, a], &[a, a], &[other], &[longer]];
        for (i, x) in lists.iter().enumerate() {
            for y in &lists[i + 1..] {
                assert_ne!(root(x), root(y));
            }
        }
    }

    proptest! {
        /// R10.2
        #[test]
        fn a_changed_proof_proves_nothing(count in 1..200usize, index in 0..200usize, byte in 0..32usize, at in 0..12usize) {
            let items = items(count);
            let index = index % count;
            let mut proof = prove(&items, index).unwrap();
            let root = root(&items);
            if let Some(digest) = proof.get_mut(at) {
                digest.0[byte] ^= 1;
                prop_assert!(!verify(&root, count, index, items[index], &proof));
                prop_assert!(!verify(&root, count, index, items[index], &proof[1..]));
            }
            let other = ("a", ItemId([9; 32]));
            prop_assert!(!verify(&root, count, index, other, &prove(&items, index).unwrap()));
        }
    }
}
