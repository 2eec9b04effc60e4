//! The HTTP API of a running node.

#[allow(dead_code, reason = "each test file needs a part of it")]
mod daemon;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use daemon::{
    Answer, Daemon, address, key, public, string, submit, succeeds, text, tidegate, until,
};
use serde_json::Value;
use tidegate_ledger::{Genesis, SigningKey, Transfer, account};

/// A network of one producer with blocks every 100 ms, and its node.
fn producer(folder: &Path) -> Daemon {
    succeeds(&["init", string(folder), "--slot-ms", "100"]);
    let mut node = Daemon::existing(folder.to_owned());
    node.start(&[]);
    node
}

fn get(node: &Daemon, path: &str) -> Answer {
    node.http(&format!("GET {path} HTTP/1.1\r\nHost: {}", node.api.unwrap()), "")
}

fn post(node: &Daemon, body: &str) -> Answer {
    let host = node.api.unwrap();
    let head =
        format!("POST /v1/transfers HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json");
    node.http(&head, body)
}

/// A transfer of the account that `init` has made.
fn transfer(folder: &Path, nonce: u64, amount: u64) -> Transfer {
    let genesis = std::fs::read_to_string(folder.join("genesis.toml")).unwrap();
    let network = Genesis::from_toml(&genesis).unwrap().network();
    Transfer::new(&network, &rich(folder), account(&key("friend")), amount, 1, nonce)
}

fn rich(folder: &Path) -> SigningKey {
    let text = std::fs::read_to_string(folder.join("account.key")).unwrap();
    SigningKey::from_bytes(&hex::decode(text.trim()).unwrap().try_into().unwrap())
}

/// An error in the common form.
fn is_problem(answer: &Answer, status: u16, detail: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert!(problem["detail"].as_str().unwrap().contains(detail), "{answer:?}");
}

#[test]
fn a_transfer_gets_into_a_block_and_all_of_it_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let node = producer(folder.path());
    let transfer = transfer(folder.path(), 0, 7);
    let body = serde_json::json!({ "transfer": hex::encode(transfer.to_bytes()) }).to_string();
    let submitted = post(&node, &body);
    assert_eq!(submitted.status, 200, "{submitted:?}");
    let id = submitted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(submitted.json()["fate"], "accepted");
    let friend = format!("/v1/accounts/{}", public("friend"));
    until("it is in a block", || get(&node, &friend).json()["balance"] == 7);
    // The ledger knows it before it is durable; a tip is reported when it is.
    let holds = |height: u64| {
        let block = get(&node, &format!("/v1/blocks/{height}")).json();
        block["items"].as_array().unwrap().iter().any(|item| item["id"] == id.as_str())
    };
    until("the block is durable", || (1..=node.height()).any(holds));
    let tip = get(&node, "/v1/tip").json();
    let mut found = None;
    let mut parent = None::<Value>;
    for height in 1..=tip["height"].as_u64().unwrap() {
        let block = get(&node, &format!("/v1/blocks/{height}")).json();
        assert_eq!(block["height"], height);
        assert!(parent.is_none_or(|parent| parent == block["parent"]), "a chain");
        let by_id = get(&node, &format!("/v1/blocks/{}", block["block"].as_str().unwrap()));
        assert_eq!(by_id.json(), block);
        let items = block["items"].as_array().unwrap();
        found = found.or_else(|| items.iter().find(|item| item["id"] == id.as_str()).cloned());
        parent = Some(block["block"].clone());
    }
    let item = found.expect("the transfer");
    assert_eq!(item["pool"], "transfers");
    assert_eq!(item["body"], hex::encode(transfer.to_bytes()));
    is_problem(&post(&node, &body), 409, "nonce 0 is used");
    let status = get(&node, "/v1/status").json();
    assert_eq!(status["network"], "tidegate");
    let genesis = std::fs::read_to_string(folder.path().join("genesis.toml")).unwrap();
    let network = Genesis::from_toml(&genesis).unwrap().network();
    assert_eq!(status["network_id"], hex::encode(network.0));
    let pools = get(&node, "/v1/pools").json();
    assert_eq!(pools[0]["name"], "transfers");
    // A transfer that is not executable yet stays in the pool and can be queried.
    let early = self::transfer(folder.path(), 5, 1);
    submit(folder.path(), &early.to_bytes()).unwrap();
    let items = get(&node, "/v1/pools/transfers/items?limit=1000").json();
    assert_eq!(items.as_array().unwrap().len(), 1);
    assert_eq!(items[0]["executable"], false);
    assert_eq!(items[0]["body"], hex::encode(early.to_bytes()));
    let at = format!("/v1/pools/transfers/items/{}", items[0]["id"].as_str().unwrap());
    let mut item = get(&node, &at).json();
    assert_eq!(item.as_object_mut().unwrap().remove("holders").unwrap(), serde_json::json!([]));
    assert_eq!(item, items[0]);
    is_problem(&get(&node, &format!("/v1/pools/transfers/items/{id}")), 404, "not any more");
    is_problem(&get(&node, "/v1/pools/transfers/items/7"), 400, "64 hex digits");
    is_problem(&get(&node, &at.replace("transfers", "stones")), 404, "there are transfers, works");
}

