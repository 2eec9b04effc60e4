//! QUIC, by quinn: one unidirectional stream for each channel and direction.
//!
//! A stream begins with its channel's number; a frame is its length and its bytes, both numbers
//! u32 and big-endian (specification section 4). Identities are proven by TLS 1.3 with self-signed
//! certificates of Ed25519 keys.
//!
//! Everything is driven from [`Transport::poll`]: what the driver does not ask for is not
//! read, so quinn's windows bound what a peer can send.
//!
//! # Not guaranteed
//!
//! That others see no metadata: who talks to whom, when and how much is on the wire. Peers behind
//! address translation are reached only if they dial, until there are relays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use multiaddr::Multiaddr;
use quinn::{RecvStream, SendStream, VarInt};
use tidegate_proto::Kind;
use tidegate_proto::Limits;
use tidegate_proto::config::{ENDING, FIRST_PACKETS, STRANGER_WINDOW, streams_for};
use tidegate_proto::id::{ConnectionId, DialId, PeerId};
use tidegate_proto::io::{Connected, DialError, Direction, Input};
use tidegate_proto::wire::{Binding, Frame, MAX_FRAME};

use super::{
    Dial, Happening, ListenError, Place, Places, Setup, Traffic, Transport, new_connection_id,
    to_core,
};
use crate::rt::{self, Instant};
use tokio::sync::{Mutex, Semaphore, oneshot};

mod dial;
mod first;
mod session;
mod socket;
mod stream;
mod tls;
mod watch;

pub use super::dialing::Resolver;
use super::dialing::{self, Name, first_of};
use super::form::Form;
use super::incoming::{HANDSHAKES, Incoming, KEPT, NetworkGroup, Verdict, network_group};
use super::secure;
pub use super::secure::TlsError;
use dial::{Attempt, Endpoints, Reached};
use stream::StreamError;
use watch::Watch;

/// Streams that a peer may open: one for each channel with a fixed number or an offer.
const STREAMS: u32 = Kind::most_instances();
/// Bytes of TLS messages that have arrived out of order: a handshake of this protocol has 2 KiB in
/// all.
const TLS_WAITING: usize = 4 << 10;
/// Incomplete large frames of a connection. Bytes that have been read leave QUIC's window, so
/// without a bound a peer could stop in the middle of a frame on each channel, and the node would
/// hold all of them. A node sends frames one after the other (R4.1.6), so honest peers never wait
/// for this.
const HALF_READ: usize = 2;
/// How long the last control frames may take to arrive.
const LAST_FRAMES: Duration = Duration::from_secs(1);
/// How long the last packets at shutdown may take to leave.
const LAST_PACKETS: Duration = Duration::from_millis(20);
/// quinn's idle timeout: much longer than that of the core.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How many bytes may be written beyond those in flight: one largest frame.
const AHEAD: u64 = MAX_FRAME as u64;

const CODE_CLOSED: u32 = 0;
const CODE_FRAMING: u32 = 1;

/// QUIC with one UDP socket for each listener, and one for dialing.
pub struct Quic {
    server: quinn::ServerConfig,
    client: tls::Dialer,
    transport: Arc<quinn::TransportConfig>,
    limits: Limits,
    places: Places,
    endpoints: Endpoints,
    resolver: Resolver,
    /// Dials in progress.
    dials: BTreeMap<DialId, Dialing>,
    connections: BTreeMap<ConnectionId, Connection>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    inputs: VecDeque<Happening>,
    /// Inbound connections that are not established yet, or have ended.
    incoming: Incoming,
    firsts: first::Firsts,
    /// Whether connections are being checked: while there are any.
    looks: bool,
    /// Traffic of closed connections.
    past: Traffic,
}

/// A dial in progress.
struct Dialing {
    peer: Option<PeerId>,
    /// Its timeout.
    until: Instant,
    /// Dropping it cancels the dial.
    _going: Option<oneshot::Sender<()>>,
}

