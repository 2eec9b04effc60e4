//! Regressions: attacks on a node that fuzzers or reviews have found.

use bytes::Bytes;

use super::application::{LARGE, SMALL, block, config, genesis, id, ids_of, item};
use super::script::{
    BLOCK, CONTROL, LARGE_POOL, PEER, SMALL_POOL, Script, TIP, hello, setup, withhold,
    withhold_blocks,
};
use crate::id::{Digest, ItemId, PeerId};
use crate::io::{Admission, Block, Command, Input, Subject, Verdict};
use crate::wire::{
    Answer, BlockFetch, BlockIds, BlockMessage, BlockWant, Body, Chunked, Compact, ControlMessage,
    Held, MAX_WHOLE, PoolMessage, Refusal, Report, Return, TipMessage,
};
use crate::{Time, Violation};

/// The peer announces an item of 100,000 bytes as its next number, and is asked for it.
fn asked(script: &mut Script, number: u32, id: &ItemId) {
    script.announce(LARGE, id, 100_000);
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

/// Otherwise a few wrong answers, under ever new identities, would use up the node's fetch budget
/// for ever.
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
    // In valid chunks, but another item than the announced one.
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
    // A second chunked answer before the first is complete.
    let mut script = Script::up();
    asked(&mut script, 0, &wanted);
    let other = id(LARGE, &item(2, 100_000));
    script.announce(LARGE, &other, 100_000);
    answer(&mut script, 0, crate::chunk::start(&item(1, 100_000)).0);
    answer(&mut script, 1, crate::chunk::start(&item(2, 100_000)).0);
    assert_eq!(script.accusation(), Some(Violation::OutOfTurn));
    assert_eq!(script.node.status().fetch_bytes, 0);
}

/// R9.1.4: it counted as an answer before the requests were looked up.
#[test]
fn unasked_headers_answer_no_request() {
    let mut script = Script::up();
    script.send(BLOCK, &BlockMessage::Header(block(&genesis(), 1, 1, &[]).header));
    assert_eq!(script.accusation(), Some(Violation::WrongHeader));
}

/// A block whose header came from a peer without a block channel must not wait for that peer: it
/// cannot be asked, and a few such blocks would take all reconstructions.
#[test]
fn blocks_do_not_wait_for_peers_that_cannot_be_asked() {
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
    // The block arrives without its item, and its sender disconnects.
    script.connection = sender;
    let push = script.compact(&wanted);
    script.send(BLOCK, &BlockMessage::Push(push));
    let fetch = |want| BlockMessage::Fetch(BlockFetch { block: wanted.block, want });
    assert_eq!(script.received::<BlockMessage>(BLOCK), [fetch(BlockWant::Items(vec![0]))]);
    for connection in [sender, announcer] {
        script.input(Input::Closed { connection });
    }
    // The peer that has the block is asked for it.
    script.connect(PEER);
    script.shake_hands();
    script.send(TIP, &TipMessage::Held(Held { block: wanted.block, height: 1 }));
    script.wait(100);
    assert_eq!(script.received::<BlockMessage>(BLOCK), [fetch(BlockWant::Compact)]);
}

fn pushed(script: &mut Script, pool: u32, body: Bytes) {
    script.send(pool, &PoolMessage::Push(Body::Whole(body)));
}

/// A node whose pool has `count` items, and a block of all but the last of them; a liar's compact
/// block for it names the last one instead of the first.
fn misnamed(script: &mut Script, count: usize) -> (Block, Compact) {
    let bodies = (0..count).map(|n| item((n % 250) as u8, 20 + n / 250)).collect::<Vec<_>>();
    bodies.iter().for_each(|body| script.publish(SMALL, body));
    let items = bodies[..count - 1].iter().map(|body| (SMALL, body.clone())).collect::<Vec<_>>();
    let wanted = block(&genesis(), 1, 1, &items);
    let named = wanted.items.iter().map(|item| item.id).collect::<Vec<_>>();
    let named = [&[id(SMALL, &bodies[count - 1])], &named[1..]].concat();
    let salt = script.salt();
    let short = named.iter().map(|id| crate::block::short_id(&salt, &wanted.block, id));
    let short_ids = short.collect::<Vec<_>>().concat().into();
    let compact = Compact { short_ids, ..script.compact(&wanted) };
    script.take();
    (wanted, compact)
}

