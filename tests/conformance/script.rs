//! Random scripts against the naive model. `SEED=n` replays one.

use std::collections::BTreeSet;
use std::sync::Arc;

use kdsync::core::{Key, ResourceType, Revision, Timestamp};
use kdsync::store::{Batch, Changed, Op, Precondition, Query, ResourceStore};

use crate::history::SIGNING_KEY;
use crate::model::Model;
use crate::place::{NOW, Place, secret};

const SCRIPTS: u64 = 12;
const STEPS: u32 = 60;

fn key(random: &mut fastrand::Rng) -> Key {
    const GLOBAL: [&str; 6] = [
        "g",
        "envoy-admin-ca",
        "zone-token-signing-key-1",
        "zone-token-signing-public-key-1",
        "zone-token-signing-key-zone-token-signing-key",
        "zone-token-signing-key-zone-token-signing-public-key",
    ];
    match random.u8(..4) {
        0 | 1 => Key::secret(["m", "m-2"][random.usize(..2)], ["a", "b", "c"][random.usize(..3)]),
        _ => Key::global_secret(GLOBAL[random.usize(..GLOBAL.len())]),
    }
}

fn op(random: &mut fastrand::Rng, model: &Model) -> Op {
    let key = key(random);
    let known = model.rows.get(&key).map(|(row, _)| Precondition::Version(row.version()));
    let expect = match random.u8(..20) {
        0 => Precondition::Absent,
        1 => Precondition::Present,
        2 => known.unwrap_or(Precondition::Absent),
        _ => Precondition::Any,
    };
    if random.u8(..3) == 0 {
        return Op::Delete { key, expect };
    }
    let value = if random.bool() { SIGNING_KEY.to_owned() } else { random.u8(..3).to_string() };
    let mut resource = secret(&key, &value);
    match random.u8(..8) {
        0 => drop(resource.labels.insert("kuma.io/kds-sync".into(), "disabled".into())),
        1 => drop(resource.labels.insert("kuma.io/origin".into(), "zone".into())),
        2 => drop(resource.labels.insert("kuma.io/env".into(), "universal".into())),
        3 => drop(resource.labels.insert("team".into(), random.u8(..2).to_string())),
        _ => {}
    }
    resource.modified = Timestamp(NOW.0 + random.i64(..100));
    Op::Put { resource, expect }
}

async fn compare(store: &Arc<dyn ResourceStore>, model: &Model, random: &mut fastrand::Rng) {
    let served = store.served(None).await.unwrap().unwrap();
    assert_eq!(served.revision, model.revision);
    assert_eq!(served.positions, model.positions);
    assert_eq!(served.changes, model.changes);
    assert_eq!(served.tombstones, model.tombstones.values().cloned().collect::<Vec<_>>());
    let rows: Vec<_> = served.rows.iter().map(|row| (&row.resource, row.head.revision)).collect();
    assert_eq!(rows, model.rows.values().map(|(row, revision)| (row, *revision)).collect::<Vec<_>>());
    assert!(served.rows.iter().all(|row| row.head.version == row.resource.version()));

    let after = Revision(random.u64(..=model.revision.0));
    let delta = store.served(Some(after)).await.unwrap().unwrap();
    let newer = |revision: Revision| revision > after;
    let changes: Vec<_> = model.changes.iter().filter(|change| newer(change.revision)).cloned().collect();
    assert_eq!(delta.changes, changes);
    let tombstones: Vec<_> = model.tombstones.values().filter(|t| newer(t.revision)).cloned().collect();
    assert_eq!(delta.tombstones, tombstones);
    let touched: BTreeSet<_> = model.touched.iter().filter(|(revision, _)| newer(*revision)).collect();
    let touched: BTreeSet<_> = touched.into_iter().map(|(_, key)| key.clone()).collect();
    let Changed::Keys { keys, .. } = store.changed_since(after).await.unwrap() else { panic!("too old") };
    let reported: BTreeSet<_> = keys.into_iter().collect();
    assert!(reported.is_superset(&touched), "and at most rows that came to light besides");
    let stored: BTreeSet<_> = delta.rows.iter().map(|row| row.resource.key.clone()).collect();
    assert_eq!(reported, stored.into_iter().chain(delta.gone).collect());
}

#[expect(clippy::print_stdout, reason = "a failure names its seed")]
pub(crate) async fn agrees_with_a_naive_model(place: &dyn Place) {
    let fixed = std::env::vars().find(|(name, _)| name == "SEED").map(|(_, seed)| seed.parse().unwrap());
    let seeds = fixed.map_or_else(|| (1..=SCRIPTS).collect(), |seed: u64| vec![seed]);
    let mut store = place.store().await;
    let mut model = Model::new(store.identity());
    for seed in seeds {
        println!("SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for step in 0..STEPS {
            let mut batch = Batch { by: format!("{seed}/{step}"), at: NOW, ..Batch::default() };
            for _ in 0..random.usize(1..5) {
                let op = op(&mut random, &model);
                batch.ops.push(op);
            }
            let expected = model.write(&batch);
            let commit = store.write(batch).await.ok();
            assert_eq!(commit.map(|commit| (commit.revision, commit.outcomes)), expected);
            if step % 5 == 0 {
                compare(&store, &model, &mut random).await;
            }
        }
        compare(&store, &model, &mut random).await;
        if place.capabilities().survives_restart {
            store.close().await;
            store = place.store().await;
            compare(&store, &model, &mut random).await;
        }
    }
    let total = store.list(Query::all(ResourceType::GlobalSecret)).await.unwrap().total;
    assert_eq!(total, model.rows.keys().filter(|key| key.ty == ResourceType::GlobalSecret).count());
}
