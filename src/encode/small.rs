//! Deflate for the smallest tiles (RFC 1951).
//!
//! Most tiles of a deep zoom have one or two hundred bytes. For each of them libdeflate clears a table of 128 kB and
//! computes a code for the tile alone. Such a code seldom saves more than its own description takes, compared with the
//! fixed code. This encoder keeps its table from tile to tile and uses the fixed code (section 3.2.6): it takes a tenth
//! of the time, and the number of bytes is the same within one percent (benches/RESULTS.md). Its output depends only on
//! the tile.

/// The largest tile that is packed by this encoder, in bytes. For larger tiles, a code for the tile alone saves more
/// than 3 % of the bytes.
pub(crate) const MAX_SMALL_TILE: usize = 640;

/// The fewest bytes for which a reference to an earlier occurrence is worthwhile.
const MIN_MATCH: usize = 3;

/// The most bytes of a reference.
const MAX_MATCH: usize = 258;

/// The binary logarithm of the number of slots in the table.
const HASH_BITS: u32 = 11;

/// An encoder that is used again for tile after tile.
pub(crate) struct SmallDeflate {
    /// Where three bytes with a hash were seen last, counted over all tiles. A position before `begin` belongs to an
    /// earlier tile.
    seen: Vec<u32>,
    /// The position of the current tile's first byte, counted over all tiles.
    begin: u32,
}

impl SmallDeflate {
    pub(crate) fn new() -> SmallDeflate {
        SmallDeflate { seen: vec![0; 1 << HASH_BITS], begin: 1 }
    }

    /// Appends a tile of at most [`MAX_SMALL_TILE`] bytes to `out`, as one block.
    pub(crate) fn pack(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        if self.begin > u32::MAX / 2 {
            self.seen.fill(0);
            self.begin = 1;
        }
        let start = out.len();
        let mut bits = BitWriter { out, bits: 0, count: 0 };
        bits.put(LAST_BLOCK_OF_FIXED_CODE);
        let mut at = 0;
        while let Some(byte) = raw.get(at) {
            let before = self.replace(raw, at);
            let same = before.map_or(0, |before| common_bytes(&raw[before..], &raw[at..]));
            let (Some(before), MIN_MATCH..) = (before, same) else {
                bits.put(LITERALS[usize::from(*byte)]);
                at += 1;
                continue;
            };
            bits.put(LENGTHS[same]);
            bits.put(DISTANCES[at - before]);
            for skipped in at + 1..at + same {
                self.replace(raw, skipped);
            }
            at += same;
        }
        bits.put(END_OF_BLOCK);
        bits.finish();
        if out.len() - start > raw.len() + STORED_HEADER {
            out.truncate(start);
            store(raw, out);
        }
        // The tile has a few hundred bytes.
        self.begin += u32::try_from(raw.len()).unwrap_or_default();
    }

    /// Records that the three bytes at an index were seen there. Returns where bytes of the same hash were last seen in
    /// this tile.
    fn replace(&mut self, raw: &[u8], at: usize) -> Option<usize> {
        let [a, b, c] = *raw.get(at..)?.first_chunk::<MIN_MATCH>()?;
        let hash = u32::from_le_bytes([a, b, c, 0]).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
        let now = self.begin + u32::try_from(at).unwrap_or_default();
        let before = std::mem::replace(self.seen.get_mut(hash as usize)?, now);
        Some(before.checked_sub(self.begin)? as usize)
    }
}

/// How many bytes two parts of a tile have in common at their beginning, at most [`MAX_MATCH`].
fn common_bytes(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take(MAX_MATCH).take_while(|(a, b)| a == b).count()
}

/// A stored block begins with its type, padded to a full byte, and its length twice (section 3.2.4).
const STORED_HEADER: usize = 5;

fn store(raw: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(raw.len()).unwrap_or(u16::MAX);
    out.push(1);
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(raw);
}

/// Appends bits, the first one lowest in its byte.
struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    bits: u64,
    count: u32,
}

impl BitWriter<'_> {
    fn put(&mut self, code: Code) {
        self.bits |= u64::from(code.bits) << self.count;
        self.count += u32::from(code.count);
        if self.count >= 32 {
            let [a, b, c, d, rest @ ..] = self.bits.to_le_bytes();
            self.out.extend([a, b, c, d]);
            self.bits = u64::from(u32::from_le_bytes(rest));
            self.count -= 32;
        }
    }

    /// Fills the last byte with zeros.
    fn finish(self) {
        self.out.extend(&self.bits.to_le_bytes()[..self.count.div_ceil(8) as usize]);
    }
}

/// Bits in the order of the stream, the first one lowest.
#[derive(Clone, Copy)]
struct Code {
    bits: u16,
    count: u16,
}

const LAST_BLOCK_OF_FIXED_CODE: Code = Code { bits: 0b011, count: 3 };

const END_OF_BLOCK: Code = symbol(256);

