//! The CPU that everything runs on, and the time it spent in softirqs.
//!
//! Owns: pinning, `/proc/stat`.
use anyhow::Context as _;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};
use std::{fs, time::Duration};

/// A CPU the calling thread is pinned to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    number: usize,
    /// Length of the unit of `/proc/stat`.
    tick: Duration,
}

impl Cpu {
    /// Pins the calling thread to the last CPU it may run on: most interrupts go to the first.
    pub(crate) fn pin() -> anyhow::Result<Self> {
        let itself = Pid::from_raw(0);
        let allowed = sched_getaffinity(itself).context("cannot ask which CPUs there are")?;
        let number = (0..CpuSet::count())
            .rev()
            .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .context("there is no CPU to run on")?;
        let mut one = CpuSet::new();
        one.set(number)?;
        sched_setaffinity(itself, &one).with_context(|| format!("cannot stay on CPU {number}"))?;
        let hertz = sysconf(SysconfVar::CLK_TCK)?.and_then(|hertz| u32::try_from(hertz).ok());
        let hertz = hertz.filter(|hertz| *hertz != 0).context("the kernel does not say its clock's rate")?;
        Ok(Self { number, tick: Duration::from_secs(1) / hertz })
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Time this CPU has spent in softirqs, whatever thread they ran in.
    pub(crate) fn softirq(&self) -> anyhow::Result<Duration> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let ticks = softirq_ticks(&text, self.number)
            .with_context(|| format!("/proc/stat says nothing of CPU {}", self.number))?;
        Ok(self.tick * ticks)
    }
}

/// The softirq column of one CPU.
fn softirq_ticks(stat: &str, cpu: usize) -> Option<u32> {
    let label = format!("cpu{cpu}");
    let mut words = stat.lines().map(str::split_whitespace).find_map(|mut words| {
        let is_it = words.next() == Some(label.as_str());
        is_it.then_some(words)
    })?;
    // user, nice, system, idle, iowait, irq, softirq.
    words.nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_softirq_column_of_the_right_cpu_is_read() {
        let stat = "cpu  317186 0 103681 417485 11282 0 1085 355 0 0\n\
                    cpu1 153260 0 53909 213402 4301 0 424 179 0 0\n\
                    cpu11 163925 0 49772 204082 6981 0 661 176 0 0\n\
                    intr 1 2 3\n";
        assert_eq!(softirq_ticks(stat, 1), Some(424));
        assert_eq!(softirq_ticks(stat, 11), Some(661));
        assert_eq!(softirq_ticks(stat, 0), None, "not the sum of all");
        assert_eq!(softirq_ticks("cpu0 1 2 3\n", 0), None, "cut short");
        assert_eq!(softirq_ticks("", 0), None);
    }

    #[test]
    fn the_running_kernel_says_it() {
        std::thread::spawn(|| {
            let cpu = Cpu::pin().expect("pinned");
            let before = cpu.softirq().expect("time");
            assert!(cpu.softirq().expect("time") >= before);
        })
        .join()
        .expect("a CPU");
    }
}
