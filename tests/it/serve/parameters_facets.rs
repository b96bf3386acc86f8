//! Facets, and conditions over several parameters: the tiles of the same condition written by hand, and clear refusals.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::folder::Folder;
use crate::support::program::{program, run, seed};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, until};

/// Columns of all types that can be facets, with NULLs, arrays with NULLs among their elements, and empty arrays.
const ITEMS: &str = "
CREATE TABLE items (id int PRIMARY KEY, geom geometry(Point, 4326) NOT NULL, kind varchar(9), n smallint, big bigint, tags varchar(9)[],
    words text[], codes smallint[], ids int[], bigs bigint[], open boolean, workers int, flags boolean[]);
INSERT INTO items SELECT i, ST_SetSRID(ST_MakePoint(i * 7 % 340 - 170, i * 3 % 140 - 70), 4326),
    (ARRAY['a', 'b', 'c', NULL])[1 + i % 4], i % 5, 5000000000 + i % 3, v.texts, v.texts, v.numbers, v.numbers, v.numbers,
    (ARRAY[true, false, NULL])[1 + i % 3], nullif(i % 40, 0), CASE WHEN i % 2 = 0 THEN ARRAY[true, NULL] END
FROM generate_series(1, 120) AS i, LATERAL (SELECT
    (ARRAY['{a}', '{a,b}', '{b,a,c}', '{}', NULL, '{a,NULL}', '{NULL}', '{c,c}'])[1 + i % 8]::text[] AS texts,
    (ARRAY['{1}', '{1,2}', '{2,1,3}', '{}', NULL, '{1,NULL}', '{NULL}', '{3,3}'])[1 + i % 8]::int[] AS numbers) AS v;
CREATE INDEX ON items USING gist (geom)";

