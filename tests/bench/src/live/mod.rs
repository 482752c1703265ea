//! Live traffic: packets a second through the attached program, between the two ends of a veth pair.
//!
//! Owns: the order of samples, what is read before and after each, what a sample must show to count. May not touch: how
//! programs and tables are made (`rig`). Invariant: a sample is only given if what the program counted came back, each
//! packet wrapped once.

mod cpu;
mod figures;
mod proof;
mod wire;

use crate::{
    case::{self, Case, Target},
    rig::Rig,
};
use anyhow::{Context as _, ensure};
use cpu::Cpu;
pub(crate) use figures::Report;
use figures::{Sample, Samples};
use proof::{Counts, Returned};
use std::{
    thread,
    time::{Duration, Instant},
};
use weir_kernel::bpf::{Link, Program, RawMap, XdpRequest, live_run};
use wire::Wire;

/// How long to measure, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// Time of all samples together.
    pub total: Duration,
    /// Rounds over all cases.
    pub rounds: u32,
    /// Only cases whose name contains this, and the references.
    pub only: Option<&'a str>,
}

/// The least a sample takes: CPU time is counted in hundredths of a second.
const SHORTEST: Duration = Duration::from_millis(50);
/// Packets before a sample, at least; every flow twice.
const WARM: u32 = 10_000;
/// The sample's counter of TCP packets.
const TCP: u32 = 6;

/// Measures as planned.
pub(crate) fn run(plan: Plan<'_>) -> anyhow::Result<Report> {
    let cases = case::live(plan.only);
    let slice = plan.total / (plan.rounds * cases.len() as u32);
    ensure!(
        slice >= SHORTEST,
        "{} rounds of {} cases leave {slice:.0?} for a sample, and it takes {SHORTEST:.0?}; give more --seconds or \
         fewer --rounds",
        plan.rounds,
        cases.len()
    );
    wire::apart(|cpu| {
        let live = Live::new(cpu)?;
        let mut results = vec![Samples::default(); cases.len()];
        for round in 1..=plan.rounds {
            eprint!("\rround {round}/{} ", plan.rounds);
            for (case, samples) in cases.iter().zip(&mut results) {
                samples.push(live.measure(case, slice)?);
            }
        }
        eprintln!();
        let names = cases.into_iter().map(|case| case.name);
        Ok(Report::new(names.zip(results).collect(), live.cpu.number()))
    })
}

/// Everything in place but the program under test.
struct Live {
    rig: Rig,
    wire: Wire,
    cpu: Cpu,
    generator: Program,
    returned: RawMap,
    awaited: RawMap,
    sampled: RawMap,
    _sink: Link,
}

impl Live {
    /// In the namespace and on the CPU of the calling thread.
    fn new(cpu: Cpu) -> anyhow::Result<Self> {
        let wire = Wire::new()?;
        let mut rig = Rig::on_wire(wire.under_test)?;
        let (sink, _) = rig.bench_program("sink")?.attach_xdp(wire.generator, XdpRequest::Native, None)?;
        Ok(Self {
            generator: rig.bench_program("generator")?,
            returned: rig.bench_map("BENCH_RETURNED")?,
            awaited: rig.bench_map("BENCH_AWAITED")?,
            sampled: rig.bench_map("BENCH_RXCNT")?,
            rig,
            wire,
            cpu,
            _sink: sink,
        })
    }

    /// One sample of about the length of `slice`.
    fn measure(&self, case: &Case, slice: Duration) -> anyhow::Result<Sample> {
        let program = self.rig.program(case.target);
        // Detached at the end of the sample; native, or the wire does not work at all.
        let _attached = program.attach_xdp(self.wire.under_test, XdpRequest::Native, None)?;
        self.rig.configure(case, 0)?;
        let warm = WARM.max(2 * case.flows);
        let chunk = chunk(warm, self.send(case, warm)?, slice);

        let before = self.settled(case)?;
        self.awaited.set(&0u32.to_ne_bytes(), &Returned::awaiting(case.out_len()), 0)?;
        let softirq = self.cpu.softirq()?;
        let start = Instant::now();
        let mut sent = 0;
        let mut elapsed = Duration::ZERO;
        while elapsed < slice {
            self.send(case, chunk)?;
            sent += u64::from(chunk);
            elapsed = start.elapsed();
        }
        let softirq = self.cpu.softirq()?.saturating_sub(softirq);
        let counts = self.settled(case)?.since(&before);

        counts.check(case).with_context(|| format!("{}: not measured", case.name))?;
        let returned = self.awaited.get(&0u32.to_ne_bytes())?.context("the sink's map is empty")?;
        Returned::read(&returned)?
            .check(case)
            .with_context(|| format!("{}: what came back is not what was to come", case.name))?;
        Ok(Sample { packets: counts.expected, sent, elapsed, softirq })
    }

