//! The store of a simulated node: when its process dies, everything survives but the writes in
//! progress.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidegate_ledger::{LedgerRules, Saved, TRANSFERS, WORKS};
use tidegate_proto::config::PeerBook;
use tidegate_proto::id::{BlockId, ItemId, PoolIndex};
use tidegate_proto::io::{Block, BlockItem, Found, Load, Write};
use tidegate_proto::wire::{BlockBody, Frame};

/// How many blocks are restored with their items after a restart, and how many without.
const RECENT: usize = 64;
const HEADERS: usize = 129;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    blocks: BTreeMap<BlockId, Kept>,
    tip: Option<BlockId>,
    state: BTreeMap<Bytes, Bytes>,
    items: BTreeMap<(PoolIndex, ItemId), Bytes>,
    pub(crate) book: PeerBook,
    pending: VecDeque<(u64, Write)>,
}

#[derive(Debug)]
struct Kept {
    parent: BlockId,
    header: Bytes,
    body: Bytes,
}

impl Disk {
    /// Starts a write; `true` if it is the only one.
    pub(crate) fn keep(&mut self, request: u64, write: Write) -> bool {
        self.pending.push_back((request, write));
        self.pending.len() == 1
    }

    /// All writes become durable; returns the number of the last.
    pub(crate) fn sync(&mut self) -> Option<u64> {
        let last = self.pending.back().map(|(request, _)| *request);
        for (_, write) in std::mem::take(&mut self.pending) {
            self.apply(write);
        }
        last
    }

    /// The process dies: writes in progress are lost.
    pub(crate) fn lose_pending(&mut self) {
        self.pending.clear();
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Item { pool, id, body } => {
                self.items.insert((pool, id), body);
            }
            Write::Forget { pool, id } => {
                self.items.remove(&(pool, id));
            }
            Write::Block { block, parent, header, body, .. } => {
                self.blocks.insert(block, Kept { parent, header, body });
            }
            Write::Tip { block, state, .. } => {
                self.tip = Some(block);
                for (key, value) in state {
                    match value {
                        Some(value) => drop(self.state.insert(key, value)),
                        None => drop(self.state.remove(&key)),
                    }
                }
            }
            _ => {}
        }
    }

    /// The best chain backwards from the tip.
    fn back(&self) -> impl Iterator<Item = (BlockId, &Kept)> {
        let at = |id: BlockId| self.blocks.get(&id).map(|kept| (id, kept));
        std::iter::successors(self.tip.and_then(at), move |(_, kept)| at(kept.parent))
    }

    /// Headers of the best chain, ending with the tip.
    pub(crate) fn headers(&self) -> Vec<Bytes> {
        let last = self.back().take(RECENT).map(|(_, kept)| kept.header.clone());
        let mut headers = last.collect::<Vec<_>>();
        headers.reverse();
        headers
    }

    /// The data to restore a ledger from.
    pub(crate) fn saved(&self) -> Saved {
        let mut blocks = Vec::new();
        for (n, (block, kept)) in self.back().take(HEADERS).enumerate() {
            let items = if n < RECENT { items(&kept.body) } else { Vec::new() };
            blocks.push(Block { block, header: kept.header.clone(), items });
        }
        blocks.reverse();
        let state = self.state.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Saved { state, blocks }
    }

    /// Items published by this node.
    pub(crate) fn published(&self) -> Vec<(PoolIndex, Bytes)> {
        self.items.iter().map(|((pool, _), body)| (*pool, body.clone())).collect()
    }

    /// Loads what a peer requests. `genesis` is not stored.
    pub(crate) fn load(&self, what: &Load, genesis: BlockId) -> Found {
        match what {
            Load::Block(block) => {
                let kept = self.blocks.get(block);
                kept.map_or(Found::Nothing, |kept| Found::Block(kept.body.clone()))
            }
            Load::Headers { locator, most } => {
                let mut headers = VecDeque::new();
                let mut meets = locator.contains(&genesis);
                for (block, kept) in self.back() {
                    if locator.contains(&block) {
                        meets = true;
                        break;
                    }
                    headers.push_front(kept.header.clone());
                }
                headers.truncate(*most as usize);
                if meets { Found::Headers(headers.into()) } else { Found::Nothing }
            }
            _ => Found::Nothing,
        }
    }
}

fn items(body: &Bytes) -> Vec<BlockItem> {
    let body = Frame::from(body.clone()).decode::<BlockBody>().expect("a core has encoded it");
    let pool = |name: &str| Some(if name == "works" { WORKS } else { TRANSFERS });
    BlockItem::all_of(body, &LedgerRules, pool, true).expect("there are two pools")
}
