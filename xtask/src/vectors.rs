//! The golden vectors in `spec/vectors`: what they are made of, and how they are checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use serde_json::{Value, json};

use crate::schema::value::{Fill, Sampler, read};
use crate::schema::{ItemKind, Schema, Type, camel};

/// Random cases for each message.
const CASES: u64 = 32;

/// One file of vectors: the type it is about, and the text.
pub(crate) struct VectorFile {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What has vectors: the messages of the channels, what is signed, and what travels in chunks.
fn subjects(schema: &Schema) -> Vec<String> {
    schema
        .items
        .iter()
        .filter(|item| {
            let signed_or_nested = [
                "RecordPayload",
                "BlockBody",
                "Description",
                "Said",
                "Statement",
                "SignedStatement",
            ];
            item.name.ends_with("Message") || signed_or_nested.contains(&item.name.as_str())
        })
        .map(|item| item.name.clone())
        .collect()
}

/// Makes all files of vectors.
pub(crate) fn generate(schema: &Schema) -> Vec<VectorFile> {
    subjects(schema)
        .into_iter()
        .map(|name| {
            let cases = match &schema.item(&name).expect("a subject").kind {
                ItemKind::Union(union) => {
                    let variant = |arm: usize| match &schema.item(&union.switch).map(|i| &i.kind) {
                        Some(ItemKind::Enum(members)) => {
                            camel(&members[union.arms[arm].member].name)
                        }
                        _ => unreachable!("checked by the parser"),
                    };
                    (0..union.arms.len())
                        .flat_map(|arm| cases(schema, &name, Some(arm), &variant(arm)))
                        .collect::<Vec<_>>()
                }
                _ => cases(schema, &name, None, &name),
            };
            VectorFile { text: text(&name, &cases), name: format!("{name}.json") }
        })
        .collect()
}

fn cases(schema: &Schema, name: &str, arm: Option<usize>, what: &str) -> Vec<Value> {
    let label = format!("tidegate vectors {name} {what}");
    let mut seed = [0; 32];
    for (i, byte) in label.bytes().enumerate() {
        seed[i % 32] ^= byte.rotate_left(i as u32 / 32);
    }
    let mut rng = ChaCha8Rng::from_seed(seed);
    let fills = [("least", Fill::Least), ("most", Fill::Most)];
    let named = fills.into_iter().map(|(label, fill)| (format!("{what}, {label}"), fill));
    let random = (0..CASES).map(|i| (format!("{what}, random {i}"), Fill::Some));
    named
        .chain(random)
        .map(|(label, fill)| {
            let mut bytes = Vec::new();
            let ty = Type::Named(name.to_owned());
            let mut sampler = Sampler { schema, rng: &mut rng, fill, depth: 0 };
            let value = sampler.sample(&ty, arm, &mut bytes);
            json!({ "case": label, "hex": hex::encode(bytes), "value": value })
        })
        .collect()
}

/// One case a line, so that a change shows as the lines it changes.
fn text(name: &str, cases: &[Value]) -> String {
    let mut text = format!("{{\"type\":\"{name}\",\"cases\":[\n");
    for (i, case) in cases.iter().enumerate() {
        let comma = if i + 1 < cases.len() { "," } else { "" };
        let _ = writeln!(text, "{case}{comma}");
    }
    text + "]}\n"
}

/// Checks files of vectors against a schema; the error names the first case that fails.
pub(crate) fn check(schema: &Schema, files: &BTreeMap<String, String>) -> Result<usize, String> {
    let mut checked = 0;
    for (file, text) in files {
        let parsed: Value = serde_json::from_str(text).map_err(|e| format!("{file}: {e}"))?;
        let ty = Type::Named(parsed["type"].as_str().unwrap_or_default().to_owned());
        for case in parsed["cases"].as_array().into_iter().flatten() {
            let bytes = hex::decode(case["hex"].as_str().unwrap_or_default());
            let value = bytes.ok().and_then(|bytes| read(schema, &ty, &bytes));
            if value.as_ref() != Some(&case["value"]) {
                return Err(format!("{file}: {}: reads {value:?}", case["case"]));
            }
            checked += 1;
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::parse::parse;

    fn fixture() -> (Schema, BTreeMap<String, String>) {
        let schema = parse(include_str!("../../spec/tidegate.x")).unwrap();
        let files = generate(&schema).into_iter().map(|f| (f.name, f.text)).collect();
        (schema, files)
    }

    #[test]
    fn the_schema_reads_its_own_vectors() {
        let (schema, files) = fixture();
        let checked = check(&schema, &files).unwrap();
        assert!(checked >= 26 * 34, "{checked}");
    }

    /// No two fields, constants or arms can change places without a vector that notices.
    #[test]
    fn every_swap_in_the_schema_breaks_a_vector() {
        let (schema, files) = fixture();
        let mut swaps = 0;
        for (at, item) in schema.items.iter().enumerate() {
            let members = match &item.kind {
                ItemKind::Enum(members) => members.len(),
                ItemKind::Struct(fields) => fields.len(),
                _ => 0,
            };
            for a in 0..members {
                for b in a + 1..members {
                    let mut swapped = schema.clone();
                    match &mut swapped.items[at].kind {
                        ItemKind::Struct(fields) => fields.swap(a, b),
                        ItemKind::Enum(members) => {
                            let value = members[a].value;
                            members[a].value = members[b].value;
                            members[b].value = value;
                        }
                        _ => unreachable!("it has members"),
                    }
                    assert!(
                        check(&swapped, &files).is_err(),
                        "{} and {} of {} change places unnoticed",
                        a,
                        b,
                        item.name
                    );
                    swaps += 1;
                }
            }
        }
        assert!(swaps > 150, "{swaps}");
    }
}
