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

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::plan::{AddingNote, AttemptNote, DoneNote, EndedRun, PLAN_VERSION, RunEnd, ShardPlan};
use super::{RunReader, ShardsError};
use crate::clock::milliseconds_now;
use crate::postgis::ExportedSnapshot;
use crate::target::{GENERATOR, MAX_KEPT_NOTE, NoteError, NoteStore, WorkFiles, WriteCondition, is_id, shard_of_file};

const PLAN: &str = "plan.json";

/// The note with the runs that have ended.
const ENDED: &str = "ended.json";

/// The most runs in [`ENDED`].
const MAX_ENDED: usize = 50;

#[derive(Debug, Clone)]
pub(crate) struct WorkFolder {
    /// The name that the user gave.
    pub name: String,
    pub notes: Arc<dyn NoteStore>,
    pub files: WorkFiles,
}

impl WorkFolder {
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ShardsError> {
        let Some(note) = self.notes.read(name)? else { return Ok(None) };
        serde_json::from_slice(&note.body).map(Some).map_err(|error| self.damaged(name, error.to_string()))
    }

    fn damaged(&self, name: &str, what: String) -> ShardsError {
        ShardsError::Damaged { place: format!("{name} in {}", self.name), what }
    }

    /// Writes a note that must not exist yet. False if it does.
    fn write_first(&self, name: &str, body: &impl Serialize) -> Result<bool, ShardsError> {
        match self.notes.write(name, &bytes(body), &WriteCondition::Absent) {
            Ok(_) => Ok(true),
            Err(NoteError::Changed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The plan; `None` if no run was begun. Fails if it cannot be read, or is that of another version of the program.
    pub(crate) fn plan(&self) -> Result<Option<ShardPlan>, ShardsError> {
        #[derive(serde::Deserialize)]
        struct OfVersion {
            version: u32,
            run: String,
            generator: String,
        }
        let Some(OfVersion { version, run, generator }) = self.read(PLAN)? else { return Ok(None) };
        let run = self.checked(run)?;
        if version != PLAN_VERSION || generator != GENERATOR {
            let (work, ours) = (self.name.clone(), GENERATOR.to_owned());
            return Err(ShardsError::OtherVersion { work, run, theirs: generator, ours });
        }
        self.read(PLAN)
    }

    /// The id of the run that was begun, by any version of the program; `None` if there is none.
    pub(crate) fn run(&self) -> Result<Option<String>, ShardsError> {
        #[derive(serde::Deserialize)]
        struct OfRun {
            run: String,
        }
        self.read::<OfRun>(PLAN)?.map(|plan| self.checked(plan.run)).transpose()
    }

    /// The id of a run as the plan has it. It becomes the name of a folder, so it must not lead elsewhere.
    fn checked(&self, run: String) -> Result<String, ShardsError> {
        if is_id(&run) { Ok(run) } else { Err(self.damaged(PLAN, format!("{run:?} is no id of a run"))) }
    }

    pub(crate) fn begun(&self) -> Result<ShardPlan, ShardsError> {
        self.plan()?.ok_or_else(|| ShardsError::NoPlan { work: self.name.clone() })
    }

    /// Begins a run.
    pub(crate) fn begin(&self, plan: &ShardPlan) -> Result<(), ShardsError> {
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
    pub(crate) fn end_of(&self, run: &str) -> Result<Option<RunEnd>, ShardsError> {
        if self.run()?.as_deref() == Some(run) {
            return Ok(None);
        }
        let ended = self.read::<Vec<EndedRun>>(ENDED)?.unwrap_or_default();
        let end = ended.iter().rev().find(|ended| ended.run == run).map(|ended| ended.end);
        Ok(Some(end.unwrap_or(RunEnd::Aborted)))
    }

    /// The run that ended last, if it was committed. Removes what its commit has left here.
    pub(crate) fn committed(&self) -> Result<Option<String>, ShardsError> {
        let last = self.read::<Vec<EndedRun>>(ENDED)?.unwrap_or_default().pop();
        let Some(EndedRun { run, end: RunEnd::Committed }) = last else { return Ok(None) };
        self.clear(&run)?;
        Ok(Some(run))
    }

    /// The name of the file of an attempt's sorted run.
    pub(crate) fn run_name(run: &str, shard: u32, attempt: &str) -> String {
        format!("{run}/shard-{shard:04}-{attempt}.run")
    }

    /// Opens the sorted run of a shard, if it has one. The reader reads `chunk` bytes at once.
    pub(crate) fn open_run(&self, done: &DoneNote, chunk: usize) -> Result<Option<RunReader>, ShardsError> {
        let Some(name) = &done.file else { return Ok(None) };
        let (file, place) = (self.files.open(name)?, self.files.place(name));
        RunReader::begin(file, place, done.bytes, done.crc32, chunk).map(Some)
    }

    /// Ends a run, so that every further attempt is late. Removes its notes and files, the plan first. Does not affect
    /// another run.
    pub(crate) fn end(&self, run: &str, end: RunEnd) -> Result<(), ShardsError> {
        let mut ended = self.read::<Vec<EndedRun>>(ENDED)?.unwrap_or_default();
        if !ended.iter().any(|ended| ended.run == run) {
            ended.push(EndedRun { run: run.to_owned(), end });
            let older = ended.len().saturating_sub(MAX_ENDED);
            ended.drain(..older);
            self.notes.write(ENDED, &bytes(&ended), &WriteCondition::Always)?;
        }
        if self.run()?.as_deref() == Some(run) {
            self.notes.remove(PLAN)?;
        }
        self.clear(run)
    }

    /// Removes a plan that cannot be read, and all runs.
    pub(crate) fn remove_plan(&self) -> Result<(), ShardsError> {
        self.notes.remove(PLAN)?;
        self.clear_left_over()
    }

    /// Removes what runs have left here of which the plan is gone: a process was killed while it ended one.
    pub(crate) fn clear_left_over(&self) -> Result<(), ShardsError> {
        self.files.runs()?.iter().try_for_each(|run| self.clear(run))
    }

    /// Removes the notes and files of a run.
    pub(crate) fn clear(&self, run: &str) -> Result<(), ShardsError> {
        // The note of the runs that have ended may say anything.
        if !is_id(run) {
            return Ok(());
        }
        for name in self.notes.list(run)? {
            self.notes.remove(&name)?;
        }
        Ok(self.files.clear(run, &[])?)
    }

    /// Removes the files of a run that no shard names which is done: a process was killed while it wrote them. Must not
    /// be called while another process renders a shard.
    pub(crate) fn clear_unnamed(&self, run: &str) -> Result<(), ShardsError> {
        let mut named = Vec::new();
        for shard in self.done_numbers(run)? {
            match self.done(run, shard) {
                Ok(done) => named.extend(done.and_then(|done| done.file)),
                // It will be rendered again.
                Err(ShardsError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.files.clear(run, &named)?)
    }
}

fn bytes(body: &impl Serialize) -> Vec<u8> {
    // Plain data can always be serialized.
    serde_json::to_vec(body).unwrap_or_default()
}

// The notes of attempts at shards: heartbeats, the tiles that they add to the target, and snapshots that others can
// import.

/// The time without a heartbeat after which an attempt counts as dead, in milliseconds.
const ATTEMPT_LIFE: u64 = 60_000;

/// An attempt at a shard, and whether it is alive.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub note: AttemptNote,
    /// True if its heartbeat is less than a minute old, by this machine's clock.
    pub(crate) is_alive: bool,
}

impl WorkFolder {
    /// Writes the heartbeat of an attempt.
    pub(crate) fn note_attempt(&self, run: &str, attempt: &AttemptNote) -> Result<(), ShardsError> {
        let attempt = AttemptNote { alive: milliseconds_now(), ..attempt.clone() };
        self.notes.write(&attempt_name(run, &attempt), &bytes(&attempt), &WriteCondition::Always)?;
        Ok(())
    }

    /// Removes the note of an attempt.
    pub(crate) fn forget_attempt(&self, run: &str, attempt: &AttemptNote) -> Result<(), ShardsError> {
        Ok(self.notes.remove(&attempt_name(run, attempt))?)
    }

    pub(crate) fn attempts(&self, run: &str) -> Result<Vec<Attempt>, ShardsError> {
        let now = milliseconds_now();
        let mut attempts = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| name.contains("/attempt-")) {
            // Attempts may end while they are listed.
            if let Some(note) = self.read::<AttemptNote>(name)? {
                attempts.push(Attempt { is_alive: now.saturating_sub(note.alive) < ATTEMPT_LIFE, note });
            }
        }
        Ok(attempts)
    }

    /// Notes that an attempt adds tiles to the target itself.
    pub(crate) fn note_adding(&self, run: &str, adding: &AddingNote) -> Result<(), ShardsError> {
        let name = format!("{run}/adding-{:04}-{}.json", adding.shard, adding.id);
        self.notes.write(&name, &bytes(adding), &WriteCondition::Always)?;
        Ok(())
    }

    /// The attempts that have added tiles to the target, without those that have completed their shards.
    pub(crate) fn other_adding(&self, run: &str, shards: &[DoneNote]) -> Result<Vec<AddingNote>, ShardsError> {
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

    /// True if an attempt other than `own` has noted that it adds tiles of the shard to the target.
    pub(crate) fn was_adding(&self, run: &str, own: &AddingNote) -> Result<bool, ShardsError> {
        let (begin, name) = (format!("/adding-{:04}-", own.shard), format!("-{}.json", own.id));
        Ok(self.notes.list(run)?.iter().any(|other| other.contains(&begin) && !other.ends_with(&name)))
    }

    /// Adds a snapshot that others can import.
    pub(crate) fn add_snapshot(&self, run: &str, id: &str, snapshot: &ExportedSnapshot) -> Result<(), ShardsError> {
        self.notes.write(&format!("{run}/snapshot-{id}.json"), &bytes(snapshot), &WriteCondition::Always)?;
        Ok(())
    }

    /// Removes a snapshot.
    pub(crate) fn forget_snapshot(&self, run: &str, id: &str) -> Result<(), ShardsError> {
        Ok(self.notes.remove(&format!("{run}/snapshot-{id}.json"))?)
    }

    /// The snapshots that can be imported, if their sessions are still open.
    pub(crate) fn snapshots(&self, run: &str) -> Result<Vec<ExportedSnapshot>, ShardsError> {
        let mut snapshots = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| name.contains("/snapshot-")) {
            snapshots.extend(self.read(name)?);
        }
        Ok(snapshots)
    }
}

fn attempt_name(run: &str, attempt: &AttemptNote) -> String {
    format!("{run}/attempt-{:04}-{}.json", attempt.shard, attempt.attempt)
}

// Shards that are done. The first attempt to note that a shard is done has done it.

impl WorkFolder {
    /// The note of a shard that is done; `None` if it is not.
    pub(crate) fn done(&self, run: &str, shard: u32) -> Result<Option<DoneNote>, ShardsError> {
        let name = format!("{run}/{}", done_name(shard));
        let done: Option<DoneNote> = self.read(&name)?;
        let is_own =
            |file: &str| file.strip_prefix(run).and_then(|leaf| shard_of_file(leaf.strip_prefix('/')?)) == Some(shard);
        match done.as_ref().and_then(|done| done.file.as_deref()) {
            // It is read and removed, so it must not lead elsewhere.
            Some(file) if !is_own(file) => Err(self.damaged(&name, format!("{file:?} is no file of shard {shard}"))),
            _ => Ok(done),
        }
    }

    /// Notes that a shard is done. False if another attempt was faster.
    pub(crate) fn write_done(&self, run: &str, done: &DoneNote) -> Result<bool, ShardsError> {
        self.write_first(&format!("{run}/{}", done_name(done.shard)), done)
    }

    /// Removes the note and the file of a shard that is done, so that it is rendered again.
    pub(crate) fn forget_done(&self, run: &str, shard: u32) -> Result<(), ShardsError> {
        // A note that cannot be read names no file.
        let file = self.done(run, shard).ok().flatten().and_then(|done| done.file);
        self.notes.remove(&format!("{run}/{}", done_name(shard)))?;
        file.map_or(Ok(()), |file| Ok(self.files.remove(&file)?))
    }

    /// Reads the note and the whole run of a shard. Fails if either is missing or damaged.
    pub(crate) fn check_done(&self, run: &str, shard: u32) -> Result<(), ShardsError> {
        let name = format!("{run}/{}", done_name(shard));
        let missing = || ShardsError::Damaged { place: self.files.place(&name), what: "it is gone".to_owned() };
        let done = self.done(run, shard)?.ok_or_else(missing)?;
        if let Some(mut reader) = self.open_run(&done, 1 << 20)? {
            while reader.next()?.is_some() {}
        }
        Ok(())
    }

    pub(crate) fn done_numbers(&self, run: &str) -> Result<Vec<u32>, ShardsError> {
        let names = self.notes.list(run)?;
        let number = |name: &String| {
            let leaf = name.split_once('/')?.1;
            leaf.strip_prefix("done-")?.strip_suffix(".json")?.parse().ok()
        };
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn done_name(shard: u32) -> String {
    format!("done-{shard:04}.json")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::target::{FolderNotes, WorkFiles};

    #[test]
    fn the_first_attempt_that_says_so_has_done_a_shard() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, files) = (FolderNotes::of_directory(folder.path()), WorkFiles::Folder(folder.path().to_owned()));
        let work = WorkFolder { name: "work/".to_owned(), notes: Arc::new(notes), files };
        let done =
            |attempt: &str, tiles| DoneNote { shard: 3, attempt: attempt.to_owned(), tiles, ..DoneNote::default() };
        assert_eq!(work.done_numbers("run").unwrap(), [0; 0]);
        for (attempt, tiles, is_first) in [("first", 7, true), ("second", 8, false)] {
            assert_eq!(work.write_done("run", &done(attempt, tiles)).unwrap(), is_first, "{attempt}");
            assert_eq!(work.done("run", 3).unwrap(), Some(done("first", 7)), "{attempt}");
        }
        assert_eq!(work.done_numbers("run").unwrap(), [3]);
    }
}
