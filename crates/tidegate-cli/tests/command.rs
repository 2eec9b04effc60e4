//! The command as its users run it: real processes, real QUIC.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn tidegate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
}

fn run(arguments: &[&str]) -> Output {
    tidegate().args(arguments).output().expect("the command runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

/// Exit code 2, and an error message that contains this.
fn refuses(arguments: &[&str], message: &str) {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
}

#[test]
fn the_demo_converges_and_its_recordings_replay() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().to_str().unwrap();
    let sizes = ["--nodes", "4", "--seconds", "5", "--tx-rate", "200"];
    let output =
        tidegate().arg("demo").args(sizes).args(["--json", "--record", record]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["converged"], true, "{summary:#}");
    assert_eq!(summary["violations"], 0, "{summary:#}");
    let pools = summary["transfers_in_pools"].as_array().unwrap();
    assert_eq!(pools.len(), 4);
    assert!(pools.iter().all(|pool| *pool == pools[0] && pool.as_u64() > Some(0)), "{summary:#}");
    for key in ["height", "transfers_in_blocks", "works_published", "useful_bytes"] {
        assert!(summary[key].as_u64() > Some(0), "{key}: {summary:#}");
    }
    assert!(summary["block_propagation_ms"]["count"].as_u64() > Some(0), "{summary:#}");

    let files = recordings(folder.path());
    assert_eq!(files.len(), 4);
    let output = tidegate().arg("replay").args(&files).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout).matches("the same as recorded").count(), 4);
    a_recording_that_is_damaged_is_told(&files[0]);
}

/// All but the first are as if behind routers.
#[test]
fn the_demo_converges_over_webrtc() {
    let sizes = ["--nat", "--nodes", "4", "--seconds", "4", "--tx-rate", "100"];
    let output = tidegate().arg("demo").args(sizes).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["converged"], &summary["violations"]), (&true.into(), &0.into()));
    // To the first over QUIC; how many of the others have met depends on how busy the machine is.
    let connections = &summary["connections"];
    assert_eq!((&connections["quic"], connections["webrtc"].as_u64() > Some(0)), (&3.into(), true));
    assert_eq!(connections.as_object().unwrap().len(), 2, "{connections}");
}

fn recordings(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path().to_str().unwrap().to_owned()).collect()
}

fn a_recording_that_is_damaged_is_told(file: &str) {
    let whole = std::fs::read(file).unwrap();
    std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
    let output = run(&["replay", file]);
    assert_ne!(output.status.code(), Some(0));
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(told.contains("cut off"), "{told}");
    std::fs::write(file, b"something else").unwrap();
    refuses(&["replay", file], file);
}

#[cfg(unix)]
#[test]
fn an_interrupted_demo_ends_with_its_summary() {
    let mut child = tidegate()
        .args(["demo", "--nodes", "3", "--seconds", "600", "--tx-rate", "50"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line of the table shows that it is running, and handles signals.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = child.wait().unwrap();
    let mut summary = String::new();
    child.stdout.take().unwrap().read_to_string(&mut summary).unwrap();
    assert_eq!(status.code(), Some(0), "{summary}");
    assert!(summary.contains("tips                equal"), "{summary}");
    assert!(summary.contains("all equal"), "{summary}");
}

#[test]
fn a_scenario_runs_and_repeats() {
    let scenario = ["sim", "run", "small", "--seed", "5"];
    let (first, again) = (run(&scenario), run(&scenario));
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stdout));
    let trace = |output: &Output| {
        let line = text(&output.stdout).lines().find(|line| line.starts_with("trace"));
        line.expect("it prints a trace").to_owned()
    };
    assert_eq!(trace(&first), trace(&again));
    let list = run(&["sim", "list"]);
    assert!(text(&list.stdout).lines().any(|line| line.starts_with("small ")));
}

