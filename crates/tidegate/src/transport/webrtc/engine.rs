//! The task that owns the sockets and the connections.
//!
//! Packets find their connection by the ICE user name fragment of a check, the transaction of an answer, or the
//! address that a connection has proven to use; nothing is searched, since anybody can send packets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tidegate_proto::id::{ConnectionId, DialId, OfferId, PeerId};
use tidegate_proto::io::{Connected, DialError, Direction, Exchange, Input, Path};
use tidegate_proto::wire::{Binding, CandidateKind, Description, Frame};
use tokio::sync::mpsc::UnboundedReceiver;

use super::session::{Common, Happened, Role, Session, address_of as address_in};
use super::socket::{Buffers, Received, Socket};
use super::stun::{self, First, Transaction};
use crate::transport::form::Form;
use crate::transport::outbox::Outbox;
use crate::transport::{Place, Places, new_connection_id, to_core};

/// Inbound connections that are not up yet.
pub(super) const HANDSHAKES: usize = 32;
/// How long they may take.
const INBOUND_PATIENCE: Duration = Duration::from_secs(15);
/// Requests of one connection whose answers may still come.
const CHECKS: usize = 64;
/// Addresses from which a connection has had checks, and none proven yet.
const UNPROVEN: usize = 8;

/// What the node wants.
#[derive(Debug)]
pub(super) enum Order {
    Listen(Box<Socket>),
    Dial {
        id: DialId,
        peer: Option<PeerId>,
        patience: Duration,
    },
    Cancel(DialId),
    Describe(Exchange, PeerId, Description),
    Send(ConnectionId, u32, Frame),
    Open(ConnectionId, u32),
    Close(ConnectionId),
    /// Ends everything.
    ShutDown(tokio::sync::oneshot::Sender<()>),
}

/// Sockets that one connection uses: one for each listener, or for each version of IP. Two connections with the same
/// peer use different ones: DTLS packets of both would be between the same addresses.
#[derive(Default)]
struct Group {
    sockets: Vec<Socket>,
    connections: usize,
}

type Number = u64;

struct Peer {
    session: Session,
    exchange: Exchange,
    /// The identity that was asked for, and that the description proves.
    expected: Option<PeerId>,
    id: Option<PeerId>,
    /// The peer's addresses, as it has described them.
    remotes: BTreeSet<SocketAddr>,
    ufrag: Vec<u8>,
    group: usize,
    connection: Option<ConnectionId>,
    _place: Option<Place>,
    /// When it must be up.
    until: Instant,
    timer: Instant,
    checks: VecDeque<Transaction>,
    unproven: VecDeque<SocketAddr>,
    proven: Option<SocketAddr>,
}

/// The task's state.
pub(super) struct Engine {
    common: Common,
    orders: UnboundedReceiver<Order>,
    outbox: Arc<Outbox>,
    places: Places,
    groups: Vec<Group>,
    /// Boxed, since they are moved, and str0m's state is large.
    peers: BTreeMap<Number, Box<Peer>>,
    next: Number,
    by_connection: BTreeMap<ConnectionId, Number>,
    by_exchange: BTreeMap<Exchange, Number>,
    by_ufrag: BTreeMap<Vec<u8>, Number>,
    by_check: BTreeMap<Transaction, Number>,
    by_address: BTreeMap<(usize, SocketAddr), Number>,
    by_unproven: BTreeMap<(usize, SocketAddr), Number>,
    timers: BTreeSet<(Instant, Number)>,
    /// Those with frames for which there was no room.
    full: BTreeSet<Number>,
    /// Where the next round begins to read.
    turn: usize,
}

/// What the task does next.
enum Step {
    Order(Option<Order>),
    Read(usize, usize, usize),
    Timer,
    Room,
}

fn now() -> Instant {
    crate::rt::Instant::now().into_std()
}

/// A name that nobody can guess.
fn new_ufrag() -> Option<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    Some(hex::encode(random))
}

impl Engine {
    pub(super) fn new(
        common: Common,
        orders: UnboundedReceiver<Order>,
        outbox: Arc<Outbox>,
        places: Places,
    ) -> Self {
        Self {
            common,
            orders,
            outbox,
            places,
            groups: vec![Group::default()],
            peers: BTreeMap::new(),
            next: 0,
            by_connection: BTreeMap::new(),
            by_exchange: BTreeMap::new(),
            by_ufrag: BTreeMap::new(),
            by_check: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_unproven: BTreeMap::new(),
            timers: BTreeSet::new(),
            full: BTreeSet::new(),
            turn: 0,
        }
    }

