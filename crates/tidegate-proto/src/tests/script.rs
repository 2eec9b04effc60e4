//! A node, and a peer that the test plays: it may send anything.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::application::{TestRules, config};
use crate::config::PoolSpec;
use crate::id::{
    Address, ConnectionId, DialId, Digest, ItemId, PeerId, PoolIndex, Salt, SealingKey, Ticket,
};
use crate::io::{
    Admission, Block, BlockItem, Command, Connected, Direction, Event, Fate, Input, Load, Output,
    SignalError, Subject, Verdict, Write,
};
use crate::rules::Rules;
use crate::wire::{
    Binding, BlockFetch, BlockMessage, Compact, ControlMessage, Decode, Encode, Frame, Goodbye,
    Grant, Group, Hello, Offer, OfferedVersion, PoolMessage, Refusal, Return, Setup,
};
use crate::{Config, Node, Time, Violation};

pub(super) const CONTROL: u32 = 0;
pub(super) const TIP: u32 = 1;
pub(super) const RPC: u32 = 2;
/// Sorted by kind and name. R5.7.3
pub(super) const BLOCK: u32 = 16;
pub(super) const LARGE_POOL: u32 = 17;
pub(super) const SMALL_POOL: u32 = 18;
pub(super) const PEERS: u32 = 19;
pub(super) const SIGNAL: u32 = 20;

/// The grant of the test's peers on the signal channel.
pub(super) const SIGNAL_GRANT: Grant =
    Grant { announcements: 0, bodies: 2, body_bytes: 0, requests: 2, fetch_bytes: 0 };

/// The identity of the test's peer.
pub(super) const PEER: PeerId = PeerId([9; 32]);
/// The salt of the test's peer.
pub(super) const SALT: Salt = Salt([5; 16]);

pub(super) struct Script {
    pub(super) node: Node,
    rules_id: String,
    pub(super) now: Time,
    pub(super) connection: ConnectionId,
    /// Frames that the node sent on the present connection, and that the test has not taken.
    sent: VecDeque<(u32, Frame)>,
    pub(super) questions: Vec<(Ticket, Subject)>,
    pub(super) events: Vec<Event>,
    pub(super) closed: BTreeSet<ConnectionId>,
    /// The verdicts to give at once.
    pub(super) judge: fn(&Subject) -> Option<Verdict>,
    next: u64,
    pub(super) dials: Vec<DialId>,
    /// Dials that were cancelled.
    pub(super) cancelled: Vec<DialId>,
    /// Frames on other connections than the present one.
    pub(super) elsewhere: Vec<(ConnectionId, u32, Frame)>,
    /// Loads and writes of the node.
    pub(super) loads: Vec<(u64, Load)>,
    pub(super) writes: Vec<(u64, Write)>,
    pub(super) fates: Vec<(u64, Fate)>,
    /// What came by way of others and is no statement, and what became of such that the node sent.
    pub(super) signals: Vec<(PeerId, PeerId, Bytes)>,
    pub(super) signaled: Vec<(u64, Result<(), SignalError>)>,
    /// The expected identity of each dial.
    pub(super) dialed: Vec<Option<PeerId>>,
    /// The address at which the node sees this peer.
    pub(super) seen_at: Address,
    /// Requested signatures.
    pub(super) signs: Vec<(u64, Bytes)>,
    /// What is to be sealed.
    pub(super) seals: Vec<(u64, SealingKey, Bytes)>,
    /// Addresses that were dialed back for peers that had asked.
    pub(super) dialed_back: Vec<Address>,
    /// The listener whose socket dials use.
    pub(super) listener: Option<Address>,
    /// The transport takes no second frame on any channel.
    pub(super) stalled: bool,
}

pub(super) fn hello(connection: ConnectionId) -> Hello {
    Hello {
        versions: vec![crate::VERSION],
        network: config(1).network,
        client: "script".to_owned(),
        instance: 77,
        binding: binding(connection),
    }
}

pub(super) fn binding(connection: ConnectionId) -> Binding {
    let mut exporter = [0; 32];
    exporter[..8].copy_from_slice(&connection.0.to_be_bytes());
    Binding::Exporter(exporter)
}

/// Gives no verdicts.
pub(super) fn withhold(_: &Subject) -> Option<Verdict> {
    None
}

/// Gives no verdicts on blocks, and accepts headers and items.
pub(super) fn withhold_blocks(subject: &Subject) -> Option<Verdict> {
    let withheld = matches!(subject, Subject::Block(_));
    (!withheld).then(|| Verdict::Accept(Admission::default()))
}

