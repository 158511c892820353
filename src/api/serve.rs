//! Connections: HTTP/1.1 and HTTP/2 on one port.
//!
//! Decides: how many connections are served at once, how long a client may take to say something, and
//! how they end on shutdown. Never does: look into a request.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How much connections may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Served at once; more wait in the kernel's queue.
    pub at_once: usize,
    /// How long a client may take to send the head of a request.
    pub head_timeout: Duration,
    /// How long requests in hand may take to end on shutdown.
    pub drain: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self { at_once: 1_024, head_timeout: Duration::from_secs(10), drain: Duration::from_secs(5) }
    }
}

/// In the extensions of each request: cancelled when the server stops, so that a request that waits for
/// something ends.
#[derive(Clone, Debug)]
pub(super) struct Stopping(pub(super) CancellationToken);

/// Pause after a failed accept, so that a lack of descriptors does not become a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until cancelled, then lets requests in hand end.
///
/// # Errors
/// None at present: a connection that fails ends alone.
pub async fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) -> std::io::Result<()> {
    serve_with(listener, router, Connections::default(), cancel).await
}

/// [`serve`] with other limits.
///
/// # Errors
/// None at present: a connection that fails ends alone.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    limits: Connections,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.at_once));
    let graceful = GracefulShutdown::new();
    let stopping = Stopping(cancel.clone());
    let builder = builder(limits.head_timeout);
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            () = cancel.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection =
            connection(&builder, &graceful, (limits, stopping.clone()), accepted, router.clone());
        connections.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(limits.drain, graceful.shutdown()).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut off at shutdown");
    }
    connections.shutdown().await;
    Ok(())
}

fn builder(head_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(64 * 1024);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    http2.max_concurrent_streams(128).max_header_list_size(64 * 1024);
    builder
}

fn connection(
    builder: &Builder<TokioExecutor>,
    graceful: &GracefulShutdown,
    (limits, stopping): (Connections, Stopping),
    (stream, address): (TcpStream, SocketAddr),
    router: Router,
) -> impl Future<Output = ()> + Send + 'static {
    let for_requests = stopping.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(address));
        request.extensions_mut().insert(for_requests.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(into_response(router.oneshot(request).await)) }
    });
    let builder = builder.clone();
    let watcher = graceful.watcher();
    async move {
        // Before the first byte the protocol is unknown and hyper's own timer does not run.
        let mut byte = [0];
        let first = tokio::select! {
            () = stopping.0.cancelled() => return,
            first = tokio::time::timeout(limits.head_timeout, stream.peek(&mut byte)) => first,
        };
        if !matches!(first, Ok(Ok(1))) {
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay not set");
        }
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, %address, "connection ended");
        }
    }
}

fn into_response(outcome: Result<axum::response::Response, Infallible>) -> axum::response::Response {
    match outcome {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
