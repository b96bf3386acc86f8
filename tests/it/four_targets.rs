//! One seed into all kinds of targets: the same tiles, byte for byte, as other people's readers see them; copies and second
//! runs keep them so.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::support::archive::Address;
use super::support::program::{Run, program, run, seed_command, wait};
use super::support::s3::{Prefix, keys};
use super::support::{Archive, Db, shared_data};

type Tiles = BTreeMap<Address, Vec<u8>>;

/// Prints `z/x/y` and the bytes of every tile as hexadecimal digits, of a PMTiles archive or of a prefix in S3.
const READ: &str = r#"
import os, sys
kind, place = sys.argv[1:3]
if kind == "pmtiles":
    from pmtiles.reader import Reader, MmapSource, all_tiles
    with open(place, "rb") as file:
        for (z, x, y), data in all_tiles(MmapSource(file)):
            print(f"{z}/{x}/{y} {bytes(data).hex()}")
else:
    import boto3
    s3 = boto3.client("s3", endpoint_url=os.environ["OAR_TILES_S3_ENDPOINT"], region_name="us-east-1")
    bucket, prefix = place.removeprefix("s3://").split("/", 1)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(prefix)
            if name.endswith(".pbf"):
                got = s3.get_object(Bucket=bucket, Key=item["Key"])
                assert got["ContentType"] == "application/vnd.mapbox-vector-tile", got["ContentType"]
                assert got["ContentEncoding"] == "gzip" and got["CacheControl"] == "public, max-age=7", got
                print(name.removesuffix(".pbf"), got["Body"].read().hex())
"#;

/// A place for targets of every kind.
struct Places {
    folder: tempfile::TempDir,
    prefix: Prefix,
    config: String,
}

impl Places {
    fn new() -> Places {
        let (folder, prefix) = (tempfile::tempdir().unwrap(), Prefix::new());
        let config = folder.path().join("c.toml");
        let text = format!(
            "[s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\npath_style = true\nlease = \"2s\"\ncache_control = \"public, max-age=7\"\n",
            prefix.endpoint
        );
        std::fs::write(&config, text).unwrap();
        Places { folder, prefix, config: config.to_str().unwrap().to_owned() }
    }

    /// The text of a target, by the last part of its name.
    fn place(&self, name: &str) -> String {
        match name.strip_prefix("s3:") {
            Some(name) => format!("s3://{}/{}{name}", self.prefix.location.bucket, self.prefix.location.prefix),
            None => self.folder.path().join(name).to_str().unwrap().to_owned(),
        }
    }

    fn with_keys<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let keys = keys();
        command.env("AWS_ACCESS_KEY_ID", keys.key).env("AWS_SECRET_ACCESS_KEY", keys.secret)
    }

    fn seed_command(&self, db: &Db, name: &str, arguments: &[&str]) -> Command {
        let mut command = seed_command(&db.url, Path::new(&self.place(name)), &["--config", &self.config]);
        self.with_keys(command.args(arguments));
        command
    }

    fn seed(&self, db: &Db, name: &str, arguments: &[&str]) -> Run {
        run(&mut self.seed_command(db, name, arguments))
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Run {
        let mut command = program();
        run(self.with_keys(command.arg(verb).args(arguments).args(["--config", &self.config])))
    }

    /// What another program reads there.
    fn read_by_others(&self, name: &str) -> Tiles {
        let place = self.place(name);
        if name.ends_with(".mbtiles") {
            return Archive::open(Path::new(&place)).stored();
        }
        if name.ends_with('/') && !name.starts_with("s3:") {
            return files_below(Path::new(&place));
        }
        let kind = if name.starts_with("s3:") { "s3" } else { "pmtiles" };
        let mut python = Command::new(std::env::var("TEST_PYTHON").expect("scripts/test installs the readers"));
        python.args(["-c", READ, kind, &place]).env("OAR_TILES_S3_ENDPOINT", &self.prefix.endpoint);
        let read = run(self.with_keys(&mut python)).ok();
        read.stdout
            .lines()
            .map(|line| {
                let (address, hex) = line.split_once(' ').unwrap();
                let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                (parsed(address), bytes.collect())
            })
            .collect()
    }
}

fn parsed(address: &str) -> Address {
    let mut parts = address.split('/');
    let mut next = || parts.next().unwrap();
    (next().parse().unwrap(), next().parse().unwrap(), next().parse().unwrap())
}

/// Every tile of a tree, as anybody may walk it.
fn files_below(root: &Path) -> Tiles {
    let mut tiles = Tiles::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(address) = path.strip_prefix(root).unwrap().to_str().unwrap().strip_suffix(".pbf") {
                tiles.insert(parsed(address), std::fs::read(&path).unwrap());
            }
        }
    }
    tiles
}

