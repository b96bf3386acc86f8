//! Whether an MBTiles archive is what MBTiles 1.3 and SQLite want it to be.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};

use super::mbtiles_read::bytes;
use super::{MBTILES_APPLICATION_ID, MbtilesReader, ReadError};

/// At most so many tiles are named for one kind of defect.
const NAMED: u64 = 20;

/// What was found, with the tiles that it was found in.
#[derive(Default)]
struct Found {
    named: Vec<String>,
    /// Of the kinds that every tile can have: how often.
    counts: [u64; 5],
}

impl Found {
    fn tile(&mut self, kind: usize, what: impl FnOnce() -> String) {
        self.counts[kind] += 1;
        if self.counts[kind] <= NAMED {
            self.named.push(what());
        }
    }

    fn finish(mut self) -> Vec<String> {
        let kinds = ["outside of their zoom", "doubled", "no blob", "not gzip", "outside of minzoom and maxzoom"];
        for (count, kind) in self.counts.into_iter().zip(kinds).filter(|(count, _)| *count > NAMED) {
            self.named.push(format!("{} more tiles are {kind}", count - NAMED));
        }
        self.named
    }
}

impl MbtilesReader {
    pub(super) fn check_archive(&self) -> Result<Vec<String>, ReadError> {
        let mut found = Found::default();
        self.check_file(&mut found.named).map_err(|error| self.failed(error))?;
        // What SQLite finds broken would only break the queries below.
        if !found.named.is_empty() && found.named.iter().any(|what| what.starts_with("SQLite's integrity check")) {
            return Ok(found.named);
        }
        let expected = self.check_metadata(&mut found.named)?;
        self.check_tiles(&expected, &mut found).map_err(|error| self.failed(error))?;
        Ok(found.finish())
    }

    /// The file as SQLite sees it.
    fn check_file(&self, found: &mut Vec<String>) -> rusqlite::Result<()> {
        let mut check = self.connection.prepare(&format!("PRAGMA integrity_check({NAMED})"))?;
        let told: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        found.extend(
            told.iter().filter(|line| *line != "ok").map(|line| format!("SQLite's integrity check: {}", line.trim())),
        );
        let journal: String = self.connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        if journal == "wal" {
            found.push(
                "it is in WAL mode, which needs more files beside it: run PRAGMA journal_mode = DELETE on it"
                    .to_owned(),
            );
        }
        // SQLite takes what is missing of the last page for zeros.
        let number = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).map(u64::from);
        let size = number("page_count")? * number("page_size")?;
        let there = std::fs::metadata(&self.path).map_or(size, |file| file.len());
        if there < size && journal != "wal" {
            found.push(format!("it is cut off: it has {there} bytes, but should have {size}"));
        }
        let id: i32 = self.connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        // MBTiles 1.3, section "Database", lets writers leave it out.
        if id != 0 && id != MBTILES_APPLICATION_ID {
            found.push(format!(
                "its application_id is {id:#010x}: MBTiles has {MBTILES_APPLICATION_ID:#010x} (or none)"
            ));
        }
        Ok(())
    }

    /// The metadata rows (MBTiles 1.3, section "Metadata").
    fn check_metadata(&self, found: &mut Vec<String>) -> Result<Expected, ReadError> {
        let doubled = || {
            let mut names = self.connection.prepare(
                "SELECT CAST(name AS text) FROM metadata WHERE name IS NOT NULL GROUP BY name HAVING count(*) > 1",
            )?;
            names.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        for name in doubled().map_err(|error| self.failed(error))? {
            found.push(format!("its metadata has {name:?} twice"));
        }
        let rows = self.metadata()?;
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
        Ok(Expected {
            from: zoom("minzoom").unwrap_or(i64::MIN),
            to: zoom("maxzoom").unwrap_or(i64::MAX),
            hash: rows.get("agg_tiles_hash").cloned(),
        })
    }

    /// Every row of the tiles, in the order of `agg_tiles_hash`.
    fn check_tiles(&self, expected: &Expected, found: &mut Found) -> rusqlite::Result<()> {
        let mut rows = self.connection.prepare(
            "SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles ORDER BY zoom_level, tile_column, tile_row",
        )?;
        let mut rows = rows.query([])?;
        let (mut hash, mut digits, mut before) = (Md5::new(), String::new(), None);
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
            if !data.starts_with(&[0x1f, 0x8b]) {
                found.tile(3, || format!("tile {tile} is not gzip, which MBTiles 1.3 demands of vector tiles"));
            }
            digits.clear();
            // Writing to a string does not fail.
            if write!(digits, "{zoom}{column}{tms}").is_ok() {
                hash.update(&digits);
            }
            hash.update(&data);
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
        if let Some(told) = expected.hash.as_ref().filter(|told| !told.eq_ignore_ascii_case(&hash)) {
            found.named.push(format!("its agg_tiles_hash is {told}, but its tiles have {hash}: they were changed"));
        }
        Ok(())
    }
}

/// What the metadata says about the tiles.
struct Expected {
    from: i64,
    to: i64,
    hash: Option<String>,
}