/// Regression: a list of ids that did not match the header counted as proven once its sender was
/// gone, and a wrong block as the right one: by its verdict the node would have left the chain for
/// ever.
#[test]
fn a_wrong_list_of_ids_proves_nothing() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let (wanted, wrong) = misnamed(&mut script, 3);
    script.send(BLOCK, &BlockMessage::Push(wrong));
    let liar = script.connection;
    let all = 0..wanted.items.len();
    let mut wrong = ids_of(&wanted, all.clone());
    wrong.ids[0] = ItemId([7; 32]);
    let honest = script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.connection = liar;
    script.take();
    script.send(BLOCK, &BlockMessage::Ids(wrong));
    assert_eq!(script.accusation(), Some(Violation::WrongIds));
    assert!(script.questions.is_empty());
    // The other one is asked for the ids now, and sends the right ones.
    script.connection = honest;
    script.take();
    script.wait(50);
    script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, all)));
    assert_eq!(script.accusation(), None);
    let subjects = script.questions.iter().map(|(_, subject)| subject.clone());
    assert_eq!(subjects.collect::<Vec<_>>(), [Subject::Block(wanted)]);
}

/// All parts of a list must come from one peer: an honest one was blamed for what another had
/// begun.
#[test]
fn a_list_of_ids_comes_from_one_peer() {
    let mut script = Script::up();
    script.judge = withhold_blocks;
    let (wanted, wrong) = misnamed(&mut script, 1100);
    let fetch = |first| {
        BlockMessage::Fetch(BlockFetch { block: wanted.block, want: BlockWant::Ids(first) })
    };
    script.send(BLOCK, &BlockMessage::Push(wrong));
    assert_eq!(script.received::<BlockMessage>(BLOCK), [fetch(0)]);
    let wrong = BlockIds { ids: vec![ItemId([7; 32]); 1024], ..ids_of(&wanted, 0..1024) };
    script.send(BLOCK, &BlockMessage::Ids(wrong));
    assert_eq!(script.received::<BlockMessage>(BLOCK), [fetch(1024)]);
    let liar = script.connection;
    script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.take();
    script.close(liar);
    assert_eq!(script.received::<BlockMessage>(BLOCK), [fetch(0)]);
    // The rest was found in the pool, so that the root matches.
    script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..1024)));
    assert_eq!(script.accusation(), None);
    assert_eq!(script.questions.len(), 1);
}

/// Short ids may match anything in the pool: items that are too large together prove nothing about
/// the block.
#[test]
fn a_block_is_too_large_only_by_its_own_items() {
    let mut config = config(1);
    config.limits.block_size = 60;
    let mut script = Script::up_with(config);
    script.judge = withhold_blocks;
    let large = item(9, 50);
    for body in [&item(1, 20), &item(2, 20), &large] {
        script.publish(SMALL, body);
    }
    let wanted = block(&genesis(), 1, 1, &[(SMALL, item(1, 20)), (SMALL, item(2, 20))]);
    let salt = script.salt();
    let short = [id(SMALL, &large), wanted.items[1].id];
    let short = short.map(|id| crate::block::short_id(&salt, &wanted.block, &id));
    let compact = Compact { short_ids: short.concat().into(), ..script.compact(&wanted) };
    script.take();
    script.send(BLOCK, &BlockMessage::Push(compact));
    let ids = BlockFetch { block: wanted.block, want: BlockWant::Ids(0) };
    assert_eq!(script.received::<BlockMessage>(BLOCK), [BlockMessage::Fetch(ids)]);
    script.send(BLOCK, &BlockMessage::Ids(ids_of(&wanted, 0..2)));
    assert_eq!(script.questions.len(), 1);
}

/// Regression: a peer that pushed a block, did not deliver the missing items, and pushed it again,
/// was the only one that was waited for.
#[test]
fn peers_that_owe_items_are_not_asked_again() {
    let wanted = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
    let mut script = Script::up();
    let silent = script.connection;
    let items = BlockFetch { block: wanted.block, want: BlockWant::Items(vec![0]) };
    script.send(BLOCK, &BlockMessage::Push(script.compact(&wanted)));
    assert_eq!(script.received::<BlockMessage>(BLOCK), [BlockMessage::Fetch(items.clone())]);
    // It times out; only then another peer announces the block.
    while script.node.poll_timeout().is_some() && script.now < Time::from_micros(6_000_000) {
        script.wait(100);
    }
    script.send(BLOCK, &BlockMessage::Push(script.compact(&wanted)));
    assert!(!script.received::<BlockMessage>(BLOCK).contains(&BlockMessage::Fetch(items)));
    script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    script.wait(1100);
    let compact = BlockFetch { block: wanted.block, want: BlockWant::Compact };
    assert!(script.received::<BlockMessage>(BLOCK).contains(&BlockMessage::Fetch(compact)));
    assert!(!script.closed.contains(&silent));
}

