//! Which peer is blamed, and for what: a claim of one peer that nothing binds must not count
//! against another, nor against a block.

use bytes::Bytes;

use super::application::{
    LARGE, SMALL, SharedIds, TestRules, block, block_by, config, genesis, id, ids_of, item, item_of,
};
use super::script::{
    BLOCK, CONTROL, LARGE_POOL, RPC, SMALL_POOL, Script, TIP, generous, withhold, withhold_blocks,
};
use crate::config::Config;
use crate::id::{ConnectionId, PeerId};
use crate::io::{Admission, Block, Command, Fate, Invalid, Verdict};
use crate::rules::Rules;
use crate::wire::{
    Answer, BlockBody, BlockFetch, BlockIds, BlockMessage, BlockPart, BlockWant, Body, BodyGroup,
    Compact, ControlMessage, Encode as _, Group, Held, ItemBody, NotHere, PoolMessage, Prefilled,
    Report, Return, RpcBlock, RpcMessage, RpcWant, TipMessage,
};
use crate::{Time, Violation};

/// Answers all requests of the node about a block, as an honest peer does.
fn serve(script: &mut Script, block: &Block) {
    loop {
        let asked = script.fetched();
        if asked.is_empty() {
            return;
        }
        for fetch in asked {
            assert_eq!(fetch.block, block.block);
            match fetch.want {
                BlockWant::Ids(first) => {
                    let ids = ids_of(block, first as usize..block.items.len());
                    script.send(BLOCK, &BlockMessage::Ids(ids));
                }
                BlockWant::Items(indices) => {
                    for index in indices {
                        let item = item_of(block, index as usize);
                        script.send(BLOCK, &BlockMessage::Item(item));
                    }
                }
                BlockWant::Compact => {
                    let compact = script.compact(block);
                    script.send(BLOCK, &BlockMessage::Compact(compact));
                }
                BlockWant::Header => {
                    script.send(BLOCK, &BlockMessage::Header(block.header.clone()));
                }
            }
        }
    }
}

fn publish(script: &mut Script, bodies: &[Bytes]) {
    bodies.iter().for_each(|body| script.publish(SMALL, body));
}

/// Regression: a liar's compact block came first, with groups that named another pool, and the liar
/// then said that it did not have the missing items, or nothing. Peers that delivered the items
/// with valid proofs were banned, or the block was refused for ever. R9.2.14, R10.1
#[test]
fn wrong_groups_blame_only_their_sender() {
    for (shared_ids, known, silent) in
        (0..8).map(|n| (n & 1 != 0, if n & 2 != 0 { 2 } else { 0 }, n & 4 != 0))
    {
        let rules: Box<dyn Rules> =
            if shared_ids { Box::new(SharedIds) } else { Box::new(TestRules) };
        let bodies = [item(1, 100), item(2, 100), item(3, 100)];
        let items = bodies.clone().map(|body| (SMALL, body));
        let wanted = block_by(&*rules, &genesis(), 1, 1, &items);
        let mut script = Script::by(config(1), rules);
        script.connect(super::script::PEER);
        script.shake_hands();
        script.judge = withhold_blocks;
        publish(&mut script, &bodies[..known]);
        let short_ids = script.short_ids(&wanted).concat();
        let groups = vec![Group { pool: "large".to_owned(), count: 3 }];
        let honest = Compact { short_ids: short_ids.into(), ..script.compact(&wanted) };
        let false_one = Compact { groups, ..honest.clone() };
        let liar = script.connection;
        script.take();
        script.send(BLOCK, &BlockMessage::Push(false_one));
        assert_eq!(script.fetched().len(), 1);
        let other = script.another_peer();
        script.send(TIP, &TipMessage::Header(wanted.header.clone()));
        if !silent {
            let not_here = NotHere { block: wanted.block, part: BlockPart::Items };
            script.send_on(liar, BLOCK, &BlockMessage::NotHere(not_here));
        }
        while script.judged().is_empty() && script.now < Time::from_micros(20_000_000) {
            script.wait(50);
            serve(&mut script, &wanted);
        }
        let case = format!("shared ids {shared_ids}, {known} known, silent {silent}");
        assert_eq!(script.accusation(), None, "{case}");
        assert!(!script.closed.contains(&other), "{case}");
        let [mut found] = script.judged().try_into().unwrap();
        found.items.iter_mut().for_each(|item| item.known = true);
        assert_eq!(found, wanted, "{case}");
        assert!(script.closed.contains(&liar), "{case}");
        let violations = script.node.stats().violations().collect::<Vec<_>>();
        assert_eq!(violations, [(Violation::MalformedCompact, 1)], "{case}");
    }
}

