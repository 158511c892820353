//! Many thin zones in this process, one connection each.
//!
//! Decides: when they connect and go. Never does: more than a zone would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::board::Board;
use crate::thin::ThinZone;
use crate::traffic::{Bytes, Traffic};

/// How long all zones together may take to get everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Fleet {
    zones: Vec<Arc<ThinZone>>,
    board: Arc<Board>,
    traffic: Arc<Traffic>,
    tasks: JoinSet<()>,
}

impl Fleet {
    /// Zones that are not connected yet.
    pub(crate) fn new(count: usize) -> Self {
        let (board, traffic) = (Arc::new(Board::new(count)), Arc::<Traffic>::default());
        let zone = |number| Arc::new(ThinZone::new(number, board.clone(), traffic.clone()));
        Self { zones: (0..count).map(zone).collect(), board, traffic, tasks: JoinSet::new() }
    }

    /// Connects all at once.
    pub(crate) fn connect(&mut self, global: SocketAddr) {
        for zone in &self.zones {
            self.tasks.spawn(zone.clone().run(global));
        }
    }

    /// Connects all at once and waits until the last one holds everything up to a revision. Tells how
    /// long that took.
    pub(crate) async fn converge(&mut self, global: SocketAddr, revision: u64) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.connect(global);
        let last = self.board.wait(revision, PATIENCE).await?;
        Ok(last - start)
    }

    /// Closes every connection; what zones hold they keep.
    pub(crate) async fn disconnect(&mut self) {
        self.tasks.shutdown().await;
        self.board.reset();
    }

    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What went over all connections so far.
    pub(crate) fn traffic(&self) -> Bytes {
        self.traffic.now()
    }

    /// Bytes of what all zones together hold, as messages.
    pub(crate) fn encoded(&self) -> u64 {
        self.zones.iter().map(|zone| zone.encoded() as u64).sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.zones.len()
    }
}
