//! Every kind of target, as the suites of the sink's contract write and read it repeatedly.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use oar_tiles::stop::Stop;
use oar_tiles::target::{
    BucketError, BucketObject, BucketPmtiles, BucketReader, BucketTiles, Described, Directory, DirectoryError,
    DirectoryReader, Finished, Mbtiles, MbtilesError, MbtilesReader, Metadata, Needs, ObjectKey, OpenMode,
    PartialScope, Pmtiles, PmtilesError, PmtilesReader, Publishing, RunKind, Sink, TargetSection, Template, TileEdit,
    TileReader, Tileset, TreeOptions, Unwritten, VectorLayer, Written,
};
use oar_tiles::tile::{Coverage, LayerId, LonLatBox, Scope, Slice, TileCoord, TileId, Zoom};

use super::s3::{Prefix, options};
use super::sinks::{Memory, MemoryError, MemoryTarget};
use super::tree::files;
use super::until;
use oar_tiles::encode::TileFormat;

/// Tiles as a target holds them.
pub(crate) type Held = BTreeMap<(u8, u32, u32, Option<u16>), Vec<u8>>;

/// A target that the suite can write repeatedly, and read.
pub(crate) trait Target {
    type Sink: Sink;
    fn sink(&self) -> Result<Self::Sink, <Self::Sink as Sink>::Error>;
    /// The sink that edits the target, if it can be edited.
    type Editor: Sink;
    fn editor(&self) -> Result<Self::Editor, <Self::Editor as Sink>::Error>;
    fn reader(&self) -> Option<Box<dyn TileReader>>;
    /// Whether runs change tiles one by one, rather than replacing the whole.
    fn in_line(&self) -> bool;
    /// Shows for every tile that is stored by itself whether it was written again: the number and time of its file, or
    /// the `ETag` and time of its object.
    fn stamps(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    /// The bytes of a target that is one file.
    fn bytes(&self) -> Option<Vec<u8>> {
        None
    }
    /// Whether it lies on a server.
    fn is_remote(&self) -> bool {
        false
    }
    /// True if a second writer is refused at open rather than at finish.
    fn is_locked(&self) -> bool {
        true
    }
    /// The beginning of the error of a second writer.
    fn busy(&self) -> &'static str {
        "another run is writing "
    }
}

pub(crate) fn key(id: TileId) -> (u8, u32, u32, Option<u16>) {
    let layer = match id.slice {
        Slice::Whole => None,
        Slice::Layer(LayerId(number)) => Some(number),
    };
    (id.coord.zoom().get(), id.coord.x(), id.coord.y(), layer)
}

pub(crate) fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
    TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
}

pub(crate) fn metadata(manifest: &str) -> Metadata {
    let layer = |id: &str| VectorLayer { id: id.to_owned(), maxzoom: 7, ..VectorLayer::default() };
    Metadata {
        name: "contract".to_owned(),
        format: TileFormat::MVT,
        description: Some("what every sink promises".to_owned()),
        attribution: None,
        version: None,
        zooms: "0-7".parse().unwrap(),
        bounds: LonLatBox::from_sides([-10.0, -20.0, 30.0, 40.0]),
        center: None,
        vector_layers: vec![layer("a"), layer("b/ü")],
        manifest: format!("{{\"fingerprint\":\"contract\",\"run\":\"{manifest}\"}}"),
    }
}

pub(crate) fn tileset(zooms: &str, bbox: &[&str]) -> Tileset {
    let boxes: Vec<_> = bbox.iter().map(|text| text.parse().unwrap()).collect();
    Tileset {
        fingerprint: "contract".to_owned(),
        layers: vec!["a".to_owned(), "b/ü".to_owned()],
        scope: Scope { zooms: zooms.parse().unwrap(), coverage: Coverage::new(&boxes) },
        partial: PartialScope::default(),
        unwritten: Unwritten::Delete,
        list_changes: true,
        dirty: None,
        before_manifest: Vec::new(),
        run: RunKind::Seed { database: "d".to_owned(), snapshot: "5:5:".to_owned() },
    }
}

