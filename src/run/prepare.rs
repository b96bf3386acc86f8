//! The beginning of a seed and of its dry run: snapshot, probe, survey and plan.

use std::collections::{BTreeMap, HashSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::shared_rows::RowsToRead;
use super::{CommandError, RowSource, RunPart, TilesetRun};
use crate::config::Settings;
use crate::draw::choice::{CacheCost, LayerWork, Preparation, preparation};
use crate::draw::{CacheLimits, PreparedLayer, Spill, Worker};
use crate::pipeline::BatchKind;
use crate::plan::{PlanLayer, ZoomPlan, plan};
use crate::postgis::{
    Database, ExpectedRows, Layer, OnLargeTile, Probed, Reads, Server, Session, Skipped, Snapshot, Surveyed,
    count_of_table, foldable, jumping_rows, probe_names, survey_for_plan, survey_of_read_rows,
};
use crate::report::{Event, Report, SkippedRows};
use crate::target::TargetUrl;
use crate::tile::{
    Batch, Coverage, Footprints, LayerFootprints, LayerId, LayerIndex, LonLatBox, Order, SortedPoints, WORLD_UNITS,
    WorldRect, Zoom, ZoomLimits, ZoomList,
};

/// The warning about large areas that are not valid polygons.
fn invalid_areas(layer: &str, count: u64) -> String {
    let (areas, are) = if count == 1 { ("area is", "a valid polygon") } else { ("areas are", "valid polygons") };
    format!(
        "layer \"{layer}\": {count} large {areas} not {are}: PostGIS may draw them wrongly or leave parts of them out. ST_IsValid finds them; mend them with an UPDATE with ST_MakeValid"
    )
}

/// What is known before the first tile is rendered.
pub(crate) struct Prepared {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) server: Server,
    pub(crate) layers: Vec<Arc<Layer>>,
    /// The same layers with what the survey has counted.
    pub(crate) surveyed: Vec<PreparedLayer>,
    /// The number of features of each layer; 0 if the number differs by zoom.
    pub(crate) features: Vec<u64>,
    /// The number of rows of each layer, where it is known.
    pub(crate) rows: Vec<Option<u64>>,
    pub(crate) reads: Reads,
    /// Sessions that hold the same locks as the session that holds the snapshot.
    pub(crate) workers: Vec<Worker>,
    pub(crate) zooms: Vec<ZoomPlan>,
    /// The box around the features within the coverage.
    pub(crate) bounds: LonLatBox,
    pub(crate) skipped: Vec<SkippedRows>,
    pub(crate) warnings: Vec<String>,
    /// The layers from which features will be left out, as text.
    pub(crate) thinned: Vec<String>,
    /// How long the preparation took, without what was read to be cached.
    pub(crate) took: Duration,
    /// How long the rows were read that are cached already.
    pub(crate) reading: Duration,
}

/// Takes a snapshot, probes and surveys the layers, opens `sessions` sessions, and plans batches in `order`. If
/// `refreshes` is true, materialized views are refreshed before.
pub(crate) async fn prepare(
    run: &TilesetRun,
    order: Order,
    sessions: usize,
    refreshes: bool,
) -> Result<Prepared, CommandError> {
    let (begun, database) = (Instant::now(), run.database()?);
    let snapshot = run.take_snapshot(&database, refreshes).await?;
    prepare_on(run, &database, snapshot, order, sessions, begun).await
}

