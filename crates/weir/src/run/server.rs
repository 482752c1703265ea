//! The API's server: from a gRPC call to a message to the loop, and back.
//!
//! Owns: the socket and the service. May not touch: the director; everything it knows it asks the loop for.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use weir_api::v1::director_server::{Director, DirectorServer};
use weir_api::v1::{ReloadReply, ReloadRequest, StatusReply, StatusRequest, VersionReply, VersionRequest};

/// What a call asks of the loop.
pub(super) enum Call {
    Reload(oneshot::Sender<ReloadReply>),
    Status(oneshot::Sender<Result<StatusReply, String>>),
}

/// Makes the socket. The runtime directory is locked: whatever socket is there is a dead process's.
pub(super) fn bind(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    let make = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        // The directory is closed to others (0700), so there is no moment in which they could connect.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    make().with_context(|| format!("cannot make the API's socket {}", path.display()))
}

/// Serves until the process ends. Needs a runtime.
pub(super) fn spawn(listener: std::os::unix::net::UnixListener) -> anyhow::Result<mpsc::Receiver<Call>> {
    let (calls, receiver) = mpsc::channel(16);
    let incoming = UnixListenerStream::new(UnixListener::from_std(listener).context("cannot serve the API")?);
    let server = tonic::transport::Server::builder()
        .add_service(DirectorServer::new(Api { calls }))
        .serve_with_incoming(incoming);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the API's server stopped");
        }
    });
    Ok(receiver)
}

/// Which weir this is.
pub(crate) fn version() -> VersionReply {
    VersionReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi_version: weir_abi::ABI_VERSION,
        pid: std::process::id(),
    }
}

struct Api {
    calls: mpsc::Sender<Call>,
}

impl Api {
    async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        let stopping = || Status::unavailable("the director is stopping");
        self.calls.send(call(sender)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

#[tonic::async_trait]
impl Director for Api {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionReply>, Status> {
        Ok(Response::new(version()))
    }
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.ask(Call::Status).await?.map(Response::new).map_err(Status::internal)
    }
    async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadReply>, Status> {
        self.ask(Call::Reload).await.map(Response::new)
    }
}