/// Some tiles of zooms 0 to 7: their bytes differ by `version` where `changes` says so, every fifth renders to nothing.
pub(crate) fn edits(needs: Needs, version: u8, changes: impl Fn(TileCoord) -> bool) -> Vec<TileEdit> {
    // Few enough for stores that take one request a tile, and of every remainder by which tests choose some.
    let on = |zoom: u8| {
        let some = (0..1_u32 << zoom).filter(move |i| zoom < 6 || i % 11 < 5);
        some.map(move |i| tile(zoom, i, i * 7 % (1 << zoom)))
    };
    let mut tiles: Vec<TileCoord> = (0..=7).flat_map(on).collect();
    tiles.sort_by_key(|tile| needs.order.sort_key(*tile));
    let slices: &[Slice] =
        if needs.layers_apart { &[Slice::Layer(LayerId(0)), Slice::Layer(LayerId(1))] } else { &[Slice::Whole] };
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

pub(crate) fn held_by(edits: &[TileEdit]) -> Held {
    let put = |edit: &TileEdit| match edit {
        TileEdit::Put(id, bytes) => Some((key(*id), bytes.to_vec())),
        TileEdit::Remove(_) | TileEdit::Keep(..) => None,
    };
    edits.iter().filter_map(put).collect()
}

/// Everything that a target holds, read in pieces, and its description.
pub(crate) fn look<T: Target>(target: &T) -> (Held, Described) {
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

/// The result of a run: what happened to the edits that it handed over, and how many tiles were deleted in total.
pub(crate) type Done = (Written, u64);

/// Edits a target whose other tiles stay; also returns its description from before.
#[track_caller]
pub(crate) fn edit<T: Target>(target: &T, edits: &[TileEdit], manifest: &str) -> (Done, Described) {
    let mut sink = once_free(|| target.editor());
    let before = sink.begin(&staying()).unwrap().expect("what is edited says what it is");
    let done = hand_over(sink, edits, manifest).unwrap();
    (done, before)
}

/// Hands edits over in pieces, and finishes.
pub(crate) fn hand_over<S: Sink>(sink: S, edits: &[TileEdit], manifest: &str) -> Result<Done, S::Error> {
    let (written, finished) = finished(sink, edits, manifest)?;
    Ok((written, finished.deleted))
}

/// Hands edits over in pieces, and returns what the sink returns at its end.
pub(crate) fn finished<S: Sink>(
    mut sink: S,
    edits: &[TileEdit],
    manifest: &str,
) -> Result<(Written, Finished), S::Error> {
    let mut written = Written::default();
    for piece in edits.chunks(33) {
        let of_piece = sink.write(piece.to_vec())?;
        assert_eq!(of_piece.total(), piece.len() as u64, "every edit is accounted for");
        written += of_piece;
    }
    Ok((written, sink.finish(&metadata(manifest))?))
}

/// The usual tileset, for a run that changes only what it hands over.
pub(crate) fn staying() -> Tileset {
    Tileset { unwritten: Unwritten::Keep, ..tileset("0-7", &[]) }
}

/// Opens a target that was closed just now. A process that another test is about to start holds every lock of this
/// process until it executes its own program.
#[track_caller]
pub(crate) fn once_free<S, E: std::fmt::Display>(open: impl Fn() -> Result<S, E>) -> S {
    let mut opened = None;
    until("the lock is free", || match open() {
        Ok(sink) => opened.replace(sink).is_none(),
        Err(error) if error.to_string().contains("another run is writing ") => false,
        Err(error) => panic!("{error}"),
    });
    opened.unwrap()
}

/// A whole run; returns what was written and how many tiles were deleted.
#[track_caller]
pub(crate) fn write<T: Target>(target: &T, edits: &[TileEdit], tileset: &Tileset, manifest: &str) -> (Written, u64) {
    let mut sink = once_free(|| target.sink());
    sink.begin(tileset).unwrap();
    hand_over(sink, edits, manifest).unwrap()
}

/// The order that a target needs, and whether it keeps layers apart.
pub(crate) fn needs<T: Target>(target: &T) -> Needs {
    once_free(|| target.sink()).needs()
}

pub(crate) struct File<K> {
    folder: tempfile::TempDir,
    pub kind: K,
}

pub(crate) fn in_folder<K>(kind: K) -> File<K> {
    File { folder: tempfile::tempdir().unwrap(), kind }
}

impl<K> File<K> {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub(crate) struct OfMbtiles;

impl Target for File<OfMbtiles> {
    type Sink = Mbtiles;
    fn sink(&self) -> Result<Mbtiles, <Mbtiles as Sink>::Error> {
        Mbtiles::open(&self.path("t.mbtiles"), OpenMode::Replace, &Stop::new())
    }
    type Editor = Mbtiles;
    fn editor(&self) -> Result<Mbtiles, MbtilesError> {
        Mbtiles::open(&self.path("t.mbtiles"), OpenMode::Edit, &Stop::new())
    }
    fn bytes(&self) -> Option<Vec<u8>> {
        Some(std::fs::read(self.path("t.mbtiles")).unwrap())
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
    type Editor = Directory;
    fn editor(&self) -> Result<Directory, DirectoryError> {
        self.sink()
    }
    fn stamps(&self) -> BTreeMap<String, String> {
        let stamp = |name: String| {
            let about = std::fs::metadata(self.path("tiles").join(&name)).unwrap();
            (name, format!("{} {} {}", about.ino(), about.mtime(), about.mtime_nsec()))
        };
        files(&self.path("tiles")).into_keys().filter(|name| !name.ends_with(".json")).map(stamp).collect()
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let template = Template::new("{z}/{x}/{y}.pbf").unwrap();
        let path = self.path("tiles");
        path.exists().then(|| Box::new(DirectoryReader::open(&path, &template).unwrap()) as Box<dyn TileReader>)
    }
    fn in_line(&self) -> bool {
        self.kind.publish == Publishing::InPlace
    }
}

pub(crate) struct PmtilesFile;

impl Target for File<PmtilesFile> {
    type Sink = Pmtiles;
    fn sink(&self) -> Result<Pmtiles, <Pmtiles as Sink>::Error> {
        Pmtiles::create(&self.path("t.pmtiles"), &Stop::new())
    }
    type Editor = Pmtiles;
    fn editor(&self) -> Result<Pmtiles, PmtilesError> {
        self.sink()
    }
    fn bytes(&self) -> Option<Vec<u8>> {
        Some(std::fs::read(self.path("t.pmtiles")).unwrap())
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let path = self.path("t.pmtiles");
        path.exists().then(|| Box::new(PmtilesReader::open(&path).unwrap()) as Box<dyn TileReader>)
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
    type Editor = Memory;
    fn editor(&self) -> Result<Memory, MemoryError> {
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
pub(crate) struct InBucket(pub Prefix, pub TreeOptions);

impl Target for InBucket {
    type Sink = BucketTiles;
    fn sink(&self) -> Result<BucketTiles, <BucketTiles as Sink>::Error> {
        self.0.sink_with(options(&self.0.endpoint), self.1.clone())
    }
    type Editor = BucketTiles;
    fn editor(&self) -> Result<BucketTiles, BucketError> {
        self.sink()
    }
    fn stamps(&self) -> BTreeMap<String, String> {
        self.0.stamps().into_iter().filter(|(name, _)| !name.ends_with(".json")).collect()
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let template = Template::new("{z}/{x}/{y}.pbf").unwrap();
        let (handle, options) = (self.0.runtime.handle().clone(), options(&self.0.endpoint));
        Some(Box::new(BucketReader::open(self.0.location.clone(), options, &template, handle).unwrap()))
    }
    fn is_remote(&self) -> bool {
        true
    }
    fn in_line(&self) -> bool {
        self.1.publish == Publishing::InPlace
    }
}

/// An archive in a bucket.
pub(crate) struct ArchiveInBucket(pub Prefix);

impl ArchiveInBucket {
    fn key(&self) -> ObjectKey {
        format!("{}t.pmtiles", self.0.location).parse().unwrap()
    }
}

impl Target for ArchiveInBucket {
    type Sink = BucketPmtiles;
    fn sink(&self) -> Result<BucketPmtiles, BucketError> {
        let handle = self.0.runtime.handle().clone();
        BucketPmtiles::create(&self.key(), options(&self.0.endpoint), handle, &Stop::new())
    }
    type Editor = BucketPmtiles;
    fn editor(&self) -> Result<BucketPmtiles, BucketError> {
        self.sink()
    }
    fn reader(&self) -> Option<Box<dyn TileReader>> {
        let handle = self.0.runtime.handle().clone();
        let object = BucketObject::open(&self.key(), options(&self.0.endpoint), handle).unwrap();
        Some(Box::new(object.pmtiles().unwrap()))
    }
    fn in_line(&self) -> bool {
        false
    }
    fn bytes(&self) -> Option<Vec<u8>> {
        Some(self.0.objects().remove("t.pmtiles").unwrap())
    }
    fn is_locked(&self) -> bool {
        false
    }
}

/// Tiles under names by a template.
pub(crate) fn tree(template: &str, publish: Publishing) -> TreeOptions {
    TreeOptions {
        section: TargetSection::default(),
        template: Template::new(template).unwrap(),
        publish,
        force: false,
        public_url: None,
    }
}
