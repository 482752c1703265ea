//! Suite `datapath`: how packets travel, and what becomes of those that are not plain.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::capture::Capture;
use crate::datagram;
use crate::director::wait_until;
use crate::gue::{Exchange, Variant};
use crate::harness::{Case, Context, Suite};
use crate::load;
use crate::network::{Lab, Topology};
use crate::real::real;
use crate::stream::Running;

pub(crate) const SUITE: Suite = Suite {
    name: "datapath",
    about: "every encapsulation and pair of families, spread sources, VIP prefixes, fragments, ICMP, local and layer 2",
    cases: &[
        Case { name: "ipip and GUE carry every pair of families", run: encapsulations },
        Case { name: "outer sources are spread over a prefix", run: spread },
        Case { name: "a service for a prefix of VIPs, and one within it", run: prefixes },
        Case { name: "ping is answered where it should be", run: ping },
        Case { name: "a client learns what fits from the director", run: too_big },
        Case { name: "fragments follow the first", run: fragments },
        Case { name: "a backend that is the director itself", run: local },
        Case { name: "flat: packets for layer 2 are not wrapped", run: layer2 },
        Case { name: "a backend behind a router is refused for layer 2", run: layer2_refused },
        Case { name: "packets for a VLAN leave with its tag", run: vlan },
        Case { name: "packets that come wrapped are unwrapped and balanced", run: unwraps },
    ],
};

const EVERYBODY: [&str; 3] = ["rs1", "rs2", "rs3"];
/// Addresses of the real servers in a routed lab.
pub(crate) const IPV4: [&str; 3] = ["10.0.11.2", "10.0.12.2", "10.0.13.2"];
const IPV6: [&str; 3] = ["2001:db8:11::2", "2001:db8:12::2", "2001:db8:13::2"];
const GUE_PORT: &str = "6080";

/// A configuration: what is in `[director]` besides the interface, and services.
pub(crate) fn config(director: &str, services: &[String]) -> String {
    format!("[director]\ninterfaces = [\"eth0\"]\n{director}\n{}", services.concat())
}

/// A TCP service on port 80 with the real servers `rs1`, `rs2`, `rs3` at these addresses; `keys` are its own besides.
pub(crate) fn web(vip: &str, keys: &str, addresses: &[&str]) -> String {
    service(vip, 80, "tcp", keys, addresses)
}

