//! The large files of a work folder, which the shards of a seed leave for its commit. The small documents next to them
//! are notes ([`NoteStore`](super::NoteStore)).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::{BucketError, BucketObject, BucketWorkFiles, ReadError, WorkLease};
use crate::error::ErrorKind;

/// Why a file of a work folder could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum WorkFileError {
    #[error("cannot {action} {}: look into the cause, then run the command again", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Object(#[from] ReadError),
}

impl WorkFileError {
    /// True if the file is not there.
    pub fn is_missing(&self) -> bool {
        match self {
            WorkFileError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            WorkFileError::Object(error) => matches!(error, ReadError::Missing { .. }),
            WorkFileError::Bucket(_) => false,
        }
    }

    pub const fn kind(&self) -> ErrorKind {
        match self {
            WorkFileError::Io { .. } => ErrorKind::Failed,
            WorkFileError::Bucket(error) => error.kind(),
            WorkFileError::Object(error) => error.kind(),
        }
    }
}

/// The folder with the notes of a work folder. They are stored like the notes of a target.
const NOTES_FOLDER: &str = ".oar-tiles";

/// The location of the files. A name has the form `folder/file`; each file is written once, under a name of its own.
#[derive(Debug, Clone)]
pub enum WorkFiles {
    Folder(PathBuf),
    /// Below a prefix of a bucket.
    Bucket(Box<BucketWorkFiles>),
}

#[derive(Debug)]
pub enum WorkFile {
    File { file: File, path: PathBuf, length: u64 },
    Object(BucketObject),
}

/// The beginning and the end of the name of a file that has no final name yet.
const UNFINISHED: (&str, &str) = (".oar-tiles.", ".part");

/// True for an id, as runs have it and the files in their folders: 16 hexadecimal digits.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The shard of which a file in the folder of a run is the sorted run, `shard-0017-ID.run`; `None` for another file.
pub(crate) fn shard_of_file(name: &str) -> Option<u32> {
    let (shard, id) = name.strip_prefix("shard-")?.strip_suffix(".run")?.split_once('-')?;
    if is_id(id) { shard.parse().ok() } else { None }
}

impl WorkFiles {
    /// Where a file lies, for messages.
    pub fn place(&self, name: &str) -> String {
        match self {
            WorkFiles::Folder(root) => root.join(name).display().to_string(),
            WorkFiles::Bucket(objects) => objects.place(name),
        }
    }

    /// Makes the folder itself, if it is a local one.
    pub fn make(&self) -> Result<(), WorkFileError> {
        match self {
            WorkFiles::Folder(root) => std::fs::create_dir_all(root).map_err(failed("make", root)),
            WorkFiles::Bucket(_) => Ok(()),
        }
    }

    /// Finds a file, folder or link that this program would not have left in a work folder; `None` if there is none.
    /// Runs are folders with names of 16 hexadecimal digits, and what a killed run left does no harm.
    pub fn stranger(&self) -> Result<Option<String>, WorkFileError> {
        let first = |name: &String| name.split('/').next().unwrap_or_default().to_owned();
        let is_folder = |name: &str| match self {
            WorkFiles::Folder(root) => root.join(name).symlink_metadata().is_ok_and(|found| found.is_dir()),
            WorkFiles::Bucket(_) => true,
        };
        let is_ours = |name: &str| (name == NOTES_FOLDER || is_id(name)) && is_folder(name);
        Ok(self.names()?.into_iter().find(|name| !is_ours(&first(name))))
    }

    /// The names in the folder; of a prefix, those of the first thousand objects.
    fn names(&self) -> Result<Vec<String>, WorkFileError> {
        match self {
            WorkFiles::Folder(root) => names_in(root),
            WorkFiles::Bucket(objects) => Ok(objects.first_names("")?),
        }
    }

    /// Takes the lease on a prefix. `None` for a local folder, which has none.
    /// Fails if another process holds it.
    pub(crate) fn lease(&self) -> Result<Option<WorkLease>, WorkFileError> {
        match self {
            WorkFiles::Folder(_) => Ok(None),
            WorkFiles::Bucket(objects) => Ok(Some(objects.lease()?)),
        }
    }

    /// The runs of which files are there; of a prefix, those among the first thousand objects.
    pub(crate) fn runs(&self) -> Result<Vec<String>, WorkFileError> {
        let names = self.names()?.into_iter().filter_map(|name| name.split('/').next().map(str::to_owned));
        let mut runs: Vec<String> = names.filter(|name| is_id(name)).collect();
        runs.dedup();
        Ok(runs)
    }

