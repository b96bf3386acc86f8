//! Targets of all kinds: a seed in shards leaves what one machine leaves.

use std::path::Path;

use super::helpers::{Sharded, names, without_times};
use crate::support::places::Places;
use crate::support::program::{run, wait};
use crate::support::tracked::Tracked;
use crate::support::{Archive, Db, seed, until};

/// What a manifest says but for its times, its publication, and its snapshot with the witness of it, which other
/// databases of the server move on.
fn manifest(text: &str) -> serde_json::Value {
    let mut manifest: serde_json::Value = serde_json::from_str(text).unwrap();
    for name in ["started", "seconds", "publication", "snapshot", "witness"] {
        manifest.as_object_mut().unwrap().remove(name).unwrap();
    }
    manifest
}

#[test]
fn an_mbtiles_archive_is_byte_for_byte_that_of_a_seed_however_it_is_cut() {
    let tracked = Tracked::facilities(600);
    let single = tracked.seed("single.mbtiles", &["--zoom", "0-7"]);
    for shards in [1, 3, 11] {
        let sharded = Sharded::into(&tracked.db, tracked.folder.path(), &format!("{shards}.mbtiles"));
        sharded.whole(shards, &[]);
        let target = Path::new(&sharded.target);
        assert!(without_times(target) == without_times(&single), "{shards} shards");
        let of = |path: &Path| manifest(&Archive::open(path).metadata("oar_tiles_manifest").unwrap());
        assert_eq!(of(target), of(&single));
        // Nothing is left, and nothing is known of the run but its end.
        assert_eq!(names(Path::new(&sharded.work), ""), [".oar-tiles"]);
        sharded.verb("status", &[]).fails(2, &["holds no run: begin one with oar-tiles shards begin"]);
        std::fs::remove_dir_all(&sharded.work).unwrap();
    }
}

#[test]
fn a_single_feature_and_none_at_all_are_cut_as_well() {
    let tracked = Tracked::facilities(5);
    for left in [1, 0] {
        tracked.db.run(&format!("DELETE FROM api_facility WHERE id NOT IN (SELECT id FROM api_facility LIMIT {left})"));
        let single = tracked.seed("single.mbtiles", &["--zoom", "0-7"]);
        let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
        sharded.whole(3, &[]);
        assert!(without_times(Path::new(&sharded.target)) == without_times(&single), "{left} rows");
    }
}

#[test]
fn the_rows_of_a_shard_are_read_by_one_session_and_once() {
    let tracked = Tracked::facilities(20_000);
    let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    sharded.more = ["--zoom", "4-6", "-vv"].map(str::to_owned).to_vec();
    sharded.begin(2, &[]);
    for shard in ["1", "2"] {
        let ran = sharded.verb("run", &["--shard", shard, "--workers", "2"]).ok();
        assert!(ran.stderr.contains(" rows are cached, ") && !ran.stderr.contains("side by side"), "{}", ran.stderr);
    }
}

/// The parts of a PMTiles archive (PMTiles v3, section 3) but its metadata: the counts of the header, root, leaves,
/// tiles.
pub(super) fn pmtiles_parts(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let part = |at: usize| bytes[number(at)..number(at) + number(at + 8)].to_vec();
    vec![bytes[72..127].to_vec(), part(8), part(40), part(56)]
}

#[test]
fn a_pmtiles_archive_has_the_directories_and_tiles_of_a_seed() {
    let tracked = Tracked::facilities(600);
    let single = tracked.seed("single.pmtiles", &["--zoom", "0-7"]);
    for shards in [2, 7] {
        let sharded = Sharded::into(&tracked.db, tracked.folder.path(), &format!("{shards}.pmtiles"));
        sharded.whole(shards, &[]);
        assert!(pmtiles_parts(Path::new(&sharded.target)) == pmtiles_parts(&single), "{shards} shards");
    }
}

