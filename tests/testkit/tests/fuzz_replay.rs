//! The kept inputs of all fuzz targets, run through the very bodies that libFuzzer calls.
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use weir_testkit::fuzz::TARGETS;

/// The directory of the fuzz crate.
fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// What is in a directory, in order; nothing if there is none.
fn entries(directory: &Path) -> Vec<PathBuf> {
    if !directory.exists() {
        return Vec::new();
    }
    let mut paths: Vec<PathBuf> =
        directory.read_dir().expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// The names, without endings, of what is in a directory.
fn names(directory: &Path) -> Vec<String> {
    entries(directory)
        .iter()
        .map(|path| path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned())
        .collect()
}

#[test]
fn every_kept_input_holds() {
    let mut failed = Vec::new();
    for (name, body) in TARGETS {
        let corpus = entries(&fuzz().join("corpus").join(name));
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty: `cargo run -p weir-fuzz --example seeds`");
        for path in corpus.into_iter().chain(entries(&fuzz().join("regressions").join(name))) {
            let data = fs::read(&path).expect("a readable input");
            if catch_unwind(|| body(&data)).is_err() {
                failed.push(format!("cargo run -p weir-fuzz --bin {name} {}", path.display()));
            }
        }
    }
    assert!(failed.is_empty(), "{} inputs fail; one by one:\n  {}", failed.len(), failed.join("\n  "));
}

#[test]
fn every_target_has_a_program_and_every_input_a_target() {
    let targets = TARGETS.map(|(name, _)| name);
    let mut sorted = targets.to_vec();
    sorted.sort_unstable();
    assert_eq!(names(&fuzz().join("fuzz_targets")), sorted, "programs in fuzz/fuzz_targets");
    for kept in ["corpus", "regressions"] {
        for name in names(&fuzz().join(kept)) {
            assert!(targets.contains(&name.as_str()), "fuzz/{kept}/{name} is of no target");
        }
    }
}