/// Regression: the size that one peer announced was demanded of the others too.
#[test]
fn announcements_bind_only_their_sender() {
    let wanted = item(1, 100_000);
    let mut script = Script::up();
    script.announce(LARGE, &id(LARGE, &wanted), 60);
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
    let liar = script.connection;
    let honest = script.another_peer();
    script.announce(LARGE, &id(LARGE, &wanted), 100_000);
    script.connection = liar;
    script.send(LARGE_POOL, &PoolMessage::Gone(vec![0]));
    script.connection = honest;
    let (body, mut rest) = crate::chunk::start(&wanted);
    answer(&mut script, 0, body);
    while let Some(chunk) = rest.as_mut().and_then(|rest| rest.next()) {
        script.send(LARGE_POOL, &PoolMessage::Chunk(chunk));
    }
    assert_eq!(script.accusation(), None);
    assert_eq!(script.node.status().pools["large"].items, 1);
}

/// Once another peer delivers a requested item, the request must not occupy the fetch budget:
/// others wait for it.
#[test]
fn items_delivered_by_others_free_the_budget() {
    let mut config = config(1);
    config.limits.fetch_bytes_node = 110_000;
    let mut script = Script::up_with(config);
    let silent = script.connection;
    let wanted = item(1, 100_000);
    asked(&mut script, 0, &id(LARGE, &wanted));
    // Another peer has an item for another pool, which does not fit into the budget yet.
    let waiting = script.another_peer();
    script.announce(SMALL, &id(SMALL, &item(2, 30_000)), 30_000);
    assert_eq!(script.received::<PoolMessage>(SMALL_POOL), []);
    script.command(Command::Publish {
        request: 1,
        pool: LARGE,
        body: wanted,
        admission: Admission::default(),
    });
    let fetch = PoolMessage::Fetch(vec![0]);
    assert_eq!(script.received::<PoolMessage>(SMALL_POOL), [fetch]);
    assert!(!script.closed.contains(&silent) && script.connection == waiting);
}

/// All tickets of one worker: what is pushed after these waits.
fn take_tickets(script: &mut Script) {
    for n in [8, 9] {
        pushed(script, LARGE_POOL, item(n, 100));
    }
}

/// A body came from one peer while another was asked for it, and the first disconnected before the
/// ticket: the item is still arriving, so it is not requested again.
#[test]
fn items_under_way_are_not_fetched_again() {
    let mut config = config(1);
    config.workers = 1;
    let mut script = Script::up_with(config);
    script.judge = withhold;
    let wanted = item(1, 20_000);
    script.announce(LARGE, &id(LARGE, &wanted), 20_000);
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
    let honest = script.connection;
    let other = script.another_peer();
    take_tickets(&mut script);
    pushed(&mut script, LARGE_POOL, wanted.clone());
    script.connection = honest;
    script.close(other);
    script.wait(10);
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), []);
    answer(&mut script, 0, Body::Whole(wanted));
    assert_eq!(script.accusation(), None);
    script.judge = |_| Some(Verdict::Accept(Admission::default()));
    let (ticket, _) = script.questions.pop().unwrap();
    script.command(Command::Verdict { ticket, verdict: Verdict::Ignore });
    assert_eq!(script.node.status().pools["large"].items, 1);
    assert_eq!(script.node.status().fetch_bytes, 0);
}

/// An answer was uncharged since another peer was faster; when that one disconnects, the answer is
/// needed again, and charged.
#[test]
fn answers_in_place_of_a_push_are_charged() {
    for (bytes, stays) in [(20_480, true), (20_479, false)] {
        let mut config = config(1);
        config.workers = 1;
        config.limits.fetch_bytes_node = bytes;
        let mut script = Script::up_with(config);
        script.judge = withhold;
        let wanted = item(1, 20_480);
        script.announce(LARGE, &id(LARGE, &wanted), 20_480);
        let honest = script.connection;
        let other = script.another_peer();
        take_tickets(&mut script);
        pushed(&mut script, LARGE_POOL, wanted.clone());
        script.connection = honest;
        answer(&mut script, 0, Body::Whole(wanted));
        assert_eq!(script.node.status().fetch_bytes, 0);
        script.take();
        script.close(other);
        assert_eq!(script.node.status().fetch_bytes, if stays { 20_480 } else { 0 });
        script.wait(1000);
        let returns = script.received::<PoolMessage>(LARGE_POOL);
        let ignored = PoolMessage::Return(vec![Return { number: 0, report: Report::Ignored }]);
        assert_eq!(returns, if stays { vec![] } else { vec![ignored] });
    }
}

