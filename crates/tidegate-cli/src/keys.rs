//! Key files: of the node, of a producer, of an account.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use tidegate::Identity;
use tidegate::id::AccountId;
use tidegate_ledger::{SigningKey, account};

use crate::print::{self, say};

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to write the key. A file that is there is not overwritten.
    file: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// The public half of a key file.
#[derive(Serialize)]
pub(crate) struct Public {
    /// In hex, as accounts and producers are named.
    public_key: String,
    /// As peers are named.
    peer_id: String,
}

impl std::fmt::Display for Public {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "public key {}\npeer id    {}", self.public_key, self.peer_id)
    }
}

/// Makes a key file and prints its public half.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let identity = Identity::generate()?;
    identity.create(&arguments.file)?;
    let public = public(&arguments.file)?;
    if arguments.json {
        return print::json(&public);
    }
    say!("{public}");
    Ok(true)
}

/// The public half of a key file, in both forms.
pub(crate) fn public(path: &Path) -> anyhow::Result<Public> {
    let public_key = hex::encode(account(&load(path)?).0);
    Ok(Public { public_key, peer_id: Identity::load(path)?.peer_id().to_string() })
}

/// A public key in hex.
pub(crate) fn public_key(text: &str) -> anyhow::Result<AccountId> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key)
        .map_err(|_| anyhow!("{text:?} is no public key: it should be 64 hex digits"))?;
    Ok(AccountId(key))
}

/// Reads a key that signs for the ledger.
pub(crate) fn load(path: &Path) -> anyhow::Result<SigningKey> {
    // Looks at the file's mode and form.
    Identity::load(path)?;
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed)
        .map_err(|_| anyhow!("{}: not a key file", path.display()))?;
    Ok(SigningKey::from_bytes(&seed))
}