struct Connection {
    quic: quinn::Connection,
    _place: Place,
    /// For an inbound connection, its network group.
    group: Option<NetworkGroup>,
    watch: Watch,
    /// Channels that the core reads.
    open: BTreeSet<u32>,
    /// Channels that have a stream.
    known: BTreeSet<u32>,
    /// Streams of channels that are not read yet.
    unread: BTreeMap<u32, RecvStream>,
    /// Streams that can take a frame.
    writers: BTreeMap<u32, SendStream>,
    /// Channels whose streams are being written.
    busy: BTreeSet<u32>,
    /// Streams that are being read or awaited.
    reading: usize,
    /// Places for incomplete large frames.
    half_read: Arc<Semaphore>,
    /// Held while a frame is written: one at a time, except on channel 0. R4.1.6
    writing: Arc<Mutex<()>>,
    /// When the core closed it.
    closing: Option<Instant>,
    /// The connection has ended; what arrived before is still being read.
    over: bool,
}

/// A completed task.
enum Done {
    Incoming(quinn::Endpoint, Option<Box<quinn::Incoming>>),
    Accepted(
        u64,
        Option<NetworkGroup>,
        SocketAddr,
        Result<quinn::Connection, quinn::ConnectionError>,
    ),
    Resolved(DialId, Vec<SocketAddr>),
    Dialed(DialId, Result<Reached, DialError>),
    Stream(ConnectionId, Result<(u32, RecvStream), StreamError>),
    Read(ConnectionId, u32, Result<(RecvStream, Bytes), StreamError>),
    Written(ConnectionId, u32, Option<SendStream>),
    Flushed(ConnectionId),
    Closed(ConnectionId),
    Look,
}

impl Connection {
    /// Whether the core has accepted the peer's hello.
    fn is_known(&self) -> bool {
        self.open.len() > 1
    }

    /// Ends the connection after a violation of the framing.
    fn break_off(&self, reason: &[u8]) {
        if self.quic.close_reason().is_none() {
            self.quic.close(CODE_FRAMING.into(), reason);
        }
    }
}

impl Quic {
    /// A transport for a node.
    pub fn new(setup: &Setup) -> Result<Self, TlsError> {
        let Setup { identity, limits, places } = setup;
        // A channel that is not read must leave part of the window to the others.
        let stream_window = VarInt::from_u32(limits.receive_window / 3 * 2);
        let idle = IDLE_TIMEOUT.try_into().expect("two minutes fit");
        let mut transport = quinn::TransportConfig::default();
        transport
            // For strangers; raised when the core opens channels.
            .max_concurrent_uni_streams(streams_for(1).into())
            .receive_window(limits.receive_window.min(STRANGER_WINDOW).into())
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .crypto_buffer_size(TLS_WAITING)
            .stream_receive_window(stream_window)
            .send_window(limits.send_window.into())
            // One complete frame is useful, two halves are not.
            .send_fairness(false)
            .congestion_controller_factory(Arc::new(watch::Watching::default()))
            .max_idle_timeout(Some(idle));
        let transport = Arc::new(transport);
        let mut server = tls::server(identity)?;
        server
            .transport_config(transport.clone())
            .migration(true)
            .max_incoming(HANDSHAKES)
            .incoming_buffer_size(u64::from(FIRST_PACKETS) / HANDSHAKES as u64)
            .incoming_buffer_size_total(FIRST_PACKETS.into());
        Ok(Self {
            server,
            client: tls::Dialer::new(identity)?,
            transport,
            limits: limits.clone(),
            places: places.clone(),
            endpoints: Endpoints::default(),
            resolver: dialing::system_resolver(),
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
            work: FuturesUnordered::new(),
            inputs: VecDeque::new(),
            incoming: Incoming::new(Instant::now(), watch::kept_for),
            firsts: first::Firsts::new(Instant::now()),
            looks: false,
            past: Traffic::default(),
        })
    }

