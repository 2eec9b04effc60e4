//! Offers and answers: how two nodes get a connection that neither can dial, by way of a peer of both
//! (specification section 20).
//!
//! ```text
//! A: Dial ─► Described ─► Seal ─► Carry …                     … Unseal ─► Describe ─► Connected
//!                                       R carries both, and sees their sizes
//! B:                  … Unseal ─► Describe ─► Described ─► Seal ─► Carry …         ─► Connected
//! ```
//!
//! Each statement is signed by the node's key and sealed to the other's; the keys are the driver's. An answer names
//! the digest of its offer, and both name the fingerprints of the session: so no one who carries them can stand in
//! the middle, and what an old offer begins fails in the handshake.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::answer::{Offered, Pending, Replies, Seen};
use self::call::Call;
use crate::channel::Context;
use crate::id::{ConnectionId, DialId, Digest, OfferId, PeerId, SealingKey, SignalId};
use crate::io::{DialError, Exchange, Output, SignalError};
use crate::peers::book::MAX_RECORD;
use crate::rng::Rng;
use crate::signal::{self, Place};
use crate::time::{Pace, Time};
use crate::wire::{Description, Encode as _, PeerRecord, Said, SignalFate};

mod answer;
mod call;
mod statement;

pub(crate) use answer::SEEN;
pub(crate) use call::{begin, found, over};

/// Statements that are being opened at a time: the driver does them one by one.
const OPENING: usize = 32;
/// Statements of strangers that are opened at once, and the interval after that: one costs about 0.3 ms, with the
/// signature and a refusal, so all take a sixteenth of a core; and one peer's permits come back at a twentieth of it.
const OPENED: u32 = 64;
const OPENED_INTERVAL: Duration = Duration::from_millis(5);
/// Statements that are being sealed at a time: as many as are dialed and answered.
const SEALING: usize = 128;
/// Statements that are with the driver or the transports at a time.
pub(crate) const UNDER_WAY: usize = OPENING + SEALING + answer::OFFERED + answer::REPLIES;

/// Offers that this node makes, and those that it got.
#[derive(Debug)]
pub(crate) struct Offers {
    rng: Rng,
    /// Numbers of requests and signals.
    next: u64,
    calls: BTreeMap<DialId, Call>,
    /// Offers that the transports have not answered yet.
    offered: BTreeMap<OfferId, Offered>,
    /// Offers that count no second time, and what was said to the last of them.
    seen: Seen,
    replies: Replies,
    /// Connections that were offered and are not up.
    pending: Pending,
    sealing: BTreeMap<u64, Sealing>,
    opening: BTreeMap<u64, Opening>,
    opened: Pace,
    /// Dials that ended in this step.
    failed: VecDeque<(DialId, DialError)>,
    /// Peers that take offers, and a peer that is connected to each.
    relays: VecDeque<(PeerId, PeerId)>,
    /// Records of connected peers that take offers.
    records: BTreeMap<ConnectionId, PeerRecord>,
}

/// What is being sealed.
#[derive(Debug)]
enum Sealing {
    /// The offer of a dial.
    Offer(DialId),
    /// What answers the offer with this digest.
    Answer { via: PeerId, to: PeerId, offer: Digest },
}

/// What is being opened.
#[derive(Debug)]
struct Opening {
    place: Place,
    via: PeerId,
    from: PeerId,
}

impl Offers {
    pub(crate) fn new(rng: &Rng) -> Self {
        Self {
            rng: rng.fork("offers"),
            next: 0,
            calls: BTreeMap::new(),
            offered: BTreeMap::new(),
            seen: Seen::default(),
            replies: Replies::default(),
            pending: Pending::default(),
            sealing: BTreeMap::new(),
            opening: BTreeMap::new(),
            opened: Pace::default(),
            failed: VecDeque::new(),
            relays: VecDeque::new(),
            records: BTreeMap::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The peer of a connection told its record, which was verified: others are told of it if it takes offers.
    pub(crate) fn keep(&mut self, connection: ConnectionId, record: &PeerRecord) {
        let size = record.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
        if record.sealing.is_some() && size <= MAX_RECORD {
            self.records.insert(connection, record.clone());
        } else {
            self.records.remove(&connection);
        }
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.records.remove(&connection);
    }

    /// The record of the peer of a connection, if it takes offers.
    pub(crate) fn record(&self, connection: ConnectionId) -> Option<&PeerRecord> {
        self.records.get(&connection)
    }

    /// Puts things in a random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for at in (1..things.len()).rev() {
            things.swap(at, (self.rng.next_u64() % (at as u64 + 1)) as usize);
        }
    }

    /// The next dial that has failed.
    pub(crate) fn next_failed(&mut self) -> Option<(DialId, DialError)> {
        self.failed.pop_front()
    }

    /// A peer has a connection now: what it had offered counts no more.
    pub(crate) fn arrived(&mut self, peer: &PeerId) {
        self.pending.arrived(peer);
    }

