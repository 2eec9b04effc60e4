//! How the other commands reach a running node: a socket in its folder that only its owner can
//! open. A line of JSON is a request, a line of JSON the answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Stream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate::Node;
use tidegate::id::AccountId;
use tidegate::io::Fate;
use tidegate_ledger::AccountState;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::app::App;

/// Bytes of a request: the largest item in hex, and room.
const MAX_REQUEST: u64 = 128 << 10;
/// How long a command waits for the node.
const PATIENCE: Duration = Duration::from_secs(10);
/// Commands that are answered at a time.
const CLIENTS: usize = 16;

/// What is asked of a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Everything at a glance.
    Status,
    /// An account at the tip, by its public key in hex.
    Account(String),
    /// Publish a signed transfer, in hex.
    Submit(String),
}

/// The node's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ok(Value),
    Error(String),
}

/// The socket of a node; its file goes with it.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Who runs next takes it over if it stays.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens for commands. A socket that nobody answers at any more is taken over.
pub(crate) fn listen(path: &Path) -> anyhow::Result<Socket> {
    let name = || path.display().to_string();
    if path.exists() {
        if Stream::connect(path).is_ok() {
            bail!("{}: another process answers here: stop it first", name());
        }
        std::fs::remove_file(path).with_context(name)?;
    }
    let listener = UnixListener::bind(path).with_context(name)?;
    let socket = Socket { listener, path: path.to_owned() };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(name)?;
    Ok(socket)
}

/// Answers commands, until the node is gone.
pub(crate) async fn serve(socket: &Socket, node: Node, app: App) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    while let Ok((stream, _)) = socket.listener.accept().await {
        let Ok(place) = clients.clone().acquire_owned().await else { return };
        let (node, app) = (node.clone(), app.clone());
        tokio::spawn(async move {
            let answered = tokio::time::timeout(PATIENCE, answer(stream, &node, &app));
            if let Ok(Err(error)) = answered.await {
                tracing::debug!("a command was not answered: {error}");
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: UnixStream, node: &Node, app: &App) -> anyhow::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => match handle(request, node, app).await {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Error(format!("{error:#}")),
        },
        Err(error) => Answer::Error(format!("not a request: {error}")),
    };
    write.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await?;
    Ok(())
}

async fn handle(request: Request, node: &Node, app: &App) -> anyhow::Result<Value> {
    match request {
        Request::Status => {
            let mut status = serde_json::to_value(node.status().await?)?;
            status["peer_id"] = node.peer_id().to_string().into();
            status["addresses"] = node.addresses().iter().map(ToString::to_string).collect();
            status["network"] = app.ledger().genesis().name.clone().into();
            let traffic = node.traffic().await?;
            status["bytes_sent"] = traffic.sent.into();
            status["bytes_received"] = traffic.received.into();
            Ok(status)
        }
        Request::Account(key) => {
            let AccountState { balance, nonce, .. } = app.ledger().account(&public_key(&key)?);
            Ok(serde_json::json!({ "balance": balance, "nonce": nonce }))
        }
        Request::Submit(item) => {
            let body = hex::decode(&item).map_err(|_| anyhow!("a transfer is given in hex"))?;
            let id = tidegate_ledger::Transfer::id(&body);
            match app.submit(node, body.into())?.await? {
                Fate::Accepted => {
                    Ok(serde_json::json!({ "id": id.to_string(), "fate": "accepted" }))
                }
                Fate::Known => Ok(serde_json::json!({ "id": id.to_string(), "fate": "known" })),
                Fate::Full { floor } => bail!("the pool is full: it takes fees above {floor}"),
                Fate::Invalid(why) => bail!("{why}"),
            }
        }
    }
}

/// A public key in hex.
pub(crate) fn public_key(text: &str) -> anyhow::Result<AccountId> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key)
        .map_err(|_| anyhow!("{text:?} is no public key: it should be 64 hex digits"))?;
    Ok(AccountId(key))
}

/// Asks a running node.
pub(crate) fn ask(path: &Path, request: &Request) -> anyhow::Result<Value> {
    let name = || format!("{}: no node runs there", path.display());
    let mut stream = Stream::connect(path).with_context(name)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("the node does not answer")?;
    match serde_json::from_str(&line).context("the node does not answer")? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(error) => bail!(error),
    }
}
