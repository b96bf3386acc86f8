//! Archives that contradict themselves, archives that are cut off, and archives that were changed at random.

use super::layout::{Entry, HEADER_LENGTH, Header, PmtilesCompression, ReadAt, Section, TileType, directory_to_bytes};
use super::read::PmtilesReader;
use crate::encode::{Gzip, Level, TileFormat};
use crate::target::{ReadError, TileReader as _};
use crate::tile::{LonLatBox, TileCoord, TileId};

/// Bytes in memory, which are never asked for what is not there.
struct BytesInMemory(Vec<u8>);

impl ReadAt for BytesInMemory {
    fn place(&self) -> &'static str {
        "memory"
    }

    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        Ok(self.0[offset as usize..][..length].to_vec())
    }
}

pub(crate) const fn entry(id: u64, offset: u64, length: u32, run: u32) -> Entry {
    Entry { id, offset, length, run }
}

/// An archive assembled by hand, which may contradict itself.
pub(crate) struct Archive {
    pub(crate) header: Header,
    pub(crate) root: Vec<Entry>,
    pub(crate) leaves: Vec<Vec<Entry>>,
    pub(crate) tiles: Vec<u8>,
    metadata: Vec<u8>,
}

impl Archive {
    /// A valid archive: leaves one and two deep, runs and a repetition, zooms 0 to 3.
    pub(crate) fn sound(internal: PmtilesCompression) -> Archive {
        let header = Header {
            root: Section::default(),
            metadata: Section::default(),
            leaves: Section::default(),
            tiles: Section::default(),
            addressed: 10,
            entries: 7,
            contents: 6,
            clustered: true,
            internal,
            packing: PmtilesCompression::None,
            tile_type: TileType::of_format(TileFormat::MVT),
            min_zoom: 0,
            max_zoom: 3,
            bounds: [-10, -10, 10, 10],
            center_zoom: 1,
            center: [0, 0],
        };
        Archive {
            header,
            // Pointers give a leaf's number until the leaves are laid out.
            root: vec![entry(0, 0, 4, 1), entry(1, 0, 1, 0), entry(21, 1, 1, 0)],
            leaves: vec![
                vec![entry(1, 4, 4, 1), entry(2, 8, 5, 3), entry(5, 0, 4, 2)],
                vec![entry(21, 2, 1, 0)],
                vec![entry(21, 13, 3, 1), entry(30, 16, 3, 1), entry(84, 19, 1, 1)],
            ],
            tiles: b"zeroone!threefoufivs".to_vec(),
            metadata: br#"{"name":"n","version":2,"vector_layers":[{"id":"l","fields":{"a":"Number"}}]}"#.to_vec(),
        }
    }

    fn pack(&self, raw: &[u8]) -> Vec<u8> {
        match self.header.internal {
            PmtilesCompression::Gzip => Gzip::new(Level::ONCE).pack(raw).unwrap().into(),
            _ => raw.to_vec(),
        }
    }

    /// Serializes the archive; the last leaf first, so that other leaves can point to it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (mut leaves, mut places) = (Vec::new(), vec![(0, 1); self.leaves.len()]);
        let laid = |entries: &[Entry], places: &[(u64, u32)]| {
            let place = |entry: &Entry| match places.get(entry.offset as usize) {
                Some((offset, length)) if entry.run == 0 => Entry { offset: *offset, length: *length, ..*entry },
                _ => *entry,
            };
            self.pack(&directory_to_bytes(&entries.iter().map(place).collect::<Vec<_>>()))
        };
        for (number, leaf) in self.leaves.iter().enumerate().rev() {
            let packed = laid(leaf, &places);
            places[number] = (leaves.len() as u64, packed.len() as u32);
            leaves.extend(packed);
        }
        let (root, metadata) = (laid(&self.root, &places), self.pack(&self.metadata));
        let mut bytes = vec![0; HEADER_LENGTH];
        let mut add = |part: &[u8]| {
            let section = Section { offset: bytes.len() as u64, length: part.len() as u64 };
            bytes.extend(part);
            section
        };
        let (root, metadata, leaves, tiles) = (add(&root), add(&metadata), add(&leaves), add(&self.tiles));
        let header = Header { root, metadata, leaves, tiles, ..self.header.clone() };
        bytes[..HEADER_LENGTH].copy_from_slice(&header.to_bytes());
        bytes
    }

    fn reader(&self) -> Result<PmtilesReader, ReadError> {
        PmtilesReader::over(Box::new(BytesInMemory(self.to_bytes())))
    }
}

