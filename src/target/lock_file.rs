//! Lock files. The name of a lock file is derived from the target's name, so anyone who may write to the folder may
//! have put something else under that name: a symbolic link, a pipe, a hard link to another file. None of these is
//! opened for writing.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat, unlinkat};

/// What happens to a lock file that an earlier run left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftOver {
    /// It is removed under the lock, and a new one is created.
    Removed,
    /// It is reused, unless it has a second name (hard link).
    Reused,
}

/// Who may read and write a file that is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// As the process's umask says.
    Usual,
    OwnerOnly,
}

#[derive(Debug)]
pub(crate) enum Taken {
    Ours(File),
    /// Another run. The value is the open lock file, for reading its content.
    Theirs(File),
}

/// The action that failed, and the error of the system.
pub(crate) type NotTaken = (&'static str, io::Error);

/// Locks the file `name` in `folder`; creates it if it does not exist.
/// Fails if something else has the name, or the system refuses. [`io::ErrorKind::NotFound`] if the folder is gone.
pub(crate) fn take(
    folder: BorrowedFd<'_>,
    name: &Path,
    left_over: LeftOver,
    rights: Rights,
) -> Result<Taken, NotTaken> {
    loop {
        let (file, is_new) = match open_regular(folder, name, OFlags::RDWR) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match create(folder, name, rights) {
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
        // The run that held the lock may have renamed or removed the file in the meantime. Then this handle is useless.
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

/// Creates a file; fails if the name exists.
pub(crate) fn create(folder: BorrowedFd<'_>, name: &Path, rights: Rights) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = match rights {
        Rights::Usual => 0o666,
        Rights::OwnerOnly => 0o600,
    };
    Ok(openat(folder, name, flags, Mode::from_raw_mode(mode))?.into())
}

/// Opens a regular file and nothing else: does not follow a link, and does not wait for the other end of a pipe.
pub(crate) fn open_regular(folder: BorrowedFd<'_>, name: &Path, access: OFlags) -> io::Result<File> {
    // Examines the file first, because opening a device can have effects of its own.
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

/// The error if the name belongs to something other than a regular file; its kind is [`io::ErrorKind::InvalidInput`].
fn unfit(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// True if an open file is the one that has this name in the folder now.
pub(crate) fn is_named(file: &File, folder: BorrowedFd<'_>, name: &Path) -> bool {
    match (rustix::fs::fstat(file.as_fd()), statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Opens a regular file by a path that the user named: follows links, and does not wait for the other end of a pipe.
/// Fails with [`io::ErrorKind::InvalidInput`] if the path is not that of a regular file.
pub(crate) fn open_named(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if !std::fs::metadata(path)?.is_file() {
        return Err(unfit(NOT_REGULAR));
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(unfit(NOT_REGULAR)) }
}

/// The text for a device, a pipe or a folder where a file is expected.
const NOT_REGULAR: &str = "it is no regular file";
