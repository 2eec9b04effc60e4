//! Liveness of the other end: pings, and timeouts for silence (specification section 5.5).

use super::{ControlLink, Stage};
use crate::channel::Context;
use crate::id::ConnectionId;
use crate::link::Instance;
use crate::time::Time;
use crate::wire::ControlMessage;

/// When the next ping leaves. At most one is outstanding.
pub(super) fn next_ping(cx: &Context, side: &ControlLink) -> Option<Time> {
    if side.ping.is_some() {
        return None;
    }
    if side.ping_now {
        return Some(Time::ZERO);
    }
    let link = cx.links.get(side.at.link)?;
    let limits = &cx.config.limits;
    if let Some(silent) = silent_since(cx, side.at.link) {
        return Some(side.last_ping.max(silent) + limits.ping_busy);
    }
    let idle = if link.direction.is_inbound() {
        // The dialer's pings keep the connection alive; this end pings only if they are missing.
        limits.ping_idle * 3 / 2
    } else {
        limits.ping_idle
    };
    Some(link.heard + idle)
}

/// When a silent peer times out.
pub(super) fn silence(cx: &Context, side: &ControlLink) -> Option<Time> {
    Some(silent_since(cx, side.at.link)? + cx.config.limits.silence)
}

/// Since when the peer has owed an answer while it sent nothing.
fn silent_since(cx: &Context, connection: ConnectionId) -> Option<Time> {
    let link = cx.links.get(connection)?;
    let slots = link.slots.iter().enumerate();
    let owed = slots.filter_map(|(slot, s)| {
        let at = Instance { link: connection, slot, index: s.index };
        s.kind.awaited_since(cx, at)
    });
    Some(owed.min()?.max(link.heard))
}

pub(super) fn poll_ping(cx: &mut Context, at: Instance) -> Option<ControlMessage> {
    let side = cx.control.links.get(&at.link)?;
    if side.stage != Stage::Up || next_ping(cx, side).is_none_or(|due| due > cx.now) {
        return None;
    }
    let number = cx.control.rng.next_u64();
    let side = cx.control.links.get_mut(&at.link)?;
    side.ping = Some((number, cx.now));
    side.ping_now = false;
    side.last_ping = cx.now;
    Some(ControlMessage::Ping(number))
}
