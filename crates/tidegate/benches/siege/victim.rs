//! The node that is attacked.

use std::sync::Arc;
use std::time::Duration;

use tidegate::id::{PeerId, PoolIndex};
use tidegate::wire::RefusalKind;
use tidegate::{Builder, Config, Limits, PoolSpec, Validator, accept_all};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::items::{Member, NETWORK, builder};

pub(crate) const POOL: PoolIndex = PoolIndex(0);
pub(crate) const NAME: &str = "items";
/// Inbound places: those of A and B, and a few for others.
pub(crate) const PLACES: u32 = 8;

/// As a node is by default, with fewer places: so that the bound on its memory is a low one.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    (limits.max_inbound, limits.max_outbound) = (PLACES, 2);
    limits
}

/// A node of the network, honest or attacked.
pub(crate) fn node(validator: impl Validator) -> Builder {
    builder(validator).pool(PoolSpec::new(NAME)).limits(limits())
}

pub(crate) fn worst_case() -> u64 {
    let mut config = Config::new(PeerId([0; 32]), NETWORK);
    config.limits = limits();
    config.pools.push(PoolSpec::new(NAME));
    config.worst_case_bytes()
}

/// Runs until nobody listens. Says where it is; asked anything, says what it has seen.
pub(crate) async fn in_process() {
    let member = Member::start(node(accept_all), &Arc::default());
    println!("{}", member.node.addresses()[0]);
    let mut questions = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = questions.next_line().await {
        let said = tokio::time::timeout(Duration::from_secs(60), seen(&member)).await;
        println!("{}", said.unwrap_or_else(|_| "no answer within a minute".to_owned()));
    }
    member.node.shutdown().await;
}

async fn seen(member: &Member) -> String {
    let status = member.node.status().await.expect("a running node");
    let stats = member.node.stats().await.expect("a running node");
    let refused = |kind| stats.refused(true, kind);
    let violations: u64 = stats.violations().map(|(_, count)| count).sum();
    format!(
        "{} peers, {} lost; refused: {} full, {} busy, {} others; {violations} violations, {} bans",
        status.peers.len(),
        member.seen().disconnected,
        refused(RefusalKind::Full),
        refused(RefusalKind::Busy),
        refused(RefusalKind::Banned) + refused(RefusalKind::Duplicate),
        status.bans,
    )
}
