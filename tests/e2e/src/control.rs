//! Suite `control`: reloads, signals, modes, neighbours that change, ends and restarts, all under traffic.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};

use crate::director::{Daemon, wait_until, with_weight, without_backend};
use crate::harness::{Case, Context, Suite};
use crate::load::{Running, requests};
use crate::network::{Lab, Topology};
use crate::stream::{EchoServers, PORT, Streams};

pub(crate) const SUITE: Suite = Suite {
    name: "control",
    about: "what the daemon does while traffic flows: reloads, signals, modes, neighbours, restarts",
    cases: &[
        Case { name: "reloads under load fail no request", run: reload_under_load },
        Case { name: "long-lived streams survive reloads byte for byte", run: streams_survive },
        Case { name: "an invalid configuration is refused and the old one stays", run: invalid_config },
        Case { name: "a reload in force is never called refused", run: unfinished_reload },
        Case { name: "SIGHUP reloads", run: hangup },
        Case { name: "generic mode carries everything", run: generic },
        Case { name: "auto says loudly that it fell back", run: fallback },
        Case { name: "a backend's MAC address changes and its traffic follows", run: mac_changes },
        Case { name: "SIGTERM detaches and leaves nothing", run: terminate },
        Case { name: "--detach=never keeps forwarding and the next start adopts", run: detach_never },
    ],
};

const EVERYBODY: [&str; 3] = ["rs1", "rs2", "rs3"];

fn reload_under_load(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let full = lab.config()?;
    let vips = lab.vips();
    let load = Running::start(&lab, &[vips.v4, vips.v6, vips.v4_over_v6], 8)?;
    let mut reloads = 0;
    for _ in 0..3 {
        let without = [without_backend(&full, "rs2"), without_backend(&without_backend(&full, "rs1"), "rs3")];
        for text in [&without[0], &full, &with_weight(&full, "rs3", 4), &without[1], &full] {
            fs::write(lab.config_path(), text)?;
            lab.reload()?.success()?;
            reloads += 1;
            sleep(Duration::from_millis(150));
        }
    }
    let report = load.stop()?;
    report.all_answered_by(&EVERYBODY)?;
    ensure!(report.slow == 0, "{} requests needed a second try of the kernel: {report}", report.slow);
    cx.show(format!("{reloads} reloads in {:.1} s, 8 workers: {report}", report.seconds));
    Ok(())
}

/// Adds a service for the echo servers to the first IPv4 VIP.
fn with_echo(config: &str, vip: &str) -> String {
    let mut text = format!(
        "{config}\n[[service]]\nname = \"echo\"\nvip = \"{vip}\"\nport = {PORT}\nprotocol = \"tcp\"\n"
    );
    let web = config.split("[[service]]").find(|part| part.contains(&format!("vip = \"{vip}\"")));
    if let Some(advertise) = web.and_then(|part| part.lines().find(|line| line.starts_with("advertise"))) {
        text.push_str(advertise);
        text.push('\n');
    }
    for backend in web.into_iter().flat_map(|part| part.split("[[service.backend]]").skip(1)) {
        text.push_str("\n[[service.backend]]");
        text.push_str(backend.trim_end());
        text.push('\n');
    }
    text
}

fn streams_survive(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    lab.edit_config(|text| with_echo(text, vip))?;
    lab.reload()?.success()?;
    let full = lab.config()?;
    let _servers = EchoServers::start(&lab)?;
    let streams = Streams::start(&lab, vip, 12)?;
    for text in [
        &with_weight(&full, "rs2", 9),
        &without_backend(&full, "rs2"),
        &full,
        &without_backend(&full, "rs1"),
        &full,
    ] {
        fs::write(lab.config_path(), text)?;
        lab.reload()?.success()?;
        sleep(Duration::from_millis(300));
    }
    cx.show(format!("5 reloads, backends and weights coming and going: {}", streams.stop()?));
    Ok(())
}

