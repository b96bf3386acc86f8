//! `oar-tiles init`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::seed_flags::Seed;
use super::settings::{environment, resolved_over, resolved_without_file, resolved_without_layers};
use super::{SettingFlags, on_runtime};
use crate::config::Settings;
use crate::report::{print, render_discovered, render_drafted, render_undrawn, say, start_log};
use crate::run::init::DraftFor;
use crate::run::{CommandError, init};
use crate::stop::Stop;
use crate::suggested::OWN_FILE;

/// `oar-tiles init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Only these tables and views: a name, schema.name, or a pattern with * and ?; repeat the flag for several
    /// [default: all]
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub table: Vec<String>,
    /// Where the configuration goes; a file that is there already is never overwritten
    #[arg(long, short, value_name = "FILE", default_value = OWN_FILE)]
    pub output: PathBuf,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
}

// `init`, and the layers of `seed --table`.

pub(crate) fn run_init(arguments: &Init, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    init::is_free(&arguments.output)?;
    let flags = SettingFlags { database_url: arguments.database_url.clone(), ..SettingFlags::default() };
    let settings = resolved_without_file(&flags)?;
    let draft = async || init::draft(&settings.database, &environment(), &arguments.table, DraftFor::File, stop).await;
    let drafted = on_runtime(draft)?;
    print(&render_discovered(&drafted.found))?;
    init::has_layers(&drafted)?;
    init::write(&drafted, &arguments.output)?;
    let file = arguments.output.display().to_string();
    Ok(print(&render_drafted(&drafted.found, &file, arguments.database_url.is_some()))?)
}

/// The settings of `seed --table`.
pub(crate) fn drafted_settings(arguments: &Seed, given: &SettingFlags, stop: &Stop) -> Result<Settings, CommandError> {
    let settings = resolved_without_layers(given)?;
    let draft = async || init::draft(&settings.database, &environment(), &arguments.table, DraftFor::Seed, stop).await;
    let drafted = on_runtime(draft)?;
    if !arguments.quiet {
        render_undrawn(&drafted.found).lines().for_each(say);
    }
    init::has_layers(&drafted)?;
    resolved_over(given, &drafted.text)
}

/// A draft with a tileset for each table, view and function of the database. Every tile of these is rendered on
/// request. Reports what cannot be drawn.
pub(crate) fn drafted_catalogue(given: &SettingFlags, stop: &Stop) -> Result<String, CommandError> {
    let settings = resolved_without_file(given)?;
    let draft = async || init::draft(&settings.database, &environment(), &[], DraftFor::Catalogue, stop).await;
    let drafted = on_runtime(draft)?;
    render_undrawn(&drafted.found).lines().for_each(say);
    init::has_layers(&drafted)?;
    Ok(drafted.text)
}
