//! The channel of a pool (specification section 7).
//!
//! ```text
//! A → B   Announce, Push          under B's permits, numbered together
//! B → A   Fetch                   of numbers whose permits are out
//! A → B   Answer, Chunk, Gone
//! B → A   Return                  when B has its verdict, with a report
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use super::budget::Reserved;
use super::facts::Facts;
use super::link::{Asked, Incoming, PoolLink, Requested};
use super::{Entry, How, Ordinal, Source, arrived, release, report, spend_for};
use crate::channel::{Channel as ChannelTrait, Context, Kind, steps};
use crate::chunk::{self, Receiving};
use crate::config::{Config, PoolSpec};
use crate::link::Instance;
use crate::permit::{Spent, Terms};
use crate::route::{Candidate, Delivery, decide};
use crate::rules::Rules;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{
    Announcement, Answer, Body, Grant, MAX_ANNOUNCEMENTS, MAX_FETCH, MAX_FRAME, Offer,
    OfferedVersion, PoolMessage, Report, Return,
};

/// The channel of one pool.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "pool";
    const FIXED: Option<u32> = None;
    const MAX_FRAME: usize = MAX_FRAME;
    type Message = PoolMessage;

    fn offers(config: &Config, rules: &dyn Rules) -> Vec<Offer> {
        let offer = |spec: &PoolSpec| {
            let version = |number: &u32| OfferedVersion {
                number: *number,
                rules: spec.rules_digest(rules.id(), *number),
            };
            Offer {
                kind: Kind::Pool.number(),
                name: spec.name.clone(),
                versions: spec.versions.iter().map(version).collect(),
                grant: spec.grant.clone(),
                capacity: spec.capacity,
            }
        };
        config.pools.iter().map(offer).collect()
    }

    fn on_up(cx: &mut Context, at: Instance, terms: &Terms) {
        let pool = &mut cx.pools[at.index];
        let ordinal = pool.free_ordinal();
        let mut side = PoolLink::new(at, terms, pool.next, ordinal);
        side.dialed = cx.links.was_dialed(at.link);
        if let Some(older) = cx.control.replaces(at.link)
            && let Some(older) = pool.links.get_mut(&older)
        {
            side.succeeds(older);
            let looked_at = also_known(&mut pool.log, older.ordinal, ordinal);
            cx.caused(at.link, steps(looked_at));
        }
        let pool = &mut cx.pools[at.index];
        // The connection that replaces this one may have come up first.
        let newer = cx.control.replaced_by(at.link);
        side.successor = newer.filter(|newer| pool.links.contains_key(newer));
        pool.links.insert(at.link, side);
    }

    fn on_down(cx: &mut Context, at: Instance) {
        let pool = &mut cx.pools[at.index];
        let others = pool.fetcher.link_down(at.link, cx.now);
        pool.wake(others, &mut cx.links);
        let Some(mut side) = pool.links.remove(&at.link) else { return };
        hand_over(cx, at.index, &mut side);
        // Items waiting for a verdict stay charged until then: their charges are in
        // [`Pending`](super::Pending).
        for requested in std::mem::take(&mut side.requested).into_values() {
            cx.fetches.free(requested.on_node);
        }
        cx.caused(at.link, side.ledger.unpaid());
        let pool = &mut cx.pools[at.index];
        // The ordinal can be reused by another link.
        for entry in pool.log.values_mut() {
            entry.known_by.remove(side.ordinal);
        }
        for pending in pool.pending.values_mut() {
            pending.sources.retain(|source| source.link != at.link);
        }
        super::withdraw(cx, at);
    }

    fn was_asked(message: &PoolMessage) -> bool {
        // Bodies are charged when their permits go back.
        !matches!(message, PoolMessage::Announce(_) | PoolMessage::Fetch(_))
    }

    fn on_message(cx: &mut Context, at: Instance, message: PoolMessage) -> Result<(), Violation> {
        match message {
            // R6.2.3
            PoolMessage::Return(list) if list.is_empty() => Err(Violation::Empty),
            PoolMessage::Announce(list) if list.is_empty() => Err(Violation::Empty),
            PoolMessage::Fetch(list) | PoolMessage::Gone(list) if list.is_empty() => {
                Err(Violation::Empty)
            }
            PoolMessage::Return(returns) => on_return(cx, at, returns),
            PoolMessage::Announce(announcements) => on_announce(cx, at, &announcements),
            PoolMessage::Push(body) => on_push(cx, at, body),
            PoolMessage::Fetch(numbers) => on_fetch(cx, at, numbers),
            PoolMessage::Answer(answer) => on_answer(cx, at, answer),
            PoolMessage::Chunk(chunk) => on_chunk(cx, at, &chunk),
            PoolMessage::Gone(numbers) => on_gone(cx, at, numbers),
        }
    }

    fn poll_message(cx: &mut Context, at: Instance) -> Option<PoolMessage> {
        let room = cx.room(at.link);
        let side = cx.pools[at.index].links.get_mut(&at.link)?;
        if let Some(leaving) = side.ledger.take_returns(cx.now, room) {
            cx.caused(at.link, leaving.cost);
            return Some(PoolMessage::Return(leaving.returns));
        }
        if let Some(chunk) = side.next_chunk() {
            return Some(PoolMessage::Chunk(chunk));
        }
        if let Some(fetch) = poll_fetch(cx, at) {
            return Some(fetch);
        }
        let pool = &mut cx.pools[at.index];
        let side = pool.links.get_mut(&at.link)?;
        side.answer_next = !side.answer_next;
        if side.answer_next {
            poll_answer(cx, at).or_else(|| poll_entries(cx, at))
        } else {
            poll_entries(cx, at).or_else(|| poll_answer(cx, at))
        }
    }

    fn deadline(cx: &Context, at: Instance) -> Option<Time> {
        let side = cx.pools[at.index].links.get(&at.link)?;
        side.ledger.returns_due()
    }

    fn awaited_since(cx: &Context, at: Instance) -> Option<Time> {
        cx.pools[at.index].links.get(&at.link)?.ledger.holder.awaited_since()
    }

    fn is_owed(cx: &Context, at: Instance) -> bool {
        cx.pools[at.index].links.get(&at.link).is_some_and(|side| side.ledger.issuer.is_owed())
    }

    fn instances(config: &Config) -> usize {
        config.pools.len()
    }

    fn due(cx: &Context, index: usize) -> Option<Time> {
        cx.pools[index].deadline()
    }

    fn expire(cx: &mut Context, index: usize) {
        super::expire(cx, index);
    }

    fn raise(cx: &mut Context, at: Instance, grant: &Grant) -> Option<Grant> {
        let side = cx.pools[at.index].links.get_mut(&at.link)?;
        let issuer = &mut side.ledger.issuer;
        issuer.raise(grant).then(|| issuer.grant().clone())
    }

    fn raised(cx: &mut Context, at: Instance, grant: &Grant) -> Result<(), Violation> {
        let pool = &mut cx.pools[at.index];
        let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
        side.ledger.holder.raise(grant)?;
        cx.links.wake(at.link, at.slot);
        Ok(())
    }
}

