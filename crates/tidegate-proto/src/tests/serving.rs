//! Section 16.1: requests of peers are answered, whatever they do with the answers.

use std::time::Duration;

use bytes::Bytes;

use super::application::SMALL;
use super::script::{PEER, RPC, Script, TIP};
use super::syncing::{chain, chunked, failed, headers, requests, with_store};
use crate::Violation;
use crate::id::{BlockId, ItemId, PeerId};
use crate::io::{Block, Command, Found, Input, Load, TipChange};
use crate::wire::{
    BlockHeader, Held, MAX_HEADERS, RpcError, RpcHeaders, RpcMessage, RpcRequest, RpcWant,
    TipMessage, WantHeaders,
};

fn want_block(id: u32, block: BlockId) -> RpcMessage {
    RpcMessage::Request(RpcRequest { id, want: RpcWant::Block(block) })
}

fn want_headers(id: u32, locator: Vec<BlockId>, most: u32) -> RpcMessage {
    let want = RpcWant::Headers(WantHeaders { locator, most });
    RpcMessage::Request(RpcRequest { id, want })
}

/// A node with a store and a chain in it.
fn serving(chain: &[Block]) -> Script {
    let mut script = Script::up_with(with_store(1));
    for block in chain {
        script.command(Command::PublishBlock { request: 0, block: block.clone() });
        script.command(Command::SetTip(TipChange::new(block.block)));
    }
    script.take();
    script
}

/// R16.1
#[test]
fn a_peer_may_have_four_requests_open() {
    let mut script = serving(&[]);
    let unknown = BlockId([3; 32]);
    for id in 0..4 {
        script.send(RPC, &want_block(id, unknown));
    }
    assert_eq!(script.loads, [(0, Load::Block(unknown))], "one after the other");
    script.command(Command::Loaded { request: 0, found: Found::Nothing });
    assert_eq!(script.received::<RpcMessage>(RPC), [failed(0, RpcError::Unknown)]);
    script.send(RPC, &want_block(4, unknown));
    assert_eq!(script.accusation(), None);
    script.send(RPC, &want_block(5, unknown));
    assert_eq!(script.accusation(), Some(Violation::RequestPermit));
}

/// R16.2
#[test]
fn numbers_of_requests_ascend() {
    let mut script = serving(&[]);
    script.send(RPC, &want_block(5, BlockId([3; 32])));
    script.send(RPC, &want_block(5, BlockId([4; 32])));
    assert_eq!(script.accusation(), Some(Violation::OutOfTurn));
}

/// R16.5
#[test]
fn cancelled_requests_end_at_once_and_once() {
    let mut script = serving(&[]);
    for id in 0..3 {
        script.send(RPC, &want_block(id, BlockId([id as u8; 32])));
    }
    script.send(RPC, &RpcMessage::Cancel(0));
    script.send(RPC, &RpcMessage::Cancel(2));
    assert_eq!(script.received::<RpcMessage>(RPC), []);
    // A load cannot be cancelled, but its result is not needed any more.
    script.command(Command::Loaded { request: 0, found: Found::Block(Bytes::new()) });
    assert_eq!(script.received::<RpcMessage>(RPC), [failed(0, RpcError::Cancelled)]);
    script.wait(50);
    script.command(Command::Loaded { request: 1, found: Found::Nothing });
    let expected = [failed(1, RpcError::Unknown), failed(2, RpcError::Cancelled)];
    assert_eq!(script.received::<RpcMessage>(RPC), expected);
    script.send(RPC, &RpcMessage::Cancel(1));
    assert_eq!(script.accusation(), None, "it crossed the answer");
    script.send(RPC, &RpcMessage::Cancel(1));
    assert_eq!(script.accusation(), Some(Violation::Empty));
}

