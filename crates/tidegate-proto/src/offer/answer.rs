//! The end that answers: which offers it takes, and what it says to the others.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::call::RELAYS;
use super::{Sealing, call, say};
use crate::channel::Context;
use crate::id::{Digest, OfferId, PeerId, SealingKey, SignalId};
use crate::io::{Exchange, Output};
use crate::time::Time;
use crate::wire::{AnswerSaid, Description, Refusal, RefusalSaid, Said, Statement};
use crate::{peers, signal};

/// Offers that transports have not answered yet: as many as may have their handshakes at a time.
pub(super) const OFFERED: usize = 32;
/// How long a transport has to answer one, which it does at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Offers that are remembered, and for how long: what is older costs a replayer as much as a new one, and fails in
/// the handshake. R20.5
pub(crate) const SEEN: usize = 4096;
const SEEN_FOR: Duration = Duration::from_secs(60);

/// Answers and refusals that are kept, since the first may not arrive and the offer comes by another peer too: as long as
/// the other waits for one.
pub(super) const REPLIES: usize = 64;
const REPLIES_FOR: Duration = Duration::from_secs(15);
/// Connections of one peer that are offered by way of one relay and not up (by way of all, twice as many: a relay may repeat
/// what is old), and those by way of one relay: a transport has 32 places for them, and keeps each for 15 s.
const PENDING_OF_ONE: usize = 2;
const PENDING_BY_ONE: usize = 16;
const PENDING_FOR: Duration = Duration::from_secs(15);

/// What was said to the last offers.
#[derive(Debug, Default)]
pub(super) struct Replies(VecDeque<Reply>);

#[derive(Debug)]
struct Reply {
    offer: Digest,
    at: Time,
    to: PeerId,
    /// By way of whom it was said.
    by: Vec<PeerId>,
    sealed: Bytes,
}

impl Replies {
    pub(super) fn keep(
        &mut self,
        offer: Digest,
        (via, to): (PeerId, PeerId),
        sealed: Bytes,
        now: Time,
    ) {
        self.0.retain(|reply| now.since(reply.at) < REPLIES_FOR);
        if self.0.len() >= REPLIES {
            self.0.pop_front();
        }
        self.0.push_back(Reply { offer, at: now, to, by: vec![via], sealed });
    }

    /// What is said again by way of another peer, to the one whose offer it answers: once by each, and by a few.
    fn again(&mut self, offer: &Digest, via: PeerId, to: PeerId, now: Time) -> Option<Bytes> {
        let mut replies = self.0.iter_mut().filter(|reply| now.since(reply.at) < REPLIES_FOR);
        let reply = replies.find(|reply| reply.offer == *offer && reply.to == to)?;
        if reply.by.contains(&via) || reply.by.len() >= RELAYS {
            return None;
        }
        reply.by.push(via);
        Some(reply.sealed.clone())
    }
}

/// Connections that were offered and are not up: whose, by way of whom, and until when they count.
#[derive(Debug, Default)]
pub(super) struct Pending(Vec<(PeerId, PeerId, Time)>);

impl Pending {
    fn has_room(&mut self, from: PeerId, via: PeerId, now: Time) -> bool {
        self.0.retain(|(_, _, until)| *until > now);
        let count = |is: &dyn Fn(PeerId, PeerId) -> bool| {
            self.0.iter().filter(|(of, by, _)| is(*of, *by)).count()
        };
        count(&|of, by| (of, by) == (from, via)) < PENDING_OF_ONE
            && count(&|of, _| of == from) < 2 * PENDING_OF_ONE
            && count(&|_, by| by == via) < PENDING_BY_ONE
            && self.0.len() < OFFERED
    }

    fn begin(&mut self, from: PeerId, via: PeerId, now: Time) {
        self.0.push((from, via, now + PENDING_FOR));
    }

    pub(super) fn arrived(&mut self, peer: &PeerId) {
        self.0.retain(|(of, _, _)| of != peer);
    }
}

/// An offer that a transport has not answered yet.
#[derive(Debug)]
pub(super) struct Offered {
    via: PeerId,
    from: PeerId,
    reply: SealingKey,
    digest: Digest,
    pub(super) until: Time,
}

/// Offers that were taken or refused.
#[derive(Debug, Default)]
pub(super) struct Seen {
    digests: BTreeSet<Digest>,
    order: VecDeque<(Time, Digest)>,
}

