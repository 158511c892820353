//! What a single writer is promised.

use kdsync::core::{Key, ResourceType, Revision, SecretData, Timestamp};
use kdsync::store::Outcome::{Created, Deleted, Unchanged, Updated};
use kdsync::store::{Batch, Outcome, Precondition, Query, StoreError};

use crate::place::{
    NOW, Options, Place, Short as _, batch, delete, delete_if, labelled, put, put_if, secret, version,
};

fn a() -> Key {
    Key::secret("default", "a")
}

fn b() -> Key {
    Key::global_secret("b")
}

pub(crate) async fn creates_replaces_and_deletes(place: &dyn Place) {
    let store = place.store().await;
    assert_eq!(store.get(&a()).await.unwrap(), None);
    assert_eq!(store.try_do(put(secret(&a(), "1"))).await, Ok(Outcome::Created));
    let first = store.get(&a()).await.unwrap().unwrap();
    assert_eq!(first.resource, secret(&a(), "1"));
    assert_eq!(first.head.version, version(&a(), "1"));
    let mut second = secret(&a(), "2");
    (second.created, second.modified) = (Timestamp(NOW.0 + 5), Timestamp(NOW.0 + 6));
    assert_eq!(store.try_do(put(second)).await, Ok(Outcome::Updated));
    let row = store.get(&a()).await.unwrap().unwrap();
    assert_eq!((row.resource.created, row.resource.modified), (NOW, Timestamp(NOW.0 + 6)));
    assert!(row.head.revision > first.head.revision);
    assert_eq!(store.try_do(delete(&a())).await, Ok(Outcome::Deleted));
    assert_eq!(store.get(&a()).await.unwrap(), None);
    assert_eq!(store.try_do(delete(&a())).await, Ok(Outcome::Missing));
}

pub(crate) async fn preconditions_hold_or_refuse(place: &dyn Place) {
    let store = place.store().await;
    let old = Precondition::Version(version(&a(), "old"));
    let missing = |result: Result<Outcome, StoreError>| matches!(result, Err(StoreError::NotFound { .. }));
    let conflict = |result: Result<Outcome, StoreError>| matches!(result, Err(StoreError::Conflict { .. }));
    let write = |expect| put_if(secret(&a(), "new"), expect);
    assert!(missing(store.try_do(write(Precondition::Present)).await));
    assert!(missing(store.try_do(delete_if(&a(), Precondition::Present)).await));
    assert!(conflict(store.try_do(write(old)).await));
    assert!(conflict(store.try_do(delete_if(&a(), old)).await));
    assert_eq!(store.try_do(delete_if(&a(), Precondition::Absent)).await, Ok(Outcome::Missing));
    assert_eq!(store.value(&a()).await, None);

    let create = put_if(secret(&a(), "old"), Precondition::Absent);
    assert_eq!(store.try_do(create.clone()).await, Ok(Outcome::Created));
    assert!(conflict(store.try_do(create).await));
    assert!(conflict(store.try_do(delete_if(&a(), Precondition::Absent)).await));
    assert_eq!(store.try_do(write(old)).await, Ok(Outcome::Updated));
    assert!(conflict(store.try_do(write(old)).await));
    assert!(conflict(store.try_do(delete_if(&a(), old)).await));
    assert_eq!(store.value(&a()).await, Some(b"new".to_vec()));
    assert_eq!(store.try_do(write(Precondition::Present)).await, Ok(Outcome::Unchanged));
    let new = Precondition::Version(version(&a(), "new"));
    assert_eq!(store.try_do(delete_if(&a(), new)).await, Ok(Outcome::Deleted));
}

pub(crate) async fn a_batch_is_all_or_nothing(place: &dyn Place) {
    if !place.capabilities().atomic_batches {
        return;
    }
    let store = place.store().await;
    store.run(vec![put(secret(&a(), "1"))]).await;
    let before = store.served(None).await.unwrap().unwrap();
    let mut refused = batch([
        put(secret(&b(), "1")),
        delete(&a()),
        put_if(secret(&Key::global_secret("c"), "1"), Precondition::Present),
    ]);
    refused.records = vec![("r".into(), Some(SecretData::new(vec![1])))];
    assert!(matches!(store.write(refused).await, Err(StoreError::NotFound { .. })));
    let after = store.served(None).await.unwrap().unwrap();
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
    assert_eq!(after.rows, before.rows);
    assert_eq!(store.record("r").await.unwrap(), None);
    assert_eq!(store.value(&b()).await, None);
    assert_eq!(*store.changes().borrow(), before.revision);
}

