//! Bytes that nobody should send: unknown fields, damaged messages, noise.
//!
//! Decides: that decoding ignores what it does not know, refuses what it cannot read, and never panics. Never
//! does: judge what a session makes of it.

use kdsync::core::{Digest, Key, Position, ResourceType, Revision, StoreId, StoreIdentity};
use kdsync::kds::message::{Answer, Header, parse_position, position_text};
use kdsync::kds::wire::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use kdsync::kds::wire::pb::google::protobuf::Any;
use kdsync::kds::wire::pb::kdsync::v1::{GlobalReport, ZoneReport};
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1::KumaResource;
use kdsync::kds::wire::{
    DecodeError, Message as _, decode_request, decode_response, encode_request, to_bytes,
};
use proptest::prelude::*;

use super::{ANSWERS, REQUESTS, answer, golden, request, response};

const KUMA_RESOURCE: &str = "type.googleapis.com/kuma.mesh.v1alpha1.KumaResource";

/// Fields that our schema does not have: a number, a text, four and eight bytes.
const UNKNOWN: [&[u8]; 4] = [
    &[0xa0, 0x06, 0x96, 0x01],
    &[0xa2, 0x06, 0x03, b'n', b'e', b'w'],
    &[0xa5, 0x06, 1, 2, 3, 4],
    &[0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],
];

#[test]
fn unknown_fields_are_ignored() {
    for name in ANSWERS {
        let bytes = [&golden(name), UNKNOWN.concat().as_slice()].concat();
        let message = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(decode_response(message).unwrap(), response(name), "{name}");
    }
    for name in REQUESTS {
        let bytes = [UNKNOWN.concat().as_slice(), &golden(name)].concat();
        let message = DeltaDiscoveryRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!(decode_request(message), request(name), "{name}");
    }
}

#[test]
fn unknown_fields_inside_a_resource_are_ignored() {
    let mut message = answer("kuma-2.14.3/global/Secret.first");
    for resource in &mut message.resources {
        let any = resource.resource.as_mut().unwrap();
        any.value = [any.value.as_ref(), &UNKNOWN.concat()].concat().into();
    }
    assert_eq!(decode_response(message).unwrap(), response("kuma-2.14.3/global/Secret.first"));
}

#[test]
fn a_status_and_an_empty_value_are_fine() {
    let mut message = answer("kuma-2.14.3/global/Secret.next1");
    let any = message.resources[0].resource.as_mut().unwrap();
    let mut payload = KumaResource::decode(any.value.clone()).unwrap();
    payload.status = Some(Any { type_url: "x".to_owned(), value: vec![1].into() });
    payload.spec.as_mut().unwrap().value = Vec::new().into();
    any.value = to_bytes(&payload);
    let read = decode_response(message).unwrap();
    assert!(read.unreadable.is_empty());
    assert!(read.resources[0].data.is_empty(), "no data field is an empty value");
}

/// One way to damage a resource, and why it is refused.
type Damage = (&'static str, fn(&mut Resource));

fn with_payload(resource: &mut Resource, change: impl FnOnce(&mut KumaResource)) {
    let any = resource.resource.as_mut().unwrap();
    let mut payload = KumaResource::decode(any.value.clone()).unwrap();
    change(&mut payload);
    any.value = to_bytes(&payload);
}

const DAMAGES: [Damage; 7] = [
    ("its payload is not a KumaResource", |resource| resource.resource = None),
    ("its payload is not a KumaResource", |resource| {
        "type.googleapis.com/other".clone_into(&mut resource.resource.as_mut().unwrap().type_url);
    }),
    ("its payload cannot be decoded", |resource| {
        resource.resource.as_mut().unwrap().value = vec![0x0a, 0xff].into();
    }),
    ("it has no metadata", |resource| with_payload(resource, |payload| payload.meta = None)),
    ("it has no spec", |resource| with_payload(resource, |payload| payload.spec = None)),
    ("its spec cannot be decoded", |resource| {
        with_payload(resource, |payload| payload.spec.as_mut().unwrap().value = vec![0x0a, 0xff].into());
    }),
    ("its spec is of another type", |resource| {
        with_payload(resource, |payload| {
            KUMA_RESOURCE.clone_into(&mut payload.spec.as_mut().unwrap().type_url);
        });
    }),
];

#[test]
fn a_damaged_resource_is_refused_by_name_and_alone() {
    for (reason, damage) in DAMAGES {
        let mut message = answer("kuma-2.14.3/global/Secret.first");
        let alpha = message.resources.iter_mut().find(|resource| resource.name == "alpha.default");
        damage(alpha.unwrap());
        let read = decode_response(message).unwrap();
        assert_eq!(read.resources.len(), 1, "{reason}");
        assert_eq!(read.unreadable.len(), 1, "{reason}");
        assert_eq!(read.unreadable[0].key, Key::secret("default", "alpha"));
        assert_eq!(read.unreadable[0].reason, reason);
    }
}

#[test]
fn a_damaged_resource_without_a_name_ends_the_stream() {
    let mut message = answer("kuma-2.2.9/global/Secret.first");
    message.resources[0].resource = None;
    assert_eq!(decode_response(message), Err(DecodeError::Nameless("Secret".to_owned())));
}

#[test]
fn a_type_that_is_not_owned_is_passed_on_unread() {
    let mut message = answer("kuma-2.14.3/global/Secret.first");
    "Mesh".clone_into(&mut message.type_url);
    message.resources[0].resource = None;
    let read = decode_response(message).unwrap();
    assert_eq!(read.type_url, "Mesh");
    assert!(read.resources.is_empty() && read.unreadable.is_empty() && read.removed.is_empty());
}

/// Reads bytes in every way that a peer could have meant.
fn read_all(bytes: &[u8]) {
    if let Ok(message) = DeltaDiscoveryResponse::decode(bytes) {
        for ty in ResourceType::ALL {
            let type_url = ty.as_str().to_owned();
            // It may be readable or not; either is an answer.
            let _ = decode_response(DeltaDiscoveryResponse { type_url, ..message.clone() });
        }
        let _ = decode_response(message);
    }
    if let Ok(message) = DeltaDiscoveryRequest::decode(bytes) {
        let read = decode_request(message);
        let again = decode_request(encode_request(&read));
        assert_eq!((again.type_url, again.nonce), (read.type_url, read.nonce));
    }
    let _ = ZoneReport::decode(bytes);
    let _ = GlobalReport::decode(bytes);
}

/// A change to a recorded message: where, and what.
#[derive(Clone, Debug)]
enum Wound {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Drop(usize, usize),
}

fn wound() -> impl Strategy<Value = Wound> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Wound::Set(at, byte)),
        any::<usize>().prop_map(Wound::Cut),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Wound::Insert(at, bytes)),
        (any::<usize>(), 1..20_usize).prop_map(|(at, count)| Wound::Drop(at, count)),
    ]
}

