//! Running long commands: visible while they run, silent when they succeed, loud when they fail.
//!
//! Owns: progress lines (always on stderr, so that stdout belongs to results) and the bounding of output.
//! May not touch: what the commands do. Invariant: never more than [`TAIL`] lines of a command are shown.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// How many of a failed command's last lines are shown.
const TAIL: usize = 80;
/// How often a sign of life is given where there is no terminal to rewrite a line on.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended; none if it was stopped for taking too long.
    pub(crate) status: Option<ExitStatus>,
    /// Its last lines, standard output and error in the order they were written.
    pub(crate) tail: VecDeque<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Finished {
    /// Whether it ended with exit code 0.
    pub(crate) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// How it ended, as words.
    pub(crate) fn ending(&self) -> String {
        match self.status {
            Some(status) => status.to_string(),
            None => format!("stopped after {} s", self.took.as_secs()),
        }
    }
}

/// Runs `command` to its end or for at most `limit`, showing one changing line, and keeping all lines in `log`.
pub(crate) fn watch(
    label: &str,
    mut command: Command,
    limit: Duration,
    log: Option<&Path>,
) -> anyhow::Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let error_writer = writer.try_clone().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer).stderr(error_writer);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    drop(command); // and with it this side's end for writing, so that reading ends when the child does

    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });

    let mut log = log.map(File::create).transpose().context("cannot create the log file")?;
    let mut tail = VecDeque::new();
    let mut ticker = Ticker::new(label);
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(250)) {
            Ok(line) => {
                if let Some(log) = &mut log {
                    writeln!(log, "{line}").context("cannot write the log file")?;
                }
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                ticker.show(&line);
                tail.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => ticker.wait(),
            Err(RecvTimeoutError::Disconnected) => break Some(child.wait()?),
        }
        // A daemon left behind may hold the pipe open; the command's own end is what counts.
        if lines_are_quiet(&ticker)
            && let Some(status) = child.try_wait()?
        {
            break Some(status);
        }
        if started.elapsed() > limit {
            child.kill().context("cannot stop the command")?;
            child.wait()?;
            break None;
        }
    };
    ticker.clear();
    Ok(Finished { status, tail, took: started.elapsed() })
}

fn lines_are_quiet(ticker: &Ticker) -> bool {
    ticker.last_line.elapsed() > Duration::from_secs(1)
}

/// Runs `command` as one step named `label`: a line before, the time after, the last lines if it fails.
pub(crate) fn step(label: &str, command: Command, limit: Duration) -> anyhow::Result<()> {
    eprintln!("{label} …");
    let finished = watch(label, command, limit, None)?;
    if !finished.success() {
        print_tail(&finished);
        bail!("{label}: {}", finished.ending());
    }
    eprintln!("{label}: done in {:.1} s", finished.took.as_secs_f64());
    Ok(())
}

/// Shows a failed command's last lines.
pub(crate) fn print_tail(finished: &Finished) {
    for line in &finished.tail {
        eprintln!("    {line}");
    }
}

/// The one line that says a command is alive.
struct Ticker {
    label: String,
    terminal: bool,
    started: Instant,
    last_line: Instant,
    last_beat: Instant,
    shown: bool,
    latest: String,
}

impl Ticker {
    fn new(label: &str) -> Self {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal();
        let label = label.to_owned();
        Self {
            label,
            terminal,
            started: now,
            last_line: now,
            last_beat: now,
            shown: false,
            latest: String::new(),
        }
    }

    fn show(&mut self, line: &str) {
        self.last_line = Instant::now();
        let printable = line.trim().chars().filter(|character| !character.is_control());
        self.latest = printable.take(70).collect();
        self.wait();
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let interval = if self.terminal { Duration::from_millis(200) } else { HEARTBEAT };
        if now - self.last_beat < interval {
            return;
        }
        self.last_beat = now;
        let seconds = (now - self.started).as_secs();
        if self.terminal {
            eprint!("\r\x1b[2K\x1b[2m  {seconds:>3} s  {}\x1b[0m", self.latest);
            self.shown = true;
        } else {
            eprintln!("  {} … {seconds} s  {}", self.label, self.latest);
        }
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_are_kept_and_bounded() {
        let script = "for i in $(seq 200); do echo line $i; done; echo last >&2; exit 3";
        let finished = watch("test", shell(script), Duration::from_secs(20), None).expect("sh runs");
        assert_eq!(finished.status.and_then(|status| status.code()), Some(3));
        assert_eq!(finished.tail.len(), TAIL);
        assert_eq!(finished.tail.back().map(String::as_str), Some("last"));
    }

    #[test]
    fn what_takes_too_long_is_stopped() {
        let finished =
            watch("test", shell("exec sleep 30"), Duration::from_millis(600), None).expect("sh runs");
        assert!(finished.status.is_none() && !finished.success());
        assert!(finished.took < Duration::from_secs(10));
    }

    #[test]
    fn a_background_process_does_not_keep_a_command_alive() {
        let finished =
            watch("test", shell("sleep 20 & exit 0"), Duration::from_secs(15), None).expect("sh runs");
        assert!(finished.success(), "{}", finished.ending());
    }
}