/// Regression: each repetition was kept until the verdict, and for ever if that was late.
#[test]
fn repeated_announcements_are_returned_at_once() {
    let mut script = Script::up();
    script.judge = withhold;
    pushed(&mut script, SMALL_POOL, item(1, 100));
    let reports = |script: &mut Script| {
        script.announce(SMALL, &id(SMALL, &item(1, 100)), 100);
        script.wait(1000);
        let returned = script.received::<PoolMessage>(SMALL_POOL).into_iter();
        let reports = returned.flat_map(|message| match message {
            PoolMessage::Return(returns) => returns,
            _ => Vec::new(),
        });
        reports.map(|back| (back.number, back.report)).collect::<Vec<_>>()
    };
    assert_eq!(reports(&mut script), [(1, Report::Duplicate)]);
    script.wait(10_000);
    assert_eq!(script.accusation(), None);
    assert_eq!(reports(&mut script), [(0, Report::Ignored), (2, Report::Ignored)]);
}

/// Regression: nonexistent headers were requested as fast as they were named, and each request was
/// kept.
#[test]
fn headers_are_fetched_one_at_a_time() {
    let mut script = Script::up();
    script.judge = withhold;
    let headers = (1..=3).map(|slot| block(&genesis(), slot, 1, &[])).collect::<Vec<_>>();
    let named = |script: &mut Script, n: usize| {
        script.send(TIP, &TipMessage::Held(Held { block: headers[n].block, height: 1 }));
        script.wait(20);
        script.received::<BlockMessage>(BLOCK).len()
    };
    assert_eq!((named(&mut script, 0), named(&mut script, 1)), (1, 0), "no answer yet");
    script.send(BLOCK, &BlockMessage::Header(headers[0].header.clone()));
    assert_eq!(named(&mut script, 2), 0, "no verdict yet");
    let (ticket, _) = script.questions.pop().unwrap();
    script.command(Command::Verdict { ticket, verdict: Verdict::Ignore });
    assert_eq!(script.received::<BlockMessage>(BLOCK).len(), 1);
}

/// Regression: the end of a connection that made room for another was due for ever, and the node
/// did nothing else any more.
#[test]
fn a_connection_that_does_not_make_room_is_ended_once() {
    for stalled in [false, true] {
        let mut script = Script::alone();
        let smaller = PeerId([0; 32]);
        script.dial(smaller);
        script.shake_hands();
        let older = script.connection;
        script.connect(smaller);
        script.shake_hands();
        let newer = std::mem::replace(&mut script.connection, older);
        // With this frame in transit, the goodbye cannot leave.
        script.stalled = stalled;
        script.send(CONTROL, &ControlMessage::Ping(1));
        script.wait(4_998);
        assert!(script.closed.is_empty());
        script.wait(2_000);
        assert!(script.closed.contains(&older) && !script.closed.contains(&newer));
    }
}

/// Regression: strangers that only began their hellos kept a node from its outbound connections.
#[test]
fn places_are_reserved_for_dialed_peers() {
    let mut script = Script::alone();
    for n in 0..=64 {
        script.connect(PeerId([100 + n; 32]));
    }
    assert!(matches!(script.refusal(), Some(Refusal::Busy(_))));
    script.dial(PEER);
    assert_eq!(script.refusal(), None);
}

