//! The rank of a layer's features, which decides which of them stay in a large tile; and its values as bytes that
//! compare here as the values do in PostgreSQL.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type};

/// The rank of a layer's features, ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rank {
    /// The expression over a row.
    pub sql: String,
    /// True if its type has a collation; `COLLATE "C"` then makes the order the same on every server.
    pub(crate) collated: bool,
    /// The type of `pg_catalog` as which cached rows read it ([`RankBytes`]); `None` if its values cannot be compared
    /// here.
    pub(crate) read_as: Option<&'static str>,
}

impl Rank {
    /// The type as which values of the type `kind` of `pg_catalog` are read from a database with this encoding. `None`
    /// if [`RankBytes`] does not know their order.
    pub(crate) fn read_as(kind: &str, encoding: &str) -> Option<&'static str> {
        const KINDS: [&str; 13] = [
            "bool",
            "bytea",
            "date",
            "float4",
            "float8",
            "int2",
            "int4",
            "int8",
            "numeric",
            "time",
            "timestamp",
            "timestamptz",
            "uuid",
        ];
        match kind {
            // With `COLLATE "C"` the server compares texts by their bytes, which come here in UTF-8. A cast to text
            // removes the spaces at the end of a `char(n)`, which do not count when these are compared.
            "text" | "varchar" | "bpchar" | "name" => (encoding == "UTF8").then_some("text"),
            _ => KINDS.into_iter().find(|known| *known == kind),
        }
    }
}

/// A rank as bytes that compare as the values of its type do in PostgreSQL; a prefix comes before what it begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RankBytes(pub(crate) Vec<u8>);

impl<'a> FromSql<'a> for RankBytes {
    /// From the binary form of a value (`…send` in the sources of PostgreSQL): numbers are big-endian.
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<RankBytes, Box<dyn Error + Sync + Send>> {
        let bytes = match *kind {
            Type::BOOL | Type::BYTEA | Type::TEXT | Type::UUID => Some(raw.to_vec()),
            Type::FLOAT4 => raw.try_into().ok().map(|raw| float(f32::from_be_bytes(raw).into())),
            Type::FLOAT8 => raw.try_into().ok().map(|raw| float(f64::from_be_bytes(raw))),
            Type::NUMERIC => numeric(raw),
            // Whole numbers; days and microseconds since 2000.
            _ => raw.split_first().map(|(first, rest)| [&[first ^ SIGN], rest].concat()),
        };
        Ok(RankBytes(bytes.ok_or("a rank in a form that is not known")?))
    }

    fn accepts(kind: &Type) -> bool {
        Rank::read_as(kind.name(), "UTF8") == Some(kind.name())
    }
}

/// The sign of a number in its first byte. Negative numbers come first once it is turned over.
const SIGN: u8 = 1 << 7;

/// NaN is greater than all other values, and -0 equals 0 (`float8_cmp_internal`).
fn float(value: f64) -> Vec<u8> {
    if value.is_nan() {
        return vec![u8::MAX; 8];
    }
    // -0 + 0 is 0.
    let mut bytes = (value + 0.0).to_be_bytes();
    if value < 0.0 {
        bytes = bytes.map(|byte| !byte);
    } else {
        bytes[0] ^= SIGN;
    }
    bytes.to_vec()
}

/// The kinds of numeric values, in their order (`cmp_numerics`).
#[derive(Clone, Copy)]
enum NumericKind {
    MinusInfinity,
    Negative,
    Zero,
    Positive,
    Infinity,
    NaN,
}

