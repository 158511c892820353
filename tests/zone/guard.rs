//! Removals without a tombstone: a few go, many are kept.

use super::rig::Rig;
use super::scripted::{Kind, Scripted, SyncStream};

async fn of(count: usize) -> (Scripted, Rig, SyncStream) {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let names: Vec<_> = (0..count).map(|n| format!("s{n:02}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let stream = global.synced("c1", &rows).await;
    (global, rig, stream)
}

#[tokio::test]
async fn eleven_of_twenty_are_kept_served_and_named() {
    let (_global, rig, mut stream) = of(20).await;
    let gone: Vec<_> = (0..11).map(|n| format!("s{n:02}.default")).collect();
    let gone: Vec<_> = gone.iter().map(String::as_str).collect();
    let answer = stream.answer("Secret", Vec::new(), &gone);
    stream.acked(&answer).await;
    assert_eq!(rig.held().await.len(), 20);
    for n in 0..11 {
        rig.event(&format!("kept Secret default/s{n:02}")).await;
    }
    // What is kept is not swept either; a new local one is.
    rig.put("local", "x").await;
    rig.event("swept Secret default/local").await;
    assert_eq!(rig.held().await.len(), 20);
    rig.stop().await;
}

#[tokio::test]
async fn two_of_twenty_go() {
    let (_global, rig, mut stream) = of(20).await;
    let answer = stream.answer("Secret", Vec::new(), &["s00.default", "s01.default"]);
    stream.acked(&answer).await;
    assert_eq!(rig.held().await.len(), 18);
    assert!(!rig.events().iter().any(|event| event.starts_with("kept")));
    rig.stop().await;
}

#[tokio::test]
async fn all_of_four_are_kept() {
    let (_global, rig, mut stream) = of(4).await;
    let gone = ["s00.default", "s01.default", "s02.default", "s03.default"];
    let answer = stream.answer("Secret", Vec::new(), &gone);
    stream.acked(&answer).await;
    assert_eq!(rig.held().await.len(), 4);
    rig.event("kept").await;
    rig.stop().await;
}
