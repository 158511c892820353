//! Peers that break the rules: each is answered clearly, costs little and hurts nobody else.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kdsync::global::{Admit, Config};
use kdsync::kds::wire::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1 as kuma;
use kuma::ZoneHealthCheckRequest;
use kuma::global_kds_service_client::GlobalKdsServiceClient;
use kuma::kds_sync_service_client::KdsSyncServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use super::peer::{Looks, Peer, channel, names};
use super::rig::{Rig, soon};

const SYNC: &str = "/kuma.mesh.v1alpha1.KDSSyncService/GlobalToZoneSync";

async fn rig() -> Rig {
    Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await
}

/// A well-behaved zone is served.
async fn others_are_served(rig: &Rig) {
    let mut zone = Peer::open(rig, &Looks::stock("healthy")).await;
    zone.subscribe("Config").await;
    assert_eq!(zone.take().await.resources.len(), 1);
}

/// Posts raw bytes and returns the gRPC status, wherever it stands.
async fn post(rig: &Rig, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Option<i32>) {
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut request = http::Request::post(format!("http://{}{path}", rig.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let response = soon(client.request(request)).await.unwrap();
    let (head, body) = response.into_parts();
    let trailers = soon(body.collect()).await.unwrap().trailers().cloned().unwrap_or_default();
    let status = head.headers.get("grpc-status").or(trailers.get("grpc-status"));
    (head.status.as_u16(), status.map(|status| status.to_str().unwrap().parse().unwrap()))
}

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("client-id", "east")];

#[tokio::test]
async fn without_a_client_id_the_answer_is_kumas() {
    let rig = rig().await;
    let nobody = Looks::nobody();
    let mut sync = KdsSyncServiceClient::new(channel(&rig).await);
    let down = soon(sync.global_to_zone_sync(nobody.on(tokio_stream::pending()))).await.unwrap_err();
    assert_eq!((down.code(), down.message()), (Code::Unknown, "\"client-id\" is not present in metadata"));
    let up = soon(sync.zone_to_global_sync(nobody.on(tokio_stream::pending()))).await.unwrap_err();
    assert_eq!(up.code(), Code::Unknown);
    let mut service = GlobalKdsServiceClient::new(channel(&rig).await);
    let health = soon(service.health_check(nobody.on(ZoneHealthCheckRequest {}))).await.unwrap_err();
    assert_eq!(health.code(), Code::InvalidArgument);
    let admin = soon(service.stream_stats(nobody.on(tokio_stream::pending()))).await.unwrap_err();
    assert_eq!(admin.code(), Code::InvalidArgument);
    for bad in ["UPPER", "a b", "-", &"x".repeat(300)] {
        let looks = Looks { metadata: vec![("client-id", bad.to_owned())], gzip: false };
        let refused = Peer::try_open(&rig, &looks).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad}");
    }
    assert!(rig.directory.zones().is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn garbage_ends_its_own_stream_with_an_error() {
    let rig = rig().await;
    let mut cases: Vec<Vec<u8>> = vec![
        vec![9, 0, 0, 0, 1, 0],
        vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff],
        vec![0, 0xff, 0xff, 0xff, 0xff],
        vec![1, 0, 0, 0, 1, 0],
        vec![0, 0, 0, 0, 200, 1],
        Vec::new(),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    cases.extend((0..50).map(|_| (0..random.usize(1..200)).map(|_| random.u8(..)).collect()));
    for body in cases {
        let (http, grpc) = post(&rig, SYNC, &GRPC, &body).await;
        assert_eq!(http, 200);
        assert_ne!(grpc.unwrap(), 0, "{body:?}");
    }
    others_are_served(&rig).await;
    rig.stop().await;
}

#[tokio::test]
async fn what_is_no_such_call_is_refused() {
    let rig = rig().await;
    let unimplemented = Some(Code::Unimplemented as i32);
    assert_eq!(post(&rig, "/no.Such/Method", &GRPC, b"").await, (200, unimplemented));
    let zstd = [GRPC[0], GRPC[1], ("grpc-encoding", "zstd")];
    assert_eq!(post(&rig, SYNC, &zstd, b"").await, (200, unimplemented));
    assert_eq!(post(&rig, SYNC, &[("content-type", "application/json")], b"{}").await.0, 415);
    // HTTP/1 and noise on the port.
    for noise in
        [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0; 64], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense"]
    {
        let mut tcp = TcpStream::connect(rig.address).await.unwrap();
        tcp.write_all(noise).await.unwrap();
        let mut answer = Vec::new();
        // Closed by the other side, with or without a word.
        let _ = soon(tcp.read_to_end(&mut answer)).await;
    }
    others_are_served(&rig).await;
    rig.stop().await;
}

#[tokio::test]
async fn odd_requests_are_met_with_silence() {
    let rig = rig().await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    for n in 0..300 {
        zone.subscribe(&format!("Stranger{n}")).await;
    }
    zone.subscribe("Mesh").await;
    zone.subscribe("").await;
    zone.subscribe("Zone").await;
    zone.subscribe("Secret").await;
    let first = zone.next().await;
    assert_eq!(first.type_url, "Secret");
    // A nonce that was never sent, an "ACK" without a nonce, a second subscription.
    let stale = DeltaDiscoveryRequest {
        type_url: "Secret".into(),
        response_nonce: "S99.1.0".into(),
        ..DeltaDiscoveryRequest::default()
    };
    zone.send(stale).await;
    zone.send(DeltaDiscoveryRequest { type_url: "Secret".into(), ..DeltaDiscoveryRequest::default() }).await;
    zone.subscribe("Secret").await;
    zone.ack(&first).await;
    zone.ack(&first).await;
    zone.subscribe("Config").await;
    assert_eq!(zone.take().await.type_url, "Config");
    rig.secret("a", "1").await;
    assert_eq!(names(&zone.take().await), ["a.default"]);
    let stale = rig.metric(r#"kds_delta_requests_received_total{confirmation="stale"}"#);
    let unknown = rig.metric(r#"kds_delta_requests_received_total{confirmation="unknown-type"}"#);
    assert_eq!((stale, unknown), (2, 303));
    rig.stop().await;
}

#[tokio::test]
async fn a_nack_in_a_loop_gets_few_answers() {
    let rig = rig().await;
    rig.secret("a", "1").await;
    for looks in [Looks::stock("new"), Looks::old_stock("old")] {
        let mut zone = Peer::open(&rig, &looks).await;
        zone.subscribe("Secret").await;
        let first = zone.next().await;
        for _ in 0..200 {
            zone.nack(&first, "no,\nnever").await;
        }
        // Config is answered; no second Secret came before it.
        zone.subscribe("Config").await;
        assert_eq!(zone.next().await.type_url, "Config");
    }
    let zone = rig.zone("new", |zone| !zone.warnings.is_empty()).await;
    assert!(zone.warnings[0].contains("no, never"), "{zone:?}");
    assert_eq!(rig.metric(r#"kds_nack_total{zone_name="new",resource_type="Secret"}"#), 1);
    assert_eq!(rig.metric(r#"kds_delta_responses_sent_total{resource_type="Secret"}"#), 2);
    rig.stop().await;
}

#[tokio::test]
async fn who_does_not_read_stalls_nobody() {
    let rig = rig().await;
    for n in 0..40 {
        rig.secret(&format!("s{n}"), &"x".repeat(100_000)).await;
    }
    let deaf = Peer::open(&rig, &Looks { gzip: false, ..Looks::stock("deaf") }).await;
    deaf.subscribe("Secret").await;
    deaf.subscribe("GlobalSecret").await;
    for _ in 0..1_000 {
        deaf.subscribe("Secret").await;
        deaf.subscribe("Mesh").await;
    }
    let ignored = || rig.metric(r#"kds_delta_requests_received_total{confirmation="ignored"}"#);
    soon(super::rig::eventually(|| ignored() == 1_000)).await;
    others_are_served(&rig).await;
    rig.stop().await;
}

#[tokio::test]
async fn silent_connections_stall_nobody() {
    let rig = Rig::with(Config { max_connections: 20, admit: Admit::Auto, ..Config::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }
    // One that began a stream and then went without a word.
    let half = Peer::open(&rig, &Looks::stock("half")).await;
    others_are_served(&rig).await;
    drop(half);
    rig.stop().await;
}

#[tokio::test]
async fn a_zone_that_closes_its_side_is_told_to_come_back() {
    let rig = rig().await;
    let mut sync = KdsSyncServiceClient::new(channel(&rig).await);
    let once = tokio_stream::once(super::peer::subscription(None, "Config"));
    let mut answers =
        soon(sync.global_to_zone_sync(Looks::stock("east").on(once))).await.unwrap().into_inner();
    let end = loop {
        match soon(answers.message()).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    rig.zone("east", |zone| !zone.connected).await;
    rig.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_who_does_not_listen() {
    let rig = rig().await;
    rig.secret("a", &"x".repeat(1_000_000)).await;
    let deaf = Peer::open(&rig, &Looks { gzip: false, ..Looks::stock("deaf") }).await;
    deaf.subscribe("Secret").await;
    rig.zone("deaf", |zone| zone.connected).await;
    rig.cancel();
    rig.stop().await;
    drop(deaf);
}
