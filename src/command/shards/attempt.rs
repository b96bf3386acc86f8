//! An attempt at a shard. It holds a slot of the connections, sends a heartbeat, and ends in order if another attempt or the
//! commit was faster.

use std::time::Duration;

use super::slots::{Places, slot};
use crate::run::attempts::aside;
use crate::run::writer_lease::host;
use crate::run::{CommandError, Job};
use crate::shards::{AttemptNote, RunEnd, ShardsError, WorkFolder, now, random_id};

/// The interval at which an attempt sends a heartbeat, and checks whether its run goes on.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The outcome of `shards run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardEnd {
    /// The shard is done.
    Done {
        /// The number of its tiles.
        tiles: u64,
    },
    /// Another attempt has done it, or the run was committed.
    AlreadyDone,
}

/// A shard of a run.
#[derive(Clone, Copy)]
pub(super) struct OwnShard<'a> {
    pub(super) job: &'a Job,
    pub(super) work: &'a WorkFolder,
    /// The run's id.
    pub(super) run: &'a str,
    /// The shard, counted from 1.
    pub(super) number: u32,
}

impl OwnShard<'_> {
    /// Renders the shard with `render`, unless it is already done.
    pub(super) async fn attempted(
        &self,
        places: Places<'_>,
        render: impl AsyncFnOnce(&AttemptNote) -> Result<ShardEnd, CommandError>,
    ) -> Result<ShardEnd, CommandError> {
        if let Some(end) = self.late().await? {
            return Ok(end);
        }
        let attempt = AttemptNote {
            shard: self.number,
            attempt: random_id(),
            holder: format!("process {} on {}", std::process::id(), host()),
            began: now(),
            alive: now(),
        };
        let lease = match slot(self.job, self.work, places).await {
            Ok(lease) => lease,
            Err(error) => return self.unless_late(error).await,
        };
        let mut lease = lease;
        let ended = tokio::select! {
            done = Box::pin(render(&attempt)) => done,
            why = lease.kept() => Err(ShardsError::LostSlot { why }.into()),
            error = self.watched(&attempt) => Err(error),
        };
        lease.release().await;
        let (folder, run, own) = (self.work.clone(), self.run.to_owned(), attempt.clone());
        let forgotten = aside(move || {
            folder.forget_snapshot(&run, &own.attempt)?;
            folder.forget_attempt(&run, &own)
        });
        if let Err(error) = forgotten.await? {
            tracing::warn!("the note of this attempt stays in the work folder: {error}");
        }
        let ended = match ended {
            Ok(end) => Ok(end),
            Err(error) => self.unless_late(error).await,
        };
        if !matches!(ended, Ok(ShardEnd::Done { .. })) {
            self.clear_if_over().await;
        }
        ended
    }

    /// Removes the files that this attempt has left in the work folder after the run ended and was cleared.
    async fn clear_if_over(&self) {
        let (folder, run) = (self.work.clone(), self.run.to_owned());
        let cleared = aside(move || if folder.end_of(&run)?.is_some() { folder.clear(&run) } else { Ok(()) });
        if let Ok(Err(error)) = cleared.await {
            tracing::warn!("files of this attempt stay in the work folder: {error}");
        }
    }

    /// How the shard ends if there is nothing left to do; `None` if there is. An error if its run was given up.
    pub(super) async fn late(&self) -> Result<Option<ShardEnd>, CommandError> {
        let (folder, run, number) = (self.work.clone(), self.run.to_owned(), self.number);
        let looked = aside(move || Ok::<_, ShardsError>((folder.end_of(&run)?, folder.done(&run, number)?.is_some())));
        match looked.await?? {
            (Some(RunEnd::Aborted), _) => Err(self.aborted()),
            (Some(RunEnd::Committed), _) | (None, true) => Ok(Some(ShardEnd::AlreadyDone)),
            (None, false) => Ok(None),
        }
    }

    fn aborted(&self) -> CommandError {
        ShardsError::Aborted { work: self.work.name.clone(), run: self.run.to_owned() }.into()
    }

    /// Returns `error`, unless the shard is done without this attempt, or its run was given up.
    async fn unless_late(&self, error: CommandError) -> Result<ShardEnd, CommandError> {
        if self.job.stop.asked().is_some() {
            return Err(error);
        }
        match self.late().await {
            Ok(Some(end)) => Ok(end),
            Ok(None) => Err(error),
            Err(CommandError::Shards(aborted @ ShardsError::Aborted { .. })) => Err(aborted.into()),
            Err(_unreadable) => Err(error),
        }
    }

    /// Sends heartbeats; returns once the run has ended.
    async fn watched(&self, attempt: &AttemptNote) -> CommandError {
        loop {
            let (folder, run, own) = (self.work.clone(), self.run.to_owned(), attempt.clone());
            let looked = aside(move || {
                let end = folder.end_of(&run)?;
                if end.is_none() {
                    folder.note_attempt(&run, &own)?;
                }
                Ok::<_, ShardsError>(end)
            });
            match looked.await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(_end))) => return self.aborted(),
                Ok(Err(error)) => tracing::warn!("the work folder cannot be written yet: {error}"),
                Err(error) => return error,
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }
}
