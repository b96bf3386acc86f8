//! A seed of a family makes what a run of each variant makes.

use super::World;

const SEED: [&str; 3] = ["seed", "--progress", "none"];

#[test]
fn every_variant_is_what_a_run_with_its_condition_makes() {
    let world = World::with_contributors(400, 6);
    for ending in [".pmtiles", ".mbtiles", "/"] {
        let config = world.contributors(ending);
        let done = world.oar_tiles(&config, &SEED).ok();
        assert!(done.stdout.contains("6 variants, 7 seeded"), "{}", done.stdout);
        world.variants_are_single_runs(ending);
        std::fs::remove_dir_all(world.path("by")).unwrap();
    }
}

#[test]
fn values_become_names_of_files_and_stay_values() {
    let world = World::with_contributors(60, 2);
    world.db.run(
        "CREATE TABLE tag (word text, facility varchar(32));
         INSERT INTO tag SELECT (ARRAY['a/b', '..', '.hidden', 'O''Neill; DROP TABLE tag', '100 %', 'ärger', '!word!', '$1'])[1 + row_number() OVER (ORDER BY id) % 8], id FROM api_facility",
    );
    let config = world.file(
        "tags.toml",
        &format!(
            "[tileset]\nzoom = \"0-4\"\n[tileset.variants]\nvalues = \"SELECT DISTINCT word FROM tag\"\nwhere = {{ facilities = \"id IN (SELECT facility FROM tag WHERE word = !word!)\" }}\noutput = \"FOLDER/tags/{{word}}.mbtiles\"\n{}",
            super::LAYER
        ),
    );
    world.oar_tiles(&config, &SEED).ok();
    let names = ["$1", "!word!", "..", ".hidden", "100 %", "O'Neill; DROP TABLE tag", "a/b", "ärger"];
    let escaped = [
        "100~20~25.mbtiles",
        "O~27Neill~3B~20DROP~20TABLE~20tag.mbtiles",
        "a~2Fb.mbtiles",
        "~21word~21.mbtiles",
        "~241.mbtiles",
        "~2E..mbtiles",
        "~2Ehidden.mbtiles",
        "~C3~A4rger.mbtiles",
    ];
    assert_eq!(world.names("tags"), escaped);
    for word in names {
        let literal = word.replace('\'', "''");
        let file: String = word
            .bytes()
            .enumerate()
            .map(|(at, byte)| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                b'.' if at > 0 => ".".to_owned(),
                other => format!("~{other:02X}"),
            })
            .collect();
        let config = world.file(
            "one.toml",
            &format!(
                "[tileset]\nzoom = \"0-4\"\noutput = \"FOLDER/one.mbtiles\"\n{}",
                super::LAYER.replace(
                    "properties =",
                    &format!(
                        "where = \"\"\"id IN (SELECT facility FROM tag WHERE word = '{literal}')\"\"\"\nproperties ="
                    )
                )
            ),
        );
        world.oar_tiles(&config, &["seed", "--progress", "none", "--allow-shrink"]).ok();
        let held = world.held(&format!("tags/{file}.mbtiles"));
        assert!(!held.is_empty(), "{word}");
        assert_eq!(held, world.held("one.mbtiles"), "{word}");
    }
    assert_eq!(world.db.rows("SELECT FROM tag").len(), 60);
}

#[test]
fn a_family_may_have_no_variant() {
    let world = World::with_contributors(20, 3);
    world.db.run("DELETE FROM contributor");
    let config = world.contributors(".pmtiles");
    let done = world.oar_tiles(&config, &SEED).ok();
    assert!(done.stdout.contains("0 variants, 1 seeded"), "{}", done.stdout);
    assert_eq!(world.held("all.pmtiles"), world.single_run("true"));
}

#[test]
fn listed_values_have_the_types_of_the_file() {
    let world = World::with_contributors(100, 4);
    let config = world.file(
        "listed.toml",
        &format!(
            "[tileset]\nzoom = \"0-4\"\n[tileset.variants]\nvalues = [{{ name = \"east\", of = [2, 3] }}, {{ name = \"west\", of = [4] }}]\nwhere = {{ facilities = \"id IN (SELECT facility FROM membership WHERE contributor = ANY (!of!))\" }}\noutput = \"FOLDER/parts/{{name}}/tiles.pmtiles\"\n{}",
            super::LAYER
        ),
    );
    world.oar_tiles(&config, &SEED).ok();
    let east = world.held("parts/east/tiles.pmtiles");
    world.file("single.toml", "");
    let single = world.single("id IN (SELECT facility FROM membership WHERE contributor IN (2, 3))");
    world.oar_tiles(&single, &["seed", "--progress", "none", "--zoom", "0-4"]).ok();
    assert_eq!(east, world.held("single.mbtiles"));
    assert!(east != world.held("parts/west/tiles.pmtiles"));
}

#[test]
fn one_that_fails_does_not_stop_the_others() {
    let world = World::with_contributors(100, 4);
    let config = world.contributors("/");
    std::fs::create_dir_all(world.path("by/c2")).unwrap();
    std::fs::write(world.path("by/c2/letter.txt"), "dear").unwrap();
    world.oar_tiles(&config, &SEED).fails(
        3,
        &[
            "holds other files, such as letter.txt",
            "variants of facilities that failed: 1 of 5",
            "by/c2/. Run the command again",
        ],
    );
    for name in ["by/c3/", "by/c4/", "all/"] {
        assert!(!world.held(name).is_empty(), "{name}");
    }
    std::fs::remove_file(world.path("by/c2/letter.txt")).unwrap();
    world.oar_tiles(&config, &SEED).ok();
    world.variants_are_single_runs("/");
}
