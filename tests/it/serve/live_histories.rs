//! Random histories over rows that several servers keep, each with a target of its own: whatever happens to the rows
//! and to the servers, each tile is that of a seed. `OAR_TILES_TEST_ROUNDS` and `OAR_TILES_TEST_SEED` begin longer and
//! other histories; a failing one prints its seed.

use std::fs;

use super::live_rows::Live;
use super::rows_in_file::WIDE;
use crate::reseed::live_rows::{CHANGES, POINTS};
use crate::support::chance::Chance;
use crate::support::program::{program, run, seed};
use crate::support::served::{Served, status};
use crate::support::{Archive, until};

/// Each kind of layer that is drawn from kept rows.
const KINDS: &str = r#"
[[layer]]
name = "grid"
table = "rows"
geometry = "geom"
zoom = "0-3"
buffer = 256
facets = ["kind"]
[layer.aggregate]
cell = "hexagon"
size = "1/8"
having = "!xmin! >= -180 AND !xmax! <= 180"
properties = { count = "least(count(*), 100)", xmin = "!xmin!" }
[[layer]]
name = "few"
table = "rows"
geometry = "geom"
properties = ["id"]
on_large_tile = "thin"
max_tile_features = 30
rank = "kind"
[[layer]]
name = "folded"
table = "rows"
geometry = "geom"
where = "shown"
zoom = "1-3"
[layer.aggregate]
cell = "square"
size = "1/4"
draw = "centroid"
properties = { rows = "count(*)", least = "min(kind)", all = "sum(kind)::text" }
[[layer]]
name = "merged"
table = "rows"
geometry = "geom"
properties = ["id", "word"]
[layer.cluster]
zoom = "0-3"
cell = "hexagon"
merge = true
"#;

/// Positions at the edge of the world, beyond it, and between grid units.
const EDGES: &[&str] = &[
    "180, 3",
    "-180, 3",
    "180, -80.5",
    "-179.9999999999, 3",
    "20, 85.0511287798",
    "20, -85.0511287799",
    "20, 89.9",
    "0, 0",
    "-90.010986328125, 10",
    "12.5, 41.9",
];

fn any_change(chance: &mut Chance) -> String {
    let [a, b, c, d] = [360, 360, 97, 3000].map(|end| chance.below(end).to_string());
    let at = EDGES[usize::try_from(chance.below(EDGES.len() as u64)).unwrap()];
    let place = format!("ST_SetSRID(ST_MakePoint({at}), 4326)");
    match chance.below(8) {
        // Several rows at one position.
        0 => format!("UPDATE rows SET geom = {place} WHERE id % 97 = {c}"),
        1 => format!("UPDATE rows SET geom = {place}, kind = NULL WHERE id = {d} OR id = {a}"),
        // More than are kept beside the rows before both are joined.
        2 => format!("UPDATE rows SET word = 'm{b}' WHERE id % 9 = {a} % 9"),
        _ => {
            let sql = CHANGES[usize::try_from(chance.below(CHANGES.len() as u64)).unwrap()];
            sql.replace("{a}", &a).replace("{b}", &b).replace("{c}", &c).replace("{d}", &d)
        }
    }
}

