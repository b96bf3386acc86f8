//! Live rows of points in a file, which the next process takes over.
//!
//! ```text
//!  magic │ length of the head │ head (JSON) │ of each layer: positions, lengths, encoded features │ signature
//! ```
//!
//! Numbers are little-endian. A position is two doubles, in metres of EPSG:3857; a length has 32 bits. Positions and
//! lengths are in the order of the keys, the features in the Z-order of their positions, as in the scratch file of rows
//! that take more memory than allowed. The signature is an HMAC-SHA-256 of everything before it, by a key that only
//! programs with rights in the database know. Nothing but the head is interpreted before the signature was checked, and
//! no more memory is taken than the file is long.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::points::key;
use super::{Joining, LiveKind, LiveLayer, LiveRows};
use crate::clock::since_1970;
use crate::draw::cached_rows::{
    CachedRows, FeaturesInFile, KeptFeatures, MAX_BYTES_IN_MEMORY, RowFeatures, bytes_in_file, may_be_in_file, no_room,
};
use crate::mvt::Features;
use crate::postgis::layer::Layer;
use crate::scratch::scratch_file;
use crate::tile::{Frame, Positions};

/// The first bytes. The number is that of this form of the file, and changes with the form of encoded features.
const MAGIC: &[u8; 23] = b"oar-tiles live rows 3\r\n";

/// The longest head, in bytes.
const MAX_HEAD: u32 = 1 << 20;

/// The bytes of the signature.
const SIGNATURE: u64 = 32;

/// The bytes that are read or written at a time.
const BUFFER: usize = 64 << 10;

/// The bytes of a row besides its encoded feature.
const ROW_BYTES: u64 = 20;

/// What comes before the rows.
#[derive(Debug, Serialize, Deserialize)]
struct Head<A> {
    /// What the rows depend on.
    about: A,
    layers: Vec<LayerHead>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerHead {
    definition: String,
    /// When the rows were read from the table, since 1970.
    read: Duration,
    rows: u64,
    /// The bytes of their encoded features.
    bytes: u64,
    form: FeatureForm,
}

/// What the encoded features of a layer depend on besides its definition.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FeatureForm {
    /// True if the ranks of the rows are behind their features.
    ranked: bool,
    /// True if the keys of the rows are behind their features.
    keyed: bool,
    /// The index of the property that holds objects.
    objects: Option<usize>,
}

impl FeatureForm {
    fn of(layer: &Layer) -> FeatureForm {
        FeatureForm {
            ranked: layer.cached_rank().is_some(),
            keyed: layer.keys_behind().is_some(),
            objects: layer.objects(),
        }
    }

    fn of_rows(rows: &KeptFeatures) -> FeatureForm {
        let form = rows.form();
        FeatureForm { ranked: form.are_ranked(), keyed: form.are_keyed(), objects: form.objects() }
    }
}

/// The rows of a layer that are written to a file, or were read from one.
#[derive(Debug)]
pub(crate) struct SavedLayer {
    pub(crate) definition: String,
    /// When the rows were read from the table.
    pub(crate) read: SystemTime,
    rows: KeptFeatures,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct SavedRows<A> {
    /// What the rows depend on.
    pub(crate) about: A,
    pub(crate) layers: Vec<SavedLayer>,
}

impl LiveRows {
    /// The rows of all layers of points, for a file. Later steps do not change them.
    pub(crate) async fn saved(&self) -> Vec<SavedLayer> {
        let layers = self.0.lock().await;
        let saved = |kept: &LiveLayer| match &kept.rows {
            LiveKind::Points(rows) => Some(SavedLayer {
                definition: kept.definition.clone(),
                read: SystemTime::now().checked_sub(kept.read.elapsed())?,
                rows: rows.copied(),
            }),
            _ => None,
        };
        layers.iter().filter_map(saved).collect()
    }