/// Does what [`prepare`] does on a snapshot that was taken at or after `begun`.
pub(crate) async fn prepare_on(
    run: &TilesetRun,
    database: &Database,
    snapshot: Arc<Snapshot>,
    order: Order,
    sessions: usize,
    begun: Instant,
) -> Result<Prepared, CommandError> {
    let TilesetRun { settings, report, .. } = run;
    let options = &settings.tileset.layers;
    let named = probe_names(&snapshot, options).await?;
    // The workers take their locks before rows are read, which takes long. A session that opened later would queue
    // behind a statement that waits for a lock of the first session.
    let packing = settings.run.limits.packing;
    let workers = Worker::open(database, &snapshot, &named.locks, packing, sessions).await?;
    let probed = named.probe_rows().await?;
    let mut warnings = Warnings { report, seen: Vec::new() };
    // The parts of one layer, each for its own zooms, give the same warnings.
    let mut said = HashSet::new();
    probed
        .warnings
        .into_iter()
        .filter(|warning| said.insert(warning.clone()))
        .for_each(|warning| warnings.add(warning));
    let mut looked_at = HashSet::new();
    // A shard is not checked: the plan of the whole run has already warned.
    let is_whole = matches!(run.part, RunPart::Whole);
    for layer in probed.layers.iter().filter(|layer| is_whole && looked_at.insert(layer.name())) {
        if let Some(jumps) = jumping_rows(&snapshot, layer).await? {
            warnings.add(format!("layer \"{}\": {}", layer.name(), jumps.advice()));
        }
    }
    if probed.server.in_recovery {
        tracing::info!("the database is a standby");
    }
    let Probed { server, layers, reads, .. } = probed;
    plan_probed(run, ProbedRun { snapshot, server, layers, reads, workers }, warnings, order, begun).await
}

/// What is known of a run before the first row is read.
pub(crate) struct ProbedRun {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) server: Server,
    pub(crate) layers: Vec<Arc<Layer>>,
    pub(crate) reads: Reads,
    /// Sessions that hold the same locks as the session that holds the snapshot.
    pub(crate) workers: Vec<Worker>,
}

/// Surveys the layers, and plans batches in `order`.
pub(crate) async fn plan_probed(
    run: &TilesetRun,
    probed: ProbedRun,
    mut warnings: Warnings<'_>,
    order: Order,
    begun: Instant,
) -> Result<Prepared, CommandError> {
    let TilesetRun { settings, report, stop, .. } = run;
    let ProbedRun { snapshot, server, layers, reads, workers } = probed;
    let is_whole = matches!(run.part, RunPart::Whole);
    let (coverage, zooms) = (run.coverage(), &settings.tileset.zooms);
    let LayerSurveys { planned, surveyed, skipped, rows, mut has_features, invalid, reading } =
        survey_layers(run, &snapshot, &layers, &workers).await?;
    let is_empty = |layer: &&Arc<Layer>| is_whole && has_features.remove(&layer.id()) == Some(false);
    for layer in layers.iter().filter(is_empty) {
        let name = layer.name();
        warnings.add(format!("layer \"{name}\" has no feature to draw: is its table filled, and its where right?"));
    }
    for rows in &skipped {
        report.event(&Event::Skipped(rows.clone()));
    }
    let bounds = bounds(&planned, &coverage);
    let features = planned.iter().map(|layer| match (&layer.point_file, &layer.footprints) {
        (Some(file), _) => file.len(),
        (None, LayerFootprints::Same(features)) => features.len() as u64,
        (None, LayerFootprints::ByZoom(_)) => 0,
    });
    let features = features.collect();
    let (zooms, batch) = (zooms.clone(), run.batch_features(BatchKind::Seed));
    let functions: Vec<bool> = layers.iter().map(|layer| layer.function().is_some()).collect();
    let side_by_side = settings.run.workers;
    let planning = spawn_blocking(move || {
        let planned_zooms = plan(&zooms, &planned, &coverage, batch, order)?;
        match batch_of_calls(&planned_zooms, &functions, side_by_side) {
            Some(fewer) if fewer < batch => plan(&zooms, &planned, &coverage, fewer, order),
            _ => Ok(planned_zooms),
        }
    });
    let zooms = tokio::select! {
        zooms = planning => zooms?.map_err(CommandError::Scratch)?,
        signal = stop.wait() => return Err(CommandError::Interrupted(signal)),
    };
    for (layer, count) in &invalid {
        warnings.add(invalid_areas(layer, *count));
    }
    let thinned = check_limits(settings, &zooms, &mut warnings)?;
    warn_of_calls(&layers, &zooms, &mut warnings);
    Ok(Prepared {
        snapshot,
        server,
        layers,
        surveyed,
        features,
        rows,
        reads,
        workers,
        zooms,
        bounds,
        skipped,
        warnings: warnings.seen,
        thinned,
        took: begun.elapsed().saturating_sub(reading),
        reading,
    })
}

