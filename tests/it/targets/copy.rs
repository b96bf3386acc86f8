//! `copy`, and what every command that reads a target makes of a file that is none.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oar_tiles::target::{MbtilesReader, TileReader as _};
use rusqlite::Connection;

use crate::support::archive::Address;
use crate::support::damaged::{Chance, as_images_and_map, changed, packed};
use crate::support::process::Start as _;
use crate::support::program::{Run, program, run, signal, wait};
use crate::support::{Archive, Db, OldTarget, seed, until};

fn copy_command(source: &Path, target: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("copy").arg(source).arg(target).args(arguments);
    command
}

fn copy(source: &Path, target: &Path, arguments: &[&str]) -> Run {
    run(&mut copy_command(source, target, arguments))
}

#[test]
fn a_copy_is_the_same_byte_for_byte() {
    let db = Db::with_facilities(500);
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("a.mbtiles"), folder.path().join("b.mbtiles"));
    seed(&db.url, &source, &["--zoom", "0-8"]).ok();
    let done = copy(&source, &target, &[]).ok();
    assert!(
        done.stdout.contains(" tiles stored: ") && done.stdout.ends_with(&format!(" → {}\n", target.display())),
        "{}",
        done.stdout
    );
    let (before, after) = (Archive::open(&source), Archive::open(&target));
    assert!(before.stored() == after.stored());
    let rows = |archive: &Archive| -> Vec<(String, String)> {
        let mut rows =
            archive.0.prepare("SELECT name, value FROM metadata WHERE name <> 'center' ORDER BY name").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap);
        // The copy is a publication of its own.
        let unpublished = |(name, text): (String, String)| match serde_json::from_str(&text) {
            Ok(serde_json::Value::Object(mut parts)) if name == "oar_tiles_manifest" => {
                assert_eq!(parts.remove("publication").unwrap()["number"], 1);
                (name, serde_json::to_string(&parts).unwrap())
            }
            _ => (name, text),
        };
        rows.map(unpublished).collect()
    };
    assert_eq!(rows(&before), rows(&after), "manifest and hash among them");
    // Worked out again from the bounds, whose last decimal was rounded.
    assert_eq!(before.metadata("center").unwrap()[..8], after.metadata("center").unwrap()[..8]);
    run(program().arg("verify").arg(&target)).ok();
    // Over an older copy, too.
    copy(&source, &target, &[]).ok();
    let names = crate::support::refusal::names(folder.path());
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a.mbtiles", "b.mbtiles"]);

    let quiet = copy(&source, &target, &["-q"]).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    run(program().arg("copy").arg(&source))
        .fails(2, &["copy needs a source and a target: oar-tiles copy SOURCE TARGET"]);

    // A part holds what the zooms and boxes touch, and does not claim to be the whole. Flags may stand anywhere.
    let part = folder.path().join("part.mbtiles");
    let done =
        run(program().arg("copy").arg(&source).args(["--zoom", "3-5"]).arg(&part).args(["--bbox", "0,0,180,80"]));
    let done = done.ok();
    assert!(done.stdout.contains(" tiles stored, a part without manifest: "), "{}", done.stdout);
    let inside = |(zoom, x, y): &Address| {
        let half = 1 << (zoom - 1);
        (3..=5).contains(zoom) && *x >= half && *y < half
    };
    let wanted: Vec<Address> = before.stored().into_keys().filter(|tile| tile.0 > 0 && inside(tile)).collect();
    assert_eq!(Archive::open(&part).stored().into_keys().collect::<Vec<_>>(), wanted);
    let part_of = Archive::open(&part);
    assert_eq!(
        (part_of.metadata("minzoom").as_deref(), part_of.metadata("maxzoom").as_deref()),
        (Some("3"), Some("5"))
    );
    assert_eq!(part_of.metadata("oar_tiles_manifest"), None);
    run(program().arg("verify").arg(&part)).ok();
}

#[test]
fn what_another_program_made_is_copied_and_packed() {
    let db = Db::with_facilities(200);
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("a.mbtiles"), folder.path().join("b.mbtiles"));
    seed(&db.url, &source, &["--zoom", "2-6"]).ok();
    for plain in [false, true] {
        let other = as_images_and_map(&source, plain);
        copy(&other, &target, &["--force"]).ok();
        let copied = Archive::open(&target);
        assert!(copied.tiles() == Archive::open(&source).tiles());
        assert!(plain || copied.stored() == Archive::open(&source).stored());
        let metadata = |name: &str| copied.metadata(name).unwrap();
        assert_eq!(metadata("name"), other.file_stem().unwrap().to_str().unwrap());
        assert_eq!((metadata("minzoom"), metadata("maxzoom")), ("2".to_owned(), "6".to_owned()));
        assert_eq!(copied.metadata("oar_tiles_manifest"), None);
        run(program().arg("verify").arg(&target)).ok();
    }
}

