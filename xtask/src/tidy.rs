//! `cargo xtask tidy`: the shape of the code, and the ties between specification, code and tests.

use std::path::{Path, PathBuf};

use crate::{Result, checks, cite, read, root};

/// Lines of a file before its tests: beyond, it has more than one subject.
const FILE: usize = 800;
/// Lines of a function.
const FUNCTION: usize = 100;
/// Lines of the README, and of ARCHITECTURE.md at most.
const README: std::ops::RangeInclusive<usize> = 100..=150;
const ARCHITECTURE: usize = 250;
/// Crates whose modules others read, and what each module says at its top.
const PUBLISHED: [&str; 2] = ["crates/tidegate/src/", "crates/tidegate-proto/src/"];
const NOT: &str = "//! # Not guaranteed";
/// Written by a program, and read by none.
const GENERATED: &str = "wire/schema.rs";

/// Names what is too long, and which requirements are without code or test.
pub(crate) fn check() -> Result {
    let mut found = Vec::new();
    let mut files = Vec::new();
    for path in sources()? {
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        files.push((name, read(&path)?));
    }
    for (name, text) in files.iter().filter(|(name, _)| !name.ends_with(GENERATED)) {
        found.extend(look(text).into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    let lines = |name: &str| Ok::<_, String>(read(&root().join(name))?.lines().count());
    let readme = lines("README.md")?;
    if !shows_example(&read(&root().join("README.md"))?)? {
        found.push(format!("README.md does not show {EXAMPLE} as it is, from its main on"));
    }
    if !README.contains(&readme) {
        found.push(format!("README.md has {readme} lines, not {README:?}"));
    }
    let architecture = lines("ARCHITECTURE.md")?;
    if architecture > ARCHITECTURE {
        found.push(format!("ARCHITECTURE.md has {architecture} lines, over {ARCHITECTURE}"));
    }
    let silent = files.iter().filter(|(name, text)| is_public(name, &files) && !text.contains(NOT));
    found.extend(silent.map(|(name, _)| format!("{name}: a public module without `{NOT}`")));
    for (name, manifest) in checks::outside_of_web()? {
        let wrong = checks::names_wasm_bindgen(&manifest);
        let wrong = wrong.map_err(|error| format!("{name}: {error}"))?;
        found.extend(wrong.map(|package| format!("{name}: {package} belongs in web/")));
    }
    match cite::check(&read(&root().join("spec/README.md"))?, &files) {
        Ok(labels) => println!("{labels} requirements have their code and a test"),
        Err(wrong) => found.extend(wrong),
    }
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

/// Whether a file is a module that users of the published crates see: one that its crate or the
/// module above declares as public. The guide is about everything.
fn is_public(name: &str, files: &[(String, String)]) -> bool {
    let Some(path) = PUBLISHED.iter().find_map(|folder| name.strip_prefix(folder)) else {
        return false;
    };
    let folder = &name[..name.len() - path.len()];
    let Some(path) = path.strip_suffix(".rs").filter(|path| *path != "guide") else { return false };
    let (above, module) = match path.rsplit_once('/') {
        Some((above, module)) => (format!("{folder}{above}.rs"), module),
        None => (format!("{folder}lib.rs"), path),
    };
    let declared = format!("pub mod {module};");
    path == "lib" || files.iter().any(|(name, text)| *name == above && declares(text, &declared))
}

/// Whether a module is declared, and not hidden from the documentation.
fn declares(text: &str, declared: &str) -> bool {
    let mut before = "";
    text.lines().any(|line| {
        let found = line == declared && before != "#[doc(hidden)]";
        before = line;
        found
    })
}

/// What is wrong with one file. It is formatted, so a function ends where a brace stands as far
/// to the right as the function began.
fn look(text: &str) -> Vec<String> {
    let lines = text.lines().collect::<Vec<_>>();
    let before_tests = lines.iter().position(|line| line.starts_with("#[cfg(test)]"));
    let length = before_tests.unwrap_or(lines.len());
    let mut found = Vec::new();
    if length > FILE {
        found.push(format!("{length} lines before its tests, over {FILE}"));
    }
    for (at, line) in lines.iter().enumerate() {
        found.extend(phrase(line).map(|phrase| format!("line {}: {phrase}", at + 1)));
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let words = code.split_whitespace().take_while(|word| !word.starts_with('('));
        if code.starts_with("//") || !words.take(5).any(|word| word == "fn") {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let after = lines[at..].iter().position(|line| **line == end);
        if after.is_some_and(|after| after + 1 > FUNCTION) {
            let length = after.unwrap_or_default() + 1;
            found.push(format!("line {}: {length} lines in a function, over {FUNCTION}", at + 1));
        }
    }
    found
}

/// Phrases that are refused in comments, and what to write instead.
const PHRASES: [(&str, &str); 14] = [
    ("he", "a peer is `it` or `they`"),
    ("him", "a peer is `it` or `them`"),
    ("his", "a peer's things are `its` or `their`"),
    ("anew", "say `again`, or what is restarted"),
    ("so many", "say which number"),
    ("so much", "say which amount"),
    ("for so long", "say how long"),
    ("somebody", "say who, or `a peer`"),
    ("be had", "say `available`"),
    ("comes to nothing", "say `fails`"),
    ("come to nothing", "say `failed`"),
    ("what came of", "say `the result of`"),
    ("of now", "say `current`"),
    ("to be looked at", "say `to be checked`"),
];

/// The program that the README shows.
const EXAMPLE: &str = "crates/tidegate/examples/minimal.rs";

/// Whether the README shows the example as it is: so what it shows is compiled.
fn shows_example(readme: &str) -> Result<bool> {
    let example = read(&root().join(EXAMPLE))?;
    let main = example.find("#[tokio::main]").map(|at| &example[at..]);
    Ok(main.is_some_and(|main| readme.contains(main)))
}

/// The refused phrase in the comment of a line, if there is one.
fn phrase(line: &str) -> Option<String> {
    let (_, comment) = line.split_once("//")?;
    let words = comment.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words = format!(" {} ", words.collect::<Vec<_>>().join(" ").to_lowercase());
    let (word, instead) = PHRASES.iter().find(|(word, _)| words.contains(&format!(" {word} ")))?;
    Some(format!("`{word}` in a comment: {instead}"))
}

/// All Rust files of the project.
pub(crate) fn sources() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "fuzz", "bench", "transports", "web"] {
        collect(&root().join(folder), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("    pub(crate) async fn f() {{\n{}    }}\n", "        x;\n".repeat(lines - 2))
    }

    #[test]
    fn comments_with_refused_phrases_are_found() {
        // Without the slashes, or this file would be found out.
        let refused = [
            "Whether he is there.",
            "so many bytes",
            "Set anew.",
            "Somebody else has it.",
            "It cannot be had.",
            "It comes to nothing.",
            "What came of the dial.",
            "It waits for so long.",
        ];
        for refused in refused {
            let slash = '/';
            assert_eq!(look(&format!("x(); {slash}{slash} {refused}")).len(), 1, "{refused}");
        }
        for fine in [
            "let he = 1;",
            "let url = \"http\";",
            "// the renewal of this",
            "// so that many",
            "// as of nowhere",
            "// it had been",
        ] {
            assert_eq!(look(fine), Vec::<String>::new(), "{fine}");
        }
    }

    #[test]
    fn functions_have_a_bounded_length() {
        assert_eq!(look(&function(FUNCTION)), Vec::<String>::new());
        assert_eq!(look(&function(FUNCTION + 1)).len(), 1);
    }

    #[test]
    fn files_have_a_bounded_length_before_their_tests() {
        let tests = format!("#[cfg(test)]\n{}", "x\n".repeat(FILE));
        assert_eq!(look(&("x\n".repeat(FILE) + &tests)), Vec::<String>::new());
        assert_eq!(look(&("x\n".repeat(FILE + 1) + &tests)).len(), 1);
    }
}
