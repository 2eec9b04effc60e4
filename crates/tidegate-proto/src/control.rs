//! The control channel: hello, ping, goodbye (specification section 5).
//!
//! ```text
//! D → L   Hello       versions, network, instance, binding; the dialer first
//! L → D   Hello, Setup        or one Refuse, and nothing else
//! D → L   Setup       offers, record, salt; a side is up once it has the other's
//!         Ping, Pong, Raise, Goodbye
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::channel::{Channel as ChannelTrait, Context, Kind};
use crate::config::{Config, MAX_POOLS};
use crate::id::{ConnectionId, Salt};
use crate::io::{Disconnect, Event};
use crate::link::Instance;
use crate::peers::{self, Duplicate};
use crate::peers::{dialer, exchange};
use crate::permit::Terms;
use crate::rng::Rng;
use crate::rules::Rules;
use crate::stats::Count;
use crate::time::{Pace, Time};
use crate::violation::Violation;
use crate::wire::{
    Address, Binding, ControlMessage, Goodbye, Grant, Hello, MAX_OTHERS, Offer, PeerRecord, Raise,
    Refusal, Setup,
};

mod ending;
mod liveness;
mod negotiate;
pub(crate) mod reachable;
pub(crate) mod record;

use ending::{close, ends_for, expire_last_words, waiting_for, without_records};
pub(crate) use ending::{closed, drain, end, is_admitted, is_over, moved};
use liveness::{next_ping, poll_ping, silence};
use negotiate::Unshared;
use reachable::Reachable;

/// The version of the protocol that this crate speaks.
pub const VERSION: u32 = 5;

/// Raises that may leave in a burst, as many as there can be pools; then one a second. Twice as
/// many may arrive, for those that were on their way.
const RAISES: u32 = MAX_POOLS as u32;
const RAISE_INTERVAL: Duration = Duration::from_secs(1);
/// Pongs that may leave in a burst, and the interval after that. Without a limit a peer that pings
/// again at each pong would keep this node busy, since the control channel does not rest.
const PONGS: u32 = 8;
const PONG_INTERVAL: Duration = Duration::from_millis(100);
/// Timeout for the last message of a connection.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The state of each connection's control channel, and what this node says about itself.
#[derive(Debug)]
pub(crate) struct Control {
    /// A random number for this start of the process.
    instance: u64,
    /// This node's salt: the key of ids announced to it.
    salt: Salt,
    own: record::Own,
    reachable: Reachable,
    links: BTreeMap<ConnectionId, ControlLink>,
    rng: Rng,
    /// How many connections wait for an older one to answer a ping.
    waiting: usize,
}

#[derive(Debug)]
struct ControlLink {
    at: Instance,
    binding: Binding,
    /// The listener whose socket this node dialed from.
    listener: Option<Address>,
    stage: Stage,
    /// The peer's hello, once it was checked.
    hello: Option<Hello>,
    /// The peer's setup, if it came while an older connection was being pinged.
    early_setup: Option<Setup>,
    send_hello: bool,
    send_setup: bool,
    raises: VecDeque<Raise>,
    /// The limits on outgoing and incoming raises.
    raises_out: Pace,
    raises_in: Pace,
    pong: Option<u64>,
    pongs: Pace,
    /// The outstanding ping: its number, and when it left.
    ping: Option<(u64, Time)>,
    /// A ping should leave at once.
    ping_now: bool,
    last_ping: Time,
    hello_sent: Option<Time>,
    /// What the peer does not share with this node.
    unshared: Vec<Unshared>,
    /// The sequence number of this node's record that the peer has.
    said: Option<u64>,
    /// Another connection to the same peer stays; this one ends then at the latest.
    yields: Option<Time>,
    /// The other one is up, and this node is the side that ends this one: once nothing is owed on
    /// it. R5.3.9
    drains: bool,
    /// The connection that this one replaces once it is up.
    replaces: Option<ConnectionId>,
    /// Both setups were exchanged, even if the connection is ending now.
    was_up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the peer's hello until then.
    Hello(Time),
    /// Waits until then for an older connection to the same peer to answer a ping.
    Asking {
        older: ConnectionId,
        until: Time,
    },
    /// Waits for the peer's setup until then.
    Setup(Time),
    Up,
    /// Sends its last message; the connection is closed then at the latest.
    Ending(Last, Time),
    /// Waits for the transport to close it.
    Closed(Disconnect),
}

/// The last message of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Last {
    Refuse(Refusal),
    Goodbye(Goodbye, Disconnect),
}