    /// True if the folder, or the one that holds it, is a symbolic link. A prefix is none.
    pub(crate) fn is_behind_a_link(&self) -> bool {
        match self {
            WorkFiles::Folder(root) => root.is_symlink() || root.parent().is_some_and(Path::is_symlink),
            WorkFiles::Bucket(_) => false,
        }
    }

    /// Creates a file in a folder, without its final name: [`WorkFiles::store`] gives it that name. Dropping the file
    /// removes it.
    pub fn begin(&self, folder: &str) -> Result<NamedTempFile, WorkFileError> {
        let folder = match self {
            WorkFiles::Folder(root) => {
                let folder = root.join(folder);
                std::fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
                folder
            }
            WorkFiles::Bucket(_) => std::env::temp_dir(),
        };
        let (prefix, suffix) = UNFINISHED;
        let made = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(&folder);
        made.map_err(failed("write a file in", &folder))
    }

    /// Stores a file durably under a name that no other process uses. Readers see all of it or nothing.
    pub fn store(&self, name: &str, file: NamedTempFile) -> Result<(), WorkFileError> {
        match self {
            WorkFiles::Folder(root) => {
                let path = root.join(name);
                file.as_file().sync_all().map_err(failed("write", &path))?;
                file.persist(&path).map_err(|error| failed("write", &path)(error.error))?;
                let folder = path.parent().unwrap_or(root);
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))
            }
            WorkFiles::Bucket(objects) => Ok(objects.store(name, file.path())?),
        }
    }

    /// Opens a file for reading.
    pub fn open(&self, name: &str) -> Result<WorkFile, WorkFileError> {
        match self {
            WorkFiles::Folder(root) => {
                let path = root.join(name);
                let file = File::open(&path).map_err(failed("read", &path))?;
                let length = file.metadata().map_err(failed("read", &path))?.len();
                Ok(WorkFile::File { file, path, length })
            }
            WorkFiles::Bucket(objects) => Ok(WorkFile::Object(objects.open(name)?)),
        }
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) -> Result<(), WorkFileError> {
        match self {
            WorkFiles::Folder(root) => {
                let path = root.join(name);
                unless_missing(std::fs::remove_file(&path)).map_err(failed("remove", &path))
            }
            WorkFiles::Bucket(objects) => Ok(objects.remove_all(name)?),
        }
    }

    /// Removes the files of a run but those in `kept`, and then its folder, if it is empty. Somebody else's files, and
    /// what lies behind a link, stay.
    pub(crate) fn clear(&self, run: &str, kept: &[String]) -> Result<(), WorkFileError> {
        let (begin, end) = UNFINISHED;
        let is_ours = |leaf: &str| shard_of_file(leaf).is_some() || leaf.starts_with(begin) && leaf.ends_with(end);
        let root = match self {
            WorkFiles::Folder(root) => root,
            WorkFiles::Bucket(objects) if kept.is_empty() => return Ok(objects.remove_all(&format!("{run}/"))?),
            WorkFiles::Bucket(objects) => {
                let names = objects.first_names(&format!("{run}/"))?;
                return names.iter().filter(|name| !kept.contains(name)).try_for_each(|name| self.remove(name));
            }
        };
        let folder = root.join(run);
        if !folder.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        for leaf in names_in(&folder)?.iter().filter(|leaf| is_ours(leaf)) {
            let name = format!("{run}/{leaf}");
            if !kept.contains(&name) {
                self.remove(&name)?;
            }
        }
        match unless_missing(std::fs::remove_dir(&folder)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed.map_err(failed("remove", &folder)),
        }
    }
}

/// The names in a folder; none if there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>, WorkFileError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read", folder))?,
    };
    let name = |entry: io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map_err(failed("read", folder))
}

fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

impl WorkFile {
    /// In bytes.
    pub const fn length(&self) -> u64 {
        match self {
            WorkFile::File { length, .. } => *length,
            WorkFile::Object(object) => object.length(),
        }
    }

    /// Reads up to `length` bytes from `offset` on; fewer only at the end.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, WorkFileError> {
        match self {
            WorkFile::File { file, path, length: whole } => {
                let left = usize::try_from(whole.saturating_sub(offset)).unwrap_or(usize::MAX);
                let mut bytes = vec![0; length.min(left)];
                file.read_exact_at(&mut bytes, offset).map_err(failed("read", path))?;
                Ok(bytes)
            }
            WorkFile::Object(object) => Ok(object.read_at(offset, length as u64)?),
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkFileError {
    let path = path.to_owned();
    move |source| WorkFileError::Io { action, path, source }
}
