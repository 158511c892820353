//! From the store to the snapshot that zones are served from.
//!
//! Decides: when the store is read again and whether what was read may be served: only if it has the
//! digest that the store recorded. Never does: serve a set that is not the one that was committed;
//! then the last good snapshot stays.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::core::served::{Withheld, ZONE_PUBLIC_KEY, ZONE_SIGNING_KEY, serve, served_key};
use crate::core::{Key, ResourceType, Revision, StoreIdentity};
use crate::kds::snapshot::{Change, DigestMismatch, Entry, Record, Snapshot, TypeSnapshot};
use crate::store::{Row, Served};
use crate::telemetry::clock;

/// How often the store is asked although it gave no hint, and how often a wrong set is read again.
const RESYNC: Duration = Duration::from_secs(60);
/// The pause after a failed read.
const RETRY: Duration = Duration::from_secs(1);
/// More rows than this are encoded beside the runtime.
const INLINE: usize = 64;

/// A snapshot and when it was published.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// The snapshot.
    pub(super) snapshot: Arc<Snapshot>,
    /// When.
    pub(super) at: Instant,
}

/// What a read of the store came to.
struct Built {
    snapshot: Snapshot,
    unusable: BTreeMap<Key, String>,
    wrong: Option<DigestMismatch>,
}

/// Reads the store and publishes snapshots.
pub(super) struct Snapshots {
    shared: Arc<Shared>,
    publish: watch::Sender<Option<Published>>,
    ready: watch::Sender<bool>,
    unusable: BTreeMap<Key, String>,
    /// The store said something that is not so; until when it is believed no more.
    wrong_until: Option<Instant>,
    failing: bool,
}

impl Snapshots {
    pub(super) fn new(
        shared: Arc<Shared>,
        publish: watch::Sender<Option<Published>>,
        ready: watch::Sender<bool>,
    ) -> Self {
        Self { shared, publish, ready, unusable: BTreeMap::new(), wrong_until: None, failing: false }
    }

