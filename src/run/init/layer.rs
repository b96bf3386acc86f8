//! One layer of a draft: its lines, and remarks for the user.

use std::collections::BTreeSet;

use super::text::{comment, key, list, plain_list, string, value};
use crate::postgis::{
    CatalogColumn, ColumnExtent, DEEPEST, DeclaredGeometry, DiscoveredRelation, GeometryColumn, GeometryRows,
    LARGE_ZOOMS, MANY_VERTICES, OSM_ID, Pieces, SpatialKind, TableLink, ViewRead, WorldShare, quoted,
    repaired_while_drawn,
};
use crate::suggested::SEED;

/// The most features of a tile at zooms before the last one.
const MAX_TILE_FEATURES: u32 = 20_000;

/// The line of a layer that repairs its shapes while it draws them.
pub(crate) const REPAIR: &str = "repair = true\n";

/// The most bytes of a layer's part of a tile at zooms before the last one.
const MAX_TILE_BYTES: u32 = 500_000;

/// The packed bytes of a line or polygon with some properties in a tile, beside one byte a vertex. Generated footprints
/// took 18 to 25 bytes with 7 vertices and two properties, roads 41 to 56 with 44 vertices.
const SHAPE_BYTES: f64 = 20.0;

/// The reference system of a column's geometries, as far as the layer has to name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The column declares it, or all rows have the same one.
    Known,
    /// No row has one, and the coordinates can be longitudes and latitudes.
    TakenAsDegrees,
    /// The rows have several reference systems.
    Mixed(Vec<i32>),
}

/// What identifies the rows of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RowKey {
    /// Columns of a unique index.
    Columns(Vec<String>),
    /// A column that happens to be different in each row today.
    Today(String),
    /// The rows' content. `digest` and `copy` are column names that are not taken.
    Content { digest: String, copy: String },
}

/// A layer that draws one geometry column.
#[derive(Debug)]
pub(crate) struct LayerDraft<'a> {
    pub(crate) name: String,
    pub(crate) found: &'a DiscoveredRelation,
    pub(crate) geometry: &'a GeometryColumn,
    pub(crate) reference: Reference,
    pub(crate) zooms: DraftZooms,
    pub(crate) last_zoom: u8,
}

/// How a column's geometries are read, or why they cannot be drawn and what would change that.
pub(crate) fn reference(
    found: &DiscoveredRelation,
    geometry: &GeometryColumn,
    rows: &GeometryRows,
) -> Result<Reference, String> {
    let (table, column) = (found.relation.quoted(), quoted(&geometry.column));
    if let [unknown, ..] = rows.unknown_srids.iter().filter(|srid| **srid != 0).collect::<Vec<_>>()[..] {
        return Err(format!(
            "PostGIS does not know the reference system {unknown}: insert it into spatial_ref_sys, or give the geometries another one: UPDATE {table} SET {column} = ST_SetSRID({column}, …)"
        ));
    }
    match rows.srids[..] {
        [0] => {
            let is_degrees = rows.extent.as_ref().is_some_and(|extent| extent.degrees.is_some());
            if is_degrees {
                Ok(Reference::TakenAsDegrees)
            } else {
                Err(format!(
                    "its geometries have SRID 0, and their coordinates are no longitudes and latitudes. If you know their reference system: {}",
                    set_srid(found, geometry, "SRID")
                ))
            }
        }
        [] | [_] => Ok(Reference::Known),
        _ if rows.srids.contains(&0) => Err(format!(
            "its geometries have several SRIDs ({}), and 0 among them says nothing: give these rows the right one with UPDATE {table} SET {column} = ST_SetSRID({column}, …) WHERE ST_SRID({column}) = 0",
            rows.srids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        )),
        _ => Ok(Reference::Mixed(rows.srids.clone())),
    }
}

/// The statement that declares a reference system for the column.
fn set_srid(found: &DiscoveredRelation, geometry: &GeometryColumn, srid: &str) -> String {
    let (table, column) = (found.relation.quoted(), quoted(&geometry.column));
    match found.relation.kind {
        SpatialKind::Table | SpatialKind::PartitionedTable => {
            let shape = if geometry.shape.is_empty() { "Geometry" } else { &geometry.shape };
            format!(
                "ALTER TABLE {table} ALTER COLUMN {column} TYPE geometry({shape}, {srid}) USING ST_SetSRID({column}, {srid});"
            )
        }
        _ => format!("write ST_SetSRID({column}, {srid}) in its definition"),
    }
}

