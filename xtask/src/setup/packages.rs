//! The commands that tests and the demo use, and the distribution's packages they come from.
//!
//! Owns: the table of commands; how apt is called. May not touch: services: a freshly installed nginx is
//! neither started nor enabled, because weir's labs run their own.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    console,
    workspace::{as_root, is_root, which},
};

/// A command and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// The command.
    pub(crate) command: &'static str,
    /// Debian's package.
    package: &'static str,
    /// Whether the demo and the tests need it, rather than only show more with it.
    pub(crate) required: bool,
}

const TOOLS: [Tool; 7] = [
    Tool { command: "nginx", package: "nginx-light", required: true },
    Tool { command: "curl", package: "curl", required: true },
    Tool { command: "tcpdump", package: "tcpdump", required: true },
    Tool { command: "ip", package: "iproute2", required: true },
    Tool { command: "ethtool", package: "ethtool", required: true },
    Tool { command: "ping", package: "iputils-ping", required: true },
    Tool { command: "bpftool", package: "bpftool", required: false },
];

/// What machines to try other kernels on are made with; not part of [`missing`].
pub(crate) const EMULATOR: Tool =
    Tool { command: "qemu-system-x86_64", package: "qemu-system-x86", required: true };

/// Another package manager, which the user is told how to call.
struct Manager {
    program: &'static str,
    install: &'static str,
    /// Packages that are not called as the command they bring.
    renamed: &'static [(&'static str, &'static str)],
}

const OTHERS: [Manager; 4] = [
    Manager {
        program: "dnf",
        install: "dnf install",
        renamed: &[("ip", "iproute"), ("ping", "iputils"), ("qemu-system-x86_64", "qemu-system-x86")],
    },
    Manager {
        program: "zypper",
        install: "zypper install",
        renamed: &[("ip", "iproute2"), ("ping", "iputils"), ("qemu-system-x86_64", "qemu-x86")],
    },
    Manager {
        program: "pacman",
        install: "pacman -S",
        renamed: &[
            ("ip", "iproute2"),
            ("ping", "iputils"),
            ("bpftool", "bpf"),
            ("qemu-system-x86_64", "qemu-system-x86"),
        ],
    },
    Manager { program: "apk", install: "apk add", renamed: &[("ip", "iproute2"), ("ping", "iputils")] },
];

/// What is not installed.
pub(crate) fn missing() -> Vec<Tool> {
    TOOLS.into_iter().filter(|tool| which(tool.command).is_none()).collect()
}

/// The commands of `tools`, for messages.
pub(crate) fn commands(tools: &[Tool]) -> String {
    tools.iter().map(|tool| tool.command).collect::<Vec<_>>().join(", ")
}

