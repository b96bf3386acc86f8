//! The registry's map, exactly: every tile of `scripts/open-apparel-registry.toml` against queries written in another
//! way, in which facilities are joined with real hexagons, and one tile is asked for at a time.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::archive::{Address, unpacked};
use crate::support::features::{Feature, features};
use crate::support::{Archive, Db, Tree, places, repository, seed, shared_data};

type Tiles = BTreeMap<Address, Vec<Feature>>;

/// What the issue says of the grid. Points on the edge of two hexagons would be in both: there are none in this data.
const HEXAGONS: &str = include_str!("registry_map.sql");

/// One tile of the grid.
const GRID_TILE: &str = "
    SELECT ST_AsMVT(t, 'facilitygrid', 4096, 'geom') AS tile FROM (
        SELECT ST_AsMVTGeom(middle, box, 4096, 256, true) AS geom, count, west AS xmin, south AS ymin, east AS xmax, north AS ymax
        FROM cell WHERE cell.z = near.z AND NOT is_left_out AND middle && ST_Expand(box, ST_XMax(box) - ST_XMin(box))
    ) AS t WHERE geom IS NOT NULL";

/// One tile of the facilities: all in degrees.
const FACILITIES_TILE: &str = "
    SELECT ST_AsMVT(t, 'facilities', 4096, 'geom') AS tile FROM (
        SELECT ST_AsMVTGeom(location, degrees, 4096, 1024, true) AS geom, id, name, address, near.x, near.y, near.z, country_code
        FROM api_facility, LATERAL (SELECT ST_Transform(box, 4326) AS degrees) AS d
        WHERE ST_Within(location,
            ST_Expand(degrees, (ST_XMax(degrees) - ST_XMin(degrees)) * 0.2, (ST_YMax(degrees) - ST_YMin(degrees)) * 0.2))
    ) AS t WHERE geom IS NOT NULL";

/// What a query for one tile (`near`: z, x, y and the tile's box) gives for every tile beside a place.
fn slowly(db: &Db, layer: &str, zooms: &str, places: &str, tile: &str) -> Tiles {
    let rows = db.rows(&format!(
        "SELECT z, x, y, tile FROM (
            SELECT z, x, y, ST_TileEnvelope(z, x, y) AS box FROM (
                SELECT DISTINCT z, floor((ST_X(m) + 20037508.342789244) / side)::int + dx AS x, floor((20037508.342789244 - ST_Y(m)) / side)::int + dy AS y
                FROM {places}, LATERAL (SELECT 40075016.685578488 / (1 << z) AS side) AS s,
                    generate_series(-1, 1) AS dx, generate_series(-1, 1) AS dy
                WHERE z BETWEEN {zooms}
            ) AS beside WHERE x BETWEEN 0 AND (1 << z) - 1 AND y BETWEEN 0 AND (1 << z) - 1
        ) AS near CROSS JOIN LATERAL ({tile}) AS plain WHERE length(tile) > 0"
    ));
    let address = |row: &tokio_postgres::Row| {
        let (zoom, x, y): (i32, i32, i32) = (row.get(0), row.get(1), row.get(2));
        (zoom as u8, x as u32, y as u32)
    };
    rows.iter().map(|row| (address(row), features(row.get(3), layer))).collect()
}

/// The registry's configuration, seeded: a layer's tiles as the map finds them.
struct Map {
    tree: Tree,
}

impl Map {
    fn seeded(db: &Db, arguments: &[&str]) -> Map {
        Map::configured(db, &repository("scripts/open-apparel-registry.toml"), arguments)
    }

    fn configured(db: &Db, config: &Path, arguments: &[&str]) -> Map {
        let tree = Tree::new();
        tree.seed(&db.url, &[&["--config", config.to_str().unwrap()], arguments].concat());
        Map { tree }
    }

    /// Every tile of a layer as stored.
    fn stored(&self, layer: &str) -> BTreeMap<Address, Vec<u8>> {
        let tilejson = self.tree.json(&format!("{layer}.tiles.json"));
        let address = tilejson["tiles"][0].as_str().unwrap();
        places::files_below(&self.tree.path.join(address.strip_suffix("/{z}/{x}/{y}.pbf").unwrap()))
    }

    fn tiles(&self, layer: &str) -> Tiles {
        self.stored(layer).into_iter().map(|(tile, packed)| (tile, features(&unpacked(&packed), layer))).collect()
    }

