//! Suite `iptunnel`: the Linux sample's command line, on the lab's wires and with its real servers.
//!
//! Owns: running `weir` under the sample's name in the director's host. May not touch: weir's crates; what is in the
//! maps is what bpftool says.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::capture::Capture;
use crate::director::wait_until;
use crate::harness::{Case, Context, Suite};
use crate::network::{Lab, Topology};
use crate::weir::{Output, finish};

pub(crate) const SUITE: Suite = Suite {
    name: "iptunnel",
    about: "the Linux sample xdp_tx_iptunnel's command line, output and maps",
    cases: &[
        Case { name: "the sample's own command line forwards requests", run: samples_command_line },
        Case { name: "the maps hold the sample's bytes", run: maps },
        Case { name: "6in6, 4in6 and a resolved next hop, which moves", run: families_and_next_hop },
        Case { name: "a ping is wrapped with -P 1", run: ping },
        Case { name: "packets too big once wrapped are told of", run: too_big },
        Case { name: "only its own program is taken away", run: only_its_own },
        Case { name: "a program held by a link is not replaced, even with -F", run: held_by_a_link },
        Case { name: "mistakes are refused and leave nothing", run: mistakes },
    ],
};

/// Time to start, to end, to see something happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routed lab's addresses.
const VIP: &str = "192.0.2.10";
const DIRECTOR: &str = "10.0.1.2";
const RS1: &str = "10.0.11.2";
const DIRECTOR6: &str = "2001:db8:1::2";
const RS1_6: &str = "2001:db8:11::2";
const NO_SUCH_MAC: &str = "02:00:00:00:00:99";

/// A link to the binary by the sample's name.
struct Sample {
    dir: PathBuf,
}

impl Sample {
    fn new(cx: &mut Context<'_>) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(cx.unique_name());
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let sample = Self { dir };
        symlink(cx.weir.path(), sample.dir.join("xdp_tx_iptunnel")).context("cannot link to weir")?;
        Ok(sample)
    }

    fn words(&self, line: &str) -> Vec<String> {
        let program = self.dir.join("xdp_tx_iptunnel").display().to_string();
        std::iter::once(program).chain(line.split_whitespace().map(str::to_owned)).collect()
    }

    /// Runs it to its end in the director's host.
    fn run(&self, lab: &Lab, line: &str) -> anyhow::Result<Output> {
        let words = self.words(line);
        finish(lab.command("director", &words.iter().map(String::as_str).collect::<Vec<_>>()), PATIENCE)
    }

