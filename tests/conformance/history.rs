//! What zones are promised: positions, history, tombstones.

use kdsync::core::served::serve;
use kdsync::core::{Digest, Key, Labels, Position, Resource, ResourceType, Revision, SecretData, Timestamp};
use kdsync::store::{Changed, Op, ResourceStore, Served};

use crate::place::{NOW, Options, Place, Short as _, batch, delete, labelled, put, secret};

/// A throwaway RSA key: the store maps signing keys to their public half.
pub(crate) const SIGNING_KEY: &str = include_str!("signing-key.pem");

async fn full(store: &dyn ResourceStore) -> Served {
    store.served(None).await.unwrap().unwrap()
}

async fn position(store: &dyn ResourceStore, ty: ResourceType) -> Position {
    full(store).await.positions[&ty]
}

pub(crate) async fn the_served_set_moves_only_with_what_is_served(place: &dyn Place) {
    let store = place.store().await;
    let (a, g) = (Key::secret("m", "a"), Key::global_secret("g"));
    let start = Position::start(store.identity());
    assert_eq!(position(&*store, ResourceType::Secret).await, start);
    store.run(vec![put(secret(&a, "1"))]).await;
    store.run(vec![put(secret(&g, "1"))]).await;
    let at = position(&*store, ResourceType::Secret).await;
    let digest = Digest::of([(&a, &serve(&secret(&a, "1")).unwrap().version)]);
    assert_eq!(at, Position { revision: Revision(1), count: 1, digest, ..start });
    assert_eq!(position(&*store, ResourceType::GlobalSecret).await.revision, Revision(2));

    // Rows that do not leave global, and labels that say nothing of the content.
    store.run(vec![put(labelled(&Key::secret("m", "off"), "1", ("kuma.io/kds-sync", "disabled")))]).await;
    store.run(vec![put(secret(&Key::global_secret("envoy-admin-ca"), "1"))]).await;
    store.run(vec![put(labelled(&a, "1", ("kuma.io/env", "universal")))]).await;
    assert_eq!(position(&*store, ResourceType::Secret).await, at);
    assert_eq!(position(&*store, ResourceType::GlobalSecret).await.revision, Revision(2));
    let delta = store.served(Some(Revision(2))).await.unwrap().unwrap();
    assert_eq!((delta.revision, delta.rows.len(), delta.changes.len()), (Revision(5), 3, 0));

    // A label takes it out of the set, and brings it back.
    store.run(vec![put(labelled(&a, "1", ("kuma.io/kds-sync", "disabled")))]).await;
    let out = full(&*store).await;
    assert_eq!(out.positions[&ResourceType::Secret], Position { revision: Revision(6), ..start });
    assert_eq!(out.tombstones.len(), 1);
    store.run(vec![put(secret(&a, "1"))]).await;
    let back = full(&*store).await;
    assert_eq!(back.positions[&ResourceType::Secret], Position { revision: Revision(7), ..at });
    assert!(back.tombstones.is_empty());
    let revisions: Vec<_> = back.changes.iter().map(|change| (change.revision.0, change.ty)).collect();
    let (s, g) = (ResourceType::Secret, ResourceType::GlobalSecret);
    assert_eq!(revisions, [(1, s), (2, g), (6, s), (7, s)]);
}

pub(crate) async fn tombstones_come_and_go(place: &dyn Place) {
    let store = place.store().await;
    let (a, b) = (Key::secret("m", "a"), Key::secret("m", "b"));
    store.run(vec![put(secret(&a, "1")), put(secret(&b, "1"))]).await;
    let mut gone = batch([delete(&a)]);
    (gone.by, gone.at) = ("alice".into(), Timestamp(NOW.0 + 9));
    store.write(gone).await.unwrap();
    let tombstone = full(&*store).await.tombstones.remove(0);
    assert_eq!(tombstone.key, a);
    assert_eq!((tombstone.revision, tombstone.at), (Revision(2), Timestamp(NOW.0 + 9)));
    assert_eq!(tombstone.by, "alice");

    store.run(vec![delete(&b)]).await;
    let delta = store.served(Some(Revision(2))).await.unwrap().unwrap();
    assert_eq!(delta.tombstones.iter().map(|t| &t.key).collect::<Vec<_>>(), [&b]);
    assert_eq!(delta.gone, std::slice::from_ref(&b));
    assert_eq!((delta.changes.len(), &delta.changes[0].keys), (1, &vec![b.clone()]));
    store.run(vec![put(secret(&a, "2"))]).await;
    let now = full(&*store).await;
    assert_eq!(now.tombstones.iter().map(|t| &t.key).collect::<Vec<_>>(), [&b]);
    // Gone and back within one commit is not gone.
    store.run(vec![delete(&a), put(secret(&a, "2"))]).await;
    assert_eq!(full(&*store).await.positions, now.positions);
}

fn signing_key(name: &str) -> Resource {
    let data = SecretData::new(SIGNING_KEY.as_bytes().to_vec());
    Resource::secret(Key::global_secret(name), Labels::new(), data, NOW)
}