    /// Sets another resolver than the system's.
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    fn accept_next(&mut self, endpoint: quinn::Endpoint) {
        let wait = self.firsts.wait(Instant::now());
        self.work.push(Box::pin(async move {
            if !wait.is_zero() {
                rt::sleep(wait).await;
            }
            let incoming = endpoint.accept().await;
            Done::Incoming(endpoint, incoming.map(Box::new))
        }));
    }

    fn on_incoming(&mut self, incoming: quinn::Incoming) {
        if self.places.is_full() {
            // Refused connections that are still closing must not pile up. A new one finds a place
            // if one of them can be ended at once.
            if self.hurry(|_| true) {
                incoming.ignore();
            } else {
                incoming.refuse();
            }
            return;
        }
        let (now, kept) = (Instant::now(), self.kept());
        let validated = incoming.remote_address_validated();
        let group = validated.then(|| network_group(incoming.remote_address().ip()));
        let strangers = self.connections.values().filter(|one| !one.is_known());
        let far = strangers.filter(|one| one.watch.is_far()).filter_map(|one| one.group);
        match self.incoming.verdict(
            now,
            kept,
            &far.collect::<Vec<_>>(),
            group,
            incoming.may_retry(),
        ) {
            Verdict::Ignore => return incoming.ignore(),
            Verdict::Retry => {
                // Fails only if a retry is not possible, which was checked.
                let _ = incoming.retry();
                return;
            }
            Verdict::Begin => {}
        }
        let (number, wait, given_up) = self.incoming.begin(now, group);
        // The handshake proves that the peer receives at this address. The source address of later
        // packets can be forged by anybody.
        let from = incoming.remote_address();
        let patience = self.limits.handshake_timeout;
        self.work.push(Box::pin(async move {
            // A timer would take a millisecond even for a duration of zero.
            if !wait.is_zero() {
                rt::sleep(wait).await;
            }
            let accepted = Box::pin(async { incoming.accept()?.await });
            let accepted = Box::pin(rt::within(patience, accepted));
            let result = match futures_util::future::select(accepted, given_up).await {
                futures_util::future::Either::Left((accepted, _)) => accepted,
                futures_util::future::Either::Right(_) => None,
            };
            let result = result.unwrap_or(Err(quinn::ConnectionError::TimedOut));
            Done::Accepted(number, group, from, result)
        }));
    }

    /// Ends the connection at once that has been closing for longest, among some.
    fn hurry(&self, which: impl Fn(&Connection) -> bool) -> bool {
        let open = |one: &&Connection| one.quic.close_reason().is_none() && which(one);
        let sent_away = self.connections.values().filter(open);
        let oldest =
            sent_away.filter_map(|one| Some((one.closing?, one))).min_by_key(|(since, _)| *since);
        if let Some((_, oldest)) = oldest {
            oldest.quic.close(CODE_CLOSED.into(), b"");
        }
        oldest.is_some()
    }

    /// A connection is no stranger's any more. Of those that got that far and are closing, only a
    /// few may remain: each holds as much as a peer's.
    fn hurry_beyond(&self) {
        let limits = &self.limits;
        let most = (limits.max_inbound + limits.max_outbound + ENDING) as usize;
        if self.connections.values().filter(|one| one.is_known()).count() > most {
            self.hurry(Connection::is_known);
        }
    }

    /// Ends connections that make quinn keep too much; repeats as long as there are connections.
    fn look_at_all(&mut self) {
        let now = Instant::now();
        for connection in self.connections.values_mut() {
            if let Some(excess) = connection.watch.excess(&connection.quic, now) {
                connection.break_off(excess);
            }
        }
        self.endpoints.forget_used();
        self.looks = !self.connections.is_empty();
        if self.looks {
            self.look_later();
        }
    }

    fn look_later(&self) {
        self.work.push(Box::pin(async {
            rt::sleep(watch::LOOK).await;
            Done::Look
        }));
    }

    /// Closed connections that quinn has not forgotten yet.
    fn kept(&self) -> usize {
        let open = self.endpoints.open_connections();
        open.saturating_sub(self.connections.len() + self.incoming.under_way())
    }

