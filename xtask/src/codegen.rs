//! `cargo xtask codegen`: the codec and the vectors, from `spec/tidegate.x`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::{Result, read, root, schema, vectors};

/// Writes the generated files, or checks that they are current.
pub(crate) fn run(check: bool) -> Result {
    let text = read(&root().join("spec/tidegate.x"))?;
    let schema =
        schema::parse::parse(&text).map_err(|error| format!("spec/tidegate.x: {error}"))?;
    let mut files = BTreeMap::new();
    files.insert(
        "crates/tidegate-proto/src/wire/schema.rs".to_owned(),
        rustfmt(&schema::rust::generate(&schema))?,
    );
    let made = vectors::generate(&schema).into_iter().map(|file| (file.name, file.text));
    let made = made.collect::<BTreeMap<_, _>>();
    // What writes them and what reads them are two pieces of code: they check each other.
    vectors::check(&schema, &made)?;
    let types = made.keys().filter_map(|name| name.strip_suffix(".json"));
    let subjects = types.map(|name| format!("SUBJECT({name}),\n")).collect::<String>();
    let subjects =
        format!("/* Written by `cargo xtask codegen`: the types that have vectors. */\n{subjects}");
    files.insert("spec/check/subjects.h".to_owned(), subjects);
    files.extend(made.into_iter().map(|(name, text)| (format!("spec/vectors/{name}"), text)));
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

/// Formats Rust code as the project's `cargo fmt` does.
fn rustfmt(code: &str) -> Result<String> {
    use std::io::Write as _;
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
    if output.status.success() {
        String::from_utf8(output.stdout).map_err(|_| "rustfmt wrote no text".to_owned())
    } else {
        Err("rustfmt refused the generated code".to_owned())
    }
}
