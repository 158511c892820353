//! Answers of a global, made from a line of a script.
//!
//! Decides: how they look on the wire, per kind of global. Never does: make sure that they are right; a
//! script may let a global lie.

use std::collections::BTreeMap;

use kdsync::core::resource::{LABEL_MESH, LABEL_ORIGIN, version_of};
use kdsync::core::{
    Digest, Key, Labels, Position, ResourceType, Revision, SecretData, StoreIdentity, Version,
};
use kdsync::kds::message::{Answer, Header};
use kdsync::kds::wire::pb::envoy::service::discovery::v3::{ControlPlane, DeltaDiscoveryResponse, Resource};
use kdsync::kds::wire::pb::google::protobuf::Any;
use kdsync::kds::wire::{Message as _, encode_cluster_id, encode_resource};

use super::notation::{identity, key, number, put, value};

/// What kind of global is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Kdsync,
    /// Kuma 2.14.3.
    New,
    /// Kuma 2.2.9 with delta KDS: no labels, no `Resource.name`.
    Old,
}

type Set = BTreeMap<Key, Version>;

/// The global at the other end, as far as answers need it.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) kind: Kind,
    identity: StoreIdentity,
    /// What is served of a type after a revision of it.
    sets: BTreeMap<(ResourceType, u64), Set>,
    /// Versions on the wire, and the content that a script writes for them.
    values: BTreeMap<String, String>,
    nonces: u64,
}

