//! Reads the values that are folded from the rows of a survey.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::cells::Fold;
use crate::postgis::sql::{FoldedValue, FoldedValues};

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
pub(in crate::postgis) struct FoldReader {
    values: Vec<FoldedValue>,
    /// The column of the first value.
    first_column: usize,
    /// For each value that is counted by [`Fold::Distinct`]: the distinct values, numbered in the order in which they were found.
    distinct: Vec<HashMap<Box<[u8]>, i64>>,
    /// The memory of `distinct` in bytes.
    bytes: usize,
}

/// The most memory that all distinct values may take together, in bytes.
const MAX_DISTINCT_BYTES: usize = 64 << 20;

/// The memory of a distinct value in addition to its own bytes.
const DISTINCT_ENTRY_BYTES: usize = 64;

impl FoldReader {
    /// A reader of rows whose columns from `first_column` on are the values.
    pub(in crate::postgis) fn new(folds: &FoldedValues, first_column: usize) -> FoldReader {
        let distinct = folds.0.iter().map(|_| HashMap::new()).collect();
        FoldReader { values: folds.0.clone(), first_column, distinct, bytes: 0 }
    }

    /// Appends the values of a row to `read`. False if a value is not an integer, or the distinct values take too much memory. The database must then
    /// compute the aggregates.
    pub(in crate::postgis) fn read(&mut self, row: &Row, read: &mut Vec<Option<i64>>) -> bool {
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

#[cfg(test)]
mod tests {
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