    /// Follows the store until the token is cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut changes = self.shared.store.changes();
        loop {
            changes.borrow_and_update();
            let pause = tokio::select! {
                () = cancel.cancelled() => return,
                pause = self.refresh() => pause,
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                // After a failure a hint is no reason to hurry.
                changed = changes.changed(), if pause == RESYNC => {
                    if changed.is_err() {
                        // The store is closed: what is served stays.
                        cancel.cancelled().await;
                        return;
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads what changed and publishes it. Returns how long to wait if nothing hints at a change.
    async fn refresh(&mut self) -> Duration {
        let now = clock::now();
        if let Some(until) = self.wrong_until
            && now < until
        {
            return until - now;
        }
        let base = self.publish.borrow().as_ref().map(|published| published.snapshot.clone());
        let built = match self.read(base.filter(|_| self.wrong_until.is_none())).await {
            Ok(built) => built,
            Err(error) => {
                self.shared.metrics.snapshot_failed();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "store cannot be read; zones keep what they have");
                }
                return RETRY;
            }
        };
        if std::mem::take(&mut self.failing) {
            tracing::info!("store can be read again");
        }
        self.judge(built, now);
        RESYNC
    }

    /// The served set as it is now: what changed since `base`, or all of it.
    async fn read(&self, base: Option<Arc<Snapshot>>) -> Result<Built, crate::store::StoreError> {
        let identity = self.shared.store.identity();
        if let Some(base) = base {
            let served = self.shared.store.served(Some(base.revision)).await?;
            if let Some(served) = served.filter(can_step) {
                let unusable = self.unusable.clone();
                let built = build(served, base, unusable, Shape::Delta).await;
                if built.wrong.is_none() {
                    return Ok(built);
                }
            }
        }
        let served = self.shared.store.served(None).await?.unwrap_or_default();
        Ok(build(served, Arc::new(Snapshot::empty(identity)), BTreeMap::new(), Shape::Full).await)
    }

    /// Publishes what was read, or keeps the last good snapshot.
    fn judge(&mut self, built: Built, now: Instant) {
        if let Some(wrong) = built.wrong {
            self.shared.metrics.snapshot_failed();
            if self.wrong_until.is_none() {
                tracing::error!(error = %wrong, "store contradicts itself; zones keep what they have");
                let text = format!("{wrong}; zones are served what was last read right");
                self.event("store-contradiction", None, text);
            }
            self.wrong_until = Some(now + RESYNC);
            return;
        }
        if self.wrong_until.take().is_some() {
            tracing::info!("store is consistent again");
        }
        self.tell_unusable(built.unusable);
        let next = Published { snapshot: Arc::new(built.snapshot), at: now };
        self.shared.zones.measure(&next.snapshot);
        self.publish.send_if_modified(|current| {
            let changed = current.as_ref().is_none_or(|before| differs(&before.snapshot, &next.snapshot));
            // A commit that zones do not see moves the revision and wakes nobody.
            let at = current.as_ref().filter(|_| !changed).map_or(next.at, |before| before.at);
            *current = Some(Published { at, ..next });
            changed
        });
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    fn tell_unusable(&mut self, unusable: BTreeMap<Key, String>) {
        if unusable == self.unusable {
            return;
        }
        for (key, text) in unusable.iter().filter(|(key, _)| !self.unusable.contains_key(key)) {
            tracing::warn!(%key, "signing key cannot be served: it is no PEM RSA private key (PKCS#1)");
            self.event("withheld", Some(key.clone()), text.clone());
        }
        self.unusable.clone_from(&unusable);
        self.shared.zones.set_unusable(unusable);
    }

    fn event(&self, kind: &str, key: Option<Key>, text: String) {
        self.shared.metrics.happened(kind);
        self.shared.telemetry.events.record(clock::wall(), kind, "", key, text);
    }
}

/// True if zones would see a difference.
fn differs(before: &Snapshot, after: &Snapshot) -> bool {
    let position = |snapshot: &Snapshot, ty| snapshot.get(ty).map(|set| set.position);
    ResourceType::SYNCED.into_iter().any(|ty| position(before, ty) != position(after, ty))
}

/// What a [`Served`] contains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Full,
    Delta,
}

/// False if a served key changed that several stored rows may provide: then the rows of the delta do not
/// tell which of them does.
fn can_step(served: &Served) -> bool {
    let mapped = |key: &Key| key.ty == ResourceType::GlobalSecret && key.name.starts_with(ZONE_PUBLIC_KEY);
    !served.changes.iter().flat_map(|change| &change.keys).any(mapped)
}

async fn build(served: Served, base: Arc<Snapshot>, unusable: BTreeMap<Key, String>, shape: Shape) -> Built {
    if served.rows.len() <= INLINE {
        return assemble(served, &base, unusable, shape);
    }
    let work = tokio::task::spawn_blocking(move || assemble(served, &base, unusable, shape));
    match work.await {
        Ok(built) => built,
        // Only a panic in the work itself can end it: it must not be swallowed.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Encodes what changed and steps every type.
fn assemble(mut served: Served, base: &Snapshot, mut unusable: BTreeMap<Key, String>, shape: Shape) -> Built {
    let (mut entries, seen) = provide(&served.rows, &mut unusable);
    for key in &served.gone {
        unusable.remove(key);
    }
    if shape == Shape::Full {
        unusable.retain(|key, _| seen.contains(key));
    }
    let mut snapshot = base.clone();
    snapshot.revision = served.revision;
    let mut wrong = None;
    for ty in ResourceType::SECRETS {
        let identity = base.identity;
        let stepped = step(ty, &mut served, &mut entries, base, identity, shape);
        match stepped {
            Ok(Some(set)) => {
                snapshot.types.insert(ty, Arc::new(set));
            }
            Ok(None) => {}
            Err(mismatch) => wrong = Some(mismatch),
        }
    }
    Built { snapshot, unusable, wrong }
}

/// What each row provides, by served key, and the keys of all rows.
fn provide(rows: &[Row], unusable: &mut BTreeMap<Key, String>) -> (HashMap<Key, Entry>, HashSet<Key>) {
    let mut entries = HashMap::with_capacity(rows.len());
    let mut seen = HashSet::new();
    for row in rows {
        let stored = &row.resource.key;
        let is_mapped = served_key(stored) != *stored;
        match serve(&row.resource) {
            Ok(resource) => {
                unusable.remove(stored);
                // A mapped key wins over a row that has the name as its own, the first over the others.
                let taken = entries.get(&resource.key).is_some_and(|(mapped, _): &(bool, Entry)| *mapped);
                if !taken {
                    let entry = Entry::new(&resource, row.head.revision);
                    entries.insert(resource.key, (is_mapped, entry));
                }
            }
            Err(Withheld::UnusableKey) => {
                let text = format!(
                    "{stored} is not sent to zones: a {ZONE_SIGNING_KEY} must be a PEM RSA private key (PKCS#1)"
                );
                unusable.insert(stored.clone(), text);
                seen.insert(stored.clone());
            }
            Err(_) => {
                unusable.remove(stored);
            }
        }
    }
    (entries.into_iter().map(|(key, (_, entry))| (key, entry)).collect(), seen)
}

/// One type, stepped to where the store says it stands; `None` if it stands there already.
fn step(
    ty: ResourceType,
    served: &mut Served,
    entries: &mut HashMap<Key, Entry>,
    base: &Snapshot,
    identity: StoreIdentity,
    shape: Shape,
) -> Result<Option<TypeSnapshot>, DigestMismatch> {
    let Some(position) = served.positions.get(&ty).copied() else { return Ok(None) };
    let empty = Arc::new(TypeSnapshot::empty(ty, identity));
    let before = base.get(ty).unwrap_or(&empty);
    if shape == Shape::Delta && before.position == position && before.oldest == served.oldest {
        return Ok(None);
    }
    let mut change = Change::default();
    let is_new = |revision: Revision| shape == Shape::Full || revision > before.position.revision;
    let mut taken = HashSet::new();
    let mine = served.changes.iter().filter(|change| change.ty == ty && is_new(change.revision));
    for commit in mine {
        if shape == Shape::Delta {
            for key in &commit.keys {
                match entries.remove(key) {
                    Some(entry) => {
                        taken.insert(key.clone());
                        change.upserts.push(entry);
                    }
                    None if taken.contains(key) => {}
                    None => change.removed.push(key.clone()),
                }
            }
        }
        let record = Record { count: commit.count, digest: commit.digest, keys: commit.keys.clone() };
        change.records.push((commit.revision, record));
    }
    if shape == Shape::Full {
        let keys: Vec<_> = entries.keys().filter(|key| key.ty == ty).cloned().collect();
        change.upserts = keys.iter().filter_map(|key| entries.remove(key)).collect();
        let set = before.apply(change, position, served.oldest)?;
        let tombstones = served.tombstones.iter().filter(|tombstone| tombstone.key.ty == ty);
        let set = set.with_tombstones(tombstones.map(|gone| (gone.key.clone(), gone.revision)));
        return Ok(Some(set));
    }
    before.apply(change, position, served.oldest).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Digest, Labels, Position, Resource, SecretData, StoreId, Timestamp, Version};
    use crate::store::{Head, ServedChange};

    fn identity() -> StoreIdentity {
        StoreIdentity { id: StoreId(uuid::Uuid::from_u128(1)), epoch: 1 }
    }

    fn row(name: &str, value: &str, revision: u64) -> Row {
        let data = SecretData::new(value.as_bytes().to_vec());
        let resource = Resource::secret(Key::secret("default", name), Labels::new(), data, Timestamp(0));
        let version = resource.version();
        Row { resource, head: Head { version, revision: Revision(revision) } }
    }

    fn served(revision: u64, rows: Vec<Row>, set: &[(&str, &str)], changed: &[&str]) -> Served {
        let versions: Vec<(Key, Version)> = set
            .iter()
            .map(|(name, value)| {
                let row = row(name, value, 0);
                (row.resource.key.clone(), row.head.version)
            })
            .collect();
        let digest = Digest::of(versions.iter().map(|(key, version)| (key, version)));
        let count = set.len() as u64;
        let position = Position { identity: identity(), revision: Revision(revision), count, digest };
        let keys = changed.iter().map(|name| Key::secret("default", name)).collect();
        let ty = ResourceType::Secret;
        let change = ServedChange { revision: Revision(revision), ty, keys, count, digest };
        let positions = BTreeMap::from([(ty, position)]);
        Served { revision: Revision(revision), positions, rows, changes: vec![change], ..Served::default() }
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        let set = snapshot.get(ResourceType::Secret).unwrap();
        set.entries.iter().map(|(key, _)| key.name.to_string()).collect()
    }

    #[test]
    fn deltas_step_and_a_wrong_digest_is_noticed() {
        let empty = Snapshot::empty(identity());
        let full = served(3, vec![row("a", "1", 2), row("b", "1", 3)], &[("a", "1"), ("b", "1")], &["b"]);
        let built = assemble(full, &empty, BTreeMap::new(), Shape::Full);
        assert!(built.wrong.is_none());
        assert_eq!(names(&built.snapshot), ["a", "b"]);

        let delta = served(4, vec![row("c", "1", 4)], &[("b", "1"), ("c", "1")], &["a", "c"]);
        let next = assemble(delta, &built.snapshot, BTreeMap::new(), Shape::Delta);
        assert!(next.wrong.is_none());
        assert_eq!(names(&next.snapshot), ["b", "c"]);

        let lie = served(5, vec![row("b", "2", 5)], &[("b", "3"), ("c", "1")], &["b"]);
        let wrong = assemble(lie, &next.snapshot, BTreeMap::new(), Shape::Delta);
        assert!(wrong.wrong.is_some());
        assert_eq!(wrong.snapshot.get(ResourceType::Secret).unwrap().position.revision, Revision(4));
    }

    #[test]
    fn a_name_of_several_commits_is_taken_once() {
        let empty = Snapshot::empty(identity());
        let mut twice = served(4, vec![row("a", "2", 4)], &[("a", "2")], &["a"]);
        let first = ServedChange { revision: Revision(3), ..twice.changes[0].clone() };
        twice.changes.insert(0, first);
        let built = assemble(twice, &empty, BTreeMap::new(), Shape::Delta);
        assert!(built.wrong.is_none());
        assert_eq!(names(&built.snapshot), ["a"]);
    }
}
