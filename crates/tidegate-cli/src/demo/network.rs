//! The demo's nodes and what they do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate::id::AccountId;
use tidegate::io::{Event, Fate};
use tidegate::transport::tcp::Tcp;
use tidegate::transport::webrtc::WebRtc;
use tidegate::{Builder, Events, Identity, Node};
use tidegate_ledger::{Genesis, JobId, Ledger, LedgerRules, SigningKey, WorkRules, account, pools};
use tokio::runtime::Runtime;

use super::Over;
use super::measure::Measures;
use crate::application::{Application, unix_ms};

/// Accounts of each node: enough that none gets far ahead of the blocks.
const ACCOUNTS: usize = 16;
/// Outbound connections of each node.
const OUTBOUND: u32 = 4;
/// Nodes that prove each job: the cheaper proof wins.
const PROVERS: usize = 2;
/// There are few cores and many nodes: each validates on one thread.
const WORKERS: u32 = 1;

/// The nodes of the demo.
pub(crate) struct Network {
    nodes: Vec<Member>,
    /// The runtime of the first node, so that it can be killed without goodbyes.
    first: Option<Runtime>,
    producing: Arc<AtomicBool>,
    loading: Arc<AtomicBool>,
}

struct Member {
    node: Node,
    app: Application,
    key: SigningKey,
    accounts: Vec<SigningKey>,
    connected: Arc<AtomicUsize>,
}

fn key(kind: &str, node: usize, number: usize) -> SigningKey {
    let text = format!("{kind} {node} {number}");
    SigningKey::from_bytes(&blake3::derive_key("tidegate demo key 1", text.as_bytes()))
}

fn genesis(nodes: usize) -> Genesis {
    let hex_of = |key: &SigningKey| hex::encode(account(key).0);
    let accounts = (0..nodes).flat_map(|node| (0..ACCOUNTS).map(move |n| key("account", node, n)));
    Genesis {
        name: "demo".into(),
        start_ms: unix_ms(),
        slot_ms: 1000,
        producers: (0..nodes).map(|node| hex_of(&key("producer", node, 0))).collect(),
        accounts: accounts.map(|key| (hex_of(&key), 1_000_000_000)).collect(),
        work: WorkRules::default(),
    }
}

impl Network {
    /// Starts the nodes. Each knows only the address of the first one.
    pub(crate) fn start(
        count: usize,
        over: Over,
        record: Option<&Path>,
        measures: &Arc<Measures>,
    ) -> anyhow::Result<Self> {
        let genesis = genesis(count);
        let first = Runtime::new()?;
        let mut nodes = Vec::<Member>::new();
        for index in 0..count {
            let app = Application::new(Ledger::new(genesis.clone())?);
            let mut builder = Builder::new(genesis.network(), LedgerRules, app.clone())
                .identity(Identity::generate()?)
                .genesis(genesis.header().to_bytes())
                .workers(WORKERS)
                .outbound(OUTBOUND)
                .client(concat!("tidegate-demo/", env!("CARGO_PKG_VERSION")));
            builder = match over {
                Over::Quic => builder.listen("/ip4/127.0.0.1/udp/0/quic-v1".parse()?),
                Over::Tcp => {
                    let builder = builder.transport(|setup| Ok(Tcp::new(setup)?)).without_quic();
                    builder.listen("/ip4/127.0.0.1/tcp/0/tls".parse()?)
                }
                Over::Webrtc => {
                    let builder = builder.transport(|setup| Ok(WebRtc::new(setup)));
                    match index {
                        0 => builder.listen("/ip4/127.0.0.1/udp/0/quic-v1".parse()?),
                        _ => builder,
                    }
                }
            };
            for pool in pools() {
                builder = builder.pool(pool);
            }
            if let Some(folder) = record {
                builder = builder.record(folder.join(format!("node-{index}.run")));
            }
            builder = match nodes.first() {
                Some(first) => builder.bootstrap(&first.node.addresses()[0]),
                None => builder,
            };
            let guard = (index == 0).then(|| first.enter());
            let (node, events) = builder.start().with_context(|| format!("node {index}"))?;
            drop(guard);
            let member = Member {
                node,
                app,
                key: key("producer", index, 0),
                accounts: (0..ACCOUNTS).map(|n| key("account", index, n)).collect(),
                connected: Arc::new(AtomicUsize::new(0)),
            };
            member.follow(events, index, count, measures.clone());
            nodes.push(member);
        }
        let flag = || Arc::new(AtomicBool::new(true));
        Ok(Self { nodes, first: Some(first), producing: flag(), loading: flag() })
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes that are running.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Node, &Application)> {
        let killed = usize::from(self.first.is_none());
        self.nodes.iter().skip(killed).map(|member| (&member.node, &member.app))
    }

    /// Kills the first node.
    pub(crate) fn kill_first(&mut self) {
        if let Some(first) = self.first.take() {
            first.shutdown_background();
        }
    }

    pub(crate) fn begin_load(&self, rate: u64, measures: &Arc<Measures>) {
        if rate == 0 {
            return;
        }
        let each =
            Duration::from_secs(self.nodes.len() as u64) / u32::try_from(rate).unwrap_or(u32::MAX);
        for (index, member) in self.nodes.iter().enumerate() {
            let load = Load {
                node: member.node.clone(),
                app: member.app.clone(),
                accounts: member.accounts.iter().map(|key| (key.clone(), 0)).collect(),
                running: self.loading.clone(),
                measures: measures.clone(),
                index,
            };
            let offset = each * index as u32 / self.nodes.len() as u32;
            tokio::spawn(load.run(each, offset));
        }
    }