/// A link is gone that is one of several to the same process. Another one takes over its cursors
/// and what it held back. Whatever the peer has not returned may never have arrived, so it is
/// offered again.
fn hand_over(cx: &mut Context, index: usize, gone: &mut PoolLink) {
    let (pool, id) = (&mut cx.pools[index], gone.at.link);
    let successor = gone.successor.filter(|successor| pool.links.contains_key(successor));
    let older = pool.links.iter().find(|(_, side)| side.successor == Some(id)).map(|(id, _)| *id);
    let mut looked_at = 0;
    let heir = match (successor, older) {
        (Some(successor), _) => {
            // The link in the middle of three: the oldest is succeeded by the newest now.
            let older = older.and_then(|older| pool.links.get_mut(&older));
            older.into_iter().for_each(|older| older.successor = Some(successor));
            let Some(heir) = pool.links.get_mut(&successor) else { return };
            heir.inherits_no_more();
            heir
        }
        (None, Some(older)) => {
            let Some(heir) = pool.links.get_mut(&older) else { return };
            heir.resumes(gone);
            looked_at = also_known(&mut pool.log, gone.ordinal, heir.ordinal);
            heir
        }
        (None, None) => return,
    };
    for sent in gone.ledger.holder.all_out() {
        let entry = pool.log.get(&sent.position);
        let entry = entry.filter(|entry| !entry.known_by.contains(heir.ordinal));
        entry.into_iter().for_each(|entry| heir.hold_back(sent.position, entry.from));
    }
    cx.links.wake(heir.at.link, heir.at.slot);
    cx.caused(id, steps(looked_at));
}

