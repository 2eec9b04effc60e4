//! State that peers can name must not pile up. Each flood consists of valid messages, from peers
//! that return nothing, answer nothing and reconnect. A node with small limits is measured by the
//! allocator after each thousand, against its own `Config::worst_case_bytes`; its work is measured
//! by counting steps and calls of the rules for each message. It must be the only test of its
//! process.

mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tidegate_proto::id::{
    Address, BlockId, ConnectionId, Digest, ItemId, ItemKey, NetworkId, PeerId, PoolIndex, Salt,
    Signature,
};
use tidegate_proto::io::{
    Admission, Block, Command, Connected, Direction, Input, Output, TipChange, Verdict,
};
use tidegate_proto::rules::{HeaderFacts, ItemFacts, Rules};
use tidegate_proto::stats::Count;
use tidegate_proto::wire::{
    Announcement, Binding, BlockFetch, BlockMessage, BlockWant, Compact, ControlMessage, Encode,
    Goodbye, Grant, Group, Held, Hello, Offer, OfferedVersion, PeerRecord, PoolMessage, Refusal,
    RpcMessage, RpcRequest, RpcWant, Setup, TipMessage, WantHeaders,
};
use tidegate_proto::{Config, Node, PoolSpec, Time, VERSION, merkle};

const TIP: u32 = 1;
const RPC: u32 = 2;
const BLOCK: u32 = 16;
const POOL: u32 = 17;
/// Messages of each flood: at a hundred bytes a message, ten times the bound.
const MESSAGES: u64 = 30_000;
/// The bound on steps of work and calls of the rules for one message: peers and orphan headers are
/// looked at, as many as the limits allow.
const STEPS: u64 = 400;
/// Tolerance in bytes.
const SLACK: i64 = 128 << 10;
const CALLS: u64 = 64;

/// Items are any bytes; a header says what it must at fixed places.
struct Plain(Arc<AtomicU64>);

impl Rules for Plain {
    fn id(&self) -> &str {
        "plain"
    }

    fn item_id(&self, _: &str, body: &[u8]) -> ItemId {
        self.0.fetch_add(1, Relaxed);
        ItemId(*blake3::hash(body).as_bytes())
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        Some(ItemFacts { key, priority: body.len() as u64, chain: None })
    }

    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        self.0.fetch_add(1, Relaxed);
        facts(header)
    }
}

fn facts(header: &[u8]) -> Option<HeaderFacts> {
    let height = u64::from_be_bytes(*header.get(32..)?.first_chunk()?);
    Some(HeaderFacts {
        block: BlockId(*blake3::hash(header).as_bytes()),
        parent: BlockId(*header.first_chunk()?),
        height,
        slot: height,
        producer: *header.get(40..)?.first_chunk()?,
        item_root: merkle::root(&[]),
        items: 0,
    })
}

fn header(parent: BlockId, height: u64, number: u64) -> Bytes {
    let salt = *blake3::hash(&number.to_be_bytes()).as_bytes();
    [&parent.0[..], &height.to_be_bytes(), &salt].concat().into()
}

fn unknown(number: u64) -> BlockId {
    BlockId(*blake3::hash(&(number ^ 0xabcd << 32).to_be_bytes()).as_bytes())
}

/// A node with small limits, and four peers.
fn config() -> Config {
    let mut config = Config::new(PeerId([1; 32]), NetworkId([2; 32]));
    config.genesis = Some(header(BlockId([0; 32]), 0, 0));
    let mut pool = PoolSpec::new("pool");
    (pool.capacity, pool.capacity_bytes, pool.max_item) = (64, 16 << 10, 1 << 10);
    (pool.grant.announcements, pool.grant.bodies, pool.grant.body_bytes) = (16, 16, 16 << 10);
    config.pools = vec![pool];
    let limits = &mut config.limits;
    (limits.max_inbound, limits.max_outbound, limits.handshakes) = (4, 0, 4);
    (limits.book_new_buckets, limits.book_tried_buckets, limits.bans) = (1, 1, 64);
    (limits.block_size, limits.block_bytes, limits.header_bytes) = (16 << 10, 64 << 10, 76 << 10);
    (limits.reconstructions, limits.serving, limits.fetch_bytes_node) = (1, 1, 16 << 10);
    (limits.shelved, limits.shelved_bytes, limits.held_back) = (16, 4 << 10, 64);
    (limits.receive_window, limits.send_window) = (16 << 10, 16 << 10);
    // No peer rests, so that all messages are handled as fast as possible.
    limits.work_per_second = 1 << 30;
    config
}

