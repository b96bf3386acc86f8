//! The preview in a real browser: every layer drawn, without an error, from every kind of target.

use std::io::Read as _;

use crate::support::browser::Browser;
use crate::support::folder::Folder;
use crate::support::places::Places;
use crate::support::program::{bare_program, program, run};
use crate::support::served::{Served, small_target, status};
use crate::support::stub::{Stub, StubAnswer};
use crate::support::{Archive, Db, repository};

/// What is true once features of the layer are drawn.
const DRAWN: &str = "window.shownMap?.areTilesLoaded() && !window.shownMap?.isMoving() && window.shownMap.queryRenderedFeatures().some((f) => f.layer.metadata?.layer === 'facilities') || null";

/// What is true once they are drawn at a zoom: a change of the address' hash leaves the page, and the map as it was for
/// a moment.
fn drawn_at(zoom: &str) -> String {
    format!("window.shownMap?.getZoom() === {zoom} && ({DRAWN}) || null")
}

/// A folder with the map client's files, as an operator has them.
fn assets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in MAPLIBRE_FILES {
        let packed = std::fs::File::open(repository(&format!("src/serve/preview/embedded/{name}.gz"))).unwrap();
        let mut file = std::fs::File::create(folder.path().join(name)).unwrap();
        std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut file).unwrap();
    }
    folder
}

const MAPLIBRE_FILES: [&str; 2] = ["maplibre-gl.js", "maplibre-gl.css"];

#[test]
fn the_preview_draws_the_features_of_a_target_without_a_database() {
    let db = Db::with_facilities(300);
    let places = Places::new();
    for kind in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/"] {
        places.seed(&db, kind, &["--zoom", "0-4", "--public-url", "relative"]).ok();
    }
    let mut browser = Browser::new();
    for kind in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/"] {
        let mut command = program();
        let served =
            Served::of(places.with_keys(command.args(["preview", &places.place(kind), "--config", &places.config])));
        for zoom in ["0", "2", "6"] {
            browser.open(&format!("{}#{zoom}/23.7/90.4", served.url));
            browser.value_once_there(&drawn_at(zoom));
            assert_eq!(browser.value("document.getElementById('message').value"), "", "{kind} {zoom}");
            assert_eq!(browser.take_errors(), Vec::<String>::new(), "{kind} {zoom}");
        }
        assert_eq!(browser.value("document.getElementById('name').textContent"), "facilities");
        assert_eq!(browser.value("document.querySelectorAll('#layers label').length"), 1);
        // What stands in the box is gone to, and what is switched off is not drawn.
        browser.value(
            "document.getElementById('address').value = '1/1/0', document.getElementById('panel').requestSubmit()",
        );
        browser.value_once_there("Math.abs(shownMap.getCenter().lng - 90) < 0.01 || null");
        browser.value("document.querySelector('#layers input').click()");
        browser.value_once_there(
            "shownMap.queryRenderedFeatures().every((f) => f.layer.metadata?.layer !== 'facilities') || null",
        );
        // The page listens to its server, and would report its end.
        browser.open("about:blank");
    }
}

#[test]
fn the_map_goes_on_where_the_target_ends_if_tiles_are_live() {
    let db = Db::with_facilities(300);
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-2"]).ok();
    let target = places.place("t.mbtiles");
    let live = ["--config", &places.config, "--live", "--database-url", &db.url];
    let mut browser = Browser::new();
    for verb in [&["preview"][..], &["serve", "--preview", "--listen", "127.0.0.1:0", "--drain", "0s"]] {
        let served = Served::of(program().args(verb).arg(&target).args(live));
        // Below, and far above the zooms of the target.
        for zoom in ["1", "7"] {
            browser.open(&format!("{}#{zoom}/23.7/90.4", served.url));
            browser.value_once_there(&drawn_at(zoom));
            assert_eq!(browser.value("document.getElementById('message').value"), "", "{verb:?} {zoom}");
            assert_eq!(browser.take_errors(), Vec::<String>::new(), "{verb:?} {zoom}");
        }
        let asked = "performance.getEntriesByType('resource').some((one) => one.name.includes('/7/') && one.name.endsWith('.pbf')) || null";
        browser.value_once_there(asked);
        browser.open("about:blank");
    }
}

/// The addresses that the page has asked for at other servers.
const ELSEWHERE: &str = "performance.getEntriesByType('resource').map((one) => one.name).filter((name) => !name.startsWith(location.origin) && !name.startsWith('blob:') && !name.startsWith('data:'))";

