//! What readers are promised.

use kdsync::core::{Key, Labels, Resource, ResourceType, Revision, Spec, ZoneSpec};
use kdsync::store::{Listing, Query, ResourceStore};

use crate::place::{NOW, Place, Short as _, labelled, put, secret};

async fn names(store: &dyn ResourceStore, query: Query) -> (Vec<String>, usize) {
    let Listing { rows, total, revision } = store.list(query).await.unwrap();
    assert_eq!(revision, *store.changes().borrow());
    (rows.iter().map(|row| format!("{}/{}", row.resource.key.mesh, row.resource.key.name)).collect(), total)
}

pub(crate) async fn lists_are_ordered_filtered_and_paged(place: &dyn Place) {
    let store = place.store().await;
    let keys = [("m2", "a"), ("m", "zz"), ("m", "b"), ("m-x", "b"), ("m", "a.b")];
    store.run(keys.map(|(mesh, name)| put(secret(&Key::secret(mesh, name), name))).to_vec()).await;
    store.run(vec![put(labelled(&Key::secret("m", "tagged"), "1", ("team", "x")))]).await;
    store.run(vec![put(secret(&Key::global_secret("g"), "1"))]).await;
    let all = Query::all(ResourceType::Secret);
    let every = ["m/a.b", "m/b", "m/tagged", "m/zz", "m-x/b", "m2/a"].map(str::to_owned).to_vec();
    assert_eq!(names(&*store, all.clone()).await, (every.clone(), 6));
    let of = |names: &[usize]| names.iter().map(|index| every[*index].clone()).collect::<Vec<_>>();

    let page = |offset, limit| Query { offset, limit, ..all.clone() };
    assert_eq!(names(&*store, page(0, 2)).await, (of(&[0, 1]), 6));
    assert_eq!(names(&*store, page(4, 100)).await, (of(&[4, 5]), 6));
    assert_eq!(names(&*store, page(6, 2)).await, (vec![], 6));
    assert_eq!(names(&*store, page(0, 0)).await, (vec![], 6));

    let mesh = |mesh: &str| Query { mesh: Some(mesh.into()), ..all.clone() };
    assert_eq!(names(&*store, mesh("m")).await, (of(&[0, 1, 2, 3]), 4));
    assert_eq!(names(&*store, mesh("none")).await, (vec![], 0));
    let contains = Query { name_contains: Some("b".into()), offset: 1, limit: 1, ..all.clone() };
    assert_eq!(names(&*store, contains).await, (of(&[1]), 3));
    let label = |value: &str| Query { labels: vec![("team".into(), value.into())], ..all.clone() };
    assert_eq!(names(&*store, label("x")).await, (of(&[2]), 1));
    assert_eq!(names(&*store, label("y")).await, (vec![], 0));
    let second = Query { offset: 1, ..label("x") };
    assert_eq!(names(&*store, second).await, (vec![], 1));
    assert_eq!(names(&*store, Query::all(ResourceType::GlobalSecret)).await, (vec!["/g".into()], 1));
}

pub(crate) async fn heads_agree_with_rows(place: &dyn Place) {
    let store = place.store().await;
    for number in 0..5 {
        store.run(vec![put(secret(&Key::secret("m", &format!("k{number}")), &number.to_string()))]).await;
    }
    let rows = store.list(Query::all(ResourceType::Secret)).await.unwrap().rows;
    let from_rows: Vec<_> = rows.iter().map(|row| (row.resource.key.clone(), row.head)).collect();
    assert_eq!(store.heads(ResourceType::Secret).await.unwrap(), from_rows);
    assert!(from_rows.iter().zip(1..).all(|((_, head), number)| head.revision == Revision(number)));
    let (some, none) = (Key::secret("m", "k3"), Key::secret("m", "k9"));
    let heads = store.heads_of(vec![none.clone(), some.clone()]).await.unwrap();
    assert_eq!(heads, [(none, None), (some, Some(from_rows[3].1))]);
}

pub(crate) async fn zones_are_kept_beside_secrets(place: &dyn Place) {
    let store = place.store().await;
    let spec = ZoneSpec { enabled: false, admitted_by: Some(store.identity().id) };
    let zone = Resource {
        key: Key::zone("east"),
        labels: Labels::new(),
        spec: Spec::Zone(spec),
        created: NOW,
        modified: NOW,
    };
    store.run(vec![put(zone.clone())]).await;
    assert_eq!(store.get(&zone.key).await.unwrap().unwrap().resource, zone);
    let served = store.served(None).await.unwrap().unwrap();
    assert_eq!((served.revision, served.rows.len(), served.changes.len()), (Revision(1), 0, 0));
    assert!(served.positions.values().all(|position| position.revision == Revision(0)));
}