struct World {
    node: Node,
    now: Time,
    calls: Arc<AtomicU64>,
    salt: Salt,
    next: u64,
    numbers: u64,
    tip: Bytes,
    /// The grants of the peers.
    grant: Grant,
    /// The largest cost of a message: steps, calls.
    most: (u64, u64),
}

impl World {
    fn new() -> Self {
        let calls = Arc::new(AtomicU64::new(0));
        let node = Node::new(config(), Box::new(Plain(calls.clone())), [7; 32], Time::ZERO);
        let tip = config().genesis.unwrap();
        let little =
            Grant { announcements: 0, bodies: 0, body_bytes: 0, requests: 8, fetch_bytes: 1 << 20 };
        let node = node.unwrap();
        let (now, salt) = (Time::ZERO, Salt([0; 16]));
        Self { node, now, calls, salt, next: 0, numbers: 0, tip, grant: little, most: (0, 0) }
    }

    fn fresh(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn height(&self) -> u64 {
        facts(&self.tip).unwrap().height
    }

    /// Another peer, whose hello is complete.
    fn connect(&mut self) -> u64 {
        self.next += 1;
        let id = self.next;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&id.to_be_bytes());
        let binding = Binding::Exporter(bytes);
        let address = Address(Bytes::from(vec![4, 8, id as u8, 0, 1, 0x91, 2, 0, 1]));
        self.input(Input::Connected(Connected::new(
            ConnectionId(id),
            PeerId(*blake3::hash(&id.to_be_bytes()).as_bytes()),
            Direction::Inbound,
            address,
            binding.clone(),
        )));
        let hello = Hello {
            versions: vec![VERSION],
            network: NetworkId([2; 32]),
            client: "flood".to_owned(),
            instance: id,
            binding,
        };
        self.send(id, 0, &ControlMessage::Hello(hello));
        let offer = |kind, name: &str, rules| Offer {
            kind,
            name: name.to_owned(),
            versions: vec![OfferedVersion { number: 1, rules }],
            grant: self.grant.clone(),
            capacity: 64,
        };
        let config = self.node.config();
        let spec = &config.pools[0];
        let offers = vec![
            offer(3, "", config.block_rules_digest("plain")),
            offer(4, "pool", spec.rules_digest("plain", 1)),
            offer(5, "", Digest(blake3::derive_key("tidegate 1 peers rules", b""))),
        ];
        let observed = Address(Bytes::new());
        let setup = Setup { offers, roles: 0, record: None, observed, salt: Salt([4; 16]) };
        self.send(id, 0, &ControlMessage::Setup(setup));
        id
    }

    fn send(&mut self, peer: u64, channel: u32, message: &impl Encode) {
        let frame = message.to_frame().unwrap();
        self.input(Input::Frame { connection: ConnectionId(peer), channel, frame });
    }

    fn input(&mut self, input: Input) {
        let before = (self.node.stats().of(Count::Work), self.calls.load(Relaxed));
        self.node.handle_input(self.now, input);
        let steps = self.node.stats().of(Count::Work) - before.0;
        let calls = self.calls.load(Relaxed) - before.1;
        self.most = (self.most.0.max(steps), self.most.1.max(calls));
        self.drain();
    }

