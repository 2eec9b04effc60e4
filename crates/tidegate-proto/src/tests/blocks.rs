//! Sections 8 and 9: propagation of headers, blocks and tips.

use bytes::Bytes;

use super::application::{LARGE, SMALL, block, facts, genesis, item, item_of};
use super::net::{Message, Net, accept, pick};
use super::script::{BLOCK, SALT, Script, TIP, withhold_blocks};
use crate::id::{ConnectionId, PoolIndex, Ticket};
use crate::io::{Admission, Block, Command, Fate, Input, Invalid, Output, Subject, Verdict};
use crate::rules::Rules as _;
use crate::wire::{
    BlockFetch, BlockMessage, BlockPart, BlockWant, Encode as _, Held, NotHere, TipMessage, TipSlot,
};

/// R8.8
#[test]
fn a_block_is_rebuilt_from_the_pools() {
    let mut net = Net::pair();
    let items = [(LARGE, item(1, 20_000)), (SMALL, item(2, 100)), (SMALL, item(3, 100))];
    for (pool, body) in &items {
        net.publish(0, *pool, body);
    }
    net.run_ms(2000);
    net.log.clear();
    let block = block(&genesis(), 1, 1, &items);
    net.produce(0, &block);
    net.run_ms(2000);
    assert_eq!((net.height(0), net.height(1)), (1, 1));
    for (pool, _) in &items {
        assert!(net.ids(0, *pool).is_empty() && net.ids(1, *pool).is_empty());
    }
    // One compact block, and no fetches.
    let blocks = net.sent(0, 1, pick!(Message::Block(m) => m.clone()));
    let [BlockMessage::Push(compact)] = &blocks[..] else { panic!("{blocks:?}") };
    assert_eq!(compact.short_ids.len(), 18);
    assert!(compact.prefilled.is_empty());
    let fetched = net.sent(1, 0, pick!(Message::Block(BlockMessage::Fetch(f)) => f.clone()));
    assert_eq!(fetched, []);
    // The node that executed it announces its tip, but does not echo the header.
    let tips = net.sent(1, 0, pick!(Message::Tip(m) => m.clone()));
    assert!(tips.iter().any(|m| matches!(m, TipMessage::Held(held) if held.height == 1)));
    assert!(!tips.iter().any(|m| matches!(m, TipMessage::Header(_))));
}

#[test]
fn missing_items_are_fetched_by_index() {
    let mut net = Net::pair();
    let items = [(LARGE, item(1, 20_000)), (SMALL, item(2, 100)), (LARGE, item(3, 150_000))];
    net.cut.insert((0, 1));
    net.publish(0, SMALL, &items[1].1);
    net.run_ms(100);
    net.cut.clear();
    let block = block(&genesis(), 1, 1, &items);
    net.produce(0, &block);
    net.run_ms(3000);
    assert_eq!(net.height(1), 1);
    let items = net.sent(0, 1, pick!(Message::Block(BlockMessage::Item(item)) => item.index));
    assert_eq!(items, [0, 1, 2]);
    // A body of 150,000 bytes is sent as a start and four chunks.
    let chunks = net.sent(0, 1, pick!(Message::Block(BlockMessage::Chunk(_)) => ()));
    assert_eq!(chunks.len(), 4);
}

#[test]
fn a_long_fork_is_followed_back_to_a_known_block() {
    let mut net = Net::pair();
    net.cut.extend([(0, 1), (1, 0)]);
    let mut parent = genesis();
    for slot in 1..=60 {
        let block = block(&parent, slot, 1, &[(SMALL, item(slot as u8, 100))]);
        net.produce(0, &block);
        parent = block.header;
    }
    let other = block(&genesis(), 61, 2, &[]);
    net.produce(1, &other);
    net.reset(0, 1);
    net.run_ms(1000);
    net.cut.clear();
    net.connect(0, 1);
    net.run_ms(20_000);
    assert_eq!((net.height(0), net.height(1)), (60, 60));
}

fn withhold_headers(subject: &Subject) -> Option<Verdict> {
    match subject {
        Subject::Header { .. } => None,
        _ => accept(subject),
    }
}

