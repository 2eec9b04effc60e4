//! Section 11: each violation, and that it is answered as specified: with a goodbye that carries
//! its code, the end of the connection, and a ban for a while.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::application::{LARGE, SMALL, block, config, facts, genesis, id, ids_of, item, item_of};
use super::script::{
    BLOCK, CONTROL, LARGE_POOL, PEER, PEERS, SMALL_POOL, Script, TIP, generous, hello, setup,
    withhold,
};
use crate::Violation;
use crate::id::{Address, Digest, ItemId, PeerId, PoolIndex, Salt, Signature};
use crate::io::{Admission, Command, Input, Subject, Verdict};
use crate::wire::{
    Announcement, Answer, BlockFetch, BlockIds, BlockItem, BlockMessage, BlockPart, BlockWant,
    Body, Chunked, Compact, ControlMessage, Encode as _, Frame, Goodbye, Grant, Held, MAX_WHOLE,
    NotHere, PeerRecord, PeersMessage, PoolMessage, Prefilled, Raise, Refusal, Report, Return,
    TipMessage, TipSlot,
};

fn reject(_: &Subject) -> Option<Verdict> {
    Some(Verdict::Reject)
}

fn push(body: Bytes) -> PoolMessage {
    PoolMessage::Push(Body::Whole(body))
}

fn announce(salt: Salt, pool: PoolIndex, body: &[u8]) -> PoolMessage {
    PoolMessage::Announce(vec![crate::pool::announcement(&salt, &id(pool, body), body.len())])
}

/// Prepares the node for the violation.
fn commit(violation: Violation) -> Script {
    let mut script = Script::up();
    let s = &mut script;
    match violation {
        // R3.7
        Violation::Malformed => s.frame(SMALL_POOL, Frame::from(Bytes::from_static(&[0xff; 8]))),
        // R3.8
        Violation::FrameTooLarge => {
            s.frame(CONTROL, Frame::from(Bytes::from(vec![0; (32 << 10) + 4])));
        }
        // R5.7.7
        Violation::UnknownChannel => s.send(99, &push(item(1, 100))),
        // R5.1.6
        Violation::OutOfTurn => {
            let hello = hello(s.connection);
            s.send(CONTROL, &ControlMessage::Hello(hello));
        }
        // R6.1.1
        Violation::AnnouncementPermit => {
            let grant = s.node.config().pools[1].grant.announcements as usize;
            let one = |n: usize| Announcement { id: n as u64, facts: 0 };
            s.send(SMALL_POOL, &PoolMessage::Announce((0..grant).map(one).collect()));
            assert_eq!(s.accusation(), None, "the limit itself is allowed");
            s.send(SMALL_POOL, &PoolMessage::Announce(vec![one(grant)]));
        }
        // R6.1.2
        Violation::BodyPermit => {
            s.judge = withhold;
            let grant = s.node.config().pools[1].grant.bodies as u8;
            for n in 0..grant {
                s.send(SMALL_POOL, &push(item(n, 100)));
            }
            assert_eq!(s.accusation(), None, "the limit itself is allowed");
            s.send(SMALL_POOL, &push(item(grant, 100)));
        }
        // R7.3.5
        Violation::RequestPermit => {
            announced(s);
            s.send(LARGE_POOL, &PoolMessage::Fetch(vec![0]));
            assert_eq!(s.accusation(), None);
            s.send(LARGE_POOL, &PoolMessage::Fetch(vec![0]));
        }
        // R8.2
        Violation::TipPermit => {
            let held = |height| TipMessage::Held(Held { block: facts(&genesis()).block, height });
            s.send(TIP, &held(0));
            s.send(TIP, &held(0));
            assert_eq!(s.accusation(), None, "the first permit is back at once");
            s.send(TIP, &held(0));
        }
        // R6.3.1
        Violation::FalseReturn => {
            s.send(
                SMALL_POOL,
                &PoolMessage::Return(vec![Return { number: 0, report: Report::First }]),
            );
        }
        // R5.5.3
        Violation::Ping => s.send(CONTROL, &ControlMessage::Pong(1)),
        // R6.1.4
        Violation::GrantShrunk => {
            let grant = Grant { bodies: 1, ..generous() };
            s.send(CONTROL, &ControlMessage::Raise(Raise { instance: SMALL_POOL, grant }));
        }
        // R7.3.7
        Violation::Unasked => {
            let (number, body) = (0, Body::Whole(item(1, 100)));
            s.send(SMALL_POOL, &PoolMessage::Answer(Answer { number, body }));
        }
        // R7.3.4
        Violation::UnknownNumber => s.send(SMALL_POOL, &PoolMessage::Fetch(vec![0])),
        // R6.2.3
        Violation::Empty => s.send(SMALL_POOL, &PoolMessage::Fetch(vec![])),
        // R5.7.1
        Violation::Offers => {
            let mut fresh = Script::alone();
            fresh.connect(PEER);
            fresh.send(CONTROL, &ControlMessage::Hello(hello(fresh.connection)));
            let mut setup = setup(fresh.node.config());
            setup.offers.swap(0, 1);
            fresh.send(CONTROL, &ControlMessage::Setup(setup));
            return fresh;
        }
        // R15.3
        Violation::WrongRecord => {
            let mut config = config(1);
            config.outbound = 1;
            let mut asking = Script::with(config);
            asking.dial(PEER);
            asking.shake_hands();
            let (peer, signature) = (PeerId([4; 32]), Signature([0; 64]));
            let (addresses, sealing) = (vec![Address(Bytes::from_static(b"there"))], None);
            let record = PeerRecord { peer, sequence: 1, addresses, sealing, signature };
            asking.send(PEERS, &PeersMessage::Records(vec![record]));
            return asking;
        }
        violation => commit_in_content(s, violation),
    }
    script
}

