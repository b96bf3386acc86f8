//! The tables behind a layer, for its `[[layer.track]]`: where a changed row of each table can be seen.

use super::text::{comment, string, value};
use crate::postgis::{DiscoveredRelation, GeometryColumn, SpatialKind, TableLink, ViewRead, quoted};

/// A geometry of a table as SQL, in the reference system of the layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShownPlace {
    /// The SRID of the layer's geometries, if it is known.
    pub(super) srid: Option<i32>,
}

impl ShownPlace {
    /// The geometry in `column` of the row `row`, as SQL.
    pub(super) fn of(self, row: &str, column: &str, is_geography: bool, srid: i32) -> String {
        let place = format!("{row}.{}{}", quoted(column), if is_geography { "::geometry" } else { "" });
        match self.srid.filter(|shown| *shown != srid) {
            None => place,
            Some(shown) if srid == 0 => format!("ST_SetSRID({place}, {shown})"),
            Some(shown) => format!("ST_Transform({place}, {shown})"),
        }
    }
}

/// The section of one table.
fn section(schema: &str, table: &str, geometry: &str) -> String {
    let (table, schema, geometry) = (value(table), value(schema), string(geometry));
    format!("[[layer.track]]\ntable = {table}\nschema = {schema}\ngeometry = {geometry}\n")
}

/// The section for a layer that draws a table through a query.
pub(super) fn own_track(found: &DiscoveredRelation, geometry: &GeometryColumn, place: &str) -> String {
    if !matches!(found.relation.kind, SpatialKind::Table | SpatialKind::PartitionedTable) {
        return String::new();
    }
    let sql = format!(
        "SELECT {}",
        place.replace(&format!("drawn.{}", quoted(&geometry.column)), &format!("changed.{}", quoted(&geometry.column)))
    );
    section(&found.relation.schema, &found.relation.name, &sql)
}

/// The sections of a layer that draws a view, and comments on tables whose changes cannot be followed.
pub(super) fn view_tracks(found: &DiscoveredRelation, geometry: &GeometryColumn) -> String {
    let shown = ShownPlace {
        srid: match (geometry.srid, &geometry.rows) {
            (0, Ok(rows)) => rows.srids.first().copied(),
            (0, Err(_)) => None,
            (srid, _) => Some(srid),
        },
    };
    let mut text = String::new();
    for read in &found.reads {
        let name = format!("{}.{}", read.schema, read.name);
        match read.kind {
            SpatialKind::MaterializedView => {
                text.push_str(&comment(&format!("The layer reads {name}, a materialized view, whose changes no trigger notes: seed after each REFRESH.")));
                continue;
            }
            SpatialKind::ForeignTable => {
                text.push_str(&comment(&format!(
                    "The layer reads {name}, a foreign table, whose changes no trigger notes: seed after it changes."
                )));
                continue;
            }
            SpatialKind::Table | SpatialKind::PartitionedTable | SpatialKind::View => {}
        }
        match seen_at(read, &found.reads, &geometry.column, shown) {
            Some(sql) => text.push_str(&section(&read.schema, &read.name, &sql)),
            None => text.push_str(&comment(&format!(
                "The layer reads {name}, too. Say where a changed row of it is seen, as an SQL query over the row \"changed\", in a [[layer.track]] with table = {} and geometry.",
                value(&name)
            ))),
        }
    }
    text
}

/// Where a changed row of a table can be seen: at its own geometry, or at the geometry of the rows to which a foreign key connects it.
fn seen_at(read: &ViewRead, all: &[ViewRead], column: &str, shown: ShownPlace) -> Option<String> {
    let place = |of: &ViewRead, row: &str| {
        let same = of.geometries.iter().find(|geometry| geometry.column == column);
        let geometry = same.or(of.geometries.first())?;
        Some(shown.of(row, &geometry.column, geometry.is_geography, geometry.srid))
    };
    if let Some(own) = place(read, "changed") {
        return Some(format!("SELECT {own}"));
    }
    let is_to = |link: &&TableLink, to: &ViewRead| link.to_schema == to.schema && link.to_name == to.name;
    for other in all.iter().filter(|other| !other.geometries.is_empty()) {
        // The table references the one with the geometry, or is referenced by it.
        let out = read
            .links
            .iter()
            .find(|link| is_to(link, other))
            .map(|link| link.pairs.iter().map(|pair| (pair.other.clone(), pair.own.clone())).collect::<Vec<_>>());
        let back =
            || {
                other.links.iter().find(|link| is_to(link, read)).map(|link| {
                    link.pairs.iter().map(|pair| (pair.own.clone(), pair.other.clone())).collect::<Vec<_>>()
                })
            };
        let Some(pairs) = out.or_else(back) else { continue };
        let condition =
            pairs.iter().map(|(placed, changed)| format!("placed.{} = changed.{}", quoted(placed), quoted(changed)));
        return Some(format!(
            "SELECT {} FROM {}.{} AS placed WHERE {}",
            place(other, "placed")?,
            quoted(&other.schema),
            quoted(&other.name),
            condition.collect::<Vec<_>>().join(" AND ")
        ));
    }
    None
}
