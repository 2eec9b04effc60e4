//! How connections end: the last words of this end or of the other, and a connection that drains since a better
//! one is there (specification sections 5.3 and 5.6).

use super::{LAST_WORDS, Last, Stage, enter, record};
use crate::channel::Context;
use crate::id::{Address, ConnectionId};
use crate::io::{Disconnect, Event, Output};
use crate::link::{Ending, Instance};
use crate::peers::{self, dialer};
use crate::signal;
use crate::timers::Timer;
use crate::violation::Violation;
use crate::wire::{Goodbye, Refusal};

/// Why a connection ends that is at its end.
pub(super) fn ends_for(cx: &Context, link: ConnectionId) -> Option<Disconnect> {
    match &cx.control.links.get(&link)?.stage {
        Stage::Closed(reason) | Stage::Ending(Last::Goodbye(_, reason), _) => Some(reason.clone()),
        _ => match cx.links.get(link)?.ending()? {
            Ending::Refusal(_) => None,
            Ending::Goodbye(goodbye) => Some(Disconnect::Local(goodbye.clone())),
            Ending::Violation(violation) => Some(Disconnect::Violation(*violation)),
        },
    }
}

/// Whether a connection is at its end, or will be when the current step is done.
pub(crate) fn is_over(cx: &Context, link: ConnectionId) -> bool {
    has_ended(cx, link) || cx.links.get(link).is_none_or(|link| link.ending().is_some())
}

fn has_ended(cx: &Context, link: ConnectionId) -> bool {
    let stage = cx.control.links.get(&link).map(|link| &link.stage);
    stage.is_none_or(|stage| matches!(stage, Stage::Ending(..) | Stage::Closed(_)))
}

/// Whether the peer's hello was good, and the connection is not at its end.
pub(crate) fn is_admitted(cx: &Context, link: ConnectionId) -> bool {
    let stage = cx.control.links.get(&link).map(|link| &link.stage);
    stage.is_some_and(|stage| matches!(stage, Stage::Setup(_) | Stage::Up)) && !is_over(cx, link)
}

/// Whether a second connection is of the very process that the first is of: it dialed two addresses of this node,
/// which is no news to anybody. That of another process with its key is.
pub(super) fn is_of_one_process(cx: &Context, link: ConnectionId, refusal: &Refusal) -> bool {
    let other = dialer::has_another(cx, link).and_then(|other| cx.control.instance(other));
    *refusal == Refusal::Duplicate && other.is_some() && other == cx.control.instance(link)
}

/// What is told of a refusal: its reason, not whom the peer knows. Events may wait to be read, and
/// what a peer sends must not wait with them.
pub(super) fn without_records(refusal: &Refusal) -> Refusal {
    match refusal {
        Refusal::Full(_) => Refusal::Full(Vec::new()),
        refusal => refusal.clone(),
    }
}

/// Ends a connection: what the peer hears last leaves, unless it has been said.
pub(crate) fn end(cx: &mut Context, link: ConnectionId, ending: Ending) {
    if has_ended(cx, link) {
        return;
    }
    let last = match ending {
        Ending::Refusal(refusal) => {
            refused(cx, link, &refusal);
            Last::Refuse(refusal)
        }
        Ending::Goodbye(goodbye) => Last::Goodbye(goodbye.clone(), Disconnect::Local(goodbye)),
        Ending::Violation(violation) => {
            violated(cx, link, violation);
            // R11.1
            let goodbye = Goodbye::Violation(violation.code());
            Last::Goodbye(goodbye, Disconnect::Violation(violation))
        }
    };
    let until = cx.now + LAST_WORDS;
    let Some(ending) = cx.control.links.get_mut(&link) else { return };
    if matches!(ending.stage, Stage::Asking { .. }) {
        cx.control.waiting -= 1;
    }
    ending.stage = Stage::Ending(last, until);
    let at = ending.at;
    bring_down(cx, link);
    cx.links.wake(at.link, at.slot);
}

/// This node refuses a connection. R5.2.1
fn refused(cx: &mut Context, link: ConnectionId, refusal: &Refusal) {
    cx.stats.refusal(true, refusal.kind());
    if let Some(peer) = cx.links.get(link).map(|link| link.peer)
        && !is_of_one_process(cx, link, refusal)
    {
        cx.event(Event::Refused { peer, by_us: true, refusal: without_records(refusal) });
    }
}

/// The peer of a connection broke the protocol: it is remembered. R11.2
fn violated(cx: &mut Context, link: ConnectionId, violation: Violation) {
    if let Some(peer) = cx.links.get(link).map(|link| link.peer) {
        cx.peers.ban(peer, violation, cx.now, cx.config.limits.bans);
    }
    cx.stats.violation(violation);
}

