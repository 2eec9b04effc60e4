//! Who may begin a handshake: connections of others that have not come to anything yet, and those that
//! have ended and that quinn has not forgotten.

use std::net::IpAddr;
use std::time::Duration;

use tidegate_proto::config::{FORGOTTEN, TLS_HANDSHAKES};
use tokio::sync::oneshot;

use super::watch::kept_for;
use crate::rt::Instant;

/// Handshakes of peers at once.
pub(super) const HANDSHAKES: usize = TLS_HANDSHAKES as usize;
/// From this number on, a peer must first show that it receives at its address.
const RETRY_FROM: usize = HANDSHAKES / 2;
/// Connections that are closed, and that quinn keeps until no more of their packets can come (RFC 9000
/// section 10.2): three times as long as it waits for an acknowledgment. Beyond them nobody new comes.
pub(super) const KEPT: usize = FORGOTTEN as usize;
/// How long at least, if the round trip is not known; otherwise in proportion to the handshake's.
const KEPT_FOR: Duration = Duration::from_secs(4);
/// Ended connections that are remembered with their groups. quinn may forget one sooner, but does not say when.
const ENDED: usize = 4 * KEPT;
/// Between the beginnings of two: one takes half a millisecond of a processor, and those who are
/// connected must not wait for all that come at once. 200 a second are a tenth of a processor.
const HANDSHAKE_PACE: Duration = Duration::from_millis(5);
/// Between two first packets that are looked at: keys are derived for each and an answer is made. Those
/// of a flood wait in quinn, which drops what is too much before it derives any keys. With 10,000 a
/// second a quarter of a processor goes into all of them (`--bench siege`, half-open).
const FIRST_PACE: Duration = Duration::from_micros(200);
/// How far the pace may be behind: 40 that come at once are looked at at once.
const FIRST_BEHIND: Duration = Duration::from_millis(8);
/// From `RETRY_FROM` on addresses of one network group have at most this number: others must find a place too.
const OF_ONE_GROUP: usize = HANDSHAKES / 4;
/// The same, of those that are kept, from half of them on.
const KEPT_OF_ONE_GROUP: usize = KEPT / 4;
/// How long a handshake may take before it makes room for one of a group with fewer, when all places are taken: at most
/// distances it is over in less.
const SLOW: Duration = Duration::from_secs(1);

/// Addresses that are probably in one hand, as in the address book: 16 bits of an IPv4 address, 32 of
/// an IPv6 address.
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

/// What becomes of a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is kept of it, and nothing is sent.
    Ignore,
    /// Its sender must show that it receives there (RFC 9000 section 8.1.2).
    Retry,
    /// Its handshake begins.
    Begin,
}

/// A handshake that is under way.
struct Handshake {
    number: u64,
    /// The network group of one that has shown that it receives at its address: what is only claimed must
    /// not count against who is there.
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
    handshakes: Vec<Handshake>,
    /// The connections of others that ended lately, until when they may be kept, and their groups in the same
    /// way.
    ended: Vec<(Instant, Option<NetworkGroup>)>,
    last_number: u64,
    /// When the next handshake may begin.
    next_handshake: Instant,
    /// When the next first packet is looked at.
    next_first: Instant,
}

