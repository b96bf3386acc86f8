//! The positions of geometries that are not in the layer's own relation, such as those of the change log.

use tokio_postgres::Row;

use super::rows::{box_footprint, position};
use crate::postgis::layer::{Layer, Placement, Shape, explain};
use crate::postgis::session::{Error, Snapshot, quoted};
use crate::postgis::sql;
use crate::tile::Spot;

/// Geometries of any kind, in the reference system of a layer's column.
#[derive(Debug, Clone, Copy)]
pub struct ChangedGeometries<'a> {
    /// The relation: an item of a FROM list.
    pub relation: &'a str,
    /// Its geometry column, not quoted.
    pub column: &'a str,
    /// Whether these are geometries of the layer's rows, old or new. Each of these lies in one cell if the layer is gathered in cells; another
    /// geometry may lie in many.
    pub are_rows: bool,
}

/// Calls `each` with the positions of geometries, computed as the survey computes those of the layer's own rows. `context` says what the run
/// does, for messages.
///
/// # Errors
/// If the database fails, or a stop was asked for.
pub async fn changed_positions(
    snapshot: &Snapshot,
    layer: &Layer,
    context: &str,
    geometries: ChangedGeometries<'_>,
    mut each: impl FnMut(Spot),
) -> Result<(), Error> {
    let column = quoted(geometries.column);
    let placement = Placement {
        column: &column,
        shape: Shape { points: false, geography: false, ..layer.shape },
        grid: layer.grid().filter(|_| geometries.are_rows),
        // A row beyond ±180° may have been deleted since.
        reaches_beyond: true,
        srid_varies: false,
        ..layer.placement()
    };
    let each = |row: &Row| {
        if placement.is_gathered() {
            if let Some(at) = position(row) {
                each(Spot::Point(at));
            }
        } else if let Some(footprint) = box_footprint(row) {
            each(Spot::Box(footprint.world));
        }
        Ok(())
    };
    let statement = sql::positions(placement, geometries.relation);
    snapshot.keeper.each(context, &statement, &[], each).await.map_err(|error| explain(error, layer))
}