/// Installs `tools` with apt, or says how to on other systems.
pub(crate) fn install(tools: &[Tool]) -> anyhow::Result<()> {
    if which("apt-get").is_none() {
        return advise(tools);
    }
    let required: Vec<_> = tools.iter().filter(|tool| tool.required).map(|tool| tool.package).collect();
    if !required.is_empty() {
        become_root_once()?;
        update()?;
    }
    let mut wanted = required;
    for tool in tools.iter().filter(|tool| !tool.required) {
        if available(tool.package) {
            wanted.push(tool.package);
        } else {
            eprintln!(
                "setup: no package {} in this system's archive; going on without {}",
                tool.package, tool.command
            );
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let nginx = wanted.contains(&"nginx-light").then(NoService::hold).transpose()?;
    let installed = install_packages(&wanted);
    nginx.map_or(Ok(()), NoService::release)?;
    installed
}

/// Installs Debian packages by name, after [`update`].
pub(crate) fn install_packages(packages: &[&str]) -> anyhow::Result<()> {
    let mut command = apt_get()?;
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    console::step(
        &format!("setup: apt-get install {}", packages.join(" ")),
        command,
        Duration::from_secs(1800),
    )
}

/// Refreshes apt's lists; a failure is left for the installation to report, if it needs what is missing.
pub(crate) fn update() -> anyhow::Result<()> {
    let mut command = apt_get()?;
    command.arg("update");
    if let Err(error) = console::step("setup: apt-get update", command, Duration::from_secs(600)) {
        eprintln!("setup: {error}; trying with the lists there are");
    }
    Ok(())
}

/// Whether apt knows how to install `package`.
pub(crate) fn available(package: &str) -> bool {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    output.is_ok_and(|output| has_candidate(&String::from_utf8_lossy(&output.stdout)))
}

fn has_candidate(policy: &str) -> bool {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
    candidate.is_some_and(|version| version.trim() != "(none)")
}

/// Asks for the password where it can be seen, before output is captured; says nothing if none is needed.
pub(crate) fn become_root_once() -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    if which("sudo").is_none() {
        bail!("packages must be installed and there is no sudo; run `cargo xtask setup` as root");
    }
    // Succeeds without a question where a password was given a moment ago, or none is asked for.
    let silent = Command::new("sudo").args(["-n", "-v"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if silent.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    eprintln!("setup: packages must be installed; sudo asks for your password");
    let status = Command::new("sudo").arg("-v").status().context("cannot run sudo")?;
    if !status.success() {
        bail!("sudo was refused; run `cargo xtask setup` as root, or install the packages yourself");
    }
    Ok(())
}

fn apt_get() -> anyhow::Result<Command> {
    // The runlevel keeps a System V init from starting the services of new packages.
    let mut command = as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"]).args([
        "--quiet",
        "--option",
        "DPkg::Lock::Timeout=120",
    ]);
    Ok(command)
}

fn advise(tools: &[Tool]) -> anyhow::Result<()> {
    let advice = match OTHERS.iter().find(|manager| which(manager.program).is_some()) {
        Some(manager) => {
            let package = |tool: &Tool| {
                let renamed = manager.renamed.iter().find(|(command, _)| *command == tool.command);
                renamed.map_or(tool.command, |(_, package)| package)
            };
            format!(
                "as root: {} {}",
                manager.install,
                tools.iter().map(package).collect::<Vec<_>>().join(" ")
            )
        }
        None => "install them with your system's package manager".to_owned(),
    };
    if tools.iter().any(|tool| tool.required) {
        bail!("these commands are missing and only apt is automated: {}\n{advice}", commands(tools));
    }
    eprintln!("setup: going on without {}; {advice}", commands(tools));
    Ok(())
}

/// Keeps systemd from starting nginx while its package is installed, and from then on.
#[derive(Debug)]
struct NoService;

impl NoService {
    /// Masks the unit until the next boot, so that even an interrupted installation leaves no trace for long.
    fn hold() -> anyhow::Result<Self> {
        systemctl(["mask", "--runtime", "nginx.service"])?;
        Ok(Self)
    }

    #[expect(clippy::unused_self, reason = "consumed, because it holds no longer")]
    fn release(self) -> anyhow::Result<()> {
        systemctl(["unmask", "--runtime", "nginx.service"])?;
        systemctl(["disable", "nginx.service"])?;
        if !runs_systemd() && which("update-rc.d").is_some() {
            quietly(as_root("update-rc.d")?, ["nginx", "disable"])?;
        }
        Ok(())
    }
}

fn runs_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn systemctl<const N: usize>(arguments: [&str; N]) -> anyhow::Result<()> {
    if runs_systemd() { quietly(as_root("systemctl")?, arguments) } else { Ok(()) }
}

fn quietly<const N: usize>(mut command: Command, arguments: [&str; N]) -> anyhow::Result<()> {
    command.args(arguments);
    let label = arguments.join(" ");
    let finished = console::watch(&label, command, Duration::from_secs(60), None)?;
    if !finished.success() {
        console::print_tail(&finished);
        bail!(
            "cannot keep nginx from being started as a service: `{label}` ended with {}",
            finished.ending()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_answer_is_understood() {
        assert!(has_candidate("bpftool:\n  Installed: (none)\n  Candidate: 7.1.0\n"));
        assert!(!has_candidate("bpftool:\n  Installed: (none)\n  Candidate: (none)\n"), "a virtual package");
        assert!(!has_candidate(""), "unknown to apt");
    }
}
