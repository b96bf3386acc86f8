//! What a user types and sees: boxes, zooms, plans, progress, reports, settings.

use std::collections::BTreeSet;

use crate::support::program::{program, run};
use crate::support::{Archive, Db, seed};

/// Facilities on both sides of the antimeridian and far from it.
fn pacific() -> Db {
    let db = Db::with_facilities(0);
    for (id, lon, lat) in [
        ("fiji", 178.4, -18.1),
        ("samoa", -171.8, -13.8),
        ("tonga", -175.2, -21.1),
        ("porto", -8.6, 41.1),
        ("tokyo", 139.7, 35.7),
    ] {
        db.run(&format!("INSERT INTO api_facility VALUES ('{id}', '{id}', '', 'XX', ST_SetSRID(ST_MakePoint({lon}, {lat}), 4326), false, now(), now())"));
    }
    db
}

fn addresses(path: &std::path::Path) -> BTreeSet<(u8, u32, u32)> {
    Archive::open(path).stored().into_keys().collect()
}

#[test]
fn boxes_choose_tiles_and_overlaps_are_rendered_once() {
    let db = pacific();
    let folder = tempfile::tempdir().unwrap();
    let (world, output) = (folder.path().join("w.mbtiles"), folder.path().join("t.mbtiles"));
    seed(&db.url, &world, &["--zoom", "0-8"]).ok();
    let all = Archive::open(&world).stored();
    for (arguments, deepest) in [
        (&["--bbox", "170,-50,-170,50"][..], 3),
        (&["--bbox", "170,-50,-170,50", "--bbox", "-20,-60,160,70", "--bbox", "-179,-50,-171,50"][..], 5),
        (&["--bbox=-9,41,-8,42"][..], 1),
        (&["--bbox", "20,20,30,30"][..], 0),
    ] {
        seed(&db.url, &output, &[&["--zoom", "0-8"], arguments].concat()).ok();
        let found = Archive::open(&output).stored();
        for (tile, bytes) in &found {
            assert!(all[tile] == *bytes, "{tile:?} differs from the same tile of the world");
        }
        assert_eq!(found.keys().filter(|(zoom, _, _)| *zoom == 8).count(), deepest, "{arguments:?}");
    }
    // From a deeper zoom on, the survey reads only what lies near the boxes: the tiles are the same.
    seed(&db.url, &output, &["--zoom", "7-8", "--bbox", "170,-50,-170,50", "--bbox", "139.7,35.7,139.8,35.8"]).ok();
    let found = Archive::open(&output).stored();
    assert!(found.len() >= 8 && found.iter().all(|(tile, bytes)| all[tile] == *bytes), "{:?}", found.keys());
    seed(&db.url, &output, &["--zoom", "7,2-3"]).ok();
    let zooms: BTreeSet<u8> = addresses(&output).iter().map(|tile| tile.0).collect();
    assert_eq!(zooms, BTreeSet::from([2, 3, 7]));
}

#[test]
fn a_box_whose_sides_were_swapped_is_named() {
    let db = pacific();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    let swapped = "--bbox 10.5,45.8,5.9,47.8 runs east from 10.5° over 180° to 5.9°, 355.4° wide; for the box between 5.9° and 10.5° write --bbox 5.9,45.8,10.5,47.8";
    for (given, is_named) in [("10.5,45.8,5.9,47.8", true), ("170,-50,-170,50", false), ("-9,41,-8,42", false)] {
        let run = seed(&db.url, &output, &["--zoom", "0-1", &format!("--bbox={given}")]).ok();
        assert_eq!(run.stderr.contains(swapped), is_named, "{given}: {}", run.stderr);
    }
}

#[test]
fn an_empty_world_costs_nothing() {
    let db = pacific();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    let report = folder.path().join("r.json");
    // 23 million million tiles, five places.
    seed(&db.url, &output, &["--zoom", "0-22", "--report", report.to_str().unwrap()]).ok();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert!(report["manifest"]["planned"].as_u64().unwrap() < 200, "{report}");
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let db = Db::with_facilities(2_000);
    let folder = tempfile::tempdir().unwrap();
    let (output, report) = (folder.path().join("t.mbtiles"), folder.path().join("plan.json"));
    let plan = seed(&db.url, &output, &["--dry-run", "--zoom", "0-10", "--report", report.to_str().unwrap()]).ok();
    assert!(!output.exists());
    let header = plan.stdout.lines().next().unwrap();
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>().join(" "),
        "zoom tiles features batches heaviest tile bytes (est.) time (est.)"
    );
    assert!(plan.stdout.contains("2 000 in 0/0/0"), "{}", plan.stdout);
    assert!(plan.stdout.ends_with("nothing was written\n"), "{}", plan.stdout);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let planned: u64 = json["zooms"].as_array().unwrap().iter().map(|zoom| zoom["tiles"].as_u64().unwrap()).sum();
    let estimated: f64 =
        json["zooms"].as_array().unwrap().iter().map(|zoom| zoom["estimated_bytes"].as_f64().unwrap()).sum();
    seed(&db.url, &output, &["--zoom", "0-10", "--report", report.to_str().unwrap()]).ok();
    let done: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(done["manifest"]["planned"], planned, "the plan is the run");
    let off = estimated / done["bytes"].as_f64().unwrap();
    assert!((0.5..2.0).contains(&off), "estimated {estimated}, stored {}", done["bytes"]);
}

