//! Liveness of the other end: pings, and timeouts for silence (specification section 5.5).

use super::{ControlLink, Stage};
use crate::channel::Context;
use crate::id::ConnectionId;
use crate::link::Instance;
use crate::time::Time;
use crate::wire::ControlMessage;

/// When the next ping leaves. At most one is outstanding.
pub(super) fn next_ping(cx: &Context, link: &ControlLink) -> Option<Time> {
    if link.ping.is_some() {
        return None;
    }
    if link.ping_now {
        return Some(Time::ZERO);
    }
    let connection = cx.links.get(link.at.link)?;
    let limits = &cx.config.limits;
    if let Some(silent) = silent_since(cx, link.at.link) {
        return Some(link.last_ping.max(silent) + limits.ping_busy);
    }
    let idle = if connection.direction.is_inbound() {
        // The dialer's pings keep the connection alive; this end pings only if they are missing.
        limits.ping_idle * 3 / 2
    } else {
        limits.ping_idle
    };
    Some(connection.heard + idle)
}

/// When a silent peer times out.
pub(super) fn silence(cx: &Context, link: &ControlLink) -> Option<Time> {
    Some(silent_since(cx, link.at.link)? + cx.config.limits.silence)
}

/// Since when the peer has owed an answer while it sent nothing.
fn silent_since(cx: &Context, link: ConnectionId) -> Option<Time> {
    let connection = cx.links.get(link)?;
    let slots = connection.slots.iter().enumerate();
    let owed = slots.filter_map(|(slot, s)| {
        let at = Instance { link, slot, index: s.index };
        s.kind.awaited_since(cx, at)
    });
    Some(owed.min()?.max(connection.heard))
}

pub(super) fn poll_ping(cx: &mut Context, at: Instance) -> Option<ControlMessage> {
    let link = cx.control.links.get(&at.link)?;
    if link.stage != Stage::Up || next_ping(cx, link).is_none_or(|due| due > cx.now) {
        return None;
    }
    let number = cx.control.rng.next_u64();
    let link = cx.control.links.get_mut(&at.link)?;
    link.ping = Some((number, cx.now));
    link.ping_now = false;
    link.last_ping = cx.now;
    Some(ControlMessage::Ping(number))
}
