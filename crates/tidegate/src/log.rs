//! The log for operators, limited so that no peer can fill a disk.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_proto::id::Address;
use tidegate_proto::io::{DialError, Event};
use tidegate_proto::{Kind, Time};

use crate::transport::from_core;

/// Lines with one cause in a period; further ones are counted, and the count is logged with the
/// next line.
const LINES: u32 = 20;
const PERIOD: Duration = Duration::from_secs(10);

/// Addresses whose last failure is remembered.
const FAILURES: usize = 256;

/// Limits on lines by their cause.
#[derive(Debug, Default)]
pub(crate) struct Log {
    causes: BTreeMap<&'static str, Cause>,
    failures: BTreeMap<Address, DialError>,
}

#[derive(Debug, Default)]
struct Cause {
    since: Time,
    lines: u32,
    left_out: u64,
}

impl Log {
    /// Whether a line may be logged, and how many were suppressed since the last one.
    fn may(&mut self, cause: &'static str, now: Time) -> Option<u64> {
        let cause = self.causes.entry(cause).or_default();
        if now.since(cause.since) >= PERIOD {
            (cause.since, cause.lines) = (now, 0);
        }
        if cause.lines == LINES {
            cause.left_out += 1;
            return None;
        }
        cause.lines += 1;
        Some(std::mem::take(&mut cause.left_out))
    }

    /// Whether the last dial of this address did not fail in the same way.
    fn is_news(&mut self, address: &Address, error: &DialError) -> bool {
        if self.failures.len() >= FAILURES && !self.failures.contains_key(address) {
            self.failures.clear();
        }
        self.failures.insert(address.clone(), error.clone()).as_ref() != Some(error)
    }

    /// Logs an event, within the limits.
    pub(crate) fn event(&mut self, event: &Event, now: Time) {
        let cause = match event {
            Event::PeerConnected { .. } => "connected",
            Event::PeerDisconnected { .. } => "disconnected",
            Event::Refused { .. } => "refused",
            Event::NotShared { .. } => "not shared",
            Event::DialFailed { .. } => "dial failed",
            Event::TipChanged { .. } => "tip",
            Event::UnknownTip { .. } => "unknown tip",
            Event::SyncStarted { .. } | Event::SyncEnded { .. } => "sync",
            // Items are too many to be logged; new kinds of events are not logged until they get a
            // line here.
            _ => return,
        };
        let Some(left_out) = self.may(cause, now) else { return };
        if left_out > 0 {
            tracing::info!(left_out, "lines about \"{cause}\" were left out");
        }
        match event {
            Event::PeerConnected { peer, client, inbound } => {
                tracing::info!(%peer, client, inbound, "connected");
            }
            Event::PeerDisconnected { peer, reason } => {
                tracing::info!(%peer, %reason, "disconnected");
            }
            Event::Refused { peer, by_us, refusal } => {
                if *by_us {
                    tracing::info!(%peer, %refusal, "refused");
                } else {
                    tracing::info!(%peer, %refusal, "refused by the peer");
                }
            }
            Event::NotShared { peer, kind, name, reason } => {
                tracing::warn!(%peer, what = not_shared(*kind, name), %reason, "not shared");
            }
            Event::DialFailed { address, error } => {
                let name =
                    from_core(address).map_or_else(|| address.to_string(), |a| a.to_string());
                // An absent peer is dialed again and again: one line is enough.
                if self.is_news(address, error) {
                    tracing::info!(address = name, %error, "dial failed");
                } else {
                    tracing::debug!(address = name, %error, "dial failed");
                }
            }
            Event::TipChanged { block, height } => tracing::debug!(%block, height, "tip"),
            Event::UnknownTip { block } => {
                tracing::warn!(%block, "the application set a tip that is no accepted block");
            }
            Event::SyncStarted { from, to } => tracing::info!(from, to, "catching up"),
            Event::SyncEnded { from, at } => tracing::info!(from, at, "caught up"),
            _ => {}
        }
    }
}

/// The name of what two nodes do not share.
fn not_shared(kind: Kind, name: &str) -> &str {
    if name.is_empty() { kind.name() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_cause_are_bounded_in_a_period() {
        let mut log = Log::default();
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        for _ in 0..LINES {
            assert_eq!(log.may("a", at(1)), Some(0));
        }
        assert_eq!(log.may("a", at(1)), None);
        assert_eq!(log.may("a", at(9)), None);
        assert_eq!(log.may("b", at(9)), Some(0), "another cause has lines of its own");
        assert_eq!(log.may("a", at(10)), Some(2));
        assert_eq!(log.may("a", at(10)), Some(0));
    }

    #[test]
    fn a_failure_that_repeats_is_no_news() {
        let mut log = Log::default();
        let address = |n: usize| Address(n.to_string().into());
        assert!(log.is_news(&address(0), &DialError::TimedOut));
        assert!(!log.is_news(&address(0), &DialError::TimedOut));
        assert!(log.is_news(&address(0), &DialError::WrongPeer));
        for n in 1..FAILURES {
            assert!(log.is_news(&address(n), &DialError::TimedOut));
        }
        assert!(!log.is_news(&address(0), &DialError::WrongPeer), "it is remembered at the limit");
        assert!(log.is_news(&address(FAILURES), &DialError::TimedOut));
        assert_eq!(log.failures.len(), 1);
    }
}
