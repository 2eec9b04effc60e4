//! The channel of signals: what nodes have to say to each other before they have a connection, by way of
//! a peer of both (specification section 18).
//!
//! ```text
//! A → R   Ask         who of your peers takes offers?
//! R → A   Choice      these
//! A → R   Carry       for B; one permit of R
//! R → B   Deliver     from A; one permit of B
//! B → R   Delivered   B's permit is back
//! R → A   Carried     R's permit is back, and what became of it
//! ```
//!
//! A relay keeps what it carries until B answers or [`Limits::signal_patience`](crate::Limits::signal_patience) is
//! over, and never more than it has given permits for. What a payload says is [`crate::offer`]'s business:
//! nothing in here proves who made it, only who gave it to the relay, and that in the relay's words.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::channel::{Channel as ChannelTrait, Context, Kind};
use crate::config::Config;
use crate::control;
use crate::id::{ConnectionId, Digest, PeerId, SignalId};
use crate::link::{Instance, Link};
use crate::offer;
use crate::permit::Terms;
use crate::rules::Rules;
use crate::time::{Pace, Time};
use crate::violation::Violation;
use crate::wire::{
    Carry, Delivery, Grant, Offer, OfferedVersion, Settled, SignalFate, SignalMessage,
};

mod choice;
mod numbered;
mod own;
mod turns;

use choice::Choice;
pub(crate) use choice::{BYTES as CHOICE, WANTED};
pub(crate) use choice::{want, want_some};
use numbered::Numbered;
#[cfg(test)]
pub(crate) use own::OUT;
use own::Own;
pub(crate) use own::{OWN, ask, cancel, has_many};
use turns::Turns;

/// Permits that go back at once; after them one each [`Limits::signal_interval`](crate::Limits::signal_interval). An
/// offer, its answer and a few candidates of each of two connections.
const BURST: u32 = 16;

/// The most that this node delivers to one peer at a time, however many permits the peer gives: with a signal answered
/// each 100 ms, more would only wait there.
pub(crate) const MOST_OUT: u32 = 16;

/// What is carried, for whom, and what this node has others carry.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    links: BTreeMap<ConnectionId, SignalLink>,
    /// What waits for a permit, by receiver: of whichever connection to it comes first to have one.
    waiting: BTreeMap<PeerId, Turns<ConnectionId, u32>>,
    /// What this node wants to have carried, by relay.
    own: BTreeMap<PeerId, own::Queue>,
    /// When it is given up, since it took too long.
    deadlines: BTreeSet<(Time, SignalId)>,
    #[cfg(test)]
    pub(crate) told: Vec<(SignalId, Result<(), crate::io::SignalError>)>,
}

/// A signal of a peer: the connection it came on, and its number there.
type Of = (ConnectionId, u32);

/// Where the answer to a signal for this node goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// It was for this node in the first place.
    Carried(Of),
    /// A peer delivered it, on this connection and with this number.
    Delivered(Of),
}

/// What a peer asks of this node, and this node of the peer.
#[derive(Debug)]
struct SignalLink {
    at: Instance,
    /// What each may have outstanding at the other.
    terms: Terms,
    /// What the peer asked this node to carry, by number, until the answer leaves.
    carries: BTreeMap<u32, Carrying>,
    next_carry: u32,
    answers: Pace,
    /// What was delivered to the peer, unless its asker is gone or was answered.
    deliveries: Numbered<Option<Of>>,
    /// What the peer delivered, in the order in which its permits go back, and what became of it, if it has been
    /// opened.
    taken: VecDeque<(u32, Option<SignalFate>)>,
    next_delivery: u32,
    takes: Pace,
    /// What this node has asked the peer to carry, unless it was given up.
    asked: Numbered<Option<Own>>,
    choice: Choice,
}

/// A signal of a peer on its way through this node.
#[derive(Debug)]
struct Carrying {
    to: PeerId,
    /// Kept until it is settled: it may have to be delivered again, on another connection.
    payload: Bytes,
    until: Time,
    stage: Stage,
}

/// What it waits for.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// For a permit of the receiver.
    Waits,
    /// For the receiver's answer, to what has this number on this connection.
    Delivered(Of),
    /// For this node itself to open it.
    Opened,
    /// For its turn to be answered.
    Settled(SignalFate),
}

