//! The node that is attacked.

use std::sync::Arc;
use std::time::Duration;

use tidegate::id::{BlockId, PeerId, PoolIndex};
use tidegate::io::{Admission, Subject};
use tidegate::wire::RefusalKind;
use tidegate::{Answer, Builder, Config, Limits, PoolSpec, Validator};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::items::{Member, NETWORK, builder, header};

pub(crate) const POOL: PoolIndex = PoolIndex(0);
pub(crate) const NAME: &str = "items";
/// Places for inbound connections: those of A and B, and a few more.
pub(crate) const PLACES: u32 = 8;
/// The same for a hundred peers that take part.
pub(crate) const HUNDRED: u32 = 102;

/// A node with defaults, except for fewer places, so that its memory bound is low.
fn limits(places: u32) -> Limits {
    let mut limits = Limits::default();
    (limits.max_inbound, limits.max_outbound) = (places, 2);
    limits
}

/// A node of the network, honest or attacked. It has a chain whose tip does not change.
pub(crate) fn node(validator: impl Validator, places: u32) -> Builder {
    let genesis = header(BlockId([0; 32]), 0, 0);
    builder(validator).pool(PoolSpec::new(NAME)).genesis(genesis).limits(limits(places))
}

/// The part of the configuration that nodes must agree on.
pub(crate) fn config() -> Config {
    let mut config = Config::new(PeerId([0; 32]), NETWORK);
    config.pools.push(PoolSpec::new(NAME));
    config
}

pub(crate) fn worst_case(places: u32) -> u64 {
    let mut config = config();
    config.limits = limits(places);
    config.worst_case_bytes()
}

/// Items of attackers are useless, as with an application that demands fees: an item of priority
/// zero is ignored after its validation.
pub(crate) fn judge(subject: Subject, answer: Answer) {
    match subject {
        Subject::Item { body, .. } if body.starts_with(&[0; 8]) => answer.ignore(),
        _ => answer.accept(Admission::default()),
    }
}

/// Runs until its input is closed. Prints its address, and its counters for each line of input.
pub(crate) async fn in_process(with: &[String]) {
    let [places] = with else { panic!("one argument") };
    let places = places.parse().expect("a number");
    let member = Member::start(node(judge, places), &Arc::default());
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
