//! Suite `lab`: `weir lab` itself: coming up, going down, and what a crash leaves.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};

use crate::director::wait_until;
use crate::harness::{Case, Context, Suite};
use crate::network::{Lab, Topology};

pub(crate) const SUITE: Suite = Suite {
    name: "lab",
    about: "labs come up, go down and leave nothing, whatever happened before",
    cases: &[
        Case { name: "up twice, down twice", run: twice },
        Case { name: "another topology under the same name is refused", run: other_topology },
        Case { name: "a dead director and a dead web server are started again", run: repair },
        Case { name: "up after a crash in the middle of up", run: up_after_crash },
        Case { name: "down after a crash in the middle of up", run: down_after_crash },
        Case { name: "down ends strangers' commands in the lab and nobody else's", run: inhabitants },
        Case { name: "the responder answers where nginx is not installed", run: responder },
    ],
};

/// An error if anything of a lab is left.
fn nothing_is_left(name: &str) -> anyhow::Result<()> {
    let prefix = format!("weir-lab-{name}-");
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = namespaces
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|namespace| namespace.starts_with(&prefix))
        .collect();
    ensure!(left.is_empty(), "namespaces are left: {}", left.join(", "));
    let dir = Path::new("/run/weir-lab").join(name);
    ensure!(!dir.exists(), "{} is left", dir.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    let below = dir.display().to_string();
    ensure!(!mounts.contains(&below), "a mount below {below} is left");
    for entry in fs::read_dir("/proc").context("cannot list processes")?.flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        ensure!(!words.contains(&below), "a process is left: {} {words}", entry.file_name().display());
    }
    Ok(())
}

fn twice(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let name = lab.name().to_owned();
    let before = lab.lab_status()?["processes"].clone();
    let again = cx.weir.run(&["lab", "up", "--name", &name])?.success()?;
    ensure!(again.stdout.contains("is up already"), "{again}");
    ensure!(lab.lab_status()?["processes"] == before, "the second up started processes");
    lab.down()?;
    nothing_is_left(&name)?;
    let down = cx.weir.run(&["lab", "down", "--name", &name])?.success()?;
    cx.show(format!("up, up: {}", again.stdout.lines().next().unwrap_or_default()));
    cx.show(format!("down, down: {}", down.stdout.trim()));
    nothing_is_left(&name)
}

fn other_topology(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Routed)?;
    let out = cx.weir.run(&["lab", "up", "--name", lab.name(), "--topology", "flat"])?;
    ensure!(!out.ok(), "{out}");
    ensure!(out.stderr.contains("error: ") && out.stderr.contains("help: "), "{out}");
    cx.show(out.stderr.trim().replace('\n', "; "));
    Ok(())
}

fn repair(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up(cx, Topology::Routed)?;
    let status = lab.lab_status()?;
    for process in status["processes"].as_array().context("no processes")? {
        if process["name"] == "director" || process["name"] == "rs2" {
            let pid = i32::try_from(process["pid"].as_i64().context("no pid")?)?;
            kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL)?;
        }
    }
    wait_until("the processes are gone", Duration::from_secs(5), || {
        let status = lab.lab_status()?;
        let alive = |p: &&serde_json::Value| p["alive"] == true;
        Ok(status["processes"].as_array().map_or(0, |list| list.iter().filter(alive).count()) == 2)
    })?;
    let out = cx.weir.run(&["lab", "up", "--name", lab.name()])?.success()?;
    let first = out.stdout.lines().next().unwrap_or_default().to_owned();
    ensure!(first.contains("director") && first.contains("rs2"), "{out}");
    let report = crate::load::requests(&lab, lab.vips().v4, 60, 4)?;
    report.all_answered_by(&["rs1", "rs2", "rs3"])?;
    cx.show(first);
    cx.show(format!("then {report}"));
    Ok(())
}

/// Starts `weir lab up` and kills it after so many milliseconds.
fn crash(cx: &Context<'_>, name: &str, after: u64) -> anyhow::Result<()> {
    let mut child = cx
        .weir
        .command(&["lab", "up", "--name", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(after));
    child.kill().ok();
    child.wait()?;
    Ok(())
}

/// Moments of a crash: from before the first namespace to about when the director starts.
const MOMENTS: [u64; 8] = [2, 5, 10, 20, 40, 80, 150, 300];

fn up_after_crash(cx: &mut Context<'_>) -> anyhow::Result<()> {
    for after in MOMENTS {
        let name = cx.unique_name();
        crash(cx, &name, after)?;
        let lab = Lab::up_named(cx.weir, &name, Topology::Routed, &[])
            .with_context(|| format!("up after a crash {after} ms into another up"))?;
        let report = crate::load::requests(&lab, lab.vips().v4, 30, 2)?;
        report.all_answered_by(&["rs1", "rs2", "rs3"])?;
        lab.down()?;
        nothing_is_left(&name)?;
    }
    cx.show(format!("killed after {MOMENTS:?} ms: each time up made a lab that answers"));
    Ok(())
}

fn down_after_crash(cx: &mut Context<'_>) -> anyhow::Result<()> {
    for after in MOMENTS {
        let name = cx.unique_name();
        crash(cx, &name, after)?;
        cx.weir.run(&["lab", "down", "--name", &name])?.success()?;
        nothing_is_left(&name).with_context(|| format!("down after a crash {after} ms into up"))?;
    }
    cx.show(format!("killed after {MOMENTS:?} ms: each time down left nothing"));
    Ok(())
}

fn inhabitants(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Flat)?;
    let mut inside = lab.command("client", &["sleep", "300"]).spawn()?;
    let mut outside = std::process::Command::new("sleep").arg("300").spawn()?;
    let outcome = lab.down();
    let ended = wait_until("the command in the lab ends", Duration::from_secs(5), || {
        Ok(inside.try_wait()?.is_some())
    });
    let spared = outside.try_wait()?.is_none();
    for child in [&mut inside, &mut outside] {
        child.kill().ok();
        child.wait().ok();
    }
    outcome.and(ended.map(drop))?;
    ensure!(spared, "a process outside the lab was ended");
    cx.show("`sleep` in the client's host ended with the lab, `sleep` outside did not");
    Ok(())
}

fn responder(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let lab = Lab::up_bare(cx, Topology::Flat)?;
    let weir = cx.weir.path().display().to_string();
    let words = [weir.as_str(), "respond", "--name", "standby", "--listen", "[::]:8080"];
    let mut server = lab.command("rs1", &words).stdin(Stdio::null()).spawn()?;
    let url = "http://192.168.33.11:8080/";
    let asked = wait_until("the responder answers", Duration::from_secs(10), || {
        let out = lab.exec("client", &["curl", "-sS", "--max-time", "2", url])?;
        Ok(out.ok() && out.stdout.trim() == "standby")
    });
    server.kill().ok();
    server.wait()?;
    asked?;
    cx.show(format!("curl {url}: standby"));
    Ok(())
}
