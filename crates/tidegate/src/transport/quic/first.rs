//! The pace of first packets.

use std::time::Duration;

use crate::rt::Instant;

/// The interval between two first packets: for each, keys are derived and an answer is made. Those
/// of a flood wait in quinn, which drops the surplus before it derives any keys. At 10,000 a
/// second, all of them take a quarter of a processor (`--bench siege`, half-open).
const FIRST_PACE: Duration = Duration::from_micros(200);
/// How far behind the pace may be: 40 that arrive at once are handled at once.
const FIRST_BEHIND: Duration = Duration::from_millis(8);

/// When the next first packet is handled.
pub(super) struct Firsts {
    next: Instant,
}

impl Firsts {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now }
    }

    /// How long the next first packet has to wait.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let behind = now.checked_sub(FIRST_BEHIND).unwrap_or(now);
        self.next = behind.max(self.next + FIRST_PACE);
        self.next.saturating_duration_since(now)
    }
}