    fn command(&mut self, command: Command) {
        self.node.handle_command(self.now, command);
        self.drain();
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Frame { connection, channel, frame } => {
                    if let (0, Ok(ControlMessage::Setup(setup))) = (channel, frame.decode()) {
                        self.salt = setup.salt;
                    }
                    self.node.handle_input(self.now, Input::Writable { connection, channel });
                }
                Output::Close { connection } => {
                    self.node.handle_input(self.now, Input::Closed { connection });
                }
                Output::Verify { ticket, .. } => {
                    let verdict = Verdict::Ignore;
                    self.node.handle_command(self.now, Command::Verdict { ticket, verdict });
                }
                _ => {}
            }
        }
    }

    /// A block published by this node, on top of its tip.
    fn produce(&mut self) {
        let parent = facts(&self.tip).unwrap();
        let number = self.fresh();
        let header = header(parent.block, parent.height + 1, number);
        let block = facts(&header).unwrap().block;
        self.tip = header.clone();
        let block = Block { block, header, items: Vec::new() };
        let tip = TipChange::new(block.block);
        self.command(Command::PublishBlock { request: 0, block });
        self.command(Command::SetTip(tip));
    }

    fn publish(&mut self, from: u64) {
        let number = self.fresh();
        // Each is better than those before, and evicts one.
        let body =
            Bytes::from([&number.to_be_bytes()[..], &vec![1; 8 + number as usize % 200]].concat());
        let admission = Admission { from, account: None };
        self.command(Command::Publish { request: 0, pool: PoolIndex(0), body, admission });
    }

    fn compact(&self, header: Bytes) -> Compact {
        Compact {
            header,
            salt: self.salt,
            groups: Vec::<Group>::new(),
            short_ids: Bytes::new(),
            prefilled: Vec::new(),
        }
    }

    fn is_up(&self, peer: u64) -> bool {
        let id = PeerId(*blake3::hash(&peer.to_be_bytes()).as_bytes()).to_string();
        self.node.status().peers.iter().any(|known| known.peer == id)
    }
}

/// Sends message number `n` as this peer.
type Flood = fn(&mut World, u64, u64);

/// A header with an unknown parent.
fn orphan(world: &mut World) -> Bytes {
    let number = world.fresh();
    let height = world.height() + 1 + number % 16;
    header(unknown(number), height, number)
}

