//! The nouns: types, keys, labels, resources and their versions.
//!
//! Decides: what makes two resources the same resource (the [`Key`]) and the same content (the
//! [`Version`]). Never does: validation of user input (`validate`), nor anything a store adds.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use smol_str::SmolStr;

use super::identity::StoreId;
use super::secret::SecretData;

/// Labels of a resource, ordered, so that order can never reach behaviour.
pub type Labels = BTreeMap<String, String>;

/// Label: the mesh of a mesh-scoped secret (Kuma 2.14.3 `dataplane_helpers.go`).
pub const LABEL_MESH: &str = "kuma.io/mesh";
/// Label: `global` or `zone`, where the resource was created.
pub const LABEL_ORIGIN: &str = "kuma.io/origin";
/// Label: the zone a zone-created resource belongs to.
pub const LABEL_ZONE: &str = "kuma.io/zone";
/// Label: `universal` or `kubernetes`.
pub const LABEL_ENV: &str = "kuma.io/env";
/// Label: the name as its author wrote it; added on the wire, not stored.
pub const LABEL_DISPLAY_NAME: &str = "kuma.io/display-name";
/// Label: `disabled` keeps a resource out of the sync.
pub const LABEL_KDS_SYNC: &str = "kuma.io/kds-sync";
/// Label: the Kubernetes namespace a resource came from.
pub const LABEL_NAMESPACE: &str = "k8s.kuma.io/namespace";

/// Labels that a store, a transport or a control plane adds. They say nothing of the content, so the
/// version leaves them out and any party can recompute it.
const ADDED_LABELS: [&str; 6] =
    [LABEL_MESH, LABEL_ORIGIN, LABEL_ZONE, LABEL_ENV, LABEL_DISPLAY_NAME, LABEL_NAMESPACE];

/// The kinds of resource that kdsync owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ResourceType {
    /// Control-plane settings. Only `kuma-cluster-id` exists, and only on the wire.
    Config,
    /// A secret bound to no mesh.
    GlobalSecret,
    /// A secret of one mesh.
    Secret,
    /// A zone, created at first contact. Never synced.
    Zone,
}

impl ResourceType {
    /// The types a zone holds from global.
    pub const SECRETS: [Self; 2] = [Self::GlobalSecret, Self::Secret];
    /// The types that travel over KDS.
    pub const SYNCED: [Self; 3] = [Self::Config, Self::GlobalSecret, Self::Secret];
    /// Every type.
    pub const ALL: [Self; 4] = [Self::Config, Self::GlobalSecret, Self::Secret, Self::Zone];

    /// Kuma's name of the type, as on the wire and in `type:`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "Config",
            Self::GlobalSecret => "GlobalSecret",
            Self::Secret => "Secret",
            Self::Zone => "Zone",
        }
    }

    /// True if resources of this type belong to a mesh.
    #[must_use]
    pub const fn is_mesh_scoped(self) -> bool {
        matches!(self, Self::Secret)
    }

    /// True for `Secret` and `GlobalSecret`.
    #[must_use]
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::GlobalSecret)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no type that kdsync owns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown resource type \"{0}\"")]
pub struct UnknownType(pub String);

impl FromStr for ResourceType {
    type Err = UnknownType;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|t| t.as_str() == s).ok_or_else(|| UnknownType(s.to_owned()))
    }
}

/// What names a resource. Orders by type, then mesh, then name, as Kuma lists do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub ty: ResourceType,
    /// The mesh; empty for types that belong to none.
    pub mesh: SmolStr,
    /// The name, unique within type and mesh.
    pub name: SmolStr,
}

impl Key {
    /// A key; `mesh` is ignored for types that belong to none.
    #[must_use]
    pub fn new(ty: ResourceType, mesh: &str, name: &str) -> Self {
        let mesh = if ty.is_mesh_scoped() { SmolStr::new(mesh) } else { SmolStr::default() };
        Self { ty, mesh, name: SmolStr::new(name) }
    }

    /// A mesh-scoped secret.
    #[must_use]
    pub fn secret(mesh: &str, name: &str) -> Self {
        Self::new(ResourceType::Secret, mesh, name)
    }

    /// A secret bound to no mesh.
    #[must_use]
    pub fn global_secret(name: &str) -> Self {
        Self::new(ResourceType::GlobalSecret, "", name)
    }

    /// A zone.
    #[must_use]
    pub fn zone(name: &str) -> Self {
        Self::new(ResourceType::Zone, "", name)
    }

    /// The name used in `Resource.name` and `removed_resources`: `name.mesh`, or `name.` with a
    /// trailing dot (Kuma 2.14.3 `pkg/kds/v2/cache/snapshot.go`, GetResourceName).
    #[must_use]
    pub fn wire_name(&self) -> String {
        format!("{}.{}", self.name, self.mesh)
    }

