//! `weir iptunnel`, and `weir` called `xdp_tx_iptunnel`: Linux's sample program as a drop-in.
//!
//! Owns: the sample's options, output and exit codes, on a packet program that does what the sample's should have done
//! (`weir_datapath::iptunnel`). May not touch: the director's tables and pins. Invariant: the program and its maps live
//! exactly as long as the command, and no other program is ever taken off the interface unless `-F` asks for it.

mod args;
mod mac;
mod run;
mod signals;
mod stats;
mod tables;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use args::{Options, Stop};

use crate::advice;

/// Runs the command with the sample's options.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let name = name();
    let stop = match Options::parse(args) {
        Ok(options) => return outcome(&run::run(&name, &options)),
        Err(stop) => stop,
    };
    match &stop {
        Stop::Help | Stop::LongHelp => {}
        Stop::Option(sentence) => eprintln!("{name}: {sentence}"),
        Stop::Missing(sentence) | Stop::Refused(sentence) => eprintln!("{sentence}"),
    }
    if !matches!(stop, Stop::Refused(_)) {
        print!("{}", usage(&name));
    }
    if stop == Stop::LongHelp { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn outcome(result: &anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    match error.downcast_ref::<run::InvalidInterface>() {
        // The sample's whole message.
        Some(invalid) => eprintln!("{invalid}"),
        None => advice::print(error),
    }
    ExitCode::FAILURE
}

/// What the program was called, for messages.
fn name() -> String {
    let zeroth = std::env::args_os().next().unwrap_or_else(|| "weir".into());
    let sample = Path::new(&zeroth).file_name().is_some_and(|name| name == "xdp_tx_iptunnel");
    let zeroth = zeroth.to_string_lossy();
    if sample { zeroth.into_owned() } else { format!("{zeroth} iptunnel") }
}

fn usage(name: &str) -> String {
    let mut text = format!(
        "Wrap packets for a VIP and port in an outer IPv4 or IPv6 header, in XDP,\n\
         and send them out of the interface they came in by.\n\n\
         Usage: {name} [...]\n"
    );
    for (option, meaning) in [
        ("-i <ifname|ifindex>", "Interface"),
        ("-a <vip-service-address>", "IPv4 or IPv6 address packets are sent to"),
        ("-p <vip-service-port>", "Destination port, or a range such as 433-444"),
        ("-s <source-ip>", "Source of the outer header"),
        ("-d <dest-ip>", "Destination of the outer header"),
        ("-m <dest-MAC>", "Next hop; found from routes and neighbours when left out"),
        ("-T <stop-after-X-seconds>", "Default: 0 (forever)"),
        ("-P <IP-Protocol>", "Protocol number of the packets. Default: 6 (TCP)"),
        ("-S", "Use skb (generic) mode"),
        ("-N", "Insist on native mode"),
        ("-F", "Replace an XDP program that is on the interface"),
        ("-h", "Show this"),
    ] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {option} {meaning}");
    }
    text
}
