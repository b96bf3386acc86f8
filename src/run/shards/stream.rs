//! Hands the edits of all shards to the target, in its order.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use md5::{Digest as _, Md5};

use crate::encode::{Packer, Packing};
use crate::pipeline::{LargestTile, TileSizes};
use crate::report::{Event, Report};
use crate::run::CommandError;
use crate::run::target::AnySink;
use crate::shards::{
    AddingNote, DoneNote, Merged, MergedRecord, RunReader, RunRecord, ShardPlan, ShardsError, WorkFolder,
};
use crate::target::{Sink as _, TileEdit, Written};
use crate::tile::{ColumnRanges, Order, TileCoord, TileId, Zoom};

/// The most edits, and approximately the most bytes, that are handed to the sink at once.
const MAX_EDITS: usize = 1_000;
const MAX_BYTES: usize = 8 << 20;

/// The memory in bytes for reading the runs of all shards, and the least and most for one run.
const READ_MEMORY: usize = 256 << 20;
const MIN_READ: usize = 64 << 10;
const MAX_READ: usize = 4 << 20;

/// What is known about a version that the shards have written, in addition to their runs.
pub(crate) struct SharedTiles {
    /// The attempts that have added tiles, without those that have completed their shards.
    pub(crate) others: Vec<AddingNote>,
    /// The columns of these attempts. There may be tiles that no run names.
    touched: Vec<ColumnRanges>,
    /// The columns of the attempts that have not ended in order. Their requests may still arrive.
    open: Vec<ColumnRanges>,
    /// The columns of shards whose runs do not say with certainty which bytes are stored.
    inexact: Vec<ColumnRanges>,
}

impl SharedTiles {
    /// The facts from the work folder; `None` if the commit alone writes the target.
    pub(crate) fn of(
        work: &WorkFolder,
        plan: &ShardPlan,
        shards: &[DoneNote],
    ) -> Result<Option<SharedTiles>, ShardsError> {
        if plan.shared_version.is_none() {
            return Ok(None);
        }
        // All shards are done. An attempt whose note comes after this list sees that before its first tile.
        let others = work.other_adding(&plan.run, shards)?;
        let columns = |numbers: &mut dyn Iterator<Item = u32>| -> Vec<ColumnRanges> {
            numbers.filter_map(|number| Some(plan.shard(number)?.columns.clone())).collect()
        };
        let touched = columns(&mut others.iter().map(|other| other.shard));
        let open = columns(&mut others.iter().filter(|other| !other.has_ended).map(|other| other.shard));
        let inexact = columns(&mut shards.iter().filter(|shard| !shard.is_exact).map(|shard| shard.shard));
        Ok(Some(SharedTiles { others, touched, open, inexact }))
    }

    /// The edit by which the commit brings a tile into line with its record; `None` if the target is already right.
    fn edit(&self, merged: MergedRecord, empty: &[u8]) -> Option<TileEdit> {
        let lies_in = |all: &[ColumnRanges], id: TileId| all.iter().any(|columns| columns.contains(id.coord));
        let MergedRecord { record, is_repair, replaced } = merged;
        let RunRecord::Edit(edit) = record else { return None };
        let id = edit.id();
        match (&edit, &replaced) {
            (TileEdit::Remove(_) | TileEdit::Keep(_, None), _) if !is_repair => None,
            (TileEdit::Put(_, bytes), Some(RunRecord::Added(added))) if !lies_in(&self.inexact, id) => {
                let is_right = added.length == bytes.len() as u64 && Md5::digest(bytes)[..] == added.digest;
                (!is_right).then_some(edit)
            }
            // A repair, or the bytes of a tile in which a shard could not render a layer.
            (TileEdit::Put(..) | TileEdit::Keep(_, Some(_)), _) => Some(edit),
            // A request of a stopped attempt may still add the tile, unless a tile is there. So an empty one is stored.
            (TileEdit::Remove(_) | TileEdit::Keep(_, None), _) if lies_in(&self.open, id) => {
                Some(TileEdit::Put(id, empty.into()))
            }
            (TileEdit::Remove(_) | TileEdit::Keep(_, None), replaced) => {
                let is_there = matches!(replaced, Some(RunRecord::Added(_))) || lies_in(&self.touched, id);
                is_there.then_some(edit)
            }
        }
    }
}