impl Control {
    pub(crate) fn new(rng: &Rng) -> Self {
        let mut own = rng.fork("control");
        Self {
            instance: own.next_u64(),
            salt: Salt(rng.fork("salt").bytes()),
            own: record::Own::default(),
            reachable: Reachable::default(),
            links: BTreeMap::new(),
            rng: own,
            waiting: 0,
        }
    }

    pub(crate) fn salt(&self) -> Salt {
        self.salt
    }

    /// This node's record for a peer seen at an address. R15.6
    pub(crate) fn record_for(&self, seen_at: &Address) -> Option<PeerRecord> {
        self.own.record_for(seen_at).cloned()
    }

    /// The record, if the peer of a connection does not have it yet; from now on it counts as sent.
    pub(crate) fn news_for(
        &mut self,
        connection: ConnectionId,
        seen_at: &Address,
    ) -> Option<PeerRecord> {
        if !self.has_news_for(connection, seen_at) {
            return None;
        }
        let record = self.own.record_for(seen_at)?;
        self.links.get_mut(&connection)?.said = Some(record.sequence);
        Some(record.clone())
    }

    /// Whether the peer of a connection lacks this node's newest record.
    pub(crate) fn has_news_for(&self, connection: ConnectionId, seen_at: &Address) -> bool {
        let Some(record) = self.own.record_for(seen_at) else { return false };
        // The first record travels in the setup.
        let side = self.links.get(&connection).filter(|side| !side.send_setup);
        side.is_some_and(|side| side.said.is_none_or(|said| said < record.sequence))
    }

    /// This node's addresses.
    pub(crate) fn reachable(&self) -> &Reachable {
        &self.reachable
    }

    pub(crate) fn reachable_mut(&mut self) -> &mut Reachable {
        &mut self.reachable
    }

    /// The instance number of the peer's process.
    pub(crate) fn instance(&self, connection: ConnectionId) -> Option<u64> {
        self.links.get(&connection)?.hello.as_ref().map(|hello| hello.instance)
    }

    /// The connection that this one replaces: to the same process, and not ending yet.
    pub(crate) fn replaces(&self, connection: ConnectionId) -> Option<ConnectionId> {
        self.links.get(&connection)?.replaces
    }

    /// The connection that replaces this one.
    pub(crate) fn replaced_by(&self, connection: ConnectionId) -> Option<ConnectionId> {
        self.links.iter().find(|(_, newer)| newer.replaces == Some(connection)).map(|(id, _)| *id)
    }

    /// Whether a connection has been replaced: another one is up in its place, and this one is
    /// being ended.
    pub(crate) fn is_replaced(&self, connection: ConnectionId) -> bool {
        let newer = self.replaced_by(connection).and_then(|newer| self.links.get(&newer));
        newer.is_some_and(|newer| newer.stage == Stage::Up)
    }

    /// What the peer of a connection does not share with this node.
    pub(crate) fn unshared(&self, connection: ConnectionId) -> &[Unshared] {
        self.links.get(&connection).map_or(&[], |side| &side.unshared)
    }

    /// The peer's client name.
    pub(crate) fn client(&self, connection: ConnectionId) -> Option<&str> {
        self.links.get(&connection)?.hello.as_ref().map(|hello| &*hello.client)
    }
}

/// Whether the peer of a connection was reported as connected.
pub(crate) fn was_up(cx: &Context, connection: ConnectionId) -> bool {
    cx.control.links.get(&connection).is_some_and(|side| side.was_up)
}

/// A new connection, whose peer has proven its identity. `known` if this node dialed that identity.
pub(crate) fn connected(
    cx: &mut Context,
    at: Instance,
    binding: Binding,
    listener: Option<Address>,
    known: bool,
) {
    let Some(link) = cx.links.get(at.link) else { return };
    let outbound = !link.direction.is_inbound();
    let deadline = cx.now + cx.config.limits.handshake_timeout;
    let side = ControlLink {
        at,
        binding,
        listener,
        stage: Stage::Hello(deadline),
        hello: None,
        early_setup: None,
        // R5.1.1
        send_hello: outbound,
        send_setup: false,
        raises: VecDeque::new(),
        raises_out: Pace::default(),
        raises_in: Pace::default(),
        pong: None,
        pongs: Pace::default(),
        ping: None,
        ping_now: false,
        last_ping: cx.now,
        hello_sent: None,
        unshared: Vec::new(),
        said: None,
        yields: None,
        drains: false,
        replaces: None,
        was_up: false,
    };
    cx.control.links.insert(at.link, side);
    if outbound && known {
        // If the peer's identity was known before, a tip may go along with the hello. R5.1.8
        negotiate::add_fixed(cx, at.link);
    }
    match peers::has_room_for_hello(cx, at.link) {
        Ok(None) => {}
        Ok(Some(other)) => cx.links.end(other, peers::busy()),
        Err(refusal) => cx.links.end(at.link, refusal),
    }
    cx.links.wake(at.link, at.slot);
}

