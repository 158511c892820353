//! What happens to global: writes, lagging replicas, swapped stores, restored backups, emptied ones.
//!
//! Decides: which of it is undone before the world is judged. Never does: delete a stable secret from a
//! kdsync global.

use super::global::{Branch, secret};
use super::world::{Ours, Side, World, internal};
use crate::core::{Key, Resource, ResourceType};

impl World {
    /// Somebody writes at global.
    pub(super) fn write(&mut self) {
        let mut changes: Vec<(Key, Option<Resource>)> = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let stable = self.rng.u8(..8) == 0;
            let from: Vec<Key> =
                if stable { self.stable.iter().cloned().collect() } else { self.chaos.clone() };
            let key = from[self.rng.usize(..from.len())].clone();
            if changes.iter().any(|(other, _)| *other == key) {
                continue;
            }
            let value = self.number();
            let deletes = !stable && self.rng.u8(..5) < 2;
            let mut resource = secret(&key, value);
            if !stable && self.rng.u8(..12) == 0 {
                resource.labels.insert("kuma.io/kds-sync".to_owned(), "disabled".to_owned());
            }
            changes.push((key, (!deletes).then_some(resource)));
        }
        let line =
            format!("global writes {:?}", changes.iter().map(|(k, r)| (k, r.is_some())).collect::<Vec<_>>());
        let numbers: Vec<u64> = changes.iter().map(|_| self.number()).collect();
        match &mut self.side {
            Side::Ours(ours) => {
                changes.retain(|(key, resource)| resource.is_some() || ours.branch.has(key));
                if !changes.is_empty() {
                    ours.branch.commit(changes);
                }
            }
            Side::Kuma(global) => {
                for ((key, resource), number) in changes.into_iter().zip(numbers) {
                    match resource {
                        // A stable secret that was wiped comes back with all others.
                        Some(_) if key.name.starts_with('s') && !global.rows.contains_key(&key) => {}
                        Some(_) => drop(global.rows.insert(key, number)),
                        None => drop(global.rows.remove(&key)),
                    }
                }
            }
        }
        self.say(|| line);
    }

    /// A replica gets to publish what is committed.
    pub(super) fn publish(&mut self) {
        let Side::Ours(ours) = &mut self.side else { return };
        let replica = self.rng.usize(..ours.replicas.len());
        ours.replicas[replica] = ours.branch.types.clone();
        self.tell(replica);
    }

    fn tell(&mut self, replica: usize) {
        let Side::Ours(ours) = &self.side else { return };
        let sets = ours.replicas[replica].clone();
        for peer in &mut self.peers {
            if peer.stream.as_ref().is_some_and(|stream| stream.replica == replica) {
                peer.on_snapshot(&sets);
            }
        }
    }

    /// Something rare happens to global.
    pub(super) fn upheaval(&mut self) {
        let which = self.rng.u8(..6);
        self.say(|| format!("upheaval {which}"));
        let ends = match &mut self.side {
            Side::Ours(ours) => match which {
                0 => swap(ours),
                1 => swap_back(ours),
                2 if ours.away.is_none() && self.rng.u8(..3) == 0 => {
                    ours.branch = ours.backup.clone();
                    self.restored = true;
                    true
                }
                3 if ours.away.is_none() => {
                    ours.backup = ours.branch.clone();
                    false
                }
                4 => {
                    ours.branch.forget_tombstones();
                    false
                }
                _ => true,
            },
            Side::Kuma(_) => self.kuma_upheaval(which),
        };
        if ends {
            self.restart();
        }
    }

    fn kuma_upheaval(&mut self, which: u8) -> bool {
        let number = self.number();
        let stable: Vec<Key> = self.stable.iter().cloned().collect();
        let Side::Kuma(global) = &mut self.side else { return false };
        match which {
            0 => {
                global.rows.clear();
                false
            }
            1 => {
                for key in stable {
                    global.rows.entry(key).or_insert(number);
                }
                false
            }
            2 => {
                global.cluster_id = [None, Some("two"), Some("one")][self.rng.usize(..3)];
                true
            }
            3 => {
                global.rows.insert(internal(), number);
                false
            }
            _ => true,
        }
    }

    /// Every process of global starts again, with what is committed.
    fn restart(&mut self) {
        for at in 0..self.peers.len() {
            self.lose(at, "global restarts");
        }
        if let Side::Ours(ours) = &mut self.side {
            ours.replicas.fill(ours.branch.types.clone());
            for peer in &mut self.peers {
                // A mark of admission is in the store that was swapped away.
                peer.suspended = ours.away.is_some() && matches!(peer.end, super::peer::End::Kuma(_));
            }
        }
    }

    /// The true store is back, everything is published, a wiped stock global has its secrets again.
    pub(super) fn undo_upheavals(&mut self) {
        if let Side::Ours(ours) = &mut self.side {
            swap_back(ours);
        }
        let number = self.number();
        let stable: Vec<Key> = self.stable.iter().cloned().collect();
        if let Side::Kuma(global) = &mut self.side {
            global.cluster_id = Some("one");
            for key in stable {
                global.rows.entry(key).or_insert(number);
            }
        }
        self.restart();
    }
}

/// Another store stands behind the address: a mistake in a configuration, or a wiped disk.
fn swap(ours: &mut Ours) -> bool {
    if ours.away.is_some() {
        return false;
    }
    let mut other = Branch::new(2, 5);
    for name in ["a", "x"] {
        let key = Key::secret("default", name);
        other.commit(vec![(key.clone(), Some(secret(&key, 7)))]);
    }
    let key = Key::new(ResourceType::GlobalSecret, "", "g");
    other.commit(vec![(key.clone(), Some(secret(&key, 7)))]);
    ours.away = Some(std::mem::replace(&mut ours.branch, other));
    true
}

fn swap_back(ours: &mut Ours) -> bool {
    let Some(own) = ours.away.take() else { return false };
    ours.branch = own;
    true
}
