//! An edit of an archive whose tile data stays where it lies: what is new is appended.
//!
//! ```text
//!            0              16,384
//!  old       │ header, root │ tile data               │ leaves │ metadata │
//!                           └─ stays ───────────────┐
//!  edited    │ header, root │ tile data               │ changed tiles │ leaves │ metadata │
//!             └─ front ────┘                          └─ tail ─────────────────────────┘
//! ```
//!
//! So the bytes between front and tail need not pass through this program: a file system shares them between two files,
//! and a server copies them. Of the old archive only directories, metadata and tiles that may be equal are read. The
//! old leaves and metadata are overwritten, because a copy can end where the tile data ended. Old bytes of tiles that
//! changed or went away stay as dead bytes, which the metadata counts.
//!
//! Whether an edit pays is only known at its end: until then changed tiles wait in a scratch file. If they are many, or
//! too many bytes would be dead, a new archive is made of the old one and these tiles ([`Rebuild`]).

use std::fmt;
use std::fs::File;
use std::io;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use hashbrown::HashMap;

use super::check::CutWalk;
use super::directories::{Directories, WriteFault};
use super::layout::{Entry, Header, PmtilesCompression, ROOT_END};
use super::read::PmtilesReader;
use super::rebuild::Rebuild;
use super::write::{Body, TILES, TileData};
use crate::scratch::scratch_file;
use crate::stop::Stop;
use crate::target::disk_list::Records;
use crate::target::{DeadBytes, Described, Metadata, ReadError, TileEdit, TileReader as _, Written, read_all};

/// The most changed tiles of an edit: what they replace is kept in memory, 16 bytes each.
const MAX_CHANGES: u64 = 1 << 20;

/// The fewest requests for which an archive elsewhere is not fetched as a whole.
const MIN_READS_OF_WHOLE: u64 = 64;

/// As many bytes of the archive are fetched by one request if it is fetched as a whole.
const BYTES_PER_READ_OF_WHOLE: u64 = 8 << 20;

/// Bytes that are copied between two looks whether a stop was asked for.
const BYTES_PER_COPY: u64 = 32 << 20;

/// Why an edit writes an archive anew, in the order of a seed, instead of leaving its tile data where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenAnew {
    /// It is not worth an edit.
    Small,
    /// Another program has written it, or its metadata does not say how many of its bytes are dead.
    OtherLayout,
    /// What is new would take more than half of it.
    ManyChanges,
    /// Comparing its tiles takes more requests than fetching it.
    ManyRequests,
    /// Too many bytes would belong to no tile.
    Dead(DeadBytes),
    /// Its server copies no parts of objects.
    NoCopies,
}

impl fmt::Display for WrittenAnew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WrittenAnew::Small => f.write_str("it is small"),
            WrittenAnew::OtherLayout => f.write_str(
                "another program has written it, or its metadata does not say how many of its bytes are dead",
            ),
            WrittenAnew::ManyChanges => {
                f.write_str("the changed tiles and the directories would take more than half of it")
            }
            WrittenAnew::ManyRequests => f.write_str("comparing its tiles takes more requests than fetching it"),
            WrittenAnew::Dead(DeadBytes { bytes, total }) => {
                write!(f, "{bytes} of {total} bytes of its tile data would belong to no tile")
            }
            WrittenAnew::NoCopies => f.write_str("its server copies no parts of objects"),
        }
    }
}

/// What the old archive has for a tile that is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Nothing,
    /// The same bytes.
    Equal,
    /// A tile whose bytes differ, or are not to be compared.
    Other,
}

/// An edit of an old archive.
pub(crate) struct Edit {
    old: PmtilesReader,
    /// The dead bytes of the old archive.
    dead: u64,
    max_dead_percent: Option<u64>,
    /// True if each read of the old archive is a request.
    is_elsewhere: bool,
    changes: Changes,
}

/// The changed tiles of an edit.
pub(crate) struct Changes {
    /// In the order of their ids. Offsets are those in `data`; a tile that is removed has no bytes.
    entries: Records<Entry>,
    data: TileData,
}

