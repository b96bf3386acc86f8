//! The flags of `oar-tiles track`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};

use super::SettingFlags;

/// `oar-tiles track`.
#[derive(Debug, Subcommand)]
pub enum Track {
    /// Create the change log, and triggers on the tables that the layers read, which fill it
    Install(TrackInstall),
    /// Show what the change log holds, and how far targets are behind it
    Status(TrackStatus),
    /// Delete from the change log what all targets have seen
    Prune(TrackPrune),
    /// Remove the triggers and the change log from the database
    Remove(TrackRemove),
}

/// Where the change log is, and what is tracked.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Tracked {
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
}

impl Tracked {
    /// The flags that override the configuration.
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
    /// Track only the tables of this layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Allow this role to read the change log, as reseed does; repeat the flag for several roles
    #[arg(long, value_name = "ROLE", action = ArgAction::Append)]
    pub reader: Vec<String>,
    /// Role that the triggers run as [default: a new role that can only append to the change log]
    #[arg(long, value_name = "ROLE")]
    pub owner: Option<String>,
    /// Print the statements, for psql; run nothing
    #[arg(long, conflicts_with = "quiet")]
    pub sql: bool,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles track status`.
#[derive(Debug, Args)]
pub struct TrackStatus {
    /// Where the change log is, and what is tracked.
    #[command(flatten)]
    pub tracked: Tracked,
    /// Targets to compare with the log [default: the output in the configuration]
    pub target: Vec<String>,
    /// Look only at this layer, if the targets were seeded with the same --layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub tileset: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `oar-tiles track prune`.
#[derive(Debug, Args)]
pub struct TrackPrune {
    /// Where the change log is.
    #[command(flatten)]
    pub tracked: Tracked,
    /// All targets that are kept up to date from this log [default: the output in the configuration]
    pub target: Vec<String>,
    /// Also delete what is older than this, seen or not: a target that has not seen it then needs a full seed
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles track remove`.
#[derive(Debug, Args)]
pub struct TrackRemove {
    /// Where the change log is.
    #[command(flatten)]
    pub tracked: Tracked,
    /// Print the statements, for psql; run nothing
    #[arg(long, conflicts_with = "quiet")]
    pub sql: bool,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}
