//! Layers of every kind: each variant equals a run of its own with that condition, after a seed and after a reseed.

use super::World;
use crate::support::tracked::Tiles;
use crate::support::{Archive, until};

/// Tables of lines and areas, and a function of tiles.
const TABLES: &str = "CREATE TABLE road (id int PRIMARY KEY, region text, g geometry(LineString, 4326));
    INSERT INTO road SELECT n, (ARRAY['a', 'b', 'c'])[1 + n % 3], ST_SetSRID(ST_MakeLine(ST_MakePoint(n * 7 % 150 - 75, n * 11 % 120 - 60), ST_MakePoint(n * 7 % 150 - 70, n * 13 % 120 - 60)), 4326) FROM generate_series(1, 60) AS n;
    CREATE TABLE land (id int PRIMARY KEY, region text, g geometry(Polygon, 4326));
    INSERT INTO land SELECT n, (ARRAY['a', 'b', 'c'])[1 + n % 3], ST_Buffer(ST_SetSRID(ST_MakePoint(n * 17 % 140 - 70, n * 5 % 100 - 50), 4326), 1 + n % 6) FROM generate_series(1, 40) AS n;
    CREATE INDEX ON road USING gist (g); CREATE INDEX ON land USING gist (g);
    CREATE FUNCTION lands(z int, x int, y int, query json) RETURNS bytea LANGUAGE sql STABLE AS $$
        SELECT ST_AsMVT(t, 'f') FROM (
            SELECT id, region, ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(z, x, y), 4096, 64) AS geom FROM land
            WHERE region = query->>'region' AND ST_Transform(g, 3857) && ST_TileEnvelope(z, x, y, margin => 64 / 4096.0) ORDER BY id) AS t
        WHERE geom IS NOT NULL $$;
    COMMENT ON FUNCTION lands(int, int, int, json) IS '{\"vector_layers\": [{\"id\": \"f\", \"fields\": {\"id\": \"Number\", \"region\": \"String\"}}]}';";

const LINES: &str = "[[layer]]\nname = \"roads\"\ntable = \"road\"\ngeometry = \"g\"\nproperties = [\"id\"]\n";
const AREAS: &str = "[[layer]]\nname = \"lands\"\ntable = \"land\"\ngeometry = \"g\"\nproperties = [\"id\"]\n";
const FUNCTION: &str = "[[layer]]\nname = \"f\"\nfunction = \"lands\"\nquery = { region = \"!region!\" }\noccupied = \"SELECT g FROM land\"\n[[layer.track]]\ntable = \"land\"\ngeometry = \"SELECT changed.g\"\n";

impl World {
    fn with_kinds() -> World {
        let world = World::with_contributors(1, 2);
        world.db.run(TABLES);
        world
    }

    /// A family of regions whose layers have these texts, and conditions for some of them.
    fn regions(&self, layers: &str, conditions: &str) -> String {
        self.file(
            "regions.toml",
            &format!(
                "[tileset]\nname = \"regions\"\nzoom = \"0-5\"\n[tileset.variants]\nvalues = \"SELECT DISTINCT region FROM road\"\nwhere = {{ {conditions} }}\noutput = \"FOLDER/by/{{region}}.pmtiles\"\nall = \"FOLDER/all.pmtiles\"\n{layers}"
            ),
        )
    }

    /// What a run of one region makes.
    fn of_region(&self, layers: &str) -> Tiles {
        let config = self
            .file("region.toml", &format!("[tileset]\nzoom = \"0-5\"\noutput = \"FOLDER/region.mbtiles\"\n{layers}"));
        self.oar_tiles(&config, &["seed", "--progress", "none", "--force", "--allow-shrink"]).ok();
        Archive::open(&self.path("region.mbtiles")).stored()
    }

    /// What a run of one tileset of zooms 0 to 4 makes.
    fn of_zooms(&self, layers: &str) -> Tiles {
        let output = "output = \"FOLDER/single.mbtiles\"";
        let config = self.file("zooms.toml", &format!("[tileset]\nzoom = \"0-4\"\n{output}\n{layers}"));
        self.oar_tiles(&config, &["seed", "--progress", "none", "--force", "--allow-shrink"]).ok();
        Archive::open(&self.path("single.mbtiles")).stored()
    }

    /// Asserts that every region is what a run of its own makes of the layers that `alone` gives for it.
    #[track_caller]
    fn regions_are(&self, regions: &[&str], alone: impl Fn(&str) -> String) {
        for region in regions {
            let expected = self.of_region(&alone(region));
            assert!(expected.len() > 10, "{region}");
            assert!(self.held(&format!("by/{region}.pmtiles")) == expected, "{region}");
        }
    }
}

/// Layers with a condition for one region.
fn only(layers: &str, region: &str) -> String {
    layers.replace("properties =", &format!("where = \"region = '{region}'\"\nproperties ="))
}

