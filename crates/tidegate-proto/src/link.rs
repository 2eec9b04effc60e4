//! Connections as the channels see them: who is connected, which channels can send, and whose turn
//! it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::channel::Kind;
use crate::id::{Address, ConnectionId, PeerId, Salt};
use crate::io::{Direction, Path};
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{Goodbye, Held, Refusal};

/// The round trip assumed before one is measured: that between continents.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);
/// How long one peer may keep a request to itself that others could answer, beside the time that
/// its bytes take. Round trip and rate are measured on the peer's own answers, so without this cap
/// a peer that is slow on purpose could delay whatever it is asked first.
pub(crate) const EXCLUSIVE: Duration = Duration::from_secs(1);
/// How often that time is halved while one peer after the other times out.
const HALVED_MOST: u32 = 2;
/// Bytes a second assumed before a rate is measured: a slow home line.
const FIRST_RATE: u64 = 1 << 20;
/// The least rate assumed for this node's line when deciding whether to ask a second peer: all
/// peers with measured rates may be slow on purpose. On a slower line more is requested twice.
const LEAST_RATE: u64 = 128 << 10;
/// How far a link may be ahead of its share of the work, so that bursts are handled at once.
const AHEAD: Duration = Duration::from_millis(100);
/// The longest rest: what a link can be charged at once is bounded, whatever the work costs.
const REST_MOST: Duration = Duration::from_secs(1);
/// How often the links that cause work are counted.
const COUNT_AGAIN: Duration = Duration::from_millis(50);
/// Smaller answers measure the round trip rather than the rate.
const RATE_SAMPLE: u64 = 4 << 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) direction: Direction,
    pub(crate) address: Address,
    pub(crate) path: Path,
    pub(crate) since: Time,
    /// Channel instances, ascending by number; control is the first.
    pub(crate) slots: Vec<Slot>,
    /// The slot after control at which the search for the next frame starts.
    turn: usize,
    queued: bool,
    /// The hello is complete.
    pub(crate) up: bool,
    /// Set when the connection is to be ended at the end of the current step, or has been.
    ending: Option<Ending>,
    /// The peer's executed tip, as it claims.
    pub(crate) held: Option<Held>,
    /// The peer's salt: the key of ids announced to it.
    pub(crate) salt: Salt,
    /// When the last frame arrived.
    pub(crate) heard: Time,
    round_trip: Option<Duration>,
    rate: u64,
    /// `rate` was measured.
    has_rate: bool,
    /// When the work it caused would be finished if each link had an equal share of the processor.
    worked_until: Time,
    /// Nothing is done for it until then, since it caused more than its share.
    rest_until: Time,
    /// Its entry in [`Links::resting`], if it has work waiting.
    rests: Option<Time>,
}

/// Why this node ends a connection; sent to the peer as the last message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The peer is not admitted.
    Refusal(Refusal),
    /// The connection was in order and is no longer wanted.
    Goodbye(Goodbye),
    /// The peer broke the protocol.
    Violation(Violation),
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<Goodbye> for Ending {
    fn from(goodbye: Goodbye) -> Self {
        Self::Goodbye(goodbye)
    }
}

impl From<Violation> for Ending {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// A channel instance of a connection.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    /// The index of the pool, for pool channels.
    pub(crate) index: usize,
    pub(crate) version: u32,
    /// The transport can take a frame.
    writable: bool,
    /// The channel may have a frame to send.
    dirty: bool,
}

impl Slot {
    pub(crate) fn new(number: u32, kind: Kind, index: usize, version: u32) -> Self {
        Self { number, kind, index, version, writable: true, dirty: false }
    }
}

/// One channel of one connection: what the functions of a channel are called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub(crate) link: ConnectionId,
    pub(crate) slot: usize,
    /// The index of the pool, for pool channels.
    pub(crate) index: usize,
}

impl Link {
    pub(crate) fn new(
        peer: PeerId,
        direction: Direction,
        address: Address,
        path: Path,
        now: Time,
    ) -> Self {
        Self {
            peer,
            direction,
            address,
            path,
            since: now,
            slots: vec![Slot::new(0, Kind::Control, 0, 1)],
            turn: 0,
            queued: false,
            up: false,
            ending: None,
            held: None,
            salt: Salt([0; 16]),
            heard: now,
            round_trip: None,
            rate: FIRST_RATE,
            has_rate: false,
            worked_until: now,
            rest_until: now,
            rests: None,
        }
    }

