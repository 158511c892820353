//! Answers of real globals: read as they were meant, and what we send beside them.
//!
//! Decides: what 2.14.3 and 2.2.9 mean by each field. Never does: play them to a zone; `tests/zone` does.

use std::sync::Arc;

use kdsync::core::{Digest, Key, Labels, Position, ResourceType, Revision, StoreId, StoreIdentity, Version};
use kdsync::kds::message::{Answer, Response};
use kdsync::kds::plan::{Part, Plan, Transmit};
use kdsync::kds::snapshot::Entry;
use kdsync::kds::wire::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1::KumaResource;
use kdsync::kds::wire::{Message as _, encode_resource, to_bytes};

use super::{answer, data, golden, response};

/// Names and values of an answer, in order of names; Kuma's own order is random.
fn contents(response: &Response) -> Vec<(String, Vec<u8>)> {
    let resources = response.resources.iter();
    let mut all: Vec<_> = resources.map(|r| (r.key.to_string(), r.data.expose().to_vec())).collect();
    all.sort();
    all
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn secrets_of_both_versions_are_read() {
    for version in ["2.14.3", "2.2.9"] {
        let first = response(&format!("kuma-{version}/global/Secret.first"));
        let expected = [
            ("Secret default/alpha", b"alpha value".to_vec()),
            ("Secret default/beta", vec![0, 1, 2, 3, 0xff]),
        ];
        assert_eq!(contents(&first), expected.map(|(name, value)| (name.to_owned(), value)), "{version}");
        assert_eq!(first.type_url, "Secret");
        assert!(!first.nonce.is_empty());
        assert_eq!(first.header, None, "{version}: no position is read from what a Kuma sends");
        assert!(first.unreadable.is_empty() && first.removed.is_empty(), "{version}");

        let changed = response(&format!("kuma-{version}/global/Secret.next1"));
        assert_eq!(contents(&changed), [("Secret default/alpha".to_owned(), b"changed".to_vec())]);
        assert!(changed.removed.is_empty(), "{version}");

        let deleted = response(&format!("kuma-{version}/global/Secret.next2"));
        assert!(deleted.resources.is_empty(), "{version}");
        assert_eq!(deleted.removed, [Key::secret("default", "beta")], "{version}");
    }
}

#[test]
fn global_secrets_and_the_cluster_id_are_read() {
    let global = response("kuma-2.14.3/global/GlobalSecret.first");
    let names: Vec<_> = contents(&global).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["GlobalSecret gamma", "GlobalSecret zone-token-signing-public-key-1"]);
    assert!(contents(&global)[1].1.starts_with(b"-----BEGIN RSA PUBLIC KEY-----"));
    for version in ["2.14.3", "2.2.9"] {
        let config = response(&format!("kuma-{version}/global/Config.first"));
        let [(name, id)] = contents(&config).try_into().unwrap();
        assert_eq!(name, "Config kuma-cluster-id");
        assert!(std::str::from_utf8(&id).unwrap().parse::<uuid::Uuid>().is_ok(), "{version}");
    }
}

#[test]
fn what_the_versions_do_differently_is_seen() {
    let new = answer("kuma-2.14.3/global/Secret.first");
    let mut names: Vec<_> = new.resources.iter().map(|resource| resource.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["alpha.default", "beta.default"]);
    assert_eq!(new.system_version_info, "");
    let global = answer("kuma-2.14.3/global/GlobalSecret.first");
    assert!(global.resources.iter().all(|resource| resource.name.ends_with('.')), "a trailing dot");

    let old = answer("kuma-2.2.9/global/Secret.first");
    assert!(old.resources.iter().all(|resource| resource.name.is_empty()));
    assert!(old.system_version_info.parse::<uuid::Uuid>().is_ok(), "a random one, without a meaning");
    for message in [new, old] {
        assert_eq!(message.control_plane.unwrap().identifier, "global");
        assert!(message.resources.iter().all(|resource| resource.version.len() == 64));
    }
}

