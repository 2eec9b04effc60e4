//! Rounds: each stack is measured in turn, several times, so that other load on the machine hits
//! all alike.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::args::Options;
use crate::measure::{self, Plan, Sample};
use crate::results::{Outcome, Results};
use crate::stack::Stack;

/// The timeout of one stack in one round.
const MOST: Duration = Duration::from_secs(300);

pub(crate) fn run(options: &Options) -> Result<Results> {
    let mut outcomes = options.stacks.iter().map(|stack| Outcome::new(*stack)).collect::<Vec<_>>();
    for round in 0..options.rounds {
        for turn in 0..options.stacks.len() {
            // Each round starts with another stack.
            let place = (turn + round as usize) % options.stacks.len();
            let stack = &options.stacks[place];
            let since = Instant::now();
            let sample = in_process(*stack, options.plan);
            eprintln!(
                "round {} of {}: {}, {:.0} s{}",
                round + 1,
                options.rounds,
                stack.name(),
                since.elapsed().as_secs_f64(),
                sample.as_ref().err().map(|error| format!(": {error:#}")).unwrap_or_default(),
            );
            outcomes[place].add(sample);
        }
    }
    Ok(Results::new(options.plan, options.rounds, outcomes))
}

/// In a new process, without state of earlier measurements.
fn in_process(stack: &dyn Stack, plan: Plan) -> Result<Sample> {
    let plan = serde_json::to_string(&plan)?;
    let output = Command::new(std::env::current_exe()?)
        .args(["one", stack.name(), &plan])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("no result")
}

/// Measures one stack and prints the result.
pub(crate) fn one(stack: &'static dyn Stack, plan: Plan) -> Result<()> {
    stack.run(Box::pin(async move {
        let measured = tokio::time::timeout(MOST, measure::measure(stack, plan)).await;
        let sample = measured.context("it took too long")??;
        println!("{}", serde_json::to_string(&sample)?);
        // Exits without closing the remaining nodes and endpoints.
        std::process::exit(0)
    }))
}