/// Regression: a liar's list of ids put an item of another pool where one was arriving with its
/// proof, which did not replace it: the block was reconstructed with the wrong pool. R9.2.12,
/// R9.2.14
#[test]
fn a_proven_item_takes_the_place_of_a_claimed_one() {
    let bodies = [item(1, 100), item(2, 100)];
    let items = bodies.clone().map(|body| (SMALL, body));
    let wanted = block_by(&SharedIds, &genesis(), 1, 1, &items);
    let mut config = config(1);
    // A peer that owes items cannot be asked for ids.
    config.limits.block_grant.requests = 1;
    let mut script = Script::by(config, Box::new(SharedIds));
    script.connect(super::script::PEER);
    script.shake_hands();
    script.judge = withhold_blocks;
    script.publish(LARGE, &bodies[1]);
    let short_ids = script.short_ids(&wanted).concat();
    let honest = Compact { short_ids: short_ids.into(), ..script.compact(&wanted) };
    let groups = ["large", "small"].map(|pool| Group { pool: pool.to_owned(), count: 1 });
    let false_one = Compact { groups: groups.to_vec(), ..honest.clone() };
    let origin = script.connection;
    script.take();
    script.send(BLOCK, &BlockMessage::Push(false_one));
    assert_eq!(script.fetched().len(), 1);
    let helper = script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    let not_here = NotHere { block: wanted.block, part: BlockPart::Items };
    script.send_on(origin, BLOCK, &BlockMessage::NotHere(not_here));
    script.wait(50);
    let [asked] = script.fetched().try_into().unwrap();
    assert_eq!(asked.want, BlockWant::Items(vec![0, 1]));
    script.connect(PeerId([7; 32]));
    script.shake_hands();
    let liar = script.connection;
    script.send(BLOCK, &BlockMessage::Push(honest));
    script.send_on(helper, BLOCK, &BlockMessage::Item(item_of(&wanted, 0)));
    assert!(script.closed.contains(&origin));
    let [asked] = script.fetched().try_into().unwrap();
    assert_eq!(asked.want, BlockWant::Ids(0));
    // The ids are right, but the pool of the second is wrong.
    let groups = ["small", "large"].map(|pool| Group { pool: pool.to_owned(), count: 1 });
    let list = BlockIds { groups: groups.to_vec(), ..ids_of(&wanted, 0..2) };
    script.send(BLOCK, &BlockMessage::Ids(list));
    assert!(script.closed.contains(&liar));
    script.connection = helper;
    script.take();
    script.send(BLOCK, &BlockMessage::Item(item_of(&wanted, 1)));
    script.wait(50);
    serve(&mut script, &wanted);
    assert!(!script.closed.contains(&helper));
    let [mut found] = script.judged().try_into().unwrap();
    found.items.iter_mut().for_each(|item| item.known = true);
    assert_eq!(found, wanted);
}

