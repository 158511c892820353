//! Resources as JSON objects: the flat Universal form of Kuma.
//!
//! Decides: which fields there are and how a value is encoded. The one file of the API that opens a
//! [`SecretData`], to answer a GET. Never does: check rules (`check` and `core::validate` do), or
//! quote a value in an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::validate::Violation;
use crate::core::{Key, Labels, Resource, ResourceType, SecretData, Spec, Timestamp};

/// Fields that a client may send because it was sent them; they are the store's and ignored.
const IGNORED: [&str; 3] = ["creationTime", "modificationTime", "kri"];

/// A secret as a client wrote it: syntax checked, rules not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// `type`; empty if missing.
    pub ty: String,
    /// `mesh`; empty if missing.
    pub mesh: String,
    /// `name`; empty if missing.
    pub name: String,
    /// `labels`.
    pub labels: Labels,
    /// `data`, decoded; empty if missing.
    pub data: SecretData,
    /// Names of fields that nobody knows.
    pub unknown: Vec<String>,
}

impl Body {
    /// Reads JSON text.
    ///
    /// # Errors
    /// The field (empty for the whole) and what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, Violation> {
        // A `Value` first: its errors are about syntax alone and quote no content.
        let value: Value =
            serde_json::from_slice(text).map_err(|error| Violation::new("", error.to_string()))?;
        Self::from_value(value)
    }

    /// Reads a JSON value.
    ///
    /// # Errors
    /// The field (empty for the whole) and what is wrong with it.
    pub fn from_value(value: Value) -> Result<Self, Violation> {
        let Value::Object(mut fields) = value else {
            return Err(Violation::new("", format!("must be an object, not {}", kind(&value))));
        };
        let mut text = |field| take_text(&mut fields, field);
        let (ty, mesh, name, data) = (text("type")?, text("mesh")?, text("name")?, text("data")?);
        let labels = read_labels(fields.remove("labels"))?;
        let data = decode(&data)?;
        let unknown = fields.into_iter().map(|(field, _)| field);
        let unknown = unknown.filter(|field| !IGNORED.contains(&field.as_str())).collect();
        Ok(Self { ty, mesh, name, labels, data, unknown })
    }

    /// The key it names.
    ///
    /// # Errors
    /// The type is unknown or no secret, or the mesh does not fit the type.
    pub fn key(&self) -> Result<Key, Violation> {
        let ty = match self.ty.parse::<ResourceType>() {
            Ok(ty) if ty.is_secret() => ty,
            _ if self.ty.is_empty() => {
                return Err(Violation::new("type", "cannot be empty; known are Secret and GlobalSecret"));
            }
            _ => {
                let reason =
                    format!("unknown type \"{}\"; known are Secret and GlobalSecret", shorten(&self.ty));
                return Err(Violation::new("type", reason));
            }
        };
        if let Some(violation) = self.misplaced_mesh(ty) {
            return Err(violation);
        }
        Ok(Key::new(ty, &self.mesh, &self.name))
    }

    /// A mesh in a resource that belongs to none, or none in one that belongs to a mesh.
    pub(super) fn misplaced_mesh(&self, ty: ResourceType) -> Option<Violation> {
        match (ty.is_mesh_scoped(), self.mesh.is_empty()) {
            (true, true) => Some(Violation::new("mesh", "cannot be empty")),
            (false, false) => {
                let reason = format!("must not be set: a {ty} belongs to no mesh; remove the field");
                Some(Violation::new("mesh", reason))
            }
            _ => None,
        }
    }
}

fn take_text(fields: &mut Map<String, Value>, field: &str) -> Result<String, Violation> {
    match fields.remove(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            let reason = format!("must be a string, not {}; quote it if it is meant as text", kind(&other));
            Err(Violation::new(field, reason))
        }
    }
}

fn read_labels(value: Option<Value>) -> Result<Labels, Violation> {
    let fields = match value {
        None | Some(Value::Null) => return Ok(Labels::new()),
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            return Err(Violation::new("labels", format!("must be an object, not {}", kind(&other))));
        }
    };
    let pairs = fields.into_iter().map(|(label, value)| match value {
        Value::String(value) => Ok((label, value)),
        other => {
            let reason = format!("must be a string, not {}; quote it", kind(&other));
            Err(Violation::new(format!("labels[\"{}\"]", shorten(&label)), reason))
        }
    });
    pairs.collect()
}

