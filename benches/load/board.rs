//! Who has reached what, and when.
//!
//! Decides: when the last zone has a revision. Never does: watch a zone; zones say it themselves.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Board {
    /// Per zone the revisions it reached, in order.
    zones: Vec<Mutex<Vec<(u64, Instant)>>>,
    failure: Mutex<Option<String>>,
    news: Notify,
}

impl Board {
    pub(crate) fn new(zones: usize) -> Self {
        Self {
            zones: (0..zones).map(|_| Mutex::default()).collect(),
            failure: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// A zone has everything up to a revision, as of now.
    pub(crate) fn reached(&self, zone: usize, revision: u64) {
        let at = Instant::now();
        if let Some(zone) = self.zones.get(zone) {
            zone.lock().push((revision, at));
        }
        self.news.notify_one();
    }

    /// A zone cannot go on.
    pub(crate) fn fail(&self, text: String) {
        self.failure.lock().get_or_insert(text);
        self.news.notify_one();
    }

    /// Forgets who reached what.
    pub(crate) fn reset(&self) {
        for zone in &self.zones {
            zone.lock().clear();
        }
    }

    /// When the last zone reached at least this revision; `None` while one has not.
    pub(crate) fn last(&self, revision: u64) -> Option<Instant> {
        let reached = |zone: &Mutex<Vec<(u64, Instant)>>| {
            let zone = zone.lock();
            let from = zone.partition_point(|(reached, _)| *reached < revision);
            zone.get(from).map(|(_, at)| *at)
        };
        let mut last = None;
        for zone in &self.zones {
            last = last.max(Some(reached(zone)?));
        }
        last
    }

    /// Waits until the last zone has a revision; tells when that was.
    pub(crate) async fn wait(&self, revision: u64, patience: Duration) -> anyhow::Result<Instant> {
        let all = async {
            loop {
                if let Some(text) = self.failure.lock().clone() {
                    anyhow::bail!("{text}");
                }
                if let Some(last) = self.last(revision) {
                    return Ok(last);
                }
                self.news.notified().await;
            }
        };
        match tokio::time::timeout(patience, all).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let behind = self
                    .zones
                    .iter()
                    .filter(|zone| zone.lock().last().is_none_or(|(reached, _)| *reached < revision));
                let seconds = patience.as_secs();
                anyhow::bail!("{} zones did not converge within {seconds} s", behind.count())
            }
        }
    }
}
