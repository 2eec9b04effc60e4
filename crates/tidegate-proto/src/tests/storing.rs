//! Section 17: what is written to the store, and what waits for it.

use std::time::Duration;

use bytes::Bytes;

use super::application::{SMALL, block, genesis, id, item, prioritised};
use super::net::Net;
use super::script::Script;
use super::syncing::{chain, with_store};
use crate::config::ConfigError;
use crate::io::{Admission, Command, Event, Fate, TipChange, Write};
use crate::{Node, Time};

/// R17.1, R17.2
#[test]
fn fates_are_reported_when_durable() {
    let mut script = Script::with(with_store(1));
    let body = item(1, 100);
    let publish = |request| Command::Publish {
        request,
        pool: SMALL,
        body: body.clone(),
        admission: Admission::default(),
    };
    script.command(publish(7));
    let item = Write::Item { pool: SMALL, id: id(SMALL, &body), body: body.clone() };
    assert_eq!(script.writes, [(0, item)]);
    assert!(script.fates.is_empty());
    script.command(Command::Stored { request: 0 });
    assert_eq!(script.fates, [(7, Fate::Accepted)]);
    // A block, and the tip that it becomes.
    let block = chain(1, 100)[0].clone();
    script.command(Command::PublishBlock { request: 8, block: block.clone() });
    let state = vec![(Bytes::from_static(b"key"), None)];
    let change = TipChange { state: state.clone(), ..TipChange::new(block.block) };
    script.command(Command::SetTip(change));
    assert!(matches!(script.writes[1], (1, Write::Block { height: 1, .. })));
    assert_eq!(script.writes[2], (2, Write::Tip { block: block.block, height: 1, state }));
    assert_eq!(script.node.status().height, 0, "it is not reported");
    assert_eq!(script.node.tip().unwrap().height, 1, "but works with it");
    script.command(Command::Stored { request: 1 });
    assert_eq!(script.fates[1..], [(8, Fate::Accepted)]);
    assert!(!script.events.iter().any(|event| matches!(event, Event::TipChanged { .. })));
    script.command(Command::Stored { request: 2 });
    assert!(script.events.iter().any(|event| matches!(event, Event::TipChanged { .. })));
    assert_eq!(script.node.status().height, 1);
}

#[test]
fn refused_items_are_reported_at_once_and_not_stored() {
    let mut script = Script::with(with_store(1));
    let (request, pool, admission) = (1, SMALL, Admission::default());
    let body = Bytes::from_static(b"none");
    script.command(Command::Publish { request, pool, body, admission });
    assert!(matches!(script.fates[..], [(1, Fate::Invalid(_))]));
    assert!(script.writes.is_empty());
}

#[test]
fn own_items_are_kept_for_as_long_as_they_may_come_back() {
    let mut script = Script::with(with_store(1));
    let own = item(1, 100);
    let (request, pool, admission) = (1, SMALL, Admission::default());
    script.command(Command::Publish { request, pool, body: own.clone(), admission });
    let key = crate::id::ItemKey(id(SMALL, &own).0);
    let chain = chain(70, 100);
    for (n, block) in chain.iter().enumerate() {
        script.command(Command::PublishBlock { request: 0, block: block.clone() });
        let remove = if n == 0 { vec![(SMALL, key)] } else { Vec::new() };
        script.command(Command::SetTip(TipChange { remove, ..TipChange::new(block.block) }));
        let forgotten = script
            .writes
            .iter()
            .any(|(_, write)| *write == Write::Forget { pool: SMALL, id: id(SMALL, &own) });
        // It left at height 1; 64 blocks can be undone.
        assert_eq!(forgotten, n + 1 > 65, "at height {}", n + 1);
    }
}

