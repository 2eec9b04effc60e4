//! Limits of a node that permits do not show: each at its value and exceeded by one.

use bytes::Bytes;

use super::application::{LARGE, SMALL, block, config, facts, genesis, id, item, item_of};
use super::script::{
    BLOCK, CONTROL, LARGE_POOL, PEER, SMALL_POOL, Script, TIP, withhold, withhold_blocks,
};
use crate::config::{BLOCK_ITEM, HEADER};
use crate::id::{BlockId, PeerId};
use crate::io::{Admission, Block, Command, Subject, TipChange, Verdict};
use crate::wire::{
    BlockFetch, BlockMessage, BlockWant, Body, Compact, ControlMessage, Held, PoolMessage, Report,
    Return, TipMessage, TipSlot,
};
use crate::{Config, Limits};

fn limited(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = config(1);
    change(&mut config.limits);
    config
}

/// A chain of blocks, the first on top of the genesis.
fn chain(length: u64, items: &dyn Fn(u64) -> Vec<Bytes>) -> Vec<Block> {
    let mut parent = genesis();
    let grow = |slot| {
        let items = items(slot).into_iter().map(|body| (SMALL, body)).collect::<Vec<_>>();
        let block = block(&parent, slot, 1, &items);
        parent = block.header.clone();
        block
    };
    (1..=length).map(grow).collect()
}

fn fetch(block: BlockId, want: BlockWant) -> BlockMessage {
    BlockMessage::Fetch(BlockFetch { block, want })
}

/// What the node sends on the block channel, without its own tip.
fn said(script: &mut Script) -> Vec<BlockMessage> {
    script.received(BLOCK)
}

/// Whether the node serves a part of a block.
fn serves(script: &mut Script, block: &Block, want: BlockWant) -> bool {
    script.take();
    script.send(BLOCK, &fetch(block.block, want));
    script.wait(2000);
    let answers = said(script).into_iter().filter_map(|message| match message {
        BlockMessage::Header(_) | BlockMessage::Compact(_) => Some(true),
        BlockMessage::NotHere(_) => Some(false),
        _ => None,
    });
    let answers = answers.collect::<Vec<_>>();
    assert_eq!(answers.len(), 1);
    answers[0]
}

fn announce(script: &mut Script, block: &Block) {
    script.send(TIP, &TipMessage::Header(block.header.clone()));
    // Its permit is back by then.
    script.wait(20);
}

/// The peer answers requests for a block whose items are missing here.
fn deliver(script: &mut Script, block: &Block) {
    for index in 0..block.items.len() {
        script.send(BLOCK, &BlockMessage::Item(item_of(block, index)));
    }
}

fn publish(script: &mut Script, block: &Block) {
    script.command(Command::PublishBlock { request: 0, block: block.clone() });
    set_tip(script, block);
}

fn set_tip(script: &mut Script, block: &Block) {
    script.command(Command::SetTip(TipChange::new(block.block)));
}

/// Announces the last of a chain and sends `ancestors` of its ancestors, each when it is requested.
fn follow_back(script: &mut Script, chain: &[Block], ancestors: usize) {
    announce(script, chain.last().unwrap());
    for block in chain.iter().rev().skip(1).take(ancestors) {
        let header = fetch(block.block, BlockWant::Header);
        assert_eq!(said(script), [header]);
        script.send(BLOCK, &BlockMessage::Header(block.header.clone()));
    }
}

