//! The end that answers: which offers it takes, and what it says to the others.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{Sealing, call, say};
use crate::channel::Context;
use crate::id::{Digest, OfferId, PeerId, SealingKey};
use crate::io::{Exchange, Output};
use crate::peers;
use crate::time::Time;
use crate::wire::{AnswerSaid, Description, Refusal, RefusalSaid, Said, Statement};

/// Offers that transports have not answered yet: as many as may have their handshakes at a time.
pub(super) const OFFERED: usize = 32;
/// Of these, offers of one peer: one, and one that it made because the other came to nothing.
const OF_ONE: usize = 2;
/// How long a transport has to answer one, which it does at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Offers that are remembered, and for how long: what is older costs a replayer as much as a new one, and fails in
/// the handshake. R20.5
pub(crate) const SEEN: usize = 4096;
const SEEN_FOR: Duration = Duration::from_secs(60);

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
    // R20.5
    if !cx.offers.seen.insert(digest, cx.now) {
        return;
    }
    let (from, reply) = (statement.from, statement.reply);
    match (admit(cx, statement), offer) {
        (Ok(()), Some(description)) => {
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
    let offered = &cx.offers.offered;
    let of_one = offered.values().filter(|offered| offered.from == from).count();
    if offered.len() >= OFFERED || of_one >= OF_ONE {
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
    let _ = say(cx, to, reply, &said, Sealing::Answer { via, to });
}

/// A transport has begun a connection, and tells how.
pub(super) fn described(cx: &mut Context, offer: OfferId, description: Description) {
    let Some(offered) = cx.offers.offered.remove(&offer) else { return };
    let Offered { via, from: to, reply, digest: offer, .. } = offered;
    let said = Said::Answer(AnswerSaid { offer, description });
    let _ = say(cx, to, reply, &said, Sealing::Answer { via, to });
}

/// A transport can do nothing with an offer.
pub(super) fn declined(cx: &mut Context, offer: OfferId) {
    let Some(offered) = cx.offers.offered.remove(&offer) else { return };
    let Offered { via, from, reply, digest, .. } = offered;
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
