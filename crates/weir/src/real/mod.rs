//! `weir real`: what a real server needs to take packets from a director.
//!
//! Owns: the agent on this machine: its programs and pins, the VIPs' addresses, the sysctls they need, and the record of
//! what was changed. It is no daemon: `up` sets up and ends, `down` undoes. May not touch: anything `up` did not change.
//! Invariant: each change stands in the undo record before it is made, so that `down` undoes it whenever the machine or
//! the command stopped.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use weir_kernel::net::Prefix;

use crate::advice;

mod attach;
mod check;
mod down;
mod host;
mod journal;
mod kernel;
mod plan;
mod request;
mod status;
mod step;
mod tables;
mod up;

#[cfg(test)]
mod tests;

/// Options of `weir real`.
#[derive(Debug, Args)]
pub(crate) struct RealArgs {
    #[command(subcommand)]
    command: RealCommand,
}

impl RealArgs {
    /// Whether the command only reports.
    pub(crate) fn only_reports(&self) -> bool {
        matches!(self.command, RealCommand::Status(_))
    }
}

#[derive(Debug, Subcommand)]
enum RealCommand {
    /// Take packets from directors: unwrap them, hold the VIPs, announce segment sizes that fit.
    Up(UpArgs),
    /// Show what is set up, whether it still is, and what came in. Exit code: 0 intact, 1 not quite, 3 not set up.
    Status(StatusArgs),
    /// Undo exactly what `up` did.
    Down(StateArgs),
}

/// Where the agent keeps its pins and its record.
#[derive(Debug, Clone, Args)]
struct StateArgs {
    /// Directory for pins and the undo record; one for each network namespace.
    #[arg(long, value_name = "DIR", default_value = "/run/weir-real", alias = "runtime-dir")]
    state_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
struct UpArgs {
    /// An address whose connections are answered here; may be given more than once.
    #[arg(long, value_name = "ADDRESS", required = true, num_args = 1..)]
    vip: Vec<IpAddr>,
    /// Where directors send from; only their packets are unwrapped. May be given more than once; needed, except with
    /// `--decap none`.
    #[arg(long, value_name = "CIDR", num_args = 1..)]
    from: Vec<Prefix>,
    /// Interface that directors' packets arrive on; without it, those with routes to the directors. Needed with
    /// `--decap none`.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    interface: Vec<String>,
    /// UDP port on which GUE from directors is unwrapped as well (6080 is GUE's own); makes announced segments 8 bytes
    /// smaller. Without it, GUE is passed like any UDP packet.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: Option<u16>,
    /// Where packets are unwrapped: `auto`, the default, takes native XDP, else generic XDP, else tc, and says why.
    #[arg(long, value_name = "MODE", value_enum)]
    xdp_mode: Option<ModeRequest>,
    /// Interface that holds the VIPs: `lo`, or a dummy, which is made if there is none of that name.
    #[arg(long, value_name = "NAME")]
    vip_device: Option<String>,
    /// What unwraps: weir's BPF programs, the kernel's own tunnel devices, or nothing, for directors that hand packets on
    /// as they are (layer-2 DSR).
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    decap: Decap,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Clone, Args)]
struct StatusArgs {
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    state: StateArgs,
}

/// Where to unwrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ModeRequest {
    /// The best there is.
    #[default]
    Auto,
    /// XDP in the driver.
    Native,
    /// XDP in the network stack.
    Generic,
    /// tc at ingress.
    Tc,
}

/// What unwraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decap {
    /// weir's BPF programs.
    #[default]
    Bpf,
    /// `tunl0` and `ip6tnl0`.
    Kernel,
    /// Nothing: packets arrive as clients sent them.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Runs the command.
pub(crate) fn run(args: RealArgs) -> anyhow::Result<ExitCode> {
    let outcome = match args.command {
        RealCommand::Up(args) => up::run(&args),
        RealCommand::Status(args) => status::run(&args),
        RealCommand::Down(args) => down::run(&args.state_dir),
    };
    outcome.map_err(|error| match error.downcast::<weir_kernel::bpf::Error>() {
        Ok(bpf) => advice::of_bpf(&bpf),
        Err(other) => other,
    })
}
