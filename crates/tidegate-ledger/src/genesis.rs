//! The genesis file: what all nodes of a network must agree on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_proto::id::{AccountId, BlockId, NetworkId};
use tidegate_proto::merkle;

use crate::block::Header;
use crate::state::State;
use crate::work::{MAX_WEIGHT, WorkRules};

/// The genesis of a network. Its hash is the network's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// A name for people.
    pub name: String,
    /// When slot 0 begins, in milliseconds since the Unix epoch.
    pub start_ms: u64,
    /// How long a slot is, in milliseconds.
    pub slot_ms: u64,
    /// Public keys of the producers, in hex, in the order of their turns; at most 128.
    pub producers: Vec<String>,
    /// Balances by public key, in hex.
    pub accounts: BTreeMap<String, u64>,
    /// Jobs and their proofs.
    pub work: WorkRules,
}

/// The longest slot: a day.
const MAX_SLOT_MS: u64 = 86_400_000;
/// The most jobs of a block, each of which every node has to create.
const MAX_JOBS_PER_BLOCK: u64 = 1024;
/// The most open jobs, all of which every node keeps.
const MAX_JOBS: u64 = 65_536;
/// The highest difficulty: no one can compute more hashes than that.
const MAX_DIFFICULTY: u64 = 64;

/// Why a genesis file is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// It is not TOML of this shape.
    #[error("{0}")]
    Parse(String),
    /// A key is not an Ed25519 public key.
    #[error("{0:?} is no public key: it should be 64 hex digits")]
    Key(String),
    /// The number of producers is out of range.
    #[error("{0} producers: there must be between 1 and 128")]
    Producers(usize),
    /// A producer is named twice.
    #[error("producer {0} is named twice")]
    SameProducer(String),
    /// The sum of the balances overflows.
    #[error("all balances together exceed 2^64 - 1")]
    Supply,
    /// Proofs are too heavy.
    #[error("work.weight is {0}: at most {MAX_WEIGHT} bytes are possible")]
    Weight(u32),
    /// A number is higher than the network could handle.
    #[error("{name} is {is}: it must be at most {most}")]
    TooMuch {
        /// Its name in the file.
        name: &'static str,
        /// Its value.
        is: u64,
        /// The highest value.
        most: u64,
    },
    /// The slot length is zero.
    #[error("slot_ms is 0: a slot needs some time")]
    Slot,
}

impl Genesis {
    /// Parses a genesis file.
    pub fn from_toml(text: &str) -> Result<Self, GenesisError> {
        let genesis: Self =
            toml::from_str(text).map_err(|error| GenesisError::Parse(error.to_string()))?;
        genesis.validate()?;
        Ok(genesis)
    }

    /// The genesis as a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("strings, numbers and maps have a TOML form")
    }

    /// Checks that a network can start with it.
    pub fn validate(&self) -> Result<(), GenesisError> {
        let producers = self.producer_keys()?;
        if producers.is_empty() || producers.len() > 128 {
            return Err(GenesisError::Producers(producers.len()));
        }
        for (i, producer) in producers.iter().enumerate() {
            if producers[..i].contains(producer) {
                return Err(GenesisError::SameProducer(hex::encode(producer)));
            }
        }
        let balances = self.balances()?;
        let mut supply = balances.iter().map(|(_, balance)| *balance);
        if supply.try_fold(0u64, u64::checked_add).is_none() {
            return Err(GenesisError::Supply);
        }
        if self.work.weight > MAX_WEIGHT {
            return Err(GenesisError::Weight(self.work.weight));
        }
        if self.slot_ms == 0 {
            return Err(GenesisError::Slot);
        }
        let WorkRules { jobs_per_block, max_jobs, difficulty, .. } = self.work;
        for (name, is, most) in [
            ("slot_ms", self.slot_ms, MAX_SLOT_MS),
            ("work.jobs_per_block", jobs_per_block.into(), MAX_JOBS_PER_BLOCK),
            ("work.max_jobs", max_jobs.into(), MAX_JOBS),
            ("work.difficulty", difficulty.into(), MAX_DIFFICULTY),
        ] {
            if is > most {
                return Err(GenesisError::TooMuch { name, is, most });
            }
        }
        Ok(())
    }

    /// The id of the network.
    pub fn network(&self) -> NetworkId {
        NetworkId(blake3::derive_key("tidegate ledger genesis 1", self.to_toml().as_bytes()))
    }

    /// The first block: it has no items, and no signature.
    pub fn header(&self) -> Header {
        Header {
            parent: BlockId(self.network().0),
            height: 0,
            slot: 0,
            producer: [0; 32],
            item_root: merkle::root(&[]),
            items: 0,
            state_root: self.state().root(),
            signature: [0; 64],
        }
    }

    /// The slot at a time, in milliseconds since the Unix epoch.
    pub fn slot_at(&self, unix_ms: u64) -> u64 {
        unix_ms.saturating_sub(self.start_ms) / self.slot_ms
    }

    pub(crate) fn producer_keys(&self) -> Result<Vec<[u8; 32]>, GenesisError> {
        self.producers.iter().map(|text| key(text)).collect()
    }

    pub(crate) fn balances(&self) -> Result<Vec<(AccountId, u64)>, GenesisError> {
        let accounts = self.accounts.iter();
        accounts.map(|(text, balance)| Ok((AccountId(key(text)?), *balance))).collect()
    }

    /// The initial state. Only for a valid genesis.
    pub(crate) fn state(&self) -> State {
        State::new(&self.balances().unwrap_or_default(), self.work)
    }
}

