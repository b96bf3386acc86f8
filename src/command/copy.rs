//! `oar-tiles copy`: copies the tiles of a target of any kind to another, byte for byte.
//!
//! ```text
//! reader: list ─► in the sink's order ─► read in chunks ─► (packed if they were plain) ─┐ a few chunks at most
//!                                                                  sink: write ◄────────┘ ─► finish
//! ```

use std::time::Instant;

use tokio::sync::mpsc;

use crate::encode::{Gunzip, Level, Packer, Packing, is_gzip};
use crate::manifest::Publication;
use crate::report::{CopyReport, Event, Report};
use crate::run::look::dirty_file::{DirtyScope, write_changed};
use crate::run::seed::relative;
use crate::run::target::{Target, TilesetNames, refuse_other};
use crate::run::{CommandError, Job, interrupted};
use crate::sink::{
    ChangedTiles, Described, Metadata, OpenMode, RunKind, Scope, Sink, TargetError, TileEdit, TileReader, Tileset,
    Unwritten, Written, read_all,
};
use crate::stop::Stop;
use crate::tile::{Coverage, LonLatBox, Order, Slice, TileId, TileRect, Zoom, ZoomList};

/// What `copy` was asked for.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The target to copy from.
    pub source: String,
    /// Only these zooms.
    pub zoom: Option<ZoomList>,
    /// Only the tiles that these boxes touch.
    pub bbox: Vec<LonLatBox>,
}

/// The most tiles that are handed to the sink at a time.
const MAX_TILES_PER_CHUNK: usize = 500;

/// The most bytes of tiles that are handed to the sink at a time, unless one tile alone has more.
const MAX_BYTES_PER_CHUNK: usize = 8 << 20;

/// The most chunks that wait for the sink: with the bytes of a chunk the bound on memory.
const MAX_WAITING_CHUNKS: usize = 2;

/// Copies tiles into the job's target.
///
/// # Errors
/// If the source cannot be read or the target cannot be written; an archive is unchanged then.
pub async fn copy(job: &Job, options: &CopyOptions) -> Result<CopyReport, CommandError> {
    let (owned, options) = (job.clone(), options.clone());
    // Waits for the end even after a stop was asked for: the sink has to clean up.
    let copying = tokio::task::spawn_blocking(move || run(&owned, &options));
    copying
        .await
        .unwrap_or_else(|error| Err(CommandError::Died(error.to_string())))
        .map_err(|error| interrupted(error, &job.stop))
}

