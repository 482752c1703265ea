//! `weir run`: the director's daemon.
//!
//! Owns: the loop and what wakes it (signals, calls, changes in the network, time), and how it ends. May not touch: map
//! layouts, configuration syntax.
//!
//! `file -> Config -> Desired -> diff(Observed, Desired) -> steps -> the kernel's tables`, at the start, on SIGHUP or
//! `weir reload`, when the network changes, and every second.

mod addresses;
mod array;
mod daemon;
mod notify;
mod privileges;
mod report;
mod server;
mod settings;
mod start;
mod tables;
mod ways;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal as Blocked};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tracing_subscriber::EnvFilter;
use weir_config::Config;
use weir_kernel::net::{Event, Monitor};

use daemon::Daemon;
use server::Call;

pub(crate) use server::version;

/// Where the daemon keeps its lock, its socket and its pins.
pub(crate) const RUNTIME_DIR: &str = "/run/weir";
/// How long changes in the network are collected before they are acted upon.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often everything is looked at although nothing was heard.
const RESYNC: Duration = Duration::from_secs(1);

/// Options of `weir run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The configuration file.
    #[arg(long, short, default_value = "/etc/weir/weir.toml")]
    config: PathBuf,
    /// Directory for the daemon's lock, its API socket and its pinned tables.
    #[arg(long, default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// When to detach and remove everything: when the daemon ends, or never (it leaves the program forwarding, and
    /// the next start takes over).
    #[arg(long, value_enum, default_value_t = Detach::OnExit)]
    detach: Detach,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// How log lines look. The environment variable WEIR_LOG says which there are (`info`, `weir=debug`, …).
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Detach {
    OnExit,
    Never,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Runs the command.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = weir_config::load(&args.config)?;
    if args.check {
        return check(&args.config, &config);
    }
    log(args.log_format)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // One thread, so that giving up privileges concerns all of the process; the network monitor's comes after.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    // From here on a signal waits until the start is over, instead of cutting it short.
    let signals = Signals::new()?;
    let (started, listener) = start::start(&args.config, config, &args.runtime_dir)?;
    let mut started = started;
    let inputs = match prepare(args, listener) {
        Ok(inputs) => inputs,
        Err(error) => {
            started.undo();
            return Err(error);
        }
    };
    drop(entered);
    runtime.block_on(serve(&mut started.daemon, inputs, signals));
    notify::notify("STOPPING=1");
    match args.detach {
        Detach::OnExit => {
            started.stop()?;
            tracing::info!("detached; nothing is left behind");
        }
        Detach::Never => {
            started.leave();
            tracing::info!("ended; the program goes on forwarding with the tables as they are");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(path: &Path, config: &Config) -> anyhow::Result<ExitCode> {
    settings::options(config)?;
    for warning in &config.warnings {
        eprintln!("{warning}");
    }
    let backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
    println!("{}: valid: {} services, {backends} backends", path.display(), config.services.len());
    Ok(ExitCode::SUCCESS)
}

fn log(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var("WEIR_LOG") {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| format!("cannot use WEIR_LOG={text}"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logger.with_ansi(colours).with_target(false).init();
        }
        LogFormat::Json => logger.json().init(),
    }
    Ok(())
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        // Whoever started us may have had them blocked, and that is inherited.
        let ours = [Blocked::SIGHUP, Blocked::SIGTERM, Blocked::SIGINT];
        SigSet::from_iter(ours).thread_unblock().context("cannot listen for signals")?;
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }
}

/// What wakes the loop besides signals and time.
struct Inputs {
    calls: mpsc::Receiver<Call>,
    changed: Arc<Notify>,
    _monitor: Monitor,
}

/// Gives up privileges, then opens the ears.
fn prepare(args: &RunArgs, listener: std::os::unix::net::UnixListener) -> anyhow::Result<Inputs> {
    privileges::reduce(args.detach == Detach::OnExit).context("cannot give up privileges")?;
    let calls = server::spawn(listener)?;
    let changed = Arc::new(Notify::new());
    let notify = Arc::clone(&changed);
    let monitor = Monitor::start(move |event| {
        if matters(&event) {
            notify.notify_one();
        }
    })?;
    Ok(Inputs { calls, changed, _monitor: monitor })
}

/// A neighbour without an address yet changes nothing (and asking for one makes such events).
fn matters(event: &Event) -> bool {
    match event {
        Event::Neighbour(_, neighbour) => neighbour.usable_mac().is_some(),
        _ => true,
    }
}

async fn serve(daemon: &mut Daemon, mut inputs: Inputs, mut signals: Signals) {
    // What changed before the monitor listened.
    daemon.reconcile();
    tracing::info!("ready: {}", summary(daemon));
    notify::notify("READY=1");
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = resync.tick() => daemon.reconcile(),
            () = inputs.changed.notified() => {
                tokio::time::sleep(DEBOUNCE).await;
                daemon.reconcile();
            }
            _ = signals.hangup.recv() => {
                daemon.reload();
            }
            Some(call) = inputs.calls.recv() => match call {
                // Whoever asked may have gone.
                Call::Reload(reply) => drop(reply.send(daemon.reload())),
                Call::Status(reply) => {
                    drop(reply.send(report::status(daemon).map_err(|error| crate::advice::cause_line(&error))));
                }
            },
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
        }
    }
}

fn summary(daemon: &Daemon) -> String {
    let interfaces =
        daemon.attached.iter().map(|(name, (_, attached))| format!("{name} (xdp {})", attached.mode));
    let services = match daemon.config.services.len() {
        1 => "1 service".to_owned(),
        count => format!("{count} services"),
    };
    match &daemon.config.director.program_array {
        Some(array) => format!("forwarding for {services} at {}", array::describe(Some(array))),
        None => format!("forwarding for {services} on {}", interfaces.collect::<Vec<_>>().join(", ")),
    }
}
