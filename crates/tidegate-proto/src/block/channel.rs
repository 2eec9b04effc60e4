//! The channel of blocks (specification section 9).
//!
//! ```text
//! A → B   Push                        a compact block under a body permit
//! B → A   Fetch                       a header, a compact block, ids, items
//! A → B   Header, Compact, Ids, Item (with Chunks), NotHere
//! B → A   Return                      when B is done with a push, with a report
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;

use super::link::{Asked, BlockLink, Incoming, Late, Noted, Part, Wait};
use super::reconstruct::Delivered;
use super::{
    abandon, advance, can_be_asked, give_back, headers, keep, mark_bad, reconstruct, serve, sync,
    wake_block,
};
use crate::channel::{Channel as ChannelTrait, Context, Kind, steps};
use crate::chunk::Receiving;
use crate::config::Config;
use crate::fetch::LOOK_AGAIN;
use crate::id::{BlockId, ConnectionId, ItemId, PoolIndex};
use crate::link::Instance;
use crate::permit::{Spent, Terms};
use crate::pool::{self, Pool};
use crate::route::{Candidate, Delivery, decide};
use crate::rules::Rules;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire;
use crate::wire::{
    BlockFetch, BlockIds, BlockMessage, BlockPart, BlockWant, MAX_FRAME, MAX_INDICES, NotHere,
    Offer, OfferedVersion, Report,
};

