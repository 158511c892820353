//! The zone component: the loop that applies what global sends, sweeps what it did not, and puts back
//! what somebody changed.
//!
//! Decides: nothing; it turns I/O into events for [`ClientSession`] and its effects into I/O. Never
//! does: write to the store beside the `Syncer`, the zone's only writer of synced rows.

mod connection;
mod dial;
mod link;
pub(crate) mod records;
mod report;
pub(crate) mod syncer;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use dial::{Address, AddressError, Tls};
pub use records::QUARANTINE;

use crate::core::ledger::Ledger;
use crate::core::{ResourceType, StoreIdentity};
use crate::kds::client::{Applied, ClientSession, Config as SessionConfig, Effect, Mended};
use crate::kds::knobs::Knobs;
use crate::kds::message::{Node, Request};
use crate::store::{ResourceStore, StoreError};
use crate::telemetry::{Telemetry, clock};
use connection::{Connection, Dialer, Failure};
use report::Reporter;
use syncer::{Listed, Outcome, Syncer};

/// What the zone component needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zone's name, known to global.
    pub name: String,
    /// Where global's KDS listens.
    pub global: Address,
    /// How to trust a `grpcs` global.
    pub tls: Tls,
    /// This process, told to global: a name and four random digits.
    pub instance: String,
    /// The largest message taken, in bytes.
    pub max_message: usize,
    /// Where this zone's own API can be reached, told to global; empty to tell nothing.
    pub api_address: String,
}

/// The running zone component, seen from outside.
#[derive(Clone, Debug)]
pub struct Handle {
    ready: watch::Receiver<bool>,
}

impl Handle {
    /// True once this zone has completed one sync ever; it stays ready while global is gone (KDS-2).
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }
}

/// One zone's sync loop.
#[derive(Debug)]
pub struct Zone {
    dialer: Dialer,
    session: ClientSession,
    syncer: Option<Syncer>,
    store: Arc<dyn ResourceStore>,
    reporter: Reporter,
    ready: watch::Sender<bool>,
}

/// The result of a store effect, with the syncer that did it.
enum Done {
    Applied(Syncer, Result<Outcome<Applied>, String>),
    Listed(Syncer, Result<Listed, String>),
    Mended(Syncer, Outcome<Mended>),
    Loaded(Syncer, Result<Ledger, String>),
}

type Work<T> = Option<BoxFuture<'static, T>>;

