//! `oar-tiles shards`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};

use super::closing::{Closing, first_failure, style};
use super::settings::{resolved_first_without_layers, resolved_to_draw};
use super::{SettingFlags, on_runtime};
use crate::config::Settings;
use crate::report::{
    Report, ShardState, ShardsStatus, Style, grouped, print, print_result, render_run, report, say, sized, start_log,
    timed,
};
use crate::run::{CommandError, TilesetRun, seed, shards};
use crate::shards::{ShardPlan, ShardsError, WorkFolder, index_of};
use crate::stop::Stop;
use crate::suggested::{SEED, SHARDS_RUN, use_work};
use crate::target::MaxShrink;

/// `oar-tiles shards`.
#[derive(Debug, Subcommand)]
pub(crate) enum Shards {
    /// Survey and plan a seed, and cut it into shards; prints the run's id
    Begin(ShardsBegin),
    /// Render one shard into the work folder
    Run(ShardsRun),
    /// Count the shards, bring them to one state, and publish them
    Commit(ShardsCommit),
    /// Show which shards are done, running or missing
    Status(ShardsStatusFlags),
    /// Give the run up, and clear the work folder
    Abort(ShardsAbort),
}

/// Where the shards of a run meet.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShardsWork {
    /// Work folder that begin, every shard and commit share: folder/ or s3://bucket/prefix/
    #[arg(long, value_name = "FOLDER")]
    pub work: String,
}

