//! `shards run` for whole targets: seeds each target of a shard into its final place, and notes that the shard is done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::super::attempt::{OwnShard, ShardEnd};
use super::super::check::check_history;
use super::super::slots::{Places, SESSIONS_BESIDE_WORKERS};
use super::check::{check_tilesets, job_of};
use crate::config::JobSettings;
use crate::error::ErrorKind;
use crate::manifest::{DatabaseMark, Witness};
use crate::postgis::server_of;
use crate::report::{Report, RunReport, say_problem};
use crate::run::attempts::{aside, restarting};
use crate::run::describe::{LogIdentity, compare};
use crate::run::family_seed::seed_one;
use crate::run::seed::seed_target;
use crate::run::variants::{FamilyCachePart, FamilyRun};
use crate::run::{CommandError, Family, FamilyOptions, FamilyWork, Job, RecordedVariant, SharedSnapshot, WriteGuard};
use crate::shards::{
    AttemptNote, OutputRange, SeededFamily, SeededList, ShardsError, TargetsDone, TargetsPart, TargetsPlan, WorkFolder,
};
use crate::sink::{BeforeManifest, BeforeManifestError, NoteError, PublishedTiles};
use crate::stop::Stop;

/// The pause before a target that another run writes is tried again.
const PAUSE_WHILE_HELD: Duration = Duration::from_secs(1);

/// The most variants in one note. Each takes at most 400 bytes.
pub(super) const MAX_LISTED: usize = 2_000;

/// The most outputs that an error names.
const MAX_NAMED: usize = 5;

/// Seeds the targets of the shard `number`, counted from 1. `of_variants` receives the events of each variant's run.
///
/// # Errors
/// If a target could not be seeded, the settings are not those of the plan, or the run was given up.
pub async fn run_targets(
    all: &[JobSettings],
    work: &WorkFolder,
    plan: &TargetsPlan,
    number: u32,
    shown: [&Arc<dyn Report>; 2],
    stop: &Stop,
) -> Result<ShardEnd, CommandError> {
    check_tilesets(all, work, plan)?;
    let Some(first) = all.first() else { return Err(ShardsError::NoPlan { work: work.name.clone() }.into()) };
    let snapshot = SharedSnapshot::default();
    let [report, of_variants] = shown;
    let job = job_of(first, plan.force, report, stop)?.sharing(&snapshot);
    let own = OwnShard { job: &job, work, run: &plan.run, number };
    let places = Places {
        run: &plan.run,
        connections: plan.connections,
        shards: u32::try_from(plan.shards.len()).unwrap_or(u32::MAX),
        // One more session holds the snapshot that all targets share.
        further: SESSIONS_BESIDE_WORKERS + 1,
    };
    let guard = Arc::new(WhileItGoesOn { work: work.clone(), run: plan.run.clone(), shard: number });
    let seeding = Seeding { all, plan, own, snapshot, of_variants, guard };
    own.attempted(places, async |attempt| Box::pin(seeding.seeded(attempt)).await).await
}

/// Lets a target be written and published only while its run goes on and no other attempt has done its shard, so that an attempt that wakes up
/// late changes nothing. The commit and other attempts cannot write a target while this attempt has locked it.
#[derive(Debug)]
struct WhileItGoesOn {
    work: WorkFolder,
    run: String,
    shard: u32,
}

impl WhileItGoesOn {
    fn goes_on(&self) -> Result<bool, ShardsError> {
        Ok(self.work.end_of(&self.run)?.is_none() && self.work.done_figures(&self.run, self.shard)?.is_none())
    }

    fn late(&self) -> ShardsError {
        ShardsError::Late { shard: self.shard, run: self.run.clone() }
    }
}

impl WriteGuard for WhileItGoesOn {
    fn may_write(&self) -> Result<(), CommandError> {
        if self.goes_on()? { Ok(()) } else { Err(self.late().into()) }
    }
}

impl BeforeManifest for WhileItGoesOn {
    fn stored(&self, _stored: &PublishedTiles) -> Result<(), BeforeManifestError> {
        match self.goes_on() {
            Ok(true) => Ok(()),
            Err(ShardsError::Note(error)) => Err(error.into()),
            Ok(false) | Err(_) => {
                let place = format!("shard {} of run {}", self.shard, self.run);
                Err(NoteError::Changed { place }.into())
            }
        }
    }
}

/// A shard that is being seeded.
struct Seeding<'a> {
    all: &'a [JobSettings],
    plan: &'a TargetsPlan,
    own: OwnShard<'a>,
    snapshot: SharedSnapshot,
    of_variants: &'a Arc<dyn Report>,
    guard: Arc<WhileItGoesOn>,
}

/// What was seeded so far, and what failed.
#[derive(Default)]
struct SeededSoFar {
    families: Vec<SeededFamily>,
    targets: u64,
    tiles: u64,
    bytes: u64,
    failed: Vec<(String, ErrorKind)>,
}