#[test]
fn the_page_asks_nobody_but_its_server() {
    let db = Db::with_facilities(100);
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-2"]).ok();
    let target = places.place("t.mbtiles");
    let served = Served::of(program().args(["preview", &target]));
    let page = served.get("/", "");
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("https:"), "{policy}");
    assert!(!String::from_utf8(page.body.clone()).unwrap().contains("https:"));
    assert!(String::from_utf8(served.get("/assets/maplibre-gl-LICENSE.txt", "").body).unwrap().contains("MapLibre"));
    let mut browser = Browser::new();
    browser.open(&served.url);
    browser.value_once_there(DRAWN);
    assert_eq!(browser.value("document.getElementById('message').value"), "");
    assert_eq!(browser.value(ELSEWHERE), serde_json::json!([]));
    assert_eq!(browser.take_errors(), Vec::<String>::new());
    // What is on the wire besides tiles, with the names that the search asks for.
    browser.value("document.getElementById('address').focus()");
    let bytes = "(() => { const files = performance.getEntriesByType('resource').filter((one) => !one.name.endsWith('.pbf')); return files.some((one) => one.name.endsWith('places.json')) && files.every((one) => one.transferSize > 0 || one.name.endsWith('/changes')) ? files.reduce((sum, one) => sum + one.transferSize, 0) : null; })()";
    let bytes = browser.value_once_there(bytes).as_u64().unwrap() + page.body.len() as u64;
    assert!(bytes <= 450_000, "{bytes} bytes");
    browser.open("about:blank");
}

#[test]
fn the_operators_map_client_is_served_and_no_other_file_of_its_folder() {
    let db = Db::with_facilities(50);
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-1"]).ok();
    let target = places.place("t.mbtiles");
    let folder = assets();
    let own = "/* the operator's */";
    std::fs::write(folder.path().join("maplibre-gl.css"), own).unwrap();
    std::fs::write(folder.path().join("package.json"), "{}").unwrap();
    let served = Served::of(program().args(["preview", &target, "--assets"]).arg(folder.path()));
    assert_eq!(String::from_utf8(served.get("/assets/maplibre-gl.css", "").body).unwrap(), own);
    for hidden in ["/assets/package.json", "/assets/../package.json", "/assets/", "/assets/%2e%2e/package.json"] {
        assert_eq!(status(&served.get(hidden, "")), 404, "{hidden}");
    }
    assert_eq!(served.ends_after("-INT"), Some(130));
}

#[test]
fn files_of_the_page_are_packed_and_not_sent_again_to_those_who_have_them() {
    let (_folder, target) = small_target();
    let served = Served::of(program().args(["preview", &target]));
    for (name, media_type) in [
        ("preview.js", "text/javascript"),
        ("maplibre-gl.js", "text/javascript"),
        ("preview.css", "text/css"),
        ("places.json", "application/json"),
        ("basemap-0-0-0.pbf", "application/vnd.mapbox-vector-tile"),
    ] {
        let path = format!("/assets/{name}");
        let (plain, packed) = (served.get(&path, ""), served.get(&path, "Accept-Encoding: gzip\r\n"));
        assert_eq!(
            (plain.header("content-type"), plain.header("content-encoding")),
            (Some(media_type), None),
            "{name}"
        );
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{name}");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain.body && packed.body.len() < plain.body.len(), "{name}");
        assert_ne!(plain.header("etag"), packed.header("etag"), "{name}");
        let known = format!("If-None-Match: {}\r\n", plain.header("etag").unwrap());
        assert_eq!(status(&served.get(&path, &known)), 304, "{name}");
    }
    // The Southern Pacific, and what the base map does not have.
    assert_eq!(status(&served.get("/assets/basemap-5-3-21.pbf", "")), 204);
    assert_eq!(status(&served.get("/assets/basemap-6-0-0.pbf", "")), 404);
}