/// R8.1
#[test]
fn a_header_goes_on_at_its_verdict() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(1, 2);
    net.run_ms(500);
    net.log.clear();
    net.hosts[1].judge = withhold_headers;
    net.produce(0, &block(&genesis(), 1, 1, &[]));
    net.run_ms(500);
    let relayed =
        |net: &Net| net.sent(1, 2, pick!(Message::Tip(TipMessage::Header(_)) => ())).len();
    assert_eq!(relayed(&net), 0);
    let ticket = *net.hosts[1].open.first_key_value().unwrap().0;
    net.answer(1, ticket, Verdict::Accept(Admission::default()));
    net.run_ms(500);
    assert_eq!(relayed(&net), 1);
}

/// R8.4
#[test]
fn a_header_is_returned_when_it_is_checked() {
    let mut script = Script::up();
    script.judge = withhold_headers;
    script.send(TIP, &TipMessage::Header(block(&genesis(), 1, 1, &[]).header));
    script.wait(9_999);
    assert_eq!(script.received::<TipMessage>(TIP), []);
    script.wait(1);
    let back = [TipMessage::Return(TipSlot::Header)];
    assert_eq!(script.received::<TipMessage>(TIP), back, "it took too long");
    script.wait(20);
    script.send(TIP, &TipMessage::Header(block(&genesis(), 2, 1, &[]).header));
    assert_eq!(script.received::<TipMessage>(TIP), []);
    let (ticket, _) = script.questions.pop().unwrap();
    let verdict = Verdict::Ignore;
    script.command(Command::Verdict { ticket, verdict });
    assert_eq!(script.received::<TipMessage>(TIP), back);
    // A header that is no better than the tip needs no verdict.
    script.send(TIP, &TipMessage::Header(genesis()));
    script.wait(20);
    assert_eq!(script.received::<TipMessage>(TIP), back);
}

/// R8.5
#[test]
fn only_the_newest_tip_is_sent() {
    let mut script = Script::up();
    let mut parent = genesis();
    for slot in 1..=3 {
        let block = block(&parent, slot, 1, &[]);
        parent = block.header.clone();
        script.command(Command::PublishBlock { request: 0, block });
    }
    assert_eq!(script.received::<TipMessage>(TIP), [], "the first block's permit is out");
    script.send(TIP, &TipMessage::Return(TipSlot::Header));
    assert_eq!(script.received::<TipMessage>(TIP), [TipMessage::Header(parent)]);
}

/// R9.1.2
#[test]
fn ancestors_are_checked_first() {
    let first = block(&genesis(), 1, 1, &[]);
    let second = block(&first.header, 2, 1, &[]);
    let accept = Verdict::Accept(Admission::default());
    let asked = |script: &mut Script| -> (Ticket, Subject) {
        assert_eq!(script.questions.len(), 1, "{:?}", script.questions);
        script.questions.pop().unwrap()
    };
    // Of the headers only the newer one leaves.
    let mut script = Script::up();
    script.judge = withhold_headers;
    script.send(TIP, &TipMessage::Header(second.header.clone()));
    assert!(script.questions.is_empty());
    script.send(BLOCK, &BlockMessage::Header(first.header.clone()));
    for expected in [&first, &second] {
        let (ticket, subject) = asked(&mut script);
        let (block, header) = (expected.block, expected.header.clone());
        assert_eq!(subject, Subject::Header { block, header });
        script.command(Command::Verdict { ticket, verdict: accept });
    }
    // Of the blocks both are sent in full.
    let mut script = Script::up();
    script.judge = withhold_blocks;
    for block in [&first, &second] {
        let compact = script.compact(block);
        script.send(BLOCK, &BlockMessage::Push(compact));
    }
    for expected in [&first, &second] {
        let (ticket, subject) = asked(&mut script);
        assert_eq!(subject, Subject::Block(expected.clone()));
        script.command(Command::Verdict { ticket, verdict: accept });
    }
}

fn fetch(block: &Block, want: BlockWant) -> BlockMessage {
    BlockMessage::Fetch(BlockFetch { block: block.block, want })
}

