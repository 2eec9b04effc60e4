//! The arguments of the bench.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::measure::Plan;
use crate::stack::Stack;
use crate::stacks::{self, ALL};

pub(crate) const USAGE: &str = "\
usage: tidegate-bench [--quick] [--rounds N] [--only STACK]... [--out FOLDER]

  --quick         a few seconds for each stack
  --rounds N      how often each stack is measured, in turn with the others: 5, or 2 if quick
  --only STACK    measures this one, and others that are named so; all by default
  --out FOLDER    where results.json, table.md and plot.svg go: target/bench
";

/// What to run.
pub(crate) enum Task {
    /// All rounds.
    Compare(Options),
    /// One stack once; the result goes to standard output.
    One(&'static dyn Stack, Plan),
    /// The listener of one stack.
    Serve(&'static dyn Stack),
    Help,
}

pub(crate) struct Options {
    pub(crate) plan: Plan,
    pub(crate) rounds: u32,
    pub(crate) stacks: Vec<&'static dyn Stack>,
    pub(crate) out: PathBuf,
}

pub(crate) fn parse(args: &[String]) -> Result<Task> {
    let words = args.iter().map(String::as_str).collect::<Vec<_>>();
    match words.as_slice() {
        ["serve", name] => Ok(Task::Serve(find(name)?)),
        ["one", name, plan] => {
            Ok(Task::One(find(name)?, serde_json::from_str(plan).context("no plan")?))
        }
        ["--help" | "-h"] => Ok(Task::Help),
        words => options(words).map(Task::Compare),
    }
}

fn find(name: &str) -> Result<&'static dyn Stack> {
    let names = || ALL.iter().map(|stack| stack.name()).collect::<Vec<_>>().join(", ");
    stacks::find(name).with_context(|| format!("{name}: no such stack. There are {}", names()))
}

fn options(words: &[&str]) -> Result<Options> {
    let (mut quick, mut rounds, mut stacks) = (false, None, Vec::new());
    let mut out = PathBuf::from("target/bench");
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word {
            "--quick" => quick = true,
            "--rounds" => {
                let text = value()?;
                let number = text.parse::<u32>().ok().filter(|number| *number > 0);
                rounds = Some(number.with_context(|| format!("{text}: not a number of rounds"))?);
            }
            "--only" => stacks.push(find(value()?)?),
            "--out" => out = value()?.into(),
            _ => bail!("{word}: not known\n\n{USAGE}"),
        }
    }
    if stacks.is_empty() {
        stacks = ALL.to_vec();
    }
    let plan = if quick { Plan::QUICK } else { Plan::FULL };
    let rounds = rounds.unwrap_or(if quick { 2 } else { 5 });
    Ok(Options { plan, rounds, stacks, out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Options> {
        options(&line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_understood() {
        let all = of("").unwrap();
        assert_eq!((all.rounds, all.stacks.len()), (5, ALL.len()));
        let one = of("--quick --only quinn --rounds 3 --out there").unwrap();
        assert_eq!((one.rounds, one.stacks.len(), one.out), (3, 1, "there".into()));
        assert_eq!(of("--quick").unwrap().rounds, 2);
    }

    #[test]
    fn errors_name_the_faulty_flag() {
        for (line, wrong) in [
            ("--rounds many", "many"),
            ("--rounds 0", "0"),
            ("--rounds", "--rounds"),
            ("--only nobody", "nobody"),
            ("--fast", "--fast"),
        ] {
            let error = of(line).err().expect("an error").to_string();
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }
}
