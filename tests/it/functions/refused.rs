//! What cannot be used is refused before anything is rendered, and a tile that cannot be stored is named.

use super::World;
use crate::support::Archive;
use crate::support::program::{program, run};

#[test]
fn what_is_no_function_of_tiles_is_refused_with_what_to_do() {
    let world = World::new();
    let form = "It takes (z integer, x integer, y integer), or these and a json, jsonb or text, and returns bytea";
    for (layer, texts) in [
        (
            "function = \"mills\"",
            &[
                "layer \"f\": there is no function mills. Functions that give tiles: \"Odd Ones\".\"Tile.Of $it\"",
                "\"Tile.Of $it\", other.places, public.\"mixedCase\",",
            ][..],
        ),
        ("function = \"mixedCase\"", &["there is no function mixedCase"]),
        ("function = \"st_transform\"", &["\"public\".\"st_transform\"(geometry, int4)", "gives no tiles", form]),
        ("function = \"two(text)\"", &["\"public\".\"two\"(text) gives no tiles", form]),
        (
            "function = \"same\"",
            &[
                "several functions are called same: \"public\".\"same\"(int4, int4, int4), \"public\".\"same\"(int8, int8, int8). Name one with the types of its arguments",
            ],
        ),
        (
            "function = \"a b\"",
            &["function = \"a b\" is no name of a function", "cause: string is not a valid identifier"],
        ),
        (
            "function = \"places\"\nquery = { kind = \"mill\" }",
            &[
                "query is set, and \"public\".\"places\"(int4, int4, int4) takes nothing but the tile's address. Leave query out",
            ],
        ),
        (
            "function = \"raster\"",
            &[
                "the comment of \"public\".\"raster\"(int4, int4, int4) says that it gives image/png, and only vector tiles can be stored",
            ],
        ),
        ("query = { a = 1 }\ntable = \"place\"", &["layer[f].query", "belongs to function, and there is none"]),
        (
            "occupied = \"SELECT g\"\ntable = \"place\"",
            &["layer[f].occupied", "belongs to function, and there is none"],
        ),
        (
            "function = \"places\"\ntable = \"place\"",
            &[
                "layer[f].table",
                "stands beside function, which gives whole tiles: it has no meaning there; leave it out",
            ],
        ),
        ("function = \"places\"\nwhere = \"true\"", &["layer[f].where", "stands beside function"]),
        ("function = \" \"", &["layer[f].function", "is empty: write \"schema.name\""]),
        (
            "function = \"places\"\noccupied = \"SELECT g FROM place WHERE g && !bbox!\"",
            &["layer[f].occupied", "has !bbox!, and is read once, before there are tiles"],
        ),
        (
            "function = \"places\"\non_large_tile = \"thin\"",
            &["layer[f].on_large_tile", "is \"thin\" beside function, whose tiles are stored as they are"],
        ),
        ("function = \"places\"\noccupied = \"SELECT 1 AS one\"", &["gives no column of type geometry or geography"]),
    ] {
        let (target, done) = world.seed(layer);
        done.fails(2, texts);
        assert!(!target.exists());
    }
}

#[test]
fn a_role_needs_execute_and_usage_alone() {
    let world = World::new();
    let role = format!("caller_{}", world.db.name);
    world.db.run(&format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA hidden; CREATE FUNCTION hidden.places(z int, x int, y int) RETURNS bytea
         LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT public.places(z, x, y) $$;
         REVOKE ALL ON FUNCTION hidden.places(int, int, int) FROM public"
    ));
    let target = world.folder.beside("t.mbtiles");
    let config = world.config("function = \"hidden.places\"");
    let as_role = || {
        let mut command = program();
        command.args(["seed", "--progress", "none", "--config", &config, "--output"]).arg(&target);
        run(command.env("DATABASE_URL", world.db.url.replace("oar_tiles@", &format!("{role}@"))))
    };
    let signature = "\"hidden\".\"places\"(int4, int4, int4)";
    as_role().fails(2, &["may not use the schema \"hidden\"", "Run GRANT USAGE ON SCHEMA \"hidden\" TO "]);
    world.db.run(&format!("GRANT USAGE ON SCHEMA hidden TO {role}"));
    as_role().fails(2, &[&format!("may not call {signature}. Run GRANT EXECUTE ON FUNCTION {signature} TO ")]);
    world.db.run(&format!("GRANT EXECUTE ON FUNCTION hidden.places(int, int, int) TO {role}"));
    as_role().ok();
    assert!(Archive::open(&target).tiles() == world.given("places(z, x, y)"));
    world.db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_tile_that_cannot_be_stored_is_named_and_ends_the_run_or_is_skipped() {
    let world = World::new();
    let signature = "\"public\".\"broken\"(int4, int4, int4, jsonb)";
    let layer = |how: &str, more: &str| format!("function = \"broken\"\nquery = {{ how = \"{how}\" }}\n{more}");
    for (how, texts) in [
        (
            "raise",
            vec![
                "layer \"f\", tile 2/1/1: the database could not run the query".to_owned(),
                "cause: no tile here".to_owned(),
            ],
        ),
        (
            "png",
            vec![format!(
                "layer \"f\": {signature} gave a PNG image for tile 2/1/1. Let it return what ST_AsMVT gives, in one row"
            )],
        ),
        ("twice", vec![format!("layer \"f\": {signature} gave several rows for tile 2/1/1")]),
        ("text", vec![format!("layer \"f\": {signature} gave bytes that are no vector tile (")]),
    ] {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (target, done) = world.seed(&layer(how, ""));
        assert!(done.stderr.contains(
            "is VOLATILE, so a tile may come out differently each time. If it only reads, run ALTER FUNCTION"
        ));
        assert_ne!(done.code, 0);
        for text in texts {
            assert!(done.stderr.contains(text), "«{text}» is missing in:\n{}", done.stderr);
        }
        assert!(!target.exists());
        if how == "twice" {
            continue;
        }
        let (target, done) = world.seed(&layer(how, "on_tile_error = \"skip\""));
        done.fails(3, &["2/1/1"]);
        let mut given = world.given("places(z, x, y)");
        given.remove(&(2, 1, 1));
        assert!(Archive::open(&target).tiles() == given, "{how}");
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn two_layers_of_a_tile_with_the_same_name_are_refused() {
    let world = World::new();
    let (target, done) = world.seed("function = \"places\"\n[[layer]]\nname = \"places\"\ntable = \"place\"");
    done.fails(
        2,
        // Two workers draw at once: which of the tiles is first is left to chance.
        &[
            "layer \"f\": tile ",
            " has two layers named \"places\", and at least one is given by a function. Give each layer in a tile its own name",
        ],
    );
    assert!(!target.exists());
}
