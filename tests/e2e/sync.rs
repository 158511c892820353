//! What a user sees: secrets applied at global are in every zone, and what is made in a zone goes.

use serde_json::Value;

use super::world::{Http, World, free_port, good, run, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_reach_every_zone_and_local_ones_go() {
    let (world, http) = (World::new(), Http::new());
    let global = world.global("global", "").await;
    let east = world.zone("east", &global.kds).await;
    let west = world.zone("west", &global.kds).await;
    let said = good(&["apply", "-f", "examples/secrets.yaml", "--address", &global.api]).await;
    assert!(said.contains("sample-secret"), "{said}");
    for zone in [&east, &west] {
        let held = http.converge(&global.api, &zone.api).await;
        assert_eq!(held.len(), 3, "{held:?}");
        assert!(held.contains_key("default/sample-secret"));
    }
    for zone in ["east", "west"] {
        let args = ["get", "secrets", "--zone", zone, "-o", "json", "--address", &global.api];
        let said = until("the zone tells its address", || async {
            let said = run(&args).await;
            (said.code == Some(0)).then_some(said.out)
        })
        .await;
        assert!(said.contains("sample-secret") && said.contains("database-password"), "{said}");
    }
    // A secret of the zone's own: accepted with a warning, swept, and reported by name at global.
    good(&["apply", "-f", "examples/local.yaml", "--address", &east.api]).await;
    until("the sweep is told at global", || async {
        let said = good(&["events", "--address", &global.api]).await;
        said.lines().any(|line| line.contains("swept") && line.contains("made-in-the-zone")).then_some(())
    })
    .await;
    assert!(!http.held(&east.api).await.unwrap().contains_key("default/made-in-the-zone"));
    // What is changed or deleted in a zone is put back.
    http.put(&east.api, "sample-secret", "tampered").await;
    http.converge(&global.api, &east.api).await;
    let url = format!("{}/meshes/default/secrets/sample-secret", east.api);
    http.send("DELETE", &url, &Value::Null).await.unwrap();
    assert_eq!(http.converge(&global.api, &east.api).await.len(), 3);
    // Change and delete at global.
    http.put(&global.api, "sample-secret", "changed").await;
    good(&["delete", "secret", "database-password", "--address", &global.api]).await;
    for zone in [&east, &west] {
        assert_eq!(http.converge(&global.api, &zone.api).await.len(), 2);
    }
    for process in [east, west, global] {
        process.interrupt(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_serve_while_global_is_gone_and_converge_after() {
    let (world, http) = (World::new(), Http::new());
    let global = world.global("global", "").await;
    let east = world.zone("east", &global.kds).await;
    http.put(&global.api, "a", "1").await;
    http.put(&global.api, "b", "1").await;
    http.converge(&global.api, &east.api).await;
    let kds = global.kds.clone();
    global.kill().await;
    east.line("no connection to global").await;
    assert_eq!(http.held(&east.api).await.unwrap().len(), 2);
    // Nothing is swept meanwhile, and what was changed is put back.
    http.put(&east.api, "local", "x").await;
    http.put(&east.api, "a", "tampered").await;
    east.line("repaired").await;
    assert_eq!(http.held(&east.api).await.unwrap().len(), 3);
    // A zone that starts now comes up, and one that restarts serves what it held.
    let west = world.zone("west", &kds).await;
    east.kill().await;
    let east = world.zone("east", &kds).await;
    assert_eq!(http.held(&east.api).await.unwrap().len(), 3);
    assert!(http.held(&west.api).await.unwrap().is_empty());

    let global = world.global("global", &kds).await;
    http.put(&global.api, "c", "1").await;
    for zone in [&east, &west] {
        let held = http.converge(&global.api, &zone.api).await;
        assert_eq!(held.keys().collect::<Vec<_>>(), ["default/a", "default/b", "default/c"]);
    }
    for process in [east, west, global] {
        process.interrupt(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_starting_does_not_matter() {
    let (world, http) = (World::new(), Http::new());
    let kds = format!("grpc://127.0.0.1:{}", free_port());
    let before = world.zone("before", &kds).await;
    before.line("no connection to global").await;
    let (global, during) = tokio::join!(world.global("global", &kds), world.zone("during", &kds));
    good(&["apply", "-f", "examples/secrets.yaml", "--address", &global.api]).await;
    let after = world.zone("after", &kds).await;
    for zone in [&before, &during, &after] {
        assert_eq!(http.converge(&global.api, &zone.api).await.len(), 3);
    }
    for process in [global, before, during, after] {
        process.interrupt(&[]).await;
    }
}
