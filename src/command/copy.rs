//! `oar-tiles copy`: from any target into any target, the tiles byte for byte.
//!
//! ```text
//! reader: list ─► in the sink's order ─► read in chunks ─► (packed if they were plain) ─┐ a few chunks at most
//!                                                                  sink: write ◄────────┘ ─► finish
//! ```

use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::sync::mpsc;

use super::owner::refuse_other;
use super::reseed::touched;
use super::target::{Place, Reach};
use super::{CommandError, interrupted, seed};
use crate::config::{Settings, TilesetSettings};
use crate::encode::{Gunzip, Level, Packer, Packing, is_gzip};
use crate::report::{grouped, print, say, sized, timed};
use crate::sink::{
    ChangedTiles, Described, Metadata, OpenMode, RunKind, Scope, Sink, TargetError, TileEdit, TileReader, Tileset,
    Unwritten, Written, read_all,
};
use crate::stop::Stop;
use crate::tile::{Coverage, LonLatBox, Order, Slice, TileId, TileRect, Zoom, ZoomList};

/// What `copy` was asked for.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Where the tiles are.
    pub source: String,
    /// Where they go.
    pub target: String,
    /// Only these zooms.
    pub zoom: Option<ZoomList>,
    /// Only the tiles that these boxes touch.
    pub bbox: Vec<LonLatBox>,
    /// Write over another tileset, or what other programs made.
    pub force: bool,
    /// Where to write the tiles that changed.
    pub changed_out: Option<PathBuf>,
}

/// Tiles handed to the sink at a time, their bytes, and chunks that wait for the sink at most: the bound on memory.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
const WAITING: usize = 2;

/// Runs `copy`.
///
/// # Errors
/// If the source cannot be read or the target cannot be written; an archive is unchanged then.
pub async fn copy(options: &CopyOptions, settings: &Settings, stop: &Stop) -> Result<(), CommandError> {
    let (given, asked, settings_of_run) = (options.clone(), stop.clone(), settings.clone());
    let reach = Reach::new(settings, options.force, stop);
    // Not given up at a stop: the sink has to clean up.
    let copying = tokio::task::spawn_blocking(move || run(&given, &settings_of_run, &reach, &asked));
    copying
        .await
        .unwrap_or_else(|error| Err(CommandError::Died(error.to_string())))
        .map_err(|error| interrupted(error, stop))
}

fn run(options: &CopyOptions, settings: &Settings, reach: &Reach, stop: &Stop) -> Result<(), CommandError> {
    let begun = Instant::now();
    let (source, target) = (Place::parse(&options.source)?, Place::parse(&options.target)?);
    if source.is(&target) {
        return Err(CommandError::SameTarget { place: source.to_string() });
    }
    let mut reader = reach.reader(&source)?;
    let described = reader.describe()?;
    let part = options.zoom.is_some() || !options.bbox.is_empty();
    let scope =
        Scope { zooms: options.zoom.clone().unwrap_or_else(ZoomList::all), coverage: Coverage::new(&options.bbox) };
    let mut tiles = reader.list()?;
    if part {
        tiles.retain(|id| scope.holds(*id));
    }
    if let Some(apart) = tiles.iter().find(|id| id.slice != Slice::Whole) {
        let what = format!(
            "it keeps the layers of a tile apart (such as tile {apart}), and only whole tiles can be copied. Seed the target instead"
        );
        return Err(CommandError::Unfit { place: source.to_string(), what });
    }
    let fingerprint = described
        .manifest
        .as_deref()
        .and_then(|text| serde_json::from_str::<crate::manifest::Manifest>(text).ok())
        .map_or_else(|| "copied".to_owned(), |manifest| manifest.fingerprint);
    let metadata = metadata(described, &source, &tiles, part, &scope);
    let layers: Vec<String> = metadata.vector_layers.iter().map(|layer| layer.id.clone()).collect();
    let tileset = Tileset {
        fingerprint,
        layers,
        scope,
        unwritten: Unwritten::Delete,
        run: RunKind::Copy,
        list_changes: options.changed_out.is_some(),
    };
    let mut sink = reach.sink(&target, OpenMode::Replace)?;
    sink.claim()?;
    refuse_other((&target, reach), &metadata.name, &tileset.layers)?;
    let packed = reach.packed(&target);
    touched::can_write_changed(options.changed_out.as_deref(), Path::new(&options.target))?;
    let tileset_of_file = TilesetSettings {
        name: metadata.name.clone(),
        zooms: tileset.scope.zooms.clone(),
        bbox: options.bbox.clone(),
        output: options.target.clone().into(),
        ..settings.tileset.clone()
    };
    let copied = Copying { reader, tiles, tileset, metadata, packed, target: &target, stop }.fill(sink)?;
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for the eye"
    )]
    let rate = grouped((copied.written.total() as f64 / seconds.max(1e-3)) as u64);
    let Copied { place, written, deleted, bytes, changed } = copied;
    touched::write_changed(options.changed_out.as_deref(), changed.as_ref(), &tileset_of_file)?;
    let mut kept = String::new();
    for (count, what) in [(written.unchanged, "unchanged"), (deleted, "deleted")] {
        if count > 0 {
            kept.push_str(&format!(", {} {what}", grouped(count)));
        }
    }
    if part {
        kept.push_str(", a part without manifest");
    }
    let (stored, bytes, time) = (grouped(written.stored), sized(bytes), timed(seconds));
    print(&format!("{stored} tiles stored{kept}: {bytes} in {time} ({rate} tiles/s): {source} → {place}\n"))?;
    Ok(())
}

