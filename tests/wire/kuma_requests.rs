//! Requests of real zones: read as they were meant, and the same bytes from us where we say the same.
//!
//! Decides: what 2.14.3 and 2.2.9 zones mean. Never does: answer them; `tests/global` does.

use kdsync::kds::message::{Nack, Node, Request};
use kdsync::kds::wire::{encode_request, to_bytes};

use super::{golden, request};

#[test]
fn first_requests_introduce_the_zone() {
    for (version, types) in [
        ("2.14.3", ["Config", "GlobalSecret", "Mesh", "Secret"]),
        ("2.2.9", ["Config", "GlobalSecret", "Mesh", "Secret"]),
    ] {
        for ty in types {
            let first = request(&format!("kuma-{version}/zone/{ty}.first"));
            assert_eq!(first.type_url, ty);
            assert_eq!((first.nonce.as_str(), first.subscribe.as_slice()), ("", ["*".into()].as_slice()));
            assert!(first.versions.is_empty() && first.position.is_none() && first.nack.is_none());
            assert_eq!(first.node.id, "golden");
            // The recorded control planes were built without a version.
            assert_eq!(first.node.version, "unknown");
            assert_eq!(first.node.instance.is_empty(), version == "2.2.9", "only newer zones tell it");
            // The limit of 2.14.3 and of 2.2.9 is in their configuration, as JSON text.
            assert_eq!(first.node.max_message, Some(10 << 20), "{version} {ty}");
        }
    }
}

#[test]
fn acknowledgements_are_a_nonce_and_nothing_else() {
    for (name, ty) in [
        ("kuma-2.14.3/zone/Config.ack", "Config"),
        ("kuma-2.14.3/zone/GlobalSecret.ack", "GlobalSecret"),
        ("kuma-2.14.3/zone/Secret.ack", "Secret"),
        ("kuma-2.14.3/zone/Secret.ack1", "Secret"),
        ("kuma-2.14.3/zone/Secret.ack2", "Secret"),
        ("kuma-2.2.9/zone/Config.ack", "Config"),
        ("kuma-2.2.9/zone/GlobalSecret.ack", "GlobalSecret"),
        ("kuma-2.2.9/zone/Secret.ack", "Secret"),
        ("kuma-2.2.9/zone/Secret.ack1", "Secret"),
        ("kuma-2.2.9/zone/Secret.ack2", "Secret"),
    ] {
        let read = request(name);
        let node = Node { id: "golden".into(), ..Node::default() };
        let expected = Request { type_url: ty.into(), nonce: read.nonce.clone(), node, ..Request::default() };
        assert!(!read.nonce.is_empty(), "{name}");
        assert_eq!(read, expected, "{name}");
        assert_eq!(to_bytes(&encode_request(&expected)), golden(name), "{name}: we send the same bytes");
    }
}

#[test]
fn a_refusal_names_no_resource_in_a_form_that_can_be_read() {
    let read = request("kuma-2.14.3/zone/GlobalSecret.nack");
    let Nack { message, rejected } = read.nack.clone().unwrap();
    assert!(message.starts_with("user error\nresource already exists"), "{message}");
    assert!(message.contains("\"gamma\""));
    assert_eq!(rejected, []);
    assert_eq!(read.subscribe, ["*"]);
    assert!(!read.nonce.is_empty());
    let bytes = golden("kuma-2.14.3/zone/GlobalSecret.nack");
    assert_eq!(to_bytes(&encode_request(&read)), bytes, "we send the same bytes");
}

#[test]
fn what_we_say_first_is_what_they_say_without_their_configuration() {
    for name in ["kuma-2.14.3/zone/Secret.first", "kuma-2.2.9/zone/Secret.first"] {
        let theirs = request(name);
        let ours = encode_request(&theirs);
        let fields: Vec<_> = ours.node.as_ref().unwrap().metadata.as_ref().unwrap().fields.keys().collect();
        let instance =
            if name.contains("2.14.3") { vec!["control-plane-id", "version"] } else { vec!["version"] };
        assert_eq!(fields, instance, "{name}: no configuration leaves a kdsync zone");
        let read = kdsync::kds::wire::decode_request(ours);
        assert_eq!(read.node, Node { max_message: None, ..theirs.node.clone() });
        assert_eq!(Request { node: Node::default(), ..read }, Request { node: Node::default(), ..theirs });
    }
}
