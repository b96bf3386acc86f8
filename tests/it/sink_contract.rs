//! The sink's contract (`src/sink/mod.rs`), held by every sink: one suite, the in-memory sink and the fault-injecting one included.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oar_tiles::sink::{
    Described, Directory, DirectoryReader, Mbtiles, MbtilesReader, Metadata, Pmtiles, PmtilesReader, Publish, Rest, S3,
    S3Reader, Scope, Sink, Template, TileEdit, TileReader, Tileset, TreeOptions, VectorLayer, Written,
};
use oar_tiles::stop::Stop;
use oar_tiles::tile::{Coverage, Slice, TileCoord, TileId, Zoom};

use super::support::s3::{Prefix, options};
use super::support::sinks::{Faulty, Memory, MemoryTarget};

/// Tiles as a target holds them.
type Held = BTreeMap<(u8, u32, u32, Option<u16>), Vec<u8>>;

/// A target that the suite can write again and again, and look into.
trait Target {
    type Sink: Sink;
    fn sink(&self) -> Result<Self::Sink, <Self::Sink as Sink>::Error>;
    fn reader(&self) -> Option<Box<dyn TileReader>>;
    /// Whether runs change tiles one by one, rather than replacing the whole.
    fn in_line(&self) -> bool;
    /// What a second writer is told.
    fn busy(&self) -> &'static str {
        "another run is writing "
    }
}

fn key(id: TileId) -> (u8, u32, u32, Option<u16>) {
    let layer = match id.slice {
        Slice::Whole => None,
        Slice::Layer(number) => Some(number),
    };
    (id.coord.zoom().get(), id.coord.x(), id.coord.y(), layer)
}

fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
    TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
}

fn metadata(manifest: &str) -> Metadata {
    let layer = |id: &str| VectorLayer { id: id.to_owned(), maxzoom: 7, ..VectorLayer::default() };
    Metadata {
        name: "contract".to_owned(),
        description: Some("what every sink promises".to_owned()),
        attribution: None,
        version: None,
        zooms: "0-7".parse().unwrap(),
        bounds: [-10.0, -20.0, 30.0, 40.0],
        vector_layers: vec![layer("a"), layer("b/ü")],
        manifest: format!("{{\"fingerprint\":\"contract\",\"run\":\"{manifest}\"}}"),
    }
}

fn tileset(zooms: &str, bbox: &[&str]) -> Tileset {
    let boxes: Vec<_> = bbox.iter().map(|text| text.parse().unwrap()).collect();
    Tileset {
        fingerprint: "contract".to_owned(),
        layers: vec!["a".to_owned(), "b/ü".to_owned()],
        scope: Scope { zooms: zooms.parse().unwrap(), coverage: Coverage::new(&boxes) },
        rest: Rest::Vanishes,
    }
}

/// Some tiles of zooms 0 to 7: their bytes differ by `version` where `changes` says so, every fifth renders to nothing.
fn edits(needs: oar_tiles::sink::Needs, version: u8, changes: impl Fn(TileCoord) -> bool) -> Vec<TileEdit> {
    let mut tiles: Vec<TileCoord> =
        (0..=7).flat_map(|zoom| (0..1_u32 << zoom).map(move |i| tile(zoom, i, i * 7 % (1 << zoom)))).collect();
    tiles.sort_by_key(|tile| needs.order.place(*tile));
    let slices: &[Slice] = if needs.layers_apart { &[Slice::Layer(0), Slice::Layer(1)] } else { &[Slice::Whole] };
    let mut edits = Vec::new();
    for coord in tiles {
        for slice in slices {
            let id = TileId { coord, slice: *slice };
            if coord.x() % 5 == 4 {
                edits.push(TileEdit::Remove(id));
            } else {
                let version = if changes(coord) { version } else { 0 };
                let same =
                    if coord.zoom().get() == 6 { b"the same bytes".to_vec() } else { id.to_string().into_bytes() };
                edits.push(TileEdit::Put(id, [&[0x1f, 0x8b, version][..], &same].concat().into()));
            }
        }
    }
    edits
}

