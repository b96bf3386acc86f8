//! The encoded features of rows that are kept from snapshot to snapshot, in a scratch file where they take more memory
//! than allowed.
//!
//! ```text
//!  rows by their keys ─► in memory, until they take too much ─► sorted by the Z-order of their positions ─► scratch file
//!  tiles, changed squares ─► numbers of rows ─► their bytes, neighbours in one read ─► features in memory for a moment
//!  rows as read + those that came ─► in the Z-order ─► another scratch file
//! ```
//!
//! In memory are the positions of the rows, where their features lie in the file, and their keys. So no file is read to
//! find rows, and what comes and goes is found without reading what stays.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::memory_limit::{MAX_BYTES_IN_MEMORY, MemoryLimit};
use crate::mvt::{FeatureKey, Features};
use crate::scratch::{scratch_file, temporary_folder};
use crate::tile::{Frame, Positions};

/// Encoded features, numbered in the order of their rows.
#[derive(Debug, Clone)]
pub(crate) enum RowFeatures {
    Memory(Arc<Features>),
    File(Arc<FeaturesInFile>),
}

impl Default for RowFeatures {
    fn default() -> RowFeatures {
        RowFeatures::Memory(Arc::default())
    }
}

impl From<Features> for RowFeatures {
    fn from(features: Features) -> RowFeatures {
        RowFeatures::Memory(Arc::new(features))
    }
}

impl RowFeatures {
    /// The features; `None` if they are in a file.
    pub(crate) fn in_memory(&self) -> Option<&Features> {
        match self {
            RowFeatures::Memory(features) => Some(features),
            RowFeatures::File(_) => None,
        }
    }

    /// The features, or, if they are in a file, what holds the keys of each.
    pub(crate) fn keyed(&self) -> &Features {
        match self {
            RowFeatures::Memory(features) => features,
            RowFeatures::File(file) => &file.keys,
        }
    }

    /// Features that are encoded as these are, or these.
    pub(crate) fn form(&self) -> &Features {
        match self {
            RowFeatures::Memory(features) => features,
            RowFeatures::File(file) => &file.layer,
        }
    }

    /// The number of bytes of a feature; 0 if there is no such feature.
    pub(crate) fn length(&self, number: u32) -> usize {
        match self {
            RowFeatures::Memory(features) => features.encoded(number).map_or(0, <[u8]>::len),
            RowFeatures::File(file) => file.length(number),
        }
    }

    /// The memory in use, in bytes, and that of the features that are read from a file at a time.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            RowFeatures::Memory(features) => features.size(),
            RowFeatures::File(file) => file.bytes(),
        }
    }
}

/// A gap between two features that is read with them, in bytes: a further read takes longer.
const MAX_GAP: u64 = 8 << 10;

/// The most bytes that are read at a time, unless a single feature is longer.
const MAX_READ: usize = 64 << 10;

/// The most bytes of features that are copied together where all of a file are, unless a single one is longer.
const MAX_BLOCK_BYTES: usize = if cfg!(test) { 1 << 10 } else { 1 << 20 };

/// The memory of a feature that was read, in addition to its bytes: its number, its place in the order of the file, and
/// its offsets there and in memory.
const LOADED_ROW_BYTES: usize = 48;

/// The memory of a feature in a file, in bytes, besides its key: its offset and its length.
const SPAN_BYTES: usize = size_of::<u64>() + size_of::<u32>();

/// The memory of a row while the places of all rows are sorted: its place and number.
const SORT_BYTES: usize = 16;

/// The memory of a joined row while it is written, in bytes, besides its key: its position, its places there and back,
/// its feature in both files, and its new number.
const JOINED_ROW_BYTES: usize =
    size_of::<[f64; 2]>() + 4 * size_of::<u32>() + SPAN_BYTES + SORT_BYTES + 2 * size_of::<FeatureSource>();

/// Features that are read at a time take at most this part of the memory that rows may take.
const READ_SHARE: usize = 4;

