//! Simulates shards of very many features, with measured costs. Made-up points are planned, weighed and cut by the code
//! of `shards begin`. Shards then take the time that their rows and tiles cost, on machines that share one database.
//! Runs are merged by the code of the commit. At most 5,000,000 points are planned. For more features each point stands
//! for several, which leaves out some tiles of the deepest zooms.
//!
//! Takes minutes; its figures are in docs/scale-out.md.
//!
//! ```sh
//! OAR_TILES_SIMULATED_FEATURES=100000000 cargo bench --locked --bench shards
//! ```

#![expect(clippy::print_stdout, reason = "the result of the measurement")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "estimates of large counts")]

use std::collections::{BTreeMap, BinaryHeap};
use std::error::Error;
use std::num::NonZeroU64;
use std::time::Instant;

use oar_tiles::plan::{PlanLayer, plan};
use oar_tiles::run::shards::{COST_UNIT, LayerCost, WeighedLayer, weigh};
use oar_tiles::shards::{CutFor, Merged, PlannedShard, RunReader, RunSink, cut};
use oar_tiles::target::{Needs, Sink as _, TileEdit, WorkFiles};
use oar_tiles::tile::{
    Coverage, Footprints, LayerFootprints, Margin, Order, SortedPoints, TileCoord, Zoom, ZoomLimits, ZoomList,
};

/// The database's share of the cost of a row.
const DATABASE_SHARE_OF_A_ROW: f64 = 0.9;

/// The cores of a machine that renders a shard.
const CORES: f64 = 2.0;

/// The bytes of a feature in a stored tile, as for the facilities at zooms 0 to 14.
const BYTES_PER_FEATURE: u64 = 30;

/// The most points that are planned.
const MAX_PLANNED: u64 = 5_000_000;

/// Points distributed like facilities: most of them in towns, of which only some are large.
fn points(count: u64) -> SortedPoints {
    let mut random = fastrand::Rng::with_seed(22);
    let towns: Vec<[f64; 2]> = (0..5_000).map(|_| [random.f64(), 0.25 + 0.5 * random.f64()]).collect();
    let unit = |share: f64| (share.rem_euclid(1.0) * 4_294_967_295.0) as u64;
    let mut point = || {
        // The nth town has about 1/n of the points, and half of a town's points lie in a tenth of its radius.
        let town = towns[(5_000_f64.powf(random.f64()) - 1.0) as usize % towns.len()];
        let (far, angle) = (0.003 * random.f64().powi(3), std::f64::consts::TAU * random.f64());
        unit(town[0] + far * angle.cos()) << 32 | unit(town[1] + far * angle.sin())
    };
    SortedPoints::new((0..count).map(|_| point()).collect())
}

/// The time in seconds at which each shard ends, if `machines` machines take one shard after the other. A shard first
/// reads its rows, in one session of a database that has `database_cores` cores, and then renders on its own.
fn ends(shards: &[PlannedShard], times: f64, machines: usize, database_cores: f64) -> Vec<f64> {
    let row = LayerCost::READ_ONCE.row * COST_UNIT * times;
    let reading = |shard: &PlannedShard| shard.rows as f64 * row * DATABASE_SHARE_OF_A_ROW;
    let rendering = |shard: &PlannedShard| (shard.weight as f64 * COST_UNIT - reading(shard)).max(0.0) / CORES;
    // Heaviest first would be better, but no scheduler knows which shards these are.
    let mut waiting = shards.iter();
    let mut read: Vec<(f64, &PlannedShard)> = waiting.by_ref().take(machines).map(|one| (reading(one), one)).collect();
    let mut rendered: BinaryHeap<std::cmp::Reverse<u64>> = BinaryHeap::new();
    let (mut now, mut ends) = (0.0, Vec::new());
    let micros = |seconds: f64| (seconds * 1e6) as u64;
    while !read.is_empty() || !rendered.is_empty() {
        let speed = (database_cores / read.len().max(1) as f64).min(1.0);
        let next_read = read.iter().map(|(left, _)| left / speed).fold(f64::INFINITY, f64::min);
        let next_end = rendered.peek().map_or(f64::INFINITY, |end| end.0 as f64 / 1e6 - now).max(0.0);
        let step = next_read.min(next_end);
        now += step;
        for (left, _) in &mut read {
            *left -= step * speed;
        }
        while rendered.peek().is_some_and(|end| end.0 <= micros(now) + 1) {
            ends.push(now);
            rendered.pop();
            read.extend(waiting.next().map(|one| (reading(one), one)));
        }
        read.retain(|(left, shard)| {
            let is_read = *left <= 1e-6;
            if is_read {
                rendered.push(std::cmp::Reverse(micros(now + rendering(shard))));
            }
            !is_read
        });
    }
    ends
}