/// A list of ids that names a pool unknown to the node proves nothing until its root matches the
/// header: another peer is asked.
#[test]
fn ids_of_an_unknown_pool_are_asked_of_another() {
    let bodies = [item(1, 100), item(2, 100)];
    let wanted = block(&genesis(), 1, 1, &bodies.clone().map(|body| (SMALL, body)));
    let mut script = Script::up();
    script.judge = withhold_blocks;
    publish(&mut script, &bodies);
    // The short ids are in reverse order, so the root does not match.
    let [first, second] = script.short_ids(&wanted).try_into().unwrap();
    let short_ids = [second, first].concat().into();
    let push = Compact { short_ids, ..script.compact(&wanted) };
    script.take();
    script.send(BLOCK, &BlockMessage::Push(push));
    assert_eq!(script.fetched().len(), 1, "all ids are asked for");
    let first = script.connection;
    script.another_peer();
    script.send(TIP, &TipMessage::Header(wanted.header.clone()));
    let mut ids = ids_of(&wanted, 0..2);
    ids.groups[0].pool = "unknown".to_owned();
    script.send_on(first, BLOCK, &BlockMessage::Ids(ids));
    assert!(!script.closed.contains(&first));
    serve(&mut script, &wanted);
    assert_eq!(script.accusation(), None);
    assert_eq!(script.judged(), [wanted]);
}

/// The ways in which a block can arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Prefilled,
    ByIndex,
    FromPools,
    Requested,
    Published,
}

impl Way {
    const ALL: [Self; 5] =
        [Self::Prefilled, Self::ByIndex, Self::FromPools, Self::Requested, Self::Published];
}

/// Whether a node accepts a block that arrives in this way. No peer may be accused for it.
fn takes(config: &Config, way: Way, sent: &Block) -> bool {
    let mut script = Script::up_with(config.clone());
    script.judge = withhold_blocks;
    match way {
        Way::Published => {
            let block = sent.clone();
            script.command(Command::PublishBlock { request: 7, block });
            let fate = script.fates.iter().find(|(request, _)| *request == 7).unwrap().1;
            assert!(matches!(fate, Fate::Accepted | Fate::Invalid(_)), "{fate:?}");
            return fate == Fate::Accepted;
        }
        Way::Prefilled | Way::ByIndex | Way::FromPools => {
            if way == Way::FromPools {
                for item in &sent.items {
                    script.publish(item.pool, &item.body);
                }
            }
            let short_ids = script.short_ids(sent).concat().into();
            let body = |(index, item): (usize, &crate::io::BlockItem)| Prefilled {
                index: index as u32,
                body: item.body.clone(),
            };
            let prefilled = sent.items.iter().enumerate().map(body);
            let prefilled = prefilled.take_while(|_| way == Way::Prefilled).collect();
            let compact = Compact { short_ids, prefilled, ..script.compact(sent) };
            script.take();
            script.send(BLOCK, &BlockMessage::Push(compact));
            serve(&mut script, sent);
        }
        Way::Requested => {
            script.send(TIP, &TipMessage::Header(sent.header.clone()));
            script.send(TIP, &TipMessage::Held(Held { block: sent.block, height: 1 }));
            script.wait(60);
            script.take();
            let part = BlockPart::Compact;
            script.send(BLOCK, &BlockMessage::NotHere(NotHere { block: sent.block, part }));
            let asked = script.received::<RpcMessage>(RPC);
            let [RpcMessage::Request(request)] = &asked[..] else { panic!("{asked:?}") };
            assert_eq!(request.want, RpcWant::Block(sent.block));
            let groups = sent.items.chunk_by(|a, b| a.pool == b.pool).map(|run| BodyGroup {
                pool: config.pools[run[0].pool.0 as usize].name.clone(),
                items: run.iter().map(|item| ItemBody(item.body.clone())).collect(),
            });
            let body = BlockBody { groups: groups.collect() }.to_bytes().unwrap();
            let answer = RpcBlock { id: request.id, body: Body::Whole(body) };
            script.send(RPC, &RpcMessage::Block(answer));
        }
    }
    script.wait(5_000);
    assert_eq!(script.accusation(), None, "{way:?}");
    assert!(script.node.stats().violations().next().is_none(), "{way:?}");
    let taken = script.judged().len();
    // A bad block stays bad: its child is not considered either.
    let child = block(&sent.header, 2, 1, &[]);
    script.questions.clear();
    script.send(TIP, &TipMessage::Header(child.header));
    assert_eq!(script.node.best_header().unwrap().height > 0, taken == 1, "{way:?}");
    taken == 1
}

