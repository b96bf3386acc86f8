//! `oar-tiles inspect`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::settings::{resolved_to_read, target_of};
use super::{SettingFlags, on_runtime};
use crate::report::{Style, print, print_bytes, print_json, print_result, render_contents, render_features, report};
use crate::run::{CommandError, TilesetRun, WrittenFileError, inspect, picture};
use crate::stop::Stop;
use crate::target::TARGET_FORMS;

/// `oar-tiles inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[arg(help = format!("Target: {TARGET_FORMS} [default: the output in the configuration]"))]
    pub target: Option<String>,
    /// Show the features of this tile instead of a summary of the target
    #[arg(value_name = "Z/X/Y")]
    pub tile: Option<String>,
    /// Show only this layer of the tile
    #[arg(long, value_name = "NAME", requires = "tile")]
    pub layer: Option<String>,
    /// Print the tile as GeoJSON, in degrees
    #[arg(long, requires = "tile")]
    pub(crate) geojson: bool,
    /// Draw the tile as a picture, into this file or, with -, onto standard output
    #[arg(long, value_name = "FILE", requires = "tile", conflicts_with = "geojson")]
    pub(crate) png: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long, conflicts_with = "tile")]
    pub json: bool,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(crate) fn run_inspect(arguments: &Inspect, stop: &Stop) -> Result<(), CommandError> {
    let Inspect { target, tile, layer, geojson, png, json, config } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let target = &target_of(&flags, target.as_deref(), "inspect", "oar-tiles inspect TARGET")?;
    let settings = resolved_to_read(&flags, target)?;
    let options =
        inspect::InspectOptions { tile: tile.clone(), layer: layer.clone(), geojson: *geojson, png: png.is_some() };
    on_runtime(async || {
        let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
        match inspect::inspect(&run, options).await? {
            inspect::Inspection::Summary(contents) => print_result(*json, &*contents, render_contents)?,
            inspect::Inspection::Features(features) => print(&render_features(&features))?,
            inspect::Inspection::GeoJson(text) => print_json(&text)?,
            inspect::Inspection::Picture(bytes) => write_picture(&bytes, png.as_deref(), Path::new(target))?,
        }
        Ok(())
    })
}

/// Writes a picture of `target` into a file; onto standard output for `-`, unless that is a terminal.
pub(crate) fn write_picture(bytes: &[u8], path: Option<&Path>, target: &Path) -> Result<(), CommandError> {
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            picture::write(path, target, bytes)?;
            print(&format!("{}\n", path.display()))?;
        }
        None if std::io::stdout().is_terminal() => return Err(WrittenFileError::PictureOnTerminal.into()),
        None => print_bytes(bytes)?,
    }
    Ok(())
}
