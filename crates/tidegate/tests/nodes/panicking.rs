//! A panic in the core ends the node, and all that wait for it are told.

use tidegate::id::{ItemId, ItemKey};
use tidegate::rules::{ItemFacts, Rules};
use tidegate::{Builder, Failure, NodeError, PoolSpec, accept_all};

use super::application::{GUARD, NETWORK, NOTES};

/// Rules that panic at some items.
struct Fragile;

impl Rules for Fragile {
    fn id(&self) -> &str {
        "fragile 1"
    }

    fn item_id(&self, _: &str, body: &[u8]) -> ItemId {
        assert_ne!(body, b"poison", "this test wants a panic");
        ItemId([body[0]; 32])
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        Some(ItemFacts { key, priority: 0, chain: None })
    }
}

#[tokio::test]
async fn a_panic_of_the_core_is_told_and_ends_the_node() {
    let builder = Builder::new(NETWORK, Fragile, accept_all).pool(PoolSpec::new("notes"));
    let (node, mut events) = builder.start().unwrap();
    let fate = node.publish(NOTES, "good", Default::default()).unwrap();
    tokio::time::timeout(GUARD, fate).await.unwrap().unwrap();
    assert!(node.failure().is_none());
    let fate = node.publish(NOTES, "poison", Default::default()).unwrap();
    let fate = tokio::time::timeout(GUARD, fate).await.expect("who waits is told");
    assert_eq!(fate, Err(NodeError::Closed));
    let end = async { while events.next().await.is_some() {} };
    tokio::time::timeout(GUARD, end).await.expect("the events end");
    assert!(matches!(node.failure(), Some(Failure::Panicked)));
    assert_eq!(node.status().await.err(), Some(NodeError::Closed));
    tokio::time::timeout(GUARD, node.shutdown()).await.expect("nothing is left to wait for");
}
