//! Admission of handshakes: inbound connections that are not established yet, and closed ones that
//! quinn has not forgotten.

use std::net::IpAddr;
use std::time::Duration;

use tidegate_proto::config::{FORGOTTEN, TLS_HANDSHAKES};
use tokio::sync::oneshot;

use crate::rt::Instant;

/// Concurrent inbound handshakes.
pub(super) const HANDSHAKES: usize = TLS_HANDSHAKES as usize;
/// From this number of handshakes on, a peer must first prove that it receives at its address.
const RETRY_FROM: usize = HANDSHAKES / 2;
/// Closed connections that quinn keeps until none of their packets can arrive any more (RFC 9000
/// section 10.2), which takes three times as long as it waits for an acknowledgment. At this number
/// no new ones are let in.
pub(super) const KEPT: usize = FORGOTTEN as usize;
/// The least time assumed for that when the path was not measured; for a peer that was slow in its
/// handshake it is longer in proportion.
const KEPT_FOR: Duration = Duration::from_secs(4);
/// Closed connections that are remembered with their groups: quinn may have forgotten some earlier.
const ENDED: usize = 4 * KEPT;
/// The interval between two starts of handshakes: one takes half a millisecond of a processor, and
/// connected peers must not wait for all that arrive at once. 200 a second are a tenth of a
/// processor.
const HANDSHAKE_PACE: Duration = Duration::from_millis(5);
/// From `RETRY_FROM` on, the most handshakes of one network group: others must find a place too.
const OF_ONE_GROUP: usize = HANDSHAKES / 4;
/// The same for closed connections, once half of the places are taken.
const KEPT_OF_ONE_GROUP: usize = KEPT / 4;
/// When all places are taken, how long a handshake may take before it is dropped for one of a group
/// with fewer: at most distances it is complete by then.
const SLOW: Duration = Duration::from_secs(1);

/// Addresses that are probably controlled by one party, as in the address book: 16 bits of an IPv4
/// address, 32 of an IPv6 address.
pub(super) type NetworkGroup = [u8; 5];

pub(super) fn network_group(ip: IpAddr) -> NetworkGroup {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            [4, a, b, 0, 0]
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.octets();
            [6, a, b, c, d]
        }
    }
}

/// What to do with a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Drop it silently.
    Ignore,
    /// Make its sender prove that it receives there (RFC 9000 section 8.1.2).
    Retry,
    /// Start its handshake.
    Begin,
}

/// A handshake in progress.
struct Handshake {
    number: u64,
    /// Its network group, if the peer has proven that it receives at its address: a forged address
    /// must not count against the peers that are really there.
    group: Option<NetworkGroup>,
    begun: Instant,
    /// Dropping it ends the handshake.
    _going: oneshot::Sender<()>,
}

impl Handshake {
    fn is_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= SLOW
    }
}

pub(super) struct Incoming {
    /// How long a closed connection is kept whose peer took this long for a round trip.
    kept_for: fn(Duration) -> Duration,
    handshakes: Vec<Handshake>,
    /// Inbound connections that ended lately: until when quinn may keep them, and their groups, if
    /// proven.
    ended: Vec<(Instant, Option<NetworkGroup>)>,
    last_number: u64,
    /// When the next handshake may start.
    next_handshake: Instant,
}

impl Incoming {
    pub(super) fn new(now: Instant, kept_for: fn(Duration) -> Duration) -> Self {
        Self {
            kept_for,
            handshakes: Vec::new(),
            ended: Vec::new(),
            last_number: 0,
            next_handshake: now,
        }
    }

    /// How many handshakes are in progress.
    #[cfg(feature = "quic")]
    pub(super) fn under_way(&self) -> usize {
        self.handshakes.len()
    }

    /// What to do with a first packet, while `kept` closed connections are kept, and strangers of
    /// these groups are so far away that theirs will be kept for long. `may_retry`: whether its
    /// sender can be asked to prove its address.
    pub(super) fn verdict(
        &mut self,
        now: Instant,
        kept: usize,
        far: &[NetworkGroup],
        group: Option<NetworkGroup>,
        may_retry: bool,
    ) -> Verdict {
        self.forget_ended(now);
        let full = self.handshakes.len() >= HANDSHAKES;
        if kept >= KEPT || full && !self.may_make_room(now, kept) {
            return Verdict::Ignore;
        }
        let crowded = kept + far.len() >= KEPT / 2;
        if self.handshakes.len() < RETRY_FROM && !crowded {
            return Verdict::Begin;
        }
        if may_retry {
            return Verdict::Retry;
        }
        let under_way = self.of_group(group);
        let ended = self.ended.iter().filter(|(_, other)| *other == group).count();
        let far = far.iter().filter(|other| Some(**other) == group).count();
        if under_way >= OF_ONE_GROUP || crowded && ended + far >= KEPT_OF_ONE_GROUP {
            return Verdict::Ignore;
        }
        if full && !self.make_room(now, under_way) {
            return Verdict::Ignore;
        }
        Verdict::Begin
    }