/// A target with the edits of all shards.
pub(crate) struct Stored {
    pub(crate) sink: AnySink,
    pub(crate) written: Written,
    /// Tiles that were planned: stored, kept or empty.
    pub(crate) tiles: u64,
    pub(crate) zooms: BTreeMap<Zoom, ZoomFigures>,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct ZoomFigures {
    pub(crate) tiles: u64,
    pub(crate) bytes: u64,
    pub(crate) sizes: TileSizes,
    pub(crate) largest: Option<LargestTile>,
}

/// How the edits of shards are handed to the target.
pub(crate) struct StreamOptions {
    pub(crate) order: Order,
    pub(crate) packing: Packing,
    /// What is known about the version that the shards have written; `None` if they have not written one.
    pub(crate) shared: Option<SharedTiles>,
}

/// Consecutive edits for the sink.
struct Piece {
    edits: Vec<TileEdit>,
    /// The zoom of the last edit.
    zoom: Zoom,
    /// The number of records from which the edits come.
    records: usize,
    bytes: usize,
    /// The counts of the records for which the target is already right.
    as_they_are: Written,
}

/// The number of pieces that wait for the sink while others are read.
const PIECES_AHEAD: usize = 2;

#[derive(Default)]
struct ReadFigures {
    tiles: u64,
    zooms: BTreeMap<Zoom, ZoomFigures>,
}

/// Hands the edits of all shards to the sink, in its order. One thread reads, checks and merges the runs; this one
/// writes.
pub(crate) fn stream(
    work: &WorkFolder,
    shards: &[DoneNote],
    repairs: Option<RunReader>,
    options: &StreamOptions,
    mut sink: AnySink,
    report: &Arc<dyn Report>,
) -> Result<Stored, CommandError> {
    let chunk = (READ_MEMORY / shards.len().max(1)).clamp(MIN_READ, MAX_READ);
    let mut runs = Vec::new();
    for shard in shards {
        runs.extend(work.open_run(shard, chunk)?);
    }
    let edits: u64 = shards.iter().map(|shard| shard.edits).sum();
    let (tiles, batches) = (shards.iter().map(|shard| shard.tiles).sum(), shards.len() as u64);
    report.event(&Event::Planned { tiles, features: edits, batches });
    let merged = Merged::new(options.order, repairs, runs)?;
    let (written, read) = std::thread::scope(|scope| {
        let (sender, pieces) = mpsc::sync_channel(PIECES_AHEAD);
        let reading = scope.spawn(move || read_pieces(merged, options, &sender));
        let written = write_pieces(pieces, &mut sink, report);
        (written, reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    // If writing failed, reading has ended early, so the error of writing comes first.
    let ((written, bytes), ReadFigures { tiles, zooms }) = (written?, read?);
    Ok(Stored { sink, written, tiles, zooms, bytes })
}

/// Merges runs into pieces; ends early if the receiver is gone.
fn read_pieces(
    mut merged: Merged,
    options: &StreamOptions,
    pieces: &mpsc::SyncSender<Piece>,
) -> Result<ReadFigures, CommandError> {
    let empty = Packer::new(options.packing).pack(&[])?;
    let (mut figures, mut last) = (ReadFigures::default(), None);
    loop {
        let (mut edits, mut bytes, mut records, mut as_they_are) = (Vec::new(), 0, 0, Written::default());
        while records < MAX_EDITS && bytes < MAX_BYTES {
            let Some(next) = merged.next()? else { break };
            records += 1;
            let tile = next.record.id().coord;
            if last.replace(tile) != Some(tile) {
                figures.tiles += 1;
            }
            match &next.record {
                RunRecord::Edit(TileEdit::Put(_, stored)) => {
                    bytes += stored.len();
                    figures.zooms.entry(tile.zoom()).or_default().add(tile, stored.len() as u64);
                }
                RunRecord::Added(added) => figures.zooms.entry(tile.zoom()).or_default().add(tile, added.length),
                RunRecord::Edit(_) => {}
            }
            match (next, &options.shared) {
                (next, Some(shared)) => {
                    let is_right = as_it_is(&next.record);
                    match shared.edit(next, &empty) {
                        Some(edit) => edits.push(edit),
                        None => as_they_are += is_right,
                    }
                }
                (MergedRecord { record: RunRecord::Edit(edit), .. }, None) => edits.push(edit),
                (MergedRecord { record: RunRecord::Added(added), .. }, None) => {
                    return Err(ShardsError::Order { tile: added.id.to_string() }.into());
                }
            }
        }
        let (Some(zoom), 1..) = (last.map(TileCoord::zoom), records) else { return Ok(figures) };
        if pieces.send(Piece { edits, zoom, records, bytes, as_they_are }).is_err() {
            return Ok(figures);
        }
    }
}

/// Writes pieces as they come; returns their counts and bytes.
fn write_pieces(
    pieces: mpsc::Receiver<Piece>,
    sink: &mut AnySink,
    report: &Arc<dyn Report>,
) -> Result<(Written, u64), CommandError> {
    let (mut written, mut all_bytes) = (Written::default(), 0);
    for Piece { edits, zoom, records, bytes, as_they_are: mut of_piece } in pieces {
        if !edits.is_empty() {
            of_piece += sink.write(edits)?;
        }
        if of_piece.total() != records as u64 {
            let taken = of_piece.total();
            return Err(CommandError::Incomplete(format!(
                "the target took {taken} edits of {records}: please report this"
            )));
        }
        written += of_piece;
        all_bytes += bytes as u64;
        report.event(&Event::Stored { zoom, tiles: records as u64, features: records as u64, bytes: bytes as u64 });
    }
    Ok((written, all_bytes))
}

/// The counts of a record if the version is already as the record says.
fn as_it_is(record: &RunRecord) -> Written {
    match record {
        RunRecord::Added(_) | RunRecord::Edit(TileEdit::Put(..) | TileEdit::Keep(_, Some(_))) => {
            Written { stored: 1, added: 1, ..Written::default() }
        }
        RunRecord::Edit(TileEdit::Remove(_)) => Written { removed: 1, ..Written::default() },
        RunRecord::Edit(TileEdit::Keep(_, None)) => Written { missing: 1, ..Written::default() },
    }
}

impl ZoomFigures {
    fn add(&mut self, tile: TileCoord, bytes: u64) {
        self.tiles += 1;
        self.bytes += bytes;
        self.sizes.add(bytes);
        if self.largest.is_none_or(|largest| bytes > largest.bytes) {
            self.largest = Some(LargestTile { tile, bytes });
        }
    }
}