/// A service.
pub(crate) fn service(vip: &str, port: u16, protocol: &str, keys: &str, addresses: &[&str]) -> String {
    let mut text =
        format!("[[service]]\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n{keys}\n");
    for (name, address) in EVERYBODY.iter().zip(addresses) {
        writeln!(text, "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"")
            .expect("a string takes it");
    }
    text
}

/// Puts a configuration into force.
pub(crate) fn put(lab: &Lab, text: &str) -> anyhow::Result<()> {
    std::fs::write(lab.config_path(), text)?;
    lab.reload()?.success().map(drop)
}

/// Sets the agents of all real servers up anew.
pub(crate) fn agents(lab: &Lab, vips: &[&str], from: &[&str], options: &[&str]) -> anyhow::Result<()> {
    for host in EVERYBODY {
        let mut words = vec!["up"];
        for vip in vips {
            words.extend(["--vip", vip]);
        }
        for network in from {
            words.extend(["--from", network]);
        }
        words.extend(options);
        real(lab, host, &words)?.success()?;
    }
    Ok(())
}

/// Packets under a reason.
pub(crate) fn counted(status: &Value, reason: &str) -> u64 {
    let counters = status["counters"].as_array().into_iter().flatten();
    counters.filter(|c| c["reason"] == reason).filter_map(|c| c["packets"].as_u64()).sum()
}

fn encapsulations(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vips = lab.vips();
    agents(&lab, &[vips.v4, vips.v6], &["10.0.1.2", "2001:db8:1::2"], &["--gue-port", GUE_PORT])?;
    let (host, interface) = lab.director_peer();
    // What pcap calls the outer header.
    let kinds = [
        ("4in4", vips.v4, "ipip", IPV4, "src 10.0.1.2 and ip proto 4"),
        ("4in6", vips.v4, "ipip", IPV6, "src 2001:db8:1::2 and ip6 proto 4"),
        ("6in4", vips.v6, "ipip", IPV4, "src 10.0.1.2 and ip proto 41"),
        ("6in6", vips.v6, "ipip", IPV6, "src 2001:db8:1::2 and ip6 proto 41"),
        ("4 in GUE in 4", vips.v4, "gue", IPV4, "src 10.0.1.2 and udp dst port 6080"),
        ("4 in GUE in 6", vips.v4, "gue", IPV6, "src 2001:db8:1::2 and udp dst port 6080"),
        ("6 in GUE in 4", vips.v6, "gue", IPV4, "src 10.0.1.2 and udp dst port 6080"),
        ("6 in GUE in 6", vips.v6, "gue", IPV6, "src 2001:db8:1::2 and udp dst port 6080"),
    ];
    for (what, vip, encapsulation, addresses, filter) in kinds {
        for checksum in ["computed", "zero"] {
            let is_gue6 = what == "6 in GUE in 6" || what == "4 in GUE in 6";
            if checksum == "zero" && !is_gue6 {
                continue;
            }
            let service =
                web(vip, &format!("encapsulation = \"{encapsulation}\"\ndrain = \"0s\""), &addresses);
            put(&lab, &config(&format!("gue_ipv6_checksum = \"{checksum}\""), &[service]))?;
            let before = lab.status()?;
            let wrapped = Capture::start(&lab, host, interface, filter)?;
            let report = load::requests(&lab, vip, 60, 3)?;
            report.all_answered_by(&EVERYBODY)?;
            std::thread::sleep(Duration::from_millis(300));
            let (wrapped, after) = (wrapped.stop()?.len() as u64, lab.status()?);
            let sent =
                crate::director::packets(&after, "forward") - crate::director::packets(&before, "forward");
            ensure!(wrapped == sent, "{what}: {wrapped} wrapped packets on the wire, {sent} counted");
            let note = if is_gue6 { format!(", UDP checksum {checksum}") } else { String::new() };
            cx.show(format!("{what}{note}: {wrapped} wrapped packets, {report}"));
        }
    }
    Ok(())
}

fn spread(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vips = lab.vips();
    let sources = ["172.16.0.0/16", "2001:db8:5eed::/64"];
    agents(&lab, &[vips.v4, vips.v6], &sources, &[])?;
    let director = format!("source_ipv4 = \"{}\"\nsource_ipv6 = \"{}\"", sources[0], sources[1]);
    put(
        &lab,
        &config(&director, &[web(vips.v4, "drain = \"0s\"", &IPV4), web(vips.v6, "drain = \"0s\"", &IPV6)]),
    )?;
    let (host, interface) = lab.director_peer();
    for (vip, filter, network) in
        [(vips.v4, "ip proto 4", "172.16."), (vips.v6, "ip6 proto 41", "2001:db8:5eed:")]
    {
        let wrapped = Capture::start(&lab, host, interface, filter)?;
        load::requests(&lab, vip, 60, 3)?.all_answered_by(&EVERYBODY)?;
        // "IP 172.16.3.4 > 10.0.11.2: IP 198.51.100.2.40000 > …"
        let lines = wrapped.stop()?;
        let source = |line: &String| line.split_whitespace().nth(1).map(str::to_owned);
        let outer: BTreeSet<String> = lines.iter().filter_map(source).collect();
        ensure!(outer.iter().all(|source| source.starts_with(network)), "a source elsewhere: {outer:?}");
        // One for each flow, but for a chance.
        ensure!((50..=60).contains(&outer.len()), "{} outer sources of 60 flows: {outer:?}", outer.len());
        cx.show(format!("{vip}: 60 flows have {} outer sources in {network}…", outer.len()));
    }
    Ok(())
}

fn prefixes(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let (outside, inside, single) =
        (["192.0.2.66", "192.0.2.95"], ["192.0.2.97", "192.0.2.126"], "192.0.2.100");
    let six = ["2001:db8:ff:1::1", "2001:db8:ff:1:9::2"];
    let all = [&outside[..], &inside, &six, &[single]].concat();
    agents(&lab, &all, &["10.0.1.2", "2001:db8:1::2"], &[])?;
    let around = web("192.0.2.64/26", "", &IPV4[..1]);
    let six_around = web("2001:db8:ff:1::/64", "", &IPV6[..1]);
    // rs2 and rs3 are the first in these services, so that they are called rs1 there.
    let within = web("192.0.2.96/27", "", &IPV4[1..2]);
    let alone = web(single, "", &IPV4[2..]);
    put(&lab, &config("", &[around.clone(), within, alone, six_around]))?;
    let check = |vips: &[&str], host: &str| -> anyhow::Result<()> {
        for vip in vips {
            load::requests(&lab, vip, 10, 2)?.all_answered_by(&[host]).with_context(|| (*vip).to_owned())?;
        }
        Ok(())
    };
    check(&outside, "rs1")?;
    check(&inside, "rs2")?;
    check(&[single], "rs3")?;
    check(&six, "rs1")?;
    cx.show(
        "192.0.2.64/26 by rs1, 192.0.2.96/27 in it by rs2, 192.0.2.100 in that by rs3, an IPv6 /64 by rs1",
    );
    put(&lab, &config("", &[around]))?;
    check(&[&outside[..], &inside, &[single]].concat(), "rs1")?;
    cx.show("without the inner ones all of it is rs1's");
    Ok(())
}

fn ping(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vips = lab.vips();
    let services = [web(vips.v4, "", &IPV4), web(vips.v6, "", &IPV6)];
    for answered in [true, false] {
        put(&lab, &config(&format!("answer_ping = {answered}"), &services))?;
        for vip in [vips.v4, vips.v6] {
            let before = counted(&lab.status()?, "echo_reply");
            let out = lab.exec("client", &["ping", "-c", "3", "-i", "0.2", "-W", "1", "-s", "1000", vip])?;
            let replies = counted(&lab.status()?, "echo_reply") - before;
            let expected = if answered { 3 } else { 0 };
            ensure!(
                out.ok() == answered && replies == expected,
                "answer_ping = {answered}: {replies} of 3: {out}"
            );
            cx.show(format!("answer_ping = {answered}: {vip}: {replies} of 3 answered by the director"));
        }
    }
    Ok(())
}

/// The real servers' links take 1600 bytes, so that the agents announce segments of the full 1460 bytes: wrapped they are
/// too big for the director's.
fn too_big(cx: &mut Context<'_>) -> anyhow::Result<()> {
    const BYTES: usize = 50_000_000;
    let lab = Lab::up(cx, Topology::Routed)?;
    for host in EVERYBODY {
        lab.exec("router", &["ip", "link", "set", host, "mtu", "1600"])?.success()?;
        lab.exec(host, &["ip", "link", "set", "eth0", "mtu", "1600"])?.success()?;
    }
    let vips = lab.vips();
    agents(&lab, &[vips.v4, vips.v6, vips.v4_over_v6], &["10.0.1.2", "2001:db8:1::2"], &[])?;
    let file = lab.dir().join("upload");
    std::fs::write(&file, vec![b'x'; BYTES])?;
    let body = format!("@{}", file.display());
    for (what, vip, fits) in
        [("4in4", vips.v4, 1480), ("6in6", vips.v6, 1460), ("4in6", vips.v4_over_v6, 1460)]
    {
        let url = if vip.contains(':') { format!("http://[{vip}]/") } else { format!("http://{vip}/") };
        let before = lab.status()?;
        let words =
            ["curl", "-sS", "--max-time", "50", "-H", "Expect:", "-w", "%{size_upload} %{time_total}"];
        let out =
            lab.exec("client", &[words.as_slice(), &["--data-binary", &body, &url]].concat())?.success()?;
        ensure!(out.stdout.contains(&format!("\n{BYTES} ")), "{what}: {out}");
        let told = counted(&lab.status()?, "too_big_reply") - counted(&before, "too_big_reply");
        ensure!(
            told > 0,
            "{what}: nobody was told that a packet is too big; did the agents lower what they announce?"
        );
        let route = lab.exec("client", &["ip", "route", "get", vip])?.success()?.stdout;
        ensure!(route.contains(&format!("mtu {fits}")), "{what}: the client has not learned {fits}: {route}");
        let seconds = out.stdout.split_whitespace().last().unwrap_or_default();
        cx.show(format!(
            "{what}: 50 MB in {seconds} s, the client was told {told} times and knows that {fits} fit"
        ));
    }
    Ok(())
}

fn fragments(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vips = lab.vips();
    let udp = |vip, encapsulation: &str, addresses: &[&str]| {
        service(vip, 7, "udp", &format!("encapsulation = \"{encapsulation}\"\ndrain = \"0s\""), addresses)
    };
    agents(&lab, &[vips.v4, vips.v6], &["10.0.1.2", "2001:db8:1::2"], &["--gue-port", GUE_PORT])?;
    let mut servers = Vec::new();
    for host in EVERYBODY {
        for vip in [vips.v4, vips.v6] {
            servers.push(Running::start(&lab, host, &["datagram-echo", "--vip", vip])?);
        }
    }
    for encapsulation in ["ipip", "gue"] {
        put(&lab, &config("", &[udp(vips.v4, encapsulation, &IPV4), udp(vips.v6, encapsulation, &IPV6)]))?;
        for vip in [vips.v4, vips.v6] {
            let before = lab.status()?;
            let to = SocketAddr::new(vip.parse()?, 7);
            let said = datagram::exchange(&lab, to, 4000, &[])?;
            let after = lab.status()?;
            let followed = counted(&after, "fragment_followed") - counted(&before, "fragment_followed");
            ensure!(followed >= 20, "{vip}: {followed} later fragments of 10 datagrams of three");
            cx.show(format!("{encapsulation} {vip}: {said}; {followed} later fragments followed"));
        }
    }
    Ok(())
}

/// A web server in the director's host.
struct OwnServer(Child);

impl OwnServer {
    fn start(lab: &Lab) -> anyhow::Result<Self> {
        let weir = lab.weir().path().display().to_string();
        let mut command =
            lab.command("director", &[&weir, "respond", "--name", "director", "--listen", "[::]:80"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().context("cannot start `weir respond`")?);
        wait_until("a web server answers on the director", Duration::from_secs(10), || {
            Ok(lab.exec("director", &["curl", "-sS", "http://127.0.0.1/"])?.ok())
        })?;
        Ok(server)
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn local(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let _server = OwnServer::start(&lab)?;
    let vips = lab.vips();
    let here = "[[service.backend]]\nname = \"here\"\naddress = \"10.0.1.2\"\nlocal = true\n";
    let both = |vip, addresses: &[&str]| web(vip, "advertise = \"address\"", &addresses[..1]) + here;
    put(&lab, &config("", &[both(vips.v4, &IPV4), both(vips.v6, &IPV6)]))?;
    for vip in [vips.v4, vips.v6] {
        let before = counted(&lab.status()?, "local");
        let report = load::requests(&lab, vip, 60, 3)?;
        report.all_answered_by(&["director", "rs1"])?;
        let passed = counted(&lab.status()?, "local") - before;
        let answered = report.answered.get("director").copied().unwrap_or(0);
        ensure!(
            passed >= 4 * answered,
            "{vip}: {passed} packets left to the director for {answered} answers"
        );
        cx.show(format!("{vip}: {report}; {passed} packets left to the director's own stack"));
    }
    Ok(())
}

fn layer2(cx: &mut Context<'_>) -> anyhow::Result<()> {
    const MACHINES: [[&str; 3]; 2] =
        [["192.168.33.11", "192.168.33.12", "192.168.33.13"], ["fd00:33::11", "fd00:33::12", "fd00:33::13"]];
    let lab = Lab::up(cx, Topology::Flat)?;
    let vips = lab.vips();
    agents(&lab, &[vips.v4, vips.v6], &[], &["--decap", "none", "--interface", "eth0"])?;
    let keys = "encapsulation = \"l2\"\nadvertise = \"address\"\ndrain = \"0s\"";
    put(&lab, &config("", &[web(vips.v4, keys, &MACHINES[0]), web(vips.v6, keys, &MACHINES[1])]))?;
    let (host, interface) = lab.director_peer();
    for vip in [vips.v4, vips.v6] {
        let wrapped = Capture::start(
            &lab,
            host,
            interface,
            "ip proto 4 or ip proto 41 or ip6 proto 41 or ip6 proto 4",
        )?;
        let report = load::requests(&lab, vip, 60, 3)?;
        report.all_answered_by(&EVERYBODY)?;
        let wrapped = wrapped.stop()?;
        ensure!(wrapped.is_empty(), "{vip}: a packet is wrapped: {}", wrapped[0]);
        cx.show(format!("{vip}: {report}; no packet is wrapped"));
    }
    // As they are, packets need no room for a header.
    let file = lab.dir().join("upload");
    std::fs::write(&file, vec![b'x'; 5_000_000])?;
    let body = format!("@{}", file.display());
    let url = format!("http://{}/", vips.v4);
    let words = ["curl", "-sS", "--max-time", "20", "-H", "Expect:", "--data-binary", &body, &url];
    let out = lab.exec("client", &words)?.success()?;
    cx.show(format!("{} took 5 MB", out.stdout.trim()));
    Ok(())
}

fn layer2_refused(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    std::fs::write(lab.config_path(), config("", &[web(lab.vips().v4, "encapsulation = \"l2\"", &IPV4)]))?;
    let out = lab.reload()?;
    let says = "reaches only machines on the same link, and this one is behind 10.0.1.1";
    ensure!(!out.ok() && out.stderr.contains(says) && out.stderr.contains("help: "), "{out}");
    cx.show(out.stderr.lines().next().unwrap_or_default());
    Ok(())
}

/// The lab has no VLANs, so nobody answers; the frames are on the wire all the same.
fn vlan(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vips = lab.vips();
    let pinned = |vip, addresses: &[&str]| web(vip, "", &addresses[..1]) + "vlan = 7\n";
    put(&lab, &config("", &[pinned(vips.v4, &IPV4), pinned(vips.v6, &IPV6)]))?;
    let (host, interface) = lab.director_peer();
    for (vip, url, inside) in [
        (vips.v4, format!("http://{}/", vips.v4), "vlan 7 and ip proto 4"),
        (vips.v6, format!("http://[{}]/", vips.v6), "vlan 7 and ip6 proto 41"),
    ] {
        let before = crate::director::packets(&lab.status()?, "forward");
        let tagged = Capture::start(&lab, host, interface, inside)?;
        let out = lab.exec("client", &["curl", "-sS", "--max-time", "2", &url])?;
        let tagged = tagged.stop()?.len() as u64;
        let sent = crate::director::packets(&lab.status()?, "forward") - before;
        ensure!(
            !out.ok() && sent > 0 && tagged == sent,
            "{vip}: {tagged} of {sent} packets have the tag: {out}"
        );
        let status = lab.status()?;
        let backend = &status["services"][0]["backends"][0];
        ensure!(backend["vlan"] == 7 && backend["interface"] == "eth0", "the report: {backend}");
        cx.show(format!("{vip}: {tagged} wrapped packets left with the tag 7"));
    }
    Ok(())
}

/// The router wraps packets of the client's and sends them to the director, as another director would.
fn unwraps(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let vips = lab.vips();
    agents(&lab, &[vips.v4, vips.v6], &["10.0.1.2", "2001:db8:1::2"], &[])?;
    let udp = |vip, addresses: &[&str]| service(vip, 7, "udp", "", &addresses[..1]);
    let director = format!("decapsulate = [\"10.0.1.2\", \"2001:db8:1::2\"]\ngue_port = {GUE_PORT}");
    put(&lab, &config(&director, &[udp(vips.v4, &IPV4), udp(vips.v6, &IPV6)]))?;
    for (client, vip) in [("198.51.100.2", vips.v4), ("2001:db8::2", vips.v6)] {
        for to in ["10.0.1.2", "2001:db8:1::2"] {
            let before = lab.status()?;
            let to = SocketAddr::new(to.parse()?, GUE_PORT.parse()?);
            let exchange = Exchange { client, vip, to, variant: Variant::One, count: 20, sender: "router" };
            exchange.run(&lab, "rs1").with_context(|| format!("{vip} by way of {to}"))?;
            let forwarded = crate::director::packets(&lab.status()?, "forward")
                - crate::director::packets(&before, "forward");
            ensure!(forwarded == 20, "{forwarded} of 20 unwrapped packets were balanced");
            cx.show(format!("20 datagrams for {vip} in GUE to {to}: unwrapped, balanced, answered"));
        }
    }
    Ok(())
}
