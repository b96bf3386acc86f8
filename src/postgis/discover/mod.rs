//! Discovers what can be drawn from a database: tables and views with a geometry, and functions that return tiles,
//! described by the catalog and by their rows.
//!
//! | file | what |
//! |---|---|
//! | `catalog` | the relations, their columns, keys, indexes and rights; the tables beneath a view; functions that return tiles |
//! | `rows` | what only rows show: reference systems, types, extent, and which columns identify rows |
//! | `spread` | where lines and polygons are dense |
//!
//! `oar-tiles init` writes the result as a configuration; `seed --table` uses it directly.

mod catalog;
mod rows;
mod spread;

use std::collections::BTreeMap;

use catalog::{functions, relations, view_reads};
use rows::{distinct_column, filled_columns, look_at};

use super::layer::{Layer, LayerOptions, RowZooms};
use super::probe::{FlawedRows, LayerProbe, RowSecurity, names_and_locks, row_security, row_security_warning, server};
use super::session::{Error, Session, Snapshot};
use crate::error::ErrorKind;

pub(crate) use catalog::{CatalogColumn, SpatialFunction, SpatialKind, SpatialRelation, TableLink, ViewRead};
pub(crate) use rows::{ColumnExtent, GeometryRows, OSM_ID};
#[cfg(test)]
pub(crate) use spread::ShapeSpread;
pub(crate) use spread::{DEEPEST, LARGE_ZOOMS, WorldShare};

/// A column with geometries, as a layer would draw it.
#[derive(Debug, Clone)]
pub(crate) struct GeometryColumn {
    pub column: String,
    /// True if its type is geography.
    pub(crate) is_geography: bool,
    /// The geometry type that the column declares, such as "Point"; "Geometry" for any.
    pub shape: String,
    /// The SRID that the column declares; 0 if it declares none.
    pub(crate) srid: i32,
    /// True if it has a spatial index.
    pub(crate) is_indexed: bool,
    /// What its rows show, or the reason why they cannot be read.
    pub rows: Result<GeometryRows, String>,
}

/// A relation with everything that is known about it.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveredRelation {
    /// What the catalog says.
    pub relation: SpatialRelation,
    /// Its columns with geometries that the role may read.
    pub(crate) geometries: Vec<GeometryColumn>,
    /// For a relation without a key: the one column that identifies the present rows.
    pub(crate) distinct: Option<String>,
    /// For a relation with many columns: the number of rows of a sample in which each column has a value; else empty.
    pub(crate) filled: BTreeMap<String, u64>,
    pub reads: Vec<ViewRead>,
}

/// What can be drawn from a database.
#[derive(Debug, Clone)]
pub(crate) struct Discovery {
    pub database: String,
    /// The relations that were wanted, by schema and name.
    pub(crate) relations: Vec<DiscoveredRelation>,
    /// The functions that return tiles and were wanted, by schema and name.
    pub(crate) functions: Vec<SpatialFunction>,
    /// The names of all relations with a geometry, wanted or not.
    pub names: Vec<String>,
}

