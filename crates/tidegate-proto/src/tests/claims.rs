//! Claims of peers about blocks that are neither proven nor disproven yet: they must not delay
//! anything, and end with the peer that made them.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::application::{
    FOREIGN, LARGE, SMALL, TestRules, block, config, facts, genesis, id, ids_of, item, item_of,
};
use super::script::{
    BLOCK, CONTROL, PEER, SMALL_POOL, Script, TIP, hello, setup, withhold, withhold_blocks,
};
use super::syncing::chain;
use crate::Violation;
use crate::chunk;
use crate::id::{ConnectionId, Digest, ItemId, PeerId};
use crate::io::{Admission, Block, Command, Input, Subject, TipChange, Verdict};
use crate::rules::Rules as _;
use crate::wire::{
    self, Answer, BlockFetch, BlockMessage, BlockPart, BlockWant, Body, Compact, ControlMessage,
    Group, Held, NotHere, PoolMessage, Prefilled, Report, Return, TipMessage, TipSlot,
};

/// A block of `count` items in the pool, and a compact block with its short ids in the wrong order,
/// so that all ids have to be requested.
pub(super) fn shuffled(script: &mut Script, count: u16) -> (Block, Compact) {
    let body = |n: u16| {
        let mut body = item(1, 20).to_vec();
        body.extend(n.to_be_bytes());
        Bytes::from(body)
    };
    let bodies = (0..count).map(body).collect::<Vec<_>>();
    bodies.iter().for_each(|body| script.publish(SMALL, body));
    let items = bodies.into_iter().map(|body| (SMALL, body)).collect::<Vec<_>>();
    let block = block(&genesis(), 1, 1, &items);
    let mut short_ids = script.short_ids(&block);
    short_ids.reverse();
    let short_ids = short_ids.concat();
    let compact = Compact { short_ids: short_ids.into(), ..script.compact(&block) };
    script.take();
    (block, compact)
}

/// Regression: a peer that sent its ids one at a time kept all others from being asked. R9.2.11
#[test]
fn ids_come_in_full_parts() {
    for (given, expected) in [(1, Some(Violation::WrongIds)), (2, None)] {
        let mut script = Script::up();
        script.judge = withhold_blocks;
        let (block, compact) = shuffled(&mut script, 2);
        script.send(BLOCK, &BlockMessage::Push(compact));
        let [BlockFetch { want: BlockWant::Ids(0), .. }] = script.fetched()[..] else {
            panic!("all ids are asked for");
        };
        script.send(BLOCK, &BlockMessage::Ids(ids_of(&block, 0..given)));
        assert_eq!(script.accusation(), expected);
        assert_eq!(script.judged().len(), usize::from(expected.is_none()));
    }
}

/// Regression: a peer that began a list of ids, and let its only request slot be used up by one it
/// never answered, kept all others from being asked for the list.
#[test]
fn peers_without_permits_for_more_ids_are_not_waited_for() {
    let mut config = config(1);
    config.limits.block_grant.requests = 1;
    let mut script = Script::up_with(config);
    script.judge = withhold_blocks;
    let slow = script.connection;
    let (wanted, compact) = shuffled(&mut script, 1025);
    script.send(BLOCK, &BlockMessage::Push(compact));
    assert_eq!(script.fetched().len(), 1);
    let unknown = block(&genesis(), 9, 9, &[]).block;
    script.send(TIP, &TipMessage::Held(Held { block: unknown, height: 1 }));
    let honest = script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.send_on(slow, BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..1024)));
    script.wait(100);
    // One peer sends all of the list.
    for first in [0, 1024] {
        let [fetch] = script.fetched().try_into().unwrap();
        assert_eq!(fetch.want, BlockWant::Ids(first as u32));
        let end = wanted.items.len().min(first + 1024);
        script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, first..end)));
    }
    assert_eq!(script.judged().len(), 1);
    assert!(!script.closed.contains(&slow) && !script.closed.contains(&honest));
}