    /// Takes rows over that are of the state `cursor`, in place of all others. `age` is the time since each layer was
    /// read, or zero if it does not matter.
    pub(crate) async fn replace(&self, saved: Vec<SavedLayer>, cursor: &str, age: impl Fn(&SavedLayer) -> Duration) {
        let now = Instant::now();
        let live = saved.into_iter().map(|saved| LiveLayer {
            // A machine that runs for a shorter time than that has no such instant.
            ages: age(&saved) > Duration::ZERO,
            read: now.checked_sub(age(&saved)).unwrap_or(now),
            definition: saved.definition,
            cursor: cursor.to_owned(),
            // That of no snapshot, so that the next one reads what has changed.
            snapshot: String::new(),
            is_alone: false,
            hold_all: false,
            shown_by: None,
            rows: LiveKind::Points(saved.rows),
            why_no_facets: None,
            joining: Joining::default(),
        });
        *self.0.lock().await = live.collect();
    }
}

/// Writes rows to an empty file, signed with `key`.
pub(crate) fn write_saved_rows<A: Serialize>(file: &File, saved: &SavedRows<A>, key: &[u8]) -> io::Result<()> {
    let head_of = |layer: &SavedLayer| {
        let lengths = layer.rows.in_order().map(|(rows, number)| rows.features.length(number));
        LayerHead {
            definition: layer.definition.clone(),
            read: since_1970(layer.read),
            rows: layer.rows.len() as u64,
            bytes: lengths.map(|length| length as u64).sum(),
            form: FeatureForm::of_rows(&layer.rows),
        }
    };
    let head = Head { about: &saved.about, layers: saved.layers.iter().map(head_of).collect() };
    let head = serde_json::to_vec(&head)?;
    let length = u32::try_from(head.len()).ok().filter(|length| *length <= MAX_HEAD).ok_or_else(|| unfit(TOO_LONG))?;
    let mut out = BufWriter::with_capacity(BUFFER, Signed::new(file, key)?);
    out.write_all(MAGIC)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&head)?;
    for SavedLayer { rows, .. } in &saved.layers {
        for (rows, number) in rows.in_order() {
            for axis in rows.positions.at(number).ok_or_else(|| unfit(OTHER_LENGTH))? {
                out.write_all(&axis.to_le_bytes())?;
            }
        }
        for (rows, number) in rows.in_order() {
            let length = rows.features.length(number);
            out.write_all(&u32::try_from(length).map_err(|_longer| unfit(TOO_LONG))?.to_le_bytes())?;
        }
        rows.each_feature_in_z_order(|feature| out.write_all(feature))?;
    }
    let Signed { mut inner, mac } = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    inner.write_all(&mac.finalize().into_bytes())
}

/// Reads the rows of some layers that were signed with `key`, if they take at most `memory` bytes. Features for which
/// there is no room go to a scratch file.
/// Fails with [`io::ErrorKind::InvalidData`] if the file is not what [`write_saved_rows`] has written, or the rows are
/// of other layers.
pub(crate) fn read_saved_rows<A: DeserializeOwned>(
    file: &File,
    layers: &[Arc<Layer>],
    key: &[u8],
    memory: usize,
) -> io::Result<SavedRows<A>> {
    let (head, parts) = read_signed::<A>(file, key, memory)?;
    let (mut saved, mut left) = (Vec::new(), memory);
    for (LayerHead { definition, read, form, .. }, parts) in head.layers.into_iter().zip(parts) {
        let is_it = |layer: &&Arc<Layer>| layer.definition() == definition && FeatureForm::of(layer) == form;
        let layer = layers.iter().find(is_it);
        let rows = layer.map(|layer| parts.of(layer)).transpose()?.flatten();
        let rows = rows.ok_or_else(|| unfit("its rows are of other layers"))?;
        // Keys may be longer than those that are expected.
        left = left.checked_sub(rows.bytes()).ok_or_else(|| unfit(NO_ROOM))?;
        let read = SystemTime::UNIX_EPOCH.checked_add(read).ok_or_else(|| unfit(TOO_LONG))?;
        saved.push(SavedLayer { definition, read, rows });
    }
    Ok(SavedRows { about: head.about, layers: saved })
}

