//! `config --check` names every problem at once, `--schema` and `--json` are for programs; variables and secrets in a
//! file.

use std::path::PathBuf;
use std::process::Command;

use crate::support::Db;
use crate::support::folder::Folder;
use crate::support::program::{Run, bare_program, run};
use crate::support::repository;

/// `oar-tiles config` with a file.
fn config(folder: &Folder, text: &str, arguments: &[&str]) -> Run {
    let path = folder.beside("c.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = bare_program();
    command.args(["config", "--config", "c.toml"]).args(arguments).current_dir(folder.beside(""));
    run(&mut command)
}

/// The lines of standard error that begin a problem.
fn problems(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter_map(|line| line.strip_prefix("error: ")).collect()
}

const WRONG: &str = r#"
[database]
url = "${NOBODY_SET_THIS}"
statment_timeout = "1m"
lock_timeout = "2h"
[tileset]
zoom = "0-99"
gzip_level = 77
output = "a.mbtiles"
[nonsense]
a = 1
b = [
  2,
]
[target]
template = "{version}/{z}/{x}/{y}.pbf"
[serve]
cache_mb = "many"
[[purge]]
provider = "fastly"
[[layer]]
table = "no_name"
[layer.cluster]
zoom = "0-3"
[[layer]]
name = "mills"
table = "mill"
colour = "red"
key = ["id", "id"]
properties = ["name"]
zoom = 4
[layer.cluster]
size = "1/3"
[[layer]]
name = "mills"
table = "mill"
[run]
workers = 1000
"#;

#[test]
fn every_problem_of_a_file_is_named_at_once() {
    let folder = Folder::new();
    let checked = config(&folder, WRONG, &["--check", "--layer", "mill"]);
    let found = problems(&checked);
    let expected = [
        "c.toml, line 3: database.url: the environment variable NOBODY_SET_THIS is not set: set it, or write ${NOBODY_SET_THIS:-default}",
        "c.toml, line 4: unknown key \"statment_timeout\". Did you mean \"statement_timeout\"?",
        "c.toml, line 7: ",
        "c.toml, line 10: unknown key \"nonsense\"",
        "c.toml, line 18: ",
        "c.toml, line 19: ",
        "c.toml, line 21: this [[layer]], number 1 of the file, has no name: write name = …",
        "c.toml, line 28: unknown key \"colour\"",
        "run.workers (from c.toml): 1000 must lie between 1 and 256",
        "tileset.gzip_level (from c.toml): 77 is no gzip level",
        "database.lock_timeout (from c.toml): 2h must lie between 10ms and 1h",
        "target.template (from c.toml): \"{version}/{z}/{x}/{y}.pbf\" has a {version}",
        "layer (from c.toml): two layers are named \"mills\"",
        "the configuration has problems: ",
    ];
    for text in expected {
        assert!(found.iter().any(|problem| problem.starts_with(text)), "{text} is missing in {found:#?}");
    }
    assert_eq!(checked.code, 2, "{}", checked.stderr);
    assert!(checked.stdout.is_empty());
    let distinct: std::collections::BTreeSet<&&str> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "{found:#?}");
    assert!(*found.last().unwrap() == format!("the configuration has problems: {}, each named above", found.len() - 1));
}

