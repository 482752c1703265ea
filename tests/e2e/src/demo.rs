//! `weir-e2e demo`: the whole path, shown with real programs: curl asks, tcpdump looks, weir counts.
//!
//! Owns: what is shown, in which order, and the verdict. Invariant: it succeeds only if every one of the counted
//! requests was answered, by all three backends, and the change of the configuration had its effect.
//!
//! The count: per topology (routed, flat) 75 requests to the IPv4 VIP and 75 to the IPv6 VIP, 300 in all, each on a TCP
//! connection of its own. Requests sent before or after that, to show something else, are not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::capture::Capture;
use crate::director::without_backend;
use crate::interrupt;
use crate::network::{Lab, Topology};
use crate::weir::Weir;

/// Requests to each VIP of each topology.
const REQUESTS: u64 = 75;
/// Requests of the parts that are not counted.
const ASIDE: u64 = 30;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// The weir binary to show.
    #[arg(long, value_name = "PATH")]
    weir: PathBuf,
    /// End with one JSON object instead of a sentence.
    #[arg(long)]
    json: bool,
    /// Leave the labs up, and say how to use them.
    #[arg(long)]
    keep: bool,
}

/// What was counted.
#[derive(Default)]
struct Tally {
    requests: u64,
    backends: BTreeMap<String, u64>,
    modes: BTreeSet<String>,
}

impl Tally {
    fn answered(&self) -> u64 {
        self.backends.values().sum()
    }

    fn xdp_mode(&self) -> String {
        self.modes.iter().cloned().collect::<Vec<_>>().join("+")
    }
}

