//! Which tiles are dirty, and why.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Instant;

use tokio::task::spawn_blocking;

use super::{DirtyFilter, Look};
use crate::change_log::{UnseenChanges, UnseenRows, Watch};
use crate::draw::patch::ChangedPositions;
use crate::draw::{DifferingSquares, LiveRows, may_have_live_points, note_position};
use crate::manifest::Region;
use crate::plan::{Dirty, DrawnLayer};
use crate::postgis::{Layer, survey};
use crate::report::{ASKED_FOR, Reason, UNRENDERED};
use crate::run::dirty_file::{MAX_LISTED_TILES, TileList, TileListError, listed, listed_in_table};
use crate::run::row_loss::KnownRows;
use crate::run::target::TargetState;
use crate::run::{CommandError, Target};
use crate::target::{ReadError, read_all};
use crate::tile::{
    AreaPart, ChangeLocation, Coverage, LayerIndex, LonLatBox, Scope, TileCoord, TileId, TileRectList, WorldRect,
    ZoomList, area_for_people,
};

/// What a reseed has to do.
#[expect(clippy::large_enum_variant, reason = "there is one value in a run")]
pub(crate) enum Work {
    Nothing,
    /// These tiles are to be rendered.
    Some(DirtyTiles),
    /// All tiles are to be rendered, because so much has changed that a full seed costs less. With the reasons.
    All(Vec<Reason>),
}

/// Dirty tiles, and the changed positions.
pub(crate) struct DirtyTiles {
    pub(crate) dirty: Dirty,
    /// Tiles in which rows have changed, but in nothing that the tile shows: under a filter they may differ. `None` if
    /// there are too many; empty if there are no filters.
    unaltered: Option<Dirty>,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) spots: ChangedPositions,
    /// The changed positions of each layer whose rows a watch may keep, in world units; `None` where they are not
    /// known, empty if the tiles were named.
    pub(crate) row_positions: Vec<Option<Vec<[f64; 2]>>>,
    /// What is known of the rows of each layer; empty if nothing is, because the tiles were named.
    pub(crate) rows: Vec<KnownRows>,
    /// The rectangle around all changes.
    pub(crate) around: Option<WorldRect>,
    /// True if the target is up to date once these tiles are rendered.
    pub(crate) complete: bool,
    pub(crate) beyond: Box<FoundBeyondScope>,
    /// When the ages of the reasons were read.
    looked: Instant,
}

impl DirtyTiles {
    fn new(dirty: Dirty, complete: bool, state: &TargetState) -> DirtyTiles {
        let (reasons, partial) = (Vec::new(), state.manifest.partial.clone());
        let beyond = Box::new(FoundBeyondScope { held: Vec::new(), wanted: Vec::new(), partial });
        let looked = Instant::now();
        DirtyTiles {
            dirty,
            unaltered: Some(Dirty::new(&[], 0)),
            reasons,
            spots: ChangedPositions::default(),
            row_positions: Vec::new(),
            rows: Vec::new(),
            around: None,
            complete,
            beyond,
            looked,
        }
    }

    fn named_by(flag: &str, dirty: Dirty, state: &TargetState) -> DirtyTiles {
        let reasons = vec![Reason { what: flag.to_owned(), rows: dirty.len() as u64, seconds: 0.0 }];
        DirtyTiles { reasons, ..DirtyTiles::new(dirty, false, state) }
    }

    /// Dirty tiles that cannot be patched and are rendered as a whole: tiles that the target does not hold though they
    /// are not empty, and tiles that could not be rendered before.
    pub(crate) fn rendered_whole(&self, state: &TargetState) -> Vec<TileCoord> {
        state.unrendered.iter().chain(&self.beyond.wanted).copied().collect()
    }

    /// The tiles in which rows have changed, without those that are stored for the first time; `None` if there are too
    /// many for a list.
    pub(crate) fn changed(&self) -> Option<TileRectList> {
        let is_new: HashSet<TileCoord> = self.beyond.wanted.iter().copied().collect();
        let all = self.dirty.iter().chain(self.unaltered.as_ref()?.iter());
        TileRectList::of(all.filter(|tile| !is_new.contains(tile)))
    }

    /// The tiles in which rows have changed, and those that are stored for the first time; `None` if there are too many
    /// for a list.
    pub(crate) fn with_changed_rows(&self) -> Option<TileRectList> {
        TileRectList::of(self.dirty.iter().chain(self.unaltered.as_ref()?.iter()))
    }

