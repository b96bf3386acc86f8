//! What is refused, each with what to do.

use super::{LAYER, World};

/// A configuration with these keys below `[tileset.variants]`, and others of the tileset before them.
fn config(world: &World, tileset: &str, variants: &str) -> String {
    world.file("odd.toml", &format!("[tileset]\nzoom = \"0-3\"\n{tileset}\n[tileset.variants]\n{variants}\n{LAYER}"))
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = World::with_contributors(20, 3);
    let says = |tileset: &str, variants: &str, text: &str| {
        world.oar_tiles(&config(&world, tileset, variants), &["seed", "--progress", "none"]).fails(2, &[text]);
    };
    let values = "values = \"SELECT slug FROM contributor\"\n";
    let output = "output = \"FOLDER/by/{slug}.mbtiles\"\n";
    let both = format!("{values}{output}");
    says(
        "",
        &format!("{values}output = \"FOLDER/by.mbtiles\""),
        "by.mbtiles\" has no {name}, so that every variant would go to one place",
    );
    says("", &format!("{values}output = \"FOLDER/by/{{slug.mbtiles\""), "has a brace that belongs to no {name}");
    says(
        "",
        &format!("{values}output = \"FOLDER/by/{{slag}}.mbtiles\""),
        "tileset.variants.output has {slag}, which is no value: there is slug",
    );
    says("output = \"x.mbtiles\"", &both, "stands beside variants, which have an output of their own");
    says(
        "",
        &format!("{both}where = {{ facilitys = \"true\" }}"),
        "names \"facilitys\", which is no layer of the tileset. Did you mean \"facilities\"?",
    );
    says(
        "",
        &format!("{both}where = {{ facilities = \"id = !slag!\" }}"),
        "for layer \"facilities\" has !slag!, which is no parameter: a parameter is written !name!, by the name of a column of values (values: slug)",
    );
    says("", &format!("{both}where = {{ facilities = \"id = !slug\" }}"), "has !slug, which is no parameter");
    says("", &format!("{both}where = {{ facilities = \"id = $1\" }}"), "has the parameter $1");
    says(
        "",
        &format!("{output}values = \"SELECT ''::text AS slug\""),
        "give an empty text for slug, which is a part of the output",
    );
    says(
        "",
        &format!("{output}values = \"SELECT repeat('x', 300) AS slug\""),
        "give a slug of 300 bytes, which is too long for the name of a file",
    );
    says("", &format!("{output}values = \"SELECT 'BD' AS slug UNION SELECT 'bd'\""), "whose names differ in case only");
    says(
        "",
        &format!("{output}values = \"SELECT 'a' AS slug, n FROM generate_series(1, 2) AS n\""),
        "give two variants (a, 1) and (a, 2) with the same output",
    );
    says(
        "",
        &format!("{output}values = \"SELECT n::text AS slug FROM generate_series(1, 10001) AS n\""),
        "gives more than 10000 rows",
    );
    says("", &format!("{output}values = \"SELECT 1 AS slug, 2 AS slug\""), "gives two columns \"slug\"");
    says(
        "",
        &format!("{output}values = \"SELEC 1\""),
        "the query values of the variants of tileset \"facilities\" is not understood by the database (",
    );
    says("", &format!("{output}values = \"SELECT !zoom! AS slug\""), "has a placeholder, and is asked once");
    says(
        "",
        &format!("{output}values = [{{ slug = \"a\" }}, {{ slug = 2 }}]"),
        "has 2 for slug in its table 2, and the first has a value of type text",
    );
    says("", &format!("{both}all = \"FOLDER/by/c2.mbtiles\""), "which is that of all");
    let url = "[target]\npublic_url = \"https://tiles.example.org/all/\"\n[tileset.variants]";
    let text = format!("[tileset]\nzoom = \"0-3\"\n{url}\n{both}\n{LAYER}");
    let config = world.file("url.toml", &text);
    world.oar_tiles(&config, &["seed"]).fails(2, &["has no {slug}, so that every variant would have one address"]);
    assert!(!world.path("by").exists());
}

