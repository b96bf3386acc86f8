//! Facets of kept rows: of any values they choose the rows that the program's SQL chooses, and a server says why it
//! does not keep them.

use std::fmt::Write as _;

use super::live_rows::Live;
use super::live_sets::Pair;
use crate::support::chance::Chance;
use crate::support::nginx::Answer;
use crate::support::served::{GZIP, Served, status};
use crate::support::until;

/// Columns of every type of facet: of single values and of arrays.
const COLUMNS: [(&str, &str); 14] = [
    ("t", "text"),
    ("v", "varchar(12)"),
    ("s", "smallint"),
    ("i", "integer"),
    ("b", "bigint"),
    ("o", "boolean"),
    ("ts", "text[]"),
    ("vs", "varchar(12)[]"),
    ("ss", "smallint[]"),
    ("is", "integer[]"),
    ("bs", "bigint[]"),
    ("os", "boolean[]"),
    (OF_CELLS, "integer"),
    (OF_POINTS, "integer"),
];

/// A column that is a facet of cells alone.
const OF_CELLS: &str = "c";

/// A column that is a facet of points alone.
const OF_POINTS: &str = "p";

/// A parameter that means something else of points than of cells.
const OPPOSITE: &str = "[[tileset.parameter]]\nname = \"opposite\"\ntype = \"integer\"\nwhere = { points = \"i < !opposite!\", hexagons = \"i > !opposite!\" }\n";

/// Texts that are easily taken for something else; `a` with a diaeresis in two spellings.
const TEXTS: [&str; 16] =
    ["", "a", "A", "\u{e4}", "a\u{308}", "ß", "日本", "😀", "{a}", "\"", "\\", "NULL", " a", "a ", "a,b", "'%+&="];

/// The values of a column's type, or of each element, as a request gives them.
fn pool(kind: &str) -> Vec<String> {
    let numbers = |least: i64, greatest: i64| {
        [least, least + 1, -7, -1, 0, 1, 7, greatest - 1, greatest].map(|number| number.to_string()).to_vec()
    };
    match kind.trim_end_matches("[]") {
        "smallint" => numbers(i16::MIN.into(), i16::MAX.into()),
        "integer" => numbers(i32::MIN.into(), i32::MAX.into()),
        "bigint" => numbers(i64::MIN, i64::MAX),
        "boolean" => vec!["true".to_owned(), "false".to_owned()],
        _ => TEXTS.map(str::to_owned).to_vec(),
    }
}

fn any<T: Clone>(chance: &mut Chance, of: &[T]) -> T {
    of[usize::try_from(chance.below(of.len() as u64)).unwrap()].clone()
}

/// A value of a column as SQL: perhaps NULL, an empty array, or an array with NULLs and the same value twice.
fn sql_value(chance: &mut Chance, kind: &str) -> String {
    let (pool, is_array) = (pool(kind), kind.ends_with("[]"));
    let one = |chance: &mut Chance| match chance.below(6) {
        0 => "NULL".to_owned(),
        _ => format!("'{}'", any(chance, &pool).replace('\'', "''")),
    };
    if !is_array {
        return format!("{}::{kind}", one(chance));
    }
    if chance.below(8) == 0 {
        return format!("NULL::{kind}");
    }
    let values: Vec<String> = (0..chance.below(5)).map(|_| one(chance)).collect();
    format!("ARRAY[{}]::{kind}", values.join(", "))
}

/// Rows with these ids, at any places, several at some.
fn any_rows(chance: &mut Chance, ids: impl Iterator<Item = u32>) -> String {
    let row = |id: u32| {
        let [x, y] = [chance.below(34) * 10, chance.below(15) * 10];
        let values: Vec<String> = COLUMNS.iter().map(|(_, kind)| sql_value(chance, kind)).collect();
        format!("({id}, ST_SetSRID(ST_MakePoint({x} - 170, {y} - 75), 4326), {})", values.join(", "))
    };
    format!("INSERT INTO facts VALUES {}", ids.map(row).collect::<Vec<_>>().join(", "))
}

/// The parameters of a column: for each way to match, one.
fn parameters(column: &str, kind: &str) -> Vec<(String, &'static str, &'static str)> {
    let of_each = match kind.trim_end_matches("[]") {
        "smallint" | "integer" | "bigint" => "integer[]",
        "boolean" => "boolean",
        _ => "text[]",
    };
    let mut all = vec![(format!("{column}_any"), of_each, "any")];
    // A tileset has at most 32 parameters.
    if [OF_CELLS, OF_POINTS].contains(&column) {
        return all;
    }
    all.push((format!("{column}_all"), of_each, "all"));
    if of_each == "integer[]" && !kind.ends_with("[]") {
        all.push((format!("{column}_range"), "range", "range"));
    }
    all
}

