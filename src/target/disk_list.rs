//! Lists that grow with the tileset, kept in scratch files so that memory stays bounded: the tiles that a target holds,
//! edits that wait for the end of a run, directory entries, changed tiles.
//!
//! One cleanup rule: a scratch file has no name. Each list is a private `SQLite` database that was opened without one.
//! `SQLite` keeps it in its page cache and, once it outgrows that, in a file below `SQLITE_TMPDIR`, `TMPDIR` or
//! `/var/tmp` that it unlinks as soon as it is open ("Temporary Files Used By `SQLite`", sections 2.9 and 5). So a list
//! ends with its owner, and a killed run leaves nothing behind. It needs neither journal nor sync, because no later
//! process reads it.

use rusqlite::{Connection, params};

/// A list could not be written to the temporary folder, or not be read back.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep {what} in the temporary folder: make room there, or set TMPDIR to another one")]
pub struct ScratchError {
    what: &'static str,
    source: rusqlite::Error,
}

#[derive(Debug)]
pub(crate) struct Scratch {
    /// The database, for statements that outlive one call.
    pub(crate) connection: Connection,
    /// What it holds, for errors, such as "the changed tiles".
    what: &'static str,
}

impl Scratch {
    /// Opens a scratch database for `what` and creates the table of `schema`. Everything happens in one transaction
    /// that never ends.
    pub(crate) fn new(what: &'static str, schema: &str) -> Result<Scratch, ScratchError> {
        let opened = Connection::open("").and_then(|connection| {
            connection.execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA cache_size = -16000",
            )?;
            connection.execute_batch(schema)?;
            connection.execute_batch("BEGIN")?;
            Ok(connection)
        });
        let connection = opened.map_err(|source| ScratchError { what, source })?;
        Ok(Scratch { connection, what })
    }

    /// Runs `work` on the database; its error names the list.
    pub(crate) fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ScratchError> {
        work(&self.connection).map_err(|source| self.failed(source))
    }

    /// The error of `SQLite`, with the name of the list.
    pub(crate) const fn failed(&self, source: rusqlite::Error) -> ScratchError {
        ScratchError { what: self.what, source }
    }
}

/// A value of fixed size in a list of [`Records`].
pub(crate) trait Record: Copy {
    /// Its size in bytes.
    type Bytes: AsRef<[u8]> + for<'a> TryFrom<&'a [u8]>;

    fn to_bytes(&self) -> Self::Bytes;

    /// Converts the bytes back to the value.
    fn from_bytes(bytes: &Self::Bytes) -> Self;
}

/// Records of one page: 4,096 of 24 bytes are 96 KiB.
const RECORDS_PER_PAGE: usize = 4_096;

/// Records in the order in which they were pushed. The last page is in memory, so a short list needs no scratch
/// database.
#[derive(Debug)]
pub(crate) struct Records<R> {
    what: &'static str,
    /// Full pages; made with the first one.
    pages: Option<Scratch>,
    full_pages: i64,
    last_page: Vec<R>,
    length: u64,
}

impl<R: Record> Records<R> {
    /// An empty list of `what`.
    pub(crate) const fn new(what: &'static str) -> Records<R> {
        Records { what, pages: None, full_pages: 0, last_page: Vec::new(), length: 0 }
    }

    pub(crate) const fn len(&self) -> u64 {
        self.length
    }

    pub(crate) fn push(&mut self, record: R) -> Result<(), ScratchError> {
        if self.last_page.len() == RECORDS_PER_PAGE {
            let mut bytes = Vec::new();
            self.last_page.iter().for_each(|record| bytes.extend_from_slice(record.to_bytes().as_ref()));
            let pages = match self.pages.take() {
                Some(pages) => pages,
                None => Scratch::new(
                    self.what,
                    "PRAGMA page_size = 32768; PRAGMA cache_size = -4000; CREATE TABLE page (number integer PRIMARY KEY, records blob)",
                )?,
            };
            pages.run(|connection| {
                let mut insert = connection.prepare_cached("INSERT INTO page (number, records) VALUES (?1, ?2)")?;
                insert.execute(params![self.full_pages, bytes])
            })?;
            self.pages = Some(pages);
            self.full_pages += 1;
            self.last_page.clear();
        }
        self.last_page.push(record);
        self.length += 1;
        Ok(())
    }