impl Incoming {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            handshakes: Vec::new(),
            ended: Vec::new(),
            last_number: 0,
            next_handshake: now,
            next_first: now,
        }
    }

    /// How long the next first packet has to wait until it is looked at.
    pub(super) fn first_wait(&mut self, now: Instant) -> Duration {
        let behind = now.checked_sub(FIRST_BEHIND).unwrap_or(now);
        self.next_first = behind.max(self.next_first + FIRST_PACE);
        self.next_first.saturating_duration_since(now)
    }

    /// Handshakes that are under way.
    pub(super) fn under_way(&self) -> usize {
        self.handshakes.len()
    }

    /// Decides about a first packet. `kept` closed connections are kept; `far` are the groups of unfinished
    /// connections whose round trip is so long that they will be kept for long; `may_retry` says whether the
    /// sender can be asked to validate its address.
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

    /// Whether a slow handshake may be given up: quinn keeps each for a while.
    fn may_make_room(&self, now: Instant, kept: usize) -> bool {
        kept < KEPT / 2 && self.handshakes.iter().any(|one| one.is_slow(now))
    }

    /// Gives up the oldest handshake of the group that has the most, to make room for a group with fewer.
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

    /// A handshake begins: its number, how long it waits for its turn, and a receiver that ends when it is
    /// given up.
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

    /// A handshake has ended, in whatever way: when it had begun.
    pub(super) fn end(&mut self, number: u64) -> Option<Instant> {
        let at = self.handshakes.iter().position(|other| other.number == number)?;
        Some(self.handshakes.swap_remove(at).begun)
    }

    /// A handshake came to nothing that had begun then, if that was not noted before.
    pub(super) fn has_come_to_nothing(
        &mut self,
        now: Instant,
        begun: Option<Instant>,
        group: Option<NetworkGroup>,
    ) {
        if let Some(begun) = begun {
            let round_trip = now.saturating_duration_since(begun);
            self.has_ended(now, kept_for(round_trip).max(KEPT_FOR), group);
        }
    }

    /// A connection of another has ended, and is kept for so long.
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

    /// Begins as many as it may, one after the other, of those who have or have not shown where they are.
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
        let mut incoming = Incoming::new(now);
        assert_eq!(fill(&mut incoming, now, None, 100), RETRY_FROM);
        assert_eq!(fill(&mut incoming, now, ONE, 100), OF_ONE_GROUP);
        assert_eq!(fill(&mut incoming, now, TWO, 100), OF_ONE_GROUP);
        assert_eq!(incoming.under_way(), HANDSHAKES);
        incoming
    }

    #[test]
    fn draining_connections_count_against_the_limit() {
        let now = Instant::now();
        let mut incoming = Incoming::new(now);
        let mut verdict =
            |kept, group, may_retry| incoming.verdict(now, kept, &[], group, may_retry);
        assert_eq!(verdict(KEPT / 2 - 1, None, true), Verdict::Begin);
        // From half of them on who comes must show where it is.
        assert_eq!(verdict(KEPT / 2, None, true), Verdict::Retry);
        assert_eq!(verdict(KEPT / 2, ONE, false), Verdict::Begin);
        assert_eq!(verdict(KEPT - 1, ONE, false), Verdict::Begin);
        assert_eq!(verdict(KEPT, ONE, false), Verdict::Ignore);
        // And one group has a part of them.
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

    /// One host that answers late, and says nothing, could let as many end at once as are kept.
    #[test]
    fn strangers_that_are_far_away_count_as_if_they_were_kept() {
        let now = Instant::now();
        let mut incoming = Incoming::new(now);
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
        // Not while that many are kept: one that is given up becomes one of them.
        assert_eq!(incoming.verdict(late, KEPT / 2, &[], THREE, false), Verdict::Ignore);
        let mut let_in = 0;
        while incoming.verdict(late, 0, &[], THREE, false) == Verdict::Begin {
            incoming.begin(late, THREE);
            let_in += 1;
            assert_eq!(incoming.under_way(), HANDSHAKES);
        }
        assert_eq!(let_in, OF_ONE_GROUP);
        // Those who have shown nothing were most.
        assert_eq!([None, ONE, TWO].map(|group| incoming.of_group(group)), [16, 16, 16]);
        // All have as many: one more group finds nobody who is slow and has more by two.
        let four = Some([4, 4, 4, 0, 0]);
        assert_eq!(incoming.verdict(late, 0, &[], four, false), Verdict::Begin);
    }

    #[tokio::test]
    async fn evicted_handshakes_are_told() {
        let now = Instant::now();
        let mut incoming = Incoming::new(now);
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
