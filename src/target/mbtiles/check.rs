//! Checks an MBTiles archive against MBTiles 1.3 and with `SQLite`'s own checks.

use super::read::{POINT, bytes};
use super::tiles_hash::TilesHash;
use super::view::computes;
use super::{MBTILES_APPLICATION_ID, MbtilesReader, ORDER};
use crate::target::compare::Handover;
use crate::target::metadata::MANIFEST_KEY;
use crate::target::read::Total;
use crate::target::{PartialScope, ReadError};
use crate::tile::Scope;

/// The most tiles that are named for each kind of defect; the others are only counted.
const MAX_NAMED_TILES: u64 = 20;

/// The most bytes of tiles that SQLite may sort in temporary files, if the archive is smaller than half of that.
const MAX_SORTED_BYTES: u64 = 256 << 20;

/// The defects found so far, in words, each with the tile that has it.
#[derive(Default)]
struct ArchiveDefects {
    named: Vec<String>,
    /// The number of tiles with each kind of defect.
    counts: [u64; 5],
}

impl ArchiveDefects {
    fn tile(&mut self, kind: usize, what: impl FnOnce() -> String) {
        self.counts[kind] += 1;
        if self.counts[kind] <= MAX_NAMED_TILES {
            self.named.push(what());
        }
    }

    fn finish(mut self) -> Vec<String> {
        let kinds = ["outside of their zoom", "doubled", "no blob", "not gzip", "outside of minzoom and maxzoom"];
        for (count, kind) in self.counts.into_iter().zip(kinds).filter(|(count, _)| *count > MAX_NAMED_TILES) {
            self.named.push(format!("{} more tiles are {kind}", count - MAX_NAMED_TILES));
        }
        self.named
    }
}

impl MbtilesReader {
    pub(crate) fn check_archive(&self) -> Result<Vec<String>, ReadError> {
        let mut found = ArchiveDefects::default();
        self.check_file(&mut found.named).map_err(|error| self.failed(error))?;
        // A file that fails SQLite's integrity check would make the queries below fail, too.
        if !found.named.is_empty() && found.named.iter().any(|what| what.starts_with("SQLite's integrity check")) {
            return Ok(found.named);
        }
        let expected = self.check_metadata(&mut found.named)?;
        if let Some(what) = self.unsorted().map_err(|error| self.failed(error))? {
            found.named.push(what);
            return Ok(found.finish());
        }
        let whole = self.check_tiles(&expected, &mut found).map_err(|error| self.failed(error))?;
        if !whole {
            return Err(self.damaged("its tiles add up to a hundred times its size".to_owned()));
        }
        Ok(found.finish())
    }

    /// The reason why the tiles cannot be read in order; `None` if they can. Without an index SQLite sorts a copy of
    /// all their bytes, and copies an image once for each tile that shares it. That is refused if the bytes add up to
    /// more than twice the archive's size and more than [`MAX_SORTED_BYTES`], or if there are more rows than its size
    /// allows.
    fn unsorted(&self) -> rusqlite::Result<Option<String>> {
        if self.is_in_order()? {
            return Ok(None);
        }
        let mut lengths = self.connection.prepare("SELECT length(tile_data) FROM tiles")?;
        let (mut rows, mut sum, mut count) = (lengths.query([])?, 0_u64, 0);
        while let Some(row) = rows.next()? {
            let length: Option<i64> = row.get(0)?;
            sum = sum.saturating_add(length.unwrap_or_default().unsigned_abs());
            count += 1;
            if sum > self.guard.size.saturating_mul(2).max(MAX_SORTED_BYTES) || count > self.guard.max_rows() {
                let what = "its tiles have no index in their order and add up to more than its size, so agg_tiles_hash and doubled tiles were not looked for: run CREATE UNIQUE INDEX on zoom_level, tile_column, tile_row";
                return Ok(Some(what.to_owned()));
            }
        }
        Ok(None)
    }

