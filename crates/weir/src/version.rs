//! `weir version`: which weir this is, and which one runs.

use std::path::PathBuf;
use std::process::ExitCode;

use weir_api::v1::{VersionReply, VersionRequest};

use crate::client::converse;

/// Options of `weir version`.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// The runtime directory of the daemon to ask as well.
    #[arg(long, default_value = crate::run::RUNTIME_DIR)]
    runtime_dir: PathBuf,
}

/// Runs the command. That no daemon runs is no failure.
pub(crate) fn run(args: &VersionArgs) -> ExitCode {
    println!("weir {}", text(&crate::run::version()));
    let call = async |mut client: weir_api::v1::director_client::DirectorClient<_>| {
        client.version(VersionRequest {}).await
    };
    if let Ok(reply) = converse(&args.runtime_dir, call) {
        let reply = reply.into_inner();
        println!("director {} (process {})", text(&reply), reply.pid);
    }
    ExitCode::SUCCESS
}

fn text(version: &VersionReply) -> String {
    format!("{} (tables: ABI {})", version.version, version.abi_version)
}
