//! SIGKILL under load.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Http, World, base64};

const NAMES: usize = 4;

fn names(lane: usize) -> Vec<String> {
    (0..NAMES).map(|n| format!("lane{lane}-{n}")).collect()
}

/// What each lane was told last, and what it may hold beyond that: a write that was not answered.
#[derive(Default)]
struct Lane {
    acknowledged: u64,
    sent: u64,
}

/// Writes batches until nobody answers.
async fn load(http: &Http, api: &str, number: usize, lane: &mut Lane) {
    loop {
        lane.sent += 1;
        if !http.batch(api, &names(number), &lane.sent.to_string()).await {
            return;
        }
        lane.acknowledged = lane.sent;
    }
}

fn check(held: &BTreeMap<String, String>, number: usize, lane: &Lane) {
    let values: Vec<_> = names(number).iter().map(|name| held.get(&format!("default/{name}"))).collect();
    assert!(values.iter().all(|value| *value == values[0]), "a batch is torn: {values:?}");
    let good = [lane.acknowledged, lane.sent].map(|value| base64(&value.to_string()));
    let lost = values[0].map_or(lane.acknowledged > 0, |value| !good.contains(value));
    assert!(!lost, "lane {number}: acknowledged {}, found {values:?}", lane.acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_and_no_batch_is_torn() {
    let (world, http) = (World::new(), Http::new());
    let mut lanes: [Lane; 3] = Default::default();
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..32 {
        let global = world.global("global", "").await;
        let api = global.api.clone();
        let held = http.held(&api).await.unwrap();
        for (number, lane) in lanes.iter_mut().enumerate() {
            check(&held, number, lane);
            // What is there now was durable, acknowledged or not.
            if held.get(&format!("default/lane{number}-0")) == Some(&base64(&lane.sent.to_string())) {
                lane.acknowledged = lane.sent;
            }
        }
        let [one, two, three] = &mut lanes;
        let mut pause = tokio::time::interval(Duration::from_millis(random.u64(20..250)));
        pause.tick().await;
        tokio::join!(
            load(&http, &api, 0, one),
            load(&http, &api, 1, two),
            load(&http, &api, 2, three),
            async {
                pause.tick().await;
                global.kill().await;
            }
        );
    }
    assert!(lanes.iter().all(|lane| lane.acknowledged > 10), "there was hardly any load");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_killed_between_commits_converges() {
    let (world, http) = (World::new(), Http::new());
    let global = world.global("global", "").await;
    let mut random = fastrand::Rng::with_seed(12);
    let mut value = 0;
    for _ in 0..8 {
        let zone = world.zone("east", &global.kds).await;
        let mut pause = tokio::time::interval(Duration::from_millis(random.u64(30..200)));
        pause.tick().await;
        let writing = async {
            loop {
                value += 1;
                assert!(http.batch(&global.api, &names(value % 5), &value.to_string()).await);
            }
        };
        tokio::select! {
            () = writing => {}
            _ = pause.tick() => {}
        }
        let log = zone.kill().await;
        assert!(!log.text().contains("panicked"), "{}", log.text());
    }
    let zone = world.zone("east", &global.kds).await;
    assert!(http.converge(&global.api, &zone.api).await.len() >= NAMES);
    for process in [zone, global] {
        process.interrupt(&[]).await;
    }
}
