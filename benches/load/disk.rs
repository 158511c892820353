//! How long the disk takes to make a write durable.
//!
//! Decides: what is measured: 4 KiB appended to a file beside the store's, then `fdatasync`. Never
//! does: touch a store.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use tokio::time::Instant;

use crate::stats::{Samples, Summary};

/// Syncs per measurement.
const SYNCS: usize = 300;
/// Bytes appended before each.
const APPENDED: usize = 4096;

/// What was measured.
pub(crate) type Disk = Summary;

/// Where everything of a run is kept: a folder of cargo's, on a disk and not in memory.
pub(crate) fn folder() -> anyhow::Result<tempfile::TempDir> {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(parent)?;
    Ok(tempfile::tempdir_in(parent)?)
}

/// Measures.
pub(crate) async fn probe() -> anyhow::Result<Disk> {
    tokio::task::spawn_blocking(measure).await?
}

fn measure() -> anyhow::Result<Disk> {
    let folder = folder()?;
    let mut file = File::create(folder.path().join("probe"))?;
    let mut samples = Samples::new()?;
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[7; APPENDED])?;
        file.sync_data()?;
        samples.record(start.elapsed());
    }
    Ok(samples.summary())
}
