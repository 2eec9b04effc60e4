//! A node as a process, and queries for the tests.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_ledger::{SigningKey, account};

/// The timeout of anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env("TIDEGATE_LOG", "info").env("TIDEGATE_API", "off");
    command
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

/// Runs a command, which must succeed.
pub(crate) fn succeeds(arguments: &[&str]) -> Output {
    let output = tidegate().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    output
}

pub(crate) fn string(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A key derived from a name, for accounts and producers.
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

/// An unused port.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn address(port: u16) -> String {
    format!("/ip4/127.0.0.1/udp/{port}/quic-v1")
}

/// Waits until a condition holds.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    since.elapsed()
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A request and its answer, on a connection of its own. `head` is everything before the empty line
/// except `Connection`.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    head: &str,
    body: &str,
) -> std::io::Result<Answer> {
    let length = body.len();
    let request = format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let broken = || std::io::Error::other(format!("not an answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (head, body) = (head.to_lowercase(), body.to_owned());
    Ok(Answer { status: status.ok_or_else(broken)?, head, body })
}

/// Queries the node of a folder, as its other commands do.
fn at_socket(folder: &Path, line: &str, body: &str) -> Result<Value, String> {
    let asked = || -> std::io::Result<Answer> {
        let stream = UnixStream::connect(folder.join("control.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json");
        exchange(stream, &head, body)
    };
    let answer = asked().map_err(|error| error.to_string())?;
    match answer.status {
        200 => Ok(answer.json()),
        _ => Err(answer.body),
    }
}

/// Gets a resource of a node.
pub(crate) fn get(folder: &Path, path: &str) -> Result<Value, String> {
    at_socket(folder, &format!("GET {path}"), "")
}

/// Submits a signed transfer to a node.
pub(crate) fn submit(folder: &Path, transfer: &[u8]) -> Result<Value, String> {
    let body = serde_json::json!({ "transfer": hex::encode(transfer) });
    at_socket(folder, "POST /v1/transfers", &body.to_string())
}

/// The next nonce of an account.
pub(crate) fn nonce(folder: &Path, account: &str) -> Option<u64> {
    get(folder, &format!("/v1/accounts/{account}")).ok()?["nonce"].as_u64()
}

/// A node's folder, and its process while it runs.
pub(crate) struct Daemon {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    /// The address of its API, once it has been started.
    pub(crate) api: Option<SocketAddr>,
    process: Option<Child>,
}

impl Daemon {
    /// A node of the network of a genesis file, in a new folder.
    pub(crate) fn new(folder: PathBuf, genesis: &Path, config: &str) -> Self {
        succeeds(&["init", string(&folder), "--genesis", string(genesis)]);
        fs::write(folder.join("tidegate.toml"), config).unwrap();
        Self::existing(folder)
    }

    /// A node with an existing folder.
    pub(crate) fn existing(folder: PathBuf) -> Self {
        Self { folder, port: free_port(), api: None, process: None }
    }

    pub(crate) fn start(&mut self, more: &[&str]) {
        let log =
            fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = tidegate();
        command.args(["run", "--folder", string(&self.folder), "--listen", &address(self.port)]);
        command.env("TIDEGATE_API", "127.0.0.1:0");
        let mut child = command.args(more).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().transpose().unwrap().unwrap_or_default();
        let first = line();
        assert!(first.starts_with("listening on "), "{first:?}\n{}", self.log());
        let mut second = line();
        while second.starts_with("listening on ") {
            second = line();
        }
        let api = second.strip_prefix("API at http://").map(|at| at.parse().unwrap());
        self.api = Some(api.unwrap_or_else(|| panic!("{second:?}\n{}", self.log())));
        self.process = Some(child);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The process id, while it runs.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Stops the process; returns its exit code, and how long it took.
    pub(crate) fn stop(&mut self, signal: &str) -> (Option<i32>, Duration) {
        let mut process = self.process.take().unwrap();
        let since = Instant::now();
        let id = process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        (process.wait().unwrap().code(), since.elapsed())
    }

    /// Gets a resource through its socket.
    pub(crate) fn get(&self, path: &str) -> Value {
        get(&self.folder, path).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// A request to its address.
    pub(crate) fn http(&self, head: &str, body: &str) -> Answer {
        let stream = TcpStream::connect(self.api.unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, head, body).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        self.get("/v1/status")
    }

    pub(crate) fn peers(&self) -> u64 {
        self.status()["peers"].as_u64().unwrap()
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
