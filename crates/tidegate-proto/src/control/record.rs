//! Signed peer records: where a peer can be reached (specification section 5.4).

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;

use crate::channel::Context;
use crate::id::{Address, NetworkId, PeerId, Signature};
use crate::io::Output;
use crate::wire::{Encode as _, EncodeError, PeerRecord, RecordPayload};

const DOMAIN: &str = "tidegate record 1";

/// R5.4.1
pub(crate) fn payload(
    network: &NetworkId,
    peer: PeerId,
    sequence: u64,
    addresses: &[Address],
) -> Result<Bytes, EncodeError> {
    let (domain, network, addresses) = (DOMAIN.to_owned(), *network, addresses.to_vec());
    RecordPayload { domain, network, peer, sequence, addresses }.to_bytes()
}

/// Whether the record's peer has signed it, for this network.
pub(crate) fn verify(record: &PeerRecord, network: &NetworkId) -> bool {
    let payload = payload(network, record.peer, record.sequence, &record.addresses);
    let (Ok(payload), Ok(key)) = (payload, VerifyingKey::from_bytes(&record.peer.0)) else {
        return false;
    };
    // R5.4.1
    key.verify_strict(&payload, &record.signature.0.into()).is_ok()
}

/// This node's addresses are others: asks for the signature of a new record.
pub(crate) fn listening(cx: &mut Context, mut addresses: Vec<Address>) {
    // More than the record can carry are no use to anyone.
    addresses.truncate(16);
    cx.config.record_sequence += 1;
    let (sequence, peer) = (cx.config.record_sequence, cx.config.peer);
    let Ok(payload) = payload(&cx.config.network, peer, sequence, &addresses) else { return };
    cx.control.unsigned = Some((sequence, addresses));
    cx.outputs.push_back(Output::Sign { request: sequence, payload });
}

/// The signature is there. One that was asked for before the last is of no use.
pub(crate) fn signed(cx: &mut Context, request: u64, signature: Signature) {
    if let Some((sequence, addresses)) = cx.control.unsigned.take_if(|(s, _)| *s == request) {
        let peer = cx.config.peer;
        cx.control.record = Some(PeerRecord { peer, sequence, addresses, signature });
    }
}