    /// Runs until the transport is dropped or shut down.
    pub(super) async fn run(mut self) {
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let mut timer_at = None;
        let mut buffers = Buffers::default();
        loop {
            let next = self.timers.first().map(|(at, _)| *at);
            if next != timer_at
                && let Some(at) = next
            {
                timer.as_mut().reset(at.into());
                timer_at = next;
            }
            let step = std::future::poll_fn(|cx| {
                if let Poll::Ready(step) = self.poll_step(&mut buffers, cx) {
                    return Poll::Ready(step);
                }
                if timer_at.is_some() && next.is_some() && timer.as_mut().poll(cx).is_ready() {
                    timer_at = None;
                    return Poll::Ready(Step::Timer);
                }
                Poll::Pending
            });
            match step.await {
                Step::Order(None) => return self.end_all(),
                Step::Order(Some(Order::ShutDown(done))) => {
                    self.end_all();
                    drop(self);
                    // Nobody may wait for it any more.
                    let _ = done.send(());
                    return;
                }
                Step::Order(Some(order)) => self.on_order(order),
                Step::Read(group, socket, batches) => {
                    self.on_packets(&buffers, group, socket, batches);
                }
                Step::Timer => self.on_timers(),
                Step::Room => {
                    for number in std::mem::take(&mut self.full) {
                        self.settle(number);
                    }
                }
            }
            crate::rt::breathe().await;
        }
    }

