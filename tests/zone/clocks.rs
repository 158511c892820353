//! A global and a zone whose wall clocks are an hour apart, and clocks that jump by years.
//!
//! A process's wall clock reaches others only in what its store keeps, so each end's store here is told
//! another time. Nothing that converges may depend on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use kdsync::core::{Key, Labels, Resource, ResourceType, Revision, SecretData, StoreIdentity, Timestamp};
use kdsync::global::Global;
use kdsync::store::embedded::{self, EmbeddedConfig};
use kdsync::store::{
    Batch, Changed, Commit, Head, Listing, Op, Precondition, Query, ResourceStore, Row, Served, StoreError,
};
use kdsync::supervisor::{Failure, Tasks};
use kdsync::telemetry::{Telemetry, clock};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::rig::{Rig, config, soon};

const HOUR: i64 = 3_600_000;

/// A store whose writer's clock is off by so many milliseconds.
#[derive(Debug)]
struct Off {
    store: Arc<dyn ResourceStore>,
    by: AtomicI64,
}

impl Off {
    fn new(by: i64) -> Arc<Self> {
        let store = embedded::open(&EmbeddedConfig::memory()).unwrap();
        Arc::new(Self { store, by: AtomicI64::new(by) })
    }

    /// The clock jumps.
    fn jump(&self, by: i64) {
        self.by.store(by, Ordering::Relaxed);
    }

    fn time(&self, true_time: Timestamp) -> Timestamp {
        Timestamp(true_time.0.saturating_add(self.by.load(Ordering::Relaxed)))
    }
}

#[async_trait]
impl ResourceStore for Off {
    async fn write(&self, mut batch: Batch) -> Result<Commit, StoreError> {
        batch.at = self.time(batch.at);
        for op in &mut batch.ops {
            if let Op::Put { resource, .. } = op {
                resource.created = self.time(resource.created);
                resource.modified = self.time(resource.modified);
            }
        }
        self.store.write(batch).await
    }

    fn identity(&self) -> StoreIdentity {
        self.store.identity()
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.store.changes()
    }

    async fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        self.store.get(key).await
    }

    async fn list(&self, query: Query) -> Result<Listing, StoreError> {
        self.store.list(query).await
    }

    async fn heads(&self, ty: ResourceType) -> Result<Vec<(Key, Head)>, StoreError> {
        self.store.heads(ty).await
    }

    async fn heads_of(&self, keys: Vec<Key>) -> Result<Vec<(Key, Option<Head>)>, StoreError> {
        self.store.heads_of(keys).await
    }

    async fn changed_since(&self, after: Revision) -> Result<Changed, StoreError> {
        self.store.changed_since(after).await
    }

    async fn served(&self, after: Option<Revision>) -> Result<Option<Served>, StoreError> {
        self.store.served(after).await
    }

    async fn record(&self, name: &str) -> Result<Option<SecretData>, StoreError> {
        self.store.record(name).await
    }

    async fn records(&self, prefix: &str) -> Result<Vec<(String, SecretData)>, StoreError> {
        self.store.records(prefix).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

async fn write(store: &dyn ResourceStore, name: &str, value: Option<&str>) {
    let (key, now, expect) = (Key::secret("default", name), clock::wall(), Precondition::Any);
    let op = match value {
        Some(value) => {
            let data = SecretData::new(value.as_bytes().to_vec());
            Op::Put { resource: Resource::secret(key, Labels::new(), data, now), expect }
        }
        None => Op::Delete { key, expect },
    };
    let batch =
        Batch { ops: vec![op], records: Vec::new(), by: "somebody".into(), at: now, ..Batch::default() };
    store.write(batch).await.unwrap();
}

async fn created(store: &dyn ResourceStore, name: &str) -> i64 {
    store.get(&Key::secret("default", name)).await.unwrap().unwrap().resource.created.0
}

/// A global on a store, on a free port.
struct AtGlobal {
    url: String,
    cancel: CancellationToken,
    running: JoinSet<Result<(), Failure>>,
}

impl AtGlobal {
    async fn on(store: Arc<dyn ResourceStore>) -> Self {
        let cancel = CancellationToken::new();
        let mut tasks = Tasks::new(cancel.clone());
        let settings = kdsync::global::Config::default();
        let global = Global::start(settings, store, &Telemetry::default(), &mut tasks);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("grpc://{}", listener.local_addr().unwrap());
        let token = cancel.clone();
        tasks.spawn("kds", async move { Ok(global.serve(listener, token).await?) });
        let mut running = JoinSet::new();
        running.spawn(tasks.run());
        Self { url, cancel, running }
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        soon(self.running.join_next()).await.unwrap().unwrap().unwrap();
    }
}

/// Sync, resume, sweep, repair and deletion, with the clocks of both ends off by so much.
async fn lives(global_off: i64, zone_off: i64) {
    let (theirs, ours) = (Off::new(global_off), Off::new(zone_off));
    for (name, value) in [("a", "1"), ("b", "1")] {
        write(&*theirs, name, Some(value)).await;
    }
    // Of the zone's own, and newer or older than anything by its clock.
    write(&*ours, "a", Some("mine")).await;
    write(&*ours, "local", Some("x")).await;
    let global = AtGlobal::on(theirs.clone()).await;
    let rig = Rig::on(config(&global.url), ours.clone()).await;
    rig.holds(&["a=1", "b=1"]).await;
    let apart = created(&*ours, "b").await - created(&*theirs, "b").await;
    let (least, most) = (zone_off - global_off, zone_off - global_off + HOUR / 2);
    assert!((least..most).contains(&apart), "the clocks are not as far apart as this test says: {apart}");
    // Changes, a deletion, a sweep and a repair while they are connected.
    write(&*theirs, "a", Some("2")).await;
    write(&*theirs, "b", None).await;
    write(&*theirs, "c", Some("1")).await;
    rig.holds(&["a=2", "c=1"]).await;
    rig.put("late", "y").await;
    rig.event("swept Secret default/late").await;
    rig.put("a", "tampered").await;
    rig.event("repaired Secret default/a").await;
    rig.holds(&["a=2", "c=1"]).await;
    // Both clocks jump while the zone is away: what happened meanwhile arrives, and no more than that.
    let store = rig.stop().await;
    theirs.jump(-global_off * 20_000);
    ours.jump(-zone_off * 20_000);
    write(&*theirs, "a", Some("3")).await;
    write(&*theirs, "c", None).await;
    write(&*ours, "between", Some("z")).await;
    let rig = Rig::on(config(&global.url), store).await;
    rig.holds(&["a=3"]).await;
    rig.event("swept Secret default/between").await;
    for word in ["kept", "foreign", "behind", "digest-mismatch", "rejected"] {
        assert!(!rig.events().iter().any(|event| event.starts_with(word)), "{:#?}", rig.events());
    }
    rig.stop().await;
    global.stop().await;
}

#[tokio::test]
async fn ends_whose_clocks_are_an_hour_apart_converge() {
    lives(HOUR / 2, -HOUR / 2).await;
    lives(-HOUR / 2, HOUR / 2).await;
}
