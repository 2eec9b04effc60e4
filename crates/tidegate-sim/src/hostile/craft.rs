//! Well-formed messages with arbitrary content.

use std::hash::Hasher as _;

use bytes::Bytes;
use siphasher::sip::SipHasher24;
use tidegate_ledger::Header;
use tidegate_proto::id::{BlockId, Digest, ItemId, NetworkId, PeerId, Salt, Signature};
use tidegate_proto::rules::Rules as _;
use tidegate_proto::wire::{
    Address, Announcement, Answer, Binding, BlockBody, BlockFetch, BlockHeader, BlockIds,
    BlockItem, BlockMessage, BlockPart, BlockWant, Body, BodyGroup, Carry, ChoiceAsked, Chunked,
    Compact, ControlMessage, Delivery, Encode as _, Frame, Goodbye, Grant, Group, Held, Hello,
    ItemBody, MAX_SIGNAL, NotHere, PeerRecord, PeersMessage, PoolMessage, Prefilled, Raise,
    Refusal, Report, Return, RpcBlock, RpcError, RpcFailed, RpcHeaders, RpcMessage, RpcRequest,
    RpcWant, SealingKey, Settled, Setup, SignalFate, SignalMessage, TipMessage, TipSlot,
    WantHeaders,
};

use super::{Hostile, Kind, number, pick};
use crate::entropy::Entropy;

const REPORTS: [Report; 6] = [
    Report::First,
    Report::Duplicate,
    Report::Late,
    Report::Surplus,
    Report::Ignored,
    Report::Rejected,
];
const PARTS: [BlockPart; 4] =
    [BlockPart::Header, BlockPart::Compact, BlockPart::Ids, BlockPart::Items];
const POOLS: [&str; 3] = ["transfers", "works", "others"];

pub(super) const FATES: [SignalFate; 5] = [
    SignalFate::Taken,
    SignalFate::NotConnected,
    SignalFate::Unwanted,
    SignalFate::Busy,
    SignalFate::Unreadable,
];

fn pool_name(entropy: &mut Entropy) -> String {
    POOLS[entropy.below(3) as usize].to_owned()
}

/// Several values, usually few.
fn some<T>(entropy: &mut Entropy, mut one: impl FnMut(&mut Entropy) -> T) -> Vec<T> {
    let count = match entropy.below(16) {
        0..10 => 1,
        10 => 0,
        11..14 => 2 + entropy.below(4),
        14 => 64,
        _ => 256,
    };
    (0..count).map(|_| one(entropy)).collect()
}

/// The number of a recent message: numbers begin at 0.
fn recent(entropy: &mut Entropy) -> u32 {
    match entropy.below(8) {
        7 => number(entropy),
        _ => entropy.below(32) as u32,
    }
}

impl Hostile {
    /// A message of this kind of channel; `None` if it came out larger than a frame.
    pub(super) fn craft(&self, kind: Kind, entropy: &mut Entropy) -> Option<Frame> {
        let frame = match kind {
            Kind::Control => control(entropy).to_frame(),
            Kind::Tip => self.tip(entropy).to_frame(),
            Kind::Block => self.block(entropy).to_frame(),
            Kind::Pool => self.pool(entropy).to_frame(),
            Kind::Peers => peers(entropy).to_frame(),
            Kind::Rpc => self.rpc(entropy).to_frame(),
            Kind::Signal => self.signal(entropy).to_frame(),
            _ => return None,
        };
        frame.ok()
    }

    fn tip(&self, entropy: &mut Entropy) -> TipMessage {
        match entropy.below(4) {
            0 => TipMessage::Return([TipSlot::Header, TipSlot::Held][entropy.below(2) as usize]),
            1 => TipMessage::Header(self.header(entropy)),
            _ => TipMessage::Held(Held {
                block: self.block_id(entropy),
                height: match entropy.below(4) {
                    0 => u64::MAX,
                    1 => u64::from(number(entropy)),
                    _ => entropy.below(16),
                },
            }),
        }
    }

