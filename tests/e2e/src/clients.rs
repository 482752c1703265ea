//! Suite `clients`: who is sent where, and who is not let in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::datagram;
use crate::datapath::{IPV4, agents, config, counted, put, service, web};
use crate::director::Daemon;
use crate::harness::{Case, Context, Suite};
use crate::load::{self, Running as Load};
use crate::network::{Lab, Topology};
use crate::stream::Running;

pub(crate) const SUITE: Suite = Suite {
    name: "clients",
    about: "turns, hashing and persistence, allowed and denied clients, sources of backends, server ids, nobody there",
    cases: &[
        Case { name: "turns are taken one after the other", run: turns },
        Case { name: "a client stays with one backend", run: by_source },
        Case { name: "clients are denied, allowed, and sent to their backend", run: lists },
        Case { name: "a sources file of 200,000 lines", run: large_list },
        Case { name: "a list that there is no room for is refused", run: no_room },
        Case { name: "packets go to the server that they name", run: server_ids },
        Case { name: "a backend that is down gets nothing", run: down },
        Case { name: "who finds nobody is told so", run: unreachable },
    ],
};

const EVERYBODY: [&str; 3] = ["rs1", "rs2", "rs3"];

fn turns(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    put(&lab, &config("", &[web(vip, "scheduler = \"rr\"", &IPV4)]))?;
    let report = load::requests(&lab, vip, 30, 1)?;
    report.all_answered_by(&EVERYBODY)?;
    ensure!(report.answered.values().all(|count| *count == 10), "rr: {report}");
    cx.show(format!("rr: {report}"));
    let mut weighted = web(vip, "scheduler = \"wrr\"", &IPV4);
    for (name, weight) in [("rs2", 2), ("rs3", 3)] {
        let line = format!("name = \"{name}\"\n");
        weighted = weighted.replace(&line, &format!("{line}weight = {weight}\n"));
    }
    put(&lab, &config("", &[weighted]))?;
    let report = load::requests(&lab, vip, 60, 1)?;
    report.all_answered_by(&EVERYBODY)?;
    for (name, expected) in [("rs1", 10_u64), ("rs2", 20), ("rs3", 30)] {
        let found = report.answered.get(name).copied().unwrap_or(0);
        ensure!(found.abs_diff(expected) <= 1, "wrr 1, 2, 3: {report}");
    }
    cx.show(format!("wrr 1, 2, 3: {report}"));
    Ok(())
}

/// Gives the client more addresses: 198.51.100.LAST.
fn more_addresses(lab: &Lab, last: impl IntoIterator<Item = u8>) -> anyhow::Result<()> {
    for last in last {
        let address = format!("198.51.100.{last}/24");
        lab.exec("client", &["ip", "addr", "add", &address, "dev", "eth0"])?.success()?;
    }
    Ok(())
}

/// Who answers a request from 198.51.100.LAST; `None`: nobody.
fn asked_from(lab: &Lab, vip: &str, last: u8) -> anyhow::Result<Option<String>> {
    let (source, url) = (format!("198.51.100.{last}"), format!("http://{vip}/"));
    let out = lab.exec("client", &["curl", "-sS", "--max-time", "1", "--interface", &source, &url])?;
    Ok(out.ok().then(|| out.stdout.trim().to_owned()))
}

fn by_source(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    more_addresses(&lab, 10..26)?;
    put(&lab, &config("", &[web(vip, "hash = \"source\"", &IPV4)]))?;
    let mut by_backend: BTreeMap<String, u32> = BTreeMap::new();
    for last in 10..26 {
        let first = asked_from(&lab, vip, last)?.context("no answer")?;
        for _ in 0..3 {
            let again = asked_from(&lab, vip, last)?;
            ensure!(again.as_ref() == Some(&first), "198.51.100.{last} went to {first}, then to {again:?}");
        }
        *by_backend.entry(first).or_default() += 1;
    }
    ensure!(by_backend.len() == 3, "16 clients all went to {by_backend:?}");
    cx.show(format!("hash = \"source\": 16 clients, 4 connections each, none changes: {by_backend:?}"));

    put(&lab, &config("", &[web(vip, "hash = \"source\"\nsource_prefix = 24", &IPV4)]))?;
    let first = asked_from(&lab, vip, 10)?.context("no answer")?;
    for last in 11..26 {
        ensure!(asked_from(&lab, vip, last)?.as_ref() == Some(&first), "a /24 is divided");
    }
    cx.show(format!("source_prefix = 24: all of them go to {first}"));

    // Who is remembered stays, even if the ring says otherwise.
    let persistent = "hash = \"source\"\npersistence = true\nscheduler = \"rr\"";
    put(&lab, &config("", &[web(vip, persistent, &IPV4[..2])]))?;
    let mut homes = BTreeMap::new();
    for last in 10..26 {
        homes.insert(last, asked_from(&lab, vip, last)?.context("no answer")?);
    }
    put(&lab, &config("", &[web(vip, persistent, &IPV4)]))?;
    for (last, home) in &homes {
        let again = asked_from(&lab, vip, *last)?;
        ensure!(
            again.as_ref() == Some(home),
            "198.51.100.{last} was remembered at {home}, went to {again:?}"
        );
    }
    cx.show("persistence with rr: 16 clients stay where they were when a third backend comes");
    Ok(())
}

