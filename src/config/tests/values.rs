//! Wrong values: the message names the line or the key, and what to write.

use super::{answered, gather_with, resolve, settings_of};
use crate::config::TilesetSettings;
use crate::target::Compression;

#[test]
fn a_bad_file_is_answered_with_line_and_nearest_name() {
    for (text, message) in [
        ("[tileset]\nname = \"x\"\nzom = 3", "line 3: unknown key \"zom\". Did you mean \"zoom\"?"),
        ("[tilset]\n", "line 1: unknown key \"tilset\". Did you mean \"tileset\"?"),
        (
            "[run]\nxyzzy = 1",
            "line 2: unknown key \"xyzzy\". Known here: workers, batch_features, window, rows_mb, progress",
        ),
        (
            "[database]\napplication_name = \"x\"",
            "line 2: application_name is no key any more: take it out; name the sessions in the URL (?application_name=…) or in PGAPPNAME",
        ),
        (
            "[s3]\nattempts = 3\nbackoff = \"1s\"",
            "line 3: backoff is no key any more: take it out; requests are repeated after 100 ms, then after twice as long each time, as attempts and request_timeout allow",
        ),
        (
            "[s3]\nconnect_timeout = \"1s\"",
            "line 2: connect_timeout is no key any more: take it out; a connection to a bucket may take 5 seconds, and an attempt as long as attempt_timeout says",
        ),
        (
            "[[layer]]\nname = \"a\"\ntable = \"t\"\ngeometri = \"g\"",
            "line 4: unknown key \"geometri\". Did you mean \"geometry\"?",
        ),
        ("[[layer]]\ntable = \"t\"", "line 1: this [[layer]], number 1 of the file, has no name: write name = …"),
        (
            "# [[layer]]\n[[layer]]\nname = \"a\"\ntable = \"t\"\n\n  [[layer]] # the second\ntable = \"u\"\n[[layer]]\nname = \"c\"\ntable = \"v\"",
            "line 6: this [[layer]], number 2 of the file, has no name: write name = …",
        ),
        (
            "[[layer]]\nname = \"a\"\n[[layer]]\nname = \"b\"\ntable = \"t\"\n[layer.aggregate]\ncell = \"square\"\nsize = 0.5",
            "line 6: [layer.aggregate] of [[layer]] number 2 has no properties: write properties = …",
        ),
        (
            "[[layer]]\nname = \"a\"\ntable = \"t\"\n[[layer.track]]\ntable = \"u\"",
            "line 4: [[layer.track]] of [[layer]] number 1 has no geometry: write geometry = …",
        ),
        ("layer = [{ table = \"t\" }]", "line 1: a table that begins here has no name: write name = …"),
        ("[tileset]\nzoom = \"9-3\"", "line 2: the zoom range 9-3 is reversed: write 3-9"),
        ("[tileset]\nzoom = 23", "line 2: zoom 23 is too deep: the deepest zoom is 22"),
        (
            "[tileset]\nbbox = [\"0,10,10,0\"]",
            "line 2: the box 0,10,10,0 is reversed: south 10 is not below north 0 (the order is west,south,east,north)",
        ),
        (
            "[layer_defaults]\ntile_bounds = \"wgs84\"",
            "line 2: unknown variant `wgs84`, expected `mercator` or `degrees`",
        ),
        (
            "[[layer]]\nname = \"a\"\ntable = \"t\"\ncandidates = \"a fifth\"",
            "line 4: \"a fifth\" is no fraction: write 0.125 or \"1/8\"",
        ),
        ("[run]\nrows_mb = \"much\"", "line 2: a number of megabytes, or \"auto\""),
        ("[run]\nworkers = \"many\"", "line 2: invalid type: string \"many\", expected usize"),
        (
            "[database]\nstatement_timeout = \"soon\"",
            "line 2: \"soon\" is no duration (expected number at 0): write 30s, 10m or 0s",
        ),
        (
            "[layer_defaults]\nmax_tile_bytes = \"500 kB\"",
            "line 2: a number, or a table of zooms and numbers such as { \"0-6\" = 300000 }",
        ),
        (
            "[layer_defaults]\non_large_tile = \"drop\"",
            "line 2: unknown variant `drop`, expected one of `warn`, `fail`, `thin`",
        ),
        ("[layer_defaults]\non_tile_error = \"warn\"", "line 2: unknown variant `warn`, expected `fail` or `skip`"),
    ] {
        let error = resolve(text).unwrap_err().to_string();
        assert!(error.ends_with(&format!(", {message}")), "{text}: {error}");
    }
}

