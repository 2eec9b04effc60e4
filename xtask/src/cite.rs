//! The tie between the specification and the code: each requirement is cited where the code
//! enforces it, and by a test that fails without.

use std::collections::{BTreeMap, BTreeSet};

/// What a requirement in the specification begins with, and ends its label with.
const OPEN: &str = "**R";
const CLOSE: &str = "**";

/// Where a label is cited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cited {
    code: bool,
    test: bool,
}

/// Checks the sources, each with its name: how many requirements there are, or what is wrong.
pub(crate) fn check(spec: &str, sources: &[(String, String)]) -> Result<usize, Vec<String>> {
    // The tests of this file cite what does not exist.
    let others = sources.iter().filter(|(name, _)| name != "xtask/src/cite.rs");
    compare(spec, others.map(|(name, text)| (name.as_str(), text.as_str())))
}

fn compare<'a>(
    spec: &str,
    sources: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<usize, Vec<String>> {
    let mut errors = unlabelled(spec);
    let mut labels = BTreeMap::new();
    for label in spec.lines().filter_map(label) {
        if labels.insert(label, Cited::default()).is_some() {
            errors.push(format!("{label}: twice in the specification"));
        }
    }
    for (path, text) in sources {
        let mut unknown = BTreeSet::new();
        for (cited, test) in citations(path, text) {
            match labels.get_mut(cited) {
                Some(at) if test => at.test = true,
                Some(at) => at.code = true,
                None => drop(unknown.insert(cited)),
            }
        }
        let unknown = unknown.into_iter();
        errors.extend(unknown.map(|label| format!("{label}: cited by {path}, not specified")));
    }
    for (label, cited) in &labels {
        if !cited.code {
            errors.push(format!("{label}: no code cites it"));
        }
        if !cited.test {
            errors.push(format!("{label}: no test cites it"));
        }
    }
    if errors.is_empty() { Ok(labels.len()) } else { Err(errors) }
}

/// The label that a line of the specification begins with.
fn label(line: &str) -> Option<&str> {
    let rest = line.strip_prefix(OPEN)?;
    let (number, _) = rest.split_once(CLOSE)?;
    Some(&line[OPEN.len() - 1..OPEN.len() + number.len()])
}

/// Sentences that require something and have no label.
fn unlabelled(spec: &str) -> Vec<String> {
    let mut errors = Vec::new();
    for block in blocks(spec) {
        for sentence in block.split_inclusive(". ") {
            if requires(sentence) && !sentence.starts_with(OPEN) {
                errors.push(format!("without a label: {}", sentence.trim()));
            }
        }
    }
    errors
}

/// Whether there is a MUST in it. One in quotation marks is only talked about.
fn requires(sentence: &str) -> bool {
    let mut words = sentence.split(|c: char| !c.is_alphanumeric() && c != '"');
    words.any(|word| word == "MUST")
}

/// Paragraphs, list items and rows of tables, each in one line; code is left out.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut code = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            code = !code;
        } else if !code {
            let item = line.starts_with("- ") || line.starts_with('|');
            if item || line.is_empty() || line.starts_with(OPEN) {
                blocks.push(String::new());
            }
            if let Some(block) = blocks.last_mut() {
                block.push_str(line);
                block.push(' ');
            }
        }
    }
    blocks
}

/// Labels in comments, and whether each is in a test.
fn citations<'a>(path: &str, text: &'a str) -> Vec<(&'a str, bool)> {
    let test_file = ["/tests/", "/conformance/"].iter().any(|folder| path.contains(folder))
        || path.ends_with("/tests.rs");
    let lines = text.lines().collect::<Vec<_>>();
    // A single item may be for tests as well: the rest of the file is not.
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "))
        .unwrap_or(lines.len());
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((_, comment)) = line.split_once("//") else { continue };
        let words = comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
        let labels = words.map(|word| word.trim_end_matches('.')).filter(|word| is_label(word));
        found.extend(labels.map(|label| (label, test_file || at > tests)));
    }
    found
}

fn is_label(word: &str) -> bool {
    let Some(numbers) = word.strip_prefix('R') else { return false };
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    numbers.contains('.') && numbers.split('.').all(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "\
As in \"MUST\" of RFC 2119.

**R1.1** A node MUST be. It\nis well.

**R1.2.1** A node MUST NOT
be.

```text
MUST
```
";

    fn errors(spec: &str, sources: &[(&str, &str)]) -> Vec<String> {
        compare(spec, sources.iter().copied()).err().unwrap_or_default()
    }

    #[test]
    fn labels_cited_in_code_and_test_are_accepted() {
        let code = "a(); // R1.1: why, and R1.2.1.\n#[cfg(test)]\nmod tests {\n// R1.1\n}\n";
        let sources = [("crates/a/src/lib.rs", code), ("crates/a/tests/b.rs", "/// R1.2.1\n")];
        assert_eq!(compare(SPEC, sources.into_iter()), Ok(2));
    }

    #[test]
    fn missing_citations_are_named() {
        // Not in a comment; and a test item is not the test module.
        let code = "let r = \"R1.1\";\n#[cfg(test)]\nfn x() {}\n// R1.2.1\n// R9.9 RFC R1 R1.x";
        let errors = errors(SPEC, &[("crates/a/src/lib.rs", code)]);
        let expected = [
            "R9.9: cited by crates/a/src/lib.rs, not specified",
            "R1.1: no code cites it",
            "R1.1: no test cites it",
            "R1.2.1: no test cites it",
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn labels_are_unique_and_on_every_requirement() {
        let spec = "**R1.1** It MUST. It MUST too.\n\n**R1.1** Yes.\n\n- It MUST NOT.\n| MUST |\n";
        let errors = errors(spec, &[("crates/a/src/tests.rs", "// R1.1"), ("a.rs", "// R1.1")]);
        let expected = [
            "without a label: It MUST too.",
            "without a label: - It MUST NOT.",
            "without a label: | MUST |",
            "R1.1: twice in the specification",
        ];
        assert_eq!(errors, expected);
    }
}
