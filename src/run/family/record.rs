//! The manifest of a family: its variants, and the database state that all of them show. It is written last, as notes
//! in the folder that all outputs share (`.NAME.variants.pmtiles.oar-tiles/`). The list of variants has notes of its
//! own, which the manifest names, because a note has a limited length.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FamilySettingsMark;
use crate::cdn::OutboxError;
use crate::change_log::{Cursor, CursorError};
use crate::config::ValueSegment;
use crate::manifest::{DatabaseMark, Publication, Witness};
use crate::postgis::VariantParameter;
use crate::run::target::needs_seed;
use crate::run::{CommandError, KnownState, SeveralError, Target};
use crate::target::{GENERATOR, NoteError, OpenMode, Storage, WriteCondition, is_own_name};

/// The newest version of the manifest's layout.
const FAMILY_VERSION: u32 = 1;

const MANIFEST: &str = "family.json";

/// The folder of the notes with lists of variants.
const LISTS: &str = "variants";

/// The most variants in one list. Each takes at most 400 bytes.
const MAX_LISTED: usize = 2_000;

/// What a family says about itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FamilyRecord {
    /// `pg_current_snapshot()`: the state of the database that all variants show.
    pub snapshot: String,
    /// The identity of the database, as in a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseMark>,
    /// The witnesses of that state, and of the states of variants that were seeded in parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) witnesses: Vec<Witness>,
    /// The output of the variants, with `{name}` for the values; empty if an earlier version wrote it.
    #[serde(default)]
    pub output: String,
    /// Hashes of values and conditions in the configuration; `None` if an earlier version wrote the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<FamilySettingsMark>,
    pub parameters: Vec<VariantParameter>,
    /// They have notes of their own.
    #[serde(skip)]
    pub variants: Vec<RecordedVariant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedVariant {
    pub(crate) segments: Vec<ValueSegment>,
    /// The values of the parameters, as text.
    pub values: Vec<String>,
    /// The id of the publication of its target that shows the state of the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<String>,
    /// True if its values no longer belong to the family, and its target still exists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) vanished: bool,
}

/// A manifest that was read, and what identifies it.
#[derive(Debug, Clone)]
pub(crate) struct StoredFamily {
    pub(crate) record: FamilyRecord,
    /// The database state that all variants show; `None` if the manifest cannot be read and will be replaced.
    pub(crate) cursor: Option<Cursor>,
    /// The tag of the note; `None` if there is no note.
    pub(crate) tag: Option<String>,
    /// True if the stored note contains this record.
    pub(crate) is_written: bool,
}

impl StoredFamily {
    /// What the target of a variant shows according to the manifest; `None` if it does not say.
    pub(crate) fn known(&self, variant: &RecordedVariant) -> Option<KnownState> {
        let (cursor, publication) = self.cursor.clone().zip(variant.publication.clone())?;
        Some(KnownState { cursor, witnesses: self.record.witnesses.clone(), publication })
    }
}

/// A record to be written, and the manifest that it replaces.
#[derive(Debug, Clone)]
pub(crate) struct WrittenFamily {
    pub(crate) record: FamilyRecord,
    pub(crate) before: Option<StoredFamily>,
}

/// The form of the manifest in its note.
#[derive(Debug, Serialize, Deserialize)]
struct FamilyManifest {
    version: u32,
    generator: String,
    #[serde(flatten)]
    record: FamilyRecord,
    /// The notes with the variants.
    lists: Vec<String>,
}

impl From<NoteError> for CommandError {
    fn from(error: NoteError) -> CommandError {
        CommandError::Outbox(OutboxError::from(error))
    }
}

/// The result of reading the manifest.
pub(crate) enum ReadRecord {
    /// The manifest does not exist.
    Missing,
    /// It is the manifest that is already known.
    Same,
    /// It is another manifest.
    Other(Box<StoredFamily>),
}

/// Reads the manifest next to `place`, a target that does not exist. May wait for a server.
pub(crate) fn read(place: &Target) -> Result<Option<StoredFamily>, CommandError> {
    match read_unless(place, None)? {
        ReadRecord::Other(stored) => Ok(Some(*stored)),
        ReadRecord::Missing | ReadRecord::Same => Ok(None),
    }
}

/// Reads the manifest for a seed, which makes every variant again. A manifest that cannot be read is returned without
/// variants and with the error. May wait for a server.
pub(crate) fn read_to_replace(place: &Target) -> Result<Option<(StoredFamily, Option<CommandError>)>, CommandError> {
    match read(place) {
        Err(error @ CommandError::NeedsSeed { .. }) => {
            let Some(note) = place.notes()?.read(MANIFEST)? else { return Ok(None) };
            Ok(Some((
                StoredFamily { record: FamilyRecord::default(), cursor: None, tag: Some(note.tag), is_written: false },
                Some(error),
            )))
        }
        stored => Ok(stored?.map(|stored| (stored, None))),
    }
}

