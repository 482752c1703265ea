//! The lab's processes: starting them in a host, finding them again, ending them.
//!
//! Owns: the records in `processes/`, logs in `log/`, signals. May not touch: what the processes do.
//! Invariant: a signal only goes to a process that this lab started (same number *and* same start time) or that is in
//! one of the lab's network namespaces; never to this process or those it descends from.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use weir_kernel::net::Netns;

use super::state::{HOSTS, Name, create_dir, write_whole};

/// Time a process has to end by itself: the director takes its program off the interface meanwhile.
const GRACE: Duration = Duration::from_secs(8);
/// Time the kernel has to end a killed process.
const KILLED: Duration = Duration::from_secs(4);

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    /// Its number.
    pub(super) pid: i32,
    /// Clock ticks after boot at which it started.
    started: u64,
}

impl Process {
    /// The process with this number, if there is one that has not ended.
    fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // Fields 3 (state) and 22 (starttime) of proc_pid_stat(5); a zombie has ended.
        let ended = matches!(fields.first()?, &"Z" | &"X");
        let started = fields.get(19)?.parse().ok()?;
        (!ended).then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end just now; that is what is wanted.
            kill(Pid::from_raw(self.pid), signal).ok();
        }
    }
}

/// A process with the name it has in the lab.
pub(super) struct Named {
    /// `director`, `rs1`, …
    pub(super) label: String,
    /// The process itself.
    pub(super) process: Process,
}

/// Where a process's output goes.
pub(super) fn log(lab: &Name, label: &str) -> PathBuf {
    lab.dir().join("log").join(format!("{label}.log"))
}

/// The end of a process's output on one line, for an error.
pub(super) fn last_words(lab: &Name, label: &str) -> String {
    let text = fs::read(log(lab, label)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(4)..].join("; ");
    if tail.is_empty() { "it said nothing".to_owned() } else { tail }
}

/// Starts a command in a host and remembers it. It outlives this process.
///
/// The host's network is all it shares: mounts that it makes are the machine's, so that they can outlive it, and are
/// undone by `weir lab down`.
pub(super) fn start(lab: &Name, host: &str, label: &str, mut command: Command) -> anyhow::Result<Process> {
    let doing = || format!("cannot start {label} in {host}");
    let path = log(lab, label);
    create_dir(&lab.dir().join("log")).and_then(|()| create_dir(&records(lab))).with_context(doing)?;
    let output = File::options().create(true).append(true).open(&path).with_context(doing)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // Ctrl-C in this terminal is not meant for it.
    command.process_group(0);
    let spawn = || {
        // Signals that whoever called us blocked would stay blocked in it. (This thread ends here.)
        SigSet::empty().thread_set_mask()?;
        command.spawn()
    };
    let child = Netns::open(&lab.namespace(host))?.run_in(spawn)?.with_context(doing)?;
    let pid = i32::try_from(child.id()).with_context(doing)?;
    let Some(process) = Process::find(pid) else {
        bail!("{}: it ended at once: {}", doing(), last_words(lab, label));
    };
    let record = json!({ "pid": process.pid, "started": process.started });
    write_whole(&records(lab).join(format!("{label}.json")), &record.to_string())?;
    Ok(process)
}

/// The processes that were started, alive or not, by name.
pub(super) fn recorded(lab: &Name) -> Vec<Named> {
    let mut found = Vec::new();
    for entry in fs::read_dir(records(lab)).into_iter().flatten().flatten() {
        let path = entry.path();
        let label = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        found.extend(label.zip(read(&path)).map(|(label, process)| Named { label, process }));
    }
    found.sort_by(|a, b| a.label.cmp(&b.label));
    found
}

fn records(lab: &Name) -> PathBuf {
    lab.dir().join("processes")
}

fn read(path: &Path) -> Option<Process> {
    if path.extension()? != "json" {
        return None;
    }
    let value: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let pid = i32::try_from(value["pid"].as_i64()?).ok().filter(|pid| *pid > 1)?;
    Some(Process { pid, started: value["started"].as_u64()? })
}

/// Ends everything that belongs to the lab; returns how many processes that were.
pub(super) fn end_all(lab: &Name) -> anyhow::Result<usize> {
    let mut processes: BTreeSet<Process> = recorded(lab).into_iter().map(|named| named.process).collect();
    processes.extend(inhabitants(lab)?);
    for own in own_line() {
        processes.retain(|process| process.pid != own);
    }
    processes.retain(|process| process.is_alive());
    let count = processes.len();
    for (signal, limit) in [(Signal::SIGTERM, GRACE), (Signal::SIGKILL, KILLED)] {
        // What was forked meanwhile is in the namespaces too.
        processes.extend(inhabitants(lab)?.into_iter().filter(|process| !own_line().contains(&process.pid)));
        for process in &processes {
            process.signal(signal);
        }
        let deadline = Instant::now() + limit;
        while processes.iter().any(|process| process.is_alive()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        processes.retain(|process| process.is_alive());
    }
    match processes.first() {
        None => Ok(count),
        Some(process) => bail!("process {} of the lab does not end", process.pid),
    }
}

/// Processes in the lab's network namespaces.
fn inhabitants(lab: &Name) -> anyhow::Result<Vec<Process>> {
    let mut namespaces = Vec::new();
    let existing = Netns::list()?;
    for host in HOSTS {
        let name = lab.namespace(host);
        if existing.contains(&name) {
            namespaces.push(Netns::open(&name)?.id()?);
        }
    }
    // A crash may leave a name with nothing mounted on it: then the file is of another kind and matches nobody.
    let processes = fs::read_dir("/proc").context("cannot list processes")?.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
        namespaces.contains(&(namespace.dev(), namespace.ino())).then(|| Process::find(pid))?
    });
    Ok(processes.collect())
}

/// This process and those it descends from.
fn own_line() -> Vec<i32> {
    let mut line = vec![std::process::id().cast_signed()];
    // Nobody nests deeper than this.
    while let Some(parent) = line.last().and_then(|pid| parent(*pid)).filter(|_| line.len() < 1024) {
        line.push(parent);
    }
    line
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    (parent > 0).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::find(pid).unwrap();
        let later = Process { started: process.started + 1, ..process };
        assert!(process.is_alive());
        assert!(!later.is_alive());
        later.signal(Signal::SIGKILL);
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL);
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Process::find(pid).is_some() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(Process::find(pid), None);
        child.wait().unwrap();
    }

    #[test]
    fn the_own_line_begins_here_and_goes_up() {
        let line = own_line();
        assert_eq!(line[0], std::process::id().cast_signed());
        assert!(line.len() > 1);
    }
}
