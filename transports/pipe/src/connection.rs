//! One connection: a socket, and the channels that share it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate::transport::mux::Mux;
use tidegate::transport::{Place, Traffic};
use tidegate::wire::Frame;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

/// How long the last control frames may take to leave.
const LAST_FRAMES: Duration = Duration::from_secs(1);
/// The size of a read.
const READ: usize = 16 << 10;

pub(crate) enum Event {
    Frame(u32, Frame),
    Writable(u32),
    Closed,
}

pub(crate) struct Connection {
    stream: UnixStream,
    mux: Mux,
    _place: Place,
    /// The bytes being written, how many of them have been, and the channels that become writable
    /// after them.
    writing: bytes::Bytes,
    writable: VecDeque<u32>,
    /// The connection has ended.
    over: bool,
    /// The node has closed it: when the last frames must have left.
    closing: Option<Pin<Box<Sleep>>>,
    sent: u64,
    received: u64,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, place: Place) -> Self {
        Self {
            stream,
            mux: Mux::new(),
            _place: place,
            writing: bytes::Bytes::new(),
            writable: VecDeque::new(),
            over: false,
            closing: None,
            sent: 0,
            received: 0,
        }
    }

    pub(crate) fn send(&mut self, channel: u32, frame: Frame) {
        if self.closing.is_none() && !self.mux.send(channel, frame) {
            self.over = true;
        }
    }

    pub(crate) fn open(&mut self, channel: u32) {
        self.mux.open(channel);
    }

    pub(crate) fn close(&mut self) {
        self.closing.get_or_insert_with(|| Box::pin(sleep(LAST_FRAMES)));
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic::new(self.sent, self.received)
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some((channel, frame)) = self.mux.next_frame() {
                return Poll::Ready(Event::Frame(channel, frame));
            }
            if self.over {
                return Poll::Ready(Event::Closed);
            }
            let wrote = self.poll_write(cx);
            if self.writing.is_empty()
                && let Some(channel) = self.writable.pop_front()
                && self.closing.is_none()
            {
                return Poll::Ready(Event::Writable(channel));
            }
            if let Some(closing) = &mut self.closing {
                let has_left = self.writing.is_empty() && self.mux.has_sent(0);
                if has_left || closing.as_mut().poll(cx).is_ready() {
                    self.over = true;
                    continue;
                }
            }
            let read = self.poll_read(cx);
            if !wrote && !read {
                return Poll::Pending;
            }
        }
    }

    /// Writes as much as possible; returns whether an event resulted.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.writing.is_empty() {
            let Some(next) = self.mux.next_write() else { return false };
            self.writable.extend(std::iter::from_fn(|| self.mux.next_writable()));
            self.writing = next;
        }
        match Pin::new(&mut self.stream).poll_write(cx, &self.writing) {
            Poll::Ready(Ok(count)) => {
                self.sent += count as u64;
                let _ = self.writing.split_to(count);
                true
            }
            Poll::Ready(Err(_)) => {
                self.over = true;
                true
            }
            Poll::Pending => false,
        }
    }

    /// Reads as much as possible; returns whether an event resulted.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut bytes = [0; READ];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                self.received += buffer.filled().len() as u64;
                self.over = self.mux.receive(buffer.filled()).is_err();
                true
            }
            Poll::Ready(_) => {
                self.over = true;
                true
            }
            Poll::Pending => false,
        }
    }
}
