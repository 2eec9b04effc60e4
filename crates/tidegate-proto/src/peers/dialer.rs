//! The dialer: which peers to dial, and when. Peers named in the configuration, peers whose
//! connection was lost, and enough others from the address book (specification section 14).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::address::group;
use super::{exchange, may_dial};
use crate::channel::Context;
use crate::config::{Config, StaticPeer};
use crate::id::{Address, ConnectionId, DialId, PeerId};
use crate::io::Disconnect;
use crate::link::Link;
use crate::rng::Rng;
use crate::signal;
use crate::time::Time;
use crate::wire::{Goodbye, Refusal};

/// A lost connection is dialed again after a random delay up to this, so that not all nodes dial at
/// the same moment.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How long a peer is not dialed after it refused this node, or after either side ended the
/// connection on purpose: such reasons do not go away soon.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// The cap on the ban time that a peer tells this node: the longest ban of the protocol.
const BANNED_MOST: Duration = Duration::from_secs(3600);

/// The largest number of peers of the book that are not dialed for such reasons: more than a node
/// is connected to.
const LEFT_ALONE_MOST: usize = 256;

/// Concurrent dials to peers of the book while no peer is connected.
const AT_A_TIME: usize = 4;

/// How long a lost peer is dialed again; after that it is an ordinary entry of the book.
const LOST_FOR: Duration = Duration::from_secs(7200);

/// Redials of a lost peer wait at most this fraction of the time since it was lost: so it is
/// reconnected within about a hundredth of the outage.
const LOST_SHARE: u32 = 120;

/// How many peers of the book are drawn to find one in a new network group.
const GROUP_TRIES: usize = 8;

/// The peers to dial, and when.
#[derive(Debug)]
pub(crate) struct Dialer {
    targets: Vec<Target>,
    rng: Rng,
    /// When to check for missing connections, and when such a check last led to a dial.
    refill: Time,
    refilled: Option<Time>,
    /// When to dial the next feeler.
    feeler: Time,
    /// Peers of the book that are not dialed until then, since either side ended the connection on
    /// purpose.
    left_alone: BTreeMap<PeerId, Time>,
    /// Peers that this node disconnected on purpose, and until when they are refused.
    sent_away: BTreeMap<PeerId, Time>,
}

#[derive(Debug)]
struct Target {
    role: Role,
    address: Address,
    peer: Option<PeerId>,
    /// Failed dials in a row.
    failures: u32,
    state: State,
}

/// Why a peer is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Named in the configuration as a peer to stay connected to.
    Static,
    /// Named in the configuration as a node to learn of peers from.
    Bootstrap,
    /// The connection was lost at that time, against the will of both sides.
    Lost(Time),
    /// Drawn from the book, for one dial.
    Book,
    /// Drawn from the book, to test whether it is there.
    Feeler,
}

impl Role {
    /// Whether it stays in the list even if dials fail.
    fn is_lasting(self) -> bool {
        matches!(self, Self::Static | Self::Bootstrap)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected; the next dial is due at that time.
    Idle(Time),
    /// Dialed.
    Dialing(DialId),
    /// Connected, or in the hello.
    Connected(ConnectionId),
    /// Not dialed any more: to be removed.
    Done,
}

impl Dialer {
    pub(crate) fn new(config: &Config, now: Time, rng: &Rng) -> Self {
        let target = |role, at: &StaticPeer| Target {
            role,
            address: at.address.clone(),
            peer: at.peer,
            failures: 0,
            state: State::Idle(now),
        };
        let mut targets =
            config.static_peers.iter().map(|at| target(Role::Static, at)).collect::<Vec<_>>();
        targets.extend(config.bootstrap.iter().map(|at| target(Role::Bootstrap, at)));
        if config.outbound > 0 {
            let anchors = config.peer_book.entries.iter().filter(|entry| entry.anchor);
            targets.extend(anchors.filter_map(|entry| {
                let at = StaticPeer { address: entry.met_at.clone()?, peer: Some(entry.peer) };
                Some(target(Role::Book, &at))
            }));
        }
        let mut dialer = Self {
            targets,
            rng: rng.fork("dialer"),
            refill: now,
            refilled: None,
            feeler: now,
            left_alone: BTreeMap::new(),
            sent_away: BTreeMap::new(),
        };
        dialer.feeler = now + dialer.about(config.limits.feeler_interval);
        dialer
    }

