//! Locations for targets of every kind, and other programs that read them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::archive::Address;
use super::program::{ROWS_LAYER, Run, program, run, seed_command};
use super::s3::Prefix;
use super::{Archive, Db};

pub(crate) type Tiles = BTreeMap<Address, Vec<u8>>;

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
    from concurrent.futures import ThreadPoolExecutor
    s3 = boto3.client("s3", endpoint_url=os.environ["OAR_TILES_S3_ENDPOINT"], region_name="us-east-1")
    bucket, prefix = place.removeprefix("s3://").split("/", 1)
    def line(key):
        try:
            got = s3.get_object(Bucket=bucket, Key=key)
        except s3.exceptions.NoSuchKey:
            return None  # deleted since it was listed
        assert got["ContentType"] == "application/vnd.mapbox-vector-tile", got["ContentType"]
        assert got["ContentEncoding"] == "gzip" and got["CacheControl"] == "public, max-age=7", got
        return key.removeprefix(prefix).removesuffix(".pbf") + " " + got["Body"].read().hex()
    with ThreadPoolExecutor(8) as pool:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            tiles = [item["Key"] for item in page.get("Contents", []) if item["Key"].endswith(".pbf")]
            for found in pool.map(line, tiles):
                if found:
                    print(found)
"#;

/// A place for targets of every kind.
pub(crate) struct Places {
    pub folder: tempfile::TempDir,
    pub prefix: Prefix,
    pub config: String,
}

impl Places {
    /// New ones; nothing is there yet.
    pub(crate) fn new() -> Places {
        Places::with(Prefix::new())
    }

    /// New ones, in S3 below a prefix.
    pub(crate) fn with(prefix: Prefix) -> Places {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.toml");
        let text = format!(
            "[s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\npath_style = true\nlease = \"2s\"\ncache_control = \"public, max-age=7\"\n",
            prefix.endpoint
        );
        // The layer first: tests add to the settings of S3.
        std::fs::write(&config, ROWS_LAYER.to_owned() + &text).unwrap();
        Places { folder, prefix, config: config.to_str().unwrap().to_owned() }
    }

    /// The text of a target, by the last part of its name.
    pub(crate) fn place(&self, name: &str) -> String {
        match name.strip_prefix("s3:") {
            Some(name) => format!("s3://{}/{}{name}", self.prefix.location.bucket, self.prefix.location.prefix),
            None => self.folder.path().join(name).to_str().unwrap().to_owned(),
        }
    }

    pub(crate) fn with_keys<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let keys = &self.prefix.keys;
        command.env("AWS_ACCESS_KEY_ID", &keys.key).env("AWS_SECRET_ACCESS_KEY", &keys.secret)
    }

    pub(crate) fn seed_command(&self, db: &Db, name: &str, arguments: &[&str]) -> Command {
        let mut command = seed_command(&db.url, Path::new(&self.place(name)), &["--config", &self.config]);
        self.with_keys(command.args(arguments));
        command
    }

    pub(crate) fn seed(&self, db: &Db, name: &str, arguments: &[&str]) -> Run {
        run(&mut self.seed_command(db, name, arguments))
    }

    pub(crate) fn run(&self, verb: &str, arguments: &[&str]) -> Run {
        let mut command = program();
        run(self.with_keys(command.arg(verb).args(arguments).args(["--config", &self.config])))
    }

    /// The same for any kind of target: an archive in S3 is read from a copy.
    pub(crate) fn read_by_others_or_copy(&self, name: &str) -> Tiles {
        if name != "s3:t.pmtiles" {
            return self.read_by_others(name);
        }
        let copy = self.place("copy-of-an-archive.mbtiles");
        self.run("copy", &["--force", &self.place(name), &copy]).ok();
        self.read_by_others("copy-of-an-archive.mbtiles")
    }

    /// What another program reads there.
    pub(crate) fn read_by_others(&self, name: &str) -> Tiles {
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

pub(crate) fn parsed(address: &str) -> Address {
    let mut parts = address.split('/');
    let mut next = || parts.next().unwrap();
    (next().parse().unwrap(), next().parse().unwrap(), next().parse().unwrap())
}

/// What was read; `None` if a writer has removed the file or the emptied folder since its parent was read.
fn unless_removed<T>(read: std::io::Result<T>, path: &Path) -> Option<T> {
    let unless = |error: std::io::Error| assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display());
    read.map_err(unless).ok()
}

/// Every tile of a tree, found by a plain walk over its files.
pub(crate) fn files_below(root: &Path) -> Tiles {
    let mut tiles = Tiles::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Some(entries) = unless_removed(std::fs::read_dir(&folder), &folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(address) = path.strip_prefix(root).unwrap().to_str().unwrap().strip_suffix(".pbf")
                && let Some(bytes) = unless_removed(std::fs::read(&path), &path)
            {
                tiles.insert(parsed(address), bytes);
            }
        }
    }
    tiles
}
