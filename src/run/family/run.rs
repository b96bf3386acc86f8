//! What a seed and a reseed of a family share: they begin by reading the values on one snapshot, and end by writing the
//! family's manifest.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::look::OtherFamily;
use super::part::of_another;
use super::{
    Family, FamilyCache, FamilyLook, FamilyMembers, FamilyRecord, FamilySessions, RecordedVariant, StoredFamily,
    WrittenFamily, remove_target,
};
use crate::change_log::Cursor;
use crate::config::{Settings, ValueSegment};
use crate::error::ErrorKind;
use crate::manifest::{Manifest, Witness};
use crate::postgis::server_of;
use crate::report::{DirtyReport, FamilyReport, Report, ReseedReport, RunReport};
use crate::run::identity::LogIdentity;
use crate::run::{
    CommandError, FailedTargets, KnownState, SeveralError, SeveralTargets, SharedSnapshot, TilesetRun, restarting,
};
use crate::stop::Stop;

#[derive(Clone)]
pub(crate) struct FamilyOptions {
    /// Overwrite whatever is there.
    pub force: bool,
    /// Delete the targets of variants whose values have vanished.
    pub(crate) prunes: bool,
    /// Write nothing.
    pub(crate) dry_run: bool,
    /// What the run does.
    pub work: FamilyWork,
    /// Receives the events of each variant's run.
    pub report: Arc<dyn Report>,
    /// Tells whether a stop was asked for.
    pub stop: Stop,
    pub snapshot: SharedSnapshot,
    /// The run whose gate and listeners the runs of the variants use; `None` if they wait nowhere and tell nobody.
    pub(crate) caller: Option<TilesetRun>,
    /// The names of the variants that a seed is for: the values in their outputs, joined by slashes. All variants and
    /// `all` if it is empty.
    pub only: Vec<String>,
}

impl FamilyOptions {
    /// A run of all variants that overwrites nothing of others, deletes no target, and waits nowhere.
    pub(crate) fn new(
        work: FamilyWork,
        report: Arc<dyn Report>,
        stop: &Stop,
        snapshot: SharedSnapshot,
    ) -> FamilyOptions {
        FamilyOptions {
            force: false,
            prunes: false,
            dry_run: false,
            work,
            report,
            stop: stop.clone(),
            snapshot,
            caller: None,
            only: Vec::new(),
        }
    }
}

/// What a run of a family does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FamilyWork {
    /// It seeds every variant again. A family's manifest that cannot be read is replaced.
    Seed,
    /// It brings every variant up to date.
    Reseed,
    /// It brings every variant up to date, but looks at none if neither the values nor the rows have changed: the
    /// previous look of the same watch has found all of them up to date.
    LookAgain,
}

#[derive(Debug)]
pub(crate) struct FamilyOutcome {
    pub report: FamilyReport,
    /// An error if variants failed.
    pub complete: Result<(), CommandError>,
    /// Why the archive of a variant, which shows all changes, could not be written anew because of its dead bytes.
    pub(crate) not_compacted: Option<String>,
}

pub(crate) struct FamilyRun<'a> {
    pub(crate) family: &'a Family,
    pub(crate) options: &'a FamilyOptions,
    /// The family's manifest before the run.
    pub(crate) before: Option<StoredFamily>,
    pub(crate) members: FamilyMembers,
    /// The settings of the tileset without conditions, if it is wanted.
    pub(crate) all: Option<Settings>,
    pub(crate) targets: FamilyTargets<'a>,
    pub(crate) tally: FamilyTally,
    pub(crate) record: FamilyRecord,
    pub(crate) begun: Instant,
}

/// How the targets of a run are opened, and what the family's manifest says about them.
pub(crate) struct FamilyTargets<'a> {
    options: &'a FamilyOptions,
    /// The database state that all of the targets show.
    cursor: Option<Cursor>,
    witnesses: Vec<Witness>,
    /// The publication of each target, by its output.
    publications: HashMap<PathBuf, String>,
    /// Locked by the one target that has as many sessions as the whole run may have.
    pub(crate) alone: Mutex<()>,
}

