//! Probes what only the rows of a layer show: their reference system, their types of geometry, and whether the key is
//! unique.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::layer::LayerProbe;
use super::relation::{Column, Relation};
use crate::postgis::layer::{Beyond, EdgeUnits, Layer, PlaceholderSql, QueryValues, Shape, explain, pixel};
use crate::postgis::session::{Error, Param, Session, Snapshot, quoted};
use crate::postgis::sql;
use crate::tile::{Coverage, Zoom};

/// Limits the rows that are read first, or at each zoom, to find the reference system and the types of the geometries.
const FIRST_ROWS: &str = "LIMIT 1000";

/// The reference systems and types of a layer's geometries.
struct GeometryKinds {
    /// The reference systems; empty if there is no geometry.
    srids: Vec<i32>,
    /// Whether all geometries are points, or multipoints of one member.
    points: bool,
    /// Whether there are multipoints.
    members: bool,
    /// Whether there may be curves or surfaces.
    curves: bool,
}

impl LayerProbe<'_> {
    /// The reference system and kind of the geometries: from the column's type if it declares them, else from the rows.
    pub(crate) async fn shape(&self, layer: &mut Layer, column: &Column, relation: &Relation) -> Result<Shape, Error> {
        let declared = column.geometry_type.trim_end_matches(['Z', 'M']);
        if column.srid > 0 && declared != "Geometry" {
            let members = declared == "MultiPoint" && self.has_single_members(layer).await?;
            return Ok(Shape {
                srid: column.srid,
                points: declared == "Point" || members,
                members,
                geography: layer.shape.geography,
                curves: !matches!(
                    declared,
                    "Point" | "MultiPoint" | "LineString" | "MultiLineString" | "Polygon" | "MultiPolygon"
                ),
                edge: None,
            });
        }
        let GeometryKinds { srids, points, members, curves } = self.kinds(layer).await?;
        let srid = match srids[..] {
            // There is no geometry, so any system is right.
            [] => {
                if column.srid > 0 {
                    column.srid
                } else {
                    4326
                }
            }
            [0] => {
                let next = if layer.is_query() {
                    "If they are longitudes and latitudes, write ST_SetSRID(…, 4326) in the query".to_owned()
                } else {
                    format!(
                        "If they are longitudes and latitudes, run ALTER TABLE {} ALTER COLUMN {c} TYPE geometry(Geometry, 4326) USING ST_SetSRID({c}, 4326)",
                        relation.quoted(),
                        c = layer.geometry
                    )
                };
                return Err(self.error(
                    format!(
                        "the geometries in {} of {} have SRID 0: nobody can tell where they lie",
                        layer.geometry, layer.display_name
                    ),
                    next,
                ));
            }
            [srid] => srid,
            _ => {
                let found: Vec<String> = srids.iter().map(ToString::to_string).collect();
                return Err(self.error(
                    format!(
                        "the geometries in {} of {} have several SRIDs: {}",
                        layer.geometry,
                        layer.display_name,
                        found.join(", ")
                    ),
                    if layer.is_query() {
                        "Bring them to one with ST_Transform in the query".to_owned()
                    } else {
                        "Bring them to one with ST_Transform, in the table or in a view".to_owned()
                    },
                ));
            }
        };
        if layer.asks_box() && layer.shape.geography {
            return Err(self.error(
                format!(
                    "its query has !bbox!, and {} is of type geography, whose boxes are no boxes of tiles",
                    layer.geometry
                ),
                "Give geometries, such as location::geometry, and compare !bbox! with them".to_owned(),
            ));
        }
        if layer.asks_box() && !matches!(srid, 3857 | 4326) {
            return Err(self.error(
                format!("its query has !bbox!, and {} is in EPSG:{srid}: a tile is a box in EPSG:3857 and EPSG:4326 only", layer.geometry),
                format!("Give ST_Transform({}, 3857). Without !bbox!, any system will do, and the index is used all the same", layer.geometry),
            ));
        }
        Ok(Shape { srid, points, members, geography: layer.shape.geography, curves, edge: None })
    }

    /// True if no row of a column of multipoints has more than one member, so that the layer is drawn as points. Rows
    /// that the layer's own condition leaves out count, too, because some statements look at a row's position first.
    /// Not asked of rows that are drawn tile by tile, for which nothing would be faster.
    async fn has_single_members(&self, layer: &mut Layer) -> Result<bool, Error> {
        if layer.asks_each_tile() {
            return Ok(false);
        }
        if layer.is_query() {
            return Ok(self.kinds(layer).await?.points);
        }
        let (relation, g) = (&layer.relation, layer.placement().stored());
        // The first rows usually tell. All rows are counted by parallel workers, which EXISTS cannot have.
        let single = |rows: &str| {
            format!(
                "(SELECT COALESCE(bool_and(ST_NumGeometries(g) <= 1), true) FROM (SELECT {g} AS g FROM {relation} {rows}) AS rows)"
            )
        };
        let sql = format!("SELECT CASE WHEN {} THEN {} ELSE false END", single(FIRST_ROWS), single(""));
        Ok(self.session.one(&layer.context(), &sql, &[]).await?.get(0))
    }

    /// Reads the reference systems and types of a layer's geometries.
    async fn kinds(&self, layer: &mut Layer) -> Result<GeometryKinds, Error> {
        let g = if layer.shape.geography { format!("{}::geometry", layer.geometry) } else { layer.geometry.clone() };
        let kind = format!(
            "SELECT array_agg(DISTINCT ST_SRID({g})), COALESCE(bool_and(GeometryType({g}) ~ '^(MULTI)?POINTM?$' AND ST_NumGeometries({g}) <= 1), true),
                    COALESCE(bool_or(GeometryType({g}) ~ 'CURVE|CIRCULAR|COLLECTION|SURFACE|TIN|TRIANGLE'), false),
                    COALESCE(bool_or(GeometryType({g}) ~ '^MULTIPOINT'), false)"
        );
        let is_set = format!("{} IS NOT NULL", layer.geometry);
        if !layer.is_query() {
            let sql = format!("{kind} FROM {} WHERE {is_set} {}", layer.relation, filter(layer));
            let row = self.session.one(&layer.context(), &sql, &[]).await?;
            let srids = row.get::<_, Option<Vec<i32>>>(0).unwrap_or_default();
            return Ok(GeometryKinds { srids, points: row.get(1), curves: row.get(2), members: row.get(3) });
        }
        let asks_zoom = layer.asks_each_zoom();
        // Only points are clustered, so every row of a layer with clusters is read.
        let reads_all = !asks_zoom || layer.cells().is_some_and(|cells| cells.keeps_lone);
        let zooms: Vec<Zoom> = layer.zooms.iter().take(if asks_zoom { usize::MAX } else { 1 }).collect();
        // !bbox! must be in the reference system of the geometries, which is not known yet, so both possible systems
        // are tried one after the other.
        let systems: &[i32] = if layer.asks_box() { &[3857, 4326] } else { &[3857] };
        let mut failed = None;
        for srid in systems {
            layer.shape.srid = *srid;
            let limit = if reads_all { "" } else { FIRST_ROWS };
            let source =
                from_at_zooms(layer, &format!("{g} AS oar_tiles_g"), &format!("{is_set} {}", filter(layer)), limit);
            let sql = format!("{} {source}", kind.replace(&g, "oar_tiles_g"));
            self.session.set_savepoint().await?;
            match self.run_at_zooms(layer, &sql, &zooms).await {
                Ok(rows) => {
                    let row = rows.first();
                    let srids = row.and_then(|row| row.get::<_, Option<Vec<i32>>>(0)).unwrap_or_default();
                    let known = row.filter(|_| reads_all).map(|row| (row.get(1), row.get(2), row.get(3)));
                    // If not all rows of all zooms were read, the others may be of any type.
                    let (points, curves, members) = known.unwrap_or((false, true, true));
                    return Ok(GeometryKinds { srids, points, members, curves });
                }
                Err(error @ Error::Query { .. }) => {
                    self.session.return_to_savepoint().await?;
                    failed.get_or_insert(error);
                }
                Err(other) => return Err(other),
            }
        }
        failed.map_or(Ok(GeometryKinds { srids: Vec::new(), points: false, members: true, curves: true }), Err)
    }

    /// The rows of a statement that runs the layer's query at some zooms (see [`from_at_zooms`]).
    async fn run_at_zooms(&self, layer: &Layer, sql: &str, zooms: &[Zoom]) -> Result<Vec<Row>, Error> {
        let numbers: Vec<i32> = zooms.iter().map(|zoom| zoom.get().into()).collect();
        let pixels: Vec<f64> = zooms.iter().map(|zoom| pixel(*zoom)).collect();
        let [west, south, east, north] = QueryValues::of_coverage(layer, &Coverage::new(&[]), zooms).sides().sides();
        let params: [Param<'_>; 6] = [
            (&numbers, Type::INT4_ARRAY),
            (&pixels, Type::FLOAT8_ARRAY),
            (&west, Type::FLOAT8),
            (&south, Type::FLOAT8),
            (&east, Type::FLOAT8),
            (&north, Type::FLOAT8),
        ];
        self.session.all(&layer.context(), sql, &params).await
    }

    /// Returns an error if the key is not unique, because the order of features, and so the bytes, would then depend on
    /// chance.
    pub(crate) async fn unique_key(&self, layer: &Layer, relation: &Relation) -> Result<(), Error> {
        let is_key = |name: &String| layer.key.iter().any(|key| key.quoted == quoted(name));
        let not_null = |name: &String| relation.column(name).is_some_and(|column| column.not_null);
        if relation
            .unique
            .iter()
            .any(|index| index.covers_children && index.columns.iter().all(|name| is_key(name) && not_null(name)))
        {
            return Ok(());
        }
        let key = layer.key.iter().map(|key| key.quoted.clone()).collect::<Vec<_>>().join(", ");
        let text = sql::key_text(layer);
        let is_null = layer.key.iter().map(|key| format!("{} IS NULL", key.quoted)).collect::<Vec<_>>().join(" OR ");
        let twice = "HAVING count(*) > 1 ORDER BY 1 LIMIT 1";
        let rows = if layer.is_query() {
            // The first zoom, the last, and one in between. Not all, because each costs as much as reading and sorting
            // all rows.
            let all: Vec<Zoom> = layer.zooms.iter().collect();
            let probed = [all[0], all[all.len() / 2], all[all.len() - 1]];
            let mut zooms = if layer.asks_each_zoom() { probed.to_vec() } else { vec![all[0]] };
            zooms.dedup();
            let source = from_at_zooms(layer, &key, &format!("true {}", filter(layer)), "");
            let sql = format!("SELECT {text}, count(*), {is_null} {source} GROUP BY oar_tiles_area.z, {key} {twice}");
            self.run_at_zooms(layer, &sql, &zooms).await.map_err(|error| explain(error, layer))?
        } else {
            let sql = format!(
                "SELECT {text}, count(*), {is_null} FROM {} WHERE true {} GROUP BY {key} {twice}",
                layer.relation,
                filter(layer)
            );
            self.session.all(&layer.context(), &sql, &[]).await?
        };
        let Some(row) = rows.first() else { return Ok(()) };
        let (example, count, is_null): (String, i64, bool) = (row.get(0), row.get(1), row.get(2));
        let example = if is_null && layer.key.len() == 1 { example } else { format!("\"{example}\"") };
        let never = if is_null { ", and never NULL" } else { "" };
        Err(self.error(
            format!(
                "the key ({key}) does not tell the rows of {} apart: {count} rows have the key {example}",
                layer.display_name
            ),
            format!("Set key to columns that are unique together{never}"),
        ))
    }
}

