//! The node: its six methods, and the dispatch between the border and the parts.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::block::sync::{self, Sync};
use crate::block::{self, Blocks};
use crate::channel::{Context, Kind};
use crate::config::{Config, ConfigError};
use crate::control::reachable::OwnAddress;
use crate::control::{self, Control, record};
use crate::id::{Address, BlockId, ConnectionId, DialId, ItemId, PeerId, PoolIndex, Ticket};
use crate::io::{
    Block, BlockItem, Command, Connected, DialError, Direction, Event, Input, NotShared, Output,
    Path, TipChange, Verdict,
};
use crate::link::{Instance, Link, Links};
use crate::offer::{self, Offers};
use crate::peers::book::{Book, PeerBook};
use crate::peers::dial_back;
use crate::peers::dialer::{self, Dialer};
use crate::peers::exchange::Exchange;
use crate::peers::{self, BannedPeer, Peers};
use crate::pool::budget::Budget;
use crate::pool::{self, Pool};
use crate::rng::Rng;
use crate::rpc::{self, Rpc};
use crate::rules::{HeaderFacts, Rules};
use crate::signal::Signals;
use crate::stats::{Count, Stats};
use crate::store::{self, Store};
use crate::tickets::Tickets;
use crate::time::Time;
use crate::timers::{Timer, Timers};
use crate::tip::Tip;
use crate::violation::Violation;
use crate::wire::{BlockBody, Frame, Goodbye};

/// A node of the network, as a state machine.
///
/// Its inputs are events of the network ([`Node::handle_input`]), commands of the application
/// ([`Node::handle_command`]) and the passing of time ([`Node::handle_timeout`]). After each of
/// them call [`Node::poll_output`] until it returns `None`, and do what it says; then wait for the
/// next input, or until [`Node::poll_timeout`].
///
/// Messages are only written when `poll_output` asks for them, so they always contain the newest
/// state.
pub struct Node {
    cx: Context,
}

impl Node {
    /// A node that starts at time `now`.
    ///
    /// Two nodes with the same arguments and the same inputs do the same.
    pub fn new(
        mut config: Config,
        rules: Box<dyn Rules>,
        seed: [u8; 32],
        now: Time,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let genesis = match &config.genesis {
            None => None,
            Some(header) => {
                let facts = rules.header(header).ok_or(ConfigError::Genesis)?;
                Some((facts, header.clone()))
            }
        };
        let chain = chain(&config, &*rules)?;
        let tip = chain.last().map(|(facts, _)| *facts);
        let tip = tip.or_else(|| genesis.as_ref().map(|(facts, _)| *facts));
        let best = Tip::new(chain.last().cloned().or_else(|| genesis.clone()));
        let rng = Rng::new(seed);
        let control = Control::new(&rng);
        let salt = control.salt();
        let blocks = Blocks::new(genesis.into_iter().chain(chain), salt, &config.limits);
        let pools = config.pools.iter().enumerate();
        let pools = pools.map(|(i, spec)| Pool::new(spec.clone(), PoolIndex(i as u16), salt));
        let pools = pools.collect();
        let peers = Peers::new(&config, now);
        let dialer = Dialer::new(&config, now, &rng);
        // The book has taken it over.
        let book = std::mem::take(&mut config.peer_book);
        let cx = Context {
            now,
            pools,
            tickets: Tickets::new(config.workers),
            dialer,
            book: Book::new(
                config.peer,
                &book,
                book_buckets(&config),
                config.sealing.is_some(),
                &rng,
            ),
            exchange: Exchange::new(&rng),
            config,
            rules,
            links: Links::default(),
            control,
            peers,
            tip: best,
            blocks,
            sync: Sync::default(),
            rpc: Rpc::default(),
            signals: Signals::default(),
            offers: Offers::new(&rng),
            store: Store::new(tip),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            stats: Stats::default(),
            fetches: Budget::default(),
            charged_later: 0,
        };
        let mut node = Self { cx };
        node.set_timers();
        Ok(node)
    }

