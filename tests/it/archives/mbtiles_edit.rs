//! An archive that is edited in place, and others who read it, write it or die over it meanwhile.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oar_tiles::stop::Stop;
use oar_tiles::target::{
    Mbtiles, MbtilesError, MbtilesReader, OpenMode, Sink as _, StagingError, TileEdit, TileReader as _, Written,
};
use oar_tiles::tile::TileCoord;
use rusqlite::Connection;

use crate::support::folder::Folder;
use crate::support::process::{Process, Start as _};
use crate::support::program::{humble, program, run};
use crate::support::refusal::names;
use crate::support::s3::coord;
use crate::support::targets::{hand_over, metadata, once_free, staying, tileset};
use crate::support::{Archive, SmallDisk, until};

/// Tiles of zoom 7 whose bytes tell a version; in the order of the archive.
fn tiles(count: u32, version: u8) -> Vec<TileEdit> {
    let tile = |number: u32| -> TileCoord { coord(7, number / 128, 127 - number % 128) };
    (0..count).map(|number| TileEdit::Put(tile(number).into(), vec![version; 300].into())).collect()
}

/// A folder with an archive of so many tiles, version 0, in a folder of its own.
fn archive(count: u32) -> (Folder, std::path::PathBuf) {
    let folder = Folder::new();
    let path = folder.beside("tiles/t.mbtiles");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    seed(&path, count, 0);
    (folder, path)
}

fn seed(path: &Path, count: u32, version: u8) {
    let mut sink = once_free(|| Mbtiles::open(path, OpenMode::Replace, &Stop::new()));
    sink.begin(&tileset("0-7", &[])).unwrap();
    hand_over(sink, &tiles(count, version), &format!("version {version}")).unwrap();
}

fn edit(path: &Path, edits: &[TileEdit], manifest: &str) -> Result<(Written, u64), MbtilesError> {
    let mut sink = once_free(|| match Mbtiles::open(path, OpenMode::Edit, &Stop::new()) {
        Err(error @ MbtilesError::Staging(StagingError::Busy { .. })) => Err(error),
        opened => Ok(opened),
    })?;
    sink.begin(&staying())?;
    hand_over(sink, edits, manifest)
}

/// The version of all tiles and of the manifest, which are one, and that the file is sound.
#[track_caller]
fn version(path: &Path, count: u32) -> u8 {
    let archive = Archive::open(path);
    let check: String = archive.0.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let stored = archive.stored();
    let version = stored.values().next().unwrap()[0];
    assert_eq!(stored.len() as u32, count);
    assert!(stored.values().all(|bytes| *bytes == [version; 300]), "tiles of two versions");
    let manifest = archive.metadata("oar_tiles_manifest").unwrap();
    assert!(manifest.contains(&format!("version {version}\"")), "{manifest} and tiles of version {version}");
    version
}

/// Another process with a read transaction on an archive.
struct Reader(Process, BufReader<std::process::ChildStdout>);

impl Reader {
    fn of(path: &Path) -> Reader {
        // Prints the versions that it sees for each line it is sent; its transaction ends with the lines.
        let script = "import sqlite3, sys
archive = sqlite3.connect(sys.argv[1], isolation_level=None)
archive.execute('BEGIN')
for line in sys.stdin:
    print(sorted({data[0] for (data,) in archive.execute('SELECT tile_data FROM tiles')}), flush=True)";
        let mut python = Command::new("python3");
        let python = python.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.start();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Reader(child, answers)
    }

