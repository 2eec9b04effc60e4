//! What the tasks of a transport tell the node.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tidegate_proto::io::Input;

use super::{Happening, Traffic};

/// Bytes of frames above which none are added. Of other events each connection has a few.
const ROOM: usize = 64 << 10;
/// What an empty frame counts.
const EVENT: usize = 64;

/// What an event takes of the room.
fn size(happening: &Happening) -> usize {
    match happening {
        Happening::Input(Input::Frame { frame, .. }) => frame.len() + EVENT,
        _ => 0,
    }
}

/// A queue between tasks and the node.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    sent: AtomicU64,
    received: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Happening>,
    /// Bytes of the frames in it.
    frames: usize,
    /// The node, waiting for an event.
    reader: Option<Waker>,
    /// Tasks that wait for room.
    writers: Vec<Waker>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give(&self, happening: impl Into<Happening>) {
        let mut state = self.lock();
        let happening = happening.into();
        state.frames += size(&happening);
        state.queue.push_back(happening);
        state.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn has_room(&self) -> bool {
        self.lock().frames < ROOM
    }

    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.frames < ROOM {
            return Poll::Ready(());
        }
        if !state.writers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.writers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The next event.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Happening> {
        let mut state = self.lock();
        let Some(happening) = state.queue.pop_front() else {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.frames -= size(&happening);
        if state.frames < ROOM {
            state.writers.drain(..).for_each(Waker::wake);
        }
        Poll::Ready(happening)
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic::new(self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;
    use tidegate_proto::id::ConnectionId;

    use super::*;

    #[test]
    fn frames_find_room_up_to_their_bound() {
        let outbox = Outbox::default();
        let cx = Context::from_waker(Waker::noop());
        let (connection, channel) = (ConnectionId(0), 0);
        let frame =
            |size| Input::Frame { connection, channel, frame: Bytes::from(vec![0; size]).into() };
        outbox.give(frame(ROOM - EVENT - 1));
        assert!(outbox.has_room() && outbox.poll_room(&cx).is_ready());
        outbox.give(frame(0));
        assert!(!outbox.has_room() && outbox.poll_room(&cx).is_pending());
        // Other events always do, and each one that is read makes room.
        outbox.give(Input::Closed { connection });
        assert!(outbox.poll(&cx).is_ready() && outbox.has_room());
        assert!(outbox.poll(&cx).is_ready() && outbox.poll(&cx).is_ready());
        assert!(outbox.poll(&cx).is_pending());
    }
}