    /// When [`expire`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let calls = self.calls.values().filter_map(Call::due);
        calls.chain(self.offered.values().map(|offered| offered.until)).min()
    }

    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.calls.len() + self.offered.len() + self.sealing.len() + self.opening.len()
    }
}

/// Time has passed.
pub(crate) fn expire(cx: &mut Context) {
    let now = cx.now;
    cx.offers.offered.retain(|_, offered| offered.until > now);
    call::expire(cx);
}

/// A transport tells how this node can be reached.
pub(crate) fn described(cx: &mut Context, exchange: Exchange, description: Description) {
    match exchange {
        Exchange::Dialed(dial) => call::described(cx, dial, description),
        Exchange::Offered(offer) => answer::described(cx, offer, description),
    }
}

/// A transport has no place for an offer.
pub(crate) fn declined(cx: &mut Context, offer: OfferId) {
    answer::declined(cx, offer);
}

/// A statement for this node has come by way of a peer; returns what becomes of it, if that is known already.
pub(crate) fn heard(
    cx: &mut Context,
    place: Place,
    [via, from]: [PeerId; 2],
    sealed: &Bytes,
) -> Option<SignalFate> {
    if cx.config.sealing.is_none() || from == cx.config.peer {
        // No relay gives the name of this node to what another says.
        return Some(SignalFate::Unwanted);
    }
    // What is awaited does not wait behind what strangers say. R20.8
    let is_awaited = call::awaits(cx, via, from);
    if cx.offers.opening.len() >= OPENING
        || !is_awaited && cx.offers.opened.next(OPENED, OPENED_INTERVAL) > cx.now
    {
        return Some(SignalFate::Busy);
    }
    if is_awaited {
        call::takes_one(cx, via, from);
    } else {
        cx.offers.opened.take(OPENED_INTERVAL, cx.now);
    }
    let request = cx.offers.number();
    cx.offers.opening.insert(request, Opening { place, via, from });
    cx.outputs.push_back(Output::Unseal { request, via, from, sealed: sealed.clone() });
    None
}

/// A statement was opened.
pub(crate) fn unsealed(cx: &mut Context, request: u64, opened: Option<&Bytes>) {
    let Some(Opening { place, via, from }) = cx.offers.opening.remove(&request) else { return };
    let is_read = opened.is_some_and(|opened| read(cx, [via, from], opened).is_some());
    let fate = if is_read { SignalFate::Taken } else { SignalFate::Unreadable };
    signal::heard_out(cx, place, fate);
}

/// `None` if it is no statement of the one that the relay names. R20.2
fn read(cx: &mut Context, [via, from]: [PeerId; 2], opened: &Bytes) -> Option<()> {
    #[cfg(test)]
    if *opened == crate::tests::TAKEN {
        return Some(());
    }
    let read = statement::read(opened).filter(|read| read.statement.from == from)?;
    let is_known = read.statement.protocol == crate::VERSION;
    match read.said {
        Some(Said::Refusal(refusal)) => call::refused(cx, from, &refusal),
        Some(Said::Answer(answer)) if is_known => call::answered(cx, from, answer),
        Some(Said::Offer(offer)) => {
            answer::offered(cx, via, &read.statement, read.digest, Some(offer));
        }
        // R20.3
        _ if !is_known => answer::offered(cx, via, &read.statement, read.digest, None),
        _ => return None,
    }
    Some(())
}

/// Has a statement signed and sealed; `None` if too many wait for that. R20.1
fn say(
    cx: &mut Context,
    to: PeerId,
    receiver: SealingKey,
    said: &Said,
    sealing: Sealing,
) -> Option<Digest> {
    if cx.offers.sealing.len() >= SEALING {
        return None;
    }
    let reply = cx.config.sealing?;
    let fresh = cx.offers.rng.bytes();
    let statement = statement::write(&cx.config, to, fresh, reply, said)?;
    let digest = statement::digest(&statement);
    let request = cx.offers.number();
    cx.offers.sealing.insert(request, sealing);
    cx.outputs.push_back(Output::Seal { request, receiver, statement });
    Some(digest)
}

/// A statement is sealed.
pub(crate) fn sealed(cx: &mut Context, request: u64, sealed: Option<Bytes>) {
    match (cx.offers.sealing.remove(&request), sealed) {
        (Some(Sealing::Offer(dial)), sealed) => call::sealed(cx, dial, sealed),
        // Who makes offers and takes no answers must not keep this node's own from leaving.
        (Some(Sealing::Answer { .. }), Some(_)) if signal::has_many(cx) => {}
        (Some(Sealing::Answer { via, to, offer }), Some(sealed)) => {
            cx.offers.replies.keep(offer, (via, to), sealed.clone(), cx.now);
            let id = SignalId(cx.offers.number());
            signal::ask(cx, id, (via, to), sealed);
        }
        (Some(Sealing::Answer { .. }) | None, _) => {}
    }
}

/// It is known what became of something that a peer was to carry.
pub(crate) fn signaled(cx: &mut Context, id: SignalId, result: Result<(), SignalError>) {
    call::signaled(cx, id, result);
}