fn lists(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    more_addresses(&lab, [3, 4, 5])?;
    let to_rs2 =
        |text: String| text.replace("name = \"rs2\"\n", "name = \"rs2\"\nsources = [\"198.51.100.4\"]\n");
    put(&lab, &config("", &[to_rs2(web(vip, "deny = [\"198.51.100.3\"]", &IPV4))]))?;
    let before = lab.status()?;
    ensure!(asked_from(&lab, vip, 3)?.is_none(), "a denied client was answered");
    for _ in 0..12 {
        ensure!(asked_from(&lab, vip, 4)?.as_deref() == Some("rs2"), "a client of rs2's went elsewhere");
        ensure!(asked_from(&lab, vip, 5)?.is_some(), "a client nothing is said of was not answered");
    }
    let after = lab.status()?;
    let risen = |reason| counted(&after, reason) - counted(&before, reason);
    let (denied, routed) = (risen("source_denied"), risen("source_route"));
    ensure!(denied > 0 && routed >= 12 * 4, "{denied} denied, {routed} by source");
    cx.show(format!("one denied ({denied} packets), one sent to rs2 ({routed} packets), one balanced"));

    // The next list takes the last one's place; the others' connections do not notice.
    let load = Load::start(&lab, &[vip], 4)?;
    for round in 0..6 {
        let keys = format!("allow = [\"198.51.100.2\", \"198.51.100.{}\"]", 3 + round % 2);
        put(&lab, &config("", &[web(vip, &keys, &IPV4)]))?;
    }
    let report = load.stop()?;
    report.all_answered_by(&EVERYBODY)?;
    ensure!(report.slow == 0, "{} requests needed a second try: {report}", report.slow);
    ensure!(asked_from(&lab, vip, 4)?.is_some(), "an allowed client is not answered");
    ensure!(asked_from(&lab, vip, 5)?.is_none(), "a client beside the allowed ones was answered");
    cx.show(format!("6 reloads with lists of allowed clients: {report}; others are denied"));
    Ok(())
}

