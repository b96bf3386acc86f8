use super::super::Feature;
use super::super::wire::put_bytes;
use super::*;
use crate::tile::Zoom;

fn coord(zoom: u8, x: u32, y: u32) -> TileCoord {
    TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
}

fn descent(zoom: u8, x: u32, y: u32) -> TileDescent {
    TileDescent::new(coord(0, 0, 0), coord(zoom, x, y)).unwrap()
}

/// A tile with one layer of extent 4096, whose features have ids from 10 and a name.
fn tile(geometries: &[MvtGeometry]) -> Vec<u8> {
    let mut layer = Vec::new();
    put_bytes(&mut layer, 1, b"things");
    for (number, geometry) in (0_u64..).zip(geometries) {
        let mut feature = Vec::new();
        put_number(&mut feature, 1, 10 + number);
        let mut tags = Vec::new();
        for tag in [0, number, 1, geometries.len() as u64] {
            put_packed(&mut tags, tag);
        }
        put_bytes(&mut feature, 2, &tags);
        put_geometry(&mut feature, geometry);
        put_bytes(&mut layer, 2, &feature);
    }
    for key in ["name", "is"] {
        put_bytes(&mut layer, 3, key.as_bytes());
    }
    for number in 0..geometries.len() {
        put_bytes(&mut layer, 4, &value_bytes(MvtValue::Text(&format!("number {number}"))));
    }
    put_bytes(&mut layer, 4, &value_bytes(MvtValue::Bool(true)));
    put_number(&mut layer, 5, 4096);
    put_number(&mut layer, 15, 2);
    let mut tile = Vec::new();
    put_bytes(&mut tile, 3, &layer);
    tile
}

/// The geometries of a deeper tile, with their features' ids.
fn drawn(tile: &[u8], descent: TileDescent) -> Vec<(u64, MvtGeometry)> {
    let raw = overzoomed(tile, descent).unwrap();
    let layers = decode(&raw).unwrap();
    let features = |layer: &MvtLayer<'_>| -> Vec<Feature> { layer.features.clone() };
    layers.iter().flat_map(features).map(|feature| (feature.id.unwrap(), feature.geometry)).collect()
}

