//! The work folder. It contains the documents (notes) and files of one run at a time.
//!
//! | note | what | written |
//! |---|---|---|
//! | `plan.json` | the plan | once; the first to write it has begun the run |
//! | `RUN/done-0017.json` | a shard that is done | once; the first attempt to write it has done the shard |
//! | `RUN/attempt-0017-ID.json` | the heartbeat of an attempt | repeatedly |
//! | `RUN/adding-0017-ID.json` | an attempt that adds tiles to the target itself | before its first tile, and when it has ended |
//! | `RUN/snapshot-ID.json` | a snapshot that can be imported | once |
//! | `RUN/slot-3.json` | the lease of some of the run's connections | repeatedly |
//! | `ended.json` | the last runs, and how they ended | when a run ends |
//!
//! The sorted runs are files, `RUN/shard-0017-ID.run`.
//!
//! | file | what |
//! |---|---|
//! | `done` | shards that are done |
//! | `attempts` | the heartbeats of attempts, the tiles that they add, the snapshots that they share |

mod attempts;
mod done;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::plan::{DoneNote, EndedRun, PLAN_VERSION, RunEnd, ShardPlan};
use super::{RunReader, ShardsError};
use crate::sink::{GENERATOR, MAX_KEPT_NOTE, NoteCondition, NoteError, NoteStore, WorkFiles};

pub use attempts::Attempt;

/// The note with the plan.
const PLAN: &str = "plan.json";

/// The note with the runs that have ended.
const ENDED: &str = "ended.json";

/// The most runs in [`ENDED`].
const MAX_ENDED: usize = 50;

/// The work folder.
#[derive(Debug, Clone)]
pub struct WorkFolder {
    /// The name that the user gave.
    pub name: String,
    /// The documents.
    pub notes: Arc<dyn NoteStore>,
    /// The files.
    pub files: WorkFiles,
}

impl WorkFolder {
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ShardsError> {
        let Some(note) = self.notes.read(name)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| ShardsError::Damaged {
            place: format!("{name} in {}", self.name),
            what: error.to_string(),
        };
        serde_json::from_slice(&note.body).map(Some).map_err(damaged)
    }

    /// Writes a note that must not exist yet. False if it does.
    fn write_first(&self, name: &str, body: &impl Serialize) -> Result<bool, ShardsError> {
        match self.notes.write(name, &bytes(body), &NoteCondition::Absent) {
            Ok(_) => Ok(true),
            Err(NoteError::Changed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The plan; `None` if no run was begun.
    ///
    /// # Errors
    /// If it cannot be read, or is that of another version of the program.
    pub fn plan(&self) -> Result<Option<ShardPlan>, ShardsError> {
        #[derive(serde::Deserialize)]
        struct OfVersion {
            version: u32,
            run: String,
            generator: String,
        }
        let Some(OfVersion { version, run, generator }) = self.read(PLAN)? else { return Ok(None) };
        if version != PLAN_VERSION || generator != GENERATOR {
            let (work, ours) = (self.name.clone(), GENERATOR.to_owned());
            return Err(ShardsError::OtherVersion { work, run, theirs: generator, ours });
        }
        self.read(PLAN)
    }

    /// The id of the run that was begun, by any version of the program; `None` if there is none.
    ///
    /// # Errors
    /// If the plan cannot be read.
    pub fn run(&self) -> Result<Option<String>, ShardsError> {
        #[derive(serde::Deserialize)]
        struct OfRun {
            run: String,
        }
        Ok(self.read::<OfRun>(PLAN)?.map(|plan| plan.run))
    }

    /// The plan.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn begun(&self) -> Result<ShardPlan, ShardsError> {
        self.plan()?.ok_or_else(|| ShardsError::NoPlan { work: self.name.clone() })
    }

    /// Begins a run.
    ///
    /// # Errors
    /// If another one was begun, or the plan cannot be written.
    pub fn begin(&self, plan: &ShardPlan) -> Result<(), ShardsError> {
        if bytes(plan).len() > MAX_KEPT_NOTE {
            // A shard takes about 200 bytes in the plan, with 15 zooms.
            let most = u32::try_from(plan.shards.len() * MAX_KEPT_NOTE / bytes(plan).len()).unwrap_or(u32::MAX);
            return Err(ShardsError::TooManyShards { shards: plan.count(), most });
        }
        if self.write_first(PLAN, plan)? {
            return Ok(());
        }
        let run = self.run()?.unwrap_or_default();
        Err(ShardsError::Begun { work: self.name.clone(), run })
    }

    /// How a run has ended; `None` if it goes on.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn end_of(&self, run: &str) -> Result<Option<RunEnd>, ShardsError> {
        if self.run()?.as_deref() == Some(run) {
            return Ok(None);
        }
        let ended = self.read::<Vec<EndedRun>>(ENDED)?.unwrap_or_default();
        let end = ended.iter().rev().find(|ended| ended.run == run).map(|ended| ended.end);
        Ok(Some(end.unwrap_or(RunEnd::Aborted)))
    }

    /// The run that ended last, if it was committed. Removes what its commit has left here.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn committed(&self) -> Result<Option<String>, ShardsError> {
        let last = self.read::<Vec<EndedRun>>(ENDED)?.unwrap_or_default().pop();
        let Some(EndedRun { run, end: RunEnd::Committed }) = last else { return Ok(None) };
        self.clear(&run)?;
        Ok(Some(run))
    }

    /// The name of the file of an attempt's sorted run.
    #[must_use]
    pub fn run_name(run: &str, shard: u32, attempt: &str) -> String {
        format!("{run}/shard-{shard:04}-{attempt}.run")
    }

    /// Opens the sorted run of a shard, if it has one. The reader reads `chunk` bytes at once.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open_run(&self, done: &DoneNote, chunk: usize) -> Result<Option<RunReader>, ShardsError> {
        let Some(name) = &done.file else { return Ok(None) };
        let (file, place) = (self.files.open(name)?, self.files.place(name));
        RunReader::begin(file, place, done.bytes, done.crc32, chunk).map(Some)
    }

    /// Ends a run, so that every further attempt is late. Removes its notes and files, the plan first. Does not affect another run.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn end(&self, run: &str, end: RunEnd) -> Result<(), ShardsError> {
        let mut ended = self.read::<Vec<EndedRun>>(ENDED)?.unwrap_or_default();
        if !ended.iter().any(|ended| ended.run == run) {
            ended.push(EndedRun { run: run.to_owned(), end });
            let older = ended.len().saturating_sub(MAX_ENDED);
            ended.drain(..older);
            self.notes.write(ENDED, &bytes(&ended), &NoteCondition::Always)?;
        }
        if self.run()?.as_deref() == Some(run) {
            self.notes.remove(PLAN)?;
        }
        self.clear(run)
    }

    /// Removes the notes and files of a run.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn clear(&self, run: &str) -> Result<(), ShardsError> {
        for name in self.notes.list(run)? {
            self.notes.remove(&name)?;
        }
        Ok(self.files.remove_folder(run)?)
    }
}

fn bytes(body: &impl Serialize) -> Vec<u8> {
    // Plain data can always be serialized.
    serde_json::to_vec(body).unwrap_or_default()
}
