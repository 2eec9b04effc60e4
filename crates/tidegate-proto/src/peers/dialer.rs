//! Whom to dial, and when: peers that the configuration names, those that were lost, and as many
//! others of the book as are wanted (specification section 14).

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
use crate::time::Time;
use crate::wire::{Goodbye, Refusal};

/// A lost connection is dialed again after a random delay up to this: not by all at the same moment.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How long a peer is left alone who does not want this node, or whom somebody sent away: nothing
/// of that changes by itself.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// How long a peer's word that this node is banned counts: the longest time that the protocol has for
/// that.
const BANNED_MOST: Duration = Duration::from_secs(3600);

/// Peers of the book that are left alone at a time: more than a node is connected to.
const LEFT_ALONE_MOST: usize = 256;

/// Dials over the book that are under way at a time while no peer is connected.
const AT_A_TIME: usize = 4;

/// A peer that was lost is dialed for so long; after that it is one in the book like others.
const LOST_FOR: Duration = Duration::from_secs(7200);

/// Between two dials to a lost peer lies at most this part of the time it has been gone: back within
/// a hundredth of what the cut has lasted.
const LOST_SHARE: u32 = 120;

/// How many peers of the book are looked at for one in a new group.
const GROUP_TRIES: usize = 8;

/// Whom to dial, and when.
#[derive(Debug)]
pub(crate) struct Dialer {
    targets: Vec<Target>,
    rng: Rng,
    /// The next look at whether peers are missing, and when one led to a dial.
    refill: Time,
    refilled: Option<Time>,
    /// The next look at whether somebody in the book is there.
    feeler: Time,
    /// Peers of the book that are not dialed, as somebody sent them or this node away; until when.
    left_alone: BTreeMap<PeerId, Time>,
    /// Peers that this node sent away, and until when they need not come back.
    sent_away: BTreeMap<PeerId, Time>,
}

#[derive(Debug)]
struct Target {
    role: Role,
    address: Address,
    peer: Option<PeerId>,
    /// Dials in a row that came to nothing.
    failures: u32,
    state: State,
}

/// Why somebody is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The configuration says to stay connected.
    Static,
    /// The configuration says that peers can be learnt there.
    Bootstrap,
    /// The connection was lost then, and nobody wanted that.
    Lost(Time),
    /// From the book, once.
    Book,
    /// From the book, to see whether it is there.
    Feeler,
}

impl Role {
    /// Whether it stays in the list whatever happens.
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
    /// It is not dialed any more.
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

    /// When [`expire`] has something to do.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Time> {
        let due = self.targets.iter().filter_map(|target| match target.state {
            // When they are needed is seen when peers are missing.
            State::Idle(_) if target.role == Role::Bootstrap => None,
            State::Idle(at) => Some(at),
            State::Dialing(_) | State::Connected(_) | State::Done => None,
        });
        let finding = (config.outbound > 0).then(|| self.refill.min(self.feeler));
        due.chain(finding).min()
    }

    /// Until when a peer that this node sent away need not come back.
    pub(crate) fn sent_away(&self, peer: &PeerId, now: Time) -> Option<Time> {
        self.sent_away.get(peer).copied().filter(|until| *until > now)
    }

    /// The application wants a peer after all.
    pub(crate) fn is_wanted(&mut self, peer: &PeerId) {
        self.sent_away.remove(peer);
        self.left_alone.remove(peer);
    }

    /// The target whose dial this is.
    fn dialed(&self, dial: DialId) -> Option<usize> {
        let is = |target: &Target| target.state == State::Dialing(dial);
        self.targets.iter().position(is)
    }

    /// The target whose connection this is: of several the one that goes when it does.
    fn of(&self, connection: ConnectionId) -> Option<usize> {
        let all = || self.targets.iter().enumerate();
        let mut of_it = all().filter(|(_, target)| target.state == State::Connected(connection));
        let lasting = of_it.clone().map(|(i, _)| i).next();
        of_it.find(|(_, target)| !target.role.is_lasting()).map(|(i, _)| i).or(lasting)
    }

    /// Whether this node chose to dial a connection, and no application told it to.
    pub(crate) fn has_chosen(&self, connection: ConnectionId) -> bool {
        self.of(connection).is_some()
    }

    /// A connection is over that is that of several targets, for a peer may have several addresses: those that the
    /// configuration names are dialed again.
    fn release(&mut self, connection: ConnectionId, but: usize, at: Time) {
        for (i, target) in self.targets.iter_mut().enumerate() {
            if i != but && target.state == State::Connected(connection) {
                target.state = if target.role.is_lasting() { State::Idle(at) } else { State::Done };
            }
        }
    }

    /// Dials under way over the book.
    fn dialing(&self) -> usize {
        let searching = |target: &&Target| matches!(target.role, Role::Book | Role::Bootstrap);
        let dialing = |target: &&Target| matches!(target.state, State::Dialing(_));
        self.targets.iter().filter(searching).filter(dialing).count()
    }

    /// Whether a connection is only to see whether the peer is there.
    pub(crate) fn is_feeler(&self, connection: ConnectionId) -> bool {
        self.of(connection).is_some_and(|i| self.targets[i].role == Role::Feeler)
    }

    /// A number below one.
    fn fraction(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time a quarter shorter to a quarter longer.
    fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.75 + self.fraction() / 2.0)
    }

    /// A time that somebody asked for, to half as long again.
    fn at_least(&mut self, time: Duration) -> Duration {
        time.mul_f64(1.0 + self.fraction() / 2.0)
    }

    /// Forgets what is not dialed any more.
    fn sweep(&mut self) {
        self.targets.retain(|target| target.state != State::Done);
    }
}