impl LayerDraft<'_> {
    fn row_key(&self) -> RowKey {
        if let Some(key) = self.found.relation.key() {
            return RowKey::Columns(key.columns.clone());
        }
        if let Some(column) = &self.found.distinct {
            return RowKey::Today(column.clone());
        }
        let free = |name: &str| {
            let is_free = |name: &String| self.found.relation.column(name).is_none();
            let further = (2..).map(|number| format!("{name}_{number}"));
            std::iter::once(name.to_owned()).chain(further).find(is_free).unwrap_or_default()
        };
        RowKey::Content { digest: free("row_digest"), copy: free("row_copy") }
    }

    /// True if there is a unique index on this column alone. Such an index may exist without a declared key, because
    /// the columns of a materialized view are never declared NOT NULL.
    fn has_unique_index(&self, column: &str) -> bool {
        self.found.relation.keys.iter().any(|key| key.columns == [column])
    }

    /// Remarks for the user, with the SQL that helps.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let relation = &self.found.relation;
        let (table, column) = (relation.quoted(), quoted(&self.geometry.column));
        let mut remarks = Vec::new();
        if relation.kind.is_stored() && !self.geometry.is_indexed {
            remarks.push(format!("{table} has no spatial index on {column}, so every batch reads the whole table. Mend it: CREATE INDEX ON {table} USING gist ({column});"));
        }
        if let Some(count) = self.geometry.rows.as_ref().ok().map(|rows| rows.invalid_areas).filter(|count| *count > 0)
        {
            let mend = match relation.kind {
                SpatialKind::Table | SpatialKind::PartitionedTable => self.declared().makes_valid(&table, &column),
                _ => format!("give {} in its definition", self.declared().made_valid(&column)),
            };
            let repaired = repaired_while_drawn(count == 1);
            remarks.push(format!("{table} has polygons that are not valid ({count} of those looked at), such as rings that cross each other: {repaired}. Or mend the table, and leave repair out: {mend}"));
        }
        let vertices = self.geometry.rows.as_ref().map_or(0, |rows| rows.most_vertices);
        if vertices >= MANY_VERTICES.into() {
            remarks.push(format!("a row of {table} has {vertices} vertices, and each tile that it touches reads all of them. If a note says that shapes jump across ±180°, mend the table first. Then {}", self.pieces().advice()));
        }
        let is_empty = self.geometry.rows.as_ref().is_ok_and(|rows| rows.rows == 0);
        if is_empty {
            let rest =
                if matches!(self.row_key(), RowKey::Columns(_)) { " are" } else { ", and what tells rows apart, are" };
            remarks.push(format!(
                "{table} has no row, so its zooms{rest} not known: fill it, and run oar-tiles init again"
            ));
        }
        match (self.row_key(), relation.kind) {
            (RowKey::Today(name), SpatialKind::PartitionedTable) => remarks.push(format!(
                "{table} has no key. The values of {} are all different today, and each run checks that",
                quoted(&name)
            )),
            (RowKey::Today(name), SpatialKind::Table) => remarks.push(format!(
                "{table} has no key. The values of {} are all different today, and each run checks that. If they have to be different at all times, say so: ALTER TABLE {table} ADD PRIMARY KEY ({});",
                quoted(&name), quoted(&name)
            )),
            (RowKey::Today(name), SpatialKind::MaterializedView) if !self.has_unique_index(&name) => remarks.push(format!(
                "{table} has no key. The values of {} are all different today, and each run checks that. If they have to be different at all times, say so: CREATE UNIQUE INDEX ON {table} ({});",
                quoted(&name), quoted(&name)
            )),
            (RowKey::Columns(_) | RowKey::Today(_), _) => {}
            (RowKey::Content { .. }, SpatialKind::Table | SpatialKind::PartitionedTable) => {
                let id = ["id", "row_id", "oar_tiles_id"].into_iter().find(|id| relation.column(id).is_none()).unwrap_or("…");
                let (osm_id, until) = if relation.column(OSM_ID).is_some() {
                    (" (osm_id is none: osm2pgsql splits long ways and relations into several rows)", " osm2pgsql --append keeps that column; --create makes the table anew, without it")
                } else {
                    ("", "")
                };
                let definition = if relation.kind == SpatialKind::PartitionedTable {
                    // The primary key of a partitioned table has to include its partition columns, and before
                    // PostgreSQL 17 such a table has no identity columns.
                    "uuid NOT NULL DEFAULT gen_random_uuid()"
                } else {
                    "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
                };
                remarks.push(format!("{table} has no key{osm_id}, so its rows are told apart by their whole content, which costs time. Mend it: ALTER TABLE {table} ADD COLUMN {id} {definition};{until}"));
            }
            (RowKey::Content { .. }, _) => remarks.push(format!("no column of {table} tells its rows apart, so their whole content does, which costs time. Let it give a key")),
        }
        if relation.name.ends_with("_roads") && relation.column(OSM_ID).is_some() {
            remarks.push(format!("{table} holds rows of osm2pgsql's table of lines once more, for low zooms: leave it out with --table, or give each of the two its zooms (zoom = \"0-9\" here, \"10-22\" there)"));
        }
        match &self.reference {
            Reference::Known => {}
            Reference::TakenAsDegrees => remarks.push(format!("the geometries in {column} of {table} have SRID 0; they are taken as longitudes and latitudes, since all lie within ±180 and ±90. Say so: {}", set_srid(self.found, self.geometry, "4326"))),
            Reference::Mixed(srids) => {
                let srids: Vec<String> = srids.iter().map(ToString::to_string).collect();
                remarks.push(format!("the geometries in {column} of {table} have several SRIDs ({}): each is transformed when it is read, and no index serves that", srids.join(", ")));
            }
        }
        match relation.kind {
            SpatialKind::MaterializedView => remarks.push(format!("{table} is a materialized view, whose changes no trigger notes: run {SEED} after each REFRESH, or set refresh = true (seed then refreshes it) and declare the tables beneath it with [[layer.track]] (reseed does, too)")),
            SpatialKind::ForeignTable => remarks.push(format!("{table} is a foreign table, whose changes no trigger notes: run {SEED} after it changes, reseed is not possible")),
            _ => {}
        }
        remarks
    }

    /// A view of the pieces of its shapes; with it, the geometry of the row `drawn`.
    fn pieces(&self) -> Pieces {
        let relation = &self.found.relation;
        let cast = if self.geometry.is_geography { "::geometry" } else { "" };
        let key = match self.row_key() {
            RowKey::Columns(columns) => columns,
            RowKey::Today(column) => vec![column],
            RowKey::Content { .. } => Vec::new(),
        };
        let kept = relation.columns.iter().filter(|column| column.readable && !column.is_spatial);
        Pieces {
            relation: relation.quoted(),
            geometry: quoted(&self.geometry.column),
            drawn: format!("{}{cast}", self.place("drawn")),
            key: key.iter().map(|column| quoted(column)).collect(),
            columns: kept.map(|column| quoted(&column.name)).collect(),
            are_valid: self.geometry.rows.as_ref().is_ok_and(|rows| rows.invalid_areas == 0),
        }
    }

    fn declared(&self) -> DeclaredGeometry<'_> {
        let GeometryColumn { shape, srid, is_geography, .. } = self.geometry;
        DeclaredGeometry { shape, srid: *srid, is_geography: *is_geography }
    }

    /// The geometry of a row as SQL, in the one reference system of the layer.
    fn place(&self, row: &str) -> String {
        match &self.reference {
            Reference::Known => format!("{row}.{}", quoted(&self.geometry.column)),
            Reference::TakenAsDegrees => ShownPlace { srid: Some(4326) }.of(row, &self.geometry.column, false, 0),
            Reference::Mixed(_) => format!("ST_Transform({row}.{}, 4326)", quoted(&self.geometry.column)),
        }
    }

    /// The layer's lines.
    pub(crate) fn body(&self) -> String {
        let relation = &self.found.relation;
        let key = self.row_key();
        let properties = DraftProperties::of(self.found, &self.geometry.column, self.zooms.clusters_to.is_some());
        let mut text = format!("[[layer]]\nname = {}\n", value(&self.name));
        let needs_query = self.reference != Reference::Known || matches!(key, RowKey::Content { .. });
        if needs_query {
            text.push_str(&format!("sql = {}\n", string(&self.query(&key, &properties))));
        } else {
            text.push_str(&format!("table = {}\nschema = {}\n", value(&relation.name), value(&relation.schema)));
        }
        if self.geometry.rows.as_ref().is_ok_and(|rows| rows.invalid_areas > 0) {
            text.push_str(REPAIR);
        }
        text.push_str(&format!("geometry = {}\n", value(&self.geometry.column)));
        text.push_str(&match &key {
            RowKey::Columns(columns) => format!("key = {}\n", list(columns)),
            RowKey::Today(column) => format!("key = {}\n", list([column])),
            RowKey::Content { digest, copy } => format!("key = {}\n", list([digest, copy])),
        });
        text.push_str(&properties.inline());
        if self.zooms.first > 0 {
            text.push_str(&format!(
                "# At lower zooms its shapes are too small or too many to be seen. Beyond the tileset's zooms they can be drawn live.\nzoom = \"{}-22\"\n",
                self.zooms.first
            ));
        }
        if let Some(before) = self.last_zoom.checked_sub(1).filter(|_| self.zooms.thins) {
            text.push_str(&format!(
                "# Below the last zoom, features are left out of tiles that would be too large; \"warn\" draws all.\nmax_tile_features = {{ \"0-{before}\" = {MAX_TILE_FEATURES} }}\nmax_tile_bytes = {{ \"0-{before}\" = {MAX_TILE_BYTES} }}\non_large_tile = \"thin\"\n"
            ));
        }
        text.push_str(&properties.table());
        if let Some(zoom) = self.zooms.clusters_to {
            text.push_str(&format!(
                "# Points near each other are drawn as one at these zooms. Without cell and merge, clusters stand in rows and cost less.\n[layer.cluster]\nzoom = \"0-{zoom}\"\ncell = \"hexagon\"\nmerge = true\n"
            ));
        }
        text.push_str(&self.zooms.simplify());
        if relation.kind == SpatialKind::View {
            text.push_str(&view_tracks(self.found, self.geometry));
        } else if needs_query {
            text.push_str(&own_track(self.found, self.geometry, &self.place("drawn")));
        }
        text
    }

    /// The query that gives each row its geometry and key.
    fn query(&self, key: &RowKey, properties: &DraftProperties) -> String {
        let relation = &self.found.relation;
        let row = |column: &String| format!("drawn.{}", quoted(column));
        let geometry = &self.geometry.column;
        let mut columns: Vec<String> = properties.columns.clone();
        match key {
            RowKey::Columns(names) => {
                columns.extend(names.iter().filter(|name| !properties.columns.contains(name)).cloned());
            }
            RowKey::Today(name) if !columns.contains(name) => columns.push(name.clone()),
            RowKey::Today(_) | RowKey::Content { .. } => {}
        }
        let mut select: Vec<String> = columns.iter().map(row).collect();
        select.push(format!("{} AS {}", self.place("drawn"), quoted(geometry)));
        if let RowKey::Content { digest, copy } = key {
            // The partitions have one geometry each, so that PostgreSQL can first search the rows of a box and then
            // number them.
            let readable = relation.columns.iter().filter(|column| column.readable);
            let content: Vec<String> = readable.map(|column| row(&column.name)).collect();
            let content = format!("md5(ROW({})::text)", content.join(", "));
            select.push(format!("{content} AS {}", quoted(digest)));
            let place = row(geometry);
            select.push(format!("row_number() OVER (PARTITION BY {place}, {content}) AS {}", quoted(copy)));
        }
        format!("SELECT {} FROM {} AS drawn", select.join(", "), relation.quoted())
    }

    /// What was found, in one line.
    pub(crate) fn summary(&self) -> String {
        let relation = &self.found.relation;
        let key = match self.row_key() {
            RowKey::Columns(columns) => format!("key {}", names(&columns)),
            RowKey::Today(column) => format!("no key, {} is different in each row", names([&column])),
            RowKey::Content { .. } => "no key".to_owned(),
        };
        let index = match (relation.kind.is_stored(), self.geometry.is_indexed) {
            (true, true) => ", spatial index",
            (true, false) => ", no spatial index",
            (false, _) => "",
        };
        format!("{}.{}: {}, {key}{index}", relation.schema, relation.name, relation.kind.called())
    }
}

