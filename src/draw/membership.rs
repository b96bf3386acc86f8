//! Finds the variants of a tileset that have rows in some boxes.

use std::collections::BTreeSet;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::family::FamilyCondition;
use crate::postgis::layer::{Layer, ROUNDING_UNITS, shifted_boxes, world_box};
use crate::postgis::session::{Error, Param, Snapshot, quoted};
use crate::postgis::sql;
use crate::tile::{WorldBox, WorldRect};

/// The most boxes of one statement.
pub(crate) const MAX_PLACES: usize = 1_000;

/// The rows of a layer in some boxes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacedRows<'a> {
    /// The layer, without the condition of variants.
    pub layer: &'a Layer,
    /// The name that the condition may use for a row: the name of the table, or of the layer if its rows come from a
    /// query.
    pub name: &'a str,
    /// Boxes in world units, at most [`MAX_PLACES`].
    pub places: &'a [WorldBox],
}

/// The numbers, counted from 0, of the variants that have rows in some boxes; variants without such rows may be among
/// them. `None` if the statement fails: then nothing is known about the variants.
pub(crate) async fn members_at(
    snapshot: &Snapshot,
    rows: PlacedRows<'_>,
    condition: FamilyCondition<'_>,
) -> Result<Option<BTreeSet<usize>>, Error> {
    let PlacedRows { layer, name, places } = rows;
    let table = condition.table;
    let context = format!("layer \"{}\", reading to which variants changed rows belong", layer.name);
    let kinds: Vec<String> = table.parameters.iter().map(|parameter| parameter.kind.clone()).collect();
    let statement = sql::members_near(layer, &quoted(name), &condition.joined(layer)?, &kinds);
    let boxes = boxes_of(layer, places);
    let columns: Vec<Vec<&str>> =
        (0..kinds.len()).map(|n| table.rows.iter().map(|row| row[n].as_str()).collect()).collect();
    let boxes = boxes.iter().map(|column| -> Param<'_> { (column, Type::FLOAT8_ARRAY) });
    let params: Vec<Param<'_>> =
        boxes.chain(columns.iter().map(|column| -> Param<'_> { (column, Type::TEXT_ARRAY) })).collect();
    let mut members = BTreeSet::new();
    let each = |row: &Row| {
        members.extend(usize::try_from(row.get::<_, i64>(0) - 1));
        Ok(())
    };
    snapshot.keeper.set_savepoint().await?;
    let read = snapshot.keeper.each(&context, &statement, &params, each).await;
    let read = snapshot.keeper.or_without(read, &layer.name, "each variant is looked at by itself").await?;
    Ok(read.map(|()| members))
}

/// The sides of the boxes in the reference system of the layer's column: west, south, east, north.
fn boxes_of(layer: &Layer, places: &[WorldBox]) -> [Vec<f64>; 4] {
    let mut columns: [Vec<f64>; 4] = Default::default();
    for place in places {
        let mut rect = WorldRect::from(*place);
        if place.crosses_antimeridian() {
            (rect.west, rect.east) = (0, i64::from(u32::MAX));
        }
        // One unit more, because positions are rounded down to whole units.
        let own = world_box(layer, rect.grown(ROUNDING_UNITS + 1));
        for source in std::iter::once(own).chain(shifted_boxes(layer, own)) {
            columns.iter_mut().zip(source.sides()).for_each(|(column, side)| column.push(side));
        }
    }
    columns
}
