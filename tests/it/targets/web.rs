//! The pages of `examples/web`: tiles in the map clients that people have on their own pages, in a browser.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oar_tiles::target::{PmtilesReader, TileReader as _};
use sha2::{Digest as _, Sha256};

use crate::reseed::changed_out::stored;
use crate::support::browser::Browser;
use crate::support::nginx::Nginx;
use crate::support::program::seed;
use crate::support::served::Served;
use crate::support::tracked::{SOME, Tracked, differences};
use crate::support::{Db, manual, repository};

/// From where the pages take their libraries, and where scripts/test has put the same files.
const CDN: &str = "https://unpkg.com/";

fn libraries() -> String {
    std::env::var("TEST_WEB_LIBRARIES").expect("scripts/test installs it")
}

/// Copies a page into a folder, and the files of libraries that it names. It gets the tiles from another address.
fn page(folder: &Path, name: &str, address: &str, instead: &str) {
    let text = fs::read_to_string(repository("examples/web").join(name)).unwrap();
    assert!(text.contains(address), "{name}");
    for file in text.split(CDN).skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let copy = folder.join("npm").join(file);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(Path::new(&libraries()).join(file), copy).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    fs::write(folder.join(name), text.replace(CDN, "/npm/").replace(address, instead)).unwrap();
}

#[test]
fn every_client_of_the_manual_shows_the_tiles_on_a_page_of_ones_own() {
    const TILEJSON: &str = "https://tiles.example.org/facilities/tiles.json";
    const ARCHIVE: &str = "https://tiles.example.org/facilities.pmtiles";
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (archive, target) = (folder.path().join("facilities.pmtiles"), folder.path().join("t.mbtiles"));
    seed(&db.url, &archive, &["--zoom", "0-3"]).ok();
    seed(&db.url, &target, &["--zoom", "0-3"]).ok();
    let tiles = Served::new(target.to_str().unwrap(), &[]);
    let nginx = Nginx::of_pages(folder.path());
    let tilejson = format!("{}tiles.json", tiles.url);
    for name in ["maplibre.html", "leaflet.html", "openlayers.html", "deckgl.html"] {
        page(folder.path(), name, TILEJSON, &tilejson);
    }
    page(folder.path(), "pmtiles.html", ARCHIVE, "/facilities.pmtiles");
    // A browser asks for it, and reports an error without it.
    fs::write(folder.path().join("favicon.ico"), "").unwrap();
    let mut browser = Browser::new();
    let address = |name: &str| format!("http://127.0.0.1:{}/{name}", nginx.port);

    browser.open(&address("maplibre.html"));
    // Until its script has run, `map` is the element of that name.
    let once =
        |ready: &str| format!("(() => {{ try {{ return {ready} && true || null; }} catch {{ return null; }} }})()");
    browser.value_once_there(&once("map.getLayer('points') && map.jumpTo({ center: [0, 0], zoom: 0 })"));
    let shown = |map: &str, condition: &str| {
        format!(
            "(() => {{ const found = {map}.queryRenderedFeatures().map((one) => one.properties); \
             return {map}.areTilesLoaded() && ({condition}) || null; }})()"
        )
    };
    let all = "new Set(found.map((one) => one.id)).size === 300";
    browser.value_once_there(&shown("map", all));
    // A click shows the properties, and a choice leaves one country.
    browser.value(
        "(() => {
            const at = map.project(map.queryRenderedFeatures()[0].geometry.coordinates);
            for (const kind of ['mousedown', 'mouseup', 'click']) {
                const where = { clientX: at.x, clientY: at.y, bubbles: true };
                map.getCanvas().dispatchEvent(new MouseEvent(kind, where));
            }
        })()",
    );
    browser.value_once_there(
        "[...document.querySelectorAll('.maplibregl-popup li')].some((one) => one.textContent.startsWith('name: ')) || null",
    );
    browser.value(
        "(() => {
            const choice = document.querySelector('select');
            choice.value = 'BD';
            choice.dispatchEvent(new Event('change'));
        })()",
    );
    browser.value_once_there(&shown("map", "found.length && found.every((one) => one.country_code === 'BD')"));
    assert_eq!(browser.take_errors(), Vec::<String>::new());

    browser.open(&address("pmtiles.html"));
    browser.value_once_there(&once("map.loaded() && map.jumpTo({ center: [0, 0], zoom: 0 })"));
    browser.value_once_there(&shown("map", all));
    assert_eq!(browser.take_errors(), Vec::<String>::new());

    browser.open(&address("leaflet.html"));
    browser.value_once_there(&once("layer.getMaplibreMap().loaded() && map.setView([0, 0], 1)"));
    browser.value_once_there(&shown("layer.getMaplibreMap()", all));
    assert_eq!(browser.take_errors(), Vec::<String>::new());

    browser.open(&address("openlayers.html"));
    browser.value_once_there(&once(
        "map.getLayers().item(0).getFeaturesInExtent(map.getView().calculateExtent()).some((one) => one.get('country_code'))",
    ));
    assert_eq!(browser.take_errors(), Vec::<String>::new());

    browser.open(&address("deckgl.html"));
    let picked = "map.pickObjects({ x: 0, y: 0, width: innerWidth, height: innerHeight })";
    browser.value_once_there(&once(&format!("{picked}.some((one) => one.object.properties.country_code)")));
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

