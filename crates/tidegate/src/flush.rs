//! Waiting until others have what was published here.

use std::time::Duration;

use tidegate_proto::{Node as Core, Time};
use tokio::sync::oneshot;

/// How often it checks whether they have it: far shorter than a round trip to most peers.
const LOOK: Duration = Duration::from_millis(20);

/// Calls of [`Node::flush`](crate::Node::flush) that wait.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    waiting: Vec<Flush>,
    /// When to check next, if a call waits.
    pub(crate) next: Option<Time>,
}

#[derive(Debug)]
struct Flush {
    /// How many peers are to have each item.
    peers: usize,
    until: Time,
    left: oneshot::Sender<usize>,
}

impl Flushes {
    /// Adds a call that waits.
    pub(crate) fn add(
        &mut self,
        (peers, patience): (usize, Duration),
        left: oneshot::Sender<usize>,
        now: Time,
    ) {
        self.waiting.push(Flush { peers, until: now + patience, left });
        self.next = Some(now);
    }

    /// Answers the calls that are done or have timed out, if it is time to check.
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
            // Who asked may have gone.
            let _ = flush.left.send(core.unspread(flush.peers).count());
        }
        let soonest = self.waiting.iter().map(|flush| flush.until).min();
        self.next = soonest.map(|until| until.min(now + LOOK));
    }
}