static LITERALS: [Code; 256] = {
    let mut codes = [END_OF_BLOCK; 256];
    let mut byte = 0;
    while byte < 256 {
        codes[byte as usize] = symbol(byte);
        byte += 1;
    }
    codes
};

/// The lengths of references, by their number of bytes.
static LENGTHS: [Code; MAX_MATCH + 1] = {
    let mut codes = [END_OF_BLOCK; MAX_MATCH + 1];
    let (mut length, mut less) = (MIN_MATCH, 0);
    while length < MAX_MATCH {
        codes[length] = ranged(257, less, 4);
        length += 1;
        less += 1;
    }
    codes[MAX_MATCH] = symbol(285);
    codes
};

static DISTANCES: [Code; MAX_SMALL_TILE] = {
    let mut codes = [END_OF_BLOCK; MAX_SMALL_TILE];
    let (mut distance, mut less) = (1, 0);
    while distance < MAX_SMALL_TILE {
        codes[distance] = ranged(0, less, 2);
        distance += 1;
        less += 1;
    }
    codes
};

/// The fixed code of a symbol for literals and lengths (section 3.2.6).
const fn symbol(number: u16) -> Code {
    let (bits, count) = match number {
        0..144 => (0b0011_0000 + number, 8),
        144..256 => (0b1_1001_0000 + number - 144, 9),
        256..280 => (number - 256, 7),
        _ => (0b1100_0000 + number - 280, 8),
    };
    Code { bits: bits.reverse_bits() >> (16 - count), count }
}

/// The code of a length or distance (section 3.2.5). `value` is the length or distance minus the smallest one. The
/// first `2 * share` values have symbols of their own. From then on, `share` symbols have one extra bit each, the next
/// `share` have two, and so on. The symbols of lengths begin at `first`, those of distances at 0.
const fn ranged(first: u16, value: u16, share: u16) -> Code {
    let (mut extra, mut high) = (0, value);
    while high >= 2 * share {
        high >>= 1;
        extra += 1;
    }
    let number = first + extra * share + high;
    let symbol = if first > 0 { symbol(number) } else { Code { bits: number.reverse_bits() >> 11, count: 5 } };
    let rest = value & ((1 << extra) - 1);
    Code { bits: symbol.bits | rest << symbol.count, count: symbol.count + extra }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn packed(encoder: &mut SmallDeflate, raw: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        encoder.pack(raw, &mut out);
        assert!(out.len() - 6 <= raw.len() + STORED_HEADER);
        out.split_off(6)
    }

    /// Checks that two readers unpack the tile, and that an encoder that has packed other tiles gives the bytes of a
    /// new one.
    #[track_caller]
    fn check(used: &mut SmallDeflate, raw: &[u8]) -> usize {
        let deflated = packed(used, raw);
        assert_eq!(deflated, packed(&mut SmallDeflate::new(), raw));
        let (mut read, mut other) = (Vec::new(), vec![0; raw.len()]);
        flate2::read::DeflateDecoder::new(deflated.as_slice()).read_to_end(&mut read).unwrap();
        assert_eq!(read, raw);
        let inflated = libdeflater::Decompressor::new().deflate_decompress(&deflated, &mut other).unwrap();
        assert_eq!((inflated, other.as_slice()), (raw.len(), raw));
        deflated.len()
    }

    fn chance(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        }
    }

    #[test]
    fn texts_of_every_length_unpack_to_themselves() {
        let mut random = chance(3);
        let mut encoder = SmallDeflate::new();
        for length in 0..=MAX_SMALL_TILE {
            for letters in [1, 3, 20, 256] {
                let raw: Vec<u8> = (0..length).map(|_| u8::try_from(random() % letters).unwrap()).collect();
                check(&mut encoder, &raw);
            }
        }
    }

    #[test]
    fn every_length_and_distance_of_a_reference_unpacks_to_itself() {
        let mut random = chance(5);
        let mut encoder = SmallDeflate::new();
        for distance in 1..MAX_SMALL_TILE {
            let unlike: Vec<u8> = (0..distance).map(|_| random().to_le_bytes()[0]).collect();
            let lengths = MIN_MATCH..=MAX_MATCH.min(MAX_SMALL_TILE - distance);
            for length in lengths.step_by(if distance < 40 { 1 } else { 23 }) {
                let raw: Vec<u8> = unlike.iter().copied().cycle().take(distance + length).collect();
                check(&mut encoder, &raw);
            }
        }
        let alike = check(&mut encoder, &[7; 2 + MAX_MATCH]);
        assert!(alike < 8, "{alike}");
    }

    #[test]
    fn the_count_over_all_tiles_begins_anew_before_it_overflows() {
        let mut encoder = SmallDeflate::new();
        let text = b"one facility and one facility more";
        encoder.begin = u32::MAX / 2;
        check(&mut encoder, text);
        assert!(encoder.begin > u32::MAX / 2);
        check(&mut encoder, text);
        assert_eq!(encoder.begin as usize, 1 + text.len());
    }
}
