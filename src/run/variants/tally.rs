//! What a run has done to the variants of a family so far.

use super::super::{CommandError, SeveralError};
use super::Family;
use crate::error::ErrorKind;
use crate::report::{DirtyReport, FailedVariant, FamilyReport, ReseedReport, RunReport, say_problem};
use crate::stop::Stop;

/// The most outputs that the closing error names.
const MAX_NAMED: usize = 5;

/// The result of a run so far.
pub(crate) struct FamilyTally {
    pub(crate) report: FamilyReport,
    kinds: Vec<ErrorKind>,
    /// The number of targets that the run handles.
    of: usize,
}

impl FamilyTally {
    pub(crate) fn new(family: &Family, variants: usize, of: usize) -> FamilyTally {
        let report = FamilyReport {
            tileset: family.name().to_owned(),
            output: family.output(),
            variants: variants as u64,
            ..FamilyReport::default()
        };
        FamilyTally { report, kinds: Vec::new(), of }
    }

    /// Counts a seeded target.
    pub(crate) fn seeded(&mut self, done: &RunReport) {
        self.report.seeded += 1;
        self.report.written += done.written;
        self.report.unchanged += done.unchanged;
        self.report.deleted += done.deleted;
        self.report.features += done.features;
        self.report.bytes += done.bytes;
    }

    /// Counts a target that was brought up to date.
    pub(crate) fn reseeded(&mut self, done: &ReseedReport) {
        self.report.reseeded += 1;
        self.report.written += done.written;
        self.report.unchanged += done.unchanged;
        self.report.deleted += done.deleted;
        self.report.bytes += done.bytes;
    }

    /// Counts a target that would be brought up to date.
    pub(crate) fn planned(&mut self, plan: &DirtyReport) {
        let is_dirty = plan.zooms.as_ref().is_none_or(|zooms| zooms.iter().any(|zoom| zoom.tiles > 0));
        self.report.reseeded += u64::from(is_dirty);
    }

    /// Counts and reports a target that failed. Returns the error if the other targets would fail, too.
    pub(crate) fn failed(&mut self, output: String, error: CommandError, stop: &Stop) -> Result<(), CommandError> {
        let kind = error.kind();
        if stop.asked().is_some() || matches!(kind, ErrorKind::Interrupted | ErrorKind::Transient(_)) {
            return Err(error);
        }
        if matches!(error, CommandError::Restarts { .. } | CommandError::HeldUp { .. }) {
            return Err(error);
        }
        say_problem(&error);
        self.report.failed.push(FailedVariant { output, error: error.to_string() });
        self.kinds.push(kind);
        Ok(())
    }

    /// True if all targets that failed were published, without some of their tiles.
    pub(crate) fn are_published(&self) -> bool {
        self.kinds.iter().all(|kind| *kind == ErrorKind::Partial)
    }

    /// The error of the run, if targets have failed.
    pub(crate) fn complete(&self) -> Result<(), CommandError> {
        let Some(first) = self.kinds.first() else { return Ok(()) };
        let are_alike = self.kinds.len() == self.of && self.kinds.iter().all(|kind| kind == first);
        let failed = &self.report.failed;
        Err(SeveralError::Variants {
            tileset: self.report.tileset.clone(),
            outputs: failed.iter().take(MAX_NAMED).map(|one| one.output.clone()).collect(),
            failed: failed.len(),
            of: self.of,
            kind: if are_alike { *first } else { ErrorKind::Partial },
        }
        .into())
    }
}
