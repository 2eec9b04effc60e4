//! A node with two transports: one peer connects by a pipe, another by QUIC, and items published by
//! one reach the other.

use std::time::Duration;

use tidegate::id::{ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Event, Fate};
use tidegate::rules::{HeaderFacts, ItemFacts, Rules};
use tidegate::{Builder, Events, Multiaddr, Node, PoolSpec, accept_all};
use tidegate_pipe::Pipe;

/// Notes of any text.
struct Notes;

impl Rules for Notes {
    fn id(&self) -> &str {
        "notes 1"
    }

    fn item_id(&self, _: &str, body: &[u8]) -> ItemId {
        use sha2::Digest as _;
        ItemId(sha2::Sha256::digest(body).into())
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        Some(ItemFacts { key: ItemKey(self.item_id(pool, body).0), priority: 1, chain: None })
    }

    fn header(&self, _: &[u8]) -> Option<HeaderFacts> {
        None
    }

    fn compare(&self, _: &HeaderFacts, _: &HeaderFacts) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

fn start(folder: &std::path::Path, listen: &[&str]) -> (Node, Events) {
    let folder = folder.to_owned();
    let mut builder = Builder::new(NetworkId([7; 32]), Notes, accept_all)
        .pool(PoolSpec::new("notes"))
        .outbound(0)
        .transport(move |setup| Ok(Pipe::new(setup, folder)));
    for at in listen {
        builder = builder.listen(at.parse().expect("an address"));
    }
    builder.start().expect("a node")
}

fn by<'a>(addresses: &'a [Multiaddr], first: &str) -> &'a Multiaddr {
    addresses.iter().find(|at| at.to_string().starts_with(first)).expect("it listens there")
}

#[tokio::test]
async fn items_cross_from_one_transport_to_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let (middle, _events) = start(folder.path(), &["/unix/middle", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    let (near, _near) = start(folder.path(), &[]);
    let (far, mut events) = start(folder.path(), &[]);
    let addresses = middle.addresses();
    near.dial(by(&addresses, "/unix/")).expect("a running node");
    far.dial(by(&addresses, "/ip4/")).expect("a running node");
    let fate = near.publish(PoolIndex(0), "over a pipe", Admission::default());
    assert_eq!(fate.expect("a running node").await, Ok(Fate::Accepted));
    let arrived = async {
        while let Some(event) = events.next().await {
            if let Event::ItemAdded { body, .. } = event {
                return body;
            }
        }
        panic!("the node has ended");
    };
    let body = tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("it arrives");
    assert_eq!(&body[..], b"over a pipe");
    assert_eq!(middle.status().await.expect("a running node").peers.len(), 2);
}