    /// Handles an event of the network.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        self.advance(now);
        match input {
            Input::Connected(connected) => self.on_connected(connected),
            Input::Moved { connection, address } => {
                control::moved(&mut self.cx, connection, address);
            }
            Input::DialFailed { dial, error } => self.on_dial_failed(dial, error),
            Input::Frame { connection, channel, frame } => {
                self.on_frame(connection, channel, &frame);
            }
            Input::Writable { connection, channel } => self.cx.links.writable(connection, channel),
            Input::Closed { connection } => self.on_closed(connection),
            Input::Described { exchange, description } => {
                offer::described(&mut self.cx, exchange, description);
            }
            Input::Declined { offer } => offer::declined(&mut self.cx, offer),
        }
        self.settle();
    }

    /// Handles a command or an answer of the application.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        self.advance(now);
        let cx = &mut self.cx;
        match command {
            Command::Dial { address, .. } if !peers::may_dial(cx) => {
                cx.event(Event::DialFailed { address, error: DialError::Full });
            }
            Command::Dial { address, peer } => {
                if let Some(peer) = peer {
                    cx.dialer.is_wanted(&peer);
                }
                peers::dial(cx, address, peer);
            }
            Command::Disconnect { peer } => {
                for connection in links_of(cx, &peer) {
                    cx.links.end(connection, Goodbye::Requested);
                }
            }
            Command::Listening { listeners, interfaces, external } => {
                record::listening(cx, listeners, interfaces, external);
            }
            Command::Signature { request, signature } => record::signed(cx, request, signature),
            Command::Sealed { request, sealed } => offer::sealed(cx, request, sealed),
            Command::Unsealed { request, statement } => {
                offer::unsealed(cx, request, statement.as_ref());
            }
            Command::Verdict { ticket, verdict } => self.on_verdict(ticket, verdict),
            Command::Publish { request, pool, body, admission } => {
                let (fate, id) = pool::publish(cx, pool, body.clone(), admission);
                if let (Some(id), Some(pool)) = (&id, cx.pools.get_mut(pool.0 as usize)) {
                    pool.mark_own(id);
                }
                store::published(cx, request, id.map(|id| (pool, id, body)), fate);
            }
            Command::PublishBlock { request, block } => {
                let fate = block::publish(cx, block);
                store::published_block(cx, request, fate);
            }
            Command::SetTip(mut change) => {
                let TipChange { block, state, .. } = &mut change;
                block::set_tip(cx, *block, std::mem::take(state));
                pool::tip_changed(cx, change);
            }
            Command::Raise { peer, pool, grant } => {
                for connection in links_of(cx, &peer) {
                    control::raise(cx, connection, (Kind::Pool, usize::from(pool.0)), &grant);
                }
            }
            Command::Retain { pool, id } => store::retain(cx, pool, id),
            Command::Loaded { request, found } => rpc::loaded(cx, request, found),
            Command::Stored { request } => store::stored(cx, request),
            Command::Shutdown => {
                cx.peers.shutting_down = true;
                for connection in cx.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
                    cx.links.end(connection, Goodbye::ShuttingDown);
                }
            }
        }
        self.settle();
    }

    /// Handles timers that are due. Harmless if there are none.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        // Each timer once: one that is due again at once needs an output first.
        let (now, timers) = (self.cx.now, &mut self.cx.timers);
        let due = std::iter::from_fn(|| timers.pop(now)).collect::<Vec<_>>();
        for timer in due {
            match timer {
                Timer::Channel { link, slot } => {
                    if slot == 0 {
                        control::expire(&mut self.cx, Instance { link, slot, index: 0 });
                    }
                    self.cx.links.wake(link, slot);
                    self.set_deadline(link, slot);
                }
                Timer::Kind(kind, index) => kind.expire(&mut self.cx, index),
                Timer::Dialer => dialer::expire(&mut self.cx),
                Timer::Dials => {
                    while let Some(dial) = self.cx.peers.overdue(self.cx.now) {
                        self.cx.outputs.push_back(Output::Cancel { dial });
                        self.on_dial_failed(dial, DialError::TimedOut);
                    }
                }
                Timer::Offers => offer::expire(&mut self.cx),
                Timer::Addresses => record::expire(&mut self.cx),
                Timer::Rested => {
                    self.cx.links.rested(self.cx.now);
                    rpc::next_turn(&mut self.cx);
                }
                Timer::Ticket(ticket) => {
                    self.cx.stats.count(Count::LateVerdicts);
                    if let Some(question) = self.cx.tickets.question(ticket) {
                        question.overdue(&mut self.cx);
                    }
                }
            }
            self.settle();
        }
    }

    /// The next output; `None` if there is none for now.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.cx.outputs.pop_front() {
                return Some(output);
            }
            if let Some(verify) = self.poll_ticket() {
                return Some(verify);
            }
            let next = self.cx.links.next(self.cx.now);
            if self.cx.links.has_begun_to_rest() {
                rpc::next_turn(&mut self.cx);
                continue;
            }
            let Some((kind, at)) = next else {
                let rested = self.cx.links.rests_until();
                self.cx.timers.set(Timer::Rested, rested);
                return None;
            };
            match kind.poll_frame(&mut self.cx, at) {
                Some(Ok(frame)) => return Some(self.send(kind, at, frame)),
                Some(Err(_)) => {
                    self.cx.stats.count(Count::Internal);
                    self.cx.links.clean(at);
                    self.cx.links.end(at.link, Goodbye::Internal);
                    self.settle();
                }
                None => {
                    self.cx.links.clean(at);
                    // A channel that was due but had nothing to send is polled again after all
                    // others.
                    self.set_deadline_from(at.link, at.slot, self.cx.now + TICK);
                }
            }
        }
    }

    /// When to call [`Node::handle_timeout`], and which part of the node asks for it.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        self.cx.timers.next()
    }

    fn advance(&mut self, now: Time) {
        self.cx.now = self.cx.now.max(now);
    }

    fn on_dial_failed(&mut self, dial: DialId, error: DialError) {
        let cx = &mut self.cx;
        cx.peers.settled(dial);
        offer::over(cx, dial);
        if dial_back::dialed(cx, dial, false) {
            return;
        }
        dialer::dial_failed(cx, dial);
        if let Some(dial) = cx.peers.dialed(dial) {
            cx.event(Event::DialFailed { address: dial.address, error });
        }
    }

    fn on_connected(&mut self, connected: Connected) {
        let Connected { connection, peer, direction, address, listener, binding, path } = connected;
        self.cx.offers.arrived(&peer);
        let link = Link::new(peer, direction, address, path, self.cx.now);
        if let Direction::Outbound(dial) = direction {
            self.cx.peers.settled(dial);
            offer::over(&mut self.cx, dial);
        }
        let dial = match direction {
            Direction::Inbound => None,
            Direction::Outbound(dial) if dial_back::dialed(&mut self.cx, dial, true) => {
                return self.cx.outputs.push_back(Output::Close { connection });
            }
            Direction::Outbound(dial) => {
                dialer::connected(&mut self.cx, dial, connection);
                let dialed = self.cx.peers.dialed(dial);
                if dialed.is_none() && !peers::may_dial(&self.cx) {
                    // The dial had timed out, and another was started instead.
                    return self.cx.outputs.push_back(Output::Close { connection });
                }
                dialed
            }
        };
        let known = dial.is_some_and(|dial| dial.peer == Some(link.peer));
        let left = peers::left_work(&self.cx, &link.address).filter(|_| direction.is_inbound());
        // R5.3.7
        self.cx.links.insert(connection, link.owes(left));
        let at = Instance { link: connection, slot: 0, index: 0 };
        control::connected(&mut self.cx, at, binding, listener, known);
        self.set_deadline(connection, 0);
    }

    fn on_frame(&mut self, connection: ConnectionId, channel: u32, frame: &Frame) {
        let cx = &mut self.cx;
        let Some(link) = cx.links.get_mut(connection) else { return };
        link.heard = cx.now;
        let Some(slot) = link.slot_of(channel) else {
            // Frames still in transit when the connection was ended are not held against the peer.
            if link.up {
                // R5.7.7
                cx.links.end(connection, Violation::UnknownChannel);
            }
            return;
        };
        let (kind, index) = (link.slots[slot].kind, link.slots[slot].index);
        let at = Instance { link: connection, slot, index };
        cx.stats.frame_in(kind.name(), frame.len());
        let before = cx.stats.of(Count::Work);
        let outcome = kind.on_frame(cx, at, frame);
        // A side effect of the sender's message, so its cost belongs to it too.
        sync::settle(cx);
        if outcome == Ok(false) {
            cx.charge(connection, before);
        }
        // R5.6.2
        if let Err(violation) = outcome {
            cx.links.end(connection, violation);
        }
        control::drain(cx, connection);
        self.set_deadline(connection, slot);
        self.set_deadline(connection, 0);
    }

    fn on_closed(&mut self, connection: ConnectionId) {
        let cx = &mut self.cx;
        let Some(link) = cx.links.get(connection) else { return };
        let (peer, slots, since) = (link.peer, link.slots.len(), link.since);
        let was_up = control::was_up(cx, connection);
        let reason = control::closed(cx, connection);
        for slot in 0..slots {
            cx.timers.set(Timer::Channel { link: connection, slot }, None);
        }
        let link = cx.links.remove(connection);
        let up_for = was_up.then(|| cx.now.since(since));
        if let Some(link) = link {
            dialer::closed(cx, connection, &link, up_for, &reason);
        }
        let another = cx.links.iter().any(|(_, other)| other.peer == peer && other.up);
        if was_up && !another && cx.peers.told.remove(&peer) {
            cx.event(Event::PeerDisconnected { peer, reason });
        }
    }

    fn on_verdict(&mut self, ticket: Ticket, verdict: Verdict) {
        let cx = &mut self.cx;
        let Some(question) = cx.tickets.answered(ticket) else { return };
        cx.timers.set(Timer::Ticket(ticket), None);
        cx.stats.count(Count::Verdicts);
        question.verdict(cx, verdict);
    }

    /// Ends a step: ends the connections that were marked during it.
    fn settle(&mut self) {
        while let Some((dial, error)) = self.cx.offers.next_failed() {
            self.on_dial_failed(dial, error);
        }
        while let Some((connection, ending)) = self.cx.links.next_ending() {
            control::end(&mut self.cx, connection, ending);
            self.set_deadline(connection, 0);
        }
        sync::settle(&mut self.cx);
        pool::settle(&mut self.cx);
        self.set_timers();
    }

    fn poll_ticket(&mut self) -> Option<Output> {
        loop {
            let blocks = !self.cx.store.is_behind(self.cx.config.limits.store_backlog);
            let (ticket, question, lane) = self.cx.tickets.next(blocks)?;
            let Some(subject) = question.subject(&mut self.cx) else {
                // Settled while it was queued.
                self.cx.tickets.answered(ticket);
                continue;
            };
            let late = self.cx.now + self.cx.config.limits.verdict_timeout;
            self.cx.timers.set(Timer::Ticket(ticket), Some(late));
            return Some(Output::Verify { ticket, subject, lane });
        }
    }

    fn send(&mut self, kind: Kind, at: Instance, frame: Frame) -> Output {
        let channel = self.cx.links.sent(at);
        self.cx.stats.frame_out(kind.name(), frame.len());
        self.set_deadline(at.link, at.slot);
        if kind != Kind::Control {
            // A request may have left, whose answer is awaited now.
            self.set_deadline(at.link, 0);
            control::drain(&mut self.cx, at.link);
            if self.cx.links.get(at.link).is_some_and(|link| link.ending().is_some()) {
                self.settle();
            }
        }
        Output::Frame { connection: at.link, channel, frame }
    }

    /// Sets the timer of a channel. If its deadline has passed, it waits for being polled, not for
    /// a timer.
    fn set_deadline(&mut self, connection: ConnectionId, slot: usize) {
        self.set_deadline_from(connection, slot, self.cx.now);
    }

    /// The same, but not before `earliest`.
    fn set_deadline_from(&mut self, connection: ConnectionId, slot: usize, earliest: Time) {
        let Some(link) = self.cx.links.get(connection) else { return };
        let Some((kind, index)) = link.slots.get(slot).map(|s| (s.kind, s.index)) else {
            self.cx.timers.set(Timer::Channel { link: connection, slot }, None);
            return;
        };
        let at = Instance { link: connection, slot, index };
        let deadline = kind.deadline(&self.cx, at).map(|deadline| deadline.max(earliest));
        let timer = Timer::Channel { link: connection, slot };
        if kind == Kind::Control {
            self.cx.timers.set_at_most(timer, deadline);
        } else if deadline.is_some_and(|deadline| deadline <= self.cx.now) {
            self.cx.links.wake(connection, slot);
            self.cx.timers.set(timer, None);
        } else {
            self.cx.timers.set(timer, deadline);
        }
    }

    fn set_timers(&mut self) {
        for kind in Kind::ALL {
            for index in 0..kind.instances(&self.cx.config) {
                let due = kind.due(&self.cx, index);
                self.cx.timers.set(Timer::Kind(*kind, index), due);
            }
        }
        let dial =
            self.cx.dialer.deadline(&self.cx.config).filter(|_| !self.cx.peers.shutting_down);
        self.cx.timers.set(Timer::Dialer, dial);
        self.cx.timers.set(Timer::Dials, self.cx.peers.dial_deadline());
        self.cx.timers.set(Timer::Offers, self.cx.offers.deadline());
        let addresses = record::deadline(&self.cx);
        self.cx.timers.set(Timer::Addresses, addresses);
    }
}

