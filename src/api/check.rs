//! From what a client wrote to what the store keeps: rules, labels, and where writes are taken.
//!
//! Decides: whether a write is refused and with which words; which labels the place of creation adds
//! as Kuma 2.14.3 does (`pkg/core/resources/labels/compute.go`). Never does: write.

use http::StatusCode;

use super::body::Body;
use super::{ApiError, LocalWrites, Mode};
use crate::core::resource::{LABEL_DISPLAY_NAME, LABEL_ENV, LABEL_MESH, LABEL_ORIGIN, LABEL_ZONE};
use crate::core::validate::{self, Violation};
use crate::core::{Key, Labels, Resource, ResourceType, Timestamp};

/// Labels that an update cannot change (Kuma 2.14.3 `resource_endpoints.go`).
const IMMUTABLE: [&str; 3] = [LABEL_ORIGIN, LABEL_ZONE, LABEL_DISPLAY_NAME];

impl Mode {
    /// Refuses a write of a synced type on a zone whose secrets come from global.
    pub(super) fn refuse_write(&self, ty: ResourceType) -> Result<(), ApiError> {
        let Self::Zone { name, global_address: Some(global), local_writes: LocalWrites::Refuse } = self
        else {
            return Ok(());
        };
        let detail = format!(
            "On zone control plane you can only modify zone resources. A {ty} of zone {name} comes from \
             its global ({global}): write it there, and this zone has it at once. To let this zone take \
             writes that it deletes again, set zone.localWrites: accept."
        );
        Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail))
    }

    /// What to tell somebody whose write is taken but will not last.
    pub(super) fn passing_warning(&self, key: &Key, what: Passing) -> Option<String> {
        let Self::Zone { name, global_address: Some(global), .. } = self else { return None };
        Some(match what {
            Passing::Written => format!(
                "{key} was written to zone {name} only and will be deleted, or put back to the value of \
                 global: secrets come from global ({global})"
            ),
            Passing::Deleted => format!(
                "{key} was deleted in zone {name} only; if global ({global}) has it, it will be put back"
            ),
        })
    }

    /// Labels as stored, of a resource that a client writes here.
    fn stored_labels(&self, key: &Key, mut labels: Labels) -> Labels {
        let mut default = |label: &str, value: &str| {
            labels.entry(label.to_owned()).or_insert_with(|| value.to_owned()).clone()
        };
        if let Self::Zone { name, .. } = self
            && default(LABEL_ORIGIN, "zone") != "global"
        {
            default(LABEL_ZONE, name);
            default(LABEL_ENV, "universal");
        }
        if key.ty.is_mesh_scoped() {
            labels.insert(LABEL_MESH.to_owned(), key.mesh.to_string());
        }
        labels
    }
}

/// What was done to a secret that will not last.
#[derive(Clone, Copy)]
pub(super) enum Passing {
    Written,
    Deleted,
}

/// Compares what the URL says with what the body says.
pub(super) fn same_as_url(body: &Body, url: &Key) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut same = |field: &str, equal: bool| {
        if !equal {
            found.push(Violation::new(field, format!("{field} from the URL has to be the same as in body")));
        }
    };
    same("name", body.name == url.name);
    same("type", body.ty == url.ty.as_str());
    if url.ty.is_mesh_scoped() {
        same("mesh", body.mesh == url.mesh);
    }
    found.extend(body.misplaced_mesh(url.ty));
    found
}

/// Checks everything that needs no look at the store.
pub(super) fn violations(mode: &Mode, key: &Key, body: &Body) -> Vec<Violation> {
    let mut found = validate::key(key);
    found.extend(validate::value(body.data.len()));
    match mode {
        Mode::Global => found.extend(validate::labels_at_global(&body.labels)),
        Mode::Zone { name, .. } => {
            found.extend(validate::labels_at_zone(&body.labels, name));
            let other = body.labels.get(LABEL_MESH).filter(|mesh| mesh.as_str() != key.mesh);
            if other.is_some() && key.ty.is_mesh_scoped() {
                let reason = format!("must be \"{}\", the mesh of the resource", key.mesh);
                found.push(Violation::new(label_field(LABEL_MESH), reason));
            }
        }
    }
    found
}

/// Checks what depends on the row that is there, and makes the resource to store. `existing` is that
/// row's labels.
///
/// A label that cannot change and that the body leaves out is kept.
pub(super) fn resource(
    mode: &Mode,
    key: Key,
    body: Body,
    existing: Option<&Labels>,
    now: Timestamp,
) -> Result<Resource, Vec<Violation>> {
    let mut labels = body.labels;
    let found = match existing {
        None => validate::new_key(&key),
        Some(existing) => keep_immutable(&mut labels, existing),
    };
    if !found.is_empty() {
        return Err(found);
    }
    let labels = mode.stored_labels(&key, labels);
    Ok(Resource::secret(key, labels, body.data, now))
}

fn keep_immutable(labels: &mut Labels, existing: &Labels) -> Vec<Violation> {
    let mut found = Vec::new();
    for label in IMMUTABLE {
        let old = existing.get(label);
        match (labels.get(label), old) {
            (None, Some(old)) => {
                labels.insert(label.to_owned(), old.clone());
            }
            (Some(new), old) if Some(new) != old => {
                let old = old.map(String::as_str).unwrap_or_default();
                let reason = format!("is immutable, cannot be changed from \"{old}\" to \"{new}\"");
                found.push(Violation::new(label_field(label), reason));
            }
            _ => {}
        }
    }
    found
}

fn label_field(label: &str) -> String {
    format!("labels[\"{label}\"]")
}

/// The warning about fields that are ignored.
pub(super) fn unknown_fields(key: &Key, body: &Body) -> Option<String> {
    if body.unknown.is_empty() {
        return None;
    }
    let names: Vec<_> = body.unknown.iter().take(10).map(|name| super::body::shorten(name)).collect();
    Some(format!("unknown fields of {key} are ignored: {}", names.join(", ")))
}
