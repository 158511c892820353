//! What unmodified Kuma zones need, line by line.

use kdsync::core::{Key, Labels, Resource, Spec, StoreId, Timestamp, ZoneSpec};
use kdsync::global::{Admit, Config};
use kdsync::kds::wire::pb::envoy::service::discovery::v3 as xds;
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1 as kuma;
use kuma::ZoneHealthCheckRequest;
use kuma::global_kds_service_client::GlobalKdsServiceClient;
use kuma::kds_sync_service_client::KdsSyncServiceClient;
use kuma::multiplex_service_client::MultiplexServiceClient;
use tonic::Code;

use super::peer::{Looks, Peer, channel, content, golden, golden_looks, names, unwrap, value};
use super::rig::{Rig, eventually, put, soon};

const SIGNING_KEY: &[u8] = include_bytes!("../conformance/signing-key.pem");

/// What was at the recorded global.
async fn recorded(rig: &Rig) {
    rig.secret("alpha", "alpha value").await;
    rig.put(Key::secret("default", "beta"), &[0, 1, 2, 3, 0xff]).await;
    rig.put(Key::global_secret("gamma"), b"gamma").await;
}

#[tokio::test]
async fn a_recorded_2_14_3_zone_gets_what_its_own_global_sent() {
    let rig = Rig::start().await;
    recorded(&rig).await;
    rig.admit("golden").await;
    let mut zone = Peer::open(&rig, &golden_looks("kuma-2.14.3", true)).await;
    assert_eq!(zone.headers.get("grpc-encoding").unwrap(), "gzip");
    assert_eq!(zone.headers.get("features").unwrap(), "kdsync-1");
    for ty in ["Mesh", "Secret", "GlobalSecret", "Config"] {
        zone.send(golden(&format!("kuma-2.14.3/zone/{ty}.first.bin"))).await;
    }
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(zone.take().await);
    }
    answers.sort_by(|a, b| a.type_url.cmp(&b.type_url));
    let types: Vec<_> = answers.iter().map(|answer| answer.type_url.as_str()).collect();
    assert_eq!(types, ["Config", "GlobalSecret", "Secret"], "and nothing about Mesh");
    for answer in &answers {
        assert_eq!(answer.control_plane.as_ref().unwrap().identifier, "global");
        assert_eq!(answer.system_version_info, "");
        assert!(!answer.nonce.is_empty());
        assert!(answer.removed_resources.is_empty());
        for resource in &answer.resources {
            assert_eq!(resource.version.len(), 64);
            let meta = unwrap(resource).meta.unwrap();
            assert_eq!(meta.labels["kuma.io/origin"], "global");
            assert_eq!(meta.version, "");
        }
    }
    let theirs: xds::DeltaDiscoveryResponse = golden("kuma-2.14.3/global/Secret.first.bin");
    assert_eq!(content(&answers[2]), content(&theirs));
    let cluster = (String::from("kuma-cluster-id."), rig.store.identity().id.to_string().into_bytes());
    assert_eq!(content(&answers[0]), [cluster]);
    assert_eq!(content(&answers[1]), [("gamma.".to_owned(), b"gamma".to_vec())]);

    rig.secret("alpha", "changed").await;
    let next = zone.take().await;
    let theirs: xds::DeltaDiscoveryResponse = golden("kuma-2.14.3/global/Secret.next1.bin");
    assert_eq!((content(&next), next.removed_resources), (content(&theirs), theirs.removed_resources));
    rig.delete(Key::secret("default", "beta")).await;
    let next = zone.take().await;
    let theirs: xds::DeltaDiscoveryResponse = golden("kuma-2.14.3/global/Secret.next2.bin");
    assert_eq!((content(&next), next.removed_resources), (content(&theirs), theirs.removed_resources));
    rig.delete(Key::global_secret("gamma")).await;
    assert_eq!(zone.take().await.removed_resources, ["gamma."]);
    rig.stop().await;
}

