//! `tidegate status`, `peers` and `submit`: what a running node is asked.

use std::path::PathBuf;

use anyhow::anyhow;
use serde_json::Value;
use tidegate_ledger::{Transfer, account};

use crate::control::{Request, ask, public_key};
use crate::settings::{self, Settings};
use crate::{init, keys};

/// Which node, and how to print.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The node's folder
    #[arg(long, short, env = "TIDEGATE_FOLDER", default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Where the node is reached [default: control.sock in its folder]
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn ask(&self, request: &Request) -> anyhow::Result<Value> {
        let flags = settings::Source { control: self.control.clone(), ..Default::default() };
        let settings = Settings::load(&settings::Place { folder: self.folder.clone(), flags })?;
        ask(&settings.path(&settings.control.value), request)
    }
}

/// Prints how the node is.
pub(crate) fn status(arguments: &Arguments) -> anyhow::Result<bool> {
    let status = arguments.ask(&Request::Status)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(true);
    }
    println!("node      {}", text(&status["peer_id"]));
    println!("network   {}", text(&status["network"]));
    for address in status["addresses"].as_array().into_iter().flatten() {
        println!("address   {}", text(address));
    }
    println!("height    {}", status["height"]);
    println!("tip       {}", text(&status["tip"]));
    let peers = status["peers"].as_array().map_or(0, Vec::len);
    println!("peers     {peers}, {} known", status["known_peers"]);
    for (name, pool) in status["pools"].as_object().into_iter().flatten() {
        println!("pool      {name}: {} items, {} bytes", pool["items"], pool["bytes"]);
    }
    println!(
        "traffic   {} bytes sent, {} received",
        status["bytes_sent"], status["bytes_received"]
    );
    Ok(true)
}

/// Prints who is connected.
pub(crate) fn peers(arguments: &Arguments) -> anyhow::Result<bool> {
    let status = arguments.ask(&Request::Status)?;
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&peers)?);
        return Ok(true);
    }
    for peer in &peers {
        let direction = if peer["inbound"] == true { "in" } else { "out" };
        let ms = |time: &Value| {
            let part = |name| time[name].as_u64().unwrap_or(0);
            part("secs") as f64 * 1e3 + part("nanos") as f64 / 1e6
        };
        println!(
            "{}  {direction:3}  height {}  {:.1} ms  {:.0} s  {}",
            text(&peer["peer"]),
            peer["height"],
            ms(&peer["round_trip"]),
            ms(&peer["connected_for"]) / 1e3,
            text(&peer["client"])
        );
    }
    println!("{} peers", peers.len());
    Ok(true)
}

/// A text as it is, anything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
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
    #[arg(long)]
    amount: u64,
    /// What the producer gets
    #[arg(long, default_value_t = 1)]
    fee: u64,
    /// Key of the sender [default: account.key in the folder]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Number of the sender's transfer [default: the next]
    #[arg(long)]
    nonce: Option<u64>,
}

/// Signs a transfer and hands it to the node; returns when it is durable there.
pub(crate) fn submit(arguments: &Submit) -> anyhow::Result<bool> {
    let folder = &arguments.node.folder;
    let path = arguments.key.clone().unwrap_or_else(|| folder.join("account.key"));
    let key = keys::load(&path)?;
    let to = public_key(&arguments.to)?;
    let network = init::genesis(folder)?.network();
    let nonce = match arguments.nonce {
        Some(nonce) => nonce,
        None => {
            let from = hex::encode(account(&key).0);
            let account = arguments.node.ask(&Request::Account(from))?;
            account["nonce"].as_u64().ok_or_else(|| anyhow!("the node does not say the nonce"))?
        }
    };
    let transfer = Transfer::new(&network, &key, to, arguments.amount, arguments.fee, nonce);
    let answer = arguments.node.ask(&Request::Submit(hex::encode(transfer.to_bytes())))?;
    match arguments.node.json {
        true => println!("{}", serde_json::to_string_pretty(&answer)?),
        false => println!("{} {}", text(&answer["fate"]), text(&answer["id"])),
    }
    Ok(true)
}
