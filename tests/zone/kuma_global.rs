//! What an unmodified Kuma global sees and says, line by line.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kdsync::kds::wire::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use kdsync::kds::wire::pb::google::protobuf::value::Kind as Is;
use prost::Message as _;

use super::rig::{Rig, skip};
use super::scripted::{Kind, RETRY, Scripted};

fn golden(path: &str) -> DeltaDiscoveryResponse {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path);
    DeltaDiscoveryResponse::decode(std::fs::read(path).unwrap().as_slice()).unwrap()
}

#[tokio::test]
async fn the_zone_introduces_itself_as_kumas_does() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let (stream, [secrets, _]) = global.opened("c1").await;
    let one = |name: &str| stream.metadata.get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!((one("client-id"), one("kds-version")), ("east".into(), "v3".into()));
    assert_eq!(one("version"), env!("CARGO_PKG_VERSION"));
    let features: Vec<_> = stream.metadata.get_all("features").iter().collect();
    assert_eq!(features, ["zone-ping-health", "hash-suffix", "kdsync-1"]);
    assert_eq!(one("kdsync-instance"), "here-1a2b");
    // Requests go uncompressed, answers may come as gzip.
    assert!(stream.metadata.get("grpc-encoding").is_none_or(|encoding| encoding == "identity"));
    assert!(one("grpc-accept-encoding").contains("gzip"));
    let fields = secrets.node.unwrap().metadata.unwrap().fields;
    assert!(
        matches!(&fields["version"].kind, Some(Is::StructValue(version)) if version.fields.contains_key("kumaCp"))
    );
    assert!(matches!(&fields["control-plane-id"].kind, Some(Is::StringValue(id)) if id == "here-1a2b"));
    assert!(secrets.initial_resource_versions.is_empty());
    // It announced pings, and it pings: at Kuma's own pace where global names none.
    assert_eq!(global.pings.load(Ordering::Relaxed), 1);
    skip(Duration::from_secs(29)).await;
    assert_eq!(global.pings.load(Ordering::Relaxed), 1);
    rig.stop().await;
    stream.closed().await;
}

#[tokio::test]
async fn a_new_global_is_followed_and_resumed() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let (mut stream, _) = global.opened("c1").await;
    let some = vec![stream.secret("a", "1"), stream.secret("b", "2")];
    let answer = stream.answer("Secret", some, &[]);
    stream.acked(&answer).await;
    let one = vec![stream.global_secret("g", "3")];
    let answer = stream.answer("GlobalSecret", one, &[]);
    stream.acked(&answer).await;
    rig.holds(&["a=1", "b=2", "g=3"]).await;
    // A change; a removal; an empty removed name; a trailing dot; a name nobody has.
    let change = vec![stream.secret("a", "x")];
    let answer = stream.answer("Secret", change, &["b.default", "", "nobody.default"]);
    stream.acked(&answer).await;
    rig.holds(&["a=x", "g=3"]).await;
    let answer = stream.answer("GlobalSecret", Vec::new(), &["g."]);
    stream.acked(&answer).await;
    rig.holds(&["a=x"]).await;
    // On the next stream the zone tells what it holds.
    stream.end(tonic::Status::unavailable("shutting down"));
    rig.event("disconnected").await;
    skip(RETRY).await;
    let (mut stream, [secrets, globals]) = global.opened("c1").await;
    let versions: Vec<_> = secrets.initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("a.default".to_owned(), "version-of-x".to_owned())]);
    assert!(globals.initial_resource_versions.is_empty());
    let answer = stream.answer("Secret", Vec::new(), &["a.default"]);
    stream.acked(&answer).await;
    rig.holds(&[]).await;
    rig.stop().await;
}

#[tokio::test]
async fn an_old_global_is_followed() {
    let mut global = Scripted::start(Kind::Old).await;
    let rig = Rig::start(&global.url()).await;
    let stream = global.synced("c1", &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]).await;
    rig.holds(&["a=1", "b=2", "c=3", "d=4"]).await;
    stream.end(tonic::Status::unavailable("shutting down"));
    rig.event("disconnected").await;
    skip(RETRY).await;
    // It sends everything again, whatever it is told: what it does not send is gone.
    let mut stream = global.synced("c1", &[("a", "1"), ("b", "x"), ("c", "3")]).await;
    rig.holds(&["a=1", "b=x", "c=3"]).await;
    // After a NACK it sends the whole set again; the refusal is told once.
    for round in 0..3 {
        let some = vec![stream.secret("a", "1"), stream.secret("BAD", "9")];
        let answer = stream.answer("Secret", some, &[""]);
        if round == 0 {
            assert!(stream.nacked(&answer).await.contains("BAD"));
        } else {
            stream.acked(&answer).await;
        }
    }
    rig.holds(&["a=1", "b=x", "c=3"]).await;
    assert!(rig.event("rejected").await.contains("BAD"));
    rig.stop().await;
}