/// The same offers as the node's.
pub(super) fn setup(config: &Config) -> Setup {
    setup_by(config, TestRules.id())
}

pub(super) fn setup_by(config: &Config, rules: &str) -> Setup {
    let block = Offer {
        kind: 3,
        name: String::new(),
        versions: vec![OfferedVersion { number: 1, rules: config.block_rules_digest(rules) }],
        grant: config.limits.block_grant.clone(),
        capacity: 64,
    };
    let pool = |spec: &PoolSpec| Offer {
        kind: 4,
        name: spec.name.clone(),
        versions: vec![OfferedVersion { number: 1, rules: spec.rules_digest(rules, 1) }],
        grant: spec.grant.clone(),
        capacity: spec.capacity,
    };
    let mut offers = vec![block];
    offers.extend(config.pools.iter().map(pool));
    offers.push(Offer {
        kind: 5,
        name: String::new(),
        versions: vec![OfferedVersion {
            number: 1,
            rules: Digest(blake3::derive_key("tidegate 1 peers rules", b"")),
        }],
        grant: crate::config::PEERS_GRANT,
        capacity: 0,
    });
    offers.push(Offer {
        kind: 6,
        name: String::new(),
        versions: vec![OfferedVersion {
            number: 2,
            rules: Digest(blake3::derive_key("tidegate 2 signal rules", b"")),
        }],
        grant: SIGNAL_GRANT,
        capacity: 0,
    });
    Setup { offers, roles: 0, record: None, observed: Address(Bytes::new()), salt: SALT }
}

impl Script {
    /// A node without connections.
    pub(super) fn alone() -> Self {
        Self::with(config(1))
    }

    pub(super) fn with(config: Config) -> Self {
        Self::by(config, Box::new(TestRules))
    }

    /// A node with other rules.
    pub(super) fn by(config: Config, rules: Box<dyn Rules>) -> Self {
        let rules_id = rules.id().to_owned();
        let node = Node::new(config, rules, [1; 32], Time::ZERO).unwrap();
        Self {
            rules_id,
            node,
            now: Time::ZERO,
            connection: ConnectionId(0),
            sent: VecDeque::new(),
            questions: Vec::new(),
            events: Vec::new(),
            closed: BTreeSet::new(),
            judge: |_| Some(Verdict::Accept(Admission::default())),
            next: 1,
            dials: Vec::new(),
            cancelled: Vec::new(),
            elsewhere: Vec::new(),
            loads: Vec::new(),
            writes: Vec::new(),
            fates: Vec::new(),
            signals: Vec::new(),
            signaled: Vec::new(),
            dialed: Vec::new(),
            seen_at: Address(Bytes::from_static(b"here")),
            signs: Vec::new(),
            seals: Vec::new(),
            dialed_back: Vec::new(),
            listener: None,
            stalled: false,
        }
    }

    /// A node that this peer has just connected to; both setups were exchanged.
    pub(super) fn up() -> Self {
        Self::up_with(config(1))
    }

    pub(super) fn up_with(config: Config) -> Self {
        let mut script = Self::with(config);
        script.connect(PEER);
        script.shake_hands();
        script
    }

    /// Another connection, of any peer.
    pub(super) fn connect(&mut self, peer: PeerId) {
        self.connected(peer, Direction::Inbound);
    }

    /// A connection that this node dialed.
    pub(super) fn dial(&mut self, peer: PeerId) {
        let address = Address(Bytes::from_static(b"there"));
        self.command(Command::Dial { address, peer: Some(peer) });
        let dial = self.dials.pop().unwrap();
        self.connected(peer, Direction::Outbound(dial));
    }

    pub(super) fn connected(&mut self, peer: PeerId, direction: Direction) {
        self.connection = ConnectionId(self.next);
        self.next += 1;
        self.sent.clear();
        let connected = Input::Connected(
            Connected::new(
                self.connection,
                peer,
                direction,
                self.seen_at.clone(),
                binding(self.connection),
            )
            .from_listener(self.listener.clone()),
        );
        self.input(connected);
    }

    /// A connection of another peer than [`PEER`], whose hello is complete.
    pub(super) fn another_peer(&mut self) -> ConnectionId {
        self.connect(PeerId([8; 32]));
        self.shake_hands();
        self.connection
    }

    /// The transport lost a connection.
    pub(super) fn close(&mut self, connection: ConnectionId) {
        self.input(Input::Closed { connection });
    }

