//! A TCP proxy between a zone and its global.
//!
//! Decides: whether bytes pass, or stay where they are while every socket stays open. Never does: close a
//! connection that it has stilled, so both ends must find out by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::world::soon;

pub(crate) struct Proxy {
    address: String,
    line: Arc<Line>,
    _serving: JoinSet<()>,
}

struct Line {
    /// Where global listens.
    to: String,
    passes: watch::Sender<bool>,
    /// How many more bytes pass from global to the zone before everything is stilled.
    left: AtomicUsize,
    /// Connections that reached global.
    carried: AtomicUsize,
}

impl Proxy {
    /// Passes everything.
    pub(crate) async fn to(kds: &str) -> Self {
        Self::for_bytes(kds, usize::MAX).await
    }

    /// Passes so many bytes from global to the zone, and is still from then on.
    pub(crate) async fn for_bytes(kds: &str, left: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let line = Arc::new(Line {
            to: kds.trim_start_matches("grpc://").to_owned(),
            passes: watch::Sender::new(true),
            left: AtomicUsize::new(left),
            carried: AtomicUsize::new(0),
        });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, line.clone()));
        Self { address, line, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// From now on nothing passes. What is open stays open, for good; who connects is accepted and waits.
    pub(crate) fn still(&self) {
        self.line.passes.send_replace(false);
    }

    /// Waits until the bytes that were allowed have passed.
    pub(crate) async fn stilled(&self) {
        let mut passes = self.line.passes.subscribe();
        soon("the proxy is still", passes.wait_for(|passes| !passes)).await.unwrap();
    }

    /// New connections pass again, and those that wait.
    pub(crate) fn pass(&self) {
        self.line.left.store(usize::MAX, Ordering::Relaxed);
        self.line.passes.send_replace(true);
    }

    /// How many connections have reached global.
    pub(crate) fn carried(&self) -> usize {
        self.line.carried.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, line: Arc<Line>) {
    let mut open = JoinSet::new();
    while let Ok((zone, _)) = listener.accept().await {
        open.spawn(carry(zone, line.clone()));
    }
}

async fn carry(mut zone: TcpStream, line: Arc<Line>) {
    let mut passes = line.passes.subscribe();
    if passes.wait_for(|passes| *passes).await.is_err() {
        return;
    }
    // Without a global this connection ends, as it would without a proxy.
    let Ok(mut global) = TcpStream::connect(&line.to).await else { return };
    for end in [&zone, &global] {
        end.set_nodelay(true).unwrap();
    }
    line.carried.fetch_add(1, Ordering::Relaxed);
    let (mut from_zone, mut to_zone) = zone.split();
    let (mut from_global, mut to_global) = global.split();
    tokio::select! {
        biased;
        _ = passes.wait_for(|passes| !passes) => {}
        _ = tokio::io::copy(&mut from_zone, &mut to_global) => return,
        () = down(&mut from_global, &mut to_zone, &line) => return,
    }
    // Both sockets stay as they are.
    std::future::pending::<()>().await;
}

async fn down(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, line: &Line) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let left = line.left.load(Ordering::Relaxed);
        let pass = count.min(left);
        if to.write_all(&buffer[..pass]).await.is_err() {
            return;
        }
        line.left.store(left.saturating_sub(pass), Ordering::Relaxed);
        if left <= count {
            line.passes.send_replace(false);
            std::future::pending::<()>().await;
        }
    }
}
