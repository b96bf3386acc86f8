//! The positions of geometries that are not in the layer's own relation, such as those of the change log.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::outline::{Covers, outline};
use super::{box_footprint, position};
use crate::postgis::layer::{EdgeUnits, Layer, Placement, Shape, explain};
use crate::postgis::session::{Error, Snapshot, quoted};
use crate::postgis::sql;
use crate::tile::{ChangeLocation, HALF_WORLD_METRES, WorldBox, Zoom, latitude};

/// Geometries of any kind, each in any reference system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChangedGeometries<'a> {
    /// The relation: an item of a FROM list.
    pub relation: &'a str,
    /// Its geometry column, not quoted.
    pub column: &'a str,
    /// True if these are old or new geometries of the layer's rows. In a layer of cells, such a geometry lies in one
    /// cell; any other geometry may lie in many.
    pub(crate) are_rows: bool,
}

/// Calls `each` with the positions of geometries, computed like the positions of the layer's own rows in the survey.
/// `context` says in messages what the run does.
///
/// A column that declares no reference system may have held rows in another system, and an emptied column shows no
/// system at all. So each geometry is placed in its own system, as when it was drawn. A geometry with SRID 0 counts as
/// one in the layer's system.
pub(crate) async fn changed_positions(
    snapshot: &Snapshot,
    layer: &Layer,
    context: &str,
    geometries: ChangedGeometries<'_>,
    mut each: impl FnMut(ChangeLocation),
) -> Result<(), Error> {
    let edge = if layer.repairs() { layer.placement().repair_units() } else { layer.shape.edge };
    let own = Shape { points: false, geography: false, edge, ..layer.shape };
    in_one_system(snapshot, layer, context, geometries, own, &mut each).await?;
    let column = quoted(geometries.column);
    let systems = sql::other_systems(geometries.relation, &column, own.srid);
    for srid in srids(snapshot, layer, context, &systems).await? {
        let edge = EdgeUnits::of(&snapshot.keeper, context, srid).await?;
        let other = Shape { edge, ..Shape::of_any(srid, false) };
        in_one_system(snapshot, layer, context, geometries, other, &mut each).await?;
    }
    if !geometries.are_rows {
        return Ok(());
    }
    let mut systems = srids(snapshot, layer, context, &sql::systems_of_covers(geometries.relation, &column)).await?;
    systems.iter_mut().filter(|srid| **srid == 0).for_each(|srid| *srid = own.srid);
    for srid in BTreeSet::from_iter(systems) {
        let edge = EdgeUnits::of(&snapshot.keeper, context, srid).await?;
        let placement = Placement {
            shape: Shape { edge, ..Shape::of_any(srid, false) },
            ..placement_of_changes(layer, geometries, &column)
        };
        let covers =
            Covers { relation: geometries.relation, column: &column, placement, with_unknown: srid == own.srid };
        covers.places(snapshot, layer, context, &mut each).await?;
        let beyond = sql::boxes_beyond(placement, geometries.relation, &column, srid == own.srid);
        // In a layer of cells, the middle of this box may not be the middle of the geometry, so the whole box counts.
        let boxes = Placement { column: "box", grid: None, repair: false, ..placement };
        read(snapshot, layer, context, boxes, &beyond, Some(layer.zooms.max()), &mut each).await?;
    }
    Ok(())
}

async fn srids(snapshot: &Snapshot, layer: &Layer, context: &str, statement: &str) -> Result<Vec<i32>, Error> {
    let rows = snapshot.all(context, statement, &[]).await.map_err(|error| explain(error, layer))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn placement_of_changes<'a>(layer: &'a Layer, geometries: ChangedGeometries<'_>, column: &'a str) -> Placement<'a> {
    Placement {
        column,
        grid: layer.grid().filter(|_| geometries.are_rows),
        // A row beyond ±180° may have been deleted since.
        reaches_beyond: true,
        srid_varies: false,
        // The log holds rows as they are stored. A declared query says where its changes are seen.
        repair: layer.repairs() && geometries.are_rows,
        ..layer.placement()
    }
}

