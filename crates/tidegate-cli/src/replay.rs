//! `tidegate replay`: a recording, again.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::Context as _;
use tidegate::recording::replay;
use tidegate_ledger::LedgerRules;

/// What to replay.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Recordings, as `tidegate demo --record` writes them.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Replays all files; `true` if each came to the hash that it had.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let mut same = true;
    for path in &arguments.files {
        let name = path.display();
        let file = File::open(path).with_context(|| name.to_string())?;
        let replayed = replay(BufReader::new(file), Box::new(LedgerRules))
            .with_context(|| name.to_string())?;
        let outcome = match replayed.recorded {
            Some(recorded) if recorded == replayed.hash => "the same as recorded",
            Some(_) => {
                same = false;
                "DIFFERENT from what was recorded"
            }
            None => {
                same = false;
                "the recording was cut off: nothing to compare with"
            }
        };
        println!(
            "{name}: {} steps over {} s, by {}\n  hash {}: {outcome}",
            replayed.steps,
            replayed.end,
            replayed.start.build,
            hex::encode(replayed.hash)
        );
    }
    Ok(same)
}
