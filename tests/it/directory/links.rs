//! Names that the program derives from a target's lead nowhere else: whoever may write the folder cannot have a run
//! write, empty or remove another file.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::damaged::{TILES, mbtiles};
use crate::support::folder::Folder;
use crate::support::program::{Run, program, run};
use crate::support::refusal::{NOWHERE, names};
use crate::support::tree::files;

/// A source, a target that is not there yet, and files that nobody may touch.
struct Place {
    folder: Folder,
    source: PathBuf,
    precious: PathBuf,
}

impl Place {
    fn new() -> Place {
        let folder = Folder::new();
        let source = folder.beside("source.mbtiles");
        mbtiles(&source, &[TILES, "INSERT INTO tiles VALUES (0, 0, 0, ?1)", "INSERT INTO tiles VALUES (1, 0, 0, ?1)"]);
        let precious = folder.beside("precious");
        std::fs::create_dir(&precious).unwrap();
        for name in ["file", "0.pbf", "lock", "partial"] {
            std::fs::write(precious.join(name), "precious").unwrap();
        }
        std::fs::create_dir(folder.beside("out")).unwrap();
        Place { folder, source, precious }
    }

    fn target(&self, name: &str) -> PathBuf {
        self.folder.beside("out").join(name)
    }

    fn copy(&self, target: &Path, arguments: &[&str]) -> Run {
        run(program().arg("copy").arg(&self.source).arg(target).args(arguments))
    }

    #[track_caller]
    fn is_untouched(&self, what: &str) {
        let expected = ["0.pbf", "file", "lock", "partial"].map(|name| (name.to_owned(), b"precious".to_vec()));
        assert_eq!(all_files(&self.precious), BTreeMap::from(expected), "{what}");
        assert!(!self.folder.beside("early").exists(), "{what}: a file was made where a link pointed to");
    }
}

/// Every file below a folder, a lock too.
fn all_files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    names(root).into_iter().map(|name| (name.clone(), std::fs::read(root.join(name)).unwrap())).collect()
}

