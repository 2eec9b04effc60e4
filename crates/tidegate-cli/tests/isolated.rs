//! By default a node contacts nobody: tried in a network of its own, where every packet counts.

#[allow(dead_code, reason = "each test file needs a part of it")]
mod daemon;

use std::path::Path;
use std::process::{Command, Output};

use daemon::{string, succeeds, text};

/// A cable that leads out, and nobody at its end. Then a node makes 30 blocks, and what left
/// through the cable is printed.
const SCRIPT: &str = r#"
set -eu
for all in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > "$all"; done
ip link set lo up
ip link add out type veth peer name end
ip address add 192.0.2.2/24 dev out
ip link set out up
ip link set end up
ip route add default via 192.0.2.1
cd "$1"
"$TIDEGATE" run $MORE --folder . > run.out 2> run.err &
height=0
while [ "$height" -lt 30 ]; do
    kill -0 $! || { cat run.err >&2; exit 1; }
    height=$("$TIDEGATE" status --folder . 2> /dev/null | sed -n 's/^height *\([0-9]*\).*/\1/p')
    height=${height:-0}
done
kill $!
wait $!
# Received bytes and packets are columns 2 and 3, sent packets column 11.
sed -n 's/^ *out://p' /proc/net/dev | tr -s ' ' | cut -d ' ' -f 11
"#;

/// Runs a node in a namespace without network: how many packets it sent outwards.
fn sent(folder: &Path, more: &str) -> u64 {
    succeeds(&["init", string(folder), "--slot-ms", "100"]);
    let output = isolated(SCRIPT, folder, more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().parse().unwrap()
}

fn isolated(script: &str, folder: &Path, more: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "sh", "-c", script, "sh", string(folder)]);
    command.env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate")).env("MORE", more);
    command.output().expect("unshare of util-linux")
}

#[test]
fn nobody_is_contacted_who_is_not_named() {
    let folder = tempfile::tempdir().unwrap();
    let possible = isolated("ip link add out type veth peer name end", folder.path(), "");
    if !possible.status.success() {
        // In some containers there are no namespaces to be had.
        eprintln!("NOT CHECKED: no network namespaces here: {}", text(&possible.stderr));
        return;
    }
    assert_eq!(sent(&folder.path().join("alone"), ""), 0, "packets");
    // The same way of looking sees one who is named.
    let named = "--bootstrap /ip4/192.0.2.1/udp/4001/quic-v1";
    assert!(sent(&folder.path().join("named"), named) > 0);
}
