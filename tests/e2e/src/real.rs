//! Suite `real`: the agent on real servers, with real connections through it.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::capture::Capture;
use crate::gue::{Exchange, Variant};
use crate::harness::{Case, Context, Suite};
use crate::load;
use crate::network::{Lab, Topology};
use crate::weir::Output;

pub(crate) const SUITE: Suite = Suite {
    name: "real",
    about: "the agent: unwrapping in native and generic XDP and in tc, GUE, segment sizes, undoing, ARP",
    cases: &[
        Case { name: "native XDP unwraps 4in4, 6in6 and 4in6", run: |cx| unwraps(cx, "native") },
        Case { name: "generic XDP unwraps 4in4, 6in6 and 4in6", run: |cx| unwraps(cx, "generic") },
        Case { name: "tc unwraps 4in4, 6in6 and 4in6", run: |cx| unwraps(cx, "tc") },
        Case { name: "GUE is unwrapped in each mode, and answers go directly", run: unwraps_gue },
        Case { name: "VIPs announce segments that fit once wrapped", run: announces },
        Case { name: "changing the agent under load loses no request", run: changes_under_load },
        Case { name: "down undoes and up sets up again", run: down_and_up },
        Case { name: "flat: no real server answers for a VIP", run: nobody_answers },
    ],
};

const REAL_SERVERS: [&str; 3] = ["rs1", "rs2", "rs3"];

/// `weir real …` on a real server, with the state directory that the lab's own agent has. Mounts are the machine's, so
/// that they outlive the command.
pub(crate) fn real(lab: &Lab, host: &str, words: &[&str]) -> anyhow::Result<Output> {
    let weir = lab.weir().path().display().to_string();
    let state = lab.dir().join(host).display().to_string();
    let exec = ["lab", "exec", "--name", lab.name(), "--keep-mounts", host, "--", &weir, "real"];
    lab.weir().run(&[&exec, words, &["--state-dir", &state]].concat())
}

pub(crate) fn status(lab: &Lab, host: &str) -> anyhow::Result<Value> {
    let out = real(lab, host, &["status", "-o", "json"])?.success()?;
    serde_json::from_str(&out.stdout).with_context(|| format!("no JSON: {out}"))
}

