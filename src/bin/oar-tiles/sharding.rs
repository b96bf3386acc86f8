//! `shards`: a seed on several machines.

use std::path::PathBuf;
use std::sync::Arc;

use oar_tiles::cli::{SettingFlags, Shards, ShardsBegin, ShardsCommit, ShardsRun};
use oar_tiles::command::reseed::{ReseedOptions, ReseedOutcome, SeedInstead};
use oar_tiles::command::{reseed, seed, shards};
use oar_tiles::config::JobSettings;
use oar_tiles::report::{
    FailureKind, Report, ReseedReport, Style, grouped, print, print_document, render_family, render_reseed, render_run,
    render_shards, report, say, start_log,
};
use oar_tiles::run::{CommandError, Family, FamilyOptions, FamilyWork, Job};
use oar_tiles::shards::{BegunPlan, ShardPlan, ShardsError, TargetsPlan, WorkFolder, index_of};
use oar_tiles::sink::MaxShrink;
use oar_tiles::stop::Stop;
use oar_tiles::suggested::{SHARDS_RUN, use_work};

use super::given::{resolved, resolved_all, resolved_first_without_layers};
use super::on_runtime;
use super::shown::{Closing, first_failure, style};
use super::tilesets::{file_of, for_each, have_own_files};

pub(super) fn run_shards(arguments: &Shards, stop: &Stop) -> Result<(), CommandError> {
    use_work(match arguments {
        Shards::Begin(arguments) => &arguments.work.work,
        Shards::Run(arguments) => &arguments.work.work,
        Shards::Commit(arguments) => &arguments.work.work,
        Shards::Status(arguments) => &arguments.work.work,
        Shards::Abort(arguments) => &arguments.work.work,
    });
    match arguments {
        Shards::Begin(arguments) => run_begin(arguments, stop),
        Shards::Run(arguments) => run_shard(arguments, stop),
        Shards::Commit(arguments) => run_commit(arguments, stop),
        Shards::Status(arguments) => {
            with_folder(arguments.config.as_ref(), &arguments.work.work, stop, |_job, work| {
                let status = shards::status(work)?;
                if arguments.json {
                    print_document(&status)?;
                } else {
                    print(&render_shards(&status))?;
                }
                Ok(())
            })
        }
        Shards::Abort(arguments) => with_folder(arguments.config.as_ref(), &arguments.work.work, stop, |job, work| {
            let run = shards::abort(job, work)?;
            say(&format!("run {run} was given up"));
            Ok(())
        }),
    }
}

/// Runs `run` with a work folder.
fn with_folder(
    config: Option<&PathBuf>,
    work: &str,
    stop: &Stop,
    run: impl FnOnce(&Job, &WorkFolder) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    start_log(0);
    let settings = resolved_first_without_layers(&SettingFlags { config: config.cloned(), ..SettingFlags::default() })?;
    on_runtime(async || {
        let job = shards::quiet_job(&settings, stop)?;
        let folder = job.work_folder(work)?;
        tokio::task::block_in_place(|| run(&job, &folder))
    })
}

fn run_begin(arguments: &ShardsBegin, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    let all = resolved_all(&arguments.given, true)?;
    let options = shards::BeginOptions {
        shards: arguments.shards,
        hold: arguments.hold,
        frozen: arguments.frozen,
        connections: arguments.connections,
    };
    on_runtime(async || match &all[..] {
        [settings] if settings.tileset.variants.is_none() => {
            begin_one(arguments, settings.clone(), options, stop).await
        }
        all => begin_several(arguments, all, options, stop).await,
    })
}

/// Begins a run whose shards are strips of one tileset.
async fn begin_one(
    arguments: &ShardsBegin,
    settings: JobSettings,
    options: shards::BeginOptions,
    stop: &Stop,
) -> Result<(), CommandError> {
    let shown = report(style(&settings, arguments.quiet));
    let job = Job::new(settings, arguments.force, &shown, stop)?;
    let work = job.work_folder(&arguments.work.work)?;
    let begun = Box::pin(shards::begin(&job, &work, options)).await?;
    let plan = BegunPlan::Columns(Box::new(begun.plan.clone()));
    say_begun(arguments, &plan, &format!("{} tiles", grouped(begun.plan.tiles)))?;
    if arguments.hold {
        shards::hold(&job, &work, &begun, arguments.hold_for).await?;
    }
    Ok(())
}

/// Begins a run whose shards are whole targets.
async fn begin_several(
    arguments: &ShardsBegin,
    all: &[JobSettings],
    options: shards::BeginOptions,
    stop: &Stop,
) -> Result<(), CommandError> {
    let Some(first) = all.first() else { return Ok(()) };
    let shown = report(style(first, arguments.quiet));
    let work = work_beside(all, &arguments.work.work, stop)?;
    let begun = shards::begin_targets(all, &work, options, arguments.force, &shown, stop);
    let plan = Box::pin(begun).await?;
    let targets: u64 = plan.tilesets.iter().map(|tileset| tileset.targets).sum();
    let what = format!("{} tiles of {} targets", grouped(plan.tiles), grouped(targets));
    say_begun(arguments, &BegunPlan::Targets(Box::new(plan)), &what)
}

