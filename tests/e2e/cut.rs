//! A first sync in many pages that is cut in the middle, and what is deleted meanwhile.

use serde_json::Value;

use super::parts::{Part, delete, secrets, write_all};
use super::proxy::Proxy;
use super::world::{Http, World, until};

const COUNT: usize = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_sync_that_is_cut_ends_exact_and_keeps_nothing() {
    let (world, http) = (World::new(), Http::new());
    let global = Part::global(&world, &[("KDSYNC_MULTIZONE_GLOBAL_KDS_PAGE_SIZE", "64KiB")]).await;
    write_all(&http, global.api(), &secrets("default", "s", 0..COUNT, 4_000)).await;
    // What another zone has, global serves.
    let west = Part::zone(world.zone_command("west", "west", &global.process.kds)).await;
    http.converge(global.api(), west.api()).await;
    // About a quarter of the set passes; then the line is still, in the middle of a page.
    let proxy = Proxy::for_bytes(&global.process.kds, 600_000).await;
    let east = Part::east(&world, &proxy.url(), &[]).await;
    proxy.stilled().await;
    let held = until("some pages are applied", || async {
        http.held(east.api()).await.filter(|held| held.len() > 20)
    })
    .await;
    assert!(held.len() < COUNT / 2, "{} of {COUNT} came through", held.len());
    assert_eq!(east.ready().await, 503, "a part of the set is not all of it");
    let log = east.process.kill().await;
    assert!(!log.text().contains("panicked"), "{}", log.text());

    let mut all: Vec<String> = http.held(global.api()).await.unwrap().into_keys().collect();
    let had = held.keys().next().unwrap().clone();
    // The last of all: it cannot have come with a page that was applied after the look.
    let never_had = all.pop().unwrap();
    assert!(!held.contains_key(&never_had));
    for name in [&had, &never_had] {
        delete(&http, global.api(), name).await;
    }

    // It serves what it has, and says that this is not everything.
    let east = Part::east(&world, &proxy.url(), &[]).await;
    let served = http.held(east.api()).await.unwrap();
    assert!(served.len() >= held.len() && served.contains_key(&had));
    assert_eq!(east.ready().await, 503);
    proxy.pass();
    let held = http.converge(global.api(), east.api()).await;
    assert_eq!(held.len(), COUNT - 2);
    until("the zone is ready", || async { (east.ready().await == 200).then_some(()) }).await;
    // What global deleted went by its tombstone: it was not kept, and it was nobody's secret of this zone.
    for word in ["kept", "swept", "quarantined", "rejected", "repaired"] {
        assert_eq!(east.lines(word), [Value::Null; 0], "{word}");
    }
    assert_eq!(east.metric("kdsync_zone_kept{type=\"Secret\"}").await, 0);
    east.process.interrupt(&[]).await;
    // Or global would wait for the connection that was cut.
    drop(proxy);
    for part in [west, global] {
        part.process.interrupt(&[]).await;
    }
}