#[test]
fn lines_areas_and_cells_are_cut_as_well() {
    let db = Db::with_facilities(400);
    let folder = tempfile::tempdir().unwrap();
    db.run(
        "CREATE TABLE way (id int PRIMARY KEY, name text, geom geometry(LineString, 4326));
         INSERT INTO way SELECT n, 'way ' || n, ST_MakeLine(ST_MakePoint(n * 7 % 340 - 170, n % 120 - 60),
             ST_MakePoint((n * 7 + 13) % 340 - 170, n % 100 - 50)) FROM generate_series(1, 60) n;
         UPDATE way SET geom = ST_SetSRID(geom, 4326);
         CREATE TABLE area (id int PRIMARY KEY, geom geometry(Polygon, 4326));
         INSERT INTO area SELECT n, ST_MakeEnvelope(n * 11 % 300 - 170, n % 90 - 60, n * 11 % 300 - 130, n % 90 - 20, 4326)
             FROM generate_series(1, 12) n",
    );
    let config = folder.path().join("c.toml");
    std::fs::write(
        &config,
        "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\n\
         [layer.aggregate]\nzoom = \"0-4\"\ncell = \"square\"\nsize = \"1/16\"\nproperties = { n = \"count(*)\" }\n\
         [[layer]]\nname = \"ways\"\ntable = \"way\"\ngeometry = \"geom\"\nkey = [\"id\"]\nproperties = [\"name\"]\n\
         [[layer]]\nname = \"areas\"\ntable = \"area\"\ngeometry = \"geom\"\nkey = [\"id\"]\n",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let single = folder.path().join("single.mbtiles");
    seed(&db.url, &single, &["--zoom", "0-7", "--config", config]).ok();
    let mut sharded = Sharded::into(&db, folder.path(), "shards.mbtiles");
    sharded.more.extend(["--config".to_owned(), config.to_owned()]);
    // Other databases of the server are written meanwhile, so it is not frozen.
    let holder = sharded.start("begin", &["--shards", "5", "--hold"]);
    until("the run is begun", || sharded.verb("status", &[]).code == 0);
    (1..=5).for_each(|shard| drop(sharded.run(shard).ok()));
    sharded.verb("commit", &[]).ok();
    wait(holder).ok();
    assert!(without_times(Path::new(&sharded.target)) == without_times(&single));
}

#[test]
fn prefixes_and_directories_are_counted_and_vanished_tiles_deleted() {
    let (tracked, places) = (Tracked::facilities(150), Places::new());
    for name in ["s3:t/", "t/", "s3:t.pmtiles"] {
        places.seed(&tracked.db, name, &["--zoom", "0-4"]).ok();
        tracked.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 40)");
        let keys = &places.prefix.keys;
        let sharded = Sharded {
            db: &tracked.db,
            target: places.place(name),
            work: places.place("s3:work/"),
            more: ["--zoom", "0-4", "--config", &places.config].map(str::to_owned).to_vec(),
            variables: vec![
                ("AWS_ACCESS_KEY_ID".to_owned(), keys.key.clone()),
                ("AWS_SECRET_ACCESS_KEY".to_owned(), keys.secret.clone()),
                ("OAR_TILES_CONFIG".to_owned(), places.config.clone()),
            ],
        };
        sharded.whole(3, &[]);
        places.seed(&tracked.db, "single.mbtiles", &["--zoom", "0-4"]).ok();
        let single = places.read_by_others("single.mbtiles");
        assert!(places.read_by_others_or_copy(name) == single, "{name}");
        // What was right already is not written again.
        sharded.begin(2, &[]);
        (1..=2).for_each(|shard| drop(sharded.run(shard).ok()));
        let report = places.place("report.json");
        let mut commit = sharded.command("commit", &["--report", &report]);
        run(&mut commit).ok();
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        if name.ends_with('/') {
            assert_eq!((&report["written"], &report["deleted"]), (&0.into(), &0.into()), "{name}");
        }
        assert_eq!(report["manifest"]["stored"], single.len(), "{name}");
    }
}
