//! Calling the daemon.
//!
//! Owns: the connection. May not touch: what is asked and answered.

use std::future::Future;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use weir_api::v1::director_client::DirectorClient;

use crate::advice::Advise as _;

/// Connects to the daemon whose runtime directory this is, and has a conversation with it.
pub(crate) fn converse<T, F: Future<Output = Result<T, Status>>>(
    runtime_dir: &Path,
    conversation: impl FnOnce(DirectorClient<Channel>) -> F,
) -> anyhow::Result<T> {
    let socket = runtime_dir.join(weir_api::SOCKET);
    let doing = || format!("cannot reach the director at {}", socket.display());
    // The transport's own errors hide the reason; this is it.
    if let Err(error) = std::os::unix::net::UnixStream::connect(&socket) {
        let advice = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run this as root, for instance with sudo",
            _ => "start one with `weir run`, or name its directory with --runtime-dir",
        };
        return Err(anyhow!(error).context(doing())).advise(advice);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).with_context(doing)?;
        let channel = endpoint.connect().await.with_context(doing)?;
        // Status reports of thousands of backends are larger than the default of 4 MiB.
        let client = DirectorClient::new(channel).max_decoding_message_size(64 << 20);
        conversation(client).await.map_err(|status| anyhow!("the director answers: {}", status.message()))
    })
}
