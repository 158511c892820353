//! What is too large for a stock zone, and what is told before it is.

use kdsync::core::{Key, ResourceType};
use kdsync::global::{Admit, Config};

use super::peer::{Looks, Peer, names};
use super::rig::Rig;

async fn rig() -> Rig {
    Rig::with(Config { admit: Admit::Auto, ..Config::default() }).await
}

#[tokio::test]
async fn a_first_answer_that_does_not_fit_is_withheld_whole_until_it_fits() {
    let rig = rig().await;
    for name in ["a", "b", "c"] {
        rig.secret(name, &"x".repeat(20_000)).await;
    }
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe_limited("Secret", 50_000).await;
    zone.subscribe("Config").await;
    assert_eq!(zone.take().await.type_url, "Config");
    let withheld = |zone: &kdsync::core::insight::ZoneStatus| {
        zone.types.get(&ResourceType::Secret).is_some_and(|ty| ty.withheld.is_some())
    };
    let status = rig.zone("east", withheld).await;
    assert!(status.warnings.iter().any(|warning| warning.contains("50000")), "{status:?}");
    assert!(rig.directory.warnings().iter().any(|warning| warning.contains("maxMsgSize")));
    assert!(rig.events().contains(&"withheld".to_owned()));
    // A small change on top must not be sent alone.
    rig.secret("d", "small").await;
    rig.delete(Key::secret("default", "a")).await;
    assert_eq!(names(&zone.take().await), ["b.default", "c.default", "d.default"]);
    rig.zone("east", |zone| !withheld(zone)).await;
    rig.stop().await;
}

#[tokio::test]
async fn from_80_percent_on_there_is_a_warning_everywhere() {
    let rig = rig().await;
    rig.secret("a", &"x".repeat(30_000)).await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe_limited("Secret", 50_000).await;
    zone.take().await;
    assert!(rig.directory.warnings().is_empty());
    rig.secret("b", &"x".repeat(11_000)).await;
    // The very write that crosses the line is told, before the zone has anything of it.
    assert!(rig.directory.measured().is_some());
    assert!(!rig.directory.warnings().is_empty());
    zone.take().await;
    assert!(rig.directory.warnings()[0].contains(" % of the 50000 bytes"), "{:?}", rig.directory.warnings());
    assert!(rig.zone("east", |zone| !zone.warnings.is_empty()).await.warnings[0].contains("50000"));
    assert_eq!(rig.metric("kds_zones_near_limit"), 1);
    assert!(rig.events().contains(&"near-limit".to_owned()));
    rig.delete(Key::secret("default", "b")).await;
    zone.take().await;
    assert!(rig.directory.warnings().is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn a_limit_goes_with_the_stream_that_told_it() {
    let rig = rig().await;
    rig.secret("a", &"x".repeat(45_000)).await;
    let mut stock = Peer::open(&rig, &Looks::stock("east")).await;
    stock.subscribe_limited("Secret", 50_000).await;
    stock.take().await;
    rig.zone("east", |zone| !zone.warnings.is_empty()).await;
    drop(stock);
    rig.zone("east", |zone| !zone.connected).await;
    let mut kdsync = Peer::open(&rig, &Looks::kdsync("east", "i1")).await;
    kdsync.subscribe("Secret").await;
    kdsync.take().await;
    rig.secret("b", "1").await;
    kdsync.take().await;
    assert_eq!(rig.directory.measured(), None, "nobody here has a limit");
    assert_eq!(rig.directory.warnings(), Vec::<String>::new());
    rig.stop().await;
}

#[tokio::test]
async fn later_answers_are_split_below_the_limit() {
    let rig = rig().await;
    let mut zone = Peer::open(&rig, &Looks::stock("east")).await;
    zone.subscribe_limited("Secret", 50_000).await;
    let first = zone.next().await;
    for n in 0..5 {
        rig.secret(&format!("s{n}"), &"x".repeat(20_000)).await;
    }
    zone.ack(&first).await;
    let mut all = Vec::new();
    while all.len() < 5 {
        let part = names(&zone.take().await);
        assert!(part.len() <= 2, "two of 20,000 bytes fit into 50,000");
        all.extend(part);
    }
    rig.stop().await;
}

#[tokio::test]
async fn ten_mebibytes_are_assumed_where_the_zone_tells_nothing() {
    let rig = rig().await;
    for n in 0..11 {
        rig.secret(&format!("s{n}"), &"x".repeat(1_000_000)).await;
    }
    let mut zone = Peer::open(&rig, &Looks { gzip: false, ..Looks::stock("east") }).await;
    zone.subscribe("Secret").await;
    zone.subscribe("Config").await;
    assert_eq!(zone.take().await.type_url, "Config");
    rig.delete(Key::secret("default", "s0")).await;
    assert_eq!(names(&zone.take().await).len(), 10, "whole, in one message");
    rig.stop().await;
}