/// The pause before a channel is polled again that was due but had nothing to send: without one, a
/// step could poll it for ever.
const TICK: Duration = Duration::from_millis(1);

/// The number of anchors, as in Bitcoin Core.
const ANCHORS: usize = 2;

/// The chain in the store, if each header is the child of the one before.
fn chain(config: &Config, rules: &dyn Rules) -> Result<Vec<(HeaderFacts, Bytes)>, ConfigError> {
    let facts = |header: &Bytes| rules.header(header).map(|facts| (facts, header.clone()));
    let chain = config.chain.iter().map(facts).collect::<Option<Vec<_>>>();
    let chain = chain.ok_or(ConfigError::Chain)?;
    let child = |pair: &[(HeaderFacts, Bytes)]| {
        pair[1].0.parent == pair[0].0.block && pair[1].0.height == pair[0].0.height + 1
    };
    if chain.windows(2).all(child) { Ok(chain) } else { Err(ConfigError::Chain) }
}

fn book_buckets(config: &Config) -> [u32; 2] {
    [config.limits.book_new_buckets, config.limits.book_tried_buckets]
}

fn links_of(cx: &Context, peer: &PeerId) -> Vec<ConnectionId> {
    cx.links.iter().filter(|(_, link)| link.peer == *peer).map(|(id, _)| id).collect()
}