    /// Checks the file itself: integrity, journal mode, length and `application_id`.
    fn check_file(&self, found: &mut Vec<String>) -> rusqlite::Result<()> {
        self.guard.begin();
        if let Some(what) = computes(&self.connection)? {
            found
                .push(format!("{what}, which is not computed for an archive, so SQLite's integrity check did not run"));
        } else {
            let mut check = self.connection.prepare(&format!("PRAGMA integrity_check({MAX_NAMED_TILES})"))?;
            let lines: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            let broken = lines.iter().filter(|line| *line != "ok");
            found.extend(broken.map(|line| format!("SQLite's integrity check: {}", line.trim())));
        }
        let journal: String = self.connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        if journal == "wal" {
            found.push(
                "it is in WAL mode, which needs more files beside it: run PRAGMA journal_mode = DELETE on it"
                    .to_owned(),
            );
        }
        // SQLite reads the missing end of a truncated last page as zeros, so its own check does not notice.
        let number = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).map(u64::from);
        let size = number("page_count")? * number("page_size")?;
        let there = std::fs::metadata(&self.path).map_or(size, |file| file.len());
        if there < size && journal != "wal" {
            found.push(format!("it is cut off: it has {there} bytes, but should have {size}"));
        }
        let id: i32 = self.connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        // MBTiles 1.3, section "Database", makes the `application_id` optional.
        if id != 0 && id != MBTILES_APPLICATION_ID {
            found.push(format!(
                "its application_id is {id:#010x}: MBTiles has {MBTILES_APPLICATION_ID:#010x} (or none)"
            ));
        }
        Ok(())
    }

    /// Checks the metadata rows (MBTiles 1.3, section "Metadata").
    fn check_metadata(&self, found: &mut Vec<String>) -> Result<Expected, ReadError> {
        let rows = self.metadata()?;
        self.guard.begin();
        let doubled = || {
            let mut names = self.connection.prepare(
                "SELECT CAST(name AS text) FROM metadata WHERE name IS NOT NULL GROUP BY name HAVING count(*) > 1 LIMIT ?1",
            )?;
            names
                .query_map([MAX_NAMED_TILES.cast_signed()], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<String>>>()
        };
        for name in doubled().map_err(|error| self.failed(error))? {
            found.push(format!("its metadata has {name:?} twice"));
        }
        for name in ["name", "format", "json"] {
            if rows.get(name).is_none_or(String::is_empty) {
                found.push(format!("its metadata has no {name}, which MBTiles 1.3 demands of vector tiles"));
            }
        }
        let zoom = |name: &str| rows.get(name).and_then(|text| text.trim().parse::<i64>().ok());
        if let (Some(from), Some(to)) = (zoom("minzoom"), zoom("maxzoom"))
            && from > to
        {
            found.push(format!("its metadata has minzoom {from} above maxzoom {to}"));
        }
        // The metadata leaves out the zooms of partial regions: map clients would ask for tiles that do not exist
        // there.
        let partial = rows.get(MANIFEST_KEY).and_then(|text| serde_json::from_str(text).ok());
        let partial = partial.map_or_else(PartialScope::default, |manifest| PartialScope::of(&manifest));
        let zooms = |of: &Scope| (i64::from(of.zooms.min().get()), i64::from(of.zooms.max().get()));
        let (from, to) = partial.regions().iter().map(zooms).fold(
            (zoom("minzoom").unwrap_or(i64::MIN), zoom("maxzoom").unwrap_or(i64::MAX)),
            |(from, to), (min, max)| (from.min(min), to.max(max)),
        );
        Ok(Expected { from, to, hash: rows.get("agg_tiles_hash").cloned() })
    }

    /// Checks every row of `tiles`, in the order of `agg_tiles_hash`. Returns `false` if the tiles add up to more bytes
    /// than may be read from a file of this size.
    fn check_tiles(&self, expected: &Expected, found: &mut ArchiveDefects) -> rusqlite::Result<bool> {
        self.guard.begin();
        let mut rows = self.connection.prepare(IN_ORDER)?;
        let mut rows = rows.query([])?;
        let mut total = Total::of(self.guard.size);
        let (mut hash, mut before) = (TilesHash::new(), None);
        while let Some(row) = rows.next()? {
            let (zoom, column, tms): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Ok(tile) = self.coord(zoom, column, tms) else {
                found.tile(0, || {
                    format!(
                        "the row with zoom_level {zoom}, tile_column {column}, tile_row {tms} lies outside of its zoom"
                    )
                });
                continue;
            };
            if before.replace(tile) == Some(tile) {
                found.tile(1, || format!("tile {tile} has two rows"));
            }
            if !(expected.from..=expected.to).contains(&zoom) {
                found.tile(4, || {
                    format!("tile {tile} lies outside of minzoom {} and maxzoom {}", expected.from, expected.to)
                });
            }
            let Some(data) = bytes(row.get_ref(3)?) else {
                found.tile(2, || format!("the tile_data of tile {tile} is no blob"));
                continue;
            };
            if !total.take(Some(&data)) {
                return Ok(false);
            }
            if !data.starts_with(&[0x1f, 0x8b]) {
                found.tile(3, || format!("tile {tile} is not gzip, which MBTiles 1.3 demands of vector tiles"));
            }
            hash.add(tile, Some(&data));
        }
        let hash = hash.finish();
        if let Some(stated) = expected.hash.as_ref().filter(|stated| !stated.eq_ignore_ascii_case(&hash)) {
            found.named.push(format!("its agg_tiles_hash is {stated}, but its tiles have {hash}: they were changed"));
        }
        Ok(true)
    }
}

