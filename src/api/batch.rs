//! `POST /kdsync/batch`: many documents, one transaction or none.
//!
//! Decides: that every document is good before any is written, and what each would do. Never does:
//! write a part.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::Body;
use super::check::{self, Passing};
use super::{ApiError, ApiState, json, resources};
use crate::core::validate::Violation;
use crate::core::{Key, Labels, Resource};
use crate::store::{Batch, Op, Outcome, Precondition, StoreError};
use crate::telemetry::clock;

const TITLE: &str = "Could not apply a batch";
/// How many things that are wrong one answer names.
const NAMED: usize = 50;

/// What a client sends.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchRequest {
    /// Resources to create or replace.
    pub items: Vec<Value>,
    /// Resources to delete; one that does not exist is no error.
    pub delete: Vec<Value>,
    /// Tell what would happen and write nothing.
    pub dry_run: bool,
}

/// What one document did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemOutcome {
    /// Type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Mesh; empty for types that belong to none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mesh: String,
    /// Name.
    pub name: String,
    /// `created`, `updated`, `unchanged`, `deleted` or `missing`.
    pub outcome: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchAnswer {
    /// The commit; of a dry run, the one it would have followed.
    pub revision: u64,
    /// True if nothing was written.
    pub dry_run: bool,
    /// One per document, items before deletions, in order.
    pub items: Vec<ItemOutcome>,
    /// What the client should know although all went well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A batch whose documents are read.
struct Plan {
    puts: Vec<(Key, Body)>,
    deletes: Vec<Key>,
    dry_run: bool,
    warnings: Vec<String>,
}

/// The handler.
pub(super) async fn batch(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, content) = request.into_parts();
    let limits = state.limits;
    let text = json::read(&parts.headers, content, limits.batch_body, limits.body_timeout).await?;
    let plan = read(&state, &text)?;
    drop(text);
    for key in plan.puts.iter().map(|(key, _)| key).chain(&plan.deletes) {
        state.mode.refuse_write(key.ty)?;
    }
    let Plan { puts, deletes, dry_run, mut warnings } = plan;
    let keys: Vec<Key> = puts.iter().map(|(key, _)| key.clone()).chain(deletes.iter().cloned()).collect();
    let resources = resources_of(&state, puts).await?;

    let puts = resources.len();
    let ops = resources.into_iter().map(|resource| Op::Put { resource, expect: Precondition::Any });
    let deletes = deletes.into_iter().map(|key| Op::Delete { key, expect: Precondition::Any });
    let batch = Batch {
        ops: ops.chain(deletes).collect(),
        records: Vec::new(),
        by: resources::actor(&parts),
        at: clock::wall(),
        rehearsal: dry_run,
    };
    let commit = state.store.write(batch).await.map_err(|error| unwritten(&error, &keys, puts))?;
    tracing::debug!(items = keys.len(), revision = commit.revision.0, dry_run, "batch applied");
    warnings.extend(resources::about_zones(&state, commit.revision).await);
    let items = keys.iter().zip(&commit.outcomes).map(|(key, outcome)| ItemOutcome {
        ty: key.ty.to_string(),
        mesh: key.mesh.to_string(),
        name: key.name.to_string(),
        outcome: word(*outcome).to_owned(),
    });
    Ok(json::ok(&BatchAnswer { revision: commit.revision.0, dry_run, items: items.collect(), warnings }))
}

/// What the store refused, with the document that it is about.
fn unwritten(error: &StoreError, keys: &[Key], puts: usize) -> ApiError {
    let StoreError::Invalid { key, reason } = error else { return ApiError::store(TITLE, error) };
    let place = match keys.iter().position(|other| other == key) {
        Some(index) if index < puts => format!("items[{index}]"),
        Some(index) => format!("delete[{}]", index - puts),
        None => return ApiError::store(TITLE, error),
    };
    refused(vec![located(&place, Some(key), &Violation::new("name", reason.clone()))], keys.len())
}

/// The word for an outcome.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Unchanged => "unchanged",
        Outcome::Deleted => "deleted",
        Outcome::Missing => "missing",
    }
}

fn refused(found: Vec<Violation>, of: usize) -> ApiError {
    let count = found.len();
    let detail = format!("{count} problems in {of} documents; nothing was written");
    ApiError::bad(TITLE, &detail, found.into_iter().take(NAMED).collect())
}