/// The channel of blocks.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "block";
    const FIXED: Option<u32> = None;
    const MAX_FRAME: usize = MAX_FRAME;
    type Message = BlockMessage;

    fn offers(config: &Config, rules: &dyn Rules) -> Vec<Offer> {
        // R5.7.9
        let rules = config.block_rules_digest(rules.id());
        let offer = Offer {
            kind: Kind::Block.number(),
            name: String::new(),
            versions: vec![OfferedVersion { number: 1, rules }],
            grant: config.limits.block_grant.clone(),
            capacity: u64::from(config.limits.blocks_kept),
        };
        config.genesis.iter().map(|_| offer.clone()).collect()
    }

    fn on_up(cx: &mut Context, at: Instance, terms: &Terms) {
        let best = cx.tip.best().map(|best| best.block);
        cx.blocks.links.insert(at.link, BlockLink::new(at, terms, best));
        headers::link_up(cx, at.link);
    }

    fn on_down(cx: &mut Context, at: Instance) {
        for connection in cx.blocks.fetcher.link_down(at.link, cx.now) {
            wake_block(cx, connection);
        }
        let Some(side) = cx.blocks.links.remove(&at.link) else { return };
        // Unproven claims are charged.
        let looked_up = cx.blocks.building.values().flat_map(|building| &building.looked_up);
        let work = looked_up.filter(|looked_up| looked_up.link == at.link).map(|own| own.work);
        let looked_up = work.map(steps).sum::<u64>();
        cx.caused(at.link, side.ledger.unpaid() + looked_up);
        for request in side.requests {
            lost(cx, at.link, request.late(true));
        }
        for block in cx.blocks.building.keys().copied().collect::<Vec<_>>() {
            if let Some(building) = cx.blocks.building.get_mut(&block) {
                building.forget_source(at.link);
                building.looked_up.retain(|looked_up| looked_up.link != at.link);
                advance(cx, block);
            }
        }
        headers::link_down(cx, at.link);
    }

    fn was_asked(message: &BlockMessage) -> bool {
        !matches!(message, BlockMessage::Push(_) | BlockMessage::Fetch(_))
    }

    fn on_message(cx: &mut Context, at: Instance, message: BlockMessage) -> Result<(), Violation> {
        // It may be asked for more now, or be owed an answer.
        cx.links.wake(at.link, at.slot);
        let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
        match message {
            // R6.2.3
            BlockMessage::Return(list) if list.is_empty() => Err(Violation::Empty),
            BlockMessage::Return(returns) => {
                for back in returns {
                    side.ledger.holder.returned(back.number)?;
                }
                Ok(())
            }
            BlockMessage::Push(compact) => {
                let number = side.ledger.issuer.body(size(&compact))?;
                let facts = headers::parse(cx, &compact.header)?;
                let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
                match side.from_peer.note(&facts) {
                    Noted::First => {
                        headers::compact_with_header(cx, at.link, facts, compact, Some(number))
                    }
                    Noted::Again => {
                        give_back(cx, at.link, number, Report::Duplicate);
                        Ok(())
                    }
                    // R9.2.5
                    Noted::Another => Err(Violation::SecondBody),
                }
            }
            BlockMessage::Fetch(fetch) => on_fetch(cx, at, fetch),
            BlockMessage::Header(header) => headers::header_answered(cx, at.link, header),
            BlockMessage::Compact(compact) => {
                let facts = headers::parse(cx, &compact.header)?;
                let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
                let request = side.find(&facts.block, BlockPart::Compact);
                // R9.2.13
                side.answered(request.ok_or(Violation::Unasked)?);
                // Requested once: if it does not lead to a block, other peers are asked.
                let key = (facts.block, BlockPart::Compact);
                let others = cx.blocks.fetcher.failed(key, at.link, 0, cx.now);
                others.into_iter().for_each(|other| wake_block(cx, other));
                headers::compact_with_header(cx, at.link, facts, compact, None)
            }
            BlockMessage::Ids(ids) => on_ids(cx, at, ids),
            BlockMessage::Item(item) => on_item(cx, at, item),
            BlockMessage::Chunk(chunk) => on_chunk(cx, at, &chunk),
            BlockMessage::NotHere(NotHere { block, part }) => {
                // R9.2.13
                let request = side.find(&block, part).ok_or(Violation::Unasked)?;
                if part == BlockPart::Items && side.is_receiving(&block) {
                    return Err(Violation::Unasked);
                }
                let request = side.answered(request);
                match request.part {
                    Part::Header | Part::Compact => {
                        let others = cx.blocks.fetcher.failed((block, part), at.link, 0, cx.now);
                        let nobody = others.is_empty();
                        others.into_iter().for_each(|other| wake_block(cx, other));
                        if nobody && is_executed(cx, at.link, &block) {
                            sync::not_in_parts(cx);
                        }
                    }
                    Part::Ids(_) | Part::Items(_) => lost(cx, at.link, request.late(true)),
                }
                Ok(())
            }
        }
    }

    fn poll_message(cx: &mut Context, at: Instance) -> Option<BlockMessage> {
        let room = cx.room(at.link);
        let side = cx.blocks.links.get_mut(&at.link)?;
        if let Some(leaving) = side.ledger.take_returns(cx.now, room) {
            cx.caused(at.link, leaving.cost);
            return Some(BlockMessage::Return(leaving.returns));
        }
        if let Some(chunk) = side.next_chunk() {
            return Some(BlockMessage::Chunk(chunk));
        }
        poll_fetch(cx, at)
            .or_else(|| poll_build(cx, at))
            .or_else(|| poll_push(cx, at))
            .or_else(|| serve::poll_answer(cx, at))
    }

    fn deadline(cx: &Context, at: Instance) -> Option<Time> {
        let side = cx.blocks.links.get(&at.link)?;
        side.ledger.returns_due()
    }

    fn awaited_since(cx: &Context, at: Instance) -> Option<Time> {
        cx.blocks.links.get(&at.link)?.ledger.holder.awaited_since()
    }

    fn is_owed(cx: &Context, at: Instance) -> bool {
        cx.blocks.links.get(&at.link).is_some_and(|side| side.ledger.issuer.is_owed())
    }

    fn due(cx: &Context, _: usize) -> Option<Time> {
        cx.blocks.deadline().into_iter().chain(cx.sync.deadline()).min()
    }

    fn expire(cx: &mut Context, _: usize) {
        super::expire(cx);
    }
}

/// Whether a peer says that it has executed a block.
fn is_executed(cx: &Context, connection: ConnectionId, block: &BlockId) -> bool {
    let known = cx.blocks.known.get(block);
    cx.links
        .get(connection)
        .zip(known)
        .is_some_and(|(link, known)| link.height() >= known.facts.height)
}

/// A request to `link` will not be answered: asks other peers, unless they have been asked.
fn lost(cx: &mut Context, connection: ConnectionId, request: Option<Late>) {
    let Some(Late { block, part, passed_on, .. }) = request else { return };
    let Some(building) = cx.blocks.building.get_mut(&block) else { return };
    if !passed_on {
        building.not_delivered(connection, &part);
    }
    building.forget_source(connection);
    advance(cx, block);
}