fn on_hello(cx: &mut Context, at: Instance, hello: Hello) -> Result<(), Violation> {
    let side = cx.control.links.get_mut(&at.link).ok_or(Violation::OutOfTurn)?;
    // R5.1.6
    if !matches!(side.stage, Stage::Hello(_)) {
        return Err(Violation::OutOfTurn);
    }
    // Version and network first, so that a stranger learns nothing more. R5.1.3
    let strange = if !hello.versions.contains(&VERSION) {
        Some(Refusal::NoCommonVersion)
    } else if hello.network != cx.config.network {
        Some(Refusal::WrongNetwork)
    // R5.1.4
    } else if hello.binding != side.binding {
        Some(Refusal::BadSignature)
    } else {
        None
    };
    // Shown to people, also in terminals: filter control characters.
    let client =
        hello.client.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' });
    side.hello = Some(Hello { client: client.collect(), ..hello });
    hello_answered(cx, at);
    match strange {
        Some(refusal) => cx.links.end(at.link, refusal),
        None => enter(cx, at),
    }
    Ok(())
}

/// The answer to this end's hello, if it sent one, has arrived: that measures a round trip.
fn hello_answered(cx: &mut Context, at: Instance) {
    let Some(side) = cx.control.links.get_mut(&at.link) else { return };
    let Some(took) = side.hello_sent.map(|sent| cx.now.since(sent)) else { return };
    // The peer may have waited for an older connection first (R5.3.3): measure with a ping instead.
    if took >= cx.config.limits.duplicate_timeout / 2 {
        side.ping_now = true;
    } else if let Some(link) = cx.links.get_mut(at.link) {
        link.measured(took);
    }
}

/// The peer's hello is valid: checks for room and for a duplicate connection. Runs again when a
/// connection that this one waited for has ended, since others may have waited for it too.
fn enter(cx: &mut Context, at: Instance) {
    let Some(side) = cx.control.links.get_mut(&at.link) else { return };
    // If it waited for another connection, that is decided now.
    side.stage = Stage::Hello(cx.now);
    if let Err(refusal) = peers::admit(cx, at.link) {
        let refusal = match refusal {
            // R5.2.4
            Refusal::Full(_) => Refusal::Full(exchange::others(cx, at.link, MAX_OTHERS)),
            refusal => refusal,
        };
        return cx.links.end(at.link, refusal);
    }
    let Some(instance) = cx.control.instance(at.link) else { return };
    match peers::duplicate(cx, at.link, instance) {
        // A feeler only tests whether the peer is there, and it is: keep the existing connection.
        Some(_) if cx.dialer.is_feeler(at.link) => {
            return cx.links.end(at.link, Goodbye::Requested);
        }
        Some(Duplicate::Pings(older)) => return ask(cx, at.link, older),
        Some(Duplicate::Yields(other)) => {
            // The listener refuses; the dialer waits for the refusal.
            let link = cx.links.get(at.link);
            if link.is_some_and(|link| link.direction.is_inbound()) {
                // R5.3.2
                return cx.links.end(at.link, Refusal::Duplicate);
            }
            if let Some(other) = cx.control.links.get_mut(&other) {
                other.replaces.get_or_insert(at.link);
            }
            yields(cx, at.link);
        }
        Some(Duplicate::Replaces(older)) => {
            if let Some(side) = cx.control.links.get_mut(&at.link) {
                side.replaces = Some(older);
            }
            // If both are new, the older one may turn out as dead as the newer one, so it gets no
            // more time than that. An established connection stays until the newer one is up.
            let patience = cx.config.limits.handshake_timeout;
            if cx.links.get(older).is_some_and(|older| cx.now.since(older.since) < patience) {
                yields(cx, older);
            }
        }
        None => {}
    }
    admit(cx, at);
}

