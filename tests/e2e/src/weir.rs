//! The binary under test, and the output of commands.
//!
//! Owns: running a command to its end, within a time limit. May not touch: what the commands mean.
//! Invariant: no command runs for longer than its limit.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// Time a command gets unless the caller knows better.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The `weir` binary.
#[derive(Clone, Debug)]
pub(crate) struct Weir {
    path: PathBuf,
}

impl Weir {
    /// The binary at `path`, which must exist.
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        let path = path.canonicalize().with_context(|| format!("no weir binary at {}", path.display()))?;
        ensure!(path.is_file(), "{} is not a file; --weir wants the weir binary", path.display());
        Ok(Self { path })
    }

    /// Where it is, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs it, for those who want to set more.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(args);
        command
    }

    /// Runs it with `args` to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> anyhow::Result<Output> {
        finish(self.command(args), PATIENCE)
    }
}

/// What a command did.
pub(crate) struct Output {
    command: String,
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// Whether it succeeded.
    pub(crate) fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// The output, if the command succeeded; else an error that shows it all.
    pub(crate) fn success(self) -> anyhow::Result<Self> {
        ensure!(self.ok(), "{self}");
        Ok(self)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "`{}` ended with {code}", self.command)?,
            None => write!(f, "`{}` was killed", self.command)?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            for line in text.trim_end().lines() {
                write!(f, "\n{name}: {line}")?;
            }
        }
        Ok(())
    }
}

/// Runs `command` to its end, or kills it when the time is up (which is an error).
pub(crate) fn finish(mut command: Command, limit: Duration) -> anyhow::Result<Output> {
    let text = describe(&command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{text}`"))?;
    collect(child, text, limit)
}

/// Waits for a child whose output is piped.
pub(crate) fn collect(mut child: Child, command: String, limit: Duration) -> anyhow::Result<Output> {
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            child.kill().ok();
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    let output = Output {
        command,
        code: status.and_then(|status| status.code()),
        stdout: text(stdout),
        stderr: text(stderr),
    };
    ensure!(status.is_some(), "not done after {} s: {output}", limit.as_secs());
    Ok(output)
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}
