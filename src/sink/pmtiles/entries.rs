//! The entries of an archive in the making, in the order of their tiles, kept on disk so that memory does not grow with
//! them.

use rusqlite::{Connection, params};

use super::layout::Entry;

/// Entries written and read at a time: 96 KiB.
const PAGE: usize = 4_096;

/// The entries could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the directory of tiles in the temporary folder: make room there, or set TMPDIR to another one")]
pub struct EntriesError(#[from] rusqlite::Error);

/// A list of entries.
#[derive(Debug)]
pub(super) struct Entries {
    /// Full pages; made with the first one.
    pages: Option<Connection>,
    full: i64,
    last: Vec<Entry>,
    length: u64,
}

impl Entries {
    pub(super) const fn new() -> Entries {
        Entries { pages: None, full: 0, last: Vec::new(), length: 0 }
    }

    pub(super) const fn len(&self) -> u64 {
        self.length
    }

    pub(super) fn push(&mut self, entry: Entry) -> Result<(), EntriesError> {
        if self.last.len() == PAGE {
            let bytes: Vec<u8> = self.last.iter().flat_map(to_row).collect();
            let pages = match self.pages.take() {
                Some(pages) => pages,
                None => open()?,
            };
            pages
                .prepare_cached("INSERT INTO page (number, entries) VALUES (?1, ?2)")?
                .execute(params![self.full, bytes])?;
            self.pages = Some(pages);
            self.full += 1;
            self.last.clear();
        }
        self.last.push(entry);
        self.length += 1;
        Ok(())
    }

    /// Gives all entries to `take`, `size` at a time; the last time there may be fewer.
    pub(super) fn chunks<E: From<EntriesError>>(
        &self,
        size: usize,
        mut take: impl FnMut(&[Entry]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut waiting = Vec::new();
        for number in 0..=self.full {
            self.page(number, &mut waiting)?;
            let whole = waiting.len() - waiting.len() % size;
            waiting[..whole].chunks(size).try_for_each(&mut take)?;
            waiting.drain(..whole);
        }
        if waiting.is_empty() { Ok(()) } else { take(&waiting) }
    }

    /// Appends the entries of a page; the last page is the one behind the full ones.
    fn page(&self, number: i64, entries: &mut Vec<Entry>) -> Result<(), EntriesError> {
        match &self.pages {
            Some(pages) if number < self.full => {
                let mut page = pages.prepare_cached("SELECT entries FROM page WHERE number = ?1")?;
                let bytes: Vec<u8> = page.query_row([number], |row| row.get(0))?;
                entries.extend(bytes.as_chunks().0.iter().map(from_row));
            }
            _ => entries.extend(&self.last),
        }
        Ok(())
    }
}

fn open() -> rusqlite::Result<Connection> {
    // SQLite keeps a database without a name in memory until it grows, then in a file that is already deleted.
    let pages = Connection::open("")?;
    pages.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA page_size = 32768;
         PRAGMA cache_size = -4000; CREATE TABLE page (number integer PRIMARY KEY, entries blob); BEGIN",
    )?;
    Ok(pages)
}

fn to_row(entry: &Entry) -> [u8; 24] {
    let mut row = [0; 24];
    row[..8].copy_from_slice(&entry.id.to_le_bytes());
    row[8..16].copy_from_slice(&entry.offset.to_le_bytes());
    row[16..20].copy_from_slice(&entry.length.to_le_bytes());
    row[20..].copy_from_slice(&entry.run.to_le_bytes());
    row
}

fn from_row(row: &[u8; 24]) -> Entry {
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| row[at + byte]));
    let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| row[at + byte]));
    Entry { id: long(0), offset: long(8), length: short(16), run: short(20) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_their_order_in_chunks_of_any_size() {
        for count in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7] {
            let mut entries = Entries::new();
            let expected: Vec<Entry> = (0..count as u64)
                .map(|id| Entry { id: id << 40, offset: u64::MAX - id, length: u32::MAX, run: id as u32 })
                .collect();
            for entry in &expected {
                entries.push(*entry).unwrap();
            }
            assert_eq!(entries.len(), count as u64);
            for size in [1, 1_000, PAGE, 10_000] {
                let (mut found, mut sizes) = (Vec::new(), Vec::new());
                entries
                    .chunks(size, |chunk| {
                        found.extend_from_slice(chunk);
                        sizes.push(chunk.len());
                        Ok::<(), EntriesError>(())
                    })
                    .unwrap();
                assert!(found == expected, "{count} entries by {size}");
                assert!(sizes.iter().rev().skip(1).all(|found| *found == size), "{sizes:?}");
            }
        }
    }
}
