//! The schemas of everything that the program prints as JSON: written down as the program knows them, and true of real
//! outputs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::program::{bare_program, over_rows, program, run, seed_command};
use crate::support::schemas::fits;
use crate::support::{Db, repository};

fn known() -> serde_json::Map<String, Value> {
    let said = run(program().args(["config", "--schema", "all"])).ok().stdout;
    serde_json::from_str(&said).unwrap()
}

#[test]
fn the_schemas_in_the_manual_are_those_of_the_program() {
    let (known, page) = (known(), fs::read_to_string(repository("docs").join("json.md")).unwrap());
    let mut files: Vec<PathBuf> =
        fs::read_dir(repository("docs/schemas")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for (name, one) in &known {
        let path = repository("docs/schemas").join(format!("{name}.json"));
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap_or_default()).unwrap_or_default();
        assert_eq!(written, one["schema"], "{name}: run scripts/docs");
        assert!(page.contains(&format!("](schemas/{name}.json)")), "{name}: run scripts/docs");
        files.retain(|file| *file != path);
    }
    assert!(files.is_empty(), "of no document: {files:?}");
}

/// In what is printed, a number says by its name what it is. A configuration has lists as people write them.
#[test]
fn no_document_has_lists_whose_places_mean_something() {
    for (name, one) in known().into_iter().filter(|(name, _)| name != "configuration") {
        let schema = one["schema"].to_string();
        for word in ["prefixItems", "minItems", "maxItems"] {
            assert!(!schema.contains(&format!("\"{word}\"")), "{name}: {word}");
        }
    }
}

#[test]
fn a_name_that_no_schema_has_is_refused_with_those_that_there_are() {
    run(program().args(["config", "--schema", "reports"]))
        .fails(2, &["there is no schema \"reports\": write one of event, seed-report, seed-plan, "]);
}

/// Real outputs of every command, each with the name of its schema.
struct Outputs {
    folder: tempfile::TempDir,
    written: Vec<(&'static str, PathBuf)>,
}

impl Outputs {
    fn file(&mut self, schema: &'static str) -> String {
        let path = self.folder.path().join(format!("{}.json", self.written.len()));
        self.written.push((schema, path.clone()));
        path.display().to_string()
    }

    fn text(&mut self, schema: &'static str, text: &str) {
        let path = self.file(schema);
        fs::write(path, text).unwrap();
    }

    /// One file for each kind of event.
    fn events(&mut self, lines: &str) {
        let mut kinds = Vec::new();
        for line in lines.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            if !kinds.contains(&event["event"]) {
                kinds.push(event["event"].clone());
                self.text("event", line);
            }
        }
    }
}

const PURGE: &str =
    "[[purge]]\nprovider = \"command\"\nprogram = [\"/bin/true\"]\nurl = \"https://tiles.example.org/t\"\n";

