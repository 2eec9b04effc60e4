//! The project's own tools: `cargo xtask` lists them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

mod schema;
mod vectors;

const USAGE: &str = "\
usage: cargo xtask <command>

  codegen [--check]   write the codec and the vectors from spec/tidegate.x,
                      or check that they are current
";

type Result<T = ()> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    let result = match args.as_slice() {
        ["codegen"] => codegen(false),
        ["codegen", "--check"] => codegen(true),
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

/// The root of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_owned()
}

fn codegen(check: bool) -> Result {
    let text = read(&root().join("spec/tidegate.x"))?;
    let schema =
        schema::parse::parse(&text).map_err(|error| format!("spec/tidegate.x: {error}"))?;
    let mut files = BTreeMap::new();
    files.insert(
        "crates/tidegate-proto/src/wire/schema.rs".to_owned(),
        rustfmt(&schema::rust::generate(&schema))?,
    );
    for file in vectors::generate(&schema) {
        files.insert(format!("spec/vectors/{}", file.name), file.text);
    }
    for (path, text) in files {
        let full = root().join(&path);
        if check {
            if std::fs::read_to_string(&full).ok().as_ref() != Some(&text) {
                return Err(format!("{path} is not current: run `cargo xtask codegen`"));
            }
        } else {
            std::fs::create_dir_all(full.parent().expect("a file has a folder"))
                .and_then(|()| std::fs::write(&full, text))
                .map_err(|error| format!("{path}: {error}"))?;
            println!("wrote {path}");
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Formats Rust code as the project's `cargo fmt` does.
fn rustfmt(code: &str) -> Result<String> {
    use std::io::Write as _;
    use std::process::Stdio;
    let failed = |error: std::io::Error| format!("rustfmt: {error} (rustup component add rustfmt)");
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().expect("piped");
    let code = code.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(code.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    writer.join().expect("the writer does not panic").map_err(failed)?;
    match output.status.success() {
        true => String::from_utf8(output.stdout).map_err(|_| "rustfmt wrote no text".to_owned()),
        false => Err("rustfmt refused the generated code".to_owned()),
    }
}