/// The memory that a row whose feature is in a file is expected to take, in bytes, with its key and while it is sorted.
const FILE_ROW_BYTES: u64 = 64;

/// Encoded features in a scratch file.
#[derive(Debug)]
pub(crate) struct FeaturesInFile {
    file: File,
    /// The bytes of the file.
    size: u64,
    /// Where each feature begins in the file, by its number.
    starts: Vec<u64>,
    /// The number of its bytes.
    lengths: Vec<u32>,
    /// For each feature, what holds its key ([`Features::push_key`]).
    keys: Features,
    /// The layer without features.
    layer: Features,
    /// What the features that are read at a time may take. Shared with the files that follow this one.
    memory: Arc<MemoryLimit>,
    /// True once the file could not be read.
    has_failed: AtomicBool,
}

/// Where a feature of joined rows is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FeatureSource {
    /// Among the rows as read, with this number.
    Read(u32),
    /// Among those that came, with this number.
    Came(u32),
}

impl FeaturesInFile {
    /// The features of a file that follow each other in the Z-order of some positions, by which they are numbered.
    /// `lengths` are the numbers of their bytes. They are those of `layer`, and their rows may take `memory` bytes.
    pub(crate) fn in_z_order(
        file: File,
        positions: &Positions,
        lengths: Vec<u32>,
        layer: Features,
        memory: usize,
        key: &FeatureKey,
    ) -> io::Result<FeaturesInFile> {
        let (mut starts, mut size) = (vec![0; lengths.len()], 0);
        for number in positions.in_z_order() {
            starts[*number as usize] = size;
            size += u64::from(lengths[*number as usize]);
        }
        let memory = Arc::new(MemoryLimit::new(memory.min(MAX_BYTES_IN_MEMORY) / READ_SHARE));
        let (keys, has_failed) = (Features::default(), AtomicBool::new(false));
        let features = FeaturesInFile { file, size, starts, lengths, keys, layer, memory, has_failed };
        let mut sorted = Features::of_keys(key, positions.len());
        for part in features.parts(positions.in_z_order(), |number| features.loaded_bytes(*number)) {
            let read = features.loaded(part)?;
            for (row, _) in (0..).zip(part) {
                sorted.push_key(&read, row, key).ok_or_else(unknown)?;
            }
        }
        let mut keys = Features::of_keys(key, positions.len());
        for (number, _) in (0..).zip(positions.all()) {
            keys.push(&sorted, positions.place(number).ok_or_else(unknown)?).ok_or_else(unknown)?;
        }
        Ok(FeaturesInFile { keys, ..features })
    }

    /// The memory in use, in bytes, and that of the features that are read at a time.
    fn bytes(&self) -> usize {
        self.starts.len() * SPAN_BYTES + self.keys.size() + self.memory.limit
    }

    /// The memory that `rows` joined rows take while their features are written to another file, in bytes.
    pub(crate) fn bytes_of_join(&self, rows: usize) -> usize {
        let of_row = JOINED_ROW_BYTES + self.keys.size().div_ceil(self.starts.len().max(1));
        rows * of_row + 3 * self.block_bytes()
    }

    /// The most bytes of a block of features.
    fn block_bytes(&self) -> usize {
        MAX_BLOCK_BYTES.min(self.memory.limit / 4)
    }

    /// The bytes in the file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// True once the file could not be read.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// The number of bytes of a feature; 0 if there is no such feature.
    pub(crate) fn length(&self, number: u32) -> usize {
        self.lengths.get(number as usize).map_or(0, |length| *length as usize)
    }

    /// The memory that a feature takes when it is read, in bytes.
    pub(crate) fn loaded_bytes(&self, number: u32) -> usize {
        self.length(number) + LOADED_ROW_BYTES
    }

