//! Where changes lie.

use tokio_postgres::Row;

use super::rows::{box_footprint, position};
use crate::postgis::layer::{Layer, Shape, explained};
use crate::postgis::session::{Error, Snapshot, quoted};
use crate::postgis::sql;
use crate::tile::Spot;

/// Where the geometries of another relation lie, as the layer places its own: those of its rows, then and now, or any others. The relation is an item of a FROM list, the geometries are in the layer's reference system, of any kind.
///
/// # Errors
/// If the database cannot be asked, or a stop was asked for.
pub async fn changed_positions(
    snapshot: &Snapshot,
    layer: &Layer,
    place: &str,
    relation: &str,
    geometry: &str,
    are_rows: bool,
    mut each: impl FnMut(Spot),
) -> Result<(), Error> {
    let shape = Shape { points: false, geography: false, ..layer.shape };
    let (relation, geometry) = (relation.to_owned(), quoted(geometry));
    // What is no row of the layer may lie in many cells.
    let cells = layer.cells.clone().filter(|_| are_rows);
    // Rows beyond the edge may have been deleted since.
    let (query, filter, reaches_beyond) = (None, None, true);
    let over = Layer { relation, query, geometry, shape, filter, cells, reaches_beyond, ..layer.clone() };
    let each = |row: &Row| {
        if over.cells.is_some() {
            if let Some(at) = position(row) {
                each(Spot::Point(at));
            }
        } else if let Some(footprint) = box_footprint(row) {
            each(Spot::Box(footprint.world));
        }
        Ok(())
    };
    snapshot.keeper.each(place, &sql::survey(&over, None, 0), &[], each).await.map_err(|error| explained(error, layer))
}