    fn sees(&mut self) -> String {
        self.0.stdin.as_mut().unwrap().write_all(b"?\n").unwrap();
        let mut answer = String::new();
        self.1.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    fn ends(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn a_reader_in_a_transaction_sees_the_old_state_until_it_ends() {
    // Few changes are applied beside readers, many once they are gone.
    for count in [100, 12_000] {
        let (_folder, path) = archive(count);
        let mut reader = Reader::of(&path);
        assert_eq!(reader.sees(), "[0]");
        let journal = path.with_file_name("t.mbtiles-journal");
        std::thread::scope(|scope| {
            let edited = scope.spawn(|| edit(&path, &tiles(count, 1), "version 1").unwrap());
            if count == 100 {
                until("the edits are applied", || journal.exists());
            }
            for _ in 0..20 {
                assert_eq!(reader.sees(), "[0]");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(!edited.is_finished(), "the edit waits for the reader");
            reader.ends();
            assert_eq!(edited.join().unwrap().0.stored, u64::from(count));
        });
        assert_eq!(version(&path, count), 1);
        assert_eq!(names(path.parent().unwrap()).len(), 1, "nothing is left beside it");
    }
}

/// An archive as a run leaves it that was killed while its pages were written: the files of a transaction that never
/// ends.
fn half_written(path: &Path, to: &Path) {
    let writer = Connection::open(path).unwrap();
    writer.execute_batch("PRAGMA cache_size = 1; BEGIN EXCLUSIVE; UPDATE tiles SET tile_data = zeroblob(299)").unwrap();
    std::fs::create_dir(to.parent().unwrap()).unwrap();
    for end in ["", "-journal"] {
        let name = format!("t.mbtiles{end}");
        std::fs::copy(path.with_file_name(&name), to.with_file_name(&name)).unwrap();
    }
    assert!(std::fs::read(to).unwrap() != std::fs::read(path.with_file_name("sound")).unwrap(), "half written");
    // The lock file of the killed run.
    std::fs::write(to.with_file_name(".t.mbtiles.partial"), b"").unwrap();
}

#[test]
fn what_a_killed_run_left_half_written_is_undone_by_whoever_comes_next() {
    let (folder, path) = archive(2_000);
    std::fs::copy(&path, path.with_file_name("sound")).unwrap();
    let killed = |name: &str| {
        let to = folder.beside(&format!("{name}/t.mbtiles"));
        half_written(&path, &to);
        to
    };
    let read = killed("reader");
    assert_eq!(Reader::of(&read).sees(), "[0]", "anybody who may write it sees the old state");
    let read = killed("our-reader");
    assert_eq!(MbtilesReader::open(&read).unwrap().list().unwrap().len(), 2_000);
    assert_eq!(version(&read, 2_000), 0, "ours does, too");
    let read = killed("no-writer");
    std::fs::set_permissions(&read, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    let text = format!(
        "error: {} was left half written by a program that was killed, and you may not write it: open it once as a user who may, with sqlite3 or by any command of oar-tiles, which undoes that\n",
        read.display()
    );
    run(&mut humble(program().arg("inspect").arg(&read))).fails(1, &[&text]);

    let edited = killed("edit");
    let (written, deleted) = edit(&edited, &tiles(2_001, 3), "version 3").unwrap();
    assert_eq!((written.stored, written.added, deleted), (2_001, 1, 0), "the old state is what is compared with");
    assert_eq!(version(&edited, 2_001), 3);

    let seeded = killed("seed");
    seed(&seeded, 10, 4);
    assert_eq!(version(&seeded, 10), 4);
    // Killed before the first page was written: SQLite fills in the begin of its journal last.
    for (length, count) in [(600, 11), (0, 12)] {
        std::fs::write(seeded.with_file_name("t.mbtiles-journal"), vec![0; length]).unwrap();
        seed(&seeded, count, 5);
        assert_eq!(version(&seeded, count), 5);
        assert_eq!(names(seeded.parent().unwrap()).len(), 1);
    }
    for path in [edited, seeded] {
        assert_eq!(names(path.parent().unwrap()).len(), 1, "nothing is left beside it");
    }
}

/// Not a test of its own: what the tests below run in a process that they may kill or humble.
#[test]
fn a_child_that_edits() {
    let Some(path) = std::env::var_os("TEST_EDITED_ARCHIVE") else { return };
    let rounds: u32 = std::env::var("TEST_EDITED_ROUNDS").unwrap().parse().unwrap();
    for round in 1..=rounds {
        let number = round as u8;
        if let Err(error) = edit(Path::new(&path), &tiles(12_000, number), &format!("version {number}")) {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}

fn child(path: &Path, rounds: u32) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "archives::mbtiles_edit::a_child_that_edits", "--nocapture"]);
    child.env("TEST_EDITED_ARCHIVE", path).env("TEST_EDITED_ROUNDS", rounds.to_string());
    child
}

#[test]
fn killed_at_any_moment_it_holds_the_old_state_or_the_new_one_and_can_be_edited_and_seeded() {
    const COUNT: u32 = 12_000;
    let (_folder, path) = archive(COUNT);
    let journal = path.with_file_name("t.mbtiles-journal");
    let mut half_written = 0;
    for kill in 0..12 {
        let mut child = child(&path, u32::MAX);
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).start();
        until("the child writes", || journal.exists());
        std::thread::sleep(Duration::from_millis(3 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        half_written += u32::from(journal.exists());
        if kill % 2 == 0 {
            drop(MbtilesReader::open(&path).unwrap());
            version(&path, COUNT);
        }
        if kill % 3 == 0 {
            seed(&path, COUNT, 100 + kill as u8);
        } else {
            edit(&path, &tiles(COUNT, 100 + kill as u8), &format!("version {}", 100 + kill)).unwrap();
        }
        assert_eq!(version(&path, COUNT), 100 + kill as u8);
        assert_eq!(names(path.parent().unwrap()).len(), 1, "nothing is left beside it");
    }
    assert!(half_written > 0, "no moment was one at which it was written");
}

#[test]
fn the_hash_is_right_or_absent_and_rows_of_others_stay() {
    let (_folder, path) = archive(50);
    let hash = Archive::open(&path).metadata("agg_tiles_hash").unwrap();
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("INSERT INTO metadata VALUES ('theirs', 'kept'), ('attribution', 'of an older configuration')")
        .unwrap();
    drop(other);
    edit(&path, &tiles(50, 0), "version 0, again").unwrap();
    let archive = Archive::open(&path);
    assert_eq!(archive.metadata("agg_tiles_hash"), Some(hash), "no tile has changed");
    assert_eq!(archive.metadata("theirs").as_deref(), Some("kept"));
    assert_eq!(archive.metadata("scheme").as_deref(), Some("tms"));
    assert_eq!(archive.metadata("attribution"), None, "this configuration credits nobody");
    assert!(archive.metadata("oar_tiles_manifest").unwrap().contains("again"));
    drop(archive);
    for edits in [&tiles(1, 9)[..], &[TileEdit::Remove(tiles(1, 9)[0].id())]] {
        edit(&path, edits, "another").unwrap();
        assert_eq!(Archive::open(&path).metadata("agg_tiles_hash"), None);
        Connection::open(&path).unwrap().execute("INSERT INTO metadata VALUES ('agg_tiles_hash', 'x')", []).unwrap();
    }
}

#[test]
fn the_journal_mode_stays_as_it_was_found() {
    for (mode, versions) in [("DELETE", [1, 1]), ("WAL", [2, 2])] {
        let (_folder, path) = archive(50);
        Connection::open(&path).unwrap().pragma_update(None, "journal_mode", mode).unwrap();
        edit(&path, &tiles(50, 1), "version 1").unwrap();
        assert_eq!(version(&path, 50), 1);
        assert_eq!(std::fs::read(&path).unwrap()[18..20], versions, "{mode}");
        assert!(!path.with_file_name("t.mbtiles-journal").exists());
        seed(&path, 20, 2);
        assert_eq!(version(&path, 20), 2);
        assert_eq!(std::fs::read(&path).unwrap()[18..20], [1, 1], "a new archive is never in WAL mode");
    }
}

#[test]
fn what_others_do_to_the_archive_during_a_run_ends_it() {
    let change: [fn(&Path); 3] = [
        |path| Connection::open(path).unwrap().execute_batch("INSERT INTO metadata VALUES ('a', 'b')").unwrap(),
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            std::fs::copy(path, path.with_file_name("other")).unwrap();
            std::fs::rename(path.with_file_name("other"), path).unwrap();
        },
    ];
    for (number, change) in change.into_iter().enumerate() {
        let (_folder, path) = archive(50);
        let mut sink = Mbtiles::open(&path, OpenMode::Edit, &Stop::new()).unwrap();
        sink.begin(&staying()).unwrap();
        sink.write(tiles(50, 1)).unwrap();
        change(&path);
        let there = std::fs::read(&path).ok();
        let refused = sink.finish(&metadata("never")).unwrap_err().to_string();
        let text = format!(
            "{} was changed, replaced or removed by somebody else during the run: it is left alone. See that only one program writes it, then run the command again",
            path.display()
        );
        assert_eq!(refused, text, "{number}");
        assert!(std::fs::read(&path).ok() == there, "{number}");
    }
}

#[test]
fn what_cannot_be_edited_is_named() {
    let (folder, path) = archive(50);
    let shown = path.display();
    let refused = |path: &Path| edit(path, &tiles(1, 1), "never").unwrap_err().to_string();
    // As the user who may read it.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    let text = format!(
        "error: {shown} may be read and not written: give yourself the right to write it, or choose another --output\n"
    );
    run(&mut humble(&child(&path, 1))).fails(1, &[&text]);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(version(&path, 50), 0);

    let view = Connection::open(&path).unwrap();
    view.execute_batch("ALTER TABLE tiles RENAME TO t; CREATE VIEW tiles AS SELECT * FROM t").unwrap();
    drop(view);
    let text =
        format!("{shown} keeps its tiles in a view over other tables, which is not changed in place: seed it anew");
    assert_eq!(refused(&path), text);

    let foreign = folder.beside("f.mbtiles");
    for (bytes, what) in [(&b"PK\x03\x04 and so on"[..], "it is not an SQLite file"), (b"", "")] {
        std::fs::write(&foreign, bytes).unwrap();
        let text = if bytes.is_empty() {
            format!("there is no archive {} whose tiles could be brought up to date: seed it first", foreign.display())
        } else {
            format!(
                "{} is no MBTiles file ({what}): it is left alone. Choose another --output, or remove it first",
                foreign.display()
            )
        };
        assert_eq!(refused(&foreign), text);
    }
    std::fs::remove_file(&foreign).unwrap();
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE accounts (name text)").unwrap();
    let text = format!(
        "{} is no MBTiles archive of vector tiles (it is an SQLite file without the table metadata)",
        foreign.display()
    );
    assert_eq!(refused(&foreign), text);
}

#[test]
fn a_full_disk_leaves_the_old_state() {
    let folder = Folder::new();
    let Some(disk) = SmallDisk::mount(&folder.beside("disk"), "2m") else { return };
    let path = disk.path.join("t.mbtiles");
    seed(&path, 2_000, 0);
    // The journal of the old pages finds no room, then the new tiles, which are larger.
    for edits in [
        tiles(2_000, 1),
        tiles(2_000, 1).into_iter().map(|edit| TileEdit::Put(edit.id(), vec![1; 3_000].into())).collect(),
    ] {
        disk.resize("1m");
        let refused = edit(&path, &edits, "never").unwrap_err();
        let text = format!(
            "no room to write {0}: make room on its disk, or choose another --output; {0} is unchanged",
            path.display()
        );
        assert_eq!(refused.to_string(), text);
        disk.resize("2m");
        assert_eq!(version(&path, 2_000), 0);
    }
}
