//! Signed transfers with nonces and fees.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tidegate_proto::id::{AccountId, ItemId, NetworkId};

use crate::layout::{number, take};
use crate::signed;

/// The domain of transfer signatures.
const SIGNED: &str = "tidegate ledger transfer 1";

/// How far ahead of its account's nonce a transfer may be: enough for a busy sender's next few
/// blocks, and few enough to rank quickly.
pub const NONCE_WINDOW: u64 = 64;

/// A signed order to move an amount from one account to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The sender.
    pub from: AccountId,
    /// The receiver.
    pub to: AccountId,
    /// The amount.
    pub amount: u64,
    /// The fee for the producer of the block.
    pub fee: u64,
    /// The number of the sender's earlier transfers.
    pub nonce: u64,
    /// The sender's Ed25519 signature over all of the above and the network.
    pub signature: [u8; 64],
}

impl Transfer {
    /// Signs a transfer for one network.
    pub fn new(
        network: &NetworkId,
        key: &SigningKey,
        to: AccountId,
        amount: u64,
        fee: u64,
        nonce: u64,
    ) -> Self {
        let from = crate::account(key);
        let mut transfer = Self { from, to, amount, fee, nonce, signature: [0; 64] };
        transfer.signature = signed::sign(SIGNED, network, &transfer.to_bytes()[..88], key);
        transfer
    }

    /// Bytes of every transfer.
    pub const SIZE: usize = 152;

    /// Its [`Transfer::SIZE`] bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(Self::SIZE);
        bytes.extend(self.from.0);
        bytes.extend(self.to.0);
        bytes.extend([self.amount, self.fee, self.nonce].map(u64::to_be_bytes).concat());
        bytes.extend(self.signature);
        bytes.into()
    }

    /// Decodes a transfer; `None` if these are not the bytes of one.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let transfer = Self {
            from: AccountId(take(input)?),
            to: AccountId(take(input)?),
            amount: number(input)?,
            fee: number(input)?,
            nonce: number(input)?,
            signature: take(input)?,
        };
        input.is_empty().then_some(transfer)
    }

    /// The id of a transfer with these bytes.
    pub fn id(bytes: &[u8]) -> ItemId {
        ItemId(blake3::derive_key("tidegate ledger transfer id 1", bytes))
    }

    /// What it costs the sender; `None` if no account could ever pay it.
    pub fn cost(&self) -> Option<u64> {
        self.amount.checked_add(self.fee)
    }

    /// Whether the sender signed it, for this network. This is the expensive part of checking.
    pub fn is_signed(&self, network: &NetworkId) -> bool {
        let by = (&self.from.0, &self.signature);
        signed::is_signed(SIGNED, network, &self.to_bytes()[..88], by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_covers_every_field_and_the_network() {
        let network = NetworkId([1; 32]);
        let key = SigningKey::from_bytes(&[2; 32]);
        let transfer = Transfer::new(&network, &key, AccountId([3; 32]), 4, 5, 6);
        assert!(transfer.is_signed(&network));
        assert!(!transfer.is_signed(&NetworkId([9; 32])));
        let bytes = transfer.to_bytes();
        assert_eq!(Transfer::from_bytes(&bytes), Some(transfer));
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            let changed = Transfer::from_bytes(&changed).unwrap();
            assert!(!changed.is_signed(&network), "byte {at}");
        }
        assert_eq!(Transfer::from_bytes(&bytes[1..]), None);
        assert_eq!(Transfer::from_bytes(&[&bytes[..], &[0]].concat()), None);
    }
}
