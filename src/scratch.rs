//! Scratch files: files without a name, for data that takes more memory than allowed. Such a file disappears with its
//! owner, and a killed run leaves nothing behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::tile::{SortedPoints, WorldRect};

/// A new scratch file.
/// Fails if no file can be created in the temporary folder.
pub fn scratch_file() -> io::Result<File> {
    tempfile::tempfile_in(temporary_folder())
}

/// The folder of scratch files: `TMPDIR`, or `/var/tmp`, which is on a disk where `/tmp` may be in memory.
pub(crate) fn temporary_folder() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

// The points of a large layer, sorted in a scratch file, so that planning takes the same memory for any number of rows.
//
// ```text
//  points ─► chunk in memory ─► sorted: a run ─┐
//                               …              ├─► merged: strips from west to east, each from north to south ─► a rectangle's points
//                               sorted: a run ─┘
// ```

/// The most points that are kept in memory, eight bytes each.
pub const MAX_POINTS_IN_MEMORY: usize = 1 << 20;

/// The index has the first point of each block of this many points.
const POINTS_PER_BLOCK: u64 = 1024;

/// The most blocks that are read at a time: 64 kB.
const BLOCKS_PER_READ: u64 = 8;

/// The most bytes that are read or written at a time, [`BLOCKS_PER_READ`] blocks.
const MAX_BUFFER_BYTES: usize = 64 << 10;

const POINT_BYTES: usize = size_of::<u64>();

#[derive(Debug)]
pub enum SortedPlaces {
    /// Few: in memory.
    Memory(SortedPoints),
    /// More: in a scratch file.
    File(PointFile),
}

#[derive(Debug)]
pub struct PointSorter {
    /// Points that are not in the file yet: x in the upper half, y in the lower half.
    chunk: Vec<u64>,
    /// The file, and where its runs begin and end, counted in points.
    file: Option<File>,
    runs: Vec<Range<u64>>,
    /// The most points in memory.
    most: usize,
}

impl PointSorter {
    /// Keeps at most `most` points in memory.
    pub const fn new(most: usize) -> PointSorter {
        PointSorter { chunk: Vec::new(), file: None, runs: Vec::new(), most }
    }

    /// Adds a point: x in the upper half, y in the lower half.
    /// Fails if the scratch file cannot be written, such as on a full disk.
    pub fn add(&mut self, point: u64) -> io::Result<()> {
        if self.chunk.len() >= self.most {
            self.end_run()?;
        }
        self.chunk.push(point);
        Ok(())
    }

    /// Writes the chunk as a run.
    #[expect(clippy::cast_possible_truncation, reason = "the halves are 32 bits wide")]
    fn end_run(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(scratch_file()?),
        };
        for point in &mut self.chunk {
            *point = code((*point >> 32) as u32, *point as u32);
        }
        self.chunk.sort_unstable();
        let begin = self.runs.last().map_or(0, |run| run.end);
        let mut writer = PointWriter { file, at: begin, buffer: Vec::new() };
        for code in self.chunk.drain(..) {
            writer.add(code)?;
        }
        let end = writer.finish()?;
        self.runs.push(begin..end);
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<SortedPlaces> {
        if self.file.is_none() {
            return Ok(SortedPlaces::Memory(SortedPoints::new(self.chunk)));
        }
        self.end_run()?;
        let PointSorter { chunk, file, runs, .. } = self;
        drop(chunk);
        let Some(file) = file else { return Ok(SortedPlaces::Memory(SortedPoints::default())) };
        PointFile::merged(&file, &runs).map(SortedPlaces::File)
    }
}

#[derive(Debug)]
pub struct PointFile {
    file: File,
    len: u64,
    /// The code of the first point of each block.
    index: Vec<u64>,
    /// The rectangle around all points, its ends included.
    bounds: WorldRect,
}

