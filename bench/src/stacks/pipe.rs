//! Requests and answers on a byte stream.

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{HEAD, head, opening, piece};
use crate::stack::{Doing, Link};

/// A byte stream in both directions.
pub(super) trait Pipe: Send + 'static {
    fn put(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Fills the buffer; `false` at the end of the stream.
    fn fill(&mut self, buffer: &mut [u8]) -> impl Future<Output = Result<bool>> + Send;

    /// Reads `bytes` bytes and drops them.
    fn skip(&mut self, bytes: u64) -> impl Future<Output = Result<()>> + Send;

    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Answers requests until the end of the stream.
pub(super) async fn answer(mut pipe: impl Pipe) -> Result<()> {
    let mut buffer = [0; HEAD];
    while pipe.fill(&mut buffer).await? {
        let Some((body, answer)) = head(&buffer) else { break };
        pipe.skip(body).await?;
        put_all(&mut pipe, answer.into()).await?;
    }
    Ok(())
}

async fn put_all(pipe: &mut impl Pipe, mut left: u64) -> Result<()> {
    while let Some(bytes) = piece(&mut left) {
        pipe.put(bytes).await?;
    }
    Ok(())
}

/// A connection with one stream.
pub(super) struct Piped<P>(pub(super) P);

impl<P: Pipe> Link for Piped<P> {
    fn ask(&mut self, body: u64, answer: u32) -> Doing<'_, ()> {
        Box::pin(async move {
            let (first, left) = opening(body, answer);
            self.0.put(first).await?;
            put_all(&mut self.0, left).await?;
            // The last byte separately, to check that it arrives.
            ensure!(answer > 0, "an answer has a byte at least");
            self.0.skip(u64::from(answer) - 1).await?;
            ensure!(self.0.fill(&mut [0]).await?, "the stream is over");
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(self.0.close())
    }
}