    /// Why the connection is being ended, if it is ([`Links::end`]).
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Stops requests to the peer.
    pub(crate) fn retire(&mut self) {
        self.held = None;
        self.up = false;
    }

    /// The height of the peer's executed tip.
    pub(crate) fn height(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.height)
    }

    pub(crate) fn slot_of(&self, number: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.number == number)
    }

    /// The measured round trip, if any.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Adds a sample of the round trip with weight 1/8, as TCP does.
    pub(crate) fn measured(&mut self, sample: Duration) {
        self.round_trip = Some(self.round_trip.map_or(sample, |known| (known * 7 + sample) / 8));
    }

    fn likely_round_trip(&self) -> Duration {
        self.round_trip.unwrap_or(FIRST_ROUND_TRIP)
    }

    /// Adds a sample of the rate: an answer of `bytes` bytes took this long.
    pub(crate) fn measured_rate(&mut self, bytes: u64, took: Duration) {
        let sending = took.saturating_sub(self.likely_round_trip()).as_micros().max(1) as u64;
        if bytes >= RATE_SAMPLE {
            let sample = bytes.saturating_mul(1_000_000) / sending;
            self.rate = (self.rate / 8 * 7 + sample / 8).max(1);
            self.has_rate = true;
        }
    }

    /// When the work it caused would be finished, if that is in the future.
    pub(crate) fn works_until(&self, now: Time) -> Option<Time> {
        Some(self.worked_until).filter(|until| *until > now)
    }

    /// Carries over the work that earlier connections of the same peer have caused.
    pub(crate) fn owes(mut self, until: Option<Time>) -> Self {
        self.worked_until = self.worked_until.max(until.unwrap_or_default());
        self
    }

    /// Until when it rests, if it was too far ahead of its share of the work. What waits meanwhile
    /// is then done in one batch, which costs less than one thing after the other.
    fn must_rest_until(&self, now: Time) -> Option<Time> {
        Some(self.rest_until).filter(|until| *until > now)
    }

    /// The timeout of an answer of `bytes` bytes: two round trips and two sending times, and a
    /// quarter of a second for a busy peer.
    fn patience(&self, bytes: u32) -> Duration {
        let sending = Duration::from_micros(u64::from(bytes) * 2_000_000 / self.rate);
        let patience = self.likely_round_trip() * 2 + sending + Duration::from_millis(250);
        patience.min(Duration::from_secs(8))
    }

    /// How long no other peer is asked for an answer of `bytes` bytes, although others could be,
    /// when `late` peers have timed out on it already. It is a round trip at least, or others would
    /// be asked while the answer is on its way; but it is halved once a peer was late, since this
    /// one may be slow on purpose too. All peers share this node's line, so the time for the bytes
    /// is that of the `fastest`.
    fn exclusive(&self, bytes: u32, late: u32, fastest: u64) -> Duration {
        let sending = Duration::from_micros(u64::from(bytes) * 1_000_000 / fastest.max(1));
        let least = (self.likely_round_trip() * 5 / 4).min(EXCLUSIVE / (1 << late.min(1)));
        self.patience(bytes).min((EXCLUSIVE / (1 << late.min(HALVED_MOST))).max(least) + sending)
    }

    /// When another peer is asked for an answer of `bytes` bytes on which `late` peers have timed
    /// out, and when the answer times out.
    pub(crate) fn waits(&self, bytes: u32, late: u32, fastest: u64, now: Time) -> (Time, Time) {
        (now + self.exclusive(bytes, late, fastest), now + self.patience(bytes))
    }
}

/// Whether work that would be finished then is more than a link may be ahead of its share.
pub(crate) fn is_much(worked_until: Time, now: Time) -> bool {
    worked_until > now + AHEAD
}

/// A delay of up to [`AHEAD`], to spread the ends of rests. Links that begin to rest together would
/// otherwise end together, and all their waiting work would delay the links within their shares.
fn spread(id: ConnectionId, now: Time) -> Duration {
    let mixed = (id.0 ^ now.as_micros()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Duration::from_micros((AHEAD.as_micros() as u64 * mixed) >> 32)
}

/// All connections, and the queue of those that may have a frame to send.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: BTreeMap<ConnectionId, Link>,
    ready: VecDeque<ConnectionId>,
    /// Connections to end at the end of the current step, in the order of the calls to
    /// [`Links::end`].
    endings: VecDeque<ConnectionId>,
    /// Connections with waiting work that have caused more than their share, and until when they
    /// rest.
    resting: BTreeSet<(Time, ConnectionId)>,
    /// A connection has begun to rest since [`Links::has_begun_to_rest`] was called.
    begun_to_rest: bool,
    /// How many links cause work, at the last count.
    working: u32,
    counted: Time,
    /// The two highest measured rates in bytes a second, at the last count.
    fastest: [Option<(u64, ConnectionId)>; 2],
}

