//! Ids of peers, connections, channels, items and blocks.
//!
//! # Not guaranteed
//!
//! That an id stands for something: it is bytes. The identity of a peer is proven by its transport,
//! and that of an item is defined by the application's [`Rules`](crate::rules::Rules).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crate::wire::{
    Address, BlockId, Digest, ItemId, NetworkId, PeerId, Salt, SealingKey, Signature,
};
use crate::wire::{BlockHeader, ItemBody};

/// A libp2p peer id of Ed25519 is these bytes and the key: an identity multihash of its protobuf.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// One connection. A node never uses a number twice, so a connection that is gone cannot be
/// confused with a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// One attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DialId(pub u64);

/// One offer of another node, as this node counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OfferId(pub u64);

/// Something that this node has others carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SignalId(pub(crate) u64);

/// One question to the application about an item, a header or a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// One of the pools that the application set up, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolIndex(pub u16);

/// The account of a chain of items, which share nonces and a balance: for transfers, the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(pub [u8; 32]);

/// The key of an item: a pool has at most one item with it. For transfers it is the id, for work
/// proofs the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemKey(pub [u8; 32]);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = PEER_ID_PREFIX.to_vec();
        bytes.extend(self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not the id of an Ed25519 peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the PeerId of an Ed25519 key: it should look like 12D3KooW… with 52 characters")]
pub struct PeerIdError;

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let bytes = bs58::decode(text).into_vec().map_err(|_| PeerIdError)?;
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or(PeerIdError)?;
        key.try_into().map(Self).map_err(|_| PeerIdError)
    }
}

/// Hex.
macro_rules! hex_text {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }
    )+};
}

/// In debug output only the first four bytes: enough to tell them apart.
macro_rules! hex_debug {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let start = &self.0[..self.0.len().min(4)];
                write!(f, "{}({}…)", stringify!($name), hex::encode(start))
            }
        }
    )+};
}

impl NetworkId {
    /// The id of a network with a name: BLAKE3 in its key derivation mode. For applications without
    /// a genesis or the like to hash.
    pub fn named(name: &str) -> Self {
        Self(blake3::derive_key("tidegate 1 network name", name.as_bytes()))
    }
}

hex_text!(
    Address,
    BlockHeader,
    BlockId,
    Digest,
    ItemBody,
    ItemId,
    NetworkId,
    Salt,
    SealingKey,
    Signature
);
hex_debug!(BlockHeader, BlockId, Digest, ItemBody, ItemId, NetworkId, Salt, SealingKey, Signature);

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the text are from rust-libp2p's documentation of peer ids.
    #[test]
    fn peer_ids_are_those_of_libp2p() {
        let key = "1498b5467a63dffa2dc9d9e069caf075d16fc33fdd4c3b01bfadae6433767d93";
        let id = PeerId(hex::decode(key).unwrap().try_into().unwrap());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("12D3KooW"));
        assert_eq!(id.to_string().len(), 52);
        assert_eq!("12D3KooW".parse::<PeerId>(), Err(PeerIdError));
        assert_eq!(
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse::<PeerId>(),
            Err(PeerIdError)
        );
    }
}
