//! What Kuma has no route for: the state of zones, admission, events, the store.
//!
//! Decides: how an operator's look and the one decision here, admitting a zone, are answered. Never
//! does: show a digest or a value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::serve::Stopping;
use super::{ApiError, ApiState, Mode, json, resources};
use crate::core::insight::{ZoneDirectory, ZoneStatus};
use crate::core::{Key, Resource, Spec, ZoneSpec, validate};
use crate::store::{Batch, Op, Precondition, StoreError};
use crate::telemetry::{Event, clock};

const READ_TITLE: &str = "Could not retrieve a zone";
const ADMIT_TITLE: &str = "Could not admit a zone";
/// Longest time a request for events may wait for one.
const LONGEST_WAIT: u64 = 30;
/// How often an admission is tried again when somebody else writes the same zone.
const ADMIT_TRIES: usize = 5;

#[derive(Serialize)]
struct Zones {
    items: Vec<ZoneStatus>,
}

fn directory(state: &ApiState) -> Result<&dyn ZoneDirectory, ApiError> {
    state.zones.as_deref().ok_or_else(|| {
        let detail = "this is a zone; ask its global control plane about zones";
        ApiError::new(StatusCode::NOT_FOUND, READ_TITLE, detail)
    })
}

/// `GET /kdsync/zones`.
pub(super) async fn zones(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    Ok(json::ok(&Zones { items: directory(&state)?.zones() }))
}

/// `GET /kdsync/zones/{name}`.
pub(super) async fn zone(
    State(state): State<Arc<ApiState>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    match directory(&state)?.zone(&name) {
        Some(zone) => Ok(json::ok(&zone)),
        None => Err(ApiError::not_found(READ_TITLE)),
    }
}

#[derive(Serialize)]
struct Admitted {
    zone: String,
    #[serde(rename = "admittedBy")]
    by: String,
    changed: bool,
}

/// `POST /kdsync/zones/{name}/admit`: lets this very store serve a stock zone it has never served.
pub(super) async fn admit(
    State(state): State<Arc<ApiState>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    if let Mode::Zone { name, .. } = &state.mode {
        let detail = format!("zones are admitted at global; this is zone {name}");
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail));
    }
    let (parts, _body) = request.into_parts();
    let key = Key::zone(&name);
    let found = validate::key(&key);
    if !found.is_empty() {
        return Err(ApiError::invalid(ADMIT_TITLE, found));
    }
    let mut tries = ADMIT_TRIES;
    loop {
        tries -= 1;
        match admit_once(&state, &key, resources::actor(&parts)).await {
            Ok(changed) => {
                let by = state.store.identity().id.to_string();
                if changed {
                    let message = "may be served by this store, although it is a stock zone";
                    state.telemetry.events.record(clock::wall(), "admitted", &name, None, message);
                    tracing::info!(zone = name, "zone admitted");
                }
                return Ok(json::ok(&Admitted { zone: name, by, changed }));
            }
            Err(StoreError::Conflict { .. }) if tries > 0 => {}
            Err(error) => return Err(ApiError::store(ADMIT_TITLE, &error)),
        }
    }
}

/// True if the zone was not admitted before.
async fn admit_once(state: &ApiState, key: &Key, by: String) -> Result<bool, StoreError> {
    let us = Some(state.store.identity().id);
    let now = clock::wall();
    let row = state.store.get(key).await?;
    let (spec, labels, expect) = match row {
        Some(row) => {
            let Spec::Zone(spec) = row.resource.spec else { return Ok(false) };
            if spec.admitted_by == us {
                return Ok(false);
            }
            (spec, row.resource.labels, Precondition::Version(row.head.version))
        }
        None => (ZoneSpec::default(), crate::core::Labels::new(), Precondition::Absent),
    };
    let spec = Spec::Zone(ZoneSpec { admitted_by: us, ..spec });
    let resource = Resource { key: key.clone(), labels, spec, created: now, modified: now };
    let ops = vec![Op::Put { resource, expect }];
    state.store.write(Batch { ops, by, at: now, ..Batch::default() }).await?;
    Ok(true)
}

/// What a client asks of the events.
#[derive(Deserialize)]
pub(super) struct EventsQuery {
    /// Only events with a greater id.
    #[serde(default)]
    after: u64,
    /// Seconds to wait for an event if there is none yet.
    #[serde(default)]
    wait: u64,
}

#[derive(Serialize)]
struct EventList {
    items: Vec<Event>,
}

/// `GET /kdsync/events?after=&wait=`.
pub(super) async fn events(
    State(state): State<Arc<ApiState>>,
    stopping: Option<Extension<Stopping>>,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|_| ApiError::bad_request("after and wait must be numbers"))?;
    let events = &state.telemetry.events;
    // Follow before looking, so that nothing falls between.
    let mut follower = events.follow();
    let mut items = events.since(query.after);
    if items.is_empty() && query.wait > 0 {
        let wait = Duration::from_secs(query.wait.min(LONGEST_WAIT));
        let stop = stopping.map(|Extension(Stopping(token))| token).unwrap_or_default();
        // Woken, lagging, stopping or out of time: the ring is looked at again in any case.
        let _ = tokio::time::timeout(wait, stop.run_until_cancelled(follower.recv())).await;
        items = events.since(query.after);
    }
    Ok(json::ok(&EventList { items }))
}

#[derive(Serialize)]
struct StoreState {
    id: String,
    epoch: u64,
    revision: u64,
    positions: BTreeMap<&'static str, TypeState>,
}

#[derive(Serialize)]
struct TypeState {
    revision: u64,
    count: u64,
}

/// `GET /kdsync/store`: whose history this is and where it stands.
pub(super) async fn store(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    let failed = |error| ApiError::store("Could not read the store", &error);
    let identity = state.store.identity();
    // A delta after the newest commit carries the positions and no rows.
    let newest = *state.store.changes().borrow();
    let served = match state.store.served(Some(newest)).await.map_err(failed)? {
        Some(served) => served,
        None => state.store.served(None).await.map_err(failed)?.unwrap_or_default(),
    };
    let positions = served.positions.iter().map(|(ty, position)| {
        (ty.as_str(), TypeState { revision: position.revision.0, count: position.count })
    });
    Ok(json::ok(&StoreState {
        id: identity.id.to_string(),
        epoch: identity.epoch,
        revision: served.revision.0,
        positions: positions.collect(),
    }))
}
