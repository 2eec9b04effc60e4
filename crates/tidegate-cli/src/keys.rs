//! Key files: of the node, of a producer, of an account.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use tidegate::Identity;
use tidegate::id::AccountId;
use tidegate_ledger::{SigningKey, account};

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to write the key. A file that is there is not overwritten.
    file: PathBuf,
}

/// Makes a key file and prints its public half.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let identity = Identity::generate()?;
    identity.create(&arguments.file)?;
    println!("{}", describe(&arguments.file)?);
    Ok(true)
}

/// The public half of a key file, in both forms.
pub(crate) fn describe(path: &Path) -> anyhow::Result<String> {
    let key = load(path)?;
    let peer = Identity::load(path)?.peer_id();
    Ok(format!("public key {}\npeer id    {peer}", hex::encode(account(&key).0)))
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
