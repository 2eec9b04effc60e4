//! Section 11: each way to break the rules, and that it is answered as the specification says:
//! with a goodbye that carries its code, the end of the connection, and a refusal for a while.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::app::{LARGE, SMALL, block, facts, genesis, id, item};
use super::script::{
    BLOCK, CONTROL, LARGE_POOL, PEER, SMALL_POOL, Script, TIP, generous, hello, setup,
};
use crate::Violation;
use crate::id::{Digest, ItemId, PoolIndex, Salt};
use crate::io::{Admission, Command, Subject, Verdict};
use crate::wire::{
    Announcement, Answer, BlockIds, BlockItem, BlockMessage, Body, Chunked, Compact,
    ControlMessage, Frame, Goodbye, Grant, Group, Held, MAX_WHOLE, PoolMessage, Raise, Refusal,
    Report, Return, TipMessage,
};

fn reject(_: &Subject) -> Option<Verdict> {
    Some(Verdict::Reject)
}

fn withhold(_: &Subject) -> Option<Verdict> {
    None
}

fn push(body: Bytes) -> PoolMessage {
    PoolMessage::Push(Body::Whole(body))
}

/// The number of an item as the node knows it by: it says its salt in its setup.
fn own_salt(script: &mut Script) -> Salt {
    let mut probe = Script::with(script.node.config().clone());
    probe.connect(PEER);
    probe.send(CONTROL, &ControlMessage::Hello(hello(probe.connection)));
    let setups = probe.received::<ControlMessage>(CONTROL).into_iter();
    let salts = setups.filter_map(|message| match message {
        ControlMessage::Setup(setup) => Some(setup.salt),
        _ => None,
    });
    salts.last().unwrap()
}

fn announce(salt: Salt, pool: PoolIndex, body: &[u8]) -> PoolMessage {
    PoolMessage::Announce(vec![crate::pool::announcement(&salt, &id(pool, body), body.len())])
}

fn compact(script: &mut Script, block: &crate::io::Block, short_ids: Bytes) -> Compact {
    let count = block.items.len() as u32;
    let groups = vec![Group { pool: "small".into(), count }];
    let (header, salt) = (block.header.clone(), own_salt(script));
    Compact { header, salt, groups, short_ids, prefilled: Vec::new() }
}

