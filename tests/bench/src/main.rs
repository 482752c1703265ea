//! Nanoseconds a packet costs the director, by BPF_PROG_TEST_RUN, beside reference programs in the same run.
//!
//! A driver program restores the packet between runs (the kernel does not) and tail-calls the program under test; its
//! own cost, measured with a program that only returns, is subtracted. Cases are interleaved over the rounds, so that a
//! noisy minute hits them all alike; compare the best figures of one run, as ratios.

mod case;
mod machine;
mod report;
mod rig;

use anyhow::Context as _;
use clap::Parser;

/// Measures weir's datapath under BPF_PROG_TEST_RUN.
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
    /// Only cases whose name contains this (the references always run).
    #[arg(long)]
    only: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let rig = rig::Rig::new().context("setting up the benchmark needs root and a kernel with BPF")?;
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
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}