// The properties of a layer, from the columns of its relation. A column that MVT cannot hold is cast, or left out with
// a comment.

/// The names of the properties of clusters. Properties of rows must not have them.
const CLUSTER_NAMES: [&str; 4] = ["cluster", "cluster_id", "point_count", "point_count_abbreviated"];

/// The most properties that are chosen from many columns. Each row of each tile carries all of them.
const MAX_CHOSEN_PROPERTIES: usize = 12;

/// How a column is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// It is a property without a cast.
    Plain,
    /// It is a property once it is cast to this type.
    Cast(&'static str),
    LeftOut(&'static str),
}

#[derive(Debug)]
pub(crate) struct DraftProperties {
    /// The name and SQL expression of each property; `None` if the expression is the column of this name.
    named: Vec<(String, Option<String>)>,
    pub(crate) columns: Vec<String>,
    /// The columns that are left out, and why.
    left_out: Vec<String>,
    /// The names of the columns that are left out because there are many.
    not_chosen: Vec<String>,
}

/// The columns that become properties if there are many: the key's columns, a name, and the columns with a value in the
/// most rows. `None` if all do.
fn chosen<'a>(found: &'a DiscoveredRelation, geometry: &str) -> Option<BTreeSet<&'a String>> {
    let relation = &found.relation;
    let key = relation.key().map_or(&[][..], |key| &key.columns);
    let is_key = |column: &CatalogColumn| key.contains(&column.name) || found.distinct.as_ref() == Some(&column.name);
    let filled = |column: &CatalogColumn| found.filled.get(&column.name).copied().unwrap_or_default();
    // The texts of whole documents are long, and a map does not show them.
    let is_long = |column: &CatalogColumn| matches!(treatment(column, geometry), Treatment::Cast("text"));
    let is_name = |column: &CatalogColumn| matches!(&*column.name.to_lowercase(), "name" | "title" | "label");
    let mut columns: Vec<&CatalogColumn> = relation.columns.iter().collect();
    columns.retain(|column| !matches!(treatment(column, geometry), Treatment::LeftOut(_)));
    if found.filled.is_empty() || columns.len() <= MAX_CHOSEN_PROPERTIES {
        return None;
    }
    columns.retain(|column| is_key(column) || filled(column) > 0 && !is_long(column));
    columns.sort_by_key(|column| (!is_key(column), !is_name(column), std::cmp::Reverse(filled(column))));
    columns.truncate(MAX_CHOSEN_PROPERTIES);
    Some(columns.into_iter().map(|column| &column.name).collect())
}