    fn connected(
        &mut self,
        Reached { quic, peer, listener }: Reached,
        direction: Direction,
        from: SocketAddr,
        place: Place,
    ) {
        let inbound = matches!(direction, Direction::Inbound);
        let group = inbound.then(|| network_group(from.ip()));
        let mut exporter = [0; 32];
        if quic.export_keying_material(&mut exporter, secure::EXPORTER_LABEL, b"").is_err() {
            quic.close(CODE_CLOSED.into(), b"");
            if let Direction::Outbound(dial) = direction {
                let error = DialError::Unreachable;
                self.say(Input::DialFailed { dial, error });
            }
            return;
        }
        // Opened before all others, since the peer may allow few.
        let control = stream::open(&quic, 0).now_or_never().flatten();
        let connection = new_connection_id();
        let closed = quic.clone();
        self.work.push(Box::pin(async move {
            closed.closed().await;
            Done::Closed(connection)
        }));
        let entry = Connection {
            quic,
            _place: place,
            group,
            watch: Watch::new(from, self.limits.silence, Instant::now()),
            open: [0].into(),
            known: BTreeSet::new(),
            unread: BTreeMap::new(),
            writers: control.into_iter().map(|stream| (0, stream)).collect(),
            busy: BTreeSet::new(),
            reading: 0,
            half_read: Arc::new(Semaphore::new(HALF_READ)),
            writing: Arc::default(),
            closing: None,
            over: false,
        };
        if !self.looks {
            self.looks = true;
            self.look_later();
        }
        self.connections.insert(connection, entry);
        self.next_stream(connection);
        self.say(Input::Connected(
            Connected::new(
                connection,
                peer,
                direction,
                to_core(&Form::Quic.address(from)),
                Binding::Exporter(exporter),
            )
            .from_listener(listener.as_ref().map(to_core)),
        ));
    }

    /// Dials from several sockets; the first to connect wins.
    fn connect(&mut self, dial: DialId, sockets: &[SocketAddr]) {
        let Some(peer) = self.dials.get(&dial).map(|dialing| dialing.peer) else { return };
        let (mut attempts, mut others) = (Vec::new(), Vec::new());
        for to in sockets {
            let endpoints = self.endpoints.towards(*to).into_iter().flatten();
            for (n, endpoint) in endpoints.enumerate() {
                let (from, listener) = (endpoint.quinn.clone(), endpoint.listener.clone());
                let config = self.client.config(peer, self.transport.clone());
                let attempt = Attempt { from, listener, config, to: *to };
                // Each address is tried once before any is tried a second time.
                if n == 0 { attempts.push(attempt) } else { others.push(attempt) }
            }
        }
        attempts.append(&mut others);
        self.reach(dial, attempts);
    }

    fn reach(&mut self, dial: DialId, attempts: Vec<Attempt>) {
        let Some(dialing) = self.dials.get_mut(&dial) else { return };
        let (peer, left) = (dialing.peer, dialing.until.saturating_duration_since(Instant::now()));
        let (going, given_up) = oneshot::channel::<()>();
        dialing._going = Some(going);
        self.work.push(Box::pin(async move {
            let racing = Box::pin(first_of(attempts.into_iter().map(Attempt::begin), left));
            let reached = match futures_util::future::select(racing, given_up).await {
                futures_util::future::Either::Left((reached, _)) => reached,
                futures_util::future::Either::Right(_) => Err(DialError::TimedOut),
            };
            let expected = |found: &Reached| peer.is_none_or(|peer| peer == found.peer);
            let reached = match reached {
                Ok(found) if !expected(&found) => Err(DialError::WrongPeer),
                reached => reached,
            };
            Done::Dialed(dial, reached)
        }));
    }