/// A tile's bytes as pmtiles.js hands them to a map, as hexadecimal digits of their SHA-256.
const READ: &str = "(async (z, x, y) => {
    const { data } = await archive.getZxy(z, x, y);
    const digest = await crypto.subtle.digest('SHA-256', data);
    return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
})";

/// The SHA-256 of a stored tile's MVT bytes, as hexadecimal digits.
fn digest(stored: &[u8]) -> String {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(stored).read_to_end(&mut bytes).unwrap();
    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn pmtiles_js_and_maplibre_read_an_edited_archive_by_ranges_also_if_they_have_read_the_old_one() {
    const ARCHIVE: &str = "https://tiles.example.org/facilities.pmtiles";
    let tracked = Tracked::facilities(3_000);
    let folder = tracked.folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let path = tracked.seed("t.pmtiles", &["--zoom", "8-12"]);
    let library = Path::new(&libraries()).join("pmtiles@4.5.0/dist/pmtiles.js");
    fs::copy(library, folder.join("pmtiles.js")).unwrap();
    let reader = "<!doctype html><script src=/pmtiles.js></script>\
        <script>const archive = new pmtiles.PMTiles(location.origin + '/t.pmtiles');</script>";
    fs::write(folder.join("reader.html"), reader).unwrap();
    fs::write(folder.join("favicon.ico"), "").unwrap();
    page(folder, "pmtiles.html", ARCHIVE, "/t.pmtiles");
    let nginx = Nginx::of_pages(folder);
    let mut browser = Browser::new();
    browser.open(&format!("http://127.0.0.1:{}/reader.html", nginx.port));
    browser.value_once_there("typeof archive === 'undefined' ? null : true");
    let mut read = |(z, x, y): (u8, u32, u32)| browser.value(&format!("{READ}({z}, {x}, {y})"));
    let old = stored(&path);
    for (tile, bytes) in old.iter().step_by(old.len() / 20) {
        assert_eq!(read(*tile), digest(bytes), "{tile:?}");
    }
    tracked.db.run(&format!("UPDATE api_facility SET name = 'Edited' WHERE {SOME}"));
    tracked.reseed(&path, &[]).ok();
    let new = stored(&path);
    let described = PmtilesReader::open(&path).unwrap().describe().unwrap();
    assert!(described.dead.is_some_and(|dead| dead.bytes > 0), "the archive was edited");
    let changed = differences(&old, &new);
    // The same reader has the old directories.
    for (tile, bytes) in new.iter().filter(|(tile, _)| changed.contains(*tile)) {
        assert_eq!(read(*tile), digest(bytes), "{tile:?}");
    }
    for (tile, bytes) in new.iter().step_by(new.len() / 50) {
        assert_eq!(read(*tile), digest(bytes), "{tile:?}");
    }
    let place = tracked.db.value::<String>(
        "SELECT ST_X(location) || ',' || ST_Y(location) FROM api_facility WHERE name = 'Edited' LIMIT 1",
    );
    browser.open(&format!("http://127.0.0.1:{}/pmtiles.html", nginx.port));
    browser.value_once_there(&format!(
        "(() => {{ try {{ return map.loaded() && map.jumpTo({{ center: [{place}], zoom: 10 }}) && true || null; }} catch {{ return null; }} }})()"
    ));
    browser.value_once_there("map.queryRenderedFeatures().some((one) => one.properties.name === 'Edited') || null");
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[test]
fn the_manual_shows_every_page() {
    for page in fs::read_dir(repository("examples/web")).unwrap() {
        let name = format!("examples/web/{}", page.unwrap().file_name().display());
        assert!(manual::text().contains(&name), "{name}");
    }
}
