//! Long-lived connections: bytes that go to a real server and come back, every one of them checked.
//!
//! Owns: the hidden commands `echo` (on a real server) and `streams` (on the client), and starting them from outside.
//! Invariant: a stream that misses, repeats or changes a byte, or ends early, is reported as broken.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::load::own_path;
use crate::network::Lab;
use crate::weir::{PATIENCE, collect};

/// The port of the echo service.
pub(crate) const PORT: u16 = 7007;
/// A stream whose bytes take longer than this to come back is broken.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// A run that nobody stops ends by itself.
const RUN_LIMIT: Duration = Duration::from_secs(120);
/// Connections one echo server takes at a time.
const ECHO_WORKERS: usize = 32;
/// Bytes sent at a time.
const CHUNK: usize = 2000;

/// Options of the hidden command `echo`.
#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

/// Sends back what comes, until it is killed.
pub(crate) fn echo(args: &EchoArgs) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("ready");
    std::thread::scope(|scope| {
        for _ in 0..ECHO_WORKERS {
            scope.spawn(|| {
                for stream in listener.incoming().flatten() {
                    let mut bytes = [0; 4096];
                    let (mut from, mut to) = (&stream, &stream);
                    while let Ok(read @ 1..) = from.read(&mut bytes) {
                        if to.write_all(&bytes[..read]).is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    Ok(())
}

/// Options of the hidden command `streams`.
#[derive(Debug, clap::Args)]
pub(crate) struct StreamsArgs {
    /// An echo service.
    #[arg(long)]
    to: SocketAddr,
    /// How many connections.
    #[arg(long)]
    count: u64,
}

/// Keeps connections busy until standard input ends, prints a JSON report.
pub(crate) fn streams(args: &StreamsArgs) {
    let stop = AtomicBool::new(false);
    let bytes = AtomicU64::new(0);
    let open = AtomicU64::new(0);
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::io::stdin().read_to_end(&mut Vec::new()).ok();
            stop.store(true, Ordering::Relaxed);
        });
        for number in 0..args.count {
            let (stop, bytes, open, broken) = (&stop, &bytes, &open, &broken);
            scope.spawn(move || {
                if let Err(error) = stream(args.to, number, stop, bytes, || {
                    if open.fetch_add(1, Ordering::Relaxed) + 1 == args.count {
                        println!("ready");
                    }
                }) {
                    broken.lock().expect("no thread panics").push(format!("stream {number}: {error:#}"));
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no thread panics");
    println!("{}", json!({ "bytes": bytes.into_inner(), "broken": broken }));
}

/// One connection; `opened` is called when the first bytes are back.
fn stream(
    to: SocketAddr,
    number: u64,
    stop: &AtomicBool,
    bytes: &AtomicU64,
    opened: impl FnOnce(),
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE_LIMIT).context("cannot connect")?;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    stream.set_write_timeout(Some(SILENCE_LIMIT))?;
    let begun = Instant::now();
    let mut opened = Some(opened);
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < RUN_LIMIT {
        let chunk: Vec<u8> = (0..CHUNK).map(|_| next(&mut state)).collect();
        stream.write_all(&chunk).context("cannot send")?;
        let mut back = vec![0; CHUNK];
        stream.read_exact(&mut back).context("nothing came back")?;
        let at = bytes.fetch_add(CHUNK as u64, Ordering::Relaxed);
        if let Some(place) = (0..CHUNK).find(|&place| chunk[place] != back[place]) {
            bail!("a byte near {} of all streams is wrong", at + place as u64);
        }
        if let Some(opened) = opened.take() {
            opened();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// xorshift64: bytes that do not repeat within a run.
fn next(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}

/// A hidden command that runs in a host until it is dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(lab: &Lab, host: &str, words: &[&str]) -> anyhow::Result<Self> {
        let own = own_path()?;
        let mut all = vec![own.as_str()];
        all.extend(words);
        let mut child = lab
            .command(host, &all)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {} in {host}", words.join(" ")))?;
        // Byte by byte: what comes after the line belongs to whoever collects the output.
        let mut line = Vec::new();
        let mut byte = [0];
        let pipe = child.stdout.as_mut().context("no pipe")?;
        while !line.ends_with(b"\n") && line.len() < 4096 && pipe.read(&mut byte).is_ok_and(|read| read == 1)
        {
            line.push(byte[0]);
        }
        let running = Self(Some(child));
        ensure!(
            line == b"ready\n",
            "{} in {host} does not begin: {}",
            words.join(" "),
            String::from_utf8_lossy(&line)
        );
        Ok(running)
    }

    /// The process, for one who waits for its end.
    pub(crate) fn take(&mut self) -> anyhow::Result<Child> {
        self.0.take().context("stopped already")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Echo servers on all real servers; a service for [`PORT`] is the caller's to configure.
pub(crate) struct EchoServers {
    _servers: Vec<Running>,
}

impl EchoServers {
    /// Starts them.
    pub(crate) fn start(lab: &Lab) -> anyhow::Result<Self> {
        let listen = format!("[::]:{PORT}");
        let start = |host: &&str| Running::start(lab, host, &["echo", "--listen", &listen]);
        Ok(Self { _servers: ["rs1", "rs2", "rs3"].iter().map(start).collect::<anyhow::Result<_>>()? })
    }
}

/// Connections from the client to an echo service.
pub(crate) struct Streams {
    running: Running,
    count: u64,
}

impl Streams {
    /// Opens them and waits until bytes came back on each.
    pub(crate) fn start(lab: &Lab, vip: &str, count: u64) -> anyhow::Result<Self> {
        let to = SocketAddr::new(vip.parse()?, PORT).to_string();
        let running =
            Running::start(lab, "client", &["streams", "--to", &to, "--count", &count.to_string()])?;
        Ok(Self { running, count })
    }

    /// Ends them; an error if one was broken, else what they carried.
    pub(crate) fn stop(mut self) -> anyhow::Result<String> {
        let mut child = self.running.take()?;
        drop(child.stdin.take());
        let output = collect(child, "the streams".to_owned(), PATIENCE)?.success()?;
        let value: Value =
            serde_json::from_str(output.stdout.trim()).context("the streams printed something else")?;
        let broken = value["broken"].as_array().context("no list of broken streams")?;
        ensure!(broken.is_empty(), "{} of {} streams broke: {}", broken.len(), self.count, value["broken"]);
        Ok(format!("{} streams, {} bytes there and back, none broken", self.count, value["bytes"]))
    }
}