/// Accepts the connection after its hello.
fn admit(cx: &mut Context, at: Instance) {
    let Some(side) = cx.control.links.get_mut(&at.link) else { return };
    let Some(link) = cx.links.get(at.link) else { return };
    side.stage = Stage::Setup(link.since + cx.config.limits.handshake_timeout);
    // R5.1.2
    side.send_hello |= link.direction.is_inbound();
    side.send_setup = true;
    let early = side.early_setup.take();
    cx.links.wake(at.link, at.slot);
    negotiate::open_fixed(cx, at.link);
    if let Some(setup) = early
        && let Err(violation) = on_setup(cx, at, setup)
    {
        cx.links.end(at.link, violation);
    }
}

/// Pings an older connection to see whether it is alive.
fn ask(cx: &mut Context, connection: ConnectionId, older: ConnectionId) {
    let until = cx.now + cx.config.limits.duplicate_timeout;
    if let Some(newer) = cx.control.links.get_mut(&connection) {
        newer.stage = Stage::Asking { older, until };
        cx.control.waiting += 1;
    }
    if let Some(older) = cx.control.links.get_mut(&older) {
        // R5.3.3
        older.ping_now = true;
        cx.links.wake(older.at.link, older.at.slot);
    }
}

/// Another connection to the same peer stays. The listener of this one ends it once the other is
/// up; the dialer waits for that until a timeout.
fn yields(cx: &mut Context, connection: ConnectionId) {
    let until = cx.now + cx.config.limits.handshake_timeout;
    if let Some(side) = cx.control.links.get_mut(&connection) {
        side.yields.get_or_insert(until);
        cx.links.wake(side.at.link, side.at.slot);
    }
}

fn on_setup(cx: &mut Context, at: Instance, setup: Setup) -> Result<(), Violation> {
    let side = cx.control.links.get_mut(&at.link).ok_or(Violation::OutOfTurn)?;
    match side.stage {
        Stage::Setup(_) => {}
        // A listener sends both steps at once.
        Stage::Asking { .. } if side.early_setup.is_none() => {
            // R5.3.5
            side.early_setup = Some(setup);
            return Ok(());
        }
        // R5.1.6
        _ => return Err(Violation::OutOfTurn),
    }
    let Some(link) = cx.links.get(at.link) else { return Ok(()) };
    if let Some(record) = &setup.record
        // R5.4.2
        && (record.peer != link.peer || !peers::record::verify(record, &cx.config.network))
    {
        cx.links.end(at.link, Refusal::BadSignature);
        return Ok(());
    }
    negotiate::check(&setup.offers)?;
    side.stage = Stage::Up;
    side.was_up = true;
    side.last_ping = cx.now;
    let replaces = side.replaces;
    let peer = link.peer;
    let inbound = link.direction.is_inbound();
    let already =
        cx.links.iter().any(|(id, other)| id != at.link && other.peer == peer && other.up);
    if inbound {
        hello_answered(cx, at);
    }
    // A ping may have been requested before the connection was up.
    cx.links.wake(at.link, at.slot);
    let unshared = negotiate::open_agreed(cx, at.link, &setup);
    cx.stats.count(Count::Connections);
    record::said(cx, at.link, &setup);
    dialer::up(cx, at.link);
    if !already {
        if cx.peers.told.contains(&peer) {
            // The peer restarted before its old connection was noticed to be dead.
            let old = cx.links.iter().find(|(id, other)| *id != at.link && other.peer == peer);
            let reason = old.and_then(|(id, _)| ends_for(cx, id)).unwrap_or(Disconnect::Lost);
            cx.event(Event::PeerDisconnected { peer, reason });
        }
        cx.peers.told.insert(peer);
        let client = cx.control.client(at.link).unwrap_or_default().to_owned();
        cx.event(Event::PeerConnected { peer, client, inbound });
    }
    for (kind, name, reason) in unshared.clone() {
        cx.event(Event::NotShared { peer, kind, name, reason });
    }
    if let Some(side) = cx.control.links.get_mut(&at.link) {
        side.unshared = unshared;
    }
    if let Some(older) = replaces
        && cx.links.get(at.link).is_some_and(|link| link.up)
    {
        yields(cx, older);
        if cx.links.was_accepted(older)
            && let Some(side) = cx.control.links.get_mut(&older)
        {
            side.drains = true;
            drain(cx, older);
        }
    }
    Ok(())
}

