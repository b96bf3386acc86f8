//! `--dirty-out` when every tile may have changed, and the manual's script that tells a CDN: no changed tile is kept
//! from it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::{Run, program, run};
use crate::support::tracked::{SOME, Tracked};
use crate::support::{Db, manual};

/// Reads a file of dirty tiles and removes it.
fn taken(path: &std::path::Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::remove_file(path).unwrap();
    text
}

#[test]
fn a_full_seed_says_everything_in_every_form() {
    let tracked = Tracked::facilities(300);
    let world: Value = json!([[[-180.0, -85.051_128_779_806_6]], [[180.0, 85.051_128_779_806_6]]]);
    for (name, bbox, is_everything) in [
        ("dirty.txt", None, Box::new(|text: &str| text == "*\n") as Box<dyn Fn(&str) -> bool>),
        (
            "dirty.json",
            None,
            Box::new(|text| text == "{\"bbox\":[],\"everything\":true,\"schema_version\":1,\"zooms\":\"0-4\"}\n"),
        ),
        (
            "boxes.json",
            Some("-100,0,100,80"),
            Box::new(|text| {
                text == "{\"bbox\":[\"-100,0,100,80\"],\"everything\":true,\"schema_version\":1,\"zooms\":\"0-4\"}\n"
            }),
        ),
        (
            "dirty.geojson",
            None,
            Box::new(|text| {
                let map: Value = serde_json::from_str(text).unwrap();
                let corner = |n: usize| map["features"][0]["geometry"]["coordinates"][0][n].clone();
                let near = |one: &Value, other: &Value| (one.as_f64().unwrap() - other.as_f64().unwrap()).abs() < 1e-6;
                map["features"][0]["properties"] == json!({ "everything": true, "zooms": "0-4" })
                    && (0..2).all(|n| near(&corner(0)[n], &world[0][0][n]) && near(&corner(2)[n], &world[1][0][n]))
            }),
        ),
    ] {
        let dirty = tracked.path(name);
        let dirty_out = ["--dirty-out", dirty.to_str().unwrap()];
        let target = tracked.path(&format!("{name}.mbtiles"));
        let scope = [&["--zoom", "0-4"][..], &bbox.map_or(vec![], |bbox| vec!["--bbox", bbox])].concat();
        // What an earlier run wrote is not left there.
        std::fs::write(&dirty, "0/0/0\n").unwrap();
        let seeded = tracked.reseed(&target, &[&dirty_out[..], &["--or-seed"], &scope].concat()).ok();
        assert!(seeded.stderr.contains("needs a full seed: there is none yet: seeding it"), "{}", seeded.stderr);
        let text = taken(&dirty);
        assert!(is_everything(&text), "{name}: {text}");
        // With nothing changed nothing is dirty.
        tracked.reseed(&target, &dirty_out).ok();
        assert!(!is_everything(&taken(&dirty)), "{name}");
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"));
        tracked.reseed(&target, &dirty_out).ok();
        let text = taken(&dirty);
        assert!(!is_everything(&text) && text.len() > 4, "{name}: {text}");
    }
}

#[test]
fn so_many_changes_that_all_is_rendered_are_everything_and_a_dry_run_says_so() {
    let tracked = Tracked::facilities(30_000);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-8"]);
    tracked.db.run("UPDATE api_facility SET location = ST_Translate(location, 0.01, 0)");
    let dirty = tracked.path("dirty.txt");
    let dirty_out = ["--dirty-out", dirty.to_str().unwrap()];
    tracked.reseed(&target, &[&dirty_out[..], &["--dry-run"]].concat()).ok();
    assert_eq!(taken(&dirty), "*\n");
    let done = tracked.reseed(&target, &dirty_out).ok();
    assert!(done.stdout.contains(" planned, "), "{}", done.stdout);
    assert_eq!(taken(&dirty), "*\n");
}

/// The manual's script in a folder of its own, with a CDN that notes what it is told.
struct Cron {
    db: Db,
    folder: tempfile::TempDir,
}

