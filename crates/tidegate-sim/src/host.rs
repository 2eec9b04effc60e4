//! A simulated node: the core, the ledger, and the application around them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::Signer as _;
use tidegate_ledger::{
    Checked, JobId, Ledger, LedgerRules, SigningKey, TRANSFERS, Transfer, WORKS, Work, pools,
};
use tidegate_proto::config::StaticPeer;
use tidegate_proto::id::{
    AccountId, BlockId, ItemId, NetworkId, PeerId, PoolIndex, SealingKey, Signature, Ticket,
};
use tidegate_proto::io::{Admission, Block, Command, Input, Lane, Output, Subject, Verdict};
use tidegate_proto::{Config, EventQueue, Node, Time};

use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::inside;
use crate::places::address;
use crate::scenario::Scenario;

/// The cost of validation on the simulated machine: signatures and proofs as measured on a slow
/// core.
const ITEM_COST: Duration = Duration::from_micros(60);
const HEADER_COST: Duration = Duration::from_micros(80);
const BLOCK_COST: Duration = Duration::from_micros(300);
const BLOCK_ITEM_COST: Duration = Duration::from_micros(5);
/// How much slower a slow validator is.
const SLOW: u32 = 100;

/// One node of the world.
pub(crate) struct Host {
    index: usize,
    pub(crate) node: Node,
    copies_frames: bool,
    pub(crate) ledger: Ledger,
    pub(crate) events: EventQueue,
    /// Whether its application reads events.
    pub(crate) reads_events: bool,
    pub(crate) key: SigningKey,
    pub(crate) produces: bool,
    pub(crate) proves: bool,
    accounts: Vec<Account>,
    next_account: usize,
    /// When each worker is free: the shared ones, and those of one lane.
    workers: Vec<Time>,
    own_workers: BTreeMap<Lane, Time>,
    slow: bool,
    /// When the node's timer is set for.
    pub(crate) timer: Option<Time>,
    /// Whether its process is running, the number of its starts, and its store.
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) disk: Disk,
    requests: u64,
}

struct Account {
    key: SigningKey,
    next: u64,
}

/// Signatures and proofs that are known to be valid: all nodes get the same result.
#[derive(Default)]
pub(crate) struct Good {
    items: BTreeSet<ItemId>,
    headers: BTreeSet<BlockId>,
}

/// The setup of a host.
pub(crate) struct Setup<'a> {
    pub(crate) index: usize,
    /// The ledger at its genesis, the same for all.
    pub(crate) ledger: &'a Ledger,
    pub(crate) network: NetworkId,
    pub(crate) scenario: &'a Scenario,
    pub(crate) seed: [u8; 32],
}

/// The key of node `index`.
pub(crate) fn node_key(index: usize) -> SigningKey {
    key("node", index, 0)
}

/// The key of one of the accounts of node `index`.
pub(crate) fn account_key(index: usize, account: usize) -> SigningKey {
    key("account", index, account)
}

fn key(kind: &str, index: usize, number: usize) -> SigningKey {
    let text = format!("{kind} {index} {number}");
    SigningKey::from_bytes(&blake3::derive_key("tidegate simulator key 1", text.as_bytes()))
}

/// The configuration of a node's core, on a network with this ledger.
fn config(index: usize, ledger: &Ledger, network: NetworkId, scenario: &Scenario) -> Config {
    let peer = PeerId(node_key(index).verifying_key().to_bytes());
    let mut config = Config::new(peer, network);
    config.genesis = Some(ledger.tip().1.to_bytes());
    config.pools = pools();
    config.outbound = 0;
    config.workers = scenario.workers;
    config.store = scenario.store;
    config.sealing = (scenario.load.offers > 0).then_some(SealingKey(peer.0));
    if scenario.small {
        small(&mut config);
    }
    if scenario.discovery {
        config.outbound = scenario.dials as u32;
        let others = (0..scenario.bootstrap_nodes).filter(|node| *node != index);
        config.bootstrap =
            others.map(|node| StaticPeer { address: address(node), peer: None }).collect();
    }
    config
}

/// Small limits on items, blocks and peers.
fn small(config: &mut Config) {
    for pool in &mut config.pools {
        (pool.capacity, pool.capacity_bytes) = (256, 384 << 10);
    }
    let limits = &mut config.limits;
    (limits.max_inbound, limits.max_outbound, limits.handshakes) = (8, 4, 8);
    (limits.book_new_buckets, limits.book_tried_buckets, limits.bans) = (4, 2, 64);
    (limits.fetch_bytes_node, limits.shelved_bytes) = (256 << 10, 32 << 10);
    (limits.header_bytes, limits.block_bytes, limits.block_size) = (512 << 10, 1 << 20, 256 << 10);
}

