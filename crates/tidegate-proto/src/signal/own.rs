//! What this node has to say, on its way to the peer that is to carry it.

use bytes::Bytes;

use super::turns::Turns;
use super::{Way, forget_if_empty, is_replaced, peer_of, way_to};
use crate::channel::Context;
use crate::id::{PeerId, SignalId};
use crate::io::SignalError;
use crate::link::Instance;
use crate::offer;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{Carry, MAX_SIGNAL, Settled, SignalFate};

/// The most that one relay is to carry at a time, however many permits it gives.
pub(crate) const OUT: u32 = 4;

/// Signals that wait for one relay's permits: as many as are dialed and answered by way of it.
pub(crate) const WAITING: usize = 32;

/// Signals of this node that have no answer yet, by way of all relays: several times as many as there are dials
/// and answers at a time.
pub(crate) const OWN: usize = 256;

/// Of those that wait for one relay, signals for one receiver: the rest is for others.
const WAITING_FOR_ONE: usize = OUT as usize;

#[derive(Debug)]
pub(super) struct Own {
    id: SignalId,
    to: PeerId,
    payload: Bytes,
    /// When it is given up.
    until: Time,
}

/// Signals that wait for one relay's permits, by receiver.
pub(super) type Queue = Turns<PeerId, Own>;

/// This node has something to say to another, by way of a peer that both are connected to, or to that peer itself.
/// [`offer::signaled`] is told what becomes of it.
pub(crate) fn ask(cx: &mut Context, id: SignalId, (via, to): (PeerId, PeerId), payload: Bytes) {
    // A relay answers after `signal_patience` at the latest: its answer says more than this node's own.
    let until = cx.now + 2 * cx.config.limits.signal_patience;
    match queue(cx, via, Own { id, to, payload, until }) {
        Ok(()) => _ = cx.signals.deadlines.insert((until, id)),
        Err(error) => tell(cx, (until, id), Err(error)),
    }
}

fn tell(cx: &mut Context, (until, id): (Time, SignalId), result: Result<(), SignalError>) {
    cx.signals.deadlines.remove(&(until, id));
    #[cfg(test)]
    cx.signals.told.push((id, result));
    offer::signaled(cx, id, result);
}

impl Own {
    fn key(&self) -> (Time, SignalId) {
        (self.until, self.id)
    }
}

fn queue(cx: &mut Context, via: PeerId, own: Own) -> Result<(), SignalError> {
    debug_assert!(own.payload.len() <= MAX_SIGNAL, "a statement has at most {MAX_SIGNAL} bytes");
    match way_to(cx, &via) {
        Way::By(_, theirs) if theirs.requests == 0 => return Err(SignalError::NoRelay),
        Way::By(at, _) => cx.links.wake(at.link, at.slot),
        Way::Coming => {}
        Way::None => return Err(SignalError::NoRelay),
    }
    if cx.signals.deadlines.len() >= OWN {
        return Err(SignalError::Busy);
    }
    let queue = cx.signals.own.entry(via).or_default();
    if queue.values().count() >= WAITING || queue.of(&own.to) >= WAITING_FOR_ONE {
        return Err(SignalError::Busy);
    }
    queue.push(own.to, own);
    Ok(())
}

/// The next for the peer, if it has a permit left for it. R18.1
pub(super) fn poll(cx: &mut Context, at: Instance) -> Option<Carry> {
    let relay = peer_of(cx, at.link)?;
    let link = cx.signals.links.get(&at.link)?;
    let permits = link.terms.theirs.requests.min(OUT) as usize;
    if link.asked.len() >= permits || !cx.signals.own.contains_key(&relay) {
        return None;
    }
    if is_replaced(cx, at.link) {
        return None;
    }
    let link = cx.signals.links.get(&at.link)?;
    // One permit is left for others than a receiver that does not answer.
    let share = permits.saturating_sub(1).max(1);
    let asked = |to: &PeerId| link.asked.values().flatten().filter(|own| own.to == *to).count();
    let (to, own) = cx.signals.own.get_mut(&relay)?.pop(|to| asked(to) < share)?;
    forget_if_empty(&mut cx.signals.own, &relay);
    let carry = Carry { to, payload: own.payload.clone() };
    cx.signals.links.get_mut(&at.link)?.asked.push(Some(own), cx.now);
    Some(carry)
}

/// The peer says what became of one.
pub(super) fn on_carried(
    cx: &mut Context,
    at: Instance,
    settled: &Settled,
) -> Result<(), Violation> {
    let link = cx.signals.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R18.3
    let own = link.asked.remove(settled.number).ok_or(Violation::Unasked)?;
    cx.links.wake(at.link, at.slot);
    let result = match settled.fate {
        SignalFate::Taken => Ok(()),
        SignalFate::NotConnected => Err(SignalError::NotConnected),
        SignalFate::Unwanted => Err(SignalError::Unwanted),
        SignalFate::Busy => Err(SignalError::Busy),
        SignalFate::Unreadable => Err(SignalError::Unreadable),
    };
    if let Some(own) = own {
        tell(cx, own.key(), result);
    }
    Ok(())
}

/// The connection to a relay is gone: what it has not answered may not have arrived, and goes by another if there is
/// one. R18.10
pub(super) fn ask_again(
    cx: &mut Context,
    relay: PeerId,
    asked: impl DoubleEndedIterator<Item = Own>,
) {
    // They have waited for longer than those that have not left.
    for own in asked.rev() {
        cx.signals.own.entry(relay).or_default().push_front(own.to, own);
    }
}

/// Whether half of the signals that this node may have under way are.
pub(crate) fn has_many(cx: &Context) -> bool {
    cx.signals.deadlines.len() >= OWN / 2
}

/// One is of no use any more: if it has left it is out until its answer, and nobody waits for that.
pub(crate) fn cancel(cx: &mut Context, id: SignalId) {
    cx.signals.deadlines.retain(|(_, of)| *of != id);
    cx.signals.own.retain(|_, queue| {
        queue.retain(|_, own| own.id != id);
        !queue.is_empty()
    });
    let asked = cx.signals.links.values_mut().flat_map(|link| link.asked.values_mut());
    for own in asked {
        own.take_if(|own| own.id == id);
    }
}

/// There is no way to a relay any more.
pub(super) fn lost(cx: &mut Context, relay: &PeerId) {
    for (_, own) in cx.signals.own.remove(relay).into_iter().flat_map(Turns::into_all) {
        tell(cx, own.key(), Err(SignalError::NoRelay));
    }
}

/// When the first of those that are not answered has waited for too long.
pub(super) fn due(cx: &Context) -> Option<Time> {
    cx.signals.deadlines.first().map(|(until, _)| *until)
}

/// What a relay has not answered in time counts as out until it does (R18.3), but no one waits for it.
pub(super) fn expire(cx: &mut Context) {
    let is_late = |own: &mut Own| own.until <= cx.now;
    let asked = cx.signals.links.values_mut().flat_map(|link| link.asked.values_mut());
    let asked = asked.filter_map(|own| own.take_if(is_late).map(|own| own.key()));
    let mut late = asked.collect::<Vec<_>>();
    cx.signals.own.retain(|_, queue| {
        queue.retain(|_, own| {
            let is_late = own.until <= cx.now;
            late.extend(is_late.then_some(own.key()));
            !is_late
        });
        !queue.is_empty()
    });
    for own in late {
        tell(cx, own, Err(SignalError::Busy));
    }
}
