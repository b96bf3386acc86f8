//! `oar-tiles diff`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::settings::{resolved_to_read, target_of};
use super::{SettingFlags, on_runtime};
use crate::mvt::{LayerDifference, LayerExtents};
use crate::report::{
    DiffReport, DiffZoom, DifferingTile, Style, counted, grouped, print_json, print_result, report, start_log,
    visible_line,
};
use crate::run::endpoint::{EndpointOptions, is_endpoint};
use crate::run::{CommandError, TilesetRun, area_or_boxes, diff};
use crate::stop::Stop;
use crate::target::TARGET_FORMS;
use crate::tile::{LonLatBox, ZoomList};

/// `oar-tiles diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[arg(help = format!(
        "First target: {TARGET_FORMS}; the only one, to compare it with the output in the configuration"
    ))]
    pub a: String,
    /// Second target: the same kinds; or where a server has tiles: https://HOST/PATH/{z}/{x}/{y}.pbf
    pub b: Option<String>,
    /// Compare only these zooms, such as 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Compare only tiles that this box touches, in degrees; repeat the flag for several boxes
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Compare only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub(crate) area: Option<String>,
    /// Ask the server for the tiles of this file, a line z/x/y each; - reads standard input
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    tiles: Option<PathBuf>,
    /// Ask the server for this many tiles, of all zooms, spread evenly over the target [default: 1000]
    #[arg(long, value_name = "N", conflicts_with = "tiles")]
    sample: Option<NonZeroU64>,
    /// Ask the server for at most N tiles a second [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: Option<u32>,
    /// Send this header to the server, too, such as 'Referer: https://HOST/'; repeat the flag for several headers
    #[arg(long, value_name = "HEADER", action = ArgAction::Append)]
    header: Vec<String>,
    /// Print the tiles that differ as GeoJSON, each as its square
    #[arg(long)]
    pub(crate) geojson: bool,
    /// Print the counts as JSON
    #[arg(long, conflicts_with = "geojson")]
    pub json: bool,
    /// Configuration file, for how to reach S3 [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(crate) fn run_diff(arguments: &Diff, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Diff { a, b, zoom, bbox, area: wanted, geojson, json, config, .. } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let (first, other) = match b {
        Some(b) => (a.clone(), b.clone()),
        None => (target_of(&flags, None, "diff", "oar-tiles diff A B")?, a.clone()),
    };
    let other = compared_with(arguments, &first, other)?;
    let settings = resolved_to_read(&flags, &first)?;
    let bbox = area_or_boxes(wanted.as_ref(), bbox)?;
    let options = diff::DiffOptions { other, zoom: zoom.clone(), bbox };
    on_runtime(async || {
        let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
        let found = diff::diff(&run, &options).await?;
        if *geojson {
            print_json(&diff::geojson(&found))?;
        } else {
            print_result(*json, &found.report, render_diff)?;
        }
        diff::equal(&found)
    })
}

/// The tiles of a target that a server is asked for, unless the user says how many.
const SAMPLED_TILES: usize = 1_000;

/// Requests a second to a server, unless the user says how many.
const DEFAULT_RATE: u32 = 20;

/// What the first target is compared with.
fn compared_with(arguments: &Diff, first: &str, other: String) -> Result<diff::DiffOther, CommandError> {
    let Diff { tiles, sample, rate, header, .. } = arguments;
    let unfit = |what: &str| CommandError::Unfit { target: first.to_owned(), what: what.to_owned() };
    if is_endpoint(first) {
        return Err(unfit(
            "a server is compared with a target: name the target first, as in oar-tiles diff TARGET URL",
        ));
    }
    if is_endpoint(&other) {
        let sample = sample.map_or(SAMPLED_TILES, |count| usize::try_from(count.get()).unwrap_or(usize::MAX));
        let tiles = match tiles {
            Some(path) => diff::EndpointTiles::List(path.clone()),
            None => diff::EndpointTiles::Sample(sample),
        };
        let rate = rate.unwrap_or(DEFAULT_RATE);
        return Ok(diff::DiffOther::Endpoint(EndpointOptions { address: other, headers: header.clone(), rate }, tiles));
    }
    if tiles.is_some() || sample.is_some() || rate.is_some() || !header.is_empty() {
        let what = "--tiles, --sample, --rate and --header are for a server, as in oar-tiles diff TARGET https://HOST/{z}/{x}/{y}.pbf; two targets are compared as a whole, or in --zoom, --bbox and --area";
        return Err(CommandError::Unfit { target: other, what: what.to_owned() });
    }
    Ok(diff::DiffOther::Target(other))
}