    #[track_caller]
    fn stays_small(&self) {
        for layer in ["facilitygrid", "facilities"] {
            stay_small(&self.stored(layer));
        }
    }
}

#[track_caller]
fn stay_small(stored: &BTreeMap<Address, Vec<u8>>) {
    let (tile, heaviest) = stored.iter().max_by_key(|(_, packed)| packed.len()).unwrap();
    assert!(heaviest.len() < 500_000, "{tile:?}: {} bytes", heaviest.len());
}

#[track_caller]
fn compare(found: &Tiles, expected: &Tiles) {
    let missing: Vec<_> = expected.keys().filter(|tile| !found.contains_key(tile)).take(5).collect();
    let ghosts: Vec<_> = found.keys().filter(|tile| !expected.contains_key(tile)).take(5).collect();
    assert_eq!((missing, ghosts), (vec![], vec![]), "missing tiles and ghosts");
    for (tile, expected) in expected {
        let found = &found[tile];
        let alike = found.len() == expected.len() && found.iter().zip(expected).all(|(one, other)| one.is_like(other));
        assert!(alike, "tile {tile:?}\n{found:?}\n{expected:?}");
    }
}

/// The cells of each zoom, by their bounds: how many facilities are in them. A cell that is in several tiles has to be
/// the same in all.
#[track_caller]
fn counted(grid: &Tiles) -> BTreeMap<u8, i64> {
    let mut cells: BTreeMap<(u8, [u64; 4]), i64> = BTreeMap::new();
    for (tile, feature) in grid.iter().flat_map(|(tile, features)| features.iter().map(move |one| (tile, one))) {
        let bounds = ["xmin", "ymin", "xmax", "ymax"].map(|side| feature.number(side).to_bits());
        let count = feature.whole("count");
        assert_eq!(*cells.entry((tile.0, bounds)).or_insert(count), count, "{tile:?}: another count in a neighbour");
    }
    let mut sums = BTreeMap::new();
    for ((zoom, _), count) in cells {
        *sums.entry(zoom).or_default() += count;
    }
    sums
}

/// Compares every tile, and gives how many there are, and how many facilities are left out of the grid at each zoom.
#[track_caller]
fn is_the_registrys_map(db: &Db) -> (usize, Vec<i64>) {
    let map = Map::seeded(db, &["--zoom", "1-14"]);
    let (grid, facilities) = (map.tiles("facilitygrid"), map.tiles("facilities"));
    db.run(HEXAGONS);
    compare(&grid, &slowly(db, "facilitygrid", "1 AND 11", "(SELECT z, middle AS m FROM cell) AS place", GRID_TILE));
    let everywhere = "facility, generate_series(12, 14) AS z";
    compare(&facilities, &slowly(db, "facilities", "12 AND 14", everywhere, FACILITIES_TILE));
    let left_out = db.rows(
        "SELECT COALESCE((SELECT sum(count) FROM cell WHERE cell.z = zoom AND is_left_out), 0)::int8
         FROM generate_series(1, 11) AS zoom ORDER BY zoom",
    );
    let left_out: Vec<i64> = left_out.iter().map(|row| row.get(0)).collect();
    let all: i64 = db.value("SELECT count(*) FROM api_facility");
    let expected: Vec<i64> = left_out.iter().map(|left_out| all - left_out).collect();
    assert_eq!(counted(&grid).into_values().collect::<Vec<_>>(), expected, "sums of zooms 1 to 11");
    map.stays_small();
    (grid.len() + facilities.len(), left_out)
}

#[test]
fn generated_facilities_are_the_registrys_map() {
    let db = Db::with_facilities(2_000);
    // Some are closed, some lie at the very same point, some at the antimeridian.
    let (closed, twins): (i64, i64) = (
        db.value("SELECT count(*) FROM api_facility WHERE is_closed"),
        db.value("SELECT count(*) - count(DISTINCT location) FROM api_facility"),
    );
    assert!(closed > 30 && twins > 30, "{closed} {twins}");
    let (tiles, left_out) = is_the_registrys_map(&db);
    assert!(tiles > 7_000, "{tiles}");
    assert!(left_out[0] > 3 && left_out[10] == 0, "{left_out:?}");
}

