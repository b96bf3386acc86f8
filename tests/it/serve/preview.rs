//! The preview in a real browser: every layer drawn, without an error, from every kind of target.

use crate::support::Db;
use crate::support::browser::Browser;
use crate::support::places::Places;
use crate::support::program::program;
use crate::support::served::{Served, status};

/// The folder with the map client's files.
fn assets() -> String {
    std::env::var("TEST_PREVIEW_MAPLIBRE").expect("scripts/test installs it")
}

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
        let served = Served::of(places.with_keys(command.args([
            "preview",
            &places.place(kind),
            "--assets",
            &assets(),
            "--config",
            &places.config,
        ])));
        for zoom in ["0", "2", "6"] {
            browser.open(&format!("{}#{zoom}/23.7/90.4", served.url));
            let drawn = "window.shownMap?.areTilesLoaded() && !window.shownMap?.isMoving() && window.shownMap.queryRenderedFeatures().some((f) => f.layer.metadata?.layer === 'facilities') || null";
            browser.value_once_there(drawn);
            assert_eq!(browser.value("document.getElementById('message').value"), "", "{kind} {zoom}");
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
    }
}

#[test]
fn the_page_names_a_client_with_its_hash_or_the_operators_own_and_nothing_else() {
    let db = Db::with_facilities(50);
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-1"]).ok();
    let target = places.place("t.mbtiles");
    let served = Served::of(program().args(["preview", &target]));
    let page = served.get("/", "");
    let text = String::from_utf8(page.body.clone()).unwrap();
    assert!(text.contains("https://unpkg.com/maplibre-gl@") && text.contains("integrity=\"sha384-"), "{text}");
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none';"));
    assert_eq!(status(&served.get("/assets/maplibre-gl.js", "")), 404, "no folder was named");
    drop(served);
    let served = Served::of(program().args(["preview", &target, "--assets", &assets()]));
    let text = String::from_utf8(served.get("/", "").body).unwrap();
    assert!(!text.contains("unpkg.com") && text.contains("assets/maplibre-gl.js"), "{text}");
    assert_eq!(status(&served.get("/assets/maplibre-gl.js", "")), 200);
    for hidden in ["/assets/package.json", "/assets/../package.json", "/assets/", "/assets/%2e%2e/package.json"] {
        assert_eq!(status(&served.get(hidden, "")), 404, "{hidden}");
    }
    assert_eq!(served.ends_after("-INT"), Some(130));
}
