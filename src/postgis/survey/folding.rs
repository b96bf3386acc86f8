//! The choice of the aggregates that the survey folds while it reads the rows, so that no row is read again for each zoom.
//!
//! The aggregate calls are found in the text of the expressions. The server then checks the result: it rejects an expression that still names a
//! column or another aggregate.

use tokio_postgres::Row;

use crate::cells::{Fold, WantedFolds};
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Snapshot};
use crate::postgis::sql::{self, AggregateFunction, FoldedValue, FoldedValues, ValueKind};

impl ValueKind {
    /// The kind of a type by its name in `format_type`; `None` if its values are not folded. Texts are folded only if the database has no collation
    /// in which different bytes are equal (`texts_are_bytes`).
    fn of(name: &str, texts_are_bytes: bool) -> Option<ValueKind> {
        Some(match name {
            "boolean" => ValueKind::Bool,
            "smallint" => ValueKind::Int2,
            "integer" => ValueKind::Int4,
            "bigint" => ValueKind::Int8,
            "date" => ValueKind::Date,
            "timestamp without time zone" => ValueKind::Timestamp,
            "timestamp with time zone" => ValueKind::TimestampTz,
            "uuid" => ValueKind::Bytes,
            "text" | "character varying" if texts_are_bytes => ValueKind::Bytes,
            _ => return None,
        })
    }

    /// True if folding values of this kind gives the same result as the server's function.
    fn suits(self, function: AggregateFunction) -> bool {
        let is_integer = matches!(self, ValueKind::Int2 | ValueKind::Int4 | ValueKind::Int8);
        match function {
            AggregateFunction::Count | AggregateFunction::CountDistinct => true,
            AggregateFunction::Min | AggregateFunction::Max => !matches!(self, ValueKind::Bool | ValueKind::Bytes),
            AggregateFunction::Sum | AggregateFunction::Average => is_integer,
            AggregateFunction::And | AggregateFunction::Or => self == ValueKind::Bool,
        }
    }
}

impl FoldedValues {
    /// The values from which all aggregates of a layer can be folded; `None` if not all of them can be folded, or there are no aggregates.
    ///
    /// # Errors
    /// If the session is lost, or a stop was requested.
    pub(in crate::postgis) async fn look_up(snapshot: &Snapshot, layer: &Layer) -> Result<Option<FoldedValues>, Error> {
        let keeps_lone = layer.keeps_lone();
        // A lone row is read again by its position, which requires a closed formula.
        let finds_lone_rows = !keeps_lone || layer.shape.has_closed_form_points() && !layer.shape.geography;
        if layer.cells().is_none() || layer.asks_each_tile() || !finds_lone_rows {
            return Ok(None);
        }
        let calls: Option<Vec<_>> = layer.aggregates().map(sql::calls).collect();
        let calls = calls.map(|calls| calls.concat()).filter(|calls| keeps_lone || !calls.is_empty());
        let Some(calls) = calls else { return Ok(None) };
        let context = format!("layer \"{}\", looking at its aggregates", layer.name);
        let wanted: Vec<(AggregateFunction, Fold, String)> = calls
            .iter()
            .flat_map(|call| call.function.folds().iter().map(|fold| (call.function, *fold, call.value(*fold))))
            .collect();
        let values: Vec<&str> = wanted.iter().map(|(.., value)| value.as_str()).collect();
        let Some(row) = accepted_row(snapshot, &context, &sql::fold_types(layer, &values)).await? else {
            return Ok(None);
        };
        let (types, texts_are_bytes, are_builtin): (Vec<String>, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !are_builtin {
            tracing::debug!("{context}: the database has other functions with the names of aggregate functions");
            return Ok(None);
        }
        let mut folds = FoldedValues(Vec::new());
        for ((function, fold, sql), name) in wanted.into_iter().zip(types) {
            let Some(kind) =
                ValueKind::of(&name, texts_are_bytes).filter(|kind| fold == Fold::Values || kind.suits(function))
            else {
                tracing::debug!("{context}: a value of type {name} is not folded");
                return Ok(None);
            };
            let value = FoldedValue { sql, fold, kind };
            if !folds.0.contains(&value) {
                folds.0.push(value);
            }
        }
        let found = accepted_row(snapshot, &context, &sql::needs_only_folds(layer, &folds)).await?;
        if found.is_some() {
            tracing::debug!("layer \"{}\": its aggregates are folded while its rows are read", layer.name);
        }
        Ok(found.map(|_| folds))
    }

    /// The folds that a survey must compute.
    pub(in crate::postgis) fn wanted_folds(&self, layer: &Layer) -> WantedFolds {
        WantedFolds { folds: self.0.iter().map(|value| value.fold).collect(), few_lone: layer.keeps_lone() }
    }
}

/// The row of a statement; `None` if the server rejects the statement. The snapshot stays usable.
async fn accepted_row(snapshot: &Snapshot, context: &str, sql: &str) -> Result<Option<Row>, Error> {
    let session = &snapshot.keeper;
    session.set_savepoint().await?;
    match session.one(context, sql, &[]).await {
        Ok(row) => Ok(Some(row)),
        Err(Error::Query { source, .. }) => {
            tracing::debug!("{context}: {source}");
            session.return_to_savepoint().await?;
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_fold_like_the_servers_are_folded() {
        assert_eq!(ValueKind::of("numeric", true), None, "1.0 and 1.00 are equal");
        assert_eq!(ValueKind::of("text", false), None, "different texts may be equal in a collation");
        assert!(!ValueKind::Bytes.suits(AggregateFunction::Max), "the order of texts is the server's");
        assert!(ValueKind::Date.suits(AggregateFunction::Max) && !ValueKind::Date.suits(AggregateFunction::Sum));
        assert!(ValueKind::Bool.suits(AggregateFunction::And) && !ValueKind::Int2.suits(AggregateFunction::Or));
    }
}
