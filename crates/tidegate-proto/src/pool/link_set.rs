//! Sets of links: which peers have an item. There is one for each item of a pool, so they are
//! small.

/// A link's index in the sets of its pool: the lowest that was free when it came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ordinal(u16);

impl Ordinal {
    /// The lowest that is not taken.
    pub(super) fn free(taken: impl Iterator<Item = Self>) -> Self {
        let set = taken.collect::<LinkSet>();
        Self(set.0.iter().map(|word| word.trailing_ones()).fold((0, true), next).0)
    }
}

/// Adds up the leading ones, until a word has a zero.
fn next((sum, full): (u16, bool), ones: u32) -> (u16, bool) {
    if full { (sum + ones as u16, ones == u64::BITS) } else { (sum, false) }
}

/// A set of links, a bit for each: 100 need 16 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkSet(Vec<u64>);

impl LinkSet {
    pub(super) fn contains(&self, link: Ordinal) -> bool {
        let (word, bit) = place(link);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    fn insert(&mut self, link: Ordinal) {
        let (word, bit) = place(link);
        if word >= self.0.len() {
            self.0.reserve_exact(word + 1 - self.0.len());
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    pub(super) fn remove(&mut self, link: Ordinal) {
        let (word, bit) = place(link);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }
}

fn place(Ordinal(link): Ordinal) -> (usize, u64) {
    (usize::from(link) / 64, 1 << (link % 64))
}

impl Extend<Ordinal> for LinkSet {
    fn extend<I: IntoIterator<Item = Ordinal>>(&mut self, links: I) {
        links.into_iter().for_each(|link| self.insert(link));
    }
}

impl FromIterator<Ordinal> for LinkSet {
    fn from_iter<I: IntoIterator<Item = Ordinal>>(links: I) -> Self {
        let mut set = Self::default();
        set.extend(links);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn link_sets_behave_like_sets(steps in prop::collection::vec((any::<bool>(), 0..200u16), 0..100)) {
            let (mut set, mut model) = (LinkSet::default(), BTreeSet::new());
            for (insert, link) in steps {
                let link = Ordinal(link);
                if insert {
                    set.extend([link]);
                    model.insert(link);
                } else {
                    set.remove(link);
                    model.remove(&link);
                }
                prop_assert!((0..200).all(|n| set.contains(Ordinal(n)) == model.contains(&Ordinal(n))));
                let free = (0..).map(Ordinal).find(|link| !model.contains(link)).unwrap();
                prop_assert_eq!(Ordinal::free(model.iter().copied()), free);
            }
        }
    }
}
