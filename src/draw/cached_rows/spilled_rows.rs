//! Cached rows that are spilled to a scratch file, for layers whose rows take more memory than allowed.
//!
//! ```text
//!  rows of a session, by their keys ─► in memory, until all take too much ─► sorted from west to east ─► run of blocks ─┐
//!                                                                                              …                        ├─► scratch file
//!  a batch's areas ─► blocks of each run that may hold rows there ─► rows, by their numbers ─► EncodedRows
//! ```
//!
//! A row's number is its position in the order of the keys, which is its order in a tile. Sessions read ranges of the
//! keys in parallel, so a row is numbered within its range until all ranges are read. Within a run, the rows are sorted
//! by columns of tiles at a common deepest zoom ([`COLUMN_ZOOM`]), so that a batch, which is a few columns or a square,
//! reads a few long pieces.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::{EncodedRows, KnownPlaces, MemoryLimit};
use crate::mvt::Features;
use crate::scratch::scratch_file;
use crate::tile::{Frame, Positions, WorldRect};

/// The most bytes of a block, not counting its last row. With smaller blocks, a batch reads fewer rows that it does not
/// need, but the index is longer.
const MAX_BLOCK_BYTES: usize = 16 << 10;

/// The lower limit of the size that [`block_bytes`] computes.
const MIN_BLOCK_BYTES: usize = 1 << 10;

/// A block takes at most the batches' memory divided by this number. A tile needs at least one block of each run, and
/// with little memory there are many runs, so their blocks must be small.
const BLOCKS_IN_MEMORY: usize = 1024;

/// The bytes of a block, if batches may take `limit` bytes of memory.
fn block_bytes(limit: usize) -> usize {
    (limit / BLOCKS_IN_MEMORY).clamp(MIN_BLOCK_BYTES, MAX_BLOCK_BYTES)
}

/// The header of a row, before the bytes of its feature: the row's number, its position, and the number of these bytes.
const HEADER_BYTES: usize = 24;

/// The memory of a row of a batch in addition to its own bytes: its number, its offsets among the bytes, and its
/// position twice.
const BATCH_ROW_BYTES: usize = 64;

/// Rows are sorted by columns of this zoom, and by their latitude within a column.
const COLUMN_ZOOM: u32 = 14;

/// The sort key of a row in a run: its column in the upper 32 bits, and its distance from the northern edge, in world
/// units, in the lower 32.
fn code(at: [f64; 2]) -> u64 {
    let [x, y] = Positions::world(at);
    (x.cast_unsigned() >> (32 - COLUMN_ZOOM)) << 32 | y.cast_unsigned()
}

/// Rows that follow each other in the file.
#[derive(Debug, Clone, Copy)]
struct RowBlock {
    first: u64,
    offset: u64,
    bytes: u32,
    rows: u32,
}

struct FoundRow {
    number: u32,
    at: [f64; 2],
    /// Its range in the bytes read.
    span: Range<u32>,
}

/// Rows that were written together.
#[derive(Debug)]
struct RowRun {
    /// The number of the part to which the rows belong; once all rows are read, the number of the part's first row.
    base: u32,
    /// From west to east.
    blocks: Vec<RowBlock>,
}

/// Cached rows in a scratch file.
#[derive(Debug)]
pub(crate) struct SpilledRows {
    file: File,
    runs: Vec<RowRun>,
    /// The layer without rows.
    pub(crate) layer: Features,
    memory: MemoryLimit,
    known: Arc<KnownPlaces>,
}

impl SpilledRows {
    /// Where ambiguous points are drawn.
    pub(crate) fn known(&self) -> &KnownPlaces {
        &self.known
    }

