//! The ledger: which items are valid at the tip, which block is best, and how the tip moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_proto::id::{AccountId, BlockId, ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate_proto::io::{Admission, Block, BlockItem, Subject, TipChange, Verdict};
use tidegate_proto::merkle;
use tidegate_proto::rules::{Account, ChainLink, Rules as _};

use crate::block::{Header, MAX_TRANSFERS, MAX_WORKS};
use crate::genesis::{Genesis, GenesisError};
use crate::rules::{self, LedgerRules, TRANSFERS, WORKS};
use crate::saved;
use crate::state::{AccountState, State, StateError, Undo};
use crate::transfer::{NONCE_WINDOW, Transfer};
use crate::work::{JobId, Work, WorkRules};

/// Blocks that can be undone: the deepest re-org.
pub(crate) const UNDO_DEPTH: u64 = 64;
/// Headers kept below the tip: those of the deepest fork, and those that the rule of turns looks
/// back at.
const HEADERS_KEPT: u64 = UNDO_DEPTH + 64 + 1;
/// How many slots a producer's clock may be ahead of this node's.
const SLOTS_AHEAD: u64 = 1;

/// The checks that need no state. They are expensive, so they run outside the ledger's lock.
#[derive(Clone, Debug)]
pub struct Checker(Arc<Params>);

#[derive(Debug)]
struct Params {
    network: NetworkId,
    producers: Vec<[u8; 32]>,
    work: WorkRules,
}

/// A subject whose signatures and proofs have been checked.
#[derive(Clone, Debug)]
pub struct Checked(Content);

#[derive(Clone, Debug)]
enum Content {
    Transfer(Transfer),
    Work(JobId),
    Header(BlockId, Header),
    Block(Block, Vec<Item>),
    /// It is invalid, whatever the state.
    Invalid,
    /// It is not of this ledger.
    Foreign,
}

/// A decoded item of a block.
#[derive(Clone, Debug)]
enum Item {
    Transfer(Transfer),
    Work { job: JobId, prover: AccountId, fee: u64 },
}

impl Checker {
    /// Checks everything about a subject that does not depend on the state.
    pub fn check(&self, subject: &Subject) -> Checked {
        self.read(subject, false)
    }

    /// The same without signatures and proofs, for a subject that is known to pass: a simulator
    /// need not repeat the check for each of its nodes.
    pub fn trust(&self, subject: &Subject) -> Checked {
        self.read(subject, true)
    }

    fn read(&self, subject: &Subject, trusted: bool) -> Checked {
        let content = match subject {
            Subject::Item { pool, body, .. } => match self.item(*pool, body, trusted) {
                Some(Item::Transfer(transfer)) => Some(Content::Transfer(transfer)),
                Some(Item::Work { job, .. }) => Some(Content::Work(job)),
                None => None,
            },
            Subject::Header { block, header } => {
                let header = Header::from_bytes(header);
                let header = header.filter(|h| trusted || self.is_header_valid(h));
                header.map(|header| Content::Header(*block, header))
            }
            Subject::Block(block) => {
                let items =
                    block.items.iter().map(|i| self.item(i.pool, &i.body, i.known || trusted));
                let items = items.collect::<Option<Vec<_>>>();
                items.map(|items| Content::Block(block.clone(), items))
            }
            _ => Some(Content::Foreign),
        };
        Checked(content.unwrap_or(Content::Invalid))
    }

    /// Decodes an item, and checks it unless it is `known` to be valid.
    fn item(&self, pool: PoolIndex, body: &[u8], known: bool) -> Option<Item> {
        match pool {
            TRANSFERS => {
                let transfer = Transfer::from_bytes(body)?;
                (known || transfer.cost().is_some() && transfer.is_signed(&self.0.network))
                    .then_some(Item::Transfer(transfer))
            }
            WORKS => {
                let work = Work::from_bytes(body)?;
                let WorkRules { difficulty, weight, .. } = self.0.work;
                (known || work.is_proven(difficulty, weight)).then_some(Item::Work {
                    job: work.job,
                    prover: work.prover,
                    fee: work.fee,
                })
            }
            _ => None,
        }
    }