#[test]
fn the_page_takes_at_most_450_kilobytes_on_the_wire() {
    const MAX_PAGE_BYTES: usize = 450_000;
    let (_folder, target) = small_target();
    let served = Served::of(program().args(["preview", &target]));
    let bytes = |headers: &str| -> usize {
        let page = String::from_utf8(served.get("/", "").body).unwrap();
        let files: Vec<&str> = page.split("\"assets/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let files: Vec<&str> = files.into_iter().filter(|name| !name.contains('{')).collect();
        assert_eq!(files.len(), 4, "{page}");
        page.len() + files.iter().map(|name| served.get(&format!("/assets/{name}"), headers).body.len()).sum::<usize>()
    };
    let packed = bytes("Accept-Encoding: gzip\r\n");
    assert!(packed <= MAX_PAGE_BYTES, "{packed}");
    assert!(bytes("") > MAX_PAGE_BYTES);
}

#[test]
fn a_page_of_ones_own_draws_the_tiles_of_a_server() {
    let db = Db::with_facilities(100);
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-2"]).ok();
    let target = places.place("t.mbtiles");
    let file = places.folder.path().join("map.html");
    let html = ["--html", file.to_str().unwrap()];
    run(program().args(["preview", &target]).args(html))
        .fails(2, &[&format!("where clients find the tiles of {target} is not known: give --public-url https://…")]);
    run(program().args(["preview", &target, "--public-url", "tiles/"]).args(html))
        .fails(2, &["\"tiles/\" is no URL that a page can ask for tiles: give --public-url https://…"]);
    run(program().args(["preview", &target, "--public-url", "https://example.org", "--html", "/nowhere/map.html"]))
        .fails(2, &["cannot write the page /nowhere/map.html: choose another --html"]);
    for flag in ["--html", "--style"] {
        run(program().args(["preview", &target, "--public-url", "https://example.org", flag, &target]))
            .fails(2, &["cannot write the ", "it would replace the output"]);
    }
    assert!(!file.exists());
    let served = Served::of(program().args(["serve", &target, "--listen", "127.0.0.1:0"]));
    run(program().args(["preview", &target, "--public-url", &served.url]).args(html)).ok();
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.contains("https://unpkg.com/maplibre-gl@") && page.contains("integrity=\"sha384-"), "{page}");
    assert!(!page.contains("assets/"), "it is one file: {page}");
    // Here there is no way to the CDN: the page says so, and takes the same files from beside it.
    let mut browser = Browser::new();
    browser.open(&format!("file://{}", file.display()));
    browser.value_once_there("document.getElementById('message')?.value.startsWith('The map client (MapLibre GL JS) could not be loaded') || null");
    let client = assets();
    for name in MAPLIBRE_FILES {
        std::fs::copy(client.path().join(name), places.folder.path().join(name)).unwrap();
    }
    let unlinked: String = page
        .split(" integrity=")
        .map(|part| part.split_once("crossorigin=\"anonymous\"").map_or(part, |(_, rest)| rest))
        .collect();
    let (begin, rest) = unlinked.split_once("https://unpkg.com/maplibre-gl@").unwrap();
    let (_, rest) = rest.split_once("/dist/").unwrap();
    let local = format!("{begin}{rest}");
    let (begin, rest) = local.split_once("https://unpkg.com/maplibre-gl@").unwrap();
    let (_, rest) = rest.split_once("/dist/").unwrap();
    std::fs::write(&file, format!("{begin}{rest}")).unwrap();
    browser.open(&format!("file://{}?local", file.display()));
    browser.value_once_there(DRAWN);
    assert_eq!(browser.value("document.getElementById('message').value"), "");
    // A directory knows its address from its seed.
    places.seed(&db, "tiles/", &["--zoom", "0-2", "--public-url", "https://tiles.example.org/f"]).ok();
    run(program().args(["preview", &places.place("tiles/")]).args(html)).ok();
    assert!(std::fs::read_to_string(&file).unwrap().contains("data-public-url=\"https://tiles.example.org/f/\""));
}

#[test]
fn a_seed_may_end_with_the_map() {
    let db = Db::with_facilities(100);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    let mut command = program();
    command.args(["seed", "--quiet", "--preview", "--zoom", "0-3", "--database-url", &db.url, "--output"]).arg(&target);
    let served = Served::of(&mut command);
    assert_eq!(served.get("/0/0/0.pbf", "Accept-Encoding: gzip\r\n").body, Archive::open(&target).stored()[&(0, 0, 0)]);
    assert!(String::from_utf8_lossy(&served.get("/", "").body).contains("maplibre"));
    assert_eq!(served.ends_after("-INT"), Some(130));
}

