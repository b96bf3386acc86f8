//! The closing table of a run and the table of a plan, as text and as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::{RunStages, stage_lines};
use super::{grouped, sized, timed, visible_line};
use crate::manifest::Manifest;
use crate::pipeline::{LargestTile, SlowBatch};
use crate::plan::HeavyTile;
use crate::tile::TileCoord;

/// Rows of a layer that were skipped, all for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedRows {
    /// The name of the layer.
    pub layer: String,
    /// Why they cannot be drawn.
    pub reason: String,
    /// The number of rows.
    pub rows: u64,
    /// The keys of a few of them.
    pub examples: Vec<String>,
}

/// The result of a run.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct RunReport {
    /// The path or URL of the target.
    pub output: String,
    /// Tiles written: new ones, and ones whose bytes changed.
    pub written: u64,
    /// Tiles not written, because the target held them with the same bytes.
    pub unchanged: u64,
    /// Tiles deleted, because they are no longer part of the tileset.
    pub deleted: u64,
    /// Figures of the requests that stored the tiles; `None` if the target is not on a server.
    pub requests: Option<Requests>,
    /// The names of the layers, in the order in which they stand in a tile.
    pub layers: Vec<String>,
    /// The target's manifest after the run.
    pub manifest: Manifest,
    /// The number of pairs of a feature and a tile in which it is drawn.
    pub features: u64,
    /// Stored size of all tiles, in bytes.
    pub bytes: u64,
    /// Time to survey the features, to plan and to read rows, in seconds.
    pub plan_seconds: f64,
    /// Time to read the rows that are cached, in seconds: a part of `plan_seconds`.
    pub reading_seconds: f64,
    /// How many sessions read the rows of a layer side by side, at most; 0 if no rows were read to be cached.
    pub reading_sessions: usize,
    /// Time to render and store, in seconds.
    pub render_seconds: f64,
    /// Time to complete the target, in seconds.
    pub finish_seconds: f64,
    /// What the time to render went into.
    pub stages: RunStages,
    /// Lines and polygons that were drawn from cached rows, counted in each tile.
    pub shapes: u64,
    /// How many of these the database was asked for one by one, because it is not known otherwise how they come out.
    pub asked_shapes: u64,
    /// How often the run began again on a new snapshot.
    pub restarts: u32,
    /// Figures for each zoom.
    pub zooms: Vec<RunZoom>,
    /// The batches of tiles that took longest, up to ten, the slowest first. Workers render batches side by side.
    pub slowest: Vec<SlowBatch>,
    /// Rows that were skipped.
    pub skipped: Vec<SkippedRows>,
    /// How layers met their budgets; layers that kept within theirs are not listed.
    pub budgets: Vec<LayerBudget>,
    /// Tiles in which a layer could not be rendered; the target keeps the layer's old content of these tiles.
    pub failed: Vec<FailedLayer>,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}

/// Figures of the requests that stored tiles.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Requests {
    /// The mean number of requests in flight, from the start of the first to the end of the last.
    pub mean_in_flight: f64,
    /// The most requests in flight at one moment.
    pub most_in_flight: u32,
    /// The number of requests.
    pub requests: u64,
}

/// Figures of one zoom.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RunZoom {
    /// The zoom level.
    pub zoom: u8,
    /// The number of tiles stored.
    pub tiles: u64,
    /// The number of features drawn in them; a feature counts once for each tile.
    pub features: u64,
    /// Stored size of these tiles, in bytes.
    pub bytes: u64,
    /// The median of the tiles' stored sizes, in bytes.
    pub median: u64,
    /// The 95th percentile of the tiles' stored sizes, in bytes.
    pub p95: u64,
    /// The largest tile.
    pub largest: Option<LargestTile>,
    /// The layer that has the most bytes in the largest tile.
    pub largest_layer: Option<String>,
    /// Time that workers spent on the zoom, summed over all workers, in seconds.
    pub worker_seconds: f64,
}

