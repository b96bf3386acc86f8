//! Discovers what can be drawn from a database: tables and views with a geometry, and functions that return tiles, described by the catalog and by
//! their rows.
//!
//! | file | what |
//! |---|---|
//! | `catalog` | the relations, their columns, keys, indexes and rights; the tables beneath a view |
//! | `functions` | functions that return tiles |
//! | `rows` | what only rows show: reference systems, types, extent, and which columns identify rows |
//! | `usable` | whether layers over them can be drawn, which the probe of each layer by itself finds out |
//!
//! `oar-tiles init` writes the result as a configuration; `seed --table` uses it directly.

mod catalog;
mod functions;
mod rows;
mod usable;

use std::collections::BTreeMap;

use super::session::{Error, Snapshot};
use crate::postgis::probe::server;
use catalog::{relations, view_reads};
use functions::functions;
use rows::{distinct_column, filled_columns, look_at};

pub use catalog::{
    CatalogColumn, CatalogKey, ColumnLink, SpatialKind, SpatialRelation, TableLink, ViewGeometry, ViewRead,
};
pub use functions::SpatialFunction;
pub use rows::{ColumnExtent, GeometryRows, OSM_ID};
pub use usable::{LayerTrial, try_layers};

/// A column with geometries, as a layer would draw it.
#[derive(Debug, Clone)]
pub struct GeometryColumn {
    /// Its name.
    pub column: String,
    /// True if its type is geography.
    pub is_geography: bool,
    /// The geometry type that the column declares, such as "Point"; "Geometry" for any.
    pub shape: String,
    /// The SRID that the column declares; 0 if it declares none.
    pub srid: i32,
    /// True if it has a spatial index.
    pub is_indexed: bool,
    /// What its rows show, or the reason why they cannot be read.
    pub rows: Result<GeometryRows, String>,
}

/// A relation with everything that is known about it.
#[derive(Debug, Clone)]
pub struct DiscoveredRelation {
    /// What the catalog says.
    pub relation: SpatialRelation,
    /// Its columns with geometries that the role may read.
    pub geometries: Vec<GeometryColumn>,
    /// For a relation without a key: the one column that identifies the present rows.
    pub distinct: Option<String>,
    /// For a relation with many columns: the number of rows of a sample in which each column has a value; else empty.
    pub filled: BTreeMap<String, u64>,
    /// For a view: the tables that it reads.
    pub reads: Vec<ViewRead>,
}

/// What can be drawn from a database.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The name of the database.
    pub database: String,
    /// The relations that were wanted, by schema and name.
    pub relations: Vec<DiscoveredRelation>,
    /// The functions that return tiles and were wanted, by schema and name.
    pub functions: Vec<SpatialFunction>,
    /// The names of all relations with a geometry, wanted or not.
    pub names: Vec<String>,
}

/// Looks at every relation with a geometry that `is_wanted` by its schema and name.
///
/// # Errors
/// If PostGIS is missing or too old, or the database is lost.
pub async fn discover(snapshot: &Snapshot, is_wanted: impl Fn(&str, &str) -> bool) -> Result<Discovery, Error> {
    let session = &snapshot.keeper;
    let database = server(session).await?.identity.name;
    let found = relations(session).await?;
    let names = found.iter().map(SpatialRelation::name_for_people).collect();
    let mut discovered = Vec::new();
    for relation in found {
        if !is_wanted(&relation.schema, &relation.name) {
            continue;
        }
        let mut geometries = Vec::new();
        for column in relation.columns.iter().filter(|column| column.is_spatial) {
            let rows = look_at(session, &relation, column).await?;
            geometries.push(GeometryColumn {
                column: column.name.clone(),
                is_geography: column.base == "geography",
                shape: column.shape.trim_end_matches(['Z', 'M']).to_owned(),
                srid: column.srid,
                is_indexed: relation.indexed.contains(&column.name),
                rows,
            });
        }
        let reads =
            if relation.kind == SpatialKind::View { view_reads(session, relation.oid).await? } else { Vec::new() };
        let distinct = if relation.key().is_none() && relation.is_readable() {
            let are_points = geometries.iter().all(|one| one.rows.as_ref().is_ok_and(GeometryRows::are_points));
            distinct_column(session, &relation, &reads, are_points).await?
        } else {
            None
        };
        let filled = filled_columns(session, &relation).await?;
        discovered.push(DiscoveredRelation { relation, geometries, distinct, filled, reads });
    }
    let functions = functions(session).await?;
    let functions = functions.into_iter().filter(|found| is_wanted(&found.schema, &found.name)).collect();
    Ok(Discovery { database, relations: discovered, functions, names })
}
