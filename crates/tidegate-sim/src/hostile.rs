//! A node that violates the protocol in every way it can.
//!
//! Its core is a real one, so it gets through the hello and takes part. Frames of the core are
//! changed on their way out, in their bytes or in their meaning, and additional frames are sent
//! between them: this module makes both. The world decides when they leave, and under which
//! identity.

mod craft;
mod twist;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidegate_proto::id::{BlockId, PeerId, Salt};
use tidegate_proto::wire::{
    BlockMessage, Body, ControlMessage, Frame, Held, MAX_FRAME, PoolMessage, SignalMessage,
    TipMessage,
};

use tidegate_proto::Kind;

use crate::channels::{kind_of, numbers};
use crate::entropy::Entropy;

/// How many frames of each kind of channel it remembers, and how many headers, blocks and items.
const MEMORY: usize = 16;

/// What a hostile node remembers, as material for its frames.
#[derive(Debug, Default)]
pub(crate) struct Hostile {
    frames: BTreeMap<Kind, VecDeque<Frame>>,
    headers: VecDeque<Bytes>,
    blocks: VecDeque<BlockId>,
    items: VecDeque<Bytes>,
    /// Receivers of signals seen so far.
    peers: VecDeque<PeerId>,
    /// The last salt of a peer, which keys the ids announced to it.
    salt: Option<Salt>,
    names: u64,
}

fn remember<T: PartialEq>(memory: &mut VecDeque<T>, what: T) {
    if !memory.contains(&what) {
        memory.truncate(MEMORY - 1);
        memory.push_front(what);
    }
}

impl Hostile {
    /// A new identity, unknown to all.
    pub(crate) fn new_name(&mut self) -> PeerId {
        self.names += 1;
        let text = format!("hostile {}", self.names);
        PeerId(blake3::derive_key("tidegate simulator name 1", text.as_bytes()))
    }

    /// How many identities it has had.
    pub(crate) fn names(&self) -> u64 {
        self.names
    }

    /// Learns from a frame that it sends or receives.
    pub(crate) fn saw(&mut self, channel: u32, frame: &Frame) {
        let Some(kind) = kind_of(channel) else { return };
        let frames = self.frames.entry(kind).or_default();
        frames.truncate(MEMORY - 1);
        frames.push_front(frame.clone());
        match kind {
            Kind::Control => {
                if let Ok(ControlMessage::Setup(setup)) = frame.decode() {
                    self.salt = Some(setup.salt);
                }
            }
            Kind::Tip => match frame.decode() {
                Ok(TipMessage::Header(header)) => remember(&mut self.headers, header),
                Ok(TipMessage::Held(Held { block, .. })) => remember(&mut self.blocks, block),
                _ => {}
            },
            Kind::Block => match frame.decode() {
                Ok(BlockMessage::Push(compact) | BlockMessage::Compact(compact)) => {
                    remember(&mut self.headers, compact.header);
                }
                Ok(BlockMessage::Fetch(fetch)) => remember(&mut self.blocks, fetch.block),
                _ => {}
            },
            Kind::Pool => match frame.decode() {
                Ok(PoolMessage::Push(Body::Whole(body))) => remember(&mut self.items, body),
                Ok(PoolMessage::Answer(answer)) => {
                    if let Body::Whole(body) = answer.body {
                        remember(&mut self.items, body);
                    }
                }
                _ => {}
            },
            Kind::Signal => match frame.decode() {
                Ok(SignalMessage::Carry(carry)) => remember(&mut self.peers, carry.to),
                Ok(SignalMessage::Deliver(delivery)) => remember(&mut self.peers, delivery.from),
                _ => {}
            },
            _ => {}
        }
    }

    /// Replaces a frame of the core; most often it is left as it is.
    pub(crate) fn instead(
        &mut self,
        channel: u32,
        frame: Frame,
        entropy: &mut Entropy,
    ) -> Vec<(u32, Frame)> {
        self.saw(channel, &frame);
        match entropy.below(256) {
            0..144 => vec![(channel, frame)],
            144..184 => {
                let twisted =
                    kind_of(channel).and_then(|kind| twist::twisted(kind, &frame, entropy));
                vec![(channel, twisted.unwrap_or(frame))]
            }
            184..192 => Vec::new(),
            192..204 => vec![(channel, frame.clone()), (channel, frame)],
            204..228 => vec![(channel, changed(&frame, entropy))],
            228..236 => {
                let all = numbers();
                let other = all[entropy.below(all.len() as u64) as usize];
                vec![(other, frame)]
            }
            236..246 => vec![(channel, self.attack(channel, entropy)), (channel, frame)],
            _ => vec![(channel, self.attack(channel, entropy))],
        }
    }