/// Regression: a block that one node accepted when it arrived in one way was refused by another
/// where it arrived in another way: the chain split, or honest peers were banned. R9.4.1, R9.4.2
#[test]
fn a_block_is_good_by_every_way_or_by_none() {
    let mut config = config(1);
    config.limits.block_size = 1000;
    config.pools[SMALL.0 as usize].max_item = 400;
    config.pools[LARGE.0 as usize].max_item = 600;
    let mut apart = config.clone();
    apart.pools[LARGE.0 as usize].in_blocks = false;
    let small = |n, size| (SMALL, item(n, size));
    let large = |n, size| (LARGE, item(n, size));
    let cases = [
        (&config, vec![], true),
        (&config, vec![small(1, 400), large(2, 600)], true),
        (&config, vec![small(1, 400), large(2, 601)], false),
        (&config, vec![small(1, 401)], false),
        (&config, vec![small(1, 400), small(2, 400), small(3, 200)], true),
        (&config, vec![small(1, 400), small(2, 400), small(3, 201)], false),
        (&config, vec![large(1, 601)], false),
        (&apart, vec![small(1, 100)], true),
        (&apart, vec![large(1, 100)], false),
        // Eight runs, and nine.
        (&config, (0..8).map(|n| ([SMALL, LARGE][n as usize % 2], item(n, 20))).collect(), true),
    ];
    for (config, items, good) in cases {
        let sent = block(&genesis(), 1, 1, &items);
        for way in Way::ALL {
            let possible = way != Way::FromPools || good;
            if possible {
                assert_eq!(takes(config, way, &sent), good, "{way:?}: {items:?}");
            }
        }
    }
    let runs = (0..9).map(|n| ([SMALL, LARGE][n as usize % 2], item(n, 20))).collect::<Vec<_>>();
    let mut script = Script::up_with(config.clone());
    let sent = block(&genesis(), 1, 1, &runs);
    script.command(Command::PublishBlock { request: 7, block: sent });
    assert!(script.fates.contains(&(7, Fate::Invalid(Invalid::TooManyGroups))));
}

/// Nodes that would not agree on which blocks are admissible do not exchange any. R5.7.9
#[test]
fn the_digest_of_block_rules_covers_every_rule() {
    let digest = |change: fn(&mut Config)| {
        let mut config = config(1);
        change(&mut config);
        config.block_rules_digest("r")
    };
    let same = digest(|_| {});
    assert_ne!(same, config(1).block_rules_digest("s"));
    assert_ne!(same, digest(|c| c.limits.block_size += 1));
    assert_ne!(same, digest(|c| c.pools[0].max_item += 1));
    assert_ne!(same, digest(|c| c.pools[0].name.push('x')));
    assert_ne!(same, digest(|c| c.pools[0].in_blocks = false));
    assert_ne!(same, digest(|c| drop(c.pools.pop())));
    // Nodes may differ in the order of pools, and in pools that blocks may not contain.
    assert_eq!(same, digest(|c| c.pools.reverse()));
    assert_eq!(
        digest(|c| c.pools[0].in_blocks = false),
        digest(|c| {
            c.pools[0].in_blocks = false;
            c.pools[0].max_item += 1;
        })
    );
    // With other block rules the channel stays closed, and the peer is asked nothing that it could
    // not answer correctly. R16.10
    let mut script = Script::with(config(1));
    script.connect(super::script::PEER);
    let mut other = config(1);
    other.limits.block_size += 1;
    script.send(CONTROL, &ControlMessage::Hello(super::script::hello(script.connection)));
    script.send(CONTROL, &ControlMessage::Setup(super::script::setup(&other)));
    script.take();
    let held = Held { block: crate::id::BlockId([7; 32]), height: 1000 };
    script.send(TIP, &TipMessage::Held(held));
    script.wait(4_000);
    assert_eq!(script.received::<RpcMessage>(RPC), []);
    assert_eq!(script.node.status().peers.len(), 1);
}