/// Regression: version one came back after a restart, when the author of version two was offline.
#[test]
fn an_own_item_that_is_displaced_is_forgotten() {
    let version = |priority: u64, key: u8| -> Bytes {
        let mut body = prioritised(1, 100, priority).to_vec();
        body[8] = key;
        body.into()
    };
    let mut script = Script::with(with_store(1));
    let publish = |script: &mut Script, body: &Bytes| {
        let (pool, admission) = (SMALL, Admission::default());
        script.command(Command::Publish { request: 1, pool, body: body.clone(), admission });
        for request in std::mem::take(&mut script.writes).iter().map(|(request, _)| *request) {
            script.command(Command::Stored { request });
        }
        script.fates.pop().map(|(_, fate)| fate)
    };
    assert_eq!(publish(&mut script, &version(5, 7)), Some(Fate::Accepted));
    assert_eq!(publish(&mut script, &version(5, 8)), Some(Fate::Accepted), "another key");
    // A worse item is told the priority of the better one, not its own.
    assert_eq!(publish(&mut script, &version(4, 7)), Some(Fate::Outranked { priority: 5 }));
    let admission = Admission::default();
    script.command(Command::Publish { request: 1, pool: SMALL, body: version(6, 7), admission });
    let forgotten = script.writes.iter().filter_map(|(_, write)| match write {
        Write::Forget { id, .. } => Some(*id),
        _ => None,
    });
    assert_eq!(forgotten.collect::<Vec<_>>(), [id(SMALL, &version(5, 7))]);
}

/// After a restart the node is on a block of its own that no other node has. A re-org undoes it,
/// and the item that was in it counts as published again.
#[test]
fn an_own_item_that_a_reorg_brings_back_after_a_restart_is_kept() {
    let own = item(1, 100);
    let theirs = block(&genesis(), 1, 2, &[]);
    let mut config = with_store(1);
    let mine = block(&genesis(), 2, 1, &[(SMALL, own.clone())]);
    config.chain = vec![mine.header.clone()];
    let mut script = Script::with(config);
    let own_id = id(SMALL, &own);
    script.command(Command::Retain { pool: SMALL, id: own_id });
    script.command(Command::PublishBlock { request: 0, block: theirs.clone() });
    let next = block(&theirs.header, 3, 2, &[]);
    script.command(Command::PublishBlock { request: 0, block: next.clone() });
    let add = vec![(SMALL, own, Admission::default())];
    script.command(Command::SetTip(TipChange { add, ..TipChange::new(next.block) }));
    assert_eq!(script.node.pool_ids(SMALL).collect::<Vec<_>>(), [&own_id]);
    let mut parent = next.header;
    let mut forgotten = 0;
    for slot in 4..150 {
        let block = block(&parent, slot, 2, &[]);
        parent = block.header.clone();
        script.command(Command::PublishBlock { request: 0, block: block.clone() });
        script.command(Command::SetTip(TipChange::new(block.block)));
        let forget = Write::Forget { pool: SMALL, id: own_id };
        forgotten += script.writes.iter().filter(|(_, write)| *write == forget).count();
    }
    assert_eq!(forgotten, 0, "it is in the pool");
}

#[test]
fn blocks_wait_while_the_store_is_behind() {
    let mut config = with_store(1);
    config.limits.store_backlog = 1000;
    let mut net = Net::with(vec![with_store(2), config]);
    net.hosts[1].disk.slow = true;
    net.connect(1, 0);
    net.run_ms(500);
    let chain = chain(12, 300);
    for block in &chain {
        net.produce(0, block);
        net.run_ms(200);
    }
    // Each is 384 bytes with its header; the first that crosses the limit is the last.
    assert_eq!(net.height(1), 3);
    assert_eq!(net.hosts[1].node.status().height, 0);
    net.hosts[1].disk.slow = false;
    net.command(1, Command::Stored { request: 5 });
    net.run(Duration::from_secs(5));
    assert_eq!(net.height(1), 12);
    assert_eq!(net.hosts[1].node.status().height, 12);
}

#[test]
fn a_chain_that_does_not_hold_together_is_refused() {
    let chain = chain(5, 100);
    let with = |headers: Vec<Bytes>| {
        let mut config = with_store(1);
        config.chain = headers;
        Node::new(config, Box::new(super::application::TestRules), [0; 32], Time::ZERO).map(drop)
    };
    let header = |n: usize| chain[n].header.clone();
    assert_eq!(with(vec![header(2), header(3)]), Ok(()));
    assert_eq!(with(vec![header(2), header(4)]), Err(ConfigError::Chain));
    assert_eq!(with(vec![Bytes::from_static(b"junk")]), Err(ConfigError::Chain));
}