#[test]
fn problems_of_layers_and_of_the_environment_are_named_with_each_other() {
    let folder = Folder::new();
    let text = "[tileset]\noutput = \"a.mbtiles\"\n[[layer]]\nname = \"a\"\ntable = \"t\"\nproperties = [\"x\", \"x\"]\nkey = [\"id\", \"id\"]\n[[layer]]\nname = \"b\"\ntable = \"t\"\nsql = \"SELECT 1\"\n[[layer]]\nname = \"c\"\ntable = \"t\"\n";
    let path = folder.beside("c.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = bare_program();
    command.args(["config", "--check", "--layer", "d", "--config"]).arg(&path);
    command.env("OAR_TILES_NONSENSE", "1").env("OAR_TILES_WORKERS", "many").env("DATABASE_URL", "nonsense");
    let checked = run(&mut command).fails(
        2,
        &[
            "the environment variable OAR_TILES_NONSENSE is unknown",
            "the environment variable OAR_TILES_WORKERS is \"many\"",
            "there is no layer \"d\"",
            "layer[a].key (from ",
            "layer[a].properties (from ",
            "layer[b].",
        ],
    );
    assert!(!checked.stderr.contains("layer[c]"), "{}", checked.stderr);
}

/// A configuration for an output with further lines.
fn for_output(output: &str, more: &str) -> String {
    format!("[tileset]\noutput = \"{output}\"\n{more}")
}

const VERSIONS: &str = "[target]\npublish = \"versioned\"\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\n";
const WRITER: &str = "[serve]\nwriter = \"auto\"\n";
const WRITE_BACK: &str = "[serve]\nwriter = \"always\"\nlive = true\nwrite_back = true\n";
const BY_COUNTRY: &str =
    "[tileset.variants]\nvalues = [{ c = \"de\" }]\nwhere = { facilities = \"country_code = !c!\" }\noutput = ";

#[test]
fn what_does_not_go_together_is_refused_in_one_sentence() {
    let folder = Folder::new();
    let family = format!("{BY_COUNTRY}\"by/{{c}}.pmtiles\"\n");
    let pmtiles = "live tiles cannot be written back into PLACE: a PMTiles archive is written anew as a whole for each batch. Serve an MBTiles file, a directory or a prefix of a bucket, or leave serve.write_back out";
    let versions = "a server cannot keep PLACE up to date: it is published with publish = \"versioned\", and a version is written as a whole. Publish in place, or leave --writer and serve.writer out and run oar-tiles seed --config c.toml when something has changed";
    for (place, text, refused) in [
        ("t.pmtiles", for_output("t.pmtiles", WRITE_BACK), pmtiles),
        ("s3://b/t.pmtiles", for_output("s3://b/t.pmtiles", WRITE_BACK), pmtiles),
        ("by/{c}.pmtiles", format!("{WRITE_BACK}[tileset]\nname = \"f\"\n{family}"), pmtiles),
        ("tiles/", for_output("tiles/", &format!("{VERSIONS}{WRITER}")), versions),
        ("s3://b/tiles/", for_output("s3://b/tiles/", &format!("{VERSIONS}{WRITER}")), versions),
    ] {
        let checked = config(&folder, &text, &["--check"]);
        let expected = [&*refused.replace("PLACE", place), "the configuration has problems: 1, each named above"];
        assert_eq!(problems(&checked), expected, "{text}");
        assert_eq!(checked.code, 2, "{text}");
    }
    let nowhere = config(&folder, &for_output("t.tiles", ""), &["--check"]);
    assert!(problems(&nowhere)[0].starts_with("\"t.tiles\" names no target: "), "{}", nowhere.stderr);
}

#[test]
fn what_goes_together_has_no_problem() {
    let folder = Folder::new();
    let apart = "[target]\ntemplate = \"{layer}/{z}/{x}/{y}.pbf\"\n";
    let kinds = ["t.mbtiles", "t.pmtiles", "tiles/", "s3://b/tiles/", "s3://b/t.pmtiles"];
    let all = kinds.into_iter().flat_map(|kind| {
        let family = format!("{BY_COUNTRY}\"{}\"\n", kind.replacen('t', "{c}t", 1));
        let plain = [VERSIONS, WRITER, apart, "area = \"0,0,10,10\"\n", "[serve]\nlive = true\n"];
        let plain = plain.map(|more| (kind, for_output(kind, more)));
        plain.into_iter().chain([(kind, format!("[tileset]\nname = \"f\"\n{family}"))])
    });
    // Versions are for targets of tiles by themselves, so a writer of an archive has none.
    let archives = ["t.mbtiles", "t.pmtiles"].map(|kind| (kind, for_output(kind, &format!("{VERSIONS}{WRITER}"))));
    let trees = ["t.mbtiles", "tiles/", "s3://b/tiles/"].map(|kind| (kind, for_output(kind, WRITE_BACK)));
    for (kind, text) in all.chain(archives).chain(trees) {
        let checked = config(&folder, &text, &["--check"]);
        assert_eq!(problems(&checked), Vec::<&str>::new(), "{kind}: {text}");
    }
}

#[test]
fn what_is_no_toml_has_one_problem() {
    let folder = Folder::new();
    for (text, problem) in [
        ("[tileset\nzoom = 1\n", "c.toml, line 1: "),
        ("a = = 1", "c.toml, line 1: "),
        ("[[layer]]", "c.toml, line 1: "),
    ] {
        config(&folder, text, &["--check"]).fails(2, &[problem, "the configuration has problems: "]);
    }
    let absent = run(bare_program().args(["config", "--check", "--config", "/no/file.toml"]));
    absent.fails(
        2,
        &["cannot read the configuration /no/file.toml", "the configuration has problems: 1, each named above"],
    );
    let fine = config(&folder, "[tileset]\nzoom = 3\n", &["--check"]).ok();
    assert_eq!((fine.stdout.as_str(), fine.stderr.as_str()), ("c.toml: no problem found\n", ""));
}

#[test]
fn the_database_is_asked_for_every_layer() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("CREATE TABLE public.mill (id int PRIMARY KEY, name text, g geometry(Point, 4326)); CREATE TABLE public.bare (id int)");
    let text = "[tileset]\noutput = \"a.mbtiles\"\n[[layer]]\nname = \"a\"\ntable = \"absent\"\n[[layer]]\nname = \"b\"\ntable = \"mill\"\nproperties = { n = \"nane\" }\n[[layer]]\nname = \"c\"\ntable = \"bare\"\n[[layer]]\nname = \"d\"\ntable = \"mill\"\nproperties = [\"name\"]\n[layer.cluster]\nzoom = \"0-4\"\n";
    let database = ["--check", "--database", "--database-url", &db.url];
    let checked = config(&folder, text, &database).fails(
        2,
        &[
            "error: layer \"a\": the database ",
            "has no table or view \"absent\"",
            "error: layer \"b\": the database does not understand properties or where",
            "error: layer \"c\": \"public\".\"bare\" has no column of type geometry or geography",
            "error: layer \"c\": \"public\".\"bare\" has no primary key",
            "warning: layer \"d\": \"public\".\"mill\" has no spatial index",
            "error: the configuration has problems: 4, each named above",
        ],
    );
    assert_eq!(checked.stderr.matches("no spatial index").count(), 1, "{}", checked.stderr);
    assert!(!folder.beside("a.mbtiles").exists());
    // Without --database nothing is asked, and a database that is not there is a problem beside the others.
    config(&folder, text, &["--check"]).ok();
    let nowhere = ["--check", "--database", "--database-url", "postgresql://nobody@127.0.0.1:1/none"];
    config(&folder, &text.replace("[tileset]\n", "[tileset]\ngzip_level = 99\n"), &nowhere)
        .fails(2, &["tileset.gzip_level", "cannot reach the database", "problems: 2, each named above"]);
}

