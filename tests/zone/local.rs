//! What somebody writes in the zone.

use std::time::Duration;

use super::rig::{Rig, skip};
use super::scripted::{Kind, Scripted};

#[tokio::test]
async fn local_secrets_go_once_the_first_answer_is_applied() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    rig.put("early", "x").await;
    rig.put("a", "mine").await;
    let (mut stream, _) = global.opened("c1").await;
    assert_eq!(rig.held().await, ["a=mine", "early=x"]);
    let one = vec![stream.secret("a", "1")];
    let answer = stream.answer("Secret", one, &[]);
    stream.acked(&answer).await;
    rig.holds(&["a=1"]).await;
    rig.event("swept Secret default/early").await;
    // Both values that only this zone knew are kept.
    assert_eq!(rig.quarantined().await, 2);
    // While the stream is complete, a new one goes at once.
    rig.put("late", "y").await;
    rig.event("swept Secret default/late").await;
    rig.holds(&["a=1"]).await;
    assert_eq!(rig.quarantined().await, 3);
    // No value, and no hash of one, in what is told.
    assert!(!rig.events().iter().any(|event| event.contains("mine")));
    rig.stop().await;
}

#[tokio::test]
async fn synced_secrets_are_put_back_also_without_global() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let stream = global.synced("c1", &[("a", "1"), ("b", "2")]).await;
    rig.put("a", "tampered").await;
    rig.event("repaired Secret default/a").await;
    rig.holds(&["a=1", "b=2"]).await;
    assert_eq!(rig.quarantined().await, 1);
    stream.end(tonic::Status::unavailable("shutting down"));
    drop(global);
    rig.event("disconnected").await;
    rig.delete("b").await;
    rig.put("local", "x").await;
    rig.event("repaired Secret default/b").await;
    rig.holds(&["a=1", "b=2", "local=x"]).await;
    // And after a restart, from what the store holds.
    let store = rig.stop().await;
    let rig = Rig::on(super::rig::config("grpc://127.0.0.1:1"), store).await;
    rig.put("a", "again").await;
    rig.event("repaired Secret default/a").await;
    rig.holds(&["a=1", "b=2", "local=x"]).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_name_that_somebody_keeps_writing_is_left_alone_for_a_while() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let _stream = global.synced("c1", &[("a", "1"), ("b", "2")]).await;
    for round in 0..3 {
        rig.put("a", &format!("other{round}")).await;
        rig.nth_event(round, "repaired Secret default/a").await;
    }
    rig.event("contended Secret default/a").await;
    rig.put("a", "other").await;
    // Others are not held up.
    rig.delete("b").await;
    rig.event("repaired Secret default/b").await;
    rig.holds(&["a=other", "b=2"]).await;
    skip(Duration::from_secs(61)).await;
    rig.holds(&["a=1", "b=2"]).await;
    rig.stop().await;
}
