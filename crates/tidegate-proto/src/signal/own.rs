//! What this node's transports have to say, on its way to the peer that is to carry it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{MOST_OUT, is_coming, link_to};
use crate::channel::Context;
use crate::id::{PeerId, SignalId};
use crate::io::{Output, SignalError};
use crate::link::Instance;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{Carry, MAX_SIGNAL, Settled, SignalFate};

/// Signals that wait for one relay's permits: four times as many as it gives by default.
const WAITING: usize = 16;

#[derive(Debug)]
pub(super) struct Own {
    id: SignalId,
    to: PeerId,
    payload: Bytes,
    until: Time,
}

/// A transport of this node has something to say to one of its kind, by way of a peer that both are connected
/// to, or to that peer itself.
pub(crate) fn ask(cx: &mut Context, id: SignalId, (via, to): (PeerId, PeerId), payload: Bytes) {
    let until = cx.now + cx.config.limits.signal_patience;
    if let Err(error) = queue(cx, via, Own { id, to, payload, until }) {
        cx.outputs.push_back(Output::Signaled { id, result: Err(error) });
    }
}

fn queue(cx: &mut Context, via: PeerId, own: Own) -> Result<(), SignalError> {
    if own.payload.len() > MAX_SIGNAL {
        return Err(SignalError::TooLong);
    }
    let relay = link_to(cx, &via);
    let permits = relay.and_then(|at| Some(cx.signals.links.get(&at.link)?.terms.theirs.requests));
    if permits == Some(0) || permits.is_none() && !is_coming(cx, &via) {
        return Err(SignalError::NoRelay);
    }
    let queue = cx.signals.own.entry(via).or_default();
    if queue.len() >= WAITING {
        return Err(SignalError::Busy);
    }
    queue.push_back(own);
    if let Some(at) = relay {
        cx.links.wake(at.link, at.slot);
    }
    Ok(())
}

/// The next for the peer, if it has a permit left for it. R18.1
pub(super) fn poll(cx: &mut Context, at: Instance) -> Option<Carry> {
    let relay = super::peer_of(cx, at.link)?;
    let link = cx.signals.links.get(&at.link)?;
    let is_full = link.asked.len() >= link.terms.theirs.requests.min(MOST_OUT) as usize;
    if is_full || !cx.signals.own.contains_key(&relay) || cx.control.is_replaced(at.link) {
        return None;
    }
    let queue = cx.signals.own.get_mut(&relay)?;
    let own = queue.pop_front();
    if queue.is_empty() {
        cx.signals.own.remove(&relay);
    }
    let own = own?;
    let carry = Carry { to: own.to, payload: own.payload.clone() };
    cx.signals.links.get_mut(&at.link)?.asked.push(own, cx.now);
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
    let id = link.asked.remove(settled.number).ok_or(Violation::Unasked)?.id;
    let result = match settled.fate {
        SignalFate::Taken => Ok(()),
        SignalFate::NotConnected => Err(SignalError::NotConnected),
        SignalFate::Unwanted => Err(SignalError::Unwanted),
        SignalFate::Busy => Err(SignalError::Busy),
    };
    cx.outputs.push_back(Output::Signaled { id, result });
    cx.links.wake(at.link, at.slot);
    Ok(())
}

/// The connection to a relay is gone, and another takes its place: it may not have seen the last ones. R18.10
pub(super) fn ask_again(
    cx: &mut Context,
    relay: PeerId,
    asked: impl DoubleEndedIterator<Item = Own>,
) {
    // They have waited for longer than those that have not left.
    for own in asked.rev() {
        cx.signals.own.entry(relay).or_default().push_front(own);
    }
}

/// The connection to the last relay is gone that these were to go by, or have gone by.
pub(super) fn lost(cx: &mut Context, lost: impl Iterator<Item = Own>) {
    let result = Err(SignalError::NoRelay);
    cx.outputs.extend(lost.map(|own| Output::Signaled { id: own.id, result }));
}

/// When the first of those that wait has waited for too long: they all wait for as long.
pub(super) fn due(cx: &Context) -> Option<Time> {
    cx.signals.own.values().filter_map(|queue| Some(queue.front()?.until)).min()
}

pub(super) fn expire(cx: &mut Context) {
    let now = cx.now;
    let mut late = VecDeque::new();
    cx.signals.own.retain(|_, queue| {
        while queue.front().is_some_and(|own| own.until <= now) {
            late.extend(queue.pop_front().map(|own| own.id));
        }
        !queue.is_empty()
    });
    let result = Err(SignalError::Busy);
    cx.outputs.extend(late.into_iter().map(|id| Output::Signaled { id, result }));
}
