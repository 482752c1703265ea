//! `weir real status`: what is set up, whether it still is, and what was counted.
//!
//! Owns: how it looks. May not touch: anything; it only reads. Exit codes are those of LSB init scripts: 0 intact,
//! 1 something deviates, 3 not set up.

use std::process::ExitCode;

use serde_json::{Value, json};
use weir_abi::Count;
use weir_kernel::bpf::StateDir;

use super::check::deviations;
use super::host::Host;
use super::journal::{Journal, Setup, Unwrapping};
use super::tables::Tables;
use super::{Decap, Format, StatusArgs};
use crate::advice;

const DEGRADED: u8 = 1;
const NOT_RUNNING: u8 = 3;

/// One line of counters.
struct Line {
    label: &'static str,
    explain: &'static str,
    count: Count,
}

struct Counters {
    arriving: Vec<Line>,
    leaving: Vec<Line>,
}

/// Prints the state and gives it as exit code.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let dir = &args.state.state_dir;
    let Some(journal) = Journal::read(dir)? else {
        match args.output {
            Format::Text => println!("Not set up ({} has no record). `weir real up` sets up.", dir.display()),
            Format::Json => println!("{}", json!({ "state": "down", "problems": [] })),
        }
        return Ok(ExitCode::from(NOT_RUNNING));
    };
    let mut problems = Vec::new();
    let mut tables = None;
    if journal.setup().is_some_and(|setup| setup.decap == Decap::None) {
        // There are no programs, and nothing that could be gone with the pins.
    } else if StateDir::exists(dir) {
        match Tables::open(&dir.join("bpf")) {
            Ok(found) => tables = Some(found),
            Err(error) => {
                problems.push(format!("The tables cannot be read: {}.", advice::cause_line(&error)));
            }
        }
    } else {
        problems.push(format!(
            "The pins in {} have gone, and with them the programs: run `weir real up` again.",
            dir.join("bpf").display()
        ));
    }
    match journal.setup() {
        Some(setup) => problems.extend(deviations(&Host::survey()?, &journal, setup, tables.as_ref())?),
        None => problems.push(
            "`weir real up` was interrupted half way: run it again, or `weir real down` to undo what it did."
                .to_owned(),
        ),
    }
    let counters = tables.as_ref().map(count).transpose()?;
    match args.output {
        Format::Text => print_text(journal.setup(), counters.as_ref(), &problems),
        Format::Json => println!("{:#}", to_json(journal.setup(), counters.as_ref(), &problems)),
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
}

fn count(tables: &Tables) -> anyhow::Result<Counters> {
    let arriving = tables.arriving()?.into_iter();
    let leaving = tables.leaving()?.into_iter();
    Ok(Counters {
        arriving: arriving
            .map(|(reason, count)| Line { label: reason.label(), explain: reason.explain(), count })
            .collect(),
        leaving: leaving
            .map(|(reason, count)| Line { label: reason.label(), explain: reason.explain(), count })
            .collect(),
    })
}

fn print_text(setup: Option<&Setup>, counters: Option<&Counters>, problems: &[String]) {
    println!("{}", if problems.is_empty() { "Set up and intact." } else { "Set up, but:" });
    for problem in problems {
        println!("  ! {problem}");
    }
    if let Some(setup) = setup {
        let vips: Vec<String> = setup.vips.iter().map(ToString::to_string).collect();
        println!("  VIPs       {}", vips.join(", "));
        if !setup.from.is_empty() {
            println!("  from       {}", setup.from.join(", "));
        }
        if setup.gue_port != 0 {
            println!("  GUE        on UDP port {}", setup.gue_port);
        }
        for done in &setup.unwrapping {
            let why = done.fell_back.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            println!("  unwrapping {}: {}{why}", done.interface, mode_in_words(done));
        }
        if !setup.clamping.is_empty() {
            println!(
                "  announcing segments of at most {} (IPv4), {} (IPv6) bytes on {}; MTU {}",
                setup.mss_v4,
                setup.mss_v6,
                setup.clamping.join(", "),
                setup.mtu
            );
        }
    }
    let Some(counters) = counters else { return };
    let counts_arriving = setup.is_none_or(|setup| setup.decap == Decap::Bpf);
    for (title, lines) in [("arriving", &counters.arriving), ("leaving", &counters.leaving)] {
        if title == "arriving" && !counts_arriving {
            continue;
        }
        println!("\n  {title:<18} {:>14} {:>16}", "packets", "bytes");
        for line in lines.iter().filter(|line| line.count.packets != 0) {
            println!(
                "  {:<18} {:>14} {:>16}  {}",
                line.label, line.count.packets, line.count.bytes, line.explain
            );
        }
        if lines.iter().all(|line| line.count.packets == 0) {
            println!("  none yet");
        }
    }
}

fn mode_in_words(done: &Unwrapping) -> String {
    match done.mode.as_str() {
        "none" => "nothing, packets are taken as they are".to_owned(),
        "kernel" => "by the kernel's tunnel devices".to_owned(),
        "tc" => "tc ingress".to_owned(),
        xdp if done.frags => format!("XDP {xdp}, of packets in several buffers"),
        xdp => format!("XDP {xdp}"),
    }
}

fn to_json(setup: Option<&Setup>, counters: Option<&Counters>, problems: &[String]) -> Value {
    let lines = |lines: &Vec<Line>| -> Value {
        let one = |line: &Line| {
            let Count { packets, bytes } = line.count;
            json!({ "reason": line.label, "packets": packets, "bytes": bytes, "explain": line.explain })
        };
        lines.iter().map(one).collect()
    };
    json!({
        "state": if problems.is_empty() { "up" } else { "degraded" },
        "problems": problems,
        "setup": setup.map(|setup| json!({
            "vips": setup.vips,
            "from": setup.from,
            "decap": setup.decap,
            "unwrapping": setup.unwrapping,
            "clamping": setup.clamping,
            "own": setup.own,
            "gue_port": (setup.gue_port != 0).then_some(setup.gue_port),
            "mtu": (!setup.clamping.is_empty()).then_some(setup.mtu),
            "mss": (!setup.clamping.is_empty()).then(|| json!({ "ipv4": setup.mss_v4, "ipv6": setup.mss_v6 })),
        })),
        "counters": counters.map(|counters| json!({
            "arriving": lines(&counters.arriving),
            "leaving": lines(&counters.leaving),
        })),
    })
}
