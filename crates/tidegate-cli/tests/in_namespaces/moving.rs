//! Nodes whose addresses change while they run, or while they do not.

use std::time::Duration;

use super::hosts::Hosts;
use crate::daemon::until;

fn address(host: u8) -> String {
    format!("/ip4/5.6.7.{host}/udp/4001/quic-v1")
}

/// Host `n` has this address in place of another.
fn moves(hosts: &mut Hosts, n: usize, from: u8, to: u8) {
    // With the first address of a network its others would go too.
    hosts.shell.run(&format!(
        "ip -n h{n} address del 5.6.7.{from}/24 dev v{n} && ip -n h{n} address add 5.6.7.{to}/24 dev v{n}"
    ));
}

/// Three hosts, of which the second will move and the third come later.
fn hosts() -> Hosts {
    let mut hosts = Hosts::new(3, |n| vec![format!("5.6.7.{}/24 dev v{n}", n + 1)]);
    hosts.start(0, None, "");
    until("the first to be up", || hosts.status(0).is_some());
    hosts.start(1, None, &format!("--bootstrap {}", address(1)));
    until("the second to be there", || hosts.peers(0) == 1);
    hosts
}

/// After two moves newcomers tried both old addresses first, and came to the node after a minute.
#[test]
fn a_moved_node_is_found_at_its_new_address() {
    let mut hosts = hosts();
    for (from, to) in [(2, 5), (5, 55)] {
        moves(&mut hosts, 1, from, to);
        until("it to notice", || hosts.told(1) == [address(to)]);
        // What was connected from the old address ends, and it comes back from the new one.
        until("it to be back", || hosts.peers(0) == 1 && hosts.peers(1) == 1);
    }
    hosts.start(2, None, &format!("--bootstrap {}", address(1)));
    let took = until("a newcomer to meet both", || hosts.peers(2) == 2);
    assert!(took < Duration::from_secs(10), "{took:?}\n{}", hosts.log(2));
}

/// The number of the record started from zero, so everybody ignored the new address.
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

/// A port at which nobody listens was told: that of the socket that dials where no listener reaches.
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