pub(crate) fn tile(id: u64) -> TileId {
    TileCoord::from_pmtiles_id(id).unwrap().into()
}

/// Calls everything that a reader can do with an archive; returns the first error, if any.
fn all_of(bytes: Vec<u8>) -> Result<Vec<String>, ReadError> {
    let mut reader = PmtilesReader::over(Box::new(BytesInMemory(bytes)))?;
    let (described, listed, checked) = (reader.describe(), reader.list(), reader.check());
    let some: Vec<TileId> = [0, 1, 2, 4, 5, 6, 7, 21, 30, 84, 85].map(tile).to_vec();
    let read = reader.read(&some);
    let of_list = listed.as_ref().map(|tiles| reader.read(&tiles[..tiles.len().min(1_000)]).err());
    let checked = checked?;
    let failed = [described.err(), listed.as_ref().err().map(same), read.err(), of_list.ok().flatten()];
    match failed.into_iter().flatten().next() {
        Some(error) => Err(error),
        None => Ok(checked),
    }
}

fn same(error: &ReadError) -> ReadError {
    ReadError::Damaged { place: String::new(), what: error.to_string() }
}

#[test]
fn leaves_of_any_depth_are_listed_and_read() {
    for internal in [PmtilesCompression::None, PmtilesCompression::Gzip] {
        let mut reader = Archive::sound(internal).reader().unwrap();
        let listed = reader.list().unwrap();
        assert_eq!(listed, [0, 1, 2, 3, 4, 5, 6, 21, 30, 84].map(tile));
        let asked = [84, 5, 3, 0, 7, 30, 20].map(tile);
        let expected = [Some("s"), Some("zero"), Some("three"), Some("zero"), None, Some("fiv"), None];
        let read = reader.read(&asked).unwrap();
        assert_eq!(read.iter().map(|tile| tile.as_deref()).collect::<Vec<_>>(), expected.map(|t| t.map(str::as_bytes)));
        assert_eq!(reader.check().unwrap(), Vec::<String>::new());
        let described = reader.describe().unwrap();
        assert_eq!((described.name.as_deref(), described.version.as_deref()), (Some("n"), Some("2")));
        assert_eq!(
            (described.zooms, described.bounds),
            (Some((0, 3)), Some(LonLatBox::from_sides([-1e-6, -1e-6, 1e-6, 1e-6])))
        );
        assert_eq!((described.vector_layers[0].id.as_str(), described.manifest), ("l", None));
    }
}

