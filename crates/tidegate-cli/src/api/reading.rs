//! Connections whose clients must read: a client that does not loses its connection after a while.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a client may read nothing in total; what it reads earns time back.
const BLOCKED: Duration = Duration::from_secs(10);
/// Bytes that earn a client a second: no honest client is slower.
const RATE: u32 = 4 << 10;

/// A connection that ends if its client does not read.
pub(crate) struct Reading<S> {
    inner: S,
    /// The time left during which nothing can be written.
    left: Duration,
    /// Since when nothing could be written, and the timeout.
    blocked: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Reading<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, left: BLOCKED, blocked: None }
    }

    /// `bytes` have been written.
    fn wrote(&mut self, bytes: usize) {
        if let Some((since, _)) = self.blocked.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let earned = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / RATE;
        self.left = (self.left + earned).min(BLOCKED);
    }

    /// Nothing can be written now.
    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        let left = self.left;
        let blocked = self
            .blocked
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        ready!(blocked.1.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Reading<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Ready(written) => {
                self.wrote(*written.as_ref().unwrap_or(&0));
                Poll::Ready(written)
            }
            Poll::Pending => self.waits(cx),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Reading<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, to)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// How long a write survives to a client that reads a number of bytes at an interval.
    async fn lasts(bytes: usize, every: Duration) -> Duration {
        let (client, server) = duplex(1024);
        let (mut client, mut server) = (client, Reading::new(server));
        let began = Instant::now();
        let reads = async {
            let mut to = vec![0; bytes];
            loop {
                tokio::time::sleep(every).await;
                client.read_exact(&mut to).await.unwrap();
            }
        };
        let written = async {
            for _ in 0..1024 {
                server.write_all(&[7; 1024]).await?;
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            () = reads => unreachable!("it does not end"),
            written = written => {
                let timed_out = written.is_err_and(|error| error.kind() == ErrorKind::TimedOut);
                if timed_out { began.elapsed() } else { Duration::MAX }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_do_not_read_are_disconnected() {
        let second = Duration::from_secs(1);
        assert_eq!(lasts(1, 3600 * second).await, BLOCKED);
        // A byte now and then does not count: nearly all of each second is used up.
        let drip = lasts(1, second).await;
        assert!(drip >= BLOCKED && drip < BLOCKED + second / 10, "{drip:?}");
        // At the rate the connection lasts, and a little below it does not.
        assert_eq!(lasts(RATE as usize / 4, second / 4).await, Duration::MAX);
        assert!(lasts(RATE as usize / 5, second / 4).await < 60 * second);
    }
}
