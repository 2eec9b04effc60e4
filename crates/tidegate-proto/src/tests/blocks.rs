//! Sections 8 and 9: how headers, blocks and tips get from node to node.

use super::app::{LARGE, SMALL, block, genesis, item};
use super::net::{Message, Net, pick};
use crate::wire::{BlockMessage, TipMessage};

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
    // One compact block, nothing fetched.
    let blocks = net.sent(0, 1, pick!(Message::Block(m) => m.clone()));
    let [BlockMessage::Push(compact)] = &blocks[..] else { panic!("{blocks:?}") };
    assert_eq!(compact.short_ids.len(), 18);
    assert!(compact.prefilled.is_empty());
    let fetched = net.sent(1, 0, pick!(Message::Block(BlockMessage::Fetch(f)) => f.clone()));
    assert_eq!(fetched, []);
    // The one who executed it says so, and does not echo the header.
    let tips = net.sent(1, 0, pick!(Message::Tip(m) => m.clone()));
    assert!(tips.iter().any(|m| matches!(m, TipMessage::Held(held) if held.height == 1)));
    assert!(!tips.iter().any(|m| matches!(m, TipMessage::Header(_))));
}

#[test]
fn what_the_pools_lack_is_fetched_by_index() {
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
    // A body of 150,000 bytes is the start and four chunks.
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
