//! Task sets: every long-lived task has a name, and none dies unnoticed.
//!
//! Decides: that the first task to end, well or badly, ends the set, and which task is named for it.
//! Never does: restart a task; what can be retried is retried inside it.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long tasks have to end after the set was cancelled.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a set ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A task ended with an error.
    #[error("{task} failed: {error}")]
    Failed {
        /// Its name.
        task: &'static str,
        /// The error, with its causes.
        error: String,
    },
    /// A task panicked.
    #[error("{task} panicked")]
    Panicked {
        /// Its name.
        task: &'static str,
    },
    /// Tasks did not end in time after the set was cancelled.
    #[error("still running after {}s: {}", DEADLINE.as_secs(), tasks.join(", "))]
    Stuck {
        /// Their names.
        tasks: Vec<&'static str>,
    },
}

/// A set of named critical tasks that live and die together.
#[derive(Debug)]
pub struct Tasks {
    cancel: CancellationToken,
    set: JoinSet<(&'static str, anyhow::Result<()>)>,
    names: std::collections::HashMap<tokio::task::Id, &'static str>,
}

impl Tasks {
    /// An empty set; `cancel` ends it.
    #[must_use]
    pub fn new(cancel: CancellationToken) -> Self {
        Self { cancel, set: JoinSet::new(), names: std::collections::HashMap::new() }
    }

    /// The token that the tasks of this set obey.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Starts a task. It must end soon after the token is cancelled.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.set.spawn(async move { (name, task.await) });
        self.names.insert(handle.id(), name);
    }

    /// Waits for the set to end: until a task ends by itself or the token is cancelled, then for all
    /// the others, at most ten seconds.
    ///
    /// # Errors
    /// The first failure, or the tasks that did not end in time.
    pub async fn run(mut self) -> Result<(), Failure> {
        let cancel = self.cancel.clone();
        let first = tokio::select! {
            () = cancel.cancelled() => None,
            ended = self.set.join_next_with_id() => ended,
        };
        let mut failure = first.and_then(|ended| self.judge(ended));
        cancel.cancel();
        let rest = tokio::time::timeout(DEADLINE, async {
            while let Some(ended) = self.set.join_next_with_id().await {
                let later = self.judge(ended);
                failure = failure.take().or(later);
            }
        });
        if rest.await.is_err() {
            let tasks = self.names.values().copied().collect();
            return Err(failure.unwrap_or(Failure::Stuck { tasks }));
        }
        failure.map_or(Ok(()), Err)
    }

    fn judge(
        &mut self,
        ended: Result<(tokio::task::Id, (&'static str, anyhow::Result<()>)), tokio::task::JoinError>,
    ) -> Option<Failure> {
        match ended {
            Ok((id, (task, outcome))) => {
                self.names.remove(&id);
                tracing::debug!(task, "task ended");
                outcome.err().map(|error| Failure::Failed { task, error: format!("{error:#}") })
            }
            Err(panic) => {
                let task = self.names.remove(&panic.id()).unwrap_or("task");
                Some(Failure::Panicked { task })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_to_fail_is_named_and_ends_the_others() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let token = tasks.token();
        tasks.spawn("patient", async move {
            token.cancelled().await;
            Ok(())
        });
        tasks.spawn("broken", async { anyhow::bail!("no luck") });
        let failure = tasks.run().await.unwrap_err();
        assert_eq!(failure.to_string(), "broken failed: no luck");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_end_is_named() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("deaf", std::future::pending());
        tasks.token().cancel();
        let failure = tasks.run().await.unwrap_err();
        assert_eq!(failure.to_string(), "still running after 10s: deaf");
    }
}
