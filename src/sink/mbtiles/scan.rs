//! How an archive's tiles are found: all of them in one ordered scan, or each by an index.

use super::read::{POINT, bytes};
use super::{MbtilesReader, ORDER};
use crate::sink::ReadError;
use crate::sink::compare::Handover;

/// The tiles in the order of `agg_tiles_hash`.
pub(super) const IN_ORDER: &str =
    "SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles ORDER BY zoom_level, tile_column, tile_row";

/// The most tiles that an archive without an index may have, if single ones are read: each look takes all rows, so 2,000 tiles take
/// 4 million rows or a few seconds, and a million tiles would take weeks.
const MAX_UNINDEXED_TILES: u32 = 2_000;

impl MbtilesReader {
    /// Refuses a large archive in which no index finds a tile by its address.
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

    /// Whether a tile is found by an index over two of the three parts of its address or more. `SQLite` shows each part as `column=?`. An
    /// automatic index is built anew for each look.
    fn finds_by_index(&self) -> rusqlite::Result<bool> {
        self.guard.begin();
        let mut plan = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {POINT}"))?;
        let plan = plan.query_map((0, 0, 0), |row| row.get::<_, String>(3))?.collect::<rusqlite::Result<Vec<_>>>()?;
        let takes_all = |step: &String| step.starts_with("SCAN") || step.contains("AUTOMATIC");
        Ok(!plan.iter().any(takes_all) && plan.iter().any(|step| step.matches("=?").count() >= 2))
    }

    /// Whether an index has the tiles in order. Without one `SQLite` would keep all of their bytes once more to sort them, and those of an
    /// image as often as it is shown.
    pub(super) fn is_in_order(&self) -> rusqlite::Result<bool> {
        self.guard.begin();
        let mut plan = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {IN_ORDER}"))?;
        let plan: Vec<String> = plan.query_map([], |row| row.get(3))?.collect::<rusqlite::Result<_>>()?;
        Ok(!plan.iter().any(|step| step.contains("TEMP B-TREE")))
    }

    /// Hands over every tile in order, until no more are wanted.
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