impl<'a> FamilyRun<'a> {
    /// Reads the values on the snapshot of the run.
    pub(crate) async fn begin(family: &'a Family, options: &'a FamilyOptions) -> Result<FamilyRun<'a>, CommandError> {
        let begun = Instant::now();
        let FamilyOptions { report, stop, snapshot, force, only, .. } = options;
        let mut before = if options.work == FamilyWork::Seed && only.is_empty() {
            family.stored_or_replaced(report, stop).await?
        } else {
            family.stored(report, stop).await?
        };
        let settings = &family.settings().database;
        let tileset_run =
            TilesetRun { target: family.manifest_target(report, stop)?, ..family.tileset_run(report, stop)? }
                .with_snapshot(snapshot);
        let look = async |_restarts| {
            let database = tileset_run.database()?;
            let seen = tileset_run.take_snapshot(&database, false).await?;
            let members = family.members(&seen).await?;
            let kept = before.iter().filter(|_| !only.is_empty()).flat_map(|before| &before.record.witnesses);
            let asked = kept.map(|witness| witness.snapshot.as_str());
            let log = LogIdentity::read(&seen, &settings.changes.schema, asked).await?;
            let server = server_of(&seen).await?.identity;
            if !only.is_empty()
                && let Some(why) = before.as_ref().and_then(|before| of_another(&before.record, &server, log.as_ref()))
            {
                return Err(family.needs_seed(report, stop, &why)?);
            }
            let record = FamilyRecord {
                snapshot: seen.cursor().to_owned(),
                database: log.as_ref().map(|log| log.mark(&server)),
                witnesses: log.as_ref().map(LogIdentity::own).cloned().into_iter().collect(),
                output: family.output(),
                settings: Some(family.settings_mark()),
                parameters: Vec::new(),
                variants: Vec::new(),
            };
            Ok((members, record))
        };
        let look = async |restarts| look(restarts).await.inspect_err(|_error| tileset_run.release_snapshot());
        let (mut members, mut record) = restarting(settings, report, stop, look).await?;
        record.parameters.clone_from(&members.table.parameters);
        let variants = members.segments.iter().zip(&members.table.rows);
        let variant = |(segments, values): (&Vec<ValueSegment>, &Vec<String>)| RecordedVariant {
            segments: segments.clone(),
            values: values.clone(),
            publication: None,
            vanished: false,
        };
        record.variants = variants.map(variant).collect();
        if let Some(before) = &mut before
            && let Some(what) = before.differs_from(&record)
        {
            if !force || !only.is_empty() {
                return Err(family.is_another(what, &before.record).into());
            }
            // With `force`, the targets of the other family stay as they are.
            if what != OtherFamily::Conditions {
                before.record.variants.clear();
            }
        }
        let mut all = family.all()?;
        if !only.is_empty() {
            members.keep(only, family)?;
            record.variants.retain(|variant| members.segments.contains(&variant.segments));
            all = None;
        }
        let old = before.iter().flat_map(|before| &before.record.variants);
        let old = old.filter_map(|old| Some((family.output_of(&old.segments), old.publication.clone()?)));
        let publications = old.collect();
        let cursor = before.as_ref().and_then(|before| before.cursor.clone());
        let witnesses = before.as_ref().map(|before| before.record.witnesses.clone()).unwrap_or_default();
        let targets = FamilyTargets { options, cursor, witnesses, publications, alone: Mutex::new(()) };
        let count = record.variants.len();
        let tally = FamilyTally::new(family, count, count + usize::from(all.is_some()));
        Ok(FamilyRun { family, options, before, members, all, targets, tally, record, begun })
    }

    /// Runs `step` on the snapshot of the run, and again on a new one if the database goes away.
    async fn on_snapshot<T>(
        &self,
        step: impl AsyncFn(&TilesetRun) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let FamilyOptions { report, stop, snapshot, .. } = self.options;
        let tileset_run = self.family.tileset_run(report, stop)?.with_snapshot(snapshot);
        let step = async |_restarts| step(&tileset_run).await.inspect_err(|_error| tileset_run.release_snapshot());
        restarting(&tileset_run.settings.database, report, stop, step).await
    }

    /// The rows of all variants, read once; `None` if each variant has to read its own.
    pub(crate) async fn cache(&self) -> Result<Option<FamilyCache>, CommandError> {
        self.on_snapshot(async |tileset_run| Box::pin(FamilyCache::read(self, tileset_run)).await).await
    }

    /// Reads which of the cached rows belong to which variant. The tileset without conditions may be drawn from the
    /// cache meanwhile. False if each variant has to read its own rows.
    pub(crate) async fn read_members(&self, cache: &FamilyCache) -> Result<bool, CommandError> {
        let FamilyOptions { report, stop, .. } = self.options;
        match Box::pin(cache.read_members(self, &self.family.tileset_run(report, stop)?)).await {
            // The session is lost, so it cannot be told which rows belong to which variant.
            Err(error) if matches!(error.kind(), ErrorKind::Transient(_)) => {
                tracing::debug!("each variant reads its own rows: {error}");
                self.options.snapshot.release();
                Ok(false)
            }
            read => read,
        }
    }

    /// The sessions that draw one variant after the other; `None` if each variant needs sessions of its own.
    pub(crate) async fn sessions(&self) -> Result<Option<FamilySessions>, CommandError> {
        self.on_snapshot(async |tileset_run| Box::pin(FamilySessions::open(self, tileset_run)).await).await
    }

    /// What the changes mean for all variants; `None` if each has to be looked at by itself.
    pub(crate) async fn look(&self) -> Result<Option<FamilyLook>, CommandError> {
        self.on_snapshot(async |tileset_run| Box::pin(FamilyLook::begin(self, tileset_run)).await).await
    }

    /// The outcome of a run that has nothing to do; `None` if there is something to do. There is nothing to do if the
    /// values are those of the family's manifest, and each of its variants has a target that shows the manifest's
    /// state.
    pub(crate) fn unchanged(&self) -> Option<FamilyOutcome> {
        let before = &self.before.as_ref()?.record;
        let (vanished, standing): (Vec<_>, Vec<_>) = before.variants.iter().partition(|variant| variant.vanished);
        let now = &self.record.variants;
        let before_by_segments: HashMap<_, _> = standing
            .iter()
            .map(|variant| (&variant.segments, (&variant.values, variant.publication.is_some())))
            .collect();
        let is_as_before = |now: &RecordedVariant| before_by_segments.get(&now.segments) == Some(&(&now.values, true));
        // Each target has an outbox of its own, in which an earlier run may have left something for CDNs.
        let is_done = (vanished.is_empty() || !self.options.prunes)
            && self.family.settings().tileset.purges.is_empty()
            && before.parameters == self.record.parameters
            && now.len() == standing.len()
            && now.iter().all(is_as_before);
        if !is_done {
            return None;
        }
        let mut report = self.tally.report.clone();
        report.snapshot.clone_from(&before.snapshot);
        let output_of = |variant: &&RecordedVariant| self.family.output_of(&variant.segments).display().to_string();
        report.vanished = vanished.iter().map(output_of).collect();
        report.seconds = self.begun.elapsed().as_secs_f64();
        Some(FamilyOutcome { report, complete: Ok(()), not_compacted: None })
    }

    /// Ends the run: handles vanished variants and writes the manifest. Its snapshot stays as it was if a variant
    /// failed.
    pub(crate) async fn finish(mut self) -> Result<FamilyOutcome, CommandError> {
        if !self.options.only.is_empty() {
            return Box::pin(self.finish_part()).await;
        }
        let FamilyOptions { prunes, dry_run, report, stop, .. } = self.options;
        let now: HashSet<&Vec<ValueSegment>> = self.record.variants.iter().map(|variant| &variant.segments).collect();
        let before = self.before.iter().flat_map(|before| &before.record.variants);
        let gone: Vec<RecordedVariant> = before.filter(|variant| !now.contains(&variant.segments)).cloned().collect();
        for variant in gone {
            let mut settings = self.family.settings().clone();
            settings.tileset.output = self.family.output_of(&variant.segments);
            settings.tileset.variants = None;
            let output = settings.tileset.output.clone();
            if !prunes {
                self.tally.report.vanished.push(output.display().to_string());
                self.record.variants.push(RecordedVariant { vanished: true, publication: None, ..variant });
                continue;
            }
            let target = TilesetRun::new(settings, false, report, stop)?.target;
            match spawn_blocking(move || remove_target(&target)).await? {
                Ok(_was_there) => self.tally.report.removed.push(output.display().to_string()),
                Err(error) => {
                    self.tally.failed(&output, error, stop)?;
                    self.record.variants.push(RecordedVariant { vanished: true, publication: None, ..variant });
                }
            }
        }
        for variant in self.record.variants.iter_mut().filter(|variant| !variant.vanished) {
            let output = self.family.output_of(&variant.segments);
            let publication = self.tally.published.get(&output).or_else(|| self.targets.publications.get(&output));
            variant.publication = publication.cloned();
        }
        let FamilyRun { family, before, mut tally, record, begun, .. } = self;
        let not_compacted = tally.not_compacted.take();
        let are_published = tally.are_published();
        let (mut done, complete) = tally.ended();
        // A variant that failed is behind, so the manifest keeps its old snapshot, from which the next run begins.
        let snapshot = match (&complete, &before) {
            (Err(_), Some(StoredFamily { record: before, .. })) => before.snapshot.clone(),
            _ => record.snapshot.clone(),
        };
        // Other variants show the state of this run, whose witness vouches for all states before it, too.
        let witnesses = match &before {
            Some(StoredFamily { record: before, .. }) if record.witnesses.is_empty() => before.witnesses.clone(),
            _ => record.witnesses.clone(),
        };
        done.snapshot.clone_from(&snapshot);
        let is_known = before.as_ref().is_some_and(|before| before.cursor.is_some());
        if !dry_run && (complete.is_ok() || is_known || are_published) {
            let written = WrittenFamily { record: FamilyRecord { snapshot, witnesses, ..record }, before };
            family.write(written, report, stop).await?;
        }
        done.seconds = begun.elapsed().as_secs_f64();
        Ok(FamilyOutcome { report: done, complete, not_compacted })
    }
}