    fn of_group(&self, group: Option<NetworkGroup>) -> usize {
        self.handshakes.iter().filter(|other| other.group == group).count()
    }

    /// Whether a slow handshake may be dropped: quinn then keeps its connection for a while.
    fn may_make_room(&self, now: Instant, kept: usize) -> bool {
        kept < KEPT / 2 && self.handshakes.iter().any(|one| one.is_slow(now))
    }

    /// Drops the oldest handshake of the group that has most, for one of a group with fewer.
    fn make_room(&mut self, now: Instant, has: usize) -> bool {
        let crowded = |one: &&Handshake| (self.of_group(one.group), std::cmp::Reverse(one.begun));
        let worst = self.handshakes.iter().filter(|one| one.is_slow(now)).max_by_key(crowded);
        let Some(worst) = worst.filter(|one| self.of_group(one.group) > has + 1) else {
            return false;
        };
        let (number, group) = (worst.number, worst.group);
        let begun = self.end(number);
        self.has_come_to_nothing(now, begun, group);
        true
    }

    /// Starts a handshake: returns its number, how long it waits for its turn, and what resolves
    /// when it is dropped.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        group: Option<NetworkGroup>,
    ) -> (u64, Duration, oneshot::Receiver<()>) {
        let turn = self.next_handshake.max(now);
        self.next_handshake = turn + HANDSHAKE_PACE;
        self.last_number += 1;
        let (number, (going, given_up)) = (self.last_number, oneshot::channel());
        self.handshakes.push(Handshake { number, group, begun: now, _going: going });
        (number, turn.saturating_duration_since(now), given_up)
    }

    /// A handshake has ended in some way: returns when it was started.
    pub(super) fn end(&mut self, number: u64) -> Option<Instant> {
        let at = self.handshakes.iter().position(|other| other.number == number)?;
        Some(self.handshakes.swap_remove(at).begun)
    }

    /// A handshake that started then has failed, if that was not noted before.
    pub(super) fn has_come_to_nothing(
        &mut self,
        now: Instant,
        begun: Option<Instant>,
        group: Option<NetworkGroup>,
    ) {
        if let Some(begun) = begun {
            let round_trip = now.saturating_duration_since(begun);
            self.has_ended(now, (self.kept_for)(round_trip).max(KEPT_FOR), group);
        }
    }

    /// An inbound connection has ended, and is kept for this long.
    pub(super) fn has_ended(
        &mut self,
        now: Instant,
        kept_for: Duration,
        group: Option<NetworkGroup>,
    ) {
        self.forget_ended(now);
        if self.ended.len() >= ENDED
            && let Some(first) = self.ended.iter().map(|(until, _)| *until).min()
        {
            self.ended.retain(|(until, _)| *until != first);
        }
        self.ended.push((now + kept_for, group));
    }

    fn forget_ended(&mut self, now: Instant) {
        self.ended.retain(|(until, _)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<NetworkGroup> = Some([4, 1, 1, 0, 0]);
    const TWO: Option<NetworkGroup> = Some([4, 2, 2, 0, 0]);
    const THREE: Option<NetworkGroup> = Some([4, 3, 3, 0, 0]);

    /// Starts as many as possible, one after the other, with proven addresses or without.
    fn fill(
        incoming: &mut Incoming,
        now: Instant,
        group: Option<NetworkGroup>,
        most: usize,
    ) -> usize {
        let may = |incoming: &mut Incoming| {
            incoming.verdict(now, 0, &[], group, group.is_none()) == Verdict::Begin
        };
        (0..most)
            .take_while(|_| may(incoming).then(|| incoming.begin(now, group)).is_some())
            .count()
    }

    fn full(now: Instant) -> Incoming {
        let mut incoming = Incoming::new(now, |round_trip| round_trip * 30);
        assert_eq!(fill(&mut incoming, now, None, 100), RETRY_FROM);
        assert_eq!(fill(&mut incoming, now, ONE, 100), OF_ONE_GROUP);
        assert_eq!(fill(&mut incoming, now, TWO, 100), OF_ONE_GROUP);
        assert_eq!(incoming.under_way(), HANDSHAKES);
        incoming
    }

    #[test]
    fn draining_connections_count_against_the_limit() {
        let now = Instant::now();
        let mut incoming = Incoming::new(now, |round_trip| round_trip * 30);
        let mut verdict =
            |kept, group, may_retry| incoming.verdict(now, kept, &[], group, may_retry);
        assert_eq!(verdict(KEPT / 2 - 1, None, true), Verdict::Begin);
        // From half of the places on, peers must prove their address.
        assert_eq!(verdict(KEPT / 2, None, true), Verdict::Retry);
        assert_eq!(verdict(KEPT / 2, ONE, false), Verdict::Begin);
        assert_eq!(verdict(KEPT - 1, ONE, false), Verdict::Begin);
        assert_eq!(verdict(KEPT, ONE, false), Verdict::Ignore);
        // And one group may only have a part of them.
        for _ in 0..KEPT_OF_ONE_GROUP - 1 {
            incoming.has_ended(now, KEPT_FOR, ONE);
        }
        assert_eq!(incoming.verdict(now, KEPT / 2, &[], ONE, false), Verdict::Begin);
        incoming.has_ended(now, KEPT_FOR, ONE);
        assert_eq!(incoming.verdict(now, KEPT / 2, &[], ONE, false), Verdict::Ignore);
        assert_eq!(incoming.verdict(now, KEPT / 2 - 1, &[], ONE, false), Verdict::Begin);
        assert_eq!(incoming.verdict(now, KEPT / 2, &[], TWO, false), Verdict::Begin);
        let later = now + KEPT_FOR;
        assert_eq!(incoming.verdict(later, KEPT / 2, &[], ONE, false), Verdict::Begin);
    }

    /// Regression: a single host that answered late, and then nothing, could cause as many to end
    /// at once as are kept.
    #[test]
    fn strangers_that_are_far_away_count_as_if_they_were_kept() {
        let now = Instant::now();
        let mut incoming = Incoming::new(now, |round_trip| round_trip * 30);
        let [one, two] = [ONE, TWO].map(Option::unwrap);
        let mut verdict = |far: &[NetworkGroup], group: Option<NetworkGroup>| {
            incoming.verdict(now, 0, far, group, group.is_none())
        };
        assert_eq!(verdict(&vec![one; KEPT / 2 - 1], None), Verdict::Begin);
        let mut far = vec![one; KEPT / 2];
        assert_eq!(verdict(&far, None), Verdict::Retry);
        assert_eq!(verdict(&far, ONE), Verdict::Ignore);
        assert_eq!(verdict(&far, TWO), Verdict::Begin);
        far[KEPT_OF_ONE_GROUP - 1..].fill(two);
        assert_eq!(verdict(&far, ONE), Verdict::Begin);
        far[KEPT_OF_ONE_GROUP - 1] = one;
        assert_eq!(verdict(&far, ONE), Verdict::Ignore);
    }

    #[test]
    fn slow_handshakes_make_room_for_other_groups() {
        let now = Instant::now();
        let mut incoming = full(now);
        let soon = now + SLOW - Duration::from_millis(1);
        for may_retry in [true, false] {
            assert_eq!(incoming.verdict(soon, 0, &[], THREE, may_retry), Verdict::Ignore);
        }
        let late = now + SLOW;
        assert_eq!(incoming.verdict(late, 0, &[], None, true), Verdict::Retry);
        assert_eq!(incoming.verdict(late, 0, &[], ONE, false), Verdict::Ignore);
        // Not while that many are kept: a dropped one becomes one of them.
        assert_eq!(incoming.verdict(late, KEPT / 2, &[], THREE, false), Verdict::Ignore);
        let mut let_in = 0;
        while incoming.verdict(late, 0, &[], THREE, false) == Verdict::Begin {
            incoming.begin(late, THREE);
            let_in += 1;
            assert_eq!(incoming.under_way(), HANDSHAKES);
        }
        assert_eq!(let_in, OF_ONE_GROUP);
        // Unproven ones were the largest group.
        assert_eq!([None, ONE, TWO].map(|group| incoming.of_group(group)), [16, 16, 16]);
        // All groups have as many: for another one, none is slow and larger by two.
        let four = Some([4, 4, 4, 0, 0]);
        assert_eq!(incoming.verdict(late, 0, &[], four, false), Verdict::Begin);
    }

    #[tokio::test]
    async fn evicted_handshakes_are_told() {
        let now = Instant::now();
        let mut incoming = Incoming::new(now, |round_trip| round_trip * 30);
        let (_, _, first) = incoming.begin(now, None);
        for _ in 1..RETRY_FROM {
            incoming.begin(now + Duration::from_millis(1), None);
        }
        fill(&mut incoming, now, ONE, OF_ONE_GROUP);
        fill(&mut incoming, now, TWO, OF_ONE_GROUP);
        assert_eq!(incoming.verdict(now + 2 * SLOW, 0, &[], THREE, false), Verdict::Begin);
        assert!(first.await.is_err());
    }
}
