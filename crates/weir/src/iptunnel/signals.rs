//! Waiting for time to pass, the network to change, or someone to say stop.
//!
//! Owns: the signals that end the command, and the monitor of links, routes and neighbours. Knows nothing of what is
//! done about them. Invariant: from [`Waker::new`] on SIGINT and SIGTERM interrupt nothing, they are just noticed.

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
    /// SIGINT or SIGTERM.
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
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        set.thread_block().context("cannot hold back SIGINT and SIGTERM")?;
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
