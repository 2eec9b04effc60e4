//! The end that dials: by way of whom its offer goes, and what comes back.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::{Sealing, say};
use crate::channel::Context;
use crate::id::{DialId, Digest, PeerId, SealingKey, SignalId};
use crate::io::{DialError, Exchange, Output, SignalError};
use crate::peers::dialer;
use crate::signal;
use crate::time::Time;
use crate::wire::{AnswerSaid, Description, PeerRecord, Refusal, RefusalSaid, Said};

/// Peers by way of whom one dial tries: who is connected to the other is known of a few of them.
pub(super) const RELAYS: usize = 8;
/// Of these, peers that say that they are connected to the other: whoever says so of all must not be the only ones.
const KNOWN_FIRST: usize = 4;
/// Statements of the other that are opened of those that one relay brings, whatever others say: an answer, or a refusal, and what comes
/// twice. R18.10
const OPENED: u32 = 4;
/// How long an answer may take until the offer goes by another peer as well. More than twice the time that the way
/// takes across the world.
const NEXT_AFTER: Duration = Duration::from_millis(1500);
/// How often all are tried who may be connected to the other, and the first wait in between, which doubles: it may just
/// have come, and its record with it.
const ROUNDS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How long an answer may take after all relays have had the offer.
const LAST_WAIT: Duration = Duration::from_secs(3);
/// How long a busy relay is left alone.
const BUSY_FOR: Duration = Duration::from_millis(250);
/// Peers that said that they are connected to others that take offers, and how many one may tell of.
const KNOWN_RELAYS: usize = 64;
const KNOWN_BY_ONE: usize = 8;

/// A dial by way of a common peer.
#[derive(Debug)]
pub(super) struct Call {
    peer: PeerId,
    /// How often all have been tried.
    rounds: u32,
    /// Peers that have not been tried in this round.
    relays: VecDeque<PeerId>,
    /// Peers that were given the offer.
    asked: Vec<Asked>,
    /// The other's key.
    key: Option<SealingKey>,
    /// The transport's description, until the offer is sealed.
    description: Option<Description>,
    offer: Option<Digest>,
    sealed: Option<Bytes>,
    stage: Stage,
    /// What the last relay said.
    error: DialError,
}

/// A peer that was given the offer.
#[derive(Debug)]
struct Asked {
    relay: PeerId,
    id: SignalId,
    /// Statements of the other that are still opened if this one brings them.
    left: u32,
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its turn.
    Begins,
    /// For a relay to tell the other's record, until then.
    Asks(PeerId, Time),
    /// For the driver to seal the offer.
    Seals,
    /// For a relay to say what became of the offer, or until then for the next relay's turn.
    Carries(SignalId, Time),
    /// For an answer, or until then for the next relay's turn.
    Waits(Time),
    /// For an answer, until then: there is no other relay.
    Last(Time),
    /// For the connection.
    Answered,
}

impl Call {
    pub(super) fn due(&self) -> Option<Time> {
        match self.stage {
            Stage::Asks(_, until) | Stage::Carries(_, until) => Some(until),
            Stage::Waits(until) | Stage::Last(until) => Some(until),
            Stage::Begins | Stage::Seals | Stage::Answered => None,
        }
    }
}

/// Begins a dial by way of a common peer.
pub(crate) fn begin(cx: &mut Context, dial: DialId, peer: Option<PeerId>) {
    let Some(peer) = peer else { return fail(cx, dial, DialError::NoIdentity) };
    // R5.2.2
    if peer == cx.config.peer {
        return fail(cx, dial, DialError::Refused(Refusal::SelfDial));
    }
    let known = cx.offers.records.values().find(|record| record.peer == peer);
    let key = known.or_else(|| cx.book.record(&peer)).and_then(|record| record.sealing);
    let call = Call {
        peer,
        rounds: 0,
        relays: relays(cx, &peer),
        asked: Vec::new(),
        key,
        description: None,
        offer: None,
        sealed: None,
        stage: Stage::Begins,
        error: DialError::NoCommonPeer,
    };
    cx.offers.calls.insert(dial, call);
    advance(cx, dial);
}

/// Peers that may carry an offer: the other itself if there is a connection that a better one may replace, one that is
/// known to be connected to it, and others.
fn relays(cx: &mut Context, to: &PeerId) -> VecDeque<PeerId> {
    let carriers = signal::carriers(cx);
    let known =
        cx.offers.relays.iter().rev().filter(|(peer, _)| peer == to).map(|(_, relay)| *relay);
    let known =
        known.filter(|relay| carriers.contains(relay)).take(KNOWN_FIRST).collect::<Vec<_>>();
    let own = carriers.contains(to).then_some(*to);
    let mut others = carriers;
    // Else the same few would be asked each time.
    cx.offers.shuffle(&mut others);
    let mut relays = VecDeque::new();
    for relay in own.into_iter().chain(known).chain(others) {
        if relays.len() < RELAYS && !relays.contains(&relay) {
            relays.push_back(relay);
        }
    }
    relays
}

