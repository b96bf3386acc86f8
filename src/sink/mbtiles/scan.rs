//! How tiles are read from an archive: all of them in one ordered scan, or single ones by an index.

use super::read::{POINT, bytes};
use super::{MbtilesReader, ORDER};
use crate::sink::ReadError;
use crate::sink::compare::Handover;

/// Selects all tiles in the order over which `agg_tiles_hash` is computed.
pub(super) const IN_ORDER: &str =
    "SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles ORDER BY zoom_level, tile_column, tile_row";

/// The most tiles that an archive without an index on the tile's address may have if single tiles are read from it. Each read scans all
/// rows: reading 2,000 tiles scans 4 million rows and takes a few seconds; a million tiles would take weeks.
const MAX_UNINDEXED_TILES: u32 = 2_000;

impl MbtilesReader {
    /// Fails if the archive has more than [`MAX_UNINDEXED_TILES`] tiles and no index that finds a tile by its address.
    pub(super) fn refuse_unindexed(&self) -> Result<(), ReadError> {
        let failed = |error| self.failed(error);
        if self.finds_by_index().map_err(failed)? {
            return Ok(());
        }
        self.guard.begin();
        let count = format!("SELECT count(*) FROM (SELECT 1 FROM tiles LIMIT {MAX_UNINDEXED_TILES} + 1)");
        let count: u32 = self.connection.query_row(&count, [], |row| row.get(0)).map_err(failed)?;
        if count > MAX_UNINDEXED_TILES {
            return Err(ReadError::Unindexed { path: self.path.clone() });
        }
        Ok(())
    }

    /// True if `SQLite` finds a tile by an index that covers at least two of the three parts of its address (the query plan shows each part
    /// as `column=?`). An automatic index does not count, because `SQLite` builds it again for each query.
    fn finds_by_index(&self) -> rusqlite::Result<bool> {
        self.guard.begin();
        let mut plan = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {POINT}"))?;
        let plan = plan.query_map((0, 0, 0), |row| row.get::<_, String>(3))?.collect::<rusqlite::Result<Vec<_>>>()?;
        let takes_all = |step: &String| step.starts_with("SCAN") || step.contains("AUTOMATIC");
        Ok(!plan.iter().any(takes_all) && plan.iter().any(|step| step.matches("=?").count() >= 2))
    }

    /// True if `SQLite` reads the tiles in order from an index. Otherwise it would sort them in a temporary copy of all their bytes, and an
    /// image that many tiles share would be copied once for each of them.
    pub(super) fn is_in_order(&self) -> rusqlite::Result<bool> {
        self.guard.begin();
        let mut plan = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {IN_ORDER}"))?;
        let plan: Vec<String> = plan.query_map([], |row| row.get(3))?.collect::<rusqlite::Result<_>>()?;
        Ok(!plan.iter().any(|step| step.contains("TEMP B-TREE")))
    }

    /// Passes the tiles in order to `handover` until there are no more, or `handover` wants no more.
    pub(super) fn hand_over(&self, handover: &mut Handover) -> Result<(), ReadError> {
        let failed = |error| self.failed(error);
        if !self.is_in_order().map_err(failed)? {
            return Err(self.damaged("its tiles have no index on zoom_level, tile_column, tile_row".to_owned()));
        }
        self.guard.begin();
        let mut tiles = self.connection.prepare(IN_ORDER).map_err(failed)?;
        let mut rows = tiles.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let number = |column| row.get::<_, i64>(column).map_err(failed);
            let tile = self.coord(number(0)?, number(1)?, number(2)?)?;
            let Some(bytes) = bytes(row.get_ref(3).map_err(failed)?) else {
                return Err(self.damaged(format!("the tile_data of tile {tile} is no blob")));
            };
            if !handover.give(ORDER.place(tile), bytes) {
                break;
            }
        }
        Ok(())
    }
}
