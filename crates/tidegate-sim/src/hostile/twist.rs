//! Real messages of an honest core with a changed meaning: the receiver waits for each of them at
//! that moment, but its content is false.

use bytes::Bytes;
use tidegate_ledger::Header;
use tidegate_proto::id::{BlockId, Digest, PeerId};
use tidegate_proto::wire::{
    Answer, BlockBody, BlockMessage, BlockPart, Body, Carry, Chunked, Compact, Delivery,
    Encode as _, Frame, Group, Held, MAX_SIGNAL, NotHere, PeerRecord, PeersMessage, PoolMessage,
    RpcBlock, RpcFailed, RpcMessage, SignalMessage, TipMessage,
};

use super::Kind;
use super::craft::FATES;
use crate::entropy::Entropy;

/// Replaces a real frame, if there is a way to change it.
pub(super) fn twisted(kind: Kind, frame: &Frame, entropy: &mut Entropy) -> Option<Frame> {
    match kind {
        Kind::Block => block(frame.decode().ok()?, entropy)?.to_frame().ok(),
        Kind::Pool => pool(frame.decode().ok()?, entropy)?.to_frame().ok(),
        Kind::Tip => tip(frame.decode().ok()?, entropy)?.to_frame().ok(),
        Kind::Rpc => rpc(frame.decode().ok()?, entropy)?.to_frame().ok(),
        Kind::Peers => peers(frame.decode().ok()?, entropy)?.to_frame().ok(),
        Kind::Signal => Some(signal(frame.decode().ok()?, entropy)).and_then(|m| m.to_frame().ok()),
        _ => None,
    }
}

fn block(message: BlockMessage, entropy: &mut Entropy) -> Option<BlockMessage> {
    Some(match message {
        BlockMessage::Push(real) => BlockMessage::Push(compact(real, entropy)),
        BlockMessage::Compact(real) => match entropy.below(4) {
            0 => not_here(Header::from_bytes(&real.header)?.id(), BlockPart::Compact),
            _ => BlockMessage::Compact(compact(real, entropy)),
        },
        BlockMessage::Ids(mut ids) => {
            match entropy.below(4) {
                0 => return Some(not_here(ids.block, BlockPart::Ids)),
                1 => regroup(&mut ids.groups, entropy),
                2 => ids.ids.reverse(),
                _ => ids.ids.iter_mut().for_each(|id| id.0[31] ^= 1),
            }
            BlockMessage::Ids(ids)
        }
        BlockMessage::Item(mut item) => {
            match entropy.below(5) {
                0 => return Some(not_here(item.block, BlockPart::Items)),
                1 => item.pool = other(&item.pool).to_owned(),
                2 => item.index ^= 1,
                3 => item.proof.reverse(),
                _ => item.body = other_body(item.body, entropy),
            }
            BlockMessage::Item(item)
        }
        BlockMessage::Header(header) => BlockMessage::Header(orphan(&header, entropy)?),
        BlockMessage::Chunk(real) => BlockMessage::Chunk(chunk(&real, entropy)),
        _ => return None,
    })
}

fn not_here(block: BlockId, part: BlockPart) -> BlockMessage {
    BlockMessage::NotHere(NotHere { block, part })
}

fn compact(mut compact: Compact, entropy: &mut Entropy) -> Compact {
    match entropy.below(6) {
        0..3 => regroup(&mut compact.groups, entropy),
        3 => compact.prefilled.clear(),
        4 => {
            let mut ids = compact.short_ids.to_vec();
            ids.reverse();
            compact.short_ids = ids.into();
        }
        _ => {
            if let Some(header) = orphan(&compact.header, entropy) {
                compact.header = header;
            }
        }
    }
    compact
}

/// As many items, but of other pools.
fn regroup(groups: &mut Vec<Group>, entropy: &mut Entropy) {
    let count = groups.iter().map(|group| group.count).sum::<u32>();
    match entropy.below(4) {
        0 => groups.iter_mut().for_each(|group| group.pool = other(&group.pool).to_owned()),
        1 => *groups = vec![Group { pool: "transfers".to_owned(), count }],
        2 => *groups = vec![Group { pool: "works".to_owned(), count }],
        _ => groups.reverse(),
    }
}

