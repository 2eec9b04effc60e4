//! Channels with flow control over a carrier that has none: one ordered, reliable stream, such as a
//! pipe, a TCP connection or a Tor circuit; or several that have only one window together, such as WebRTC's data
//! channels.
//!
//! It does no I/O: the owner of the carrier passes it the bytes that arrive, and writes the bytes
//! that it returns.
//!
//! ```text
//! Data      channel u32, length u32, that many bytes      under a credit for the channel
//! Credit    channel u32, 0xffffffff                       one more frame may come on it
//! ```
//!
//! Numbers are big-endian. Channel 0 begins with [`WINDOW`] credits, all others with none: they get
//! them when the receiver starts reading the channel ([`Mux::open`]), and one more each time that
//! it has taken a frame. So a peer can make a node hold at most [`WINDOW`] frames for each channel
//! that the node reads, and one incomplete frame.
//!
//! ```
//! use tidegate::transport::mux::{Mux, MuxError};
//!
//! /// After something arrived, or the node called `open` or `send`, or the carrier is free again.
//! fn step(mux: &mut Mux, arrived: &[u8], carrier: &mut Vec<u8>) -> Result<(), MuxError> {
//!     mux.receive(arrived)?;
//!     while let Some((channel, frame)) = mux.next_frame() {
//!         println!("Input::Frame on {channel}: {} bytes", frame.len());
//!     }
//!     // One write at a time: the next only when the carrier has taken this one.
//!     if let Some(bytes) = mux.next_write() {
//!         carrier.extend_from_slice(&bytes);
//!     }
//!     while let Some(channel) = mux.next_writable() {
//!         println!("Input::Writable on {channel}");
//!     }
//!     Ok(())
//! }
//! # let (mut a, mut b, mut wire) = (Mux::new(), Mux::new(), Vec::new());
//! # assert!(a.send(0, tidegate_proto::wire::Frame::from(bytes::Bytes::from_static(b"tide"))));
//! # step(&mut a, &[], &mut wire)?;
//! # b.receive(&wire)?;
//! # assert!(b.has_frame());
//! # Ok::<_, MuxError>(())
//! ```
//!
//! With a stream for each channel, the messages of a channel in both directions go by its own
//! ([`Mux::receive_on`], [`Mux::next_write_on`]): what one stream lost holds up no other channel.
//!
//! To end a connection: go on while channel 0 has something to send ([`Mux::has_sent`]) and for a second at most,
//! reading all the while, since credits arrive too; then close the carrier's sending side, and the rest.
//!
//! # Not guaranteed
//!
//! Secrecy, or that a stuck carrier blocks only one channel: credits keep a slow *reader* of one
//! channel from blocking the others, but there is only one stream.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf as _, Bytes, BytesMut};
use tidegate_proto::Kind;
use tidegate_proto::wire::{Frame, MAX_FRAME};

/// Frames in transit on one channel: one on its way, and one to be taken.
pub const WINDOW: usize = 2;
/// The size of a header: channel number and length.
const HEAD: usize = 8;
/// In place of a length: the message is a credit.
const CREDIT: u32 = u32::MAX;
/// The largest number of channels on one connection.
const CHANNELS: usize = Kind::most_instances() as usize;

/// A violation by the peer. The connection must be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// A frame of more than [`MAX_FRAME`] bytes.
    #[error("a frame larger than any may be")]
    TooLarge,
    /// A frame for which there was no credit.
    #[error("a frame without a credit for its channel")]
    NoCredit,
    /// More credits than a channel may have, or credits for more channels than there can be.
    #[error("more credits than there can be")]
    Credits,
    /// A message on the stream of another channel.
    #[error("a message for another channel than its stream's")]
    WrongStream,
}

/// A stream of the carrier: that of a channel, or the only one.
type Stream = Option<u32>;

/// One end of a connection.
#[derive(Debug)]
pub struct Mux {
    /// The bytes of the next, incomplete message of each stream.
    arrived: BTreeMap<Stream, BytesMut>,
    /// Outstanding credits of the peer, for each channel being read.
    granted: BTreeMap<u32, usize>,
    received: VecDeque<(u32, Frame)>,
    /// This end's credits.
    credits: BTreeMap<u32, usize>,
    /// Frames waiting to leave, one for each channel, and the channel that is next.
    waiting: BTreeMap<u32, Frame>,
    last: u32,
    /// Channels that the peer is to get a credit for.
    owed: VecDeque<u32>,
    writable: VecDeque<u32>,
}

