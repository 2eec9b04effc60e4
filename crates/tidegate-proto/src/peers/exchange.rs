//! The peers channel: a peer that asks is told of others (specification section 15).
//!
//! ```text
//! A → B   Ask         one at a time
//! B → A   Records     B's own record, then some of those B knows; as B's permits allow
//! A → B   Moved       A's own record, when it has changed; a few at once, then one a minute
//! ```
//!
//! Nothing is sent without a question. The hello comes first, so a peer that asks is proven to be
//! at its address, as by the ping that precedes this question in Spacemesh's protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::channel::{Channel as ChannelTrait, Context};
use crate::config::Config;
use crate::control::record;
use crate::id::{Address, ConnectionId, Digest};
use crate::link::Instance;
use crate::peers::address::{Scope, is_local};
use crate::peers::book::Learnt;
use crate::peers::dial_back::{self, DialBacks, Reach};
use crate::peers::dialer;
use crate::permit::Terms;
use crate::rng::Rng;
use crate::rules::Rules;
use crate::time::{Pace, Time};
use crate::violation::Violation;
use crate::wire::{Encode as _, MAX_RECORDS, Offer, OfferedVersion, PeerRecord, PeersMessage};

/// One answer has a quarter of the book, and at least `LEAST`: no peer should learn all of it.
const SHARE: usize = 4;
const LEAST: usize = 16;
/// The first interval between two questions to one peer while connections are missing; doubled
/// while the answers have nothing new.
const SEARCH_FIRST: Duration = Duration::from_secs(2);
const SEARCH_MOST: Duration = Duration::from_secs(256);
/// The interval when no connections are missing.
const SATISFIED: Duration = Duration::from_secs(1800);

/// New records of this node that may leave in a burst, and the interval after that: a machine may
/// move from network to network. Twice as many may arrive, for those that were on their way.
const MOVES: u32 = 4;
const MOVE_INTERVAL: Duration = Duration::from_secs(60);

/// The state of the exchange on each connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    links: BTreeMap<ConnectionId, ExchangeLink>,
    pub(super) dial_backs: DialBacks,
    rng: Rng,
}

#[derive(Debug)]
struct ExchangeLink {
    at: Instance,
    /// A question is outstanding.
    asked: bool,
    /// When the last question left.
    last: Option<Time>,
    /// When the next one leaves; never in a closed network.
    next: Option<Time>,
    /// The current interval while connections are missing.
    pause: Duration,
    /// The peer has an outstanding question.
    owed: bool,
    /// The limit on answers.
    answers: Pace,
    /// The limits on outgoing and incoming new records.
    moves_out: Pace,
    moves_in: Pace,
    reach: Reach,
}

impl Exchange {
    pub(crate) fn new(rng: &Rng) -> Self {
        let (links, dial_backs) = (BTreeMap::new(), DialBacks::default());
        Self { links, dial_backs, rng: rng.fork("peers") }
    }

    /// The state of dialing back, for each connection.
    pub(super) fn reaches(&self) -> impl Iterator<Item = (ConnectionId, &Reach)> {
        self.links.iter().map(|(id, side)| (*id, &side.reach))
    }

    pub(super) fn give_up(&mut self, now: Time) {
        self.links.values_mut().for_each(|side| side.reach.give_up(now));
    }

    pub(super) fn reach(&mut self, connection: ConnectionId) -> Option<&mut Reach> {
        self.links.get_mut(&connection).map(|side| &mut side.reach)
    }

    /// A duration, randomized so that nodes do not ask all at the same time.
    fn about(&mut self, time: Duration) -> Duration {
        time / 2 + Duration::from_micros(self.rng.next_u64() % (time.as_micros() as u64).max(1))
    }
}

/// Connections are missing and the book has no candidates: asks peers that were not asked lately.
pub(crate) fn ask_early(cx: &mut Context) {
    for side in cx.exchange.links.values_mut() {
        let due = side.last.map_or(cx.now, |last| last + side.pause);
        if side.next.is_some_and(|next| due < next) {
            side.next = Some(due);
            cx.links.wake(side.at.link, side.at.slot);
        }
    }
}

/// Notes that the channel *peers* of a connection has something to send.
pub(super) fn wake(cx: &mut Context, connection: ConnectionId) {
    if let Some(side) = cx.exchange.links.get(&connection) {
        cx.links.wake(side.at.link, side.at.slot);
    }
}

/// This node has a new record: sends it to the connected peers.
pub(crate) fn moved(cx: &mut Context) {
    for side in cx.exchange.links.values() {
        cx.links.wake(side.at.link, side.at.slot);
    }
}