#[test]
fn the_style_of_the_map_is_written_for_a_map_of_ones_own() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let (target, file) = (folder.path().join("t.mbtiles"), folder.path().join("style.json"));
    let mut seed = program();
    seed.args(["seed", "--progress", "none", "--zoom", "0-10", "--database-url", &db.url, "--output"]).arg(&target);
    run(&mut seed).ok();
    let preview = |arguments: &[&str]| {
        let mut command = program();
        command.arg("preview").arg(&target).arg("--style").arg(&file).args(arguments);
        command
    };
    let says = "where clients find the tiles of ";
    run(&mut preview(&[])).fails(2, &[says]);
    let url = ["--public-url", "https://tiles.example.org/facilities"];
    let unknown = run(preview(&url).args(["--label", "nam"]));
    unknown.fails(1, &["has no property \"nam\": it has ", "name"]);
    let mut served = program();
    let served = Served::of(served.arg("preview").arg(&target));
    run(preview(&["--public-url", &served.url]).args(["--label", "name"])).ok();
    let style = std::fs::read_to_string(&file).unwrap();
    let told: serde_json::Value = serde_json::from_str(&style).unwrap();
    assert_eq!(told["sources"]["tiles"]["url"], format!("{}tiles.json", served.url));
    let kinds: Vec<&str> = told["layers"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["background", "fill", "line", "line", "circle", "circle", "symbol", "symbol"]);
    assert!(told.get("glyphs").is_none(), "{style}");
    // MapLibre itself takes it, and draws features and labels.
    let mut browser = Browser::new();
    browser.open(&format!("{}#10/23.7/90.4", served.url));
    browser.value_once_there(DRAWN);
    let label =
        "shownMap.querySourceFeatures('tiles', { sourceLayer: 'facilities' }).some((f) => f.properties.name) || null";
    browser.value(&format!("shownMap.setStyle({style}), true"));
    browser.value_once_there("shownMap.isStyleLoaded() && shownMap.getLayer('facilities/label') && true || null");
    browser.value("shownMap.jumpTo({ center: [90.4, 23.7], zoom: 5 }), true");
    browser.value_once_there(label);
    browser.value_once_there(DRAWN);
    assert_eq!(browser.take_errors(), Vec::<String>::new());
    assert_eq!(browser.value("document.getElementById('message').value"), "");
}

#[test]
fn another_base_map_lies_below_the_tiles_with_its_names_above_them() {
    let (_folder, target) = small_target();
    let style = serde_json::json!({
        "version": 8,
        "sources": { "other": { "type": "geojson", "data": { "type": "Point", "coordinates": [0, 0] } } },
        "layers": [
            { "id": "other/name", "type": "symbol", "source": "other", "layout": { "text-field": "Null Island" } },
            { "id": "other/sea", "type": "background", "paint": { "background-color": "#123456" } },
        ],
    });
    let elsewhere = Stub::new(move |request| match request.path.as_str() {
        "/style.json" => StubAnswer::Says(200, "Access-Control-Allow-Origin: *\r\n", style.to_string()),
        _ => StubAnswer::Says(404, "Access-Control-Allow-Origin: *\r\n", String::new()),
    });
    let url = format!("{}/style.json", elsewhere.url);
    let mut browser = Browser::new();
    for verb in [&["preview"][..], &["serve", "--preview", "--listen", "127.0.0.1:0", "--drain", "0s"]] {
        let served = Served::of(program().args(verb).arg(&target).args(["--basemap", &url]));
        browser.open(&served.url);
        browser.value_once_there(DRAWN);
        let order = "(() => { const ids = shownMap.getStyle().layers.map(({ id }) => id); return ['other/sea', 'facilities/circle', 'other/name', 'facilities/cluster'].map((id) => ids.indexOf(id)); })()";
        let order = browser.value(order);
        let order: Vec<i64> = order.as_array().unwrap().iter().map(|at| at.as_i64().unwrap()).collect();
        assert!(order.is_sorted() && order[0] == 0, "{order:?}");
        let own = "shownMap.getStyle().layers.filter(({ id }) => id.startsWith('basemap/')).length";
        assert_eq!(browser.value(own), 0);
        assert_eq!(browser.value("document.getElementById('message').value"), "");
        assert_eq!(browser.take_errors(), Vec::<String>::new());
        browser.open("about:blank");
    }
    // One that cannot be had is named.
    let url = format!("{}/absent.json", elsewhere.url);
    let served = Served::of(program().args(["preview", &target, "--basemap", &url]));
    browser.open(&served.url);
    let said = browser.value_once_there("document.getElementById('message')?.value || null");
    assert_eq!(said, format!("the base map {url}: HTTP 404"));
    browser.open("about:blank");
}

