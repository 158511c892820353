//! A simulated stock zone: what Kuma 2.14.3 and 2.2.9 do with an answer.
//!
//! Decides: as `pkg/kds/v2/store/sync.go` of each version does. Never does: state what it holds.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::Step;
use crate::core::{Key, ResourceType};
use crate::kds::message::{Nack, Node, Request, Response};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kuma {
    V2_14,
    V2_2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The version as received; empty for a row that was created in the zone.
    pub(super) version: SmolStr,
    pub(super) local: bool,
}

pub(super) struct KumaZone {
    pub(super) version: Kuma,
    pub(super) rows: BTreeMap<Key, Row>,
    /// Keys whose resources do not pass the zone's validation.
    pub(super) refused: BTreeSet<Key>,
    /// Types whose first answer of the present stream is still to come.
    initial: BTreeSet<ResourceType>,
    pub(super) max_message: Option<usize>,
    /// Stable secrets that it has had.
    held: BTreeSet<Key>,
}

impl KumaZone {
    pub(super) fn new(version: Kuma, max_message: Option<usize>) -> Self {
        Self {
            version,
            rows: BTreeMap::new(),
            refused: BTreeSet::new(),
            initial: BTreeSet::new(),
            max_message,
            held: BTreeSet::new(),
        }
    }

    /// A new stream: one subscription per type, all at once.
    pub(super) fn open(&mut self) -> Vec<Request> {
        self.initial = ResourceType::SYNCED.into();
        let version = if self.version == Kuma::V2_14 { "2.14.3" } else { "2.2.9" };
        let node = Node {
            id: "kuma".into(),
            version: version.to_owned(),
            instance: "kuma-1".to_owned(),
            max_message: self.max_message,
        };
        let ask = |ty: ResourceType| Request {
            type_url: ty.as_str().into(),
            subscribe: vec!["*".into()],
            node: node.clone(),
            ..Request::default()
        };
        ResourceType::SYNCED.into_iter().map(ask).collect()
    }

    pub(super) fn on_response(&mut self, response: &Response, cut_short: usize) -> Request {
        let ty: ResourceType = response.type_url.parse().unwrap();
        let mut wrong = self.refusals(response);
        match self.version {
            Kuma::V2_14 => {
                self.apply(ty, response, &wrong, usize::MAX);
                self.initial.remove(&ty);
            }
            Kuma::V2_2 if wrong.is_empty() => {
                self.apply(ty, response, &wrong, usize::MAX);
                self.initial.remove(&ty);
            }
            // No transaction: it stops where it failed.
            Kuma::V2_2 => self.apply(ty, response, &BTreeSet::new(), cut_short),
        }
        let nack = wrong.pop_first().map(|key| Nack { message: format!("{key}"), rejected: Vec::new() });
        Request {
            type_url: response.type_url.clone(),
            nonce: response.nonce.clone(),
            subscribe: if nack.is_some() { vec!["*".into()] } else { Vec::new() },
            nack,
            node: Node { id: "kuma".into(), ..Node::default() },
            ..Request::default()
        }
    }

    /// A stock zone must not be harmed: what nobody deletes stays.
    pub(super) fn judge_rows(&mut self, stable: &BTreeSet<Key>) -> Step {
        for key in stable {
            if self.rows.contains_key(key) {
                self.held.insert(key.clone());
            } else if self.held.contains(key) {
                return Err(format!("{key}: a stock zone lost a secret that nobody deleted"));
            }
        }
        Ok(())
    }

    fn refusals(&self, response: &Response) -> BTreeSet<Key> {
        let taken =
            |key: &Key| self.version == Kuma::V2_14 && self.rows.get(key).is_some_and(|row| row.local);
        let keys = response.resources.iter().map(|resource| &resource.key);
        keys.filter(|key| self.refused.contains(*key) || taken(key)).cloned().collect()
    }

    fn apply(&mut self, ty: ResourceType, response: &Response, except: &BTreeSet<Key>, steps: usize) {
        let mut left = steps;
        let listed: BTreeSet<&Key> = response.resources.iter().map(|resource| &resource.key).collect();
        let gone: Vec<Key> = if self.initial.contains(&ty) {
            self.rows.keys().filter(|key| key.ty == ty && !listed.contains(*key)).cloned().collect()
        } else {
            response.removed.iter().filter(|key| !listed.contains(*key)).cloned().collect()
        };
        for key in gone.iter().filter(|key| !except.contains(*key)) {
            let keeps = self.version == Kuma::V2_14 && self.rows.get(key).is_some_and(|row| row.local);
            if !keeps && left > 0 {
                self.rows.remove(key);
                left -= 1;
            }
        }
        for resource in response.resources.iter().filter(|resource| !except.contains(&resource.key)) {
            if left == 0 {
                return;
            }
            left -= 1;
            let row = Row { version: resource.version.clone(), local: false };
            self.rows.insert(resource.key.clone(), row);
        }
    }
}
