//! Counted cells as rows: the database encodes each cell of a zoom once, and the tiles of this zoom are drawn from
//! that. A cell differs from tile to tile only by its place, as a row does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::reading::RowsRefused;
use super::{CachedRows, EncodedRows, NOT_DRAWN, RowFeatures, RowReaders, RowStore};
use crate::cells::{Cell, CellGeometry, CellGrid, CodeHasher, CountedCell, Folded, MIDDLE};
use crate::draw::PreparedLayer;
use crate::draw::areas::Areas;
use crate::draw::cells::CellColumns;
use crate::mvt::Features;
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql;
use crate::tile::{Frame, Positions, TileRect, Zoom};

/// The most cells that one statement encodes.
const CELLS_PER_STATEMENT: usize = 8192;

#[derive(Debug, Clone, Copy)]
struct EncodedCell {
    zoom: Zoom,
    code: i64,
    /// The position of its geometry in metres; `None` if it is not drawn.
    drawn_at: Option<[f64; 2]>,
}

/// Cells that one statement encoded, in the order in which it was asked for them.
#[derive(Default)]
struct EncodedCells {
    cells: Vec<EncodedCell>,
    /// The features of those that are drawn, in groups.
    groups: Vec<Vec<u8>>,
}

/// A counted cell of a zoom, with its folded values.
pub(crate) type ZoomCell<'c> = (Zoom, &'c CountedCell, &'c [Folded]);

/// True if the layer's cells are drawn at one point each that the plan knows exactly.
pub(crate) fn has_cacheable_cells(layer: &Layer) -> bool {
    let is_point = layer.grid().is_some_and(|grid| grid.geometry != CellGeometry::Polygon);
    is_point && !layer.placement().plans_cell_boxes() && layer.has_plain_values()
}

impl CachedRows {
    /// Reads the counted cells of a layer, zoom by zoom from the shallowest on, as long as they fit into `memory`
    /// bytes; the database draws the others. `None` if no zoom fits, or if cells are not encoded as plain points.
    pub(crate) async fn of_cells(
        readers: RowReaders<'_>,
        prepared: &PreparedLayer,
        memory: usize,
    ) -> Result<Option<CachedRows>, Error> {
        let layer = prepared.layer();
        let (Some(counts), Some(grid)) = (prepared.counts(), layer.grid()) else { return Ok(None) };
        let (mut zooms, mut bytes) = (BTreeMap::new(), 0);
        for zoom in counts.zooms().filter(|zoom| layer.zooms().contains(*zoom)) {
            let cells: Vec<ZoomCell<'_>> = counts.all(zoom).map(|(cell, folded)| (zoom, cell, folded)).collect();
            let mut placed = PlacedCells::new(layer, cells.len(), memory - bytes);
            match placed.add_all(readers, prepared, grid, &cells, memory - bytes).await? {
                Ok(()) => {}
                Err(RowsRefused::TooLarge) => break,
                Err(why) => {
                    tracing::info!("layer \"{}\": its cells are not cached: {}", layer.name(), why.text());
                    return Ok(None);
                }
            }
            let PlacedCells { at, numbers, features } = placed;
            let rows = EncodedRows {
                positions: Arc::new(Positions::new(at, Frame::WorldUnits)),
                numbers: (features.len() != numbers.len()).then_some(numbers),
                features: features.into(),
                ..EncodedRows::default()
            };
            bytes += rows.bytes();
            zooms.insert(zoom, rows);
        }
        if zooms.is_empty() {
            return Ok(None);
        }
        let cells: usize = zooms.values().map(|rows| rows.positions.len()).sum();
        tracing::debug!("layer \"{}\": {cells} cells of {} zooms are cached", layer.name(), zooms.len());
        Ok(Some(CachedRows { rows: RowStore::Cells(zooms), sessions: readers.others.len().max(1), near: None }))
    }
}

/// The place at which a cell is drawn, in world units. A middle beyond the edge of the world is drawn on the edge, as
/// in the statement. A lone row is drawn where it is, at `own` in metres.
pub(crate) fn place(layer: &Layer, grid: CellGrid, zoom: Zoom, cell: &CountedCell, own: Option<[f64; 2]>) -> [f64; 2] {
    if let Some(own) = own.filter(|_| cell.members == 1 && layer.keeps_lone()) {
        return Positions::in_world_units(own);
    }
    match grid.geometry {
        CellGeometry::Center | CellGeometry::Polygon => {
            grid.middle(zoom, Cell::of(cell.code)).map(|unit| unit.clamp(0.0, 2.0 * MIDDLE))
        }
        // The middle of a unit, as in the statement.
        CellGeometry::Centroid => [cell.world.west, cell.world.north].map(|unit| f64::from(unit) + 0.5),
    }
}