/// The least number of batches of calls for each worker, if there are enough calls. A call may take long. With fewer
/// batches, a worker that has none left would wait for another one that still has many calls to make.
const BATCHES_OF_CALLS: u64 = 16;

/// The number of features per batch that leaves enough batches of function calls for all workers; `None` if no function
/// is called.
fn batch_of_calls(zooms: &[ZoomPlan], functions: &[bool], workers: NonZeroUsize) -> Option<NonZeroU64> {
    let batches = zooms.iter().flat_map(|zoom| &zoom.batches);
    let called = batches.flat_map(|batch| batch.layers.iter().zip(functions)).filter(|(_, is_function)| **is_function);
    let calls: u64 = called.map(|(layer, _)| layer.tiles).sum();
    let each = calls / (BATCHES_OF_CALLS * workers.get() as u64);
    (calls > 0).then(|| NonZeroU64::new(each * CALL_COST).unwrap_or(NonZeroU64::MIN))
}

/// Warns of functions that are called for every tile, because the configuration does not say where their tiles can be.
fn warn_of_calls(layers: &[Arc<Layer>], zooms: &[ZoomPlan], warnings: &mut Warnings<'_>) {
    for (number, layer) in layers.iter().enumerate() {
        if let Some(function) = layer.function().filter(|function| !function.is_bounded) {
            let batches = zooms.iter().flat_map(|zoom| &zoom.batches);
            let tiles: u64 = batches.map(|batch| batch.layers[number].tiles).sum();
            warnings.add(format!(
                "layer \"{}\": {} is called for every tile of its zooms and boxes, {tiles} times, because the layer has no occupied: a query that gives where tiles can be, such as occupied = \"SELECT location FROM api_facility\"",
                layer.name(),
                function.signature()
            ));
        }
    }
}

/// The layers, with cached rows where one query per zoom would cost more. The workers read the rows in parallel.
pub(crate) async fn cache_rows_where_it_pays(
    prepared: &Prepared,
    batches: &[&Batch],
    run: &TilesetRun,
    workers: &[Worker],
) -> Result<Vec<PreparedLayer>, CommandError> {
    let (mut layers, mut memory) = (Vec::new(), run.rows_memory());
    for (number, (layer, rows)) in prepared.surveyed.iter().zip(&prepared.features).enumerate() {
        let drawn = batches.iter().map(|batch| batch.layers[number].features).sum();
        let (options, snapshot) = (&run.settings.tileset.layers[number], &prepared.snapshot);
        let mut layer = match run.rows_read_before(snapshot, layer, options) {
            Some(before) if !layer.has_cached_rows() => before.layer,
            _ => layer.clone(),
        };
        if layer.has_cached_rows() {
            memory = memory.saturating_sub(layer.cached_bytes());
            layers.push(layer);
            continue;
        }
        let cost = CacheCost { rows: *rows, features: drawn, memory };
        let pays = preparation(layer.layer().traits(), &LayerWork::Seed(cost)) == Preparation::CacheRows;
        if pays && !layer.are_rows_refused() {
            run.report.event(&Event::Reading { layer: layer.layer().name().to_owned() });
            let RowsToRead { coverage, zooms, is_own } = run.rows_to_read(options);
            let zooms = if is_own { layer.layer().drawn_zooms(&zooms) } else { zooms.iter().collect() };
            let rows = if is_own { ExpectedRows::Counted(*rows) } else { ExpectedRows::About(*rows) };
            let readers = run.readers(workers);
            layer = layer
                .cache_rows(
                    snapshot,
                    readers,
                    &coverage,
                    &zooms,
                    CacheLimits { rows, memory, spill: Spill::Rows, by_key: false },
                )
                .await?;
            memory = memory.saturating_sub(layer.cached_bytes());
            run.keep_rows(snapshot, options, &layer, &prepared.skipped);
        } else if layer.has_counts() {
            layer = layer.cache_cells(snapshot, run.readers(workers), memory).await?;
            memory = memory.saturating_sub(layer.cached_bytes());
        } else if !pays {
            let traits = layer.layer().traits();
            let why = match (traits.has_cacheable_rows || traits.has_cacheable_shapes, memory) {
                (false, _) => {
                    "they have other than plain values, are simplified, repaired or left out of large tiles, or differ by zoom (cells, several columns of jsonb, !zoom! in a query)"
                }
                (true, 0) => "rows_mb leaves no room",
                (true, _) => "each is drawn in fewer than 3 tiles, or they are a few lines and polygons",
            };
            tracing::info!("layer \"{}\": its rows are not cached: {why}", layer.layer().name());
        }
        layers.push(layer);
    }
    Ok(layers)
}

