//! The channel instances of a world's nodes, as the table of channels has them: all nodes have the
//! same pools, so the numbers are the same on all connections.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use tidegate_ledger::{LedgerRules, pools};
use tidegate_proto::id::{NetworkId, PeerId};
use tidegate_proto::{Config, Kind, agreed};

/// Kind and name of each instance, by number.
static CHANNELS: LazyLock<BTreeMap<u32, (Kind, String)>> = LazyLock::new(|| {
    let mut config = Config::new(PeerId([0; 32]), NetworkId([0; 32]));
    config.genesis = Some(Bytes::new());
    config.pools = pools();
    let offers = config.offers(&LedgerRules);
    let fixed = Kind::all_fixed().map(|(number, kind)| (number, (kind, String::new())));
    let agreed = agreed(&offers, &offers).into_iter();
    fixed.chain(agreed.map(|one| (one.number, (one.kind, one.name)))).collect()
});

/// All numbers, ascending.
pub(crate) fn numbers() -> Vec<u32> {
    CHANNELS.keys().copied().collect()
}

/// The kind of an instance, if there is one with this number.
pub(crate) fn kind_of(number: u32) -> Option<Kind> {
    CHANNELS.get(&number).map(|(kind, _)| *kind)
}

/// The name of an instance: for pools, that of the pool.
pub(crate) fn name_of(number: u32) -> &'static str {
    CHANNELS.get(&number).map_or("", |(_, name)| name)
}
