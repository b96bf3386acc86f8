//! `oar-tiles copy --since`: a patch that turns an older tileset into a newer one.

use std::path::Path;
use std::time::Instant;

use super::sources::{Repacking, SourceTile, Sources, lost};
use super::{CopiedPart, CopyReport, metadata};
use crate::run::target::Target;
use crate::run::{CommandError, TilesetRun};
use crate::target::{MbtilesPatch, Metadata, TargetError, TileReader, read_all};
use crate::tile::{Coverage, Order, Scope, Slice, TileId, ZoomList};

/// The number of tiles that are read from each tileset at a time.
const TILES_AT_A_TIME: usize = 500;

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
        tiles.sort_unstable_by_key(sort_key);
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
        let there: Vec<Option<TileId>> = (ids.iter())
            .map(|id| self.tiles.binary_search_by_key(&sort_key(id), sort_key).is_ok().then_some(*id))
            .collect();
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

fn sort_key(id: &TileId) -> impl Ord + use<> {
    const ORDER: Order = MbtilesPatch::ORDER;
    ORDER.sort_key(id.coord)
}

/// Writes the differences between the tileset `old` and the tileset `new` into the run's target.
pub(crate) fn since(tileset_run: &TilesetRun, new: &str, old: &str) -> Result<CopyReport, CommandError> {
    let begun = Instant::now();
    let target = &tileset_run.target;
    let file = patch_file(target)?;
    let [older, newer] = [target.beside(old)?, target.beside(new)?];
    for source in [&older, &newer] {
        if source.url.is(&target.url) {
            return Err(CommandError::SameTarget { target: source.to_string() });
        }
    }
    let (mut older, mut newer) = (ComparedTileset::open(&older)?, ComparedTileset::open(&newer)?);
    let mut ids = [&older.tiles[..], &newer.tiles[..]].concat();
    ids.sort_unstable_by_key(sort_key);
    ids.dedup();
    let mut patch = MbtilesPatch::create(file, &tileset_run.stop).map_err(TargetError::from)?;
    let mut packing = Repacking::new(true, newer.metadata.format);
    let (mut stored, mut removed, mut unchanged, mut bytes) = (0, 0, 0, 0);
    for chunk in ids.chunks(TILES_AT_A_TIME) {
        tileset_run.stop.check()?;
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