/// Puts something in the place of a file.
fn put(kind: &str, place: &Place, path: &Path) {
    match kind {
        "link" => symlink(place.precious.join("file"), path).unwrap(),
        "relative link" => symlink("../precious/file", path).unwrap(),
        "link to nothing" => symlink(place.folder.beside("early"), path).unwrap(),
        "link to a device" => symlink("/dev/full", path).unwrap(),
        "hard link" => std::fs::hard_link(place.precious.join("file"), path).unwrap(),
        "folder" => std::fs::create_dir(path).unwrap(),
        "pipe" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "left over" => std::fs::write(path, "half an archive").unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_staged_file_is_a_new_one_whatever_has_its_name() {
    for name in ["t.mbtiles", "t.pmtiles"] {
        for (kind, text) in [
            ("link", "it is a symbolic link, which is not followed here"),
            ("relative link", "it is a symbolic link, which is not followed here"),
            ("link to nothing", "it is a symbolic link, which is not followed here"),
            ("link to a device", "it is a symbolic link, which is not followed here"),
            ("pipe", "it is no regular file"),
            ("folder", "Is a directory"),
        ] {
            let place = Place::new();
            let (target, staged) = (place.target(name), place.target(&format!(".{name}.partial")));
            put(kind, &place, &staged);
            let message = format!(
                "error: cannot write {}: the new file is filled under this name, so remove what has it, or choose another --output\n  cause: {text}",
                staged.display()
            );
            place.copy(&target, &[]).fails(1, &[&message]);
            run(program().args(["seed", "--database-url", NOWHERE, "--output"]).arg(&target)).fails(1, &[&message]);
            place.is_untouched(kind);
            assert!(!target.exists() && staged.symlink_metadata().is_ok(), "{kind}: it is left alone");
        }
        for kind in ["hard link", "left over"] {
            let place = Place::new();
            let (target, staged) = (place.target(name), place.target(&format!(".{name}.partial")));
            put(kind, &place, &staged);
            // Held open, so that the new file cannot have its number.
            let before = std::fs::File::open(&staged).unwrap();
            place.copy(&target, &[]).ok();
            place.is_untouched(kind);
            let before = before.metadata().unwrap().ino();
            assert!(
                target.metadata().unwrap().ino() != before && !staged.exists(),
                "{kind}: the archive is a new file"
            );
            run(program().arg("verify").arg(&target)).ok();
        }
    }
}

#[test]
fn what_sqlite_would_open_beside_an_archive_is_a_file() {
    for end in ["-journal", "-wal"] {
        for kind in ["link", "link to nothing", "link to a device", "pipe"] {
            let place = Place::new();
            let target = place.target("t.mbtiles");
            place.copy(&target, &[]).ok();
            let before = std::fs::read(&target).unwrap();
            put(kind, &place, &place.target(&format!("t.mbtiles{end}")));
            place.copy(&target, &[]).fails(1, &[&format!("t.mbtiles{end} lies beside the output")]);
            place.is_untouched(kind);
            assert!(std::fs::read(&target).unwrap() == before, "{end} {kind}");
        }
    }
}

#[test]
fn an_archive_that_is_a_link_stays_one_and_its_goal_is_replaced() {
    for ending in ["mbtiles", "pmtiles"] {
        let place = Place::new();
        let data = place.target("data");
        std::fs::create_dir(&data).unwrap();
        let (link, goal) = (place.target(&format!("current.{ending}")), data.join(format!("x.{ending}")));
        symlink(format!("data/x.{ending}"), &link).unwrap();
        // The goal is yet to come, then it is there.
        for _ in 0..2 {
            place.copy(&link, &[]).ok();
            assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(&format!("data/x.{ending}")));
            assert!(goal.symlink_metadata().unwrap().is_file());
            assert_eq!(names(&data).len(), 1, "nothing is left beside it");
        }
        // What lies beside the goal counts, not what lies beside the link.
        put("link", &place, &data.join(format!(".x.{ending}.partial")));
        place.copy(&link, &[]).fails(1, &["it is a symbolic link, which is not followed here"]);
        place.is_untouched(ending);
    }
}

#[test]
fn a_target_directory_may_be_a_link_and_nothing_below_it() {
    let place = Place::new();
    let goal = place.target("real");
    std::fs::create_dir(&goal).unwrap();
    let link = place.target("current");
    symlink("real", &link).unwrap();
    place.copy(&link, &[]).ok();
    place.copy(&link, &["--force"]).ok();
    assert!(link.symlink_metadata().unwrap().is_symlink() && goal.join("0/0/0.pbf").is_file());
    run(program().arg("verify").arg(&link)).ok();

    // A link to nothing is no directory, and none is made where it points to.
    let nothing = place.target("nothing");
    symlink(place.folder.beside("early"), &nothing).unwrap();
    place.copy(&nothing, &[]).fails(1, &[&format!("cannot open {}", nothing.display())]);
    place.is_untouched("a link to nothing");

    for (name, text) in [
        ("0", "is a symbolic link where a folder of the target must be"),
        ("1/0", "is a symbolic link where a folder of the target must be"),
        (".oar-tiles", "is a symbolic link where a folder of the target must be"),
    ] {
        let place = Place::new();
        let target = place.target("tiles");
        let in_the_way = target.join(name);
        std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
        symlink(&place.precious, &in_the_way).unwrap();
        place.copy(&target, &["--force"]).fails(1, &[&format!("{} {text}", in_the_way.display())]);
        place.is_untouched(name);
        assert!(in_the_way.symlink_metadata().unwrap().is_symlink());
    }
}

#[test]
fn the_lock_of_a_directory_is_a_file_of_its_own() {
    for (kind, text) in [
        ("link", "it is a symbolic link, which is not followed here"),
        ("link to nothing", "it is a symbolic link, which is not followed here"),
        ("pipe", "it is no regular file"),
    ] {
        let place = Place::new();
        let target = place.target("tiles");
        std::fs::create_dir_all(target.join(".oar-tiles")).unwrap();
        let lock = target.join(".oar-tiles/lock");
        put(kind, &place, &lock);
        let message =
            format!("error: cannot lock {}: remove it, or choose another --output\n  cause: {text}", lock.display());
        place.copy(&target, &[]).fails(1, &[&message]);
        place.is_untouched(kind);
        assert_eq!(names(&target).len(), 1, "{kind}: nothing was begun");
    }
    let place = Place::new();
    let target = place.target("tiles");
    std::fs::create_dir_all(target.join(".oar-tiles")).unwrap();
    put("hard link", &place, &target.join(".oar-tiles/lock"));
    place.copy(&target, &[]).ok();
    place.is_untouched("hard link");
    // The file stays, for whoever comes next.
    let lock = target.join(".oar-tiles/lock");
    let before = lock.metadata().unwrap().ino();
    place.copy(&target, &["--force"]).ok();
    assert_eq!(lock.metadata().unwrap().ino(), before);
}

#[test]
fn what_is_written_beside_a_tile_is_a_new_file() {
    for kind in ["link", "link to nothing", "link to a device", "hard link", "pipe", "left over"] {
        for name in ["partial", "partial-1", "partial-2"] {
            let place = Place::new();
            let target = place.target("tiles");
            std::fs::create_dir_all(target.join(".oar-tiles")).unwrap();
            put(kind, &place, &target.join(".oar-tiles").join(name));
            place.copy(&target, &[]).ok();
            place.is_untouched(kind);
            assert!(target.join(".oar-tiles").join(name).symlink_metadata().is_err(), "{kind}");
            run(program().arg("verify").arg(&target)).ok();
        }
    }
    for kind in ["link", "link to nothing", "link to a device", "hard link", "pipe", "left over"] {
        let place = Place::new();
        let target = place.target("tiles");
        place.copy(&target, &[]).ok();
        let tile = target.join("1/0/1.pbf");
        std::fs::write(&tile, "another").unwrap();
        let staged = target.join("1/0/.1.pbf.partial");
        put(kind, &place, &staged);
        place.copy(&target, &[]).ok();
        place.is_untouched(kind);
        assert!(staged.symlink_metadata().is_err(), "{kind}");
        run(program().arg("verify").arg(&target)).ok();
    }
    // A folder that is to be filled and renamed.
    let place = Place::new();
    let target = place.target("tiles");
    std::fs::create_dir_all(target.join(".oar-tiles")).unwrap();
    symlink(&place.precious, target.join(".oar-tiles/partial-folder")).unwrap();
    place.copy(&target, &[]).ok();
    place.is_untouched("partial-folder");
}

#[test]
fn a_tile_that_is_a_link_is_replaced_or_removed_as_itself() {
    for kind in ["link", "link to nothing", "hard link", "pipe"] {
        let place = Place::new();
        let target = place.target("tiles");
        place.copy(&target, &[]).ok();
        let right = files(&target);
        // One that is to be written, and one that is to be removed.
        for name in ["0/0/0.pbf", "1/1/0.pbf"] {
            let tile = target.join(name);
            std::fs::create_dir_all(tile.parent().unwrap()).unwrap();
            std::fs::remove_file(&tile).unwrap_or_default();
            put(kind, &place, &tile);
        }
        place.copy(&target, &["--force"]).ok();
        place.is_untouched(kind);
        assert!(files(&target) == right, "{kind}");
        assert!(target.join("0/0/0.pbf").symlink_metadata().unwrap().is_file(), "{kind}");
    }
}

#[test]
fn versions_lie_in_the_target() {
    let place = Place::new();
    let target = place.target("tiles");
    let config = place
        .folder
        .config("[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\nkeep_versions = 0\nkeep_for = \"0s\"\n");
    place.copy(&target, &["--config", &config]).ok();
    let shown = std::fs::read_to_string(target.join("latest.json")).unwrap();
    // The notes of a version that is to be removed are a link.
    symlink(&place.precious, target.join(".oar-tiles/versions/20200101T000000Z")).unwrap();
    place.copy(&target, &["--config", &config]).ok();
    place.is_untouched("a version");
    assert!(target.join(".oar-tiles/versions/20200101T000000Z").symlink_metadata().is_err());
    assert!(std::fs::read_to_string(target.join("latest.json")).unwrap() != shown);
    // A list of versions that leads out of the target.
    let wrong =
        "{\"version\": \"../../../precious\", \"versions\": [{\"version\": \"../../../precious\", \"published\": 1}]}";
    std::fs::write(target.join("latest.json"), wrong).unwrap();
    place.copy(&target, &["--config", &config]).fails(1, &["latest.json is damaged"]);
    let mut publish = program();
    publish.args(["publish", "--config", &config, "--rollback", "--output"]).arg(&target);
    run(&mut publish).fails(1, &["latest.json is damaged"]);
    place.is_untouched("a list of versions");
}