/// The layer's own condition with AND before it, to follow another condition; empty if the layer has none.
fn filter(layer: &Layer) -> String {
    layer.filter.as_ref().map(|filter| format!("AND ({filter}\n)")).unwrap_or_default()
}

/// The FROM part of a statement that runs a query at some zooms, for the box of the world. The parameters are arrays of
/// the zooms and of the sides of a pixel, then west, south, east and north of the box.
fn from_at_zooms(layer: &Layer, columns: &str, condition: &str, limit: &str) -> String {
    format!(
        "FROM (
            SELECT z, pixel_width, ST_MakeEnvelope($3, $4, $5, $6, {}) AS box FROM unnest($1, $2) AS zooms (z, pixel_width)
        ) AS oar_tiles_area CROSS JOIN LATERAL (SELECT {columns} FROM {} WHERE {condition} {limit}) AS asked",
        layer.shape.srid,
        layer.rows(&PlaceholderSql::of_area())
    )
}

// Finds rows that reach beyond ±180°.

impl EdgeUnits {
    /// The units of a reference system; `None` if its x axis is not linear in longitude. From such a system,
    /// `ST_Transform` returns longitudes within ±180°.
    pub(crate) async fn of(session: &Session, context: &str, srid: i32) -> Result<Option<EdgeUnits>, Error> {
        match srid {
            4326 => return Ok(Some(EdgeUnits::Degrees)),
            3857 => return Ok(Some(EdgeUnits::Metres)),
            _ => {}
        }
        // Web Mercator has other SRIDs, too, such as 102100. If ST_Transform changes nothing, it does not wrap either.
        let sql = "SELECT CASE
                WHEN proj4text ~ '[+]proj=longlat' AND proj4text !~ '[+](pm|over|lon_wrap)' THEN 'degrees'
                WHEN proj4text ~ '[+]proj=merc' AND proj4text ~ '[+]b=6378137 ' THEN
                    CASE WHEN ST_X(ST_Transform(ST_SetSRID(ST_MakePoint(2.1e7, 0), srid), 3857)) = 2.1e7 THEN 'metres' END
            END FROM spatial_ref_sys WHERE srid = $1";
        let rows = session.all(context, sql, &[(&srid, Type::INT4)]).await?;
        let units: Option<String> = rows.first().and_then(|row| row.get(0));
        Ok(match units.as_deref() {
            Some("degrees") => Some(EdgeUnits::Degrees),
            Some("metres") => Some(EdgeUnits::Metres),
            _ => None,
        })
    }
}

