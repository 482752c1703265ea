//! Suite `basic`: requests reach every backend, replies go straight back, the counters say so.

use anyhow::ensure;

use crate::capture::Capture;
use crate::director::{backend_packets, packets, with_weight};
use crate::harness::{Case, Context, Suite};
use crate::load;
use crate::network::{Lab, Topology};

pub(crate) const SUITE: Suite = Suite {
    name: "basic",
    about: "4in4, 6in6 and 4in6 in both topologies: answers, the packets' way, counters, weights",
    cases: &[
        Case {
            name: "routed: every backend answers over 4in4, 6in6 and 4in6",
            run: |cx| answers(cx, Topology::Routed),
        },
        Case {
            name: "flat: every backend answers over 4in4, 6in6 and 4in6",
            run: |cx| answers(cx, Topology::Flat),
        },
        Case { name: "routed: replies do not pass the director", run: |cx| direct(cx, Topology::Routed) },
        Case { name: "flat: replies do not pass the director", run: |cx| direct(cx, Topology::Flat) },
        Case { name: "the counters are the packets on the wire", run: counters },
        Case { name: "weights hold", run: weights },
        Case { name: "a 5 MB upload arrives", run: upload },
    ],
};

const EVERYBODY: [&str; 3] = ["rs1", "rs2", "rs3"];

fn answers(cx: &mut Context<'_>, topology: Topology) -> anyhow::Result<()> {
    let lab = Lab::up(cx, topology)?;
    let mode = lab.xdp_mode()?;
    ensure!(mode.as_deref() == Some("native"), "the director's program is not in native mode: {mode:?}");
    for (what, vip) in lab.vips().all() {
        let report = load::requests(&lab, vip, 120, 4)?;
        report.all_answered_by(&EVERYBODY)?;
        cx.show(format!("{what} {vip}: {report}"));
    }
    Ok(())
}

/// Captures at the other end of the director's wire: VIP packets to it, wrapped ones from it, no reply in either
/// direction.
fn direct(cx: &mut Context<'_>, topology: Topology) -> anyhow::Result<()> {
    let lab = Lab::up(cx, topology)?;
    let (host, interface) = lab.director_peer();
    for (what, vip) in lab.vips().all() {
        // pcap looks at the outer header only: a wrapped packet's source is the director.
        let wrapped = Capture::start(&lab, host, interface, "ip proto 4 or ip6 proto 4 or ip6 proto 41")?;
        let replies = Capture::start(&lab, host, interface, &format!("tcp and src host {vip}"))?;
        let report = load::requests(&lab, vip, 30, 2)?;
        report.all_answered_by(&EVERYBODY)?;
        let (wrapped, replies) = (wrapped.stop()?, replies.stop()?);
        let to_vip = wrapped.iter().filter(|line| line.contains(vip)).count();
        // A SYN, an ACK, a request and a FIN at least.
        ensure!(to_vip >= 30 * 4, "{what}: only {to_vip} wrapped packets at the director's other end");
        ensure!(replies.is_empty(), "{what}: replies pass the director: {}", replies[0]);
        cx.show(format!("{what}: {to_vip} wrapped packets leave the director, no reply comes near it"));
    }
    Ok(())
}

fn counters(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let (host, interface) = lab.director_peer();
    for (what, vip) in lab.vips().all() {
        let before = lab.status()?;
        let sent = Capture::start(&lab, host, interface, &format!("tcp and dst host {vip}"))?;
        let wrapped = Capture::start(&lab, host, interface, "ip proto 4 or ip6 proto 4 or ip6 proto 41")?;
        load::requests(&lab, vip, 50, 4)?.all_answered_by(&EVERYBODY)?;
        // A connection's last ACK may still be on its way.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (sent, wrapped) = (sent.stop()?.len() as u64, wrapped.stop()?.len() as u64);
        let after = lab.status()?;
        let forwarded = packets(&after, "forward") - packets(&before, "forward");
        let by_backend = backend_packets(&after) - backend_packets(&before);
        let dropped = packets(&after, "drop") - packets(&before, "drop");
        ensure!(
            forwarded == sent && wrapped == sent && by_backend == sent && dropped == 0,
            "{what}: {sent} packets to the VIP, {wrapped} wrapped ones on the wire, but the director counts \
             {forwarded} forwarded, {by_backend} by backend, {dropped} dropped"
        );
        cx.show(format!(
            "{what}: {sent} to the VIP = {wrapped} wrapped = {forwarded} counted = {by_backend} by backend"
        ));
    }
    Ok(())
}

fn weights(cx: &mut Context<'_>) -> anyhow::Result<()> {
    const REQUESTS: u32 = 800;
    const WEIGHTS: [(&str, u32); 3] = [("rs1", 1), ("rs2", 2), ("rs3", 5)];
    let lab = Lab::up(cx, Topology::Routed)?;
    lab.edit_config(|text| {
        WEIGHTS.iter().fold(text.to_owned(), |text, (name, weight)| with_weight(&text, name, *weight))
    })?;
    lab.reload()?.success()?;
    let report = load::requests(&lab, lab.vips().v4, REQUESTS.into(), 8)?;
    report.all_answered_by(&EVERYBODY)?;
    for (name, weight) in WEIGHTS {
        let share = f64::from(weight) / 8.0;
        let expected = f64::from(REQUESTS) * share;
        // Flows fall on the ring at random: five standard deviations of a binomial distribution.
        let tolerance = 5.0 * (expected * (1.0 - share)).sqrt();
        let found = f64::from(u32::try_from(report.answered.get(name).copied().unwrap_or(0))?);
        ensure!(
            (found - expected).abs() <= tolerance,
            "{name} has weight {weight} of 8: {expected:.0} +- {tolerance:.0} expected, {report}"
        );
    }
    cx.show(format!("weights 1, 2, 5: {report}"));
    Ok(())
}

/// Full-sized segments must fit once they are wrapped: a path of 1500 bytes everywhere.
fn upload(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let file = lab.dir().join("upload");
    std::fs::write(&file, vec![b'x'; 5_000_000])?;
    let body = format!("@{}", file.display());
    for (what, vip) in lab.vips().all() {
        let url = if vip.contains(':') { format!("http://[{vip}]/") } else { format!("http://{vip}/") };
        let words =
            ["curl", "-sS", "--max-time", "20", "-H", "Expect:", "-w", "%{size_upload} %{time_total}"];
        let words = [words.as_slice(), &["--data-binary", &body, &url]].concat();
        let out = lab.exec("client", &words)?.success()?;
        let (name, figures) = out.stdout.split_once('\n').unwrap_or_default();
        ensure!(EVERYBODY.contains(&name) && figures.starts_with("5000000 "), "{what}: {out}");
        cx.show(format!("{what}: {name} took 5 MB in {} s", figures.trim_start_matches("5000000 ")));
    }
    Ok(())
}
