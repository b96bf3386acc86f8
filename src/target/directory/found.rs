//! Reads the notes in a directory about the tileset that it holds, or that was begun in it.

use std::io;
use std::path::Path;

use rustix::fs::FileType;
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::DirectoryError;
use super::files::Files;
use super::folder::{OpenFolder, Unreachable, split};
use crate::manifest::configuration_of;
use crate::stop::Stop;
use crate::target::tree::notes::{Begun, TargetNotes};
use crate::target::tree::{Latest, Template, TreeOptions, notes};
use crate::target::{Described, Intent, Tileset};

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

/// The notes of a directory.
#[derive(Debug, Default)]
pub(crate) struct DirectoryState {
    noted: TargetNotes,
    /// The fingerprint in the manifest, which the last finished run wrote.
    manifest: Option<String>,
    started: Option<Started>,
}

impl DirectoryState {
    /// Reads the notes. With `force`, damaged notes count as missing.
    pub(crate) fn read(files: &Files, force: bool) -> Result<DirectoryState, DirectoryError> {
        let wrong = |name: &str| {
            let path = files.path(name);
            move |source| DirectoryError::Note { path, source }
        };
        let unless_forced = |damaged: DirectoryError| if force { Ok(()) } else { Err(damaged) };
        let mut found = DirectoryState::default();
        if let Some(body) = files.read(notes::METADATA)? {
            let read = notes::read(&body).and_then(|noted| {
                let manifest = noted.described.manifest.as_deref().map(fingerprint).transpose()?;
                Ok((noted, manifest))
            });
            match read.map_err(wrong(notes::METADATA)) {
                Ok((noted, manifest)) => (found.noted, found.manifest) = (noted, manifest),
                Err(damaged) => unless_forced(damaged)?,
            }
        }
        if let Some(body) = files.read(BEGUN)? {
            match serde_json::from_slice(&body).map_err(wrong(BEGUN)) {
                Ok(started) => found.started = Some(started),
                Err(damaged) => unless_forced(damaged)?,
            }
        }
        Ok(found)
    }

    /// True if oar-tiles wrote the tiles: another program's metadata does not count.
    pub(crate) fn is_ours(&self) -> bool {
        self.manifest.is_some() || self.started.is_some()
    }

    /// True if a run has finished in the directory.
    pub(crate) fn is_finished(&self) -> bool {
        self.manifest.is_some()
    }

    /// The metadata of the target, with its unfinished runs.
    pub(crate) fn described(&self) -> Described {
        Described { unfinished: self.unfinished(), ..self.noted.described.clone() }
    }

    /// The runs that have not finished.
    pub(crate) fn unfinished(&self) -> Vec<Intent> {
        self.started.as_ref().map_or_else(Vec::new, |started| started.begun.unfinished(self.manifest_text()))
    }

    /// The manifest as text.
    pub(crate) fn manifest_text(&self) -> Option<&str> {
        self.noted.described.manifest.as_deref()
    }

    /// The public URL that an earlier run was given.
    pub(crate) fn public_url(&self) -> Option<&str> {
        self.noted.described.public_url.as_deref()
    }

    /// The fingerprint of the tiles in the directory: that of the run begun last, whether it finished or not.
    fn fingerprint(&self) -> Option<&str> {
        self.started.as_ref().map(|started| started.begun.fingerprint.as_str()).or(self.manifest.as_deref())
    }

    fn template(&self) -> Option<&str> {
        let begun = self.started.as_ref().map(|started| started.template.as_str());
        begun.filter(|template| !template.is_empty()).or(self.noted.template.as_deref())
    }

    /// True if the tiles are named by the template in `options`.
    pub(crate) fn has_template(&self, options: &TreeOptions) -> bool {
        self.template() == Some(options.template.text())
    }

    /// Refuses to write over another tileset, and to write the same tileset under other names next to the old files.
    pub(crate) fn allows(&self, root: &Path, options: &TreeOptions, tileset: &Tileset) -> Result<(), DirectoryError> {
        let versioned = options.template.is_versioned();
        // A new version shares no tile with the tileset before it, so that one may be another tileset.
        let is_other = |found: &&str| configuration_of(found) != configuration_of(&tileset.fingerprint);
        if let Some(found) = self.fingerprint().filter(|found| !versioned && is_other(found)) {
            return Err(DirectoryError::OtherTileset {
                path: root.to_owned(),
                found: found.to_owned(),
                wanted: tileset.fingerprint.clone(),
            });
        }
        let wanted = options.template.text();
        let beside = |found: &&str| *found != wanted && !(versioned && found.contains("{version}"));
        if let Some(found) = self.template().filter(beside) {
            return Err(DirectoryError::OtherTemplate {
                path: root.to_owned(),
                found: found.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
        Ok(())
    }

    /// A version of exactly this tileset that was begun and not published.
    pub(crate) fn pending(&self, tileset: &Tileset, template: &str, latest: Option<&Latest>) -> Option<String> {
        let started = self.started.as_ref().filter(|started| started.template == template)?;
        let pending = started.begun.pending.as_ref().filter(|_| started.begun.fingerprint == tileset.fingerprint)?;
        // The run may have been killed after it switched clients to the version and before it noted that. Clients then see the version, so
        // it must not change any more.
        let published = latest.is_some_and(|latest| latest.versions.iter().any(|other| other.version == *pending));
        (!published).then(|| pending.clone())
    }

    /// The metadata of the target, if all of its tiles are of exactly this tileset.
    pub(crate) fn before(&self, tileset: &Tileset) -> Option<Described> {
        self.is_of(tileset).then(|| self.described())
    }

    /// True if the target holds exactly this tileset, and nothing else was begun there.
    pub(crate) fn is_of(&self, tileset: &Tileset) -> bool {
        let ours = |fingerprint: &str| fingerprint == tileset.fingerprint;
        self.manifest.as_deref().is_some_and(ours) && self.fingerprint().is_some_and(ours)
    }
}

/// The fingerprint in a manifest.
fn fingerprint(manifest: &str) -> Result<String, serde_json::Error> {
    notes::fingerprint(manifest).ok_or_else(|| serde_json::Error::custom("its manifest has no fingerprint"))
}

// The walk over a directory: every file that may be a tile.

/// Calls `each` with the name of every file in the folders below `root` that may hold tiles of the template. Opens no file, follows no link
/// to a folder, and leaves out names that are not UTF-8, which no tile has.
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
