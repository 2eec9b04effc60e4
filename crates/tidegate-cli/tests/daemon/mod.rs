//! A node as a process, and what the tests ask of it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_ledger::{SigningKey, account};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env("TIDEGATE_LOG", "info");
    command
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

/// Runs a command to its end, which must be a good one.
pub(crate) fn succeeds(arguments: &[&str]) -> Output {
    let output = tidegate().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    output
}

pub(crate) fn string(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The key of a name, for accounts and producers.
pub(crate) fn key(name: &str) -> SigningKey {
    SigningKey::from_bytes(&blake3::derive_key("tidegate test key", name.as_bytes()))
}

pub(crate) fn public(name: &str) -> String {
    hex::encode(account(&key(name)).0)
}

/// Writes the key to a file as `keygen` would.
pub(crate) fn key_file(folder: &Path, name: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(format!("{name}.key"));
    fs::write(&path, hex::encode(key(name).to_bytes())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    string(&path).to_owned()
}

/// A port that nobody uses.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn address(port: u16) -> String {
    format!("/ip4/127.0.0.1/udp/{port}/quic-v1")
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    since.elapsed()
}

/// Asks the node of a folder, as its other commands do.
pub(crate) fn ask(folder: &Path, request: &Value) -> Result<Value, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(folder.join("control.sock")).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let answer: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    answer.get("ok").cloned().ok_or_else(|| answer["error"].to_string())
}

/// A node's folder, and its process while it runs.
pub(crate) struct Daemon {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    process: Option<Child>,
}

impl Daemon {
    /// A node of the network of a genesis file, in a new folder.
    pub(crate) fn new(folder: PathBuf, genesis: &Path, config: &str) -> Self {
        succeeds(&["init", string(&folder), "--genesis", string(genesis)]);
        fs::write(folder.join("tidegate.toml"), config).unwrap();
        Self::existing(folder)
    }

    /// A node whose folder is there.
    pub(crate) fn existing(folder: PathBuf) -> Self {
        Self { folder, port: free_port(), process: None }
    }

    pub(crate) fn start(&mut self, more: &[&str]) {
        let log =
            fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = tidegate();
        command.args(["run", "--folder", string(&self.folder), "--listen", &address(self.port)]);
        let mut child = command.args(more).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line:?}\n{}", self.log());
        self.process = Some(child);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The process's number, while it runs.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// The process dies at once.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The process is told to stop: its exit code, and how long it took.
    pub(crate) fn stop(&mut self, signal: &str) -> (Option<i32>, Duration) {
        let mut process = self.process.take().unwrap();
        let since = Instant::now();
        let id = process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        (process.wait().unwrap().code(), since.elapsed())
    }

    pub(crate) fn ask(&self, request: &Value) -> Result<Value, String> {
        ask(&self.folder, request)
    }

    pub(crate) fn status(&self) -> Value {
        self.ask(&json!("status")).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub(crate) fn peers(&self) -> usize {
        self.status()["peers"].as_array().unwrap().len()
    }

    pub(crate) fn height(&self) -> u64 {
        self.status()["height"].as_u64().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