    /// The peer announces an item, by its id for the node, with a size that may be wrong.
    pub(super) fn announce(&mut self, pool: PoolIndex, id: &ItemId, size: usize) {
        let announcement = crate::pool::announcement(&self.salt(), id, size);
        let channel = LARGE_POOL + u32::from(pool.0);
        self.send(channel, &PoolMessage::Announce(vec![announcement]));
    }

    pub(super) fn rules_id(&self) -> &str {
        &self.rules_id
    }

    pub(super) fn shake_hands(&mut self) {
        self.shake_hands_with(|_| {});
    }

    /// The peer makes other offers.
    pub(super) fn shake_hands_with(&mut self, change: impl FnMut(&mut Offer)) {
        self.send(CONTROL, &ControlMessage::Hello(hello(self.connection)));
        let mut setup = setup_by(self.node.config(), &self.rules_id);
        setup.offers.iter_mut().for_each(change);
        self.send(CONTROL, &ControlMessage::Setup(setup));
        self.now = self.now + Duration::from_millis(1);
        self.take();
    }

    /// The node's salt, which keys ids and compact blocks for it.
    pub(super) fn salt(&self) -> Salt {
        let mut probe = Self::with(self.node.config().clone());
        probe.connect(PEER);
        probe.send(CONTROL, &ControlMessage::Hello(hello(probe.connection)));
        let setups = probe.received::<ControlMessage>(CONTROL).into_iter();
        let salts = setups.filter_map(|message| match message {
            ControlMessage::Setup(setup) => Some(setup.salt),
            _ => None,
        });
        salts.last().unwrap()
    }

    /// The short ids of a block's items for the node.
    pub(super) fn short_ids(&self, block: &Block) -> Vec<Bytes> {
        let salt = self.salt();
        let short = |item: &BlockItem| crate::block::short_id(&salt, &block.block, &item.id);
        block.items.iter().map(short).collect()
    }