impl SeededSoFar {
    fn add(&mut self, done: &RunReport) {
        self.targets += 1;
        self.tiles += done.manifest.stored;
        self.bytes += done.bytes;
    }

    /// Adds a target that failed. Returns the error if the other targets would fail, too.
    fn add_failed(&mut self, output: String, error: CommandError, stop: &Stop) -> Result<(), CommandError> {
        let kind = error.kind();
        let ends_all = matches!(kind, ErrorKind::Interrupted | ErrorKind::Transient(_))
            || matches!(error, CommandError::Restarts { .. } | CommandError::HeldUp { .. })
            || matches!(error, CommandError::Shards(ShardsError::Late { .. } | ShardsError::Aborted { .. }));
        if stop.asked().is_some() || ends_all {
            return Err(error);
        }
        say_problem(&error);
        self.failed.push((output, kind));
        Ok(())
    }

    /// # Errors
    /// If targets have failed. The shard is then tried again, unless the configuration is wrong for all of them.
    fn complete(&self, shard: u32) -> Result<(), ShardsError> {
        let Some((_, first)) = self.failed.first() else { return Ok(()) };
        let is_usage = self.targets == 0 && self.failed.iter().all(|(_, kind)| kind == first);
        let kind = if is_usage && *first == ErrorKind::Usage { ErrorKind::Usage } else { ErrorKind::Failed };
        let more = if self.failed.len() > MAX_NAMED { ", …" } else { "" };
        let named: Vec<&str> = self.failed.iter().take(MAX_NAMED).map(|(output, _)| output.as_str()).collect();
        Err(ShardsError::FailedTargets {
            shard,
            failed: self.failed.len() as u64,
            of: self.failed.len() as u64 + self.targets,
            named: named.join(", ") + more,
            kind,
        })
    }
}

