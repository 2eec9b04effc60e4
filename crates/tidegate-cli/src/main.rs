//! The `tidegate` command.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod app;
mod ask;
mod control;
mod demo;
mod init;
mod keys;
mod replay;
mod run;
mod settings;
mod sim;

/// A peer-to-peer network layer that cannot be flooded.
#[derive(Parser)]
#[command(name = "tidegate", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the folder of a node, of a new network or of one that is there.
    Init(init::Arguments),
    /// Run a node until it is told to stop by SIGTERM or SIGINT.
    Run(run::Arguments),
    /// Make a key file.
    Keygen(keys::Arguments),
    /// Print how a running node is.
    Status(ask::Arguments),
    /// Print who is connected to a running node.
    Peers(ask::Arguments),
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Who runs a node wants to read of it.
    let default = if matches!(arguments.command, Command::Run(_)) { "info" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("TIDEGATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(std::io::stderr).init();
    let result = match arguments.command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Keygen(arguments) => keys::run(&arguments),
        Command::Status(arguments) => ask::status(&arguments),
        Command::Peers(arguments) => ask::peers(&arguments),
        Command::Submit(arguments) => ask::submit(&arguments),
        Command::Config(arguments) => settings::show(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Sim(command) => sim::run(&command),
        Command::Replay(arguments) => replay::run(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::from(2)
        }
    }
}
