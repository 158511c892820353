//! ZoneLink: heartbeats down, reports up.

use kdsync::core::insight::Happening;
use kdsync::core::{Key, ResourceType};
use kdsync::kds::wire::encode_name;
use kdsync::kds::wire::pb::kdsync::v1::zone_link_client::ZoneLinkClient;
use kdsync::kds::wire::pb::kdsync::v1::{NamedEvent, Reached, ZoneReport, named_event::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::peer::{Looks, Peer, channel};
use super::rig::{Rig, soon};

fn event(kind: Kind, name: &str) -> NamedEvent {
    let resource = Some(encode_name(&Key::secret("default", name)));
    NamedEvent { kind: kind.into(), resource, reason: "somebody\nmade it here".into(), at: 7 }
}

#[tokio::test]
async fn reports_are_folded_and_heartbeats_follow_changes() {
    let rig = Rig::start().await;
    let looks = Looks::kdsync("east", "i1");
    let mut zone = Peer::open(&rig, &looks).await;
    zone.subscribe("Secret").await;
    zone.take().await;

    let (reports, outgoing) = mpsc::channel(16);
    let mut client = ZoneLinkClient::new(channel(&rig).await);
    let mut down = soon(client.link(looks.on(ReceiverStream::new(outgoing)))).await.unwrap().into_inner();
    let first = soon(down.message()).await.unwrap().unwrap();
    assert_eq!(first.sequence, 1);
    rig.secret("a", "1").await;
    let revision = loop {
        let report = soon(down.message()).await.unwrap().unwrap();
        let secret = report.serving.iter().find(|serving| serving.r#type == "Secret").unwrap().clone();
        if secret.count == 1 {
            break secret.revision;
        }
    };

    let r#type = "Secret".to_owned();
    let reached =
        Reached { r#type, epoch: 1, revision, held: 1, kept: 2, complete: true, ..Reached::default() };
    let mut bad = event(Kind::Swept, "x");
    bad.resource.as_mut().unwrap().name = "NOT A NAME".into();
    let report = ZoneReport {
        sequence: 41,
        api_address: "127.0.0.1:6681".into(),
        reached: vec![reached, Reached { r#type: "Nonsense".into(), ..Reached::default() }],
        events: vec![event(Kind::Swept, "local"), event(Kind::Rejected, "odd"), bad],
        ..ZoneReport::default()
    };
    reports.send(report).await.unwrap();
    let status = rig.zone("east", |zone| zone.last_report.is_some()).await;
    let secret = &status.types[&ResourceType::Secret];
    assert_eq!((secret.reached, secret.held, secret.kept), (Some(revision), Some(1), 2));
    assert_eq!(secret.rejected["odd.default"], "somebody made it here");
    assert_eq!(status.api_address, "127.0.0.1:6681");
    let swept = rig.telemetry.events.since(0).into_iter().find(|event| event.kind == "swept").unwrap();
    assert_eq!((swept.zone.as_str(), swept.resource), ("east", Some(Key::secret("default", "local"))));
    assert_eq!(rig.metric(r#"kds_zone_events_total{kind="swept"}"#), 1, "what is no name is no event");
    assert_eq!(Happening::Swept.as_str(), "swept");

    let again =
        ZoneReport { sequence: 42, events: vec![event(Kind::Accepted, "odd")], ..ZoneReport::default() };
    reports.send(again).await.unwrap();
    rig.zone("east", |zone| zone.types[&ResourceType::Secret].rejected.is_empty()).await;
    // What was reported is echoed soon, so that the zone does not repeat it.
    while soon(down.message()).await.unwrap().unwrap().echoed_sequence != 42 {}
    rig.stop().await;
    let end = loop {
        match soon(down.message()).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn reports_of_another_instance_are_not_taken() {
    let rig = Rig::start().await;
    let mut zone = Peer::open(&rig, &Looks::kdsync("east", "holder")).await;
    zone.subscribe("Secret").await;
    zone.take().await;
    let (reports, outgoing) = mpsc::channel(16);
    let mut client = ZoneLinkClient::new(channel(&rig).await);
    let looks = Looks::kdsync("east", "other");
    let mut down = soon(client.link(looks.on(ReceiverStream::new(outgoing)))).await.unwrap().into_inner();
    reports.send(ZoneReport { api_address: "evil:1".into(), ..ZoneReport::default() }).await.unwrap();
    let end = loop {
        match soon(down.message()).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Aborted);
    assert_eq!(rig.zone("east", |_| true).await.api_address, "");

    let mut nobody = ZoneLinkClient::new(channel(&rig).await);
    let refused = soon(nobody.link(Looks::nobody().on(tokio_stream::pending()))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    rig.stop().await;
}
