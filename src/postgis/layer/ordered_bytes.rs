//! Values as bytes that compare here as the values do in PostgreSQL, and back: the ranks of a layer's features, which
//! decide which of them stay in a large tile, and the [keys](super::key_bytes) of its rows.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type};

/// A value as bytes that compare as the values of its type do in PostgreSQL; a prefix comes before what it begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrderedBytes(pub(crate) Vec<u8>);

impl OrderedBytes {
    /// The type as which values of the type `kind` of `pg_catalog` are read from a database with this encoding. `None`
    /// if their order is not known here.
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

    /// The binary form of a value that was read as the type `read_as`, from its bytes: that of an equal value, of which
    /// a -0 is 0, and a `numeric` has no zeros at its end. `None` if they are not the bytes of such a value.
    pub(crate) fn binary(read_as: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        match read_as {
            "bool" | "bytea" | "text" | "uuid" => Some(bytes.to_vec()),
            #[expect(clippy::cast_possible_truncation, reason = "it was a float4")]
            "float4" => Some((float_of(bytes)? as f32).to_be_bytes().to_vec()),
            "float8" => Some(float_of(bytes)?.to_be_bytes().to_vec()),
            "numeric" => numeric_of(bytes),
            _ => Some(turned_sign(bytes)?),
        }
    }
}

impl<'a> FromSql<'a> for OrderedBytes {
    /// From the binary form of a value (`…send` in the sources of PostgreSQL): numbers are big-endian.
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<OrderedBytes, Box<dyn Error + Sync + Send>> {
        let bytes = match *kind {
            Type::BOOL | Type::BYTEA | Type::TEXT | Type::UUID => Some(raw.to_vec()),
            Type::FLOAT4 => raw.try_into().ok().map(|raw| float(f32::from_be_bytes(raw).into())),
            Type::FLOAT8 => raw.try_into().ok().map(|raw| float(f64::from_be_bytes(raw))),
            Type::NUMERIC => numeric(raw),
            // Whole numbers; days and microseconds since 2000.
            _ => turned_sign(raw),
        };
        Ok(OrderedBytes(bytes.ok_or("a value in a form that is not known")?))
    }

    fn accepts(kind: &Type) -> bool {
        OrderedBytes::read_as(kind.name(), "UTF8") == Some(kind.name())
    }
}

/// The sign of a number in its first byte. Negative numbers come first once it is turned over.
const SIGN: u8 = 1 << 7;

/// A whole number whose sign is turned over.
fn turned_sign(number: &[u8]) -> Option<Vec<u8>> {
    number.split_first().map(|(first, rest)| [&[first ^ SIGN], rest].concat())
}

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