impl SignalLink {
    fn new(at: Instance, terms: Terms) -> Self {
        Self {
            at,
            terms,
            carries: BTreeMap::new(),
            next_carry: 0,
            answers: Pace::default(),
            deliveries: Numbered::default(),
            taken: VecDeque::new(),
            next_delivery: 0,
            takes: Pace::default(),
            asked: Numbered::default(),
            choice: Choice::default(),
        }
    }
}

/// How signals get to a peer.
enum Way {
    /// By the newest connection on which there are signals and which no other replaces, under what the peer grants.
    By(Instance, Grant),
    /// Perhaps soon, by a connection that is being set up: of two connections the one that stays may be up after the
    /// other's end.
    Coming,
    None,
}

fn way_to(cx: &mut Context, peer: &PeerId) -> Way {
    cx.stats.worked((cx.signals.links.len() + cx.links.len()) as u64);
    let is = |side: &&SignalLink| cx.links.get(side.at.link).is_some_and(|l| l.peer == *peer);
    let mut sides = cx.signals.links.values().rev().filter(is);
    if let Some(side) = sides.find(|side| !cx.control.is_replaced(side.at.link)) {
        return Way::By(side.at, side.terms.theirs.clone());
    }
    cx.stats.worked(cx.links.len() as u64);
    let is_coming =
        |(id, link): (_, &Link)| link.peer == *peer && !link.up && !control::is_over(cx, id);
    if cx.links.iter().any(is_coming) { Way::Coming } else { Way::None }
}

/// Whether signals go by another connection, which has taken this one's place.
fn is_replaced(cx: &mut Context, connection: ConnectionId) -> bool {
    cx.stats.worked(cx.links.len() as u64);
    cx.control.is_replaced(connection)
}

/// The channels of a connection have come up or gone down: what waits for the peer goes by the connection that is
/// left, or fails if none is or if the peer takes no signals. R18.4, R18.10
pub(crate) fn review(cx: &mut Context, connection: ConnectionId) {
    let Some(peer) = peer_of(cx, connection) else { return };
    if !cx.signals.waiting.contains_key(&peer) && !cx.signals.own.contains_key(&peer) {
        return;
    }
    let (bodies, requests, fate) = match way_to(cx, &peer) {
        Way::By(at, theirs) => {
            cx.links.wake(at.link, at.slot);
            (theirs.bodies, theirs.requests, SignalFate::Unwanted)
        }
        Way::Coming => return,
        Way::None => (0, 0, SignalFate::NotConnected),
    };
    if bodies == 0 {
        let waiting = cx.signals.waiting.remove(&peer).into_iter().flat_map(Turns::into_all);
        waiting.for_each(|of| settle(cx, of, fate));
    }
    if requests == 0 {
        own::lost(cx, &peer);
    }
}

fn peer_of(cx: &Context, connection: ConnectionId) -> Option<PeerId> {
    cx.links.get(connection).map(|link| link.peer)
}

