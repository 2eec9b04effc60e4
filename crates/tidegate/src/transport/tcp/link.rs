//! One connection: a task that owns its stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tidegate_proto::id::ConnectionId;
use tidegate_proto::io::Input;
use tidegate_proto::wire::Frame;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::rt::{self, Instant};
use crate::transport::mux::Mux;
use crate::transport::outbox::Outbox;

/// How long the last frames on channel 0 may take after the node has closed the connection, and then the peer's end.
const LAST_FRAMES: Duration = Duration::from_secs(1);
/// Bytes that are read at once: as many as a record of TLS has.
const READ: usize = 16 << 10;

/// What the node wants of a connection.
#[derive(Debug)]
pub(super) enum Order {
    Send(u32, Frame),
    Open(u32),
    Close,
}

/// A connection and its stream.
pub(super) struct Link<S> {
    pub(super) stream: S,
    pub(super) connection: ConnectionId,
    pub(super) orders: UnboundedReceiver<Order>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) mux: Mux,
    /// What is left of the last write.
    pub(super) writing: Bytes,
    /// Whether what was written may still be in TLS's buffer.
    pub(super) unflushed: bool,
    pub(super) closing: Option<Instant>,
}

/// What has happened.
enum Step {
    Order(Option<Order>),
    Read(usize),
    Written,
    /// There is room for frames.
    Room,
    /// The stream has failed, or the peer has ended it.
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Runs until the connection has ended, and says so.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; READ];
        let mut over = false;
        loop {
            self.tell();
            if over && !self.mux.has_frame() || self.has_said_all() {
                break;
            }
            let until = self.closing;
            let step = std::future::poll_fn(|cx| self.poll_step(&mut buffer, over, cx));
            let step = match until {
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    rt::within(left, step).await.unwrap_or(Step::Order(None))
                }
                None => step.await,
            };
            match step {
                Step::Order(Some(order)) => over |= !self.on_order(order),
                // The transport is gone, or the last frames have taken too long.
                Step::Order(None) => break,
                Step::Read(count) => over |= self.mux.receive(&buffer[..count]).is_err(),
                Step::Ended => over = true,
                Step::Written | Step::Room => {}
            }
            rt::breathe().await;
        }
        self.finish(&mut buffer).await;
        self.outbox.give(Input::Closed { connection: self.connection });
    }

    /// Tells the peer, and waits for its end (R4.3.3): a socket that is closed with unread bytes would take back what the peer
    /// has not read.
    async fn finish(&mut self, buffer: &mut [u8]) {
        let ending = async {
            if self.stream.shutdown().await.is_err() {
                return;
            }
            loop {
                let read = std::future::poll_fn(|cx| poll_read(&mut self.stream, buffer, cx));
                if !matches!(read.await, Ok(1..)) {
                    return;
                }
            }
        };
        // Who does not end its side is not waited for.
        let _ = rt::within(LAST_FRAMES, ending).await;
    }

    /// Whether the node has closed it, and all that it said on channel 0 has been written.
    fn has_said_all(&self) -> bool {
        self.closing.is_some() && self.mux.has_sent(0) && self.writing.is_empty() && !self.unflushed
    }

    /// Passes on frames while there is room, and what can be written to again.
    fn tell(&mut self) {
        let connection = self.connection;
        while self.mux.has_frame() && self.outbox.has_room() {
            if let Some((channel, frame)) = self.mux.next_frame() {
                self.outbox.give(Input::Frame { connection, channel, frame });
            }
        }
        if self.writing.is_empty() {
            while let Some(channel) = self.mux.next_writable() {
                self.outbox.give(Input::Writable { connection, channel });
            }
        }
    }

    /// Returns whether the connection goes on.
    fn on_order(&mut self, order: Order) -> bool {
        match order {
            Order::Send(channel, frame) => {
                return self.closing.is_some() || self.mux.send(channel, frame);
            }
            Order::Open(channel) => self.mux.open(channel),
            Order::Close => {
                self.closing.get_or_insert_with(|| Instant::now() + LAST_FRAMES);
            }
        }
        true
    }

    fn poll_step(&mut self, buffer: &mut [u8], over: bool, cx: &mut Context<'_>) -> Poll<Step> {
        if let Poll::Ready(order) = self.orders.poll_recv(cx) {
            return Poll::Ready(Step::Order(order));
        }
        if self.mux.has_frame() && self.outbox.poll_room(cx).is_ready() {
            return Poll::Ready(Step::Room);
        }
        if over {
            return Poll::Pending;
        }
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Step::Written),
            Poll::Ready(Err(_)) => return Poll::Ready(Step::Ended),
            Poll::Pending => {}
        }
        // Nothing is read while frames wait: so the peer waits too.
        if self.mux.has_frame() {
            return Poll::Pending;
        }
        Poll::Ready(match ready!(poll_read(&mut self.stream, buffer, cx)) {
            Ok(count @ 1..) => Step::Read(count),
            Ok(0) | Err(_) => Step::Ended,
        })
    }

    /// Writes what is there; ready when something has been written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.writing.is_empty() {
            match self.mux.next_write() {
                Some(bytes) => self.writing = bytes,
                None if self.unflushed => {
                    ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                    self.unflushed = false;
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Pending,
            }
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.writing))?;
        self.writing.advance(count);
        self.unflushed = true;
        Poll::Ready(Ok(()))
    }
}

fn poll_read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<std::io::Result<usize>> {
    let mut into = ReadBuf::new(buffer);
    ready!(Pin::new(stream).poll_read(cx, &mut into))?;
    Poll::Ready(Ok(into.filled().len()))
}
