//! Reads the notes in a directory about the tileset that it holds, or that was begun in it.

use std::io;

use rustix::fs::FileType;
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::DirectoryError;
use super::files::Files;
use super::folder::{OpenFolder, Unreachable, split};
use crate::stop::Stop;
use crate::target::tree::notes::Begun;
use crate::target::tree::{Template, TreeOptions, TreeState, notes};

/// The name of the note of what was begun.
pub(crate) const BEGUN: &str = ".oar-tiles/begun.json";

/// The contents of `begun.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Started {
    #[serde(flatten)]
    pub(crate) begun: Begun,
    /// The template of its tiles' names.
    #[serde(default)]
    pub(crate) template: String,
}

/// Reads the notes of a directory. With `force`, damaged notes count as missing.
pub(crate) fn read_state(files: &Files, force: bool) -> Result<TreeState, DirectoryError> {
    let wrong = |name: &str| {
        let path = files.path(name);
        move |source| DirectoryError::Note { path, source }
    };
    let unless_forced = |damaged: DirectoryError| if force { Ok(()) } else { Err(damaged) };
    let mut state = TreeState::default();
    if let Some(body) = files.read(notes::METADATA)? {
        let read = notes::read(&body).and_then(|noted| {
            let manifest = noted.described.manifest.as_deref().map(fingerprint).transpose()?;
            Ok((noted, manifest))
        });
        match read.map_err(wrong(notes::METADATA)) {
            Ok((noted, manifest)) => (state.noted, state.manifest) = (noted, manifest),
            Err(damaged) => unless_forced(damaged)?,
        }
    }
    state.template.clone_from(&state.noted.template);
    if let Some(body) = files.read(BEGUN)? {
        match serde_json::from_slice::<Started>(&body).map_err(wrong(BEGUN)) {
            Ok(Started { begun, template }) => {
                state.begun = Some(begun);
                state.template = Some(template).filter(|template| !template.is_empty()).or(state.template);
            }
            Err(damaged) => unless_forced(damaged)?,
        }
    }
    Ok(state)
}

fn fingerprint(manifest: &str) -> Result<String, serde_json::Error> {
    notes::fingerprint(manifest).ok_or_else(|| serde_json::Error::custom("its manifest has no fingerprint"))
}

// The walk over a directory: every file that may be a tile.

/// Calls `each` with the name of every file in the folders below `root` that may hold tiles of the template. Opens no
/// file, follows no link to a folder, and leaves out names that are not UTF-8, which no tile has.
///
/// # Errors
/// The outer result: if a folder cannot be read, or a stop was asked for. The inner result: what `each` returned.
pub(crate) fn walk<E>(
    root: &OpenFolder,
    template: &Template,
    stop: &Stop,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<Result<(), E>, Unreachable> {
    // Folders that have not been read yet, as names below the root.
    let mut waiting = vec![split(&template.prefix()).0.to_owned()];
    while let Some(name) = waiting.pop() {
        let folder = match root.find(&name) {
            Err(missing) if missing.is_missing() => continue,
            // There are no tiles below a file or a link. A run that has to write one there reports what is in the way.
            Err(Unreachable::NoFolder(_) | Unreachable::Link(_)) => continue,
            found => found?,
        };
        if stop.asked().is_some() {
            return Err(Unreachable::Io(folder.path().to_owned(), io::Error::from(io::ErrorKind::Interrupted)));
        }
        let mut found = Ok(());
        let read = folder.each(|part, kind| {
            let name = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
            if kind == FileType::Directory {
                if template.may_hold(&name) {
                    waiting.push(name);
                }
            } else if found.is_ok() {
                found = each(&name);
            }
        });
        match read {
            Err(missing) if missing.is_missing() => {}
            read => read?,
        }
        if found.is_err() {
            return Ok(found);
        }
    }
    Ok(Ok(()))
}

// Decides whether a run may write to a folder, as far as possible before the database is asked.

/// Refuses a folder in which others keep files: tiles, which the run would replace and delete, or other files, next to
/// which it would write tiles. `found` is the content of the folder's notes.
pub(crate) fn claim(
    root: &OpenFolder,
    options: &TreeOptions,
    found: &TreeState,
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

/// True for files in folders that look empty to their owner: hidden files, and the files that file systems keep at
/// their root.
fn is_harmless(name: &str) -> bool {
    name.starts_with('.') || name == "lost+found"
}
