//! The flags of `oar-tiles config`.

use clap::Args;

use super::SettingFlags;

/// `oar-tiles config`.
#[derive(Debug, Args)]
pub struct ConfigFlags {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Check the settings and name every problem, not only the first; nothing is rendered
    #[arg(long)]
    pub check: bool,
    /// With --check: also ask the database whether the layers can be drawn
    #[arg(long, requires = "check")]
    pub database: bool,
    /// Print the JSON Schema of a configuration file, for editors, or of what the program prints as JSON (docs/json.md has the names; all)
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "configuration", conflicts_with_all = ["check", "json"])]
    pub schema: Option<String>,
    /// Print the settings as JSON
    #[arg(long, conflicts_with = "check")]
    pub json: bool,
}
