//! What must be logged about one table, for one layer or several.

use std::collections::BTreeSet;

use super::table::Table;
use crate::changes::error::ChangeLogError;
use crate::changes::log::WatchFacts;
use crate::postgis::quoted;
use crate::suggested::SEED;

/// Where the positions of a row come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::changes) enum WatchSource {
    /// A column of type geometry or geography.
    Column(String),
    /// A query over the row. It is evaluated when the log is read; the log holds the columns to which it refers.
    Query {
        /// The query.
        sql: String,
        /// The columns.
        logged: Vec<String>,
    },
}

/// What one layer needs to be logged about one table.
#[derive(Debug, Clone)]
pub(in crate::changes) struct WatchRequest {
    /// The layer's name.
    pub(in crate::changes) layer: String,
    /// The OID of the table.
    pub(in crate::changes) relation: u32,
    /// Schema and table, quoted.
    pub(in crate::changes) name: String,
    pub(in crate::changes) source: WatchSource,
    /// The columns whose changes are visible on the map; `None` for all columns.
    pub(in crate::changes) columns: Option<BTreeSet<String>>,
}

/// A watch that an install makes or keeps: the first request for it, and the columns of all requests.
pub(in crate::changes) struct PlannedWatch {
    pub(in crate::changes) request: WatchRequest,
    pub(in crate::changes) table: Table,
    pub(in crate::changes) columns: BTreeSet<String>,
}

impl PlannedWatch {
    /// True if this is the installed watch `known`.
    pub(in crate::changes) fn is_installed_as(&self, known: &WatchFacts) -> bool {
        let (geometry, query) = self.source();
        known.relation == self.request.relation
            && known.geometry.as_deref() == geometry
            && known.query.as_deref() == query
    }

    /// The geometry column or the query that returns the positions; the other one is `None`.
    pub(in crate::changes) fn source(&self) -> (Option<&str>, Option<&str>) {
        match &self.request.source {
            WatchSource::Column(name) => (Some(name), None),
            WatchSource::Query { sql, .. } => (None, Some(sql)),
        }
    }

    /// The columns whose changes matter to the layer of `request`.
    pub(in crate::changes) fn needed_columns(&self, request: &WatchRequest) -> Vec<String> {
        match &request.columns {
            Some(columns) => columns.iter().cloned().collect(),
            None => self.table.columns.iter().map(|column| column.name.clone()).collect(),
        }
    }

    /// Returns an error if the triggers would miss changes of the table.
    ///
    /// # Errors
    /// [`ChangeLogError::NotTrackable`].
    pub(in crate::changes) fn check(&self) -> Result<(), ChangeLogError> {
        let refused = |what: String, next: &str| {
            Err(ChangeLogError::NotTrackable { layer: self.request.layer.clone(), what, next: next.to_owned() })
        };
        let table = &self.request.name;
        let logged = match &self.request.source {
            WatchSource::Column(name) => {
                if let Some(column) = self.table.column(name).filter(|column| !column.is_spatial) {
                    let (name, kind) = (quoted(name), &column.type_text);
                    if !matches!(column.kind.as_str(), "geometry" | "geography") {
                        return refused(
                            format!("{name} of {table} is of the domain {kind}, whose changes no trigger logs"),
                            "Give the column the type beneath the domain (ALTER TABLE … ALTER COLUMN … TYPE geometry), or run seed each time",
                        );
                    }
                    return refused(
                        format!(
                            "{name} of {table} is of type {kind}, which is called as a type of PostGIS, and is none"
                        ),
                        "Name a column of PostGIS's type geometry or geography",
                    );
                }
                &[][..]
            }
            WatchSource::Query { logged, .. } => logged,
        };
        let columns = logged.iter().filter_map(|name| self.table.column(name));
        if let Some(column) = columns.into_iter().find(|column| column.decoding.method.is_none()) {
            let (name, kind) = (quoted(&column.name), &column.type_text);
            return refused(
                format!(
                    "the geometry of [[layer.track]] for {table} refers to {name} of type {kind}, and a value of that type cannot be read back from the change log without running functions of the type's owner"
                ),
                "Write the query without that column. Columns of enums, domains and types of extensions can be referred to",
            );
        }
        for relative in &self.table.relatives {
            let name = &relative.name;
            if relative.kind == "f" {
                return refused(
                    format!(
                        "{table} has the foreign table {name} as a partition or child, whose changes cannot be noted"
                    ),
                    &format!("Take it out, or run {SEED} each time"),
                );
            }
            if relative.persistence == "u" {
                return refused(
                    format!("{name} is unlogged: a crash empties it, and nothing notes that"),
                    &format!("Run ALTER TABLE {name} SET LOGGED, or run {SEED} each time"),
                );
            }
            let missing = self.columns.iter().find(|column| !relative.columns.contains(column));
            if let Some(column) = missing {
                return refused(
                    format!(
                        "rows of {table} are also changed through its parent {name}, which does not have the column {}",
                        quoted(column)
                    ),
                    &format!("Draw the layer from {name}, or add the column there"),
                );
            }
        }
        Ok(())
    }
}
