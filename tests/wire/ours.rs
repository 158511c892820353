//! Our own messages, byte by byte, as they were when somebody last looked.
//!
//! Decides: that a change of the wire is noticed. Never does: say that a change is wrong; `UPDATE=1` writes what is
//! sent now to `ours/*.hex`, and whoever commits that has seen it.

use std::path::Path;

use kdsync::core::served::{Audience, serve};
use kdsync::core::{
    Digest, Key, Labels, Position, Resource, ResourceType, Revision, StoreId, StoreIdentity, Timestamp,
    Version,
};
use kdsync::kds::knobs::Knobs;
use kdsync::kds::message::{Answer, Nack, Node, Rejection, Request, parse_position, position_text};
use kdsync::kds::plan::{Cut, Transmit};
use kdsync::kds::server::{Peer, ServerSession};
use kdsync::kds::snapshot::{Change, Entry, Record, Snapshot, TypeSnapshot};
use kdsync::kds::wire::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kdsync::kds::wire::pb::kdsync::v1 as link;
use kdsync::kds::wire::{
    Message as _, decode_name, decode_request, decode_response, encode_name, encode_request, frame, to_bytes,
};

use super::data;

fn identity() -> StoreIdentity {
    StoreIdentity { id: StoreId(uuid::Uuid::from_u128(0x1234_5678_9abc_def0)), epoch: 2 }
}

/// Offset, bytes, and what of them is text.
fn dump(bytes: &[u8]) -> String {
    let mut lines = Vec::new();
    for (at, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        let plain: String = line.iter().map(plain).collect();
        lines.push(format!("{:04x}  {:<47}  {plain}\n", at * 16, hex.join(" ")));
    }
    lines.concat()
}

fn frozen(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/wire/ours/{name}.hex"));
    let now = dump(bytes);
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(path, now).unwrap();
        return;
    }
    let then = std::fs::read_to_string(path).unwrap_or_default();
    assert!(then == now, "tests/wire/ours/{name}.hex is no longer what is sent:\n{then}\nnow:\n{now}");
}

/// Freezes a request, and shows that the other end reads what was said.
fn said(name: &str, request: &Request) {
    let bytes = to_bytes(&encode_request(request));
    frozen(name, &bytes);
    assert_eq!(decode_request(DeltaDiscoveryRequest::decode(bytes).unwrap()), *request, "{name}");
}

fn request(ty: &str) -> Request {
    let node = Node { id: "east".into(), ..Node::default() };
    Request { type_url: ty.into(), node, ..Request::default() }
}

fn position() -> Position {
    let digest = Digest::of([(&Key::secret("default", "a"), &Version([1; 32]))]);
    Position { identity: identity(), revision: Revision(7), count: 1, digest }
}

#[test]
fn requests() {
    let node = Node {
        id: "east".into(),
        version: "0.1.0".to_owned(),
        instance: "here-1a2b".to_owned(),
        max_message: None,
    };
    let all = vec!["*".into()];
    let first = Request { subscribe: all.clone(), node, ..request("Secret") };
    said("first-request", &first);
    let position = Some(position());
    let subscribe = vec!["*".into(), "refused.default".into()];
    said("first-request-at-a-position", &Request { position, subscribe, ..first.clone() });
    let versions = vec![("a.default".into(), "01".repeat(32).into()), ("b.default".into(), "v2".into())];
    said("first-request-to-kuma", &Request { versions, ..first });
    said("ack", &Request { nonce: "S7.1.0".into(), ..request("Secret") });
    said("named-subscribe", &Request { subscribe: vec!["gamma.".into()], ..request("GlobalSecret") });

    let rejection = |key, reason: &str| Rejection { key, reason: reason.to_owned() };
    let rejected = vec![
        rejection(Key::secret("default", "a"), "too large"),
        rejection(Key::global_secret("g"), "not now"),
    ];
    let message = "Secret default/a: too large".to_owned();
    let nack = Some(Nack { message: message.clone(), rejected });
    said("nack", &Request { nonce: "S7.1.0".into(), nack, ..request("Secret") });
    let nack = Some(Nack { message, rejected: Vec::new() });
    said("nack-to-kuma", &Request { nonce: "2".into(), nack, subscribe: all, ..request("Secret") });
}

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
fn some_instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// A set of three commits: two secrets, and one that is gone.
fn set() -> TypeSnapshot {
    let entry = |name: &str, value: &[u8], revision| {
        let labels = Labels::from([("team".to_owned(), "x".to_owned())]);
        let resource = Resource::secret(Key::secret("default", name), labels, data(value), Timestamp(0));
        Entry::new(&serve(&resource).unwrap(), revision)
    };
    let mut set = TypeSnapshot::empty(ResourceType::Secret, identity());
    let mut versions = std::collections::BTreeMap::new();
    for (revision, name, value) in [(1, "gone", "x"), (2, "a", "alpha value"), (3, "b", "beta")] {
        let revision = Revision(revision);
        let entry = entry(name, value.as_bytes(), revision);
        let key = entry.key.clone();
        versions.insert(key.clone(), entry.version);
        let removed: Vec<_> =
            (revision == Revision(3)).then(|| Key::secret("default", "gone")).into_iter().collect();
        versions.retain(|key, _| !removed.contains(key));
        let (count, digest) = (versions.len() as u64, Digest::of(&versions));
        let keys = removed.iter().cloned().chain([key]).collect();
        let records = vec![(revision, Record { count, digest, keys })];
        let position = Position { identity: identity(), revision, count, digest };
        set = set.apply(Change { upserts: vec![entry], removed, records }, position, Revision(0)).unwrap();
    }
    set
}

