//! What concurrent writers, and readers beside them, are promised.

use std::collections::BTreeMap;
use std::sync::Arc;

use kdsync::core::{Key, ResourceType, Revision, Version};
use kdsync::store::{Changed, Outcome, Precondition, Query, ResourceStore, StoreError};
use tokio::task::JoinSet;

use crate::place::{Place, Short as _, batch, delete, delete_if, put, put_if, secret, version};

async fn increment(store: &Arc<dyn ResourceStore>, key: &Key) {
    loop {
        let row = store.get(key).await.unwrap().unwrap();
        let number: u32 = String::from_utf8_lossy(row.resource.data().unwrap().expose()).parse().unwrap();
        let next = secret(key, &(number + 1).to_string());
        match store.try_do(put_if(next, Precondition::Version(row.head.version))).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

pub(crate) async fn compare_and_write_loses_no_update(place: &dyn Place) {
    let store = place.store().await;
    let key = Key::secret("m", "counter");
    store.run(vec![put(secret(&key, "0"))]).await;
    let mut writers = JoinSet::new();
    for _ in 0..2 {
        let (store, key) = (store.clone(), key.clone());
        writers.spawn(async move {
            for _ in 0..25 {
                increment(&store, &key).await;
            }
        });
    }
    writers.join_all().await;
    assert_eq!(store.value(&key).await, Some(b"50".to_vec()));
    assert_eq!(store.get(&key).await.unwrap().unwrap().head.revision, Revision(51));
}

pub(crate) async fn one_of_many_creators_wins(place: &dyn Place) {
    let store = place.store().await;
    let key = Key::global_secret("one");
    let mut creators = JoinSet::new();
    for number in 0..8 {
        let (store, key) = (store.clone(), key.clone());
        creators.spawn(async move {
            store.try_do(put_if(secret(&key, &number.to_string()), Precondition::Absent)).await.is_ok()
        });
    }
    assert_eq!(creators.join_all().await.into_iter().filter(|won| *won).count(), 1);
}

pub(crate) async fn one_of_delete_and_change_wins(place: &dyn Place) {
    let store = place.store().await;
    for round in 0..20 {
        let key = Key::secret("m", &format!("k{round}"));
        store.run(vec![put(secret(&key, "seen"))]).await;
        let seen = Precondition::Version(version(&key, "seen"));
        let (changed, deleted) = tokio::join!(
            store.try_do(put_if(secret(&key, "changed"), seen)),
            store.try_do(delete_if(&key, seen)),
        );
        match (changed, deleted) {
            (Ok(Outcome::Updated), Err(StoreError::Conflict { .. })) => {
                assert_eq!(store.value(&key).await, Some(b"changed".to_vec()));
            }
            (Err(StoreError::Conflict { .. }), Ok(Outcome::Deleted)) => {
                assert_eq!(store.value(&key).await, None);
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn concurrent_batches_never_mix(place: &dyn Place) {
    if !place.capabilities().atomic_batches {
        return;
    }
    let store = place.store().await;
    let keys = [Key::secret("m", "left"), Key::secret("m", "right")];
    let mut writers = JoinSet::new();
    for writer in 0..2 {
        let (store, keys) = (store.clone(), keys.clone());
        writers.spawn(async move {
            let mut revisions = Vec::new();
            for round in 0..20 {
                let value = format!("{writer}-{round}");
                let both = batch(keys.iter().map(|key| put(secret(key, &value))));
                revisions.push(store.write(both).await.unwrap().revision);
            }
            revisions
        });
    }
    while !writers.is_empty() {
        let listing = store.list(Query::all(ResourceType::Secret)).await.unwrap();
        if let [left, right] = &listing.rows[..] {
            assert_eq!(left.resource.data(), right.resource.data());
            assert_eq!(left.head.revision, right.head.revision);
        }
        if let Some(done) = writers.try_join_next() {
            assert!(done.unwrap().is_sorted());
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(*store.changes().borrow(), Revision(40));
}

/// Follows a store by asking what changed, without a hint.
async fn poll(store: &Arc<dyn ResourceStore>, at: &mut Revision, seen: &mut BTreeMap<Key, Version>) {
    let Changed::Keys { revision, keys } = store.changed_since(*at).await.unwrap() else {
        panic!("nothing was forgotten");
    };
    for (key, head) in store.heads_of(keys).await.unwrap() {
        match head {
            Some(head) => seen.insert(key, head.version),
            None => seen.remove(&key),
        };
    }
    *at = revision;
}

pub(crate) async fn a_reader_without_hints_catches_up(place: &dyn Place) {
    let store = place.store().await;
    let (mut at, mut seen) = (Revision(0), BTreeMap::new());
    for round in 0..30u32 {
        let key = Key::secret("m", &format!("k{}", round * 7 % 10));
        let op = if round % 3 == 2 { delete(&key) } else { put(secret(&key, &round.to_string())) };
        store.run(vec![op]).await;
        if round % 4 == 0 {
            poll(&store, &mut at, &mut seen).await;
        }
    }
    poll(&store, &mut at, &mut seen).await;
    let heads = store.heads(ResourceType::Secret).await.unwrap();
    let expected: BTreeMap<_, _> = heads.into_iter().map(|(key, head)| (key, head.version)).collect();
    assert_eq!(seen, expected);
    let nothing = Changed::Keys { revision: at, keys: vec![] };
    assert_eq!(store.changed_since(at).await.unwrap(), nothing);
    // A history that lies ahead is not this one.
    assert_eq!(store.changed_since(Revision(at.0 + 1)).await.unwrap(), Changed::TooOld);
    assert!(store.served(Some(Revision(at.0 + 1))).await.unwrap().is_none());
}
