//! The flags of `oar-tiles purge`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::SettingFlags;

/// `oar-tiles purge`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Purge {
    /// What to do instead of purging.
    #[command(subcommand)]
    pub verb: Option<PurgeVerb>,
    /// What to purge.
    #[command(flatten)]
    pub what: PurgeWhat,
}

/// What `oar-tiles purge` does instead of purging.
#[derive(Debug, Subcommand)]
pub enum PurgeVerb {
    /// Show what waits for each CDN, and which of them refuses
    Status(PurgeStatusFlags),
}

/// A target and what to purge of it.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct PurgeWhat {
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles [default: the
    /// output in the configuration]
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
    pub dry_run: bool,
    /// Forget what waits, and send nothing
    #[arg(long, conflicts_with_all = ["all", "tiles", "dry_run"])]
    pub forget: bool,
    /// Configuration file; its purge tables name the CDNs [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `oar-tiles purge status`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct PurgeStatusFlags {
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

impl PurgeWhat {
    /// The flags that override the configuration.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        SettingFlags { config: self.config.clone(), tileset: self.tileset.clone(), ..SettingFlags::default() }
    }
}

impl PurgeStatusFlags {
    /// The flags that override the configuration.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        SettingFlags { config: self.config.clone(), tileset: self.tileset.clone(), ..SettingFlags::default() }
    }
}
