//! Statements: what is said, who says it, and to whom (specification section 20).

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;

use crate::config::Config;
use crate::id::{Digest, PeerId, SealingKey};
use crate::wire::{Encode as _, Frame, Said, SignedStatement, Statement};

/// The prefix of the signed bytes.
const DOMAIN: &str = "tidegate statement 1";

/// A statement whose sender has signed it.
pub(super) struct Read {
    pub(super) statement: Statement,
    /// `None` if this version does not know it.
    pub(super) said: Option<Said>,
    pub(super) digest: Digest,
}

/// The encoding of a statement of this node.
pub(super) fn write(
    config: &Config,
    to: PeerId,
    fresh: [u8; 16],
    reply: SealingKey,
    said: &Said,
) -> Option<Bytes> {
    let statement = Statement {
        domain: DOMAIN.to_owned(),
        protocol: crate::VERSION,
        network: config.network,
        from: config.peer,
        to,
        fresh,
        reply,
        said: said.to_bytes().ok()?,
    };
    statement.to_bytes().ok()
}

/// R20.4
pub(super) fn digest(statement: &[u8]) -> Digest {
    Digest(blake3::derive_key("tidegate 1 statement", statement))
}

/// What was opened, if it is a statement that its sender has signed. R20.2
pub(super) fn read(opened: &Bytes) -> Option<Read> {
    let SignedStatement { statement: bytes, signature } =
        Frame::from(opened.clone()).decode().ok()?;
    let statement = Frame::from(bytes.clone()).decode::<Statement>().ok()?;
    let key = VerifyingKey::from_bytes(&statement.from.0).ok()?;
    let is_signed = key.verify_strict(&bytes, &signature.0.into()).is_ok();
    if !is_signed || statement.domain != DOMAIN {
        return None;
    }
    let said = Frame::from(statement.said.clone()).decode().ok();
    Some(Read { statement, said, digest: digest(&bytes) })
}