/// Looks at every relation with a geometry that `is_wanted` by its schema and name.
pub(crate) async fn discover(snapshot: &Snapshot, is_wanted: impl Fn(&str, &str) -> bool) -> Result<Discovery, Error> {
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

// Checks whether layers can be drawn. Each layer is probed separately, so that an error in one layer does not hide
// errors in others.

#[derive(Debug)]
pub(crate) struct LayerTrial {
    /// The layer's name.
    pub layer: String,
    pub warnings: Vec<String>,
    /// Rows that jump across ±180°, are not valid, or have very many vertices.
    pub(crate) flaws: Vec<FlawedRows>,
    /// The warning that policies may hide rows of tables that this layer reads and no earlier layer does.
    pub(crate) row_security: Option<String>,
    /// Why the layer cannot be drawn; empty if it can be drawn. The first error is the one that a run would report; a
    /// run would report the others once the first is fixed.
    pub(crate) errors: Vec<Error>,
}

/// Probes each layer. With `with_validity`, some of its shapes are checked for whether they are valid, and how many
/// vertices they have.
pub(crate) async fn try_layers(
    snapshot: &Snapshot,
    layers: &[LayerOptions],
    with_validity: bool,
) -> Result<Vec<LayerTrial>, Error> {
    let session = &snapshot.keeper;
    let encoding = super::probe::server(session).await?.encoding;
    let mut trials = Vec::new();
    let mut said: Vec<RowSecurity> = Vec::new();
    for options in layers {
        let mut warnings = Vec::new();
        let (mut errors, mut flaws, mut drawn) = (Vec::new(), Vec::new(), None);
        let tried = async {
            let layer = try_layer(session, options, &encoding, &mut warnings).await?;
            flaws.extend(FlawedRows::jumping(session, &layer).await?);
            drawn = Some(layer);
            Ok(())
        };
        if let Some(error) = Box::pin(objection(session, tried)).await? {
            errors.push(error);
            let mut wrong = Vec::new();
            let columns = async { LayerProbe { session, options }.wrong_columns().await.map(|found| wrong = found) };
            errors.extend(Box::pin(objection(session, columns)).await?);
            errors.append(&mut wrong);
            for alone in parts_alone(options) {
                let named = async { LayerProbe { session, options: &alone }.names().await.map(drop) };
                errors.extend(Box::pin(objection(session, named)).await?);
            }
            keep_different(&mut errors);
        }
        if let Some(layer) = drawn.filter(|_| with_validity) {
            let looked = async {
                let invalid = FlawedRows::invalid(session, &layer).await?;
                let large = FlawedRows::large(session, &layer, invalid.is_none()).await?;
                flaws.extend(invalid.into_iter().chain(large));
                Ok(())
            };
            if let Some(error) = Box::pin(objection(session, looked)).await? {
                tracing::debug!("layer \"{}\": its shapes were not checked: {error}", layer.name());
            }
        }
        // The transaction still has the locks of earlier layers.
        let mut hiding = row_security(session).await?;
        hiding.retain(|one| !said.contains(one));
        let row_security = row_security_warning(&hiding);
        said.append(&mut hiding);
        trials.push(LayerTrial { layer: options.name.clone(), warnings, flaws, row_security, errors });
    }
    Ok(trials)
}

/// The error of the probe or of the database, if there is one. The transaction goes on after it.
async fn objection(session: &Session, work: impl Future<Output = Result<(), Error>>) -> Result<Option<Error>, Error> {
    session.set_savepoint().await?;
    match work.await {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::Failed) => {
            session.return_to_savepoint().await?;
            Ok(Some(error))
        }
        Err(error) => Err(error),
    }
}

/// Copies of the layer, each with only one of the expressions that the database checks, because the database reports
/// only the first wrong one.
fn parts_alone(options: &LayerOptions) -> Vec<LayerOptions> {
    let mut bare = options.clone();
    (bare.properties, bare.filter, bare.row_zooms) = (Some(Vec::new()), None, RowZooms::default());
    bare.budget.rank = None;
    let mut parts: Vec<LayerOptions> = Vec::new();
    for property in options.properties.iter().flatten() {
        parts.push(LayerOptions { properties: Some(vec![property.clone()]), ..bare.clone() });
    }
    parts.push(LayerOptions { filter: options.filter.clone(), ..bare.clone() });
    let RowZooms { min, max } = options.row_zooms.clone();
    parts.push(LayerOptions { row_zooms: RowZooms { min, max: None }, ..bare.clone() });
    parts.push(LayerOptions { row_zooms: RowZooms { min: None, max }, ..bare.clone() });
    parts.push(LayerOptions { budget: options.budget.clone(), ..bare });
    parts
}

/// Removes duplicate errors.
fn keep_different(errors: &mut Vec<Error>) {
    let mut seen = Vec::new();
    errors.retain(|error| {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let is_new = !seen.contains(&(error.to_string(), cause.clone()));
        seen.push((error.to_string(), cause));
        is_new
    });
}

async fn try_layer(
    session: &Session,
    options: &LayerOptions,
    encoding: &str,
    warnings: &mut Vec<String>,
) -> Result<Layer, Error> {
    let (mut named, _locks) = names_and_locks(session, std::slice::from_ref(options)).await?;
    // One layer was named.
    named.remove(0).rows(encoding, warnings).await
}
