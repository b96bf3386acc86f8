//! `oar-tiles verify`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::closing::{Closing, first_failure};
use super::settings::{names_layers, resolved_for, resolved_to_read, target_of};
use super::variants::variant_of_target;
use super::{SettingFlags, on_runtime};
use crate::report::{Style, print_document, render_findings, report, start_log};
use crate::run::{CommandError, TilesetRun, area, verify};
use crate::stop::Stop;
use crate::target::TARGET_FORMS;

/// `oar-tiles verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[arg(help = format!("Target: {TARGET_FORMS} [default: the output in the configuration]"))]
    pub target: Option<String>,
    /// Decode this many tiles, spread evenly over the target [default: all of up to 100000 tiles, else 10000]
    #[arg(long, value_name = "N")]
    pub sample: Option<NonZeroU64>,
    /// Decode every tile
    #[arg(long, conflicts_with = "sample")]
    pub all: bool,
    /// Also render the tiles from the database and compare; needs the settings with which the target was seeded
    #[arg(long)]
    pub database: bool,
    /// Decode and compare only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N; the structure is
    /// checked as a whole
    #[arg(long, value_name = "AREA", allow_hyphen_values = true)]
    pub(crate) area: Option<String>,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
    /// Also write the findings as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL", requires = "database")]
    pub(crate) database_url: Option<String>,
    /// Compare only this layer, if the target was seeded with the same --layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append, requires = "database")]
    pub layer: Vec<String>,
    /// Compare with this tileset, if the configuration has several [default: the one whose output the target is]
    #[arg(long, value_name = "NAME")]
    pub tileset: Option<String>,
    /// Database sessions that render in parallel; 0: one for each CPU [env: OAR_TILES_WORKERS]
    #[arg(long, value_name = "N", requires = "database")]
    pub workers: Option<u16>,
}

pub(crate) fn run_verify(arguments: &Verify, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let given = SettingFlags {
        config: arguments.config.clone(),
        database_url: arguments.database_url.clone(),
        layer: arguments.layer.clone(),
        tileset: arguments.tileset.iter().cloned().collect(),
        workers: arguments.workers,
        ..SettingFlags::default()
    };
    let target = target_of(&given, arguments.target.as_deref(), "verify", "oar-tiles verify TARGET")?;
    let settings = if arguments.database {
        names_layers(&given)?;
        resolved_for(&given, &target, "verify --database")?
    } else {
        resolved_to_read(&given, &target)?
    };
    let amount = match (arguments.sample, arguments.all) {
        (Some(count), _) => verify::TilesToCheck::Sample(count),
        (None, true) => verify::TilesToCheck::All,
        (None, false) => verify::TilesToCheck::Fitting,
    };
    let area = arguments.area.as_ref().map(|text| area(text)).transpose()?.unwrap_or_default();
    let options = verify::VerifyOptions { amount, database: arguments.database, area };
    let closing = Closing::new(!arguments.json, arguments.report.as_ref(), &settings.tileset.output)?;
    on_runtime(async || {
        let settings = if arguments.database { Box::pin(variant_of_target(settings, stop)).await? } else { settings };
        let found =
            verify::verify(&TilesetRun::new(settings, false, &report(Style::Warnings), stop)?, &options).await?;
        if arguments.json {
            print_document(&found)?;
        }
        let shown = closing.show(&render_findings(&found), &found);
        first_failure([verify::check_sound(&found), shown])
    })
}