#[test]
fn a_block_that_is_long_gone_from_memory_is_read_from_the_store() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(&["init", string(folder.path()), "--slot-ms", "10"]);
    let mut node = Daemon::existing(folder.path().to_owned());
    node.start(&[]);
    let body = transfer(folder.path(), 0, 1).to_bytes();
    submit(folder.path(), &body).unwrap();
    // More than a node keeps in memory.
    until("it is old", || node.height() > 600);
    let has_it = |height: u64| {
        let block = get(&node, &format!("/v1/blocks/{height}")).json();
        block["items"].as_array().unwrap().iter().any(|item| item["body"] == hex::encode(&body))
    };
    assert!((1..300).any(has_it), "with its items");
}

#[test]
fn errors_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let node = producer(folder.path());
    is_problem(&get(&node, "/v1/nothing"), 404, "/openapi.json");
    is_problem(&get(&node, "/v1/transfers"), 405, "does not take GET");
    is_problem(&get(&node, "/v1/pools/stones/items"), 404, "there are transfers, works");
    for bad in ["limit=0", "limit=1001", "limit=x", "limit=-1", "more=1"] {
        is_problem(&get(&node, &format!("/v1/pools/works/items?{bad}")), 400, "");
    }
    is_problem(&get(&node, "/v1/blocks/99999999"), 404, "no such block");
    is_problem(&get(&node, &format!("/v1/blocks/{}", "ab".repeat(32))), 404, "no such block");
    for bad in ["x", "-1", "+1", "0x10", "99999999999999999999", "ab"] {
        is_problem(&get(&node, &format!("/v1/blocks/{bad}")), 400, "give a height");
    }
    is_problem(&get(&node, "/v1/accounts/abc"), 400, "64 hex digits");
    is_problem(&post(&node, "{}"), 422, "transfer");
    is_problem(&post(&node, "{"), 400, "");
    is_problem(&post(&node, r#"{"transfer":"xyz"}"#), 400, "not in hex");
    is_problem(&post(&node, r#"{"transfer":"00"}"#), 400, "152 bytes, not 1");
    let unsigned = format!("{{\"transfer\":\"{}\"}}", "00".repeat(Transfer::SIZE));
    is_problem(&post(&node, &unsigned), 403, "its sender has signed");
    // Regression: one text for all of these sent users looking in the wrong place.
    let submit = |nonce, amount| {
        let transfer = transfer(folder.path(), nonce, amount).to_bytes();
        post(&node, &serde_json::json!({ "transfer": hex::encode(transfer) }).to_string())
    };
    is_problem(&submit(0, u64::MAX / 2), 409, "together, and the sender has 1000000000000 at");
    is_problem(&submit(0, u64::MAX), 409, "more than there can be");
    is_problem(&submit(64, 1), 409, "too far ahead: the sender's next is 0, and below 64 may wait");
    assert_eq!(submit(0, 1).status, 200);
    until("it is in a block", || {
        let used = submit(0, 2);
        used.status == 409 && used.body.contains("nonce 0 is used: the sender's next is 1")
    });
    let at =
        node.http(&format!("POST /v1/transfers HTTP/1.1\r\nHost: {}", node.api.unwrap()), "{}");
    is_problem(&at, 415, "application/json");
    // At the limit, and exceeded by one.
    let submission = |bytes: usize| format!("{{\"transfer\":\"{}\"}}", "0".repeat(bytes - 15));
    is_problem(&post(&node, &submission(128 << 10)), 400, "");
    is_problem(&post(&node, &submission((128 << 10) + 1)), 413, "");
    node_is_well(&node);
}

fn node_is_well(node: &Daemon) {
    assert_eq!(get(node, "/health").status, 204);
    let ready = get(node, "/ready");
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)), "{ready:?}");
}

