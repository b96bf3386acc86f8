//! Archives that somebody else made, to do harm: whatever they hold, every command that reads ends soon, in bounded
//! memory, with an error that says what is wrong. Here: MBTiles, and tiles themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use oar_tiles::encode::{Gzip, Level};
use rusqlite::Connection;

use crate::support::damaged::{MBTILES, TILES, changed, mbtiles, point, put_varint, small_tile, tile_of};
use crate::support::folder::Folder;
use crate::support::program::{Run, limited, program, run};

/// Memory of a command, in kilobytes of address space. About 400 MB of it is the program itself, which is not
/// optimized; reading an ordinary archive takes less than half of the rest.
pub(crate) const MEMORY: u32 = 1_200_000;

/// Memory where a tile is unpacked to 256 MB and decoded to 1 GB.
const MEMORY_OF_A_TILE: u32 = 2_000_000;

/// Every way to read a target, in bounded memory.
struct Looks {
    verify: Run,
    inspect: Run,
    tile: Run,
    copy: Run,
}

pub(crate) fn ended(command: &Command, memory: u32) -> Run {
    let shown = format!("{command:?}");
    let ended = run(&mut limited(command, memory));
    assert!([0, 1, 2, 4].contains(&ended.code), "{shown}: {} {}", ended.code, ended.stderr);
    assert_eq!(ended.stderr.matches("error: ").count(), usize::from(ended.code != 0), "{shown}: {}", ended.stderr);
    ended
}

fn looks(folder: &Folder, target: &Path, memory: u32) -> Looks {
    let command = |verb: &str, more: &[&str]| {
        let mut command = program();
        command.arg(verb).arg(target).args(more);
        ended(&command, memory)
    };
    // A picture of it ends, too, whatever it shows.
    let (copied, picture) = (folder.beside("copied.mbtiles"), folder.beside("map.png"));
    command("preview", &["--picture", picture.to_str().unwrap(), "--at", "0,0,0"]);
    let looks = Looks {
        verify: command("verify", &["--all"]),
        inspect: command("inspect", &[]),
        tile: command("inspect", &["0/0/0"]),
        copy: command("copy", &[copied.to_str().unwrap()]),
    };
    // What was copied is an archive; what was not has left nothing.
    assert_eq!(copied.exists(), looks.copy.code == 0, "{}", looks.copy.stderr);
    if copied.exists() {
        std::fs::remove_file(&copied).unwrap();
    }
    assert!(!folder.beside(".copied.mbtiles.partial").exists());
    looks
}

/// Every command that reads all of it refuses it with a text; a look at one tile ends somehow.
#[track_caller]
pub(crate) fn refused(folder: &Folder, target: &Path, text: &str) {
    let Looks { verify, inspect, copy, .. } = looks(folder, target, MEMORY);
    assert!(verify.code != 0, "{}: {}", target.display(), verify.stdout);
    for (verb, ended) in [("inspect", &inspect), ("copy", &copy)] {
        let said = &ended.stderr;
        assert!(ended.code != 0 && said.contains(text), "{verb} {}: «{text}» is missing in {said}", target.display());
    }
}

