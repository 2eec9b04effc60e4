//! The project's own tools: `cargo xtask` lists them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

mod api;
mod checks;
mod cite;
mod codegen;
mod foreign;
mod schema;
mod suites;
mod system;
mod tidy;
mod vectors;
mod web;

const USAGE: &str = "\
usage: cargo xtask <command>

  test                set up what the tests need, and run all of them
  api                 try the HTTP API of a node against its document
  vectors             read and write the golden vectors with C code from rpcgen
  codegen [--check]   write the codec and the vectors from spec/tidegate.x,
                      or check that they are current
  traces              rewrite the trace hashes of the simulator
  soak [SEEDS]        run the large scenarios of the simulator, 100 seeds each
  fuzz [SECONDS]      fuzz the codec, a small world, the models of pool and
                      fetcher, the configuration and the HTTP API, 600 seconds
                      each
  bench transport [--quick]
                      measure the transport and nodes beside other stacks; bench/README.md
  transports          run the conformance suite on the transports outside of the workspace
  web                 run the tests of web/, compiled to WebAssembly, under Node
  features            check each feature alone, and each two of them
  resolves            check that the lockfile leaves room for libp2p
  typos               check the spelling
  tidy                check the length of files and functions, and that each
                      requirement of the specification has its code and a test
";

type Result<T = ()> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    let number = |text: &str| {
        text.parse::<u32>().map_err(|_| format!("{text}: a number is needed\n\n{USAGE}"))
    };
    let result = match args.as_slice() {
        ["test"] => suites::test(),
        ["api"] => api::check(api::Effort::Usual),
        ["vectors"] => foreign::check(),
        ["codegen"] => codegen::run(false),
        ["codegen", "--check"] => codegen::run(true),
        ["traces"] => suites::traces(),
        ["soak"] => suites::soak(100),
        ["soak", seeds] => number(seeds).and_then(suites::soak),
        ["fuzz"] => suites::fuzz(600),
        ["fuzz", seconds] => number(seconds).and_then(suites::fuzz),
        ["bench", "transport", flags @ ..] => suites::bench(flags),
        ["transports"] => suites::transports(),
        ["web"] => web::test(),
        ["features"] => checks::features(),
        ["resolves"] => checks::resolves(),
        ["typos"] => checks::typos(),
        ["tidy"] => tidy::check(),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository: of the clone that it runs for, which may share its target folder with others.
fn root() -> PathBuf {
    let built_in = env!("CARGO_MANIFEST_DIR").into();
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(built_in);
    Path::new(&here).parent().expect("xtask lies in the root").to_owned()
}

/// Where cargo builds, and where what the suites install and write belongs.
fn target() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(folder)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a program to its end.
fn run(command: &mut Command) -> Result {
    let name = command.get_program().to_string_lossy().into_owned();
    let shown = || {
        let arguments = command.get_args().map(|word| word.to_string_lossy().into_owned());
        std::iter::once(name.clone()).chain(arguments).collect::<Vec<_>>().join(" ")
    };
    let shown = shown();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
