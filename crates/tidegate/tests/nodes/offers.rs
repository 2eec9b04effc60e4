//! Nodes that are connected by offers, which a common peer carries.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use tidegate::id::{ConnectionId, DialId, PeerId};
use tidegate::io::{DialError, Event, Exchange, Input};
use tidegate::transport::memory::{Memory, MemoryNetwork};
use tidegate::transport::{Dial, Happening, ListenError};
use tidegate::wire::{Description, Frame};
use tidegate::{Builder, Identity, Multiaddr, PoolSpec, Transport};

use super::application::{By, NETWORK, Notes, Running, accept_all};

/// Listens where nobody is told, except those that make an offer: the answer says where.
struct Hidden {
    inner: Memory,
    /// Dials that wait for an answer.
    dials: BTreeMap<DialId, Dial>,
    happened: VecDeque<Happening>,
    waker: Option<Waker>,
}

/// An offer, or an answer that tells an address.
fn description(address: &str) -> Description {
    Description {
        ufrag: "none".to_owned(),
        password: address.to_owned(),
        fingerprint: [0; 32],
        candidates: Vec::new(),
        max_message: 16 << 10,
        instances: 1,
        sctp: Vec::new().into(),
    }
}

impl Hidden {
    fn new(inner: Memory) -> Self {
        Self { inner, dials: BTreeMap::new(), happened: VecDeque::new(), waker: None }
    }

    fn happen(&mut self, input: Input) {
        self.happened.push_back(input.into());
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Transport for Hidden {
    fn handles(&self, _: &Multiaddr) -> bool {
        false
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        Err(ListenError::Unsupported(address.clone()))
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        Vec::new()
    }

    fn dial(&mut self, dial: Dial) {
        let (exchange, description) = (Exchange::Dialed(dial.id), description(""));
        self.dials.insert(dial.id, dial);
        self.happen(Input::Described { exchange, description });
    }

    fn cancel(&mut self, dial: DialId) {
        self.dials.remove(&dial);
        self.inner.cancel(dial);
    }

    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame) {
        self.inner.send(connection, channel, frame);
    }

    fn open(&mut self, connection: ConnectionId, channel: u32) {
        self.inner.open(connection, channel);
    }

    fn close(&mut self, connection: ConnectionId) {
        self.inner.close(connection);
    }

    fn takes_offers(&self) -> bool {
        true
    }

    fn describe(&mut self, exchange: Exchange, from: PeerId, theirs: Description) {
        match exchange {
            Exchange::Offered(_) => {
                let description = description(&self.inner.addresses()[0].to_string());
                self.happen(Input::Described { exchange, description });
            }
            Exchange::Dialed(dial) => {
                if let Some(mut dial) = self.dials.remove(&dial) {
                    assert_eq!(dial.peer, Some(from), "the core has checked it");
                    dial.address = theirs.password.parse().expect("an address");
                    self.inner.dial(dial);
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        if let Some(happening) = self.happened.pop_front() {
            return Poll::Ready(happening);
        }
        self.waker = Some(cx.waker().clone());
        self.inner.poll(cx)
    }
}

/// A node that listens in the open, and one that is to be found by way of it.
fn hidden(open: &By, hidden: &MemoryNetwork) -> Running {
    let network = hidden.clone();
    start(open, move |builder| {
        builder.transport(move |setup| {
            let mut inner = network.transport(setup);
            inner.listen(&"/memory/0".parse()?)?;
            Ok(Hidden::new(inner))
        })
    })
}

fn start(open: &By, add: impl FnOnce(Builder) -> Builder) -> Running {
    let identity = Identity::generate().expect("randomness");
    let builder = Builder::new(NETWORK, Notes, accept_all).pool(PoolSpec::new("notes"));
    Running::start(add(open.connect(builder, identity)))
}

fn by_offer(to: PeerId) -> Multiaddr {
    format!("/webrtc/p2p/{to}").parse().expect("a multiaddr")
}

/// Both are connected to a relay; one dials the other, and both hear of it.
async fn meet_by_way_of(relay: &mut Running, alice: &mut Running, bob: &mut Running) {
    alice.meet(relay).await;
    bob.meet(relay).await;
    let [alices, bobs] = [&*alice, &*bob].map(|running| running.node.peer_id());
    alice.node.dial(&by_offer(bobs)).expect("a dial");
    for (node, other) in [(alice, bobs), (bob, alices)] {
        let is_up =
            |event: &Event| matches!(event, Event::PeerConnected { peer, .. } if *peer == other);
        node.until(is_up).await;
    }
}

#[tokio::test]
async fn a_transport_of_any_kind_connects_by_offers() {
    let (open, network) = (By::memory(), MemoryNetwork::new());
    let mut relay = open.start(accept_all);
    let [mut alice, mut bob] = [hidden(&open, &network), hidden(&open, &network)];
    meet_by_way_of(&mut relay, &mut alice, &mut bob).await;
}

#[tokio::test]
async fn a_dial_by_offer_that_cannot_be_says_why() {
    let (open, network) = (By::memory(), MemoryNetwork::new());
    let mut relay = open.start(accept_all);
    let [mut alice, bob] = [hidden(&open, &network), hidden(&open, &network)];
    alice.meet(&mut relay).await;
    // Bob is not connected to the relay; and the relay itself takes no offers.
    for to in [&bob, &relay] {
        alice.node.dial(&by_offer(to.node.peer_id())).expect("a dial");
        let failed = alice.until(|event| matches!(event, Event::DialFailed { .. })).await;
        let Event::DialFailed { error, .. } = failed else { unreachable!("it was asked for") };
        assert_eq!(error, DialError::NoCommonPeer);
    }
}

#[cfg(all(feature = "quic", feature = "webrtc"))]
mod webrtc {
    use tidegate::io::Path;
    use tidegate::transport::webrtc::WebRtc;

    use super::*;

    fn node() -> Running {
        start(&By::Quic, |builder| builder.transport(|setup| Ok(WebRtc::new(setup))))
    }

    /// What one publishes comes to the other, without the relay.
    #[tokio::test]
    async fn two_nodes_meet_over_webrtc_by_way_of_one_over_quic() {
        let mut relay = By::Quic.start(accept_all);
        let [mut alice, mut bob] = [node(), node()];
        meet_by_way_of(&mut relay, &mut alice, &mut bob).await;
        relay.node.shutdown().await;
        alice.publish("after the relay is gone").await;
        bob.has("after the relay is gone").await;
        let status = alice.node.status().await.expect("a status");
        let paths = status.peers.iter().map(|peer| peer.path).collect::<Vec<_>>();
        assert!(paths.contains(&Path::Adapted), "{paths:?}");
    }
}