/// Regression: a peer whose request slots were all used up by requests it never answered kept the
/// reserve from being asked for items.
#[test]
fn peers_without_permits_for_items_are_not_waited_for() {
    let mut config = config(1);
    config.limits.block_grant.requests = 1;
    let mut script = Script::up_with(config);
    script.judge = withhold_blocks;
    let slow = script.connection;
    let unknown = block(&genesis(), 9, 9, &[]).block;
    script.send(TIP, &TipMessage::Held(Held { block: unknown, height: 1 }));
    assert_eq!(script.fetched().len(), 1);
    let wanted = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
    let compact = script.compact(&wanted);
    script.send(BLOCK, &BlockMessage::Push(compact));
    assert_eq!(script.fetched(), []);
    let honest = script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.wait(50);
    let [fetch] = script.fetched().try_into().unwrap();
    assert_eq!(fetch.want, BlockWant::Items(vec![0]));
    script.send(BLOCK, &BlockMessage::Item(item_of(&wanted, 0)));
    assert_eq!(script.judged().len(), 1);
    assert!(!script.closed.contains(&slow) && !script.closed.contains(&honest));
}

/// A peer that is asked for a header and does not read the block channel from then on; and the
/// block of one item that it pushes then.
fn pushed_and_does_not_read() -> (Script, Block) {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    script.stalled = true;
    let unknown = block(&genesis(), 9, 9, &[]).block;
    script.send(TIP, &TipMessage::Held(Held { block: unknown, height: 1 }));
    assert_eq!(script.fetched().len(), 1);
    script.stalled = false;
    let wanted = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
    let compact = script.compact(&wanted);
    script.send(BLOCK, &BlockMessage::Push(compact));
    (script, wanted)
}

/// Regression: a peer that announced a block and did not read requests kept the reserve from being
/// asked, however they had announced the block.
#[test]
fn peers_that_do_not_read_are_not_waited_for() {
    for by_header in [true, false] {
        let (mut script, wanted) = pushed_and_does_not_read();
        script.another_peer();
        script.send(
            TIP,
            &if by_header {
                TipMessage::Header(wanted.header.clone())
            } else {
                TipMessage::Held(Held { block: wanted.block, height: 1 })
            },
        );
        assert_eq!(script.fetched(), []);
        script.wait(50);
        let [fetch] = script.fetched().try_into().unwrap();
        assert_eq!(fetch.want, BlockWant::Items(vec![0]));
        script.send(BLOCK, &BlockMessage::Item(item_of(&wanted, 0)));
        assert_eq!(script.judged().len(), 1);
    }
}

/// The same in the middle of a list of ids, which has no timeout while nothing is requested.
#[test]
fn peers_that_stop_reading_in_a_list_are_not_waited_for() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let slow = script.connection;
    let (wanted, compact) = shuffled(&mut script, 1025);
    script.stalled = true;
    script.send(BLOCK, &BlockMessage::Push(compact));
    assert_eq!(script.fetched()[0].want, BlockWant::Ids(0));
    script.stalled = false;
    script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.send_on(slow, BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..1024)));
    script.wait(50);
    // It reads again, and is not asked for what the other is asked for.
    script.input(Input::Writable { connection: slow, channel: BLOCK });
    for range in [0..1024, 1024..1025] {
        let [fetch] = script.fetched().try_into().unwrap();
        assert_eq!(fetch.want, BlockWant::Ids(range.start as u32));
        script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, range)));
    }
    assert_eq!(script.judged().len(), 1);
}

/// No other peer has announced the block: it is given up, its permit goes back, and it is requested
/// from the next peer that announces it.
#[test]
fn a_block_without_askable_peers_is_restarted() {
    let (mut script, wanted) = pushed_and_does_not_read();
    script.another_peer();
    let higher = block(&wanted.header, 2, 2, &[]);
    script.send(TIP, &TipMessage::Held(Held { block: higher.block, height: 2 }));
    let asked = |script: &mut Script| {
        script.fetched().iter().any(|f| (f.block, &f.want) == (wanted.block, &BlockWant::Compact))
    };
    script.wait(1_900);
    assert!(!asked(&mut script));
    script.wait(1_200);
    assert!(asked(&mut script));
    assert!(script.closed.is_empty());
}

/// A peer connects with an apparent round trip of one second.
fn connects_slowly(script: &mut Script, peer: PeerId) {
    script.connect(peer);
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    script.wait(990);
    script.send(CONTROL, &ControlMessage::Setup(setup(&config(1))));
}

