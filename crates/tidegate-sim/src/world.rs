//! The world: nodes, links, a clock, and a queue of events.
//!
//! It drives [`tidegate_proto::Node`] as a real driver does, and nothing in there knows that it is
//! simulated. Virtual time is exact: a link of 50 ms takes 50 ms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use tidegate_ledger::{Ledger, LedgerRules};
use tidegate_proto::Time;
use tidegate_proto::id::{BlockId, ConnectionId, DialId, ItemId, PeerId, PoolIndex, Ticket};
use tidegate_proto::io::{Command, Connected, Event, Input, Output, Subject};
use tidegate_proto::recording::TraceHash;
use tidegate_proto::rules::Rules as _;
use tidegate_proto::stats::Count;
use tidegate_proto::wire::Frame;

use crate::checkers::{self, Broken};
use crate::entropy::Entropy;
use crate::faults::{self, Fault};
use crate::genesis::{SLOT, first_ledger, spread};
use crate::host::{Good, Host, Setup};
use crate::hostile::Hostile;
use crate::network::{Network, Release};
use crate::permits::Permits;
use crate::places::{address, node_at};
use crate::report::{Arrival, Measured, Report};
use crate::scenario::Scenario;

mod attack;
mod churn;
mod connecting;
mod offers;
mod paths;

use offers::Offers;

/// The interval of the checks.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long a prover works on a job.
const PROVING: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(900));
/// Whether the platform has a clock; asking it panics where it has none.
const HAS_CLOCK: bool = !cfg!(all(target_family = "wasm", target_os = "unknown"));

/// A simulated network.
pub struct World {
    scenario: Scenario,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    slab: Vec<Option<(Happening, u32)>>,
    free: Vec<usize>,
    sequence: u64,
    hosts: Vec<Host>,
    network: Network,
    /// Pairs that dial each other, and whether they are connected or about to be.
    pairs: Vec<Pair>,
    pair_index: BTreeMap<[usize; 2], usize>,
    /// The ledger of all nodes at the start.
    first: Ledger,
    /// The nodes cut off by the partition, and its end.
    cut_off: BTreeSet<usize>,
    partition_until: Time,
    entropy: Entropy,
    good: Good,
    trace: Option<TraceHash>,
    measured: Measured,
    /// The publisher of each item, when, and its size; the producer of each block, and when.
    published: BTreeMap<ItemId, (usize, Time, u64)>,
    produced: BTreeMap<BlockId, (usize, Time)>,
    /// Draws the paths of connections, where pairs have several.
    paths: Option<Entropy>,
    /// Nodes that read nothing until then.
    deaf: BTreeMap<usize, Time>,
    offers: Offers,
    hostile: BTreeMap<usize, Hostile>,
    /// Only counted in worlds with a hostile node.
    permits: Permits,
    /// A violation found during the run.
    broken: Option<Broken>,
}

struct Pair {
    ends: [usize; 2],
    delay: Duration,
    connection: Option<ConnectionId>,
    dial: Option<DialId>,
    /// For a hostile end: the identities that the two ends have for each other.
    names: Option<[PeerId; 2]>,
}

/// An event of the simulation.
enum Happening {
    Input(usize, Input),
    Timer(usize),
    Synced(usize),
    Verdict(usize, Ticket, Box<Subject>),
    Slot(u64),
    Prove(usize, tidegate_ledger::JobId),
    Load,
    Offer,
    Dial(usize),
    Fault(Fault),
    Attack(usize),
    Release(ConnectionId, usize),
    Check,
}

impl World {
    /// A world in which everything follows from the scenario and the entropy.
    pub fn new(scenario: Scenario, entropy: Entropy) -> Self {
        let ledger = first_ledger(&scenario);
        Self::with_ledger(scenario, &ledger, entropy)
    }

