//! A few nodes, links between them, and a clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};

use super::application::{TestRules, config, facts};
pub(super) use crate::Message;
use crate::id::{
    Address, ConnectionId, DialId, ItemId, PeerId, PoolIndex, SealingKey, Signature, Ticket,
};
use crate::io::{
    Admission, Command, Connected, DialError, Direction, Event, Exchange, Fate, Found, Input, Load,
    Output, Path, SignalError, Subject, TipChange, Verdict, Write,
};
use crate::wire::{Binding, Description, Encode as _, Frame, SignedStatement};
use crate::{Config, Node, Time};

/// One node with the state of its test application.
pub(super) struct Host {
    pub(super) node: Node,
    pub(super) events: Vec<Event>,
    pub(super) fates: BTreeMap<u64, Fate>,
    /// Tickets without a verdict.
    pub(super) open: BTreeMap<Ticket, Subject>,
    /// All tickets.
    pub(super) asked: Vec<Subject>,
    /// The verdicts to give at once.
    pub(super) judge: fn(&Subject) -> Option<Verdict>,
    /// Signs the host's peer records, if it has a key.
    pub(super) key: Option<SigningKey>,
    /// Whether to set the tip when a better block is accepted.
    pub(super) follows: bool,
    pub(super) disk: Disk,
    /// How often the store was asked to load something.
    pub(super) loads: usize,
    /// What came by way of others and is no statement, and what became of such that it sent.
    pub(super) signals: Vec<(PeerId, PeerId, Bytes)>,
    pub(super) signaled: BTreeMap<u64, Result<(), SignalError>>,
    /// What its transports were told of others.
    pub(super) descriptions: Vec<(Exchange, PeerId, Description)>,
    /// What its transports do with an offer.
    pub(super) on_offer: OnOffer,
    /// Whether they connect when there is an answer.
    pub(super) on_answer: bool,
    /// Changes what it says, before it is signed and sealed.
    pub(super) forges: Option<fn(&mut crate::wire::Statement)>,
    /// Everything that it had sealed, as it left.
    pub(super) sealed: Vec<Bytes>,
    executed: BTreeMap<crate::id::BlockId, Bytes>,
    requests: u64,
}

/// What the transports of a host do with an offer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnOffer {
    Answer,
    Decline,
    Nothing,
}

/// The store of a host.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) blocks: BTreeMap<crate::id::BlockId, (Bytes, Bytes)>,
    pub(super) tip: Option<crate::id::BlockId>,
    pub(super) items: BTreeMap<ItemId, Bytes>,
    /// If set, nothing becomes durable.
    pub(super) slow: bool,
}

impl Disk {
    /// Headers from the first above genesis to the tip.
    pub(super) fn chain(&self) -> Vec<Bytes> {
        let mut chain = Vec::new();
        let mut at = self.tip;
        while let Some((header, _)) = at.and_then(|block| self.blocks.get(&block)) {
            chain.push(header.clone());
            at = Some(facts(header).parent);
        }
        chain.reverse();
        chain
    }
}

/// One direction of one connection.
#[derive(Default)]
struct Wire {
    open: BTreeSet<u32>,
    unread: BTreeMap<u32, VecDeque<Frame>>,
    closed: bool,
}

pub(super) struct Net {
    pub(super) now: Time,
    pub(super) hosts: Vec<Host>,
    pub(super) delay: Duration,
    /// The path of connections that are dialed from now on.
    pub(super) path: Path,
    /// Every message that was delivered to a node: when, from, to, what.
    pub(super) log: Vec<(Time, usize, usize, Message)>,
    /// Frames of these channels get stuck: the channel never becomes writable.
    pub(super) stalled: BTreeSet<(usize, u32)>,
    /// Nothing passes from the first to the second.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Nodes that are not running: dials to them fail.
    pub(super) down: BTreeSet<usize>,
    events: BTreeMap<(Time, u64), (usize, Input)>,
    /// By connection: the two ends, and its path.
    ends: BTreeMap<ConnectionId, [usize; 2]>,
    paths: BTreeMap<ConnectionId, Path>,
    wires: BTreeMap<(ConnectionId, usize), Wire>,
    next: u64,
}

