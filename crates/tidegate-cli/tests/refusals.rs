//! Bad input gives one line that says what is wrong and what to do, and exit code 2; nothing is
//! changed.

#[allow(dead_code, reason = "each test file needs a part of it")]
mod daemon;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use daemon::{Daemon, address, string, succeeds, text, tidegate, until};

/// All files in a folder that belong to the node.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.file_name().is_some_and(|name| name != "log") {
            files.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
        }
    }
    files
}

fn is_refused(output: &Output, message: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(message), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "one line: {said}");
}

/// A run that must be refused, without changing the folder.
fn refuses(folder: &Path, arguments: &[&str], message: &str) {
    let before = files(folder);
    let mut command = tidegate();
    command.env("TIDEGATE_LOG", "warn").args(["run", "--folder", string(folder)]);
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    }
    is_refused(&command.args(arguments).output().unwrap(), message);
    assert_eq!(files(folder), before, "untouched");
}

/// A node that has run before, so that its store is not empty.
fn ran(folder: &Path) -> Daemon {
    succeeds(&["init", string(folder), "--slot-ms", "100"]);
    let mut node = Daemon::existing(folder.to_owned());
    node.start(&[]);
    until("it makes blocks", || node.height() >= 3);
    assert_eq!(node.stop("-TERM").0, Some(0), "{}", node.log());
    node
}

#[test]
fn invalid_configurations_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ran(folder);
    let config = folder.join("tidegate.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    for (line, message) in [
        ("lisen = []\n", "lisen"),
        ("outbound = \"many\"\n", "line 2"),
        ("listen = [\"localhost:4001\"]\n", "line 2"),
        ("= 3\n", "line 2"),
    ] {
        std::fs::write(&config, format!("{good}{line}")).unwrap();
        refuses(folder, &[], message);
    }
    std::fs::write(&config, &good).unwrap();
    refuses(folder, &["--listen", "/ip4/127.0.0.1/tcp/1"], "no transport of this node");
    refuses(folder, &["--bootstrap", "/ip4/127.0.0.1/tcp/1"], "tcp/1: cannot be dialed");
    refuses(folder, &["--peers", "/ip4/0.0.0.0/udp/1/quic-v1"], "cannot be dialed");
    refuses(folder, &["--peers", "/ip4/224.0.0.1/udp/1/quic-v1"], "cannot be dialed");
    let other = "12D3KooWJK9xDuTBbZuRSbVcvqCjcxFKshgHYZWZ9xivY8eV377c";
    for (external, why) in [
        ("/ip4/8.8.8.8", "no transport"),
        ("/ip4/8.8.8.8/tcp/4001", "no transport"),
        ("/ip4/8.8.8.8/udp/0/quic-v1", "port 0"),
        ("/ip4/0.0.0.0/udp/4001/quic-v1", "nobody can be dialed"),
        ("/ip4/224.0.0.1/udp/4001/quic-v1", "nobody can be dialed"),
        ("/dns4/example.org/udp/4001/quic-v1", "not told names"),
        (&format!("/ip4/8.8.8.8/udp/4001/quic-v1/p2p/{other}"), "another peer"),
    ] {
        refuses(folder, &["--external", external], &format!("external {external}: "));
        refuses(folder, &["--external", external], why);
    }
    refuses(folder, &["--producer-key", "missing.key"], "missing.key");
    refuses(folder, &["--workers", "0"], "workers: at least one");
    refuses(folder, &["--workers", "1025"], "workers is 1025: it must be at most 1024");
    refuses(folder, &["--max-inbound", "65537"], "max_inbound is 65537: it must be at most 65536");
    refuses(folder, &["--outbound", "65537"], "outbound is 65537: it must be at most 65536");
    let nowhere = folder.join("nowhere");
    let output = tidegate().args(["run", "--folder", string(&nowhere)]).output().unwrap();
    is_refused(&output, "tidegate init");
    let output = tidegate().args(["keygen", string(&folder.join("node.key"))]).output().unwrap();
    is_refused(&output, "File exists");
    assert_eq!(text(&output.stderr).matches("File exists").count(), 1);
    // Errors of the flags' own parsers.
    let output = tidegate().args(["run", "--listen", "1.2.3.4"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("1.2.3.4"));
    let mut command = tidegate();
    command.env("TIDEGATE_PEERS", "nowhere").args(["run", "--folder", string(folder)]);
    is_refused(&command.output().unwrap(), "TIDEGATE_PEERS=nowhere");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let folder = tempfile::tempdir().unwrap();
    ran(folder.path());
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = address(taken.local_addr().unwrap().port());
    refuses(folder.path(), &["--listen", &listen], &listen);
}

