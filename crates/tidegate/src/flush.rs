//! Waits until peers have what was published here.

use std::time::Duration;

use tidegate_proto::{Node as Core, Time};
use tokio::sync::oneshot;

/// How often that is checked: far more often than a round trip to most peers.
const LOOK: Duration = Duration::from_millis(20);

/// The waiting calls.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    waiting: Vec<Flush>,
    /// The next check, if any call waits.
    pub(crate) next: Option<Time>,
}

#[derive(Debug)]
struct Flush {
    /// How many peers must have each item.
    peers: usize,
    until: Time,
    left: oneshot::Sender<usize>,
}

impl Flushes {
    /// Adds a waiting call.
    pub(crate) fn add(
        &mut self,
        (peers, patience): (usize, Duration),
        left: oneshot::Sender<usize>,
        now: Time,
    ) {
        self.waiting.push(Flush { peers, until: now + patience, left });
        self.next = Some(now);
    }

    /// Answers the calls that are done, if a check is due.
    pub(crate) fn look(&mut self, core: &Core, now: Time) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        for flush in waiting.filter(|flush| !flush.left.is_closed()) {
            if flush.until > now && core.unspread(flush.peers).next().is_some() {
                self.waiting.push(flush);
                continue;
            }
            // The caller may have stopped waiting.
            let _ = flush.left.send(core.unspread(flush.peers).count());
        }
        let soonest = self.waiting.iter().map(|flush| flush.until).min();
        self.next = soonest.map(|until| until.min(now + LOOK));
    }
}
