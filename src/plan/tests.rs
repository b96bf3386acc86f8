//! Compares the plan with a slow count of every feature in every tile.

use std::collections::BTreeMap;

use super::*;
use crate::scratch::{PointSorter, SortedPlaces};
use crate::tile::{
    Area, AreaPart, BoxFootprint, Footprints, LayerIndex, Outline, OutlinedBoxes, SearchBox, SortedPoints, SourceBox,
    TileRect, WorldBox, WorldRect,
};

fn position(chance: &mut fastrand::Rng) -> u32 {
    // Half of the positions crowd around one spot, the rest lie anywhere.
    if chance.bool() { 3_000_000_000 + chance.u32(..1 << 24) } else { chance.u32(..) }
}

fn points(chance: &mut fastrand::Rng, count: u64) -> Footprints {
    let points = (0..count).map(|_| u64::from(position(chance)) << 32 | u64::from(position(chance)));
    Footprints::Points(SortedPoints::new(points.collect()))
}

fn boxes(chance: &mut fastrand::Rng, count: u64) -> Footprints {
    let footprint = |chance: &mut fastrand::Rng| {
        let (x, y) = (position(chance), position(chance));
        let size = 1_u32 << chance.u64(..31);
        let (x1, y1) = (x.saturating_add(size), y.saturating_add(size / 3));
        // Some cross the antimeridian: their western and eastern sides are swapped.
        let (x, x1) = if chance.u64(..4) == 0 { (x1, x) } else { (x, x1) };
        let source = SourceBox { min_x: x as f32, min_y: -(y1 as f32), max_x: x1 as f32, max_y: -(y as f32) };
        BoxFootprint { world: WorldBox::new(x, y, x1, y1), source }
    };
    Footprints::Boxes((0..count).map(|_| footprint(chance)).collect())
}

fn layer(zooms: &str, buffer: u32, footprints: Footprints) -> PlanLayer {
    PlanLayer {
        zooms: zooms.parse().unwrap(),
        margin: Margin::plain(4096, buffer),
        max_tile_features: ZoomLimits::everywhere(NonZeroU64::new(20)),
        feature_cost: 1,
        footprints: LayerFootprints::Same(footprints),
        point_file: None,
        rows: BTreeMap::new(),
        asks_each_tile: false,
        lists_tiles: false,
    }
}

/// The number of features of each layer that touch a tile, for every tile that has any.
fn slowly(zoom: Zoom, layers: &[PlanLayer], rects: &[TileRect]) -> BTreeMap<(u32, u32), Vec<u64>> {
    let mut tiles = BTreeMap::new();
    let all = (0..=zoom.last()).flat_map(|x| (0..=zoom.last()).map(move |y| (x, y)));
    let inside = |(x, y): &(u32, u32)| rects.iter().any(|r| (r.x0..=r.x1).contains(x) && (r.y0..=r.y1).contains(y));
    let wanted: Vec<(u32, u32)> = all.filter(inside).collect();
    for (number, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.zooms.contains(zoom)) {
        let grown = |&(x, y): &(u32, u32)| {
            ((x, y), TileRect { zoom, x0: x, y0: y, x1: x, y1: y }.world(layer.margin.units(zoom)))
        };
        let grown: Vec<((u32, u32), WorldRect)> = wanted.iter().map(grown).collect();
        for feature in 0..layer.footprints.at(zoom).len() {
            let WorldRect { west, north, east, south } = layer.footprints.at(zoom).world(feature).into();
            for (tile, sides) in &grown {
                let (starts, ends) = (west < sides.east, east >= sides.west);
                let across = if west > east { starts || ends } else { starts && ends };
                if across && north < sides.south && south >= sides.north {
                    tiles.entry(*tile).or_insert_with(|| vec![0; layers.len()])[number] += 1;
                }
            }
        }
    }
    tiles
}

#[test]
fn every_occupied_tile_is_planned_once_with_its_exact_count() {
    for seed in 0..60 {
        let chance = &mut fastrand::Rng::with_seed(seed);
        let count = chance.u64(..40);
        let layers = [
            layer("0-6", 64, points(chance, count)),
            layer("2-5", 4096 * 2, boxes(chance, count / 4)),
            layer("3-4", 0, points(chance, 3)),
        ];
        let wanted: &[AreaPart] =
            &["170,-50,-170,50".parse().unwrap(), "-20,-60,160,70".parse().unwrap(), "-20,75,160,80".parse().unwrap()];
        let coverage = Coverage::new(match seed % 3 {
            0 => &[],
            1 => &wanted[..1],
            _ => wanted,
        });
        let target = NonZeroU64::new(1 + chance.u64(..30)).unwrap();
        let order = if seed % 2 == 0 { Order::ZoomColumnTmsRow } else { Order::Hilbert };
        for zoom in plan(&"0-6".parse().unwrap(), &layers, &coverage, target, order).unwrap() {
            let slow = slowly(zoom.zoom, &layers, &coverage.rects(zoom.zoom));
            let total = |layer: usize| slow.values().map(|counts| counts[layer]).sum::<u64>();
            assert_eq!(zoom.tiles, slow.len() as u64, "seed {seed} zoom {}", zoom.zoom);
            assert_eq!(zoom.features, (0..3).map(total).sum::<u64>());
            assert_eq!(
                zoom.heaviest.first().map(|heavy| heavy.features),
                slow.values().map(|counts| counts.iter().sum()).max()
            );
            for number in 0..3 {
                let over = slow.values().filter(|counts| counts[number] > 20).count() as u64;
                let found =
                    zoom.over_limit.iter().find(|over| over.layer == LayerIndex(number)).map_or(0, |over| over.tiles);
                assert_eq!(found, over, "tiles over the limit");
            }
            check_batches(&zoom, &slow, &layers, order);
        }
    }
}

