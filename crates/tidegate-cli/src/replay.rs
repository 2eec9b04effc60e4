//! `tidegate replay`: a recording, again.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use tidegate::recording::replay;
use tidegate_ledger::LedgerRules;
use tidegate_proto::Time;

use crate::print::{self, say};

/// What to replay.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Recordings, as `tidegate demo --record` writes them.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// The result of one recording.
#[derive(Serialize)]
struct Outcome {
    file: PathBuf,
    build: String,
    steps: u64,
    /// How long the recorded run took.
    seconds: f64,
    hash: String,
    /// `null` if the recording was cut off.
    same: Option<bool>,
}

impl Outcome {
    fn of(file: &Path) -> anyhow::Result<Self> {
        let name = || file.display().to_string();
        let reader = File::open(file).with_context(name)?;
        let length = reader.metadata().with_context(name)?.len();
        let bar = print::bar(length).with_message(name());
        let reader = BufReader::new(bar.wrap_read(reader));
        let replayed = replay(reader, Box::new(LedgerRules)).with_context(name)?;
        bar.finish_and_clear();
        Ok(Self {
            file: file.to_owned(),
            build: replayed.start.build,
            steps: replayed.steps,
            seconds: replayed.end.since(Time::ZERO).as_secs_f64(),
            hash: hex::encode(replayed.hash),
            same: replayed.recorded.map(|recorded| recorded == replayed.hash),
        })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, build, steps, seconds, hash, same } = self;
        let outcome = match same {
            Some(true) => "the same as recorded",
            Some(false) => "DIFFERENT from what was recorded",
            None => "the recording was cut off: nothing to compare with",
        };
        writeln!(f, "{}: {steps} steps over {seconds:.3} s, by {build}", file.display())?;
        write!(f, "  hash {hash}: {outcome}")
    }
}

/// Replays all files; `true` if each gives the recorded hash.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let mut outcomes = Vec::new();
    for file in &arguments.files {
        let outcome = Outcome::of(file)?;
        if !arguments.json {
            say!("{outcome}");
        }
        outcomes.push(outcome);
    }
    if arguments.json {
        print::json(&outcomes)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.same == Some(true)))
}
