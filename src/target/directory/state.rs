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
use crate::target::tree::{Template, TreeState, notes};

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