/// What stands in a file that was signed with `key`.
fn read_signed<A: DeserializeOwned>(file: &File, key: &[u8], memory: usize) -> io::Result<(Head<A>, Vec<RowParts>)> {
    let length = file.metadata()?.len();
    let signed = length.checked_sub(SIGNATURE).ok_or_else(|| unfit(OTHER_LENGTH))?;
    let mut input = BufReader::with_capacity(BUFFER, Signed::new(Read::take(file, signed), key)?);
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(ended)?;
    if magic != *MAGIC {
        return Err(unfit("it has another form"));
    }
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map_err(ended)?;
    let head_length = u32::from_le_bytes(bytes);
    if head_length > MAX_HEAD {
        return Err(unfit(TOO_LONG));
    }
    let mut head = vec![0; head_length as usize];
    input.read_exact(&mut head).map_err(ended)?;
    let head: Head<A> = serde_json::from_slice(&head).map_err(|_other| unfit("its head cannot be read"))?;
    let before = MAGIC.len() as u64 + 4 + u64::from(head_length);
    let of_rows = head
        .layers
        .iter()
        .try_fold(0_u64, |sum, layer| sum.checked_add(layer.rows.checked_mul(ROW_BYTES)?)?.checked_add(layer.bytes));
    let of_rows = of_rows.filter(|of_rows| before.checked_add(*of_rows) == Some(signed));
    of_rows.ok_or_else(|| unfit(OTHER_LENGTH))?;
    let (mut parts, mut left) = (Vec::new(), memory);
    for layer in &head.layers {
        let (place, taken) = SavedPlace::of(layer, left)?;
        left -= taken;
        parts.push(RowParts::read(&mut input, layer, place)?);
    }
    let Signed { inner, mac } = input.into_inner();
    let mut signature = Vec::new();
    inner.into_inner().take(SIGNATURE).read_to_end(&mut signature)?;
    mac.verify_slice(&signature).map_err(|_other| unfit("it is damaged, or of another database"))?;
    Ok((head, parts))
}

/// Where the features of a layer are kept.
#[derive(Debug, Clone, Copy)]
enum SavedPlace {
    Memory,
    /// In a scratch file, of rows that may take this memory in bytes.
    File(usize),
}

/// The memory of a row in memory besides its encoded feature, in bytes.
const MEMORY_ROW_BYTES: u64 = ROW_BYTES + 8;

impl SavedPlace {
    /// Where the features of a layer find room in `memory` bytes, and how much the rows take of these.
    fn of(layer: &LayerHead, memory: usize) -> io::Result<(SavedPlace, usize)> {
        let in_memory = layer.rows.checked_mul(MEMORY_ROW_BYTES).and_then(|rows| rows.checked_add(layer.bytes));
        match in_memory
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes <= memory.min(MAX_BYTES_IN_MEMORY))
        {
            Some(bytes) => Ok((SavedPlace::Memory, bytes)),
            None if may_be_in_file(layer.rows, memory) => {
                Ok((SavedPlace::File(memory), bytes_in_file(layer.rows, memory)))
            }
            None => Err(unfit(NO_ROOM)),
        }
    }
}

/// Encoded features in the Z-order of their positions.
#[derive(Debug)]
enum SavedFeatures {
    Memory(Vec<u8>),
    /// Not numbered yet, of rows that may take this memory in bytes.
    File(File, usize),
}

/// The rows of a layer as they stand in the file.
#[derive(Debug)]
struct RowParts {
    at: Vec<[f64; 2]>,
    lengths: Vec<u32>,
    features: SavedFeatures,
}

impl RowParts {
    fn read(
        input: &mut impl Read,
        LayerHead { rows, bytes, .. }: &LayerHead,
        place: SavedPlace,
    ) -> io::Result<RowParts> {
        let rows = u32::try_from(*rows).map_err(|_more| unfit(TOO_LONG))? as usize;
        let (mut at, mut lengths) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for _ in 0..rows {
            let mut axes = [[0; 8]; 2];
            input.read_exact(axes.as_flattened_mut()).map_err(ended)?;
            at.push(axes.map(f64::from_le_bytes));
        }
        for _ in 0..rows {
            let mut length = [0; 4];
            input.read_exact(&mut length).map_err(ended)?;
            lengths.push(u32::from_le_bytes(length));
        }
        let features = match place {
            SavedPlace::Memory => {
                let mut features = vec![0; u32::try_from(*bytes).map_err(|_more| unfit(TOO_LONG))? as usize];
                input.read_exact(&mut features).map_err(ended)?;
                SavedFeatures::Memory(features)
            }
            SavedPlace::File(memory) => SavedFeatures::File(copied(input, *bytes)?, memory),
        };
        Ok(RowParts { at, lengths, features })
    }

