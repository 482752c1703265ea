//! What makes a fuzz target of a body in `weir_testkit::fuzz`.
//!
//! Owns: the difference between a build by `cargo fuzz` (`--cfg fuzzing`: libFuzzer calls the body) and an ordinary one (a
//! program that runs the body over the files it is given). May not touch: what is tested. Invariant: an ordinary build
//! needs neither libFuzzer nor a nightly compiler, so targets are compiled and linted with everything else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(fuzzing)]
pub use libfuzzer_sys;
pub use weir_testkit::fuzz as bodies;

/// The program of the fuzz target with this name.
#[cfg(fuzzing)]
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::bodies::$name(data));
    };
}

/// The program of the fuzz target with this name.
#[cfg(not(fuzzing))]
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        fn main() -> std::process::ExitCode {
            $crate::replay($crate::bodies::$name)
        }
    };
}

/// Runs a body over the files named on the command line, those in directories included. A finding ends it with the
/// body's own words.
pub fn replay(body: fn(&[u8])) -> ExitCode {
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        eprintln!("name inputs to run (files or directories); to look for new ones run `cargo fuzz`");
        return ExitCode::FAILURE;
    }
    while let Some(path) = paths.pop() {
        if let Err(error) = run(body, &path, &mut paths) {
            eprintln!("cannot read the input {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(body: fn(&[u8]), path: &Path, more: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in path.read_dir()? {
            more.push(entry?.path());
        }
        return Ok(());
    }
    let data = std::fs::read(path)?;
    println!("{} ({} bytes)", path.display(), data.len());
    body(&data);
    Ok(())
}