#[tokio::test]
async fn a_recorded_2_2_9_zone_gets_the_types_it_can_take() {
    let rig = Rig::start().await;
    recorded(&rig).await;
    rig.put(Key::global_secret("zone-token-signing-key-1"), SIGNING_KEY).await;
    rig.admit("golden").await;
    let mut zone = Peer::open(&rig, &golden_looks("kuma-2.2.9", false)).await;
    assert!(zone.headers.get("grpc-encoding").is_none(), "it did not ask for gzip");
    zone.send(golden("kuma-2.2.9/zone/Mesh.first.bin")).await;
    zone.send(golden("kuma-2.2.9/zone/GlobalSecret.first.bin")).await;
    let answer = zone.take().await;
    assert_eq!(names(&answer), ["zone-token-signing-public-key-1."], "other GlobalSecrets it would delete");
    let public = String::from_utf8(value(&unwrap(&answer.resources[0]))).unwrap();
    assert!(public.starts_with("-----BEGIN RSA PUBLIC KEY-----"));
    zone.send(golden("kuma-2.2.9/zone/Secret.first.bin")).await;
    let theirs: xds::DeltaDiscoveryResponse = golden("kuma-2.2.9/global/Secret.first.bin");
    let their_values: Vec<_> = theirs.resources.iter().map(|r| value(&unwrap(r))).collect();
    let mut ours: Vec<_> = content(&zone.take().await).into_iter().map(|(_, value)| value).collect();
    ours.sort_by_key(|value| !their_values.starts_with(std::slice::from_ref(value)));
    assert_eq!(ours, their_values);
    rig.stop().await;
}

#[tokio::test]
async fn the_first_answer_is_whole_even_when_empty() {
    let rig = Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe("Secret").await;
    let answer = zone.take().await;
    assert_eq!((answer.type_url.as_str(), answer.resources.len()), ("Secret", 0));
    rig.secret("a", "1").await;
    assert_eq!(names(&zone.take().await), ["a.default"]);
    rig.stop().await;
}

#[tokio::test]
async fn one_answer_is_in_flight_until_it_is_acknowledged() {
    let rig = Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe("Secret").await;
    let first = zone.next().await;
    for n in 0..5 {
        rig.secret(&format!("s{n}"), "v").await;
    }
    // Config is answered at once; of Secret nothing comes before the ACK.
    zone.subscribe("Config").await;
    assert_eq!(zone.next().await.type_url, "Config");
    zone.ack(&first).await;
    assert_eq!(names(&zone.take().await).len(), 5);
    rig.zone("east", |zone| zone.types.values().any(|ty| ty.counters.responses_acknowledged == 2)).await;
    rig.stop().await;
}

#[tokio::test]
async fn nothing_secret_goes_to_a_stock_zone_before_it_is_admitted() {
    let rig = Rig::start().await;
    rig.secret("a", "1").await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe("Secret").await;
    zone.subscribe("GlobalSecret").await;
    zone.subscribe("Config").await;
    assert_eq!(zone.take().await.type_url, "Config");
    let status = rig.zone("east", |zone| !zone.warnings.is_empty()).await;
    assert!(!status.admitted);
    assert!(status.warnings[0].contains("kdsync zone admit east"), "{status:?}");
    assert!(rig.directory.warnings()[0].contains("east"));
    assert_eq!(rig.zone_row("east").await.unwrap().admitted_by, None, "made at first contact, not marked");

    rig.admit("east").await;
    let mut types = [zone.take().await.type_url, zone.take().await.type_url];
    types.sort();
    assert_eq!(types, ["GlobalSecret", "Secret"]);
    let status = rig.zone("east", |zone| zone.admitted).await;
    assert!(status.warnings.is_empty(), "{status:?}");
    assert!(rig.events().contains(&"unadmitted".to_owned()));
    rig.stop().await;
}

#[tokio::test]
async fn another_store_does_not_serve_a_zone_that_this_one_admitted() {
    let rig = Rig::start().await;
    rig.secret("a", "1").await;
    let other = StoreId(uuid::Uuid::from_u128(9));
    let spec = Spec::Zone(ZoneSpec { enabled: true, admitted_by: Some(other) });
    let (key, labels, at) = (Key::zone("east"), Labels::new(), Timestamp(0));
    rig.write(vec![put(Resource { key, labels, spec, created: at, modified: at })]).await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe("Secret").await;
    zone.subscribe("Config").await;
    assert_eq!(zone.next().await.type_url, "Config");
    assert!(!rig.zone("east", |zone| !zone.warnings.is_empty()).await.admitted);
    rig.stop().await;
}

