//! `weir lab`: a network of namespaces to try weir in, with nothing of the machine's own network touched.
//!
//! Owns: the commands `up`, `down`, `exec`, `status` and the order in which things are made and undone. What a lab is
//! made of is in `layout`, the kernel's part in `wiring`, processes in `process`, files in `state`.
//! Invariant: whatever state a crash left, `up` makes it whole and `down` removes it; `down` needs nothing but the name.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use nix::unistd::geteuid;
use weir_kernel::net::Netns;

use crate::advice::Advise as _;

mod director;
mod layout;
mod process;
mod real_server;
mod state;
mod status;
mod up;
mod web;
mod wiring;

use layout::Topology;
use state::{HOSTS, Lock, Name, Record};

/// Options of `weir lab`.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

impl LabArgs {
    /// Whether the command only reports.
    pub(crate) fn only_reports(&self) -> bool {
        matches!(self.command, LabCommand::Status { .. })
    }
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Make a lab: client, director, three real servers and what joins them, each a network namespace.
    Up(UpArgs),
    /// Show a lab: hosts, addresses, processes, and commands to try it with.
    Status {
        #[command(flatten)]
        lab: Which,
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Run a command in a host.
    Exec {
        #[command(flatten)]
        lab: Which,
        /// Stay among the machine's mounts: what CMD mounts (weir's pins) outlives it, and /sys shows the machine's
        /// links instead of the host's.
        #[arg(long)]
        keep_mounts: bool,
        /// client, router, switch, director, rs1, rs2 or rs3.
        host: String,
        /// The command and its arguments; a shell if left out.
        #[arg(last = true, value_name = "CMD")]
        words: Vec<OsString>,
    },
    /// Remove a lab and everything in it.
    Down {
        #[command(flatten)]
        lab: Which,
    },
}

/// Which lab is meant.
#[derive(Debug, Args)]
struct Which {
    /// The lab's name; there can be several side by side.
    #[arg(long, value_name = "NAME", default_value = state::DEFAULT, value_parser = Name::parse)]
    name: Name,
}

/// The MTU of Ethernet.
const DEFAULT_MTU: u16 = 1500;

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    lab: Which,
    /// How the hosts are wired.
    #[arg(long, value_enum, default_value_t)]
    topology: Topology,
    /// How the director's program is attached.
    #[arg(long, value_enum, default_value_t)]
    xdp_mode: XdpMode,
    /// MTU of all links, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MTU, value_parser = clap::value_parser!(u16).range(1400..=9216))]
    mtu: u16,
    /// Write the director's configuration, but start no director.
    #[arg(long)]
    no_director: bool,
    /// Start the web servers, but set up no agents (`weir real`).
    #[arg(long)]
    no_agents: bool,
}

/// The words of `xdp_mode` in the director's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum XdpMode {
    /// In the driver, else in the network stack.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl XdpMode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Auto, Self::Native, Self::Generic].into_iter().find(|mode| mode.as_str() == text)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Runs the command.
pub(crate) fn run(args: LabArgs) -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(anyhow!("`weir lab` needs root: it makes network namespaces and loads XDP programs"))
            .advise("run it with sudo; nothing outside the lab's own namespaces is changed");
    }
    match args.command {
        LabCommand::Up(args) => up::up(&args),
        LabCommand::Status { lab, output } => status::status(&lab.name, output == Output::Json),
        LabCommand::Exec { lab, keep_mounts, host, words } => exec(&lab.name, &host, &words, keep_mounts),
        LabCommand::Down { lab } => down(&lab.name),
    }
}

fn down(lab: &Name) -> anyhow::Result<ExitCode> {
    let _lock = Lock::take()?;
    if take_down(lab)? {
        println!("lab {} is down", lab.as_str());
    } else {
        println!("lab {} is not up; nothing to do", lab.as_str());
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes whatever there is of a lab, in an order that a crash in between leaves findable: processes are found by
/// their namespaces, namespaces by their names, and the directory goes last. Returns whether there was anything. To be
/// called under the [`Lock`].
fn take_down(lab: &Name) -> anyhow::Result<bool> {
    let doing = || format!("cannot take down lab {}", lab.as_str());
    let advice = format!("run `weir lab down{}` again; what is gone already is no obstacle", lab.option());
    let processes = process::end_all(lab).with_context(doing).advise(&advice)?;
    let namespaces = wiring::remove(lab).with_context(doing).advise(&advice)?;
    let directory = state::remove(lab).with_context(doing).advise(&advice)?;
    Ok(processes > 0 || namespaces > 0 || directory)
}

fn exec(lab: &Name, host: &str, words: &[OsString], keep_mounts: bool) -> anyhow::Result<ExitCode> {
    let netns = open(lab, host)?;
    let (program, rest) = match words {
        [program, rest @ ..] => (program.clone(), rest),
        [] => (std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()), words),
    };
    let mut command = Command::new(&program);
    command.args(rest).env("WEIR_LAB", lab.as_str()).env("WEIR_LAB_HOST", host);
    // Only returns if it fails.
    let error = if keep_mounts {
        netns.run_in(|| command.exec())?
    } else {
        netns.enter_on_exec(&mut command)?;
        command.exec()
    };
    Err(error).with_context(|| format!("cannot run {} in {host}", program.display()))
}

/// Opens the namespace of a host of a lab that is up.
fn open(lab: &Name, host: &str) -> anyhow::Result<Netns> {
    let name = lab.namespace(host);
    if Netns::list()?.contains(&name) {
        return Ok(Netns::open(&name)?);
    }
    let Some(record) = Record::read(lab) else {
        return Err(anyhow!("lab {} is not up", lab.as_str()))
            .advise(format!("run `weir lab up{}`", lab.option()));
    };
    let layout = layout::Layout::new(record.topology);
    let hosts: Vec<_> = layout.hosts.iter().map(|host| host.name).collect();
    if HOSTS.contains(&host) && hosts.contains(&host) {
        return Err(anyhow!("the host {host} of lab {} is gone", lab.as_str()))
            .advise(format!("run `weir lab up{}` to repair it", lab.option()));
    }
    Err(anyhow!("a {} lab has no host {host}", record.topology))
        .advise(format!("it has {}", hosts.join(", ")))
}

/// This binary, to be run again.
fn own_binary() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find the weir binary")?;
    if !path.exists() {
        bail!("the weir binary is no longer at {}", path.display());
    }
    Ok(path)
}