/// R16.5
#[test]
fn repeated_cancels_start_one_search() {
    for want in [want_block(0, BlockId([3; 32])), want_headers(0, vec![BlockId([3; 32])], 9)] {
        let mut script = serving(&[]);
        let RpcMessage::Request(RpcRequest { want, .. }) = want else { unreachable!() };
        let mut answers = 0;
        for id in 0..100 {
            if id - answers == 4 {
                break;
            }
            script.send(RPC, &RpcMessage::Request(RpcRequest { id, want: want.clone() }));
            script.send(RPC, &RpcMessage::Cancel(id));
            answers += script.received::<RpcMessage>(RPC).len() as u32;
        }
        assert_eq!((script.loads.len(), answers), (1, 0), "the driver is asked once");
        script.command(Command::Loaded { request: 0, found: Found::Nothing });
        let expected = [0, 1, 2, 3].map(|id| failed(id, RpcError::Cancelled));
        assert_eq!(script.received::<RpcMessage>(RPC), expected);
        assert_eq!(script.loads.len(), 1);
    }
}

/// R16.1
#[test]
fn the_last_chunk_is_the_end_of_a_request() {
    let large = chunked(1);
    let mut script = serving(&large);
    // A frame leaves when the test says so.
    script.stalled = true;
    for id in 0..4 {
        script.send(RPC, &want_block(id, large[0].block));
    }
    let mut chunks = 0;
    while chunks < 2 {
        script.input(Input::Writable { connection: script.connection, channel: RPC });
        let messages = script.received::<RpcMessage>(RPC);
        chunks += messages.iter().filter(|m| matches!(m, RpcMessage::Chunk(_))).count();
    }
    script.send(RPC, &want_block(5, large[0].block));
    assert!(script.closed.is_empty(), "he has all of one of the four");
}

/// R16.9
#[test]
fn requesters_that_do_not_read_lose_their_place() {
    let mut config = with_store(1);
    config.limits.serving = 1;
    let block = BlockId([3; 32]);
    // The node requests something from it, which fills its channel; or the first chunk does.
    for is_asked in [true, false] {
        let mut script = Script::up_with(config.clone());
        script.command(Command::PublishBlock { request: 0, block: chain(1, 100)[0].clone() });
        script.stalled = true;
        script.send(RPC, &want_block(0, block));
        if is_asked {
            let held = Held { block, height: 1000 };
            script.send(TIP, &TipMessage::Held(held));
            assert_eq!(requests(&mut script).len(), 1);
        }
        let found = Found::Block(vec![0; 100_000].into());
        script.command(Command::Loaded { request: 0, found });
        script.stalled = false;
        script.another_peer();
        script.send(RPC, &want_block(0, block));
        script.wait(3_000);
        assert_eq!(script.loads.len(), 1, "he may be slow");
        script.wait(1_040);
        assert_eq!(script.loads.len(), 2, "but not for ever");
    }
}

/// This peer is sent a block in chunks, of which it reads the first.
fn takes_a_place(script: &mut Script, block: BlockId, request: u64) {
    script.stalled = true;
    script.send(RPC, &want_block(0, block));
    script.command(Command::Loaded { request, found: Found::Block(vec![0; 1 << 20].into()) });
    script.stalled = false;
}

/// R16.9
#[test]
fn slow_readers_lose_their_place() {
    let mut config = with_store(1);
    config.limits.serving = 1;
    let mut script = Script::up_with(config);
    let slow = script.connection;
    let block = BlockId([3; 32]);
    takes_a_place(&mut script, block, 0);
    script.another_peer();
    script.send(RPC, &want_block(0, block));
    script.stalled = true;
    for _ in 0..2 {
        script.wait(2_000);
        assert_eq!(script.loads.len(), 1);
        script.input(Input::Writable { connection: slow, channel: RPC });
    }
    script.wait(200);
    assert_eq!(script.loads.len(), 2, "three chunks in four seconds are too few");
}

/// Regression: when two peers that did not read lost their places to two that waited, at the same
/// moment, one whose turn it was not was polled again and again within one step, without an end.
/// R16.9
#[test]
fn two_places_become_free_at_once() {
    let mut config = with_store(1);
    config.limits.serving = 2;
    let mut script = Script::up_with(config);
    let first = script.connection;
    let block = BlockId([3; 32]);
    for request in [0, 1] {
        script.connect(PeerId([20 + request; 32]));
        script.shake_hands();
        takes_a_place(&mut script, block, u64::from(request));
    }
    script.another_peer();
    script.send(RPC, &want_block(0, block));
    script.send_on(first, RPC, &want_block(0, block));
    assert_eq!(script.loads.len(), 2);
    script.now = script.now + Duration::from_secs(5);
    script.wait(10);
    assert_eq!(script.loads.len(), 4);
}

