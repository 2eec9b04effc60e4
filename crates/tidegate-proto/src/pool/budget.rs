//! Budgets for bytes that were requested and have no verdict yet: one for each link, and one for
//! the node.
//!
//! A request is charged to both when it leaves. The link stays charged until the answer is settled.
//! The node's charge is freed earlier if the answer is late, so that other peers can be asked, and
//! is charged again if the answer still comes. A [`Charge`] can be neither copied nor made up, so
//! the sum of the charges cannot drift from the total.

use crate::id::ConnectionId;

/// The bytes charged on a link or on the node.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    bytes: u32,
    /// A request did not fit: it is retried once something is freed.
    awaited: bool,
    /// Something was freed since then.
    freed: bool,
}

/// Bytes charged to a [`Budget`].
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "what is charged has to be freed"]
pub(super) struct Charge(u32);

impl Charge {
    pub(super) fn bytes(&self) -> u32 {
        self.0
    }
}

impl Budget {
    /// The bytes charged.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Whether a request for `bytes` more stays within a limit. The only request always does:
    /// otherwise an item larger than the limit could never be fetched.
    pub(super) fn allows(&self, bytes: u32, limit: u32) -> bool {
        self.bytes == 0 || self.fits(bytes, limit)
    }

    /// Whether `bytes` more stay within a limit.
    pub(super) fn fits(&self, bytes: u32, limit: u32) -> bool {
        self.bytes.checked_add(bytes).is_some_and(|sum| sum <= limit)
    }

    pub(super) fn charge(&mut self, bytes: u32) -> Charge {
        let mut charge = Charge::default();
        self.raise(&mut charge, bytes);
        charge
    }

    /// Raises a charge to `bytes`, if it is less.
    pub(super) fn raise(&mut self, charge: &mut Charge, bytes: u32) {
        self.bytes += bytes.saturating_sub(charge.0);
        charge.0 = charge.0.max(bytes);
    }

    pub(super) fn free(&mut self, charge: Charge) {
        self.bytes -= charge.0;
        self.freed |= charge.0 > 0;
    }

    /// Notes that a request did not fit: [`Budget::has_room_again`] tells when to retry.
    pub(super) fn wait(&mut self) {
        (self.awaited, self.freed) = (true, false);
    }

    /// Whether something was freed since the last [`Budget::wait`]; `true` only once.
    pub(super) fn has_room_again(&mut self) -> bool {
        let again = self.awaited && self.freed;
        self.awaited &= !again;
        again
    }
}

/// The charges of one request.
#[derive(Debug)]
#[must_use = "what is charged has to be freed"]
pub(super) struct Reserved {
    pub(super) link: ConnectionId,
    pub(super) on_link: Charge,
    pub(super) on_node: Charge,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_request_always_fits() {
        let mut budget = Budget::default();
        assert!(budget.allows(500, 100) && !budget.fits(500, 100));
        let first = budget.charge(60);
        assert!(budget.allows(40, 100) && !budget.allows(41, 100));
        assert!(!budget.allows(u32::MAX, 100), "the sum has no number");
        budget.free(first);
        assert!(budget.allows(41, 100));
    }

    #[test]
    fn waiters_are_woken_once_when_bytes_are_freed() {
        let mut budget = Budget::default();
        let charges = [10, 10, 10].map(|bytes| budget.charge(bytes));
        let [first, second, third] = charges;
        budget.free(first);
        assert!(!budget.has_room_again(), "nobody waits");
        budget.wait();
        assert!(!budget.has_room_again(), "nothing was freed since");
        budget.free(Charge::default());
        assert!(!budget.has_room_again());
        budget.free(second);
        assert!(budget.has_room_again() && !budget.has_room_again());
        budget.free(third);
        assert!(!budget.has_room_again());
    }

    proptest! {
        #[test]
        fn the_total_is_the_sum_of_the_charges(
            steps in prop::collection::vec((0..8usize, 0..100u32, any::<bool>()), 0..100),
        ) {
            let mut budget = Budget::default();
            let mut charges: [Charge; 8] = Default::default();
            for (at, bytes, free) in steps {
                if free {
                    budget.free(std::mem::take(&mut charges[at]));
                } else {
                    let before = charges[at].bytes();
                    budget.raise(&mut charges[at], bytes);
                    prop_assert_eq!(charges[at].bytes(), before.max(bytes));
                }
                prop_assert_eq!(budget.bytes(), charges.iter().map(Charge::bytes).sum::<u32>());
            }
            charges.into_iter().for_each(|charge| budget.free(charge));
            prop_assert_eq!(budget.bytes(), 0);
        }
    }
}