    /// Parts of a list whose features are read together; `bytes` returns the memory that those of an entry take. A part
    /// takes little of the memory, unless a single entry takes more, so that several threads read theirs.
    pub(crate) fn parts<'l, T>(&self, list: &'l [T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &'l [T]> {
        let (mut rest, most) = (list, self.block_bytes());
        std::iter::from_fn(move || {
            let mut taken = 0;
            let count = rest.iter().enumerate().take_while(|(place, one)| {
                taken += bytes(one);
                *place == 0 || taken <= most
            });
            let (part, after) = rest.split_at(count.count());
            rest = after;
            (!part.is_empty()).then_some(part)
        })
    }

    /// Calls `work` with some of the features, which have the numbers from 0 on then. `None` if they would take more
    /// memory than allowed. Waits while others use the memory.
    pub(crate) fn with<T>(&self, numbers: &[u32], work: impl FnOnce(&Features) -> T) -> io::Result<Option<T>> {
        let longest = numbers.iter().map(|number| self.length(*number)).max().unwrap_or_default();
        let bytes = numbers.iter().map(|number| self.loaded_bytes(*number)).sum::<usize>();
        let Some(_held) = self.memory.take(bytes + longest.max(MAX_READ)) else { return Ok(None) };
        Ok(Some(work(&self.loaded(numbers)?)))
    }

    /// Some of the features, which get the numbers from 0 on.
    pub(crate) fn loaded(&self, numbers: &[u32]) -> io::Result<Features> {
        self.read(numbers).inspect_err(|error| {
            if !self.has_failed.swap(true, Ordering::Relaxed) {
                warn_unreadable(&String::from_utf8_lossy(self.layer.layer().0), error);
            }
        })
    }

    fn read(&self, numbers: &[u32]) -> io::Result<Features> {
        let mut order = Vec::with_capacity(numbers.len());
        for (place, number) in numbers.iter().enumerate() {
            let start = *self.starts.get(*number as usize).ok_or_else(unknown)?;
            order.push((start..start + self.length(*number) as u64, place));
        }
        order.sort_unstable_by_key(|(span, _)| span.start);
        let mut bytes = Vec::with_capacity(numbers.iter().map(|number| self.length(*number)).sum());
        let (mut spans, mut buffer, mut rest) = (vec![0..0; numbers.len()], Vec::new(), &order[..]);
        while let Some((Range { start, mut end }, _)) = rest.first().cloned() {
            let is_near = |(span, _): &&(Range<u64>, usize)| {
                let is_near = span.start <= end + MAX_GAP && span.end <= start + MAX_READ as u64;
                end = if is_near { end.max(span.end) } else { end };
                is_near
            };
            let count = 1 + rest[1..].iter().take_while(is_near).count();
            let (piece, others) = rest.split_at(count);
            buffer.resize(length_of(&(start..end))?, 0);
            self.file.read_exact_at(&mut buffer, start)?;
            for (span, place) in piece {
                let first = u32::try_from(bytes.len()).map_err(io::Error::other)?;
                let from = length_of(&(start..span.start))?;
                bytes.extend_from_slice(&buffer[from..from + length_of(span)?]);
                spans[*place] = first..u32::try_from(bytes.len()).map_err(io::Error::other)?;
            }
            rest = others;
        }
        Ok(self.layer.with_encoded(bytes, spans.into_iter()))
    }

