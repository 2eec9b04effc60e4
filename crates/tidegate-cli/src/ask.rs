//! `tidegate status`, `peers` and `submit`: what a running node is asked.

use std::path::PathBuf;

use anyhow::{anyhow, ensure};
use tidegate_ledger::{Transfer, account};

use crate::api::model::{Account, Fate, Peers, Status, Submission, Submitted};
use crate::client::Client;
use crate::keys::public_key;
use crate::print::say;
use crate::settings::{self, Settings};
use crate::{init, keys, print};

/// Which node, and how to print.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    at: At,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Which node.
#[derive(clap::Args)]
pub(crate) struct At {
    /// The node's folder
    #[arg(long, short, env = "TIDEGATE_FOLDER", default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Where the node is reached [default: control.sock in its folder]
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
}

impl At {
    /// Connects to it.
    pub(crate) fn connect(&self) -> anyhow::Result<Client> {
        let flags = settings::Source { control: self.control.clone(), ..Default::default() };
        let settings = Settings::load(&settings::Place { folder: self.folder.clone(), flags })?;
        Client::connect(&settings.path(&settings.control.value))
    }
}

/// Prints how the node is.
pub(crate) fn status(arguments: &Arguments) -> anyhow::Result<bool> {
    let status: Status = arguments.at.connect()?.get("/v1/status")?;
    if arguments.json {
        return print::json(&status);
    }
    say!("node      {}", status.peer_id);
    say!("network   {} ({}…)", status.network, status.network_id.get(..16).unwrap_or_default());
    for address in &status.addresses {
        say!("address   {address}");
    }
    for own in &status.own_addresses {
        say!("reached   {} ({})", own.address, own.why);
    }
    let syncing = if status.syncing { ", catching up" } else { "" };
    say!("height    {}{syncing}", status.height);
    say!("tip       {}", status.tip.unwrap_or_default());
    say!("peers     {}, {} known", status.peers, status.known_peers);
    for pool in &status.pools {
        say!("pool      {}: {} items, {} bytes", pool.name, pool.items, pool.bytes);
    }
    say!("traffic   {} bytes sent, {} received", status.bytes_sent, status.bytes_received);
    Ok(true)
}

/// Prints who is connected, and who is refused.
pub(crate) fn peers(arguments: &Arguments) -> anyhow::Result<bool> {
    let peers: Peers = arguments.at.connect()?.get("/v1/peers")?;
    if arguments.json {
        return print::json(&peers);
    }
    for peer in &peers.connected {
        say!(
            "{}  {:3}  {:6}  height {}  {}  {:.0} s  {}",
            peer.peer,
            if peer.inbound { "in" } else { "out" },
            peer.over(),
            peer.height,
            peer.round_trip(),
            peer.connected_for,
            peer.client
        );
        for unshared in &peer.not_shared {
            say!("    not shared: {}: {}", unshared.what, unshared.why);
        }
    }
    for banned in &peers.banned {
        let why = banned.violation.as_deref().unwrap_or("a violation before the last start");
        say!("{}  refused for {:.0} s: {why}", banned.peer, banned.left);
    }
    match peers.connected.len() {
        1 => say!("1 peer"),
        count => say!("{count} peers"),
    }
    Ok(true)
}

/// What to transfer.
#[derive(clap::Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    node: Arguments,
    /// Public key of the receiver
    #[arg(long, value_name = "KEY")]
    to: String,
    /// How much
    #[arg(long, allow_negative_numbers = true)]
    amount: u64,
    /// What the producer gets
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    fee: u64,
    /// Key of the sender [default: account.key in the folder]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Number of the sender's transfer [default: the next that none in the node's pool has]
    #[arg(long)]
    nonce: Option<u64>,
}

/// Signs a transfer and hands it to the node; returns when it is durable there.
pub(crate) fn submit(arguments: &Submit) -> anyhow::Result<bool> {
    let at = &arguments.node.at;
    let path = arguments.key.clone().unwrap_or_else(|| at.folder.join("account.key"));
    let key = keys::load(&path).map_err(|error| {
        if path.exists() || arguments.key.is_some() {
            error
        } else {
            anyhow!("{}: not there: say with --key who sends", path.display())
        }
    })?;
    ensure!(arguments.amount > 0, "--amount: at least 1");
    let to = public_key(&arguments.to)?;
    let network = init::genesis(&at.folder)?.network();
    let mut client = at.connect()?;
    let nonce = match arguments.nonce {
        Some(nonce) => nonce,
        None => {
            let from = hex::encode(account(&key).0);
            client.get::<Account>(&format!("/v1/accounts/{from}"))?.next_nonce
        }
    };
    let transfer = Transfer::new(&network, &key, to, arguments.amount, arguments.fee, nonce);
    let submission = Submission { transfer: hex::encode(transfer.to_bytes()) };
    let submitted: Submitted = client.post("/v1/transfers", &submission)?;
    if arguments.node.json {
        return print::json(&submitted);
    }
    match submitted.fate {
        Fate::Accepted => say!("accepted {}", submitted.id),
        Fate::Known => say!("known {}: it was submitted before, and counts once", submitted.id),
    }
    Ok(true)
}