impl Default for Mux {
    fn default() -> Self {
        Self::new()
    }
}

impl Mux {
    /// One end of a new connection: channel 0 is being read.
    pub fn new() -> Self {
        Self {
            arrived: BTreeMap::new(),
            granted: [(0, WINDOW)].into(),
            received: VecDeque::new(),
            credits: [(0, WINDOW)].into(),
            waiting: BTreeMap::new(),
            last: 0,
            owed: VecDeque::new(),
            writable: VecDeque::new(),
        }
    }

    /// Starts reading a channel.
    pub fn open(&mut self, channel: u32) {
        if let std::collections::btree_map::Entry::Vacant(new) = self.granted.entry(channel) {
            new.insert(0);
            self.owed.extend([channel; WINDOW]);
        }
    }

    /// Queues a frame for a channel, which must be writable. Returns `false` and drops the frame if
    /// it is larger than [`MAX_FRAME`], since the peer would end the connection for it: end it here, for
    /// the channel does not become writable again.
    pub fn send(&mut self, channel: u32, frame: Frame) -> bool {
        let fits = frame.len() <= MAX_FRAME;
        if fits {
            self.waiting.insert(channel, frame);
        }
        fits
    }

    /// Takes bytes that have arrived on the only stream.
    ///
    /// # Errors
    ///
    /// If the peer violates the framing; all further bytes are meaningless then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), MuxError> {
        self.take(None, bytes)
    }

    /// Takes bytes that have arrived on the stream of a channel.
    ///
    /// # Errors
    ///
    /// As [`Mux::receive`].
    pub fn receive_on(&mut self, channel: u32, bytes: &[u8]) -> Result<(), MuxError> {
        self.take(Some(channel), bytes)
    }

    /// Keeps only what is incomplete: an idle stream has no buffer.
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), MuxError> {
        let Some(mut arrived) = self.arrived.remove(&stream) else {
            let mut rest = bytes;
            self.take_messages(stream, &mut rest)?;
            if !rest.is_empty() {
                self.arrived.insert(stream, rest.into());
            }
            return Ok(());
        };
        arrived.extend_from_slice(bytes);
        let mut rest = &arrived[..];
        self.take_messages(stream, &mut rest)?;
        let taken = arrived.len() - rest.len();
        arrived.advance(taken);
        if !arrived.is_empty() {
            self.arrived.insert(stream, arrived);
        }
        Ok(())
    }

    /// Takes the complete messages off the front.
    fn take_messages(&mut self, stream: Stream, arrived: &mut &[u8]) -> Result<(), MuxError> {
        while let Some((channel, length)) = head(arrived) {
            if stream.is_some_and(|of| of != channel) {
                return Err(MuxError::WrongStream);
            }
            if length == CREDIT {
                arrived.advance(HEAD);
                self.credited(channel)?;
                continue;
            }
            let length = length as usize;
            if length > MAX_FRAME {
                return Err(MuxError::TooLarge);
            }
            // Checked before the frame is complete: without a credit none of it is kept. R19.2.3
            let granted = self.granted.get_mut(&channel).filter(|left| **left > 0);
            let granted = granted.ok_or(MuxError::NoCredit)?;
            if arrived.len() < HEAD + length {
                return Ok(());
            }
            *granted -= 1;
            arrived.advance(HEAD);
            // A copy, since the frame may be kept for longer than the bytes that arrived with it.
            let frame = Bytes::copy_from_slice(&arrived[..length]);
            arrived.advance(length);
            self.received.push_back((channel, frame.into()));
        }
        Ok(())
    }

    fn credited(&mut self, channel: u32) -> Result<(), MuxError> {
        if !self.credits.contains_key(&channel) && self.credits.len() >= CHANNELS {
            return Err(MuxError::Credits);
        }
        let credits = self.credits.entry(channel).or_default();
        if *credits >= WINDOW {
            return Err(MuxError::Credits);
        }
        *credits += 1;
        Ok(())
    }

    /// Whether a frame has arrived that was not taken. To look first, where taking one depends on room elsewhere.
    pub fn has_frame(&self) -> bool {
        !self.received.is_empty()
    }

    /// The next frame that has arrived. Taking it lets the peer send another on its channel.
    pub fn next_frame(&mut self) -> Option<(u32, Frame)> {
        let (channel, frame) = self.received.pop_front()?;
        self.owed.push_back(channel);
        Some((channel, frame))
    }

    /// The bytes to write next. The carrier must take all of them before it asks again, so that at
    /// most one frame is in front of the next. `None` if nothing may leave.
    pub fn next_write(&mut self) -> Option<Bytes> {
        self.next_write_on().map(|(_, bytes)| bytes)
    }

    /// The bytes to write next, and the channel to whose stream. All of them must be taken before it asks again.
    pub fn next_write_on(&mut self) -> Option<(u32, Bytes)> {
        if let Some(channel) = self.owed.pop_front() {
            // Granted only when the credit leaves, so that a peer that reads nothing gets no more.
            *self.granted.entry(channel).or_default() += 1;
            return Some((channel, message(channel, CREDIT, &[])));
        }
        // Control first, then the others in turn.
        let has_credit = |channel: &u32| self.credits.get(channel).is_some_and(|left| *left > 0);
        let control = Some(0).filter(|control| self.waiting.contains_key(control));
        let after = self.waiting.range(self.last.saturating_add(1)..).map(|(channel, _)| *channel);
        let before = self.waiting.range(..=self.last).map(|(channel, _)| *channel);
        let channel = control.into_iter().chain(after).chain(before).find(has_credit)?;
        let frame = self.waiting.remove(&channel)?;
        if let Some(left) = self.credits.get_mut(&channel) {
            *left -= 1;
        }
        self.last = channel;
        self.writable.push_back(channel);
        Some((channel, message(channel, frame.len() as u32, &frame.to_bytes())))
    }

    /// The next channel whose frame has been passed to the carrier, and that can take another.
    pub fn next_writable(&mut self) -> Option<u32> {
        self.writable.pop_front()
    }

    /// Whether a channel has no frame waiting to leave: the last one was given to the carrier, which may not have
    /// written it yet.
    pub fn has_sent(&self, channel: u32) -> bool {
        !self.waiting.contains_key(&channel)
    }
}