fn invalid_config(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let good = lab.config()?;
    let load = Running::start(&lab, &[lab.vips().v4], 4)?;
    let rings = |lab: &Lab| -> anyhow::Result<Vec<String>> {
        let status = lab.status()?;
        let services = status["services"].as_array().context("no services")?;
        Ok(services.iter().map(|service| service["ring_fingerprint"].to_string()).collect())
    };
    let before = rings(&lab)?;
    let bad = without_backend(&good, "rs2").replacen("weight = 1", "wieght = 1", 1);
    let line = bad.lines().position(|line| line.starts_with("wieght")).context("no line to spoil")? + 1;
    fs::write(lab.config_path(), &bad)?;
    let out = lab.reload()?;
    ensure!(!out.ok(), "it was accepted: {out}");
    let place = format!("{}:{line}:1: ", lab.config_path().display());
    ensure!(out.stderr.contains(&place), "no `{place}` in: {out}");
    ensure!(out.stderr.contains("`weight`"), "the key is not suggested: {out}");
    ensure!(rings(&lab)? == before, "the rings changed");
    let status = lab.status()?;
    ensure!(status["configuration"]["last_result"] == "refused", "the report: {}", status["configuration"]);
    let report = load.stop()?;
    report.all_answered_by(&EVERYBODY)?;
    cx.show(out.stderr.lines().next().unwrap_or_default().to_owned());
    cx.show(format!("meanwhile {report}"));
    Ok(())
}

/// A VIP address that cannot be held now must not hide that the tables have changed.
fn unfinished_reload(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Flat)?;
    // The list of held addresses is replaced by renaming this file, which a directory of its name prevents.
    let obstacle = lab.config_path().with_file_name("director").join("addresses.new");
    fs::create_dir(&obstacle).with_context(|| format!("cannot make {}", obstacle.display()))?;
    lab.edit_config(|text| {
        format!(
            "{text}\n[[service]]\nvip = \"192.168.33.35\"\nport = 80\nprotocol = \"tcp\"\nadvertise = \"address\"\n\
             backend = [{{ address = \"192.168.33.11\" }}]\n"
        )
    })?;
    let out = lab.reload()?;
    ensure!(out.ok() && out.stderr.contains("the VIP addresses: "), "neither in force nor told: {out}");
    let status = lab.status()?;
    ensure!(status["configuration"]["last_result"] == "applied", "the report: {}", status["configuration"]);
    fs::remove_dir(&obstacle).with_context(|| format!("cannot remove {}", obstacle.display()))?;
    let took = wait_until("the VIP is held", Duration::from_secs(10), || {
        Ok(lab.status()?["interfaces"].to_string().contains("192.168.33.35"))
    })?;
    cx.show(format!("{}; held {} ms later", out.stderr.lines().next().unwrap_or_default(), took.as_millis()));
    Ok(())
}

fn hangup(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    requests(&lab, lab.vips().v4, 60, 4)?.all_answered_by(&EVERYBODY)?;
    lab.edit_config(|text| without_backend(text, "rs2"))?;
    kill(lab.director_pid()?, Signal::SIGHUP).context("cannot send SIGHUP")?;
    let took = wait_until("the reload is in force", Duration::from_secs(10), || {
        Ok(lab.status()?["configuration"]["reloads"].as_u64().is_some_and(|reloads| reloads > 0))
    })?;
    let report = requests(&lab, lab.vips().v4, 60, 4)?;
    report.all_answered_by(&["rs1", "rs3"])?;
    cx.show(format!("rs2 is out {} ms after SIGHUP: {report}", took.as_millis()));
    Ok(())
}

fn generic(cx: &mut Context<'_>) -> anyhow::Result<()> {
    for topology in Topology::ALL {
        let name = cx.unique_name();
        let lab = Lab::up_named(cx.weir, &name, topology, &["--xdp-mode", "generic"])?;
        let mode = lab.xdp_mode()?;
        ensure!(mode.as_deref() == Some("generic"), "the mode is {mode:?}");
        for (what, vip) in lab.vips().all() {
            let report = requests(&lab, vip, 60, 4)?;
            report.all_answered_by(&EVERYBODY)?;
            cx.show(format!("{topology}, xdp generic, {what}: {report}"));
        }
    }
    Ok(())
}

/// A bridge has no native XDP.
pub(crate) fn add_bridge(lab: &Lab) -> anyhow::Result<()> {
    lab.exec("director", &["ip", "link", "add", "plain0", "type", "bridge"])?.success()?;
    lab.exec("director", &["ip", "link", "set", "plain0", "up"])?.success()?;
    Ok(())
}