fn read(state: &ApiState, text: &[u8]) -> Result<Plan, ApiError> {
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| ApiError::bad_request(format!("invalid batch: \"{error}\"")))?;
    let Value::Object(mut fields) = value else {
        return Err(ApiError::bad_request("invalid batch: must be an object with items"));
    };
    let mut list = |field: &str| match fields.remove(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(ApiError::bad_request(format!("invalid batch: {field} must be a list"))),
    };
    let (items, delete) = (list("items")?, list("delete")?);
    let dry_run = match fields.remove("dryRun") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(dry_run)) => dry_run,
        Some(_) => return Err(ApiError::bad_request("invalid batch: dryRun must be true or false")),
    };
    if let Some((field, _)) = fields.into_iter().next() {
        // Ignoring a misspelt dryRun would write.
        let field = super::body::shorten(&field);
        return Err(ApiError::bad_request(format!("invalid batch: unknown field {field}")));
    }
    let of = items.len() + delete.len();
    let mut reader = Reader { state, seen: HashMap::with_capacity(of), found: Vec::new() };
    let mut plan =
        Plan { puts: Vec::with_capacity(items.len()), deletes: Vec::new(), dry_run, warnings: Vec::new() };
    for (index, item) in items.into_iter().enumerate() {
        if let Some((key, body)) = reader.item(&format!("items[{index}]"), item) {
            plan.warnings.extend(check::unknown_fields(&key, &body));
            plan.warnings.extend(state.mode.passing_warning(&key, Passing::Written));
            reader.rules(&format!("items[{index}]"), &key, &body);
            plan.puts.push((key, body));
        }
    }
    for (index, item) in delete.into_iter().enumerate() {
        if let Some((key, _)) = reader.item(&format!("delete[{index}]"), item) {
            plan.warnings.extend(state.mode.passing_warning(&key, Passing::Deleted));
            plan.deletes.push(key);
        }
    }
    if reader.found.is_empty() { Ok(plan) } else { Err(refused(reader.found, of)) }
}

/// Reads documents one by one and collects what is wrong with them.
struct Reader<'a> {
    state: &'a ApiState,
    seen: HashMap<Key, String>,
    found: Vec<Violation>,
}

impl Reader<'_> {
    fn item(&mut self, place: &str, value: Value) -> Option<(Key, Body)> {
        let read = Body::from_value(value).and_then(|body| body.key().map(|key| (key, body)));
        let (key, body) = match read {
            Ok(read) => read,
            Err(wrong) => {
                self.wrong(place, None, &wrong);
                return None;
            }
        };
        if let Some(first) = self.seen.insert(key.clone(), place.to_owned()) {
            let wrong = Violation::new("name", format!("was given before, in {first}: keep one of them"));
            self.wrong(place, Some(&key), &wrong);
        }
        Some((key, body))
    }

    fn rules(&mut self, place: &str, key: &Key, body: &Body) {
        for wrong in check::violations(&self.state.mode, key, body) {
            self.wrong(place, Some(key), &wrong);
        }
    }

    fn wrong(&mut self, place: &str, key: Option<&Key>, wrong: &Violation) {
        self.found.push(located(place, key, wrong));
    }
}

fn located(place: &str, key: Option<&Key>, wrong: &Violation) -> Violation {
    let dot = if wrong.field.is_empty() { "" } else { "." };
    let field = format!("{place}{dot}{}", wrong.field);
    match key {
        Some(key) => Violation::new(field, format!("{key}: {}", wrong.reason)),
        None => Violation::new(field, wrong.reason.clone()),
    }
}

/// Checks what depends on the rows that are there.
async fn resources_of(state: &ApiState, puts: Vec<(Key, Body)>) -> Result<Vec<Resource>, ApiError> {
    let of = puts.len();
    let keys = puts.iter().map(|(key, _)| key.clone()).collect();
    let heads = state.store.heads_of(keys).await.map_err(|error| ApiError::store(TITLE, &error))?;
    let known: HashMap<Key, bool> = heads.into_iter().map(|(key, head)| (key, head.is_some())).collect();
    let (mut resources, mut found, now) = (Vec::with_capacity(of), Vec::new(), clock::wall());
    for (index, (key, body)) in puts.into_iter().enumerate() {
        let existing: Option<Labels> = match known.get(&key) {
            Some(true) => {
                let row = state.store.get(&key).await.map_err(|error| ApiError::store(TITLE, &error))?;
                row.map(|row| row.resource.labels)
            }
            _ => None,
        };
        match check::resource(&state.mode, key.clone(), body, existing.as_ref(), now) {
            Ok(resource) => resources.push(resource),
            Err(wrong) => {
                let place = format!("items[{index}]");
                found.extend(wrong.iter().map(|wrong| located(&place, Some(&key), wrong)));
            }
        }
    }
    if found.is_empty() { Ok(resources) } else { Err(refused(found, of)) }
}
