//! Between two kdsync ends: the link, pushback, and the loss of a stream.

use std::time::Duration;

use tonic::{Code, Status};

use super::rig::{Rig, soon};
use super::scripted::{Kind, Scripted};

#[tokio::test]
async fn what_happens_is_reported_with_its_name() {
    // A kdsync global may be followed by its identity alone, so a real one answers here.
    use kdsync::store::embedded::{self, EmbeddedConfig};
    let store = embedded::open(&EmbeddedConfig::memory()).unwrap();
    let telemetry = kdsync::telemetry::Telemetry::default();
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut tasks = kdsync::supervisor::Tasks::new(cancel.clone());
    let global =
        kdsync::global::Global::start(kdsync::global::Config::default(), store, &telemetry, &mut tasks);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let directory = global.directory();
    let mut news = telemetry.events.follow();
    let token = cancel.clone();
    tasks.spawn("kds", async move { Ok(global.serve(listener, token).await?) });
    let rig = Rig::start(&format!("grpc://{address}")).await;
    rig.put("local", "x").await;
    rig.event("swept Secret default/local").await;
    let told = loop {
        let event = soon(news.recv()).await.unwrap();
        if event.kind == "swept" {
            break event;
        }
    };
    assert_eq!(
        (told.zone.as_str(), told.resource.unwrap().to_string().as_str()),
        ("east", "Secret default/local")
    );
    let status = directory.zone("east").unwrap();
    assert_eq!(status.api_address, "http://127.0.0.1:6681");
    rig.stop().await;
    cancel.cancel();
    soon(tasks.run()).await.unwrap();
}

#[tokio::test]
async fn reports_carry_names_and_are_sent_until_they_arrive() {
    let mut global = Scripted::start(Kind::Kdsync).await;
    let rig = Rig::start(&global.url()).await;
    let (stream, _) = global.opened("").await;
    let first = soon(global.reports.recv()).await.unwrap();
    assert_eq!((first.instance.as_str(), first.api_address.as_str()), ("here-1a2b", "http://127.0.0.1:6681"));
    assert_eq!(first.reached.len(), 2);
    // An answer that cannot be: it is no kdsync answer.
    let mut stream = stream;
    let one = vec![stream.secret("a", "1")];
    stream.answer("Secret", one, &[]);
    assert!(rig.event("disconnected").await.contains("without an identity"));
    assert!(rig.held().await.is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn a_peer_that_asks_for_a_pause_gets_it() {
    let mut global = Scripted::start(Kind::Kdsync).await;
    let rig = Rig::start(&global.url()).await;
    let (stream, _) = global.opened("").await;
    let mut status = Status::resource_exhausted("another instance serves this zone");
    status.metadata_mut().insert("grpc-retry-pushback-ms", "45000".parse().unwrap());
    stream.end(status);
    let told = rig.event("disconnected").await;
    assert!(told.contains("45.0 s") && told.contains("ResourceExhausted"), "{told}");
    super::rig::skip(Duration::from_secs(44)).await;
    assert!(global.try_stream().is_none());
    super::rig::skip(Duration::from_secs(2)).await;
    global.stream().await;
    rig.stop().await;
}

#[tokio::test]
async fn whatever_ends_a_stream_nothing_is_lost() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let stream = global.synced("c1", &[("a", "1")]).await;
    let mut last = Some(stream);
    let codes = [Code::Unavailable, Code::Internal, Code::Cancelled, Code::Aborted, Code::Unknown];
    for (number, code) in codes.into_iter().enumerate() {
        last.take().unwrap().end(Status::new(code, "because"));
        assert!(rig.nth_event(number, "disconnected").await.contains("because"));
        assert_eq!(rig.held().await, ["a=1"]);
        super::rig::skip(super::scripted::RETRY).await;
        last = Some(global.opened("c1").await.0);
    }
    // Ended with OK: opened again all the same.
    drop(last);
    rig.nth_event(5, "disconnected").await;
    rig.stop().await;
}
