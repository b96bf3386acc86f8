//! Whose a target is, as far as it says so itself: looked at before the database is asked.

use super::CommandError;
use super::target::{Place, Reach};
use crate::sink::{Described, GENERATOR, ReadError};

/// Refuses to replace a target that is not of the tileset with a name and some layers, unless that is forced. An archive is of another
/// one if its name differs, or if it has none of the layers. A directory or a prefix is told by its fingerprint, later; without any of the
/// layers it is another one for certain. May wait for a server.
pub(super) fn refuse_other(
    (place, reach): (&Place, &Reach),
    name: &str,
    layers: &[String],
) -> Result<(), CommandError> {
    let is_archive = match place {
        Place::Mbtiles(_) | Place::Pmtiles(_) | Place::S3Pmtiles { .. } => true,
        Place::Directory(_) | Place::S3Prefix { .. } => false,
    };
    // A new version takes nothing from the one before.
    if reach.forces() || !is_archive && reach.writes_versions() {
        return Ok(());
    }
    let place_name = || place.to_string();
    let mut reader = match reach.reader_of_what_is_there(place) {
        Ok(Some(reader)) => reader,
        Ok(None) => return Ok(()),
        // An empty file holds nothing that could be lost.
        Err(CommandError::Read(ReadError::Foreign { .. })) if is_empty(place) => return Ok(()),
        Err(CommandError::Read(ReadError::Foreign { kind, what, .. })) if is_archive => {
            return Err(CommandError::Foreign { place: place_name(), what: format!("it is no {kind}: {what}") });
        }
        Err(other) => return Err(other),
    };
    // What cannot be read is damaged: it is replaced by something sound.
    let Ok(described) = reader.describe() else { return Ok(()) };
    let is_named = described.name.is_some() || !described.vector_layers.is_empty();
    let wanted = told(Some(name), layers.iter().map(String::as_str));
    if is_archive && !is_ours(&described) {
        return if is_named {
            let what = format!("it holds {}, and has no manifest of oar-tiles", shown(&described));
            Err(CommandError::Foreign { place: place_name(), what })
        } else {
            Ok(())
        };
    }
    let has_another_name = is_archive && described.name.as_deref().is_some_and(|theirs| theirs != name);
    let theirs = &described.vector_layers;
    let shares_none =
        !layers.is_empty() && !theirs.is_empty() && !theirs.iter().any(|layer| layers.contains(&layer.id));
    if is_ours(&described) && (has_another_name || shares_none) {
        return Err(CommandError::OtherTileset { place: place_name(), found: shown(&described), wanted });
    }
    Ok(())
}

fn is_empty(place: &Place) -> bool {
    match place {
        Place::Mbtiles(path) | Place::Pmtiles(path) => path.metadata().is_ok_and(|file| file.len() == 0),
        Place::Directory(_) | Place::S3Prefix { .. } | Place::S3Pmtiles { .. } => false,
    }
}

/// Whether this program wrote a target: a copy of a part has no manifest, but names the program.
fn is_ours(described: &Described) -> bool {
    let program = GENERATOR.split(' ').next().unwrap_or(GENERATOR);
    let generator = described.generator.as_deref().and_then(|generator| generator.split(' ').next());
    described.manifest.is_some() || generator == Some(program)
}

fn shown(described: &Described) -> String {
    told(described.name.as_deref(), described.vector_layers.iter().map(|layer| layer.id.as_str()))
}

/// A tileset in words.
fn told<'a>(name: Option<&str>, layers: impl Iterator<Item = &'a str>) -> String {
    let layers: Vec<&str> = layers.collect();
    let layers = if layers.is_empty() { "no layers".to_owned() } else { format!("the layers {}", layers.join(", ")) };
    match name {
        Some(name) => format!("{name:?} with {layers}"),
        None => format!("a tileset without a name, with {layers}"),
    }
}
