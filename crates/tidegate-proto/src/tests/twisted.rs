//! Liars and one honest peer, all with the same block: however the liars twist their messages, the
//! block is reconstructed correctly and soon, and no honest peer is accused.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::application::{
    LARGE, SMALL, SharedIds, TestRules, block_by, config, genesis, ids_of, item_of,
};
use super::script::{BLOCK, CONTROL, RPC, Script, TIP, hello, setup_by as setup, withhold_blocks};
use crate::chunk;
use crate::id::{ConnectionId, PeerId, PoolIndex};
use crate::io::Block;
use crate::rng::Rng;
use crate::rules::Rules;
use crate::time::Time;
use crate::wire::{
    BlockBody, BlockFetch, BlockMessage, BlockPart, BlockWant, Body, BodyGroup, Compact,
    ControlMessage, Encode as _, Frame, Group, Held, ItemBody, NotHere, Prefilled, RpcBlock,
    RpcMessage, RpcWant, TipMessage,
};

/// The longest time if liars are asked first: less than the timeouts after which a block is fetched
/// in another way.
const PATIENCE: Duration = Duration::from_millis(2_900);
/// With two that never answer: the first takes a second, and the next most of one. The honest peer
/// then has three round trips left for items, ids and items.
const WITH_UNRESPONSIVE: Duration = Duration::from_millis(3_200);
const PLAYS: u64 = 3_000;

struct Dice(Rng);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The next message of a peer, and when it is sent.
struct Said {
    at: Time,
    link: ConnectionId,
    channel: u32,
    frame: Frame,
}

struct Play {
    script: Script,
    dice: Dice,
    block: Block,
    honest: ConnectionId,
    liars: Vec<ConnectionId>,
    /// Those that never answer.
    unresponsive: Vec<ConnectionId>,
    /// The delay of the honest peer's answers, in milliseconds.
    far: u64,
    to_say: VecDeque<Said>,
}

/// A body with its own content; items of both pools may be the same.
fn body(dice: &mut Dice, n: u8, pool: PoolIndex) -> Bytes {
    let size = match (pool, dice.below(4)) {
        (LARGE, 0) => 61_000 + dice.below(80_000),
        (LARGE, 1) => 5_000,
        _ => 20 + dice.below(500),
    };
    super::application::item(n, size as usize)
}

