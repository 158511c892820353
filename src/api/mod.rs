//! The HTTP API, in Kuma's shapes, on both components.
//!
//! Decides: what a request means, which writes are taken where (a zone that follows a global refuses
//! synced types unless told otherwise), and how answers and errors look. Never does: sync anything,
//! decide what a zone deletes, or show a value anywhere but in the answer to a GET of secrets.

pub mod batch;
pub mod body;
mod check;
pub mod diagnostics;
mod error;
pub mod hosts;
mod index;
mod json;
mod kdsync;
mod page;
mod resources;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

pub use error::ApiError;
pub use hosts::Hosts;
pub use serve::{Connections, serve, serve_with};

use crate::core::insight::ZoneDirectory;
use crate::store::ResourceStore;
use crate::telemetry::Telemetry;

/// What a zone that follows a global does with writes of synced types through its own API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalWrites {
    /// Refuses them with 405, saying where to write instead.
    #[default]
    Refuse,
    /// Takes them, warning that they will be deleted.
    Accept,
}

/// Which component this is the API of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The global component.
    Global,
    /// A zone.
    Zone {
        /// Its name.
        name: String,
        /// The global it follows; `None` makes it a standalone store that takes writes plainly.
        global_address: Option<String>,
        /// What it does with writes of synced types while it follows a global.
        local_writes: LocalWrites,
    },
}

/// What `GET /` tells of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Name of the machine.
    pub hostname: String,
    /// Id of this process, unique among all that run.
    pub instance_id: String,
    /// Version of kdsync.
    pub version: String,
}

/// How much a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in the body of one item. A value of 1 MiB is 1.4 MiB in base64.
    pub item_body: usize,
    /// Bytes in the body of a batch.
    pub batch_body: usize,
    /// Time to send a whole body.
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            item_body: 2 * 1024 * 1024,
            batch_body: 64 * 1024 * 1024,
            body_timeout: Duration::from_mins(1),
        }
    }
}

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The store.
    pub store: Arc<dyn ResourceStore>,
    /// Which component this is.
    pub mode: Mode,
    /// What the index tells.
    pub info: Info,
    /// Events.
    pub telemetry: Telemetry,
    /// Who knows the zones; only at global.
    pub zones: Option<Arc<dyn ZoneDirectory>>,
    /// How much a client may ask for.
    pub limits: Limits,
    /// Which names it answers to.
    pub hosts: Hosts,
}

/// All routes of the API.
pub fn router(state: ApiState) -> Router {
    use resources::{delete_item, get_item, list, put_item};
    let item = || get(get_item).put(put_item).delete(delete_item);
    let routes = Router::new()
        .route("/", get(index::index))
        .route("/meshes/{mesh}/secrets", get(list))
        .route("/meshes/{mesh}/secrets/{name}", item())
        .route("/secrets", get(list))
        .route("/globalsecrets", get(list))
        .route("/globalsecrets/{name}", item())
        .route("/global-secrets", get(list))
        .route("/global-secrets/{name}", item())
        .route("/zones", get(list))
        .route("/zones/{name}", get(get_item))
        .route("/kdsync/batch", post(batch::batch))
        .route("/kdsync/store", get(kdsync::store))
        .route("/kdsync/events", get(kdsync::events))
        .route("/kdsync/zones", get(kdsync::zones))
        .route("/kdsync/zones/{name}", get(kdsync::zone))
        .route("/kdsync/zones/{name}/admit", post(kdsync::admit));
    let state = Arc::new(state);
    routes
        .with_state(state.clone())
        .layer(from_fn_with_state(state, hosts::check))
        // Bodies are read by `json::read`, under limits that depend on the route.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(|_panic| ApiError::internal().into_axum()))
        .layer(map_response(error::always_json))
}
