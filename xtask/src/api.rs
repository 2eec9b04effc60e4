//! The HTTP API of a real node against its own document, by schemathesis.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::suites::cargo;
use crate::system::has;
use crate::{Result, run, target};

/// What tries the API, what reads its document, and what makes a client of that. The versions are those that
/// the checks were tried with; newer ones may find more.
const PACKAGES: [&str; 3] =
    ["schemathesis==4.32.*", "openapi-spec-validator==0.9.*", "openapi-python-client==0.29.*"];
/// Its formatter is of no use here, and it has to be told what the form of OpenMetrics is.
const CLIENT_SETTINGS: &str =
    "post_hooks: []\ncontent_type_overrides:\n  application/openmetrics-text: text/plain\n";
/// Uses the client that was made: its folder, the API's address and a file for the metrics are the arguments.
const USE_CLIENT: &str = "
import sys
sys.path.insert(0, sys.argv[1])
from tidegate_node_client import Client
from tidegate_node_client.api.default import peers, status
client = Client(base_url=sys.argv[2])
found = status.sync(client=client)
assert found.peer_id.startswith('12D3'), found
assert found.own_addresses[0].told.value in ('all', 'local'), found
assert peers.sync(client=client).connected == [], 'nobody is connected'
import urllib.request
plain = urllib.request.Request(sys.argv[2] + '/metrics', headers={'Accept': 'text/plain;version=0.0.4'})
with urllib.request.urlopen(plain) as metrics, open(sys.argv[3], 'wb') as file:
    assert metrics.headers['Content-Type'].startswith('text/plain; version=0.0.4'), metrics.headers
    file.write(metrics.read())
print('a client made of the document has asked', found.client)
";
/// How much is tried.
#[derive(Clone, Copy)]
pub(crate) enum Effort {
    /// The same requests every time: for the tests of every day.
    Usual,
    /// Random cases, for this number of seconds.
    Seconds(u32),
}

impl Effort {
    fn flags(self) -> Vec<String> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        match self {
            Self::Usual => words("--max-examples 60 --generation-deterministic"),
            Self::Seconds(seconds) => words(&format!("--max-time {seconds}")),
        }
    }
}

/// Asks a node for all that its document describes, and for much that it does not.
pub(crate) fn check(effort: Effort) -> Result {
    let Some(bin) = installed()? else { return Ok(()) };
    run(cargo().args(["build", "-p", "tidegate-cli"]))?;
    let folder = target().join("schemathesis/node");
    // It may be there from a run that was stopped.
    let _ = std::fs::remove_dir_all(&folder);
    let program = target().join("debug/tidegate");
    run(Command::new(&program).arg("init").arg(&folder).args(["--slot-ms", "200"]))?;
    let (node, api) = start(&program, &folder)?;
    check_document(&bin, &api)?;
    let result = run(Command::new(bin.join("schemathesis"))
        .current_dir(folder)
        .args(["run", &format!("{api}/openapi.json"), "--suppress-health-check", "all"])
        .args(effort.flags())
        // A slow machine is no failure. A stream has no end; it has tests of its own.
        .args(["--exclude-path", "/v1/events", "--no-color"]));
    drop(node);
    result
}

/// Whether the document is valid, and clients can be made of it: schemathesis is content with less.
fn check_document(bin: &Path, api: &str) -> Result {
    let document = crate::root().join("crates/tidegate-cli/openapi.json");
    run(Command::new(bin.join("openapi-spec-validator")).arg(&document))?;
    let client = target().join("schemathesis/client");
    let settings = target().join("schemathesis/client.yml");
    std::fs::write(&settings, CLIENT_SETTINGS).map_err(|error| error.to_string())?;
    run(Command::new(bin.join("openapi-python-client"))
        .args(["generate", "--overwrite", "--fail-on-warning", "--path"])
        .arg(&document)
        .arg("--config")
        .arg(&settings)
        .arg("--output-path")
        .arg(&client))?;
    let metrics = target().join("schemathesis/metrics");
    let used = [client.as_os_str(), api.as_ref(), metrics.as_os_str()];
    run(Command::new(bin.join("python3")).args(["-c", USE_CLIENT]).args(used))?;
    let Some(promtool) = promtool()? else { return Ok(()) };
    let metrics = std::fs::File::open(&metrics).map_err(|error| error.to_string())?;
    run(Command::new(promtool).args(["check", "metrics"]).stdin(metrics))
}

/// What Prometheus thinks of metrics: the one that is there, or Debian's, taken out of its package, for nobody
/// needs the service here.
fn promtool() -> Result<Option<PathBuf>> {
    if has("promtool") {
        return Ok(Some("promtool".into()));
    }
    let folder = target().join("promtool");
    let program = folder.join("usr/bin/promtool");
    if program.exists() {
        return Ok(Some(program));
    }
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let script =
        "apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb";
    match run(Command::new("sh").args(["-c", script]).current_dir(&folder)) {
        Ok(()) => Ok(Some(program)),
        Err(error) => {
            eprintln!("NOT CHECKED: the metrics by promtool (Debian: prometheus). {error}");
            Ok(None)
        }
    }
}

/// A node that is stopped when nobody needs it.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, folder: &Path) -> Result<(Node, String)> {
    let mut child = Command::new(program)
        .args(["run", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--api", "127.0.0.1:0"])
        .arg("--folder")
        .arg(folder)
        .env("TIDEGATE_LOG", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let output = child.stdout.take();
    let node = Node(child);
    let lines = output.map(BufReader::new).into_iter().flat_map(BufReader::lines);
    let api = lines
        .map_while(std::result::Result::ok)
        .find_map(|line| line.strip_prefix("API at ").map(str::to_owned));
    api.map(|api| (node, api)).ok_or_else(|| "the node does not say where its API is".to_owned())
}

/// The folder of the programs, which are installed there if they are missing; `None` where that is not
/// possible.
fn installed() -> Result<Option<PathBuf>> {
    let folder = target().join("schemathesis");
    let (bin, done) = (folder.join("bin"), folder.join("installed"));
    let packages = PACKAGES.join(" ");
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == packages) {
        return Ok(Some(bin));
    }
    println!("installing {packages} from PyPI to {}", folder.display());
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let pip = [&pip[..], &PACKAGES].concat();
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        .and_then(|()| run(Command::new(folder.join("bin/python3")).args(pip)));
    match made {
        Ok(()) => {
            std::fs::write(&done, packages).map_err(|error| error.to_string())?;
            Ok(Some(bin))
        }
        Err(error) => {
            eprintln!(
                "NOT CHECKED: the HTTP API against its document. {error}\n\
                 It needs Python 3.10 or newer with venv (Debian: python3-venv) and PyPI."
            );
            Ok(None)
        }
    }
}