impl Links {
    pub(crate) fn insert(&mut self, id: ConnectionId, link: Link) {
        self.links.insert(id, link);
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Link> {
        let link = self.links.remove(&id)?;
        if let Some(until) = link.rests {
            self.resting.remove(&(until, id));
        }
        Some(link)
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Link)> + Clone {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    /// Marks a connection to be ended. `node` ends it at the end of the current step: ending closes
    /// its channels, which would change what the caller is working on. The first reason is kept.
    pub(crate) fn end(&mut self, id: ConnectionId, ending: impl Into<Ending>) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.ending.is_none()) else {
            return;
        };
        link.ending = Some(ending.into());
        link.retire();
        self.endings.push_back(id);
    }

    /// The next connection to end, and why.
    pub(crate) fn next_ending(&mut self) -> Option<(ConnectionId, Ending)> {
        std::iter::from_fn(|| self.endings.pop_front())
            .find_map(|id| Some((id, self.links.get(&id)?.ending.clone()?)))
    }

    /// Charges a link with `steps` steps for an unrequested message. A link may be ahead of its
    /// share by [`AHEAD`]. Beyond that it rests: its permits return later, so it sends less.
    pub(crate) fn worked(&mut self, id: ConnectionId, steps: u64, a_second: u32, now: Time) {
        if now.since(self.counted) >= COUNT_AGAIN {
            let working = self.links.values().filter(|link| link.worked_until > now).count();
            (self.working, self.counted) = (working as u32, now);
            self.fastest = [None; 2];
            for (id, link) in self.links.iter().filter(|(_, link)| link.has_rate) {
                let rate = Some((link.rate, *id));
                let [first, second] = self.fastest;
                self.fastest = if rate > first { [rate, first] } else { [first, rate.max(second)] };
            }
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let micros = steps.saturating_mul(u64::from(self.working.max(1)) * 1_000_000);
        let took = Duration::from_micros(micros / u64::from(a_second.max(1)));
        link.worked_until = (link.worked_until.max(now) + took).min(now + REST_MOST);
        if is_much(link.worked_until, now) {
            link.rest_until = link.worked_until + spread(id, now);
        }
    }

    /// The bytes a second that this node's line can take, as measured with peers other than this
    /// one, within [`LEAST_RATE`] and [`FIRST_RATE`].
    pub(crate) fn fastest(&self, but: ConnectionId) -> u64 {
        let others = self.fastest.iter().flatten().filter(|(_, id)| *id != but);
        let fastest = others.map(|(rate, _)| *rate).max();
        fastest.map_or(FIRST_RATE, |fastest| fastest.clamp(LEAST_RATE, FIRST_RATE))
    }

    /// Whether this node dialed the connection: then no stranger could choose who the peer is.
    pub(crate) fn was_dialed(&self, id: ConnectionId) -> bool {
        self.links.get(&id).is_some_and(|link| !link.direction.is_inbound())
    }

    /// Whether the peer dialed the connection.
    pub(crate) fn was_accepted(&self, id: ConnectionId) -> bool {
        self.links.get(&id).is_some_and(|link| link.direction.is_inbound())
    }

    /// How many steps a link can be charged with before it rests.
    pub(crate) fn room(&self, id: ConnectionId, a_second: u32, now: Time) -> u64 {
        let ahead = self.links.get(&id).map_or(now, |link| link.worked_until);
        let left = (now + AHEAD).since(ahead).as_micros() as u64;
        left * u64::from(a_second) / (u64::from(self.working.max(1)) * 1_000_000)
    }

    /// Whether a link has begun to rest since the last call: then the queues skip it.
    pub(crate) fn has_begun_to_rest(&mut self) -> bool {
        std::mem::take(&mut self.begun_to_rest)
    }

    /// When the first rest ends.
    pub(crate) fn rests_until(&self) -> Option<Time> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Ends the rests that are over.
    pub(crate) fn rested(&mut self, now: Time) {
        while let Some(&(until, id)) = self.resting.first()
            && until <= now
        {
            self.resting.pop_first();
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.rests = None;
            for slot in 0..link.slots.len() {
                if self.links[&id].slots[slot].dirty {
                    self.wake(id, slot);
                }
            }
        }
    }

    /// The channels of a connection.
    pub(crate) fn channels(&self, id: ConnectionId) -> Vec<(Kind, Instance)> {
        let slots = self.links.get(&id).map_or(&[][..], |link| &link.slots);
        let at = |(slot, s): (usize, &Slot)| (s.kind, Instance { link: id, slot, index: s.index });
        slots.iter().enumerate().map(at).collect()
    }

    /// Notes that a channel may have something to send.
    pub(crate) fn wake(&mut self, id: ConnectionId, slot: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(slot) = link.slots.get_mut(slot) else { return };
        slot.dirty = true;
        if slot.writable && !link.queued {
            link.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Whether a channel could send a frame: the transport can take one, and the link does not
    /// rest.
    pub(crate) fn may_send(&self, at: Instance, now: Time) -> bool {
        let Some(link) = self.links.get(&at.link) else { return false };
        link.slots.get(at.slot).is_some_and(|slot| slot.writable)
            && link.must_rest_until(now).is_none()
    }

    /// Notes that the transport can take the next frame of a channel.
    pub(crate) fn writable(&mut self, id: ConnectionId, number: u32) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(at) = link.slot_of(number) else { return };
        link.slots[at].writable = true;
        if link.slots[at].dirty {
            self.wake(id, at);
        }
    }

    /// The channel to poll for the next frame: connections in turn; of one connection control
    /// first, then the others in turn. The channel counts as having more until [`Links::clean`].
    pub(crate) fn next(&mut self, now: Time) -> Option<(Kind, Instance)> {
        while let Some(&id) = self.ready.front() {
            let rests = self.links.get(&id).and_then(|link| link.must_rest_until(now));
            let found = self.links.get_mut(&id).and_then(|link| {
                let count = if rests.is_some() { 1 } else { link.slots.len() };
                let others = (0..count - 1).map(|i| 1 + (link.turn + i) % (count - 1));
                std::iter::once(0)
                    .chain(others)
                    .find(|at| link.slots[*at].dirty && link.slots[*at].writable)
            });
            let Some(slot) = found else {
                self.ready.pop_front();
                if let Some(link) = self.links.get_mut(&id) {
                    link.queued = false;
                    if let (Some(until), None) = (rests, link.rests) {
                        link.rests = Some(until);
                        self.resting.insert((until, id));
                        self.begun_to_rest = true;
                    }
                }
                continue;
            };
            let found = &self.links[&id].slots[slot];
            return Some((found.kind, Instance { link: id, slot, index: found.index }));
        }
        None
    }

    /// Notes that the channel has nothing to send.
    pub(crate) fn clean(&mut self, at: Instance) {
        if let Some(link) = self.links.get_mut(&at.link) {
            link.slots[at.slot].dirty = false;
        }
    }

    /// Notes that a frame of the channel leaves, and passes the turn to the next connection.
    /// Returns the channel's number.
    pub(crate) fn sent(&mut self, at: Instance) -> u32 {
        let link = self.links.get_mut(&at.link).expect("it has just been asked");
        link.slots[at.slot].writable = false;
        if at.slot > 0 {
            link.turn = at.slot;
        }
        self.ready.rotate_left(1);
        link.slots[at.slot].number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn links() -> Links {
        let mut links = Links::default();
        for id in [A, B] {
            let peer = PeerId([0; 32]);
            let address = Address(Default::default());
            let mut link = Link::new(peer, Direction::Inbound, address, Path::Direct, Time::ZERO);
            for index in 0..3 {
                link.slots.push(Slot::new(16 + index as u32, Kind::Pool, index, 1));
            }
            links.insert(id, link);
        }
        links
    }

    fn next(links: &mut Links) -> Option<(ConnectionId, usize)> {
        let (_, at) = links.next(Time::ZERO)?;
        links.sent(at);
        Some((at.link, at.slot))
    }

    #[test]
    fn connections_and_channels_take_turns() {
        let mut links = links();
        for id in [A, B] {
            for slot in [3, 2, 1] {
                links.wake(id, slot);
            }
        }
        let mut order = Vec::new();
        while let Some((id, slot)) = next(&mut links) {
            order.push((id, slot));
            // The transport is fast, and both channels always have more to send.
            if order.len() < 12 {
                links.writable(id, 15 + slot as u32);
            }
        }
        let channels =
            |of| order.iter().filter(|(id, _)| *id == of).map(|(_, s)| *s).collect::<Vec<_>>();
        assert_eq!(channels(A)[..6], [1, 2, 3, 1, 2, 3]);
        assert_eq!(channels(A)[..6], channels(B)[..6]);
        assert!(order.windows(2).take(11).all(|pair| pair[0].0 != pair[1].0));
    }

    #[test]
    fn control_goes_first_and_the_unwritable_wait() {
        let mut links = links();
        links.wake(A, 2);
        links.wake(A, 0);
        assert_eq!(next(&mut links), Some((A, 0)));
        assert_eq!(next(&mut links), Some((A, 2)));
        links.wake(A, 2);
        assert_eq!(next(&mut links), None);
        links.writable(A, 17);
        let (_, at) = links.next(Time::ZERO).unwrap();
        links.clean(at);
        assert_eq!(next(&mut links), None);
    }

    #[test]
    fn connections_over_their_share_of_work_rest() {
        let at = |ms: u64| Time::from_micros(ms * 1000);
        let mut links = links();
        // 1,000 steps a second: a tenth of a second ahead is 100.
        (0..100).for_each(|_| links.worked(A, 1, 1000, at(1000)));
        links.wake(A, 1);
        assert!(links.next(at(1000)).is_some());
        links.worked(A, 1, 1000, at(1000));
        links.wake(B, 1);
        // Control is still polled, and so are other links.
        links.wake(A, 0);
        let next = |links: &mut Links, ms| {
            let (_, at) = links.next(at(ms))?;
            links.sent(at);
            Some((at.link, at.slot))
        };
        assert_eq!(next(&mut links, 1000), Some((A, 0)));
        assert_eq!(next(&mut links, 1000), Some((B, 1)));
        assert_eq!(next(&mut links, 1000), None);
        // All of its work would be finished by then.
        assert_eq!(links.rests_until(), Some(at(1101) + spread(A, at(1000))));
        links.rested(at(1101));
        assert_eq!(next(&mut links, 1101), None);
        links.rested(at(1201));
        assert_eq!(next(&mut links, 1201), Some((A, 1)));
        assert_eq!(links.rests_until(), None);
        let spreads = (0..50).map(|n| spread(ConnectionId(n), at(7))).collect::<BTreeSet<_>>();
        assert!(spreads.len() == 50 && spreads.iter().all(|spread| *spread < AHEAD));
        // Two that cause work share the processor: 51 steps take as long as 102.
        links.worked(A, 80, 1000, at(1201));
        (0..2).for_each(|_| links.worked(B, 40, 1000, at(1201)));
        assert_eq!((links.room(A, 1000, at(1201)), links.room(B, 1000, at(1241))), (20, 60));
        links.worked(B, 1, 1000, at(1255));
        assert_eq!(links.working, 2);
        assert_eq!(links.room(A, 1000, at(1241)), 30);
        let before = links.links[&B].worked_until;
        links.worked(B, 51, 1000, at(1255));
        assert_eq!(links.links[&B].worked_until.since(before), Duration::from_millis(102));
    }

    #[test]
    fn rests_are_bounded() {
        let mut links = links();
        let now = Time::from_micros(1_000_000);
        links.worked(A, u64::MAX, 1, now);
        links.wake(A, 1);
        assert_eq!(links.next(now), None);
        assert!(links.has_begun_to_rest() && !links.has_begun_to_rest());
        let until = now + REST_MOST + spread(A, now);
        assert_eq!(links.rests_until(), Some(until));
        let slot = Instance { link: A, slot: 1, index: 0 };
        assert!(!links.may_send(slot, now + REST_MOST) && links.may_send(slot, until));
    }

    /// Regression: the only known rates were those of two peers that answered slowly on purpose.
    #[test]
    fn a_line_is_not_taken_to_be_slower_than_most() {
        let mut links = links();
        for id in [A, B] {
            let link = links.get_mut(id).unwrap();
            (0..200).for_each(|_| link.measured_rate(RATE_SAMPLE, Duration::from_secs(8)));
        }
        links.worked(A, 1, 1000, Time::from_micros(2_000_000));
        assert_eq!(links.fastest(A), LEAST_RATE);
        // A frame adds half a second to the time before another peer is asked.
        let exclusive = links.links[&A].exclusive(64 << 10, 0, LEAST_RATE);
        assert_eq!(exclusive, EXCLUSIVE + Duration::from_millis(500));
    }
}