/// Warnings that are reported at once and kept for the closing report.
pub(crate) struct Warnings<'a> {
    pub(crate) report: &'a Arc<dyn Report>,
    pub(crate) seen: Vec<String>,
}

impl Prepared {
    /// Takes the batches of all zooms, in their order.
    pub(crate) fn take_batches(&mut self) -> Vec<Batch> {
        self.zooms.iter_mut().flat_map(|zoom| std::mem::take(&mut zoom.batches)).collect()
    }

    /// Reports further warnings and keeps them for the closing report.
    pub(crate) fn warn(&mut self, messages: Vec<String>, report: &Arc<dyn Report>) {
        for message in messages {
            report.warn_and_keep(message, &mut self.warnings);
        }
    }
}

impl Warnings<'_> {
    pub(crate) fn add(&mut self, message: String) {
        self.report.warn_and_keep(message, &mut self.seen);
    }
}

/// Reports the tiles that hold too many features, or refuses the run because of them, as `on_large_tile` says. Returns
/// the layers from which features will be left out.
pub(crate) fn check_limits(
    settings: &Settings,
    zooms: &[ZoomPlan],
    warnings: &mut Warnings<'_>,
) -> Result<Vec<String>, CommandError> {
    let mut thinned = Vec::new();
    for (number, layer) in settings.tileset.layers.iter().enumerate() {
        let over: Vec<_> =
            zooms.iter().flat_map(|zoom| &zoom.over_limit).filter(|over| over.layer == LayerIndex(number)).collect();
        let Some(heaviest) = over.iter().map(|over| over.heaviest).max_by_key(|heavy| heavy.features) else { continue };
        let (budget, name) = (&layer.budget, &layer.name);
        let tiles = over.iter().map(|over| over.tiles).sum();
        let limit = budget.features.at(heaviest.tile.zoom()).map_or(0, Into::into);
        let error = CommandError::LargeTile { layer: name.clone(), tiles, limit, heaviest };
        match budget.on_large_tile {
            OnLargeTile::Fail => return Err(error),
            OnLargeTile::Warn => warnings.add(error.to_string()),
            OnLargeTile::Thin => thinned.push(format!(
                "layer \"{name}\": tiles to be thinned to max_tile_features: {tiles}; the heaviest is tile {} with {}",
                heaviest.tile, heaviest.features
            )),
        }
    }
    Ok(thinned)
}

/// The box around all features within the coverage; the box of the coverage if there are no features.
pub(crate) fn bounds(layers: &[PlanLayer], coverage: &Coverage) -> LonLatBox {
    let mut all = WorldRect { west: WORLD_UNITS, north: WORLD_UNITS, east: 0, south: 0 };
    for layer in layers {
        if let Some(file) = &layer.point_file {
            all = all.joined(file.bounds());
        }
        for footprints in layer.footprints.all() {
            for feature in 0..footprints.len() {
                let world = footprints.world(feature);
                let mut one = WorldRect::from(world);
                // A box does not cross ±180°. A feature that does makes it span the whole width.
                if world.crosses_antimeridian() {
                    (one.west, one.east) = (0, WORLD_UNITS);
                }
                all = all.joined(one);
            }
        }
    }
    let within = coverage.bounds();
    within.common(all.into()).unwrap_or(within)
}

// Where the features of all layers of a run lie. They are surveyed or, for a shard, read with all their values at once.