pub(crate) async fn a_mapped_key_hides_a_row_of_its_name(place: &dyn Place) {
    let store = place.store().await;
    let public = Key::global_secret("zone-token-signing-public-key-1");
    let private = signing_key("zone-token-signing-key-1");
    let global = ResourceType::GlobalSecret;
    store.run(vec![put(secret(&public, "user's own"))]).await;
    let own = position(&*store, global).await;
    store.run(vec![put(private.clone())]).await;
    let mapped = position(&*store, global).await;
    let digest = Digest::of([(&public, &serve(&private).unwrap().version)]);
    assert_eq!((mapped.count, mapped.digest, mapped.revision), (1, digest, Revision(2)));
    store.run(vec![put(secret(&public, "hidden change"))]).await;
    assert_eq!(position(&*store, global).await, mapped);
    store.run(vec![put(secret(&public, "user's own"))]).await;
    store.run(vec![delete(&private.key)]).await;
    let again = full(&*store).await;
    assert_eq!(again.positions[&global], Position { revision: Revision(5), ..own });
    assert!(again.tombstones.is_empty());
    // Whoever follows sees the row that came to light.
    let delta = store.served(Some(Revision(4))).await.unwrap().unwrap();
    assert_eq!((delta.gone, delta.rows.len()), (vec![private.key], 1));
    assert_eq!(delta.rows[0].resource.key, public);
}

fn numbered(number: u32) -> Op {
    put(secret(&Key::secret("m", &format!("k{}", number % 3)), &number.to_string()))
}

pub(crate) async fn old_history_is_forgotten(place: &dyn Place) {
    let store = place.open(Options { kept_history: 5, ..Options::default() }).await;
    for number in 0..5 {
        store.run(vec![numbered(number)]).await;
    }
    assert_eq!(full(&*store).await.oldest, Revision(0));
    assert!(store.served(Some(Revision(0))).await.unwrap().is_some());
    for number in 5..12 {
        store.run(vec![numbered(number)]).await;
    }
    let served = full(&*store).await;
    assert_eq!(served.oldest, Revision(8));
    let kept: Vec<_> = served.changes.iter().map(|change| change.revision.0).collect();
    assert_eq!(kept, [8, 9, 10, 11, 12], "the point to resume from is kept itself");
    assert!(store.served(Some(Revision(7))).await.unwrap().is_none());
    assert_eq!(store.served(Some(Revision(8))).await.unwrap().unwrap().changes.len(), 4);
    assert_eq!(store.changed_since(Revision(6)).await.unwrap(), Changed::TooOld);
    assert!(matches!(store.changed_since(Revision(8)).await.unwrap(), Changed::Keys { .. }));

    // Commits that touch nothing served push nothing out of the history.
    for number in 0..4 {
        let inner = secret(&Key::global_secret("inter-cp-ca"), &number.to_string());
        store.run(vec![put(inner)]).await;
    }
    assert_eq!(full(&*store).await.oldest, Revision(8));
}

pub(crate) async fn old_tombstones_are_forgotten(place: &dyn Place) {
    let store = place.open(Options { kept_tombstones: 1_000, ..Options::default() }).await;
    let keys: Vec<_> = (0..40).map(|number| Key::secret("m", &format!("k{number}"))).collect();
    store.run(keys.iter().map(|key| put(secret(key, "1"))).collect()).await;
    store.run(keys.iter().map(delete).collect()).await;
    assert_eq!(full(&*store).await.tombstones.len(), 40);
    let touch = async |number: u32, after: i64| {
        let mut write = batch([put(secret(&Key::global_secret("x"), &number.to_string()))]);
        write.at = Timestamp(NOW.0 + after);
        store.write(write).await.unwrap();
        full(&*store).await.tombstones.len()
    };
    for number in 0..20 {
        assert_eq!(touch(number, 1_000).await, 40, "none is old yet");
    }
    let mut left = 40;
    for number in 20..40 {
        let now = touch(number, 1_001).await;
        assert!(now <= left && left - now < 20, "a few at a time");
        left = now;
    }
    assert_eq!(left, 0);
}

pub(crate) async fn a_restart_keeps_everything(place: &dyn Place) {
    if !place.capabilities().survives_restart {
        return;
    }
    let store = place.store().await;
    for number in 0..10 {
        store.run(vec![numbered(number)]).await;
    }
    let mut write = batch([delete(&Key::secret("m", "k0")), put(secret(&Key::global_secret("g"), "1"))]);
    write.records = vec![("r".into(), Some(SecretData::new(vec![7])))];
    store.write(write).await.unwrap();
    let (identity, before) = (store.identity(), full(&*store).await);
    store.close().await;
    drop(store);
    let store = place.store().await;
    let after = full(&*store).await;
    assert_eq!(store.identity(), identity);
    assert_eq!(*store.changes().borrow(), before.revision);
    assert_eq!(after.positions, before.positions);
    assert_eq!(after.rows, before.rows);
    assert_eq!(after.changes, before.changes);
    assert_eq!((after.tombstones, after.oldest), (before.tombstones, before.oldest));
    assert_eq!(store.record("r").await.unwrap(), Some(SecretData::new(vec![7])));
    assert_eq!(store.run(vec![numbered(99)]).await.revision, Revision(before.revision.0 + 1));
}
