//! What a log line could show by accident.
//!
//! Decides: that no `Debug` of a message, or of what a session keeps of it, shows a value or a hash of one. Never
//! does: look at log lines; `tests/e2e` does.

use std::sync::Arc;
use std::time::Instant;

use kdsync::core::ledger::{Entry as LedgerEntry, Ledger};
use kdsync::core::served::{Audience, serve};
use kdsync::core::{
    Digest, Key, Labels, Position, Resource, ResourceType, Revision, StoreId, StoreIdentity, Timestamp,
};
use kdsync::kds::knobs::Knobs;
use kdsync::kds::message::{Request, position_text};
use kdsync::kds::plan::{Cut, Transmit};
use kdsync::kds::server::{Peer, ServerSession};
use kdsync::kds::snapshot::{Change, Entry, Record, TypeSnapshot};
use kdsync::kds::wire::encode_request;

use super::{ANSWERS, REQUESTS, answer, data, request, response};

const VALUES: [&str; 5] = ["alpha value", "changed", "hunter2", "BEGIN RSA", "\\0\\x01\\x02\\x03\\xff"];

/// Shows nothing of the values in the recordings, as text or as a list of numbers.
fn clean(what: &str, debug: &str) {
    for value in VALUES {
        assert!(!debug.contains(value), "{what} shows {value}: {debug}");
    }
    for value in ["alpha value", "changed", "hunter2"] {
        let numbers: Vec<_> = value.bytes().map(|byte| byte.to_string()).collect();
        assert!(!debug.contains(&numbers.join(", ")), "{what} shows {value} as numbers");
    }
}

#[test]
fn recorded_messages_show_no_value() {
    for name in ANSWERS {
        clean(name, &format!("{:?} {:#?}", answer(name), answer(name)));
        clean(name, &format!("{:?} {:#?}", response(name), response(name)));
    }
    for name in REQUESTS {
        clean(name, &format!("{:?}", request(name)));
    }
}

fn set() -> Arc<TypeSnapshot> {
    let identity = StoreIdentity { id: StoreId(uuid::Uuid::from_u128(1)), epoch: 1 };
    let row = Resource::secret(Key::secret("default", "a"), Labels::new(), data(b"hunter2"), Timestamp(0));
    clean("a resource", &format!("{row:?}"));
    let served = serve(&row).unwrap();
    clean("a served resource", &format!("{served:?}"));
    let entry = Entry::new(&served, Revision(1));
    let digest = Digest::of([(&entry.key, &entry.version)]);
    let records = vec![(Revision(1), Record { count: 1, digest, keys: vec![entry.key.clone()] })];
    let position = Position { identity, revision: Revision(1), count: 1, digest };
    let change = Change { upserts: vec![entry], removed: Vec::new(), records };
    clean("a change", &format!("{change:?}"));
    Arc::new(
        TypeSnapshot::empty(ResourceType::Secret, identity).apply(change, position, Revision(0)).unwrap(),
    )
}

#[test]
fn what_global_keeps_ready_shows_no_value() {
    let set = set();
    clean("a snapshot", &format!("{set:?}"));
    let plan = set.whole(Audience::All, Cut::Pages(1000));
    let transmit = Transmit { plan, part: 0, attempt: 0 };
    assert!(!transmit.frame().is_empty());
    clean("a message to send", &format!("{transmit:?}"));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
fn a_session_shows_no_value() {
    let peer = Peer::Kdsync { page: 1000 };
    let mut session = ServerSession::new(peer, set(), true, Knobs::default());
    let open = Request { type_url: "Secret".into(), subscribe: vec!["*".into()], ..Request::default() };
    let now = Instant::now();
    session.on_request(&open, now).unwrap();
    assert!(session.poll_transmit(now).unwrap().is_some());
    clean("a session", &format!("{session:?}"));
}

#[test]
fn nothing_shows_a_hash_of_a_value() {
    for name in ANSWERS {
        for resource in &answer(name).resources {
            let shown = format!("{:?}", response(name));
            assert!(!shown.contains(&resource.version), "{name}: a decoded answer shows a version: {shown}");
            let shown = format!("{:?}", answer(name));
            assert!(!shown.contains(&resource.version), "{name}: an answer shows a version: {shown}");
        }
    }
    let version = "ab".repeat(32);
    let position = set().position;
    let text = position_text(&position);
    let digest = text.rsplit(' ').next().unwrap();
    let versions = vec![("a.default".into(), version.as_str().into())];
    let request = Request { versions, position: Some(position), ..Request::default() };
    for shown in [format!("{request:?}"), format!("{:?}", encode_request(&request))] {
        assert!(!shown.contains(&version), "a request shows a version: {shown}");
        assert!(!shown.contains(digest), "a request shows a digest: {shown}");
    }
}

#[test]
fn a_ledger_shows_no_hash() {
    let received = "ab".repeat(32);
    let content = set().entries.get(&Key::secret("default", "a")).unwrap().version;
    let entry = LedgerEntry { received: received.as_str().into(), content, revision: Revision(1) };
    let mut ledger = Ledger::default();
    ledger.insert(Key::secret("default", "a"), entry.clone());
    for shown in [format!("{entry:?}"), format!("{ledger:?}")] {
        assert!(!shown.contains(&received), "a ledger shows a version: {shown}");
    }
}
