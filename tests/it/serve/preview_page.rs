//! What a visitor does on the page of the preview, in a real browser: what lies above what, search, layers, clicks,
//! keys, and a check of its accessibility.

use serde_json::{Value, json};

use crate::support::Db;
use crate::support::browser::Browser;
use crate::support::folder::Folder;
use crate::support::program::{bare_program, run};
use crate::support::served::Served;

/// What is true once the map stands still and shows everything.
const STILL: &str =
    "window.shownMap?.loaded() && shownMap.areTilesLoaded() && !shownMap.isMoving() && !shownMap.isZooming() || null";

/// A page with a target of three layers, whose alphabet is the wrong order: points (clusters below zoom 6), lines,
/// areas.
struct Page {
    browser: Browser,
    served: Served,
    _folder: Folder,
}

impl Page {
    fn new() -> Page {
        let (db, folder) = (Db::new(), Folder::new());
        db.run(
            "CREATE TABLE a_points (id int PRIMARY KEY, name text, kind text, geom geometry(Point, 4326));
             INSERT INTO a_points SELECT n, 'point ' || n, CASE WHEN n % 4 = 0 THEN 'mill' ELSE 'farm' END,
                 ST_SetSRID(ST_MakePoint(10 + n % 10 * 0.02, 50 + n / 10 * 0.02), 4326) FROM generate_series(0, 99) AS n;
             CREATE TABLE b_lines (id int PRIMARY KEY, name text, geom geometry(LineString, 4326));
             INSERT INTO b_lines VALUES (1, 'road', ST_SetSRID(ST_MakeLine(ST_MakePoint(9, 49), ST_MakePoint(11, 51)), 4326));
             CREATE TABLE c_areas (id int PRIMARY KEY, name text, geom geometry(Polygon, 4326));
             INSERT INTO c_areas VALUES (1, 'district', ST_MakeEnvelope(9, 49, 12, 52, 4326)),
                 (2, 'far away', ST_MakeEnvelope(-70, -20, -69, -19, 4326));",
        );
        let config = folder.config(
            "[tileset]\nname = \"three\"\nzoom = \"0-8\"\n
             [[layer]]\nname = \"a_points\"\ntable = \"a_points\"\nproperties = [\"id\", \"name\", \"kind\"]\n[layer.cluster]\nzoom = \"0-5\"\n
             [[layer]]\nname = \"b_lines\"\ntable = \"b_lines\"\n
             [[layer]]\nname = \"c_areas\"\ntable = \"c_areas\"\n",
        );
        let target = folder.beside("three.mbtiles");
        let seed = ["seed", "--config", &config, "--database-url", &db.url, "--output"];
        run(bare_program().args(seed).arg(&target)).ok();
        let served = Served::of(bare_program().arg("preview").arg(&target));
        let mut browser = Browser::new();
        browser.screen(1000, 700, false);
        Page { browser, served, _folder: folder }
    }

    /// Opens the page with a view, such as `5/50/10`, and waits until it is drawn.
    fn open(&mut self, view: &str) {
        // A change of the hash alone would not load the page again.
        self.browser.open("about:blank");
        self.browser.open(&format!("{}#{view}", self.served.url));
        self.browser.value_once_there(STILL);
    }

    /// Types into the search, presses Enter, and waits until the map stands still.
    fn search(&mut self, text: &str) {
        self.browser.value(&format!("document.getElementById('address').value = {}", json!(text)));
        self.browser.value("document.getElementById('address').focus()");
        self.browser.press("Enter");
    }

    fn message(&mut self) -> String {
        self.browser.value("document.getElementById('message').value").as_str().unwrap().to_owned()
    }

    /// Clicks on a position of the map.
    fn click(&mut self, longitude: f64, latitude: f64) {
        let point =
            format!("(() => {{ const p = shownMap.project([{longitude}, {latitude}]); return [p.x, p.y]; }})()");
        let point = self.browser.value(&point);
        self.browser.click(point[0].as_f64().unwrap(), point[1].as_f64().unwrap());
    }

    /// Clicks on an element.
    fn press(&mut self, selector: &str) {
        self.browser.value(&format!("document.querySelector({}).click()", json!(selector)));
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.browser.take_errors(), Vec::<String>::new());
            // The page would report the end of its server.
            self.browser.open("about:blank");
        }
    }
}

/// The names of layers of which something is drawn and can be pointed at.
const DRAWN: &str =
    "[...new Set(shownMap.queryRenderedFeatures().map((f) => f.layer.metadata?.layer).filter(Boolean))].sort().join()";

