//! The end of a life: does every zone hold what global serves, and nothing else?
//!
//! Decides: which differences have a reason. Never does: look at how it came about.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Step;
use super::kuma_global::value_of;
use super::kuma_zone::{Kuma, KumaZone};
use super::peer::{End, audience};
use super::world::{Ours, Side, World, internal};
use super::zone::Zone;
use crate::core::resource::version_of;
use crate::core::{Key, Labels, ResourceType, Version};
use crate::kds::plan::{Cut, Part};

impl World {
    pub(super) fn judge_end(&self) -> Step {
        for peer in &self.peers {
            match (&peer.end, &self.side) {
                (End::Zone(zone), Side::Ours(ours)) => follows(zone, ours, self.restored)?,
                (End::Zone(zone), Side::Kuma(_)) => self.follows_kuma(zone)?,
                (End::Kuma(zone), Side::Ours(ours)) => stock_follows(zone, ours)?,
                (End::Kuma(_), Side::Kuma(_)) => {}
            }
        }
        Ok(())
    }

    fn follows_kuma(&self, zone: &Zone) -> Step {
        let Some(global) = self.kuma() else { return Ok(()) };
        let stock: BTreeMap<Key, Version> = global
            .rows
            .iter()
            .map(|(key, number)| {
                let data = value_of(key, *number);
                (key.clone(), version_of(key, &Labels::new(), data.expose()))
            })
            .collect();
        if zone
            .session
            .ledger()
            .source
            .as_ref()
            .is_some_and(|source| !matches!(source, crate::core::ledger::Source::Stock(id) if id == "one"))
        {
            // Its first contact was with another global, which it follows until a person decides.
            return Ok(());
        }
        for ty in ResourceType::SECRETS {
            same(zone, ty, &stock)?;
        }
        Ok(())
    }
}

/// A zone holds exactly what is served; only what has a reason may differ.
fn same(zone: &Zone, ty: ResourceType, served: &BTreeMap<Key, Version>) -> Step {
    let rows = zone.store.versions();
    let ledger = zone.session.ledger();
    for (key, version) in served.iter().filter(|(key, _)| key.ty == ty && **key != internal()) {
        match rows.get(key) {
            None => return Err(format!("{key}: missing in the zone at the end")),
            Some(row) if row != version => return Err(format!("{key}: an old value in the zone at the end")),
            Some(_) => {}
        }
    }
    for key in rows.keys().filter(|key| key.ty == ty && !served.contains_key(*key)) {
        if *key != internal() && !ledger.kept.contains_key(key) {
            let why = if ledger.get(key).is_some() { "deleted at global" } else { "made in the zone" };
            return Err(format!("{key}: {why} and still there at the end"));
        }
    }
    let unknown = zone.session.unknown().keys().filter(|key| key.ty == ty && !ledger.kept.contains_key(*key));
    let unknown: Vec<_> = unknown.filter(|key| **key != internal()).collect();
    if !unknown.is_empty() {
        return Err(format!("{unknown:?} still unknown at the end"));
    }
    if !zone.session.progress(ty).complete {
        return Err(format!("{ty}: not complete at the end"));
    }
    Ok(())
}

fn follows(zone: &Zone, ours: &Ours, restored: bool) -> Step {
    if zone
        .session
        .ledger()
        .source
        .as_ref()
        .is_some_and(|source| *source != crate::core::ledger::Source::Kdsync(ours.branch.identity))
    {
        // Its first contact was with the wrong store, which it follows until a person decides.
        return Ok(());
    }
    // Apart in one type, it takes nothing of the other.
    let ledger = zone.session.ledger();
    let apart = ResourceType::SECRETS.iter().any(|ty| {
        // Ahead of a restored backup, it waits.
        let ahead = restored && ledger.newest(*ty) > ours.branch.position(*ty).revision;
        zone.session.progress(*ty).apart.is_some() || ahead
    });
    for ty in ResourceType::SECRETS {
        let position = zone.session.ledger().positions.get(&ty);
        if apart {
            let refused = zone.session.progress(ty).apart.is_some();
            if refused && position.is_some_and(|position| ours.branch.contains(ty, position)) {
                return Err(format!("{ty}: refused, although it is its own history"));
            }
            continue;
        }
        same(zone, ty, ours.branch.served(ty))?;
        let kept = zone.session.ledger().kept.keys().filter(|key| key.ty == ty);
        if let Some(key) = kept.into_iter().find(|key| ours.branch.types[&ty].tombstones.contains_key(*key)) {
            return Err(format!("{key}: kept, although there is a tombstone"));
        }
        if position != Some(&ours.branch.position(ty)) && ours.branch.position(ty).revision.0 > 0 {
            return Err(format!("{ty}: not at the present position at the end"));
        }
    }
    Ok(())
}

fn stock_follows(zone: &KumaZone, ours: &Ours) -> Step {
    let sees = audience(zone.version);
    for ty in ResourceType::SECRETS {
        let set = &ours.branch.types[&ty];
        let whole = set.whole(sees, Cut::One);
        if whole.parts.first().map_or(0, Part::size) > zone.max_message.unwrap_or(usize::MAX) {
            continue;
        }
        for (key, version) in ours.branch.served(ty).iter().filter(|(key, _)| sees.sees(key)) {
            let row = zone.rows.get(key);
            if zone.version == Kuma::V2_14 && row.is_some_and(|row| row.local) {
                continue;
            }
            if row.is_none_or(|row| row.version != hex(version)) {
                return Err(format!("{key}: missing or old in a stock zone at the end"));
            }
        }
        let extra = zone
            .rows
            .iter()
            .find(|(key, row)| key.ty == ty && !row.local && !ours.branch.served(ty).contains_key(*key));
        if let Some((key, _)) = extra {
            return Err(format!("{key}: deleted at global and still in a stock zone at the end"));
        }
    }
    Ok(())
}

fn hex(version: &Version) -> String {
    version.0.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