fn treatment(column: &CatalogColumn, geometry: &str) -> Treatment {
    if column.name == geometry {
        return Treatment::LeftOut("");
    }
    if !column.readable {
        return Treatment::LeftOut("the role may not read it");
    }
    if column.is_spatial {
        return Treatment::LeftOut("another geometry");
    }
    if column.is_enum {
        return Treatment::Plain;
    }
    match column.base.as_str() {
        "bool" | "int2" | "int4" | "int8" | "float4" | "float8" | "text" | "varchar" | "bpchar" | "name" | "citext"
        | "date" | "timestamp" | "timestamptz" | "time" | "timetz" | "interval" | "uuid" | "inet" | "cidr"
        | "macaddr" | "money" => Treatment::Plain,
        "numeric" => Treatment::Cast("float8"),
        "bytea" | "_bytea" => Treatment::LeftOut("binary data"),
        "tsvector" | "tsquery" => Treatment::LeftOut("an index of words"),
        "xml" | "raster" | "topogeometry" | "box2d" | "box3d" => Treatment::LeftOut("not a value of a map"),
        base if base.starts_with("_geom") || base.starts_with("_geog") || base.starts_with("_raster") => {
            Treatment::LeftOut("geometries")
        }
        _ if column.is_composite => Treatment::LeftOut("a row of its own"),
        _ if column.category == "G" => Treatment::LeftOut("a geometry that PostGIS does not draw"),
        _ => Treatment::Cast("text"),
    }
}

