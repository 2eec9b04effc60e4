//! `tidegate run`: one node, until it is told to stop.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tidegate::io::Event;
use tidegate::transport::is_unspecified;
use tidegate::transport::tcp::Tcp;
use tidegate::transport::webrtc::WebRtc;
use tidegate::{Builder, Events, Identity, Limits, Node, Store};
use tidegate_ledger::{JobId, Ledger, LedgerRules, Saved, SigningKey, account, pools};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::events::EventLog;
use crate::api::guard::Guard;
use crate::api::{self, Api, serve};
use crate::application::{self, Application};
use crate::settings::{self, ApiAddress, Carrier, Origin, Settings};
use crate::{code, init, keys};

/// How long a stopping node waits for its peers to take what was published here: process managers
/// kill it soon after, and a store keeps the rest.
const LAST_ITEMS: Duration = Duration::from_secs(1);

/// Fee that a prover asks for.
const PROVER_FEE: u64 = 1;

/// Which node, and how.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: settings::Place,
    /// Take a new key and write nothing: no key, no store, no socket
    #[arg(long)]
    ephemeral_identity: bool,
    /// Write the run to a file, for `tidegate replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Runs the node.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let settings = Settings::load(&arguments.place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(node(&settings, arguments))?;
    // A prover may be running on another thread: do not wait for it.
    runtime.shutdown_background();
    Ok(true)
}

/// The signals that stop a process, including the loss of its terminal.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Starts listening. Must be called within a tokio runtime.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one, and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

async fn node(settings: &Settings, arguments: &Arguments) -> anyhow::Result<()> {
    // Before anything else, so that no signal is missed.
    let mut signals = Signals::new()?;
    let key = |setting: &Option<PathBuf>| {
        setting.as_ref().map(|path| keys::load(&settings.path(path))).transpose()
    };
    let (producer, prover) = (key(&settings.producer_key.value)?, key(&settings.prover_key.value)?);
    let control = settings.path(&settings.control.value);
    let socket = if arguments.ephemeral_identity { None } else { Some(serve::socket(&control)?) };
    let listener = match settings.api.value {
        ApiAddress::Off => None,
        ApiAddress::At(at) => {
            let token = settings.path(&settings.api_token.value);
            let wanted = settings.api_token.origin != Origin::Default;
            let rules = Guard::new(at, &token, wanted)?;
            Some((serve::address(at).await?, rules))
        }
    };
    let (node, events, app) = start(settings, arguments)?;
    for address in node.addresses() {
        announce(format_args!("listening on {address}"));
    }
    if let Some(key) = producer {
        tokio::spawn(produce(node.clone(), app.clone(), key));
    }
    if let Some((listener, _)) = &listener {
        announce(format_args!("API at http://{}", listener.local_addr()?));
    }
    for any in node.addresses().iter().filter(|address| is_unspecified(address)) {
        // A script that reads the lines above has what it wants.
        let (all, here) = if any.to_string().starts_with("/ip6/") {
            ("::", "::1")
        } else {
            ("0.0.0.0", "127.0.0.1")
        };
        announce(format_args!(
            "{all} stands for all addresses of this machine: `tidegate status` lists them, and on this \
             machine {here} will do"
        ));
    }
    let names = pools().into_iter().map(|pool| pool.name).collect();
    let log = Arc::new(EventLog::new(application::unix_ms(), names));
    let alone = settings.bootstrap.value.is_empty() && settings.peers.value.is_empty();
    let started = Instant::now();
    let api = Api { node: node.clone(), app: app.clone(), events: log.clone(), alone, started };
    let router = api::router(api);
    let at_socket = async {
        match &socket {
            Some(socket) => serve::at_socket(socket, router.clone()).await,
            None => std::future::pending().await,
        }
    };
    let at_address = async {
        match listener {
            Some((listener, rules)) => serve::at_address(listener, router.clone(), rules).await,
            None => std::future::pending().await,
        }
    };
    tokio::spawn(code::let_go_at_times());
    let followed = follow(node.clone(), app.clone(), events, log, prover);
    tokio::select! {
        () = at_socket => {}
        () = at_address => {}
        name = signals.next() => tracing::info!("{name}: shutting down"),
        () = followed => {}
    }
    let left = flush(&node).await;
    if left > 0 && arguments.ephemeral_identity {
        tracing::warn!("{left} transfers or works are known to no peer, and are lost");
    } else if left > 0 {
        tracing::info!("{left} transfers or works are known to no peer yet, and are kept");
    }
    node.shutdown().await;
    match node.failure() {
        Some(error) => bail!("the node has stopped: {error}"),
        None => Ok(()),
    }
}