#[derive(Debug)]
pub(crate) struct RowsBeyond {
    count: u64,
    /// The keys of up to three of them.
    examples: Vec<String>,
}

impl RowsBeyond {
    /// Finds the rows of a layer, at its shallowest zoom, that reach beyond ±180°. The spatial index serves the query,
    /// so it costs almost nothing if there are none.
    async fn of(session: &Session, layer: &Layer) -> Result<RowsBeyond, Error> {
        let none = RowsBeyond { count: 0, examples: Vec::new() };
        let Some(units) = layer.shape.edge else { return Ok(none) };
        let statement = |relation: &str| sql::rows_beyond(layer, units, relation);
        let found = FlawedRows::found(session, layer, "looking for rows beyond ±180°", statement).await;
        let found = found.map_err(|error| explain(error, layer))?;
        Ok(found.map_or(none, |(count, examples)| RowsBeyond { count, examples }))
    }

    fn warning(&self, layer: &Layer) -> Option<String> {
        let (rows, they) = match self.count {
            0 => return None,
            1 => ("1 row reaches".to_owned(), "it is"),
            count => (format!("{count} rows reach"), "they are"),
        };
        let done = match layer.beyond {
            Beyond::Wrap => {
                "cut there, and what lies beyond is drawn on the other side of the world (beyond = \"wrap\")"
            }
            Beyond::Clip => "cut there, and what lies beyond is not drawn (beyond = \"clip\")",
            Beyond::Skip => "not drawn (beyond = \"skip\")",
        };
        let more = if self.count > self.examples.len() as u64 { ", …" } else { "" };
        Some(format!(
            "layer \"{}\": {rows} beyond ±180°: {they} {done}: {}{more}",
            layer.name,
            self.examples.join(", ")
        ))
    }
}

