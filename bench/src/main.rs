//! Tidegate's transport and nodes beside other stacks, measured in one run. README.md says how.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use args::{Options, Task};

mod args;
mod measure;
mod plot;
mod process;
mod proxy;
mod results;
mod rounds;
mod stack;
mod stacks;
mod stats;
mod table;

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let done = args::parse(&args).and_then(|task| match task {
        Task::Compare(options) => compare(&options),
        Task::One(stack, plan) => rounds::one(stack, plan),
        Task::Serve(stack) => process::serve(stack),
        Task::Help => {
            print!("{}", args::USAGE);
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<()> {
    let out = &options.out;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let results = rounds::run(options)?;
    let table = table::markdown(&results);
    let files = [
        ("results.json", serde_json::to_string_pretty(&results)? + "\n"),
        ("table.md", table.clone()),
        ("plot.svg", plot::svg(&results)),
    ];
    for (name, text) in files {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    println!("{table}");
    Ok(())
}
