//! PMTiles v3 archives, written and read as the specification says.
//!
//! | file | what is in it |
//! |---|---|
//! | `layout` | header and directories as bytes, both ways |
//! | `write` | the archive's bytes from front to back; `contents` and scratch files keep memory bounded |
//! | `directories` | the entries of a new archive, and its directories |
//! | `edit` | an edit that leaves the old tile data where it lies and appends what is new |
//! | `rebuild` | a new archive made of an old one and edits, if there are many |
//! | `read` | the reader of an archive behind [`ReadAt`], such as a file |
//! | `check` | the archive's entries one by one; the rules that `pmtiles verify` (go-pmtiles) checks |
//! | `contents` | deduplication: the offset of each content in the tile data, so that equal tiles are stored once |
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths are compared with a bound or with what is there before anything is cut to them; hashes and bytes are cut on purpose"
)]

mod check;
mod contents;
mod directories;
mod edit;
mod layout;
mod read;
mod rebuild;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use directories::WriteFault;
use edit::{Edit, Held};
use layout::PmtilesCompression;
use rebuild::Rebuild;
use write::Body;

use super::compare::{ArchiveComparison, NO_ARCHIVE, PACKED_OTHERWISE};
use super::disk_list::ScratchError;
use super::publication::tell;
use super::read::MAX_DEAD_PERCENT;
use super::staging::{FileKind, Staging, StagingError};
use super::{
    BeforeManifest, BeforeManifestError, ChangedTiles, Described, Finished, Metadata, Needs, ReadError, RunKind, Sink,
    TileChange, TileEdit, TileReader as _, Tileset, Unwritten, Written,
};
use crate::encode::EncodeError;
use crate::error::ErrorKind;
use crate::stop::Stop;
use crate::tile::{Order, Slice, TileId};

pub(crate) use edit::EditedArchive;
pub use edit::WrittenAnew;
pub(crate) use layout::ReadAt;
pub use read::PmtilesReader;

/// The name of such an archive in messages.
const ARCHIVE_KIND: &str = "PMTiles archive of vector tiles";

/// The kind of file that a new archive may replace.
const KIND: FileKind = FileKind {
    name: "PMTiles file",
    one: "a PMTiles file",
    magic: layout::MAGIC,
    otherwise: "it does not begin with \"PMTiles\"",
};

