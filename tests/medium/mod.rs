//! A medium that can lose power: what was not synced may be there afterwards, or not, or in part.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// What a write reaches atomically.
const SECTOR: usize = 512;

/// Whether `sync_data` does what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Honest,
    Lying,
}

/// Something that was asked for and not synced yet.
#[derive(Debug)]
enum Pending {
    Length(usize),
    Write(usize, Vec<u8>),
}

#[derive(Debug)]
struct Inner {
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    pending: Vec<Pending>,
    /// Operations until the power goes.
    left: Option<u32>,
    sync: Sync,
}

/// A medium, from one power cut to the next.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    pub(crate) fn new(sync: Sync) -> Self {
        Self::holding(Vec::new(), sync)
    }

    fn holding(bytes: Vec<u8>, sync: Sync) -> Self {
        let (durable, seen, pending) = (bytes.clone(), bytes, Vec::new());
        Self(Arc::new(Mutex::new(Inner { durable, seen, pending, left: None, sync })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Lets the power go after so many changes.
    pub(crate) fn cut_after(&self, operations: u32) {
        self.lock().left = Some(operations);
    }

    /// Forgets everything.
    pub(crate) fn wipe(&self) {
        let mut inner = self.lock();
        (inner.durable, inner.seen, inner.pending) = Default::default();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.lock().left == Some(0)
    }

    pub(crate) fn backend(&self) -> Wire {
        Wire(self.clone())
    }

    /// What is found when the power is back: of what was not synced, any part, in any order.
    pub(crate) fn after_the_cut(&self, random: &mut fastrand::Rng) -> Self {
        let mut inner = self.lock();
        let mut bytes = std::mem::take(&mut inner.durable);
        let mut pending = std::mem::take(&mut inner.pending);
        // Sometimes all of it made it, sometimes nothing, mostly something.
        let chance = [0, 10, 50, 90, 100][random.usize(..5)];
        if random.bool() {
            random.shuffle(&mut pending);
        }
        for change in pending {
            match change {
                Pending::Length(len) if random.u8(..100) < chance => bytes.resize(len, 0),
                Pending::Length(_) => {}
                Pending::Write(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        let start = offset + index * SECTOR;
                        if random.u8(..100) < chance && start + sector.len() <= bytes.len() {
                            bytes[start..start + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        Self::holding(bytes, inner.sync)
    }
}

/// The medium as redb sees it.
#[derive(Debug)]
pub(crate) struct Wire(Disk);

impl Wire {
    /// Counts a change, if there is power.
    fn change(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.0.lock();
        if let Some(left) = &mut inner.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(io::Error::other("no power"));
            }
        }
        Ok(inner)
    }

    fn look(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.0.lock();
        if inner.left == Some(0) { Err(io::Error::other("no power")) } else { Ok(inner) }
    }
}

impl StorageBackend for Wire {
    fn len(&self) -> io::Result<u64> {
        Ok(self.look()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let inner = self.look()?;
        let found = inner.seen.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        let mut inner = self.change()?;
        inner.seen.resize(len, 0);
        inner.pending.push(Pending::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.change()?;
        if inner.sync == Sync::Honest {
            inner.pending.clear();
            let Inner { durable, seen, .. } = &mut *inner;
            durable.clone_from(seen);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let mut inner = self.change()?;
        let Some(place) = inner.seen.get_mut(start..start + data.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        place.copy_from_slice(data);
        inner.pending.push(Pending::Write(start, data.to_vec()));
        Ok(())
    }
}
