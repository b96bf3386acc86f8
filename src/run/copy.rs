//! `oar-tiles copy`: copies the tiles of targets of any kind to another target, byte for byte.
//!
//! ```text
//! sources: list ─► in the sink's order ─► read in chunks ─► (packed if they were plain) ─┐ a few chunks at most
//!                                                                  sink: write ◄────────┘ ─► finish
//! ```

use std::path::Path;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::dirty_file::DirtyScope;
use super::seed::relative;
use super::target::{OpenedSink, Target, TilesetNames, refuse_other};
use super::{CommandError, Job, interrupted};
use crate::encode::{Gunzip, Level, Packer, Packing, is_gzip};
use crate::manifest::{Publication, publication_of};
use crate::mvt;
use crate::report::{Event, Report};
use crate::stop::Stop;
use crate::target::{
    ChangedTiles, Described, MbtilesPatch, Metadata, OpenMode, RunKind, Scope, Sink, TargetError, TileEdit, TileReader,
    Tileset, Unwritten, VectorLayer, Written, read_all,
};
use crate::tile::{AreaPart, Coverage, LonLatBox, Order, Slice, TileId, TileRect, Zoom, ZoomList};

/// The part of its sources that a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopiedPart {
    /// Some zooms or boxes.
    Tiles,
    /// Some layers.
    Layers,
    /// Several sources.
    Joined,
    /// The differences from another target.
    Patch,
}

/// The result of a copy.
#[derive(Debug, Clone)]
pub struct CopyReport {
    /// The path or URL from which the tiles were read.
    pub source: String,
    /// The path or URL to which they were written.
    pub target: String,
    /// Tiles written.
    pub stored: u64,
    /// Tiles not written, because the target held them with the same bytes.
    pub unchanged: u64,
    /// Tiles deleted from the target, because the source does not hold them.
    pub deleted: u64,
    /// Stored size of all tiles copied, in bytes.
    pub bytes: u64,
    /// What was copied, if it was not all of one source.
    pub part: Option<CopiedPart>,
    /// Duration of the copy, in seconds.
    pub seconds: f64,
}

#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The targets to copy from.
    pub sources: Vec<String>,
    /// Only these layers; all if empty.
    pub layers: Vec<String>,
    /// Only these zooms.
    pub zoom: Option<ZoomList>,
    /// Only the tiles that these boxes touch.
    pub bbox: Vec<AreaPart>,
    /// Only what differs from this target, as a patch.
    pub since: Option<String>,
}

/// The most chunks that wait for the sink. Together with the size of a chunk this bounds the memory.
const MAX_WAITING_CHUNKS: usize = 2;

/// Copies tiles into the job's target.
///
/// # Errors
/// If the source cannot be read or the target cannot be written; an archive is unchanged then.
pub async fn copy(job: &Job, options: &CopyOptions) -> Result<CopyReport, CommandError> {
    let (owned, options) = (job.clone(), options.clone());
    // Waits until the copy ends even after a stop was asked for, because the sink has to clean up.
    spawn_blocking(move || run(&owned, &options)).await?.map_err(|error| interrupted(error, &job.stop))
}

