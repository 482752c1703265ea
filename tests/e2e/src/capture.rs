//! Packets as tcpdump shows them.
//!
//! Owns: running tcpdump in a host. Captures belong on the router's, switch's and real servers' ends: the director's
//! own interface shows nothing of what an XDP program takes and sends.
//! Invariant: what was sent after [`Capture::start`] returned is in the lines that [`Capture::stop`] returns, all of it,
//! or there is an error.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::director::wait_until;
use crate::network::Lab;

/// tcpdump ends by itself after so many packets.
const LIMIT: &str = "200000";

/// A running tcpdump.
pub(crate) struct Capture {
    child: Child,
    lines: std::thread::JoinHandle<String>,
    said: mpsc::Receiver<String>,
}

impl Capture {
    /// Begins to capture on an interface of a host.
    pub(crate) fn start(lab: &Lab, host: &str, interface: &str, filter: &str) -> anyhow::Result<Self> {
        // Immediate mode keeps a slot of the snapshot's length for each packet: short ones, or there are only eight.
        let words = ["tcpdump", "-l", "-n", "-t", "--immediate-mode", "-s", "256", "-B", "8192"];
        let words = [words.as_slice(), &["-c", LIMIT, "-i", interface, filter]].concat();
        let mut child = lab
            .command(host, &words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start tcpdump")?;
        let mut stdout = child.stdout.take().context("no pipe")?;
        let stderr = BufReader::new(child.stderr.take().context("no pipe")?);
        let lines = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).ok();
            text
        });
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody listens once it is known to run.
                sender.send(line).ok();
            }
        });
        let capture = Self { child, lines, said };
        let mut complaints = Vec::new();
        loop {
            match capture.said.recv_timeout(Duration::from_secs(10)) {
                Ok(line) if line.contains("listening on") => return Ok(capture),
                Ok(line) => complaints.push(line),
                Err(_) => bail!("tcpdump does not begin in {host}: {}", complaints.join("; ")),
            }
        }
    }

    /// Ends the capture; one line a packet.
    pub(crate) fn stop(mut self) -> anyhow::Result<Vec<String>> {
        // What was just sent reaches the socket within the kernel's next moments.
        std::thread::sleep(Duration::from_millis(200));
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).context("cannot end tcpdump")?;
        let child = &mut self.child;
        wait_until("tcpdump ends", Duration::from_secs(10), || Ok(child.try_wait()?.is_some()))?;
        let lines = std::mem::replace(&mut self.lines, std::thread::spawn(String::new));
        let text = lines.join().ok().context("the reader of tcpdump's output panicked")?;
        for line in &self.said {
            let lost = line.strip_suffix(" packets dropped by kernel").is_some_and(|count| count != "0");
            ensure!(!lost, "tcpdump was too slow: {line}");
        }
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill, and both calls say so.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