/// Marks everything known by one ordinal as known by another, of the same peer. Returns how many
/// entries were looked at.
fn also_known(log: &mut BTreeMap<u64, Entry>, by: Ordinal, too: Ordinal) -> u64 {
    for entry in log.values_mut().filter(|entry| entry.known_by.contains(by)) {
        entry.known_by.extend([too]);
    }
    log.len() as u64
}

fn on_return(cx: &mut Context, at: Instance, returns: Vec<Return>) -> Result<(), Violation> {
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // Entries that the peer ignored: offered again at its next tip.
    let mut again = Vec::new();
    let successor = side.successor;
    let successor = successor.and_then(|id| pool.links.get(&id)).map(|side| side.ordinal);
    let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    for Return { number, report } in returns {
        let (_, sent) = side.ledger.holder.returned(number)?;
        let Some(entry) = pool.log.get_mut(&sent.position) else { continue };
        match report {
            Report::Ignored => {
                again.push((sent, entry.from));
            }
            Report::First | Report::Late | Report::Duplicate => {
                entry.known_by.extend([Some(side.ordinal), successor].into_iter().flatten());
            }
            Report::Surplus | Report::Rejected => {}
        }
    }
    let (count, next) = (again.len() as u64, side.successor);
    let next = next.filter(|next| pool.links.contains_key(next)).unwrap_or(at.link);
    if let Some(side) = pool.links.get_mut(&next) {
        for (sent, from) in again {
            if next == at.link {
                side.ignored(&sent, from);
            } else {
                // The tip may have changed between the two links: offer it once more in any case.
                side.hold_back(sent.position, from);
            }
        }
    }
    // The peer can make this happen at each of its tips, so it is charged for it.
    cx.caused(at.link, count);
    cx.links.wake(at.link, at.slot);
    Ok(())
}

fn on_announce(
    cx: &mut Context,
    at: Instance,
    announcements: &[Announcement],
) -> Result<(), Violation> {
    cx.stats.worked(announcements.len() as u64);
    for Announcement { id: alias, facts } in announcements {
        let pool = &mut cx.pools[at.index];
        let facts = Facts::from_wire(*facts);
        let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
        let number = side.ledger.issuer.announcement()?;
        // R7.3.3
        if facts.size_floor() >= pool.spec.max_item {
            return Err(Violation::ItemTooLarge);
        }
        let source = Source { link: at.link, number, how: How::Announced };
        let Some(id) = pool.aliases.get(alias).copied() else {
            if pool.fetcher.is_candidate(*alias, at.link) {
                // A repeated announcement.
                report(cx, at.index, source, Report::Duplicate);
                continue;
            }
            pool.wanted(*alias, at.link, number, facts, cx.now);
            continue;
        };
        if pool.is_known_by(&id, at.link) {
            report(cx, at.index, source, Report::Duplicate);
        } else if let Some(pending) = pool.pending.get_mut(&id)
            && let Some(outcome) = pending.another(source)
        {
            report(cx, at.index, source, outcome);
        }
    }
    cx.links.wake(at.link, at.slot);
    Ok(())
}