/// The cost of a function call, compared with drawing a row. The real cost is unknown; with this value a statement has
/// 400 calls where it would draw 10,000 rows.
pub(crate) const CALL_COST: u64 = 25;

/// The approximate maximum of bytes that a row takes in memory. A shard whose rows may not fit in memory is surveyed
/// first.
const BYTES_PER_ROW: u64 = 400;

pub(crate) struct LayerSurveys {
    pub(crate) planned: Vec<PlanLayer>,
    /// The layers with what was counted or read.
    pub(crate) surveyed: Vec<PreparedLayer>,
    pub(crate) skipped: Vec<SkippedRows>,
    /// The number of rows of each layer, where it is known.
    pub(crate) rows: Vec<Option<u64>>,
    /// Whether each layer has a feature, for layers that are drawn at the run's zooms.
    pub(crate) has_features: BTreeMap<LayerId, bool>,
    /// The number of large areas that are not valid polygons, by the names of the layers that have such areas.
    pub(crate) invalid: BTreeMap<String, u64>,
    /// How long rows were read that are cached.
    pub(crate) reading: Duration,
}

/// Surveys all layers. The workers read in parallel where that pays.
pub(crate) async fn survey_layers(
    run: &TilesetRun,
    snapshot: &Snapshot,
    layers: &[Arc<Layer>],
    workers: &[Worker],
) -> Result<LayerSurveys, CommandError> {
    let workers = run.readers(workers);
    let (coverage, tileset) = (run.coverage(), &run.settings.tileset);
    let (zooms, mut memory) = (&tileset.zooms, run.rows_memory());
    let readers: Vec<&Session> = workers.iter().map(Worker::session).collect();
    let mut all = LayerSurveys {
        planned: Vec::new(),
        surveyed: Vec::new(),
        skipped: Vec::new(),
        rows: Vec::new(),
        has_features: BTreeMap::new(),
        invalid: BTreeMap::new(),
        reading: Duration::ZERO,
    };
    for (layer, settings) in layers.iter().zip(&tileset.layers) {
        // A layer that is drawn differently at different zooms is surveyed once for each way of drawing.
        if all.surveyed.last().is_none_or(|before| before.layer().name() != layer.name()) {
            run.report.event(&Event::Surveying { layer: layer.name().to_owned() });
        }
        let fresh = PreparedLayer::new(layer);
        let before = run.rows_read_before(snapshot, &fresh, settings);
        let fresh = before.as_ref().map_or(fresh, |before| before.layer.clone());
        memory = memory.saturating_sub(fresh.cached_bytes());
        let cached = cached_first(run, snapshot, layer, workers, memory).await?;
        let (prepared, mut seen) = if let Some((cached, footprints)) = cached {
            memory = memory.saturating_sub(cached.cached_bytes());
            (cached, Surveyed::of_footprints(footprints))
        } else if let Some((footprints, skipped)) = before.and_then(|before| before.footprints) {
            for rows in skipped {
                add_skipped(&mut all.skipped, rows);
            }
            (fresh, Surveyed::of_footprints(footprints))
        } else {
            let ShapesRead { layer: fresh, seen, took } = shapes_first(run, snapshot, fresh, workers, memory).await?;
            memory = memory.saturating_sub(fresh.cached_bytes());
            all.reading += took;
            if let Some(seen) = seen {
                (fresh, seen)
            } else {
                let folds = foldable(snapshot, layer).await?;
                let seen = survey_for_plan(snapshot, layer, folds.as_deref(), &coverage, zooms, &readers).await?;
                (fresh.with_cells(folds, seen.counted.clone()).with_repaired(seen.repaired.clone()), seen)
            }
        };
        if zooms.iter().any(|zoom| layer.zooms().contains(zoom)) {
            *all.has_features.entry(layer.id()).or_default() |=
                seen.point_file.is_some() || !seen.footprints.is_empty();
        }
        all.rows.push(seen.rows);
        if seen.invalid_areas > 0 {
            let most = all.invalid.entry(layer.name().to_owned()).or_default();
            *most = (*most).max(seen.invalid_areas);
        }
        for rows in skipped_rows(layer, &mut seen) {
            add_skipped(&mut all.skipped, rows);
        }
        all.planned.push(plan_layer(layer, &settings.budget.features, seen));
        all.surveyed.push(prepared);
    }
    Ok(all)
}

