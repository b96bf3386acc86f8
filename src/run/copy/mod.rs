//! `oar-tiles copy`: copies the tiles of targets of any kind to another target, byte for byte.
//!
//! ```text
//! sources: list ─► in the sink's order ─► read in chunks ─► (packed if they were plain) ─┐ a few chunks at most
//!                                                                  sink: write ◄────────┘ ─► finish
//! ```
//!
//! | file | what |
//! |---|---|
//! | `sources` | which tiles the sources hold, and the bytes of each for the target |
//! | `since` | a patch that turns an older tileset into a newer one |

mod since;
mod sources;

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use since::since;
use sources::{Repacking, SourceTile, Sources};

use super::dirty_file::DirtyScope;
use super::target::relative_address_warning;
use super::target::{OpenedSink, Target, TilesetNames, refuse_other};
use super::{CommandError, TilesetRun, interrupted};
use crate::manifest::{Manifest, Publication, publication_of};
use crate::report::Report;
use crate::stop::Stop;
use crate::target::{
    ChangedTiles, Described, Metadata, OpenMode, RunKind, Sink, TileEdit, Tileset, Unwritten, VectorLayer, Written,
};
use crate::tile::{AreaPart, Coverage, LonLatBox, Scope, Slice, TileRect, Zoom, ZoomList};

/// The part of its sources that a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopiedPart {
    /// Some zooms or boxes.
    Tiles,
    Layers,
    /// Several sources.
    Joined,
    /// The differences from another target.
    Patch,
}

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
    pub part: Option<CopiedPart>,
    /// Duration of the copy, in seconds.
    pub seconds: f64,
}

#[derive(Debug, Clone)]
pub(crate) struct CopyOptions {
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

/// Copies tiles into the run's target. Fails if the source cannot be read or the target cannot be written; an archive
/// is unchanged then.
pub(crate) async fn copy(tileset_run: &TilesetRun, options: &CopyOptions) -> Result<CopyReport, CommandError> {
    let (owned, options) = (tileset_run.clone(), options.clone());
    // Waits until the copy ends even after a stop was asked for, because the sink has to clean up.
    spawn_blocking(move || run(&owned, &options)).await?.map_err(|error| interrupted(error, &tileset_run.stop))
}

fn run(tileset_run: &TilesetRun, options: &CopyOptions) -> Result<CopyReport, CommandError> {
    if let (Some(old), [new]) = (&options.since, &options.sources[..]) {
        return since(tileset_run, new, old);
    }
    let begun = Instant::now();
    let target = &tileset_run.target;
    let scope =
        Scope { zooms: options.zoom.clone().unwrap_or_else(ZoomList::all), coverage: Coverage::new(&options.bbox) };
    let (sources, described) = opened(target, options, &scope)?;
    let part = part_of(options);
    knows_layers(&described, &sources)?;
    let source = sources.names.join(" + ");
    let fingerprint = fingerprint_of(&described, part);
    let mut metadata = metadata(described, &sources, part.is_some(), &scope);
    let layers: Vec<String> = metadata.vector_layers.iter().map(|layer| layer.id.clone()).collect();
    let mut tileset = Tileset {
        fingerprint,
        layers,
        scope,
        partial: target.partial()?,
        unwritten: Unwritten::Delete,
        run: RunKind::Copy,
        list_changes: tileset_run.changed_out.is_wanted() || !tileset_run.settings.tileset.purges.is_empty(),
        dirty: None,
        before_manifest: Vec::new(),
    };
    let changed_scope = DirtyScope { zooms: tileset.scope.zooms.clone(), bbox: options.bbox.clone() };
    let mut sink = target.sink(OpenMode::Replace)?;
    sink.claim()?;
    let names = TilesetNames { name: metadata.name.clone(), layers: tileset.layers.clone(), may_have_more: false };
    let before = refuse_other(target, &names)?.and_then(|before| publication_of(&before.manifest?));
    let publication = Publication::after(before.as_ref());
    tileset.before_manifest = target.before_manifest(before.as_ref(), &publication, None)?;
    metadata.manifest = published(metadata.manifest, &publication)?;
    let copied = Copying { sources, tileset, metadata, target, report: &*tileset_run.report, stop: &tileset_run.stop }
        .fill(sink)?;
    tileset_run.changed_out.write(copied.changed.as_ref(), &changed_scope);
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

/// Opens the sources, and lists their tiles within `scope`.
fn opened(target: &Target, options: &CopyOptions, scope: &Scope) -> Result<(Sources, Vec<Described>), CommandError> {
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
    Ok((sources, described))
}

/// What the copy holds, if it is not all of one source.
fn part_of(options: &CopyOptions) -> Option<CopiedPart> {
    match options {
        CopyOptions { sources, .. } if sources.len() > 1 => Some(CopiedPart::Joined),
        CopyOptions { layers, .. } if !layers.is_empty() => Some(CopiedPart::Layers),
        CopyOptions { zoom, bbox, .. } if zoom.is_some() || !bbox.is_empty() => Some(CopiedPart::Tiles),
        _ => None,
    }
}

/// The fingerprint of the copy: that of its only source, if the copy has all of its layers.
fn fingerprint_of(described: &[Described], part: Option<CopiedPart>) -> String {
    let manifest = match (described, part) {
        ([one], None | Some(CopiedPart::Tiles)) => one.manifest.as_deref(),
        _ => None,
    };
    let manifest = manifest.and_then(|text| serde_json::from_str::<Manifest>(text).ok());
    manifest.map_or_else(|| "copied".to_owned(), |manifest| manifest.fingerprint)
}

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
        format: first.format,
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

struct Copying<'a> {
    sources: Sources,
    tileset: Tileset,
    metadata: Metadata,
    target: &'a Target,
    report: &'a dyn Report,
    stop: &'a Stop,
}

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
        if let Some(message) = relative_address_warning(&sink, target) {
            report.warn(message);
        }
        if metadata.manifest.is_empty() && before.is_some_and(|before| before.manifest.is_some()) {
            let what = "it has a manifest, which a copy of a part, or of a source without one, would take away. Copy into another target".to_owned();
            return Err(CommandError::Unfit { target: target.to_string(), what });
        }
        sources.sort(needs.order);
        let (read, mut chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
        let (asked, packing) = (stop.clone(), Repacking::new(target.is_packed(), metadata.format));
        let reading = std::thread::spawn(move || sources.hand_on(packing, &asked, &read));
        let (mut written, mut bytes) = (Written::default(), 0);
        while let Some(edits) = chunks.blocking_recv() {
            bytes += edits.iter().map(size).sum::<u64>();
            written += sink.write(edits)?;
        }
        let handed = reading.join().map_err(|_panic| CommandError::Died("the one that reads".to_owned()))??;
        stop.check()?;
        if written.total() != handed {
            let stored = written.total();
            let what = format!("{stored} of {handed} tiles were stored: the copy is not complete. Please report this");
            return Err(CommandError::Incomplete(what));
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
