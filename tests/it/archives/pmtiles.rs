//! The PMTiles archive as other people's programs read it, and as its sink promises it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use md5::{Digest as _, Md5};
use oar_tiles::encode::{Gzip, Level, TileFormat};
use oar_tiles::stop::{Signal, Stop};
use oar_tiles::target::{
    Metadata, Pmtiles, PmtilesError, PmtilesReader, Sink as _, StagingError, TileEdit, TileReader as _, Tileset,
    Unwritten, VectorLayer,
};
use oar_tiles::tile::{LayerId, LonLatBox, Slice, TileCoord, TileId};
use serde_json::{Value, json};

use crate::support::archive::Address;
use crate::support::refusal::names;
use crate::support::repository;
use crate::support::s3::tileset;

/// A tile by its PMTiles id.
pub(crate) fn tile(id: u64) -> TileId {
    TileCoord::from_pmtiles_id(id).unwrap().into()
}

/// The first id of a zoom.
pub(crate) fn first_of(zoom: u32) -> u64 {
    (4_u64.pow(zoom) - 1) / 3
}

/// Something like chance.
fn noise(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// A tile of one layer with one point in its middle that carries a number and a name of some length, packed.
pub(crate) fn point(gzip: &mut Gzip, number: u16) -> Box<[u8]> {
    let part = |field: u8, bytes: &[u8]| [&[field << 3 | 2, bytes.len() as u8], bytes].concat();
    let name: Vec<u8> =
        (0..noise(number.into()) % 70).map(|at| b'a' + (noise(at + u64::from(number)) % 26) as u8).collect();
    let value = [0x28, number as u8 | 0x80, (number >> 7) as u8 | 0x80, (number >> 14) as u8];
    // MoveTo of one point: 2048, 2048 as zigzag varints.
    let feature = [0x12, 4, 0, 0, 1, 1, 0x18, 1, 0x22, 5, 0x09, 0x80, 0x20, 0x80, 0x20];
    let layer = [
        b"\x78\x02".to_vec(),
        part(1, b"facilities"),
        part(2, &feature),
        part(3, b"number"),
        part(3, b"name"),
        part(4, &value),
        part(4, &part(1, &name)),
        vec![0x28, 0x80, 0x20],
    ];
    gzip.pack(&part(3, &layer.concat())[..]).unwrap()
}

pub(crate) fn metadata(zooms: &str, manifest: &str) -> Metadata {
    let fields = json!({ "number": "Number", "name": "String" }).as_object().unwrap().clone();
    let layer =
        VectorLayer { id: "facilities".to_owned(), description: String::new(), minzoom: 0, maxzoom: 14, fields };
    Metadata {
        name: "Facilities".to_owned(),
        format: TileFormat::MVT,
        description: None,
        attribution: Some("© all".to_owned()),
        version: None,
        zooms: zooms.parse().unwrap(),
        bounds: LonLatBox::from_sides([-180.0, -85.051_129, 180.0, 85.051_129]),
        center: None,
        vector_layers: vec![layer],
        manifest: manifest.to_owned(),
    }
}

/// Some 50,000 tiles of zooms 0 to 14: some zooms as a whole, some with gaps; runs of one content, also from one zoom
/// into the next, contents that come again much later, and removals.
fn many() -> Vec<TileEdit> {
    let mut gzip = Gzip::new(Level::new(6).unwrap());
    let mut edits = Vec::new();
    for zoom in 0..=14 {
        let all = 4_u64.pow(zoom);
        let step = (all / 5_000).max(1);
        for place in (0..all).step_by(step as usize) {
            let last = place + step >= all;
            let id = first_of(zoom) + if last { all - 1 } else { place + noise(place) % step };
            let number = match (place / step) % 20 {
                // The same at the end of a zoom and at the begin of the next.
                _ if place == 0 || last => 1,
                0..=4 => 1,
                5 => 2 + place % 100,
                7 => {
                    edits.push(TileEdit::Remove(tile(id)));
                    continue;
                }
                _ if zoom > 4 && noise(id).is_multiple_of(5) => continue,
                _ => edits.len() as u64 + 500,
            };
            edits.push(TileEdit::Put(tile(id), point(&mut gzip, number as u16)));
        }
    }
    edits
}

/// Writes an archive.
pub(crate) fn write(path: &Path, edits: &[TileEdit], metadata: &Metadata) {
    let mut sink = Pmtiles::create(path, &Stop::new()).unwrap();
    for piece in edits.chunks(997) {
        let written = sink.write(piece.to_vec()).unwrap();
        assert_eq!(written.total(), piece.len() as u64);
    }
    let finished = sink.finish(metadata).unwrap();
    assert_eq!((finished.place, finished.deleted), (path.display().to_string(), 0));
}

fn address(id: TileId) -> Address {
    (id.coord.zoom().get(), id.coord.x(), id.coord.y())
}

fn sum(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What was put: MD5 by address.
fn put(edits: &[TileEdit]) -> BTreeMap<Address, String> {
    let of = |edit: &TileEdit| match edit {
        TileEdit::Put(id, bytes) => Some((address(*id), sum(bytes))),
        TileEdit::Remove(_) | TileEdit::Keep(..) => None,
    };
    edits.iter().filter_map(of).collect()
}

/// What the reader `pmtiles` sees: tiles, and what it tells of the rest.
fn look(path: &Path, zoom: Option<&str>) -> (BTreeMap<Address, String>, Value) {
    let python = std::env::var("TEST_PYTHON").expect("scripts/test installs the readers");
    let done =
        Command::new(python).arg(repository("tests/readers/look_at_pmtiles.py")).arg(path).args(zoom).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    let (tiles, told) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    let mut seen = BTreeMap::new();
    for line in tiles.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let at = (words[0].parse().unwrap(), words[1].parse().unwrap(), words[2].parse().unwrap());
        assert_eq!(seen.insert(at, words[3].to_owned()), None, "{line} twice");
    }
    (seen, serde_json::from_str(told).unwrap())
}

#[test]
fn other_peoples_readers_find_every_tile_and_no_broken_rule() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let edits = many();
    let expected = put(&edits);
    write(&path, &edits, &metadata("0-14", "{\"tiles\":1}"));
    let (seen, told) = look(&path, Some("14"));
    assert!(seen == expected, "{} tiles seen, {} put", seen.len(), expected.len());
    assert!(expected.len() > 35_000, "{}", expected.len());
    assert_eq!(told["broken"], json!([]));

    let header = &told["header"];
    let count = |name: &str| header[name].as_u64().unwrap();
    let contents = expected.values().collect::<std::collections::BTreeSet<_>>().len() as u64;
    assert_eq!((count("addressed_tiles_count"), count("tile_contents_count")), (expected.len() as u64, contents));
    assert!(count("tile_entries_count") < count("addressed_tiles_count"), "runs are merged");
    assert!(count("leaf_directory_length") > 0, "too many entries for a root");
    for (name, value) in [
        ("tile_type", json!("MVT")),
        ("tile_compression", json!("GZIP")),
        ("internal_compression", json!("GZIP")),
        ("clustered", json!(true)),
        ("min_zoom", json!(0)),
        ("max_zoom", json!(14)),
        ("min_lon_e7", json!(-1_800_000_000)),
        ("max_lat_e7", json!(850_511_290)),
        ("center_zoom", json!(0)),
        ("tile_data_offset", json!(16_384)),
    ] {
        assert_eq!(header[name], value, "{name}");
    }
    let described = &told["metadata"];
    assert_eq!((&described["name"], &described["attribution"]), (&json!("Facilities"), &json!("© all")));
    assert_eq!(described["vector_layers"][0]["id"], "facilities");
    assert_eq!(described["oar_tiles_manifest"], "{\"tiles\":1}");

    let deep: Vec<_> = expected.keys().filter(|address| address.0 == 14).collect();
    let gdal = &told["gdal"];
    assert_eq!((&gdal["layers"], &gdal["fields"]), (&json!(["facilities"]), &json!(["mvt_id", "name", "number"])));
    assert_eq!(gdal["features"], deep.len());
    assert!(gdal["distinct"].as_u64().unwrap() > 1_000);
}