    fn send(&self, case: &Case, packets: u32) -> anyhow::Result<Duration> {
        let start = Instant::now();
        live_run(&self.generator, &case.packet, self.wire.generator, packets)?;
        Ok(start.elapsed())
    }

    /// The counters once nothing is under way any more: a few packets may be left to the kernel's softirq thread.
    fn settled(&self, case: &Case) -> anyhow::Result<Counts> {
        let mut last = self.counts(case)?;
        for _ in 0..1000 {
            thread::sleep(Duration::from_millis(2));
            let now = self.counts(case)?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        anyhow::bail!("{}: packets are still on their way two seconds after the last was sent", case.name)
    }

    fn counts(&self, case: &Case) -> anyhow::Result<Counts> {
        let sum = |map: &RawMap, key: u32, at: usize| -> anyhow::Result<u64> {
            let cpus = map.get_per_cpu(&key.to_ne_bytes())?.context("a counter is missing")?;
            cpus.iter()
                .map(|value| {
                    let bytes = value.get(at..at + 8).context("a counter is shorter than a word")?;
                    Ok(u64::from_ne_bytes(bytes.try_into()?))
                })
                .sum()
        };
        let (returned, strange) = (sum(&self.returned, 0, 0)?, sum(&self.returned, 0, 8)?);
        let (expected, handled) = match (case.target, case.reason) {
            (Target::Iptunnel, _) => {
                let count = sum(&self.sampled, TCP, 0)?;
                (count, count)
            }
            (Target::Director | Target::Lru, Some(reason)) => {
                let reasons = self.rig.reasons(case.target)?;
                (reasons[reason as usize].packets, reasons.iter().map(|count| count.packets).sum())
            }
            // The floor does nothing but send back, and so does not count either.
            _ => (returned, returned),
        };
        Ok(Counts { expected, handled, returned, strange })
    }
}

/// Packets to send in one call so that a sample is a few calls, when `packets` took `elapsed`.
fn chunk(packets: u32, elapsed: Duration, slice: Duration) -> u32 {
    let in_slice = u128::from(packets) * slice.as_nanos() / elapsed.as_nanos().max(1);
    (in_slice / 4).clamp(1000, 10_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_few_calls() {
        let (second, tenth) = (Duration::from_secs(1), Duration::from_millis(100));
        assert_eq!(chunk(100_000, tenth, second), 250_000);
        assert_eq!(chunk(100_000, second, tenth), 2500);
        assert_eq!(chunk(10, second, tenth), 1000, "slow: not one by one");
        assert_eq!(
            chunk(u32::MAX, Duration::ZERO, second),
            10_000_000,
            "no time at all is no division by zero"
        );
    }

    #[test]
    fn too_short_samples_are_refused() {
        let plan = Plan { total: Duration::from_secs(1), rounds: 1000, only: None };
        let error = run(plan).err().expect("0.2 ms a sample").to_string();
        assert!(error.contains("--seconds") && error.contains("--rounds"), "{error}");
    }

    /// The whole rig on a wire, as briefly as it goes. What it gives is not looked at: the machine may be busy.
    #[test]
    fn packets_of_every_case_go_round() {
        wire::apart(|cpu| {
            let live = Live::new(cpu)?;
            for case in case::live(None) {
                let sample = live.measure(&case, Duration::from_millis(5))?;
                assert!(sample.packets > 0 && sample.packets <= sample.sent, "{}: {sample:?}", case.name);
            }
            Ok(())
        })
        .expect("live traffic (needs root and Linux 5.18)");
    }

    #[test]
    fn a_program_that_wraps_nothing_is_found_out() {
        wire::apart(|cpu| {
            let live = Live::new(cpu)?;
            let mut case = case::live(None).remove(0);
            assert_eq!(case.target, Target::Floor);
            case.outer = 20;
            let error = live.measure(&case, Duration::from_millis(5)).err().context("it was believed")?;
            assert!(format!("{error:#}").contains("another length"), "{error:#}");
            Ok(())
        })
        .expect("live traffic (needs root and Linux 5.18)");
    }
}
