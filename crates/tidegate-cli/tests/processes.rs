//! Nodes as processes: killed, stopped, restarted.

#[allow(dead_code, reason = "each test file needs a part of it")]
mod daemon;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use daemon::{
    Daemon, address, free_port, key, key_file, nonce as nonce_of, public, string, submit, succeeds,
    text, until,
};
use tidegate_ledger::{Genesis, Transfer, WorkRules, account};

/// A network of these producers, five blocks a second, and its genesis file.
fn network(folder: &Path, producers: &[&str]) -> (Genesis, std::path::PathBuf) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let genesis = Genesis {
        name: "processes".into(),
        start_ms: now.as_millis() as u64,
        slot_ms: 200,
        producers: producers.iter().map(|name| public(name)).collect(),
        accounts: [(public("rich"), 1_000_000_000)].into(),
        work: WorkRules::default(),
    };
    let path = folder.join("genesis.toml");
    std::fs::write(&path, genesis.to_toml()).unwrap();
    (genesis, path)
}

/// Publishes transfers at a node, one after the other, and counts those that were reported as
/// accepted. A transfer without an answer is submitted again.
struct Load<'a> {
    genesis: &'a Genesis,
    accepted: AtomicU64,
    stop: AtomicBool,
}

impl Load<'_> {
    fn run(&self, at: &Path) {
        let (from, to) = (key("rich"), account(&key("poor")));
        while !self.stop.load(Ordering::Relaxed) {
            let nonce = self.accepted.load(Ordering::Relaxed);
            let transfer = Transfer::new(&self.genesis.network(), &from, to, 1, 1, nonce);
            match submit(at, &transfer.to_bytes()) {
                Ok(_) => drop(self.accepted.fetch_add(1, Ordering::Relaxed)),
                Err(_) => {
                    // It may have been accepted without an answer, or be too early, or the node may
                    // be down.
                    let next = nonce_of(at, &public("rich"));
                    if next.is_some_and(|next| next > nonce) {
                        self.accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// A number below `below`, from a sequence that is the same in every run.
fn random(n: u64, below: u64) -> u64 {
    let hash = blake3::hash(&n.to_be_bytes());
    u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap()) % below
}

#[test]
fn reported_blocks_and_items_survive_twenty_kills() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (genesis, file) = network(folder, &["a", "b", "c"]);
    let mut first = Daemon::new(folder.join("first"), &file, "");
    first.start(&[]);
    let bootstrap = format!("bootstrap = [{:?}]\n", address(first.port));
    let mut nodes = ["a", "b", "c"].map(|name| {
        let config = format!("{bootstrap}producer_key = {:?}\n", key_file(folder, name));
        Daemon::new(folder.join(name), &file, &config)
    });
    nodes.iter_mut().for_each(|node| node.start(&[]));
    until("all know each other", || nodes.iter().all(|node| node.peers() == 3));
    // The address book is saved within seconds.
    until("the books are kept", || {
        nodes.iter().all(|node| node.status()["store_backlog"] == 0 && node.height() > 15)
    });
    // They work without the bootstrap node.
    first.kill();
    let [a, b, victim] = &mut nodes;
    let load =
        Load { genesis: &genesis, accepted: AtomicU64::new(0), stop: AtomicBool::new(false) };
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        let place = victim.folder.clone();
        scope.spawn(|| load.run(&{ place }));
        for round in 0..20 {
            std::thread::sleep(Duration::from_millis(200 + random(round, 800)));
            let reported = victim.height();
            victim.kill();
            let since = Instant::now();
            victim.start(&[]);
            assert!(victim.height() >= reported, "round {round}: a tip that was reported is lost");
            until("it is back", || victim.peers() == 2);
            slowest = slowest.max(since.elapsed());
        }
        load.stop.store(true, Ordering::Relaxed);
    });
    println!("back within {slowest:?}; {} transfers", load.accepted.load(Ordering::Relaxed));
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    // Every transfer that was reported as accepted gets into a block, and all nodes agree on it.
    let accepted = load.accepted.load(Ordering::Relaxed);
    assert!(accepted > 200, "{accepted}");
    let nonce = |node: &Daemon| nonce_of(&node.folder, &public("rich"));
    until("all transfers are in blocks", || {
        [&*a, &*b, &*victim].iter().all(|node| nonce(node) >= Some(accepted))
    });
}

#[test]
fn a_node_says_goodbye_when_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (_, file) = network(folder.path(), &["a"]);
    let mut a = Daemon::new(folder.path().join("a"), &file, "");
    a.start(&[]);
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut b = Daemon::new(folder.path().join(signal), &file, "");
        b.start(&["--bootstrap", &address(a.port)]);
        until("they meet", || a.peers() == 1);
        let (code, took) = b.stop(signal);
        assert_eq!(code, Some(0), "{}", b.log());
        assert!(took < Duration::from_secs(10), "{took:?}");
        until("it is gone", || a.peers() == 0);
        assert!(!b.folder.join("control.sock").exists());
    }
    assert_eq!(a.log().matches("the peer ended it: shutting down").count(), 3, "{}", a.log());
}

/// A network without UDP: the nodes know each other's TCP addresses only.
#[test]
fn nodes_meet_and_agree_over_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("net");
    succeeds(&["init", string(&place), "--slot-ms", "200"]);
    let file = place.join("genesis.toml");
    let over_tcp = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}/tls");
    let mut a = Daemon::existing(place);
    let at = over_tcp(free_port());
    a.start(&["--listen", &at]);
    let addresses = a.status()["addresses"].to_string();
    assert!(addresses.contains(&at), "{addresses}");
    let mut b = Daemon::new(folder.path().join("b"), &file, "");
    b.start(&["--bootstrap", &at]);
    until("they meet", || a.peers() == 1 && b.peers() == 1);
    until("blocks arrive", || b.height() >= 3);
    assert_eq!(b.stop("-TERM").0, Some(0), "{}", b.log());
    until("it is gone", || a.peers() == 0);
}

