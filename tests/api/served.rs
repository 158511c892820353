//! Connections: both protocols, limits, shutdown, diagnostics.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kdsync::api::diagnostics::{self, Readiness};
use kdsync::api::{Connections, serve_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::global;

struct Running {
    address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

async fn start(router: Router) -> Running {
    start_with(router, Connections::default()).await
}

#[expect(clippy::disallowed_methods, reason = "the test joins the task")]
async fn start_with(router: Router, limits: Connections) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(serve_with(listener, router, limits, cancel.clone()));
    Running { address, cancel, task }
}

#[tokio::test]
async fn both_protocols_on_one_port_and_a_clean_end() {
    let running = start(global().router).await;
    for http2 in [false, true] {
        let client: Client<_, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        let uri = format!("http://{}/", running.address).parse().unwrap();
        let response = client.get(uri).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.version() == Version::HTTP_2, http2);
    }
    running.cancel.cancel();
    running.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn the_actor_is_the_peer_and_next_pages_name_the_host() {
    let server = global();
    for name in ["a", "b"] {
        server.put("default", name, "YQ==").await;
    }
    let running = start(server.router.clone()).await;
    for http2 in [false, true] {
        let client: Client<_, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        let uri = format!("http://{}/secrets?size=1", running.address).parse().unwrap();
        let body = client.get(uri).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let page: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let next = format!("http://{}/secrets?offset=1&size=1", running.address);
        assert_eq!(page["next"], next);
    }
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::delete(format!("http://{}/meshes/default/secrets/a", running.address));
    client.request(request.body(Empty::new()).unwrap()).await.unwrap();
    let served = server.store.served(None).await.unwrap().unwrap();
    assert_eq!(served.tombstones[0].by, "api 127.0.0.1");
    running.cancel.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_is_one_answer_and_not_the_end() {
    // A handler that panics behind the layers of the real router.
    let broken = Router::new().route("/", get(|| async { panic!("oh") as () }));
    let running = start(broken.layer(tower_http::catch_panic::CatchPanicLayer::new())).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 500"), "{text}");
    running.cancel.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_says_nothing_is_cut_off_while_others_are_served() {
    let limits = Connections { head_timeout: Duration::from_millis(50), ..Connections::default() };
    let running = start_with(global().router, limits).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let mut half = TcpStream::connect(running.address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    let mut good = TcpStream::connect(running.address).await.unwrap();
    good.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    good.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    // Both end because the server closes them.
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    half.read_to_end(&mut rest).await.unwrap();
    running.cancel.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn stopping_ends_those_who_wait_or_say_nothing() {
    let server = global();
    let mut running = start(server.router.clone()).await;
    let _silent = TcpStream::connect(running.address).await.unwrap();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{}/kdsync/events?wait=30", running.address).parse().unwrap();
    let waiting = async {
        let response = client.get(uri).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    };
    let stop = async {
        // The request waits once the server follows the events.
        while server.telemetry.events.followers() == 0 {
            tokio::task::yield_now().await;
        }
        running.cancel.cancel();
        (&mut running.task).await.unwrap().unwrap();
    };
    tokio::join!(waiting, stop);
}

#[tokio::test]
async fn diagnostics_tell_health_readiness_and_metrics() {
    let (ready, readiness) = watch::channel(false);
    let mut server = global();
    server.router = diagnostics::router(server.telemetry.clone(), Readiness::from(readiness));
    assert_eq!(server.get("/healthy").await.status, StatusCode::OK);
    assert_eq!(server.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    ready.send_replace(true);
    assert_eq!(server.get("/ready").await.status, StatusCode::OK);
    let metrics = server.get("/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.text.ends_with("# EOF\n"));
    assert_eq!(server.get("/nosuch").await.error().0, 404);
}