/// A peer with an apparent round trip of one second that pushes a block of `count` items, of which
/// the pool has all but the last; its short ids are right or wrong.
fn slow_on_purpose(count: usize, right: bool) -> (Script, Block) {
    let mut script = Script::with(config(1));
    script.judge = withhold_blocks;
    connects_slowly(&mut script, PEER);
    let items = (1..=count as u8).map(|n| (SMALL, item(n, 20))).collect::<Vec<_>>();
    items[..count - 1].iter().for_each(|(pool, body)| script.publish(*pool, body));
    let wanted = block(&genesis(), 1, 1, &items);
    script.take();
    let mut compact = script.compact(&wanted);
    if right {
        compact.short_ids = script.short_ids(&wanted).concat().into();
    }
    script.send(BLOCK, &BlockMessage::Push(compact));
    assert_eq!(script.fetched().len(), 1);
    (script, wanted)
}

/// Regression: timeouts are measured on a peer's own answers, so one that was slow on purpose
/// delayed every block by up to eight seconds.
#[test]
fn peers_slow_on_purpose_are_not_waited_for() {
    for right in [true, false] {
        let (mut script, wanted) = slow_on_purpose(5, right);
        script.another_peer();
        script.send(TIP, &TipMessage::Header(wanted.header.clone()));
        script.wait(990);
        assert_eq!(script.fetched(), []);
        script.wait(200);
        let [fetch] = script.fetched().try_into().unwrap();
        if !right {
            // Most are in the pool, as the ids show.
            assert_eq!(fetch.want, BlockWant::Ids(0));
            script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..5)));
            assert_eq!(script.fetched()[0].want, BlockWant::Items(vec![4]));
        } else {
            assert_eq!(fetch.want, BlockWant::Items(vec![4]));
        }
        script.send(BLOCK, &BlockMessage::Item(item_of(&wanted, 4)));
        assert_eq!(script.judged().len(), 1);
        assert!(script.closed.is_empty());
    }
}

/// If no other peer has the block, it is waited for; once another announces it, it is fetched from
/// there.
#[test]
fn the_only_source_of_a_block_may_be_slow() {
    let (mut script, wanted) = slow_on_purpose(1, true);
    let slow = script.connection;
    script.wait(2_000);
    assert_eq!(script.fetched(), []);
    script.send(BLOCK, &BlockMessage::Item(item_of(&wanted, 0)));
    assert_eq!(script.judged().len(), 1);

    let (mut script, wanted) = slow_on_purpose(1, true);
    script.wait(1_500);
    script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.wait(250);
    let [fetch] = script.fetched().try_into().unwrap();
    assert_eq!(fetch.want, BlockWant::Ids(0));
    // The first was not too late either, and the list is no longer awaited.
    script.send_on(slow, BLOCK, &BlockMessage::Item(item_of(&wanted, 0)));
    assert_eq!(script.judged().len(), 1);
    script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..1)));
    assert!(script.closed.is_empty());
}

/// Regression: a list of ids that arrived when another peer had already been asked was dropped:
/// peers that each answered after the timeout were asked in turn for ever.
#[test]
fn a_list_that_comes_late_is_taken() {
    for count in [9, 1025] {
        let mut script = Script::up();
        script.judge = withhold_blocks;
        let slow = script.connection;
        let (wanted, compact) = shuffled(&mut script, count);
        script.send(BLOCK, &BlockMessage::Push(compact));
        assert_eq!(script.fetched()[0].want, BlockWant::Ids(0));
        script.another_peer();
        script.send(TIP, &TipMessage::Header(wanted.header.clone()));
        script.wait(500);
        assert_eq!(script.fetched()[0].want, BlockWant::Ids(0));
        let first = usize::from(count).min(1024);
        let other = std::mem::replace(&mut script.connection, slow);
        script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..first)));
        if count > 1024 {
            // A peer that has begun to answer goes on.
            assert_eq!(script.fetched()[0].want, BlockWant::Ids(1024));
            script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 1024..1025)));
        }
        assert_eq!(script.judged().len(), 1);
        script.connection = other;
        script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..first)));
        assert!(script.closed.is_empty());
    }
}

/// Regression: correct compact blocks that arrived while the header was checked were dropped in
/// favour of the false one that came first.
#[test]
fn compact_blocks_wait_for_the_verdict_on_their_header() {
    let mut script = Script::up();
    script.judge = withhold;
    let (wanted, mut compact) = shuffled(&mut script, 9);
    script.send(BLOCK, &BlockMessage::Push(compact.clone()));
    script.another_peer();
    compact.short_ids = script.short_ids(&wanted).concat().into();
    script.send(BLOCK, &BlockMessage::Push(compact));
    let (ticket, subject) = script.questions.remove(0);
    assert!(matches!(subject, Subject::Header { .. }));
    script.command(Command::Verdict { ticket, verdict: Verdict::Accept(Admission::default()) });
    assert_eq!(script.judged().len(), 1);
    assert!(script.closed.is_empty());
}