#[test]
fn ancestors_are_followed_to_a_bounded_depth() {
    let own = chain(60, &|_| Vec::new());
    // Of another producer, and higher: a fork from the first block on.
    let mut parent = genesis();
    let fork = (1..=66).map(|slot| {
        let block = block(&parent, slot, 2, &[]);
        parent = block.header.clone();
        block
    });
    let fork = fork.collect::<Vec<_>>();
    let with = |change: &dyn Fn(&mut Limits), ancestors| {
        let mut script = Script::up_with(limited(change));
        own.iter().for_each(|block| publish(&mut script, block));
        said(&mut script);
        follow_back(&mut script, &fork, ancestors);
        said(&mut script).len()
    };
    assert_eq!(with(&|_| {}, 63), 1, "64 wait, and their parent is asked for");
    assert_eq!(with(&|_| {}, 64), 0, "that is the 65th");
    // By bytes: headers of 84.
    assert_eq!(with(&|limits| limits.orphan_bytes = 84 * 3, 2), 1);
    assert_eq!(with(&|limits| limits.orphan_bytes = 84 * 3 - 1, 2), 0);
}

/// R9.3.1 bounds bodies; this bounds headers.
#[test]
fn many_headers_for_one_slot_displace_each_other_and_no_others() {
    // The genesis and 25 others.
    let room = 26 * (84 + HEADER as u32);
    let fork = |n| block(&genesis(), 1, 1, &[(SMALL, item(n, 100))]);
    let mut forks = (1..=27).map(fork).collect::<Vec<_>>();
    // The best one comes first: of the same height and slot, the one with the smallest id.
    forks.sort_by_key(|block| block.block);
    let (fit, beyond) = forks.split_at(25);
    let kept = |script: &mut Script, block| serves(script, block, BlockWant::Header);
    let mut script = Script::up_with(limited(|limits| limits.header_bytes = room));
    script.judge = withhold_blocks;
    for fork in fit {
        announce(&mut script, fork);
    }
    assert!(fit.iter().all(|fork| kept(&mut script, fork)), "the limit itself");
    // The next one is worse than all of them.
    announce(&mut script, &beyond[0]);
    assert!(!kept(&mut script, &beyond[0]) && kept(&mut script, &fit[24]));
    // An honest one is worse too, by its later slot, and evicts the worst of the many.
    let honest = block(&genesis(), 2, 2, &[]);
    announce(&mut script, &honest);
    assert!(kept(&mut script, &honest) && !kept(&mut script, &fit[24]));
    // Blocks with children stay, and so does the best.
    let child = block(&fit[23].header, 3, 3, &[]);
    announce(&mut script, &child);
    assert!([&fit[23], &child].into_iter().all(|block| kept(&mut script, block)));
    assert_eq!(script.node.status().blocks_kept, 26);
}

/// A chain of one header a slot goes on, although not all of it fits.
#[test]
fn the_oldest_blocks_make_room_for_a_chain_that_goes_on() {
    let chain = chain(27, &|_| Vec::new());
    let room = 26 * (84 + HEADER as u32);
    let mut script = Script::up_with(limited(|limits| limits.header_bytes = room));
    for block in &chain[..25] {
        publish(&mut script, block);
    }
    assert_eq!(script.node.status().blocks_kept, 26);
    for block in &chain[25..] {
        announce(&mut script, block);
        assert!(serves(&mut script, block, BlockWant::Header));
        assert_eq!(script.node.status().blocks_kept, 26);
    }
    assert!(!serves(&mut script, &chain[0], BlockWant::Header));
    assert!(serves(&mut script, &chain[1], BlockWant::Header));
}

/// Regression: a producer's many headers for one slot evicted the blocks below the tip, and with
/// them the way to another chain.
#[test]
fn many_headers_for_one_slot_displace_no_executed_block() {
    let chain = chain(10, &|_| Vec::new());
    let room = 26 * (84 + HEADER as u32);
    let mut script = Script::up_with(limited(|limits| limits.header_bytes = room));
    script.judge = withhold_blocks;
    for block in &chain {
        publish(&mut script, block);
    }
    let fork = |n| block(&chain[9].header, 11, 2, &[(SMALL, item(n, 100))]);
    let mut forks = (1..=40).map(fork).collect::<Vec<_>>();
    // The best first, so that each is the least important when it arrives.
    forks.sort_by_key(|block| block.block);
    for fork in &forks {
        announce(&mut script, fork);
    }
    assert!(chain.iter().all(|block| serves(&mut script, block, BlockWant::Header)));
    // Headers of different slots leave the blocks just below the tip.
    for slot in 12..40 {
        announce(&mut script, &block(&chain[9].header, slot, slot as u8, &[]));
    }
    assert!(chain[7..].iter().all(|block| serves(&mut script, block, BlockWant::Header)));
}