    /// A compact block for the node, for which all its items are missing.
    pub(super) fn compact(&self, block: &Block) -> Compact {
        let runs = block.items.chunk_by(|a, b| a.pool == b.pool);
        let groups = runs.map(|run| Group {
            pool: self.node.config().pools[run[0].pool.0 as usize].name.clone(),
            count: run.len() as u32,
        });
        Compact {
            header: block.header.clone(),
            salt: self.salt(),
            groups: groups.collect(),
            short_ids: vec![0; 6 * block.items.len()].into(),
            prefilled: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, channel: u32, message: &impl Encode) {
        self.frame(channel, message.to_frame().unwrap());
    }

    /// The same from another connection than the one whose frames are kept.
    pub(super) fn send_on(
        &mut self,
        connection: ConnectionId,
        channel: u32,
        message: &impl Encode,
    ) {
        self.send_frame_on(connection, channel, message.to_frame().unwrap());
    }

    pub(super) fn send_frame_on(&mut self, connection: ConnectionId, channel: u32, frame: Frame) {
        self.input(Input::Frame { connection, channel, frame });
    }

    pub(super) fn frame(&mut self, channel: u32, frame: Frame) {
        self.input(Input::Frame { connection: self.connection, channel, frame });
    }

    pub(super) fn input(&mut self, input: Input) {
        self.node.handle_input(self.now, input);
        self.drain();
    }

    /// The node has something carried that is no statement.
    pub(super) fn carry(&mut self, id: u64, (via, to): (PeerId, PeerId), raw: Bytes) {
        self.node.carry(self.now, id, (via, to), raw);
        self.drain();
    }

    pub(super) fn command(&mut self, command: Command) {
        self.node.handle_command(self.now, command);
        self.drain();
    }

    /// The node's application publishes an item that is executable.
    pub(super) fn publish(&mut self, pool: PoolIndex, body: &Bytes) {
        let (body, admission) = (body.clone(), Admission::default());
        self.command(Command::Publish { request: 1, pool, body, admission });
    }

    /// Advances the time.
    pub(super) fn wait(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        let mut rounds = 0;
        while let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) {
            rounds += 1;
            assert!(rounds < 10_000, "a timer that is always due");
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// Takes what the node sent.
    pub(super) fn take(&mut self) -> Vec<(u32, Frame)> {
        self.sent.drain(..).collect()
    }

    /// Takes the messages that it sent on one channel.
    pub(super) fn received<T: Decode>(&mut self, channel: u32) -> Vec<T> {
        let (wanted, rest) = self.sent.drain(..).partition::<Vec<_>, _>(|(c, _)| *c == channel);
        self.sent = rest.into();
        wanted.into_iter().map(|(_, frame)| frame.decode().unwrap()).collect()
    }

    /// Takes what it sent on the block channel: its requests.
    pub(super) fn fetched(&mut self) -> Vec<BlockFetch> {
        let messages = self.received::<BlockMessage>(BLOCK).into_iter();
        let fetches = messages.filter_map(|message| match message {
            BlockMessage::Fetch(fetch) => Some(fetch),
            _ => None,
        });
        fetches.collect()
    }

    /// The blocks with a ticket but no verdict.
    pub(super) fn judged(&self) -> Vec<Block> {
        let subjects = self.questions.iter().map(|(_, subject)| subject.clone());
        let blocks = subjects.filter_map(|subject| match subject {
            Subject::Block(block) => Some(block),
            _ => None,
        });
        blocks.collect()
    }

    /// Takes what it sent on the channel of a pool: returned permits.
    pub(super) fn returns(&mut self, channel: u32) -> Vec<Return> {
        let messages = self.received::<PoolMessage>(channel).into_iter();
        let returns = messages.filter_map(|message| match message {
            PoolMessage::Return(returns) => Some(returns),
            _ => None,
        });
        returns.flatten().collect()
    }

    /// What the node accuses this peer of, if anything; then the connection must be closed.
    pub(super) fn accusation(&mut self) -> Option<Violation> {
        let messages = self.received::<ControlMessage>(CONTROL);
        let code = messages.iter().find_map(|message| match message {
            ControlMessage::Goodbye(Goodbye::Violation(code)) => Some(*code),
            _ => None,
        })?;
        assert!(self.closed.contains(&self.connection), "the connection ends with the accusation");
        Violation::from_code(code)
    }

    /// Why the node refuses this connection, if it does; then it must be closed.
    pub(super) fn refusal(&mut self) -> Option<Refusal> {
        let messages = self.received::<ControlMessage>(CONTROL);
        let refusals = messages.into_iter().filter_map(|message| match message {
            ControlMessage::Refuse(refusal) => Some(refusal),
            _ => None,
        });
        let refusal = refusals.last()?;
        assert!(self.closed.contains(&self.connection), "the connection ends with the refusal");
        Some(refusal)
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Frame { connection, channel, frame } => {
                    if connection == self.connection {
                        self.sent.push_back((channel, frame));
                    } else {
                        self.elsewhere.push((connection, channel, frame));
                    }
                    if !self.stalled {
                        let writable = Input::Writable { connection, channel };
                        self.node.handle_input(self.now, writable);
                    }
                }
                Output::Close { connection } => {
                    self.closed.insert(connection);
                    self.node.handle_input(self.now, Input::Closed { connection });
                }
                Output::Verify { ticket, subject, .. } => match (self.judge)(&subject) {
                    Some(verdict) => {
                        let verdict = Command::Verdict { ticket, verdict };
                        self.node.handle_command(self.now, verdict);
                    }
                    None => self.questions.push((ticket, subject)),
                },
                Output::Event(event) => self.events.push(event),
                Output::Dial { dial, peer, address, fresh, .. } => {
                    if fresh {
                        self.dialed_back.push(address);
                    }
                    self.dials.push(dial);
                    self.dialed.push(peer);
                }
                Output::Load { request, what } => self.loads.push((request, what)),
                Output::Store { request, write } => self.writes.push((request, write)),
                Output::Published { request, fate } => self.fates.push((request, fate)),
                Output::Sign { request, payload } => self.signs.push((request, payload)),
                Output::Cancel { dial } => self.cancelled.push(dial),
                Output::Unseal { request, via, from, sealed } => {
                    self.signals.push((via, from, sealed));
                    let statement = Some(super::TAKEN);
                    self.command(Command::Unsealed { request, statement });
                }
                Output::Seal { request, receiver, statement } => {
                    self.seals.push((request, receiver, statement));
                }
                Output::Describe { .. } | Output::Open { .. } => {}
            }
        }
        self.signaled.extend(self.node.carried());
    }
}

/// A grant that is large enough for all tests.
pub(super) fn generous() -> Grant {
    Grant {
        announcements: 10_000,
        bodies: 10_000,
        body_bytes: 1 << 30,
        requests: 10_000,
        fetch_bytes: 1 << 30,
    }
}
