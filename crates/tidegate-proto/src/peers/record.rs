//! Signatures of peer records (specification section 5.4).

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;

use crate::id::{Address, NetworkId, PeerId, SealingKey};
use crate::wire::{Encode as _, EncodeError, PeerRecord, RecordPayload};

/// The prefix of the signed bytes.
const DOMAIN: &str = "tidegate record 2";

/// R5.4.1
pub(crate) fn payload(
    network: &NetworkId,
    peer: PeerId,
    sequence: u64,
    addresses: &[Address],
    sealing: Option<SealingKey>,
) -> Result<Bytes, EncodeError> {
    let (domain, network, addresses) = (DOMAIN.to_owned(), *network, addresses.to_vec());
    RecordPayload { domain, network, peer, sequence, addresses, sealing }.to_bytes()
}

/// Whether the record's peer has signed it for this network.
pub(crate) fn verify(record: &PeerRecord, network: &NetworkId) -> bool {
    let PeerRecord { peer, sequence, addresses, sealing, .. } = record;
    let payload = payload(network, *peer, *sequence, addresses, *sealing);
    let (Ok(payload), Ok(key)) = (payload, VerifyingKey::from_bytes(&record.peer.0)) else {
        return false;
    };
    // R5.4.1
    key.verify_strict(&payload, &record.signature.0.into()).is_ok()
}
