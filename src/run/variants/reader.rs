//! The manifest of a family, which a server reads repeatedly.

use std::sync::Arc;

use super::{Family, FamilyRecord, record};
use crate::report::Report;
use crate::run::{CommandError, Target};
use crate::stop::Stop;

/// Reads the manifest of a family.
#[derive(Clone)]
pub(crate) struct FamilyReader(Target);

/// A manifest that was read, and what identifies it.
#[derive(Debug)]
pub(crate) struct ReadFamily {
    /// The manifest that was read.
    pub(crate) record: FamilyRecord,
    /// The tag that identifies this version of the manifest.
    pub(crate) tag: String,
}

impl Family {
    /// A reader of the family's manifest. Must be called on a runtime.
    ///
    /// # Errors
    /// If the place of the manifest cannot be reached.
    pub(crate) fn reader(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<FamilyReader, CommandError> {
        Ok(FamilyReader(self.place(report, stop)?))
    }
}

impl FamilyReader {
    /// The manifest; `None` if it still has the tag `known`, in which case only its head is read. May wait for a server.
    ///
    /// # Errors
    /// If the manifest cannot be read or does not exist.
    pub(crate) fn read(&self, known: Option<&str>) -> Result<Option<ReadFamily>, CommandError> {
        match record::read_unless(&self.0, known)? {
            record::ReadRecord::Same => Ok(None),
            record::ReadRecord::Other(stored) => {
                Ok(Some(ReadFamily { record: stored.record, tag: stored.tag.unwrap_or_default() }))
            }
            record::ReadRecord::Missing => {
                Err(super::needs_seed(&self.0, "its variants were never seeded, or their manifest is gone"))
            }
        }
    }
}