#[test]
fn labels_are_those_of_each_version() {
    let of = |name: &str, key: &Key| {
        let found = response(name).resources.into_iter().find(|received| received.key == *key);
        found.unwrap().labels
    };
    let alpha = Key::secret("default", "alpha");
    let mesh_and_origin = labels(&[("kuma.io/mesh", "default"), ("kuma.io/origin", "global")]);
    assert_eq!(of("kuma-2.14.3/global/Secret.first", &alpha), mesh_and_origin);
    assert_eq!(of("kuma-2.2.9/global/Secret.first", &alpha), Labels::new());
    let global = "kuma-2.14.3/global/GlobalSecret.first";
    assert_eq!(of(global, &Key::global_secret("gamma")), labels(&[("kuma.io/origin", "global")]));
    let key = Key::global_secret("zone-token-signing-public-key-1");
    let mapped =
        labels(&[("kuma.io/display-name", "zone-token-signing-key-1"), ("kuma.io/origin", "global")]);
    assert_eq!(of(global, &key), mapped);
}

/// Our message with this content, on the nonce of theirs.
fn ours(upserts: Vec<Arc<Entry>>, removed: Vec<Key>, nonce: &str) -> Vec<u8> {
    let identity = StoreIdentity { id: StoreId(uuid::Uuid::from_u128(1)), epoch: 1 };
    let position = Position { identity, revision: Revision(9), count: 0, digest: Digest::default() };
    let mut part = Part::default();
    (part.upserts, part.removed) = (upserts, removed);
    let plan = Plan {
        ty: ResourceType::Secret,
        answer: Answer::Whole,
        position,
        with_header: false,
        parts: vec![part],
        oversize: Vec::new(),
    };
    let frame = Transmit { plan: Arc::new(plan), part: 0, attempt: 0 }.frame();
    let mut message = DeltaDiscoveryResponse::decode(&frame[5..]).unwrap();
    assert_eq!(to_bytes(&message), frame[5..], "a frame made of parts is the message in one piece");
    nonce.clone_into(&mut message.nonce);
    to_bytes(&message).to_vec()
}

#[test]
fn given_the_same_content_we_send_the_bytes_of_2_14_3() {
    // The version is Kuma's own hash, so it is taken over from the recording.
    let theirs = answer("kuma-2.14.3/global/Secret.next1");
    let mut version = [0; 32];
    for (at, byte) in version.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&theirs.resources[0].version[2 * at..2 * at + 2], 16).unwrap();
    }
    let (key, version) = (Key::secret("default", "alpha"), Version(version));
    let labels = labels(&[("kuma.io/mesh", "default"), ("kuma.io/origin", "global")]);
    let encoded = encode_resource(&key, &labels, &data(b"changed"), &version);
    let entry = Arc::new(Entry { key, version, revision: Revision(9), encoded });
    // The order of labels is all that may differ: Go's is random.
    let payload = |bytes: &[u8]| {
        let message = DeltaDiscoveryResponse::decode(bytes).unwrap();
        KumaResource::decode(message.resources[0].resource.clone().unwrap().value).unwrap()
    };
    let sorted = |bytes: &[u8]| {
        let mut message = DeltaDiscoveryResponse::decode(bytes).unwrap();
        let any = message.resources[0].resource.as_mut().unwrap();
        any.value = to_bytes(&payload(bytes));
        to_bytes(&message)
    };
    let mine = ours(vec![entry], Vec::new(), &theirs.nonce);
    assert!(payload(&mine) == payload(&golden("kuma-2.14.3/global/Secret.next1")));
    assert_eq!(mine.len(), golden("kuma-2.14.3/global/Secret.next1").len());
    assert!(sorted(&mine) == sorted(&golden("kuma-2.14.3/global/Secret.next1")));

    let theirs = answer("kuma-2.14.3/global/Secret.next2");
    let mine = ours(Vec::new(), vec![Key::secret("default", "beta")], &theirs.nonce);
    assert!(mine == golden("kuma-2.14.3/global/Secret.next2"));
}
