//! A reseed of all variants of a tileset, on one snapshot. Variants with new values are seeded, variants that a change
//! may concern are brought up to date, and the others are skipped.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::task::spawn_blocking;

use super::compaction::Compaction;
use super::watch::{Watched, not_compacted, with_cause};
use super::{ReseedOptions, ReseedOutcome, SeedInstead, reseed_or_not_compacted, say_not_compacted, watch};
use crate::config::{Settings, ValueSegment};
use crate::error::ErrorKind;
use crate::report::{Event, FamilyReport};
use crate::run::family::{FamilyLook, FamilyRun, UntouchedVariant, VariantState};
use crate::run::family_seed::{FamilySource, seed_family_target};
use crate::run::purge::PurgeTask;
use crate::run::target::TargetState;
use crate::run::{CommandError, Family, FamilyOptions, FamilyOutcome, FamilyWork, SharedSnapshot, Target, TilesetRun};
use crate::serve::JobStore;

/// Brings every variant of a tileset up to date. Fails if the family was never seeded, or the values cannot be read, or
/// the database is lost. Variants that fail are part of the outcome.
pub(crate) async fn reseed_family(
    family: &Family,
    options: &FamilyOptions,
    reseeding: &ReseedOptions,
) -> Result<FamilyOutcome, CommandError> {
    let mut run = FamilyRun::begin(family, options).await?;
    let known: HashSet<Vec<ValueSegment>> = match &run.before {
        // A variant that had vanished was not kept up to date.
        Some(before) => before
            .record
            .variants
            .iter()
            .filter(|variant| !variant.vanished)
            .map(|variant| variant.segments.clone())
            .collect(),
        None if reseeding.seeds == SeedInstead::WhereNeeded => HashSet::new(),
        None => {
            return Err(family.needs_seed(
                &options.report,
                &options.stop,
                "its variants were never seeded, or some of them could not be",
            )?);
        }
    };
    let look = match Box::pin(run.look()).await {
        // Each variant is then seeded for a reason of its own.
        Err(error) if reseeding.seeds == SeedInstead::WhereNeeded && error.kind() == ErrorKind::NeedsSeed => None,
        look => look?,
    };
    if options.work == FamilyWork::LookAgain
        && look.as_ref().is_some_and(FamilyLook::is_without_changes)
        && let Some(nothing) = run.unchanged()
    {
        return Ok(nothing);
    }
    let mut put_off = Vec::new();
    if let Some(all) = run.all.take()
        && one(&mut run, reseeding, all.clone(), true).await?
    {
        put_off.push(all);
    }
    let mut untouched = match look {
        Some(look) => untouched(&run, look, &known).await?,
        None => HashMap::new(),
    };
    for number in 0..run.members.table.rows.len() {
        let table = &run.members.table;
        let settings = family.variant(&table.parameters, &table.rows[number])?;
        if let Some(UntouchedVariant { publication, dead }) = untouched.remove(&number) {
            run.tally.published.insert(settings.tileset.output.clone(), publication);
            if reseeding.dry_run {
                continue;
            }
            if reseeding.compaction.is_due(dead) {
                put_off.push(settings);
            } else if !settings.tileset.purges.is_empty() {
                notify_cdns(&mut run, settings).await?;
            }
            continue;
        }
        let is_known = known.contains(&run.members.segments[number]);
        if !is_known {
            run.tally.report.added.push(settings.tileset.output.display().to_string());
        }
        if one(&mut run, reseeding, settings, is_known).await? {
            let table = &run.members.table;
            put_off.push(family.variant(&table.parameters, &table.rows[number])?);
        }
    }
    let compacting = ReseedOptions { compaction: reseeding.compaction.now(), ..reseeding.clone() };
    for settings in put_off {
        // After one that could not be written, the others have to wait as well.
        if run.tally.not_compacted.is_none() {
            compacted(&mut run, &compacting, settings).await?;
        }
    }
    let done = run.finish().await?;
    if let Some(why) = done.not_compacted.as_ref().filter(|_| !reseeding.is_watch) {
        // A watch says when it tries it again.
        say_not_compacted(&options.report, why);
    }
    Ok(done)
}

