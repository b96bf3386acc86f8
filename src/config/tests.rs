use std::io::Write as _;

use super::*;
use crate::postgis::Parts;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn gather_with(text: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<Values, ConfigError> {
    let file = file(text);
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    gather(Some(file.path()), environment, flags)
}

fn resolve(text: &str) -> Result<Settings, ConfigError> {
    Settings::resolve(&gather_with(text, &[], Vec::new())?, &Parts::default(), &[])
}

#[test]
fn the_sample_configuration_is_the_defaults() {
    let values = gather(None, [], Vec::new()).unwrap();
    let settings = Settings::resolve(&values, &Parts::default(), &[]).unwrap();
    assert_eq!(settings.tileset.zooms.to_string(), "0-14");
    let table = crate::postgis::Rows::Relation { schema: None, table: "api_facility".to_owned() };
    assert_eq!(settings.layers[0].options.rows, table);
    assert_eq!(settings.session.connections, settings.workers.get() + 1);
}

#[test]
fn the_sample_configuration_holds_every_key() {
    // Uncommented, every example line is a valid setting too, and no key is left out.
    let text: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting)
                if setting
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_')) =>
            {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    // A key of KMS is for nothing else.
    let text = text.replace("encryption = \"bucket\"", "encryption = \"aws:kms\"");
    // And a rank for features that may be left out.
    let text = text.replace("on_large_tile = \"warn\"", "on_large_tile = \"thin\"");
    let table: toml::Table = toml::from_str(&text).unwrap();
    // An id of the feature is for rows.
    resolve(&text.replace("feature_id = ", "# feature_id = ")).unwrap();
    for (section, keys) in [
        ("database", "application_name connect_timeout lock_timeout restarts statement_timeout url work_mem"),
        ("tileset", "attribution bbox description gzip_level max_shrink name output version zoom"),
        ("target", "compression keep_for keep_versions public_url publish template"),
        (
            "s3",
            "attempt_timeout attempts backoff cache_control checksums connect_timeout encryption endpoint in_flight kms_key lease metadata notes_cache_control part_size_mb path_style profile region request_timeout storage_class",
        ),
        ("changes", "debounce poll schema truncate_rows"),
        ("run", "batch_features progress rows_mb window workers"),
        (
            "layer_defaults",
            "beyond buffer extent max_tile_bytes max_tile_features on_large_tile on_tile_error tile_bounds zoom",
        ),
        ("layer", "candidates cluster feature_id geometry key name properties rank schema table where"),
    ] {
        let section = match &table[section] {
            toml::Value::Array(layers) => layers[0].as_table().unwrap(),
            section => section.as_table().unwrap(),
        };
        let mut found: Vec<&str> = section.keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found.join(" "), keys);
    }
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = "[tileset]\nzoom = \"1-2\"\noutput = \"file.mbtiles\"\nname = \"of the file\"";
    let environment = [("OAR_TILES_ZOOM", "3-4"), ("OAR_TILES_OUTPUT", "env.mbtiles"), ("HOME", "/")];
    let flags = vec![("--zoom", "tileset.zoom", toml::Value::from("5-6"))];
    let values = gather_with(file, &environment, flags).unwrap();
    let settings = Settings::resolve(&values, &Parts::default(), &[]).unwrap();
    assert_eq!(settings.tileset.zooms.to_string(), "5-6");
    assert_eq!(settings.tileset.output.to_str(), Some("env.mbtiles"));
    assert_eq!(settings.tileset.name, "of the file");
    let shown = values.show();
    assert!(shown.contains("zoom = \"5-6\"  # --zoom\n"), "{shown}");
    assert!(shown.contains("output = \"env.mbtiles\"  # OAR_TILES_OUTPUT\n"), "{shown}");
    assert!(shown.contains("gzip_level = 1  # default\n"), "{shown}");
}

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
            "is missing, and there is no sql: write table = \"…\", or sql = \"\"\"SELECT …\"\"\"",
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

#[track_caller]
fn answered(text: &str, key: &str, message: &str) {
    let file = file(text);
    let values = gather(Some(file.path()), [], Vec::new()).unwrap();
    let error = Settings::resolve(&values, &Parts::default(), &[]).unwrap_err().to_string();
    assert_eq!(error, format!("{key} (from {}): {message}", file.path().display()));
}