impl PmtilesReader {
    /// True if the archive has the layout of those that this program writes, and it is known how many of its bytes are
    /// dead. `described` is its own description.
    pub(crate) fn can_be_edited(&self, described: &Described) -> bool {
        let header = &self.header;
        header.tiles.offset == TILES
            && header.root.end().is_some_and(|end| end <= ROOT_END as u64)
            && header.packing == PmtilesCompression::Gzip
            && described.dead.is_some()
    }
}

impl Edit {
    /// Begins to edit an archive that [can be edited](PmtilesReader::can_be_edited).
    /// Fails if the scratch file cannot be made.
    pub(crate) fn of(
        mut old: PmtilesReader,
        described: &Described,
        max_dead_percent: Option<u64>,
    ) -> Result<Edit, WriteFault> {
        old.keep_open()?;
        let data = scratch_file().and_then(|file| TileData::begin(file, 0)).map_err(WriteFault::Kept)?;
        Ok(Edit {
            dead: described.dead.map_or(0, |dead| dead.bytes),
            max_dead_percent,
            is_elsewhere: old.bytes.file().is_none(),
            old,
            changes: Changes { entries: Records::new("the list of changed tiles"), data },
        })
    }

    /// What the old archive has for each of these tiles. Reads only tiles whose length is that of the new bytes.
    pub(crate) fn held(&mut self, edits: &[TileEdit]) -> Result<Vec<Held>, WriteFault> {
        let (mut held, mut asked, mut places) = (Vec::with_capacity(edits.len()), Vec::new(), Vec::new());
        for (place, edit) in edits.iter().enumerate() {
            let entry = self.old.entry_of(edit.id().coord.pmtiles_id())?;
            held.push(entry.map_or(Held::Nothing, |_| Held::Other));
            if let (Some(entry), TileEdit::Put(id, bytes)) = (entry, edit)
                && u64::from(entry.length) == bytes.len() as u64
            {
                asked.push(*id);
                places.push(place);
            }
        }
        let mut places = places.into_iter();
        read_all(&mut self.old, &asked, |_, stored| {
            if let Some(place) = places.next()
                && matches!(&edits[place], TileEdit::Put(_, bytes) if stored.as_ref() == Some(bytes))
            {
                held[place] = Held::Equal;
            }
            Ok::<(), ReadError>(())
        })?;
        Ok(held)
    }

    /// Takes an edit. Edits must come in the order of their ids.
    pub(crate) fn take(&mut self, edit: &TileEdit, held: Held) -> Result<Written, WriteFault> {
        let id = edit.id().coord.pmtiles_id();
        Ok(match (edit, held) {
            (TileEdit::Keep(..), Held::Equal | Held::Other) | (TileEdit::Put(..), Held::Equal) => {
                Written { unchanged: 1, ..Written::default() }
            }
            (TileEdit::Keep(_, None), Held::Nothing) => Written { missing: 1, ..Written::default() },
            (TileEdit::Put(_, bytes) | TileEdit::Keep(_, Some(bytes)), _) => {
                let entry = self.changes.data.put(id, bytes).map_err(WriteFault::of_kept)?;
                self.changes.entries.push(entry)?;
                Written { stored: 1, added: (held == Held::Nothing).into(), ..Written::default() }
            }
            (TileEdit::Remove(_), Held::Nothing) => Written { removed: 1, ..Written::default() },
            (TileEdit::Remove(_), _) => {
                self.changes.entries.push(Entry { id, offset: 0, length: 0, run: 1 })?;
                Written { removed: 1, deleted: 1, ..Written::default() }
            }
        })
    }

    /// Why a new archive has to be written instead; `None` if it need not, so far.
    pub(crate) fn why_large(&self) -> Option<WrittenAnew> {
        let whole = MIN_READS_OF_WHOLE.max(self.old.bytes.length() / BYTES_PER_READ_OF_WHOLE);
        if self.changes.entries.len() > MAX_CHANGES || self.changes.data.length() > self.old.header.tiles.length / 2 {
            return Some(WrittenAnew::ManyChanges);
        }
        (self.is_elsewhere && self.old.reads > whole).then_some(WrittenAnew::ManyRequests)
    }

    /// Where the old archive lies, for messages.
    pub(crate) fn place(&self) -> &str {
        self.old.bytes.place()
    }