#[test]
fn a_null_among_the_values_is_refused_with_a_query_that_leaves_it_out() {
    let world = World::with_contributors(20, 3);
    world.db.run("INSERT INTO contributor VALUES (4, NULL), (5, 'c5')");
    let seed = |values: &str| {
        let keys = format!("output = \"FOLDER/by/{{code}}.mbtiles\"\nvalues = '{values}'");
        world.oar_tiles(&config(&world, "", &keys), &["seed", "--progress", "none"])
    };
    let values = "SELECT number, upper(slug) AS code FROM contributor";
    let rest = "the query values of the variants of tileset \"facilities\" gives a NULL in code, with which no condition is true: leave these rows out (SELECT * FROM (…) AS given WHERE given.\"code\" IS NOT NULL), or let coalesce name them";
    let refused = seed(values).fails(2, &[rest]);
    assert!(!world.path("by").exists());
    let query = refused.stderr.split("leave these rows out (").nth(1).unwrap().split("), or").next().unwrap();
    seed(&query.replace('…', values)).ok();
    assert_eq!(world.names("by"), ["C1.mbtiles", "C2.mbtiles", "C3.mbtiles", "C5.mbtiles"]);
}

#[test]
fn targets_inside_of_each_other_are_refused() {
    let world = World::with_contributors(20, 3);
    let values = "values = \"SELECT slug FROM contributor\"\n";
    for (output, all) in [("by/{slug}/", "by/"), ("by/{slug}.mbtiles", "by/"), ("by/{slug}/", "by/c2/inner/")] {
        let keys = format!("{values}output = \"FOLDER/{output}\"\nall = \"FOLDER/{all}\"");
        world
            .oar_tiles(&config(&world, "", &keys), &["seed", "--progress", "none"])
            .fails(2, &["one lies inside of the other"]);
    }
    assert!(!world.path("by").exists());
}

#[test]
fn two_families_in_one_place_are_told_apart() {
    let world = World::with_contributors(40, 3);
    let values = "values = \"SELECT slug FROM contributor\"\n";
    let seed = ["seed", "--progress", "none"];
    world.oar_tiles(&config(&world, "", &format!("{values}output = \"FOLDER/by/{{slug}}.mbtiles\"")), &seed).ok();
    let other = config(&world, "", &format!("{values}output = \"FOLDER/by/x-{{slug}}.mbtiles\""));
    let text = "the manifest of a family of the same name whose variants go to";
    for arguments in [&seed[..], &["reseed"], &["seed", "--prune-variants"]] {
        world.oar_tiles(&other, arguments).fails(2, &[text, "by/{slug}.mbtiles", "give this tileset another name"]);
    }
    world.oar_tiles(&other, &["seed", "--progress", "none", "--force", "--prune-variants"]).ok();
    assert_eq!(world.names("by").len(), 6, "{:?}", world.names("by"));
}

#[test]
fn two_families_of_one_output_are_told_apart_by_conditions_and_values() {
    let world = World::with_contributors(40, 3);
    let seed = ["seed", "--progress", "none"];
    let family = |values: &str, condition: &str| {
        let keys = format!(
            "values = {values}\nwhere = {{ facilities = \"{condition}\" }}\noutput = \"FOLDER/by/{{slug}}.mbtiles\""
        );
        let name = format!("{}-{}.toml", values.len(), condition.replace(' ', ""));
        world.file(&name, &format!("[tileset]\nzoom = \"0-3\"\n[tileset.variants]\n{keys}\n{LAYER}"))
    };
    let list = |slugs: &[&str]| {
        let tables: Vec<String> = slugs.iter().map(|slug| format!("{{ slug = \"{slug}\" }}")).collect();
        format!("[{}]", tables.join(", "))
    };
    let named = "name > !slug!";
    world.oar_tiles(&family(&list(&["a", "k", "s"]), named), &["track", "install"]).ok();
    world.oar_tiles(&family(&list(&["a", "k", "s"]), named), &seed).ok();
    // A list that was edited, and a query that gives what the list did.
    let reseed = ["reseed", "--progress", "none"];
    let edited = world.oar_tiles(&family(&list(&["k", "s", "t"]), named), &reseed).ok();
    assert!(edited.stdout.contains("by/t.mbtiles: new") && edited.stdout.contains("by/a.mbtiles: still there"));
    world.oar_tiles(&family("\"SELECT unnest(ARRAY['k', 's', 't']) AS slug\"", named), &reseed).ok();
    // Others are refused, whatever they would do.
    let other_values = family(&list(&["x", "y"]), named);
    let other_where = family(&list(&["k", "s", "t"]), "name < !slug!");
    let all: [&[&str]; 3] = [&seed, &reseed, &["reseed", "--progress", "none", "--prune-variants"]];
    for arguments in all {
        world.oar_tiles(&other_values, arguments).fails(
            2,
            &[
                "tileset.variants.values differs from that with which the 3 variants of the same name in",
                "gives none of them",
            ],
        );
        world.oar_tiles(&other_where, arguments).fails(
            2,
            &[
                "tileset.variants.where differs from that with which the variants of the same name in",
                "run seed with --force",
            ],
        );
    }
    assert_eq!(world.names("by"), ["a.mbtiles", "k.mbtiles", "s.mbtiles", "t.mbtiles"]);
    world.oar_tiles(&other_where, &["track", "install"]).ok();
    world.oar_tiles(&other_where, &["seed", "--progress", "none", "--force"]).ok();
    let after = world.oar_tiles(&other_where, &reseed).ok();
    assert!(after.stdout.contains("by/a.mbtiles: still there"), "{}", after.stdout);
    world.oar_tiles(&other_values, &["seed", "--progress", "none", "--force", "--prune-variants"]).ok();
    assert_eq!(world.names("by").len(), 6, "{:?}", world.names("by"));
}