/// Reads the manifest unless its tag is `known`. May wait for a server.
pub(crate) fn read_unless(place: &Target, known: Option<&str>) -> Result<ReadRecord, CommandError> {
    let notes = place.notes()?;
    let Some(note) = notes.read(MANIFEST)? else { return Ok(ReadRecord::Missing) };
    if known == Some(&*note.tag) {
        return Ok(ReadRecord::Same);
    }
    let unreadable = |what: String| needs_seed(place, format!("the manifest of its variants cannot be read ({what})"));
    let manifest: FamilyManifest = serde_json::from_slice(&note.body).map_err(|error| unreadable(error.to_string()))?;
    if manifest.version > FAMILY_VERSION {
        return Err(unreadable(format!("it is of version {}, and a newer oar-tiles wrote it", manifest.version)));
    }
    let mut variants = Vec::new();
    for list in &manifest.lists {
        let Some(note) = notes.read(list)? else {
            // Another run that has replaced the manifest meanwhile has removed the old lists.
            if notes.read(MANIFEST)?.is_some_and(|now| now.tag != note.tag) {
                return read_unless(place, known);
            }
            return Err(unreadable(format!("{list} is missing")));
        };
        let mut listed: Vec<RecordedVariant> =
            serde_json::from_slice(&note.body).map_err(|error| unreadable(error.to_string()))?;
        variants.append(&mut listed);
    }
    let record = FamilyRecord { variants, ..manifest.record };
    let parsed = |text: &String| text.parse().map_err(|error: CursorError| unreadable(error.to_string()));
    let cursor: Cursor = parsed(&record.snapshot)?;
    for witness in &record.witnesses {
        parsed(&witness.snapshot)?;
    }
    Ok(ReadRecord::Other(Box::new(StoredFamily {
        record,
        cursor: Some(cursor),
        tag: Some(note.tag),
        is_written: true,
    })))
}

/// Writes the manifest, and removes the lists that the manifest does not name. May wait for a server.
pub(crate) fn write(place: &Target, written: &WrittenFamily) -> Result<(), CommandError> {
    if let Storage::File(path) = place.url.storage()
        && let Some(folder) = path.parent()
    {
        let failed = |source| SeveralError::NoVariantFolder { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let (notes, record) = (place.notes()?, &written.record);
    // A list that another run writes from now on may be one of the manifest after this one.
    let older = notes.list(LISTS)?;
    let mut lists = Vec::new();
    let old = written.before.as_ref().filter(|before| before.is_written).map(|before| &before.record.variants);
    let is_as_before = old == Some(&record.variants);
    if is_as_before && let Some(note) = notes.read(MANIFEST)? {
        // Most reseeds only move the cursor, so the lists stay.
        lists = serde_json::from_slice::<FamilyManifest>(&note.body).map_or_else(|_| Vec::new(), |old| old.lists);
    }
    if lists.is_empty() {
        let id = Publication::after(None).id;
        for (number, chunk) in record.variants.chunks(MAX_LISTED).enumerate() {
            let name = format!("{LISTS}/{id}-{number}.json");
            let body = serde_json::to_vec(chunk).map_err(std::io::Error::from)?;
            notes.write(&name, &body, &WriteCondition::Always)?;
            lists.push(name);
        }
    }
    let manifest = FamilyManifest {
        version: FAMILY_VERSION,
        generator: GENERATOR.to_owned(),
        record: FamilyRecord { variants: Vec::new(), ..record.clone() },
        lists,
    };
    let body = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::from)?;
    let condition = match written.before.as_ref().and_then(|before| before.tag.clone()) {
        Some(tag) => WriteCondition::Unchanged(tag),
        None => WriteCondition::Absent,
    };
    notes.write(MANIFEST, &body, &condition)?;
    for left in older.into_iter().filter(|name| !manifest.lists.contains(name)) {
        notes.remove(&left)?;
    }
    Ok(())
}

// Deletes the target of a variant whose value has vanished.

/// Deletes a target that this program wrote, and what is kept next to it. Works under the target's lock. False if there
/// is no such target. May wait for a server.
pub(crate) fn remove_target(target: &Target) -> Result<bool, CommandError> {
    let Some(mut reader) = target.reader_of_what_is_there()? else { return Ok(false) };
    if reader.describe()?.manifest.is_none() {
        return Ok(false);
    }
    // From now on, another run that writes the target is refused.
    let mut sink = target.sink(OpenMode::Replace)?;
    sink.claim()?;
    drop(sink);
    // Listed under the lock, so that files that others put next to the tiles are not deleted.
    let tiles = if matches!(target.url.storage(), Storage::Folder(_)) { reader.list()?.len() } else { 0 };
    drop(reader);
    let failed =
        |path: &Path, source: io::Error| CommandError::from(SeveralError::NotRemoved { path: path.to_owned(), source });
    match target.url.storage() {
        Storage::File(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let notes = path.with_file_name(format!(".{name}.oar-tiles"));
            let companions = ["-wal", "-shm", "-journal"].map(|ending| path.with_file_name(format!("{name}{ending}")));
            for file in std::iter::once(path).chain(companions.iter().map(PathBuf::as_path)) {
                if_there(std::fs::remove_file(file)).map_err(|error| failed(file, error))?;
            }
            if_there(std::fs::remove_dir_all(&notes)).map_err(|error| failed(&notes, error))?;
        }
        Storage::Folder(path) => {
            let others = files_below(path, true).map_err(|error| failed(path, error))?.saturating_sub(tiles);
            if others > 0 {
                let what = format!("files in it that are none of its tiles: {others}");
                return Err(failed(path, io::Error::other(what)));
            }
            if_there(std::fs::remove_dir_all(path)).map_err(|error| failed(path, error))?;
        }
        Storage::Prefix | Storage::Object => target.remove_objects()?,
    }
    Ok(true)
}

/// The number of files in `folder` and below. If `is_target`, the files that the program keeps next to tiles are not
/// counted. A link counts as a file.
fn files_below(folder: &Path, is_target: bool) -> io::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if is_target && is_own_name(&entry.file_name().to_string_lossy()) {
            continue;
        }
        files += if entry.file_type()?.is_dir() { files_below(&entry.path(), false)? } else { 1 };
    }
    Ok(files)
}

fn if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
