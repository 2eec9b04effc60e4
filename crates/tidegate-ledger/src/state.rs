//! Accounts and jobs, the root over them, and how to undo a block.
//!
//! Accounts are in 4,096 buckets by the first 12 bits of the hash of their id. A bucket's hash is
//! BLAKE3 over its sorted entries, and only buckets that a block touched are hashed again; 64
//! buckets make a group, and 64 groups the root. So parts of the state could be proven and fetched.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidegate_proto::id::{AccountId, BlockId, Digest};

use crate::transfer::Transfer;
use crate::work::{JobId, WorkRules};

const BUCKETS: usize = 4096;
const GROUP: usize = 64;

/// An account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Its balance.
    pub balance: u64,
    /// The nonce of its next transfer.
    pub nonce: u64,
    /// The height of the last block that changed it.
    pub changed_at: u64,
}

/// The state after a block.
#[derive(Clone, Debug)]
pub(crate) struct State {
    rules: WorkRules,
    accounts: BTreeMap<(u16, AccountId), AccountState>,
    buckets: Vec<[u8; 32]>,
    groups: Vec<[u8; 32]>,
    /// Open jobs, the oldest first, by height and index in their block.
    jobs: BTreeMap<(u64, u32), JobId>,
    job_places: BTreeMap<JobId, (u64, u32)>,
}

/// What a block changed, in order to undo it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Undo {
    accounts: BTreeMap<AccountId, Option<AccountState>>,
    closed: Vec<((u64, u32), JobId)>,
    opened: Vec<(u64, u32)>,
}

impl Undo {
    /// Accounts that the block touched.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &AccountId> {
        self.accounts.keys()
    }

    /// Earlier values of accounts, jobs that it closed, and places of jobs that it opened.
    #[expect(clippy::type_complexity, reason = "it is taken apart where it is called")]
    pub(crate) fn parts(
        &self,
    ) -> (&BTreeMap<AccountId, Option<AccountState>>, &[((u64, u32), JobId)], &[(u64, u32)]) {
        (&self.accounts, &self.closed, &self.opened)
    }

    pub(crate) fn from_parts(
        accounts: BTreeMap<AccountId, Option<AccountState>>,
        closed: Vec<((u64, u32), JobId)>,
        opened: Vec<(u64, u32)>,
    ) -> Self {
        Self { accounts, closed, opened }
    }

    /// Places of jobs that it opened or closed.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, u32)> {
        self.closed.iter().map(|(place, _)| *place).chain(self.opened.iter().copied())
    }

    /// Jobs that it created.
    pub(crate) fn opened<'a>(&'a self, state: &'a State) -> impl Iterator<Item = JobId> {
        self.opened.iter().filter_map(|place| state.jobs.get(place).copied())
    }

    /// Jobs that it closed.
    pub(crate) fn closed(&self) -> impl Iterator<Item = JobId> {
        self.closed.iter().map(|(_, job)| *job)
    }
}

/// Why a block's content is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    #[error("a transfer out of turn")]
    Nonce,
    #[error("a transfer that its sender cannot pay")]
    Balance,
    #[error("a proof for a job that is not open")]
    Job,
    #[error("proofs that the block's fees do not pay for")]
    WorkFees,
    #[error("items in the wrong order, or too many")]
    Order,
    #[error("another state root")]
    Root,
    #[error("a body that is not here")]
    Body,
}

fn bucket(account: &AccountId) -> u16 {
    let hash = blake3::hash(&account.0);
    let [a, b, ..] = *hash.as_bytes();
    u16::from_be_bytes([a, b]) >> 4
}

impl State {
    pub(crate) fn new(balances: &[(AccountId, u64)], rules: WorkRules) -> Self {
        let mut state = Self {
            rules,
            accounts: BTreeMap::new(),
            buckets: vec![[0; 32]; BUCKETS],
            groups: vec![[0; 32]; BUCKETS / GROUP],
            jobs: BTreeMap::new(),
            job_places: BTreeMap::new(),
        };
        for (account, balance) in balances {
            let entry = AccountState { balance: *balance, ..AccountState::default() };
            state.accounts.insert((bucket(account), *account), entry);
        }
        state.hash_all();
        state
    }

