//! Every rule about names, labels and sizes, with the message a user reads (names: Kuma 2.14.3 `meta_validator.go`).
//!
//! Decides: whether a resource may be written or taken. Never does: change it.

use super::resource::{Key, LABEL_ORIGIN, LABEL_ZONE, Labels, ResourceType};
use super::served::ZONE_PUBLIC_KEY;

/// Largest value of a secret, in bytes. A Kubernetes Secret holds 1 MiB.
pub const MAX_VALUE: usize = 1024 * 1024;
/// Longest name, in bytes (Kuma 2.14.3 `meta_validator.go`).
pub const MAX_NAME: usize = 253;
/// Longest name of a new mesh, in bytes (Kuma 2.14.3 `mesh_validator.go`).
pub const MAX_MESH: usize = 63;
/// Most labels a resource may have, and longest label value.
const MAX_LABEL_VALUE: usize = 63;

/// One thing that is wrong, and with which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as Kuma names it: `name`, `mesh`, `data`, `labels["x"]`.
    pub field: String,
    /// What is wrong, in words that a user can act on.
    pub reason: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Joins violations into one line.
#[must_use]
pub fn describe(violations: &[Violation]) -> String {
    let parts: Vec<_> = violations.iter().map(|v| format!("{}: {}", v.field, v.reason)).collect();
    parts.join("; ")
}

/// Checks the key of a new or received resource.
#[must_use]
pub fn key(key: &Key) -> Vec<Violation> {
    let mut found = Vec::new();
    name("name", &key.name, &mut found);
    if key.ty.is_mesh_scoped() {
        mesh(&key.mesh, &mut found);
    }
    found
}

/// Checks a key that a user wants to create at global: the rules of [`key`] plus those that protect
/// zones.
#[must_use]
pub fn new_key(new: &Key) -> Vec<Violation> {
    let mut found = key(new);
    if new.ty == ResourceType::GlobalSecret && new.name.starts_with(ZONE_PUBLIC_KEY) {
        let reason = "is derived from zone-token-signing-key by global and cannot be written";
        found.push(Violation::new("name", reason));
    }
    if new.ty.is_mesh_scoped() && new.mesh.contains('.') {
        let reason =
            "cannot contain a dot: a Kuma zone would split the name of this secret at the wrong place";
        found.push(Violation::new("mesh", reason));
    } else if new.ty.is_mesh_scoped() && new.mesh.len() > MAX_MESH {
        found.push(Violation::new("mesh", format!("cannot be longer than {MAX_MESH} characters")));
    }
    found
}

/// Checks the size of a value that a user wants to write.
#[must_use]
pub fn value(len: usize) -> Vec<Violation> {
    match len {
        0 => {
            vec![Violation::new("data", "cannot be empty: an empty secret puts a Kubernetes zone in a loop")]
        }
        len if len > MAX_VALUE => {
            let reason = format!("is {len} bytes, more than the limit of {MAX_VALUE} bytes (1 MiB)");
            vec![Violation::new("data", reason)]
        }
        _ => Vec::new(),
    }
}

/// Checks labels that a user wants to write at global.
#[must_use]
pub fn labels_at_global(labels: &Labels) -> Vec<Violation> {
    let mut found = labels_syntax(labels);
    if labels.get(LABEL_ORIGIN).is_some_and(|origin| origin != "global") {
        found.push(Violation::new(field(LABEL_ORIGIN), "the origin label must be set to 'global'"));
    }
    found
}

/// Checks labels that a user wants to write at zone `zone`.
#[must_use]
pub fn labels_at_zone(labels: &Labels, zone: &str) -> Vec<Violation> {
    let mut found = labels_syntax(labels);
    let origin = labels.get(LABEL_ORIGIN).map(String::as_str);
    if origin.is_some_and(|origin| origin != "zone" && origin != "global") {
        found.push(Violation::new(field(LABEL_ORIGIN), "the origin label must be set to 'global' or 'zone'"));
    }
    if origin != Some("global") && labels.get(LABEL_ZONE).is_some_and(|other| other != zone) {
        found.push(Violation::new(field(LABEL_ZONE), format!("must be \"{zone}\", the name of this zone")));
    }
    found
}

