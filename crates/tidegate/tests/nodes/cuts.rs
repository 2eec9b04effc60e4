//! Outages of the path between two nodes, with real sockets.
//!
//! `TIDEGATE_LONG_CUT=600` makes the long one ten minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate::transport::split_peer;

use super::application::{By, Running, accept_all};
use crate::relay::{Fate, Relay, address_of, socket_of};

/// How long after the outage everything must have arrived.
const BACK: Duration = Duration::from_secs(10);

/// Two nodes publish during an outage; returns how long after it each has the other's items.
async fn cut(duration: Duration) -> Duration {
    let by = By::Quic;
    let mut bob = by.start(accept_all);
    let is_cut = Arc::new(AtomicBool::new(false));
    let way = Relay::start(socket_of(&split_peer(bob.node.addresses()[0].clone()).0), {
        let is_cut = is_cut.clone();
        move |_, _| if is_cut.load(Ordering::Relaxed) { Fate::IsLost } else { Fate::Passes }
    });
    let alice = Running::start(by.builder(accept_all).peer(&address_of(way.address)));
    alice.publish("before").await;
    bob.has("before").await;
    is_cut.store(true, Ordering::Relaxed);
    let until = Instant::now() + duration;
    let mut count = 0;
    while Instant::now() < until {
        count += 1;
        alice.publish(&format!("alice {count}")).await;
        bob.publish(&format!("bob {count}")).await;
        // This sleep waits for nothing: it is the pace of publishing, since everything must fit
        // into the pools.
        tokio::time::sleep((duration / 600).max(Duration::from_millis(100))).await;
    }
    let has = bob.node.pool_ids(super::application::NOTES).await.unwrap().len();
    assert!(has <= 2 + count, "nothing passes: {has}");
    is_cut.store(false, Ordering::Relaxed);
    let back = Instant::now();
    let all = 1 + 2 * count;
    while alice.node.pool_ids(super::application::NOTES).await.unwrap().len() < all
        || bob.node.pool_ids(super::application::NOTES).await.unwrap().len() < all
    {
        assert!(back.elapsed() < BACK, "cut for {duration:?}: not back within {BACK:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    back.elapsed()
}

#[tokio::test]
async fn a_cut_of_five_seconds_heals() {
    println!("back after {:?}", cut(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_cut_of_thirty_seconds_heals() {
    let seconds = std::env::var("TIDEGATE_LONG_CUT").ok().and_then(|text| text.parse().ok());
    println!("back after {:?}", cut(Duration::from_secs(seconds.unwrap_or(30))).await);
}