/// First come, first served, whichever peer has been connected for longest.
#[test]
fn peers_are_given_blocks_in_turn() {
    let mut config = with_store(1);
    config.limits.serving = 1;
    let mut script = Script::with(config);
    for n in 2..=5 {
        script.connect(PeerId([n; 32]));
        script.shake_hands();
        for id in 0..4 {
            script.send(RPC, &want_block(id, BlockId([n; 32])));
        }
    }
    let mut order = Vec::new();
    for request in 0..8 {
        let Load::Block(block) = script.loads.last().unwrap().1 else { unreachable!() };
        order.push(block.0[0]);
        script.command(Command::Loaded { request, found: Found::Nothing });
    }
    assert_eq!(order, [2, 3, 4, 5, 2, 3, 4, 5]);
}

/// A peer that rests, since it caused more than its share of the work, is skipped. R16.9
#[test]
fn resting_peers_do_not_delay_others() {
    let mut config = with_store(1);
    config.limits.serving = 1;
    config.limits.work_per_second = 100;
    let mut script = Script::with(config);
    let [first, busy, other] = [PeerId([7; 32]), PeerId([8; 32]), PEER].map(|peer| {
        script.connect(peer);
        script.shake_hands();
        script.send(RPC, &want_block(0, BlockId(peer.0)));
        script.connection
    });
    let asked =
        |script: &Script| script.loads.iter().map(|(_, load)| load.clone()).collect::<Vec<_>>();
    let blocks =
        |peers: &[u8]| peers.iter().map(|n| Load::Block(BlockId([*n; 32]))).collect::<Vec<_>>();
    assert_eq!(asked(&script), blocks(&[7]));
    script.connection = busy;
    // 10 ms each: it has to rest when its turn comes.
    for n in 0..30 {
        script.announce(SMALL, &ItemId([n; 32]), 10);
    }
    script.command(Command::Loaded { request: 0, found: Found::Nothing });
    assert_eq!(asked(&script), blocks(&[7, 9]));
    script.wait(1000);
    script.command(Command::Loaded { request: 1, found: Found::Nothing });
    assert_eq!(asked(&script), blocks(&[7, 9, 8]));
    assert!([first, busy, other].iter().all(|link| !script.closed.contains(link)));
}

/// A place that becomes free while the only waiting peer rests is given to that peer after its
/// rest.
#[test]
fn peers_are_served_after_their_rest() {
    let mut config = with_store(1);
    config.limits.serving = 1;
    config.limits.work_per_second = 100;
    let mut script = Script::up_with(config);
    script.send(RPC, &want_block(0, BlockId([7; 32])));
    script.another_peer();
    script.send(RPC, &want_block(0, BlockId([8; 32])));
    for n in 0..30 {
        script.announce(SMALL, &ItemId([n; 32]), 10);
    }
    script.command(Command::Loaded { request: 0, found: Found::Nothing });
    assert_eq!(script.loads.len(), 1);
    script.wait(1000);
    assert_eq!(script.loads.len(), 2);
}

/// A peer for which answers were prepared in vain comes after others, even if it asked first.
#[test]
fn peers_that_waste_answers_come_last() {
    let mut config = with_store(1);
    config.limits.serving = 1;
    let mut script = Script::up_with(config);
    let wasteful = script.connection;
    script.send(RPC, &want_block(0, BlockId([1; 32])));
    script.send(RPC, &RpcMessage::Cancel(0));
    script.command(Command::Loaded { request: 0, found: Found::Nothing });
    script.wait(60);
    let ask = |script: &mut Script, n| {
        script.connect(PeerId([n; 32]));
        script.shake_hands();
        script.send(RPC, &want_block(0, BlockId([n; 32])));
    };
    ask(&mut script, 7);
    script.connection = wasteful;
    script.send(RPC, &want_block(1, BlockId([1; 32])));
    ask(&mut script, 6);
    let last = |script: &Script| script.loads.last().unwrap().1.clone();
    assert_eq!(last(&script), Load::Block(BlockId([7; 32])));
    for (request, next) in [(1, 6), (2, 1)] {
        script.command(Command::Loaded { request, found: Found::Nothing });
        assert_eq!(last(&script), Load::Block(BlockId([next; 32])));
    }
}

