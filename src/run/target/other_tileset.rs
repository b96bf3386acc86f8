//! Refuses targets of other tilesets and other programs before the database is asked.

use super::{Target, TargetUrl};
use crate::run::CommandError;
use crate::sink::{Described, GENERATOR, ReadError};

/// The names of a run's tileset and its layers.
#[derive(Debug, Clone)]
pub(crate) struct TilesetNames {
    /// Its name.
    pub(crate) name: String,
    /// The names of its layers.
    pub(crate) layers: Vec<String>,
    /// True if tiles may have layers of other names, because a function of the database gives them.
    pub(crate) may_have_more: bool,
}

/// Refuses to replace a target of another tileset than the wanted one, unless that is forced. An archive belongs to another tileset if its name
/// differs, or if it has none of the layers. A directory or a prefix is recognized by its fingerprint when it is opened; here it is refused if it
/// has none of the layers. Returns what the target says about itself, if this program wrote it. May wait for a server.
pub(crate) fn refuse_other(target: &Target, wanted: &TilesetNames) -> Result<Option<Described>, CommandError> {
    let TilesetNames { name, layers, may_have_more } = wanted;
    let is_archive = target.is_archive();
    // A new version shares nothing with the one before.
    if target.targets.forces() || !is_archive && target.targets.writes_versions() {
        return Ok(shown(target));
    }
    let mut reader = match target.reader_of_what_is_there() {
        Ok(Some(reader)) => reader,
        Ok(None) => return Ok(None),
        // Replacing an empty file loses nothing.
        Err(CommandError::Read(ReadError::Foreign { .. })) if is_empty(&target.url) => return Ok(None),
        Err(CommandError::Read(ReadError::Foreign { kind, what, .. })) if is_archive => {
            return Err(CommandError::Foreign { target: target.to_string(), what: format!("it is no {kind}: {what}") });
        }
        Err(other) => return Err(other),
    };
    // A target that cannot be read is damaged, and may be replaced.
    let Ok(described) = reader.describe() else { return Ok(None) };
    let is_named = described.name.is_some() || !described.vector_layers.is_empty();
    let wanted = in_words(Some(name), layers.iter().map(String::as_str));
    if is_archive && !is_ours(&described) {
        return if is_named {
            let what = format!("it holds {}, and has no manifest of oar-tiles", tileset_of(&described));
            Err(CommandError::Foreign { target: target.to_string(), what })
        } else {
            Ok(None)
        };
    }
    let has_another_name = is_archive && described.name.as_deref().is_some_and(|theirs| theirs != *name);
    let theirs = &described.vector_layers;
    let shares_none = !may_have_more
        && !layers.is_empty()
        && !theirs.is_empty()
        && !theirs.iter().any(|layer| layers.contains(&layer.id));
    if is_ours(&described) && (has_another_name || shares_none) {
        return Err(CommandError::OtherTileset { target: target.to_string(), found: tileset_of(&described), wanted });
    }
    Ok(Some(described))
}

/// What a target says about itself; `None` if it cannot be read.
fn shown(target: &Target) -> Option<Described> {
    let mut reader = target.reader_of_what_is_there().ok()??;
    reader.describe().ok()
}

fn is_empty(url: &TargetUrl) -> bool {
    match url {
        TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => path.metadata().is_ok_and(|file| file.len() == 0),
        TargetUrl::Directory(_) | TargetUrl::S3Prefix { .. } | TargetUrl::S3Pmtiles { .. } => false,
    }
}

/// True if this program wrote the target. A copy of a part has no manifest, but names the program.
fn is_ours(described: &Described) -> bool {
    let program = GENERATOR.split(' ').next().unwrap_or(GENERATOR);
    let generator = described.generator.as_deref().and_then(|generator| generator.split(' ').next());
    described.manifest.is_some() || generator == Some(program)
}

fn tileset_of(described: &Described) -> String {
    in_words(described.name.as_deref(), described.vector_layers.iter().map(|layer| layer.id.as_str()))
}

/// A tileset as text.
fn in_words<'a>(name: Option<&str>, layers: impl Iterator<Item = &'a str>) -> String {
    let layers: Vec<&str> = layers.collect();
    let layers = if layers.is_empty() { "no layers".to_owned() } else { format!("the layers {}", layers.join(", ")) };
    match name {
        Some(name) => format!("{name:?} with {layers}"),
        None => format!("a tileset without a name, with {layers}"),
    }
}
