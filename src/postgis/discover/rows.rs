//! Examines what only the rows of a relation show. If they cannot be read, the result is the text of the database's
//! error.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::catalog::{CatalogColumn, SpatialKind, SpatialRelation, ViewRead};
use super::spread::{Sampled, ShapeSpread, WorldShare};
use crate::postgis::session::{Error, Param, Session, quoted};
use crate::tile::{LonLatBox, SourceBox};

/// The size of a table in bytes beyond which only a part of its pages is read.
const MAX_BYTES_READ_WHOLE: u64 = 256_000_000;

/// The number of bytes that are read of a larger table.
const SAMPLE_BYTES: u64 = 32_000_000;

/// The most columns that are checked for whether they identify the rows.
const MAX_KEY_CANDIDATES: usize = 8;

/// The number of rows that are read to find out which of many columns have values.
const ROWS_FOR_FILLED_COLUMNS: u32 = 20_000;

/// The number of points from which on a polygon is checked wherever it is in its table.
const MANY_POINTS: u32 = 500;

/// The most polygons whose validity is checked among those with many points, and again among those of any size.
const MAX_VALIDATED: u32 = 2_000;

/// The number of columns beyond which the rows with a value in each column are counted. OpenStreetMap's tables have a
/// column for each of 60 tags.
const MANY_COLUMNS: usize = 20;

/// The number of an object in OpenStreetMap, as osm2pgsql names it. A long way, and a relation with several outer
/// rings, has a row for each of its parts. So the number identifies points, but lines and polygons only until the next
/// update.
pub(crate) const OSM_ID: &str = "osm_id";

/// Names that a key often has, in lower case.
const KEY_NAMES: [&str; 10] = ["id", "gid", "fid", "ogc_fid", "objectid", OSM_ID, "pk", "uuid", "guid", "key"];

const MULTIPOINT: &str = "MULTIPOINT";

/// What the rows show about a column with geometries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GeometryRows {
    /// The number of rows, counted or extrapolated from a sample.
    pub rows: u64,
    /// True if only a sample was read.
    pub(crate) is_sample: bool,
    /// True if some row has a geometry.
    pub(crate) has_geometry: bool,
    pub(crate) srids: Vec<i32>,
    /// The SRIDs that PostGIS does not know.
    pub(crate) unknown_srids: Vec<i32>,
    /// The types of the geometries, such as "POINT".
    pub shapes: Vec<String>,
    /// True if no multipoint that was read has more than one member, as `ogr2ogr` and `ST_Multi` store points.
    pub(crate) has_single_members: bool,
    /// The positions and sizes of the geometries.
    pub extent: Option<ColumnExtent>,
    /// The number of checked polygons that are not valid. PostGIS may leave out parts of them; their tiles are planned
    /// by their boxes, and no tile is rendered for several of them.
    pub(crate) invalid_areas: u64,
    pub(crate) mean_vertices: f64,
    /// The most vertices of a line or polygon.
    pub(crate) most_vertices: u64,
}

/// Where the geometries of a column lie.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColumnExtent {
    /// The box around them in their own reference system.
    pub own: SourceBox,
    /// The same box in degrees; `None` if the reference system is not known, or the box has no position on the globe.
    pub degrees: Option<LonLatBox>,
    /// The area of all boxes of geometries as a share of the area of `own`; it may exceed 1.
    pub(crate) share_of_area: f64,
    /// The mean width of a geometry's box as a share of the width of `own`.
    pub(crate) mean_width: f64,
    /// The same for the heights.
    pub(crate) mean_height: f64,
    /// `None` for points, and if `degrees` is not known.
    pub(crate) spread: Option<ShapeSpread>,
}

impl ColumnExtent {
    /// The share of the world that the box covers; all of it if its position is not known.
    pub(crate) fn share(&self) -> WorldShare {
        self.degrees.as_ref().map_or(WorldShare::WHOLE, WorldShare::of)
    }
}

impl GeometryRows {
    /// True if there are geometries, and all of them are single points or multipoints of one member, which are drawn as
    /// points.
    pub(crate) fn are_points(&self) -> bool {
        let is_point = |shape: &String| shape == "POINT" || shape == MULTIPOINT && self.has_single_members;
        !self.shapes.is_empty() && self.shapes.iter().all(is_point)
    }

