//! The verbs on a target that exists: `publish`, `purge`, `verify`, `inspect`, `copy`, `diff`.

use std::io::IsTerminal as _;
use std::path::Path;

use oar_tiles::cli::{Copy, Diff, Inspect, Publish, Purge, PurgeVerb, SettingFlags, Verify};
use oar_tiles::command::{copy, diff, inspect, publish, purge, verify};
use oar_tiles::config::ConfigError;
use oar_tiles::report::{
    PurgeStatusList, Style, print, print_bytes, print_document, print_json, render_contents, render_copy,
    render_delivered, render_diff, render_features, render_findings, render_planned_purges, render_purge_status,
    render_rewritten, render_versions, report, start_log,
};
use oar_tiles::run::{CommandError, Job, WrittenFileError, area, area_or_boxes};
use oar_tiles::stop::Stop;

use super::given::{resolved_all, resolved_for, resolved_to_read, resolved_to_write};
use super::on_runtime;
use super::shown::{Closing, first_failure};
use super::tilesets::for_each;
use super::variants::{targets_of, variant_of_target};

pub(super) fn run_publish(arguments: &Publish, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let tilesets = resolved_all(&arguments.given(), true)?;
    let options = publish::PublishOptions { rollback: arguments.rollback, to: arguments.to.clone() };
    let publish_one = async |settings| {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        if arguments.rewrite_headers {
            let rewritten = tokio::task::block_in_place(|| publish::rewrite_headers(&job))?;
            print(&render_rewritten(&rewritten))?;
        } else {
            let latest = tokio::task::block_in_place(|| publish::publish(&job, &options))?;
            print(&render_versions(&latest))?;
        }
        job.purge_published(false).await.map(drop)
    };
    on_runtime(async || for_each(targets_of(tilesets, stop).await?, false, stop, publish_one).await)
}

pub(super) fn run_purge(arguments: &Purge, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let (flags, target, is_json) = match &arguments.verb {
        Some(PurgeVerb::Status(status)) => (status.given(), &status.target, Some(status.json)),
        None => (arguments.what.given(), &arguments.what.target, None),
    };
    let tilesets = match target {
        Some(target) => vec![resolved_for(&flags, target, "purge")?],
        None => resolved_all(&flags, true)?,
    };
    if is_json == Some(true) && tilesets.len() > 1 {
        let names = tilesets.into_iter().map(|settings| settings.tileset.name).collect();
        return Err(ConfigError::NotOneTileset { what: "--json", names }.into());
    }
    let what = &arguments.what;
    let request = purge::PurgeRequest { all: what.all, tiles: what.tiles.clone(), forget: what.forget };
    let purge_one = async |settings| {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        match is_json {
            Some(true) => print_document(&PurgeStatusList { cdns: &purge::status(&job).await? })?,
            Some(false) => print(&render_purge_status(&purge::status(&job).await?))?,
            None if what.dry_run => print(&render_planned_purges(&purge::dry_run(&job, &request).await?))?,
            None => print(&render_delivered(&purge::purge(&job, &request).await?))?,
        }
        Ok(())
    };
    on_runtime(async || {
        let targets = if target.is_some() { tilesets } else { targets_of(tilesets, stop).await? };
        for_each(targets, false, stop, purge_one).await
    })
}

pub(super) fn run_verify(arguments: &Verify, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let settings = if arguments.database {
        resolved_for(&arguments.given(), &arguments.target, "verify --database")?
    } else {
        resolved_to_read(&arguments.given(), &arguments.target)?
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
        let found = verify::verify(&Job::new(settings, false, &report(Style::Warnings), stop)?, &options).await?;
        if arguments.json {
            print_document(&found)?;
        }
        let shown = closing.show(&render_findings(&found), &found);
        first_failure([verify::sound(&found), shown])
    })
}

pub(super) fn run_inspect(arguments: &Inspect, stop: &Stop) -> Result<(), CommandError> {
    let Inspect { target, tile, layer, geojson, png, json, config } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let settings = resolved_to_read(&flags, target)?;
    let options =
        inspect::InspectOptions { tile: tile.clone(), layer: layer.clone(), geojson: *geojson, png: png.is_some() };
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        match inspect::inspect(&job, options).await? {
            inspect::Inspection::Summary(contents) if *json => print_document(&*contents)?,
            inspect::Inspection::Summary(contents) => print(&render_contents(&contents))?,
            inspect::Inspection::Features(features) => print(&render_features(&features))?,
            inspect::Inspection::GeoJson(text) => print_json(&text)?,
            inspect::Inspection::Picture(bytes) => write_picture(&bytes, png.as_deref(), Path::new(target))?,
        }
        Ok(())
    })
}

/// Writes a picture of a tile of `target` into a file; onto standard output for `-`, unless that is a terminal.
fn write_picture(bytes: &[u8], path: Option<&Path>, target: &Path) -> Result<(), CommandError> {
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            inspect::write_picture(path, target, bytes)?;
            print(&format!("{}\n", path.display()))?;
        }
        None if std::io::stdout().is_terminal() => return Err(WrittenFileError::PictureOnTerminal.into()),
        None => print_bytes(bytes)?,
    }
    Ok(())
}

pub(super) fn run_copy(arguments: &Copy, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Copy { places, zoom, bbox, layer, area: wanted, since, force, changed_out, public_url, quiet, config } =
        arguments;
    let (target, source) = match places.split_last() {
        Some((target, source)) if !source.is_empty() => (target, source),
        _ => return Err(CommandError::NoCopyTarget),
    };
    if since.is_some() && source.len() > 1 {
        return Err(CommandError::NoPatchOfSeveral);
    }
    let flags = SettingFlags { config: config.clone(), public_url: public_url.clone(), ..SettingFlags::default() };
    let (mut settings, is_own) = resolved_to_write(&flags, target)?;
    // The CDNs of the configuration are in front of its own output only.
    if !is_own {
        settings.tileset.purges.clear();
    }
    let bbox = area_or_boxes(wanted.as_ref(), bbox)?;
    let options = copy::CopyOptions {
        sources: source.to_vec(),
        layers: layer.clone(),
        zoom: zoom.clone(),
        bbox,
        since: since.clone(),
    };
    on_runtime(async || {
        let job = Job::new(settings, *force, &report(Style::Warnings), stop)?;
        let job = job.with_changed_out(changed_out.as_deref())?;
        let done = copy::copy(&job, &options).await?;
        let shown = if *quiet { Ok(()) } else { print(&render_copy(&done)).map_err(CommandError::from) };
        let purged = job.purge_published(false).await.map(drop);
        first_failure([purged, shown, job.listed()])
    })
}

pub(super) fn run_diff(arguments: &Diff, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Diff { a, b, zoom, bbox, area: wanted, geojson, json, config } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let settings = resolved_to_read(&flags, a)?;
    let bbox = area_or_boxes(wanted.as_ref(), bbox)?;
    let options = diff::DiffOptions { other: b.clone(), zoom: zoom.clone(), bbox };
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        let found = diff::diff(&job, &options).await?;
        if *geojson {
            print_json(&diff::geojson(&found))?;
        } else if *json {
            print_document(&found.report)?;
        } else {
            print(&render_diff(&found.report))?;
        }
        diff::equal(&found)
    })
}
