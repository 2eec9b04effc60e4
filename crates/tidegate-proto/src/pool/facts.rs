//! The four bytes that accompany an announced id (specification section 7.3).

use std::time::Duration;

/// An announced item's size, priority and age, rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    size: u8,
    priority: u8,
    age: u16,
}

impl Facts {
    /// The facts of an item that has just arrived.
    pub(crate) fn new(size: usize, priority: u64) -> Self {
        Self { size: size_class(size), priority: priority_class(priority), age: 0 }
    }

    /// The same facts at another age.
    pub(crate) fn aged(self, age: Duration) -> Self {
        Self { age: u16::try_from(age.as_millis()).unwrap_or(u16::MAX), ..self }
    }

    pub(crate) fn to_wire(self) -> u32 {
        u32::from(self.size) << 24 | u32::from(self.priority) << 16 | u32::from(self.age)
    }

    pub(crate) fn from_wire(facts: u32) -> Self {
        Self { size: (facts >> 24) as u8, priority: (facts >> 16) as u8, age: facts as u16 }
    }

    /// An upper bound of the item's size in bytes.
    pub(crate) fn size_bound(self) -> u32 {
        size_bound(self.size)
    }

    /// The item has more bytes than this.
    pub(crate) fn size_floor(self) -> u32 {
        self.size.checked_sub(1).map_or(0, size_bound)
    }

    pub(crate) fn priority_class(self) -> u8 {
        self.priority
    }
}

/// Four classes to the octave, from 64 bytes on: the bound exceeds the size by at most 25 %.
fn size_bound(class: u8) -> u32 {
    let (octave, quarter) = (u32::from(class / 4), u32::from(class % 4));
    (16u32 * (4 + quarter))
        .checked_shl(octave)
        .filter(|n| n >> octave == 16 * (4 + quarter))
        .unwrap_or(u32::MAX)
}

/// R7.3.2
fn size_class(size: usize) -> u8 {
    (0..=u8::MAX).find(|class| size <= size_bound(*class) as usize).unwrap_or(u8::MAX)
}

/// Four classes to the octave, rounded down; higher is better.
fn priority_class(priority: u64) -> u8 {
    if priority < 4 {
        return priority as u8;
    }
    let octave = priority.ilog2();
    let quarter = priority >> (octave - 2) & 3;
    (octave * 4 + quarter as u32 - 4) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// R7.3.2
    #[test]
    fn bounds_are_tight_and_ascend() {
        assert_eq!(size_bound(0), 64);
        assert_eq!(size_bound(34), 24 << 10);
        assert_eq!(size_bound(255), u32::MAX);
        for class in 1..=255 {
            assert!(size_bound(class) >= size_bound(class - 1));
        }
        let facts = Facts::new(161, 0);
        assert_eq!((facts.size_floor(), facts.size_bound()), (160, 192));
    }

    proptest! {
        /// R7.3.2
        #[test]
        fn classes_hold_their_values(size in 0..(16usize << 20), a in any::<u64>(), shift in 0..64u32, b in any::<u64>()) {
            let facts = Facts::new(size, a).aged(Duration::from_millis(70_000));
            prop_assert_eq!(Facts::from_wire(facts.to_wire()), facts);
            prop_assert_eq!(facts.age, u16::MAX);
            prop_assert!(size <= facts.size_bound() as usize);
            prop_assert!(size == 0 || size as u32 > facts.size_floor());
            prop_assert!(facts.size_bound() <= 64 || facts.size_bound() as usize <= size * 5 / 4 + 1);
            let (a, b) = (a >> shift, b >> shift);
            prop_assert!(a > b || priority_class(a) <= priority_class(b));
        }
    }
}