impl Zone {
    /// Reads what the zone holds from its store and prepares the loop.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn open(
        config: Config,
        store: Arc<dyn ResourceStore>,
        telemetry: &Telemetry,
    ) -> Result<(Self, Handle), StoreError> {
        let syncer = Syncer::new(store.clone());
        let ledger = syncer.load().await?;
        let held: usize = ResourceType::SECRETS.iter().map(|ty| ledger.count(*ty)).sum();
        tracing::info!(zone = config.name, held, "zone opened");
        let (ready, is_ready) = watch::channel(ledger.was_complete());
        let node = Node {
            id: config.name.as_str().into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: config.instance.clone(),
            max_message: Some(config.max_message),
        };
        let settings = SessionConfig { node, ..SessionConfig::default() };
        let seed = fastrand::u64(..);
        let session = ClientSession::new(settings, ledger, seed, Knobs::default(), clock::now());
        let reporter = Reporter::new(&config, telemetry);
        let dialer = Dialer::new(config, reporter.link());
        let zone = Self { dialer, session, syncer: Some(syncer), store, reporter, ready };
        Ok((zone, Handle { ready: is_ready }))
    }

    /// Whose store this zone writes to.
    #[must_use]
    pub fn store_identity(&self) -> StoreIdentity {
        self.store.identity()
    }

    /// Runs until cancelled; the store effect in hand is finished first.
    ///
    /// # Errors
    /// None in the normal course; what fails is tried again.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut changes = self.store.changes();
        let mut dialing: Work<Result<Connection, Failure>> = None;
        let mut working: Work<Done> = None;
        let mut connection: Option<Connection> = None;
        let mut ready: Option<Request> = None;
        loop {
            self.advance(&mut dialing, &mut working, &mut connection, &mut ready);
            let outlet = connection.as_ref().map(Connection::outlet);
            let deadline =
                self.session.poll_timeout().unwrap_or_else(|| clock::now() + Duration::from_secs(60));
            tokio::select! { biased;
                () = cancel.cancelled() => break,
                permit = connection::reserve(outlet), if ready.is_some() => match permit {
                    Ok(permit) => if let Some(request) = ready.take() {
                        permit.send(crate::kds::wire::encode_request(&request));
                    },
                    // The answers' side ends, too, and says why.
                    Err(_) => ready = None,
                },
                done = settle(&mut working) => self.on_done(done),
                dialed = settle(&mut dialing) => match dialed {
                    Ok(opened) => {
                        self.session.on_connected(opened.global, clock::now());
                        connection = Some(opened);
                    }
                    Err(failure) => self.lose(&mut connection, &failure),
                },
                message = connection::next(connection.as_mut()), if self.session.wants_response() => match message {
                    Ok(response) => self.session.on_response(response, clock::now()),
                    Err(failure) => self.lose(&mut connection, &failure),
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        anyhow::bail!("the store closed");
                    }
                    self.session.on_store_changed();
                }
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            if connection.is_none() {
                ready = None;
            }
        }
        if let Some(work) = working {
            self.on_done(work.await);
            self.report();
        }
        Ok(())
    }

    /// Lets the session act on what it knows, until it has nothing more to do.
    fn advance(
        &mut self,
        dialing: &mut Work<Result<Connection, Failure>>,
        working: &mut Work<Done>,
        connection: &mut Option<Connection>,
        ready: &mut Option<Request>,
    ) {
        while let Some(effect) = self.session.poll_effect(clock::now()) {
            match effect {
                Effect::Connect => *dialing = Some(Box::pin(self.dialer.dial())),
                Effect::Disconnect { .. } => {
                    *connection = None;
                    *dialing = None;
                    *ready = None;
                }
                effect => *working = self.start(effect),
            }
        }
        if ready.is_none() && connection.is_some() {
            *ready = self.session.poll_transmit();
        }
        self.report();
    }

    /// Starts a store effect; the session never asks for a second one meanwhile.
    fn start(&mut self, effect: Effect) -> Work<Done> {
        let mut syncer = self.syncer.take()?;
        Some(match effect {
            Effect::Apply(apply) => Box::pin(async move {
                let result = syncer.apply(apply).await;
                Done::Applied(syncer, result)
            }),
            Effect::List { full } => Box::pin(async move {
                let result = syncer.list(full).await;
                Done::Listed(syncer, result)
            }),
            Effect::Mend(audit) => Box::pin(async move {
                let result = syncer.mend(audit).await;
                Done::Mended(syncer, result)
            }),
            Effect::Load => Box::pin(async move {
                let result = syncer.load().await.map_err(|error| error.to_string());
                Done::Loaded(syncer, result)
            }),
            Effect::Connect | Effect::Disconnect { .. } => {
                self.syncer = Some(syncer);
                return None;
            }
        })
    }

    fn on_done(&mut self, done: Done) {
        let now = clock::now();
        let syncer = match done {
            Done::Applied(syncer, result) => {
                let result = result.map(|outcome| self.reporter.unpack(outcome));
                self.session.on_applied(result, now);
                syncer
            }
            Done::Listed(syncer, result) => {
                self.session.on_listed(result, now);
                syncer
            }
            Done::Mended(syncer, result) => {
                let mended = self.reporter.unpack(result);
                self.session.on_mended(mended, now);
                syncer
            }
            Done::Loaded(syncer, result) => {
                self.session.on_loaded(result, now);
                syncer
            }
        };
        self.syncer = Some(syncer);
    }

    fn lose(&mut self, connection: &mut Option<Connection>, failure: &Failure) {
        *connection = None;
        self.session.on_disconnected(&failure.reason, failure.retry_after, clock::now());
    }

    fn report(&mut self) {
        while let Some(event) = self.session.poll_event() {
            self.reporter.record(event, &self.session);
        }
        self.reporter.publish(&self.session);
        let complete = ResourceType::SECRETS.iter().all(|ty| self.session.progress(*ty).complete);
        if complete {
            self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }
}

/// Waits for the work in `slot` and empties it; pending for ever if there is none.
async fn settle<T>(slot: &mut Work<T>) -> T {
    match slot {
        Some(work) => {
            let done = work.await;
            *slot = None;
            done
        }
        None => std::future::pending().await,
    }
}