#[test]
fn other_peoples_readers_read_an_archive_that_was_edited_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let edits = many();
    let (mut expected, mut gzip) = (put(&edits), Gzip::new(Level::new(6).unwrap()));
    write(&path, &edits, &metadata("0-14", "{\"tiles\":1}"));
    // Of every hundred tiles one is replaced, one removed, and one that is not there is put, if it is a removal so far.
    let changes: Vec<TileEdit> = (edits.iter().enumerate())
        .filter_map(|(number, edit)| match (number % 100, edit) {
            (7, _) => Some(TileEdit::Remove(edit.id())),
            (50, _) | (27, TileEdit::Remove(_)) => {
                Some(TileEdit::Put(edit.id(), point(&mut gzip, 20_000 + number as u16 / 10)))
            }
            _ => None,
        })
        .collect();
    for edit in &changes {
        match edit {
            TileEdit::Put(id, bytes) => expected.insert(address(*id), sum(bytes)),
            _ => expected.remove(&address(edit.id())),
        };
    }
    let old = std::fs::read(&path).unwrap();
    let mut sink = Pmtiles::create(&path, &Stop::new()).unwrap();
    sink.begin(&Tileset { unwritten: Unwritten::Keep, ..tileset("f") }).unwrap();
    sink.write(changes).unwrap();
    sink.finish(&metadata("0-14", "{\"tiles\":2}")).unwrap();
    let (seen, told) = look(&path, Some("14"));
    assert!(seen == expected, "{} tiles seen, {} expected", seen.len(), expected.len());
    assert_eq!((&told["broken"], &told["header"]["clustered"]), (&json!([]), &json!(false)));
    assert!(told["metadata"]["oar_tiles_dead_bytes"].as_u64().unwrap() > 10_000, "{}", told["metadata"]);
    assert_eq!(told["metadata"]["oar_tiles_manifest"], "{\"tiles\":2}");
    let deep = expected.keys().filter(|address| address.0 == 14).count();
    assert_eq!((&told["gdal"]["layers"], &told["gdal"]["features"]), (&json!(["facilities"]), &json!(deep)));
    let stays = 16_384..16_384 + told["header"]["tile_data_length"].as_u64().unwrap() as usize / 2;
    assert!(std::fs::read(&path).unwrap()[stays.clone()] == old[stays], "the old tile data lies where it lay");
}