/// Brings the node to the violation.
fn commit(violation: Violation) -> Script {
    let mut script = Script::up();
    let s = &mut script;
    match violation {
        Violation::Malformed => s.frame(SMALL_POOL, Frame::from(Bytes::from_static(&[0xff; 8]))),
        Violation::FrameTooLarge => {
            s.frame(CONTROL, Frame::from(Bytes::from(vec![0; (32 << 10) + 4])));
        }
        Violation::UnknownChannel => s.send(19, &push(item(1, 100))),
        Violation::OutOfTurn => {
            let hello = hello(s.connection);
            s.send(CONTROL, &ControlMessage::Hello(hello));
        }
        Violation::AnnouncementPermit => {
            let grant = s.node.config().pools[1].grant.announcements as usize;
            let one = |n: usize| Announcement { id: n as u64, facts: 0 };
            s.send(SMALL_POOL, &PoolMessage::Announce((0..grant).map(one).collect()));
            assert_eq!(s.accusation(), None, "the limit itself is allowed");
            s.send(SMALL_POOL, &PoolMessage::Announce(vec![one(grant)]));
        }
        Violation::BodyPermit => {
            s.judge = withhold;
            let grant = s.node.config().pools[1].grant.bodies as u8;
            for n in 0..grant {
                s.send(SMALL_POOL, &push(item(n, 100)));
            }
            assert_eq!(s.accusation(), None, "the limit itself is allowed");
            s.send(SMALL_POOL, &push(item(grant, 100)));
        }
        Violation::RequestPermit => {
            announced(s);
            s.send(LARGE_POOL, &PoolMessage::Fetch(vec![0]));
            assert_eq!(s.accusation(), None);
            s.send(LARGE_POOL, &PoolMessage::Fetch(vec![0]));
        }
        Violation::TipPermit => {
            let held = |height| TipMessage::Held(Held { block: facts(&genesis()).block, height });
            s.send(TIP, &held(0));
            s.send(TIP, &held(0));
            assert_eq!(s.accusation(), None, "the first permit is back at once");
            s.send(TIP, &held(0));
        }
        Violation::FalseReturn => {
            s.send(
                SMALL_POOL,
                &PoolMessage::Return(vec![Return { number: 0, report: Report::First }]),
            );
        }
        Violation::Ping => s.send(CONTROL, &ControlMessage::Pong(1)),
        Violation::GrantShrunk => {
            let grant = Grant { bodies: 1, ..generous() };
            s.send(CONTROL, &ControlMessage::Raise(Raise { instance: SMALL_POOL, grant }));
        }
        Violation::Unasked => {
            let (number, body) = (0, Body::Whole(item(1, 100)));
            s.send(SMALL_POOL, &PoolMessage::Answer(Answer { number, body }));
        }
        Violation::UnknownNumber => s.send(SMALL_POOL, &PoolMessage::Fetch(vec![0])),
        Violation::WrongBody => {
            let announcement = announce(own_salt(s), LARGE, &item(1, 20_000));
            s.send(LARGE_POOL, &announcement);
            assert_eq!(s.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
            let body = Body::Whole(item(2, 20_000));
            s.send(LARGE_POOL, &PoolMessage::Answer(Answer { number: 0, body }));
        }
        Violation::ItemTooLarge => {
            let most = s.node.config().pools[1].max_item as usize;
            s.send(SMALL_POOL, &push(item(1, most)));
            assert_eq!(s.accusation(), None, "the limit itself is allowed");
            s.send(SMALL_POOL, &push(item(1, most + 1)));
        }
        Violation::MalformedItem => s.send(SMALL_POOL, &push(Bytes::from_static(b"short"))),
        Violation::RejectedItem => {
            s.judge = reject;
            s.send(SMALL_POOL, &push(item(1, 100)));
        }
        Violation::WrongChunk => {
            let size = MAX_WHOLE as u32 + 1;
            let chunked = Chunked { size, root: Digest([1; 32]), chunk: vec![0; 32 << 10].into() };
            s.send(LARGE_POOL, &PoolMessage::Push(Body::Chunked(chunked)));
        }
        Violation::MalformedHeader => s.send(TIP, &TipMessage::Header(Bytes::from_static(b"no"))),
        Violation::RejectedHeader => {
            s.judge = reject;
            s.send(TIP, &TipMessage::Header(block(&genesis(), 1, 1, &[]).header));
        }
        Violation::WrongHeader => {
            let wanted = block(&genesis(), 1, 1, &[]);
            s.send(TIP, &TipMessage::Held(Held { block: wanted.block, height: 1 }));
            assert_eq!(s.received::<BlockMessage>(BLOCK).len(), 1);
            s.send(BLOCK, &BlockMessage::Header(block(&genesis(), 2, 1, &[]).header));
        }
        Violation::MalformedCompact => {
            let block = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
            let compact = compact(s, &block, Bytes::from_static(&[0; 12]));
            s.send(BLOCK, &BlockMessage::Push(compact));
        }
        Violation::SecondBody => {
            for n in [1, 2] {
                assert_eq!(s.accusation(), None);
                let block = block(&genesis(), 1, 1, &[(SMALL, item(n, 100))]);
                let compact = compact(s, &block, Bytes::from_static(&[0; 6]));
                s.send(BLOCK, &BlockMessage::Push(compact));
            }
        }
        Violation::WrongItem => {
            let block = block(&genesis(), 1, 1, &[(SMALL, item(1, 100)), (SMALL, item(2, 100))]);
            let compact = compact(s, &block, Bytes::from_static(&[0; 12]));
            s.send(BLOCK, &BlockMessage::Push(compact));
            assert_eq!(s.received::<BlockMessage>(BLOCK).len(), 1, "both are asked for");
            let proof = vec![Digest(block.items[0].id.0)];
            let body = Body::Whole(item(1, 100));
            let item =
                BlockItem { block: block.block, index: 0, id: block.items[0].id, proof, body };
            s.send(BLOCK, &BlockMessage::Item(item));
        }
        Violation::WrongIds => {
            // The short id is that of an item in the pool; the header is about another.
            let known = item(1, 100);
            let admission = Admission::default();
            s.command(Command::Publish { request: 1, pool: SMALL, body: known.clone(), admission });
            let block = block(&genesis(), 1, 1, &[(SMALL, item(2, 100))]);
            let salt = own_salt(s);
            let short = crate::block::short_id(&salt, &block.block, &id(SMALL, &known));
            let compact = compact(s, &block, short);
            s.take();
            s.send(BLOCK, &BlockMessage::Push(compact));
            assert_eq!(s.received::<BlockMessage>(BLOCK).len(), 1, "all ids are asked for");
            let ids = vec![ItemId([3; 32])];
            s.send(BLOCK, &BlockMessage::Ids(BlockIds { block: block.block, first: 0, ids }));
        }
        Violation::Offers => {
            let mut fresh = Script::alone();
            fresh.connect(PEER);
            fresh.send(CONTROL, &ControlMessage::Hello(hello(fresh.connection)));
            let mut setup = setup(fresh.node.config());
            setup.offers.swap(0, 1);
            fresh.send(CONTROL, &ControlMessage::Setup(setup));
            return fresh;
        }
    }
    script
}

/// The node announces a large item to the peer, as number 0.
fn announced(script: &mut Script) {
    let (request, pool, body) = (1, LARGE, item(1, 20_000));
    let admission = Admission::default();
    script.command(Command::Publish { request, pool, body, admission });
    let sent = script.received::<PoolMessage>(LARGE_POOL);
    assert!(matches!(&sent[..], [PoolMessage::Announce(list)] if list.len() == 1), "{sent:?}");
}

#[test]
fn each_violation_ends_the_connection_and_is_remembered() {
    let mut seen = BTreeSet::new();
    for violation in Violation::ALL {
        let mut script = commit(violation);
        assert_eq!(script.accusation(), Some(violation));
        let counted = script.node.stats().violations().collect::<Vec<_>>();
        assert_eq!(counted, [(violation, 1)]);
        assert!(script.node.status().peers.is_empty());
        // It comes back, and is told for how long it is not wanted.
        script.connect(PEER);
        script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
        let seconds = violation.penalty().as_secs() as u32;
        assert_eq!(script.refusal(), Some(Refusal::Banned(seconds)), "{violation}");
        // When the time is over it is welcome again.
        script.wait(violation.penalty().as_millis() as u64);
        script.connect(PEER);
        script.shake_hands();
        assert_eq!(script.node.status().peers.len(), 1, "{violation}");
        seen.insert(violation);
    }
    assert_eq!(seen.len(), Violation::ALL.len());
}

#[test]
fn a_second_ping_before_the_pong_left_is_one_too_many() {
    let mut script = Script::up();
    script.send(CONTROL, &ControlMessage::Ping(1));
    script.send(CONTROL, &ControlMessage::Ping(2));
    assert_eq!(script.accusation(), None, "each was answered before the next");
    // The answer cannot leave, so the next ping comes while one is outstanding.
    let mut script = Script::up();
    let frame = |n| crate::wire::Encode::to_frame(&ControlMessage::Ping(n)).unwrap();
    let input = |n, script: &Script| crate::io::Input::Frame {
        connection: script.connection,
        channel: CONTROL,
        frame: frame(n),
    };
    let (first, second) = (input(1, &script), input(2, &script));
    script.node.handle_input(script.now, first);
    script.input(second);
    assert_eq!(script.accusation(), Some(Violation::Ping));
}

#[test]
fn what_comes_after_the_accusation_is_not_looked_at() {
    let mut script = commit(Violation::Malformed);
    script.take();
    for channel in [CONTROL, TIP, BLOCK, SMALL_POOL, 99] {
        script.frame(channel, Frame::from(Bytes::from_static(b"nonsense")));
    }
    assert_eq!(script.take(), []);
    assert_eq!(script.node.stats().violations().count(), 1);
}

#[test]
fn a_goodbye_names_its_reason() {
    let mut script = Script::up();
    script.command(Command::Disconnect { peer: PEER });
    let said = script.received::<ControlMessage>(CONTROL);
    assert_eq!(said, [ControlMessage::Goodbye(Goodbye::Requested)]);
    assert!(script.closed.contains(&script.connection));
}
