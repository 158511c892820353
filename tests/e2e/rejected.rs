//! Names that a zone cannot take, from their refusal to the day they fit.

use std::collections::BTreeSet;

use serde_json::Value;

use super::parts::{Part, delete, secrets, until_east, write_all};
use super::world::{Http, World, good};

const CLASHES: usize = 12;
const UNIQUE: [(&str, &str); 1] = [("KDSYNC_STORE_UNIQUE_NAMES", "true")];

/// The names of type Secret that global knows to be refused by a zone, as `mesh/name`.
fn refused(zone: &Value) -> BTreeSet<String> {
    let names = zone["types"]["Secret"]["rejected"].as_object().into_iter().flatten();
    names
        .map(|(name, _)| name.rsplit_once('.').map(|(name, mesh)| format!("{mesh}/{name}")).unwrap())
        .collect()
}

fn settled(zone: &Value) -> bool {
    let both = ["Secret", "GlobalSecret"].iter().all(|ty| zone["types"][*ty]["complete"] == true);
    zone["connected"] == true && both
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_names_are_reported_outlast_a_restart_and_arrive_when_they_fit() {
    let (world, http) = (World::new(), Http::new());
    let global = Part::global(&world, &[]).await;
    // The good ones are large, so that fetching the whole set again would show.
    let fine = secrets("default", "fine", 0..4, 100_000);
    let pairs = [secrets("default", "pair", 0..CLASHES, 100), secrets("other", "pair", 0..CLASHES, 50)];
    write_all(&http, global.api(), &[fine, pairs.concat()].concat()).await;

    let east = Part::east(&world, &global.process.kds, &UNIQUE).await;
    let zone = until_east(&http, global.api(), "twelve names are refused", |zone| {
        settled(zone) && refused(zone).len() == CLASHES
    })
    .await;
    let rejected = refused(&zone);
    let at_global = http.held(global.api()).await.unwrap();
    let held = http.held(east.api()).await.unwrap();
    assert_eq!(held.len(), 4 + CLASHES);
    assert!(held.iter().all(|(name, value)| at_global.get(name) == Some(value)));
    // Of each pair one is held and the other refused.
    let absent: BTreeSet<String> =
        at_global.keys().filter(|name| !held.contains_key(*name)).cloned().collect();
    assert_eq!(rejected, absent);
    let said = good(&["events", "--address", global.api()]).await;
    for name in &rejected {
        let told = |line: &&str| line.contains("rejected zone east") && line.contains(&format!("{name}:"));
        assert!(said.lines().any(|line| told(&line)), "{name}: {said}");
    }
    east.process.interrupt(&[]).await;

    // A restart fetches what was refused, and nothing else.
    until_east(&http, global.api(), "east is gone", |zone| zone["connected"] == false).await;
    let sent = global.metric("kds_delta_sent_bytes_total").await;
    assert!(sent > 300_000, "{sent}");
    let east = Part::east(&world, &global.process.kds, &UNIQUE).await;
    let again = until_east(&http, global.api(), "the same names are refused", |zone| {
        settled(zone) && refused(zone).len() == CLASHES
    })
    .await;
    assert_eq!(refused(&again), rejected);
    let sent = global.metric("kds_delta_sent_bytes_total").await - sent;
    assert!(sent < 100_000, "{sent} bytes were sent to a zone that had everything");
    assert_eq!(east.lines("applied"), [Value::Null; 0]);
    assert_eq!(east.metric("kdsync_zone_rejected{type=\"Secret\"}").await, CLASHES as u64);

    // The cause of one goes: its namesake arrives, on the same stream.
    let parked = rejected.first().unwrap();
    let name = parked.split_once('/').unwrap().1;
    let cause = held.keys().find(|held| held.ends_with(&format!("/{name}"))).unwrap();
    delete(&http, global.api(), cause).await;
    let zone =
        until_east(&http, global.api(), "one fewer is refused", |zone| refused(zone).len() == CLASHES - 1)
            .await;
    assert!(!refused(&zone).contains(parked));
    let held = http.held(east.api()).await.unwrap();
    assert_eq!(held.get(parked), at_global.get(parked));
    assert!(!held.contains_key(cause));
    assert_eq!(east.lines("connected to global").len(), 1, "it took no new stream");
    for part in [east, global] {
        part.process.interrupt(&[]).await;
    }
}
