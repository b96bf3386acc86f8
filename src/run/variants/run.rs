//! What a seed and a reseed of a family have in common: they begin with the values on one snapshot, and end with the family's manifest.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::super::attempts::{aside, restarting};
use super::super::describe::IdentityKey;
use super::super::{CommandError, Job, KnownState, SharedSnapshot};
use super::{
    Family, FamilyMembers, FamilyParameter, FamilyRecord, FamilyTally, RecordedVariant, StoredFamily, WrittenFamily,
    remove_target,
};
use crate::config::{JobSettings, ValueSegment};
use crate::manifest::Publication;
use crate::postgis::{VariantParameter, server_of};
use crate::report::{FamilyReport, Report};
use crate::stop::Stop;

/// What a run of a family was asked for.
#[derive(Clone)]
pub struct FamilyOptions {
    /// Overwrite whatever is there.
    pub force: bool,
    /// Delete the targets of variants whose values have vanished.
    pub prunes: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// Receives the events of each variant's run.
    pub report: Arc<dyn Report>,
    /// Tells whether a stop was asked for.
    pub stop: Stop,
    /// The snapshot of the run.
    pub snapshot: SharedSnapshot,
}

/// How a run of a family ended.
#[derive(Debug)]
pub struct FamilyOutcome {
    /// What was done.
    pub report: FamilyReport,
    /// The error, if variants failed.
    pub complete: Result<(), CommandError>,
}

/// A run of a family.
pub(crate) struct FamilyRun<'a> {
    pub(crate) family: &'a Family,
    pub(crate) options: &'a FamilyOptions,
    /// What the family's manifest said.
    pub(crate) before: Option<StoredFamily>,
    /// The values.
    pub(crate) members: FamilyMembers,
    /// The settings of the tileset without conditions, if it is wanted.
    pub(crate) all: Option<JobSettings>,
    pub(crate) tally: FamilyTally,
    record: FamilyRecord,
    /// The publication of each target, by its output.
    publications: HashMap<PathBuf, String>,
    begun: Instant,
}