    pub(crate) fn nothing(state: &TargetState) -> DirtyTiles {
        DirtyTiles::new(Dirty::new(&state.parts, usize::MAX), true, state)
    }

    /// The time since the oldest of the changes was written, in seconds; `None` if no row changed.
    pub(crate) fn oldest(&self) -> Option<f64> {
        let ages = self.reasons.iter().map(|reason| reason.seconds).filter(|age| *age > 0.0);
        ages.reduce(f64::max).map(|age| age + self.looked.elapsed().as_secs_f64())
    }

    fn note(&mut self, spot: &ChangeLocation) {
        let mut world = spot.world();
        // Bounds do not cross ±180°.
        if world.crosses_antimeridian() {
            (world.west, world.east) = (0, u32::MAX);
        }
        let one = WorldRect::from(world);
        self.around = Some(self.around.map_or(one, |around| around.joined(one)));
    }

    /// The box around all changes in degrees.
    pub(crate) fn bounds(&self) -> Option<LonLatBox> {
        self.around.map(LonLatBox::from)
    }
}

/// The zooms and the margin of a layer, for the plan.
pub(crate) fn drawn(layer: &Layer) -> DrawnLayer {
    DrawnLayer { zooms: layer.zooms().clone(), margin: layer.margin(), grid: layer.grid() }
}

/// Below this many dirty tiles a reseed always renders them one by one.
const MIN_TILES_FOR_A_SEED: u64 = 20_000;

/// The most dirty tiles that a reseed renders one by one. Rendering more than a third of the target that way costs as
/// much as a full seed, because a seed renders in large pieces.
fn max_dirty_tiles(state: &TargetState) -> usize {
    usize::try_from((state.manifest.stored / 3).max(MIN_TILES_FOR_A_SEED)).unwrap_or(usize::MAX)
}

/// Below this many dirty tiles the inside of polygons is rendered tile by tile.
const MIN_TILES_OF_POLYGONS: usize = 2_000;

/// True if a seed renders fewer tiles than the dirty ones: it renders one for all tiles that lie inside of the same
/// polygons. The log may hold only the box of a shape; then the seed renders up to twice as many tiles as the reseed
/// would.
fn is_cheaper_as_a_seed(dirty: &Dirty, state: &TargetState) -> bool {
    let inside = dirty.inside();
    inside > 0 && dirty.len() >= MIN_TILES_OF_POLYGONS && (dirty.len() + inside) as u64 > state.manifest.stored
}

/// After this many changed positions the number of dirty tiles is extrapolated to all changes.
const POSITIONS_TO_EXTRAPOLATE: u64 = 4_000;

/// Extrapolates the number of dirty tiles of `rows` changes, if the first [`POSITIONS_TO_EXTRAPOLATE`] made `dirty`
/// tiles dirty.
fn extrapolated(dirty: u64, rows: u64) -> u64 {
    dirty.saturating_mul(rows / POSITIONS_TO_EXTRAPOLATE)
}

/// For each watched table, the number of changed rows that the target has not seen, and the age of the oldest change.
fn reasons(changes: &UnseenChanges, watches: &[Vec<Watch>]) -> Vec<Reason> {
    let mut counted: Vec<i32> = Vec::new();
    let mut reasons: Vec<Reason> = Vec::new();
    for watch in watches.iter().flatten() {
        let Some(UnseenRows { rows, age }) = changes.of(watch).filter(|_| !counted.contains(&watch.id)) else {
            continue;
        };
        counted.push(watch.id);
        match reasons.iter_mut().find(|reason| reason.what == watch.table) {
            Some(reason) => {
                reason.rows += rows;
                reason.seconds = reason.seconds.max(age);
            }
            None => reasons.push(Reason { what: watch.table.clone(), rows, seconds: age }),
        }
    }
    reasons
}

