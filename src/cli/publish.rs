//! The flags of `oar-tiles publish`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::SettingFlags;

/// `oar-tiles publish`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Publish {
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
    pub rollback: bool,
    /// Switch to this version
    #[arg(long, value_name = "VERSION", conflicts_with = "rollback")]
    pub to: Option<String>,
    /// Give every tile of an S3 prefix the headers and metadata of the configuration, also tiles that did not change; then purge everything
    #[arg(long, conflicts_with_all = ["rollback", "to"])]
    pub rewrite_headers: bool,
}

impl Publish {
    /// The flags that override the configuration.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        SettingFlags {
            config: self.config.clone(),
            output: self.output.clone(),
            layer: self.layer.clone(),
            tileset: self.tileset.clone(),
            ..SettingFlags::default()
        }
    }
}
