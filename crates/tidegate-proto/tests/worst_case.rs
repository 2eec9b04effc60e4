//! A hundred peers drive a node to its limits: its memory by the allocator and by the operating
//! system, against `Config::worst_case_bytes`. It must be the only test of its process.

mod counting;

use std::hash::Hasher as _;
use std::time::Duration;

use bytes::Bytes;
use siphasher::sip::SipHasher24;
use tidegate_proto::config::{ENDING, STRANGER_WINDOW, streams_for};
use tidegate_proto::id::{
    Address, BlockId, ConnectionId, Digest, ItemId, ItemKey, NetworkId, PeerId, PoolIndex, Salt,
};
use tidegate_proto::io::{
    Admission, Block, BlockItem, Command, Connected, Direction, Input, Output, TipChange,
};
use tidegate_proto::rules::{HeaderFacts, ItemFacts, Rules};
use tidegate_proto::wire::{
    Announcement, Answer, Binding, Body, ControlMessage, Encode, Frame, Grant, Hello, MAX_FRAME,
    MAX_HEADER, Offer, OfferedVersion, PeersMessage, PoolMessage, Setup, TipMessage,
};
use tidegate_proto::{Config, Node, PoolSpec, Time, VERSION, merkle};

const PEERS: u64 = 100;
const POOLS: u32 = 3;
/// Items of this size fill a pool's budget of bytes and its capacity at the same time.
const ITEM: usize = 2048;
/// The largest item of a pool, and the class of its size (specification section 7.3).
const LARGE: usize = 32 << 10;
const LARGE_CLASS: u32 = 36 << 24;
/// Channel instances: the tip; after the hello 16 is for blocks, and pools follow.
const TIP: u32 = 1;
const FIRST_POOL: u32 = 17;
/// Blocks of 4 MiB, the maximum, until the budget of bytes is used up.
const BLOCKS: u64 = 6;
const BLOCK_ITEMS: u64 = 128;

/// Items are any bytes; headers have what a header must have at fixed places.
struct Plain;

impl Rules for Plain {
    fn id(&self) -> &str {
        "plain"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        Some(ItemFacts { key, priority: 5, chain: None })
    }

    fn header(&self, header: &[u8]) -> Option<HeaderFacts> {
        let word = |at: usize| header.get(at..at + 32)?.try_into().ok();
        let height = u64::from_be_bytes(header.get(96..104)?.try_into().ok()?);
        Some(HeaderFacts {
            block: BlockId(*blake3::hash(header).as_bytes()),
            parent: BlockId(word(0)?),
            height,
            slot: height,
            producer: word(64)?,
            item_root: Digest(word(32)?),
            items: u32::from_be_bytes(header.get(104..108)?.try_into().ok()?),
        })
    }
}

fn header(parent: BlockId, height: u64, salt: u64, items: &[ItemId], size: usize) -> Bytes {
    let items = items.iter().map(|id| ("pool 0", *id)).collect::<Vec<_>>();
    let mut header =
        [parent.0, merkle::root(&items).0, *blake3::hash(&salt.to_be_bytes()).as_bytes()].concat();
    header.extend(height.to_be_bytes());
    header.extend((items.len() as u32).to_be_bytes());
    header.resize(size.max(header.len()), 0);
    header.into()
}

fn body(number: u64, size: usize) -> Bytes {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(size, 1);
    body.into()
}

fn config() -> Config {
    let mut config = Config::new(PeerId([1; 32]), NetworkId([2; 32]));
    config.genesis = Some(header(BlockId([0; 32]), 0, 0, &[], 0));
    config.pools = (0..POOLS).map(|n| PoolSpec::new(format!("pool {n}"))).collect();
    // All of them dial, which makes the test simpler and no peer cheaper.
    config.limits.max_inbound = PEERS as u32;
    config.limits.max_outbound = 0;
    config
}

/// The node, and the peers that the test plays.
struct World {
    node: Node,
    now: Time,
    /// Requests of the node: the peer, its pool, and the announcement's number.
    wanted: Vec<(u64, u32, u32)>,
    salts: Vec<Salt>,
    numbers: u64,
}

impl World {
    fn new() -> Self {
        let node = Node::new(config(), Box::new(Plain), [7; 32], Time::ZERO).unwrap();
        Self { node, now: Time::ZERO, wanted: Vec::new(), salts: Vec::new(), numbers: 0 }
    }