    /// When [`expire`] is due.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Time> {
        let due = self.targets.iter().filter_map(|target| match target.state {
            // Bootstrap nodes have no time of their own: [`refill`] dials them when nothing else is
            // left.
            State::Idle(_) if target.role == Role::Bootstrap => None,
            State::Idle(at) => Some(at),
            State::Dialing(_) | State::Connected(_) | State::Done => None,
        });
        let finding = (config.outbound > 0).then(|| self.refill.min(self.feeler));
        due.chain(finding).min()
    }

    /// Until when a peer is refused that this node disconnected on purpose.
    pub(crate) fn sent_away(&self, peer: &PeerId, now: Time) -> Option<Time> {
        self.sent_away.get(peer).copied().filter(|until| *until > now)
    }

    /// The application wants a peer again.
    pub(crate) fn is_wanted(&mut self, peer: &PeerId) {
        self.sent_away.remove(peer);
        self.left_alone.remove(peer);
    }

    /// The target of a dial.
    fn dialed(&self, dial: DialId) -> Option<usize> {
        let is = |target: &Target| target.state == State::Dialing(dial);
        self.targets.iter().position(is)
    }

    /// The target of a connection; if there are several, one that ends with the connection.
    fn of(&self, connection: ConnectionId) -> Option<usize> {
        let all = || self.targets.iter().enumerate();
        let mut of_it = all().filter(|(_, target)| target.state == State::Connected(connection));
        let lasting = of_it.clone().map(|(i, _)| i).next();
        of_it.find(|(_, target)| !target.role.is_lasting()).map(|(i, _)| i).or(lasting)
    }

    /// Whether this node chose to dial a connection, rather than being told to by the application.
    pub(crate) fn has_chosen(&self, connection: ConnectionId) -> bool {
        self.of(connection).is_some()
    }

    /// A connection has ended to which several targets led, since a peer can have several
    /// addresses: those named in the configuration are dialed again.
    fn release(&mut self, connection: ConnectionId, but: usize, at: Time) {
        for (i, target) in self.targets.iter_mut().enumerate() {
            if i != but && target.state == State::Connected(connection) {
                target.state = if target.role.is_lasting() { State::Idle(at) } else { State::Done };
            }
        }
    }

    /// Concurrent dials to peers of the book and to bootstrap nodes.
    fn dialing(&self) -> usize {
        let searching = |target: &&Target| matches!(target.role, Role::Book | Role::Bootstrap);
        let dialing = |target: &&Target| matches!(target.state, State::Dialing(_));
        self.targets.iter().filter(searching).filter(dialing).count()
    }

    /// Whether a connection is a feeler.
    pub(crate) fn is_feeler(&self, connection: ConnectionId) -> bool {
        self.of(connection).is_some_and(|i| self.targets[i].role == Role::Feeler)
    }

    /// A random number from 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A duration, randomized by up to a quarter in both directions.
    fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.75 + self.fraction() / 2.0)
    }

    /// A duration that a peer asked for, randomized upwards by up to a half.
    fn at_least(&mut self, time: Duration) -> Duration {
        time.mul_f64(1.0 + self.fraction() / 2.0)
    }

    /// Removes targets that are done.
    fn sweep(&mut self) {
        self.targets.retain(|target| target.state != State::Done);
    }
}

/// Dials the targets that are due, and looks for peers if connections are missing.
pub(crate) fn expire(cx: &mut Context) {
    for i in 0..cx.dialer.targets.len() {
        let role = cx.dialer.targets[i].role;
        match cx.dialer.targets[i].state {
            State::Idle(at) if at <= cx.now && role != Role::Bootstrap => dial(cx, i),
            _ => {}
        }
    }
    if cx.config.outbound > 0 {
        if cx.dialer.refill <= cx.now {
            refill(cx);
        }
        if cx.dialer.feeler <= cx.now {
            feel(cx);
        }
    }
    cx.dialer.sweep();
}

/// Schedules the next refill early: a peer was lost, or the book has new ones.
pub(crate) fn refill_soon(cx: &mut Context) {
    let interval = cx.config.limits.dial_interval;
    let next = cx.dialer.refilled.map_or(cx.now, |last| cx.now.max(last + interval));
    cx.dialer.refill = cx.dialer.refill.min(next);
}

