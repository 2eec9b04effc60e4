//! What must be durable before it is reported (specification section 17).
//!
//! Writes are numbered, and the driver says up to which number they are durable. Two reports wait
//! for that: the fate of what was published here, and a new tip. Messages to peers do not wait: no
//! peer relies on what this node remembers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::block::body;
use crate::channel::Context;
use crate::id::{ItemId, ItemKey, PoolIndex};
use crate::io::{Block, Event, Fate, Output, Write};
use crate::pool::Pool;
use crate::rules::HeaderFacts;
use crate::stats::Count;

/// Writes that are not durable yet, and what waits for them.
#[derive(Debug, Default)]
pub(crate) struct Store {
    next: u64,
    pending: VecDeque<Pending>,
    bytes: usize,
    /// The last tip that was reported.
    tip: Option<HeaderFacts>,
    /// Published items in the store.
    own: BTreeMap<(PoolIndex, ItemId), Own>,
}

#[derive(Debug, Default)]
struct Own {
    /// Its key, if it has been in its pool since the start.
    key: Option<ItemKey>,
    /// The tip's height when it left its pool.
    left: Option<u64>,
}

#[derive(Debug)]
struct Pending {
    request: u64,
    bytes: usize,
    report: Option<Report>,
}

/// A report that waits for a write.
#[derive(Debug)]
enum Report {
    Fate(u64, Fate),
    Tip(HeaderFacts),
}

impl Store {
    pub(crate) fn new(tip: Option<HeaderFacts>) -> Self {
        Self { tip, ..Self::default() }
    }

    /// The last reported tip.
    pub(crate) fn tip(&self) -> Option<&HeaderFacts> {
        self.tip.as_ref()
    }

    /// Bytes written but not durable yet.
    pub(crate) fn backlog(&self) -> usize {
        self.bytes
    }

    /// Whether more than `limit` bytes are not durable yet, so that blocks must wait.
    pub(crate) fn is_behind(&self, limit: u32) -> bool {
        self.bytes > limit as usize
    }
}

fn write(cx: &mut Context, write: Write, bytes: usize, report: Option<Report>) {
    let request = cx.store.next;
    cx.store.next += 1;
    cx.store.bytes += bytes;
    cx.store.pending.push_back(Pending { request, bytes, report });
    cx.outputs.push_back(Output::Store { request, write });
}

fn tell(cx: &mut Context, report: Report) {
    match report {
        Report::Fate(request, fate) => cx.outputs.push_back(Output::Published { request, fate }),
        Report::Tip(facts) => {
            cx.store.tip = Some(facts);
            cx.event(Event::TipChanged { block: facts.block, height: facts.height });
        }
    }
}

/// An item was published: reports its fate, once it is durable if it is in the pool. R17.1
pub(crate) fn published(
    cx: &mut Context,
    request: u64,
    item: Option<(PoolIndex, ItemId, Bytes)>,
    fate: Fate,
) {
    let report = Report::Fate(request, fate);
    match item.filter(|_| cx.config.store && matches!(fate, Fate::Accepted | Fate::Known)) {
        Some((pool, id, body)) => {
            let bytes = body.len();
            let content = cx.pools.get(usize::from(pool.0)).map(Pool::content);
            let key = content.and_then(|content| Some(content.item(&id)?.facts.key));
            cx.store.own.insert((pool, id), Own { key, left: None });
            write(cx, Write::Item { pool, id, body }, bytes, Some(report));
        }
        None => tell(cx, report),
    }
}

/// A block was published and written.
pub(crate) fn published_block(cx: &mut Context, request: u64, fate: Fate) {
    let report = Report::Fate(request, fate);
    match cx.store.pending.back_mut() {
        Some(last) if fate == Fate::Accepted && last.report.is_none() => last.report = Some(report),
        _ => tell(cx, report),
    }
}

/// Writes an accepted block.
pub(crate) fn block(cx: &mut Context, facts: &HeaderFacts, block: &Block) {
    if !cx.config.store {
        return;
    }
    let bytes = block.items.iter().map(|item| item.body.len()).sum::<usize>() + block.header.len();
    let body = body::encode(&block.items, &cx.pools);
    let HeaderFacts { block: id, parent, height, .. } = *facts;
    let Some(body) = body else { return cx.stats.count(Count::Internal) };
    let header = block.header.clone();
    write(cx, Write::Block { block: id, parent, height, header, body }, bytes, None);
}

/// The tip has changed: writes it with the application's state, and reports it once durable. R17.2
pub(crate) fn tip(cx: &mut Context, facts: HeaderFacts, state: Vec<(Bytes, Option<Bytes>)>) {
    let report = Report::Tip(facts);
    if !cx.config.store {
        return tell(cx, report);
    }
    let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
    let bytes = state.iter().map(|(key, value)| key.len() + length(value)).sum();
    let HeaderFacts { block, height, .. } = facts;
    write(cx, Write::Tip { block, height, state }, bytes, Some(report));
    // No re-org can bring back an item that left its pool this long ago.
    let Some(lowest) = height.checked_sub(u64::from(cx.config.limits.blocks_kept)) else { return };
    let old = cx.store.own.iter().filter(|(_, own)| own.left.is_some_and(|left| left < lowest));
    for (pool, id) in old.map(|(item, _)| *item).collect::<Vec<_>>() {
        cx.store.own.remove(&(pool, id));
        write(cx, Write::Forget { pool, id }, 0, None);
    }
}

/// An item published before a restart is not executable at present: a re-org may undo the block
/// that it is in.
pub(crate) fn retain(cx: &mut Context, pool: PoolIndex, id: ItemId) {
    if cx.config.store {
        let height = cx.tip.held().map_or(0, |tip| tip.height);
        cx.store.own.entry((pool, id)).or_insert(Own { key: None, left: Some(height) });
    }
}

/// An item was added to a pool or removed. A published one is kept in the store while it may come
/// back.
pub(crate) fn moved(cx: &mut Context, pool: PoolIndex, id: ItemId, gone: bool) {
    let height = cx.tip.held().map_or(0, |tip| tip.height);
    let content = cx.pools.get(usize::from(pool.0)).map(Pool::content);
    let Some(own) = cx.store.own.get_mut(&(pool, id)) else { return };
    own.left = gone.then_some(height);
    let key = own.key.or_else(|| Some(content?.item(&id)?.facts.key));
    own.key = key;
    // A rival replaced it. It is deleted, since after a restart the rival might not be there to
    // keep it out.
    let rival = key.and_then(|key| content.and_then(|content| content.rival(&key, &id)));
    // Without blocks there are no re-orgs to bring it back.
    if gone && (rival.is_some() || cx.config.genesis.is_none()) {
        cx.store.own.remove(&(pool, id));
        write(cx, Write::Forget { pool, id }, 0, None);
    }
}

/// This write and all before it are durable.
pub(crate) fn stored(cx: &mut Context, request: u64) {
    while let Some(done) = cx.store.pending.pop_front_if(|pending| pending.request <= request) {
        cx.store.bytes -= done.bytes;
        if let Some(report) = done.report {
            tell(cx, report);
        }
    }
}
