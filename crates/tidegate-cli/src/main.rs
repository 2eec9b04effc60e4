//! The `tidegate` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod app;
mod demo;
mod replay;
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
    let filter = tracing_subscriber::EnvFilter::try_from_env("TIDEGATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match arguments.command {
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
