//! Layers: names, placeholders and the order of properties.

use super::*;

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
            "[[layer]]\nname=\"a\"\ntable=\"t\"\nmax_zoom=\"!zoom! + 1\"",
            "layer[a].max_zoom",
            "has !zoom!, but placeholders have values only in sql: let it give a zoom for each row",
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
fn a_condition_that_does_not_fit_its_zooms_is_answered_with_what_to_write() {
    let layer = |condition: &str| format!("[[layer]]\nname=\"a\"\ntable=\"t\"\nwhere = {condition}");
    for (condition, message) in [
        ("{ \"0-\" = \"n > 4\" }", "\"0-\": \"0-\" is no zoom list: write 0-14, 7 or 0-4,8,10-12"),
        ("{ \"0-6\" = 4 }", "\"0-6\": its value is no text: write an SQL condition in quotes"),
        ("{ \"0-6\" = \"n > 4\", \"6-7\" = \"n > 3\" }", "names zoom 6 twice: give each zoom one condition"),
        (
            "{ \"0-6\" = \"n > !zoom!\" }",
            "has !zoom!, but placeholders have values only in sql. Write sql = \"\"\"SELECT * FROM t WHERE n > !zoom!\"\"\" and a key instead of table and where; for whole zooms, zoom = \"5-22\" or the like is enough",
        ),
    ] {
        answered(&layer(condition), "layer[a].where", message);
    }
    let error = gather_with(&layer("4"), &[], Vec::new()).unwrap_err().to_string();
    let expected = "an SQL condition, or a table of zooms and conditions such as { \"0-6\" = \"population > 100000\" }";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_condition_by_zoom_is_that_of_each_zoom() {
    let text =
        "[[layer]]\nname=\"a\"\ntable=\"t\"\nzoom=\"1-9\"\nwhere = { \"0-4\" = \"n > ${N}\", \"7,8\" = \"true\" }";
    let values = gather_with(text, &[], Vec::new()).unwrap();
    assert!(values.show().contains("where = { 0-4 = \"n > ${N}\", \"7,8\" = \"true\" }\n"), "{}", values.show());
    let settings = settings_of(&values, &[]).unwrap();
    let parts: Vec<(String, Option<&str>)> =
        (settings.tileset.layers.iter()).map(|layer| (layer.zooms.to_string(), layer.filter.as_deref())).collect();
    let expected = [("1-4", Some("n > ${N}")), ("5-6,9", None), ("7-8", Some("true"))];
    assert_eq!(parts, expected.map(|(zooms, filter)| (zooms.to_owned(), filter)));
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
        assert_eq!(resolve(&layer).unwrap().tileset.layers[0].filter.as_deref(), Some(filter));
    }
}

#[test]
fn an_unknown_layer_is_answered_with_the_nearest() {
    let values = gather(None, None, [], Vec::new()).unwrap();
    let error = |name: &str| settings_of(&values, &[name.to_owned()]).unwrap_err().to_string();
    assert_eq!(error("facility"), "there is no layer \"facility\". Did you mean \"facilities\"?");
    assert_eq!(error("roads"), "there is no layer \"roads\": there is facilities");
}

#[test]
fn the_order_of_expressions_is_kept() {
    let settings =
        resolve("[[layer]]\nname=\"a\"\ntable=\"t\"\nproperties = { z = \"1\", a = \"upper(b)\", m = \"c\" }").unwrap();
    let names: Vec<&str> = settings.tileset.layers[0].properties.iter().flatten().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "m"]);
}

#[test]
fn a_layer_is_not_called_as_what_the_program_keeps_beside_the_tiles() {
    for name in [".oar-tiles", ".OAR-tiles.old", "Metadata.json", "latest.json", "tiles.json", "a.tiles.json"] {
        let file = file(&format!("[[layer]]\nname = \"{name}\"\ntable = \"t\""));
        let values = gather(Some(file.path()), None, [], Vec::new()).unwrap();
        let error = settings_of(&values, &[]).unwrap_err().to_string();
        let what = format!(
            "a layer is named \"{name}\", as what the program keeps beside the tiles (.oar-tiles…, metadata.json, latest.json, tiles.json, ….tiles.json): give it another name"
        );
        assert_eq!(error, format!("layer (from {}): {what}", file.path().display()));
    }
}