/// The tiles in which a change since the target's snapshot can be seen.
pub(crate) async fn from_log(
    look: &Look<'_>,
    watches: &[Vec<Watch>],
    filter: &DirtyFilter,
    live: Option<&LiveRows>,
) -> Result<Work, CommandError> {
    let Look { state, layers, .. } = look;
    let since = state.cursor.to_string();
    let publication = state.manifest.publication.as_ref();
    let log = look.unseen(&state.cursor);
    let unseen = log.changes().await?;
    let mut beyond = WorkBeyondScope::of(state, filter);
    // One seed can render the whole target only if it has one region.
    let may_be_seeded = !filter.is_narrowed() && state.parts.len() == 1;
    let most = if may_be_seeded { max_dirty_tiles(state) } else { usize::MAX };
    let begun = before_positions(reasons(&unseen, watches), state, filter, &beyond, most);
    let Work::Some(mut changed) = begun else { return Ok(begun) };
    if !look.run.settings.tileset.filters.parameters.is_empty() {
        changed.unaltered = Some(Dirty::new(&state.parts, MAX_LISTED_TILES));
    }
    changed.spots = ChangedPositions::new(layers.iter().map(|layer| layer.as_points().is_some()));
    for (index, (layer, watches)) in layers.iter().zip(watches).enumerate() {
        let mut marking = LayerMarking::of(LayerIndex(index), layer, most);
        let live = match (live, publication) {
            (Some(live), Some(shown)) if live.tell_differences(layer, &since, &shown.id).await => Some(live),
            _ => None,
        };
        marking.waiting = live.map(|_| Vec::new());
        for (watch, rows) in unseen.of_layer(watches) {
            marking.begin(watch, rows, &mut changed);
            let add = |spot| marking.add(spot, &mut changed, &mut beyond);
            if !log.positions(watch, layer, add).await? {
                return Ok(Work::All(changed.reasons));
            }
        }
        if let (Some(live), Some(waiting)) = (live, marking.waiting.take().filter(|waiting| !waiting.is_empty())) {
            let differing = live.bring(look.live_step(&since), layer, marking.positions.as_deref()).await?;
            marking.marked = 0;
            if marking.mark_differing(&waiting, differing.as_ref(), &mut changed, &mut beyond).is_break() {
                return Ok(Work::All(changed.reasons));
            }
            let (name, marked, all) = (&layer.name, marking.marked, waiting.len());
            tracing::debug!("layer \"{name}\": rows differ at {marked} of {all} changed positions");
        }
        changed.rows.push(if marking.is_known { KnownRows::Touched(marking.touched) } else { KnownRows::Unknown });
        changed.row_positions.push(marking.positions);
    }
    if may_be_seeded && is_cheaper_as_a_seed(&changed.dirty, state) {
        return Ok(Work::All(changed.reasons));
    }
    let beyond = beyond.found(state, &look.run.target).await?;
    beyond.held.iter().chain(&beyond.wanted).for_each(|tile| changed.dirty.mark_chosen(*tile));
    changed.beyond = Box::new(beyond);
    Ok(Work::Some(changed))
}

/// What there is to do before the positions of the changes are read: tiles that could not be rendered before are
/// marked.
fn before_positions(
    mut reasons: Vec<Reason>,
    state: &TargetState,
    filter: &DirtyFilter,
    beyond: &WorkBeyondScope,
    most: usize,
) -> Work {
    let retried = if filter.leaves_unrendered && reasons.is_empty() { &[][..] } else { &state.unrendered };
    let rows: u64 = reasons.iter().map(|reason| reason.rows).sum();
    if rows > most as u64 {
        return Work::All(reasons);
    }
    let is_narrowed = filter.is_narrowed();
    let mut dirty = Dirty::new(&state.parts, most);
    if is_narrowed {
        dirty.narrow(filter.zoom.as_ref(), &Coverage::new(&filter.bbox));
    }
    let mut once_more = 0;
    for tile in retried {
        match dirty.mark_tile(*tile) {
            Ok(false) if !is_narrowed && state.partial.holds((*tile).into()) => {
                dirty.mark_chosen(*tile);
                once_more += 1;
            }
            Ok(belongs) => once_more += u64::from(belongs),
            Err(_too_many) => return Work::All(reasons),
        }
    }
    if once_more > 0 {
        reasons.push(Reason { what: UNRENDERED.to_owned(), rows: once_more, seconds: 0.0 });
    }
    if beyond.has_work() {
        reasons.push(Reason { what: ASKED_FOR.to_owned(), rows: beyond.wanted(), seconds: 0.0 });
    }
    if reasons.is_empty() {
        return Work::Nothing;
    }
    Work::Some(DirtyTiles { reasons, ..DirtyTiles::new(dirty, !is_narrowed, state) })
}