/// A numeric value: its kind, then for a number its weight (the exponent of its first digit, to base 10,000) and its
/// digits. `None` if it is not in that form.
fn numeric(raw: &[u8]) -> Option<Vec<u8>> {
    let words: Vec<u16> = raw.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect();
    let [_, weight, sign, _, digits @ ..] = &words[..] else { return None };
    // The server keeps no zeros at either end, but only what it does here matters for the order.
    let leading = digits.iter().take_while(|digit| **digit == 0).count();
    let trailing = digits[leading..].iter().rev().take_while(|digit| **digit == 0).count();
    let digits = &digits[leading..digits.len() - trailing];
    let kind = match sign {
        0x0000 | 0x4000 if digits.is_empty() => NumericKind::Zero,
        0x0000 => NumericKind::Positive,
        0x4000 => NumericKind::Negative,
        0xC000 => NumericKind::NaN,
        0xD000 => NumericKind::Infinity,
        0xF000 => NumericKind::MinusInfinity,
        _ => return None,
    };
    let mut bytes = vec![kind as u8];
    if matches!(kind, NumericKind::Positive | NumericKind::Negative) {
        let weight = i32::from(weight.cast_signed()) - i32::try_from(leading).ok()?;
        let mut number = (weight ^ i32::MIN).to_be_bytes().to_vec();
        // Digits from 1 on, so that none is like the end.
        number.extend(digits.iter().flat_map(|digit| digit.saturating_add(1).to_be_bytes()));
        if matches!(kind, NumericKind::Negative) {
            // The value with more digits is less: once turned over, the end is greater than any digit.
            number.extend([0, 0]);
            number = number.into_iter().map(|byte| !byte).collect();
        }
        bytes.extend(number);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of values in their binary form, which must be in ascending order.
    #[track_caller]
    fn are_ascending<T: AsRef<[u8]>>(kind: &Type, values: impl IntoIterator<Item = T>) {
        let ranks: Vec<RankBytes> =
            values.into_iter().map(|raw| RankBytes::from_sql(kind, raw.as_ref()).unwrap()).collect();
        assert!(ranks.is_sorted_by(|one, next| one < next), "{kind}: {ranks:?}");
    }

    /// The binary form of a numeric value.
    fn numeric_of(sign: u16, weight: i16, digits: &[u16]) -> Vec<u8> {
        let words = [u16::try_from(digits.len()).unwrap(), weight.cast_unsigned(), sign, 0];
        words.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn ranks_compare_as_their_values() {
        are_ascending(&Type::INT2, [i16::MIN, -1, 0, 1, i16::MAX].map(i16::to_be_bytes));
        are_ascending(&Type::INT8, [i64::MIN, -256, -1, 0, 1, 256, i64::MAX].map(i64::to_be_bytes));
        let floats = [f64::NEG_INFINITY, f64::MIN, -1.5, -1.0, -1e-300, 0.0, 1e-300, 1.0, 1.5, f64::INFINITY, f64::NAN];
        are_ascending(&Type::FLOAT8, floats.map(f64::to_be_bytes));
        are_ascending(&Type::FLOAT4, [f32::MIN, -0.5, 0.0, f32::MIN_POSITIVE, 3.0, f32::NAN].map(f32::to_be_bytes));
        are_ascending(&Type::TEXT, ["", "A", "A ", "AB", "Z", "a", "é", "漢"]);
        let (plus, minus) = (0x0000, 0x4000);
        are_ascending(
            &Type::NUMERIC,
            [
                numeric_of(0xF000, 0, &[]),
                numeric_of(minus, 1, &[1]),        // -10000
                numeric_of(minus, 0, &[12, 5001]), // -12.5001
                numeric_of(minus, 0, &[12, 5000]), // -12.5
                numeric_of(minus, 0, &[12, 0, 1]), // -12.00000001
                numeric_of(minus, 0, &[12]),       // -12
                numeric_of(minus, -1, &[1]),       // -0.0001
                numeric_of(plus, 0, &[]),          // 0
                numeric_of(plus, -1, &[9_999]),    // 0.9999
                numeric_of(plus, 0, &[12]),        // 12
                numeric_of(plus, 0, &[12, 0, 1]),  // 12.00000001
                numeric_of(plus, 0, &[13]),        // 13
                numeric_of(plus, 1, &[1]),         // 10000
                numeric_of(0xD000, 0, &[]),
                numeric_of(0xC000, 0, &[]),
            ],
        );
    }

    #[test]
    fn equal_values_have_equal_ranks() {
        let rank = |kind: &Type, raw: &[u8]| RankBytes::from_sql(kind, raw).unwrap();
        let float = |value: f64| rank(&Type::FLOAT8, &value.to_be_bytes());
        assert_eq!(float(-0.0), float(0.0));
        assert_eq!(float(-f64::NAN), float(f64::NAN));
        let zero = rank(&Type::NUMERIC, &numeric_of(0, 0, &[]));
        assert_eq!(rank(&Type::NUMERIC, &numeric_of(0x4000, 3, &[])), zero);
        let one = rank(&Type::NUMERIC, &numeric_of(0, 0, &[1]));
        assert_eq!(rank(&Type::NUMERIC, &numeric_of(0, 1, &[0, 1, 0])), one);
    }

    #[test]
    fn texts_are_compared_in_utf8_only_and_values_of_unknown_types_not_at_all() {
        assert_eq!(Rank::read_as("bpchar", "UTF8"), Some("text"));
        for (kind, encoding) in [("text", "LATIN1"), ("interval", "UTF8"), ("citext", "UTF8"), ("jsonb", "UTF8")] {
            assert_eq!(Rank::read_as(kind, encoding), None, "{kind}");
        }
    }
}