/// How many outbound connections there are, without feelers.
fn outbound(cx: &Context) -> usize {
    let dialed = cx.links.iter().filter(|(_, link)| !link.direction.is_inbound());
    dialed.filter(|(id, _)| !cx.dialer.is_feeler(*id)).count()
}

/// Whether outbound connections are missing.
pub(crate) fn is_wanting(cx: &Context) -> bool {
    outbound(cx) < cx.config.outbound as usize
}

fn is_alone(cx: &Context) -> bool {
    !cx.links.iter().any(|(_, link)| link.up)
}

/// Dials peers of the book while outbound connections are missing.
fn refill(cx: &mut Context) {
    let alone = is_alone(cx);
    let at_a_time = if alone { AT_A_TIME } else { 1 };
    let wanted = cx.config.outbound as usize;
    let mut found = true;
    while found
        && cx.dialer.dialing() < at_a_time
        && outbound(cx) + cx.dialer.dialing() < wanted
        && may_dial(cx)
    {
        found = dial_another(cx, alone);
        if found {
            cx.dialer.refilled = Some(cx.now);
        }
    }
    // With no candidate left, only an event (such as a new record) helps, and that schedules the
    // next refill early.
    let limits = &cx.config.limits;
    let pause = if alone {
        limits.dial_interval / 2
    } else if found {
        limits.dial_interval
    } else {
        limits.dial_interval * 8
    };
    if !found && is_wanting(cx) {
        exchange::ask_early(cx);
        signal::want_some(cx);
    }
    cx.dialer.refill = cx.now + cx.dialer.about(pause);
}

/// Dials a peer of the book or a bootstrap node; `false` if there is no candidate.
fn dial_another(cx: &mut Context, alone: bool) -> bool {
    let picked = pick(cx, true);
    if picked.is_none()
        && let Some(i) = due_bootstrap(cx)
    {
        dial(cx, i);
        return true;
    }
    // Without any connection, try even peers that failed lately.
    let picked = picked.or_else(|| if alone { pick(cx, false) } else { None });
    let Some((peer, address)) = picked else { return false };
    dial_once(cx, Role::Book, peer, address);
    true
}

fn due_bootstrap(cx: &Context) -> Option<usize> {
    let due = |target: &Target| {
        target.role == Role::Bootstrap
            && matches!(target.state, State::Idle(at) if at <= cx.now)
            && !cx.links.iter().any(|(_, link)| Some(link.peer) == target.peer)
    };
    cx.dialer.targets.iter().position(due)
}

/// Peers not to be drawn: connected ones, those being dialed or left alone, and this node itself.
fn taken(cx: &Context) -> BTreeSet<PeerId> {
    let targets = cx.dialer.targets.iter().filter(|target| target.state != State::Done);
    let targets = targets.filter(|target| target.role != Role::Bootstrap);
    let linked = cx.links.iter().map(|(_, link)| link.peer);
    let left_alone = cx.dialer.left_alone.iter().filter(|(_, until)| **until > cx.now);
    let others = linked.chain(left_alone.map(|(peer, _)| *peer)).chain([cx.config.peer]);
    targets.filter_map(|target| target.peer).chain(others).collect()
}

/// Draws a peer from the book, if possible in a network group that no outbound connection is in.
fn pick(cx: &mut Context, patient: bool) -> Option<(PeerId, Address)> {
    let outbound = cx.links.iter().filter(|(_, link)| !link.direction.is_inbound());
    let has_offered = outbound.clone().any(|(_, link)| link.address.is_by_offer());
    let groups = outbound.map(|(_, link)| group(&link.address)).collect::<Vec<_>>();
    let taken = taken(cx);
    let Context { book, peers, config, now, .. } = cx;
    let mut chosen = None;
    for _ in 0..GROUP_TRIES {
        let picked = book.pick(*now, patient, |peer| {
            !taken.contains(peer) && peers.may_meet(config, peer, *now)
        });
        let Some(picked) = picked else { break };
        // Where one is that an offer leads to is not known before: one of them counts as a group.
        let fresh = match picked.1.is_by_offer() {
            true => !has_offered,
            false => !groups.contains(&group(&picked.1)),
        };
        if fresh || chosen.is_none() {
            chosen = Some(picked);
        }
        if fresh {
            break;
        }
    }
    chosen
}