    /// The same, with the ledger that all worlds of the scenario start with: hashing its state
    /// takes as long as a small world.
    pub(crate) fn with_ledger(scenario: Scenario, ledger: &Ledger, entropy: Entropy) -> Self {
        let mut entropy = entropy;
        let network = ledger.genesis().network();
        let mut seeds = entropy.fork("seeds");
        let mut host = |index: usize| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&seeds.number().to_be_bytes());
            seed[8..16].copy_from_slice(&(index as u64).to_be_bytes());
            let scenario = &scenario;
            let mut host = Host::new(&Setup { index, ledger, network, scenario, seed });
            host.produces = spread(index, scenario.producers, scenario.nodes);
            host.proves = spread(index, scenario.provers, scenario.nodes);
            host.set_slow(scenario.faults.slow_validators.contains(&index));
            host.reads_events = !scenario.faults.deaf_applications.contains(&index);
            host
        };
        let hosts = (0..scenario.nodes).map(&mut host).collect();
        let pairs = entropy.part("topology", |entropy| topology(&scenario, entropy));
        let links = if scenario.discovery { scenario.nodes * scenario.dials } else { pairs.len() };
        let plan = entropy.part("faults", |entropy| Plan::draw(&scenario, links, entropy));
        let pair_index = pairs.iter().enumerate().map(|(n, pair)| (pair.ends, n)).collect();
        let offers = Offers::new(entropy.clone().rest("offers"));
        let paths = (scenario.faults.second_dials > 0).then(|| entropy.fork("paths"));
        let hostile = scenario.faults.hostile_nodes.iter();
        let hostile = hostile.map(|node| (*node, Hostile::default())).collect();
        let mut world = Self {
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            slab: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            hosts,
            network: Network::default(),
            pairs,
            pair_index,
            first: ledger.clone(),
            cut_off: plan.cut_off,
            partition_until: Time::ZERO,
            entropy: entropy.rest("events"),
            good: Good::default(),
            trace: Some(TraceHash::default()),
            measured: Measured::default(),
            published: BTreeMap::new(),
            produced: BTreeMap::new(),
            paths,
            deaf: BTreeMap::new(),
            offers,
            hostile,
            permits: Permits::default(),
            broken: None,
            scenario,
        };
        world.begin(plan.faults);
        world
    }

    /// Disables the trace, to measure speed alone.
    pub fn without_trace(mut self) -> Self {
        self.trace = None;
        self
    }

    fn begin(&mut self, faults: Vec<(Time, Fault)>) {
        self.begin_finding();
        for pair in 0..self.pairs.len() {
            let at = Time::ZERO + self.entropy.between(Duration::ZERO, Duration::from_millis(500));
            self.at(at, Happening::Dial(pair));
        }
        for (at, fault) in faults {
            self.at(at, Happening::Fault(fault));
        }
        self.begin_attacks();
        self.begin_offers();
        self.at(Time::ZERO + SLOT, Happening::Slot(1));
        self.at(Time::ZERO + Duration::from_secs(1), Happening::Load);
        self.at(Time::ZERO + CHECK_EVERY, Happening::Check);
    }

    /// Runs the whole scenario and checks it.
    pub fn run(mut self) -> Report {
        let end = Time::ZERO + self.scenario.settled_at();
        #[expect(clippy::disallowed_types, reason = "it is reported, and decides nothing")]
        let started = HAS_CLOCK.then(std::time::Instant::now);
        let broken = loop {
            if let Err(broken) = self.step(end) {
                break Some(broken);
            }
            if self.now >= end {
                let equal = checkers::at_the_end(&self.scenario, &self.hosts, self.names());
                break equal.and_then(|()| self.all_offers_have_ended()).err();
            }
        };
        self.measured.wall = started.map_or(Duration::ZERO, |started| started.elapsed());
        let trace = self.trace.as_ref().map(TraceHash::finish);
        let measured = std::mem::take(&mut self.measured);
        Report::new(&self.hosts, measured, trace, self.now, broken)
    }

    /// Handles the next event before `end`.
    fn step(&mut self, end: Time) -> Result<(), Broken> {
        let Some(&Reverse((at, _, slot))) = self.queue.peek() else {
            self.now = end;
            return Ok(());
        };
        if at > end {
            self.now = end;
            return Ok(());
        }
        self.queue.pop();
        self.now = at;
        let (happening, life) = self.slab[slot].take().expect("each is taken once");
        self.free.push(slot);
        if !self.is_for(&happening, life) {
            return Ok(());
        }
        self.measured.events += 1;
        match happening {
            Happening::Input(node, input) => self.input(node, input),
            Happening::Timer(node) => self.timer(node),
            Happening::Synced(node) => self.synced(node),
            Happening::Verdict(node, ticket, subject) => self.verdict(node, ticket, &subject),
            Happening::Slot(slot) => self.slot(slot),
            Happening::Prove(node, job) => self.prove(node, job),
            Happening::Load => self.load(),
            Happening::Offer => self.offer(),
            Happening::Dial(pair) => self.dial_pair(pair),
            Happening::Fault(fault) => self.fault(fault),
            Happening::Attack(node) => self.attack(node),
            Happening::Release(id, from) => self.release(id, from),
            Happening::Check => {
                checkers::at_any_time(&self.scenario, &self.hosts, self.names())?;
                self.permits.check(self.now)?;
                let next = self.now + CHECK_EVERY;
                self.at(next, Happening::Check);
            }
        }
        self.broken.take().map_or(Ok(()), Err)
    }

    fn at(&mut self, at: Time, happening: Happening) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() - 1
        });
        let life = happening.node().map_or(0, |node| self.hosts[node].life);
        self.slab[slot] = Some((happening, life));
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, slot)));
    }

    fn input(&mut self, node: usize, input: Input) {
        if let Some((id, from)) = self.way(node, &input) {
            let Some(connection) = self.network.get_mut(id) else { return };
            if let Some(at) = connection.hold(from, node, &input, self.now) {
                self.at(at, Happening::Release(id, from));
                return;
            }
        }
        self.deliver(node, input);
    }

    /// Delivers what was held back in one direction of a connection, as far as it may pass now.
    fn release(&mut self, id: ConnectionId, from: usize) {
        while let Some(connection) = self.network.get_mut(id) {
            match connection.release(from, self.now) {
                Release::Now(node, input) => self.deliver(node, input),
                Release::Later(at) => return self.at(at, Happening::Release(id, from)),
                Release::Empty => return,
            }
        }
    }

    fn deliver(&mut self, node: usize, input: Input) {
        if self.reaches(node, &input) {
            if let Input::Frame { connection, channel, frame } = &input {
                self.arriving(node, *connection, *channel, frame);
            }
            let before = self.hosts[node].node.stats().of(Count::Work);
            self.hosts[node].input(self.now, input);
            let worked = self.hosts[node].node.stats().of(Count::Work) - before;
            if !self.hostile.contains_key(&node)
                && let Err(broken) = checkers::work(node, worked)
            {
                self.broken.get_or_insert(broken);
            }
            self.drain(node);
        }
    }

    /// The direction of a connection that an input takes, if any: what arrives was sent by the
    /// other end; a channel becomes writable as its own end sends.
    fn way(&self, node: usize, input: &Input) -> Option<(ConnectionId, usize)> {
        let (id, arriving) = match input {
            Input::Frame { connection, .. } | Input::Closed { connection } => (*connection, true),
            Input::Writable { connection, .. } => (*connection, false),
            _ => return None,
        };
        let end = self.network.get(id)?.end(node);
        Some((id, if arriving { 1 - end } else { end }))
    }

    /// Whether an input reaches its node: not if the connection is closed, or its channel is not
    /// read yet.
    fn reaches(&mut self, node: usize, input: &Input) -> bool {
        if let Input::Connected(Connected { connection, .. }) = input {
            // Lost before it was established.
            return self.network.get(*connection).is_some();
        }
        let (Input::Frame { connection: id, .. }
        | Input::Writable { connection: id, .. }
        | Input::Closed { connection: id }) = input
        else {
            return true;
        };
        let id = *id;
        let Some(connection) = self.network.get_mut(id) else { return false };
        let end = connection.end(node);
        if connection.closed[end] {
            return false;
        }
        match input {
            Input::Frame { channel, frame, .. } => connection.arrive(1 - end, *channel, frame),
            Input::Closed { .. } => {
                connection.closed[end] = true;
                self.permits.ended((id, node));
                self.network.forget(id);
                self.lost(id);
                true
            }
            _ => true,
        }
    }

    /// The dialer of a pair notices that they are not connected, and dials again.
    fn lost(&mut self, id: ConnectionId) {
        if self.scenario.discovery {
            // The nodes dial by themselves.
            return;
        }
        let found = self.pairs.iter().position(|pair| pair.connection == Some(id));
        if let Some(pair) = found {
            self.pairs[pair].connection = self.between(pair).into_iter().next_back();
            if self.pairs[pair].connection.is_none() {
                self.dial_later(pair);
            }
        }
    }

    fn dial_later(&mut self, pair: usize) {
        if !self.is_dialed(pair) {
            return;
        }
        let pause = self.entropy.between(Duration::from_secs(1), Duration::from_secs(2));
        let at = self.now + pause;
        self.at(at, Happening::Dial(pair));
    }

    fn dial_pair(&mut self, pair: usize) {
        if !self.is_dialed(pair) || self.dial_hostile(pair) {
            return;
        }
        let [from, to] = self.pairs[pair].ends;
        let peer = self.hosts[to].peer();
        self.command(from, Command::Dial { address: address(to), peer: Some(peer) });
    }

    fn timer(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if host.timer == Some(self.now) {
            host.timer = None;
        }
        match host.node.poll_timeout() {
            Some((at, _)) if at <= self.now => {
                host.timeout(self.now);
                self.drain(node);
            }
            // The timer has been moved to a later time.
            _ => self.set_timer(node),
        }
    }

    fn command(&mut self, node: usize, command: Command) {
        self.hosts[node].command(self.now, command);
        self.drain(node);
    }

    fn verdict(&mut self, node: usize, ticket: Ticket, subject: &Subject) {
        let slot = self.present_slot();
        let commands = self.hosts[node].judge(ticket, subject, slot, &mut self.good);
        for command in commands {
            self.command(node, command);
        }
    }

    fn present_slot(&self) -> u64 {
        self.now.as_micros() / SLOT.as_micros() as u64
    }

    fn slot(&mut self, slot: u64) {
        for node in 0..self.hosts.len() {
            if !self.hosts[node].up {
                continue;
            }
            if let Some((block, commands)) = self.hosts[node].propose(slot) {
                self.produced.insert(block.block, (node, self.now));
                for command in commands {
                    self.command(node, command);
                }
            }
        }
        let next = self.now + SLOT;
        if next <= Time::ZERO + self.scenario.producers_stop_at() {
            self.at(next, Happening::Slot(slot + 1));
        }
    }

    /// A node's tip has changed: its prover starts the newest jobs.
    fn tip_changed(&mut self, node: usize) {
        if !self.hosts[node].proves {
            return;
        }
        let newest = self.scenario.work.jobs_per_block as usize;
        let jobs = self.hosts[node].ledger.open_jobs().collect::<Vec<_>>();
        for job in jobs.into_iter().rev().take(newest) {
            let at = self.now + self.entropy.between(PROVING.0, PROVING.1);
            self.at(at, Happening::Prove(node, job));
        }
    }

    fn prove(&mut self, node: usize, job: tidegate_ledger::JobId) {
        let fee = self.entropy.below(4);
        if let Some(command) = self.hosts[node].prove(job, fee) {
            self.publish(node, command);
        }
    }

    fn load(&mut self) {
        let last = self.now >= Time::ZERO + self.scenario.producers_stop_at();
        let load = &self.scenario.load;
        let rate = if last { load.last_transfers } else { load.transfers };
        if rate > 0 {
            let node = self.entropy.below(self.hosts.len() as u64) as usize;
            let network = self.hosts[node].node.config().network;
            if self.hosts[node].up
                && let Some(command) = self.hosts[node].transfer(&network, &mut self.entropy)
            {
                self.publish(node, command);
            }
        }
        let next = self.now + SLOT / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
        if next < Time::ZERO + self.scenario.load_ends_at() {
            self.at(next, Happening::Load);
        }
    }

    fn publish(&mut self, node: usize, command: Command) {
        if let Command::Publish { pool, body, .. } = &command {
            let id = self.item_id(*pool, body);
            self.good.made(id);
            self.published.insert(id, (node, self.now, body.len() as u64));
        }
        self.command(node, command);
    }

    fn item_id(&self, pool: PoolIndex, body: &Bytes) -> ItemId {
        let spec = &self.hosts[0].node.config().pools[pool.0 as usize];
        LedgerRules.item_id(&spec.name, body)
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::SecondDial { pair, by } => self.second_dial(pair, by),
            Fault::Reset(pair) => {
                if let Some(id) = self.any_between(pair).or_else(|| self.connection(pair)) {
                    let ends = self.network.get(id).map(|connection| connection.ends);
                    for node in ends.into_iter().flatten() {
                        self.at(self.now, Happening::Input(node, Input::Closed { connection: id }));
                    }
                }
            }
            Fault::Down { node, keeps, orderly } => self.down(node, keeps, orderly),
            Fault::Up(node) => self.up(node),
            Fault::Stall { pair, until, one_way } => {
                if let Some(connection) =
                    self.connection(pair).and_then(|id| self.network.get_mut(id))
                {
                    for end in [0, 1] {
                        if one_way.is_none_or(|second| usize::from(second) == end) {
                            connection.block(end, until);
                        }
                    }
                }
            }
            Fault::Partition { until } => {
                self.partition_until = until;
                for id in self.network.ids() {
                    let Some(connection) = self.network.get_mut(id) else { continue };
                    let [a, b] = connection.ends;
                    if self.cut_off.contains(&a) != self.cut_off.contains(&b) {
                        connection.block(0, until);
                        connection.block(1, until);
                    }
                }
            }
            Fault::Deaf { node, until } => {
                self.deaf.insert(node, until);
                for other in 0..self.hosts.len() {
                    self.network.block(other, node, until);
                }
            }
            Fault::Heal => {
                self.end_attacks();
                self.partition_until = self.now;
                self.deaf.clear();
                for id in self.network.ids() {
                    if let Some(connection) = self.network.get_mut(id) {
                        connection.heal(self.now);
                    }
                    for from in [0, 1] {
                        self.at(self.now, Happening::Release(id, from));
                    }
                }
            }
        }
    }

    /// The connection of a pair; if nodes find each other, any of theirs.
    fn connection(&self, pair: usize) -> Option<ConnectionId> {
        if !self.scenario.discovery {
            return self.pairs[pair].connection;
        }
        let pair = pair.checked_rem(self.pairs.len())?;
        self.pairs[pair].connection.filter(|id| self.network.get(*id).is_some())
    }

    /// Handles a node's outputs until there are none.
    fn drain(&mut self, node: usize) {
        while let Some(output) = self.hosts[node].output() {
            if let Some(trace) = &mut self.trace {
                trace.number(self.now.as_micros());
                trace.number(node as u64);
                trace.output(&output);
            }
            match output {
                Output::Frame { connection, channel, frame } => {
                    self.frame(node, connection, channel, frame);
                }
                Output::Dial { dial, address, peer, .. } if address.is_by_offer() => {
                    self.dial_by_offer(node, dial, peer);
                }
                Output::Dial { dial, address, patience, .. } => {
                    self.dial(node, dial, &address, patience);
                }
                // Another dial here ends either at once or by its timeout.
                Output::Cancel { dial } => self.dial_ended(node, dial),
                Output::Open { connection, channel } => self.open(node, connection, channel),
                Output::Close { connection } => self.close(node, connection),
                Output::Verify { ticket, subject, lane } => {
                    let at = self.hosts[node].work_on(&subject, lane, self.now);
                    self.at(at, Happening::Verdict(node, ticket, Box::new(subject)));
                }
                Output::Event(event) => self.event(node, event),
                Output::Sign { request, payload } => {
                    let signature = self.hosts[node].sign(&payload);
                    let signed = Command::Signature { request, signature };
                    self.hosts[node].command(self.now, signed);
                }
                Output::Load { request, what } => {
                    let genesis = self.first.tip().0;
                    let found = self.hosts[node].disk.load(&what, genesis);
                    let command = Command::Loaded { request, found };
                    self.hosts[node].command(self.now, command);
                }
                Output::Store { request, write } => self.keep(node, request, write),
                Output::Seal { request, receiver, statement } => {
                    self.seal(node, request, receiver, statement);
                }
                Output::Unseal { request, via, from, sealed } => {
                    self.unseal(node, request, [via, from], sealed);
                }
                Output::Describe { exchange, peer, description } => {
                    self.describe(node, exchange, peer, &description);
                }
                // Nobody waits for what becomes of it.
                Output::Published { .. } => {}
                output => panic!("the world does not know {output:?}"),
            }
        }
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let Some((at, _)) = host.node.poll_timeout() else { return };
        let at = at.max(self.now);
        if host.timer.is_none_or(|set| at < set) {
            host.timer = Some(at);
            self.at(at, Happening::Timer(node));
        }
    }

    fn frame(&mut self, node: usize, id: ConnectionId, channel: u32, frame: Frame) {
        if self.hostile.is_empty() {
            return self.put_on_the_line(node, id, channel, frame);
        }
        self.look_for_accusations(id, channel, &frame);
        self.permits.left((id, node), channel, &frame);
        for (channel, frame) in self.leaving(node, channel, frame) {
            self.put_on_the_line(node, id, channel, frame);
        }
    }

    fn put_on_the_line(&mut self, node: usize, id: ConnectionId, channel: u32, frame: Frame) {
        let Some(connection) = self.network.get_mut(id) else { return };
        let end = connection.end(node);
        let to = connection.ends[1 - end];
        let (free, arrives) = connection.send(end, frame.len(), self.now);
        self.measured.frames += 1;
        self.measured.frame_bytes += frame.len() as u64;
        self.at(arrives, Happening::Input(to, Input::Frame { connection: id, channel, frame }));
        self.at(free, Happening::Input(node, Input::Writable { connection: id, channel }));
    }

    fn event(&mut self, node: usize, event: Event) {
        match &event {
            Event::ItemAdded { id, .. } => {
                if let Some((from, at, bytes)) = self.published.get(id).copied() {
                    let after = self.now.since(at);
                    self.measured.item(Arrival { from, to: node, after, at }, bytes);
                }
            }
            Event::TipChanged { block, .. } => {
                if let Some((from, at)) = self.produced.get(block).copied() {
                    let after = self.now.since(at);
                    self.measured.block(Arrival { from, to: node, after, at });
                }
                self.tip_changed(node);
            }
            Event::DialFailed { address, .. } if !address.is_by_offer() => {
                let pair = self.pair_index.get(&[node, node_at(address)]).copied();
                if let Some(pair) = pair.filter(|_| !self.scenario.discovery) {
                    self.pairs[pair].dial = None;
                    self.dial_later(pair);
                }
            }
            _ => {}
        }
        let host = &mut self.hosts[node];
        host.events.push(event);
        while host.reads_events && host.events.pop().is_some() {}
    }
}

