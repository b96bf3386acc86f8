//! The values from which the survey folds the aggregates of cells, as SQL.

use tokio_postgres::types::Type;

use super::aggregates::AggregateCall;
use crate::cells::Fold;

/// The values from which a layer's aggregates are folded, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldedValues(pub(in crate::postgis) Vec<FoldedValue>);

/// A value of each row, and how it is folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgis) struct FoldedValue {
    /// SQL over a row.
    pub(in crate::postgis) sql: String,
    pub(in crate::postgis) fold: Fold,
    pub(in crate::postgis) kind: ValueKind,
}

/// The type of a value, as far as it matters for reading its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgis) enum ValueKind {
    Bool,
    Int2,
    Int4,
    Int8,
    /// Days.
    Date,
    /// Microseconds.
    Timestamp,
    /// Microseconds.
    TimestampTz,
    /// Values that are equal if, and only if, their bytes are equal.
    Bytes,
}

impl FoldedValues {
    /// The values as SQL over a row.
    pub(in crate::postgis) fn values(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|value| value.sql.as_str())
    }

    /// The SQL that replaces a call; `column` returns the name of the column with the folded value of a number.
    pub(in crate::postgis) fn replacement(&self, call: &AggregateCall<'_>, column: impl Fn(usize) -> String) -> String {
        let folded = |fold: Fold| {
            let sql = call.value(fold);
            let number = self.0.iter().position(|value| value.fold == fold && value.sql == sql).unwrap_or(self.0.len());
            let exact = self.0.get(number).is_some_and(FoldedValue::is_numeric);
            format!("{}{}", column(number), if exact { "::numeric" } else { "" })
        };
        match call.function.folds() {
            // The same division as that of avg() over integers (int8_avg, numeric_poly_avg).
            [sum, count] => format!("({}::numeric / nullif({}, 0)::numeric)", folded(*sum), folded(*count)),
            [fold, ..] => folded(*fold),
            [] => String::new(),
        }
    }

    /// The types of the folded values as parameters.
    pub(in crate::postgis) fn types(&self) -> impl Iterator<Item = Type> {
        self.0.iter().map(FoldedValue::folded_type)
    }
}

impl FoldedValue {
    /// True if the folded value may exceed a bigint, because it is a sum of bigints. It is then sent as text.
    fn is_numeric(&self) -> bool {
        self.fold == Fold::Sum && self.kind == ValueKind::Int8
    }

    /// The type of the array parameter with the folded values of some cells.
    pub(in crate::postgis) fn folded_type(&self) -> Type {
        match (self.fold, self.kind) {
            (Fold::Sum, ValueKind::Int8) => Type::TEXT_ARRAY,
            (Fold::Values | Fold::Distinct | Fold::Sum, _) | (_, ValueKind::Int8) => Type::INT8_ARRAY,
            (_, ValueKind::Bool) => Type::BOOL_ARRAY,
            (_, ValueKind::Int2) => Type::INT2_ARRAY,
            (_, ValueKind::Int4) => Type::INT4_ARRAY,
            (_, ValueKind::Date) => Type::DATE_ARRAY,
            (_, ValueKind::Timestamp) => Type::TIMESTAMP_ARRAY,
            (_, ValueKind::TimestampTz) => Type::TIMESTAMPTZ_ARRAY,
            (_, ValueKind::Bytes) => Type::BYTEA_ARRAY,
        }
    }
}
