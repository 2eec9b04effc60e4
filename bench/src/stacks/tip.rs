//! Two Tidegate nodes with a chain: the listener's tip is one block above the dialer's, so the
//! first question to the dialer's application is about that header. It comes along with the
//! listener's hello, without a request.

use anyhow::{Context as _, Result, bail};
use bytes::{BufMut as _, Bytes};
use futures_util::future::BoxFuture;
use tidegate::id::{BlockId, NetworkId};
use tidegate::io::{Admission, Block, Subject, TipChange};
use tidegate::rules::{HeaderFacts, ItemFacts, Rules};
use tidegate::{Answer, Builder, Events, Limits, Multiaddr, merkle};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::transport::{address, identity, socket};
use crate::stack::{Carrier, Dialer, Doing, Link, Scope, Stack, Target};

pub(crate) struct Tip;

/// A chain of headers: the height and the parent.
struct Chain;

impl Rules for Chain {
    fn id(&self) -> &str {
        "chain 1"
    }

    fn item(&self, _: &str, _: &[u8]) -> Option<ItemFacts> {
        None
    }

    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        let (height, parent) = header.split_first_chunk::<8>()?;
        let height = u64::from_be_bytes(*height);
        Some(HeaderFacts {
            block: block(header),
            parent: BlockId(parent.try_into().ok()?),
            height,
            slot: height,
            producer: [1; 32],
            item_root: merkle::root(&[]),
            items: 0,
        })
    }
}

fn header(height: u64, parent: BlockId) -> Bytes {
    let mut header = Vec::new();
    header.put_u64(height);
    header.extend(parent.0);
    header.into()
}

/// The id of a header is that of an item with the same bytes.
fn block(header: &[u8]) -> BlockId {
    BlockId(Chain.item_id("", header).0)
}

/// Accepts everything, and reports headers.
fn tell(seen: UnboundedSender<()>) -> impl Fn(Subject, Answer) + Send + Sync + 'static {
    move |subject, answer| {
        if let Subject::Header { .. } = subject {
            // The receiver may be gone.
            let _ = seen.send(());
        }
        answer.accept(Admission::default());
    }
}

struct Member {
    node: tidegate::Node,
    headers: UnboundedReceiver<()>,
    _events: Events,
}

impl Member {
    fn start(seed: u64) -> Result<Self> {
        let (sender, headers) = unbounded_channel();
        let mut limits = Limits::default();
        limits.max_inbound = 1000;
        let (node, events) = Builder::new(NetworkId([1; 32]), Chain, tell(sender))
            .identity(identity(seed))
            .genesis(header(0, BlockId([0; 32])))
            .limits(limits)
            .outbound(0)
            .listen(address("127.0.0.1:0".parse()?)?)
            .start()?;
        Ok(Self { node, headers, _events: events })
    }

    /// Makes a block, and makes it the tip.
    async fn produce(&self) -> Result<()> {
        let header = header(1, block(&header(0, BlockId([0; 32]))));
        let block = block(&header);
        let publishing = self.node.publish_block(Block { block, header, items: Vec::new() })?;
        self.node.set_tip(TipChange::new(block))?;
        publishing.await?;
        Ok(())
    }
}

impl Stack for Tip {
    fn name(&self) -> &'static str {
        "tidegate node, tip"
    }

    fn carrier(&self) -> Carrier {
        Carrier::Udp
    }

    fn note(&self) -> Option<&'static str> {
        Some(
            "two nodes of `Builder` with blocks. A dial lasts until the dialer's validator is asked \
             about the listener's tip, which comes with its hello",
        )
    }

    fn scope(&self) -> Scope {
        Scope::Dials
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            let member = Member::start(0)?;
            member.produce().await?;
            let at = member.node.addresses().into_iter().next().context("no address")?;
            let target = Target { socket: socket(&at)?, key: member.node.peer_id().to_string() };
            tokio::spawn(async move {
                let _member = member;
                std::future::pending::<()>().await;
            });
            Ok(target)
        })
    }

    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async move {
            let member = Member::start(number + 1)?;
            let peer = target.key.parse().ok().context("no key")?;
            let address = tidegate::transport::with_peer(address(target.socket)?, peer);
            Ok(Box::new(TipDialer { member, address }) as Box<dyn Dialer>)
        })
    }
}

struct TipDialer {
    member: Member,
    address: Multiaddr,
}

impl Dialer for TipDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let Self { mut member, address } = *self;
            member.node.dial(&address)?;
            member.headers.recv().await.context("the node is down")?;
            Ok(Box::new(member) as Box<dyn Link>)
        })
    }
}

impl Link for Member {
    fn ask(&mut self, _: u64, _: u32) -> Doing<'_, ()> {
        Box::pin(async { bail!("tips answer nothing") })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.node.shutdown().await })
    }
}
