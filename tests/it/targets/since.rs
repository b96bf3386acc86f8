//! `copy --since`: a patch from an older target to a newer one.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::folder::Folder;
use crate::support::program::{Run, over_rows, program, run};
use crate::support::tracked::Tracked;
use crate::support::{Archive, OldTarget};

const ZOOM: [&str; 2] = ["--zoom", "0-8"];

fn since(new: &Path, old: &Path, patch: &Path, arguments: &[&str]) -> Run {
    run(program().arg("copy").arg(new).arg(patch).arg("--since").arg(old).args(arguments))
}

/// What `mbtiles apply-patch` does with an archive: the statements of docs/targets.md.
fn apply(patch: &Path, archive: &Path) {
    let connection = Connection::open(archive).unwrap();
    connection.execute("ATTACH ?1 AS patch", [patch.to_str().unwrap()]).unwrap();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/targets.md")).unwrap();
    let from = page.split_once("ATTACH 'changes.mbtiles' AS patch;\n").expect("the statements in docs/targets.md").1;
    connection.execute_batch(from.split_once("```").unwrap().0).unwrap();
}

fn value(archive: &Path, name: &str) -> Option<String> {
    Archive::open(archive).metadata(name)
}

#[test]
fn a_patch_turns_the_older_archive_into_the_newer_one() {
    let tracked = Tracked::facilities(600);
    let old = seed_with(&tracked, "old.mbtiles", "");
    tracked.db.run(
        "UPDATE api_facility SET name = name || '!' WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 3);
         DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY id DESC LIMIT 40)",
    );
    let new = seed_with(&tracked, "new.mbtiles", "description = \"Mills\"");
    let (patch, before, after) =
        (tracked.path("changes.mbtiles"), Archive::open(&old).stored(), Archive::open(&new).stored());
    let done = since(&new, &old, &patch, &[]).ok();
    let gone = before.keys().filter(|tile| !after.contains_key(tile)).count();
    let stored = after.iter().filter(|(tile, bytes)| before.get(tile) != Some(bytes)).count();
    assert!(gone > 0 && stored > 0 && stored < after.len(), "{gone} {stored}");
    let said = format!("{stored} tiles stored, {} unchanged, {gone} removed, a patch: ", after.len() - stored);
    assert!(done.stdout.starts_with(&said), "{}", done.stdout);
    assert!(
        done.stdout.ends_with(&format!("new.mbtiles since {} → {}\n", old.display(), patch.display())),
        "{}",
        done.stdout
    );
    let size = |path: &Path| path.metadata().unwrap().len();
    assert!(size(&patch) < size(&new));
    assert_eq!(value(&patch, "agg_tiles_hash_before_apply"), value(&old, "agg_tiles_hash"));
    assert_eq!(value(&patch, "agg_tiles_hash_after_apply"), value(&new, "agg_tiles_hash"));
    let rows = Connection::open(&patch).unwrap();
    let nulls: i64 =
        rows.query_row("SELECT count(*) FROM tiles WHERE tile_data IS NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(nulls, i64::try_from(gone).unwrap());

    // Applied, the older archive is the newer one, its metadata too.
    apply(&patch, &old);
    assert!(Archive::open(&old).stored() == after);
    for name in ["agg_tiles_hash", "oar_tiles_manifest", "json", "description", "bounds"] {
        assert_eq!(value(&old, name), value(&new, name), "{name}");
    }
    assert_eq!(value(&old, "agg_tiles_hash_before_apply"), None);
    run(program().args(["verify"]).arg(&old)).ok();
    let nothing = tracked.reseed(&old, &["--config", tracked.path("c.toml").to_str().unwrap()]).ok();
    assert!(nothing.stdout.starts_with("nothing to do"), "{}", nothing.stdout);

    // A description that the newer archive lacks is taken away.
    let third = seed_with(&tracked, "third.mbtiles", "");
    let back = tracked.path("back.mbtiles");
    let done = since(&third, &old, &back, &[]).ok();
    assert!(done.stdout.starts_with("0 tiles stored, "), "{}", done.stdout);
    apply(&back, &old);
    assert_eq!(value(&old, "description"), None);

    // Targets of any kind.
    let (folder, packed) = (tracked.path("old/"), tracked.path("new.pmtiles"));
    for (from, to) in [(&third, &packed), (&third, &folder)] {
        run(program().arg("copy").arg(from).arg(to)).ok();
    }
    tracked.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 40)");
    let newest = seed_with(&tracked, "newest.pmtiles", "");
    let patch = tracked.path("mixed.mbtiles");
    since(&newest, &folder, &patch, &[]).ok();
    apply(&patch, &third);
    run(program().arg("diff").arg(&third).arg(&newest)).ok();
    run(program().args(["verify"]).arg(&third)).ok();
}

/// A seed with a setting of the tileset.
fn seed_with(tracked: &Tracked, name: &str, setting: &str) -> PathBuf {
    let config = tracked.path("c.toml");
    std::fs::write(&config, over_rows(&format!("[tileset]\n{setting}\n"))).unwrap();
    let config = config.to_str().unwrap();
    tracked.oar_tiles(&["track", "install", "--config", config]).ok();
    tracked.seed(name, &[&ZOOM[..], &["--config", config]].concat())
}

#[test]
fn a_patch_is_no_tileset_and_replaces_none() {
    let (old, folder) = (OldTarget::new(), Folder::new());
    let one = old.path.clone();
    let patch = folder.beside("changes.mbtiles");
    since(&one, &one, &patch, &[]).ok();
    let is_patch =
        "it is a patch, which holds changes alone: apply it to the archive that it was made for (mbtiles apply-patch)";
    for verb in ["verify", "inspect", "serve"] {
        run(program().arg(verb).arg(&patch)).fails(2, &[patch.to_str().unwrap(), is_patch]);
    }
    let there = "it is there already, and a patch (--since) is a file of its own. Choose another name, or remove it";
    let copied = folder.beside("copy.mbtiles");
    run(program().arg("copy").arg(&one).arg(&copied)).ok();
    let before = std::fs::read(&copied).unwrap();
    since(&one, &one, &copied, &[]).fails(2, &[copied.to_str().unwrap(), there]);
    assert!(std::fs::read(&copied).unwrap() == before);
    since(&one, &one, &patch, &[]).fails(2, &[there]);
    since(&one, &one, &patch, &["--force"]).ok();
    since(&one, &copied, &one, &["--force"]).fails(2, &["copied onto itself"]);
    since(&one, &one, &folder.beside("changes.pmtiles"), &[])
        .fails(2, &["a patch (--since) is an MBTiles file: name one"]);
    let several = "--since compares one target with an older one: join them first (oar-tiles copy A B joined.mbtiles), and copy that one";
    run(program().arg("copy").args([&one, &copied, &folder.beside("p.mbtiles")]).arg("--since").arg(&one))
        .fails(2, &[several]);
    since(&one, &patch, &folder.beside("p.mbtiles"), &[]).fails(2, &[is_patch]);
}
