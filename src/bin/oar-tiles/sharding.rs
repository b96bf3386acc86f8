//! `shards`: a seed on several machines.

use std::path::PathBuf;
use std::sync::Arc;

use oar_tiles::cli::{SettingFlags, Shards, ShardsBegin, ShardsCommit, ShardsRun};
use oar_tiles::command::{seed, shards};
use oar_tiles::config::JobSettings;
use oar_tiles::report::{
    Report, Style, grouped, print, print_document, render_run, render_shards, report, say, start_log,
};
use oar_tiles::run::{CommandError, Job};
use oar_tiles::shards::{ShardPlan, ShardsError, WorkFolder, index_of};
use oar_tiles::sink::MaxShrink;
use oar_tiles::stop::Stop;
use oar_tiles::suggested::{SEED, SHARDS_RUN, use_work};

use super::given::{resolved_all, resolved_first_without_layers};
use super::on_runtime;
use super::shown::{Closing, first_failure, style};

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

/// The settings of the only tileset, which has no variants. A command that `writes` the target needs its name.
fn one_tileset(flags: &SettingFlags, writes: bool) -> Result<JobSettings, CommandError> {
    let mut all = resolved_all(flags, writes)?;
    match (all.pop(), all.is_empty()) {
        (Some(settings), true) if settings.tileset.variants.is_none() => Ok(settings),
        (Some(settings), true) => Err(ShardsError::SeveralTargets {
            has: format!("variants ({})", settings.tileset.name),
            next: format!("seed them in an array job, each job with {SEED} --variant VALUE"),
        }
        .into()),
        (last, _) => {
            let names = all.into_iter().chain(last).map(|settings| settings.tileset.name).collect::<Vec<_>>();
            Err(ShardsError::SeveralTargets {
                has: format!("several tilesets ({})", names.join(", ")),
                next: format!(
                    "choose one with --tileset NAME, or seed them in an array job, each job with {SEED} --tileset NAME"
                ),
            }
            .into())
        }
    }
}

fn run_begin(arguments: &ShardsBegin, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    let settings = one_tileset(&arguments.given, true)?;
    let options = shards::BeginOptions {
        shards: arguments.shards,
        hold: arguments.hold,
        frozen: arguments.frozen,
        connections: arguments.connections,
    };
    on_runtime(async || {
        let shown = report(style(&settings, arguments.quiet));
        let job = Job::new(settings, arguments.force, &shown, stop)?;
        let work = job.work_folder(&arguments.work.work)?;
        let begun = Box::pin(shards::begin(&job, &work, options)).await?;
        let plan = &begun.plan;
        if !arguments.quiet {
            say(&format!(
                "{} tiles in {} shards, the heaviest {:.1} times the mean; now run each with {SHARDS_RUN}",
                grouped(plan.tiles),
                plan.count(),
                plan.heaviest()
            ));
        }
        print(&format!("{}\n", plan.run))?;
        if arguments.hold {
            shards::hold(&job, &work, &begun, arguments.hold_for).await?;
        }
        Ok(())
    })
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

/// The run in the work folder of a command, and the job as its plan has it.
fn planned(
    flags: &SettingFlags,
    work: &str,
    force: bool,
    stop: &Stop,
    shown: impl FnOnce(&JobSettings) -> Style,
) -> Result<(WorkFolder, Job, ShardPlan), CommandError> {
    let settings = one_tileset(flags, false)?;
    let folder = shards::folder(&settings, work, stop)?;
    let plan = tokio::task::block_in_place(|| folder.begun())?;
    let settings = of_plan(settings, flags, &plan)?;
    let shown: Arc<dyn Report> = report(shown(&settings));
    let job = Job::new(settings, force, &shown, stop)?;
    let work = job.work_folder(work)?;
    Ok((work, job, plan))
}

fn run_shard(arguments: &ShardsRun, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    on_runtime(async || {
        let shown = |settings: &JobSettings| style(settings, arguments.quiet);
        let (work, job, plan) = planned(&arguments.given, &arguments.work.work, false, stop, shown)?;
        let variable = |name: &str| std::env::var(name).ok();
        let number = index_of(arguments.shard.as_deref(), variable, &plan.run, plan.count())?.number;
        let end = Box::pin(shards::run(&job, &work, &plan, number)).await?;
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
        let found = planned(&arguments.given, &arguments.work.work, arguments.force, stop, shown);
        if let Err(CommandError::Shards(ShardsError::NoPlan { work })) = &found
            && let Some(run) = committed(&arguments.given, &arguments.work.work, stop)?
        {
            if !arguments.quiet {
                say(&format!("run {run} was committed already, and {work} holds no other: nothing to do"));
            }
            return Ok(());
        }
        let (work, mut job, plan) = found?;
        if arguments.allow_shrink {
            job.settings.tileset.max_shrink = MaxShrink::ALL;
        }
        let prints = !matches!(style(&job.settings, arguments.quiet), Style::Json | Style::Quiet);
        let closing = Closing::new(prints, arguments.report.as_ref(), &job.settings.tileset.output)?;
        let job = job.with_changed_out(arguments.changed_out.as_deref())?;
        let done = Box::pin(shards::commit(&job, &work, &plan, arguments.catch_up)).await?;
        // The run is committed: whatever fails from here on keeps nothing else from being tried.
        let shown = closing.show(&render_run(&done), &done);
        let purged = job.purge_published(false).await.map(drop);
        first_failure([purged, seed::complete(&done), shown, job.listed()])
    })
}

/// The run that was committed last, if no run ended after it. Removes what its commit has left in the work folder.
fn committed(flags: &SettingFlags, work: &str, stop: &Stop) -> Result<Option<String>, CommandError> {
    let folder = shards::folder(&one_tileset(flags, false)?, work, stop)?;
    Ok(tokio::task::block_in_place(|| folder.committed())?)
}
