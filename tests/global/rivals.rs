//! Two live instances under one zone name.

use tonic::Code;

use super::peer::{Looks, Peer};
use super::rig::Rig;

async fn open(rig: &Rig, instance: &str) -> Peer {
    let zone = Peer::open(rig, &Looks::kdsync("east", instance)).await;
    zone.subscribe("Config").await;
    zone
}

#[tokio::test]
async fn the_newest_wins_and_the_older_is_told() {
    let rig = Rig::start().await;
    let mut older = open(&rig, "one").await;
    older.take().await;
    let mut newer = open(&rig, "two").await;
    newer.take().await;
    let status = older.status().await;
    assert_eq!(status.code(), Code::Aborted);
    let address = rig.zone("east", |zone| zone.instance == "two").await.address;
    assert!(status.message().contains(&address), "{status:?}");
    assert!(rig.zone("east", |_| true).await.connected, "the leftover does not disconnect the newer");
    assert!(rig.events().contains(&"replaced".to_owned()));
    rig.stop().await;
}

#[tokio::test]
async fn the_same_instance_comes_back_silently() {
    let rig = Rig::start().await;
    let mut older = open(&rig, "one").await;
    older.take().await;
    let mut newer = open(&rig, "one").await;
    newer.take().await;
    assert_eq!(older.status().await.code(), Code::Aborted);
    let zone = rig.zone("east", |zone| zone.connected).await;
    assert!(zone.warnings.is_empty());
    assert!(!rig.events().contains(&"replaced".to_owned()));
    rig.stop().await;
}

#[tokio::test]
async fn who_served_longer_stays_when_they_alternate() {
    let rig = Rig::start().await;
    let mut streams = Vec::new();
    let refusal = loop {
        assert!(streams.len() < 20, "nobody was refused");
        let instance = ["one", "two"][streams.len() % 2];
        let mut zone = open(&rig, instance).await;
        let request = super::rig::soon(async { zone.first().await }).await;
        match request {
            Ok(_) => streams.push(zone),
            Err(status) => break status,
        }
    };
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    let pushback: u64 =
        refusal.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!(pushback >= 5_000);
    let zone = rig.zone("east", |zone| !zone.warnings.is_empty()).await;
    assert!(zone.connected);
    assert!(zone.warnings[0].contains(&zone.address), "{zone:?}");
    assert!(rig.events().contains(&"rivals".to_owned()));
    rig.stop().await;
}