#[test]
fn a_target_is_not_copied_onto_itself() {
    let old = OldTarget::new();
    let same = ["t.mbtiles would be copied onto itself: name another target"];
    old.refuses_command(&mut copy_command(&old.path, &old.path, &[]), 2, &same);
    let link = old.beside("link.mbtiles");
    std::os::unix::fs::symlink(&old.path, &link).unwrap();
    old.refuses_command(&mut copy_command(&old.path, &link, &[]), 2, &same);
    old.refuses_command(
        &mut copy_command(&old.path, &old.beside("x.zip"), &[]),
        2,
        &["names no target: write a file.mbtiles, "],
    );
    let nowhere = old.beside("no/x.mbtiles");
    old.refuses_command(&mut copy_command(&old.path, &nowhere, &[]), 2, &["does not exist: make it"]);
}

#[test]
fn an_interrupted_copy_leaves_the_target_as_it_was() {
    let old = OldTarget::new();
    let source = old.beside("source.mbtiles");
    std::fs::copy(&old.path, &source).unwrap();
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        // While the source is locked, the copy waits for it.
        let locked = Connection::open(&source).unwrap();
        locked.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let child = copy_command(&source, &old.path, &[])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .start();
        let status = format!("/proc/{}/status", child.id());
        until("the program listens to signals", || {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14 | 1 << 1) == 1 << 14 | 1 << 1
        });
        signal(&child, name);
        std::thread::sleep(Duration::from_millis(300));
        drop(locked);
        let ended = wait(child).fails(code, &["interrupted: the target is unchanged"]);
        old.is_untouched(&ended.stderr);
    }
}

#[test]
fn a_failing_disk_or_source_leaves_the_target_as_it_was() {
    let db = Db::with_facilities(2_000);
    let old = OldTarget::new();
    let source = old.beside("source.mbtiles");
    seed(&db.url, &source, &["--zoom", "0-9"]).ok();
    let limited = format!("ulimit -f 64; exec \"$0\" copy '{}' '{}'", source.display(), old.path.display());
    let mut shell = Command::new("bash");
    shell.args(["-c", &limited]).arg(env!("CARGO_BIN_EXE_oar-tiles")).env("OAR_TILES_LOG", "plain");
    old.refuses_command(&mut shell, 1, &["no room to write ", "t.mbtiles is unchanged"]);
    let text = changed(&source, "text", "UPDATE tiles SET tile_data = 'text' WHERE zoom_level = 9");
    old.refuses_command(
        &mut copy_command(&text, &old.path, &[]),
        1,
        &["is damaged: the tile_data of tile 9/", " is no blob"],
    );
    let doubled = changed(
        &source,
        "doubled",
        "DROP INDEX tile_index; INSERT INTO tiles SELECT * FROM tiles WHERE zoom_level = 0",
    );
    old.refuses_command(
        &mut copy_command(&doubled, &old.path, &[]),
        1,
        &["is damaged: it has two rows for tile 0/0/0"],
    );
}

/// Each way to look at a file.
fn looks(file: &Path, target: &Path) -> [Command; 4] {
    let with = |verb: &str, more: &[&str]| {
        let mut command = program();
        command.arg(verb).arg(file).args(more);
        command
    };
    [with("verify", &["--all"]), with("inspect", &[]), with("inspect", &["0/0/0"]), copy_command(file, target, &[])]
}

