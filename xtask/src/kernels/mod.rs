//! The BPF programs on the kernel that runs here, and on one that a distribution ships.
//!
//! Owns: the machines other kernels run in, and their time. May not touch: what is checked there and within which
//! budgets; that is `weir-verify`'s (`tests/verify`), the same program everywhere. Invariant: a kernel that said nothing
//! has not passed.

mod image;
mod initramfs;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use report::Report;

use crate::{
    console, dist, setup,
    workspace::{Workspace, as_root, which},
};

/// How long one kernel may take. Emulated, without help of the processor, it is a few seconds.
const LIMIT: Duration = Duration::from_secs(180);

/// Checks the programs on the running kernel and on each of `given`, or a stock one; prints a table for `verbose`.
pub(crate) fn check(workspace: &Workspace, given: Vec<PathBuf>, verbose: bool) -> anyhow::Result<String> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "other kernels are emulated for x86-64 only; on this machine run `weir-verify` alone, as root"
    );
    let logs = workspace.target.join("kernels");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    setup::for_emulating()?;
    let images = image::find(given)?;
    let program = dist::static_program(workspace, "weir-verify", "release")?;

    let mut reports = vec![run("this kernel", as_root(&program)?, &logs.join("running.log"))?];
    let archive = logs.join("initramfs.cpio");
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    fs::write(&archive, initramfs::with_init(&bytes))
        .with_context(|| format!("cannot write {}", archive.display()))?;
    for image in &images {
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        reports.push(run(&name, machine(image, &archive)?, &logs.join(format!("{name}.log")))?);
    }
    if verbose {
        print!("{}", report::table(&reports));
    }
    Ok(report::summary(&reports))
}

/// A machine without disk, network or screen, whose serial line is standard output; it ends when its kernel does.
fn machine(image: &Path, archive: &Path) -> anyhow::Result<Command> {
    let emulator = setup::EMULATOR.command;
    let mut command = Command::new(which(emulator).with_context(|| format!("there is no {emulator}"))?);
    command.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "512", "-no-reboot"]);
    command.args(["-nodefaults", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(archive);
    // A kernel that panics starts again at once, which ends the machine.
    command.args(["-append", "console=ttyS0 quiet panic=-1"]);
    Ok(command)
}

/// Runs `weir-verify` to its end, and reads what it says.
fn run(name: &str, command: Command, log: &Path) -> anyhow::Result<Report> {
    let finished = console::watch(&format!("check-kernels: {name}"), command, LIMIT, Some(log))?;
    let output = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let report = Report::parse(&String::from_utf8_lossy(&output));
    let why = match report {
        Some(report) if report.failed == 0 && finished.success() => return Ok(report),
        Some(report) => format!("{} checks failed on {}", report.failed, report.release),
        None => "it ended without a result".to_owned(),
    };
    console::print_tail(&finished);
    bail!("{name}: {why} ({}); all it said is in {}", finished.ending(), log.display());
}
