//! What operators read, so much of it that no peer can fill a disk.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_proto::Time;
use tidegate_proto::io::Event;

/// Lines of one cause in a period; the rest is counted, and told with the next.
const LINES: u32 = 20;
const PERIOD: Duration = Duration::from_secs(10);

/// Lines by their cause.
#[derive(Debug, Default)]
pub(crate) struct Log {
    causes: BTreeMap<&'static str, Cause>,
}

#[derive(Debug, Default)]
struct Cause {
    since: Time,
    lines: u32,
    left_out: u64,
}

impl Log {
    /// Whether a line may be written, and how many were not since the last one.
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

    /// Writes what happened, if there is room for it.
    pub(crate) fn event(&mut self, event: &Event, now: Time) {
        let cause = match event {
            Event::PeerConnected { .. } => "connected",
            Event::PeerDisconnected { .. } => "disconnected",
            Event::Refused { .. } => "refused",
            Event::DialFailed { .. } => "dial failed",
            Event::TipChanged { .. } => "tip",
            Event::UnknownTip { .. } => "unknown tip",
            Event::SyncStarted { .. } | Event::SyncEnded { .. } => "sync",
            // Of items there are too many; what is new in the core is silent until it has a line.
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
                tracing::info!(%peer, ?reason, "disconnected");
            }
            Event::Refused { peer, by_us, refusal } => {
                tracing::info!(%peer, by_us, ?refusal, "refused");
            }
            Event::DialFailed { error, .. } => tracing::debug!(%error, "dial failed"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_so_many_lines_in_a_period() {
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
}
