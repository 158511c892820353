//! What two kdsync ends add: headers, resume, pages, refusals by name.

use kdsync::core::{Digest, Key, Position};
use kdsync::global::Config;
use kdsync::kds::message::{Answer, Header, Nack, Rejection, Request, position_text};
use kdsync::kds::wire::encode_request;
use kdsync::kds::wire::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::peer::{Looks, Peer, names, subscription};
use super::rig::Rig;

fn header(answer: &DeltaDiscoveryResponse) -> Header {
    answer.system_version_info.parse().unwrap()
}

fn resume(type_url: &str, position: &Position) -> DeltaDiscoveryRequest {
    let mut request = subscription(None, type_url);
    request.initial_resource_versions.insert("kdsync-1".into(), position_text(position));
    request
}

/// Reads a whole answer, page by page.
async fn pages(zone: &mut Peer) -> Vec<DeltaDiscoveryResponse> {
    let mut all = Vec::new();
    loop {
        let page = zone.take().await;
        let last = header(&page).is_last();
        all.push(page);
        if last {
            return all;
        }
    }
}

#[tokio::test]
async fn a_zone_resumes_where_it_stopped() {
    let rig = Rig::start().await;
    for name in ["a", "b"] {
        rig.secret(name, "1").await;
    }
    let looks = Looks::kdsync("east", "i1");
    let mut zone = Peer::open(&rig, &looks).await;
    zone.subscribe("Secret").await;
    let first = zone.take().await;
    assert_eq!(names(&first), ["a.default", "b.default"]);
    let head = header(&first);
    assert_eq!((head.answer, head.page, head.pages), (Answer::Whole, 1, 1));
    drop(zone);

    let mut zone = Peer::open(&rig, &looks).await;
    zone.send(resume("Secret", &head.position)).await;
    let equal = zone.take().await;
    assert_eq!((header(&equal).answer, equal.resources.len()), (Answer::Equal, 0));
    drop(zone);

    rig.secret("c", "1").await;
    rig.delete(Key::secret("default", "a")).await;
    let mut zone = Peer::open(&rig, &looks).await;
    zone.send(resume("Secret", &head.position)).await;
    let since = zone.take().await;
    assert_eq!(header(&since).answer, Answer::Since(head.position.revision));
    assert_eq!(
        (names(&since), since.removed_resources),
        (vec!["c.default".into()], vec!["a.default".into()])
    );
    rig.stop().await;
}

#[tokio::test]
async fn another_history_is_told_so_and_gets_nothing() {
    let rig = Rig::start().await;
    rig.secret("a", "1").await;
    let mut zone = Peer::open(&rig, &Looks::kdsync("east", "i1")).await;
    let mut position = Position::start(rig.store.identity());
    position.identity.id.0 = uuid::Uuid::from_u128(77);
    zone.send(resume("Secret", &position)).await;
    let foreign = zone.take().await;
    assert_eq!((header(&foreign).answer, foreign.resources.len()), (Answer::Foreign, 0));
    rig.zone("east", |zone| zone.warnings.iter().any(|warning| warning.contains("another history"))).await;
    assert!(rig.events().contains(&"apart".to_owned()));

    let mut ahead = Position::start(rig.store.identity());
    ahead.revision.0 = 1_000;
    ahead.digest = Digest::from_bytes([3; 32]);
    let mut zone = Peer::open(&rig, &Looks::kdsync("west", "i2")).await;
    zone.send(resume("Secret", &ahead)).await;
    assert_eq!(header(&zone.take().await).answer, Answer::Behind);
    rig.stop().await;
}

#[tokio::test]
async fn no_set_is_too_large_for_pages() {
    let rig = Rig::with(Config { page_size: 100_000, ..Config::default() }).await;
    for n in 0..20 {
        rig.secret(&format!("s{n:02}"), &"x".repeat(30_000)).await;
    }
    let mut zone = Peer::open(&rig, &Looks::kdsync("east", "i1")).await;
    zone.subscribe("Secret").await;
    let all = pages(&mut zone).await;
    assert!(all.len() >= 7, "{}", all.len());
    let count: usize = all.iter().map(|page| page.resources.len()).sum();
    assert_eq!(count, 20);
    let status = rig.zone("east", |zone| zone.types.values().any(|ty| ty.complete)).await;
    assert!(status.connected);
    assert_eq!((status.version.as_str(), status.instance.as_str()), ("0.1.0", "i1"));
    rig.stop().await;
}

#[tokio::test]
async fn refused_names_are_parked_until_they_change() {
    let rig = Rig::start().await;
    rig.secret("a", "1").await;
    rig.secret("b", "1").await;
    let mut zone = Peer::open(&rig, &Looks::kdsync("east", "i1")).await;
    zone.subscribe("Secret").await;
    let first = zone.next().await;
    let rejected = vec![Rejection { key: Key::secret("default", "b"), reason: "name\nis taken".into() }];
    let nack = Some(Nack { message: "1 of 2 refused".into(), rejected });
    let (type_url, nonce) = ("Secret".into(), first.nonce.as_str().into());
    zone.send(encode_request(&Request { type_url, nonce, nack, ..Request::default() })).await;
    let status = rig.zone("east", |zone| zone.types.values().any(|ty| !ty.rejected.is_empty())).await;
    let rejected: Vec<_> = status.types.values().flat_map(|ty| ty.rejected.clone()).collect();
    assert_eq!(rejected, [("b.default".to_owned(), "name is taken".to_owned())]);
    assert_eq!(rig.metric(r#"kds_nack_total{zone_name="east",resource_type="Secret"}"#), 1);
    // The next answer is about what changes, not about what was refused.
    rig.secret("c", "1").await;
    assert_eq!(names(&zone.take().await), ["c.default"]);
    rig.secret("b", "2").await;
    assert_eq!(names(&zone.take().await), ["b.default"]);
    rig.stop().await;
}

#[tokio::test]
async fn zones_in_the_same_position_get_the_same_bytes() {
    let rig = Rig::start().await;
    rig.secret("a", "1").await;
    let mut answers = Vec::new();
    for zone in ["east", "west"] {
        let mut zone = Peer::open(&rig, &Looks::kdsync(zone, zone)).await;
        zone.subscribe("Secret").await;
        answers.push(zone.take().await);
    }
    assert_eq!(answers[0].nonce, answers[1].nonce);
    assert!(rig.metric("kds_delta_responses_sent_total{resource_type=\"Secret\"}") == 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_change_reaches_every_zone_and_is_timed() {
    let rig = Rig::start().await;
    let mut zones = Vec::new();
    for n in 0..20 {
        let mut zone = Peer::open(&rig, &Looks::kdsync(&format!("z{n}"), "i")).await;
        zone.subscribe("Secret").await;
        zone.take().await;
        zones.push(zone);
    }
    for round in 0..5 {
        rig.secret("a", &round.to_string()).await;
        for zone in &mut zones {
            assert_eq!(names(&zone.take().await), ["a.default"]);
        }
    }
    let timed = || rig.metric("kds_delta_delivery_seconds_count");
    super::rig::soon(super::rig::eventually(|| timed() == 100)).await;
    rig.stop().await;
}