/// The channels of a connection have no peer any more.
pub(super) fn bring_down(cx: &mut Context, link: ConnectionId) {
    // The channels look for others to ask: not for this one.
    if let Some(connection) = cx.links.get_mut(link) {
        connection.retire();
    }
    for (kind, at) in cx.links.channels(link) {
        if at.slot > 0 {
            kind.on_down(cx, at);
            cx.timers.set(Timer::Channel { link, slot: at.slot }, None);
        }
    }
    if let Some(connection) = cx.links.get_mut(link) {
        connection.slots.truncate(1);
    }
    peers::leaves(cx, link);
    record::gone(cx, link);
    unreplace(cx, link);
    signal::review(cx, link);
}

/// A connection is at its end that has taken the place of another, or was about to: unless one more has taken its
/// own place, the other goes on as before. R5.3.11
fn unreplace(cx: &mut Context, link: ConnectionId) {
    let another = cx.control.is_replaced(link);
    let Some(newer) = cx.control.links.get_mut(&link) else { return };
    let (Some(older), was_up) = (newer.replaces.take(), newer.was_up) else { return };
    if let Some(older) = cx.control.links.get_mut(&older).filter(|_| was_up && !another) {
        (older.yields, older.drains) = (None, false);
    }
}

pub(super) fn close(cx: &mut Context, link: ConnectionId, reason: Disconnect) {
    let Some(closing) = cx.control.links.get_mut(&link) else { return };
    if matches!(closing.stage, Stage::Closed(_)) {
        return;
    }
    if matches!(closing.stage, Stage::Asking { .. }) {
        cx.control.waiting -= 1;
    }
    closing.stage = Stage::Closed(reason);
    bring_down(cx, link);
    cx.outputs.push_back(Output::Close { connection: link });
}

/// The transport says that the peer of a connection is seen elsewhere from now on. What the peer has said of
/// this node's addresses was said from where it was: it counts no longer.
pub(crate) fn moved(cx: &mut Context, link: ConnectionId, address: Address) {
    let Some(connection) = cx.links.get_mut(link).filter(|link| link.address != address) else {
        return;
    };
    connection.address = address;
    record::gone(cx, link);
}

/// The transport says that a connection is gone: why it ended.
pub(crate) fn closed(cx: &mut Context, link: ConnectionId) -> Disconnect {
    // Before its channels go down: they ask which connection is left, and this one replaces none any more.
    let stage = cx.control.links.get_mut(&link);
    let stage = stage.map(|l| std::mem::replace(&mut l.stage, Stage::Closed(Disconnect::Lost)));
    bring_down(cx, link);
    // R5.3.4
    let waiting = waiting_for(cx, link);
    cx.control.links.remove(&link);
    for newer in waiting {
        cx.control.waiting -= 1;
        enter(cx, newer);
    }
    match stage {
        Some(Stage::Closed(reason)) => reason,
        Some(Stage::Ending(Last::Goodbye(_, reason), _)) => reason,
        Some(Stage::Asking { .. }) => {
            cx.control.waiting -= 1;
            Disconnect::Lost
        }
        _ => Disconnect::Lost,
    }
}

/// Connections that wait for an answer on an older one to the same peer.
pub(super) fn waiting_for(cx: &Context, link: ConnectionId) -> Vec<Instance> {
    if cx.control.waiting == 0 {
        return Vec::new();
    }
    let links = cx.control.links.values();
    let waiting = links.filter(|l| matches!(l.stage, Stage::Asking { older, .. } if older == link));
    waiting.map(|newer| newer.at).collect()
}

/// Ends a connection whose place another has taken, if nothing is owed on it any more, on either side. R5.3.2, R5.3.9
pub(crate) fn drain(cx: &mut Context, link: ConnectionId) {
    if !cx.control.links.get(&link).is_some_and(|link| link.drains) {
        return;
    }
    let Some(connection) = cx.links.get(link) else { return };
    let busy = connection.slots.iter().enumerate().any(|(slot, s)| {
        let at = Instance { link, slot, index: s.index };
        s.kind.awaited_since(cx, at).is_some() || s.kind.is_owed(cx, at)
    });
    if !busy {
        cx.links.end(link, Goodbye::Duplicate);
    }
}

/// The last words of this end need not leave any more.
pub(super) fn expire_last_words(cx: &mut Context, at: Instance) {
    let Some(link) = cx.control.links.get(&at.link) else { return };
    let reason = match &link.stage {
        Stage::Ending(Last::Goodbye(_, reason), _) => reason.clone(),
        _ => Disconnect::Lost,
    };
    close(cx, at.link, reason);
}