fn say_begun(arguments: &ShardsBegin, plan: &BegunPlan, what: &str) -> Result<(), CommandError> {
    if !arguments.quiet {
        say(&format!(
            "{what} in {} shards, the heaviest {:.1} times the mean; now run each with {SHARDS_RUN}",
            plan.count(),
            plan.heaviest()
        ));
    }
    Ok(print(&format!("{}\n", plan.run()))?)
}

/// The work folder of a run over several targets. Refuses a folder that is one of the targets.
fn work_beside(all: &[JobSettings], work: &str, stop: &Stop) -> Result<WorkFolder, CommandError> {
    let mut folder = None;
    for settings in all {
        folder = Some(shards::folder(settings, work, stop)?);
    }
    folder.map_or_else(|| Err(ShardsError::NoWorkFolder { text: work.to_owned() }.into()), Ok)
}

/// The settings of a command with the target, zooms and boxes of the plan, unless flags give others.
fn of_plan(mut settings: JobSettings, flags: &SettingFlags, plan: &ShardPlan) -> Result<JobSettings, CommandError> {
    let tileset = &mut settings.tileset;
    if flags.output.is_none() {
        tileset.output = PathBuf::from(&plan.output);
    }
    if flags.zoom.is_none() {
        tileset.zooms = shards::zooms_of(plan)?;
    }
    if flags.bbox.is_empty() {
        tileset.bbox = shards::boxes_of(plan)?;
    }
    Ok(settings)
}

/// The run in a work folder.
enum FoundRun {
    /// The shards are strips of one tileset. With the job, as the plan has it.
    Columns(Box<(Job, ShardPlan)>),
    /// The shards are whole targets. With the settings of the tilesets.
    Targets(Vec<JobSettings>, Box<TargetsPlan>),
}

/// The work folder of a command, and the run in it.
fn planned(
    flags: &SettingFlags,
    work: &str,
    what: &'static str,
    force: bool,
    stop: &Stop,
    shown: impl FnOnce(&JobSettings) -> Style,
) -> Result<(WorkFolder, FoundRun), CommandError> {
    let all = resolved_all(flags, false)?;
    let folder = work_beside(&all, work, stop)?;
    match tokio::task::block_in_place(|| folder.begun())? {
        BegunPlan::Columns(plan) => {
            let settings = of_plan(resolved(flags, false, what)?, flags, &plan)?;
            let shown: Arc<dyn Report> = report(shown(&settings));
            let job = Job::new(settings, force, &shown, stop)?;
            let work = job.work_folder(work)?;
            Ok((work, FoundRun::Columns(Box::new((job, *plan)))))
        }
        BegunPlan::Targets(plan) => {
            let all = shards::of_targets_plan(all, &plan, flags.zoom.is_some(), !flags.bbox.is_empty())?;
            Ok((folder, FoundRun::Targets(all, plan)))
        }
    }
}

fn run_shard(arguments: &ShardsRun, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    on_runtime(async || {
        let shown = |settings: &JobSettings| style(settings, arguments.quiet);
        let (work, found) = planned(&arguments.given, &arguments.work.work, "shards run", false, stop, shown)?;
        let index = |run: &str, count: u32| {
            index_of(arguments.shard.as_deref(), |name: &str| std::env::var(name).ok(), run, count)
        };
        let (number, end) = match &found {
            FoundRun::Columns(found) => {
                let (job, plan) = &**found;
                let index = index(&plan.run, plan.count())?;
                (index.number, Box::pin(shards::run(job, &work, plan, index.number)).await?)
            }
            FoundRun::Targets(all, plan) => {
                let index = index(&plan.run, BegunPlan::Targets(plan.clone()).count())?;
                let shown = report(all.first().map_or(Style::Warnings, shown));
                let of_variants = report(Style::Warnings);
                let shown = [&shown, &of_variants];
                let run = shards::run_targets(all, &work, plan, index.number, shown, stop);
                (index.number, Box::pin(run).await?)
            }
        };
        if !arguments.quiet {
            say(&match end {
                shards::ShardEnd::Done { tiles } => format!("shard {number} is done: {} tiles", grouped(tiles)),
                shards::ShardEnd::AlreadyDone => format!("shard {number} was done already"),
            });
        }
        Ok(())
    })
}

fn run_commit(arguments: &ShardsCommit, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    on_runtime(async || {
        let shown = |settings: &JobSettings| style(settings, arguments.quiet);
        let found = planned(&arguments.given, &arguments.work.work, "shards commit", arguments.force, stop, shown);
        if let Err(CommandError::Shards(ShardsError::NoPlan { work })) = &found
            && let Some(run) = committed(&arguments.given, &arguments.work.work, stop)?
        {
            if !arguments.quiet {
                say(&format!("run {run} was committed already, and {work} holds no other: nothing to do"));
            }
            return Ok(());
        }
        let (work, found) = found?;
        match found {
            FoundRun::Columns(found) => Box::pin(commit_one(arguments, found.0, &work, &found.1)).await,
            FoundRun::Targets(all, plan) => Box::pin(commit_several(arguments, all, &work, &plan, stop)).await,
        }
    })
}

