//! Block headers.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tidegate_proto::id::{BlockId, Digest, NetworkId};
use tidegate_proto::rules::HeaderFacts;

use crate::layout::{number, take};
use crate::signed;

/// The domain of header signatures.
const SIGNED: &str = "tidegate ledger header 1";

/// The most transfers in one block.
pub const MAX_TRANSFERS: usize = 512;
/// The most work proofs in one block, after the transfers.
pub const MAX_WORKS: usize = 64;

/// The header of a block: what its producer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The parent.
    pub parent: BlockId,
    /// Its distance from the first block.
    pub height: u64,
    /// Its slot.
    pub slot: u64,
    /// The producer's public key.
    pub producer: [u8; 32],
    /// The root over the ids of its items.
    pub item_root: Digest,
    /// The number of its items.
    pub items: u32,
    /// The root over the state after it.
    pub state_root: Digest,
    /// The producer's Ed25519 signature over all of the above and the network.
    pub signature: [u8; 64],
}

impl Header {
    /// Signs the header.
    pub fn sign(mut self, network: &NetworkId, key: &SigningKey) -> Self {
        self.signature = signed::sign(SIGNED, network, &self.to_bytes()[..148], key);
        self
    }

    /// The header's 212 bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(212);
        bytes.extend(self.parent.0);
        bytes.extend([self.height, self.slot].map(u64::to_be_bytes).concat());
        bytes.extend(self.producer);
        bytes.extend(self.item_root.0);
        bytes.extend(self.items.to_be_bytes());
        bytes.extend(self.state_root.0);
        bytes.extend(self.signature);
        bytes.into()
    }

    /// Decodes a header; `None` if these are not the bytes of one.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let header = Self {
            parent: BlockId(take(input)?),
            height: number(input)?,
            slot: number(input)?,
            producer: take(input)?,
            item_root: Digest(take(input)?),
            items: u32::from_be_bytes(take(input)?),
            state_root: Digest(take(input)?),
            signature: take(input)?,
        };
        input.is_empty().then_some(header)
    }

    /// The block's id.
    pub fn id(&self) -> BlockId {
        BlockId(blake3::derive_key("tidegate ledger block id 1", &self.to_bytes()))
    }

    /// The facts for the core.
    pub fn facts(&self) -> HeaderFacts {
        HeaderFacts {
            block: self.id(),
            parent: self.parent,
            height: self.height,
            slot: self.slot,
            producer: self.producer,
            item_root: self.item_root,
            items: self.items,
        }
    }

    /// Whether the producer signed it, for this network.
    pub fn is_signed(&self, network: &NetworkId) -> bool {
        let by = (&self.producer, &self.signature);
        signed::is_signed(SIGNED, network, &self.to_bytes()[..148], by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_covers_every_field_and_the_network() {
        let network = NetworkId([1; 32]);
        let key = SigningKey::from_bytes(&[2; 32]);
        let header = Header {
            parent: BlockId([3; 32]),
            height: 4,
            slot: 5,
            producer: key.verifying_key().to_bytes(),
            item_root: Digest([6; 32]),
            items: 7,
            state_root: Digest([8; 32]),
            signature: [0; 64],
        };
        let header = header.sign(&network, &key);
        assert!(header.is_signed(&network));
        assert!(!header.is_signed(&NetworkId([9; 32])));
        let bytes = header.to_bytes();
        assert_eq!(Header::from_bytes(&bytes).as_ref(), Some(&header));
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            let changed = Header::from_bytes(&changed).unwrap();
            assert!(!changed.is_signed(&network), "byte {at}");
            assert_ne!(changed.id(), header.id());
        }
        assert_eq!(Header::from_bytes(&bytes[1..]), None);
    }
}
