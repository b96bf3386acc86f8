//! Rectangles find their points in a sorted scratch file.

use super::*;

/// Points in a town and all over the world, and the corners of the world.
fn points(count: u64) -> Vec<u64> {
    let mut chance = fastrand::Rng::with_seed(1);
    let mut any = |number: u64| match number % 2 {
        0 => chance.u32(..).into(),
        _ => 3_000_000_000 + u64::from(chance.u32(..1 << 23)),
    };
    let mut points: Vec<u64> = (0..count).map(|number| any(number) << 32 | any(number)).collect();
    points.extend([0, u64::MAX, u64::from(u32::MAX), u64::from(u32::MAX) << 32]);
    points
}

fn sorted(points: &[u64], most: usize) -> SortedPlaces {
    let mut sorter = PointSorter::new(most);
    for point in points {
        sorter.add(*point).unwrap();
    }
    sorter.finish().unwrap()
}

#[test]
fn a_rectangle_finds_its_points_in_the_file() {
    let points = points(30_000);
    let SortedPlaces::File(file) = sorted(&points, 7_000) else { panic!("in memory") };
    assert_eq!(file.len(), points.len() as u64);
    let whole = WorldRect { west: 0, north: 0, east: u32::MAX.into(), south: u32::MAX.into() };
    assert_eq!(file.bounds(), whole);
    let mut chance = fastrand::Rng::with_seed(3);
    let mut rects = vec![whole, whole.grown(1 << 33), WorldRect { west: -9, north: -9, east: -1, south: -1 }];
    for bits in 0..33 {
        let (west, north) = (i64::from(chance.u32(..)), i64::from(chance.u32(..)));
        let square = WorldRect { west, north, east: west + (1 << bits), south: north + (1 << bits) };
        rects.extend([square, WorldRect { north: 0, south: u32::MAX.into(), ..square }]);
        let town = WorldRect { west: 3_000_000_000, north: 3_000_000_000 + (1 << 22), ..square };
        rects.push(WorldRect { east: town.west + (1 << bits), south: town.north + (1 << bits), ..town });
    }
    for rect in rects {
        let is_in = |point: &&u64| {
            let (x, y) = ((**point >> 32).cast_signed(), (**point & u64::from(u32::MAX)).cast_signed());
            (rect.west..=rect.east).contains(&x) && (rect.north..=rect.south).contains(&y)
        };
        let mut expected: Vec<u64> = points.iter().filter(is_in).copied().collect();
        expected.sort_unstable();
        let mut found = Vec::new();
        file.within(&rect, |[x, y]| {
            found.push(u64::from(x) << 32 | u64::from(y));
            ControlFlow::Continue(())
        })
        .unwrap();
        found.sort_unstable();
        assert_eq!(found, expected, "{rect:?}");
    }
    let about = |rect: &WorldRect| file.about_within(rect) * 100 / file.len();
    assert!((90..=100).contains(&about(&whole)), "{} %", about(&whole));
    let quarter = WorldRect { east: 1 << 31, south: 1 << 31, ..whole };
    assert!((8..=20).contains(&about(&quarter)), "{} %", about(&quarter));
    let mut first = 0;
    file.within(&whole, |_| {
        first += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(first, 1);
}

#[test]
fn few_points_stay_in_memory() {
    assert!(matches!(sorted(&points(10), 14), SortedPlaces::Memory(_)));
    assert!(matches!(sorted(&[], 14), SortedPlaces::Memory(_)));
    assert!(matches!(sorted(&points(11), 14), SortedPlaces::File(_)));
}

#[test]
fn a_file_that_was_cut_off_is_an_error() {
    let SortedPlaces::File(file) = sorted(&points(3_000), 1_000) else { panic!("in memory") };
    file.file.set_len(50).unwrap();
    assert!(file.within(&file.bounds(), |_| ControlFlow::Continue(())).is_err());
}
