//! What once made cells wrong: parts of cells, queries that give more than points, targets seeded in parts, and
//! aggregates that are none.

use crate::support::tracked::Tracked;
use crate::support::{Archive, Db, OldTarget, Tree, seed};

/// Facilities in a system without a closed formula, and a layer over them.
fn swiss() -> Db {
    let db = Db::new();
    db.run(
        "CREATE TABLE swiss AS SELECT 'S' || i AS id, ST_Transform(ST_SetSRID(ST_MakePoint(6 + (i * 37 % 101) / 25.0, 46 + (i * 53 % 103) / 60.0), 4326), 2056) AS g
             FROM generate_series(1, 300) AS i;
         ALTER TABLE swiss ADD PRIMARY KEY (id); CREATE INDEX ON swiss USING gist (g)",
    );
    db
}

fn written(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_reseed_of_a_target_seeded_in_parts_leaves_no_part_out() {
    for layer in [
        "properties = { id = \"id\" }\nproperty_zooms = { id = \"4-8\" }\n",
        "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\ndraw = \"centroid\"\nproperties = { n = \"count(*)\", ids = \"string_agg(id, ',')\" }\n",
        "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = { n = \"count(*)\" }\n",
    ] {
        let db = swiss();
        let tree = Tree::new();
        let config = tree.config(&format!("[[layer]]\nname = \"swiss\"\ntable = \"swiss\"\n{layer}"));
        let tracked = Tracked { db, folder: tempfile::tempdir().unwrap() };
        tracked.oar_tiles(&["track", "install", "--config", &config]).ok();
        for zooms in ["0-3", "4-8"] {
            tree.seed(&tracked.db.url, &["--config", &config, "--zoom", zooms]);
        }
        tracked.db.run("UPDATE swiss SET g = ST_Translate(g, 3000, 2000) WHERE id IN ('S1', 'S7', 'S99', 'S250')");
        tracked.reseed(&tree.path, &["--config", &config]).ok();
        let fresh = Tree::new();
        fresh.seed(&tracked.db.url, &["--config", &config, "--zoom", "0-8"]);
        assert!(tree.tiles() == fresh.tiles(), "{layer}");
    }
}

#[test]
fn a_declared_query_that_gives_many_places_at_once_dirties_the_cells_of_all() {
    let db = Db::with_facilities(1_500);
    db.run(
        "CREATE TABLE country AS SELECT DISTINCT country_code AS code, country_code || '!' AS label FROM api_facility;
         ALTER TABLE country ADD PRIMARY KEY (code);
         CREATE VIEW labelled AS SELECT f.id, f.location, c.label FROM api_facility f JOIN country c ON c.code = f.country_code",
    );
    let folder = tempfile::tempdir().unwrap();
    for (cell, draw) in [("hexagon", "center"), ("square", "polygon"), ("square", "centroid")] {
        let config = written(
            &folder,
            "c.toml",
            &format!(
                "[[layer]]\nname = \"grid\"\ntable = \"labelled\"\nkey = [\"id\"]\n[layer.aggregate]\ncell = \"{cell}\"\nsize = \"1/8\"\ndraw = \"{draw}\"\nproperties = {{ label = \"max(label)\" }}
                 [[layer.track]]\ntable = \"api_facility\"\ngeometry = \"SELECT changed.location\"
                 [[layer.track]]\ntable = \"country\"\ngeometry = \"SELECT ST_Collect(f.location) FROM api_facility f WHERE f.country_code = changed.code\"\n"
            ),
        );
        let tracked = Tracked { db: Db::on(&db.url), folder: tempfile::tempdir().unwrap() };
        drop(tracked);
        let target = folder.path().join("t.mbtiles");
        let run = |arguments: &[&str]| {
            let mut command = crate::support::program::program();
            command.args(arguments).args(["--database-url", &db.url, "--config", &config]);
            crate::support::program::run(&mut command).ok()
        };
        run(&["track", "install"]);
        seed(&db.url, &target, &["--config", &config, "--zoom", "0-7"]).ok();
        db.run("UPDATE country SET label = label || '?' WHERE code IN ('BD', 'US')");
        run(&["reseed", "--progress", "none", "--output", target.to_str().unwrap()]);
        let fresh = folder.path().join("fresh.mbtiles");
        seed(&db.url, &fresh, &["--config", &config, "--zoom", "0-7"]).ok();
        assert!(Archive::open(&target).stored() == Archive::open(&fresh).stored(), "{cell} {draw}");
    }
}

#[test]
fn no_part_of_a_cell_is_taken_for_a_cell() {
    let db = swiss();
    // Every cell of half a tile at zoom 5 has two members, one near each of two corners: a search box may end between
    // them.
    db.run(
        "CREATE TABLE pairs AS SELECT row_number() OVER () AS id,
             ST_SetSRID(ST_MakePoint((a + at) * 626172.1357121641, (b + at) * 626172.1357121641), 3857)::geometry(Point, 3857) AS g
             FROM generate_series(-8, 7) AS a, generate_series(-8, 7) AS b, unnest(ARRAY[0.2, 0.8]) AS at;
         ALTER TABLE pairs ADD PRIMARY KEY (id); CREATE INDEX ON pairs USING gist (g)",
    );
    let folder = tempfile::tempdir().unwrap();
    let gathered = "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\ndraw = \"centroid\"\nproperties = { n = \"count(*)\", ids = \"string_agg(id, ',')\" }\n";
    let hexagons = "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/4\"\nproperties = { n = \"count(*)\", ids = \"string_agg(id, ',')\" }\n";
    let clusters = "properties = [\"id\"]\n[layer.cluster]\n";
    for layer in [gathered, hexagons, clusters] {
        let text = format!("[tileset]\nzoom = \"0-7\"\n[[layer]]\nname = \"l\"\ntable = \"swiss\"\n{layer}");
        let seeded = |name: &str, run: &str| {
            let (config, output) = (written(&folder, "c.toml", &format!("{text}{run}")), folder.path().join(name));
            seed(&db.url, &output, &["--config", &config]).ok();
            Archive::open(&output).stored()
        };
        let whole = seeded("whole.mbtiles", "");
        assert!(whole == seeded("cut.mbtiles", "[run]\nbatch_features = 20\n"), "{layer}");
    }
    // What would divide by zero over one member is worked out over both.
    let text = "[tileset]\nzoom = \"5\"\n[[layer]]\nname = \"l\"\ntable = \"pairs\"\nbuffer = 512\n[layer.aggregate]\ncell = \"square\"\nsize = \"1/2\"\nproperties = { n = \"100 / (count(id) - 1)\" }\n";
    for run in ["", "[run]\nbatch_features = 8\n"] {
        let config = written(&folder, "p.toml", &format!("{text}{run}"));
        for arguments in [&[][..], &["--bbox", "1,1,10,10"]] {
            seed(&db.url, &folder.path().join("p.mbtiles"), &[&["--config", &*config], arguments].concat()).ok();
        }
    }
}

#[test]
fn what_looks_beyond_its_row_or_cell_is_refused_and_what_does_not_is_understood() {
    let db = Db::with_facilities(50);
    let old = OldTarget::new();
    let layer = "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\ngeometry = \"location\"\n";
    let cells =
        |properties: &str| format!("{layer}[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\n{properties}\n");
    let beyond = "a property looks at other rows or gives several values\n  Work it out in a query of your own, and draw the layer from that: sql = …";
    let first = beyond.lines().next().unwrap();
    for (config, text) in [
        (format!("{layer}properties = {{ n = \"count(*) OVER ()\" }}"), first),
        (format!("{layer}properties = {{ n = \"unnest(ARRAY[1, 2])\" }}"), first),
        (format!("{layer}properties = {{ n = \"max(name)\" }}"), first),
        (
            format!(
                "{layer}properties = [\"id\"]\non_large_tile = \"thin\"\nmax_tile_features = 3\nrank = \"row_number() OVER (ORDER BY id)\""
            ),
            "window functions are not allowed in WHERE",
        ),
        (
            cells("properties = { share = \"count(*) / sum(count(*)) OVER ()\" }"),
            "looks at other cells or gives several values",
        ),
        (cells("properties = { all = \"unnest(array_agg(id))\" }"), "looks at other cells or gives several values"),
        (cells("properties = { n = \"name\" }"), "a property of its cells is no aggregate: a cell has many rows"),
        (
            cells("properties = { n = \"count(*)\" }\nhaving = \"count(*)\""),
            "the database does not understand the properties of its cells, or having",
        ),
        (
            cells("properties = { n = \"count(api_facility.name)\" }"),
            "the database does not understand the properties of its cells, or having",
        ),
    ] {
        old.refuses_config(&db.url, &config, &["--zoom", "0-3"], 2, &["error: layer \"mills\": ", text]);
    }
    let folder = tempfile::tempdir().unwrap();
    for properties in [
        "properties = { xmin = \"!xmin!\", cell = \"!cell!\" }",
        "properties = { share = \"100 * count(*) FILTER (WHERE is_closed) / count(*)\" }\nhaving = \"100 / count(*) >= 0 -- always\"",
        "properties = { text = \"'count(*)' || count(*)\" }",
        "properties = {}\nhaving = \"!ymin! > -90\"",
    ] {
        let config = written(&folder, "c.toml", &cells(properties));
        seed(&db.url, &folder.path().join("t.mbtiles"), &["--config", &config, "--zoom", "0-3"]).ok();
    }
}

#[test]
fn a_property_of_some_zooms_is_not_shown_by_rows_that_stand_alone_at_others() {
    let db = Db::with_facilities(1);
    let folder = tempfile::tempdir().unwrap();
    let config = written(
        &folder,
        "c.toml",
        "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = [\"id\", \"name\"]\nproperty_zooms = { name = \"1,3\" }\n[layer.cluster]\nzoom = \"0-2\"\n",
    );
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--config", &config, "--zoom", "0-4"]).ok();
    for (tile, _) in Archive::open(&target).stored() {
        let (zoom, x, y) = tile;
        let mut inspect = crate::support::program::program();
        inspect.arg("inspect").arg(&target).args([&format!("{zoom}/{x}/{y}"), "--geojson"]);
        let shown = crate::support::program::run(&mut inspect).ok().stdout;
        assert!(shown.contains("\"id\""), "{tile:?}: {shown}");
        assert_eq!(shown.contains("\"name\""), zoom == 1 || zoom == 3, "{tile:?}: {shown}");
    }
}
