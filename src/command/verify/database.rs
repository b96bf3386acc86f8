//! Compares a target with the database: renders its tiles again and compares the bytes.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::TilesToCheck;
use super::look::{CheckedTarget, TILES_PER_CHUNK, key};
use crate::config::JobSettings;
use crate::encode::Gunzip;
use crate::manifest::{Manifest, Region, drawn_otherwise};
use crate::postgis::RunLayers;
use crate::report::FindingKind;
use crate::run::attempts::restarting;
use crate::run::describe::fingerprint;
use crate::run::prepare::prepare;
use crate::run::seed::check_tables_unchanged;
use crate::run::{CommandError, Job};
use crate::sink::{PartialScope, Scope, read_all};
use crate::source::{RenderedTile, split_layers};
use crate::tile::{AreaPart, Batch, Coverage, LonLatBox, Order, Slice, TileCoord, TileId, TileRect, ZoomList};

/// Compares a target with the current state of the database, part by part. Starts over on a new snapshot if the database goes away or other
/// sessions hold the run up.
pub(super) async fn compare(
    looked: CheckedTarget,
    amount: TilesToCheck,
    area: &[AreaPart],
    job: &Job,
) -> Result<CheckedTarget, CommandError> {
    let name = looked.findings.target.clone();
    let unfit = |what: &str| CommandError::Unfit { target: name.clone(), what: what.to_owned() };
    let manifest = looked.manifest.clone().ok_or_else(|| {
        unfit("it has no manifest, so nobody knows what it should show. Verify it without --database")
    })?;
    let mut compared: Vec<Scope> = Vec::new();
    let mut looked = looked;
    for region in manifest.regions() {
        let (settings, scope) = as_seeded(&job.settings, &region)
            .zip(Scope::read(&region.zooms, &region.bbox))
            .ok_or_else(|| unfit("its manifest names zooms or boxes that cannot be read. Seed it again"))?;
        if let Some(bbox) = common(&settings.tileset.bbox, area) {
            let (scope, area) = (scope.clone(), Coverage::new(area));
            let tiles = Arc::new(PartFilter { scope, area, compared: compared.clone(), is_partial: false });
            let mut settings = settings;
            settings.tileset.bbox = bbox;
            let part = ComparedPart { job: job.with_settings(settings), tiles, amount };
            looked = compared_with(&part, looked).await?;
        }
        compared.push(scope);
    }
    for scope in PartialScope::of(&manifest).regions() {
        let own = if scope.coverage.is_world() { &[][..] } else { scope.coverage.parts() };
        let Some(bbox) = common(own, area) else {
            compared.push(scope.clone());
            continue;
        };
        let (within, compared_before) = (scope.clone(), compared.clone());
        let tiles =
            PartFilter { scope: within, area: Coverage::new(area), compared: compared_before, is_partial: true };
        // Zooms without stored tiles need not be planned.
        let held = looked.tiles.iter().filter(|id| tiles.holds(**id)).map(|id| id.coord.zoom());
        if let Some(zooms) = ZoomList::of(held) {
            let mut settings = job.settings.clone();
            (settings.tileset.zooms, settings.tileset.bbox) = (zooms, bbox);
            let part = ComparedPart { job: job.with_settings(settings), tiles: Arc::new(tiles), amount };
            looked = compared_with(&part, looked).await?;
        }
        compared.push(scope.clone());
    }
    if looked.findings.rendered == looked.findings.planned {
        let area = Scope { zooms: ZoomList::all(), coverage: Coverage::new(area) };
        let is_nobodys = |id: &&TileId| area.holds(**id) && !compared.iter().any(|scope| scope.holds(**id));
        for id in looked.tiles.iter().filter(is_nobodys) {
            looked.findings.add(FindingKind::Ghost, || format!("tile {id}"));
        }
    }
    Ok(looked)
}

