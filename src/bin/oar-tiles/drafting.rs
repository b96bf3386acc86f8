//! `init`, and the layers of `seed --table`.

use oar_tiles::cli::{Init, Seed, SettingFlags};
use oar_tiles::command::init::{self, DraftFor};
use oar_tiles::config::JobSettings;
use oar_tiles::report::{print, render_discovered, render_drafted, render_undrawn, say, start_log};
use oar_tiles::run::CommandError;
use oar_tiles::stop::Stop;

use super::given::{environment, resolved_over, resolved_without_file, resolved_without_layers};
use super::on_runtime;

pub(super) fn run_init(arguments: &Init, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    init::is_free(&arguments.output)?;
    let settings = resolved_without_file(&arguments.given())?;
    let draft = async || init::draft(&settings.database, &environment(), &arguments.table, DraftFor::File, stop).await;
    let drafted = on_runtime(draft)?;
    print(&render_discovered(&drafted.found))?;
    init::has_layers(&drafted)?;
    init::write(&drafted, &arguments.output)?;
    let file = arguments.output.display().to_string();
    Ok(print(&render_drafted(&drafted.found, &file, arguments.given().database_url.is_some()))?)
}

/// The settings of `seed --table`.
pub(super) fn drafted_settings(
    arguments: &Seed,
    given: &SettingFlags,
    stop: &Stop,
) -> Result<JobSettings, CommandError> {
    let settings = resolved_without_layers(given)?;
    let draft = async || init::draft(&settings.database, &environment(), &arguments.table, DraftFor::Seed, stop).await;
    let drafted = on_runtime(draft)?;
    if !arguments.quiet {
        render_undrawn(&drafted.found).lines().for_each(say);
    }
    init::has_layers(&drafted)?;
    resolved_over(given, &drafted.text)
}

/// A draft with a tileset for each table, view and function of the database. Every tile of these is rendered on request. Reports what cannot be
/// drawn.
pub(super) fn drafted_catalogue(given: &SettingFlags, stop: &Stop) -> Result<String, CommandError> {
    let settings = resolved_without_file(given)?;
    let draft = async || init::draft(&settings.database, &environment(), &[], DraftFor::Catalogue, stop).await;
    let drafted = on_runtime(draft)?;
    render_undrawn(&drafted.found).lines().for_each(say);
    init::has_layers(&drafted)?;
    Ok(drafted.text)
}
