//! Signatures of the ledger: Ed25519 over a form, for one network and one purpose.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use tidegate_proto::id::NetworkId;

/// Signs a form. `what` names its kind: a signature of one kind is not valid for another.
pub(crate) fn sign(what: &str, network: &NetworkId, form: &[u8], key: &SigningKey) -> [u8; 64] {
    key.sign(&signed(what, network, form)).to_bytes()
}

/// Whether a form has been signed by the key with this public half.
pub(crate) fn is_signed(
    what: &str,
    network: &NetworkId,
    form: &[u8],
    (key, signature): (&[u8; 32], &[u8; 64]),
) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else { return false };
    key.verify_strict(&signed(what, network, form), &signature.into()).is_ok()
}

fn signed(what: &str, network: &NetworkId, form: &[u8]) -> Vec<u8> {
    [what.as_bytes(), &network.0, form].concat()
}