    fn block(&self, entropy: &mut Entropy) -> BlockMessage {
        let block = self.block_id(entropy);
        let part = PARTS[entropy.below(4) as usize];
        match entropy.below(12) {
            0 => BlockMessage::Return(some(entropy, returned)),
            1 => BlockMessage::Push(self.compact(entropy)),
            2..5 => {
                let want = match part {
                    BlockPart::Header => BlockWant::Header,
                    BlockPart::Compact => BlockWant::Compact,
                    BlockPart::Ids => BlockWant::Ids(recent(entropy)),
                    BlockPart::Items => {
                        let mut indices = some(entropy, recent);
                        if entropy.below(4) < 3 {
                            indices.sort_unstable();
                            indices.dedup();
                        }
                        BlockWant::Items(indices)
                    }
                };
                BlockMessage::Fetch(BlockFetch { block, want })
            }
            5 => BlockMessage::Header(self.header(entropy)),
            6 => BlockMessage::Compact(self.compact(entropy)),
            7 => {
                let (first, ids) = (recent(entropy), some(entropy, |e| self.item_id(e)));
                let count = ids.len() as u32;
                let groups = vec![Group { pool: pool_name(entropy), count }];
                BlockMessage::Ids(BlockIds { block, first, groups, ids })
            }
            8 | 9 => BlockMessage::Item(BlockItem {
                block,
                index: recent(entropy),
                pool: pool_name(entropy),
                id: self.item_id(entropy),
                proof: (0..entropy.below(4)).map(|_| Digest([entropy.byte(); 32])).collect(),
                body: self.body(entropy),
            }),
            10 => BlockMessage::Chunk(self.item(entropy)),
            _ => BlockMessage::NotHere(NotHere { block, part }),
        }
    }

    fn rpc(&self, entropy: &mut Entropy) -> RpcMessage {
        let id = recent(entropy);
        match entropy.below(10) {
            0..4 => {
                let want = match entropy.below(2) {
                    0 => RpcWant::Block(self.block_id(entropy)),
                    _ => RpcWant::Headers(WantHeaders {
                        locator: some(entropy, |e| self.block_id(e)).into_iter().take(32).collect(),
                        most: number(entropy),
                    }),
                };
                RpcMessage::Request(RpcRequest { id, want })
            }
            4 => RpcMessage::Cancel(id),
            5 => {
                let headers = some(entropy, |e| BlockHeader(self.header(e)));
                RpcMessage::Headers(RpcHeaders { id, headers })
            }
            6 | 7 => RpcMessage::Block(RpcBlock { id, body: self.block_body(entropy) }),
            8 => RpcMessage::Chunk(self.item(entropy)),
            _ => {
                let errors = [RpcError::Unknown, RpcError::Busy, RpcError::Cancelled];
                let error = errors[entropy.below(3) as usize];
                RpcMessage::Failed(RpcFailed { id, error })
            }
        }
    }

    /// Items of a block, or the beginning of a large body.
    fn block_body(&self, entropy: &mut Entropy) -> Body {
        let group = |entropy: &mut Entropy| BodyGroup {
            pool: pool_name(entropy),
            items: some(entropy, |e| ItemBody(self.item(e))),
        };
        let body = BlockBody { groups: some(entropy, group).into_iter().take(8).collect() };
        match body.to_bytes() {
            Ok(bytes) if entropy.below(4) < 3 && bytes.len() <= 60_000 => Body::Whole(bytes),
            _ => self.body(entropy),
        }
    }

    fn pool(&self, entropy: &mut Entropy) -> PoolMessage {
        match entropy.below(12) {
            0 | 1 => PoolMessage::Return(some(entropy, returned)),
            2..5 => PoolMessage::Announce(some(entropy, |e| self.announcement(e))),
            5 | 6 => PoolMessage::Push(self.body(entropy)),
            7 | 8 => PoolMessage::Fetch(some(entropy, recent).into_iter().take(64).collect()),
            9 => {
                let (number, body) = (recent(entropy), self.body(entropy));
                PoolMessage::Answer(Answer { number, body })
            }
            10 => PoolMessage::Chunk(self.item(entropy)),
            _ => PoolMessage::Gone(some(entropy, recent).into_iter().take(64).collect()),
        }
    }