/// Runs the demonstration.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let weir = Weir::new(&args.weir)?;
    for program in ["curl", "tcpdump"] {
        let found = std::process::Command::new(program).arg("--version").output();
        ensure!(
            found.is_ok_and(|output| output.status.success()),
            "the demonstration needs {program}: install it (`apt-get install {program}`)"
        );
    }
    interrupt::watch(weir.clone()).context("cannot watch for Ctrl-C")?;
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut problem = None;
    for topology in Topology::ALL {
        if let Err(error) = show(&weir, topology, args.keep, &mut tally) {
            problem = Some(error.context(format!("the {topology} topology")));
            break;
        }
    }
    let expected = REQUESTS * 4;
    let ok = problem.is_none() && tally.answered() == expected && tally.backends.len() == 3;
    if let Some(error) = &problem {
        println!("\ndemo: FAILED: {error:#}");
    }
    if args.json {
        let object = json!({
            "ok": ok,
            "requests": tally.requests,
            "answered": tally.answered(),
            "backends": tally.backends,
            "xdp_mode": tally.xdp_mode(),
            "topologies": Topology::ALL.map(Topology::as_str),
            "seconds": (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        });
        println!("{object}");
    } else if problem.is_none() {
        let verdict = if ok { "ok" } else { "FAILED" };
        println!(
            "\ndemo: {verdict}: {}/{} requests answered through the VIP by {} backends (xdp {})",
            tally.answered(),
            tally.requests,
            tally.backends.len(),
            tally.xdp_mode()
        );
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(weir: &Weir, topology: Topology, keep: bool, tally: &mut Tally) -> anyhow::Result<()> {
    let name = format!("demo-{topology}");
    println!("\n== {topology}: {}", about(topology));
    // One that an earlier --keep left may have been changed since.
    weir.run(&["lab", "down", "--name", &name])?.success()?;
    let lab = Lab::up_named(weir, &name, topology, &[])?;
    let outcome = walk(&lab, tally);
    if let Err(error) = outcome {
        let log = lab.director_log();
        let lines: Vec<&str> = log.lines().collect();
        println!("\nthe end of the director's log ({}):", lab.dir().join("log/director.log").display());
        for line in &lines[lines.len().saturating_sub(10)..] {
            println!("  {line}");
        }
        if let Ok(counters) = counters(&lab) {
            println!("its counters:\n{counters}");
        }
        let again = format!(
            "run again with --keep, then look at `{} lab status --name {name}`",
            weir.path().display()
        );
        if keep {
            lab.keep();
        }
        return Err(error.context(again));
    }
    if keep {
        let out = weir.run(&["lab", "status", "--name", &name])?.success()?;
        println!("\nthe lab stays up:\n{}", out.stdout.trim_end());
        lab.keep();
    } else {
        lab.down()?;
    }
    Ok(())
}

fn about(topology: Topology) -> &'static str {
    match topology {
        Topology::Routed => "client - router - director; the router sends the VIPs' prefixes to the director",
        Topology::Flat => {
            "client, director, real servers and VIPs in one subnet; the director answers ARP and ND"
        }
    }
}

fn walk(lab: &Lab, tally: &mut Tally) -> anyhow::Result<()> {
    let status = lab.status()?;
    let mode =
        status["interfaces"][0]["xdp_mode"].as_str().context("the director does not say its XDP mode")?;
    println!("director: xdp {mode}");
    tally.modes.insert(mode.to_owned());

    let vips = lab.vips();
    for vip in [vips.v4, vips.v6] {
        let answers = curl(lab, vip, REQUESTS)?;
        tally.requests += REQUESTS;
        for (name, count) in &answers {
            *tally.backends.entry(name.clone()).or_default() += count;
        }
        ensure!(
            answers.values().sum::<u64>() == REQUESTS,
            "only {} of {REQUESTS} requests to {vip} were answered",
            answers.values().sum::<u64>()
        );
    }
    let aside = curl(lab, vips.v4_over_v6, ASIDE)?;
    ensure!(aside.values().sum::<u64>() == ASIDE, "not every IPv4-in-IPv6 request was answered");

    wire(lab, vips.v4, "ip proto 4")?;
    wire(lab, vips.v6, "ip6 proto 41")?;
    println!("\nthe director's counters (weir status)");
    println!("{}", counters(lab)?);
    reload(lab)
}

/// Sends requests with curl, each on a connection of its own, and shows who answered.
fn curl(lab: &Lab, vip: &str, count: u64) -> anyhow::Result<BTreeMap<String, u64>> {
    let base = if vip.contains(':') { format!("http://[{vip}]") } else { format!("http://{vip}") };
    let url = format!("{base}/[1-{count}]");
    let words =
        ["curl", "-sS", "--max-time", "5", "-H", "Connection: close", "-w", "port %{local_port}\n", &url];
    let out = lab.exec("client", &words)?;
    let mut answers = BTreeMap::new();
    let mut ports = BTreeSet::new();
    for line in out.stdout.lines() {
        if let Some(port) = line.strip_prefix("port ") {
            ports.insert(port);
        } else {
            *answers.entry(line.trim().to_owned()).or_default() += 1;
        }
    }
    let total: u64 = answers.values().sum();
    let by: Vec<_> = answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("curl {base}/: {total}/{count} answered from {} connections: {}", ports.len(), by.join(", "));
    if !out.ok() {
        println!("{out}");
    }
    ensure!(ports.len() as u64 == count, "{count} requests used {} connections", ports.len());
    ensure!(
        answers.keys().all(|name| ["rs1", "rs2", "rs3"].contains(&name.as_str())),
        "unknown answers: {answers:?}"
    );
    Ok(answers)
}

/// Shows one request on the wire: to the director, wrapped to the real server, straight back.
fn wire(lab: &Lab, vip: &str, wrapped: &str) -> anyhow::Result<()> {
    let host = lab.director_peer().0;
    let filter = format!("{wrapped} or host {vip}");
    let capture = Capture::start(lab, host, "any", &filter)?;
    let one = curl(lab, vip, 1)?;
    let lines = capture.stop()?;
    let backend = one.keys().next().context("no answer")?.clone();
    // `any` shows a packet on each interface it passes: which, and in which direction, begins the line.
    let on = |interface: &str, what: &dyn Fn(&str) -> bool| -> Option<String> {
        let found = lines.iter().find(|line| line.split_whitespace().next() == Some(interface) && what(line));
        found.map(|line| line.trim().to_owned())
    };
    let director: Vec<String> = addresses(lab, "director")?;
    let is_wrapped = |line: &str| {
        line.contains("Flags [S]") && director.iter().any(|address| line.contains(&format!(" {address} > ")))
    };
    let is_plain = |line: &str| line.contains("Flags [S]") && !is_wrapped(line);
    let is_reply = |line: &str| line.contains("Flags [S.]");
    let shown = [
        ("to the director", on("director", &is_plain)),
        ("wrapped, from the director", on("director", &is_wrapped)),
        ("wrapped, to the real server", on(&backend, &is_wrapped)),
        ("the reply, from the real server", on(&backend, &is_reply)),
        ("the reply, to the client", on("client", &is_reply)),
    ];
    println!("\none request on the wire: tcpdump -ni any '{filter}' in {host}");
    let missing: Vec<_> = shown.iter().filter(|(_, line)| line.is_none()).map(|(what, _)| *what).collect();
    for (_, line) in &shown {
        println!("  {}", line.as_deref().unwrap_or("-"));
    }
    if !missing.is_empty() {
        for line in &lines {
            println!("  seen: {line}");
        }
        bail!("not seen on the wire: {}", missing.join("; "));
    }
    let passing = on("director", &is_reply);
    ensure!(passing.is_none(), "the reply passes the director: {}", passing.unwrap_or_default());
    println!("  (no reply on the director's wire)");
    Ok(())
}

fn addresses(lab: &Lab, host: &str) -> anyhow::Result<Vec<String>> {
    let status = lab.lab_status()?;
    let mut hosts = status["hosts"].as_array().into_iter().flatten();
    let found = hosts.find(|entry| entry["name"] == host).context("no such host")?;
    let list = found["addresses"].as_array().into_iter().flatten();
    Ok(list.filter_map(Value::as_str).map(str::to_owned).collect())
}

fn counters(lab: &Lab) -> anyhow::Result<String> {
    let runtime = lab.runtime_dir().display().to_string();
    let out = lab.weir().run(&["status", "--runtime-dir", &runtime])?.success()?;
    Ok(out.stdout.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))
}

/// Takes a backend out of the configuration file by hand, and shows that its traffic moves.
fn reload(lab: &Lab) -> anyhow::Result<()> {
    let path = lab.config_path();
    let before = lab.config()?;
    println!("\ntaking rs2 out of {}, then weir reload", path.display());
    fs::write(&path, without_backend(&before, "rs2")).context("cannot edit the configuration")?;
    let out = lab.reload()?.success()?;
    println!("weir reload: {}", out.stdout.trim());
    for vip in [lab.vips().v4, lab.vips().v6] {
        let answers = curl(lab, vip, ASIDE)?;
        ensure!(answers.values().sum::<u64>() == ASIDE, "not every request after the reload was answered");
        ensure!(!answers.contains_key("rs2"), "rs2 still answers new connections");
        ensure!(answers.len() == 2, "only {answers:?} answer after the reload");
    }
    fs::write(&path, before).context("cannot restore the configuration")?;
    lab.reload()?.success()?;
    println!("and rs2 is back in");
    Ok(())
}
