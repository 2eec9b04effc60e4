//! A short run of the fuzz target `world`, on any compiler: its corpus, and worlds of random bytes.

use std::path::{Path, PathBuf};

use tidegate_sim::{Entropy, fuzzed};

/// Runs a world; if a check fails, tells how to run it again.
fn check(bytes: &[u8], file: impl FnOnce() -> PathBuf) {
    let broken = match std::panic::catch_unwind(|| fuzzed(bytes)) {
        Ok(report) => report.broken.map(|broken| broken.to_string()),
        Err(_) => Some("a panic, above".to_owned()),
    };
    if let Some(broken) = broken {
        panic!("{broken}\nagain: cargo run -- sim run fuzz --bytes {}", file().display());
    }
}

#[test]
fn the_corpus_holds() {
    let folder = Path::new("../../fuzz/corpus/world");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        check(&bytes, || Path::new("fuzz/corpus/world").join(path.file_name().unwrap()));
        count += 1;
    }
    assert!(count >= 10);
}

#[test]
fn worlds_of_random_bytes_hold() {
    for seed in 0..300 {
        let mut entropy = Entropy::seed(seed);
        let length = [100, 400, 1200][seed as usize % 3];
        let bytes = (0..length).map(|_| entropy.byte()).collect::<Vec<_>>();
        check(&bytes, || {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{seed}.bytes"));
            std::fs::write(&path, &bytes).unwrap();
            path
        });
    }
}

/// The largest items of these worlds are chunked, and must arrive.
#[test]
fn items_come_in_chunks() {
    let report = fuzzed(&[]);
    assert_eq!(report.broken, None);
    assert!(report.useful_bytes > 4 * 62_000, "{} bytes", report.useful_bytes);
}
