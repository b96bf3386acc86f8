//! Finds lines and polygons that jump from one side of ±180° to the other. They come from files in which shapes that cross ±180° were never cut
//! there, such as many `TopoJSON` and GeoJSON files. The database takes such a shape as valid, and it is drawn as a band across the map.

use crate::postgis::layer::{EdgeUnits, Layer, PlaceholderSql, QueryValues};
use crate::postgis::session::{Error, Param, Session, Snapshot};
use crate::postgis::sql;
use crate::tile::{Coverage, Zoom};

/// Rows of a layer with lines or rings that jump across ±180°.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JumpingRows {
    /// How many there are.
    pub count: u64,
    /// The advice how to repair them, with SQL.
    pub remedy: String,
    /// The keys of up to three of them.
    examples: Vec<String>,
}

impl JumpingRows {
    /// Finds these rows at the layer's shallowest zoom; `None` if there are none. The spatial index serves the query: rows that lie on one side only
    /// are not visited. Every vertex of the other rows is read, so runs that must be quick skip this check.
    pub(in crate::postgis) async fn of(session: &Session, layer: &Layer) -> Result<Option<JumpingRows>, Error> {
        let is_asked = !layer.shape.points && layer.function().is_none();
        let units = if layer.shape.geography { Some(EdgeUnits::Degrees) } else { layer.shape.edge };
        let Some(units) = units.filter(|_| is_asked) else { return Ok(None) };
        let zooms: Vec<Zoom> = layer.zooms.iter().take(1).collect();
        let values = QueryValues::of_coverage(layer, &Coverage::new(&[]), &zooms);
        let params: Vec<Param<'_>> = values.params(layer).collect();
        let relation = layer.rows(&PlaceholderSql::parameters(1, layer.shape.srid));
        let context = format!("layer \"{}\", looking for rows that jump across ±180°", layer.name);
        let rows = session.all(&context, &sql::rows_that_jump(layer, units, &relation), &params).await?;
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(0)).unsigned_abs();
        let Some(row) = rows.first().filter(|_| count > 0) else { return Ok(None) };
        let (table, column) = (&layer.relation, &layer.geometry);
        let with = "docs/world-edge.md (\"Shapes that jump across ±180°\")";
        let (degrees, unwrapped) = match units {
            EdgeUnits::Degrees if layer.shape.geography => {
                (format!("{column}::geometry"), format!("unwrapped({column}::geometry)::geography"))
            }
            EdgeUnits::Degrees => (column.clone(), format!("unwrapped({column})")),
            EdgeUnits::Metres => {
                let degrees = format!("ST_Transform({column}, 4326)");
                let unwrapped = format!("ST_Transform(unwrapped({degrees}), {})", layer.shape.srid);
                (degrees, unwrapped)
            }
        };
        let remedy = if layer.is_query() {
            format!("write {unwrapped} in the query, with the function unwrapped of {with}")
        } else {
            format!(
                "UPDATE {table} SET {column} = {unwrapped} WHERE jumps({degrees}); with the functions unwrapped and jumps of {with}"
            )
        };
        Ok(Some(JumpingRows { count, remedy, examples: row.get::<_, Option<Vec<String>>>(1).unwrap_or_default() }))
    }

    /// Describes what is wrong with the rows.
    #[must_use]
    pub fn problem(&self) -> String {
        let (rows, they) = if self.count == 1 {
            ("1 row has".to_owned(), "it is")
        } else {
            (format!("{} rows have", self.count), "they are")
        };
        let more = if self.count > self.examples.len() as u64 { ", …" } else { "" };
        format!(
            "{rows} lines or rings that jump from one side of ±180° to the other: {they} drawn as bands across the map: {}{more}",
            self.examples.join(", ")
        )
    }

    /// Describes what is wrong with the rows, and how to repair them.
    #[must_use]
    pub fn advice(&self) -> String {
        let them = if self.count == 1 { "it" } else { "them" };
        format!("{}. Mend {them}: {}", self.problem(), self.remedy)
    }
}

/// The rows of a layer that jump across ±180°, in a run's snapshot.
///
/// # Errors
/// If the database is lost, or the layer's own condition or query fails.
pub async fn jumping_rows(snapshot: &Snapshot, layer: &Layer) -> Result<Option<JumpingRows>, Error> {
    JumpingRows::of(&snapshot.keeper, layer).await
}