/// The zooms between two levels, as far as there are tiles.
fn zooms(from: u8, to: u8) -> ZoomList {
    let zoom = |level: u8| Zoom::new(level).unwrap_or(Zoom::MAX);
    ZoomList::range(zoom(from.min(to)), zoom(to))
}

/// What the target says about itself: what the source says, and what can be seen where it says nothing.
fn metadata(described: Described, source: &Place, tiles: &[TileId], part: bool, scope: &Scope) -> Metadata {
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
        name: described.name.filter(|name| !name.is_empty()).unwrap_or_else(|| source.stem()),
        description: described.description,
        attribution: described.attribution,
        version: described.version,
        zooms,
        bounds,
        vector_layers: described.vector_layers,
        // A part does not show what the manifest says, so it is without one.
        manifest: described.manifest.filter(|_| !part).unwrap_or_default(),
    }
}

/// The box around the tiles of the deepest zoom; the world if there is none.
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

/// A copy on its way into a sink.
struct Copying<'a> {
    reader: Box<dyn TileReader>,
    tiles: Vec<TileId>,
    tileset: Tileset,
    metadata: Metadata,
    /// Whether the target stores gzip.
    packed: bool,
    target: &'a Place,
    stop: &'a Stop,
}

/// A copy that was made.
struct Copied {
    place: String,
    written: Written,
    deleted: u64,
    bytes: u64,
    changed: Option<ChangedTiles>,
}

impl Copying<'_> {
    fn fill(self, mut sink: impl Sink<Error = TargetError>) -> Result<Copied, CommandError> {
        let Copying { reader, mut tiles, tileset, metadata, packed, target, stop } = self;
        let needs = sink.needs();
        if needs.layers_apart {
            let what = "it keeps the layers of a tile apart, and only whole tiles can be copied".to_owned();
            return Err(CommandError::Unfit { place: target.to_string(), what });
        }
        let before = sink.begin(&tileset)?;
        if let Some(warning) = seed::relative(&sink, target) {
            say(&format!("warning: {warning}"));
        }
        if metadata.manifest.is_empty() && before.is_some_and(|before| before.manifest.is_some()) {
            let what = "it has a manifest, which a copy of a part, or of a source without one, would take away. Copy into another target".to_owned();
            return Err(CommandError::Unfit { place: target.to_string(), what });
        }
        in_order(&mut tiles, needs.order);
        let handed = tiles.len() as u64;
        let (read, mut chunks) = mpsc::channel(WAITING);
        let asked = stop.clone();
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
        Ok(Copied { place: finished.place, written, deleted: finished.deleted, bytes, changed: finished.changed })
    }
}

fn size(edit: &TileEdit) -> u64 {
    match edit {
        TileEdit::Put(_, bytes) => bytes.len() as u64,
        TileEdit::Remove(_) | TileEdit::Keep(..) => 0,
    }
}

/// Puts tiles in an order. A reader often has them in it already.
fn in_order(tiles: &mut [TileId], order: Order) {
    let place = |id: &TileId| order.place(id.coord);
    if !tiles.is_sorted_by_key(place) {
        tiles.sort_by_cached_key(place);
    }
}

/// Reads chunk after chunk until all are read, a stop is asked for, or nobody takes them any more.
fn read_chunks(
    mut reader: Box<dyn TileReader>,
    tiles: &[TileId],
    packed: bool,
    stop: &Stop,
    chunks: &mpsc::Sender<Vec<TileEdit>>,
) -> Result<(), CommandError> {
    // Level 6, gzip's own default: a copy packs only what another program left plain.
    let mut unpacker = Gunzip::new();
    let mut gzip = Packer::new(Level::new(6).map_or(Packing::Plain, Packing::Gzip));
    for chunk in tiles.chunks(CHUNK) {
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
            if bytes_in_edits >= CHUNK_BYTES {
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