/// The run that was committed last, if no run ended after it. Removes what its commit has left in the work folder.
fn committed(flags: &SettingFlags, work: &str, stop: &Stop) -> Result<Option<String>, CommandError> {
    let folder = work_beside(&resolved_all(flags, false)?, work, stop)?;
    Ok(tokio::task::block_in_place(|| folder.committed())?)
}

/// Commits a run whose shards are strips of one tileset.
async fn commit_one(
    arguments: &ShardsCommit,
    mut job: Job,
    work: &WorkFolder,
    plan: &ShardPlan,
) -> Result<(), CommandError> {
    if arguments.allow_shrink {
        job.settings.tileset.max_shrink = MaxShrink::ALL;
    }
    let prints = !matches!(style(&job.settings, arguments.quiet), Style::Json | Style::Quiet);
    let closing = Closing::new(prints, arguments.report.as_ref(), &job.settings.tileset.output)?;
    let job = job.with_changed_out(arguments.changed_out.as_deref())?;
    let done = Box::pin(shards::commit(&job, work, plan, arguments.catch_up)).await?;
    // The run is committed: whatever fails from here on keeps nothing else from being tried.
    let shown = closing.show(&render_run(&done), &done);
    let purged = job.purge_published(false).await.map(drop);
    first_failure([purged, seed::complete(&done), shown, job.listed()])
}

/// Commits a run whose shards are whole targets: brings each of them to the state of one snapshot.
async fn commit_several(
    arguments: &ShardsCommit,
    all: Vec<JobSettings>,
    work: &WorkFolder,
    plan: &TargetsPlan,
    stop: &Stop,
) -> Result<(), CommandError> {
    if arguments.changed_out.is_some() {
        let next = "the notes beside each target have its changed tiles";
        return Err(ShardsError::NotForTargets { what: "--changed-out", next }.into());
    }
    have_own_files(&all, &[("--report", arguments.report.as_deref())])?;
    let Some(first) = all.first() else { return Ok(()) };
    let shown = report(style(first, arguments.quiet));
    let ready = Box::pin(shards::ready_targets(&all, work, plan, arguments.catch_up, &shown, stop)).await?;
    // A report that cannot be written does not keep the run from its end.
    let (mut number, mut unshown) = (0, Ok(()));
    let ended = for_each(all, arguments.quiet, stop, async |mut settings| {
        if arguments.allow_shrink {
            settings.tileset.max_shrink = MaxShrink::ALL;
        }
        let parts = ready.families.get(&number).cloned();
        number += 1;
        let style = style(&settings, arguments.quiet);
        let prints = !matches!(style, Style::Json | Style::Quiet);
        let file = file_of(arguments.report.as_ref(), &settings.tileset.name);
        let closing = Closing::new(prints, file.as_ref(), &settings.tileset.output)?;
        let options = ReseedOptions { seeds: SeedInstead::Versions, ..ReseedOptions::default() };
        if let Some(family) = Family::of(&settings) {
            let how = FamilyOptions {
                force: plan.force || arguments.force,
                prunes: false,
                dry_run: false,
                work: FamilyWork::Reseed,
                report: report(Style::Warnings),
                stop: stop.clone(),
                snapshot: ready.snapshot.clone(),
                like: None,
                parts: Some(parts.unwrap_or_default()),
            };
            let done = Box::pin(reseed::reseed_family(&family, &how, &options)).await?;
            unshown = first_failure([
                std::mem::replace(&mut unshown, Ok(())),
                closing.show(&render_family(&done.report), &done.report),
            ]);
            return done.complete;
        }
        let job = Job::new(settings, false, &report(style), stop)?.sharing(&ready.snapshot);
        let outcome = Box::pin(reseed::reseed(&job, &options)).await?;
        let shown = match &outcome {
            ReseedOutcome::Done(done) => closing.show(&render_reseed(done), done),
            ReseedOutcome::Seeded(done) => closing.show(&render_run(done), &**done),
            ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => {
                let nothing = ReseedReport::nothing(job.target.to_string());
                closing.show(&render_reseed(&nothing), &nothing)
            }
        };
        unshown = first_failure([std::mem::replace(&mut unshown, Ok(())), shown]);
        let purged = job.purge_published(false).await.map(drop);
        first_failure([purged, outcome.complete()])
    });
    let ended = Box::pin(ended).await;
    // If some tiles are missing, that is reported, and a reseed adds them later.
    match ended {
        Err(error) if error.failure_kind() != FailureKind::Partial => first_failure([Err(error), unshown]),
        ended => {
            shards::end_targets(work, plan).await?;
            let ended = ended.map_err(|error| match error {
                CommandError::Several(several) => several.after_commit().into(),
                other => other,
            });
            first_failure([ended, unshown])
        }
    }
}