pub(super) fn accept(_: &Subject) -> Option<Verdict> {
    Some(Verdict::Accept(Admission::default()))
}

pub(super) fn withhold(_: &Subject) -> Option<Verdict> {
    None
}

impl Net {
    pub(super) fn new(count: u8) -> Self {
        Self::with((0..count).map(|n| config(n + 1)).collect())
    }

    pub(super) fn with(configs: Vec<Config>) -> Self {
        let host = |(n, config): (usize, Config)| Host {
            node: Node::new(config, Box::new(TestRules), [n as u8; 32], Time::ZERO).unwrap(),
            events: Vec::new(),
            fates: BTreeMap::new(),
            open: BTreeMap::new(),
            asked: Vec::new(),
            judge: accept,
            key: None,
            follows: true,
            disk: Disk::default(),
            loads: 0,
            executed: BTreeMap::new(),
            requests: 0,
            signals: Vec::new(),
            signaled: BTreeMap::new(),
            descriptions: Vec::new(),
            on_offer: OnOffer::Answer,
            on_answer: true,
            forges: None,
            sealed: Vec::new(),
        };
        Self {
            now: Time::ZERO,
            hosts: configs.into_iter().enumerate().map(host).collect(),
            delay: Duration::from_millis(10),
            path: Path::Direct,
            log: Vec::new(),
            stalled: BTreeSet::new(),
            cut: BTreeSet::new(),
            down: BTreeSet::new(),
            events: BTreeMap::new(),
            ends: BTreeMap::new(),
            paths: BTreeMap::new(),
            wires: BTreeMap::new(),
            next: 1,
        }
    }

    /// Two connected nodes.
    pub(super) fn pair() -> Self {
        let mut net = Self::new(2);
        net.connect(0, 1);
        net.run(Duration::from_secs(1));
        net.log.clear();
        net
    }