fn held_by(edits: &[TileEdit]) -> Held {
    let put = |edit: &TileEdit| match edit {
        TileEdit::Put(id, bytes) => Some((key(*id), bytes.to_vec())),
        TileEdit::Remove(_) => None,
    };
    edits.iter().filter_map(put).collect()
}

/// Everything that a target holds, read in pieces, and what it says about itself.
fn look<T: Target>(target: &T) -> (Held, Described) {
    let Some(mut reader) = target.reader() else { return (Held::new(), Described::default()) };
    let ids = reader.list().unwrap();
    let mut held = Held::new();
    for piece in ids.chunks(100) {
        for (id, bytes) in piece.iter().zip(reader.read(piece).unwrap()) {
            let twice = held.insert(key(*id), bytes.expect("a tile that is listed can be read").to_vec());
            assert_eq!(twice, None, "{id} is listed twice");
        }
    }
    let absent = TileId { coord: tile(7, 1, 100), slice: ids.first().map_or(Slice::Whole, |id| id.slice) };
    assert_eq!(reader.read(&[absent]).unwrap(), [None]);
    (held, reader.describe().unwrap())
}

/// A whole run; gives what was written and how many tiles were deleted.
fn write<T: Target>(target: &T, edits: Vec<TileEdit>, tileset: &Tileset, manifest: &str) -> (Written, u64) {
    let mut sink = target.sink().unwrap();
    sink.begin(tileset).unwrap();
    let mut written = Written::default();
    for piece in edits.chunks(33) {
        let of_piece = sink.write(piece.to_vec()).unwrap();
        assert_eq!(of_piece.total(), piece.len() as u64, "every edit is accounted for");
        written += of_piece;
    }
    let finished = sink.finish(&metadata(manifest)).unwrap();
    (written, finished.deleted)
}

fn needs<T: Target>(target: &T) -> oar_tiles::sink::Needs {
    target.sink().unwrap().needs()
}

fn holds_what_was_put_and_nothing_else<T: Target>(target: &T) {
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    let (written, deleted) = write(target, first.clone(), &tileset("0-7", &[]), "first");
    assert_eq!((written.stored, written.unchanged, deleted), (held_by(&first).len() as u64, 0, 0));
    let (held, described) = look(target);
    assert_eq!(held, held_by(&first));
    assert!(described.manifest.unwrap().contains("first"));
    assert_eq!((described.name.as_deref(), described.zooms), (Some("contract"), Some((0, 7))));
    assert_eq!(described.bounds, Some([-10.0, -20.0, 30.0, 40.0]));
    assert_eq!(described.vector_layers, metadata("").vector_layers);

    // Again, with other bytes at zoom 5 and without the tiles of zoom 3.
    let second: Vec<TileEdit> = edits(needs, 1, |tile| tile.zoom().get() == 5)
        .into_iter()
        .filter(|edit| edit.id().coord.zoom().get() != 3)
        .collect();
    let (written, deleted) = write(target, second.clone(), &tileset("0-7", &[]), "second");
    let (held, described) = look(target);
    assert_eq!(held, held_by(&second));
    assert!(described.manifest.unwrap().contains("second"));
    if target.in_line() {
        let of_zoom = |edits: &[TileEdit], zoom| held_by(edits).keys().filter(|key| key.0 == zoom).count() as u64;
        assert_eq!((written.stored, deleted), (of_zoom(&second, 5), of_zoom(&first, 3)));
        let (written, deleted) = write(target, second.clone(), &tileset("0-7", &[]), "third");
        assert_eq!((written.stored, written.unchanged, deleted), (0, held.len() as u64, 0), "nothing is written twice");
    }
}

