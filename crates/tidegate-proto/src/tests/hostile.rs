//! What hostile peers did to a node in the fuzzer, told as stories.

use bytes::Bytes;

use super::app::{LARGE, SMALL, block, config, genesis, id, item};
use super::script::{BLOCK, CONTROL, LARGE_POOL, PEER, Script, TIP, hello, setup};
use crate::Violation;
use crate::id::{Digest, ItemId, PeerId};
use crate::io::Input;
use crate::wire::{
    Answer, BlockFetch, BlockMessage, BlockWant, Body, Chunked, ControlMessage, Held, MAX_WHOLE,
    PoolMessage, TipMessage,
};

/// The peer announces an item of 100,000 bytes as the next number, and is asked for it.
fn asked(script: &mut Script, number: u32, id: &ItemId) {
    let announcement = crate::pool::announcement(&script.salt(), id, 100_000);
    script.send(LARGE_POOL, &PoolMessage::Announce(vec![announcement]));
    let fetch = script.received::<PoolMessage>(LARGE_POOL);
    assert_eq!(fetch, [PoolMessage::Fetch(vec![number])]);
    assert!(script.node.status().fetch_bytes >= 100_000);
}

fn answer(script: &mut Script, number: u32, body: Body) {
    script.send(LARGE_POOL, &PoolMessage::Answer(Answer { number, body }));
}

fn start(size: u32, chunk: &'static [u8]) -> Body {
    let (root, chunk) = (Digest([1; 32]), Bytes::from_static(chunk));
    Body::Chunked(Chunked { size, root, chunk })
}

/// Otherwise a few wrong answers, under ever new identities, would use up for ever what a
/// node may have asked for, and it could fetch nothing any more.
#[test]
fn a_wrong_answer_frees_what_was_asked_for() {
    let wanted = id(LARGE, &item(1, 100_000));
    let nothing = Bytes::from_static(b"short");
    let whole = |body: &Bytes| Body::Whole(body.clone());
    let answers = [
        (wanted, whole(&item(2, 20_000)), Violation::WrongBody),
        (id(LARGE, &nothing), whole(&nothing), Violation::MalformedItem),
        (wanted, start(199_999, b""), Violation::WrongBody),
        (wanted, start(MAX_WHOLE as u32, b""), Violation::WrongChunk),
        (wanted, start(100_000, b"no chunk"), Violation::WrongChunk),
    ];
    for (wanted, wrong, violation) in answers {
        let mut script = Script::up_with(config(1));
        asked(&mut script, 0, &wanted);
        answer(&mut script, 0, wrong);
        assert_eq!(script.accusation(), Some(violation));
        assert_eq!(script.node.status().fetch_bytes, 0, "{violation}");
    }
    // In chunks that are in order, and yet another item than was announced.
    let mut script = Script::up();
    asked(&mut script, 0, &wanted);
    let (body, rest) = crate::chunk::start(&item(2, 100_000));
    answer(&mut script, 0, body);
    let mut rest = rest.unwrap();
    while let Some(chunk) = rest.next() {
        script.send(LARGE_POOL, &PoolMessage::Chunk(chunk));
    }
    assert_eq!(script.accusation(), Some(Violation::WrongBody));
    assert_eq!(script.node.status().fetch_bytes, 0);
    // A second answer in chunks before the first is whole.
    let mut script = Script::up();
    asked(&mut script, 0, &wanted);
    let other = id(LARGE, &item(2, 100_000));
    let announcement = crate::pool::announcement(&script.salt(), &other, 100_000);
    script.send(LARGE_POOL, &PoolMessage::Announce(vec![announcement]));
    answer(&mut script, 0, crate::chunk::start(&item(1, 100_000)).0);
    answer(&mut script, 1, crate::chunk::start(&item(2, 100_000)).0);
    assert_eq!(script.accusation(), Some(Violation::OutOfTurn));
    assert_eq!(script.node.status().fetch_bytes, 0);
}

/// R9.1.4: it was taken for an answer before it was looked for among the requests.
#[test]
fn a_header_that_nobody_asked_for_answers_nothing() {
    let mut script = Script::up();
    script.send(BLOCK, &BlockMessage::Header(block(&genesis(), 1, 1, &[]).header));
    assert_eq!(script.accusation(), Some(Violation::WrongHeader));
}

/// A block whose header came from one with whom no channel for blocks was agreed on must not wait
/// for that one: he cannot be asked, and a few such blocks would be all that a node puts together.
#[test]
fn a_block_does_not_wait_for_one_who_cannot_be_asked() {
    let wanted = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
    let mut script = Script::up();
    let sender = script.connection;
    // Another peer has pools only, and announces the header.
    script.connect(PeerId([8; 32]));
    let announcer = script.connection;
    script.send(CONTROL, &ControlMessage::Hello(hello(announcer)));
    let mut pools_only = setup(script.node.config());
    pools_only.offers.retain(|offer| offer.kind == 4);
    script.send(CONTROL, &ControlMessage::Setup(pools_only));
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    // The block comes without its item, and its sender goes.
    script.connection = sender;
    let push = script.compact(&wanted);
    script.send(BLOCK, &BlockMessage::Push(push));
    let fetch = |want| BlockMessage::Fetch(BlockFetch { block: wanted.block, want });
    assert_eq!(script.received::<BlockMessage>(BLOCK), [fetch(BlockWant::Items(vec![0]))]);
    for connection in [sender, announcer] {
        script.input(Input::Closed { connection });
    }
    // Who holds the block is asked for it.
    script.connect(PEER);
    script.shake_hands();
    script.send(TIP, &TipMessage::Held(Held { block: wanted.block, height: 1 }));
    script.wait(100);
    assert_eq!(script.received::<BlockMessage>(BLOCK), [fetch(BlockWant::Compact)]);
}
