//! Peers that take part: each uses all that its permits allow, names ever new things, answers
//! nothing, and stops in the middle of frames.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use tidegate::id::{BlockId, Digest, Salt};
use tidegate::rules::Rules as _;
use tidegate::wire::{
    Address, Announcement, Binding, BlockMessage, Body, Compact, ControlMessage, Encode, Frame,
    Grant, Held, Hello, MAX_FRAME, Offer, OfferedVersion, PoolMessage, RpcMessage, RpcRequest,
    RpcWant, Setup, TipMessage, TipSlot, WantHeaders,
};
use tidegate::{Config, PoolSpec};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::attack::Done;
use super::victim::config;
use crate::items::{Items, NETWORK, header};
use crate::raw::{endpoint, good_client};

/// Channel instances (5.7).
const TIP: u32 = 1;
const RPC: u32 = 2;
const BLOCK: u32 = 16;
const POOL: u32 = 17;
const PEERS: u32 = 18;

/// Connects, and goes on for ever.
pub(crate) fn begin(victim: SocketAddr, configs: Vec<ClientConfig>, done: &Arc<Done>) {
    for (number, config) in configs.into_iter().enumerate() {
        let done = done.clone();
        tokio::spawn(async move {
            let endpoint = endpoint();
            let mut config = config;
            loop {
                Done::count(&done.begun);
                if one(&endpoint, victim, config, number as u64, &done).await.is_some() {
                    Done::count(&done.answered);
                }
                // A peer that is cut off comes back with another identity.
                config = good_client();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
}

/// One connection, until the victim ends it.
async fn one(
    endpoint: &Endpoint,
    victim: SocketAddr,
    config: ClientConfig,
    number: u64,
    done: &Done,
) -> Option<()> {
    let connection = endpoint.connect_with(config, victim, "x").ok()?.await.ok()?;
    Done::count(&done.met);
    let mut peer =
        Peer { connection: connection.clone(), heard: BTreeMap::new(), salt: Salt([0; 16]) };
    peer.listen();
    let mut control = peer.open(0).await?;
    say(&mut control, &peer.hello()?).await?;
    let hear = |peer: &mut Peer, channel| peer.heard.remove(&channel);
    let mut setup = hear(&mut peer, 0)?;
    loop {
        if let ControlMessage::Setup(setup) = setup.recv().await?.decode().ok()? {
            peer.salt = setup.salt;
            break;
        }
    }
    say(&mut control, &ControlMessage::Setup(setup_of())).await?;
    let (tip, block) = (hear(&mut peer, TIP)?, hear(&mut peer, BLOCK)?);
    let (pool, rpc) = (hear(&mut peer, POOL)?, hear(&mut peer, RPC)?);
    let peer = &peer;
    tokio::select! {
        _ = peer.pongs(&mut control, setup) => {}
        _ = peer.tips(tip, number) => {}
        _ = peer.blocks(block, number) => {}
        _ = peer.items(pool, number) => {}
        _ = peer.requests(rpc, number) => {}
        _ = peer.half(number) => {}
        _ = connection.closed() => {}
    }
    Some(())
}

struct Peer {
    connection: Connection,
    heard: BTreeMap<u32, UnboundedReceiver<Frame>>,
    salt: Salt,
}

fn setup_of() -> Setup {
    let config: Config = config();
    // Grants everything, and returns nothing.
    let grant = Grant {
        announcements: u32::MAX,
        bodies: u32::MAX,
        body_bytes: u32::MAX,
        requests: u32::MAX,
        fetch_bytes: u32::MAX,
    };
    let offer = |kind, name: &str, rules| Offer {
        kind,
        name: name.to_owned(),
        versions: vec![OfferedVersion { number: 1, rules }],
        grant: grant.clone(),
        capacity: 64,
    };
    let mut offers = vec![offer(3, "", config.block_rules_digest(Items.id()))];
    let pool = |spec: &PoolSpec| offer(4, &spec.name, spec.rules_digest(Items.id(), 1));
    offers.extend(config.pools.iter().map(pool));
    offers.push(offer(5, "", Digest(blake3::derive_key("tidegate 1 peers rules", b""))));
    let observed = Address(Bytes::new());
    Setup { offers, roles: 0, record: None, observed, salt: Salt([7; 16]) }
}

async fn say(stream: &mut SendStream, message: &impl Encode) -> Option<()> {
    let bytes = message.to_bytes().ok()?;
    stream.write_all(&(bytes.len() as u32).to_be_bytes()).await.ok()?;
    stream.write_all(&bytes).await.ok()
}

fn unknown(number: u64) -> BlockId {
    BlockId(*blake3::hash(&number.to_be_bytes()).as_bytes())
}

impl Peer {
    /// Reads the victim's frames on every channel, and discards them.
    fn listen(&mut self) {
        let mut told: BTreeMap<u32, UnboundedSender<Frame>> = BTreeMap::new();
        for channel in [0, TIP, RPC, BLOCK, POOL] {
            let (sender, receiver) = unbounded_channel();
            told.insert(channel, sender);
            self.heard.insert(channel, receiver);
        }
        let connection = self.connection.clone();
        tokio::spawn(async move {
            while let Ok(mut stream) = connection.accept_uni().await {
                let Some(channel) = number(&mut stream).await else { continue };
                tokio::spawn(read(stream, told.get(&channel).cloned()));
            }
        });
    }

    async fn open(&self, channel: u32) -> Option<SendStream> {
        let mut stream = self.connection.open_uni().await.ok()?;
        stream.write_all(&channel.to_be_bytes()).await.ok()?;
        Some(stream)
    }

    fn hello(&self) -> Option<ControlMessage> {
        let mut exporter = [0; 32];
        self.connection.export_keying_material(&mut exporter, b"tidegate binding 1", b"").ok()?;
        Some(ControlMessage::Hello(Hello {
            versions: vec![tidegate_proto::VERSION],
            network: NETWORK,
            client: "hostile".to_owned(),
            instance: 1,
            binding: Binding::Exporter(exporter),
        }))
    }

    async fn pongs(
        &self,
        control: &mut SendStream,
        mut heard: UnboundedReceiver<Frame>,
    ) -> Option<()> {
        loop {
            if let ControlMessage::Ping(ping) = heard.recv().await?.decode().ok()? {
                say(control, &ControlMessage::Pong(ping)).await?;
            }
        }
    }

    /// Unknown held tips and headers, as fast as their permits come back.
    async fn tips(&self, mut heard: UnboundedReceiver<Frame>, number: u64) -> Option<()> {
        let mut stream = self.open(TIP).await?;
        let mut n = number << 32;
        let held = |n: u64| TipMessage::Held(Held { block: unknown(n), height: n % 17 });
        let header = |n: u64| TipMessage::Header(header(unknown(n), 1 + n % 16, n));
        say(&mut stream, &held(n)).await?;
        say(&mut stream, &header(n)).await?;
        loop {
            n += 1;
            match heard.recv().await?.decode().ok()? {
                TipMessage::Return(TipSlot::Held) => say(&mut stream, &held(n)).await?,
                TipMessage::Return(TipSlot::Header) => say(&mut stream, &header(n)).await?,
                _ => {}
            }
        }
    }

    /// Compact blocks with unknown parents: two at a time.
    async fn blocks(&self, mut heard: UnboundedReceiver<Frame>, number: u64) -> Option<()> {
        let mut stream = self.open(BLOCK).await?;
        let mut n = number << 32;
        let mut out = 0;
        loop {
            while out < 2 {
                n += 1;
                out += 1;
                let header = header(unknown(!n), 1 + n % 16, n);
                let (salt, short_ids) = (self.salt, Bytes::new());
                let (groups, prefilled) = (Vec::new(), Vec::new());
                let compact = Compact { header, salt, groups, short_ids, prefilled };
                say(&mut stream, &BlockMessage::Push(compact)).await?;
            }
            if let BlockMessage::Return(returns) = heard.recv().await?.decode().ok()? {
                out -= returns.len();
            }
        }
    }

    /// As many announcements as allowed, of items that do not exist; and useless items.
    async fn items(&self, mut heard: UnboundedReceiver<Frame>, number: u64) -> Option<()> {
        let mut stream = self.open(POOL).await?;
        let grant = config().pools[0].grant.clone();
        let (mut n, mut spent) = (number << 32, 0);
        let (mut announced, mut pushed) = (0, 0);
        let mut out = BTreeMap::new();
        loop {
            let mut list = Vec::new();
            while announced < grant.announcements {
                n += 1;
                announced += 1;
                out.insert(spent, false);
                spent += 1u32;
                list.push(Announcement {
                    id: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                    facts: 1 << 24,
                });
            }
            if !list.is_empty() {
                say(&mut stream, &PoolMessage::Announce(list)).await?;
            }
            while pushed < grant.bodies {
                n += 1;
                pushed += 1;
                out.insert(spent, true);
                spent += 1;
                let body = [&[0; 8][..], &n.to_be_bytes(), &[1; 1000]].concat();
                say(&mut stream, &PoolMessage::Push(Body::Whole(body.into()))).await?;
            }
            if let PoolMessage::Return(returns) = heard.recv().await?.decode().ok()? {
                for back in returns {
                    if out.remove(&back.number)? { pushed -= 1 } else { announced -= 1 }
                }
            }
        }
    }

    /// Requests that are cancelled at once.
    async fn requests(&self, mut heard: UnboundedReceiver<Frame>, number: u64) -> Option<()> {
        let mut stream = self.open(RPC).await?;
        for id in 0.. {
            let n = (number << 32) + u64::from(id);
            let want = if n.is_multiple_of(2) {
                RpcWant::Block(unknown(n))
            } else {
                RpcWant::Headers(WantHeaders { locator: vec![unknown(n); 32], most: 256 })
            };
            say(&mut stream, &RpcMessage::Request(RpcRequest { id, want })).await?;
            say(&mut stream, &RpcMessage::Cancel(id)).await?;
            loop {
                if let RpcMessage::Failed(_) | RpcMessage::Headers(_) =
                    heard.recv().await?.decode().ok()?
                {
                    break;
                }
            }
        }
        Some(())
    }

    /// Some stop in the middle of the largest frame.
    async fn half(&self, number: u64) -> Option<()> {
        if number.is_multiple_of(2) {
            let mut stream = self.open(PEERS).await?;
            stream.write_all(&(MAX_FRAME as u32).to_be_bytes()).await.ok()?;
            stream.write_all(&vec![1; MAX_FRAME - 1]).await.ok()?;
            std::future::pending::<()>().await;
        }
        std::future::pending().await
    }
}

async fn number(stream: &mut RecvStream) -> Option<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(u32::from_be_bytes(bytes))
}

async fn read(mut stream: RecvStream, told: Option<UnboundedSender<Frame>>) -> Option<()> {
    loop {
        let mut bytes = vec![0; number(&mut stream).await? as usize];
        stream.read_exact(&mut bytes).await.ok()?;
        if let Some(told) = &told {
            told.send(Bytes::from(bytes).into()).ok()?;
        }
    }
}