fn on_push(cx: &mut Context, at: Instance, body: Body) -> Result<(), Violation> {
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    match body {
        Body::Whole(body) => {
            let number = side.ledger.issuer.body(body.len() as u32)?;
            arrived(cx, at, number, body, How::Pushed, None)
        }
        Body::Chunked(start) => {
            if side.incoming.is_some() {
                // R6.4.5
                return Err(Violation::OutOfTurn);
            }
            let body = Receiving::new(&start, pool.spec.max_item as usize)?;
            // R6.2.2
            let number = side.ledger.issuer.body(start.size)?;
            side.incoming = Some(Incoming { body, number, is_answer: false });
            Ok(())
        }
    }
}

fn on_fetch(cx: &mut Context, at: Instance, numbers: Vec<u32>) -> Result<(), Violation> {
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    for number in numbers {
        let Some((Spent::Announcement, sent)) = side.ledger.holder.look_up_mut(number) else {
            // R7.3.4
            return Err(Violation::UnknownNumber);
        };
        // R7.3.5
        if std::mem::replace(&mut sent.asked, true) {
            return Err(Violation::RequestPermit);
        }
        let bound = sent.bound;
        side.ledger.issuer.request(bound)?;
        side.asked.push_back(Asked { number, bound });
    }
    cx.links.wake(at.link, at.slot);
    Ok(())
}

fn on_answer(cx: &mut Context, at: Instance, answer: Answer) -> Result<(), Violation> {
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let number = answer.number;
    // A chunked answer leaves its request open until the last chunk, so that the request is still
    // freed with the link, and still times out. R7.3.7, R7.3.12
    let bound = side.requested.get(&number).ok_or(Violation::Unasked)?.bound;
    match answer.body {
        Body::Whole(_) if side.is_receiving(number) => Err(Violation::Unasked),
        Body::Whole(body) => answered(cx, at, number, body),
        Body::Chunked(start) => {
            if side.incoming.is_some() {
                return Err(Violation::OutOfTurn);
            }
            if start.size > bound {
                return Err(Violation::WrongBody);
            }
            let body = Receiving::new(&start, pool.spec.max_item as usize)?;
            side.incoming = Some(Incoming { body, number, is_answer: true });
            Ok(())
        }
    }
}

/// The complete answer to a request: it must be the item that was announced.
fn answered(cx: &mut Context, at: Instance, number: u32, body: Bytes) -> Result<(), Violation> {
    let now = cx.now;
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let requested = side.requested.remove(&number).ok_or(Violation::Unasked)?;
    side.ledger.holder.answered(requested.bound);
    if let Some(link) = cx.links.get_mut(at.link) {
        link.measured_rate(body.len() as u64, now.since(requested.sent));
    }
    let Requested { alias, bound, on_link, on_node, .. } = requested;
    let mut reserved = Reserved { link: at.link, on_link, on_node };
    let pool = &cx.pools[at.index];
    let id = cx.rules.item_id(&pool.spec.name, &body);
    // R7.3.8
    if pool.alias(&id) != alias || body.len() > bound as usize {
        release(cx, at.index, Some(reserved));
        return Err(Violation::WrongBody);
    }
    // If the request timed out, the node's share was freed and must fit again; if the item came
    // from another peer meanwhile, the body is not kept, and nothing needs to fit.
    let here = pool.aliases.contains_key(&alias);
    let offered = pool.links.get(&at.link).is_some_and(|side| side.offered.contains(&number));
    let more = bound - reserved.on_node.bytes();
    if offered && (here || cx.fetches.fits(more, cx.config.limits.fetch_bytes_node)) {
        cx.fetches.raise(&mut reserved.on_node, bound);
        return arrived(cx, at, number, body, How::Fetched, Some(reserved));
    }
    // No room, or the permit has been returned already: another peer was faster, or the fetch was
    // given up.
    release(cx, at.index, Some(reserved));
    if offered {
        let source = Source { link: at.link, number, how: How::Fetched };
        report(cx, at.index, source, Report::Ignored);
    }
    Ok(())
}