    /// The most memory that the rows take: the index of the blocks, and the rows of the batches in work.
    pub(crate) fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.blocks.len() * size_of::<RowBlock>()).sum::<usize>() + self.memory.limit
    }

    /// Calls `work` with the rows in some parts of the world, and perhaps some more. `None` if the rows would take more
    /// memory than allowed. Waits while other batches use the memory.
    pub(crate) fn within<T>(&self, parts: &[WorldRect], work: impl FnOnce(&EncodedRows) -> T) -> io::Result<Option<T>> {
        let of_run = |run: &RowRun| {
            let base = run.base;
            blocks_of(&run.blocks, parts).into_iter().map(move |block| (base, block))
        };
        let blocks: Vec<(u32, RowBlock)> = self.runs.iter().flat_map(of_run).collect();
        let Some(_held) = self.memory.take(memory_of(blocks.iter().map(|(_, block)| block))) else { return Ok(None) };
        Ok(Some(work(&self.read(&blocks, parts)?)))
    }

    /// Calls `work` with the rows in a part of the world, run by run in the order of the rows, until it returns
    /// `false`. For parts whose rows together take more memory than allowed. All other batches wait meanwhile.
    pub(crate) fn in_pieces(&self, part: &WorldRect, mut work: impl FnMut(&EncodedRows) -> bool) -> io::Result<()> {
        let _held = self.memory.take(self.memory.limit);
        let parts = std::slice::from_ref(part);
        for run in &self.runs {
            let blocks: Vec<(u32, RowBlock)> =
                blocks_of(&run.blocks, parts).into_iter().map(|block| (run.base, block)).collect();
            if !blocks.is_empty() && !work(&self.read(&blocks, parts)?) {
                break;
            }
        }
        Ok(())
    }

    /// An upper bound of the bytes of the encoded rows in a part of the world.
    pub(crate) fn bytes_within(&self, part: &WorldRect) -> usize {
        let blocks = self.runs.iter().flat_map(|run| blocks_of(&run.blocks, std::slice::from_ref(part)));
        blocks.map(|block| block.bytes as usize).sum()
    }

    /// The rows of some blocks that lie in some parts of the world, in their order. Each block comes with the number of
    /// the first row of its part.
    #[expect(
        clippy::slow_vector_initialization,
        reason = "memory that is asked for with zeros comes new from the system: of ten million rows, five million page faults"
    )]
    fn read(&self, blocks: &[(u32, RowBlock)], parts: &[WorldRect]) -> io::Result<EncodedRows> {
        let rows: usize = blocks.iter().map(|(_, block)| block.rows as usize).sum();
        let bytes = blocks.iter().map(|(_, block)| block.bytes as usize).sum();
        let mut raw = Vec::with_capacity(bytes);
        raw.resize(bytes, 0);
        let mut rest = &mut raw[..];
        for piece in blocks.chunk_by(|(_, one), (_, next)| one.offset + u64::from(one.bytes) == next.offset) {
            let Some((_, first)) = piece.first() else { continue };
            let (own, others) = rest.split_at_mut(piece.iter().map(|(_, block)| block.bytes as usize).sum());
            self.file.read_exact_at(own, first.offset)?;
            rest = others;
        }
        let mut found = Vec::with_capacity(rows);
        let mut start = 0;
        for (base, block) in blocks {
            let end = start + block.bytes as usize;
            rows_within(&raw[..end], start, *base, parts, &mut found)?;
            start = end;
        }
        found.sort_unstable_by_key(|row| row.number);
        let positions = Positions::new(found.iter().map(|row| row.at).collect(), Frame::Metres);
        let features = self.layer.with_encoded(raw, found.into_iter().map(|row| row.span));
        let known = Arc::clone(&self.known);
        Ok(EncodedRows { positions: positions.into(), features: features.into(), known, ..EncodedRows::default() })
    }
}

/// The memory that the rows of some blocks take.
fn memory_of<'b>(blocks: impl Iterator<Item = &'b RowBlock>) -> usize {
    blocks.map(|block| block.bytes as usize + block.rows as usize * BATCH_ROW_BYTES).sum()
}

