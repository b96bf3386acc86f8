//! Aggregates that the survey folds while it reads the rows, so that no row is read once more for each zoom.
//!
//! Which aggregates that is, is looked up in their text; whether the look was right, the server says: an expression that names
//! a column or an aggregate beside the folded ones does not get through.

use std::collections::HashMap;

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::error::Error;
use super::layer::Layer;
use super::session::Param;
use super::snapshot::Snapshot;
use super::sql::{self, Function};
use crate::cells::{Fold, Folded, WantedFolds};

/// The values that a layer's aggregates are folded from, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folds(Vec<Value>);

/// A value of each row, and how it is folded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    /// SQL over a row.
    sql: String,
    fold: Fold,
    kind: Kind,
}

/// How a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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
    /// Values that are equal if, and only if, their bytes are.
    Bytes,
}

impl Kind {
    /// The kind of a type as `format_type` calls it. Texts are equal by their bytes only where no collation says otherwise.
    fn of(name: &str, texts_are_bytes: bool) -> Option<Kind> {
        Some(match name {
            "boolean" => Kind::Bool,
            "smallint" => Kind::Int2,
            "integer" => Kind::Int4,
            "bigint" => Kind::Int8,
            "date" => Kind::Date,
            "timestamp without time zone" => Kind::Timestamp,
            "timestamp with time zone" => Kind::TimestampTz,
            "uuid" => Kind::Bytes,
            "text" | "character varying" if texts_are_bytes => Kind::Bytes,
            _ => return None,
        })
    }

    /// Whether an aggregate function takes values of the kind, and folds them as the server does.
    fn suits(self, function: Function) -> bool {
        let is_integer = matches!(self, Kind::Int2 | Kind::Int4 | Kind::Int8);
        match function {
            Function::Count | Function::CountDistinct => true,
            Function::Min | Function::Max => !matches!(self, Kind::Bool | Kind::Bytes),
            Function::Sum | Function::Average => is_integer,
            Function::And | Function::Or => self == Kind::Bool,
        }
    }
}

impl Folds {
    /// The aggregates of a layer, if all of them can be folded.
    ///
    /// # Errors
    /// If the session is lost, or a stop was asked for.
    pub(super) async fn look_up(snapshot: &Snapshot, layer: &Layer) -> Result<Option<Folds>, Error> {
        let keeps_lone = layer.keeps_lone();
        // A lone row is looked up where it was seen.
        let is_suited = !keeps_lone || layer.shape.is_closed_form() && !layer.shape.geography;
        if layer.cells.is_none() || layer.asks_each_tile() || !is_suited {
            return Ok(None);
        }
        let calls: Option<Vec<_>> = layer.aggregates().map(sql::calls).collect();
        let calls = calls.map(|calls| calls.concat()).filter(|calls| keeps_lone || !calls.is_empty());
        let Some(calls) = calls else { return Ok(None) };
        let place = format!("layer \"{}\", looking at its aggregates", layer.name);
        let wanted: Vec<(Function, Fold, String)> = calls
            .iter()
            .flat_map(|call| call.function.folds().iter().map(|fold| (call.function, *fold, call.value(*fold))))
            .collect();
        let values: Vec<&str> = wanted.iter().map(|(.., value)| value.as_str()).collect();
        let Some(row) = probed(snapshot, &place, &sql::fold_types(layer, &values)).await? else { return Ok(None) };
        let (types, texts_are_bytes, are_own): (Vec<String>, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !are_own {
            tracing::debug!("{place}: there are other functions of those names");
            return Ok(None);
        }
        let mut folds = Folds(Vec::new());
        for ((function, fold, sql), name) in wanted.into_iter().zip(types) {
            let Some(kind) =
                Kind::of(&name, texts_are_bytes).filter(|kind| fold == Fold::Values || kind.suits(function))
            else {
                tracing::debug!("{place}: a value of type {name} is not folded");
                return Ok(None);
            };
            let value = Value { sql, fold, kind };
            if !folds.0.contains(&value) {
                folds.0.push(value);
            }
        }
        let found = probed(snapshot, &place, &sql::folded_alone(layer, &folds)).await?;
        if found.is_some() {
            tracing::debug!("layer \"{}\": its aggregates are folded while its rows are read", layer.name);
        }
        Ok(found.map(|_| folds))
    }

    /// What a survey has to find out.
    pub(super) fn wanted(&self, layer: &Layer) -> WantedFolds {
        WantedFolds { folds: self.0.iter().map(|value| value.fold).collect(), few_lone: layer.keeps_lone() }
    }

    /// The values as SQL over a row.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|value| value.sql.as_str())
    }