impl Layer {
    /// Records in the layer whether rows reach beyond ±180°, which decides how rows near a tile are searched. Returns a
    /// warning if some do.
    pub(crate) async fn probe_beyond(&mut self, session: &Session) -> Result<Option<String>, Error> {
        // A geography keeps its longitudes within ±180° by itself.
        if self.shape.geography {
            return Ok(None);
        }
        self.shape.edge = EdgeUnits::of(session, &self.context(), self.shape.srid).await?;
        let beyond = RowsBeyond::of(session, self).await?;
        // A query that returns other rows at each zoom was read at one zoom only.
        self.reaches_beyond = beyond.count > 0 || self.asks_each_zoom();
        Ok(beyond.warning(self))
    }
}

// Finds lines and polygons that are not drawn as they were meant.
//
// Some jump from one side of ±180° to the other. They come from files in which shapes that cross ±180° were never cut
// there, such as many `TopoJSON` and GeoJSON files. The database takes such a shape as valid, and it is drawn as a band
// across the map. Others are polygons that are not valid. `repair = true` in a layer repairs both while they are drawn.
// Others still are drawn right, but slowly, because they have very many vertices.

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It has lines or rings that jump across ±180°.
    Jump,
    /// It is a polygon that is not valid.
    Invalid,
    /// It has at least [`MANY_VERTICES`].
    Large,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlawedRows {
    pub(crate) flaw: Flaw,
    /// The number of such rows; a lower bound if only some of the table's rows were looked at.
    pub count: u64,
    /// How to mend the table, with SQL.
    pub(crate) remedy: String,
    /// The keys of up to three of them.
    examples: Vec<String>,
    /// True if the layer repairs them while they are drawn.
    pub(crate) are_repaired: bool,
}