/// Points, and cells that share their rows.
fn layers() -> String {
    let mut config = format!("[tileset]\nmax_shrink = \"100%\"\n{OPPOSITE}");
    for (column, kind) in COLUMNS {
        let of = |layer: &str, without: &str| (column != without).then(|| format!("{layer} = \"{column}\""));
        let of_layers = [of("points", OF_CELLS), of("hexagons", OF_POINTS)].into_iter().flatten().collect::<Vec<_>>();
        let facet = format!("facet = {{ {} }}", of_layers.join(", "));
        for (name, of_each, matching) in parameters(column, kind) {
            let parameter = format!("name = \"{name}\"\ntype = \"{of_each}\"\nmatch = \"{matching}\"\n{facet}\n");
            write!(config, "[[tileset.parameter]]\n{parameter}").unwrap();
        }
    }
    let layer = |name: &str, without: &str| {
        let facets = COLUMNS.iter().filter(|(column, _)| *column != without).map(|(column, _)| format!("\"{column}\""));
        let facets = facets.collect::<Vec<_>>().join(", ");
        format!("[[layer]]\nname = \"{name}\"\ntable = \"facts\"\ngeometry = \"geom\"\nfacets = [{facets}]\n")
    };
    let cells = "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = { rows = \"count(*)\" }\n";
    let points = layer("points", OF_CELLS) + "properties = [\"id\"]\n";
    config + &layer("hexagons", OF_POINTS) + "zoom = \"0-6\"\n" + cells + &points
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A query of one to three parameters, with values that rows have, that none has, that the column cannot hold, or none.
fn any_query(chance: &mut Chance) -> String {
    let mut all: Vec<(&str, String, &str)> = Vec::new();
    for (column, kind) in COLUMNS {
        all.extend(parameters(column, kind).into_iter().map(|(name, of_each, _)| (kind, name, of_each)));
    }
    let mut given: Vec<String> = Vec::new();
    if chance.below(8) == 0 {
        given.push(format!("opposite={}", any(chance, &["-7", "0", "7"])));
    }
    for _ in 0..=chance.below(3) {
        let (kind, name, of_each) = any(chance, &all);
        let mut values = pool(kind);
        if of_each == "integer[]" {
            values.extend(
                ["5", "40000", "-2147483649", "9223372036854775807", "-9223372036854775808"].map(str::to_owned),
            );
        } else if of_each == "text[]" {
            values.extend(["b", "none", "\u{1f600}\u{1f600}", "true"].map(str::to_owned));
        }
        let bound = |chance: &mut Chance| if chance.below(3) == 0 { String::new() } else { any(chance, &values) };
        match of_each {
            "range" => {
                let [least, greatest] = [bound(chance), bound(chance)];
                given.push(format!("{name}={least}..{greatest}"));
            }
            "boolean" => given.push(format!("{name}={}", any(chance, &values))),
            _ => given.extend((0..=chance.below(3)).map(|_| format!("{name}={}", encoded(&any(chance, &values))))),
        }
    }
    given.join("&")
}

/// What a server answers: a tile of all rows, or the numbers of rows with each value.
fn answers(served: &Served, query: &str) -> [Answer; 2] {
    [served.get(&format!("/0/0/0.pbf?{query}"), GZIP), served.get(&format!("/values.json?{query}"), "")]
}

/// Any rows of every type that a facet may have, under any request: what is chosen by kept rows is what the program's
/// SQL chooses in the database. `OAR_TILES_TEST_ROUNDS` and `OAR_TILES_TEST_SEED` as for histories.
#[test]
fn facets_of_any_values_choose_what_the_conditions_of_the_database_choose() {
    let number =
        |variable: &str, otherwise| std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap());
    let (rounds, seed) = (number("OAR_TILES_TEST_ROUNDS", 3), number("OAR_TILES_TEST_SEED", 23));
    let mut chance = Chance(seed);
    let columns = COLUMNS.map(|(column, kind)| format!("\"{column}\" {kind}")).join(", ");
    let table = format!(
        "CREATE TABLE facts (id int PRIMARY KEY, geom geometry(Point, 4326), {columns});
        CREATE INDEX ON facts USING gist (geom); {}",
        any_rows(&mut chance, 1..301)
    );
    let layers = layers();
    let pair = Pair::over(&table, &layers, &layers, 64);
    pair.live.asks_until("cells to be counted", |rows| rows["counted_tiles"].as_u64().unwrap() > 0);
    let (mut asked, mut refused) = (0, 0);
    for round in 0..rounds {
        if round > 0 {
            let first = 1_000 * u32::try_from(round).unwrap();
            let part = chance.below(5);
            // Columns of one layer alone.
            let changes = if round % 2 == 1 {
                let set = |column: &str, rest: u64| format!("UPDATE facts SET {column} = 1 WHERE id % 5 = {rest}");
                format!("{}; {}", set(OF_CELLS, part), set(OF_POINTS, (part + 1) % 5))
            } else {
                format!("DELETE FROM facts WHERE id % 5 = {part}; {}", any_rows(&mut chance, first..first + 60))
            };
            pair.live.tracked.db.run(&changes);
            pair.has_new_snapshots();
        }
        let of_one = [OF_CELLS, OF_POINTS].map(|column| format!("{column}_any=1"));
        for query in (0..100).map(|_| any_query(&mut chance)).chain(of_one) {
            let [own, plain] = [&pair.live.served, &pair.plain].map(|served| answers(served, &query));
            for (own, plain) in own.iter().zip(&plain) {
                let what = format!("seed {seed}, round {round}, {query}: {} {}", own.head, plain.head);
                assert!(matches!(status(own), 200 | 204 | 400), "{what}");
                assert!(status(own) == status(plain) && own.body == plain.body, "{what}");
            }
            asked += u64::from(status(&own[0]) != 400);
            refused += u64::from(status(&own[0]) == 400);
        }
    }
    let before = ["facet_sets", "set_statements"].map(|what| pair.count(what));
    drop(answers(&pair.live.served, &format!("{OF_CELLS}_any=1&{OF_CELLS}_any=2&{OF_POINTS}_any=1&{OF_POINTS}_any=2")));
    let now = ["facet_sets", "set_statements"].map(|what| pair.count(what));
    assert!(now[0] > before[0] + 1 && now[1] == before[1], "{before:?} {now:?}");
    let rows = pair.live.rows();
    assert!(asked > 3 * refused && pair.count("facet_sets") > asked / 2, "{asked} asked, {refused} refused, {rows}");
    // Points and cells of the same rows keep them once.
    assert_eq!(rows["rows"], pair.live.tracked.db.value::<i64>("SELECT count(*) FROM facts"), "{rows}");
    assert!(rows["why_no_facets"].is_null() && rows["reads"] == 1, "{rows}");
}