/// The channel of signals.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "signal";
    const FIXED: Option<u32> = None;
    const MAX_FRAME: usize = choice::BYTES + 64;
    type Message = SignalMessage;

    fn offers(config: &Config, _: &dyn Rules) -> Vec<Offer> {
        let limits = &config.limits;
        let taken = if config.sealing.is_some() { limits.signals_taken } else { 0 };
        if limits.signals_carried == 0 && taken == 0 {
            return Vec::new();
        }
        // R18.11
        let rules = Digest(blake3::derive_key("tidegate 2 signal rules", b""));
        vec![Offer {
            kind: Kind::Signal.number(),
            name: String::new(),
            versions: vec![OfferedVersion { number: 2, rules }],
            grant: Grant {
                announcements: 0,
                bodies: taken,
                body_bytes: 0,
                requests: limits.signals_carried,
                fetch_bytes: 0,
            },
            capacity: 0,
        }]
    }

    fn on_up(cx: &mut Context, at: Instance, terms: &Terms) {
        cx.signals.links.insert(at.link, SignalLink::new(at, terms.clone()));
    }

    fn on_down(cx: &mut Context, at: Instance) {
        let Some(gone) = cx.signals.links.remove(&at.link) else { return };
        for (number, carrying) in &gone.carries {
            abandon(cx, (at.link, *number), &carrying.to, carrying.stage);
        }
        // What was not answered goes by another connection, or fails if there is none: see `review`.
        gone.deliveries.into_values().flatten().for_each(|of| wait_again(cx, of));
        if let Some(peer) = peer_of(cx, at.link) {
            own::ask_again(cx, peer, gone.asked.into_values().flatten());
        }
    }

    fn was_asked(message: &SignalMessage) -> bool {
        use SignalMessage::{Carried, Choice, Delivered};
        matches!(message, Carried(_) | Delivered(_) | Choice(_))
    }

    fn on_message(cx: &mut Context, at: Instance, message: SignalMessage) -> Result<(), Violation> {
        match message {
            SignalMessage::Carry(carry) => on_carry(cx, at, carry),
            SignalMessage::Carried(settled) => own::on_carried(cx, at, &settled),
            SignalMessage::Deliver(delivery) => on_deliver(cx, at, delivery),
            SignalMessage::Delivered(settled) => on_delivered(cx, at, &settled),
            SignalMessage::Ask(asked) => choice::on_ask(cx, at, asked.peer),
            SignalMessage::Choice(records) => choice::on_choice(cx, at, &records),
        }
    }

    fn poll_message(cx: &mut Context, at: Instance) -> Option<SignalMessage> {
        give_up(cx, at.link);
        poll_answer(cx, at)
            .or_else(|| poll_delivery(cx, at).map(SignalMessage::Deliver))
            .or_else(|| own::poll(cx, at).map(SignalMessage::Carry))
            .or_else(|| choice::poll(cx, at))
    }

    fn deadline(cx: &Context, at: Instance) -> Option<Time> {
        let link = cx.signals.links.get(&at.link)?;
        let interval = cx.config.limits.signal_interval;
        let carries = link.carries.values().map(|carrying| match carrying.stage {
            Stage::Settled(_) => link.answers.next(BURST, interval),
            Stage::Waits | Stage::Delivered(_) | Stage::Opened => carrying.until,
        });
        let is_opened = link.taken.iter().any(|(_, fate)| fate.is_some());
        let taken = is_opened.then(|| link.takes.next(BURST, interval));
        carries.chain(taken).chain(link.choice.due(interval)).min()
    }

    fn awaited_since(cx: &Context, at: Instance) -> Option<Time> {
        let link = cx.signals.links.get(&at.link)?;
        link.deliveries
            .since()
            .into_iter()
            .chain(link.asked.since())
            .chain(link.choice.since())
            .min()
    }

    fn is_owed(cx: &Context, at: Instance) -> bool {
        let link = cx.signals.links.get(&at.link);
        link.is_some_and(|link| {
            !link.carries.is_empty() || !link.taken.is_empty() || link.choice.is_owed()
        })
    }

    fn due(cx: &Context, _: usize) -> Option<Time> {
        own::due(cx)
    }

    fn expire(cx: &mut Context, _: usize) {
        own::expire(cx);
    }
}

/// The peer wants something carried.
fn on_carry(cx: &mut Context, at: Instance, carry: Carry) -> Result<(), Violation> {
    let link = cx.signals.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R18.1
    if link.carries.len() >= link.terms.ours.requests as usize {
        return Err(Violation::RequestPermit);
    }
    let number = link.next_carry;
    link.next_carry = number.wrapping_add(1);
    let until = cx.now + cx.config.limits.signal_patience;
    let Carry { to, payload } = carry;
    let stage = receive(cx, (at.link, number), to, &payload);
    if let Some(link) = cx.signals.links.get_mut(&at.link) {
        link.carries.insert(number, Carrying { to, payload, until, stage });
        cx.links.wake(at.link, at.slot);
    }
    Ok(())
}

/// Finds out whether a signal can be delivered, and queues it.
fn receive(cx: &mut Context, of: Of, to: PeerId, payload: &Bytes) -> Stage {
    let Some(from) = peer_of(cx, of.0) else { return Stage::Settled(SignalFate::NotConnected) };
    if to == cx.config.peer {
        // R18.7
        let fate = offer::heard(cx, Place::Carried(of), [from, from], payload);
        return fate.map_or(Stage::Opened, Stage::Settled);
    }
    match way_to(cx, &to) {
        _ if to == from => return Stage::Settled(SignalFate::NotConnected),
        Way::By(_, theirs) if theirs.bodies == 0 => return Stage::Settled(SignalFate::Unwanted),
        Way::By(at, _) => cx.links.wake(at.link, at.slot),
        Way::Coming => {}
        Way::None => return Stage::Settled(SignalFate::NotConnected),
    }
    cx.signals.waiting.entry(to).or_default().push(of.0, of.1);
    Stage::Waits
}

