//! The source of a world's randomness: a seed, or a byte string.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng};

/// A source of decisions.
///
/// A byte string is used from its front, and everything after its end is zero. So a fuzzer can
/// drive a whole world, and a shorter string is a simpler world.
#[derive(Clone, Debug)]
pub struct Entropy(Source);

#[derive(Clone, Debug)]
enum Source {
    Seed(Box<ChaCha8Rng>),
    Bytes(Vec<u8>),
}

impl Entropy {
    /// Randomness from a seed.
    pub fn seed(seed: u64) -> Self {
        Self(Source::Seed(Box::new(ChaCha8Rng::seed_from_u64(seed))))
    }

    /// Decisions from bytes.
    pub fn bytes(bytes: &[u8]) -> Self {
        let mut reversed = bytes.to_vec();
        reversed.reverse();
        Self(Source::Bytes(reversed))
    }

    /// A separate source for one part of the world. It takes only one of the bytes: it is for parts
    /// that need many numbers, and would use all of them up.
    pub fn fork(&mut self, label: &str) -> Self {
        match self.forked(label) {
            Some(fork) => fork,
            None => Self::seed(u64::from(self.byte())),
        }
    }

    /// Lets one part of the world draw: from a separate seed, or from the front of the bytes.
    pub fn part<T>(&mut self, label: &str, draw: impl FnOnce(&mut Self) -> T) -> T {
        match self.forked(label) {
            Some(mut fork) => draw(&mut fork),
            None => draw(self),
        }
    }

    /// The source of the last part of the world: a separate seed, or the remaining bytes.
    pub fn rest(self, label: &str) -> Self {
        self.forked(label).unwrap_or(self)
    }

    fn forked(&self, label: &str) -> Option<Self> {
        match &self.0 {
            Source::Seed(rng) => {
                let seed = blake3::keyed_hash(&rng.get_seed(), label.as_bytes());
                Some(Self(Source::Seed(Box::new(ChaCha8Rng::from_seed(seed.into())))))
            }
            Source::Bytes(_) => None,
        }
    }

    /// Whether all bytes have been used.
    pub fn is_spent(&self) -> bool {
        matches!(&self.0, Source::Bytes(bytes) if bytes.is_empty())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        match &mut self.0 {
            Source::Seed(rng) => rng.next_u64(),
            Source::Bytes(bytes) => {
                let from = bytes.len().saturating_sub(8);
                bytes.drain(from..).fold(0, |number, byte| (number << 8) | u64::from(byte))
            }
        }
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        match &mut self.0 {
            Source::Seed(rng) => rng.next_u32() as u8,
            Source::Bytes(bytes) => bytes.pop().unwrap_or(0),
        }
    }

    /// A number below `n`, which must not be zero. Uses as few bytes as can represent it.
    pub fn below(&mut self, n: u64) -> u64 {
        let number = match &self.0 {
            Source::Seed(_) => self.number(),
            Source::Bytes(_) => {
                let bits = u64::BITS - (n - 1).leading_zeros();
                let bytes = bits.div_ceil(8).max(1);
                let number = (0..bytes).fold(0, |n, _| (n << 8) | u64::from(self.byte()));
                number << (64 - 8 * bytes)
            }
        };
        ((u128::from(number) * u128::from(n)) >> 64) as u64
    }

    /// Whether an event with this probability, in parts of a million, happens. It does not after
    /// the end of the bytes; one byte decides, to 1 in 256.
    pub fn happens(&mut self, millionths: u64) -> bool {
        match &self.0 {
            Source::Seed(_) => self.below(1_000_000) < millionths,
            Source::Bytes(_) => (255 - u64::from(self.byte())) * 1_000_000 < millionths * 256,
        }
    }

    /// A duration between two others.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_micros() as u64;
        least + Duration::from_micros(self.below(span + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_decide_until_they_are_spent() {
        let mut entropy = Entropy::bytes(&[255, 0, 128]);
        assert_eq!(entropy.below(4), 3);
        assert_eq!(entropy.below(4), 0);
        assert!(!entropy.is_spent());
        assert_eq!(entropy.below(4), 2);
        assert!(entropy.is_spent());
        assert_eq!((entropy.below(4), entropy.number()), (0, 0));
        assert!(!entropy.happens(900_000));
        let mut entropy = Entropy::bytes(&[128, 0, 128, 128, 255, 200, 127, 9]);
        assert_eq!(entropy.below(1000), 500);
        assert_eq!(entropy.below(1000), 501);
        assert!(entropy.happens(1));
        assert!(entropy.happens(500_000));
        assert!(!entropy.part("one byte", |entropy| entropy.happens(500_000)));
        assert_eq!(entropy.rest("the others").byte(), 9);
    }

    #[test]
    fn seeds_repeat_and_forks_differ() {
        let mut a = Entropy::seed(7);
        let mut b = Entropy::seed(7);
        b.number();
        assert_eq!(a.fork("x").number(), b.fork("x").number());
        assert_ne!(a.fork("x").number(), a.fork("y").number());
        let spread = (0..1000).map(|_| a.below(10)).fold([0; 10], |mut n, i| {
            n[i as usize] += 1;
            n
        });
        assert!(spread.iter().all(|n| (50..150).contains(n)), "{spread:?}");
    }
}
