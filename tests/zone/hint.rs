//! What somebody writes in a zone is noticed by the store's hint.
//!
//! Everything is compared with the ledger once a minute, and nothing here waits longer than
//! `rig::PATIENCE`, a third of that: of five writes, one after the other, the slow timer could explain one
//! at most.

use super::rig::Rig;
use super::scripted::{Kind, Scripted};

const WRITES: usize = 5;

#[tokio::test]
async fn sweeps_follow_the_hint() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let _stream = global.synced("c1", &[("a", "1")]).await;
    for n in 0..WRITES {
        let name = format!("local{n}");
        rig.put(&name, "x").await;
        rig.event(&format!("swept Secret default/{name}")).await;
        rig.holds(&["a=1"]).await;
    }
    // The same name again is news, too.
    for n in 1..=WRITES {
        rig.put("local0", &format!("again{n}")).await;
        rig.nth_event(n, "swept Secret default/local0").await;
    }
    rig.holds(&["a=1"]).await;
    rig.stop().await;
}

/// Names differ, because the third repair of one name within a minute is the last for a while.
async fn repairs(rig: &Rig, first: usize) {
    let all: Vec<_> = (0..2 * WRITES).map(|n| format!("s{n}=1")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    for n in first..first + WRITES {
        let name = format!("s{n}");
        if n % 2 == 0 {
            rig.put(&name, "tampered").await;
        } else {
            rig.delete(&name).await;
        }
        rig.event(&format!("repaired Secret default/{name}")).await;
        rig.holds(&all).await;
    }
}

#[tokio::test]
async fn repairs_follow_the_hint_with_and_without_global() {
    let mut global = Scripted::start(Kind::New).await;
    let rig = Rig::start(&global.url()).await;
    let names: Vec<_> = (0..2 * WRITES).map(|n| format!("s{n}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let stream = global.synced("c1", &rows).await;
    repairs(&rig, 0).await;
    stream.end(tonic::Status::unavailable("shutting down"));
    drop(global);
    rig.event("disconnected").await;
    repairs(&rig, WRITES).await;
    rig.stop().await;
}