/// What one peer is late with is requested from peers that this node dialed: a malicious latecomer
/// cannot choose those. They are not waited for either.
#[test]
fn dialed_peers_are_asked_after_a_late_one() {
    for reads in [true, false] {
        let (mut script, wanted) = slow_on_purpose(5, true);
        script.connect(PeerId([7; 32]));
        script.shake_hands();
        let inbound = script.connection;
        script.send(TIP, &TipMessage::Header(wanted.header.clone()));
        script.dial(PeerId([8; 32]));
        script.shake_hands();
        let dialed = script.connection;
        script.send(TIP, &TipMessage::Header(wanted.header.clone()));
        if !reads {
            script.stalled = true;
            let unknown = block(&genesis(), 9, 9, &[]).block;
            script.send(TIP, &TipMessage::Held(Held { block: unknown, height: 1 }));
            assert_eq!(script.fetched().len(), 1);
            script.stalled = false;
        }
        for connection in [inbound, dialed] {
            script.connection = connection;
            script.take();
        }
        script.wait(1_040);
        assert_eq!(script.fetched().len(), usize::from(reads));
        script.connection = inbound;
        script.wait(50);
        assert_eq!(script.fetched().len(), usize::from(!reads));
        assert!(script.closed.is_empty());
    }
}

/// Regression: a peer whose short ids were not the block's delayed it by at least a round trip,
/// however many pushed the right ones.
#[test]
fn a_right_compact_block_makes_up_for_a_false_one() {
    let (mut script, wanted) = slow_on_purpose(5, false);
    let body = wanted.items[4].body.clone();
    let mut compact = script.compact(&wanted);
    compact.short_ids = script.short_ids(&wanted).concat().into();
    script.another_peer();
    // If nothing shows that it is right, it has no effect.
    script.send(BLOCK, &BlockMessage::Push(compact.clone()));
    assert_eq!(script.judged().len(), 0);
    script.connect(PeerId([7; 32]));
    script.shake_hands();
    compact.prefilled = vec![Prefilled { index: 4, body }];
    script.send(BLOCK, &BlockMessage::Push(compact));
    assert_eq!(script.judged().len(), 1);
    script.wait(1_000);
    let reports = script.received::<BlockMessage>(BLOCK).into_iter();
    let reports = reports.filter_map(|message| match message {
        BlockMessage::Return(returns) => Some(returns[0].report),
        _ => None,
    });
    assert_eq!(reports.collect::<Vec<_>>(), [Report::First]);
    assert!(script.closed.is_empty());
}

/// A proven list shows that the sender of the compact block named another pool. R9.2.14
#[test]
fn a_proven_list_blames_senders_of_other_lists() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let (wanted, compact) = shuffled(&mut script, 2);
    let groups = ["small", "large"].map(|pool| Group { pool: pool.to_owned(), count: 1 }).to_vec();
    // Both are known, and do not make the root.
    let prefilled = vec![Prefilled { index: 1, body: wanted.items[1].body.clone() }];
    script.send(BLOCK, &BlockMessage::Push(Compact { groups, prefilled, ..compact }));
    let liar = script.connection;
    assert_eq!(script.fetched()[0].want, BlockWant::Ids(0));
    script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..2)));
    assert_eq!(script.accusation(), Some(Violation::MalformedCompact));
    assert!(script.closed.contains(&liar));
    assert_eq!(script.judged().len(), 1);
}

/// An item is proven to be of a pool that blocks may not contain: the block is bad, and the peer
/// that named another pool is to blame. R9.2.14, R9.4.1, R9.4.2
#[test]
fn a_block_of_a_foreign_pool_is_bad() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let bad = block(&genesis(), 1, 1, &[(FOREIGN, item(1, 100))]);
    let mut compact = script.compact(&Block { items: Vec::new(), ..bad.clone() });
    compact.groups = vec![Group { pool: "small".to_owned(), count: 1 }];
    compact.short_ids = vec![0; 6].into();
    script.send(BLOCK, &BlockMessage::Push(compact));
    script.send(BLOCK, &BlockMessage::Item(item_of(&bad, 0)));
    assert_eq!(script.accusation(), Some(Violation::MalformedCompact));
    script.another_peer();
    let child = block(&bad.header, 2, 1, &[]);
    script.send(TIP, &TipMessage::Header(child.header));
    assert_eq!(script.node.best_header().unwrap().height, 0);
    assert_eq!(script.accusation(), None);
}