const LAYER: &str = "[[layer]]\nname = \"items\"\ntable = \"items\"\ngeometry = \"geom\"\nproperties = [\"id\"]
facets = [\"kind\", \"n\", \"big\", \"tags\", \"words\", \"codes\", \"ids\", \"bigs\", \"open\", \"workers\", \"flags\"]\n";

fn parameter(name: &str, kind: &str, column: &str, more: &str) -> String {
    format!("[[tileset.parameter]]\nname = \"{name}\"\ntype = \"{kind}\"\nfacet = {{ items = \"{column}\" }}\n{more}\n")
}

struct World {
    db: Db,
    folder: Folder,
}

impl World {
    fn new() -> World {
        let world = World { db: Db::new(), folder: Folder::new() };
        world.db.run(ITEMS);
        world
    }

    /// Serves a tileset of zoom 0 that `config` describes.
    fn served(&self, config: &str) -> Served {
        let (config, target) = (self.folder.config(config), self.folder.beside("t.mbtiles"));
        seed(&self.db.url, &target, &["--config", &config, "--zoom", "0"]).ok();
        let own = ["--config", &config, "--live", "--database-url", &self.db.url];
        Served::new(target.to_str().unwrap(), &own)
    }

    /// Fails to serve it, with these texts.
    fn refuses(&self, config: &str, texts: &[&str]) {
        let config = self.folder.config(config);
        let mut command = program();
        let target = self.folder.beside("t.mbtiles");
        command.args(["serve", target.to_str().unwrap(), "--live", "--listen", "127.0.0.1:0"]);
        run(command.args(["--database-url", &self.db.url, "--config", &config])).fails(2, texts);
    }
}

/// A query, and the condition that means the same.
struct Case {
    query: &'static str,
    sql: &'static str,
}

/// The tiles of zoom 1, and whether one of them has a feature.
fn tiles(served: &Served, query: &str) -> (Vec<Vec<u8>>, bool) {
    let (mut all, mut has_some) = (Vec::new(), false);
    for path in ["/1/0/0", "/1/1/0", "/1/0/1", "/1/1/1"] {
        let answer = served.get(&format!("{path}.pbf?{query}"), GZIP);
        assert!(matches!(status(&answer), 200 | 204), "{query}: {}", answer.head);
        has_some |= status(&answer) == 200;
        all.push(answer.body);
    }
    (all, has_some)
}

/// Adds to the configuration a parameter for the SQL of all cases, and compares what is served for both.
fn means_the_same(world: &World, config: &str, cases: &[Case]) -> Served {
    let numbered = cases.iter().enumerate().map(|(number, case)| format!("WHEN {number} THEN ({})", case.sql));
    let by_hand = format!("CASE !by_hand! {} END", numbered.collect::<Vec<_>>().join(" "));
    let by_hand =
        format!("[[tileset.parameter]]\nname = \"by_hand\"\ntype = \"integer\"\nwhere = {{ items = \"{by_hand}\" }}\n");
    let served = world.served(&format!("{config}{by_hand}"));
    let whole = tiles(&served, "");
    for (number, case) in cases.iter().enumerate() {
        let (by_hand, has_some) = tiles(&served, &format!("by_hand={number}"));
        assert_eq!(has_some, case.sql != "false", "{}", case.sql);
        assert!(by_hand != whole.0, "{}", case.sql);
        assert!(tiles(&served, case.query) == (by_hand, has_some), "{}: {}", case.query, case.sql);
    }
    served
}

#[test]
fn a_facet_chooses_the_rows_of_the_same_condition_by_hand() {
    let world = World::new();
    let combined = "match = { from = \"combine\", values = { AND = \"all\", OR = \"any\" } }";
    let combine =
        "[[tileset.parameter]]\nname = \"combine\"\ntype = \"text\"\ncase = \"upper\"\nallowed = [\"AND\", \"OR\"]\n";
    let config = [
        LAYER,
        &parameter("kind", "text[]", "kind", ""),
        &parameter("kinds", "text[]", "kind", "match = \"all\""),
        &parameter("n", "integer[]", "n", ""),
        &parameter("big", "integer", "big", ""),
        &parameter("tag", "text[]", "tags", ""),
        &parameter("tags", "text[]", "tags", "match = \"all\""),
        &parameter("word", "text[]", "words", combined),
        &parameter("code", "integer[]", "codes", ""),
        &parameter("ids", "integer[]", "ids", "match = \"all\""),
        &parameter("bigs", "integer[]", "bigs", ""),
        &parameter("open", "boolean", "open", ""),
        &parameter("flag", "boolean", "flags", ""),
        &parameter("workers", "range", "workers", ""),
        combine,
    ];
    let served = means_the_same(
        &world,
        &config.concat(),
        &[
            Case { query: "kind=a&kind=c", sql: "kind = 'a' OR kind = 'c'" },
            Case { query: "kinds=b", sql: "kind = 'b'" },
            Case { query: "kinds=a&kinds=b", sql: "false" },
            Case { query: "n=1&n=3&n=70000", sql: "n IN (1, 3)" },
            Case { query: "big=5000000001", sql: "big = 5000000001" },
            Case { query: "tag=a&tag=x", sql: "'a' = ANY (tags)" },
            Case { query: "tags=a&tags=b", sql: "'a' = ANY (tags) AND 'b' = ANY (tags)" },
            Case { query: "tags=c", sql: "tags::text[] @> '{c}'" },
            Case { query: "word=a&word=c", sql: "words && '{a,c}'" },
            Case { query: "word=a&word=c&combine=or", sql: "words && '{a,c}'" },
            Case { query: "word=a&word=c&combine=AND", sql: "words @> '{a,c}'" },
            Case { query: "code=2&code=3", sql: "codes && '{2,3}'" },
            Case { query: "ids=1&ids=2", sql: "ids @> '{1,2}'" },
            Case { query: "bigs=9223372036854775807&bigs=3", sql: "3 = ANY (bigs)" },
            Case { query: "open=false", sql: "NOT open" },
            Case { query: "flag=true", sql: "flags @> '{true}'" },
            Case { query: "flag=false", sql: "false" },
            Case { query: "workers=10..20", sql: "workers BETWEEN 10 AND 20" },
            Case { query: "workers=30..", sql: "workers >= 30" },
            Case { query: "workers=..9", sql: "workers <= 9" },
            Case { query: "workers=7", sql: "workers = 7" },
            Case { query: "kind=b&tag=b&workers=..20", sql: "kind = 'b' AND 'b' = ANY (tags) AND workers <= 20" },
            // What is no value of the type is a text like others.
            Case { query: "kind=NULL&tag=%7Ba%7D", sql: "false" },
        ],
    );
    // Only an array is compared with values of its own type.
    for (query, expected) in [
        ("code=40000", "parameter code: a value is more than 32767"),
        ("ids=-2147483649", "parameter ids: a value is less than -2147483648"),
        ("combine=XOR", "parameter combine: a value is not one of those allowed"),
    ] {
        let answer = served.get(&format!("/1/0/0.pbf?{query}"), GZIP);
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((status(&answer), error["error"].as_str()), (400, Some(expected)), "{query}");
    }
    // A parameter's own choice does not narrow the numbers of its values.
    let values = served.json("/values.json?open=false&kind=a")["layers"]["items"].clone();
    let expected = |value: &str, of: &str| -> Value {
        let of_rows = format!("SELECT DISTINCT id, {value} AS v FROM items WHERE {of}");
        let counted = format!("SELECT v, count(*) AS n FROM ({of_rows}) AS of_rows WHERE v IS NOT NULL GROUP BY v");
        let listed = "SELECT json_agg(json_build_array(v::text, n) ORDER BY n DESC, v::text COLLATE \"C\")::text";
        serde_json::from_str(&world.db.value::<String>(&format!("{listed} FROM ({counted}) AS counted"))).unwrap()
    };
    let both = "NOT open AND kind = 'a'";
    for (parameter, value, of) in [
        ("kind", "kind", "NOT open"),
        ("kinds", "kind", both),
        ("n", "n", both),
        ("tag", "unnest(tags)", both),
        ("bigs", "unnest(bigs)", both),
        ("open", "open", "kind = 'a'"),
    ] {
        assert_eq!(values["values"][parameter], expected(value, of), "{parameter}");
    }
    assert_eq!(values["count"], 10, "{values}");
    assert!(served.json("/count.json?kind=a")["layers"]["items"]["values"].is_null());
    let listed = served.json("/tiles.json")["parameters"].clone();
    assert!(listed[7]["max"] == 32767.0 && listed[12]["type"] == "range" && listed[2]["max"].is_null(), "{listed}");
}

#[test]
fn a_condition_over_several_parameters_takes_defaults_for_what_is_not_given() {
    let world = World::new();
    world.db.run("ALTER TABLE items ADD COLUMN names jsonb; UPDATE items SET names = jsonb_build_object('en', 'n' || id % 7, 'fr', 'f' || id % 7)");
    let parameters =
        [("q", "text"), ("language", "text"), ("ids", "integer[]"), ("least", "integer"), ("alone", "text")]
            .map(|(name, kind)| format!("[[tileset.parameter]]\nname = \"{name}\"\ntype = \"{kind}\"\n"));
    let conditions = "[[tileset.condition]]\nuses = [\"q\", \"language\"]\nwhere = { items = \"names ->> !language! = !q!\" }\ndefault = { language = \"en\" }
[[tileset.condition]]\nuses = [\"ids\", \"least\"]\nwhere = { items = \"ids && !ids! AND id >= !least!\" }\n";
    let config = format!("{}{conditions}{LAYER}", parameters.concat());
    let served = means_the_same(
        &world,
        &config,
        &[
            Case { query: "q=n3", sql: "names ->> 'en' = 'n3'" },
            Case { query: "language=fr&q=f3", sql: "names ->> 'fr' = 'f3'" },
            Case { query: "language=fr&q=n3", sql: "false" },
            // An integer[] column takes a list of integers without a cast.
            Case { query: "ids=1&ids=3&least=40", sql: "ids && '{1,3}' AND id >= 40" },
            Case { query: "q=n3&ids=1&least=40", sql: "names ->> 'en' = 'n3' AND 1 = ANY (ids) AND id >= 40" },
        ],
    );
    // Where one is missing that has no default, there is no condition.
    let whole = tiles(&served, "alone=x");
    for query in ["language=fr", "ids=1", "least=40", ""] {
        assert!(tiles(&served, query) == whole, "{query}");
    }
    assert_eq!(status(&served.get("/1/0/0.pbf?ids=3000000000&least=1", GZIP)), 400);
}

#[test]
fn a_list_of_integers_fits_columns_of_both_types_without_a_cast() {
    let world = World::new();
    let lists =
        [("narrow", "ids && !narrow!"), ("wide", "bigs && !wide!"), ("one", "n = ANY (!one!)")].map(|(name, sql)| {
            format!("[[tileset.parameter]]\nname = \"{name}\"\ntype = \"integer[]\"\nwhere = {{ items = \"{sql}\" }}\n")
        });
    let served = means_the_same(
        &world,
        &format!("{}{LAYER}", lists.concat()),
        &[
            Case { query: "narrow=2&narrow=3", sql: "ids && '{2,3}'" },
            Case { query: "wide=2&wide=9223372036854775807", sql: "2 = ANY (bigs)" },
            Case { query: "one=2&one=3000000000", sql: "n = 2" },
        ],
    );
    assert_eq!(status(&served.get("/1/0/0.pbf?narrow=3000000000", GZIP)), 400);
}

#[test]
fn a_polygon_is_one_geometry_however_it_is_written() {
    let world = World::new();
    let config = format!(
        "{LAYER}[[tileset.parameter]]\nname = \"area\"\ntype = \"polygon\"\nwhere = {{ items = \"ST_Within(geom, !area!)\" }}\n"
    );
    let triangle = "ST_Within(geom, ST_GeomFromText('POLYGON((0 0,150 0,60 65.5,0 0))', 4326))";
    let served = means_the_same(
        &world,
        &config,
        &[
            Case { query: "area=POLYGON((0+0,150+0,60+65.5,0+0))", sql: triangle },
            Case {
                query: "area=%7B%22type%22:%22Polygon%22,%22coordinates%22:[[[0,0],[150,0],[60,65.5],[0,0]]]%7D",
                sql: triangle,
            },
            Case {
                query: "area=multipolygon(((-150+0,-1+0,-60+65,-150+0)),((1+0,9+0,9+9,1+0)))",
                sql: "ST_Within(geom, ST_GeomFromText('MULTIPOLYGON(((-150 0,-1 0,-60 65,-150 0)),((1 0,9 0,9 9,1 0)))', 4326))",
            },
        ],
    );
    let tiles = served.json("/tiles.json?area=POLYGON((0+0,%31+0,+1+1.0,0+0))")["tiles"][0].clone();
    assert_eq!(tiles, format!("{}{{z}}/{{x}}/{{y}}.pbf?area=POLYGON((0+0,1+0,1+1,0+0))", served.url));
    let answer = served.get("/1/0/0.pbf?area=POLYGON((0+0,9+9,9+0,0+9,0+0))", GZIP);
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    let expected = "parameter area: a value is no polygon: its edges cross or overlap";
    assert_eq!((status(&answer), error["error"].as_str()), (400, Some(expected)));
}

#[test]
fn a_parameter_narrows_cells_and_clusters_with_their_counts() {
    let world = World::new();
    let layers = "[[layer]]\nname = \"cells\"\ntable = \"items\"\ngeometry = \"geom\"\nfacets = [\"kind\"]
[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = { count = \"count(*)\", most = \"max(workers)\" }
[[layer]]\nname = \"clusters\"\ntable = \"items\"\ngeometry = \"geom\"\nfacets = [\"kind\"]\nproperties = [\"id\"]\n[layer.cluster]\nsize = \"1/4\"\n";
    let parameters = "[[tileset.parameter]]\nname = \"kind\"\ntype = \"text[]\"\nfacet = { cells = \"kind\", clusters = \"kind\" }
[[tileset.parameter]]\nname = \"above\"\ntype = \"integer\"\nwhere = { cells = \"workers > !above!\", clusters = \"workers > !above!\" }\n";
    let served = world.served(&format!("{parameters}{layers}"));
    let whole = tiles(&served, "kind=");
    for (query, sql) in [
        ("kind=a&kind=b", "kind IN ('a', 'b')"),
        ("above=20", "workers > 20"),
        ("above=20&kind=c", "workers > 20 AND kind = 'c'"),
    ] {
        let narrowed = layers.replace("facets = [\"kind\"]", &format!("where = \"{sql}\""));
        let (config, target) = (narrowed_config(&world, &narrowed), world.folder.beside("n.mbtiles"));
        seed(&world.db.url, &target, &["--config", &config, "--zoom", "0-1"]).ok();
        let plain = Served::new(target.to_str().unwrap(), &[]);
        let (expected, has_some) = tiles(&plain, "");
        assert!(has_some && expected != whole.0, "{sql}");
        assert!(tiles(&served, query).0 == expected, "{query}");
    }
}

fn narrowed_config(world: &World, text: &str) -> String {
    let path = world.folder.beside("narrowed.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_column_that_is_no_facet_is_refused_before_the_first_request() {
    let world = World::new();
    world.db.run(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        ALTER TABLE items ADD COLUMN price numeric, ADD COLUMN code char(3), ADD COLUMN name text COLLATE loose",
    );
    let layer = |facets: &str| {
        format!(
            "[[layer]]\nname = \"items\"\ntable = \"items\"\ngeometry = \"geom\"\nproperties = [\"id\"]\nfacets = [\"{facets}\"]\n"
        )
    };
    let target = world.folder.beside("t.mbtiles");
    seed(&world.db.url, Path::new(&target), &["--config", &world.folder.config(&layer("kind")), "--zoom", "0"]).ok();
    for (column, kind, texts) in [
        (
            "price",
            "integer",
            &[
                "layer \"items\": facets names the column \"price\", which is of type numeric",
                "leave it out, and give the parameter a where",
            ][..],
        ),
        ("code", "text", &["facets names the column \"code\", which is of type bpchar"]),
        ("name", "text", &["facets names the column \"name\", whose collation takes different texts for equal"]),
        (
            "kin",
            "text",
            &["facets names the column \"kin\", which \"public\".\"items\" does not have. Did you mean \"kind\"?"],
        ),
        (
            "kind",
            "integer",
            &[
                "its facet \"kind\" is of type varchar, and the parameter \"p\" of type integer. Write type = \"text\" or \"text[]\" into the [[tileset.parameter]]",
            ],
        ),
        (
            "ids",
            "range",
            &[
                "its facet \"ids\" is of type int4[], and the parameter \"p\" of type range. Write type = \"integer\" or \"integer[]\"",
            ],
        ),
        (
            "n",
            "text[]",
            &[
                "its facet \"n\" is of type int2, and the parameter \"p\" of type text. Write type = \"integer\", \"integer[]\" or \"range\"",
            ],
        ),
    ] {
        world.refuses(&format!("{}{}", layer(column), parameter("p", kind, column, "")), texts);
    }
}

/// A taxonomy of the columns `tags` and `n`, with NULLs, a pair that stands there twice, and what stands for several.
const TAXONOMY: &str = "CREATE TABLE taxonomy (synonym text, name text);
    INSERT INTO taxonomy VALUES ('sewing', 'a'), ('sewing', 'a'), ('both', 'a'), ('both', 'c'), ('b', 'c'), ('c', 'x'), (NULL, 'a'), ('lost', NULL);
    CREATE TABLE numbers (old bigint, new int); INSERT INTO numbers VALUES (100, 1), (100, 3)";

const MAPPED: &str = "map = { table = \"taxonomy\", from = \"synonym\", to = \"name\" }";

#[test]
fn values_are_replaced_by_those_for_which_they_stand_in_a_table() {
    let world = World::new();
    world.db.run(TAXONOMY);
    let config = [
        LAYER,
        &parameter("tag", "text[]", "tags", MAPPED),
        &parameter("all", "text[]", "tags", &format!("{MAPPED}\nmatch = \"all\"")),
        &parameter(
            "number",
            "integer[]",
            "n",
            "map = { schema = \"public\", table = \"numbers\", from = \"old\", to = \"new\" }",
        ),
        "[[tileset.parameter]]\nname = \"word\"\ntype = \"text[]\"\ncase = \"lower\"\nmax_values = 1\nwhere = { items = \"words && !word!\" }\n",
        MAPPED,
        "\n",
    ];
    let served = means_the_same(
        &world,
        &config.concat(),
        &[
            Case { query: "tag=sewing", sql: "'a' = ANY (tags)" },
            Case { query: "tag=both&tag=a", sql: "tags && '{a,c}'" },
            Case { query: "all=both", sql: "tags @> '{a,c}'" },
            // One step, and exactly the text of the table.
            Case { query: "tag=b", sql: "'c' = ANY (tags)" },
            Case { query: "tag=Sewing&tag=lost", sql: "false" },
            Case { query: "number=100&number=2", sql: "n IN (1, 2, 3)" },
            Case { query: "word=BOTH", sql: "words && '{a,c}'" },
            Case { query: "word=unknown", sql: "false" },
        ],
    );
    // Addresses have the client's values.
    let tiles = served.json("/tiles.json?tag=sewing&tag=both")["tiles"][0].clone();
    assert_eq!(tiles, format!("{}{{z}}/{{x}}/{{y}}.pbf?tag=both&tag=sewing", served.url));
    let count = |query: &str| served.json(&format!("/count.json?{query}"))["layers"]["items"]["count"].clone();
    assert_eq!(count("tag=sewing"), count("tag=a"));
    // An edit of the table reaches tiles that were asked for before, and counts.
    let (before, after) = (tiles_of(&served, "tag=a"), tiles_of(&served, "by_hand=3"));
    assert!(tiles_of(&served, "tag=sewing") == before && before != after);
    world.db.run("UPDATE taxonomy SET name = 'c' WHERE synonym = 'sewing'");
    until("the edit of the taxonomy", || tiles_of(&served, "tag=sewing") == after);
    until("the edit of the taxonomy to be counted", || count("tag=sewing") == count("by_hand=3"));
    world.db.run("TRUNCATE taxonomy");
    until("an empty taxonomy", || tiles_of(&served, "tag=sewing") == tiles_of(&served, "tag=none"));
    // What cannot be read any more leaves what was read last.
    world.db.run("INSERT INTO taxonomy VALUES ('sewing', 'c')");
    until("the taxonomy to be there", || tiles_of(&served, "tag=sewing") == after);
    world.db.run("INSERT INTO taxonomy SELECT 'sewing', 'a' FROM generate_series(1, 10001)");
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert!(tiles_of(&served, "tag=sewing") == after);
    world.db.run(
        "DELETE FROM taxonomy; INSERT INTO taxonomy SELECT 'sewing', 'v' || i FROM generate_series(1, 10000) AS i",
    );
    let refused = || served.get("/1/0/0.pbf?tag=sewing&tag=x", GZIP);
    until("too many values", || status(&refused()) == 400);
    let error: Value = serde_json::from_slice(&refused().body).unwrap();
    assert_eq!(error["error"], "parameter tag: the values stand for more than 10000 others");
}

#[test]
fn a_map_that_is_locked_leaves_the_values_read_last_and_is_told() {
    let world = World::new();
    world.db.run(TAXONOMY);
    let config = format!("{LAYER}{}", parameter("tag", "text[]", "tags", MAPPED));
    let (config, target) = (world.folder.config(&config), world.folder.beside("t.mbtiles"));
    seed(&world.db.url, &target, &["--config", &config, "--zoom", "0"]).ok();
    let log = world.folder.beside("log");
    let mut command = program();
    command.args(["serve", target.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--drain", "0s", "--live", "--config", &config, "--database-url", &world.db.url]);
    let served = Served::of(command.stderr(fs::File::create(&log).unwrap()));
    let before = tiles_of(&served, "tag=sewing");
    let said = |text: &str| fs::read_to_string(&log).unwrap().matches(text).count();
    let why =
        "requests go by the values that a map had last: reading it takes longer than 2 s: its table may be locked";
    let holder = world.db.again();
    holder.run("BEGIN; LOCK taxonomy");
    until("the lock to be told", || said(why) == 1);
    assert!(tiles_of(&served, "tag=sewing") == before);
    holder.run("UPDATE taxonomy SET name = 'c' WHERE synonym = 'sewing'; COMMIT");
    until("the edit of the taxonomy", || tiles_of(&served, "tag=sewing") != before);
    until("the end of the lock to be told", || said("the maps of parameters are read again") == 1);
}

fn tiles_of(served: &Served, query: &str) -> Vec<Vec<u8>> {
    tiles(served, query).0
}

#[test]
fn a_map_that_cannot_be_read_is_refused_before_the_first_request() {
    let world = World::new();
    world.db.run(TAXONOMY);
    world.db.run(
        "CREATE TABLE huge AS SELECT i::text AS synonym, 'a'::text AS name FROM generate_series(1, 10001) AS i;
         CREATE TABLE long AS SELECT 'x'::text AS synonym, repeat('a', 1001) AS name;
         CREATE TABLE far AS SELECT '1'::text AS synonym, '40000' AS name",
    );
    let target = world.folder.beside("t.mbtiles");
    seed(&world.db.url, Path::new(&target), &["--config", &world.folder.config(LAYER), "--zoom", "0"]).ok();
    for (table, kind, column, texts) in [
        (
            "taxonomi",
            "text[]",
            "tags",
            &["the map of the parameter \"p\" cannot be used: relation \"taxonomi\" does not exist"][..],
        ),
        ("taxonomy", "integer[]", "n", &["cannot be used: invalid input syntax for type bigint"]),
        (
            "huge",
            "text[]",
            "tags",
            &["the map of the parameter \"p\" cannot be used: \"huge\" has more than 10000 rows"],
        ),
        ("long", "text[]", "tags", &["cannot be used: \"long\": a value has more than 1000 characters"]),
        ("far", "integer[]", "codes", &["cannot be used: \"far\": 40000 is more than 32767"]),
    ] {
        let map = MAPPED.replace("taxonomy", table);
        world.refuses(&format!("{LAYER}{}", parameter("p", kind, column, &map)), texts);
    }
    // Who may read the layer, but not the table of the map.
    let role = format!("{}_no_taxonomy", world.db.name);
    world.db.run(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON items TO {role}"));
    let config = world.folder.config(&format!("{LAYER}{}", parameter("p", "text[]", "tags", MAPPED)));
    let mut command = program();
    command.args(["serve", target.to_str().unwrap(), "--live", "--listen", "127.0.0.1:0", "--config", &config]);
    command.args(["--database-url", &format!("{}&user={role}", world.db.url)]);
    run(&mut command)
        .fails(2, &["the map of the parameter \"p\" cannot be used: permission denied for table taxonomy"]);
}

/// Polygons that are repaired, some of which have no shape left, are counted by their values as they are drawn.
#[test]
fn values_of_repaired_polygons_are_counted() {
    let world = World::new();
    world.db.run(
        "CREATE TABLE fields (id int PRIMARY KEY, geom geometry(Polygon, 4326), crop text, size float8);
        INSERT INTO fields SELECT i, ST_GeomFromText(format('POLYGON((%1$s 0,%2$s 2,%2$s 0,%1$s 2,%1$s 0))', i, i + 1), 4326),
            (ARRAY['rye', 'oats, rolled', 'Rye'])[1 + i % 3] FROM generate_series(1, 30) AS i",
    );
    let layer =
        "[[layer]]\nname = \"items\"\ntable = \"fields\"\nrepair = true\nproperties = [\"id\"]\nfacets = [\"crop\"]\n";
    let served = world.served(&format!("{}{layer}", parameter("crop", "text[]", "crop", "case = \"lower\"")));
    let values = served.json("/values.json")["layers"]["items"].clone();
    // What the parameter would change is not offered.
    assert_eq!(values["values"]["crop"], serde_json::json!([["oats, rolled", 10], ["rye", 10]]), "{values}");
    assert_eq!(values["count"], 30);
}
