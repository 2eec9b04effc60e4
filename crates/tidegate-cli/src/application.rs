//! The built-in ledger as the application of a real node: its validator, its producer, its prover.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidegate::id::{AccountId, BlockId, ItemId};
use tidegate::io::{Fate, Subject, Verdict};
use tidegate::{Answer, Node, NodeError, PoolItem, Publishing, Validator};
use tidegate_ledger::{
    AccountState, Checker, Genesis, JobId, Ledger, NONCE_WINDOW, SigningKey, TRANSFERS, Transfer,
    WORKS, Work,
};

/// The client name of the node.
pub(crate) const CLIENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// How often the clock is checked while waiting for the next slot.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);

/// Candidates for a block that are considered: about twice what fits.
const CANDIDATES: usize = 1024;

/// A ledger shared by several tasks. Whoever changes it tells the node while holding the lock, so
/// that the node receives the changes in order.
#[derive(Clone)]
pub(crate) struct Application {
    ledger: Arc<Mutex<Ledger>>,
    checker: Checker,
    genesis: Genesis,
}

impl Application {
    pub(crate) fn new(ledger: Ledger) -> Self {
        let (checker, genesis) = (ledger.checker(), ledger.genesis().clone());
        Self { ledger: Arc::new(Mutex::new(ledger)), checker, genesis }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic with the lock held is a bug, but no reason to lose the node.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present slot.
    pub(crate) fn slot(&self) -> u64 {
        self.genesis.slot_at(unix_ms())
    }

    /// Waits for the next slot, and returns it. The clock may be corrected meanwhile, by years.
    pub(crate) async fn next_slot(&self) -> u64 {
        self.next_slot_by(unix_ms).await
    }

    async fn next_slot_by(&self, clock: impl Fn() -> u64) -> u64 {
        let before = self.genesis.slot_at(clock());
        loop {
            let now = clock();
            let slot = self.genesis.slot_at(now);
            // The clock went back: the slot comes a second time.
            if slot != before && now >= self.genesis.start_ms {
                return slot;
            }
            let since = (slot + 1).saturating_mul(self.genesis.slot_ms);
            let begins = self.genesis.start_ms.saturating_add(since);
            let wait = Duration::from_millis(begins.saturating_sub(now));
            tokio::time::sleep(wait.min(LOOK_AT_CLOCK)).await;
        }
    }

    /// How far the clock is behind the tip, if it is: no blocks can be made until it has caught up.
    pub(crate) fn is_behind(&self) -> Option<Duration> {
        let (slot, tip) = (self.slot(), self.ledger().tip().1.slot);
        // A producer's clock may be one slot ahead of this one.
        let behind = tip.checked_sub(slot + 1).filter(|slots| *slots > 0)?;
        Some(Duration::from_millis(behind.saturating_mul(self.genesis.slot_ms)))
    }

    /// How long it is until the network begins, by the clock.
    pub(crate) fn until_start(&self) -> Option<Duration> {
        self.genesis.start_ms.checked_sub(unix_ms()).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// Makes the block of a slot if it is the key's turn. `before` is called with its id and its
    /// number of transfers right before it is published.
    pub(crate) async fn produce(
        &self,
        node: &Node,
        key: &SigningKey,
        slot: u64,
        before: impl FnOnce(BlockId, usize),
    ) -> Result<(), NodeError> {
        if !self.ledger().may_propose(slot, key) {
            return Ok(());
        }
        let transfers = candidates(node.pool(TRANSFERS, CANDIDATES).await?);
        let works = candidates(node.pool(WORKS, CANDIDATES).await?);
        let (id, fate) = {
            let mut ledger = self.ledger();
            let Some((block, tip)) = ledger.propose(slot, key, transfers, works) else {
                return Ok(());
            };
            let count = block.items.iter().filter(|item| item.pool == TRANSFERS).count();
            let id = block.block;
            before(id, count);
            let fate = node.publish_block(block)?;
            // The ledger has moved already: its next tip must come after this one.
            node.set_tip(tip)?;
            (id, fate)
        };
        let fate = fate.await?;
        if fate != Fate::Accepted {
            tracing::error!(block = %id, ?fate, "a block of this node's own is not sent");
        }
        Ok(())
    }

    /// Proves a job and publishes the proof, unless another node was faster. Blocks the thread.
    /// `before` is called with the id right before it is published.
    pub(crate) fn prove(
        &self,
        node: &Node,
        prover: AccountId,
        job: JobId,
        fee: u64,
        before: impl FnOnce(ItemId),
    ) -> Result<Option<(ItemId, Publishing)>, NodeError> {
        let work = self.genesis.work;
        let rules = (work.difficulty, work.weight);
        let Ok(proof) = Work::search(job, prover, fee, rules, 0, u64::MAX) else { return Ok(None) };
        let body = proof.to_bytes();
        let ledger = self.ledger();
        match ledger.admit(WORKS, &body) {
            Verdict::Accept(admission) => {
                let id = Work::id(&body);
                before(id);
                Ok(Some((id, node.publish(WORKS, body, admission)?)))
            }
            _ => Ok(None),
        }
    }

    /// Publishes a transfer that was signed elsewhere, if it is valid and executable.
    pub(crate) fn submit(&self, node: &Node, body: Bytes) -> Result<Publishing, SubmitError> {
        let (pool, id) = (TRANSFERS, Transfer::id(&body));
        let subject = Subject::Item { pool, id, body: body.clone() };
        let checked = self.checker.check(&subject);
        let mut ledger = self.ledger();
        match ledger.judge(checked, self.slot()).verdict {
            Verdict::Accept(admission) => Ok(node.publish(pool, body, admission)?),
            refused => {
                let transfer = Transfer::from_bytes(&body).ok_or(SubmitError::Unsigned)?;
                let (nonce, cost) = (transfer.nonce, transfer.cost());
                if refused == Verdict::Reject && cost.is_some() {
                    return Err(SubmitError::Unsigned);
                }
                let account = ledger.account(&transfer.from);
                Err(SubmitError::DoesNotHold { nonce, cost, account })
            }
        }
    }

    /// Publishes a transfer, if it is executable. `before` is called with the id right before it is
    /// published.
    pub(crate) fn transfer(
        &self,
        node: &Node,
        key: &SigningKey,
        to: AccountId,
        fee: u64,
        nonce: u64,
        before: impl FnOnce(ItemId),
    ) -> Result<Option<(ItemId, Publishing)>, NodeError> {
        let transfer = Transfer::new(&self.genesis.network(), key, to, 1, fee, nonce);
        let body = transfer.to_bytes();
        let ledger = self.ledger();
        match ledger.admit(TRANSFERS, &body) {
            Verdict::Accept(admission) => {
                let id = Transfer::id(&body);
                before(id);
                Ok(Some((id, node.publish(TRANSFERS, body, admission)?)))
            }
            _ => Ok(None),
        }
    }
}

/// Why a transfer is refused.
#[derive(Debug)]
pub(crate) enum SubmitError {
    Unsigned,
    /// With the state of its sender's account.
    DoesNotHold {
        nonce: u64,
        /// Amount and fee; `None` on overflow.
        cost: Option<u64>,
        account: AccountState,
    },
    Node(NodeError),
}

impl std::error::Error for SubmitError {}

impl From<NodeError> for SubmitError {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl std::fmt::Display for SubmitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsigned => {
                f.write_str("not a transfer that its sender has signed for this network")
            }
            Self::DoesNotHold { nonce, cost, account } => does_not_hold(*nonce, *cost, account, f),
            Self::Node(error) => error.fmt(f),
        }
    }
}

