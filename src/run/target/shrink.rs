//! Refuses a run that would delete more of a target's tiles than `max_shrink` allows: an emptied table or a half-done import must not replace a
//! map with nothing.

use std::sync::Arc;

use super::Target;
use crate::manifest::Manifest;
use crate::report::{Event, Report};
use crate::run::CommandError;
use crate::sink::{MaxShrink, ReadError, Scope, TileReader};

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
    /// The tiles of a target that is about to be written. `counted` is the number of tiles if the sink has counted them. May wait for a server.
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
                report.event(&Event::Warning { message });
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
