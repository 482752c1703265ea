//! Packet suites recorded from another load balancer, sent through weir's verified programs and compared.
//!
//! Owns: the command line. The way of a suite: `schema` (its files) -> `peer` (what the other one was built to do) ->
//! `provision` (weir's configuration file, through its parser and planner) -> `director` or `agent` (the program in the
//! kernel, under BPF_PROG_TEST_RUN) -> `compare` -> `differences` -> `report`.
//!
//! The form of the files, how packets are compared and what the report says: docs/src/replay.md.

mod agent;
mod compare;
mod differences;
mod director;
mod outer;
mod packet;
mod peer;
mod provision;
mod replay;
mod report;
mod schema;
mod service;
mod tables;
mod verdict;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Parser;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Sends packet suites through weir's verified programs and compares what comes out.
#[derive(Parser, Debug)]
#[command(name = "weir-replay", version)]
struct Args {
    /// A directory with `fixtures/SUITE.json` and `provision/SUITE.json`.
    directory: PathBuf,
    /// Only this suite; may be given more than once.
    #[arg(long, value_name = "NAME")]
    suite: Vec<String>,
    /// Show the configuration that each suite's provision becomes.
    #[arg(long)]
    show_configuration: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let names = suites(&args.directory, &args.suite)?;
    keep_mounts_private()?;
    let mut replayed = Vec::new();
    for name in names {
        let suite = replay::replay(&args.directory, &name);
        println!("{}", report::suite(&suite, args.show_configuration));
        replayed.push(suite);
    }
    print!("{}", report::summary(&replayed));
    let failed = report::Tally::of(&replayed).failed;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of the suites there are, or of those that are wanted.
fn suites(directory: &Path, wanted: &[String]) -> anyhow::Result<Vec<String>> {
    let fixtures = directory.join("fixtures");
    let doing = || format!("cannot list the suites in {}", fixtures.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&fixtures).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    if let Some(missing) = wanted.iter().find(|name| !names.contains(name)) {
        bail!("there is no suite {missing} in {}; there are: {}", fixtures.display(), names.join(", "));
    }
    if names.is_empty() {
        bail!("there is no suite in {}; one is a file NAME.json", fixtures.display());
    }
    names.retain(|name| wanted.is_empty() || wanted.contains(name));
    Ok(names)
}

/// So that a bpffs that is mounted here goes with the process, however that ends.
fn keep_mounts_private() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("this needs root, for mounts of its own")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("cannot make its mounts private")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_the_json_files_of_a_directory() {
        let root = std::env::temp_dir().join(format!("weir-replay-suites-{}", std::process::id()));
        let fixtures = root.join("fixtures");
        fs::create_dir_all(&fixtures).expect("temporary directory");
        let empty = suites(&root, &[]).expect_err("nothing there").to_string();
        for name in ["b.json", "a.json", "notes.txt"] {
            fs::write(fixtures.join(name), "").expect("temporary file");
        }
        let all = suites(&root, &[]);
        let one = suites(&root, &["b".to_owned()]);
        let none = suites(&root, &["c".to_owned()]).map_err(|error| error.to_string());
        fs::remove_dir_all(&root).expect("temporary directory");
        assert!(empty.contains("no suite"), "{empty}");
        assert_eq!(
            (all.expect("two"), one.expect("one")),
            (vec!["a".to_owned(), "b".to_owned()], vec!["b".to_owned()])
        );
        assert!(none.expect_err("no such suite").ends_with("there are: a, b"));
    }
}
