//! The plans of a zone: what to write when an answer arrived, what to sweep and repair after an audit.
//!
//! Decides: with plans as plain data. Never does: execute them; `zone/syncer.rs` does, and compares
//! every row again at commit time.

use std::collections::BTreeMap;

use super::ledger::Ledger;
use super::resource::{Key, Version};
use super::served::is_internal;

/// A synced name whose row is not what the ledger says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The name.
    pub key: Key,
    /// The version of the row that was seen; `None` if there is none.
    pub row: Option<Version>,
    /// The version it must have.
    pub held: Version,
}

/// Rows that are not what the ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Rows without an entry: zone-local. With the version that was seen, for compare-and-delete.
    pub sweep: Vec<(Key, Version)>,
    /// Names whose row is missing or differs from its entry: drift.
    pub repair: Vec<Drift>,
}

impl Audit {
    /// True if nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sweep.is_empty() && self.repair.is_empty()
    }
}

/// Compares observed rows with the ledger. `observed` holds, for every key in question, the version of
/// its row, or `None` where there is no row. A full audit passes every row and every ledger key.
///
/// Internal names are never swept (SEC-5).
#[must_use]
pub fn audit(ledger: &Ledger, observed: &BTreeMap<Key, Option<Version>>) -> Audit {
    let mut found = Audit::default();
    for (key, row) in observed.iter().filter(|(key, _)| key.ty.is_secret()) {
        match (ledger.get(key), row) {
            (Some(entry), Some(version)) if entry.content == *version => {}
            (Some(entry), row) => {
                found.repair.push(Drift { key: key.clone(), row: *row, held: entry.content });
            }
            (None, Some(version)) if !is_internal(key) => found.sweep.push((key.clone(), *version)),
            (None, _) => {}
        }
    }
    found
}

/// What an answer would do to one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPlan {
    /// The row already is as it should be.
    Keep,
    /// Change it; nothing but what global once sent is lost.
    Change,
    /// Change it, and keep a copy of what is there: global never sent that.
    ChangeLocal,
}

/// Plans one row: `held` is the version in the ledger, `row` the version of the row now, `target` the
/// version that global sent, or `None` for a removal.
#[must_use]
pub fn plan_row(held: Option<Version>, row: Option<Version>, target: Option<Version>) -> RowPlan {
    if row == target {
        RowPlan::Keep
    } else if row.is_none() || row == held {
        RowPlan::Change
    } else {
        RowPlan::ChangeLocal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ledger::Entry;
    use crate::core::resource::Revision;

    fn ledger(keys: &[(&str, u8)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (name, v) in keys {
            let entry = Entry { received: "x".into(), content: Version([*v; 32]), revision: Revision(1) };
            ledger.insert(Key::secret("m", name), entry);
        }
        ledger
    }

    #[test]
    fn audit_tells_drift_from_local() {
        let ledger = ledger(&[("same", 1), ("edited", 1), ("gone", 1)]);
        let observed = BTreeMap::from([
            (Key::secret("m", "same"), Some(Version([1; 32]))),
            (Key::secret("m", "edited"), Some(Version([2; 32]))),
            (Key::secret("m", "gone"), None),
            (Key::secret("m", "local"), Some(Version([3; 32]))),
            (Key::global_secret("admin-user-token"), Some(Version([4; 32]))),
        ]);
        let audit = audit(&ledger, &observed);
        assert_eq!(audit.sweep, [(Key::secret("m", "local"), Version([3; 32]))]);
        let drift = |name, row: Option<u8>| Drift {
            key: Key::secret("m", name),
            row: row.map(|v| Version([v; 32])),
            held: Version([1; 32]),
        };
        assert_eq!(audit.repair, [drift("edited", Some(2)), drift("gone", None)]);
    }

    #[test]
    fn only_what_global_sent_is_overwritten_without_a_copy() {
        let v = |n: u8| Some(Version([n; 32]));
        assert_eq!(plan_row(v(1), None, v(2)), RowPlan::Change);
        assert_eq!(plan_row(v(1), v(1), v(2)), RowPlan::Change);
        assert_eq!(plan_row(v(1), v(2), v(2)), RowPlan::Keep);
        assert_eq!(plan_row(v(1), v(9), v(2)), RowPlan::ChangeLocal);
        assert_eq!(plan_row(None, v(9), v(2)), RowPlan::ChangeLocal);
        assert_eq!(plan_row(v(1), v(1), None), RowPlan::Change);
        assert_eq!(plan_row(v(1), v(9), None), RowPlan::ChangeLocal);
        assert_eq!(plan_row(v(1), None, None), RowPlan::Keep);
    }
}
