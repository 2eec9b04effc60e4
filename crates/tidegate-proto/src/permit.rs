//! The permit ledger that all channels share (specification section 6).
//!
//! [`Issuer`] is what this node allows a peer on one instance; [`Holder`] is what the peer allows
//! this node. Both number announcements and bodies together in the order of the stream, so a
//! number needs no room in the message that spends it.
//!
//! Rationale: a permit comes back when what it paid for has been *processed*. So the memory and
//! the work that a peer can cause are bounded by what it was granted, whatever it sends.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{Grant, MAX_RETURNS, Report, Return};

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    Announcement,
    /// A body, and its bytes.
    Body(u32),
}

/// What the two ends of a channel gave each other.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// What the peer may have outstanding here.
    pub(crate) ours: Grant,
    /// What this node may have outstanding there.
    pub(crate) theirs: Grant,
}

/// The permits of one instance: what the peer has spent here, what goes back to it, and what this node has
/// spent at the peer; `T` is what is remembered of each of those.
#[derive(Debug)]
pub(crate) struct Ledger<T> {
    pub(crate) issuer: Issuer,
    pub(crate) holder: Holder<T>,
    returns: Returns,
}

impl<T> Ledger<T> {
    pub(crate) fn new(terms: &Terms) -> Self {
        Self {
            issuer: Issuer::new(terms.ours.clone()),
            holder: Holder::new(terms.theirs.clone()),
            returns: Returns::default(),
        }
    }

    /// A number of the peer is processed: its permit goes back. Only the first report counts.
    pub(crate) fn give_back(&mut self, number: u32, report: Report, now: Time) {
        self.returns.push(&mut self.issuer, number, report, now);
    }

    /// When permits that go back must leave, if none joins them.
    pub(crate) fn returns_due(&self) -> Option<Time> {
        self.returns.due(&self.issuer)
    }

    /// Permits that go back now, if it is time: see [`Returns::take`].
    pub(crate) fn take_returns(&mut self, now: Time, room: u64) -> Option<Leaving> {
        self.returns.take(&mut self.issuer, now, room)
    }

    /// See [`Returns::unpaid`].
    pub(crate) fn unpaid(&self) -> u64 {
        self.returns.unpaid(&self.issuer)
    }

    /// Announcements and bodies that are out: of the peer here, and of this node there.
    pub(crate) fn out(&self) -> (usize, usize) {
        (self.issuer.out(), self.holder.out())
    }
}

/// How much of a grant is outstanding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outstanding {
    announcements: u32,
    bodies: u32,
    body_bytes: u32,
    requests: u32,
    fetch_bytes: u32,
}

impl Outstanding {
    fn add(&mut self, spent: Spent) {
        match spent {
            Spent::Announcement => self.announcements += 1,
            Spent::Body(bytes) => {
                self.bodies += 1;
                self.body_bytes += bytes;
            }
        }
    }

    fn subtract(&mut self, spent: Spent) {
        match spent {
            Spent::Announcement => self.announcements -= 1,
            Spent::Body(bytes) => {
                self.bodies -= 1;
                self.body_bytes -= bytes;
            }
        }
    }

    fn allows(&self, grant: &Grant, spent: Spent) -> bool {
        match spent {
            Spent::Announcement => self.announcements < grant.announcements,
            Spent::Body(bytes) => {
                self.bodies < grant.bodies
                    && self.body_bytes.checked_add(bytes).is_some_and(|sum| sum <= grant.body_bytes)
            }
        }
    }

    /// One request always fits, so that a large item can be asked for at all.
    fn allows_request(&self, grant: &Grant, bytes: u32) -> bool {
        let sum = self.fetch_bytes.checked_add(bytes);
        self.requests < grant.requests
            && (self.requests == 0 || sum.is_some_and(|sum| sum <= grant.fetch_bytes))
    }
}

/// A number whose permit is out: its report is owed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owed {
    spent: Spent,
    /// The report is on its way.
    reported: bool,
}

