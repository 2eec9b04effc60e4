//! Nodes with default settings find each other from one address, and then no longer need it: on one
//! host, on a LAN, within one /16, over IPv4, IPv6 and both. Regression: they were a star that died
//! with its bootstrap node.

use std::time::{Duration, Instant};

use super::hosts::Hosts;
use crate::daemon::until;

/// How long a new node may take to make all its outbound connections.
const SOON: Duration = Duration::from_secs(10);

/// All nodes but the first start with its address: each must find all others in time, and keep them
/// after that one has gone.
fn meet(mut hosts: Hosts, count: usize, ports: Option<u16>, bootstrap: &str) {
    let port = |n: usize| ports.map(|first| first + n as u16);
    hosts.start(0, port(0), "");
    until("the first to be up", || hosts.status(0).is_some());
    let began = Instant::now();
    for n in 1..count {
        hosts.start(n, port(n), &format!("--bootstrap {bootstrap}"));
    }
    let all = (count - 1).min(8) as u64;
    until("all to have met", || (0..count).all(|n| hosts.peers(n) >= all));
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}\n{}", hosts.log(1));
    hosts.end(0, "TERM");
    until("the first to have gone", || (1..count).all(|n| hosts.peers(n) < all));
    // Peers that were found through it are found without it.
    let left = (count - 2) as u64;
    assert!((1..count).all(|n| hosts.peers(n) == left), "{}", hosts.log(1));
    // Another node, which knows another one.
    hosts.start(0, port(0), "");
    until("it to be back", || (0..count).all(|n| hosts.peers(n) == left + 1));
}

#[test]
fn on_one_host() {
    meet(Hosts::one(4), 4, Some(29_001), "/ip4/127.0.0.1/udp/29001/quic-v1");
}

#[test]
fn on_a_lan() {
    let hosts = Hosts::new(6, |n| vec![format!("192.168.7.{}/24 dev v{n}", n + 1)]);
    meet(hosts, 6, None, "/ip4/192.168.7.1/udp/4001/quic-v1");
}

#[test]
fn behind_one_slash_16() {
    let hosts = Hosts::new(4, |n| vec![format!("5.6.{n}.1/16 dev v{n}")]);
    meet(hosts, 4, None, "/ip4/5.6.0.1/udp/4001/quic-v1");
}

#[test]
fn by_ipv6_only() {
    let hosts = Hosts::new(4, |n| vec![format!("2600:9:{n}::1/32 dev v{n} nodad")]);
    meet(hosts, 4, None, "/ip6/2600:9:0::1/udp/4001/quic-v1");
}

#[test]
fn dual_stack() {
    let both = |n| {
        vec![format!("192.168.7.{}/24 dev v{n}", n + 1), format!("2600:9:{n}::1/32 dev v{n} nodad")]
    };
    meet(Hosts::new(4, both), 4, None, "/ip6/2600:9:0::1/udp/4001/quic-v1");
}

/// Three nodes, one with both address families and one with each: those without a common family
/// cannot connect, and dials do not wait for addresses without a route.
#[test]
fn dual_stack_meets_single_stack() {
    let some = |n| match n {
        0 => vec!["5.6.0.1/16 dev v0".to_owned(), "2600:9:0::1/32 dev v0 nodad".to_owned()],
        1 | 2 => vec![format!("5.6.{n}.1/16 dev v{n}"), format!("2600:9:{n}::1/32 dev v{n} nodad")],
        _ => vec![format!("5.6.{n}.1/16 dev v{n}")],
    };
    let hosts = Hosts::new(5, some);
    meet(hosts, 5, None, "/ip4/5.6.0.1/udp/4001/quic-v1");
}
