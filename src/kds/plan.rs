//! Plans: which resources and removals an answer has, and how they are cut into messages.
//!
//! Decides: pages, splits and nonces. Never does: remember who gets a plan. A plan that starts from a
//! revision (not from somebody's private exceptions) is shared by all zones in that position, together
//! with its encoded bytes; when the last of them is done with it, it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};

use super::message::{Answer, Header};
use super::snapshot::{Entry, TypeSnapshot};
use super::wire;
use crate::core::served::Audience;
use crate::core::{Key, Position, ResourceType, Revision};

/// Room for everything in a message that is neither a resource nor a removal: type, nonce, header,
/// control plane. In bytes.
const OVERHEAD: usize = 512;

/// How an answer is cut into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// For a kdsync zone: pages of about this many bytes; removals on the last.
    Pages(usize),
    /// For a stock zone's first answer: one message, whatever its size.
    One,
    /// For a stock zone's later answers: messages of at most this many bytes, removals first where a
    /// removal and an upsert share a name.
    Split(usize),
}

/// One message of a plan. `Debug` shows no frame: it holds values (SEC-1).
#[derive(Default)]
pub struct Part {
    /// Resources to send.
    pub upserts: Vec<Arc<Entry>>,
    /// Keys to remove.
    pub removed: Vec<Key>,
    frame: OnceLock<Bytes>,
    gzipped: OnceLock<Option<Bytes>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upserts, removed, .. } = self;
        f.debug_struct("Part").field("upserts", upserts).field("removed", removed).finish_non_exhaustive()
    }
}

impl Part {
    /// The keys this message is about.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.upserts.iter().map(|entry| &entry.key).chain(&self.removed)
    }

    /// Uncompressed size of the message in bytes, at most.
    #[must_use]
    pub fn size(&self) -> usize {
        let upserts: usize = self.upserts.iter().map(|entry| entry.encoded.len()).sum();
        OVERHEAD + upserts + self.removed.iter().map(removal_size).sum::<usize>()
    }
}

/// An answer, cut into messages.
#[derive(Debug)]
pub struct Plan {
    /// The type.
    pub ty: ResourceType,
    /// What kind of answer.
    pub answer: Answer,
    /// Where the peer stands once it has all of it.
    pub position: Position,
    /// True if the peer reads [`Header`]s.
    pub with_header: bool,
    /// The messages; at least one.
    pub parts: Vec<Part>,
    /// Resources left out because one alone is larger than the peer takes.
    pub oversize: Vec<Key>,
}

/// Plans in use, by what they start from.
pub(super) type Shared = BTreeMap<(Option<Revision>, Audience, Cut), Weak<Plan>>;

/// What a plan is made of.
struct Content {
    answer: Answer,
    upserts: Vec<Arc<Entry>>,
    removed: Vec<Key>,
}

impl TypeSnapshot {
    /// The whole set, shared by all who ask for it now.
    #[must_use]
    pub fn whole(&self, audience: Audience, cut: Cut) -> Arc<Plan> {
        self.shared_plan(None, audience, cut, || Content {
            answer: Answer::Whole,
            upserts: self.visible(audience),
            // A kdsync zone may hold names from a first answer that was cut off; it drops the others.
            removed: match cut {
                Cut::Pages(_) => self.tombstones.keys().cloned().collect(),
                Cut::One | Cut::Split(_) => Vec::new(),
            },
        })
    }

    /// How large the whole set is as one message, in bytes, at most.
    #[must_use]
    pub fn whole_size(&self, audience: Audience) -> usize {
        let seen = match audience {
            Audience::All => self.bytes,
            Audience::Legacy => self.visible(audience).iter().map(|entry| entry.encoded.len()).sum(),
        };
        OVERHEAD + seen
    }

    /// The whole set and the tombstones set after `stated`, for a position older than the history.
    #[must_use]
    pub fn pruned(&self, stated: Revision, cut: Cut) -> Arc<Plan> {
        let removed = self.tombstones.iter().filter(|(_, at)| **at > stated).map(|(key, _)| key.clone());
        let content = Content {
            answer: Answer::Pruned,
            upserts: self.visible(Audience::All),
            removed: removed.collect(),
        };
        Arc::new(self.cut(content, cut))
    }

