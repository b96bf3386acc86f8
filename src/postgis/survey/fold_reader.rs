//! Reads the values of rows that are folded.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::cells::Fold;
use crate::postgis::sql::{FoldedValue, FoldedValues};

/// The same of a row.
struct RawValue<'a>(&'a [u8]);

impl<'a> FromSql<'a> for RawValue<'a> {
    fn from_sql(_kind: &Type, raw: &'a [u8]) -> Result<RawValue<'a>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(RawValue(raw))
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }
}

/// Reads the values of rows.
#[derive(Debug)]
pub(in crate::postgis) struct FoldReader {
    values: Vec<FoldedValue>,
    /// The column of the first value.
    first: usize,
    /// For each value the different ones, numbered as they are found.
    known: Vec<HashMap<Box<[u8]>, i64>>,
    /// What these take, in bytes.
    bytes: usize,
}

/// What different values may take in all, in bytes: the bound on memory.
const MAX_DISTINCT_BYTES: usize = 64 << 20;

/// What one takes beside its own bytes.
const DISTINCT_ENTRY_BYTES: usize = 64;

impl FoldReader {
    /// Of rows that have the values in their last columns, beginning at `first`.
    pub(in crate::postgis) fn new(folds: &FoldedValues, first: usize) -> FoldReader {
        FoldReader { values: folds.0.clone(), first, known: folds.0.iter().map(|_| HashMap::new()).collect(), bytes: 0 }
    }

    /// Adds the values of a row to those of others; false if there are too many different ones, or one that cannot be read: the layer is then left to the server.
    pub(in crate::postgis) fn read(&mut self, row: &Row, read: &mut Vec<Option<i64>>) -> bool {
        for ((value, known), column) in self.values.iter().zip(&mut self.known).zip(self.first..) {
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
    fn integers_are_read_as_the_protocol_has_them() {
        assert_eq!(integer(&[1]), Some(1));
        assert_eq!(integer(&[0xff, 0xfe]), Some(-2));
        assert_eq!(integer(&(-70_000_i32).to_be_bytes()), Some(-70_000));
        assert_eq!(integer(&i64::MIN.to_be_bytes()), Some(i64::MIN));
        assert_eq!(integer(&[0; 12]), None);
    }
}
