//! A zone on an in-memory store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kdsync::core::{Key, Labels, Resource, ResourceType, SecretData, Timestamp};
use kdsync::store::embedded::{self, EmbeddedConfig};
use kdsync::store::{Batch, Op, Precondition, Query, ResourceStore};
use kdsync::telemetry::{Telemetry, events::Event};
use kdsync::zone::{Config, Tls, Zone};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a future, but not for ever.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it took too long")
}

/// Lets the clock of the runtime jump: whatever waits this long goes on.
pub(crate) async fn skip(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A running zone.
pub(crate) struct Rig {
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) telemetry: Telemetry,
    cancel: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
}

/// The zone of most tests.
pub(crate) fn config(global: &str) -> Config {
    Config {
        name: "east".into(),
        global: global.parse().unwrap(),
        tls: Tls::default(),
        instance: "here-1a2b".into(),
        max_message: 10 << 20,
        api_address: "http://127.0.0.1:6681".into(),
    }
}

pub(crate) fn pinned(path: PathBuf) -> Tls {
    Tls::Pinned(path)
}

impl Rig {
    pub(crate) async fn start(global: &str) -> Self {
        Self::with(config(global)).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::on(config, embedded::open(&EmbeddedConfig::memory()).unwrap()).await
    }

    pub(crate) async fn on(config: Config, store: Arc<dyn ResourceStore>) -> Self {
        let telemetry = Telemetry::default();
        let (zone, _) = Zone::open(config, store.clone(), &telemetry).await.unwrap();
        let cancel = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(zone.run(cancel.clone()));
        Self { store, telemetry, cancel, running }
    }

    /// Stops the zone and gives back its store.
    pub(crate) async fn stop(mut self) -> Arc<dyn ResourceStore> {
        self.cancel.cancel();
        soon(self.running.join_next()).await.unwrap().unwrap().unwrap();
        self.store
    }

    async fn write(&self, op: Op) {
        let batch = Batch { ops: vec![op], by: "somebody".into(), at: Timestamp(0), ..Batch::default() };
        self.store.write(batch).await.unwrap();
    }

    /// Somebody writes a secret into the zone.
    pub(crate) async fn put(&self, name: &str, value: &str) {
        let data = SecretData::new(value.as_bytes().to_vec());
        let resource = Resource::secret(Key::secret("default", name), Labels::new(), data, Timestamp(0));
        self.write(Op::Put { resource, expect: Precondition::Any }).await;
    }

    /// Somebody deletes a secret from the zone.
    pub(crate) async fn delete(&self, name: &str) {
        self.write(Op::Delete { key: Key::secret("default", name), expect: Precondition::Any }).await;
    }

    /// Every secret, as `name=value`.
    pub(crate) async fn held(&self) -> Vec<String> {
        let mut all = Vec::new();
        for ty in [ResourceType::Secret, ResourceType::GlobalSecret] {
            for row in self.store.list(Query::all(ty)).await.unwrap().rows {
                let value = String::from_utf8_lossy(row.resource.data().unwrap().expose()).into_owned();
                all.push(format!("{}={value}", row.resource.key.name));
            }
        }
        all
    }

    /// How many values were put into quarantine.
    pub(crate) async fn quarantined(&self) -> usize {
        self.store.records("quarantine/").await.unwrap().len()
    }

    /// Waits until the zone holds exactly this.
    pub(crate) async fn holds(&self, wanted: &[&str]) {
        let mut changes = self.store.changes();
        let mut held = Vec::new();
        let reached = async {
            loop {
                changes.borrow_and_update();
                held = self.held().await;
                if held == wanted {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{wanted:?} wanted, {held:?} held; events: {:#?}", self.events());
    }

    pub(crate) fn events(&self) -> Vec<String> {
        let tell = |event: &Event| {
            let name = event.resource.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
            format!("{}{name}: {}", event.kind, event.message)
        };
        self.telemetry.events.since(0).iter().map(tell).collect()
    }

    /// Waits for the nth event that starts with these words, and tells its text.
    pub(crate) async fn nth_event(&self, nth: usize, start: &str) -> String {
        let mut news = self.telemetry.events.follow();
        let found = async {
            loop {
                let found = self.events().into_iter().filter(|event| event.starts_with(start)).nth(nth);
                if let Some(found) = found {
                    return found;
                }
                news.recv().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("no event \"{start}\" in {:#?}", self.events()))
    }

    pub(crate) async fn event(&self, start: &str) -> String {
        self.nth_event(0, start).await
    }
}