    /// The whole set for a stock zone that may have taken parts of an earlier one: `ghosts` are names
    /// that were in it and are gone.
    #[must_use]
    pub fn whole_again(&self, audience: Audience, ghosts: &BTreeSet<Key>) -> Arc<Plan> {
        let removed = ghosts.iter().filter(|key| !self.entries.contains_key(key)).cloned().collect();
        let content = Content { answer: Answer::Whole, upserts: self.visible(audience), removed };
        Arc::new(self.cut(content, Cut::One))
    }

    /// What changed after `base`, shared by all who stand there. `None` if the history does not reach
    /// back that far.
    #[must_use]
    pub fn since(&self, base: Revision, audience: Audience, cut: Cut) -> Option<Arc<Plan>> {
        let keys = self.changed_since(base)?;
        Some(self.shared_plan(Some(base), audience, cut, || {
            self.content_of(keys.iter(), Answer::Since(base), audience)
        }))
    }

    /// Exactly these keys, for one peer.
    #[must_use]
    pub fn only<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Key>,
        answer: Answer,
        audience: Audience,
        cut: Cut,
    ) -> Arc<Plan> {
        Arc::new(self.cut(self.content_of(keys, answer, audience), cut))
    }

    fn visible(&self, audience: Audience) -> Vec<Arc<Entry>> {
        self.entries.iter().filter(|(key, _)| audience.sees(key)).map(|(_, entry)| entry.clone()).collect()
    }

    fn content_of<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Key>,
        answer: Answer,
        audience: Audience,
    ) -> Content {
        let mut content = Content { answer, upserts: Vec::new(), removed: Vec::new() };
        for key in keys.into_iter().filter(|key| audience.sees(key)) {
            match self.entries.get(key) {
                Some(entry) => content.upserts.push(entry.clone()),
                None => content.removed.push(key.clone()),
            }
        }
        content
    }

    fn shared_plan(
        &self,
        base: Option<Revision>,
        audience: Audience,
        cut: Cut,
        content: impl FnOnce() -> Content,
    ) -> Arc<Plan> {
        let mut shared = self.shared.lock();
        let slot = shared.entry((base, audience, cut)).or_default();
        if let Some(plan) = slot.upgrade() {
            return plan;
        }
        let plan = Arc::new(self.cut(content(), cut));
        *slot = Arc::downgrade(&plan);
        shared.retain(|_, plan| plan.strong_count() > 0);
        plan
    }

    fn cut(&self, content: Content, cut: Cut) -> Plan {
        let mut oversize = Vec::new();
        let parts = match cut {
            Cut::One => vec![Part::of(content.upserts, content.removed)],
            Cut::Pages(limit) => pages(content.upserts, content.removed, limit),
            Cut::Split(limit) => {
                let (fits, too_large) =
                    content.upserts.into_iter().partition(|entry| entry.encoded.len() + OVERHEAD <= limit);
                oversize =
                    Vec::from_iter::<Vec<Arc<Entry>>>(too_large).iter().map(|e| e.key.clone()).collect();
                split(fits, content.removed, limit)
            }
        };
        let with_header = matches!(cut, Cut::Pages(_));
        Plan { ty: self.ty, answer: content.answer, position: self.position, with_header, parts, oversize }
    }
}

impl Part {
    fn of(upserts: Vec<Arc<Entry>>, removed: Vec<Key>) -> Self {
        Self { upserts, removed, ..Self::default() }
    }
}

/// Bytes of one removal in a message: its name, a tag and a length.
fn removal_size(key: &Key) -> usize {
    key.name.len() + key.mesh.len() + 1 + 3
}