fn start_of(body: &Bytes) -> (Body, Vec<Bytes>) {
    let (start, rest) = crate::chunk::start(body);
    (start, rest.into_iter().flat_map(|mut rest| std::iter::from_fn(move || rest.next())).collect())
}

/// Keeps the silence timeout of both peers from expiring.
fn wait_busy(script: &mut Script, peers: [ConnectionId; 2], ms: u64) {
    for _ in 0..ms / 100 {
        script.wait(100);
        for peer in peers {
            script.send_on(peer, CONTROL, &ControlMessage::Ping(1));
        }
    }
}

/// Regression: the first chunk of an answer counted as the answer. A peer that stopped there held
/// the node's whole fetch budget for ever, and the item was never requested from another. R7.3.12
#[test]
fn an_answer_that_stops_half_way_is_asked_of_others() {
    let mut config = config(1);
    config.limits.fetch_bytes_node = 120_000;
    let wanted = item(1, 100_000);
    for leaves in [false, true] {
        let mut script = Script::up_with(config.clone());
        let liar = script.connection;
        script.announce(LARGE, &id(LARGE, &wanted), 100_000);
        assert_eq!(script.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
        let (start, rest) = start_of(&wanted);
        let answer = Answer { number: 0, body: start };
        script.send(LARGE_POOL, &PoolMessage::Answer(answer));
        script.send(LARGE_POOL, &PoolMessage::Chunk(rest[0].clone()));
        assert_eq!(script.accusation(), None);
        let other = script.another_peer();
        script.announce(LARGE, &id(LARGE, &wanted), 100_000);
        assert_eq!(script.received::<PoolMessage>(LARGE_POOL), []);
        // Another item waits for the budget.
        script.announce(SMALL, &id(SMALL, &item(2, 30_000)), 30_000);
        if leaves {
            script.close(liar);
            // The size bound of the same item: the liar's share has been freed.
            assert_eq!(script.node.status().fetch_bytes, 114_688);
        } else {
            wait_busy(&mut script, [liar, other], 800);
        }
        let asked = script.received::<PoolMessage>(LARGE_POOL);
        assert_eq!(asked, [PoolMessage::Fetch(vec![0])], "leaves: {leaves}");
        let (start, rest) = start_of(&wanted);
        script.send(LARGE_POOL, &PoolMessage::Answer(Answer { number: 0, body: start }));
        for chunk in rest {
            script.send(LARGE_POOL, &PoolMessage::Chunk(chunk));
        }
        assert_eq!(script.accusation(), None);
        assert_eq!(script.node.status().pools["large"].items, 1);
        script.send(
            SMALL_POOL,
            &PoolMessage::Answer(Answer { number: 0, body: Body::Whole(item(2, 30_000)) }),
        );
        assert_eq!(script.node.status().fetch_bytes, 0);
    }
}

/// Regression: one number was requested twice, and the honest announcer called that a violation.
#[test]
fn a_number_whose_answer_has_begun_is_not_fetched_again() {
    let mut config = config(1);
    config.workers = 1;
    config.pools[LARGE.0 as usize].grant = generous();
    let mut script = Script::up_with(config);
    script.judge = withhold;
    let wanted = item(1, 100_000);
    script.announce(LARGE, &id(LARGE, &wanted), 100_000);
    let honest = script.connection;
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
    let (start, rest) = start_of(&wanted);
    script.send(LARGE_POOL, &PoolMessage::Answer(Answer { number: 0, body: start }));
    // Another peer pushes it meanwhile, and disconnects before it gets a ticket.
    let other = script.another_peer();
    for n in [8, 9] {
        script.send(LARGE_POOL, &PoolMessage::Push(Body::Whole(item(n, 100))));
    }
    let (start, pushed) = start_of(&wanted);
    script.send(LARGE_POOL, &PoolMessage::Push(start));
    for chunk in pushed {
        script.send(LARGE_POOL, &PoolMessage::Chunk(chunk));
    }
    script.connection = honest;
    script.close(other);
    script.wait(100);
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), []);
    for chunk in rest {
        script.send(LARGE_POOL, &PoolMessage::Chunk(chunk));
    }
    assert_eq!(script.accusation(), None);
    for _ in 0..3 {
        let Some((ticket, _)) = script.questions.pop() else { break };
        script.judge = |_| Some(Verdict::Accept(Admission::default()));
        script.command(Command::Verdict { ticket, verdict: Verdict::Ignore });
    }
    assert_eq!(script.node.status().pools["large"].items, 1);
    assert_eq!(script.node.status().fetch_bytes, 0);
}