    fn fresh(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn send(&mut self, peer: u64, channel: u32, message: &impl Encode) {
        // Copied, as from a socket: one allocation.
        let frame = Bytes::from(message.to_frame().unwrap().to_bytes().to_vec().into_boxed_slice());
        let (connection, frame) = (ConnectionId(peer), Frame::from(frame));
        self.node.handle_input(self.now, Input::Frame { connection, channel, frame });
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

    /// The application gives no verdicts.
    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Frame { connection, channel, frame } => {
                    if let Some(pool) = channel.checked_sub(FIRST_POOL)
                        && let Ok(PoolMessage::Fetch(numbers)) = frame.decode()
                    {
                        self.wanted.extend(numbers.iter().map(|n| (connection.0, pool, *n)));
                    }
                    if channel == 0
                        && let Ok(ControlMessage::Setup(setup)) = frame.decode()
                    {
                        self.salts.push(setup.salt);
                    }
                    let writable = Input::Writable { connection, channel };
                    self.node.handle_input(self.now, writable);
                }
                Output::Close { connection } => panic!("{connection:?} was closed"),
                _ => {}
            }
        }
    }

    fn connect(&mut self, peer: u64) {
        let mut key = [3; 32];
        key[..8].copy_from_slice(&peer.to_be_bytes());
        let connected = Input::Connected(Connected::new(
            ConnectionId(peer),
            PeerId(key),
            Direction::Inbound,
            Address(Bytes::from_static(b"here")),
            Binding::Exporter([0; 32]),
        ));
        self.node.handle_input(self.now, connected);
        let hello = Hello {
            versions: vec![VERSION],
            network: self.node.config().network,
            client: "worst case".to_owned(),
            instance: peer,
            binding: Binding::Exporter([0; 32]),
        };
        self.send(peer, 0, &ControlMessage::Hello(hello));
        self.send(peer, 0, &ControlMessage::Setup(self.setup()));
    }

    /// Grants for requests alone: everything that the node has for these peers waits.
    fn setup(&self) -> Setup {
        let grant = Grant {
            announcements: 0,
            bodies: 0,
            body_bytes: 0,
            requests: 64,
            fetch_bytes: 1 << 20,
        };
        let offer = |kind, name: &str, rules| Offer {
            kind,
            name: name.to_owned(),
            versions: vec![OfferedVersion { number: 1, rules }],
            grant: grant.clone(),
            capacity: 4096,
        };
        let block = self.node.config().block_rules_digest(Plain.id());
        let mut offers = vec![offer(3, "", block)];
        for spec in &self.node.config().pools {
            offers.push(offer(4, &spec.name, spec.rules_digest(Plain.id(), 1)));
        }
        offers.push(offer(5, "", Digest(blake3::derive_key("tidegate 1 peers rules", b""))));
        let observed = Address(Bytes::new());
        Setup { offers, roles: 0, record: None, observed, salt: Salt([4; 16]) }
    }

    fn connect_all(&mut self) {
        (0..PEERS).for_each(|peer| self.connect(peer));
        assert_eq!(self.salts.len() as u64, PEERS);
    }

    /// Each asks whether it can be dialed at a longest address, and waits.
    fn reach(&mut self) {
        let channel = FIRST_POOL + self.node.config().pools.len() as u32;
        for peer in 0..PEERS {
            self.send(peer, channel, &PeersMessage::Reach(Address(vec![9; 256].into())));
        }
    }

    /// Published blocks, until the budget of bytes is used up.
    fn fill_blocks(&mut self) {
        let genesis = self.node.config().genesis.clone().unwrap();
        let mut parent = Plain.header(&genesis).unwrap();
        for _ in 0..BLOCKS {
            let items = (0..BLOCK_ITEMS).map(|_| {
                let body = body(self.fresh(), LARGE);
                let id = Plain.item_id("", &body);
                BlockItem { pool: PoolIndex(0), id, body, known: true }
            });
            let items = items.collect::<Vec<_>>();
            let ids = items.iter().map(|item| item.id).collect::<Vec<_>>();
            let header = header(parent.block, parent.height + 1, 0, &ids, 0);
            parent = Plain.header(&header).unwrap();
            let block = parent.block;
            self.command(Command::PublishBlock {
                request: 0,
                block: Block { block, header, items },
            });
            let change = TipChange::new(block);
            self.command(Command::SetTip(change));
        }
        assert_eq!(self.node.tip().unwrap().height, BLOCKS);
    }

    /// Full pools, whose items all wait for a higher tip of every peer.
    fn fill_pools(&mut self) {
        for pool in 0..POOLS as u16 {
            for _ in 0..self.node.config().pools[usize::from(pool)].capacity {
                let (pool, body) = (PoolIndex(pool), body(self.fresh(), ITEM));
                let admission = Admission { from: BLOCKS, account: None };
                self.command(Command::Publish { request: 0, pool, body, admission });
            }
        }
        let full = self.node.status().pools.into_values().map(|pool| pool.items as u64);
        assert!(full.eq((0..POOLS).map(|_| 4096)));
    }

    /// All announcement permits are used; requested items arrive, and get no verdict.
    fn announce(&mut self) {
        let count = u64::from(self.node.config().pools[0].grant.announcements);
        let first = self.numbers + 1;
        for peer in 0..PEERS {
            let salt = self.salts[peer as usize].0;
            for pool in 0..POOLS {
                let announcement = |number| {
                    let mut hasher = SipHasher24::new_with_key(&salt);
                    hasher.write(&Plain.item_id("", &body(number, LARGE)).0);
                    Announcement { id: hasher.finish(), facts: LARGE_CLASS }
                };
                let list = (0..count).map(|_| announcement(self.fresh())).collect();
                self.send(peer, FIRST_POOL + pool, &PoolMessage::Announce(list));
            }
        }
        while let Some((peer, pool, number)) = self.wanted.pop() {
            let body = first + (peer * u64::from(POOLS) + u64::from(pool)) * count;
            let body = Body::Whole(crate::body(body + u64::from(number), LARGE));
            self.send(peer, FIRST_POOL + pool, &PoolMessage::Answer(Answer { number, body }));
        }
        assert_eq!(self.node.status().fetch_bytes, self.node.config().limits.fetch_bytes_node);
    }

    /// All body permits are used, and no verdict comes.
    fn push(&mut self) {
        for peer in 0..PEERS {
            for pool in 0..POOLS {
                let grant = &self.node.config().pools[pool as usize].grant;
                assert_eq!(grant.bodies * ITEM as u32, grant.body_bytes);
                for _ in 0..grant.bodies {
                    let body = Body::Whole(body(self.fresh(), ITEM));
                    self.send(peer, FIRST_POOL + pool, &PoolMessage::Push(body));
                }
            }
        }
    }

    /// Headers with unknown parents, not so far ahead that they are ignored.
    fn orphans(&mut self) {
        let limits = self.node.config().limits.clone();
        for round in 0..(limits.orphan_bytes as usize / MAX_HEADER) as u64 {
            for peer in 0..PEERS {
                let salt = self.fresh();
                let parent = BlockId(*blake3::hash(&salt.to_be_bytes()).as_bytes());
                let header = header(parent, BLOCKS + 2 + round, salt, &[], MAX_HEADER);
                self.send(peer, TIP, &TipMessage::Header(header));
            }
            self.wait(limits.tip_interval);
        }
    }

    /// What a transport holds for connections whose peers neither read nor stop sending, and what
    /// the node's driver may hold for connections in the hello.
    fn windows(&self) -> Vec<Vec<u8>> {
        let config = self.node.config();
        let limits = &config.limits;
        // For each stream a copy of a whole window, of which all but the last byte was read; and a
        // packet for each byte of all streams that waits, as long as quinn does not copy them.
        let opened = 5 + config.pools.len();
        let copies = opened * (limits.receive_window as usize / 3 * 2);
        let packets = streams_for(opened as u32) as usize * 128 * (304 + 2 * 56);
        let window = limits.receive_window as usize * 5 / 2 + limits.send_window as usize;
        // Two large frames that are half read, one of control, and small ones; one frame of each
        // kind waiting to be written.
        let window = window + copies + packets + 2 * MAX_FRAME + (64 << 10) + (132 << 10);
        let windows = (0..PEERS + u64::from(ENDING)).map(|_| vec![1; window]);
        let stranger = MAX_FRAME + STRANGER_WINDOW as usize * 7 / 2 + 3 * 128 * (304 + 2 * 56);
        windows.chain((0..limits.handshakes).map(|_| vec![1; stranger])).collect()
    }
}