    /// An additional frame: a message of the channel, an old frame, or no valid message at all.
    pub(crate) fn attack(&self, channel: u32, entropy: &mut Entropy) -> Frame {
        let Some(kind) = kind_of(channel) else { return raw(entropy) };
        match entropy.below(8) {
            0..5 => self.craft(kind, entropy).unwrap_or_default(),
            5 => self.old(kind, entropy),
            6 => changed(&self.old(kind, entropy), entropy),
            _ => raw(entropy),
        }
    }

    fn old(&self, kind: Kind, entropy: &mut Entropy) -> Frame {
        self.frames.get(&kind).and_then(|frames| pick(frames, entropy)).unwrap_or_default()
    }
}

/// One of several things, the newest first.
fn pick<T: Clone>(memory: &VecDeque<T>, entropy: &mut Entropy) -> Option<T> {
    match memory.len() {
        0 => None,
        len => memory.get(entropy.below(len as u64) as usize).cloned(),
    }
}

/// A number close to likely limits and mistakes.
fn number(entropy: &mut Entropy) -> u32 {
    match entropy.below(8) {
        0 => 0,
        1 => 1,
        2 => u32::MAX,
        3 => u32::MAX - entropy.below(16) as u32,
        4 => 1 << entropy.below(32),
        5 => entropy.below(256) as u32,
        6 => entropy.below(1 << 16) as u32,
        _ => entropy.below(1 << 32) as u32,
    }
}

/// A frame with a change: a bit, a word, its end.
fn changed(frame: &Frame, entropy: &mut Entropy) -> Frame {
    let mut bytes = frame.to_bytes().to_vec();
    if bytes.is_empty() {
        return raw(entropy);
    }
    let words = (bytes.len() / 4).max(1) as u64;
    match entropy.below(8) {
        0..2 => {
            let at = entropy.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << entropy.below(8);
        }
        2..5 => {
            let at = entropy.below(words) as usize * 4;
            let word = number(entropy).to_be_bytes();
            bytes.splice(at..bytes.len().min(at + 4), word);
        }
        5 => bytes.truncate(entropy.below(bytes.len() as u64) as usize),
        6 => {
            let at = entropy.below(words) as usize * 4;
            bytes.splice(at..at, number(entropy).to_be_bytes());
        }
        // Larger than the protocol allows, but not than a transport would take.
        _ => bytes.resize(MAX_FRAME + 1 - entropy.below(2) as usize, 0),
    }
    Bytes::from(bytes).into()
}

fn raw(entropy: &mut Entropy) -> Frame {
    let length = entropy.below(64);
    Bytes::from_iter((0..length).map(|_| entropy.byte())).into()
}

#[cfg(test)]
mod tests {
    use tidegate_proto::Message;
    use tidegate_proto::wire::Encode as _;

    use super::*;

    #[test]
    fn hosts_without_random_bytes_are_honest() {
        let mut hostile = Hostile::default();
        let frame = ControlMessage::Ping(7).to_frame().unwrap();
        let mut entropy = Entropy::bytes(&[]);
        assert_eq!(hostile.instead(0, frame.clone(), &mut entropy), [(0, frame)]);
    }

    #[test]
    fn attacks_include_messages_and_garbage_of_every_kind() {
        let mut hostile = Hostile::default();
        let header = TipMessage::Header(Bytes::from_static(b"header")).to_frame().unwrap();
        hostile.saw(1, &header);
        let mut entropy = Entropy::seed(1);
        for channel in numbers() {
            let made = (0..1000).map(|_| hostile.attack(channel, &mut entropy));
            let kind = kind_of(channel).unwrap();
            let good = made.filter(|frame| Message::decode(kind, frame).is_ok());
            let good = good.count();
            assert!((500..950).contains(&good), "{good} of channel {channel}");
        }
    }

    #[test]
    fn hostile_names_are_unique() {
        let mut hostile = Hostile::default();
        assert_ne!(hostile.new_name(), hostile.new_name());
        assert_eq!(hostile.names(), 2);
    }
}
