//! Keys of rows as the parameters of a statement, and as a statement returns them.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::draw::cached_rows::FoundKey;
use crate::mvt::{FeatureKey, FeatureKeyValue};
use crate::postgis::layer::{KeyTypes, KeyValues, Layer};
use crate::postgis::session::Param;
use crate::postgis::sql::KeyArray;

/// Keys as the arrays of a statement.
pub(crate) enum KeyArrays<'k> {
    Numbers(Vec<i64>),
    Texts(Vec<&'k str>),
    /// One array for each column.
    Columns(Vec<KeyValues>),
}

impl<'k> KeyArrays<'k> {
    /// The keys of rows of a layer, which are identified by `key`. `None` if they are not those of its key's types.
    pub(crate) fn of(layer: &Layer, key: &FeatureKey, keys: &[FeatureKeyValue<'k>]) -> Option<KeyArrays<'k>> {
        let (mut numbers, mut texts, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            match key {
                FeatureKeyValue::Number(number) => numbers.push(i64::try_from(*number).ok()?),
                FeatureKeyValue::Text(text) => texts.push(std::str::from_utf8(text).ok()?),
                FeatureKeyValue::Bytes(key) => bytes.push(*key),
            }
        }
        if [numbers.len(), texts.len(), bytes.len()].iter().filter(|count| **count > 0).count() > 1 {
            return None;
        }
        if let Some(types) = layer.key_types_of(key) {
            return types.arrays(bytes.into_iter()).map(KeyArrays::Columns);
        }
        Some(if texts.is_empty() { KeyArrays::Numbers(numbers) } else { KeyArrays::Texts(texts) })
    }

    pub(crate) fn kind(&self) -> KeyArray {
        match self {
            KeyArrays::Numbers(_) => KeyArray::Numbers,
            KeyArrays::Texts(_) => KeyArray::Texts,
            KeyArrays::Columns(_) => KeyArray::Columns,
        }
    }

    pub(crate) fn params(&self) -> Vec<Param<'_>> {
        match self {
            KeyArrays::Numbers(numbers) => vec![(numbers, Type::INT8_ARRAY)],
            KeyArrays::Texts(texts) => vec![(texts, Type::TEXT_ARRAY)],
            KeyArrays::Columns(columns) => columns.iter().map(KeyValues::param).collect(),
        }
    }
}

/// The first columns of a row that a statement returns: the key of a row of a layer.
pub(crate) struct KeyColumns<'l>(Option<KeyTypes<'l>>);

impl<'l> KeyColumns<'l> {
    /// Of rows that are identified by `key`.
    pub(crate) fn of(layer: &'l Layer, key: &FeatureKey) -> KeyColumns<'l> {
        KeyColumns(layer.key_types_of(key))
    }

    /// The number of these columns.
    pub(crate) fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |types| types.read_as().len())
    }

    /// The key of a row; `None` if a part of it is NULL. Fails if it cannot be read, such as a text that is not UTF-8.
    pub(crate) fn read<'r>(&self, row: &'r Row) -> Result<Option<FoundKey<'r>>, tokio_postgres::Error> {
        Ok(match &self.0 {
            None => row.try_get::<_, Option<&str>>(0)?.map(FoundKey::Text),
            Some(types) => types.bytes_of_row(row)?.map(FoundKey::Bytes),
        })
    }
}
