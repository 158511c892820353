//! What leaves a global store: prefilters and mappings as in Kuma 2.14.3 (`pkg/kds/context/context.go`).
//!
//! Decides: whether a resource is served, under which name, with which labels and which value.
//! Never does: serve a private signing key; a key that cannot be mapped is withheld and named.

use pkcs1::RsaPrivateKey;
use pkcs1::der::{Encode as _, SecretDocument};

use super::resource::{
    Key, LABEL_DISPLAY_NAME, LABEL_KDS_SYNC, LABEL_MESH, LABEL_ORIGIN, Labels, Resource, ResourceType,
    Version, version_of,
};
use super::secret::SecretData;

/// GlobalSecrets that belong to a control plane itself: never leave global, never swept at a zone,
/// rejected by name when any global sends them (SEC-5; Kuma 2.14.3 `pkg/kds/context/context.go`).
const INTERNAL_NAMES: [&str; 4] =
    ["envoy-admin-ca", "admin-user-token", "inter-cp-ca", "user-token-revocations"];
const INTERNAL_PREFIX: &str = "user-token-signing-key";
/// The private key of zone tokens: leaves global only as its public half.
pub const ZONE_SIGNING_KEY: &str = "zone-token-signing-key";
/// The public half, under the name zones look for.
pub const ZONE_PUBLIC_KEY: &str = "zone-token-signing-public-key";
/// What Kuma 2.9 and older accept as GlobalSecrets from a global (2.2.9 `pkg/kds/context/context.go`).
const LEGACY_GLOBAL_PREFIXES: [&str; 2] = ["zone-ingress-token-signing-key", ZONE_PUBLIC_KEY];

/// True for names that are a control plane's own, wherever they appear.
#[must_use]
pub fn is_internal(key: &Key) -> bool {
    key.ty == ResourceType::GlobalSecret
        && (INTERNAL_NAMES.contains(&key.name.as_str())
            || key.name.starts_with(INTERNAL_PREFIX)
            || key.name.starts_with(ZONE_SIGNING_KEY))
}

/// Who is looking at the served set. One shared frame per audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    /// kdsync zones and Kuma 2.10 or newer.
    All,
    /// Kuma 2.9 or older: takes no GlobalSecret but the token signing keys.
    Legacy,
}

impl Audience {
    /// True if this audience may be sent `key`.
    #[must_use]
    pub fn sees(self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Legacy => {
                key.ty != ResourceType::GlobalSecret
                    || LEGACY_GLOBAL_PREFIXES.iter().any(|prefix| key.name.starts_with(prefix))
            }
        }
    }
}

/// Why a resource stays at global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Its type never travels.
    NotSynced,
    /// Label `kuma.io/kds-sync: disabled`.
    Disabled,
    /// It belongs to the control plane itself.
    Internal,
    /// Its origin label says that a zone made it.
    ForeignOrigin,
    /// A signing key that is not a PEM `RSA PRIVATE KEY` (PKCS#1).
    UnusableKey,
}

/// A resource as zones may see it.
#[derive(Clone, Debug)]
pub struct Served {
    /// The key on the wire, after mapping.
    pub key: Key,
    /// The labels on the wire.
    pub labels: Labels,
    /// The value on the wire.
    pub data: SecretData,
    /// The version of that content.
    pub version: Version,
}

/// The key under which a stored key would be served, whatever its content.
#[must_use]
pub fn served_key(key: &Key) -> Key {
    if key.ty == ResourceType::GlobalSecret && key.name.starts_with(ZONE_SIGNING_KEY) {
        return Key::global_secret(&key.name.replace(ZONE_SIGNING_KEY, ZONE_PUBLIC_KEY));
    }
    key.clone()
}