#[test]
fn views_that_compute_or_multiply_are_not_read() {
    let folder = Folder::new();
    let other =
        "its tiles is a view other than columns of one table, or of two that are joined by one or two columns each";
    for (name, sql, text) in [
        (
            "endless",
            &["CREATE VIEW tiles AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)
               SELECT 22 AS zoom_level, i & 4194303 AS tile_column, i >> 22 AS tile_row, x'1f8b' AS tile_data FROM n"]
                [..],
            other,
        ),
        (
            "crossed",
            &[
                "CREATE TABLE n AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n",
                "CREATE VIEW tiles AS SELECT 22 AS zoom_level, a.i AS tile_column, b.i AS tile_row, x'1f8b' AS tile_data FROM n a, n b, n c",
            ],
            other,
        ),
        (
            "blobs",
            &[
                "CREATE TABLE n (i)",
                "INSERT INTO n VALUES (0), (1), (2)",
                "CREATE VIEW tiles AS SELECT 2 AS zoom_level, i AS tile_column, 0 AS tile_row, zeroblob(900000000) AS tile_data FROM n",
            ],
            other,
        ),
        (
            "nested",
            &[
                "CREATE TABLE n (zoom_level, tile_column, tile_row, tile_data)",
                "CREATE VIEW one AS SELECT * FROM n a, n b, n c, n d, n e, n f",
                "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM one",
            ],
            "its tiles shows one, which is no table",
        ),
        (
            "multiplied",
            &[
                "CREATE TABLE map AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 40000)
                 SELECT 22 AS zoom_level, i AS tile_column, 0 AS tile_row, 7 AS tile_id FROM n",
                "CREATE TABLE images AS SELECT tile_id, x'1f8b' AS tile_data FROM map",
                "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (tile_id)",
            ],
            "",
        ),
        (
            "virtual",
            &["CREATE VIRTUAL TABLE tiles USING fts5(zoom_level, tile_column, tile_row, tile_data)"],
            "its tiles is a virtual table, which is not read",
        ),
        (
            "computed",
            &[
                "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, x integer, tile_data blob AS (zeroblob(x)))",
            ],
            "its table tiles has columns that are computed, which are not read",
        ),
    ] {
        let path = folder.beside(&format!("{name}.mbtiles"));
        mbtiles(&path, sql);
        refused(&folder, &path, text);
    }
    // The list of names and values is read likewise.
    let path = folder.beside("metadata.mbtiles");
    Connection::open(&path)
        .unwrap()
        .execute_batch(&format!(
            "{TILES}; CREATE VIEW metadata AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT i AS name, i AS value FROM n"
        ))
        .unwrap();
    refused(&folder, &path, "its metadata is a view other than columns of one table");
}

#[test]
fn a_look_at_the_pages_computes_nothing_that_the_archive_asks_for() {
    let folder = Folder::new();
    let slow = "instr(zeroblob(30000000), zeroblob(15000000) || x'01')";
    for (name, index) in [
        ("index", format!("CREATE INDEX i ON tiles (tile_row, {slow})")),
        ("part", format!("CREATE INDEX i ON tiles (tile_row) WHERE {slow} = tile_row")),
    ] {
        let path = folder.beside(&format!("{name}.mbtiles"));
        mbtiles(
            &path,
            &[TILES, "INSERT INTO tiles VALUES (0, 0, 0, ?1)", "CREATE TABLE other (a)", "CREATE INDEX i ON other (a)"],
        );
        // An index that nobody has computed yet.
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA writable_schema = ON").unwrap();
        let changed = connection
            .execute("UPDATE sqlite_schema SET tbl_name = 'tiles', sql = ?1 WHERE name = 'i'", [&index])
            .unwrap();
        assert_eq!(changed, 1);
        drop(connection);
        let verified = looks(&folder, &path, MEMORY).verify.fails(1, &[]);
        assert!(verified.stdout.contains("its index \"i\" is over an expression"), "{}", verified.stdout);
    }
    let path = folder.beside("check.mbtiles");
    let table = TILES.replace("tile_data blob", &format!("tile_data blob CHECK ({slow} = 0)"));
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(&format!("{MBTILES} {table}; PRAGMA ignore_check_constraints = ON")).unwrap();
    connection.execute("INSERT INTO tiles VALUES (0, 0, 0, ?1)", [small_tile()]).unwrap();
    drop(connection);
    looks(&folder, &path, MEMORY).copy.ok();
}

#[test]
fn tiles_and_notes_over_the_limits_are_refused() {
    let folder = Folder::new();
    let path = folder.beside("tile.mbtiles");
    mbtiles(&path, &[TILES, "INSERT INTO tiles VALUES (0, 0, 0, zeroblob(70000000))"]);
    let large = "it holds a tile or another value of more than 64 MB";
    refused(&folder, &path, large);
    assert!(looks(&folder, &path, MEMORY).tile.stderr.contains(large));
    let path = folder.beside("metadata.mbtiles");
    mbtiles(
        &path,
        &[
            TILES,
            "INSERT INTO metadata WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 20) SELECT 'a' || i, hex(zeroblob(500000)) FROM n",
        ],
    );
    refused(&folder, &path, "its metadata has more than the 16 MB that are read");
    // The same bytes as a thousand tiles.
    let path = folder.beside("repeated.mbtiles");
    mbtiles(
        &path,
        &[
            "CREATE TABLE map (zoom_level, tile_column, tile_row, tile_id)",
            "CREATE UNIQUE INDEX place ON map (zoom_level, tile_column, tile_row)",
            "INSERT INTO map WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT 10, i, 0, 1 FROM n",
            "CREATE TABLE images (tile_id integer PRIMARY KEY, tile_data blob)",
            "INSERT INTO images VALUES (1, zeroblob(5000000))",
            "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (tile_id)",
        ],
    );
    refused(&folder, &path, "its tiles add up to a hundred times its size");
    // Without an index SQLite would sort all of these bytes.
    Connection::open(&path).unwrap().execute_batch("DROP INDEX place").unwrap();
    let told = run(&mut limited(program().arg("verify").arg(&path), MEMORY)).fails(1, &[]);
    assert!(told.stdout.contains("its tiles have no index in their order"), "{}", told.stdout);
}

/// Reading each tile of a large archive without an index would take a look at all of them: what to do is said, and
/// nothing waits.
#[test]
fn a_large_archive_without_an_index_is_refused_with_the_index_to_make() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unindexed.mbtiles");
    let add = |from: u32, to: u32| {
        let mut archive = Connection::open(&path).unwrap();
        let transaction = archive.transaction().unwrap();
        for column in from..to {
            let tile = [&[0x1f, 0x8b][..], &column.to_le_bytes()].concat();
            transaction.execute("INSERT INTO tiles VALUES (17, ?1, 0, ?2)", (column, tile)).unwrap();
        }
        transaction.commit().unwrap();
    };
    mbtiles(&path, &["CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)"]);
    let copied = folder.path().join("copy.pmtiles");
    let copy = || run(program().args(["copy", "--force"]).arg(&path).arg(&copied));
    // So few are read in no time.
    add(0, 2_000);
    copy().ok();
    add(2_000, 100_000);
    let text = "CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)";
    copy().fails(1, &["has no index by which a tile is found", text]);
    Connection::open(&path).unwrap().execute_batch(text).unwrap();
    copy().ok();
}