fn run(job: &Job, options: &CopyOptions) -> Result<CopyReport, CommandError> {
    let begun = Instant::now();
    let target = &job.target;
    let source = target.beside(&options.source)?;
    if source.url.is(&target.url) {
        return Err(CommandError::SameTarget { target: source.to_string() });
    }
    let mut reader = source.reader()?;
    let described = reader.describe()?;
    let is_part = options.zoom.is_some() || !options.bbox.is_empty();
    let scope =
        Scope { zooms: options.zoom.clone().unwrap_or_else(ZoomList::all), coverage: Coverage::new(&options.bbox) };
    let mut tiles = reader.list()?;
    if is_part {
        tiles.retain(|id| scope.holds(*id));
    }
    if let Some(apart) = tiles.iter().find(|id| id.slice != Slice::Whole) {
        let what = format!(
            "it keeps the layers of a tile apart (such as tile {apart}), and only whole tiles can be copied. Seed the target instead"
        );
        return Err(CommandError::Unfit { target: source.to_string(), what });
    }
    let fingerprint = described
        .manifest
        .as_deref()
        .and_then(|text| serde_json::from_str::<crate::manifest::Manifest>(text).ok())
        .map_or_else(|| "copied".to_owned(), |manifest| manifest.fingerprint);
    let mut metadata = metadata(described, &source, &tiles, is_part, &scope);
    let layers: Vec<String> = metadata.vector_layers.iter().map(|layer| layer.id.clone()).collect();
    let mut tileset = Tileset {
        fingerprint,
        layers,
        scope,
        partial: target.partial()?,
        unwritten: Unwritten::Delete,
        run: RunKind::Copy,
        list_changes: job.changed_out.is_some() || !job.settings.tileset.purges.is_empty(),
        dirty: None,
        before_manifest: Vec::new(),
    };
    let changed_scope = DirtyScope { zooms: tileset.scope.zooms.clone(), bbox: options.bbox.clone() };
    let mut sink = target.sink(OpenMode::Replace)?;
    sink.claim()?;
    let names = TilesetNames { name: metadata.name.clone(), layers: tileset.layers.clone(), may_have_more: false };
    let before = refuse_other(target, &names)?;
    let publication = Publication::after(before.as_ref());
    tileset.before_manifest = target.before_manifest(before.as_ref(), &publication)?;
    metadata.manifest = published(metadata.manifest, &publication)?;
    let copied =
        Copying { reader, tiles, tileset, metadata, target, report: &*job.report, stop: &job.stop }.fill(sink)?;
    write_changed(job.changed_out.as_deref(), copied.changed.as_ref(), &changed_scope)?;
    Ok(CopyReport {
        source: source.to_string(),
        target: copied.target,
        stored: copied.written.stored,
        unchanged: copied.written.unchanged,
        deleted: copied.deleted,
        bytes: copied.bytes,
        is_part,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The manifest of the source with the publication of the copy.
fn published(manifest: String, publication: &Publication) -> Result<String, CommandError> {
    // A manifest of a newer program may have more in it than this one knows.
    let Ok(serde_json::Value::Object(mut parts)) = serde_json::from_str(&manifest) else { return Ok(manifest) };
    let publication = serde_json::to_value(publication).map_err(std::io::Error::from)?;
    parts.insert("publication".to_owned(), publication);
    Ok(serde_json::to_string(&parts).map_err(std::io::Error::from)?)
}

/// The zooms between two levels that have tiles.
fn zooms(from: u8, to: u8) -> ZoomList {
    let zoom = |level: u8| Zoom::new(level).unwrap_or(Zoom::MAX);
    ZoomList::range(zoom(from.min(to)), zoom(to))
}

/// The metadata of the copy: that of the source, and where it has none, what the tiles show.
fn metadata(described: Described, source: &Target, tiles: &[TileId], part: bool, scope: &Scope) -> Metadata {
    let levels = || tiles.iter().map(|id| id.coord.zoom());
    let zooms = match described.zooms {
        Some((from, to)) if !part => zooms(from, to),
        _ => zooms(levels().min().map_or(0, Zoom::get), levels().max().map_or(0, Zoom::get)),
    };
    let bounds = match described.bounds {
        Some(bounds) if !part => bounds,
        Some(bounds) => bounds.common(scope.coverage.bounds()).unwrap_or_else(|| around(tiles)),
        None => around(tiles),
    };
    Metadata {
        name: described.name.filter(|name| !name.is_empty()).unwrap_or_else(|| source.url.stem()),
        description: described.description,
        attribution: described.attribution,
        version: described.version,
        zooms,
        bounds,
        center: described.center.filter(|_| !part),
        vector_layers: described.vector_layers,
        // A copy of a part gets no manifest: the source's manifest speaks for more than the part.
        manifest: described.manifest.filter(|_| !part).unwrap_or_default(),
    }
}

/// The box around the tiles of the deepest zoom; the whole world if `tiles` is empty.
fn around(tiles: &[TileId]) -> LonLatBox {
    let deepest = tiles.iter().map(|id| id.coord.zoom()).max();
    let there = tiles.iter().map(|id| id.coord).filter(|tile| Some(tile.zoom()) == deepest);
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
    reader: Box<dyn TileReader>,
    tiles: Vec<TileId>,
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
    fn fill(self, mut sink: impl Sink<Error = TargetError>) -> Result<Copied, CommandError> {
        let Copying { reader, mut tiles, tileset, metadata, target, report, stop } = self;
        let needs = sink.needs();
        if needs.layers_apart {
            let what = "it keeps the layers of a tile apart, and only whole tiles can be copied".to_owned();
            return Err(CommandError::Unfit { target: target.to_string(), what });
        }
        let before = sink.begin(&tileset)?;
        if let Some(message) = relative(&sink, target) {
            report.event(&Event::Warning { message });
        }
        if metadata.manifest.is_empty() && before.is_some_and(|before| before.manifest.is_some()) {
            let what = "it has a manifest, which a copy of a part, or of a source without one, would take away. Copy into another target".to_owned();
            return Err(CommandError::Unfit { target: target.to_string(), what });
        }
        in_order(&mut tiles, needs.order);
        let handed = tiles.len() as u64;
        let (read, mut chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
        let (asked, packed) = (stop.clone(), target.is_packed());
        let reading = std::thread::spawn(move || read_chunks(reader, &tiles, packed, &asked, &read));
        let (mut written, mut bytes) = (Written::default(), 0);
        while let Some(edits) = chunks.blocking_recv() {
            bytes += edits.iter().map(size).sum::<u64>();
            written += sink.write(edits)?;
        }
        reading.join().map_err(|_panic| CommandError::Died("the one that reads".to_owned()))??;
        if let Some(signal) = stop.asked() {
            return Err(CommandError::Interrupted(signal));
        }
        if written.total() != handed {
            return Err(CommandError::Pipeline(format!(
                "{} of {handed} tiles were stored: the copy is not complete. Please report this",
                written.total()
            )));
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

/// Sorts tiles, unless the reader has listed them in this order already.
fn in_order(tiles: &mut [TileId], order: Order) {
    let place = |id: &TileId| order.place(id.coord);
    if !tiles.is_sorted_by_key(place) {
        tiles.sort_by_cached_key(place);
    }
}

/// Reads chunk after chunk until all are read, a stop is asked for, or the receiver is gone.
fn read_chunks(
    mut reader: Box<dyn TileReader>,
    tiles: &[TileId],
    packed: bool,
    stop: &Stop,
    chunks: &mpsc::Sender<Vec<TileEdit>>,
) -> Result<(), CommandError> {
    // Level 6, gzip's default: a copy packs only tiles that another program stored unpacked.
    let mut unpacker = Gunzip::new();
    let mut gzip = Packer::new(Level::new(6).map_or(Packing::Plain, Packing::Gzip));
    for chunk in tiles.chunks(MAX_TILES_PER_CHUNK) {
        if let Some(signal) = stop.asked() {
            return Err(CommandError::Interrupted(signal));
        }
        let (mut edits, mut bytes_in_edits, mut is_taken) = (Vec::new(), 0, true);
        read_all(&mut *reader, chunk, |id, stored| {
            let stored = stored.ok_or_else(|| {
                CommandError::Pipeline(format!("tile {id} is listed, but it cannot be found: has the source changed?"))
            })?;
            let repacked = match (packed, is_gzip(&stored)) {
                (true, false) => Some(gzip.pack(&stored).map_err(|error| CommandError::Pipeline(error.to_string()))?),
                (false, true) => Some(
                    unpacker
                        .unpack(&stored)
                        .map_err(|error| CommandError::Pipeline(format!("tile {id}: {error}")))?
                        .into_boxed_slice(),
                ),
                _ => None,
            };
            let bytes = repacked.unwrap_or(stored);
            bytes_in_edits += bytes.len();
            edits.push(TileEdit::Put(*id, bytes));
            if bytes_in_edits >= MAX_BYTES_PER_CHUNK {
                bytes_in_edits = 0;
                is_taken &= chunks.blocking_send(std::mem::take(&mut edits)).is_ok();
            }
            Ok::<(), CommandError>(())
        })?;
        if !is_taken || chunks.blocking_send(edits).is_err() {
            // The sink has failed: its error is the cause.
            return Ok(());
        }
    }
    Ok(())
}