impl FlawedRows {
    /// Finds the rows that jump, at the layer's shallowest zoom; `None` if there are none. The spatial index serves the
    /// query: rows that lie on one side only are not visited. Every vertex of the other rows is read, so runs that must
    /// be quick skip this check.
    pub(crate) async fn jumping(session: &Session, layer: &Layer) -> Result<Option<FlawedRows>, Error> {
        let Some(units) = layer.placement().repair_units().filter(|_| FlawedRows::are_shapes(layer)) else {
            return Ok(None);
        };
        let what = "looking for rows that jump across ±180°";
        let found =
            FlawedRows::found(session, layer, what, |relation| sql::rows_that_jump(layer, units, relation)).await?;
        let Some((count, examples)) = found else { return Ok(None) };
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
        Ok(Some(FlawedRows { flaw: Flaw::Jump, count, remedy, examples, are_repaired: layer.repairs() }))
    }

    /// Finds polygons that are not valid, at the layer's shallowest zoom, among the first rows; `None` if there are
    /// none.
    pub(crate) async fn invalid(session: &Session, layer: &Layer) -> Result<Option<FlawedRows>, Error> {
        if !FlawedRows::are_shapes(layer) {
            return Ok(None);
        }
        let what = "looking for polygons that are not valid";
        let found = FlawedRows::found(session, layer, what, |relation| sql::invalid_rows(layer, relation)).await?;
        let Some((count, examples)) = found else { return Ok(None) };
        let remedy = FlawedRows::makes_valid(session, layer).await?;
        Ok(Some(FlawedRows { flaw: Flaw::Invalid, count, remedy, examples, are_repaired: layer.repairs() }))
    }