/// The violations that consist of a message.
fn commit_in_content(s: &mut Script, violation: Violation) {
    match violation {
        // R7.3.8
        Violation::WrongBody => {
            let announcement = announce(s.salt(), LARGE, &item(1, 20_000));
            s.send(LARGE_POOL, &announcement);
            assert_eq!(s.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
            let body = Body::Whole(item(2, 20_000));
            s.send(LARGE_POOL, &PoolMessage::Answer(Answer { number: 0, body }));
        }
        // R7.3.9
        Violation::ItemTooLarge => {
            let most = s.node.config().pools[1].max_item as usize;
            s.send(SMALL_POOL, &push(item(1, most)));
            assert_eq!(s.accusation(), None, "the limit itself is allowed");
            s.send(SMALL_POOL, &push(item(1, most + 1)));
        }
        // R7.3.10
        Violation::MalformedItem => s.send(SMALL_POOL, &push(Bytes::from_static(b"short"))),
        // R7.3.11
        Violation::RejectedItem => {
            s.judge = reject;
            s.send(SMALL_POOL, &push(item(1, 100)));
        }
        // R6.4.4
        Violation::WrongChunk => {
            let size = MAX_WHOLE as u32 + 1;
            let chunked = Chunked { size, root: Digest([1; 32]), chunk: vec![0; 32 << 10].into() };
            s.send(LARGE_POOL, &PoolMessage::Push(Body::Chunked(chunked)));
        }
        // R8.6
        Violation::MalformedHeader => s.send(TIP, &TipMessage::Header(Bytes::from_static(b"no"))),
        // R8.7
        Violation::RejectedHeader => {
            s.judge = reject;
            s.send(TIP, &TipMessage::Header(block(&genesis(), 1, 1, &[]).header));
        }
        // R9.1.4
        Violation::WrongHeader => {
            let wanted = block(&genesis(), 1, 1, &[]);
            s.send(TIP, &TipMessage::Held(Held { block: wanted.block, height: 1 }));
            assert_eq!(s.received::<BlockMessage>(BLOCK).len(), 1);
            s.send(BLOCK, &BlockMessage::Header(block(&genesis(), 2, 1, &[]).header));
        }
        Violation::MalformedCompact => {
            let block = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
            let short_ids = Bytes::from_static(&[0; 12]);
            s.send(BLOCK, &BlockMessage::Push(Compact { short_ids, ..s.compact(&block) }));
        }
        // R9.2.5
        Violation::SecondBody => {
            for n in [1, 2] {
                assert_eq!(s.accusation(), None);
                let block = block(&genesis(), 1, 1, &[(SMALL, item(n, 100))]);
                let compact = s.compact(&block);
                s.send(BLOCK, &BlockMessage::Push(compact));
            }
        }
        // R9.2.12
        Violation::WrongItem => {
            let block = block(&genesis(), 1, 1, &[(SMALL, item(1, 100)), (SMALL, item(2, 100))]);
            let compact = s.compact(&block);
            s.send(BLOCK, &BlockMessage::Push(compact));
            assert_eq!(s.received::<BlockMessage>(BLOCK).len(), 1, "both are asked for");
            let proof = vec![Digest(block.items[0].id.0)];
            let item = BlockItem { proof, ..item_of(&block, 0) };
            s.send(BLOCK, &BlockMessage::Item(item));
        }
        // R9.2.7, R9.2.11
        Violation::WrongIds => {
            // The short id is that of an item in the pool; the header is about another.
            let known = item(1, 100);
            let admission = Admission::default();
            s.command(Command::Publish { request: 1, pool: SMALL, body: known.clone(), admission });
            let block = block(&genesis(), 1, 1, &[(SMALL, item(2, 100))]);
            let salt = s.salt();
            let short = crate::block::short_id(&salt, &block.block, &id(SMALL, &known));
            let compact = Compact { short_ids: short, ..s.compact(&block) };
            s.take();
            s.send(BLOCK, &BlockMessage::Push(compact));
            assert_eq!(s.received::<BlockMessage>(BLOCK).len(), 1, "all ids are asked for");
            let ids = vec![ItemId([3; 32])];
            s.send(BLOCK, &BlockMessage::Ids(BlockIds { ids, ..ids_of(&block, 0..1) }));
        }
        violation => panic!("no story of {violation}"),
    }
}

/// The node announces a large item to the peer, as number 0.
fn announced(script: &mut Script) {
    let (request, pool, body) = (1, LARGE, item(1, 20_000));
    let admission = Admission::default();
    script.command(Command::Publish { request, pool, body, admission });
    let sent = script.received::<PoolMessage>(LARGE_POOL);
    assert!(matches!(&sent[..], [PoolMessage::Announce(list)] if list.len() == 1), "{sent:?}");
}

/// R5.2.3, R11.1, R11.2
#[test]
fn each_violation_ends_the_connection_and_is_remembered() {
    let mut seen = BTreeSet::new();
    for violation in Violation::ALL.iter().copied() {
        let mut script = commit(violation);
        assert_eq!(script.accusation(), Some(violation));
        let counted = script.node.stats().violations().collect::<Vec<_>>();
        assert_eq!(counted, [(violation, 1)]);
        assert!(script.node.status().peers.is_empty());
        // It reconnects, and is told how long it is banned.
        script.connect(PEER);
        script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
        let seconds = violation.penalty().as_secs() as u32;
        assert_eq!(script.refusal(), Some(Refusal::Banned(seconds)), "{violation}");
        // After that time it is welcome again.
        script.wait(violation.penalty().as_millis() as u64);
        script.connect(PEER);
        script.shake_hands();
        assert_eq!(script.node.status().peers.len(), 1, "{violation}");
        seen.insert(violation);
    }
    assert_eq!(seen.len(), Violation::ALL.len());
}

/// R5.5.2
#[test]
fn a_second_ping_before_the_pong_left_is_one_too_many() {
    let mut script = Script::up();
    script.send(CONTROL, &ControlMessage::Ping(1));
    script.send(CONTROL, &ControlMessage::Ping(2));
    assert_eq!(script.accusation(), None, "each was answered before the next");
    // The answer cannot leave, so the next ping comes while one is outstanding.
    let mut script = Script::up();
    let frame = |n| crate::wire::Encode::to_frame(&ControlMessage::Ping(n)).unwrap();
    let input = |n, script: &Script| Input::Frame {
        connection: script.connection,
        channel: CONTROL,
        frame: frame(n),
    };
    let (first, second) = (input(1, &script), input(2, &script));
    script.node.handle_input(script.now, first);
    script.input(second);
    assert_eq!(script.accusation(), Some(Violation::Ping));
}

/// R5.6.2
#[test]
fn messages_after_the_goodbye_are_ignored() {
    let mut script = Script::up();
    script.node.handle_command(script.now, Command::Disconnect { peer: PEER });
    let frame = |channel, frame| Input::Frame { connection: script.connection, channel, frame };
    let late = [
        frame(CONTROL, ControlMessage::Ping(1).to_frame().unwrap()),
        frame(CONTROL, ControlMessage::Hello(hello(script.connection)).to_frame().unwrap()),
        frame(SMALL_POOL, push(item(1, 100)).to_frame().unwrap()),
        frame(99, push(item(1, 100)).to_frame().unwrap()),
        frame(CONTROL, Frame::from(Bytes::from_static(b"nonsense"))),
    ];
    for input in late {
        script.node.handle_input(script.now, input);
    }
    script.wait(1);
    script.input(Input::Writable { connection: script.connection, channel: CONTROL });
    let sent = script.take().into_iter().map(|(channel, frame)| (channel, frame.decode().unwrap()));
    let goodbye = ControlMessage::Goodbye(Goodbye::Requested);
    assert_eq!(sent.collect::<Vec<_>>(), [(CONTROL, goodbye)]);
    assert_eq!(script.node.stats().violations().count(), 0);
    assert_eq!(script.node.pool_ids(SMALL).count(), 0);
}

#[test]
fn messages_after_the_accusation_are_ignored() {
    let mut script = commit(Violation::Malformed);
    script.take();
    for channel in [CONTROL, TIP, BLOCK, SMALL_POOL, 99] {
        script.frame(channel, Frame::from(Bytes::from_static(b"nonsense")));
    }
    assert_eq!(script.take(), []);
    assert_eq!(script.node.stats().violations().count(), 1);
}

/// R6.2.3
#[test]
fn a_message_that_says_nothing_is_a_violation() {
    let empty = [
        PoolMessage::Return(vec![]),
        PoolMessage::Announce(vec![]),
        PoolMessage::Fetch(vec![]),
        PoolMessage::Gone(vec![]),
    ];
    for message in empty {
        accused(Violation::Empty, |s| s.send(SMALL_POOL, &message));
    }
    accused(Violation::Empty, |s| s.send(BLOCK, &BlockMessage::Return(vec![])));
    let raise = |s: &mut Script, grant| {
        s.send(CONTROL, &ControlMessage::Raise(Raise { instance: SMALL_POOL, grant }));
    };
    accused(Violation::Empty, |s| {
        raise(s, generous());
        assert_eq!(s.accusation(), None);
        raise(s, generous());
    });
}

/// Regression: raises cost no permit, and a hundred thousand were accepted. R6.1.6
#[test]
fn raises_come_at_a_pace() {
    let raise = |script: &mut Script, n: u32| {
        let more = 10_000 + n;
        let grant = Grant { announcements: more, bodies: more, ..generous() };
        script.send(CONTROL, &ControlMessage::Raise(Raise { instance: SMALL_POOL, grant }));
    };
    let mut script = Script::up();
    (0..64).for_each(|n| raise(&mut script, n));
    assert_eq!(script.accusation(), None);
    script.wait(1000);
    raise(&mut script, 64);
    assert_eq!(script.accusation(), None);
    raise(&mut script, 65);
    assert_eq!(script.accusation(), Some(Violation::OutOfTurn));
    // This node itself sends at most half of that, however many there are.
    let mut script = Script::up();
    for n in 0..40 {
        let grant = Grant { bodies: 10_000 + n, ..generous() };
        script.command(Command::Raise { peer: PEER, pool: SMALL, grant });
    }
    assert_eq!(script.received::<ControlMessage>(CONTROL).len(), 32);
    script.wait(1000);
    let last = Grant { bodies: 10_039, ..generous() };
    let last = Raise { instance: SMALL_POOL, grant: last };
    assert_eq!(script.received::<ControlMessage>(CONTROL), [ControlMessage::Raise(last)]);
}

/// A raise to what is already granted is not sent to the peer. R6.2.3
#[test]
fn a_grant_that_raises_nothing_is_not_sent() {
    let mut script = Script::up();
    for _ in 0..2 {
        let (peer, pool, grant) = (PEER, SMALL, generous());
        script.command(Command::Raise { peer, pool, grant });
    }
    assert_eq!(script.received::<ControlMessage>(CONTROL).len(), 1);
}

/// R5.6.1
#[test]
fn a_goodbye_names_its_reason() {
    let mut script = Script::up();
    script.command(Command::Disconnect { peer: PEER });
    let said = script.received::<ControlMessage>(CONTROL);
    assert_eq!(said, [ControlMessage::Goodbye(Goodbye::Requested)]);
    assert!(script.closed.contains(&script.connection));
}

/// Asserts that the message of `act` is answered with this accusation.
fn accused(violation: Violation, act: impl FnOnce(&mut Script)) {
    let mut script = Script::up();
    act(&mut script);
    assert_eq!(script.accusation(), Some(violation));
}

fn chunked(n: u8, size: usize) -> (Chunked, Vec<Bytes>) {
    let (start, rest) = crate::chunk::start(&item(n, size));
    let (Body::Chunked(start), Some(mut rest)) = (start, rest) else { panic!("it goes whole") };
    (start, std::iter::from_fn(|| rest.next()).collect())
}

/// R6.1.5, R8.3
#[test]
fn raises_and_returns_must_name_something_open() {
    for instance in [TIP, BLOCK, 19] {
        let raise = Raise { instance, grant: generous() };
        accused(Violation::UnknownChannel, |s| s.send(CONTROL, &ControlMessage::Raise(raise)));
    }
    // The node has announced its first block and waits for the permit.
    accused(Violation::FalseReturn, |s| {
        s.send(TIP, &TipMessage::Return(TipSlot::Header));
        assert_eq!(s.accusation(), None);
        s.send(TIP, &TipMessage::Return(TipSlot::Header));
    });
}

/// R6.2.2, R6.4.5, R6.4.6
#[test]
fn a_chunked_body_is_paid_at_its_start_and_comes_alone() {
    // 128 KiB of bodies are allowed: the start alone would fit.
    accused(Violation::BodyPermit, |s| {
        let (start, _) = chunked(1, (128 << 10) + 1);
        s.send(LARGE_POOL, &PoolMessage::Push(Body::Chunked(start)));
    });
    accused(Violation::OutOfTurn, |s| {
        for n in [1, 2] {
            assert_eq!(s.accusation(), None);
            s.send(LARGE_POOL, &PoolMessage::Push(Body::Chunked(chunked(n, 62_000).0)));
        }
    });
    accused(Violation::Unasked, |s| {
        let (start, rest) = chunked(1, 62_000);
        s.send(LARGE_POOL, &PoolMessage::Push(Body::Chunked(start)));
        for chunk in rest {
            s.send(LARGE_POOL, &PoolMessage::Chunk(chunk));
        }
        assert_eq!(s.accusation(), None);
        assert_eq!(s.node.pool_ids(LARGE).count(), 1);
        s.send(LARGE_POOL, &PoolMessage::Chunk(Bytes::new()));
    });
    accused(Violation::Unasked, |s| s.send(BLOCK, &BlockMessage::Chunk(Bytes::new())));
}

/// R7.3.3, R7.3.7
#[test]
fn announcements_must_be_of_items_and_answers_of_requests() {
    // Class 36 ends at 32 KiB, the maximum; 37 begins after it.
    let announce =
        |class: u32| PoolMessage::Announce(vec![Announcement { id: 1, facts: class << 24 }]);
    accused(Violation::ItemTooLarge, |s| {
        s.send(SMALL_POOL, &announce(36));
        assert_eq!(s.accusation(), None);
        s.send(SMALL_POOL, &announce(37));
    });
    accused(Violation::Unasked, |s| s.send(SMALL_POOL, &PoolMessage::Gone(vec![0])));
}

/// R9.1.1, R9.2.1, R9.2.2
#[test]
fn a_compact_block_must_agree_with_itself() {
    accused(Violation::MalformedHeader, |s| {
        let items = (0..4097).map(|_| (SMALL, item(1, 13))).collect::<Vec<_>>();
        s.send(TIP, &TipMessage::Header(block(&genesis(), 1, 1, &items[..4096]).header));
        assert_eq!(s.accusation(), None);
        s.send(TIP, &TipMessage::Header(block(&genesis(), 1, 2, &items).header));
    });
    let prefilled = |index| Prefilled { index, body: item(1, 100) };
    let changes: [fn(&mut Compact); 5] = [
        |c| c.salt = Salt([0; 16]),
        |c| c.groups[0].count = 1,
        |c| c.groups.clear(),
        |c| c.short_ids = c.short_ids.slice(..6),
        |c| c.short_ids = vec![0; 18].into(),
    ];
    let broken = |change: &dyn Fn(&mut Compact)| {
        accused(Violation::MalformedCompact, |s| {
            let block = block(&genesis(), 1, 1, &[(SMALL, item(1, 100)), (SMALL, item(2, 100))]);
            let mut compact = s.compact(&block);
            change(&mut compact);
            s.send(BLOCK, &BlockMessage::Push(compact));
        });
    };
    changes.iter().for_each(|change| broken(change));
    for indices in [vec![2], vec![1, 0], vec![0, 0]] {
        broken(&|c| c.prefilled = indices.iter().map(|index| prefilled(*index)).collect());
    }
}

/// R6.1.3, R9.2.4
#[test]
fn blocks_have_permits_too() {
    // The header waits for its verdict, so what is requested is not here yet, and no push is over.
    let withheld = |config| {
        let mut script = Script::up_with(config);
        script.judge = withhold;
        let first = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
        script.send(TIP, &TipMessage::Header(first.header.clone()));
        (script, first)
    };
    let (mut s, first) = withheld(config(1));
    let fetch = BlockFetch { block: first.block, want: BlockWant::Compact };
    for _ in 0..8 {
        s.send(BLOCK, &BlockMessage::Fetch(fetch.clone()));
    }
    assert_eq!(s.accusation(), None, "the limit itself is allowed");
    s.send(BLOCK, &BlockMessage::Fetch(fetch));
    assert_eq!(s.accusation(), Some(Violation::RequestPermit));
    let (mut s, _) = withheld(config(1));
    for slot in 1..=3 {
        assert_eq!(s.accusation(), None);
        let block = block(&genesis(), slot, 1, &[(SMALL, item(1, 100))]);
        let compact = s.compact(&block);
        s.send(BLOCK, &BlockMessage::Push(compact));
    }
    assert_eq!(s.accusation(), Some(Violation::BodyPermit));
    // A header of 84 bytes, one short id, one prefilled body of 100 bytes.
    for (bytes, expected) in [(190, None), (189, Some(Violation::BodyPermit))] {
        let mut config = config(1);
        config.limits.block_grant.body_bytes = bytes;
        let (mut s, first) = withheld(config);
        let mut compact = s.compact(&first);
        compact.prefilled.push(Prefilled { index: 0, body: item(1, 100) });
        s.send(BLOCK, &BlockMessage::Push(compact));
        assert_eq!(s.accusation(), expected);
    }
}

/// R9.2.10, R9.2.13
#[test]
fn parts_of_blocks_are_asked_for_in_order_and_not_sent_unasked() {
    let here = facts(&genesis()).block;
    for indices in [vec![], vec![1, 0], vec![1, 1]] {
        let want = BlockWant::Items(indices);
        let fetch = BlockMessage::Fetch(BlockFetch { block: here, want });
        accused(Violation::UnknownNumber, |s| s.send(BLOCK, &fetch));
    }
    let other = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
    for message in [
        BlockMessage::Ids(ids_of(&other, 0..1)),
        BlockMessage::Item(item_of(&other, 0)),
        BlockMessage::NotHere(NotHere { block: other.block, part: BlockPart::Header }),
    ] {
        accused(Violation::Unasked, |s| s.send(BLOCK, &message));
    }
    accused(Violation::Unasked, |s| {
        let compact = s.compact(&other);
        s.send(BLOCK, &BlockMessage::Compact(compact));
    });
}