/// A page of a table that has no rows, but children: as many as fit, all the same one.
fn page_of_children(child: u32) -> Vec<u8> {
    let cells = 400_u16;
    let mut page = vec![0; 4096];
    let cell = [&child.to_be_bytes()[..], &[1]].concat();
    let begin = 4096 - usize::from(cells) * cell.len();
    page[0] = 0x05;
    page[3..5].copy_from_slice(&cells.to_be_bytes());
    page[5..7].copy_from_slice(&(begin as u16).to_be_bytes());
    page[8..12].copy_from_slice(&child.to_be_bytes());
    for number in 0..usize::from(cells) {
        let at = begin + number * cell.len();
        page[12 + 2 * number..14 + 2 * number].copy_from_slice(&(at as u16).to_be_bytes());
        page[at..at + cell.len()].copy_from_slice(&cell);
    }
    page
}

#[test]
fn pages_that_are_their_neighbours_children_do_not_make_a_tree_without_an_end() {
    let folder = Folder::new();
    let path = folder.beside("tree.mbtiles");
    mbtiles(&path, &[TILES, "INSERT INTO tiles VALUES (0, 0, 0, ?1)", "CREATE TABLE room (b)"]);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("INSERT INTO room VALUES (zeroblob(40000))").unwrap();
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
    let leaf = number("SELECT rootpage FROM sqlite_schema WHERE name = 'tiles'");
    let last = number("PRAGMA page_count");
    connection
        .execute_batch(&format!(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = {last} WHERE name = 'tiles'"
        ))
        .unwrap();
    drop(connection);
    let mut bytes = std::fs::read(&path).unwrap();
    // 400 to the sixth rows, of a few pages.
    for level in 0..6 {
        let child = if level == 5 { leaf } else { last - level - 1 };
        let at = (last - level - 1) as usize * 4096;
        bytes[at..at + 4096].copy_from_slice(&page_of_children(child));
    }
    std::fs::write(&path, bytes).unwrap();
    let looked = looks(&folder, &path, MEMORY);
    let verified = looked.verify.fails(1, &[]);
    assert!(verified.stdout.contains("SQLite's integrity check"), "{}", verified.stdout);
    for ended in [looked.inspect, looked.copy] {
        ended.fails(1, &["it lists more tiles than a file of its size can hold"]);
    }
}

/// Packs as gzip, and fast: libdeflate is optimized in tests, too.
fn squeezed(raw: &[u8]) -> Vec<u8> {
    Gzip::new(Level::new(1).unwrap()).pack(raw).unwrap().into_vec()
}

/// Zeros, packed a thousand to one.
pub(crate) fn bomb(megabytes: usize) -> Vec<u8> {
    squeezed(&vec![0; megabytes << 20])
}

pub(crate) fn with_tile(folder: &Folder, name: &str, tile: &[u8]) -> PathBuf {
    let path = folder.beside(&format!("{name}.mbtiles"));
    mbtiles(&path, &[TILES]);
    Connection::open(&path).unwrap().execute("INSERT INTO tiles VALUES (0, 0, 0, ?1)", [tile]).unwrap();
    path
}

#[test]
fn a_tile_that_unpacks_to_far_too_much_is_named_and_copied_as_it_is() {
    let folder = Folder::new();
    let path = with_tile(&folder, "bomb", &bomb(300));
    let looked = looks(&folder, &path, MEMORY);
    let text = "it unpacks to more than 268435456 bytes";
    assert!(looked.verify.code == 1 && looked.verify.stdout.contains(text), "{}", looked.verify.stdout);
    looked.tile.fails(1, &[text]);
    looked.inspect.ok();
    looked.copy.ok();
    // Where tiles lie unpacked, there is nothing to be copied.
    let config = folder.config("[target]\ncompression = \"none\"\n");
    let mut command = program();
    command.args(["copy", "--config", &config]).arg(&path).arg(folder.beside("tiles"));
    ended(&command, MEMORY).fails(1, &[text]);
}