fn key(text: &str) -> Result<[u8; 32], GenesisError> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).map_err(|_| GenesisError::Key(text.to_owned()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis() -> Genesis {
        Genesis {
            name: "test".into(),
            start_ms: 1000,
            slot_ms: 500,
            producers: vec![hex::encode([1; 32]), hex::encode([2; 32])],
            accounts: [(hex::encode([3; 32]), 10), (hex::encode([4; 32]), 20)].into(),
            work: WorkRules::default(),
        }
    }

    #[test]
    fn numbers_are_bounded() {
        type Set = fn(&mut Genesis, u64);
        let numbers: [(&str, u64, Set); 4] = [
            ("slot_ms", MAX_SLOT_MS, |genesis, n| genesis.slot_ms = n),
            ("work.jobs_per_block", MAX_JOBS_PER_BLOCK, |genesis, n| {
                genesis.work.jobs_per_block = n as u32;
            }),
            ("work.max_jobs", MAX_JOBS, |genesis, n| genesis.work.max_jobs = n as u32),
            ("work.difficulty", MAX_DIFFICULTY, |genesis, n| genesis.work.difficulty = n as u32),
        ];
        for (name, most, set) in numbers {
            let mut genesis = genesis();
            set(&mut genesis, most);
            assert_eq!(genesis.validate(), Ok(()), "{name}");
            set(&mut genesis, most + 1);
            let error = GenesisError::TooMuch { name, is: most + 1, most };
            assert_eq!(genesis.validate(), Err(error));
        }
        // A start that is infinitely far away must not cause a panic.
        let far = Genesis { start_ms: u64::MAX, ..genesis() };
        assert_eq!((far.validate(), far.slot_at(u64::MAX)), (Ok(()), 0));
    }

    #[test]
    fn the_file_comes_back_and_names_the_network() {
        let text = genesis().to_toml();
        assert_eq!(Genesis::from_toml(&text), Ok(genesis()));
        let other = Genesis { slot_ms: 501, ..genesis() };
        assert_ne!(other.network(), genesis().network());
        assert_ne!(other.header().id(), genesis().header().id());
        assert_eq!(genesis().slot_at(999), 0);
        assert_eq!(genesis().slot_at(2000), 2);
    }

    #[test]
    fn errors_name_the_faulty_field() {
        let refused = |change: fn(&mut Genesis)| {
            let mut genesis = genesis();
            change(&mut genesis);
            Genesis::from_toml(&genesis.to_toml()).unwrap_err().to_string()
        };
        assert!(refused(|g| g.producers.clear()).contains("between 1 and 128"));
        assert!(
            refused(|g| g.producers = (0..129).map(|n| hex::encode([n; 32])).collect())
                .contains("129")
        );
        assert!(refused(|g| g.producers[1] = g.producers[0].clone()).contains("twice"));
        assert!(refused(|g| g.producers[0] = "xyz".into()).contains("64 hex digits"));
        assert!(refused(|g| *g.accounts.values_mut().next().unwrap() = u64::MAX).contains("2^64"));
        assert!(refused(|g| g.work.weight = MAX_WEIGHT + 1).contains("65537"));
        assert!(refused(|g| g.slot_ms = 0).contains("some time"));
        let unknown = genesis().to_toml().replace("slot_ms", "slots_ms");
        assert!(Genesis::from_toml(&unknown).unwrap_err().to_string().contains("slots_ms"));
        let most =
            Genesis { producers: (0..128).map(|n| hex::encode([n; 32])).collect(), ..genesis() };
        assert_eq!(most.validate(), Ok(()));
    }
}