    pub(crate) fn account(&self, account: &AccountId) -> Option<AccountState> {
        self.accounts.get(&(bucket(account), *account)).copied()
    }

    /// The height of the block that created a job, if the job is open.
    pub(crate) fn job(&self, job: &JobId) -> Option<u64> {
        self.job_places.get(job).map(|(height, _)| *height)
    }

    pub(crate) fn open_jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.values().copied()
    }

    /// The job at a place, if it is open.
    pub(crate) fn job_at(&self, place: (u64, u32)) -> Option<JobId> {
        self.jobs.get(&place).copied()
    }

    /// Restores an account. [`State::hash_all`] must follow.
    pub(crate) fn put_account(&mut self, account: AccountId, state: AccountState) {
        self.accounts.insert((bucket(&account), account), state);
    }

    /// Restores a job.
    pub(crate) fn put_job(&mut self, place: (u64, u32), job: JobId) {
        self.jobs.insert(place, job);
        self.job_places.insert(job, place);
    }

    /// Recomputes all hashes.
    pub(crate) fn hash_all(&mut self) {
        self.hash_buckets(&(0..BUCKETS as u16).collect());
    }

    /// The sum of all balances.
    #[cfg(test)]
    pub(crate) fn supply(&self) -> u64 {
        self.accounts.values().map(|account| account.balance).sum()
    }

    /// The root over everything: equal states have equal roots.
    pub(crate) fn root(&self) -> Digest {
        let mut jobs = blake3::Hasher::new_derive_key("tidegate ledger jobs 1");
        for ((height, index), job) in &self.jobs {
            jobs.update(&height.to_be_bytes());
            jobs.update(&index.to_be_bytes());
            jobs.update(&job.0);
        }
        let mut root = blake3::Hasher::new_derive_key("tidegate ledger state 1");
        for group in &self.groups {
            root.update(group);
        }
        root.update(jobs.finalize().as_bytes());
        Digest(root.finalize().into())
    }

    fn hash_buckets(&mut self, touched: &BTreeSet<u16>) {
        for number in touched {
            let first = (*number, AccountId([0; 32]));
            let last = (*number, AccountId([0xff; 32]));
            let mut entries = self.accounts.range(first..=last).peekable();
            self.buckets[*number as usize] = match entries.peek() {
                None => [0; 32],
                Some(_) => {
                    let mut hasher = blake3::Hasher::new_derive_key("tidegate ledger bucket 1");
                    for ((_, account), state) in entries {
                        hasher.update(&account.0);
                        let AccountState { balance, nonce, changed_at } = state;
                        hasher.update(
                            &[*balance, *nonce, *changed_at].map(u64::to_be_bytes).concat(),
                        );
                    }
                    hasher.finalize().into()
                }
            };
        }
        let groups = touched.iter().map(|number| *number as usize / GROUP).collect::<BTreeSet<_>>();
        for group in groups {
            let mut hasher = blake3::Hasher::new_derive_key("tidegate ledger group 1");
            for bucket in &self.buckets[group * GROUP..][..GROUP] {
                hasher.update(bucket);
            }
            self.groups[group] = hasher.finalize().into();
        }
    }

    /// Begins a block of this height on top of `parent`.
    pub(crate) fn begin(&mut self, height: u64) -> Draft<'_> {
        Draft { state: self, height, fees: 0, undo: Undo::default() }
    }

    /// Undoes the last block that was applied.
    pub(crate) fn revert(&mut self, undo: &Undo) {
        for (place, job) in &undo.closed {
            self.jobs.insert(*place, *job);
            self.job_places.insert(*job, *place);
        }
        // After the closed ones: a job may have been opened and have expired in the same block.
        for place in &undo.opened {
            if let Some(job) = self.jobs.remove(place) {
                self.job_places.remove(&job);
            }
        }
        for (account, before) in &undo.accounts {
            let key = (bucket(account), *account);
            match before {
                Some(state) => self.accounts.insert(key, *state),
                None => self.accounts.remove(&key),
            };
        }
        self.hash_buckets(&undo.accounts.keys().map(bucket).collect());
    }
}