/// A signal of a peer has to be delivered again.
fn wait_again(cx: &mut Context, of: Of) {
    let asker = cx.signals.links.get_mut(&of.0);
    if let Some(carrying) = asker.and_then(|link| link.carries.get_mut(&of.1)) {
        carrying.stage = Stage::Waits;
        let to = carrying.to;
        cx.signals.waiting.entry(to).or_default().push(of.0, of.1);
    }
}

/// The peer carries something to this node.
fn on_deliver(cx: &mut Context, at: Instance, delivery: Delivery) -> Result<(), Violation> {
    let via = peer_of(cx, at.link).ok_or(Violation::UnknownChannel)?;
    let link = cx.signals.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R18.2
    if link.taken.len() >= link.terms.ours.bodies as usize {
        return Err(Violation::BodyPermit);
    }
    let Delivery { from, payload } = delivery;
    let number = link.next_delivery;
    link.next_delivery = number.wrapping_add(1);
    let fate = offer::heard(cx, Place::Delivered((at.link, number)), [via, from], &payload);
    if let Some(link) = cx.signals.links.get_mut(&at.link) {
        link.taken.push_back((number, fate));
    }
    cx.links.wake(at.link, at.slot);
    Ok(())
}

/// A signal for this node was opened.
pub(crate) fn heard_out(cx: &mut Context, place: Place, fate: SignalFate) {
    match place {
        Place::Carried(of) => settle(cx, of, fate),
        Place::Delivered((link, number)) => {
            let Some(link) = cx.signals.links.get_mut(&link) else { return };
            let taken = link.taken.iter_mut().find(|(taken, _)| *taken == number);
            if let Some((_, waits)) = taken {
                *waits = Some(fate);
                cx.links.wake(link.at.link, link.at.slot);
            }
        }
    }
}

/// Connected peers that carry signals.
pub(crate) fn carriers(cx: &mut Context) -> Vec<PeerId> {
    cx.stats.worked(cx.signals.links.len() as u64);
    let carry = cx.signals.links.iter().filter(|(id, side)| {
        side.terms.theirs.requests > 0 && cx.links.get(**id).is_some_and(|link| link.up)
    });
    carry.filter_map(|(id, _)| peer_of(cx, *id)).collect()
}

/// The peer has what was carried to it.
fn on_delivered(cx: &mut Context, at: Instance, settled: &Settled) -> Result<(), Violation> {
    let link = cx.signals.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R18.3
    let of = link.deliveries.remove(settled.number).ok_or(Violation::Unasked)?;
    cx.links.wake(at.link, at.slot);
    if let Some(of) = of {
        settle(cx, of, settled.fate);
    }
    Ok(())
}

/// It is known what became of a signal of a peer.
fn settle(cx: &mut Context, of: Of, fate: SignalFate) {
    let Some(link) = cx.signals.links.get_mut(&of.0) else { return };
    if let Some(carrying) = link.carries.get_mut(&of.1) {
        carrying.stage = Stage::Settled(fate);
        carrying.payload = Bytes::new();
        cx.links.wake(link.at.link, link.at.slot);
    }
}

/// Nobody waits any more for what becomes of a signal of a peer.
fn abandon(cx: &mut Context, of: Of, to: &PeerId, stage: Stage) {
    match stage {
        Stage::Waits => {
            if let Some(waiting) = cx.signals.waiting.get_mut(to) {
                waiting.remove(&of.0, &of.1);
                forget_if_empty(&mut cx.signals.waiting, to);
            }
        }
        Stage::Delivered((receiver, number)) => {
            // Its permit is out until the receiver answers. R18.8
            let receiver = cx.signals.links.get_mut(&receiver);
            if let Some(waits) = receiver.and_then(|link| link.deliveries.get_mut(number)) {
                *waits = None;
            }
        }
        Stage::Opened | Stage::Settled(_) => {}
    }
}

