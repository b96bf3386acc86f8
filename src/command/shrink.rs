//! Whether a run would take more tiles away from a target than it may: an import that is half done, or an emptied table, must not
//! replace a map by nothing.

use std::sync::Arc;

use super::CommandError;
use super::target::{Place, Reach};
use crate::manifest::Manifest;
use crate::report::{Event, Report};
use crate::sink::{MaxShrink, ReadError, Scope, TileReader};

/// What a target held in the scope of a run when it was begun.
#[derive(Debug, Clone)]
pub(super) struct Before {
    place: Place,
    reach: Reach,
    scope: Scope,
    max: MaxShrink,
    /// No more than so many, if that is known without looking at every tile.
    most: Option<u64>,
    /// Exactly so many.
    exact: Option<u64>,
}

impl Before {
    /// What is known of a target that is about to be written. `counted` is what its sink has counted, if it has. May wait for a server.
    pub(super) fn of(
        (place, reach): (&Place, &Reach),
        scope: Scope,
        max: MaxShrink,
        counted: Option<u64>,
    ) -> Result<Before, CommandError> {
        let (place, reach) = (place.clone(), reach.clone());
        let mut before = Before { place, reach, scope, max, most: counted, exact: counted };
        if max == MaxShrink::ALL {
            (before.most, before.exact) = (Some(0), Some(0));
        } else if counted.is_none() {
            before.most = there(&before.place, &before.reach)?.and_then(|mut reader| {
                // Without a manifest that speaks for all of it, its tiles have to be counted.
                let Ok(described) = reader.describe() else { return None };
                let Ok(manifest) = serde_json::from_str::<Manifest>(&described.manifest?) else { return None };
                manifest.kept.is_empty().then_some(manifest.stored)
            });
        }
        Ok(before)
    }

    /// Refuses a run that would leave so many tiles in its scope. May wait for a server.
    pub(super) fn judge(&mut self, left: u64, report: &Arc<dyn Report>) -> Result<(), CommandError> {
        if self.most.is_some_and(|most| self.max.allows(most, left)) {
            return Ok(());
        }
        let held = match self.exact {
            Some(held) => held,
            None => self.counted(report)?,
        };
        (self.most, self.exact) = (Some(held), Some(held));
        allows(&self.place, self.max, held, left)
    }

    /// Counts the tiles. What cannot be read is going to be replaced, and holds nothing that could be lost.
    fn counted(&self, report: &Arc<dyn Report>) -> Result<u64, CommandError> {
        let Some(mut reader) = there(&self.place, &self.reach)? else { return Ok(0) };
        match reader.list() {
            Ok(tiles) => Ok(tiles.into_iter().filter(|id| self.scope.holds(*id)).count() as u64),
            // A folder in which no version is finished yet.
            Err(ReadError::Foreign { .. }) => Ok(0),
            Err(error) => {
                let message =
                    format!("how many tiles {} holds is not known ({error}): max_shrink is not judged", self.place);
                report.event(&Event::Warning { message });
                Ok(0)
            }
        }
    }
}

/// A reader of what is there, if that holds tiles.
fn there(place: &Place, reach: &Reach) -> Result<Option<Box<dyn TileReader>>, CommandError> {
    match reach.reader_of_what_is_there(place) {
        Err(CommandError::Read(ReadError::Foreign { .. })) => Ok(None),
        reader => reader,
    }
}

/// Refuses to leave `left` of `held` tiles.
pub(super) fn allows(place: &Place, max: MaxShrink, held: u64, left: u64) -> Result<(), CommandError> {
    if max.allows(held, left) {
        return Ok(());
    }
    Err(CommandError::Shrinks { place: place.to_string(), held, left, max })
}
