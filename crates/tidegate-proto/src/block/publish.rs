//! Blocks that this node publishes.

use std::collections::BTreeSet;

use super::{Body, Judged, Known, body, headers, keep, whole};
use crate::channel::Context;
use crate::io::{Block, Fate, Invalid};
use crate::rules::HeaderFacts;
use crate::store;
use crate::wire::MAX_HEADER;

/// Publishes a block.
pub(crate) fn publish(cx: &mut Context, block: Block) -> Fate {
    let facts = match publishable(cx, &block) {
        Ok(facts) => facts,
        Err(invalid) => return Fate::Invalid(invalid),
    };
    if cx.blocks.known.contains_key(&facts.block) {
        return Fate::Known;
    }
    let (body, announced_by) = (Body::Missing, BTreeSet::new());
    let known = Known { facts, header: block.header.clone(), body, announced_by };
    // Own headers are never too many.
    let _ = keep::room_for_header(cx, &facts, &block.header);
    cx.blocks.insert(known);
    store::block(cx, &facts, &block);
    whole(cx, facts.block, block.items, Vec::new(), Judged::Accepted);
    headers::accepted(cx, facts, block.header);
    Fate::Accepted
}

/// Whether a block can be published, and peers would take it.
fn publishable(cx: &Context, block: &Block) -> Result<HeaderFacts, Invalid> {
    let facts = headers::parse(cx, &block.header).map_err(|_| Invalid::MalformedHeader)?;
    if facts.block != block.block {
        return Err(Invalid::OtherBlock);
    }
    if block.header.len() > MAX_HEADER {
        return Err(Invalid::MalformedHeader);
    }
    if !cx.blocks.known.contains_key(&facts.parent) {
        return Err(Invalid::UnknownParent);
    }
    body::admissible(&block.items, &cx.pools, &cx.config.limits)?;
    if body::is_of(&facts, &block.items, &cx.pools) { Ok(facts) } else { Err(Invalid::OtherItems) }
}