/// What a line says beside its resources.
struct Words<'a> {
    ty: ResourceType,
    type_url: &'a str,
    answer: Option<Answer>,
    revision: u64,
    page: (u32, u32),
    identity: StoreIdentity,
    nonce: Option<&'a str>,
    names: Vec<&'a str>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        let identity = StoreIdentity { id: kdsync::core::StoreId(uuid::Uuid::from_u128(10)), epoch: 1 };
        let (sets, values) = (BTreeMap::new(), BTreeMap::new());
        Self { kind: Kind::Kdsync, identity, sets, values, nonces: 0 }
    }

    /// Another kind of global, or another store behind the same address.
    pub(crate) fn become_other(&mut self, words: &[&str]) -> Result<(), String> {
        let (kind, rest) = words.split_first().ok_or("which kind?")?;
        self.kind = match *kind {
            "kdsync" => Kind::Kdsync,
            "2.14.3" => Kind::New,
            "2.2.9" => Kind::Old,
            _ => return Err(format!("there is no global of kind {kind}")),
        };
        if let [letter, rest @ ..] = rest {
            let epoch = rest.iter().find_map(|word| word.strip_prefix("epoch="));
            self.identity = identity(letter, epoch.map_or(Ok(1), number)?)?;
            self.sets.clear();
        }
        Ok(())
    }

    /// `a=1` for a name and the version that it has on the wire.
    pub(crate) fn known(&self, version: &str) -> &str {
        self.values.get(version).map_or("?", String::as_str)
    }

    /// `history Secret 3 a=1 b=2`: what is served at a revision.
    pub(crate) fn declare(&mut self, words: &[&str]) -> Result<(), String> {
        let (ty, words) = take_type(words);
        let (revision, contents) = words.split_first().ok_or("which revision?")?;
        let mut set = Set::new();
        for content in contents {
            let put = put(content, ty)?;
            let version = self.version(&put.key, &put.labels.unwrap_or_default(), &put.data);
            set.insert(put.key, version);
        }
        self.sets.insert((ty, number(revision)?), set);
        Ok(())
    }

    fn version(&mut self, key: &Key, labels: &Labels, data: &SecretData) -> Version {
        let version = version_of(key, labels, data.expose());
        let hex: Vec<String> = version.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.values.insert(hex.concat(), value(data.expose()));
        version
    }

    /// Makes the message of an `answer` line.
    pub(crate) fn answer(&mut self, words: &[&str]) -> Result<DeltaDiscoveryResponse, String> {
        self.nonces += 1;
        let own = format!("n{}", self.nonces);
        let words = self.read(words)?;
        let mut message = DeltaDiscoveryResponse {
            type_url: words.type_url.to_owned(),
            nonce: words.nonce.unwrap_or(&own).to_owned(),
            control_plane: Some(ControlPlane { identifier: "global".to_owned() }),
            ..DeltaDiscoveryResponse::default()
        };
        let mut changes = Vec::new();
        for name in &words.names {
            self.add(&mut message, name, words.ty, &mut changes)?;
        }
        if let Some(answer) = words.answer {
            let position = self.position(&words, answer, changes);
            let (page, pages) = words.page;
            message.system_version_info = Header { position, answer, page, pages }.to_string();
        }
        Ok(message)
    }

    fn read<'a>(&self, words: &[&'a str]) -> Result<Words<'a>, String> {
        let (ty, rest) = take_type(words);
        let type_url = words.first().filter(|_| rest.len() < words.len()).copied();
        let mut read = Words {
            ty,
            type_url: type_url.unwrap_or(ty.as_str()),
            answer: None,
            revision: 0,
            page: (1, 1),
            identity: self.identity,
            nonce: None,
            names: Vec::new(),
        };
        let mut rest = rest.iter().copied();
        while let Some(word) = rest.next() {
            let mut next = || rest.next().ok_or_else(|| format!("{word} what?"));
            match word {
                "at" => read.revision = number(next()?)?,
                "page" => {
                    let (page, pages) = next()?.split_once('/').ok_or("page of how many?")?;
                    read.page = (number(page)?, number(pages)?);
                }
                "nonce" => read.nonce = Some(next()?),
                _ if word.starts_with(['+', '-']) || word.starts_with("removed:") => read.names.push(word),
                _ => read.answer = Some(word.parse().map_err(|_| format!("{word} is no kind of answer"))?),
            }
        }
        Ok(read)
    }

    fn add(
        &mut self,
        message: &mut DeltaDiscoveryResponse,
        word: &str,
        ty: ResourceType,
        changes: &mut Vec<(Key, Option<Version>)>,
    ) -> Result<(), String> {
        if let Some(raw) = word.strip_prefix("removed:") {
            message.removed_resources.push(raw.to_owned());
        } else if let Some(name) = word.strip_prefix('-') {
            let key = key(name, ty);
            message.removed_resources.push(key.wire_name());
            changes.push((key, None));
        } else if let Some(name) = word.strip_prefix('+').and_then(|rest| rest.strip_suffix('?')) {
            // A payload of another kind: unreadable, but named.
            let any = Any { type_url: "type.googleapis.com/other".to_owned(), value: b"x".to_vec().into() };
            let name = key(name, ty).wire_name();
            message.resources.push(Resource { version: String::new(), resource: Some(any), name });
        } else {
            let put = put(word.trim_start_matches('+'), ty)?;
            let labels = put.labels.unwrap_or_else(|| self.labels(&put.key));
            let version = self.version(&put.key, &labels, &put.data);
            let encoded = if ty == ResourceType::Config {
                encode_cluster_id(&String::from_utf8_lossy(put.data.expose())).2
            } else {
                encode_resource(&put.key, &labels, &put.data, &version)
            };
            let mut parts = DeltaDiscoveryResponse::decode(encoded).map_err(|error| error.to_string())?;
            for resource in parts.resources.iter_mut().filter(|_| self.kind == Kind::Old) {
                resource.name.clear();
            }
            message.resources.append(&mut parts.resources);
            changes.push((put.key, Some(version)));
        }
        Ok(())
    }

    fn labels(&self, key: &Key) -> Labels {
        let mut labels = Labels::new();
        if self.kind != Kind::Old {
            labels.insert(LABEL_ORIGIN.to_owned(), "global".to_owned());
            if key.ty.is_mesh_scoped() {
                labels.insert(LABEL_MESH.to_owned(), key.mesh.to_string());
            }
        }
        labels
    }

    /// Where the global says that it stands. What the script did not declare follows from the answer.
    fn position(
        &mut self,
        words: &Words<'_>,
        answer: Answer,
        changes: Vec<(Key, Option<Version>)>,
    ) -> Position {
        let base = match answer {
            Answer::Since(Revision(base)) => self.sets.get(&(words.ty, base)).cloned(),
            _ => None,
        };
        let set = self.sets.entry((words.ty, words.revision)).or_insert_with(|| {
            let mut set = base.unwrap_or_default();
            for (key, version) in changes {
                match version {
                    Some(version) => drop(set.insert(key, version)),
                    None => drop(set.remove(&key)),
                }
            }
            set
        });
        let revision = Revision(words.revision);
        Position { identity: words.identity, revision, count: set.len() as u64, digest: Digest::of(&*set) }
    }
}

/// A leading type, or `Secret`.
fn take_type<'a, 'b>(words: &'b [&'a str]) -> (ResourceType, &'b [&'a str]) {
    match words.split_first() {
        Some((first, rest)) if first.starts_with(char::is_uppercase) => {
            (first.parse().unwrap_or(ResourceType::Secret), rest)
        }
        _ => (ResourceType::Secret, words),
    }
}