/// A layer for the plan, with what its survey has found.
pub(crate) fn plan_layer(layer: &Layer, max_features: &ZoomLimits, seen: Surveyed) -> PlanLayer {
    PlanLayer {
        zooms: layer.zooms().clone(),
        margin: layer.margin(),
        max_tile_features: max_features.clone(),
        asks_each_tile: layer.asks_each_tile(),
        lists_tiles: layer.lists_tiles(),
        feature_cost: if layer.function().is_some() { CALL_COST } else { 1 },
        footprints: seen.footprints,
        point_file: seen.point_file,
        rows: seen.gathered,
    }
}

/// Takes the rows that cannot be drawn from what a survey has found.
pub(crate) fn skipped_rows(layer: &Layer, seen: &mut Surveyed) -> impl Iterator<Item = SkippedRows> {
    let layer = layer.name().to_owned();
    std::mem::take(&mut seen.skipped).into_iter().map(move |skipped| {
        let Skipped { reason, rows, examples } = skipped;
        SkippedRows { layer: layer.clone(), reason, rows, examples }
    })
}

/// The rows of a shard's layer and where they lie, read before its tiles are planned, because a survey would read the
/// rows a second time. `None` if the layer is not drawn from cached rows, or if there are too many for the memory.
async fn cached_first(
    run: &TilesetRun,
    snapshot: &Snapshot,
    layer: &Arc<Layer>,
    workers: &[Worker],
    memory: usize,
) -> Result<Option<(PreparedLayer, LayerFootprints)>, CommandError> {
    let RunPart::Shard { columns, rows, .. } = &run.part else { return Ok(None) };
    if columns.ranges().is_empty() {
        let nowhere = LayerFootprints::Same(Footprints::Points(SortedPoints::default()));
        return Ok(Some((PreparedLayer::new(layer), nowhere)));
    }
    let zooms = &run.settings.tileset.zooms;
    let is_drawn = zooms.iter().any(|zoom| layer.zooms().contains(zoom));
    let is_suited = layer.traits().has_cacheable_rows && layer.is_found_by_area();
    let has_room = rows.saturating_mul(BYTES_PER_ROW) <= memory as u64;
    if !is_drawn || !is_suited || !has_room || memory == 0 {
        return Ok(None);
    }
    run.report.event(&Event::Reading { layer: layer.name().to_owned() });
    let limits = CacheLimits { rows: ExpectedRows::About(*rows), memory, spill: Spill::Rows, by_key: false };
    let zooms = layer.drawn_zooms(zooms);
    let cached = PreparedLayer::new(layer).cache_rows(snapshot, workers, &run.coverage(), &zooms, limits).await?;
    let footprints = cached.cached_footprints();
    Ok(footprints.map(|footprints| (cached, footprints)))
}

/// A layer, with its lines and polygons if they were read before its tiles are planned.
struct ShapesRead {
    layer: PreparedLayer,
    /// Where they lie; `None` if that takes a survey.
    seen: Option<Surveyed>,
    took: Duration,
}