/// What this node allows a peer on one instance.
#[derive(Debug)]
pub(crate) struct Issuer {
    grant: Grant,
    next: u32,
    out: BTreeMap<u32, Owed>,
    outstanding: Outstanding,
}

impl Issuer {
    pub(crate) fn new(grant: Grant) -> Self {
        Self { grant, next: 0, out: BTreeMap::new(), outstanding: Outstanding::default() }
    }

    /// The peer announced something: its number.
    pub(crate) fn announcement(&mut self) -> Result<u32, Violation> {
        // R6.1.1
        self.spend(Spent::Announcement).ok_or(Violation::AnnouncementPermit)
    }

    /// The peer pushed a body, or began to: its number.
    pub(crate) fn body(&mut self, bytes: u32) -> Result<u32, Violation> {
        // R6.1.2
        self.spend(Spent::Body(bytes)).ok_or(Violation::BodyPermit)
    }

    fn spend(&mut self, spent: Spent) -> Option<u32> {
        let number = self.next;
        // R6.2.4
        if !self.outstanding.allows(&self.grant, spent) || self.out.contains_key(&number) {
            return None;
        }
        // R6.2.1
        self.next = number.wrapping_add(1);
        self.outstanding.add(spent);
        self.out.insert(number, Owed { spent, reported: false });
        Some(number)
    }

    /// Whether a report about this number is still owed; from now on it is not.
    ///
    /// Numbers are looked up by ids that peers can make equal, so the same number may be settled
    /// from two sides: the first report counts, and the second is ignored.
    fn settle(&mut self, number: u32) -> bool {
        self.out.get_mut(&number).is_some_and(|owed| !std::mem::replace(&mut owed.reported, true))
    }

    /// Steps that a permit costs which goes back with this report.
    fn cost(&self, given: &Return) -> u64 {
        self.out.get(&given.number).map_or(0, |owed| cost(owed.spent, given.report))
    }

    /// Whether a report about this number is still owed: what the number is for may be asked for.
    pub(crate) fn owes(&self, number: u32) -> bool {
        self.out.get(&number).is_some_and(|owed| !owed.reported)
    }

    /// The message that gives this permit back leaves now.
    fn give_back(&mut self, number: u32) {
        if let Some(owed) = self.out.remove(&number) {
            self.outstanding.subtract(owed.spent);
        }
    }

    /// Whether the peer holds half of its permits or fewer, so that returns should not wait.
    fn scarce(&self) -> bool {
        let out = &self.outstanding;
        let half = |out: u32, grant: u32| out > 0 && out >= grant.div_ceil(2);
        half(out.announcements, self.grant.announcements)
            || half(out.bodies, self.grant.bodies)
            || half(out.body_bytes, self.grant.body_bytes)
    }

    /// The peer asks for something of at most `bytes` bytes.
    pub(crate) fn request(&mut self, bytes: u32) -> Result<(), Violation> {
        if !self.outstanding.allows_request(&self.grant, bytes) {
            // R6.1.3
            return Err(Violation::RequestPermit);
        }
        self.outstanding.requests += 1;
        self.outstanding.fetch_bytes += bytes;
        Ok(())
    }

    /// The answer to such a request leaves now.
    pub(crate) fn answered(&mut self, bytes: u32) {
        self.outstanding.requests -= 1;
        self.outstanding.fetch_bytes -= bytes;
    }

    /// Whether the return of a permit is owed, or an answer.
    pub(crate) fn is_owed(&self) -> bool {
        !self.out.is_empty() || self.outstanding.requests > 0
    }

    /// New limits, none below the old. Whether one is above.
    pub(crate) fn raise(&mut self, grant: &Grant) -> bool {
        let raised = highest(&self.grant, grant);
        let before = std::mem::replace(&mut self.grant, raised);
        before != self.grant
    }

    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Announcements and bodies that are not given back.
    pub(crate) fn out(&self) -> usize {
        self.out.len()
    }
}

