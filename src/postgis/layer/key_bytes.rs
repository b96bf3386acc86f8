//! The keys of rows as bytes that compare as PostgreSQL sorts the rows in a tile, and back. Rows that are kept from
//! snapshot to snapshot carry them behind their encoded features where these do not hold the key.
//!
//! ```text
//!  (text, int4)   t e x t 00 00 │ 80 00 00 07
//! ```
//!
//! The columns follow each other. One whose values differ in length, unless it is the last, ends with two zeros, and a
//! zero in it is followed by 255: so the end comes before anything that may stand in its place.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Layer, OrderedBytes};
use crate::mvt::FeatureKey;
use crate::postgis::session::{BinaryValue, Param};

/// The type of a column of a key, if the order of its values is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyType {
    /// Its name in `pg_catalog`.
    pub(crate) name: String,
    /// The type as which its values are read ([`OrderedBytes`]).
    pub(crate) read_as: &'static str,
}

impl KeyType {
    /// The type with a name in a schema, in a database in UTF-8. `None` if the order of its values is not known here.
    pub(crate) fn of(schema: &str, name: &str) -> Option<KeyType> {
        let read_as = OrderedBytes::read_as(name, "UTF8").filter(|_| schema == "pg_catalog")?;
        Some(KeyType { name: name.to_owned(), read_as })
    }

    /// True if the order of its values is known in a database with this encoding, too.
    pub(crate) fn is_known_in(&self, encoding: &str) -> bool {
        OrderedBytes::read_as(&self.name, encoding).is_some()
    }

    /// The number of bytes of each value; `None` if they differ in length.
    fn length(&self) -> Option<usize> {
        match self.read_as {
            "bool" => Some(1),
            "int2" => Some(2),
            "int4" | "date" => Some(4),
            "uuid" => Some(16),
            "bytea" | "numeric" | "text" => None,
            _ => Some(8),
        }
    }

    /// The type of a parameter that is an array of its values.
    fn array(&self) -> Type {
        match self.read_as {
            "bool" => Type::BOOL_ARRAY,
            "bytea" => Type::BYTEA_ARRAY,
            "date" => Type::DATE_ARRAY,
            "float4" => Type::FLOAT4_ARRAY,
            "float8" => Type::FLOAT8_ARRAY,
            "int2" => Type::INT2_ARRAY,
            "int4" => Type::INT4_ARRAY,
            "int8" => Type::INT8_ARRAY,
            "numeric" => Type::NUMERIC_ARRAY,
            "time" => Type::TIME_ARRAY,
            "timestamp" => Type::TIMESTAMP_ARRAY,
            "timestamptz" => Type::TIMESTAMPTZ_ARRAY,
            "uuid" => Type::UUID_ARRAY,
            _ => Type::TEXT_ARRAY,
        }
    }
}

/// The types of the columns of a key, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyTypes<'l>(Vec<&'l KeyType>);

impl Layer {
    /// The types of the layer's key; `None` if the order of one is not known here.
    pub(crate) fn key_types(&self) -> Option<KeyTypes<'_>> {
        let types: Vec<&KeyType> = self.key.iter().map(|column| column.kind.as_ref()).collect::<Option<_>>()?;
        (!types.is_empty()).then_some(KeyTypes(types))
    }

    /// The types of the layer's key, if kept rows of it that are identified by `key` have theirs behind their features.
    /// `None` if the features themselves hold it.
    pub(crate) fn key_types_of(&self, key: &FeatureKey) -> Option<KeyTypes<'_>> {
        self.key_types().filter(|_| *key == FeatureKey::Behind)
    }
}

