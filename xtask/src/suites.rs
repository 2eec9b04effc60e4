//! The tests: those of every day, and the long ones.

use std::process::Command;

use crate::api::Effort;
use crate::{Result, api, foreign, root, run, system, target};

/// The scenarios that `soak` runs.
const LARGE: [&str; 8] =
    ["churn", "partition", "strangers", "forks", "minority", "crowded", "small", "paths"];
/// Tests that need network namespaces have this in their names.
const NAMESPACES: &str = "in_namespaces";
/// The targets in `fuzz/`, with the largest input that is tried.
const TARGETS: [(&str, u32); 2] = [("codec", 65_537), ("world", 4096)];

pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// The suite of the contract of transports is a feature, for other crates.
const SUITE: [&str; 2] = ["--features", "tidegate/conformance,tidegate/webrtc"];

/// Every test: those in C, those in the documentation, those of the HTTP API, and then all others,
/// whose runner has the last word.
pub(crate) fn test() -> Result {
    foreign::check()?;
    // For hosts of their own, which nodes are tried on.
    if !system::has("ip") {
        system::install("ip", &["iproute2"])?;
    }
    let namespaces = system::namespaces();
    if let Err(why) = &namespaces {
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            return Err(format!("no network namespaces, which CI must have: {why}"));
        }
        eprintln!("SKIPPED: the tests on hosts of their own ({NAMESPACES}): {why}");
    }
    run(cargo().args(["test", "--workspace", "--doc"]).args(SUITE))?;
    // Without threads, QUIC and store, as where there are none of them.
    let bare = ["test", "-p", "tidegate", "--no-default-features", "--features", "conformance"];
    run(cargo().args(bare).args(["--lib", "--test", "nodes", "--test", "transports"]))?;
    api::check(Effort::Usual)?;
    let nextest = Command::new("cargo-nextest").arg("--version").output();
    if nextest.is_ok_and(|output| output.status.success()) {
        let mut tests = cargo();
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(SUITE);
        if namespaces.is_err() {
            tests.arg("-E").arg(format!("not test({NAMESPACES})"));
        }
        run(&mut tests)
    } else {
        eprintln!("cargo-nextest is not installed: `cargo test` runs the tests, a little slower");
        let mut tests = cargo();
        tests.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]).args(SUITE);
        if namespaces.is_err() {
            tests.args(["--", "--skip", NAMESPACES]);
        }
        run(&mut tests)
    }
}

/// Tests of models against random cases, and about how many cases they do in a second.
const MODELS: [(&str, &str, &str, u32); 3] = [
    ("tidegate-proto", "--lib", "pool::content::tests", 12_000),
    ("tidegate-proto", "--lib", "fetch::tests", 6000),
    ("tidegate-cli", "--bins", "settings::tests", 20_000),
];

fn models(seconds: u32) -> Result {
    for (package, part, tests, a_second) in MODELS {
        let cases = seconds.saturating_mul(a_second).to_string();
        println!("{tests}: {cases} cases of each property");
        let test = ["test", "--release", "-p", package, part, "--", tests];
        run(cargo().args(test).env("PROPTEST_CASES", cases))?;
    }
    Ok(())
}

/// Writes `crates/tidegate-sim/tests/traces.txt`.
pub(crate) fn traces() -> Result {
    let test = ["test", "--release", "-p", "tidegate-sim", "--test", "traces"];
    run(cargo().args(test).env("TIDEGATE_WRITE_TRACES", "1"))
}

/// Many seeds of every large scenario.
pub(crate) fn soak(seeds: u32) -> Result {
    for scenario in LARGE {
        let sim = ["run", "--release", "-q", "--", "sim", "run", scenario, "--seeds"];
        run(cargo().args(sim).arg(seeds.to_string()))?;
    }
    Ok(())
}

/// Fuzzes everything for a while: by coverage what libFuzzer drives, by random cases the models of
/// pool and fetcher and the configuration, and by random requests the HTTP API.
pub(crate) fn fuzz(seconds: u32) -> Result {
    models(seconds)?;
    api::check(Effort::Seconds(seconds))?;
    for (target, most) in TARGETS {
        let fuzz = ["+nightly", "fuzz", "run", "-s", "none", target, "--"];
        run(Command::new("cargo")
            .current_dir(root())
            // The toolchain that runs this would win over the one that is asked for.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .args(fuzz)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={most}")))
        .map_err(|error| {
            format!(
                "{error}\nFuzzing needs `cargo install cargo-fuzz` and `rustup toolchain install \
                 nightly`."
            )
        })?;
    }
    Ok(())
}

/// Tidegate beside other stacks, into `target/bench` unless the flags name another folder.
/// Runs the suite on the transports in workspaces of their own, which see what any other crate sees.
pub(crate) fn transports() -> Result {
    let manifest = root().join("transports/pipe/Cargo.toml");
    let mut tests = cargo();
    tests.args(["test", "--locked", "--manifest-path"]).arg(manifest);
    run(tests.env("CARGO_TARGET_DIR", target().join("transports")))
}

pub(crate) fn bench(flags: &[&str]) -> Result {
    let bench = ["run", "--release", "--locked", "--manifest-path", "bench/Cargo.toml", "--"];
    let out = target().join("bench");
    // The flag that comes last counts.
    run(cargo().args(bench).arg("--out").arg(out).args(flags))
}
