//! Where the features of all layers of a run lie. They are surveyed or, for a shard, read with all their values at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CommandError, Job};
use crate::plan::PlanLayer;
use crate::postgis::{
    CacheLimits, ExpectedRows, Layer, PreparedLayer, Session, Snapshot, Surveyed, Worker, foldable, survey_for_plan,
};
use crate::report::{Event, SkippedRows};
use crate::tile::{Footprints, LayerFootprints, LayerId, SortedPoints};

/// The cost of a function call, compared with drawing a row. The real cost is unknown; with this value a statement has 400 calls where it would
/// draw 10,000 rows.
pub(crate) const CALL_COST: u64 = 25;

/// The approximate maximum of bytes that a row takes in memory. A shard whose rows may not fit in memory is surveyed first.
const BYTES_PER_ROW: u64 = 400;

/// What is known of all layers.
pub(super) struct LayerSurveys {
    /// The layers for the plan.
    pub(super) planned: Vec<PlanLayer>,
    /// The layers with what was counted or read.
    pub(super) surveyed: Vec<PreparedLayer>,
    pub(super) skipped: Vec<SkippedRows>,
    /// The number of rows of each layer, where it is known.
    pub(super) rows: Vec<Option<u64>>,
    /// Whether each layer has a feature, for layers that are drawn at the run's zooms.
    pub(super) has_features: BTreeMap<LayerId, bool>,
    /// The number of large areas that are not valid polygons, by the names of the layers that have such areas.
    pub(super) invalid: BTreeMap<String, u64>,
}

/// Surveys all layers. The workers read in parallel where that pays.
pub(super) async fn survey_layers(
    job: &Job,
    snapshot: &Snapshot,
    layers: &[Arc<Layer>],
    workers: &[Worker],
) -> Result<LayerSurveys, CommandError> {
    let workers = job.readers(workers);
    let (coverage, tileset) = (job.coverage(), &job.settings.tileset);
    let (zooms, mut memory) = (&tileset.zooms, job.rows_memory());
    let readers: Vec<&Session> = workers.iter().map(Worker::session).collect();
    let (planned, surveyed, skipped) = (Vec::new(), Vec::new(), Vec::new());
    let mut all = LayerSurveys {
        planned,
        surveyed,
        skipped,
        rows: Vec::new(),
        has_features: BTreeMap::new(),
        invalid: BTreeMap::new(),
    };
    for (layer, settings) in layers.iter().zip(&tileset.layers) {
        // A layer that is drawn differently at different zooms is surveyed once for each way of drawing.
        if all.surveyed.last().is_none_or(|before| before.layer().name() != layer.name()) {
            job.report.event(&Event::Surveying { layer: layer.name().to_owned() });
        }
        let fresh = PreparedLayer::new(layer);
        let before = job.rows_read_before(snapshot, &fresh, &settings.options);
        let fresh = before.as_ref().map_or(fresh, |before| before.layer.clone());
        memory = memory.saturating_sub(fresh.cached_bytes());
        let cached = cached_first(job, snapshot, layer, workers, memory).await?;
        let (prepared, seen) = if let Some((cached, places)) = cached {
            memory = memory.saturating_sub(cached.cached_bytes());
            (cached, Surveyed::of_places(places))
        } else if let Some((places, skipped)) = before.and_then(|before| before.places) {
            for rows in skipped {
                add_skipped(&mut all.skipped, rows);
            }
            (fresh, Surveyed::of_places(places))
        } else {
            let folds = foldable(snapshot, layer).await?;
            let seen = survey_for_plan(snapshot, layer, folds.as_deref(), &coverage, zooms, &readers).await?;
            (fresh.with_cells(folds, seen.counted.clone()), seen)
        };
        if zooms.iter().any(|zoom| layer.zooms().contains(zoom)) {
            *all.has_features.entry(layer.id()).or_default() |= seen.point_file.is_some() || !seen.places.is_empty();
        }
        all.rows.push(seen.rows);
        if seen.invalid_areas > 0 {
            let most = all.invalid.entry(layer.name().to_owned()).or_default();
            *most = (*most).max(seen.invalid_areas);
        }
        for rows in seen.skipped {
            let layer = layer.name().to_owned();
            let rows = SkippedRows { layer, reason: rows.reason, rows: rows.rows, examples: rows.examples };
            add_skipped(&mut all.skipped, rows);
        }
        all.planned.push(PlanLayer {
            zooms: layer.zooms().clone(),
            margin: layer.margin(),
            max_tile_features: settings.options.budget.features.clone(),
            asks_each_tile: layer.asks_each_tile(),
            lists_tiles: layer.lists_tiles(),
            feature_cost: if layer.function().is_some() { CALL_COST } else { 1 },
            places: seen.places,
            point_file: seen.point_file,
            rows: seen.gathered,
        });
        all.surveyed.push(prepared);
    }
    Ok(all)
}

/// The rows of a shard's layer and where they lie, read before its tiles are planned, because a survey would read the rows a second time. `None`
/// if the layer is not drawn from cached rows, or if there are too many for the memory.
async fn cached_first(
    job: &Job,
    snapshot: &Snapshot,
    layer: &Arc<Layer>,
    workers: &[Worker],
    memory: usize,
) -> Result<Option<(PreparedLayer, LayerFootprints)>, CommandError> {
    let Some(part) = &job.part else { return Ok(None) };
    if part.columns.ranges().is_empty() {
        let nowhere = LayerFootprints::Same(Footprints::Points(SortedPoints::default()));
        return Ok(Some((PreparedLayer::new(layer), nowhere)));
    }
    let zooms = &job.settings.tileset.zooms;
    let is_drawn = zooms.iter().any(|zoom| layer.zooms().contains(zoom));
    let is_suited = layer.traits().has_uniform_points && layer.is_found_by_area();
    let has_room = part.rows.saturating_mul(BYTES_PER_ROW) <= memory as u64;
    if !is_drawn || !is_suited || !has_room || memory == 0 {
        return Ok(None);
    }
    job.report.event(&Event::Reading { layer: layer.name().to_owned() });
    let limits = CacheLimits { rows: ExpectedRows::About(part.rows), memory };
    let zooms = layer.drawn_zooms(zooms);
    let cached = PreparedLayer::new(layer).cache_rows(snapshot, workers, &job.coverage(), &zooms, limits).await?;
    let places = cached.cached_places();
    Ok(places.map(|places| (cached, places)))
}

/// Adds rows that were skipped. If a layer has several parts, each for its own zooms, the highest number for each reason is kept, because these
/// are mostly the same rows in each part.
fn add_skipped(skipped: &mut Vec<SkippedRows>, rows: SkippedRows) {
    match skipped.iter_mut().find(|known| (&known.layer, &known.reason) == (&rows.layer, &rows.reason)) {
        Some(known) if known.rows < rows.rows => *known = rows,
        Some(_fewer) => {}
        None => skipped.push(rows),
    }
}