/// The intersection of a part and an area; `None` if they do not intersect. Empty stands for the whole world. If there are shapes, the
/// result may be larger than that: it consists of boxes.
fn common(part: &[AreaPart], area: &[AreaPart]) -> Option<Vec<AreaPart>> {
    if part.is_empty() || area.is_empty() {
        return Some(if part.is_empty() { area } else { part }.to_vec());
    }
    let bounds = |parts: &[AreaPart]| parts.iter().flat_map(AreaPart::bounds).collect::<Vec<_>>();
    let others = bounds(area);
    let common: Vec<LonLatBox> =
        bounds(part).into_iter().flat_map(|one| others.iter().filter_map(move |other| one.common(*other))).collect();
    if common.is_empty() {
        return None;
    }
    // Shapes are not intersected exactly. The boxes around the common area are enough for planning, and the filter of tiles is exact.
    Some(common.into_iter().map(AreaPart::from).collect())
}

/// Compares a part of a target; starts over on a new snapshot after failures for which that helps.
async fn compared_with(part: &ComparedPart, looked: CheckedTarget) -> Result<CheckedTarget, CommandError> {
    let target = tokio::sync::Mutex::new(Some(looked));
    let attempt = async |_restarts| {
        let mut target = target.lock().await;
        Box::pin(attempt(&mut target, part)).await
    };
    let Job { settings, report, stop, .. } = &part.job;
    restarting(&settings.database, report, stop, attempt).await
}

/// A part of a target that is compared on its own, with the zooms and boxes of the run that seeded it.
struct ComparedPart {
    job: Job,
    tiles: Arc<PartFilter>,
    amount: TilesToCheck,
}

/// The filter for the tiles of a part: those of its scope that were not compared with an earlier part.
struct PartFilter {
    scope: Scope,
    /// The area that the user asked for.
    area: Coverage,
    compared: Vec<Scope>,
    /// True if only the stored tiles are compared, because it is unknown whether the other ones are empty.
    is_partial: bool,
}

impl PartFilter {
    fn holds(&self, id: TileId) -> bool {
        self.scope.holds(id) && self.area.touches(id.coord) && !self.compared.iter().any(|scope| scope.holds(id))
    }

    /// True if a batch has to be rendered. In a partial region it has to be if the target holds one of its tiles. `held` is in the order of
    /// `key`.
    fn wants(&self, batch: &Batch, held: &[TileId]) -> bool {
        let in_rect = |rect: &TileRect| held.iter().any(|id| rect.common(&TileRect::from(id.coord)).is_some());
        !self.is_partial || batch.areas.iter().any(|area| in_rect(&area.rect))
    }
}

