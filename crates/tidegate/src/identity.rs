//! The node's identity: an Ed25519 key, used for nothing else.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use tidegate_proto::id::{PeerId, SealingKey, Signature};
#[cfg(feature = "offers")]
use tidegate_proto::wire::{Encode as _, SignedStatement};
use zeroize::Zeroizing;

/// A node's identity. Its public half is the [`PeerId`].
#[derive(Clone)]
pub struct Identity(SigningKey);

/// Why an identity could not be loaded or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The operating system provides no randomness.
    #[error("no randomness for a new key: {0}")]
    Random(String),
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The file is not a key file.
    #[error("{}: not a key file: it should hold 64 hex digits", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// Other users can read the file.
    #[error("{}: others can read this key: chmod 600 it, and think of a new one", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
    },
}

impl Identity {
    /// A new identity.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| IdentityError::Random(error.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// The identity of a secret seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Loads the identity from a file, or makes one and writes it to the file (mode 0600).
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        match Self::load(path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate()?;
                identity.create(path)?;
                Ok(identity)
            }
            other => other,
        }
    }

    /// Loads the identity from a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        check_mode(path, &fs::metadata(path).map_err(io)?)?;
        let text = Zeroizing::new(fs::read(path).map_err(io)?);
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim_ascii(), &mut *seed)
            .map_err(|_| IdentityError::NotAKey { path: path.to_owned() })?;
        Ok(Self::from_seed(&seed))
    }

    /// Writes the identity to a new file that only its owner can read.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<(), IdentityError> {
        let path = path.as_ref();
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(io)?;
        let text = Zeroizing::new(hex::encode(self.0.as_bytes()) + "\n");
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)
    }

    /// The public half, which names the node.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// Signs a payload (Ed25519, RFC 8032). The first bytes of the payload must say what the
    /// signature is for: a transport that lets a peer choose them would sign whatever the peer
    /// wants.
    pub fn sign(&self, payload: &[u8]) -> Signature {
        Signature(self.0.sign(payload).to_bytes())
    }

    /// The key to which others seal offers to this node; `None` without the feature `offers`.
    pub(crate) fn sealing_key(&self) -> Option<SealingKey> {
        #[cfg(feature = "offers")]
        return Some(crate::seal::public(&self.0));
        #[cfg(not(feature = "offers"))]
        None
    }

    /// Signs a statement and seals it with the signature; `None` if the receiver's key is none.
    pub(crate) fn seal(&self, receiver: &SealingKey, statement: &Bytes) -> Option<Bytes> {
        #[cfg(feature = "offers")]
        {
            let (statement, signature) = (statement.clone(), self.sign(statement));
            let signed = SignedStatement { statement, signature }.to_bytes().ok()?;
            crate::seal::seal(receiver, &signed)
        }
        // Without the feature no transport takes offers, and the core never asks.
        #[cfg(not(feature = "offers"))]
        {
            let _ = (receiver, statement);
            None
        }
    }

    /// Opens what was sealed to this node.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<Bytes> {
        #[cfg(feature = "offers")]
        return crate::seal::open(&self.0, sealed);
        #[cfg(not(feature = "offers"))]
        {
            let _ = sealed;
            None
        }
    }

    /// The key, for TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt as _;
    match metadata.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => Err(IdentityError::Readable { path: path.to_owned() }),
    }
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: &fs::Metadata) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_comes_back_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let identity = Identity::load_or_create(&path).unwrap();
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(again.peer_id(), identity.peer_id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let error = Identity::load(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Readable { .. }), "{error}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        // An existing file is never overwritten.
        assert!(identity.create(&path).is_err());
        fs::write(&path, "nonsense").unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("64 hex digits"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    }

    #[test]
    fn the_secret_is_not_printed() {
        let text = format!("{:?}", Identity::from_seed(&[7; 32]));
        assert!(text.contains("12D3KooW") && !text.contains(&hex::encode([7; 32])));
    }
}