#[test]
fn variants_of_lines_and_areas_are_single_runs() {
    let world = World::with_kinds();
    let layers = format!("{LINES}{AREAS}");
    let config = world.regions(&layers, "roads = \"region = !region!\", lands = \"region = !region!\"");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.regions_are(&["a", "b", "c"], |region| only(&layers, region));
    assert!(world.held("all.pmtiles") == world.of_region(&layers));
    for change in [
        "UPDATE land SET g = ST_Translate(g, 3, 1) WHERE id % 9 = 2",
        "UPDATE road SET region = 'a' WHERE id % 5 = 1; DELETE FROM land WHERE id = 7",
        "INSERT INTO road SELECT 1000 + id, 'd', ST_Translate(g, 1, 1) FROM road; UPDATE land SET region = 'd' WHERE id < 12",
    ] {
        world.db.run(change);
        world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
        world.regions_are(&["a", "b"], |region| only(&layers, region));
    }
    world.regions_are(&["c", "d"], |region| only(&layers, region));
}

#[test]
fn variants_of_multipoints_are_single_runs_while_each_has_one_member_and_when_one_has_two() {
    let world = World::with_kinds();
    world.db.run(
        "CREATE TABLE stop (id int PRIMARY KEY, region text, g geometry(MultiPoint, 4326)); CREATE INDEX ON stop USING gist (g);
         INSERT INTO stop SELECT id, region, ST_Multi(ST_StartPoint(g)) FROM road",
    );
    let layers = LINES.replace("roads", "stops").replace("\"road\"", "\"stop\"");
    let config = world.regions(&layers, "stops = \"region = !region!\"");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    for change in [
        "UPDATE stop SET g = ST_Translate(g, 3, 1) WHERE id % 9 = 2",
        "UPDATE stop SET g = ST_Collect(ST_GeometryN(g, 1), ST_Translate(ST_GeometryN(g, 1), 20, 3)) WHERE id = 7",
        "UPDATE stop SET g = ST_Multi(ST_GeometryN(g, 2)) WHERE id = 7",
    ] {
        world.db.run(change);
        world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
        world.regions_are(&["a", "b", "c"], |region| only(&layers, region));
    }
}

#[test]
fn a_layer_without_a_condition_is_the_same_in_every_variant() {
    let world = World::with_kinds();
    let layers = format!("{LINES}{AREAS}");
    let config = world.regions(&layers, "roads = \"region = !region!\"");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.db.run("UPDATE land SET g = ST_Translate(g, 3, 1) WHERE id % 9 = 2; DELETE FROM road WHERE id % 8 = 0");
    world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
    world.regions_are(&["a", "b", "c"], |region| format!("{}{AREAS}", only(LINES, region)));
}

#[test]
fn variants_fill_the_query_of_a_function() {
    let world = World::with_kinds();
    let layers = format!("{FUNCTION}{LINES}");
    let config = world.regions(&layers, "roads = \"region = !region!\"");
    // `all` would call the function without a value.
    let text = std::fs::read_to_string(&config).unwrap();
    let text: String =
        text.lines().filter(|line| !line.starts_with("all = ")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&config, text).unwrap();
    let alone = |region: &str| format!("{}{}", FUNCTION.replace("!region!", region), only(LINES, region));
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.regions_are(&["a", "b", "c"], alone);
    world
        .db
        .run("UPDATE land SET region = 'b', g = ST_Translate(g, 2, 2) WHERE id % 7 = 3; DELETE FROM land WHERE id = 6");
    world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
    world.regions_are(&["a", "b", "c"], alone);
    let target = world.path("by/b.pmtiles");
    let verified = world.oar_tiles(&config, &["verify", target.to_str().unwrap(), "--database"]);
    assert_eq!(verified.code, 0, "{}", verified.stdout);
}

/// Points of which the shallow zooms show many, and the deep zooms one in each tile.
const THINNED: &str = "[[layer]]\nname = \"spots\"\ntable = \"spot\"\ngeometry = \"g\"\nproperties = [\"id\"]\non_large_tile = \"thin\"\nrank = \"id\"\nmax_tile_features = { \"0-3\" = 100, \"4-5\" = 1 }\n";

