//! The rows of all variants of a family, read once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::FamilyRun;
use crate::draw::{
    CacheLimits, CachedRenderer, FamilyCondition, FamilyRows, FamilyTiles, PreparedLayer, Spill, VariantLayer, Worker,
    verify_cached_rows,
};
use crate::encode::Packing;
use crate::error::ErrorKind;
use crate::pipeline::BatchKind;
use crate::plan::plan;
use crate::postgis::{
    ExpectedRows, Layer, LayerOptions, Reads, Server, Session, Snapshot, Surveyed, probe_names, survey_side_by_side,
};
use crate::report::{Event, SkippedRows};
use crate::run::identity::LogIdentity;
use crate::run::prepare::{Prepared, Warnings, bounds, check_limits, plan_layer, skipped_rows};
use crate::run::shared_rows::ReadBefore;
use crate::run::{CommandError, TilesetRun};
use crate::target::Needs;
use crate::tile::{Batch, Coverage, LayerFootprints, Order, ZoomList};

/// The rows of all layers of a family, on the snapshot of its run.
pub(crate) struct FamilyCache {
    snapshot: Arc<Snapshot>,
    server: Server,
    log: Option<LogIdentity>,
    /// What the tileset without conditions reads; `reads` is what a variant reads.
    reads_of_all: Reads,
    reads: Reads,
    /// The rows of the tileset without conditions.
    all: Vec<FamilyRows>,
    /// The rows of the variants, once it is known which rows belong to which variant.
    layers: OnceLock<Vec<FamilyRows>>,
    prepared: Vec<PreparedLayer>,
    skipped: Vec<SkippedRows>,
    packing: Packing,
    /// Tiles that are the same in several targets; `None` if a tile has more than one layer.
    tiles: Option<Arc<FamilyTiles>>,
}

/// The part of the cached rows that one target draws from.
#[derive(Clone)]
pub(crate) struct FamilyCachePart {
    pub(crate) cache: Arc<FamilyCache>,
    /// The number of the variant; `None` for the tileset without conditions.
    pub(crate) variant: Option<usize>,
}