/// `oar-tiles shards begin`.
#[derive(Debug, Args)]
pub(crate) struct ShardsBegin {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Where the shards meet.
    #[command(flatten)]
    pub work: ShardsWork,
    /// How many shards; about eight for each machine, so that one that runs again costs little
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub shards: u32,
    /// Hold one snapshot for all shards: stay until the run is committed or given up
    #[arg(long, conflicts_with = "frozen")]
    pub(crate) hold: bool,
    /// With --hold: how long at most
    #[arg(long, value_name = "TIME", default_value = "2h", requires = "hold", value_parser = humantime::parse_duration)]
    pub(crate) hold_for: Duration,
    /// Nobody writes the database: it is a copy of one storage snapshot, or at rest
    #[arg(long)]
    pub(crate) frozen: bool,
    /// Sessions that all shards together may have [default: half of what the server allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: Option<u32>,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// Log more
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Show warnings and errors only, and the run's id
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles shards run`.
#[derive(Debug, Args)]
pub(crate) struct ShardsRun {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Where the shards meet.
    #[command(flatten)]
    pub work: ShardsWork,
    /// Which shard, counted from 1 [env: OAR_TILES_SHARD, or the index that a scheduler gives]
    #[arg(long, value_name = "K[/N]", allow_hyphen_values = true)]
    pub shard: Option<String>,
    /// Log more
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Show warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles shards commit`.
#[derive(Debug, Args)]
pub(crate) struct ShardsCommit {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Where the shards meet.
    #[command(flatten)]
    pub work: ShardsWork,
    /// How long to wait for a database that has not seen yet what the shards have, such as a replica that is behind
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) catch_up: Duration,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// Publish even if the target would lose more tiles or rows than max_shrink in the configuration allows
    #[arg(long)]
    pub(crate) allow_shrink: bool,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if
    /// that is not known
    #[arg(long, value_name = "FILE")]
    pub(crate) changed_out: Option<PathBuf>,
    /// Also write the closing table as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Log more
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Show warnings and errors only: no progress, no closing table
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles shards status`.
#[derive(Debug, Args)]
pub(crate) struct ShardsStatusFlags {
    /// Where the shards meet.
    #[command(flatten)]
    pub work: ShardsWork,
    /// Configuration file, for how S3 is reached [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the state as JSON
    #[arg(long)]
    pub json: bool,
}

/// `oar-tiles shards abort`.
#[derive(Debug, Args)]
pub(crate) struct ShardsAbort {
    /// Where the shards meet.
    #[command(flatten)]
    pub work: ShardsWork,
    /// Configuration file, for how S3 is reached [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

// `shards`: a seed on several machines.

pub(crate) fn run_shards(arguments: &Shards, stop: &Stop) -> Result<(), CommandError> {
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
            with_folder(arguments.config.as_ref(), &arguments.work.work, stop, |_run, work| {
                Ok(print_result(arguments.json, &shards::status(work)?, render_shards)?)
            })
        }
        Shards::Abort(arguments) => {
            with_folder(arguments.config.as_ref(), &arguments.work.work, stop, |tileset_run, work| {
                say(&match shards::abort(tileset_run, work)? {
                    Some(run) => format!("run {run} was given up"),
                    None => "a plan that cannot be read was removed, with all that its run has left".to_owned(),
                });
                Ok(())
            })
        }
    }
}

/// Runs `run` with a work folder.
fn with_folder(
    config: Option<&PathBuf>,
    work: &str,
    stop: &Stop,
    run: impl FnOnce(&TilesetRun, &WorkFolder) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    start_log(0);
    let settings = resolved_first_without_layers(&SettingFlags { config: config.cloned(), ..SettingFlags::default() })?;
    on_runtime(async || {
        let tileset_run = shards::quiet_run(&settings, stop)?;
        let folder = tileset_run.target.work_folder(work)?;
        tokio::task::block_in_place(|| run(&tileset_run, &folder))
    })
}

/// The settings of the only tileset, which has no variants. A command that `writes` the target needs its name.
fn one_tileset(flags: &SettingFlags, writes: bool) -> Result<Settings, CommandError> {
    let mut all = resolved_to_draw(flags, writes)?;
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
        shards: shards::ShardCount::Machines(arguments.shards),
        hold: arguments.hold,
        frozen: arguments.frozen,
        connections: arguments.connections,
    };
    on_runtime(async || {
        let shown = report(style(&settings, arguments.quiet));
        let tileset_run = TilesetRun::new(settings, arguments.force, &shown, stop)?;
        let work = tileset_run.target.work_folder(&arguments.work.work)?;
        let begun = Box::pin(shards::begin(&tileset_run, &work, options)).await?;
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
            shards::hold(&tileset_run, &work, &begun, arguments.hold_for).await?;
        }
        Ok(())
    })
}

/// The settings of a command with the target, zooms and boxes of the plan, unless flags give others.
fn of_plan(mut settings: Settings, flags: &SettingFlags, plan: &ShardPlan) -> Result<Settings, CommandError> {
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

/// The run in the work folder of a command, and the run of the tileset as its plan has it.
fn planned(
    flags: &SettingFlags,
    work: &str,
    force: bool,
    stop: &Stop,
    shown: impl FnOnce(&Settings) -> Style,
) -> Result<(WorkFolder, TilesetRun, ShardPlan), CommandError> {
    let settings = one_tileset(flags, false)?;
    let folder = shards::folder(&settings, work, stop)?;
    let plan = tokio::task::block_in_place(|| folder.begun())?;
    let settings = of_plan(settings, flags, &plan)?;
    let shown: Arc<dyn Report> = report(shown(&settings));
    let tileset_run = TilesetRun::new(settings, force, &shown, stop)?;
    let work = tileset_run.target.work_folder(work)?;
    Ok((work, tileset_run, plan))
}

fn run_shard(arguments: &ShardsRun, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    on_runtime(async || {
        let shown = |settings: &Settings| style(settings, arguments.quiet);
        let (work, tileset_run, plan) = planned(&arguments.given, &arguments.work.work, false, stop, shown)?;
        let variable = |name: &str| std::env::var(name).ok();
        let number = index_of(arguments.shard.as_deref(), variable, &plan.run, plan.count())?.number;
        let end = Box::pin(shards::run(&tileset_run, &work, &plan, number)).await?;
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
        let shown = |settings: &Settings| style(settings, arguments.quiet);
        let found = planned(&arguments.given, &arguments.work.work, arguments.force, stop, shown);
        if let Err(CommandError::Shards(ShardsError::NoPlan { work })) = &found
            && let Some(run) = committed(&arguments.given, &arguments.work.work, stop)?
        {
            committed_already(&run, work, arguments.quiet);
            return Ok(());
        }
        let (work, mut tileset_run, plan) = found?;
        if arguments.allow_shrink {
            tileset_run.settings.tileset.max_shrink = MaxShrink::ALL;
        }
        let prints = !matches!(style(&tileset_run.settings, arguments.quiet), Style::Json | Style::Quiet);
        let closing = Closing::new(prints, arguments.report.as_ref(), &tileset_run.settings.tileset.output)?;
        let tileset_run = tileset_run.with_changed_out(arguments.changed_out.as_deref())?;
        let Some(done) = Box::pin(shards::commit(&tileset_run, &work, &plan, arguments.catch_up)).await? else {
            committed_already(&plan.run, &work.name, arguments.quiet);
            return tileset_run.purge_published(false).await.map(drop);
        };
        // The run is committed: whatever fails from here on keeps nothing else from being tried.
        let shown = closing.show(&render_run(&done), &done);
        let purged = tileset_run.purge_published(false).await.map(drop);
        first_failure([purged, seed::check_complete(&done), shown, tileset_run.changed_out.result()])
    })
}

fn committed_already(run: &str, work: &str, is_quiet: bool) {
    if !is_quiet {
        say(&format!("run {run} was committed already, and {work} holds no other: nothing to do"));
    }
}

/// The run that was committed last, if no run ended after it. Removes what its commit has left in the work folder.
fn committed(flags: &SettingFlags, work: &str, stop: &Stop) -> Result<Option<String>, CommandError> {
    let folder = shards::folder(&one_tileset(flags, false)?, work, stop)?;
    Ok(tokio::task::block_in_place(|| folder.committed())?)
}

/// The state of a run as text.
fn render_shards(status: &ShardsStatus) -> String {
    let ShardsStatus { run, output, state, connections, done, running, missing, .. } = status;
    let mut text = format!(
        "run {run} into {output} ({state}, up to {connections} connections): {} of {} shards done, {running} running, {missing} missing; {} in {}\n",
        done,
        status.shards.len(),
        sized(status.bytes),
        timed(status.seconds),
    );
    let all: u64 = status.shards.iter().map(|shard| shard.weight).sum();
    for shard in status.shards.iter().filter(|shard| shard.state != ShardState::Done) {
        text.push_str(&match (&shard.holder, shard.seconds) {
            (Some(holder), Some(seconds)) => {
                format!("  shard {}: running for {}, {holder}\n", shard.shard, timed(seconds))
            }
            _ => format!("  shard {}: missing, {} % of the work\n", shard.shard, 100 * shard.weight / all.max(1)),
        });
    }
    text
}
