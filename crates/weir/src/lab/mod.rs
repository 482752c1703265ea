//! `weir lab`: network namespaces to try weir in.

use std::process::ExitCode;

/// Options of `weir lab`.
#[derive(Debug, clap::Args)]
pub(crate) struct LabArgs {}

/// Runs the command.
pub(crate) fn run(_args: LabArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`weir lab` is not built yet")
}