/// Writes the archive of a variant anew that shows all changes already, so that an error is only told.
async fn compacted(run: &mut FamilyRun<'_>, options: &ReseedOptions, settings: Settings) -> Result<(), CommandError> {
    let output = settings.tileset.output.clone();
    let tileset_run = run.targets.tileset_run(settings)?;
    let written = async {
        let outcome = Box::pin(reseed_or_not_compacted(&tileset_run, options)).await?;
        tileset_run.purge_published(false).await?;
        outcome.check_complete()?;
        Ok::<_, CommandError>(outcome)
    };
    match written.await {
        Ok(ReseedOutcome::Done(done)) => run.tally.shows(output, done.manifest.as_ref()),
        Ok(ReseedOutcome::Nothing | ReseedOutcome::Planned(_) | ReseedOutcome::Seeded(_)) => {}
        // A stop ends the run where it is noticed next.
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => run.tally.not_compacted = Some(not_compacted(&output.display(), &error)),
    }
    Ok(())
}

/// The variants that no change concerns, by their numbers. Reads their targets, as many in parallel
/// as there are workers.
async fn untouched(
    run: &FamilyRun<'_>,
    look: FamilyLook,
    known: &HashSet<Vec<ValueSegment>>,
) -> Result<HashMap<usize, UntouchedVariant>, CommandError> {
    let (family, table, options) = (run.family, &run.members.table, run.options);
    let mut asked = Vec::new();
    for (number, segments) in run.members.segments.iter().enumerate().filter(|(_, one)| known.contains(*one)) {
        let known = run.targets.known(&family.output_of(segments));
        asked.push((number, known, table.rows[number].clone()));
    }
    let workers = family.settings().run.workers.get();
    let (look, parameters) = (Arc::new(look), Arc::new(table.parameters.clone()));
    let parts = asked.chunks(asked.len().div_ceil(workers).max(1)).map(|part| {
        let (part, look, parameters, family) =
            (part.to_vec(), Arc::clone(&look), Arc::clone(&parameters), family.clone());
        let (report, stop) = (Arc::clone(&options.report), options.stop.clone());
        spawn_blocking(move || {
            let mut untouched = Vec::new();
            for (number, known, row) in part {
                stop.check()?;
                let settings = family.variant(&parameters, &row)?;
                let target = TilesetRun::new(settings.clone(), false, &report, &stop)?.with_known_state(known).target;
                if let VariantState::Untouched(variant) = look.state_of(number, &settings, &target) {
                    untouched.push((number, variant));
                }
            }
            Ok::<_, CommandError>(untouched)
        })
    });
    let parts = try_join_all(parts).await?;
    let mut all = HashMap::new();
    for part in parts {
        all.extend(part?);
    }
    tracing::debug!("{} of {} variants are untouched", all.len(), asked.len());
    Ok(all)
}

/// Sends CDNs what an earlier run of a variant has left in the outbox.
async fn notify_cdns(run: &mut FamilyRun<'_>, settings: Settings) -> Result<(), CommandError> {
    let output = settings.tileset.output.clone();
    let tileset_run = run.targets.tileset_run(settings)?;
    if let Err(error) = tileset_run.purge_published(false).await {
        run.tally.failed(&output, error, &run.options.stop)?;
    }
    Ok(())
}