impl FamilyCache {
    /// Reads the rows; `None` if a layer cannot be drawn from cached rows, so that each variant has to read its own
    /// rows.
    pub(crate) async fn read(
        run: &FamilyRun<'_>,
        tileset_run: &TilesetRun,
    ) -> Result<Option<FamilyCache>, CommandError> {
        let settings = &tileset_run.settings;
        if run.members.table.rows.len() < 2 || settings.run.rows_memory == 0 {
            return Ok(None);
        }
        let database = tileset_run.database()?;
        let snapshot = tileset_run.take_snapshot(&database, false).await?;
        let named = probe_names(&snapshot, &settings.tileset.layers).await?;
        let sessions = settings.run.workers.get();
        let workers = Worker::open(&database, &snapshot, &named.locks, settings.run.limits.packing, sessions).await?;
        let probed = match named.probe_rows().await {
            Ok(probed) => probed,
            // A key may be unique only within each variant.
            Err(error) if error.kind() == ErrorKind::Usage => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let is_suited = |layer: &Arc<Layer>| layer.traits().shows_all_points() && layer.is_found_by_area();
        if !probed.layers.iter().all(is_suited) {
            return Ok(None);
        }
        // No row fulfils a condition on values that are not set. The probe locks the tables that the conditions read.
        let conditioned = settings.with_variant_conditions(&run.members.table.parameters)?;
        let Ok(conditioned) = probe_names(&snapshot, &conditioned.tileset.layers).await?.probe_rows().await else {
            return Ok(None);
        };
        let (coverage, zooms) = (Coverage::new(&settings.tileset.bbox), &settings.tileset.zooms);
        let (mut prepared, mut planned, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        let mut memory = tileset_run.rows_memory();
        for (layer, settings) in probed.layers.iter().zip(&settings.tileset.layers) {
            let reading =
                LayerReading { tileset_run, snapshot: &snapshot, workers: &workers, coverage: &coverage, memory };
            let (cached, footprints) = reading.read(layer, settings, &mut skipped).await?;
            planned.push(plan_layer(layer, &settings.budget.features, Surveyed::of_footprints(footprints)));
            if !cached.has_cached_rows() {
                return Ok(None);
            }
            memory = memory.saturating_sub(cached.cached_bytes());
            prepared.push(cached);
        }
        // A few tiles of the deepest zoom are compared, because that zoom has the fewest features per tile.
        if let Some(deepest) = ZoomList::of(zooms.iter().next_back()) {
            let batches = plan(&deepest, &planned, &coverage, settings.run.batch_features, Order::ZoomColumnTmsRow)
                .map_err(CommandError::Scratch)?;
            let batches: Vec<Batch> = batches.into_iter().flat_map(|zoom| zoom.batches).collect();
            if let Some(worker) = workers.first() {
                prepared = verify_cached_rows(worker, prepared, &batches).await?;
            }
        }
        if prepared.iter().any(|layer| layer.cached_footprints().is_none()) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for layer in &prepared {
            let whole = layer.for_all_variants(Arc::clone(layer.layer()));
            let Some(whole) = whole else { return Ok(None) };
            all.push(whole);
        }
        snapshot.check_partitions(&conditioned.reads).await?;
        let log = LogIdentity::read(&snapshot, &settings.database.changes.schema, []).await?;
        for rows in &skipped {
            tileset_run.report.event(&Event::Skipped(rows.clone()));
        }
        Ok(Some(FamilyCache {
            snapshot,
            server: probed.server,
            log,
            reads_of_all: probed.reads,
            reads: conditioned.reads,
            packing: settings.run.limits.packing,
            tiles: (all.len() == 1).then(|| Arc::new(FamilyTiles::new(memory))),
            all,
            layers: OnceLock::new(),
            prepared,
            skipped,
        }))
    }
}

impl FamilyCache {
    /// Reads which rows belong to which variant. False if the cached rows do not suffice for that, so that each variant
    /// has to read its own rows.
    pub(crate) async fn read_members(
        &self,
        run: &FamilyRun<'_>,
        tileset_run: &TilesetRun,
    ) -> Result<bool, CommandError> {
        let (coverage, zooms) =
            (Coverage::new(&tileset_run.settings.tileset.bbox), &tileset_run.settings.tileset.zooms);
        let table = &run.members.table;
        let mut layers = Vec::new();
        for layer in &self.prepared {
            let own = run.family.variant_layer(layer.layer(), &table.parameters)?;
            let rows = match run.family.condition(layer.layer().name()) {
                None => layer.for_all_variants(own),
                Some(sql) => {
                    let condition = FamilyCondition { sql, table };
                    layer.for_variants(&self.snapshot, own, condition, &coverage, zooms).await?
                }
            };
            let Some(rows) = rows else { return Ok(false) };
            layers.push(rows);
        }
        self.snapshot.check_partitions(&self.reads).await?;
        Ok(self.layers.set(layers).is_ok())
    }
}

struct LayerReading<'a> {
    tileset_run: &'a TilesetRun,
    snapshot: &'a Snapshot,
    workers: &'a [Worker],
    coverage: &'a Coverage,
    memory: usize,
}

impl LayerReading<'_> {
    /// The layer, with its rows if they can be cached, and where the rows lie. Adds rows that cannot be drawn to
    /// `skipped`.
    async fn read(
        &self,
        layer: &Arc<Layer>,
        options: &LayerOptions,
        skipped: &mut Vec<SkippedRows>,
    ) -> Result<(PreparedLayer, LayerFootprints), CommandError> {
        let LayerReading { tileset_run, snapshot, workers, coverage, memory } = *self;
        let zooms = &tileset_run.settings.tileset.zooms;
        let fresh = PreparedLayer::new(layer);
        // Rows of a larger area might belong to a variant that shows none of them.
        let before = tileset_run.rows_read_before(snapshot, &fresh, options).filter(|before| before.are_own);
        if let Some(ReadBefore { layer, footprints: Some((footprints, not_drawn)), .. }) = before {
            skipped.extend(not_drawn);
            return Ok((layer, footprints));
        }
        let readers: Vec<&Session> = workers.iter().map(Worker::session).collect();
        let mut seen = survey_side_by_side(snapshot, layer, coverage, zooms, &readers).await?;
        let rows = seen.footprints.all().map(|footprints| footprints.len() as u64).sum();
        skipped.extend(skipped_rows(layer, &mut seen));
        let cached = if let Some(before) = before {
            before.layer
        } else {
            let spill = Spill::Rows;
            let limits = CacheLimits { rows: ExpectedRows::Counted(rows), memory, spill, by_key: false };
            fresh.cache_rows(snapshot, workers, coverage, &layer.drawn_zooms(zooms), limits).await?
        };
        if tileset_run.rows_to_read(options).is_own {
            tileset_run.keep_rows(snapshot, options, &cached, skipped);
        }
        Ok((cached, seen.footprints))
    }
}