#[test]
fn polygons_lie_below_lines_and_lines_below_points_whatever_the_order_of_the_file() {
    let mut page = Page::new();
    page.open("7/50/10");
    let kinds = "shownMap.getStyle().layers.map(({ id }) => id).filter((id) => /^[abc]_/.test(id)).map((id) => id.split('/')[1]).filter((kind, at, all) => kind !== all[at - 1]).join()";
    assert_eq!(page.browser.value(kinds), "fill,outline,line,circle,cluster,count");
    // The base map is below all of them, its names below clusters.
    let order = "(() => { const ids = shownMap.getStyle().layers.map(({ id }) => id); return ['basemap/land', 'c_areas/fill', 'a_points/circle', 'basemap/countries', 'a_points/cluster'].map((id) => ids.indexOf(id)); })()";
    let order: Vec<i64> = page.browser.value(order).as_array().unwrap().iter().map(|at| at.as_i64().unwrap()).collect();
    assert!(order.is_sorted() && order[0] > 0, "{order:?}");
    assert_eq!(page.browser.value(DRAWN), "a_points,b_lines,c_areas");
    let land = "shownMap.queryRenderedFeatures().some((f) => f.layer.id === 'basemap/land') || null";
    page.browser.value_once_there(land);
    // Three layers have three colours.
    let colours = "new Set([...document.querySelectorAll('.layer .swatch')].map((one) => one.style.borderColor)).size";
    assert_eq!(page.browser.value(colours), 3);
}

#[test]
fn the_search_finds_tiles_positions_and_places_and_says_what_it_does_not_find() {
    let mut page = Page::new();
    page.open("2/0/0");
    let is_near = |longitude: f64, latitude: f64| {
        format!(
            "Math.abs(shownMap.getCenter().lng - {longitude}) < 3 && Math.abs(shownMap.getCenter().lat - {latitude}) < 3 || null"
        )
    };
    for (text, longitude, latitude) in [
        ("4/8/5", 11.25, 48.9),
        ("-70.5,-19.5", -70.5, -19.5),
        ("90.4 23.7", 90.4, 23.7),
        ("sao paulo", -46.6, -23.6),
        ("Portug", -8.0, 39.5),
        ("Dhaka", 90.4, 23.7),
    ] {
        page.search(text);
        page.browser.value_once_there(&is_near(longitude, latitude));
        assert_eq!(page.message(), "", "{text}");
    }
    let position = "document.getElementById('position').textContent.startsWith('zoom 10.0 ') || null";
    page.browser.value_once_there(position);
    for (text, part) in
        [("2/4/0", "columns and rows end at 3"), ("200,10", "no longitude and latitude"), ("Xyzzy", "no place “Xyzzy”")]
    {
        page.search(text);
        let said = format!("document.getElementById('message').value.includes({}) || null", json!(part));
        page.browser.value_once_there(&said);
    }
    page.search("0/0/0");
    page.browser.value_once_there("document.getElementById('message').value === '' || null");
}

#[test]
fn one_layer_is_shown_alone_zoomed_to_and_all_again() {
    let mut page = Page::new();
    page.open("7/50/10");
    let drawn = |names: &str| format!("{DRAWN} === '{names}' || null");
    page.press("button[aria-label='Show only this layer: b_lines']");
    page.browser.value_once_there(&drawn("b_lines"));
    page.press("#all");
    page.browser.value_once_there(&drawn("a_points,b_lines,c_areas"));
    assert_eq!(page.browser.value("document.getElementById('all').hidden"), true);
    page.press("#layers input");
    page.browser.value_once_there(&drawn("b_lines,c_areas"));
    // The whole line fits into the view, and not much more; the tileset spans half the world.
    page.press("button[aria-label='Zoom to this layer: b_lines']");
    let fits = "(() => { const b = shownMap.getBounds(); return !shownMap.isMoving() && shownMap.getZoom() > 5 && b.contains([9, 49]) && b.contains([11, 51]) || null; })()";
    page.browser.value_once_there(fits);
    assert_eq!(page.message(), "");
}

#[test]
fn a_layer_says_how_many_of_it_are_in_view_and_what_share_each_value_has() {
    let mut page = Page::new();
    page.open("9/50.1/10.1");
    page.browser.value_once_there("document.querySelector('.shown').textContent === '100' || null");
    page.press(".layer summary");
    let shares = page.browser.value_once_there("document.querySelector('.shares').innerText || null");
    let words = shares.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("kind farm 75 % mill 25 %") && words.contains("name 100 different values"), "{words}");
    // A cluster counts as many as it has.
    page.open("2/50/10");
    page.browser.value_once_there("document.querySelector('.shown').textContent === '100' || null");
}