/// The most tiles whose differences are shown.
const MAX_SHOWN_TILES: usize = 20;

/// The counts as a table.
fn render_diff(diff: &DiffReport) -> String {
    let mut lines = vec![format!("{:>5}{:>14}{:>14}{:>14}{:>14}", "zoom", "equal", "differ", "only in A", "only in B")];
    let mut sum = DiffZoom::default();
    for zoom in &diff.zooms {
        lines.push(line(&zoom.zoom.to_string(), zoom));
        sum.equal += zoom.equal;
        sum.packed_otherwise += zoom.packed_otherwise;
        sum.differ += zoom.differ;
        sum.only_a += zoom.only_a;
        sum.only_b += zoom.only_b;
        sum.both_empty += zoom.both_empty;
    }
    if diff.zooms.len() > 1 {
        lines.push(line("all", &sum));
    }
    if sum.packed_otherwise > 0 {
        lines.push(format!("equal, but packed otherwise: {}", grouped(sum.packed_otherwise)));
    }
    if sum.both_empty > 0 {
        lines.push(format!("asked for, and empty in both: {}", grouped(sum.both_empty)));
    }
    if sum.only_a > 0 && sum.equal + sum.differ + sum.only_b == 0 {
        lines.push("B has none of these tiles: is its address right?".to_owned());
    }
    lines.extend(diff.differing.iter().take(MAX_SHOWN_TILES).flat_map(tile_lines));
    if diff.differing.len() > MAX_SHOWN_TILES {
        let more = grouped(diff.differences() - MAX_SHOWN_TILES as u64);
        lines.push(format!("and {more} tiles more (--json says how the first 1000 differ, --geojson where they are)"));
    }
    if let Some(first) = diff.unanswered.first() {
        let count = grouped(diff.unanswered.len() as u64);
        lines.push(format!("not compared: {count}, first {}: {}", first.tile, visible_line(&first.why)));
    }
    format!("A: {}\nB: {}\n{}\n", diff.a, diff.b, lines.join("\n"))
}

/// How a tile differs, a line for each layer.
fn tile_lines(differing: &DifferingTile) -> Vec<String> {
    let line = |layer: &LayerDifference| {
        let mut parts = Vec::new();
        parts.extend(layer.extents.map(|LayerExtents { a, b }| format!("extent {a} in A, {b} in B")));
        for (count, what) in [(layer.only_a, "only in A"), (layer.only_b, "only in B")] {
            parts.extend((count > 0).then(|| format!("{} {what}", counted(count, "feature"))));
        }
        if layer.moved > 0 {
            let far = layer
                .farthest
                .map_or_else(String::new, |units| format!(", by {} at most", counted(units.into(), "unit")));
            parts.push(format!("{} moved{far}", counted(layer.moved, "feature")));
        }
        if layer.altered > 0 {
            let names: Vec<String> = layer.properties.iter().map(|name| visible_line(name)).collect();
            parts.push(format!("{} with other properties ({})", counted(layer.altered, "feature"), names.join(", ")));
        }
        parts.extend((layer.other_ids > 0).then(|| format!("{} with another id", counted(layer.other_ids, "feature"))));
        format!("{} {}: {}", differing.tile, visible_line(&layer.layer), parts.join("; "))
    };
    differing.layers.iter().map(line).collect()
}

fn line(name: &str, zoom: &DiffZoom) -> String {
    let [equal, differ, only_a, only_b] = [zoom.equal, zoom.differ, zoom.only_a, zoom.only_b].map(grouped);
    format!("{name:>5}{equal:>14}{differ:>14}{only_a:>14}{only_b:>14}")
}