    /// The rows of a layer; `None` if they are not. Fails if a scratch file cannot be read.
    fn of(self, layer: &Layer) -> io::Result<Option<KeptFeatures>> {
        let RowParts { at, lengths, features } = self;
        let (positions, extent) = (Positions::new(at, Frame::Metres), layer.margin.extent.into());
        let properties = layer.properties.iter().map(|property| property.name.clone()).collect();
        let empty = Features::of_encoded(&layer.name, properties, extent, Vec::new(), Vec::new());
        let (Some(empty), Some(key)) = (empty, key(layer)) else { return Ok(None) };
        let FeatureForm { ranked, keyed, objects } = FeatureForm::of(layer);
        let empty = empty.with_ranks(ranked).with_keys(keyed).with_objects(objects);
        let bytes = match &features {
            SavedFeatures::Memory(bytes) => bytes.len() as u64,
            SavedFeatures::File(file, _) => file.metadata()?.len(),
        };
        if lengths.iter().copied().map(u64::from).sum::<u64>() != bytes {
            return Err(unfit(OTHER_LENGTH));
        }
        let features = match features {
            SavedFeatures::Memory(bytes) => {
                let (mut spans, mut end) = (vec![0..0; lengths.len()], 0);
                for number in positions.in_z_order() {
                    let start = end;
                    end += lengths[*number as usize];
                    spans[*number as usize] = start..end;
                }
                empty.with_encoded(bytes, spans.into_iter()).into()
            }
            SavedFeatures::File(file, memory) => {
                let features = FeaturesInFile::in_z_order(file, &positions, lengths, empty, memory, &key)?;
                RowFeatures::File(Arc::new(features))
            }
        };
        Ok(KeptFeatures::new(CachedRows::of_encoded(positions, features), key))
    }
}

/// The next bytes in a scratch file.
fn copied(input: &mut impl Read, bytes: u64) -> io::Result<File> {
    let no_room = |error: io::Error| io::Error::other(no_room(&error));
    let mut file = scratch_file().map_err(no_room)?;
    let (mut left, mut buffer) = (bytes, vec![0; BUFFER]);
    while left > 0 {
        let next = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
        input.read_exact(&mut buffer[..next]).map_err(ended)?;
        file.write_all(&buffer[..next]).map_err(no_room)?;
        left -= next as u64;
    }
    Ok(file)
}

/// Bytes on their way from or to a file, and their signature.
struct Signed<T> {
    inner: T,
    mac: Hmac<Sha256>,
}

impl<T> Signed<T> {
    fn new(inner: T, key: &[u8]) -> io::Result<Signed<T>> {
        // HMAC takes keys of any length, so this never fails.
        let mac = Hmac::new_from_slice(key).map_err(io::Error::other)?;
        Ok(Signed { inner, mac })
    }
}

impl<T: Read> Read for Signed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.mac.update(&buffer[..length]);
        Ok(length)
    }
}

impl<T: Write> Write for Signed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.mac.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

const TOO_LONG: &str = "it says that something in it is longer than it can be";

const NO_ROOM: &str = "its rows take more memory than rows_mb allows";

const OTHER_LENGTH: &str = "it is longer or shorter than it says";