/// Explains why a transfer is not executable, and what would be.
fn does_not_hold(
    nonce: u64,
    cost: Option<u64>,
    account: &AccountState,
    f: &mut std::fmt::Formatter<'_>,
) -> std::fmt::Result {
    let (next, balance) = (account.nonce, account.balance);
    let end = next.saturating_add(NONCE_WINDOW);
    match cost {
        _ if nonce < next => write!(f, "nonce {nonce} is used: the sender's next is {next}"),
        _ if nonce >= end => write!(
            f,
            "nonce {nonce} is too far ahead: the sender's next is {next}, and below {end} may wait"
        ),
        Some(cost) if cost <= balance => f.write_str("the tip has moved meanwhile: try again"),
        Some(cost) => {
            write!(f, "amount and fee are {cost} together, and the sender has {balance} at the tip")
        }
        None => write!(f, "amount and fee are more than there can be; the sender has {balance}"),
    }
}

fn candidates(items: Vec<PoolItem>) -> Vec<(ItemId, Bytes)> {
    let executable = items.into_iter().filter(|item| item.executable);
    executable.map(|item| (item.id, item.body)).collect()
}

impl Validator for Application {
    fn validate(&self, subject: Subject, answer: Answer) {
        let checked = self.checker.check(&subject);
        let mut ledger = self.ledger();
        let judgement = ledger.judge(checked, self.slot());
        answer.give(judgement.verdict, judgement.tip);
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tidegate_ledger::WorkRules;

    use super::*;

    const START: u64 = 1_000_000_000;

    fn app() -> Application {
        let genesis = Genesis {
            name: "clocks".to_owned(),
            start_ms: START,
            slot_ms: 1000,
            producers: vec!["ab".repeat(32)],
            accounts: Default::default(),
            work: WorkRules::default(),
        };
        Application::new(Ledger::new(genesis).unwrap())
    }

    /// Regression: on machines that start in 1970, or whose clock is an hour off until it is
    /// corrected, the wait for the next slot lasted that long.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_corrected_is_believed() {
        let app = app();
        for before in [0, START - 86_400_000, START + 3_600_000] {
            let began = tokio::time::Instant::now();
            let looks = Cell::new(0);
            // The clock is corrected after the first seconds.
            let clock = || {
                looks.set(looks.get() + 1);
                let passed = began.elapsed().as_millis() as u64;
                if looks.get() < 4 { before + passed } else { START + 60_500 + passed }
            };
            let slot = app.next_slot_by(clock).await;
            assert!((60..=64).contains(&slot) || before > START && slot == 3601, "{slot}");
            assert!(began.elapsed() <= Duration::from_secs(5), "{:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slots_come_one_after_the_other() {
        let app = app();
        let began = tokio::time::Instant::now();
        let clock = || START - 2_500 + began.elapsed().as_millis() as u64;
        for slot in 1..9 {
            assert_eq!(app.next_slot_by(clock).await, slot);
            assert_eq!(clock(), START + slot * 1000);
        }
    }
}