/// The plan of a run, with estimates.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PlanReport {
    /// Figures for each zoom.
    pub zooms: Vec<PlanZoom>,
    /// Time to read the rows that are cached for all zooms, in seconds.
    pub reading_seconds: f64,
    /// The number of workers for which the times are estimated.
    pub workers: usize,
    /// Rows that will be skipped.
    pub skipped: Vec<SkippedRows>,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}

/// The plan of one zoom.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PlanZoom {
    /// The zoom level.
    pub zoom: u8,
    /// The number of occupied tiles.
    pub tiles: u64,
    /// The number of pairs of a feature and a tile in which it is drawn.
    pub features: u64,
    /// The number of batches.
    pub batches: u64,
    /// The heaviest tiles, heaviest first.
    pub heaviest: Vec<HeavyTile>,
    /// Stored size of the tiles in bytes, estimated from a sample.
    pub estimated_bytes: u64,
    /// Time to render the zoom in seconds, estimated from a sample.
    pub estimated_seconds: f64,
}

/// A table with right-aligned columns.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    table_of(header, rows, |_column| true)
}

/// A table; `is_right` is true for the columns that are aligned to the right.
pub(crate) fn table_of(header: &[&str], rows: &[Vec<String>], is_right: impl Fn(usize) -> bool) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            rows.iter().map(|row| row[column].chars().count()).chain([header[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = |(column, (cell, width)): (usize, (&String, &usize))| {
            if is_right(column) {
                format!("{cell:>width$}")
            } else if column + 1 == widths.len() {
                // Spaces at the end of a line are cut anyway, and a width may be too large for a format.
                cell.clone()
            } else {
                format!("{cell:<width$}")
            }
        };
        let cells: Vec<String> = cells.iter().zip(&widths).enumerate().map(padded).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    std::iter::once(&header).chain(rows).map(|cells| line(cells)).collect()
}

impl SkippedRows {
    /// A sentence that names the layer, the number of rows, the reason and some keys.
    pub(crate) fn sentence(&self) -> String {
        let which = match self.reason.as_str() {
            "NULL" => "whose geometry is NULL",
            "empty" => "whose geometry is empty",
            "not finite" => "with NaN or infinite coordinates",
            "unsupported" => "of a type that tiles cannot hold (TIN, TRIANGLE or POLYHEDRALSURFACE)",
            "foreign" => "in another reference system than the others",
            _ => "outside of the Web Mercator world (beyond ±85.0511° or ±180°)",
        };
        let noun = if self.rows == 1 { "row" } else { "rows" };
        let more = if self.rows > self.examples.len() as u64 { ", …" } else { "" };
        let (count, examples) = (grouped(self.rows), visible_line(&self.examples.join(", ")));
        format!("layer \"{}\": skipped {count} {noun} {which}: {examples}{more}", visible_line(&self.layer))
    }
}

/// One line for each layer and reason of skipped rows.
pub(crate) fn skipped_lines(skipped: &[SkippedRows]) -> String {
    skipped.iter().map(|rows| rows.sentence() + "\n").collect()
}

/// The closing table of a run.
pub fn render_run(report: &RunReport) -> String {
    // If there is only one layer, its name is left out.
    let several = report.layers.len() > 1;
    let rows: Vec<Vec<String>> = report
        .zooms
        .iter()
        .map(|zoom| {
            let layer = zoom.largest_layer.as_deref().filter(|_| several).unwrap_or_default();
            let largest = zoom.largest.map(|largest| format!("{} {} {layer}", sized(largest.bytes), largest.tile));
            vec![
                zoom.zoom.to_string(),
                grouped(zoom.tiles),
                grouped(zoom.features),
                sized(zoom.bytes),
                sized(zoom.median),
                sized(zoom.p95),
                largest.unwrap_or_default().trim_end().to_owned(),
                timed(zoom.worker_seconds),
            ]
        })
        .chain([vec![
            "all".to_owned(),
            grouped(report.written + report.unchanged),
            grouped(report.features),
            sized(report.bytes),
            String::new(),
            String::new(),
            String::new(),
            timed(report.manifest.seconds),
        ]])
        .collect();
    let header = ["zoom", "tiles", "features", "bytes", "median", "p95", "largest", "time"];
    let empty = match report.manifest.empty {
        0 => String::new(),
        empty => format!(", {} rendered to nothing", grouped(empty)),
    };
    let failed = match report.manifest.unrendered.len() {
        0 => String::new(),
        failed => format!(", {} could not be rendered", grouped(failed as u64)),
    };
    let synchronized = match (report.unchanged, report.deleted) {
        (0, 0) => String::new(),
        (unchanged, deleted) => format!(
            " ({} written, {} unchanged, {} deleted)",
            grouped(report.written),
            grouped(unchanged),
            grouped(deleted)
        ),
    };
    let shapes = match report.shapes {
        0 => String::new(),
        shapes => format!(
            "lines and polygons drawn from cached rows: {}, the database was asked for {} of them\n",
            grouped(shapes),
            grouped(report.asked_shapes)
        ),
    };
    format!(
        "{}time of a zoom: added up over the workers; of all: on the clock\n{}{shapes}{}{}{} planned, {} stored{empty}{failed}{synchronized}: {}\n",
        table(&header, &rows),
        stage_lines(
            report.plan_seconds - report.reading_seconds,
            report.reading_seconds,
            report.render_seconds,
            report.finish_seconds,
            &report.stages,
            report.manifest.planned == 0
        ),
        skipped_lines(&report.skipped),
        thinned_lines(&report.budgets),
        grouped(report.manifest.planned),
        grouped(report.written + report.unchanged),
        report.output
    )
}

pub fn render_plan(report: &PlanReport) -> String {
    let row = |zoom: &PlanZoom| {
        let heaviest = zoom.heaviest.first().map(|heavy| format!("{} in {}", grouped(heavy.features), heavy.tile));
        vec![
            zoom.zoom.to_string(),
            grouped(zoom.tiles),
            grouped(zoom.features),
            grouped(zoom.batches),
            heaviest.unwrap_or_default(),
            sized(zoom.estimated_bytes),
            timed(zoom.estimated_seconds),
        ]
    };
    let sum = |figure: fn(&PlanZoom) -> u64| report.zooms.iter().map(figure).sum::<u64>();
    let all = vec![
        "all".to_owned(),
        grouped(sum(|zoom| zoom.tiles)),
        grouped(sum(|zoom| zoom.features)),
        grouped(sum(|zoom| zoom.batches)),
        String::new(),
        sized(sum(|zoom| zoom.estimated_bytes)),
        timed(report.zooms.iter().map(|zoom| zoom.estimated_seconds).sum::<f64>() + report.reading_seconds),
    ];
    let reading = match report.reading_seconds {
        0.0 => String::new(),
        seconds => format!(", {} of it to read rows once for all zooms", timed(seconds)),
    };
    let rows: Vec<Vec<String>> = report.zooms.iter().map(row).chain([all]).collect();
    let header = ["zoom", "tiles", "features", "batches", "heaviest tile", "bytes (est.)", "time (est.)"];
    format!(
        "{}{}estimated from samples, with {} workers{reading}; nothing was written\n",
        table(&header, &rows),
        skipped_lines(&report.skipped),
        report.workers
    )
}

// How layers met their budgets, and which tiles could not be rendered, as text and as JSON.

/// How a layer met its budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LayerBudget {
    /// The name of the layer.
    pub layer: String,
    /// Tiles in which features were left out.
    pub thinned_tiles: u64,
    /// The number of features left out; a feature is counted once for each tile that lacks it.
    pub features_left_out: u64,
    /// Tiles in which the layer still has more bytes than `max_tile_bytes`.
    pub large_tiles: u64,
    /// The one with the most bytes; `None` if there is none.
    pub heaviest: Option<LargeTile>,
}

/// A tile in which a layer has more bytes than its budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LargeTile {
    /// The tile.
    pub tile: TileCoord,
    /// Size of the layer's part of the tile, compressed separately, in bytes.
    pub bytes: u64,
    /// The budget (`max_tile_bytes`), in bytes.
    pub limit: u64,
}

