//! List, get, put and delete of one resource, in Kuma's order of checks.
//!
//! Decides: the answer to each verb. Never does: more than one item at a time (`batch` does).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, RawPathParams, Request, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;

use super::check::{self, Passing};
use super::page::Page;
use super::{ApiError, ApiState, body, json};
use crate::core::{Key, ResourceType, Revision};
use crate::store::{Batch, Commit, Op, Outcome, Precondition};
use crate::telemetry::clock;

/// How long the answer to a write waits until what it did is measured, and how often it looks.
const PATIENCE: Duration = Duration::from_millis(250);
const GLANCE: Duration = Duration::from_millis(2);

/// The type and the names in a URL.
pub(super) struct Target {
    ty: ResourceType,
    mesh: Option<String>,
    name: Option<String>,
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = MatchedPath::from_request_parts(parts, state).await.map_err(|_| ApiError::internal())?;
        let route = path.as_str();
        let ty = if route.starts_with("/zones") {
            ResourceType::Zone
        } else if route.starts_with("/global") {
            ResourceType::GlobalSecret
        } else {
            ResourceType::Secret
        };
        let unreadable = |_| ApiError::bad_request("the path is not valid UTF-8");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(unreadable)?;
        if params.iter().any(|(_, value)| value.is_empty()) {
            return Err(ApiError::not_found("Page Not Found"));
        }
        let param = |name| params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        Ok(Self { ty, mesh: param("mesh"), name: param("name") })
    }
}

impl Target {
    fn key(&self) -> Key {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Key::new(self.ty, &text(&self.mesh), &text(&self.name))
    }
}

/// Who sends a request, for the history.
pub(super) fn actor(parts: &Parts) -> String {
    match parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>() {
        Some(ConnectInfo(address)) => format!("api {}", address.ip()),
        None => "api".to_owned(),
    }
}

#[derive(Serialize)]
struct List<'a> {
    total: usize,
    items: Vec<body::Shown<'a>>,
    next: Option<String>,
}

/// The answer to a write.
#[derive(Default, Serialize)]
struct Written {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// `GET` of a collection.
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _body) = request.into_parts();
    let page = Page::read(&parts.uri)?;
    let query = page.query(target.ty, target.mesh)?;
    let listing = state.store.list(query).await;
    let listing = listing.map_err(|error| ApiError::store("Could not retrieve resources", &error))?;
    let items = listing.rows.iter().map(|row| body::Shown::of(&row.resource)).collect();
    Ok(json::ok(&List { total: listing.total, items, next: page.next(&parts, listing.total) }))
}

/// `GET` of one resource.
pub(super) async fn get_item(
    State(state): State<Arc<ApiState>>,
    target: Target,
) -> Result<Response, ApiError> {
    const TITLE: &str = "Could not retrieve a resource";
    let row = state.store.get(&target.key()).await.map_err(|error| ApiError::store(TITLE, &error))?;
    let row = row.ok_or_else(|| ApiError::not_found(TITLE))?;
    Ok(json::ok(&body::Shown::of(&row.resource)))
}

/// `PUT`: creates or replaces.
pub(super) async fn put_item(
    State(state): State<Arc<ApiState>>,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let key = target.key();
    state.mode.refuse_write(key.ty)?;
    let (parts, content) = request.into_parts();
    let body = read_item(&state, &parts, content, key.ty).await?;
    let row = state.store.get(&key).await;
    let row = row.map_err(|error| ApiError::store("Could not process a resource", &error))?;
    let title = if row.is_some() { "Failed to update a resource" } else { "Failed to create a resource" };

    let mut found = check::same_as_url(&body, &key);
    found.extend(check::violations(&state.mode, &key, &body));
    if !found.is_empty() {
        return Err(ApiError::invalid("Could not process a resource", found));
    }
    let mut warnings: Vec<String> = check::unknown_fields(&key, &body).into_iter().collect();
    warnings.extend(state.mode.passing_warning(&key, Passing::Written));
    let existing = row.as_ref().map(|row| &row.resource.labels);
    let resource = check::resource(&state.mode, key.clone(), body, existing, clock::wall());
    let refusal = if row.is_some() { "Could not update a resource" } else { title };
    let resource = resource.map_err(|found| ApiError::invalid(refusal, found))?;

    let op = Op::Put { resource, expect: Precondition::Any };
    let commit = commit_one(&state, &parts, op).await.map_err(|error| ApiError::store(title, &error))?;
    let outcome = commit.outcomes.first().copied().unwrap_or(Outcome::Unchanged);
    tracing::debug!(resource = %key, ?outcome, "resource written");
    warnings.extend(about_zones(&state, commit.revision).await);
    let status = if outcome == Outcome::Created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json::response(status, &Written { warnings }))
}

async fn read_item(
    state: &ApiState,
    parts: &Parts,
    content: Body,
    ty: ResourceType,
) -> Result<body::Body, ApiError> {
    let limits = state.limits;
    let text = json::read(&parts.headers, content, limits.item_body, limits.body_timeout).await?;
    body::Body::parse(&text).map_err(|wrong| {
        let field = if wrong.field.is_empty() { String::new() } else { format!("{}: ", wrong.field) };
        ApiError::bad_request(format!("invalid {ty} object: \"{field}{}\"", wrong.reason))
    })
}

/// `DELETE`.
pub(super) async fn delete_item(
    State(state): State<Arc<ApiState>>,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    const TITLE: &str = "Could not delete a resource";
    let key = target.key();
    state.mode.refuse_write(key.ty)?;
    let (parts, _body) = request.into_parts();
    let op = Op::Delete { key: key.clone(), expect: Precondition::Present };
    match commit_one(&state, &parts, op).await {
        Ok(_) => {}
        // The row is not there: what the client must hear is 404, however the store puts it.
        Err(crate::store::StoreError::Conflict { .. }) => return Err(ApiError::not_found(TITLE)),
        Err(error) => return Err(ApiError::store(TITLE, &error)),
    }
    tracing::debug!(resource = %key, "resource deleted");
    let warnings = state.mode.passing_warning(&key, Passing::Deleted).into_iter().collect();
    Ok(json::ok(&Written { warnings }))
}

async fn commit_one(state: &ApiState, parts: &Parts, op: Op) -> Result<Commit, crate::store::StoreError> {
    let batch = Batch { ops: vec![op], by: actor(parts), at: clock::wall(), ..Batch::default() };
    state.store.write(batch).await
}

/// What a writer should know of the zones after a commit. Where stock zones have limits, the answer waits
/// for the commit to be measured against them, but not for long.
pub(super) async fn about_zones(state: &ApiState, commit: Revision) -> Vec<String> {
    let Some(zones) = &state.zones else { return Vec::new() };
    let late = clock::now() + PATIENCE;
    while zones.measured().is_some_and(|measured| measured < commit) && clock::now() < late {
        tokio::time::sleep(GLANCE).await;
    }
    zones.warnings()
}