pub(crate) async fn a_batch_sees_its_own_operations(place: &dyn Place) {
    let store = place.store().await;
    let commit = store
        .run(vec![
            put_if(secret(&a(), "1"), Precondition::Absent),
            put_if(secret(&a(), "2"), Precondition::Version(version(&a(), "1"))),
            put(secret(&b(), "1")),
            delete_if(&b(), Precondition::Present),
            put_if(secret(&b(), "2"), Precondition::Absent),
            put(secret(&b(), "2")),
        ])
        .await;
    assert_eq!(commit.outcomes, [Created, Updated, Created, Deleted, Created, Unchanged]);
    assert_eq!(store.value(&a()).await, Some(b"2".to_vec()));
    assert_eq!(store.value(&b()).await, Some(b"2".to_vec()));
    let nothing = Key::global_secret("nothing");
    let commit = store.run(vec![put(secret(&nothing, "1")), delete(&nothing)]).await;
    assert_eq!((commit.revision, commit.outcomes), (Revision(1), vec![Created, Deleted]));
}

pub(crate) async fn unchanged_puts_write_nothing(place: &dyn Place) {
    let store = place.store().await;
    store.run(vec![put(labelled(&a(), "1", ("team", "x")))]).await;
    let before = store.get(&a()).await.unwrap();
    let mut again = labelled(&a(), "1", ("team", "x"));
    again.modified = Timestamp(NOW.0 + 1_000);
    let commit = store.run(vec![put(again)]).await;
    assert_eq!((commit.revision, commit.outcomes), (Revision(1), vec![Outcome::Unchanged]));
    assert_eq!(store.get(&a()).await.unwrap(), before);
    let commit = store.run(vec![put(labelled(&a(), "1", ("team", "y")))]).await;
    assert_eq!((commit.revision, commit.outcomes), (Revision(2), vec![Outcome::Updated]));
}

pub(crate) async fn a_rehearsal_tells_what_a_write_would_do(place: &dyn Place) {
    let store = place.store().await;
    store.run(vec![put(secret(&a(), "1"))]).await;
    let mut changes = store.changes();
    changes.borrow_and_update();
    let before = store.get(&a()).await.unwrap();
    let mut rehearsal = batch([put(secret(&a(), "2")), put(secret(&b(), "1"))]);
    rehearsal.records = vec![("r".to_owned(), Some(SecretData::new(vec![1])))];
    rehearsal.rehearsal = true;
    let told = store.write(rehearsal.clone()).await.unwrap();
    assert_eq!((told.revision, told.outcomes), (Revision(1), vec![Outcome::Updated, Outcome::Created]));
    assert!(!changes.has_changed().unwrap(), "nothing happened");
    assert_eq!(store.get(&a()).await.unwrap(), before);
    assert_eq!(store.get(&b()).await.unwrap(), None);
    assert_eq!(store.record("r").await.unwrap(), None);
    rehearsal.ops = vec![put_if(secret(&a(), "2"), Precondition::Absent)];
    assert!(matches!(store.write(rehearsal).await, Err(StoreError::Conflict { .. })));
}

pub(crate) async fn revisions_grow_with_every_change(place: &dyn Place) {
    let store = place.store().await;
    let mut changes = store.changes();
    assert_eq!(*changes.borrow_and_update(), Revision(0));
    for number in 1..=20 {
        let commit = store.run(vec![put(secret(&a(), &number.to_string()))]).await;
        assert_eq!(commit.revision, Revision(number));
        assert!(changes.has_changed().unwrap(), "published before it is acknowledged");
        assert_eq!(*changes.borrow_and_update(), commit.revision);
    }
    assert_eq!(store.run(vec![]).await.revision, Revision(20));
    assert!(!changes.has_changed().unwrap());
    let record = Batch { records: vec![("r".into(), Some(SecretData::new(vec![])))], ..Batch::default() };
    assert_eq!(store.write(record.clone()).await.unwrap().revision, Revision(21));
    assert_eq!(store.write(record).await.unwrap().revision, Revision(21));
}

