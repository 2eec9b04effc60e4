//! Transports under test, and a log of their events. Every step checks what must hold in all cases;
//! a case adds its own checks.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::Kind;
use crate::id::{ConnectionId, DialId, OfferId, PeerId};
use crate::io::{Connected, DialError, Direction, Exchange, Input};
use crate::transport::{Dial, Happening, Setup, from_core};
use crate::wire::{Binding, Description, Encode as _, Frame, MAX_FRAME, Writer};
use crate::{Identity, Limits, Multiaddr, Transport};
use bytes::Bytes;

/// The timeout of a case. Nothing waits for it unless the case fails.
const GUARD: Duration = Duration::from_secs(30);

/// Several transports, by their numbers.
pub struct Net<K> {
    pub kind: K,
    pub peers: Vec<Peer>,
    turn: usize,
    /// The dialer and the dial of each offer that was carried.
    offers: Vec<(usize, DialId)>,
}

/// A transport and the log of its events.
pub struct Peer {
    /// `None` once it has been dropped.
    pub transport: Option<Box<dyn Transport>>,
    pub id: PeerId,
    pub address: Option<Multiaddr>,
    pub links: BTreeMap<ConnectionId, Link>,
    /// The results of dials.
    pub dials: BTreeMap<DialId, Result<ConnectionId, DialError>>,
    dialed: u64,
    /// Where each dial goes.
    addresses: BTreeMap<DialId, Multiaddr>,
}

/// A connection as one side sees it.
pub struct Link {
    pub peer: PeerId,
    pub direction: Direction,
    pub address: Multiaddr,
    pub binding: Binding,
    pub closed: bool,
    closing: bool,
    open: BTreeSet<u32>,
    /// Channels with a frame that has not left yet.
    busy: BTreeSet<u32>,
    /// Received frames, by channel.
    pub received: BTreeMap<u32, Vec<Frame>>,
    /// How many frames have left, by channel.
    pub left: BTreeMap<u32, usize>,
}

impl Link {
    pub fn count(&self, channel: u32) -> usize {
        self.received.get(&channel).map_or(0, Vec::len)
    }

    pub fn bytes(&self, channel: u32) -> Vec<Bytes> {
        self.received.get(&channel).into_iter().flatten().map(Frame::to_bytes).collect()
    }

    pub fn writable(&self, channel: u32) -> bool {
        !self.closing && !self.closed && !self.busy.contains(&channel)
    }
}

impl<K: Kind> Net<K> {
    /// A network of `count` nodes, all of which listen.
    pub async fn new(count: usize) -> Self {
        let mut net = Self { kind: K::default(), peers: Vec::new(), turn: 0, offers: Vec::new() };
        for _ in 0..count {
            net.add_listener(Limits::default()).await;
        }
        net
    }

    /// Adds a node that listens, with limits.
    pub async fn add_listener(&mut self, limits: Limits) -> usize {
        let at = self.add_with(limits);
        let listen = self.kind.listen_address();
        let transport = self.peers[at].transport.as_mut().expect("it was just added");
        transport.listen(&listen).expect("an address to listen at");
        self.peers[at].on_addresses();
        // It may take a while until the transport can be reached there.
        self.until("an address", |net| net.peers[at].address.is_some()).await;
        at
    }

    /// Adds a node that listens, with places for two connections.
    pub async fn add_with_two_places(&mut self) -> usize {
        let mut limits = Limits::default();
        (limits.max_inbound, limits.max_outbound, limits.handshakes) = (1, 0, 1);
        self.add_listener(limits).await
    }

    /// Adds a node that does not listen.
    pub fn add(&mut self) -> usize {
        self.add_with(Limits::default())
    }

    /// The same, with limits.
    pub fn add_with(&mut self, limits: Limits) -> usize {
        let identity = Identity::generate().expect("randomness");
        let id = identity.peer_id();
        let transport = self.kind.transport(&Setup::new(identity, limits));
        self.peers.push(Peer::new(transport, id));
        self.peers.len() - 1
    }

    /// The address to dial a node at.
    pub fn way_to(&self, peer: usize) -> Multiaddr {
        self.kind.way_to(self.peers[peer].address.as_ref().expect("a listener"))
    }

    /// Starts a dial from one node to another.
    pub fn dial(&mut self, from: usize, to: usize, expected: Option<PeerId>) -> DialId {
        let address = self.way_to(to);
        self.peers[from].dial(&address, expected)
    }

    /// Connects two nodes; returns the connection as each of them sees it.
    pub async fn connect(&mut self, from: usize, to: usize) -> (End, End) {
        loop {
            let before = self.peers[to].links.len();
            let id = self.peers[to].id;
            let dial = self.dial(from, to, Some(id));
            self.until("a dial to end", |net| net.peers[from].dials.contains_key(&dial)).await;
            let connection = match self.peers[from].dials[&dial] {
                Ok(connection) => connection,
                // With losses, a handshake can take longer than a dial's timeout.
                Err(DialError::TimedOut) if K::LOSSY => continue,
                Err(ref error) => panic!("dialing: {error}"),
            };
            let links = |net: &Self| net.peers[to].links.len();
            self.until("the listener's side", |net| links(net) > before).await;
            // Numbers ascend, so the last one is the newest.
            let (inbound, _) = self.peers[to].links.last_key_value().expect("the new one");
            return (End(from, connection), End(to, *inbound));
        }
    }

