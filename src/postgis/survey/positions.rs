//! The positions of geometries that are not in the layer's own relation, such as those of the change log.

use tokio_postgres::Row;

use super::outline::outline;
use super::rows::{box_footprint, position};
use crate::postgis::layer::{EdgeUnits, Layer, Placement, Shape, explain};
use crate::postgis::session::{Error, Snapshot, quoted};
use crate::postgis::sql;
use crate::tile::Spot;

/// Geometries of any kind, each in any reference system.
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
/// A column that declares no reference system may have held rows of another one, and an emptied one tells none at all. So each geometry is
/// placed in the system that it has itself, as it was when it was drawn; one with SRID 0 is taken to be in the layer's.
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
    let own = Shape { points: false, geography: false, ..layer.shape };
    in_one_system(snapshot, layer, context, geometries, own, &mut each).await?;
    let systems = sql::other_systems(geometries.relation, &quoted(geometries.column), own.srid);
    let systems = snapshot.all(context, &systems, &[]).await.map_err(|error| explain(error, layer))?;
    for srid in systems.iter().map(|row| row.get(0)) {
        let edge = EdgeUnits::of(&snapshot.keeper, context, srid).await?;
        let other = Shape { edge, ..Shape::of_any(srid, false) };
        in_one_system(snapshot, layer, context, geometries, other, &mut each).await?;
    }
    Ok(())
}

/// The positions of those geometries that are in the reference system of `shape`, and, if that is the layer's own, of those without one.
async fn in_one_system(
    snapshot: &Snapshot,
    layer: &Layer,
    context: &str,
    geometries: ChangedGeometries<'_>,
    shape: Shape,
    each: &mut impl FnMut(Spot),
) -> Result<(), Error> {
    let column = quoted(geometries.column);
    let placement = Placement {
        column: &column,
        shape,
        grid: layer.grid().filter(|_| geometries.are_rows),
        // A row beyond ±180° may have been deleted since.
        reaches_beyond: true,
        srid_varies: false,
        ..layer.placement()
    };
    // The geometry of a declared query stands for whatever lies in its box.
    let outlined = (geometries.are_rows && layer.lists_tiles()).then(|| layer.zooms.max());
    let each = |row: &Row| {
        if placement.is_gathered() {
            if let Some(at) = position(row) {
                each(Spot::Point(at));
            }
        } else if let Some(footprint) = box_footprint(row) {
            let wkb = outlined.and_then(|_| row.get::<_, Option<&[u8]>>(6));
            each(match wkb.and_then(outline) {
                Some((outline, _)) => Spot::Shape { world: footprint.world, outline },
                None => Spot::Box(footprint.world),
            });
        }
        Ok(())
    };
    let relation = sql::of_one_system(geometries.relation, &column, shape.srid, shape.srid == layer.shape.srid);
    let statement = sql::positions(placement, &relation, outlined);
    snapshot.keeper.each(context, &statement, &[], each).await.map_err(|error| explain(error, layer))
}