/// R9.3.1
#[test]
fn a_third_block_of_one_producer_and_slot_is_fetched_as_an_ancestor_only() {
    let fork = |n| block(&genesis(), 1, 1, &[(SMALL, item(n, 100))]);
    let mut forks = (1..=3).map(fork).collect::<Vec<_>>();
    // Each is better than the one before.
    forks.sort_by_key(|block| std::cmp::Reverse(block.block));
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let compact = |block: &Block| fetch(block.block, BlockWant::Compact);
    for fork in &forks[..2] {
        announce(&mut script, fork);
        script.wait(50);
        assert_eq!(said(&mut script), [compact(fork)]);
        let answer = script.compact(fork);
        script.send(BLOCK, &BlockMessage::Compact(answer));
        deliver(&mut script, fork);
        script.take();
    }
    announce(&mut script, &forks[2]);
    script.wait(3000);
    assert!(!said(&mut script).contains(&compact(&forks[2])));
    announce(&mut script, &block(&forks[2].header, 2, 2, &[]));
    script.wait(50);
    assert!(said(&mut script).contains(&compact(&forks[2])));
}

#[test]
fn blocks_are_kept_as_deep_as_a_reorg_may_go() {
    let chain = chain(4, &|_| Vec::new());
    let mut script = Script::up_with(limited(|limits| limits.blocks_kept = 2));
    for block in &chain {
        publish(&mut script, block);
    }
    assert_eq!(script.node.status().height, 4);
    assert!(!serves(&mut script, &chain[0], BlockWant::Header), "three below");
    assert!(serves(&mut script, &chain[1], BlockWant::Compact), "two below");
}

#[test]
fn the_oldest_bodies_make_room() {
    let chain = chain(3, &|slot| vec![item(slot as u8, 1000)]);
    for (room, served) in [(0, true), (1, false)] {
        let bytes = 3 * (1000 + BLOCK_ITEM as u32) - room;
        let mut script = Script::up_with(limited(|limits| limits.block_bytes = bytes));
        for block in &chain {
            publish(&mut script, block);
        }
        assert_eq!(serves(&mut script, &chain[0], BlockWant::Compact), served);
        assert!(serves(&mut script, &chain[0], BlockWant::Header));
        assert!(serves(&mut script, &chain[1], BlockWant::Compact));
        let kept = if served { 3 } else { 2 };
        assert_eq!(script.node.status().block_bytes, kept * (1000 + BLOCK_ITEM as usize));
    }
}

/// Blocks arrive faster than they are executed: the node fetches a bounded number ahead.
#[test]
fn unexecuted_blocks_take_half_of_the_room() {
    let chain = chain(4, &|slot| vec![item(slot as u8, 1000)]);
    let one = 1000 + BLOCK_ITEM as u32;
    let mut script = Script::up_with(limited(|limits| limits.block_bytes = 4 * one));
    script.judge = withhold_blocks;
    let compact = |block: &Block| fetch(block.block, BlockWant::Compact);
    for (n, block) in chain.iter().enumerate() {
        announce(&mut script, block);
        script.wait(3000);
        let asked = said(&mut script).contains(&compact(block));
        assert_eq!(asked, n < 2, "block {n}");
        if asked {
            let answer = script.compact(block);
            script.send(BLOCK, &BlockMessage::Compact(answer));
            deliver(&mut script, block);
        }
    }
    // A push does not get past it either.
    script.send(BLOCK, &BlockMessage::Push(script.compact(&chain[2])));
    script.wait(100);
    let ignored = Return { number: 0, report: Report::Ignored };
    assert!(said(&mut script).contains(&BlockMessage::Return(vec![ignored])));
    // One is executed: now there is room for another.
    let (ticket, _) = script.questions.remove(0);
    let verdict = Verdict::Accept(Admission::default());
    script.command(Command::Verdict { ticket, verdict });
    set_tip(&mut script, &chain[0]);
    script.wait(1000);
    assert!(said(&mut script).contains(&compact(&chain[2])));
}