/// Dials a feeler.
fn feel(cx: &mut Context) {
    let interval = cx.config.limits.feeler_interval;
    cx.dialer.feeler = cx.now + cx.dialer.about(interval);
    if !may_dial(cx) || cx.dialer.targets.iter().any(|target| target.role == Role::Feeler) {
        return;
    }
    let taken = taken(cx);
    let Context { book, peers, config, now, .. } = cx;
    let wanted = |peer: &PeerId| !taken.contains(peer) && peers.may_meet(config, peer, *now);
    if let Some((peer, address)) = book.pick_feeler(*now, wanted) {
        dial_once(cx, Role::Feeler, peer, address);
    }
}

fn dial_once(cx: &mut Context, role: Role, peer: PeerId, address: Address) {
    let state = State::Idle(cx.now);
    let target = Target { role, address, peer: Some(peer), failures: 0, state };
    cx.dialer.targets.push(target);
    dial(cx, cx.dialer.targets.len() - 1);
}

fn dial(cx: &mut Context, i: usize) {
    let Target { role, peer, .. } = cx.dialer.targets[i];
    let address = cx.dialer.targets[i].address.clone();
    let same = |(_, link): &(ConnectionId, &Link)| link.up && Some(link.peer) == peer;
    let connection = cx.links.iter().find(same).map(|(id, _)| id);
    let banned = peer.and_then(|peer| cx.peers.banned(&peer, cx.now));
    let state = if let Some(connection) = connection {
        // The peer has connected to this node meanwhile.
        if role.is_lasting() { State::Connected(connection) } else { State::Done }
    } else if let Some(until) = banned {
        State::Idle(until)
    } else if !may_dial(cx) {
        let limit = cx.config.limits.redial_first;
        State::Idle(cx.now + cx.dialer.about(limit))
    } else {
        State::Dialing(super::dial(cx, address, peer))
    };
    cx.dialer.targets[i].state = state;
}

/// A dial failed: doubles the wait before the next, up to a cap, if the target is to be dialed
/// again.
fn failed(cx: &mut Context, i: usize) {
    let limits = &cx.config.limits;
    let Target { role, peer, failures, .. } = cx.dialer.targets[i];
    let most = match role {
        // Without any connection there is nobody else to learn of peers from.
        Role::Bootstrap if is_alone(cx) => Some(limits.redial_most.min(limits.dial_interval)),
        Role::Static | Role::Bootstrap => Some(limits.redial_most),
        Role::Lost(since) if cx.now.since(since) < LOST_FOR => {
            Some(limits.redial_most.max(cx.now.since(since) / LOST_SHARE))
        }
        Role::Lost(_) | Role::Book | Role::Feeler => None,
    };
    let wait = limits.redial_first.saturating_mul(1 << failures.min(16));
    let wait = most.map(|most| cx.dialer.about(wait.min(most)));
    if let Some(peer) = peer {
        cx.book.failed(&peer, cx.now);
    }
    let target = &mut cx.dialer.targets[i];
    target.failures += 1;
    target.state = wait.map_or(State::Done, |wait| State::Idle(cx.now + wait));
}

/// A dial failed.
pub(crate) fn dial_failed(cx: &mut Context, dial: DialId) {
    if let Some(i) = cx.dialer.dialed(dial) {
        failed(cx, i);
        cx.dialer.sweep();
    }
}

/// A dial succeeded.
pub(crate) fn connected(cx: &mut Context, dial: DialId, connection: ConnectionId) {
    if let Some(i) = cx.dialer.dialed(dial) {
        cx.dialer.targets[i].state = State::Connected(connection);
    }
}