impl<'a> FamilyRun<'a> {
    /// Reads the values on the snapshot of the run.
    pub(crate) async fn begin(family: &'a Family, options: &'a FamilyOptions) -> Result<FamilyRun<'a>, CommandError> {
        let begun = Instant::now();
        let FamilyOptions { report, stop, snapshot, .. } = options;
        let before = family.stored(report, stop).await?;
        let settings = &family.settings().database;
        let job = Job { target: family.place(report, stop)?, ..family.job(report, stop)? }.sharing(snapshot);
        let look = async |_restarts| {
            let database = job.database()?;
            let seen = job.take_snapshot(&database, false).await?;
            let members = family.members(&seen).await?;
            let key = IdentityKey::of_log(&seen, &settings.changes.schema).await?;
            let server = server_of(&seen).await?.identity;
            let record = FamilyRecord {
                snapshot: seen.cursor().to_owned(),
                database: key.map(|key| key.mark(&server)),
                fingerprint: String::new(),
                kinds: Vec::new(),
                variants: Vec::new(),
            };
            Ok((members, record))
        };
        let look = async |restarts| look(restarts).await.inspect_err(|_error| job.release_snapshot());
        let (members, mut record) = restarting(settings, report, stop, look).await?;
        let parameters = &members.table.parameters;
        let kind = |one: &VariantParameter| FamilyParameter { name: one.name.clone(), kind: one.kind.clone() };
        record.kinds = parameters.iter().map(kind).collect();
        let variants = members.segments.iter().zip(&members.table.rows);
        let variant = |(segments, values): (&Vec<ValueSegment>, &Vec<String>)| RecordedVariant {
            segments: segments.clone(),
            values: values.clone(),
            publication: None,
            vanished: false,
        };
        record.variants = variants.map(variant).collect();
        let all = family.all()?;
        let old = before.iter().flat_map(|before| &before.record.variants);
        let old = old.filter_map(|old| Some((family.output_of(&old.segments), old.publication.clone()?)));
        let publications = old.collect();
        let count = record.variants.len();
        let tally = FamilyTally::new(family, count, count + usize::from(all.is_some()));
        Ok(FamilyRun { family, options, before, members, all, tally, record, publications, begun })
    }

    /// The run of one target. The folder that it lies in is made.
    pub(crate) fn job(&self, settings: JobSettings) -> Result<Job, CommandError> {
        let FamilyOptions { force, report, stop, snapshot, .. } = self.options;
        let output = settings.tileset.output.clone();
        let known = self.known(&output);
        let job = Job { known, ..Job::new(settings, *force, report, stop)?.sharing(snapshot) };
        if !self.options.dry_run
            && !job.is_in_bucket()
            && let Some(folder) = output.parent()
        {
            std::fs::create_dir_all(folder)
                .map_err(|source| CommandError::NoVariantFolder { path: folder.to_owned(), source })?;
        }
        Ok(job)
    }

    /// What the family's manifest says of a target.
    fn known(&self, output: &PathBuf) -> Option<KnownState> {
        let cursor = self.before.as_ref()?.record.snapshot.parse().ok()?;
        Some(KnownState { cursor, publication: self.publications.get(output)?.clone() })
    }

    /// Notes the publication of a target that shows the state of the run.
    pub(crate) fn published(&mut self, output: PathBuf, publication: Option<&Publication>) {
        if let Some(publication) = publication {
            self.publications.insert(output, publication.id.clone());
        }
    }

    /// Ends the run: vanished variants, and the manifest, which is left as it was if a variant failed.
    pub(crate) async fn finish(mut self) -> Result<FamilyOutcome, CommandError> {
        let FamilyOptions { prunes, dry_run, report, stop, .. } = self.options;
        let now: HashSet<&Vec<ValueSegment>> = self.record.variants.iter().map(|variant| &variant.segments).collect();
        let before = self.before.iter().flat_map(|before| &before.record.variants);
        let gone: Vec<RecordedVariant> = before.filter(|variant| !now.contains(&variant.segments)).cloned().collect();
        for variant in gone {
            let mut settings = self.family.settings().clone();
            settings.tileset.output = self.family.output_of(&variant.segments);
            settings.tileset.variants = None;
            let output = settings.tileset.output.display().to_string();
            if !prunes {
                self.tally.report.vanished.push(output);
                self.record.variants.push(RecordedVariant { vanished: true, publication: None, ..variant });
                continue;
            }
            let target = Job::new(settings, false, report, stop)?.target;
            match aside(move || remove_target(&target)).await? {
                Ok(_was_there) => self.tally.report.removed.push(output),
                Err(error) => {
                    self.tally.failed(output, error, stop)?;
                    self.record.variants.push(RecordedVariant { vanished: true, publication: None, ..variant });
                }
            }
        }
        for variant in self.record.variants.iter_mut().filter(|variant| !variant.vanished) {
            variant.publication = self.publications.get(&self.family.output_of(&variant.segments)).cloned();
        }
        let FamilyRun { family, before, tally, record, begun, .. } = self;
        let complete = tally.complete();
        let mut done = tally.report;
        done.snapshot = match (&complete, &before) {
            (Err(_), Some(before)) => before.record.snapshot.clone(),
            _ => record.snapshot.clone(),
        };
        // A variant that failed is behind. Its next run begins where the family's manifest says.
        let snapshot = done.snapshot.clone();
        if !dry_run && (complete.is_ok() || before.is_some()) {
            let written = WrittenFamily { record: FamilyRecord { snapshot, ..record }, before };
            family.write(written, report, stop).await?;
        }
        done.seconds = begun.elapsed().as_secs_f64();
        Ok(FamilyOutcome { report: done, complete })
    }
}