/// Dials what is due, and looks for peers if some are missing.
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

/// Somebody is missing, or somebody new is in the book: not long until it is seen who can be dialed.
pub(crate) fn refill_soon(cx: &mut Context) {
    let interval = cx.config.limits.dial_interval;
    let next = cx.dialer.refilled.map_or(cx.now, |last| cx.now.max(last + interval));
    cx.dialer.refill = cx.dialer.refill.min(next);
}

/// Peers this node dialed that count as its own choice.
fn outbound(cx: &Context) -> usize {
    let dialed = cx.links.iter().filter(|(_, link)| !link.direction.is_inbound());
    dialed.filter(|(id, _)| !cx.dialer.is_feeler(*id)).count()
}

/// Whether more peers are wanted than there are.
pub(crate) fn is_wanting(cx: &Context) -> bool {
    outbound(cx) < cx.config.outbound as usize
}

fn is_alone(cx: &Context) -> bool {
    !cx.links.iter().any(|(_, link)| link.up)
}

/// Dials over the book while peers are missing.
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
    // Nobody is left: something else has to happen first, and that sets the time again.
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
    }
    cx.dialer.refill = cx.now + cx.dialer.about(pause);
}

/// Dials somebody of the book, or where peers can be learnt; `false` if nobody is left.
fn dial_another(cx: &mut Context, alone: bool) -> bool {
    let picked = pick(cx, true);
    if picked.is_none()
        && let Some(i) = due_bootstrap(cx)
    {
        dial(cx, i);
        return true;
    }
    // Who is alone has nothing to lose.
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

/// Peers that are there, are dialed already, or are not wanted for now, and this node itself.
fn taken(cx: &Context) -> BTreeSet<PeerId> {
    let targets = cx.dialer.targets.iter().filter(|target| target.state != State::Done);
    let targets = targets.filter(|target| target.role != Role::Bootstrap);
    let linked = cx.links.iter().map(|(_, link)| link.peer);
    let left_alone = cx.dialer.left_alone.iter().filter(|(_, until)| **until > cx.now);
    let others = linked.chain(left_alone.map(|(peer, _)| *peer)).chain([cx.config.peer]);
    targets.filter_map(|target| target.peer).chain(others).collect()
}

/// Somebody of the book, in a network group of its own if one is found soon.
fn pick(cx: &mut Context, patient: bool) -> Option<(PeerId, Address)> {
    let outbound = cx.links.iter().filter(|(_, link)| !link.direction.is_inbound());
    let groups = outbound.map(|(_, link)| group(&link.address)).collect::<Vec<_>>();
    let taken = taken(cx);
    let Context { book, peers, config, now, .. } = cx;
    let mut chosen = None;
    for _ in 0..GROUP_TRIES {
        let picked = book.pick(*now, patient, |peer| {
            !taken.contains(peer) && peers.may_meet(config, peer, *now)
        });
        let Some(picked) = picked else { break };
        let fresh = !groups.contains(&group(&picked.1));
        if fresh || chosen.is_none() {
            chosen = Some(picked);
        }
        if fresh {
            break;
        }
    }
    chosen
}

/// Looks whether somebody in the book is there.
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
    let link = cx.links.iter().find(same).map(|(id, _)| id);
    let banned = peer.and_then(|peer| cx.peers.banned(&peer, cx.now));
    let state = if let Some(link) = link {
        // It has dialed this node.
        if role.is_lasting() { State::Connected(link) } else { State::Done }
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

/// A dial came to nothing: the next waits twice as long, up to a limit, if there is a next.
fn failed(cx: &mut Context, i: usize) {
    let limits = &cx.config.limits;
    let Target { role, peer, failures, .. } = cx.dialer.targets[i];
    let most = match role {
        // Who is alone has nobody else to ask.
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

/// A dial led to a connection.
pub(crate) fn connected(cx: &mut Context, dial: DialId, connection: ConnectionId) {
    if let Some(i) = cx.dialer.dialed(dial) {
        cx.dialer.targets[i].state = State::Connected(connection);
    }
}

/// The hello with a peer is finished. If this node dialed, the network is there, so others are
/// tried again soon.
pub(crate) fn up(cx: &mut Context, connection: ConnectionId) {
    let Some(link) = cx.links.get(connection).filter(|link| !link.direction.is_inbound()) else {
        return;
    };
    let peer = link.peer;
    if cx.config.outbound > 0 {
        cx.book.met(peer, &link.address, cx.now);
    }
    // Whoever answers at an address that names nobody is expected there from now on: not before it
    // has shown that it is of this network.
    if let Some(i) = cx.dialer.of(connection) {
        cx.dialer.targets[i].peer = Some(peer);
    }
    if cx.dialer.is_feeler(connection) {
        return cx.links.end(connection, Goodbye::Requested);
    }
    if !cx.links.iter().any(|(id, link)| id != connection && link.up) {
        // This node was cut off: nobody is to blame for that.
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

/// Another connection to the peer of this one, that is up.
pub(crate) fn has_another(cx: &Context, connection: ConnectionId) -> Option<ConnectionId> {
    let peer = cx.links.get(connection)?.peer;
    let mut others = cx.links.iter().filter(|(id, link)| *id != connection && link.peer == peer);
    others.find(|(_, link)| link.up).map(|(id, _)| id)
}

/// The peer of a connection refuses it.
pub(crate) fn refused(cx: &mut Context, connection: ConnectionId, refusal: &Refusal) {
    let wait = match refusal {
        Refusal::Busy(ms) => Some(Duration::from_millis(u64::from(*ms)).min(LEFT_ALONE)),
        Refusal::Banned(seconds) => Some(Duration::from_secs(u64::from(*seconds)).min(BANNED_MOST)),
        // Another connection to the peer is there, or about to be: it is found when this is over.
        Refusal::Duplicate => Some(cx.config.limits.duplicate_timeout),
        Refusal::Full(_) | Refusal::ShuttingDown => None,
        Refusal::WrongNetwork
        | Refusal::NoCommonVersion
        | Refusal::SelfDial
        | Refusal::NotAllowed
        | Refusal::BadSignature => Some(LEFT_ALONE),
    };
    let wait = wait.map(|wait| cx.dialer.at_least(wait));
    if let Refusal::Full(others) = refusal {
        exchange::told_of(cx, connection, others);
    }
    let Some(i) = cx.dialer.of(connection) else { return };
    if let (Refusal::Duplicate, Some(other)) = (refusal, has_another(cx, connection)) {
        // It was dialed by another of its addresses, or by one that did not say who is there.
        let target = &mut cx.dialer.targets[i];
        target.peer = cx.links.get(other).map(|link| link.peer);
        let lasts = target.role.is_lasting();
        target.state = if lasts { State::Connected(other) } else { State::Done };
        return cx.dialer.sweep();
    }
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

/// A connection is over, for a reason, after it was up for so long; `None` if it never was.
pub(crate) fn closed(
    cx: &mut Context,
    connection: ConnectionId,
    link: &Link,
    up_for: Option<Duration>,
    reason: &Disconnect,
) {
    let decided = match reason {
        Disconnect::Local(Goodbye::Requested) => !cx.dialer.is_feeler(connection),
        // One who dialed may only have looked whether this node is there.
        Disconnect::Remote(Goodbye::Requested) => {
            !link.direction.is_inbound() || up_for > Some(cx.config.limits.redial_most)
        }
        _ => false,
    };
    if decided && matches!(reason, Disconnect::Local(_)) {
        let sent_away = &mut cx.dialer.sent_away;
        sent_away.retain(|_, until| *until > cx.now);
        if sent_away.len() >= LEFT_ALONE_MOST {
            // The one whose time is up first.
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
    // Nobody wanted that.
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
    // One who hangs up at once would have us dial without a pause.
    if up_for.is_none() || unwanted && up_for < Some(cx.config.limits.redial_most) {
        failed(cx, i);
        cx.dialer.release(connection, i, cx.now + first);
        return cx.dialer.sweep();
    }
    let wait = match reason {
        _ if unwanted => AT_ONCE.mul_f64(cx.dialer.fraction()),
        // The other connection of the two is found at once.
        Disconnect::Local(Goodbye::Duplicate) | Disconnect::Remote(Goodbye::Duplicate) => {
            cx.dialer.about(first)
        }
        Disconnect::Remote(Goodbye::ShuttingDown) => cx.dialer.about(first),
        // Somebody decided it.
        _ => cx.dialer.about(LEFT_ALONE),
    };
    let target = &mut cx.dialer.targets[i];
    let again = target.role.is_lasting() || unwanted;
    target.state = if again { State::Idle(cx.now + wait) } else { State::Done };
    cx.dialer.release(connection, i, cx.now + wait);
    cx.dialer.sweep();
}

/// A peer that this node dialed is gone, and nobody sent it away: it is dialed until it is back.
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
            let (address, peer) = (link.address.clone(), Some(link.peer));
            let state = State::Connected(connection);
            cx.dialer.targets.push(Target { role, address, peer, failures: 0, state });
        }
    }
    let most = cx.config.limits.max_outbound as usize;
    let since = |target: &Target| match target.role {
        Role::Lost(since) => Some(since),
        _ => None,
    };
    // No more than there may be connections: who has been gone for longest is left to the book.
    if cx.dialer.targets.iter().filter_map(since).count() > most {
        let longest = cx.dialer.targets.iter_mut().filter(|target| since(target).is_some());
        if let Some(longest) = longest.min_by_key(|target| since(target)) {
            longest.state = State::Done;
        }
    }
}