/// Compares a part of a target at one snapshot. If that fails, `target` keeps the target as it was before.
async fn attempt(target: &mut Option<CheckedTarget>, part: &ComparedPart) -> Result<CheckedTarget, CommandError> {
    let Some(looked) = target.as_ref() else { return Err(CommandError::Died("the target is gone".to_owned())) };
    let unfit = |what: String| CommandError::Unfit { target: looked.findings.target.clone(), what };
    let Some(manifest) = looked.manifest.as_ref() else { return Err(unfit("it has no manifest".to_owned())) };
    let ComparedPart { job, amount, .. } = part;
    let settings = &job.settings;
    let mut prepared = prepare(job, Order::ZoomColumnTmsRow, settings.run.workers.get()).await?;
    let (theirs, ours) = (&manifest.fingerprint, fingerprint(settings, &prepared.layers));
    if let Some(why) = drawn_otherwise(theirs, &ours) {
        return Err(unfit(format!("{why}, so it cannot be compared with them. Seed it again")));
    }
    if *theirs != ours {
        return Err(unfit(format!(
            "it was seeded with another configuration (its fingerprint is {theirs}, that of the settings {ours}). Give the --config and --layer that it was seeded with"
        )));
    }
    let mut batches: Vec<Batch> =
        prepared.zooms.iter_mut().flat_map(|zoom| std::mem::take(&mut zoom.batches)).collect();
    if part.tiles.is_partial {
        let held: Vec<TileId> = looked.tiles.iter().copied().filter(|id| part.tiles.holds(*id)).collect();
        batches.retain(|batch| part.tiles.wants(batch, &held));
    }
    let planned: u64 = batches.iter().map(|batch| batch.tiles).sum();
    // A batch is always rendered as a whole, so a sample consists of batches.
    let every = planned.div_ceil(amount.of(planned).max(1)).max(1);
    let chosen: Vec<Batch> =
        batches.into_iter().enumerate().filter(|(i, _)| (*i as u64).is_multiple_of(every)).map(|(_, b)| b).collect();
    let rects = (every > 1).then(|| chosen.iter().flat_map(|batch| &batch.areas).map(|area| area.rect).collect());

    let mut workers = std::mem::take(&mut prepared.workers);
    workers.truncate(chosen.len());
    let layers = RunLayers::new(&prepared.surveyed);
    let queue = Arc::new(Mutex::new(chosen.into_iter()));
    let (done, tiles) = mpsc::channel(settings.run.limits.window.get());
    let mut tasks = tokio::task::JoinSet::new();
    for mut worker in workers {
        let (queue, done, layers) = (Arc::clone(&queue), done.clone(), Arc::clone(&layers));
        tasks.spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                let Some(batch) = next else { return Ok(()) };
                let tiles = worker.render(&layers, &batch).await?;
                // The receiver is gone only after a failure of its own, and that failure is the cause.
                if done.send(tiles).await.is_err() {
                    return Ok(());
                }
            }
        });
    }
    drop(done);
    let Some(mut looked) = target.take() else { return Err(CommandError::Died("the target is gone".to_owned())) };
    let before = looked.findings.clone();
    looked.findings.skipped = Some(std::mem::take(&mut prepared.skipped));
    let part_tiles = Arc::clone(&part.tiles);
    let comparing = tokio::task::spawn_blocking(move || Comparison::new(looked, part_tiles).run(tiles, rects, planned));
    let mut failure: Option<CommandError> = None;
    while let Some(task) = tasks.join_next().await {
        if let Err(error) = task.unwrap_or_else(|error| Err(CommandError::Died(error.to_string()))) {
            // The other workers end after their current batch.
            queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).by_ref().for_each(drop);
            failure.get_or_insert(error);
        }
    }
    let looked = comparing.await.map_err(|error| CommandError::Died(error.to_string()))??;
    let rendered = check_tables_unchanged(failure.map_or(Ok(()), Err), &prepared.snapshot, &prepared.reads).await;
    match rendered {
        Ok(()) => Ok(looked),
        Err(error) => {
            *target = Some(CheckedTarget { findings: before, ..looked });
            Err(error)
        }
    }
}

/// The settings with the zooms and boxes with which a part of the target was seeded.
fn as_seeded(settings: &JobSettings, region: &Region) -> Option<JobSettings> {
    let mut settings = settings.clone();
    settings.tileset.zooms = region.zooms.parse().ok()?;
    settings.tileset.bbox = region.bbox.iter().map(|bbox| bbox.parse::<AreaPart>().ok()).collect::<Option<Vec<_>>>()?;
    Some(settings)
}

/// The comparison of rendered tiles with stored ones.
struct Comparison {
    looked: CheckedTarget,
    /// The tiles that are compared. A batch may contain others.
    part: Arc<PartFilter>,
    /// For each of the target's tiles: true if the database has it.
    accounted: Vec<bool>,
    /// True if the target stores each layer of a tile separately.
    layers_apart: bool,
    gunzip: Gunzip,
    rendered: u64,
}

impl Comparison {
    fn new(looked: CheckedTarget, part: Arc<PartFilter>) -> Comparison {
        let layers_apart = looked.tiles.iter().any(|id| id.slice != Slice::Whole);
        let accounted = vec![false; looked.tiles.len()];
        Comparison { looked, part, accounted, layers_apart, gunzip: Gunzip::new(), rendered: 0 }
    }

    /// Compares until all senders are gone. `rects` are the tiles that are rendered; `None` if all are.
    fn run(
        mut self,
        mut rendered: mpsc::Receiver<Vec<RenderedTile>>,
        rects: Option<Vec<TileRect>>,
        planned: u64,
    ) -> Result<CheckedTarget, CommandError> {
        while let Some(tiles) = rendered.blocking_recv() {
            self.rendered += tiles.len() as u64;
            for chunk in tiles.chunks(TILES_PER_CHUNK) {
                self.compare(chunk)?;
            }
        }
        match rects {
            None => (0..self.looked.tiles.len()).for_each(|place| self.ghost(place)),
            Some(rects) => rects.iter().for_each(|rect| self.ghosts(rect)),
        }
        let findings = &mut self.looked.findings;
        *findings.rendered.get_or_insert(0) += self.rendered;
        *findings.planned.get_or_insert(0) += planned;
        Ok(self.looked)
    }