    /// Dials from a fresh socket, if one is available.
    fn dial_fresh(&mut self, dial: DialId, to: Option<SocketAddr>) {
        // Their connections are kept for a while as well.
        let to = to.filter(|_| self.kept() < KEPT);
        let from = to.and_then(|to| Some((to, self.endpoints.fresh(dial, to)?)));
        let Some((to, from)) = from else { return self.dial_failed(dial, DialError::Unreachable) };
        let peer = self.dials.get(&dial).and_then(|dialing| dialing.peer);
        let config = self.client.config(peer, self.transport.clone());
        self.reach(dial, vec![Attempt { from, listener: None, config, to }]);
    }

    /// Waits for the peer's next stream.
    fn next_stream(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.reading += 1;
        let quic = connection.quic.clone();
        self.work.push(Box::pin(async move { Done::Stream(id, stream::accept(&quic).await) }));
    }

    fn on_stream(&mut self, id: ConnectionId, channel: u32, mut stream: RecvStream) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // R4.1.2
        if !connection.known.insert(channel) {
            let _ = stream.stop(CODE_FRAMING.into());
            // A channel has only one stream.
            return connection.break_off(b"a channel opened twice");
        }
        let more = connection.known.len() < STREAMS as usize;
        // R4.1.5
        if connection.open.contains(&channel) {
            self.read_next(id, channel, stream);
        } else {
            connection.unread.insert(channel, stream);
        }
        if more {
            self.next_stream(id);
        }
    }

    /// Reads the next frame of a channel.
    fn read_next(&mut self, id: ConnectionId, channel: u32, mut stream: RecvStream) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.reading += 1;
        // Control never waits: its frames need no place.
        let places = (channel != 0).then(|| connection.half_read.clone());
        self.work.push(Box::pin(async move {
            let frame = stream::read(&mut stream, places.as_deref()).await;
            if frame.is_err() {
                let _ = stream.stop(CODE_CLOSED.into());
            }
            Done::Read(id, channel, frame.map(|frame| (stream, frame)))
        }));
    }

    fn on_written(&mut self, id: ConnectionId, channel: u32, stream: Option<SendStream>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.busy.remove(&channel);
        let Some(stream) = stream else {
            // The connection has ended, or the peer stopped the stream: otherwise the core would
            // wait for ever.
            return connection.break_off(b"a channel that was stopped");
        };
        connection.writers.insert(channel, stream);
        if connection.closing.is_some() {
            if channel == 0 {
                self.flush(id);
            }
            return;
        }
        // Data written beyond what the path can take would only wait there.
        let path = connection.quic.stats().path;
        let window = (path.cwnd + AHEAD).min(self.limits.send_window.into());
        connection.quic.set_send_window(window);
        self.say(Input::Writable { connection: id, channel });
    }

    /// The peer has sent its last message. It closes the connection once that is acknowledged; its
    /// notice is a single datagram, which may be lost.
    fn ended(&self, id: ConnectionId) {
        self.work.push(Box::pin(async move {
            rt::sleep(LAST_FRAMES).await;
            Done::Flushed(id)
        }));
    }

    /// Finishes channel 0 of a connection that the node has closed. Does not block: the connection ends when
    /// all its frames are acknowledged, or after [`LAST_FRAMES`].
    fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let control = connection.writers.remove(&0);
        self.work.push(Box::pin(async move {
            if let Some(mut control) = control
                && control.finish().is_ok()
            {
                let _ = rt::within(LAST_FRAMES, control.stopped()).await;
            }
            Done::Flushed(id)
        }));
    }

    fn on_stream_error(&self, id: ConnectionId, error: StreamError) {
        if let (StreamError::Framing, Some(connection)) = (error, self.connections.get(&id)) {
            connection.break_off(b"what is no frame");
        }
    }

    /// A read has completed, and its follow-up has been started.
    fn read_one(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.reading -= 1;
        }
        self.end_if_read(id);
    }

    /// The end of a connection is reported after the frames that arrived before it.
    fn end_if_read(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.over && connection.reading == 0 {
            self.past += traffic(&connection.quic);
            if let Some(mut connection) = self.connections.remove(&id) {
                // quinn keeps the connection for a while, but must not keep its data.
                let unread = std::mem::take(&mut connection.unread).into_values();
                let next = || connection.quic.accept_uni().now_or_never()?.ok();
                for mut stream in unread.chain(std::iter::from_fn(next)) {
                    let _ = stream.stop(CODE_CLOSED.into());
                }
                if connection.group.is_some() {
                    let kept_for = watch::kept_for(connection.quic.rtt());
                    self.incoming.has_ended(Instant::now(), kept_for, connection.group);
                }
            }
            self.say(Input::Closed { connection: id });
        }
    }

    fn say(&mut self, happening: impl Into<Happening>) {
        self.inputs.push_back(happening.into());
    }

    fn dial_failed(&mut self, dial: DialId, error: DialError) {
        if self.dials.remove(&dial).is_some() {
            self.say(Input::DialFailed { dial, error });
        }
    }

    fn on_dialed(&mut self, dial: DialId, reached: Result<Reached, DialError>) {
        self.endpoints.dialed(dial);
        match reached {
            // The dial was cancelled.
            Ok(reached) if self.dials.remove(&dial).is_none() => {
                reached.quic.close(CODE_CLOSED.into(), b"");
            }
            Ok(reached) => {
                // The address that answered: it decides the network group, whichever others a name
                // resolves to.
                let from = reached.quic.remote_address();
                let place = self.places.add();
                self.connected(reached, Direction::Outbound(dial), from, place);
            }
            Err(error) => self.dial_failed(dial, error),
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Incoming(endpoint, Some(incoming)) => {
                self.accept_next(endpoint);
                self.on_incoming(*incoming);
            }
            Done::Incoming(endpoint, None) => {
                let at = endpoint.local_addr().map(|bound| Form::Quic.address(bound));
                tracing::debug!("nobody is accepted any more at {at:?}");
            }
            Done::Accepted(number, group, from, result) => {
                let began = self.incoming.end(number);
                // Other connections may have taken the last places meanwhile.
                if let Ok(quic) = result
                    && let Some(peer) = tls::peer(&quic)
                    && let Some(place) = self.places.take()
                {
                    let reached = Reached { quic, peer, listener: None };
                    self.connected(reached, Direction::Inbound, from, place);
                } else {
                    self.incoming.has_come_to_nothing(Instant::now(), began, group);
                }
            }
            Done::Resolved(dial, sockets) if sockets.is_empty() => {
                self.dial_failed(dial, DialError::UnknownName);
            }
            Done::Resolved(dial, sockets) => self.connect(dial, &sockets),
            Done::Dialed(dial, reached) => self.on_dialed(dial, reached),
            Done::Stream(id, result) => {
                match result {
                    Ok((channel, stream)) => self.on_stream(id, channel, stream),
                    Err(error) => self.on_stream_error(id, error),
                }
                self.read_one(id);
            }
            Done::Read(id, channel, result) => {
                match result {
                    Ok((stream, frame)) => {
                        self.say(Input::Frame { connection: id, channel, frame: frame.into() });
                        self.read_next(id, channel, stream);
                    }
                    Err(StreamError::Over) if channel == 0 => self.ended(id),
                    Err(error) => self.on_stream_error(id, error),
                }
                self.read_one(id);
            }
            Done::Written(id, channel, stream) => self.on_written(id, channel, stream),
            Done::Flushed(id) => {
                if let Some(connection) = self.connections.get(&id) {
                    connection.quic.close(CODE_CLOSED.into(), b"");
                }
            }
            Done::Look => self.look_at_all(),
            Done::Closed(id) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.over = true;
                }
                self.end_if_read(id);
            }
        }
    }
}

