//! The flags of `oar-tiles track`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};

use super::SettingFlags;

/// `oar-tiles track`.
#[derive(Debug, Subcommand)]
pub enum Track {
    /// Make the change log, and triggers that fill it, on the tables that the layers read
    Install(TrackInstall),
    /// Say what the change log holds, and how far targets are behind
    Status(TrackStatus),
    /// Take out of the change log what all targets have seen
    Prune(TrackPrune),
    /// Take the triggers and the change log away
    Remove(TrackRemove),
}

/// Where the change log is, and what is tracked.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Tracked {
    /// The configuration file (OAR_TILES_CONFIG)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The database, as a URL or key/value string (DATABASE_URL, PG*)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
}

impl Tracked {
    /// The flags that give settings.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        SettingFlags { config: self.config.clone(), database_url: self.database_url.clone(), ..SettingFlags::default() }
    }
}

/// `oar-tiles track install`.
#[derive(Debug, Args)]
pub struct TrackInstall {
    /// Where the change log is, and what is tracked.
    #[command(flatten)]
    pub tracked: Tracked,
    /// Only for this layer; again for each layer
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// A role that may read the change log, for reseed; again for each role
    #[arg(long, value_name = "ROLE", action = ArgAction::Append)]
    pub reader: Vec<String>,
    /// The role that the triggers run as; without it, a role is created that can only append to the change log
    #[arg(long, value_name = "ROLE")]
    pub owner: Option<String>,
    /// Print the statements for psql, and run nothing
    #[arg(long)]
    pub sql: bool,
}

/// `oar-tiles track status`.
#[derive(Debug, Args)]
pub struct TrackStatus {
    /// Where the change log is, and what is tracked.
    #[command(flatten)]
    pub tracked: Tracked,
    /// The targets; without any, the output of the settings
    pub target: Vec<String>,
    /// Only this layer, if the targets were seeded so; again for each layer
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `oar-tiles track prune`.
#[derive(Debug, Args)]
pub struct TrackPrune {
    /// Where the change log is.
    #[command(flatten)]
    pub tracked: Tracked,
    /// All targets that follow the log; without any, the output of the settings
    pub target: Vec<String>,
    /// Take out what is older, too, whoever has seen it: a target that has not needs a full seed then
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
}

/// `oar-tiles track remove`.
#[derive(Debug, Args)]
pub struct TrackRemove {
    /// Where the change log is.
    #[command(flatten)]
    pub tracked: Tracked,
    /// Print the statements for psql, and run nothing
    #[arg(long)]
    pub sql: bool,
}