/// Regression: an item that began to arrive while its block was not being reconstructed was never
/// checked: with its last chunk a valid block became bad, and the peer that had pushed the block
/// was banned. R9.2.12
#[test]
fn an_item_is_checked_whatever_is_being_put_together() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let body = item(1, 100_000);
    let wanted = block(&genesis(), 1, 1, &[(LARGE, body.clone())]);
    let compact = script.compact(&wanted);
    script.send(BLOCK, &BlockMessage::Push(compact.clone()));
    assert_eq!(script.fetched()[0].want, BlockWant::Items(vec![0]));
    // No other peer has it: it is given up.
    script.wait(4_000);
    let (start, mut rest) = chunk::start(&body);
    let mut begun = item_of(&wanted, 0);
    begun.pool = "foreign".to_owned();
    begun.id = TestRules.item_id("foreign", &body);
    script.send(BLOCK, &BlockMessage::Item(wire::BlockItem { body: start, ..begun }));
    assert_eq!(script.accusation(), Some(Violation::WrongItem));
    let liar = script.connection;
    let honest = script.another_peer();
    script.send(BLOCK, &BlockMessage::Push(compact));
    while let Some(chunk) = rest.as_mut().and_then(|rest| rest.next()) {
        script.send_on(liar, BLOCK, &BlockMessage::Chunk(chunk));
    }
    assert_eq!(script.node.best_header(), Some(&facts(&wanted.header)));
    assert!(!script.closed.contains(&honest));
}

/// A list that stops half way proves nothing against the sender of the compact block, even if
/// another peer names the same pools as the liar and is proven right. R9.2.14
#[test]
fn unproven_lists_blame_no_sender() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let origin = script.connection;
    let (wanted, compact) = shuffled(&mut script, 1025);
    script.send(BLOCK, &BlockMessage::Push(compact));
    let not_here = BlockMessage::NotHere(NotHere { block: wanted.block, part: BlockPart::Ids });
    let liar = script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.send_on(origin, BLOCK, &not_here);
    assert_eq!(script.fetched()[0].want, BlockWant::Ids(0));
    let mut list = ids_of(&wanted, 0..1024);
    list.groups = vec![Group { pool: "large".to_owned(), count: 1024 }];
    script.send(BLOCK, &BlockMessage::Ids(list));
    script.connect(PeerId([7; 32]));
    script.shake_hands();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.send_on(liar, BLOCK, &not_here);
    for range in [0..1024, 1024..1025] {
        assert_eq!(script.fetched()[0].want, BlockWant::Ids(range.start as u32));
        script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, range)));
    }
    assert_eq!(script.judged().len(), 1);
    assert!(script.closed.is_empty());
}

/// A header is bad if its parent turned out bad while it waited for its verdict. R9.4.2
#[test]
fn children_of_bad_blocks_are_bad() {
    let mut script = Script::up();
    script.judge = withhold;
    let parent = block(&genesis(), 1, 1, &[]);
    let child = block(&parent.header, 2, 1, &[]);
    let accept = Verdict::Accept(Admission::default());
    script.send(TIP, &TipMessage::Header(parent.header.clone()));
    let (ticket, _) = script.questions.pop().unwrap();
    script.command(Command::Verdict { ticket, verdict: accept });
    let compact = script.compact(&parent);
    script.send(BLOCK, &BlockMessage::Push(compact));
    let (of_block, _) = script.questions.pop().unwrap();
    script.wait(50);
    script.send(TIP, &TipMessage::Header(child.header.clone()));
    let (of_child, _) = script.questions.pop().unwrap();
    script.command(Command::Verdict { ticket: of_block, verdict: Verdict::Reject });
    script.command(Command::Verdict { ticket: of_child, verdict: accept });
    assert_eq!(script.node.best_header(), Some(&facts(&genesis())));
    assert_eq!(script.accusation(), None);
}