#[test]
fn a_manifest_of_a_family_that_cannot_be_read_asks_for_a_seed_which_replaces_it() {
    let world = World::with_contributors(40, 3);
    let config = world.contributors(".mbtiles");
    let all = |arguments: &[&str]| world.oar_tiles(&config, arguments);
    all(&["track", "install"]).ok();
    all(&["seed", "--progress", "none"]).ok();
    let manifest = world.path("by/.facilities.variants.pmtiles.oar-tiles/family.json");
    let without_snapshot = |whole: &str| {
        let snapshot = whole.split("\"snapshot\": \"").nth(1).unwrap().split('"').next().unwrap();
        whole.replace(snapshot, "7:x")
    };
    for (is_cut, text) in [(false, "7:x"), (true, "the manifest of its variants cannot be read (EOF")] {
        let whole = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(&manifest, if is_cut { "{".to_owned() } else { without_snapshot(&whole) }).unwrap();
        all(&["reseed", "--progress", "none"]).fails(4, &[text]);
        let status = all(&["track", "status"]);
        assert!(format!("{}{}", status.stdout, status.stderr).contains(text), "{}{}", status.stdout, status.stderr);
        let mended = all(&["seed", "--progress", "none"]).ok();
        assert!(mended.stderr.contains(": it is replaced"), "{}", mended.stderr);
        let nothing = all(&["reseed", "--progress", "none"]).ok();
        assert!(nothing.stdout.contains("3 variants: 0 tiles written"), "{}", nothing.stdout);
    }
}

#[test]
fn a_check_asks_the_database_for_values_and_conditions() {
    let world = World::with_contributors(20, 3);
    let output = "output = \"FOLDER/by/{slug}.mbtiles\"\n";
    let check = |variants: &str| {
        world.oar_tiles(&config(&world, "", &format!("{output}{variants}")), &["config", "--check", "--database"])
    };
    check("values = \"SELECT slug FROM contributor\"\nwhere = { facilities = \"name = !slug!\" }").ok();
    for (variants, text) in [
        (
            "values = \"SELECT slug FROM contributors\"",
            "the query values of the variants of tileset \"facilities\" is not understood",
        ),
        ("values = \"SELECT number FROM contributor\"", "has {slug}, which is no value"),
        (
            "values = \"SELECT slug FROM contributor\"\nwhere = { facilities = \"nam = !slug!\" }",
            "column \"nam\" does not exist",
        ),
        (
            "values = \"SELECT slug FROM contributor\"\nwhere = { facilities = \"id = !slag!\" }",
            "has !slag!, which is no parameter",
        ),
    ] {
        let failed = check(variants);
        assert_eq!(failed.code, 2, "{}", failed.stderr);
        assert!(
            format!("{}{}", failed.stdout, failed.stderr).contains(text),
            "«{text}» in {} {}",
            failed.stdout,
            failed.stderr
        );
    }
}

#[test]
fn flags_of_one_target_are_refused() {
    let world = World::with_contributors(20, 3);
    let config = world.contributors(".mbtiles");
    let says = |arguments: &[&str], text: &str| {
        let what = "is not for a tileset with variants (facilities): ";
        world.oar_tiles(&config, arguments).fails(2, &[&format!("{} {what}{text}", arguments[1])]);
    };
    says(&["reseed", "--area", "0,0,1,1"], "reseed the target of one variant");
    says(&["reseed", "--zoom", "0-2"], "leave it out");
    says(&["seed", "--changed-out", "x.txt"], "the notes beside each target");
    says(&["seed", "--preview"], "run oar-tiles preview with the output of one variant");
    world.oar_tiles(&config, &["seed", "--output", "x.mbtiles"]).fails(2, &["stands beside variants"]);
}
