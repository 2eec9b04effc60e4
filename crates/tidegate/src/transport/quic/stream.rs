//! Streams: the channel number at the start, and the frames.

use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream};
use tidegate_proto::wire::{Frame, MAX_FRAME};
use tokio::sync::{Mutex, Semaphore};

use crate::rt;

/// Why a stream has ended.
pub(super) enum StreamError {
    /// The stream or its connection has ended.
    Over,
    /// A violation of the framing.
    Framing,
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            // A channel lasts as long as its connection: frames do not get lost. R4.1.4
            ReadError::Reset(_) => Self::Framing,
            _ => Self::Over,
        }
    }
}

/// Waits for the peer's next stream and its channel's number.
pub(super) async fn accept(quic: &quinn::Connection) -> Result<(u32, RecvStream), StreamError> {
    let mut stream = quic.accept_uni().await.map_err(|_| StreamError::Over)?;
    match read_u32(&mut stream).await {
        Ok(channel) => Ok((channel, stream)),
        Err(error) => {
            let _ = stream.stop(0u32.into());
            Err(error)
        }
    }
}

/// Frames up to this size need no place while incomplete: there is at most one for each channel.
const SMALL: usize = 4 << 10;

/// Reads a frame. A large one waits for a place, if they are counted.
pub(super) async fn read(
    stream: &mut RecvStream,
    places: Option<&Semaphore>,
) -> Result<Bytes, StreamError> {
    let length = read_u32(stream).await? as usize;
    // R4.1.3
    if length > MAX_FRAME {
        return Err(StreamError::Framing);
    }
    let _place = match places.filter(|_| length > SMALL) {
        Some(places) => places.acquire().await.ok(),
        None => None,
    };
    read_bytes(stream, length).await
}

/// How long the write of a frame may make no progress before other frames are written in parallel.
const STUCK: Duration = Duration::from_secs(2);

/// Opens the stream of a channel as soon as the peer allows one more. `None` if the connection has
/// ended.
pub(super) async fn open(quic: &quinn::Connection, channel: u32) -> Option<SendStream> {
    let mut stream = quic.open_uni().await.ok()?;
    // Control goes first.
    stream.set_priority(i32::from(channel == 0)).ok()?;
    // R4.1.1
    stream.write_all(&channel.to_be_bytes()).await.ok()?;
    Some(stream)
}

/// Writes a frame when it has the turn, after the channel number if it is the stream's first.
/// `None` if the peer stopped the stream or the connection has ended.
pub(super) async fn write(
    quic: &quinn::Connection,
    stream: Option<SendStream>,
    channel: u32,
    frame: &Frame,
    turns: Option<&Mutex<()>>,
) -> Option<SendStream> {
    // Before taking the turn: the peer may not allow another stream yet, and reads those that exist
    // in order.
    let mut stream = match stream {
        Some(stream) => stream,
        None => open(quic, channel).await?,
    };
    // R4.1.6
    let mut turn = match turns {
        Some(turns) => Some(turns.lock().await),
        None => None,
    };
    let [head, body, pad] = frame.parts();
    let length = Bytes::copy_from_slice(&(frame.len() as u32).to_be_bytes());
    let mut chunks = [length, head, body, pad];
    let mut left = &mut chunks[..];
    while !left.is_empty() {
        let writing = stream.write_chunks(left);
        let written = match turn {
            None => writing.await,
            Some(_) => match rt::within(STUCK, writing).await {
                Some(written) => written,
                None => {
                    // The peer does not read this channel: let others write.
                    turn = None;
                    continue;
                }
            },
        };
        left = &mut left[written.ok()?.chunks..];
    }
    Some(stream)
}

async fn read_u32(stream: &mut RecvStream) -> Result<u32, StreamError> {
    let mut number = [0; 4];
    match stream.read_exact(&mut number).await {
        Ok(()) => Ok(u32::from_be_bytes(number)),
        Err(ReadExactError::FinishedEarly(0)) => Err(StreamError::Over),
        Err(ReadExactError::FinishedEarly(_)) => Err(StreamError::Framing),
        Err(ReadExactError::ReadError(error)) => Err(error.into()),
    }
}

/// Reads bytes as they arrive, so that memory is allocated for what has arrived, not for what was
/// announced. They are copied, since the received chunks share memory with everything that arrived
/// along with them.
async fn read_bytes(stream: &mut RecvStream, length: usize) -> Result<Bytes, StreamError> {
    let mut frame = Vec::new();
    while frame.len() < length {
        let chunk = stream.read_chunk(length - frame.len(), true).await?;
        // R4.1.4
        let chunk = chunk.ok_or(StreamError::Framing)?;
        // At most the size of the frame at the end.
        if frame.capacity() - frame.len() < chunk.bytes.len() {
            frame.reserve_exact((frame.len() + chunk.bytes.len()).min(length - frame.len()));
        }
        frame.extend_from_slice(&chunk.bytes);
    }
    Ok(frame.into_boxed_slice().into())
}
