//! Serves the API on an address, and on a socket in the node's folder that only its owner can open.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::guard::{Guard, guard};
use super::problem::Problem;
use super::reading::Reading;

/// The longest path of a socket (unix(7): 108 bytes, of which the last is zero).
const MOST_PATH: usize = 107;
/// Concurrent connections on each of the two. Further ones wait to be accepted.
const CONNECTIONS: usize = 64;
/// The timeout of a request, and of the start of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be idle, or take to send its headers.
const HEADERS: Duration = Duration::from_secs(10);
/// How long a client may acknowledge or take nothing of what was written to it.
#[cfg(target_os = "linux")]
const LOST: Duration = Duration::from_secs(30);
/// Bytes of a request's line and headers, and of the read buffer.
const BUFFER: usize = 16 << 10;
/// The most headers of a request.
const MOST_HEADERS: usize = 64;
/// The pause after the system could not accept a connection.
const REST: Duration = Duration::from_millis(100);

/// The socket of a node; dropping it removes its file.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If it stays, the next process takes it over.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at a socket. A stale one, on which nobody answers, is taken over.
pub(crate) fn socket(path: &Path) -> anyhow::Result<Socket> {
    let name = || path.display().to_string();
    // Do not follow symbolic links, which may lead to files of others.
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{}: this is no socket, and stays as it is: name another path", name());
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("{}: another process answers here: stop it first", name());
        }
        Ok(_) => std::fs::remove_file(path).with_context(name)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(name),
    }
    if path.as_os_str().len() > MOST_PATH {
        let length = path.as_os_str().len();
        bail!(
            "{}: {length} bytes, and a socket's path has {MOST_PATH} at most: name a shorter one with --control",
            name()
        );
    }
    let listener = UnixListener::bind(path).with_context(name)?;
    let socket = Socket { listener, path: path.to_owned() };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(name)?;
    Ok(socket)
}

/// Listens at an address.
pub(crate) async fn address(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(at).await;
    listener.with_context(|| format!("the API at {at} (choose another with --api, or `off`)"))
}

/// Serves the API on the socket, for ever.
pub(crate) async fn at_socket(socket: &Socket, router: Router) {
    serve(router, async || Ok(socket.listener.accept().await?.0)).await;
}

/// Serves the API on the address, for ever, under its rules.
pub(crate) async fn at_address(listener: TcpListener, router: Router, rules: Arc<Guard>) {
    let router = router.layer(from_fn_with_state(rules, guard));
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        // Events are small and should arrive at once; a failure only delays them.
        let _ = stream.set_nodelay(true);
        give_up_lost(&stream);
        Ok(stream)
    };
    serve(router, accept).await;
}

/// Limits how long a client keeps its place after its network is gone: otherwise unacknowledged
/// data waits in the system for a quarter of an hour.
fn give_up_lost(stream: &tokio::net::TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, LOST.as_millis() as u32)
    {
        tracing::debug!("clients that are lost are noticed late: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

async fn serve<S>(router: Router, accept: impl AsyncFn() -> std::io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = router.layer(from_fn(patience));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match accept().await {
            Ok(stream) => connection(stream, router.clone(), place),
            // A failure of one connection, or of the system for a moment.
            Err(error) => {
                tracing::debug!("the API cannot accept a connection: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    place: tokio::sync::OwnedSemaphorePermit,
) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(MOST_HEADERS)
        .max_buf_size(BUFFER);
    tokio::spawn(async move {
        let stream = TokioIo::new(Reading::new(stream));
        let served = http.serve_connection(stream, TowerToHyperService::new(router));
        if let Err(error) = served.await {
            tracing::debug!("a connection of the API: {error}");
        }
        drop(place);
    });
}

/// Ends requests that take too long to arrive or to be answered.
async fn patience(request: Request, next: Next) -> Response {
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable(format!("no answer within {PATIENCE:?}")).into_response(),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Regression: 16 clients whose network was gone kept all places for events for a quarter of an
    /// hour.
    #[tokio::test]
    async fn lost_clients_time_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let _client = connecting.await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        give_up_lost(&stream);
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&stream), Ok(30_000));
    }
}