/// The hello with a peer is complete. If this node dialed it, the network works, so other failed
/// dials are tried again soon.
pub(crate) fn up(cx: &mut Context, connection: ConnectionId) {
    let Some(link) = cx.links.get(connection).filter(|link| !link.direction.is_inbound()) else {
        return;
    };
    let peer = link.peer;
    if cx.config.outbound > 0 {
        let address = link.address.to_dial_again();
        cx.book.met(peer, &address, cx.now);
    }
    // A target without an identity keeps the identity that answered, but only now that the peer has
    // shown that it is of this network.
    if let Some(i) = cx.dialer.of(connection) {
        cx.dialer.targets[i].peer = Some(peer);
    }
    if cx.dialer.is_feeler(connection) {
        return cx.links.end(connection, Goodbye::Requested);
    }
    if !cx.links.iter().any(|(id, link)| id != connection && link.up) {
        // This node was offline: earlier failures say nothing about the peers.
        cx.book.forgive();
    }
    cx.dialer.refill = cx.now;
    let soon = cx.dialer.about(cx.config.limits.redial_first);
    for target in &mut cx.dialer.targets {
        match &mut target.state {
            State::Idle(at) if target.failures > 0 => *at = (*at).min(cx.now + soon),
            _ => {}
        }
        target.failures = 0;
    }
}

/// Another connection to the same peer that is up.
pub(crate) fn has_another(cx: &Context, connection: ConnectionId) -> Option<ConnectionId> {
    let peer = cx.links.get(connection)?.peer;
    let mut others = cx.links.iter().filter(|(id, link)| *id != connection && link.peer == peer);
    others.find(|(_, link)| link.up).map(|(id, _)| id)
}

/// The peer refused an offer.
pub(crate) fn offer_refused(cx: &mut Context, dial: DialId, refusal: &Refusal) {
    let wait = wait_after(cx, refusal);
    if let Some(i) = cx.dialer.dialed(dial) {
        dialed_in_vain(cx, i, refusal, wait);
    }
}

/// How long not to dial a peer that refused this node, if the usual time after a failure does not suit.
fn wait_after(cx: &mut Context, refusal: &Refusal) -> Option<Duration> {
    let wait = match refusal {
        Refusal::Busy(ms) => Some(Duration::from_millis(u64::from(*ms)).min(LEFT_ALONE)),
        Refusal::Banned(seconds) => Some(Duration::from_secs(u64::from(*seconds)).min(BANNED_MOST)),
        // The other connection exists or is about to: the next dial attempt finds out.
        Refusal::Duplicate => Some(cx.config.limits.duplicate_timeout),
        Refusal::Full(_) | Refusal::ShuttingDown => None,
        Refusal::WrongNetwork
        | Refusal::NoCommonVersion
        | Refusal::SelfDial
        | Refusal::NotAllowed
        | Refusal::WrongTarget
        | Refusal::BadSignature => Some(LEFT_ALONE),
    };
    wait.map(|wait| cx.dialer.at_least(wait))
}

/// The peer of a connection refused it.
pub(crate) fn refused(cx: &mut Context, connection: ConnectionId, refusal: &Refusal) {
    let wait = wait_after(cx, refusal);
    if let Refusal::Full(others) = refusal {
        exchange::told_of(cx, connection, others);
    }
    let Some(i) = cx.dialer.of(connection) else { return };
    if let (Refusal::Duplicate, Some(other)) = (refusal, has_another(cx, connection)) {
        // The same peer was dialed by another of its addresses, or by one without an identity.
        let target = &mut cx.dialer.targets[i];
        target.peer = cx.links.get(other).map(|link| link.peer);
        let lasts = target.role.is_lasting();
        target.state = if lasts { State::Connected(other) } else { State::Done };
        return cx.dialer.sweep();
    }
    dialed_in_vain(cx, i, refusal, wait);
}

fn dialed_in_vain(cx: &mut Context, i: usize, refusal: &Refusal, wait: Option<Duration>) {
    let Target { role, peer, .. } = cx.dialer.targets[i];
    if !role.is_lasting()
        && let Some(peer) = peer
    {
        match refusal {
            Refusal::Busy(_) | Refusal::Full(_) | Refusal::Duplicate | Refusal::ShuttingDown => {
                cx.book.unwilling(&peer, cx.now);
            }
            _ => cx.book.failed(&peer, cx.now),
        }
    }
    match (role, wait) {
        (Role::Book | Role::Feeler, _) => cx.dialer.targets[i].state = State::Done,
        (_, Some(wait)) => cx.dialer.targets[i].state = State::Idle(cx.now + wait),
        (_, None) => failed(cx, i),
    }
    cx.dialer.sweep();
}