#[test]
fn every_problem_of_a_layer_is_named_at_once() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("CREATE TABLE public.mill (id int PRIMARY KEY, name text, g geometry(Point, 4326))");
    let text = "[tileset]\noutput = \"a.mbtiles\"\n[[layer]]\nname = \"columns\"\ntable = \"mill\"\ngeometry = \"gg\"\nkey = [\"idd\", \"ida\"]\nproperties = [\"nane\", \"id\"]\nfeature_id = \"name\"\n[[layer]]\nname = \"expressions\"\ntable = \"mill\"\nproperties = { a = \"absent + 1\", b = \"id\", c = \"missing || name\" }\nwhere = \"nowhere > 1\"\nmin_zoom = \"nozoom\"\n";
    let checked = config(&folder, text, &["--check", "--database", "--database-url", &db.url]).fails(
        2,
        &[
            "error: layer \"columns\": geometry names the column \"gg\", which \"public\".\"mill\" does not have. Did you mean \"g\"?",
            "error: layer \"columns\": key names the column \"idd\"",
            "error: layer \"columns\": key names the column \"ida\"",
            "error: layer \"columns\": properties names the column \"nane\"",
            "error: layer \"columns\": feature_id names the column \"name\", which is of type text",
            "cause: column \"absent\" does not exist",
            "cause: column \"missing\" does not exist",
            "cause: column \"nowhere\" does not exist",
            "cause: column \"nozoom\" does not exist",
            "error: the configuration has problems: 9, each named above",
        ],
    );
    assert_eq!(problems(&checked).len(), 10, "{}", checked.stderr);
}

#[test]
fn the_schema_takes_the_sample_and_refuses_what_the_program_refuses() {
    let folder = Folder::new();
    let schema = run(bare_program().args(["config", "--schema"])).ok().stdout;
    std::fs::write(folder.beside("schema.json"), schema).unwrap();
    let python = PathBuf::from(std::env::var("TEST_PYTHON").expect("scripts/test installs it"));
    let check = |path: PathBuf| {
        let mut check = Command::new(python.with_file_name("check-jsonschema"));
        let done = check.arg("--schemafile").arg(folder.beside("schema.json")).arg(path).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    for path in ["sample-config.toml", "examples/map.toml", "scripts/every-facility.toml"] {
        let (is_valid, said) = check(repository(path));
        assert!(is_valid, "{path}: {said}");
    }
    for (text, is_valid) in [
        (
            "[tileset]\nzoom = \"0-3\"\nbbox = [\"1,2,3,4\"]\n[layer_defaults]\nzoom = 7\nmax_tile_bytes = { \"0-6\" = 300 }\n",
            true,
        ),
        (
            "[[layer]]\nname = \"a\"\nproperties = { a = \"b\" }\n[layer.cluster]\nsize = 0.5\n[[layer.track]]\ntable = \"t\"\ngeometry = \"g\"\n",
            true,
        ),
        ("[tileset]\nzooom = 1\n", false),
        ("[database]\nstatement_timeout = 10\n", false),
        ("[[layer]]\ntable = \"a\"\n", false),
        ("[layer_defaults]\non_large_tile = \"shrink\"\n", false),
        ("[serve]\nwriter = \"sometimes\"\n", false),
    ] {
        let path = folder.beside("case.toml");
        std::fs::write(&path, text).unwrap();
        let (found, said) = check(path);
        assert_eq!(found, is_valid, "{text}: {said}");
        let by_us =
            config(&folder, &text.replace("[[layer]]", "[tileset]\noutput = \"a.mbtiles\"\n[[layer]]"), &["--json"]);
        // What needs more than types (a table for the layer's rows) is said by the program alone.
        assert!(is_valid || by_us.code == 2, "{text}: {}", by_us.stderr);
    }
}

/// With and without the lines that are not for everybody.
#[test]
fn the_first_page_of_the_sample_is_a_whole_configuration() {
    let folder = Folder::new();
    let sample = std::fs::read_to_string(repository("sample-config.toml")).unwrap();
    let (page, _) = sample.split_once("# The rest of this file is for reference").unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("#   "));
    let plain: String = lines.clone().map(|line| format!("{line}\n")).collect();
    let all: String = lines.map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    assert!(plain.lines().count() > 15 && plain.lines().count() <= 40, "{plain}");
    for text in [plain, all.replace("\"facilities.mbtiles\"", "\"tiles/\"")] {
        config(&folder, &text, &["--check"]).ok();
    }
}