/// Whether an address is usable by a peer seen at `seen_at`.
pub(crate) fn is_useful(address: &Address, seen_at: &Address) -> bool {
    match address.scope() {
        // R5.4.4
        Scope::None => false,
        Scope::Loopback | Scope::Local => is_local(seen_at),
        Scope::Public => true,
    }
}

/// The channel of peers.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "peers";
    const FIXED: Option<u32> = None;
    const MAX_FRAME: usize = 48 << 10;
    type Message = PeersMessage;

    fn offers(_: &Config, _: &dyn Rules) -> Vec<Offer> {
        // R15.5
        let rules = Digest(blake3::derive_key("tidegate 1 peers rules", b""));
        vec![Offer {
            kind: crate::channel::Kind::Peers.number(),
            name: String::new(),
            versions: vec![OfferedVersion { number: 1, rules }],
            // R15.1
            grant: crate::config::PEERS_GRANT,
            capacity: 0,
        }]
    }

    fn on_up(cx: &mut Context, at: Instance, _: &Terms) {
        let outbound = cx.links.get(at.link).is_some_and(|link| !link.direction.is_inbound());
        let wait = if outbound { Duration::ZERO } else { cx.exchange.about(SATISFIED) };
        let side = ExchangeLink {
            at,
            asked: false,
            last: None,
            next: (cx.config.outbound > 0).then_some(cx.now + wait),
            pause: SEARCH_FIRST,
            owed: false,
            answers: Pace::default(),
            moves_out: Pace::default(),
            moves_in: Pace::default(),
            reach: Reach::default(),
        };
        cx.exchange.links.insert(at.link, side);
    }

    fn on_down(cx: &mut Context, at: Instance) {
        cx.exchange.links.remove(&at.link);
    }

    fn was_asked(message: &PeersMessage) -> bool {
        matches!(message, PeersMessage::Records(_) | PeersMessage::Reached(_))
    }

    fn on_message(cx: &mut Context, at: Instance, message: PeersMessage) -> Result<(), Violation> {
        let side = cx.exchange.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
        match message {
            PeersMessage::Ask => {
                // R15.1
                if std::mem::replace(&mut side.owed, true) {
                    return Err(Violation::RequestPermit);
                }
                cx.links.wake(at.link, at.slot);
                Ok(())
            }
            PeersMessage::Records(records) => on_records(cx, at, &records),
            PeersMessage::Moved(record) => on_moved(cx, at, &record),
            PeersMessage::Reach(address) => dial_back::asked(cx, at.link, address),
            PeersMessage::Reached(reached) => dial_back::told(cx, at.link, reached),
        }
    }

    fn poll_message(cx: &mut Context, at: Instance) -> Option<PeersMessage> {
        let interval = cx.config.limits.records_interval;
        let side = cx.exchange.links.get_mut(&at.link)?;
        let burst = cx.config.limits.records_burst;
        // R15.2
        if side.owed && side.answers.next(burst, interval) <= cx.now {
            side.owed = false;
            side.answers.take(interval, cx.now);
            return Some(PeersMessage::Records(answer(cx, at.link)));
        }
        if !side.asked && side.next.is_some_and(|next| next <= cx.now) {
            side.asked = true;
            side.last = Some(cx.now);
            return Some(PeersMessage::Ask);
        }
        if let Some(moved) = poll_moved(cx, at) {
            return Some(PeersMessage::Moved(moved));
        }
        dial_back::poll(cx, at.link)
    }

    fn deadline(cx: &Context, at: Instance) -> Option<Time> {
        let limits = &cx.config.limits;
        let side = cx.exchange.links.get(&at.link)?;
        let answer =
            side.owed.then(|| side.answers.next(limits.records_burst, limits.records_interval));
        let ask = side.next.filter(|_| !side.asked);
        let seen_at = &cx.links.get(at.link)?.address;
        let has_moved = cx.control.has_news_for(at.link, seen_at);
        let moved = has_moved.then(|| side.moves_out.next(MOVES, MOVE_INTERVAL));
        let reach = dial_back::deadline(cx, &side.reach, seen_at);
        answer.into_iter().chain(ask).chain(moved).chain(reach).min()
    }

    /// A missing answer is no sign of a dead peer: another is asked later.
    fn awaited_since(_: &Context, _: Instance) -> Option<Time> {
        None
    }

    fn is_owed(cx: &Context, at: Instance) -> bool {
        cx.exchange.links.get(&at.link).is_some_and(|side| side.owed)
    }

    fn due(_: &Context, _: usize) -> Option<Time> {
        None
    }

    fn expire(_: &mut Context, _: usize) {}
}