/// What the metadata says about the tiles: the zooms and the hash.
struct Expected {
    from: i64,
    to: i64,
    hash: Option<String>,
}

// How tiles are read from an archive: all of them in one ordered scan, or single ones by an index.

/// Selects all tiles in the order over which `agg_tiles_hash` is computed.
pub(crate) const IN_ORDER: &str =
    "SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles ORDER BY zoom_level, tile_column, tile_row";

/// The most tiles that an archive without an index on the tile's address may have if single tiles are read from it.
/// Each read scans all rows: reading 2,000 tiles scans 4 million rows and takes a few seconds; a million tiles would
/// take weeks.
const MAX_UNINDEXED_TILES: u32 = 2_000;

impl MbtilesReader {
    /// Fails if the archive has more than [`MAX_UNINDEXED_TILES`] tiles and no index that finds a tile by its address.
    pub(crate) fn refuse_unindexed(&self) -> Result<(), ReadError> {
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

    /// True if `SQLite` finds a tile by an index that covers at least two of the three parts of its address (the query
    /// plan shows each part as `column=?`). An automatic index does not count, because `SQLite` builds it again for
    /// each query.
    fn finds_by_index(&self) -> rusqlite::Result<bool> {
        self.guard.begin();
        let mut plan = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {POINT}"))?;
        let plan = plan.query_map((0, 0, 0), |row| row.get::<_, String>(3))?.collect::<rusqlite::Result<Vec<_>>>()?;
        let takes_all = |step: &String| step.starts_with("SCAN") || step.contains("AUTOMATIC");
        Ok(!plan.iter().any(takes_all) && plan.iter().any(|step| step.matches("=?").count() >= 2))
    }

    /// True if `SQLite` reads the tiles in order from an index. Otherwise it would sort them in a temporary copy of all
    /// their bytes, and an image that many tiles share would be copied once for each of them.
    pub(crate) fn is_in_order(&self) -> rusqlite::Result<bool> {
        self.guard.begin();
        let mut plan = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {IN_ORDER}"))?;
        let plan: Vec<String> = plan.query_map([], |row| row.get(3))?.collect::<rusqlite::Result<_>>()?;
        Ok(!plan.iter().any(|step| step.contains("TEMP B-TREE")))
    }

    /// Passes the tiles in order to `handover` until there are no more, or `handover` wants no more.
    pub(crate) fn hand_over(&self, handover: &mut Handover) -> Result<(), ReadError> {
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
            if !handover.give(ORDER.sort_key(tile), bytes) {
                break;
            }
        }
        Ok(())
    }
}