#[test]
fn the_settings_are_json_without_their_secrets() {
    let folder = Folder::new();
    let text = "[database]\nurl = \"postgresql://me:hunter2@h/d\"\n[tileset]\noutput = \"a.mbtiles\"\n[s3]\nendpoint = \"https://me:hunter2@s3\"\n[[purge]]\nprovider = \"varnish\"\nurl = \"https://me:hunter2@tiles/\"\ncaches = [\"http://127.0.0.1:1\"]\n[[layer]]\nname = \"a\"\ntable = \"t\"\n";
    let shown = config(&folder, text, &["--json", "--zoom", "3"]).stdout;
    let shown = if shown.is_empty() {
        config(&folder, &text.replace("me:hunter2@tiles", "tiles"), &["--json", "--zoom", "3"]).ok().stdout
    } else {
        shown
    };
    assert!(!shown.contains("hunter2"), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(json["schema_version"], 1);
    let settings = &json["settings"];
    assert_eq!(settings["database"]["url"]["value"], "postgresql://me:(hidden)@h/d");
    assert_eq!(settings["tileset"]["zoom"], serde_json::json!({ "value": "3", "origin": "--zoom" }));
    assert_eq!(settings["layer"]["origin"], "c.toml");
    assert_eq!(settings["layer"]["value"][0]["name"], "a");
    assert_eq!(settings["run"]["window"]["origin"], "default");
}

#[test]
fn variables_and_a_file_give_the_address() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("CREATE TABLE public.mill (id int PRIMARY KEY, g geometry(Point, 4326)); INSERT INTO public.mill VALUES (1, 'SRID=4326;POINT(1 1)')");
    std::fs::write(folder.beside("secret"), format!("{}\n", db.url)).unwrap();
    std::fs::write(folder.beside("empty"), "\n").unwrap();
    let layer = "[[layer]]\nname = \"mills\"\ntable = \"${TABLE:-mill}\"\n";
    let seed = |database: &str| {
        std::fs::write(
            folder.beside("c.toml"),
            format!("{database}\n[tileset]\nzoom = 0\noutput = \"${{NAME}}.mbtiles\"\n{layer}"),
        )
        .unwrap();
        let mut command = bare_program();
        command.args(["seed", "--progress", "none", "--config", "c.toml"]).current_dir(folder.beside(""));
        command.env("NAME", "mine").env("URL", &db.url);
        command
    };
    for database in ["[database]\nurl = \"${URL}\"", "[database]\nurl_file = \"secret\""] {
        run(&mut seed(database)).ok();
        std::fs::remove_file(folder.beside("mine.mbtiles")).unwrap();
    }
    for (database, message) in [
        ("[database]\nurl_file = \"absent\"", "database.url_file (from c.toml): absent cannot be read (No such file"),
        ("[database]\nurl_file = \"empty\"", "database.url_file (from c.toml): empty is empty: write the URL into it"),
        (
            "[database]\nurl_file = \"secret\"\nurl = \"x\"",
            "database.url (from c.toml): is given beside url_file: one of them is enough",
        ),
        ("[database]\nurl = \"${NONE}\"", "c.toml, line 2: database.url: the environment variable NONE is not set"),
    ] {
        run(&mut seed(database)).fails(2, &[message]);
    }
    // The environment wins over both keys.
    run(seed("[database]\nurl_file = \"absent\"").env("DATABASE_URL", &db.url)).ok();
    run(seed("[database]\nurl = \"${URL}\"").env_remove("NAME"))
        .fails(2, &["line 5: tileset.output: the environment variable NAME is not set"]);
}