/// The next block to execute evicts those that came too early.
#[test]
fn the_next_block_to_execute_is_fetched_first() {
    let chain = chain(3, &|slot| vec![item(slot as u8, if slot == 1 { 2000 } else { 1000 })]);
    let cost = |size| size + BLOCK_ITEM as usize;
    let room = 3 * cost(1000) as u32;
    let mut script = Script::up_with(limited(|limits| limits.block_bytes = room));
    script.judge = withhold_blocks;
    for block in &chain {
        announce(&mut script, block);
    }
    // The second and the third are here, and wait for the first.
    let take = |script: &mut Script, block: &Block| {
        let answer = script.compact(block);
        script.send(BLOCK, &BlockMessage::Compact(answer));
        deliver(script, block);
    };
    script.wait(50);
    assert_eq!(said(&mut script).len(), 3, "nothing was here yet");
    take(&mut script, &chain[1]);
    take(&mut script, &chain[2]);
    assert_eq!(script.node.status().block_bytes, 2 * cost(1000));
    take(&mut script, &chain[0]);
    assert_eq!(script.node.status().block_bytes, cost(2000) + cost(1000));
    assert_eq!(script.questions.len(), 1, "the first is executed");
    assert!(serves(&mut script, &chain[1], BlockWant::Compact));
    assert!(!serves(&mut script, &chain[2], BlockWant::Compact));
}

#[test]
fn oversized_blocks_are_bad() {
    for (size, expected) in [(1000, 1), (1001, 0)] {
        let mut script = Script::up_with(limited(|limits| limits.block_size = 2000));
        script.judge = withhold_blocks;
        let items = [(SMALL, item(1, 1000)), (SMALL, item(2, size))];
        let block = block(&genesis(), 1, 1, &items);
        script.send(BLOCK, &BlockMessage::Push(script.compact(&block)));
        deliver(&mut script, &block);
        assert_eq!(script.questions.len(), expected);
        let best = if expected == 1 { &block.header } else { &genesis() };
        assert_eq!(script.node.best_header(), Some(&facts(best)));
        assert_eq!(script.accusation(), None, "who relayed it could not know");
    }
}

#[test]
fn reconstructions_at_a_time_are_bounded() {
    let forks = [1, 2].map(|n| block(&genesis(), n, 1, &[(SMALL, item(n as u8, 100))]));
    let ignored = |script: &mut Script| {
        script.wait(100);
        let reports = said(script).into_iter().filter_map(|message| match message {
            BlockMessage::Return(returns) => Some(returns),
            _ => None,
        });
        let reports = reports.flatten().collect::<Vec<_>>();
        assert!(reports.iter().all(|back| back.report == Report::Ignored), "{reports:?}");
        reports.into_iter().map(|back| back.number).collect::<Vec<_>>()
    };
    for (most, better_last, expected) in
        [(2, true, vec![]), (1, false, vec![1]), (1, true, vec![0])]
    {
        let mut script = Script::up_with(limited(|limits| limits.reconstructions = most));
        // The first one is better.
        let (first, second) = if better_last { (1, 0) } else { (0, 1) };
        for fork in [first, second] {
            script.send(BLOCK, &BlockMessage::Push(script.compact(&forks[fork])));
        }
        assert_eq!(ignored(&mut script), expected);
    }
}

