//! Cells that do not fit: what was found, and what to write instead.

use crate::support::{Db, OldTarget};

const LAYER: &str = "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\ngeometry = \"location\"\n";
const LINES: &str = "[[layer]]\nname = \"mills\"\ntable = \"lines\"\nproperties = [\"id\"]\n";
const COUNT: &str = "properties = { count = \"count(*)\" }\n";

/// Layers with what follows them, and what their refusal has to say.
#[track_caller]
fn refused(cases: &[(&str, String, &[&str])]) {
    let db = Db::with_facilities(20);
    db.run(
        "CREATE TABLE lines (id int PRIMARY KEY, g geometry(LineString, 4326)); CREATE INDEX ON lines USING gist (g)",
    );
    let old = OldTarget::new();
    for (before, cells, texts) in cases {
        old.refuses_config(&db.url, &format!("{before}{cells}"), &["--zoom", "0-4"], 2, texts);
    }
}

#[test]
fn cells_that_do_not_fit_are_refused_with_what_to_write() {
    refused(&[
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"circle\"\nsize = \"1/8\"\n{COUNT}"),
            &["line 6: unknown variant `circle`, expected `square` or `hexagon`"][..],
        ),
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = \"an eighth\"\n{COUNT}"),
            &["line 7: \"an eighth\" is no fraction: write 0.125 or \"1/8\""],
        ),
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = 8\n{COUNT}"),
            &["layer[mills].aggregate.size", ": 8 of a tile is out of range: write 1/128 to 1, such as \"1/8\"\n"],
        ),
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"square\"\nsize = \"1/3\"\n{COUNT}"),
            &["of a tile is no power of two, and squares must nest in tiles: write 1, \"1/2\", \"1/4\", … \"1/128\"\n"],
        ),
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nedges = \"degrees\"\n{COUNT}"),
            &[
                "layer[mills].aggregate.edges",
                ": those of squares run along meridians and parallels: leave this key out\n",
            ],
        ),
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/4\"\nedges = \"degrees\"\n{COUNT}"),
            &[
                "layer[mills].aggregate.edges",
                ": edges in degrees are worked out for hexagons of 1/8 of a tile or less: write a smaller size, or leave this key out\n",
            ],
        ),
        (
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nmax_tile_features = 1000\n",
            format!("[layer.aggregate]\ncell = \"square\"\nsize = \"1/64\"\n{COUNT}"),
            &[
                "a tile may hold 4096 of them, and max_tile_features is 1000. Write a greater fraction, or raise max_tile_features\n",
            ],
        ),
        (
            LAYER,
            "[layer.aggregate]\ncell = \"square\"\nsize = 1\nproperties = { n = \"count(*)\", c = \"country_code\" }\n"
                .to_owned(),
            &[
                "error: layer \"mills\": a property of its cells is no aggregate: a cell has many rows",
                "Write SQL aggregates such as count(*), sum(…) or max(…) over the columns of \"public\".\"api_facility\": \"id\", ",
                "must appear in the GROUP BY clause",
            ],
        ),
        (
            LAYER,
            "[layer.aggregate]\ncell = \"square\"\nsize = 1\nproperties = { n = \"sum(workers)\" }\n".to_owned(),
            &[
                "the database does not understand the properties of its cells, or having",
                "column \"workers\" does not exist",
            ],
        ),
        (
            LAYER,
            "[layer.aggregate]\ncell = \"square\"\nsize = 1\nproperties = { n = \"count(*)\", n = \"sum(1)\" }\n"
                .to_owned(),
            &["line 8: duplicate key"],
        ),
        (
            LAYER,
            "[layer.aggregate]\ncell = \"hexagon\"\nsize = 1\nproperties = { id = \"!cel!\" }\n".to_owned(),
            &[
                "layer[mills].aggregate.properties",
                "!cel! is no placeholder here: there is !xmin!, !ymin!, !xmax!, !ymax!, !cell!\n",
            ],
        ),
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = 1\nhaving = \"!width! > 3\"\n{COUNT}"),
            &["layer[mills].aggregate.having", "!width! is no placeholder here"],
        ),
        (
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = [\"id\"]\n",
            format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = 1\n{COUNT}"),
            &[
                "layer[mills].properties",
                "are those of single rows, and the layer is aggregated at all its zooms: write them into [layer.aggregate], or give that a zoom of its own\n",
            ],
        ),
        (
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nfeature_id = \"n\"\n",
            format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = 1\n{COUNT}"),
            &["layer[mills].feature_id", "names the column \"n\", and a cell is no row: leave feature_id out\n"],
        ),
    ]);
}

#[test]
fn clusters_and_property_zooms_that_do_not_fit_are_refused_with_what_to_write() {
    refused(&[
        (
            LAYER,
            format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = 1\n{COUNT}[layer.cluster]\n"),
            &["layer[mills].cluster", "stands beside [layer.aggregate]: a layer has one or the other\n"],
        ),
        (
            LAYER,
            "[layer.cluster]\n".to_owned(),
            &[
                "layer[mills].cluster",
                "needs the layer's properties: those that a facility alone in its cell is drawn with\n",
            ],
        ),
        (
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = { point_count = \"1\" }\n",
            "[layer.cluster]\n".to_owned(),
            &["\"point_count\" is a property of clusters and of single rows: give one of them another name\n"],
        ),
        (
            LINES,
            "[layer.cluster]\n".to_owned(),
            &[
                "error: layer \"mills\": the geometries in \"g\" of \"public\".\"lines\" are not all points, and only points are clustered",
                "Leave the others out with where, or draw the layer in cells with [layer.aggregate]\n",
            ],
        ),
        (
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = [\"id\", \"name\"]\nproperty_zooms = { nam = \"3-4\" }\n",
            String::new(),
            &[
                "layer[mills].property_zooms",
                "names \"nam\", which is none of the layer's properties. Did you mean \"name\"?\n",
            ],
        ),
        (
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = [\"name\"]\nproperty_zooms = { name = \"4-3\" }\n",
            String::new(),
            &["\"name\": the zoom range 4-3 is reversed: write 3-4\n"],
        ),
        (
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperty_zooms = { name = \"3-4\" }\n",
            String::new(),
            &["needs properties: name those of the layer, too\n"],
        ),
    ]);
}
