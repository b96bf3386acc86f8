//! Lock files. The name of one is derived from its target's, so anybody who may write the folder may have put something else there: a
//! symbolic link, a pipe, a hard link to another file. None of these is opened for writing.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat, unlinkat};

/// What happens to a lock file that an earlier run left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOver {
    /// It is removed under the lock, and a new one is created.
    Removed,
    /// It is reused, unless it has a second name (hard link).
    Reused,
}

/// Who has the lock.
#[derive(Debug)]
pub(super) enum Taken {
    /// This run.
    Ours(File),
    /// Another run; its file, to be read.
    Theirs(File),
}

/// The action that failed, and the error of the system.
pub(super) type NotTaken = (&'static str, io::Error);

/// Locks the file `name` in `folder`; creates it if it does not exist.
///
/// # Errors
/// If something else has the name, or the system refuses. [`io::ErrorKind::NotFound`] if the folder is gone.
pub(super) fn take(folder: BorrowedFd<'_>, name: &Path, left_over: LeftOver) -> Result<Taken, NotTaken> {
    loop {
        let (file, is_new) = match open_regular(folder, name, OFlags::RDWR) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match create(folder, name) {
                Ok(file) => (file, true),
                // Another run created it first.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(("write", error)),
            },
            Err(error) => return Err(("write", error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Taken::Theirs(file)),
            Err(TryLockError::Error(error)) => return Err(("lock", error)),
        }
        // The run that held the lock may have renamed or removed the file meanwhile: then this handle is of no use.
        if !is_named(&file, folder, name) {
            continue;
        }
        let links = rustix::fs::fstat(&file).map_err(|error| ("look at", error.into()))?.st_nlink;
        if is_new || (left_over == LeftOver::Reused && links == 1) {
            return Ok(Taken::Ours(file));
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(("remove", error.into())),
        }
    }
}

/// Makes a file that was not there.
pub(super) fn create(folder: BorrowedFd<'_>, name: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::from_raw_mode(0o666))?.into())
}

/// Opens a regular file and nothing else: a link is not followed, and a pipe does not have us wait.
pub(super) fn open_regular(folder: BorrowedFd<'_>, name: &Path, access: OFlags) -> io::Result<File> {
    // Opening a device can have effects of its own, so it is looked at first.
    is_regular(FileType::from_raw_mode(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode))?;
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty())?;
    is_regular(FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode))?;
    Ok(file.into())
}

fn is_regular(kind: FileType) -> io::Result<()> {
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(rustix::io::Errno::ISDIR.into()),
        FileType::Symlink => Err(unfit("it is a symbolic link, which is not followed here")),
        _ => Err(unfit(NOT_REGULAR)),
    }
}

/// Something else has the name of a file: the kind of the error is [`io::ErrorKind::InvalidInput`].
fn unfit(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// Whether an open file is the one that a name in a folder stands for now.
pub(super) fn is_named(file: &File, folder: BorrowedFd<'_>, name: &Path) -> bool {
    match (rustix::fs::fstat(file.as_fd()), statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Opens a regular file by a path that the user named: links are followed, and a pipe does not have us wait.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if it is something else.
pub(super) fn open_named(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if !std::fs::metadata(path)?.is_file() {
        return Err(unfit(NOT_REGULAR));
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(unfit(NOT_REGULAR)) }
}

/// What is said of a device, a pipe or a folder that stands where a file is read.
const NOT_REGULAR: &str = "it is no regular file";