fn other(pool: &str) -> &'static str {
    if pool == "works" { "transfers" } else { "works" }
}

/// The first part of a large body; the rest never comes.
fn begun(entropy: &mut Entropy) -> Body {
    let body = Bytes::from(vec![entropy.byte(); 65_536]);
    let root = Digest(blake3::hash(&body).into());
    Body::Chunked(Chunked { size: 65_536, root, chunk: body.slice(..32_768) })
}

/// Another body: one whose rest never comes, or for a real chunked one another size, root or first
/// chunk.
fn other_body(real: Body, entropy: &mut Entropy) -> Body {
    let Body::Chunked(mut real) = real else { return begun(entropy) };
    match entropy.below(5) {
        0 => real.size -= 1,
        1 => real.size += 1,
        2 => real.root.0[0] ^= 1,
        3 => real.chunk = chunk(&real.chunk, entropy),
        _ => return begun(entropy),
    }
    Body::Chunked(real)
}

/// A chunk, truncated or with a changed bit.
fn chunk(real: &[u8], entropy: &mut Entropy) -> Bytes {
    let mut other = real.to_vec();
    let at = entropy.below(other.len().max(1) as u64) as usize;
    match entropy.below(3) {
        0 => other.truncate(at),
        1 => other.extend_from_slice(&real[at.min(real.len())..]),
        _ => other.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1),
    }
    other.into()
}

/// A header with an unknown parent.
fn orphan(header: &[u8], entropy: &mut Entropy) -> Option<Bytes> {
    let mut header = Header::from_bytes(header)?;
    header.parent = BlockId(std::array::from_fn(|_| entropy.byte()));
    Some(header.to_bytes())
}

fn pool(message: PoolMessage, entropy: &mut Entropy) -> Option<PoolMessage> {
    Some(match message {
        PoolMessage::Answer(Answer { number, body }) => match entropy.below(4) {
            0 => PoolMessage::Gone(vec![number]),
            1 => PoolMessage::Answer(Answer { number, body: other_body(body, entropy) }),
            2 => PoolMessage::Answer(Answer { number: number ^ 1, body }),
            _ => return None,
        },
        PoolMessage::Chunk(real) => PoolMessage::Chunk(chunk(&real, entropy)),
        PoolMessage::Fetch(mut numbers) => {
            numbers.reverse();
            PoolMessage::Fetch(numbers)
        }
        PoolMessage::Announce(mut list) => {
            for announcement in &mut list {
                match entropy.below(4) {
                    // Another size or priority, or another item.
                    0 => announcement.facts ^= 1 << (16 + entropy.below(12)),
                    1 => announcement.id ^= 1,
                    _ => {}
                }
            }
            PoolMessage::Announce(list)
        }
        _ => return None,
    })
}

fn tip(message: TipMessage, entropy: &mut Entropy) -> Option<TipMessage> {
    Some(match message {
        TipMessage::Header(header) => TipMessage::Header(orphan(&header, entropy)?),
        TipMessage::Held(Held { block, height }) => {
            let height = match entropy.below(4) {
                0 => height.saturating_sub(1 + entropy.below(8)),
                1 => height + 1 + entropy.below(8),
                2 => height + 100,
                _ => height,
            };
            let block = match entropy.below(2) {
                0 => block,
                _ => BlockId(std::array::from_fn(|_| entropy.byte())),
            };
            TipMessage::Held(Held { block, height })
        }
        TipMessage::Return(_) => return None,
    })
}