#[test]
fn variants_of_thinned_points_are_single_runs() {
    let world = World::with_kinds();
    // Twenty places with eight points each: at zooms 4 and 5 seven of them are left out.
    world.db.run(
        "CREATE TABLE spot (id int PRIMARY KEY, region text, g geometry(Point, 4326)); CREATE INDEX ON spot USING gist (g);
         INSERT INTO spot SELECT n, (ARRAY['a', 'b', 'c'])[1 + n % 3], ST_SetSRID(ST_MakePoint(n % 20 * 16 - 150 + n / 20 * 0.3, n % 20 * 37 % 120 - 60), 4326)
         FROM generate_series(1, 480) AS n",
    );
    let config = world.regions(THINNED, "spots = \"region = !region!\"");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    let check = || {
        world.regions_are(&["a", "b", "c"], |region| only(THINNED, region));
        assert!(world.held("all.pmtiles") == world.of_region(THINNED));
    };
    check();
    for change in [
        // Shown at shallow zooms only: the deepest tile does not tell in which variant it was.
        "UPDATE spot SET region = 'b' WHERE id = 9",
        "DELETE FROM spot WHERE id = 31",
        // Shown at all zooms; another one takes its place.
        "UPDATE spot SET region = 'c', g = ST_Translate(g, 1, 1) WHERE id = 466",
        "INSERT INTO spot SELECT 1000, 'a', ST_Translate(g, 0.1, 0.1) FROM spot WHERE id = 480",
    ] {
        world.db.run(change);
        world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
        check();
    }
}

/// Layers of the kinds that the database draws, all of one table's rows or of a query's.
const DRAWN: &str = "[[layer]]\nname = \"roads\"\ntable = \"road\"\ngeometry = \"g\"\nproperties = [\"id\"]
[[layer]]\nname = \"lands\"\ntable = \"land\"\ngeometry = \"g\"\nproperties = [\"id\"]\nsimplify = { tolerance = 1, zoom = \"0-2\" }
[[layer]]\nname = \"thinned\"\ntable = \"spot\"\ngeometry = \"g\"\nproperties = [\"id\"]\nmax_tile_features = 9\non_large_tile = \"thin\"\nrank = \"id\"
[[layer]]\nname = \"cells\"\ntable = \"spot\"\ngeometry = \"g\"\nbuffer = 256\n[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = { count = \"count(*)\" }
[[layer]]\nname = \"asked\"\nsql = \"SELECT id, g FROM land WHERE g && !bbox! AND id % 4 < !zoom!\"\nkey = [\"id\"]\nproperties = [\"id\"]
";

/// The layers of [`DRAWN`], each with a condition on its rows.
fn drawn_where(condition: &str) -> String {
    DRAWN
        .replace("\ngeometry = \"g\"", &format!("\ngeometry = \"g\"\nwhere = \"{condition}\""))
        .replace("\nkey = [\"id\"]", &format!("\nkey = [\"id\"]\nwhere = \"{condition}\""))
}

#[test]
fn variants_that_the_database_draws_take_turns_in_few_sessions() {
    let world = World::with_kinds();
    world.db.run("CREATE TABLE spot (id int PRIMARY KEY, g geometry(Point, 4326)); CREATE INDEX ON spot USING gist (g);
                  INSERT INTO spot SELECT n, ST_SetSRID(ST_MakePoint(n * 37 % 160 - 80, n * 23 % 130 - 65), 4326) FROM generate_series(1, 400) AS n");
    let conditions = ["roads", "lands", "thinned", "cells", "asked"].map(|layer| {
        // The sets overlap. One value fails where the database draws.
        format!("{layer} = \"id % !n! < 2 AND 1 / (!n! - 7) < 9\"")
    });
    let family = |layers: &str| {
        format!(
            "[tileset]\nname = \"numbers\"\nzoom = \"0-4\"\n[tileset.variants]\nvalues = \"SELECT n FROM generate_series(2, 13) AS n\"\nwhere = {{ {} }}\noutput = \"FOLDER/by/{{n}}.mbtiles\"\nall = \"FOLDER/all.mbtiles\"\n{layers}",
            conditions.join(", ")
        )
    };
    let config = world.file("numbers.toml", &family(DRAWN));
    let sessions = || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        until("the sessions of the run have ended", || world.db.rows(open)[0].get::<_, i64>(0) == 0);
        let begun = "SELECT coalesce((to_jsonb(s) ->> 'sessions')::int8, -1) FROM pg_stat_database AS s WHERE datname = current_database()";
        world.db.rows(begun)[0].get::<_, i64>(0)
    };
    let before = sessions();
    let done = world.oar_tiles(&config, &["seed", "--progress", "none", "--workers", "2"]);
    let begun = sessions() - before;
    done.fails(3, &["/by/7.mbtiles", "division by zero"]);
    // PostgreSQL 13 does not count them. Each variant in sessions of its own would take four or more.
    assert!(before < 0 || begun < 2 * 12, "{begun} sessions of the server for 12 variants");
    for n in (2..=13).filter(|n| *n != 7) {
        let expected = world.of_zooms(&drawn_where(&format!("id % {n} < 2")));
        assert!(expected.len() > 20, "{n}");
        assert!(Archive::open(&world.path(&format!("by/{n}.mbtiles"))).stored() == expected, "{n}");
    }
    assert!(!world.path("by/7.mbtiles").exists());
    assert!(Archive::open(&world.path("all.mbtiles")).stored() == world.of_zooms(DRAWN));
}