    /// Writes the features of joined rows to another file. `positions` are those of these rows, `keys` hold their keys,
    /// `sources` say where the feature of each is. `None` once it is given up.
    pub(crate) fn joined(
        &self,
        positions: &Positions,
        keys: Features,
        sources: &[FeatureSource],
        came: &Features,
        is_given_up: &AtomicBool,
    ) -> io::Result<Option<FeaturesInFile>> {
        let mut out = FeaturesFileWriter::new(sources.len())?;
        let in_file = |number: &u32| match sources.get(*number as usize) {
            Some(FeatureSource::Read(number)) => Some(*number),
            Some(FeatureSource::Came(_)) | None => None,
        };
        let bytes = |number: &u32| in_file(number).map_or(0, |number| self.loaded_bytes(number));
        for part in self.parts(positions.in_z_order(), bytes) {
            if is_given_up.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let read = self.loaded(&part.iter().filter_map(in_file).collect::<Vec<u32>>())?;
            let mut next = 0;
            for number in part {
                let feature = match sources.get(*number as usize).ok_or_else(unknown)? {
                    FeatureSource::Read(_) => {
                        next += 1;
                        read.encoded(next - 1)
                    }
                    FeatureSource::Came(number) => came.encoded(*number),
                };
                out.put(*number, feature.ok_or_else(unknown)?)?;
            }
        }
        let (layer, memory) = (self.layer.clone(), Arc::clone(&self.memory));
        Ok(Some(FeaturesInFile { keys, ..out.end(layer, memory)? }))
    }
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "there is no such feature")
}

fn length_of(span: &Range<u64>) -> io::Result<usize> {
    usize::try_from(span.end - span.start).map_err(io::Error::other)
}

/// Why rows are not kept that take more memory than allowed: the scratch file cannot be written.
pub(crate) fn no_room(error: &io::Error) -> String {
    format!(
        "they take more memory than rows_mb allows, and the temporary folder {} does not take them ({error}). Make room there, set TMPDIR to another one, or raise rows_mb",
        temporary_folder().display()
    )
}

/// Says that the scratch file of a layer's rows cannot be read.
pub(crate) fn warn_unreadable(layer: &str, error: &io::Error) {
    tracing::warn!(
        "layer \"{layer}\": its cached rows cannot be read back from the temporary folder {} ({error}), so the database draws what they would. Look into its disk, or set TMPDIR to another one",
        temporary_folder().display()
    );
}

/// Writes encoded features to a scratch file.
#[derive(Debug)]
pub(crate) struct FeaturesFileWriter {
    file: File,
    written: u64,
    buffer: Vec<u8>,
    starts: Vec<u64>,
    lengths: Vec<u32>,
    keys: Features,
}

/// The bytes that are written at a time.
const WRITE_BYTES: usize = 64 << 10;

impl FeaturesFileWriter {
    /// A file without features, of which about `expected` will come.
    pub(crate) fn new(expected: usize) -> io::Result<FeaturesFileWriter> {
        Ok(FeaturesFileWriter {
            file: scratch_file()?,
            written: 0,
            buffer: Vec::new(),
            starts: Vec::with_capacity(expected),
            lengths: Vec::with_capacity(expected),
            keys: Features::default(),
        })
    }

    /// The memory that the rows will take, in bytes, with their positions and while these are sorted.
    pub(crate) fn bytes(&self) -> usize {
        self.starts.len() * (size_of::<[f64; 2]>() + 2 * size_of::<u32>() + SPAN_BYTES + SORT_BYTES) + self.keys.size()
    }

    /// Writes the features of further rows, which follow those so far in the order of their keys and lie at these
    /// positions in metres. Fails if the file cannot be written, such as on a full disk.
    pub(crate) fn add(&mut self, at: &[[f64; 2]], features: &Features, key: &FeatureKey) -> io::Result<()> {
        let mut order: Vec<(u64, u32)> = (0..).zip(at).map(|(row, at)| (Frame::Metres.z_order(*at), row)).collect();
        order.sort_unstable();
        let before = u32::try_from(self.starts.len()).map_err(io::Error::other)?;
        for (_, row) in order {
            let number = before.checked_add(row).ok_or_else(unknown)?;
            self.put(number, features.encoded(row).ok_or_else(unknown)?)?;
        }
        if self.keys.is_empty() {
            self.keys = Features::of_keys(key, self.starts.capacity());
        }
        for (row, _) in (0..).zip(at) {
            self.keys.push_key(features, row, key).ok_or_else(unknown)?;
        }
        Ok(())
    }

