//! One layer of a draft: its lines, and remarks for the user.

use super::properties::{DraftProperties, names};
use super::text::{list, string, value};
use super::tracks::{ShownPlace, own_track, view_tracks};
use super::zooms::DraftZooms;
use crate::postgis::{DiscoveredRelation, GeometryColumn, GeometryRows, OSM_ID, SpatialKind, quoted};
use crate::suggested::SEED;

/// The most features of a tile at zooms before the last one.
const MAX_TILE_FEATURES: u32 = 20_000;

/// The most bytes of a layer's part of a tile at zooms before the last one.
const MAX_TILE_BYTES: u32 = 500_000;

/// The reference system of a column's geometries, as far as the layer has to name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
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
pub(super) struct LayerDraft<'a> {
    pub(super) name: String,
    pub(super) found: &'a DiscoveredRelation,
    pub(super) geometry: &'a GeometryColumn,
    pub(super) reference: Reference,
    pub(super) zooms: DraftZooms,
    /// The last zoom of the tileset.
    pub(super) last_zoom: u8,
}

/// How a column's geometries are read, or why they cannot be drawn and what would change that.
pub(super) fn reference(
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

    /// True if there is a unique index on this column alone. Such an index may exist without a declared key, because the columns of a
    /// materialized view are never declared NOT NULL.
    fn has_unique_index(&self, column: &str) -> bool {
        self.found.relation.keys.iter().any(|key| key.columns == [column])
    }

    /// Remarks for the user, with the SQL that helps.
    pub(super) fn remarks(&self) -> Vec<String> {
        let relation = &self.found.relation;
        let (table, column) = (relation.quoted(), quoted(&self.geometry.column));
        let mut remarks = Vec::new();
        if relation.kind.is_stored() && !self.geometry.is_indexed {
            remarks.push(format!("{table} has no spatial index on {column}, so every batch reads the whole table. Mend it: CREATE INDEX ON {table} USING gist ({column});"));
        }
        if let Some(count) = self.geometry.rows.as_ref().ok().map(|rows| rows.invalid_areas).filter(|count| *count > 0)
        {
            let mend = match relation.kind {
                SpatialKind::Table | SpatialKind::PartitionedTable => self.makes_valid(&table, &column),
                _ => format!("give {} in its definition", self.made_valid()),
            };
            remarks.push(format!("{table} has polygons that are not valid ({count} of those looked at), such as rings that cross each other: PostGIS may draw them wrongly or leave parts of them out, and a seed takes several times as long where they are large. Mend it: {mend}"));
        }
        if let Some(points) =
            self.geometry.rows.as_ref().ok().map(|rows| rows.points_in_parts).filter(|count| *count > 0)
        {
            let parts = format!("{}.{}", quoted(&relation.schema), quoted(&format!("{}_parts", relation.name)));
            let geometry = self.as_geometry();
            remarks.push(format!("a row of {table} has {points} points in many parts, and each tile that it touches reads all of them. Draw a table of its parts instead (--table chooses the tables), which is several times as fast: CREATE TABLE {parts} AS SELECT row_number() OVER () AS id, part.geom FROM {table}, ST_Dump({geometry}) AS part; ALTER TABLE {parts} ADD PRIMARY KEY (id); CREATE INDEX ON {parts} USING gist (geom);"));
        }
        let is_empty = self.geometry.rows.as_ref().is_ok_and(|rows| rows.rows == 0);
        if is_empty {
            remarks.push(format!("{table} has no row, so its zooms, and what tells rows apart, are not known: fill it, and run oar-tiles init again"));
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
                    // The primary key of a partitioned table has to include its partition columns, and before PostgreSQL 17 such a table has no
                    // identity columns.
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

    /// The column as a geometry.
    fn as_geometry(&self) -> String {
        let cast = if self.geometry.is_geography { "::geometry" } else { "" };
        format!("{}{cast}", quoted(&self.geometry.column))
    }

    /// The statement that makes the polygons of a table valid. Geometries that are not polygons stay as they are.
    fn makes_valid(&self, table: &str, column: &str) -> String {
        let GeometryColumn { shape, srid, is_geography, .. } = self.geometry;
        let (valid, geometry) = (self.made_valid(), self.as_geometry());
        if shape.starts_with("Polygon") {
            // A valid polygon may have several parts.
            let kind = if *is_geography { "geography" } else { "geometry" };
            return format!(
                "ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}(Multi{shape}, {srid}) USING {valid};"
            );
        }
        let are_polygons = if shape.starts_with("MultiPolygon") {
            String::new()
        } else {
            format!(" AND GeometryType({geometry}) IN ('POLYGON', 'MULTIPOLYGON')")
        };
        format!("UPDATE {table} SET {column} = {valid} WHERE NOT ST_IsValid({geometry}){are_polygons};")
    }

    /// The geometries of the column as valid polygons; as multipolygons if the column declares a type of polygons.
    fn made_valid(&self) -> String {
        let valid = format!("ST_CollectionExtract(ST_MakeValid({}), 3)", self.as_geometry());
        let valid = if self.geometry.shape.contains("Polygon") { format!("ST_Multi({valid})") } else { valid };
        if self.geometry.is_geography { format!("{valid}::geography") } else { valid }
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
    pub(super) fn body(&self) -> String {
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
        text.push_str(&format!("geometry = {}\n", value(&self.geometry.column)));
        text.push_str(&match &key {
            RowKey::Columns(columns) => format!("key = {}\n", list(columns)),
            RowKey::Today(column) => format!("key = {}\n", list([column])),
            RowKey::Content { digest, copy } => format!("key = {}\n", list([digest, copy])),
        });
        text.push_str(&properties.inline());
        text.push_str(&format!("zoom = \"{}-22\"\n", self.zooms.first));
        if let Some(before) = self.last_zoom.checked_sub(1) {
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
        let mut columns: Vec<String> = properties.columns().to_vec();
        match key {
            RowKey::Columns(names) => {
                columns.extend(names.iter().filter(|name| !properties.columns().contains(name)).cloned());
            }
            RowKey::Today(name) if !columns.contains(name) => columns.push(name.clone()),
            RowKey::Today(_) | RowKey::Content { .. } => {}
        }
        let mut select: Vec<String> = columns.iter().map(row).collect();
        select.push(format!("{} AS {}", self.place("drawn"), quoted(geometry)));
        if let RowKey::Content { digest, copy } = key {
            // The partitions have one geometry each, so that PostgreSQL can first search the rows of a box and then number them.
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
    pub(super) fn summary(&self) -> String {
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
