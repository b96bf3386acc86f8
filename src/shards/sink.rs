//! The output of a shard: its sorted run, and, for a new version of an S3 prefix, the tiles in that version.

use super::ShardsError;
use super::run_file::{AddedTile, FinishedRun, RunSink};
use crate::target::{
    Described, Finished, Metadata, Needs, Sink, TargetError, TileEdit, Tileset, VersionTiles, Written,
};

#[derive(Debug)]
pub(crate) struct ShardSink {
    run: RunSink,
    /// The version to which the shard adds its tiles. Without one, the bytes of the tiles are in the run.
    tiles: Option<VersionTiles>,
}

#[derive(Debug)]
pub(crate) struct FinishedShard {
    pub run: FinishedRun,
    /// True if the target holds, for each tile that was added, the bytes that the run names. Otherwise an earlier
    /// attempt may have added some of these tiles, at its own snapshot.
    pub(crate) is_exact: bool,
}

impl ShardSink {
    pub(crate) const fn new(run: RunSink, tiles: Option<VersionTiles>) -> ShardSink {
        ShardSink { run, tiles }
    }

    /// Waits until every tile is stored, and ends the run. Fails if a tile could not be added, or the run cannot be
    /// written.
    pub(crate) fn end(self) -> Result<FinishedShard, ShardsError> {
        let found = match self.tiles {
            Some(mut tiles) => tiles.settle().map_err(TargetError::from)?,
            None => 0,
        };
        Ok(FinishedShard { run: self.run.end()?, is_exact: found == 0 })
    }
}

impl Sink for ShardSink {
    type Error = ShardsError;

    fn needs(&self) -> Needs {
        self.run.needs()
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, ShardsError> {
        Sink::begin(&mut self.run, tileset)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, ShardsError> {
        let Some(tiles) = &mut self.tiles else { return self.run.write(edits) };
        let mut written = Written::default();
        for edit in edits {
            // A tile in which a layer could not be rendered is left to the commit, because a later attempt may be able
            // to render all of it.
            let TileEdit::Put(id, bytes) = edit else {
                written += self.run.write(vec![edit])?;
                continue;
            };
            let length = bytes.len() as u64;
            let digest = tiles.add(id, bytes).map_err(TargetError::from)?;
            self.run.added(&AddedTile { id, digest, length })?;
            (written.stored, written.added) = (written.stored + 1, written.added + 1);
        }
        Ok(written)
    }

    fn finish(self, _metadata: &Metadata) -> Result<Finished, ShardsError> {
        let place = self.run.place().to_owned();
        self.end().map(|_shard| Finished { place, deleted: 0, in_flight: None, changed: None })
    }
}
