//! The core's only source of randomness: seeded, and forked by label.
//!
//! # Not guaranteed
//!
//! Secrecy beyond that of the seed, and the same numbers in another version of this crate.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng};

/// A seeded generator.
///
/// Each part of the node draws from a fork of its own, so that a new draw in one part does not
/// change what another part draws.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// A generator of its own for one part, which depends on the seed and the label alone.
    pub fn fork(&self, label: &str) -> Self {
        Self::new(blake3::keyed_hash(&self.0.get_seed(), label.as_bytes()).into())
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Any bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_depend_on_seed_and_label_alone() {
        let mut drawn = Rng::new([7; 32]);
        drawn.next_u64();
        let [mut a, mut b] = [Rng::new([7; 32]).fork("a"), drawn.fork("a")];
        assert_eq!(a.next_u64(), b.next_u64());
        assert_ne!(Rng::new([7; 32]).fork("b").next_u64(), a.next_u64());
        assert_ne!(Rng::new([8; 32]).fork("a").bytes::<8>(), a.bytes::<8>());
    }
}