    /// The file of the old archive; `None` if it lies elsewhere.
    pub(crate) fn old_file(&self) -> Option<io::Result<File>> {
        self.old.bytes.file()
    }

    /// Lays out the edited archive. Returns why a new archive has to be written instead, if most of it would be
    /// appended, or [too many bytes](RunKind::Reseed::max_dead_percent) would belong to no tile.
    pub(crate) fn lay_out(
        &mut self,
        metadata: &Metadata,
        stop: &Stop,
    ) -> Result<Result<EditedArchive, WrittenAnew>, WriteFault> {
        let Edit { old, changes: Changes { entries: changes, data }, dead, max_dead_percent, .. } = self;
        let (mut directories, mut replaced) = (Directories::new(), HashMap::new());
        let (stays, clustered) = (old.header.tiles.length, old.header.clustered && changes.len() == 0);
        let mut walk = CutWalk::of(old)?;
        let end = [Ok(Entry { id: u64::MAX, offset: 0, length: 0, run: 0 })];
        for change in changes.iter().chain(end) {
            let change = change?;
            if stop.asked().is_some() {
                return Err(WriteFault::Stopped);
            }
            while let Some(entry) = walk.before(old, change.id)? {
                old.check_tiles(&entry)?;
                directories.enter(entry)?;
            }
            if let Some(entry) = walk.at(old, change.id)? {
                replaced.insert(entry.offset, entry.length);
            }
            if change.length > 0 {
                directories.enter(Entry { offset: stays + change.offset, ..change })?;
            }
        }
        if !replaced.is_empty() {
            // Other tiles may have the same content.
            directories.visit(|entry| {
                replaced.remove(&entry.offset);
            })?;
        }
        let freed: u64 = replaced.values().map(|length| u64::from(*length)).sum();
        let dead = DeadBytes { bytes: *dead + freed, total: stays + data.length() };
        if max_dead_percent.is_some_and(|percent| dead.exceed(percent)) {
            return Ok(Err(WrittenAnew::Dead(dead)));
        }
        let described = metadata.pmtiles((!clustered).then_some(dead.bytes));
        let end = data.end(&mut directories, &described, stop).map_err(WriteFault::of_kept)?;
        let tail_length = data.length() + end.length();
        if tail_length > TILES.midpoint(stays) {
            return Ok(Err(WrittenAnew::ManyChanges));
        }
        let contents = old.header.contents.saturating_add(data.stored()).saturating_sub(replaced.len() as u64);
        let header = Header { clustered, ..directories.header(contents, metadata) };
        let mut front = end.front(&header, dead.total);
        front.resize(ROOT_END, 0);
        let tail = Arc::new(data.file().map_err(WriteFault::Kept)?);
        Ok(Ok(EditedArchive { front, stays: TILES + stays, tail, tail_length }))
    }

    /// The reader of the old archive, and the changes.
    pub(crate) fn into_parts(mut self) -> (PmtilesReader, Changes) {
        self.changes.data.end_puts();
        (self.old, self.changes)
    }
}

