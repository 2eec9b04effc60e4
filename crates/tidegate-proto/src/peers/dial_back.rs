//! Tests whether this node can be dialed where peers see it (specification section 15): it asks a
//! peer that it has dialed, which dials back from a socket that nothing has left by, and reports
//! the result.
//!
//! ```text
//! A → B   Reach       an address of the host at which B sees A; one at a time
//! B → A   Reached
//! ```
//!
//! B's answer is the claim of one peer, and so was that of the peer that named the address: two
//! must agree. B only dials the host that it sees A at, so A cannot use it to dial anybody else.

use std::collections::BTreeMap;
use std::time::Duration;

use super::address::{Group, group, is_same_host};
use super::exchange::wake;
use crate::channel::Context;
use crate::control::record;
use crate::id::{Address, ConnectionId, DialId};
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::PeersMessage;

/// The interval before a peer is asked about the same address again.
const AGAIN: Duration = Duration::from_secs(600);
/// The timeout of an answer, after which another peer is asked: the peer may have others to dial
/// back first.
const PATIENCE: Duration = Duration::from_secs(120);
/// Concurrent dials back, each to another network group.
const AT_A_TIME: usize = 4;
/// How long a group waits for its next dial: by being slow on purpose a peer keeps one of the
/// transport's connections busy, but for less time than this.
const REST: Duration = Duration::from_secs(30);
/// Groups that wait and are remembered: more than can be dialed in that time.
pub(crate) const RESTING: usize = 256;

/// Dials back in progress.
#[derive(Debug, Default)]
pub(crate) struct DialBacks {
    under_way: BTreeMap<DialId, (ConnectionId, Group)>,
    /// Until when no other peer of a group is dialed back.
    resting: BTreeMap<Group, Time>,
    /// When to check next whether a peer should be asked, if nothing happens before.
    pub(crate) next_look: Option<Time>,
}

impl DialBacks {
    /// When a peer seen at an address can be dialed back; `None` if another dial has to end first.
    fn next(&self, at: &Address) -> Option<Time> {
        let of = group(at);
        let is_free = self.under_way.len() < AT_A_TIME
            && self.under_way.values().all(|(_, other)| *other != of);
        let next = || match self.resting.get(&of) {
            Some(until) => *until,
            None if self.resting.len() < RESTING => Time::ZERO,
            None => self.resting.values().min().copied().unwrap_or_default(),
        };
        is_free.then(next)
    }

    /// Starts the dial to a peer seen at an address.
    fn take(&mut self, at: &Address, now: Time) {
        self.resting.retain(|_, until| *until > now);
        self.resting.insert(group(at), now + REST);
    }
}

/// The state of one connection: questions in both directions.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The address to be asked about, or last asked about.
    address: Option<Address>,
    stage: Stage,
    since: Option<Time>,
    /// The address that the peer asked about.
    owed: Option<Address>,
    /// The answer to send.
    answer: Option<bool>,
    /// The peer has asked and has no answer yet.
    is_asking: bool,
    /// Not answered again before then: others of its group come first.
    next: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Quiet,
    ToAsk,
    Asked,
    /// Asked, and the answer has timed out.
    Late,
}

impl Reach {
    /// Lets a question that has timed out block others no longer.
    pub(super) fn give_up(&mut self, now: Time) {
        self.stage = match self.stage {
            Stage::ToAsk if !self.is_busy(now) => Stage::Quiet,
            Stage::Asked if !self.is_busy(now) => Stage::Late,
            stage => stage,
        };
    }

    /// Whether the peer is being asked; then no other is.
    fn is_busy(&self, now: Time) -> bool {
        matches!(self.stage, Stage::ToAsk | Stage::Asked)
            && self.since.is_some_and(|since| now < since + PATIENCE)
    }
}

/// Asks a peer, if an address is unconfirmed and no peer is being asked: the one asked longest ago.
/// Each is asked about each address once, and again after [`AGAIN`].
pub(crate) fn look(cx: &mut Context) {
    let now = cx.now;
    cx.exchange.give_up(now);
    let busy = cx.exchange.reaches().filter(|(_, reach)| reach.is_busy(now));
    let until = busy.filter_map(|(_, reach)| Some(reach.since? + PATIENCE)).min();
    cx.exchange.dial_backs.next_look = until;
    if until.is_some() || !cx.control.reachable().has_unproven() {
        return;
    }
    let quiet = cx.exchange.reaches().filter(|(_, reach)| reach.stage == Stage::Quiet);
    let candidates = quiet.filter_map(|(id, reach)| {
        let link = cx.links.get(id).filter(|link| !link.direction.is_inbound())?;
        let (from, address) = cx.control.reachable().to_ask(id, &link.address, AGAIN)?;
        Some((from > now, from, reach.since, id, address.clone()))
    });
    let next = candidates
        .min_by_key(|(later, from, since, id, _)| (*later, later.then_some(*from), *since, *id));
    let Some((later, from, _, id, address)) = next else { return };
    if later {
        cx.exchange.dial_backs.next_look = Some(from);
        return;
    }
    cx.exchange.dial_backs.next_look = Some(now + PATIENCE);
    cx.control.reachable_mut().asked(&address, id, now);
    if let Some(reach) = cx.exchange.reach(id) {
        reach.address = Some(address);
        (reach.stage, reach.since) = (Stage::ToAsk, Some(now));
    }
    wake(cx, id);
}

