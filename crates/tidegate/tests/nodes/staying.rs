//! Nodes stay connected to the peers that their configuration names.

use std::path::Path;
use std::time::Duration;

use tidegate::io::Event;
use tidegate::transport::split_peer;
use tidegate::{Builder, Identity, Multiaddr, PoolSpec, StartError};

use super::application::{By, NETWORK, Notes, Running, accept_all, within};

fn notes() -> Builder {
    Builder::new(NETWORK, Notes, accept_all).pool(PoolSpec::new("notes"))
}

/// A node with the identity in a key file, at its earlier address.
async fn again(by: &By, key: &Path, place: &Multiaddr) -> Running {
    let start = async {
        loop {
            let identity = Identity::load_or_create(key).unwrap();
            let place = split_peer(place.clone()).0;
            match by.connect_at(notes(), identity, place).start() {
                Ok((node, events)) => return Running { node, events },
                // A socket is free when its last connection has drained (RFC 9000, section 10.2).
                Err(StartError::Listen(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    within("the old place", start).await
}

/// A node that comes back at another address.
fn elsewhere(by: &By, peer: &Multiaddr) -> Running {
    let identity = Identity::generate().unwrap();
    let builder = notes().peer(peer);
    Running::start(match by {
        By::Memory(_) => by.connect_at(builder, identity, "/memory/77".parse().unwrap()),
        #[cfg(feature = "quic")]
        By::Quic => by.connect(builder, identity),
        #[cfg(feature = "tcp")]
        By::Tcp => by.connect(builder, identity),
    })
}

fn met(event: &Event) -> bool {
    matches!(event, Event::PeerConnected { .. })
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again() {
    for by in By::all() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("bob.key");
        let bob = Running::start(by.connect(notes(), Identity::load_or_create(&key).unwrap()));
        let place = bob.node.addresses()[0].clone();
        let mut alice = elsewhere(&by, &place);
        alice.until(met).await;
        within("the end", bob.node.shutdown()).await;
        drop(bob);
        alice.until(|event| matches!(event, Event::PeerDisconnected { .. })).await;
        alice.publish("while you were out").await;
        let mut bob = again(&by, &key, &place).await;
        alice.until(met).await;
        bob.has("while you were out").await;
    }
}

#[tokio::test]
async fn a_peer_that_comes_later_is_found() {
    for by in By::all() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("bob.key");
        let bob = Running::start(by.connect(notes(), Identity::load_or_create(&key).unwrap()));
        let place = bob.node.addresses()[0].clone();
        within("the end", bob.node.shutdown()).await;
        drop(bob);
        let mut alice = elsewhere(&by, &place);
        alice.until(|event| matches!(event, Event::DialFailed { .. })).await;
        let _bob = again(&by, &key, &place).await;
        alice.until(met).await;
    }
}

/// Names are resolved at each dial, and an unknown name is no reason to give up.
#[cfg(feature = "quic")]
#[tokio::test]
async fn a_peer_is_found_by_its_name() {
    let by = By::Quic;
    let bob = Running::start(by.connect(notes(), Identity::generate().unwrap()));
    let port = bob.node.addresses()[0].to_string();
    let port = port.split('/').nth(4).unwrap().to_owned();
    for (name, found) in
        [("dns4/localhost", true), ("dns/localhost", true), ("dns4/no.invalid", false)]
    {
        let address = format!("/{name}/udp/{port}/quic-v1").parse::<Multiaddr>().unwrap();
        let mut alice =
            Running::start(by.connect(notes().peer(&address), Identity::generate().unwrap()));
        if found {
            alice.until(met).await
        } else {
            let unknown = tidegate::io::DialError::UnknownName;
            alice
                .until(
                    |event| matches!(event, Event::DialFailed { error, .. } if *error == unknown),
                )
                .await
        };
    }
    // A name cannot be listened at.
    let listens = notes().listen("/dns4/localhost/udp/0/quic-v1".parse().unwrap()).start();
    assert!(matches!(listens, Err(StartError::Listen(_))));
}
