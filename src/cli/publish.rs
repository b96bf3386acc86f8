//! `oar-tiles publish`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::settings::resolved_all;
use super::tilesets::for_each;
use super::variants::targets_of;
use super::{SettingFlags, on_runtime};
use crate::clock::moment;
use crate::report::{Style, grouped, print, report, start_log, visible_line};
use crate::run::{CommandError, TilesetRun, VersionSwitch, publish};
use crate::stop::Stop;
use crate::target::{Latest, RewrittenHeaders};

/// `oar-tiles publish`.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Configuration file; sample-config.toml shows every key [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Target: directory/ or s3://bucket/prefix/ [env: OAR_TILES_OUTPUT]
    #[arg(long, short, value_name = "TARGET")]
    pub output: Option<PathBuf>,
    /// Use only this layer, if the target was seeded with the same --layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub tileset: Vec<String>,
    /// Switch back to the version before the current one
    #[arg(long)]
    pub(crate) rollback: bool,
    /// Switch to this version
    #[arg(long, value_name = "VERSION", conflicts_with = "rollback")]
    pub to: Option<String>,
    /// Give every tile of an S3 prefix the headers and metadata of the configuration, also tiles that did not change;
    /// then purge everything
    #[arg(long, conflicts_with_all = ["rollback", "to"])]
    pub(crate) rewrite_headers: bool,
}

pub(crate) fn run_publish(arguments: &Publish, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let flags = SettingFlags {
        config: arguments.config.clone(),
        output: arguments.output.clone(),
        layer: arguments.layer.clone(),
        tileset: arguments.tileset.clone(),
        ..SettingFlags::default()
    };
    let tilesets = resolved_all(&flags, true)?;
    let switch = match &arguments.to {
        Some(to) => VersionSwitch::To(to),
        None if arguments.rollback => VersionSwitch::Back,
        None => VersionSwitch::Stay,
    };
    let publish_one = async |settings| {
        let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
        if arguments.rewrite_headers {
            let rewritten = tokio::task::block_in_place(|| publish::rewrite_headers(&run))?;
            print(&render_rewritten(&rewritten))?;
        } else {
            let latest = tokio::task::block_in_place(|| publish::publish(&run, switch))?;
            print(&render_versions(&latest))?;
        }
        run.purge_published(false).await.map(drop)
    };
    on_runtime(async || for_each(targets_of(tilesets, stop).await?, false, stop, publish_one).await)
}

/// The versions, one per line; the version that the map shows is marked.
#[must_use]
pub fn render_versions(latest: &Latest) -> String {
    let mut text = String::new();
    for version in &latest.versions {
        let mark = if version.version == latest.version { "shown" } else { "     " };
        let published = moment(version.published);
        text.push_str(&format!("{mark}  {}  published {published}\n", visible_line(&version.version)));
    }
    text
}

/// The result of a pass that rewrites headers.
fn render_rewritten(rewritten: &RewrittenHeaders) -> String {
    let before = match rewritten.before {
        0 => String::new(),
        before => format!(", {} had them from an interrupted pass", grouped(before)),
    };
    format!("{} tiles have new headers{before}\n", grouped(rewritten.rewritten))
}