pub(crate) async fn records_are_set_and_removed(place: &dyn Place) {
    let store = place.store().await;
    let data = |text: &str| SecretData::new(text.as_bytes().to_vec());
    let set = |name: &str, value: Option<&str>| (name.to_owned(), value.map(data));
    let mut write = batch([put(secret(&a(), "1"))]);
    write.records = vec![set("ledger/b", Some("2")), set("ledger/a", Some("1")), set("ledgers", Some("3"))];
    store.write(write).await.unwrap();
    assert_eq!(store.record("ledger/a").await.unwrap(), Some(data("1")));
    assert_eq!(store.record("ledger").await.unwrap(), None);
    let both = vec![("ledger/a".to_owned(), data("1")), ("ledger/b".to_owned(), data("2"))];
    assert_eq!(store.records("ledger/").await.unwrap(), both);
    assert_eq!(store.records("").await.unwrap().len(), 3);
    let mut write = batch([]);
    write.records = vec![set("ledger/a", None), set("ledger/b", Some("")), set("none", None)];
    store.write(write).await.unwrap();
    assert_eq!(store.records("ledger/").await.unwrap(), [("ledger/b".to_owned(), data(""))]);
}

pub(crate) async fn a_large_value_is_kept(place: &dyn Place) {
    let store = place.store().await;
    let bytes: Vec<u8> = (0..1024 * 1024u32).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    let mut large = secret(&a(), "");
    large.spec = kdsync::core::Spec::Secret(SecretData::new(bytes.clone()));
    store.run(vec![put(large), put(secret(&b(), "small"))]).await;
    assert_eq!(store.value(&a()).await, Some(bytes));
    assert_eq!(store.heads(ResourceType::Secret).await.unwrap().len(), 1);
    store.run(vec![delete(&a())]).await;
    assert_eq!(store.value(&a()).await, None);
}

pub(crate) async fn keys_that_cannot_be_stored_are_refused(place: &dyn Place) {
    let store = place.store().await;
    let mut no_mesh = a();
    no_mesh.mesh = "".into();
    let mut a_mesh = b();
    a_mesh.mesh = "default".into();
    let bad = [no_mesh, a_mesh, Key::secret("a\0b", "c"), Key::secret("a", "b\0c"), Key::zone("z")];
    for key in bad {
        let refused = store.try_do(put(secret(&key, "1"))).await;
        assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{key:?}");
    }
    assert_eq!(store.list(Query::all(ResourceType::Secret)).await.unwrap().total, 0);
}

pub(crate) async fn names_are_unique_where_asked(place: &dyn Place) {
    let store = place.open(Options { unique_names: true, ..Options::default() }).await;
    let (here, there, global) = (Key::secret("m1", "n"), Key::secret("m2", "n"), Key::global_secret("n"));
    store.run(vec![put(secret(&here, "1")), put(secret(&Key::secret("m1", "other"), "1"))]).await;
    for other in [&there, &global] {
        let Err(StoreError::Invalid { key, reason }) = store.try_do(put(secret(other, "1"))).await else {
            panic!("a second {other} was taken");
        };
        assert_eq!(key, *other);
        assert!(reason.contains("Secret m1/n"), "{reason}");
    }
    assert_eq!(store.try_do(put(secret(&here, "2"))).await, Ok(Outcome::Updated));
    // A refused batch gives back the names it took and takes back those it gave.
    let refused =
        batch([delete(&here), put(secret(&there, "1")), put_if(secret(&here, "1"), Precondition::Present)]);
    assert!(store.write(refused).await.is_err());
    assert!(matches!(store.try_do(put(secret(&global, "1"))).await, Err(StoreError::Invalid { .. })));
    // Moving a name is one batch; the zone of that name is another kind of thing.
    store.run(vec![delete(&here), put(secret(&there, "1"))]).await;
    assert_eq!(store.value(&there).await, Some(b"1".to_vec()));

    let free = place.open(Options::default());
    if !place.capabilities().survives_restart {
        let free = free.await;
        free.run(vec![put(secret(&here, "1")), put(secret(&there, "1")), put(secret(&global, "1"))]).await;
    }
}

pub(crate) async fn a_closed_store_says_so(place: &dyn Place) {
    let store = place.store().await;
    store.run(vec![put(secret(&a(), "1"))]).await;
    store.close().await;
    assert!(matches!(store.get(&a()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.write(batch([delete(&a())])).await, Err(StoreError::Unavailable(_))));
    store.close().await;
    if place.capabilities().survives_restart {
        // The old handle is still there, and holds nothing.
        let again = place.store().await;
        assert_eq!(again.value(&a()).await, Some(b"1".to_vec()));
    }
}
