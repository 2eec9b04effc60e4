//! The HTTP API of a real node against its own document, by schemathesis.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::suites::cargo;
use crate::{Result, run, target};

/// The version that the checks were tried with; a newer one may find more.
const SCHEMATHESIS: &str = "schemathesis==4.32.*";
/// How much is tried.
#[derive(Clone, Copy)]
pub(crate) enum Effort {
    /// The same requests every time: for the tests of every day.
    Usual,
    /// Others each time, for so many seconds.
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
    let Some(schemathesis) = installed()? else { return Ok(()) };
    run(cargo().args(["build", "-p", "tidegate-cli"]))?;
    let folder = target().join("schemathesis/node");
    // It may be there from a run that was stopped.
    let _ = std::fs::remove_dir_all(&folder);
    let program = target().join("debug/tidegate");
    run(Command::new(&program).arg("init").arg(&folder).args(["--slot-ms", "200"]))?;
    let (node, api) = start(&program, &folder)?;
    let result = run(Command::new(schemathesis)
        .current_dir(folder)
        .args(["run", &format!("{api}/openapi.json"), "--suppress-health-check", "all"])
        .args(effort.flags())
        // A slow machine is no failure. A stream has no end; it has tests of its own.
        .args(["--exclude-path", "/v1/events", "--no-color"]));
    drop(node);
    result
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

/// The program, installed into a folder of its own if it is not there; `None` where it cannot be
/// had.
fn installed() -> Result<Option<PathBuf>> {
    let folder = target().join("schemathesis");
    let program = folder.join("bin/schemathesis");
    if program.exists() {
        return Ok(Some(program));
    }
    println!("installing {SCHEMATHESIS} from PyPI to {}", folder.display());
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", SCHEMATHESIS];
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        .and_then(|()| run(Command::new(folder.join("bin/python3")).args(pip)));
    match made {
        Ok(()) => Ok(Some(program)),
        Err(error) => {
            eprintln!(
                "NOT CHECKED: the HTTP API against its document. {error}\n\
                 It needs Python 3.10 or newer with venv (Debian: python3-venv) and PyPI."
            );
            Ok(None)
        }
    }
}
