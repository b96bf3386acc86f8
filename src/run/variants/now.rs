//! A family as the database has it now: its values, and one variant of it.

use std::path::Path;
use std::sync::Arc;

use super::super::attempts::restarting;
use super::super::{CommandError, Job, KnownState, SeveralError};
use super::{Family, FamilyMembers, RecordedVariant, StoredFamily, is_same_place};
use crate::config::{JobSettings, ValueSegment};
use crate::error::ErrorKind;
use crate::report::Report;
use crate::stop::Stop;

impl Family {
    /// The settings of the variant with this output, with the values that the database gives now; or those of the tileset without conditions, if
    /// it has this output. Must be called on a runtime.
    ///
    /// # Errors
    /// If there is no such variant, or the values cannot be read.
    pub async fn variant_with_output(
        &self,
        output: &Path,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<JobSettings, CommandError> {
        if let Some(all) = self.all()?
            && is_same_place(&all.tileset.output, output)
        {
            return Ok(all);
        }
        let members = self.members_now(report, stop).await?;
        let is_it = |segments: &Vec<ValueSegment>| self.output_of(segments) == output;
        let Some(number) = members.segments.iter().position(is_it) else {
            let (target, tileset) = (output.display().to_string(), self.name().to_owned());
            return Err(SeveralError::NoVariant { target, tileset, output: self.output() }.into());
        };
        self.variant(&members.table.parameters, &members.table.rows[number])
    }

    /// A run of the family's target with this output or, without `output`, of one target that stands for all. It knows what the family's manifest
    /// says of the target. Must be called on a runtime.
    ///
    /// # Errors
    /// If there is no such variant, or the values or the manifest cannot be read.
    pub async fn one_target(
        &self,
        output: Option<&Path>,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<Job, CommandError> {
        let settings = if let Some(output) = output {
            self.variant_with_output(output, report, stop).await?
        } else {
            if let Some(job) = self.sample(report, stop).await.or_else(unless_needs_seed)? {
                return Ok(job);
            }
            let tracked = self.settings.tracked(report, stop).await?;
            tracked.into_iter().next_back().unwrap_or_else(|| self.settings.clone())
        };
        let known = match self.stored(report, stop).await.or_else(unless_needs_seed)? {
            Some(stored) => {
                let is_it = |variant: &&RecordedVariant| self.output_of(&variant.segments) == settings.tileset.output;
                let variant = stored.record.variants.iter().find(is_it);
                stored.cursor.zip(variant.and_then(|variant| variant.publication.clone())).map(
                    |(cursor, publication)| KnownState {
                        cursor,
                        witnesses: stored.record.witnesses.clone(),
                        publication,
                    },
                )
            }
            None => None,
        };
        Ok(Job { known, ..Job::new(settings, false, report, stop)? })
    }

    /// A run of one variant that stands for all, with what the family's manifest says of its target; `None` if there is no variant.
    ///
    /// # Errors
    /// If the family was never seeded.
    pub(crate) async fn sample(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Option<Job>, CommandError> {
        let StoredFamily { record, cursor, .. } = self.known(report, stop).await?;
        let Some(first) = record.variants.iter().find(|variant| !variant.vanished) else { return Ok(None) };
        let settings = self.variant(&record.parameters(), &first.values)?;
        let job = Job::new(settings, false, report, stop)?;
        let known = cursor.zip(first.publication.clone()).map(|(cursor, publication)| KnownState {
            cursor,
            witnesses: record.witnesses.clone(),
            publication,
        });
        Ok(Some(Job { known, ..job }))
    }

    /// The values that the database gives now. Must be called on a runtime.
    pub(crate) async fn members_now(
        &self,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<FamilyMembers, CommandError> {
        let job = self.job(report, stop)?;
        let look = async |_restarts| {
            let snapshot = job.database()?.snapshot().await?;
            self.members(&snapshot).await
        };
        restarting(&self.settings.database, report, stop, look).await
    }
}

/// `None` instead of the error that a family has to be seeded.
fn unless_needs_seed<T>(error: CommandError) -> Result<Option<T>, CommandError> {
    if error.kind() == ErrorKind::NeedsSeed { Ok(None) } else { Err(error) }
}

impl JobSettings {
    /// The settings whose layers the change log has to watch. If the tileset has variants, one of them stands for all. Must be called on a
    /// runtime.
    ///
    /// # Errors
    /// If the values cannot be read.
    pub async fn tracked(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Vec<JobSettings>, CommandError> {
        let Some(family) = Family::of(self) else { return Ok(vec![self.clone()]) };
        let members = family.members_now(report, stop).await?;
        let parameters = &members.table.parameters;
        let one = match members.table.rows.first() {
            Some(row) => family.variant(parameters, row)?,
            None => self.with_variant_conditions(parameters)?,
        };
        Ok(family.all()?.into_iter().chain([one]).collect())
    }

    /// The settings of every target of the tileset. If it has variants, these are the ones that the family's manifest lists. Must be called on a
    /// runtime.
    ///
    /// # Errors
    /// If the manifest cannot be read, or there is none.
    pub async fn targets(self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Vec<JobSettings>, CommandError> {
        match Family::of(&self) {
            None => Ok(vec![self]),
            Some(family) => family.settings_in(&family.recorded(report, stop).await?),
        }
    }
}
