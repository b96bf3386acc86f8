//! `oar-tiles seed --dry-run`: the plan. Sizes and times are estimated from one batch of each zoom, and from the
//! repeated tiles of one batch.

use std::collections::BTreeMap;
use std::time::Instant;

use super::prepare::{cache_rows_where_it_pays, layers_that_end_early, prepare};
use super::{CommandError, TilesetRun};
use crate::draw::{PreparedLayer, RunLayers, Worker};
use crate::encode::Packer;
use crate::plan::ZoomPlan;
use crate::report::{PlanReport, PlanZoom};
use crate::tile::{Batch, LayerCount, Order, TileRect};

/// Plans and renders samples; writes nothing.
pub(crate) async fn dry_run(run: &TilesetRun) -> Result<PlanReport, CommandError> {
    let TilesetRun { settings, report, .. } = run;
    let mut prepared = prepare(run, Order::ZoomColumnTmsRow, 1, false).await?;
    prepared.warn(layers_that_end_early(settings), report);
    let thinned = std::mem::take(&mut prepared.thinned);
    prepared.warn(thinned, report);
    let reading = Instant::now();
    let batches: Vec<&Batch> = prepared.zooms.iter().flat_map(|zoom| &zoom.batches).collect();
    let layers = cache_rows_where_it_pays(&prepared, &batches, run, &prepared.workers).await?;
    let has_cached_rows = layers.iter().any(PreparedLayer::has_cached_rows);
    let layers = RunLayers::new(&layers);
    let mut workers = std::mem::take(&mut prepared.workers);
    let reading_seconds = if has_cached_rows { (prepared.reading + reading.elapsed()).as_secs_f64() } else { 0.0 };
    let mut packer = Packer::new(settings.run.limits.packing);
    let mut zooms = Vec::new();
    let (mut tiles, mut empty) = (0, 0.0);
    let mut by_layer = vec![0.0; prepared.layers.len()];
    for plan in &prepared.zooms {
        let estimate = match workers.first_mut() {
            Some(worker) => {
                let mut sampler = Sampler { worker, layers: &layers, packer: &mut packer, by_layer: &mut by_layer };
                sampler.estimate(plan).await?
            }
            None => ZoomEstimate::default(),
        };
        let ZoomEstimate { bytes, seconds, .. } = estimate;
        tiles += plan.tiles;
        empty += estimate.empty;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, and never negative")]
        zooms.push(PlanZoom {
            zoom: plan.zoom.get(),
            tiles: plan.tiles,
            features: plan.features,
            batches: plan.batches.len() as u64,
            heaviest: plan.heaviest.clone(),
            estimated_bytes: bytes as u64,
            // A zoom with fewer batches than workers keeps only as many workers busy as it has batches.
            estimated_seconds: seconds / settings.run.workers.get().min(plan.batches.len().max(1)) as f64,
        });
    }
    prepared.warn(mostly_empty(tiles, empty).into_iter().collect(), report);
    let by_layer: Vec<(&str, f64)> = prepared.layers.iter().map(|layer| layer.name()).zip(by_layer).collect();
    let slow = slowest_layer(&by_layer);
    prepared.warn(slow.into_iter().collect(), report);
    prepared.snapshot.check_partitions(&prepared.reads).await?;
    let workers = settings.run.workers.get();
    Ok(PlanReport { zooms, reading_seconds, workers, skipped: prepared.skipped, warnings: prepared.warnings })
}

/// The warning if more than half of the planned tiles will be empty.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, and never negative")]
fn mostly_empty(tiles: u64, empty: f64) -> Option<String> {
    let is_worth_a_word = tiles >= MIN_TILES_FOR_A_WARNING && empty > tiles as f64 / 2.0;
    is_worth_a_word.then(|| {
        format!(
            "about {} of {tiles} planned tiles will be empty: they take time and nothing is stored of them. Mend polygons that are not valid (ST_IsValid, ST_MakeValid), give functions their occupied, or name the boxes or the area that the features fill",
            empty as u64
        )
    })
}

/// The least number of planned tiles for which there is a warning that most are empty.
const MIN_TILES_FOR_A_WARNING: u64 = 1_000;

/// The warning if one of several layers takes most of the time. If a layer is drawn in several ways at different zooms,
/// the `seconds` of all its parts are added.
fn slowest_layer(seconds: &[(&str, f64)]) -> Option<String> {
    let mut by_name: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, seconds) in seconds {
        *by_name.entry(name).or_default() += seconds;
    }
    let all: f64 = by_name.values().sum();
    let (name, most) = by_name.iter().max_by(|one, other| one.1.total_cmp(other.1))?;
    let is_worth_a_word = by_name.len() > 1 && all >= MIN_SECONDS_FOR_A_WARNING && *most > all * MOST_OF_THE_TIME;
    is_worth_a_word.then(|| {
        format!(
            "layer \"{name}\" takes about {:.0} % of the time. If that is too long: let it begin at a deeper zoom or end earlier (zoom), draw fewer rows at shallow zooms (where by zoom, min_zoom), or simplify its shapes (simplify)",
            most / all * 100.0
        )
    })
}

/// The seconds of a worker for all layers below which there is no warning.
const MIN_SECONDS_FOR_A_WARNING: f64 = 10.0;