/// A layer that could not be rendered in a tile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedLayer {
    /// The tile.
    pub tile: TileCoord,
    /// The name of the layer.
    pub layer: String,
    /// Why it could not be rendered.
    pub cause: String,
}

/// The most tiles that a text names.
const NAMED: usize = 10;

impl LayerBudget {
    /// Sentences for the user about this layer's budget; empty if there is nothing to report.
    pub fn warnings(&self) -> Vec<String> {
        let layer = &self.layer;
        let thinned = (self.thinned_tiles > 0).then(|| {
            let (tiles, features) = (counted(self.thinned_tiles, "tile"), counted(self.features_left_out, "feature"));
            format!("layer \"{layer}\": {tiles} thinned to max_tile_features or max_tile_bytes, {features} left out")
        });
        let large = self.heaviest.map(|LargeTile { tile, bytes, limit }| {
            let tiles = grouped(self.large_tiles);
            format!(
                "layer \"{layer}\": tiles with more bytes than max_tile_bytes: {tiles}; the heaviest is tile {tile} with {bytes}, and {limit} allowed. Raise max_tile_bytes, draw less at this zoom, or set on_large_tile = \"thin\""
            )
        });
        thinned.into_iter().chain(large).collect()
    }
}

/// A count with its noun, such as `1 tile` or `2 tiles`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Says which layers could not be rendered in which tiles; it names the first ten tiles.
pub fn named(failed: &[FailedLayer]) -> String {
    let mut layers: Vec<(&str, Vec<String>)> = Vec::new();
    for FailedLayer { tile, layer, .. } in failed.iter().take(NAMED) {
        match layers.iter_mut().find(|(name, _)| name == layer) {
            Some((_, tiles)) => tiles.push(tile.to_string()),
            None => layers.push((layer, vec![tile.to_string()])),
        }
    }
    let layers = layers.into_iter().map(|(layer, tiles)| format!("layer \"{layer}\" in {}", tiles.join(", ")));
    let more = match failed.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {} more", grouped(more as u64)),
    };
    layers.collect::<Vec<_>>().join("; ") + &more
}

