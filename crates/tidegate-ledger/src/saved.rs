//! The ledger's state as keys and values for a store: the changes with each move of the tip, and
//! all of it after a restart.
//!
//! ```text
//! "a" account             balance, nonce, height of the last change
//! "j" height, index       an open job
//! "u" height              how to undo the block at this height, for the last 64
//! ```

use bytes::Bytes;
use tidegate_proto::id::AccountId;
use tidegate_proto::io::Block;

use crate::block::Header;
use crate::genesis::{Genesis, GenesisError};
use crate::layout::{number, take};
use crate::ledger::Ledger;
use crate::state::{AccountState, State, Undo};
use crate::work::JobId;

/// What a store has of a ledger.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// All keys and values.
    pub state: Vec<(Bytes, Bytes)>,
    /// The last blocks of the best chain, ending with the tip: 64 with their items, and up to 65
    /// more headers below.
    pub blocks: Vec<Block>,
}

/// Why a ledger cannot be restored from a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The genesis is invalid.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A key or value is not the ledger's.
    #[error("the stored state has an entry that no ledger writes: {0}")]
    Entry(String),
    /// A block cannot be decoded, or does not follow the one before.
    #[error("the stored block at height {0} does not fit the one before it")]
    Block(u64),
    /// The data to undo a block is missing.
    #[error("the stored state lacks how to undo the block at height {0}")]
    Undo(u64),
    /// The state is not that of the tip.
    #[error("the stored state is not that of the block at height {0}")]
    Root(u64),
}

pub(crate) fn account_key(account: &AccountId) -> Bytes {
    [&b"a"[..], &account.0].concat().into()
}

pub(crate) fn job_key((height, index): (u64, u32)) -> Bytes {
    [&b"j"[..], &height.to_be_bytes(), &index.to_be_bytes()].concat().into()
}

pub(crate) fn undo_key(height: u64) -> Bytes {
    [&b"u"[..], &height.to_be_bytes()].concat().into()
}

pub(crate) fn account_value(state: &AccountState) -> Bytes {
    let AccountState { balance, nonce, changed_at } = *state;
    [balance, nonce, changed_at].map(u64::to_be_bytes).concat().into()
}

fn account(bytes: &mut &[u8]) -> Option<AccountState> {
    Some(AccountState {
        balance: number(bytes)?,
        nonce: number(bytes)?,
        changed_at: number(bytes)?,
    })
}

fn count(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_be_bytes)
}

fn place(bytes: &mut &[u8]) -> Option<(u64, u32)> {
    Some((number(bytes)?, count(bytes)?))
}

/// Encodes how to undo a block.
pub(crate) fn undo_value(undo: &Undo) -> Bytes {
    let (accounts, closed, opened) = undo.parts();
    let mut bytes = Vec::new();
    bytes.extend((accounts.len() as u32).to_be_bytes());
    for (account, before) in accounts {
        bytes.extend(account.0);
        bytes.push(u8::from(before.is_some()));
        bytes.extend(account_value(&before.unwrap_or_default()));
    }
    bytes.extend((closed.len() as u32).to_be_bytes());
    for ((height, index), job) in closed {
        bytes.extend(height.to_be_bytes());
        bytes.extend(index.to_be_bytes());
        bytes.extend(job.0);
    }
    bytes.extend((opened.len() as u32).to_be_bytes());
    for (height, index) in opened {
        bytes.extend(height.to_be_bytes());
        bytes.extend(index.to_be_bytes());
    }
    bytes.into()
}

fn undo(mut bytes: &[u8]) -> Option<Undo> {
    let input = &mut bytes;
    let mut accounts = Vec::new();
    for _ in 0..count(input)? {
        let id = AccountId(take(input)?);
        let [known] = take::<1>(input)?;
        let state = account(input)?;
        accounts.push((id, (known == 1).then_some(state)));
    }
    let mut closed = Vec::new();
    for _ in 0..count(input)? {
        closed.push((place(input)?, JobId(take(input)?)));
    }
    let mut opened = Vec::new();
    for _ in 0..count(input)? {
        opened.push(place(input)?);
    }
    input.is_empty().then(|| Undo::from_parts(accounts.into_iter().collect(), closed, opened))
}

impl Ledger {
    /// Restores the ledger from a store; an empty store gives the genesis. From then on, moves of
    /// the tip list what the store must write.
    pub fn restore(genesis: Genesis, saved: Saved) -> Result<Self, RestoreError> {
        let mut ledger = Self::new(genesis)?;
        ledger.keeps_state = true;
        let mut undos = std::collections::BTreeMap::new();
        for (key, value) in &saved.state {
            let unknown = || RestoreError::Entry(hex::encode(key));
            read_entry(&mut ledger.state, &mut undos, key, value).ok_or_else(unknown)?;
        }
        ledger.state.hash_all();
        let Some(tip) = saved.blocks.last().map(|block| block.block) else { return Ok(ledger) };
        let mut parent = None;
        let last = saved.blocks.len();
        for (n, block) in saved.blocks.into_iter().enumerate() {
            let height = parent.map_or(0, |(_, height)| height + 1);
            let header = Header::from_bytes(&block.header).ok_or(RestoreError::Block(height))?;
            let fits = parent
                .is_none_or(|(id, height)| header.parent == id && header.height == height + 1);
            if !fits || header.id() != block.block {
                return Err(RestoreError::Block(header.height));
            }
            parent = Some((block.block, header.height));
            let height = header.height;
            let recent = (last - n) as u64 <= crate::ledger::UNDO_DEPTH;
            let undo = match undos.remove(&height) {
                None if recent && height > 0 => return Err(RestoreError::Undo(height)),
                undo => undo.unwrap_or_default(),
            };
            if !ledger.adopt(block, header, undo, recent && height > 0) {
                return Err(RestoreError::Block(height));
            }
        }
        ledger.go_to(tip).map_err(RestoreError::Root)?;
        Ok(ledger)
    }
}

fn read_entry(
    state: &mut State,
    undos: &mut std::collections::BTreeMap<u64, Undo>,
    key: &[u8],
    mut value: &[u8],
) -> Option<()> {
    let (kind, mut rest) = key.split_first()?;
    match kind {
        b'a' => {
            let id = AccountId(rest.try_into().ok()?);
            state.put_account(id, account(&mut value)?);
        }
        b'j' => {
            state.put_job(place(&mut rest)?, JobId(take(&mut value)?));
        }
        b'u' => {
            undos.insert(number(&mut rest)?, undo(value)?);
            return rest.is_empty().then_some(());
        }
        _ => return None,
    }
    value.is_empty().then_some(())
}
