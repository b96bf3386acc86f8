//! The verbs on a target that exists: `publish`, `purge`, `verify`, `inspect`, `copy`, `diff`.

use std::io::IsTerminal as _;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};

use super::settings::{
    Closing, first_failure, names_layers, resolved_all, resolved_for, resolved_to_read, resolved_to_write,
    several_tilesets, target_of,
};
use super::tilesets::for_each;
use super::variants::{targets_of, variant_of_target};
use super::{Purge, PurgeVerb, SettingFlags, on_runtime};
use crate::report::{
    PurgeStatusList, Style, print, print_bytes, print_document, print_json, render_contents, render_copy,
    render_delivered, render_diff, render_features, render_findings, render_planned_purges, render_purge_status,
    render_rewritten, render_versions, report, start_log,
};
use crate::run::{
    CommandError, Job, WrittenFileError, area, area_or_boxes, copy, diff, inspect, publish, purge, verify,
};
use crate::stop::Stop;
use crate::tile::{LonLatBox, ZoomList};

pub(crate) fn run_publish(arguments: &Publish, stop: &Stop) -> Result<(), CommandError> {
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

pub(crate) fn run_purge(arguments: &Purge, stop: &Stop) -> Result<(), CommandError> {
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
        return Err(several_tilesets("--json", tilesets));
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

pub(crate) fn run_verify(arguments: &Verify, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let given = arguments.given();
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
        let found = verify::verify(&Job::new(settings, false, &report(Style::Warnings), stop)?, &options).await?;
        if arguments.json {
            print_document(&found)?;
        }
        let shown = closing.show(&render_findings(&found), &found);
        first_failure([verify::sound(&found), shown])
    })
}

pub(crate) fn run_inspect(arguments: &Inspect, stop: &Stop) -> Result<(), CommandError> {
    let Inspect { target, tile, layer, geojson, png, json, config } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let target = &target_of(&flags, target.as_deref(), "inspect", "oar-tiles inspect TARGET")?;
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

pub(crate) fn run_copy(arguments: &Copy, stop: &Stop) -> Result<(), CommandError> {
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
        first_failure([purged, shown, job.changed_out.result()])
    })
}

pub(crate) fn run_diff(arguments: &Diff, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Diff { a, b, zoom, bbox, area: wanted, geojson, json, config } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let (first, other) = match b {
        Some(b) => (a.clone(), b.clone()),
        None => (target_of(&flags, None, "diff", "oar-tiles diff A B")?, a.clone()),
    };
    let settings = resolved_to_read(&flags, &first)?;
    let bbox = area_or_boxes(wanted.as_ref(), bbox)?;
    let options = diff::DiffOptions { other, zoom: zoom.clone(), bbox };
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

// The flags of `oar-tiles copy`.

/// `oar-tiles copy`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
#[command(override_usage = "oar-tiles copy [OPTIONS] <SOURCE>... <TARGET>")]
pub struct Copy {
    /// Copy from, and last of all copy to: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or
    /// s3://bucket/file.pmtiles; several sources are joined, tiles that are in more than one of them by their layers
    // One list, because clap cannot tell where the sources end if flags stand among them.
    #[arg(required = true, num_args = 1.., value_name = "PLACE")]
    pub places: Vec<String>,
    /// Copy only these zooms, such as 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Copy only tiles that this box touches, in degrees; repeat the flag for several boxes
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Copy only this layer of each tile; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Copy only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub area: Option<String>,
    /// Write only what differs from this older target, as a patch in MBTiles that `mbtiles apply-patch` (of Martin)
    /// brings into a copy of it
    #[arg(long, value_name = "TARGET", conflicts_with_all = ["zoom", "bbox", "layer", "area", "changed_out"])]
    pub since: Option<String>,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if
    /// that is not known
    #[arg(long, value_name = "FILE")]
    pub changed_out: Option<PathBuf>,
    /// URL under which clients find the directory or bucket, such as https://host/path; tiles.json refers to it [env:
    /// OAR_TILES_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

// The flags of `oar-tiles diff`.

/// `oar-tiles diff`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Diff {
    /// First target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles; the
    /// only one, to compare it with the output in the configuration
    pub a: String,
    /// Second target: the same kinds
    pub b: Option<String>,
    /// Compare only these zooms, such as 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Compare only tiles that this box touches, in degrees; repeat the flag for several boxes
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Compare only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub area: Option<String>,
    /// Print the tiles that differ as GeoJSON, each as its square
    #[arg(long)]
    pub geojson: bool,
    /// Print the counts as JSON
    #[arg(long, conflicts_with = "geojson")]
    pub json: bool,
    /// Configuration file, for how to reach S3 [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

// The flags of `verify` and `inspect`.

/// `oar-tiles verify`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Verify {
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles [default: the
    /// output in the configuration]
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
    pub area: Option<String>,
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
    pub database_url: Option<String>,
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

impl Verify {
    /// The flags that override the configuration.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        let (config, database_url) = (self.config.clone(), self.database_url.clone());
        SettingFlags {
            config,
            database_url,
            layer: self.layer.clone(),
            tileset: self.tileset.iter().cloned().collect(),
            workers: self.workers,
            ..SettingFlags::default()
        }
    }
}

/// `oar-tiles inspect`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Inspect {
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles [default: the
    /// output in the configuration]
    pub target: Option<String>,
    /// Show the features of this tile instead of a summary of the target
    #[arg(value_name = "Z/X/Y")]
    pub tile: Option<String>,
    /// Show only this layer of the tile
    #[arg(long, value_name = "NAME", requires = "tile")]
    pub layer: Option<String>,
    /// Print the tile as GeoJSON, in degrees
    #[arg(long, requires = "tile")]
    pub geojson: bool,
    /// Draw the tile as a picture, into this file or, with -, onto standard output
    #[arg(long, value_name = "FILE", requires = "tile", conflicts_with = "geojson")]
    pub png: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long, conflicts_with = "tile")]
    pub json: bool,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

// The flags of `oar-tiles publish`.

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
    /// Give every tile of an S3 prefix the headers and metadata of the configuration, also tiles that did not change;
    /// then purge everything
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
