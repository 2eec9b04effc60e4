//! Chooses which peer to ask for announced content.
//!
//! After Bitcoin Core's `txrequest.h`, with these rules, each with its reason:
//!
//! - *One request in flight per key.* A second would fetch a copy.
//! - *Every peer that announced a key stays a candidate for it*, and is asked when the one before
//!   has failed. So nobody can keep a key from this node by announcing it first.
//! - *Best priority first, then the order of announcement*, for each connection by itself: a slow
//!   one does not hold up what others can deliver.
//! - *After a timeout, dialed peers are asked first.* An attacker can open any number of
//!   connections that announce a key first and never answer, but cannot choose whom this node dials.
//! - *A candidate is asked once per announcement.* After a timeout the answer may still arrive.
//! - *A key that no candidate delivers is given up* [`GIVE_UP`] after the last request, so that
//!   announcing what does not exist has a bounded cost.
//! - *A connection is a candidate for a bounded number of keys.* Where no permit is out for a key,
//!   as for blocks, this bound replaces it: a new key evicts the connection's own oldest one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::ConnectionId;
use crate::time::Time;

/// How often a late request is rechecked for other candidates.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long dialed candidates are asked exclusively after a timeout: some cannot be asked now.
const DIALED_FIRST: Duration = Duration::from_millis(50);
/// How long a key is kept after the last candidate's timeout.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(5);

/// Wanted keys and their candidates.
#[derive(Debug)]
pub(crate) struct Fetcher<K> {
    wants: BTreeMap<K, Want>,
    /// What each connection could be asked for now, best first.
    queues: Queues<K>,
    /// The keys each connection is a candidate for, oldest announcement first.
    candidacies: BTreeMap<ConnectionId, BTreeMap<u64, K>>,
    /// Keys per connection.
    most: usize,
    /// When a state of a key ends.
    timers: BTreeSet<(Time, K)>,
    announced: u64,
}

/// An announcement by a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announced<K> {
    pub(crate) key: K,
    pub(crate) link: ConnectionId,
    /// The announcement's number.
    pub(crate) tag: u32,
    pub(crate) priority: u8,
    /// Upper bound of the answer's bytes.
    pub(crate) size: u32,
    /// This node dialed it.
    pub(crate) dialed: bool,
}

/// What each connection could be asked for, best first.
type Queues<K> = BTreeMap<ConnectionId, BTreeSet<(Rank, K)>>;

/// Best priority first (so the complement), then in order of arrival.
type Rank = (u8, u64);

#[derive(Debug)]
struct Want {
    candidates: Vec<Candidate>,
    state: State,
    /// How many candidates timed out.
    late: u32,
    /// When the last request stops being awaited: later than others are asked.
    until: Time,
}

/// A connection that announced a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) link: ConnectionId,
    /// The announcement's number.
    pub(crate) tag: u32,
    /// Size and priority as announced: they bind only this candidate.
    size: u32,
    rank: Rank,
    dialed: bool,
    asked: bool,
}