    /// Starts it in the director's host, and waits until its program is on the interface instead of `before`.
    fn start(&self, lab: &Lab, line: &str, before: Option<u64>) -> anyhow::Result<Running> {
        let log = (0..100).map(|n| self.dir.join(format!("log-{n}"))).find(|path| !path.exists());
        let log = log.context("too many logs")?;
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let words = self.words(line);
        let mut command = lab.command("director", &words.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().context("cannot start xdp_tx_iptunnel")?;
        let mut running = Running { child, log, program: 0 };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match program(lab)? {
                Some(id) if Some(id) != before => {
                    running.program = id;
                    return Ok(running);
                }
                _ => {}
            }
            if let Some(status) = running.child.try_wait()? {
                bail!("xdp_tx_iptunnel ended with {status}: {}", running.output());
            }
            ensure!(Instant::now() < deadline, "no program is attached: {}", running.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("warning: cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// The sample at work.
struct Running {
    child: Child,
    log: PathBuf,
    program: u64,
}

impl Running {
    fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for it to end with exit code 0.
    fn wait(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let mut code = None;
        let took = wait_until("xdp_tx_iptunnel ends", limit, || {
            code = self.child.try_wait()?;
            Ok(code.is_some())
        })?;
        ensure!(code.is_some_and(|code| code.success()), "ended with {code:?}: {}", self.output());
        Ok(took)
    }

    fn stop(&mut self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).context("cannot send a signal")?;
        self.wait(PATIENCE).map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The kernel's id of the program on the director's interface.
fn program(lab: &Lab) -> anyhow::Result<Option<u64>> {
    let links = lab.exec("director", &["ip", "-json", "link", "show", "eth0"])?.success()?;
    let links: Value = serde_json::from_str(&links.stdout).context("`ip` did not print JSON")?;
    Ok(links[0]["xdp"]["prog"]["id"].as_u64())
}

/// bpftool's JSON.
fn bpftool(lab: &Lab, words: &[&str]) -> anyhow::Result<Value> {
    let words = [&["bpftool", "-j"], words].concat();
    let output = lab.exec("director", &words)?.success()?;
    serde_json::from_str(&output.stdout).with_context(|| format!("not JSON: {output}"))
}

/// The id of this program's map with this name.
fn map_id(lab: &Lab, program: u64, name: &str) -> anyhow::Result<String> {
    let shown = bpftool(lab, &["prog", "show", "id", &program.to_string()])?;
    for id in shown["map_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64) {
        let id = id.to_string();
        if bpftool(lab, &["map", "show", "id", &id])?["name"] == name {
            return Ok(id);
        }
    }
    bail!("program {program} has no map {name}")
}

/// The MAC address of the router's port to the director.
fn router_mac(lab: &Lab) -> anyhow::Result<String> {
    let links = lab.exec("router", &["ip", "-json", "link", "show", "director"])?.success()?;
    let links: Value = serde_json::from_str(&links.stdout).context("`ip` did not print JSON")?;
    links[0]["address"].as_str().map(str::to_owned).context("the router's port has no address")
}

/// One request from the client; what the real server said.
fn request(lab: &Lab, vip: &str) -> anyhow::Result<String> {
    let host = if vip.contains(':') { format!("[{vip}]") } else { vip.to_owned() };
    let url = format!("http://{host}/");
    Ok(lab.exec("client", &["curl", "-gsS", "--max-time", "4", &url])?.success()?.stdout.trim().to_owned())
}

/// The packets of a capture; tcpdump ends with an empty line.
fn packets(capture: Capture) -> anyhow::Result<Vec<String>> {
    let mut lines = capture.stop()?;
    lines.retain(|line| !line.is_empty());
    Ok(lines)
}

fn samples_command_line(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_without_director(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let mac = router_mac(&lab)?;
    let line = format!("-i eth0 -a {VIP} -p 80 -s {DIRECTOR} -d {RS1} -m {mac} -T 6 -N");
    let begun = Instant::now();
    let mut running = sample.start(&lab, &line, None)?;
    let capture = Capture::start(&lab, "router", "director", "proto 4")?;
    for _ in 0..10 {
        let answer = request(&lab, VIP)?;
        ensure!(answer.contains("rs1"), "not rs1's answer: {answer}");
    }
    let lines = packets(capture)?;
    let wrapped = format!("IP {DIRECTOR} > {RS1}:");
    let first = lines.iter().find(|line| line.starts_with(&wrapped) && line.contains("Flags [S]"));
    cx.show(first.with_context(|| format!("no wrapped SYN in {lines:?}"))?);
    running.wait(PATIENCE)?;
    let took = begun.elapsed().as_secs_f64();
    ensure!((6.0..9.0).contains(&took), "-T 6 ended after {took:.1} s");
    ensure!(program(&lab)?.is_none(), "a program is left on the interface");

    let output = running.output();
    let mut total = 0;
    for line in output.lines() {
        let numbers = line.strip_prefix("proto 6: sum:").and_then(|rest| rest.strip_suffix(" pkts/s"));
        let (sum, rate) = numbers.and_then(|rest| rest.split_once(" pkts, rate:")).context(output.clone())?;
        ensure!(sum.len() == 10 && rate.len() == 10, "not the sample's columns: {line}");
        let (sum, rate): (u64, u64) = (sum.trim().parse()?, rate.trim().parse()?);
        ensure!(rate == sum / 2, "not the sample's rate: {line}");
        total += sum;
    }
    ensure!(total >= lines.len() as u64 && total > 40, "{} packets were seen: {output}", lines.len());
    cx.show(output.lines().next().unwrap_or_default());
    lab.down()
}

fn maps(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let line = format!("-i eth0 -a {VIP} -p 80-81 -s {DIRECTOR} -d {RS1} -m 02:00:00:00:00:09 -S");
    let mut running = sample.start(&lab, &line, None)?;
    for (name, kind, key, value) in [("vip2tnl", "hash", 24, 40), ("rxcnt", "percpu_array", 4, 8)] {
        let shown = bpftool(&lab, &["map", "show", "id", &map_id(&lab, running.program, name)?])?;
        ensure!(
            (&shown["type"], &shown["bytes_key"], &shown["bytes_value"], &shown["max_entries"])
                == (&kind.into(), &key.into(), &value.into(), &256.into()),
            "{name} is not the sample's: {shown}"
        );
    }
    let dump = bpftool(&lab, &["map", "dump", "id", &map_id(&lab, running.program, "vip2tnl")?])?;
    let mut found: Vec<(String, String)> = dump
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| (hex(&entry["key"]), hex(&entry["value"])))
        .collect();
    found.sort();
    let value = format!("0a000102{Z}0a000b02{Z}0200020000000009", Z = "00".repeat(12));
    let key = |port: &str| format!("c000020a{Z}{port}0200", Z = "00".repeat(12)) + "06000000";
    ensure!(
        found == [(key("0050"), value.clone()), (key("0051"), value)],
        "not the sample's bytes: {found:?}"
    );
    cx.show(format!("vip2tnl: {} -> {}", found[0].0, found[0].1));
    running.stop(Signal::SIGINT)?;
    ensure!(program(&lab)?.is_none(), "a program is left on the interface");
    lab.down()
}

/// The digits of bpftool's `["0x0a", …]`.
fn hex(bytes: &Value) -> String {
    let bytes = bytes.as_array().into_iter().flatten().filter_map(Value::as_str);
    bytes.map(|byte| byte.trim_start_matches("0x")).collect()
}

fn families_and_next_hop(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_without_director(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let vips = lab.vips();
    for (name, vip) in [("6in6", vips.v6), ("4in6", vips.v4_over_v6)] {
        let line = format!("-i eth0 -a {vip} -p 80 -s {DIRECTOR6} -d {RS1_6}");
        let mut running = sample.start(&lab, &line, None)?;
        ensure!(request(&lab, vip)?.contains("rs1"), "{name}: another server answered");
        running.stop(Signal::SIGTERM)?;
        ensure!(
            running.output().is_empty() || running.output().starts_with("proto "),
            "{}",
            running.output()
        );
        cx.show(format!("{name}: rs1 answered for {vip}"));
    }

    let line = format!("-i eth0 -a {VIP} -p 80 -s {DIRECTOR} -d {RS1}");
    let mut running = sample.start(&lab, &line, None)?;
    ensure!(request(&lab, VIP)?.contains("rs1"), "another server answered");
    let before = router_mac(&lab)?;
    let after = "02:00:00:00:77:01";
    lab.exec("router", &["ip", "link", "set", "dev", "director", "address", after])?.success()?;
    // What makes the director's kernel learn it, as a router that took over would announce itself.
    let ping = ["ping", "-c", "1", "-W", "2", DIRECTOR];
    lab.exec("director", &["ip", "neigh", "flush", "dev", "eth0"])?.success()?;
    let id = map_id(&lab, running.program, "vip2tnl")?;
    let took = wait_until("the next hop's new MAC address is in the map", PATIENCE, || {
        lab.exec("router", &ping)?;
        let dump = bpftool(&lab, &["map", "dump", "id", &id])?;
        Ok(hex(&dump[0]["value"]).ends_with("020000007701"))
    })?;
    ensure!(request(&lab, VIP)?.contains("rs1"), "another server answered");
    cx.show(format!("next hop {before} became {after}: followed in {:.1} s", took.as_secs_f64()));
    running.stop(Signal::SIGTERM)?;
    lab.down()
}

fn ping(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_without_director(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let line = format!("-i eth0 -a {VIP} -p 80 -P 1 -s {DIRECTOR} -d {RS1}");
    let mut running = sample.start(&lab, &line, None)?;
    let pinged = lab.exec("client", &["ping", "-c", "3", "-i", "0.2", "-W", "2", VIP])?.success()?;
    let summary = pinged.stdout.lines().find(|line| line.contains("received")).unwrap_or_default();
    cx.show(format!("through the tunnel: {summary}"));
    running.stop(Signal::SIGTERM)?;
    lab.down()
}

fn too_big(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let line = format!("-i eth0 -a {VIP} -p 80 -P 1 -s {DIRECTOR} -d {RS1}");
    let mut running = sample.start(&lab, &line, None)?;
    let capture = Capture::start(&lab, "router", "director", "proto 4")?;
    for bytes in ["1452", "1453"] {
        // 20 + 8 + 1452 is 1480, and with 20 of outer header just the MTU. Nobody answers.
        lab.exec("client", &["ping", "-c", "1", "-W", "1", "-M", "do", "-s", bytes, VIP])?;
    }
    let lines = packets(capture)?;
    ensure!(lines.len() == 1, "one packet of two fits: {lines:?}");
    wait_until("the warning is there", PATIENCE, || Ok(running.output().contains("help:")))?;
    let output = running.output();
    let warning = output.lines().find(|line| line.starts_with("warning: packets are dropped (1 so far)"));
    cx.show(warning.with_context(|| output.clone())?);
    running.stop(Signal::SIGTERM)?;
    lab.down()
}

fn only_its_own(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let line = format!("-i eth0 -a {VIP} -p 80 -s {DIRECTOR} -d {RS1} -m {NO_SUCH_MAC}");
    let mut first = sample.start(&lab, &line, None)?;

    let refused = sample.run(&lab, &line)?;
    ensure!(refused.code == Some(1) && refused.stdout == "link set xdp fd failed\n", "{refused}");
    ensure!(refused.stderr.contains("replace it with -F"), "{refused}");
    ensure!(program(&lab)? == Some(first.program), "the first program is gone");

    let mut second = sample.start(&lab, &format!("{line} -F"), Some(first.program))?;
    first.stop(Signal::SIGINT)?;
    ensure!(first.output().contains("program on interface changed, not removing"), "{}", first.output());
    ensure!(program(&lab)? == Some(second.program), "the first took the second's program away");
    cx.show(format!("replaced by -F, the first says: {}", first.output().trim()));

    lab.exec("director", &["ip", "link", "set", "dev", "eth0", "xdp", "off"])?.success()?;
    second.stop(Signal::SIGTERM)?;
    ensure!(second.output().contains("couldn't find a prog id on a given iface"), "{}", second.output());
    ensure!(program(&lab)?.is_none(), "a program is left on the interface");
    lab.down()
}

fn held_by_a_link(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let director = program(&lab)?.context("the director is not attached")?;
    let line = format!("-i eth0 -a {VIP} -p 80 -s {DIRECTOR} -d {RS1} -F");
    let refused = sample.run(&lab, &line)?;
    ensure!(refused.code == Some(1) && refused.stdout == "link set xdp fd failed\n", "{refused}");
    ensure!(program(&lab)? == Some(director), "the director's program is gone");
    request(&lab, VIP)?;
    cx.show(refused.stderr.lines().next().unwrap_or_default());
    lab.down()
}

fn mistakes(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    let sample = Sample::new(cx)?;
    let mut refused = 0;
    for (line, sentence) in [
        ("-a 192.0.2.10 -p 80 -s 10.0.1.2 -d 10.0.11.2", "Missing argument -i\n"),
        ("-i eth0 -a 192.0.2.10 -s 10.0.1.2 -d 10.0.11.2", "Missing argument -p\n"),
        ("-i eth9 -a 192.0.2.10 -p 80 -s 10.0.1.2 -d 10.0.11.2", "Invalid ifname\n"),
        ("-i eth0 -a 192.0.2.10 -p 0 -s 10.0.1.2 -d 10.0.11.2", "Invalid port(s):0\n"),
        ("-i eth0 -a 192.0.2.10 -p 80 -s 10.0.1.2 -d 2001:db8::1", "addresses used in the IP encapsulation"),
        ("-i eth0 -a 2001:db8:ff::10 -p 80 -s 10.0.1.2 -d 10.0.11.2", "The VIP 2001:db8:ff::10 is IPv6"),
        // Its own address; nothing to send to.
        ("-i eth0 -a 192.0.2.10 -p 80 -s 10.0.1.2 -d 10.0.1.2", "cannot find the next hop to 10.0.1.2"),
        ("-i lo -a 192.0.2.10 -p 80 -s 10.0.1.2 -d 10.0.11.2", "leaves by eth0"),
        (
            "-i lo -a 192.0.2.10 -p 80 -s 10.0.1.2 -d 10.0.11.2 -m 02:00:00:00:00:09 -N",
            "lo has no native XDP",
        ),
    ] {
        let output = sample.run(&lab, line)?;
        ensure!(output.code == Some(1) && output.stderr.contains(sentence), "not {sentence:?}: {output}");
        ensure!(program(&lab)?.is_none(), "{line} left a program on the interface");
        refused += 1;
    }
    cx.show(format!("{refused} mistakes refused with exit code 1"));
    lab.down()
}