impl FamilyCachePart {
    /// What the change log says of the database at the snapshot.
    pub(crate) fn log(&self) -> Option<LogIdentity> {
        self.cache.log.clone()
    }

    /// Plans the tiles of the target. No session has to render them.
    pub(crate) async fn prepared(&self, tileset_run: &TilesetRun, order: Order) -> Result<Prepared, CommandError> {
        let (begun, cache) = (Instant::now(), &self.cache);
        let mut warnings = Warnings { report: &tileset_run.report, seen: Vec::new() };
        let (coverage, zooms) =
            (Coverage::new(&tileset_run.settings.tileset.bbox), tileset_run.settings.tileset.zooms.clone());
        let limits: Vec<_> =
            tileset_run.settings.tileset.layers.iter().map(|layer| layer.budget.features.clone()).collect();
        let (part, batch) = (self.clone(), tileset_run.batch_features(BatchKind::Seed));
        let planning = spawn_blocking(move || {
            let layers: Vec<VariantLayer> = match part.variant {
                None => part.cache.all.iter().map(|rows| rows.of_variant(0)).collect(),
                Some(number) => {
                    part.cache.layers.get().into_iter().flatten().map(|rows| rows.of_variant(number)).collect()
                }
            };
            let (mut planned, mut surveyed, mut features) = (Vec::new(), Vec::new(), Vec::new());
            for (VariantLayer { prepared, footprints, rows }, limits) in layers.into_iter().zip(limits) {
                planned.push(plan_layer(prepared.layer(), &limits, Surveyed::of_footprints(footprints)));
                surveyed.push(prepared);
                features.push(rows);
            }
            let zooms = plan(&zooms, &planned, &coverage, batch, order).map_err(CommandError::Scratch)?;
            Ok::<_, CommandError>((surveyed, features, bounds(&planned, &coverage), zooms))
        });
        let (surveyed, features, bounds, zooms) = planning.await??;
        let thinned = check_limits(&tileset_run.settings, &zooms, &mut warnings)?;
        Ok(Prepared {
            snapshot: Arc::clone(&cache.snapshot),
            server: cache.server.clone(),
            layers: surveyed.iter().map(|layer| Arc::clone(layer.layer())).collect(),
            surveyed,
            rows: features.iter().copied().map(Some).collect(),
            features,
            reads: if self.variant.is_none() { cache.reads_of_all.clone() } else { cache.reads.clone() },
            workers: Vec::new(),
            zooms,
            bounds,
            skipped: if self.variant.is_none() { cache.skipped.clone() } else { Vec::new() },
            warnings: warnings.seen,
            thinned,
            took: begun.elapsed(),
            reading: Duration::ZERO,
        })
    }

    /// The renderers of the target, whose sink needs tiles as `needs` says. They share tiles of the family only if the
    /// target packs tiles in the same way.
    pub(crate) fn sources(
        &self,
        tileset_run: &TilesetRun,
        layers: &[PreparedLayer],
        needs: Needs,
    ) -> Vec<CachedRenderer> {
        let is_alike = !needs.layers_apart && tileset_run.settings.run.limits.packing == self.cache.packing;
        let (layers, shared) = (Arc::new(layers.to_vec()), self.cache.tiles.as_ref().filter(|_| is_alike));
        (0..tileset_run.settings.run.workers.get())
            .map(|_| CachedRenderer::new(&layers, shared, &tileset_run.stop))
            .collect()
    }
}