impl Transport for Quic {
    fn handles(&self, address: &Multiaddr) -> bool {
        Form::Quic.socket(address).is_some() || Name::of(Form::Quic, address).is_some()
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        let at = Form::Quic.socket(address);
        let at = at.ok_or_else(|| ListenError::Unsupported(address.clone()))?;
        let listening = self.endpoints.listen(at, self.server.clone());
        let endpoint =
            listening.map_err(|source| ListenError::Io { address: address.clone(), source })?;
        self.accept_next(endpoint);
        self.say(Happening::Addresses);
        Ok(())
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.endpoints.listeners()
    }

    fn dial(&mut self, Dial { id, address, peer, patience, fresh }: Dial) {
        let until = Instant::now() + patience;
        self.dials.insert(id, Dialing { peer, until, _going: None });
        let to = Form::Quic.socket(&address);
        if fresh {
            return self.dial_fresh(id, to);
        }
        if let Some(to) = to {
            return self.connect(id, &[to]);
        }
        let Some(name) = Name::of(Form::Quic, &address) else {
            return self.dial_failed(id, DialError::UnsupportedAddress);
        };
        // Resolved again at each dial, since names change.
        let resolver = self.resolver.clone();
        self.work.push(Box::pin(async move {
            let found = rt::within(patience, name.resolve(resolver)).await;
            Done::Resolved(id, found.unwrap_or_default())
        }));
    }