/// One line for each layer that left out features to meet its budget.
pub(crate) fn thinned_lines(layers: &[LayerBudget]) -> String {
    let thinned = layers.iter().filter(|layer| layer.thinned_tiles > 0);
    thinned
        .map(|layer| {
            let (tiles, left_out) = (counted(layer.thinned_tiles, "tile"), counted(layer.features_left_out, "feature"));
            format!("layer \"{}\": thinned {tiles}, left out {left_out}\n", layer.layer)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_of_a_table_may_be_of_any_width() {
        let rows = [vec!["1".to_owned(), "x".repeat(70_000)], vec!["22".to_owned(), "y".to_owned()]];
        let text = table_of(&["id", "properties"], &rows, |column| column == 0);
        assert_eq!(text, format!("id  properties\n 1  {}\n22  y\n", rows[0][1]));
    }

    #[test]
    fn the_first_ten_tiles_are_named() {
        let failed = |layer: &str, tile: String| FailedLayer {
            tile: tile.parse().unwrap(),
            layer: layer.to_owned(),
            cause: String::new(),
        };
        let mut all = vec![failed("a", "0/0/0".to_owned()), failed("b", "0/0/0".to_owned())];
        assert_eq!(named(&all), "layer \"a\" in 0/0/0; layer \"b\" in 0/0/0");
        all.extend((0..10).map(|x| failed("a", format!("4/{x}/3"))));
        assert_eq!(
            named(&all),
            "layer \"a\" in 0/0/0, 4/0/3, 4/1/3, 4/2/3, 4/3/3, 4/4/3, 4/5/3, 4/6/3, 4/7/3; layer \"b\" in 0/0/0 and 2 more"
        );
    }
}
