//! Who is who: one data folder, one zone name, one history.

use super::world::{Http, Process, World, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_folder_is_for_one_process() {
    let world = World::new();
    let global = world.global("global", "").await;
    let zone = world.zone("east", &global.kds).await;
    for command in [world.zone_command("west", "east", &global.kds), world.global_command("global", "0")] {
        let mut second = Process::start(command);
        assert_eq!(second.ended().await.code(), Some(1));
        second.line_of_text("another process").await;
    }
    for process in [zone, global] {
        process.interrupt(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_of_two_with_one_name_wins_and_the_older_is_told() {
    let (world, http) = (World::new(), Http::new());
    let global = world.global("global", "").await;
    http.put(&global.api, "a", "1").await;
    let older = world.zone("east", &global.kds).await;
    http.converge(&global.api, &older.api).await;
    let newer = Process::start(world.zone_command("east", "other", &global.kds));
    older.line("no connection to global").await;
    until("the older is told why", || async { older.log.text().contains("Aborted").then_some(()) }).await;
    newer.line("in sync with global").await;
    // They alternate: an alarm tells of both.
    let allowed = ["same name", "rival", "alternate", "one name", "two"];
    for process in [older, newer, global] {
        process.interrupt(&allowed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_global_empties_nobody() {
    let (world, http) = (World::new(), Http::new());
    let global = world.global("global", "").await;
    for name in ["a", "b"] {
        http.put(&global.api, name, "1").await;
    }
    let east = world.zone("east", &global.kds).await;
    let held = http.converge(&global.api, &east.api).await;
    let kds = global.kds.clone();
    global.kill().await;

    let wiped = world.global("wiped", &kds).await;
    http.put(&wiped.api, "a", "other").await;
    http.put(&wiped.api, "c", "new").await;
    east.line("another history").await;
    assert_eq!(http.held(&east.api).await.unwrap(), held);
    // Not even a secret of the zone's own goes on the word of a stranger.
    http.put(&east.api, "local", "x").await;
    http.put(&east.api, "a", "tampered").await;
    east.line("repaired").await;
    let now = http.held(&east.api).await.unwrap();
    assert!(
        now.contains_key("default/local") && held.iter().all(|(name, value)| now.get(name) == Some(value))
    );
    wiped.interrupt(&["another history"]).await;
    // The right one comes back.
    let global = world.global("global", &kds).await;
    http.put(&global.api, "d", "1").await;
    assert_eq!(http.converge(&global.api, &east.api).await.len(), 3);
    for process in [east, global] {
        process.interrupt(&["another history"]).await;
    }
}