/// A connection has ended that was up for `up_for`, or never if that is `None`.
pub(crate) fn closed(
    cx: &mut Context,
    connection: ConnectionId,
    link: &Link,
    up_for: Option<Duration>,
    reason: &Disconnect,
) {
    let decided = match reason {
        Disconnect::Local(Goodbye::Requested) => !cx.dialer.is_feeler(connection),
        // Soon after an inbound connection was up, this goodbye may be that of a feeler.
        Disconnect::Remote(Goodbye::Requested) => {
            !link.direction.is_inbound() || up_for > Some(cx.config.limits.redial_most)
        }
        _ => false,
    };
    if decided && matches!(reason, Disconnect::Local(_)) {
        let sent_away = &mut cx.dialer.sent_away;
        sent_away.retain(|_, until| *until > cx.now);
        if sent_away.len() >= LEFT_ALONE_MOST {
            // Evicts the one that expires first.
            let first = sent_away.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer);
            first.map(|first| sent_away.remove(&first));
        }
        sent_away.insert(link.peer, cx.now + LEFT_ALONE);
    }
    if decided {
        let wait = cx.dialer.about(LEFT_ALONE);
        let left_alone = &mut cx.dialer.left_alone;
        left_alone.retain(|_, until| *until > cx.now);
        if left_alone.len() < LEFT_ALONE_MOST {
            left_alone.insert(link.peer, cx.now + wait);
        }
    }
    refill_soon(cx);
    // Neither side wanted the connection to end.
    let unwanted = matches!(
        reason,
        Disconnect::Lost
            | Disconnect::Local(Goodbye::Silent | Goodbye::Internal)
            | Disconnect::Remote(Goodbye::Silent | Goodbye::Internal)
    );
    if unwanted && up_for.is_some() && !link.direction.is_inbound() {
        lost(cx, connection, link);
    }
    let Some(i) = cx.dialer.of(connection) else { return };
    let first = cx.config.limits.redial_first;
    // A peer that hangs up at once must not make this node dial without a pause.
    if up_for.is_none() || unwanted && up_for < Some(cx.config.limits.redial_most) {
        failed(cx, i);
        cx.dialer.release(connection, i, cx.now + first);
        return cx.dialer.sweep();
    }
    let wait = match reason {
        _ if unwanted => AT_ONCE.mul_f64(cx.dialer.fraction()),
        // The other connection to the peer takes over this target at the next dial.
        Disconnect::Local(Goodbye::Duplicate) | Disconnect::Remote(Goodbye::Duplicate) => {
            cx.dialer.about(first)
        }
        Disconnect::Remote(Goodbye::ShuttingDown) => cx.dialer.about(first),
        // One of the two sides ended it on purpose.
        _ => cx.dialer.about(LEFT_ALONE),
    };
    let target = &mut cx.dialer.targets[i];
    let again = target.role.is_lasting() || unwanted;
    target.state = if again { State::Idle(cx.now + wait) } else { State::Done };
    cx.dialer.release(connection, i, cx.now + wait);
    cx.dialer.sweep();
}

/// A connection that this node dialed was lost: its peer is dialed until it is back.
fn lost(cx: &mut Context, connection: ConnectionId, link: &Link) {
    if cx.config.outbound == 0 {
        return;
    }
    let role = Role::Lost(cx.now);
    match cx.dialer.of(connection) {
        Some(i) if matches!(cx.dialer.targets[i].role, Role::Book | Role::Lost(_)) => {
            cx.dialer.targets[i].role = role;
        }
        Some(_) => {}
        None => {
            let (address, peer) = (link.address.to_dial_again(), Some(link.peer));
            let state = State::Connected(connection);
            cx.dialer.targets.push(Target { role, address, peer, failures: 0, state });
        }
    }
    let most = cx.config.limits.max_outbound as usize;
    let since = |target: &Target| match target.role {
        Role::Lost(since) => Some(since),
        _ => None,
    };
    // At most as many as there may be connections; the one lost longest ago is left to the book.
    if cx.dialer.targets.iter().filter_map(since).count() > most {
        let longest = cx.dialer.targets.iter_mut().filter(|target| since(target).is_some());
        if let Some(longest) = longest.min_by_key(|target| since(target)) {
            longest.state = State::Done;
        }
    }
}
