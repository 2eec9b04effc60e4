//! `tidegate init`: the folder of a node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use tidegate::Identity;
use tidegate_ledger::{Genesis, WorkRules, account};

use crate::application::unix_ms;
use crate::print::say;
use crate::{keys, print, settings};

/// The first file of a network.
pub(crate) const GENESIS: &str = "genesis.toml";
const NODE_KEY: &str = "node.key";
const PRODUCER_KEY: &str = "producer.key";
const ACCOUNT_KEY: &str = "account.key";
/// What the account of a new network has.
const BALANCE: u64 = 1_000_000_000_000;

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The node's folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Join the network of this genesis file; without it a new network begins
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "producer", "balance", "slot_ms"])]
    genesis: Option<PathBuf>,
    /// Name of the new network
    #[arg(long, default_value = "tidegate")]
    name: String,
    /// Public key of one more producer of the new network, in the order of their turns
    #[arg(long, value_name = "KEY")]
    producer: Vec<String>,
    /// Balance of one more account of the new network
    #[arg(long, value_name = "KEY=AMOUNT")]
    balance: Vec<String>,
    /// Milliseconds of a slot of the new network
    #[arg(long, default_value_t = 1000)]
    slot_ms: u64,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    folder: PathBuf,
    /// Public halves by file.
    keys: BTreeMap<&'static str, keys::Public>,
}

/// Makes the folder. What is there already stays as it is.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let folder = &arguments.folder;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let genesis = folder.join(GENESIS);
    let there = |path: &Path| anyhow!("{}: it is there already", path.display());
    if genesis.exists() {
        return Err(there(&genesis));
    }
    let (text, config) = match &arguments.genesis {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Genesis::from_toml(&text).with_context(|| file.display().to_string())?;
            (text, String::new())
        }
        None => {
            let genesis = new_network(folder, arguments)?;
            (genesis.to_toml(), format!("producer_key = {PRODUCER_KEY:?}\n"))
        }
    };
    Identity::load_or_create(folder.join(NODE_KEY))?;
    let path = folder.join(settings::FILE);
    if !path.exists() {
        write(&path, &config)?;
    }
    // Last: with it the folder is one of a node.
    write(&genesis, &text)?;
    let mut made = Made { folder: folder.clone(), keys: BTreeMap::new() };
    for name in [NODE_KEY, PRODUCER_KEY, ACCOUNT_KEY] {
        let path = folder.join(name);
        if path.exists() {
            made.keys.insert(name, keys::public(&path)?);
        }
    }
    if arguments.json {
        return print::json(&made);
    }
    say!("{} is the folder of a node", folder.display());
    for (name, public) in &made.keys {
        say!("{name}\n  {}", public.to_string().replace('\n', "\n  "));
    }
    say!("run it:  tidegate run --folder {}", folder.display());
    Ok(true)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn new_network(folder: &Path, arguments: &Arguments) -> anyhow::Result<Genesis> {
    let own = |name: &str| -> anyhow::Result<String> {
        let path = folder.join(name);
        Identity::load_or_create(&path)?;
        Ok(hex::encode(account(&keys::load(&path)?).0))
    };
    let mut producers = vec![own(PRODUCER_KEY)?];
    producers.extend(arguments.producer.iter().cloned());
    let mut accounts = BTreeMap::from([(own(ACCOUNT_KEY)?, BALANCE)]);
    for balance in &arguments.balance {
        let parsed = balance.split_once('=').and_then(|(key, amount)| {
            amount.parse::<u64>().ok().map(|amount| (key.to_owned(), amount))
        });
        match parsed {
            Some((key, amount)) => accounts.insert(key, amount),
            None => bail!("--balance {balance}: give a public key, =, and a number"),
        };
    }
    let genesis = Genesis {
        name: arguments.name.clone(),
        start_ms: unix_ms(),
        slot_ms: arguments.slot_ms,
        producers,
        accounts,
        work: WorkRules::default(),
    };
    genesis.validate()?;
    Ok(genesis)
}

/// Reads the genesis of a node's folder.
pub(crate) fn genesis(folder: &Path) -> anyhow::Result<Genesis> {
    let path = folder.join(GENESIS);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            anyhow!("{}: not there: make the folder with `tidegate init`", path.display())
        }
        _ => anyhow!("{}: {error}", path.display()),
    })?;
    Genesis::from_toml(&text).map_err(|error| {
        let error = error.to_string();
        anyhow!("{}: {}", path.display(), error.lines().next().unwrap_or_default())
    })
}
