//! Files that commands write for people, in addition to the target: lists of tiles, pages, pictures, configurations.

use std::path::PathBuf;

use crate::error::ErrorKind;

/// Why a file that a command writes in addition to the target cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WrittenFileError {
    /// `init` would overwrite a file.
    #[error("{} is there already, and init overwrites nothing: name another file with --output, or move this one away", path.display())]
    DraftExists {
        /// The file.
        path: PathBuf,
    },
    /// The configuration that `init` makes cannot be written.
    #[error("cannot write {}: name another file with --output", path.display())]
    NoDraft {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Several tilesets would write one file.
    #[error("{flag} {}: each tileset writes its own file; write {{tileset}} into its name, such as run-{{tileset}}.json", path.display())]
    OneFile {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The dirty tiles cannot be written.
    #[error("cannot write the dirty tiles to {}: choose another --dirty-out; the target is unchanged", path.display())]
    NoTileList {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The changed tiles cannot be written.
    #[error("cannot write the changed tiles to {}: choose another --changed-out", path.display())]
    NoChangedList {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The page with a map cannot be written.
    #[error("cannot write the page {}: choose another --html", path.display())]
    NoPage {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The style of a map cannot be written.
    #[error("cannot write the style {}: choose another --style", path.display())]
    NoStyle {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The picture of a tile cannot be written.
    #[error("cannot write the picture {}: choose another --png", path.display())]
    NoPicture {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A picture would be written onto a terminal.
    #[error(
        "a picture is no text for a terminal: name a file with --png, or pipe it into a program that shows pictures there, such as kitten icat or img2sixel"
    )]
    PictureOnTerminal,
    /// The manual pages cannot be written.
    #[error("cannot write manual pages into {}: name another folder with --output", path.display())]
    NoManualPages {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl WrittenFileError {
    /// What kind of failure this is. All files but the manual pages are checked before the work begins.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            WrittenFileError::DraftExists { .. }
            | WrittenFileError::NoDraft { .. }
            | WrittenFileError::NoTileList { .. }
            | WrittenFileError::NoChangedList { .. }
            | WrittenFileError::NoPage { .. }
            | WrittenFileError::NoStyle { .. }
            | WrittenFileError::NoPicture { .. }
            | WrittenFileError::PictureOnTerminal
            | WrittenFileError::OneFile { .. } => ErrorKind::Usage,
            WrittenFileError::NoManualPages { .. } => ErrorKind::Failed,
        }
    }
}
