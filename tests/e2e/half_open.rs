//! A connection that is open at both ends and carries nothing.

use super::parts::{Part, until_east};
use super::proxy::Proxy;
use super::world::{Http, World};

/// Keepalive asks after 15 s and waits 10 s: this test takes that long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_notice_a_half_open_connection_and_nothing_is_deleted() {
    let (world, http) = (World::new(), Http::new());
    let global = Part::global(&world, &[]).await;
    let proxy = Proxy::to(&global.process.kds).await;
    let east = Part::east(&world, &proxy.url(), &[]).await;
    for name in ["a", "b"] {
        http.put(global.api(), name, "1").await;
    }
    let held = http.converge(global.api(), east.api()).await;
    until_east(&http, global.api(), "east is connected", |zone| zone["connected"] == true).await;
    assert_eq!(proxy.carried(), 1);

    proxy.still();
    // What happens at global meanwhile does not reach the zone.
    http.put(global.api(), "c", "1").await;
    super::parts::delete(&http, global.api(), "default/b").await;
    let at_global = until_east(&http, global.api(), "global notices", |zone| zone["connected"] == false);
    let (_, lost) = tokio::join!(at_global, east.process.line("no connection to global"));
    assert_eq!(lost["level"], "WARN");
    assert_eq!(http.held(east.api()).await.unwrap(), held, "nothing is deleted on a lost connection");
    assert_eq!((proxy.carried(), east.ready().await), (1, 200));

    proxy.pass();
    let held = http.converge(global.api(), east.api()).await;
    assert_eq!(held.keys().collect::<Vec<_>>(), ["default/a", "default/c"]);
    assert!(proxy.carried() >= 2, "the stilled connection never carries anything again");
    until_east(&http, global.api(), "east is connected again", |zone| zone["connected"] == true).await;
    for part in [east, global] {
        part.process.interrupt(&[]).await;
    }
}
