//! Hosts in one network, each in a namespace.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::daemon::{get, string, succeeds};

/// The output of a command.
const DONE: &str = "--- done: ";

/// A shell in a network of its own, which it may configure.
pub(crate) struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let mut command = Command::new("unshare");
        // All its processes end with the first.
        command.args([
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
        ]);
        command.env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate")).env("TIDEGATE_LOG", "info");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut shell = Self { child, input, lines };
        // Where `ip netns` stores its names.
        shell.run("mount -t tmpfs none /run");
        shell.run("ip link set lo up");
        shell
    }

    /// Runs a command, which must succeed; returns its output.
    pub(crate) fn run(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}\necho '{DONE}'$?").unwrap();
        let mut printed = String::new();
        loop {
            let line = self.lines.next().expect("the shell lives").unwrap();
            match line.strip_prefix(DONE) {
                Some(code) => {
                    assert_eq!(code, "0", "{command}: {printed}");
                    return printed.trim().to_owned();
                }
                None => printed = printed + &line + "\n",
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hosts on which the nodes of one network run.
pub(crate) struct Hosts {
    pub(crate) shell: Shell,
    folder: tempfile::TempDir,
    /// Process ids of the running nodes.
    nodes: Vec<Option<String>>,
}

impl Hosts {
    /// Hosts on a bridge. `addresses` are those of each, as for `ip address add`.
    pub(crate) fn new(count: usize, addresses: impl Fn(usize) -> Vec<String>) -> Self {
        let mut shell = Shell::new();
        shell.run("ip link add bridge type bridge && ip link set bridge up");
        for n in 0..count {
            shell.run(&format!(
                "ip netns add h{n} && ip link add v{n} type veth peer name p{n} && \
                 ip link set v{n} netns h{n} && ip link set p{n} master bridge up && \
                 ip -n h{n} link set lo up && ip -n h{n} link set v{n} up"
            ));
            for address in addresses(n) {
                shell.run(&format!("ip -n h{n} address add {address}"));
            }
        }
        Self::with(shell, count)
    }

    /// Nodes on a single host without a network.
    pub(crate) fn one(count: usize) -> Self {
        Self::with(Shell::new(), count)
    }

    fn with(shell: Shell, count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        succeeds(&["init", string(&folder.path().join("0"))]);
        let genesis = folder.path().join("0").join("genesis.toml");
        for n in 1..count {
            let of_node = folder.path().join(n.to_string());
            succeeds(&["init", string(&of_node), "--genesis", string(&genesis)]);
        }
        // No blocks are made here.
        let config = folder.path().join("0").join("tidegate.toml");
        let text = fs::read_to_string(&config).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("producer_key"));
        fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
        Self { shell, folder, nodes: vec![None; count] }
    }

    fn path(&self, n: usize) -> PathBuf {
        self.folder.path().join(n.to_string())
    }

    /// Starts a node on its host; with `port` all are on one host.
    pub(crate) fn start(&mut self, n: usize, port: Option<u16>, more: &str) {
        let (folder, log) = (self.path(n), self.path(n).join("log"));
        let place = port.map_or_else(|| format!("ip netns exec h{n}"), |_| "env".to_owned());
        let listen = port.map_or_else(String::new, |port| {
            let listen = format!("/ip4/0.0.0.0/udp/{port}/quic-v1");
            format!("--listen {listen}")
        });
        let (folder, log) = (string(&folder), string(&log));
        self.shell.run(&format!(
            "{place} \"$TIDEGATE\" run --folder {folder} --api off {listen} {more} > {log} 2>&1 &"
        ));
        self.nodes[n] = Some(self.shell.run("echo $!"));
    }

    /// Stops the process of a node with `TERM`, or kills it with `KILL`.
    pub(crate) fn end(&mut self, n: usize, signal: &str) {
        let id = self.nodes[n].take().unwrap();
        self.shell.run(&format!("kill -{signal} {id}; wait {id}; true"));
    }

    pub(crate) fn status(&self, n: usize) -> Option<Value> {
        get(&self.path(n), "/v1/status").ok()
    }

    /// The peers of a node, if it is running.
    pub(crate) fn peers(&self, n: usize) -> u64 {
        self.status(n).map_or(0, |status| status["peers"].as_u64().unwrap())
    }

    /// The addresses that others are told, at which they can dial it.
    pub(crate) fn told(&self, n: usize) -> Vec<String> {
        let status = self.status(n).unwrap_or_default();
        let own = status["own_addresses"].as_array().cloned().unwrap_or_default();
        let told = own.iter().filter(|own| own["told"] != "nobody");
        let told = told.map(|own| own["address"].as_str().unwrap().to_owned());
        // Offers lead to each node, wherever it is.
        told.filter(|address| address != "/webrtc").collect()
    }

    /// The output of a node.
    pub(crate) fn log(&self, n: usize) -> String {
        fs::read_to_string(self.path(n).join("log")).unwrap_or_default()
    }

    /// Removes the store of a node; its key stays.
    pub(crate) fn lose_store(&self, n: usize) {
        fs::remove_dir_all(self.path(n).join("store")).unwrap();
    }
}