fn on_chunk(cx: &mut Context, at: Instance, chunk: &[u8]) -> Result<(), Violation> {
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R6.4.6
    let incoming = side.incoming.as_mut().ok_or(Violation::Unasked)?;
    if !incoming.body.push(chunk)? {
        return Ok(());
    }
    let Some(Incoming { body, number, is_answer }) = side.incoming.take() else { return Ok(()) };
    if is_answer {
        answered(cx, at, number, body.finish())
    } else {
        arrived(cx, at, number, body.finish(), How::Pushed, None)
    }
}

fn on_gone(cx: &mut Context, at: Instance, numbers: Vec<u32>) -> Result<(), Violation> {
    let pool = &mut cx.pools[at.index];
    for number in numbers {
        let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
        // R7.3.7
        if side.is_receiving(number) {
            return Err(Violation::Unasked);
        }
        let requested = side.requested.remove(&number).ok_or(Violation::Unasked)?;
        side.ledger.holder.answered(requested.bound);
        side.reserved.free(requested.on_link);
        cx.fetches.free(requested.on_node);
        let others = pool.fetcher.failed(requested.alias, at.link, number, cx.now);
        pool.wake(others, &mut cx.links);
        // Another peer may have delivered it. This one needs no report about it any more.
        if let Some(pending) = pool.aliases.get(&requested.alias)
            && let Some(pending) = pool.pending.get_mut(pending)
        {
            pending.sources.retain(|s| (s.link, s.number) != (at.link, number));
        }
        // The permit may have been returned already.
        let side = pool.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
        if side.offered.contains(&number) {
            side.give_back(number, Report::Ignored, cx.now);
        }
    }
    cx.links.wake(at.link, at.slot);
    Ok(())
}

/// Requests announced items, the best first.
fn poll_fetch(cx: &mut Context, at: Instance) -> Option<PoolMessage> {
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link)?;
    let fastest = cx.links.fastest(at.link);
    let link = cx.links.get(at.link)?;
    let limits = &cx.config.limits;
    let (mut numbers, mut others) = (Vec::new(), Vec::new());
    let most = side.ledger.issuer.grant().announcements as usize;
    // Requests that timed out stay open, since the answer may still come.
    while numbers.len() < MAX_FETCH && side.requested.len() < most {
        // A single item always fits, on the link and on the node.
        let fits = |_: &u64, bytes: u32| {
            let on_link = side.reserved.allows(bytes, limits.fetch_bytes_link);
            let on_node = cx.fetches.allows(bytes, limits.fetch_bytes_node);
            let mine = on_link && side.ledger.holder.allows_request(bytes);
            if mine && !on_node {
                cx.fetches.wait();
            }
            mine && on_node
        };
        let until = |bytes, late| link.waits(bytes, late, fastest, cx.now);
        let Some(request) = pool.fetcher.next_for(at.link, fits, until) else { break };
        if !side.ledger.issuer.owes(request.tag) {
            // The permit was returned with another item of the same alias: aliases may collide.
            // R7.3.4
            others.extend(pool.fetcher.failed(request.key, at.link, request.tag, cx.now));
            continue;
        }
        side.ledger.holder.request(request.size, cx.now);
        let (alias, bound) = (request.key, request.size);
        let (on_link, on_node) = (side.reserved.charge(bound), cx.fetches.charge(bound));
        let requested = Requested { alias, bound, on_link, on_node, sent: cx.now };
        side.requested.insert(request.tag, requested);
        numbers.push(request.tag);
    }
    pool.wake(others, &mut cx.links);
    (!numbers.is_empty()).then_some(PoolMessage::Fetch(numbers))
}