    /// Finds lines and polygons of very many vertices, at the layer's shallowest zoom, among the first rows; `None` if
    /// there are none. `are_valid` is false if polygons of the layer are known not to be.
    pub(crate) async fn large(session: &Session, layer: &Layer, are_valid: bool) -> Result<Option<FlawedRows>, Error> {
        if !FlawedRows::are_shapes(layer) {
            return Ok(None);
        }
        let what = "looking for rows with very many vertices";
        let statement = |relation: &str| sql::large_rows(layer, relation, MANY_VERTICES);
        let Some((count, examples)) = FlawedRows::found(session, layer, what, statement).await? else {
            return Ok(None);
        };
        let remedy = if layer.is_query() {
            format!(
                "divide the shapes of the table that the query reads with ST_Subdivide, as {PIECES_IN_MANUAL} shows"
            )
        } else {
            let cast = if layer.shape.geography { "::geometry" } else { "" };
            let pieces = Pieces {
                relation: layer.relation.clone(),
                geometry: layer.geometry.clone(),
                drawn: format!("drawn.{}{cast}", layer.geometry),
                key: layer.key.iter().map(|key| key.quoted.clone()).collect(),
                columns: layer.columns.iter().filter(|column| **column != layer.geometry).cloned().collect(),
                are_valid,
            };
            pieces.advice()
        };
        Ok(Some(FlawedRows { flaw: Flaw::Large, count, remedy, examples, are_repaired: false }))
    }

    /// How to make the polygons of a layer valid: the whole statement, if it draws a table.
    async fn makes_valid(session: &Session, layer: &Layer) -> Result<String, Error> {
        let what = format!("layer \"{}\", reading the type of its geometry column", layer.name);
        let params: [Param<'_>; 2] = [(&layer.relation, Type::TEXT), (&layer.geometry, Type::TEXT)];
        let found = session.all(&what, DECLARED_GEOMETRY, &params).await?;
        let Some(row) = found.first().filter(|_| !layer.is_query()) else {
            return Ok(format!("write ST_CollectionExtract(ST_MakeValid({}), 3) in the query", layer.geometry));
        };
        let (shape, is_table): (String, bool) = (row.get(0), row.get(3));
        let declared = DeclaredGeometry { shape: &shape, srid: row.get(1), is_geography: row.get(2) };
        Ok(if is_table {
            declared.makes_valid(&layer.relation, &layer.geometry)
        } else {
            format!("give {} in the definition of {}", declared.made_valid(&layer.geometry), layer.relation)
        })
    }

    fn are_shapes(layer: &Layer) -> bool {
        !layer.shape.points && layer.function().is_none()
    }

    /// The number and the examples that a statement over the layer's relation returns; `None` if there are no such
    /// rows.
    async fn found(
        session: &Session,
        layer: &Layer,
        what: &str,
        statement: impl Fn(&str) -> String,
    ) -> Result<Option<(u64, Vec<String>)>, Error> {
        let zooms: Vec<Zoom> = layer.zooms.iter().take(1).collect();
        let values = QueryValues::of_coverage(layer, &Coverage::new(&[]), &zooms);
        let params: Vec<Param<'_>> = values.params(layer).collect();
        let relation = layer.rows(&PlaceholderSql::parameters(1, layer.shape.srid));
        let context = format!("layer \"{}\", {what}", layer.name);
        let rows = session.all(&context, &statement(&relation), &params).await?;
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(0)).unsigned_abs();
        let row = rows.first().filter(|_| count > 0);
        Ok(row.map(|row| (count, row.get::<_, Option<Vec<String>>>(1).unwrap_or_default())))
    }

    fn rows(&self) -> String {
        let rows = if self.count == 1 { "1 row".to_owned() } else { format!("{} rows", self.count) };
        match (self.flaw, self.count) {
            (Flaw::Jump, 1) => format!("{rows} has lines or rings that jump from one side of ±180° to the other"),
            (Flaw::Jump, _) => format!("{rows} have lines or rings that jump from one side of ±180° to the other"),
            (Flaw::Invalid, 1) => format!("{rows} of those looked at is a polygon that is not valid"),
            (Flaw::Invalid, _) => format!("{rows} of those looked at are polygons that are not valid"),
            (Flaw::Large, _) => {
                let have = if self.count == 1 { "has" } else { "have" };
                let looked_at = sql::MAX_COUNTED_VERTICES;
                format!("{rows} of the first {looked_at} {have} {MANY_VERTICES} vertices or more")
            }
        }
    }