    fn is_header_valid(&self, header: &Header) -> bool {
        self.producer_at(header.slot) == header.producer
            && header.items as usize <= MAX_TRANSFERS + MAX_WORKS
            && header.is_signed(&self.0.network)
    }

    /// The producer whose turn a slot is.
    fn producer_at(&self, slot: u64) -> [u8; 32] {
        self.0.producers[(slot % self.0.producers.len() as u64) as usize]
    }
}

impl Checked {
    /// Whether all checks passed.
    pub fn is_valid(&self) -> bool {
        !matches!(self.0, Content::Invalid | Content::Foreign)
    }
}

/// The ledger's answer to a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The change of the tip, if there is one.
    pub tip: Option<TipChange>,
}

impl Judgement {
    fn of(verdict: Verdict) -> Self {
        Self { verdict, tip: None }
    }
}

const GOOD: Verdict = Verdict::Accept(Admission { from: 0, account: None });

/// A known block.
#[derive(Clone, Debug)]
struct Stored {
    header: Header,
    /// It or an ancestor is invalid.
    bad: bool,
    body: Option<(Block, Vec<Item>)>,
    /// How to undo it, if it is on the best chain.
    undo: Option<Undo>,
}

/// The ledger of one node.
#[derive(Clone, Debug)]
pub struct Ledger {
    genesis: Genesis,
    checker: Checker,
    blocks: BTreeMap<BlockId, Stored>,
    tip: BlockId,
    pub(crate) state: State,
    /// Whether changes of the tip list what a store must write.
    pub(crate) keeps_state: bool,
}

