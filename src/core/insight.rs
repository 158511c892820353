//! What is known of a zone: the one struct that status, API and page show.
//!
//! Decides: the shape of the truth about a zone. Never does: hold a value or a hash of one; names,
//! counts, revisions, reasons and times only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::resource::{Key, ResourceType, Revision, Timestamp};

/// What kind of peer a zone is; decides what may be expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneClass {
    /// A kdsync zone.
    Kdsync,
    /// Kuma 2.10 or newer: keeps its local secrets whatever global does.
    KumaKeepsLocal,
    /// Kuma 2.9 or older: deletes local secrets, at reconnect only.
    KumaDeletesLocal,
}

/// Something that happened to one name, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// A zone refused a resource of an answer.
    Rejected,
    /// A name that was refused before is fine now.
    Accepted,
    /// A zone-local secret was deleted.
    Swept,
    /// A synced secret that somebody changed or deleted in the zone was put back.
    Repaired,
    /// A copy of a value that only the zone knew was kept.
    Quarantined,
    /// A name that global no longer lists is kept and served, for lack of proof that it was deleted.
    Kept,
}

impl Happening {
    /// The word for logs, labels and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Accepted => "accepted",
            Self::Swept => "swept",
            Self::Repaired => "repaired",
            Self::Quarantined => "quarantined",
            Self::Kept => "kept",
        }
    }
}

/// [`Happening`] with its name, reason and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedEvent {
    /// What.
    pub kind: Happening,
    /// To which resource.
    pub key: Key,
    /// Why, in words.
    pub reason: String,
    /// When, by the clock of the side where it happened.
    pub at: Timestamp,
}

/// What is known of one type at one zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeStatus {
    /// Revision of the last answer that was sent.
    pub sent: u64,
    /// Revision of the last answer that was acknowledged.
    pub acknowledged: u64,
    /// Revision that the zone says it has durably applied (kdsync zones only).
    pub reached: Option<u64>,
    /// How many names the zone holds from global (kdsync zones only).
    pub held: Option<u64>,
    /// Names the zone refused, with the reason.
    pub rejected: BTreeMap<String, String>,
    /// Names the zone keeps although global no longer lists them.
    pub kept: u64,
    /// True once the first answer of the present stream was applied.
    pub complete: bool,
    /// Why nothing is sent, if so.
    pub withheld: Option<String>,
    /// Answers sent, acknowledged and rejected on all streams.
    pub counters: Counters,
}

/// KDS counters, as in Kuma's `KDSServiceStats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Answers sent.
    pub responses_sent: u64,
    /// Answers acknowledged.
    pub responses_acknowledged: u64,
    /// Answers rejected.
    pub responses_rejected: u64,
}

/// What is known of one zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneStatus {
    /// Its name.
    pub name: String,
    /// True while a sync stream is open.
    pub connected: bool,
    /// Since when it is connected, or was last.
    pub since: Timestamp,
    /// What kind of peer it is.
    pub class: ZoneClass,
    /// Its instance id, if it told one.
    pub instance: String,
    /// Where it connects from.
    pub address: String,
    /// Its version, if it told one.
    pub version: String,
    /// Where its own API listens (kdsync zones only).
    pub api_address: String,
    /// True if secrets may be sent to it.
    pub admitted: bool,
    /// When it last reported over ZoneLink.
    pub last_report: Option<Timestamp>,
    /// Per type.
    pub types: BTreeMap<ResourceType, TypeStatus>,
    /// What an operator should look at, in words, with the command to type.
    pub warnings: Vec<String>,
}

/// Who knows the zones: the global component implements it, the API reads it.
pub trait ZoneDirectory: std::fmt::Debug + Send + Sync + 'static {
    /// All zones seen since the start, ordered by name.
    fn zones(&self) -> Vec<ZoneStatus>;

    /// One zone.
    fn zone(&self, name: &str) -> Option<ZoneStatus> {
        self.zones().into_iter().find(|zone| zone.name == name)
    }

    /// The commit up to which the served set was measured against what connected stock zones take; `None`
    /// if there are none, so that nobody has to wait for it.
    fn measured(&self) -> Option<Revision>;

    /// Warnings about the whole served set as of [`ZoneDirectory::measured`], for the answer of a write (a stock zone near its size
    /// limit, a key that cannot be served).
    fn warnings(&self) -> Vec<String>;
}