/// A peer pushes a block whose only item is missing here; another peer watches.
struct Watched {
    script: Script,
    sender: ConnectionId,
    block: Block,
}

impl Watched {
    fn new() -> Self {
        let mut script = Script::up();
        let sender = script.connection;
        script.another_peer();
        let block = block(&genesis(), 1, 1, &[(SMALL, item(1, 100))]);
        let push = BlockMessage::Push(script.compact(&block));
        let mut watched = Self { script, sender, block };
        watched.hear(&push);
        watched
    }

    fn hear(&mut self, message: &BlockMessage) {
        let frame = message.to_frame().unwrap();
        self.script.input(Input::Frame { connection: self.sender, channel: BLOCK, frame });
    }

    fn deliver(&mut self) {
        let item = item_of(&self.block, 0);
        self.hear(&BlockMessage::Item(item));
    }

    fn heard(&mut self) -> Vec<BlockMessage> {
        self.script.received(BLOCK)
    }
}

/// R9.2.6
#[test]
fn a_block_goes_on_when_it_is_complete_and_before_it_is_executed() {
    let mut watched = Watched::new();
    watched.script.judge = withhold_blocks;
    // Less than the timeout after which another peer is asked for what is missing.
    watched.script.wait(200);
    assert_eq!(watched.heard(), []);
    watched.deliver();
    let heard = watched.heard();
    let [BlockMessage::Push(compact)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((&compact.header, compact.salt), (&watched.block.header, SALT));
    assert_eq!(compact.prefilled.len(), 1, "what was lacking here");
    assert_eq!(watched.script.node.tip().unwrap().height, 0);
}

/// R9.1.3, R9.2.8, R9.2.9
#[test]
fn every_fetch_has_an_answer() {
    let not_here = |block: &Block, part| {
        let block = block.block;
        vec![BlockMessage::NotHere(NotHere { block, part })]
    };
    let mut watched = Watched::new();
    let block = watched.block.clone();
    let s = &mut watched.script;
    s.send(BLOCK, &fetch(&block, BlockWant::Header));
    assert_eq!(s.received::<BlockMessage>(BLOCK), [BlockMessage::Header(block.header.clone())]);
    s.send(BLOCK, &fetch(&block, BlockWant::Ids(0)));
    assert_eq!(s.received::<BlockMessage>(BLOCK), not_here(&block, BlockPart::Ids));
    // It is arriving: a peer that requests it waits, but not for ever.
    s.send(BLOCK, &fetch(&block, BlockWant::Compact));
    s.wait(1999);
    assert_eq!(s.received::<BlockMessage>(BLOCK), []);
    s.wait(1);
    assert_eq!(s.received::<BlockMessage>(BLOCK), not_here(&block, BlockPart::Compact));
    let mut watched = Watched::new();
    watched.script.send(BLOCK, &fetch(&block, BlockWant::Compact));
    watched.deliver();
    let heard = watched.heard();
    assert!(heard.iter().any(|m| matches!(m, BlockMessage::Compact(_))), "{heard:?}");
    // It is complete: now all parts of it are served.
    let s = &mut watched.script;
    s.send(BLOCK, &fetch(&block, BlockWant::Items(vec![0, 5])));
    let heard = s.received::<BlockMessage>(BLOCK);
    let [BlockMessage::Item(item), end] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((item.index, item.id), (0, block.items[0].id));
    assert_eq!(*end, not_here(&block, BlockPart::Items)[0]);
    // Unknown blocks are answered with nothing.
    let other = super::application::block(&genesis(), 9, 9, &[]);
    s.send(BLOCK, &fetch(&other, BlockWant::Header));
    assert_eq!(s.received::<BlockMessage>(BLOCK), not_here(&other, BlockPart::Header));
    // A header without a verdict is served.
    s.judge = withhold_headers;
    s.send(TIP, &TipMessage::Header(super::application::block(&block.header, 2, 1, &[]).header));
    let (_, Subject::Header { block, header }) = &s.questions[0] else { panic!() };
    let want = BlockMessage::Fetch(BlockFetch { block: *block, want: BlockWant::Header });
    let header = BlockMessage::Header(header.clone());
    s.send(BLOCK, &want);
    assert_eq!(s.received::<BlockMessage>(BLOCK), [header]);
}

/// R9.1.4
#[test]
fn a_held_tip_that_is_unknown_is_asked_for() {
    let mut script = Script::up();
    let wanted = block(&genesis(), 1, 1, &[]);
    script.send(TIP, &TipMessage::Held(Held { block: wanted.block, height: 1 }));
    let asked = script.received::<BlockMessage>(BLOCK);
    assert_eq!(asked, [fetch(&wanted, BlockWant::Header)]);
    script.send(BLOCK, &BlockMessage::Header(wanted.header.clone()));
    assert_eq!(script.accusation(), None);
    assert_eq!(script.node.best_header(), Some(&facts(&wanted.header)));
}

/// Publishes a block at a node that only has the genesis; returns its fate.
fn published(block: Block) -> Fate {
    let mut script = Script::alone();
    script.node.handle_command(script.now, Command::PublishBlock { request: 5, block });
    let fates = std::iter::from_fn(|| script.node.poll_output());
    let fates = fates.filter_map(|output| match output {
        Output::Published { request: 5, fate } => Some(fate),
        _ => None,
    });
    fates.last().expect("what is published has a fate")
}

#[test]
fn a_block_that_cannot_be_sent_is_refused_with_a_reason() {
    let sizes = |count: u8, size| (1..=count).map(|n| (LARGE, item(n, size))).collect::<Vec<_>>();
    let runs = |count: u8| {
        let pool = |n| if n % 2 == 0 { LARGE } else { SMALL };
        let items = (1..=count).map(|n| (pool(n), item(n, 100))).collect::<Vec<_>>();
        block(&genesis(), 1, 1, &items)
    };
    // At the limits: 200,000 bytes in an item, 4 MiB in a block, 8 runs of one pool.
    assert_eq!(published(block(&genesis(), 1, 1, &sizes(1, 200_000))), Fate::Accepted);
    let full = || [sizes(20, 200_000), vec![(LARGE, item(21, (4 << 20) - 4_000_000))]].concat();
    assert_eq!(published(block(&genesis(), 1, 1, &full())), Fate::Accepted);
    assert_eq!(published(runs(8)), Fate::Accepted);
    // And each limit exceeded by one.
    let invalid = |block| match published(block) {
        Fate::Invalid(why) => why,
        fate => panic!("{fate:?}"),
    };
    assert_eq!(invalid(block(&genesis(), 1, 1, &sizes(1, 200_001))), Invalid::TooLarge);
    let over = [full(), vec![(SMALL, item(22, 13))]].concat();
    assert_eq!(invalid(block(&genesis(), 1, 1, &over)), Invalid::BlockTooLarge);
    assert_eq!(invalid(runs(9)), Invalid::TooManyGroups);
    // Other mistakes.
    let orphan = block(&block(&genesis(), 1, 1, &[]).header, 2, 1, &[]);
    assert_eq!(invalid(orphan), Invalid::UnknownParent);
    let mut other = runs(2);
    other.items.swap(0, 1);
    assert_eq!(invalid(other), Invalid::OtherItems);
    let mut fewer = runs(2);
    fewer.items.pop();
    assert_eq!(invalid(fewer), Invalid::OtherItems);
    let mut nowhere = runs(1);
    nowhere.items[0].pool = PoolIndex(2);
    assert_eq!(invalid(nowhere), Invalid::NoSuchPool);
    let malformed = Block { header: Bytes::from_static(b"no header"), ..runs(1) };
    assert_eq!(invalid(malformed), Invalid::MalformedHeader);
    // Another block's header, first with the wrong id and then with its own.
    let mut first = Block { header: genesis(), ..runs(0) };
    assert_eq!(published(first.clone()), Fate::Invalid(Invalid::OtherBlock));
    first.block = super::application::TestRules.header(&genesis()).unwrap().block;
    assert_eq!(published(first), Fate::Invalid(Invalid::UnknownParent));
}