#[test]
fn real_facilities_are_the_registrys_map() {
    for file in ["facilities.csv", "facilities-later.csv"] {
        let Some(csv) = shared_data(file) else { return };
        let (tiles, left_out) = is_the_registrys_map(&Db::with_csv(&csv));
        assert!(tiles > 3_000, "{tiles}");
        assert_eq!(left_out, [0; 11]);
    }
}

#[test]
fn facilities_at_the_very_same_point_stay_separate_features() {
    let db = Db::with_facilities(10);
    db.run(
        "UPDATE api_facility SET location = ST_SetSRID(ST_MakePoint(90.4, 23.8), 4326), name = 'Mill', is_closed = length(id) % 2 = 0",
    );
    let facilities = Map::seeded(&db, &["--zoom", "12-14"]).tiles("facilities");
    for (tile, features) in &facilities {
        assert_eq!(features.len(), 10, "{tile:?}");
        assert!(features.iter().all(|feature| feature.at == features[0].at), "{tile:?}");
    }
    assert!((3..=12).contains(&facilities.len()), "{}", facilities.len());
}

/// Facilities on corners and edges of hexagons, at tile borders and at the edges of the world.
const TIES: &str = "
    CREATE TABLE at AS
    SELECT lon, lat FROM (SELECT DISTINCT i * 45.0 / (1 << z) / 2 AS lon FROM generate_series(-16, 16) AS i, generate_series(1, 11) AS z) AS lons,
        (VALUES (0.0), (0.001), (10), (-21.94304553343818)) AS lats (lat)
    UNION ALL VALUES (180, 0), (-180, 0), (180, 70), (-180, -70), (0, 85.05112877), (0, -85.05112877), (180, 85.05112877);
    INSERT INTO api_facility SELECT 'tie ' || row_number() OVER (), 'T', 'A', 'XX', ST_SetSRID(ST_MakePoint(lon, lat), 4326), false, now(), now() FROM at";

#[test]
fn a_facility_on_the_edge_of_hexagons_is_in_one_of_them() {
    let db = Db::with_facilities(1);
    db.run(TIES);
    let all: i64 = db.value("SELECT count(*) FROM api_facility");
    assert!(all > 500, "{all}");
    // With the line that leaves out what crosses the antimeridian, and without: then nothing is lost.
    let text = std::fs::read_to_string(repository("scripts/open-apparel-registry.toml")).unwrap();
    let whole: String = text.lines().filter(|line| !line.starts_with("having")).flat_map(|line| [line, "\n"]).collect();
    assert_ne!(text, whole);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, whole).unwrap();
    let map = Map::configured(&db, &config, &["--zoom", "1-11"]);
    let kept = counted(&map.tiles("facilitygrid"));
    assert_eq!(kept, (1..=11).map(|zoom| (zoom, all)).collect());
}

#[test]
fn the_map_goes_to_zoom_22_and_has_no_tile_above_zoom_1() {
    let db = Db::with_facilities(40);
    let map = Map::seeded(&db, &["--zoom", "0-22"]);
    for (layer, from, to) in [("facilitygrid", 1, 11), ("facilities", 12, 22)] {
        let zooms: std::collections::BTreeSet<u8> = map.stored(layer).into_keys().map(|(zoom, ..)| zoom).collect();
        assert_eq!(zooms, (from..=to).collect());
        let tilejson = map.tree.json(&format!("{layer}.tiles.json"));
        assert_eq!((&tilejson["minzoom"], &tilejson["maxzoom"]), (&from.into(), &to.into()));
        let version = map.tree.json("latest.json")["version"].as_str().unwrap().to_owned();
        assert_eq!(tilejson["tiles"][0], format!("tile/{layer}/{version}/{{z}}/{{x}}/{{y}}.pbf"));
    }
    // The tile's address is that of the tile that a feature is drawn in, not of the one it lies in.
    for ((z, x, y), features) in map.tiles("facilities") {
        for feature in features {
            let address = ["z", "x", "y"].map(|name| feature.whole(name));
            assert_eq!(address, [i64::from(z), i64::from(x), i64::from(y)]);
        }
    }
}

#[test]
fn tiles_of_the_sample_configuration_stay_small() {
    // Each facility in tile 0/0/0 would take 1.3 MB.
    let db = Db::with_facilities(60_000);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    let sample = repository("sample-config.toml");
    seed(&db.url, &output, &["--config", sample.to_str().unwrap(), "--zoom", "0-11"]).ok();
    stay_small(&Archive::open(Path::new(&output)).stored());
}
