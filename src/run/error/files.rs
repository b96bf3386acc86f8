//! Files that commands write for people, in addition to the target: lists of tiles, pages, pictures, configurations.

use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::report::{FileMoment, WORK_IS_DONE};

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
    #[error("cannot write the dirty tiles to {}: {}", path.display(), moment.advice("--dirty-out", "nothing was published, and the manifest is unchanged"))]
    NoTileList {
        /// The file.
        path: PathBuf,
        /// When.
        moment: FileMoment,
        /// The cause.
        source: std::io::Error,
    },
    /// The changed tiles cannot be written.
    #[error("cannot write the changed tiles to {}: {}", path.display(), moment.advice("--changed-out", WORK_IS_DONE))]
    NoChangedList {
        /// The file.
        path: PathBuf,
        /// When.
        moment: FileMoment,
        /// The cause.
        source: std::io::Error,
    },
    /// The page with a map cannot be written.
    #[error("cannot write the page {}: choose another --html", path.display())]
    NoPage {
        /// The file.
        path: PathBuf,
        /// When.
        moment: FileMoment,
        /// The cause.
        source: std::io::Error,
    },
    /// The style of a map cannot be written.
    #[error("cannot write the style {}: choose another --style", path.display())]
    NoStyle {
        /// The file.
        path: PathBuf,
        /// When.
        moment: FileMoment,
        /// The cause.
        source: std::io::Error,
    },
    /// The picture of a tile cannot be written.
    #[error("cannot write the picture {}: choose another --png", path.display())]
    NoPicture {
        /// The file.
        path: PathBuf,
        /// When.
        moment: FileMoment,
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

/// The kind of the failure to write a file beside the work. Exit code 2 says that nothing was begun.
pub(super) const fn kind_at(moment: FileMoment) -> ErrorKind {
    match moment {
        FileMoment::Before => ErrorKind::Usage,
        FileMoment::After => ErrorKind::Failed,
    }
}

impl WrittenFileError {
    /// What kind of failure this is. Files beside the work are checked before it begins.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            WrittenFileError::NoTileList { moment, .. }
            | WrittenFileError::NoChangedList { moment, .. }
            | WrittenFileError::NoPage { moment, .. }
            | WrittenFileError::NoStyle { moment, .. }
            | WrittenFileError::NoPicture { moment, .. } => kind_at(*moment),
            WrittenFileError::DraftExists { .. }
            | WrittenFileError::NoDraft { .. }
            | WrittenFileError::PictureOnTerminal
            | WrittenFileError::OneFile { .. } => ErrorKind::Usage,
            WrittenFileError::NoManualPages { .. } => ErrorKind::Failed,
        }
    }
}
