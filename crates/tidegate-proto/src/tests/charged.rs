//! The work that peers cause: what they are charged for it, and that they cannot avoid the charge.

use bytes::Bytes;

use super::application::{SMALL, block, config, genesis, item};
use super::claims::shuffled;
use super::script::{
    BLOCK, CONTROL, PEER, SMALL_POOL, Script, TIP, hello, withhold, withhold_blocks,
};
use crate::id::{Address, PeerId};
use crate::io::{Admission, Command, Verdict};
use crate::peers::UNPAID;
use crate::wire::{
    BlockFetch, BlockMessage, BlockPart, BlockWant, Body, Compact, ControlMessage, Held, NotHere,
    PoolMessage, Prefilled, Refusal, TipMessage,
};

/// A node with `a_second` steps a second, whose application is busy.
fn working(a_second: u32) -> Script {
    let mut config = config(1);
    config.limits.work_per_second = a_second;
    let mut script = Script::with(config);
    script.judge = withhold;
    script
}

/// The same with a connected peer.
fn working_up(a_second: u32) -> Script {
    let mut script = working(a_second);
    script.connect(PEER);
    script.shake_hands();
    script
}

/// A peer connects from an address, pushes `bodies` items, and disconnects.
fn leaves(script: &mut Script, address: &Address, bodies: u8) {
    script.seen_at = address.clone();
    script.connect(PEER);
    script.shake_hands();
    for n in 0..bodies {
        script.send(SMALL_POOL, &PoolMessage::Push(Body::Whole(item(n, 20))));
    }
    script.close(script.connection);
}

/// Whether a peer that connects from an address is refused as busy.
fn refused(script: &mut Script, address: &Address) -> bool {
    script.seen_at = address.clone();
    script.connect(PeerId([7; 32]));
    let refusal = script.refusal();
    script.close(script.connection);
    refusal == Some(Refusal::Busy(1000))
}

/// Regression: a peer that disconnected before its permits came back could reconnect with new ones,
/// so its work cost it nothing. R5.3.7
#[test]
fn returning_peers_wait_for_the_work_they_left() {
    let addresses =
        [1u8, 2].map(|n| Address(vec![4, 8, n, 1, 1, 0x91, 0x02, 0, 1, 0xcd, 0x03].into()));
    // A useless body is nine steps. A peer that is ahead by a tenth of a second is let in.
    for (bodies, a_second, waits) in
        [(10, 1_000, None), (20, 1_000, Some(80)), (20, 100, Some(900))]
    {
        let mut script = working(a_second);
        script.seen_at = addresses[0].clone();
        // A connection opened before does not help.
        script.connect(PeerId([6; 32]));
        let before = script.connection;
        leaves(&mut script, &addresses[0], bodies);
        script.send_on(before, CONTROL, &ControlMessage::Hello(hello(before)));
        assert_eq!(script.closed.contains(&before), waits.is_some());
        assert!(!refused(&mut script, &addresses[1]), "others do not wait");
        assert_eq!(refused(&mut script, &addresses[0]), waits.is_some());
        if let Some(waits) = waits {
            script.wait(waits - 2);
            assert!(refused(&mut script, &addresses[0]), "{bodies}");
            // Hello and setup took some steps too.
            script.wait(10);
            assert!(!refused(&mut script, &addresses[0]), "{bodies}");
        }
    }
}

/// From four addresses of one network group on, all of the group wait; a bounded number of sites
/// are remembered, those with the most work the longest. R5.3.7
#[test]
fn hosts_that_left_work_are_counted_by_group_and_bounded() {
    let at = |group: u16, host: u8| {
        let [a, b] = group.to_be_bytes();
        Address(vec![4, 20 + a, b, host, 1, 0x91, 0x02, 0, 1, 0xcd, 0x03].into())
    };
    for (hosts, all) in [(3, false), (4, true)] {
        let mut script = working(100);
        (0..hosts).for_each(|host| leaves(&mut script, &at(0, host), 20));
        assert!(refused(&mut script, &at(0, 0)) && !refused(&mut script, &at(1, 0)));
        assert_eq!(refused(&mut script, &at(0, 99)), all);
    }
    for (hosts, first) in [(UNPAID, true), (UNPAID + 1, false)] {
        let mut script = working(100);
        leaves(&mut script, &at(0, 0), 5);
        (1..hosts as u16).for_each(|group| leaves(&mut script, &at(group, 0), 20));
        // Each has taken a millisecond, and the first has the least left.
        assert_eq!(refused(&mut script, &at(0, 0)), first, "{hosts}");
        assert!(refused(&mut script, &at(hosts as u16 - 1, 0)));
    }
}

