//! What an operator sees: metrics, events, logs and the clock they are stamped with.
//!
//! Decides: how a happening is recorded, once, in all three places. Never does: take a value, a hash
//! of a value, or a secret's name as a metric label.

pub mod clock;
pub mod events;
pub mod logging;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

pub use events::{Event, Events};

/// The telemetry of one component: its own registry, so that several components in one process (as in
/// `kdsync dev`) do not mix.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    registry: Arc<Mutex<Registry>>,
    /// Recent happenings, for the API and for followers.
    pub events: Events,
}

impl Telemetry {
    /// Lets a component register its metrics.
    pub fn register<T>(&self, with: impl FnOnce(&mut Registry) -> T) -> T {
        with(&mut self.registry.lock())
    }

    /// The OpenMetrics text of everything registered.
    ///
    /// # Errors
    /// Only if a collector fails to write, which none of ours does.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}