fn unfit(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The error at the end of a file that ends too early.
fn ended(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { unfit(OTHER_LENGTH) } else { error }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;
    use crate::draw::cached_rows::CachedRows;
    use crate::mvt::FeatureKey;
    use crate::tile::{Positions, WorldRect};

    /// Features with these ids and one byte of their own.
    fn features(ids: &[u8]) -> Features {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| [1, *id, 0]).collect();
        let ends = (1..).take(ids.len()).map(|number| 3 * number).collect();
        Features::of_encoded("places", vec!["name".to_owned()], 4096, bytes, ends).unwrap()
    }

    fn at(id: u8) -> [f64; 2] {
        [f64::from(id) * 1e5, f64::from(id) * -1e4]
    }

    fn rows(ids: &[u8]) -> KeptFeatures {
        let at = ids.iter().map(|id| at(*id)).collect();
        KeptFeatures::of_rows(at, features(ids), FeatureKey::Id).unwrap()
    }

    fn layer(definition: &str, rows: KeptFeatures) -> SavedLayer {
        let read = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        SavedLayer { definition: definition.to_owned(), read, rows }
    }

    fn written(saved: &SavedRows<String>) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        write_saved_rows(&file, saved, b"key").unwrap();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn read(bytes: &[u8], key: &[u8], memory: usize) -> Result<(Head<String>, Vec<RowParts>), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        read_signed(&file, key, memory).map_err(|error| {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            error.to_string()
        })
    }

    /// Positions, lengths, and features in the Z-order of the positions.
    type Parts = (Vec<[f64; 2]>, Vec<u32>, Vec<u8>);

    fn parts(ids: &[u8]) -> Parts {
        let mut in_z_order = ids.to_vec();
        in_z_order.sort_by_key(|id| Frame::Metres.z_order(at(*id)));
        let bytes = in_z_order.iter().flat_map(|id| [1, *id, 0]).collect();
        (ids.iter().map(|id| at(*id)).collect(), vec![3; ids.len()], bytes)
    }

    fn read_parts(parts: Vec<RowParts>) -> Vec<Parts> {
        let read = |RowParts { at, lengths, features }| {
            let bytes = match features {
                SavedFeatures::Memory(bytes) => bytes,
                SavedFeatures::File(mut file, _) => {
                    let mut bytes = Vec::new();
                    file.seek(SeekFrom::Start(0)).unwrap();
                    file.read_to_end(&mut bytes).unwrap();
                    bytes
                }
            };
            (at, lengths, bytes)
        };
        parts.into_iter().map(read).collect()
    }

    #[test]
    fn rows_are_read_as_they_were_written_also_after_some_came_and_went() {
        let mut kept = rows(&[2, 4, 6, 8, 100]);
        let square = |id: u8| {
            let [x, y] = Positions::world(at(id));
            WorldRect { west: x - 10, north: y - 10, east: x + 10, south: y + 10 }
        };
        // 4 goes, and with it the last one; 1, 5 and 101 come, at places where there was nothing, and 6 is there again.
        let fresh = CachedRows::of_rows([1, 5, 6, 101].map(at).to_vec(), features(&[1, 5, 6, 101]));
        kept.replace(&[4, 100, 6].map(square), fresh).unwrap();
        assert_eq!((kept.len(), kept.changed()), (6, 7));
        let saved = SavedRows {
            about: "a state".to_owned(),
            layers: vec![layer("one", kept), layer("none", rows(&[])), layer("two", rows(&[3, 5]))],
        };
        let (head, found) = read(&written(&saved), b"key", 1_000).unwrap();
        assert_eq!(read_parts(found), [parts(&[1, 2, 5, 6, 8, 101]), parts(&[]), parts(&[3, 5])]);
        assert_eq!(head.about, "a state");
        let layers: Vec<(&str, u128)> =
            head.layers.iter().map(|layer| (&*layer.definition, layer.read.as_millis())).collect();
        assert_eq!(layers, [("one", 1_700_000_000_250), ("none", 1_700_000_000_250), ("two", 1_700_000_000_250)]);
    }

    #[test]
    fn a_file_says_what_its_features_have_behind_them() {
        // The bytes of each end with a rank that is NULL.
        let bytes = [[1, 3, 0, 255, 255, 255, 255], [1, 5, 0, 255, 255, 255, 255]].concat();
        let features = Features::of_encoded("places", vec!["name".to_owned()], 4096, bytes.clone(), vec![7, 14]);
        let at = [3, 5].map(at).to_vec();
        let ranked = KeptFeatures::of_rows(at.clone(), features.unwrap().with_ranks(true), FeatureKey::Id).unwrap();
        // And here with a key of one byte.
        let keyed_bytes = [[0, 0, 8, 1, 0, 0, 0], [0, 0, 9, 1, 0, 0, 0]].concat();
        let features = Features::of_encoded("places", vec!["more".to_owned()], 4096, keyed_bytes.clone(), vec![7, 14]);
        let features = features.unwrap().with_keys(true).with_objects(Some(0));
        let keyed = KeptFeatures::of_rows(at.clone(), features, FeatureKey::Behind).unwrap();
        let layers = vec![layer("one", ranked), layer("two", rows(&[3])), layer("three", keyed)];
        let (head, found) = read(&written(&SavedRows { about: String::new(), layers }), b"key", 1_000).unwrap();
        let forms = [
            FeatureForm { ranked: true, ..FeatureForm::default() },
            FeatureForm::default(),
            FeatureForm { keyed: true, objects: Some(0), ranked: false },
        ];
        assert_eq!(head.layers.iter().map(|layer| &layer.form).collect::<Vec<_>>(), forms.iter().collect::<Vec<_>>());
        let of = |bytes| (at.clone(), vec![7, 7], bytes);
        assert_eq!(read_parts(found), [of(bytes), parts(&[3]), of(keyed_bytes)]);
        let newest = written(&SavedRows { about: String::new(), layers: vec![] });
        for number in ["1", "2"] {
            let older = [format!("oar-tiles live rows {number}\r\n").as_bytes(), &newest[MAGIC.len()..]].concat();
            assert_eq!(read(&older, b"key", 1_000).unwrap_err(), "it has another form");
        }
    }

    #[test]
    fn a_file_in_which_anything_differs_is_refused() {
        let saved = SavedRows { about: "a state".to_owned(), layers: vec![layer("one", rows(&[3, 5, 7]))] };
        let whole = written(&saved);
        assert!(read(&whole, b"key", 1_000).is_ok());
        for place in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] ^= flip;
                assert!(read(&bytes, b"key", 1_000).is_err(), "{flip} at {place}");
            }
        }
        for length in 0..whole.len() {
            assert!(read(&whole[..length], b"key", 1_000).is_err(), "the first {length}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(read(&longer, b"key", 1_000).unwrap_err(), OTHER_LENGTH);
        assert_eq!(read(&whole, b"another", 1_000).unwrap_err(), "it is damaged, or of another database");
        // 3 rows of 28 bytes and 9 bytes of features.
        assert!(read(&whole, b"key", 93).is_ok());
        assert_eq!(read(&whole, b"key", 92).unwrap_err(), "its rows take more memory than rows_mb allows");
    }

    #[test]
    fn a_head_that_lies_takes_no_memory() {
        let numbers = [0, 1, 1 << 20, 1 << 32, 1 << 60, u64::MAX / 20, u64::MAX];
        for [rows, bytes] in numbers.iter().flat_map(|rows| numbers.map(|bytes| [*rows, bytes])) {
            let layer = LayerHead {
                definition: "one".to_owned(),
                read: Duration::ZERO,
                rows,
                bytes,
                form: FeatureForm::default(),
            };
            for layers in [vec![], vec![layer]] {
                let is_nothing = layers.is_empty() || rows == 0 && bytes == 0;
                let head = serde_json::to_vec(&Head { about: "a state".to_owned(), layers }).unwrap();
                let length = u32::try_from(head.len()).unwrap().to_le_bytes();
                let signed = [&MAGIC[..], &length, &head].concat();
                let mut mac: Hmac<Sha256> = Hmac::new_from_slice(b"key").unwrap();
                mac.update(&signed);
                let bytes = [&signed[..], &mac.finalize().into_bytes()].concat();
                assert_eq!(read(&bytes, b"key", usize::MAX).is_ok(), is_nothing);
            }
        }
        let long = [&MAGIC[..], &u32::MAX.to_le_bytes(), &[b' '; 200]].concat();
        assert_eq!(read(&long, b"key", usize::MAX).unwrap_err(), TOO_LONG);
        let nested = "[".repeat(100_000);
        let length = u32::try_from(nested.len()).unwrap().to_le_bytes();
        let deep = [&MAGIC[..], &length, nested.as_bytes(), &[0; 32]].concat();
        assert_eq!(read(&deep, b"key", usize::MAX).unwrap_err(), "its head cannot be read");
    }
}
