//! Runs a verb for each of several tilesets: one after the other, or all in parallel if the verb runs until a signal.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use crate::config::Settings;
use crate::report::say;
use crate::run::{CommandError, FailedTargets, SeveralTargets, WrittenFileError, interrupted};
use crate::stop::Stop;

/// Runs a verb for each tileset, and prints which one unless `quiet`. A tileset that fails does not stop the others,
/// but a signal does.
pub(crate) async fn for_each(
    tilesets: Vec<Settings>,
    quiet: bool,
    stop: &Stop,
    mut run: impl AsyncFnMut(Settings) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let of = tilesets.len();
    let mut failed = FailedTargets::none(SeveralTargets::Tilesets, of);
    for settings in tilesets {
        let name = settings.tileset.name.clone();
        if of > 1 && !quiet {
            say(&format!("tileset {name}"));
        }
        if let Err(error) = Box::pin(run(settings)).await.map_err(|error| interrupted(error, stop)) {
            failed.add(name, error, stop)?;
        }
    }
    failed.result()
}

/// Runs a verb that ends with a signal, for all tilesets in parallel. A tileset that fails is reported at once, and
/// does not stop the others.
pub(crate) async fn for_all(
    tilesets: Vec<Settings>,
    stop: &Stop,
    run: impl AsyncFn(Settings) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let failed = RefCell::new(FailedTargets::none(SeveralTargets::Tilesets, tilesets.len()));
    let each = tilesets.into_iter().map(async |settings| {
        let name = settings.tileset.name.clone();
        match Box::pin(run(settings)).await.map_err(|error| interrupted(error, stop)) {
            Err(error) => failed.borrow_mut().add(name, error, stop),
            Ok(()) => Ok(()),
        }
    });
    for ended in join_all(each).await {
        ended?;
    }
    failed.into_inner().result()
}

/// Checks that each tileset has its own file for each flag that names one. With several tilesets, a path must contain
/// `{tileset}`.
pub(crate) fn have_own_files(
    tilesets: &[Settings],
    files: &[(&'static str, Option<&Path>)],
) -> Result<(), CommandError> {
    for (flag, path) in files {
        if let Some(path) = path.filter(|path| tilesets.len() > 1 && !has_place(path)) {
            return Err(WrittenFileError::OneFile { flag, path: path.to_owned() }.into());
        }
    }
    Ok(())
}

/// The path of a tileset's own file.
pub(crate) fn file_of(path: Option<&PathBuf>, tileset: &str) -> Option<PathBuf> {
    path.map(|path| if has_place(path) { path.to_string_lossy().replace(PLACE, tileset).into() } else { path.clone() })
}

const PLACE: &str = "{tileset}";

fn has_place(path: &Path) -> bool {
    path.to_string_lossy().contains(PLACE)
}