    /// Reads a wire name of type `ty`: split at the *last* dot; no dot means a global-scoped name.
    /// `None` for the empty name, which a 2.2.9 global sends and which means nothing.
    #[must_use]
    pub fn from_wire_name(ty: ResourceType, wire: &str) -> Option<Self> {
        if wire.is_empty() {
            return None;
        }
        let (name, mesh) = wire.rsplit_once('.').unwrap_or((wire, ""));
        if name.is_empty() || ty.is_mesh_scoped() == mesh.is_empty() {
            return None;
        }
        Some(Self::new(ty, mesh, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mesh.is_empty() {
            write!(f, "{} {}", self.ty, self.name)
        } else {
            write!(f, "{} {}/{}", self.ty, self.mesh, self.name)
        }
    }
}

/// The number of a commit. 0 is the empty store before its first commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time: milliseconds since 1970-01-01T00:00:00Z. Shown to people, never used to order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

/// SHA-256 of a resource's content in canonical form. A hash of a guessable secret tells the secret,
/// so it is never shown (SEC-2): there is no `Display`, and `Debug` is redacted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub [u8; 32]);

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Version(..)")
    }
}

/// What global knows of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneSpec {
    /// Kuma's switch; `true` when absent.
    pub enabled: bool,
    /// The store that may serve secrets to this zone although it is a stock one: set by an operator
    /// or by the `auto` setting. A store with another id does not match, so a wiped or swapped store
    /// cannot empty a stock zone.
    pub admitted_by: Option<StoreId>,
}

impl Default for ZoneSpec {
    fn default() -> Self {
        Self { enabled: true, admitted_by: None }
    }
}

/// The content of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Of a `Secret` or a `GlobalSecret`: the raw decoded value.
    Secret(SecretData),
    /// Of a `Zone`.
    Zone(ZoneSpec),
}

/// A resource as a store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What it is called.
    pub key: Key,
    /// User labels plus those that the place of creation adds.
    pub labels: Labels,
    /// The content.
    pub spec: Spec,
    /// When it was created here.
    pub created: Timestamp,
    /// When it was last changed here.
    pub modified: Timestamp,
}

impl Resource {
    /// A secret or global secret.
    #[must_use]
    pub fn secret(key: Key, labels: Labels, data: SecretData, now: Timestamp) -> Self {
        Self { key, labels, spec: Spec::Secret(data), created: now, modified: now }
    }

    /// The value, if this is a secret.
    #[must_use]
    pub fn data(&self) -> Option<&SecretData> {
        match &self.spec {
            Spec::Secret(data) => Some(data),
            Spec::Zone(_) => None,
        }
    }

    /// The version of the content.
    #[must_use]
    pub fn version(&self) -> Version {
        match &self.spec {
            Spec::Secret(data) => version_of(&self.key, &self.labels, data.expose()),
            Spec::Zone(zone) => {
                let admitted = zone.admitted_by.map(|id| id.to_string()).unwrap_or_default();
                let text = format!("{}|{admitted}", zone.enabled);
                version_of(&self.key, &self.labels, text.as_bytes())
            }
        }
    }
}

/// The version of a content: SHA-256 over type, mesh, name, labels (without those that a store adds)
/// and data, each part preceded by its length as a 64-bit big-endian number, so that no two contents
/// share a form.
#[must_use]
pub fn version_of(key: &Key, labels: &Labels, data: &[u8]) -> Version {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(b"kdsync/version/1");
    part(key.ty.as_str().as_bytes());
    part(key.mesh.as_bytes());
    part(key.name.as_bytes());
    for (label, value) in labels.iter().filter(|(label, _)| !ADDED_LABELS.contains(&label.as_str())) {
        part(label.as_bytes());
        part(value.as_bytes());
    }
    part(b"data");
    part(data);
    Version(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_round_trip_and_the_odd_forms_are_read() {
        let secret = Key::secret("default", "a.b");
        assert_eq!(secret.wire_name(), "a.b.default");
        assert_eq!(Key::from_wire_name(ResourceType::Secret, "a.b.default"), Some(secret));
        let global = Key::global_secret("gamma");
        assert_eq!(global.wire_name(), "gamma.");
        assert_eq!(Key::from_wire_name(ResourceType::GlobalSecret, "gamma."), Some(global.clone()));
        assert_eq!(Key::from_wire_name(ResourceType::GlobalSecret, "gamma"), Some(global));
        assert_eq!(Key::from_wire_name(ResourceType::Secret, ""), None);
        assert_eq!(Key::from_wire_name(ResourceType::Secret, "no-mesh"), None);
        assert_eq!(Key::from_wire_name(ResourceType::GlobalSecret, "name.mesh"), None);
    }

    #[test]
    fn version_ignores_added_labels_and_sees_everything_else() {
        let key = Key::secret("default", "a");
        let plain = version_of(&key, &Labels::new(), b"v");
        let added =
            Labels::from([(LABEL_ORIGIN.into(), "global".into()), (LABEL_MESH.into(), "default".into())]);
        assert_eq!(version_of(&key, &added, b"v"), plain);
        let own = Labels::from([("team".into(), "x".into())]);
        assert_ne!(version_of(&key, &own, b"v"), plain);
        assert_ne!(version_of(&key, &Labels::new(), b"w"), plain);
        assert_ne!(version_of(&Key::secret("other", "a"), &Labels::new(), b"v"), plain);
        assert_ne!(version_of(&Key::global_secret("a"), &Labels::new(), b"v"), plain);
    }
}