#[test]
fn a_style_for_clients_without_fonts_names_the_glyphs_that_the_server_has() {
    let db = Db::new();
    let folder = tempfile::tempdir().unwrap();
    let (target, file) = (folder.path().join("t.mbtiles"), folder.path().join("style.json"));
    db.run(
        "CREATE TABLE towns (id int PRIMARY KEY, name text, geom geometry(Point, 4326));
         INSERT INTO towns VALUES (1, 'Århus – Ğ', ST_Point(10, 56, 4326)), (2, 'Αθήνα', ST_Point(23.7, 38, 4326)),
             (3, 'Київ', ST_Point(30.5, 50.4, 4326)), (4, 'ყაზბეგი', ST_Point(44.6, 42.6, 4326))",
    );
    let seed = ["seed", "--table", "towns", "--zoom", "0-10", "--database-url", &db.url, "--output"];
    run(bare_program().args(seed).arg(&target)).ok();
    let served = Served::of(program().arg("preview").arg(&target));
    let glyphs = format!("{}fonts", served.url);
    let style = |glyphs: &str| {
        let mut command = program();
        command.arg("preview").arg(&target).arg("--style").arg(&file);
        run(command.args(["--public-url", &served.url, "--label", "name", "--glyphs", glyphs]))
    };
    style("fonts/").fails(2, &["\"fonts/\" is no URL that a map can ask for glyphs: give --glyphs https://…"]);
    style(&glyphs).ok();
    let written = std::fs::read_to_string(&file).unwrap();
    let told: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(told["glyphs"], format!("{glyphs}/{{fontstack}}/{{range}}.pbf"));
    let fonts = told["layers"].as_array().unwrap().iter().filter(|layer| layer["type"] == "symbol");
    let fonts: Vec<&serde_json::Value> = fonts.map(|layer| &layer["layout"]["text-font"][0]).collect();
    assert_eq!(fonts, ["Noto Sans Regular"; 2]);
    // MapLibre draws the labels with them.
    let mut browser = Browser::new();
    let drawn = DRAWN.replace("'facilities'", "'towns'");
    browser.open(&format!("{}#10/56/10", served.url));
    browser.value_once_there(&drawn);
    browser.value(&format!("shownMap.setStyle({written}), true"));
    browser.value_once_there("shownMap.isStyleLoaded() && shownMap.getLayer('towns/label') && true || null");
    for (place, range) in
        [("10, 56", "8192-8447"), ("23.7, 38", "768-1023"), ("30.5, 50.4", "1024-1279"), ("44.6, 42.6", "4096-4351")]
    {
        browser.value(&format!("shownMap.jumpTo({{ center: [{place}], zoom: 10 }}), true"));
        browser.value_once_there(&format!("performance.getEntriesByType('resource').some(({{ name, responseStatus }}) => name.endsWith('/fonts/Noto%20Sans%20Regular/{range}.pbf') && responseStatus === 200) || null"));
        browser.value_once_there(&drawn);
        // The font has no Georgian letters: there, the rest of the map is drawn.
        if range != "4096-4351" {
            browser.value_once_there("shownMap.queryRenderedFeatures({ layers: ['towns/label'] }).length > 0 || null");
        }
    }
    assert_eq!(browser.take_errors(), Vec::<String>::new());
    assert_eq!(browser.value("document.getElementById('message').value"), "");
    let licence = served.get("/assets/OFL.txt", "").body;
    assert!(String::from_utf8(licence).unwrap().contains("SIL Open Font License, Version 1.1"));
    for absent in ["Noto%20Sans%20Regular/0-254.pbf", "Noto%20Sans%20Bold/0-255.pbf"] {
        assert_eq!(status(&served.get(&format!("/fonts/{absent}"), "")), 404, "{absent}");
    }
}

#[test]
fn a_folder_without_the_files_of_the_map_is_refused() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("CREATE TABLE public.places (id int PRIMARY KEY, geom geometry(Point, 4326))");
    let output = folder.beside("t.mbtiles");
    run(bare_program().args(["seed", "--table", "places", "--database-url", &db.url, "--output"]).arg(&output)).ok();
    for verb in [&["preview"][..], &["serve", "--preview", "--listen", "127.0.0.1:0"]] {
        let mut shown = bare_program();
        shown.args(verb).arg(&output).arg("--assets").arg(folder.beside("absent"));
        let next = "assets has to name a folder with maplibre-gl.js and maplibre-gl.css of version 5";
        run(&mut shown).fails(2, &["cannot read ", "absent/maplibre-gl.js: ", next]);
    }
}