    pub(crate) fn stop_load(&self) {
        self.loading.store(false, Ordering::Relaxed);
    }

    pub(crate) fn begin_producing(&self, measures: &Arc<Measures>) {
        for member in &self.nodes {
            let (node, app, key) = (member.node.clone(), member.app.clone(), member.key.clone());
            let (running, measures) = (self.producing.clone(), measures.clone());
            tokio::spawn(async move {
                loop {
                    let slot = app.next_slot().await;
                    if !running.load(Ordering::Relaxed) {
                        return;
                    }
                    let at = Instant::now();
                    let made = |block, transfers| measures.made(block, transfers, at);
                    if app.produce(&node, &key, slot, made).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    pub(crate) fn stop_producing(&self) {
        self.producing.store(false, Ordering::Relaxed);
    }

    /// How many connections each node has.
    pub(crate) fn connections(&self) -> Vec<usize> {
        let killed = usize::from(self.first.is_none());
        let living = self.nodes.iter().skip(killed);
        living.map(|member| member.connected.load(Ordering::Relaxed)).collect()
    }

    pub(crate) async fn shutdown(&self) {
        for (node, _) in self.nodes() {
            node.shutdown().await;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A runtime must not be dropped within another one.
        self.kill_first();
    }
}

impl Member {
    /// Handles the node's events: measures, and proves the jobs of new blocks.
    fn follow(&self, mut events: Events, index: usize, count: usize, measures: Arc<Measures>) {
        let (node, app) = (self.node.clone(), self.app.clone());
        let prover = account(&self.key);
        let own = self.key.verifying_key().to_bytes();
        let connected = self.connected.clone();
        tokio::spawn(async move {
            let mut proven = Vec::new();
            while let Some(event) = events.next().await {
                match event {
                    Event::ItemAdded { id, .. } => measures.added(id, index),
                    Event::TipChanged { block, .. } => {
                        let (own_block, jobs) = {
                            let ledger = app.ledger();
                            let (tip, header) = ledger.tip();
                            let own_block = tip == block && header.producer == own;
                            (own_block, ledger.open_jobs().collect::<Vec<_>>())
                        };
                        measures.tip(block, own_block);
                        let new = jobs.iter().filter(|job| !proven.contains(*job));
                        let mine = new.filter(|job| proves(job, index, count)).copied();
                        for job in mine.collect::<Vec<_>>() {
                            prove(&node, &app, (prover, index), job, &measures);
                        }
                        proven = jobs;
                    }
                    Event::PeerConnected { .. } => {
                        connected.fetch_add(1, Ordering::Relaxed);
                    }
                    Event::PeerDisconnected { .. } => {
                        connected.fetch_sub(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        });
    }
}

/// Whether a node is one of those that prove a job.
fn proves(job: &JobId, index: usize, count: usize) -> bool {
    let first = usize::from(job.0[0]);
    (0..PROVERS).any(|n| (first + n) % count == index)
}

fn prove(
    node: &Node,
    app: &Application,
    (prover, index): (AccountId, usize),
    job: JobId,
    measures: &Arc<Measures>,
) {
    let (node, app, measures) = (node.clone(), app.clone(), measures.clone());
    tokio::spawn(async move {
        let fee = 1 + u64::from(prover.0[0] ^ job.0[1]) % 8;
        let published = tokio::task::spawn_blocking({
            let measures = measures.clone();
            move || {
                let weight = app.ledger().genesis().work.weight;
                app.prove(&node, prover, job, fee, |id| {
                    measures.publishing(id, 80 + u64::from(weight), index);
                })
            }
        });
        if let Ok(Ok(Some((_, fate)))) = published.await
            && let Ok(Fate::Accepted) = fate.await
        {
            measures.works.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Publishes transfers from the accounts of one node.
struct Load {
    node: Node,
    app: Application,
    /// Keys and next nonces.
    accounts: Vec<(SigningKey, u64)>,
    running: Arc<AtomicBool>,
    measures: Arc<Measures>,
    index: usize,
}

impl Load {
    async fn run(mut self, each: Duration, offset: Duration) {
        tokio::time::sleep(offset).await;
        let mut interval = tokio::time::interval(each);
        let mut round = 0usize;
        while self.running.load(Ordering::Relaxed) {
            interval.tick().await;
            round += 1;
            let count = self.accounts.len();
            let to = account(&self.accounts[(round + 1) % count].0);
            let (key, next) = &mut self.accounts[round % count];
            *next = (*next).max(self.app.ledger().account(&account(key)).nonce);
            let fee = 1 + round as u64 % 20;
            let measures = &self.measures;
            let published = self.app.transfer(&self.node, key, to, fee, *next, |id| {
                measures.publishing(id, 152, self.index);
            });
            match published {
                Ok(Some((_, fate))) => {
                    *next += 1;
                    // The fate is awaited in another task, so that the load keeps its pace.
                    let measures = self.measures.clone();
                    tokio::spawn(async move {
                        let counter = match fate.await {
                            Ok(Fate::Accepted | Fate::Known) => &measures.transfers,
                            _ => &measures.refused,
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                    });
                }
                Ok(None) => {
                    self.measures.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => return,
            }
        }
    }
}
