//! commonware-p2p, `authenticated::lookup`: TCP, SAKE, and CUPS with ChaCha20-Poly1305.
//!
//! Its listener knows the keys and addresses of all dialers, and networks dial by themselves, on a
//! timer. Messages may be dropped without notice, so bulk data is sent in windows that are
//! acknowledged.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::mpsc::{TryRecvError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use commonware_cryptography::{ChaCha20Poly1305, Signer as _, ed25519};
use commonware_p2p::authenticated::lookup::{self, Network};
use commonware_p2p::{
    Address, AddressableManager as _, AddressableTrackedPeers, Receiver as _, Recipients,
    Sender as _,
};
use commonware_runtime::{Handle, Quota, Runner as _, Supervisor as _, tokio as runtime};
use commonware_stream::cups::{self, Cups};
use commonware_stream::sake::{self, Sake};
use commonware_utils::ordered::Map;
use futures_util::future::BoxFuture;

use super::{Incoming, PIECE, ZEROS, opening};
use crate::stack::{Carrier, Dialer, Doing, FIRST, Link, Stack, Target};

type Key = ed25519::PublicKey;
type Sender = lookup::Sender<Key, runtime::Context>;
type Receiver = lookup::Receiver<Key>;

/// Identities that the listener knows.
const DIALERS: u64 = 500;
/// The size of a peer's mailbox, in messages.
const BURST: NonZeroU32 = NonZeroU32::new(64).expect("not zero");
/// Pieces of a body that are sent before the listener acknowledges them.
const WINDOW: u64 = 16;
/// How often a network looks for a peer to dial.
const DIAL: Duration = Duration::from_millis(1);
/// How often the first message is sent until it is answered: messages to a peer that is not
/// connected are dropped, and there is no event when it is.
const AGAIN: Duration = Duration::from_micros(200);

pub(crate) struct Commonware {
    context: Mutex<Option<runtime::Context>>,
}

pub(crate) static COMMONWARE: Commonware = Commonware { context: Mutex::new(None) };

fn key(seed: u64) -> ed25519::PrivateKey {
    ed25519::PrivateKey::from_seed(seed)
}

fn rate(per: Duration) -> Result<Quota> {
    Ok(Quota::with_period(per).context("a period")?.allow_burst(BURST))
}

/// A running network with its one channel.
struct Running {
    sender: Sender,
    receiver: Receiver,
    handle: Handle<()>,
}

impl Commonware {
    fn start(
        &self,
        seed: u64,
        listen: SocketAddr,
        known: AddressableTrackedPeers<Key>,
    ) -> Result<Running> {
        let held = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        let context = held.as_ref().context("no runtime")?.child("bench");
        let sake = Sake {
            signer: key(seed),
            synchrony_bound: Duration::from_secs(5),
            max_handshake_age: Duration::from_secs(10),
            version: sake::Version::V1,
        };
        let handshake = Cups::<_, ChaCha20Poly1305>::new(sake, cups::Version::V1);
        let peers = NonZeroUsize::new(known.primary.len() + known.secondary.len() + 1);
        let peers = peers.context("no peers")?;
        let mailbox = NonZeroUsize::new(1000).context("no mailbox")?;
        let size = PIECE as u32;
        let mut config = lookup::Config::local(handshake, b"bench", listen, peers, size, mailbox);
        config.tracked_peer_sets = NonZeroUsize::MIN;
        config.peer_connection_cooldown = DIAL;
        config.allowed_handshake_rate_per_ip = rate(Duration::from_micros(1))?;
        config.allowed_handshake_rate_per_subnet = rate(Duration::from_micros(1))?;
        config.dial_frequency = DIAL;
        config.ping_frequency = Duration::from_secs(50);
        let (mut network, mut oracle) = Network::new(context.child("network"), config);
        oracle.track(0, known);
        let (sender, receiver) = network.register(0, rate(Duration::from_micros(1))?);
        Ok(Running { sender, receiver, handle: network.start() })
    }
}

fn peers(of: impl Iterator<Item = (Key, SocketAddr)>) -> Map<Key, Address> {
    Map::from_iter_dedup(of.map(|(key, socket)| (key, Address::Symmetric(socket))))
}