impl Ledger {
    /// A ledger at its genesis.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        genesis.validate()?;
        let (network, producers) = (genesis.network(), genesis.producer_keys()?);
        let checker = Checker(Arc::new(Params { network, producers, work: genesis.work }));
        let header = genesis.header();
        let tip = header.id();
        let first = Stored { header, bad: false, body: None, undo: None };
        let state = genesis.state();
        Ok(Self { genesis, checker, blocks: [(tip, first)].into(), tip, state, keeps_state: false })
    }

    /// The genesis.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The checks that need no state.
    pub fn checker(&self) -> Checker {
        self.checker.clone()
    }

    /// The id and the header of the best block.
    pub fn tip(&self) -> (BlockId, &Header) {
        (self.tip, &self.blocks[&self.tip].header)
    }

    /// An account at the tip.
    pub fn account(&self, account: &AccountId) -> AccountState {
        self.state.account(account).unwrap_or_default()
    }

    /// Jobs that are open at the tip, the oldest first.
    pub fn open_jobs(&self) -> impl Iterator<Item = JobId> {
        self.state.open_jobs()
    }

    /// Gives the verdict on a checked subject. `slot` is the present one.
    pub fn judge(&mut self, checked: Checked, slot: u64) -> Judgement {
        match checked.0 {
            Content::Invalid => Judgement::of(Verdict::Reject),
            Content::Foreign => Judgement::of(Verdict::Ignore),
            Content::Transfer(transfer) => Judgement::of(self.admit_transfer(&transfer)),
            Content::Work(job) => Judgement::of(self.admit_work(&job)),
            Content::Header(id, header) => Judgement::of(self.judge_header(id, header, slot)),
            Content::Block(block, items) => self.judge_block(block, items),
        }
    }

    /// The verdict on a transfer at the tip, without regard to other pending ones.
    fn admit_transfer(&self, transfer: &Transfer) -> Verdict {
        let sender = self.account(&transfer.from);
        let account = chain_of(&sender);
        let (nonce, cost) = (transfer.nonce, transfer.cost().unwrap_or(u64::MAX));
        if account.admits(&ChainLink { account: transfer.from, nonce, cost }) {
            Verdict::Accept(Admission { from: sender.changed_at, account: Some(account) })
        } else {
            Verdict::Ignore
        }
    }

    fn admit_work(&self, job: &JobId) -> Verdict {
        match self.state.job(job) {
            Some(from) => Verdict::Accept(Admission { from, account: None }),
            None => Verdict::Ignore,
        }
    }

    fn judge_header(&mut self, id: BlockId, header: Header, slot: u64) -> Verdict {
        let Some(parent) = self.blocks.get(&header.parent) else { return Verdict::Ignore };
        if parent.bad || header.slot > slot + SLOTS_AHEAD {
            return Verdict::Ignore;
        }
        if header.slot <= parent.header.slot || !self.may_follow(&header.parent, &header.producer) {
            return Verdict::Reject;
        }
        let stored = Stored { header, bad: false, body: None, undo: None };
        self.blocks.entry(id).or_insert(stored);
        GOOD
    }

    /// Whether a producer may sign a block on top of a parent: of any ⌊n/2⌋+1 in a row it may sign
    /// only one, so that a minority that is cut off stops.
    fn may_follow(&self, parent: &BlockId, producer: &[u8; 32]) -> bool {
        let mut at = self.blocks.get(parent);
        for _ in 0..self.checker.0.producers.len() / 2 {
            match at {
                Some(stored) if stored.header.producer == *producer => return false,
                Some(stored) => at = self.blocks.get(&stored.header.parent),
                None => break,
            }
        }
        true
    }

    fn judge_block(&mut self, block: Block, items: Vec<Item>) -> Judgement {
        let id = block.block;
        let Some(stored) = self.blocks.get_mut(&id).filter(|stored| !stored.bad) else {
            return Judgement::of(Verdict::Ignore);
        };
        stored.body = Some((block, items));
        let better = {
            let (facts, tip) = (stored.header.facts(), self.tip().1.facts());
            LedgerRules.compare(&facts, &tip).is_gt()
        };
        if !better {
            // Its content is executed when it or a descendant becomes the best block.
            return Judgement::of(GOOD);
        }
        match self.move_to(id) {
            Ok(tip) => Judgement { verdict: GOOD, tip: Some(tip) },
            Err(NotMoved::OutOfReach) => Judgement::of(Verdict::Ignore),
            Err(NotMoved::Bad) => Judgement::of(Verdict::Reject),
        }
    }

    /// Makes a block the tip. If it or an ancestor is invalid, that one and its descendants are
    /// marked as bad, and the state is as before.
    fn move_to(&mut self, target: BlockId) -> Result<TipChange, NotMoved> {
        let mut path = Vec::new();
        let mut at = target;
        let fork = loop {
            let stored = self.blocks.get(&at).ok_or(NotMoved::OutOfReach)?;
            if stored.undo.is_some() || stored.header.height == 0 {
                break stored.header.height;
            }
            path.push(at);
            at = stored.header.parent;
        };
        // Deeper blocks can no longer be undone: nobody is to blame for a fork that becomes the
        // best too late.
        if self.tip().1.height.saturating_sub(fork) > UNDO_DEPTH {
            return Err(NotMoved::OutOfReach);
        }
        let before = self.tip;
        let mut change = Change::default();
        while self.tip != at {
            self.revert_tip(&mut change);
        }
        while let Some(next) = path.pop() {
            if let Err(_error) = self.apply(next, &mut change) {
                path.push(next);
                self.mark_bad(&path);
                self.go_back(at, before);
                return Err(NotMoved::Bad);
            }
        }
        self.prune();
        Ok(self.describe(change))
    }

    /// Restores a stored block of the best chain; `false` if its items cannot be decoded.
    pub(crate) fn adopt(&mut self, block: Block, header: Header, undo: Undo, body: bool) -> bool {
        let id = block.block;
        let read = || {
            let items =
                block.items.iter().map(|item| self.checker.item(item.pool, &item.body, true));
            items.collect::<Option<Vec<_>>>()
        };
        let body = if body {
            match read() {
                Some(items) if items.len() == header.items as usize => Some((block, items)),
                _ => return false,
            }
        } else {
            None
        };
        self.blocks.insert(id, Stored { header, bad: false, body, undo: Some(undo) });
        true
    }

    /// Sets the tip to a restored block; returns its height if the state is the one after it.
    pub(crate) fn go_to(&mut self, tip: BlockId) -> Result<(), u64> {
        let header = &self.blocks[&tip].header;
        if header.state_root != self.state.root() {
            return Err(header.height);
        }
        self.tip = tip;
        self.prune();
        Ok(())
    }

    fn mark_bad(&mut self, blocks: &[BlockId]) {
        for block in blocks {
            if let Some(stored) = self.blocks.get_mut(block) {
                stored.bad = true;
                stored.body = None;
            }
        }
    }

    /// Returns to the tip before a failed move.
    fn go_back(&mut self, fork: BlockId, before: BlockId) {
        let mut unused = Change::default();
        while self.tip != fork {
            self.revert_tip(&mut unused);
        }
        let mut path = Vec::new();
        let mut at = before;
        while at != fork {
            path.push(at);
            at = self.blocks[&at].header.parent;
        }
        for block in path.into_iter().rev() {
            self.apply(block, &mut unused).expect("it held before");
        }
    }

    fn revert_tip(&mut self, change: &mut Change) {
        let tip = self.blocks.get_mut(&self.tip).expect("the tip is known");
        let undo = tip.undo.take().expect("blocks of the best chain can be undone");
        change.heights.insert(tip.header.height);
        change.places.extend(undo.places());
        change.undone.extend(undo.opened(&self.state));
        change.accounts.extend(undo.accounts().copied());
        self.state.revert(&undo);
        let body = tip.body.as_ref().map(|(block, _)| block.items.clone());
        change.reverted.extend(body.unwrap_or_default());
        self.tip = tip.header.parent;
    }

    fn apply(&mut self, id: BlockId, change: &mut Change) -> Result<(), StateError> {
        let stored = self.blocks.get_mut(&id).expect("its path was walked");
        let (block, items) = stored.body.as_ref().ok_or(StateError::Body)?;
        let undo = execute(&mut self.state, &stored.header, items)?;
        change.heights.insert(stored.header.height);
        change.places.extend(undo.places());
        change.jobs.extend(undo.closed());
        change.opened.extend(undo.opened(&self.state));
        change.accounts.extend(undo.accounts().copied());
        change.applied.extend(block.items.iter().map(|item| (item.id, item.clone())));
        stored.undo = Some(undo);
        self.tip = id;
        Ok(())
    }

    /// What a store must write for a move.
    fn writes(&self, change: &Change) -> Vec<(Bytes, Option<Bytes>)> {
        let mut writes = Vec::new();
        for account in &change.accounts {
            let value = self.state.account(account).as_ref().map(saved::account_value);
            writes.push((saved::account_key(account), value));
        }
        for place in &change.places {
            let job = self.state.job_at(*place).map(|job| Bytes::copy_from_slice(&job.0));
            writes.push((saved::job_key(*place), job));
        }
        let mut chain = BTreeMap::new();
        let mut at = self.blocks.get(&self.tip);
        while let Some(stored) = at.filter(|stored| {
            change.heights.first().is_some_and(|lowest| stored.header.height >= *lowest)
        }) {
            chain.insert(stored.header.height, stored);
            at = self.blocks.get(&stored.header.parent);
        }
        for height in &change.heights {
            let undo = chain.get(height).and_then(|stored| stored.undo.as_ref());
            writes.push((saved::undo_key(*height), undo.map(saved::undo_value)));
            // The undo data that is too deep now.
            let deep = height.checked_sub(UNDO_DEPTH + 1).filter(|deep| *deep > 0);
            writes.extend(deep.map(|deep| (saved::undo_key(deep), None)));
        }
        writes
    }

    /// The change of the tip as the pools need it.
    fn describe(&self, change: Change) -> TipChange {
        let state = if self.keeps_state { self.writes(&change) } else { Vec::new() };
        let key = |item: &BlockItem| match item.pool {
            WORKS => Work::head(&item.body).map(|(work, _)| ItemKey(work.job.0)),
            _ => Some(ItemKey(item.id.0)),
        };
        let mut remove = BTreeSet::new();
        for item in change.applied.values() {
            remove.extend(key(item).map(|key| (item.pool, key)));
        }
        let is_open = |job: &JobId| self.state.job(job).is_some();
        let place = |job: JobId| (WORKS, ItemKey(job.0));
        let closed = change.jobs.into_iter().filter(|job| !is_open(job));
        remove.extend(closed.map(place));
        // Their blocks may come back.
        let shelve = change.undone.iter().copied().filter(|job| !is_open(job)).map(place);
        let shelve = shelve.filter(|place| !remove.contains(place)).collect();
        let restore = change.opened.into_iter().filter(|job| is_open(job)).map(place).collect();
        let back =
            change.reverted.into_iter().filter(|item| !change.applied.contains_key(&item.id));
        let add = back.filter_map(|item| match self.admit(item.pool, &item.body) {
            Verdict::Accept(admission) => Some((item.pool, item.body, admission)),
            _ => None,
        });
        let account = |id: AccountId| (id, chain_of(&self.account(&id)));
        let mut described = TipChange::new(self.tip);
        described.state = state;
        described.remove = remove.into_iter().collect();
        described.shelve = shelve;
        described.restore = restore;
        described.add = add.collect();
        described.accounts = change.accounts.into_iter().map(account).collect();
        described
    }

    /// The verdict on an item at the tip, if its signature or proof is valid.
    pub fn admit(&self, pool: PoolIndex, body: &[u8]) -> Verdict {
        match pool {
            TRANSFERS => match Transfer::from_bytes(body) {
                Some(transfer) => self.admit_transfer(&transfer),
                None => Verdict::Reject,
            },
            _ => match Work::head(body) {
                Some((work, _)) => self.admit_work(&work.job),
                None => Verdict::Reject,
            },
        }
    }

    /// Drops what no re-org can reach.
    fn prune(&mut self) {
        let height = self.tip().1.height;
        self.blocks.retain(|_, stored| stored.header.height + HEADERS_KEPT > height);
        let deep = |stored: &&mut Stored| stored.header.height + UNDO_DEPTH < height;
        for stored in self.blocks.values_mut().filter(deep) {
            stored.body = None;
            // It stays on the best chain, but can no longer be undone.
            if let Some(undo) = &mut stored.undo {
                *undo = Undo::default();
            }
        }
    }

    /// Whether a key may make a block in a slot, on top of the tip.
    pub fn may_propose(&self, slot: u64, key: &crate::SigningKey) -> bool {
        let producer = key.verifying_key().to_bytes();
        slot > self.tip().1.slot
            && self.checker.producer_at(slot) == producer
            && self.may_follow(&self.tip, &producer)
    }

    /// Makes the next block from candidates, the best first, and makes it the tip.
    ///
    /// Candidates must have been accepted. Those that do not fit together are left out. `None` if
    /// it is not this key's turn.
    pub fn propose(
        &mut self,
        slot: u64,
        key: &crate::SigningKey,
        transfers: impl IntoIterator<Item = (ItemId, Bytes)>,
        works: impl IntoIterator<Item = (ItemId, Bytes)>,
    ) -> Option<(Block, TipChange)> {
        if !self.may_propose(slot, key) {
            return None;
        }
        let parent = self.tip;
        let height = self.tip().1.height + 1;
        let producer = key.verifying_key().to_bytes();
        let mut draft = self.state.begin(height);
        let mut chosen = Vec::new();
        for (id, body) in transfers {
            let Some(transfer) = Transfer::from_bytes(&body) else { continue };
            if chosen.len() < MAX_TRANSFERS && draft.transfer(&transfer).is_ok() {
                chosen.push((TRANSFERS, id, body, Item::Transfer(transfer)));
            }
        }
        let most = chosen.len() + MAX_WORKS;
        for (id, body) in works {
            let Some((Work { job, prover, fee, .. }, _)) = Work::head(&body) else { continue };
            if chosen.len() < most && draft.work(job, prover, fee).is_ok() {
                chosen.push((WORKS, id, body, Item::Work { job, prover, fee }));
            }
        }
        let undo = draft.finish(parent, slot, AccountId(producer));
        let mut items = Vec::new();
        let mut read = Vec::new();
        for (pool, id, body, item) in chosen {
            items.push(BlockItem { pool, id, body, known: true });
            read.push(item);
        }
        let leaves = items.iter().map(|item| (rules::pool_name(item.pool), item.id));
        let leaves = leaves.collect::<Vec<_>>();
        let header = Header {
            parent,
            height,
            slot,
            producer,
            item_root: merkle::root(&leaves),
            items: leaves.len() as u32,
            state_root: self.state.root(),
            signature: [0; 64],
        };
        // Only [`Ledger::move_to`] changes the tip: the block is undone here, and arrives like any
        // other.
        self.state.revert(&undo);
        let header = header.sign(&self.checker.0.network, key);
        let block = Block { block: header.id(), header: header.to_bytes(), items };
        let body = Some((block.clone(), read));
        self.blocks.insert(block.block, Stored { header, bad: false, body, undo: None });
        let change = self.move_to(block.block).ok()?;
        Some((block, change))
    }
}