#[test]
fn what_is_pointed_at_is_named_and_a_click_shows_its_properties() {
    let mut page = Page::new();
    page.open("9/50.1/10.1");
    let point = page.browser.value("(() => { const p = shownMap.project([10.02, 50.16]); return [p.x, p.y]; })()");
    page.browser.point(point[0].as_f64().unwrap(), point[1].as_f64().unwrap());
    page.browser.value_once_there("document.querySelector('.hover')?.innerText.startsWith('point 81') || null");
    page.click(10.02, 50.16);
    let table = "[...document.querySelectorAll('.found table')].at(0)?.innerText.replace(/\\s+/g, ' ').trim() || null";
    assert_eq!(page.browser.value_once_there(table), "id 81 name point 81 kind farm");
    let others = "[...document.querySelectorAll('.found h2')].map((one) => one.textContent).join()";
    assert_eq!(page.browser.value(others), "point 81 (a_points),district (c_areas)");
    assert_eq!(page.browser.value("document.querySelector('.found').lastChild.textContent"), "tile 8/135/86");
}

#[test]
fn a_click_on_a_cluster_zooms_to_where_it_parts() {
    let mut page = Page::new();
    // All hundred points are one cluster up to zoom 5.
    page.open("4/50/10");
    let largest = "Math.max(...shownMap.queryRenderedFeatures().map((f) => f.properties.point_count ?? 0))";
    assert_eq!(page.browser.value(largest), 100);
    let [longitude, latitude] = [0, 1].map(|at| {
        let of = format!(
            "shownMap.queryRenderedFeatures().find((f) => f.properties.point_count === 100).geometry.coordinates[{at}]"
        );
        page.browser.value(&of).as_f64().unwrap()
    });
    page.click(longitude, latitude);
    page.browser.value_once_there("shownMap.getZoom() === 6 || null");
    page.browser.value_once_there(&format!("{largest} === 0 || null"));
    assert_eq!(page.browser.value("shownMap.getZoom()"), 6);
}

#[test]
fn the_map_is_used_with_the_keyboard_alone() {
    let mut page = Page::new();
    page.open("9/50.02/10.02");
    page.browser.press("/");
    assert_eq!(page.browser.value("document.activeElement.id"), "address");
    page.browser.value("shownMap.getCanvas().focus()");
    page.browser.press("Enter");
    page.browser.value_once_there("document.querySelector('.found')?.innerText.includes('point 11') || null");
    page.browser.press("Escape");
    page.browser.value_once_there("!document.querySelector('.found') || null");
    assert_eq!(page.browser.value("document.activeElement === shownMap.getCanvas()"), true);
}

#[test]
fn the_page_follows_the_visitors_colours_and_a_choice_is_kept() {
    let mut page = Page::new();
    let sea = "shownMap.getPaintProperty('basemap/sea', 'background-color')";
    page.browser.screen(1000, 700, true);
    page.open("2/0/0");
    let dark = page.browser.value(sea);
    page.press("#theme");
    page.browser.value_once_there(&format!("{sea} !== {dark} || null"));
    page.open("2/0/0");
    assert_ne!(page.browser.value(sea), dark, "the choice is kept");
    assert_eq!(page.browser.value("document.documentElement.dataset.theme"), "light");
}

/// The rules that the page breaks, with the elements that break them (axe-core).
fn violations(page: &mut Page) -> Value {
    let axe = std::env::var("TEST_AXE").expect("scripts/test installs it");
    page.browser.value(&format!("{}; true", std::fs::read_to_string(axe).unwrap()));
    page.browser.value(
        "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, ...nodes.map((node) => `${node.target} ${node.failureSummary}`)]))",
    )
}

#[test]
fn a_check_of_accessibility_finds_nothing_wrong() {
    let mut page = Page::new();
    for (width, height, is_dark) in [(1000, 700, false), (1000, 700, true), (390, 780, false)] {
        page.browser.screen(width, height, is_dark);
        page.open("9/50.1/10.1");
        assert_eq!(violations(&mut page), json!([]), "{width} dark: {is_dark}");
        page.browser.value("document.getElementById('more').open = true");
        page.press(".layer summary");
        page.browser.value_once_there("document.querySelector('.shares h2') && true || null");
        page.click(10.02, 50.16);
        page.browser.value_once_there("document.querySelector('.found') && true || null");
        page.search("Xyzzy");
        page.browser.value_once_there("document.getElementById('message').value !== '' || null");
        assert_eq!(violations(&mut page), json!([]), "{width} dark: {is_dark}, with all that unfolds");
    }
}

#[test]
fn the_page_fits_a_phone() {
    let mut page = Page::new();
    page.browser.screen(360, 640, false);
    page.open("9/50.1/10.1");
    assert_eq!(page.browser.value("document.documentElement.scrollWidth <= innerWidth"), true);
    // The panel is folded up, and leaves most of the map free.
    let height =
        page.browser.value("document.getElementById('panel').getBoundingClientRect().height").as_f64().unwrap();
    assert!(height < 200.0, "{height}");
    page.browser.value("document.getElementById('more').open = true");
    let height =
        page.browser.value("document.getElementById('panel').getBoundingClientRect().height").as_f64().unwrap();
    assert!(height <= 0.56 * 640.0, "{height}");
}
