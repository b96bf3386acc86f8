//! The order of the points in the file: by strips from west to east, each from north to south.

use crate::tile::WorldRect;

/// Points are sorted by strips of 2^22 world units (a column of zoom 10), by their latitude within a strip, and last by their longitude.
pub(super) const STRIP_BITS: u32 = 22;

/// The bits of an x within its strip.
const WITHIN_STRIP: u64 = (1 << STRIP_BITS) - 1;

/// The position of a point in the order of the file.
pub(super) fn code(x: u32, y: u32) -> u64 {
    u64::from(x >> STRIP_BITS) << (32 + STRIP_BITS) | u64::from(y) << STRIP_BITS | u64::from(x) & WITHIN_STRIP
}

/// The point of a code: x, y.
#[expect(clippy::cast_possible_truncation, reason = "the parts of a code have at most 32 bits")]
pub(super) fn point(code: u64) -> [u32; 2] {
    [((code >> (32 + STRIP_BITS) << STRIP_BITS) | code & WITHIN_STRIP) as u32, (code >> STRIP_BITS) as u32]
}

/// Neighbours in the order of the file.
pub(super) struct CodeRange {
    pub(super) first: u64,
    /// Included.
    pub(super) last: u64,
}

/// The part of a rectangle that lies in one strip, its ends included.
#[derive(Clone, Copy)]
pub(super) struct StripPart {
    pub(super) west: u32,
    pub(super) north: u32,
    pub(super) east: u32,
    pub(super) south: u32,
}

impl StripPart {
    pub(super) fn codes(&self) -> CodeRange {
        CodeRange { first: code(self.west, self.north), last: code(self.east, self.south) }
    }
}

/// The parts of a rectangle, from west to east.
pub(super) fn strips(rect: &WorldRect) -> impl Iterator<Item = StripPart> {
    let unit = |value: i64| u32::try_from(value.max(0)).unwrap_or(u32::MAX);
    let (west, north, east, south) = (unit(rect.west), unit(rect.north), unit(rect.east), unit(rect.south));
    let is_empty = rect.east < 0 || rect.south < 0 || rect.west > u32::MAX.into() || rect.north > u32::MAX.into();
    let count = if is_empty { 0 } else { ((east >> STRIP_BITS) + 1).saturating_sub(west >> STRIP_BITS) };
    (0..count).map(move |number| {
        let first = ((west >> STRIP_BITS) + number) << STRIP_BITS;
        let last = first | u32::MAX >> (32 - STRIP_BITS);
        StripPart { west: west.max(first), north, east: east.min(last), south }
    })
}

/// The parts of the file's order in which the points of a rectangle lie: one for each strip, or a single one if the rectangle reaches from
/// pole to pole.
pub(super) fn pieces(rect: &WorldRect) -> Vec<CodeRange> {
    let mut pieces: Vec<CodeRange> = Vec::new();
    for strip in strips(rect) {
        let codes = strip.codes();
        match pieces.last_mut() {
            Some(before) if strip.north == 0 && strip.south == u32::MAX => before.last = codes.last,
            _ => pieces.push(codes),
        }
    }
    pieces
}
