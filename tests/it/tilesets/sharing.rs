//! Layers that several tilesets have alike: their rows are read once, and each target is what a run of its own makes.

use super::World;
use crate::support::program::{Run, program, run};
use crate::support::until;

/// A layer with a property that counts how often it is computed: once for each row that is read, and each time that the
/// database draws it.
const COUNTED: &str = "[[layer]]
name = \"facilities\"
table = \"api_facility\"
geometry = \"location\"
key = [\"id\"]
properties = { id = \"id\", counted = \"counted(name::text)\" }
";

const ROWS: i64 = 4_000;

/// Tilesets of that layer: two parts of the world, the world at other zooms, and a family. Each is the text of its
/// keys.
const SHARING: [&str; 4] = [
    "name = \"east\"\nbbox = [\"60,-60,180,80\"]\noutput = \"FOLDER/east.mbtiles\"",
    "name = \"whole\"\noutput = \"FOLDER/whole.pmtiles\"",
    "name = \"low\"\nzoom = \"0-3\"\noutput = \"FOLDER/low.mbtiles\"",
    "name = \"family\"\n[tileset.variants]\nvalues = [{ a = \"0\" }, { a = \"7\" }, { a = \"3\" }]\nwhere = { facilities = \"right(id, 1) = !a!\" }\noutput = \"FOLDER/by/{a}.mbtiles\"\nall = \"FOLDER/all.mbtiles\"",
];

const TARGETS: [&str; 7] =
    ["east.mbtiles", "whole.pmtiles", "low.mbtiles", "by/0.mbtiles", "by/7.mbtiles", "by/3.mbtiles", "all.mbtiles"];

impl World {
    fn counting() -> World {
        let world = World::of(crate::support::Db::with_facilities(ROWS as u32));
        world.db.run(&format!(
            "CREATE FUNCTION counted(t text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN rpad(upper(t), 300, 'a few words of that name'); END $$;
             ALTER DATABASE {} SET track_functions = 'pl'",
            world.db.name
        ));
        world
    }

    /// A seed with some memory for rows, and how often the property was computed in it.
    fn counted_seed(&self, config: &str, rows_mb: &str) -> (Run, i64) {
        let asked = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions WHERE funcname = 'counted'";
        let calls = || {
            // A session tells its figures at its end.
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
            until("the sessions of the run have ended", || self.db.rows(open)[0].get::<_, i64>(0) == 0);
            self.db.rows(asked)[0].get::<_, i64>(0)
        };
        let before = calls();
        let mut seed = program();
        seed.args(["seed", "--progress", "none", "-vv", "--config", config, "--database-url", &self.db.url]);
        let run = run(seed.env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        (run, calls() - before)
    }
}

/// A configuration of some of the tilesets: several, or one.
fn configuration(world: &World, tilesets: &[&str]) -> String {
    let section = if tilesets.len() > 1 { "[[tileset]]" } else { "[tileset]" };
    let defaults = if tilesets.len() > 1 { "[tileset_defaults]\nzoom = \"0-6\"\n" } else { "" };
    let own = if tilesets.len() > 1 { "" } else { "zoom = \"0-6\"\n" };
    let of = |keys: &&str| {
        let own = if keys.contains("zoom =") { "" } else { own };
        format!("{section}\n{own}{keys}\n")
    };
    let each: String = tilesets.iter().map(of).collect();
    world.file("sharing.toml", &format!("{defaults}{each}{COUNTED}"))
}

#[test]
fn rows_of_a_layer_that_tilesets_share_are_read_once() {
    let world = World::counting();
    let (run, together) = world.counted_seed(&configuration(&world, &SHARING), "auto");
    assert_eq!(run.stderr.matches("rows are cached").count(), 1, "{}", run.stderr);
    let read = |target: &str| world.copied(target).stored();
    let tiles = TARGETS.map(read);
    assert!(tiles.iter().all(|tiles| tiles.len() > 20), "{:?}", tiles.each_ref().map(std::collections::BTreeMap::len));
    let mut alone = 0;
    for keys in SHARING {
        let (run, own) = world.counted_seed(&configuration(&world, &[keys]), "auto");
        assert!(own >= ROWS / 2, "{own}: {}", run.stderr);
        alone += own;
    }
    assert!(TARGETS.map(read) == tiles, "other bytes than runs of their own");
    // Some tiles of each target are drawn by the database, too, to compare them.
    assert!(together < ROWS + ROWS / 4, "{together}, and {alone} in runs of their own");
    // The same rows in a scratch file, which all of them read.
    let (run, _) = world.counted_seed(&configuration(&world, &SHARING), "1");
    assert!(run.stderr.contains("rows are cached, in a scratch file"), "{}", run.stderr);
    assert!(run.stderr.contains("its rows were read before, for another tileset"), "{}", run.stderr);
    assert!(TARGETS.map(read) == tiles, "other bytes with rows in a scratch file");
}
