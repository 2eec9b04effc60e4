//! Sealing and opening statements by HPKE (RFC 9180), in its base mode with X25519, HKDF-SHA256 and
//! ChaCha20-Poly1305 (specification section 20).
//!
//! The sealing key is derived from the node's key (`DeriveKeyPair` of the RFC, whose labels keep the two apart), so that
//! what others have sealed before a restart can still be opened.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use tidegate_proto::id::SealingKey;

type Kem = X25519HkdfSha256;
type PrivateKey = <Kem as hpke::Kem>::PrivateKey;
type PublicKey = <Kem as hpke::Kem>::PublicKey;
type Encapsulated = <Kem as hpke::Kem>::EncappedKey;

/// What both ends put into the key schedule.
const INFO: &[u8] = b"tidegate statement 1";
/// Bytes of an encapsulated key.
const ENCAPSULATED: usize = 32;

fn keys(node: &SigningKey) -> (PrivateKey, PublicKey) {
    Kem::derive_keypair(node.as_bytes())
}

/// The public half of a node's sealing key.
pub(crate) fn public(node: &SigningKey) -> SealingKey {
    SealingKey(keys(node).1.to_bytes().into())
}

/// The encapsulated key and the ciphertext; `None` if the receiver's key is none, or the system has no randomness.
pub(crate) fn seal(receiver: &SealingKey, text: &[u8]) -> Option<Bytes> {
    let receiver = PublicKey::from_bytes(&receiver.0).ok()?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).ok()?;
    let sealed = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Base,
        &receiver,
        INFO,
        text,
        &[],
        &mut ChaCha20Rng::from_seed(seed),
    );
    let (encapsulated, ciphertext) = sealed.ok()?;
    Some([&encapsulated.to_bytes()[..], &ciphertext].concat().into())
}

/// What was sealed to a node.
pub(crate) fn open(node: &SigningKey, sealed: &[u8]) -> Option<Bytes> {
    open_by(&keys(node).0, sealed)
}

fn open_by(private: &PrivateKey, sealed: &[u8]) -> Option<Bytes> {
    let (encapsulated, ciphertext) = sealed.split_at_checked(ENCAPSULATED)?;
    let encapsulated = Encapsulated::from_bytes(encapsulated).ok()?;
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeR::Base,
        private,
        &encapsulated,
        INFO,
        ciphertext,
        &[],
    );
    Some(opened.ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    /// R20.1: what any implementation of RFC 9180 has sealed is opened.
    #[test]
    fn the_examples_of_the_specification_are_opened() {
        let text = include_str!("../../../spec/sealed.json");
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert!(cases.len() >= 3);
        for case in cases {
            let bytes = |name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
            let private = PrivateKey::from_bytes(&bytes("private")).unwrap();
            let public = Kem::sk_to_pk(&private).to_bytes();
            assert_eq!(public[..], bytes("public"));
            let opened = open_by(&private, &bytes("sealed")).unwrap();
            assert_eq!(opened, bytes("opened"));
        }
    }

    #[test]
    fn what_is_sealed_to_a_node_is_for_it_alone() {
        let sealed = seal(&public(&node(1)), b"an offer").unwrap();
        assert_eq!(open(&node(1), &sealed).as_deref(), Some(&b"an offer"[..]));
        assert_eq!(open(&node(2), &sealed), None);
        // No two are the same, so a relay cannot tell that something is said again.
        assert_ne!(seal(&public(&node(1)), b"an offer").unwrap(), sealed);
        // As many bytes more as the specification says.
        assert_eq!(sealed.len(), 8 + 48);
    }

    #[test]
    fn what_is_changed_or_cut_off_is_not_opened() {
        let sealed = seal(&public(&node(1)), b"an offer").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(open(&node(1), &changed), None, "byte {at}");
            assert_eq!(open(&node(1), &sealed[..at]), None, "{at} bytes");
        }
    }

    /// Points of small order have the same secret with everybody.
    #[test]
    fn nothing_is_sealed_to_a_key_that_is_none() {
        assert_eq!(seal(&SealingKey([0; 32]), b"an offer"), None);
    }

    /// The same key after a restart.
    #[test]
    fn the_key_follows_from_the_nodes_key() {
        assert_eq!(public(&node(1)), public(&node(1)));
        assert_ne!(public(&node(1)), public(&node(2)));
        assert_ne!(public(&node(1)).0, node(1).verifying_key().to_bytes());
    }
}