    fn poll_step(&mut self, buffers: &mut Buffers, cx: &mut Context<'_>) -> Poll<Step> {
        if let Poll::Ready(order) = self.orders.poll_recv(cx) {
            return Poll::Ready(Step::Order(order));
        }
        if !self.full.is_empty() && self.outbox.poll_room(cx).is_ready() {
            return Poll::Ready(Step::Room);
        }
        self.turn = self.turn.wrapping_add(1);
        let (turn, groups) = (self.turn, self.groups.len());
        for group in (0..groups).map(|n| (n + turn) % groups) {
            let sockets = &mut self.groups[group].sockets;
            let count = sockets.len();
            for socket in (0..count).map(|n| (n + turn) % count) {
                let one = &mut sockets[socket];
                // What it cannot take now waits; ready or not, others go on.
                let _ = one.poll_flush(cx);
                match one.poll_read(buffers, cx) {
                    Poll::Ready(Ok(batches)) => {
                        return Poll::Ready(Step::Read(group, socket, batches));
                    }
                    // An error that a packet brought back: the next read goes on.
                    Poll::Ready(Err(_)) => cx.waker().wake_by_ref(),
                    Poll::Pending => {}
                }
            }
        }
        Poll::Pending
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Listen(socket) => self.groups[0].sockets.push(*socket),
            Order::Dial { id, peer, patience } => self.dial(id, peer, patience),
            Order::Cancel(dial) => {
                if let Some(number) = self.by_exchange.get(&Exchange::Dialed(dial)).copied() {
                    self.forget(number);
                }
            }
            Order::Describe(exchange, from, theirs) => self.describe(exchange, from, &theirs),
            Order::Send(connection, channel, frame) => {
                self.with(connection, |session, _| session.send(channel, frame));
            }
            Order::Open(connection, channel) => {
                self.with(connection, |session, _| session.open(channel));
            }
            Order::Close(connection) => self.with(connection, Session::close),
            Order::ShutDown(_) => {}
        }
    }

    fn with(&mut self, connection: ConnectionId, what: impl FnOnce(&mut Session, Instant)) {
        let Some(number) = self.by_connection.get(&connection).copied() else { return };
        if let Some(peer) = self.peers.get_mut(&number) {
            let now = now();
            what(&mut peer.session, now);
            peer.session.drive(now);
            self.settle(number);
        }
    }

    /// The sockets for a connection with this peer, or with one that is not known yet: others than those of a
    /// connection to the same address, or to one that is not known yet. R19.1.4
    fn group_for(
        &mut self,
        peer: Option<PeerId>,
        offer: Option<&Description>,
    ) -> std::io::Result<usize> {
        let offered = offer.map(|offer| &offer.candidates[..]).unwrap_or_default();
        let offered = offered.iter().filter_map(address_in).collect::<BTreeSet<_>>();
        let meets = |other: &Peer| {
            offered.is_empty() || other.remotes.is_empty() || !offered.is_disjoint(&other.remotes)
        };
        let used = |group: usize| {
            let with = |other: &Peer| {
                other.group == group && other.id.or(other.expected) == peer && meets(other)
            };
            self.peers.values().any(|other| with(other))
        };
        let free = (0..self.groups.len()).find(|group| peer.is_some() && !used(*group));
        let empty = (1..self.groups.len()).find(|group| self.groups[*group].connections == 0);
        let group = free.or(empty).unwrap_or(self.groups.len());
        if group == self.groups.len() {
            self.groups.push(Group::default());
        }
        if self.groups[group].sockets.is_empty() {
            let v4 = Socket::bind(([0; 4], 0).into())?;
            self.groups[group].sockets.push(v4);
            // A machine may be without IPv6.
            if let Ok(v6) = Socket::bind(([0u16; 8], 0).into()) {
                self.groups[group].sockets.push(v6);
            }
        }
        Ok(group)
    }

    fn begin(
        &mut self,
        exchange: Exchange,
        expected: Option<PeerId>,
        patience: Duration,
        offer: Option<&Description>,
    ) -> Result<Number, DialError> {
        let because = |error: std::io::Error| DialError::because(error.to_string());
        let group = self.group_for(expected, offer).map_err(because)?;
        let ufrag =
            new_ufrag().ok_or_else(|| DialError::because("the system has no randomness"))?;
        let role = match exchange {
            Exchange::Dialed(_) => Role::Offers,
            Exchange::Offered(_) => Role::Answers,
        };
        let now = now();
        let session = Session::new(&self.common, role, ufrag.clone(), now);
        let mut session =
            session.ok_or_else(|| DialError::because("no certificate for DTLS can be made"))?;
        for socket in &self.groups[group].sockets {
            for host in socket.hosts() {
                session.add_local(CandidateKind::Host, host, host);
            }
        }
        self.groups[group].connections += 1;
        let (number, until) = (self.next, now + patience);
        self.next += 1;
        self.by_ufrag.insert(ufrag.clone().into_bytes(), number);
        self.by_exchange.insert(exchange, number);
        self.timers.insert((until, number));
        let peer = Peer {
            session,
            exchange,
            expected,
            id: None,
            remotes: BTreeSet::new(),
            ufrag: ufrag.into_bytes(),
            group,
            connection: None,
            _place: None,
            until,
            timer: until,
            checks: VecDeque::new(),
            unproven: VecDeque::new(),
            proven: None,
        };
        self.peers.insert(number, Box::new(peer));
        Ok(number)
    }

    fn dial(&mut self, dial: DialId, peer: Option<PeerId>, patience: Duration) {
        let exchange = Exchange::Dialed(dial);
        match self.begin(exchange, peer, patience, None) {
            Ok(number) => {
                if let Some(peer) = self.peers.get_mut(&number) {
                    let description = peer.session.description();
                    self.outbox.give(Input::Described { exchange, description });
                }
            }
            Err(error) => self.outbox.give(Input::DialFailed { dial, error }),
        }
    }

    fn describe(&mut self, exchange: Exchange, from: PeerId, theirs: &Description) {
        let number = match exchange {
            Exchange::Dialed(_) => self.by_exchange.get(&exchange).copied(),
            Exchange::Offered(offer) => self.on_offer(offer, from, theirs),
        };
        let Some(peer) = number.and_then(|number| self.peers.get_mut(&number)) else { return };
        let number = number.unwrap_or_default();
        if peer.expected.is_some_and(|expected| expected != from) {
            return self.fail(number, DialError::WrongPeer);
        }
        peer.id = Some(from);
        peer.remotes = theirs.candidates.iter().filter_map(address_in).collect();
        if let Err(unusable) = peer.session.accept(theirs) {
            return self.fail(number, DialError::because(unusable.to_string()));
        }
        let answer = peer.session.description();
        peer.session.drive(now());
        if let Exchange::Offered(_) = exchange {
            self.outbox.give(Input::Described { exchange, description: answer });
        }
        self.settle(number);
    }

    /// An offer: begins a connection if there is a place.
    fn on_offer(&mut self, offer: OfferId, from: PeerId, theirs: &Description) -> Option<Number> {
        let exchange = Exchange::Offered(offer);
        let pending = self.peers.values().filter(|peer| peer.connection.is_none());
        let pending = pending.filter(|peer| matches!(peer.exchange, Exchange::Offered(_))).count();
        let begun = (pending < HANDSHAKES && !self.places.is_full())
            .then(|| self.begin(exchange, Some(from), INBOUND_PATIENCE, Some(theirs)).ok());
        let begun = begun.flatten();
        if begun.is_none() {
            self.outbox.give(Input::Declined { offer });
        }
        begun
    }

    /// Ends a connection that is not up.
    fn fail(&mut self, number: Number, error: DialError) {
        let Some(exchange) = self.peers.get(&number).map(|peer| peer.exchange) else { return };
        match exchange {
            Exchange::Dialed(dial) => self.outbox.give(Input::DialFailed { dial, error }),
            Exchange::Offered(offer) => self.outbox.give(Input::Declined { offer }),
        }
        self.forget(number);
    }

    fn forget(&mut self, number: Number) {
        let Some(mut peer) = self.peers.remove(&number) else { return };
        peer.session.abort();
        self.send_all(number, &mut peer);
        self.by_exchange.remove(&peer.exchange);
        self.by_ufrag.remove(&peer.ufrag);
        self.timers.remove(&(peer.timer, number));
        self.full.remove(&number);
        for check in &peer.checks {
            self.by_check.remove(check);
        }
        for address in &peer.unproven {
            self.forget_unproven(number, (peer.group, *address));
        }
        if let Some(address) = peer.proven {
            self.by_address.remove(&(peer.group, address));
        }
        if let Some(connection) = peer.connection {
            self.by_connection.remove(&connection);
        }
        let group = &mut self.groups[peer.group];
        group.connections -= 1;
        if group.connections == 0 && peer.group > 0 {
            group.sockets.clear();
        }
    }

    fn on_packets(&mut self, buffers: &Buffers, group: usize, socket: usize, batches: usize) {
        let of = self.groups.get(group).and_then(|group| group.sockets.get(socket));
        let received = of.map(|socket| socket.received(buffers, batches));
        let mut touched = BTreeSet::new();
        for received in received.into_iter().flatten() {
            self.outbox.received(received.bytes.len());
            let Some(number) = self.owner(group, &received) else { continue };
            let Some(peer) = self.peers.get_mut(&number) else { continue };
            let Received { source, destination, bytes } = received;
            peer.session.handle_packet(now(), source, destination, bytes);
            touched.insert(number);
        }
        touched.into_iter().for_each(|number| self.settle(number));
    }

    /// The connection that a packet belongs to.
    fn owner(&mut self, group: usize, received: &Received<'_>) -> Option<Number> {
        let from = (group, received.source);
        match stun::first_look(received.bytes) {
            First::Check(ufrag) => {
                let number = self.by_ufrag.get(ufrag).copied()?;
                let peer = self.peers.get_mut(&number).filter(|peer| peer.group == group)?;
                // DTLS may follow before this end has proven the address; and until one of several is nominated the
                // peer may use another than this end does. Who has proven one keeps it.
                let is_new = !peer.unproven.contains(&received.source);
                if is_new && peer.connection.is_none() && !self.by_address.contains_key(&from) {
                    peer.unproven.push_back(received.source);
                    self.by_unproven.insert(from, number);
                    if peer.unproven.len() > UNPROVEN
                        && let Some(oldest) = peer.unproven.pop_front()
                    {
                        self.forget_unproven(number, (group, oldest));
                    }
                }
                Some(number)
            }
            First::Answer(transaction) => self.by_check.get(&transaction).copied(),
            First::Dtls => {
                let known = self.by_address.get(&from).or_else(|| self.by_unproven.get(&from));
                known.copied()
            }
            First::Binding(_) | First::Other => None,
        }
    }

    /// A later connection may have had a check from the same address.
    fn forget_unproven(&mut self, number: Number, at: (usize, SocketAddr)) {
        if self.by_unproven.get(&at) == Some(&number) {
            self.by_unproven.remove(&at);
        }
    }

    fn on_timers(&mut self) {
        let now = now();
        while let Some((at, number)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, number));
            let Some(peer) = self.peers.get_mut(&number) else { continue };
            if peer.connection.is_none() && now >= peer.until {
                self.fail(number, DialError::TimedOut);
                continue;
            }
            peer.session.drive(now);
            self.settle(number);
        }
    }

    /// Sends what a session wants to send, and tells what has happened.
    fn settle(&mut self, number: Number) {
        let Some(mut peer) = self.peers.remove(&number) else { return };
        self.send_all(number, &mut peer);
        self.prove(number, &mut peer);
        while let Some(happened) = peer.session.next_happened() {
            match happened {
                Happened::Up if peer.connection.is_none() => self.on_up(number, &mut peer),
                Happened::Writable(channel) => {
                    if let Some(connection) = peer.connection {
                        self.outbox.give(Input::Writable { connection, channel });
                    }
                }
                Happened::Up | Happened::Reachable(_) => {}
            }
        }
        self.pass_on(number, &mut peer);
        let over = peer.session.is_over();
        let waits = peer.session.has_frame() && peer.connection.is_some();
        self.timers.remove(&(peer.timer, number));
        let timeout = peer.session.timeout();
        peer.timer = if peer.connection.is_none() { timeout.min(peer.until) } else { timeout };
        if over && !waits {
            return self.end(number, peer);
        }
        if !over {
            self.timers.insert((peer.timer, number));
        }
        self.peers.insert(number, peer);
    }

    fn send_all(&mut self, number: Number, peer: &mut Peer) {
        let sockets = &mut self.groups[peer.group].sockets;
        let mut batch = Vec::new();
        while let Some(packet) = peer.session.next_packet() {
            if let Some(check) = stun::request(&packet.contents) {
                self.by_check.insert(check, number);
                peer.checks.push_back(check);
                if peer.checks.len() > CHECKS
                    && let Some(oldest) = peer.checks.pop_front()
                {
                    self.by_check.remove(&oldest);
                }
            }
            self.outbox.sent(packet.contents.len());
            batch.push(packet);
        }
        if batch.is_empty() {
            return;
        }
        for socket in sockets {
            let is_from = |source: &SocketAddr| {
                source.port() == socket.address.port()
                    && source.is_ipv4() == socket.address.is_ipv4()
                    && (socket.address.ip().is_unspecified() || socket.address.ip() == source.ip())
            };
            let (own, others): (Vec<_>, _) =
                batch.into_iter().partition(|packet| is_from(&packet.source));
            socket.send(own);
            batch = others;
        }
    }

    /// The address to which a session sends DTLS has answered a check: packets from there are its own.
    fn prove(&mut self, number: Number, peer: &mut Peer) {
        let Some((_, to)) = peer.session.pair().filter(|(_, to)| peer.proven != Some(*to)) else {
            return;
        };
        if let Some(before) = peer.proven.take() {
            self.by_address.remove(&(peer.group, before));
        }
        // Of two connections the first keeps it: the other gets no packets, and fails.
        let owner = self.by_address.entry((peer.group, to)).or_insert(number);
        if *owner == number {
            peer.proven = Some(to);
            peer.unproven.retain(|address| *address != to);
            self.forget_unproven(number, (peer.group, to));
        }
    }

    fn on_up(&mut self, number: Number, peer: &mut Peer) {
        let (direction, place) = match peer.exchange {
            Exchange::Dialed(dial) => (Direction::Outbound(dial), Some(self.places.add())),
            Exchange::Offered(_) => (Direction::Inbound, self.places.take()),
        };
        let (Some(place), Some(id), Some(fingerprints), Some((_, to))) =
            (place, peer.id, peer.session.fingerprints(), peer.session.pair())
        else {
            return peer.session.close(now());
        };
        let connection = new_connection_id();
        peer.connection = Some(connection);
        for address in std::mem::take(&mut peer.unproven) {
            self.forget_unproven(number, (peer.group, address));
        }
        peer._place = Some(place);
        self.by_connection.insert(connection, number);
        let binding = Binding::Fingerprints(fingerprints);
        let connected =
            Connected::new(connection, id, direction, to_core(&Form::WebRtc.address(to)), binding);
        self.outbox.give(Input::Connected(connected.by(Path::Adapted)));
    }

    /// Passes on frames while there is room.
    fn pass_on(&mut self, number: Number, peer: &mut Peer) {
        let Some(connection) = peer.connection else { return };
        let mut taken = false;
        while peer.session.has_frame() {
            if !self.outbox.has_room() {
                self.full.insert(number);
                break;
            }
            if let Some((channel, frame)) = peer.session.next_frame() {
                self.outbox.give(Input::Frame { connection, channel, frame });
                taken = true;
            }
        }
        // Each frame that was taken gives the peer a credit.
        if taken {
            peer.session.drive(now());
            self.send_all(number, peer);
        }
    }

    /// A session has ended, and all that arrived was passed on.
    fn end(&mut self, number: Number, peer: Box<Peer>) {
        let connection = peer.connection;
        let cause = peer.session.cause().unwrap_or("it ended").to_owned();
        self.peers.insert(number, peer);
        match connection {
            Some(connection) => {
                self.forget(number);
                self.outbox.give(Input::Closed { connection });
            }
            None => self.fail(number, DialError::because(&cause)),
        }
    }

    /// Tells all peers that this end is gone.
    fn end_all(&mut self) {
        let all = self.peers.keys().copied().collect::<Vec<_>>();
        all.into_iter().for_each(|number| self.forget(number));
    }
}
