//! Shards that are done. The first attempt to note that a shard is done has done it.

use super::super::ShardsError;
use super::super::plan::DoneNote;
use super::WorkFolder;

impl WorkFolder {
    /// The note of a shard that is done; `None` if it is not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn done(&self, run: &str, shard: u32) -> Result<Option<DoneNote>, ShardsError> {
        self.read(&format!("{run}/{}", done_name(shard)))
    }

    /// Notes that a shard is done. False if another attempt was faster.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_done(&self, run: &str, done: &DoneNote) -> Result<bool, ShardsError> {
        self.write_first(&format!("{run}/{}", done_name(done.shard)), done)
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

    use super::super::super::plan::LayerRecord;
    use super::*;
    use crate::sink::{FolderNotes, WorkFiles};

    #[test]
    fn the_first_attempt_that_says_so_has_done_a_shard() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, files) = (FolderNotes::of_directory(folder.path()), WorkFiles::Folder(folder.path().to_owned()));
        let work = WorkFolder { name: "work/".to_owned(), notes: Arc::new(notes), files };
        let done = |attempt: &str, tiles| DoneNote {
            shard: 3,
            attempt: attempt.to_owned(),
            file: None,
            bytes: 0,
            crc32: 0,
            edits: 0,
            adding: None,
            is_exact: true,
            tiles,
            cursor: "5:5:".to_owned(),
            witness: None,
            seen: "5:5:".to_owned(),
            zooms: Vec::new(),
            layers: LayerRecord::default(),
            plan_seconds: 0.0,
            reading_seconds: 0.0,
            reading_sessions: 0,
            render_seconds: 0.0,
            seconds: 0.0,
            workers: 1,
        };
        assert_eq!(work.done_numbers("run").unwrap(), [0; 0]);
        for (attempt, tiles, is_first) in [("first", 7, true), ("second", 8, false)] {
            assert_eq!(work.write_done("run", &done(attempt, tiles)).unwrap(), is_first, "{attempt}");
            assert_eq!(work.done("run", 3).unwrap(), Some(done("first", 7)), "{attempt}");
        }
        assert_eq!(work.done_numbers("run").unwrap(), [3]);
    }
}