/// Two nodes that listen nowhere meet by way of one that does, and go on when that one is killed.
#[test]
fn nodes_that_nobody_can_dial_meet_and_go_on_without_the_one_they_met_by() {
    let folder = tempfile::tempdir().unwrap();
    let (_, file) = network(folder.path(), &["b", "c"]);
    let mut seed = Daemon::new(folder.path().join("seed"), &file, "");
    let at = address(free_port());
    seed.start(&["--listen", &at]);
    let nowhere = |name: &str| {
        let key = key_file(folder.path(), name);
        let config = format!("listen = []\nbootstrap = [{at:?}]\nproducer_key = {key:?}\n");
        Daemon::new(folder.path().join(name), &file, &config)
    };
    let [mut b, mut c] = ["b", "c"].map(nowhere);
    b.start(&[]);
    c.start(&[]);
    let over_webrtc = |node: &Daemon| {
        let peers = node.get("/v1/peers");
        let peers = peers["connected"].as_array().unwrap();
        peers.iter().filter(|peer| peer["transport"] == "webrtc").count()
    };
    until("they meet", || over_webrtc(&b) == 1 && over_webrtc(&c) == 1);
    assert_eq!((b.peers(), c.peers(), over_webrtc(&seed)), (2, 2, 0));
    seed.kill();
    let height = b.height().max(c.height());
    until("both go on", || b.height() > height + 4 && c.height() > height + 4);
    assert_eq!((over_webrtc(&b), over_webrtc(&c)), (1, 1));
}

/// Regression: the terminal stayed in raw mode, on the alternate screen.
#[test]
#[cfg(target_os = "linux")]
fn top_puts_the_terminal_in_order_when_it_is_told_to_stop() {
    use std::io::{BufRead as _, BufReader, Read as _};
    let folder = tempfile::tempdir().unwrap();
    let (_, file) = network(folder.path(), &["a"]);
    let mut a = Daemon::new(folder.path().join("a"), &file, "");
    a.start(&[]);
    let top = format!("echo pid $$; exec {} top", env!("CARGO_BIN_EXE_tidegate"));
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &top, "/dev/null"]).env("TIDEGATE_FOLDER", &a.folder);
        script.env("TERM", "xterm").stdin(std::process::Stdio::piped());
        let mut script = script.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut shown = BufReader::new(script.stdout.take().unwrap());
        let mut first = String::new();
        shown.read_line(&mut first).unwrap();
        let pid = first.trim().strip_prefix("pid ").expect("the shell says it").to_owned();
        // It is running once it has switched to the alternate screen.
        let mut before = Vec::new();
        while !before.ends_with(b"\x1b[?1049h") {
            let mut byte = [0];
            shown.read_exact(&mut byte).unwrap();
            before.extend(byte);
        }
        let kill = std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(kill.success());
        let mut rest = Vec::new();
        shown.read_to_end(&mut rest).unwrap();
        let back = b"\x1b[?1049l";
        assert!(rest.windows(back.len()).any(|part| part == back), "{signal}");
        assert_eq!(script.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn an_ephemeral_node_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_, file) = network(folder.path(), &["a"]);
    let mut a = Daemon::new(folder.path().join("a"), &file, "");
    a.start(&[]);
    let mut b = Daemon::new(folder.path().join("b"), &file, "");
    std::fs::remove_file(b.folder.join("node.key")).unwrap();
    let record = folder.path().join("run");
    b.start(&["--ephemeral-identity", "--peers", &address(a.port), "--record", string(&record)]);
    until("they meet", || a.peers() == 1);
    assert_eq!(b.stop("-TERM").0, Some(0), "{}", b.log());
    let files = std::fs::read_dir(&b.folder).unwrap().map(|file| file.unwrap().file_name());
    let mut files = files.map(|name| name.into_string().unwrap()).collect::<Vec<_>>();
    files.sort();
    assert_eq!(files, ["genesis.toml", "log", "tidegate.toml"]);
    let replayed = succeeds(&["replay", string(&record)]);
    assert!(text(&replayed.stdout).contains("the same as recorded"));
}

#[test]
fn a_new_folder_is_a_network_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("net");
    succeeds(&["init", string(&place), "--slot-ms", "200"]);
    let mut node = Daemon::existing(place);
    node.start(&[]);
    until("it makes blocks", || node.height() >= 3);
    let made = succeeds(&["keygen", string(&folder.path().join("friend.key"))]);
    let friend = text(&made.stdout).split_whitespace().nth(2).unwrap().to_owned();
    let at = ["--folder", string(&node.folder)];
    // One after the other, whatever is in a block by then.
    for amount in ["7", "7", "30"] {
        let submit = ["submit", "--to", &friend, "--amount", amount];
        let submitted = succeeds(&[&submit, &at[..]].concat());
        assert!(text(&submitted.stdout).starts_with("accepted "));
    }
    let balance = || node.get(&format!("/v1/accounts/{friend}"))["balance"].clone();
    until("all are in blocks", || balance() == 44);
    let status = succeeds(&[&["status"], &at[..]].concat());
    assert!(text(&status.stdout).contains("pool      transfers: 0 items"));
    let peers = succeeds(&[&["peers", "--json"], &at[..]].concat());
    let peers = serde_json::from_slice::<serde_json::Value>(&peers.stdout).unwrap();
    assert_eq!(peers, serde_json::json!({ "connected": [], "banned": [] }));
}