    /// The types of the geometries for people.
    pub(crate) fn shape_names(&self) -> String {
        let name = |shape: &String| match shape.as_str() {
            MULTIPOINT if self.has_single_members => "MULTIPOINT of one point each".to_owned(),
            _ => shape.clone(),
        };
        self.shapes.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// Reads the rows of a column. The inner error is the database's error about the rows; every other error is an outer
/// one.
pub(crate) async fn look_at(
    session: &Session,
    relation: &SpatialRelation,
    column: &CatalogColumn,
) -> Result<Result<GeometryRows, String>, Error> {
    if !relation.schema_usable {
        return Ok(Err(format!("the role may not use the schema {}", quoted(&relation.schema))));
    }
    if !column.readable {
        return Ok(Err("the role may not read it".to_owned()));
    }
    if !relation.is_populated {
        return Ok(Err("it was never refreshed".to_owned()));
    }
    Box::pin(attempt(session, scan(session, relation, column))).await
}

/// The result of some statements, or the database's error as a text. The transaction goes on after such an error.
async fn attempt<T>(
    session: &Session,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Result<T, String>, Error> {
    session.set_savepoint().await?;
    let done = session.at_savepoint(work.await).await?;
    Ok(done.map_err(|error| match error {
        Error::Timeout { after, .. } => format!("reading it takes longer than {after}"),
        Error::Query { source, .. } => source.to_string(),
        other => other.to_string(),
    }))
}

/// The part of a large relation that is read; empty for all of it.
fn sample(percent: Option<f64>) -> String {
    percent.map(|percent| format!("TABLESAMPLE SYSTEM ({percent:.4})")).unwrap_or_default()
}

/// The percentage of a relation's pages that is read; `None` if the relation is small enough to be read as a whole.
fn percent_of(bytes: Option<u64>) -> Option<f64> {
    let percent = |bytes: u64| SAMPLE_BYTES as f64 * 100.0 / bytes as f64;
    bytes.filter(|bytes| *bytes > MAX_BYTES_READ_WHOLE).map(percent)
}

/// For a relation with many columns: the number of rows of a sample in which each column has a value. Empty for a
/// relation with few columns, and for one that cannot be read.
pub(crate) async fn filled_columns(
    session: &Session,
    relation: &SpatialRelation,
) -> Result<BTreeMap<String, u64>, Error> {
    let columns = relation.columns.iter().filter(|column| column.readable && !column.is_spatial);
    let names: Vec<&String> = columns.map(|column| &column.name).collect();
    if names.len() <= MANY_COLUMNS || !relation.is_readable() {
        return Ok(BTreeMap::new());
    }
    let names_in_sql: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let counts: Vec<String> = names_in_sql.iter().map(|name| format!("count({name})")).collect();
    let sql = format!(
        "SELECT ARRAY[{}] FROM (SELECT {} FROM {} {} LIMIT {ROWS_FOR_FILLED_COLUMNS}) AS looked_at",
        counts.join(", "),
        names_in_sql.join(", "),
        relation.quoted(),
        sample(percent_of(relation.bytes))
    );
    let context = format!("looking which columns of {} have values", relation.quoted());
    let one = async { Ok(session.one(&context, &sql, &[]).await?.get::<_, Vec<i64>>(0)) };
    let found = attempt(session, one).await?.unwrap_or_default();
    Ok(names.into_iter().cloned().zip(found.into_iter().map(i64::unsigned_abs)).collect())
}

async fn scan(session: &Session, relation: &SpatialRelation, column: &CatalogColumn) -> Result<GeometryRows, Error> {
    let context = format!("reading {}", relation.quoted());
    let is_declared = column.srid > 0 && !matches!(column.shape.trim_end_matches(['Z', 'M']), "Geometry" | "");
    // A sample cannot show that all rows are points, or in one reference system.
    let percent = percent_of(relation.bytes.filter(|_| is_declared));
    let sample = sample(percent);
    // The columns of a view are computed, and one that fails in a row would fail in a tile.
    let values = relation.columns.iter().filter(|column| column.readable && !column.is_spatial);
    let values: Vec<String> = values.map(|column| quoted(&column.name)).collect();
    let (whole_row, count_rows) = match relation.kind {
        SpatialKind::View | SpatialKind::ForeignTable => {
            (format!(", ROW({})::text AS content", values.join(", ")), ", count(content)")
        }
        _ => (String::new(), ""),
    };
    let sql = format!(
        "SELECT count(*), count(g), array_agg(DISTINCT ST_SRID(g)) FILTER (WHERE g IS NOT NULL),
                array_agg(DISTINCT GeometryType(g)) FILTER (WHERE g IS NOT NULL),
                min(ST_XMin(g)), min(ST_YMin(g)), max(ST_XMax(g)), max(ST_YMax(g)),
                sum((ST_XMax(g) - ST_XMin(g)) * (ST_YMax(g) - ST_YMin(g))),
                avg(ST_XMax(g) - ST_XMin(g)), avg(ST_YMax(g) - ST_YMin(g)),
                coalesce(bool_and(GeometryType(g) <> '{MULTIPOINT}' OR ST_NumGeometries(g) <= 1), true),
                coalesce(avg(ST_NPoints(g)), 0)::float8,
                coalesce(max(ST_NPoints(g)) FILTER (WHERE ST_Dimension(g) > 0), 0)::int8{count_rows}
         FROM (SELECT {}::geometry AS g{whole_row} FROM {} {sample}) AS drawn",
        quoted(&column.name),
        relation.quoted()
    );
    let row = session.one(&context, &sql, &[]).await?;
    let (rows, drawn): (i64, i64) = (row.get(0), row.get(1));
    let srids = row.get::<_, Option<Vec<i32>>>(2).unwrap_or_default();
    let known = "SELECT ARRAY(SELECT asked FROM unnest($1::int4[]) AS asked
                 WHERE NOT EXISTS (SELECT FROM spatial_ref_sys AS known WHERE known.srid = asked))";
    let unknown_srids: Vec<i32> = session.one(&context, known, &[(&srids, Type::INT4_ARRAY)]).await?.get(0);
    let mut found = GeometryRows {
        rows: rows.unsigned_abs(),
        is_sample: percent.is_some(),
        has_geometry: drawn > 0,
        shapes: row.get::<_, Option<Vec<String>>>(3).unwrap_or_default(),
        has_single_members: row.get(11),
        extent: None,
        invalid_areas: 0,
        mean_vertices: row.get(12),
        most_vertices: row.get::<_, i64>(13).unsigned_abs(),
        unknown_srids,
        srids,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
    if let Some(percent) = percent {
        found.rows = relation.estimated_rows.unwrap_or(rows as f64 * 100.0 / percent) as u64;
    }
    if found.shapes.iter().any(|shape| shape.ends_with("POLYGON")) {
        found.invalid_areas = attempt(session, invalid_areas(session, relation, column)).await?.unwrap_or_default();
    }
    let sides: [Option<f64>; 4] = [row.get(4), row.get(5), row.get(6), row.get(7)];
    let sums: [Option<f64>; 3] = [row.get(8), row.get(9), row.get(10)];
    // Coordinates of several systems have no box in common.
    if found.srids.len() <= 1
        && let [Some(west), Some(south), Some(east), Some(north)] = sides
        && let [Some(area), Some(width), Some(height)] = sums
        && sides.iter().flatten().all(|side| side.is_finite())
    {
        let own = SourceBox { min_x: west, min_y: south, max_x: east, max_y: north };
        let degrees = match found.srids[..] {
            // No system is declared, but the coordinates can be degrees.
            [0] if is_degrees(&own) => Some(LonLatBox::from_sides(own.sides())),
            [0] => None,
            [srid, ..] if !found.unknown_srids.contains(&srid) => {
                attempt(session, in_degrees(session, &context, own, srid)).await?.ok().flatten()
            }
            _ => None,
        };
        let own_area = (east - west) * (north - south);
        // The sample is assumed to have the same share of the area as of the rows.
        let all = if drawn > 0 && percent.is_some() { 100.0 / percent.unwrap_or(100.0) } else { 1.0 };
        let mut extent = ColumnExtent {
            own,
            degrees,
            share_of_area: if own_area > 0.0 { area * all / own_area } else { 1.0 },
            mean_width: part(width, east - west),
            mean_height: part(height, north - south),
            spread: None,
        };
        if degrees.is_some() && !found.are_points() {
            let table = relation.quoted();
            let read = Sampled { table: format!("{table} {sample}"), rows: rows.unsigned_abs(), all: found.rows };
            let (name, mean) = (quoted(&column.name), f64::max(width, height));
            let spread = ShapeSpread::of(session, &read, &name, &own, extent.share(), mean);
            extent.spread = attempt(session, spread)
                .await?
                .inspect_err(|why| tracing::info!("{table}: where its shapes are dense could not be read: {why}"))
                .ok();
        }
        found.extent = Some(extent);
    }
    Ok(found)
}

/// Checks some polygons, and counts those that are not valid.
async fn invalid_areas(session: &Session, relation: &SpatialRelation, column: &CatalogColumn) -> Result<u64, Error> {
    let sql = format!(
        "WITH areas AS (SELECT g FROM (SELECT {}::geometry AS g FROM {} {}) AS drawn WHERE ST_Dimension(g) = 2)
         SELECT count(*) FROM (
            (SELECT g FROM areas WHERE ST_NPoints(g) >= {MANY_POINTS} LIMIT {MAX_VALIDATED})
            UNION ALL
            (SELECT g FROM areas WHERE ST_NPoints(g) < {MANY_POINTS} LIMIT {MAX_VALIDATED})
        ) AS looked_at WHERE NOT ST_IsValid(g)",
        quoted(&column.name),
        relation.quoted(),
        sample(percent_of(relation.bytes))
    );
    let context = format!("looking at the polygons of {}", relation.quoted());
    Ok(session.one(&context, &sql, &[]).await?.get::<_, i64>(0).unsigned_abs())
}

/// One length as a fraction of another; 1 if the other is zero.
fn part(length: f64, whole: f64) -> f64 {
    if whole > 0.0 { length / whole } else { 1.0 }
}

/// True if the sides of a box can be longitudes and latitudes.
pub(crate) fn is_degrees(own: &SourceBox) -> bool {
    own.min_x >= -180.0 && own.max_x <= 180.0 && own.min_y >= -90.0 && own.max_y <= 90.0
}

async fn in_degrees(session: &Session, context: &str, own: SourceBox, srid: i32) -> Result<Option<LonLatBox>, Error> {
    let sql = "SELECT ST_XMin(g), ST_YMin(g), ST_XMax(g), ST_YMax(g)
               FROM (SELECT ST_Transform(ST_MakeEnvelope($1, $2, $3, $4, $5), 4326) AS g) AS turned";
    let [west, south, east, north] = own.sides();
    let params: [Param<'_>; 5] = [
        (&west, Type::FLOAT8),
        (&south, Type::FLOAT8),
        (&east, Type::FLOAT8),
        (&north, Type::FLOAT8),
        (&srid, Type::INT4),
    ];
    let row = session.one(context, sql, &params).await?;
    let sides: [Option<f64>; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    let sides: Vec<f64> = sides.into_iter().flatten().filter(|side| side.is_finite()).collect();
    Ok(<[f64; 4]>::try_from(sides).ok().map(LonLatBox::from_sides))
}

/// The first column that identifies the present rows. Only columns are checked whose name is that of a key: by
/// convention, or in a table that a view reads. `are_points` is true if every geometry of the relation is drawn as a
/// point.
pub(crate) async fn distinct_column(
    session: &Session,
    relation: &SpatialRelation,
    reads: &[ViewRead],
    are_points: bool,
) -> Result<Option<String>, Error> {
    let of_tables: Vec<&String> = reads.iter().filter(|read| read.key.len() == 1).flat_map(|read| &read.key).collect();
    let is_named = |column: &&CatalogColumn| {
        let name = column.name.to_lowercase();
        let is_named = of_tables.contains(&&column.name) || KEY_NAMES.contains(&name.as_str()) || name.ends_with("_id");
        is_named && (are_points || name != OSM_ID)
    };
    let has_order = |column: &&CatalogColumn| {
        column.readable && (matches!(column.category.as_str(), "N" | "S") || column.base == "uuid")
    };
    let mut candidates: Vec<&CatalogColumn> = relation.columns.iter().filter(has_order).filter(is_named).collect();
    candidates.sort_by_key(|column| column.name.to_lowercase().ends_with("_id"));
    candidates.truncate(MAX_KEY_CANDIDATES);
    if candidates.is_empty() {
        return Ok(None);
    }
    let is_key = |column: &&CatalogColumn| {
        let name = quoted(&column.name);
        // Without rows, nothing is known about a key.
        format!("count(*) > 0 AND count({name}) = count(*) AND count(DISTINCT {name}) = count(*)")
    };
    let asked: Vec<String> = candidates.iter().map(is_key).collect();
    let sql = format!("SELECT ARRAY[{}] FROM {}", asked.join(", "), relation.quoted());
    let context = format!("looking for a key of {}", relation.quoted());
    let one = async { Ok(session.one(&context, &sql, &[]).await?.get::<_, Vec<bool>>(0)) };
    let are_keys = attempt(session, one).await?.unwrap_or_default();
    let found = candidates.iter().zip(are_keys).find(|(_, is_key)| *is_key);
    Ok(found.map(|(column, _)| column.name.clone()))
}
