//! A node that breaks the rules in every way it can.
//!
//! Its core is a real one, so it gets through the hello and takes part. What the core sends is
//! changed on its way out, in its bytes or in what it means, and frames of its own making go between:
//! this module makes them. The world decides when they leave and under which name.

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

/// How many frames of a kind of channel it remembers; and headers, blocks and items.
const MEMORY: usize = 16;

/// What a hostile node remembers, to make its frames from.
#[derive(Debug, Default)]
pub(crate) struct Hostile {
    frames: BTreeMap<Kind, VecDeque<Frame>>,
    headers: VecDeque<Bytes>,
    blocks: VecDeque<BlockId>,
    items: VecDeque<Bytes>,
    /// Receivers of signals that it has seen.
    peers: VecDeque<PeerId>,
    /// The salt that announcements to a peer are keyed with: the last one given.
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
    /// An identity that nobody has heard of.
    pub(crate) fn new_name(&mut self) -> PeerId {
        self.names += 1;
        let text = format!("hostile {}", self.names);
        PeerId(blake3::derive_key("tidegate simulator name 1", text.as_bytes()))
    }

    /// How many identities it has used.
    pub(crate) fn names(&self) -> u64 {
        self.names
    }

    /// It sends or gets a frame, and may learn from it.
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

    /// What leaves instead of a frame of the core: most often the frame itself.
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

    /// A frame of its own making: a message of the channel, something old, or no message at all.
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

/// One of several remembered things; the newest is the most likely.
fn pick<T: Clone>(memory: &VecDeque<T>, entropy: &mut Entropy) -> Option<T> {
    match memory.len() {
        0 => None,
        len => memory.get(entropy.below(len as u64) as usize).cloned(),
    }
}

/// A number where limits and mistakes are likely.
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

/// A frame in which something is different: a bit, a word, its end.
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
        // More than the protocol allows, and than a transport would deliver.
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
