//! Runs tests that are compiled for wasm32 under Node: `tidegate-web-runner NODE FILE [FILTER]`, the
//! first by `cargo xtask web`, the others by cargo.
//!
//! `wasm-bindgen-test-runner` does this too, and drives browsers; but its crate takes three minutes
//! to build, most of it for a web server and an HTTP client, and this takes half a minute.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use wasm_bindgen_cli_support::Bindgen;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: tidegate-web-runner NODE FILE [FILTER]";
    let node = arguments.next().context(usage)?;
    let file = PathBuf::from(arguments.next().context(usage)?);
    // Beside the tests, where cargo cleans up.
    let folder = file.with_extension("node");
    Bindgen::new()
        .input_path(&file)
        .out_name("tests")
        .nodejs(true)?
        .debug(true)
        // The tests are plain exports, and its start would be that of Rust's own tests.
        .export_wasm(true)
        .emit_start(false)
        .generate(&folder)?;
    let script = folder.join("run.cjs");
    std::fs::write(&script, include_str!("run.cjs"))?;
    let status = Command::new(&node).arg(script).args(arguments).status();
    let status = status.with_context(|| node.display().to_string())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