/// The fewest bytes of tile data that are left where they lie. Less is written anew in some milliseconds, and stays in
/// the order of the ids.
const MIN_EDITED_BYTES: u64 = 1 << 20;

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PmtilesError {
    /// The staged file, or the file that it is to replace.
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error("cannot write {}; {} is unchanged", path.display(), target.display())]
    Io { path: PathBuf, target: PathBuf, source: io::Error },
    #[error(
        "cannot keep the changed tiles in the temporary folder: make room there, or set TMPDIR to another one; {} is unchanged",
        target.display()
    )]
    Kept { target: PathBuf, source: io::Error },
    #[error("there is no archive {place} whose tiles could be brought up to date: seed it first")]
    Missing { place: String },
    /// The archive to edit could not be read.
    #[error(transparent)]
    Old(#[from] ReadError),
    #[error("the tiles of {place} are not packed as gzip, and all tiles of an archive are packed alike: seed it anew")]
    Unpacked { place: String },
    #[error(transparent)]
    ScratchList(#[from] ScratchError),
    /// What has to be written before the archive changes.
    #[error(transparent)]
    BeforeManifest(#[from] BeforeManifestError),
    /// A directory or the metadata could not be packed.
    #[error(transparent)]
    Pack(#[from] EncodeError),
    #[error("tile {tile} {what}, which a PMTiles archive cannot hold: please report this; {} is unchanged", target.display())]
    Contract { tile: TileId, what: &'static str, target: PathBuf },
}

impl PmtilesError {
    pub const fn kind(&self) -> ErrorKind {
        match self {
            PmtilesError::Staging(error) => error.kind(),
            PmtilesError::Old(error) => error.kind(),
            PmtilesError::Missing { .. } | PmtilesError::Unpacked { .. } => ErrorKind::NeedsSeed,
            PmtilesError::Io { .. }
            | PmtilesError::Kept { .. }
            | PmtilesError::ScratchList(_)
            | PmtilesError::BeforeManifest(_)
            | PmtilesError::Pack(_)
            | PmtilesError::Contract { .. } => ErrorKind::Failed,
        }
    }
}

/// The sink of a PMTiles file.
#[derive(Debug)]
pub struct Pmtiles {
    // Fields are dropped in this order: the open file is closed before the staged one is removed.
    body: Body,
    /// The old archive, if what this run does not hand over is copied from it.
    rebuild: Option<Rebuild>,
    /// Why an edit writes the archive anew, if it does.
    anew: Option<WrittenAnew>,
    /// The old archive, as long as it may be left where it lies. Nothing was written to `body` then.
    edit: Option<Box<Edit>>,
    staging: Staging,
    stop: Stop,
    /// The list of changed tiles of an edit, if the run wants one.
    changed: Option<ChangedTiles>,
    /// The comparison with the archive that is replaced, if the run wants a list of changed tiles.
    comparison: Option<ArchiveComparison>,
    /// Receive the list of changes before the archive is replaced.
    before_manifest: Vec<Arc<dyn BeforeManifest>>,
    /// The id of the last tile that was handed over.
    last: Option<u64>,
    deleted: u64,
}

impl Pmtiles {
    /// Begins an archive next to `target`. An existing target must be a PMTiles file; it stays as it is until
    /// [`Sink::finish`]. `stop` ends long steps early.
    /// Fails if the target is something else, its folder is missing or not writable, or another run writes it.
    pub fn create(target: &Path, stop: &Stop) -> Result<Pmtiles, PmtilesError> {
        let staging = Staging::beside(target)?;
        // Refuses a target that is not a PMTiles file.
        staging.replaces(&KIND)?;
        let body = staging.file().and_then(Body::begin).map_err(|source| refused(&staging, source))?;
        Ok(Pmtiles {
            body,
            rebuild: None,
            anew: None,
            edit: None,
            staging,
            stop: stop.clone(),
            changed: None,
            comparison: None,
            before_manifest: Vec::new(),
            last: None,
            deleted: 0,
        })
    }

    /// Begins to edit the archive `old`, whose description is `described`: its tile data stays where it lies, if that
    /// pays in the end.
    pub(crate) fn edit(
        &mut self,
        old: PmtilesReader,
        described: &Described,
        tileset: &Tileset,
    ) -> Result<(), PmtilesError> {
        let max_dead_percent = match tileset.run {
            RunKind::Reseed { max_dead_percent, .. } => max_dead_percent,
            RunKind::Seed { .. } | RunKind::Copy => Some(MAX_DEAD_PERCENT),
        };
        let edit = Edit::of(old, described, max_dead_percent);
        self.edit = Some(Box::new(edit.map_err(|fault| failed(&self.staging, None, fault))?));
        self.list_edits(tileset);
        Ok(())
    }

    /// Begins a new archive, for which tiles that are not handed over are copied from `old`.
    pub(crate) fn rebuild(
        &mut self,
        old: PmtilesReader,
        tileset: &Tileset,
        why: WrittenAnew,
    ) -> Result<(), PmtilesError> {
        (self.rebuild, self.anew) = (Some(Rebuild::of(old)?), Some(why));
        self.list_edits(tileset);
        Ok(())
    }

    fn list_edits(&mut self, tileset: &Tileset) {
        self.changed = tileset.lists_edits().then(|| ChangedTiles::new(Order::Hilbert));
        self.before_manifest.clone_from(&tileset.before_manifest);
    }

    /// True if it is an edit that leaves the old tile data where it lies, so far.
    pub(crate) const fn is_edit(&self) -> bool {
        self.edit.is_some()
    }

    /// Why [`Pmtiles::rebuild_from`] is due; `None` if it is not, so far.
    pub(crate) fn why_large_edit(&self) -> Option<WrittenAnew> {
        self.edit.as_ref().and_then(|edit| edit.why_large())
    }

    /// Turns an edit into a new archive, for which what stays is copied from `old`; `None`: from the archive that it
    /// has read so far. `why` is left out if [`Pmtiles::lay_out`] knows it.
    pub(crate) fn rebuild_from(
        &mut self,
        old: Option<PmtilesReader>,
        why: Option<WrittenAnew>,
    ) -> Result<(), PmtilesError> {
        let Some(edit) = self.edit.take() else { return Ok(()) };
        self.anew = why.or(self.anew);
        let (read, changes) = edit.into_parts();
        let mut rebuild = Rebuild::of(old.unwrap_or(read))?;
        let handed = changes.hand_over(&mut rebuild, &mut self.body, &self.stop);
        handed.map_err(|fault| failed(&self.staging, None, fault))?;
        self.rebuild = Some(rebuild);
        Ok(())
    }

    /// Lays out the archive that an edit gives; `None` if there is no edit, or a new archive is to be made.
    pub(crate) fn lay_out(&mut self, metadata: &Metadata) -> Result<Option<EditedArchive>, PmtilesError> {
        let Some(edit) = &mut self.edit else { return Ok(None) };
        match edit.lay_out(metadata, &self.stop).map_err(|fault| failed(&self.staging, None, fault))? {
            Ok(edited) => Ok(Some(edited)),
            Err(why) => {
                tracing::info!("{}: writing it anew: {why}", edit.place());
                self.anew = Some(why);
                Ok(None)
            }
        }
    }

    /// Reports the changes to the listeners ([`BeforeManifest`]) before the archive changes; only the first call does.
    pub(crate) fn tell(&mut self) -> Result<(), PmtilesError> {
        Ok(tell(&std::mem::take(&mut self.before_manifest), self.changed.as_ref())?)
    }

    /// What the run did, for an archive that was published at `place` without [`Sink::finish`].
    pub(crate) fn published(self, place: String) -> Finished {
        Finished { place, deleted: self.deleted, changed: self.changed, ..Finished::default() }
    }

    /// Writes an edited archive into the staged file.
    fn write_edited(self, edited: &EditedArchive) -> Result<Staging, PmtilesError> {
        let Pmtiles { body, edit, staging, stop, .. } = self;
        let (new, old) = (body.give_up(), edit.and_then(|edit| edit.old_file()));
        let target = staging.target();
        let old = old.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        let old = old.map_err(|source| ReadError::Io { path: target.to_owned(), source })?;
        match edited.write(&old, &target.display().to_string(), &new, &stop) {
            Ok(true) => {
                staging.check_target()?;
                Ok(staging)
            }
            Ok(false) => Err(staging.interrupted().into()),
            Err(fault) => Err(failed(&staging, None, fault)),
        }
    }

    /// Compares the new archive with `old`, which it replaces.
    pub(crate) fn compare_with(&mut self, old: Result<PmtilesReader, ReadError>) {
        self.comparison = Some(match old {
            Ok(old) if old.header.packing != PmtilesCompression::Gzip => {
                ArchiveComparison::without(Order::Hilbert, PACKED_OTHERWISE)
            }
            old => ArchiveComparison::with(Order::Hilbert, move |handover| old?.hand_over(handover)),
        });
    }

    fn edit_tile(&mut self, edit: &TileEdit, held: Option<Held>) -> Result<Written, WriteFault> {
        if let (Some(in_place), Some(held)) = (&mut self.edit, held) {
            let written = in_place.take(edit, held)?;
            self.deleted += written.deleted;
            return Ok(written);
        }
        let (body, stop) = (&mut self.body, &self.stop);
        let tile = edit.id().coord;
        let held = match &mut self.rebuild {
            Some(rebuild) => rebuild.meet(tile.pmtiles_id(), body, stop)?,
            None => None,
        };
        let mut written = Written::default();
        match (edit, &mut self.rebuild) {
            (TileEdit::Keep(..), Some(rebuild)) if held.is_some() => {
                if let Some(held) = held {
                    rebuild.keep(held, body, stop)?;
                    written.unchanged = 1;
                }
            }
            (TileEdit::Keep(_, None), _) => written.missing = 1,
            (TileEdit::Put(_, bytes) | TileEdit::Keep(_, Some(bytes)), rebuild) => {
                if let (Some(rebuild), Some(held)) = (&mut *rebuild, held)
                    && rebuild.holds(&held, bytes)?
                {
                    rebuild.keep(held, body, stop)?;
                    written.unchanged = 1;
                    return Ok(written);
                }
                rebuild.as_mut().map_or(Ok(()), |rebuild| rebuild.settle(body, stop))?;
                body.put(tile.pmtiles_id(), bytes)?;
                written.stored = 1;
                written.added = held.is_none().into();
            }
            (TileEdit::Remove(_), _) => {
                written.removed = 1;
                written.deleted = held.is_some().into();
                self.deleted += written.deleted;
            }
        }
        Ok(written)
    }

    /// Refuses a tile that comes out of order: otherwise the archive would be wrong without any error.
    fn turn(&mut self, tile: TileId) -> Result<(), PmtilesError> {
        let place = tile.coord.pmtiles_id();
        let what = match self.last {
            _ if tile.slice != Slice::Whole => "came without its other layers",
            Some(last) if last == place => "came twice",
            Some(last) if last > place => "came too late",
            _ => {
                self.last = Some(place);
                return Ok(());
            }
        };
        Err(PmtilesError::Contract { tile, what, target: self.staging.target().to_owned() })
    }
}

impl Sink for Pmtiles {
    type Error = PmtilesError;

    fn needs(&self) -> Needs {
        Needs { order: Order::Hilbert, layers_apart: false }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, PmtilesError> {
        self.before_manifest.clone_from(&tileset.before_manifest);
        if tileset.unwritten == Unwritten::Keep {
            self.staging.note_target();
        }
        let target = self.staging.target();
        match tileset.unwritten {
            Unwritten::Delete if !tileset.list_changes => Ok(None),
            Unwritten::Delete if self.staging.replaces(&KIND)? => {
                let old = PmtilesReader::open(target);
                self.compare_with(old);
                Ok(None)
            }
            Unwritten::Delete => {
                self.comparison = Some(ArchiveComparison::without(Order::Hilbert, NO_ARCHIVE));
                Ok(None)
            }
            Unwritten::Keep if !self.staging.replaces(&KIND)? => {
                Err(PmtilesError::Missing { place: target.display().to_string() })
            }
            Unwritten::Keep => {
                let mut old = PmtilesReader::open(target)?;
                let described = old.describe()?;
                if old.header.tiles.length < MIN_EDITED_BYTES {
                    self.rebuild(old, tileset, WrittenAnew::Small)?;
                } else if old.can_be_edited(&described) {
                    self.edit(old, &described, tileset)?;
                } else {
                    self.rebuild(old, tileset, WrittenAnew::OtherLayout)?;
                }
                Ok(Some(described))
            }
        }
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, PmtilesError> {
        if self.stop.asked().is_some() {
            return Err(self.staging.interrupted().into());
        }
        let mut written = Written::default();
        let held = match &mut self.edit {
            Some(edit) => Some(edit.held(&edits).map_err(|fault| failed(&self.staging, None, fault))?),
            None => None,
        };
        for (place, edit) in edits.into_iter().enumerate() {
            let id = edit.id();
            self.turn(id)?;
            if let (Some(comparison), TileEdit::Put(_, bytes) | TileEdit::Keep(_, Some(bytes))) =
                (&mut self.comparison, &edit)
            {
                comparison.write(id.coord, bytes)?;
            }
            let held = held.as_ref().and_then(|held| held.get(place).copied());
            let of_tile = self.edit_tile(&edit, held).map_err(|fault| failed(&self.staging, Some(id), fault))?;
            if let Some(changed) = &mut self.changed {
                if of_tile.stored > 0 {
                    changed.add(id, TileChange::Written)?;
                } else if of_tile.deleted > 0 {
                    changed.add(id, TileChange::Deleted)?;
                }
            }
            written += of_tile;
        }
        // The old archive lies here.
        if let Some(why) = self.why_large_edit()
            && self.edit.as_ref().is_some_and(|edit| edit.old_file().is_some())
        {
            self.rebuild_from(None, Some(why))?;
        }
        Ok(written)
    }

    /// An archive without tiles has an empty root directory, although section 4.2 of the specification demands an entry
    /// in each directory: the format has no other form for it.
    fn finish(mut self, metadata: &Metadata) -> Result<Finished, PmtilesError> {
        if let Some(edited) = self.lay_out(metadata)? {
            let (deleted, changed, before_manifest) =
                (self.deleted, self.changed.take(), std::mem::take(&mut self.before_manifest));
            let staging = self.write_edited(&edited)?;
            tell(&before_manifest, changed.as_ref())?;
            let place = staging.publish()?.display().to_string();
            return Ok(Finished { place, deleted, changed, ..Finished::default() });
        }
        self.rebuild_from(None, None)?;
        let Pmtiles { mut body, rebuild, anew, staging, stop, deleted, changed, comparison, before_manifest, .. } =
            self;
        if let Some(mut rebuild) = rebuild {
            rebuild.rest(&mut body, &stop).map_err(|fault| failed(&staging, None, fault))?;
        }
        body.finish(metadata, &stop).map_err(|fault| failed(&staging, None, fault))?;
        staging.check_target()?;
        let changed = comparison.map_or(Ok(changed), |comparison| comparison.finish().map(Some))?;
        tell(&before_manifest, changed.as_ref())?;
        let place = staging.publish()?.display().to_string();
        Ok(Finished { place, deleted, changed, anew, ..Finished::default() })
    }
}

fn failed(staging: &Staging, tile: Option<TileId>, fault: WriteFault) -> PmtilesError {
    match fault {
        WriteFault::Io(source) => refused(staging, source),
        WriteFault::Kept(source) => PmtilesError::Kept { target: staging.target().to_owned(), source },
        WriteFault::Scratch(error) => error.into(),
        WriteFault::Pack(error) => error.into(),
        // What is read then is of no archive.
        WriteFault::Old(error) => staging.check_target().map_or_else(PmtilesError::from, |()| error.into()),
        WriteFault::Stopped => staging.interrupted().into(),
        WriteFault::Size(bytes) => {
            let what = if bytes == 0 { "has no bytes" } else { "has 4 GiB or more" };
            match tile {
                Some(tile) => PmtilesError::Contract { tile, what, target: staging.target().to_owned() },
                None => refused(staging, io::Error::from(io::ErrorKind::FileTooLarge)),
            }
        }
    }
}

fn refused(staging: &Staging, source: io::Error) -> PmtilesError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            staging.disk_full(source).into()
        }
        _ => PmtilesError::Io { path: staging.path().to_owned(), target: staging.target().to_owned(), source },
    }
}

#[cfg(test)]
mod edit_tests;
#[cfg(test)]
mod rebuild_tests;
#[cfg(test)]
mod tests;