fn fallback(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_without_director(cx, Topology::Routed)?;
    add_bridge(&lab)?;
    lab.edit_config(|text| text.replace("[\"eth0\"]", "[\"eth0\", \"plain0\"]"))?;
    let daemon = Daemon::start(&lab, &[])?;
    let status = lab.status()?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    let find =
        |name: &str| interfaces.iter().find(|i| i["name"] == name).with_context(|| format!("no {name}"));
    ensure!(find("eth0")?["xdp_mode"] == "native", "{}", find("eth0")?);
    let plain = find("plain0")?;
    let reason = plain["fallback_reason"].as_str().unwrap_or_default();
    ensure!(plain["xdp_mode"] == "generic" && !reason.is_empty(), "{plain}");
    let log = daemon.log();
    let warning =
        log.lines().find(|line| line.contains("WARN") && line.contains("plain0") && line.contains("generic"));
    let warning = warning.with_context(|| format!("no warning about plain0 in: {log}"))?;
    cx.show(warning.trim().to_owned());
    daemon.terminate()
}

fn mac_changes(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Flat)?;
    for (what, vip) in lab.vips().all() {
        requests(&lab, vip, 60, 4)?.all_answered_by(&EVERYBODY).context(what)?;
    }
    // As fail-over software does, the host tells its neighbours.
    for sysctl in ["net/ipv4/conf/eth0/arp_notify", "net/ipv6/conf/eth0/ndisc_notify"] {
        let command = format!("echo 1 > /proc/sys/{sysctl}");
        lab.exec("rs1", &["sh", "-c", &command])?.success()?;
    }
    let mac = "02:00:00:00:be:ef";
    lab.exec("rs1", &["ip", "link", "set", "eth0", "address", mac])?.success()?;
    for (what, vip) in lab.vips().all() {
        let took = wait_until("rs1 answers again", Duration::from_secs(60), || {
            let report = requests(&lab, vip, 30, 30)?;
            Ok(report.failed() == 0 && report.slow == 0 && report.answered.contains_key("rs1"))
        })?;
        cx.show(format!("{what}: rs1 answers at {mac} after {:.1} s", took.as_secs_f64()));
    }
    let status = lab.status()?.to_string();
    ensure!(status.contains(mac), "the director's report does not know {mac}");
    Ok(())
}

fn terminate(cx: &mut Context<'_>) -> anyhow::Result<()> {
    for topology in Topology::ALL {
        let lab = Lab::up_without_director(cx, topology)?;
        let addresses = |lab: &Lab| -> anyhow::Result<String> {
            Ok(lab.exec("director", &["ip", "-o", "address", "show"])?.success()?.stdout)
        };
        let before = addresses(&lab)?;
        let daemon = Daemon::start(&lab, &[])?;
        ensure!(lab.xdp_mode()?.is_some(), "nothing is attached");
        requests(&lab, lab.vips().v4, 30, 2)?.all_answered_by(&EVERYBODY)?;
        daemon.terminate()?;
        lab.nothing_is_attached()?;
        ensure!(addresses(&lab)? == before, "addresses are left on the director:\n{}", addresses(&lab)?);
        let url = format!("http://{}/", lab.vips().v4);
        let out = lab.exec("client", &["curl", "-sS", "--max-time", "1", &url])?;
        ensure!(!out.ok(), "someone still answers for the VIP: {out}");
    }
    cx.show("after SIGTERM: no program, no pin, no mount, no VIP address; the VIP no longer answers");
    Ok(())
}

fn detach_never(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_without_director(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    lab.edit_config(|text| with_echo(text, vip))?;
    let daemon = Daemon::start(&lab, &["--detach=never"])?;
    let _servers = EchoServers::start(&lab)?;
    let load = Running::start(&lab, &[vip, lab.vips().v6], 4)?;
    let streams = Streams::start(&lab, vip, 8)?;
    daemon.terminate()?;
    sleep(Duration::from_millis(500));
    let mode = lab.xdp_mode()?;
    ensure!(mode.is_some(), "the program is gone with the daemon");
    let alone = requests(&lab, vip, 60, 4)?;
    alone.all_answered_by(&EVERYBODY)?;
    let again = Daemon::start(&lab, &[])?;
    ensure!(lab.status()?["adopted"] == true, "the second start did not adopt the tables: {}", again.log());
    sleep(Duration::from_millis(300));
    let report = load.stop()?;
    report.all_answered_by(&EVERYBODY)?;
    ensure!(report.slow == 0, "{} requests needed a second try of the kernel: {report}", report.slow);
    let streams = streams.stop()?;
    again.terminate()?;
    lab.nothing_is_attached()?;
    cx.show(format!("without a daemon: {alone}"));
    cx.show(format!("over the end, the gap and the next start: {report}; {streams}"));
    Ok(())
}
