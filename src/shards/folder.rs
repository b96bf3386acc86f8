//! The work folder: documents (notes) and files of one run at a time.
//!
//! | note | what | written |
//! |---|---|---|
//! | `plan.json` | the plan | once; who is first has begun the run |
//! | `RUN/done-0017.json` | a shard that is done | once; who is first has done it |
//! | `RUN/seeded-0017-ID-0-0.json` | variants that an attempt has seeded, some in each | before it says that it is done |
//! | `RUN/attempt-0017-ID.json` | an attempt that lives | again and again |
//! | `RUN/adding-0017-ID.json` | an attempt that adds tiles to the target itself | before its first tile, and when it has ended |
//! | `RUN/snapshot-ID.json` | a snapshot that can be imported | once |
//! | `RUN/slot-3.json` | the lease of some of the run's connections | again and again |
//! | `ended.json` | the last runs, and how they ended | when a run ends |
//!
//! The sorted runs are files, `RUN/shard-0017-ID.run`.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::begun::{BegunPlan, DoneFigures};
use super::plan::{AddingNote, AttemptNote, DoneNote, EndedRun, PLAN_VERSION, RunEnd, now};
use super::targets::TargetsDone;
use super::{RunReader, ShardsError};
use crate::postgis::ExportedSnapshot;
use crate::sink::{GENERATOR, MAX_KEPT_NOTE, NoteCondition, NoteError, NoteStore, WorkFiles};

/// The note with the plan.
const PLAN: &str = "plan.json";

/// The note with the runs that have ended.
const ENDED: &str = "ended.json";

/// The most runs in [`ENDED`].
const MAX_ENDED: usize = 50;

/// An attempt that was not seen for so long, in milliseconds, counts as dead.
const ATTEMPT_LIFE: u64 = 60_000;

/// The work folder.
#[derive(Debug, Clone)]
pub struct WorkFolder {
    /// As the user named it.
    pub name: String,
    /// The documents.
    pub notes: Arc<dyn NoteStore>,
    /// The files.
    pub files: WorkFiles,
}

/// An attempt at a shard, and whether it lives.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What it says about itself.
    pub note: AttemptNote,
    /// True if it was seen in the last minute, by this machine's clock.
    pub is_alive: bool,
}

/// A list of variants that an attempt at a shard has seeded.
#[derive(Debug, Clone, Copy)]
pub struct SeededList<'a> {
    /// The shard, counted from 1.
    pub shard: u32,
    /// The attempt.
    pub attempt: &'a str,
    /// The place of the tileset in the plan.
    pub tileset: usize,
    /// Which list, counted from 0.
    pub number: u32,
}