/// The resident memory of this process; `None` where the operating system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[test]
fn a_hundred_peers_cost_what_was_promised_and_no_more() {
    let before = (counting::held() as u64, resident());
    let mut world = World::new();
    let worst = world.node.config().worst_case_bytes();
    let mut last = before.0;
    let mut step = |name: &str| {
        let now = counting::held() as u64;
        let grown = now.saturating_sub(last);
        println!("{name:<10} {:>7} KiB", grown >> 10);
        // Otherwise a step without effect would go unnoticed.
        assert!(grown > 256 << 10, "{name}: nothing is kept of it");
        last = now;
    };
    world.connect_all();
    world.reach();
    step("connected");
    world.fill_blocks();
    step("blocks");
    world.fill_pools();
    step("pools");
    world.announce();
    step("announced");
    world.push();
    step("pushed");
    world.orphans();
    step("orphans");
    let windows = world.windows();
    step("windows");
    let allocated = counting::held() as u64 - before.0;
    assert_eq!(world.node.status().peers.len() as u64, PEERS, "nobody broke a rule");
    println!("in all {} MiB of {} MiB", allocated >> 20, worst >> 20);
    assert!(allocated <= worst, "{allocated} bytes allocated, {worst} promised");
    assert!(allocated >= worst / 2, "{allocated} bytes of {worst}: the promise is idle");
    if let (Some(before), Some(now)) = (before.1, resident()) {
        let resident = now.saturating_sub(before);
        println!("resident {} MiB", resident >> 20);
        assert!(resident <= worst, "{resident} bytes resident, {worst} promised");
        assert!(resident >= worst / 2, "{resident} bytes resident of {worst}");
    }
    drop(windows);
}
