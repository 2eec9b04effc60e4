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

/// Candidates for a block that are looked at: about twice what fits.
const CANDIDATES: usize = 1024;

/// A ledger that several tasks share. Whoever changes it tells the node while holding its lock,
/// so that the node hears of the states in their order.
#[derive(Clone)]
pub(crate) struct App {
    ledger: Arc<Mutex<Ledger>>,
    checker: Checker,
    genesis: Genesis,
}

impl App {
    pub(crate) fn new(ledger: Ledger) -> Self {
        let (checker, genesis) = (ledger.checker(), ledger.genesis().clone());
        Self { ledger: Arc::new(Mutex::new(ledger)), checker, genesis }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic in here is a bug, but no reason to lose the node.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present slot.
    pub(crate) fn slot(&self) -> u64 {
        self.genesis.slot_at(unix_ms())
    }

    /// Waits for the next slot to begin, and says which it is.
    pub(crate) async fn next_slot(&self) -> u64 {
        let now = unix_ms();
        let next = self.genesis.slot_at(now) + 1;
        let since = next.saturating_mul(self.genesis.slot_ms);
        let begins = self.genesis.start_ms.saturating_add(since);
        tokio::time::sleep(Duration::from_millis(begins.saturating_sub(now))).await;
        next
    }

    /// Makes the block of a slot if it is the key's turn. `before` is called with its id and how
    /// many transfers it holds right before it leaves.
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

    /// Proves a job and publishes the proof, unless somebody else was faster. Blocks the thread.
    /// `before` is called with the id right before it leaves.
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
            Verdict::Reject | Verdict::Ignore => Ok(None),
        }
    }

    /// Publishes a transfer that somebody else has signed, if it is good and holds.
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

    /// Publishes a transfer, if it holds. `before` is called with the id right before it leaves.
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
            Verdict::Reject | Verdict::Ignore => Ok(None),
        }
    }
}

/// Why a transfer is not published.
#[derive(Debug)]
pub(crate) enum SubmitError {
    Unsigned,
    /// With what its sender has.
    DoesNotHold {
        nonce: u64,
        /// Amount and fee; `None` if they are more than there can be.
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

/// What of a transfer does not hold, and what would.
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

impl Validator for App {
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