#[test]
fn a_folder_that_is_in_use_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = ran(folder.path());
    node.start(&[]);
    let args =
        ["run", "--folder", string(folder.path()), "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let run = |more: &[&str]| tidegate().args(args).args(more).output().unwrap();
    is_refused(&run(&[]), "another process answers here");
    is_refused(&run(&["--control", "other.sock"]), "this store is open already");
    assert!(node.height() >= 3, "the first one goes on");
}

#[test]
fn the_store_of_another_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
    ran(&ours);
    succeeds(&["init", string(&theirs)]);
    let genesis = ours.join("genesis.toml");
    let good = std::fs::read_to_string(&genesis).unwrap();
    std::fs::copy(theirs.join("genesis.toml"), &genesis).unwrap();
    refuses(&ours, &[], "a store of another network");
    // An invalid genesis, and a missing one.
    std::fs::write(&genesis, good.replace("slot_ms = 100", "slot_ms = 0")).unwrap();
    refuses(&ours, &[], "slot_ms is 0");
    std::fs::write(&genesis, "nothing of the kind").unwrap();
    refuses(&ours, &[], "genesis.toml: ");
    std::fs::remove_file(&genesis).unwrap();
    refuses(&ours, &[], "tidegate init");
    // With its own genesis it runs.
    std::fs::write(&genesis, good).unwrap();
    let mut node = Daemon::existing(ours);
    node.start(&[]);
    assert!(node.height() >= 3);
}

#[test]
fn a_store_that_cannot_be_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ran(folder);
    let store = folder.join("store");
    let good = files(&store);
    let put_back = || good.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    std::fs::write(store.join("store.redb"), vec![7; 100_000]).unwrap();
    refuses(folder, &[], "not a store that can be read");
    put_back();
    let note = String::from_utf8(good[&store.join("store.note")].clone()).unwrap();
    std::fs::write(store.join("store.note"), note.replace("schema 2", "schema 3")).unwrap();
    refuses(folder, &[], "use a newer version");
    std::fs::write(store.join("store.note"), note.replace("schema 2", "schema 1")).unwrap();
    refuses(folder, &[], "start anew");
    std::fs::write(store.join("store.note"), note.replace("schema 2", "schema 0")).unwrap();
    refuses(folder, &[], "store.note is none");
    put_back();
    std::fs::remove_file(store.join("store.note")).unwrap();
    refuses(folder, &[], "store.note is missing");
    put_back();
    let key = folder.join("node.key");
    Command::new("chmod").args(["644", string(&key)]).status().unwrap();
    refuses(folder, &[], "others can read this key");
}

/// Limits the size of files: for the node that looks like a full disk.
fn run_with_room_for(kib: u64, folder: &Path) -> Output {
    let run = format!(
        "trap '' XFSZ; ulimit -f {kib}; exec {} run --folder {} --listen {}",
        env!("CARGO_BIN_EXE_tidegate"),
        string(folder),
        "/ip4/127.0.0.1/udp/0/quic-v1"
    );
    // bash counts in KiB; other shells differ.
    let mut command = Command::new("bash");
    command.env("TIDEGATE_LOG", "off").env("TIDEGATE_API", "off");
    command.args(["-c", &run]).output().unwrap()
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(&["init", string(folder), "--slot-ms", "100"]);
    // Not even an empty store fits.
    is_refused(&run_with_room_for(16, folder), "store");
    let mut node = ran(&folder.join("node"));
    let store = node.folder.join("store");
    // Less than the current size: it cannot even be opened for writing.
    let size = std::fs::metadata(store.join("store.redb")).unwrap().len();
    is_refused(&run_with_room_for(size / 2048, &node.folder), "store.redb");
    node.start(&[]);
    assert!(node.height() >= 3, "what was kept is there");
}

/// Regression: a typing error destroyed a key.
#[test]
fn a_file_that_is_no_socket_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ran(folder);
    let key = folder.join("node.key");
    let before = std::fs::read(&key).unwrap();
    refuses(folder, &["--control", string(&key)], "this is no socket, and stays as it is");
    assert_eq!(std::fs::read(&key).unwrap(), before);
}