#[test]
fn a_tile_that_takes_far_more_memory_than_its_bytes_is_named() {
    let folder = Folder::new();
    // Four bytes that are a feature of a hundred.
    let feature = [0x12, 0x02, 0x18, 0x00];
    let path = with_tile(&folder, "features", &squeezed(&tile_of(&[feature.repeat(12_000_000)])));
    let looked = looks(&folder, &path, MEMORY_OF_A_TILE);
    let text = "it takes more than 1 GB of memory when it is decoded";
    assert!(looked.verify.code == 1 && looked.verify.stdout.contains(text), "{}", looked.verify.stdout);
    looked.tile.fails(1, &[text]);
    looked.copy.ok();
    // A text that a hundred thousand features have is a hundred thousand times as long when it is shown.
    let mut text = vec![0x22];
    put_varint(&mut text, 1_000_004);
    text.push(0x0a);
    put_varint(&mut text, 1_000_000);
    text.extend(vec![b'x'; 1_000_000]);
    let key = vec![0x1a, 0x01, b'k'];
    let tagged = vec![0x12, 0x0b, 0x12, 0x02, 0x00, 0x00, 0x18, 0x01, 0x22, 0x03, 0x09, 0x00, 0x00];
    let path = with_tile(&folder, "texts", &squeezed(&tile_of(&[key, text, tagged.repeat(100_000)])));
    let looked = looks(&folder, &path, MEMORY_OF_A_TILE);
    looked.tile.fails(2, &["tile 0/0/0 holds more than can be shown"]);
    assert!(looked.verify.stdout.contains("properties that are not described"), "{}", looked.verify.stdout);
    let mut geojson = program();
    geojson.arg("inspect").arg(&path).args(["0/0/0", "--geojson"]);
    ended(&geojson, MEMORY_OF_A_TILE).fails(2, &["holds more than can be shown"]);
}

/// Wherever the map is: above, between and below the zooms that the archive claims.
#[test]
fn an_archive_whose_zooms_end_before_they_begin_is_drawn_without_a_panic() {
    let folder = Folder::new();
    let path = with_tile(&folder, "zooms", &squeezed(&tile_of(&[point()])));
    let swap = "DELETE FROM metadata WHERE name IN ('minzoom', 'maxzoom'); INSERT INTO metadata VALUES ('minzoom', '9'), ('maxzoom', '3')";
    let path = changed(&path, "swapped", swap);
    let picture = folder.beside("map.png");
    for zoom in [0, 5, 10, 22] {
        let mut command = program();
        command.arg("preview").arg(&path).arg("--picture").arg(&picture).args(["--at", &format!("0,0,{zoom}")]);
        ended(&command, MEMORY).ok();
    }
}

#[test]
fn a_picture_of_several_large_tiles_is_refused_before_they_fill_the_memory() {
    let folder = Folder::new();
    // Each tile can be shown, and zoom 0 four times beside each other: a text of 60 MB.
    let mut text = vec![0x22];
    put_varint(&mut text, 60_000_005);
    text.push(0x0a);
    put_varint(&mut text, 60_000_000);
    text.extend(vec![b'x'; 60_000_000]);
    let path = with_tile(&folder, "texts", &squeezed(&tile_of(&[text, point()])));
    let four = "INSERT INTO metadata VALUES ('minzoom', '0'), ('maxzoom', '1'); INSERT INTO tiles SELECT 1, number % 2, number / 2, tile_data FROM tiles, (SELECT 0 AS number UNION SELECT 1 UNION SELECT 2 UNION SELECT 3)";
    let path = changed(&path, "four", four);
    let picture = folder.beside("map.png");
    let drawn = |zoom: u8| {
        let mut command = program();
        command.arg("preview").arg(&path).arg("--picture").arg(&picture).args(["--at", &format!("0,0,{zoom}")]);
        ended(&command, MEMORY_OF_A_TILE)
    };
    drawn(0).ok();
    drawn(1).fails(2, &["the tiles around 1/", " hold more than a picture can show: choose a deeper zoom (--at)"]);
}

#[test]
fn an_ordinary_archive_is_read_within_these_limits() {
    let folder = Folder::new();
    let path = with_tile(&folder, "small", &squeezed(&tile_of(&[point().repeat(200_000)])));
    let looked = looks(&folder, &path, MEMORY);
    looked.verify.ok();
    looked.inspect.ok();
    looked.tile.ok();
    looked.copy.ok();
}
