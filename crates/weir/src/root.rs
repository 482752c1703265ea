//! `weir root`: a root program, for machines with several XDP programs where nobody else brings one.
//!
//! Owns: its options and what it prints. May not touch: what others put into the root's array.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use weir_kernel::bpf::{Root, XdpRequest};
use weir_kernel::net::Rtnl;

use crate::advice::of_bpf;

/// Options of `weir root`.
#[derive(Debug, Args)]
pub(crate) struct RootArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach a program that calls the programs of an array, position after position.
    Attach(AttachArgs),
    /// Detach it from every interface and remove its array.
    Detach(DirArgs),
}

#[derive(Debug, Args)]
struct AttachArgs {
    /// Interface to attach to; may be given more than once.
    #[arg(long, value_name = "NAME", required = true, num_args = 1..)]
    interface: Vec<String>,
    /// How to attach: `auto`, the default, takes native XDP, else generic XDP.
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    xdp_mode: Mode,
    #[command(flatten)]
    dir: DirArgs,
}

#[derive(Debug, Args)]
struct DirArgs {
    /// Directory to make in a bpffs for the array, `programs`, and the attachments.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/weir_root")]
    pin: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Mode {
    /// The best there is.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

/// Runs the command.
pub(crate) fn run(args: &RootArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Attach(args) => attach(args)?,
        Command::Detach(args) => Root::at(&args.pin).remove().map_err(|error| of_bpf(&error))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn attach(args: &AttachArgs) -> anyhow::Result<()> {
    let rtnl = Rtnl::open()?;
    let root = Root::at(&args.dir.pin);
    let request = match args.xdp_mode {
        Mode::Auto => XdpRequest::Auto,
        Mode::Native => XdpRequest::Native,
        Mode::Generic => XdpRequest::Generic,
    };
    // All of them before the first is attached.
    let links: Result<Vec<_>, _> = args.interface.iter().map(|name| rtnl.link_by_name(name)).collect();
    for link in links? {
        let attached = root.attach(link.index, request).map_err(|error| of_bpf(&error))?;
        let why = attached.fell_back.map(|why| format!(" ({why})")).unwrap_or_default();
        println!("{}: attached, xdp {}{why}", link.name, attached.mode);
    }
    println!("positions 0 to {} are in {}", Root::POSITIONS - 1, root.array().display());
    Ok(())
}