#[tokio::test]
async fn auto_marks_the_zone_durably() {
    let rig = Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe("Secret").await;
    zone.take().await;
    assert_eq!(rig.zone_row("east").await.unwrap().admitted_by, Some(rig.store.identity().id));
    rig.stop().await;
}

#[tokio::test]
async fn only_zones_that_ask_get_gzip() {
    let rig = Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await;
    rig.secret("long", &"again and again ".repeat(5_000)).await;
    let mut sent = Vec::new();
    for (zone, gzip) in [("plain", false), ("small", true)] {
        let looks = Looks { gzip, ..Looks::stock(zone) };
        let before = rig.metric("kds_delta_sent_bytes_total");
        let mut zone = Peer::open(&rig, &looks).await;
        assert_eq!(zone.headers.get("grpc-encoding").is_some(), gzip);
        zone.subscribe("Secret").await;
        assert_eq!(content(&zone.take().await)[0].1.len(), 80_000);
        sent.push(rig.metric("kds_delta_sent_bytes_total") - before);
    }
    assert!(sent[0] > 80_000 && sent[1] < 8_000, "{sent:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_malformed_signing_key_holds_up_nothing_else() {
    let rig = Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await;
    let key = Key::global_secret("zone-token-signing-key-1");
    rig.put(key.clone(), b"junk").await;
    rig.put(Key::global_secret("user-token-signing-key-1"), b"internal").await;
    rig.put(Key::global_secret("mine"), b"v").await;
    soon(eventually(|| !rig.directory.warnings().is_empty())).await;
    assert!(rig.directory.warnings()[0].contains("zone-token-signing-key-1"));
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe("GlobalSecret").await;
    assert_eq!(names(&zone.take().await), ["mine."]);
    rig.put(key.clone(), SIGNING_KEY).await;
    assert_eq!(names(&zone.take().await), ["zone-token-signing-public-key-1."]);
    soon(eventually(|| rig.directory.warnings().is_empty())).await;
    rig.delete(key).await;
    assert_eq!(zone.take().await.removed_resources, ["zone-token-signing-public-key-1."]);
    rig.stop().await;
}

#[tokio::test]
async fn the_calls_beside_the_sync_are_answered_as_zones_expect() {
    let rig = Rig::start().await;
    let looks = Looks::stock("east");
    let mut service = GlobalKdsServiceClient::new(channel(&rig).await);
    let health = soon(service.health_check(looks.on(ZoneHealthCheckRequest {}))).await.unwrap();
    assert_eq!(health.metadata().get("features").unwrap(), "kdsync-1");
    assert_eq!(health.into_inner().interval.unwrap().seconds, 30);

    let mut held = Vec::new();
    let quiet = || looks.on(tokio_stream::pending());
    held.push(soon(service.stream_xds_configs(quiet())).await.unwrap().into_inner());
    held.push(soon(service.stream_stats(quiet())).await.unwrap().into_inner());
    held.push(soon(service.stream_clusters(quiet())).await.unwrap().into_inner());
    let mut sync = KdsSyncServiceClient::new(channel(&rig).await);
    let mut up =
        soon(sync.zone_to_global_sync(looks.on(tokio_stream::pending()))).await.unwrap().into_inner();

    let mut old = MultiplexServiceClient::new(channel(&rig).await);
    let refused = soon(old.stream_message(looks.on(tokio_stream::pending()))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("KUMA_EXPERIMENTAL_KDS_DELTA_ENABLED=true"));
    let event = rig.telemetry.events.since(0).into_iter().find(|event| event.kind == "old-protocol").unwrap();
    assert_eq!(event.zone, "east");

    rig.stop().await;
    for stream in &mut held {
        assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(soon(up.message()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_sync_stream_never_ends_with_ok() {
    let rig = Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await;
    let mut zone = Peer::open(&rig, &Looks::old_stock("east")).await;
    zone.subscribe("Secret").await;
    zone.take().await;
    let mut silent = Peer::open(&rig, &Looks::old_stock("west")).await;
    rig.stop().await;
    assert_eq!(zone.status().await.code(), Code::Unavailable);
    assert_eq!(silent.status().await.code(), Code::Unavailable);
}
