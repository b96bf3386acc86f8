//! `oar-tiles doctor`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::settings::{names_output, resolved_all, resolved_for, several_tilesets};
use super::tilesets::for_each;
use super::{SettingFlags, on_runtime};
use crate::config::Settings;
use crate::report::{Style, print_result, render_checkup, report, start_log};
use crate::run::{CommandError, Family, TilesetRun, doctor};
use crate::stop::Stop;

/// `oar-tiles doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Target to look at [default: the output in the configuration]
    pub target: Option<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append, conflicts_with = "target")]
    pub tileset: Vec<String>,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Where clients find the TileJSON, or the folder that it lies in [default: public_url in the configuration]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Warn of transactions of others that are older than this
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) transaction_age: Duration,
    /// Warn if the clocks of the database and of this machine differ by more than this
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) clock_difference: Duration,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

pub(crate) fn run_doctor(arguments: &Doctor, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let flags = SettingFlags {
        config: arguments.config.clone(),
        database_url: arguments.database_url.clone(),
        tileset: arguments.tileset.clone(),
        ..SettingFlags::default()
    };
    let tilesets = match &arguments.target {
        Some(target) => vec![resolved_for(&flags, target, "doctor")?],
        None => resolved_all(&flags, false)?,
    };
    if arguments.json && tilesets.len() > 1 {
        return Err(several_tilesets("--json", tilesets));
    }
    let options = doctor::DoctorOptions {
        transaction_age: arguments.transaction_age,
        clock_difference: arguments.clock_difference,
        has_target: arguments.target.is_some() || names_output(&flags)?,
        url: arguments.url.clone(),
    };
    let examine = async |settings: Settings| {
        let report = report(Style::Nothing);
        let run = match Family::of(&settings) {
            Some(family) => {
                let output = arguments.target.is_some().then_some(&*settings.tileset.output);
                Box::pin(family.one_target(output, &report, stop)).await?
            }
            None => TilesetRun::new(settings, false, &report, stop)?,
        };
        let checkup = doctor::doctor(&run, &options).await?;
        print_result(arguments.json, &checkup, render_checkup)?;
        doctor::healthy(&checkup)
    };
    on_runtime(async || for_each(tilesets, false, stop, examine).await)
}