/// The control channel, which is open from the start.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "control";
    const FIXED: Option<u32> = Some(0);
    const MAX_FRAME: usize = 32 << 10;
    type Message = ControlMessage;

    fn offers(_: &Config, _: &dyn Rules) -> Vec<Offer> {
        // Its number is fixed.
        Vec::new()
    }

    fn on_up(_: &mut Context, _: Instance, _: &Terms) {}

    fn on_down(_: &mut Context, _: Instance) {}

    fn was_asked(message: &ControlMessage) -> bool {
        matches!(message, ControlMessage::Pong(_))
    }

    fn on_message(
        cx: &mut Context,
        at: Instance,
        message: ControlMessage,
    ) -> Result<(), Violation> {
        let Some(side) = cx.control.links.get_mut(&at.link) else { return Ok(()) };
        match message {
            // This end has said goodbye or refused: all else is ignored, but a peer that says
            // goodbye too has read enough, and the connection can close without waiting. R5.6.2
            ControlMessage::Refuse(_) | ControlMessage::Goodbye(_)
                if matches!(side.stage, Stage::Ending(..)) =>
            {
                expire_last_words(cx, at);
                Ok(())
            }
            _ if matches!(side.stage, Stage::Ending(..) | Stage::Closed(_)) => Ok(()),
            ControlMessage::Refuse(refusal) => {
                if let Some(peer) = cx.links.get(at.link).map(|link| link.peer) {
                    cx.stats.refusal(false, refusal.kind());
                    let refusal = without_records(&refusal);
                    // A refused duplicate is no news, except to an application that asked for that
                    // dial.
                    let is_there = refusal == Refusal::Duplicate
                        && cx.dialer.has_chosen(at.link)
                        && dialer::has_another(cx, at.link).is_some();
                    if !is_there {
                        cx.event(Event::Refused { peer, by_us: false, refusal });
                    }
                }
                dialer::refused(cx, at.link, &refusal);
                close(cx, at.link, Disconnect::Lost);
                Ok(())
            }
            ControlMessage::Goodbye(goodbye) => {
                close(cx, at.link, Disconnect::Remote(goodbye));
                Ok(())
            }
            ControlMessage::Hello(hello) => on_hello(cx, at, hello),
            ControlMessage::Setup(setup) => on_setup(cx, at, setup),
            // R5.1.5
            _ if side.stage != Stage::Up => Err(Violation::OutOfTurn),
            ControlMessage::Ping(number) => {
                // R5.5.2
                if side.pong.replace(number).is_some() {
                    return Err(Violation::Ping);
                }
                cx.links.wake(at.link, at.slot);
                Ok(())
            }
            ControlMessage::Pong(number) => match side.ping.take() {
                Some((asked, sent)) if asked == number => {
                    if let Some(link) = cx.links.get_mut(at.link) {
                        link.measured(cx.now.since(sent));
                    }
                    for newer in waiting_for(cx, at.link) {
                        // R5.3.3
                        cx.links.end(newer.link, Refusal::Duplicate);
                    }
                    Ok(())
                }
                // R5.5.3
                _ => Err(Violation::Ping),
            },
            ControlMessage::Raise(raise) => {
                // Raises cost no permits, so their rate is limited. R6.1.6
                if side.raises_in.next(RAISES * 2, RAISE_INTERVAL) > cx.now {
                    return Err(Violation::OutOfTurn);
                }
                side.raises_in.take(RAISE_INTERVAL, cx.now);
                negotiate::raised(cx, at.link, &raise)
            }
        }
    }

    fn poll_message(cx: &mut Context, at: Instance) -> Option<ControlMessage> {
        let own = (cx.control.instance, cx.control.salt);
        let side = cx.control.links.get_mut(&at.link)?;
        if let Stage::Ending(last, _) = &side.stage {
            let (message, reason) = match last.clone() {
                Last::Refuse(refusal) => (ControlMessage::Refuse(refusal), Disconnect::Lost),
                Last::Goodbye(goodbye, reason) => (ControlMessage::Goodbye(goodbye), reason),
            };
            // R5.6.1
            close(cx, at.link, reason);
            return Some(message);
        }
        if matches!(side.stage, Stage::Closed(_)) {
            return None;
        }
        if std::mem::take(&mut side.send_hello) {
            side.hello_sent = Some(cx.now);
            return Some(ControlMessage::Hello(Hello {
                versions: vec![VERSION],
                network: cx.config.network,
                client: cx.config.client.clone(),
                instance: own.0,
                binding: side.binding.clone(),
            }));
        }
        if std::mem::take(&mut side.send_setup) {
            let seen_at = cx.links.get(at.link).map(|link| link.address.clone());
            let seen_at = seen_at.unwrap_or(Address(Default::default()));
            return Some(ControlMessage::Setup(Setup {
                offers: cx.config.offers(&*cx.rules),
                roles: 0,
                record: cx.control.news_for(at.link, &seen_at),
                observed: seen_at,
                salt: own.1,
            }));
        }
        if side.pongs.next(PONGS, PONG_INTERVAL) <= cx.now
            && let Some(number) = side.pong.take()
        {
            // R5.5.1
            side.pongs.take(PONG_INTERVAL, cx.now);
            return Some(ControlMessage::Pong(number));
        }
        if side.raises_out.next(RAISES, RAISE_INTERVAL) <= cx.now
            && let Some(raise) = side.raises.pop_front()
        {
            side.raises_out.take(RAISE_INTERVAL, cx.now);
            return Some(ControlMessage::Raise(raise));
        }
        poll_ping(cx, at)
    }

    fn deadline(cx: &Context, at: Instance) -> Option<Time> {
        let side = cx.control.links.get(&at.link)?;
        let stage = match &side.stage {
            Stage::Hello(until) | Stage::Setup(until) | Stage::Ending(_, until) => Some(*until),
            Stage::Asking { until, .. } => Some(*until),
            // A ping that is overdue waits for the channel, not for a timer.
            Stage::Up => {
                let ping = next_ping(cx, side).filter(|due| *due > cx.now);
                let raise = side.raises_out.next(RAISES, RAISE_INTERVAL);
                let raise = Some(raise).filter(|at| !side.raises.is_empty() && *at > cx.now);
                let pong = side.pongs.next(PONGS, PONG_INTERVAL);
                let pong = Some(pong).filter(|at| side.pong.is_some() && *at > cx.now);
                ping.into_iter().chain(silence(cx, side)).chain(raise).chain(pong).min()
            }
            Stage::Closed(_) => None,
        };
        // Only where [`expire`] acts on it: otherwise it would stay due for ever.
        let yields = side.yields.filter(|_| matches!(side.stage, Stage::Setup(_) | Stage::Up));
        stage.into_iter().chain(yields).min()
    }

    fn awaited_since(cx: &Context, at: Instance) -> Option<Time> {
        cx.control.links.get(&at.link)?.ping.map(|(_, sent)| sent)
    }

    fn is_owed(_: &Context, _: Instance) -> bool {
        false
    }

    fn due(_: &Context, _: usize) -> Option<Time> {
        None
    }

    fn expire(_: &mut Context, _: usize) {}
}