/// When [`expire`] is due.
pub(crate) fn next_look(cx: &Context) -> Option<Time> {
    cx.exchange.dial_backs.next_look
}

/// A question has timed out, or peers that said no may be asked again.
pub(crate) fn expire(cx: &mut Context) {
    if next_look(cx).is_some_and(|at| at <= cx.now) {
        look(cx);
    }
}

/// A peer asks whether it can be dialed at an address.
pub(super) fn asked(
    cx: &mut Context,
    connection: ConnectionId,
    address: Address,
) -> Result<(), Violation> {
    let reach = cx.exchange.reach(connection).ok_or(Violation::UnknownChannel)?;
    // R15.9
    if std::mem::replace(&mut reach.is_asking, true) {
        return Err(Violation::RequestPermit);
    }
    reach.owed = Some(address);
    wake(cx, connection);
    Ok(())
}

/// A peer says whether it could dial this node.
pub(super) fn told(
    cx: &mut Context,
    connection: ConnectionId,
    reached: bool,
) -> Result<(), Violation> {
    let reach = cx.exchange.reach(connection).ok_or(Violation::UnknownChannel)?;
    // R15.9
    if !matches!(reach.stage, Stage::Asked | Stage::Late) {
        return Err(Violation::Unasked);
    }
    reach.stage = Stage::Quiet;
    // If the peer that named the address has gone meanwhile, this answer would be the only claim.
    if reached
        && let Some(address) = reach.address.clone()
        && let Some(at) = cx.links.get(connection).map(|peer| peer.address.clone())
        && cx.control.reachable().is_provable(&address, connection, &at)
    {
        let now = cx.now;
        cx.control.reachable_mut().reached(&address, now);
        record::renew(cx);
    }
    look(cx);
    Ok(())
}

/// The next message to send on a connection, if any.
pub(super) fn poll(cx: &mut Context, connection: ConnectionId) -> Option<PeersMessage> {
    let now = cx.now;
    let reach = cx.exchange.reach(connection)?;
    if let Some(answer) = reach.answer.take() {
        reach.is_asking = false;
        return Some(PeersMessage::Reached(answer));
    }
    let at = cx.links.get(connection)?.address.clone();
    let due = reach.owed.is_some() && reach.next <= now;
    if due
        && cx.exchange.dial_backs.next(&at).is_some_and(|next| next <= now)
        && let Some(address) = cx.exchange.reach(connection)?.owed.take()
    {
        cx.exchange.dial_backs.take(&at, now);
        cx.exchange.reach(connection)?.next = now + REST * 2;
        if !dial(cx, connection, address) {
            cx.exchange.reach(connection)?.is_asking = false;
            return Some(PeersMessage::Reached(false));
        }
    }
    let reach = cx.exchange.reach(connection)?;
    if reach.stage == Stage::ToAsk {
        reach.stage = Stage::Asked;
        return reach.address.clone().map(PeersMessage::Reach);
    }
    None
}

/// When [`poll`] is due again for a peer seen at an address, if it waits for a time.
pub(super) fn deadline(cx: &Context, reach: &Reach, at: &Address) -> Option<Time> {
    let next = reach.owed.as_ref().and_then(|_| cx.exchange.dial_backs.next(at));
    next.map(|next| next.max(reach.next))
}

/// Dials a peer back, if it asked about its own host.
fn dial(cx: &mut Context, connection: ConnectionId, address: Address) -> bool {
    let Some(peer) = cx.links.get(connection) else { return false };
    let group = group(&peer.address);
    // R15.10
    let is_dialed = is_same_host(&address, &peer.address) && !address.is_by_offer();
    if !is_dialed || cx.peers.shutting_down {
        return false;
    }
    let peer = Some(peer.peer);
    // Not counted as an outbound connection, and takes no place from those: it is closed at once.
    let dial = super::begin_dial(cx, address, peer, true);
    cx.exchange.dial_backs.under_way.insert(dial, (connection, group));
    true
}

/// A dial has ended; returns whether it was one of these. Its connection is of no further use then.
pub(crate) fn dialed(cx: &mut Context, dial: DialId, reached: bool) -> bool {
    let Some((connection, _)) = cx.exchange.dial_backs.under_way.remove(&dial) else {
        return false;
    };
    // The peer that asked may have gone.
    if let Some(reach) = cx.exchange.reach(connection) {
        reach.answer = Some(reached);
        wake(cx, connection);
    }
    // Another waiting peer can be dialed now.
    let waiting = cx.exchange.reaches().filter(|(_, reach)| reach.owed.is_some());
    for id in waiting.map(|(id, _)| id).collect::<Vec<_>>() {
        wake(cx, id);
    }
    true
}