/// Marks the tiles in which changes of a layer can be seen, watch by watch.
struct LayerMarking {
    layer: LayerIndex,
    drawn: DrawnLayer,
    /// The most dirty tiles that are rendered one by one.
    most: usize,
    /// The most rows that may have come or gone. A row of a table that a query names may stand for many, each with a
    /// position.
    touched: u64,
    /// False if any number of rows may have come or gone.
    is_known: bool,
    /// The changed positions of a layer whose rows a watch may keep; `None` if they are not known.
    positions: Option<Vec<[f64; 2]>>,
    /// True if the positions of the present watch come from a query.
    is_query: bool,
    /// The changed rows of the present watch, and how many of its positions were marked.
    rows: u64,
    marked: u64,
    /// Changes that are not marked yet, because they make no tile dirty if the rows there turn out to be as before;
    /// `None` if each is marked at once.
    waiting: Option<Vec<ChangeLocation>>,
}

impl LayerMarking {
    fn of(index: LayerIndex, layer: &Layer, most: usize) -> LayerMarking {
        LayerMarking {
            layer: index,
            drawn: drawn(layer),
            most,
            touched: 0,
            is_known: true,
            positions: (layer.grid().is_some() || layer.traits().is_patchable || may_have_live_points(layer))
                .then(Vec::new),
            is_query: false,
            rows: 0,
            marked: 0,
            waiting: None,
        }
    }

    fn begin(&mut self, watch: &Watch, rows: u64, changed: &mut DirtyTiles) {
        (self.rows, self.marked) = (rows, 0);
        self.is_query = watch.is_query();
        if self.is_query {
            // The query may return a larger area than the point itself.
            changed.spots.forget(self.layer);
        } else {
            self.touched += rows;
        }
    }

    /// Adds a change, and marks it unless it waits. Breaks as [`LayerMarking::mark`] does.
    fn add(&mut self, spot: ChangeLocation, changed: &mut DirtyTiles, beyond: &mut WorkBeyondScope) -> ControlFlow<()> {
        if self.is_query {
            self.touched += 1;
            self.positions = None;
            // The area that a declared query returns may hold any number of rows.
            self.is_known &= matches!(spot, ChangeLocation::Point(_));
        }
        note_position(&mut self.positions, &spot);
        match self.waiting.as_mut() {
            None => return self.mark(&spot, changed, beyond),
            Some(waiting) => waiting.push(spot),
        }
        if self.positions.is_some() {
            return ControlFlow::Continue(());
        }
        let waiting = self.waiting.take().unwrap_or_default();
        waiting.iter().try_for_each(|spot| self.mark(spot, changed, beyond))
    }

    /// Marks those of some changes at which rows may differ. The tiles of the others stay unaltered.
    fn mark_differing(
        &mut self,
        spots: &[ChangeLocation],
        differing: Option<&DifferingSquares>,
        changed: &mut DirtyTiles,
        beyond: &mut WorkBeyondScope,
    ) -> ControlFlow<()> {
        // How many of them will be marked cannot be extrapolated.
        self.rows = 0;
        for spot in spots {
            if differing.zip(spot.position()).is_none_or(|(differing, at)| differing.are_at(at)) {
                self.mark(spot, changed, beyond)?;
                continue;
            }
            if changed.unaltered.as_mut().is_some_and(|tiles| tiles.mark(&self.drawn, spot).is_err()) {
                changed.unaltered = None;
            }
        }
        ControlFlow::Continue(())
    }