    /// What stands for a call: `column` gives the SQL of the folded value with a number.
    pub(super) fn stands_for(&self, call: &sql::Call<'_>, column: impl Fn(usize) -> String) -> String {
        let folded = |fold: Fold| {
            let sql = call.value(fold);
            let number = self.0.iter().position(|value| value.fold == fold && value.sql == sql).unwrap_or(self.0.len());
            let exact = self.0.get(number).is_some_and(Value::is_numeric);
            format!("{}{}", column(number), if exact { "::numeric" } else { "" })
        };
        match call.function.folds() {
            // As avg() of integers divides (int8_avg, numeric_poly_avg).
            [sum, count] => format!("({}::numeric / nullif({}, 0)::numeric)", folded(*sum), folded(*count)),
            [fold, ..] => folded(*fold),
            [] => String::new(),
        }
    }

    /// The types of the folded values as parameters.
    pub(super) fn types(&self) -> impl Iterator<Item = Type> {
        self.0.iter().map(Value::folded_type)
    }

    /// The folded values of some cells as parameters, one array a fold.
    pub(super) fn columns(&self) -> Vec<FoldColumn> {
        self.0.iter().map(|value| FoldColumn { value: value.clone(), cells: Vec::new() }).collect()
    }
}

/// The answer to a question that the server may refuse; the snapshot outlives that.
async fn probed(snapshot: &Snapshot, place: &str, sql: &str) -> Result<Option<Row>, Error> {
    let session = &snapshot.keeper;
    session.save().await?;
    match session.one(place, sql, &[]).await {
        Ok(row) => Ok(Some(row)),
        Err(Error::Query { source, .. }) => {
            tracing::debug!("{place}: {source}");
            session.restart().await?;
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

impl Value {
    /// A sum of bigints, which may be greater than one: it is sent as text.
    fn is_numeric(&self) -> bool {
        self.fold == Fold::Sum && self.kind == Kind::Int8
    }

    fn folded_type(&self) -> Type {
        match (self.fold, self.kind) {
            (Fold::Sum, Kind::Int8) => Type::TEXT_ARRAY,
            (Fold::Values | Fold::Distinct | Fold::Sum, _) | (_, Kind::Int8) => Type::INT8_ARRAY,
            (_, Kind::Bool) => Type::BOOL_ARRAY,
            (_, Kind::Int2) => Type::INT2_ARRAY,
            (_, Kind::Int4) => Type::INT4_ARRAY,
            (_, Kind::Date) => Type::DATE_ARRAY,
            (_, Kind::Timestamp) => Type::TIMESTAMP_ARRAY,
            (_, Kind::TimestampTz) => Type::TIMESTAMPTZ_ARRAY,
            (_, Kind::Bytes) => Type::BYTEA_ARRAY,
        }
    }
}

/// The folded values of some cells.
pub(super) struct FoldColumn {
    value: Value,
    cells: Vec<Option<Image>>,
}

impl FoldColumn {
    /// Adds the value of another cell.
    pub(super) fn push(&mut self, folded: Folded) {
        let value = &self.value;
        self.cells.push(folded.map(|folded| {
            let bytes = folded.to_be_bytes();
            Image(match value.folded_type() {
                Type::TEXT_ARRAY => folded.to_string().into_bytes(),
                Type::BOOL_ARRAY => bytes[15..].into(),
                Type::INT2_ARRAY => bytes[14..].into(),
                Type::INT4_ARRAY | Type::DATE_ARRAY => bytes[12..].into(),
                _ => bytes[8..].into(),
            })
        }));
    }

    pub(super) fn param(&self) -> Param<'_> {
        (&self.cells, self.value.folded_type())
    }
}

/// A value as the protocol has it in binary form (PostgreSQL documentation, section 55.7).
#[derive(Debug)]
struct Image(Vec<u8>);

impl ToSql for Image {
    fn to_sql(&self, _kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The same of a row.
struct Seen<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Seen<'a> {
    fn from_sql(_kind: &Type, raw: &'a [u8]) -> Result<Seen<'a>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Seen(raw))
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }
}

/// Reads the values of rows.
#[derive(Debug)]
pub(super) struct Reader {
    values: Vec<Value>,
    /// The column of the first value.
    first: usize,
    /// For each value the different ones, numbered as they are found.
    known: Vec<HashMap<Box<[u8]>, i64>>,
    /// What these take, in bytes.
    bytes: usize,
}

/// What different values may take in all, in bytes: the bound on memory.
const MOST_KNOWN: usize = 64 << 20;

/// What one takes beside its own bytes.
const EACH_KNOWN: usize = 64;

impl Reader {
    /// Of rows that have the values in their last columns, beginning at `first`.
    pub(super) fn new(folds: &Folds, first: usize) -> Reader {
        Reader { values: folds.0.clone(), first, known: folds.0.iter().map(|_| HashMap::new()).collect(), bytes: 0 }
    }

    /// Adds the values of a row to those of others; false if there are too many different ones, or one that cannot be read: the layer is then left to the server.
    pub(super) fn read(&mut self, row: &Row, read: &mut Vec<Option<i64>>) -> bool {
        for ((value, known), column) in self.values.iter().zip(&mut self.known).zip(self.first..) {
            let Some(Seen(raw)) = row.get::<_, Option<Seen<'_>>>(column) else {
                read.push(None);
                continue;
            };
            let number = match value.fold {
                Fold::Distinct => known.get(raw).copied().unwrap_or_else(|| {
                    #[expect(clippy::cast_possible_wrap, reason = "at most MOST_KNOWN")]
                    let number = known.len() as i64;
                    known.insert(raw.into(), number);
                    self.bytes += raw.len() + EACH_KNOWN;
                    number
                }),
                Fold::Values => 1,
                Fold::Least | Fold::Greatest | Fold::Sum => match integer(raw) {
                    Some(integer) => integer,
                    None => return false,
                },
            };
            read.push(Some(number));
        }
        self.bytes <= MOST_KNOWN
    }
}

/// An integer of up to eight bytes; of a boolean, 0 or 1. `None` if it is none of the lengths that integers have.
fn integer(raw: &[u8]) -> Option<i64> {
    if let [byte] = *raw {
        return Some(byte.into());
    }
    let wide = raw.try_into().map(i64::from_be_bytes);
    let word = || raw.try_into().map(|bytes| i32::from_be_bytes(bytes).into());
    let short = || raw.try_into().map(|bytes| i16::from_be_bytes(bytes).into());
    wide.or_else(|_| word()).or_else(|_| short()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_and_written_as_the_protocol_has_them() {
        assert_eq!(integer(&[1]), Some(1));
        assert_eq!(integer(&[0xff, 0xfe]), Some(-2));
        assert_eq!(integer(&(-70_000_i32).to_be_bytes()), Some(-70_000));
        assert_eq!(integer(&i64::MIN.to_be_bytes()), Some(i64::MIN));
        assert_eq!(integer(&[0; 12]), None);
        let written = |fold, kind, folded| {
            let mut column = FoldColumn { value: Value { sql: String::new(), fold, kind }, cells: Vec::new() };
            column.push(Some(folded));
            column.cells.remove(0).unwrap().0
        };
        assert_eq!(written(Fold::Least, Kind::Int2, -2), [0xff, 0xfe]);
        assert_eq!(written(Fold::Greatest, Kind::Date, -1), [0xff; 4]);
        assert_eq!(written(Fold::Least, Kind::Bool, 1), [1]);
        assert_eq!(written(Fold::Sum, Kind::Int2, 65_536), 65_536_i64.to_be_bytes());
        assert_eq!(written(Fold::Distinct, Kind::Bytes, 3), 3_i64.to_be_bytes());
        assert_eq!(written(Fold::Sum, Kind::Int8, i128::from(i64::MAX) * 2), b"18446744073709551614");
    }

    #[test]
    fn only_what_is_folded_as_the_server_does_suits() {
        assert_eq!(Kind::of("numeric", true), None, "1.0 and 1.00 are equal");
        assert_eq!(Kind::of("text", false), None, "a collation may take different texts for equal");
        assert!(!Kind::Bytes.suits(Function::Max), "the order of texts is the server's");
        assert!(Kind::Date.suits(Function::Max) && !Kind::Date.suits(Function::Sum));
        assert!(Kind::Bool.suits(Function::And) && !Kind::Int2.suits(Function::Or));
    }
}