/// The value of such bytes.
fn float_of(bytes: &[u8]) -> Option<f64> {
    let mut bytes: [u8; 8] = bytes.try_into().ok()?;
    if bytes == [u8::MAX; 8] {
        return Some(f64::NAN);
    }
    if bytes[0] & SIGN == 0 {
        bytes = bytes.map(|byte| !byte);
    } else {
        bytes[0] ^= SIGN;
    }
    Some(f64::from_be_bytes(bytes))
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

/// The most decimal digits that a `numeric` has behind the point (`NUMERIC_DSCALE_MAX`).
const MAX_SCALE: i32 = 0x3FFF;

/// The binary form of the value of such bytes.
fn numeric_of(bytes: &[u8]) -> Option<Vec<u8>> {
    const KINDS: [(NumericKind, u16); 6] = [
        (NumericKind::MinusInfinity, 0xF000),
        (NumericKind::Negative, 0x4000),
        (NumericKind::Zero, 0x0000),
        (NumericKind::Positive, 0x0000),
        (NumericKind::Infinity, 0xD000),
        (NumericKind::NaN, 0xC000),
    ];
    let (kind, number) = bytes.split_first()?;
    let (kind, sign) = KINDS.into_iter().find(|(known, _)| *known as u8 == *kind)?;
    let number = match kind {
        NumericKind::Positive => number.to_vec(),
        NumericKind::Negative => {
            let number: Vec<u8> = number.iter().map(|byte| !byte).collect();
            number.strip_suffix(&[0, 0])?.to_vec()
        }
        _ => return number.is_empty().then(|| [0, 0, sign, 0].into_iter().flat_map(u16::to_be_bytes).collect()),
    };
    let (weight, digits) = number.split_first_chunk()?;
    let weight = i16::try_from(i32::from_be_bytes(*weight) ^ i32::MIN).ok()?;
    let digits = digits.chunks_exact(2).map(|digit| u16::from_be_bytes([digit[0], digit[1]]).checked_sub(1));
    let digits: Vec<u16> = digits.collect::<Option<_>>()?;
    let count = u16::try_from(digits.len()).ok()?;
    // The server cuts digits off that are more than the scale says (`numeric_recv`); a digit to base 10,000 is four.
    let scale = ((i32::from(count) - i32::from(weight) - 1).max(0) * 4).min(MAX_SCALE);
    let words = [count, weight.cast_unsigned(), sign, u16::try_from(scale).ok()?];
    Some(words.into_iter().chain(digits).flat_map(u16::to_be_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of values in their binary form, which must be in ascending order.
    #[track_caller]
    fn are_ascending<T: AsRef<[u8]>>(kind: &Type, values: impl IntoIterator<Item = T>) {
        let ranks: Vec<OrderedBytes> =
            values.into_iter().map(|raw| OrderedBytes::from_sql(kind, raw.as_ref()).unwrap()).collect();
        assert!(ranks.is_sorted_by(|one, next| one < next), "{kind}: {ranks:?}");
    }

    /// The binary form of a numeric value.
    fn binary_numeric(sign: u16, weight: i16, digits: &[u16]) -> Vec<u8> {
        let words = [u16::try_from(digits.len()).unwrap(), weight.cast_unsigned(), sign, 0];
        words.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn bytes_compare_as_their_values() {
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
                binary_numeric(0xF000, 0, &[]),
                binary_numeric(minus, 1, &[1]),        // -10000
                binary_numeric(minus, 0, &[12, 5001]), // -12.5001
                binary_numeric(minus, 0, &[12, 5000]), // -12.5
                binary_numeric(minus, 0, &[12, 0, 1]), // -12.00000001
                binary_numeric(minus, 0, &[12]),       // -12
                binary_numeric(minus, -1, &[1]),       // -0.0001
                binary_numeric(plus, 0, &[]),          // 0
                binary_numeric(plus, -1, &[9_999]),    // 0.9999
                binary_numeric(plus, 0, &[12]),        // 12
                binary_numeric(plus, 0, &[12, 0, 1]),  // 12.00000001
                binary_numeric(plus, 0, &[13]),        // 13
                binary_numeric(plus, 1, &[1]),         // 10000
                binary_numeric(0xD000, 0, &[]),
                binary_numeric(0xC000, 0, &[]),
            ],
        );
    }

    #[test]
    fn equal_values_have_equal_bytes() {
        let rank = |kind: &Type, raw: &[u8]| OrderedBytes::from_sql(kind, raw).unwrap();
        let float = |value: f64| rank(&Type::FLOAT8, &value.to_be_bytes());
        assert_eq!(float(-0.0), float(0.0));
        assert_eq!(float(-f64::NAN), float(f64::NAN));
        let zero = rank(&Type::NUMERIC, &binary_numeric(0, 0, &[]));
        assert_eq!(rank(&Type::NUMERIC, &binary_numeric(0x4000, 3, &[])), zero);
        let one = rank(&Type::NUMERIC, &binary_numeric(0, 0, &[1]));
        assert_eq!(rank(&Type::NUMERIC, &binary_numeric(0, 1, &[0, 1, 0])), one);
    }

    /// Values in their binary form, which their bytes give back as they are.
    #[track_caller]
    fn come_back<T: AsRef<[u8]>>(kind: &Type, values: impl IntoIterator<Item = T>) {
        for raw in values {
            let OrderedBytes(bytes) = OrderedBytes::from_sql(kind, raw.as_ref()).unwrap();
            assert_eq!(OrderedBytes::binary(kind.name(), &bytes).as_deref(), Some(raw.as_ref()), "{kind}");
        }
    }

    #[test]
    fn bytes_give_back_the_binary_form_of_their_values() {
        come_back(&Type::INT2, [i16::MIN, -1, 0, 1, i16::MAX].map(i16::to_be_bytes));
        come_back(&Type::TIMESTAMPTZ, [i64::MIN, -1, 0, 1, i64::MAX].map(i64::to_be_bytes));
        come_back(&Type::FLOAT8, [f64::NEG_INFINITY, -1.5, 0.0, 1e-300, f64::INFINITY, f64::NAN].map(f64::to_be_bytes));
        come_back(&Type::FLOAT4, [f32::MIN, -0.1, 0.0, f32::MIN_POSITIVE, f32::INFINITY].map(f32::to_be_bytes));
        come_back(&Type::TEXT, ["", "A\u{1}", "漢"]);
        come_back(&Type::BOOL, [[0], [1]]);
        let scaled = |sign, weight, digits: &[u16], scale: u16| {
            let mut raw = binary_numeric(sign, weight, digits);
            raw[6..8].copy_from_slice(&scale.to_be_bytes());
            raw
        };
        let kinds = [0xF000, 0, 0xD000, 0xC000].map(|sign| binary_numeric(sign, 0, &[]));
        let numbers = [0, 0x4000].map(|sign| {
            [(3, 0), (0, 4), (-5, 24)].map(|(weight, scale)| scaled(sign, weight, &[12, 9_999], scale)).to_vec()
        });
        // With as many digits behind the point as there can be.
        let finest = scaled(0, -4_096, &[1_000], 0x3FFF);
        come_back(&Type::NUMERIC, kinds.into_iter().chain(numbers.concat()).chain([finest]));
        let of_a_text = OrderedBytes::binary("numeric", b"12");
        assert_eq!((of_a_text, OrderedBytes::binary("float8", b"12")), (None, None));
    }

    #[test]
    fn texts_are_compared_in_utf8_only_and_values_of_unknown_types_not_at_all() {
        assert_eq!(OrderedBytes::read_as("bpchar", "UTF8"), Some("text"));
        for (kind, encoding) in [("text", "LATIN1"), ("interval", "UTF8"), ("citext", "UTF8"), ("jsonb", "UTF8")] {
            assert_eq!(OrderedBytes::read_as(kind, encoding), None, "{kind}");
        }
    }
}
