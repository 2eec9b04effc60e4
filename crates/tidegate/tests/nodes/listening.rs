//! Listeners of nodes, and the addresses that others are told.

use tidegate::transport::{split_peer, with_peer};
use tidegate::{Builder, Identity, PoolSpec};

use super::application::{NETWORK, Notes, Running, accept_all, within};

const HERE: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A node that takes notes, and does not listen yet.
fn notes() -> Builder {
    Builder::new(NETWORK, Notes, accept_all).pool(PoolSpec::new("notes")).outbound(0)
}

/// Regression: the port stayed in use for another 80 ms or more, so that a restart in one process
/// failed.
#[tokio::test]
async fn ports_are_free_after_shutdown() {
    let start = |address: &str| {
        let builder = notes().listen(address.parse().unwrap());
        Running::start(builder.identity(Identity::from_seed(&[7; 32])))
    };
    let mut first = start(HERE);
    let (address, _) = split_peer(first.node.addresses()[0].clone());
    for _ in 0..5 {
        let mut other = Running::start(notes().listen(HERE.parse().unwrap()));
        first.meet(&mut other).await;
        within("the end", first.node.shutdown()).await;
        first = start(&address.to_string());
    }
}

#[tokio::test]
async fn both_families_have_one_port() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let both = ["/ip4/0.0.0.0", "/ip6/::"].map(|ip| format!("{ip}/udp/{free}/quic-v1"));
    let mut builder = notes();
    for address in &both {
        builder = builder.listen(address.parse().unwrap());
    }
    let node = Running::start(builder).node;
    let listens = |node: &tidegate::Node| {
        let own = node.addresses().into_iter();
        own.map(|address| split_peer(address).0.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listens(&node), both);
    // As by its number, and as the system likes.
    within("the end", node.shutdown()).await;
    let node = Running::start(notes().listen_port(free)).node;
    assert_eq!(listens(&node), both);
    let node = Running::start(notes().listen_port(0)).node;
    assert_eq!(listens(&node).len(), 2);
}

/// What `run` prints, with a router's address in it.
#[tokio::test]
async fn an_external_address_may_name_the_node() {
    let identity = Identity::from_seed(&[7; 32]);
    let address: tidegate::Multiaddr = "/ip4/8.8.8.8/udp/4001/quic-v1".parse().unwrap();
    let named = with_peer(address.clone(), identity.peer_id());
    let node = Running::start(notes().identity(identity).external(named)).node;
    let own = within("its status", node.status()).await.unwrap().addresses;
    let told = tidegate::transport::from_core(&own[0].address);
    assert_eq!((told, own[0].told), (Some(address), tidegate::Told::All));
    assert_eq!(own[0].source, tidegate::AddressSource::External);
}