/// The cost of a pushed block is charged to its sender, also if the work is done after the header's
/// verdict: the link rests.
#[test]
fn a_block_that_waited_for_its_header_is_charged() {
    let mut script = working_up(10);
    let (wanted, compact) = shuffled(&mut script, 1025);
    script.wait(1_000);
    script.send(BLOCK, &BlockMessage::Push(compact));
    let (ticket, _) = script.questions.pop().unwrap();
    let verdict = Verdict::Accept(Admission::default());
    script.command(Command::Verdict { ticket, verdict });
    script.wait(400);
    let [fetch] = script.fetched().try_into().unwrap();
    assert_eq!((fetch.block, fetch.want), (wanted.block, BlockWant::Ids(0)));
    script.wait(1_000);
    let not_here = NotHere { block: wanted.block, part: BlockPart::Ids };
    script.send(BLOCK, &BlockMessage::NotHere(not_here));
    assert!(rests(&mut script, 900));
}

/// Whether the peer rests for this long: until then nothing is requested from it.
fn rests(script: &mut Script, ms: u64) -> bool {
    let unknown = block(&genesis(), 9, 9, &[]).block;
    script.take();
    script.send(TIP, &TipMessage::Held(Held { block: unknown, height: 5 }));
    script.wait(ms);
    let rested = script.fetched().is_empty();
    script.wait(1_200);
    rested && !script.fetched().is_empty()
}

/// The first peer to push a block is not charged for the look-up, since blocks are what the network
/// is for.
#[test]
fn senders_of_useful_blocks_do_not_rest() {
    let mut script = working_up(50);
    script.judge = withhold_blocks;
    let (wanted, mut compact) = shuffled(&mut script, 1025);
    compact.short_ids = script.short_ids(&wanted).concat().into();
    script.wait(1_000);
    script.send(BLOCK, &BlockMessage::Push(compact));
    assert_eq!(script.judged().len(), 1);
    assert!(!rests(&mut script, 0));
}

/// A request for many items causes many messages, and blocks can be requested again and again: the
/// peer that does so rests too.
#[test]
fn served_requests_are_charged() {
    let mut script = working_up(100);
    let bodies = (0..200u8).map(|n| (SMALL, Bytes::from([&item(1, 20)[..], &[n]].concat())));
    let wanted = block(&genesis(), 1, 1, &bodies.collect::<Vec<_>>());
    script.command(Command::PublishBlock { request: 1, block: wanted.clone() });
    script.wait(1_000);
    script.take();
    let want = BlockWant::Items((0..200).collect());
    script.send(BLOCK, &BlockMessage::Fetch(BlockFetch { block: wanted.block, want }));
    let served = |script: &mut Script| script.received::<BlockMessage>(BLOCK).len();
    // A tenth of a second of 100 steps, each for four items.
    let first = served(&mut script);
    assert!((30..=48).contains(&first), "{first}");
    script.wait(3_000);
    assert_eq!(first + served(&mut script), 200);
}

/// Regression: a peer that disconnected just before it had to rest, and reconnected, started from
/// zero, so it was never charged. R5.3.7
#[test]
fn small_remainders_of_work_add_up() {
    let address = Address(vec![4, 8, 8, 1, 1, 0x91, 0x02, 0, 1, 0xcd, 0x03].into());
    let mut script = working(1_000);
    leaves(&mut script, &address, 8);
    assert!(!refused(&mut script, &address), "72 steps are 72 ms");
    leaves(&mut script, &address, 8);
    assert!(refused(&mut script, &address));
    // All IPv6 addresses of one site count as one.
    let at = |site: u8, host: u8| {
        let ip = [0x20, 1, 0xd, 0xb8, 0, site, host, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        Address([&[0x29][..], &ip, &[0x91, 0x02, 0, 1, 0xcd, 0x03]].concat().into())
    };
    let mut script = working(100);
    (0..4).for_each(|host| leaves(&mut script, &at(1, host), 20));
    assert!(refused(&mut script, &at(1, 9)) && !refused(&mut script, &at(2, 0)));
}

/// Regression: an honest push that came after a false one, and did not complete the block, was
/// charged for its look-up, while the false one was not.
#[test]
fn senders_of_true_compact_blocks_are_not_charged() {
    for right in [true, false] {
        let mut script = working_up(50);
        script.judge = withhold_blocks;
        let (known, _) = shuffled(&mut script, 1025);
        let mut items = known.items.iter().map(|i| (SMALL, i.body.clone())).collect::<Vec<_>>();
        items.push((SMALL, item(7, 100)));
        let wanted = block(&genesis(), 1, 1, &items);
        let mut ids = script.short_ids(&wanted);
        let right_ids = ids.concat().into();
        let compact = Compact { short_ids: right_ids, ..script.compact(&wanted) };
        ids.swap(0, 1);
        let wrong = Compact { short_ids: ids.concat().into(), ..compact.clone() };
        let prefilled = vec![Prefilled { index: 1025, body: item(7, 100) }];
        let whole = Compact { prefilled, ..compact.clone() };
        let (a, b) = if right { (wrong, compact) } else { (compact, wrong) };
        script.send(BLOCK, &BlockMessage::Push(a));
        let second = script.another_peer();
        script.send(BLOCK, &BlockMessage::Push(b));
        script.connect(PeerId([7; 32]));
        script.shake_hands();
        script.send(BLOCK, &BlockMessage::Push(whole));
        assert_eq!(script.judged().len(), 1);
        script.connection = second;
        assert_eq!(rests(&mut script, 0), !right);
    }
}