impl Seeding<'_> {
    async fn seeded(&self, attempt: &AttemptNote) -> Result<ShardEnd, CommandError> {
        let (begun, stop) = (Instant::now(), &self.own.job.stop);
        let (work, run, shard) = (self.own.work, &self.plan.run, self.own.number);
        let (cursor, ..) = self.look().await?;
        let parts = usize::try_from(shard).ok().and_then(|shard| self.plan.shards.get(shard.checked_sub(1)?));
        let mut so_far = SeededSoFar::default();
        for part in parts.iter().flat_map(|shard| &shard.parts) {
            let Some(settings) = self.all.get(part.tileset) else { continue };
            match Family::of(settings) {
                None => {
                    let job = self.job(Job::new(settings.clone(), self.plan.force, &self.own.job.report, stop)?);
                    let output = settings.tileset.output.display().to_string();
                    let seeded = self.while_written_by_others(async || {
                        let done = Box::pin(seed_target(&job)).await?;
                        job.purge_published(false).await?;
                        Ok(done)
                    });
                    match seeded.await {
                        Ok(done) => so_far.add(&done),
                        Err(error) => so_far.add_failed(output, error, stop)?,
                    }
                }
                Some(family) => Box::pin(self.family(&family, part, attempt, &mut so_far)).await?,
            }
        }
        so_far.complete(shard)?;
        let (_, seen, witness) = self.look().await?;
        let done = TargetsDone {
            shard,
            attempt: attempt.attempt.clone(),
            cursor,
            seen,
            witness,
            families: so_far.families,
            targets: so_far.targets,
            tiles: so_far.tiles,
            bytes: so_far.bytes,
            seconds: begun.elapsed().as_secs_f64(),
        };
        if let Some(end) = self.own.late().await? {
            return Ok(end);
        }
        let (folder, run, tiles) = (work.clone(), run.clone(), done.tiles);
        let is_first = aside(move || folder.write_targets_done(&run, &done)).await??;
        Ok(if is_first { ShardEnd::Done { tiles } } else { ShardEnd::AlreadyDone })
    }

    /// The cursor of the shard's snapshot, the state that it has seen, and the witness of the cursor. Refuses another database than that of the plan.
    async fn look(&self) -> Result<(String, String, Option<Witness>), CommandError> {
        let job = self.own.job;
        let look = async |_restarts| {
            let look = async {
                let taken = job.take_snapshot(&job.database()?, false).await?;
                let identity = server_of(&taken).await?.identity;
                let of_plan = self.plan.witness.iter().map(|witness| witness.snapshot.as_str());
                let asked = of_plan.chain([taken.cursor()]);
                let log = LogIdentity::read(&taken, &job.settings.database.changes.schema, asked).await?;
                Ok::<_, CommandError>((taken.cursor().to_owned(), taken.exported().seen().to_owned(), identity, log))
            };
            look.await.inspect_err(|_error| job.release_snapshot())
        };
        let (cursor, seen, identity, log) = restarting(&job.settings.database, &job.report, &job.stop, look).await?;
        if let Err(why) = compare(Some(&DatabaseMark::Plain(self.plan.database.clone())), &identity, None) {
            let why = why.replacen("it shows", "its plan is of", 1).replace(": its snapshot says nothing here", "");
            let (work, run) = (self.own.work.name.clone(), self.plan.run.clone());
            return Err(ShardsError::OtherDatabase { work, run, why }.into());
        }
        check_history(self.own.work, &self.plan.run, log.as_ref(), &self.plan.witness)?;
        let witness = log.and_then(|log| log.witness(&cursor).cloned());
        Ok((cursor, seen, witness))
    }

    /// A run on the snapshot of the shard, which writes and publishes only while no other attempt has done the shard and its run goes on.
    fn job(&self, job: Job) -> Job {
        let guard = &self.guard;
        let job = job.sharing(&self.snapshot).guarded(Arc::clone(guard) as Arc<dyn WriteGuard>);
        job.with_listener(Arc::clone(guard) as Arc<dyn BeforeManifest>)
    }

    /// Seeds variants of a family, as many in parallel as a seed does.
    async fn family(
        &self,
        family: &Family,
        part: &TargetsPart,
        attempt: &AttemptNote,
        so_far: &mut SeededSoFar,
    ) -> Result<(), CommandError> {
        let stop = &self.own.job.stop;
        let options = FamilyOptions {
            force: self.plan.force,
            prunes: false,
            dry_run: false,
            work: FamilyWork::Seed,
            report: Arc::clone(self.of_variants),
            stop: stop.clone(),
            snapshot: self.snapshot.clone(),
            like: Some(self.job(family.watched(self.of_variants, stop)?)),
            parts: None,
        };
        let mut run = FamilyRun::begin(family, &options).await?;
        let range = part.variants.clone();
        let is_own = |output: &str| range.as_ref().is_some_and(|range: &OutputRange| range.contains(output));
        run.keep_part(is_own, part.whole);
        let cache = Box::pin(run.cache()).await?.map(Arc::new);
        let has_members = match &cache {
            Some(cache) => Box::pin(run.read_members(cache)).await?,
            None => false,
        };
        let cache = cache.filter(|_| has_members);
        let targets = &run.targets;
        let each = run.members.each_target(family, run.all.as_ref()).map(|(variant, settings)| {
            let cache = cache.clone().map(|cache| FamilyCachePart { cache, variant });
            async move {
                let settings = settings?;
                let output = settings.tileset.output.clone();
                let seeded = self.while_written_by_others(async || {
                    Box::pin(seed_one(targets, settings.clone(), cache.clone())).await
                });
                Ok::<_, CommandError>((output, seeded.await))
            }
        });
        let side_by_side = if cache.is_some() { family.settings().run.workers.get() } else { 1 };
        let mut ended = Box::pin(futures_util::stream::iter(each).buffer_unordered(side_by_side));
        while let Some(target) = ended.next().await {
            let (output, done) = target?;
            match done {
                Ok(done) => {
                    so_far.add(&done);
                    run.published.extend(done.manifest.publication.map(|publication| (output, publication.id)));
                }
                Err(error) => so_far.add_failed(output.display().to_string(), error, stop)?,
            }
        }
        drop(ended);
        so_far.families.push(self.listed(part.tileset, run.database(), run.seeded(), attempt).await?);
        Ok(())
    }

    /// Notes which variants were seeded.
    async fn listed(
        &self,
        tileset: usize,
        database: Option<DatabaseMark>,
        seeded: Vec<RecordedVariant>,
        attempt: &AttemptNote,
    ) -> Result<SeededFamily, CommandError> {
        let (folder, run, shard) = (self.own.work.clone(), self.plan.run.clone(), self.own.number);
        let attempt = attempt.attempt.clone();
        let lists = aside(move || {
            let mut lists = 0;
            for list in seeded.chunks(MAX_LISTED) {
                let name = SeededList { shard, attempt: &attempt, tileset, number: lists };
                folder.write_seeded(&run, name, &list)?;
                lists += 1;
            }
            Ok::<_, ShardsError>(lists)
        });
        Ok(SeededFamily { tileset, database, lists: lists.await?? })
    }

    /// Seeds a target; waits while another attempt at the shard writes it.
    async fn while_written_by_others(
        &self,
        seed: impl AsyncFn() -> Result<RunReport, CommandError>,
    ) -> Result<RunReport, CommandError> {
        loop {
            let error = match seed().await {
                Err(error) => error,
                done => return done,
            };
            if self.own.job.stop.asked().is_some() {
                return Err(error);
            }
            // If the attempt is late, its targets do not matter any more, however this one ended.
            match self.own.late().await {
                Ok(Some(_end)) => return Err(self.guard.late().into()),
                Err(CommandError::Shards(aborted @ ShardsError::Aborted { .. })) => return Err(aborted.into()),
                Ok(None) | Err(_) => {}
            }
            match &error {
                CommandError::Target(held) if held.is_held() => tracing::info!("{error}"),
                _ => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE_WHILE_HELD) => {}
                signal = self.own.job.stop.wait() => return Err(CommandError::Interrupted(signal)),
            }
        }
    }
}