/// The same layers, with their points in scratch files.
fn filed(layers: &[PlanLayer]) -> Vec<PlanLayer> {
    let with_file = |layer: &PlanLayer| {
        let LayerFootprints::Same(footprints) = &layer.footprints else { panic!("by zoom") };
        let point_file = match footprints {
            Footprints::Points(points) => {
                let mut sorter = PointSorter::new(7);
                points.units(0..footprints.len()).for_each(|[x, y]| {
                    sorter.add(u64::from(x) << 32 | u64::from(y)).unwrap();
                });
                match sorter.finish().unwrap() {
                    SortedPlaces::File(file) => Some(file),
                    SortedPlaces::Memory(_few) => None,
                }
            }
            _ => None,
        };
        // The plan must not search here for points.
        let footprints =
            if point_file.is_some() { Footprints::Points(SortedPoints::default()) } else { footprints.clone() };
        PlanLayer {
            footprints: LayerFootprints::Same(footprints),
            point_file,
            zooms: layer.zooms.clone(),
            rows: BTreeMap::new(),
            max_tile_features: layer.max_tile_features.clone(),
            ..*layer
        }
    };
    layers.iter().map(with_file).collect()
}

#[test]
fn points_in_a_file_are_planned_as_points_in_memory() {
    for seed in 0..12 {
        let chance = &mut fastrand::Rng::with_seed(seed);
        let layers = [
            layer("0-8", 64, points(chance, 200)),
            layer("2-5", 64, boxes(chance, 20)),
            layer("3-4", 4096, points(chance, 30)),
        ];
        let coverage = match seed % 3 {
            0 => Coverage::new(&["-20,-60,160,70".parse().unwrap(), "150,-70,-170,75".parse().unwrap()]),
            _ => Coverage::new(&[]),
        };
        let target = NonZeroU64::new(1 + chance.u64(..90)).unwrap();
        for order in [Order::ZoomColumnTmsRow, Order::Hilbert] {
            let of = |layers: &[PlanLayer]| plan(&"0-8".parse().unwrap(), layers, &coverage, target, order).unwrap();
            assert_eq!(of(&filed(&layers)), of(&layers), "seed {seed}");
        }
    }
}

/// Checks that each batch has what was planned, that the search box finds each of its features, and that batches follow
/// each other in order.
fn check_batches(zoom: &ZoomPlan, slow: &BTreeMap<(u32, u32), Vec<u64>>, layers: &[PlanLayer], order: Order) {
    let mut left = slow.clone();
    let mut last = None;
    for batch in &zoom.batches {
        let (mut inside, mut places) = (Vec::new(), Vec::new());
        for area in &batch.areas {
            let r = area.rect;
            let within = left.extract_if(.., |(x, y), _| (r.x0..=r.x1).contains(x) && (r.y0..=r.y1).contains(y));
            let here: Vec<((u32, u32), Vec<u64>)> = within.collect();
            // Every tile of the rectangle with a feature is planned, because rendering returns all of them.
            let every = slowly(zoom.zoom, layers, &[r]);
            assert_eq!(every.len(), here.len(), "a rectangle takes in tiles that are not wanted");
            places.extend(here.iter().map(|((x, y), _)| order.sort_key(TileCoord::new(zoom.zoom, *x, *y).unwrap())));
            inside.extend(here.into_iter().map(|(_, counts)| counts));
        }
        assert_eq!(batch.tiles, inside.len() as u64);
        assert!(last < places.iter().min().copied(), "a batch lies before the one before it");
        last = places.into_iter().max();
        for (number, count) in batch.layers.iter().enumerate() {
            assert_eq!(count.tiles, inside.iter().filter(|counts| counts[number] > 0).count() as u64);
            assert_eq!(count.features, inside.iter().map(|counts| counts[number]).sum::<u64>());
            for area in &batch.areas {
                finds_every_feature(zoom.zoom, area, number, &layers[number]);
            }
        }
    }
    assert!(left.is_empty(), "tiles in no batch");
}

