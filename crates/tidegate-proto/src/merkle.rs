//! The root over a block's items, and proofs that an item is under it (specification section 10).
//!
//! The shape is that of RFC 6962 section 2.1, with BLAKE3: a leaf is hashed behind a zero byte, an
//! inner node behind a one, and the left subtree is the largest full one. The root also commits to
//! the number of items, so that a proof speaks of one index among so many.
//!
//! # Not guaranteed
//!
//! That ids belong to items: the root is over ids, and whoever has an item's bytes must hash them
//! himself. The proofs say that an item is in a block, never that it is in no block.

use crate::id::{Digest, ItemId};

/// The root over the ids of all items, in the block's order. R10.1
pub fn root(ids: &[ItemId]) -> Digest {
    seal(ids.len(), subtree(ids))
}

/// The proof that the item at `index` is under [`root`]: siblings from the leaf upwards.
///
/// `None` if there is no such item.
pub fn prove(ids: &[ItemId], index: usize) -> Option<Vec<Digest>> {
    Tree::new(ids.iter().copied()).prove(index)
}

/// All hashes under a root, for more than one proof.
#[derive(Debug)]
pub(crate) struct Tree {
    /// From the leaves upwards; the last node of a level goes up alone if it has no sibling.
    levels: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    pub(crate) fn new(ids: impl Iterator<Item = ItemId>) -> Self {
        let mut level = ids.map(|id| leaf(&id)).collect::<Vec<_>>();
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

    /// The proof that the item at `index` is under the root. R10.2
    pub(crate) fn prove(&self, index: usize) -> Option<Vec<Digest>> {
        if index >= self.levels[0].len() {
            return None;
        }
        let siblings = self.levels.iter().enumerate();
        let siblings = siblings.filter_map(|(up, level)| level.get((index >> up) ^ 1));
        Some(siblings.map(|sibling| Digest(*sibling)).collect())
    }
}

/// Whether `id` is the item at `index` of `count` under `root`.
pub fn verify(root: &Digest, count: usize, index: usize, id: &ItemId, proof: &[Digest]) -> bool {
    index < count
        && climb(count, index, leaf(id), proof).is_some_and(|top| seal(count, top) == *root)
}

fn subtree(ids: &[ItemId]) -> [u8; 32] {
    match ids {
        [] => [0; 32],
        [id] => leaf(id),
        _ => {
            let (left, right) = ids.split_at(left_size(ids.len()));
            node(&subtree(left), &subtree(right))
        }
    }
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

fn leaf(id: &ItemId) -> [u8; 32] {
    hash(&[&[0], &id.0])
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

    fn ids(count: usize) -> Vec<ItemId> {
        (0..count).map(|i| ItemId(*blake3::hash(&i.to_be_bytes()).as_bytes())).collect()
    }

    /// R10.1, R10.2
    #[test]
    fn every_item_of_small_blocks_has_a_proof() {
        for count in 1..70 {
            let ids = ids(count);
            let root = root(&ids);
            for index in 0..count {
                let proof = prove(&ids, index).unwrap();
                assert!(verify(&root, count, index, &ids[index], &proof));
                assert!(
                    !verify(&root, count, (index + 1) % count, &ids[index], &proof) || count == 1
                );
                assert!(!verify(&root, count + 1, index, &ids[index], &proof));
                let longer = [&[Digest([0; 32])], &proof[..]].concat();
                assert!(!verify(&root, count, index, &ids[index], &longer));
            }
            assert_eq!(prove(&ids, count), None);
        }
    }

    #[test]
    fn the_largest_block_has_the_longest_proof() {
        let ids = ids(MAX_BLOCK_ITEMS);
        assert_eq!(prove(&ids, 0).unwrap().len(), MAX_PROOF);
        let proof = prove(&ids, MAX_BLOCK_ITEMS - 1).unwrap();
        assert!(verify(
            &root(&ids),
            MAX_BLOCK_ITEMS,
            MAX_BLOCK_ITEMS - 1,
            ids.last().unwrap(),
            &proof
        ));
    }

    #[test]
    fn roots_of_different_lists_differ() {
        let [a, b] = [ids(2)[0], ids(2)[1]];
        let lists: [&[ItemId]; 6] = [&[], &[a], &[b], &[a, b], &[b, a], &[a, a]];
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
            let ids = ids(count);
            let index = index % count;
            let mut proof = prove(&ids, index).unwrap();
            let root = root(&ids);
            if let Some(digest) = proof.get_mut(at) {
                digest.0[byte] ^= 1;
                prop_assert!(!verify(&root, count, index, &ids[index], &proof));
                digest_removed(&root, count, index, &ids[index], &proof);
            }
            let other = ItemId([9; 32]);
            prop_assert!(!verify(&root, count, index, &other, &prove(&ids, index).unwrap()));
        }
    }

    fn digest_removed(root: &Digest, count: usize, index: usize, id: &ItemId, proof: &[Digest]) {
        assert!(!verify(root, count, index, id, &proof[1..]));
    }
}
