//! End-to-end tests of the `weir` binary in network namespaces, and the demonstration built on the same parts.
//!
//! Owns: the command line. May not touch: weir's crates; everything here goes through the `weir` binary as a user
//! would, so that the tests hold for what is shipped.
//!
//! A new suite is a file `src/<suite>.rs` with a `pub(crate) const SUITE`, and a line in [`SUITES`]; see
//! [`harness`] for an example.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

mod array;
mod basic;
mod capture;
mod clients;
mod control;
mod datagram;
mod datapath;
mod demo;
mod director;
mod errors;
mod gue;
mod harness;
mod interrupt;
mod iptunnel;
mod lab;
mod load;
mod network;
mod real;
mod stream;
mod weir;

use harness::Suite;
use weir::Weir;

/// Every suite, in the order they run.
static SUITES: &[&Suite] = &[
    &lab::SUITE,
    &basic::SUITE,
    &real::SUITE,
    &datapath::SUITE,
    &clients::SUITE,
    &control::SUITE,
    &array::SUITE,
    &errors::SUITE,
    &iptunnel::SUITE,
];

/// End-to-end tests of weir in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "weir-e2e")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the suites; exit code 0 only if every case passed.
    Run {
        /// Only this suite; may be given more than once.
        #[arg(long, value_name = "NAME")]
        suite: Vec<String>,
        /// Only cases whose name contains this.
        #[arg(long, value_name = "TEXT")]
        case: Option<String>,
        /// The binary under test.
        #[arg(long, value_name = "PATH")]
        weir: PathBuf,
    },
    /// Show weir at work: real requests through a VIP, packets on the wire, counters, a reload.
    Demo(demo::DemoArgs),
    /// List suites and cases.
    List,
    #[command(hide = true)]
    Client(load::ClientArgs),
    #[command(hide = true)]
    Echo(stream::EchoArgs),
    #[command(hide = true)]
    Streams(stream::StreamsArgs),
    #[command(hide = true)]
    GueSend(gue::SendArgs),
    #[command(hide = true)]
    DatagramEcho(gue::EchoArgs),
    #[command(hide = true)]
    DatagramReceive(gue::ReceiveArgs),
    #[command(hide = true)]
    DatagramAsk(datagram::AskArgs),
}

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Run { suite, case, weir } => run(&suite, case.as_deref(), &weir),
        Command::Demo(args) => demo::run(&args),
        Command::Client(args) => {
            load::client(&args);
            Ok(ExitCode::SUCCESS)
        }
        Command::Echo(args) => stream::echo(&args).map(|()| ExitCode::SUCCESS),
        Command::Streams(args) => {
            stream::streams(&args);
            Ok(ExitCode::SUCCESS)
        }
        Command::GueSend(args) => gue::send(&args).map(|()| ExitCode::SUCCESS),
        Command::DatagramEcho(args) => gue::echo(&args).map(|()| ExitCode::SUCCESS),
        Command::DatagramReceive(args) => gue::receive(&args).map(|()| ExitCode::SUCCESS),
        Command::DatagramAsk(args) => datagram::ask(&args).map(|()| ExitCode::SUCCESS),
        Command::List => {
            harness::list(SUITES);
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(names: &[String], case: Option<&str>, weir: &Path) -> anyhow::Result<ExitCode> {
    let weir = Weir::new(weir)?;
    interrupt::watch(weir.clone()).context("cannot watch for Ctrl-C")?;
    let selected = harness::select(SUITES, names)?;
    let tally = harness::run(&selected, case, &weir)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
