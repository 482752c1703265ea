//! Waiting for time to pass, the network to change, or someone to say stop.
//!
//! Owns: the signals that end the command, and the monitor of links, routes and neighbours. Knows nothing of what is
//! done about them. Invariant: from [`Waker::new`] on SIGINT, SIGTERM and SIGHUP interrupt nothing, they are just noticed;
//! SIGHUP not even that where it was ignored from the start, as nohup(1) has it.

use std::fs;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use weir_kernel::net::{Event, Monitor};

/// Changes of the network closer together than this are taken as one.
const QUIET: Duration = Duration::from_millis(100);

/// Why waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// The time has come.
    Time,
    /// Links, routes or neighbours changed.
    Network,
    /// SIGINT, SIGTERM or SIGHUP.
    Stop,
}

/// What can be waited for.
pub(super) struct Waker {
    signals: SignalFd,
    network: Arc<EventFd>,
    /// Not before this is the network looked at again.
    quiet_until: Instant,
    monitor: Option<Monitor>,
}

impl Waker {
    /// Begins to notice signals.
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut set: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        // A blocked signal is noticed even where it is ignored.
        if !is_ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default(), Signal::SIGHUP) {
            set.add(Signal::SIGHUP);
        }
        set.thread_block().context("cannot hold back SIGINT, SIGTERM and SIGHUP")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot watch for signals")?;
        let network = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .context("cannot make an event counter")?;
        Ok(Self { signals, network: Arc::new(network), quiet_until: Instant::now(), monitor: None })
    }

    /// Begins to notice those changes of the network that `matters` says yes to.
    pub(super) fn watch(
        &mut self,
        mut matters: impl FnMut(&Event) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        let counter = Arc::clone(&self.network);
        self.monitor = Some(Monitor::start(move |event| {
            if matters(&event) {
                // Fails only when the counter is full, and then the waiter is woken anyway.
                let _ = counter.write(1);
            }
        })?);
        Ok(())
    }

    /// Waits until `until` or until something happens.
    pub(super) fn wait(&mut self, until: Instant) -> anyhow::Result<Wake> {
        loop {
            let now = Instant::now();
            let quiet = now < self.quiet_until;
            let next = if quiet { until.min(self.quiet_until) } else { until };
            let wanted = PollFlags::POLLIN;
            let mut fds = [
                PollFd::new(self.signals.as_fd(), wanted),
                PollFd::new(self.network.as_fd(), if quiet { PollFlags::empty() } else { wanted }),
            ];
            // Rounded up, so that the time has come when poll says so.
            let left = next.saturating_duration_since(now).as_micros().div_ceil(1000);
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for events"),
            }
            let [stop, changed] = fds.map(|fd| fd.any().unwrap_or(false));
            if stop {
                return Ok(Wake::Stop);
            }
            if changed {
                // Takes back to zero what made it ready.
                let _ = self.network.read();
                self.quiet_until = Instant::now() + QUIET;
                return Ok(Wake::Network);
            }
            if Instant::now() >= until {
                return Ok(Wake::Time);
            }
        }
    }
}

/// Whether a process ignores a signal, by what proc_pid_status(5) says of it.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal as u32 - 1)) != 0
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_nohup_ignores_is_told_from_what_is_not_ignored() {
        for (trap, ignored) in [("trap '' HUP", true), ("trap - HUP", false)] {
            let script = format!("{trap}; exec cat /proc/self/status");
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            let status = String::from_utf8(output.stdout).unwrap();
            assert_eq!(is_ignored(&status, Signal::SIGHUP), ignored, "{status}");
            assert!(!is_ignored(&status, Signal::SIGTERM), "{status}");
        }
    }
}