/// Lets the sessions encode cells, which are sorted by zoom and code, in parallel.
async fn encode(
    readers: RowReaders<'_>,
    prepared: &PreparedLayer,
    cells: &[ZoomCell<'_>],
) -> Result<Vec<EncodedCells>, Error> {
    let statement = sql::encoded_cells(prepared.layer(), prepared.folds());
    let parts: Vec<&[ZoomCell<'_>]> = cells.chunks(CELLS_PER_STATEMENT).collect();
    let keeper = [readers.keeper];
    let sessions = if parts.len() > 1 && !readers.others.is_empty() { readers.others } else { &keeper };
    let reading = sessions.iter().enumerate().map(async |(first, session)| {
        let mut own = Vec::new();
        for part in parts.iter().skip(first).step_by(sessions.len()) {
            own.push(encode_part(session, prepared, &statement, part).await?);
        }
        Ok(own)
    });
    // All sessions are waited for, even if one failed, because they are used again.
    let mut read = Vec::new();
    for own in join_all(reading).await {
        read.push(own.map(Vec::into_iter));
    }
    let mut by_session = read.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let turns = by_session.len();
    Ok((0..parts.len()).filter_map(|part| by_session[part % turns].next()).collect())
}

async fn encode_part(
    session: &Session,
    prepared: &PreparedLayer,
    statement: &str,
    cells: &[ZoomCell<'_>],
) -> Result<EncodedCells, Error> {
    let layer = prepared.layer();
    let zooms: BTreeSet<Zoom> = cells.iter().map(|(zoom, ..)| *zoom).collect();
    let area_of: BTreeMap<Zoom, i64> = zooms.iter().copied().zip(1..).collect();
    let columns = CellColumns::of(prepared, cells.iter().map(|(zoom, cell, folded)| (area_of[zoom], *cell, *folded)));
    let worlds: Vec<TileRect> = zooms.iter().copied().map(TileRect::all).collect();
    let areas = Areas::without_margin(layer, &worlds);
    let [extent, buffer] = [layer.margin().extent, layer.margin().buffer].map(u32::cast_signed);
    let mut params = areas.params();
    let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&buffer, Type::INT4)];
    params.extend(own);
    params.extend(columns.params());
    let mut encoded = EncodedCells::default();
    let each = |row: &Row| {
        let (zooms, codes): (Vec<i32>, Vec<i64>) = (row.get(0), row.get(1));
        let at: (Vec<Option<f64>>, Vec<Option<f64>>) = (row.get(2), row.get(3));
        let at = at.0.into_iter().zip(at.1).map(|(x, y)| Some([x?, y?]));
        let zooms = zooms.into_iter().filter_map(|zoom| Zoom::new(u8::try_from(zoom).ok()?));
        let cells = zooms.zip(codes).zip(at).map(|((zoom, code), drawn_at)| EncodedCell { zoom, code, drawn_at });
        encoded.cells.extend(cells);
        encoded.groups.push(row.get(4));
        Ok(())
    };
    let (first, last) = (zooms.first(), zooms.last());
    let [first, last] = [first, last].map(|zoom| zoom.map_or(0, |zoom| zoom.get()));
    let context = format!("layer \"{}\", encoding its cells of zooms {first} to {last}", layer.name());
    session.each(&context, statement, &params, each).await?;
    Ok(encoded)
}

/// Encoded cells in one list: their places, their numbers among the features or [`NOT_DRAWN`], and the features.
struct PlacedCells {
    at: Vec<[f64; 2]>,
    numbers: Vec<u32>,
    features: Features,
}

impl PlacedCells {
    /// No cell yet. `expected` and `most` bound their number and the bytes of their features.
    fn new(layer: &Layer, expected: usize, most: usize) -> PlacedCells {
        PlacedCells { at: Vec::new(), numbers: Vec::new(), features: Features::new(properties(layer), expected, most) }
    }

    fn bytes(&self) -> usize {
        self.features.size() + self.at.len() * Positions::SIZE
    }

    /// Lets the database encode cells, and adds them. In parts, because nobody knows how large the properties of lone
    /// rows are: once all take more than `memory` bytes, no others are encoded.
    async fn add_all(
        &mut self,
        readers: RowReaders<'_>,
        prepared: &PreparedLayer,
        grid: CellGrid,
        cells: &[ZoomCell<'_>],
        memory: usize,
    ) -> Result<Result<(), RowsRefused>, Error> {
        for part in cells.chunks(CELLS_PER_STATEMENT * readers.others.len().max(1)) {
            if self.bytes() + part.len() * Positions::SIZE > memory {
                return Ok(Err(RowsRefused::TooLarge));
            }
            let encoded = encode(readers, prepared, part).await?;
            if tokio::task::block_in_place(|| self.add(prepared.layer(), grid, part, encoded)).is_none() {
                return Ok(Err(RowsRefused::NotPlain));
            }
        }
        Ok(if self.bytes() > memory { Err(RowsRefused::TooLarge) } else { Ok(()) })
    }

    /// Adds encoded cells. `None` if they are not the cells that were asked for, or are not encoded as plain points.
    fn add(&mut self, layer: &Layer, grid: CellGrid, cells: &[ZoomCell<'_>], encoded: Vec<EncodedCells>) -> Option<()> {
        let (mut asked, mut next) = (cells.iter(), u32::try_from(self.features.len()).ok()?);
        for EncodedCells { cells, groups } in encoded {
            for EncodedCell { zoom, code, drawn_at } in cells {
                let (_, cell, _) = asked.next().filter(|(own, cell, _)| (*own, cell.code) == (zoom, code))?;
                // The plan counts the tiles of a cell that is not drawn, too.
                self.at.push(place(layer, grid, zoom, cell, drawn_at));
                self.numbers.push(if drawn_at.is_some() { next } else { NOT_DRAWN });
                next += u32::from(drawn_at.is_some());
            }
            // A group in which nothing is drawn has no layer.
            for group in groups.iter().filter(|group| !group.is_empty()) {
                self.features.add(group)?;
            }
        }
        (asked.next().is_none() && self.features.len() == next as usize).then_some(())
    }
}

/// Cells that the database encoded: the number of each among the features, or [`NOT_DRAWN`].
pub(crate) struct EncodedFeatures {
    pub(crate) numbers: Vec<u32>,
    pub(crate) features: Features,
}

/// Lets the database encode some cells. `None` if they take more than `memory` bytes, or are not encoded as plain
/// points.
pub(crate) async fn encode_features(
    readers: RowReaders<'_>,
    prepared: &PreparedLayer,
    cells: &[ZoomCell<'_>],
    memory: usize,
) -> Result<Option<EncodedFeatures>, Error> {
    let Some(grid) = prepared.layer().grid() else { return Ok(None) };
    let mut placed = PlacedCells::new(prepared.layer(), 0, 0);
    let added = placed.add_all(readers, prepared, grid, cells, memory).await?;
    let PlacedCells { numbers, features, .. } = placed;
    Ok(added.ok().map(|()| EncodedFeatures { numbers, features }))
}

fn properties(layer: &Layer) -> Vec<String> {
    layer.fields().map(|(name, _)| name.to_owned()).collect()
}

// Encoded cells that are kept while rows come and go.

/// The encoded cells of a layer that tiles have shown so far. A cell is encoded again once its members or their values
/// have changed.
#[derive(Debug, Default)]
pub(crate) struct KeptCellFeatures {
    zooms: BTreeMap<Zoom, CellsByCode>,
    /// The features of all cells, and of cells as they were before.
    features: Arc<Features>,
    count: usize,
    /// The memory of their folded values, in bytes.
    folded: usize,
}

type CellsByCode = HashMap<i64, KeptCell, BuildHasherDefault<CodeHasher>>;

#[derive(Debug)]
struct KeptCell {
    counted: CountedCell,
    folded: Box<[Folded]>,
    at: [f64; 2],
    /// Its number among the features, or [`NOT_DRAWN`].
    number: u32,
}

/// Features of cells as they were before are removed once they are as many as those of kept cells, and more than this.
const MIN_STALE_FEATURES: usize = 50_000;

impl KeptCellFeatures {
    /// The memory that a cell is expected to take, in bytes.
    pub(crate) const BYTES_PER_CELL: usize = 300;

    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        // A map, and what grows, has room for twice its entries at most.
        2 * self.features.size() + 2 * self.count * size_of::<(i64, KeptCell)>() + self.folded
    }

    /// Forgets the cells in which rows that came or went are alone: another row may have their place, or the same row
    /// other properties.
    pub(crate) fn forget_lone(&mut self, grid: CellGrid, positions: impl Iterator<Item = [f64; 2]>) {
        for at in positions {
            for (zoom, cells) in &mut self.zooms {
                let code = grid.cell(*zoom, at).code();
                let is_alone = cells.get(&code).is_some_and(|kept| kept.counted.members == 1);
                if let Some(kept) = is_alone.then(|| cells.remove(&code)).flatten() {
                    self.count -= 1;
                    self.folded -= size_of_val(&*kept.folded);
                }
            }
        }
    }

    /// The counted cells of a layer that are shown, as rows; those that are not kept are encoded. `None` if they take
    /// more than `memory` bytes or are not encoded as plain points; the cells must not be used after that.
    pub(crate) async fn rows(
        &mut self,
        readers: RowReaders<'_>,
        prepared: &PreparedLayer,
        is_shown: impl Fn(Zoom, &CountedCell) -> bool,
        memory: usize,
    ) -> Result<Option<CachedRows>, Error> {
        let layer = prepared.layer();
        let (Some(counts), Some(grid)) = (prepared.counts(), layer.grid()) else { return Ok(None) };
        if self.bytes() > memory {
            *self = KeptCellFeatures::default();
        }
        let of_zoom = |zoom: Zoom| counts.all(zoom).map(move |(cell, folded)| (zoom, cell, folded));
        let shown: Vec<ZoomCell<'_>> =
            counts.zooms().flat_map(of_zoom).filter(|(zoom, cell, _)| is_shown(*zoom, cell)).collect();
        let missing: Vec<ZoomCell<'_>> = shown.iter().copied().filter(|cell| !self.has(cell)).collect();
        let room = memory.saturating_sub(self.bytes() + missing.len() * size_of::<KeptCell>());
        let mut placed = PlacedCells::new(layer, 0, 0);
        let added = placed.add_all(readers, prepared, grid, &missing, room).await?;
        if let Err(why) = added.and_then(|()| self.add(&missing, placed).ok_or(RowsRefused::TooLarge)) {
            tracing::info!("layer \"{}\": its cells are not kept: {}", layer.name(), why.text());
            return Ok(None);
        }
        tracing::debug!(
            "layer \"{}\": {} cells encoded, {} kept, in {} bytes",
            layer.name(),
            missing.len(),
            self.count,
            self.bytes()
        );
        let mut zooms = BTreeMap::new();
        for zoom in counts.zooms() {
            let kept = self.zooms.get(&zoom);
            let cells = shown.iter().filter(|(own, ..)| *own == zoom);
            let cells = cells.filter_map(|(_, cell, _)| kept?.get(&cell.code));
            let (at, numbers): (Vec<[f64; 2]>, Vec<u32>) = cells.map(|kept| (kept.at, kept.number)).unzip();
            let positions = Arc::new(Positions::new(at, Frame::WorldUnits));
            let features = RowFeatures::Memory(Arc::clone(&self.features));
            zooms.insert(zoom, EncodedRows { positions, features, numbers: Some(numbers), ..EncodedRows::default() });
        }
        Ok(Some(CachedRows { rows: RowStore::Cells(zooms), sessions: 1, near: None }))
    }

    /// True if a cell is kept as it is now.
    fn has(&self, cell: &ZoomCell<'_>) -> bool {
        let (zoom, cell, folded) = cell;
        let kept = self.zooms.get(zoom).and_then(|cells| cells.get(&cell.code));
        kept.is_some_and(|kept| kept.counted == **cell && *kept.folded == **folded)
    }

    /// Adds encoded cells. `None` if all take more than 4 GB.
    fn add(&mut self, cells: &[ZoomCell<'_>], placed: PlacedCells) -> Option<()> {
        let (before, features) = (u32::try_from(self.features.len()).ok()?, Arc::make_mut(&mut self.features));
        if features.is_empty() {
            *features = placed.features;
        } else {
            features.append(&placed.features)?;
        }
        for ((zoom, cell, folded), (at, number)) in cells.iter().zip(placed.at.into_iter().zip(placed.numbers)) {
            let number = if number == NOT_DRAWN { NOT_DRAWN } else { before + number };
            let kept = KeptCell { counted: **cell, folded: (*folded).into(), at, number };
            self.folded += size_of_val(*folded);
            match self.zooms.entry(*zoom).or_default().insert(cell.code, kept) {
                Some(before) => self.folded -= size_of_val(&*before.folded),
                None => self.count += 1,
            }
        }
        if self.features.len() > 2 * self.count + MIN_STALE_FEATURES { self.remove_stale() } else { Some(()) }
    }

    /// Removes the features of cells as they were before.
    fn remove_stale(&mut self) -> Option<()> {
        let mut features = Features::new(self.features.layer().1.to_vec(), self.count, 0);
        for kept in self.zooms.values_mut().flat_map(HashMap::values_mut).filter(|kept| kept.number != NOT_DRAWN) {
            let number = u32::try_from(features.len()).ok()?;
            features.push(&self.features, kept.number)?;
            kept.number = number;
        }
        self.features = Arc::new(features);
        Some(())
    }
}
