//! What the pure parts cost: encoding, finding what changed, applying it at either end.
//!
//! Decides: sizes: values of 1 KiB, sets of 10,000, pages of 1 MiB. Never does: I/O; `benches/load` has
//! the processes, sockets and disks.
//!
//! `cargo bench --bench sync`, and a part of a name to run less.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use kdsync::core::ledger::{Entry as LedgerEntry, Ledger};
use kdsync::core::reconcile::audit;
use kdsync::core::served::{Audience, Served, serve};
use kdsync::core::{
    Key, Labels, Position, Resource, ResourceType, Revision, SecretData, StoreId, StoreIdentity, Timestamp,
};
use kdsync::kds::client::{Applied, Apply, ClientSession, Config, Effect, Global};
use kdsync::kds::knobs::Knobs;
use kdsync::kds::plan::{Cut, Plan, Transmit};
use kdsync::kds::snapshot::{Change, Entry, Record, TypeSnapshot};
use kdsync::kds::wire::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use kdsync::kds::wire::{self, Message as _};

/// Bytes per value.
const VALUE: usize = 1024;
/// Resources per set.
const SET: usize = 10_000;
/// Bytes per page.
const PAGE: Cut = Cut::Pages(1 << 20);
/// The prefix of a gRPC frame, in bytes.
const PREFIX: usize = 5;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(50)
        .configure_from_args();
    encode(&mut criterion);
    diff(&mut criterion);
    apply_at_global(&mut criterion);
    apply_at_zone(&mut criterion);
    reconcile(&mut criterion);
    criterion.final_summary();
}

/// A secret with a new random value, as zones see it.
fn secret(number: usize) -> Served {
    let key = Key::secret("default", &format!("secret-{number:06}"));
    let mut value = vec![0; VALUE];
    fastrand::fill(&mut value);
    serve(&Resource::secret(key, Labels::new(), SecretData::new(value), Timestamp(0))).unwrap()
}

/// The set after a commit that changes some names.
fn commit(set: &TypeSnapshot, numbers: impl IntoIterator<Item = usize>) -> TypeSnapshot {
    let (change, position) = change(set, numbers);
    set.apply(change, position, Revision(0)).unwrap()
}

/// What such a commit does, and where it leads.
fn change(set: &TypeSnapshot, numbers: impl IntoIterator<Item = usize>) -> (Change, Position) {
    let mut position = set.position;
    position.revision = Revision(position.revision.0 + 1);
    let mut upserts = Vec::new();
    for number in numbers {
        let served = secret(number);
        match set.entries.get(&served.key) {
            Some(old) => position.digest.remove(&served.key, &old.version),
            None => position.count += 1,
        }
        position.digest.add(&served.key, &served.version);
        upserts.push(Entry::new(&served, position.revision));
    }
    let keys = upserts.iter().map(|entry| entry.key.clone()).collect();
    let record = Record { count: position.count, digest: position.digest, keys };
    (Change { upserts, removed: Vec::new(), records: vec![(position.revision, record)] }, position)
}

/// A set of `count` that came in commits of a hundred.
fn filled(count: usize) -> TypeSnapshot {
    let identity = StoreIdentity { id: StoreId(uuid::Uuid::from_u128(1)), epoch: 1 };
    let mut set = TypeSnapshot::empty(ResourceType::Secret, identity);
    for first in (0..count).step_by(100) {
        set = commit(&set, first..count.min(first + 100));
    }
    set
}

/// The set after each of `commits` changed one name.
fn rotated(mut set: TypeSnapshot, commits: usize) -> TypeSnapshot {
    for number in 0..commits {
        set = commit(&set, [number]);
    }
    set
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let served = secret(0);
    group.throughput(Throughput::Bytes(VALUE as u64));
    group.bench_function("resource", |bencher| bencher.iter(|| Entry::new(black_box(&served), Revision(1))));
    let transmit = Transmit { plan: filled(1_000).whole(Audience::All, PAGE), part: 0, attempt: 0 };
    group.throughput(Throughput::Bytes(wire::encode_frame(&transmit).len() as u64));
    group.bench_function("page", |bencher| bencher.iter(|| wire::encode_frame(black_box(&transmit))));
    group.finish();
}

/// Each plan is dropped before the next is asked for, so that none is shared.
fn diff(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("diff");
    let set = rotated(filled(SET), 1_000);
    let newest = set.position.revision.0;
    for back in [1, 1_000] {
        let base = Revision(newest - back);
        group.bench_function(format!("since-{back}-of-{SET}"), |bencher| {
            bencher.iter(|| set.since(black_box(base), Audience::All, PAGE));
        });
    }
    group.bench_function(format!("whole-{SET}"), |bencher| {
        bencher.iter(|| set.whole(black_box(Audience::All), PAGE));
    });
    group.finish();
}