/// Handles a deadline, if one has passed.
pub(crate) fn expire(cx: &mut Context, at: Instance) {
    let Some(side) = cx.control.links.get(&at.link) else { return };
    let now = cx.now;
    match side.stage.clone() {
        Stage::Hello(until) | Stage::Setup(until) if until <= now => {
            cx.links.end(at.link, Goodbye::Silent);
        }
        Stage::Asking { older, until, .. } if until <= now => {
            // The older connection did not answer: this one replaces it. R5.3.4
            cx.control.waiting -= 1;
            cx.links.end(older, Goodbye::Silent);
            enter(cx, at);
        }
        Stage::Ending(_, until) if until <= now => expire_last_words(cx, at),
        // R5.5.4
        Stage::Up if silence(cx, side).is_some_and(|until| until <= now) => {
            cx.links.end(at.link, Goodbye::Silent);
        }
        Stage::Setup(_) | Stage::Up if side.yields.is_some_and(|until| until <= now) => {
            cx.links.end(at.link, Goodbye::Duplicate);
        }
        _ => {}
    }
}

/// Raises the grant of an instance.
pub(crate) fn raise(
    cx: &mut Context,
    connection: ConnectionId,
    (kind, index): (Kind, usize),
    grant: &Grant,
) {
    let Some(link) = cx.links.get(connection) else { return };
    let slots = link.slots.iter().enumerate();
    let slot = slots.filter(|(_, s)| (s.kind, s.index) == (kind, index));
    let Some((slot, number)) = slot.map(|(at, slot)| (at, slot.number)).next() else { return };
    let Some(grant) = kind.raise(cx, Instance { link: connection, slot, index }, grant) else {
        return;
    };
    if let Some(control) = cx.control.links.get_mut(&connection) {
        control.raises.retain(|raise| raise.instance != number);
        control.raises.push_back(Raise { instance: number, grant });
        cx.links.wake(connection, control.at.slot);
    }
}
