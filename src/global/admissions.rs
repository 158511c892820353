//! Zones that wait for an operator.
//!
//! Decides: when a zone's mark in the store lets it be served, and makes the zone's resource at first
//! contact. Never does: mark a zone that only waits; that is the operator's, or the `auto` setting's.

use std::sync::Arc;
use std::time::Duration;

use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;

use super::{Admit, Shared};
use crate::core::{Key, Labels, Resource, ResourceType, Revision, Spec, ZoneSpec};
use crate::store::{Batch, Changed, Op, Precondition, Row, StoreError};
use crate::telemetry::clock;

/// Marks that come close together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// How often all who wait are looked at, whatever the hints.
const RESYNC: Duration = Duration::from_secs(60);
/// How often a lost race for a zone's row is run again.
const RACES: usize = 5;

/// Watches the rows of waiting zones until the token is cancelled.
pub(super) async fn run(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut changes = shared.store.changes();
    let mut seen = *changes.borrow_and_update();
    loop {
        let hinted = tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(RESYNC) => false,
            changed = changes.changed() => {
                if changed.is_err() {
                    cancel.cancelled().await;
                    return;
                }
                true
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
        let newest = *changes.borrow_and_update();
        let waiting = shared.zones.waiting();
        if !waiting.is_empty() {
            let touched = if hinted { touched(&shared, seen).await } else { None };
            for name in touched.unwrap_or_else(|| waiting.iter().cloned().collect()) {
                if waiting.contains(&name) && is_admitted(&shared, &name).await {
                    tracing::info!(zone = %name, "zone admitted");
                    shared.zones.admit(&name);
                }
            }
        }
        seen = newest;
    }
}

/// Zones whose rows changed after `seen`; `None` if that cannot be told.
async fn touched(shared: &Shared, seen: Revision) -> Option<Vec<SmolStr>> {
    match shared.store.changed_since(seen).await {
        Ok(Changed::Keys { keys, .. }) => {
            let zones = keys.into_iter().filter(|key| key.ty == ResourceType::Zone);
            Some(zones.map(|key| key.name).collect())
        }
        Ok(Changed::TooOld) | Err(_) => None,
    }
}

async fn is_admitted(shared: &Shared, name: &str) -> bool {
    let id = shared.store.identity().id;
    matches!(shared.store.get(&Key::zone(name)).await, Ok(Some(row)) if spec(&row).admitted_by == Some(id))
}

/// Makes the zone's resource if there is none, and tells whether this store may serve it secrets.
/// With `Some(Auto)` it is marked.
pub(super) async fn contact(shared: &Shared, name: &str, admit: Option<Admit>) -> Result<bool, StoreError> {
    let id = shared.store.identity().id;
    let key = Key::zone(name);
    for _ in 0..RACES {
        let row = shared.store.get(&key).await?;
        let known = row.as_ref().map(spec);
        let admitted = known.as_ref().is_some_and(|spec| spec.admitted_by == Some(id));
        let mark = admit == Some(Admit::Auto) && !admitted;
        if row.is_some() && !mark {
            return Ok(admitted);
        }
        let mut wanted = known.unwrap_or_default();
        if mark {
            wanted.admitted_by = Some(id);
        }
        let now = clock::wall();
        let labels = row.as_ref().map_or_else(Labels::new, |row| row.resource.labels.clone());
        let resource =
            Resource { key: key.clone(), labels, spec: Spec::Zone(wanted), created: now, modified: now };
        let expect = row.as_ref().map_or(Precondition::Absent, |row| Precondition::Version(row.head.version));
        let ops = vec![Op::Put { resource, expect }];
        let batch = Batch { ops, by: format!("zone {name}"), at: now, ..Batch::default() };
        match shared.store.write(batch).await {
            Ok(_) if row.is_none() => tracing::info!(zone = %name, "zone created at first contact"),
            Ok(_) => {}
            // Somebody else wrote it in between: look again.
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        }
        return Ok(mark || admitted);
    }
    Err(StoreError::Unavailable("the zone's row changes all the time".to_owned()))
}

fn spec(row: &Row) -> ZoneSpec {
    match &row.resource.spec {
        Spec::Zone(spec) => spec.clone(),
        Spec::Secret(_) => ZoneSpec::default(),
    }
}