/// Checks that the search box touches the box of every feature that touches the area.
fn finds_every_feature(zoom: Zoom, area: &Area, number: usize, layer: &PlanLayer) {
    let Footprints::Boxes(boxes) = layer.footprints.at(area.rect.zoom) else { return };
    let WorldRect { west: w, north: n, east: e, south: s } = area.rect.world(layer.margin.units(zoom));
    for b in boxes.iter().filter(|_| layer.zooms.contains(zoom)) {
        let WorldRect { west, north, east, south } = b.world.into();
        let (starts, ends) = (west < e, east >= w);
        let across = if west > east { starts || ends } else { starts && ends };
        if across && north < s && south >= n {
            let SearchBox::Source(search) = area.search[number] else { panic!("no search box") };
            let SourceBox { min_x, min_y, max_x, max_y } = b.source;
            let [min_x, min_y, max_x, max_y] = [min_x, min_y, max_x, max_y].map(f64::from);
            // For a feature that crosses the antimeridian, finding one end is enough.
            let ends = if min_x <= max_x { vec![[min_x, max_x]] } else { vec![[min_x; 2], [max_x; 2]] };
            let is_found = ends.iter().any(|[from, to]| *from <= search.max_x && *to >= search.min_x);
            assert!(is_found && min_y <= search.max_y && max_y >= search.min_y, "the index would miss a feature");
        }
    }
}

/// Two squares of one feature, the western one clockwise, the eastern one counterclockwise.
fn squares_in_both_directions() -> Footprints {
    let mut outline = Outline::default();
    outline.has_interior = true;
    let (north, south) = (0.2, 0.8);
    for (polygon, west, east) in [(0, 0.1, 0.4), (1, 0.9, 0.6)] {
        outline.begin(Some(polygon));
        for at in [[west, north], [east, north], [east, south], [west, south], [west, north]] {
            assert!(outline.add(at));
        }
        outline.end();
    }
    let boxes = vec![BoxFootprint {
        world: WorldBox::new(430_000_000, 859_000_000, 3_865_000_000, 3_435_000_000),
        source: SourceBox { min_x: 0.1, min_y: -0.8, max_x: 0.9, max_y: -0.2 },
    }];
    Footprints::Outlined(OutlinedBoxes { boxes, outlines: BTreeMap::from([(0, outline)]) })
}

#[test]
fn tiles_inside_of_rings_of_different_directions_are_not_taken_for_the_same() {
    let layers = [layer("6", 64, squares_in_both_directions())];
    for order in [Order::Hilbert, Order::ZoomColumnTmsRow] {
        let plans =
            plan(&"6".parse().unwrap(), &layers, &Coverage::new(&[]), NonZeroU64::new(300).unwrap(), order).unwrap();
        let mut inside: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for repeat in plans.iter().flat_map(|plan| &plan.batches).flat_map(|batch| &batch.repeats) {
            let rendered = repeat.rendered.rect.first().unwrap();
            inside.entry(rendered.x()).or_default().extend(repeat.tiles.iter().flat_map(|rect| [rect.x0, rect.x1]));
        }
        let sides: Vec<bool> = inside.values().map(|columns| columns[0] < 32).collect();
        assert_eq!(sides, [true, false], "{order:?}");
        for columns in inside.values() {
            assert!(columns.iter().all(|column| (*column < 32) == (columns[0] < 32)), "{order:?}: {inside:?}");
        }
    }
}

#[test]
fn a_dense_city_is_cut_into_batches_of_the_target_size() {
    let mut chance = fastrand::Rng::with_seed(7);
    let city = (0..50_000)
        .map(|_| {
            u64::from(3_000_000_000 + chance.u32(..1 << 27)) << 32 | u64::from(1_900_000_000 + chance.u32(..1 << 27))
        })
        .collect();
    let layers = [layer("0-14", 64, Footprints::Points(SortedPoints::new(city)))];
    let target = NonZeroU64::new(2_000).unwrap();
    let of_order = |order| plan(&"0-14".parse().unwrap(), &layers, &Coverage::new(&[]), target, order).unwrap();
    for zoom in [Order::ZoomColumnTmsRow, Order::Hilbert].into_iter().flat_map(of_order) {
        let heaviest_tile = zoom.heaviest[0].features;
        for batch in &zoom.batches {
            assert!(batch.features() <= 2_500.max(heaviest_tile), "zoom {}: {}", zoom.zoom, batch.features());
        }
        let fewest = zoom.features / 2_500;
        assert!(zoom.batches.len() as u64 <= 3 * fewest + 2 + zoom.tiles.min(100), "zoom {}", zoom.zoom);
    }
}

#[test]
fn an_empty_world_is_planned_at_no_cost() {
    let layers = [layer("0-22", 64, Footprints::Points(SortedPoints::default()))];
    let plans = plan(&"0-22".parse().unwrap(), &layers, &Coverage::new(&[]), NonZeroU64::MIN, Order::Hilbert).unwrap();
    assert_eq!(plans.iter().map(|zoom| zoom.tiles).sum::<u64>(), 0);
    assert_eq!(plans.iter().map(|zoom| zoom.batches.len()).sum::<usize>(), 0);
}