/// `up` as the lab did it, with other options.
pub(crate) fn up(lab: &Lab, host: &str, setup: &Value, options: &[&str]) -> anyhow::Result<()> {
    let texts = |field: &str| -> Vec<String> {
        let list = setup[field].as_array().into_iter().flatten();
        list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let (vips, from) = (texts("vips"), texts("from"));
    let mut words = vec!["up"];
    for vip in &vips {
        words.extend(["--vip", vip]);
    }
    for network in &from {
        words.extend(["--from", network]);
    }
    words.extend(options);
    real(lab, host, &words)?.success().map(drop)
}

pub(crate) fn packets(status: &Value, direction: &str, reason: &str) -> u64 {
    let lines = status["counters"][direction].as_array().into_iter().flatten();
    lines.filter(|line| line["reason"] == reason).filter_map(|line| line["packets"].as_u64()).sum()
}

fn unwraps(cx: &mut Context<'_>, mode: &str) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let setup = status(&lab, "rs1")?["setup"].clone();
    for host in REAL_SERVERS {
        up(&lab, host, &setup, &["--xdp-mode", mode])?;
        let now = status(&lab, host)?;
        ensure!(now["state"] == "up", "{host} is not intact: {now}");
        ensure!(now["setup"]["unwrapping"][0]["mode"] == mode, "{host} unwraps in another mode: {now}");
    }
    for (what, vip) in lab.vips().all() {
        let reason = format!("unwrapped_{what}");
        let before = status(&lab, "rs1")?;
        let report = load::requests(&lab, vip, 90, 4)?;
        report.all_answered_by(&REAL_SERVERS)?;
        let after = status(&lab, "rs1")?;
        let risen = |direction: &str, reason: &str| {
            packets(&after, direction, reason) - packets(&before, direction, reason)
        };
        let unwrapped = risen("arriving", &reason);
        // A SYN, an ACK, a request and a FIN at least for each answer of rs1.
        let answered = report.answered.get("rs1").copied().unwrap_or(0);
        ensure!(unwrapped >= 4 * answered, "{what}: {unwrapped} unwrapped for {answered} answers");
        let lowered = risen("leaving", "lowered");
        ensure!(lowered >= answered, "{what}: {lowered} segment sizes lowered for {answered} answers");
        for bad in ["inner_malformed", "ecn_violation", "cannot_shrink", "not_own_address", "not_vip"] {
            ensure!(risen("arriving", bad) == 0, "{what}: {bad} was counted: {after}");
        }
        cx.show(format!("{what}: {report}; rs1 unwrapped {unwrapped} packets, lowered {lowered} sizes"));
    }
    Ok(())
}

/// The lab's director does not send GUE, so its host does it by hand.
fn unwraps_gue(cx: &mut Context<'_>) -> anyhow::Result<()> {
    const PORT: u16 = 6080;
    const COUNT: u16 = 30;
    let lab = Lab::up(cx, Topology::Routed)?;
    let setup = status(&lab, "rs1")?["setup"].clone();
    let vips = lab.vips();
    let inner = [("4", "198.51.100.2", vips.v4), ("6", "2001:db8::2", vips.v6)];
    let outer = [("4", "10.0.11.2"), ("6", "2001:db8:11::2")];
    for mode in ["native", "generic", "tc"] {
        up(&lab, "rs1", &setup, &["--xdp-mode", mode, "--gue-port", &PORT.to_string()])?;
        let capture = Capture::start(&lab, "router", "director", "udp port 7 or udp port 6080")?;
        for (inside, client, vip) in inner {
            for (outside, to) in outer {
                for variant in [Variant::One, Variant::Zero] {
                    let reason = format!("unwrapped_gue_{inside}in{outside}");
                    let before = packets(&status(&lab, "rs1")?, "arriving", &reason);
                    let to = SocketAddr::new(to.parse()?, PORT);
                    let exchange = Exchange { client, vip, to, variant, count: COUNT, sender: "director" };
                    exchange.run(&lab, "rs1").with_context(|| format!("{mode} {reason} {variant:?}"))?;
                    let unwrapped = packets(&status(&lab, "rs1")?, "arriving", &reason) - before;
                    ensure!(
                        unwrapped == u64::from(COUNT),
                        "{mode} {reason} {variant:?}: {unwrapped} of {COUNT} datagrams unwrapped"
                    );
                }
            }
        }
        let wrapped = 8 * usize::from(COUNT);
        let lines = capture.stop()?;
        let is_gue = |line: &&String| line.contains(".6080:");
        ensure!(
            lines.len() == wrapped && lines.iter().filter(is_gue).count() == wrapped,
            "{mode}: {} packets on the director's wire, not {wrapped}: {lines:#?}",
            lines.len()
        );
        cx.show(format!("{mode}: {wrapped} datagrams in GUE, each answered directly"));
    }
    // Switched off again, GUE is ordinary traffic to a port nobody listens on.
    up(&lab, "rs1", &setup, &["--xdp-mode", "native"])?;
    let to = SocketAddr::new(outer[0].1.parse()?, PORT);
    let (_, client, vip) = inner[0];
    let exchange = Exchange { client, vip, to, variant: Variant::One, count: 1, sender: "director" };
    let Err(error) = exchange.run(&lab, "rs1") else { bail!("unwrapped GUE without --gue-port") };
    ensure!(format!("{error:#}").contains("no answer to {0}"), "{error:#}");
    Ok(())
}

/// The director of the lab sends from both families, so that 40 bytes are left for the outer header of 1500.
fn announces(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    for (what, vip) in lab.vips().all() {
        let expected = if vip.contains(':') { "mss 1400," } else { "mss 1420," };
        let capture = Capture::start(&lab, "client", "eth0", &format!("tcp and src host {vip}"))?;
        load::requests(&lab, vip, 12, 1)?.all_answered_by(&REAL_SERVERS)?;
        let lines = capture.stop()?;
        let opened: Vec<&String> = lines.iter().filter(|line| line.contains("Flags [S.]")).collect();
        ensure!(opened.len() >= 12, "{what}: only {} SYN-ACKs of {} lines", opened.len(), lines.len());
        for line in &opened {
            ensure!(line.contains(expected), "{what}: not {expected} {line}");
        }
        cx.show(format!("{what}: {} SYN-ACKs, each with {}", opened.len(), expected.trim_end_matches(',')));
    }
    Ok(())
}

fn changes_under_load(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let setup = status(&lab, "rs1")?["setup"].clone();
    let vips = lab.vips();
    let load = load::Running::start(&lab, &[vips.v4, vips.v6], 4)?;
    for round in 0..6 {
        // Another VIP comes and goes; the others' packets must not notice.
        let more: &[&str] = if round % 2 == 0 { &["--vip", "192.0.2.77"] } else { &[] };
        for host in REAL_SERVERS {
            up(&lab, host, &setup, more)?;
        }
    }
    let report = load.stop()?;
    ensure!(report.failed() == 0, "requests failed: {report}");
    cx.show(format!("18 times `weir real up` meanwhile: {report}"));
    Ok(())
}

fn down_and_up(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let setup = status(&lab, "rs1")?["setup"].clone();
    let vip = lab.vips().v4;
    for host in REAL_SERVERS {
        real(&lab, host, &["down"])?.success()?;
        let addresses = lab.exec(host, &["ip", "address"])?.success()?;
        ensure!(!addresses.stdout.contains(vip), "{host} still holds {vip}: {addresses}");
        let gone = real(&lab, host, &["status"])?;
        ensure!(gone.code == Some(3), "{gone}");
    }
    let url = format!("http://{vip}/");
    let out = lab.exec("client", &["curl", "-sS", "--max-time", "1", &url])?;
    ensure!(!out.ok(), "answered without an agent: {out}");
    for host in REAL_SERVERS {
        up(&lab, host, &setup, &[])?;
    }
    let report = load::requests(&lab, vip, 60, 4)?;
    report.all_answered_by(&REAL_SERVERS)?;
    cx.show(format!("no answer after `down`; after `up`: {report}"));
    Ok(())
}

/// Without a director nobody in the subnet is left who may answer ARP or neighbour solicitations for a VIP.
fn nobody_answers(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_without_director(cx, Topology::Flat)?;
    for (what, vip) in lab.vips().all() {
        let url = if vip.contains(':') { format!("http://[{vip}]/") } else { format!("http://{vip}/") };
        let out = lab.exec("client", &["curl", "-sS", "--max-time", "5", &url])?;
        ensure!(!out.ok(), "{what}: a real server answers for {vip}: {out}");
        let neighbours = lab.exec("client", &["ip", "neighbour", "show", vip])?.success()?;
        let line = neighbours.stdout.trim();
        ensure!(line.contains("FAILED") || line.contains("INCOMPLETE"), "{what}: {vip} was resolved: {line}");
        cx.show(format!("{what}: {line}"));
    }
    // The real servers themselves are there.
    lab.exec("client", &["ping", "-c", "1", "-W", "2", "192.168.33.11"])?.success()?;
    Ok(())
}
