//! A short run of the fuzz target `codec`, on any compiler: its corpus, the golden vectors, and
//! mutations of them.

#[path = "fuzzed/codec.rs"]
mod codec;

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

#[global_allocator]
static ALLOCATOR: codec::Counting = codec::Counting;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Checks an input; tells which one it was if that fails.
fn check(name: &str, input: &[u8]) {
    let checked = std::panic::catch_unwind(|| codec::check(input));
    assert!(checked.is_ok(), "{name}: {}", hex::encode(input));
}

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(ROOT).join(folder);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files = files.map(|file| file.unwrap().path()).collect::<Vec<_>>();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

/// The golden vectors as inputs: the byte that picks the message goes before each.
fn vectors() -> Vec<(String, Vec<u8>)> {
    let mut inputs = Vec::new();
    for (file, text) in files("spec/vectors") {
        let name = file.trim_end_matches(".json");
        let selector = codec::selector(name);
        let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let frame = hex::decode(case["hex"].as_str().unwrap()).unwrap();
            let title = format!("{name}: {}", case["case"].as_str().unwrap());
            inputs.push((title, [vec![selector], frame].concat()));
        }
    }
    inputs
}

#[test]
fn the_corpus_holds() {
    let files = files("fuzz/corpus/codec");
    assert!(files.len() >= 10);
    files.iter().for_each(|(name, input)| check(name, input));
}

#[test]
fn the_vectors_and_what_is_near_them_hold() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (name, input) in vectors() {
        check(&name, &input);
        for _ in 0..8 {
            let mut changed = input.clone();
            for _ in 0..1 + rng.next_u32() % 3 {
                let at = rng.next_u32() as usize % changed.len();
                match rng.next_u32() % 4 {
                    0 => changed[at] ^= 1 << (rng.next_u32() % 8),
                    1 => changed[at] = rng.next_u32() as u8,
                    2 => changed.truncate(at.max(1)),
                    _ => drop(changed.splice(at..at, [0, 0, 0, rng.next_u32() as u8 % 8])),
                }
            }
            check(&name, &changed);
        }
    }
}
