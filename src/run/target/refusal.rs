//! Refuses a run before it harms a target: one of another tileset or program, before the database is asked; one that
//! would lose too many of its tiles.

use std::sync::Arc;

use super::Target;
use crate::manifest::Manifest;
use crate::report::Report;
use crate::run::CommandError;
use crate::target::{Described, GENERATOR, MaxShrink, ReadError, Storage, TargetUrl, TileReader};
use crate::tile::Scope;

/// The names of a run's tileset and its layers.
#[derive(Debug, Clone)]
pub(crate) struct TilesetNames {
    pub(crate) name: String,
    pub(crate) layers: Vec<String>,
    /// True if tiles may have layers of other names, because a function of the database gives them.
    pub(crate) may_have_more: bool,
}

/// Refuses to replace a target of another tileset than the wanted one, unless that is forced. An archive belongs to
/// another tileset if its name differs, or if it has none of the layers. A directory or a prefix is recognized by its
/// fingerprint when it is opened; here it is refused if it has none of the layers. Returns what the target says about
/// itself, if this program wrote it. May wait for a server.
pub(crate) fn refuse_other(target: &Target, wanted: &TilesetNames) -> Result<Option<Described>, CommandError> {
    let TilesetNames { name, layers, may_have_more } = wanted;
    let is_archive = target.url.is_archive();
    // A new version shares nothing with the one before.
    if target.options.forces() || !is_archive && target.options.writes_versions() {
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
    matches!(url.storage(), Storage::File(path) if path.metadata().is_ok_and(|file| file.len() == 0))
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

fn in_words<'a>(name: Option<&str>, layers: impl Iterator<Item = &'a str>) -> String {
    let layers: Vec<&str> = layers.collect();
    let layers = if layers.is_empty() { "no layers".to_owned() } else { format!("the layers {}", layers.join(", ")) };
    match name {
        Some(name) => format!("{name:?} with {layers}"),
        None => format!("a tileset without a name, with {layers}"),
    }
}

// Refuses a run that would delete more of a target's tiles than `max_shrink` allows: an emptied table or a half-done
// import must not replace a map with nothing.

/// The tiles that a target held in the scope of a run when the run began.
#[derive(Debug, Clone)]
pub(crate) struct TilesBefore {
    target: Target,
    scope: Scope,
    max: MaxShrink,
    /// An upper bound of the number of tiles, if one is known without counting.
    at_most: Option<u64>,
    /// The number of tiles, if it is known.
    exact: Option<u64>,
}

impl TilesBefore {
    /// The tiles of a target that is about to be written. `counted` is the number of tiles if the sink has counted
    /// them. May wait for a server.
    pub(crate) fn of(
        target: &Target,
        scope: Scope,
        max: MaxShrink,
        counted: Option<u64>,
    ) -> Result<TilesBefore, CommandError> {
        let mut before = TilesBefore { target: target.clone(), scope, max, at_most: counted, exact: counted };
        if max == MaxShrink::ALL {
            (before.at_most, before.exact) = (Some(0), Some(0));
        } else if counted.is_none() {
            before.at_most = reader_of_tiles(target)?.and_then(|mut reader| {
                // If no manifest speaks for the whole scope, the tiles have to be counted.
                let Ok(described) = reader.describe() else { return None };
                let Ok(manifest) = serde_json::from_str::<Manifest>(&described.manifest?) else { return None };
                (manifest.kept.is_empty() && manifest.partial.is_empty()).then_some(manifest.stored)
            });
        }
        Ok(before)
    }

    /// Refuses a run that would leave `left` tiles in its scope. May wait for a server.
    pub(crate) fn judge(&mut self, left: u64, report: &Arc<dyn Report>) -> Result<(), CommandError> {
        if self.at_most.is_some_and(|at_most| self.max.allows(at_most, left)) {
            return Ok(());
        }
        let held = match self.exact {
            Some(held) => held,
            None => self.count(report)?,
        };
        (self.at_most, self.exact) = (Some(held), Some(held));
        refuse_shrink(&self.target, self.max, held, left)
    }

    /// Counts the tiles. A target that cannot be read counts as empty, because the run replaces it.
    fn count(&self, report: &Arc<dyn Report>) -> Result<u64, CommandError> {
        let Some(mut reader) = reader_of_tiles(&self.target)? else { return Ok(0) };
        match reader.list() {
            Ok(tiles) => Ok(tiles.into_iter().filter(|id| self.scope.holds(*id)).count() as u64),
            // The folder has no finished version yet.
            Err(ReadError::Foreign { .. }) => Ok(0),
            Err(error) => {
                let message =
                    format!("how many tiles {} holds is not known ({error}): max_shrink is not judged", self.target);
                report.warn(message);
                Ok(0)
            }
        }
    }
}

/// A reader of the target; `None` if the target holds no tiles.
fn reader_of_tiles(target: &Target) -> Result<Option<Box<dyn TileReader>>, CommandError> {
    match target.reader_of_what_is_there() {
        Err(CommandError::Read(ReadError::Foreign { .. })) => Ok(None),
        reader => reader,
    }
}

/// Refuses to leave only `left` of `held` tiles, unless `max` allows it.
pub(crate) fn refuse_shrink(target: &Target, max: MaxShrink, held: u64, left: u64) -> Result<(), CommandError> {
    if max.allows(held, left) {
        return Ok(());
    }
    Err(CommandError::Shrinks { target: target.to_string(), held, left, max })
}
