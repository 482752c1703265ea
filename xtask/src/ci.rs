//! Everything a change must pass, in one run.
//!
//! Owns: the list of steps, their order and their report. May not touch: what a step checks.
//! Invariant: every step runs, whatever failed before it, and the last line of output is the count.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    abi, bpf,
    console::{self, Finished},
    deps, kernels, run, setup,
    workspace::Workspace,
};

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// A step's name and what it does; its answer is a few words for the table.
type Step<'a> = (&'a str, Box<dyn Fn(&Path) -> anyhow::Result<String> + 'a>);

/// Runs every step; exit code 0 only if all passed.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    let logs = workspace.target.join("ci");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut rows = Vec::new();
    for (name, step) in steps(workspace) {
        println!("ci: {name} …");
        let log = logs.join(format!("{name}.log"));
        let started = Instant::now();
        let outcome = step(&log);
        let took = started.elapsed();
        if let Err(error) = &outcome {
            eprintln!("ci: {name} failed: {error:#}");
            if log.is_file() {
                eprintln!("ci: everything it said is in {}", log.display());
            }
        }
        rows.push((name, took, outcome));
    }
    println!();
    for (name, took, outcome) in &rows {
        let (result, detail) = match outcome {
            Ok(detail) => ("ok", detail.as_str()),
            Err(_) => ("FAILED", ""),
        };
        println!("{}", format!("{result:<7} {name:<13} {:>7.1} s  {detail}", took.as_secs_f64()).trim_end());
    }
    let failed = rows.iter().filter(|(.., outcome)| outcome.is_err()).count();
    println!("{} passed, {failed} failed", rows.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn steps(workspace: &Workspace) -> Vec<Step<'_>> {
    let cargo = |arguments: &'static [&'static str], environment: &'static [(&'static str, &'static str)]| {
        move |log: &Path| {
            let mut command = workspace.cargo(arguments[0]);
            command.args(&arguments[1..]).envs(environment.iter().copied());
            passed(&run_logged(arguments[0], command, log)?).map(|()| String::new())
        }
    };
    vec![
        ("setup", Box::new(|_| setup::for_running().map(|()| String::new()))),
        ("fmt", Box::new(cargo(&["fmt", "--all", "--check"], &[]))),
        ("check-deps", Box::new(|_| deps::check(workspace).map(|summary| detail(&summary)))),
        ("check-abi", Box::new(|_| abi::check(workspace).map(|summary| detail(&summary)))),
        ("clippy", Box::new(cargo(&["clippy", "--all-targets", "--keep-going", "--", "-Dwarnings"], &[]))),
        (
            "build",
            Box::new(cargo(&["build", "--release", "-p", "weir", "-p", "weir-e2e", "-p", "weir-bench"], &[])),
        ),
        ("clippy-bpf", Box::new(|log| passed(&bpf::lint(workspace, log)?).map(|()| String::new()))),
        ("check-bpf", Box::new(|_| bpf::check(workspace).map(|summary| detail(&summary)))),
        ("doc", Box::new(cargo(&["doc", "--no-deps"], &[("RUSTDOCFLAGS", "-Dwarnings")]))),
        ("test", Box::new(|log| unit_tests(workspace, log))),
        (
            "check-kernels",
            Box::new(|_| kernels::check(workspace, Vec::new(), false).map(|summary| detail(&summary))),
        ),
        ("e2e", Box::new(|log| end_to_end(workspace, log))),
    ]
}

/// The summary of a check without its name, which the table has already.
fn detail(summary: &str) -> String {
    summary.split_once(": ").map_or(summary, |(_, detail)| detail).to_owned()
}

fn unit_tests(workspace: &Workspace, log: &Path) -> anyhow::Result<String> {
    let mut total = 0;
    let mut problems = Vec::new();
    for (index, mut command) in run::unit_tests(workspace).into_iter().enumerate() {
        command.arg("--no-fail-fast");
        let log = part(log, index);
        problems.extend(passed(&run_logged("test", command, &log)?).err());
        total += count_tests(&fs::read_to_string(&log).context("cannot read the log of the tests")?);
    }
    if let Some(problem) = problems.pop() {
        return Err(problem);
    }
    if total == 0 {
        bail!("no test was run");
    }
    Ok(format!("{total} tests"))
}

/// Where the second and later commands of a step are logged.
fn part(log: &Path, index: usize) -> PathBuf {
    if index == 0 { log.to_owned() } else { log.with_extension(format!("{index}.log")) }
}

fn end_to_end(workspace: &Workspace, log: &Path) -> anyhow::Result<String> {
    let finished = run_logged("e2e", run::e2e_command(workspace, "run", &[])?, log)?;
    passed(&finished)?;
    Ok(finished.tail.back().cloned().unwrap_or_default())
}

fn run_logged(label: &str, command: Command, log: &Path) -> anyhow::Result<Finished> {
    console::watch(label, command, LIMIT, Some(log))
}

/// Shows the end of what a failed command said.
fn passed(finished: &Finished) -> anyhow::Result<()> {
    if !finished.success() {
        console::print_tail(finished);
        bail!("{}", finished.ending());
    }
    Ok(())
}

/// How many tests passed, from cargo's output.
fn count_tests(output: &str) -> usize {
    let summaries = output.lines().filter_map(|line| line.trim().strip_prefix("test result: ok. "));
    summaries.filter_map(|line| line.split_once(' ')?.0.parse::<usize>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_over_all_programs() {
        let output = "test result: ok. 7 passed; 0 failed\nnoise\n  test result: ok. 12 passed; 0 failed\n";
        assert_eq!(count_tests(output), 19);
    }
}