impl Changes {
    /// Hands them to a rebuild of the same archive.
    pub(crate) fn hand_over(&self, rebuild: &mut Rebuild, body: &mut Body, stop: &Stop) -> Result<(), WriteFault> {
        for change in self.entries.iter() {
            let change = change?;
            rebuild.meet(change.id, body, stop)?;
            if change.length > 0 {
                rebuild.settle(body, stop)?;
                body.put(change.id, &self.data.read(&change).map_err(WriteFault::Kept)?)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edit").field("changes", &self.changes.entries.len()).finish_non_exhaustive()
    }
}

/// The bytes of an edited archive: those before the tile data, those of the old archive that stay, and those behind
/// them.
#[derive(Debug)]
pub(crate) struct EditedArchive {
    /// Header and root directory: the bytes before [`TILES`].
    front: Vec<u8>,
    /// The end of the bytes that stay.
    stays: u64,
    tail: Arc<File>,
    tail_length: u64,
}

impl EditedArchive {
    /// In bytes.
    pub(crate) const fn length(&self) -> u64 {
        self.stays + self.tail_length
    }

    /// The range of bytes that are those of the old archive.
    pub(crate) const fn stays(&self) -> Range<u64> {
        TILES..self.stays
    }

    /// The bytes of a range that lie before those that stay.
    pub(crate) fn front(&self, range: &Range<u64>) -> &[u8] {
        let end = range.end.min(TILES) as usize;
        &self.front[(range.start as usize).min(end)..end]
    }

    /// A copy of the handle with which the bytes of a range are read that lie behind those that stay, and their range
    /// in it.
    pub(crate) fn tail(&self, range: &Range<u64>) -> TailRange {
        let place = |at: u64| at.saturating_sub(self.stays);
        TailRange { file: Arc::clone(&self.tail), range: place(range.start)..place(range.end) }
    }

    /// Writes the archive into an empty file. The bytes of `old` that stay are shared by both files where the file
    /// system can do that, and copied elsewhere.
    /// Fails if a file cannot be read or written, or `old`, which messages call `place`, has become shorter. Returns
    /// false if a stop was asked for.
    pub(crate) fn write(&self, old: &File, place: &str, mut new: &File, stop: &Stop) -> Result<bool, WriteFault> {
        let is_cut =
            || ReadError::Damaged { place: place.to_owned(), what: "it has become shorter during the run".to_owned() };
        if !shares_bytes(old, new) {
            new.seek(SeekFrom::Start(TILES))?;
            let copied = copy(old, self.stays(), new, stop).map_err(|fault| match fault {
                CopyFault::Short => WriteFault::Old(is_cut()),
                CopyFault::From(source) => WriteFault::Old(ReadError::Io { path: place.into(), source }),
                CopyFault::To(source) => WriteFault::Io(source),
            });
            if !copied? {
                return Ok(false);
            }
        }
        // Shared bytes end where those of the old file do.
        if new.metadata()?.len() < self.stays {
            return Err(is_cut().into());
        }
        new.set_len(self.stays)?;
        new.write_all_at(&self.front, 0)?;
        new.seek(SeekFrom::Start(self.stays))?;
        copy(&self.tail, 0..self.tail_length, new, stop).map_err(|fault| match fault {
            CopyFault::Short => WriteFault::Kept(io::ErrorKind::UnexpectedEof.into()),
            CopyFault::From(source) => WriteFault::Kept(source),
            CopyFault::To(source) => WriteFault::Io(source),
        })
    }
}

/// A part of the bytes behind those that stay.
pub(crate) struct TailRange {
    file: Arc<File>,
    range: Range<u64>,
}

impl TailRange {
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (self.range.end - self.range.start) as usize];
        self.file.read_exact_at(&mut bytes, self.range.start)?;
        Ok(bytes)
    }
}

/// Makes `new` share all bytes of `old`, on Btrfs, XFS and the like; false if that is not possible.
#[cfg(target_os = "linux")]
fn shares_bytes(old: &File, new: &File) -> bool {
    rustix::fs::ioctl_ficlone(new, old).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn shares_bytes(_: &File, _: &File) -> bool {
    false
}

/// Why bytes could not be copied from one file to another.
enum CopyFault {
    /// The file to read ends before the range does.
    Short,
    From(io::Error),
    To(io::Error),
}

/// Appends a range of a file's bytes at the position of another: in the kernel, where that is possible
/// (`copy_file_range`). Returns false if a stop was asked for.
fn copy(mut from: &File, range: Range<u64>, mut to: &File, stop: &Stop) -> Result<bool, CopyFault> {
    from.seek(SeekFrom::Start(range.start)).map_err(CopyFault::From)?;
    let mut left = range.end - range.start;
    while left > 0 {
        if stop.asked().is_some() {
            return Ok(false);
        }
        match io::copy(&mut from.take(left.min(BYTES_PER_COPY)), &mut to) {
            Ok(0) => return Err(CopyFault::Short),
            Ok(copied) => left -= copied,
            // The kernel does not say which of both files it means.
            Err(source) => {
                return Err(if is_readable(from, range.end) { CopyFault::To } else { CopyFault::From }(source));
            }
        }
    }
    Ok(true)
}

/// True if the bytes at which a copy has stopped can be read. `end` is the end of its range.
fn is_readable(mut from: &File, end: u64) -> bool {
    let Ok(at) = from.stream_position() else { return false };
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(1 << 20)];
    from.read_exact_at(&mut bytes, at).is_ok()
}