/// The faults, and the nodes that a partition cuts off.
struct Plan {
    faults: Vec<(Time, Fault)>,
    cut_off: BTreeSet<usize>,
}

impl Plan {
    fn draw(scenario: &Scenario, pairs: usize, entropy: &mut Entropy) -> Self {
        let faults = faults::plan(scenario, pairs, entropy);
        let (nodes, percent) = (scenario.nodes as u64, scenario.faults.partition_percent);
        let in_order = scenario.faults.partition_in_order;
        let cut = (0..nodes).filter(|node| {
            if in_order { *node < nodes * percent / 100 } else { entropy.below(100) < percent }
        });
        let cut_off = cut.map(|node| node as usize).collect();
        Self { faults, cut_off }
    }
}

/// A ring, so that all are connected, and random pairs.
fn topology(scenario: &Scenario, entropy: &mut Entropy) -> Vec<Pair> {
    let nodes = scenario.nodes;
    let mut ends = BTreeSet::new();
    let mut pairs = Vec::new();
    let links = &scenario.links;
    if scenario.discovery {
        // Nodes find each other.
        return pairs;
    }
    for from in 0..nodes {
        let mut dialed = 0;
        for attempt in 0..nodes.min(scenario.dials * 10) {
            let everyone = scenario.dials + 1 >= nodes;
            let to = match (attempt, everyone) {
                (_, true) => (from + 1 + attempt) % nodes,
                (0, false) => (from + 1) % nodes,
                _ => entropy.below(nodes as u64) as usize,
            };
            if dialed == scenario.dials {
                break;
            }
            if to == from || !ends.insert((from.min(to), from.max(to))) {
                continue;
            }
            dialed += 1;
            let delay = entropy.between(
                Duration::from_millis(links.least_delay_ms),
                Duration::from_millis(links.most_delay_ms),
            );
            pairs.push(Pair { ends: [from, to], delay, connection: None, dial: None, names: None });
        }
    }
    pairs
}
