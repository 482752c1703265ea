//! `weir respond`: a small HTTP responder for the lab.

use std::process::ExitCode;

/// Options of `weir respond`.
#[derive(Debug, clap::Args)]
pub(crate) struct RespondArgs {}

/// Runs the command.
pub(crate) fn run(_args: RespondArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`weir respond` is not built yet")
}