    /// `a` dials `b`.
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        let peer = self.peer(b);
        self.command(a, Command::Dial { address: address(b), peer: Some(peer) });
    }

    pub(super) fn peer(&self, n: usize) -> PeerId {
        self.hosts[n].node.config().peer
    }

    pub(super) fn command(&mut self, n: usize, command: Command) {
        self.hosts[n].node.handle_command(self.now, command);
        self.drain(n);
    }

    /// A relay gives a node something in the name of another, as no honest one would.
    pub(super) fn deliver_as_relay(
        &mut self,
        relay: usize,
        to: usize,
        from: PeerId,
        payload: Bytes,
    ) {
        let ends = [relay, to];
        let is = |of: &[usize; 2]| *of == ends || *of == [to, relay];
        let mut connections = self.ends.iter().rev();
        let connection = *connections.find(|(_, of)| is(of)).expect("a connection").0;
        let node = &self.hosts[to].node;
        let is_signal =
            |channel: &u32| node.kind_of(connection, *channel) == Some(crate::Kind::Signal);
        let channel = (16..32).find(is_signal).expect("a channel of signals");
        let message = crate::wire::SignalMessage::Deliver(crate::wire::Delivery { from, payload });
        let frame = message.to_frame().unwrap();
        self.later(Duration::ZERO, to, Input::Frame { connection, channel, frame });
    }

    /// What a node was told that became of what it delivered.
    pub(super) fn fates_of(&self, relay: usize) -> Vec<crate::wire::SignalFate> {
        let to = self.log.iter().filter(|(_, _, to, _)| *to == relay);
        let fates = to.filter_map(|(_, _, _, message)| match message {
            Message::Signal(crate::wire::SignalMessage::Delivered(settled)) => Some(settled.fate),
            _ => None,
        });
        fates.collect()
    }

    /// A node has something carried that is no statement.
    pub(super) fn carry(&mut self, n: usize, id: u64, by: (PeerId, PeerId), raw: Bytes) {
        self.hosts[n].node.carry(self.now, id, by, raw);
        self.drain(n);
    }

    pub(super) fn publish(&mut self, n: usize, pool: PoolIndex, body: &Bytes) -> Fate {
        self.publish_from(n, pool, body, 0)
    }

    pub(super) fn publish_from(
        &mut self,
        n: usize,
        pool: PoolIndex,
        body: &Bytes,
        from: u64,
    ) -> Fate {
        self.hosts[n].requests += 1;
        let request = self.hosts[n].requests;
        let admission = Admission { from, account: None };
        self.command(n, Command::Publish { request, pool, body: body.clone(), admission });
        self.hosts[n].fates[&request]
    }

    /// Publishes a block and makes it the tip.
    pub(super) fn produce(&mut self, n: usize, block: &crate::io::Block) {
        self.hosts[n].executed.insert(block.block, block.header.clone());
        self.command(n, Command::PublishBlock { request: 0, block: block.clone() });
        let tip = tip_change(block);
        self.command(n, Command::SetTip(tip));
    }

    pub(super) fn answer(&mut self, n: usize, ticket: Ticket, verdict: Verdict) {
        self.hosts[n].open.remove(&ticket);
        self.command(n, Command::Verdict { ticket, verdict });
    }

    /// Advances the time.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let timers = self.hosts.iter().filter_map(|host| host.node.poll_timeout());
            let timer = timers.map(|(at, _)| at).min();
            let Some(next) = event.into_iter().chain(timer).min().filter(|next| *next <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= next) {
                let (_, (to, input)) = self.events.pop_first().unwrap();
                self.deliver(to, input);
            } else {
                for n in 0..self.hosts.len() {
                    if self.hosts[n].node.poll_timeout().is_some_and(|(at, _)| at <= next) {
                        self.hosts[n].node.handle_timeout(self.now);
                        self.drain(n);
                    }
                }
            }
        }
        self.now = end;
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    /// A node restarts, and its peers do not notice.
    pub(super) fn restart(&mut self, n: usize) {
        let mut config = self.hosts[n].node.config().clone();
        config.peer_book = self.hosts[n].node.peer_book();
        if config.store {
            let chain = self.hosts[n].disk.chain();
            config.chain = chain.into_iter().rev().take(64).rev().collect();
        }
        let seed = [n as u8 + 100; 32];
        self.hosts[n].node = Node::new(config, Box::new(TestRules), seed, self.now).unwrap();
        self.hosts[n].events.clear();
        for ((_, end), wire) in &mut self.wires {
            wire.closed |= *end == n;
        }
    }

    /// Both ends notice that their connections are lost.
    pub(super) fn reset(&mut self, a: usize, b: usize) {
        for (connection, ends) in self.ends.clone() {
            if ends == [a, b] || ends == [b, a] {
                self.close(connection);
            }
        }
    }

    /// Ends connections that have this path.
    pub(super) fn reset_by(&mut self, path: Path) {
        let by = self.paths.iter().filter(|(_, of)| **of == path).map(|(id, _)| *id);
        by.collect::<Vec<_>>().into_iter().for_each(|connection| self.close(connection));
    }

    /// One end notices that its connections are lost, the other does not.
    pub(super) fn reset_one(&mut self, n: usize) {
        for (connection, ends) in self.ends.clone() {
            if ends.contains(&n) {
                self.later(Duration::ZERO, n, Input::Closed { connection });
            }
        }
    }

    pub(super) fn holds(&self, n: usize, pool: PoolIndex, body: &Bytes) -> bool {
        let id = super::application::id(pool, body);
        self.hosts[n].node.pool_ids(pool).any(|known| *known == id)
    }

    pub(super) fn ids(&self, n: usize, pool: PoolIndex) -> Vec<ItemId> {
        self.hosts[n].node.pool_ids(pool).copied().collect()
    }

    pub(super) fn height(&self, n: usize) -> u64 {
        self.hosts[n].node.tip().unwrap().height
    }

    /// Messages from one node to another that match a pattern.
    pub(super) fn sent<T>(
        &self,
        from: usize,
        to: usize,
        pick: impl Fn(&Message) -> Option<T>,
    ) -> Vec<T> {
        let passed = self.log.iter().filter(|(_, f, t, _)| (*f, *t) == (from, to));
        passed.filter_map(|(_, _, _, message)| pick(message)).collect()
    }

    /// Connections of a node that are up.
    pub(super) fn links(&self, n: usize) -> usize {
        self.hosts[n].node.status().peers.len()
    }

    fn later(&mut self, delay: Duration, to: usize, input: Input) {
        let at = self.now + delay;
        self.next += 1;
        self.events.insert((at, self.next), (to, input));
    }

    /// `a` dials `b` by way of a common peer.
    pub(super) fn offer(&mut self, a: usize, b: usize) {
        let peer = self.peer(b);
        self.command(a, Command::Dial { address: Address::by_offer(), peer: Some(peer) });
    }

    fn dial(&mut self, from: usize, dial: DialId, to: usize) {
        if self.cut.contains(&(from, to)) {
            // It is lost.
            return;
        }
        if self.down.contains(&to) || self.down.contains(&from) {
            let error = DialError::Unreachable;
            let delay = self.delay * 2;
            return self.later(delay, from, Input::DialFailed { dial, error });
        }
        self.connected_by(from, dial, to, self.path);
    }

    fn connected_by(&mut self, from: usize, dial: DialId, to: usize, path: Path) {
        let connection = ConnectionId(self.next);
        self.next += 1;
        self.ends.insert(connection, [from, to]);
        self.paths.insert(connection, path);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&connection.0.to_be_bytes());
        let binding = Binding::Exporter(bytes);
        let connected = |peer, direction, n| {
            let (address, binding) = (address(n), binding.clone());
            let connected = Connected::new(connection, peer, direction, address, binding);
            Input::Connected(connected.by(path))
        };
        let inbound = connected(self.peer(from), Direction::Inbound, from);
        let outbound = connected(self.peer(to), Direction::Outbound(dial), to);
        let delay = self.delay;
        self.later(delay, to, inbound);
        self.later(delay * 2, from, outbound);
        for end in [from, to] {
            let wire = Wire { open: [0].into(), ..Wire::default() };
            self.wires.insert((connection, end), wire);
        }
    }

    fn deliver(&mut self, to: usize, input: Input) {
        match &input {
            Input::Frame { connection, channel, frame } => {
                let Some(wire) = self.wires.get_mut(&(*connection, to)) else { return };
                if wire.closed {
                    return;
                }
                if !wire.open.contains(channel) {
                    wire.unread.entry(*channel).or_default().push_back(frame.clone());
                    return;
                }
                self.note(*connection, to, *channel, frame);
            }
            Input::Closed { connection } => {
                let Some(wire) = self.wires.get_mut(&(*connection, to)) else { return };
                if std::mem::replace(&mut wire.closed, true) {
                    return;
                }
            }
            _ => {}
        }
        self.hosts[to].node.handle_input(self.now, input);
        self.drain(to);
    }

    fn note(&mut self, connection: ConnectionId, to: usize, channel: u32, frame: &Frame) {
        let [a, b] = self.ends[&connection];
        let from = if to == a { b } else { a };
        let kind = [to, from].iter().find_map(|n| self.hosts[*n].node.kind_of(connection, channel));
        // Both ends may have closed the connection by now.
        let Some(kind) = kind else { return };
        let message = Message::decode(kind, frame).unwrap();
        self.log.push((self.now, from, to, message));
    }

    fn drain(&mut self, n: usize) {
        while let Some(output) = self.hosts[n].node.poll_output() {
            match output {
                Output::Dial { dial, address, .. } if address.is_by_offer() => {
                    let (exchange, description) = (Exchange::Dialed(dial), description_of(n));
                    self.later(Duration::ZERO, n, Input::Described { exchange, description });
                }
                Output::Dial { dial, address, .. } => {
                    let to = address.0[0] as usize;
                    self.dial(n, dial, to);
                }
                Output::Frame { connection, channel, frame } => {
                    let [a, b] = self.ends[&connection];
                    let to = if n == a { b } else { a };
                    if self.stalled.contains(&(n, channel)) {
                        continue;
                    }
                    if !self.cut.contains(&(n, to)) {
                        let delay = self.delay;
                        self.later(delay, to, Input::Frame { connection, channel, frame });
                    }
                    self.later(Duration::ZERO, n, Input::Writable { connection, channel });
                }
                Output::Open { connection, channel } => {
                    let Some(wire) = self.wires.get_mut(&(connection, n)) else { continue };
                    wire.open.insert(channel);
                    for frame in wire.unread.remove(&channel).into_iter().flatten() {
                        self.later(Duration::ZERO, n, Input::Frame { connection, channel, frame });
                    }
                }
                Output::Close { connection } => self.close(connection),
                Output::Sign { request, payload } => {
                    if let Some(key) = &self.hosts[n].key {
                        let signature = Signature(key.sign(&payload).to_bytes());
                        self.command(n, Command::Signature { request, signature });
                    }
                }
                Output::Verify { ticket, subject, .. } => self.verify(n, ticket, subject),
                Output::Published { request, fate } => {
                    self.hosts[n].fates.insert(request, fate);
                }
                Output::Event(event) => self.hosts[n].events.push(event),
                // Dials are answered at once here.
                Output::Cancel { .. } => {}
                Output::Seal { request, receiver, statement } => {
                    self.seal(n, request, receiver, statement);
                }
                Output::Unseal { request, via, from, sealed } => {
                    let statement = self.hosts[n].unseal(via, from, &sealed);
                    self.command(n, Command::Unsealed { request, statement });
                }
                Output::Describe { exchange, peer, description } => {
                    self.describe(n, exchange, peer, description);
                }
                Output::Load { request, what } => self.load(n, request, &what),
                Output::Store { request, write } => self.store(n, request, write),
            }
        }
        let host = &mut self.hosts[n];
        host.signaled.extend(host.node.carried());
    }

    /// Nothing in here is secret: what is sealed names whom it is sealed to.
    fn seal(&mut self, n: usize, request: u64, receiver: SealingKey, statement: Bytes) {
        let host = &mut self.hosts[n];
        let mut said = Frame::from(statement.clone()).decode::<crate::wire::Statement>().unwrap();
        let statement = match host.forges {
            Some(forge) => {
                forge(&mut said);
                said.to_bytes().unwrap()
            }
            None => statement,
        };
        let signature = host.key.as_ref().map_or([0; 64], |key| key.sign(&statement).to_bytes());
        let signed = SignedStatement { statement, signature: Signature(signature) };
        let sealed = Bytes::from([SEALED, &receiver.0, &signed.to_bytes().unwrap()].concat());
        host.sealed.push(sealed.clone());
        self.command(n, Command::Sealed { request, sealed: Some(sealed) });
    }

    fn describe(&mut self, n: usize, exchange: Exchange, peer: PeerId, description: Description) {
        self.hosts[n].descriptions.push((exchange, peer, description));
        match (exchange, self.hosts[n].on_offer) {
            (Exchange::Dialed(_), _) if !self.hosts[n].on_answer => {}
            (Exchange::Dialed(dial), _) => {
                let to = self.hosts.iter().position(|host| host.node.config().peer == peer);
                self.connected_by(n, dial, to.unwrap(), Path::Adapted);
            }
            (exchange @ Exchange::Offered(_), OnOffer::Answer) => {
                let description = description_of(n);
                self.later(Duration::ZERO, n, Input::Described { exchange, description });
            }
            (Exchange::Offered(offer), OnOffer::Decline) => {
                self.later(Duration::ZERO, n, Input::Declined { offer });
            }
            (Exchange::Offered(_), OnOffer::Nothing) => {}
        }
    }

    /// Handles a write of a host.
    fn store(&mut self, n: usize, request: u64, write: Write) {
        let host = &mut self.hosts[n];
        match write {
            Write::Item { id, body, .. } => drop(host.disk.items.insert(id, body)),
            Write::Forget { id, .. } => drop(host.disk.items.remove(&id)),
            Write::Block { block, header, body, .. } => {
                host.disk.blocks.insert(block, (header, body));
            }
            Write::Tip { block, .. } => host.disk.tip = Some(block),
        }
        if !host.disk.slow {
            host.node.handle_command(self.now, Command::Stored { request });
        }
    }

    fn load(&mut self, n: usize, request: u64, what: &Load) {
        let host = &mut self.hosts[n];
        let found = match what {
            Load::Block(block) => {
                let found = host.disk.blocks.get(block);
                found.map_or(Found::Nothing, |(_, body)| Found::Block(body.clone()))
            }
            Load::Headers { locator, most } => {
                let chain = host.disk.chain();
                let ids = chain.iter().map(|header| facts(header).block).collect::<Vec<_>>();
                let genesis = facts(&super::application::genesis()).block;
                let after = locator.iter().find_map(|known| {
                    if *known == genesis {
                        Some(0)
                    } else {
                        ids.iter().position(|id| id == known).map(|at| at + 1)
                    }
                });
                let headers = |from| chain.into_iter().skip(from).take(*most as usize).collect();
                after.map_or(Found::Nothing, |from| Found::Headers(headers(from)))
            }
        };
        host.loads += 1;
        host.node.handle_command(self.now, Command::Loaded { request, found });
    }

    fn close(&mut self, connection: ConnectionId) {
        let [a, b] = self.ends[&connection];
        let delay = self.delay;
        self.later(delay, a, Input::Closed { connection });
        self.later(delay, b, Input::Closed { connection });
    }

    fn verify(&mut self, n: usize, ticket: Ticket, subject: Subject) {
        let host = &mut self.hosts[n];
        host.asked.push(subject.clone());
        let Some(verdict) = (host.judge)(&subject) else {
            host.open.insert(ticket, subject);
            return;
        };
        host.node.handle_command(self.now, Command::Verdict { ticket, verdict });
        if let (Subject::Block(block), Verdict::Accept(_)) = (&subject, verdict)
            && host.follows
        {
            let better = host.node.tip().is_none_or(|tip| {
                crate::rules::Rules::compare(&TestRules, &facts(&block.header), tip).is_gt()
            });
            host.executed.insert(block.block, block.header.clone());
            if better {
                host.node.handle_command(self.now, Command::SetTip(tip_change(block)));
            }
        }
    }
}

