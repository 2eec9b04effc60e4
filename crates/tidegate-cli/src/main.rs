//! The `tidegate` command.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod api;
mod application;
mod ask;
mod client;
mod code;
mod demo;
mod generate;
mod init;
mod keys;
mod print;
mod replay;
mod run;
mod settings;
mod sim;
mod top;

const EXIT_CODES: &str = "Exit codes: 0 all went well; 1 the outcome is not as it should be \
    (nodes of a demo did not converge, a simulation broke a rule, a replay differs); 2 it could not \
    be done, and stderr says why.\n\nTIDEGATE_LOG says what is logged to stderr: off, error, warn, \
    info (usual for `run`), debug or trace, for all or by part: warn,tidegate=debug.";

/// A peer-to-peer network layer that cannot be flooded.
#[derive(Parser)]
#[command(name = "tidegate", version, propagate_version = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the folder of a node, of a new network or of one that is there.
    Init(init::Arguments),
    /// Run a node until it is told to stop by SIGTERM, SIGINT or SIGHUP.
    Run(run::Arguments),
    /// Make a key file.
    Keygen(keys::Arguments),
    /// Print how a running node is.
    Status(ask::Arguments),
    /// Print who is connected to a running node.
    Peers(ask::Arguments),
    /// Show a running node live.
    Top(top::Arguments),
    /// Sign a transfer and hand it to a running node.
    Submit(ask::Submit),
    /// Print the settings in effect, and where each comes from.
    Config(settings::Show),
    /// Run a network of real nodes over QUIC on this machine, under load, and compare them.
    Demo(demo::Arguments),
    /// Simulate networks.
    #[command(subcommand)]
    Sim(sim::Command),
    /// Run the recording of a node again, and compare what it does.
    Replay(replay::Arguments),
    /// Print completions for a shell.
    Completions(generate::Completions),
    /// Print the manual page, or write one for each subcommand.
    Man(generate::Man),
    /// Print the OpenAPI document of a node's HTTP API.
    Openapi,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Who runs a node wants to read of it.
    let default = if matches!(arguments.command, Command::Run(_)) { "info" } else { "warn" };
    let result = log(default).and_then(|()| run(arguments.command));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print::complain(format_args!("tidegate: {}", causes(&error)));
            ExitCode::from(2)
        }
    }
}

/// An error with its causes, without those that the text of the one above contains already.
fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Logs to stderr what `TIDEGATE_LOG` says, or what is usual.
fn log(usual: &str) -> anyhow::Result<()> {
    let wanted = std::env::var("TIDEGATE_LOG");
    let wanted = wanted.as_deref().unwrap_or(usual);
    let wrong = |what: &dyn std::fmt::Display| {
        anyhow::anyhow!("TIDEGATE_LOG={wanted}: {what}; give a level, or target=level,…")
    };
    let targets = wanted.parse::<Targets>().map_err(|error| wrong(&error))?;
    // The filter takes an unknown word for a module name, and would log everything of that module and nothing
    // else: refuse it.
    let is_level = |word: &&str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let mut words = wanted.split(',').filter(|word| !word.is_empty() && !word.contains('='));
    if let Some(word) = words.find(|word| !is_level(word)) {
        return Err(wrong(&format_args!("{word:?} is no level")));
    }
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    // By default a failed write is reported on stderr, and panics if that fails too.
    let lines = lines.log_internal_errors(false);
    tracing_subscriber::registry().with(lines).with(targets).init();
    Ok(())
}

fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Keygen(arguments) => keys::run(&arguments),
        Command::Status(arguments) => ask::status(&arguments),
        Command::Peers(arguments) => ask::peers(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Submit(arguments) => ask::submit(&arguments),
        Command::Config(arguments) => settings::show(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Sim(command) => sim::run(&command),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments, Arguments::command()),
        Command::Man(arguments) => generate::man(&arguments, Arguments::command()),
        Command::Openapi => generate::openapi(),
    }
}
