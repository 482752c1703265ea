//! The one binary: which command was asked for, and how its outcome is told.
//!
//! Owns: the command line's first level, exit codes, how an error is printed. Each command lives in its own module.
//! Invariant: a failed command prints one `error: …` line (what was being done, to what, why it failed) and, where
//! there is something to do about it, one `help: …` line; its exit code is not 0.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod advice;
mod client;
mod iptunnel;
mod lab;
mod real;
mod reload;
mod respond;
mod root;
mod run;
mod status;
mod version;

/// A layer-4 load balancer for Linux: XDP, IPIP, direct server return.
#[derive(Debug, Parser)]
#[command(name = "weir", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the director: balance the services of a configuration file.
    Run(run::RunArgs),
    /// Put an edited configuration into force.
    Reload(reload::ReloadArgs),
    /// Show what the director does now.
    Status(status::StatusArgs),
    /// Show which weir this is, and which one runs.
    Version(version::VersionArgs),
    /// Set up, show and undo what a real server needs.
    Real(real::RealArgs),
    /// Call several XDP programs, position after position.
    Root(root::RootArgs),
    /// Try weir in network namespaces of its own.
    Lab(lab::LabArgs),
    /// Wrap packets for a VIP like the Linux sample `xdp_tx_iptunnel`.
    #[command(disable_help_flag = true)]
    Iptunnel {
        /// The sample's options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Answer HTTP requests with a name.
    #[command(hide = true)]
    Respond(respond::RespondArgs),
}

impl Command {
    /// Whether the command changes nothing, so that it may end at any moment.
    fn only_reports(&self) -> bool {
        match self {
            Self::Status(_) | Self::Version(_) => true,
            Self::Real(args) => args.only_reports(),
            Self::Lab(args) => args.only_reports(),
            Self::Run(_) | Self::Reload(_) | Self::Root(_) | Self::Iptunnel { .. } | Self::Respond(_) => {
                false
            }
        }
    }
}

fn main() -> ExitCode {
    if is_called("xdp_tx_iptunnel") {
        return iptunnel::main(std::env::args_os().skip(1));
    }
    let command = CommandLine::parse().command;
    if command.only_reports() {
        weir_kernel::signal::end_on_closed_pipe();
    }
    match dispatch(command) {
        Ok(code) => code,
        Err(error) => {
            advice::print(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Version(args) => Ok(version::run(&args)),
        Command::Real(args) => real::run(args),
        Command::Root(args) => root::run(&args),
        Command::Lab(args) => lab::run(args),
        Command::Iptunnel { args } => Ok(iptunnel::main(args.into_iter())),
        Command::Respond(args) => respond::run(args),
    }
}

/// Whether the program was started under this name (by a link, most likely).
fn is_called(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|zeroth| Path::new(&zeroth).file_name().is_some_and(|f| f == name))
}