/// A queue is kept only as long as something waits in it.
fn forget_if_empty<K, V>(queues: &mut BTreeMap<PeerId, Turns<K, V>>, peer: &PeerId)
where
    K: Copy + Ord,
{
    if queues.get(peer).is_some_and(Turns::is_empty) {
        queues.remove(peer);
    }
}

/// What a peer has waited for too long is answered. R18.4
fn give_up(cx: &mut Context, asker: ConnectionId) {
    let now = cx.now;
    let Some(link) = cx.signals.links.get(&asker) else { return };
    let is_late =
        |carrying: &Carrying| carrying.until <= now && !matches!(carrying.stage, Stage::Settled(_));
    let late = link.carries.iter().filter(|(_, carrying)| is_late(carrying));
    let late = late.map(|(number, carrying)| (*number, carrying.to, carrying.stage));
    for (number, to, stage) in late.collect::<Vec<_>>() {
        abandon(cx, (asker, number), &to, stage);
        settle(cx, (asker, number), SignalFate::Busy);
    }
}

/// A permit that goes back to the peer, when it is time. R18.9
fn poll_answer(cx: &mut Context, at: Instance) -> Option<SignalMessage> {
    let (now, interval) = (cx.now, cx.config.limits.signal_interval);
    let link = cx.signals.links.get_mut(&at.link)?;
    let settled = link.carries.iter().find_map(|(number, carrying)| match carrying.stage {
        Stage::Settled(fate) => Some(Settled { number: *number, fate }),
        _ => None,
    });
    if let Some(settled) = settled
        && link.answers.next(BURST, interval) <= now
    {
        link.answers.take(interval, now);
        link.carries.remove(&settled.number);
        return Some(SignalMessage::Carried(settled));
    }
    let opened = link.taken.iter().enumerate();
    let opened = opened.filter_map(|(at, (number, fate))| Some((at, *number, (*fate)?))).next();
    if link.takes.next(BURST, interval) <= now
        && let Some((at, number, fate)) = opened
    {
        link.takes.take(interval, now);
        link.taken.remove(at);
        return Some(SignalMessage::Delivered(Settled { number, fate }));
    }
    None
}

/// What another peer has for this one, if this one has a permit left for it. R18.2
fn poll_delivery(cx: &mut Context, at: Instance) -> Option<Delivery> {
    let receiver = peer_of(cx, at.link)?;
    let link = cx.signals.links.get(&at.link)?;
    let is_full = link.deliveries.len() >= link.terms.theirs.bodies.min(MOST_OUT) as usize;
    if is_full || !cx.signals.waiting.contains_key(&receiver) {
        return None;
    }
    if is_replaced(cx, at.link) {
        return None;
    }
    let of = next_for(cx, &receiver)?;
    let from = peer_of(cx, of.0)?;
    let link = cx.signals.links.get_mut(&at.link)?;
    let number = link.deliveries.push(Some(of), cx.now);
    let carrying = cx.signals.links.get_mut(&of.0)?.carries.get_mut(&of.1)?;
    carrying.stage = Stage::Delivered((at.link, number));
    // R18.5
    Some(Delivery { from, payload: carrying.payload.clone() })
}

/// What is delivered next to a receiver: nothing that is late, though its asker was not told yet.
fn next_for(cx: &mut Context, receiver: &PeerId) -> Option<Of> {
    let (signals, now) = (&mut cx.signals, cx.now);
    let next = std::iter::from_fn(|| signals.waiting.get_mut(receiver)?.pop(|_| true)).find(|of| {
        let asker = signals.links.get(&of.0);
        asker.and_then(|link| link.carries.get(&of.1)).is_some_and(|it| it.until > now)
    });
    forget_if_empty(&mut cx.signals.waiting, receiver);
    next
}

#[cfg(test)]
impl Signals {
    /// Signals that are kept for others, and answers that are awaited.
    pub(crate) fn open(&self) -> usize {
        let of = |link: &SignalLink| {
            link.carries.len() + link.taken.len() + link.deliveries.len() + link.asked.len()
        };
        let links: usize = self.links.values().map(of).sum();
        links + self.waiting.len() + self.own.len() + self.deadlines.len()
    }
}