#[test]
fn pushes_are_awaited_before_a_block_is_fetched() {
    let block = block(&genesis(), 1, 1, &[]);
    let mut script = Script::up();
    script.send(TIP, &TipMessage::Header(block.header.clone()));
    script.wait(49);
    assert_eq!(said(&mut script), []);
    script.wait(1);
    assert_eq!(said(&mut script), [fetch(block.block, BlockWant::Compact)]);
}

#[test]
fn tips_leave_at_a_bounded_rate() {
    let chain = chain(2, &|_| Vec::new());
    let back = [TipMessage::Return(TipSlot::Header)];
    let mut script = Script::up();
    script.send(TIP, &TipMessage::Header(chain[0].header.clone()));
    assert_eq!(script.received::<TipMessage>(TIP), back);
    script.send(TIP, &TipMessage::Header(chain[1].header.clone()));
    script.wait(19);
    assert_eq!(script.received::<TipMessage>(TIP), []);
    script.wait(1);
    assert_eq!(script.received::<TipMessage>(TIP), back);
}

/// Each of two peers announces an item of 20,000 bytes, which counts as 20 KiB.
#[test]
fn bytes_asked_for_are_bounded_over_all_links() {
    for (bytes, expected) in [(40_960, 2), (40_959, 1)] {
        let mut script = Script::up_with(limited(|limits| limits.fetch_bytes_node = bytes));
        script.judge = withhold;
        let mut asked = 0;
        let mut number = |script: &mut Script, n| {
            script.announce(LARGE, &id(LARGE, &item(n, 20_000)), 20_000);
            asked += script.received::<PoolMessage>(LARGE_POOL).len();
        };
        number(&mut script, 1);
        script.another_peer();
        number(&mut script, 2);
        assert_eq!(asked, expected);
        assert_eq!(script.node.status().fetch_bytes, 20_480 * expected as u32);
    }
}

/// A peer that pings again at each pong is answered eight times at once, and then ten times a
/// second.
#[test]
fn pongs_leave_at_a_pace() {
    let mut script = Script::up();
    let ping = |script: &mut Script| {
        script.send(CONTROL, &ControlMessage::Ping(7));
        script.received::<ControlMessage>(CONTROL) == [ControlMessage::Pong(7)]
    };
    assert!((0..8).all(|_| ping(&mut script)));
    assert!(!ping(&mut script));
    script.wait(99);
    assert_eq!(script.received::<ControlMessage>(CONTROL), []);
    script.wait(1);
    assert_eq!(script.received::<ControlMessage>(CONTROL), [ControlMessage::Pong(7)]);
    assert_eq!(script.accusation(), None);
}

/// R5.5.1, R5.5.4: this side did not dial, so it pings after one and a half times 30 s.
#[test]
fn silence_is_asked_about_and_ended_in_time() {
    let mut script = Script::up();
    let pings = |script: &mut Script| {
        let said = script.received::<ControlMessage>(CONTROL).into_iter();
        said.filter(|message| matches!(message, ControlMessage::Ping(_))).count()
    };
    // The hello has taken 1 ms since the last frame of the peer.
    script.wait(45_000 - 2);
    assert_eq!(pings(&mut script), 0);
    script.wait(1);
    assert_eq!(pings(&mut script), 1);
    script.wait(7999);
    assert!(script.closed.is_empty());
    script.wait(1);
    assert!(script.closed.contains(&script.connection));
    // While an answer is awaited it pings after 2 s.
    let mut script = Script::up();
    script.send(TIP, &TipMessage::Held(Held { block: BlockId([1; 32]), height: 1 }));
    script.wait(1999);
    assert_eq!(pings(&mut script), 0);
    script.wait(1);
    assert_eq!(pings(&mut script), 1);
}

/// R5.3.4: the older of two connections has 2 s to answer.
#[test]
fn the_older_of_two_connections_has_a_deadline() {
    let mut script = Script::up();
    let older = script.connection;
    script.connect(PEER);
    let hello = super::script::hello(script.connection);
    script.send(CONTROL, &ControlMessage::Hello(hello));
    script.wait(1999);
    assert!(script.closed.is_empty());
    script.wait(1);
    assert!(script.closed.contains(&older) && !script.closed.contains(&script.connection));
}

