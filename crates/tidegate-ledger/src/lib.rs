//! A small ledger, to have something real to run over Tidegate.
//!
//! It knows accounts and signed transfers, jobs that blocks create and proofs of work that settle
//! them, and blocks by a round of producers. It stands where a blockchain puts its consensus, its
//! virtual machine and its proofs, and it does no more than the network layer needs to be tried
//! in earnest: **it is no currency, and its producers are trusted not to collude by a majority**.
//!
//! It opens no sockets and reads no clock. [`Ledger`] is driven by the questions that the core
//! asks ([`tidegate_proto::io::Subject`]) and by the slot that is given with them.

#![warn(missing_docs)]

mod block;
mod genesis;
mod ledger;
mod rules;
mod saved;
mod signed;
mod state;
mod transfer;
mod work;

pub use block::{Header, MAX_TRANSFERS, MAX_WORKS};
pub use genesis::{Genesis, GenesisError};
pub use ledger::{Checked, Checker, Judgement, Ledger};
pub use rules::{LedgerRules, TRANSFERS, WORKS, pools};
pub use saved::{RestoreError, Saved};
pub use state::AccountState;
pub use transfer::{NONCE_WINDOW, Transfer};
pub use work::{JobId, MAX_WEIGHT, Work, WorkRules};

/// The key of an account, a producer or a prover.
pub use ed25519_dalek::SigningKey;

/// The account of a key: its public half.
pub fn account(key: &SigningKey) -> tidegate_proto::id::AccountId {
    tidegate_proto::id::AccountId(key.verifying_key().to_bytes())
}

/// Fixed-size binary forms, big-endian, one field after the other.
mod layout {
    /// Takes the next `N` bytes.
    pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*head)
    }

    /// Takes the next number.
    pub(crate) fn number(bytes: &mut &[u8]) -> Option<u64> {
        take(bytes).map(u64::from_be_bytes)
    }
}