/// What a peer allows this node on one instance; `T` is what the sender remembers of each.
#[derive(Debug)]
pub(crate) struct Holder<T> {
    grant: Grant,
    next: u32,
    out: BTreeMap<u32, (Spent, T)>,
    outstanding: Outstanding,
    /// When the first permit left since all were home, and the first request since all had answers.
    spent_since: Time,
    asked_since: Time,
}

impl<T> Holder<T> {
    pub(crate) fn new(grant: Grant) -> Self {
        Self {
            grant,
            next: 0,
            out: BTreeMap::new(),
            outstanding: Outstanding::default(),
            spent_since: Time::ZERO,
            asked_since: Time::ZERO,
        }
    }

    /// Since when the peer has owed the return of a permit, or an answer. R5.5.5
    pub(crate) fn awaited_since(&self) -> Option<Time> {
        let returns = (!self.out.is_empty()).then_some(self.spent_since);
        let answers = (self.outstanding.requests > 0).then_some(self.asked_since);
        returns.into_iter().chain(answers).min()
    }

    /// Whether a permit is there. After 2^32 numbers the next one may still be out: then it must
    /// come back first. R6.2.4
    pub(crate) fn allows(&self, spent: Spent) -> bool {
        self.outstanding.allows(&self.grant, spent) && !self.out.contains_key(&self.next)
    }

    /// Spends a permit that is there: the number of what is sent.
    pub(crate) fn spend(&mut self, spent: Spent, what: T, now: Time) -> u32 {
        debug_assert!(self.allows(spent), "permits are looked at before they are spent");
        if self.out.is_empty() {
            self.spent_since = now;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.outstanding.add(spent);
        self.out.insert(number, (spent, what));
        number
    }

    /// The peer gives a permit back: what it was spent on.
    pub(crate) fn returned(&mut self, number: u32) -> Result<(Spent, T), Violation> {
        // R6.3.1
        let (spent, what) = self.out.remove(&number).ok_or(Violation::FalseReturn)?;
        self.outstanding.subtract(spent);
        Ok((spent, what))
    }

    /// What the permits that are out were spent on.
    pub(crate) fn all_out(&self) -> impl Iterator<Item = &T> {
        self.out.values().map(|(_, what)| what)
    }

    /// What a number stands for, as long as its permit is out.
    pub(crate) fn look_up(&self, number: u32) -> Option<&(Spent, T)> {
        self.out.get(&number)
    }

    /// The same, to write on it.
    pub(crate) fn look_up_mut(&mut self, number: u32) -> Option<&mut (Spent, T)> {
        self.out.get_mut(&number)
    }

    pub(crate) fn allows_request(&self, bytes: u32) -> bool {
        self.outstanding.allows_request(&self.grant, bytes)
    }

    pub(crate) fn request(&mut self, bytes: u32, now: Time) {
        if self.outstanding.requests == 0 {
            self.asked_since = now;
        }
        debug_assert!(self.allows_request(bytes), "permits are looked at before they are spent");
        self.outstanding.requests += 1;
        self.outstanding.fetch_bytes += bytes;
    }

    pub(crate) fn answered(&mut self, bytes: u32) {
        self.outstanding.requests -= 1;
        self.outstanding.fetch_bytes -= bytes;
    }

    /// The peer raises its limits.
    pub(crate) fn raise(&mut self, grant: &Grant) -> Result<(), Violation> {
        // R6.1.4
        if highest(&self.grant, grant) != *grant {
            return Err(Violation::GrantShrunk);
        }
        // R6.2.3
        if self.grant == *grant {
            return Err(Violation::Empty);
        }
        self.grant = grant.clone();
        Ok(())
    }

    /// Announcements and bodies that are not given back.
    pub(crate) fn out(&self) -> usize {
        self.out.len()
    }
}

fn highest(a: &Grant, b: &Grant) -> Grant {
    Grant {
        announcements: a.announcements.max(b.announcements),
        bodies: a.bodies.max(b.bodies),
        body_bytes: a.body_bytes.max(b.body_bytes),
        requests: a.requests.max(b.requests),
        fetch_bytes: a.fetch_bytes.max(b.fetch_bytes),
    }
}

/// How long a report may wait for company while the sender has permits left: a late or needless
/// body teaches the sender something, so those wait less.
fn patience(report: Report) -> Duration {
    match report {
        Report::Duplicate | Report::Late => Duration::from_millis(100),
        Report::First | Report::Surplus | Report::Ignored | Report::Rejected => {
            Duration::from_secs(1)
        }
    }
}

/// Steps that what was of no use counts, beside its message: it was checked, and its permit, which comes
/// back, allows the next.
const USELESS: u64 = 8;

/// What a link is charged with when a permit goes back to its peer. What is of use is what all the work
/// is for; what came twice was not checked twice.
fn cost(spent: Spent, report: Report) -> u64 {
    use Report::{Duplicate, First, Ignored, Late, Rejected, Surplus};
    match (spent, report) {
        (_, First | Late) | (Spent::Announcement, Duplicate) => 0,
        (Spent::Body(_), Duplicate) => 1,
        (Spent::Announcement, Surplus | Ignored | Rejected) => USELESS,
        (Spent::Body(_), Surplus | Ignored | Rejected) => 1 + USELESS,
    }
}

/// Permits on their way back to one peer.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    waiting: Vec<Return>,
    due: Option<Time>,
}

