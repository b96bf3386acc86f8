//! The flags of `oar-tiles shards`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};

use super::SettingFlags;

/// `oar-tiles shards`.
#[derive(Debug, Subcommand)]
pub enum Shards {
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
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Clone, Args)]
pub struct ShardsWork {
    /// Work folder that begin, every shard and commit share: folder/ or s3://bucket/prefix/
    #[arg(long, value_name = "FOLDER")]
    pub work: String,
}

/// `oar-tiles shards begin`.
#[expect(clippy::struct_excessive_bools, reason = "flags as typed; which go together is told to clap")]
#[derive(Debug, Args)]
pub struct ShardsBegin {
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
    pub hold: bool,
    /// With --hold: how long at most
    #[arg(long, value_name = "TIME", default_value = "2h", requires = "hold", value_parser = humantime::parse_duration)]
    pub hold_for: Duration,
    /// Nobody writes the database: it is a copy of one storage snapshot, or at rest
    #[arg(long)]
    pub frozen: bool,
    /// Sessions that all shards together may have [default: half of what the server allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// Log more
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Show warnings and errors only, and the run's id
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles shards run`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct ShardsRun {
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
    pub verbose: u8,
    /// Show warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles shards commit`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct ShardsCommit {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Where the shards meet.
    #[command(flatten)]
    pub work: ShardsWork,
    /// How long to wait for a database that has not seen yet what the shards have, such as a replica that is behind
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub catch_up: Duration,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// Publish even if the target would lose more tiles or rows than max_shrink in the configuration allows
    #[arg(long)]
    pub allow_shrink: bool,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if that is not known
    #[arg(long, value_name = "FILE")]
    pub changed_out: Option<PathBuf>,
    /// Also write the closing table as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Log more
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Show warnings and errors only: no progress, no closing table
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles shards status`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct ShardsStatusFlags {
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
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct ShardsAbort {
    /// Where the shards meet.
    #[command(flatten)]
    pub work: ShardsWork,
    /// Configuration file, for how S3 is reached [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