fn rpc(message: RpcMessage, entropy: &mut Entropy) -> Option<RpcMessage> {
    Some(match message {
        RpcMessage::Block(RpcBlock { id, body: Body::Whole(body) }) => match entropy.below(4) {
            0 => RpcMessage::Block(RpcBlock { id, body: begun(entropy) }),
            1 => {
                RpcMessage::Failed(RpcFailed { id, error: tidegate_proto::wire::RpcError::Unknown })
            }
            _ => {
                let mut body = Frame::from(body).decode::<BlockBody>().ok()?;
                match entropy.below(2) {
                    0 => body
                        .groups
                        .iter_mut()
                        .for_each(|group| group.pool = other(&group.pool).to_owned()),
                    _ => body.groups.reverse(),
                }
                RpcMessage::Block(RpcBlock { id, body: Body::Whole(body.to_bytes().ok()?) })
            }
        },
        RpcMessage::Headers(mut headers) => {
            match entropy.below(3) {
                0 => headers.headers.reverse(),
                1 => headers.headers.truncate(1),
                _ => drop(headers.headers.pop()),
            }
            RpcMessage::Headers(headers)
        }
        _ => return None,
    })
}

/// Its signature is for something else then.
fn twist_record(record: &mut PeerRecord, entropy: &mut Entropy) {
    match entropy.below(2) {
        0 => record.sequence += 1,
        _ => record.addresses.reverse(),
    }
}

fn peers(message: PeersMessage, entropy: &mut Entropy) -> Option<PeersMessage> {
    Some(match message {
        PeersMessage::Records(mut records) => {
            records.iter_mut().take(1).for_each(|first| twist_record(first, entropy));
            PeersMessage::Records(records)
        }
        PeersMessage::Moved(mut record) => {
            twist_record(&mut record, entropy);
            PeersMessage::Moved(record)
        }
        PeersMessage::Reached(reached) => PeersMessage::Reached(!reached),
        PeersMessage::Ask | PeersMessage::Reach(_) => return None,
    })
}

/// Another receiver or sender, another payload, another result, or an answer to another signal.
fn signal(mut message: SignalMessage, entropy: &mut Entropy) -> SignalMessage {
    let (peer, payload) = match &mut message {
        SignalMessage::Carry(Carry { to, payload }) => (to, payload),
        SignalMessage::Deliver(Delivery { from, payload }) => (from, payload),
        SignalMessage::Carried(settled) | SignalMessage::Delivered(settled) => {
            match entropy.below(4) {
                0 => settled.number ^= 1,
                _ => settled.fate = FATES[entropy.below(5) as usize],
            }
            return message;
        }
        SignalMessage::Ask(asked) => {
            match &mut asked.peer {
                Some(peer) => peer.0[0] ^= 1,
                None => asked.peer = Some(PeerId([entropy.byte(); 32])),
            }
            return message;
        }
        SignalMessage::Choice(records) => {
            records.iter_mut().take(1).for_each(|first| twist_record(first, entropy));
            return message;
        }
    };
    match entropy.below(3) {
        0 => peer.0[0] ^= 1,
        1 => *payload = vec![entropy.byte(); MAX_SIGNAL].into(),
        _ => *payload = payload.slice(..payload.len() / 2),
    }
    message
}

#[cfg(test)]
mod tests {
    use tidegate_proto::id::Salt;

    use super::*;

    #[test]
    fn a_compact_block_gets_other_groups_and_stays_one() {
        let real = Compact {
            header: Bytes::from_static(b"header"),
            salt: Salt([1; 16]),
            groups: vec![
                Group { pool: "transfers".to_owned(), count: 2 },
                Group { pool: "works".to_owned(), count: 1 },
            ],
            short_ids: Bytes::from_static(&[7; 18]),
            prefilled: Vec::new(),
        };
        let frame = BlockMessage::Push(real.clone()).to_frame().unwrap();
        let mut entropy = Entropy::seed(1);
        let mut others = 0;
        for _ in 0..100 {
            let twisted = twisted(Kind::Block, &frame, &mut entropy).unwrap();
            let Ok(BlockMessage::Push(compact)) = twisted.decode() else { panic!("it is a push") };
            let count = |groups: &[Group]| groups.iter().map(|group| group.count).sum::<u32>();
            assert_eq!(count(&compact.groups), count(&real.groups));
            others += usize::from(compact.groups != real.groups);
        }
        assert!((30..70).contains(&others), "{others}");
    }
}