#[test]
fn the_closing_table_and_the_report_say_the_same() {
    let db = Db::with_facilities(1_000);
    let folder = tempfile::tempdir().unwrap();
    let (output, report) = (folder.path().join("t.mbtiles"), folder.path().join("r.json"));
    let done = seed(&db.url, &output, &["--zoom", "0-6", "--report", report.to_str().unwrap()]).ok();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let stored = Archive::open(&output).stored();
    for zoom in json["zooms"].as_array().unwrap() {
        let level = zoom["zoom"].as_u64().unwrap() as u8;
        let mut sizes: Vec<u64> =
            stored.iter().filter(|(tile, _)| tile.0 == level).map(|(_, bytes)| bytes.len() as u64).collect();
        sizes.sort_unstable();
        assert_eq!(zoom["tiles"], sizes.len());
        assert_eq!(zoom["bytes"], sizes.iter().sum::<u64>());
        // Sizes above 16 kB are counted in steps of one part in 256.
        let near = |found: &serde_json::Value, exact: u64| {
            let found = found.as_u64().unwrap();
            assert!(found <= exact && found * 257 >= exact * 256, "{found} for {exact}");
        };
        near(&zoom["median"], sizes[sizes.len().div_ceil(2) - 1]);
        near(&zoom["p95"], sizes[(sizes.len() as f64 * 0.95).ceil() as usize - 1]);
        assert_eq!(zoom["largest"]["bytes"], *sizes.last().unwrap());
        let row = done.stdout.lines().find(|line| line.trim_start().starts_with(&format!("{level} "))).unwrap();
        assert!(row.contains(zoom["largest"]["tile"].as_str().unwrap()), "{row}");
    }
    assert!(done.stdout.contains("largest"), "{}", done.stdout);
    assert_eq!(done.stderr, "", "--progress none says nothing when all is well");
}

#[test]
fn progress_is_lines_in_a_pipe_json_for_machines_and_a_bar_if_asked() {
    let db = Db::with_facilities(1_000);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    let with = |style: &str| {
        run(program()
            .args(["seed", "--zoom", "0-8", "--progress", style, "--database-url", &db.url, "--output"])
            .arg(&output))
        .ok()
    };
    let lines = with("auto");
    assert!(
        lines.stderr.contains("zoom 5: ") && lines.stderr.contains(" left\n") && lines.stderr.lines().count() < 20,
        "{}",
        lines.stderr
    );
    let json = with("json");
    let events: Vec<serde_json::Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let sum = |name: &str| named("stored").iter().map(|event| event[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(named("planned")[0]["features"], sum("features"), "progress reaches what was planned");
    assert_eq!(named("planned")[0]["tiles"], sum("tiles"));
    assert_eq!(named("done")[0]["bytes"], sum("bytes"));
    assert_eq!(events.last().unwrap()["event"], "done");
    with("bar");
    let quiet =
        run(program().args(["seed", "-q", "--zoom", "0-8", "--database-url", &db.url, "--output"]).arg(&output)).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn config_prints_every_value_with_its_origin_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[tileset]\nname = \"mine\"\n[database]\nurl = \"postgresql://me:hunter2@db.example:1/a\"")
        .unwrap();
    let shown = run(program()
        .args(["config", "--zoom", "3", "--config"])
        .arg(&config)
        .env("OAR_TILES_WORKERS", "3")
        .env("PGPORT", "6000")
        .env("PGPASSWORD", "hunter3"))
    .ok();
    let path = config.display();
    for line in [
        "# database: me@db.example:6000/a".to_owned(),
        "zoom = \"3\"  # --zoom".to_owned(),
        "workers = 3  # OAR_TILES_WORKERS".to_owned(),
        format!("name = \"mine\"  # {path}"),
        format!("url = \"postgresql://me:(hidden)@db.example:1/a\"  # {path}"),
        "gzip_level = 1  # default".to_owned(),
        "[[layer]]  # default".to_owned(),
    ] {
        assert!(shown.stdout.lines().any(|shown| shown == line), "«{line}» is missing in:\n{}", shown.stdout);
    }
    assert!(!shown.stdout.contains("hunter"), "{}", shown.stdout);
}

#[test]
fn the_environment_alone_is_enough() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let url = &db.url;
    let socket = url.split("host=").nth(1).unwrap().split('&').next().unwrap();
    let port = url.split("port=").nth(1).unwrap();
    let mut command = program();
    command
        .arg("seed")
        .current_dir(folder.path())
        .env("OAR_TILES_ZOOM", "0-3")
        .env("OAR_TILES_BBOX", "-180,-60,0,70;0,-60,180,70")
        .env("OAR_TILES_OUTPUT", "facilities.mbtiles");
    run(command.env("PGHOST", socket).env("PGPORT", port).env("PGUSER", "oar_tiles").env("PGDATABASE", &db.name)).ok();
    assert!(addresses(&folder.path().join("facilities.mbtiles")).len() > 5);
}

/// Also when the file is there already, and is replaced.
#[test]
fn an_output_is_called_as_the_user_wrote_it() {
    let (db, folder) = (Db::with_facilities(50), crate::support::folder::Folder::new());
    for output in ["tiles.mbtiles", "tiles.mbtiles", "tiles.pmtiles", "tiles.pmtiles"] {
        let mut seed = program();
        seed.args(["seed", "--zoom", "0-2", "--database-url", &db.url, "--output", output]);
        let said = run(seed.current_dir(folder.beside(""))).ok().stdout;
        assert!(said.trim_end().ends_with(&format!(": {output}")), "{said}");
    }
}
