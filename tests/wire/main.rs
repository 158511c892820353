//! The bytes: what real Kuma sends, what we send, and what nobody should send.
//!
//! Decides: that recorded messages are read as they were meant, that ours have the bytes they had, and that no
//! bytes at all make decoding panic or show a value. Never does: open a socket; `tests/global` and `tests/zone` do.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod hostile;
mod kuma_answers;
mod kuma_requests;
mod ours;
mod redaction;

use std::path::Path;

use kdsync::core::SecretData;
use kdsync::kds::message::{Request, Response};
use kdsync::kds::wire::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kdsync::kds::wire::{Message as _, decode_request, decode_response};

/// The recorded answers of globals.
const ANSWERS: [&str; 9] = [
    "kuma-2.14.3/global/Config.first",
    "kuma-2.14.3/global/GlobalSecret.first",
    "kuma-2.14.3/global/Secret.first",
    "kuma-2.14.3/global/Secret.next1",
    "kuma-2.14.3/global/Secret.next2",
    "kuma-2.2.9/global/Config.first",
    "kuma-2.2.9/global/Secret.first",
    "kuma-2.2.9/global/Secret.next1",
    "kuma-2.2.9/global/Secret.next2",
];

/// The recorded requests of zones.
const REQUESTS: [&str; 19] = [
    "kuma-2.14.3/zone/Config.ack",
    "kuma-2.14.3/zone/Config.first",
    "kuma-2.14.3/zone/GlobalSecret.ack",
    "kuma-2.14.3/zone/GlobalSecret.first",
    "kuma-2.14.3/zone/GlobalSecret.nack",
    "kuma-2.14.3/zone/Mesh.first",
    "kuma-2.14.3/zone/Secret.ack",
    "kuma-2.14.3/zone/Secret.ack1",
    "kuma-2.14.3/zone/Secret.ack2",
    "kuma-2.14.3/zone/Secret.first",
    "kuma-2.2.9/zone/Config.ack",
    "kuma-2.2.9/zone/Config.first",
    "kuma-2.2.9/zone/GlobalSecret.ack",
    "kuma-2.2.9/zone/GlobalSecret.first",
    "kuma-2.2.9/zone/Mesh.first",
    "kuma-2.2.9/zone/Secret.ack",
    "kuma-2.2.9/zone/Secret.ack1",
    "kuma-2.2.9/zone/Secret.ack2",
    "kuma-2.2.9/zone/Secret.first",
];

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read(folder.join(format!("{name}.bin"))).unwrap()
}

fn answer(name: &str) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse::decode(golden(name).as_slice()).unwrap()
}

fn response(name: &str) -> Response {
    decode_response(answer(name)).unwrap()
}

fn request(name: &str) -> Request {
    decode_request(DeltaDiscoveryRequest::decode(golden(name).as_slice()).unwrap())
}

fn data(value: &[u8]) -> SecretData {
    SecretData::new(value.to_vec())
}

#[test]
fn every_recorded_message_is_in_a_list() {
    let mut found = Vec::new();
    for side in ["kuma-2.14.3/global", "kuma-2.14.3/zone", "kuma-2.2.9/global", "kuma-2.2.9/zone"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(side);
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            found.extend(name.strip_suffix(".bin").map(|name| format!("{side}/{name}")));
        }
    }
    found.sort();
    let mut listed: Vec<String> = ANSWERS.iter().chain(&REQUESTS).map(|&name| name.to_owned()).collect();
    listed.sort();
    assert_eq!(found, listed);
}