fn square(x: i32, y: i32, side: i32) -> Vec<Position> {
    vec![[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
}

#[test]
fn points_go_to_the_child_that_they_lie_in_with_their_ids_and_properties() {
    let tile = tile(&[
        MvtGeometry::Points(vec![[1024, 1024]]),
        MvtGeometry::Points(vec![[3072, 1024], [1, 2], [4000, 100]]),
        MvtGeometry::Points(vec![[2048, 2048]]),
    ]);
    let points = |points: &[Position]| MvtGeometry::Points(points.to_vec());
    assert_eq!(
        drawn(&tile, descent(1, 0, 0)),
        [(10, points(&[[2048, 2048]])), (11, points(&[[2, 4]])), (12, points(&[[4096, 4096]]))]
    );
    assert_eq!(
        drawn(&tile, descent(1, 1, 0)),
        [(11, points(&[[2048, 2048], [3904, 200]])), (12, points(&[[0, 4096]]))]
    );
    let raw = overzoomed(&tile, descent(1, 1, 0)).unwrap();
    let layers = decode(&raw).unwrap();
    let properties: Vec<_> = layers[0].properties(&layers[0].features[0]).collect();
    assert_eq!(properties, [("name", MvtValue::Text("number 1")), ("is", MvtValue::Bool(true))]);
    assert_eq!((layers[0].name, layers[0].extent), ("things", 4096));
    // Values that no feature has any more are left out.
    assert!(!String::from_utf8_lossy(&raw).contains("number 0"));
    // Nothing is left: no layer, no bytes.
    assert!(overzoomed(&tile, descent(5, 0, 31)).unwrap().is_empty());
    assert!(overzoomed(&[], descent(1, 0, 0)).unwrap().is_empty());
    assert!(overzoomed(&tile[..20], descent(1, 0, 0)).is_err());
}

#[test]
fn a_tile_of_the_same_zoom_stays_as_it_is() {
    let geometries = [
        MvtGeometry::Points(vec![[-64, 4160], [4096, 0]]),
        MvtGeometry::Lines(vec![vec![[0, 0], [4096, 4096], [0, 4096]]]),
        MvtGeometry::Polygons(vec![vec![square(0, 0, 100), square(10, 10, 5).into_iter().rev().collect()]]),
    ];
    let same: Vec<_> = (10..).zip(geometries.iter().cloned()).collect();
    assert_eq!(drawn(&tile(&geometries), descent(0, 0, 0)), same);
}

#[test]
fn lines_are_cut_at_the_buffer_and_may_fall_into_pieces() {
    // The line runs across the whole tile, leaves it and returns.
    let line = MvtGeometry::Lines(vec![vec![[0, 512], [4096, 512], [4096, 1536], [0, 1536]]]);
    let tile = tile(&[line, MvtGeometry::Lines(vec![vec![[3000, 3000], [3100, 3100]]])]);
    let pieces = MvtGeometry::Lines(vec![vec![[0, 1024], [4160, 1024]], vec![[4160, 3072], [0, 3072]]]);
    assert_eq!(drawn(&tile, descent(1, 0, 0)), [(10, pieces)]);
    let corner = MvtGeometry::Lines(vec![vec![[-64, 1024], [4096, 1024], [4096, 3072], [-64, 3072]]]);
    assert_eq!(drawn(&tile, descent(1, 1, 0)), [(10, corner)]);
}

#[test]
fn polygons_keep_their_holes_and_their_direction_and_lose_what_lies_outside() {
    let hole: Vec<Position> = square(1000, 1000, 100).into_iter().rev().collect();
    let far_hole: Vec<Position> = square(3000, 3000, 100).into_iter().rev().collect();
    let tile = tile(&[
        MvtGeometry::Polygons(vec![vec![square(0, 0, 4096), hole, far_hole], vec![square(3900, 3900, 10)]]),
        // It touches the other child only in its border.
        MvtGeometry::Polygons(vec![vec![square(2080, 0, 10)]]),
    ]);
    let [(10, MvtGeometry::Polygons(polygons))] = &drawn(&tile, descent(1, 0, 0))[..] else { panic!() };
    let [rings] = &polygons[..] else { panic!("{polygons:?}") };
    assert_eq!(rings.len(), 2);
    let areas: Vec<i128> = rings.iter().map(|ring| super::super::geometry::twice_the_area(ring)).collect();
    assert_eq!(areas, [2 * 4160 * 4160, -2 * 200 * 200]);
    let mut corners = rings[0].clone();
    corners.sort_unstable();
    assert_eq!(corners, [[0, 0], [0, 4160], [4160, 0], [4160, 4160]]);
}

#[test]
fn the_deepest_tile_of_the_world_shows_what_lies_around_it() {
    let around = MvtGeometry::Polygons(vec![vec![square(-64, -64, 4224)]]);
    let tile = tile(&[around, MvtGeometry::Lines(vec![vec![[0, 0], [4096, 4096]]])]);
    let last = Zoom::MAX.last();
    let found = drawn(&tile, descent(Zoom::MAX.get(), last, last));
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].1, MvtGeometry::Lines(vec![vec![[-64, -64], [4096, 4096]]]));
    assert_eq!(TileDescent::new(coord(3, 4, 4), coord(4, 7, 8)), None);
    assert_eq!(TileDescent::new(coord(3, 4, 4), coord(2, 2, 2)), None);
}

/// Twice the areas of all rings, those of holes negative.
fn area(geometry: &MvtGeometry) -> i128 {
    let MvtGeometry::Polygons(polygons) = geometry else { return 0 };
    polygons.iter().flatten().map(|ring| super::super::geometry::twice_the_area(ring)).sum()
}

#[test]
fn the_parts_of_a_ring_have_the_area_of_the_whole() {
    // Without the buffer the four quarters would share no area; with it they overlap in strips of a known width, so the squares are clipped
    // to exact quarters here.
    let ring: Vec<[i64; 2]> = vec![[10, 20], [900, 35], [1020, 700], [400, 1000], [500, 500], [40, 800]];
    let whole = twice(&ring);
    let parts: i128 = [(0, 0), (512, 0), (0, 512), (512, 512)]
        .into_iter()
        .map(|(x, y)| {
            let moved: Vec<[i64; 2]> = ring.iter().map(|[a, b]| [a - x, b - y]).collect();
            let clip = ClipBox { min: 0, max: 512 };
            clip.ring(moved).map_or(0, |ring| area(&MvtGeometry::Polygons(vec![vec![ring]])))
        })
        .sum();
    // Each crossing is rounded by up to half a unit.
    assert!((whole - parts).abs() < 4 * 2 * 1024, "{whole} {parts}");
}

fn twice(ring: &[[i64; 2]]) -> i128 {
    let next = ring.iter().cycle().skip(1);
    ring.iter().zip(next).map(|(a, b)| i128::from(a[0] * b[1] - b[0] * a[1])).sum()
}
