//! Removals without a tombstone: a few go, many are kept.

use super::rig::{Rig, config, skip};
use super::scripted::{Kind, RETRY, Scripted, SyncStream};

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

async fn first_answer(global: &mut Scripted, names: &[String]) -> SyncStream {
    let rows: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    global.synced("c1", &rows).await
}

async fn dropped(rig: &Rig, stream: SyncStream, times: usize) {
    stream.end(tonic::Status::unavailable("shutting down"));
    rig.nth_event(times, "disconnected").await;
    skip(RETRY).await;
}

fn kept(rig: &Rig) -> usize {
    rig.events().iter().filter(|event| event.starts_with("kept")).count()
}

#[tokio::test]
async fn what_is_missing_from_a_first_answer_is_kept_and_not_judged_again() {
    let numbered =
        |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}{n:02}")).collect::<Vec<_>>();
    let all = numbered("s", 20);
    let mut global = Scripted::start(Kind::Old).await;
    let rig = Rig::start(&global.url()).await;
    let stream = first_answer(&mut global, &all).await;
    assert_eq!(rig.held().await.len(), 20);
    dropped(&rig, stream, 0).await;
    // It sends 8 of 20 again: of the other 12 nothing tells that they were deleted.
    let stream = first_answer(&mut global, &all[..8]).await;
    assert_eq!((rig.held().await.len(), kept(&rig)), (20, 12));
    dropped(&rig, stream, 1).await;
    // Now the set is large: 12 of 80 would be few enough to go, if they were judged as something new.
    let grown = [&all[..8], &numbered("t", 60)[..]].concat();
    let stream = first_answer(&mut global, &grown).await;
    assert_eq!((rig.held().await.len(), kept(&rig)), (80, 12));
    dropped(&rig, stream, 2).await;
    let stream = first_answer(&mut global, &grown).await;
    assert_eq!((rig.held().await.len(), kept(&rig)), (80, 12));
    drop(stream);
    // A restart is no decision of an operator either; one name goes as ever, and one comes back.
    let rig = Rig::on(config(&global.url()), rig.stop().await).await;
    let fewer = [&all[..9], &numbered("t", 59)[..]].concat();
    let stream = first_answer(&mut global, &fewer).await;
    let held = rig.held().await;
    assert_eq!(held.len(), 79);
    assert!(all.iter().all(|name| held.contains(&format!("{name}=1"))), "{held:?}");
    // What is listed again is not kept any longer: it may go like any other.
    dropped(&rig, stream, 0).await;
    let _stream = first_answer(&mut global, &[&all[..8], &numbered("t", 59)[..]].concat()).await;
    let held = rig.held().await;
    assert_eq!(held.len(), 78);
    assert!(!held.contains(&"s08=1".to_owned()) && held.contains(&"s09=1".to_owned()), "{held:?}");
    assert_eq!(kept(&rig), 0);
    rig.stop().await;
}