const FLOODS: &[(&str, Flood)] = &[
    ("compact blocks of unknown parents", |world, peer, _| {
        let header = orphan(world);
        let compact = world.compact(header);
        world.send(peer, BLOCK, &BlockMessage::Push(compact));
    }),
    ("the same in large frames", |world, peer, _| {
        let header = orphan(world);
        let short_ids = Bytes::from(vec![1; 24_000]);
        let compact = Compact { short_ids, ..world.compact(header) };
        world.send(peer, BLOCK, &BlockMessage::Push(compact));
    }),
    ("held tips that nobody knows", |world, peer, n| {
        let (block, height) = (unknown(world.fresh()), world.height() + n % 17);
        world.send(peer, TIP, &TipMessage::Held(Held { block, height }));
        world.wait(Duration::from_millis(20));
    }),
    ("headers of unknown parents", |world, peer, _| {
        let header = orphan(world);
        world.send(peer, TIP, &TipMessage::Header(header));
        world.wait(Duration::from_millis(20));
    }),
    ("held tips far ahead", |world, peer, n| {
        let (block, height) = (unknown(world.fresh()), world.height() + 100 + n);
        world.send(peer, TIP, &TipMessage::Held(Held { block, height }));
        world.wait(Duration::from_millis(20));
    }),
    ("a tip that goes up and down, while items come and go", |world, peer, n| {
        // Those that need a higher tip than the low one.
        let height = world.height();
        world.publish(if n % 3 == 0 { height } else { height + 1 });
        let held = if n.is_multiple_of(2) { height } else { height + 1 };
        let block = facts(&world.tip.clone()).unwrap().block;
        world.send(peer, TIP, &TipMessage::Held(Held { block, height: held }));
        world.wait(Duration::from_millis(20));
    }),
    ("connections that come and go", |world, peer, _| {
        world.send(peer, 0, &ControlMessage::Goodbye(Goodbye::Requested));
        world.next += 0;
    }),
    ("refusals that name others", |world, peer, _| {
        let number = world.fresh();
        let record = |n: u64| PeerRecord {
            peer: PeerId(*blake3::hash(&(number * 8 + n).to_be_bytes()).as_bytes()),
            sequence: number,
            addresses: (0..16).map(|_| Address(vec![4; 200].into())).collect(),
            sealing: None,
            signature: Signature([0; 64]),
        };
        let records = (0..7).map(record).collect();
        world.send(peer, 0, &ControlMessage::Refuse(Refusal::Full(records)));
    }),
    ("announcements that nobody answers for", |world, peer, _| {
        let id = world.fresh();
        world.send(peer, POOL, &PoolMessage::Announce(vec![Announcement { id, facts: 1 << 24 }]));
        world.wait(Duration::from_millis(200));
    }),
    ("requests that are taken back", |world, peer, n| {
        let id = n as u32;
        let want = match n % 2 {
            0 => RpcWant::Block(unknown(n)),
            _ => RpcWant::Headers(WantHeaders { locator: vec![unknown(n); 32], most: 256 }),
        };
        world.send(peer, RPC, &RpcMessage::Request(RpcRequest { id, want }));
        world.send(peer, RPC, &RpcMessage::Cancel(id));
        world.wait(Duration::from_millis(5));
    }),
    ("requests for blocks that are not here", |world, peer, n| {
        let want = if n.is_multiple_of(2) { BlockWant::Compact } else { BlockWant::Header };
        let fetch = BlockFetch { block: unknown(n), want };
        world.send(peer, BLOCK, &BlockMessage::Fetch(fetch));
    }),
    ("blocks that are never given back", |world, _, n| {
        if n.is_multiple_of(50) {
            world.produce();
        }
        world.publish(0);
        world.wait(Duration::from_millis(1));
    }),
];

#[test]
fn state_named_by_peers_is_bounded() {
    for (name, flood) in FLOODS {
        for generous in [false, true] {
            let before = counting::held();
            let mut world = World::new();
            if generous {
                // A peer may grant as much as it likes, and return nothing.
                let most = u32::MAX;
                world.grant = Grant {
                    announcements: most,
                    bodies: most,
                    body_bytes: most,
                    requests: most,
                    fetch_bytes: most,
                };
            }
            let worst = world.node.config().worst_case_bytes() as i64;
            let mut settled = 0;
            let mut peers = (0..4).map(|_| world.connect()).collect::<Vec<_>>();
            world.produce();
            // Pings keep silent connections; a peer that is disconnected comes back with another
            // identity.
            for n in 0..MESSAGES {
                let at = n as usize % peers.len();
                flood(&mut world, peers[at], n / 4);
                if n.is_multiple_of(64) {
                    for peer in &mut peers {
                        world.send(*peer, 0, &ControlMessage::Ping(n));
                        if !world.is_up(*peer) {
                            *peer = world.connect();
                        }
                    }
                }
                if !n.is_multiple_of(1000) {
                    continue;
                }
                let held = counting::held() - before;
                assert!(held <= worst, "{name}: {held} bytes after {n} messages, {worst} promised");
                // By then everything has reached its bound: nothing grows any more.
                settled = if n <= MESSAGES / 3 { held } else { settled };
                assert!(held <= settled + SLACK, "{name}: {settled} and then {held} bytes");
            }
            let (steps, calls) = world.most;
            let held = counting::held() - before;
            println!(
                "{name}: {} KiB of {} KiB, {steps} steps, {calls} calls",
                held >> 10,
                worst >> 10
            );
            assert!(steps <= STEPS, "{name}: {steps} steps for one message");
            assert!(calls <= CALLS, "{name}: {calls} calls of the rules for one message");
            assert_eq!(world.node.stats().of(Count::Internal), 0);
        }
    }
}