fn what_is_outside_of_the_scope_stays<T: Target>(target: &T) {
    if !target.in_line() {
        return;
    }
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    write(target, first.clone(), &tileset("0-7", &[]), "first");
    // Nothing is rendered in a box at zooms 5 and 6: only what lies there goes.
    let narrow = tileset("5-6", &["0,-85,180,85"]);
    let (_, deleted) = write(target, Vec::new(), &narrow, "second");
    let inside = |key: &(u8, u32, u32, Option<u16>)| (5..=6).contains(&key.0) && key.1 >= 1 << (key.0 - 1);
    let (held, _) = look(target);
    let expected: Held = held_by(&first).into_iter().filter(|(key, _)| !inside(key)).collect();
    assert_eq!(deleted, (held_by(&first).len() - expected.len()) as u64);
    assert!(deleted > 0);
    assert_eq!(held, expected);
}

fn an_unfinished_run_shows_no_manifest_and_the_next_one_is_right<T: Target>(target: &T) {
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    write(target, first.clone(), &tileset("0-7", &[]), "first");
    let second = edits(needs, 2, |tile| tile.zoom().get() > 3);
    let mut sink = target.sink().unwrap();
    sink.begin(&tileset("0-7", &[])).unwrap();
    sink.write(second[..second.len() / 2].to_vec()).unwrap();
    drop(sink);
    let (held, described) = look(target);
    assert!(described.manifest.unwrap().contains("first"), "the manifest is the last to move");
    if target.in_line() {
        let (old, new) = (held_by(&first), held_by(&second));
        assert!(held.iter().all(|(key, bytes)| old.get(key) == Some(bytes) || new.get(key) == Some(bytes)));
    } else {
        assert_eq!(held, held_by(&first));
    }
    write(target, second.clone(), &tileset("0-7", &[]), "second");
    assert_eq!(look(target).0, held_by(&second));
}

fn a_second_writer_is_told<T: Target>(target: &T) {
    let first = target.sink().unwrap();
    let Err(refused) = target.sink() else { panic!("two writers at once") };
    assert!(refused.to_string().contains(target.busy()), "{refused}");
    drop(first);
    drop(target.sink().unwrap());
}

fn a_failing_write_leaves_a_target_that_the_next_run_makes_right<T: Target>(target: &T) {
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    write(target, first.clone(), &tileset("0-7", &[]), "first");
    for fails_at in [0, 1, 3] {
        let mut sink = Faulty::new(target.sink().unwrap(), fails_at);
        let failed = (|| {
            sink.begin(&tileset("0-7", &[])).map(drop)?;
            for piece in edits(needs, 3, |_| true).chunks(33) {
                sink.write(piece.to_vec()).map(drop)?;
            }
            sink.finish(&metadata("never")).map(drop)
        })();
        assert!(failed.unwrap_err().to_string().contains("on purpose"));
        let (held, described) = look(target);
        assert!(described.manifest.unwrap().contains("first"));
        if !target.in_line() {
            assert_eq!(held, held_by(&first));
        }
    }
    write(target, first.clone(), &tileset("0-7", &[]), "again");
    assert_eq!(look(target).0, held_by(&first));
}

fn an_empty_tileset_is_a_valid_target<T: Target>(target: &T) {
    write(target, Vec::new(), &tileset("0-7", &[]), "empty");
    let (held, described) = look(target);
    assert_eq!((held, described.name.as_deref()), (Held::new(), Some("contract")));
}

/// Every promise, each on a target of its own.
fn keeps_the_contract<T: Target>(new: impl Fn() -> T) {
    holds_what_was_put_and_nothing_else(&new());
    what_is_outside_of_the_scope_stays(&new());
    an_unfinished_run_shows_no_manifest_and_the_next_one_is_right(&new());
    a_second_writer_is_told(&new());
    a_failing_write_leaves_a_target_that_the_next_run_makes_right(&new());
    an_empty_tileset_is_a_valid_target(&new());
}

struct File<K> {
    folder: tempfile::TempDir,
    kind: K,
}

fn in_folder<K>(kind: K) -> File<K> {
    File { folder: tempfile::tempdir().unwrap(), kind }
}

impl<K> File<K> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

struct OfMbtiles;

impl Target for File<OfMbtiles> {
    type Sink = Mbtiles;
    fn sink(&self) -> Result<Mbtiles, <Mbtiles as Sink>::Error> {
        Mbtiles::create(&self.path("t.mbtiles"), &Stop::new())
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let path = self.path("t.mbtiles");
        path.exists().then(|| Box::new(MbtilesReader::open(&path).unwrap()) as Box<dyn TileReader>)
    }
    fn in_line(&self) -> bool {
        false
    }
}

