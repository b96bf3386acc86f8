//! Decides whether a run may write to a folder, as far as possible before the database is asked.

use super::DirectoryError;
use super::folder::OpenFolder;
use super::found::DirectoryState;
use super::walk::walk;
use crate::sink::tree::TreeOptions;
use crate::sink::tree::notes;
use crate::stop::Stop;

/// Refuses a folder in which others keep files: tiles, which the run would replace and delete, or other files, next to which it would write
/// tiles. `found` is the content of the folder's notes.
pub(super) fn claim(
    root: &OpenFolder,
    options: &TreeOptions,
    found: &DirectoryState,
    stop: &Stop,
) -> Result<(), DirectoryError> {
    if options.force || found.is_ours() {
        return Ok(());
    }
    let mut theirs: Vec<String> = Vec::new();
    let read = root.each(|name, _kind| {
        if !is_harmless(name) && !notes::is_note(name) && !options.template.may_begin_with(name) {
            theirs.push(name.to_owned());
        }
    });
    read.map_err(|error| error.into_error("read the folder"))?;
    let path = || root.path().to_owned();
    if let Some(example) = theirs.into_iter().min() {
        return Err(DirectoryError::ForeignFolder { path: path(), example });
    }
    if options.template.is_versioned() || options.template.layers_apart() {
        // The names of the layers are not known yet. A new version touches none of the existing tiles.
        return Ok(());
    }
    let walked = walk(root, &options.template, stop, |name| match options.template.read(name) {
        Some(_) => Err(DirectoryError::NotOurs { path: path(), example: name.to_owned() }),
        None => Ok(()),
    });
    match walked {
        Ok(done) => done,
        Err(_) if stop.asked().is_some() => Err(DirectoryError::Interrupted { path: path() }),
        Err(error) => Err(error.into_error("read the folder")),
    }
}

/// True for files in folders that look empty to their owner: hidden files, and the files that file systems keep at their root.
fn is_harmless(name: &str) -> bool {
    name.starts_with('.') || name == "lost+found"
}