    fn keys(&self) -> String {
        let more = if self.count > self.examples.len() as u64 { ", …" } else { "" };
        format!("{}{more}", self.examples.join(", "))
    }

    /// Describes what is wrong with the rows.
    pub(crate) fn problem(&self) -> String {
        let effect = match (self.flaw, self.count) {
            (Flaw::Jump, 1) => "it is drawn as bands across the map",
            (Flaw::Jump, _) => "they are drawn as bands across the map",
            (Flaw::Invalid, 1) => "PostGIS may draw it wrongly or leave parts of it out",
            (Flaw::Invalid, _) => "PostGIS may draw them wrongly or leave parts of them out",
            (Flaw::Large, _) => "each tile that such a row touches reads all of its vertices",
        };
        format!("{}: {effect}: {}", self.rows(), self.keys())
    }

    /// Describes the rows, which the layer repairs, and what that costs.
    pub(crate) fn repaired(&self) -> String {
        format!("{} ({}); {}", self.rows(), self.keys(), repaired_while_drawn(self.count == 1))
    }

    /// What to do about the rows of a layer that does not repair them.
    pub(crate) fn remedies(&self) -> String {
        if self.flaw == Flaw::Large {
            return self.remedy.clone();
        }
        let them = if self.count == 1 { "it" } else { "them" };
        format!("set repair = true in the layer, which {REPAIR_COSTS}, or mend {them} in the table: {}", self.remedy)
    }

    /// Describes what is wrong with the rows, and what to do.
    pub(crate) fn advice(&self) -> String {
        let them = if self.count == 1 { "it" } else { "them" };
        format!("{}. Set repair = true in the layer, or mend {them}: {}", self.problem(), self.remedy)
    }
}

/// What the column `$2` of the relation `$1`, both quoted, declares, and whether the relation is a table. No row if
/// there is no such column.
const DECLARED_GEOMETRY: &str =
    "SELECT postgis_typmod_type(atttypmod), postgis_typmod_srid(atttypmod), format_type(atttypid, NULL) ~ 'geography', relkind IN ('r', 'p')
FROM pg_catalog.pg_class JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid
WHERE pg_class.oid = to_regclass($1) AND '\"' || replace(attname, '\"', '\"\"') || '\"' = $2 AND NOT attisdropped";

#[derive(Debug, Clone, Copy)]
pub(crate) struct DeclaredGeometry<'a> {
    /// The type of its geometries, such as `MultiPolygonZ`; `Geometry` for any.
    pub shape: &'a str,
    pub(crate) srid: i32,
    pub(crate) is_geography: bool,
}

impl DeclaredGeometry<'_> {
    /// The statement that makes the polygons of a table valid; it runs as it is, and without a word. Geometries that
    /// are not polygons stay as they are. The names are quoted.
    pub(crate) fn makes_valid(self, table: &str, column: &str) -> String {
        let (valid, geometry) = (self.made_valid(column), self.as_geometry(column));
        if self.shape.starts_with("Polygon") {
            // A valid polygon may have several parts.
            let kind = if self.is_geography { "geography" } else { "geometry" };
            return format!(
                "ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}(Multi{}, {}) USING {valid};",
                self.shape, self.srid
            );
        }
        let are_polygons = if self.shape.starts_with("MultiPolygon") {
            String::new()
        } else {
            format!(" AND GeometryType({geometry}) IN ('POLYGON', 'MULTIPOLYGON')")
        };
        // ST_IsValid says a NOTICE about each row.
        format!("UPDATE {table} SET {column} = {valid} WHERE NOT (ST_IsValidDetail({geometry})).valid{are_polygons};")
    }

    /// The geometries of a column as valid polygons; as multipolygons if it declares a type of polygons.
    pub(crate) fn made_valid(self, column: &str) -> String {
        let valid = format!("ST_CollectionExtract(ST_MakeValid({}), 3)", self.as_geometry(column));
        let valid = if self.shape.contains("Polygon") { format!("ST_Multi({valid})") } else { valid };
        if self.is_geography { format!("{valid}::geography") } else { valid }
    }

    fn as_geometry(self, column: &str) -> String {
        if self.is_geography { format!("{column}::geometry") } else { column.to_owned() }
    }
}