    /// An item that it knows, sometimes with another nonce, or one that does not exist.
    fn announcement(&self, entropy: &mut Entropy) -> Announcement {
        let id = match (entropy.below(4), self.salt) {
            (0..3, Some(salt)) => {
                let mut hasher = SipHasher24::new_with_key(&salt.0);
                hasher.write(&self.item_id(entropy).0);
                hasher.finish()
            }
            _ => u64::from(entropy.byte()),
        };
        // Usually a size class that the pool allows: others end the connection.
        let class = if entropy.below(8) < 7 { entropy.below(14) as u32 } else { 255 };
        let priority = u32::from(entropy.byte());
        Announcement { id, facts: class << 24 | priority << 16 | entropy.below(256) as u32 }
    }

    fn compact(&self, entropy: &mut Entropy) -> Compact {
        let count = entropy.below(5) as u32;
        let group = |entropy: &mut Entropy| {
            let pool = pool_name(entropy);
            Group { pool, count: if entropy.below(4) < 3 { count } else { number(entropy) } }
        };
        let prefilled = |entropy: &mut Entropy| {
            let index = recent(entropy);
            Prefilled { index, body: self.item(entropy) }
        };
        Compact {
            header: self.header(entropy),
            salt: self.salt.filter(|_| entropy.below(4) < 3).unwrap_or(Salt([0; 16])),
            groups: some(entropy, group).into_iter().take(8).collect(),
            short_ids: (0..count * 6).map(|_| entropy.byte()).collect(),
            prefilled: some(entropy, prefilled).into_iter().take(3).collect(),
        }
    }

    /// A header that it knows, one with a changed field, or any bytes.
    fn header(&self, entropy: &mut Entropy) -> Bytes {
        let known = pick(&self.headers, entropy);
        let parsed = known.as_deref().and_then(Header::from_bytes);
        match (entropy.below(8), parsed) {
            (0..4, _) => known.unwrap_or_default(),
            (4..7, Some(mut header)) => {
                match entropy.below(7) {
                    0 => header.parent = header.id(),
                    1 => header.height = u64::MAX,
                    2 => header.height += 1,
                    3 => header.slot = u64::from(number(entropy)),
                    4 => header.items = number(entropy),
                    5 => header.producer = [entropy.byte(); 32],
                    _ => header.signature[0] ^= 1,
                }
                header.to_bytes()
            }
            _ => vec![entropy.byte(); entropy.below(256) as usize].into(),
        }
    }

    fn block_id(&self, entropy: &mut Entropy) -> BlockId {
        match entropy.below(8) {
            0..3 => pick(&self.blocks, entropy),
            3..7 => pick(&self.headers, entropy)
                .and_then(|header| Header::from_bytes(&header))
                .map(|header| header.id()),
            _ => None,
        }
        .unwrap_or_else(|| BlockId([entropy.byte(); 32]))
    }

    fn signal(&self, entropy: &mut Entropy) -> SignalMessage {
        let peer = pick(&self.peers, entropy).unwrap_or_else(|| PeerId([entropy.byte(); 32]));
        let payload = vec![entropy.byte(); entropy.below(MAX_SIGNAL as u64 + 1) as usize].into();
        let number = recent(entropy) / 4;
        let settled = Settled { number, fate: FATES[entropy.below(5) as usize] };
        match entropy.below(6) {
            0 => SignalMessage::Carry(Carry { to: peer, payload }),
            1 => SignalMessage::Deliver(Delivery { from: peer, payload }),
            2 => SignalMessage::Carried(settled),
            3 => SignalMessage::Delivered(settled),
            4 => SignalMessage::Ask(ChoiceAsked { peer: (entropy.below(2) == 0).then_some(peer) }),
            _ => SignalMessage::Choice(some(entropy, record).into_iter().take(8).collect()),
        }
    }