#[test]
fn a_file_that_is_no_target_is_refused_by_every_command() {
    let old = OldTarget::new();
    let make = |name: &str, bytes: &[u8]| {
        let path = old.beside(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let database = |name: &str, sql: &str| {
        let path = old.beside(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    };
    let tiles = "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob);";
    let metadata = "CREATE TABLE metadata (name text, value text);";
    for (file, texts) in [
        (old.beside("missing.mbtiles"), &["there is no ", "missing.mbtiles: name a file.mbtiles, "][..]),
        (
            make("text.mbtiles", b"not a database, but some words\n"),
            &[" is no MBTiles archive of vector tiles (it is not an SQLite file)"],
        ),
        (make("empty.mbtiles", b""), &[" is no MBTiles archive of vector tiles (it is empty)"]),
        (
            make("header.mbtiles", b"SQLite format 3\0"),
            &[" is no MBTiles archive of vector tiles (SQLite cannot read it)"],
        ),
        (database("other.mbtiles", "CREATE TABLE t (a)"), &["it is an SQLite file without the table metadata"]),
        (database("half.mbtiles", metadata), &["it is an SQLite file without the table tiles"]),
        (
            database("columns.mbtiles", &format!("{metadata} CREATE TABLE tiles (zoom_level, tile_column, data)")),
            &["its table tiles has no column tile_row"],
        ),
        (
            database("png.mbtiles", &format!("{metadata} {tiles} INSERT INTO metadata VALUES ('format', 'png')")),
            &["its tiles are of the format \"png\""],
        ),
        (
            make("a.zip", b"PK"),
            &["\" names no target: write a file.mbtiles, a file.pmtiles, a directory/, s3://bucket/prefix/ or "],
        ),
        ("/dev/null".into(), &["\"/dev/null\" names no target: "]),
        ("s3://bucket".into(), &["\"s3://bucket\" names no target: "]),
    ] {
        for mut command in looks(&file, &old.path) {
            old.refuses_command(&mut command, 2, texts);
        }
    }
}

#[test]
fn a_cut_or_changed_archive_ends_in_a_defined_error() {
    let db = Db::with_facilities(60);
    let folder = tempfile::tempdir().unwrap();
    let (sound, broken) = (folder.path().join("t.mbtiles"), folder.path().join("x.mbtiles"));
    let target = folder.path().join("target.mbtiles");
    seed(&db.url, &sound, &["--zoom", "0-5"]).ok();
    let bytes = std::fs::read(&sound).unwrap();
    // Within the process, at many places: whatever it reads, it does not panic.
    let look = |bytes: &[u8]| {
        std::fs::write(&broken, bytes).unwrap();
        let mut reader = MbtilesReader::open(&broken)?;
        let (described, checked) = (reader.describe(), reader.check());
        let tiles = reader.list()?;
        reader.read(&tiles)?;
        described?;
        checked
    };
    assert_eq!(look(&bytes).unwrap(), Vec::<String>::new());
    let mut chance = Chance(0xa12e);
    let mut refused = 0;
    for _ in 0..400 {
        let mut changed = bytes.clone();
        for _ in 0..=chance.below(20) {
            let at = chance.below(changed.len());
            changed[at] = chance.below(256) as u8;
        }
        refused += u32::from(!look(&changed).is_ok_and(|found| found.is_empty()));
    }
    assert!(refused > 300, "{refused}");
    for end in (0..bytes.len()).step_by(509).chain(bytes.len() - 200..bytes.len()) {
        assert!(!look(&bytes[..end]).is_ok_and(|found| found.is_empty()), "cut off at {end} of {}", bytes.len());
    }
    // As a user sees it: exit code 1 or 2, one error, no target.
    for end in (0..bytes.len()).step_by(bytes.len() / 13) {
        std::fs::write(&broken, &bytes[..end]).unwrap();
        for mut command in looks(&broken, &target) {
            let ended = run(&mut command);
            // A tile in the part that is left can still be shown.
            let shows = format!("{command:?}").contains("0/0/0") && ended.code == 0;
            assert!(shows || [1, 2].contains(&ended.code), "cut off at {end}: {command:?} {}", ended.stderr);
            assert!(shows || ended.stderr.matches("error: ").count() == 1, "cut off at {end}: {}", ended.stderr);
        }
        assert!(!target.exists(), "cut off at {end}");
    }
    std::fs::write(&broken, packed(&bytes)).unwrap();
    copy(&broken, &target, &[]).fails(2, &["it is not an SQLite file"]);
}

#[test]
fn a_copy_of_a_part_does_not_take_a_targets_manifest_away() {
    let db = Db::with_facilities(100);
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("a.mbtiles"), folder.path().join("tiles"));
    seed(&db.url, &source, &["--zoom", "0-4"]).ok();
    copy(&source, &target, &[]).ok();
    let noted = std::fs::read(target.join("metadata.json")).unwrap();
    let text = format!(
        "error: {}: it has a manifest, which a copy of a part, or of a source without one, would take away. Copy into another target\n",
        target.display()
    );
    copy(&source, &target, &["--zoom", "0-2"]).fails(2, &[&text]);
    assert!(std::fs::read(target.join("metadata.json")).unwrap() == noted);
    run(program().arg("verify").arg(&target)).ok();
}
