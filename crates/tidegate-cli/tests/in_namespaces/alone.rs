//! By default a node contacts no other host: checked in a network of its own, where every packet
//! counts.

use std::time::Instant;

use super::hosts::Shell;
use crate::daemon::{PATIENCE, get, string, succeeds};

/// Runs a node in a network with an uplink that leads nowhere, until it has made 30 blocks; returns
/// how many packets left by the uplink.
fn sent(more: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    succeeds(&["init", string(folder.path()), "--slot-ms", "100"]);
    let mut shell = Shell::new();
    // The system itself greets its neighbours by IPv6.
    shell.run("for all in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > \"$all\"; done");
    shell.run("ip link add out type veth peer name end");
    shell.run("ip address add 192.0.2.2/24 dev out");
    shell.run("ip link set out up && ip link set end up && ip route add default via 192.0.2.1");
    let path = string(folder.path());
    shell.run(&format!("\"$TIDEGATE\" run {more} --api off --folder {path} > {path}/log 2>&1 &"));
    let since = Instant::now();
    while get(folder.path(), "/v1/status").map_or(0, |status| status["height"].as_u64().unwrap())
        < 30
    {
        let log = || std::fs::read_to_string(folder.path().join("log"));
        assert!(since.elapsed() < PATIENCE, "{:?}", log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    shell.run("kill $! && wait $!");
    // Received bytes and packets are columns 2 and 3, sent packets column 11.
    let packets = "sed -n 's/^ *out://p' /proc/net/dev | tr -s ' ' | cut -d ' ' -f 11";
    shell.run(packets).parse().unwrap()
}

#[test]
fn only_named_hosts_are_contacted() {
    assert_eq!(sent(""), 0, "packets");
    // The same check detects a peer that is named.
    assert!(sent("--bootstrap /ip4/192.0.2.1/udp/4001/quic-v1") > 0);
}