/// Permits that go back to a peer now.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    pub(crate) returns: Vec<Return>,
    /// Steps that they cost together.
    pub(crate) cost: u64,
}

impl Returns {
    /// A number is processed. Only the first report about it leaves; `false` if this is not it.
    pub(crate) fn push(
        &mut self,
        issuer: &mut Issuer,
        number: u32,
        report: Report,
        now: Time,
    ) -> bool {
        if !issuer.settle(number) {
            return false;
        }
        self.waiting.push(Return { number, report });
        let due = now + patience(report);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        true
    }

    /// Steps that the permits cost which do not go back, since the link is gone: nothing that came with
    /// one was of use so far.
    pub(crate) fn unpaid(&self, issuer: &Issuer) -> u64 {
        let waiting = self.waiting.iter().map(|given| issuer.cost(given)).sum::<u64>();
        let open = issuer.out.values().filter(|owed| !owed.reported);
        let bodies = open.filter(|owed| matches!(owed.spent, Spent::Body(_)));
        waiting + bodies.map(|owed| cost(owed.spent, Report::Ignored)).sum::<u64>()
    }

    /// When the waiting ones must leave, if none joins them.
    pub(crate) fn due(&self, issuer: &Issuer) -> Option<Time> {
        let full =
            self.waiting.len() >= MAX_RETURNS || (!self.waiting.is_empty() && issuer.scarce());
        if full { Some(Time::ZERO) } else { self.due }
    }