/// A peer with an apparent round trip of `far` milliseconds.
fn connect(script: &mut Script, peer: PeerId, far: u64) -> ConnectionId {
    script.connect(peer);
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    script.wait(far);
    script.send(CONTROL, &ControlMessage::Setup(setup(script.node.config(), script.rules_id())));
    script.connection
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut dice = Dice(Rng::new(bytes));
        let rules: Box<dyn Rules> = match dice.below(2) {
            0 => Box::new(TestRules),
            _ => Box::new(SharedIds),
        };
        let count = 1 + dice.below(6) as u8;
        let items = (1..=count).map(|n| {
            let pool = [LARGE, SMALL][dice.below(2) as usize];
            (pool, body(&mut dice, n, pool))
        });
        let items = items.collect::<Vec<_>>();
        let block = block_by(&*rules, &genesis(), 1, 1, &items);
        let mut script = Script::by(config(1), rules);
        script.judge = withhold_blocks;
        for (pool, body) in items {
            let both = [LARGE, SMALL].into_iter().filter(|other| {
                if *other == pool { !dice.one_in(3) } else { dice.one_in(4) && body.len() < 10_000 }
            });
            for pool in both.collect::<Vec<_>>() {
                script.publish(pool, &body);
            }
        }
        let far = [20, 350][dice.below(2) as usize];
        let honest = connect(&mut script, PeerId([8; 32]), far);
        let liars = (0..1 + dice.below(2)).map(|n| {
            // Some appear to be far away: they may take long to answer.
            let far = if dice.one_in(2) { 990 } else { 0 };
            connect(&mut script, PeerId([20 + n as u8; 32]), far)
        });
        let liars = liars.collect::<Vec<_>>();
        let unresponsive = liars.iter().copied().filter(|_| dice.one_in(4)).collect();
        script.connection = ConnectionId(u64::MAX);
        script.elsewhere.clear();
        Self { script, dice, block, honest, liars, unresponsive, far, to_say: VecDeque::new() }
    }

    fn say(&mut self, link: ConnectionId, ms: u64, channel: u32, frame: Frame) {
        let at = self.script.now + Duration::from_millis(ms);
        // The messages of one peer stay in order.
        let last = self.to_say.iter().filter(|said| said.link == link).map(|said| said.at).max();
        let at = last.map_or(at, |last| at.max(last));
        let behind = self.to_say.iter().position(|said| said.at > at);
        self.to_say.insert(behind.unwrap_or(self.to_say.len()), Said { at, link, channel, frame });
    }

    fn say_block(&mut self, link: ConnectionId, ms: u64, message: &BlockMessage) {
        self.say(link, ms, BLOCK, message.to_frame().unwrap());
    }

    fn compact(&self) -> Compact {
        let short_ids = self.script.short_ids(&self.block).concat().into();
        Compact { short_ids, ..self.script.compact(&self.block) }
    }

    /// Another pool than that: the node's other one, or an unknown one.
    fn wrong_pool(&mut self, pool: &str) -> String {
        match pool {
            _ if self.dice.one_in(4) => "nowhere",
            "large" => "small",
            _ => "large",
        }
        .to_owned()
    }

    /// The names of pools, one or more of them wrong.
    fn regroup(&mut self, groups: &mut Vec<Group>) {
        let mut pools = Vec::new();
        for group in groups.iter() {
            pools.extend(std::iter::repeat_n(group.pool.clone(), group.count as usize));
        }
        let wrong = self.dice.below(pools.len() as u64) as usize;
        let all = self.dice.one_in(3);
        for (at, pool) in pools.iter_mut().enumerate() {
            if all || at == wrong {
                *pool = self.wrong_pool(pool);
            }
        }
        *groups = pools
            .chunk_by(|a, b| a == b)
            .map(|run| Group { pool: run[0].clone(), count: run.len() as u32 })
            .collect();
    }

    fn false_compact(&mut self) -> Compact {
        let mut compact = self.compact();
        let count = self.block.items.len() as u64;
        for _ in 0..1 + self.dice.below(2) {
            match self.dice.below(4) {
                0 => self.regroup(&mut compact.groups),
                1 => {
                    let at = self.dice.below(count) as usize * 6;
                    let mut ids = compact.short_ids.to_vec();
                    let (other, own) = (self.dice.below(count) as usize * 6, at);
                    ids.copy_within(other..other + 6, own);
                    compact.short_ids = ids.into();
                }
                2 => compact.short_ids = vec![7; compact.short_ids.len()].into(),
                _ => {
                    let index = self.dice.below(count) as u32;
                    let of = self.dice.below(count) as usize;
                    let body = self.block.items[of].body.clone();
                    if body.len() < 8_000 {
                        compact.prefilled = vec![Prefilled { index, body }];
                    }
                }
            }
        }
        compact
    }

    /// The answers of the honest peer.
    fn answer(&mut self, link: ConnectionId, want: &BlockWant) -> Vec<BlockMessage> {
        match want {
            BlockWant::Header => vec![BlockMessage::Header(self.block.header.clone())],
            BlockWant::Compact => vec![BlockMessage::Compact(self.compact())],
            BlockWant::Ids(first) => {
                let ids = ids_of(&self.block, *first as usize..self.block.items.len());
                vec![BlockMessage::Ids(ids)]
            }
            BlockWant::Items(indices) => {
                let lies = link != self.honest;
                let mut answer = Vec::new();
                for index in indices {
                    let at = *index as usize;
                    let (body, rest) = chunk::start(&self.block.items[at].body);
                    answer.push(BlockMessage::Item(crate::wire::BlockItem {
                        body,
                        ..item_of(&self.block, at)
                    }));
                    // A liar may stop in the middle.
                    let Some(mut rest) = rest else { continue };
                    if lies && self.dice.one_in(2) {
                        return answer;
                    }
                    answer.extend(std::iter::from_fn(|| rest.next()).map(BlockMessage::Chunk));
                }
                answer
            }
        }
    }

    /// The answers of a liar: the truth, nothing, or something else.
    fn twisted(&mut self, link: ConnectionId, fetch: &BlockFetch) -> Vec<BlockMessage> {
        let part = match fetch.want {
            BlockWant::Header => BlockPart::Header,
            BlockWant::Compact => BlockPart::Compact,
            BlockWant::Ids(_) => BlockPart::Ids,
            BlockWant::Items(_) => BlockPart::Items,
        };
        let mut answer = self.answer(link, &fetch.want);
        if self.unresponsive.contains(&link) {
            return Vec::new();
        }
        match self.dice.below(6) {
            0 => return Vec::new(),
            1 => return vec![BlockMessage::NotHere(NotHere { block: fetch.block, part })],
            2 => return answer,
            _ => {}
        }
        match answer.first_mut() {
            Some(BlockMessage::Compact(_)) => {
                answer = vec![BlockMessage::Compact(self.false_compact())];
            }
            Some(BlockMessage::Ids(ids)) => match self.dice.below(2) {
                0 => self.regroup(&mut ids.groups),
                _ => ids.ids.reverse(),
            },
            Some(BlockMessage::Item(item)) => match self.dice.below(3) {
                0 => item.pool = self.wrong_pool(&item.pool),
                1 => item.index ^= 1,
                _ => {
                    if let Body::Whole(body) = &mut item.body {
                        *body = super::application::item(99, body.len());
                    }
                }
            },
            _ => {}
        }
        answer
    }

    /// Answers the node's new requests.
    fn listen(&mut self) {
        for (link, channel, frame) in std::mem::take(&mut self.script.elsewhere) {
            let lies = link != self.honest;
            match channel {
                BLOCK => {
                    let Ok(BlockMessage::Fetch(fetch)) = frame.decode() else { continue };
                    let answer = if lies {
                        self.twisted(link, &fetch)
                    } else {
                        self.answer(link, &fetch.want)
                    };
                    let ms = if lies { self.dice.below(400) } else { self.far };
                    answer.iter().for_each(|message| self.say_block(link, ms, message));
                }
                RPC => {
                    let Ok(RpcMessage::Request(request)) = frame.decode() else { continue };
                    if let (RpcWant::Block(_), false) = (&request.want, lies) {
                        let (body, rest) = chunk::start(&self.whole_body());
                        let answer = RpcMessage::Block(RpcBlock { id: request.id, body });
                        self.say(link, self.far, RPC, answer.to_frame().unwrap());
                        let Some(mut rest) = rest else { continue };
                        while let Some(chunk) = rest.next() {
                            self.say(
                                link,
                                self.far,
                                RPC,
                                RpcMessage::Chunk(chunk).to_frame().unwrap(),
                            );
                        }
                    }
                }
                CONTROL => {
                    if let Ok(ControlMessage::Ping(number)) = frame.decode() {
                        let pong = ControlMessage::Pong(number).to_frame().unwrap();
                        self.say(link, 20, CONTROL, pong);
                    }
                }
                _ => {}
            }
        }
    }

    /// The items of the block, as an answer.
    fn whole_body(&self) -> Bytes {
        let runs = self.block.items.chunk_by(|a, b| a.pool == b.pool);
        let groups = runs.map(|run| BodyGroup {
            pool: self.script.node.config().pools[run[0].pool.0 as usize].name.clone(),
            items: run.iter().map(|item| ItemBody(item.body.clone())).collect(),
        });
        BlockBody { groups: groups.collect() }.to_bytes().unwrap()
    }

    /// Runs until the application is asked about the block; returns how long that took.
    fn run(mut self) -> Duration {
        for liar in self.liars.clone() {
            let ms = self.dice.below(300);
            if self.dice.one_in(3) {
                let header = TipMessage::Header(self.block.header.clone());
                self.say(liar, ms, TIP, header.to_frame().unwrap());
            } else {
                let push = BlockMessage::Push(self.false_compact());
                self.say_block(liar, ms, &push);
            }
        }
        let ms = self.dice.below(300);
        let (block, height) = (self.block.block, 1);
        if self.dice.one_in(2) {
            let push = BlockMessage::Push(self.compact());
            self.say_block(self.honest, ms, &push);
        } else {
            let header = TipMessage::Header(self.block.header.clone());
            self.say(self.honest, ms, TIP, header.to_frame().unwrap());
        }
        let held = TipMessage::Held(Held { block, height }).to_frame().unwrap();
        self.say(self.honest, ms + 10, TIP, held);
        let began = self.script.now;
        while self.script.judged().is_empty() {
            let took = self.script.now.since(began);
            let patience = if self.unresponsive.is_empty() { PATIENCE } else { WITH_UNRESPONSIVE };
            assert!(took < patience, "the block is held up");
            while self.to_say.front().is_some_and(|said| said.at <= self.script.now) {
                let Some(Said { link, channel, frame, .. }) = self.to_say.pop_front() else {
                    break;
                };
                if !self.script.closed.contains(&link) {
                    self.script.send_frame_on(link, channel, frame);
                }
                self.listen();
            }
            self.script.wait(10);
            self.listen();
        }
        let [judged] = self.script.judged().try_into().unwrap();
        let content = |block: &Block| {
            let items = block.items.iter().map(|item| (item.pool, item.id, item.body.clone()));
            (block.block, block.header.clone(), items.collect::<Vec<_>>())
        };
        assert_eq!(content(&judged), content(&self.block), "it is another block");
        assert!(!self.script.closed.contains(&self.honest), "the honest one is accused");
        self.script.now.since(began)
    }
}

/// R9.2.7, R9.2.12, R9.2.14, R9.2.15
#[test]
fn lies_neither_stop_a_block_nor_blame_honest_peers() {
    let mut late = 0;
    for seed in 0..PLAYS {
        let run = std::panic::catch_unwind(|| Play::new(seed).run());
        let took = run.unwrap_or_else(|_| panic!("with seed {seed}"));
        late += u64::from(took > Duration::from_secs(1));
    }
    assert!((1..PLAYS / 4).contains(&late), "{late} of {PLAYS} take more than a second");
}