/// The permit of an announced header goes back with the verdict on this header, whichever other
/// headers of the peer get theirs. R8.4
#[test]
fn the_permit_of_a_header_waits_for_its_own_verdict() {
    let mut script = Script::up();
    script.judge = withhold;
    let asked = block(&genesis(), 1, 1, &[]);
    let announced = block(&genesis(), 2, 2, &[]);
    script.send(TIP, &TipMessage::Held(Held { block: asked.block, height: 1 }));
    assert_eq!(script.fetched().len(), 1);
    script.send(TIP, &TipMessage::Header(announced.header));
    script.send(BLOCK, &BlockMessage::Header(asked.header));
    script.wait(100);
    script.take();
    let [announced, asked] = [0, 1].map(|n| script.questions[n].0);
    let returned = |script: &mut Script| {
        script.received::<TipMessage>(TIP).contains(&TipMessage::Return(TipSlot::Header))
    };
    script.command(Command::Verdict { ticket: asked, verdict: Verdict::Ignore });
    assert!(!returned(&mut script));
    script.command(Command::Verdict { ticket: announced, verdict: Verdict::Ignore });
    assert!(returned(&mut script));
}

/// A peer with other block rules connects.
fn by_other_rules(script: &mut Script) -> ConnectionId {
    script.connect(PEER);
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    let mut setup = setup(&config(1));
    setup.offers[0].versions[0].rules = Digest([1; 32]);
    script.send(CONTROL, &ControlMessage::Setup(setup));
    script.take();
    script.connection
}

/// A peer with other block rules may announce what is not a header here. R16.10
#[test]
fn tips_by_other_rules_are_returned_and_not_looked_at() {
    let mut script = Script::alone();
    script.judge = |_| Some(Verdict::Reject);
    by_other_rules(&mut script);
    let headers = [block(&genesis(), 1, 1, &[]).header, Bytes::from_static(b"none")];
    for header in headers {
        script.send(TIP, &TipMessage::Header(header));
        script.wait(100);
        assert_eq!(script.received::<TipMessage>(TIP), [TipMessage::Return(TipSlot::Header)]);
    }
    assert_eq!(script.accusation(), None);
}

/// Regression: when the tips of all peers were reconsidered, it counted as a sender of the header.
/// R16.10
#[test]
fn peers_with_other_rules_vouch_for_no_header() {
    let mut script = Script::alone();
    script.judge = withhold;
    let other = by_other_rules(&mut script);
    let header = block(&genesis(), 1, 1, &[]);
    script.send(TIP, &TipMessage::Held(Held { block: header.block, height: 1 }));
    let honest = script.another_peer();
    script.send(TIP, &TipMessage::Header(header.header));
    script.connect(PeerId([7; 32]));
    script.shake_hands();
    script.close(script.connection);
    let (ticket, _) = script.questions.pop().unwrap();
    script.command(Command::Verdict { ticket, verdict: Verdict::Reject });
    assert!(script.closed.contains(&honest) && !script.closed.contains(&other));
}

/// Regression: of two items with one alias, which a peer that knows the salt can make, one was
/// settled by the number of the other: a returned announcement was requested again, and an honest
/// announcer banned this node for it. R7.3.4
#[test]
fn returned_announcements_are_not_fetched() {
    crate::pool::ALIAS_MASK.set(0xff);
    let mut script = Script::up();
    script.judge = withhold;
    let honest = script.connection;
    let salt = script.salt();
    let alias = |body: &Bytes| crate::pool::announcement(&salt, &id(SMALL, body), 20).id;
    let body = |n: u16| Bytes::from([&item(1, 20)[..], &n.to_be_bytes()].concat());
    let mut seen = BTreeMap::new();
    let collide = |b: Bytes| Some((seen.insert(alias(&b), b.clone())?, b));
    let (first, second) = (0..).map(body).find_map(collide).unwrap();
    let others = (0..).map(body).filter(|body| alias(body) != alias(&first)).take(20);
    script.announce(SMALL, &id(SMALL, &first), 22);
    assert_eq!(script.received::<PoolMessage>(SMALL_POOL), [PoolMessage::Fetch(vec![0])]);
    let liar = script.another_peer();
    for body in others.chain([first.clone()]) {
        script.send(SMALL_POOL, &PoolMessage::Push(Body::Whole(body)));
    }
    script.connection = honest;
    script.take();
    let answer = Answer { number: 0, body: Body::Whole(second.clone()) };
    script.send(SMALL_POOL, &PoolMessage::Answer(answer));
    let accept = Verdict::Accept(Admission::default());
    let of_second =
        |subject: &Subject| matches!(subject, Subject::Item { body, .. } if *body == second);
    while script.questions.iter().all(|(_, subject)| !of_second(subject)) {
        let (ticket, _) = script.questions.remove(0);
        script.command(Command::Verdict { ticket, verdict: accept });
    }
    let (ticket, _) = script.questions.iter().find(|(_, subject)| of_second(subject)).unwrap();
    script.command(Command::Verdict { ticket: *ticket, verdict: accept });
    script.wait(2000);
    let late = Return { number: 0, report: Report::Late };
    assert!(script.received(SMALL_POOL).contains(&PoolMessage::Return(vec![late])));
    script.close(liar);
    script.wait(100);
    assert_eq!(script.received::<PoolMessage>(SMALL_POOL), []);
    crate::pool::ALIAS_MASK.set(u64::MAX);
}