#[test]
fn rows_that_servers_keep_are_those_of_a_seed_over_a_random_history_with_kills_pauses_and_restarts() {
    let number =
        |variable: &str, otherwise| std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap());
    let (rounds, chosen) = (number("OAR_TILES_TEST_ROUNDS", 6), number("OAR_TILES_TEST_SEED", 23));
    let mut chance = Chance(chosen);
    let layers = format!("{POINTS}{KINDS}");
    let mut live = Live::over(WIDE, &layers, &layers);
    let target = live.tracked.path("other.mbtiles").display().to_string();
    seed(&live.tracked.db.url, target.as_ref(), &["--config", &live.config, "--zoom", "0-1"]).ok();
    let own = |live: &Live| {
        [
            "--config".to_owned(),
            live.config.clone(),
            "--live".to_owned(),
            "--database-url".to_owned(),
            live.tracked.db.url.clone(),
        ]
    };
    let start = |target: &str, own: &[String]| Served::new(target, &own.iter().map(String::as_str).collect::<Vec<_>>());
    // The other server keeps features in a scratch file.
    let mut command = program();
    command.args(["serve", &target, "--listen", "127.0.0.1:0", "--drain", "0s", "--admin", "127.0.0.1:0"]);
    let other = Served::of(command.args(own(&live)).env("OAR_TILES_ROWS_MB", "5"));
    let rows_of_other = || -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&other.admin("/status.json").1).unwrap()["live_rows"].clone()
    };
    let mut tiles = (0..64).flat_map(|x| (0..64).map(move |y| (x, y)));
    until("rows of the other server", || {
        for (x, y) in tiles.by_ref().take(60) {
            other.get(&format!("/6/{x}/{y}.pbf"), "");
        }
        rows_of_other()["rows"].as_u64().unwrap() > 0
    });
    assert!(rows_of_other()["file_bytes"].as_u64().unwrap() > 0, "{}", rows_of_other());
    live.keeps_rows();
    live.asks_until("the rows to be written", |rows| !rows["saved_seconds"].is_null());
    for round in 0..rounds {
        let changes: Vec<String> = (0..=chance.below(2)).map(|_| any_change(&mut chance)).collect();
        let what = format!("seed {chosen}, round {round}, after {changes:?}");
        let fate = round % 3;
        // The one server is killed, and goes on with the rows in its file; the other one is stopped meanwhile.
        if fate == 1 {
            live.served.signal("-KILL");
            live.served.child.wait().unwrap();
            other.signal("-STOP");
        }
        for change in &changes {
            live.tracked.db.run(change);
        }
        if fate == 1 {
            live.served = start(&live.target, &own(&live));
            other.signal("-CONT");
        }
        let seeded = live.seeded();
        live.shows(&what, &seeded);
        Live::shows_by(&other, &format!("the other server, {what}"), &seeded);
    }
    // What has changed is joined with the other rows.
    live.keeps_rows();
    let before = live.rows();
    live.tracked.db.run("UPDATE rows SET word = 'j' || id");
    live.asks_until("joined rows", |rows| {
        rows["snapshot"] != before["snapshot"] && rows["changed"].as_u64().unwrap() < 1_500
    });
    assert_eq!((&live.rows()["reads"], &live.rows()["drops"]), (&before["reads"], &before["drops"]));
    let (before, seeded) = (live.rows()["tiles"].as_u64().unwrap(), live.seeded());
    live.shows("joined rows", &seeded);
    let rows = live.rows();
    assert!(rows["tiles"].as_u64().unwrap() - before > seeded.len() as u64 / 2, "{before} {rows}");
}

#[test]
fn rows_are_not_shown_to_a_role_that_may_not_see_them_any_more() {
    let mut live = Live::over("", POINTS, POINTS);
    let role = format!("{}_reader", live.tracked.db.name);
    let url = live.tracked.db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    live.tracked.db.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON rows TO {role}; GRANT USAGE ON SCHEMA oar_tiles TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA oar_tiles TO {role}"
    ));
    live.served = Served::new(&live.target, &["--config", &live.config, "--live", "--database-url", &url]);
    live.keeps_rows();
    // A tile that nobody has asked for.
    let mut tiles = 0..128 * 128;
    let mut answers = |live: &Live| {
        let tile = tiles.next().unwrap();
        status(&live.served.get(&format!("/7/{}/{}.pbf", tile / 128, tile % 128), ""))
    };
    live.tracked.db.run(&format!("REVOKE SELECT ON rows FROM {role}"));
    until("tiles are refused", || ![200, 204].contains(&answers(&live)));
    assert!(![200, 204].contains(&answers(&live)));
    live.tracked.db.run(&format!("GRANT SELECT ON rows TO {role}"));
    until("tiles come back", || [200, 204].contains(&answers(&live)));
    // A policy decides which rows the role sees.
    live.tracked
        .db
        .run("ALTER TABLE rows ENABLE ROW LEVEL SECURITY; CREATE POLICY even ON rows FOR SELECT USING (id % 2 = 0)");
    let seeded = |live: &Live| {
        let fresh = live.tracked.path("seen.mbtiles");
        drop(fs::remove_file(&fresh));
        let mut command = program();
        command.args(["seed", "--config", &live.config, "--progress", "none", "--zoom", "2-4", "--database-url", &url]);
        run(command.arg("--output").arg(&fresh)).ok();
        Archive::open(&fresh).stored()
    };
    let some = seeded(&live);
    live.shows("with a policy", &some);
    live.tracked.db.run("DROP POLICY even ON rows; CREATE POLICY odd ON rows FOR SELECT USING (id % 2 = 1)");
    let others = seeded(&live);
    assert!(others != some);
    live.shows("with another policy", &others);
    live.tracked.db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
