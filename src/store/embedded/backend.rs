//! The bytes under redb.
//!
//! Decides: that the medium outlives the database on it, so that the database can be opened again
//! after an I/O error, and that a medium that takes no writes can still be read. Never does: hold
//! the lock of the file (`open.rs` does), or know what the bytes mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::RwLock;
use redb::StorageBackend;

/// The medium of a store.
pub(super) type Medium = Arc<dyn StorageBackend>;

/// A medium lent to a database: closing the database leaves the medium open.
#[derive(Debug)]
pub(super) struct Lent(pub(super) Medium);

impl StorageBackend for Lent {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// A file that is locked for us already.
#[derive(Debug)]
pub(super) struct LockedFile(pub(super) Arc<File>);

impl StorageBackend for LockedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn close(&self) -> io::Result<()> {
        self.0.unlock()
    }
}

const PAGE: usize = 4096;

/// A view of a medium that takes no writes now (a full disk): what is written stays in memory, so
/// that the last commit can be read. Never acknowledged from, and thrown away at the next reopen.
#[derive(Debug)]
pub(super) struct Overlay {
    medium: Medium,
    pages: RwLock<Pages>,
}

struct Pages {
    len: u64,
    written: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Overlay {
    pub(super) fn new(medium: Medium) -> io::Result<Self> {
        let pages = RwLock::new(Pages { len: medium.len()?, written: BTreeMap::new() });
        Ok(Self { medium, pages })
    }

    /// What the medium holds of page `number`, zeros beyond its end.
    fn below(&self, number: u64) -> io::Result<Box<[u8; PAGE]>> {
        let mut page = Box::new([0; PAGE]);
        let start = number * PAGE as u64;
        let there = self.medium.len()?.saturating_sub(start).min(PAGE as u64);
        if let Some(part) = usize::try_from(there).ok().and_then(|there| page.get_mut(..there)) {
            self.medium.read(start, part)?;
        }
        Ok(page)
    }
}

/// The pages that `len` bytes from `offset` touch: page, first byte in it, and how many.
fn spans(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + len as u64;
    std::iter::from_fn(move || {
        let within = usize::try_from(at % PAGE as u64).unwrap_or_default();
        let count = usize::try_from(end - at).unwrap_or(PAGE).min(PAGE - within);
        let span = (count > 0).then_some((at / PAGE as u64, within, count));
        at += count as u64;
        span
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages.read().len)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let pages = self.pages.read();
        if offset + out.len() as u64 > pages.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, count) in spans(offset, out.len()) {
            let Some((part, rest)) = std::mem::take(&mut out).split_at_mut_checked(count) else { break };
            out = rest;
            let page = match pages.written.get(&number) {
                Some(page) => page.clone(),
                None => self.below(number)?,
            };
            part.iter_mut().zip(page.iter().skip(within)).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.pages.write().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut pages = self.pages.write();
        for (number, within, count) in spans(offset, data.len()) {
            let Some((part, rest)) = data.split_at_checked(count) else { break };
            data = rest;
            let mut page = match pages.written.remove(&number) {
                Some(page) => page,
                None => self.below(number)?,
            };
            page.iter_mut().skip(within).zip(part).for_each(|(to, from)| *to = *from);
            pages.written.insert(number, page);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_reads_through_and_keeps_writes_to_itself() {
        let medium: Medium = Arc::new(redb::backends::InMemoryBackend::new());
        medium.set_len(10_000).unwrap();
        medium.write(4_090, b"0123456789").unwrap();
        let overlay = Overlay::new(medium.clone()).unwrap();
        overlay.write(4_094, b"abcd").unwrap();
        let mut seen = [0; 10];
        overlay.read(4_090, &mut seen).unwrap();
        assert_eq!(&seen, b"0123abcd89");
        medium.read(4_090, &mut seen).unwrap();
        assert_eq!(&seen, b"0123456789");
        overlay.set_len(20_000).unwrap();
        overlay.read(12_000, &mut seen).unwrap();
        assert_eq!(seen, [0; 10]);
        assert!(overlay.read(19_995, &mut seen).is_err());
    }
}
