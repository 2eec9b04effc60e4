//! Channels with a flow control of their own over a carrier that has none: one ordered, reliable stream, as a pipe,
//! a circuit of Tor, a substream of libp2p, or a data channel of WebRTC.
//!
//! It does no I/O: whoever has the carrier gives it the bytes that arrive, and writes what it has to say.
//!
//! ```text
//! Data      channel u32, length u32, that many bytes      under a credit for the channel
//! Credit    channel u32, 0xffffffff                       one more frame may come on it
//! ```
//!
//! Numbers are big-endian. Channel 0 begins with [`WINDOW`] credits, any other with none: they come when the receiver
//! reads the channel ([`Mux::open`]), and one more each time that it has taken a frame. So what a peer can make a
//! node hold is [`WINDOW`] frames for each channel that the node reads, and a frame that is half here.
//!
//! # Not guaranteed
//!
//! Secrecy, or that a carrier which is stuck holds up one channel only: credits keep a *reader* who is slow from
//! holding up others, the stream itself is one.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf as _, Bytes, BytesMut};
use tidegate_proto::Kind;
use tidegate_proto::wire::{Frame, MAX_FRAME};

/// Frames that may be under way on one channel: one on its way, and one to be taken.
pub const WINDOW: usize = 2;
/// Bytes of a channel's number and a length.
const HEAD: usize = 8;
/// In place of a length: a credit.
const CREDIT: u32 = u32::MAX;
/// Channels that one connection has at most.
const CHANNELS: usize = Kind::most_instances() as usize;

/// How a peer breaks the framing of [`Mux`]. The connection is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// A frame of more than [`MAX_FRAME`] bytes.
    #[error("a frame larger than any may be")]
    TooLarge,
    /// A frame for which there was no credit.
    #[error("a frame without a credit for its channel")]
    NoCredit,
    /// More credits than a channel has, or credits for more channels than there are.
    #[error("more credits than there can be")]
    Credits,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Mux {
    /// What has arrived of the next message.
    arrived: BytesMut,
    /// Frames that may still come, for each channel that is read.
    granted: BTreeMap<u32, usize>,
    received: VecDeque<(u32, Frame)>,
    /// Frames that may leave.
    credits: BTreeMap<u32, usize>,
    /// Frames that wait to leave, one for each channel, and whose turn it is.
    waiting: BTreeMap<u32, Frame>,
    last: u32,
    /// Channels for which a credit has to leave.
    owed: VecDeque<u32>,
    writable: VecDeque<u32>,
}

impl Default for Mux {
    fn default() -> Self {
        Self::new()
    }
}

impl Mux {
    /// The end of a new connection: channel 0 is read.
    pub fn new() -> Self {
        Self {
            arrived: BytesMut::new(),
            granted: [(0, WINDOW)].into(),
            received: VecDeque::new(),
            credits: [(0, WINDOW)].into(),
            waiting: BTreeMap::new(),
            last: 0,
            owed: VecDeque::new(),
            writable: VecDeque::new(),
        }
    }

    /// Reads a channel from now on.
    pub fn open(&mut self, channel: u32) {
        if let std::collections::btree_map::Entry::Vacant(new) = self.granted.entry(channel) {
            new.insert(0);
            self.owed.extend([channel; WINDOW]);
        }
    }

    /// Gives a frame for a channel, which must have been writable. One that is too large for any frame is dropped,
    /// as the peer would end the connection for it: `false`.
    pub fn send(&mut self, channel: u32, frame: Frame) -> bool {
        let fits = frame.len() <= MAX_FRAME;
        if fits {
            self.waiting.insert(channel, frame);
        }
        fits
    }

    /// Bytes have arrived.
    ///
    /// # Errors
    ///
    /// When the peer breaks the rules; then nothing that follows means anything.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), MuxError> {
        self.arrived.extend_from_slice(bytes);
        while let Some((channel, length)) = self.head() {
            if length == CREDIT {
                self.arrived.advance(HEAD);
                self.credited(channel)?;
                continue;
            }
            let length = length as usize;
            if length > MAX_FRAME {
                return Err(MuxError::TooLarge);
            }
            // Before the frame is there: what is not paid for is not kept.
            let granted = self.granted.get_mut(&channel).filter(|left| **left > 0);
            let granted = granted.ok_or(MuxError::NoCredit)?;
            if self.arrived.len() < HEAD + length {
                return Ok(());
            }
            *granted -= 1;
            self.arrived.advance(HEAD);
            // A copy: the frame may be kept for longer than the buffer that it arrived in.
            let frame = Bytes::copy_from_slice(&self.arrived[..length]);
            self.arrived.advance(length);
            self.received.push_back((channel, frame.into()));
        }
        Ok(())
    }

    fn head(&self) -> Option<(u32, u32)> {
        let (channel, rest) = self.arrived.split_first_chunk()?;
        let (length, _) = rest.split_first_chunk()?;
        Some((u32::from_be_bytes(*channel), u32::from_be_bytes(*length)))
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

    /// The next frame that arrived. With it the peer may send another on its channel.
    pub fn next_frame(&mut self) -> Option<(u32, Frame)> {
        let (channel, frame) = self.received.pop_front()?;
        self.owed.push_back(channel);
        Some((channel, frame))
    }

    /// What the carrier is to write next, all of it before it asks again: so no more than one frame is in front of the
    /// next. `None` if there is nothing to say, or no credit for what there is.
    pub fn next_write(&mut self) -> Option<Bytes> {
        if let Some(channel) = self.owed.pop_front() {
            // Not before it leaves: a peer that reads nothing is owed no more than it had.
            *self.granted.entry(channel).or_default() += 1;
            return Some(message(channel, CREDIT, &[]));
        }
        // Control first, then each in turn.
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
        Some(message(channel, frame.len() as u32, &frame.to_bytes()))
    }

    /// The next channel whose frame has been given to the carrier: it takes another.
    pub fn next_writable(&mut self) -> Option<u32> {
        self.writable.pop_front()
    }

    /// Whether nothing of a channel waits to leave.
    pub fn has_sent(&self, channel: u32) -> bool {
        !self.waiting.contains_key(&channel)
    }
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

    /// Everything that one end has to say comes to the other.
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
        // The head is enough.
        assert_eq!(receives(&[data(1, 9).slice(..HEAD)]), Err(MuxError::NoCredit));
        let large = message(0, MAX_FRAME as u32 + 1, &[]);
        assert_eq!(receives(&[large]), Err(MuxError::TooLarge));
        let credit = |channel| message(channel, CREDIT, &[]);
        assert_eq!(receives(&[credit(1), credit(1)]), Ok(()));
        assert_eq!(receives(&[credit(1), credit(1), credit(1)]), Err(MuxError::Credits));
        assert_eq!(receives(&[credit(0)]), Err(MuxError::Credits));
        // Channel 0 is one of those that there are.
        let credits = |count: usize| (1..count as u32).map(credit).collect::<Vec<_>>();
        assert_eq!(receives(&credits(CHANNELS)), Ok(()));
        assert_eq!(receives(&credits(CHANNELS + 1)), Err(MuxError::Credits));
    }

    proptest! {
        /// Whatever is sent, opened, cut up and taken when: frames arrive in order, whole and once, and no more of
        /// them wait than there were credits.
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
            // All that may still come comes.
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
