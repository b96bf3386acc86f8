//! The flags of `oar-tiles init`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::SettingFlags;

/// `oar-tiles init`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Init {
    /// Only these tables and views: a name, schema.name, or a pattern with * and ?; repeat the flag for several [default: all]
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub table: Vec<String>,
    /// Where the configuration goes; a file that is there already is never overwritten
    #[arg(long, short, value_name = "FILE", default_value = "oar-tiles.toml")]
    pub output: PathBuf,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
}

impl Init {
    /// The flags that override the settings.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        SettingFlags { database_url: self.database_url.clone(), ..SettingFlags::default() }
    }
}