    fn cancel(&mut self, dial: DialId) {
        self.dials.remove(&dial);
    }

    fn send(&mut self, id: ConnectionId, channel: u32, frame: Frame) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.closing.is_some() {
            return;
        }
        connection.busy.insert(channel);
        let stream = connection.writers.remove(&channel);
        let quic = connection.quic.clone();
        let turns = (channel != 0).then(|| connection.writing.clone());
        self.work.push(Box::pin(async move {
            let written = stream::write(&quic, stream, channel, &frame, turns.as_deref()).await;
            Done::Written(id, channel, written)
        }));
    }

    fn open(&mut self, id: ConnectionId, channel: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let was_known = connection.is_known();
        if connection.open.insert(channel) {
            // R4.1.7
            let streams = streams_for(connection.open.len() as u32).min(STREAMS);
            connection.quic.set_max_concurrent_uni_streams(streams.into());
            connection.quic.set_receive_window(self.limits.receive_window.into());
        }
        let stream = connection.unread.remove(&channel);
        if connection.is_known() && !was_known {
            self.hurry_beyond();
        }
        if let Some(stream) = stream {
            self.read_next(id, channel, stream);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.closing.is_some() {
            return;
        }
        connection.closing = Some(Instant::now());
        // A control frame that is being written goes first.
        if !connection.busy.contains(&0) {
            self.flush(id);
        } else {
            let closing = connection.quic.clone();
            self.work.push(Box::pin(async move {
                rt::sleep(LAST_FRAMES).await;
                closing.close(CODE_CLOSED.into(), b"");
                Done::Flushed(id)
            }));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        loop {
            if let Some(happening) = self.inputs.pop_front() {
                return Poll::Ready(happening);
            }
            match self.work.poll_next_unpin(cx) {
                Poll::Ready(Some(done)) => self.on_done(done),
                // Nothing to wait for until a task is started.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn shut_down(&mut self) -> super::BoxFuture<()> {
        let endpoints = self.endpoints.take();
        Box::pin(async move {
            let all = endpoints.into_iter().map(|endpoint| async move {
                endpoint.quinn.close(CODE_CLOSED.into(), b"");
                // The close notices have left by then. A peer that misses them finds the node gone.
                let _ = rt::within(LAST_PACKETS, endpoint.quinn.wait_idle()).await;
                endpoint.socket.close();
            });
            futures_util::future::join_all(all).await;
        })
    }

    fn traffic(&self) -> Traffic {
        let mut sum = self.past;
        for connection in self.connections.values() {
            sum += traffic(&connection.quic);
        }
        sum
    }
}

fn traffic(quic: &quinn::Connection) -> Traffic {
    let stats = quic.stats();
    Traffic::new(stats.udp_tx.bytes, stats.udp_rx.bytes)
}