impl PointFile {
    /// The sorted file of some sorted runs.
    fn merged(file: &File, runs: &[Range<u64>]) -> io::Result<PointFile> {
        let mut readers: Vec<PointReader<'_>> = runs.iter().map(|run| PointReader::new(file, run.clone())).collect();
        let mut next = BinaryHeap::new();
        for (number, reader) in readers.iter_mut().enumerate() {
            next.extend(reader.next()?.map(|code| Reverse((code, number))));
        }
        let sorted = scratch_file()?;
        let mut writer = PointWriter { file: &sorted, at: 0, buffer: Vec::new() };
        let mut index = Vec::new();
        let [mut west, mut north, mut east, mut south] = [u32::MAX, u32::MAX, 0, 0];
        while let Some(Reverse((code, number))) = next.pop() {
            next.extend(readers[number].next()?.map(|code| Reverse((code, number))));
            if writer.points().is_multiple_of(POINTS_PER_BLOCK) {
                index.push(code);
            }
            writer.add(code)?;
            let [x, y] = point(code);
            (west, north, east, south) = (west.min(x), north.min(y), east.max(x), south.max(y));
        }
        let len = writer.finish()?;
        let bounds = WorldRect { west: west.into(), north: north.into(), east: east.into(), south: south.into() };
        tracing::debug!("{len} points are planned from a scratch file");
        Ok(PointFile { file: sorted, len, index, bounds })
    }

    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no point.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rectangle around all points, its ends included.
    pub const fn bounds(&self) -> WorldRect {
        self.bounds
    }

    /// The approximate number of points in a rectangle. It assumes that the points of a strip are evenly spread from
    /// west to east, and those of a block along the order of the file.
    pub fn about_within(&self, rect: &WorldRect) -> u64 {
        let of_strip = |strip: StripPart| {
            let CodeRange { first, last } = strip.codes();
            let points = self.rank(last).saturating_sub(self.rank(first));
            points * (u64::from(strip.east - strip.west) + 1)
        };
        strips(rect).map(of_strip).sum::<u64>() >> STRIP_BITS
    }

    /// The approximate number of points before a code.
    fn rank(&self, code: u64) -> u64 {
        let Some(block) = self.index.partition_point(|first| *first <= code).checked_sub(1) else { return 0 };
        let before = block as u64 * POINTS_PER_BLOCK;
        let (begin, end) = (self.index[block], self.index.get(block + 1).copied().unwrap_or(u64::MAX));
        let points = u128::from(POINTS_PER_BLOCK.min(self.len - before));
        let share = points * u128::from(code - begin) / u128::from(end - begin).max(1);
        before + u64::try_from(share).unwrap_or(0)
    }

    /// The blocks that may hold codes from one up to and including another.
    fn blocks(&self, codes: &CodeRange) -> Range<usize> {
        let begin = self.index.partition_point(|first| *first < codes.first).saturating_sub(1);
        let end = self.index.partition_point(|first| *first <= codes.last);
        begin..end.max(begin)
    }