/// The answer to a question: this node's own record first. R15.3
fn answer(cx: &mut Context, connection: ConnectionId) -> Vec<PeerRecord> {
    let most = (cx.book.len() / SHARE).clamp(LEAST, MAX_RECORDS - 2);
    let mut records = others(cx, connection, most);
    // The record of the peer that asks comes too: if it lost its store, it learns its last sequence
    // number from that. R15.7
    let asker = cx.links.get(connection);
    let own = asker.and_then(|asker| cx.control.record_for(&asker.address));
    let of_asker = asker.and_then(|asker| {
        let record = cx.book.record(&asker.peer)?;
        record.addresses.iter().all(|at| is_useful(at, &asker.address)).then(|| record.clone())
    });
    records.splice(0..0, own.into_iter().chain(of_asker));
    // Leave room for a record, which may have sixteen long addresses.
    let mut room = Channel::MAX_FRAME - 64;
    records.retain(|record| {
        let size = record.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
        let fits = size <= room;
        room -= if fits { size } else { 0 };
        fits
    });
    records
}

/// A sample of known records that are usable by the peer of a link.
pub(crate) fn others(cx: &mut Context, connection: ConnectionId, most: usize) -> Vec<PeerRecord> {
    let Some(asker) = cx.links.get(connection) else { return Vec::new() };
    let (peer, seen_at) = (asker.peer, asker.address.clone());
    cx.book.sample(most, |record| {
        // A record is signed as a whole: one with an address in a local network is only for that
        // network.
        record.peer != peer && record.addresses.iter().all(|at| is_useful(at, &seen_at))
    })
}

/// A peer that refuses this node sends records of others. Invalid ones are skipped, since the
/// connection is ending anyway.
pub(crate) fn told_of(cx: &mut Context, connection: ConnectionId, records: &[PeerRecord]) {
    let Some(source) = cx.links.get(connection).map(|link| link.address.clone()) else { return };
    let dialed = cx.links.get(connection).is_some_and(|link| !link.direction.is_inbound());
    if !dialed || cx.config.outbound == 0 {
        return;
    }
    let is_news = |record: &&PeerRecord| learn(cx, record, &source) == Ok(true);
    if records.iter().filter(is_news).count() > 0 {
        dialer::refill_soon(cx);
    }
}

/// Adds a record that a peer sent; returns whether it is news.
fn learn(cx: &mut Context, record: &PeerRecord, source: &Address) -> Result<bool, Violation> {
    if record.peer == cx.config.peer {
        return record::heard_own(cx, record).map(|()| false);
    }
    if cx.book.has(record) {
        return Ok(false);
    }
    // R15.3
    if super::record::verify(record, &cx.config.network) {
        Ok(cx.book.learn(record, source) == Learnt::New)
    } else {
        Err(Violation::WrongRecord)
    }
}

/// This node's new record, if the peer does not have it and the rate limit allows.
fn poll_moved(cx: &mut Context, at: Instance) -> Option<PeerRecord> {
    let side = cx.exchange.links.get_mut(&at.link)?;
    if side.moves_out.next(MOVES, MOVE_INTERVAL) > cx.now {
        return None;
    }
    let seen_at = cx.links.get(at.link)?.address.clone();
    let moved = cx.control.news_for(at.link, &seen_at)?;
    side.moves_out.take(MOVE_INTERVAL, cx.now);
    Some(moved)
}

fn on_moved(cx: &mut Context, at: Instance, record: &PeerRecord) -> Result<(), Violation> {
    let side = cx.exchange.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R15.8
    if side.moves_in.next(MOVES * 2, MOVE_INTERVAL) > cx.now {
        return Err(Violation::OutOfTurn);
    }
    side.moves_in.take(MOVE_INTERVAL, cx.now);
    let Some(peer) = cx.links.get(at.link) else { return Ok(()) };
    let source = peer.address.clone();
    if record.peer != peer.peer || !super::record::verify(record, &cx.config.network) {
        return Err(Violation::WrongRecord);
    }
    cx.offers.keep(at.link, record);
    if cx.config.outbound > 0 && cx.book.learn(record, &source) == Learnt::New {
        dialer::refill_soon(cx);
    }
    Ok(())
}

fn on_records(cx: &mut Context, at: Instance, records: &[PeerRecord]) -> Result<(), Violation> {
    let side = cx.exchange.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    if !std::mem::take(&mut side.asked) {
        // R15.4
        return Err(Violation::Unasked);
    }
    let Some(source) = cx.links.get(at.link).map(|link| link.address.clone()) else {
        return Ok(());
    };
    let mut news = false;
    for record in records {
        news |= learn(cx, record, &source)?;
    }
    if news {
        dialer::refill_soon(cx);
    }
    let wait = cx.exchange.about(SATISFIED);
    let side = cx.exchange.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    side.pause = if news { SEARCH_FIRST } else { (side.pause * 2).min(SEARCH_MOST) };
    side.next = Some(cx.now + wait);
    Ok(())
}