#[test]
fn a_placeholder_without_a_value_is_answered_with_where_it_has_one() {
    for (text, key, message) in [
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nwhere = \"!zoom! > 4\"",
            "layer[a].where",
            "has !zoom!, but placeholders have values only in sql. Write sql = \"\"\"SELECT * FROM t WHERE !zoom! > 4\"\"\" and a key instead of table and where; for whole zooms, zoom = \"5-22\" or the like is enough",
        ),
        (
            "[[layer]]\nname=\"a\"\nsql=\"SELECT 1\"\nwhere = \"g && !BBox!\"",
            "layer[a].where",
            "has !BBox!, but placeholders have values only in sql. Move the condition into the query",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nwhere = \"zoom > 3 AND !x! = 1\"",
            "layer[a].where",
            "has !x!, but placeholders have values only in sql. Write sql = \"\"\"SELECT * FROM t WHERE zoom > 3 AND !x! = 1\"\"\" and a key instead of table and where",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nwhere = \"!zoom > 4\"",
            "layer[a].where",
            "has !zoom, but placeholders have values only in sql. Write sql = \"\"\"SELECT * FROM t WHERE !zoom > 4\"\"\" and a key instead of table and where; for whole zooms, zoom = \"5-22\" or the like is enough",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nproperties = { n = \"10 * !z!\" }",
            "layer[a].properties",
            "\"n\" has !z! inside of an expression: \"!x!\", \"!y!\" and \"!zoom!\" are properties each by itself, and other placeholders have values only in sql. Write sql = \"\"\"SELECT …\"\"\" that gives n as a column",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\non_large_tile=\"thin\"\nrank=\"n * !pixel_width!\"",
            "layer[a].rank",
            "has !pixel_width!, but placeholders have values only in sql: let the query give a column to rank by",
        ),
        (
            "[[layer]]\nname=\"a\"\ntable=\"t\"\n[[layer.track]]\ntable=\"u\"\ngeometry=\"SELECT g FROM t WHERE g && !bbox!\"",
            "layer[a].track.geometry",
            "for u has !bbox!: the query is asked for a changed row, at no zoom and in no box. Leave the placeholder out",
        ),
    ] {
        answered(text, key, message);
    }
}

#[test]
fn what_only_looks_like_a_placeholder_is_sql() {
    for filter in [
        "name !~ 'a' AND name != 'b' AND NOT !!true",
        "name = '!zoom!' -- !zoom!",
        "\"!zoom!\" > 3 /* !bbox! */",
        "name !~~ $$!zoom!$$",
        "5! = 120",
        "a !< b",
        "x@!x",
    ] {
        let layer = format!("[[layer]]\nname = \"a\"\ntable = \"t\"\nwhere = '''{filter}'''");
        assert_eq!(resolve(&layer).unwrap().layers[0].options.filter.as_deref(), Some(filter));
    }
}

#[test]
fn a_bad_variable_is_answered_with_its_name() {
    for (name, value, message) in [
        ("OAR_TILES_ZOM", "1", "the environment variable OAR_TILES_ZOM is unknown. Did you mean \"OAR_TILES_ZOOM\"?"),
        ("OAR_TILES_ZOOM", "9-1", "the environment variable OAR_TILES_ZOOM: the zoom range 9-1 is reversed: write 1-9"),
        ("OAR_TILES_WORKERS", "two", "the environment variable OAR_TILES_WORKERS is \"two\", which is no whole number"),
    ] {
        assert_eq!(gather_with("", &[(name, value)], Vec::new()).unwrap_err().to_string(), message);
    }
}

#[test]
fn an_unknown_layer_is_answered_with_the_nearest() {
    let values = gather(None, [], Vec::new()).unwrap();
    let error = |name: &str| Settings::resolve(&values, &Parts::default(), &[name.to_owned()]).unwrap_err().to_string();
    assert_eq!(error("facility"), "there is no layer \"facility\": Did you mean \"facilities\"?");
    assert_eq!(error("roads"), "there is no layer \"roads\": there is facilities");
}

#[test]
fn the_order_of_expressions_is_kept() {
    let settings =
        resolve("[[layer]]\nname=\"a\"\ntable=\"t\"\nproperties = { z = \"1\", a = \"upper(b)\", m = \"c\" }").unwrap();
    let names: Vec<&str> = settings.layers[0].options.properties.iter().flatten().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "m"]);
}

#[test]
fn settings_do_not_show_passwords() {
    let text = "[database]\nurl = \"postgresql://u:hunter2@h/d\"";
    assert!(!format!("{:?}", resolve(text).unwrap()).contains("hunter2"));
    assert!(!gather_with(text, &[], Vec::new()).unwrap().show().contains("hunter2"));
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
fn a_layer_is_not_called_as_what_the_program_keeps_beside_the_tiles() {
    for name in [".oar-tiles", ".OAR-tiles.old", "Metadata.json", "latest.json", "tiles.json", "a.tiles.json"] {
        let file = file(&format!("[[layer]]\nname = \"{name}\"\ntable = \"t\""));
        let values = gather(Some(file.path()), [], Vec::new()).unwrap();
        let error = Settings::resolve(&values, &Parts::default(), &[]).unwrap_err().to_string();
        let what = format!(
            "a layer is named \"{name}\", as what the program keeps beside the tiles (.oar-tiles…, metadata.json, latest.json, tiles.json, ….tiles.json): give it another name"
        );
        assert_eq!(error, format!("layer (from {}): {what}", file.path().display()));
    }
}
