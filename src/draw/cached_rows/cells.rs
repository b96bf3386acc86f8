//! Counted cells as rows: the database encodes each cell of a zoom once, and the tiles of this zoom are drawn from that.
//! A cell differs from tile to tile only by its place, as a row does.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{CachedRows, EncodedRows, NOT_DRAWN, RowReaders, RowStore, RowsRefused};
use crate::cells::{Cell, CellGeometry, CellGrid, CountedCell, Folded, MIDDLE};
use crate::draw::PreparedLayer;
use crate::draw::areas::Areas;
use crate::draw::cells::CellColumns;
use crate::mvt::Features;
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql;
use crate::tile::{Frame, Positions, TileRect, Zoom};

/// The most cells that one statement encodes.
const CELLS_PER_STATEMENT: usize = 8192;

/// Cells that one statement encoded: whether each is drawn, and the features of those that are, in groups.
#[derive(Default)]
struct EncodedCells {
    drawn: Vec<bool>,
    groups: Vec<Vec<u8>>,
}

/// True if the layer's cells are drawn at one point each that the plan knows exactly.
pub(crate) fn has_cacheable_cells(prepared: &PreparedLayer) -> bool {
    let layer = prepared.layer();
    let is_point = layer.grid().is_some_and(|grid| grid.geometry != CellGeometry::Polygon);
    prepared.counts().is_some()
        && is_point
        && !layer.keeps_lone()
        && !layer.placement().plans_cell_boxes()
        && layer.has_plain_values()
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
            let cells: Vec<(&CountedCell, &[Folded])> = counts.all(zoom).collect();
            if bytes + cells.len() * Positions::SIZE > memory {
                break;
            }
            let encoded = encode(readers, prepared, zoom, &cells).await?;
            let positions = cells.iter().map(|(cell, _)| place(grid, zoom, cell)).collect();
            let Some(rows) = joined(prepared, positions, encoded, memory - bytes) else {
                tracing::info!(
                    "layer \"{}\": its cells are not cached: {}",
                    layer.name(),
                    RowsRefused::NotPlain.text()
                );
                return Ok(None);
            };
            bytes += rows.bytes();
            if bytes > memory {
                break;
            }
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

/// The place at which a cell is drawn, in world units. A middle beyond the edge of the world is drawn on the edge, as in
/// the statement.
fn place(grid: CellGrid, zoom: Zoom, cell: &CountedCell) -> [f64; 2] {
    match grid.geometry {
        CellGeometry::Center | CellGeometry::Polygon => {
            grid.middle(zoom, Cell::of(cell.code)).map(|unit| unit.clamp(0.0, 2.0 * MIDDLE))
        }
        // The middle of a unit, as in the statement.
        CellGeometry::Centroid => [cell.world.west, cell.world.north].map(|unit| f64::from(unit) + 0.5),
    }
}

/// Lets the sessions encode the cells of a zoom, in parallel.
async fn encode(
    readers: RowReaders<'_>,
    prepared: &PreparedLayer,
    zoom: Zoom,
    cells: &[(&CountedCell, &[Folded])],
) -> Result<Vec<EncodedCells>, Error> {
    let statement = sql::encoded_cells(prepared.layer(), prepared.folds());
    let parts: Vec<&[(&CountedCell, &[Folded])]> = cells.chunks(CELLS_PER_STATEMENT).collect();
    let keeper = [readers.keeper];
    let sessions = if parts.len() > 1 && !readers.others.is_empty() { readers.others } else { &keeper };
    let reading = sessions.iter().enumerate().map(async |(first, session)| {
        let mut own = Vec::new();
        for part in parts.iter().skip(first).step_by(sessions.len()) {
            own.push(encode_part(session, prepared, &statement, zoom, part).await?);
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
    zoom: Zoom,
    cells: &[(&CountedCell, &[Folded])],
) -> Result<EncodedCells, Error> {
    let layer = prepared.layer();
    let columns = CellColumns::of(prepared, cells.iter().copied());
    let areas = Areas::without_margin(layer, &[TileRect::all(zoom)]);
    let [extent, buffer] = [layer.margin().extent, layer.margin().buffer].map(u32::cast_signed);
    let mut params = areas.params();
    let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&buffer, Type::INT4)];
    params.extend(own);
    params.extend(columns.params());
    let mut encoded = EncodedCells::default();
    let each = |row: &Row| {
        encoded.drawn.extend(row.get::<_, Vec<bool>>(0));
        encoded.groups.push(row.get(1));
        Ok(())
    };
    let context = format!("layer \"{}\", encoding its cells of zoom {zoom}", layer.name());
    session.each(&context, statement, &params, each).await?;
    Ok(encoded)
}

/// The cells of a zoom as rows; `None` if they are not encoded as plain points.
fn joined(
    prepared: &PreparedLayer,
    positions: Vec<[f64; 2]>,
    encoded: Vec<EncodedCells>,
    most: usize,
) -> Option<EncodedRows> {
    let properties = prepared.layer().fields().map(|(name, _)| name.to_owned()).collect();
    let mut features = Features::new(properties, positions.len(), most);
    let (mut numbers, mut next) = (Vec::with_capacity(positions.len()), 0);
    for EncodedCells { drawn, groups } in encoded {
        for is_drawn in drawn {
            numbers.push(if is_drawn { next } else { NOT_DRAWN });
            next += u32::from(is_drawn);
        }
        // A group in which nothing is drawn has no layer.
        for group in groups.iter().filter(|group| !group.is_empty()) {
            features.add(group)?;
        }
    }
    (numbers.len() == positions.len() && features.len() == next as usize).then(|| EncodedRows {
        positions: Arc::new(Positions::new(positions, Frame::WorldUnits)),
        features: Arc::new(features),
        numbers: (next as usize != numbers.len()).then_some(numbers),
        ..EncodedRows::default()
    })
}