#[test]
fn programs_are_told_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let json = |arguments: &[&str]| -> Value {
        let output = run(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    let made = json(&["init", &format!("{folder}/node")]);
    assert_eq!(made["keys"]["account.key"]["public_key"].as_str().unwrap().len(), 64);
    let key = json(&["keygen", &format!("{folder}/a.key")]);
    assert!(key["peer_id"].as_str().unwrap().starts_with("12D3KooW"));
    assert_eq!(json(&["config", "--folder", folder])["outbound"]["value"], 8);
    assert!(json(&["sim", "list"])["small"].is_string());
    let outcome = json(&["sim", "run", "small", "--seed", "5"]);
    assert_eq!((outcome[0]["seed"].as_u64(), outcome[0]["broken"].is_null()), (Some(5), true));
    assert!(outcome[0]["item_latency"]["p50"].as_f64() > Some(0.0));
}

#[test]
fn shells_and_readers_of_manuals_are_served() {
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        assert!(text(&run(&["completions", shell]).stdout).contains(part), "{shell}");
    }
    refuses(&["completions", "abacus"], "abacus");
    assert!(
        text(&run(&["man"]).stdout).contains(".SH EXTRA\nExit codes"),
        "{}",
        text(&run(&["man"]).stdout)
    );
    let folder = tempfile::tempdir().unwrap();
    run(&["man", folder.path().to_str().unwrap()]);
    assert!(folder.path().join("tidegate-submit.1").exists());
}

/// As by `tidegate sim list | head -0`.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = tidegate();
    let child = command.args(["sim", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

/// Regression: a panic (exit code 101), since the reason could not be printed.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_no_other_error() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = |arguments: &[&str]| {
        let mut command = tidegate();
        command.env("TIDEGATE_LOG", "trace").args(arguments).stderr(full());
        command.stdout(Stdio::null()).status().unwrap().code()
    };
    assert_eq!(status(&["status", "--folder", "/nonexistent"]), Some(2));
    assert_eq!(status(&["demo", "--nodes", "2", "--seconds", "1"]), Some(0));
}

#[test]
fn a_log_filter_that_cannot_be_read_is_told() {
    for wrong in ["tidegate=loud", "loud", "info,loud"] {
        let mut command = tidegate();
        let output = command.args(["sim", "list"]).env("TIDEGATE_LOG", wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let told = text(&output.stderr);
        assert!(told.contains(&format!("TIDEGATE_LOG={wrong}")), "{told}");
    }
    for right in ["", "WARN", "off", "warn,tidegate=debug", "tidegate::log=trace"] {
        let mut command = tidegate();
        let status = command.args(["sim", "list"]).env("TIDEGATE_LOG", right).output().unwrap();
        assert_eq!(status.status.code(), Some(0), "{right}");
    }
}

#[test]
fn a_scenario_that_fails_says_how_to_see_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hopeless.toml");
    let hopeless = "about = \"more than can be there\"\nnodes = 2\ndials = 1\nproducers = 1\n\
                    provers = 1\ntrouble_ms = 1000\nleast_transfers = 1000000\n";
    std::fs::write(&file, hopeless).unwrap();
    let file = file.to_str().unwrap();
    let output = run(&["sim", "run", file, "--seed", "7"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let again = format!("again: tidegate sim run {file} --seed 7");
    assert!(text(&output.stderr).contains(&again), "{}", text(&output.stderr));
}

#[test]
fn bad_arguments_are_told() {
    refuses(&["demo", "--nodes", "1"], "--nodes: between 2 and 128");
    refuses(&["demo", "--nat", "--transport", "tcp"], "--nat: the nodes meet over WebRTC");
    refuses(&["demo", "--nodes", "129"], "--nodes: between 2 and 128");
    refuses(&["demo", "--seconds", "0"], "--seconds: between 1 and 604800");
    refuses(&["demo", "--seconds", "604801"], "--seconds: between 1 and 604800");
    refuses(&["demo", "--tx-rate", "100001"], "--tx-rate: at most 100000");
    refuses(&["sim", "run", "nowhere"], "`tidegate sim list` lists them");
    refuses(&["replay", "nowhere.run"], "nowhere.run");
    refuses(&["replay"], "FILES");
}
