//! Who takes offers: a question to a peer, and its answer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{BURST, SignalLink, peer_of};
use crate::channel::Context;
use crate::id::{ConnectionId, PeerId};
use crate::link::Instance;
use crate::offer;
use crate::peers::book::Learnt;
use crate::peers::{self, dialer};
use crate::time::{Pace, Time};
use crate::violation::Violation;
use crate::wire::{ChoiceAsked, Encode as _, MAX_CHOICE, PeerRecord, SignalMessage};

/// Bytes of the records of one choice: eight of usual size, or two of the largest.
pub(crate) const BYTES: usize = 8 << 10;
/// Peers that this node asks one other for at a time: as many as it dials at a time by way of it, and more.
pub(crate) const WANTED: usize = 8;
/// The shortest interval between two questions to one peer for any of its peers; longer while they bring nothing new.
const SOME_FIRST: Duration = Duration::from_secs(2);
const SOME_MOST: Duration = Duration::from_secs(256);

/// Questions between this node and one peer.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// The peers to ask for, and whether to ask for any.
    wanted: BTreeSet<PeerId>,
    wants_some: bool,
    /// What was asked, and when.
    asked: Option<(Option<PeerId>, Time)>,
    /// When any were asked for, and how long to wait after that.
    last: Option<Time>,
    pause: Duration,
    /// What the peer has asked.
    owed: Option<Option<PeerId>>,
    answers: Pace,
}

impl Choice {
    pub(super) fn since(&self) -> Option<Time> {
        self.asked.map(|(_, since)| since)
    }

    pub(super) fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    pub(super) fn due(&self, interval: Duration) -> Option<Time> {
        self.owed.map(|_| self.answers.next(BURST, interval))
    }
}

/// This node wants the record of a peer; `false` if the relay cannot be asked for more.
pub(crate) fn want(cx: &mut Context, relay: PeerId, peer: PeerId) -> bool {
    let links = cx.signals.links.iter().rev();
    let carries = |id: &ConnectionId, side: &SignalLink| {
        side.terms.theirs.requests > 0
            && peer_of(cx, *id) == Some(relay)
            && !cx.control.is_replaced(*id)
    };
    let mut links = links.filter(|(id, side)| carries(id, side)).map(|(id, _)| *id);
    let Some(link) = links.next().and_then(|id| cx.signals.links.get_mut(&id)) else {
        return false;
    };
    if link.choice.wanted.len() >= WANTED {
        return false;
    }
    link.choice.wanted.insert(peer);
    cx.links.wake(link.at.link, link.at.slot);
    true
}

/// Connections are missing: this node wants any peers of its peers that take offers.
pub(crate) fn want_some(cx: &mut Context) {
    if cx.config.sealing.is_none() {
        return;
    }
    let now = cx.now;
    for link in cx.signals.links.values_mut().filter(|link| link.terms.theirs.requests > 0) {
        let choice = &mut link.choice;
        if choice.last.is_none_or(|last| now >= last + choice.pause) {
            choice.wants_some = true;
            cx.links.wake(link.at.link, link.at.slot);
        }
    }
}

/// R18.12
pub(super) fn on_ask(
    cx: &mut Context,
    at: Instance,
    peer: Option<PeerId>,
) -> Result<(), Violation> {
    let link = cx.signals.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let choice = &mut link.choice;
    if link.terms.ours.requests == 0 || choice.owed.replace(peer).is_some() {
        return Err(Violation::RequestPermit);
    }
    cx.links.wake(at.link, at.slot);
    Ok(())
}

/// R18.13
pub(super) fn on_choice(
    cx: &mut Context,
    at: Instance,
    records: &[PeerRecord],
) -> Result<(), Violation> {
    let link = cx.signals.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let (asked, _) = link.choice.asked.take().ok_or(Violation::Unasked)?;
    cx.links.wake(at.link, at.slot);
    let Some((relay, seen_at)) =
        cx.links.get(at.link).map(|link| (link.peer, link.address.clone()))
    else {
        return Ok(());
    };
    let is_asked = |record: &PeerRecord| asked.is_none_or(|peer| record.peer == peer);
    let is_true =
        |record: &PeerRecord| is_asked(record) && peers::record::verify(record, &cx.config.network);
    if !records.iter().all(is_true) {
        return Err(Violation::WrongRecord);
    }
    let mut news = false;
    for record in records {
        if cx.config.outbound > 0 && !cx.book.has(record) {
            news |= cx.book.learn(record, &seen_at) == Learnt::New;
        }
        offer::found(cx, relay, record.peer, Some(record));
    }
    match asked {
        Some(peer) if records.is_empty() => offer::found(cx, relay, peer, None),
        Some(_) => {}
        None => {
            if let Some(link) = cx.signals.links.get_mut(&at.link) {
                let pause = (link.choice.pause * 2).min(SOME_MOST);
                link.choice.pause = if news { SOME_FIRST } else { pause };
            }
        }
    }
    if news {
        dialer::refill_soon(cx);
    }
    Ok(())
}

pub(super) fn poll(cx: &mut Context, at: Instance) -> Option<SignalMessage> {
    let (now, interval) = (cx.now, cx.config.limits.signal_interval);
    let choice = &mut cx.signals.links.get_mut(&at.link)?.choice;
    if choice.owed.is_some() && choice.answers.next(BURST, interval) <= now {
        choice.answers.take(interval, now);
        let asked = choice.owed.take()?;
        return Some(SignalMessage::Choice(choose(cx, at.link, asked)));
    }
    if choice.asked.is_some() {
        return None;
    }
    let peer = match choice.wanted.pop_first() {
        None if !std::mem::take(&mut choice.wants_some) => return None,
        None => {
            choice.last = Some(now);
            choice.pause = choice.pause.max(SOME_FIRST);
            None
        }
        peer => peer,
    };
    choice.asked = Some((peer, now));
    Some(SignalMessage::Ask(ChoiceAsked { peer }))
}

/// Records of peers that are connected to this node and take offers. R18.13
fn choose(cx: &mut Context, asker: ConnectionId, asked: Option<PeerId>) -> Vec<PeerRecord> {
    let Some(link) = cx.links.get(asker) else { return Vec::new() };
    let (asker, seen_at) = (link.peer, link.address.clone());
    cx.stats.worked(cx.signals.links.len() as u64);
    let taking = cx.signals.links.values().filter(|side| side.terms.theirs.bodies > 0);
    let is_useful = |record: &&PeerRecord| {
        record.peer != asker
            && asked.is_none_or(|asked| asked == record.peer)
            && record.addresses.iter().all(|at| peers::exchange::is_useful(at, &seen_at))
    };
    let is_useful = |link: &ConnectionId| cx.offers.record(*link).as_ref().is_some_and(is_useful);
    let mut links = taking.map(|side| side.at.link).filter(is_useful).collect::<Vec<_>>();
    cx.offers.shuffle(&mut links);
    let mut room = BYTES;
    let records = links.into_iter().take(MAX_CHOICE).filter_map(|link| {
        let record = cx.offers.record(link)?;
        room = room.checked_sub(record.to_bytes().ok()?.len())?;
        Some(record.clone())
    });
    records.collect()
}
