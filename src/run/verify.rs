//! `oar-tiles verify`: checks a target's structure, counts and tiles, and compares it with the database.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::describe::fingerprint;
use super::prepare::prepare;
use super::render::check_tables_unchanged;
use super::target::{Target, why_not_repairable};
use super::{CommandError, TilesetRun, blocking_read, interrupted, restarting};
use crate::draw::RunLayers;
use crate::encode::{TileFormat, Unpacker};
use crate::manifest::{Manifest, drawn_otherwise};
use crate::mvt;
use crate::report::{FindingKind, Findings};
use crate::source::{RenderedTile, split_layers};
use crate::stop::Stop;
use crate::target::{Described, PartialScope, ReadError, TileReader, VectorLayer, read_all};
use crate::tile::{
    AreaPart, Batch, Coverage, LonLatBox, Order, Scope, Slice, TileCoord, TileId, TileRect, ZoomList, beyond_in_degrees,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TilesToCheck {
    /// All of up to 100,000 tiles, else a sample of 10,000.
    Fitting,
    Sample(NonZeroU64),
    All,
}

#[derive(Debug, Clone)]
pub(crate) struct VerifyOptions {
    /// How many tiles are decoded and compared.
    pub(crate) amount: TilesToCheck,
    /// Compare the target with the database.
    pub database: bool,
    /// Decode and compare only tiles that these parts of the world touch; all if empty.
    pub(crate) area: Vec<AreaPart>,
}

impl TilesToCheck {
    /// The number of tiles to decode, if there are `total` tiles.
    fn of(self, total: u64) -> u64 {
        match self {
            TilesToCheck::Fitting if total > 100_000 => 10_000,
            TilesToCheck::Sample(count) => count.get().min(total),
            TilesToCheck::Fitting | TilesToCheck::All => total,
        }
    }
}

/// Checks the run's target.
pub(crate) async fn verify(run: &TilesetRun, options: &VerifyOptions) -> Result<Findings, CommandError> {
    let (amount, target, stop) = (options.amount, run.target.clone(), run.stop.clone());
    let area = Coverage::new(&options.area);
    let mut looked = blocking_read(&run.stop, move || check_structure(&target, amount, area, &stop)).await?;
    if options.database {
        looked = compare(looked, amount, &options.area, run).await.map_err(|error| interrupted(error, &run.stop))?;
    }
    Ok(looked.findings)
}

pub(crate) fn check_sound(found: &Findings) -> Result<(), CommandError> {
    if found.findings.is_empty() {
        return Ok(());
    }
    Err(CommandError::Unsound { target: found.target.clone(), findings: found.counted() })
}

// Compares a target with the database: renders its tiles again and compares the bytes.

/// Compares a target with the current state of the database, part by part. Starts over on a new snapshot if the
/// database goes away or other sessions hold the run up.
pub(crate) async fn compare(
    looked: CheckedTarget,
    amount: TilesToCheck,
    area: &[AreaPart],
    run: &TilesetRun,
) -> Result<CheckedTarget, CommandError> {
    let name = looked.findings.target.clone();
    let unfit = |what: &str| CommandError::Unfit { target: name.clone(), what: what.to_owned() };
    let manifest = looked.manifest.clone().ok_or_else(|| {
        unfit("it has no manifest, so nobody knows what it should show. Verify it without --database")
    })?;
    let mut compared: Vec<Scope> = Vec::new();
    let mut looked = looked;
    for region in manifest.regions() {
        let settings = run.settings.of_region(&region);
        let settings =
            settings.map_err(|_error| unfit("its manifest names zooms or boxes that cannot be read. Seed it again"))?;
        let scope = settings.tileset.scope();
        if let Some(bbox) = common(&settings.tileset.bbox, area) {
            let (scope, area) = (scope.clone(), Coverage::new(area));
            let tiles = Arc::new(PartFilter { scope, area, compared: compared.clone(), is_partial: false });
            let mut settings = settings;
            settings.tileset.bbox = bbox;
            // Tiles are compared with what the database draws.
            settings.run.rows_memory = 0;
            let part = ComparedPart { run: run.with_settings(settings), tiles, amount };
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
            let mut settings = run.settings.clone();
            (settings.tileset.zooms, settings.tileset.bbox) = (zooms, bbox);
            settings.run.rows_memory = 0;
            let part = ComparedPart { run: run.with_settings(settings), tiles: Arc::new(tiles), amount };
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

/// The intersection of a part and an area; `None` if they do not intersect. Empty stands for the whole world. If there
/// are shapes, the result may be larger than that: it consists of boxes.
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
    // Shapes are not intersected exactly. The boxes around the common area are enough for planning, and the filter of
    // tiles is exact.
    Some(common.into_iter().map(AreaPart::from).collect())
}

/// Compares a part of a target; starts over on a new snapshot after failures for which that helps.
async fn compared_with(part: &ComparedPart, looked: CheckedTarget) -> Result<CheckedTarget, CommandError> {
    let target = tokio::sync::Mutex::new(Some(looked));
    let attempt = async |_restarts| {
        let mut target = target.lock().await;
        Box::pin(attempt(&mut target, part)).await
    };
    let TilesetRun { settings, report, stop, .. } = &part.run;
    restarting(&settings.database, report, stop, attempt).await
}

/// A part of a target that is compared on its own, with the zooms and boxes of the run that seeded it.
struct ComparedPart {
    run: TilesetRun,
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

    /// True if a batch has to be rendered. In a partial region it has to be if the target holds one of its tiles.
    /// `held` is in the order of `key`.
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
    let ComparedPart { run, amount, .. } = part;
    let settings = &run.settings;
    let mut prepared = prepare(run, Order::ZoomColumnTmsRow, settings.run.workers.get(), false).await?;
    let (theirs, ours) = (&manifest.fingerprint, fingerprint(settings, &prepared.layers));
    if let Some(why) = drawn_otherwise(theirs, &ours) {
        return Err(unfit(format!("{why}, so it cannot be compared with them. Seed it again")));
    }
    if *theirs != ours {
        return Err(unfit(format!(
            "it was seeded with another configuration (its fingerprint is {theirs}, that of the settings {ours}). Give the --config and --layer that it was seeded with"
        )));
    }
    let mut batches = prepared.take_batches();
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
                let next = queue.lock().next();
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
    let comparing = spawn_blocking(move || Comparison::new(looked, part_tiles).run(tiles, rects, planned));
    let mut failure: Option<CommandError> = None;
    while let Some(task) = tasks.join_next().await {
        if let Err(error) = task.unwrap_or_else(|error| Err(error.into())) {
            // The other workers end after their current batch.
            queue.lock().by_ref().for_each(drop);
            failure.get_or_insert(error);
        }
    }
    let looked = comparing.await??;
    let rendered = check_tables_unchanged(failure.map_or(Ok(()), Err), &prepared.snapshot, &prepared.reads).await;
    match rendered {
        Ok(()) => Ok(looked),
        Err(error) => {
            *target = Some(CheckedTarget { findings: before, ..looked });
            Err(error)
        }
    }
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
    unpacker: Unpacker,
    rendered: u64,
}

impl Comparison {
    fn new(looked: CheckedTarget, part: Arc<PartFilter>) -> Comparison {
        let layers_apart = looked.tiles.iter().any(|id| id.slice != Slice::Whole);
        let accounted = vec![false; looked.tiles.len()];
        let unpacker = Unpacker::new(looked.format);
        Comparison { looked, part, accounted, layers_apart, unpacker, rendered: 0 }
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
            let same = stored.is_some_and(|stored| self.unpacker.holds(&stored, mvt));
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

// Checks a target without the database: its structure, and whether its tiles are as its metadata says.

/// The number of tiles that are read at a time, which bounds the memory.
pub(crate) const TILES_PER_CHUNK: usize = 1_000;

/// The most layers and properties that are reported as described otherwise. An archive of another program could have
/// new ones in each tile.
const MAX_NAMED_UNDESCRIBED: usize = 10_000;

/// The most properties of a layer that the note about its unlisted properties names.
const MAX_NAMED_UNLISTED: usize = 20;

pub(crate) struct CheckedTarget {
    pub(crate) reader: Box<dyn TileReader>,
    /// How its tiles are encoded.
    pub(crate) format: TileFormat,
    pub(crate) manifest: Option<Manifest>,
    /// Every tile that the target holds, in [`Order::ZoomColumnTmsRow`].
    pub(crate) tiles: Vec<TileId>,
    pub(crate) findings: Findings,
}

/// The sort key of a tile in [`CheckedTarget::tiles`].
pub(crate) fn key(id: &TileId) -> (u64, Slice) {
    (Order::ZoomColumnTmsRow.sort_key(id.coord), id.slice)
}

/// Checks a target's structure and lists its tiles.
pub(crate) fn check_structure(
    target: &Target,
    amount: TilesToCheck,
    area: Coverage,
    stop: &Stop,
) -> Result<CheckedTarget, CommandError> {
    let mut reader = target.tileset_reader()?;
    let mut findings = Findings::new(target.to_string());
    for what in reader.check()? {
        findings.add(FindingKind::Structure, || what);
    }
    let described = found(reader.describe(), &mut findings)?;
    let tiles = found(reader.list(), &mut findings)?;
    let format = described.as_ref().map_or_else(TileFormat::default, |described| described.format);
    let mut looked = CheckedTarget { reader, format, manifest: None, tiles: tiles.unwrap_or_default(), findings };
    looked.tiles.sort_by_cached_key(key);
    looked.findings.tiles = looked.tiles.len() as u64;
    if let Some(described) = described {
        looked.manifest(&described);
        let area = Scope { zooms: ZoomList::all(), coverage: area };
        looked.tiles(&described, amount, &area, stop)?;
    }
    Ok(looked)
}

/// Turns damage that the reader finds into a finding, unless the check has already reported it.
fn found<T>(read: Result<T, ReadError>, findings: &mut Findings) -> Result<Option<T>, CommandError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(ReadError::Damaged { what, .. }) => {
            if findings.count() == 0 {
                findings.add(FindingKind::Structure, || what);
            }
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}

impl CheckedTarget {
    fn manifest(&mut self, described: &Described) {
        let notes = described
            .unfinished
            .iter()
            .map(|intent| format!("{intent} has not finished: it is under way, or was interrupted"));
        self.findings.notes.extend(notes);
        let Some(text) = &described.manifest else { return };
        let tiles = self.tiles.len() as u64;
        match serde_json::from_str::<Manifest>(text) {
            Ok(manifest) => {
                if manifest.stored != tiles {
                    let stored = manifest.stored;
                    let what = || format!("it says that {stored} tiles are stored, but there are {tiles}");
                    self.findings.add(FindingKind::Manifest, what);
                }
                for why in described.unfinished.iter().filter_map(|intent| why_not_repairable(intent, &manifest)) {
                    self.findings.add(FindingKind::Unfinished, || why);
                }
                self.manifest = Some(manifest);
            }
            Err(error) => self.findings.add(FindingKind::Manifest, || format!("it cannot be read ({error})")),
        }
    }

    /// Unpacks and decodes the tiles, or a sample spread evenly over them.
    fn tiles(
        &mut self,
        described: &Described,
        amount: TilesToCheck,
        area: &Scope,
        stop: &Stop,
    ) -> Result<(), CommandError> {
        let partial = self.manifest.as_ref().map_or_else(PartialScope::default, PartialScope::of);
        let CheckedTarget { reader, tiles, findings, .. } = self;
        if let Some((from, to)) = described.zooms {
            let is_within = |id: &TileId| (from..=to).contains(&id.coord.zoom().get()) || partial.holds(*id);
            for id in tiles.iter().filter(|id| !is_within(id)) {
                findings.add(FindingKind::Outside, || format!("tile {id} is not of the zooms {from}-{to}"));
            }
        }
        let wanted: Vec<TileId> = tiles.iter().copied().filter(|id| area.holds(*id)).collect();
        let (total, count) = (wanted.len() as u128, u128::from(amount.of(wanted.len() as u64)));
        let spread = (0..count).filter_map(|i| wanted.get(usize::try_from(i * total / count).ok()?));
        let chosen: Vec<TileId> = spread.copied().collect();
        let mut expected = DescribedTiles::new(described, &partial);
        let mut unpacker = Unpacker::new(described.format);
        for chunk in chosen.chunks(TILES_PER_CHUNK) {
            stop.check()?;
            let read = read_all(&mut **reader, chunk, |id, stored| {
                findings.decoded += 1;
                match stored.map(|stored| unpacker.mvt(&stored)) {
                    Some(Ok(raw)) => expected.compare(id, &raw, findings),
                    Some(Err(error)) => findings.add(FindingKind::Broken, || format!("tile {id}: {error}")),
                    None => {
                        findings.add(FindingKind::Structure, || format!("tile {id} is listed, but it cannot be found"));
                    }
                }
                Ok::<(), ReadError>(())
            });
            if found(read, findings)?.is_none() {
                break;
            }
        }
        findings.notes.extend(expected.unlisted.iter().map(|(layer, properties)| properties.note(layer)));
        Ok(())
    }
}

/// A target's description of its tiles.
struct DescribedTiles<'a> {
    bounds: Option<LonLatBox>,
    /// The partial regions. Bounds and zooms are only those of the scope, because map clients request all tiles in
    /// them.
    partial: &'a PartialScope,
    layers: HashMap<&'a str, &'a VectorLayer>,
    /// What was already reported. A layer that is not described would otherwise be reported for every tile.
    named: HashSet<String>,
    /// The properties that the metadata does not list, by layer.
    unlisted: BTreeMap<&'a str, UnlistedProperties>,
}

/// Properties of a layer that the metadata does not list. They are no error: the keys of jsonb are drawn as properties,
/// and TileJSON cannot list them.
struct UnlistedProperties {
    first: TileId,
    /// Up to [`MAX_NAMED_UNLISTED`] of them.
    names: BTreeSet<String>,
    has_more: bool,
}

impl UnlistedProperties {
    fn new(first: TileId) -> UnlistedProperties {
        UnlistedProperties { first, names: BTreeSet::new(), has_more: false }
    }

    fn add(&mut self, name: &str) {
        if self.names.contains(name) {
            return;
        }
        if self.names.len() < MAX_NAMED_UNLISTED {
            self.names.insert(name.to_owned());
        } else {
            self.has_more = true;
        }
    }

    fn note(&self, layer: &str) -> String {
        let names: Vec<String> = self.names.iter().map(|name| format!("{name:?}")).collect();
        let more = if self.has_more { " and others" } else { "" };
        format!(
            "layer {layer:?} has properties that are not described, first in tile {}: {}{more}. The keys of jsonb are such properties; others were renamed or added since the description was written",
            self.first,
            names.join(", ")
        )
    }
}

impl<'a> DescribedTiles<'a> {
    fn new(described: &'a Described, partial: &'a PartialScope) -> DescribedTiles<'a> {
        let layers = described.vector_layers.iter().map(|layer| (layer.id.as_str(), layer)).collect();
        DescribedTiles { bounds: described.bounds, partial, layers, named: HashSet::new(), unlisted: BTreeMap::new() }
    }

    /// Decodes a tile and compares it with the metadata.
    fn compare(&mut self, id: &TileId, raw: &[u8], findings: &mut Findings) {
        let layers = match mvt::decode(raw) {
            Ok(layers) => layers,
            Err(error) => return findings.add(FindingKind::Broken, || format!("tile {id}: {error}")),
        };
        if layers.iter().all(|layer| layer.features.is_empty()) {
            return findings.add(FindingKind::Empty, || format!("tile {id}"));
        }
        let is_partial = self.partial.holds(*id);
        if !is_partial && self.bounds.is_some_and(|bounds| !touches(id, &layers, bounds)) {
            findings.add(FindingKind::Outside, || format!("tile {id} does not touch the bounds"));
        }
        // The check of the format has already reported a target that describes no layer at all.
        if !self.layers.is_empty() {
            let mut undescribed = Vec::new();
            for layer in &layers {
                undescribed.extend(self.undescribed(id, layer));
            }
            for what in undescribed {
                let is_new = self.named.len() < MAX_NAMED_UNDESCRIBED && self.named.insert(what.clone());
                if is_new {
                    findings.add(FindingKind::Undescribed, || format!("tile {id}: {what}"));
                }
            }
        }
    }

    /// What contradicts the metadata, in words. Keeps the properties that it does not list.
    fn undescribed(&mut self, id: &TileId, layer: &mvt::MvtLayer<'_>) -> Vec<String> {
        let (name, zoom) = (layer.name, id.coord.zoom().get());
        let Some(&expected) = self.layers.get(name) else { return vec![format!("layer {name:?} is not described")] };
        let mut found = Vec::new();
        if !(expected.minzoom..=expected.maxzoom).contains(&zoom) && !self.partial.holds(*id) {
            found.push(format!(
                "layer {name:?} is described for the zooms {}-{} only",
                expected.minzoom, expected.maxzoom
            ));
        }
        let mut seen = HashSet::new();
        let properties = layer.features.iter().flat_map(|feature| layer.properties(feature));
        for (key, value) in properties {
            let kind = value.kind();
            if !seen.insert((key, kind)) {
                continue;
            }
            if found.len() >= MAX_NAMED_UNDESCRIBED {
                break;
            }
            match expected.fields.get(key).map(|field| field.as_str().unwrap_or_default()) {
                None => {
                    self.unlisted.entry(expected.id.as_str()).or_insert_with(|| UnlistedProperties::new(*id)).add(key);
                }
                // Other programs may use other words for the type of a property.
                Some(other) if other != kind && ["String", "Number", "Boolean"].contains(&other) => {
                    found.push(format!("layer {name:?}: the property {key:?} is a {kind}, but described as {other}"));
                }
                Some(_) => {}
            }
        }
        found
    }
}

/// True if a tile and its buffer touch the bounds. No target says how wide the buffer is. It is at least as wide as the
/// tile's features reach beyond the tile's edge.
fn touches(id: &TileId, layers: &[mvt::MvtLayer<'_>], bounds: LonLatBox) -> bool {
    // Tolerates rounding: bounds are written with six decimals.
    const ROUNDING: f64 = 1e-6;
    let TileId { coord: tile, .. } = *id;
    let beyond = layers.iter().map(beyond).fold(0.0, f64::max);
    // If the tile's grid is linear in degrees, its buffer reaches farther.
    let margin = beyond_in_degrees(tile.zoom(), beyond);
    let grown = LonLatBox::from(TileRect::from(tile).world(margin));
    let LonLatBox { west, south, east, north } = bounds;
    let (left, right) = (grown.west - ROUNDING, grown.east + ROUNDING);
    let (top, bottom) = (grown.north + ROUNDING, grown.south - ROUNDING);
    // Bounds that cross the antimeridian have west greater than east.
    let across = if west <= east { left <= east && right >= west } else { left <= east || right >= west };
    across && bottom <= north && top >= south
}

/// How far the features of a layer reach beyond the tile, as a share of its side, plus one grid unit for rounding.
fn beyond(layer: &mvt::MvtLayer<'_>) -> f64 {
    let extent = f64::from(layer.extent);
    let axes = layer.features.iter().flat_map(|feature| feature.geometry.positions()).flatten().map(f64::from);
    let farthest = axes.map(|axis| (-axis).max(axis - extent)).fold(0.0, f64::max);
    ((farthest + 1.0) / extent).min(3.0)
}