impl KeyTypes<'_> {
    /// The types as which the columns are read.
    pub(crate) fn read_as(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.read_as)
    }

    /// The bytes of a key. `None` if the value of a column is NULL.
    pub(crate) fn bytes<'v>(&self, values: impl Iterator<Item = Option<&'v OrderedBytes>>) -> Option<Vec<u8>> {
        let (mut bytes, last) = (Vec::new(), self.0.len() - 1);
        for (number, (kind, value)) in self.0.iter().zip(values).enumerate() {
            let OrderedBytes(value) = value?;
            if number == last || kind.length().is_some() {
                bytes.extend_from_slice(value);
                continue;
            }
            for byte in value {
                bytes.push(*byte);
                bytes.extend((*byte == 0).then_some(u8::MAX));
            }
            bytes.extend([0, 0]);
        }
        Some(bytes)
    }

    /// The bytes of the key of a row whose first columns are that key; `None` if one is NULL. Fails if one is of another
    /// type.
    pub(crate) fn bytes_of_row(&self, row: &Row) -> Result<Option<Vec<u8>>, tokio_postgres::Error> {
        let values = (0..self.0.len()).map(|column| row.try_get(column));
        let values: Vec<Option<OrderedBytes>> = values.collect::<Result<_, _>>()?;
        Ok(self.bytes(values.iter().map(Option::as_ref)))
    }

    /// The values of some keys as the arrays of a statement, one for each column. `None` if they are not the bytes of
    /// such keys.
    pub(crate) fn arrays<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Option<Vec<KeyValues>> {
        let empty = |kind: &&KeyType| KeyValues { values: Vec::new(), array: kind.array() };
        let mut arrays: Vec<KeyValues> = self.0.iter().map(empty).collect();
        for key in keys {
            let mut rest = key;
            for (number, (kind, array)) in self.0.iter().zip(&mut arrays).enumerate() {
                let value = if number == self.0.len() - 1 {
                    std::mem::take(&mut rest).to_vec()
                } else if let Some(length) = kind.length() {
                    rest.split_off(..length)?.to_vec()
                } else {
                    unescaped(&mut rest)?
                };
                array.values.push(BinaryValue(OrderedBytes::binary(kind.read_as, &value)?));
            }
        }
        Some(arrays)
    }
}

/// Removes a value that ends with two zeros from the bytes.
fn unescaped(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    loop {
        match bytes.split_off_first()? {
            0 if *bytes.split_off_first()? == 0 => return Some(value),
            byte => value.push(*byte),
        }
    }
}

/// Values of a column of a key, for the array of a statement.
pub(crate) struct KeyValues {
    values: Vec<BinaryValue>,
    array: Type,
}

impl KeyValues {
    pub(crate) fn param(&self) -> Param<'_> {
        (&self.values, self.array.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(names: &[&str]) -> Vec<KeyType> {
        names.iter().map(|name| KeyType::of("pg_catalog", name).unwrap()).collect()
    }

    /// The bytes of keys of texts, and whether these are given back.
    fn bytes_of(types: &KeyTypes<'_>, key: &[&[u8]]) -> Vec<u8> {
        let values: Vec<OrderedBytes> = key.iter().map(|value| OrderedBytes(value.to_vec())).collect();
        let bytes = types.bytes(values.iter().map(Some)).unwrap();
        let arrays = types.arrays(std::iter::once(&bytes[..])).unwrap();
        let back: Vec<&[u8]> = arrays.iter().map(|array| &*array.values[0].0).collect();
        assert_eq!(back, key);
        bytes
    }

    #[test]
    fn keys_of_several_columns_compare_column_by_column_and_come_back() {
        let own = types(&["bytea", "uuid", "text"]);
        let types = KeyTypes(own.iter().collect());
        // Each first value with each second and third one, all in ascending order.
        let firsts: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"\0\x01", b"\0\xff", b"\x01", b"a", b"a\0", b"a\0b"];
        let seconds: [&[u8]; 3] = [&[0; 16], b"\0...............", &[255; 16]];
        let thirds: [&[u8]; 4] = [b"", b"\0", b"a", b"a\0"];
        let keys = firsts.iter().flat_map(|first| seconds.iter().map(move |second| (*first, *second)));
        let keys = keys.flat_map(|(first, second)| thirds.iter().map(move |third| [first, second, *third]));
        let bytes: Vec<Vec<u8>> = keys.map(|key| bytes_of(&types, &key)).collect();
        assert_eq!(bytes.len(), 9 * 3 * 4);
        assert!(bytes.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn a_key_with_null_has_no_bytes_and_other_bytes_are_no_key() {
        let own = types(&["text", "int4"]);
        let types = KeyTypes(own.iter().collect());
        let value = OrderedBytes(b"a".to_vec());
        assert_eq!(types.bytes([Some(&value), None].into_iter()), None);
        for cut_off in [&b"a"[..], b"a\0", b""] {
            assert!(types.arrays(std::iter::once(cut_off)).is_none(), "{cut_off:?}");
        }
    }

    #[test]
    fn the_order_of_a_type_of_another_schema_is_not_known() {
        assert_eq!(KeyType::of("public", "int4"), None);
        assert_eq!(KeyType::of("pg_catalog", "interval"), None);
        let text = KeyType::of("pg_catalog", "varchar").unwrap();
        assert_eq!((text.read_as, text.is_known_in("LATIN1")), ("text", false));
        assert!(KeyType::of("pg_catalog", "numeric").unwrap().is_known_in("LATIN1"));
    }
}