impl Stack for Commonware {
    fn name(&self) -> &'static str {
        "commonware"
    }

    fn carrier(&self) -> Carrier {
        Carrier::Tcp
    }

    fn note(&self) -> Option<&'static str> {
        Some(
            "`authenticated::lookup`, TCP. It dials by itself: the clock runs from the network's \
             start, with 1 ms between its looks at whom to dial; the first message is sent every \
             0.2 ms until it is answered. Bulk in windows of 1 MiB that are confirmed",
        )
    }

    fn run(&'static self, work: BoxFuture<'static, Result<()>>) -> Result<()> {
        let name = format!("tidegate-bench-{}", std::process::id());
        let storage = std::env::temp_dir().join(name);
        let config = runtime::Config::new()
            .with_tcp_nodelay(Some(true))
            .with_worker_threads(std::thread::available_parallelism()?.get())
            .with_storage_directory(&storage);
        let done = runtime::Runner::new(config).start(|context| async move {
            *self.context.lock().unwrap_or_else(PoisonError::into_inner) = Some(context);
            let done = tokio::spawn(work).await;
            self.context.lock().unwrap_or_else(PoisonError::into_inner).take();
            done
        });
        // It is empty, so a failure to remove it does no harm.
        let _ = std::fs::remove_dir_all(storage);
        done?
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            // It does not tell which port it was given: choose a free one.
            let socket = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
            let dialers = peers((1..=DIALERS).map(|seed| (key(seed).public_key(), nobody)));
            // Secondary peers are accepted and never dialed.
            let known = AddressableTrackedPeers::new(peers(std::iter::empty()), dialers);
            let running = self.start(0, socket, known)?;
            tokio::spawn(answer(running));
            Ok(Target { socket, key: String::new() })
        })
    }

    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async move {
            let dialer = CommonwareDialer { stack: self, seed: number + 1, target };
            Ok(Box::new(dialer) as Box<dyn Dialer>)
        })
    }
}

async fn answer(mut running: Running) -> Result<()> {
    let mut incoming = std::collections::BTreeMap::<Key, (Incoming, u64)>::new();
    while let Ok((from, message)) = running.receiver.recv().await {
        let (request, pieces) = incoming.entry(from.clone()).or_default();
        *pieces += 1;
        let answer = match request.take(message.as_ref()) {
            Some(answer) => answer,
            // The dialer waits for it.
            None if *pieces % WINDOW == 0 => 1,
            None => continue,
        };
        if request.left == 0 {
            *pieces = 0;
        }
        let bytes = ZEROS.slice(..PIECE.min(answer as usize));
        running.sender.send(Recipients::One(from), bytes, false);
    }
    Ok(())
}

struct CommonwareDialer {
    stack: &'static Commonware,
    seed: u64,
    target: Target,
}

impl Dialer for CommonwareDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let at = key(0).public_key();
            let known = peers(std::iter::once((at.clone(), self.target.socket)));
            // It is not dialed, so it may listen anywhere.
            let listen = SocketAddr::from(([127, 0, 0, 1], 0));
            let mut running = self.stack.start(self.seed, listen, known.into())?;
            let (first, _) = opening(FIRST, 1);
            let mut sender = running.sender.clone();
            let to = Recipients::One(at.clone());
            let (over, ended) = channel::<()>();
            // On a thread, since the runtime's timers are coarser than this.
            std::thread::spawn(move || {
                while ended.try_recv() == Err(TryRecvError::Empty) {
                    sender.send(to.clone(), first.clone(), false);
                    std::thread::sleep(AGAIN);
                }
            });
            running.receiver.recv().await.context("the network ended")?;
            drop(over);
            Ok(Box::new(Connection { running, at, settled: false }) as Box<dyn Link>)
        })
    }
}

struct Connection {
    running: Running,
    at: Key,
    settled: bool,
}

impl Connection {
    /// Discards answers to messages that were sent more than once.
    async fn settle(&mut self) {
        let pause = Duration::from_millis(if self.settled { 0 } else { 20 });
        while !self.settled {
            let next = tokio::time::timeout(pause, self.running.receiver.recv()).await;
            self.settled = next.is_err();
        }
    }
}

impl Link for Connection {
    fn ask(&mut self, body: u64, answer: u32) -> Doing<'_, ()> {
        Box::pin(async move {
            self.settle().await;
            let (mut next, mut left) = opening(body, answer);
            let mut pieces = 0;
            loop {
                let to = Recipients::One(self.at.clone());
                let sent = self.running.sender.send(to, next, false);
                anyhow::ensure!(!sent.is_empty(), "a message was not taken");
                pieces += 1;
                if left == 0 {
                    break;
                }
                if pieces % WINDOW == 0 {
                    self.running.receiver.recv().await.context("the network ended")?;
                }
                next = ZEROS.slice(..PIECE.min(left as usize));
                left = left.saturating_sub(PIECE as u64);
            }
            let answered = self.running.receiver.recv().await;
            answered.map(drop).context("the network ended")
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.running.handle.abort() })
    }
}