    fn item(&self, entropy: &mut Entropy) -> Bytes {
        match entropy.below(4) {
            0..2 => pick(&self.items, entropy).unwrap_or_default(),
            2 => {
                let mut item = pick(&self.items, entropy).unwrap_or_default().to_vec();
                if !item.is_empty() {
                    let at = entropy.below(item.len() as u64) as usize;
                    item[at] ^= 1 << entropy.below(8);
                }
                item.into()
            }
            _ => vec![entropy.byte(); entropy.below(1024) as usize].into(),
        }
    }

    fn item_id(&self, entropy: &mut Entropy) -> ItemId {
        match pick(&self.items, entropy) {
            Some(item) => tidegate_ledger::LedgerRules.item_id(POOLS[0], &item),
            None => ItemId([entropy.byte(); 32]),
        }
    }

    fn body(&self, entropy: &mut Entropy) -> Body {
        match entropy.below(8) {
            0..7 => Body::Whole(self.item(entropy)),
            _ => {
                let chunk = self.item(entropy);
                let root = Digest(blake3::hash(&chunk).into());
                let size = if entropy.below(2) == 0 { number(entropy) } else { 65_536 };
                Body::Chunked(Chunked { size, root, chunk })
            }
        }
    }
}

fn returned(entropy: &mut Entropy) -> Return {
    Return { number: recent(entropy), report: REPORTS[entropy.below(6) as usize] }
}

fn grant(entropy: &mut Entropy) -> Grant {
    Grant {
        announcements: number(entropy),
        bodies: number(entropy),
        body_bytes: number(entropy),
        requests: number(entropy),
        fetch_bytes: number(entropy),
    }
}

/// A record with an invalid signature.
fn record(entropy: &mut Entropy) -> PeerRecord {
    let address = |entropy: &mut Entropy| Address(vec![entropy.byte(); 8].into());
    PeerRecord {
        peer: PeerId([entropy.byte(); 32]),
        sequence: u64::from(number(entropy)),
        addresses: some(entropy, address).into_iter().take(16).collect(),
        sealing: (entropy.below(2) == 0).then(|| SealingKey([entropy.byte(); 32])),
        signature: Signature([entropy.byte(); 64]),
    }
}

fn peers(entropy: &mut Entropy) -> PeersMessage {
    match entropy.below(6) {
        2 => PeersMessage::Moved(record(entropy)),
        3 => PeersMessage::Reach(Address(vec![entropy.byte(); 8].into())),
        4 => PeersMessage::Reached(entropy.below(2) == 0),
        0 => PeersMessage::Records(some(entropy, record).into_iter().take(64).collect()),
        _ => PeersMessage::Ask,
    }
}

fn control(entropy: &mut Entropy) -> ControlMessage {
    match entropy.below(8) {
        0 => ControlMessage::Hello(Hello {
            versions: some(entropy, |e| e.below(4) as u32).into_iter().take(8).collect(),
            network: NetworkId([entropy.byte(); 32]),
            client: "hostile".to_owned(),
            instance: entropy.below(256),
            binding: Binding::Exporter([entropy.byte(); 32]),
        }),
        1 => ControlMessage::Setup(Setup {
            offers: Vec::new(),
            roles: number(entropy),
            record: None,
            observed: Address(Bytes::new()),
            salt: Salt([entropy.byte(); 16]),
        }),
        2 => ControlMessage::Refuse(match entropy.below(4) {
            0 => Refusal::Duplicate,
            1 => Refusal::Full(some(entropy, record).into_iter().take(8).collect()),
            2 => Refusal::Busy(number(entropy)),
            _ => Refusal::Banned(number(entropy)),
        }),
        3 => ControlMessage::Ping(entropy.below(256)),
        4 => ControlMessage::Pong(entropy.below(256)),
        5 | 6 => {
            let instance = 16 + entropy.below(4) as u32;
            ControlMessage::Raise(Raise { instance, grant: grant(entropy) })
        }
        _ => ControlMessage::Goodbye(match entropy.below(4) {
            0 => Goodbye::Duplicate,
            1 => Goodbye::Internal,
            2 => Goodbye::Requested,
            _ => Goodbye::Violation(number(entropy)),
        }),
    }
}