fn large_list(cx: &mut Context<'_>) -> anyhow::Result<()> {
    const LINES: u32 = 200_000;
    let lab = Lab::up_without_director(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    more_addresses(&lab, [3, 4])?;
    let file = lab.dir().join("sources");
    let write = |denied: u8| -> anyhow::Result<()> {
        let mut text = format!("198.51.100.{denied} deny\n");
        for number in 1..LINES {
            let [_, a, b, c] = (number << 4).to_be_bytes();
            writeln!(text, "10.{a}.{b}.{c}/28 deny").expect("a string takes it");
        }
        std::fs::write(&file, text).context("cannot write the file")
    };
    let keys = format!("sources_file = \"{}\"", file.display());
    std::fs::write(lab.config_path(), config("", &[web(vip, &keys, &IPV4)]))?;
    write(3)?;
    let begun = Instant::now();
    let daemon = Daemon::start(&lab, &[])?;
    let started = begun.elapsed();
    let only_denied = |denied: u8, other: u8| -> anyhow::Result<()> {
        ensure!(asked_from(&lab, vip, denied)?.is_none(), "198.51.100.{denied} is denied and was answered");
        ensure!(
            asked_from(&lab, vip, other)?.is_some(),
            "198.51.100.{other} is not denied and was not answered"
        );
        Ok(())
    };
    only_denied(3, 4)?;
    write(4)?;
    let load = Load::start(&lab, &[vip], 2)?;
    let begun = Instant::now();
    lab.reload()?.success()?;
    let reloaded = begun.elapsed();
    load.stop()?.all_answered_by(&EVERYBODY)?;
    only_denied(4, 3)?;
    let status = lab.status()?;
    ensure!(status["services"][0]["client_prefixes"] == LINES, "the report: {}", status["services"][0]);
    daemon.terminate()?;
    cx.show(format!(
        "{LINES} prefixes: started in {:.1} s, all exchanged under load in {:.1} s",
        started.as_secs_f64(),
        reloaded.as_secs_f64()
    ));
    Ok(())
}

/// A director that was started without lists has room for 4096 prefixes.
fn no_room(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    let file = lab.dir().join("sources");
    let lines: Vec<String> = (0..4097).map(|n| format!("10.0.{}.{} deny\n", n >> 8, n & 255)).collect();
    std::fs::write(&file, lines.concat())?;
    let keys = format!("sources_file = \"{}\"", file.display());
    std::fs::write(lab.config_path(), config("", &[web(vip, &keys, &IPV4)]))?;
    let out = lab.reload()?;
    let says = "cannot take 4097 prefixes of clients while the director runs";
    ensure!(!out.ok() && out.stderr.contains(says) && out.stderr.contains("help: stop weir"), "{out}");
    load::requests(&lab, vip, 30, 2)?.all_answered_by(&EVERYBODY)?;
    cx.show(out.stderr.lines().next().unwrap_or_default());
    Ok(())
}

/// Packets of a backend of the first service.
fn of_backend(status: &Value, name: &str) -> u64 {
    let backends = status["services"][0]["backends"].as_array().into_iter().flatten();
    backends.filter(|b| b["name"] == name).filter_map(|b| b["packets"].as_u64()).sum()
}

fn server_ids(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    let mut text = service(vip, 7, "udp", "server_ids = \"udp-stable\"", &IPV4);
    for (name, id) in [("rs1", 11), ("rs2", 70_000), ("rs3", 13)] {
        let line = format!("name = \"{name}\"\n");
        text = text.replace(&line, &format!("{line}server_id = {id}\n"));
    }
    put(&lab, &config("", &[text]))?;
    let mut servers = Vec::new();
    for host in EVERYBODY {
        servers.push(Running::start(&lab, host, &["datagram-echo", "--vip", vip])?);
    }
    for (name, id) in [("rs1", "11"), ("rs2", "70000"), ("rs3", "13")] {
        let before = lab.status()?;
        let to = SocketAddr::new(vip.parse()?, 7);
        datagram::exchange(&lab, to, 100, &["--server-id", id])?;
        let after = lab.status()?;
        let named = counted(&after, "server_id") - counted(&before, "server_id");
        let got = of_backend(&after, name) - of_backend(&before, name);
        ensure!(named == 10 && got == 10, "{named} of 10 named a server, {name} got {got}");
        cx.show(format!("10 datagrams that name {id}: all to {name}"));
    }
    Ok(())
}

fn down(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vip = lab.vips().v4;
    let up = web(vip, "", &IPV4);
    put(&lab, &config("", std::slice::from_ref(&up)))?;
    load::requests(&lab, vip, 30, 2)?.all_answered_by(&EVERYBODY)?;
    let without = up.replace("name = \"rs2\"\n", "name = \"rs2\"\nstate = \"down\"\n");
    let load = Load::start(&lab, &[vip], 2)?;
    put(&lab, &config("", &[without]))?;
    // Requests that were under way at that moment may have been cut off; those after it may not.
    drop(load.stop()?);
    let before = of_backend(&lab.status()?, "rs2");
    let report = load::requests(&lab, vip, 60, 2)?;
    report.all_answered_by(&["rs1", "rs3"])?;
    let status = lab.status()?;
    let of_rs2 = &status["services"][0]["backends"][1];
    ensure!(of_rs2["state"] == "down" && of_backend(&status, "rs2") == before, "the report: {of_rs2}");
    put(&lab, &config("", &[up]))?;
    load::requests(&lab, vip, 60, 2)?.all_answered_by(&EVERYBODY)?;
    cx.show(format!("rs2 down: {report}; up again, it answers"));
    Ok(())
}

fn unreachable(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vips = lab.vips();
    agents(&lab, &[vips.v4, vips.v6], &["10.0.1.2", "2001:db8:1::2"], &[])?;
    let nobody = |vip| web(vip, "no_backend = \"unreachable\"", &[]);
    put(&lab, &config("", &[nobody(vips.v4), nobody(vips.v6)]))?;
    for (vip, url) in [(vips.v4, format!("http://{}/", vips.v4)), (vips.v6, format!("http://[{}]/", vips.v6))]
    {
        let before = counted(&lab.status()?, "unreachable_reply");
        let begun = Instant::now();
        let out = lab.exec("client", &["curl", "-sS", "--max-time", "5", &url])?;
        let took = begun.elapsed();
        // 7: could not connect. (28 would be: timed out.)
        ensure!(out.code == Some(7) && took.as_secs() < 3, "after {took:?}: {out}");
        let told = counted(&lab.status()?, "unreachable_reply") - before;
        ensure!(told > 0, "the director told nobody");
        cx.show(format!("{vip}: refused after {} ms: {}", took.as_millis(), out.stderr.trim()));
    }
    Ok(())
}