/// Gives connected peers time to take what was published here; returns how many items none has
/// taken.
async fn flush(node: &Node) -> usize {
    let status = node.status().await;
    let is_alone = status.is_ok_and(|status| status.peers.is_empty());
    let patience = if is_alone { Duration::ZERO } else { LAST_ITEMS };
    node.flush(1, patience).await.unwrap_or(0)
}

/// Tells the user who started the node. If that cannot be printed the node goes on.
fn announce(what: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{what}").and_then(|()| out.flush());
}

/// Everything that can be refused is checked before the store is opened.
fn start(
    settings: &Settings,
    arguments: &Arguments,
) -> anyhow::Result<(Node, Events, Application)> {
    let genesis = init::genesis(&settings.folder)?;
    let header = genesis.header().to_bytes();
    let identity = if arguments.ephemeral_identity {
        Identity::generate()?
    } else {
        let path = settings.path(&settings.node_key.value);
        if !path.exists() {
            tracing::info!("{}: not there: the node gets a new key", path.display());
        }
        Identity::load_or_create(path)?
    };
    let app = Application::new(Ledger::new(genesis.clone())?);
    let mut limits = Limits::default();
    limits.max_inbound = settings.max_inbound.value;
    let mut builder = Builder::new(genesis.network(), LedgerRules, app.clone())
        .identity(identity)
        .genesis(header.clone())
        .limits(limits)
        .outbound(settings.outbound.value)
        .workers(settings.workers.value)
        .client(application::CLIENT);
    let carriers = &settings.transports.value;
    if !carriers.contains(&Carrier::Quic) {
        builder = builder.without_quic();
    }
    if carriers.contains(&Carrier::Webrtc) {
        builder = builder.transport(|setup| Ok(WebRtc::new(setup)));
    }
    if carriers.contains(&Carrier::Tcp) {
        builder = builder.transport(|setup| Ok(Tcp::new(setup)?));
    }
    builder = pools().into_iter().fold(builder, Builder::pool);
    builder = match settings.listen.origin {
        // A machine may lack IPv6.
        Origin::Default if !carriers.contains(&Carrier::Quic) => builder,
        Origin::Default => builder.listen_port(settings::PORT),
        _ => settings.listen.value.iter().cloned().fold(builder, Builder::listen),
    };
    builder = settings.external.value.iter().cloned().fold(builder, Builder::external);
    builder = settings.bootstrap.value.iter().fold(builder, Builder::bootstrap);
    builder = settings.peers.value.iter().fold(builder, Builder::peer);
    if let Some(file) = &arguments.record {
        builder = builder.record(file);
    }
    builder = builder.bind()?;
    if !arguments.ephemeral_identity {
        let names = pools().into_iter().map(|pool| pool.name);
        let store = settings.path("store".as_ref());
        let store = Store::open(store, genesis.network(), &header, names)?;
        let tidegate::Saved { state, blocks, .. } = store.saved(&LedgerRules)?;
        let saved = Saved { state, blocks };
        *app.ledger() = Ledger::restore(genesis, saved).context("the store")?;
        builder = builder.store(store);
    }
    let (node, events) = builder.start()?;
    Ok((node, events, app))
}

/// Makes blocks when it is the key's turn.
async fn produce(node: Node, app: Application, key: SigningKey) {
    if let Some(wait) = app.until_start() {
        tracing::warn!("by this machine's clock the network begins in {} s", wait.as_secs());
    }
    let mut told = false;
    loop {
        let slot = app.next_slot().await;
        let behind = app.is_behind();
        if let Some(behind) = behind.filter(|_| !told) {
            let seconds = behind.as_secs_f64();
            tracing::warn!(
                "no block is made: the clock is {seconds:.1} s behind the slot of the tip"
            );
        }
        told = behind.is_some();
        if app.produce(&node, &key, slot, |_, _| {}).await.is_err() {
            return;
        }
    }
}

/// Handles the node's events until it ends, and proves the jobs of new blocks.
async fn follow(
    node: Node,
    app: Application,
    mut events: Events,
    log: Arc<EventLog>,
    prover: Option<SigningKey>,
) {
    let mut known = Vec::<JobId>::new();
    while let Some(event) = events.next().await {
        log.push(&event);
        let (Event::TipChanged { .. }, Some(key)) = (event, &prover) else { continue };
        let open = app.ledger().open_jobs().collect::<Vec<_>>();
        for job in open.iter().filter(|job| !known.contains(job)).copied() {
            let (node, app, prover) = (node.clone(), app.clone(), account(key));
            tokio::task::spawn_blocking(move || app.prove(&node, prover, job, PROVER_FEE, |_| {}));
        }
        known = open;
    }
}