impl Target for File<TreeOptions> {
    type Sink = Directory;
    fn sink(&self) -> Result<Directory, <Directory as Sink>::Error> {
        Directory::create(&self.path("tiles"), self.kind.clone(), &Stop::new())
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let template = Template::new("{z}/{x}/{y}.pbf").unwrap();
        Some(Box::new(DirectoryReader::open(&self.path("tiles"), &template).unwrap()))
    }
    fn in_line(&self) -> bool {
        self.kind.publish == Publish::InPlace
    }
}

struct PmtilesFile;

impl Target for File<PmtilesFile> {
    type Sink = Pmtiles;
    fn sink(&self) -> Result<Pmtiles, <Pmtiles as Sink>::Error> {
        Pmtiles::create(&self.path("t.pmtiles"), &Stop::new())
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        Some(Box::new(PmtilesReader::open(&self.path("t.pmtiles")).unwrap()))
    }
    fn in_line(&self) -> bool {
        false
    }
}

impl Target for MemoryTarget {
    type Sink = Memory;
    fn sink(&self) -> Result<Memory, <Memory as Sink>::Error> {
        self.open()
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        Some(Box::new(self.clone()))
    }
    fn in_line(&self) -> bool {
        true
    }
}

/// A prefix of a bucket.
struct InBucket(Prefix, TreeOptions);

impl Target for InBucket {
    type Sink = S3;
    fn sink(&self) -> Result<S3, <S3 as Sink>::Error> {
        self.0.sink_with(options(&self.0.endpoint), self.1.clone())
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let template = Template::new("{z}/{x}/{y}.pbf").unwrap();
        let (handle, options) = (self.0.runtime.handle().clone(), options(&self.0.endpoint));
        Some(Box::new(S3Reader::open(self.0.location.clone(), options, &template, handle).unwrap()))
    }
    fn in_line(&self) -> bool {
        self.1.publish == Publish::InPlace
    }
}

fn tree(template: &str, publish: Publish) -> TreeOptions {
    TreeOptions { template: Template::new(template).unwrap(), publish, force: false, public_url: None, packed: true }
}

#[test]
fn an_mbtiles_file_keeps_the_contract() {
    keeps_the_contract(|| in_folder(OfMbtiles));
}

#[test]
fn a_directory_keeps_the_contract_under_any_template() {
    for template in ["{z}/{x}/{y}.pbf", "t/{layer}/{z}/{x}/{-y}.mvt", "{x}-{y}-{z}"] {
        keeps_the_contract(|| in_folder(tree(template, Publish::InPlace)));
    }
}

#[test]
fn a_versioned_directory_keeps_the_contract() {
    let publish = Publish::Versioned { keep: 1, keep_for: std::time::Duration::ZERO };
    keeps_the_contract(|| in_folder(tree("{layer}/{version}/{z}/{x}/{y}.pbf", publish)));
}

#[test]
fn a_pmtiles_file_keeps_the_contract() {
    keeps_the_contract(|| in_folder(PmtilesFile));
}

#[test]
fn a_prefix_of_a_bucket_keeps_the_contract() {
    keeps_the_contract(|| InBucket(Prefix::new(), tree("{z}/{x}/{y}.pbf", Publish::InPlace)));
    keeps_the_contract(|| InBucket(Prefix::new(), tree("t/{layer}/{z}/{x}/{-y}.mvt", Publish::InPlace)));
}

#[test]
fn a_versioned_prefix_of_a_bucket_keeps_the_contract() {
    let publish = Publish::Versioned { keep: 1, keep_for: std::time::Duration::ZERO };
    keeps_the_contract(|| InBucket(Prefix::new(), tree("{version}/{z}/{x}/{y}.pbf", publish)));
}

#[test]
fn the_sink_in_memory_keeps_the_contract() {
    keeps_the_contract(MemoryTarget::new);
}