    fn compare(&mut self, rendered: &[RenderedTile]) -> Result<(), CommandError> {
        let part = Arc::clone(&self.part);
        let rendered = || rendered.iter().filter(|tile| part.holds(tile.tile.into()));
        for tile in rendered().filter(|tile| tile.is_failed()) {
            self.unrendered(tile);
        }
        let known = rendered().filter(|tile| !tile.is_failed());
        let expected: Vec<(TileId, &[u8])> = known.flat_map(|tile| self.expected(tile)).collect();
        let mut both = Vec::new();
        for (id, mvt) in expected {
            let place = self.looked.tiles.binary_search_by_key(&key(&id), key);
            match (place, mvt.is_empty()) {
                (Ok(place), false) => {
                    self.accounted[place] = true;
                    both.push((id, mvt));
                }
                (Err(_), false) if part.is_partial => {}
                (Err(_), false) => self.looked.findings.add(FindingKind::Missing, || format!("tile {id}")),
                // A stored tile that renders as empty is counted later, with all tiles that should not be there.
                (_, true) => {}
            }
        }
        let ids: Vec<TileId> = both.iter().map(|(id, _)| *id).collect();
        let CheckedTarget { reader, findings, .. } = &mut self.looked;
        let mut rendered = both.into_iter();
        read_all(&mut **reader, &ids, |id, stored| {
            let mvt = rendered.next().map_or(&[][..], |(_, mvt)| mvt);
            let same = stored.is_some_and(|stored| self.gunzip.unpack(&stored).is_ok_and(|raw| raw == mvt));
            if !same {
                findings.add(FindingKind::Different, || format!("tile {id}"));
            }
            Ok(())
        })
    }

    /// A tile with a layer that cannot be rendered counts as right if the manifest lists the tile as unrendered.
    fn unrendered(&mut self, tile: &RenderedTile) {
        let id = tile.tile;
        let from = self.looked.tiles.partition_point(|held| key(held).0 < key(&id.into()).0);
        let to = self.looked.tiles.partition_point(|held| key(held).0 <= key(&id.into()).0);
        self.accounted[from..to].fill(true);
        let is_listed = |manifest: &Manifest| manifest.unrendered.iter().any(|listed| *listed == id.to_string());
        if !self.looked.manifest.as_ref().is_some_and(is_listed) {
            self.looked.findings.add(FindingKind::Unrendered, || format!("tile {id}"));
        }
    }

    /// The stored form of a rendered tile: the whole tile, or each layer separately.
    fn expected<'a>(&self, tile: &'a RenderedTile) -> Vec<(TileId, &'a [u8])> {
        if !self.layers_apart {
            return vec![(tile.tile.into(), &tile.mvt)];
        }
        let slice = |(layer, bytes)| (TileId { coord: tile.tile, slice: Slice::Layer(layer) }, bytes);
        let mut slices: Vec<_> = split_layers(&tile.mvt, &tile.layers).map(slice).collect();
        slices.sort_by_key(|(id, _)| id.slice);
        slices
    }

    /// Reports the stored tiles of a rectangle that the database does not have.
    fn ghosts(&mut self, rect: &TileRect) {
        for x in rect.x0..=rect.x1 {
            // TMS rows grow north, so the last row of a column comes first.
            let ends = TileCoord::new(rect.zoom, x, rect.y1).zip(TileCoord::new(rect.zoom, x, rect.y0));
            let Some((first, last)) = ends else { continue };
            let from = self.looked.tiles.partition_point(|id| key(id) < key(&first.into()));
            let (last, _) = key(&last.into());
            let to = self.looked.tiles.partition_point(|id| key(id).0 <= last);
            (from..to).for_each(|place| self.ghost(place));
        }
    }

    fn ghost(&mut self, place: usize) {
        let id = self.looked.tiles[place];
        if !self.accounted[place] && self.part.holds(id) {
            self.looked.findings.add(FindingKind::Ghost, || format!("tile {id}"));
        }
    }
}