    /// Writes the feature with a number.
    pub(crate) fn put(&mut self, number: u32, feature: &[u8]) -> io::Result<()> {
        let number = number as usize;
        if self.starts.len() <= number {
            self.starts.resize(number + 1, 0);
            self.lengths.resize(number + 1, 0);
        }
        self.starts[number] = self.written + self.buffer.len() as u64;
        self.lengths[number] = u32::try_from(feature.len()).map_err(io::Error::other)?;
        self.buffer.extend_from_slice(feature);
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The file with all features, which are those of `layer`. They belong to rows that may take `memory` bytes.
    pub(crate) fn finish(self, layer: &Features, memory: usize) -> io::Result<FeaturesInFile> {
        self.end(layer.with_encoded(Vec::new(), std::iter::empty()), Arc::new(MemoryLimit::new(memory / READ_SHARE)))
    }

    fn end(mut self, layer: Features, memory: Arc<MemoryLimit>) -> io::Result<FeaturesInFile> {
        self.write()?;
        let FeaturesFileWriter { file, written: size, starts, lengths, keys, .. } = self;
        Ok(FeaturesInFile { file, size, starts, lengths, keys, layer, memory, has_failed: AtomicBool::new(false) })
    }
}

/// True if rows that may take `memory` bytes may be kept with their features in a file: there is room for the rest, and
/// for some of the features at a time.
pub(crate) fn may_be_in_file(rows: u64, memory: usize) -> bool {
    let memory = memory.min(MAX_BYTES_IN_MEMORY);
    bytes_in_file(rows, memory) <= memory && memory / READ_SHARE >= 2 * MAX_READ
}

/// The memory that rows whose features are in a file are expected to take of `memory` bytes.
pub(crate) fn bytes_in_file(rows: u64, memory: usize) -> usize {
    let of_rows = usize::try_from(rows.saturating_mul(FILE_ROW_BYTES)).unwrap_or(usize::MAX);
    of_rows.saturating_add(memory / READ_SHARE)
}

/// The most memory that the rows may take besides the features that are read at a time, of `memory` bytes.
pub(crate) fn memory_beside_reads(memory: usize) -> usize {
    memory - memory / READ_SHARE
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::draw::cached_rows::{
        CachedRows, EncodedRows, FoundKey, KeptFeatures, MatchingSetBuilder, MostFeatures, RowStore,
    };
    use crate::postgis::layer::{Layer, LayerKind, example_layer};
    use crate::tile::{Area, Margin, SearchBox, TileRect, WORLD_UNITS, WorldRect, Zoom};

    /// By their keys: a text, whose length decides about the rank, and a place.
    type Rows = BTreeMap<u8, (String, f64)>;

    fn features<'r>(rows: impl Iterator<Item = (&'r u8, &'r (String, f64))>) -> Features {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (id, (text, _)) in rows {
            let length = u8::try_from(text.len()).unwrap();
            bytes.extend([1, *id, 0x22, length + 2, 0x0a, length]);
            bytes.extend_from_slice(text.as_bytes());
            // The rank, and its length.
            bytes.extend([length % 5, 1, 0, 0, 0]);
            ends.push(u32::try_from(bytes.len()).unwrap());
        }
        Features::of_encoded("rows", vec!["text".to_owned()], 4096, bytes, ends).unwrap().with_ranks(true)
    }

    fn at(place: f64) -> [f64; 2] {
        [place * 1e5 - 5_960_137.3, place * 7e4 - 1_977_113.7]
    }

    fn in_memory(rows: &Rows) -> CachedRows {
        CachedRows::of_rows(rows.values().map(|(_, place)| at(*place)).collect(), features(rows.iter()))
    }

    /// The same rows, of which seven were written at a time, if they may take `memory` bytes.
    fn in_file(rows: &Rows, memory: usize) -> CachedRows {
        let all: Vec<_> = rows.iter().collect();
        let mut writer = FeaturesFileWriter::new(0).unwrap();
        for some in all.chunks(7) {
            let places: Vec<[f64; 2]> = some.iter().map(|(_, (_, place))| at(*place)).collect();
            writer.add(&places, &features(some.iter().copied()), &FeatureKey::Id).unwrap();
        }
        let file = writer.finish(&features(rows.iter()), memory).unwrap();
        let positions = Positions::new(all.iter().map(|(_, (_, place))| at(*place)).collect(), Frame::Metres);
        CachedRows::of_encoded(positions, RowFeatures::File(Arc::new(file)))
    }

    fn points() -> Layer {
        Layer { kind: LayerKind::Rows, margin: Margin::plain(4096, 64), ..example_layer() }
    }

    fn kept(rows: CachedRows) -> KeptFeatures {
        KeptFeatures::new(rows, FeatureKey::Id).unwrap()
    }

    fn areas(zooms: std::ops::RangeInclusive<u8>) -> Vec<Area> {
        let all =
            zooms.filter_map(Zoom::new).map(|zoom| Area { rect: TileRect::all(zoom), search: vec![SearchBox::Area] });
        all.collect()
    }

    const EVERYTHING: WorldRect = WorldRect { west: 0, north: 0, east: WORLD_UNITS, south: WORLD_UNITS };

    /// The rows that are drawn, each with its bytes.
    fn found(rows: &CachedRows) -> Vec<([u64; 2], Vec<u8>)> {
        let mut found = Vec::new();
        let each = |at: [f64; 2], features: &Features, number| {
            // Of rows that came, features are in memory.
            found.push((at.map(f64::to_bits), features.encoded(number).unwrap().to_vec()));
        };
        rows.each_within(EVERYTHING, each).unwrap();
        found.sort_unstable();
        found
    }

    fn written(kept: &KeptFeatures) -> Vec<Vec<u8>> {
        let mut written = Vec::new();
        kept.each_feature_in_z_order(|feature| {
            written.push(feature.to_vec());
            Ok(())
        })
        .unwrap();
        written
    }

    /// Both are the same rows, whatever is done with them.
    fn are_alike(memory: &KeptFeatures, file: &KeptFeatures, layer: &Layer) {
        let [own, other] = [memory.rows(), file.rows()];
        let keys = |kept: &KeptFeatures| -> Vec<String> {
            let key = |(rows, number): (&EncodedRows, u32)| {
                format!("{:?}", rows.features.keyed().key(number, &FeatureKey::Id))
            };
            kept.in_order().map(key).collect()
        };
        assert_eq!((keys(memory), written(memory)), (keys(file), written(file)));
        assert_eq!(found(&own), found(&other));
        let sets = [&own, &other].map(|rows| {
            let mut set = MatchingSetBuilder::new(rows, &FeatureKey::Id).unwrap();
            (0..40).map(|number| (number * 3).to_string()).for_each(|key| set.add(&FoundKey::Text(&key)));
            rows.only(&Arc::new(set.finish(None))).unwrap()
        });
        for [own, other] in [[&own, &other], [&sets[0], &sets[1]]] {
            let by_key = Layer { rank: None, ..layer.clone() };
            let (all, few) = (MostFeatures::default(), MostFeatures::same(9));
            for (layer, most) in [(layer, &all), (layer, &few), (&by_key, &few)] {
                let [own, other] = [own, other].map(|rows| rows.draw(layer, 0, &areas(0..=5), most, None));
                assert!(own.left.is_empty() && own.count.features > 9);
                assert!(other.left.is_empty() && own.count == other.count && own.tiles == other.tiles);
            }
        }
    }

    #[test]
    fn rows_in_a_file_are_those_in_memory_over_random_histories() {
        let layer = points();
        let text = |chance: &mut fastrand::Rng| "t".repeat(chance.usize(0..100)) + &chance.u8(..20).to_string();
        for seed in 0..30 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let mut now: Rows = (1..100).map(|id| (id, (text(&mut chance), f64::from(chance.u8(..60))))).collect();
            let (mut memory, mut file) = (kept(in_memory(&now)), kept(in_file(&now, 400_000)));
            assert!(file.file_bytes() > 2_000 && memory.file_bytes() == 0);
            let mut joined = None;
            for step in 0..6 {
                are_alike(&memory, &file, &layer);
                if step == 2 {
                    let join = |rows: &KeptFeatures| rows.join(&AtomicBool::new(false)).unwrap().unwrap();
                    joined = Some((join(&memory), join(&file)));
                }
                if let Some((own, other)) = joined.take_if(|_| step == 4) {
                    memory.go_on_from(own).unwrap();
                    file.go_on_from(other).unwrap();
                    are_alike(&memory, &file, &layer);
                }
                let changed: Vec<f64> = (0..5).map(|_| f64::from(chance.u8(..60))).collect();
                for id in 1..120 {
                    let is_changed = now.get(&id).is_none_or(|(_, place)| changed.contains(place));
                    match chance.u8(..4) {
                        0 if is_changed => drop(now.remove(&id)),
                        1 if is_changed => drop(now.insert(id, (text(&mut chance), changed[0]))),
                        _ => {}
                    }
                }
                let mut places = changed;
                places.sort_by(f64::total_cmp);
                places.dedup();
                let fresh: Rows =
                    now.iter().filter(|(_, row)| places.contains(&row.1)).map(|(id, row)| (*id, row.clone())).collect();
                let square = |place: &f64| {
                    let [x, y] = Positions::world(at(*place));
                    WorldRect { west: x - 500, north: y - 500, east: x + 500, south: y + 500 }
                };
                let squares: Vec<WorldRect> = places.iter().map(square).collect();
                let [own, other] = [&mut memory, &mut file].map(|rows| rows.replace(&squares, in_memory(&fresh)));
                assert_eq!((own.is_some(), own), (true, other), "seed {seed}, step {step}");
            }
            are_alike(&memory, &file, &layer);
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_database_and_the_rows_are_of_no_use_any_more() {
        let (layer, areas) = (points(), areas(0..=3));
        let all: Rows = (1..100).map(|id| (id, ("text".repeat(9), f64::from(id)))).collect();
        let mut kept = kept(in_file(&all, 400_000));
        let rows = kept.rows();
        let drawn = || rows.draw(&layer, 0, &areas, &MostFeatures::default(), None);
        assert!(drawn().left.is_empty() && !kept.have_failed());
        let RowStore::Memory(EncodedRows { features: RowFeatures::File(file), .. }) = &rows.rows else {
            panic!("in memory")
        };
        file.file.set_len(file.size - 1).unwrap();
        let drawn = drawn();
        assert!(drawn.tiles.is_empty() && drawn.left == areas && kept.have_failed());
        assert!(rows.each_within(EVERYTHING, |_, _, _| {}).is_none());
        assert!(kept.join(&AtomicBool::new(false)).is_err());
        assert!(kept.each_feature_in_z_order(|_| Ok(())).is_err());
        file.file.set_len(0).unwrap();
        let [x, y] = Positions::world(at(50.0));
        let square = WorldRect { west: x - 500, north: y - 500, east: x + 500, south: y + 500 };
        assert_eq!(kept.replace(&[square], in_memory(&Rows::new())), None);
    }

    #[test]
    fn tiles_whose_rows_take_too_much_memory_are_left_to_the_database() {
        let layer = points();
        let all: Rows = (1..100).map(|id| (id, ("text".repeat(20), f64::from(id)))).collect();
        let draw = |memory, zoom| {
            kept(in_file(&all, memory)).rows().draw(&layer, 0, &areas(zoom..=zoom), &MostFeatures::default(), None)
        };
        // A quarter of it is for 64 kB that are read at a time, and features of 91 bytes each.
        let enough = 4 * (MAX_READ + 99 * (91 + LOADED_ROW_BYTES));
        assert!(draw(enough, 0).left.is_empty());
        assert_eq!(draw(enough - 400, 0).left.len(), 1);
        assert!(draw(enough - 400, 4).left.is_empty());
    }
}
