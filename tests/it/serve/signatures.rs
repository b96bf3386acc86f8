//! Signed addresses: only who has a key, or a signature that was made with it, gets tiles, their TileJSON and their
//! changes, and nobody keeps them longer than the signature says.

use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

use super::jobs::TOKEN;
use crate::support::folder::Folder;
use crate::support::nginx::{Answer, ask};
use crate::support::program::{ending, program, run, seed};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, until};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const NEXT_KEY: &str = "fedcba9876543210fedcba9876543210";

const LAYER: &str =
    "[[tileset.parameter]]\nname = \"country\"\ntype = \"text[]\"\ncase = \"upper\"\nwhere = { facilities = \"country_code = ANY (!country!)\" }
[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"id\", \"country_code\"]\n";

/// A tileset "map" of zooms 0 and 1 with a parameter, and a token.
struct World {
    db: Db,
    folder: Folder,
}

impl World {
    fn new() -> World {
        let world = World { db: Db::with_facilities(200), folder: Folder::new() };
        std::fs::write(world.folder.beside("token"), TOKEN).unwrap();
        world.keys(KEY, 0o600);
        let config = world.config("");
        seed(&world.db.url, &world.folder.beside("t.mbtiles"), &["--config", &config, "--zoom", "0-1"]).ok();
        world
    }

    fn keys(&self, text: &str, mode: u32) {
        let path = self.folder.beside("keys");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn config(&self, serve: &str) -> String {
        let path = |name: &str| self.folder.beside(name).display().to_string();
        self.folder.config(&format!(
            "[tileset]\nname = \"map\"\noutput = \"{}\"\n{LAYER}\n[serve]\ntoken_file = \"{}\"\n{serve}\n",
            path("t.mbtiles"),
            path("token")
        ))
    }

    /// What `[serve]` needs for signed addresses.
    fn signed(&self) -> String {
        format!("signing_keys_file = \"{}\"\n", self.folder.beside("keys").display())
    }

    fn served(&self, serve: &str) -> Served {
        let config = self.config(serve);
        let own = ["--live", "--config", &config, "--database-url", &self.db.url];
        Served::new(self.folder.beside("t.mbtiles").to_str().unwrap(), &own)
    }

    fn refused(&self, serve: &str, texts: &[&str]) {
        let config = self.config(serve);
        let command =
            ["serve", "--live", "--listen", "127.0.0.1:0", "--config", &config, "--database-url", &self.db.url];
        run(&mut ending(program().args(command))).fails(2, texts);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A whole hour that lies ahead, though the clock may go on meanwhile.
fn some_hour() -> u64 {
    (now() / 3_600 + 2) * 3_600
}

/// The signature that a program of somebody else makes, by the manual.
fn signature(key: &str, tileset: &str, filter: &str, expires: u64) -> String {
    let mut hmac: Hmac<Sha256> = Hmac::new_from_slice(key.as_bytes()).unwrap();
    hmac.update(format!("oar-tiles-1\n{tileset}\n{filter}\n{expires}").as_bytes());
    let digits: String = hmac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("expires={expires}&signature={digits}")
}

fn error_of(answer: &Answer) -> String {
    let error: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    error["error"].as_str().unwrap_or_default().to_owned()
}

/// The path and query of the tiles' address in a TileJSON.
fn address(tilejson: &Answer) -> String {
    assert_eq!(status(tilejson), 200, "{}", tilejson.head);
    assert_eq!(tilejson.header("cache-control"), Some("no-store"), "it depends on who asks");
    let document: Value = serde_json::from_slice(&tilejson.body).unwrap();
    let url = document["tiles"][0].as_str().unwrap();
    url.split_once("127.0.0.1:").unwrap().1.split_once('/').map(|(_, path)| format!("/{path}")).unwrap()
}

fn tile(address: &str, tile: [u32; 3]) -> String {
    let [z, x, y] = tile.map(|number| number.to_string());
    address.replace("{z}", &z).replace("{x}", &x).replace("{y}", &y)
}

#[test]
fn tiles_are_for_signed_addresses_alone_and_no_cache_keeps_them_longer() {
    let world = World::new();
    let more = "changes = true\ntemplate = \"/tile/{any}/{z}/{x}/{y}.pbf\"\nlive_ttl = \"1h\"\ncache_control = \"public, max-age=31536000\"\n";
    let (open, closed) = (world.served(more), world.served(&format!("{}{more}", world.signed())));
    let expires = some_hour();
    let right = signature(KEY, "map", "", expires);
    let of_country = signature(KEY, "map", "country=BD&country=IN", expires);
    // Stored, empty, live and filtered tiles, by both addresses.
    for (path, query) in [
        ("/0/0/0.pbf", right.clone()),
        ("/1/1/0.mvt", right.clone()),
        ("/1/0/1.pbf", right.clone()),
        ("/2/2/1.pbf", right.clone()),
        ("/tile/x/2/2/1.pbf", right.clone()),
        ("/2/2/1.pbf", format!("country=in&{of_country}&country=BD&x=1")),
        ("/0/0/0.pbf", format!("{of_country}&country=IN&country=BD")),
    ] {
        let answer = closed.get(&format!("{path}?{query}"), GZIP);
        let expected = open.get(&format!("{path}?{query}"), GZIP);
        assert!(matches!(status(&answer), 200 | 204), "{path}?{query} {}", answer.head);
        assert_eq!((status(&answer), answer.header("etag")), (status(&expected), expected.header("etag")));
        assert!(answer.body == expected.body, "{path}?{query}");
        assert_eq!(answer.header("cache-control"), Some("max-age=5"), "{path}?{query}");
        if let Some(tag) = answer.header("etag") {
            let condition = format!("{GZIP}If-None-Match: {tag}\r\n");
            assert_eq!(status(&closed.get(&format!("{path}?{query}"), &condition)), 304, "{path}");
            assert_eq!(status(&closed.get(path, &condition)), 403, "{path}");
        }
        assert_eq!(status(&ask(closed.port, "HEAD", path, GZIP)), 403, "{path}");
    }

    let missing = "this address has to be signed: expires and signature are needed once each";
    let wrong = "the signature is not that of this tileset, filter and expires";
    let past = expires - 7_200 - 3_600;
    for (query, refusal) in [
        (String::new(), missing),
        ("country=BD".to_owned(), missing),
        (format!("expires={expires}"), missing),
        (format!("{right}&{right}"), missing),
        (format!("country=BD&{right}"), wrong),
        (format!("country=BD&{of_country}"), wrong),
        (of_country.clone(), wrong),
        (signature(KEY, "other", "", expires), wrong),
        (signature(NEXT_KEY, "map", "", expires), wrong),
        (right.replace(&expires.to_string(), &(expires + 3_600).to_string()), wrong),
        (right.replace("signature=", "signature=00"), wrong),
        (signature(KEY, "map", "", expires + 1), "expires has to be a whole hour, in seconds since 1970"),
        (signature(KEY, "map", "", past), "this address has expired: ask for a new one"),
        (format!("expires=0&signature={}", "0".repeat(100_000 / 20)), wrong),
    ] {
        for path in
            ["/0/0/0.pbf", "/2/2/1.pbf", "/tile/x/0/0/0.pbf", "/tiles.json", "/count.json", "/values.json", "/changes"]
        {
            let answer = closed.get(&format!("{path}?{query}"), GZIP);
            let found = (status(&answer), error_of(&answer));
            assert_eq!(found, (403, refusal.to_owned()), "{path}?{query}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}?{query}");
        }
    }
    for query in [&right, &format!("{of_country}&country=IN&country=BD")] {
        let counts = closed.get(&format!("/count.json?{query}"), GZIP);
        assert_eq!((status(&counts), counts.header("cache-control")), (200, Some("no-store")), "{query}");
    }
    // Nobody need sign what holds no data.
    for (path, expected) in
        [("/catalog", 200), ("/nothing", 404), ("/cache-probe.pbf?probe=1", 200), ("/2/9/9.pbf", 400)]
    {
        assert_eq!(status(&closed.get(path, GZIP)), expected, "{path}");
    }
}

#[test]
fn a_tilejson_signs_its_tiles_for_who_has_the_token_or_a_signature() {
    let world = World::new();
    let served = world.served(&format!("{}signed_for = \"90m\"\n", world.signed()));
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let earliest = now() + 90 * 60;
    for (query, filter) in [("", ""), ("?country=in&country=bd&x=1", "country=BD&country=IN&")] {
        let address = address(&served.get(&format!("/tiles.json{query}"), &token));
        let (_, own) = address.split_once("{y}.pbf?").unwrap();
        let own = own.strip_prefix(filter).unwrap();
        let expires: u64 = own.split_once('&').unwrap().0.strip_prefix("expires=").unwrap().parse().unwrap();
        assert!(
            expires.is_multiple_of(3_600) && (earliest..earliest + 3_600 + 60).contains(&expires),
            "{expires} {earliest}"
        );
        assert_eq!(own, signature(KEY, "map", filter.trim_end_matches('&'), expires));
        for coordinates in [[0, 0, 0], [1, 1, 0], [2, 2, 1]] {
            assert_eq!(status(&served.get(&tile(&address, coordinates), GZIP)), 200, "{address}");
        }
        // Who has a signature gets the same address, and needs no token.
        let query = address.split_once('?').unwrap().1;
        assert_eq!(self::address(&served.get(&format!("/tiles.json?{query}"), "")), address);
    }
    for wrong in ["", "Authorization: Bearer x\r\n", &format!("Authorization: Basic {TOKEN}\r\n")] {
        assert_eq!(status(&served.get("/tiles.json", wrong)), 403, "{wrong}");
    }
    // The token is no signature of tiles.
    assert_eq!(status(&served.get("/0/0/0.pbf", &token)), 403);
}

#[test]
fn a_signature_is_for_one_tileset_or_variant_by_its_name_in_addresses() {
    let world = World::new();
    let path = |name: &str| world.folder.beside(name).display().to_string();
    let config = world.folder.config(&format!(
        "[tileset_defaults]\nzoom = \"0-1\"\n[[tileset]]\nname = \"l\u{f6}w\"\noutput = \"{}\"
[[tileset]]\nname = \"all\"\noutput = \"{}\"\n[[tileset]]\nname = \"of\"\n[tileset.variants]\noutput = \"{}\"
values = \"SELECT min(country_code)::text AS country FROM api_facility\"\nwhere = {{ facilities = \"country_code = !country!\" }}
[serve]\nchanges = true\n{}\n[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"id\"]\n",
        path("low.mbtiles"),
        path("all.mbtiles"),
        path("{country}.mbtiles"),
        world.signed()
    ));
    let common = ["--config", &config, "--database-url", &world.db.url];
    run(program().args(["seed", "--progress", "none"]).args(common)).ok();
    let country: String = world.db.value("SELECT min(country_code)::text FROM api_facility");
    let mut command = program();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]).args(common);
    let served = Served::of(&mut command);
    let names = ["l%C3%B6w".to_owned(), "all".to_owned(), format!("of/{country}")];
    for name in &names {
        for signed in &names {
            let query = signature(KEY, signed, "", some_hour());
            let expected = if signed == name { 200 } else { 403 };
            for document in ["0/0/0.pbf", "tiles.json"] {
                let answer = served.get(&format!("/{name}/{document}?{query}"), GZIP);
                assert_eq!(status(&answer), expected, "{name}/{document} {signed}: {}", answer.head);
            }
        }
    }
}

#[test]
fn keys_are_exchanged_while_the_server_runs() {
    let world = World::new();
    let served = world.served(&world.signed());
    let [old, new] = [KEY, NEXT_KEY].map(|key| format!("/0/0/0.pbf?{}", signature(key, "map", "", some_hour())));
    let answered = |path: &str| status(&served.get(path, GZIP));
    assert_eq!([answered(&old), answered(&new)], [200, 403]);
    world.keys(&format!("{NEXT_KEY}\n{KEY}\n"), 0o440);
    served.signal("-HUP");
    until("both keys verify", || [answered(&old), answered(&new)] == [200, 200]);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let signed = tile(&address(&served.get("/tiles.json", &token)), [0, 0, 0]);
    world.keys(NEXT_KEY, 0o600);
    served.signal("-HUP");
    until("the old key is gone", || [answered(&old), answered(&new)] == [403, 200]);
    assert_eq!(answered(&signed), 200, "the first key signs");
    // What cannot be read changes nothing.
    world.keys(KEY, 0o644);
    served.signal("-HUP");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!([answered(&old), answered(&new)], [403, 200]);
}

#[test]
fn keys_that_others_could_have_and_settings_that_contradict_are_refused() {
    let world = World::new();
    let (signed, path) = (world.signed(), world.folder.beside("keys").display().to_string());
    for mode in [0o604, 0o602, 0o620, 0o644] {
        world.keys(KEY, mode);
        let text =
            format!("the keys of signed addresses in {path}: other users may read or change them: chmod 600 {path}");
        world.refused(&signed, &[&text]);
    }
    for (text, why) in
        [("", "there are 0: write one on a line"), ("short", "line 1 has 5 bytes, and a key needs at least 32")]
    {
        world.keys(text, 0o600);
        world.refused(&signed, &[&format!("the keys of signed addresses in {path}: {why}"), "openssl rand -hex 32"]);
    }
    world.keys(KEY, 0o600);
    world.refused(
        &format!("{signed}preview = true\n"),
        &["serve.preview", "is on beside signing_keys_file", "oar-tiles preview"],
    );
    world.refused(&format!("{signed}signed_for = \"1s\"\n"), &["serve.signed_for"]);
    std::fs::remove_file(&path).unwrap();
    world.refused(&signed, &[&format!("cannot read the keys of signed addresses {path}"), "No such file"]);
    world.keys(KEY, 0o600);
    let config = std::fs::read_to_string(world.config(&signed))
        .unwrap()
        .replace("!country!", "!expires!")
        .replace("\"country\"", "\"expires\"");
    let config = world.folder.config(&config.replace("properties = [\"id\", \"expires\"]", "properties = [\"id\"]"));
    // The configuration is another one than that of the target, so it is seeded again.
    seed(&world.db.url, &world.folder.beside("t.mbtiles"), &["--config", &config, "--zoom", "0-1", "--force"]).ok();
    let command = ["serve", "--live", "--listen", "127.0.0.1:0", "--config", &config, "--database-url", &world.db.url];
    let text = "tileset \"map\" has a parameter expires, which is a part of signed addresses: give it another name, or leave signing_keys_file out of [serve]";
    run(&mut ending(program().args(command))).fails(2, &[text]);
}

#[test]
fn a_posted_filter_is_signed_by_its_id_and_posted_by_who_has_the_token() {
    let world = World::new();
    let served = world.served(&world.signed());
    let post = |more: &str| {
        let body = "country=DE";
        let head = format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n{more}\r\n{body}",
            body.len()
        );
        ask(served.port, "POST", "/filters", &head)
    };
    let refused = post("");
    assert_eq!(
        (status(&refused), error_of(&refused).as_str()),
        (403, "addresses have to be signed here: who signs them posts filters with the token")
    );
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let answer: Value = serde_json::from_slice(&post(&token).body).unwrap();
    let filter = format!("filter={}", answer["filter"].as_str().unwrap());
    let signed = address(&served.get(&format!("/tiles.json?{filter}"), &token));
    assert!(signed.contains(&format!("?{filter}&expires=")), "{signed}");
    let shown = served.get(&tile(&signed, [1, 1, 0]), GZIP);
    assert!(matches!(status(&shown), 200 | 204), "{}", shown.head);
    let (_, own) = signed.split_once('?').unwrap();
    assert!(own.ends_with(&signature(KEY, "map", &filter, own.split(['=', '&']).nth(3).unwrap().parse().unwrap())));
    // A signature is not for another filter.
    assert_eq!(status(&served.get(&tile(&signed, [1, 1, 0]).replace(&filter, "country=DE"), GZIP)), 403);
    assert_eq!(status(&served.get(&format!("/1/1/0.pbf?{filter}"), GZIP)), 403);
}