/// The header of the next message: channel and length.
fn head(arrived: &[u8]) -> Option<(u32, u32)> {
    let (channel, rest) = arrived.split_first_chunk()?;
    let (length, _) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*channel), u32::from_be_bytes(*length)))
}

fn message(channel: u32, length: u32, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD + body.len());
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(n: u8, size: usize) -> Frame {
        Bytes::from(vec![n; size]).into()
    }

    /// Carries all bytes from one end to the other.
    fn carry(from: &mut Mux, to: &mut Mux) -> Result<(), MuxError> {
        while let Some(bytes) = from.next_write() {
            to.receive(&bytes)?;
        }
        Ok(())
    }

    #[test]
    fn a_channel_that_is_not_read_holds_up_no_other() {
        let (mut a, mut b) = (Mux::new(), Mux::new());
        a.send(1, frame(1, 10));
        a.send(16, frame(16, 10));
        b.open(16);
        carry(&mut b, &mut a).unwrap();
        for n in 0..5 {
            a.send(0, frame(n, 10));
            carry(&mut a, &mut b).unwrap();
            if n < WINDOW as u8 {
                assert_eq!(a.next_writable(), Some(0));
            }
            if n == 0 {
                assert_eq!(a.next_writable(), Some(16));
            }
        }
        // Channel 1 was never opened, and two frames of channel 0 were not taken.
        assert_eq!((a.has_sent(1), a.has_sent(0), a.has_sent(16)), (false, false, true));
        let taken = std::iter::from_fn(|| b.next_frame()).map(|(channel, _)| channel);
        assert_eq!(taken.collect::<Vec<_>>(), [0, 16, 0]);
        carry(&mut b, &mut a).unwrap();
        carry(&mut a, &mut b).unwrap();
        assert!(a.has_sent(0) && !a.has_sent(1));
    }

    /// R19.2.2, R19.2.3
    #[test]
    fn protocol_errors_are_detected() {
        let data = |channel, size: usize| message(channel, size as u32, &vec![0; size]);
        let receives = |messages: &[Bytes]| {
            let mut mux = Mux::new();
            messages.iter().try_for_each(|message| mux.receive(message))
        };
        assert_eq!(receives(&[data(0, MAX_FRAME), data(0, 0)]), Ok(()));
        assert_eq!(receives(&[data(0, 1), data(0, 1), data(0, 1)]), Err(MuxError::NoCredit));
        assert_eq!(receives(&[data(1, 1)]), Err(MuxError::NoCredit));
        // The header is enough.
        assert_eq!(receives(&[data(1, 9).slice(..HEAD)]), Err(MuxError::NoCredit));
        let large = message(0, MAX_FRAME as u32 + 1, &[]);
        assert_eq!(receives(&[large]), Err(MuxError::TooLarge));
        let credit = |channel| message(channel, CREDIT, &[]);
        assert_eq!(receives(&[credit(1), credit(1)]), Ok(()));
        assert_eq!(receives(&[credit(1), credit(1), credit(1)]), Err(MuxError::Credits));
        assert_eq!(receives(&[credit(0)]), Err(MuxError::Credits));
        let mut streams = Mux::new();
        assert_eq!(streams.receive_on(0, &data(0, 1)), Ok(()));
        assert_eq!(streams.receive_on(0, &credit(1)), Err(MuxError::WrongStream));
        // Channel 0 counts too.
        let credits = |count: usize| (1..count as u32).map(credit).collect::<Vec<_>>();
        assert_eq!(receives(&credits(CHANNELS)), Ok(()));
        assert_eq!(receives(&credits(CHANNELS + 1)), Err(MuxError::Credits));
    }

    /// A message that is incomplete on one stream holds up no other channel.
    #[test]
    fn streams_are_put_together_apart() {
        let (mut a, mut b) = (Mux::new(), Mux::new());
        b.open(16);
        carry(&mut b, &mut a).unwrap();
        a.send(16, frame(16, 1000));
        let (channel, first) = a.next_write_on().unwrap();
        assert_eq!((channel, b.receive_on(16, &first[..500])), (16, Ok(())));
        a.send(0, frame(0, 10));
        let (channel, second) = a.next_write_on().unwrap();
        assert_eq!((channel, b.receive_on(0, &second)), (0, Ok(())));
        assert_eq!(b.next_frame().map(|(channel, _)| channel), Some(0));
        b.receive_on(16, &first[500..]).unwrap();
        assert_eq!(b.next_frame(), Some((16, frame(16, 1000))));
        assert!(b.arrived.is_empty());
    }

    proptest! {
        /// Whatever is sent, opened, split and taken, in any order: frames arrive in order, whole
        /// and once, and never more than there were credits for.
        #[test]
        fn frames_arrive_in_order(
            steps in prop::collection::vec((0..5u8, 0..4u32, 1..40usize), 1..300),
        ) {
            let (mut a, mut b) = (Mux::new(), Mux::new());
            let (mut line, mut back) = (BytesMut::new(), BytesMut::new());
            let mut sent = BTreeMap::<u32, Vec<u8>>::new();
            let mut taken = BTreeMap::<u32, Vec<u8>>::new();
            let mut open = std::collections::BTreeSet::from([0]);
            for (step, channel, size) in steps {
                match step {
                    0 if a.has_sent(channel) => {
                        let count = sent.entry(channel).or_default();
                        count.push(count.len() as u8);
                        a.send(channel, frame(count.len() as u8 - 1, size));
                    }
                    1 => {
                        b.open(channel);
                        open.insert(channel);
                    }
                    2 => {
                        if let Some(bytes) = a.next_write() { line.extend_from_slice(&bytes); }
                        if let Some(bytes) = b.next_write() { back.extend_from_slice(&bytes); }
                    }
                    3 => {
                        let some = line.split_to(size.min(line.len()));
                        prop_assert_eq!(b.receive(&some), Ok(()));
                        let some = back.split_to(size.min(back.len()));
                        prop_assert_eq!(a.receive(&some), Ok(()));
                    }
                    _ => if let Some((channel, frame)) = b.next_frame() {
                        prop_assert!(open.contains(&channel));
                        taken.entry(channel).or_default().push(frame.to_bytes()[0]);
                    },
                }
                prop_assert!(b.received.len() <= open.len() * WINDOW);
            }
            // Deliver everything that is left.
            for _ in 0..1000 {
                if let Some(bytes) = a.next_write() { line.extend_from_slice(&bytes); }
                if let Some(bytes) = b.next_write() { back.extend_from_slice(&bytes); }
                prop_assert_eq!(b.receive(&line.split()), Ok(()));
                prop_assert_eq!(a.receive(&back.split()), Ok(()));
                while let Some((channel, frame)) = b.next_frame() {
                    taken.entry(channel).or_default().push(frame.to_bytes()[0]);
                }
            }
            for channel in open {
                prop_assert_eq!(taken.get(&channel), sent.get(&channel));
            }
        }
    }
}
