//! Further addresses of tiles, `[serve] template`: the tile's bytes and tags whatever stands in the part that means
//! nothing, and nothing else under them.

use crate::support::Db;
use crate::support::folder::Folder;
use crate::support::nginx::ask;
use crate::support::program::{ROWS_LAYER, ending, program, run};
use crate::support::served::{GZIP, Served, status};

/// Two tilesets of the same rows, at other zooms, and the lines of `[serve]`.
struct World {
    db: Db,
    folder: Folder,
    config: String,
}

impl World {
    fn new(serve: &str) -> World {
        let (db, folder) = (Db::with_facilities(300), Folder::new());
        let output = |name: &str| folder.beside(name).display().to_string();
        let (mills, farms) = (output("mills.mbtiles"), output("farms.mbtiles"));
        let config = folder.config(&format!(
            "{ROWS_LAYER}\n[[tileset]]\nname = \"mills\"\noutput = \"{mills}\"\nzoom = \"0-2\"
[[tileset]]\nname = \"fär-ms\"\noutput = \"{farms}\"\nzoom = \"1-2\"\n[serve]\n{serve}\n"
        ));
        let world = World { db, folder, config };
        run(program().args(["seed", "--progress", "none"]).args(world.common())).ok();
        world
    }

    fn common(&self) -> [&str; 4] {
        ["--config", &self.config, "--database-url", &self.db.url]
    }

    fn served(&self, arguments: &[&str]) -> Served {
        let mut command = program();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        Served::of(command.args(self.common()).args(arguments))
    }
}

#[test]
fn a_part_of_an_address_may_mean_nothing() {
    let world = World::new(
        "template = \"/tile/{tileset}/{any}/{z}/{x}/{y}.pbf\"\ntag_headers = [\"Cache-Tag\"]\nbase_path = \"/maps\"\n",
    );
    let served = world.served(&["--preview"]);
    let own = served.get("/maps/mills/2/2/1.pbf", GZIP);
    assert_eq!(status(&own), 200);
    for any in ["1700000000-3-0af1", "x", "...", "mills", "2", "a=b&c,d"] {
        let path = format!("/maps/tile/mills/{any}/2/2/1.pbf");
        let answer = served.get(&path, GZIP);
        assert_eq!(status(&answer), 200, "{path}");
        assert!(answer.body == own.body, "{path}");
        for header in ["etag", "cache-tag", "content-type", "vary", "access-control-allow-origin"] {
            assert_eq!(answer.header(header), own.header(header), "{path}: {header}");
        }
        // The first answer has put the tile into the memory, for all addresses.
        assert_eq!(answer.header("cache-status"), Some("oar-tiles; hit"), "{path}");
        // Purges do not name these addresses.
        assert_eq!(answer.header("cache-control"), Some("max-age=5"), "{path}");
        let condition = format!("{GZIP}If-None-Match: {}\r\n", own.header("etag").unwrap());
        assert_eq!(status(&served.get(&path, &condition)), 304, "{path}");
        let head = ask(served.port, "HEAD", &path, GZIP);
        assert_eq!((status(&head), head.header("content-length")), (200, own.header("content-length")), "{path}");
    }
    for (path, expected) in [
        ("/maps/tile/f%C3%A4r-ms/x/1/1/0.mvt?v=1", 200),
        ("/maps/tile/f%C3%A4r-ms/x/0/0/0.pbf", 404),
        ("/maps/tile/mills/x/02/2/1.pbf", 400),
        ("/maps/tile/mills/x/2/4/1.pbf", 400),
        ("/maps/tile/lakes/x/2/2/1.pbf", 404),
        ("/maps/tile/%FF/x/2/2/1.pbf", 404),
        ("/maps/tile/mills/2/2/1.pbf", 404),
        ("/maps/tile/mills//2/2/1.pbf", 404),
        ("/maps/tile/mills/../2/2/1.pbf", 404),
        ("/maps/tile/mills/%2e%2e/2/2/1.pbf", 404),
        ("/maps/tile/mills/a%2Fb/2/2/1.pbf", 404),
        ("/maps/tile/mills/..%2Flakes/2/2/1.pbf", 404),
        ("/maps/tile/mills/..%5Clakes/2/2/1.pbf", 404),
        ("/maps/tile/mills/x/y/2/2/1.pbf", 404),
        ("/maps/tile/mills/x/tiles.json", 404),
        ("/maps/tile/mills/x/2/2/1.png", 404),
        ("/maps/tile", 404),
        ("/maps/tile/", 404),
        ("/tile/mills/x/2/2/1.pbf", 404),
    ] {
        let answer = served.get(path, GZIP);
        assert_eq!(status(&answer), expected, "{path} {}", answer.head);
    }
    let path = |bytes: usize| format!("/maps/tile/mills/{}/2/2/1.pbf", "x".repeat(bytes));
    assert_eq!(status(&served.get(&path(2_000), GZIP)), 200);
    assert_eq!(status(&served.get(&path(2_048), GZIP)), 414);
    assert_eq!(status(&served.get(&format!("/maps/tile{}", "/".repeat(2_000)), GZIP)), 404);

    let url = format!("http://127.0.0.1:{}/maps/mills/", served.port);
    let tilejson = served.json("/maps/mills/tiles.json");
    assert_eq!(tilejson["tiles"][0], format!("{url}{{z}}/{{x}}/{{y}}.pbf"));
    let page = String::from_utf8(served.get("/maps/mills/", "").body).unwrap();
    assert!(page.contains(&format!("data-public-url=\"{url}\"")));
}

