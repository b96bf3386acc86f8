//! Random access to the bytes of an archive, in a file or elsewhere.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::sink::{ReadError, lock_file};

/// Random read access to bytes: those of a file, or of an object that is read by range requests.
pub(in crate::sink) trait ReadAt: Send {
    /// The path or URL, for messages.
    fn place(&self) -> &str;

    /// The number of bytes.
    fn length(&self) -> u64;

    /// Reads `length` bytes from `offset` on. The caller has checked that they end within [`ReadAt::length`].
    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError>;
}

/// A file.
pub(super) struct LocalFile {
    path: PathBuf,
    place: String,
    length: u64,
    file: Mutex<File>,
}

impl LocalFile {
    pub(super) fn open(path: &Path) -> Result<LocalFile, ReadError> {
        let place = path.display().to_string();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::Missing { place: place.clone() },
            _ => ReadError::Io { path: path.to_owned(), source },
        };
        let file = match lock_file::open_named(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(ReadError::Foreign { place, kind: super::ARCHIVE_KIND, what: error.to_string() });
            }
            opened => opened.map_err(failed)?,
        };
        let length = file.metadata().map_err(failed)?.len();
        Ok(LocalFile { path: path.to_owned(), length, place, file: Mutex::new(file) })
    }

    /// Sets the path or URL that messages show: this file is a local copy of the archive there.
    pub(super) fn called(self, place: String) -> LocalFile {
        LocalFile { place, ..self }
    }
}

impl ReadAt for LocalFile {
    fn place(&self) -> &str {
        &self.place
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; length];
        // A thread that panicked while it held the lock changed nothing except the file position, which is set again here.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| ReadError::Io { path: self.path.clone(), source })?;
        Ok(bytes)
    }
}
