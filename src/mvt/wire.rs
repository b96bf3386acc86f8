//! The part of Protocol Buffers that tiles use (Protocol Buffers, "Encoding").
//!
//! No library is used, so that reading borrows from the tile, and each kind of damage has its own message.

/// What is wrong with the bytes.
pub(crate) type Broken = &'static str;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FieldValue<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> FieldValue<'a> {
    /// The number of its bytes; 1 for a number.
    pub(crate) const fn len(self) -> usize {
        if let FieldValue::Bytes(bytes) = self { bytes.len() } else { 1 }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Broken> {
        if let FieldValue::Bytes(bytes) = self {
            Ok(bytes)
        } else {
            Err("a field that should hold bytes holds a number")
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes()?).map_err(|_not_utf8| "a text is not UTF-8")
    }

    pub(crate) fn varint(self) -> Result<u64, Broken> {
        if let FieldValue::Varint(value) = self { Ok(value) } else { Err("a field that should hold a number does not") }
    }

    pub(crate) fn u32(self) -> Result<u32, Broken> {
        u32::try_from(self.varint()?).map_err(|_too_large| "a number is larger than 32 bits")
    }
}

/// Iterates over the fields of a message: number and value.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, FieldValue<'a>), Broken> {
        let key = varint(&mut self.0)?;
        let value = match key & 7 {
            0 => FieldValue::Varint(varint(&mut self.0)?),
            1 => FieldValue::Fixed64(self.fixed()?),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).unwrap_or(usize::MAX);
                let (bytes, rest) = self.0.split_at_checked(length).ok_or("a field is cut off")?;
                self.0 = rest;
                FieldValue::Bytes(bytes)
            }
            5 => FieldValue::Fixed32(self.fixed()?),
            _ => return Err("a field has a wire type that does not exist"),
        };
        if key >> 3 == 0 { Err("a field has the number 0") } else { Ok((key >> 3, value)) }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or("a number is cut off")?;
        self.0 = rest;
        Ok(*bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, FieldValue<'a>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.field())
    }
}

/// Reads a varint: 1 to 10 bytes with seven bits each, the lowest first. Nearly all have one byte.
#[inline]
fn varint(rest: &mut &[u8]) -> Result<u64, Broken> {
    if let [byte @ ..=0x7f, after @ ..] = *rest {
        *rest = after;
        return Ok((*byte).into());
    }
    long_varint(rest)
}

fn long_varint(rest: &mut &[u8]) -> Result<u64, Broken> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or("a number is cut off")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number has more than ten bytes")
}

/// Appends the numbers of a repeated field: packed, as MVT demands, or a single one, as Protocol Buffers also allow.
pub(crate) fn numbers(value: FieldValue<'_>, numbers: &mut Vec<u32>) -> Result<(), Broken> {
    let FieldValue::Bytes(mut packed) = value else {
        numbers.push(value.u32()?);
        return Ok(());
    };
    while !packed.is_empty() {
        numbers.push(FieldValue::Varint(varint(&mut packed)?).u32()?);
    }
    Ok(())
}

/// Reads the next packed number of a repeated field.
pub(crate) fn next_number(rest: &mut &[u8]) -> Result<u64, Broken> {
    varint(rest)
}

/// The number of bytes of a varint.
pub(crate) fn packed_size(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()).div_ceil(7).max(1) as usize
}

/// Writes a varint without a field header, for a repeated field.
#[inline]
pub(crate) fn put_packed(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push((value & 0x7f) as u8);
}

/// Writes a field that holds a number.
pub(crate) fn put_number(bytes: &mut Vec<u8>, field: u64, value: u64) {
    put_packed(bytes, field << 3);
    put_packed(bytes, value);
}

/// Writes a field that holds bytes.
pub(crate) fn put_bytes(bytes: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_packed(bytes, field << 3 | 2);
    put_packed(bytes, value.len() as u64);
    bytes.extend_from_slice(value);
}

/// Decodes a zigzag number.
pub(crate) fn signed(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Encodes a number as zigzag, so that small negative numbers stay short.
pub(crate) fn zigzag(value: i32) -> u64 {
    u64::from(((value << 1) ^ (value >> 31)).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_specification_writes_them() {
        assert_eq!(varint(&mut &[0x96, 0x01][..]), Ok(150));
        assert_eq!(varint(&mut &[0xff; 10][..]), Err("a number has more than ten bytes"));
        assert_eq!(varint(&mut &[0x80][..]), Err("a number is cut off"));
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_packed(&mut bytes, value);
            assert_eq!((varint(&mut &bytes[..]), packed_size(value)), (Ok(value), bytes.len()));
        }
        for (zigzag, number) in [(0, 0), (1, -1), (2, 1), (3, -2), (u64::MAX, i64::MIN), (u64::MAX - 1, i64::MAX)] {
            assert_eq!(signed(zigzag), number);
        }
    }
}
