//! Nanoseconds a packet costs the director, by BPF_PROG_TEST_RUN, beside reference programs in the same run.
//!
//! A driver program restores the packet between runs (the kernel does not) and tail-calls the program under test; its
//! own cost, measured with a program that only returns, is subtracted. Cases are interleaved over the rounds, so that a
//! noisy minute hits them all alike; compare the best figures of one run, as ratios. With `--live`, packets a second
//! through the attached program instead.

mod case;
mod live;
mod machine;
mod plan;
mod report;
mod rig;

use anyhow::Context as _;
use clap::Parser;
use std::time::Duration;

/// Measures weir's datapath: nanoseconds a packet under BPF_PROG_TEST_RUN, or packets a second with live traffic.
#[derive(Parser, Debug)]
#[command(name = "weir-bench", version)]
struct Args {
    /// Print one JSON object on the last line instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds over all cases.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Runs of a case in a round; never fewer than the case has flows, and exactly as many where each must be new.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    repeat: u32,
    /// Packets a second through the attached program, over a veth pair in a network namespace of its own.
    #[arg(long, conflicts_with = "repeat")]
    live: bool,
    /// With --live: seconds to measure, all samples together.
    #[arg(long, requires = "live", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Only cases whose name contains this (the references always run).
    #[arg(long)]
    only: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.live {
        let total = Duration::from_secs(u64::from(args.seconds));
        let report = live::run(live::Plan { total, rounds: args.rounds, only: args.only.as_deref() })
            .context("live traffic needs root and Linux 5.18")?;
        print_result(args.json, || report.json(), || report.table());
        return Ok(());
    }
    let rig = rig::Rig::new().context("setting up the benchmark needs root and a kernel with BPF")?;
    let times = args.only.is_none().then(plan::measure).transpose()?;
    let cases = case::all(args.only.as_deref());
    let mut results: Vec<case::Samples> = cases.iter().map(|_| case::Samples::default()).collect();
    for round in 1..=args.rounds {
        eprint!("\rround {round}/{} ", args.rounds);
        for (case, samples) in cases.iter().zip(&mut results) {
            let (harness, gross) = rig.measure(case, args.repeat, round)?;
            samples.push(harness, gross);
        }
    }
    eprintln!();
    let report = report::Report::new(&cases, &results, &rig)?;
    let json = || {
        let mut object = report.json();
        if let Some(times) = &times {
            object["plan"] = times.json();
        }
        object
    };
    print_result(args.json, json, || {
        report.table() + &times.as_ref().map_or(String::new(), plan::Times::table)
    });
    Ok(())
}

fn print_result(as_json: bool, json: impl FnOnce() -> serde_json::Value, table: impl FnOnce() -> String) {
    if as_json {
        println!("{}", json());
    } else {
        print!("{}", table());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_one_kind_of_run_are_refused_in_the_other() {
        let parse = |options: &[&str]| Args::try_parse_from([&["weir-bench"], options].concat());
        assert_eq!(parse(&["--live", "--json", "--rounds", "3"]).expect("fine").seconds, 30);
        assert_eq!(parse(&["--live", "--seconds", "5"]).expect("fine").seconds, 5);
        assert!(!parse(&["--repeat", "2000"]).expect("fine").live);
        for wrong in [&["--seconds", "5"][..], &["--live", "--repeat", "2000"], &["--live", "--seconds", "0"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