#[test]
fn a_lone_tileset_has_further_addresses_beside_its_own() {
    let world = World::new("template = \"/tile/{tileset}/{any}/{z}/{x}/{y}.pbf\"\n");
    let served = world.served(&["--tileset", "mills", "--preview"]);
    for (path, expected) in [
        ("/2/2/1.pbf", 200),
        ("/tile/mills/x/2/2/1.pbf", 200),
        ("/tile/farms/x/2/2/1.pbf", 404),
        ("/tile/mills/2/2/1.pbf", 404),
        ("/tile/mills/x/tiles.json", 404),
        ("/assets/preview.js", 200),
        ("/tiles.json", 200),
    ] {
        assert_eq!(status(&served.get(path, GZIP)), expected, "{path}");
    }
}

#[test]
fn a_template_that_could_be_the_address_of_something_else_is_refused() {
    let world = World::new("");
    let text = std::fs::read_to_string(&world.config).unwrap();
    for (template, expected) in [
        (
            "/{tileset}/{any}/{z}/{x}/{y}.pbf",
            "\"/{tileset}/{any}/{z}/{x}/{y}.pbf\" is no form of addresses (its first part is no name, so it could be the address of something else): write /tile/{tileset}/{any}/{z}/{x}/{y}.pbf or the like, where {any} stands for a part that means nothing",
        ),
        (
            "/tile/{any}/{z}/{x}/{y}.pbf",
            "[serve] template /tile/{any}/{z}/{x}/{y}.pbf: the server has tilesets by name, so write {tileset} where the name stands",
        ),
        (
            "/mills/{tileset}/{any}/{z}/{x}/{y}.pbf",
            "[serve] template /mills/{tileset}/{any}/{z}/{x}/{y}.pbf: tileset \"mills\" has the addresses below /mills/: begin with another name",
        ),
        ("/tile/{any}/{z}/{x}.pbf", "\"tile/{z}/{x}.pbf\" has 0 of {y} and {-y}"),
    ] {
        let config = world.folder.config(&format!("{text}\ntemplate = \"{template}\"\n"));
        let refused = ["serve", "--listen", "127.0.0.1:0", "--config", &config, "--database-url", &world.db.url];
        run(&mut ending(program().args(refused))).fails(2, &[expected]);
    }
}