/// The share of the time above which a layer takes most of it.
const MOST_OF_THE_TIME: f64 = 0.5;

#[derive(Debug, Default, Clone, Copy)]
struct ZoomEstimate {
    bytes: f64,
    /// Seconds of one worker.
    seconds: f64,
    /// The number of planned tiles in which nothing is drawn.
    empty: f64,
}

impl ZoomEstimate {
    fn add(&mut self, sample: ZoomEstimate, scale: f64) {
        self.bytes += sample.bytes * scale;
        self.seconds += sample.seconds * scale;
        self.empty += sample.empty * scale;
    }
}

/// The batch of median size, among those in which tiles are drawn one by one. It is neither a batch with a huge tile
/// nor the remainder.
fn sample(plan: &ZoomPlan) -> Option<&Batch> {
    let mut batches: Vec<&Batch> = plan.batches.iter().filter(|batch| !batch.areas.is_empty()).collect();
    batches.sort_by_key(|batch| batch.features());
    batches.get(batches.len() / 2).copied()
}

/// The number of tiles of a batch that are rendered once for all.
fn repeated(batch: &Batch) -> u64 {
    batch.repeats.iter().flat_map(|repeat| &repeat.tiles).map(TileRect::tiles).sum()
}

/// Renders samples.
struct Sampler<'a> {
    worker: &'a mut Worker,
    layers: &'a RunLayers,
    packer: &'a mut Packer,
    /// The seconds of one worker for each layer alone; zero if there is only one layer.
    by_layer: &'a mut Vec<f64>,
}

impl Sampler<'_> {
    /// The estimate for a zoom, extrapolated from one of its batches, and from the repeated tiles of one batch.
    async fn estimate(&mut self, plan: &ZoomPlan) -> Result<ZoomEstimate, CommandError> {
        let mut all = ZoomEstimate::default();
        let repeats: u64 = plan.batches.iter().map(repeated).sum();
        if let Some(batch) = sample(plan) {
            let drawn = Batch { repeats: Vec::new(), tiles: batch.tiles - repeated(batch), ..batch.clone() };
            // The features of repeated tiles are counted with the others.
            let scale = if repeats > 0 {
                (plan.tiles - repeats) as f64 / drawn.tiles.max(1) as f64
            } else {
                plan.features as f64 / batch.features().max(1) as f64
            };
            all.add(self.measure(&drawn).await?, scale);
            self.measure_layers(&drawn, scale).await?;
        }
        if let Some(batch) = plan.batches.iter().find(|batch| !batch.repeats.is_empty()) {
            let layers = batch.layers.iter().map(|_| LayerCount::default()).collect();
            let alike = Batch { areas: Vec::new(), tiles: repeated(batch), layers, ..batch.clone() };
            // The first time also renders the tiles that are repeated, so only the second time is measured.
            self.measure(&alike).await?;
            all.add(self.measure(&alike).await?, repeats as f64 / alike.tiles.max(1) as f64);
        }
        Ok(all)
    }

    async fn measure_layers(&mut self, batch: &Batch, scale: f64) -> Result<(), CommandError> {
        let drawn: Vec<usize> = (0..batch.layers.len()).filter(|layer| batch.layers[*layer].tiles > 0).collect();
        if self.by_layer.len() < 2 {
            return Ok(());
        }
        for layer in drawn {
            let counts = batch.layers.iter().enumerate();
            let own = counts.map(|(other, count)| if other == layer { *count } else { LayerCount::default() });
            let alone = Batch { layers: own.collect(), ..batch.clone() };
            self.by_layer[layer] += self.measure(&alone).await?.seconds * scale;
        }
        Ok(())
    }

    /// Renders and compresses a batch.
    async fn measure(&mut self, batch: &Batch) -> Result<ZoomEstimate, CommandError> {
        let begun = Instant::now();
        let (mut bytes, mut empty) = (0, 0);
        let mut last: (&[u8], usize) = (&[], 0);
        let tiles = self.worker.render(self.layers, batch).await?;
        for tile in &tiles {
            if tile.mvt.is_empty() {
                empty += 1;
                continue;
            }
            // Equal tiles that follow each other are compressed once.
            if last.0 != tile.mvt.as_slice() {
                let packed = self.packer.pack(&tile.mvt)?;
                last = (&tile.mvt, packed.len());
            }
            bytes += last.1;
        }
        Ok(ZoomEstimate { bytes: bytes as f64, seconds: begun.elapsed().as_secs_f64(), empty: f64::from(empty) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_takes_most_of_a_long_time_is_named() {
        let says = |seconds: &[(&str, f64)]| slowest_layer(seconds).unwrap_or_default();
        let named = says(&[("land", 40.0), ("places", 1.0), ("land", 39.0)]);
        assert!(named.starts_with("layer \"land\" takes about 99 % of the time. If that is too long: "), "{named}");
        assert_eq!(says(&[("land", 5.0), ("places", 1.0)]), "", "it is short");
        assert_eq!(says(&[("a", 40.0), ("b", 35.0), ("c", 20.0)]), "", "none takes most");
        assert_eq!(says(&[("land", 500.0)]), "", "there is no other");
    }
}