/// An answer is late. While it is still awaited, other peers are asked as well, dialed ones first:
/// a peer that is late on purpose cannot choose those.
pub(super) fn late(cx: &mut Context, connection: ConnectionId, late: Late) {
    if late.ended {
        return lost(cx, connection, Some(late));
    }
    let Late { block, part, .. } = late;
    let mut again = None;
    if let Some(building) = cx.blocks.building.get_mut(&block) {
        let others = building.others(connection);
        let others = others.filter(|other| can_be_asked(&cx.blocks.links, *other, &block));
        let others = others.collect::<Vec<_>>();
        let dialed = |other| cx.links.was_dialed(other);
        if others.is_empty() {
            again = Some(cx.now + LOOK_AGAIN);
        } else {
            building.is_late(connection, &part, others.into_iter().any(dialed));
        }
    }
    if let Some(side) = cx.blocks.links.get_mut(&connection) {
        side.look_again(&block, &part, again);
    }
    advance(cx, block);
}

fn on_fetch(cx: &mut Context, at: Instance, fetch: BlockFetch) -> Result<(), Violation> {
    let compact = fetch.want == BlockWant::Compact;
    let until = compact.then_some(cx.now + cx.config.limits.not_here_after);
    let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    side.ledger.issuer.request(0)?;
    if let BlockWant::Items(indices) = &fetch.want
        && (indices.is_empty() || !indices.windows(2).all(|pair| pair[0] < pair[1]))
    {
        // R9.2.10
        return Err(Violation::UnknownNumber);
    }
    side.asked.push_back(Asked { fetch, until, sent: 0 });
    Ok(())
}

fn on_ids(cx: &mut Context, at: Instance, ids: BlockIds) -> Result<(), Violation> {
    let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R9.2.13
    let request = side.find(&ids.block, BlockPart::Ids).ok_or(Violation::Unasked)?;
    if side.requests[request].part != Part::Ids(ids.first) {
        return Err(Violation::Unasked);
    }
    side.answered(request);
    if let Some(building) = cx.blocks.building.get_mut(&ids.block) {
        match building.deliver_ids(at.link, &ids, &cx.pools)? {
            Delivered::Taken => {}
            Delivered::Foreign => building.forget_source(at.link),
            // R9.2.14
            Delivered::Disproved(liar) => cx.links.end(liar, Violation::MalformedCompact),
        }
        advance(cx, ids.block);
    }
    Ok(())
}

fn on_item(cx: &mut Context, at: Instance, item: wire::BlockItem) -> Result<(), Violation> {
    let wire::BlockItem { block, index, pool: name, id, proof, body } = item;
    let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let request = side.find(&block, BlockPart::Items).ok_or(Violation::Unasked)?;
    // R9.2.13
    if !side.asks_item(request, index) || side.incoming.is_some() {
        return Err(Violation::Unasked);
    }
    // Even if the block is not under reconstruction now: it may be when the last chunk arrives. If
    // it is forgotten, the item cannot be checked and is dropped.
    let facts = cx.blocks.known.get(&block).map(|known| known.facts);
    let proven = facts.map(|facts| reconstruct::proves(&facts, index, (&name, id), &proof));
    if proven == Some(false) {
        // R9.2.12
        return Err(Violation::WrongItem);
    }
    let proven = proven == Some(true);
    let pool = pool::named(&cx.pools, &name);
    match body {
        wire::Body::Whole(body) => {
            deliver(cx, block, index, &name, id, body)?;
            item_answered(cx, at, &block, index);
            Ok(())
        }
        wire::Body::Chunked(start) => {
            // R6.4.2
            let body = Receiving::new(&start, largest_item(&cx.pools, pool) as usize)?;
            let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
            side.incoming = Some(Incoming { block, index, pool: name, id, proven, body });
            Ok(())
        }
    }
}

/// The size of the largest item of a pool; of any pool, if this node does not have it.
fn largest_item(pools: &[Pool], pool: Option<PoolIndex>) -> u32 {
    let all = pools.iter().map(|pool| pool.spec.max_item).max().unwrap_or(0);
    pool.and_then(|pool| pools.get(pool.0 as usize)).map_or(all, |pool| pool.spec.max_item)
}

/// A requested item is complete. If it proves wrong it stays requested, so that other peers are
/// asked when this connection ends. R9.2.15
fn item_answered(cx: &mut Context, at: Instance, block: &BlockId, index: u32) {
    let Some(side) = cx.blocks.links.get_mut(&at.link) else { return };
    side.item_answered(block, index);
}