    /// Two nodes with a connection.
    pub async fn pair() -> (Self, End, End) {
        let mut net = Self::new(2).await;
        let (a, b) = net.connect(0, 1).await;
        (net, a, b)
    }

    pub fn link(&self, end: End) -> &Link {
        &self.peers[end.0].links[&end.1]
    }

    /// Sends a frame on a channel that is writable.
    pub fn send(&mut self, end: End, channel: u32, frame: Frame) {
        let peer = &mut self.peers[end.0];
        let link = peer.links.get_mut(&end.1).expect("a connection");
        assert!(link.busy.insert(channel), "channel {channel} is not writable");
        peer.transport.as_mut().expect("a transport").send(end.1, channel, frame);
    }

    /// Waits until the channel is writable, then sends.
    pub async fn send_when_writable(&mut self, end: End, channel: u32, frame: Frame) {
        self.until("Writable", |net| net.link(end).writable(channel)).await;
        self.send(end, channel, frame);
    }

    pub fn open(&mut self, end: End, channel: u32) {
        let peer = &mut self.peers[end.0];
        peer.links.get_mut(&end.1).expect("a connection").open.insert(channel);
        peer.transport.as_mut().expect("a transport").open(end.1, channel);
    }

    pub fn close(&mut self, end: End) {
        let peer = &mut self.peers[end.0];
        peer.links.get_mut(&end.1).expect("a connection").closing = true;
        peer.transport.as_mut().expect("a transport").close(end.1);
    }

    /// Runs until a condition holds.
    pub async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                self.step().await;
            }
        };
        let waited = tokio::time::timeout(GUARD, waiting).await;
        assert!(waited.is_ok(), "{what}: not within {GUARD:?}");
    }

    /// Runs until a future of the test is done.
    pub async fn alongside<T>(&mut self, what: &str, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let waiting = async {
            loop {
                tokio::select! {
                    done = &mut future => return done,
                    () = self.step() => {}
                }
            }
        };
        let waited = tokio::time::timeout(GUARD, waiting).await;
        waited.unwrap_or_else(|_| panic!("{what}: not within {GUARD:?}"))
    }

    /// Runs until nothing has happened for a while. For checks that something does *not* happen:
    /// too short a while can only let a case pass that should have failed.
    pub async fn settle(&mut self) {
        while tokio::time::timeout(Duration::from_millis(300), self.step()).await.is_ok() {}
    }

    /// Sends a frame each way on channel 0 and waits for it: whatever was in transit before has had
    /// time to arrive, or to be dropped.
    pub async fn round_trip(&mut self, a: End, b: End) {
        for (from, to) in [(a, b), (b, a)] {
            let before = self.link(to).count(0);
            self.send_when_writable(from, 0, frame(b"round trip")).await;
            self.until("a round trip", |net| net.link(to).count(0) > before).await;
        }
    }

    /// Drops a transport, with all its connections.
    pub fn drop_transport(&mut self, peer: usize) {
        self.peers[peer].transport = None;
    }

    /// The next event of any transport.
    pub async fn step(&mut self) {
        let (at, happening) = poll_fn(|cx| {
            let count = self.peers.len();
            self.turn += 1;
            for at in (0..count).map(|n| (self.turn + n) % count) {
                if let Some(transport) = &mut self.peers[at].transport
                    && let Poll::Ready(happening) = transport.poll(cx)
                {
                    return Poll::Ready((at, happening));
                }
            }
            Poll::Pending
        })
        .await;
        match happening {
            Happening::Input(Input::Described { exchange, description }) => {
                self.carry(at, exchange, description);
            }
            Happening::Input(Input::Declined { offer }) => self.decline(offer),
            Happening::Input(input) => self.peers[at].on_input(input),
            Happening::Addresses => self.peers[at].on_addresses(),
        }
        // Transports do not yield by themselves, and their sockets have tasks of their own.
        tokio::task::consume_budget().await;
    }
}

/// Carries offers and answers, as the core does.
impl<K: Kind> Net<K> {
    fn carry(&mut self, from: usize, exchange: Exchange, description: Description) {
        let id = self.peers[from].id;
        let (to, exchange) = match exchange {
            Exchange::Dialed(dial) => {
                let dialed = &self.peers[from].addresses[&dial];
                if self.kind.silent().as_ref() == Some(dialed) {
                    return;
                }
                let is_at =
                    |peer: &Peer| peer.transport.is_some() && peer.address.as_ref() == Some(dialed);
                let Some(to) = self.peers.iter().position(is_at) else {
                    return self.fail(from, dial, DialError::Unreachable);
                };
                self.offers.push((from, dial));
                (to, Exchange::Offered(OfferId(self.offers.len() as u64 - 1)))
            }
            Exchange::Offered(OfferId(offer)) => {
                let (dialer, dial) = self.offers[offer as usize];
                (dialer, Exchange::Dialed(dial))
            }
        };
        if let Some(transport) = &mut self.peers[to].transport {
            transport.describe(exchange, id, description);
        }
    }