/// Read access, at any time.
impl Node {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.cx.config
    }

    /// The id of an item by the application's rules, also for an unknown pool.
    pub fn item_id(&self, pool: PoolIndex, body: &[u8]) -> ItemId {
        let pool = self.cx.pools.get(pool.0 as usize).map_or("", |pool| &pool.spec.name);
        self.cx.rules.item_id(pool, body)
    }

    /// Counters since the start.
    pub fn stats(&self) -> &Stats {
        &self.cx.stats
    }

    /// The best executed block.
    pub fn tip(&self) -> Option<&HeaderFacts> {
        self.cx.tip.held()
    }

    /// The best block by its header.
    pub fn best_header(&self) -> Option<&HeaderFacts> {
        self.cx.tip.best()
    }

    /// Items of a pool, the best first, and whether each is executable.
    pub fn pool(&self, pool: PoolIndex) -> impl Iterator<Item = (ItemId, &Bytes, bool)> {
        self.cx.pools.get(pool.0 as usize).into_iter().flat_map(Pool::best_first)
    }

    /// An item of a pool, and whether it is executable.
    pub fn item(&self, pool: PoolIndex, id: &ItemId) -> Option<(&Bytes, bool)> {
        self.cx.pools.get(pool.0 as usize)?.content().body(id)
    }

    /// Connected peers that are known to have an item of a pool: they took it from this node, or
    /// offered it. `None` if it is not in the pool.
    pub fn holders(&self, pool: PoolIndex, id: &ItemId) -> Option<Vec<PeerId>> {
        let links = self.cx.pools.get(pool.0 as usize)?.holders(id)?;
        Some(links.filter_map(|link| Some(self.cx.links.get(link)?.peer)).collect())
    }

    /// Published items in the pools that fewer than `peers` connected peers have. If fewer peers
    /// share the pool, all of them count as enough; one is the least.
    pub fn unspread(&self, peers: usize) -> impl Iterator<Item = ItemId> {
        self.cx.pools.iter().flat_map(move |pool| pool.unspread(peers))
    }

    /// Ids of the items of a pool, ascending.
    pub fn pool_ids(&self, pool: PoolIndex) -> impl Iterator<Item = &ItemId> {
        self.cx.pools.get(pool.0 as usize).into_iter().flat_map(Pool::ids)
    }

    /// The address book, to be saved over a restart.
    pub fn peer_book(&self) -> PeerBook {
        let cx = &self.cx;
        let dialed = cx.links.iter().filter(|(_, link)| link.up && !link.direction.is_inbound());
        let mut chosen = dialed.filter(|(id, _)| !cx.dialer.is_feeler(*id)).collect::<Vec<_>>();
        // Peers that have been up for long are the most likely to be up again.
        chosen.sort_by_key(|(id, link)| (link.since, *id));
        let anchors = chosen.iter().take(ANCHORS).map(|(_, link)| link.peer).collect();
        let mut saved = cx.book.saved(&anchors);
        saved.bans = cx.peers.saved(cx.now);
        saved
    }

    /// Changes whenever the address book does.
    pub fn peer_book_revision(&self) -> u64 {
        let cx = &self.cx;
        cx.book.revision() + cx.stats.of(Count::Connections) + cx.peers.banned_so_far
    }

    /// Banned peers.
    pub fn banned_peers(&self) -> Vec<BannedPeer> {
        self.cx.peers.banned_peers(self.cx.now)
    }

    /// An executed block that is in memory, with its items; older ones are in the store.
    pub fn block(&self, block: &BlockId) -> Option<Block> {
        block::kept(&self.cx, block)
    }

    /// The block at a height of the best chain, if it is in memory.
    pub fn block_at(&self, height: u64) -> Option<BlockId> {
        block::at_height(&self.cx, height)
    }

    /// Decodes the items of a stored block ([`crate::io::Write::Block`]); `None` if a pool is
    /// unknown to this node.
    pub fn items_of(&self, body: Bytes) -> Option<Vec<BlockItem>> {
        let body = Frame::from(body).decode::<BlockBody>().ok()?;
        let pool = |name: &str| pool::named(&self.cx.pools, name);
        BlockItem::all_of(body, &*self.cx.rules, pool, true)
    }

    /// The kind of a channel instance; `None` if it is not open.
    pub fn kind_of(&self, connection: ConnectionId, channel: u32) -> Option<Kind> {
        let link = self.cx.links.get(connection)?;
        Some(link.slots[link.slot_of(channel)?].kind)
    }

    /// The node's status.
    pub fn status(&self) -> Status {
        let cx = &self.cx;
        let permits = |pool: &Pool, connection| {
            let (given, spent) = pool.permits_of(connection)?;
            Some((pool.spec.name.clone(), Permits { given, spent }))
        };
        let peer = |(id, link): (ConnectionId, &Link)| PeerStatus {
            peer: link.peer.to_string(),
            client: cx.control.client(id).unwrap_or_default().to_owned(),
            inbound: link.direction.is_inbound(),
            transport: link.address.transport(),
            address: link.address.clone(),
            path: link.path,
            connected_for: cx.now.since(link.since),
            round_trip: link.round_trip(),
            height: link.height(),
            channels: link.slots.iter().map(|slot| (slot.number, slot.version)).collect(),
            permits: cx.pools.iter().filter_map(|pool| permits(pool, id)).collect(),
            not_shared: cx.control.unshared(id).to_vec(),
        };
        let pool = |pool: &Pool| {
            let (given, spent) = pool.permits();
            let status = PoolStatus { items: pool.len(), bytes: pool.bytes(), given, spent };
            (pool.spec.name.clone(), status)
        };
        Status {
            peers: cx.links.iter().filter(|(_, link)| link.up).map(peer).collect(),
            pools: cx.pools.iter().map(pool).collect(),
            height: cx.store.tip().map_or(0, |tip| tip.height),
            tip: cx.store.tip().map(|tip| tip.block.to_string()),
            tickets: cx.tickets.out(),
            blocks_kept: cx.blocks.kept().0,
            block_bytes: cx.blocks.kept().1,
            fetch_bytes: cx.fetches.bytes(),
            bans: cx.peers.bans(),
            store_backlog: cx.store.backlog(),
            known_peers: cx.book.len(),
            met_peers: cx.book.tried(),
            addresses: cx.control.reachable().all(cx.now),
        }
    }
}