/// Standard base64; line breaks are ignored, as Go does and YAML blocks need.
fn decode(text: &str) -> Result<SecretData, Violation> {
    let cleaned;
    let text = if text.contains(['\n', '\r']) {
        cleaned = text.replace(['\n', '\r'], "");
        cleaned.as_str()
    } else {
        text
    };
    let illegal = |offset| Violation::new("data", format!("illegal base64 data at input byte {offset}"));
    STANDARD.decode(text).map(SecretData::new).map_err(|error| match error {
        base64::DecodeError::InvalidByte(offset, _) | base64::DecodeError::InvalidLastSymbol(offset, _) => {
            illegal(offset)
        }
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => illegal(text.len()),
    })
}

/// What a JSON value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Keeps what a client sent from filling a message.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head}…")
}

/// A resource as a client reads it. Order of fields as in Kuma.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown<'a> {
    #[serde(rename = "type")]
    ty: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mesh: &'a str,
    name: &'a str,
    creation_time: String,
    modification_time: String,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: &'a Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    kri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
}

impl<'a> Shown<'a> {
    /// Shows a resource, with its value if it is a secret.
    pub(super) fn of(resource: &'a Resource) -> Self {
        let key = &resource.key;
        let (data, enabled, kri) = match &resource.spec {
            Spec::Secret(data) => (Some(STANDARD.encode(data.expose())), None, None),
            Spec::Zone(zone) => (None, Some(zone.enabled), Some(format!("kri_z____{}_", key.name))),
        };
        Self {
            ty: key.ty.as_str(),
            mesh: &key.mesh,
            name: &key.name,
            creation_time: time(resource.created),
            modification_time: time(resource.modified),
            labels: &resource.labels,
            kri,
            data,
            enabled,
        }
    }
}

/// RFC 3339, in UTC.
fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(error: &Violation) -> (&str, &str) {
        (&error.field, &error.reason)
    }

    #[test]
    fn values_of_any_bytes_and_folded_lines_are_read() {
        let body = Body::parse(br#"{"type":"Secret","mesh":"m","name":"n","data":"AP8=\n"}"#).unwrap();
        assert_eq!(body.data.expose(), [0, 255]);
        assert_eq!(body.key().unwrap(), Key::secret("m", "n"));
    }

    #[test]
    fn errors_name_the_field_and_never_the_value() {
        let error = Body::parse(br#"{"data":"hunter2!"}"#).unwrap_err();
        assert_eq!(fields(&error), ("data", "illegal base64 data at input byte 7"));
        let error = Body::parse(br#"{"data":12345}"#).unwrap_err();
        assert!(!error.reason.contains("12345"), "{error:?}");
        for text in [&br#""hunter2""#[..], br#"{"a": hunter2}"#, br#"["hunter2"]"#, b"hunter2", b""] {
            let error = Body::parse(text).unwrap_err();
            assert!(!error.reason.contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn unknown_fields_are_listed_and_the_stores_own_are_not() {
        let text = br#"{"type":"Secret","kri":"x","creationTime":"0001-01-01T00:00:00Z","extra":1}"#;
        assert_eq!(Body::parse(text).unwrap().unknown, ["extra"]);
    }

    #[test]
    fn a_mesh_must_fit_the_type() {
        let global = Body::parse(br#"{"type":"GlobalSecret","mesh":"m","name":"n"}"#).unwrap();
        assert_eq!(global.key().unwrap_err().field, "mesh");
        let secret = Body::parse(br#"{"type":"Secret","name":"n"}"#).unwrap();
        assert_eq!(fields(&secret.key().unwrap_err()), ("mesh", "cannot be empty"));
        let mesh = Body::parse(br#"{"type":"Mesh","name":"n"}"#).unwrap();
        assert_eq!(mesh.key().unwrap_err().field, "type");
    }
}
