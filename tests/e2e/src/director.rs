//! The director of a lab: its configuration, its reports, and running it by hand.
//!
//! Owns: `weir run`, `weir reload`, `weir status` as a user types them; editing the configuration file as text.
//! May not touch: weir's socket and pins.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::network::Lab;
use crate::weir::Output;

/// Time the director has to load its programs and attach them, or to detach.
const PATIENCE: Duration = Duration::from_secs(30);

impl Lab {
    /// The director's configuration.
    pub(crate) fn config(&self) -> anyhow::Result<String> {
        let path = self.config_path();
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Edits the configuration; an edit that changes nothing is an error.
    pub(crate) fn edit_config(&self, edit: impl FnOnce(&str) -> String) -> anyhow::Result<()> {
        let before = self.config()?;
        let after = edit(&before);
        ensure!(before != after, "the edit changed nothing");
        let path = self.config_path();
        fs::write(&path, after).with_context(|| format!("cannot write {}", path.display()))
    }

    /// `weir reload`.
    pub(crate) fn reload(&self) -> anyhow::Result<Output> {
        let dir = self.runtime_dir();
        self.weir().run(&["reload", "--runtime-dir", &dir.display().to_string()])
    }

    /// `weir status -o json`.
    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        let dir = self.runtime_dir();
        let output =
            self.weir().run(&["status", "-o", "json", "--runtime-dir", &dir.display().to_string()])?;
        serde_json::from_str(&output.success()?.stdout).context("`weir status` did not print JSON")
    }

    /// `weir lab status -o json`.
    pub(crate) fn lab_status(&self) -> anyhow::Result<Value> {
        let output = self.weir().run(&["lab", "status", "--name", self.name(), "-o", "json"])?;
        serde_json::from_str(&output.success()?.stdout).context("`weir lab status` did not print JSON")
    }

    /// How a program is attached to the director's interface, by what the kernel says.
    pub(crate) fn xdp_mode(&self) -> anyhow::Result<Option<String>> {
        Ok(self.lab_status()?["xdp_mode"].as_str().map(str::to_owned))
    }

    /// The process of the director that the lab runs.
    pub(crate) fn director_pid(&self) -> anyhow::Result<Pid> {
        let status = self.lab_status()?;
        let mut processes = status["processes"].as_array().into_iter().flatten();
        let director = processes.find(|p| p["name"] == "director" && p["alive"] == true);
        let pid = director.and_then(|p| p["pid"].as_i64()).context("the lab's director is not running")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    /// The log of the director that the lab runs.
    pub(crate) fn director_log(&self) -> String {
        fs::read_to_string(self.dir().join("log/director.log")).unwrap_or_default()
    }

    /// An error if a program is attached to the director's interface, or a pin or a mount is left.
    pub(crate) fn nothing_is_attached(&self) -> anyhow::Result<()> {
        let mode = self.xdp_mode()?;
        ensure!(mode.is_none(), "an XDP program is still attached ({})", mode.unwrap_or_default());
        let bpf = self.runtime_dir().join("bpf");
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
        let mounted = mounts.lines().any(|line| line.contains(&format!(" {} ", bpf.display())));
        ensure!(!mounted, "a bpffs is still mounted at {}", bpf.display());
        ensure!(!bpf.exists(), "{} is still there", bpf.display());
        Ok(())
    }
}

/// The sum of a report's counters whose verdict is this.
pub(crate) fn packets(status: &Value, verdict: &str) -> u64 {
    let counters = status["counters"].as_array().into_iter().flatten();
    counters.filter(|c| c["verdict"] == verdict).filter_map(|c| c["packets"].as_u64()).sum()
}

/// The sum of a report's packets over all backends of all services.
pub(crate) fn backend_packets(status: &Value) -> u64 {
    let services = status["services"].as_array().into_iter().flatten();
    let backends = services.flat_map(|s| s["backends"].as_array().into_iter().flatten());
    backends.filter_map(|backend| backend["packets"].as_u64()).sum()
}

/// A configuration without any backend of this name.
pub(crate) fn without_backend(config: &str, name: &str) -> String {
    let line = format!("name = \"{name}\"");
    let mut sections = config.split("[[").enumerate().filter(|(index, section)| {
        *index == 0 || !section.starts_with("service.backend]]") || !section.lines().any(|l| l.trim() == line)
    });
    let mut text = sections.next().map_or(String::new(), |(_, head)| head.to_owned());
    for (_, section) in sections {
        text.push_str("[[");
        text.push_str(section);
    }
    text
}

/// A configuration in which every backend of this name has this weight.
pub(crate) fn with_weight(config: &str, name: &str, weight: u32) -> String {
    let line = format!("name = \"{name}\"");
    let change = |section: &str| {
        if !section.starts_with("service.backend]]") || !section.lines().any(|l| l.trim() == line) {
            return section.to_owned();
        }
        let weight = format!("weight = {weight}");
        let lines = section.lines().map(|l| if l.trim_start().starts_with("weight") { &weight } else { l });
        lines.flat_map(|l| [l, "\n"]).collect()
    };
    config.split("[[").map(change).collect::<Vec<_>>().join("[[")
}

/// A `weir run` that this program started.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it in the director's host, which must have none, and waits until it forwards.
    pub(crate) fn start(lab: &Lab, options: &[&str]) -> anyhow::Result<Self> {
        Self::start_apart(lab, &lab.config_path(), &lab.runtime_dir(), options)
    }

    /// The same with a configuration and a runtime directory of its own, so that there can be another one.
    pub(crate) fn start_apart(
        lab: &Lab,
        config: &Path,
        runtime_dir: &Path,
        options: &[&str],
    ) -> anyhow::Result<Self> {
        let mut daemon = Self::spawn(lab, config, runtime_dir, options)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("`weir run` ended with {status}: {}", daemon.log().trim());
            }
            if daemon.log().contains("ready: forwarding") {
                return Ok(daemon);
            }
            ensure!(Instant::now() < deadline, "`weir run` is not ready: {}", daemon.log().trim());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn spawn(lab: &Lab, config: &Path, runtime_dir: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let log = (0..1000).map(|n| lab.dir().join(format!("run-{n}.log"))).find(|path| !path.exists());
        let log = log.context("too many logs")?;
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command =
            lab.weir().command(&["lab", "exec", "--keep-mounts", "--name", lab.name(), "director", "--"]);
        command.arg(lab.weir().path()).args(["run", "--config"]).arg(config);
        command.arg("--runtime-dir").arg(runtime_dir).args(options);
        // It might keep the director from saying that it is ready.
        command.env_remove("WEIR_LOG");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: command.spawn().context("cannot start `weir run`")?, log })
    }

    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal}"))
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "SIGTERM did not end `weir run`: {}", self.log().trim());
            std::thread::sleep(Duration::from_millis(5));
        };
        ensure!(status.success(), "`weir run` ended with {status}: {}", self.log().trim());
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs `weir run` with a configuration that it is expected to refuse; what it printed.
pub(crate) fn run_and_fail(lab: &Lab, config: &str) -> anyhow::Result<Output> {
    let path = lab.config_path();
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command =
        lab.weir().command(&["lab", "exec", "--keep-mounts", "--name", lab.name(), "director", "--"]);
    command.arg(lab.weir().path()).args(["run", "--config"]).arg(&path);
    command.arg("--runtime-dir").arg(lab.runtime_dir());
    crate::weir::finish(command, PATIENCE)
}

/// Waits until `probe` is true.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    while !probe()? {
        ensure!(begun.elapsed() < limit, "not after {} s: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begun.elapsed())
}