/// The status of a node.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Pools by name.
    pub pools: BTreeMap<String, PoolStatus>,
    /// Height of the best executed block, once it is durable.
    pub height: u64,
    /// Its id.
    pub tip: Option<String>,
    /// Tickets without a verdict.
    pub tickets: usize,
    /// Blocks in memory.
    pub blocks_kept: usize,
    /// Bytes of their items.
    pub block_bytes: usize,
    /// Bytes of requested items without a verdict.
    pub fetch_bytes: u32,
    /// How many peers are banned.
    pub bans: usize,
    /// Bytes written but not durable yet.
    pub store_backlog: usize,
    /// Peers in the address book.
    pub known_peers: usize,
    /// Those that this node has met.
    pub met_peers: usize,
    /// Addresses of this node, in the order in which others should try them, and who is told about
    /// each.
    pub addresses: Vec<OwnAddress>,
}

/// The status of a connected peer.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Its id.
    pub peer: String,
    /// Its client name.
    pub client: String,
    /// Whether it dialed.
    pub inbound: bool,
    /// What the connection is over: see [`Address::transport`](crate::id::Address::transport).
    pub transport: &'static str,
    /// Where the peer is, as the transport sees it.
    #[serde(skip)]
    pub address: Address,
    /// How directly the connection leads to it.
    pub path: Path,
    /// How long it has been connected.
    pub connected_for: Duration,
    /// The measured round trip, if any.
    pub round_trip: Option<Duration>,
    /// Height of its executed tip, as it claims.
    pub height: u64,
    /// Channel instances and their versions.
    pub channels: Vec<(u32, u32)>,
    /// Permits by pool.
    pub permits: BTreeMap<String, Permits>,
    /// What it does not share with this node: the kind of channel, the name of its instance (for
    /// pools, that of the pool), and why.
    pub not_shared: Vec<(Kind, String, NotShared)>,
}

/// Permits outstanding between this node and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Permits {
    /// Those that the peer has spent here.
    pub given: usize,
    /// Those that this node has spent at the peer.
    pub spent: usize,
}

/// The status of a pool.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Items it holds.
    pub items: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Permits that peers have spent here and that are outstanding.
    pub given: usize,
    /// Permits that this node has spent at peers and that are outstanding.
    pub spent: usize,
}

#[cfg(test)]
impl Node {
    /// Signals that are kept for others, answers to own ones that are awaited, and exchanges.
    pub(crate) fn signals_open(&self) -> usize {
        self.cx.signals.open() + self.cx.offers.open()
    }

    /// Has something carried that is no statement.
    pub(crate) fn carry(&mut self, now: Time, id: u64, (via, to): (PeerId, PeerId), raw: Bytes) {
        self.advance(now);
        crate::signal::ask(&mut self.cx, crate::id::SignalId(id), (via, to), raw);
        self.settle();
    }

    /// What has become of such.
    pub(crate) fn carried(&mut self) -> Vec<(u64, Result<(), crate::io::SignalError>)> {
        self.cx.signals.told.drain(..).map(|(id, result)| (id.0, result)).collect()
    }
}
