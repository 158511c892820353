//! The global component: serves what its store holds to every zone.
//!
//! Decides: how the pure sessions of `kds/server` meet a store, a clock and a network. Never does: take
//! a secret from a zone; nothing that arrives here can carry one.
//!
//! ```text
//! store --changes--> snapshots --watch--> stream (one task per zone) --frames--> server
//!                                          |  one ServerSession per type
//!                                          +-> observe -> zones (directory), metrics, events
//! ```

mod admissions;
mod body;
mod caller;
mod compat;
mod link;
mod metrics;
mod observe;
mod reports;
mod server;
mod service;
mod snapshots;
mod stream;
mod throttle;
mod zones;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use server::{Accept, Accepted, Plain};

use crate::core::Revision;
use crate::core::insight::ZoneDirectory;
use crate::store::ResourceStore;
use crate::supervisor::Tasks;
use crate::telemetry::{Telemetry, clock};
use metrics::Metrics;
use snapshots::{Published, Snapshots};
use throttle::Throttle;
use zones::Zones;

/// Which zones may be served secrets by a store that has never served them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admit {
    /// A stock zone waits for an operator: a wiped or swapped store cannot empty it.
    #[default]
    Operator,
    /// Every stock zone is admitted at first contact.
    Auto,
}

/// How the global serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes per page between kdsync ends.
    pub page_size: usize,
    /// The largest request that is read, and the largest answer to a stock zone that tells no limit of
    /// its own, in bytes.
    pub max_message: usize,
    /// Who may be served.
    pub admit: Admit,
    /// How often zones are asked to check in.
    pub health_interval: Duration,
    /// How many connections are open at once.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            page_size: 1 << 20,
            max_message: 10 << 20,
            admit: Admit::default(),
            health_interval: Duration::from_secs(30),
            max_connections: 10_000,
        }
    }
}

/// What all parts of the component share.
#[derive(Debug)]
struct Shared {
    config: Config,
    store: Arc<dyn ResourceStore>,
    telemetry: Telemetry,
    metrics: Metrics,
    zones: Arc<Zones>,
    snapshots: watch::Receiver<Option<Published>>,
    /// Large answers are encoded one at a time, so that all who want the same one wait for one encoder.
    large: Arc<Semaphore>,
    /// Rations lines about peers that have no stream.
    throttle: Mutex<Throttle>,
    /// This process, as zones see it on ZoneLink.
    instance: String,
}

/// A running global. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Global {
    shared: Arc<Shared>,
    ready: watch::Receiver<bool>,
}

impl Global {
    /// Starts reading the store, as tasks of `tasks`. Nothing is served before [`Global::serve`] runs.
    pub fn start(
        config: Config,
        store: Arc<dyn ResourceStore>,
        telemetry: &Telemetry,
        tasks: &mut Tasks,
    ) -> Self {
        let metrics = Metrics::new(telemetry);
        let zones = Arc::new(Zones::new(metrics.clone()));
        Metrics::collect_zones(telemetry, zones.clone());
        let (publish, snapshots) = watch::channel(None);
        let (is_ready, ready) = watch::channel(false);
        // Said on every link: long enough to tell one start of global from the next.
        let instance = format!("{:08x}", uuid::Uuid::new_v4().as_fields().0);
        let shared = Arc::new(Shared {
            config,
            store,
            telemetry: telemetry.clone(),
            metrics,
            zones,
            snapshots,
            large: Arc::new(Semaphore::new(1)),
            throttle: Mutex::default(),
            instance,
        });
        let reader = Snapshots::new(shared.clone(), publish, is_ready);
        let cancel = tasks.token();
        tasks.spawn("snapshots", async move {
            reader.run(cancel).await;
            Ok(())
        });
        let admissions = admissions::run(shared.clone(), tasks.token());
        tasks.spawn("admissions", async move {
            admissions.await;
            Ok(())
        });
        Self { shared, ready }
    }

    /// Serves zones on `listener`, in plain text, until `cancel` is cancelled; then ends every stream
    /// with UNAVAILABLE and returns within a few seconds.
    ///
    /// # Errors
    /// If the listener has no address any more.
    pub async fn serve(self, listener: TcpListener, cancel: CancellationToken) -> io::Result<()> {
        self.serve_with(listener, Arc::new(Plain), cancel).await
    }

    /// The same, with another way to turn a connection into a byte stream (TLS).
    ///
    /// # Errors
    /// If the listener has no address any more.
    pub async fn serve_with(
        self,
        listener: TcpListener,
        acceptor: Arc<dyn Accept>,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        server::run(self.shared, listener, acceptor, cancel).await
    }

    /// What is known of the zones, for the API and the status page.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn ZoneDirectory> {
        self.shared.zones.clone()
    }

    /// The newest commit of the store that zones are served from, once there is one.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.shared.snapshots.borrow().as_ref().map(|published| published.snapshot.revision)
    }

    /// True once the first snapshot is published: before that no zone is answered.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }
}

impl Shared {
    /// Counts and records something that happened at a zone.
    fn happened(&self, kind: &str, zone: &str, text: String) {
        self.metrics.happened(kind);
        self.telemetry.events.record(clock::wall(), kind, zone, None, text);
    }
}
