//! `shards`: a seed on several machines.

use std::path::PathBuf;

use oar_tiles::cli::{SettingFlags, Shards, ShardsBegin, ShardsCommit, ShardsRun};
use oar_tiles::command::{seed, shards};
use oar_tiles::config::JobSettings;
use oar_tiles::report::{
    Report, Style, grouped, print, print_document, render_run, render_shards, report, say, start_log,
};
use oar_tiles::run::{CommandError, Job};
use oar_tiles::shards::{ShardPlan, WorkFolder, index_of};
use oar_tiles::sink::MaxShrink;
use oar_tiles::stop::Stop;
use oar_tiles::suggested::SHARDS_RUN;

use super::given::{resolved, resolved_without_layers};
use super::on_runtime;
use super::shown::{Closing, style};

pub(super) fn run_shards(arguments: &Shards, stop: &Stop) -> Result<(), CommandError> {
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

/// Does something with a work folder.
fn with_folder(
    config: Option<&PathBuf>,
    work: &str,
    stop: &Stop,
    run: impl FnOnce(&Job, &WorkFolder) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    start_log(0);
    let settings = resolved_without_layers(&SettingFlags { config: config.cloned(), ..SettingFlags::default() })?;
    on_runtime(async || {
        let job = shards::quiet_job(&settings, stop)?;
        let folder = job.work_folder(work)?;
        tokio::task::block_in_place(|| run(&job, &folder))
    })
}

fn run_begin(arguments: &ShardsBegin, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    let settings = resolved(&arguments.given, true, "shards begin")?;
    let options = shards::BeginOptions {
        shards: arguments.shards,
        hold: arguments.hold,
        frozen: arguments.frozen,
        connections: arguments.connections,
    };
    let shown = report(style(&settings, arguments.quiet));
    on_runtime(async || {
        let job = Job::new(settings, arguments.force, &shown, stop)?;
        let work = job.work_folder(&arguments.work.work)?;
        let begun = shards::begin(&job, &work, options).await?;
        let plan = &begun.plan;
        if !arguments.quiet {
            say(&format!(
                "{} tiles in {} shards, the heaviest {:.1} times the mean; now run each with {SHARDS_RUN} --work {}",
                grouped(plan.tiles),
                plan.count(),
                plan.heaviest(),
                work.name
            ));
        }
        print(&format!("{}\n", plan.run))?;
        if arguments.hold {
            shards::hold(&job, &work, &begun, arguments.hold_for).await?;
        }
        Ok(())
    })
}

/// The settings of a command with the target, zooms and boxes of the plan, unless flags name others.
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

/// The work folder of a command, its plan, and the job as the plan has it.
fn planned(
    flags: &SettingFlags,
    work: &str,
    what: &'static str,
    force: bool,
    stop: &Stop,
    shown: impl FnOnce(&JobSettings) -> Style,
) -> Result<(Job, WorkFolder, ShardPlan), CommandError> {
    let settings = resolved(flags, false, what)?;
    let folder = shards::folder(&settings, work, stop)?;
    let plan = tokio::task::block_in_place(|| folder.begun())?;
    let settings = of_plan(settings, flags, &plan)?;
    let shown: std::sync::Arc<dyn Report> = report(shown(&settings));
    let job = Job::new(settings, force, &shown, stop)?;
    let work = job.work_folder(work)?;
    Ok((job, work, plan))
}

fn run_shard(arguments: &ShardsRun, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    on_runtime(async || {
        let shown = |settings: &JobSettings| style(settings, arguments.quiet);
        let (job, work, plan) = planned(&arguments.given, &arguments.work.work, "shards run", false, stop, shown)?;
        let variable = |name: &str| std::env::var(name).ok();
        let index = index_of(arguments.shard.as_deref(), variable, &plan.run, plan.count())?;
        let end = Box::pin(shards::run(&job, &work, &plan, index.number)).await?;
        if !arguments.quiet {
            say(&match end {
                shards::ShardEnd::Done(done) => {
                    format!("shard {} is done: {} tiles", index.number, grouped(done.tiles))
                }
                shards::ShardEnd::AlreadyDone => format!("shard {} was done already", index.number),
            });
        }
        Ok(())
    })
}

fn run_commit(arguments: &ShardsCommit, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    on_runtime(async || {
        let shown = |settings: &JobSettings| style(settings, arguments.quiet);
        let (mut job, work, _plan) =
            planned(&arguments.given, &arguments.work.work, "shards commit", arguments.force, stop, shown)?;
        if arguments.allow_shrink {
            job.settings.tileset.max_shrink = MaxShrink::ALL;
        }
        let prints = !matches!(style(&job.settings, arguments.quiet), Style::Json | Style::Quiet);
        let closing = Closing::new(prints, arguments.report.as_ref(), &job.settings.tileset.output)?;
        let job = job.with_changed_out(arguments.changed_out.as_deref())?;
        let done = Box::pin(shards::commit(&job, &work)).await?;
        closing.show(&render_run(&done), &done)?;
        job.purge_published(false).await?;
        seed::complete(&done)
    })
}
