//! Whether this node can be dialed where others see it (specification section 15): it asks one of those that it
//! has dialed, who dials it from a socket that nothing has left by, and says what came of it.
//!
//! ```text
//! A → B   Reach       an address of the host at which B sees A; one at a time
//! B → A   Reached
//! ```
//!
//! B's word is one peer's, and so was that of whoever named the address: two must agree. Nobody has B dial
//! anybody else.

use std::collections::BTreeMap;
use std::time::Duration;

use super::address::{Group, group, is_same_host, site_bytes};
use super::exchange::wake;
use super::may_dial;
use crate::channel::Context;
use crate::control::record;
use crate::id::{Address, ConnectionId, DialId};
use crate::io::Output;
use crate::time::{Pace, Time};
use crate::violation::Violation;
use crate::wire::PeersMessage;

/// How long a peer is not asked about the same address again.
const AGAIN: Duration = Duration::from_secs(600);
/// How long an answer is waited for before somebody else is asked: one may have to wait for its turn and then
/// for a dial.
const PATIENCE: Duration = Duration::from_secs(120);
/// Questions from a site that are answered at once, and the time after which one more is.
const BURST: u32 = 2;
const INTERVAL: Duration = Duration::from_secs(60);
/// Peers that are dialed back at a time, each of another network group.
const AT_A_TIME: usize = 4;
/// Sites whose pace is remembered: more than ask in two minutes.
pub(crate) const SITES: usize = 256;

/// Peers that are being dialed because they asked.
#[derive(Debug, Default)]
pub(crate) struct DialBacks {
    under_way: BTreeMap<DialId, (ConnectionId, Group)>,
    /// How fast each site is answered, also when it comes anew.
    paces: BTreeMap<Vec<u8>, Pace>,
}

impl DialBacks {
    /// When a peer that is seen at an address can be answered; not before another dial has ended if `None`.
    fn next(&self, at: &Address) -> Option<Time> {
        let of = group(at);
        let is_free = self.under_way.len() < AT_A_TIME
            && self.under_way.values().all(|(_, other)| *other != of);
        let next = || match self.paces.get(&site_bytes(at)) {
            Some(pace) => pace.next(BURST, INTERVAL),
            None if self.paces.len() < SITES => Time::ZERO,
            None => self.paces.values().map(Pace::rested).min().unwrap_or_default(),
        };
        is_free.then(next)
    }

    /// A peer that is seen there is answered now.
    fn take(&mut self, at: &Address, now: Time) {
        self.paces.retain(|_, pace| pace.rested() > now);
        self.paces.entry(site_bytes(at)).or_default().take(INTERVAL, now);
    }
}

/// What is under way on one connection.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The address that is to be asked about, is asked about, or was last.
    address: Option<Address>,
    stage: Stage,
    since: Option<Time>,
    /// What the peer asks about.
    owed: Option<Address>,
    /// The answer that leaves next.
    answer: Option<bool>,
    /// The peer has asked and has no answer.
    is_asking: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Quiet,
    ToAsk,
    Asked,
    /// Asked, and nobody waits for the answer any more.
    Late,
}

impl Reach {
    /// Whether the peer is being asked, and nobody else is therefore.
    fn is_busy(&self, now: Time) -> bool {
        matches!(self.stage, Stage::ToAsk | Stage::Asked)
            && self.since.is_some_and(|since| now < since + PATIENCE)
    }
}

/// Asks somebody, if an address is only one peer's word and nobody is being asked.
pub(crate) fn look(cx: &mut Context) {
    let now = cx.now;
    if cx.exchange.reaches().any(|(_, reach)| reach.is_busy(now)) {
        return;
    }
    let lately = |reach: &Reach, address: &Address| {
        let when = reach.since.filter(|_| reach.address.as_ref() == Some(address));
        when.is_some_and(|when| now.since(when) < AGAIN)
    };
    let quiet = cx.exchange.reaches().filter(|(_, reach)| reach.stage == Stage::Quiet);
    let mut asked = quiet.filter_map(|(id, reach)| {
        let link = cx.links.get(id).filter(|link| !link.direction.is_inbound())?;
        let mut unproven = cx.control.reachable().unproven(id, &link.address);
        unproven.find(|address| !lately(reach, address)).map(|address| (id, address.clone()))
    });
    let next = asked.next();
    drop(asked);
    let Some((id, address)) = next else { return };
    if let Some(reach) = cx.exchange.reach(id) {
        reach.address = Some(address);
        (reach.stage, reach.since) = (Stage::ToAsk, Some(now));
    }
    wake(cx, id);
}