fn run(job: &Job, options: &CopyOptions) -> Result<CopyReport, CommandError> {
    if let (Some(old), [new]) = (&options.since, &options.sources[..]) {
        return since(job, new, old);
    }
    let begun = Instant::now();
    let target = &job.target;
    let scope =
        Scope { zooms: options.zoom.clone().unwrap_or_else(ZoomList::all), coverage: Coverage::new(&options.bbox) };
    let mut sources =
        Sources { readers: Vec::new(), names: Vec::new(), tiles: Vec::new(), layers: options.layers.clone() };
    let mut described = Vec::new();
    for (number, text) in options.sources.iter().enumerate() {
        let source = target.beside(text)?;
        if source.url.is(&target.url) {
            return Err(CommandError::SameTarget { target: source.to_string() });
        }
        let mut reader = source.tileset_reader()?;
        let mut own = reader.describe()?;
        own.name = own.name.filter(|name| !name.is_empty()).or_else(|| Some(source.url.stem()));
        described.push(own);
        let mut tiles = reader.list()?;
        if options.zoom.is_some() || !options.bbox.is_empty() {
            tiles.retain(|id| scope.holds(*id));
        }
        if let Some(apart) = tiles.iter().find(|id| id.slice != Slice::Whole) {
            let what = format!(
                "it keeps the layers of a tile apart (such as tile {apart}), and only whole tiles can be copied. Seed the target instead"
            );
            return Err(CommandError::Unfit { target: source.to_string(), what });
        }
        sources.tiles.extend(tiles.into_iter().map(|id| SourceTile { id, source: number }));
        sources.readers.push(reader);
        sources.names.push(source.to_string());
    }
    let part = match options {
        CopyOptions { sources, .. } if sources.len() > 1 => Some(CopiedPart::Joined),
        CopyOptions { layers, .. } if !layers.is_empty() => Some(CopiedPart::Layers),
        CopyOptions { zoom, bbox, .. } if zoom.is_some() || !bbox.is_empty() => Some(CopiedPart::Tiles),
        _ => None,
    };
    knows_layers(&described, &sources)?;
    let source = sources.names.join(" + ");
    let fingerprint = match (&described[..], part) {
        ([one], None | Some(CopiedPart::Tiles)) => one.manifest.as_deref(),
        _ => None,
    };
    let fingerprint = fingerprint
        .and_then(|text| serde_json::from_str::<crate::manifest::Manifest>(text).ok())
        .map_or_else(|| "copied".to_owned(), |manifest| manifest.fingerprint);
    let mut metadata = metadata(described, &sources, part.is_some(), &scope);
    let layers: Vec<String> = metadata.vector_layers.iter().map(|layer| layer.id.clone()).collect();
    let mut tileset = Tileset {
        fingerprint,
        layers,
        scope,
        partial: target.partial()?,
        unwritten: Unwritten::Delete,
        run: RunKind::Copy,
        list_changes: job.changed_out.is_wanted() || !job.settings.tileset.purges.is_empty(),
        dirty: None,
        before_manifest: Vec::new(),
    };
    let changed_scope = DirtyScope { zooms: tileset.scope.zooms.clone(), bbox: options.bbox.clone() };
    let mut sink = target.sink(OpenMode::Replace)?;
    sink.claim()?;
    let names = TilesetNames { name: metadata.name.clone(), layers: tileset.layers.clone(), may_have_more: false };
    let before = refuse_other(target, &names)?.and_then(|before| publication_of(&before.manifest?));
    let publication = Publication::after(before.as_ref());
    tileset.before_manifest = target.before_manifest(before.as_ref(), &publication)?;
    metadata.manifest = published(metadata.manifest, &publication)?;
    let copied = Copying { sources, tileset, metadata, target, report: &*job.report, stop: &job.stop }.fill(sink)?;
    job.changed_out.write(copied.changed.as_ref(), &changed_scope);
    Ok(CopyReport {
        source,
        target: copied.target,
        stored: copied.written.stored,
        unchanged: copied.written.unchanged,
        deleted: copied.deleted,
        bytes: copied.bytes,
        part,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The manifest of the source with the publication of the copy.
fn published(manifest: String, publication: &Publication) -> Result<String, CommandError> {
    // A manifest of a newer program may have keys that this one does not know.
    let Ok(serde_json::Value::Object(mut parts)) = serde_json::from_str(&manifest) else { return Ok(manifest) };
    let publication = serde_json::to_value(publication).map_err(std::io::Error::from)?;
    parts.insert("publication".to_owned(), publication);
    Ok(serde_json::to_string(&parts).map_err(std::io::Error::from)?)
}

/// The zooms from one level to another.
fn zooms(from: u8, to: u8) -> ZoomList {
    let zoom = |level: u8| Zoom::new(level).unwrap_or(Zoom::MAX);
    ZoomList::range(zoom(from.min(to)), zoom(to))
}

/// Refuses a layer that no source describes.
fn knows_layers(described: &[Described], sources: &Sources) -> Result<(), CommandError> {
    let mut known: Vec<&str> = described.iter().flat_map(|one| &one.vector_layers).map(|layer| &*layer.id).collect();
    known.dedup();
    match sources.layers.iter().find(|wanted| !known.is_empty() && !known.contains(&wanted.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(CommandError::NotThere {
            target: sources.names.join(" + "),
            what: format!("layer \"{unknown}\": it has {}", known.join(", ")),
        }),
    }
}

/// The metadata of the copy: the sources' metadata, and where these have none, what follows from the tiles.
fn metadata(described: Vec<Described>, sources: &Sources, is_part: bool, scope: &Scope) -> Metadata {
    let levels = || sources.tiles.iter().map(|tile| tile.id.coord.zoom());
    let described_zooms = described.iter().try_fold(None::<(u8, u8)>, |all, one| {
        let (from, to) = one.zooms?;
        Some(Some(all.map_or((from, to), |(first, last)| (first.min(from), last.max(to)))))
    });
    let zooms = match described_zooms.flatten() {
        Some((from, to)) if !is_part => zooms(from, to),
        _ => zooms(levels().min().map_or(0, Zoom::get), levels().max().map_or(0, Zoom::get)),
    };
    let bounds = described.iter().try_fold(None::<LonLatBox>, |all, one| {
        let own = one.bounds?;
        Some(Some(all.map_or(own, |all| all.joined(own))))
    });
    let bounds = match bounds.flatten() {
        Some(bounds) if !is_part => bounds,
        Some(bounds) => bounds.common(scope.coverage.bounds()).unwrap_or_else(|| around(&sources.tiles)),
        None => around(&sources.tiles),
    };
    let mut vector_layers: Vec<VectorLayer> = Vec::new();
    let wanted = |layer: &&VectorLayer| sources.layers.is_empty() || sources.layers.contains(&layer.id);
    for layer in described.iter().flat_map(|one| &one.vector_layers).filter(wanted) {
        match vector_layers.iter_mut().find(|known| known.id == layer.id) {
            None => vector_layers.push(layer.clone()),
            Some(known) => {
                known.minzoom = known.minzoom.min(layer.minzoom);
                known.maxzoom = known.maxzoom.max(layer.maxzoom);
                for (name, kind) in &layer.fields {
                    known.fields.entry(name.clone()).or_insert_with(|| kind.clone());
                }
            }
        }
    }
    let first = described.into_iter().next().unwrap_or_default();
    Metadata {
        name: first.name.unwrap_or_default(),
        description: first.description,
        attribution: first.attribution,
        version: first.version,
        zooms,
        bounds,
        center: first.center.filter(|_| !is_part),
        vector_layers,
        // A copy of a part gets no manifest, because the source's manifest speaks for more than the part. Neither does
        // a copy of several sources, because no seed has made what they hold together.
        manifest: first.manifest.filter(|_| !is_part).unwrap_or_default(),
    }
}

/// The box around the tiles of the deepest zoom; the whole world if `tiles` is empty.
fn around(tiles: &[SourceTile]) -> LonLatBox {
    let deepest = tiles.iter().map(|tile| tile.id.coord.zoom()).max();
    let there = tiles.iter().map(|tile| tile.id.coord).filter(|tile| Some(tile.zoom()) == deepest);
    let rect = there.fold(None, |rect: Option<TileRect>, tile| {
        let (zoom, x, y) = (tile.zoom(), tile.x(), tile.y());
        let rect = rect.unwrap_or(TileRect { zoom, x0: x, y0: y, x1: x, y1: y });
        Some(TileRect { zoom, x0: rect.x0.min(x), y0: rect.y0.min(y), x1: rect.x1.max(x), y1: rect.y1.max(y) })
    });
    let Some(rect) = rect else { return Coverage::new(&[]).bounds() };
    rect.into()
}

/// A copy in progress.
struct Copying<'a> {
    sources: Sources,
    tileset: Tileset,
    metadata: Metadata,
    target: &'a Target,
    report: &'a dyn Report,
    stop: &'a Stop,
}

/// A copy that is complete.
struct Copied {
    target: String,
    changed: Option<ChangedTiles>,
    written: Written,
    deleted: u64,
    bytes: u64,
}

impl Copying<'_> {
    fn fill(self, sink: OpenedSink) -> Result<Copied, CommandError> {
        let Copying { mut sources, tileset, metadata, target, report, stop } = self;
        let needs = sink.needs();
        if needs.layers_apart {
            let what = "it keeps the layers of a tile apart, and only whole tiles can be copied".to_owned();
            return Err(CommandError::Unfit { target: target.to_string(), what });
        }
        let (mut sink, before) = sink.begin(&tileset)?;
        if let Some(message) = relative(&sink, target) {
            report.event(&Event::Warning { message });
        }
        if metadata.manifest.is_empty() && before.is_some_and(|before| before.manifest.is_some()) {
            let what = "it has a manifest, which a copy of a part, or of a source without one, would take away. Copy into another target".to_owned();
            return Err(CommandError::Unfit { target: target.to_string(), what });
        }
        sources.sort(needs.order);
        let (read, mut chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
        let (asked, packed) = (stop.clone(), target.is_packed());
        let reading = std::thread::spawn(move || sources.hand_on(packed, &asked, &read));
        let (mut written, mut bytes) = (Written::default(), 0);
        while let Some(edits) = chunks.blocking_recv() {
            bytes += edits.iter().map(size).sum::<u64>();
            written += sink.write(edits)?;
        }
        let handed = reading.join().map_err(|_panic| CommandError::Died("the one that reads".to_owned()))??;
        if let Some(signal) = stop.asked() {
            return Err(CommandError::Interrupted(signal));
        }
        if written.total() != handed {
            return Err(CommandError::MiscountedCopy { stored: written.total(), read: handed });
        }
        let finished = sink.finish(&metadata)?;
        Ok(Copied { target: finished.place, changed: finished.changed, written, deleted: finished.deleted, bytes })
    }
}

fn size(edit: &TileEdit) -> u64 {
    match edit {
        TileEdit::Put(_, bytes) => bytes.len() as u64,
        TileEdit::Remove(_) | TileEdit::Keep(..) => 0,
    }
}

// `oar-tiles copy --since`: a patch that turns an older tileset into a newer one.

/// The number of tiles that are read from each tileset at a time.
const TILES_AT_A_TIME: usize = 500;

/// One of the two tilesets.
struct ComparedTileset {
    name: String,
    reader: Box<dyn TileReader>,
    /// Its tiles, in the order of a patch.
    tiles: Vec<TileId>,
    metadata: Metadata,
}

impl ComparedTileset {
    fn open(target: &Target) -> Result<ComparedTileset, CommandError> {
        let name = target.to_string();
        let mut reader = target.tileset_reader()?;
        let mut described = reader.describe()?;
        described.name = described.name.filter(|name| !name.is_empty()).or_else(|| Some(target.url.stem()));
        let mut tiles = reader.list()?;
        if tiles.iter().any(|id| id.slice != Slice::Whole) {
            let what = "it keeps the layers of a tile apart, and a patch holds whole tiles. Seed it as an archive";
            return Err(CommandError::Unfit { target: name, what: what.to_owned() });
        }
        tiles.sort_unstable_by_key(place);
        let listed = Sources {
            readers: Vec::new(),
            names: vec![name.clone()],
            tiles: tiles.iter().map(|id| SourceTile { id: *id, source: 0 }).collect(),
            layers: Vec::new(),
        };
        let everything = Scope { zooms: ZoomList::all(), coverage: Coverage::new(&[]) };
        let metadata = metadata(vec![described], &listed, false, &everything);
        Ok(ComparedTileset { name, reader, tiles, metadata })
    }

    /// For each of `ids`, the bytes of the tile as an archive stores it; `None` if the tileset does not hold it.
    fn read(&mut self, ids: &[TileId], packing: &mut Repacking) -> Result<Vec<Option<Box<[u8]>>>, CommandError> {
        let there: Vec<Option<TileId>> =
            (ids.iter()).map(|id| self.tiles.binary_search_by_key(&place(id), place).is_ok().then_some(*id)).collect();
        let own: Vec<TileId> = there.iter().flatten().copied().collect();
        let mut read = Vec::with_capacity(own.len());
        read_all(&mut *self.reader, &own, |id, stored| {
            read.push(packing.repacked(*id, stored.ok_or_else(|| lost(*id))?)?);
            Ok::<(), CommandError>(())
        })?;
        let mut read = read.into_iter();
        Ok(there.iter().map(|id| id.and_then(|_| read.next())).collect())
    }
}

fn place(id: &TileId) -> impl Ord + use<> {
    const ORDER: Order = MbtilesPatch::ORDER;
    ORDER.place(id.coord)
}

/// Writes the differences between the tileset `old` and the tileset `new` into the job's target.
pub(crate) fn since(job: &Job, new: &str, old: &str) -> Result<CopyReport, CommandError> {
    let begun = Instant::now();
    let target = &job.target;
    let file = patch_file(target)?;
    let [older, newer] = [target.beside(old)?, target.beside(new)?];
    for source in [&older, &newer] {
        if source.url.is(&target.url) {
            return Err(CommandError::SameTarget { target: source.to_string() });
        }
    }
    let (mut older, mut newer) = (ComparedTileset::open(&older)?, ComparedTileset::open(&newer)?);
    let mut ids = [&older.tiles[..], &newer.tiles[..]].concat();
    ids.sort_unstable_by_key(place);
    ids.dedup();
    let mut patch = MbtilesPatch::create(file, &job.stop).map_err(TargetError::from)?;
    let mut packing = Repacking::new(true);
    let (mut stored, mut removed, mut unchanged, mut bytes) = (0, 0, 0, 0);
    for chunk in ids.chunks(TILES_AT_A_TIME) {
        if let Some(signal) = job.stop.asked() {
            return Err(CommandError::Interrupted(signal));
        }
        let (before, after) = (older.read(chunk, &mut packing)?, newer.read(chunk, &mut packing)?);
        for (id, (before, after)) in chunk.iter().zip(before.into_iter().zip(after)) {
            let size = after.as_ref().map(|bytes| bytes.len() as u64);
            match (patch.add(id.coord, before.as_deref(), after).map_err(TargetError::from)?, size) {
                (false, _) => unchanged += 1,
                (true, None) => removed += 1,
                (true, Some(size)) => (stored, bytes) = (stored + 1, bytes + size),
            }
        }
    }
    let finished = patch.finish(&older.metadata, &newer.metadata).map_err(TargetError::from)?;
    Ok(CopyReport {
        source: format!("{} since {}", newer.name, older.name),
        target: finished.place,
        stored,
        unchanged,
        deleted: removed,
        bytes,
        part: Some(CopiedPart::Patch),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The file of the patch. A patch never replaces an existing tileset, because it would look like a map of a few tiles.
fn patch_file(target: &Target) -> Result<&Path, CommandError> {
    let Some(path) = target.url.mbtiles_file() else {
        let what = "a patch (--since) is an MBTiles file: name one";
        return Err(CommandError::Unfit { target: target.to_string(), what: what.to_owned() });
    };
    if path.symlink_metadata().is_ok() && !target.options.forces() {
        let what = "it is there already, and a patch (--since) is a file of its own. Choose another name, or remove it";
        return Err(CommandError::Unfit { target: target.to_string(), what: what.to_owned() });
    }
    Ok(path)
}

// The sources of a copy: which tiles they hold, and the bytes of each tile for the target.

/// The most tiles that are handed to the sink at a time.
const MAX_TILES_PER_CHUNK: usize = 500;

/// The most tiles that are in memory at a time when tiles are assembled from layers.
const MAX_ASSEMBLED_TILES: usize = 50;

/// The most bytes of tiles that are handed to the sink at a time, unless one tile alone has more.
const MAX_BYTES_PER_CHUNK: usize = 8 << 20;

#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceTile {
    pub(crate) id: TileId,
    /// The number of the source.
    pub(crate) source: usize,
}

/// The sources, and what is copied from them.
pub(crate) struct Sources {
    pub(crate) readers: Vec<Box<dyn TileReader>>,
    pub(crate) names: Vec<String>,
    pub(crate) tiles: Vec<SourceTile>,
    /// The layers that are copied; all if empty.
    pub(crate) layers: Vec<String>,
}

impl Sources {
    /// Sorts the tiles, unless the readers have already listed them in this order.
    pub(crate) fn sort(&mut self, order: Order) {
        let place = |tile: &SourceTile| (order.place(tile.id.coord), tile.source);
        if !self.tiles.is_sorted_by_key(place) {
            self.tiles.sort_by_cached_key(place);
        }
    }

    /// True if tiles are copied as they are stored.
    fn is_plain(&self) -> bool {
        self.layers.is_empty() && self.readers.len() == 1
    }

    /// Reads chunk after chunk until all are read, a stop is asked for, or the receiver is gone. Returns the number of
    /// tiles that were handed on.
    pub(crate) fn hand_on(
        mut self,
        packed: bool,
        stop: &Stop,
        chunks: &mpsc::Sender<Vec<TileEdit>>,
    ) -> Result<u64, CommandError> {
        let mut hands = Hands { packing: Repacking::new(packed), edits: Vec::new(), bytes: 0, handed: 0, chunks };
        let tiles = std::mem::take(&mut self.tiles);
        let most = if self.is_plain() { MAX_TILES_PER_CHUNK } else { MAX_ASSEMBLED_TILES };
        let mut rest = &tiles[..];
        while !rest.is_empty() {
            if let Some(signal) = stop.asked() {
                return Err(CommandError::Interrupted(signal));
            }
            let mut end = most.min(rest.len());
            while end < rest.len() && rest[end].id == rest[end - 1].id {
                end += 1;
            }
            let (chunk, later) = rest.split_at(end);
            if self.is_plain() {
                self.read_plain(chunk, &mut hands)?;
            } else {
                self.read_assembled(chunk, &mut hands)?;
            }
            if !hands.flush() {
                // The sink has failed, and its error is the cause.
                break;
            }
            rest = later;
        }
        Ok(hands.handed)
    }

    fn read_plain(&mut self, chunk: &[SourceTile], hands: &mut Hands<'_>) -> Result<(), CommandError> {
        let ids: Vec<TileId> = chunk.iter().map(|tile| tile.id).collect();
        read_all(&mut *self.readers[0], &ids, |id, stored| hands.add(*id, stored.ok_or_else(|| lost(*id))?))
    }

    /// Reads each tile from all sources that have it, and assembles its layers.
    fn read_assembled(&mut self, chunk: &[SourceTile], hands: &mut Hands<'_>) -> Result<(), CommandError> {
        let mut found: Vec<Option<Box<[u8]>>> = vec![None; chunk.len()];
        for (source, reader) in self.readers.iter_mut().enumerate() {
            let own: Vec<usize> = (0..chunk.len()).filter(|number| chunk[*number].source == source).collect();
            let ids: Vec<TileId> = own.iter().map(|number| chunk[*number].id).collect();
            let mut numbers = own.iter();
            read_all(&mut **reader, &ids, |id, stored| {
                if let Some(number) = numbers.next() {
                    found[*number] = Some(stored.ok_or_else(|| lost(*id))?);
                }
                Ok::<(), CommandError>(())
            })?;
        }
        let mut number = 0;
        for of_tile in chunk.chunk_by(|one, other| one.id == other.id) {
            let id = of_tile[0].id;
            let mut parts = Vec::with_capacity(of_tile.len());
            for tile in of_tile {
                let stored = found[number].take().ok_or_else(|| lost(id))?;
                number += 1;
                parts.push((tile.source, stored));
            }
            if let ([(_, stored)], true) = (&mut parts[..], self.layers.is_empty()) {
                hands.add(id, std::mem::take(stored))?;
                continue;
            }
            let tile = self.assembled(id, &parts, &mut hands.packing)?;
            if !tile.is_empty() {
                hands.add(id, tile.into_boxed_slice())?;
            }
        }
        Ok(())
    }

    /// The wanted layers of a tile, source by source.
    fn assembled(
        &self,
        id: TileId,
        parts: &[(usize, Box<[u8]>)],
        packing: &mut Repacking,
    ) -> Result<Vec<u8>, CommandError> {
        let (mut tile, mut there): (Vec<u8>, Vec<(String, usize)>) = (Vec::new(), Vec::new());
        for (source, stored) in parts {
            let raw = packing.unpacked(id, stored)?;
            let broken = || CommandError::Unfit {
                target: self.names[*source].clone(),
                what: format!("tile {id} cannot be decoded. Seed it again; verify names all such tiles"),
            };
            for (name, layer) in mvt::split(&raw).ok_or_else(broken)? {
                if !self.layers.is_empty() && !self.layers.iter().any(|wanted| wanted == name) {
                    continue;
                }
                if let Some((_, other)) = there.iter().find(|(other, from)| other == name && from != source) {
                    return Err(CommandError::Unfit {
                        target: self.names[*source].clone(),
                        what: format!(
                            "tile {id} has the layer \"{name}\", and so has that tile of {}: a layer of a tile can come from one source only. Choose zooms, boxes or layers, so that they share none",
                            self.names[*other]
                        ),
                    });
                }
                there.push((name.to_owned(), *source));
                mvt::put_layer(&mut tile, layer);
            }
        }
        Ok(tile)
    }
}

pub(crate) fn lost(id: TileId) -> CommandError {
    CommandError::Vanished { tile: id, changed: "the source changed" }
}

/// Compresses or decompresses tiles as the target stores them.
pub(crate) struct Repacking {
    packed: bool,
    unpacker: Gunzip,
    packer: Packer,
}

impl Repacking {
    pub(crate) fn new(packed: bool) -> Repacking {
        // Level 6 is gzip's default. A copy compresses only tiles that another program stored uncompressed, or that are
        // assembled.
        let gzip = Level::new(6).map_or(Packing::Plain, Packing::Gzip);
        Repacking { packed, unpacker: Gunzip::new(), packer: Packer::new(gzip) }
    }

    fn unpacked(&mut self, id: TileId, stored: &[u8]) -> Result<Vec<u8>, CommandError> {
        if !is_gzip(stored) {
            return Ok(stored.to_vec());
        }
        self.unpacker.unpack(stored).map_err(|cause| CommandError::Decode { tile: id, cause })
    }

    pub(crate) fn repacked(&mut self, id: TileId, stored: Box<[u8]>) -> Result<Box<[u8]>, CommandError> {
        match (self.packed, is_gzip(&stored)) {
            (true, false) => Ok(self.packer.pack(&stored)?),
            (false, true) => Ok(self.unpacked(id, &stored)?.into_boxed_slice()),
            _ => Ok(stored),
        }
    }
}

/// Hands tiles on to the sink.
struct Hands<'a> {
    packing: Repacking,
    edits: Vec<TileEdit>,
    bytes: usize,
    handed: u64,
    chunks: &'a mpsc::Sender<Vec<TileEdit>>,
}

impl Hands<'_> {
    fn add(&mut self, id: TileId, stored: Box<[u8]>) -> Result<(), CommandError> {
        let bytes = self.packing.repacked(id, stored)?;
        self.bytes += bytes.len();
        self.edits.push(TileEdit::Put(id, bytes));
        self.handed += 1;
        if self.bytes >= MAX_BYTES_PER_CHUNK {
            self.flush();
        }
        Ok(())
    }

    /// False if the sink is gone.
    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.chunks.blocking_send(std::mem::take(&mut self.edits)).is_ok()
    }
}