/// A dial has ended: whatever comes for it is of no use, and what has not left stays here.
pub(crate) fn over(cx: &mut Context, dial: DialId) {
    let call = cx.offers.calls.remove(&dial);
    for asked in call.into_iter().flat_map(|call| call.asked) {
        signal::cancel(cx, asked.id);
    }
}

fn fail(cx: &mut Context, dial: DialId, error: DialError) {
    over(cx, dial);
    cx.outputs.push_back(Output::Cancel { dial });
    cx.offers.failed.push_back((dial, error));
}

/// Does the next thing for a dial.
fn advance(cx: &mut Context, dial: DialId) {
    let Some(call) = cx.offers.calls.get_mut(&dial) else { return };
    let peer = call.peer;
    if let Some(sealed) = call.sealed.clone() {
        return carry(cx, dial, peer, sealed);
    }
    let Some(key) = call.key else { return ask(cx, dial, peer) };
    let Some(description) = call.description.take() else { return };
    call.stage = Stage::Seals;
    let digest = say(cx, peer, key, &Said::Offer(description), Sealing::Offer(dial));
    match (digest, cx.offers.calls.get_mut(&dial)) {
        (Some(digest), Some(call)) => call.offer = Some(digest),
        // Too many are being sealed, or this node takes no offers itself.
        _ => fail(cx, dial, DialError::Busy),
    }
}

/// Asks the next relay for the other's record.
fn ask(cx: &mut Context, dial: DialId, peer: PeerId) {
    while let Some(relay) = next_relay(cx, dial) {
        if signal::want(cx, relay, peer) {
            let until = cx.now + NEXT_AFTER;
            if let Some(call) = cx.offers.calls.get_mut(&dial) {
                call.stage = Stage::Asks(relay, until);
            }
            return;
        }
    }
    give_up(cx, dial);
}

/// No relay is left that has not been tried.
fn give_up(cx: &mut Context, dial: DialId) {
    let now = cx.now;
    let Some(call) = cx.offers.calls.get_mut(&dial) else { return };
    if !call.asked.is_empty() {
        // One that took the offer may still bring an answer.
        call.stage = Stage::Last(now + LAST_WAIT);
        return;
    }
    call.rounds += 1;
    let (peer, rounds) = (call.peer, call.rounds);
    if rounds >= ROUNDS || call.error != DialError::NoCommonPeer {
        let error = call.error.clone();
        return fail(cx, dial, error);
    }
    call.stage = Stage::Waits(now + FIRST_WAIT * (1 << (rounds - 1)));
    let relays = relays(cx, &peer);
    if let Some(call) = cx.offers.calls.get_mut(&dial) {
        call.relays = relays;
    }
}

fn next_relay(cx: &mut Context, dial: DialId) -> Option<PeerId> {
    cx.offers.calls.get_mut(&dial)?.relays.pop_front()
}

/// Gives the offer to the next relay.
fn carry(cx: &mut Context, dial: DialId, peer: PeerId, sealed: Bytes) {
    let Some(relay) = next_relay(cx, dial) else { return give_up(cx, dial) };
    let id = SignalId(cx.offers.number());
    if let Some(call) = cx.offers.calls.get_mut(&dial) {
        call.stage = Stage::Carries(id, cx.now + NEXT_AFTER);
        call.asked.push(Asked { relay, id, left: OPENED });
    }
    signal::ask(cx, id, (relay, peer), sealed);
}

/// A relay told the record of a peer that is connected to it, or that it has none.
pub(crate) fn found(cx: &mut Context, relay: PeerId, peer: PeerId, record: Option<&PeerRecord>) {
    let key = record.and_then(|record| record.sealing);
    if key.is_some() {
        let relays = &mut cx.offers.relays;
        relays.retain(|known| *known != (peer, relay));
        let by_one = relays.iter().filter(|(_, by)| *by == relay).count();
        let oldest = relays.iter().position(|(_, by)| by_one < KNOWN_BY_ONE || *by == relay);
        if by_one >= KNOWN_BY_ONE || relays.len() >= KNOWN_RELAYS {
            oldest.and_then(|oldest| relays.remove(oldest));
        }
        relays.push_back((peer, relay));
    }
    let asks = |call: &Call| {
        call.peer == peer && matches!(call.stage, Stage::Asks(asked, _) if asked == relay)
    };
    let asks = cx.offers.calls.iter().filter(|(_, call)| asks(call)).map(|(dial, _)| *dial);
    for dial in asks.collect::<Vec<_>>() {
        if let (Some(key), Some(call)) = (key, cx.offers.calls.get_mut(&dial)) {
            call.key = Some(key);
            call.relays.push_front(relay);
            call.stage = Stage::Begins;
        }
        advance(cx, dial);
    }
}

