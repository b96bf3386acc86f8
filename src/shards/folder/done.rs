//! Shards that are done. The first attempt to note that a shard is done has done it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::ShardsError;
use super::super::begun::DoneFigures;
use super::super::plan::DoneNote;
use super::super::targets::TargetsDone;
use super::{WorkFolder, bytes};
use crate::sink::NoteCondition;

/// A list of variants that an attempt at a shard has seeded.
#[derive(Debug, Clone, Copy)]
pub struct SeededList<'a> {
    /// The shard, counted from 1.
    pub shard: u32,
    /// The attempt.
    pub attempt: &'a str,
    /// The index of the tileset in the plan.
    pub tileset: usize,
    /// The number of the list, counted from 0.
    pub number: u32,
}

impl SeededList<'_> {
    fn name(self, run: &str) -> String {
        let SeededList { shard, attempt, tileset, number } = self;
        format!("{run}/seeded-{shard:04}-{attempt}-{tileset}-{number}.json")
    }
}

impl WorkFolder {
    /// The note of a shard that is done; `None` if it is not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn done(&self, run: &str, shard: u32) -> Result<Option<DoneNote>, ShardsError> {
        self.read(&format!("{run}/{}", done_name(shard)))
    }

    /// The note of a shard of whole targets that is done; `None` if it is not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn targets_done(&self, run: &str, shard: u32) -> Result<Option<TargetsDone>, ShardsError> {
        self.read(&format!("{run}/{}", done_name(shard)))
    }

    /// The figures of a shard of either kind that is done; `None` if it is not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn done_figures(&self, run: &str, shard: u32) -> Result<Option<DoneFigures>, ShardsError> {
        self.read(&format!("{run}/{}", done_name(shard)))
    }

    /// Notes that a shard is done. False if another attempt was faster.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_done(&self, run: &str, done: &DoneNote) -> Result<bool, ShardsError> {
        self.write_first(&format!("{run}/{}", done_name(done.shard)), done)
    }

    /// Notes that a shard of whole targets is done. False if another attempt was faster.
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

    /// Reads one of the lists of the variants that an attempt has seeded.
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

    /// The numbers of the shards that are done.
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
}

fn done_name(shard: u32) -> String {
    format!("done-{shard:04}.json")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sink::{FolderNotes, WorkFiles};

    #[test]
    fn the_first_attempt_that_says_so_has_done_a_shard() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, files) = (FolderNotes::of_directory(folder.path()), WorkFiles::Folder(folder.path().to_owned()));
        let work = WorkFolder { name: "work/".to_owned(), notes: Arc::new(notes), files };
        let done = |attempt: &str, tiles| TargetsDone {
            shard: 3,
            attempt: attempt.to_owned(),
            cursor: "5:5:".to_owned(),
            witness: None,
            seen: "5:5:".to_owned(),
            families: Vec::new(),
            targets: 1,
            tiles,
            bytes: 0,
            seconds: 0.0,
        };
        assert_eq!(work.done_numbers("run").unwrap(), [0; 0]);
        for (attempt, tiles, is_first) in [("first", 7, true), ("second", 8, false)] {
            assert_eq!(work.write_targets_done("run", &done(attempt, tiles)).unwrap(), is_first, "{attempt}");
            assert_eq!(work.targets_done("run", 3).unwrap(), Some(done("first", 7)), "{attempt}");
        }
        assert_eq!(work.done_figures("run", 3).unwrap().map(|done| done.tiles), Some(7));
        assert_eq!(work.done_numbers("run").unwrap(), [3]);
    }
}