/// The items of the block leave the pools.
fn tip_change(block: &crate::io::Block) -> TipChange {
    let key = |item: &crate::io::BlockItem| {
        let name = &config(0).pools[item.pool.0 as usize].name;
        let facts = crate::rules::Rules::item(&TestRules, name, &item.body).unwrap();
        (item.pool, facts.key)
    };
    TipChange { remove: block.items.iter().map(key).collect(), ..TipChange::new(block.block) }
}

/// What the sealed statements of a net begin with; the key that they are sealed to follows.
pub(super) const SEALED: &[u8] = b"sealed";

impl Host {
    fn unseal(&mut self, via: PeerId, from: PeerId, sealed: &Bytes) -> Option<Bytes> {
        let Some(rest) = sealed.strip_prefix(SEALED) else {
            self.signals.push((via, from, sealed.clone()));
            return Some(super::TAKEN);
        };
        let key = self.node.config().sealing?;
        rest.strip_prefix(&key.0).map(Bytes::copy_from_slice)
    }
}

/// What the transports of a node say of it.
pub(super) fn description_of(n: usize) -> Description {
    Description {
        ufrag: format!("host {n}"),
        password: "x".repeat(24),
        fingerprint: [n as u8; 32],
        candidates: Vec::new(),
        max_message: 16_384,
        instances: 8,
        sctp: Bytes::new(),
    }
}

pub(super) fn address(n: usize) -> Address {
    Address(Bytes::from(vec![n as u8]))
}

/// A node listens at these addresses.
pub(super) fn listening(listeners: Vec<Address>) -> Command {
    Command::Listening { listeners, interfaces: Vec::new(), external: Vec::new() }
}

/// A filter for the log: the variants of a message that a pattern matches.
macro_rules! pick {
    ($pattern:pat => $value:expr) => {
        |message: &Message| match message {
            $pattern => Some($value),
            _ => None,
        }
    };
}
pub(super) use pick;