/// The transport tells how this node can be reached.
pub(super) fn described(cx: &mut Context, dial: DialId, description: Description) {
    let Some(call) = cx.offers.calls.get_mut(&dial) else { return };
    if call.offer.is_some() {
        return;
    }
    call.description = Some(description);
    if call.stage == Stage::Begins {
        advance(cx, dial);
    }
}

/// The offer is sealed.
pub(super) fn sealed(cx: &mut Context, dial: DialId, sealed: Option<Bytes>) {
    let Some(call) = cx.offers.calls.get_mut(&dial) else { return };
    call.sealed = sealed;
    match call.sealed {
        Some(_) => advance(cx, dial),
        // Its record has a key that is none.
        None => fail(cx, dial, DialError::Unreadable),
    }
}

/// It is known what became of the offer.
pub(super) fn signaled(cx: &mut Context, id: SignalId, result: Result<(), SignalError>) {
    let mut calls = cx.offers.calls.iter_mut();
    let at = |call: &Call| call.asked.iter().position(|asked| asked.id == id);
    let found = calls.find_map(|(dial, call)| at(call).map(|at| (*dial, call, at)));
    let Some((dial, call, at)) = found else { return };
    let is_current = matches!(call.stage, Stage::Carries(of, _) if of == id);
    let Err(error) = result else {
        if is_current {
            call.stage = Stage::Waits(cx.now + NEXT_AFTER);
        }
        return;
    };
    let relay = call.asked.remove(at).relay;
    call.error = match error {
        SignalError::NoRelay | SignalError::NotConnected => DialError::NoCommonPeer,
        SignalError::Unwanted => DialError::TakesNoOffers,
        SignalError::Busy => DialError::Busy,
        SignalError::Unreadable => DialError::Unreadable,
    };
    if error == SignalError::Busy {
        call.relays.push_back(relay);
    }
    // The next one may have it by now.
    match call.stage {
        _ if is_current && error == SignalError::Busy => {
            call.stage = Stage::Waits(cx.now + BUSY_FOR);
        }
        _ if is_current => advance(cx, dial),
        Stage::Last(_) if call.asked.is_empty() || error == SignalError::Busy => advance(cx, dial),
        _ => {}
    }
}

/// Offers whose answers take long go by another peer as well.
pub(super) fn expire(cx: &mut Context) {
    let now = cx.now;
    let due = cx.offers.calls.iter().filter(|(_, call)| call.due().is_some_and(|due| due <= now));
    for (dial, stage) in due.map(|(dial, call)| (*dial, call.stage)).collect::<Vec<_>>() {
        match stage {
            Stage::Last(_) => fail(cx, dial, DialError::TimedOut),
            _ => advance(cx, dial),
        }
    }
}

/// Whether this node has made a peer an offer, and waits for its answer.
pub(super) fn has_offered(cx: &Context, peer: &PeerId) -> bool {
    let waits = |call: &Call| !matches!(call.stage, Stage::Last(_)) && call.sealed.is_some();
    cx.offers.calls.values().any(|call| call.peer == *peer && waits(call))
}

/// Whether an answer of this peer is awaited by way of this relay. R20.8
pub(super) fn awaits(cx: &mut Context, via: PeerId, from: PeerId) -> bool {
    left(cx, via, from).is_some()
}

/// One that is awaited is opened.
pub(super) fn takes_one(cx: &mut Context, via: PeerId, from: PeerId) {
    if let Some(left) = left(cx, via, from) {
        *left -= 1;
    }
}

fn left(cx: &mut Context, via: PeerId, from: PeerId) -> Option<&mut u32> {
    let calls = cx.offers.calls.values_mut().filter(|call| call.peer == from);
    let mut asked = calls.flat_map(|call| &mut call.asked);
    asked.find(|asked| asked.relay == via && asked.left > 0).map(|asked| &mut asked.left)
}

/// The dial of an offer that this peer was made and that has no answer.
fn offered_to(cx: &Context, peer: PeerId, offer: &Digest) -> Option<DialId> {
    let is = |call: &Call| {
        call.peer == peer && call.offer.as_ref() == Some(offer) && call.stage != Stage::Answered
    };
    cx.offers.calls.iter().find(|(_, call)| is(call)).map(|(dial, _)| *dial)
}

/// The other answers. An answer to no offer, or a second one, means nothing. R20.4
pub(super) fn answered(cx: &mut Context, from: PeerId, answer: AnswerSaid) {
    let Some(dial) = offered_to(cx, from, &answer.offer) else { return };
    if let Some(call) = cx.offers.calls.get_mut(&dial) {
        call.stage = Stage::Answered;
    }
    let (exchange, description) = (Exchange::Dialed(dial), answer.description);
    cx.outputs.push_back(Output::Describe { exchange, peer: from, description });
}

/// The other refuses.
pub(super) fn refused(cx: &mut Context, from: PeerId, refusal: &RefusalSaid) {
    let Some(dial) = offered_to(cx, from, &refusal.offer) else { return };
    dialer::offer_refused(cx, dial, &refusal.why);
    fail(cx, dial, DialError::Refused(refusal.why.clone()));
}