impl Candidate {
    /// Whether it is queued while the key is in this state.
    fn is_queued(&self, state: State) -> bool {
        !self.asked && (state == State::Idle || self.dialed && matches!(state, State::Dialed(_)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not requested before that time.
    Patient(Time),
    /// Queued with the untried dialed candidates; from then on, with all untried ones.
    Dialed(Time),
    /// Queued with all untried candidates.
    Idle,
    /// Requested from a connection: when others may be asked, and when it is no longer awaited.
    InFlight(ConnectionId, Time, Time),
    /// All candidates were asked; given up at that time.
    Exhausted(Time),
}

impl State {
    fn ends(self) -> Option<Time> {
        match self {
            Self::Patient(at) | Self::Dialed(at) => Some(at),
            Self::InFlight(_, at, _) | Self::Exhausted(at) => Some(at),
            Self::Idle => None,
        }
    }
}

/// What to request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<K> {
    pub(crate) key: K,
    pub(crate) tag: u32,
    pub(crate) size: u32,
}

/// The result of [`Fetcher::expire`].
#[derive(Debug)]
pub(crate) struct Expired<K> {
    /// Connections that can be asked for something now.
    pub(crate) wake: BTreeSet<ConnectionId>,
    /// Requests that timed out: the connection and the announcement's number. One may be listed
    /// twice.
    pub(crate) timed_out: Vec<(ConnectionId, u32)>,
    /// Keys that were given up, and their candidates.
    pub(crate) given_up: Vec<(K, Vec<Candidate>)>,
}

impl<K: Ord + Copy> Fetcher<K> {
    /// Without a bound of its own: the permits are one.
    pub(crate) fn new() -> Self {
        Self::bounded(usize::MAX)
    }

    /// Each connection is a candidate for at most `most` keys.
    pub(crate) fn bounded(most: usize) -> Self {
        Self {
            wants: BTreeMap::new(),
            queues: BTreeMap::new(),
            candidacies: BTreeMap::new(),
            most,
            timers: BTreeSet::new(),
            announced: 0,
        }
    }

    /// `link` announced `key`. The first request waits for `patience`. Returns connections that may
    /// be asked now for a key that this one evicted.
    #[must_use = "who may be asked has to be woken"]
    pub(crate) fn announced(
        &mut self,
        announced: Announced<K>,
        patience: Option<Time>,
        now: Time,
    ) -> Vec<ConnectionId> {
        let Announced { key, link, tag, priority, size, dialed } = announced;
        let rank = (!priority, self.announced);
        self.announced += 1;
        let candidate = Candidate { link, tag, size, rank, dialed, asked: false };
        if let Some(want) = self.wants.get_mut(&key) {
            let known = want.candidates.iter().position(|known| known.link == link);
            let known = known.map(|at| want.candidates.remove(at));
            want.candidates.push(candidate);
            let state = want.state;
            if let Some(known) = known {
                self.forget(key, &known);
            }
            match state {
                State::Exhausted(_) => self.change(key, State::Idle),
                state if candidate.is_queued(state) => {
                    self.queues.entry(link).or_default().insert((rank, key));
                }
                _ => {}
            }
        } else {
            let want = Want {
                candidates: vec![candidate],
                state: State::Idle,
                late: 0,
                until: Time::ZERO,
            };
            self.wants.insert(key, want);
            self.change(key, patience.map_or(State::Idle, State::Patient));
        }
        let own = self.candidacies.entry(link).or_default();
        own.insert(rank.1, key);
        match own.first_key_value().map(|(_, oldest)| *oldest) {
            Some(oldest) if own.len() > self.most => self.leaves(oldest, link, now),
            _ => Vec::new(),
        }
    }

    /// Removes a candidate from its queue and records.
    fn forget(&mut self, key: K, known: &Candidate) {
        unqueue(&mut self.queues, known, key);
        if let Some(own) = self.candidacies.get_mut(&known.link) {
            own.remove(&known.rank.1);
            if own.is_empty() {
                self.candidacies.remove(&known.link);
            }
        }
    }

    /// A connection is no longer a candidate for a key.
    fn leaves(&mut self, key: K, connection: ConnectionId, now: Time) -> Vec<ConnectionId> {
        let candidates = self.wants.get(&key).map_or(&[][..], |want| &want.candidates);
        let own = candidates.iter().find(|candidate| candidate.link == connection);
        let tag = own.map(|candidate| candidate.tag);
        tag.map_or(Vec::new(), |tag| self.failed(key, connection, tag, now))
    }

    /// The best request to `connection` that `fits`. `until` gets the answer's bytes and how many
    /// candidates were late, and returns when others may be asked and when it is no longer awaited.
    pub(crate) fn next_for(
        &mut self,
        connection: ConnectionId,
        fits: impl FnOnce(&K, u32) -> bool,
        until: impl FnOnce(u32, u32) -> (Time, Time),
    ) -> Option<Request<K>> {
        let &(_, key) = self.queues.get(&connection)?.first()?;
        let want = self.wants.get_mut(&key).expect("what is queued is wanted");
        let candidate = want.candidates.iter_mut().find(|candidate| candidate.link == connection);
        let candidate = candidate.expect("only candidates have it in their queue");
        let (tag, size) = (candidate.tag, candidate.size);
        if !fits(&key, size) {
            return None;
        }
        candidate.asked = true;
        let (alone, until) = until(size, want.late);
        want.until = want.until.max(until);
        self.change(key, State::InFlight(connection, alone, until));
        Some(Request { key, tag, size })
    }

    /// Whether `connection` could be asked for something.
    pub(crate) fn has_work(&self, connection: ConnectionId) -> bool {
        self.queues.get(&connection).is_some_and(|queue| !queue.is_empty())
    }

    /// `connection` does not have what it announced as `tag`: it is no longer a candidate, unless
    /// it has announced it again. Returns connections that may be asked now.
    #[must_use = "who may be asked has to be woken"]
    pub(crate) fn failed(
        &mut self,
        key: K,
        connection: ConnectionId,
        tag: u32,
        now: Time,
    ) -> Vec<ConnectionId> {
        let Some(want) = self.wants.get_mut(&key) else { return Vec::new() };
        let same = |known: &Candidate| (known.link, known.tag) == (connection, tag);
        let Some(known) = want.candidates.iter().position(same) else { return Vec::new() };
        let known = want.candidates.remove(known);
        let (state, nobody) = (want.state, want.candidates.is_empty());
        self.forget(key, &known);
        if nobody {
            self.resolved(key);
            return Vec::new();
        }
        match state {
            State::InFlight(asked, ..) if asked == connection => self.next_candidate(key, None),
            // The last untried candidate is gone: the others were asked, and may still answer.
            State::Idle if !self.has_untried(key) => self.next_candidate(key, Some(now)),
            State::Dialed(_) if !self.has_dialed(key) => self.next_candidate(key, Some(now)),
            _ => Vec::new(),
        }
    }

    /// `key` is no longer wanted: returns its candidates.
    pub(crate) fn resolved(&mut self, key: K) -> Vec<Candidate> {
        if !self.wants.contains_key(&key) {
            return Vec::new();
        }
        // In flight or exhausted it is in no queue, so this removes it from all.
        self.change(key, State::Exhausted(Time::ZERO));
        self.timers.remove(&(Time::ZERO, key));
        let candidates = self.wants.remove(&key).map(|want| want.candidates).unwrap_or_default();
        for candidate in &candidates {
            self.forget(key, candidate);
        }
        candidates
    }

    /// Whether `key` is wanted.
    #[cfg(test)]
    pub(crate) fn wants(&self, key: K) -> bool {
        self.wants.contains_key(&key)
    }

    /// Whether `connection` is a candidate for `key`.
    pub(crate) fn is_candidate(&self, key: K, connection: ConnectionId) -> bool {
        let want = self.wants.get(&key);
        want.is_some_and(|want| {
            want.candidates.iter().any(|candidate| candidate.link == connection)
        })
    }

    /// `connection` is gone. Returns connections that may be asked instead.
    #[must_use = "who may be asked has to be woken"]
    pub(crate) fn link_down(
        &mut self,
        connection: ConnectionId,
        now: Time,
    ) -> BTreeSet<ConnectionId> {
        let own = self.candidacies.get(&connection).into_iter().flat_map(BTreeMap::values);
        let own = own.copied().collect::<Vec<_>>();
        own.into_iter().flat_map(|key| self.leaves(key, connection, now)).collect()
    }

    /// How many keys a connection could be asked for, and how many there are.
    #[cfg(test)]
    pub(crate) fn counts(&self, connection: ConnectionId) -> (usize, usize) {
        (self.candidacies.get(&connection).map_or(0, BTreeMap::len), self.wants.len())
    }

    /// When to call [`Fetcher::expire`].
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Handles everything that has timed out.
    #[must_use = "who may be asked has to be woken"]
    pub(crate) fn expire(&mut self, now: Time) -> Expired<K> {
        let mut expired =
            Expired { wake: BTreeSet::new(), timed_out: Vec::new(), given_up: Vec::new() };
        while let Some(&(at, key)) = self.timers.first()
            && at <= now
        {
            match self.wants[&key].state {
                State::Exhausted(_) => expired.given_up.push((key, self.resolved(key))),
                State::InFlight(link, at, until) => {
                    let asked = self.wants[&key].candidates.iter().find(|c| c.link == link);
                    expired.timed_out.extend(asked.map(|candidate| (link, candidate.tag)));
                    if at < until && !self.has_untried(key) {
                        let again = until.min(now + LOOK_AGAIN);
                        self.change(key, State::InFlight(link, again, until));
                        continue;
                    }
                    if let Some(want) = self.wants.get_mut(&key) {
                        want.late = want.late.saturating_add(1);
                    }
                    expired.wake.extend(self.next_candidate(key, Some(now)));
                }
                State::Patient(_) => expired.wake.extend(self.next_candidate(key, Some(now))),
                State::Dialed(_) => {
                    self.change(key, State::Idle);
                    expired.wake.extend(self.untried(key));
                }
                State::Idle => unreachable!("it has no timer"),
            }
        }
        expired
    }

    /// Whether a key has an untried candidate.
    fn has_untried(&self, key: K) -> bool {
        self.wants[&key].candidates.iter().any(|candidate| !candidate.asked)
    }

    /// Whether a key has an untried dialed candidate.
    fn has_dialed(&self, key: K) -> bool {
        let dialed = |candidate: &Candidate| candidate.dialed && !candidate.asked;
        self.wants[&key].candidates.iter().any(dialed)
    }

    fn untried(&self, key: K) -> Vec<ConnectionId> {
        let untried = self.wants[&key].candidates.iter().filter(|candidate| !candidate.asked);
        untried.map(|candidate| candidate.link).collect()
    }

    /// Moves on to the untried candidates: they are returned; none means exhausted.
    fn next_candidate(&mut self, key: K, now: Option<Time>) -> Vec<ConnectionId> {
        let want = &self.wants[&key];
        let state = match now {
            Some(now) if want.late > 0 && self.has_dialed(key) => State::Dialed(now + DIALED_FIRST),
            _ if self.has_untried(key) => State::Idle,
            // Earlier candidates may still answer.
            _ => State::Exhausted(want.until.max(now.unwrap_or_default()) + GIVE_UP),
        };
        self.change(key, state);
        let queued = self.wants[&key].candidates.iter().filter(|one| one.is_queued(state));
        queued.map(|candidate| candidate.link).collect()
    }

    fn change(&mut self, key: K, state: State) {
        let want = self.wants.get_mut(&key).expect("the key is wanted");
        let before = std::mem::replace(&mut want.state, state);
        if let Some(at) = before.ends() {
            self.timers.remove(&(at, key));
        }
        if let Some(at) = state.ends() {
            self.timers.insert((at, key));
        }
        for candidate in want.candidates.iter().filter(|candidate| !candidate.asked) {
            if candidate.is_queued(state) {
                let queue = self.queues.entry(candidate.link).or_default();
                queue.insert((candidate.rank, key));
            } else {
                unqueue(&mut self.queues, candidate, key);
            }
        }
        // The one that is being asked was queued as well.
        if let State::InFlight(link, ..) = state
            && let Some(asked) = want.candidates.iter().find(|candidate| candidate.link == link)
        {
            unqueue(&mut self.queues, asked, key);
        }
    }
}

/// Removes a candidate from its queue, and the queue if it is empty.
fn unqueue<K: Ord>(queues: &mut Queues<K>, candidate: &Candidate, key: K) {
    if let Some(queue) = queues.get_mut(&candidate.link) {
        queue.remove(&(candidate.rank, key));
        if queue.is_empty() {
            queues.remove(&candidate.link);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn announce<K: Ord + Copy>(
        fetcher: &mut Fetcher<K>,
        (key, link, tag, priority, size): (K, ConnectionId, u32, u8, u32),
        patience: Option<Time>,
    ) -> Vec<ConnectionId> {
        let announced = Announced { key, link, tag, priority, size, dialed: false };
        fetcher.announced(announced, patience, Time::ZERO)
    }

    fn ask<K: Ord + Copy>(
        fetcher: &mut Fetcher<K>,
        connection: ConnectionId,
        until: Time,
    ) -> Option<K> {
        fetcher.next_for(connection, |_, _| true, |_, _| (until, until)).map(|request| request.key)
    }

    /// Not before a timeout, and not if it cannot be asked.
    #[test]
    fn dialed_peers_are_asked_first_after_a_timeout() {
        let (key, tag, priority, size) = (7, 0, 0, 100);
        let dialed = ConnectionId(9);
        let mut fetcher = Fetcher::new();
        for link in [A, B, ConnectionId(3), dialed, ConnectionId(4)] {
            let dialed = link == dialed;
            let announced = Announced { key, link, tag, priority, size, dialed };
            let _ = fetcher.announced(announced, None, Time::ZERO);
        }
        assert!([A, B, dialed].into_iter().all(|link| fetcher.has_work(link)));
        assert_eq!(ask(&mut fetcher, A, at(1_000)), Some(7));
        assert_eq!(fetcher.expire(at(1_000)).wake, [dialed].into());
        assert_eq!(ask(&mut fetcher, B, at(2_000)), None);
        assert_eq!(fetcher.deadline(), Some(at(1_050)));
        // A later announcement waits as well.
        announce(&mut fetcher, (7, ConnectionId(5), 0, 0, 100), None);
        assert!(!fetcher.has_work(ConnectionId(5)));
        assert_eq!(fetcher.expire(at(1_050)).wake.len(), 5);
        assert_eq!(ask(&mut fetcher, ConnectionId(5), at(1_300)), Some(7));
        // The timer fires again, and when that candidate is gone, others are asked at once.
        assert_eq!(fetcher.expire(at(1_300)).wake, [dialed].into());
        assert_eq!(fetcher.failed(7, dialed, 0, at(1_310)).len(), 3);
        assert_eq!(ask(&mut fetcher, B, at(2_000)), Some(7));
    }

    /// The failure of the second candidate used to shorten the first one's time.
    #[test]
    fn the_timeout_of_the_first_does_not_depend_on_others() {
        let mut fetcher = Fetcher::new();
        announce(&mut fetcher, (7, A, 0, 0, 100), None);
        announce(&mut fetcher, (7, B, 1, 0, 100), None);
        fetcher.next_for(A, |_, _| true, |_, _| (at(1_000), at(8_000))).unwrap();
        assert_eq!(fetcher.expire(at(1_000)).wake.len(), 1);
        fetcher.next_for(B, |_, _| true, |_, _| (at(1_500), at(1_500))).unwrap();
        let _ = fetcher.expire(at(1_500));
        let end = at(8_000) + GIVE_UP;
        assert_eq!(fetcher.deadline(), Some(end));
        assert_eq!(fetcher.expire(end).given_up.len(), 1);
    }

    /// A late candidate is awaited as long as there is no other.
    #[test]
    fn the_only_candidate_is_waited_for() {
        let mut fetcher = Fetcher::new();
        announce(&mut fetcher, (7, A, 0, 0, 100), None);
        fetcher.next_for(A, |_, _| true, |_, _| (at(1_000), at(3_000))).unwrap();
        for ms in [1_000, 1_250, 1_500] {
            assert_eq!(fetcher.deadline(), Some(at(ms)));
            let expired = fetcher.expire(at(ms));
            // It counts as late nevertheless: no room is kept for it.
            assert_eq!((expired.wake.len(), expired.timed_out), (0, vec![(A, 0)]));
        }
        announce(&mut fetcher, (7, B, 1, 0, 100), None);
        let expired = fetcher.expire(at(1_750));
        assert_eq!((expired.wake.len(), expired.timed_out), (1, vec![(A, 0)]));
        // The next has less time, and then there is no candidate left.
        let mut late = 0;
        let until = |_, was| {
            late = was;
            (at(2_000), at(5_000))
        };
        assert!(fetcher.next_for(B, |_, _| true, until).is_some());
        assert_eq!(late, 1);
        for n in 8..20 {
            let _ = fetcher.expire(at(n * 250));
            assert_eq!(fetcher.deadline(), Some(at((n + 1) * 250)));
        }
        let _ = fetcher.expire(at(5_000));
        assert_eq!(fetcher.deadline(), Some(at(5_000) + GIVE_UP));
    }

    #[test]
    fn the_best_is_asked_for_first_and_once() {
        let mut fetcher = Fetcher::new();
        announce(&mut fetcher, (10, A, 0, 5, 100), None);
        announce(&mut fetcher, (11, A, 1, 9, 100), None);
        announce(&mut fetcher, (12, A, 2, 9, 100), None);
        announce(&mut fetcher, (11, B, 0, 9, 100), None);
        let request = fetcher.next_for(A, |_, size| size == 100, |_, _| (at(10), at(10))).unwrap();
        assert_eq!(request, Request { key: 11, tag: 1, size: 100 });
        // In flight with A, so not requested from B.
        assert_eq!(ask(&mut fetcher, B, at(10)), None);
        assert_eq!(ask(&mut fetcher, A, at(10)), Some(12));
        assert_eq!(fetcher.next_for(A, |_, _| false, |_, _| (at(10), at(10))), None);
        assert_eq!(ask(&mut fetcher, A, at(10)), Some(10));
        assert!(!fetcher.has_work(A));
    }

    #[test]
    fn the_next_candidate_takes_over() {
        let mut fetcher = Fetcher::new();
        announce(&mut fetcher, (10, A, 0, 0, 1), None);
        announce(&mut fetcher, (10, B, 7, 0, 1), None);
        assert_eq!(ask(&mut fetcher, A, at(10)), Some(10));
        assert_eq!(fetcher.deadline(), Some(at(10)));
        assert!(fetcher.expire(at(9)).wake.is_empty());
        assert_eq!(fetcher.expire(at(10)).wake, [B].into());
        assert_eq!(ask(&mut fetcher, A, at(10)), None, "A was asked");
        assert_eq!(ask(&mut fetcher, B, at(20)), Some(10));
        assert!(fetcher.expire(at(20)).given_up.is_empty());
        let expired = fetcher.expire(at(20) + GIVE_UP);
        let tags = expired.given_up[0].1.iter().map(|c| (c.link, c.tag)).collect::<Vec<_>>();
        assert_eq!(tags, [(A, 0), (B, 7)]);
        assert!(!fetcher.wants(10));
        assert_eq!(fetcher.deadline(), None);
    }

    #[test]
    fn a_late_announcement_revives_what_was_exhausted() {
        let mut fetcher = Fetcher::new();
        announce(&mut fetcher, (10, A, 0, 0, 1), None);
        ask(&mut fetcher, A, at(10));
        let _ = fetcher.expire(at(10));
        announce(&mut fetcher, (10, B, 0, 0, 1), None);
        assert_eq!(ask(&mut fetcher, B, at(20)), Some(10));
        assert_eq!(fetcher.failed(10, B, 0, at(20)), []);
        assert!(fetcher.wants(10), "A may still answer");
        assert_eq!(fetcher.failed(10, A, 0, at(20)), []);
        assert!(!fetcher.wants(10));
    }

    #[test]
    fn patience_holds_the_first_request_back() {
        let mut fetcher = Fetcher::new();
        announce(&mut fetcher, (10, A, 0, 0, 1), Some(at(50)));
        announce(&mut fetcher, (10, B, 0, 0, 1), None);
        assert_eq!(ask(&mut fetcher, A, at(99)), None);
        assert_eq!(fetcher.expire(at(50)).wake, [A, B].into());
        assert_eq!(ask(&mut fetcher, B, at(99)), Some(10));
    }

    #[test]
    fn closed_connections_are_not_asked() {
        let mut fetcher = Fetcher::new();
        announce(&mut fetcher, (10, A, 0, 0, 1), None);
        announce(&mut fetcher, (10, B, 0, 0, 1), None);
        announce(&mut fetcher, (11, A, 1, 0, 1), None);
        ask(&mut fetcher, A, at(10));
        assert_eq!(fetcher.link_down(A, at(10)), [B].into());
        assert!(!fetcher.wants(11));
        assert_eq!(ask(&mut fetcher, B, at(10)), Some(10));
        assert!(!fetcher.is_candidate(10, A));
    }

    /// State without a permit must not grow with announcements: a connection evicts its own.
    #[test]
    fn wants_of_a_connection_are_bounded_and_displace_its_own() {
        let mut fetcher = Fetcher::bounded(3);
        announce(&mut fetcher, (0, B, 0, 0, 1), None);
        for key in 0..3 {
            announce(&mut fetcher, (key, A, 0, 0, 1), None);
        }
        assert_eq!((fetcher.counts(A), fetcher.counts(B)), ((3, 3), (1, 3)));
        assert_eq!(ask(&mut fetcher, A, at(10)), Some(0));
        // One past the bound: B may be asked for A's oldest key.
        assert_eq!(announce(&mut fetcher, (3, A, 0, 0, 1), None), [B]);
        assert_eq!((fetcher.counts(A), fetcher.counts(B)), ((3, 4), (1, 4)));
        for key in 4..1000 {
            announce(&mut fetcher, (key, A, 0, 0, 1), None);
        }
        assert_eq!(fetcher.counts(A), (3, 4));
        assert_eq!(ask(&mut fetcher, B, at(10)), Some(0));
        // The same key again takes no second place.
        announce(&mut fetcher, (999, A, 1, 0, 1), None);
        assert_eq!(fetcher.counts(A), (3, 4));
        let _ = fetcher.link_down(A, at(10));
        assert_eq!((fetcher.counts(A), fetcher.counts(B)), ((0, 1), (1, 1)));
        assert!(fetcher.queues.is_empty() && fetcher.timers.len() == 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Announce(u8, u8),
        Ask(u8),
        Fail(u8, u8),
        Resolve(u8),
        Down(u8),
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u8, 0..4u8).prop_map(|(k, l)| Step::Announce(k, l)),
            4 => (0..4u8).prop_map(Step::Ask),
            1 => (0..6u8, 0..4u8).prop_map(|(k, l)| Step::Fail(k, l)),
            1 => (0..6u8).prop_map(Step::Resolve),
            1 => (0..4u8).prop_map(Step::Down),
            2 => (0..4000u16).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a model that knows only who announced and who was asked.
        #[test]
        fn keys_are_neither_asked_for_twice_nor_forgotten(steps in prop::collection::vec(step(), 0..120)) {
            let mut fetcher = Fetcher::new();
            // Per key: link → asked; and who is being asked, until when.
            let mut model: BTreeMap<u8, BTreeMap<ConnectionId, bool>> = BTreeMap::new();
            let mut flights: BTreeMap<u8, (ConnectionId, Time)> = BTreeMap::new();
            let mut tags = BTreeMap::new();
            let mut now = Time::ZERO;
            for (tag, step) in steps.into_iter().enumerate() {
                let link = |l: u8| ConnectionId(u64::from(l));
                match step {
                    Step::Announce(k, l) => {
                        announce(&mut fetcher, (k, link(l), tag as u32, 0, 1), None);
                        model.entry(k).or_default().insert(link(l), false);
                        tags.insert((k, l), tag as u32);
                    }
                    Step::Ask(l) => {
                        let until = now + Duration::from_millis(1000);
                        if let Some(k) = ask(&mut fetcher, link(l), until) {
                            prop_assert!(!flights.contains_key(&k), "two in flight");
                            let asked = model.get_mut(&k).and_then(|m| m.get_mut(&link(l)));
                            prop_assert_eq!(asked.map(|asked| std::mem::replace(asked, true)), Some(false));
                            flights.insert(k, (link(l), until));
                        } else {
                            let open = model.iter().any(|(k, links)| {
                                !flights.contains_key(k) && links.get(&link(l)) == Some(&false)
                            });
                            prop_assert!(!open, "something could have been asked for");
                        }
                    }
                    Step::Fail(k, l) => {
                        let tag = tags.get(&(k, l)).copied().unwrap_or_default();
                        // An older announcement does not affect a newer one.
                        prop_assert!(fetcher.failed(k, link(l), tag.wrapping_sub(1), now).is_empty());
                        let _ = fetcher.failed(k, link(l), tag, now);
                        drop_link(&mut model, &mut flights, k, link(l));
                    }
                    Step::Resolve(k) => {
                        let candidates = fetcher.resolved(k).len();
                        prop_assert_eq!(candidates, model.remove(&k).map_or(0, |links| links.len()));
                        flights.remove(&k);
                    }
                    Step::Down(l) => {
                        let _ = fetcher.link_down(link(l), now);
                        for k in 0..6 {
                            drop_link(&mut model, &mut flights, k, link(l));
                        }
                    }
                    Step::Wait(ms) => {
                        now = now + Duration::from_millis(u64::from(ms));
                        for (k, candidates) in fetcher.expire(now).given_up {
                            let links = model.remove(&k).unwrap();
                            prop_assert_eq!(links.len(), candidates.len());
                            prop_assert!(links.values().all(|asked| *asked));
                        }
                        flights.retain(|_, (_, until)| *until > now);
                    }
                }
                for (k, links) in &model {
                    prop_assert!(fetcher.wants(*k) != links.is_empty());
                }
                prop_assert_eq!(fetcher.wants.len(), model.len());
                prop_assert!(fetcher.deadline().is_none_or(|at| at > now));
            }
        }
    }

    fn drop_link(
        model: &mut BTreeMap<u8, BTreeMap<ConnectionId, bool>>,
        flights: &mut BTreeMap<u8, (ConnectionId, Time)>,
        key: u8,
        connection: ConnectionId,
    ) {
        if flights.get(&key).is_some_and(|(asked, _)| *asked == connection) {
            flights.remove(&key);
        }
        if let Some(links) = model.get_mut(&key) {
            links.remove(&connection);
            if links.is_empty() {
                model.remove(&key);
                flights.remove(&key);
            }
        }
    }
}