/// Freezes the frame of a message, without its prefix, which is checked.
fn sent(name: &str, transmit: &Transmit) -> DeltaDiscoveryResponse {
    let frame = transmit.frame();
    assert_eq!(frame[0], 0, "{name}: not compressed");
    let length = u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize;
    assert_eq!(length, frame.len() - 5, "{name}");
    frozen(name, &frame[5..]);
    DeltaDiscoveryResponse::decode(&frame[5..]).unwrap()
}

#[test]
fn answers() {
    let set = set();
    let plan = set.since(Revision(1), Audience::All, Cut::Pages(400)).unwrap();
    assert_eq!(plan.parts.len(), 2);
    let first = sent("answer-page-1", &Transmit { plan: plan.clone(), part: 0, attempt: 0 });
    let last = sent("answer-page-2", &Transmit { plan, part: 1, attempt: 0 });
    assert!(first.removed_resources.is_empty());
    assert_eq!(last.removed_resources, ["gone.default"]);
    let read = decode_response(last).unwrap();
    let header = read.header.unwrap();
    assert_eq!((header.position, header.answer), (set.position, Answer::Since(Revision(1))));
    assert_eq!((header.page, header.pages, header.is_last()), (2, 2, true));
    assert_eq!((read.nonce.as_str(), read.removed), ("S3.2.0", vec![Key::secret("default", "gone")]));

    let plan = set.only([], Answer::Equal, Audience::All, Cut::Pages(400));
    sent("answer-equal", &Transmit { plan, part: 0, attempt: 2 });
    let plan = set.whole(Audience::All, Cut::One);
    let kuma = sent("answer-to-kuma", &Transmit { plan, part: 0, attempt: 0 });
    assert_eq!(kuma.system_version_info, "", "nothing of ours is shown to Kuma");
    let config = Snapshot::empty(identity()).get(ResourceType::Config).unwrap().clone();
    let plan = config.whole(Audience::All, Cut::One);
    sent("answer-config", &Transmit { plan, part: 0, attempt: 0 });
}

#[test]
fn labels_on_the_wire_are_mesh_origin_and_display_name() {
    let plan = set().whole(Audience::All, Cut::One);
    let frame = Transmit { plan, part: 0, attempt: 0 }.frame();
    let read = decode_response(DeltaDiscoveryResponse::decode(&frame[5..]).unwrap()).unwrap();
    let labels: Vec<_> = read.resources[0].labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let expected = ["kuma.io/display-name=a", "kuma.io/mesh=default", "kuma.io/origin=global", "team=x"];
    assert_eq!(labels, expected);
    assert_eq!(read.resources[0].data.expose(), b"alpha value");
}

#[test]
fn zones_in_one_position_get_the_same_bytes() {
    let set = std::sync::Arc::new(set());
    let now = some_instant();
    let mut frames = Vec::new();
    for zone in ["east", "west"] {
        let mut session =
            ServerSession::new(Peer::Kdsync { page: 1000 }, set.clone(), true, Knobs::default());
        let node = Node { id: zone.into(), ..Node::default() };
        let open = Request { subscribe: vec!["*".into()], node, ..request("Secret") };
        session.on_request(&open, now).unwrap();
        let transmit = session.poll_transmit(now).unwrap().unwrap();
        frames.push((transmit.frame().as_ptr(), transmit));
    }
    assert_eq!(frames[0].1.nonce(), frames[1].1.nonce());
    assert_eq!(frames[0].0, frames[1].0, "encoded once");
}

#[test]
fn the_link() {
    let key = Key::secret("default", "a");
    let report = link::ZoneReport {
        sequence: 1,
        instance: "here-1a2b".to_owned(),
        version: "0.1.0".to_owned(),
        api_address: "127.0.0.1:6681".to_owned(),
        reached: vec![link::Reached {
            r#type: "Secret".to_owned(),
            epoch: 2,
            revision: 7,
            held: 3,
            rejected: 1,
            kept: 1,
            complete: true,
        }],
        events: vec![link::NamedEvent {
            kind: link::named_event::Kind::Swept.into(),
            resource: Some(encode_name(&key)),
            reason: "it did not come from global".to_owned(),
            at: 1_700_000_000_000,
        }],
        events_lost: 2,
        echoed_sequence: 3,
        done_commands: vec![4, 5],
    };
    assert_eq!(decode_name(report.events[0].resource.as_ref().unwrap()), Some(key));
    frozen("link-up", &to_bytes(&report));
    let serving = link::Serving { r#type: "Secret".to_owned(), epoch: 2, revision: 7, count: 3 };
    let report = link::GlobalReport {
        sequence: 1,
        instance: "there-3c4d".to_owned(),
        serving: vec![serving],
        echoed_sequence: 1,
        commands: Vec::new(),
    };
    frozen("link-down", &to_bytes(&report));
    let framed = frame(&report);
    assert_eq!(framed[..5], [&[0][..], &u32::try_from(framed.len() - 5).unwrap().to_be_bytes()].concat());
    assert_eq!(framed[5..], to_bytes(&report));
}

#[test]
fn positions_have_one_text() {
    let text = position_text(&position());
    let (words, digest) = text.rsplit_once(' ').unwrap();
    assert_eq!(words, "kdsync-1 AAAAAAAAAAASNFZ4mrze8A 2 7 1");
    assert_eq!(digest.len(), 43);
    assert_eq!(parse_position(&text), Ok(position()));
}
