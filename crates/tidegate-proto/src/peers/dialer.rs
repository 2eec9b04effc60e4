//! Keeps connections to the peers that the configuration names (specification section 14).

use std::time::Duration;

use super::may_dial;
use crate::channel::Context;
use crate::config::StaticPeer;
use crate::id::{ConnectionId, DialId, PeerId};
use crate::io::{Disconnect, Output};
use crate::rng::Rng;
use crate::time::Time;
use crate::wire::{Goodbye, Refusal};

/// A lost connection is dialed again within so much time: not by all at the same moment.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How long a peer is left alone who does not want this node, or whom somebody sent away: nothing
/// of that changes by itself.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Whom to dial, and when.
#[derive(Debug)]
pub(crate) struct Dialer {
    targets: Vec<Target>,
    rng: Rng,
}

#[derive(Debug)]
struct Target {
    at: StaticPeer,
    /// Dials in a row that came to nothing.
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected; the next dial is due at that time.
    Idle(Time),
    /// Dialed; given up at that time.
    Dialing(DialId, Time),
    /// Connected, or in the hello.
    Connected(ConnectionId),
}

impl Dialer {
    pub(crate) fn new(peers: &[StaticPeer], now: Time, rng: &Rng) -> Self {
        let target =
            |at: &StaticPeer| Target { at: at.clone(), failures: 0, state: State::Idle(now) };
        Self { targets: peers.iter().map(target).collect(), rng: rng.fork("dialer") }
    }

    /// When [`expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let due = self.targets.iter().filter_map(|target| match target.state {
            State::Idle(at) | State::Dialing(_, at) => Some(at),
            State::Connected(_) => None,
        });
        due.min()
    }

    /// The target whose dial this is.
    fn dialed(&self, dial: DialId) -> Option<usize> {
        let is = |target: &Target| matches!(target.state, State::Dialing(id, _) if id == dial);
        self.targets.iter().position(is)
    }

    /// The target whose connection this is.
    fn of(&self, connection: ConnectionId) -> Option<usize> {
        self.targets.iter().position(|target| target.state == State::Connected(connection))
    }

    /// A number below one.
    fn fraction(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time a quarter shorter to a quarter longer.
    fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.75 + self.fraction() / 2.0)
    }
}

/// Dials what is due, and gives up what took too long.
pub(crate) fn expire(cx: &mut Context) {
    for i in 0..cx.dialer.targets.len() {
        match cx.dialer.targets[i].state {
            State::Idle(at) if at <= cx.now => dial(cx, i),
            State::Dialing(_, until) if until <= cx.now => failed(cx, i),
            _ => {}
        }
    }
}

fn dial(cx: &mut Context, i: usize) {
    let StaticPeer { address, peer } = cx.dialer.targets[i].at.clone();
    let links = cx.links.iter();
    let link =
        links.filter(|(_, link)| link.up && Some(link.peer) == peer).map(|(id, _)| id).next();
    let banned = peer.and_then(|peer| cx.peers.banned(&peer, cx.now));
    let state = if let Some(link) = link {
        // He has dialed himself.
        State::Connected(link)
    } else if let Some(until) = banned {
        State::Idle(until)
    } else if !may_dial(cx) {
        let limit = cx.config.limits.redial_first;
        State::Idle(cx.now + cx.dialer.about(limit))
    } else {
        let dial = cx.peers.dial(address.clone(), peer);
        cx.outputs.push_back(Output::Dial { dial, address, peer });
        State::Dialing(dial, cx.now + cx.config.limits.dial_timeout)
    };
    cx.dialer.targets[i].state = state;
}

/// A dial came to nothing: the next waits twice as long, up to a limit.
fn failed(cx: &mut Context, i: usize) {
    let limits = &cx.config.limits;
    let failures = cx.dialer.targets[i].failures;
    let wait = limits.redial_first.saturating_mul(1 << failures.min(16)).min(limits.redial_most);
    let wait = cx.dialer.about(wait);
    let target = &mut cx.dialer.targets[i];
    target.failures += 1;
    target.state = State::Idle(cx.now + wait);
}

