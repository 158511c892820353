//! A simulated stock global: the delta server of Kuma 2.14.3 and 2.2.9.
//!
//! Decides: as go-control-plane's delta server does (contract 2.6). Never does: record what it removed.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::{SmolStr, format_smolstr};

use super::kuma_zone::Kuma;
use crate::core::{Key, Labels, ResourceType, SecretData};
use crate::kds::message::{Received, Request, Response};
use crate::kds::wire::CLUSTER_ID;

pub(super) struct KumaGlobal {
    pub(super) version: Kuma,
    /// Name and number of its value.
    pub(super) rows: BTreeMap<Key, u64>,
    pub(super) cluster_id: Option<&'static str>,
}

/// One stream, as the server sees it.
#[derive(Default)]
pub(super) struct KumaStream {
    known: BTreeMap<ResourceType, BTreeMap<SmolStr, SmolStr>>,
    waiting: BTreeSet<ResourceType>,
    forced: BTreeSet<ResourceType>,
    nonce: u64,
}

pub(super) fn value_of(key: &Key, number: u64) -> SecretData {
    SecretData::new(format!("{key} {number}").into_bytes())
}

impl KumaGlobal {
    fn set(&self, ty: ResourceType) -> Vec<Received> {
        if ty == ResourceType::Config {
            let key = Key::new(ty, "", CLUSTER_ID);
            let id = self.cluster_id.map(|id| SecretData::new(id.as_bytes().to_vec()));
            let version = format_smolstr!("{:?}", self.cluster_id);
            let all = id.map(|data| Received { key, version, labels: Labels::new(), data });
            return all.into_iter().collect();
        }
        let labels = match self.version {
            Kuma::V2_14 => Labels::from([("kuma.io/origin".to_owned(), "global".to_owned())]),
            Kuma::V2_2 => Labels::new(),
        };
        let of_type = self.rows.iter().filter(|(key, _)| key.ty == ty);
        of_type
            .map(|(key, number)| Received {
                key: key.clone(),
                version: format_smolstr!("v{number}"),
                labels: labels.clone(),
                data: value_of(key, *number),
            })
            .collect()
    }

    pub(super) fn on_request(&self, stream: &mut KumaStream, request: &Request) {
        let Ok(ty) = request.type_url.parse::<ResourceType>() else { return };
        if request.nonce.is_empty() {
            // 2.2.9 sends everything again, and lists stated names that it does not have as removed.
            let stated = request.versions.iter().map(|(name, version)| match self.version {
                Kuma::V2_14 => (name.clone(), version.clone()),
                Kuma::V2_2 => (name.clone(), SmolStr::default()),
            });
            let stated = stated.collect();
            if stream.known.contains_key(&ty) {
                // A named subscribe on top of the wildcard: silence.
                return;
            }
            stream.known.insert(ty, stated);
            stream.forced.insert(ty);
        } else if request.nack.is_some() && self.version == Kuma::V2_2 {
            // `resource_retry_forcer.go`: everything again.
            stream.known.insert(ty, BTreeMap::new());
        }
        stream.waiting.insert(ty);
    }

    /// The next answer, if there is one.
    pub(super) fn poll(&self, stream: &mut KumaStream) -> Option<Response> {
        for ty in stream.waiting.clone() {
            let set = self.set(ty);
            let known = stream.known.entry(ty).or_default();
            let names: BTreeMap<SmolStr, SmolStr> =
                set.iter().map(|r| (SmolStr::from(r.key.wire_name()), r.version.clone())).collect();
            let fresh: Vec<Received> = set
                .into_iter()
                .filter(|r| known.get(r.key.wire_name().as_str()) != Some(&r.version))
                .collect();
            let removed: Vec<Key> = known
                .keys()
                .filter(|name| !names.contains_key(*name))
                .filter_map(|name| Key::from_wire_name(ty, name))
                .collect();
            if fresh.is_empty() && removed.is_empty() && !stream.forced.contains(&ty) {
                continue;
            }
            stream.known.insert(ty, names);
            stream.waiting.remove(&ty);
            stream.forced.remove(&ty);
            stream.nonce += 1;
            return Some(Response {
                type_url: ty.as_str().into(),
                nonce: format_smolstr!("{}", stream.nonce),
                header: None,
                resources: fresh,
                unreadable: Vec::new(),
                removed,
            });
        }
        None
    }
}
