//! Work proofs: they settle the jobs that blocks create.
//!
//! A proof is a solution to a puzzle, and a body derived from it. It can be checked, it cannot be
//! made without the work, and it can be made as large as a SNARK.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_proto::id::{AccountId, ItemId};

use crate::layout::{number, take};

/// The largest proof: larger than the two SNARKs of a job of Mina's, and than a frame, so that a
/// network of this ledger can have items that are sent in chunks.
pub const MAX_WEIGHT: u32 = 64 << 10;

/// The rules for jobs and their proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkRules {
    /// Jobs created by each block.
    pub jobs_per_block: u32,
    /// The most open jobs; the oldest expire.
    pub max_jobs: u32,
    /// Leading zero bits of the puzzle's hash.
    pub difficulty: u32,
    /// Bytes of a proof beside its 80 bytes of facts.
    pub weight: u32,
}

impl Default for WorkRules {
    /// Two jobs a block, proofs of 16 KiB that take about 4,000 hashes (a millisecond).
    fn default() -> Self {
        Self { jobs_per_block: 2, max_jobs: 256, difficulty: 12, weight: 16 << 10 }
    }
}

/// A job that a block created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub [u8; 32]);

/// A proof that a job was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The job.
    pub job: JobId,
    /// The account to be paid.
    pub prover: AccountId,
    /// The fee. For each job the cheapest proof is kept.
    pub fee: u64,
    /// The number that solves the puzzle.
    pub solution: u64,
    /// The body derived from the solution.
    pub proof: Bytes,
}

impl Work {
    /// Tries `tries` solutions, starting at `from`. A difficulty of n takes 2ⁿ on average.
    ///
    /// Returns the proof, or where to continue.
    pub fn search(
        job: JobId,
        prover: AccountId,
        fee: u64,
        rules: (u32, u32),
        from: u64,
        tries: u64,
    ) -> Result<Self, u64> {
        let (difficulty, weight) = rules;
        for solution in from..from.saturating_add(tries) {
            let hasher = puzzle(job, prover, fee, solution);
            if zeros(hasher.finalize().as_bytes()) >= difficulty {
                let proof = expand(&hasher, weight as usize);
                return Ok(Self { job, prover, fee, solution, proof });
            }
        }
        Err(from.saturating_add(tries))
    }

    /// Its 80 bytes and the proof.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(80 + self.proof.len());
        bytes.extend(self.job.0);
        bytes.extend(self.prover.0);
        bytes.extend([self.fee, self.solution].map(u64::to_be_bytes).concat());
        bytes.extend(&self.proof);
        bytes.into()
    }

    /// Decodes a proof; `None` if these are not the bytes of one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (work, proof) = Self::head(bytes)?;
        Some(Self { proof: Bytes::copy_from_slice(proof), ..work })
    }

    /// Decodes everything but the body, which is returned beside it.
    pub(crate) fn head(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        let input = &mut bytes;
        let work = Self {
            job: JobId(take(input)?),
            prover: AccountId(take(input)?),
            fee: number(input)?,
            solution: number(input)?,
            proof: Bytes::new(),
        };
        (input.len() <= MAX_WEIGHT as usize).then_some((work, input))
    }

    /// The id of a proof with these bytes.
    pub fn id(bytes: &[u8]) -> ItemId {
        ItemId(blake3::derive_key("tidegate ledger work id 1", bytes))
    }

    /// Whether the puzzle is solved, and the body is the one derived from the solution.
    pub fn is_proven(&self, difficulty: u32, weight: u32) -> bool {
        let hasher = puzzle(self.job, self.prover, self.fee, self.solution);
        self.proof.len() == weight as usize
            && zeros(hasher.finalize().as_bytes()) >= difficulty
            && expand(&hasher, self.proof.len()) == self.proof
    }
}

fn puzzle(job: JobId, prover: AccountId, fee: u64, solution: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_derive_key("tidegate ledger work puzzle 1");
    hasher.update(&job.0);
    hasher.update(&prover.0);
    hasher.update(&fee.to_be_bytes());
    hasher.update(&solution.to_be_bytes());
    hasher
}

fn zeros(hash: &[u8; 32]) -> u32 {
    u64::from_be_bytes(*hash.first_chunk().expect("a hash has more")).leading_zeros()
}

/// The body of a solution: further output of the hash.
fn expand(hasher: &blake3::Hasher, weight: usize) -> Bytes {
    let mut proof = vec![0; weight];
    hasher.finalize_xof().fill(&mut proof);
    proof.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_bound_to_all_it_says() {
        let (job, prover) = (JobId([1; 32]), AccountId([2; 32]));
        let work = Work::search(job, prover, 3, (8, 500), 0, 100_000).unwrap();
        assert!(work.is_proven(8, 500));
        assert!(!work.is_proven(60, 500), "too easy");
        assert!(!work.is_proven(8, 501), "too light");
        let bytes = work.to_bytes();
        assert_eq!(Work::from_bytes(&bytes), Some(work));
        for at in [0, 32, 71, 79, 80, bytes.len() - 1] {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert!(!Work::from_bytes(&changed).unwrap().is_proven(8, 500), "byte {at}");
        }
        assert_eq!(Work::from_bytes(&bytes[..79]), None);
        assert!(Work::from_bytes(&vec![0; 80 + MAX_WEIGHT as usize]).is_some());
        assert_eq!(Work::from_bytes(&vec![0; 81 + MAX_WEIGHT as usize]), None);
    }

    #[test]
    fn a_search_can_be_continued() {
        let (job, prover) = (JobId([1; 32]), AccountId([2; 32]));
        let mut from = 0;
        let work = loop {
            match Work::search(job, prover, 3, (10, 0), from, 7) {
                Ok(work) => break work,
                Err(next) => from = next,
            }
        };
        assert_eq!(Work::search(job, prover, 3, (10, 0), 0, u64::MAX), Ok(work));
    }
}