fn apply_at_global(criterion: &mut Criterion) {
    let set = filled(SET);
    let mut number = 0;
    let mut next = || {
        number = (number + 1) % SET;
        change(&set, [number])
    };
    criterion.bench_function(&format!("apply/global-1-of-{SET}"), |bencher| {
        let routine = |(change, position)| set.apply(change, position, Revision(0)).unwrap();
        bencher.iter_batched(&mut next, routine, BatchSize::SmallInput);
    });
}

/// The messages of a plan.
fn frames(plan: &std::sync::Arc<Plan>) -> Vec<Bytes> {
    let parts = 0..plan.parts.len();
    parts.map(|part| wire::encode_frame(&Transmit { plan: plan.clone(), part, attempt: 0 })).collect()
}

/// A zone that has just opened its stream.
fn opened(now: Instant) -> ClientSession {
    let mut session = ClientSession::new(Config::default(), Ledger::default(), 1, Knobs::default(), now);
    assert!(matches!(session.poll_effect(now), Some(Effect::Connect)));
    session.on_connected(Global::Kdsync, now);
    drain(&mut session, now);
    session
}

/// From the bytes of an answer to the ACK; the store is done at once.
fn take(session: &mut ClientSession, frame: &Bytes, now: Instant) {
    let message = DeltaDiscoveryResponse::decode(frame.slice(PREFIX..)).unwrap();
    session.on_response(wire::decode_response(message).unwrap(), now);
    drain(session, now);
}

fn drain(session: &mut ClientSession, now: Instant) {
    while let Some(effect) = session.poll_effect(now) {
        match effect {
            Effect::Apply(apply) => session.on_applied(Ok(applied(apply)), now),
            Effect::List { full } => {
                // The store holds what the ledger says.
                let held = session.ledger().of_type(ResourceType::Secret).filter(|_| full);
                let rows = held.map(|(key, entry)| (key.clone(), Some(entry.content))).collect();
                session.on_listed(Ok(rows), now);
            }
            _ => panic!("the zone wants to connect, to sweep or to repair"),
        }
    }
    while session.poll_transmit().is_some() {}
    while session.poll_event().is_some() {}
}

fn applied(apply: Apply) -> Applied {
    let entry = |upsert: kdsync::kds::client::Upsert| {
        let (received, content, revision) = (upsert.received.version, upsert.content, upsert.revision);
        (upsert.received.key, LedgerEntry { received, content, revision })
    };
    let struck = apply.remove.into_iter().map(|(key, _)| key).collect();
    Applied { entered: apply.upserts.into_iter().map(entry).collect(), struck, rejected: Vec::new() }
}

fn apply_at_zone(criterion: &mut Criterion) {
    let now = tokio::time::Instant::now().into_std();
    let mut group = criterion.benchmark_group("apply");
    let first = frames(&filled(1_000).whole(Audience::All, PAGE));
    group.bench_function("zone-first-1000", |bencher| {
        let routine = |mut session: ClientSession| {
            for frame in &first {
                take(&mut session, frame, now);
            }
            session
        };
        bencher.iter_batched(|| opened(now), routine, BatchSize::SmallInput);
    });
    let mut set = filled(SET);
    let mut session = opened(now);
    for frame in frames(&set.whole(Audience::All, PAGE)) {
        take(&mut session, &frame, now);
    }
    let mut next = || {
        let base = set.position.revision;
        set = commit(&set, [usize::try_from(base.0).unwrap() % SET]);
        frames(&set.since(base, Audience::All, PAGE).unwrap()).remove(0)
    };
    group.bench_function(format!("zone-1-of-{SET}"), |bencher| {
        let routine = |frame: Bytes| take(&mut session, &frame, now);
        bencher.iter_batched(&mut next, routine, BatchSize::SmallInput);
    });
    assert_eq!(session.progress(ResourceType::Secret).held, SET);
    group.finish();
}

fn reconcile(criterion: &mut Criterion) {
    let set = filled(SET);
    let (mut ledger, mut observed) = (Ledger::default(), BTreeMap::new());
    for (key, entry) in &set.entries {
        let (content, revision) = (entry.version, entry.revision);
        ledger.insert(key.clone(), LedgerEntry { received: "x".into(), content, revision });
        observed.insert(key.clone(), Some(entry.version));
    }
    criterion.bench_function(&format!("reconcile/audit-{SET}"), |bencher| {
        bencher.iter(|| audit(black_box(&ledger), black_box(&observed)));
    });
}