/// R12.3: otherwise a peer that reconnects again and again could make a busy node keep ever more.
#[test]
fn waiting_items_go_with_their_last_sender() {
    let mut config = config(1);
    config.workers = 1;
    let mut script = Script::up_with(config);
    script.judge = withhold;
    // The first two have tickets, and the others wait.
    for n in 0..=4 {
        script.send(SMALL_POOL, &PoolMessage::Push(Body::Whole(item(n, 100))));
    }
    let first = script.connection;
    // Another peer sends the second, and announces the third.
    script.another_peer();
    script.send(SMALL_POOL, &PoolMessage::Push(Body::Whole(item(2, 100))));
    script.announce(SMALL, &id(SMALL, &item(3, 100)), 100);
    assert_eq!(script.received::<PoolMessage>(SMALL_POOL), []);
    script.close(first);
    // It announced it as number 1: now that is requested.
    let asked = script.received::<PoolMessage>(SMALL_POOL);
    assert_eq!(asked, [PoolMessage::Fetch(vec![1])]);
    script.judge = |_| Some(Verdict::Accept(Admission::default()));
    for (ticket, _) in std::mem::take(&mut script.questions) {
        let verdict = Verdict::Accept(Admission::default());
        script.command(Command::Verdict { ticket, verdict });
    }
    let pooled = |script: &Script| script.node.status().pools["small"].items;
    assert_eq!(pooled(&script), 3, "what was asked about counts, and what another sent");
    script.wait(1000);
    let first = PoolMessage::Return(vec![Return { number: 0, report: Report::First }]);
    assert!(script.received::<PoolMessage>(SMALL_POOL).contains(&first));
}

/// R12.3
#[test]
fn waiting_headers_go_with_their_last_sender() {
    let mut config = config(1);
    config.workers = 1;
    let mut script = Script::up_with(config);
    script.judge = withhold;
    let forks = (1..=4).map(|slot| block(&genesis(), slot, 1, &[])).collect::<Vec<_>>();
    let mut links = Vec::new();
    // Two have tickets, two wait; the last one was sent by two peers.
    for (n, header) in [0, 1, 2, 3, 3].into_iter().enumerate() {
        script.connect(PeerId([100 + n as u8; 32]));
        script.shake_hands();
        links.push(script.connection);
        announce(&mut script, &forks[header]);
    }
    assert_eq!(script.questions.len(), 2);
    for link in &links[..4] {
        script.close(*link);
    }
    for (ticket, _) in std::mem::take(&mut script.questions) {
        script.command(Command::Verdict { ticket, verdict: Verdict::Ignore });
    }
    let asked = script.questions.iter().map(|(_, subject)| subject.clone()).collect::<Vec<_>>();
    let (block, header) = (forks[3].block, forks[3].header.clone());
    assert_eq!(asked, [Subject::Header { block, header }]);
}

/// A compact block is dropped with its sender, while its header waits for its verdict.
#[test]
fn waiting_compact_blocks_go_with_their_sender() {
    let mut script = Script::up();
    script.judge = withhold;
    let wanted = block(&genesis(), 1, 1, &[]);
    let Compact { header, .. } = script.compact(&wanted);
    let sender = script.connection;
    script.send(BLOCK, &BlockMessage::Push(script.compact(&wanted)));
    script.another_peer();
    script.send(TIP, &TipMessage::Header(header));
    script.close(sender);
    let (ticket, _) = script.questions.pop().unwrap();
    let verdict = Verdict::Accept(Admission::default());
    script.command(Command::Verdict { ticket, verdict });
    script.wait(50);
    assert_eq!(said(&mut script), [fetch(wanted.block, BlockWant::Compact)]);
}
