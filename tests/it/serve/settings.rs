//! The section `[serve]`: every way to set it, and what is refused.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::Db;
use crate::support::program::{ROWS_LAYER, program, run, seed};
use crate::support::served::{Served, status};

/// A target of zooms 0 to 3 and a configuration beside it that serves it, with more lines below `[serve]`.
struct Configured {
    folder: tempfile::TempDir,
    _db: Db,
}

impl Configured {
    fn new() -> Configured {
        let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
        seed(&db.url, &folder.path().join("t.mbtiles"), &["--zoom", "0-3"]).ok();
        Configured { folder, _db: db }
    }

    fn write(&self, lines: &str) -> String {
        let (path, target) = (self.folder.path().join("c.toml"), self.folder.path().join("t.mbtiles"));
        let text = format!("{ROWS_LAYER}\n[tileset]\noutput = \"{}\"\n[serve]\n{lines}\n", target.display());
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

const LOCAL: &str = "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\ndrain = \"0s\"\n";

/// A server of a configuration; the admin listener is set there.
fn served(config: &str, more: &[&str], variables: &[(&str, &str)]) -> Served {
    let mut command = program();
    command.args(["serve", "--config", config, "--admin", "127.0.0.1:0"]).args(more).envs(variables.iter().copied());
    Served::of(&mut command)
}

#[test]
fn caches_are_told_by_zoom_and_in_the_words_of_each_cdn() {
    let configured = Configured::new();
    let config = configured.write(&format!(
        "{LOCAL}cache_control = {{ \"0-1\" = \"public, max-age=600\", \"2\" = \"public, max-age=60\" }}\n\
         cdn_cache_control = {{ \"0-2\" = \"max-age=86400, stale-while-revalidate=5\" }}\n\
         cdn_headers = [\"CDN-Cache-Control\", \"Surrogate-Control\", \"s-maxage\"]\n"
    ));
    let served = served(&config, &[], &[]);
    let cdn = Some("max-age=86400, stale-while-revalidate=5");
    for (path, cache, cdn) in [
        ("/0/0/0.pbf", "public, max-age=600, s-maxage=86400", cdn),
        ("/2/2/1.pbf", "public, max-age=60, s-maxage=86400", cdn),
        // Purges do not name these addresses.
        ("/0/0/0.mvt", "max-age=5", Some("max-age=5")),
        ("/0/0/0.pbf?v=7", "max-age=5", Some("max-age=5")),
        ("/3/5/3.pbf", "no-cache", None),
    ] {
        let answer = served.get(path, "");
        assert!(matches!(status(&answer), 200 | 204), "{}", answer.head);
        assert_eq!(answer.header("cache-control"), Some(cache), "{path}");
        assert_eq!(answer.header("cdn-cache-control"), cdn, "{path}");
        assert_eq!(answer.header("surrogate-control"), cdn, "{path}");
    }
}

#[test]
fn a_flag_beats_a_variable_beats_the_file() {
    let configured = Configured::new();
    let config = configured.write(&format!("{LOCAL}empty_status = 404\ncache_control = \"max-age=1\"\n"));
    // Somewhere in the Southern Ocean.
    let empty = "/3/4/6.pbf";
    let by_file = served(&config, &[], &[]);
    assert_eq!(status(&by_file.get(empty, "")), 404);
    assert_eq!(by_file.get("/0/0/0.pbf", "").header("cache-control"), Some("max-age=1"));
    let by_variable = served(&config, &[], &[("OAR_TILES_EMPTY_STATUS", "200")]);
    assert_eq!(status(&by_variable.get(empty, "")), 200);
    let flags = ["--empty-status", "204", "--cache-control", "max-age=2"];
    let by_flag = served(&config, &flags, &[("OAR_TILES_EMPTY_STATUS", "200")]);
    assert_eq!(status(&by_flag.get(empty, "")), 204);
    assert_eq!(by_flag.get("/0/0/0.pbf", "").header("cache-control"), Some("max-age=2"));
}

#[test]
fn everything_lies_below_the_base_path() {
    let configured = Configured::new();
    let config = configured.write(&format!("{LOCAL}base_path = \"/maps/facilities/\"\npreview = true\n"));
    let served = served(&config, &[], &[]);
    assert!(served.url.ends_with("/maps/facilities/"), "{}", served.url);
    for (path, expected) in [
        ("/maps/facilities/0/0/0.pbf", 200),
        ("/maps/facilities/tiles.json", 200),
        ("/maps/facilities/", 200),
        ("/maps/facilities/01/0/0.pbf", 400),
        ("/0/0/0.pbf", 404),
        ("/tiles.json", 404),
        ("/maps/facilitiesx/0/0/0.pbf", 404),
        ("/maps/facilities0/0/0.pbf", 404),
        ("/maps/facilities", 404),
    ] {
        assert_eq!(status(&served.get(path, "")), expected, "{path}");
    }
    let tilejson = served.json("/maps/facilities/tiles.json");
    assert_eq!(tilejson["tiles"][0], format!("{}{{z}}/{{x}}/{{y}}.pbf", served.url));
}

#[test]
fn connections_of_trusted_proxies_are_not_counted_by_address() {
    let configured = Configured::new();
    // The third connection that is held open: answered, or closed without a byte.
    let third = |config: &str, more: &[&str]| {
        let served = served(config, more, &[]);
        let mut open = Vec::new();
        let mut last = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
            let asked = write!(stream, "GET /tiles.json HTTP/1.1\r\nHost: x\r\n\r\n");
            let mut byte = [0];
            let read = asked.and_then(|()| stream.read(&mut byte)).unwrap_or(0);
            last = byte[..read].to_vec();
            open.push(stream);
        }
        last
    };
    let config = configured.write(&format!("{LOCAL}max_connections_of_address = 2\n"));
    assert_eq!(third(&config, &[]), b"", "closed");
    assert_eq!(third(&config, &["--trusted-proxy", "127.0.0.0/8"]), b"H");
    assert_eq!(third(&config, &["--trusted-proxy", "10.0.0.0/8"]), b"");
    let config =
        configured.write(&format!("{LOCAL}max_connections_of_address = 2\ntrusted_proxies = [\"127.0.0.1\"]\n"));
    assert_eq!(third(&config, &[]), b"H");
}

#[test]
fn immutable_is_for_tiles_whose_names_hold_a_version() {
    let configured = Configured::new();
    let config = configured.write(&format!("{LOCAL}cache_control = \"max-age=31536000, immutable\"\n"));
    run(program().args(["serve", "--config", &config])).fails(2, &["says immutable", "{version}"]);
    let versions = configured.folder.path().join("versions/");
    let versioned = configured.folder.path().join("v.toml");
    fs::write(
        &versioned,
        format!("{ROWS_LAYER}\n[target]\npublish = \"versioned\"\ntemplate = \"{{version}}/{{z}}/{{x}}/{{y}}.pbf\"\n[serve]\n{LOCAL}"),
    )
    .unwrap();
    let versioned = versioned.to_str().unwrap();
    let (source, versions) = (configured.folder.path().join("t.mbtiles"), format!("{}/", versions.display()));
    let arguments = ["copy", source.to_str().unwrap(), &versions, "--config", versioned, "--public-url", "relative"];
    run(program().args(arguments)).ok();
    let mut command = program();
    command.args(["serve", &versions, "--config", versioned, "--admin", "127.0.0.1:0"]);
    let served = Served::of(command.args(["--cache-control", "max-age=31536000, immutable"]));
    let tilejson = served.json("/tiles.json");
    let address = tilejson["tiles"][0].as_str().unwrap().replace("{z}/{x}/{y}", "0/0/0");
    let tile = served.get(&address[served.url.len() - 1..], "");
    assert_eq!((status(&tile), tile.header("cache-control")), (200, Some("max-age=31536000, immutable")));
}

#[test]
fn what_is_wrong_is_named_with_its_key() {
    let configured = Configured::new();
    for (lines, text) in [
        ("listne = \"127.0.0.1:1\"", "unknown key \"listne\". Did you mean \"listen\"?"),
        ("listen = \"localhost:80\"", "serve.listen (from "),
        ("admin = \"80\"", "\"80\" is no address to listen on"),
        ("public_url = \"tiles.example.org\"", "is no address of a server: write https://host/path"),
        ("public_url = \"https://user@example.org\"", "is no address of a server"),
        ("base_path = \"/a b\"", "\"/a b\" is no path"),
        ("base_path = \"/a/../b\"", "\"/a/../b\" is no path"),
        ("empty_status = 500", "500 must be 204, 200 or 404"),
        ("max_connections = 0", "0 must lie between 1 and 100000"),
        ("trusted_proxies = [\"proxy\"]", "\"proxy\" is no range of addresses: write an IP address"),
        ("drain = \"2h\"", "2h must not be more than 1h"),
        ("cdn_headers = [\"X\"]", "unknown variant `X`"),
        ("cache_control = { \"0-99\" = \"a\" }", "serve.cache_control (from "),
        ("cache_control = \"a\\nb\"", "cannot be sent as Cache-Control"),
        ("cdn_cache_control = \"no-store\"\ncdn_headers = [\"s-maxage\"]", "\"no-store\" has no max-age"),
    ] {
        let config = configured.write(lines);
        run(program().args(["serve", "--config", &config])).fails(2, &[text]);
    }
}