#[test]
fn readiness_waits_for_peers() {
    let folder = tempfile::tempdir().unwrap();
    let first = producer(&folder.path().join("first"));
    let genesis = folder.path().join("first/genesis.toml");
    let mut second = Daemon::new(folder.path().join("second"), &genesis, "");
    let nowhere = address(daemon::free_port());
    second.start(&["--bootstrap", &nowhere]);
    let ready = get(&second, "/ready");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("no peer is connected"), "{ready:?}");
    assert_eq!(get(&second, "/health").status, 204, "it is alive all the same");
    second.stop("-TERM");
    second.start(&["--bootstrap", &address(first.port)]);
    until("it is ready", || get(&second, "/ready").status == 200);
    until("the other side has it too", || first.peers() == 1);
    let peers = get(&first, "/v1/peers").json();
    let peer = &peers["connected"][0];
    assert_eq!(peer["peer"], second.status()["peer_id"]);
    assert_eq!(peer["inbound"], true);
    let pools = peer["permits"].as_array().unwrap().iter().map(|permits| permits["pool"].clone());
    assert_eq!(pools.collect::<Vec<_>>(), ["transfers", "works"]);
    // Control, tip, rpc, blocks, two pools, peers, signals.
    assert_eq!(peer["channels"].as_array().unwrap().len(), 8);
    assert_eq!(peers["banned"].as_array().unwrap().len(), 0);
}

/// Reads a stream of events until one with this name.
fn event(lines: &mut impl Iterator<Item = std::io::Result<String>>, name: &str) -> (String, Value) {
    let (mut id, mut found) = (String::new(), false);
    for line in lines {
        let line = line.unwrap();
        if let Some(new) = line.strip_prefix("id: ") {
            id = new.to_owned();
        }
        found |= line == format!("event: {name}");
        if let (true, Some(data)) = (found, line.strip_prefix("data: ")) {
            // The id may come before or after the data.
            return (id, serde_json::from_str(data).unwrap());
        }
    }
    panic!("the stream ends without {name}");
}

fn listen(node: &Daemon, more: &str) -> impl Iterator<Item = std::io::Result<String>> + use<> {
    let at = node.api.unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET /v1/events HTTP/1.1\r\nHost: {at}\r\n{more}\r\n").unwrap();
    BufReader::new(stream).lines()
}

#[test]
fn events_are_streamed_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = producer(folder.path());
    let mut lines = listen(&node, "");
    let (id, tip) = event(&mut lines, "tip_changed");
    drop(lines);
    let height = tip["height"].as_u64().unwrap();
    until("time has passed", || node.height() > height + 3);
    let mut lines = listen(&node, &format!("Last-Event-ID: {id}\r\n"));
    for next in 1..=3 {
        assert_eq!(event(&mut lines, "tip_changed").1["height"], height + next);
    }
    node.stop("-TERM");
    node.start(&[]);
    let mut lines = listen(&node, &format!("Last-Event-ID: {id}\r\n"));
    assert_eq!(event(&mut lines, "missed").1["count"], Value::Null, "another process");
}

#[test]
fn metrics_are_in_the_form_of_openmetrics() {
    let folder = tempfile::tempdir().unwrap();
    let node = producer(folder.path());
    until("there are blocks", || node.height() > 2);
    let metrics = get(&node, "/metrics");
    assert!(metrics.head.contains("application/openmetrics-text; version=1.0.0"), "{metrics:?}");
    assert!(metrics.body.ends_with("# EOF\n"));
    let value = |name: &str| {
        let line = metrics.body.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|value| value.parse::<f64>().ok())
    };
    assert!(value("tidegate_height").unwrap() > 2.0, "{}", metrics.body);
    assert_eq!(value("tidegate_peers{direction=\"in\"}"), Some(0.0));
    assert_eq!(value("tidegate_pool_items{pool=\"transfers\"}"), Some(0.0));
    assert_eq!(value("tidegate_internal_errors_total"), Some(0.0));
    assert_eq!(value("tidegate_refusals_total{by=\"us\",reason=\"busy\"}"), Some(0.0));
    for line in metrics.body.lines().filter(|line| line.starts_with("# HELP")) {
        assert!(line.ends_with('.'), "{line}");
    }
}

