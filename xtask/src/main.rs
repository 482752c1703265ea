//! weir's project commands: `cargo xtask setup | build | dist | demo | e2e | bench | test | ci | check-…`.
//!
//! Owns: the command line. May not touch: weir's crates; it builds and runs them, and reads their sources, so
//! that it compiles in seconds on a machine that has nothing but a stable Rust and a C compiler.

mod abi;
mod bpf;
mod ci;
mod console;
mod deps;
mod dist;
mod kernels;
mod placement;
mod run;
mod setup;
mod source;
mod workspace;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use workspace::Workspace;

/// weir's project commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing to build and try weir; quick when nothing is.
    Setup,
    /// Build the weir binary, BPF programs included.
    Build {
        /// Optimized.
        #[arg(long)]
        release: bool,
    },
    /// Build the binary to hand out: optimized, stripped, static, in `target/dist`.
    Dist,
    /// Show real requests going through weir, in a lab of network namespaces.
    Demo {
        /// The last line of standard output is one JSON object.
        #[arg(long)]
        json: bool,
        /// Leave the lab up and say how to enter it.
        #[arg(long)]
        keep: bool,
        /// More options for `weir-e2e demo`.
        #[arg(last = true)]
        rest: Vec<OsString>,
    },
    /// Run the end-to-end tests.
    E2e {
        /// Only this suite; may be given more than once.
        #[arg(long, value_name = "NAME")]
        suite: Vec<OsString>,
        /// More options for `weir-e2e run`.
        #[arg(last = true)]
        rest: Vec<OsString>,
    },
    /// Measure the datapath in nanoseconds per packet.
    Bench {
        /// In packets per second instead, with live traffic through the attached program.
        #[arg(long)]
        live: bool,
        /// The last line of standard output is one JSON object.
        #[arg(long)]
        json: bool,
        /// More options for `weir-bench`.
        #[arg(last = true)]
        rest: Vec<OsString>,
    },
    /// Run every test: unit, property, documentation, packet fixtures, end to end.
    Test,
    /// Run every check that a change must pass, and every test.
    Ci,
    /// Check that crates depend only in the allowed directions, and where `unsafe` is.
    CheckDeps,
    /// Check that the bytes shared with the kernel did not change without a new ABI version.
    CheckAbi {
        /// Record the present state.
        #[arg(long)]
        bless: bool,
        /// With --bless: keep the version although the layout changed; only while it is in no release.
        #[arg(long, requires = "bless")]
        unreleased: bool,
    },
    /// Check that the BPF objects contain no panic and no unexpected function call.
    CheckBpf,
    /// Check that the running kernel and Debian 12's accept every BPF program, within its budget, and run it right.
    CheckKernels {
        /// Another kernel than Debian's, a vmlinuz for x86-64; may be given more than once.
        #[arg(long, value_name = "PATH")]
        kernel: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    match dispatch(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Setup => setup::for_running().map(|()| {
            eprintln!("setup: everything is in place");
            ExitCode::SUCCESS
        }),
        Command::Build { release } => run::build(&workspace, release).map(done),
        Command::Dist => dist::build(&workspace).map(|summary| report(&summary)),
        Command::Demo { json, keep, rest } => run::demo(&workspace, json, keep, &rest),
        Command::E2e { suite, rest } => run::e2e(&workspace, &suite, &rest),
        Command::Bench { live, json, rest } => run::bench(&workspace, live, json, &rest),
        Command::Test => run::test(&workspace).map(done),
        Command::Ci => ci::run(&workspace),
        Command::CheckDeps => deps::check(&workspace).map(|summary| report(&summary)),
        Command::CheckAbi { bless: false, .. } => abi::check(&workspace).map(|summary| report(&summary)),
        Command::CheckAbi { bless: true, unreleased } => {
            abi::bless(&workspace, unreleased).map(|summary| report(&summary))
        }
        Command::CheckBpf => bpf::check(&workspace).map(|summary| report(&summary)),
        Command::CheckKernels { kernel } => {
            kernels::check(&workspace, kernel, true).map(|summary| report(&summary))
        }
    }
}

fn report(summary: &str) -> ExitCode {
    println!("{summary}");
    ExitCode::SUCCESS
}