/// A block that is being applied.
pub(crate) struct Draft<'a> {
    state: &'a mut State,
    height: u64,
    /// Fees of its transfers that have not been spent on proofs.
    fees: u64,
    undo: Undo,
}

impl Draft<'_> {
    fn set(&mut self, account: AccountId, change: impl FnOnce(&mut AccountState)) {
        let key = (bucket(&account), account);
        let before = self.state.accounts.get(&key).copied();
        self.undo.accounts.entry(account).or_insert(before);
        let state = self.state.accounts.entry(key).or_default();
        change(state);
        state.changed_at = self.height;
    }

    /// Applies a transfer whose signature is valid, if it is executable.
    pub(crate) fn transfer(&mut self, transfer: &Transfer) -> Result<(), StateError> {
        let sender = self.state.account(&transfer.from).unwrap_or_default();
        if transfer.nonce != sender.nonce {
            return Err(StateError::Nonce);
        }
        let cost = transfer.cost().filter(|cost| *cost <= sender.balance);
        let cost = cost.ok_or(StateError::Balance)?;
        self.set(transfer.from, |account| {
            account.balance -= cost;
            account.nonce += 1;
        });
        // The sum of all balances does not overflow, so no balance does.
        self.set(transfer.to, |account| account.balance += transfer.amount);
        self.fees += transfer.fee;
        Ok(())
    }

    /// Closes a job with a valid proof, if the job is open and the fees suffice.
    pub(crate) fn work(
        &mut self,
        job: JobId,
        prover: AccountId,
        fee: u64,
    ) -> Result<(), StateError> {
        let place = *self.state.job_places.get(&job).ok_or(StateError::Job)?;
        self.fees = self.fees.checked_sub(fee).ok_or(StateError::WorkFees)?;
        self.close(place);
        if fee > 0 {
            self.set(prover, |account| account.balance += fee);
        }
        Ok(())
    }

    fn close(&mut self, place: (u64, u32)) {
        if let Some(job) = self.state.jobs.remove(&place) {
            self.state.job_places.remove(&job);
            self.undo.closed.push((place, job));
        }
    }

    /// Completes the block: pays its producer, and opens its jobs.
    pub(crate) fn finish(mut self, parent: BlockId, slot: u64, producer: AccountId) -> Undo {
        if self.fees > 0 {
            let fees = self.fees;
            self.set(producer, |account| account.balance += fees);
        }
        for index in 0..self.state.rules.jobs_per_block {
            let mut hasher = blake3::Hasher::new_derive_key("tidegate ledger job 1");
            hasher.update(&parent.0);
            hasher.update(&slot.to_be_bytes());
            hasher.update(&index.to_be_bytes());
            let (place, job) = ((self.height, index), JobId(hasher.finalize().into()));
            self.state.jobs.insert(place, job);
            self.state.job_places.insert(job, place);
            self.undo.opened.push(place);
        }
        while self.state.jobs.len() > self.state.rules.max_jobs as usize {
            let oldest = self.state.jobs.first_key_value().map(|(place, _)| *place);
            oldest.into_iter().for_each(|place| self.close(place));
        }
        let touched = self.undo.accounts.keys().map(bucket).collect();
        self.state.hash_buckets(&touched);
        self.undo
    }

    /// Undoes what the block has done so far.
    pub(crate) fn abandon(self) {
        self.state.revert(&self.undo);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: WorkRules = WorkRules { jobs_per_block: 3, max_jobs: 5, difficulty: 0, weight: 0 };

    fn account(n: u8) -> AccountId {
        AccountId([n; 32])
    }

    fn transfer(from: u8, to: u8, amount: u64, fee: u64, nonce: u64) -> Transfer {
        Transfer { from: account(from), to: account(to), amount, fee, nonce, signature: [0; 64] }
    }

    fn state() -> State {
        State::new(&[(account(1), 100), (account(2), 100)], RULES)
    }

    #[test]
    fn a_transfer_moves_amount_and_fee() {
        let mut state = state();
        let mut draft = state.begin(1);
        draft.transfer(&transfer(1, 3, 60, 5, 0)).unwrap();
        assert_eq!(draft.transfer(&transfer(1, 3, 1, 0, 0)), Err(StateError::Nonce));
        assert_eq!(draft.transfer(&transfer(1, 3, 36, 0, 1)), Err(StateError::Balance));
        assert_eq!(draft.transfer(&transfer(1, 3, u64::MAX, 1, 1)), Err(StateError::Balance));
        draft.transfer(&transfer(1, 3, 35, 0, 1)).unwrap();
        draft.finish(BlockId([0; 32]), 1, account(9));
        let balance = |n| state.account(&account(n)).unwrap().balance;
        assert_eq!([balance(1), balance(3), balance(9)], [0, 95, 5]);
        assert_eq!(state.account(&account(1)).unwrap().nonce, 2);
        assert_eq!(state.supply(), 200);
    }

    #[test]
    fn jobs_open_close_and_expire() {
        let mut state = state();
        state.begin(1).finish(BlockId([0; 32]), 1, account(9));
        let jobs = state.open_jobs().collect::<Vec<_>>();
        assert_eq!(jobs.len(), 3);
        let mut draft = state.begin(2);
        assert_eq!(draft.work(jobs[0], account(8), 1), Err(StateError::WorkFees));
        draft.transfer(&transfer(1, 3, 0, 5, 0)).unwrap();
        draft.work(jobs[0], account(8), 4).unwrap();
        assert_eq!(draft.work(jobs[0], account(8), 0), Err(StateError::Job));
        assert_eq!(draft.work(jobs[1], account(8), 2), Err(StateError::WorkFees));
        draft.finish(BlockId([1; 32]), 2, account(9));
        assert_eq!(state.account(&account(8)).unwrap().balance, 4);
        assert_eq!(state.open_jobs().count(), 5);
        let undo = state.begin(3).finish(BlockId([2; 32]), 3, account(9));
        let closed = undo.closed().collect::<Vec<_>>();
        assert_eq!((&closed[..2], closed.len()), (&jobs[1..], 3), "the oldest expire");
        assert_eq!(state.job(&jobs[1]), None);
    }

    proptest! {
        /// An undone block leaves no trace, and no block creates money.
        #[test]
        fn undo_is_exact(
            first in prop::collection::vec((0..6u8, 0..6u8, 0..50u64, 0..5u64, 0..4u64), 0..20),
            second in prop::collection::vec((0..6u8, 0..6u8, 0..50u64, 0..5u64, 0..4u64), 0..20),
            works in prop::collection::vec((0..5usize, 0..3u64), 0..4),
        ) {
            let mut state = state();
            let apply = |state: &mut State, height, transfers: &[(u8, u8, u64, u64, u64)]| {
                let jobs = state.open_jobs().collect::<Vec<_>>();
                let mut draft = state.begin(height);
                for (from, to, amount, fee, nonce) in transfers {
                    let _ = draft.transfer(&transfer(*from, *to, *amount, *fee, *nonce));
                }
                for (job, fee) in &works {
                    if let Some(job) = jobs.get(*job) {
                        let _ = draft.work(*job, account(7), *fee);
                    }
                }
                draft.finish(BlockId([height as u8; 32]), height, account(9))
            };
            apply(&mut state, 1, &first);
            let before = (state.root(), state.accounts.clone(), state.jobs.clone());
            let undo = apply(&mut state, 2, &second);
            prop_assert_eq!(state.supply(), 200);
            let mut fresh = state.clone();
            fresh.hash_all();
            prop_assert_eq!(fresh.root(), state.root(), "only touched buckets are hashed");
            state.revert(&undo);
            prop_assert_eq!((state.root(), state.accounts.clone(), state.jobs.clone()), before.clone());
            let mut draft = state.begin(2);
            for (from, to, amount, fee, nonce) in &second {
                let _ = draft.transfer(&transfer(*from, *to, *amount, *fee, *nonce));
            }
            draft.abandon();
            prop_assert_eq!((state.root(), state.accounts.clone(), state.jobs.clone()), before);
        }
    }
}