    /// Calls `each` with the points (x, y) in a rectangle, its ends included, until it breaks.
    pub fn within(&self, rect: &WorldRect, mut each: impl FnMut([u32; 2]) -> ControlFlow<()>) -> io::Result<()> {
        // Neighbouring ranges may share a block, which is read only once.
        let mut all: Vec<Range<usize>> = Vec::new();
        for blocks in pieces(rect).iter().map(|codes| self.blocks(codes)).filter(|blocks| !blocks.is_empty()) {
            match all.last_mut() {
                Some(before) if blocks.start <= before.end => before.end = before.end.max(blocks.end),
                _ => all.push(blocks),
            }
        }
        let (columns, rows) = (rect.west..=rect.east, rect.north..=rect.south);
        for blocks in all {
            let points = blocks.start as u64 * POINTS_PER_BLOCK..(blocks.end as u64 * POINTS_PER_BLOCK).min(self.len);
            let mut reader = PointReader::new(&self.file, points);
            while let Some(code) = reader.next()? {
                let [x, y] = point(code);
                if columns.contains(&x.into()) && rows.contains(&y.into()) && each([x, y]).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Writes points one after the other.
struct PointWriter<'a> {
    file: &'a File,
    /// The number of points before the buffer.
    at: u64,
    buffer: Vec<u8>,
}

impl PointWriter<'_> {
    /// The number of points in the file, once the buffer is written.
    const fn points(&self) -> u64 {
        self.at + (self.buffer.len() / POINT_BYTES) as u64
    }

    fn add(&mut self, code: u64) -> io::Result<()> {
        self.buffer.extend(code.to_le_bytes());
        if self.buffer.len() >= MAX_BUFFER_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at * POINT_BYTES as u64)?;
        self.at = self.points();
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.write()?;
        Ok(self.at)
    }
}

/// Reads points one after the other.
struct PointReader<'a> {
    file: &'a File,
    /// Points that are not read yet.
    left: Range<u64>,
    buffer: Vec<u8>,
    /// The position of the next point in the buffer.
    next: usize,
}

impl PointReader<'_> {
    fn new(file: &File, left: Range<u64>) -> PointReader<'_> {
        PointReader { file, left, buffer: Vec::new(), next: 0 }
    }

    fn next(&mut self) -> io::Result<Option<u64>> {
        if self.next == self.buffer.len() {
            let count = (self.left.end - self.left.start).min(BLOCKS_PER_READ * POINTS_PER_BLOCK);
            if count == 0 {
                return Ok(None);
            }
            self.buffer.resize(count as usize * POINT_BYTES, 0);
            self.file.read_exact_at(&mut self.buffer, self.left.start * POINT_BYTES as u64)?;
            self.left.start += count;
            self.next = 0;
        }
        let code = self.buffer[self.next..].first_chunk().copied().map(u64::from_le_bytes);
        self.next += POINT_BYTES;
        Ok(code)
    }
}

// The order of the points in the file: by strips from west to east, each from north to south.

/// Points are sorted by strips of 2^22 world units (a column of zoom 10), by their latitude within a strip, and last by
/// their longitude.
pub(crate) const STRIP_BITS: u32 = 22;

/// The bits of an x within its strip.
const WITHIN_STRIP: u64 = (1 << STRIP_BITS) - 1;

/// The position of a point in the order of the file.
pub(crate) fn code(x: u32, y: u32) -> u64 {
    u64::from(x >> STRIP_BITS) << (32 + STRIP_BITS) | u64::from(y) << STRIP_BITS | u64::from(x) & WITHIN_STRIP
}

/// The point of a code: x, y.
#[expect(clippy::cast_possible_truncation, reason = "the parts of a code have at most 32 bits")]
pub(crate) fn point(code: u64) -> [u32; 2] {
    [((code >> (32 + STRIP_BITS) << STRIP_BITS) | code & WITHIN_STRIP) as u32, (code >> STRIP_BITS) as u32]
}

/// Neighbours in the order of the file.
pub(crate) struct CodeRange {
    pub(crate) first: u64,
    /// Included.
    pub(crate) last: u64,
}

/// The part of a rectangle that lies in one strip, its ends included.
#[derive(Clone, Copy)]
pub(crate) struct StripPart {
    pub(crate) west: u32,
    pub(crate) north: u32,
    pub(crate) east: u32,
    pub(crate) south: u32,
}

impl StripPart {
    pub(crate) fn codes(&self) -> CodeRange {
        CodeRange { first: code(self.west, self.north), last: code(self.east, self.south) }
    }
}

