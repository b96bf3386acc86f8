//! Small documents that are kept with a target of any kind: the lists of changed tiles, and other data that the next
//! writer or server of the target must find again.
//!
//! | target | where they lie |
//! |---|---|
//! | directory | `.oar-tiles/notes/` in it |
//! | S3 prefix | `.oar-tiles/notes/` below it |
//! | MBTiles or PMTiles file | `.NAME.oar-tiles/` next to it |
//! | PMTiles in S3 | `.NAME.oar-tiles/` next to it |
//!
//! Notes next to an archive are found by its name, and another archive may get that name. So a note that speaks for
//! tiles names the publication ([`Publication`](crate::manifest::Publication)) that it belongs to.

use std::error::Error;
use std::fmt;

/// The longest note that is read, in bytes.
pub const MAX_KEPT_NOTE: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptNote {
    pub body: Vec<u8>,
    /// Identifies this content: the object's `ETag`, or a hash.
    pub tag: String,
}

/// The condition under which named bytes are written: notes of all targets, and objects in buckets (RFC 9110, section
/// 13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteCondition {
    Always,
    /// There is no such note.
    Absent,
    /// The note still has this [`KeptNote::tag`].
    Unchanged(String),
}

impl WriteCondition {
    /// It is as it was when it had this tag; `None`: when there was none.
    pub(crate) fn as_seen(tag: Option<&String>) -> WriteCondition {
        tag.map_or(WriteCondition::Absent, |tag| WriteCondition::Unchanged(tag.clone()))
    }
}

/// Why a note could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The condition does not hold: somebody else has written the note.
    #[error(
        "{place} was written by somebody else meanwhile: see that only one program writes it, then run the command again"
    )]
    Changed { place: String },
    #[error("{name:?} cannot be the name of a note: please report this")]
    Name { name: String },
    #[error("{place} is longer than the {} MB that are read: remove it", MAX_KEPT_NOTE >> 20)]
    TooLong { place: String },
    #[error("cannot {action} {place}: look into the cause, then run the command again")]
    Refused { action: &'static str, place: String, source: Box<dyn Error + Send + Sync> },
}

/// The notes of one target.
///
/// The contract, which `tests/it/targets/kept_notes.rs` checks for every kind of target:
/// - A name has one or two parts of letters, digits, `-`, `_` and `.`, separated by `/`; no part begins with `.`. The
///   first of two parts is the folder.
/// - A reader sees a note as it was before a write or after it, never half of it.
/// - A write is durable when it returns `Ok`. Of several writers with [`WriteCondition::Absent`], or with the same
///   [`WriteCondition::Unchanged`], one succeeds. (A server without conditional writes takes them all.)
/// - Reading needs no right to write, and creates nothing.
/// - All methods may wait for a disk or a server, so they must not be called on a thread of the async runtime.
pub trait NoteStore: Send + Sync + fmt::Debug {
    /// The note; `None` if there is none.
    /// Fails if it cannot be read, or is longer than [`MAX_KEPT_NOTE`].
    fn read(&self, name: &str) -> Result<Option<KeptNote>, NoteError>;

    /// Writes a note if the condition holds; returns its new tag.
    /// Fails with [`NoteError::Changed`] if the condition does not hold; otherwise if the note cannot be written.
    fn write(&self, name: &str, body: &[u8], condition: &WriteCondition) -> Result<String, NoteError>;

    /// The names of the notes in a folder, sorted, each with the folder; none if there is no such folder.
    fn list(&self, folder: &str) -> Result<Vec<String>, NoteError>;

    /// Removes a note, if there is one.
    fn remove(&self, name: &str) -> Result<(), NoteError>;
}

/// The folder (empty for none) and the last part of a note's name.
pub(crate) fn parts(name: &str) -> Result<(&str, &str), NoteError> {
    let (folder, leaf) = name.split_once('/').unwrap_or(("", name));
    let is_plain = |part: &str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !part.is_empty() && part.len() <= 128 && !part.starts_with('.') && part.bytes().all(is_known)
    };
    if (folder.is_empty() && !name.starts_with('/') || is_plain(folder)) && is_plain(leaf) {
        Ok((folder, leaf))
    } else {
        Err(NoteError::Name { name: name.to_owned() })
    }
}

/// The name of the folder of notes next to an archive.
pub(crate) fn folder_beside(archive: &str) -> String {
    format!(".{archive}.oar-tiles")
}
