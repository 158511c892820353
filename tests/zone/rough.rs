//! Globals that break the rules: the zone says so, keeps everything, and comes back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kdsync::kds::wire::pb::google::protobuf::Any;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;

use super::rig::{Rig, config, skip};
use super::scripted::{Kind, RETRY, Scripted, any};

#[tokio::test]
async fn a_first_answer_that_never_comes_is_asked_for_again() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    rig.put("local", "x").await;
    let (stream, _) = global.opened("c1").await;
    skip(Duration::from_secs(29)).await;
    assert!(!rig.events().iter().any(|event| event.starts_with("disconnected")));
    skip(Duration::from_secs(2)).await;
    assert!(rig.event("disconnected").await.contains("Secret within 30 s"));
    stream.closed().await;
    skip(RETRY).await;
    assert_eq!(rig.held().await, ["local=x"]);
    let _stream = global.synced("c1", &[("a", "1")]).await;
    rig.holds(&["a=1"]).await;
    rig.stop().await;
}

#[tokio::test]
async fn what_was_not_asked_for_ends_the_stream() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let mut stream = global.synced("c1", &[("a", "1")]).await;
    for (number, ty) in ["Mesh", "Zone", "nonsense"].into_iter().enumerate() {
        stream.answer(ty, Vec::new(), &["a.default"]);
        let told = rig.nth_event(number, "disconnected").await;
        assert!(told.contains("not asked for") && told.contains(ty), "{told}");
        assert_eq!(rig.held().await, ["a=1"]);
        skip(RETRY).await;
        stream = global.opened("c1").await.0;
    }
    // An answer without a nonce cannot be acknowledged.
    let mut nameless = stream.answer_later("Secret", Vec::new());
    nameless.nonce.clear();
    stream.send(nameless);
    assert!(rig.nth_event(3, "disconnected").await.contains("without a nonce"));
    rig.stop().await;
}

#[tokio::test]
async fn a_wrong_payload_is_refused_by_name_or_ends_the_stream() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let mut stream = global.synced("c1", &[("a", "1"), ("b", "2")]).await;
    let (mut wrong, mut broken, mut empty) =
        (stream.secret("a", "x"), stream.secret("b", "x"), stream.secret("c", "x"));
    wrong.resource = Some(any("kuma.mesh.v1alpha1.Mesh", &Any::default()));
    broken.resource.as_mut().unwrap().value = vec![0xff; 9].into();
    empty.resource = None;
    let fine = stream.secret("d", "4");
    let answer = stream.answer("Secret", vec![wrong, broken, empty, fine], &[]);
    let message = stream.nacked(&answer).await;
    for name in ["default/a", "default/b", "default/c"] {
        assert!(message.contains(name), "{message}");
    }
    // The good one is taken, what was held stays, and what is unknown is not swept.
    rig.holds(&["a=1", "b=2", "d=4"]).await;
    let mut nameless = stream.secret("e", "x");
    (nameless.name, nameless.resource) = (String::new(), None);
    stream.answer("Secret", vec![nameless], &[]);
    assert!(rig.event("disconnected").await.contains("no readable name"));
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_over_the_limit_is_told_clearly() {
    let mut global = Scripted::start(Kind::New).await;
    let small = kdsync::zone::Config { max_message: 64 << 10, ..config(&global.url()) };
    let rig = Rig::with(small).await;
    let (mut stream, _) = global.opened("c1").await;
    let big = vec![stream.secret("big", &"x".repeat(100_000))];
    stream.answer("Secret", big, &[]);
    let told = rig.event("disconnected").await;
    assert!(told.contains("65536"), "{told}");
    assert!(rig.held().await.is_empty());
    rig.stop().await;
}

type Body =
    StreamBody<std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

fn body(chunks: Vec<Bytes>, status: Option<&'static str>) -> Body {
    let chunks = tokio_stream::iter(chunks).map(|chunk| Ok(Frame::data(chunk)));
    let end: Box<dyn tokio_stream::Stream<Item = _> + Send> = match status {
        Some(status) => {
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static(status),
            )]);
            Box::new(tokio_stream::once(Ok(Frame::trailers(trailers))))
        }
        None => Box::new(tokio_stream::pending()),
    };
    StreamBody::new(Box::pin(chunks.chain(Box::into_pin(end))))
}

/// A server that answers a sync stream with these bytes; without a status it holds it open.
async fn raw(bytes: &[u8], status: Option<&'static str>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("grpc://{}", listener.local_addr().unwrap());
    let bytes = Arc::new(Bytes::copy_from_slice(bytes));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let bytes = bytes.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let bytes = bytes.clone();
                async move {
                    let health = request.uri().path().ends_with("HealthCheck");
                    let answer = if health {
                        body(vec![Bytes::from_static(&[0; 5])], Some("0"))
                    } else {
                        body(vec![(*bytes).clone()], status)
                    };
                    let answer =
                        http::Response::builder().header("content-type", "application/grpc").body(answer);
                    Ok::<_, Infallible>(answer.unwrap())
                }
            });
            connections.spawn(async move {
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // How a connection ends is the zone's to tell.
                let _ = http2.serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    });
    (address, serving)
}

#[tokio::test]
async fn garbage_ends_the_stream_and_no_more() {
    let cases: [(&[u8], Option<&str>); 7] = [
        (&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff], None),
        (&[9, 0, 0, 0, 1, 0], None),
        (&[1, 0, 0, 0, 4, 1, 2, 3, 4], None),
        (&[0, 0xff, 0xff, 0xff, 0xff], None),
        (&[0, 0, 0, 0, 200, 1, 2], Some("0")),
        (&[], Some("0")),
        (&[], Some("14")),
    ];
    for (bytes, status) in cases {
        let (address, serving) = raw(bytes, status).await;
        let rig = Rig::start(&address).await;
        rig.put("local", "x").await;
        rig.event("disconnected").await;
        assert_eq!(rig.held().await, ["local=x"], "{bytes:?}");
        drop(serving);
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_global_that_dies_in_the_middle_of_an_answer_loses_nothing() {
    let (address, mut serving) = raw(&[0, 0, 0, 4, 0, 10, 3, 1], None).await;
    let rig = Rig::start(&address).await;
    rig.put("local", "x").await;
    rig.event("connected").await;
    serving.shutdown().await;
    rig.event("disconnected").await;
    let mut global = Scripted::on(Kind::New, address.trim_start_matches("grpc://")).await;
    skip(RETRY).await;
    let _stream = global.synced("c1", &[("a", "1")]).await;
    rig.holds(&["a=1"]).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_no_global_is_told_from_one_that_is_absent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("grpc://{}", listener.local_addr().unwrap());
    drop(listener);
    let rig = Rig::start(&address).await;
    assert!(rig.event("disconnected").await.contains("cannot connect to"));
    rig.stop().await;
}
