//! The node's timers: when it must be called again, and why.

use std::collections::{BTreeMap, BTreeSet};

use crate::channel::Kind;
use crate::id::{ConnectionId, Ticket};
use crate::time::Time;

/// What a timer is for. Each is set at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A deadline of a channel on one connection.
    Channel { link: ConnectionId, slot: usize },
    /// A deadline of a channel that concerns all connections: its kind and index.
    Kind(Kind, usize),
    /// The timeout of a verdict.
    Ticket(Ticket),
    /// The next dial is due.
    Dialer,
    /// The timeout of a dial.
    Dials,
    /// An offer gets no answer.
    Offers,
    /// An address of this node expires, or a peer should be asked about one.
    Addresses,
    /// The rest of a link is over.
    Rested,
}

impl Timer {
    fn reason(self) -> &'static str {
        match self {
            Self::Channel { .. } => "channel",
            Self::Kind(kind, _) => kind.name(),
            Self::Ticket(_) => "verdict",
            Self::Dialer | Self::Dials | Self::Offers => "dial",
            Self::Addresses => "address",
            Self::Rested => "work",
        }
    }
}

/// The node's timers: set and found in logarithmic time.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: BTreeMap<Timer, Time>,
    queue: BTreeSet<(Time, Timer)>,
}

impl Timers {
    /// Sets, moves or (with `None`) clears a timer.
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Time>) {
        let before = self.set.get(&timer).copied();
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.queue.remove(&(before, timer));
        }
        match at {
            Some(at) => {
                self.set.insert(timer, at);
                self.queue.insert((at, timer));
            }
            None => {
                self.set.remove(&timer);
            }
        }
    }

    /// Sets a timer, or moves it forward. A timer that is set to an earlier time stays: when it
    /// fires nothing is due yet, and it is set again. So a deadline that every frame postpones
    /// costs nothing.
    pub(crate) fn set_at_most(&mut self, timer: Timer, at: Option<Time>) {
        let earlier = self.set.get(&timer).is_some_and(|set| at.is_some_and(|at| *set <= at));
        if !earlier {
            self.set(timer, at);
        }
    }

    /// Removes and returns the next timer that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Timer> {
        let &(at, timer) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        self.set.remove(&timer);
        Some(timer)
    }

    /// When the first timer is due, and what it is for.
    pub(crate) fn next(&self) -> Option<(Time, &'static str)> {
        self.queue.first().map(|(at, timer)| (*at, timer.reason()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_moves_fires_once() {
        let at = Time::from_micros;
        let mut timers = Timers::default();
        timers.set(Timer::Kind(Kind::Block, 0), Some(at(10)));
        timers.set(Timer::Kind(Kind::Pool, 0), Some(at(20)));
        timers.set(Timer::Kind(Kind::Block, 0), Some(at(30)));
        assert_eq!(timers.next(), Some((at(20), "pool")));
        timers.set(Timer::Kind(Kind::Pool, 0), None);
        assert_eq!(timers.pop(at(29)), None);
        assert_eq!(timers.pop(at(30)), Some(Timer::Kind(Kind::Block, 0)));
        assert_eq!(timers.next(), None);
        timers.set_at_most(Timer::Kind(Kind::Block, 0), Some(at(40)));
        timers.set_at_most(Timer::Kind(Kind::Block, 0), Some(at(50)));
        assert_eq!(timers.next(), Some((at(40), "block")));
        timers.set_at_most(Timer::Kind(Kind::Block, 0), Some(at(35)));
        assert_eq!(timers.next(), Some((at(35), "block")));
        timers.set_at_most(Timer::Kind(Kind::Block, 0), None);
        assert_eq!(timers.next(), None);
    }
}