fn on_chunk(cx: &mut Context, at: Instance, chunk: &[u8]) -> Result<(), Violation> {
    let side = cx.blocks.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R6.4.6
    let incoming = side.incoming.as_mut().ok_or(Violation::Unasked)?;
    if !incoming.body.push(chunk)? {
        return Ok(());
    }
    let Some(Incoming { block, index, pool, id, proven, body }) = side.incoming.take() else {
        return Ok(());
    };
    if proven {
        deliver(cx, block, index, &pool, id, body.finish())?;
    }
    item_answered(cx, at, &block, index);
    Ok(())
}

/// An item arrived whose pool and id are proven. If the block is being reconstructed, the item must
/// have that id. If it is more than a block may have of it, the block is to blame and not its
/// sender.
fn deliver(
    cx: &mut Context,
    block: BlockId,
    index: u32,
    name: &str,
    id: ItemId,
    body: Bytes,
) -> Result<(), Violation> {
    let Some(building) = cx.blocks.building.get_mut(&block) else { return Ok(()) };
    if cx.rules.item_id(name, &body) != id {
        // R9.2.12
        return Err(Violation::WrongItem);
    }
    let Some(pool) = pool::named(&cx.pools, name) else {
        // A pool that this node does not have: peers with other pools have no block channel. R9.4.1
        let liar = building.origin.take();
        mark_bad(cx, block);
        liar.into_iter().for_each(|liar| cx.links.end(liar, Violation::MalformedCompact));
        return Ok(());
    };
    if let Some(liar) = building.deliver(index, pool, id, body) {
        // R9.2.14
        cx.links.end(liar, Violation::MalformedCompact);
    }
    advance(cx, block);
    Ok(())
}

/// Requests headers and compact blocks.
fn poll_fetch(cx: &mut Context, at: Instance) -> Option<BlockMessage> {
    let side = cx.blocks.links.get_mut(&at.link)?;
    let fastest = cx.links.fastest(at.link);
    let link = cx.links.get_mut(at.link)?;
    let room = side.has_room(&cx.config.limits);
    // One header at a time, and none while another of this connection is being checked: requested
    // headers cost no permit, so they must not pile up.
    let checking = &cx.blocks.checking;
    let may_ask_header = || {
        let open = side.find_any(BlockPart::Header).is_some();
        !open && !checking.values().any(|checking| checking.is_from(at.link))
    };
    let (known, building) = (&cx.blocks.known, &cx.blocks.building);
    let fits = |(block, part): &(BlockId, BlockPart), _: u32| {
        let may_build = || {
            let facts = known.get(block).map(|known| known.facts);
            let most = cx.config.limits.reconstructions;
            facts.is_some_and(|facts| {
                keep::weakest(known, building, &*cx.rules, most, &facts).is_ok()
            })
        };
        room && if *part == BlockPart::Header { may_ask_header() } else { may_build() }
    };
    let until = |bytes, late| link.waits(bytes, late, fastest, cx.now);
    let request = cx.blocks.fetcher.next_for(at.link, fits, until)?;
    let (block, part) = request.key;
    let (part, want) = match part {
        BlockPart::Header => (Part::Header, BlockWant::Header),
        _ => (Part::Compact, BlockWant::Compact),
    };
    // The fetcher tracks the deadline.
    side.request(block, part, request.size, None, cx.now);
    Some(BlockMessage::Fetch(BlockFetch { block, want }))
}