#[test]
fn what_is_not_for_us_is_named() {
    for (change, text) in [
        ((|a| a.header.packing = PmtilesCompression::Other(3)) as fn(&mut Archive), "its tiles are packed with brotli"),
        (|a| a.header.internal = PmtilesCompression::Other(4), "its directories are packed with zstd"),
        (|a| a.header.tile_type = TileType::of(2), "its tiles are PNG"),
        (|a| a.root.push(entry((1 << 46) / 3, 0, 4, 1)), "its tile id 23456248059221 lies beyond zoom 22"),
        (
            |a| {
                a.root = (0..20).map(|n| entry(n << 32, 0, 4, u32::MAX)).collect();
                a.header.addressed = 20 * u64::from(u32::MAX);
            },
            "it holds more than 67108864 tiles",
        ),
    ] {
        let mut archive = Archive::sound(PmtilesCompression::None);
        archive.header.addressed = 0;
        change(&mut archive);
        let error = archive.reader().and_then(|mut reader| reader.list()).unwrap_err();
        assert!(matches!(error, ReadError::Foreign { .. }) && error.to_string().contains(text), "{error}");
    }
    let mut older = Archive::sound(PmtilesCompression::None).to_bytes();
    older[7] = 2;
    for (bytes, text) in [
        (older, "it is PMTiles version 2"),
        (b"SQLite format 3\0".to_vec(), "it does not begin with \"PMTiles\""),
        (vec![], "it does not begin with"),
    ] {
        let error = PmtilesReader::over(Box::new(BytesInMemory(bytes))).err().unwrap();
        assert!(matches!(error, ReadError::Foreign { .. }) && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn directories_that_lie_are_damage() {
    for (change, text) in [
        ((|a| a.leaves[2] = vec![]) as fn(&mut Archive), "is empty"),
        (|a| a.root[2].offset = 0, "tile id 1 lies in two of its directories"),
        (|a| a.leaves[0][2].run = 17, "tile id 5 lies in two of its directories"),
        (|a| a.leaves[0][2].id = 21, "tile id 21 lies in two of its directories"),
        (|a| a.leaves[0][0].id = 0, "tile id 0 lies in two of its directories"),
        (|a| a.root[0].run = u32::MAX, "the run of its entry for tile id 0 reaches into the next entry"),
        (|a| a.leaves[2][2].run = u32::MAX, "its header counts 10 tiles, but its directories hold more"),
        (|a| a.header.addressed = 11, "its header counts 11 tiles, but its directories hold 10"),
    ] {
        let mut archive = Archive::sound(PmtilesCompression::Gzip);
        change(&mut archive);
        let error = archive.reader().and_then(|mut reader| reader.list()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }) && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn leaves_that_point_in_a_circle_come_to_an_end() {
    // Unpacked, a leaf of one pointer has five bytes: this one points to itself.
    let mut archive = Archive::sound(PmtilesCompression::None);
    archive.root = vec![entry(0, 0, 5, 0), entry(9, 0, 5, 0)];
    archive.leaves = vec![vec![entry(0, 99, 5, 0)]];
    let mut bytes = archive.to_bytes();
    let header = Header::from_bytes(&bytes).unwrap();
    bytes[header.leaves.offset as usize + 4] = 1;
    let mut reader = PmtilesReader::over(Box::new(BytesInMemory(bytes))).unwrap();
    for error in [reader.list().err(), reader.read(&[tile(0)]).err()] {
        assert!(error.unwrap().to_string().contains("nested more than 4 deep"));
    }
    assert!(reader.check().unwrap().iter().any(|broken| broken.contains("nested more than 4 deep")));
}

#[test]
fn what_unpacks_to_too_much_is_refused() {
    let mut archive = Archive::sound(PmtilesCompression::Gzip);
    archive.metadata = vec![b' '; 17 << 20];
    let error = archive.reader().unwrap().describe().unwrap_err().to_string();
    assert!(error.contains("its metadata cannot be unpacked: it unpacks to more than 16777216 bytes"), "{error}");
    archive.header.internal = PmtilesCompression::None;
    let error = archive.reader().unwrap().describe().unwrap_err().to_string();
    assert!(error.contains("its metadata has 17825792 bytes, more than the 16777216 that are read"), "{error}");
}

#[test]
fn every_broken_rule_is_named() {
    for (change, text) in [
        ((|a| a.header.addressed = 0) as fn(&mut Archive), "The header counts 0 addressed tiles, but there are 10."),
        (|a| a.header.entries = 8, "The header counts 8 tile entries, but there are 7."),
        (|a| a.header.contents = 7, "The header counts 7 tile contents, but there are 6."),
        (|a| a.header.min_zoom = 1, "The header names 1 as the shallowest zoom, but it is 0."),
        (|a| a.header.max_zoom = 4, "The header names 4 as the deepest zoom, but it is 3."),
        (|a| a.header.center_zoom = 4, "The zoom 4 of the center is not one of the zooms 0 to 3."),
        (|a| a.header.bounds[2] = -10, "The bounds have no area: maps may show nothing."),
        (|a| a.metadata = b"{}".to_vec(), "The metadata has no list vector_layers, which vector tiles need."),
        (|a| a.metadata = b"[]".to_vec(), "Its metadata is no JSON object: "),
        (|a| a.leaves[2][2].length = 2, "1 entries lie outside of the tile data, first that of tile id 84."),
        (
            |a| a.leaves[2].iter_mut().zip([16, 13]).for_each(|(entry, offset)| entry.offset = offset),
            "The archive says that it is clustered, but 1 entries are out of order, first that of tile id 21.",
        ),
        (|a| a.leaves[2] = vec![], "is empty."),
    ] {
        let mut archive = Archive::sound(PmtilesCompression::Gzip);
        change(&mut archive);
        let broken = archive.reader().unwrap().check().unwrap();
        assert!(broken.len() == 1 && broken[0].contains(text), "{broken:?} and not {text}");
    }
    let sound = Archive::sound(PmtilesCompression::Gzip).to_bytes();
    for (change, text) in [
        (
            (|h, _| h.leaves = Section::default()) as fn(&mut Header, &mut Vec<u8>),
            "The section of leaf directories is said to begin at byte 0",
        ),
        (|_, bytes| bytes.push(0), "bytes, but its sections add up to"),
        (|h, _| h.metadata = h.root, "The root directory overlaps the metadata."),
    ] {
        let (mut header, mut bytes) = (Header::from_bytes(&sound).unwrap(), sound.clone());
        change(&mut header, &mut bytes);
        bytes[..HEADER_LENGTH].copy_from_slice(&header.to_bytes());
        let broken = PmtilesReader::over(Box::new(BytesInMemory(bytes))).unwrap().check().unwrap();
        assert!(broken.iter().any(|broken| broken.contains(text)), "{broken:?} and not {text}");
    }
}

#[test]
fn an_archive_cut_off_anywhere_gives_an_error() {
    for internal in [PmtilesCompression::None, PmtilesCompression::Gzip] {
        let bytes = Archive::sound(internal).to_bytes();
        assert_eq!(all_of(bytes.clone()).unwrap(), Vec::<String>::new());
        for end in 0..bytes.len() {
            assert!(PmtilesReader::over(Box::new(BytesInMemory(bytes[..end].to_vec()))).is_err(), "cut off at {end}");
        }
    }
}

#[test]
fn bytes_changed_at_random_give_an_answer_or_an_error() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    let (mut answers, mut errors) = (0, 0);
    for internal in [PmtilesCompression::None, PmtilesCompression::Gzip] {
        let sound = Archive::sound(internal).to_bytes();
        for _ in 0..20_000 {
            let mut bytes = sound.clone();
            for _ in 0..=random(4) {
                let (at, favourite) = (random(bytes.len()), [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)]);
                bytes[at] = favourite;
            }
            match all_of(bytes) {
                Ok(_) => answers += 1,
                Err(ReadError::Damaged { .. } | ReadError::Foreign { .. }) => errors += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(answers > 1_000 && errors > 1_000, "{answers} answers, {errors} errors");
    for length in 0..2_000 {
        let mut bytes: Vec<u8> = (0..length).map(|_| random(256) as u8).collect();
        assert!(all_of(bytes.clone()).is_err());
        // Random bytes except for the beginning.
        let begin = length.min(8);
        bytes[..begin].copy_from_slice(&b"PMTiles\x03"[..begin]);
        assert!(all_of(bytes).is_err());
    }
}
