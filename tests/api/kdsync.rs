//! Admission, events, the store's state.

use kdsync::api::LocalWrites;
use kdsync::core::{Key, Spec, Timestamp};

use super::support::{Server, global, zone};

async fn admitted(server: &Server) -> Option<String> {
    let row = server.store.get(&Key::zone("east")).await.unwrap()?;
    let Spec::Zone(spec) = row.resource.spec else { panic!("no zone") };
    spec.admitted_by.map(|id| id.to_string())
}

#[tokio::test]
async fn admission_is_durable_idempotent_and_bound_to_this_store() {
    let server = global();
    let admit = "/kdsync/zones/east/admit";
    let first = server.call_as("POST", admit, "", String::new()).await.json();
    assert_eq!((&first["zone"], &first["changed"]), (&"east".into(), &true.into()));
    let second = server.call("POST", admit, "{}").await.json();
    assert_eq!(second["changed"], false);
    assert_eq!(admitted(&server).await, Some(server.store.identity().id.to_string()));
    assert_eq!(server.telemetry.events.since(0).len(), 1);
    assert_eq!(server.get("/zones").await.json()["items"][0]["enabled"], true);
    assert_eq!(server.call("POST", "/kdsync/zones/B%C3%A4d/admit", "").await.error().0, 400);
    let other = zone(Some("grpc://g:1"), LocalWrites::Refuse);
    assert_eq!(other.call("POST", admit, "").await.error().0, 405);
}

#[tokio::test]
async fn a_zone_knows_no_zones() {
    let server = zone(None, LocalWrites::Refuse);
    assert_eq!(server.get("/kdsync/zones").await.error().0, 404);
    assert_eq!(server.get("/kdsync/zones/east").await.error().0, 404);
}

#[tokio::test]
async fn events_are_given_after_an_id_and_awaited() {
    let server = global();
    let events = &server.telemetry.events;
    events.record(Timestamp(1), "swept", "east", Some(Key::secret("m", "a")), "zone-local");
    events.record(Timestamp(2), "repaired", "east", None, "changed in the zone");
    let all = server.get("/kdsync/events").await.json();
    assert_eq!(all["items"][0]["resource"]["name"], "a");
    let later = server.get("/kdsync/events?after=1").await.json();
    assert_eq!((later["items"].as_array().unwrap().len(), &later["items"][0]["id"]), (1, &2.into()));
    let wait = server.get("/kdsync/events?after=2&wait=30");
    let record = async {
        tokio::task::yield_now().await;
        events.record(Timestamp(3), "swept", "west", None, "zone-local");
    };
    let (answer, ()) = tokio::join!(wait, record);
    assert_eq!(answer.json()["items"][0]["id"], 3);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_events_ends() {
    let server = global();
    let answer = server.get("/kdsync/events?wait=99999999").await.json();
    assert_eq!(answer["items"], serde_json::json!([]));
}

#[tokio::test]
async fn the_store_tells_its_history_and_no_digest() {
    let server = global();
    server.put("default", "a", "YQ==").await;
    let answer = server.get("/kdsync/store").await;
    let state = answer.json();
    assert_eq!(state["id"], server.store.identity().id.to_string());
    assert_eq!((&state["epoch"], &state["revision"]), (&1.into(), &1.into()));
    assert_eq!(state["positions"]["Secret"], serde_json::json!({"revision": 1, "count": 1}));
    assert!(!answer.text.contains("digest"));
}