/// A peer asks whether it can be dialed somewhere.
pub(super) fn asked(
    cx: &mut Context,
    link: ConnectionId,
    address: Address,
) -> Result<(), Violation> {
    let reach = cx.exchange.reach(link).ok_or(Violation::UnknownChannel)?;
    // R15.9
    if std::mem::replace(&mut reach.is_asking, true) {
        return Err(Violation::RequestPermit);
    }
    reach.owed = Some(address);
    wake(cx, link);
    Ok(())
}

/// A peer says whether it has reached this node.
pub(super) fn told(cx: &mut Context, link: ConnectionId, reached: bool) -> Result<(), Violation> {
    let reach = cx.exchange.reach(link).ok_or(Violation::UnknownChannel)?;
    // R15.9
    if !matches!(reach.stage, Stage::Asked | Stage::Late) {
        return Err(Violation::Unasked);
    }
    reach.stage = Stage::Quiet;
    if reached && let Some(address) = reach.address.clone() {
        cx.control.reachable_mut().reached(&address);
        record::renew(cx);
    }
    look(cx);
    Ok(())
}

/// What leaves next on a connection, if anything does.
pub(super) fn poll(cx: &mut Context, link: ConnectionId) -> Option<PeersMessage> {
    let now = cx.now;
    let reach = cx.exchange.reach(link)?;
    if let Some(answer) = reach.answer.take() {
        reach.is_asking = false;
        return Some(PeersMessage::Reached(answer));
    }
    let at = cx.links.get(link)?.address.clone();
    if reach.owed.is_some()
        && cx.exchange.dial_backs.next(&at).is_some_and(|next| next <= now)
        && let Some(address) = cx.exchange.reach(link)?.owed.take()
    {
        cx.exchange.dial_backs.take(&at, now);
        if !dial(cx, link, address) {
            cx.exchange.reach(link)?.is_asking = false;
            return Some(PeersMessage::Reached(false));
        }
    }
    let reach = cx.exchange.reach(link)?;
    if reach.stage == Stage::Asked && !reach.is_busy(now) {
        reach.stage = Stage::Late;
        look(cx);
    }
    let reach = cx.exchange.reach(link)?;
    if reach.stage == Stage::ToAsk {
        reach.stage = Stage::Asked;
        return reach.address.clone().map(PeersMessage::Reach);
    }
    None
}

/// When [`poll`] has something to do that waits for the time, for a peer that is seen at an address.
pub(super) fn deadline(cx: &Context, reach: &Reach, at: &Address) -> Option<Time> {
    let answer = reach.owed.as_ref().and_then(|_| cx.exchange.dial_backs.next(at));
    let late = reach.since.filter(|_| reach.stage == Stage::Asked).map(|since| since + PATIENCE);
    answer.into_iter().chain(late).min()
}

/// Dials a peer that asked, if it asks about itself.
fn dial(cx: &mut Context, link: ConnectionId, address: Address) -> bool {
    let Some(peer) = cx.links.get(link) else { return false };
    let group = group(&peer.address);
    // R15.10
    if !is_same_host(&address, &peer.address) || !may_dial(cx) {
        return false;
    }
    let peer = Some(peer.peer);
    let dial = cx.peers.dial(address.clone(), peer);
    cx.exchange.dial_backs.under_way.insert(dial, (link, group));
    cx.outputs.push_back(Output::Dial { dial, address, peer, fresh: true });
    true
}

/// A dial has ended, well or not: whether it was one of these. Then its connection is of no further use.
pub(crate) fn dialed(cx: &mut Context, dial: DialId, reached: bool) -> bool {
    let Some((link, _)) = cx.exchange.dial_backs.under_way.remove(&dial) else { return false };
    cx.peers.dialed(dial);
    // Who asked may have gone.
    if let Some(reach) = cx.exchange.reach(link) {
        reach.answer = Some(reached);
        wake(cx, link);
    }
    // There is a place for another.
    let waiting = cx.exchange.reaches().filter(|(_, reach)| reach.owed.is_some());
    for id in waiting.map(|(id, _)| id).collect::<Vec<_>>() {
        wake(cx, id);
    }
    true
}