impl DraftProperties {
    /// The properties of a layer that draws the column `geometry`. `in_clusters` is true if the layer has clusters.
    pub(crate) fn of(found: &DiscoveredRelation, geometry: &str, in_clusters: bool) -> DraftProperties {
        let (mut named, mut columns, mut left_out, mut not_chosen) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let chosen = chosen(found, geometry);
        for column in &found.relation.columns {
            let name = if in_clusters && CLUSTER_NAMES.contains(&column.name.as_str()) {
                format!("{}_of_row", column.name)
            } else {
                column.name.clone()
            };
            let sql = match treatment(column, geometry) {
                Treatment::Plain if name == column.name => None,
                Treatment::Plain => Some(quoted(&column.name)),
                Treatment::Cast(kind) => Some(format!("{}::{kind}", quoted(&column.name))),
                Treatment::LeftOut("") => continue,
                Treatment::LeftOut(why) => {
                    left_out.push(format!("{} ({}, {why})", column.name, column.called));
                    continue;
                }
            };
            if chosen.as_ref().is_some_and(|chosen| !chosen.contains(&column.name)) {
                not_chosen.push(column.name.clone());
                continue;
            }
            named.push((name, sql));
            columns.push(column.name.clone());
        }
        DraftProperties { named, columns, left_out, not_chosen }
    }

    /// The lines for the properties among the layer's own keys.
    pub(crate) fn inline(&self) -> String {
        let mut text = String::new();
        if !self.left_out.is_empty() {
            text.push_str(&comment(&format!("Left out: {}.", self.left_out.join(", "))));
        }
        if !self.not_chosen.is_empty() {
            text.push_str(&comment(&format!(
                "Of {} columns these have a value in the most rows; each feature of each tile carries them. Add what the map needs, take out the rest. The others: {}.",
                self.named.len() + self.not_chosen.len(),
                self.not_chosen.join(", ")
            )));
        }
        if self.named.iter().all(|(_, sql)| sql.is_none()) {
            text.push_str(&format!("properties = {}\n", plain_list(self.named.iter().map(|(name, _)| name))));
        }
        text
    }

    /// The table of properties after the layer's own keys; empty if all properties are plain columns.
    pub(crate) fn table(&self) -> String {
        if self.named.iter().all(|(_, sql)| sql.is_none()) {
            return String::new();
        }
        let line = |(name, sql): &(String, Option<String>)| {
            let sql = sql.clone().unwrap_or_else(|| quoted(name));
            format!("{} = {}\n", key(name), string(&sql))
        };
        format!("[layer.properties]\n{}", self.named.iter().map(line).collect::<String>())
    }
}

/// A list of names for people.
pub(crate) fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| string(name)).collect::<Vec<_>>().join(", ")
}

// The tables behind a layer, for its `[[layer.track]]`: where a changed row of each table can be seen.

/// A geometry of a table as SQL, in the reference system of the layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShownPlace {
    /// The SRID of the layer's geometries, if it is known.
    pub(crate) srid: Option<i32>,
}

