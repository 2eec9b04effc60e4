//! Propagation of items.

use std::time::Duration;

use tidegate::id::PoolIndex;
use tidegate::io::{Admission, Event, Fate, Invalid};
use tidegate::{NodeError, PoolSpec};

use super::application::{By, GUARD, NOTES, Running, accept_all, note_id, within};

#[tokio::test]
async fn an_item_gets_from_one_node_to_the_other() {
    for by in By::all() {
        let (mut alice, mut bob) = by.pair(accept_all).await;
        let large = "x".repeat(30_000);
        for note in ["high tide at nine", &large] {
            assert_eq!(alice.publish(note).await, Fate::Accepted);
            bob.has(note).await;
        }
        assert_eq!(bob.publish("low tide at three").await, Fate::Accepted);
        alice.has("low tide at three").await;

        let items = alice.node.pool(NOTES, 10).await.unwrap();
        let bodies: Vec<_> = items.iter().map(|item| item.body.clone()).collect();
        assert_eq!(bodies, [&large, "low tide at three", "high tide at nine"]);
        assert_eq!(alice.node.pool(NOTES, 1).await.unwrap(), items[..1]);
        let ids = alice.node.pool_ids(NOTES).await.unwrap();
        assert!(ids.is_sorted() && ids.contains(&note_id(&large)));
        assert_eq!(bob.node.pool_ids(NOTES).await.unwrap(), ids);

        let status = bob.node.status().await.unwrap();
        assert_eq!((status.peers.len(), status.pools["notes"].items), (1, 3));
        let traffic = alice.node.traffic().await.unwrap();
        assert!(traffic.sent > 30_000 && traffic.received > 0, "{traffic:?}");
    }
}

#[tokio::test]
async fn peers_that_connect_later_get_the_pool() {
    for by in By::all() {
        let (mut alice, mut bob) = (by.start(accept_all), by.start(accept_all));
        for number in 0..300 {
            assert_eq!(alice.publish(&format!("note {number}")).await, Fate::Accepted);
        }
        bob.meet(&mut alice).await;
        let all = alice.node.pool_ids(NOTES).await.unwrap();
        let mut here = 0;
        while here < all.len() {
            bob.until(|event| matches!(event, Event::ItemAdded { .. })).await;
            here += 1;
        }
        assert_eq!(bob.node.pool_ids(NOTES).await.unwrap(), all);
    }
}

/// Regression: of 4,000 accepted items a peer had 204 when the node had said goodbye, and no call
/// told which.
#[tokio::test]
async fn flush_waits_until_peers_have_the_items() {
    const COUNT: usize = 300;
    for by in By::all() {
        // A millisecond for each, one after the other.
        let slowly = |_: tidegate::io::Subject, answer: tidegate::Answer| {
            std::thread::sleep(Duration::from_millis(1));
            answer.accept(Admission::default());
        };
        let mut alice = by.start(accept_all);
        let mut bob = Running::start(by.builder(slowly).workers(1));
        alice.meet(&mut bob).await;
        for number in 0..COUNT {
            assert_eq!(alice.publish(&format!("note {number}")).await, Fate::Accepted);
        }
        let last = note_id(&format!("note {}", COUNT - 1));
        assert_eq!(alice.node.holders(NOTES, last).await.unwrap(), Some(vec![]));
        // Two are wanted, and there is one.
        assert_eq!(alice.node.flush(2, GUARD).await.unwrap(), 0);
        assert_eq!(alice.node.holders(NOTES, last).await.unwrap(), Some(vec![bob.node.peer_id()]));
        assert_eq!(alice.node.holders(NOTES, note_id("none")).await.unwrap(), None);
        alice.node.shutdown().await;
        assert_eq!(bob.node.pool_ids(NOTES).await.unwrap().len(), COUNT);
        // Items of other publishers do not count, and there is no peer left to take this one.
        assert_eq!(bob.publish("high tide at nine").await, Fate::Accepted);
        bob.until(|event| matches!(event, Event::PeerDisconnected { .. })).await;
        assert_eq!(bob.node.flush(1, Duration::from_millis(30)).await.unwrap(), 1);
        bob.node.shutdown().await;
        assert!(matches!(bob.node.flush(1, GUARD).await, Err(NodeError::Closed)));
    }
}

/// A peer that refuses an item does not count as having it.
#[tokio::test]
async fn peers_that_ignore_an_item_do_not_count_as_holders() {
    let by = By::memory();
    let ignores = |_: tidegate::io::Subject, answer: tidegate::Answer| answer.ignore();
    let (mut alice, mut bob) = (by.start(accept_all), by.start(ignores));
    alice.meet(&mut bob).await;
    assert_eq!(alice.publish("low tide").await, Fate::Accepted);
    assert_eq!(alice.node.flush(1, Duration::from_millis(200)).await.unwrap(), 1);
    // The same if the peer has dropped it and announces it.
    assert_eq!(bob.publish("low tide").await, Fate::Accepted);
    assert_eq!(alice.node.flush(1, GUARD).await.unwrap(), 0);
}

#[tokio::test]
async fn publishing_tells_the_fate() {
    let by = By::memory();
    let mut spec = PoolSpec::new("few");
    (spec.capacity, spec.max_item) = (2, 100);
    let alice = Running::start(by.builder(accept_all).pool(spec));
    let publish = async |pool: u16, note: &[u8]| {
        let note = note.to_vec();
        let publishing = alice.node.publish(PoolIndex(pool), note, Admission::default());
        within("a fate", publishing.unwrap()).await.unwrap()
    };
    assert_eq!(publish(1, b"m").await, Fate::Accepted);
    assert_eq!(publish(1, b"m").await, Fate::Known);
    assert_eq!(publish(2, b"m").await, Fate::Invalid(Invalid::NoSuchPool));
    assert_eq!(publish(1, &[b'm'; 101]).await, Fate::Invalid(Invalid::TooLarge));
    assert_eq!(publish(1, &[0xff]).await, Fate::Invalid(Invalid::Malformed));
    assert_eq!(publish(1, &[b'm'; 100]).await, Fate::Accepted);
    // Now an item must be better than the worst to get in.
    assert_eq!(publish(1, b"a").await, Fate::Full { floor: u64::from(b'm') });
    assert_eq!(publish(1, b"z").await, Fate::Accepted);
    assert_eq!(alice.node.status().await.unwrap().pools["few"].items, 2);
}

#[tokio::test]
async fn pending_publications_are_bounded() {
    const PLACES: usize = 4096;
    let alice = By::memory().start(accept_all);
    let publish = |number| {
        let note = format!("note {number}");
        alice.node.publish(NOTES, note, Admission::default())
    };
    // Nothing runs until this awaits: all of them are in progress.
    let mut waiting: Vec<_> = (0..PLACES).map(|number| publish(number).unwrap()).collect();
    assert_eq!(publish(PLACES).unwrap_err(), NodeError::Busy);
    assert_eq!(publish(PLACES).unwrap_err(), NodeError::Busy);
    let first = waiting.swap_remove(0);
    assert_eq!(within("a fate", first).await, Ok(Fate::Accepted));
    let last = publish(PLACES).expect("the place of the first");
    for publishing in waiting {
        assert_eq!(within("a fate", publishing).await, Ok(Fate::Accepted));
    }
    assert!(matches!(within("a fate", last).await, Ok(Fate::Full { .. } | Fate::Accepted)));
}