/// Requests what blocks under reconstruction lack.
fn poll_build(cx: &mut Context, at: Instance) -> Option<BlockMessage> {
    let limits = &cx.config.limits;
    let side = cx.blocks.links.get_mut(&at.link).filter(|side| side.has_room(limits))?;
    let fastest = cx.links.fastest(at.link);
    let link = cx.links.get_mut(at.link)?;
    for (block, building) in &mut cx.blocks.building {
        if !building.may_be_asked(at.link, link.direction.is_inbound()) {
            continue;
        }
        let wait = |bytes, late| {
            let (alone, until) = link.waits(bytes, late, fastest, cx.now);
            Wait { alone: Some(alone), until }
        };
        // One list at a time: the reconstruction may have been restarted meanwhile.
        if side.find(block, BlockPart::Ids).is_none()
            && !side.is_late(block)
            && let Some(first) = building.ask_for_ids(at.link)
        {
            let wait = wait(MAX_FRAME as u32, building.late);
            side.request(*block, Part::Ids(first), MAX_FRAME as u32, Some(wait), cx.now);
            let want = BlockWant::Ids(first);
            building.has_asked(cx.now);
            return Some(BlockMessage::Fetch(BlockFetch { block: *block, want }));
        }
        if building.ids_wanted.is_some()
            || !building.has_missing()
            || side.find(block, BlockPart::Items).is_some()
        {
            continue;
        }
        // One item always fits.
        let already = side.requested_bytes();
        let mut bound = 0;
        let pools = &cx.pools;
        let batch = building.next_missing(MAX_INDICES, |pool| {
            let bytes = pools[pool.0 as usize].spec.max_item;
            let fits = bound == 0 || already + bound + bytes <= limits.fetch_bytes_link;
            bound += if fits { bytes } else { 0 };
            fits
        });
        let indices = batch.iter().copied().collect::<BTreeSet<_>>();
        let wait = wait(bound, building.late);
        side.request(*block, Part::Items(indices), bound, Some(wait), cx.now);
        let want = BlockWant::Items(batch);
        building.has_asked(cx.now);
        return Some(BlockMessage::Fetch(BlockFetch { block: *block, want }));
    }
    None
}

/// The sources of a reconstruction may never be askable: they rest, do not read, or owe earlier
/// answers. After [`PASS_ON`] the reserve is asked too, and after [`UNASKED`] the reconstruction is
/// given up so that another peer can start it again.
pub(super) fn pass_on(cx: &mut Context) {
    let (mut wake, mut given_up) = (BTreeSet::new(), Vec::new());
    for (block, building) in &mut cx.blocks.building {
        if building.ask_by().is_none_or(|at| at > cx.now) {
            continue;
        }
        let links = &cx.blocks.links;
        let owes = |source| links.get(source).is_some_and(|side| side.owes(block));
        if !building.has_to_ask() || building.sources.iter().any(owes) && !building.has_others() {
            building.unasked_since = None;
        } else if building.has_others() {
            building.pass_on();
            wake.extend(building.sources.iter().copied());
        } else {
            given_up.push(*block);
        }
    }
    wake.into_iter().for_each(|connection| wake_block(cx, connection));
    given_up.into_iter().for_each(|block| abandon(cx, block));
}

/// Pushes the best block, if it is complete and the peer has not heard of it.
fn poll_push(cx: &mut Context, at: Instance) -> Option<BlockMessage> {
    let salt = cx.links.get(at.link)?.salt;
    let best = cx.tip.best()?;
    let known = cx.blocks.known.get(&best.block)?;
    let side = cx.blocks.links.get_mut(&at.link)?;
    let (items, lacked) = serve::served(known)?;
    // R9.2.5
    if !side.to_peer.is_first(best) || side.old == Some(best.block) {
        return None;
    }
    let has_it = known.announced_by.contains(&at.link);
    // It is expensive to make: only if there is a permit for it.
    let least = Spent::Body((known.header.len() + items.len() * 6) as u32);
    // A bound of this node's own: it remembers every outstanding push, however many the peer
    // permits.
    let few = side.ledger.holder.out() < cx.config.limits.block_grant.bodies as usize;
    if has_it || !few || !side.ledger.holder.allows(least) {
        return None;
    }
    let compact = reconstruct::compact(&known.facts, &known.header, items, lacked, &cx.pools, salt);
    let spent = Spent::Body(size(&compact));
    let body_permit = side.ledger.holder.allows(spent);
    // The header on the tip channel is the announcement.
    match decide(Candidate { has_it, old: false, small: true, body_permit }) {
        Delivery::Body => {
            side.to_peer.note(best);
            side.ledger.holder.spend(spent, (), cx.now);
            Some(BlockMessage::Push(compact))
        }
        Delivery::Announcement | Delivery::Nothing => None,
    }
}

/// What a compact block is charged to the permit for bytes. R9.2.4
fn size(compact: &wire::Compact) -> u32 {
    let prefilled: usize = compact.prefilled.iter().map(|item| item.body.len()).sum();
    (compact.header.len() + compact.short_ids.len() + prefilled) as u32
}