/// Regression: an item of a block that stopped half way was not requested from another peer, even
/// when its sender had disconnected. R9.2.15
#[test]
fn an_item_of_a_block_that_stops_half_way_is_asked_of_others() {
    let wanted = block(&genesis(), 1, 1, &[(LARGE, item(1, 100_000))]);
    let (start, rest) = start_of(&wanted.items[0].body);
    let begun = crate::wire::BlockItem { body: start, ..item_of(&wanted, 0) };
    let items = BlockFetch { block: wanted.block, want: BlockWant::Items(vec![0]) };
    for leaves in [false, true] {
        let mut script = Script::up();
        script.judge = withhold_blocks;
        let liar = script.connection;
        let compact = script.compact(&wanted);
        script.send(BLOCK, &BlockMessage::Push(compact));
        assert_eq!(script.fetched(), std::slice::from_ref(&items));
        script.send(BLOCK, &BlockMessage::Item(begun.clone()));
        let other = script.another_peer();
        script.send(TIP, &TipMessage::Header(wanted.header.clone()));
        script.take();
        if leaves {
            script.close(liar);
        } else {
            wait_busy(&mut script, [liar, other], 900);
        }
        let asked = script.fetched().into_iter().filter(|f| f.want != BlockWant::Compact);
        assert_eq!(asked.collect::<Vec<_>>(), std::slice::from_ref(&items), "leaves: {leaves}");
        script.send(BLOCK, &BlockMessage::Item(begun.clone()));
        for chunk in &rest {
            script.send(BLOCK, &BlockMessage::Chunk(chunk.clone()));
        }
        assert_eq!(script.accusation(), None);
        assert_eq!(script.judged().len(), 1);
    }
    // A request whose answer has begun cannot be answered again, nor with nothing.
    let part = BlockPart::Items;
    let not_here = BlockMessage::NotHere(NotHere { block: wanted.block, part });
    for second in [BlockMessage::Item(begun.clone()), not_here] {
        let mut script = Script::up();
        let compact = script.compact(&wanted);
        script.send(BLOCK, &BlockMessage::Push(compact));
        script.send(BLOCK, &BlockMessage::Item(begun.clone()));
        script.send(BLOCK, &second);
        assert_eq!(script.accusation(), Some(Violation::Unasked));
    }
}

/// Regression: with two items of one alias, which a peer that knows the salt can make, one permit
/// was returned twice, which ended the process. R6.3.1
#[test]
fn a_number_is_given_back_once_though_ids_collide() {
    crate::pool::ALIAS_MASK.set(0);
    let mut script = Script::up();
    script.judge = withhold;
    let [first, second] = [item(1, 20_000), item(2, 20_000)];
    script.announce(LARGE, &id(LARGE, &first), 20_000);
    let announcer = script.connection;
    assert_eq!(script.received::<PoolMessage>(LARGE_POOL), [PoolMessage::Fetch(vec![0])]);
    script.another_peer();
    for body in [first, second] {
        script.send(LARGE_POOL, &PoolMessage::Push(Body::Whole(body)));
    }
    script.connection = announcer;
    script.take();
    script.send(LARGE_POOL, &PoolMessage::Gone(vec![0]));
    for (ticket, _) in std::mem::take(&mut script.questions) {
        let verdict = Verdict::Accept(Admission::default());
        script.command(Command::Verdict { ticket, verdict });
    }
    script.wait(2000);
    let ignored = Return { number: 0, report: Report::Ignored };
    assert_eq!(script.returns(LARGE_POOL), [ignored]);
    crate::pool::ALIAS_MASK.set(u64::MAX);
}