#[test]
fn a_bad_value_is_answered_with_its_key_and_origin() {
    for (text, key, message) in [
        ("[tileset]\ngzip_level = 13", "tileset.gzip_level", "13 is no gzip level: write 1 (fast) to 12 (small)"),
        ("[run]\nworkers = 1000", "run.workers", "1000 must lie between 1 and 256"),
        ("[layer_defaults]\nextent = 10", "layer_defaults.extent", "10 must lie between 256 and 65536"),
        ("[[layer]]\nname=\"a\"\ntable=\"t\"\nbuffer=9000", "layer[a].buffer", "9000 must lie between 0 and 8192"),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\ncandidates=0",
            "layer[a].candidates",
            "0 of a tile is out of range: write more than 0 and at most 2, such as 0.2. For no features beyond the tile's edges write buffer = 0",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\ntile_bounds=\"degrees\"\n[layer.aggregate]\ncell=\"square\"\nsize=\"1/4\"\ndraw=\"polygon\"\nproperties={ n = \"count(*)\" }",
            "layer[a].tile_bounds",
            "\"degrees\" is for points, lines and polygons of a table, and for cells that stand as points: set draw = \"center\", or tile_bounds = \"mercator\"",
        ),
        (
            "[[layer]]\nname=\"a\"",
            "layer[a].table",
            "is missing, and there is no sql and no function: write table = \"…\", sql = \"\"\"SELECT …\"\"\" or function = \"…\"",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nsql=\"SELECT 1\"",
            "layer[a].sql",
            "stands beside table: a layer has one or the other",
        ),
        (
            "[[layer]]\nname=\"a\"\nschema=\"s\"\nsql=\"SELECT 1\"",
            "layer[a].schema",
            "stands beside sql, and belongs to table: name the schema in the query",
        ),
        (
            "[[layer]]\nname=\"a\"\nsql=\"SELECT !box!\"",
            "layer[a].sql",
            "has !box!, which is no placeholder: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
        ),
        (
            "[[layer]]\nname=\"a\"\nsql=\"SELECT 1 WHERE g && !bbox!\"\n[layer.aggregate]\ncell=\"square\"\nsize=0.5\nproperties={ n = \"count(*)\" }",
            "layer[a].sql",
            "has !bbox! beside [layer.aggregate]: a cell needs all of its members, wherever tiles end. Leave the condition with !bbox! out: the index is used all the same",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nkey=[\"i\",\"i\"]",
            "layer[a].key",
            "names the column \"i\" twice: name each column once",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nproperties=[\"i\",\"i\"]",
            "layer[a].properties",
            "names \"i\" twice: name each property once",
        ),
        (
            "[layer_defaults]\nmax_tile_bytes = { \"0-99\" = 1 }",
            "layer_defaults.max_tile_bytes",
            "\"0-99\": zoom 99 is too deep: the deepest zoom is 22",
        ),
        (
            "[layer_defaults]\nmax_tile_features = { \"0-6\" = 10, \"4,9\" = 20 }",
            "layer_defaults.max_tile_features",
            "names zoom 4 twice: give each zoom one limit",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nmax_tile_bytes = { \"0-6\" = -1 }",
            "layer[a].max_tile_bytes",
            "\"0-6\": its value is no number: write how many, or 0 for no limit",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nmax_tile_bytes = { \"0-6\" = \"many\" }",
            "layer[a].max_tile_bytes",
            "\"0-6\": its value is no number: write how many, or 0 for no limit",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nrank=\"workers\"",
            "layer[a].rank",
            "does nothing, for no feature is left out: write on_large_tile = \"thin\" beside it",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nrank=\"workers\"\non_large_tile=\"thin\"\naggregate={cell=\"square\",size=0.25,properties={n=\"count(*)\"}}",
            "layer[a].rank",
            "ranks single rows, and the layer is put together in cells at all its zooms, of which those with the most rows stay: leave it out",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nmax_tile_features={\"0-4\"=10,\"5-22\"=1000}\naggregate={cell=\"square\",size=0.25,zoom=\"0-6\",properties={n=\"count(*)\"}}",
            "layer[a].aggregate.size",
            "cells of 0.25 of a tile are too small: a tile may hold 16 of them, and max_tile_features is 10. Write a greater fraction, or raise max_tile_features",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\n[[layer]]\nname=\"a\"\ntable=\"u\"",
            "layer",
            "two layers are named \"a\": give each its own name",
        ),
    ] {
        answered(text, key, message);
    }
}

#[test]
fn settings_of_targets_that_do_not_fit_are_named() {
    for (text, message) in [
        (
            "[target]\ntemplate = \"{version}/{z}/{x}/{y}\"",
            "\"{version}/{z}/{x}/{y}\" has a {version}: write publish = \"versioned\" with it",
        ),
        (
            "[target]\npublish = \"versioned\"",
            "versions need a {version} in the template \"{z}/{x}/{y}.pbf\": write {version}/{z}/{x}/{y}.pbf or the like",
        ),
        (
            "[target]\npublic_url = \"tiles/\"",
            "is no whole address: write https://host/path, under which clients find the output, or relative",
        ),
        (
            "[target]\npublic_url = \"https://me:hunter2@h/tiles\"",
            "holds a user or password, and every visitor would read it: write https://host/path, under which clients find the output, or relative",
        ),
        (
            "[target]\npublic_url = \"https://h/{z}/{x}/{y}.pbf\"",
            "is no address of a folder: write https://host/path, under which clients find the output, or relative",
        ),
        (
            "[target]\npublic_url = \"https://\"",
            "is no address of a folder: write https://host/path, under which clients find the output, or relative",
        ),
        ("[s3]\nkms_key = \"k\"", "needs encryption = \"aws:kms\" beside it"),
        ("[s3]\npart_size_mb = 4", "4 must lie between 5 and 5000"),
        ("[s3]\nattempts = 0", "0 must lie between 1 and 100"),
        ("[s3]\ncache_control = { \"0-99\" = \"x\" }", "\"0-99\": zoom 99 is too deep: the deepest zoom is 22"),
        ("[s3]\ncache_control = { \"0-9\" = 7 }", "\"0-9\": its value is no text: write the header in quotes"),
    ] {
        let error = resolve(text).unwrap_err().to_string();
        assert!(error.ends_with(message), "{error}");
    }
}

#[test]
fn a_list_of_tilesets_is_checked() {
    let (one, other) = ("[[tileset]]\nname = \"a\"\noutput = \"a.mbtiles\"\n", "[[tileset]]\nname = \"b\"\n");
    for (text, message) in [
        ("[[tileset]]\nzoom = 3\n".to_owned(), "number 1 has no name: write name = \"…\""),
        (format!("{one}[[tileset]]\n"), "number 2 has no name: write name = \"…\""),
        (format!("{one}{one}"), "two are called \"a\": give each its own name"),
        (
            format!("{one}{other}output = \"a.mbtiles\""),
            "\"a\" and \"b\" have the same output, \"a.mbtiles\": give each its own; a flag or variable for all of them needs --tileset",
        ),
        (
            "[[tileset]]\nname = \"../a\"".to_owned(),
            "\"../a\" is no name that files and URLs can have: write letters, digits, -, _ and . (not first)",
        ),
    ] {
        let error = gather_with(&text, &[], Vec::new()).unwrap().tilesets(&[]).unwrap_err().to_string();
        assert!(error.starts_with("tileset (from ") && error.ends_with(&format!("): {message}")), "{error}");
    }
    let several = format!("{one}{other}zoom = 30");
    let error = gather_with(&several, &[], Vec::new()).unwrap_err().to_string();
    assert!(error.ends_with("line 6: zoom 30 is too deep: the deepest zoom is 22"), "{error}");
    let values = gather_with(&format!("{one}max_shrink = \"x\""), &[], Vec::new()).unwrap();
    let error = settings_of(&values.tilesets(&[]).unwrap()[0], &[]).unwrap_err().to_string();
    assert!(error.starts_with("tileset[a].max_shrink (from "), "{error}");
    let error = settings_of(&values, &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "this command is for one tileset, and this configuration has several: choose it with --tileset (a)"
    );
}

#[test]
fn a_tileset_of_a_list_has_its_own_values_and_those_of_all() {
    let text = "[tileset_defaults]\nzoom = \"0-3\"\noutput = \"{tileset}.mbtiles\"\n[target]\npublic_url = \"https://example.org/{tileset}\"
        [[purge]]\nprovider = \"varnish\"\nurl = \"https://example.org/{tileset}/\"\ncaches = [\"http://127.0.0.1:1\"]
        [[tileset]]\nname = \"a\"\n[[tileset]]\nname = \"b\"\nzoom = \"0-5\"\n[tileset.target]\ncompression = \"none\"";
    let tilesets = |environment: &[(&str, &str)]| {
        let values = gather_with(text, environment, Vec::new()).unwrap();
        values.tilesets(&[]).unwrap().iter().map(|values| settings_of(values, &[]).unwrap().tileset).collect::<Vec<_>>()
    };
    let found = tilesets(&[]);
    let seen = |tileset: &TilesetSettings| {
        (
            tileset.name.clone(),
            tileset.zooms.to_string(),
            tileset.output.display().to_string(),
            tileset.tree.public_url.clone().unwrap(),
            tileset.tree.section.compression == Compression::Gzip,
        )
    };
    let expected = |name: &str, zooms: &str, packed| {
        let url = format!("https://example.org/{name}");
        (name.to_owned(), zooms.to_owned(), format!("{name}.mbtiles"), url, packed)
    };
    assert_eq!(found.iter().map(seen).collect::<Vec<_>>(), [expected("a", "0-3", true), expected("b", "0-5", false)]);
    // A default output is for tilesets without variants of their own, default variants for tilesets without an output
    // of their own.
    let variants = "values = [{ country = \"de\" }]\nwhere = { facilities = \"country_code = !country!\" }\noutput = \"{tileset}-{country}.mbtiles\"\n";
    for text in [
        format!(
            "[tileset_defaults]\noutput = \"{{tileset}}.mbtiles\"\n[[tileset]]\nname = \"a\"\n[[tileset]]\nname = \"b\"\n[tileset.variants]\n{variants}"
        ),
        format!(
            "[tileset_defaults.variants]\n{variants}[[tileset]]\nname = \"a\"\noutput = \"a.mbtiles\"\n[[tileset]]\nname = \"b\"\n"
        ),
    ] {
        let values = gather_with(&text, &[], Vec::new()).unwrap();
        let [a, b] = &values.tilesets(&[]).unwrap()[..] else { panic!("{text}") };
        let [a, b] = [a, b].map(|values| settings_of(values, &[]).unwrap().tileset);
        assert_eq!((a.output.to_str(), a.variants.is_some()), (Some("a.mbtiles"), false), "{text}");
        assert!(b.variants.is_some(), "{text}");
    }
    // The environment takes precedence over the file, for the values of each tileset.
    let found = tilesets(&[("OAR_TILES_ZOOM", "7")]);
    assert_eq!(found.iter().map(|tileset| tileset.zooms.to_string()).collect::<Vec<_>>(), ["7", "7"]);
    let urls: Vec<String> = found.iter().map(|tileset| format!("{:?}", tileset.purges)).collect();
    assert!(urls[1].contains("path: \"/b/\""), "{}", urls[1]);
}