    /// What leaves now, if it is time: as many as may cost `room` steps together, and the first always.
    pub(crate) fn take(&mut self, issuer: &mut Issuer, now: Time, room: u64) -> Option<Leaving> {
        if self.due(issuer).is_none_or(|due| due > now) {
            return None;
        }
        let (mut count, mut cost) = (0, 0);
        for given in self.waiting.iter().take(MAX_RETURNS) {
            let more = issuer.cost(given);
            if more > 0 && count > 0 && cost + more > room {
                break;
            }
            (count, cost) = (count + 1, cost + more);
            issuer.give_back(given.number);
        }
        let leaving = Leaving { returns: self.waiting.drain(..count).collect(), cost };
        if self.waiting.is_empty() {
            self.due = None;
        }
        Some(leaving)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRANT: Grant =
        Grant { announcements: 3, bodies: 2, body_bytes: 100, requests: 2, fetch_bytes: 50 };

    /// R6.1.1, R6.1.2, R6.1.3
    #[test]
    fn each_permit_ends_at_its_limit() {
        let mut issuer = Issuer::new(GRANT);
        for _ in 0..3 {
            issuer.announcement().unwrap();
        }
        assert_eq!(issuer.announcement(), Err(Violation::AnnouncementPermit));
        issuer.body(60).unwrap();
        assert_eq!(issuer.body(41), Err(Violation::BodyPermit));
        assert_eq!(issuer.body(u32::MAX), Err(Violation::BodyPermit));
        issuer.body(40).unwrap();
        assert_eq!(issuer.body(0), Err(Violation::BodyPermit));
        // A request larger than the limit fits when it is alone.
        issuer.request(51).unwrap();
        assert_eq!(issuer.request(1), Err(Violation::RequestPermit));
        issuer.answered(51);
        issuer.request(49).unwrap();
        issuer.request(1).unwrap();
        assert_eq!(issuer.request(0), Err(Violation::RequestPermit));
    }

    #[test]
    fn returns_wait_for_company_unless_permits_are_scarce() {
        let grant = Grant { announcements: 10, ..GRANT };
        let mut issuer = Issuer::new(grant);
        let mut returns = Returns::default();
        let at = |ms: u64| Time::from_micros(ms * 1000);
        let number = issuer.announcement().unwrap();
        returns.push(&mut issuer, number, Report::First, at(0));
        assert!(returns.take(&mut issuer, at(999), u64::MAX).is_none());
        let number = issuer.announcement().unwrap();
        returns.push(&mut issuer, number, Report::Duplicate, at(500));
        assert_eq!(returns.due(&issuer), Some(at(600)));
        assert!(returns.take(&mut issuer, at(599), u64::MAX).is_none());
        assert_eq!(returns.take(&mut issuer, at(600), u64::MAX).unwrap().returns.len(), 2);
        assert_eq!(issuer.out(), 0);
        // With half of the permits out they leave at once.
        let numbers = (0..5).map(|_| issuer.announcement().unwrap()).collect::<Vec<_>>();
        returns.push(&mut issuer, numbers[0], Report::First, at(700));
        assert_eq!(returns.take(&mut issuer, at(700), u64::MAX).unwrap().returns.len(), 1);
    }

    #[test]
    fn permits_of_useless_messages_return_slowly() {
        let mut issuer = Issuer::new(Grant { announcements: 10, ..GRANT });
        let mut returns = Returns::default();
        use Report::{Duplicate, First, Ignored, Surplus};
        for report in [Ignored, First, Surplus, Duplicate, Ignored, First] {
            let number = issuer.announcement().unwrap();
            returns.push(&mut issuer, number, report, Time::ZERO);
        }
        let mut take = |room| {
            let left = returns.take(&mut issuer, Time::ZERO + Duration::from_secs(1), room);
            left.map_or((0, 0), |left| (left.returns.len(), left.cost))
        };
        let one = USELESS;
        let taken = [take(2 * one - 1), take(0), take(2 * one), take(0)];
        assert_eq!(taken, [(2, one), (2, one), (2, one), (0, 0)]);
    }

    /// R6.2.4
    #[test]
    fn outstanding_numbers_are_not_reused() {
        let mut issuer = Issuer::new(GRANT);
        let mut holder = Holder::new(GRANT);
        let mut returns = Returns::default();
        // Both ends count alike, so both come to it after 2^32 numbers.
        let first = issuer.announcement().unwrap();
        assert_eq!(holder.spend(Spent::Announcement, (), Time::ZERO), first);
        (issuer.next, holder.next) = (u32::MAX, u32::MAX);
        assert_eq!(issuer.announcement(), Ok(u32::MAX));
        assert_eq!(holder.spend(Spent::Announcement, (), Time::ZERO), u32::MAX);
        assert!(!holder.allows(Spent::Announcement), "0 is still out");
        assert_eq!(issuer.announcement(), Err(Violation::AnnouncementPermit));
        assert_eq!(issuer.body(1), Err(Violation::BodyPermit));
        returns.push(&mut issuer, first, Report::First, Time::ZERO);
        returns.take(&mut issuer, Time::ZERO + Duration::from_secs(1), u64::MAX).unwrap();
        holder.returned(first).unwrap();
        assert_eq!(issuer.announcement(), Ok(holder.spend(Spent::Announcement, (), Time::ZERO)));
    }

    /// R5.5.5
    #[test]
    fn answers_are_awaited_from_the_time_of_sending() {
        let at = Time::from_micros;
        let mut holder = Holder::new(GRANT);
        assert_eq!(holder.awaited_since(), None);
        holder.request(7, at(5));
        holder.request(7, at(6));
        let first = holder.spend(Spent::Announcement, (), at(4));
        let second = holder.spend(Spent::Announcement, (), at(7));
        assert_eq!(holder.awaited_since(), Some(at(4)));
        holder.returned(first).unwrap();
        holder.returned(second).unwrap();
        assert_eq!(holder.awaited_since(), Some(at(5)));
        holder.answered(7);
        assert_eq!(holder.awaited_since(), Some(at(5)));
        holder.answered(7);
        assert_eq!(holder.awaited_since(), None);
        holder.request(7, at(9));
        assert_eq!(holder.awaited_since(), Some(at(9)));
    }

    /// R6.1.4
    #[test]
    fn a_grant_never_shrinks() {
        let mut holder = Holder::<()>::new(GRANT);
        let more = Grant { bodies: 5, ..GRANT };
        holder.raise(&more).unwrap();
        assert_eq!(holder.raise(&GRANT), Err(Violation::GrantShrunk));
        let mixed = Grant { bodies: 9, requests: 1, ..GRANT };
        assert_eq!(holder.raise(&mixed), Err(Violation::GrantShrunk));
        assert!(holder.allows(Spent::Body(100)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Announce,
        Push(u32),
        Return(usize, Report),
        Flush(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let report =
            prop_oneof![Just(Report::First), Just(Report::Duplicate), Just(Report::Ignored)];
        let step = prop_oneof![
            Just(Step::Announce),
            (0..120u32).prop_map(Step::Push),
            (any::<prop::sample::Index>(), report).prop_map(|(i, r)| Step::Return(i.index(64), r)),
            (0..50u64).prop_map(Step::Flush),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever happens, the two ends agree on what is out, neither exceeds the grant, and a
        /// number has one report, however often it is settled. R6.2.1, R6.3.1
        #[test]
        fn holder_and_issuer_agree(steps in steps()) {
            let mut holder = Holder::new(GRANT);
            let mut issuer = Issuer::new(GRANT);
            let mut returns = Returns::default();
            let mut unprocessed = Vec::new();
            let mut reported = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Announce if holder.allows(Spent::Announcement) => {
                        let number = holder.spend(Spent::Announcement, (), Time::ZERO);
                        prop_assert_eq!(issuer.announcement(), Ok(number));
                        unprocessed.push(number);
                    }
                    Step::Push(bytes) if holder.allows(Spent::Body(bytes)) => {
                        let number = holder.spend(Spent::Body(bytes), (), Time::ZERO);
                        prop_assert_eq!(issuer.body(bytes), Ok(number));
                        unprocessed.push(number);
                    }
                    Step::Return(which, report) if !unprocessed.is_empty() => {
                        let at = which % unprocessed.len();
                        let number = unprocessed[at];
                        let owed = reported.insert(number);
                        prop_assert_eq!(returns.push(&mut issuer, number, report, Time::ZERO), owed);
                    }
                    Step::Flush(room) => {
                        let later = Time::ZERO + Duration::from_secs(2);
                        for back in returns.take(&mut issuer, later, room).unwrap_or_default().returns {
                            unprocessed.retain(|number| *number != back.number);
                            reported.remove(&back.number);
                            prop_assert!(holder.returned(back.number).is_ok());
                            prop_assert_eq!(holder.returned(back.number), Err(Violation::FalseReturn));
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(holder.outstanding, issuer.outstanding);
                prop_assert!(issuer.outstanding.announcements <= GRANT.announcements);
                prop_assert!(issuer.outstanding.bodies <= GRANT.bodies);
                prop_assert!(issuer.outstanding.body_bytes <= GRANT.body_bytes);
            }
        }
    }
}
