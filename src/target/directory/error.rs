//! Errors of directory targets.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::ErrorKind;
use crate::target::disk_list::ScratchError;
use crate::target::staging::NoFolder;
use crate::target::{BeforeManifestError, TARGET_FORMS};

/// Why a directory could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("the output {} is a file: name {TARGET_FORMS}", path.display())]
    IsFile { path: PathBuf },
    /// The folder that the target would be created in does not exist.
    #[error(transparent)]
    NoFolder(#[from] NoFolder),
    #[error("{} is a file where a folder of tiles must be: remove it, or choose another --output or template", path.display())]
    FileInTheWay { path: PathBuf },
    #[error("{} is a symbolic link where a folder of the target must be, and links below a target are not followed: remove it, or choose another --output", path.display())]
    LinkInTheWay { path: PathBuf },
    #[error("another run is writing {} ({holder}): wait until it is done, or choose another --output", path.display())]
    Busy { path: PathBuf, holder: String },
    #[error(
        "{} holds another tileset (its fingerprint is {found}, this configuration's is {wanted}): choose another --output, or write over it with --force",
        path.display()
    )]
    OtherTileset { path: PathBuf, found: String, wanted: String },
    #[error(
        "the tiles in {} are named {found}, this configuration names them {wanted}, and the old ones would stay: choose another --output, or write beside them with --force and remove them yourself",
        path.display()
    )]
    OtherTemplate { path: PathBuf, found: String, wanted: String },
    #[error(
        "{} holds files that look like tiles, such as {example}, and no metadata.json of oar-tiles: choose another --output, or let them be replaced and deleted with --force",
        path.display()
    )]
    NotOurs { path: PathBuf, example: String },
    #[error(
        "{} holds other files, such as {example}, and no notes of oar-tiles: choose another --output (a new folder, or an empty one), or write tiles beside them with --force",
        path.display()
    )]
    ForeignFolder { path: PathBuf, example: String },
    #[error("{} has no latest.json: it was not published with publish = \"versioned\", so there is nothing to switch back to", path.display())]
    NoVersions { path: PathBuf },
    #[error(
        "{} is published with publish = \"versioned\", and a version is written as a whole: seed it, or publish in place",
        path.display()
    )]
    Whole { path: PathBuf },
    #[error("{} holds no tileset of oar-tiles that could be brought up to date: seed it first", path.display())]
    NoTileset { path: PathBuf },
    #[error("no room to write {}: make room on its disk and run the command again; the tiles written so far are kept, the manifest is unchanged", path.display())]
    DiskFull { path: PathBuf, source: io::Error },
    #[error("cannot {action} {}: {next}", path.display())]
    Io { action: &'static str, path: PathBuf, next: &'static str, source: io::Error },
    #[error("{} is damaged: remove it, and run with --force", path.display())]
    Note { path: PathBuf, source: serde_json::Error },
    /// The scratch file with the list of tiles.
    #[error(transparent)]
    ScratchList(#[from] ScratchError),
    /// What has to be written before the manifest.
    #[error(transparent)]
    BeforeManifest(#[from] BeforeManifestError),
    #[error("interrupted while writing {}", path.display())]
    Interrupted { path: PathBuf },
}

impl DirectoryError {
    pub const fn kind(&self) -> ErrorKind {
        match self {
            DirectoryError::IsFile { .. }
            | DirectoryError::NoFolder(_)
            | DirectoryError::OtherTileset { .. }
            | DirectoryError::OtherTemplate { .. }
            | DirectoryError::NotOurs { .. }
            | DirectoryError::ForeignFolder { .. }
            | DirectoryError::NoVersions { .. } => ErrorKind::Usage,
            DirectoryError::Whole { .. } | DirectoryError::NoTileset { .. } => ErrorKind::NeedsSeed,
            DirectoryError::Interrupted { .. } => ErrorKind::Interrupted,
            DirectoryError::FileInTheWay { .. }
            | DirectoryError::LinkInTheWay { .. }
            | DirectoryError::Busy { .. }
            | DirectoryError::DiskFull { .. }
            | DirectoryError::Io { .. }
            | DirectoryError::Note { .. }
            | DirectoryError::BeforeManifest(_)
            | DirectoryError::ScratchList(_) => ErrorKind::Failed,
        }
    }

    /// The error of a file operation.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> DirectoryError {
        let path = path.to_owned();
        match source.kind() {
            // A file-size limit shows as a file that is too large.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                DirectoryError::DiskFull { path, source }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => DirectoryError::Io {
                action,
                path,
                next: "give yourself the right to write there, or choose another --output",
                source,
            },
            _ => DirectoryError::Io { action, path, next: "look into the cause, and run the command again", source },
        }
    }
}