/// The blocks of a run that may hold rows in some parts of the world.
#[expect(clippy::cast_possible_truncation, reason = "the lower half of a code is a distance")]
fn blocks_of(run: &[RowBlock], parts: &[WorldRect]) -> Vec<RowBlock> {
    let (column, row) = (|code: u64| (code >> 32).cast_signed(), |code: u64| i64::from(code as u32));
    let mut wanted: Vec<usize> = Vec::new();
    for part in parts {
        let columns = [part.west, part.east - 1].map(|x| x.max(0) >> (32 - COLUMN_ZOOM));
        let begin = run.partition_point(|block| column(block.first) < columns[0]).saturating_sub(1);
        let end = run.partition_point(|block| column(block.first) <= columns[1]);
        let may_hold = |number: &usize| {
            let first = run[*number].first;
            let last = run.get(number + 1).map_or(u64::MAX, |next| next.first);
            match column(last) - column(first) {
                0 => row(first) < part.south && row(last) >= part.north,
                1 => row(first) < part.south || row(last) >= part.north,
                _ => true,
            }
        };
        wanted.extend((begin..end).filter(may_hold));
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted.into_iter().map(|number| run[number]).collect()
}

/// Adds the rows of a block that lie in some parts of the world to `found`. The block begins at `start`; `base` is the
/// number of the first row of its part.
fn rows_within(
    raw: &[u8],
    mut start: usize,
    base: u32,
    parts: &[WorldRect],
    found: &mut Vec<FoundRow>,
) -> io::Result<()> {
    while start < raw.len() {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the scratch file of cached rows was changed");
        let header = raw.get(start..start + HEADER_BYTES).ok_or_else(damaged)?;
        let (number, x, y, bytes) = (word(header, 0), wide(header, 4), wide(header, 12), word(header, 20));
        start += HEADER_BYTES;
        let end = start + bytes as usize;
        let [west, north] = Positions::world([x, y]);
        let is_in =
            |part: &WorldRect| (part.west..part.east).contains(&west) && (part.north..part.south).contains(&north);
        if parts.iter().any(is_in) {
            let place = |at: usize| u32::try_from(at).map_err(|_too_far| damaged());
            found.push(FoundRow { number: base + number, at: [x, y], span: place(start)?..place(end)? });
        }
        start = end;
    }
    Ok(())
}

/// Four bytes of a header.
fn word(header: &[u8], at: usize) -> u32 {
    header[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}

/// Eight bytes of a header.
fn wide(header: &[u8], at: usize) -> f64 {
    header[at..].first_chunk().copied().map_or(0.0, f64::from_le_bytes)
}

// Writes rows to a scratch file, in runs.

/// Writes rows to a scratch file, in runs.
pub(crate) struct SpilledRowsWriter {
    file: File,
    runs: Vec<RowRun>,
    written: u64,
    /// The memory that the rows of the batches in work may take, in bytes. A run of more than one row takes no more
    /// than that when it is read.
    limit: usize,
}

impl SpilledRowsWriter {
    pub(crate) fn new(limit: usize) -> io::Result<SpilledRowsWriter> {
        Ok(SpilledRowsWriter { file: scratch_file()?, runs: Vec::new(), written: 0, limit })
    }

    /// Writes further rows of a part: their positions and bytes. `first` is the number of the first of these rows
    /// within the part.
    #[expect(clippy::cast_possible_truncation, reason = "a layer has fewer than 2^32 rows")]
    pub(crate) fn add(&mut self, part: usize, first: u64, at: &[[f64; 2]], features: &Features) -> io::Result<()> {
        let memory = |number: usize| {
            let encoded = features.encoded(number as u32).unwrap_or_default();
            HEADER_BYTES + encoded.len() + BATCH_ROW_BYTES
        };
        let (mut begin, mut taken) = (0, 0);
        for number in 0..at.len() {
            let own = memory(number);
            if number > begin && taken + own > self.limit {
                self.add_run(part, first, begin..number, at, features)?;
                (begin, taken) = (number, 0);
            }
            taken += own;
        }
        self.add_run(part, first, begin..at.len(), at, features)
    }

    /// Writes some of these rows as a run.
    #[expect(clippy::cast_possible_truncation, reason = "a layer has fewer than 2^32 rows of less than 4 GB")]
    fn add_run(
        &mut self,
        part: usize,
        first: u64,
        rows: Range<usize>,
        at: &[[f64; 2]],
        features: &Features,
    ) -> io::Result<()> {
        let mut order: Vec<(u64, u32)> = rows.map(|number| (code(at[number]), number as u32)).collect();
        order.sort_unstable();
        let mut run = RowRun { base: part as u32, blocks: Vec::new() };
        let most = block_bytes(self.limit);
        let (mut block, mut rows, mut first_code) = (Vec::with_capacity(2 * most), 0, 0);
        for (place, (code, number)) in order.iter().enumerate() {
            let encoded = features.encoded(*number).unwrap_or_default();
            if rows == 0 {
                first_code = *code;
            }
            let [x, y] = at[*number as usize];
            block.extend((first as u32 + number).to_le_bytes());
            block.extend(x.to_le_bytes());
            block.extend(y.to_le_bytes());
            block.extend((encoded.len() as u32).to_le_bytes());
            block.extend_from_slice(encoded);
            rows += 1;
            if block.len() >= most || place + 1 == order.len() {
                self.file.write_all_at(&block, self.written)?;
                let bytes = block.len() as u32;
                run.blocks.push(RowBlock { first: first_code, offset: self.written, bytes, rows });
                self.written += u64::from(bytes);
                block.clear();
                rows = 0;
            }
        }
        if !run.blocks.is_empty() {
            self.runs.push(run);
        }
        Ok(())
    }

    /// Returns the file with all rows. `rows` are the numbers of rows of the parts, in their order; `layer` is their
    /// layer, with or without rows.
    pub(crate) fn finish(self, rows: &[u64], layer: &Features) -> SpilledRows {
        let SpilledRowsWriter { file, mut runs, written, limit } = self;
        tracing::debug!(
            "{} rows are in the scratch file, in {} runs of {written} bytes",
            rows.iter().sum::<u64>(),
            runs.len()
        );
        for run in &mut runs {
            let before: u64 = rows.iter().take(run.base as usize).sum();
            #[expect(clippy::cast_possible_truncation, reason = "a layer has fewer than 2^32 rows")]
            let base = before as u32;
            run.base = base;
        }
        // In the order of the rows. The sort is stable, and the runs of a part were written in their order.
        runs.sort_by_key(|run| run.base);
        let layer = layer.with_encoded(Vec::new(), std::iter::empty());
        SpilledRows { file, runs, layer, memory: MemoryLimit::new(limit), known: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{HALF_WORLD_METRES, WORLD_UNITS};

    /// A linear congruential generator (Knuth's MMIX constants).
    fn chance(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Positions in a town, all over the world, and on its edges.
    #[expect(clippy::cast_precision_loss, reason = "31 bits are exact in a double")]
    fn positions(count: usize) -> Vec<[f64; 2]> {
        let mut state = 1;
        let mut metres = |reach: f64| (chance(&mut state) as f64 / f64::from(1_u32 << 31) * 2.0 - 1.0) * reach;
        let town = [9_000_000.0, 2_500_000.0];
        let edges = [[-HALF_WORLD_METRES, HALF_WORLD_METRES], [HALF_WORLD_METRES, -HALF_WORLD_METRES]];
        let mut at: Vec<[f64; 2]> = (0..count)
            .map(|number| match number % 3 {
                0 => [metres(HALF_WORLD_METRES), metres(HALF_WORLD_METRES)],
                _ => [town[0] + metres(3_000.0), town[1] + metres(3_000.0)],
            })
            .collect();
        at.extend(edges);
        at
    }

    fn encoded(number: usize) -> Vec<u8> {
        format!("row {number} {}", "x".repeat(number % 40)).into_bytes()
    }

    /// The rows in runs of `run` rows, those of the second half read by another session.
    fn written(at: &[[f64; 2]], run: usize, limit: usize) -> SpilledRows {
        let mut writer = SpilledRowsWriter::new(limit).unwrap();
        let half = at.len() / 2;
        for (part, range) in [0..half, half..at.len()].into_iter().enumerate().rev() {
            for first in range.clone().step_by(run) {
                let numbers = first..(first + run).min(range.end);
                let (mut bytes, mut spans) = (Vec::new(), Vec::new());
                for number in numbers.clone() {
                    let start = u32::try_from(bytes.len()).unwrap();
                    bytes.extend(encoded(number));
                    spans.push(start..u32::try_from(bytes.len()).unwrap());
                }
                let features = Features::default().with_encoded(bytes, spans.into_iter());
                writer.add(part, (first - range.start) as u64, &at[numbers], &features).unwrap();
            }
        }
        writer.finish(&[half as u64, (at.len() - half) as u64], &Features::default())
    }

    /// Parts of the world: single tiles of all sizes around positions, columns, everything, and nothing.
    fn parts(at: &[[f64; 2]]) -> Vec<WorldRect> {
        let mut state = 2;
        let mut parts = vec![
            WorldRect { west: -64, north: -64, east: WORLD_UNITS + 64, south: WORLD_UNITS + 64 },
            WorldRect { west: 5, north: 5, east: 6, south: 6 },
        ];
        for zoom in 0..=22 {
            let number = usize::try_from(chance(&mut state)).unwrap() % at.len();
            let [x, y] = Positions::world(at[number]);
            let (side, margin) = (WORLD_UNITS >> zoom, WORLD_UNITS >> (zoom + 5));
            let [west, north] = [x, y].map(|unit| unit / side * side - margin);
            parts.push(WorldRect { west, north, east: west + side + margin, south: north + side + margin });
            parts.push(WorldRect { west, north: 0, east: west + side, south: WORLD_UNITS });
        }
        parts
    }

    #[test]
    fn the_rows_of_any_part_of_the_world_are_found_in_their_order() {
        let at = positions(3_000);
        for limit in [600_000, 1_200_000] {
            let file = written(&at, limit / 400, limit);
            let parts = parts(&at);
            for parts in parts.iter().map(std::slice::from_ref).chain([&parts[2..5], &parts[40..]]) {
                let is_in = |at: &[f64; 2]| {
                    let [x, y] = Positions::world(*at);
                    parts
                        .iter()
                        .any(|part| (part.west..part.east).contains(&x) && (part.north..part.south).contains(&y))
                };
                let expected: Vec<Vec<u8>> =
                    at.iter().enumerate().filter(|(_, at)| is_in(at)).map(|(number, _)| encoded(number)).collect();
                let found = file.within(parts, |rows| {
                    assert_eq!(rows.positions.len(), rows.features.keyed().len());
                    (0..)
                        .map_while(|number| rows.features.keyed().encoded(number).map(<[u8]>::to_vec))
                        .collect::<Vec<_>>()
                });
                match found.unwrap() {
                    Some(found) => assert_eq!(found, expected, "{parts:?}"),
                    None => assert!(expected.len() * 200 > limit, "{} rows of {parts:?}", expected.len()),
                }
                if let [part] = parts {
                    let mut pieces = Vec::new();
                    let piece = |rows: &EncodedRows| {
                        let encoded =
                            (0..).map_while(|number| rows.features.keyed().encoded(number).map(<[u8]>::to_vec));
                        pieces.extend(encoded);
                        true
                    };
                    file.in_pieces(part, piece).unwrap();
                    assert_eq!(pieces, expected, "in pieces: {part:?}");
                    assert!(file.bytes_within(part) >= expected.iter().map(Vec::len).sum());
                }
            }
        }
    }

    #[test]
    fn rows_go_to_the_file_in_several_runs_and_no_batch_takes_more_memory_than_it_may() {
        let at = positions(3_000);
        let file = written(&at, 500, 20_000);
        assert!(file.runs.len() > 3, "{} runs", file.runs.len());
        for run in &file.runs {
            let memory = memory_of(run.blocks.iter());
            assert!(memory <= 20_000, "a run of {memory} bytes");
        }
        let everything = WorldRect { west: 0, north: 0, east: WORLD_UNITS, south: WORLD_UNITS };
        assert!(file.within(&[everything], |_| ()).unwrap().is_none());
        // Threads that together need more memory than there is take turns.
        let file = written(&at, 2_000, 400_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let found = file.within(&[everything], |rows| {
                        assert!(*file.memory.taken.lock() <= file.memory.limit);
                        rows.features.keyed().len()
                    });
                    assert_eq!(found.unwrap(), Some(at.len()));
                });
            }
        });
        assert_eq!(*file.memory.taken.lock(), 0);
    }

    #[test]
    fn a_file_that_was_cut_off_is_an_error() {
        let file = written(&positions(100), 1_000, 1_000_000);
        file.file.set_len(50).unwrap();
        let everything = WorldRect { west: 0, north: 0, east: WORLD_UNITS, south: WORLD_UNITS };
        assert!(file.within(&[everything], |_| ()).is_err());
    }
}
