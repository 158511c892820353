//! The listener: connections in, HTTP/2 out.
//!
//! Decides: limits, keepalive, what happens when the process may open no more files, and how a shutdown
//! goes. Never does: look into a call.

use std::convert::Infallible;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::metrics::Open;
use super::service::{self, Connection};

/// How long a peer may take to say its first word, or to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may stay without a single call.
const FIRST_CALL: Duration = Duration::from_secs(60);
/// Pings, as Kuma's server sends them; its clients tolerate no more.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));
/// Calls of one connection at once. A stock zone opens six, a kdsync zone two.
const STREAMS: u32 = 256;
/// What a peer may send unasked, per stream and per connection, in bytes.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);
/// HTTP/2 frames, in bytes.
const FRAME: u32 = 64 * 1024;
/// Headers of one call, in bytes.
const HEADERS: u32 = 16 * 1024;
/// What is held for one stream beyond the frame it is sending, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long streams have to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// A byte stream to a peer.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that may carry HTTP/2.
pub struct Accepted {
    /// Its bytes.
    pub io: Box<dyn Io>,
}

/// Turns a TCP connection into a byte stream; a place for TLS.
#[async_trait]
pub trait Accept: Debug + Send + Sync + 'static {
    /// Waits for the peer's side of the handshake. It is given ten seconds.
    ///
    /// # Errors
    /// If the peer does not shake hands.
    async fn accept(&self, tcp: TcpStream) -> io::Result<Accepted>;
}

/// No encryption.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

#[async_trait]
impl Accept for Plain {
    async fn accept(&self, tcp: TcpStream) -> io::Result<Accepted> {
        // A peer that says nothing must not hold a connection for ever.
        tcp.readable().await?;
        Ok(Accepted { io: Box::new(tcp) })
    }
}

/// Accepts until the token is cancelled, then drains.
pub(super) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    acceptor: Arc<dyn Accept>,
    cancel: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving zones");
    let tasks = TaskTracker::new();
    let room = Arc::new(Semaphore::new(shared.config.max_connections));
    let mut failing = false;
    loop {
        let Ok(permit) = (tokio::select! {
            () = cancel.cancelled() => break,
            permit = room.clone().acquire_owned() => permit,
        }) else {
            break;
        };
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                failing = false;
                let on =
                    Connection { address: peer.to_string(), cancel: cancel.clone(), tasks: tasks.clone() };
                let open = (permit, shared.metrics.connection());
                tasks.spawn(connection(shared.clone(), acceptor.clone(), tcp, on, open));
            }
            Err(error) => {
                // Out of file descriptors, for one: the next try would fail as fast.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "connections cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "connections did not end in time");
    }
    Ok(())
}

async fn connection(
    shared: Arc<Shared>,
    acceptor: Arc<dyn Accept>,
    tcp: TcpStream,
    on: Connection,
    _open: (OwnedSemaphorePermit, Open),
) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(address = on.address, %error, "peer is gone");
        return;
    }
    let accepted = tokio::select! {
        () = on.cancel.cancelled() => return,
        accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)) => accepted,
    };
    let io = match accepted {
        Ok(Ok(accepted)) => accepted.io,
        Ok(Err(error)) => {
            tracing::debug!(address = on.address, %error, "handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(address = on.address, "peer said nothing");
            return;
        }
    };
    let used = Arc::new(AtomicBool::new(false));
    let (cancel, address) = (on.cancel.clone(), on.address.clone());
    let calls = used.clone();
    let service = service_fn(move |request| {
        calls.store(true, Ordering::Relaxed);
        let call = service::call(shared.clone(), on.clone(), request);
        async move { Ok::<_, Infallible>(call.await) }
    });
    let serving = builder().serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        outcome = &mut serving => Some(outcome),
        () = cancel.cancelled() => None,
        () = unused(&used) => None,
    };
    let outcome = match ended {
        Some(outcome) => outcome,
        None => {
            // Says goodbye and lets what is open end.
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(address, %error, "connection ended");
    }
}

/// Returns when a connection had no call for a minute after it was opened; else never.
async fn unused(used: &AtomicBool) {
    tokio::time::sleep(FIRST_CALL).await;
    if used.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_concurrent_streams(STREAMS)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_pending_accept_reset_streams(64)
        .max_send_buf_size(SEND_BUFFER);
    builder
}