/// Applies prefilters, then mappings.
///
/// # Errors
/// The reason why the resource stays at global.
pub fn serve(resource: &Resource) -> Result<Served, Withheld> {
    let Some(data) = resource.data().filter(|_| resource.key.ty.is_secret()) else {
        return Err(Withheld::NotSynced);
    };
    let label = |name: &str| resource.labels.get(name).map(String::as_str).unwrap_or_default();
    if label(LABEL_KDS_SYNC) == "disabled" {
        return Err(Withheld::Disabled);
    }
    let signing_key = resource.key.name.starts_with(ZONE_SIGNING_KEY);
    if is_internal(&resource.key) && !signing_key {
        return Err(Withheld::Internal);
    }
    if !matches!(label(LABEL_ORIGIN), "" | "global") {
        return Err(Withheld::ForeignOrigin);
    }
    let key = served_key(&resource.key);
    let data =
        if key == resource.key { data.clone() } else { public_half(data).ok_or(Withheld::UnusableKey)? };
    let labels = wire_labels(&resource.key, &resource.labels);
    let version = version_of(&key, &labels, data.expose());
    Ok(Served { key, labels, data, version })
}

/// Labels on the wire: the stored ones plus mesh, origin and display name.
fn wire_labels(stored: &Key, labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    if stored.ty.is_mesh_scoped() {
        labels.insert(LABEL_MESH.to_owned(), stored.mesh.to_string());
    }
    labels.insert(LABEL_ORIGIN.to_owned(), "global".to_owned());
    labels.entry(LABEL_DISPLAY_NAME.to_owned()).or_insert_with(|| stored.name.to_string());
    labels
}

/// The PEM `RSA PUBLIC KEY` of a PEM `RSA PRIVATE KEY`, both PKCS#1.
fn public_half(private: &SecretData) -> Option<SecretData> {
    let pem = std::str::from_utf8(private.expose()).ok()?;
    let (label, document) = SecretDocument::from_pem(pem.trim()).ok()?;
    if label != "RSA PRIVATE KEY" {
        return None;
    }
    let key = RsaPrivateKey::try_from(document.as_bytes()).ok()?;
    let der = key.public_key().to_der().ok()?;
    let pem = pkcs1::der::pem::encode_string("RSA PUBLIC KEY", pkcs1::LineEnding::LF, &der).ok()?;
    Some(SecretData::new(pem.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::resource::Timestamp;

    fn global(name: &str, value: &[u8]) -> Resource {
        let data = SecretData::new(value.to_vec());
        Resource::secret(Key::global_secret(name), Labels::new(), data, Timestamp(0))
    }

    #[test]
    fn internal_names_never_leave() {
        for name in [
            "envoy-admin-ca",
            "admin-user-token",
            "inter-cp-ca",
            "user-token-revocations",
            "user-token-signing-key-1",
        ] {
            assert_eq!(serve(&global(name, b"v")).err(), Some(Withheld::Internal), "{name}");
        }
        assert!(serve(&global("zone-token-revocations", b"v")).is_ok());
    }

    #[test]
    fn labels_gate_and_travel() {
        let mut resource = global("g", b"v");
        assert_eq!(serve(&resource).map(|s| s.labels.len()).ok(), Some(2));
        resource.labels.insert(LABEL_ORIGIN.into(), "zone".into());
        assert_eq!(serve(&resource).err(), Some(Withheld::ForeignOrigin));
        resource.labels.insert(LABEL_ORIGIN.into(), "global".into());
        resource.labels.insert(LABEL_KDS_SYNC.into(), "disabled".into());
        assert_eq!(serve(&resource).err(), Some(Withheld::Disabled));
    }

    #[test]
    fn a_malformed_signing_key_is_withheld_alone() {
        assert_eq!(serve(&global("zone-token-signing-key-1", b"junk")).err(), Some(Withheld::UnusableKey));
        let pem = b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert_eq!(serve(&global("zone-token-signing-key", pem)).err(), Some(Withheld::UnusableKey));
    }

    #[test]
    fn old_kuma_sees_only_token_keys() {
        assert!(!Audience::Legacy.sees(&Key::global_secret("mine")));
        assert!(Audience::Legacy.sees(&Key::global_secret("zone-token-signing-public-key-1")));
        assert!(Audience::Legacy.sees(&Key::secret("m", "mine")));
        assert!(Audience::All.sees(&Key::global_secret("mine")));
    }
}
