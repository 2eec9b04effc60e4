//! Two Tidegate nodes as applications set them up. A request is an item that the dialer publishes;
//! the other's validator sees it, and publishes the answer. So it has what the bare transport
//! lacks: hello, permits, pools and validators.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use futures_util::future::BoxFuture;
use tidegate::id::{ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Event, Subject};
use tidegate::rules::{ItemFacts, Rules};
use tidegate::{Answer, Builder, Events, Limits, Multiaddr, PoolSpec};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::transport::{address, identity, socket};
use crate::stack::{Carrier, Dialer, Doing, FIRST, Link, Scope, Stack, Target};

const POOL: PoolIndex = PoolIndex(0);
/// Whether it is an answer, when it was made, the request that it answers, the answer's length.
const HEAD: usize = 1 + 8 + 8 + 4;
/// Items of earlier requests kept in a pool, so that a new peer is not sent many of them.
const KEPT: u64 = 8;

/// Above a request or an answer of 1 KiB.
const INLINE: u32 = 2048;

pub(crate) struct Node {
    name: &'static str,
    note: &'static str,
    announced: bool,
}

/// Items are pushed: the first is published when the connection is up, and the pool's inline size
/// is larger than the items.
pub(crate) static PUSHED: Node = Node {
    name: "tidegate node",
    note: "two nodes of `Builder`: hello, permits, pool, validator. A message is an item; the first \
           is published on `Event::PeerConnected`, `PoolSpec::inline` is 2 KiB. A pool is no pipe: \
           no bulk",
    announced: false,
};

/// Items are announced and fetched: the first is in the pool before the dial, and the inline size
/// is the default.
pub(crate) static ANNOUNCED: Node = Node {
    name: "tidegate node, announced",
    note: "the same, with the first item published before the dial, and `PoolSpec::inline` of 512: \
           items that are older than a connection, or larger than that, are announced and then \
           fetched",
    announced: true,
};

/// Requests and answers; the newest are best.
struct Exchange;

impl Rules for Exchange {
    fn id(&self) -> &str {
        "exchange 1"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        Item::decode(body).map(|item| ItemFacts { key, priority: item.number, chain: None })
    }
}

#[derive(Clone, Copy)]
struct Item {
    is_answer: bool,
    number: u64,
    of: u64,
    answer: u32,
}

impl Item {
    /// A request of `body` bytes, or an answer of `body` bytes to request `of`.
    fn encode(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.is_answer)];
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.of.to_be_bytes());
        bytes.extend(self.answer.to_be_bytes());
        bytes.resize(length.max(HEAD), 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (of, rest) = rest.split_first_chunk()?;
        let answer = rest.first_chunk()?;
        Some(Self {
            is_answer: *kind == 1,
            number: u64::from_be_bytes(*number),
            of: u64::from_be_bytes(*of),
            answer: u32::from_be_bytes(*answer),
        })
    }
}

/// A number higher than all earlier ones, in any process.
fn number() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().try_into()?)
}

/// Accepts all items, and reports them.
fn tell(seen: UnboundedSender<Item>) -> impl Fn(Subject, Answer) + Send + Sync + 'static {
    move |subject, answer| {
        if let Subject::Item { body, .. } = subject
            && let Some(item) = Item::decode(&body)
        {
            // The receiver may be gone.
            let _ = seen.send(item);
        }
        answer.accept(Admission::default());
    }
}

struct Member {
    node: tidegate::Node,
    seen: UnboundedReceiver<Item>,
    events: Events,
}

impl Member {
    fn start(seed: u64, announced: bool) -> Result<Self> {
        let (sender, seen) = unbounded_channel();
        let mut pool = PoolSpec::new("exchange");
        pool.capacity = KEPT;
        if !announced {
            pool.inline = INLINE;
        }
        let mut limits = Limits::default();
        limits.max_inbound = 1000;
        let (node, events) = Builder::new(NetworkId([1; 32]), Exchange, tell(sender))
            .identity(identity(seed))
            .pool(pool)
            .limits(limits)
            .outbound(0)
            .listen(address("127.0.0.1:0".parse()?)?)
            .start()?;
        Ok(Self { node, seen, events })
    }

    async fn connected(&mut self) -> Result<()> {
        loop {
            match self.events.next().await.context("the node is down")? {
                Event::PeerConnected { .. } => return Ok(()),
                Event::DialFailed { error, .. } => anyhow::bail!("{error:?}"),
                _ => {}
            }
        }
    }

    fn publish(&self, item: Item, length: usize) -> Result<()> {
        // The answer shows its fate.
        drop(self.node.publish(POOL, item.encode(length), Admission::default())?);
        Ok(())
    }

    async fn answer(mut self) -> Result<()> {
        while let Some(item) = self.seen.recv().await {
            if !item.is_answer {
                let answer = Item { is_answer: true, number: number()?, of: item.number, ..item };
                self.publish(answer, item.answer as usize)?;
            }
        }
        Ok(())
    }

    fn request(&self, body: u64, answer: u32) -> Result<u64> {
        let number = number()?;
        let request = Item { is_answer: false, number, of: 0, answer };
        self.publish(request, body.try_into()?)?;
        Ok(number)
    }

    async fn answered(&mut self, request: u64) -> Result<()> {
        loop {
            let item = self.seen.recv().await.context("the node is down")?;
            if item.is_answer && item.of == request {
                return Ok(());
            }
        }
    }
}

impl Stack for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn carrier(&self) -> Carrier {
        Carrier::Udp
    }

    fn note(&self) -> Option<&'static str> {
        Some(self.note)
    }

    fn scope(&self) -> Scope {
        if self.announced { Scope::Talk } else { Scope::NoBulk }
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            let member = Member::start(0, self.announced)?;
            let at = member.node.addresses().into_iter().next().context("no address")?;
            let target = Target { socket: socket(&at)?, key: member.node.peer_id().to_string() };
            tokio::spawn(member.answer());
            Ok(target)
        })
    }

    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async move {
            let member = Member::start(number + 1, self.announced)?;
            let peer = target.key.parse().ok().context("no key")?;
            let address = tidegate::transport::with_peer(address(target.socket)?, peer);
            Ok(Box::new(NodeDialer { member, address, announced: self.announced })
                as Box<dyn Dialer>)
        })
    }
}

struct NodeDialer {
    member: Member,
    address: Multiaddr,
    announced: bool,
}

impl Dialer for NodeDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let Self { mut member, address, announced } = *self;
            member.node.dial(&address)?;
            if !announced {
                member.connected().await?;
            }
            let request = member.request(FIRST, 1)?;
            member.answered(request).await?;
            Ok(Box::new(member) as Box<dyn Link>)
        })
    }
}

impl Link for Member {
    fn ask(&mut self, body: u64, answer: u32) -> Doing<'_, ()> {
        Box::pin(async move {
            let request = self.request(body, answer)?;
            self.answered(request).await
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.node.shutdown().await })
    }
}
