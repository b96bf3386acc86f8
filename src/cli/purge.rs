//! `oar-tiles purge`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::settings::{resolved_all, resolved_for, several_tilesets};
use super::tilesets::for_each;
use super::variants::targets_of;
use super::{SettingFlags, on_runtime};
use crate::cdn::{Delivered, DeliveryEnd, PlannedPurge};
use crate::report::{
    PurgeStatus, PurgeStatusList, Style, grouped, print, print_document, report, start_log, table, timed,
};
use crate::run::{CommandError, TilesetRun, purge};
use crate::stop::Stop;
use crate::target::TARGET_FORMS;

/// `oar-tiles purge`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Purge {
    /// What to do instead of purging.
    #[command(subcommand)]
    pub verb: Option<PurgeVerb>,
    /// What to purge.
    #[command(flatten)]
    pub what: PurgeWhat,
}

/// What `oar-tiles purge` does instead of purging.
#[derive(Debug, Subcommand)]
pub(crate) enum PurgeVerb {
    /// Show what waits for each CDN, and which of them refuses
    Status(PurgeStatusFlags),
}

/// A target and what to purge of it.
#[derive(Debug, Args)]
pub(crate) struct PurgeWhat {
    #[arg(help = format!("Target: {TARGET_FORMS} [default: the output in the configuration]"))]
    pub target: Option<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append, conflicts_with = "target")]
    pub tileset: Vec<String>,
    /// Also purge every tile
    #[arg(long, conflicts_with = "tiles")]
    pub all: bool,
    /// Also purge these tiles: a file with a line z/x/y for each, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub tiles: Option<PathBuf>,
    /// Print what would be sent, how many tiles it hits beyond those that changed, and what it costs; send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Forget what waits, and send nothing
    #[arg(long, conflicts_with_all = ["all", "tiles", "dry_run"])]
    pub forget: bool,
    /// Configuration file; its purge tables name the CDNs [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `oar-tiles purge status`.
#[derive(Debug, Args)]
pub(crate) struct PurgeStatusFlags {
    /// Target [default: the output in the configuration]
    pub target: Option<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append, conflicts_with = "target")]
    pub tileset: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Configuration file; its purge tables name the CDNs [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(crate) fn run_purge(arguments: &Purge, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let what = &arguments.what;
    let (config, tileset, target, is_json) = match &arguments.verb {
        Some(PurgeVerb::Status(status)) => (&status.config, &status.tileset, &status.target, Some(status.json)),
        None => (&what.config, &what.tileset, &what.target, None),
    };
    let flags = SettingFlags { config: config.clone(), tileset: tileset.clone(), ..SettingFlags::default() };
    let tilesets = match target {
        Some(target) => vec![resolved_for(&flags, target, "purge")?],
        None => resolved_all(&flags, true)?,
    };
    if is_json == Some(true) && tilesets.len() > 1 {
        return Err(several_tilesets("--json", tilesets));
    }
    let request = purge::PurgeRequest { all: what.all, tiles: what.tiles.clone(), forget: what.forget };
    let purge_one = async |settings| {
        let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
        match is_json {
            Some(true) => print_document(&PurgeStatusList { cdns: &purge::status(&run).await? })?,
            Some(false) => print(&render_purge_status(&purge::status(&run).await?))?,
            None if what.dry_run => print(&render_planned_purges(&purge::dry_run(&run, &request).await?))?,
            None => print(&render_delivered(&purge::purge(&run, &request).await?))?,
        }
        Ok(())
    };
    on_runtime(async || {
        let targets = if target.is_some() { tilesets } else { targets_of(tilesets, stop).await? };
        for_each(targets, false, stop, purge_one).await
    })
}

/// The purges that wait, as a table.
fn render_purge_status(all: &[PurgeStatus]) -> String {
    let row = |status: &PurgeStatus| {
        vec![
            status.provider.clone(),
            status.tiles.map_or_else(|| "all".to_owned(), grouped),
            grouped(status.items),
            status.oldest_seconds.map_or_else(String::new, |seconds| {
                format!("{} ago", timed(std::time::Duration::from_secs(seconds).as_secs_f64()))
            }),
            grouped(status.spent_this_month),
            status.stopped.clone().map_or_else(|| "ready".to_owned(), |why| format!("stopped: {why}")),
        ]
    };
    table(
        &["CDN", "tiles waiting", "items left", "oldest", "items this month", "state"],
        &all.iter().map(row).collect::<Vec<_>>(),
    )
}

/// The outcome of deliveries, one line for each CDN.
fn render_delivered(all: &[Delivered]) -> String {
    let line = |one: &Delivered| {
        let end = match &one.end {
            DeliveryEnd::Done => "nothing waits".to_owned(),
            end @ (DeliveryEnd::Waits(_) | DeliveryEnd::Unpublished) => {
                format!("the rest waits: {}", end.waits_for().unwrap_or_default())
            }
            DeliveryEnd::Repeats(wait) => {
                format!("nothing waits but the same once more, in {}", timed(wait.as_secs_f64()))
            }
            DeliveryEnd::Stopped(why) => format!("stopped: {why}"),
        };
        let items = if one.sent == 1 { "item" } else { "items" };
        format!("{} ({}): {} {items} sent, {end}\n", one.provider, one.url, grouped(one.sent as u64))
    };
    if all.is_empty() { "nothing waits\n".to_owned() } else { all.iter().map(line).collect() }
}

/// The most names of a planned purge that are shown.
const MAX_SHOWN_NAMES: usize = 20;

/// The purges that would be sent, as text.
fn render_planned_purges(all: &[PlannedPurge]) -> String {
    let one = |plan: &PlannedPurge| {
        let tiles =
            plan.tiles.map_or_else(|| "every tile".to_owned(), |count| format!("{} tiles", grouped(count as u64)));
        let mut text = format!(
            "{} ({}): {tiles} wait, {} items would be sent, which hit at most {} tiles beyond these; this month's cost ${:.2}\n",
            plan.provider,
            plan.url,
            grouped(plan.names.len() as u64),
            grouped(plan.unchanged),
            plan.dollars,
        );
        for name in plan.names.iter().take(MAX_SHOWN_NAMES) {
            text.push_str(&format!("  {} {}\n", name.kind.name(), name.name));
        }
        let more = plan.names.len().saturating_sub(MAX_SHOWN_NAMES);
        if more > 0 {
            text.push_str(&format!("  and {} more\n", grouped(more as u64)));
        }
        text
    };
    all.iter().map(one).collect()
}