#[test]
fn our_reader_finds_what_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let edits = many();
    let expected = put(&edits);
    write(&path, &edits, &metadata("0-14", "{}"));
    let mut reader = PmtilesReader::open(&path).unwrap();
    assert_eq!(reader.check().unwrap(), Vec::<String>::new());
    let listed = reader.list().unwrap();
    assert_eq!(listed.iter().map(|id| address(*id)).collect::<std::collections::BTreeSet<_>>().len(), listed.len());
    // From the last to the first, with those that are not there.
    let asked: Vec<TileId> = edits.iter().rev().map(TileEdit::id).collect();
    let mut seen = BTreeMap::new();
    for piece in asked.chunks(1_000) {
        for (id, bytes) in piece.iter().zip(reader.read(piece).unwrap()) {
            seen.extend(bytes.map(|bytes| (address(*id), sum(&bytes))));
        }
    }
    assert!(seen == expected && listed.len() == expected.len());
    let layer = TileId { slice: Slice::Layer(LayerId(0)), ..tile(0) };
    assert_eq!(reader.read(&[layer]).unwrap(), [None], "whole tiles are not layers");
    let described = reader.describe().unwrap();
    assert_eq!((described.manifest.as_deref(), described.zooms), (Some("{}"), Some((0, 14))));
    assert_eq!(described.vector_layers, metadata("0-14", "").vector_layers);
}

#[test]
fn a_small_archive_has_no_leaves_and_one_without_tiles_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let mut gzip = Gzip::new(Level::new(6).unwrap());
    let few: Vec<TileEdit> = (5..25).map(|id| TileEdit::Put(tile(id), point(&mut gzip, id as u16 / 4))).collect();
    for (edits, zooms, found) in [(&few[..], "1-9", (2, 3)), (&few[..1], "2", (2, 2)), (&[], "1-9", (1, 9))] {
        let mut small = metadata(zooms, "{}");
        // A point has bounds without an area.
        small.bounds = LonLatBox::from_sides([29.0, 41.0, 29.0, 41.0]);
        write(&path, edits, &small);
        let (seen, told) = look(&path, None);
        assert_eq!((seen, &told["broken"]), (put(edits), &json!([])));
        let header = &told["header"];
        assert_eq!((&header["leaf_directory_length"], &header["min_zoom"]), (&json!(0), &json!(found.0)));
        assert_eq!((&header["max_zoom"], &header["center_zoom"]), (&json!(found.1), &json!(found.0)));
        assert!(header["leaf_directory_offset"].as_u64().unwrap() >= 16_384, "{header}");
        let mut reader = PmtilesReader::open(&path).unwrap();
        assert_eq!((reader.check().unwrap(), reader.list().unwrap().len()), (vec![], edits.len()));
    }
}

#[test]
fn the_same_tiles_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let edits = many();
    let bytes = ["a.pmtiles", "b.pmtiles"].map(|name| {
        write(&folder.path().join(name), &edits, &metadata("0-14", "{}"));
        std::fs::read(folder.path().join(name)).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn tiles_out_of_turn_are_refused_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    write(&path, &[], &metadata("0-14", "old"));
    let old = std::fs::read(&path).unwrap();
    let bytes: Box<[u8]> = b"x".as_slice().into();
    let layer = TileId { slice: Slice::Layer(LayerId(1)), ..tile(9) };
    for (edit, text) in [
        (TileEdit::Put(tile(7), bytes.clone()), "came twice"),
        (TileEdit::Remove(tile(7)), "came twice"),
        (TileEdit::Put(tile(6), bytes.clone()), "came too late"),
        (TileEdit::Remove(tile(6)), "came too late"),
        (TileEdit::Put(layer, bytes.clone()), "came without its other layers"),
        (TileEdit::Put(tile(8), [].into()), "has no bytes"),
    ] {
        let mut sink = Pmtiles::create(&path, &Stop::new()).unwrap();
        sink.write(vec![TileEdit::Put(tile(7), bytes.clone())]).unwrap();
        let error = sink.write(vec![edit]).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("please report this"), "{error}");
        drop(sink);
        assert!(std::fs::read(&path).unwrap() == old && names(folder.path()).len() == 1);
    }
}