#[test]
fn real_outputs_fit_their_schemas() {
    let db = Db::with_facilities(300);
    run(program().args(["track", "install", "--database-url", &db.url])).ok();
    let mut outputs = Outputs { folder: tempfile::tempdir().unwrap(), written: Vec::new() };
    let target = outputs.folder.path().join("t.mbtiles");
    let zooms = ["--zoom", "0-5"];
    let plan = outputs.file("seed-plan");
    run(seed_command(&db.url, &target, &zooms).args(["--dry-run", "--report", &plan])).ok();
    let report = outputs.file("seed-report");
    let mut command = program();
    command.args(["seed", "--progress", "json", "--log", "json", "-v", "--zoom", "0-5", "--database-url", &db.url]);
    let seeded = run(command.arg("--output").arg(&target).args(["--report", &report])).ok();
    outputs.events(&seeded.stdout);
    outputs.events(&seeded.stderr);
    let reseed = |arguments: &[&str]| {
        let mut command = program();
        command.args(["reseed", "--progress", "none", "--database-url", &db.url, "--output"]);
        run(command.arg(&target).args(arguments)).ok()
    };
    let nothing = outputs.file("reseed-report");
    reseed(&["--report", &nothing]);
    db.run("UPDATE api_facility SET name = 'new' WHERE id < 'C'");
    let status = run(program().args(["track", "status", "--json", "--database-url", &db.url]).arg(&target)).ok();
    outputs.text("track-status", &status.stdout);
    let (plan, dirty, changed) = (outputs.file("reseed-plan"), outputs.file("tiles"), outputs.file("tiles"));
    reseed(&["--dry-run", "--report", &plan]);
    let report = outputs.file("reseed-report");
    reseed(&["--report", &report, "--dirty-out", &dirty, "--changed-out", &changed]);
    let all = outputs.file("tiles");
    run(seed_command(&db.url, &outputs.folder.path().join("new.mbtiles"), &zooms).args(["--changed-out", &all])).ok();
    let inspected = run(program().args(["inspect", "--json"]).arg(&target)).ok();
    outputs.text("contents", &inspected.stdout);
    let equal = run(program().args(["diff", "--json"]).arg(&target).arg(&target)).ok();
    outputs.text("diff", &equal.stdout);
    let doctor = run(program().args(["doctor", "--json", "--database-url", &db.url]).arg(&target)).ok();
    outputs.text("doctor", &doctor.stdout);
    let findings = outputs.file("findings");
    run(program().args(["verify", "--report", &findings]).arg(&target)).ok();
    let verified = run(program().args(["verify", "--json"]).arg(&target)).ok();
    outputs.text("findings", &verified.stdout);
    outputs.text("config", &run(program().args(["config", "--json"])).ok().stdout);
    let failed = run(program().args(["--log", "json", "inspect", "nothing.mbtiles"]));
    assert_eq!(failed.code, 2, "{}", failed.stderr);
    outputs.events(&failed.stderr);
    let config = outputs.folder.path().join("c.toml");
    fs::write(&config, format!("[tileset]\noutput = \"{}\"\n{PURGE}", target.display())).unwrap();
    let waits = run(program().args(["purge", "status", "--json", "--config"]).arg(&config)).ok();
    outputs.text("purge-status", &waits.stdout);
    let family = format!(
        "[tileset]\nzoom = \"0-3\"\n[tileset.variants]\nvalues = [{{ code = \"BD\" }}]\nwhere = {{ facilities = \"country_code = !code!\" }}\noutput = \"{}/{{code}}.mbtiles\"\n",
        outputs.folder.path().display()
    );
    fs::write(&config, over_rows(&family)).unwrap();
    let report = outputs.file("variants-report");
    let seed = ["seed", "--progress", "none", "--report", &report, "--database-url", &db.url, "--config"];
    run(bare_program().args(seed).arg(&config)).ok();
    let work = outputs.folder.path().join("work");
    let shards = |verb: &str| {
        let mut command = program();
        command.args(["shards", verb, "--work"]).arg(&work);
        command
    };
    let begin =
        ["--shards", "2", "--frozen", "--zoom", "0-3", "--progress", "none", "--database-url", &db.url, "--output"];
    run(shards("begin").args(begin).arg(outputs.folder.path().join("shards.mbtiles"))).ok();
    outputs.text("shards-status", &run(shards("status").arg("--json")).ok().stdout);
    let mut names: Vec<&str> = outputs.written.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let files: Vec<&Path> =
            outputs.written.iter().filter(|(schema, _)| schema == name).map(|(_, path)| &**path).collect();
        fits(name, &files);
    }
    // Those of a server are checked where one runs (`serve::operation`, `serve::several`, `serve::writer`), that of a
    // configuration in `input::config_check`.
    let elsewhere = ["access-log", "catalogue", "changes-changed", "changes-state", "configuration", "variant-list"];
    let missing: Vec<String> =
        known().into_iter().map(|(name, _)| name).filter(|name| !names.contains(&&**name)).collect();
    assert_eq!(missing, elsewhere);
}
