//! A global on an in-memory store, on a free port of loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kdsync::core::insight::{ZoneDirectory, ZoneStatus};
use kdsync::core::{Key, Labels, Resource, SecretData, Spec, Timestamp, ZoneSpec};
use kdsync::global::{Config, Global};
use kdsync::store::embedded::{self, EmbeddedConfig};
use kdsync::store::{Batch, Op, Precondition, ResourceStore};
use kdsync::supervisor::{Failure, Tasks};
use kdsync::telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a future, but not for ever.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it took too long")
}

pub(crate) struct Rig {
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) telemetry: Telemetry,
    global: Global,
    pub(crate) directory: Arc<dyn ZoneDirectory>,
    pub(crate) address: SocketAddr,
    cancel: CancellationToken,
    running: JoinSet<Result<(), Failure>>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let store = embedded::open(&EmbeddedConfig::memory()).unwrap();
        Self::on(config, store).await
    }

    pub(crate) async fn on(config: Config, store: Arc<dyn ResourceStore>) -> Self {
        let telemetry = Telemetry::default();
        let cancel = CancellationToken::new();
        let mut tasks = Tasks::new(cancel.clone());
        let global = Global::start(config, store.clone(), &telemetry, &mut tasks);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let directory = global.directory();
        let mut ready = global.ready();
        let token = cancel.clone();
        let serving = global.clone().serve(listener, token);
        tasks.spawn("kds", async move { Ok(serving.await?) });
        let mut running = JoinSet::new();
        running.spawn(tasks.run());
        soon(ready.wait_for(|ready| *ready)).await.unwrap();
        Self { store, telemetry, global, directory, address, cancel, running }
    }

    /// Ends it as a signal would; panics if that does not go cleanly.
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        soon(self.running.join_next()).await.unwrap().unwrap().unwrap();
    }

    /// Tells the global to stop and does not wait.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    pub(crate) async fn put(&self, key: Key, value: &[u8]) {
        let data = SecretData::new(value.to_vec());
        self.write(vec![put(Resource::secret(key, Labels::new(), data, Timestamp(0)))]).await;
    }

    pub(crate) async fn secret(&self, name: &str, value: &str) {
        self.put(Key::secret("default", name), value.as_bytes()).await;
    }

    pub(crate) async fn delete(&self, key: Key) {
        self.write(vec![Op::Delete { key, expect: Precondition::Any }]).await;
    }

    pub(crate) async fn write(&self, ops: Vec<Op>) {
        let batch = Batch { ops, by: "test".into(), at: Timestamp(0), ..Batch::default() };
        let commit = self.store.write(batch).await.unwrap();
        // Only then do tests know what the next answer holds.
        soon(eventually(|| self.global.revision() >= Some(commit.revision))).await;
    }

    /// What `kdsync zone admit` does.
    pub(crate) async fn admit(&self, zone: &str) {
        let spec = ZoneSpec { enabled: true, admitted_by: Some(self.store.identity().id) };
        let at = Timestamp(0);
        let labels = Labels::new();
        let spec = Spec::Zone(spec);
        let resource = Resource { key: Key::zone(zone), labels, spec, created: at, modified: at };
        self.write(vec![put(resource)]).await;
    }

    pub(crate) async fn zone_row(&self, zone: &str) -> Option<ZoneSpec> {
        let row = self.store.get(&Key::zone(zone)).await.unwrap()?;
        match row.resource.spec {
            Spec::Zone(spec) => Some(spec),
            Spec::Secret(_) => None,
        }
    }

    /// Waits until the directory shows a zone as wanted.
    pub(crate) async fn zone(&self, name: &str, wanted: impl Fn(&ZoneStatus) -> bool) -> ZoneStatus {
        let mut status = None;
        soon(eventually(|| {
            status = self.directory.zone(name);
            status.as_ref().is_some_and(&wanted)
        }))
        .await;
        status.unwrap()
    }

    /// Kinds of the recorded events, oldest first.
    pub(crate) fn events(&self) -> Vec<String> {
        self.telemetry.events.since(0).into_iter().map(|event| event.kind).collect()
    }

    /// The value of a metric line that starts like this.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        let text = self.telemetry.encode().unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |rest| rest.trim().parse().unwrap())
    }
}

pub(crate) fn put(resource: Resource) -> Op {
    Op::Put { resource, expect: Precondition::Any }
}

/// Looks again after everything else that could run has run.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
