//! The diagnostics port: alive, ready, metrics.
//!
//! Decides: nothing; asks the component. Never does: need the store, so that a stuck one can be seen.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::watch;

use super::{ApiError, error, json};
use crate::telemetry::Telemetry;

/// Tells whether the component can do its work.
#[derive(Clone)]
pub struct Readiness(Arc<dyn Fn() -> bool + Send + Sync>);

impl Readiness {
    /// Asks `ready` each time.
    pub fn new(ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(ready))
    }
}

impl From<watch::Receiver<bool>> for Readiness {
    fn from(ready: watch::Receiver<bool>) -> Self {
        Self::new(move || *ready.borrow())
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&(self.0)()).finish()
    }
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// `/healthy`, `/ready` and `/metrics`.
pub fn router(telemetry: Telemetry, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthy", get(async || json::ok(&Status { status: "healthy" })))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state((telemetry, readiness))
        .layer(map_response(error::always_json))
}

async fn ready(State((_, readiness)): State<(Telemetry, Readiness)>) -> Response {
    if (readiness.0)() {
        return json::ok(&Status { status: "ready" });
    }
    json::response(StatusCode::SERVICE_UNAVAILABLE, &Status { status: "not ready" })
}

async fn metrics(State((telemetry, _)): State<(Telemetry, Readiness)>) -> Response {
    const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match telemetry.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, KIND)], text).into_response(),
        Err(_) => ApiError::internal().into_axum(),
    }
}