/// Reads the lines and polygons of a table before its tiles are planned, because a survey would read them once more, if
/// they are going to be cached.
async fn shapes_first(
    run: &TilesetRun,
    snapshot: &Snapshot,
    prepared: PreparedLayer,
    workers: &[Worker],
    memory: usize,
) -> Result<ShapesRead, CommandError> {
    let layer = prepared.layer();
    let zooms = layer.drawn_zooms(&run.settings.tileset.zooms);
    let traits = layer.traits();
    // What several targets share is read by the first that draws it. A plan for shards has no workers.
    let is_own = matches!((&run.part, &run.rows), (RunPart::Whole, RowSource::OwnSnapshot)) && !workers.is_empty();
    let is_suited = traits.has_cacheable_shapes && layer.is_found_by_area() && run.coverage().is_world();
    let (true, Some(deepest)) = (is_own && is_suited && memory > 0, zooms.last().copied()) else {
        return Ok(ShapesRead { layer: prepared, seen: None, took: Duration::ZERO });
    };
    let all = count_of_table(snapshot, layer).await?.unwrap_or_default();
    // Each is drawn in a tile of each zoom at least.
    let cost = CacheCost { rows: all, features: all * zooms.len() as u64, memory };
    if preparation(traits, &LayerWork::Seed(cost)) != Preparation::CacheRows {
        return Ok(ShapesRead { layer: prepared, seen: None, took: Duration::ZERO });
    }
    let begun = Instant::now();
    run.report.event(&Event::Reading { layer: layer.name().to_owned() });
    let limits = CacheLimits { rows: ExpectedRows::About(all), memory, spill: Spill::Rows, by_key: false };
    let layer = prepared.cache_rows(snapshot, workers, &run.coverage(), &zooms, limits).await?;
    let mut seen = None;
    if let Some(footprints) = layer.shape_footprints(snapshot, deepest).await? {
        tracing::debug!("layer \"{}\": its tiles are planned from the rows that are cached", layer.layer().name());
        seen = Some(survey_of_read_rows(snapshot, layer.layer(), footprints, all).await?);
    }
    Ok(ShapesRead { layer, seen, took: begun.elapsed() })
}

/// Adds rows that were skipped. If a layer has several parts, each for its own zooms, the highest number for each
/// reason is kept, because these are mostly the same rows in each part.
fn add_skipped(skipped: &mut Vec<SkippedRows>, rows: SkippedRows) {
    match skipped.iter_mut().find(|known| (&known.layer, &known.reason) == (&rows.layer, &rows.reason)) {
        Some(known) if known.rows < rows.rows => *known = rows,
        Some(_fewer) => {}
        None => skipped.push(rows),
    }
}

// Layers that are drawn only at the shallow zooms of a tileset. Map clients enlarge tiles beyond the deepest zoom of a
// source, but not beyond the deepest zoom of a layer. At deeper zooms such a layer is missing from the map.

/// A warning for each layer that ends at a shallower zoom than the tileset. There is none if another layer begins at
/// the very next zoom, as single facilities follow cells, and none if each layer has a TileJSON of its own.
pub(crate) fn layers_that_end_early(settings: &Settings) -> Vec<String> {
    if has_apart(settings) {
        return Vec::new();
    }
    // A layer that is drawn in several ways has an entry for each of them.
    let mut layers: BTreeMap<LayerId, (&str, Vec<Zoom>)> = BTreeMap::new();
    for layer in &settings.tileset.layers {
        layers.entry(layer.id).or_insert((&layer.name, Vec::new())).1.extend(layer.zooms.iter());
    }
    let layers: Vec<(&str, ZoomList)> =
        layers.into_values().filter_map(|(name, zooms)| Some((name, ZoomList::of(zooms)?))).collect();
    let tileset = &settings.tileset.zooms;
    let warning = |(name, zooms): &(&str, ZoomList)| {
        let gone = tileset.iter().find(|zoom| *zoom > zooms.max())?;
        let follows = |(_, other): &(&str, ZoomList)| other.min().get() == zooms.max().get() + 1;
        if layers.iter().any(follows) {
            return None;
        }
        Some(format!(
            "layer \"{name}\" is drawn up to zoom {} and the tileset goes to {deepest}: the layer vanishes from zoom {gone} on, because map clients enlarge tiles only beyond the deepest zoom of the whole tileset. Give the layer zoom = \"{}-{deepest}\", or seed it into a tileset of its own",
            zooms.max(),
            zooms.min(),
            deepest = tileset.max(),
        ))
    };
    layers.iter().filter_map(warning).collect()
}

/// True if the target keeps each layer in tiles of its own.
fn has_apart(settings: &Settings) -> bool {
    let place = TargetUrl::parse(&settings.tileset.output.to_string_lossy());
    place.is_ok_and(|url| !url.is_archive()) && settings.tileset.tree.template.layers_apart()
}
