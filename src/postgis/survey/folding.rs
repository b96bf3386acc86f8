//! The choice of the aggregates that the survey folds while it reads the rows, so that no row is read again for each
//! zoom.
//!
//! The aggregate calls are found in the text of the expressions. The server then checks the result: it rejects an
//! expression that still names a column or another aggregate.

use std::collections::HashMap;
use std::sync::mpsc;

use tokio::task::JoinHandle;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::{position, source_box};
use crate::cells::{CellCounts, CellGrid, Fold, Gathering, Members, WantedFolds};
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Snapshot};
use crate::postgis::sql;
use crate::postgis::sql::{AggregateFunction, FoldedValue, FoldedValues, ValueKind};
use crate::threads::blocking;
use crate::tile::{LayerFootprints, Zoom};

impl ValueKind {
    /// The kind of a type by its name in `format_type`; `None` if its values are not folded. Texts are folded only if
    /// the database has no collation in which different bytes are equal (`texts_are_bytes`).
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
    /// The values from which all aggregates of a layer can be folded; `None` if not all of them can be folded, or there
    /// are no aggregates.
    pub(crate) async fn look_up(snapshot: &Snapshot, layer: &Layer) -> Result<Option<FoldedValues>, Error> {
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
    pub(crate) fn wanted_folds(&self, layer: &Layer) -> WantedFolds {
        let lone_cost = if layer.keeps_lone() { LONE_LOOKUP_COST } else { 0 };
        WantedFolds { folds: self.0.iter().map(|value| value.fold).collect(), lone_cost }
    }
}

/// The number of rows that a survey reads and gathers in the time in which one lone row is looked up.
const LONE_LOOKUP_COST: u64 = 8;

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

// Reads the values that are folded from the rows of a survey.

/// The bytes of a value as the protocol sends them in binary form.
struct RawValue<'a>(&'a [u8]);

impl<'a> FromSql<'a> for RawValue<'a> {
    fn from_sql(_kind: &Type, raw: &'a [u8]) -> Result<RawValue<'a>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(RawValue(raw))
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }
}

/// Reads the values that are folded, as integers.
#[derive(Debug)]
pub(crate) struct FoldReader {
    values: Vec<FoldedValue>,
    first_column: usize,
    /// For each value that is counted by [`Fold::Distinct`]: the distinct values, numbered in the order in which they
    /// were found.
    distinct: Vec<HashMap<Box<[u8]>, i64>>,
    /// The memory of `distinct` in bytes.
    bytes: usize,
}

/// The most memory that all distinct values may take together, in bytes.
const MAX_DISTINCT_BYTES: usize = 64 << 20;

/// The memory of a distinct value in addition to its own bytes.
const DISTINCT_ENTRY_BYTES: usize = 64;

impl FoldReader {
    pub(crate) fn new(folds: &FoldedValues, first_column: usize) -> FoldReader {
        let distinct = folds.0.iter().map(|_| HashMap::new()).collect();
        FoldReader { values: folds.0.clone(), first_column, distinct, bytes: 0 }
    }

