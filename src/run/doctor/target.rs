//! Checks the target: whether it can be written, whether there is space, and whether another process writes it.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use tokio::task::spawn_blocking;

use crate::error::with_causes;
use crate::report::{CheckArea, CheckLevel, Checkup, grouped, sized};
use crate::run::{CommandError, TilesetRun};
use crate::suggested::SEED;
use crate::target::{OpenMode, Storage};

const AREA: CheckArea = CheckArea::Target;

/// The share of its space that a file system should have free.
const MIN_FREE_SHARE: f64 = 0.05;

/// The fewest files that a directory target should be able to take.
const MIN_FREE_FILES: u64 = 100_000;

pub(crate) async fn check(run: &TilesetRun, checkup: &mut Checkup) -> Result<(), CommandError> {
    let target = run.target.clone();
    let before = spawn_blocking(move || target.reader_of_what_is_there()).await?;
    let exists = match before {
        Ok(found) => found.is_some(),
        Err(error) => {
            checkup.add(AREA, CheckLevel::Error, with_causes(&error));
            return Ok(());
        }
    };
    if !exists {
        checkup.warn(AREA, format!("there is no {} yet", run.target), format!("run {SEED}"));
    }
    let has_room = match run.target.url.storage() {
        Storage::File(path) => room(path, false, checkup),
        Storage::Folder(path) => room(path, true, checkup),
        Storage::Prefix | Storage::Object => true,
    };
    if exists && has_room {
        lock(run, checkup).await?;
    }
    Ok(())
}

/// Takes the target's lock or lease for a moment, as a reseed does. This needs the right to write.
async fn lock(run: &TilesetRun, checkup: &mut Checkup) -> Result<(), CommandError> {
    let target = run.target.clone();
    match spawn_blocking(move || target.sink(OpenMode::Edit).map(drop)).await? {
        Ok(()) => checkup.fine(AREA, format!("{} can be written, and nobody else writes it", run.target)),
        Err(CommandError::Target(error)) if error.is_held() => {
            checkup.add(AREA, CheckLevel::Warning, with_causes(&error));
        }
        Err(error) => checkup.add(AREA, CheckLevel::Error, with_causes(&error)),
    }
    Ok(())
}

/// Checks the folder in which files are created; false if it cannot be written.
fn room(path: &Path, is_tree: bool, checkup: &mut Checkup) -> bool {
    // The nearest folder that exists, because a run creates the others.
    let folders = if is_tree { path.ancestors() } else { path.parent().unwrap_or(path).ancestors() };
    let folder = folders.map(named).find(|folder| folder.is_dir()).unwrap_or_else(|| PathBuf::from("."));
    let shown = folder.display();
    if let Err(error) = access(&folder, Access::WRITE_OK | Access::EXEC_OK) {
        checkup.fail(
            AREA,
            format!("files cannot be made in {shown}: {error}"),
            "give the account that runs oar-tiles the right to write there, or choose another output",
        );
        return false;
    }
    let Ok(space) = statvfs(&folder) else { return true };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let size = std::fs::metadata(path).map_or(0, |file| if file.is_file() { file.len() } else { 0 });
    let is_scarce = (space.f_bavail as f64) < space.f_blocks as f64 * MIN_FREE_SHARE;
    if free < size {
        checkup.fail(
            AREA,
            format!(
                "{shown} has {} free, and a seed makes a new file beside the old one of {}",
                sized(free),
                sized(size)
            ),
            "make room, or choose an output on another disk",
        );
    } else if is_scarce {
        checkup.warn(AREA, format!("{shown} has only {} free", sized(free)), "make room before the tileset grows");
    } else {
        checkup.fine(AREA, format!("{shown} can be written, {} are free", sized(free)));
    }
    // File systems without an inode table, such as btrfs, report 0 files.
    if is_tree && space.f_files > 0 && space.f_favail < MIN_FREE_FILES {
        checkup.warn(
            AREA,
            format!("{shown} can take only {} more files (inodes), and each tile is one", grouped(space.f_favail)),
            "make the file system with more inodes (mkfs.ext4 -T news), or write an archive",
        );
    }
    true
}

/// The last ancestor of a relative path is empty. It stands for the folder in which the program runs.
fn named(folder: &Path) -> PathBuf {
    if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }
}
