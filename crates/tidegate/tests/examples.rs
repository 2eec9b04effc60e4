//! The examples, run as described in their first lines.
#![cfg(feature = "quic")]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running example, and its output.
struct Example {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Cargo builds examples along with all tests, beside their folder; with `--test examples` alone it
/// does not.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(program.exists(), "cargo build -p tidegate --examples");
    program
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program(name));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The first line that contains a text.
    fn until<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        self.lines.find_map(|line| find(&line.unwrap())).expect("it goes on")
    }

    fn says(&mut self, text: &str) {
        self.until(|line| line.contains(text).then_some(()));
    }

    fn say(&mut self, text: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{text}").unwrap();
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_minimal_nodes_meet() {
    let mut first = Example::start("minimal", &[]);
    let address = first.until(|line| line.strip_prefix("listening on ").map(str::to_owned));
    let mut second = Example::start("minimal", &[&address]);
    first.says("PeerConnected");
    second.says("PeerConnected");
    // Its own note, and that of the other.
    second.says("ItemAdded");
}

#[test]
fn three_chat() {
    let mut ann = Example::start("chat", &["Ann"]);
    let here = |any: &str| any.replace("/0.0.0.0/", "/127.0.0.1/");
    let address = ann.until(|line| line.strip_prefix("* chat NAME ").map(here));
    ann.say("high tide at nine");
    ann.says("Ann: high tide at nine");
    // A newcomer gets it too.
    let mut bob = Example::start("chat", &["Bob", &address]);
    bob.says("Ann: high tide at nine");
    bob.say("thank you");
    ann.says("Bob: thank you");
    let mut cleo = Example::start("chat", &["Cleo", &address]);
    cleo.says("Bob: thank you");
    // The others have found each other by then, so the one that introduced them may leave: by
    // closing its input.
    bob.says("is there");
    drop(ann.child.stdin.take());
    assert!(ann.child.wait().unwrap().success());
    cleo.say("see you");
    bob.says("Cleo: see you");
}

#[test]
fn a_mempool_is_shared() {
    let output = Command::new(program("mempool")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("180 transactions, the same 100 in each pool"), "{text}");
    assert_eq!(text.lines().count(), 6, "{text}");
}
