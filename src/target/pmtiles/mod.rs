//! PMTiles v3 archives, written and read as the specification says.
//!
//! | file | what is in it |
//! |---|---|
//! | `layout` | header and directories as bytes, both ways |
//! | `write` | the archive's bytes from front to back; `contents` and scratch files keep memory bounded |
//! | `rebuild` | a new archive made of an old one and edits |
//! | `read` | the reader of an archive behind [`ReadAt`], such as a file |
//! | `check` | the archive's entries one by one; the rules that `pmtiles verify` (go-pmtiles) checks |
//! | `contents` | deduplication: the offset of each content in the tile data, so that equal tiles are stored once |
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths are compared with a bound or with what is there before anything is cut to them; hashes and bytes are cut on purpose"
)]

mod check;
mod contents;
mod layout;
mod read;
mod rebuild;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layout::PmtilesCompression;
use rebuild::Rebuild;
use write::{Body, WriteFault};

use super::compare::{ArchiveComparison, NO_ARCHIVE, PACKED_OTHERWISE};
use super::publication::tell;
use super::scratch::ScratchError;
use super::staging::{FileKind, Staging, StagingError};
use super::{
    BeforeManifest, BeforeManifestError, ChangedTiles, Described, Finished, Metadata, Needs, ReadError, Sink,
    TileChange, TileEdit, TileReader as _, Tileset, Unwritten, Written,
};
use crate::encode::EncodeError;
use crate::error::ErrorKind;
use crate::stop::Stop;
use crate::tile::{Order, Slice, TileId};

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

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PmtilesError {
    /// The staged file, or the file that it is to replace.
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error("cannot write {}; {} is unchanged", path.display(), target.display())]
    Io { path: PathBuf, target: PathBuf, source: io::Error },
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
    /// The old archive, if this run edits it.
    rebuild: Option<Rebuild>,
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
        let (changed, comparison) = (None, None);
        let (stop, before_manifest) = (stop.clone(), Vec::new());
        Ok(Pmtiles { body, rebuild: None, staging, stop, changed, comparison, before_manifest, last: None, deleted: 0 })
    }

    /// Begins to edit the archive `old`: tiles that are not handed over are copied from it.
    pub(crate) fn edit(&mut self, mut old: PmtilesReader, tileset: &Tileset) -> Result<Described, PmtilesError> {
        let described = old.describe()?;
        self.rebuild = Some(Rebuild::of(old)?);
        self.changed = tileset.lists_edits().then(|| ChangedTiles::new(Order::Hilbert));
        self.before_manifest.clone_from(&tileset.before_manifest);
        Ok(described)
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

    fn edit_tile(&mut self, edit: &TileEdit) -> Result<Written, WriteFault> {
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
                body.put(tile, bytes)?;
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
            Unwritten::Keep => self.edit(PmtilesReader::open(target)?, tileset).map(Some),
        }
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, PmtilesError> {
        if self.stop.asked().is_some() {
            return Err(self.staging.interrupted().into());
        }
        let mut written = Written::default();
        for edit in edits {
            let id = edit.id();
            self.turn(id)?;
            if let (Some(comparison), TileEdit::Put(_, bytes) | TileEdit::Keep(_, Some(bytes))) =
                (&mut self.comparison, &edit)
            {
                comparison.write(id.coord, bytes)?;
            }
            let of_tile = self.edit_tile(&edit).map_err(|fault| failed(&self.staging, Some(id), fault))?;
            if let Some(changed) = &mut self.changed {
                if of_tile.stored > 0 {
                    changed.add(id, TileChange::Written)?;
                } else if of_tile.deleted > 0 {
                    changed.add(id, TileChange::Deleted)?;
                }
            }
            written += of_tile;
        }
        Ok(written)
    }

    /// An archive without tiles has an empty root directory, although section 4.2 of the specification demands an entry
    /// in each directory: the format has no other form for it.
    fn finish(self, metadata: &Metadata) -> Result<Finished, PmtilesError> {
        let Pmtiles { mut body, rebuild, staging, stop, deleted, changed, comparison, before_manifest, .. } = self;
        if let Some(mut rebuild) = rebuild {
            rebuild.rest(&mut body, &stop).map_err(|fault| failed(&staging, None, fault))?;
        }
        body.finish(metadata, &stop).map_err(|fault| failed(&staging, None, fault))?;
        let changed = comparison.map_or(Ok(changed), |comparison| comparison.finish().map(Some))?;
        tell(&before_manifest, changed.as_ref())?;
        Ok(Finished { place: staging.publish()?.display().to_string(), deleted, in_flight: None, changed })
    }
}

fn failed(staging: &Staging, tile: Option<TileId>, fault: WriteFault) -> PmtilesError {
    match fault {
        WriteFault::Io(source) => refused(staging, source),
        WriteFault::Scratch(error) => error.into(),
        WriteFault::Pack(error) => error.into(),
        WriteFault::Old(error) => error.into(),
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
mod rebuild_tests;
#[cfg(test)]
mod tests;