impl FamilyTargets<'_> {
    /// What a target shows according to the family's manifest.
    pub(crate) fn known(&self, output: &Path) -> Option<KnownState> {
        let known = self.cursor.clone().zip(self.publications.get(output).cloned());
        known.map(|(cursor, publication)| KnownState { cursor, witnesses: self.witnesses.clone(), publication })
    }

    /// The run of one target. Creates the folder of the target.
    pub(crate) fn tileset_run(&self, settings: Settings) -> Result<TilesetRun, CommandError> {
        let FamilyOptions { force, dry_run, report, stop, snapshot, .. } = self.options;
        let output = settings.tileset.output.clone();
        let known = self.known(&output);
        let tileset_run =
            TilesetRun::new(settings, *force, report, stop)?.with_known_state(known).with_snapshot(snapshot);
        let tileset_run = match &self.options.caller {
            Some(caller) => tileset_run.with_gate_and_listeners_of(caller),
            None => tileset_run,
        };
        if !dry_run
            && !tileset_run.target.url.is_in_bucket()
            && let Some(folder) = output.parent()
        {
            let failed = |source| SeveralError::NoVariantFolder { path: folder.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        Ok(tileset_run)
    }
}

// What a run has done to the variants of a family so far.

/// The result of a run so far.
pub(crate) struct FamilyTally {
    pub(crate) report: FamilyReport,
    /// The publications of the targets that the run has written, by the targets' outputs.
    pub(crate) published: HashMap<PathBuf, String>,
    /// Why an archive could not be written anew because of its dead bytes.
    pub(crate) not_compacted: Option<String>,
    failed: FailedTargets,
}

impl FamilyTally {
    /// Nothing is done yet of `variants` variants and `of` targets.
    fn new(family: &Family, variants: usize, of: usize) -> FamilyTally {
        let report = FamilyReport {
            tileset: family.name().to_owned(),
            output: family.output(),
            variants: variants as u64,
            ..FamilyReport::default()
        };
        let failed = FailedTargets::none(SeveralTargets::VariantsOf(family.name().to_owned()), of);
        FamilyTally { report, published: HashMap::new(), not_compacted: None, failed }
    }

    /// Counts a seeded target.
    pub(crate) fn seeded(&mut self, output: PathBuf, done: &RunReport) {
        self.report.seeded += 1;
        self.report.written += done.written;
        self.report.unchanged += done.unchanged;
        self.report.deleted += done.deleted;
        self.report.features += done.features;
        self.report.bytes += done.bytes;
        self.shows(output, Some(&done.manifest));
    }

    /// Counts a target that was brought up to date.
    pub(crate) fn reseeded(&mut self, output: PathBuf, done: &ReseedReport) {
        self.report.reseeded += 1;
        self.report.written += done.written;
        self.report.unchanged += done.unchanged;
        self.report.deleted += done.deleted;
        self.report.bytes += done.bytes;
        self.shows(output, done.manifest.as_ref());
    }

    /// Counts a target that would be brought up to date.
    pub(crate) fn planned(&mut self, plan: &DirtyReport) {
        let is_dirty = plan.zooms.as_ref().is_none_or(|zooms| zooms.iter().any(|zoom| zoom.tiles > 0));
        self.report.reseeded += u64::from(is_dirty);
    }

    /// Notes which publication a target shows.
    pub(crate) fn shows(&mut self, output: PathBuf, manifest: Option<&Manifest>) {
        let publication = manifest.and_then(|manifest| manifest.publication.clone());
        self.published.extend(publication.map(|publication| (output, publication.id)));
    }

    /// Counts and reports a target that failed. Returns the error if the other targets would fail, too.
    pub(crate) fn failed(&mut self, output: &Path, error: CommandError, stop: &Stop) -> Result<(), CommandError> {
        self.failed.add(output.display().to_string(), error, stop)
    }

    /// True if all targets that failed were published, without some of their tiles.
    fn are_published(&self) -> bool {
        self.failed.are_published()
    }

    /// The report, and the error of the run if targets have failed.
    pub(crate) fn ended(self) -> (FamilyReport, Result<(), CommandError>) {
        (FamilyReport { failed: self.failed.listed(), ..self.report }, self.failed.result())
    }
}