/// A requested item may arrive after its block was dropped: it cannot be checked any more, so it is
/// ignored, and nobody is blamed.
#[test]
fn items_of_forgotten_blocks_are_ignored() {
    for (size, own, expected) in [
        (100, 2, Some(Violation::WrongItem)),
        (100, 80, None),
        (100_000, 2, Some(Violation::WrongItem)),
        (100_000, 80, None),
    ] {
        let mut script = Script::up();
        script.judge = withhold_blocks;
        let wanted = block(&genesis(), 1, 2, &[(LARGE, item(1, size))]);
        let compact = script.compact(&wanted);
        script.send(BLOCK, &BlockMessage::Push(compact));
        assert_eq!(script.fetched()[0].want, BlockWant::Items(vec![0]));
        for own in chain(own, 20) {
            script.command(Command::PublishBlock { request: 0, block: own.clone() });
            script.command(Command::SetTip(TipChange::new(own.block)));
        }
        script.take();
        let (body, rest) = chunk::start(&wanted.items[0].body);
        let id = ItemId([7; 32]);
        script
            .send(BLOCK, &BlockMessage::Item(wire::BlockItem { body, id, ..item_of(&wanted, 0) }));
        if let Some(mut rest) = rest
            && expected.is_none()
        {
            while let Some(chunk) = rest.next() {
                script.send(BLOCK, &BlockMessage::Chunk(chunk));
            }
        }
        assert_eq!(script.accusation(), expected, "{size}");
        assert_eq!(script.judged(), []);
    }
}

/// Regression: a peer that was late with all ids was asked for them a second time when another had
/// begun them again; then a timer was due for ever.
#[test]
fn ids_are_asked_of_a_peer_once_at_a_time() {
    let mut script = Script::with(config(1));
    script.judge = withhold_blocks;
    connects_slowly(&mut script, PEER);
    let liar = script.connection;
    connects_slowly(&mut script, PeerId([8; 32]));
    let silent = script.connection;
    let (wanted, compact) = shuffled(&mut script, 40);
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.send_on(liar, BLOCK, &BlockMessage::Push(compact));
    script.wait(1_200);
    assert_eq!(script.fetched().len(), 1, "the silent one is asked as well");
    let mut foreign = ids_of(&wanted, 0..40);
    foreign.groups = vec![Group { pool: "no such pool".to_owned(), count: 40 }];
    script.send_on(liar, BLOCK, &BlockMessage::Ids(foreign));
    assert_eq!(script.fetched(), []);
    // Finds a timer that is always due.
    script.wait(6_000);
    assert!(!script.closed.contains(&silent));
}

/// Regression: a peer in the reserve pushed the right compact block, which was not considered: the
/// block waited for the peer that had been asked for its ids.
#[test]
fn right_compact_blocks_of_askable_peers_are_looked_up() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let liar = script.connection;
    let (wanted, compact) = shuffled(&mut script, 40);
    script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    let silent = script.connection;
    script.connect(PeerId([7; 32]));
    script.shake_hands();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.send_on(liar, BLOCK, &BlockMessage::Push(compact));
    let not_here = NotHere { block: wanted.block, part: BlockPart::Ids };
    script.send_on(liar, BLOCK, &BlockMessage::NotHere(not_here));
    assert_eq!(script.judged(), []);
    let short_ids = script.short_ids(&wanted).concat().into();
    let right = Compact { short_ids, ..script.compact(&wanted) };
    script.send(BLOCK, &BlockMessage::Push(right));
    assert_eq!(script.judged().len(), 1);
    assert!(!script.closed.contains(&silent));
}
