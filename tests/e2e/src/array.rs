//! Suite `array`: the director called by a root program instead of attached.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::director::{Daemon, packets, run_and_fail, wait_until};
use crate::harness::{Case, Context, Suite};
use crate::load::{Running, requests};
use crate::network::{Lab, Topology};
use crate::weir::{Output, PATIENCE, finish};

pub(crate) const SUITE: Suite = Suite {
    name: "array",
    about: "the director in a position of a root's program array",
    cases: &[
        Case { name: "a root calls the director, and only its element goes with it", run: comes_and_goes },
        Case { name: "a restart exchanges it without a lost request", run: restart },
        Case { name: "packets that are passed go on to the next position", run: goes_on },
        Case { name: "what is no place of its own is refused", run: refusals },
        Case { name: "a place that is taken away is told of", run: taken_away },
    ],
};

const EVERYBODY: [&str; 3] = ["rs1", "rs2", "rs3"];

/// A lab with a root on the director's interface, and no director yet.
struct Rooted {
    lab: Lab,
    /// The root's directory.
    dir: PathBuf,
}

impl Rooted {
    fn up(cx: &mut Context<'_>) -> anyhow::Result<Self> {
        let lab = Lab::up_without_director(cx, Topology::Routed)?;
        // Unmounted with the lab, by whatever way it goes down.
        let bpffs = lab.dir().join("bpffs");
        std::fs::create_dir(&bpffs)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "bpf", "bpf"]).arg(&bpffs);
        finish(mount, PATIENCE)?.success()?;
        let rooted = Self { lab, dir: bpffs.join("root") };
        rooted.root(&["attach", "--interface", "eth0"])?.success()?;
        Ok(rooted)
    }

    /// `weir root` on the director.
    fn root(&self, words: &[&str]) -> anyhow::Result<Output> {
        let weir = self.lab.weir();
        let mut command =
            weir.command(&["lab", "exec", "--keep-mounts", "--name", self.lab.name(), "director", "--"]);
        command.arg(weir.path()).arg("root").args(words).arg("--pin").arg(&self.dir);
        finish(command, PATIENCE)
    }

    fn array(&self) -> String {
        self.dir.join("programs").display().to_string()
    }

    /// The director's configuration with these keys in place of `xdp_mode`.
    fn config(&self, position: u32, next: Option<u32>) -> anyhow::Result<String> {
        let next = next.map(|next| format!("next_position = {next}\n")).unwrap_or_default();
        let keys = format!("program_array = \"{}\"\nprogram_position = {position}\n{next}", self.array());
        let text = self.lab.config()?;
        let kept = text.lines().filter(|line| {
            ["xdp_mode", "program_array", "program_position", "next_position"]
                .iter()
                .all(|key| !line.starts_with(key))
        });
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        ensure!(kept.contains("[director]\n"), "no [director] in {text}");
        Ok(kept.replacen("[director]\n", &format!("[director]\n{keys}"), 1))
    }

    fn configure(&self, position: u32, next: Option<u32>) -> anyhow::Result<()> {
        Ok(std::fs::write(self.lab.config_path(), self.config(position, next)?)?)
    }

    fn bpftool(words: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new("bpftool");
        command.arg("-j").args(words);
        let output = finish(command, PATIENCE)?.success()?;
        if output.stdout.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&output.stdout).context("bpftool did not print JSON")
    }

    /// The array's positions that hold a program.
    fn held(&self) -> anyhow::Result<Vec<u64>> {
        let dump = Self::bpftool(&["map", "dump", "pinned", &self.array()])?;
        let elements = dump.as_array().into_iter().flatten();
        let byte = |value: &Value| {
            let text = value.as_str()?;
            u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
        };
        // An empty position has an error in place of its value.
        Ok(elements
            .filter(|element| element["value"].is_array())
            .filter_map(|element| byte(&element["key"][0]))
            .collect())
    }

    /// Puts the program that passes everything, which the lab has on other interfaces, into a position.
    fn put_pass(&self, position: &str) -> anyhow::Result<()> {
        let programs = Self::bpftool(&["prog", "show"])?;
        let mut programs = programs.as_array().into_iter().flatten();
        let pass = programs.find(|program| program["name"] == "pass" && program["type"] == "xdp");
        let id = pass.and_then(|program| program["id"].as_u64()).context("no program \"pass\"")?.to_string();
        let array = self.array();
        let key = [position, "0", "0", "0"];
        let mut words = vec!["map", "update", "pinned", &array, "key"];
        words.extend(key);
        words.extend(["value", "id", &id]);
        Self::bpftool(&words).map(drop)
    }

    fn empty(&self, position: &str) -> anyhow::Result<()> {
        Self::bpftool(&["map", "delete", "pinned", &self.array(), "key", position, "0", "0", "0"]).map(drop)
    }
}