#[test]
fn strangers_need_the_token() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(&["init", string(folder.path())]);
    let mut node = Daemon::existing(folder.path().to_owned());
    node.start(&["--api", "0.0.0.0:0"]);
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], node.api.unwrap().port()));
    node.api = Some(at);
    is_problem(&get(&node, "/v1/status"), 401, "api.token");
    assert_eq!(get(&node, "/health").status, 204);
    let token = std::fs::read_to_string(folder.path().join("api.token")).unwrap();
    let head = |more: &str| {
        let token = token.trim();
        format!("GET /v1/status HTTP/1.1\r\nHost: a.b\r\nAuthorization: Bearer {token}{more}")
    };
    assert_eq!(node.http(&head(""), "").status, 200);
    let page = node.http(&head("\r\nOrigin: http://example.org"), "");
    is_problem(&page, 403, "pages of other sites");
    // A refused client must not keep its connection, even if it wants to.
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(daemon::PATIENCE)).unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: a.b\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the node closes the connection");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    // The node's other commands need no token.
    assert_eq!(node.status()["height"], node.get("/v1/tip")["height"]);
}

#[test]
fn an_address_that_is_taken_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let node = producer(&folder.path().join("a"));
    let api = node.api.unwrap().to_string();
    succeeds(&["init", string(&folder.path().join("b"))]);
    let run = |more: &[&str]| {
        let folder = folder.path().join("b");
        let listen = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
        let mut command = tidegate();
        command.args(["run", "--folder", string(&folder)]).args(listen).args(more);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr).to_owned()
    };
    let taken = run(&["--api", &api]);
    assert!(
        taken.contains(&api) && taken.contains("--api") && taken.lines().count() == 1,
        "{taken}"
    );
    assert!(run(&["--api", "localhost"]).contains("127.0.0.1:4080, or off"));
    assert!(!folder.path().join("b/store").exists(), "untouched");
}

/// Clients that send nothing, too much, nonsense, or listen without reading.
#[test]
fn hostile_clients_leave_the_node_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let node = producer(folder.path());
    let at = node.api.unwrap();
    let connect = || TcpStream::connect(at).unwrap();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = resident();
    // Endless headers, many headers, a body that never comes, not HTTP at all.
    let endless = format!("GET / HTTP/1.1\r\nHost: {at}\r\nX: {}", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: {at}\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let noise = "\u{1}\u{2}\u{3}".repeat(1000);
    let body =
        format!("POST /v1/transfers HTTP/1.1\r\nHost: {at}\r\nContent-Length: 99999999999\r\n\r\n");
    for text in [&endless, &many, &noise, &body] {
        for _ in 0..20 {
            let mut stream = connect();
            // The server may close the connection in the middle.
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
            let _ = stream.read(&mut [0; 1024]);
        }
    }
    assert_eq!(get(&node, "/health").status, 204);
    // Listeners that do not read, one more than allowed.
    let silent = (0..17).map(|_| {
        let mut stream = connect();
        write!(stream, "GET /v1/events HTTP/1.1\r\nHost: {at}\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        (text(&first)[9..].parse::<u16>().unwrap(), stream)
    });
    let silent = silent.collect::<Vec<_>>();
    let refused = silent.iter().filter(|(status, _)| *status == 503).count();
    assert_eq!((silent[0].0, refused), (200, 1));
    let height = node.height();
    until("the node goes on", || node.height() > height + 20);
    // All places are taken by silent clients: the node's own commands have separate ones.
    let idle = (0..200).map(|_| connect()).collect::<Vec<_>>();
    assert!(node.height() > 0);
    drop((idle, silent));
    until("there is room again", || get(&node, "/health").status == 204);
    // The same with clients that send one request after the other and read nothing: only for a
    // while.
    let status = format!("GET /v1/status HTTP/1.1\r\nHost: {at}\r\n\r\n").repeat(100);
    let greedy = (0..64).map(|_| {
        let mut stream = connect();
        stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        while stream.write_all(status.as_bytes()).is_ok() {}
        stream
    });
    let greedy = greedy.collect::<Vec<_>>();
    until("they have lost their places", || get(&node, "/health").status == 204);
    drop(greedy);
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more than {before}");
}

/// The document in the repository must be the one that the code generates.
#[test]
fn the_document_is_up_to_date() {
    let printed = succeeds(&["openapi"]);
    let checked_in = include_str!("../openapi.json");
    let how = "cargo run -p tidegate-cli -- openapi > crates/tidegate-cli/openapi.json";
    assert!(text(&printed.stdout) == checked_in, "make it anew: {how}");
}
