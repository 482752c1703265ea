//! Requests: many short connections, each a new one, counted by who answered.
//!
//! Owns: the load generator (the hidden command `client`, which runs inside the client's namespace) and starting it
//! from outside. Invariant: every request is counted once, as answered or as failed; a run is bounded in time.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::network::Lab;
use crate::weir::{PATIENCE, collect, finish};

/// A request has failed after this long. Long enough for the kernel to send a lost SYN twice more.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Requests slower than this had a packet lost: the kernel sends a SYN again after one second.
const SLOW: Duration = Duration::from_millis(900);
/// A run that nobody stops ends by itself.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Options of the hidden command `client`.
#[derive(Debug, clap::Args)]
pub(crate) struct ClientArgs {
    /// Where to send requests; taken in turn.
    #[arg(long, required = true)]
    to: Vec<SocketAddr>,
    /// How many; without it, until standard input ends.
    #[arg(long)]
    requests: Option<u64>,
    /// How many at a time.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
}

/// The generator itself: sends requests, prints a JSON report.
pub(crate) fn client(args: &ClientArgs) {
    let results = Mutex::new(Results::default());
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let total = args.requests.unwrap_or(u64::MAX);
    std::thread::scope(|scope| {
        if args.requests.is_none() {
            scope.spawn(|| {
                // Ends when whoever started this closes the pipe, or is gone.
                std::io::stdin().read_to_end(&mut Vec::new()).ok();
                stop.store(true, Ordering::Relaxed);
            });
        }
        for _ in 0..args.concurrency {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && begun.elapsed() < RUN_LIMIT {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        break;
                    }
                    let to = args.to[usize::try_from(number).unwrap_or(0) % args.to.len()];
                    let asked = Instant::now();
                    let outcome = request(to);
                    results.lock().expect("no thread panics").count(to, outcome, asked.elapsed());
                }
            });
        }
    });
    println!("{}", results.into_inner().expect("no thread panics").json(begun.elapsed()));
}

#[derive(Default)]
struct Results {
    answered: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    slow: u64,
    slowest: Duration,
}

impl Results {
    fn count(&mut self, to: SocketAddr, outcome: std::io::Result<String>, took: Duration) {
        match outcome {
            Ok(name) => *self.answered.entry(name).or_default() += 1,
            Err(error) => *self.errors.entry(format!("{to}: {error}")).or_default() += 1,
        }
        self.slow += u64::from(took > SLOW);
        self.slowest = self.slowest.max(took);
    }

    fn json(&self, took: Duration) -> Value {
        json!({
            "answered": self.answered,
            "errors": self.errors,
            "slow": self.slow,
            "slowest_ms": u64::try_from(self.slowest.as_millis()).unwrap_or(u64::MAX),
            "seconds": took.as_secs_f64(),
        })
    }
}

/// One connection, one GET; the body without white space around it.
fn request(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, REQUEST_LIMIT)?;
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    stream.set_write_timeout(Some(REQUEST_LIMIT))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(64 * 1024).read_to_string(&mut text)?;
    let invalid = || std::io::Error::other(format!("not an answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    if !head.starts_with("HTTP/1.1 200 ") || body.trim().is_empty() {
        return Err(invalid());
    }
    Ok(body.trim().to_owned())
}

/// What became of a number of requests.
#[derive(Debug)]
pub(crate) struct Report {
    /// How often each name was the answer.
    pub(crate) answered: BTreeMap<String, u64>,
    /// What failed, how often.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Answered, but so late that a packet must have been lost.
    pub(crate) slow: u64,
    /// The slowest, in milliseconds.
    pub(crate) slowest_ms: u64,
    /// Time for all of them.
    pub(crate) seconds: f64,
}

impl Report {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let value: Value =
            serde_json::from_str(text.trim()).context("the load generator printed something else")?;
        let map = |key: &str| -> BTreeMap<String, u64> {
            let object = value[key].as_object().into_iter().flatten();
            object.map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0))).collect()
        };
        Ok(Self {
            answered: map("answered"),
            errors: map("errors"),
            slow: value["slow"].as_u64().context("no count of slow requests")?,
            slowest_ms: value["slowest_ms"].as_u64().context("no slowest request")?,
            seconds: value["seconds"].as_f64().context("no time")?,
        })
    }

    /// Number of requests answered.
    pub(crate) fn total(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Number of requests not answered.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// An error unless every request was answered, and each of `names` answered some and nobody else did.
    pub(crate) fn all_answered_by(&self, names: &[&str]) -> anyhow::Result<()> {
        ensure!(self.failed() == 0 && self.total() > 0, "not every request was answered: {self}");
        let who: Vec<_> = self.answered.keys().map(String::as_str).collect();
        ensure!(who == names, "answers should come from {}: {self}", names.join(", "));
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, failed) = (self.total(), self.failed());
        write!(f, "{total}/{} answered", total + failed)?;
        for (name, count) in &self.answered {
            write!(f, ", {name} {count}")?;
        }
        write!(f, ", slowest {} ms", self.slowest_ms)?;
        for (error, count) in self.errors.iter().take(5) {
            write!(f, "; {count} x {error}")?;
        }
        Ok(())
    }
}

/// A request's destination.
pub(crate) fn http(vip: &str) -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::new(vip.parse().with_context(|| format!("{vip} is no address"))?, 80))
}

/// Sends a number of requests from the client, and waits for them.
pub(crate) fn requests(lab: &Lab, vip: &str, count: u64, concurrency: usize) -> anyhow::Result<Report> {
    let words = words(&[http(vip)?], concurrency, Some(count))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = finish(lab.command("client", &words), PATIENCE)?.success()?;
    Report::parse(&output.stdout)
}

fn words(to: &[SocketAddr], concurrency: usize, requests: Option<u64>) -> anyhow::Result<Vec<String>> {
    let mut words =
        vec![own_path()?, "client".to_owned(), "--concurrency".to_owned(), concurrency.to_string()];
    for address in to {
        words.extend(["--to".to_owned(), address.to_string()]);
    }
    if let Some(count) = requests {
        words.extend(["--requests".to_owned(), count.to_string()]);
    }
    Ok(words)
}

/// This program, to be run inside a host.
pub(crate) fn own_path() -> anyhow::Result<String> {
    Ok(std::env::current_exe().context("cannot find this program")?.display().to_string())
}

/// Requests that go on until they are stopped.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    /// Starts `concurrency` workers that send requests to the VIPs in turn.
    pub(crate) fn start(lab: &Lab, vips: &[&str], concurrency: usize) -> anyhow::Result<Self> {
        let to = vips.iter().map(|vip| http(vip)).collect::<anyhow::Result<Vec<_>>>()?;
        let words = words(&to, concurrency, None)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let child = lab
            .command("client", &words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the load generator")?;
        Ok(Self { child: Some(child) })
    }

    /// Stops them and says what became of them.
    pub(crate) fn stop(mut self) -> anyhow::Result<Report> {
        let mut child = self.child.take().context("stopped already")?;
        drop(child.stdin.take());
        Report::parse(&collect(child, "the load generator".to_owned(), PATIENCE)?.success()?.stdout)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