fn comes_and_goes(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let rooted = Rooted::up(cx)?;
    let lab = &rooted.lab;
    rooted.put_pass("5")?;
    rooted.configure(2, None)?;
    let daemon = Daemon::start(lab, &[])?;
    ensure!(rooted.held()? == [2, 5], "the array holds {:?}", rooted.held()?);
    for (what, vip) in lab.vips().all() {
        let report = requests(lab, vip, 30, 4)?;
        report.all_answered_by(&EVERYBODY)?;
        cx.show(format!("{what}: {report}"));
    }
    let status = lab.status()?;
    ensure!(packets(&status, "forward") > 0, "nothing was forwarded");
    let array = &status["program_array"];
    ensure!(array["position"] == 2 && array["problem"] == "", "the report: {array}");
    ensure!(array["program_id"].as_u64() > Some(0), "the report: {array}");
    ensure!(status["interfaces"][0]["xdp_mode"] == "native", "the report: {}", status["interfaces"]);
    // What takes a restart is refused, and changes nothing.
    rooted.configure(3, None)?;
    let out = lab.reload()?;
    ensure!(!out.ok() && out.stderr.contains("position 2 of"), "{out}");
    daemon.terminate()?;
    ensure!(rooted.held()? == [5], "after the end the array holds {:?}", rooted.held()?);
    ensure!(lab.xdp_mode()?.as_deref() == Some("native"), "the root is gone");
    ensure!(!lab.runtime_dir().join("bpf").exists(), "pins are left");
    rooted.root(&["detach"])?.success()?;
    lab.nothing_is_attached()?;
    ensure!(!rooted.dir.exists(), "the root's directory is left");
    Ok(())
}

fn restart(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let rooted = Rooted::up(cx)?;
    let lab = &rooted.lab;
    rooted.configure(0, None)?;
    let daemon = Daemon::start(lab, &["--detach=never"])?;
    let load = Running::start(lab, &[lab.vips().v4, lab.vips().v6], 4)?;
    daemon.terminate()?;
    ensure!(rooted.held()? == [0], "the program is gone with the daemon");
    sleep(Duration::from_millis(300));
    let again = Daemon::start(lab, &[])?;
    let status = lab.status()?;
    ensure!(status["adopted"] == true, "the second start did not adopt the tables: {}", again.log());
    sleep(Duration::from_millis(300));
    let report = load.stop()?;
    report.all_answered_by(&EVERYBODY)?;
    ensure!(report.slow == 0, "{} requests needed a second try of the kernel: {report}", report.slow);
    cx.show(format!("over the end, the gap and the next start: {report}"));
    again.terminate()?;

    // From the array to the interface itself, and its tables with it.
    let daemon = Daemon::start(lab, &["--detach=never"])?;
    daemon.terminate()?;
    let keys = rooted.config(0, None)?;
    let plain: String = keys.lines().filter(|l| !l.starts_with("program_")).flat_map(|l| [l, "\n"]).collect();
    let array = rooted.array();
    let kept = rooted.dir.with_file_name("kept");
    let mut pin = Command::new("bpftool");
    pin.args(["map", "pin", "pinned", &array]).arg(&kept);
    finish(pin, PATIENCE)?.success()?;
    rooted.root(&["detach"])?.success()?;
    std::fs::write(lab.config_path(), plain)?;
    let daemon = Daemon::start(lab, &[])?;
    ensure!(lab.status()?["adopted"] == true, "the tables were not adopted: {}", daemon.log());
    let dump = Rooted::bpftool(&["map", "dump", "pinned", &kept.display().to_string()])?;
    let left = dump.as_array().into_iter().flatten().filter(|element| element["value"].is_array()).count();
    ensure!(left == 0, "its element was left: {dump}");
    requests(lab, lab.vips().v4, 30, 4)?.all_answered_by(&EVERYBODY)?;
    daemon.terminate()?;
    lab.nothing_is_attached()?;
    cx.show("attached to the interface itself afterwards, with the same tables".to_owned());
    Ok(())
}