/// Brings one target up to date, or seeds it if it is new. Its failure does not stop the others. Returns true if it is
/// time to write its archive anew, and that was put off.
async fn one(
    run: &mut FamilyRun<'_>,
    options: &ReseedOptions,
    settings: Settings,
    is_known: bool,
) -> Result<bool, CommandError> {
    let output = settings.tileset.output.clone();
    let mut not_compacted_now = None;
    let reseeded = async {
        if !is_known {
            if options.dry_run {
                return Ok((ReseedOutcome::Nothing, None));
            }
            let done = Box::pin(seed_family_target(&run.targets, settings, FamilySource::Own)).await?;
            return Ok((ReseedOutcome::Seeded(Box::new(done)), None));
        }
        let tileset_run = run.targets.tileset_run(settings)?;
        let before = publication_of(&tileset_run.target).await?;
        let outcome = match Box::pin(reseed_or_not_compacted(&tileset_run, options)).await {
            Err(CommandError::NotCompacted(error)) => {
                let outcome = Box::pin(reseed_or_not_compacted(&tileset_run, &options.without_compaction())).await?;
                not_compacted_now = Some(not_compacted(&tileset_run.target, &error));
                outcome
            }
            outcome => outcome?,
        };
        if !options.dry_run {
            tileset_run.purge_published(false).await?;
        }
        outcome.check_complete()?;
        // The target shows the state of the run, unless it was replaced meanwhile.
        let is_nothing = matches!(outcome, ReseedOutcome::Nothing);
        let stays = is_nothing && before.is_some() && publication_of(&tileset_run.target).await? == before;
        Ok((outcome, before.filter(|_| stays)))
    };
    let reseeded = reseeded.await;
    let (tally, mut has_put_off_compaction) = (&mut run.tally, false);
    tally.not_compacted = tally.not_compacted.take().or(not_compacted_now);
    match reseeded {
        Ok((outcome, unchanged)) => match &outcome {
            ReseedOutcome::Nothing => tally.published.extend(unchanged.map(|publication| (output, publication))),
            ReseedOutcome::Planned(plan) => tally.planned(plan),
            ReseedOutcome::Done(done) => {
                has_put_off_compaction = done.has_put_off_compaction;
                tally.reseeded(output, done);
            }
            ReseedOutcome::Seeded(done) => tally.seeded(output, done),
        },
        Err(error) => tally.failed(&output, error, &run.options.stop)?,
    }
    Ok(has_put_off_compaction)
}

/// The id of the publication that a target shows; `None` if it cannot be read.
async fn publication_of(target: &Target) -> Result<Option<String>, CommandError> {
    let target = target.clone();
    let state = spawn_blocking(move || TargetState::read(&target)).await?;
    Ok(state.ok().and_then(|state| Some(state.manifest.publication?.id)))
}

// A watch that keeps all variants of a tileset up to date.

/// The most variants that one warning names.
const MAX_NAMED: usize = 5;

#[derive(Debug)]
pub(crate) struct FamilyLooked {
    report: FamilyReport,
    /// Why variants failed; `None` if none did.
    problem: Option<String>,
    /// Why an archive could not be written anew.
    not_compacted: Option<String>,
}

impl FamilyLooked {
    /// True if a target was written or deleted.
    fn has_published(&self) -> bool {
        let FamilyReport { written, deleted, seeded, removed, .. } = &self.report;
        *written + *deleted + *seeded > 0 || !removed.is_empty()
    }
}

/// All variants of a tileset.
pub(crate) struct WatchedFamily<'a> {
    family: &'a Family,
    /// Deletes the targets of variants whose values have vanished.
    prunes: bool,
    tileset_run: &'a TilesetRun,
    /// True if the last look brought all variants up to date.
    is_whole: Cell<bool>,
    /// What the last look did with dead bytes; [`Compaction::NEVER`] if it could not do it.
    compaction: Cell<Compaction>,
    /// The outputs of variants whose values have vanished. Each is reported only once.
    vanished: RefCell<HashSet<String>>,
}

impl<'a> WatchedFamily<'a> {
    /// `tileset_run` is a run with the family's settings, whose target is not a variant's.
    pub(crate) fn new(family: &'a Family, prunes: bool, tileset_run: &'a TilesetRun) -> WatchedFamily<'a> {
        WatchedFamily {
            family,
            prunes,
            tileset_run,
            is_whole: Cell::new(false),
            compaction: Cell::new(Compaction::NEVER),
            vanished: RefCell::default(),
        }
    }

    /// Reports the variants whose values have vanished since the last look.
    fn say_vanished(&self, now: &[String]) {
        let mut said = self.vanished.borrow_mut();
        let new: Vec<&str> = now.iter().filter(|output| !said.contains(*output)).map(String::as_str).collect();
        if !new.is_empty() {
            let more = new.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = new.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
            let message = format!(
                "{named}{more}: still there, and kept up to date no more, for its values are gone: --prune-variants deletes it"
            );
            self.tileset_run.report.warn(message);
        }
        *said = now.iter().cloned().collect();
    }
}