/// Kubernetes' syntax of label keys and values.
#[must_use]
pub fn labels_syntax(labels: &Labels) -> Vec<Violation> {
    let mut found = Vec::new();
    for (label, value) in labels {
        if !is_qualified_name(label) {
            let reason =
                "must be a qualified name: [dns.prefix/]name of at most 63 letters, digits, '-', '_' or '.'";
            found.push(Violation::new(field(label), reason));
        }
        if !value.is_empty() && !is_label_word(value) {
            let reason = "must be at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit";
            found.push(Violation::new(field(label), reason));
        }
    }
    found
}

fn field(label: &str) -> String {
    format!("labels[\"{label}\"]")
}

fn name(field: &str, name: &str, found: &mut Vec<Violation>) {
    if name.is_empty() {
        found.push(Violation::new(field, "cannot be empty"));
    } else if name.len() > MAX_NAME {
        found.push(Violation::new(field, format!("value length must less or equal {MAX_NAME}")));
    } else if !is_subdomain(name) {
        let reason = "invalid characters: must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        found.push(Violation::new(field, reason));
    }
}

fn mesh(mesh: &str, found: &mut Vec<Violation>) {
    if mesh.is_empty() {
        found.push(Violation::new("mesh", "cannot be empty"));
    } else if mesh.len() > MAX_NAME {
        found.push(Violation::new("mesh", format!("value length must less or equal {MAX_NAME}")));
    } else if !mesh.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)) {
        let reason =
            "invalid characters: must consist of lower case alphanumeric characters, '-', '_' or '.'";
        found.push(Violation::new("mesh", reason));
    }
}

/// `^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|part| {
        let bytes = part.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    })
}

/// True for a name that a zone may have: a DNS label of at most 63 characters.
#[must_use]
pub fn is_zone_name(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_subdomain(text)
}

fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= MAX_LABEL_VALUE
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        None => is_label_word(text),
        Some((prefix, name)) => prefix.len() <= MAX_NAME && is_subdomain(prefix) && is_label_word(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(violations: &[Violation]) -> Vec<&str> {
        violations.iter().map(|v| v.field.as_str()).collect()
    }

    #[test]
    fn names_follow_kuma() {
        for good in ["a", "a-b.c", "0a.1b", &"a".repeat(253)] {
            assert!(key(&Key::global_secret(good)).is_empty(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", ".a", "a_b", "a/b", "ä", &"a".repeat(254)] {
            assert_eq!(reasons(&key(&Key::global_secret(bad))), ["name"], "{bad}");
        }
    }

    #[test]
    fn meshes_are_wider_to_read_than_to_create() {
        assert!(key(&Key::secret("a_b.c", "x")).is_empty());
        assert_eq!(reasons(&new_key(&Key::secret("a.c", "x"))), ["mesh"]);
        assert_eq!(reasons(&new_key(&Key::secret(&"m".repeat(64), "x"))), ["mesh"]);
        assert_eq!(reasons(&key(&Key::secret("", "x"))), ["mesh"]);
        assert_eq!(reasons(&key(&Key::secret("UP", "x"))), ["mesh"]);
    }

    #[test]
    fn values_have_a_size() {
        assert_eq!(reasons(&value(0)), ["data"]);
        assert!(value(1).is_empty());
        assert!(value(MAX_VALUE).is_empty());
        assert_eq!(reasons(&value(MAX_VALUE + 1)), ["data"]);
    }

    #[test]
    fn labels_are_kubernetes_labels() {
        let one = |k: &str, v: &str| Labels::from([(k.to_owned(), v.to_owned())]);
        assert!(labels_at_global(&one("kuma.io/origin", "global")).is_empty());
        assert_eq!(labels_at_global(&one("kuma.io/origin", "zone")).len(), 1);
        assert!(labels_at_zone(&one("kuma.io/zone", "east"), "east").is_empty());
        assert_eq!(labels_at_zone(&one("kuma.io/zone", "west"), "east").len(), 1);
        assert_eq!(labels_syntax(&one("a b", "x")).len(), 1);
        assert_eq!(labels_syntax(&one("a", "-x")).len(), 1);
        assert!(labels_syntax(&one("a", "")).is_empty());
        assert_eq!(labels_syntax(&one("UP/x", "x")).len(), 1);
    }
}