/// Reads the positions of the geometries in the reference system of `shape`; if that is the layer's own, also of
/// geometries without a system. Covers in other systems than EPSG:4326 and 3857 are left out.
async fn in_one_system(
    snapshot: &Snapshot,
    layer: &Layer,
    context: &str,
    geometries: ChangedGeometries<'_>,
    shape: Shape,
    each: &mut impl FnMut(ChangeLocation),
) -> Result<(), Error> {
    let column = quoted(geometries.column);
    let placement = Placement { shape, ..placement_of_changes(layer, geometries, &column) };
    // The geometry of a declared query stands for everything in its box.
    let outlined = (geometries.are_rows && layer.lists_tiles()).then(|| layer.zooms.max());
    let own = if geometries.are_rows {
        sql::without_covers(geometries.relation, &column, outlined.is_some())
    } else {
        geometries.relation.to_owned()
    };
    let mut relation =
        sql::of_one_system(&own, &column, shape.srid, shape.srid == layer.shape.srid, outlined.is_some());
    if layer.repairs() {
        relation = sql::with_bands(placement, &relation, &column, outlined.map(|_| sql::FAR));
    }
    read(snapshot, layer, context, placement, &relation, outlined, each).await
}

/// Reads the positions of the geometries of a relation. `outlined` is the deepest zoom. If it is given, lines and
/// polygons are distinguished from their boxes if the layer is planned by outlines, and the relation has the column
/// that says how far beyond the geometries the positions reach.
async fn read(
    snapshot: &Snapshot,
    layer: &Layer,
    context: &str,
    placement: Placement<'_>,
    relation: &str,
    outlined: Option<Zoom>,
    each: &mut impl FnMut(ChangeLocation),
) -> Result<(), Error> {
    let is_in_degrees = placement.shape.srid == 4326 || placement.shape.edge == Some(EdgeUnits::Degrees);
    let each = |row: &Row| {
        if placement.is_gathered() {
            if let Some(at) = position(row) {
                each(ChangeLocation::Point(at));
            }
        } else if let Some(footprint) = box_footprint(row) {
            let far = outlined.and_then(|_| row.get::<_, Option<f64>>(7)).unwrap_or_default();
            let wkb = outlined.filter(|_| layer.lists_tiles()).and_then(|_| row.get::<_, Option<&[u8]>>(6));
            each(match wkb.and_then(outline) {
                Some((mut outline, _)) => {
                    outline.has_interior = true;
                    reaching(ChangeLocation::Shape { world: footprint.world, outline }, far, is_in_degrees)
                }
                None => reaching(ChangeLocation::Box(footprint.world), far, is_in_degrees),
            });
        }
        Ok(())
    };
    let statement = sql::positions(placement, relation, outlined);
    snapshot.keeper.each(context, &statement, &[], each).await.map_err(|error| explain(error, layer))
}

/// Expands a place by up to `far` metres of EPSG:3857, or degrees. The place lies within ±85 degrees.
fn reaching(place: ChangeLocation, far: f64, is_in_degrees: bool) -> ChangeLocation {
    if far <= 0.0 {
        return place;
    }
    let WorldBox { west, north, east, south } = place.world();
    let share = if is_in_degrees {
        // In Mercator, a degree is longer the farther it lies from the equator.
        let most = latitude(north.into()).abs().max(latitude(south.into()).abs()) + far;
        far / 360.0 / most.min(85.06).to_radians().cos()
    } else {
        far / (2.0 * HALF_WORLD_METRES)
    };
    // One more unit for the rounding of the box.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the width of the world")]
    let units = (share.min(1.0) * f64::from(u32::MAX)).ceil() as u32 + 1;
    let (less, more) = (|end: u32| end.saturating_sub(units), |end: u32| end.saturating_add(units));
    let world = WorldBox { west: less(west), north: less(north), east: more(east), south: more(south) };
    match place {
        ChangeLocation::Shape { mut outline, .. } => {
            outline.blur = share;
            ChangeLocation::Shape { world, outline }
        }
        ChangeLocation::Box(_) | ChangeLocation::Point(_) => ChangeLocation::Box(world),
    }
}
