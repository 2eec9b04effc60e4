//! Nodes whose addresses change while they run, or between two runs.

use std::time::Duration;

use super::hosts::Hosts;
use crate::daemon::until;

fn address(host: u8) -> String {
    format!("/ip4/5.6.7.{host}/udp/4001/quic-v1")
}

/// Replaces the address of host `n`.
fn moves(hosts: &mut Hosts, n: usize, from: u8, to: u8) {
    // Removing the first address of a network would remove its others too.
    hosts.shell.run(&format!(
        "ip -n h{n} address del 5.6.7.{from}/24 dev v{n} && ip -n h{n} address add 5.6.7.{to}/24 dev v{n}"
    ));
}

/// Three hosts; the second will move, and the third starts later.
fn hosts() -> Hosts {
    let mut hosts = Hosts::new(3, |n| vec![format!("5.6.7.{}/24 dev v{n}", n + 1)]);
    hosts.start(0, None, "");
    until("the first to be up", || hosts.status(0).is_some());
    hosts.start(1, None, &format!("--bootstrap {}", address(1)));
    until("the second to be there", || hosts.peers(0) == 1);
    hosts
}

/// Regression: after two moves newcomers tried both old addresses first, and reached the node after
/// a minute.
#[test]
fn a_moved_node_is_found_at_its_new_address() {
    let mut hosts = hosts();
    for (from, to) in [(2, 5), (5, 55)] {
        moves(&mut hosts, 1, from, to);
        until("it to notice", || hosts.told(1) == [address(to)]);
        // Connections from the old address end, and come back from the new one.
        until("it to be back", || hosts.peers(0) == 1 && hosts.peers(1) == 1);
    }
    hosts.start(2, None, &format!("--bootstrap {}", address(1)));
    let took = until("a newcomer to meet both", || hosts.peers(2) == 2);
    assert!(took < Duration::from_secs(10), "{took:?}\n{}", hosts.log(2));
}

/// Regression: the sequence number of records started from zero again, so all peers ignored the new
/// address.
#[test]
fn a_node_that_lost_its_store_and_moved_is_found() {
    let mut hosts = hosts();
    for _ in 0..3 {
        hosts.end(1, "TERM");
        hosts.start(1, None, &format!("--bootstrap {}", address(1)));
        until("it to be back", || hosts.peers(0) == 1);
    }
    hosts.end(1, "TERM");
    hosts.lose_store(1);
    moves(&mut hosts, 1, 2, 9);
    hosts.start(1, None, &format!("--bootstrap {}", address(1)));
    until("it to be back", || hosts.peers(0) == 1);
    hosts.start(2, None, &format!("--bootstrap {}", address(1)));
    let took = until("a newcomer to meet both", || hosts.peers(2) == 2);
    assert!(took < Duration::from_secs(10), "{took:?}\n{}", hosts.log(2));
}

/// Regression: a port without a listener was announced, that of the socket for dials without a
/// listener's route.
#[test]
fn only_listening_ports_are_advertised() {
    let both =
        |n| vec![format!("5.6.{n}.1/16 dev v{n}"), format!("2600:9:{n}::1/32 dev v{n} nodad")];
    let mut hosts = Hosts::new(4, both);
    for n in 0..3 {
        hosts.start(n, None, "");
    }
    until("three to be up", || (0..3).all(|n| hosts.status(n).is_some()));
    let three = (0..3).map(|n| format!("--peers /ip4/5.6.{n}.1/udp/4001/quic-v1"));
    let more = three.collect::<Vec<_>>().join(" ");
    hosts.start(3, None, &format!("--listen /ip6/::/udp/4001/quic-v1 {more}"));
    until("it to have all", || hosts.peers(3) == 3);
    assert_eq!(hosts.told(3), ["/ip6/2600:9:3::1/udp/4001/quic-v1"]);
}