/// The number of vertices from which on each tile is slower because the whole geometry is read for it.
pub(crate) const MANY_VERTICES: u32 = 50_000;

const PIECES_IN_MANUAL: &str = "docs/large-and-failing-tiles.md (\"Rows with very many vertices\")";

/// A materialized view of the rows of a relation, whose shapes are cut into pieces of few vertices. All names are
/// quoted.
pub(crate) struct Pieces {
    pub(crate) relation: String,
    /// The geometry column.
    pub(crate) geometry: String,
    /// The geometry of the row `drawn` as SQL, in the reference system of the layer.
    pub(crate) drawn: String,
    /// The columns that identify a row; empty if none do.
    pub(crate) key: Vec<String>,
    /// The columns that the pieces keep.
    pub(crate) columns: Vec<String>,
    /// False if polygons are known not to be valid: `ST_Subdivide` fails for some of these.
    pub(crate) are_valid: bool,
}

impl Pieces {
    /// What to do, and what that changes on the map. The statements, which run as they are, stand at the end.
    pub(crate) fn advice(&self) -> String {
        format!(
            "draw its pieces instead (ST_Subdivide), which is several times as fast. A row then becomes many features, with keys and labels of their own, and a line around polygons would also show where pieces meet. {PIECES_IN_MANUAL} says more, and how the pieces follow the table: {}",
            self.statements()
        )
    }

    fn statements(&self) -> String {
        let Pieces { relation, geometry, drawn, .. } = self;
        let of_row = |column: &String| format!("drawn.{column}");
        let row = if self.key.is_empty() {
            "row_number() OVER ()".to_owned()
        } else {
            self.key.iter().map(of_row).collect::<Vec<_>>().join(", ")
        };
        let columns: String = self.columns.iter().map(|column| format!("{}, ", of_row(column))).collect();
        // ST_MakeValid may turn a polygon into one with lines beside it.
        let (part, only) = if self.are_valid {
            ("part.geom", "")
        } else {
            ("ST_MakeValid(part.geom)", " WHERE ST_Dimension(piece.geom) = ST_Dimension(part.geom)")
        };
        let pieces = format!("{}_pieces\"", relation.strip_suffix('"').unwrap_or(relation));
        format!(
            "CREATE MATERIALIZED VIEW {pieces} AS SELECT concat_ws('/', {row}, array_to_string(part.path, '.'), piece.number) AS piece_id, {columns}piece.geom AS {geometry} FROM {relation} AS drawn, ST_Dump({drawn}) AS part, ST_Subdivide({part}) WITH ORDINALITY AS piece (geom, number){only}; CREATE UNIQUE INDEX ON {pieces} (piece_id); CREATE INDEX ON {pieces} USING gist ({geometry});"
        )
    }
}

const REPAIR_COSTS: &str = "checks each row and repairs such rows, once in a seed and in each statement of a reseed";

/// Says that rows are repaired, and what that costs.
pub(crate) fn repaired_while_drawn(is_one: bool) -> String {
    let it_is = if is_one { "it is" } else { "they are" };
    format!("{it_is} repaired while drawn (repair = true), which {REPAIR_COSTS}")
}

/// The rows of a layer that jump across ±180°, in a run's snapshot; `None` if the layer repairs them. Fails if the
/// database is lost, or the layer's own condition or query fails.
pub(crate) async fn jumping_rows(snapshot: &Snapshot, layer: &Layer) -> Result<Option<FlawedRows>, Error> {
    if layer.repairs() { Ok(None) } else { FlawedRows::jumping(&snapshot.keeper, layer).await }
}
