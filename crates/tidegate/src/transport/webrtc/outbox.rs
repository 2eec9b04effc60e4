//! What the task tells the node.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::transport::{Happening, Traffic};

/// Events above which no frames are added: of what else there is, each connection has a few.
const ROOM: usize = 64;

/// A queue between the task and the node.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    sent: AtomicU64,
    received: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Happening>,
    /// The node, waiting for an event.
    reader: Option<Waker>,
    /// The task, waiting for room.
    writer: Option<Waker>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give(&self, happening: impl Into<Happening>) {
        let mut state = self.lock();
        state.queue.push_back(happening.into());
        state.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn has_room(&self) -> bool {
        self.lock().queue.len() < ROOM
    }

    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.queue.len() < ROOM {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next event.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Happening> {
        let mut state = self.lock();
        let Some(happening) = state.queue.pop_front() else {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if state.queue.len() < ROOM {
            state.writer.take().into_iter().for_each(Waker::wake);
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