impl SeededList<'_> {
    fn name(self, run: &str) -> String {
        let SeededList { shard, attempt, tileset, number } = self;
        format!("{run}/seeded-{shard:04}-{attempt}-{tileset}-{number}.json")
    }
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

    /// Writes a note that nobody may have written before; false if somebody has.
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
    pub fn plan(&self) -> Result<Option<BegunPlan>, ShardsError> {
        #[derive(serde::Deserialize)]
        struct OfVersion {
            version: u32,
            run: String,
            generator: String,
            /// Those of a plan whose shards are whole targets.
            #[serde(default)]
            tilesets: Option<serde::de::IgnoredAny>,
        }
        let Some(OfVersion { version, run, generator, tilesets }) = self.read(PLAN)? else { return Ok(None) };
        if version != PLAN_VERSION || generator != GENERATOR {
            let (work, ours) = (self.name.clone(), GENERATOR.to_owned());
            return Err(ShardsError::OtherVersion { work, run, theirs: generator, ours });
        }
        Ok(match tilesets {
            Some(_) => self.read(PLAN)?.map(BegunPlan::Targets),
            None => self.read(PLAN)?.map(BegunPlan::Columns),
        })
    }

    /// The id of the run that was begun, whichever version has begun it; `None` if there is none.
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
    pub fn begun(&self) -> Result<BegunPlan, ShardsError> {
        self.plan()?.ok_or_else(|| ShardsError::NoPlan { work: self.name.clone() })
    }

    /// Begins a run.
    ///
    /// # Errors
    /// If another one was begun, or the plan cannot be written.
    pub fn begin(&self, plan: &BegunPlan) -> Result<(), ShardsError> {
        if bytes(plan).len() > MAX_KEPT_NOTE {
            // A shard takes about 200 bytes for 15 zooms.
            let most = u32::try_from(plan.weights().len() * MAX_KEPT_NOTE / bytes(plan).len()).unwrap_or(u32::MAX);
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

    /// A shard that is done; `None` if it is not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn done(&self, run: &str, shard: u32) -> Result<Option<DoneNote>, ShardsError> {
        self.read(&format!("{run}/{}", done_name(shard)))
    }

    /// A shard of whole targets that is done; `None` if it is not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn targets_done(&self, run: &str, shard: u32) -> Result<Option<TargetsDone>, ShardsError> {
        self.read(&format!("{run}/{}", done_name(shard)))
    }

    /// What a shard of either kind says that is done; `None` if it is not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn done_figures(&self, run: &str, shard: u32) -> Result<Option<DoneFigures>, ShardsError> {
        self.read(&format!("{run}/{}", done_name(shard)))
    }

    /// Says that a shard is done; false if another attempt was faster.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_done(&self, run: &str, done: &DoneNote) -> Result<bool, ShardsError> {
        self.write_first(&format!("{run}/{}", done_name(done.shard)), done)
    }

    /// The same of a shard of whole targets.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_targets_done(&self, run: &str, done: &TargetsDone) -> Result<bool, ShardsError> {
        self.write_first(&format!("{run}/{}", done_name(done.shard)), done)
    }

    /// Writes one of the lists of the variants that an attempt has seeded.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_seeded(&self, run: &str, list: SeededList<'_>, seeded: &impl Serialize) -> Result<(), ShardsError> {
        self.notes.write(&list.name(run), &bytes(seeded), &NoteCondition::Always)?;
        Ok(())
    }

    /// Reads one of these lists.
    ///
    /// # Errors
    /// If it cannot be read, or is not there.
    pub fn seeded<T: DeserializeOwned>(&self, run: &str, list: SeededList<'_>) -> Result<T, ShardsError> {
        let name = list.name(run);
        self.read(&name)?.ok_or_else(|| ShardsError::Damaged {
            place: format!("{name} in {}", self.name),
            what: "it is not there".to_owned(),
        })
    }

    /// The shards that are done, by their numbers.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn done_numbers(&self, run: &str) -> Result<Vec<u32>, ShardsError> {
        let names = self.notes.list(run)?;
        let number = |name: &String| {
            let leaf = name.split_once('/')?.1;
            leaf.strip_prefix("done-")?.strip_suffix(".json")?.parse().ok()
        };
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Notes that an attempt lives.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_attempt(&self, run: &str, attempt: &AttemptNote) -> Result<(), ShardsError> {
        let attempt = AttemptNote { alive: now(), ..attempt.clone() };
        self.notes.write(&attempt_name(run, &attempt), &bytes(&attempt), &NoteCondition::Always)?;
        Ok(())
    }

    /// Takes an attempt out.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_attempt(&self, run: &str, attempt: &AttemptNote) -> Result<(), ShardsError> {
        Ok(self.notes.remove(&attempt_name(run, attempt))?)
    }

    /// The attempts.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn attempts(&self, run: &str) -> Result<Vec<Attempt>, ShardsError> {
        let now = now();
        let mut attempts = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| name.contains("/attempt-")) {
            // Attempts end while they are listed.
            if let Some(note) = self.read::<AttemptNote>(name)? {
                attempts.push(Attempt { is_alive: now.saturating_sub(note.alive) < ATTEMPT_LIFE, note });
            }
        }
        Ok(attempts)
    }

    /// Notes an attempt that adds tiles to the target itself.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_adding(&self, run: &str, adding: &AddingNote) -> Result<(), ShardsError> {
        let name = format!("{run}/adding-{:04}-{}.json", adding.shard, adding.id);
        self.notes.write(&name, &bytes(adding), &NoteCondition::Always)?;
        Ok(())
    }

    /// The attempts that have added tiles to the target, but for those that have done their shards.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn other_adding(&self, run: &str, shards: &[DoneNote]) -> Result<Vec<AddingNote>, ShardsError> {
        let done: HashSet<&str> = shards.iter().filter_map(|shard| shard.adding.as_deref()).collect();
        let is_other = |name: &String| {
            let id = name.split_once("/adding-").and_then(|(_, rest)| rest.split_once('-')?.1.strip_suffix(".json"));
            id.is_some_and(|id| !done.contains(id))
        };
        let mut others = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| is_other(name)) {
            others.extend(self.read::<AddingNote>(name)?);
        }
        Ok(others)
    }

    /// True if another attempt than `own` has noted that it adds tiles of a shard to the target.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn was_adding(&self, run: &str, own: &AddingNote) -> Result<bool, ShardsError> {
        let (begin, name) = (format!("/adding-{:04}-", own.shard), format!("-{}.json", own.id));
        Ok(self.notes.list(run)?.iter().any(|other| other.contains(&begin) && !other.ends_with(&name)))
    }

    /// Adds a snapshot that others can import.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_snapshot(&self, run: &str, id: &str, snapshot: &ExportedSnapshot) -> Result<(), ShardsError> {
        self.notes.write(&format!("{run}/snapshot-{id}.json"), &bytes(snapshot), &NoteCondition::Always)?;
        Ok(())
    }

    /// Takes a snapshot out.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_snapshot(&self, run: &str, id: &str) -> Result<(), ShardsError> {
        Ok(self.notes.remove(&format!("{run}/snapshot-{id}.json"))?)
    }

    /// The snapshots that can be imported, unless their sessions have ended.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn snapshots(&self, run: &str) -> Result<Vec<ExportedSnapshot>, ShardsError> {
        let mut snapshots = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| name.contains("/snapshot-")) {
            snapshots.extend(self.read(name)?);
        }
        Ok(snapshots)
    }

    /// The name of the file of an attempt's sorted run.
    #[must_use]
    pub fn run_name(run: &str, shard: u32, attempt: &str) -> String {
        format!("{run}/shard-{shard:04}-{attempt}.run")
    }

    /// Opens the sorted run of a shard, if it has one, which reads `chunk` bytes at once.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open_run(&self, done: &DoneNote, chunk: usize) -> Result<Option<RunReader>, ShardsError> {
        let Some(name) = &done.file else { return Ok(None) };
        let (file, place) = (self.files.open(name)?, self.files.place(name));
        RunReader::begin(file, place, done.bytes, done.crc32, chunk).map(Some)
    }

    /// Ends a run: from now on every attempt is late. Removes what it left, the plan first. Does nothing to another run.
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

fn done_name(shard: u32) -> String {
    format!("done-{shard:04}.json")
}

fn attempt_name(run: &str, attempt: &AttemptNote) -> String {
    format!("{run}/attempt-{:04}-{}.json", attempt.shard, attempt.attempt)
}

fn bytes(body: &impl Serialize) -> Vec<u8> {
    // Plain data can always be serialized.
    serde_json::to_vec(body).unwrap_or_default()
}
