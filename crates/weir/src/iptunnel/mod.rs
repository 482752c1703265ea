//! `weir iptunnel`: the Linux sample's program as a drop-in.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command with the sample's options.
pub(crate) fn main(_args: impl Iterator<Item = OsString>) -> ExitCode {
    eprintln!("error: `weir iptunnel` is not built yet");
    ExitCode::FAILURE
}