#[tokio::test]
async fn internal_names_are_refused_by_name() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let (mut stream, _) = global.opened("c1").await;
    let names = ["admin-user-token", "zone-token-signing-key-1", "user-token-signing-key-1"];
    let mut some: Vec<_> = names.iter().map(|name| stream.global_secret(name, "k")).collect();
    some.push(stream.global_secret("fine", "1"));
    let answer = stream.answer("GlobalSecret", some, &[]);
    let message = stream.nacked(&answer).await;
    for name in names {
        assert!(message.contains(name), "{message}");
    }
    rig.holds(&["fine=1"]).await;
    rig.stop().await;
}

#[tokio::test]
async fn without_a_cluster_id_only_new_names_are_taken() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    rig.put("local", "mine").await;
    rig.put("a", "mine").await;
    let mut stream = global.stream().await;
    stream.subscription("Config").await;
    skip(Duration::from_secs(6)).await;
    stream.subscription("GlobalSecret").await;
    stream.subscription("Secret").await;
    rig.event("no-cluster-id").await;
    let some = vec![stream.secret("a", "1"), stream.secret("b", "2")];
    let answer = stream.answer("Secret", some, &[]);
    stream.acked(&answer).await;
    rig.holds(&["a=mine", "b=2", "local=mine"]).await;
    let change = vec![stream.secret("b", "x")];
    let answer = stream.answer("Secret", change, &["b.default"]);
    stream.acked(&answer).await;
    let answer = stream.answer("Secret", Vec::new(), &["b.default"]);
    stream.acked(&answer).await;
    rig.holds(&["a=mine", "b=2", "local=mine"]).await;
    assert_eq!(rig.quarantined().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn another_cluster_id_gets_no_say() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let stream = global.synced("c1", &[("a", "1")]).await;
    rig.holds(&["a=1"]).await;
    stream.end(tonic::Status::unavailable("shutting down"));
    rig.event("disconnected").await;
    rig.put("local", "mine").await;
    skip(RETRY).await;
    let mut stream = global.stream().await;
    stream.subscription("Config").await;
    let id = stream.config("c2");
    let answer = stream.answer("Config", vec![id], &[]);
    stream.acked(&answer).await;
    assert!(rig.event("foreign").await.contains("c2"));
    // It is not even asked; what it says unasked is not taken.
    let some = vec![stream.secret("a", "stolen")];
    stream.answer("Secret", some, &["a.default"]);
    rig.nth_event(1, "disconnected").await;
    assert_eq!(rig.held().await, ["a=1", "local=mine"]);
    rig.stop().await;
}

#[tokio::test]
async fn recorded_answers_are_taken() {
    for (version, kind) in [("2.14.3", Kind::New), ("2.2.9", Kind::Old)] {
        let mut global = Scripted::start(kind).await;
        let rig = Rig::start(&global.url()).await;
        let mut stream = global.stream().await;
        stream.subscription("Config").await;
        let play = |name: &str| golden(&format!("kuma-{version}/global/{name}.bin"));
        let mut answers = vec![play("Config.first"), play("Secret.first")];
        if kind == Kind::New {
            answers.push(play("GlobalSecret.first"));
        }
        answers.extend([play("Secret.next1"), play("Secret.next2")]);
        for (number, answer) in answers.into_iter().enumerate() {
            stream.send(answer.clone());
            stream.acked(&answer).await;
            if number == 0 {
                stream.subscription("GlobalSecret").await;
                stream.subscription("Secret").await;
            }
        }
        let held = rig.held().await;
        assert!(held.contains(&"alpha=changed".to_owned()), "{version}: {held:?}");
        assert!(!held.iter().any(|row| row.starts_with("beta")), "{version}: {held:?}");
        assert_eq!(held.contains(&"gamma=gamma".to_owned()), kind == Kind::New, "{held:?}");
        rig.stop().await;
    }
}