/// A dial failed.
pub(crate) fn dial_failed(cx: &mut Context, dial: DialId) {
    if let Some(i) = cx.dialer.dialed(dial) {
        failed(cx, i);
    }
}

/// A dial led to a connection.
pub(crate) fn connected(cx: &mut Context, dial: DialId, connection: ConnectionId, peer: PeerId) {
    if let Some(i) = cx.dialer.dialed(dial) {
        let target = &mut cx.dialer.targets[i];
        target.at.peer = Some(peer);
        target.state = State::Connected(connection);
    }
}

/// A connection that this node dialed is up: the network is there, so others are tried again soon.
pub(crate) fn up(cx: &mut Context, connection: ConnectionId) {
    if cx.links.get(connection).is_none_or(|link| link.direction.is_inbound()) {
        return;
    }
    let soon = cx.dialer.about(cx.config.limits.redial_first);
    for target in &mut cx.dialer.targets {
        match &mut target.state {
            State::Idle(at) if target.failures > 0 => *at = (*at).min(cx.now + soon),
            _ => {}
        }
        target.failures = 0;
    }
}

/// The peer of a connection refuses it.
pub(crate) fn refused(cx: &mut Context, connection: ConnectionId, refusal: &Refusal) {
    let wait = match refusal {
        Refusal::Busy(ms) => Some(Duration::from_millis(u64::from(*ms))),
        Refusal::Banned(seconds) => Some(Duration::from_secs(u64::from(*seconds))),
        // Another connection of his is there, or about to be: it is found when this is over.
        Refusal::Duplicate => Some(cx.config.limits.duplicate_timeout),
        Refusal::Full | Refusal::ShuttingDown => None,
        Refusal::WrongNetwork
        | Refusal::NoCommonVersion
        | Refusal::SelfDial
        | Refusal::NotAllowed
        | Refusal::BadSignature => Some(LEFT_ALONE),
    };
    let wait = wait.map(|wait| cx.dialer.about(wait));
    let Some(i) = cx.dialer.of(connection) else { return };
    match wait {
        Some(wait) => cx.dialer.targets[i].state = State::Idle(cx.now + wait),
        None => failed(cx, i),
    }
}

/// A connection is over, for a reason, after it was up for so long; `None` if it never was.
pub(crate) fn closed(
    cx: &mut Context,
    connection: ConnectionId,
    up_for: Option<Duration>,
    reason: &Disconnect,
) {
    let first = cx.config.limits.redial_first;
    let Some(i) = cx.dialer.of(connection) else { return };
    let wait = match reason {
        _ if up_for.is_none() => return failed(cx, i),
        // Nobody wanted that. One who hangs up at once would have us dial without a pause.
        Disconnect::Lost
        | Disconnect::Local(Goodbye::Silent | Goodbye::Internal)
        | Disconnect::Remote(Goodbye::Silent | Goodbye::Internal) => {
            if up_for < Some(cx.config.limits.redial_most) {
                return failed(cx, i);
            }
            let wait = AT_ONCE.mul_f64(cx.dialer.fraction());
            cx.dialer.targets[i].state = State::Idle(cx.now + wait);
            return;
        }
        // The other connection of the two is found at once.
        Disconnect::Local(Goodbye::Duplicate) | Disconnect::Remote(Goodbye::Duplicate) => first,
        Disconnect::Remote(Goodbye::ShuttingDown) => first,
        // Somebody decided it.
        Disconnect::Local(_) | Disconnect::Remote(_) | Disconnect::Violation(_) => LEFT_ALONE,
    };
    let wait = cx.dialer.about(wait);
    cx.dialer.targets[i].state = State::Idle(cx.now + wait);
}
