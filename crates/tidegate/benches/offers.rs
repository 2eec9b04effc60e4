//! Connections by way of a common peer: over WebRTC on the loopback interface.
//!
//! `cargo bench -p tidegate --bench offers`; `-- --quick` does less, `-- --only mesh` runs one part.
//!
//! - `dial`: the time from a dial to the end of the hello, of whole nodes: to a node that listens, over QUIC, and to one
//!   that listens nowhere, by way of a third; 200 of each, in turns. Medians, and 99 of 100.
//! - `mesh`: 4, 10 and 50 nodes that listen nowhere and know one that does. How long it takes until each has a connection
//!   to each other, and how many frames of the channel *signal* the one in between took for each of these.

#[path = "shared/helper.rs"]
#[allow(dead_code, reason = "each bench needs a part of it")]
mod helper;

use std::time::{Duration, Instant};

use tidegate::id::{ItemKey, NetworkId, PeerId};
use tidegate::io::Event;
use tidegate::rules::{ItemFacts, Rules};
use tidegate::transport::webrtc::WebRtc;
use tidegate::{Builder, Events, Identity, Limits, Multiaddr, Node, PoolSpec, accept_all};

/// Nodes are dialed once each, in batches of this size.
const BATCH: usize = 20;
/// How long all links may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Anything;

impl Rules for Anything {
    fn id(&self) -> &str {
        "anything"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        Some(ItemFacts { key: ItemKey(self.item_id(pool, body).0), priority: 0, chain: None })
    }
}

fn main() {
    // `cargo test` runs benches too, to check that they build.
    if !helper::flag("--bench") {
        return;
    }
    let quick = helper::flag("--quick");
    let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if wanted("dial") {
        runtime.block_on(dial(if quick { BATCH } else { 200 }));
    }
    if wanted("mesh") {
        let sizes: &[usize] = if quick { &[4, 10] } else { &[4, 10, 50] };
        sizes.iter().for_each(|size| runtime.block_on(mesh(*size)));
    }
}

/// A node; `add` says what it is connected by.
fn start(outbound: u32, add: impl FnOnce(Builder) -> Builder) -> (Node, Events) {
    let mut limits = Limits::default();
    (limits.max_inbound, limits.max_outbound) = (300, 300);
    let builder = Builder::new(NetworkId([1; 32]), Anything, accept_all)
        .identity(Identity::generate().expect("randomness"))
        .pool(PoolSpec::new("anything"))
        .limits(limits)
        .workers(1)
        .outbound(outbound);
    add(builder).start().expect("a node")
}

fn listens(builder: Builder) -> Builder {
    builder.listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address"))
}

fn webrtc(builder: Builder) -> Builder {
    builder.transport(|setup| Ok(WebRtc::new(setup)))
}

async fn connected(events: &mut Events, to: PeerId) {
    loop {
        match events.next().await.expect("a running node") {
            Event::PeerConnected { peer, .. } if peer == to => return,
            Event::DialFailed { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
}

/// Dials and waits until the peer is connected.
async fn time(from: &mut (Node, Events), to: PeerId, at: &Multiaddr) -> f64 {
    let begun = Instant::now();
    from.0.dial(at).expect("a running node");
    connected(&mut from.1, to).await;
    begun.elapsed().as_secs_f64() * 1e3
}

async fn dial(count: usize) {
    let (mut quic, mut offered) = (Vec::new(), Vec::new());
    while offered.len() < count {
        let relay = start(0, listens);
        let relay_at = relay.0.addresses().remove(0);
        let mut dialer = start(0, webrtc);
        time(&mut dialer, relay.0.peer_id(), &relay_at).await;
        for _ in 0..BATCH {
            let open = start(0, listens);
            let (to, at) = (open.0.peer_id(), open.0.addresses().remove(0));
            quic.push(time(&mut dialer, to, &at).await);
            let mut hidden = start(0, webrtc);
            time(&mut hidden, relay.0.peer_id(), &relay_at).await;
            let to = hidden.0.peer_id();
            let at = format!("/webrtc/p2p/{to}").parse().expect("an address");
            offered.push(time(&mut dialer, to, &at).await);
        }
    }
    for (what, times) in [("quic", &mut quic), ("webrtc by a common peer", &mut offered)] {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        let (p50, p99) = (at(50), at(99));
        println!("dial  {what:24} p50 {p50:5.1} ms  p99 {p99:5.1} ms  of {}", times.len());
    }
}

async fn mesh(size: usize) {
    let relay = start(0, listens);
    let at = relay.0.addresses().remove(0);
    let begun = Instant::now();
    let nodes = (0..size).map(|_| start(size as u32, |b| webrtc(b.bootstrap(&at))));
    let nodes = nodes.collect::<Vec<_>>();
    let links = size * (size - 1) / 2;
    let took = loop {
        let mut ends = 0;
        for (node, _) in &nodes {
            let status = node.status().await.expect("a running node");
            ends += status.peers.iter().filter(|peer| peer.transport == "webrtc").count();
        }
        if ends >= 2 * links {
            break Some(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            println!("mesh  {size} nodes: {} of {links} links after {PATIENCE:?}", ends / 2);
            break None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let Some(took) = took else { return };
    let stats = relay.0.stats().await.expect("a running node");
    let frames = stats.frames().find(|(channel, _)| *channel == "signal");
    let frames = frames.map_or(0, |(_, frames)| frames.received);
    let each = frames as f64 / links as f64;
    println!(
        "mesh  {size:2} nodes: {links} links in {took:.1?}, {each:.1} frames to the relay for each"
    );
}
