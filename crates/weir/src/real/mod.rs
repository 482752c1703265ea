//! `weir real`: what a real server needs.

use std::process::ExitCode;

/// Options of `weir real`.
#[derive(Debug, clap::Args)]
pub(crate) struct RealArgs {}

/// Runs the command.
pub(crate) fn run(_args: RealArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`weir real` is not built yet")
}