impl ShownPlace {
    /// The geometry in `column` of the row `row`, as SQL.
    pub(crate) fn of(self, row: &str, column: &str, is_geography: bool, srid: i32) -> String {
        let place = format!("{row}.{}{}", quoted(column), if is_geography { "::geometry" } else { "" });
        match self.srid.filter(|shown| *shown != srid) {
            None => place,
            Some(shown) if srid == 0 => format!("ST_SetSRID({place}, {shown})"),
            Some(shown) => format!("ST_Transform({place}, {shown})"),
        }
    }
}

fn section(schema: &str, table: &str, geometry: &str) -> String {
    let (table, schema, geometry) = (value(table), value(schema), string(geometry));
    format!("[[layer.track]]\ntable = {table}\nschema = {schema}\ngeometry = {geometry}\n")
}

/// The section for a layer that draws a table through a query.
pub(crate) fn own_track(found: &DiscoveredRelation, geometry: &GeometryColumn, place: &str) -> String {
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
pub(crate) fn view_tracks(found: &DiscoveredRelation, geometry: &GeometryColumn) -> String {
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

/// Where a changed row of a table can be seen: at its own geometry, or at the geometry of the rows to which a foreign
/// key connects it.
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

// Suitable zooms for what was found, estimated from the number of features, where they lie, and how large they are.

/// The most tiles of points, and of shapes that are smaller than a tile, that a draft plans, at all zooms together: one
/// or two minutes' work.
const MAX_SMALL_TILES: f64 = 10_000_000.0;

/// The most tiles of other lines and polygons that a draft plans, at all zooms together. Each is clipped in many tiles.
const MAX_SHAPE_TILES: f64 = 200_000.0;

/// The number of points below which clusters are useless, because a client can draw that many without them.
const MIN_CLUSTERED_POINTS: u64 = 1_000;

/// The average number of vertices per tile above which shapes are simplified: half of the 65,535 that map clients which
/// use WebGL with indices of 16 bits draw at once.
const MAX_VERTICES_OF_TILE: f64 = 32_000.0;

/// The average number of vertices of a shape from which on simplifying makes tiles smaller.
const MIN_SIMPLIFIED_VERTICES: f64 = 100.0;

/// The average number of points per tile over the extent above which points are drawn in clusters.
const MAX_POINTS_OF_TILE: f64 = 100.0;

/// Most rows lie in cities, so clusters are useful at this many more zooms than the average density suggests.
const ZOOMS_FOR_CITIES: u8 = 3;

/// The number of lines and polygons below which they are drawn at every zoom, however small they are.
const MIN_LATE_SHAPES: u64 = 2_000;

/// The side in pixels up to which polygons are left out where a tile has too many, and the same for lines, which are
/// as thin as before however long they are.
const SMALL_POLYGON: f64 = 4.0;
const SMALL_LINE: f64 = 16.0;

/// The share of large shapes from which on they are drawn before the others.
const MIN_LARGE_SHARE: f64 = 0.001;

/// The side of a tile in pixels, as map clients draw it.
const TILE_PIXELS: f64 = 512.0;

/// The facts about a layer that determine its zooms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerSize<'a> {
    rows: u64,
    kind: SizeKind,
    mean_vertices: f64,
    extent: Option<&'a ColumnExtent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SizeKind {
    Points,
    Lines,
    Polygons,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DraftZooms {
    pub(crate) first: u8,
    pub(crate) clusters_to: Option<u8>,
    /// The last zoom at which its shapes are simplified.
    pub(crate) simplified_to: Option<u8>,
    /// The last zoom at which only its large shapes are drawn.
    pub(crate) large_to: Option<u8>,
    /// True if features are left out of tiles that would be too large. That keeps a seed from reading the rows of lines
    /// and polygons only once.
    pub(crate) thins: bool,
}

impl DraftZooms {
    /// All zooms, with every row as it is.
    pub(crate) const PLAIN: DraftZooms =
        DraftZooms { first: 0, clusters_to: None, simplified_to: None, large_to: None, thins: true };

    /// The section that simplifies shapes; empty if they are drawn as they are.
    fn simplify(self) -> String {
        let Some(zoom) = self.simplified_to.max(self.large_to) else { return String::new() };
        let (mut comments, mut keys) = (String::new(), String::new());
        if self.simplified_to.is_some() {
            comments.push_str(
                "# Its shapes have more vertices than a map can show at these zooms: half a pixel of detail is left out.\n",
            );
            keys.push_str("tolerance = 0.5\n");
        }
        if self.large_to.is_some() {
            comments.push_str(
                "# Most of its shapes are smaller than a pixel at these zooms: only the large ones are drawn.\n",
            );
            keys.push_str("min_area = 1\nmin_length = 1\n");
        }
        format!("{comments}[layer.simplify]\nzoom = \"0-{zoom}\"\n{keys}")
    }
}

impl<'a> LayerSize<'a> {
    pub(crate) fn of(rows: &'a GeometryRows) -> LayerSize<'a> {
        let are_lines = rows.shapes.iter().all(|shape| shape.ends_with("LINESTRING"));
        let kind = match rows.are_points() {
            true => SizeKind::Points,
            false if are_lines => SizeKind::Lines,
            false => SizeKind::Polygons,
        };
        LayerSize { rows: rows.rows, kind, mean_vertices: rows.mean_vertices, extent: rows.extent.as_ref() }
    }

    fn share(&self) -> WorldShare {
        self.extent.map_or(WorldShare::WHOLE, ColumnExtent::share)
    }

    fn features(&self) -> f64 {
        self.rows as f64
    }

    /// The mean side of a feature at a zoom, in tiles: the longer one.
    fn side(&self, zoom: u8) -> f64 {
        let (share, Some(extent)) = (self.share(), self.extent) else { return 0.0 };
        f64::max(extent.mean_width * share.width, extent.mean_height * share.height) * f64::from(zoom).exp2()
    }

    /// The number of tiles of a zoom in which something is drawn.
    fn occupied(&self, zoom: u8) -> f64 {
        let all = self.share().tiles(zoom);
        let Some(extent) = self.extent else { return 0.0 };
        if self.kind == SizeKind::Points {
            return all.min(self.features());
        }
        let counted = extent.spread.as_ref().and_then(|spread| spread.tiles.get(usize::from(zoom)));
        let begun = counted.map_or(self.features(), |tiles| tiles.min(self.features()));
        all.min(all * extent.share_of_area.min(1.0) + begun * (1.0 + 2.0 * self.side(zoom)))
    }

    /// True if the tile of a zoom with the most shapes may have too many bytes.
    fn is_crowded(&self, zoom: u8) -> bool {
        let spread = self.extent.and_then(|extent| extent.spread.as_ref());
        let densest = spread.and_then(|spread| spread.densest.get(usize::from(zoom)));
        densest.is_none_or(|shapes| shapes * (SHAPE_BYTES + self.mean_vertices) > f64::from(MAX_TILE_BYTES))
    }

    /// The zooms of the layer in a tileset that ends at `last`.
    pub(crate) fn zooms(&self, last: u8) -> DraftZooms {
        let share = self.share();
        let Some(extent) = self.extent else { return DraftZooms::PLAIN };
        let small = match self.kind {
            SizeKind::Points => {
                let is_crowded = |zoom: &u8| self.features() / share.tiles(*zoom) > MAX_POINTS_OF_TILE;
                let crowded = (0..=DEEPEST).take_while(is_crowded).last().filter(|_| self.rows >= MIN_CLUSTERED_POINTS);
                let clusters_to = crowded.and_then(|zoom| Some((zoom + ZOOMS_FOR_CITIES).min(last.checked_sub(1)?)));
                return DraftZooms { clusters_to, ..DraftZooms::PLAIN };
            }
            SizeKind::Lines => SMALL_LINE,
            SizeKind::Polygons => SMALL_POLYGON,
        };
        let is_late = |zoom: &u8| {
            let pixels = self.side(*zoom) * TILE_PIXELS;
            let has_spread = extent.spread.is_some();
            self.rows >= MIN_LATE_SHAPES && (pixels < 1.0 || has_spread && pixels < small && self.is_crowded(*zoom))
        };
        let most_from = u8::try_from((0..last).take_while(is_late).count()).unwrap_or(last);
        let has_large = extent.spread.as_ref().is_some_and(|spread| spread.large >= MIN_LARGE_SHARE);
        let large_to = most_from.checked_sub(1).filter(|_| has_large);
        let earlier = large_to.map_or(0, |_| LARGE_ZOOMS);
        let first = most_from.saturating_sub(earlier);
        let vertices = self.features() * self.mean_vertices;
        let is_heavy = |zoom: &u8| vertices / self.occupied(*zoom) > MAX_VERTICES_OF_TILE;
        let has_detail = self.mean_vertices >= MIN_SIMPLIFIED_VERTICES;
        let simplified_to = (0..last).take_while(is_heavy).last().filter(|zoom| has_detail && *zoom >= first);
        let thins = (most_from..last).any(|zoom| self.is_crowded(zoom));
        DraftZooms { first, clusters_to: None, simplified_to, large_to, thins }
    }
}

/// The last zoom of a tileset with these layers.
pub(crate) fn last_zoom(layers: &[LayerSize<'_>]) -> u8 {
    let (mut small, mut others, mut last) = (0.0, 0.0, 0);
    for zoom in 0..=DEEPEST {
        for layer in layers {
            let tiles = layer.occupied(zoom);
            if layer.kind == SizeKind::Points || layer.side(zoom) < 1.0 { small += tiles } else { others += tiles }
        }
        if small > MAX_SMALL_TILES || others > MAX_SHAPE_TILES {
            break;
        }
        last = zoom;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgis::ShapeSpread;
    use crate::tile::{LonLatBox, SourceBox};

    fn rows(rows: u64, shape: &str, sides: [f64; 4], mean_side: f64) -> GeometryRows {
        let degrees = LonLatBox::from_sides(sides);
        let own = SourceBox { min_x: sides[0], min_y: sides[1], max_x: sides[2], max_y: sides[3] };
        let share_of_area = rows as f64 * mean_side * mean_side;
        GeometryRows {
            rows,
            is_sample: false,
            has_geometry: true,
            srids: vec![4326],
            unknown_srids: Vec::new(),
            shapes: vec![shape.to_owned()],
            has_single_members: true,
            extent: Some(ColumnExtent {
                own,
                degrees: Some(degrees),
                share_of_area,
                mean_width: mean_side,
                mean_height: mean_side,
                spread: None,
            }),
            invalid_areas: 0,
            mean_vertices: 5.0,
            most_vertices: 5,
        }
    }

    /// The rows in `towns` tiles of the deepest zoom, twice as many in the densest as in the others, with a share of
    /// large ones.
    fn in_towns(mut rows: GeometryRows, towns: f64, large: f64) -> GeometryRows {
        let of_zoom = |zoom: u8| (towns / f64::from(4_u32.pow(u32::from(DEEPEST - zoom)))).max(1.0);
        let tiles: Vec<f64> = (0..=DEEPEST).map(of_zoom).collect();
        let densest = tiles.iter().map(|tiles| 2.0 * rows.rows as f64 / tiles).collect();
        if let Some(extent) = &mut rows.extent {
            extent.spread = Some(ShapeSpread { large, densest, tiles });
        }
        rows
    }

    const WORLD: [f64; 4] = [-180.0, -60.0, 180.0, 75.0];
    const CITY: [f64; 4] = [8.4, 47.3, 8.6, 47.5];
    const COUNTRY: [f64; 4] = [0.0, 45.0, 10.0, 52.0];
    /// Every feature at every zoom.
    const EACH: DraftZooms = DraftZooms { thins: false, ..DraftZooms::PLAIN };

    #[test]
    fn zooms_follow_number_and_size() {
        for (found, last, zooms) in [
            // 100,000 places all over the world.
            (rows(100_000, "POINT", WORLD, 0.0), 14, DraftZooms { clusters_to: Some(8), ..DraftZooms::PLAIN }),
            (rows(100_000, "MULTIPOINT", WORLD, 0.0), 14, DraftZooms { clusters_to: Some(8), ..DraftZooms::PLAIN }),
            (rows(100, "POINT", WORLD, 0.0), 14, DraftZooms::PLAIN),
            (rows(100_000, "POINT", CITY, 0.0), 14, DraftZooms { clusters_to: Some(13), ..DraftZooms::PLAIN }),
            // Countries fill tiles at any depth.
            (rows(250, "MULTIPOLYGON", WORLD, 0.08), 9, DraftZooms::PLAIN),
            // Their coasts are in fine detail: 550,000 vertices.
            (
                GeometryRows { mean_vertices: 2_200.0, ..rows(250, "MULTIPOLYGON", WORLD, 0.08) },
                9,
                DraftZooms { simplified_to: Some(2), ..DraftZooms::PLAIN },
            ),
            // Buildings of 15 m.
            (rows(50_000, "POLYGON", CITY, 0.001), 14, DraftZooms { first: 12, ..DraftZooms::PLAIN }),
            // Two million of 20 m all over a country, in towns. No tile is too large once they can be seen.
            (
                in_towns(rows(2_000_000, "POLYGON", COUNTRY, 2.6e-5), 400_000.0, 0.0),
                14,
                DraftZooms { first: 12, ..EACH },
            ),
            // Parcels of one city: crowded while they are smaller than 4 pixels, and one zoom more.
            (
                in_towns(rows(500_000, "POLYGON", CITY, 0.0015), 100.0, 0.0),
                14,
                DraftZooms { first: 13, thins: true, ..EACH },
            ),
            // Roads, which are crowded as long as they are 16 pixels long on average.
            (
                in_towns(rows(500_000, "LINESTRING", COUNTRY, 0.0005), 50_000.0, 0.0),
                14,
                DraftZooms { first: 10, ..EACH },
            ),
            // Houses with forests among them, which are drawn four zooms before.
            (
                in_towns(rows(500_000, "POLYGON", COUNTRY, 5.2e-5), 50_000.0, 0.01),
                14,
                DraftZooms { first: 7, large_to: Some(10), ..EACH },
            ),
            // All over a continent, each alone.
            (in_towns(rows(500_000, "POLYGON", COUNTRY, 2.6e-5), 500_000.0, 0.0), 14, DraftZooms { first: 12, ..EACH }),
            (rows(0, "POINT", CITY, 0.0), 14, DraftZooms::PLAIN),
        ] {
            let size = LayerSize::of(&found);
            assert_eq!(last_zoom(&[size]), last, "{found:?}");
            assert_eq!(size.zooms(last), zooms, "{found:?}");
        }
    }
}