/// The limits on an account's transfers.
fn chain_of(account: &AccountState) -> Account {
    let AccountState { nonce, balance, .. } = *account;
    Account { next: nonce, until: nonce.saturating_add(NONCE_WINDOW), balance }
}

/// Why a block did not become the tip.
enum NotMoved {
    /// It builds on a block that is no longer kept.
    OutOfReach,
    /// It or an ancestor is invalid.
    Bad,
}

/// The effects of a move of the tip.
#[derive(Default)]
struct Change {
    reverted: Vec<BlockItem>,
    applied: BTreeMap<ItemId, BlockItem>,
    accounts: BTreeSet<AccountId>,
    /// Jobs that may have been closed.
    jobs: BTreeSet<JobId>,
    /// Jobs created by undone blocks, and jobs of applied blocks.
    undone: BTreeSet<JobId>,
    opened: BTreeSet<JobId>,
    /// Places of jobs that were opened or closed, and heights of blocks that were undone or
    /// applied.
    places: BTreeSet<(u64, u32)>,
    heights: BTreeSet<u64>,
}

/// Executes a block on the state of its parent. On an error the state is as before.
fn execute(state: &mut State, header: &Header, items: &[Item]) -> Result<Undo, StateError> {
    let mut draft = state.begin(header.height);
    let mut works = 0;
    for (i, item) in items.iter().enumerate() {
        let result = match item {
            // Transfers come first.
            Item::Transfer(transfer) if works == 0 && i < MAX_TRANSFERS => draft.transfer(transfer),
            Item::Work { job, prover, fee } if works < MAX_WORKS => {
                works += 1;
                draft.work(*job, *prover, *fee)
            }
            _ => Err(StateError::Order),
        };
        if let Err(error) = result {
            draft.abandon();
            return Err(error);
        }
    }
    let undo = draft.finish(header.parent, header.slot, AccountId(header.producer));
    if state.root() != header.state_root {
        state.revert(&undo);
        return Err(StateError::Root);
    }
    Ok(undo)
}

#[cfg(test)]
mod tests;