/// Regression: connections that waited for an older one of the same peer all came in when that
/// ended.
#[test]
fn one_of_several_waiting_connections_is_accepted() {
    let mut config = config(1);
    config.limits.max_inbound = 2;
    let mut script = Script::up_with(config);
    let older = script.connection;
    let waiting = (0..3).map(|_| {
        script.connect(PEER);
        script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
        script.connection
    });
    let waiting = waiting.collect::<Vec<_>>();
    script.close(older);
    for link in &waiting {
        script.connection = *link;
        let setup = ControlMessage::Setup(setup(script.node.config()));
        script.send(CONTROL, &setup);
    }
    script.wait(1500);
    assert_eq!(script.node.status().peers.len(), 1);
    // A peer banned for a violation cannot come back by another connection.
    let mut script = Script::up();
    let older = script.connection;
    script.connect(PEER);
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    let newer = std::mem::replace(&mut script.connection, older);
    script.frame(SMALL_POOL, Bytes::from_static(&[0xff; 8]).into());
    script.connection = newer;
    assert!(script.closed.contains(&older) && script.closed.contains(&newer));
}

/// A peer that no longer has what it announced gets its permit back once: the verdict on the item
/// of another peer is not about it.
#[test]
fn peers_without_the_item_get_one_return() {
    let mut script = Script::up();
    script.judge = withhold;
    let wanted = item(1, 20_000);
    script.announce(LARGE, &id(LARGE, &wanted), 20_000);
    let first = script.connection;
    script.another_peer();
    pushed(&mut script, LARGE_POOL, wanted);
    script.connection = first;
    script.take();
    script.send(LARGE_POOL, &PoolMessage::Gone(vec![0]));
    let (ticket, _) = script.questions.pop().unwrap();
    let verdict = Verdict::Accept(Admission::default());
    script.command(Command::Verdict { ticket, verdict });
    script.wait(2000);
    let ignored = Return { number: 0, report: Report::Ignored };
    assert_eq!(script.returns(LARGE_POOL), [ignored]);
}

/// A peer that does not have what it announced long ago may have announced it again since: that
/// announcement stands, or its permit would never go back.
#[test]
fn an_old_answer_says_nothing_of_a_new_announcement() {
    let mut config = config(1);
    config.limits.fetch_bytes_link = 1;
    let mut script = Script::up_with(config);
    let wanted = id(LARGE, &item(1, 20_000));
    script.announce(LARGE, &wanted, 20_000);
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
    // The fetch is given up, and its permit is back; the link owes the answer, and is asked for
    // nothing more.
    let mut returned = Vec::new();
    while returned.is_empty() && script.accusation().is_none() {
        script.send(CONTROL, &ControlMessage::Ping(0));
        script.wait(1000);
        returned = script.received::<PoolMessage>(LARGE_POOL);
    }
    let ignored = |number| PoolMessage::Return(vec![Return { number, report: Report::Ignored }]);
    assert_eq!(returned, [ignored(0)]);
    script.announce(LARGE, &wanted, 20_000);
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), []);
    script.send(LARGE_POOL, &PoolMessage::Gone(vec![0]));
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![1])]);
}

/// Regression: each of them cost a quarter of a second, and there may be as many as inbound
/// connections.
#[test]
fn dialed_peers_are_asked_when_others_are_late() {
    let mut script = Script::alone();
    let body = item(1, 2000);
    for n in 2..=21 {
        script.connect(PeerId([n; 32]));
        script.shake_hands();
        script.announce(SMALL, &id(SMALL, &body), body.len());
    }
    script.dial(PeerId([99; 32]));
    script.shake_hands();
    script.announce(SMALL, &id(SMALL, &body), body.len());
    // A round trip of zero, and what is added to it.
    script.wait(200);
    assert_eq!(script.received::<PoolMessage>(SMALL_POOL), []);
    script.wait(60);
    let asked = script.received::<PoolMessage>(SMALL_POOL);
    assert!(matches!(&asked[..], [PoolMessage::Fetch(_)]), "{asked:?}");
}

/// Regression: the other candidates were not woken, so the liar was asked again each second.
#[test]
fn compact_blocks_with_foreign_pools_delay_no_others() {
    let wanted = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
    let header = TipMessage::Header(wanted.header.clone());
    let mut script = Script::up();
    let liar = script.connection;
    script.send(TIP, &header);
    script.wait(50);
    let compact = BlockFetch { block: wanted.block, want: BlockWant::Compact };
    assert_eq!(script.fetched(), std::slice::from_ref(&compact));
    let mut foreign = script.compact(&wanted);
    foreign.groups[0].pool = "nowhere".to_owned();
    script.another_peer();
    script.send(TIP, &header);
    script.send_on(liar, BLOCK, &BlockMessage::Compact(foreign));
    assert_eq!(script.fetched(), [compact]);
    assert!(!script.closed.contains(&liar), "there may be such a pool elsewhere");
}