#[test]
fn one_seed_gives_every_target_the_same_tiles_as_others_read_them() {
    let db = match shared_data("facilities.csv") {
        Some(csv) => Db::with_csv(&csv),
        None => Db::with_facilities(900),
    };
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-7"]).ok();
    let tiles = places.read_by_others("t.mbtiles");
    assert!(tiles.len() > 150, "{}", tiles.len());
    for name in ["t.pmtiles", "tiles/", "s3:tiles/"] {
        places.seed(&db, name, &["--zoom", "0-7"]).ok();
        assert!(places.read_by_others(name) == tiles, "{name} holds other tiles");
    }
    // The archive in S3 is the one that a file would be, but for the time in its manifest.
    places.seed(&db, "s3:t.pmtiles", &["--zoom", "0-7"]).ok();
    let objects = places.prefix.objects();
    std::fs::write(places.place("down.pmtiles"), &objects["t.pmtiles"]).unwrap();
    assert!(places.read_by_others("down.pmtiles") == tiles, "the archive in S3 holds other tiles");

    for name in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"] {
        let place = places.place(name);
        places.run("verify", &[&place]).ok();
        places.run("verify", &[&place, "--all", "--database", "--database-url", &db.url]).ok();
        let shown = places.run("inspect", &[&place]).ok().stdout;
        assert!(shown.contains(&tiles.len().to_string()) || shown.contains("all"), "{shown}");
    }
}

#[test]
fn any_target_is_copied_into_any_other_byte_for_byte() {
    let db = Db::with_facilities(300);
    let places = Places::new();
    places.seed(&db, "0.mbtiles", &["--zoom", "0-8"]).ok();
    let tiles = places.read_by_others("0.mbtiles");
    // Each kind is once read and once written.
    let chain = ["0.mbtiles", "s3:1/", "2.pmtiles", "3/", "s3:4.pmtiles", "5/", "s3:6/", "7.mbtiles"];
    for pair in chain.windows(2) {
        places.run("copy", &[&places.place(pair[0]), &places.place(pair[1])]).ok();
        places.run("verify", &[&places.place(pair[1])]).ok();
    }
    assert!(places.read_by_others("7.mbtiles") == tiles);
    assert!(places.read_by_others("2.pmtiles") == tiles);
    assert!(places.read_by_others("s3:6/") == tiles);
    let manifest = |name: &str| Archive::open(Path::new(&places.place(name))).metadata("oar_tiles_manifest").unwrap();
    assert_eq!(manifest("7.mbtiles"), manifest("0.mbtiles"), "the manifest goes along");

    // Again: nothing is written to what is in line.
    let again = places.run("copy", &[&places.place("7.mbtiles"), &places.place("s3:6/")]).ok();
    assert!(again.stdout.starts_with("0 tiles stored, "), "{}", again.stdout);
}

#[test]
fn a_second_seed_writes_nothing_to_a_target_in_line_and_the_report_counts_requests() {
    let db = Db::with_facilities(300);
    let places = Places::new();
    let report = places.place("r.json");
    let told = |places: &Places| {
        places.seed(&db, "s3:tiles/", &["--zoom", "0-7", "--report", &report]).ok();
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(&report).unwrap()).unwrap()
    };
    let first = told(&places);
    let tiles = first["manifest"]["stored"].as_u64().unwrap();
    assert_eq!((first["written"].as_u64(), first["unchanged"].as_u64()), (Some(tiles), Some(0)), "{first}");
    assert!(first["requests"]["requests"].as_u64().unwrap() >= tiles, "{first}");
    assert!(first["requests"]["most_in_flight"].as_u64().unwrap() <= 64, "{first}");
    let second = told(&places);
    assert_eq!((second["written"].as_u64(), second["unchanged"].as_u64()), (Some(0), Some(tiles)), "{second}");
    db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 30)");
    let third = told(&places);
    assert!(third["deleted"].as_u64().unwrap() > 0 && third["unchanged"].as_u64().unwrap() > 0, "{third}");
    places.seed(&db, "fresh.mbtiles", &["--zoom", "0-7"]).ok();
    assert!(places.read_by_others("s3:tiles/") == places.read_by_others("fresh.mbtiles"));
}

#[test]
fn kill_9_at_random_moments_then_a_second_run_gives_the_tiles_of_an_undisturbed_one() {
    let db = Db::with_facilities(600);
    let places = Places::new();
    places.seed(&db, "fresh.mbtiles", &["--zoom", "0-7"]).ok();
    let tiles = places.read_by_others("fresh.mbtiles");
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    eprintln!("moments from {seed}");
    for (number, name) in ["t.pmtiles", "s3:tiles/", "s3:t.pmtiles", "s3:tiles/", "t.pmtiles"].iter().enumerate() {
        let mut child = places.seed_command(&db, name, &["--zoom", "0-7"]).spawn().unwrap();
        let moment = 20 + (seed >> (8 * number) & 0xff) * 2;
        std::thread::sleep(std::time::Duration::from_millis(moment));
        child.kill().unwrap();
        wait(child);
        // The lease of a killed run ends by itself.
        super::support::until("the lease of the killed run ends", || {
            let again = places.seed(&db, name, &["--zoom", "0-7"]);
            assert!(again.code == 0 || again.stderr.contains("another run is writing"), "{}", again.stderr);
            again.code == 0
        });
        if *name == "s3:t.pmtiles" {
            std::fs::write(places.place("down.pmtiles"), &places.prefix.objects()["t.pmtiles"]).unwrap();
            assert!(places.read_by_others("down.pmtiles") == tiles, "{name}");
        } else {
            assert!(places.read_by_others(name) == tiles, "{name}, killed after {moment} ms");
        }
    }
}