impl Seen {
    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.order.pop_front() {
            self.digests.remove(&oldest);
        }
    }

    /// Whether this one is new.
    fn insert(&mut self, digest: Digest, now: Time) -> bool {
        let is_old = |(at, _): &(Time, Digest)| now.since(*at) >= SEEN_FOR;
        while self.order.front().is_some_and(is_old) {
            self.forget_oldest();
        }
        if self.digests.contains(&digest) {
            return false;
        }
        if self.order.len() >= SEEN {
            self.forget_oldest();
        }
        self.digests.insert(digest);
        self.order.push_back((now, digest));
        true
    }
}

/// A peer offers a connection; `None` if it is in a version that this node does not know.
pub(super) fn offered(
    cx: &mut Context,
    via: PeerId,
    statement: &Statement,
    digest: Digest,
    offer: Option<Description>,
) {
    let (from, reply) = (statement.from, statement.reply);
    // R20.5
    if !cx.offers.seen.insert(digest, cx.now) {
        if let Some(sealed) = cx.offers.replies.again(&digest, via, from, cx.now) {
            let id = SignalId(cx.offers.number());
            signal::ask(cx, id, (via, from), sealed);
        }
        return;
    }
    let admitted = admit(cx, statement).and_then(|()| {
        let has_room = cx.offers.pending.has_room(from, via, cx.now);
        if has_room { Ok(()) } else { Err(peers::busy()) }
    });
    match (admitted, offer) {
        (Ok(()), Some(description)) => {
            cx.offers.pending.begin(from, via, cx.now);
            let offer = OfferId(cx.offers.number());
            let until = cx.now + PATIENCE;
            cx.offers.offered.insert(offer, Offered { via, from, reply, digest, until });
            let exchange = Exchange::Offered(offer);
            cx.outputs.push_back(Output::Describe { exchange, peer: from, description });
        }
        (Ok(()), None) => {}
        (Err(why), _) => refuse(cx, [via, from], reply, digest, why),
    }
}

/// R20.6
fn admit(cx: &Context, statement: &Statement) -> Result<(), Refusal> {
    if statement.protocol != crate::VERSION {
        return Err(Refusal::NoCommonVersion);
    }
    if statement.network != cx.config.network {
        return Err(Refusal::WrongNetwork);
    }
    if statement.to != cx.config.peer {
        return Err(Refusal::WrongTarget);
    }
    let from = statement.from;
    peers::admit_offer(cx, &from)?;
    // R20.7
    if cx.config.peer < from && call::has_offered(cx, &from) {
        return Err(Refusal::Duplicate);
    }
    if cx.offers.offered.len() >= OFFERED {
        return Err(peers::busy());
    }
    Ok(())
}

fn refuse(
    cx: &mut Context,
    [via, to]: [PeerId; 2],
    reply: SealingKey,
    offer: Digest,
    why: Refusal,
) {
    let said = Said::Refusal(RefusalSaid { offer, why });
    // If too many statements are being sealed, the dialer waits until its time is over.
    let _ = say(cx, to, reply, &said, Sealing::Answer { via, to, offer });
}

/// A transport has begun a connection, and tells how.
pub(super) fn described(cx: &mut Context, offer: OfferId, description: Description) {
    let Some(offered) = cx.offers.offered.remove(&offer) else { return };
    let Offered { via, from: to, reply, digest: offer, .. } = offered;
    let said = Said::Answer(AnswerSaid { offer, description });
    if say(cx, to, reply, &said, Sealing::Answer { via, to, offer }).is_none() {
        refuse(cx, [via, to], reply, offer, peers::busy());
    }
}

/// A transport can do nothing with an offer.
pub(super) fn declined(cx: &mut Context, offer: OfferId) {
    let Some(offered) = cx.offers.offered.remove(&offer) else { return };
    let Offered { via, from, reply, digest, .. } = offered;
    cx.offers.pending.arrived(&from);
    refuse(cx, [via, from], reply, digest, peers::busy());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_counts_once_within_its_time_and_memory_is_bounded() {
        let mut seen = Seen::default();
        let digest = |n: usize| Digest(*blake3::hash(&n.to_be_bytes()).as_bytes());
        assert!(seen.insert(digest(0), Time::ZERO));
        assert!(!seen.insert(digest(0), Time::ZERO + SEEN_FOR - Duration::from_micros(1)));
        assert!(seen.insert(digest(0), Time::ZERO + SEEN_FOR));
        for n in 1..SEEN {
            assert!(seen.insert(digest(n), Time::ZERO + SEEN_FOR));
        }
        assert!(!seen.insert(digest(0), Time::ZERO + SEEN_FOR), "the oldest of {SEEN}");
        assert!(seen.insert(digest(SEEN), Time::ZERO + SEEN_FOR));
        assert!(seen.insert(digest(0), Time::ZERO + SEEN_FOR), "one past the bound");
        assert_eq!((seen.digests.len(), seen.order.len()), (SEEN, SEEN));
    }
}
