//! The handshake: each end signs both hellos, so that a signature is only valid on this connection.

use std::io;

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};
use tidegate::Identity;
use tidegate::id::PeerId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// The prefix of a hello, and of what is signed.
const DOMAIN: &[u8; 16] = b"tidegate pipe  1";
/// The domain, the identity, and a nonce.
const HELLO: usize = 16 + 32 + 32;

/// A connection whose peer has proven its identity.
pub(crate) struct Proven {
    pub(crate) stream: UnixStream,
    pub(crate) peer: PeerId,
    /// Derived by both ends from both hellos.
    pub(crate) binding: [u8; 32],
}

pub(crate) async fn dial(stream: UnixStream, identity: &Identity) -> io::Result<Proven> {
    run(stream, identity, true).await
}

pub(crate) async fn accept(stream: UnixStream, identity: &Identity) -> io::Result<Proven> {
    run(stream, identity, false).await
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

async fn run(mut stream: UnixStream, identity: &Identity, dials: bool) -> io::Result<Proven> {
    let mut own = [0; HELLO];
    own[..16].copy_from_slice(DOMAIN);
    own[16..48].copy_from_slice(&identity.peer_id().0);
    getrandom::fill(&mut own[48..]).map_err(|error| io::Error::other(error.to_string()))?;
    stream.write_all(&own).await?;
    let mut other = [0; HELLO];
    stream.read_exact(&mut other).await?;
    if other[..16] != DOMAIN[..] {
        return Err(refused("what answers is no node"));
    }
    let (dialer, listener) = if dials { (&own, &other) } else { (&other, &own) };
    let said: [u8; 32] =
        Sha256::new().chain_update(dialer).chain_update(listener).finalize().into();
    let payload = |by_dialer: bool| [&DOMAIN[..], &[u8::from(by_dialer)], &said].concat();
    stream.write_all(&identity.sign(&payload(dials)).0).await?;
    let mut signature = [0; 64];
    stream.read_exact(&mut signature).await?;
    let peer = PeerId(*other[16..].first_chunk().expect("a hello is longer"));
    let key = VerifyingKey::from_bytes(&peer.0).map_err(|_| refused("its identity is no key"))?;
    key.verify_strict(&payload(!dials), &Signature::from_bytes(&signature))
        .map_err(|_| refused("its identity is not proven"))?;
    let binding = Sha256::new().chain_update(b"binding").chain_update(said).finalize().into();
    Ok(Proven { stream, peer, binding })
}