    /// Appends the values of a row to `read`. False if a value is not an integer, or the distinct values take too much
    /// memory. The database must then compute the aggregates.
    pub(crate) fn read(&mut self, row: &Row, read: &mut Vec<Option<i64>>) -> bool {
        for ((value, known), column) in self.values.iter().zip(&mut self.distinct).zip(self.first_column..) {
            let Some(RawValue(raw)) = row.get::<_, Option<RawValue<'_>>>(column) else {
                read.push(None);
                continue;
            };
            let number = match value.fold {
                Fold::Distinct => known.get(raw).copied().unwrap_or_else(|| {
                    #[expect(clippy::cast_possible_wrap, reason = "at most MAX_DISTINCT_BYTES")]
                    let number = known.len() as i64;
                    known.insert(raw.into(), number);
                    self.bytes += raw.len() + DISTINCT_ENTRY_BYTES;
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
        self.bytes <= MAX_DISTINCT_BYTES
    }
}

/// An integer of one, two, four or eight bytes; a boolean is 0 or 1. `None` for any other length.
fn integer(raw: &[u8]) -> Option<i64> {
    if let [byte] = *raw {
        return Some(byte.into());
    }
    let wide = raw.try_into().map(i64::from_be_bytes);
    let word = || raw.try_into().map(|bytes| i32::from_be_bytes(bytes).into());
    let short = || raw.try_into().map(|bytes| i16::from_be_bytes(bytes).into());
    wide.or_else(|_| word()).or_else(|_| short()).ok()
}

// Gathers rows in cells while the database still sends them.

/// Gathers rows in cells on its own thread.
pub(crate) struct Gatherer {
    /// True if the boxes of rows are kept, because the layer has no closed formula that finds the rows of an area.
    needs_boxes: bool,
    /// Reads the values that are folded; `None` if rows are only counted.
    reader: Option<FoldReader>,
    /// The rows for the next message.
    next: Members,
    sender: mpsc::Sender<Members>,
    gathering: JoinHandle<Gathering>,
}

pub(crate) struct GatheredCells {
    pub(crate) rows: u64,
    /// Where the cells are drawn.
    pub(crate) footprints: LayerFootprints,
    /// The number of rows and the folded values of each.
    pub(crate) counts: CellCounts,
}

impl Gatherer {
    /// The number of rows that are sent to the thread together.
    const ROWS_PER_MESSAGE: usize = 16_384;

    pub(crate) fn start(layer: &Layer, folds: Option<&FoldedValues>, grid: CellGrid, zooms: &[Zoom]) -> Gatherer {
        let (sender, receiver) = mpsc::channel();
        let needs_boxes = !layer.is_found_by_area();
        let reader = folds.map(|folds| FoldReader::new(folds, if needs_boxes { 6 } else { 2 }));
        let mut gathering = Gathering::new(grid, zooms, folds.map(|folds| folds.wanted_folds(layer)));
        let gathering = tokio::task::spawn_blocking(move || {
            for members in receiver {
                gathering.add(members);
            }
            gathering
        });
        Gatherer { needs_boxes, reader, next: Members::default(), sender, gathering }
    }

    /// Adds a row; `None` if it is skipped.
    pub(crate) fn add(&mut self, row: &Row) -> Option<()> {
        let at = position(row)?;
        if self.needs_boxes {
            self.next.source.push(source_box(row)?);
        }
        self.next.at.push(at);
        if !self.reader.as_mut().is_none_or(|reader| reader.read(row, &mut self.next.values)) {
            tracing::debug!("the rows have too many different values: they are not folded while rows are read");
            self.reader = None;
        }
        if self.next.len() == Self::ROWS_PER_MESSAGE {
            self.send();
        }
        Some(())
    }

    fn send(&mut self) {
        let members = std::mem::take(&mut self.next);
        // If the thread has ended, it has panicked; joining it propagates the panic.
        if self.sender.send(members).is_err() {
            tracing::debug!("the thread that gathers cells has ended");
        }
    }

    /// Waits for the thread, and returns the cells.
    pub(crate) async fn finish(mut self) -> GatheredCells {
        self.send();
        let Gatherer { sender, gathering, .. } = self;
        drop(sender);
        let gathering = gathering.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let rows = gathering.count();
        let (footprints, counts) = blocking(move || gathering.finish()).await;
        GatheredCells { rows, footprints, counts }
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

#[cfg(test)]
mod fold_reader_tests {
    use super::*;

    #[test]
    fn integers_are_read_from_the_binary_format() {
        assert_eq!(integer(&[1]), Some(1));
        assert_eq!(integer(&[0xff, 0xfe]), Some(-2));
        assert_eq!(integer(&(-70_000_i32).to_be_bytes()), Some(-70_000));
        assert_eq!(integer(&i64::MIN.to_be_bytes()), Some(i64::MIN));
        assert_eq!(integer(&[0; 12]), None);
    }
}
