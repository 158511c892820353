//! A disk that is full under a running zone.

use tokio::process::Command;

use super::parts::{Part, secrets, write_all};
use super::world::{Http, World, until};

/// The same command, in which no file may grow beyond this many bytes: writing further fails, as on a full disk.
fn limited(command: &Command, bytes: u64) -> Command {
    let command = command.as_std();
    let script = r#"trap '' XFSZ; ulimit -f "$1" || exit 9; shift; exec "$@""#;
    let mut sh = Command::new("sh");
    // The unit of ulimit is 512 bytes, or 1024 in some shells.
    sh.args(["-c", script, "sh", &(bytes / 512).to_string()]);
    sh.arg(command.get_program()).args(command.get_args()).kill_on_drop(true);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => sh.env(name, value),
            None => sh.env_remove(name),
        };
    }
    sh.current_dir(env!("CARGO_MANIFEST_DIR"));
    sh
}

/// The pauses that the zone has announced between attempts, in seconds.
fn pauses(east: &Part) -> Vec<f64> {
    let lines = east.lines("no connection to global; keeping everything");
    lines.iter().map(|line| line["retry_in_s"].as_f64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_neither_serving_nor_the_zone_and_loses_nothing() {
    let (world, http) = (World::new(), Http::new());
    let global = Part::global(&world, &[]).await;
    write_all(&http, global.api(), &secrets("default", "early", 0..20, 2_000)).await;
    let east = Part::east(&world, &global.process.kds, &[]).await;
    let early = http.converge(global.api(), east.api()).await;
    east.process.interrupt(&[]).await;

    let file = world.dir.path().join("east/zone.redb");
    let room = std::fs::metadata(&file).unwrap().len() + 512 * 1024;
    let command = world.zone_command("east", "east", &global.process.kds);
    let east = Part::zone(limited(&command, room)).await;
    east.process.line("in sync with global").await;
    // More than fits, whatever the unit of the limit is.
    let count = usize::try_from(room).unwrap() / 500_000 * 2 + 4;
    let late = secrets("default", "late", 0..count, 500_000);
    for items in late.chunks(8) {
        write_all(&http, global.api(), items).await;
    }
    let failure = east.process.line("the zone's store failed").await;
    assert_eq!(failure["level"], "ERROR");

    // It goes on, tries again ever more seldom, and serves.
    until("the pauses grow", || async { pauses(&east).iter().any(|pause| *pause > 1.0).then_some(()) }).await;
    let tried = pauses(&east).len();
    assert!(tried <= 16, "{tried} attempts: {:?}", pauses(&east));
    assert!(east.metric("kdsync_zone_connects_total").await <= 17);
    let (wanted, held) = (http.held(global.api()).await.unwrap(), http.held(east.api()).await.unwrap());
    assert!(early.iter().all(|(name, value)| held.get(name) == Some(value)), "what it had is served");
    assert!(held.iter().all(|(name, value)| wanted.get(name) == Some(value)), "and nothing else");
    assert!(held.len() < wanted.len(), "the limit was too high to be met");
    assert_eq!(east.ready().await, 200);
    east.process.interrupt(&["store failed", "commit failed"]).await;

    let east = Part::east(&world, &global.process.kds, &[]).await;
    let held = http.converge(global.api(), east.api()).await;
    assert_eq!(held.len(), early.len() + count);
    for part in [east, global] {
        part.process.interrupt(&[]).await;
    }
}