    /// Marks a change; breaks once there are, or will be, more dirty tiles than are rendered one by one.
    fn mark(
        &mut self,
        spot: &ChangeLocation,
        changed: &mut DirtyTiles,
        beyond: &mut WorkBeyondScope,
    ) -> ControlFlow<()> {
        changed.note(spot);
        changed.spots.add(self.layer, spot);
        beyond.mark(&self.drawn, spot);
        self.marked += 1;
        let is_too_many = changed.dirty.mark(&self.drawn, spot).is_err()
            || self.marked == POSITIONS_TO_EXTRAPOLATE
                && extrapolated(changed.dirty.len() as u64, self.rows) > (self.most as u64).saturating_mul(2);
        if is_too_many { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub(crate) async fn from_list(look: &Look<'_>, list: &TileList) -> Result<Work, CommandError> {
    let state = &look.state;
    let (path, list, mut dirty) = (list.path.clone(), list.clone(), Dirty::new(&state.parts, MAX_LISTED_TILES));
    let tiles = match list.table() {
        Some(table) => listed_in_table(&look.snapshot, &path, table).await?,
        None => spawn_blocking(move || listed(&path)).await??,
    };
    let dirty = spawn_blocking(move || {
        list.mark(tiles, &mut dirty)?;
        Ok::<_, TileListError>(dirty)
    })
    .await??;
    Ok(Work::Some(DirtyTiles::named_by("--tiles", dirty, state)))
}

pub(crate) async fn from_area(look: &Look<'_>, parts: &[AreaPart]) -> Result<Work, CommandError> {
    let state = &look.state;
    let zooms = zooms(&state.parts, &state.manifest.zooms)?;
    // The tiles of shapes are found once, which may take a while, and not on a thread that answers requests.
    let (of_parts, of_zooms) = (parts.to_vec(), zooms.clone());
    let coverage = spawn_blocking(move || {
        let coverage = Coverage::new(&of_parts);
        of_zooms.iter().for_each(|zoom| drop(coverage.rects(zoom)));
        coverage
    });
    let coverage = coverage.await?;
    let mut dirty = Dirty::new(&state.parts, MAX_LISTED_TILES);
    dirty.narrow(None, &coverage);
    let too_many = |_too_many| CommandError::NoArea {
        text: area_for_people(&parts.iter().map(ToString::to_string).collect::<Vec<_>>()),
        what: format!("it has more than {MAX_LISTED_TILES} tiles: seed the target instead"),
    };
    for layer in &look.layers {
        let footprints = survey(&look.snapshot, layer, None, &coverage, &zooms).await?.footprints;
        dirty.mark_all(&drawn(layer), &footprints).map_err(too_many)?;
    }
    // Includes tiles in which nothing is drawn any more.
    let target = look.run.target.clone();
    let held = spawn_blocking(move || target.reader()?.list().map_err(CommandError::from));
    for id in held.await?? {
        dirty.mark_tile(id.coord).map_err(too_many)?;
    }
    Ok(Work::Some(DirtyTiles::named_by("--area", dirty, state)))
}

fn zooms(parts: &[Scope], own: &str) -> Result<ZoomList, CommandError> {
    Ok(parts.iter().fold(own.parse()?, |all: ZoomList, part| all.union(&part.zooms)))
}

// Tiles outside of a target's scope: tiles that it holds in its partial regions and that are dirty, and tiles that are
// to be stored there because a client has asked for them.
//
// A zoom becomes partial by a publication of its own, which stores no tile of that zoom. So a run that is killed leaves
// no tile for which no manifest speaks. The tiles that it has stored show a later state than the manifest, and the next
// run renders what has changed since the manifest.

/// The most tiles that are looked up one by one. For more, all tiles of the target are listed.
const MAX_LOOKED_FOR: usize = 2_000;

/// The number of tiles that are looked up at a time.
const TILES_PER_READ: usize = 500;

/// Tiles outside of the scope that a run has to render.
pub(crate) struct WorkBeyondScope {
    /// Tiles in which a change can be seen, whether or not the target holds them; `None` if there are too many of them.
    touched: Option<Dirty>,
    wanted: Vec<TileCoord>,
    /// The zooms that become partial; `None` if none do.
    declared: Option<ZoomList>,
}

/// The result for the tiles outside of the scope.
pub(crate) struct FoundBeyondScope {
    /// Tiles that the target holds and in which a change can be seen.
    pub(crate) held: Vec<TileCoord>,
    /// Tiles to be stored that the target does not hold, as far as is known.
    pub(crate) wanted: Vec<TileCoord>,
    /// The partial regions after the run.
    pub(crate) partial: Vec<Region>,
}

impl WorkBeyondScope {
    /// The work outside of a target's scope before any change is read.
    pub(crate) fn of(state: &TargetState, filter: &DirtyFilter) -> WorkBeyondScope {
        let mut touched = Dirty::new(state.partial.regions(), MAX_LISTED_TILES);
        if filter.is_narrowed() {
            touched.narrow(filter.zoom.as_ref(), &Coverage::new(&filter.bbox));
        }
        let whole = Dirty::new(&state.parts, 0);
        let outside = || filter.written_back.iter().copied().filter(|tile| !whole.holds(*tile));
        let is_partial = |tile: &TileCoord| state.partial.holds((*tile).into());
        WorkBeyondScope {
            touched: Some(touched),
            wanted: outside().filter(is_partial).collect(),
            declared: ZoomList::of(outside().filter(|tile| !is_partial(tile)).map(TileCoord::zoom)),
        }
    }

    /// True if there is something to do even if nothing has changed.
    pub(crate) fn has_work(&self) -> bool {
        !self.wanted.is_empty() || self.declared.is_some()
    }

    /// The number of tiles that are to be stored in partial regions.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.len() as u64
    }

    /// Marks the tiles in which a change of a layer can be seen.
    pub(crate) fn mark(&mut self, layer: &DrawnLayer, spot: &ChangeLocation) {
        if self.touched.as_mut().is_some_and(|touched| touched.mark(layer, spot).is_err()) {
            self.touched = None;
        }
    }

    /// Finds out which of the marked tiles the target holds. A zoom does not become partial if the target holds tiles
    /// there for which no manifest speaks.
    pub(crate) async fn found(self, state: &TargetState, target: &Target) -> Result<FoundBeyondScope, CommandError> {
        let mut partial = state.manifest.partial.clone();
        let mut held = Vec::new();
        let may_hold = !state.partial.is_empty() && self.touched.as_ref().is_none_or(|touched| !touched.is_empty());
        if may_hold {
            let all = held_tiles(target, self.touched.as_ref()).await?;
            held = all.into_iter().filter(|tile| state.partial.holds((*tile).into())).collect();
        }
        if let Some(zooms) = self.declared {
            let (target, described) = (target.clone(), state.partial.clone());
            let whole = Dirty::new(&state.parts, 0);
            let of_zooms = zooms.clone();
            let strangers = spawn_blocking(move || {
                let is_strange = |id: &&TileId| {
                    of_zooms.contains(id.coord.zoom()) && !whole.holds(id.coord) && !described.holds(**id)
                };
                let tiles = target.reader()?.list()?;
                Ok::<_, CommandError>(tiles.iter().filter(is_strange).count())
            });
            match strangers.await?? {
                0 => partial.push(Region { zooms: zooms.to_string(), bbox: Vec::new(), snapshot: None, witness: None }),
                count => tracing::warn!(
                    "live tiles of the zooms {zooms} are not written back: {count} tiles are stored there of which the manifest does not speak. Seed these zooms, or remove the tiles"
                ),
            }
        }
        Ok(FoundBeyondScope { held, wanted: self.wanted, partial: joined(partial) })
    }
}

/// Joins the regions into one if all of them cover the whole world.
fn joined(regions: Vec<Region>) -> Vec<Region> {
    let zooms = regions.iter().filter_map(|region| region.zooms.parse::<ZoomList>().ok());
    match zooms.reduce(|all, zooms| all.union(&zooms)) {
        Some(zooms) if regions.iter().all(|region| region.bbox.is_empty()) => {
            vec![Region { zooms: zooms.to_string(), bbox: Vec::new(), snapshot: None, witness: None }]
        }
        _ => regions,
    }
}

/// The tiles of the set `of` that a target holds, or all that it holds if `of` is `None`. May wait for a server.
async fn held_tiles(target: &Target, of: Option<&Dirty>) -> Result<HashSet<TileCoord>, CommandError> {
    let target = target.clone();
    let of: Option<Vec<TileId>> = of.map(|tiles| tiles.iter().map(TileId::from).collect());
    spawn_blocking(move || {
        let mut reader = target.reader()?;
        let of = match of {
            Some(tiles) if tiles.len() <= MAX_LOOKED_FOR && !reader.template().layers_apart() => tiles,
            of => {
                let marked: Option<HashSet<TileCoord>> = of.map(|tiles| tiles.into_iter().map(|id| id.coord).collect());
                let is_marked = |tile: &TileCoord| marked.as_ref().is_none_or(|marked| marked.contains(tile));
                return Ok(reader.list()?.into_iter().map(|id| id.coord).filter(is_marked).collect());
            }
        };
        let mut held = HashSet::new();
        for tiles in of.chunks(TILES_PER_READ) {
            read_all(&mut *reader, tiles, |id, stored| {
                if stored.is_some() {
                    held.insert(id.coord);
                }
                Ok::<(), ReadError>(())
            })?;
        }
        Ok(held)
    })
    .await?
}