/// Regression: a block in memory was copied and hashed before its first byte left.
#[test]
fn peers_that_cancel_answers_wait_ever_longer() {
    let large = chunked(1);
    let mut script = serving(&large);
    let mut given = 0;
    for id in 0..40 {
        script.stalled = true;
        script.send(RPC, &want_block(id, large[0].block));
        script.send(RPC, &RpcMessage::Cancel(id));
        script.stalled = false;
        script.input(Input::Writable { connection: script.connection, channel: RPC });
        let messages = script.received::<RpcMessage>(RPC);
        given += messages.iter().filter(|m| matches!(m, RpcMessage::Block(_))).count();
        script.wait(50);
    }
    assert_eq!(script.accusation(), None);
    // In two seconds: after 50, 100, 200, 400 and 800 ms.
    assert!((4..=6).contains(&given), "{given}");
}

#[test]
fn searches_for_closed_connections_are_bounded() {
    let mut script = serving(&[]);
    for n in 0..30 {
        script.connect(PeerId([n + 20; 32]));
        script.shake_hands();
        script.send(RPC, &want_headers(0, vec![BlockId([3; 32])], 9));
        script.close(script.connection);
    }
    assert_eq!(script.loads.len(), 8);
    // They do not keep others from getting blocks, and time out.
    script.another_peer();
    script.send(RPC, &want_headers(0, vec![BlockId([3; 32])], 9));
    assert_eq!(script.loads.len(), 8);
    script.command(Command::Loaded { request: 0, found: Found::Nothing });
    assert_eq!(script.loads.len(), 9);
}

/// R16.7
#[test]
fn headers_follow_the_first_common_block() {
    let chain = chain(100, 100);
    let mut script = serving(&chain);
    let ids = chain.iter().map(|block| block.block).collect::<Vec<_>>();
    script.send(RPC, &want_headers(0, vec![BlockId([7; 32]), ids[89], ids[80]], 5));
    let expected = RpcMessage::Headers(RpcHeaders {
        id: 0,
        headers: chain[90..95].iter().map(|block| BlockHeader(block.header.clone())).collect(),
    });
    assert_eq!(script.received::<RpcMessage>(RPC), [expected]);
    assert!(script.loads.is_empty());
    // What is not in memory is loaded from the store.
    script.send(RPC, &want_headers(1, vec![ids[3]], u32::MAX));
    let what = Load::Headers { locator: vec![ids[3]], most: MAX_HEADERS as u32 };
    assert_eq!(script.loads, [(0, what)]);
    let found = Found::Headers(vec![chain[4].header.clone()]);
    script.command(Command::Loaded { request: 0, found });
    assert_eq!(script.received::<RpcMessage>(RPC), [headers(1, &chain[4..5])]);
}

#[test]
fn blocks_served_at_a_time_are_bounded() {
    let mut script = serving(&[]);
    let block = BlockId([3; 32]);
    script.send(RPC, &want_block(0, block));
    let first = script.connection;
    let more = [7, 6].map(|n| {
        script.connect(PeerId([n; 32]));
        script.shake_hands();
        script.send(RPC, &want_block(0, block));
        script.connection
    });
    assert_eq!(script.loads.len(), 2, "the third waits");
    script.connection = first;
    script.send(RPC, &RpcMessage::Cancel(0));
    assert_eq!(script.loads.len(), 2, "what is being read takes its place until it is there");
    script.command(Command::Loaded { request: 0, found: Found::Nothing });
    assert_eq!(script.loads.len(), 3);
    assert_eq!(script.received::<RpcMessage>(RPC), [failed(0, RpcError::Cancelled)]);
    script.take();
    script.connection = more[1];
    script.command(Command::Loaded { request: 2, found: Found::Nothing });
    assert_eq!(script.received::<RpcMessage>(RPC), [failed(0, RpcError::Unknown)]);
}
