//! Transports that need to say something to each other before they have a connection: a common peer carries it.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use multiaddr::Protocol;
use tidegate::id::{ConnectionId, DialId, PeerId, SignalId};
use tidegate::io::{DialError, Event, Input, SignalError};
use tidegate::transport::memory::{Memory, MemoryNetwork};
use tidegate::transport::{Dial, Happening, ListenError, Signal, new_signal_id};
use tidegate::wire::Frame;
use tidegate::{Builder, Identity, Multiaddr, PoolSpec, Transport};

use super::application::{By, NETWORK, Notes, Running, accept_all};

const ASKS: &[u8] = b"hidden: where are you?";
const TELLS: &[u8] = b"hidden: at ";

/// Listens where nobody is told, except those that ask by way of a common peer: `/p2p/RELAY/p2p-circuit`.
struct Hidden {
    inner: Memory,
    /// Dials that wait for an answer, by whom they are to reach.
    asked: BTreeMap<PeerId, Dial>,
    /// The same by the number of the question.
    numbers: BTreeMap<SignalId, PeerId>,
    happened: VecDeque<Happening>,
    waker: Option<Waker>,
}

/// The relay that an address names.
fn relay(address: &Multiaddr) -> Option<PeerId> {
    let mut parts = address.iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::P2p(relay)), Some(Protocol::P2pCircuit), None) => {
            relay.to_base58().parse().ok()
        }
        _ => None,
    }
}

impl Hidden {
    fn new(inner: Memory) -> Self {
        let (asked, numbers) = (BTreeMap::new(), BTreeMap::new());
        Self { inner, asked, numbers, happened: VecDeque::new(), waker: None }
    }

    fn happen(&mut self, happening: impl Into<Happening>) {
        self.happened.push_back(happening.into());
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    fn say(&mut self, via: PeerId, to: PeerId, payload: Vec<u8>) -> SignalId {
        let id = new_signal_id();
        self.happen(Input::Signal { id, via, to, payload: payload.into() });
        id
    }
}

impl Transport for Hidden {
    fn handles(&self, address: &Multiaddr) -> bool {
        relay(address).is_some()
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        Err(ListenError::Unsupported(address.clone()))
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        Vec::new()
    }

    fn dial(&mut self, dial: Dial) {
        let (Some(via), Some(to)) = (relay(&dial.address), dial.peer) else {
            return self.happen(Input::DialFailed { dial: dial.id, error: DialError::Unreachable });
        };
        let id = self.say(via, to, ASKS.to_vec());
        self.numbers.insert(id, to);
        self.asked.insert(to, dial);
    }

    fn cancel(&mut self, dial: DialId) {
        self.asked.retain(|_, asked| asked.id != dial);
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

    fn takes_signals(&self) -> bool {
        true
    }

    fn signal(&mut self, signal: &Signal) -> bool {
        if signal.payload == ASKS {
            let at = self.inner.addresses()[0].to_string();
            self.say(signal.via, signal.from, [TELLS, at.as_bytes()].concat());
            return true;
        }
        let Some(address) = signal.payload.strip_prefix(TELLS) else { return false };
        let address = std::str::from_utf8(address).ok().and_then(|text| text.parse().ok());
        if let Some(address) = address
            && let Some(mut dial) = self.asked.remove(&signal.from)
        {
            dial.address = address;
            self.inner.dial(dial);
        }
        true
    }

    fn signaled(&mut self, id: SignalId, result: Result<(), SignalError>) {
        let asked = self.numbers.remove(&id);
        if let Err(error) = result
            && let Some(dial) = asked.and_then(|peer| self.asked.remove(&peer))
        {
            let error = DialError::because(error.to_string());
            self.happen(Input::DialFailed { dial: dial.id, error });
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
fn start(open: &By, hidden: &MemoryNetwork) -> Running {
    let identity = Identity::generate().expect("randomness");
    let builder = Builder::new(NETWORK, Notes, accept_all).pool(PoolSpec::new("notes"));
    let network = hidden.clone();
    let builder = open.connect(builder, identity).transport(move |setup| {
        let mut inner = network.transport(setup);
        inner.listen(&"/memory/0".parse()?)?;
        Ok(Hidden::new(inner))
    });
    Running::start(builder)
}

fn through(relay: &Running, to: &Running) -> Multiaddr {
    let address = format!("/p2p/{}/p2p-circuit/p2p/{}", relay.node.peer_id(), to.node.peer_id());
    address.parse().expect("a multiaddr")
}

#[tokio::test]
async fn a_transport_connects_by_way_of_a_common_peer() {
    let (open, hidden) = (By::memory(), MemoryNetwork::new());
    let mut relay = open.start(accept_all);
    let [mut alice, mut bob] = [start(&open, &hidden), start(&open, &hidden)];
    alice.meet(&mut relay).await;
    bob.meet(&mut relay).await;
    alice.node.dial(&through(&relay, &bob)).expect("a dial");
    let [alices, bobs] = [&alice, &bob].map(|running| running.node.peer_id());
    for (node, other) in [(&mut alice, bobs), (&mut bob, alices)] {
        let is_up =
            |event: &Event| matches!(event, Event::PeerConnected { peer, .. } if *peer == other);
        node.until(is_up).await;
    }
}

#[tokio::test]
async fn a_dial_fails_if_its_signal_reaches_nobody() {
    let (open, hidden) = (By::memory(), MemoryNetwork::new());
    let mut relay = open.start(accept_all);
    let [mut alice, bob] = [start(&open, &hidden), start(&open, &hidden)];
    alice.meet(&mut relay).await;
    // Bob is not connected to the relay; and the relay itself takes no signals.
    for (via, to, why) in [
        (&relay, &bob, "the relay has no connection to the receiver"),
        (&relay, &relay, "the receiver takes no signals"),
        (&bob, &relay, "no connection to a peer that carries signals there"),
    ] {
        alice.node.dial(&through(via, to)).expect("a dial");
        let failed = alice.until(|event| matches!(event, Event::DialFailed { .. })).await;
        assert!(format!("{failed:?}").contains(why), "{failed:?}");
    }
}