#[test]
fn a_stop_ends_it_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    write(&path, &[], &metadata("0-14", "old"));
    let old = std::fs::read(&path).unwrap();
    for edits in [many(), Vec::new()] {
        let stop = Stop::new();
        let mut sink = Pmtiles::create(&path, &stop).unwrap();
        sink.write(edits).unwrap();
        stop.ask(Signal::Interrupt);
        assert!(matches!(sink.write(Vec::new()), Err(PmtilesError::Staging(StagingError::Interrupted { .. }))));
        let error = sink.finish(&metadata("0-14", "new")).unwrap_err();
        assert!(matches!(error, PmtilesError::Staging(StagingError::Interrupted { .. })), "{error}");
        assert!(std::fs::read(&path).unwrap() == old && names(folder.path()).len() == 1);
    }
}

/// Set for the process of its own that may write no more than 100 KiB to a file.
const LIMITED: &str = "OAR_TILES_TEST_PMTILES_LIMITED";

/// Runs a test in a process of its own, in which no file may grow beyond this many blocks of 1,024 bytes: it refuses to
/// write the archive, which stays as it is.
fn refuses_beyond(blocks: u32, test: &str, path: &Path) {
    let old = std::fs::read(path).unwrap();
    let child = Command::new("bash")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("archives::pmtiles::{test}"), "--nocapture"])
        .env(LIMITED, path)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stderr);
    assert!(told.contains("refused: no room to write ") && told.contains("t.pmtiles is unchanged"), "{told}");
    assert!(std::fs::read(path).unwrap() == old && names(path.parent().unwrap()).len() == 1);
}

#[test]
fn a_full_disk_is_named_and_the_old_file_stays() {
    if let Some(path) = std::env::var_os(LIMITED) {
        let mut sink = Pmtiles::create(Path::new(&path), &Stop::new()).unwrap();
        let error = sink.write(many()).map(drop).and_then(|()| sink.finish(&metadata("0-14", "{}")).map(drop));
        eprintln!("refused: {}", error.unwrap_err());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    write(&path, &[], &metadata("0-14", "old"));
    refuses_beyond(100, "a_full_disk_is_named_and_the_old_file_stays", &path);
}

#[test]
fn an_edit_on_a_full_disk_is_named_and_the_old_file_stays() {
    if let Some(path) = std::env::var_os(LIMITED) {
        let mut sink = Pmtiles::create(Path::new(&path), &Stop::new()).unwrap();
        sink.begin(&Tileset { unwritten: Unwritten::Keep, ..tileset("f") }).unwrap();
        let mut gzip = Gzip::new(Level::new(6).unwrap());
        sink.write(vec![TileEdit::Put(tile(0), point(&mut gzip, 7))]).unwrap();
        eprintln!("refused: {}", sink.finish(&metadata("0-14", "new")).unwrap_err());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    write(&path, &many(), &metadata("0-14", "old"));
    refuses_beyond(1000, "an_edit_on_a_full_disk_is_named_and_the_old_file_stays", &path);
}

#[test]
fn only_pmtiles_files_and_empty_ones_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    for (content, text) in [
        (&b""[..], None),
        (b"PMTiles\x03 of some kind", None),
        (b"PMTile", Some("it does not begin with \"PMTiles\"")),
        (b"SQLite format 3\0", Some("it does not begin with \"PMTiles\"")),
    ] {
        std::fs::write(&path, content).unwrap();
        match (Pmtiles::create(&path, &Stop::new()), text) {
            (Ok(_), None) => {}
            (Err(error @ PmtilesError::Staging(StagingError::Foreign { .. })), Some(text)) => {
                assert!(error.to_string().contains(text));
            }
            (Ok(_), Some(_)) => panic!("{content:?} would be replaced"),
            (Err(error), _) => panic!("{error}"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    let error = Pmtiles::create(Path::new("/dev/null"), &Stop::new()).unwrap_err().to_string();
    assert!(error.contains("/dev/null is no PMTiles file (it is no regular file): it is left alone"), "{error}");
    for (path, text) in
        [("/dev/null", "it is no regular file"), ("/nowhere/t.pmtiles", "there is no /nowhere/t.pmtiles")]
    {
        let error = PmtilesReader::open(Path::new(path)).err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
    }
}