    /// The last record, which may be changed until the next one is pushed.
    pub(crate) fn last_mut(&mut self) -> Option<&mut R> {
        self.last_page.last_mut()
    }

    /// Calls `take` with all records, `size` at a time; the last time there may be fewer.
    pub(crate) fn chunks<E: From<ScratchError>>(
        &self,
        size: usize,
        mut take: impl FnMut(&[R]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut waiting = Vec::new();
        for number in 0..=self.full_pages {
            self.read_page(number, &mut waiting)?;
            let whole = waiting.len() - waiting.len() % size;
            waiting[..whole].chunks(size).try_for_each(&mut take)?;
            waiting.drain(..whole);
        }
        if waiting.is_empty() { Ok(()) } else { take(&waiting) }
    }

    /// The records one by one; holds one page in memory.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<R, ScratchError>> + '_ {
        (0..=self.full_pages).flat_map(|number| {
            let mut page = Vec::new();
            let failed = self.read_page(number, &mut page).err();
            page.into_iter().map(Ok).chain(failed.map(Err))
        })
    }

    /// Appends the records of a page to `records`; the page `full_pages` is the one in memory.
    fn read_page(&self, number: i64, records: &mut Vec<R>) -> Result<(), ScratchError> {
        let pages = match &self.pages {
            Some(pages) if number < self.full_pages => pages,
            _ => {
                records.extend(&self.last_page);
                return Ok(());
            }
        };
        let bytes: Vec<u8> = pages.run(|connection| {
            let mut page = connection.prepare_cached("SELECT records FROM page WHERE number = ?1")?;
            page.query_row([number], |row| row.get(0))
        })?;
        let of_record = bytes.chunks_exact(size_of::<R::Bytes>());
        records.extend(of_record.filter_map(|bytes| R::Bytes::try_from(bytes).ok()).map(|bytes| R::from_bytes(&bytes)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Record for u64 {
        type Bytes = [u8; 8];
        fn to_bytes(&self) -> [u8; 8] {
            self.to_le_bytes()
        }
        fn from_bytes(bytes: &[u8; 8]) -> u64 {
            u64::from_le_bytes(*bytes)
        }
    }

    #[test]
    fn records_come_back_in_their_order_in_chunks_of_any_size() {
        let page = RECORDS_PER_PAGE as u64;
        for count in [0, 1, page - 1, page, page + 1, 3 * page + 7] {
            let mut records = Records::new("numbers");
            let expected: Vec<u64> = (0..count).map(|number| number << 40 | number).collect();
            for record in &expected {
                records.push(*record).unwrap();
            }
            assert_eq!(records.len(), count);
            let one_by_one: Vec<u64> = records.iter().map(Result::unwrap).collect();
            assert!(one_by_one == expected, "{count} records one by one");
            for size in [1, 1_000, RECORDS_PER_PAGE, 10_000] {
                let (mut found, mut sizes) = (Vec::new(), Vec::new());
                records
                    .chunks(size, |chunk| {
                        found.extend_from_slice(chunk);
                        sizes.push(chunk.len());
                        Ok::<(), ScratchError>(())
                    })
                    .unwrap();
                assert!(found == expected, "{count} records by {size}");
                assert!(sizes.iter().rev().skip(1).all(|found| *found == size), "{sizes:?}");
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_scratch_file_has_no_name() {
        let mut records = Records::new("numbers");
        // More than the page cache holds: 32 MB.
        for number in 0..4_000_000 {
            records.push(number).unwrap();
        }
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let goals: Vec<_> = open.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()).collect();
        let is_nameless = |goal: &std::path::PathBuf| goal.to_string_lossy().ends_with(" (deleted)");
        assert!(goals.iter().any(is_nameless), "{goals:?}");
        assert!(
            !goals.iter().any(|goal| goal.to_string_lossy().contains("etilqs_") && !is_nameless(goal)),
            "{goals:?}"
        );
    }
}
