//! Lets the server check the expressions of the configuration with statements that read no row and return the
//! expressions' types.

use tokio_postgres::error::SqlState;

use super::layer::{LayerProbe, list, may_hold_letters};
use super::relation::Relation;
use crate::postgis::layer::{BoundProperty, ComputedFrom, Layer, OrderedBytes, Rank, RowZooms};
use crate::postgis::session::{Cause, Error};
use crate::postgis::sql;

impl LayerProbe<'_> {
    /// Lets the server check every expression, and records the types of the properties. Returns the first property
    /// whose texts may hold other characters than ASCII.
    pub(crate) async fn types(&self, layer: &mut Layer, relation: &Relation) -> Result<Option<String>, Error> {
        let mut letters = None;
        let of_rows = self.row_types(layer, relation).await?;
        let of_cells = self.aggregate_types(layer, relation).await?;
        let (mut of_rows, mut of_cells) = (of_rows.into_iter(), of_cells.into_iter());
        for (number, property) in layer.properties.iter_mut().enumerate() {
            let kind = match property.of {
                ComputedFrom::Row => of_rows.next(),
                ComputedFrom::Cell => of_cells.next(),
                ComputedFrom::Tile(_) => Some("integer".to_owned()),
            };
            layer.names = layer.names.and(number, kind.as_deref());
            if letters.is_none() && kind.as_deref().is_none_or(may_hold_letters) {
                letters = Some(property.name.clone());
            }
            property.kind = match kind.as_deref() {
                Some("boolean") => "Boolean",
                Some("smallint" | "integer" | "bigint" | "real" | "double precision") => "Number",
                _ => "String",
            };
        }
        Ok(letters)
    }

    async fn aggregate_types(&self, layer: &Layer, relation: &Relation) -> Result<Vec<String>, Error> {
        let aggregates: Vec<String> = layer.aggregates().map(sql::without_bounds).collect();
        if aggregates.is_empty() {
            return Ok(Vec::new());
        }
        let select: Vec<String> = aggregates.iter().enumerate().map(|(i, sql)| format!("({sql}\n) AS p{i}")).collect();
        let types: Vec<String> = (0..aggregates.len()).map(|i| sql::type_of(&format!("p{i}"))).collect();
        // HAVING rejects window functions and functions that return several rows. Nothing is computed, because there is
        // no group.
        let alone: String = aggregates.iter().map(|sql| format!(" AND ({sql}\n) IS NULL")).collect();
        let having = layer.cells().and_then(|cells| cells.having.as_deref()).map(sql::without_bounds);
        let having = having.map(|having| format!(" AND ({having}\n)")).unwrap_or_default();
        let sql = format!(
            "SELECT ARRAY[{}]::text[] FROM (SELECT) AS one LEFT JOIN (
                SELECT {} FROM (SELECT {}, 1 AS oar_tiles_cell FROM {} WHERE false) AS sorted
                GROUP BY oar_tiles_cell HAVING false{alone}{having}) AS none ON true",
            types.join(", "),
            select.join(", "),
            if layer.columns.is_empty() { layer.geometry.clone() } else { layer.columns.join(", ") },
            layer.relation
        );
        let row = self.session.one(&layer.context(), &sql, &[]).await;
        let row = row.map_err(|error| {
            self.refused(relation, error, |code| {
                let what = if code == Some(&SqlState::GROUPING_ERROR) {
                    "a property of its cells is no aggregate: a cell has many rows"
                } else if needs_other_rows(code) {
                    "a property of its cells, or having, looks at other cells or gives several values"
                } else {
                    "the database does not understand the properties of its cells, or having"
                };
                let next = format!(
                    "Write SQL aggregates such as count(*), sum(…) or max(…) over the columns of {}: {}",
                    layer.display_name,
                    list(&relation.columns)
                );
                (what.to_owned(), next)
            })
        })?;
        Ok(row.get(0))
    }

    async fn row_types(&self, layer: &Layer, relation: &Relation) -> Result<Vec<String>, Error> {
        let properties: Vec<&BoundProperty> = layer.row_properties().collect();
        let select: Vec<String> =
            properties.iter().enumerate().map(|(i, property)| format!("{} AS p{i}", property.sql)).collect();
        let types: Vec<String> = (0..properties.len()).map(|i| sql::type_of(&format!("p{i}"))).collect();
        // The key has other names than the properties: a column of the relation may be called p0.
        let key = layer.key.iter().enumerate().map(|(i, key)| format!("{} AS k{i}", key.quoted));
        let geometry = format!("{} AS g", layer.geometry);
        let select: Vec<String> = select.into_iter().chain(key).chain([geometry]).collect();
        let filter = layer.filter.as_ref().map(|filter| format!("AND ({filter}\n)")).unwrap_or_default();
        // WHERE rejects window functions, aggregates and functions that return several rows. Their values would depend
        // on the rows of the batch.
        let alone: String = properties.iter().map(|property| format!(" AND ({}\n) IS NULL", property.sql)).collect();
        let sql = format!(
            "SELECT ARRAY[{}]::text[] FROM (SELECT) AS one LEFT JOIN (SELECT {} FROM {} WHERE false {filter}{alone}) AS none ON true",
            types.join(", "),
            select.join(", "),
            layer.relation
        );
        let row = self.session.one(&layer.context(), &sql, &[]).await.map_err(|error| {
            self.refused(relation, error, |code| {
                let (what, next) = if needs_other_rows(code) {
                    let what = "a property looks at other rows or gives several values";
                    (what, "Work it out in a query of your own, and draw the layer from that: sql = …".to_owned())
                } else {
                    let (what, columns) =
                        ("the database does not understand properties or where", list(&relation.columns));
                    (what, format!("They are SQL over the columns of {}: {columns}", layer.display_name))
                };
                (what.to_owned(), next)
            })
        })?;
        Ok(row.get(0))
    }

    /// Lets the server check the zooms of rows: each must be a number that depends on one row.
    pub(crate) async fn row_zooms(&self, layer: &Layer, relation: &Relation) -> Result<(), Error> {
        let RowZooms { min, max } = &layer.row_zooms;
        for (key, sql) in [("min_zoom", min), ("max_zoom", max)] {
            let Some(sql) = sql else { continue };
            let statement = format!("SELECT FROM {} WHERE false AND ({sql}\n) <= 0", layer.relation);
            let checked = self.session.all(&layer.context(), &statement, &[]).await;
            checked.map_err(|error| {
                self.refused(relation, error, |code| {
                    let what = if needs_other_rows(code) {
                        format!("{key} looks at other rows or gives several values")
                    } else {
                        format!("the database does not understand {key} as a number")
                    };
                    let columns = list(&relation.columns);
                    let of = &layer.display_name;
                    (what, format!("It is SQL over the columns of {of}, a zoom for each row: {columns}"))
                })
            })?;
        }
        Ok(())
    }

    /// The error of a statement with expressions of the configuration. `why` gets the server's error code, and returns
    /// what is wrong with them and the next step.
    fn refused(
        &self,
        relation: &Relation,
        error: Error,
        why: impl FnOnce(Option<&SqlState>) -> (String, String),
    ) -> Error {
        match error {
            Error::Query { source, .. } if source.code == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
                self.no_right(relation)
            }
            Error::Query { source, .. } => {
                let (what, next) = why(source.code.as_ref());
                Error::Layer { layer: self.options.name.clone(), what, next, source: Some(source) }
            }
            other => other,
        }
    }

    /// Lets the server check the rank: its values must have an order.
    pub(crate) async fn rank(&self, layer: &Layer, relation: &Relation, rank: &str) -> Result<Rank, Error> {
        // Because of the geometry next to the rank, the server rejects an aggregate. A subquery without rows still has
        // the type of the rank.
        let sql = format!(
            "SELECT typcollation <> 0, (
            SELECT base.typname::text FROM pg_type AS base
            WHERE base.oid = CASE pg_type.typtype WHEN 'd' THEN pg_type.typbasetype ELSE pg_type.oid END
                AND base.typnamespace = 'pg_catalog'::regnamespace
        ), current_setting('server_encoding') FROM (
            SELECT pg_typeof((
                SELECT oar_tiles_rank FROM (SELECT ({rank}\n), {} FROM {} WHERE false AND ({rank}
) IS NULL ORDER BY 1 LIMIT 1) AS ranked (oar_tiles_rank)
            )) AS kind
        ) AS found JOIN pg_type ON pg_type.oid = found.kind",
            layer.geometry, layer.relation
        );
        let row = self.session.one(&layer.context(), &sql, &[]).await;
        let row = row.map_err(|error| match error {
            Error::Query { source, .. } => refused_rank(layer, relation, source),
            other => other,
        })?;
        let (kind, encoding): (Option<String>, String) = (row.get(1), row.get(2));
        let read_as = kind.and_then(|kind| OrderedBytes::read_as(&kind, &encoding));
        Ok(Rank { sql: format!("({rank}\n)"), collated: row.get(0), read_as })
    }
}

/// True if the server rejected an expression because it is not a value of one row or one group: it contains a window
/// function or an aggregate, or returns several rows.
fn needs_other_rows(code: Option<&SqlState>) -> bool {
    [SqlState::WINDOWING_ERROR, SqlState::GROUPING_ERROR, SqlState::FEATURE_NOT_SUPPORTED]
        .iter()
        .any(|other| code == Some(other))
}

fn refused_rank(layer: &Layer, relation: &Relation, source: Cause) -> Error {
    let what = if source.code == Some(SqlState::UNDEFINED_FUNCTION) && source.to_string().contains("ordering operator")
    {
        "the values of rank have no order"
    } else {
        "the database does not understand rank"
    };
    Error::Layer {
        layer: layer.name.clone(),
        what: what.to_owned(),
        next: format!(
            "It is SQL over the columns of {}, one value a row, the greater the better: {}",
            layer.relation,
            list(&relation.columns)
        ),
        source: Some(source),
    }
}