impl Host {
    /// Gives the core an input.
    pub(crate) fn input(&mut self, now: Time, mut input: Input) {
        inside::within(self.index, || {
            // Copied, as from a transport, so that a frame that is kept has memory of its own.
            if let Input::Frame { frame, .. } = &mut input
                && self.copies_frames
            {
                *frame = Bytes::from(frame.to_bytes().to_vec()).into();
            }
            self.node.handle_input(now, input);
        });
    }

    /// Gives the core a command.
    pub(crate) fn command(&mut self, now: Time, command: Command) {
        inside::within(self.index, || self.node.handle_command(now, command));
    }

    /// Tells the core that time has passed.
    pub(crate) fn timeout(&mut self, now: Time) {
        inside::within(self.index, || self.node.handle_timeout(now));
    }

    /// The next output of the core.
    pub(crate) fn output(&mut self) -> Option<Output> {
        inside::within(self.index, || self.node.poll_output())
    }

    pub(crate) fn new(setup: &Setup<'_>) -> Self {
        let key = node_key(setup.index);
        let scenario = setup.scenario;
        let config = config(setup.index, setup.ledger, setup.network, scenario);
        let node = Node::new(config, Box::new(LedgerRules), setup.seed, Time::ZERO);
        let account = |n| Account { key: account_key(setup.index, n), next: 0 };
        Self {
            index: setup.index,
            node: node.expect("the ledger's configuration is valid"),
            ledger: setup.ledger.clone(),
            copies_frames: scenario.small,
            events: EventQueue::default(),
            reads_events: true,
            key,
            produces: false,
            proves: false,
            accounts: (0..scenario.load.accounts).map(account).collect(),
            next_account: 0,
            workers: vec![Time::ZERO; scenario.workers as usize - 1],
            own_workers: BTreeMap::new(),
            slow: false,
            timer: None,
            up: true,
            life: 0,
            disk: Disk::default(),
            requests: 0,
        }
    }

    /// Signs with the node's key.
    pub(crate) fn sign(&self, payload: &[u8]) -> Signature {
        Signature(self.key.sign(payload).to_bytes())
    }