fn inflict(bytes: &mut Vec<u8>, wound: Wound) {
    let place = |at: usize| if bytes.is_empty() { 0 } else { at % bytes.len() };
    match wound {
        Wound::Set(at, byte) => {
            let at = place(at);
            bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
        }
        Wound::Cut(at) => bytes.truncate(place(at)),
        Wound::Insert(at, more) => {
            let at = place(at);
            bytes.splice(at..at, more);
        }
        Wound::Drop(at, count) => {
            let at = place(at);
            let end = (at + count).min(bytes.len());
            bytes.drain(at..end);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_all(&bytes);
    }

    #[test]
    fn damaged_recordings_never_panic(
        which in 0..ANSWERS.len() + REQUESTS.len(),
        wounds in prop::collection::vec(wound(), 1..6),
    ) {
        let name = ANSWERS.iter().chain(&REQUESTS).nth(which).unwrap();
        let mut bytes = golden(name);
        for wound in wounds {
            inflict(&mut bytes, wound);
        }
        read_all(&bytes);
    }

    #[test]
    fn odd_texts_are_no_positions(text in "[a-z0-9 :.é-]{0,80}") {
        prop_assert!(parse_position(&text).is_err());
        prop_assert!(text.parse::<Header>().is_err());
        let _ = parse_position(&format!("kdsync-1 {text}"));
    }

    #[test]
    fn positions_and_headers_come_back_and_nothing_near_them_does(
        (id, epoch, revision, count) in any::<(u128, u64, u64, u64)>(),
        digest in prop_oneof![any::<[u8; 32]>(), Just([0; 32])],
        base in any::<u64>(),
        (page, more) in (1..=u32::MAX, any::<u32>()),
        cut in any::<prop::sample::Index>(),
    ) {
        let identity = StoreIdentity { id: StoreId(uuid::Uuid::from_u128(id)), epoch };
        let digest = Digest::from_bytes(digest);
        let position = Position { identity, revision: Revision(revision), count, digest };
        let text = position_text(&position);
        prop_assert_eq!(parse_position(&text), Ok(position));
        prop_assert!(text.len() <= 140);
        prop_assert!(parse_position(&text[..cut.index(text.len())]).is_err());
        let longer = format!("{text}A");
        prop_assert!(parse_position(&longer).is_err());
        let spaced = format!("{text} ");
        prop_assert!(parse_position(&spaced).is_err());
        let answer = Answer::Since(Revision(base));
        let header = Header { position, answer, page, pages: page.saturating_add(more) };
        prop_assert_eq!(header.to_string().parse(), Ok(header));
        let equal = Header { answer: Answer::Equal, page: 1, pages: 1, ..header };
        let bare = Header { position: Position { revision: Revision(revision), ..Position::start(identity) }, ..equal };
        prop_assert_eq!(equal.to_string().parse(), Ok(bare));
    }

    #[test]
    fn wire_names_come_back(mesh in "[a-z][a-z0-9-]{0,10}", name in "[a-z][a-z0-9.-]{0,20}") {
        for key in [Key::secret(&mesh, &name), Key::global_secret(&name)] {
            prop_assert_eq!(Key::from_wire_name(key.ty, &key.wire_name()), Some(key));
        }
    }
}