impl Watched for WatchedFamily<'_> {
    type Outcome = FamilyLooked;

    fn tileset_run(&self) -> &TilesetRun {
        self.tileset_run
    }

    fn purge_task(&self) -> Option<PurgeTask> {
        // Each variant has an outbox of its own, which the look sends to CDNs.
        None
    }

    async fn cursor(&self) -> Option<String> {
        let stored = self.family.stored(&self.tileset_run.report, &self.tileset_run.stop).await;
        // A manifest that cannot be read is reported by the look.
        Some(stored.ok()??.record.snapshot)
    }

    async fn look(
        &self,
        tileset_run: &TilesetRun,
        options: &ReseedOptions,
        is_first: bool,
    ) -> Result<FamilyLooked, CommandError> {
        let layers = self.family.settings().tileset.layers.iter().cloned();
        // An archive may have been left as it is that is to be written anew now.
        let has_time = options.compaction.does_more_than(self.compaction.get());
        let looks_again = !is_first && self.is_whole.get() && !has_time;
        let work = if looks_again { FamilyWork::LookAgain } else { FamilyWork::Reseed };
        let snapshot = SharedSnapshot::after_refreshing(layers);
        let run = FamilyOptions {
            prunes: self.prunes,
            caller: Some(tileset_run.clone()),
            ..FamilyOptions::new(work, Arc::clone(&tileset_run.report), &tileset_run.stop, snapshot)
        };
        self.is_whole.set(false);
        let done = Box::pin(reseed_family(self.family, &run, options)).await?;
        let problem = match done.complete {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::Partial => Some(with_cause(&error)),
            // All variants have failed for the same kind of reason, which decides what the watch does.
            Err(error) => return Err(error),
        };
        self.is_whole.set(problem.is_none());
        self.say_vanished(&done.report.vanished);
        let has_failed = done.not_compacted.is_some();
        self.compaction.set(if has_failed { Compaction::NEVER } else { options.compaction });
        Ok(FamilyLooked { report: done.report, problem, not_compacted: done.not_compacted })
    }

    fn published(&self, looked: &FamilyLooked) -> Option<Event> {
        let done = &looked.report;
        looked.has_published().then(|| Event::Published {
            target: done.output.clone(),
            variants: Some(done.seeded + done.reseeded),
            rows: None,
            dirty: None,
            tiles: done.written,
            deleted: done.deleted,
            bytes: done.bytes,
            latency_seconds: None,
            seconds: done.seconds,
        })
    }

    fn has_put_off_compaction(&self, _: &FamilyLooked) -> bool {
        // The look has done it for each variant, after all of them were published.
        false
    }

    fn not_compacted(&self, looked: &FamilyLooked) -> Option<String> {
        looked.not_compacted.clone()
    }

    fn problem(&self, looked: &FamilyLooked) -> Option<String> {
        looked.problem.clone()
    }

    async fn run_jobs(
        &self,
        _options: &ReseedOptions,
        _jobs: &JobStore,
        _each: &mut impl FnMut(&FamilyLooked) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        // Clients submit jobs for one target.
        Ok(())
    }
}

/// Runs `reseed --watch` for all variants of a tileset: brings them up to date until a stop is asked for. Calls `each`
/// with each result, and with whether anything was published. `tileset_run` is [`Family::tileset_run`].
pub(crate) async fn watch_family(
    family: &Family,
    prunes: bool,
    tileset_run: &TilesetRun,
    options: &ReseedOptions,
    mut each: impl FnMut(&FamilyReport, bool) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let watched = WatchedFamily::new(family, prunes, tileset_run);
    let each = |looked: &FamilyLooked| each(&looked.report, looked.has_published());
    Box::pin(watch::watch(&watched, options, each)).await
}
