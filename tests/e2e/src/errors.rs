//! Suite `errors`: what `weir run` refuses, how it says so, and that nothing is left attached.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::control::add_bridge;
use crate::director::{Daemon, run_and_fail, with_weight};
use crate::harness::{Case, Context, Suite};
use crate::network::{Lab, Topology};
use crate::weir::Output;

pub(crate) const SUITE: Suite = Suite {
    name: "errors",
    about: "bad input: one line of cause, one of advice, exit code not 0, nothing attached",
    cases: &[
        Case { name: "unknown interface", run: unknown_interface },
        Case { name: "interface without native XDP, native asked for", run: no_native },
        Case { name: "a backend of another family for layer 2", run: wrong_family },
        Case { name: "duplicate service", run: duplicate_service },
        Case { name: "weight 0 everywhere", run: no_weight },
        Case { name: "backend without a route", run: no_route },
        Case { name: "misspelt key", run: typo },
        Case { name: "tables pinned by another ABI", run: other_abi },
        Case { name: "configuration that does not exist", run: no_file },
    ],
};

/// Checks the form of a refusal and that its cause and advice contain these words; shows both.
fn refused(
    cx: &mut Context<'_>,
    lab: &Lab,
    out: &Output,
    cause: &[&str],
    advice: &[&str],
) -> anyhow::Result<()> {
    ensure!(out.code.is_some_and(|code| code != 0), "it was not refused: {out}");
    let lines = message(out);
    let [cause_line, advice_line] = lines[..] else {
        bail!("there should be one line of cause and one of advice: {out}");
    };
    ensure!(advice_line.trim_start().starts_with("help: "), "the second line is no advice: {out}");
    for (line, words) in [(cause_line, cause), (advice_line, advice)] {
        for word in words {
            ensure!(line.contains(word), "`{word}` is not in `{line}`: {out}");
        }
    }
    lab.nothing_is_attached()?;
    cx.show(cause_line.to_owned());
    cx.show(advice_line.trim().to_owned());
    Ok(())
}

/// What it printed, without its log's notes.
fn message(out: &Output) -> Vec<&str> {
    out.stderr.lines().filter(|line| !line.trim().is_empty() && !line.contains(" INFO ")).collect()
}

/// Runs the director with an edited configuration and checks the refusal.
fn refuse(
    cx: &mut Context<'_>,
    edit: impl FnOnce(&str) -> String,
    cause: &[&str],
    advice: &[&str],
) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    let before = lab.config()?;
    let after = edit(&before);
    ensure!(before != after, "the edit changed nothing");
    let out = run_and_fail(&lab, &after)?;
    refused(cx, &lab, &out, cause, advice)
}

fn unknown_interface(cx: &mut Context<'_>) -> anyhow::Result<()> {
    refuse(cx, |text| text.replace("[\"eth0\"]", "[\"eth9\"]"), &["eth9"], &["eth0"])
}

fn no_native(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    add_bridge(&lab)?;
    let config =
        lab.config()?.replace("[\"eth0\"]", "[\"eth0\", \"plain0\"]").replace("\"auto\"", "\"native\"");
    let out = run_and_fail(&lab, &config)?;
    refused(cx, &lab, &out, &["plain0", "native"], &["generic"])
}

fn wrong_family(cx: &mut Context<'_>) -> anyhow::Result<()> {
    // A packet that is not wrapped cannot go to an address of another family.
    let layer2 = |text: &str| {
        let text = text.replacen("protocol = \"tcp\"", "protocol = \"tcp\"\nencapsulation = \"l2\"", 1);
        text.replacen("\"10.0.11.2\"", "\"2001:db8:11::2\"", 1)
    };
    refuse(cx, layer2, &["weir.toml:", "IPv4"], &["ipip"])
}

fn duplicate_service(cx: &mut Context<'_>) -> anyhow::Result<()> {
    refuse(
        cx,
        |text| text.replacen("\"192.0.2.20\"", "\"192.0.2.10\"", 1),
        &["weir.toml:", "192.0.2.10:80"],
        &[],
    )
}

fn no_weight(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let first_service_only = |text: &str| {
        let (head, rest) = text.split_once("web-ipv6").unwrap_or((text, ""));
        let zero =
            ["rs1", "rs2", "rs3"].iter().fold(head.to_owned(), |text, name| with_weight(&text, name, 0));
        format!("{zero}web-ipv6{rest}")
    };
    refuse(cx, first_service_only, &["weir.toml:", "weight"], &["weight"])
}

fn no_route(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Flat)?;
    // The flat lab's director has no default route.
    let config = lab.config()?.replacen("\"192.168.33.11\"", "\"203.0.113.7\"", 1);
    let out = run_and_fail(&lab, &config)?;
    refused(cx, &lab, &out, &["203.0.113.7", "route"], &["route"])
}

fn typo(cx: &mut Context<'_>) -> anyhow::Result<()> {
    refuse(
        cx,
        |text| text.replacen("weight = 1", "wieght = 1", 1),
        &["weir.toml:", ":1: ", "`wieght`"],
        &["`weight`"],
    )
}

fn other_abi(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    let good = lab.config()?;
    Daemon::start(&lab, &["--detach=never"])?.terminate()?;
    let pin = find(&lab.runtime_dir().join("bpf"), "WEIR_CONTROL").context("no control map is pinned")?;
    // weir's magic number, then a version that never was.
    let mut record = vec!["0x72", "0x69", "0x65", "0x77", "0xff", "0xff"];
    record.resize(64, "0x00");
    let pin = pin.display().to_string();
    let mut words = vec!["bpftool", "map", "update", "pinned", &pin, "key", "0", "0", "0", "0", "value"];
    words.extend(record);
    let mut command = std::process::Command::new(words[0]);
    command.args(&words[1..]);
    crate::weir::finish(command, crate::weir::PATIENCE)?.success()?;
    let out = run_and_fail(&lab, &good)?;
    ensure!(out.code.is_some_and(|code| code != 0), "it was not refused: {out}");
    // What the other version left forwarding is not this version's to take away; only nothing new may be there.
    let lines = message(&out);
    ensure!(lines.len() == 2 && lines[0].contains("65535") && lines[1].starts_with("help: "), "{out}");
    ensure!(lab.xdp_mode()?.is_some(), "the other version's program was taken off");
    cx.show(lines[0].to_owned());
    cx.show(lines[1].to_owned());
    Ok(())
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|file| file == name)).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}

fn no_file(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    std::fs::remove_file(lab.config_path())?;
    let mut command =
        lab.weir().command(&["lab", "exec", "--keep-mounts", "--name", lab.name(), "director", "--"]);
    command.arg(lab.weir().path()).args(["run", "--config"]).arg(lab.config_path());
    command.arg("--runtime-dir").arg(lab.runtime_dir());
    let out = crate::weir::finish(command, crate::weir::PATIENCE)?;
    refused(cx, &lab, &out, &["weir.toml"], &[])
}