    /// Starts a new process of the node with its store; returns items to be published again.
    pub(crate) fn restart(
        &mut self,
        seed: u64,
        now: Time,
        scenario: &Scenario,
        first: &Ledger,
    ) -> Vec<(PoolIndex, Bytes)> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let genesis = first.genesis();
        let mut config = config(self.index, first, genesis.network(), scenario);
        config.peer_book = std::mem::take(&mut self.disk.book);
        config.chain = self.disk.headers();
        // So that no two records have the same sequence number.
        config.record_sequence = u64::from(self.life) << 16;
        self.ledger = Ledger::restore(genesis.clone(), self.disk.saved())
            .expect("what was kept holds together");
        let node = Node::new(config, Box::new(LedgerRules), bytes, now);
        self.node = node.expect("the ledger's configuration is valid");
        self.up = true;
        self.workers.fill(now);
        self.own_workers.clear();
        self.events = EventQueue::default();
        self.disk.published()
    }

    /// Publishes an item from before a restart again, if it is executable at present; the store
    /// keeps it in any case.
    pub(crate) fn offer_again(&mut self, pool: PoolIndex, body: Bytes) -> Vec<Command> {
        let retain = Command::Retain { pool, id: self.node.item_id(pool, &body) };
        let publish = match self.ledger.admit(pool, &body) {
            Verdict::Accept(admission) => Some(self.publish(pool, body, admission)),
            _ => None,
        };
        publish.into_iter().chain([retain]).collect()
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.node.config().peer
    }

    pub(crate) fn set_slow(&mut self, slow: bool) {
        self.slow = slow;
    }

    /// A worker takes a question: returns when it has the answer.
    pub(crate) fn work_on(&mut self, subject: &Subject, lane: Lane, now: Time) -> Time {
        let cost = match subject {
            Subject::Item { .. } => ITEM_COST,
            Subject::Header { .. } => HEADER_COST,
            Subject::Block(block) => {
                let fetched = block.items.iter().filter(|item| !item.known).count() as u32;
                BLOCK_COST + BLOCK_ITEM_COST * block.items.len() as u32 + ITEM_COST * fetched
            }
            subject => panic!("the ledger has no {subject:?}"),
        };
        let cost = if self.slow { cost * SLOW } else { cost };
        let shared = self.workers.iter_mut().min().filter(|_| lane == Lane::Shared);
        let worker = shared.unwrap_or_else(|| self.own_workers.entry(lane).or_default());
        *worker = (*worker).max(now) + cost;
        *worker
    }

    /// The answer to a question, as commands in order.
    pub(crate) fn judge(
        &mut self,
        ticket: Ticket,
        subject: &Subject,
        slot: u64,
        good: &mut Good,
    ) -> Vec<Command> {
        let checked = good.check(&self.ledger, subject);
        let judgement = self.ledger.judge(checked, slot);
        let mut commands = vec![Command::Verdict { ticket, verdict: judgement.verdict }];
        commands.extend(judgement.tip.map(Command::SetTip));
        commands
    }

    /// The next transfer of one of this node's accounts.
    pub(crate) fn transfer(
        &mut self,
        network: &NetworkId,
        entropy: &mut Entropy,
    ) -> Option<Command> {
        for _ in 0..self.accounts.len() {
            self.next_account = (self.next_account + 1) % self.accounts.len();
            let account = &mut self.accounts[self.next_account];
            let sender = tidegate_ledger::account(&account.key);
            account.next = account.next.max(self.ledger.account(&sender).nonce);
            let to = AccountId([entropy.byte(); 32]);
            let fee = 1 + entropy.below(20);
            let transfer = Transfer::new(network, &account.key, to, 1, fee, account.next);
            let body = transfer.to_bytes();
            if let Verdict::Accept(admission) = self.ledger.admit(TRANSFERS, &body) {
                account.next += 1;
                return Some(self.publish(TRANSFERS, body, admission));
            }
        }
        None
    }

    /// A proof for a job that is still open.
    pub(crate) fn prove(&mut self, job: JobId, fee: u64) -> Option<Command> {
        let rules = self.ledger.genesis().work;
        let prover = tidegate_ledger::account(&self.key);
        let work = Work::search(job, prover, fee, (rules.difficulty, rules.weight), 0, u64::MAX);
        let body = work.ok()?.to_bytes();
        match self.ledger.admit(WORKS, &body) {
            Verdict::Accept(admission) => Some(self.publish(WORKS, body, admission)),
            _ => None,
        }
    }

    fn publish(&mut self, pool: PoolIndex, body: Bytes, admission: Admission) -> Command {
        self.requests += 1;
        Command::Publish { request: self.requests, pool, body, admission }
    }

    /// The block of this slot, if it is this node's turn.
    pub(crate) fn propose(&mut self, slot: u64) -> Option<(Block, [Command; 2])> {
        if !self.produces || !self.ledger.may_propose(slot, &self.key) {
            return None;
        }
        let pool = |pool| {
            let items = self.node.pool(pool).filter(|(_, _, executable)| *executable);
            items.map(|(id, body, _)| (id, body.clone())).take(1024).collect::<Vec<_>>()
        };
        let (transfers, works) = (pool(TRANSFERS), pool(WORKS));
        let (block, tip) = self.ledger.propose(slot, &self.key, transfers, works)?;
        Some((block.clone(), [Command::PublishBlock { request: 0, block }, Command::SetTip(tip)]))
    }
}

impl Good {
    /// Checks a subject unless it is known to be valid.
    fn check(&mut self, ledger: &Ledger, subject: &Subject) -> Checked {
        let checker = ledger.checker();
        match subject {
            Subject::Item { id, .. } if self.items.contains(id) => checker.trust(subject),
            Subject::Header { block, .. } if self.headers.contains(block) => checker.trust(subject),
            Subject::Block(block) if block.items.iter().all(|i| self.items.contains(&i.id)) => {
                checker.trust(subject)
            }
            _ => {
                let checked = checker.check(subject);
                if checked.is_valid() {
                    match subject {
                        Subject::Item { id, .. } => drop(self.items.insert(*id)),
                        Subject::Header { block, .. } => drop(self.headers.insert(*block)),
                        _ => {}
                    }
                }
                checked
            }
        }
    }

    /// Items made by this world are valid.
    pub(crate) fn made(&mut self, id: ItemId) {
        self.items.insert(id);
    }
}