/// The parts of a rectangle, from west to east.
pub(crate) fn strips(rect: &WorldRect) -> impl Iterator<Item = StripPart> {
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

/// The parts of the file's order in which the points of a rectangle lie: one for each strip, or a single one if the
/// rectangle reaches from pole to pole.
pub(crate) fn pieces(rect: &WorldRect) -> Vec<CodeRange> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Points in a town and all over the world, and the corners of the world.
    fn points(count: u64) -> Vec<u64> {
        let mut chance = fastrand::Rng::with_seed(1);
        let mut any = |number: u64| match number % 2 {
            0 => chance.u32(..).into(),
            _ => 3_000_000_000 + u64::from(chance.u32(..1 << 23)),
        };
        let mut points: Vec<u64> = (0..count).map(|number| any(number) << 32 | any(number)).collect();
        points.extend([0, u64::MAX, u64::from(u32::MAX), u64::from(u32::MAX) << 32]);
        points
    }

    fn sorted(points: &[u64], most: usize) -> SortedPlaces {
        let mut sorter = PointSorter::new(most);
        for point in points {
            sorter.add(*point).unwrap();
        }
        sorter.finish().unwrap()
    }

    #[test]
    fn a_rectangle_finds_its_points_in_the_file() {
        let points = points(30_000);
        let SortedPlaces::File(file) = sorted(&points, 7_000) else { panic!("in memory") };
        assert_eq!(file.len(), points.len() as u64);
        let whole = WorldRect { west: 0, north: 0, east: u32::MAX.into(), south: u32::MAX.into() };
        assert_eq!(file.bounds(), whole);
        let mut chance = fastrand::Rng::with_seed(3);
        let mut rects = vec![whole, whole.grown(1 << 33), WorldRect { west: -9, north: -9, east: -1, south: -1 }];
        for bits in 0..33 {
            let (west, north) = (i64::from(chance.u32(..)), i64::from(chance.u32(..)));
            let square = WorldRect { west, north, east: west + (1 << bits), south: north + (1 << bits) };
            rects.extend([square, WorldRect { north: 0, south: u32::MAX.into(), ..square }]);
            let town = WorldRect { west: 3_000_000_000, north: 3_000_000_000 + (1 << 22), ..square };
            rects.push(WorldRect { east: town.west + (1 << bits), south: town.north + (1 << bits), ..town });
        }
        for rect in rects {
            let is_in = |point: &&u64| {
                let (x, y) = ((**point >> 32).cast_signed(), (**point & u64::from(u32::MAX)).cast_signed());
                (rect.west..=rect.east).contains(&x) && (rect.north..=rect.south).contains(&y)
            };
            let mut expected: Vec<u64> = points.iter().filter(is_in).copied().collect();
            expected.sort_unstable();
            let mut found = Vec::new();
            file.within(&rect, |[x, y]| {
                found.push(u64::from(x) << 32 | u64::from(y));
                ControlFlow::Continue(())
            })
            .unwrap();
            found.sort_unstable();
            assert_eq!(found, expected, "{rect:?}");
        }
        let about = |rect: &WorldRect| file.about_within(rect) * 100 / file.len();
        assert!((90..=100).contains(&about(&whole)), "{} %", about(&whole));
        let quarter = WorldRect { east: 1 << 31, south: 1 << 31, ..whole };
        assert!((8..=20).contains(&about(&quarter)), "{} %", about(&quarter));
        let mut first = 0;
        file.within(&whole, |_| {
            first += 1;
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(first, 1);
    }

    #[test]
    fn few_points_stay_in_memory() {
        assert!(matches!(sorted(&points(10), 14), SortedPlaces::Memory(_)));
        assert!(matches!(sorted(&[], 14), SortedPlaces::Memory(_)));
        assert!(matches!(sorted(&points(11), 14), SortedPlaces::File(_)));
    }

    #[test]
    fn a_file_that_was_cut_off_is_an_error() {
        let SortedPlaces::File(file) = sorted(&points(3_000), 1_000) else { panic!("in memory") };
        file.file.set_len(50).unwrap();
        assert!(file.within(&file.bounds(), |_| ControlFlow::Continue(())).is_err());
    }
}