/// Pages in order of commit. One commit is not split unless it alone exceeds the limit.
fn pages(mut upserts: Vec<Arc<Entry>>, removed: Vec<Key>, limit: usize) -> Vec<Part> {
    let size = |entries: &[Arc<Entry>]| entries.iter().map(|entry| entry.encoded.len()).sum::<usize>();
    let mut pages = vec![Vec::new()];
    let mut room = limit;
    if size(&upserts) > limit {
        upserts.sort_by(|a, b| (a.revision, &a.key).cmp(&(b.revision, &b.key)));
    }
    for commit in upserts.chunk_by(|a, b| a.revision == b.revision) {
        let fits = size(commit) <= room;
        let fits_a_page = size(commit) <= limit;
        if !fits && fits_a_page {
            pages.push(Vec::new());
            room = limit;
        }
        for entry in commit {
            if entry.encoded.len() > room && pages.last().is_some_and(|page| !page.is_empty()) {
                pages.push(Vec::new());
                room = limit;
            }
            room = room.saturating_sub(entry.encoded.len());
            if let Some(page) = pages.last_mut() {
                page.push(entry.clone());
            }
        }
    }
    let mut parts: Vec<Part> = pages.into_iter().map(|page| Part::of(page, Vec::new())).collect();
    if let Some(last) = parts.last_mut() {
        last.removed = removed;
    }
    parts
}

/// Messages below the limit; removals go first and alone where they share a name with an upsert, as a
/// Kubernetes zone would create the new object before it deletes the old one of the same name.
fn split(upserts: Vec<Arc<Entry>>, removed: Vec<Key>, limit: usize) -> Vec<Part> {
    let names: BTreeSet<&SmolStr> = upserts.iter().map(|entry| &entry.key.name).collect();
    let shares_a_name = removed.iter().any(|key| names.contains(&key.name));
    let budget = limit.saturating_sub(OVERHEAD);
    let mut parts = vec![Part::default()];
    let mut room = budget;
    for key in removed {
        let size = removal_size(&key);
        if size > room {
            parts.push(Part::default());
            room = budget;
        }
        room = room.saturating_sub(size);
        if let Some(part) = parts.last_mut() {
            part.removed.push(key);
        }
    }
    if shares_a_name {
        parts.push(Part::default());
        room = budget;
    }
    for entry in upserts {
        if entry.encoded.len() > room {
            parts.push(Part::default());
            room = budget;
        }
        room = room.saturating_sub(entry.encoded.len());
        if let Some(part) = parts.last_mut() {
            part.upserts.push(entry);
        }
    }
    parts.retain(|part| part.keys().next().is_some());
    parts
}

/// One message, ready to go: a part of a plan and the number of the attempt.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Which of its parts.
    pub part: usize,
    /// 0 the first time this stream gets an answer at this revision; makes the nonce unique.
    pub attempt: u64,
}

impl Transmit {
    /// The message's part of the plan.
    #[must_use]
    pub fn part(&self) -> Option<&Part> {
        self.plan.parts.get(self.part)
    }

    /// True on the last message of the answer.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.part + 1 >= self.plan.parts.len()
    }

    /// Type, revision, page and attempt: unique on a stream, equal for all zones in the same position.
    #[must_use]
    pub fn nonce(&self) -> SmolStr {
        let initial = self.plan.ty.as_str().get(..1).unwrap_or_default();
        format_smolstr!("{initial}{}.{}.{}", self.plan.position.revision, self.part + 1, self.attempt)
    }

    /// What a kdsync zone is told of the answer.
    #[must_use]
    pub fn header(&self) -> Option<Header> {
        let page = u32::try_from(self.part + 1).ok()?;
        let pages = u32::try_from(self.plan.parts.len().max(1)).ok()?;
        let header = Header { position: self.plan.position, answer: self.plan.answer, page, pages };
        self.plan.with_header.then_some(header)
    }

    /// The gRPC frame: prefix and uncompressed message. Encoded once for all zones in this position.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        match self.part() {
            Some(part) if self.attempt == 0 => part.frame.get_or_init(|| wire::encode_frame(self)).clone(),
            _ => wire::encode_frame(self),
        }
    }

    /// The gRPC frame, compressed by `compress` if that is worth it; compressed once for all zones in
    /// this position.
    pub fn gzipped(&self, compress: impl FnOnce(&Bytes) -> Option<Bytes>) -> Option<Bytes> {
        match self.part() {
            Some(part) if self.attempt == 0 => part.gzipped.get_or_init(|| compress(&self.frame())).clone(),
            _ => compress(&self.frame()),
        }
    }
}