    fn decline(&mut self, OfferId(offer): OfferId) {
        let (dialer, dial) = self.offers[offer as usize];
        self.fail(dialer, dial, DialError::because("the offer was declined"));
    }

    fn fail(&mut self, dialer: usize, dial: DialId, error: DialError) {
        let peer = &mut self.peers[dialer];
        // It may have ended, or been cancelled.
        if let Some(transport) = &mut peer.transport
            && !peer.dials.contains_key(&dial)
        {
            transport.cancel(dial);
            peer.dials.insert(dial, Err(error));
        }
    }
}

/// One side of a connection: which node, and the number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End(pub usize, pub ConnectionId);

impl Peer {
    pub fn new(transport: Box<dyn Transport>, id: PeerId) -> Self {
        Self {
            transport: Some(transport),
            id,
            address: None,
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            dialed: 0,
            addresses: BTreeMap::new(),
        }
    }

    pub fn dial(&mut self, address: &Multiaddr, expected: Option<PeerId>) -> DialId {
        let patience = Limits::default().dial_timeout;
        self.start_dial(address, expected, patience)
    }

    /// Dials any node there, with a timeout.
    pub fn dial_within(&mut self, address: &Multiaddr, patience: Duration) -> DialId {
        self.start_dial(address, None, patience)
    }

    fn start_dial(
        &mut self,
        address: &Multiaddr,
        expected: Option<PeerId>,
        patience: Duration,
    ) -> DialId {
        self.dialed += 1;
        let dial = DialId(self.dialed);
        self.addresses.insert(dial, address.clone());
        let transport = self.transport.as_mut().expect("a transport");
        transport.dial(Dial::new(dial, address.clone()).to(expected).within(patience));
        dial
    }

    fn on_addresses(&mut self) {
        let transport = self.transport.as_ref().expect("a transport");
        self.address = transport.addresses().into_iter().next();
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Connected(connected) => {
                let Connected { connection, peer, direction, address, listener, binding, .. } =
                    connected;
                if let Direction::Outbound(dial) = direction {
                    let again = self.dials.insert(dial, Ok(connection));
                    assert_eq!(again, None, "a dial ends once");
                }
                let address = from_core(&address).expect("a multiaddr");
                let own = self.address.as_ref().map(crate::transport::to_core);
                assert!(listener.is_none() || listener == own && !direction.is_inbound());
                let link = Link {
                    peer,
                    direction,
                    address,
                    binding,
                    closed: false,
                    closing: false,
                    open: [0].into(),
                    busy: BTreeSet::new(),
                    received: BTreeMap::new(),
                    left: BTreeMap::new(),
                };
                let again = self.links.insert(connection, link);
                assert!(again.is_none(), "a connection is connected once");
            }
            Input::DialFailed { dial, error } => {
                assert_eq!(self.dials.insert(dial, Err(error)), None, "a dial ends once");
            }
            Input::Frame { connection, channel, frame } => {
                let link = self.live(connection);
                assert!(link.open.contains(&channel), "channel {channel} has not been opened");
                assert!(frame.len() <= MAX_FRAME, "a frame of {} bytes", frame.len());
                link.received.entry(channel).or_default().push(frame);
            }
            Input::Writable { connection, channel } => {
                let link = self.live(connection);
                assert!(link.busy.remove(&channel), "Writable of {channel} without a frame");
                *link.left.entry(channel).or_default() += 1;
            }
            Input::Closed { connection } => self.live(connection).closed = true,
            input => panic!("no transport gives {input:?}"),
        }
    }

    /// The connection, which must be open.
    fn live(&mut self, connection: ConnectionId) -> &mut Link {
        let link = self.links.get_mut(&connection).expect("Connected comes first");
        assert!(!link.closed, "Closed comes once, and last");
        link
    }
}

/// A frame of these bytes.
pub fn frame(bytes: &[u8]) -> Frame {
    Bytes::copy_from_slice(bytes).into()
}

/// A frame whose content says which channel and which frame of it this is.
pub fn numbered(channel: u32, number: u32, size: usize) -> Bytes {
    // SplitMix64 (Steele, Lea, Flood 2014), seeded with both numbers.
    let mut state = u64::from(channel) << 32 | u64::from(number);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    (0..size.div_ceil(8)).flat_map(|_| next().to_be_bytes()).take(size).collect()
}

/// A frame whose body is an allocation of its own.
pub fn with_body(head: &[u32], body: &Bytes) -> Frame {
    let mut writer = Writer::default();
    head.iter().for_each(|number| number.encode(&mut writer));
    writer.opaque(body, MAX_FRAME);
    writer.finish().expect("it fits into a frame")
}

/// More than a transport should take for a connection whose peer does not read.
pub fn most_unread() -> usize {
    let limits = Limits::default();
    (limits.receive_window + limits.send_window) as usize + MAX_FRAME
}