/// Seconds to merge a million tiles of 200 bytes from `runs` runs.
fn merging(runs: u32) -> Result<f64, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let files = WorkFiles::Folder(folder.path().to_owned());
    let needs = Needs { order: Order::ZoomColumnTmsRow, layers_apart: false };
    let (zoom, side) = (Zoom::new(10).ok_or("there is no zoom 10")?, 1 << 10);
    let wide = side / runs.min(side);
    let mut readers = Vec::new();
    for run in 0..runs.min(side) {
        let mut sink = RunSink::begin(files.begin("run")?, needs, format!("run {run}"))?;
        for column in run * wide..(run + 1) * wide {
            // The columns of one zoom follow each other, and so do the zooms in a run. That is why a heap is needed at
            // all.
            let tiles = (0..side).rev().filter_map(|row| TileCoord::new(zoom, column, row));
            sink.write(tiles.map(|tile| TileEdit::Put(tile.into(), vec![7; 200].into())).collect())?;
        }
        readers.push(RunReader::of_own(&sink.end()?, format!("run {run}"))?);
    }
    let begun = Instant::now();
    let mut merged = Merged::new(Order::ZoomColumnTmsRow, None, readers)?;
    let mut tiles = 0;
    while merged.next()?.is_some() {
        tiles += 1;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(tiles))
}

fn main() -> Result<(), Box<dyn Error>> {
    let features: u64 = match std::env::var("OAR_TILES_SIMULATED_FEATURES") {
        Ok(text) => text.parse()?,
        Err(_not_set) => 1_000_000,
    };
    let planned_points = features.min(MAX_PLANNED);
    let times = features as f64 / planned_points as f64;
    let footprints = LayerFootprints::Same(Footprints::Points(points(planned_points)));
    let layer = PlanLayer {
        zooms: "0-14".parse()?,
        margin: Margin::plain(4096, 64),
        max_tile_features: ZoomLimits::everywhere(None),
        asks_each_tile: false,
        lists_tiles: false,
        feature_cost: 1,
        footprints,
        point_file: None,
        rows: BTreeMap::new(),
    };
    let layers = [layer];
    for zooms in ["0-14", "6-14"] {
        let zoom_list: ZoomList = zooms.parse()?;
        let begun = Instant::now();
        let batch = NonZeroU64::try_from(10_000)?;
        let planned = plan(&zoom_list, &layers, &Coverage::new(&[]), batch, Order::ZoomColumnTmsRow)?;
        let planning = begun.elapsed().as_secs_f64();
        let occupied: u64 = planned.iter().map(|zoom| zoom.tiles).sum();
        let pairs: u64 = planned.iter().map(|zoom| zoom.features).sum();
        println!(
            "{features} features, zooms {zooms}: {occupied} tiles, {pairs} pairs of a feature and a tile, planned in {planning:.0} s"
        );
        // Each row stands for several.
        let LayerCost { row, feature } = LayerCost::READ_ONCE;
        let cost = LayerCost { row: row * times, feature: feature * times };
        let weighed = weigh(&planned, &[WeighedLayer { cost, rows: planned_points }]);
        drop(planned);
        let zooms: Vec<Zoom> = zoom_list.iter().collect();
        let whole: f64 =
            cut(&weighed, &zooms, 1, CutFor::Machines).iter().map(|one| one.weight as f64 * COST_UNIT).sum();
        println!("  one machine: {whole:.0} core seconds");
        for count in [4, 19, 100] {
            let parts = cut(&weighed, &zooms, count, CutFor::OneProcess);
            let core: Vec<f64> = parts.iter().map(|one| one.weight as f64 * COST_UNIT).collect();
            println!(
                "  {count} parts of one process: {:.0} core seconds, heaviest {:.0}, rows read {:.2} x",
                core.iter().sum::<f64>(),
                core.iter().copied().fold(0.0, f64::max),
                parts.iter().map(|one| one.rows).sum::<u64>() as f64 / planned_points as f64
            );
        }
        for count in [8, 64, 1_000] {
            let begun = Instant::now();
            let shards = cut(&weighed, &zooms, count, CutFor::Machines);
            let cutting = begun.elapsed().as_secs_f64();
            let core: Vec<f64> = shards.iter().map(|one| one.weight as f64 * COST_UNIT).collect();
            let (all, most) = (core.iter().sum::<f64>(), core.iter().copied().fold(0.0, f64::max));
            let rows: u64 = shards.iter().map(|one| one.rows).sum();
            println!(
                "  {count} shards, cut in {cutting:.1} s: {all:.0} core seconds, heaviest {most:.0} ({:.1} x mean), rows read {:.2} x",
                most * f64::from(count) / all,
                rows as f64 / planned_points as f64
            );
            for database_cores in [4.0, 16.0, 64.0] {
                let ended = ends(&shards, times, 64, database_cores);
                assert_eq!(ended.len(), shards.len());
                let latest = ended.iter().copied().fold(0.0, f64::max);
                let half = {
                    let mut sorted = ended.clone();
                    sorted.sort_by(f64::total_cmp);
                    sorted[sorted.len() / 2]
                };
                println!(
                    "    64 machines, database of {database_cores} cores: half done after {half:.0} s, all after {latest:.0} s"
                );
            }
        }
        for runs in [8, 64, 1_000] {
            let million = merging(runs)?;
            let bytes = (pairs as f64 * times) as u64 * BYTES_PER_FEATURE / 1_000_000_000;
            println!(
                "  merging {runs} runs: {million:.2} s a million tiles, {:.0} s for all; about {bytes} GB",
                million * occupied as f64 / 1e6
            );
        }
    }
    Ok(())
}