fn goes_on(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let rooted = Rooted::up(cx)?;
    let lab = &rooted.lab;
    // Two directors in a row; the first has no services, so every packet goes on to the second.
    rooted.configure(6, None)?;
    let second = Daemon::start(lab, &[])?;
    requests(lab, lab.vips().v4, 30, 4)?.all_answered_by(&EVERYBODY)?;
    let before = packets(&lab.status()?, "forward");
    let text = rooted.config(1, Some(6))?;
    let alone = text.split("[[service]]").next().unwrap_or_default().to_owned();
    let first_dir = lab.dir().join("first");
    let config = lab.dir().join("first.toml");
    std::fs::write(&config, alone)?;
    let first = Daemon::start_apart(lab, &config, &first_dir, &[])?;
    ensure!(rooted.held()? == [1, 6], "the array holds {:?}", rooted.held()?);
    let report = requests(lab, lab.vips().v4, 30, 4)?;
    report.all_answered_by(&EVERYBODY)?;
    let after = packets(&lab.status()?, "forward");
    ensure!(after > before, "the second director forwarded nothing");
    let dir = first_dir.display().to_string();
    let out = lab.weir().run(&["status", "-o", "json", "--runtime-dir", &dir])?.success()?;
    let status: Value = serde_json::from_str(&out.stdout).context("`weir status` did not print JSON")?;
    let passed = packets(&status, "pass");
    ensure!(passed >= after - before, "the first director passed {passed} packets");
    cx.show(format!(
        "{passed} packets passed by the first, {} forwarded by the second: {report}",
        after - before
    ));
    first.terminate()?;
    second.terminate()?;
    ensure!(rooted.held()?.is_empty(), "the array holds {:?}", rooted.held()?);
    Ok(())
}

fn refusals(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let rooted = Rooted::up(cx)?;
    let lab = &rooted.lab;
    rooted.put_pass("3")?;
    let nowhere = rooted.config(1, None)?.replace("/root/programs", "/nothing");
    for (text, cause, advice) in [
        (rooted.config(3, None)?, "another program is there", "bpftool map delete"),
        (rooted.config(8, None)?, "no position 8, only 0 to 7", "choose a position"),
        (nowhere, "nothing is pinned there", "start the root"),
    ] {
        let out = run_and_fail(lab, &text)?;
        ensure!(out.code.is_some_and(|code| code != 0), "it was not refused: {out}");
        ensure!(out.stderr.contains(cause) && out.stderr.contains(advice), "{out}");
        ensure!(rooted.held()? == [3], "the array holds {:?}", rooted.held()?);
        ensure!(!lab.runtime_dir().join("bpf").exists(), "pins are left");
        let line = out.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        cx.show(line.to_owned());
    }
    Ok(())
}

fn taken_away(cx: &mut Context<'_>) -> anyhow::Result<()> {
    let rooted = Rooted::up(cx)?;
    let lab = &rooted.lab;
    rooted.configure(4, None)?;
    let daemon = Daemon::start(lab, &[])?;
    rooted.empty("4")?;
    wait_until("the log says so", Duration::from_secs(10), || {
        Ok(daemon.log().contains("somebody has taken the director's program out of it"))
    })?;
    rooted.put_pass("4")?;
    wait_until("the report says so", Duration::from_secs(10), || {
        let array = &lab.status()?["program_array"];
        let problem = array["problem"].as_str().unwrap_or_default();
        Ok(array["program_id"] == 0 && problem.contains("another program is there"))
    })?;
    daemon.terminate()?;
    ensure!(rooted.held()? == [4], "the other program was taken away");
    cx.show("told in the log and the report; the program that came instead stayed".to_owned());
    Ok(())
}
