//! Building and running weir, its demo, its benchmark and its tests.
//!
//! Owns: which packages are built, and what runs as root. May not touch: what the programs do with their
//! options. Invariant: building is done as the calling user, so that no file in the tree becomes root's.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};

use crate::{
    setup,
    workspace::{Workspace, as_root, is_root},
};

/// Packages whose tests load BPF programs or make network namespaces, and so need root.
pub(crate) const PRIVILEGED: [&str; 5] = ["weir", "weir-bench", "weir-e2e", "weir-kernel", "weir-testkit"];

/// Builds the `weir` binary.
pub(crate) fn build(workspace: &Workspace, release: bool) -> anyhow::Result<()> {
    setup::for_building()?;
    let mut command = workspace.cargo("build");
    command.args(["--package", "weir"]);
    if release {
        command.arg("--release");
    }
    succeed(command)
}

/// Shows requests going through weir.
pub(crate) fn demo(
    workspace: &Workspace,
    json: bool,
    keep: bool,
    rest: &[OsString],
) -> anyhow::Result<ExitCode> {
    let mut options: Vec<OsString> = Vec::new();
    options.extend(json.then(|| "--json".into()));
    options.extend(keep.then(|| "--keep".into()));
    options.extend_from_slice(rest);
    setup::for_running()?;
    replace_with(e2e_command(workspace, "demo", &options)?)
}

/// Runs the end-to-end tests.
pub(crate) fn e2e(workspace: &Workspace, suites: &[OsString], rest: &[OsString]) -> anyhow::Result<ExitCode> {
    let mut options: Vec<OsString> =
        suites.iter().flat_map(|suite| ["--suite".into(), suite.clone()]).collect();
    options.extend_from_slice(rest);
    setup::for_running()?;
    replace_with(e2e_command(workspace, "run", &options)?)
}

/// Measures the datapath.
pub(crate) fn bench(
    workspace: &Workspace,
    live: bool,
    json: bool,
    rest: &[OsString],
) -> anyhow::Result<ExitCode> {
    setup::for_building()?;
    let programs = workspace.executables(&["weir-bench"], &["weir-bench"])?;
    let mut command = as_root(&programs[0])?;
    command.args(live.then_some("--live")).args(json.then_some("--json")).args(rest);
    replace_with(command)
}

/// Runs every test.
pub(crate) fn test(workspace: &Workspace) -> anyhow::Result<()> {
    setup::for_running()?;
    for command in unit_tests(workspace) {
        succeed(command)?;
    }
    succeed(e2e_command(workspace, "run", &[])?)
}

/// The end-to-end program with weir's binary, both built now, ready to run as root.
pub(crate) fn e2e_command(
    workspace: &Workspace,
    subcommand: &str,
    options: &[OsString],
) -> anyhow::Result<Command> {
    let programs = workspace.executables(&["weir", "weir-e2e"], &["weir", "weir-e2e"])?;
    let mut command = as_root(&programs[1])?;
    command.arg(subcommand).arg("--weir").arg(&programs[0]).args(options).current_dir(&workspace.root);
    Ok(command)
}

/// `cargo test`, in one piece as root, else with the privileged packages apart, their programs run by sudo.
///
/// The fuzz corpora are replayed here too: they are ordinary tests of `weir-testkit`.
pub(crate) fn unit_tests(workspace: &Workspace) -> Vec<Command> {
    if is_root() {
        return vec![workspace.cargo("test")];
    }
    let mut unprivileged = workspace.cargo("test");
    for package in workspace.default_members() {
        if !PRIVILEGED.contains(&package.as_str()) {
            unprivileged.args(["--package", &package]);
        }
    }
    let mut privileged = workspace.cargo("test");
    for package in PRIVILEGED {
        privileged.args(["--package", package]);
    }
    privileged.arg("--config").arg("target.'cfg(unix)'.runner = ['sudo', '-E', '--']");
    vec![unprivileged, privileged]
}

pub(crate) fn succeed(mut command: Command) -> anyhow::Result<()> {
    let program = name(&command);
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} failed ({status}); the reason is above");
    }
    Ok(())
}

/// Becomes `command`, so that signals and the exit code are its own.
fn replace_with(mut command: Command) -> anyhow::Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", name(&command)))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let first = command.get_args().next().unwrap_or_default();
    format!("`{} {}`", program.to_string_lossy(), first.to_string_lossy())
}