/// Answers the peer's requests in order. R7.3.6
///
/// Items that have left the pool are collected into one `Gone` message. Each `Answer` carries one
/// body, so a message is either the next body or the run of missing ones before it, and whatever
/// follows waits for the next poll. What a request was charged with is freed when its answer has
/// left: for a large body that is after the last chunk.
fn poll_answer(cx: &mut Context, at: Instance) -> Option<PoolMessage> {
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link)?;
    let mut gone = Vec::new();
    while let Some(&Asked { number, bound }) = side.asked.front() {
        let position = side.ledger.holder.look_up(number).map(|(_, sent)| sent.position);
        let entry = position.and_then(|position| pool.log.get(&position));
        let item = entry.and_then(|entry| pool.content.item(&entry.id));
        match item {
            None if gone.len() < MAX_FETCH => gone.push(number),
            Some(item) if gone.is_empty() => {
                side.asked.pop_front();
                let (body, rest) = chunk::start(&item.body);
                side.sends(rest, Some(bound));
                return Some(PoolMessage::Answer(Answer { number, body }));
            }
            _ => break,
        }
        side.asked.pop_front();
        side.ledger.issuer.answered(bound);
    }
    (!gone.is_empty()).then_some(PoolMessage::Gone(gone))
}

/// Announces or pushes the log entries that the link has not read yet.
fn poll_entries(cx: &mut Context, at: Instance) -> Option<PoolMessage> {
    let link = cx.links.get(at.link)?;
    let (height, salt) = (link.height(), link.salt);
    let pool = &mut cx.pools[at.index];
    let side = pool.links.get_mut(&at.link).filter(|side| side.successor.is_none())?;
    let mut announcements = Vec::new();
    let limit = cx.config.limits.held_back;
    let (mut only_new, mut old) = (false, false);
    while announcements.len() < MAX_ANNOUNCEMENTS {
        let next = side.next_position(&pool.log, height, limit, only_new);
        let Some(position) = next else { break };
        let Some(entry) = pool.log.get(&position) else {
            side.pass(position);
            continue;
        };
        // R7.4.1
        if entry.from > height {
            side.pass(position);
            side.hold_back(position, entry.from);
            continue;
        }
        let candidate = Candidate {
            has_it: entry.known_by.contains(side.ordinal),
            old: side.is_old(position),
            small: entry.size <= pool.spec.inline as usize,
            body_permit: side.ledger.holder.allows(spend_for(entry, true)),
        };
        let delivery = decide(candidate);
        let bound = entry.facts.size_bound().min(pool.spec.max_item);
        let sent = side.sent(position, bound);
        match delivery {
            Delivery::Nothing => side.pass(position),
            // Announcements made so far leave first: permit numbers follow the order of the stream.
            Delivery::Body if !announcements.is_empty() => break,
            Delivery::Body => {
                side.pass(position);
                side.ledger.holder.spend(spend_for(entry, true), sent, cx.now);
                let item = pool.content.item(&entry.id).expect("the log is that of the content");
                let (body, rest) = chunk::start(&item.body);
                side.sends(rest, None);
                return Some(PoolMessage::Push(body));
            }
            // R7.4.2
            Delivery::Announcement if !side.ledger.holder.allows(Spent::Announcement) => {
                if only_new || !candidate.old {
                    break;
                }
                // Old entries need an announcement permit; new ones may still be pushed under a
                // body permit.
                only_new = true;
            }
            Delivery::Announcement => {
                side.pass(position);
                side.ledger.holder.spend(Spent::Announcement, sent, cx.now);
                old |= candidate.old;
                let facts = entry.facts.aged(cx.now.since(entry.added)).to_wire();
                announcements.push(Announcement { id: super::alias(&salt, &entry.id), facts });
            }
        }
    }
    if old {
        side.announced_old();
    }
    (!announcements.is_empty()).then_some(PoolMessage::Announce(announcements))
}
