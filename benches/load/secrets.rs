//! The secrets that are written: names, random values, bodies.
//!
//! Decides: 1 KiB of random bytes per value, so that nothing can be compressed away. Never does: use a
//! value twice.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

/// Bytes per value.
const SIZE: usize = 1024;
/// The mesh of all secrets.
const MESH: &str = "default";

/// The name of secret `number`.
pub(crate) fn name(number: usize) -> String {
    format!("secret-{number:06}")
}

/// Where secret `number` is put.
pub(crate) fn path(number: usize) -> String {
    format!("/meshes/{MESH}/secrets/{}", name(number))
}

/// Secret `number` with a new value.
pub(crate) fn item(number: usize) -> Value {
    let mut value = [0; SIZE];
    fastrand::fill(&mut value);
    json!({"type": "Secret", "mesh": MESH, "name": name(number), "data": STANDARD.encode(value)})
}

/// The same as a body.
pub(crate) fn body(number: usize) -> Bytes {
    item(number).to_string().into()
}

/// A batch of secrets with new values.
pub(crate) fn batch(numbers: impl IntoIterator<Item = usize>) -> Bytes {
    let items: Vec<Value> = numbers.into_iter().map(item).collect();
    json!({ "items": items }).to_string().into()
}