impl Cron {
    fn new() -> Cron {
        let (db, folder) = (Db::with_facilities(200), tempfile::tempdir().unwrap());
        let cron = Cron { db, folder };
        let scripts = manual::blocks("bash");
        assert!(scripts.len() == 1 && scripts[0].starts_with("#!/bin/sh\n"), "{scripts:?}");
        cron.script("reseed-and-purge", &scripts[0]);
        // It fails while there is a file "down".
        cron.script(
            "purge-cdn",
            "#!/bin/sh\n[ ! -e down ] || exit 7\n[ \"$1\" = --everything ] && echo everything >>told || cat \"$1\" >>told\n",
        );
        std::fs::write(
            cron.path("c.toml"),
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\non_tile_error = \"skip\"\nproperties = { id = \"id\", letters = \"1000 / length(name)\" }\n",
        )
        .unwrap();
        run(cron.with_settings(program().args(["track", "install"]))).ok();
        cron
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn with_settings<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("DATABASE_URL", &self.db.url)
            .env("OAR_TILES_CONFIG", self.path("c.toml"))
            .env("OAR_TILES_ZOOM", "0-4")
            .env("OAR_TILES_OUTPUT", self.path("t.mbtiles"))
    }

    /// One run; gives also what the CDN was told.
    fn runs(&self) -> (Run, String) {
        let folder = std::path::Path::new(env!("CARGO_BIN_EXE_oar-tiles")).parent().unwrap();
        let path = format!("{}:{}:{}", folder.display(), self.folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = program();
        let mut shell = Command::new("sh");
        shell.arg("./reseed-and-purge").current_dir(self.folder.path()).env("PATH", path);
        for (name, value) in self.with_settings(&mut command).get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let done = run(&mut shell);
        let told = self.path("told");
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        if told.exists() {
            std::fs::remove_file(told).unwrap();
        }
        (done, text)
    }
}

#[test]
fn the_manuals_script_tells_a_cdn_of_every_changed_tile() {
    let cron = Cron::new();
    // The first run seeds.
    let (done, told) = cron.runs();
    assert_eq!((done.ok().stdout.as_str(), told.as_str()), ("", "everything\n"));
    let (done, told) = cron.runs();
    let done = done.ok();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str(), told.as_str()), ("", "", ""));
    let lonely = "INSERT INTO api_facility VALUES ('lonely', 'Lonely Mill', 'A', 'NZ', ST_SetSRID(ST_MakePoint(-150, -40), 4326), false, now(), now())";
    cron.db.run(lonely);
    let tiles = "0/0/0\n1/0/1\n2/0/2\n3/0/4\n4/1/9\n";
    let (done, told) = cron.runs();
    assert_eq!((done.ok().stdout.as_str(), told.as_str()), ("", tiles));
    // A run that is done in part.
    cron.db.run(
        "UPDATE api_facility SET name = '' WHERE id = 'lonely';
         INSERT INTO api_facility VALUES ('east', 'East Mill', 'A', 'NZ', ST_SetSRID(ST_MakePoint(150, -40), 4326), false, now(), now())",
    );
    let (done, told) = cron.runs();
    done.fails(3, &["not every tile could be rendered: "]);
    assert!(told.contains("4/14/9\n") && told.starts_with("0/0/0\n"), "{told}");
    // A CDN that cannot be reached is told later, of all that has changed until then.
    std::fs::write(cron.path("down"), "").unwrap();
    cron.db.run("UPDATE api_facility SET name = 'Mended' WHERE id = 'lonely'");
    let (done, told) = cron.runs();
    assert_eq!((done.code, told.as_str()), (7, ""));
    let (done, told) = cron.runs();
    assert_eq!((done.code, told.as_str()), (7, ""));
    std::fs::remove_file(cron.path("down")).unwrap();
    let (done, told) = cron.runs();
    done.ok();
    let mut lines: Vec<&str> = told.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert!(tiles.lines().all(|tile| lines.contains(&tile)), "{told}");
    assert_eq!(cron.runs().1, "");
    // A target that nobody can bring up to date.
    cron.db.run("ALTER TABLE api_facility DISABLE TRIGGER ALL");
    let (done, told) = cron.runs();
    assert!(done.ok().stderr.contains("triggers of \"public\".\"api_facility\" are disabled"));
    assert_eq!(told, "everything\n");
    // A run that fails tells nobody anything.
    cron.db.run("ALTER TABLE api_facility RENAME COLUMN name TO called");
    let (done, told) = cron.runs();
    assert_eq!((done.code, told.as_str()), (2, ""));
}
