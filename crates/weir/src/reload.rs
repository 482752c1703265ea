//! `weir reload`: puts an edited configuration into force.

use std::path::PathBuf;
use std::process::ExitCode;

use weir_api::v1::ReloadRequest;

use crate::client::converse;

/// Options of `weir reload`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReloadArgs {
    /// The daemon's runtime directory.
    #[arg(long, default_value = crate::run::RUNTIME_DIR)]
    runtime_dir: PathBuf,
}

/// Runs the command. A configuration that was refused is a failure.
pub(crate) fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let call = async |mut client: weir_api::v1::director_client::DirectorClient<_>| {
        client.reload(ReloadRequest {}).await
    };
    let reply = converse(&args.runtime_dir, call)?.into_inner();
    if !reply.applied {
        eprint!("{}", reply.error);
        eprintln!("The configuration was refused; the old one stays in force.");
        return Ok(ExitCode::FAILURE);
    }
    for warning in &reply.warnings {
        eprintln!("{warning}");
    }
    match reply.steps {
        0 => println!("applied: nothing had to change"),
        steps => println!("applied in {steps} steps"),
    }
    Ok(ExitCode::SUCCESS)
}