#[test]
fn why_facets_are_not_kept_is_told_until_they_are_read_again() {
    // No index finds rows by the key, and the log lacks the column of the facet.
    let table =
        "CREATE TABLE bare AS SELECT id, kind::int AS kind, geom FROM rows; CREATE INDEX ON bare USING gist (geom)";
    let layer =
        "[[layer]]\nname = \"points\"\ntable = \"bare\"\ngeometry = \"geom\"\nproperties = [\"id\"]\nkey = [\"id\"]\n";
    let parameter = "[[tileset.parameter]]\nname = \"kind\"\ntype = \"integer[]\"\nfacet = { points = \"kind\" }\n";
    let mut live = Live::over(table, layer, &format!("{parameter}{layer}facets = [\"kind\"]\n"));
    let tells = |live: &Live, why: &str| {
        live.asks_until(why, |rows| rows["why_no_facets"].as_str().is_some_and(|told| told.contains(why)));
    };
    let restart = |live: &mut Live| {
        live.served.signal("-KILL");
        live.served.child.wait().unwrap();
        let own = ["--config", &live.config, "--live", "--database-url", &live.tracked.db.url];
        live.served = Served::new(&live.target, &own);
    };
    live.keeps_rows();
    let layer = "layer \"points\": ";
    tells(&live, &format!("{layer}its facets are not kept, so that the database chooses rows by them: no index finds"));
    live.tracked.db.run("CREATE UNIQUE INDEX ON bare (id)");
    restart(&mut live);
    tells(
        &live,
        &format!(
            "{layer}the change log lacks changes of the column by which the parameter \"kind\" chooses rows, so that the database does. Run oar-tiles track install"
        ),
    );
    live.tracked.oar_tiles(&["track", "install", "--config", &live.config]).ok();
    restart(&mut live);
    live.keeps_rows();
    let mut tiles = (0..1_024).map(|number| format!("/5/{}/{}.pbf?kind=3", number % 32, number / 32));
    until("a set of facets", || {
        tiles.by_ref().take(8).for_each(|tile| drop(live.served.get(&tile, GZIP)));
        live.rows()["facet_sets"].as_u64().unwrap() > 0
    });
    assert!(live.rows()["why_no_facets"].is_null(), "{}", live.rows());
}
